/**
 * The store of one instance: transactions in commit order in a window of bounded bytes, and every client's cursor over
 * them. A cursor pins nothing: the window moves on as soon as one open cursor has read its oldest entry, and who falls
 * out reads from the source on his own until he is back. Only when no open cursor has read the oldest entry does
 * append wait, and with it the main reader, its socket and MySQL. What every client has acked leaves at once. What is larger than
 * the whole window is alone in memory: nothing more is read before it was let go, unless somebody waits who has done with it.
 *
 * Acked positions, batch ids and subscriptions are durable in the State it is given, which stays the owner's to close.
 * Must not know where transactions come from, nor who reads them.
 */
import type { Filter, Position, Source, Transaction } from '../change.ts'
import { assert } from '../errors.ts'
import { Tally, Wanted } from './batch.ts'
import { type Log, Readers } from './catchup.ts'
import { ackedOf, type Client, ClientCursor, type Cursor } from './cursor.ts'
import type { State } from './state.ts'
import { compareEnd, comparePlaces, Furthest, type Place, Window } from './window.ts'

export type { Log } from './catchup.ts'
export type { Batch, Cursor, Limit, Part } from './cursor.ts'

const QUEUE_BYTES_MAX = 8 * 1024 * 1024
const READER_IDLE_MS = 2000
const AHEAD_MS = 1000 // so long nobody moves before the window moves on, where it may

export interface StoreOptions {
  readonly instance?: string // whose it is, for whoever listens (diagnostics.ts)
  readonly windowBytes: number
  readonly catchUpReaders: number // at most at once; further cursors queue
  readonly catchUp: Source['read'] // own connection, server_id and replica uuid for each call
  readonly readerIdleMs?: number // a catch-up reader that nobody asks for so long gives way to one that waits; 2000
  readonly state: State // stays open when the store closes
  readonly origin: Position // where a client that was never seen starts
  readonly log: Log
  /** Where the main reader begins; undefined: as resumeFrom says. */
  readonly resume?: Position | undefined
  /** What leaves the window unread can be read again without a source: append does not wait for who does not move. */
  readonly ahead?: boolean
  readonly againUntilMs?: number | undefined // up to this time of the source anything may have been given out before
  /** What stands between a cursor and who reads it; left out, nothing. */
  readonly join?: ((cursor: ClientCursor) => Cursor) | undefined
}
export interface SubscribeOptions {
  readonly filter?: Filter | undefined // undefined: everything
  readonly filterText?: string | undefined // stored with the subscription; undefined keeps what is stored, else ''
  readonly from?: Position | undefined // only for a client never seen; default: origin
  readonly moveTo?: Position | undefined // outranks what is known: acked is set to it, durably
}
export interface CursorStatus {
  readonly client: string
  readonly state: 'live' | 'catchUp' | 'away' // reads from the window; from its own reader (or waits for one); not open
  readonly acked: Position
  readonly read: Position
  readonly outstanding: number // batches
  readonly lagMs: number // of `acked` behind the newest transaction in the store
  readonly subscribed: boolean
  readonly tally: Readonly<Omit<Tally, 'give' | 'ack'>>
}
export interface StoreStatus {
  readonly bytes: number
  readonly windowBytes: number
  readonly transactions: number // in the window, parts counted
  readonly first: Place
  readonly last: Position
  readonly braking: boolean // an append waits for room
  readonly readers: number // catch-up readers running
  readonly cursors: readonly CursorStatus[]
}
interface Pending {
  readonly tx: Transaction
  readonly admitted: () => void
}

export class Store {
  readonly #options: StoreOptions
  readonly #window: Window
  readonly #readers: Readers
  readonly #clients = new Map<string, Client>()
  #open: ClientCursor[] = []
  #pending: Pending | undefined
  #oversize: { readonly tx: Transaction; readonly over: () => void } | undefined
  #closed = false

  constructor(options: StoreOptions) {
    const { windowBytes, catchUpReaders, catchUp, state, origin, log, againUntilMs } = options
    this.#options = options
    for (const { client, acked, reserved, filterText } of state.cursors()) {
      this.#clients.set(client, newClient(client, acked, reserved, filterText, againUntilMs))
    }
    const acks = [...this.#clients.values()].map((client) => client.acked)
    const resume = options.resume ?? resumeFrom(acks, origin, windowBytes)
    this.#window = new Window(windowBytes, resume)
    this.#readers = new Readers({
      max: catchUpReaders,
      queueBytes: Math.min(windowBytes / 4, QUEUE_BYTES_MAX),
      idleMs: options.readerIdleMs ?? READER_IDLE_MS,
      read: catchUp,
      log,
    })
  }

  /**
   * Takes over the caller's reference to the slab. Returns a promise only when it must wait for room, or until one that is
   * larger than the window was let go; that resolves quietly, where it waited for room without the transaction appended, when
   * `signal` is aborted or the store is closed.
   */
  append(tx: Transaction, signal: AbortSignal): void | Promise<void> {
    const waits = this.#pending !== undefined || this.#oversize !== undefined
    assert(!waits, 'two transactions were appended at once')
    if (this.#closed || signal.aborted) {
      tx.slab?.release()
      return undefined
    }
    if (!this.#makeRoom(tx.bytes)) return this.#brake(tx, signal)
    this.#push(tx)
    return this.#letGo(tx) ? undefined : this.#until(tx, signal)
  }
  /** Where the main reader (re)starts: at first by resumeFrom, later after the newest transaction appended. */
  get resume(): Position {
    return this.#window.end.position()
  }

  /** Another size of the window. What is too much leaves as soon as an open cursor has read it. */
  resize(windowBytes: number): void {
    this.#window.bytesMax = windowBytes
    this.#admit()
  }

  /**
   * Opens a client's cursor; one that is already open is taken over: it throws CURSOR_TAKEN from now on, and the new
   * one starts at what it had acked. Durable when it returns. Throws as State's writes do.
   */
  subscribe(name: string, options: SubscribeOptions = {}): Cursor {
    assert(!this.#closed, 'a closed store was subscribed to')
    const { state, origin } = this.#options
    const known = this.#clients.get(name)
    const filterText = options.filterText ?? known?.filterText ?? ''
    const client = known ?? newClient(name, options.from ?? origin, 1n, undefined)
    if (client.filterText !== filterText) {
      state.subscribe(name, ackedOf(client), filterText)
      client.filterText = filterText
      this.#clients.set(name, client)
    }
    client.cursor?.end(
      'CURSOR_TAKEN',
      `client ${name} has subscribed again; this cursor was taken over`,
    )
    if (options.moveTo !== undefined) {
      client.acked = options.moveTo
      void state.ack(name, options.moveTo).catch(() => {}) // flush() throws it
      state.flush()
    }
    const host = {
      instance: this.#options.instance ?? '',
      window: this.#window,
      readers: this.#readers,
      state,
      moved: (): void => this.#admit(),
      released: this.#released,
      acked: (): void => this.#trim(),
      closed: (closed: ClientCursor): void => {
        this.#open = this.#open.filter((open) => open !== closed)
      },
    }
    const cursor = new ClientCursor(host, client, new Wanted(options.filter))
    client.cursor = cursor
    this.#open.push(cursor)
    this.#admit()
    return this.#options.join?.(cursor) ?? cursor
  }
  subscription(name: string): { readonly filterText: string } | undefined {
    const filterText = this.#clients.get(name)?.filterText
    return filterText === undefined ? undefined : { filterText }
  }
  /** Closes an open cursor and removes the subscription; the acked position stays. Durable when it returns. */
  unsubscribe(name: string): void {
    const client = this.#clients.get(name)
    if (client?.filterText === undefined) return
    client.cursor?.end('CURSOR_CLOSED', `client ${name} was unsubscribed`)
    this.#options.state.unsubscribe(name)
    client.filterText = undefined
  }
  /** Closes an open cursor and removes everything known about the client. Durable when it returns. */
  forget(name: string): void {
    const client = this.#clients.get(name)
    if (client === undefined) return
    client.cursor?.end('CURSOR_CLOSED', `client ${name} was removed`)
    this.#options.state.remove(name)
    this.#clients.delete(name)
  }

  /** Everybody a cursor is known of. */
  clients(): string[] {
    return [...this.#clients.keys()]
  }
  /** Lets an open cursor read again from what its client has acked; false where it is not open. */
  rollBack(name: string): boolean {
    const cursor = this.#clients.get(name)?.cursor
    cursor?.rollback()
    return cursor !== undefined
  }

  status(): StoreStatus {
    const window = this.#window
    const last = window.end.position()
    const cursors = [...this.#clients.values()].map((client) => statusOf(client, last))
    return {
      bytes: window.bytes,
      windowBytes: window.bytesMax,
      transactions: window.count,
      first: window.start,
      last,
      braking: this.#pending !== undefined || this.#oversize !== undefined,
      readers: this.#readers.running,
      cursors,
    }
  }

  /** Closes every cursor, stops readers, makes acks durable, gives every slab back. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    for (const client of this.#clients.values()) {
      client.cursor?.end(
        'CURSOR_CLOSED',
        `the store that client ${client.name} reads from was closed`,
      )
    }
    if (this.#pending) {
      this.#pending.tx.slab?.release()
      this.#pending.admitted()
    }
    this.#oversize?.over()
    while (this.#window.count > 0) this.#window.evict()
    await this.#readers.ended()
    this.#options.state.flush()
  }

  // ── room ───────────────────────────────────────────────────────────────────

  #push(tx: Transaction): void {
    this.#window.push(tx)
    for (const cursor of this.#open) cursor.arrived()
  }
  /** Whether there is room, evicting what an open cursor has read; who has not reads it from the source later. */
  #makeRoom(bytes: number): boolean {
    const window = this.#window
    while (!window.fits(bytes)) {
      if (!this.#passed()) return false
      window.evict()
    }
    return true
  }
  /** Whether the window's oldest entry may leave. */
  #passed(): boolean {
    return (
      this.#open.some(isPastOldest) || (this.#options.ahead === true && !this.#open.some(isLive))
    )
  }
  /** Nobody has moved for a while, and can be served from elsewhere: the window moves on without him. */
  #patience(over: () => void): NodeJS.Timeout | undefined {
    if (this.#options.ahead !== true) return undefined
    const check = (): void => {
      if (!this.#open.some(isPastOldest) && this.#window.count > 0) this.#window.evict()
      over()
    }
    return setInterval(check, AHEAD_MS).unref()
  }
  async #brake(tx: Transaction, signal: AbortSignal): Promise<void> {
    await this.#room(tx, signal)
    if (!signal.aborted && !this.#closed && !this.#letGo(tx)) await this.#until(tx, signal)
  }
  #room(tx: Transaction, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const patience = this.#patience(() => this.#admit())
      const admitted = (): void => {
        clearInterval(patience)
        this.#pending = undefined
        signal.removeEventListener('abort', aborted)
        resolve()
      }
      const aborted = (): void => {
        tx.slab?.release()
        admitted()
      }
      signal.addEventListener('abort', aborted, { once: true })
      this.#pending = { tx, admitted }
    })
  }
  /**
   * Whether nobody needs the memory of what was just appended: true of all that fits into the window. More than that leaves it
   * as soon as one open cursor has read it, and is waited for until its batch is released.
   */
  #letGo(tx: Transaction): boolean {
    const window = this.#window
    if (tx.bytes <= window.bytesMax) return true
    while (window.bytes > window.bytesMax) {
      if (!this.#passed()) return false
      window.evict()
    }
    return tx.slab?.free !== false || this.#open.some((cursor) => cursor.waits)
  }
  #until(tx: Transaction, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const patience = this.#patience(() => this.#released())
      const over = (): void => {
        clearInterval(patience)
        this.#oversize = undefined
        signal.removeEventListener('abort', over)
        resolve()
      }
      signal.addEventListener('abort', over, { once: true })
      this.#oversize = { tx, over }
    })
  }
  #released = (): void => {
    const oversize = this.#oversize
    if (oversize && this.#letGo(oversize.tx)) oversize.over()
  }
  #admit(): void {
    this.#released()
    const pending = this.#pending
    if (pending === undefined || !this.#makeRoom(pending.tx.bytes)) return
    pending.admitted()
    this.#push(pending.tx)
  }
  /**
   * Drops what every client has acked, so that memory is used for lag only. A closed cursor that stands before the
   * window has no use for it; while an open one is on its way back into it, nothing is dropped.
   */
  #trim(): void {
    const window = this.#window
    if (window.count === 0) return
    let least: Place | undefined
    for (const { cursor, acked } of this.#clients.values()) {
      let place = cursor?.ackedPlace ?? acked
      if (!window.reaches(place)) {
        if (cursor === undefined) continue
        if (!cursor.live) return
        place = cursor.readPlace
      }
      if (least === undefined || comparePlaces(place, least) < 0) least = place
    }
    if (least === undefined) return
    for (;;) {
      const oldest = window.at(window.head)
      if (oldest === undefined || compareEnd(oldest, least) > 0) break
      window.evict()
    }
    this.#admit()
  }
}

const isLive = (cursor: ClientCursor): boolean => cursor.live
const isPastOldest = (cursor: ClientCursor): boolean => cursor.pastOldest

function newClient(
  name: string,
  acked: Position,
  reserved: bigint,
  filterText: string | undefined,
  againUntilMs?: number,
): Client {
  const nextId = reserved // ids of a block that was not used up before a restart are never given out
  return {
    name,
    acked,
    nextId,
    reserved,
    furthest: new Furthest(againUntilMs),
    tally: new Tally(),
    filterText,
    cursor: undefined,
  }
}

function statusOf(client: Client, last: Position): CursorStatus {
  const { cursor } = client
  const acked = ackedOf(client)
  const atEnd = comparePlaces(acked, last) >= 0
  return {
    client: client.name,
    state: cursor === undefined ? 'away' : cursor.live ? 'live' : 'catchUp',
    acked,
    read: cursor?.read ?? acked,
    outstanding: cursor?.outstanding ?? 0,
    lagMs: atEnd ? 0 : Math.max(0, last.timestamp - acked.timestamp),
    subscribed: client.filterText !== undefined,
    tally: client.tally,
  }
}

/**
 * Where the main reader begins after a restart: at the oldest acked position that lies within the window's bytes of
 * the newest one, so that clients close to each other need no readers of their own. How much lies between two files is
 * not known: other files count as too far. Without cursors: the origin.
 */
export function resumeFrom(
  acks: readonly Position[],
  origin: Position,
  windowBytes: number,
): Position {
  let newest: Position | undefined
  for (const acked of acks) if (!newest || comparePlaces(acked, newest) > 0) newest = acked
  if (newest === undefined) return origin
  let oldest = newest
  for (const acked of acks) {
    const near =
      acked.epoch === newest.epoch &&
      acked.file === newest.file &&
      newest.offset - acked.offset <= windowBytes
    if (near && comparePlaces(acked, oldest) < 0) oldest = acked
  }
  return oldest
}
