/**
 * One client's connection: handshake, authentication, then requests, answered in order. Guarantees one reply to each
 * SUBSCRIPTION, UNSUBSCRIPTION and GET, none to CLIENTACK and CLIENTROLLBACK that succeed, and that the reply to a GET
 * is written only when every earlier ack of the connection is durable. Whatever arrives ends as an error ACK or a
 * closed connection of this client alone. Must not know where transactions come from.
 *
 *   open → HANDSHAKE → auth (every packet counts as ClientAuth until one is accepted) → ready → gone
 */
import { randomBytes } from 'node:crypto'
import type { Socket } from 'node:net'
import { setImmediate } from 'node:timers/promises'
import { SluiceError } from '../errors.ts'
import type { Batch, Limit } from '../store/cursor.ts'
import {
  Holdings,
  clientOf,
  shorten,
  taken,
  type Clients,
  type Counters,
  type Held,
  type Log,
} from './clients.ts'
import { Reply, SLICE_MS, addressOf, encodeBatch, type ChunkPool } from './reply.ts'
import * as wire from './wire.ts'

/** What all connections of a server share. */
export interface Shared {
  readonly user: string
  readonly passwordHash: string // hex SHA1(SHA1(plain)); empty: everybody is let in
  readonly packetBytesMax: number
  readonly idleMs: number
  readonly log: Log
  readonly pool: ChunkPool
  readonly counters: Counters
  readonly clients: Clients
}
type ErrorNumber = 400 | 401 | 402
/** Raw bytes one reply is made of at most, whatever fetch_size asks for. */
const BATCH_BYTES_MAX = 8 * 1024 * 1024
/** With this much encoded and not taken by clients, replies become small. */
const WAITING_BYTES_MAX = 64 * 1024 * 1024
const BATCH_BYTES_SCARCE = 64 * 1024
/** A connection with more than this in its socket gets no further reply encoded. */
const SOCKET_BYTES_MAX = 512 * 1024
const QUEUE_MAX = 64
const AUTH_MS = 60_000
const TIMER_MAX = 0x7fffffff
const ERROR_TEXT_MAX = 4096

const { ACK, CLIENTACK, CLIENTROLLBACK, GET, HANDSHAKE, MESSAGES, SUBSCRIPTION, UNSUBSCRIPTION } =
  wire.packetTypes
const ACK_OK = wire.framePacket(ACK, wire.writeAck({ errorCode: undefined, errorMessage: '' }), 1)
const EMPTY = wire.framePacket(MESSAGES, wire.writeMessages(wire.EMPTY_BATCH, []), 1)

export class Session {
  readonly peer: string
  /** Resolves when the connection is closed and its cursors are. */
  readonly done: Promise<void>
  readonly #socket: Socket
  readonly #shared: Shared
  readonly #seed = randomBytes(wire.SEED_BYTES)
  readonly #framer: wire.Framer
  readonly #reply: Reply
  readonly #holdings: Holdings
  #hurry = new AbortController() // ends the wait of the GET at hand
  #finish: () => void = () => undefined
  #state: 'auth' | 'ready' | 'broken' | 'gone' = 'auth'
  #queue: (wire.Packet | SluiceError)[] = []
  #busy = false
  #draining = false
  #inGet = false // a GET waits in its cursor
  #behind: Buffer[] | undefined // frames that wait until the reply at hand is written
  #durable: Promise<unknown> = Promise.resolve()
  #room: (() => void) | undefined // resumes who waits for the socket
  #complained = false
  #idleTimer: NodeJS.Timeout
  #readIdleMs: number
  #writeIdleMs: number
  #readAt = performance.now()
  #writtenAt = performance.now()

  constructor(socket: Socket, shared: Shared) {
    this.#socket = socket
    this.#shared = shared
    this.peer = addressOf(socket)
    this.#framer = new wire.Framer(shared.packetBytesMax)
    this.#reply = new Reply(shared.pool)
    this.#holdings = new Holdings(this.peer, shared.clients)
    this.#readIdleMs = this.#writeIdleMs = Math.min(AUTH_MS, shared.idleMs)
    this.#idleTimer = this.#watch()
    this.done = new Promise((resolve) => (this.#finish = resolve))
    shared.counters.connectionsOpen++
    socket.on('data', (chunk: Buffer) => this.#data(chunk))
    socket.on('end', () => this.#close())
    socket.on('error', () => this.#close())
    socket.on('close', () => this.#close())
    this.#send(HANDSHAKE, wire.framePacket(HANDSHAKE, wire.writeHandshake(this.#seed), 1))
  }
  /** Lets the reply in hand finish, then ends the connection. */
  drain(): void {
    this.#draining = true
    if (!this.#busy || this.#inGet) this.#close()
  }
  destroy(): void {
    this.#socket.destroy()
  }

  // ── in ─────────────────────────────────────────────────────────────────────

  #data(chunk: Buffer): void {
    this.#readAt = performance.now()
    this.#shared.counters.bytesIn += chunk.length
    if (this.#state === 'broken' || this.#state === 'gone') return
    this.#framer.push(chunk)
    try {
      for (let bytes = this.#framer.next(); bytes; bytes = this.#framer.next()) this.#packet(bytes)
    } catch (error) {
      if (!(error instanceof SluiceError)) throw error
      this.#state = 'broken'
      this.#queue.push(error)
    }
    if (this.#queue.length > QUEUE_MAX) this.#socket.pause()
    if (!this.#busy) void this.#work()
  }
  #packet(bytes: Buffer): void {
    let packet: wire.Packet | SluiceError
    try {
      packet = wire.readPacket(bytes)
      const { packetsIn } = this.#shared.counters
      packetsIn[packet.type in packetsIn ? packet.type : 0]!++
    } catch (error) {
      if (!(error instanceof SluiceError)) throw error
      packet = error
    }
    this.#queue.push(packet)
    if (this.#inGet && this.#ackAhead()) this.#hurry.abort()
  }
  /** Acks of batches that were given out do not wait for a GET in front of them. True: nor would what comes behind them. */
  #ackAhead(): boolean {
    const queue = this.#queue
    for (let i = 0; i < queue.length;) {
      const packet = queue[i]!
      if (packet instanceof SluiceError || (packet.type !== GET && packet.type !== CLIENTACK))
        return true
      if (packet.type === GET) i++
      else if (this.#wasGiven(packet.body)) {
        queue.splice(i, 1)
        this.#attemptAck(packet.body)
      } else return false
    }
    return false
  }
  #wasGiven(body: Buffer): boolean {
    try {
      const { destination, clientId, batchId } = wire.readClientAck(body)
      const held = this.#holdings.get(destination, clientId)
      return held !== undefined && batchId > 0n && batchId <= held.lastBatch
    } catch {
      return false // its turn in the queue will say what is wrong with it
    }
  }
  /** Handles what is queued, one after the other; the only place that answers. */
  async #work(): Promise<void> {
    this.#busy = true
    let sliceStart = performance.now()
    for (let next = this.#queue.shift(); next; next = this.#queue.shift()) {
      if (this.#state === 'gone') {
        // what it acked before it left still counts
        if (!(next instanceof SluiceError) && next.type === CLIENTACK) this.#attemptAck(next.body)
        continue
      }
      const handled = this.#handle(next)
      if (handled) await handled
      if (this.#crowded()) await this.#roomInSocket()
      if (this.#draining) this.#close()
      if (performance.now() - sliceStart > SLICE_MS) {
        await setImmediate() // a client that pipelines must not keep the others waiting
        sliceStart = performance.now()
      }
      if (this.#socket.isPaused() && this.#queue.length === 0) this.#socket.resume()
    }
    this.#busy = false
    if (this.#state === 'gone') this.#leave()
  }
  #handle(next: wire.Packet | SluiceError): void | Promise<void> {
    try {
      if (next instanceof SluiceError) {
        this.#malformed(next)
        if (this.#state === 'broken') this.#close()
        return
      }
      if (this.#state === 'auth') return this.#auth(next)
      return this.#request(next)?.catch((error: unknown) => this.#failed(error))
    } catch (error) {
      this.#failed(error)
    }
  }
  #request(packet: wire.Packet): Promise<void> | undefined {
    if ((packet.compression ?? wire.COMPRESSION_NONE) > wire.COMPRESSION_NONE) {
      return this.#error(400, `compression ${packet.compression} is not supported, expected none`)
    }
    switch (packet.type) {
      case GET:
        return this.#get(packet.body)
      case CLIENTACK:
        return this.#ack(packet.body)
      case CLIENTROLLBACK:
        return this.#rollback(packet.body)
      case SUBSCRIPTION:
        return this.#subscribe(packet.body)
      case UNSUBSCRIPTION:
        return this.#unsubscribe(packet.body)
      default:
        return this.#error(400, `packet type ${packet.type} is not supported`)
    }
  }

  // ── authentication ─────────────────────────────────────────────────────────

  #auth(packet: wire.Packet): void {
    const { counters, idleMs } = this.#shared
    let auth: wire.ClientAuth
    let accepted: boolean
    try {
      auth = wire.readClientAuth(packet.body)
      accepted = this.#accepts(auth)
    } catch (error) {
      this.#failed(error)
      this.#close()
      return
    }
    if (!accepted) {
      counters.authFailures++
      this.#complain(`authentication failed for user "${shorten(auth.username, 64)}"`)
      this.#error(400, `auth failed for user:${shorten(auth.username, 64)}`)
      return
    }
    if (auth.destination !== '' && auth.clientId !== '') {
      this.#holdings.open(auth.destination, clientOf(auth.clientId), auth.filter)
    }
    this.#readIdleMs = positive(auth.readTimeoutMs) ?? idleMs
    this.#writeIdleMs = positive(auth.writeTimeoutMs) ?? idleMs
    clearTimeout(this.#idleTimer)
    this.#idleTimer = this.#watch()
    this.#state = 'ready'
    this.#send(ACK, ACK_OK)
  }
  #accepts(auth: wire.ClientAuth): boolean {
    const { user, passwordHash } = this.#shared
    if (user !== '' && auth.username !== user) return false
    if (passwordHash === '') return true
    if (auth.password.length === 0) return false
    return wire.checkScramble(auth.password, this.#seed, passwordHash)
  }

  // ── requests ───────────────────────────────────────────────────────────────

  #subscribe(body: Buffer): undefined {
    const sub = wire.readSub(body)
    if (!this.#identified(sub)) return
    this.#holdings.open(sub.destination, clientOf(sub.clientId), sub.filter)
    this.#send(ACK, ACK_OK)
  }
  #unsubscribe(body: Buffer): undefined {
    const unsub = wire.readSub(body)
    if (!this.#identified(unsub)) return
    this.#holdings.unsubscribe(unsub.destination, clientOf(unsub.clientId))
    this.#send(ACK, ACK_OK)
  }
  async #get(body: Buffer): Promise<void> {
    const get = wire.readGet(body)
    if (!this.#identified(get)) return
    const held = this.#holdings.cursorOf(get.destination, clientOf(get.clientId))
    const durable = this.#durable // of the acks before this request
    const batch = await this.#next(held, this.#limit(get))
    const since = performance.now()
    if (this.#state === 'gone') {
      batch?.release()
      return
    }
    if (batch === undefined) {
      await durable
      this.#shared.counters.emptyBatches++
      held.traffic.emptyBatches++
      this.#send(MESSAGES, EMPTY)
      return
    }
    held.lastBatch = batch.id
    await this.#encode(held, batch)
    const { borrows } = this.#reply
    try {
      await durable
      if (held.takenBy !== '') {
        this.#reply.drop()
        throw taken(held) // who took it gets this batch
      }
      const { frame, sent } = this.#sendBatch(batch.id)
      if (sent) await this.#alone(sent)
      held.traffic.sent(frame, since)
    } finally {
      if (borrows) batch.release()
    }
  }
  async #next(held: Held, limit: Limit): Promise<Batch | undefined> {
    this.#inGet = true
    const waitMs = this.#ackAhead() ? 0 : limit.waitMs
    try {
      return await held.cursor.get({ ...limit, waitMs }, this.#hurry.signal)
    } catch (error) {
      if (held.takenBy !== '') throw taken(held)
      throw error
    } finally {
      this.#inGet = false
      if (this.#hurry.signal.aborted) this.#hurry = new AbortController()
    }
  }
  /** Releases the batch, unless the reply goes on borrowing from it. */
  async #encode(held: Held, batch: Batch): Promise<void> {
    const { cursor, destination, encoder } = held
    try {
      await encodeBatch(batch, encoder, this.#reply, {
        transactionEntries: destination.transactionEntries ?? true,
        cancelled: () => this.#state === 'gone',
      })
      if (!this.#reply.borrows) batch.release()
    } catch (error) {
      batch.release()
      this.#reply.drop()
      try {
        cursor.rollback() // or the next GET would go on behind the batch that was lost here
      } catch {
        // the cursor is another connection's or closed: nothing can be lost
      }
      throw error
    }
  }
  #limit(get: wire.Get): Limit {
    const scarce = this.#shared.pool.bytesWaiting > WAITING_BYTES_MAX
    const most = scarce ? BATCH_BYTES_SCARCE : BATCH_BYTES_MAX
    const waitMs = wire.waitMs(get)
    if (get.fetchSize <= 0) return { changes: 1, bytes: most, waitMs }
    return { changes: Infinity, bytes: Math.min(get.fetchSize * 1024, most), waitMs }
  }
  #ack(body: Buffer): undefined {
    const ack = wire.readClientAck(body)
    if (!this.#identified(ack)) return
    if (ack.batchId === 0n) {
      this.#error(402, 'CLIENTACK without a batch id')
      return
    }
    if (ack.batchId === wire.EMPTY_BATCH) return
    const client = clientOf(ack.clientId)
    const held = this.#holdings.get(ack.destination, client)
    if (held === undefined) {
      throw new SluiceError(
        'BATCH_UNKNOWN',
        `batch ${ack.batchId} of client ${client}, destination ${ack.destination}, was not given to this connection`,
      )
    }
    if (held.takenBy !== '') throw taken(held)
    const acked = held.cursor.ack(ack.batchId).catch((error: unknown) => this.#failed(error))
    this.#durable = Promise.all([this.#durable, acked])
  }
  #attemptAck(body: Buffer): void {
    try {
      this.#ack(body)
    } catch (error) {
      this.#failed(error)
    }
  }
  /** Silent where there is nothing to roll back: clients send it before they subscribe. */
  #rollback(body: Buffer): undefined {
    const rollback = wire.readClientRollback(body)
    if (!this.#identified(rollback)) return
    const held = this.#holdings.get(rollback.destination, clientOf(rollback.clientId))
    if (held === undefined || held.takenBy !== '') return
    try {
      held.cursor.rollback(rollback.batchId === 0n ? undefined : rollback.batchId)
    } catch (error) {
      if (!(error instanceof SluiceError) || error.code !== 'CURSOR_CLOSED') throw error
    }
  }
  #identified(request: { readonly destination: string; readonly clientId: string }): boolean {
    if (request.destination !== '' && request.clientId !== '') return true
    this.#error(401, 'destination or client id is empty')
    return false
  }

  // ── out ────────────────────────────────────────────────────────────────────

  #send(type: number, frame: Buffer): void {
    if (this.#state === 'gone') return
    const { counters } = this.#shared
    counters.packetsOut[type]!++
    counters.bytesOut += frame.length
    if (this.#behind) this.#behind.push(frame)
    else this.#socket.write(frame, this.#taken)
  }
  /** While a reply is written piece by piece, nothing may come between. */
  async #alone(sent: Promise<void>): Promise<void> {
    this.#behind = []
    await sent
    for (const frame of this.#behind) this.#socket.write(frame, this.#taken)
    this.#behind = undefined
  }
  #sendBatch(id: bigint): ReturnType<Reply['send']> {
    if (this.#state === 'gone') return (this.#reply.drop(), { frame: 0, sent: undefined })
    const { counters } = this.#shared
    counters.packetsOut[MESSAGES]!++
    counters.batches++
    counters.entries += this.#reply.entries
    const going = this.#reply.send(id, this.#socket, this.#taken)
    counters.bytesOut += going.frame
    return going
  }
  #taken = (): void => {
    this.#writtenAt = performance.now()
    if (this.#crowded()) return
    this.#room?.()
    this.#room = undefined
  }
  #crowded(): boolean {
    return this.#state !== 'gone' && this.#socket.writableLength > SOCKET_BYTES_MAX
  }
  #roomInSocket(): Promise<void> {
    return new Promise((resolve) => (this.#room = resolve))
  }
  #error(code: ErrorNumber, text: string): undefined {
    const { counters } = this.#shared
    counters[`errors${code}`]++
    const ack = wire.writeAck({ errorCode: code, errorMessage: shorten(text, ERROR_TEXT_MAX) })
    this.#send(ACK, wire.framePacket(ACK, ack, 1))
  }
  /** What a request threw. */
  #failed(error: unknown): void {
    if (!(error instanceof SluiceError)) {
      this.#shared.log.error({ err: error, peer: this.peer }, 'a request failed unexpectedly')
      this.#error(400, 'internal error, see the log of the server')
    } else if (error.code === 'WIRE_MALFORMED') this.#malformed(error)
    else {
      this.#complain(`request refused: ${error.message}`)
      this.#error(400, `${error.code}: ${error.message}`)
    }
  }
  #malformed(error: SluiceError): void {
    this.#shared.counters.malformed++
    this.#complain(`malformed packet: ${error.message}`)
    this.#error(400, `${error.code}: ${error.message}`)
  }
  /** Once per connection. */
  #complain(message: string): void {
    if (this.#complained) return
    this.#complained = true
    this.#shared.log.warn({ peer: this.peer }, message)
  }

  // ── the end ────────────────────────────────────────────────────────────────

  #watch(): NodeJS.Timeout {
    const now = performance.now()
    const left = Math.min(
      this.#readAt + this.#readIdleMs - now,
      this.#writtenAt + this.#writeIdleMs - now,
    )
    const timer = setTimeout(
      () => {
        const late = performance.now()
        const idle =
          late - this.#readAt >= this.#readIdleMs || late - this.#writtenAt >= this.#writeIdleMs
        if (idle) this.#socket.destroy()
        else this.#idleTimer = this.#watch()
      },
      Math.min(Math.max(left, 1), TIMER_MAX),
    )
    return timer.unref()
  }
  #close(): void {
    if (this.#state === 'gone') return
    this.#state = 'gone'
    clearTimeout(this.#idleTimer)
    this.#hurry.abort()
    this.#room?.()
    this.#socket.end()
    if (!this.#busy) this.#leave()
  }
  #leave(): void {
    this.#holdings.close()
    this.#shared.counters.connectionsOpen--
    if (this.#socket.closed) return this.#finish()
    this.#socket.once('close', this.#finish)
    // a peer that does not read would keep the connection in its half-closed state
    const bound = setTimeout(() => this.#socket.destroy(), 5000).unref()
    this.#socket.once('close', () => clearTimeout(bound))
  }
}

const positive = (ms: number | undefined): number | undefined =>
  ms !== undefined && ms > 0 ? ms : undefined
