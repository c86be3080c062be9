/**
 * A cursor: one client's place in the log. get reads from the window, or from a reader of its own while its place is
 * outside; what the client's filter does not want is passed over. Acks in order move `acked`, rollback goes back to it.
 *
 * The base is the end of the newest outstanding batch, or `acked` where none is outstanding; the track is where the
 * next change is taken from, at or past the base. Outstanding batches cost only metadata: each keeps the GTIDs it
 * gained, not a set of its own. Must not know sources, the wire, or other cursors.
 *
 * Over 500 lines because get, ack and rollback share one state, which nobody else may see.
 */
import { formatPosition, type Position, type Transaction } from '../change.ts'
import { ackChannel, batchChannel } from '../diagnostics.ts'
import { assert, type ErrorCode, SluiceError } from '../errors.ts'
import type { GtidSet } from '../gtid.ts'
import {
  type Batch,
  type Cursor,
  Draft,
  type Limit,
  orderOf,
  type Size,
  type Tally,
  turn,
  type Wanted,
} from './batch.ts'
import type { CatchUp, Readers } from './catchup.ts'
import { Fifo } from './fifo.ts'
import type { State } from './state.ts'
import {
  compareEnd,
  comparePlaces,
  type Furthest,
  joinGtids,
  type Place,
  placeAfter,
  Track,
  type Window,
} from './window.ts'

export type { Batch, Cursor, Limit, Part } from './batch.ts'

const OUTSTANDING_MAX = 65_536
const ID_BLOCK = 1000n // batch ids reserved durably at a time
const LINGER_MS = 2
const TURN_TRANSACTIONS = 10_000 // after so many without an end, other work gets its turn
const TIMER_MAX_MS = 2 ** 31 - 1

/** What is known about a client, whether its cursor is open or not. */
export interface Client {
  readonly name: string
  acked: Position // kept up to date by the open cursor when it closes
  nextId: bigint
  reserved: bigint // ids below this may be given out
  readonly furthest: Furthest // in this process
  readonly tally: Tally // in this process
  filterText: string | undefined
  cursor: ClientCursor | undefined
}
/** Where a client stands, whether its cursor is open or not. */
export const ackedOf = (client: Client): Position => client.cursor?.acked ?? client.acked

/** What a cursor needs of its store. */
export interface Host {
  readonly instance: string
  readonly window: Window
  readonly readers: Readers
  readonly state: State
  /** The cursor has read on: the window may have room now. */
  moved(): void
  /** The cursor has let go of what it had given out. */
  readonly released: () => void
  /** The cursor's acked place has moved. */
  acked(): void
  closed(cursor: ClientCursor): void
}
/** An outstanding batch: its id follows from its place in the list. */
interface Outstanding {
  readonly end: Omit<Position, 'gtids'>
  readonly gained: GtidSet | undefined
  readonly size: Size
}

export class ClientCursor implements Cursor {
  readonly client: string
  readonly #client: Client
  readonly #host: Host
  readonly #wanted: Wanted
  /** Told when outstanding batches are dropped, to be given out again. */
  rolledBack: (() => void) | undefined
  #ended: { readonly code: ErrorCode; readonly text: string } | undefined
  // acknowledged and outstanding
  #acked: Position
  #base: Position
  #slid = false // nothing is outstanding and the track has passed over changes: `acked` is the track's place
  readonly #outstanding = new Fifo<Outstanding>()
  #firstId = 0n // of the first in #outstanding
  // reading
  readonly #track: Track
  #reader: CatchUp | undefined
  #joined = -1 // the epoch in which it lacks nothing that the window passed over
  #seq = -1 // the entry to read in the window; behind it: the window no longer reaches back
  #index = 0 // the change to read in the current entry
  #aligned = false // whether the current entry was compared with the track's place
  #draft: Draft | undefined
  #lastPart: Place | undefined // where the draft's last change ends
  // a get that waits
  #limit: Limit | undefined
  #wake: (() => void) | undefined
  #askedAt = 0

  constructor(host: Host, client: Client, wanted: Wanted) {
    this.client = client.name
    this.#client = client
    this.#host = host
    this.#wanted = wanted
    this.#acked = client.acked
    this.#base = client.acked
    this.#track = new Track(client.acked)
    this.#goTo(client.acked)
  }

  get acked(): Position {
    if (this.#slid) this.#settle()
    return this.#acked
  }
  get ackedPlace(): Place {
    return this.#slid ? this.#track : this.#acked
  }
  get read(): Position {
    return this.#track.position()
  }
  get ended(): boolean {
    return this.#ended !== undefined
  }
  get readPlace(): Place {
    return this.#track
  }
  get outstanding(): number {
    return this.#outstanding.length
  }
  /** Whether it reads, or will read, from the window. */
  get live(): boolean {
    if (this.#reader !== undefined) return false
    return this.#seq >= this.#host.window.head || this.#reached
  }
  /** Whether the window has all that comes next; on which server that was looked at is remembered. */
  get #reached(): boolean {
    const { window } = this.#host
    const { epoch } = this.#track
    if (this.#joined !== epoch && window.joins(this.#track)) this.#joined = epoch
    return this.#joined === epoch && window.reaches(this.#track)
  }
  /** Whether it has read the window's oldest entry. */
  get pastOldest(): boolean {
    const { window } = this.#host
    if (!this.live) return false
    if (this.#seq > window.head) return true
    const oldest = window.at(window.head)
    return oldest !== undefined && compareEnd(oldest, this.#track) <= 0
  }

  /** Whether a get waits and has all there is in the window. */
  get waits(): boolean {
    return this.#limit !== undefined && this.#draft === undefined && this.live
  }

  async get(limit: Limit, signal: AbortSignal): Promise<Batch | undefined> {
    this.#check()
    assert(this.#limit === undefined, 'a cursor was asked for a batch while another get waits')
    this.#checkRoom()
    this.#limit = limit
    this.#askedAt = performance.now()
    try {
      return await this.#gather(limit, signal)
    } catch (error) {
      this.#dropDraft()
      throw error
    } finally {
      this.#limit = undefined
      this.#askedAt = performance.now()
    }
  }

  /**
   * Gives out changes[from, to) of something that is not in the log, of `bytes`, as a batch at the place where reading stands;
   * between two gets. Throws as get does.
   */
  give(tx: Transaction, from: number, to: number, bytes: number): Batch {
    this.#check()
    assert(this.#limit === undefined, 'a cursor gave something out while a get waits')
    this.#checkRoom()
    const draft = this.#begin()
    draft.add(tx, from, to)
    draft.changes = to - from
    draft.bytes = bytes
    this.#lastPart = this.#track.position()
    return this.#finish(draft)
  }

  ack(id: bigint): Promise<void> {
    try {
      this.#check()
      this.#checkOldest(id)
    } catch (error) {
      return Promise.reject(error)
    }
    const { end, gained, size } = this.#outstanding.shift()!
    this.#client.tally.ack(size)
    if (ackChannel.hasSubscribers) {
      const { client } = this
      ackChannel.publish({ instance: this.#host.instance, client, id, ...size })
    }
    this.#firstId++
    if (this.#outstanding.length > 0) {
      this.#acked = { ...end, gtids: joinGtids(this.#acked.gtids, gained) }
    } else {
      this.#acked = this.#base
      this.#slid = this.#draft === undefined && comparePlaces(this.#track, this.#base) > 0
    }
    const durable = this.#host.state.ack(this.client, this.acked)
    this.#host.acked()
    return durable
  }

  rollback(id?: bigint): void {
    this.#check()
    if (id !== undefined) this.#checkOldest(id)
    // Canal's clients roll back whenever they connect: where nothing is outstanding there is nothing to read again.
    if (this.#outstanding.length === 0 && this.#draft === undefined) return
    this.#client.tally.rollbacks++
    this.#outstanding.clear()
    this.#dropDraft()
    this.#goTo(this.acked)
    this.rolledBack?.()
    this.#wake?.()
  }

  close(): void {
    this.end('CURSOR_CLOSED', `the cursor of client ${this.client} was closed`)
  }
  /** Closes it; every later call throws this error. Idempotent. */
  end(code: ErrorCode, text: string): void {
    if (this.#ended) return
    this.#ended = { code, text }
    this.#outstanding.clear()
    this.#dropDraft()
    this.#client.acked = this.acked
    this.#client.cursor = undefined
    this.#stopReader()
    this.#host.closed(this)
    this.#wake?.()
  }
  /** The window has a new entry. Passes over what is not wanted without waking the get that waits. */
  arrived(): void {
    if (this.#wake === undefined || this.#reader !== undefined || this.#limit === undefined) return
    const result = this.#collect(this.#limit)
    if (this.#draft || result === 'turn') this.#wake()
  }

  // ── get ────────────────────────────────────────────────────────────────────

  async #gather(limit: Limit, signal: AbortSignal): Promise<Batch | undefined> {
    const started = this.#askedAt
    let lingerEnd = 0
    let before = 0
    for (;;) {
      if (signal.aborted) {
        this.#dropDraft()
        return undefined
      }
      this.#check()
      const result = this.#collect(limit)
      if (result === 'turn') {
        await turn()
        continue
      }
      const now = performance.now()
      if (this.#draft) {
        // Lingers while each turn of the event loop brings more, not for a clock: an idle source is not waited for.
        if (result !== 'full' && this.#incomplete(limit)) {
          await this.#sleep(Infinity, signal)
          continue
        }
        if (result === 'full' || limit.waitMs === 0) return this.#finish(this.#draft)
        if (lingerEnd === 0) lingerEnd = now + LINGER_MS
        else if (now >= lingerEnd || this.#draft.changes === before)
          return this.#finish(this.#draft)
        before = this.#draft.changes
        await turn()
        continue
      }
      lingerEnd = 0
      const leftMs = started + limit.waitMs - now
      if (leftMs <= 0 || limit.waitMs === 0) return undefined
      await this.#sleep(leftMs, signal)
    }
  }

  /** Whether the rest of the draft's last transaction is to be waited for. It comes, or its reader ends. */
  #incomplete({ wholeBytes = 0 }: Limit): boolean {
    if (this.#track.skip === 0 || this.#reader?.ended) return false
    const draft = this.#draft!
    return draft.bytes - draft.bytesBefore < wholeBytes
  }
  #finish(draft: Draft): Batch {
    const client = this.#client
    if (client.nextId >= client.reserved) {
      const reserved = client.nextId + ID_BLOCK
      this.#host.state.reserve(client.name, reserved)
      client.reserved = reserved
    }
    const id = client.nextId++
    const { gained } = this.#track
    const end = this.#track.position()
    const redelivered = client.furthest.beyond(draft.start)
    client.furthest.reach(this.#lastPart!, end)
    if (this.#outstanding.length === 0) this.#firstId = id
    const { gtids: _, ...place } = end // a set per batch would cost much
    const size = { changes: draft.changes, bytes: draft.bytes }
    this.#outstanding.push({ end: place, gained, size })
    this.#base = end
    this.#track.start(end)
    this.#draft = undefined
    client.tally.give(size)
    if (batchChannel.hasSubscribers) {
      batchChannel.publish({
        instance: this.#host.instance,
        client: client.name,
        id,
        ...size,
        redelivered,
        start: formatPosition(draft.start),
        end: formatPosition(end),
        committedAt: end.timestamp,
      })
    }
    return draft.finish(id, end, redelivered, this.#wanted)
  }

  /** Until something is there, the time is up, or the cursor's fate has changed: the caller looks which. */
  #sleep(waitMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        this.#wake = undefined
        clearTimeout(timer)
        signal.removeEventListener('abort', done)
        resolve()
      }
      const timer =
        waitMs === Infinity ? undefined : setTimeout(done, Math.min(waitMs, TIMER_MAX_MS))
      signal.addEventListener('abort', done, { once: true })
      this.#wake = done
    })
  }

  // ── reading ────────────────────────────────────────────────────────────────

  /** Takes what is there into the draft. 'turn': there is more, but others must have their turn. */
  #collect(limit: Limit): 'full' | 'dry' | 'turn' {
    let result: 'full' | 'dry' | 'turn' | undefined
    let passed = 0
    while (result === undefined) {
      const tx = this.#current()
      if (tx === undefined) result = 'dry'
      else if (!this.#take(tx, limit)) result = 'full'
      else {
        this.#track.pass(tx)
        this.#step()
        if (++passed === TURN_TRANSACTIONS) result = 'turn'
      }
    }
    const draft = this.#draft
    if (draft?.full(limit, this.#track.skip > 0)) result = 'full'
    if (passed > 0 && !draft && this.#outstanding.length === 0) this.#slide()
    const { window } = this.#host
    const { tail } = window
    this.#host.moved()
    // An append that waited for us may have come in just now, when nobody had to be woken.
    return result === 'dry' && window.tail > tail ? 'turn' : result
  }

  /** The transaction or part to read next, `#index` set; undefined when it is not there yet. */
  #current(): Transaction | undefined {
    for (;;) {
      const tx = this.#reader ? this.#fromReader(this.#reader) : this.#fromWindow()
      if (tx === undefined) return undefined
      if (tx === 'moved') continue
      if (this.#aligned) return tx
      const track = this.#track
      if (compareEnd(tx, track) <= 0) {
        this.#step()
        continue
      }
      this.#aligned = true
      // Parts of two readers need not begin at the same change: ordinals say what of this one is done.
      const same = tx.offset === track.offset && tx.file === track.file && tx.epoch === track.epoch
      if (track.skip > 0 && same) {
        const at = tx.changes.findIndex((change) => change.ordinal >= track.skip)
        this.#index = at < 0 ? tx.changes.length : at
      }
      return tx
    }
  }
  #fromWindow(): Transaction | 'moved' | undefined {
    const { window, readers } = this.#host
    if (this.#seq >= window.head) return window.at(this.#seq)
    this.#locate() // entries that end before our place may have gone without us
    if (this.#seq >= window.head) return 'moved'
    const asker = {
      client: this.client,
      wake: (): void => this.#wake?.(),
      askedAt: (): number => (this.#limit ? performance.now() : this.#askedAt),
    }
    this.#reader = readers.open(this.#track.position(), asker)
    return 'moved'
  }
  #fromReader(reader: CatchUp): Transaction | 'moved' | undefined {
    const { window } = this.#host
    const tx = reader.peek()
    if (this.#reached && (!tx || window.reachesWell(this.#track))) {
      this.#stopReader()
      this.#locate()
      return 'moved'
    }
    if (tx || !reader.ended) return tx
    if (reader.error !== undefined && this.#draft) return undefined // first what came before it
    this.#stopReader()
    this.#locate()
    if (reader.error !== undefined) throw reader.error
    return 'moved'
  }
  #step(): void {
    if (this.#reader) this.#reader.shift()
    else this.#seq++
    this.#index = 0
  }

  /**
   * Takes what is wanted of a transaction or part into the draft; false when the draft is full before its end.
   * A whole transaction of which nothing is wanted is passed over with its begin and commit; of one that is begun, or
   * comes in parts, begin and commit are always given: what else it holds is not known, or was given already.
   */
  #take(tx: Transaction, limit: Limit): boolean {
    const { changes } = tx
    const whole = tx.first === 0 && tx.state !== 'open' && this.#track.skip === 0
    if (whole && !this.#wanted.wantsAny(changes)) return true
    let from = -1
    let to = -1
    for (let i = this.#index; i < changes.length; i++) {
      const change = changes[i]!
      if (!this.#wanted.wants(change)) continue
      const size = change.event.end - change.event.start
      const draft = (this.#draft ??= this.#begin())
      const kind = limit.apart?.(tx, change)
      const begun = from >= 0 || this.#track.skip > 0
      if (!begun) draft.bytesBefore = draft.bytes
      if (draft.endsBefore(limit, kind, size, begun)) {
        if (from < 0) return false
        this.#add(draft, tx, from, to)
        this.#track.cut(tx, changes[to - 1]!.ordinal + 1)
        this.#index = to
        return false
      }
      draft.kind = kind
      draft.changes++
      draft.bytes += size
      if (from < 0) from = i
      to = i + 1
    }
    if (from >= 0) this.#add(this.#draft!, tx, from, to)
    return true
  }
  #begin(): Draft {
    if (this.#slid) this.#settle()
    return new Draft(this.#track.position(), this.#host.released)
  }
  #add(draft: Draft, tx: Transaction, from: number, to: number): void {
    draft.add(tx, from, to)
    this.#lastPart = placeAfter(tx, to)
  }

  // ── places ─────────────────────────────────────────────────────────────────

  #goTo(position: Position): void {
    this.#stopReader()
    this.#joined = -1 // it may lack again what it had
    this.#base = position
    this.#track.start(position)
    this.#locate()
  }
  #locate(): void {
    this.#seq = this.#reached ? this.#host.window.locate(this.#track) : -1
    this.#index = 0
    this.#aligned = false
  }
  #stopReader(): void {
    this.#reader?.stop()
    this.#reader = undefined
  }
  #dropDraft(): void {
    if (!this.#draft) return
    this.#draft.release()
    this.#draft = undefined
    this.#goTo(this.#base)
  }
  /** Everything since the last ack was passed over: the acked place moves along, durably before long. */
  #slide(): void {
    if (!this.#slid) this.#host.state.ackLater(this.client, () => ackedOf(this.#client))
    this.#slid = true
    this.#host.acked()
  }
  #settle(): void {
    this.#acked = this.#track.position()
    this.#base = this.#acked
    this.#track.start(this.#acked)
    this.#slid = false
  }

  #check(): void {
    if (this.#ended) throw new SluiceError(this.#ended.code, this.#ended.text)
  }
  #checkRoom(): void {
    if (this.#outstanding.length < OUTSTANDING_MAX) return
    throw new SluiceError(
      'TOO_MANY_BATCHES',
      `client ${this.client} has ${OUTSTANDING_MAX} batches outstanding; it must ack or roll back before it gets more`,
    )
  }
  #checkOldest(id: bigint): void {
    const wrong = orderOf(this.client, id, this.#firstId, BigInt(this.#outstanding.length))
    if (wrong !== undefined) throw wrong
  }
}
