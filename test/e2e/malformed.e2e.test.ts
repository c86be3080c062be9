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
  #streams: { at: number; next: number; head: number[] }[] = []
  /** Offsets in the chunk that comes `at` bytes after its connection's beginning. */
  starts(chunk: Buffer, at: number): number[] {
    let stream = at === 0 ? undefined : this.#streams.find((one) => one.at === at)
    if (!stream) this.#streams.push((stream = { at, next: at, head: [] }))
    const starts: number[] = []
    while (stream.next < at + chunk.length) {
      if (stream.head.length === 0) starts.push(stream.next - at)
      stream.head.push(chunk[stream.next++ - at]!)
      if (stream.head.length < 4) continue
      const [a = 0, b = 0, c = 0] = stream.head
      stream.next += a | (b << 8) | (c << 16)
      stream.head = []
    }
    stream.at = at + chunk.length
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
      return Buffer.from(chunk).fill(random.pick([0, 0xff]), at, at + some)
  }
}

test(
  'a dump that is damaged on its way is an error of its instance, which recovers',
  async () => {
    await using proxy = await Proxy.start(mysql)
    const source = { tls: { mode: 'disabled' }, heartbeatMs: '200ms' }
    await using s = await Scenario.start({
      mysql,
      seed,
      pace: { pauseMs: 5, large: 0 },
      other: true,
      mysqlPort: proxy.port,
      source,
    })
    const random = new Random(seed)
    const damages = scaled(8, 1000)
    let done = 0
    const retries = (): number => s.sluice.log.filter((l) => l.includes('"retrying"')).length
    let known = -1 // retries when the last damage was done
    let skip = 0
    let since = 0
    // Past the handshake and the questions: what is damaged there is wrong, but not known to be. One at a time, and a
    // new one when it was noticed or can make no difference any more.
    const packets = new Packets()
    const rule: Rule = (chunk, at) => {
      const starts = packets.starts(chunk, at)
      if (done >= damages || at < 1024 * 1024) return chunk
      if (retries() === known && Date.now() - since < 1000) return chunk
      if (skip-- > 0) return chunk
      skip = random.int(0, 20)
      known = retries()
      since = Date.now()
      done++
      return damaged(chunk, starts, random)
    }
    await s.run(async () => {
      await s.follow()
      const other = await s.follow({ destination: 'other' })
      s.write()
      proxy.rule = rule
      await s.wait(() => done >= damages, 'for all damages', 120_000)
      proxy.rule = (chunk) => chunk
      expect(other.breaks).toBe(0)
    })
    const mine = s.sluice.log.filter((line) => line.includes('"retrying"'))
    expect(mine.length).toBeGreaterThan(0)
    expect(mine.filter((line) => !line.includes('"instance":"load"'))).toEqual([])
    const codes = [...new Set(mine.map((line) => /"code":"(\w+)"/.exec(line)?.[1]))]
    fact(`malformed, ${damages} damages of the dump (${codes.join(', ')}): ${s.summary()}`)
  },
  TEST_MS * 2,
)
