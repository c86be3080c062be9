/**
 * A transaction as it was read from a log: a few numbers a change, which become objects when somebody asks, and go when
 * nobody needs them. What waits in the window is then next to nothing for the garbage collector, which would otherwise
 * carry every change from place to place.
 */
import { readMariadbGtid } from '../../binlog/mariadb/events.ts'
import { eventTypes } from '../../binlog/reader.ts'
import { BinlogRows } from '../../binlog/rows.ts'
import type { Change, RawEvent, Transaction } from '../../change.ts'
import { assert } from '../../errors.ts'
import { NUMBERS, type Detail, type Kept, type TakenPart } from './pending.ts'

export class LoggedTransaction implements Transaction {
  readonly epoch: number
  readonly server: string
  readonly gtid: Transaction['gtid']
  readonly lastCommitted: number
  readonly sequenceNumber: number
  readonly skipped: Transaction['skipped']
  readonly file: string
  readonly offset: number
  readonly endFile: string
  readonly endOffset: number
  readonly first: number
  readonly next: number
  readonly timestamp: number
  readonly state: Transaction['state']
  readonly slab: Transaction['slab']
  readonly bytes: number
  readonly kept: Kept
  #changes: readonly Change[] | undefined

  constructor(part: TakenPart, facts: Omit<Transaction, 'changes' | 'slab' | 'bytes'>) {
    this.epoch = facts.epoch
    this.server = facts.server
    this.gtid = facts.gtid
    this.lastCommitted = facts.lastCommitted
    this.sequenceNumber = facts.sequenceNumber
    this.skipped = facts.skipped
    this.file = facts.file
    this.offset = facts.offset
    this.endFile = facts.endFile
    this.endOffset = facts.endOffset
    this.first = facts.first
    this.next = facts.next
    this.timestamp = facts.timestamp
    this.state = facts.state
    this.slab = part.slab
    this.bytes = part.bytes
    this.kept = part.kept
  }
  get changes(): readonly Change[] {
    return (this.#changes ??= changesOf(this.kept))
  }
  get count(): number {
    return this.kept.count
  }
  forgetChanges(): void {
    this.#changes = undefined
  }
}

/** What a transaction of a log keeps of its changes. It belongs to who holds the transaction's slab. */
export function keptOf(tx: Transaction): Kept {
  assert('kept' in tx, 'a transaction that was not read from a log')
  return tx.kept as Kept
}

/** The objects of the changes, made anew with each call. */
export function changesOf({ bytes, numbers, details, at, count }: Kept): Change[] {
  const changes: Change[] = []
  for (let i = 0, n = at; i < count; i++, n += NUMBERS) {
    changes.push(changeOf(bytes, numbers, n, details[numbers[n + 5]! | 0]!))
  }
  return changes
}

function changeOf(bytes: Buffer, numbers: Float64Array, n: number, detail: Detail): Change {
  // Small integers need no object of their own in a field; an offset may be too large for one.
  const start = numbers[n]! | 0
  const end = numbers[n + 1]! | 0
  const offset = numbers[n + 2]!
  const length = numbers[n + 3]! | 0
  const ordinal = numbers[n + 4]! | 0
  switch (detail.kind) {
    case 'insert':
    case 'update':
    case 'delete': {
      const { kind, table, format } = detail
      return new BinlogRows({ kind, ordinal, table, format, bytes, start, end, offset, length })
    }
    case 'begin':
    case 'commit':
    case 'xid':
      return new Mark(detail, ordinal, { bytes, start, end, offset, length })
    case 'ddl':
    case 'statement':
    case 'annotation':
    case 'xaCommit':
    case 'xaRollback':
      return { ...detail, ordinal, event: { bytes, start, end, offset, length } }
  }
}

type MarkDetail = Extract<Detail, { readonly kind: 'begin' | 'commit' | 'xid' }>

/** BEGIN and COMMIT with their events: one object, and their texts only when asked for. */
class Mark implements RawEvent {
  readonly kind: 'begin' | 'commit'
  readonly ordinal: number
  readonly bytes: Buffer
  readonly start: number
  readonly end: number
  readonly offset: number
  readonly length: number
  readonly #detail: MarkDetail

  constructor(detail: MarkDetail, ordinal: number, event: RawEvent) {
    this.kind = detail.kind === 'begin' ? 'begin' : 'commit'
    this.ordinal = ordinal
    this.bytes = event.bytes
    this.start = event.start
    this.end = event.end
    this.offset = event.offset
    this.length = event.length
    this.#detail = detail
  }
  get event(): RawEvent {
    return this
  }
  get threadId(): number {
    const { bytes, start } = this
    return bytes[start + 4] === eventTypes.MARIADB_GTID
      ? readMariadbGtid(this).threadId
      : bytes.readUInt32LE(start + 19)
  }
  get xid(): string {
    const detail = this.#detail
    return detail.kind === 'xid' ? xidText(this.bytes, this.start + 19) : detail.xid
  }
  get xa(): boolean {
    return this.#detail.kind === 'commit' && this.#detail.xa
  }
}

/** A 64-bit number as decimal text; cheap below 2^53. */
function xidText(bytes: Buffer, at: number): string {
  const high = bytes.readUInt32LE(at + 4)
  if (high < 0x200000) return String(high * 0x100000000 + bytes.readUInt32LE(at))
  return bytes.readBigUInt64LE(at).toString()
}
