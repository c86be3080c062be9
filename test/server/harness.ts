/** A real CanalServer over a real Store, and a client that speaks in frames, byte by byte. */
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import type { Change, Position, Transaction } from '../../src/change.ts'
import { GtidSet } from '../../src/gtid.ts'
import type { Destination } from '../../src/server/clients.ts'
import { CanalServer, type ServerOptions } from '../../src/server/server.ts'
import * as wire from '../../src/server/wire.ts'
import { State } from '../../src/store/state.ts'
import { Store } from '../../src/store/store.ts'
import { FILE, UUID, begin, commit, rowsOf, transactionOf, type TextRow } from './changes.ts'
import { decodeAck, decodeEntry, decodeMessages, decodePacket, decodeRowChange } from './oracle.ts'

const { packetTypes } = wire
export const EXAMPLE = { destination: 'example', clientId: '1001' }

/** Collects what is logged. */
export class TestLog {
  readonly lines: string[] = []
  info(_fields: object, message: string): void {
    this.lines.push(`info ${message}`)
  }
  warn(_fields: object, message: string): void {
    this.lines.push(`warn ${message}`)
  }
  error(fields: object, message: string): void {
    this.lines.push(`error ${message} ${'err' in fields ? String(fields.err) : ''}`)
  }
}

export class Harness {
  readonly log = new TestLog()
  readonly store: Store
  readonly state: State
  readonly statePath: string
  readonly destinations = new Map<string, Destination>()
  server!: CanalServer
  readonly #folder: string
  readonly #clients: Client[] = []
  readonly #abort = new AbortController()
  readonly #appended: { offset: number; changes: readonly Change[]; more: Partial<Transaction> }[] =
    []
  #offset = 1000

  static async start(options: Partial<ServerOptions> & { gtids?: string } = {}): Promise<Harness> {
    const { gtids, ...serverOptions } = options
    const harness = new Harness(gtids)
    harness.server = await CanalServer.listen({
      host: '127.0.0.1',
      port: 0,
      packetBytesMax: 1_000_000,
      connectionsMax: 50,
      idleMs: 3_600_000,
      log: harness.log,
      resolve: (name) => harness.destinations.get(name) ?? `destination:${name} should start first`,
      ...serverOptions,
    })
    return harness
  }
  private constructor(gtids: string | undefined) {
    this.#folder = mkdtempSync(join(tmpdir(), 'sluice-server-'))
    this.statePath = join(this.#folder, 'state.db')
    this.state = State.open(this.statePath)
    const origin: Position = {
      epoch: 1,
      server: UUID,
      file: FILE,
      offset: 1000,
      skip: 0,
      gtids: gtids === undefined ? undefined : GtidSet.parse(gtids),
      timestamp: 0,
    }
    this.store = new Store({
      windowBytes: 64 * 1024 * 1024,
      catchUpReaders: 1,
      catchUp: (from, signal) => this.#reread(from, signal),
      state: this.state,
      origin,
      log: this.log,
    })
    const gtid = gtids !== undefined
    this.destinations.set('example', { name: 'example', store: this.store, gtid })
  }
  /** Appends a transaction of these changes. */
  append(changes: readonly Change[], more: Partial<Transaction> = {}): void {
    const offset = this.#offset
    this.#offset += 1000
    this.#appended.push({ offset, changes, more })
    void this.store.append(transactionOf(offset, changes, more), this.#abort.signal)
  }
  /** What was appended, once more, as a reader of the log would find it. */
  async *#reread(from: Position, signal: AbortSignal): AsyncIterable<Transaction> {
    for (let i = 0; !signal.aborted; i++) {
      await until(() => i < this.#appended.length || signal.aborted)
      const next = this.#appended[i]
      if (next && next.offset >= from.offset) {
        yield transactionOf(next.offset, next.changes, next.more)
      }
    }
  }
  /** BEGIN, one insert of these ids, COMMIT. */
  insert(...ids: number[]): void {
    const rows: TextRow[] = ids.map((id) => ({ after: [String(id), `name ${id}`] }))
    this.append([begin(), rowsOf('insert', rows), commit('4711', false, 3)])
  }
  /** Connected, authenticated when `auth` is given (default: nobody). */
  async client(auth: Partial<wire.ClientAuth> | false = {}, tls = false): Promise<Client> {
    const client = await Client.connect(this.server.port, tls)
    this.#clients.push(client)
    if (auth !== false) await client.auth(auth)
    return client
  }
  /** Authenticated and subscribed. */
  async subscribed(filter = '', clientId = '1001'): Promise<Client> {
    const client = await this.client()
    client.subscribe(filter, clientId)
    await client.ok()
    return client
  }
  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.socket.destroy()
    await this.server.close()
    this.#abort.abort()
    await this.store.close()
    this.state.close()
    rmSync(this.#folder, { recursive: true })
  }
}

export interface Reply {
  readonly batchId: number
  readonly entries: Uint8Array[]
}

export class Client {
  readonly socket: Socket
  seed = Buffer.alloc(0)
  /** Resolves when the server has closed the connection. */
  readonly closed: Promise<void>
  #buffer = Buffer.alloc(0)
  #chunks: Buffer[] = [] // behind #buffer
  #chunkBytes = 0
  #ended = false
  #wake: () => void = () => undefined

  static async connect(port: number, tls = false): Promise<Client> {
    const socket = tls
      ? connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false })
      : connect({ port, host: '127.0.0.1', noDelay: true })
    const client = new Client(socket)
    const frame = await client.frame()
    const packet = wire.readPacket(frame.subarray(4))
    client.seed = Buffer.from(wire.readHandshake(packet.body).seeds)
    return client
  }
  constructor(socket: Socket) {
    this.socket = socket
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        this.#ended = true
        this.#wake()
        resolve()
      })
    })
    socket.on('error', () => undefined)
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk)
      this.#chunkBytes += chunk.length
      this.#wake()
    })
  }
  get address(): string {
    return `127.0.0.1:${this.socket.localPort}`
  }
  send(type: number, body: Uint8Array): void {
    this.socket.write(wire.framePacket(type, body))
  }
  /** The next frame with its length, as it came. */
  async frame(): Promise<Buffer> {
    await this.#have(4)
    const length = this.#buffer.readInt32BE(0)
    await this.#have(4 + length)
    const frame = this.#buffer.subarray(0, 4 + length)
    this.#buffer = this.#buffer.subarray(4 + length)
    return frame
  }
  async #have(bytes: number): Promise<void> {
    while (this.#buffer.length + this.#chunkBytes < bytes) {
      if (this.#ended) {
        const got = this.#buffer.length + this.#chunkBytes
        throw new Error(`closed with ${got} bytes, wanted ${bytes}`)
      }
      await new Promise<void>((resolve) => (this.#wake = resolve))
    }
    if (this.#buffer.length >= bytes) return
    this.#buffer = Buffer.concat([this.#buffer, ...this.#chunks])
    this.#chunks = []
    this.#chunkBytes = 0
  }

  // ── requests ───────────────────────────────────────────────────────────────

  async auth(more: Partial<wire.ClientAuth> = {}): Promise<void> {
    this.sendAuth(more)
    await this.ok()
  }
  sendAuth(more: Partial<wire.ClientAuth> = {}): void {
    const nobody = {
      username: '',
      password: Buffer.alloc(0),
      readTimeoutMs: 3_600_000,
      writeTimeoutMs: 3_600_000,
      destination: '',
      clientId: '',
      filter: '',
      startTimestamp: 0n,
    }
    this.send(packetTypes.CLIENTAUTHENTICATION, wire.writeClientAuth({ ...nobody, ...more }))
  }
  subscribe(filter = '', clientId = '1001', destination = 'example'): void {
    this.send(packetTypes.SUBSCRIPTION, wire.writeSub({ destination, clientId, filter }))
  }
  unsubscribe(): void {
    this.send(packetTypes.UNSUBSCRIPTION, wire.writeSub({ ...EXAMPLE, filter: '' }))
  }
  sendGet(more: Partial<wire.Get> = {}): void {
    const get = { ...EXAMPLE, fetchSize: 1000, timeout: -1, unit: -1, autoAck: false }
    this.send(packetTypes.GET, wire.writeGet({ ...get, ...more }))
  }
  ack(batchId: number | bigint, clientId = '1001'): void {
    const body = wire.writeClientAck({ ...EXAMPLE, clientId, batchId: BigInt(batchId) })
    this.send(packetTypes.CLIENTACK, body)
  }
  rollback(batchId = 0, destination = 'example', clientId = '1001'): void {
    const ack = { destination, clientId, batchId: BigInt(batchId) }
    this.send(packetTypes.CLIENTROLLBACK, wire.writeClientRollback(ack))
  }

  // ── replies ────────────────────────────────────────────────────────────────

  /** The next reply is an ACK that says all is well. */
  async ok(): Promise<void> {
    const hex = (await this.frame()).toString('hex')
    if (hex !== '0000000410011803') throw new Error(`expected an ACK, got ${hex}`)
  }
  /** The next reply is an ACK with an error. */
  async error(): Promise<{ code: number; text: string }> {
    const packet = decodePacket((await this.frame()).subarray(4))
    if (packet.type !== packetTypes.ACK) throw new Error(`expected an ACK, got ${packet.type}`)
    const { error_code: code = 0, error_message: text = '' } = decodeAck(packet.body)
    return { code, text }
  }
  async messages(): Promise<Reply> {
    const packet = decodePacket((await this.frame()).subarray(4))
    if (packet.type !== packetTypes.MESSAGES) {
      throw new Error(`expected MESSAGES, got ${packet.type}: ${JSON.stringify(packet)}`)
    }
    const { batch_id: batchId, messages: entries = [] } = decodeMessages(packet.body)
    return { batchId, entries }
  }
  async get(more: Partial<wire.Get> = {}): Promise<Reply> {
    this.sendGet(more)
    return this.messages()
  }
  /** A waiting get, its batch's number and the ids of its rows. */
  async ids(more: Partial<wire.Get> = {}): Promise<[number, ...string[]]> {
    const { batchId, entries } = await this.get({ timeout: 0, ...more })
    return [batchId, ...idsOf(entries)]
  }
}

/** First column of every row, after image. */
export function idsOf(entries: readonly Uint8Array[]): string[] {
  return entries.flatMap((bytes) => {
    const entry = decodeEntry(bytes)
    if (entry.entryType !== 2) return []
    const { rowDatas = [] } = decodeRowChange(entry.storeValue)
    return rowDatas.map((r) => r.afterColumns?.[0]?.value ?? '')
  })
}
/** "BEGIN", "INSERT shop.orders" and so on. */
export function kindsOf(entries: readonly Uint8Array[]): string[] {
  const events = ['', 'INSERT', 'UPDATE', 'DELETE', 'CREATE', 'ALTER', 'ERASE', 'QUERY']
  return entries.map((bytes) => {
    const { entryType, header } = decodeEntry(bytes)
    if (entryType === 1) return 'BEGIN'
    if (entryType === 3) return 'END'
    const { eventType, schemaName, tableName } = header
    return `${events[eventType ?? 0]} ${String(schemaName)}.${String(tableName)}`
  })
}

/** Resolves once the condition holds; a test that waits in vain times out. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2))
}
