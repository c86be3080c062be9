/**
 * Bytes that nobody should send: fuzzed packets on the Canal port, and a dump stream that is damaged on its way. The
 * process lives, other clients and instances go on, each connection ends with an error or closed, and is logged once.
 */
import { randomBytes } from 'node:crypto'
import { connect as connectTcp, type AddressInfo, type Socket } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import * as wire from '../../src/server/wire.ts'
import { privateMysql, versions, type MysqlServer } from '../support/mysql.ts'
import { Proxy, type Rule } from '../support/proxy.ts'
import { Scenario } from './follow.ts'
import { fact, MIB, Random, scaled, seed, TEST_MS, until } from './load.ts'

const { packetTypes } = wire
const pace = { pauseMs: 40 }

let mysql: MysqlServer
beforeAll(async () => {
  mysql = await privateMysql(versions[0]!)
})
afterAll(() => mysql[Symbol.asyncDispose]())

// ── the Canal port ───────────────────────────────────────────────────────────

/** How a connection of the fuzzer must end. */
type End = 'refused' | 'any' | 'silent'
interface Attack {
  readonly bytes: Buffer
  readonly end: End
}

const names = { destination: 'load', clientId: '42' }
const get = { ...names, fetchSize: 1, timeout: 1, unit: 2, autoAck: false }
const AUTH = wire.framePacket(
  packetTypes.CLIENTAUTHENTICATION,
  wire.writeClientAuth({
    username: '',
    password: Buffer.alloc(0),
    readTimeoutMs: 0,
    writeTimeoutMs: 0,
    destination: '',
    clientId: '',
    filter: '',
    startTimestamp: 0n,
  }),
)
const requests = [
  wire.framePacket(packetTypes.SUBSCRIPTION, wire.writeSub({ ...names, filter: '.*\\..*' })),
  wire.framePacket(packetTypes.GET, wire.writeGet(get)),
  wire.framePacket(packetTypes.CLIENTACK, wire.writeClientAck({ ...names, batchId: 3n })),
  wire.framePacket(packetTypes.CLIENTROLLBACK, wire.writeClientRollback({ ...names, batchId: 0n })),
  wire.framePacket(packetTypes.UNSUBSCRIPTION, wire.writeSub({ ...names, filter: '' })),
]

/** Some are sent instead of the authentication, most after it. */
function attack(random: Random): Attack {
  const before = random.chance(25) ? Buffer.alloc(0) : AUTH
  const some = (): Buffer => {
    const list = Array.from({ length: random.int(1, 4) }, () => random.pick(requests))
    return Buffer.concat(list)
  }
  const with_ = (bytes: Buffer, end: End): Attack => ({
    bytes: Buffer.concat([before, bytes]),
    end,
  })
  const length = (n: number): Buffer => {
    const head = Buffer.alloc(4)
    head.writeInt32BE(n)
    return head
  }
  switch (random.int(0, 6)) {
    case 0:
      return with_(randomBytes(random.int(1, 2000)), 'any')
    case 1:
      return with_(length(random.pick([0x7fffffff, -1, -0x80000000, 9 * MIB])), 'refused')
    case 2: {
      const bytes = some()
      return with_(bytes.subarray(0, random.int(1, bytes.length - 1)), 'silent')
    }
    case 3: {
      const bytes = Buffer.from(some())
      for (let n = random.int(1, 8); n > 0; n--)
        bytes[random.int(0, bytes.length - 1)]! ^= 1 << random.int(0, 7)
      return with_(bytes, 'any')
    }
    case 4: {
      const body = randomBytes(random.int(1, 300))
      return with_(Buffer.concat([length(body.length), body]), 'any')
    }
    case 5: {
      // a packet of a known type, its body garbage
      const frame = wire.framePacket(random.int(-1, 14), randomBytes(random.int(1, 100)))
      return with_(frame, 'any')
    }
    default:
      // a length that says more than comes
      return with_(Buffer.concat([length(random.int(100, MIB)), randomBytes(50)]), 'silent')
  }
}

class Fuzzer {
  readonly port: number // its own
  readonly end: End
  closed = false
  replies: wire.Packet[] = []
  readonly #socket: Socket
  readonly #framer = new wire.Framer(64 * MIB)
  private constructor(socket: Socket, { bytes, end }: Attack) {
    this.#socket = socket
    this.port = (socket.address() as AddressInfo).port
    this.end = end
    socket.on('data', (chunk) => {
      this.#framer.push(chunk)
      for (let b = this.#framer.next(); b; b = this.#framer.next())
        this.replies.push(wire.readPacket(Buffer.from(b)))
    })
    socket.on('error', () => undefined)
    socket.on('close', () => (this.closed = true))
    socket.write(bytes)
  }
  static open(port: number, what: Attack): Promise<Fuzzer> {
    return new Promise((resolve, reject) => {
      const socket = connectTcp(port, '127.0.0.1')
      socket.once('error', reject)
      socket.once('connect', () => {
        socket.off('error', reject)
        resolve(new Fuzzer(socket, what))
      })
    })
  }
  /** An error ACK has come. */
  get refused(): boolean {
    return this.replies.some(
      ({ type, body }) => type === packetTypes.ACK && (wire.readAck(body).errorCode ?? 0) > 0,
    )
  }
  /** Nothing more is owed to it. */
  get settled(): boolean {
    return this.closed || (this.end === 'refused' ? this.refused : this.replies.length > 0)
  }
  close(): void {
    this.#socket.destroy()
  }
}

test(
  'fuzzed packets on the Canal port reach nobody else',
  async () => {
    await using s = await Scenario.start({ mysql, seed, pace, other: true })
    const random = new Random(seed)
    const rounds = scaled(15, 400)
    const all: Fuzzer[] = []
    await s.run(async () => {
      await s.follow()
      await s.follow({ destination: 'other' })
      s.write()
      for (let round = 0; round < rounds; round++) {
        const some = Array.from({ length: 60 }, () => Fuzzer.open(s.port, attack(random)))
        const open = await Promise.all(some)
        await until(
          () => open.every((fuzzer) => fuzzer.settled),
          () => `for an answer to ${open.filter((f) => !f.settled).length} attacks`,
        )
        await s.pass(20, 50)
        all.push(...open)
        // the silent ones stay for a while
        for (const fuzzer of all.slice(0, -600)) fuzzer.close()
      }
    })
    for (const fuzzer of all) fuzzer.close()
    expect(s.followers.map(({ breaks }) => breaks)).toEqual([0, 0])
    for (const fuzzer of all) {
      const lines = s.sluice.log.filter((line) => line.includes(`"127.0.0.1:${fuzzer.port}"`))
      // a port may serve two connections in the long form
      const most = all.filter(({ port }) => port === fuzzer.port).length
      expect(lines.length, lines.join('\n')).toBeLessThanOrEqual(most)
      if (fuzzer.end !== 'refused') continue
      expect(fuzzer.refused || fuzzer.closed).toBe(true)
      expect(lines.length, `an attack from port ${fuzzer.port} was not logged`).toBeGreaterThan(0)
    }
    fact(`malformed, ${all.length} attacks on the Canal port: ${s.summary()}`)
  },
  TEST_MS,
)

// ── the dump ─────────────────────────────────────────────────────────────────

/** Where packets begin in what goes by, on each connection: 3 bytes length, 1 sequence id, payload. */
class Packets {
  readonly #streams = new Map<number, { next: number; head: number[] }>()
  /** Offsets in the chunk that comes `at` bytes after its connection's beginning. */
  starts(chunk: Buffer, at: number, id: number): number[] {
    let stream = this.#streams.get(id)
    if (!stream) this.#streams.set(id, (stream = { next: at, head: [] }))
    const starts: number[] = []
    while (stream.next < at + chunk.length) {
      if (stream.head.length === 0) starts.push(stream.next - at)
      stream.head.push(chunk[stream.next++ - at]!)
      if (stream.head.length < 4) continue
      const [a = 0, b = 0, c = 0] = stream.head
      stream.next += a | (b << 8) | (c << 16)
      stream.head = []
    }
    return starts
  }
}

/** A chunk with one thing wrong: in the headers of a packet and its event, or anywhere. */
function damaged(chunk: Buffer, starts: readonly number[], random: Random): Buffer {
  const start = starts.length > 0 && random.chance(70) ? random.pick(starts) : -1
  const at =
    start < 0
      ? random.int(0, chunk.length - 1)
      : Math.min(start + random.int(0, 23), chunk.length - 1)
  const some = random.int(1, 100)
  switch (random.int(0, 4)) {
    case 0:
    case 1: {
      const copy = Buffer.from(chunk)
      copy[at]! ^= 1 << random.int(0, 7)
      return copy
    }
    case 2:
      return Buffer.concat([chunk.subarray(0, at), chunk.subarray(at + some)])
    case 3:
      return Buffer.concat([chunk.subarray(0, at), randomBytes(some), chunk.subarray(at)])
    default:
      return Buffer.from(chunk).fill(random.pick([0, 0xff]), at, Math.min(at + some, chunk.length))
  }
}

/** What goes by on connections to MySQL: handshakes, answers to questions, dumps. As the commands of the client say. */
class Kinds {
  readonly #dumps = new Map<number, number>() // connection → bytes before its dump, -1: it begins with the next ones
  readonly #asked = new Set<number>()
  /** Of the client to the server. */
  request(chunk: Buffer, id: number): void {
    const [COM_QUERY, COM_BINLOG_DUMP, COM_BINLOG_DUMP_GTID] = [0x03, 0x12, 0x1e]
    if (chunk[3] !== 0) return
    if (chunk[4] === COM_QUERY) this.#asked.add(id)
    if (chunk[4] === COM_BINLOG_DUMP || chunk[4] === COM_BINLOG_DUMP_GTID) this.#dumps.set(id, -1)
  }
  /** Of the bytes that come `at` bytes after their connection's beginning; a dump's first ones are neither. */
  of(at: number, id: number): 'dump' | 'answer' | undefined {
    const begin = this.#dumps.get(id)
    if (begin === undefined) return this.#asked.has(id) ? 'answer' : undefined
    if (begin < 0) this.#dumps.set(id, at)
    return begin >= 0 && at - begin >= 64 * 1024 ? 'dump' : undefined
  }
}

interface VandalOptions {
  readonly random: Random
  readonly damages: number
  /** How often damage was noticed. */
  readonly retries: () => number
}
/** Damages one thing after the other: mostly dumps anywhere, sometimes answers where it can be noticed, in a packet's header. */
class Vandal {
  /** It only looks on until then. */
  active = false
  done = 0
  answers = 0
  readonly #options: VandalOptions
  readonly #packets = new Packets()
  readonly #kinds = new Kinds()
  #answer = false // an answer is next
  #known = -1 // retries when the last damage was done
  #skip = 0
  #since = 0
  constructor(options: VandalOptions) {
    this.#options = options
  }
  /** For the proxy, from the beginning. */
  readonly request: Rule = (chunk, _at, id) => {
    this.#kinds.request(chunk, id)
    return chunk
  }
  readonly rule: Rule = (chunk, at, id) => {
    const { random, damages, retries } = this.#options
    const starts = this.#packets.starts(chunk, at, id)
    const kind = this.#kinds.of(at, id)
    if (!this.active || this.done >= damages || kind === undefined) return chunk
    // A new one when the last was noticed or can make no difference any more.
    if (retries() === this.#known && Date.now() - this.#since < 1000) return chunk
    if (kind === 'dump' && this.#skip-- > 0) return chunk
    // Questions come with each reconnect, of which a damaged dump makes one.
    if (kind === 'answer' && !(this.#answer && starts.length > 0 && random.chance(30))) return chunk
    this.#known = retries()
    this.#since = Date.now()
    this.#skip = random.int(0, 20)
    this.done++
    if (kind === 'dump') {
      this.#answer ||= random.chance(10)
      return damaged(chunk, starts, random)
    }
    this.answers++
    this.#answer = false
    const copy = Buffer.from(chunk)
    const header = random.pick(starts)
    copy[Math.min(header + random.int(0, 3), chunk.length - 1)]! ^= 1 << random.int(0, 7)
    return copy
  }
}

test(
  'a dump that is damaged on its way is an error of its instance, which recovers',
  async () => {
    await using proxy = await Proxy.start(mysql)
    const damages = scaled(40, 1000)
    const retries = (): number => s.sluice.log.filter((l) => l.includes('"retrying"')).length
    const vandal = new Vandal({ random: new Random(seed), damages, retries })
    proxy.requestRule = vandal.request
    proxy.rule = vandal.rule
    const source = { tls: { mode: 'disabled' }, heartbeatMs: '200ms' }
    await using s = await Scenario.start({
      mysql,
      seed,
      // enough for the next damage while the connection is made again, and not much more to read in the end
      pace: { pauseMs: 250, large: 0 },
      other: true,
      mysqlPort: proxy.port,
      source,
    })
    await s.run(async () => {
      await s.follow()
      const other = await s.follow({ destination: 'other' })
      s.write()
      vandal.active = true
      await s.wait(() => vandal.done >= damages, 'for all damages', 120_000)
      expect(other.breaks).toBe(0)
    })
    const mine = s.sluice.log.filter((line) => line.includes('"retrying"'))
    expect(mine.length).toBeGreaterThan(0)
    expect(mine.filter((line) => !line.includes('"instance":"load"'))).toEqual([])
    const codes = [...new Set(mine.map((line) => /"code":"(\w+)"/.exec(line)?.[1]))]
    fact(
      `malformed, ${damages} damages, ${vandal.answers} of answers, else of the dump (${codes.join(', ')}): ${s.summary()}`,
    )
  },
  TEST_MS,
)
