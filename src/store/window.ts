/**
 * The window: transactions and parts in commit order, in memory, in a ring with sequence numbers that only rise; and
 * the arithmetic of places in the log that the store's files share. The window counts bytes and finds places; who may
 * evict what, and when, is the store's decision. It owns one reference to each entry's slab. Knows no cursors.
 */
import {
  comparePositions,
  fileNumber,
  formatPosition,
  type Position,
  type Transaction,
} from '../change.ts'
import { assert } from '../errors.ts'
import { GtidSet } from '../gtid.ts'

/** What orders positions: the epoch, then the place in that epoch's log. */
export type Place = Pick<Position, 'epoch' | 'file' | 'offset' | 'skip'>

/** Order of two places: negative, 0 or positive. Epochs rise, so a lower epoch is earlier whatever its files say. */
export function comparePlaces(a: Place, b: Place): number {
  return a.epoch - b.epoch || comparePositions(a, b)
}
/** Order of the end of a transaction or part, and a place; allocates nothing. */
export function compareEnd(tx: Transaction, place: Place): number {
  if (tx.epoch !== place.epoch) return tx.epoch - place.epoch
  const open = tx.state === 'open'
  const file = open ? tx.file : tx.endFile
  const files = file === place.file ? 0 : fileNumber(file) - fileNumber(place.file)
  const offsets = (open ? tx.offset : tx.endOffset) - place.offset
  return files || offsets || (open ? tx.next : 0) - place.skip
}
/** The place after a transaction or part. */
function endOf(tx: Transaction): Place {
  const { epoch } = tx
  if (tx.state === 'open') return { epoch, file: tx.file, offset: tx.offset, skip: tx.next }
  return { epoch, file: tx.endFile, offset: tx.endOffset, skip: 0 }
}
/** The place after changes[to - 1]; whether the part ends there or goes on, as its readers may cut it differently. */
export function placeAfter(tx: Transaction, to: number): Place {
  if (to === tx.changes.length && tx.state !== 'open') return endOf(tx)
  const { epoch, file, offset } = tx
  return { epoch, file, offset, skip: tx.changes[to - 1]!.ordinal + 1 }
}

/**
 * A position that moves: follows transactions without making a Position, and without copying a GTID set, for each.
 * `gained` holds the GTIDs since start().
 */
export class Track implements Place {
  epoch = 0
  server = ''
  file = ''
  offset = 0
  skip = 0
  timestamp = 0
  gained: GtidSet | undefined
  #base: GtidSet | undefined
  #position: Position | undefined
  constructor(from: Position) {
    this.start(from)
  }
  start(from: Position): void {
    this.#set(from.epoch, from.server, from.file, from.offset, from.skip, from.timestamp)
    this.gained = undefined
    this.#base = from.gtids
    this.#position = from
  }
  /** Past the whole of a transaction or part. The same as `advance` in change.ts. */
  pass(tx: Transaction): void {
    const { epoch, server, timestamp } = tx
    if (tx.state === 'open') this.#set(epoch, server, tx.file, tx.offset, tx.next, timestamp)
    else this.#set(epoch, server, tx.endFile, tx.endOffset, 0, timestamp)
    if (this.#base === undefined) return
    if (tx.skipped) this.#gain().merge(tx.skipped)
    if (tx.gtid && tx.state !== 'open') this.#gain().add(tx.gtid)
  }
  /** Into a transaction: its events below `ordinal` are done. */
  cut(tx: Transaction, ordinal: number): void {
    this.#set(tx.epoch, tx.server, tx.file, tx.offset, ordinal, tx.timestamp)
    if (this.#base !== undefined && tx.skipped) this.#gain().merge(tx.skipped)
  }
  /** Where it stands, as a value. */
  position(): Position {
    if (this.#position === undefined) {
      const { epoch, server, file, offset, skip, timestamp } = this
      const gtids = joinGtids(this.#base, this.gained)
      this.#position = { epoch, server, file, offset, skip, gtids, timestamp }
    }
    return this.#position
  }
  #gain(): GtidSet {
    return (this.gained ??= new GtidSet())
  }
  #set(
    epoch: number,
    server: string,
    file: string,
    offset: number,
    skip: number,
    timestamp: number,
  ): void {
    this.epoch = epoch
    this.server = server
    this.file = file
    this.offset = offset
    this.skip = skip
    this.timestamp = timestamp
    this.#position = undefined
  }
}
/** The furthest that a client was ever given: whether something was given before, also on another server. */
export class Furthest {
  #place: Place | undefined
  #gtids: GtidSet | undefined // whole transactions before it
  readonly #untilMs: number

  /** Everything up to this time may have been given before; by default nothing. */
  constructor(untilMs = -1) {
    this.#untilMs = untilMs
  }
  /** Whether what begins at `start` was given before, or a part of it. Across epochs only GTIDs say. */
  beyond(start: Position): boolean {
    const place = this.#place
    if (start.timestamp <= this.#untilMs) return true
    if (place === undefined) return false
    if (place.epoch === start.epoch || !start.gtids || !this.#gtids) {
      return comparePlaces(start, place) < 0
    }
    if (!start.gtids.includes(this.#gtids)) return true
    // of a transaction that was given in part another server gives all of it
    return place.skip > 0 && this.#gtids.includes(start.gtids)
  }
  /** A batch was given whose last change ends at `last`; behind it lies `end`. */
  reach(last: Place, end: Position): void {
    const place = this.#place
    const further =
      place === undefined ||
      (place.epoch === end.epoch ? comparePlaces(last, place) > 0 : !this.beyond(end))
    if (!further) return
    this.#place = last
    this.#gtids = end.gtids
  }
}
/** `base` with `gained` added: base itself when there is nothing to add. */
export function joinGtids(
  base: GtidSet | undefined,
  gained: GtidSet | undefined,
): GtidSet | undefined {
  if (base === undefined || gained === undefined) return base
  const joined = base.clone()
  joined.merge(gained)
  return joined
}

export class Window {
  bytesMax: number // as the store says
  bytes = 0
  /** Sequence number of the oldest entry; the next one to come where the window is empty. */
  head = 0
  /** Sequence number of the next entry to come. */
  tail = 0
  /** The place before the oldest entry. */
  start: Place
  /** What the main reader had had before each epoch, of those that the window may reach back to. */
  readonly #entered = new Map<number, GtidSet | undefined>()
  /** The place after the newest entry, where the main reader goes on. */
  readonly end: Track
  #ring: (Transaction | undefined)[] = Array.from({ length: 1024 })
  constructor(bytesMax: number, from: Position) {
    this.bytesMax = bytesMax
    this.start = from
    this.#entered.set(from.epoch, from.gtids)
    this.end = new Track(from)
  }
  get count(): number {
    return this.tail - this.head
  }
  /** Whether an entry of this size may be pushed; one larger than the whole window only when it is empty. */
  fits(bytes: number): boolean {
    return this.head === this.tail || this.bytes + bytes <= this.bytesMax
  }
  at(seq: number): Transaction | undefined {
    return seq >= this.head && seq < this.tail
      ? this.#ring[seq & (this.#ring.length - 1)]
      : undefined
  }
  push(tx: Transaction): void {
    if (compareEnd(tx, this.end) < 0) {
      const from = formatPosition(this.end)
      assert(
        false,
        `the main reader went back in the log, from ${from} to ${formatPosition(endOf(tx))}`,
      )
    }
    if (tx.epoch !== this.end.epoch) {
      for (const epoch of this.#entered.keys())
        if (epoch < this.start.epoch) this.#entered.delete(epoch)
      this.#entered.set(tx.epoch, this.end.position().gtids)
    }
    if (this.count === this.#ring.length) this.#grow()
    this.#ring[this.tail++ & (this.#ring.length - 1)] = tx
    this.bytes += tx.bytes
    this.end.pass(tx)
  }
  evict(): void {
    const tx = this.at(this.head)
    assert(tx, 'the window is empty')
    this.#ring[this.head++ & (this.#ring.length - 1)] = undefined
    this.bytes -= tx.bytes
    this.start = endOf(tx)
    tx.slab?.release()
  }
  /** Whether the window has everything after `place` (or will: places after its end count too). */
  reaches(place: Place): boolean {
    return comparePlaces(place, this.start) >= 0
  }
  /**
   * Whether a cursor that has read up to `track` on a reader of its own lacks nothing that the main reader passed over. What
   * that had from another server it does not read again on this one, where it may stand in any order.
   */
  joins(track: Track): boolean {
    const seen = this.#entered.get(track.epoch)
    if (seen === undefined) return true
    return track.position().gtids?.includes(seen) ?? true
  }
  /**
   * reaches(), and not on the edge where the next evictions pull the ground away: a quarter in, or room left.
   * Keeps a cursor that has just caught up from falling out again at once.
   */
  reachesWell(place: Place): boolean {
    if (this.bytes < this.bytesMax - this.bytesMax / 4) return this.reaches(place)
    const tx = this.at(this.head + (this.count >> 2))
    return tx === undefined ? this.reaches(place) : compareEnd(tx, place) <= 0
  }
  /** Sequence number of the first entry that ends after `place`; -1 where the window does not reach back that far. */
  locate(place: Place): number {
    if (!this.reaches(place)) return -1
    let low = this.head
    let high = this.tail
    while (low < high) {
      const middle = low + ((high - low) >> 1)
      if (compareEnd(this.at(middle)!, place) > 0) high = middle
      else low = middle + 1
    }
    return low
  }
  #grow(): void {
    const ring: (Transaction | undefined)[] = Array.from({ length: this.#ring.length * 2 })
    for (let seq = this.head; seq < this.tail; seq++) ring[seq & (ring.length - 1)] = this.at(seq)
    this.#ring = ring
  }
}
