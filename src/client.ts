/**
 * The SDK, exported as "sluice/client": a connection to a Canal server (Sluice's or Alibaba's) that reads changes,
 * acks them, and survives the connection. At least once and in order: what was not acked comes again after a reconnect
 * or a rollback, and says so. Needs nothing but Node and the wire files; must not know the server's other side.
 *
 *   const client = await connect({ host: '127.0.0.1', port: 11111, destination: 'orders' })
 *   for await (const batch of client.batches()) {
 *     for (const change of batch.changes) if (change.kind === 'rows') use(change.rows)
 *     await batch.ack()
 *   }
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { ConnectionOptions } from 'node:tls'
import { Batch, Track } from './client/batch.ts'
import type { Mark } from './client/batch.ts'
import { ChangeReader } from './client/changes.ts'
import { Link } from './client/link.ts'
import type { LinkOptions } from './client/link.ts'
import type { ValueOptions } from './client/values.ts'
import { SluiceError } from './errors.ts'
import * as wire from './server/wire.ts'

export type { Batch } from './client/batch.ts'
export type * from './client/changes.ts'
export type { ClientValue, ValueOptions } from './client/values.ts'
export { SluiceError } from './errors.ts'
export type { ErrorCode } from './errors.ts'

export interface ConnectOptions extends ValueOptions {
  readonly host?: string | undefined // default 127.0.0.1
  readonly port?: number | undefined // default 11111
  readonly destination: string
  /** Who asks: each client id has a place of its own in the log. -32768 to 32767; default 1001, as every Canal client. */
  readonly clientId?: number | undefined
  readonly user?: string | undefined
  readonly password?: string | undefined
  /** true, or Node's options of tls.connect (ca, cert, key, servername, rejectUnauthorized …). */
  readonly tls?: boolean | ConnectionOptions | undefined
  /** Regexes of database.table, separated by commas; "" keeps the one stored with the client id. */
  readonly filter?: string | undefined
  /** Rows that the tables hold already come too, once for this client id: as inserts with `snapshot` set. */
  readonly snapshot?: boolean | undefined
  readonly connectTimeoutMs?: number | undefined // default 10,000
  /** A server that owes a reply for so long beyond its waiting time is given up. Default 60,000. */
  readonly silenceMs?: number | undefined
  readonly replyBytesMax?: number | undefined // default 1 GiB
  readonly retry?: RetryOptions | undefined
}
export interface RetryOptions {
  readonly attempts?: number | undefined // in a row; 0: never reconnect; default no limit
  readonly delayMs?: number | undefined // before the first, doubled for each further one; default 100
  readonly delayMaxMs?: number | undefined // default 10,000
  /** Told before each wait. */
  readonly onRetry?: ((error: SluiceError, attempt: number, delayMs: number) => void) | undefined
}
export interface GetOptions {
  /** How much a batch may be: Canal's fetch size, for Sluice KiB of the source's binlog. Default 1000. */
  readonly size?: number | undefined
  /** How long the server may wait for the first change. Default 1000. */
  readonly waitMs?: number | undefined
  readonly signal?: AbortSignal | undefined
}
export interface BatchesOptions extends GetOptions {
  /** Gets under way at once while changes flow. Default 4. */
  readonly pipeline?: number | undefined
}

/** Connects, authenticates and subscribes. Fails at once: only a connection that was there is renewed by itself. */
export async function connect(options: ConnectOptions): Promise<SluiceClient> {
  const client = new SluiceClient(options)
  await client.subscribe()
  return client
}

const { CLIENTACK, CLIENTROLLBACK, GET, MESSAGES, SUBSCRIPTION, UNSUBSCRIPTION } = wire.packetTypes
const MILLISECONDS = 2

/** A get under way, and the file of the last ack before it. */
interface Flight {
  readonly reply: Promise<wire.Packet>
  readonly ackedFile: number
}
/** A batch in the program's hands. */
interface Held {
  readonly batch: Batch
  readonly end: Mark
}

export class SluiceClient implements AsyncDisposable {
  readonly destination: string
  readonly clientId: string
  readonly #link: LinkOptions
  readonly #retry: RetryOptions
  readonly #reader: ChangeReader
  readonly #track = new Track()
  readonly #closing = new AbortController()
  #filter: string
  #subscribed: string | undefined // the filter of the last subscription
  #current: Link | undefined
  #flights: Flight[] = []
  /** Given out and not acked, oldest first; emptied when they become stale. */
  #outstanding: Held[] = []
  #ackedFile = -1
  /** Nothing has come since the last subscription: an error then is not worth another one. */
  #fresh = true
  #reading = false
  #renewing: Promise<void> | undefined
  #failures = 0 // in a row

  constructor(options: ConnectOptions) {
    const { destination, clientId = 1001, tls } = options
    if (
      destination === '' ||
      !Number.isInteger(clientId) ||
      clientId < -32_768 ||
      clientId > 32_767
    )
      throw new SluiceError(
        'USAGE',
        `expected a destination and a client id from -32768 to 32767, got '${destination}' and ${clientId}`,
      )
    this.destination = destination
    this.clientId = String(clientId)
    this.#filter = options.filter ?? ''
    if (options.snapshot === true) this.#filter = `+snapshot,${this.#filter}`
    this.#retry = options.retry ?? {}
    this.#reader = new ChangeReader(options)
    this.#link = {
      host: options.host ?? '127.0.0.1',
      port: options.port ?? 11_111,
      user: options.user ?? '',
      password: options.password ?? '',
      tls: tls === true ? {} : tls || undefined,
      connectTimeoutMs: options.connectTimeoutMs ?? 10_000,
      silenceMs: options.silenceMs ?? 60_000,
      replyBytesMax: options.replyBytesMax ?? 1024 * 1024 * 1024,
    }
  }

  /** Whether there is a connection at this moment. */
  get connected(): boolean {
    return this.#current?.open ?? false
  }

  /**
   * Subscribes, again where it is subscribed: with another filter, or to take the client id back. Begins after the last
   * ack; batches in hand are stale from now on.
   * @throws SluiceError SERVER_REFUSED, and what connecting throws: CONNECT_FAILED, TLS_FAILED, DISCONNECTED
   */
  async subscribe(filter?: string): Promise<void> {
    this.#open()
    if (filter !== undefined) this.#filter = filter
    await this.#renewing?.catch(() => undefined)
    const link = this.#current
    if (!link?.open) return this.#renew()
    this.#stale(true)
    await this.#subscribe(link)
  }

  /**
   * Gives up the client's place in the log, over a new connection where there is none. A later get subscribes anew.
   * Throws what `subscribe` throws.
   */
  async unsubscribe(): Promise<void> {
    this.#open()
    await this.#renewing?.catch(() => undefined)
    if (this.#current?.open === false) await this.#renew()
    const link = this.#current
    this.#stale()
    this.#current = undefined
    if (link === undefined) return
    await link.request(UNSUBSCRIPTION, wire.writeSub({ ...this.#names(), filter: '' }))
    await link.close()
  }

  /**
   * Batches as they come, until `signal` is aborted or the client closed; each has at least one change. Reconnects by
   * itself. Leaving the loop keeps what is under way for the next one.
   * @throws SluiceError CURSOR_TAKEN when another connection has subscribed with this client id; SERVER_REFUSED;
   *   DISCONNECTED, CONNECT_FAILED after `retry.attempts`; WIRE_MALFORMED
   */
  async *batches(options: BatchesOptions = {}): AsyncGenerator<Batch, void, undefined> {
    const { signal } = options
    const pipeline = Math.max(1, options.pipeline ?? 4)
    let flowing = false
    while (!signal?.aborted && !this.#closing.signal.aborted) {
      const batch = await this.#next(options, flowing ? pipeline : 1)
      flowing = batch !== undefined
      if (batch) yield batch
    }
  }

  /** One batch, or undefined when nothing came in `waitMs` or `signal` was aborted. Throws what `batches` throws. */
  async get(options: GetOptions = {}): Promise<Batch | undefined> {
    this.#open()
    return this.#next(options, 1)
  }

  /**
   * Acks the oldest batch in hand by its id; one that became stale is passed over.
   * @throws SluiceError BATCH_NOT_FIRST, CLIENT_CLOSED
   */
  async ack(id: bigint): Promise<void> {
    const held = this.#outstanding.find((one) => one.batch.id === id)
    if (held) this.#ack(held.batch)
    else this.#open()
  }

  /** Everything after the last ack comes again; batches in hand are stale. */
  rollback(): void {
    this.#open()
    const link = this.#current
    this.#stale(link?.open)
    if (link?.open) this.#sendRollback(link)
  }

  /** Sends what was acked, then closes. What is not acked goes to the next connection of this client id. */
  async close(): Promise<void> {
    this.#closing.abort()
    this.#stale()
    await this.#current?.close()
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  // ── reading ────────────────────────────────────────────────────────────────

  async #next(options: GetOptions, ahead: number): Promise<Batch | undefined> {
    if (this.#reading)
      throw new SluiceError('USAGE', 'one reader at a time: batches() or get() is already waiting')
    this.#reading = true
    try {
      const stop = options.signal
        ? AbortSignal.any([options.signal, this.#closing.signal])
        : this.#closing.signal
      while (!stop.aborted) {
        const found = await this.#attempt(options, ahead, stop)
        if (found !== 'again') return found
      }
      return undefined
    } finally {
      this.#reading = false
    }
  }

  /** 'again': the connection was renewed, or the reply was of before a rollback. */
  async #attempt(
    options: GetOptions,
    ahead: number,
    stop: AbortSignal,
  ): Promise<Batch | undefined | 'again'> {
    let link = this.#current
    try {
      if (!link?.open) await unlessAborted(this.#renew(), stop)
      if (stop.aborted) return undefined
      link = this.#current
      if (link === undefined) return 'again' // unsubscribed meanwhile
      while (this.#flights.length < ahead) this.#ask(options)
      const flight = this.#flights[0]!
      const reply = await unlessAborted(flight.reply, stop)
      if (reply === undefined) return undefined
      if (this.#flights[0] !== flight) return 'again'
      this.#flights.shift()
      return this.#receive(reply, flight)
    } catch (error) {
      if (this.#closing.signal.aborted) return undefined
      if (this.#current !== link) return 'again'
      await this.#recover(error, stop)
      return 'again'
    }
  }

  #ask(options: GetOptions): void {
    const { size = 1000, waitMs = 1000 } = options
    const body = wire.writeGet({
      ...this.#names(),
      fetchSize: size,
      timeout: waitMs > 0 ? (Number.isFinite(waitMs) ? Math.ceil(waitMs) : 0) : -1,
      unit: MILLISECONDS,
      autoAck: false,
    })
    // a get waits behind those before it
    const reply = this.#current!.request(GET, body, waitMs * (this.#flights.length + 1))
    this.#flights.push({ reply, ackedFile: this.#ackedFile })
  }

  #receive(reply: wire.Packet, flight: Flight): Batch | undefined {
    if (reply.type !== MESSAGES)
      throw new SluiceError('WIRE_MALFORMED', `expected MESSAGES, got packet type ${reply.type}`)
    const messages = new wire.MessagesReader(reply.body)
    this.#fresh = false
    this.#failures = 0
    this.#track.durable(flight.ackedFile)
    if (messages.batchId <= 0n || messages.count === 0) return undefined
    const scan = this.#track.scan(messages)
    const batch = new Batch(messages.batchId, scan, this.#reader, (one) => this.#ack(one))
    this.#outstanding.push({ batch, end: scan.end })
    return batch
  }

  #ack(batch: Batch): void {
    this.#open()
    const first = this.#outstanding[0]
    if (!this.#outstanding.some((held) => held.batch === batch)) return
    if (first!.batch !== batch)
      throw new SluiceError(
        'BATCH_NOT_FIRST',
        `batch ${batch.id}: expected batch ${first!.batch.id} to be acked before it`,
      )
    this.#outstanding.shift()
    this.#ackedFile = first!.end.file
    this.#track.acked(first!.end)
    this.#current?.send(CLIENTACK, wire.writeClientAck({ ...this.#names(), batchId: batch.id }))
  }

  // ── the connection ─────────────────────────────────────────────────────────

  #open(): void {
    if (this.#closing.signal.aborted) throw new SluiceError('CLIENT_CLOSED', 'the client is closed')
  }
  #names(): { destination: string; clientId: string } {
    return { destination: this.destination, clientId: this.clientId }
  }
  /** Forgets what is in hand and under way: the server begins again after the last ack. */
  #stale(sure = false): void {
    this.#outstanding = []
    this.#flights = []
    this.#track.back(sure)
  }

  /** A new connection, subscribed; one attempt at a time. */
  async #renew(): Promise<void> {
    if (this.#current?.open) return // somebody else was quicker
    this.#renewing ??= this.#reconnect().finally(() => (this.#renewing = undefined))
    await this.#renewing
  }
  async #reconnect(): Promise<void> {
    this.#stale()
    this.#ackedFile = -1 // what went into an old connection may have been lost with it
    const link = await Link.open(this.#link)
    try {
      this.#open()
      await this.#subscribe(link)
      this.#open()
    } catch (error) {
      link.close().catch(() => undefined)
      throw error
    }
    this.#current = link
    this.#fresh = true
  }
  async #subscribe(link: Link): Promise<void> {
    if (this.#filter !== this.#subscribed) this.#track.forget()
    this.#subscribed = this.#filter
    const reply = link.request(
      SUBSCRIPTION,
      wire.writeSub({ ...this.#names(), filter: this.#filter }),
    )
    // Alibaba's server remembers what it gave to earlier connections. Before any get that comes while this is under way:
    // what that brought would come again, and nobody would know.
    this.#sendRollback(link)
    await reply
  }
  #sendRollback(link: Link): void {
    link.send(CLIENTROLLBACK, wire.writeClientRollback({ ...this.#names(), batchId: 0n }))
  }

  /** Waits and connects again; throws `error` where that cannot help. */
  async #recover(error: unknown, stop: AbortSignal): Promise<void> {
    let cause = error
    const { attempts = Infinity, delayMs = 100, delayMaxMs = 10_000, onRetry } = this.#retry
    for (;;) {
      const attempt = ++this.#failures
      if (!(cause instanceof SluiceError) || attempt > attempts || !mayPass(cause, this.#fresh))
        throw cause
      const full = Math.min(delayMaxMs, delayMs * 2 ** Math.min(attempt - 1, 30))
      const delay = full * (0.5 + Math.random() / 2)
      onRetry?.(cause, attempt, delay)
      await sleep(delay, undefined, { signal: stop }).catch(() => undefined)
      if (stop.aborted) return
      try {
        return await unlessAborted(this.#renew(), stop)
      } catch (next) {
        cause = next
      }
    }
  }
}

/** What a server says while an instance starts or restarts, Sluice or Alibaba's. */
const STARTING = /DESTINATION_UNKNOWN|should start first/
/** What it says of a cursor or a batch that was lost with the instance: a new subscription helps, once. */
const LOST = /CURSOR_CLOSED|NOT_SUBSCRIBED|BATCH_UNKNOWN|should subscribe first|is not exist/

/** Whether connecting again may help; `fresh`: nothing but this error has come since the last subscription. */
function mayPass(error: SluiceError, fresh: boolean): boolean {
  if (error.code !== 'SERVER_REFUSED')
    return error.code === 'DISCONNECTED' || error.code === 'CONNECT_FAILED'
  return STARTING.test(error.message) || (!fresh && LOST.test(error.message))
}

/** The promise's value, or undefined as soon as the signal is aborted; leaves no listener behind. */
function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T | undefined> {
  return new Promise((resolve, reject) => {
    const stop = (): void => resolve(undefined)
    if (signal.aborted) return stop()
    signal.addEventListener('abort', stop, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop))
  })
}
