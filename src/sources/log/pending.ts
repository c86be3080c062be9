/**
 * The transaction that is being read: its kept events, contiguous in one slab, and what is known of each as plain
 * numbers in blocks that many transactions share, so that a kept event costs no object before its transaction is whole.
 * Moves everything to a new slab, or block, when the tail of the one at hand is too short; events taken back leave no
 * trace. Decodes nothing.
 */
import type { Format } from '../../binlog/reader.ts'
import type { QueryChange, Table } from '../../change.ts'
import { SLAB_BYTES, type Slab, type Slabs } from '../../slab.ts'

/** The event at hand; one object, reused. bytes[start, end) leaves a checksum out. */
export interface Event {
  bytes: Buffer
  start: number
  end: number
  type: number
  offset: number // as in RawEvent
  length: number // as in RawEvent
  ordinal: number
}

export type RowsKind = 'insert' | 'update' | 'delete'
/** What a change consists of beside its event. */
export type Detail =
  | { readonly kind: 'begin'; readonly xid: string }
  | { readonly kind: 'commit'; readonly xid: string; readonly xa: boolean }
  | RowsDetail
  | Omit<QueryChange, 'ordinal' | 'event'>
  | typeof XID
/** One object for all rows events of one kind of one table map. */
export interface RowsDetail {
  readonly kind: RowsKind
  readonly table: Table
  readonly format: Format
}
export const isRows = (detail: Detail): detail is RowsDetail =>
  detail.kind === 'insert' || detail.kind === 'update' || detail.kind === 'delete'
/** An XID event: its change is made from the event itself. */
export const XID = { kind: 'xid' } as const

/** The changes of a transaction before somebody asks for them: most of the time nobody does until it is delivered. */
export interface Kept {
  readonly bytes: Buffer
  /** Of each change, from `at` on, NUMBERS: start, end, offset and length as in RawEvent, ordinal, index in `details`. */
  readonly numbers: Float64Array
  readonly details: readonly Detail[]
  readonly at: number
  readonly count: number
}
export const NUMBERS = 6
/** The same numbers, or with more room behind them, for `more` from `at` on. */
export function withRoom(
  numbers: Float64Array<ArrayBuffer>,
  at: number,
  more: number,
): Float64Array<ArrayBuffer> {
  if (at + more <= numbers.length) return numbers
  const larger = new Float64Array(Math.max(numbers.length * 2, at + more))
  larger.set(numbers)
  return larger
}
const BLOCK = 1024 // changes
const FIRST_BLOCK = 32 // a reader may be short-lived
const DETAILS = 64 // with more, the next transaction begins a list of its own
const NOTHING: Kept = {
  bytes: Buffer.alloc(0),
  numbers: new Float64Array(0),
  details: [],
  at: 0,
  count: 0,
}

export interface TakenPart {
  readonly kept: Kept
  readonly slab: Slab | undefined
  readonly bytes: number // what it counts in the window
}

/** What a transaction counts in the window beside its raw bytes. */
const TRANSACTION_OVERHEAD = 400
const CHANGE_OVERHEAD = 250

export class Pending {
  /** Kept events that are changes. */
  count = 0
  readonly #pool: Slabs
  #slab: Slab | undefined
  #from = 0 // where the transaction's bytes begin in the slab
  #numbers = new Float64Array(FIRST_BLOCK * NUMBERS)
  #details: Detail[] = []
  #at = 0 // where the transaction's numbers begin in the block

  constructor(pool: Slabs) {
    this.#pool = pool
  }

  /** Bytes of the transaction in the slab. */
  get bytes(): number {
    return this.#slab ? this.#slab.at - this.#from : 0
  }

  get startsWithBegin(): boolean {
    return this.count > 0 && this.#detail(0).kind === 'begin'
  }
  #detail(i: number): Detail {
    return this.#details[this.#numbers[this.#at + i * NUMBERS + 5]!]!
  }

  /** A slab with room for `size` bytes from its `at` on; what is pending moves along when it must. */
  room(size: number): Slab {
    const slab = this.#slab
    if (slab && slab.bytes.length - slab.at >= size) return slab
    return this.#move(size)
  }
  #move(size: number): Slab {
    const old = this.#slab
    const bytes = this.bytes
    const slab = this.#pool.open(bytes + size)
    if (old) {
      old.bytes.copy(slab.bytes, 0, this.#from, old.at)
      const numbers = this.#numbers
      for (let i = 0, n = this.#at; i < this.count; i++, n += NUMBERS) {
        numbers[n]! -= this.#from
        numbers[n + 1]! -= this.#from
      }
      old.release()
    }
    slab.at = bytes
    this.#from = 0
    this.#slab = slab
    return slab
  }

  /** Copies the event behind what is kept, where it may already lie; returns where it begins. */
  #store(event: Event): number {
    const size = event.end - event.start
    const slab = this.#slab
    // Put together by the cutter, it lies in the tail.
    if (slab && event.bytes === slab.bytes && event.start === slab.at) {
      slab.at += size
      return event.start
    }
    const target = this.room(size)
    const start = target.at
    event.bytes.copy(target.bytes, start, event.start, event.end)
    target.at = start + size
    return start
  }

  keep(event: Event, detail: Detail): void {
    const start = this.#store(event)
    let n = this.#at + this.count * NUMBERS
    if (n === this.#numbers.length) n = this.#nextBlock()
    this.count++
    const numbers = this.#numbers
    numbers[n] = start
    numbers[n + 1] = start + event.end - event.start
    numbers[n + 2] = event.offset
    numbers[n + 3] = event.length
    numbers[n + 4] = event.ordinal
    numbers[n + 5] = this.#indexOf(detail)
  }
  /** The few that repeat are used last. */
  #indexOf(detail: Detail): number {
    const details = this.#details
    const last = details.length - 1
    for (let i = last; i >= 0 && i > last - 4; i--) if (details[i] === detail) return i
    details.push(detail)
    return last + 1
  }
  /** Goes on in a new block, with what is pending at its beginning; returns where the next change's numbers go. */
  #nextBlock(): number {
    const { count } = this
    const used = count * NUMBERS
    const numbers = new Float64Array(Math.max(BLOCK * NUMBERS, used * 2))
    numbers.set(this.#numbers.subarray(this.#at, this.#at + used))
    const old = this.#details
    this.#details = []
    for (let n = 5; n < used; n += NUMBERS) numbers[n] = this.#indexOf(old[numbers[n]!]!)
    this.#numbers = numbers
    this.#at = 0
    return used
  }

  /** Takes the annotations from index `count` on back; they are the last changes kept. */
  truncate(count: number): void {
    if (count >= this.count) return
    const n = this.#at + count * NUMBERS
    this.#slab!.at = this.#numbers[n]!
    this.#details.length = this.#numbers[n + 5]! // each has a detail of its own
    this.count = count
  }
  /** Takes back what `drop` says, in the middle too. */
  remove(drop: (detail: Detail) => boolean): void {
    const slab = this.#slab
    const numbers = this.#numbers
    let kept = this.#at
    let at = this.#from
    for (let i = 0, n = this.#at; i < this.count; i++, n += NUMBERS) {
      if (drop(this.#detail(i))) continue
      const start = numbers[n]!
      const end = numbers[n + 1]!
      slab!.bytes.copyWithin(at, start, end)
      numbers.copyWithin(kept, n, n + NUMBERS)
      numbers[kept] = at
      numbers[kept + 1] = at += end - start
      kept += NUMBERS
    }
    this.count = (kept - this.#at) / NUMBERS
    if (slab) slab.at = at
  }

  /** Forgets the transaction. */
  reset(): void {
    if (this.#slab) this.#slab.at = this.#from
    this.count = 0
    this.shrink()
  }
  /** Gives a slab of an oversize event back when nothing in it is pending, so that nobody pays for it any longer. */
  shrink(): void {
    const slab = this.#slab
    if (!slab || slab.bytes.length <= SLAB_BYTES) return
    if (this.bytes === 0) {
      slab.release()
      this.#slab = undefined
      this.#from = 0
    } else if (this.bytes <= SLAB_BYTES / 2) this.#move(0)
  }

  /** What is pending; the caller owns one reference to `slab`. Afterwards nothing is pending. */
  take(): TakenPart {
    const slab = this.#slab
    const { count } = this
    const bytes = this.bytes + TRANSACTION_OVERHEAD + count * CHANGE_OVERHEAD
    if (!slab || this.bytes === 0) return { kept: NOTHING, slab: undefined, bytes }
    const at = this.#at
    const kept = { bytes: slab.bytes, numbers: this.#numbers, details: this.#details, at, count }
    slab.retain()
    this.#from = slab.at
    this.#at += count * NUMBERS
    this.count = 0
    if (this.#details.length > DETAILS) this.#details = []
    this.shrink()
    return { kept, slab, bytes }
  }

  /** Gives the reader's own reference up. */
  close(): void {
    this.#slab?.release()
    this.#slab = undefined
    this.#from = 0
    this.count = 0
  }
}
