/**
 * The transaction that is being read: its kept events, contiguous in one slab, and what is known of each in plain
 * arrays that are reused, so that a kept event costs no object before its transaction is whole. Moves everything to a
 * new slab when the tail of the one at hand is too short; events taken back leave no trace. Decodes nothing.
 */
import { BinlogRows } from '../../binlog/rows.ts'
import { readRowsHeader } from '../../binlog/rows-header.ts'
import type { Format } from '../../binlog/reader.ts'
import type { Change, QueryChange, RawEvent, Table } from '../../change.ts'
import { SLAB_BYTES, type Slab, type SlabPool } from '../../slab.ts'

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
/** An XID event: its change is made from the event itself. */
export const XID = { kind: 'xid' } as const

/** What a transaction counts in the window beside its raw bytes. */
const TRANSACTION_OVERHEAD = 400
const CHANGE_OVERHEAD = 250

export class Pending {
  /** Kept events that are changes. */
  count = 0
  readonly #pool: SlabPool
  #slab: Slab | undefined
  #from = 0 // where the transaction's bytes begin in the slab
  readonly #starts: number[] = []
  readonly #ends: number[] = []
  readonly #offsets: number[] = []
  readonly #lengths: number[] = []
  readonly #ordinals: number[] = []
  readonly #details: (Detail | undefined)[] = []

  constructor(pool: SlabPool) {
    this.#pool = pool
  }

  /** Bytes of the transaction in the slab. */
  get bytes(): number {
    return this.#slab ? this.#slab.at - this.#from : 0
  }

  get startsWithBegin(): boolean {
    return this.#details[0]?.kind === 'begin'
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
      for (let i = 0; i < this.count; i++) {
        this.#starts[i]! -= this.#from
        this.#ends[i]! -= this.#from
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
    const i = this.count++
    const start = this.#store(event)
    this.#starts[i] = start
    this.#ends[i] = start + event.end - event.start
    this.#offsets[i] = event.offset
    this.#lengths[i] = event.length
    this.#ordinals[i] = event.ordinal
    this.#details[i] = detail
  }

  /** Takes the changes from index `count` on back; they are the last ones kept. */
  truncate(count: number): void {
    if (count >= this.count) return
    this.#slab!.at = this.#starts[count]!
    this.#details.fill(undefined, count, this.count)
    this.count = count
  }
  /** Takes back what `drop` says, in the middle too. */
  remove(drop: (detail: Detail) => boolean): void {
    const slab = this.#slab
    let kept = 0
    let at = this.#from
    for (let i = 0; i < this.count; i++) {
      const detail = this.#details[i]!
      if (drop(detail)) continue
      const start = this.#starts[i]!
      const end = this.#ends[i]!
      slab!.bytes.copyWithin(at, start, end)
      this.#starts[kept] = at
      this.#ends[kept] = at += end - start
      this.#offsets[kept] = this.#offsets[i]!
      this.#lengths[kept] = this.#lengths[i]!
      this.#ordinals[kept] = this.#ordinals[i]!
      this.#details[kept++] = detail
    }
    this.#details.fill(undefined, kept, this.count)
    this.count = kept
    if (slab) slab.at = at
  }

  /** Forgets the transaction. */
  reset(): void {
    if (this.#slab) this.#slab.at = this.#from
    this.#details.fill(undefined, 0, this.count)
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
    const numbers: number[] = []
    const details: Detail[] = []
    for (let i = 0; i < count; i++) {
      numbers.push(this.#starts[i]!, this.#ends[i]!, this.#offsets[i]!)
      numbers.push(this.#lengths[i]!, this.#ordinals[i]!)
      details.push(this.#details[i]!)
      this.#details[i] = undefined
    }
    slab.retain()
    this.#from = slab.at
    this.count = 0
    this.shrink()
    return { kept: { bytes: slab.bytes, numbers, details }, slab, bytes }
  }

  /** Gives the reader's own reference up. */
  close(): void {
    this.#slab?.release()
    this.#slab = undefined
    this.#from = 0
    this.count = 0
  }
}

/** The changes of a transaction before somebody asks for them: most of the time nobody does until it is delivered. */
export interface Kept {
  readonly bytes: Buffer
  readonly numbers: readonly number[] // of each change: start, end, offset, length (as in RawEvent), ordinal
  readonly details: readonly Detail[]
}
const NOTHING: Kept = { bytes: Buffer.alloc(0), numbers: [], details: [] }

export interface TakenPart {
  readonly kept: Kept
  readonly slab: Slab | undefined
  readonly bytes: number
}

export function changesOf({ bytes, numbers, details }: Kept): Change[] {
  const changes: Change[] = []
  for (let i = 0, n = 0; i < details.length; i++, n += 5) {
    const event: RawEvent = {
      bytes,
      start: numbers[n]!,
      end: numbers[n + 1]!,
      offset: numbers[n + 2]!,
      length: numbers[n + 3]!,
    }
    changes.push(changeOf(details[i]!, event, numbers[n + 4]!))
  }
  return changes
}
function changeOf(detail: Detail, event: RawEvent, ordinal: number): Change {
  const { bytes, start, end } = event
  switch (detail.kind) {
    case 'insert':
    case 'update':
    case 'delete': {
      const header = readRowsHeader(bytes, start, end, detail.format)
      return new BinlogRows({ ordinal, event, table: detail.table, header })
    }
    case 'begin': {
      const threadId = bytes.readUInt32LE(start + 19)
      return { kind: 'begin', ordinal, event, threadId, xid: detail.xid }
    }
    case 'xid':
      return { kind: 'commit', ordinal, event, xid: xidText(bytes, start + 19), xa: false }
    case 'commit':
      return { kind: 'commit', ordinal, event, xid: detail.xid, xa: detail.xa }
    case 'ddl':
    case 'statement':
    case 'annotation':
    case 'xaCommit':
    case 'xaRollback':
      return { ...detail, ordinal, event }
  }
}

/** A 64-bit number as decimal text; cheap below 2^53. */
function xidText(bytes: Buffer, at: number): string {
  const high = bytes.readUInt32LE(at + 4)
  if (high < 0x200000) return String(high * 0x100000000 + bytes.readUInt32LE(at))
  return bytes.readBigUInt64LE(at).toString()
}
