/**
 * What one get gives out: slices of transactions, and the slabs that hold their bytes until the consumer lets go.
 * Also which changes a client's filter wants. Knows no cursors and no window.
 */
import type { Change, Filter, Position, Transaction } from '../change.ts'
import { assert } from '../errors.ts'
import type { Slab } from '../slab.ts'

/** How much one get may return and how long it may wait. */
export interface Limit {
  readonly changes: number // wanted changes (begin and commit count); one is given even where this is 0
  readonly bytes: number // raw bytes of those changes; one change is given even where it is larger
  readonly waitMs: number // 0 polls, Infinity waits without limit
  /** A transaction of up to so many bytes is not cut; a batch may then be so much larger than `bytes`. */
  readonly wholeBytes?: number | undefined
  /** Changes that go in batches of their own: a batch holds only neighbours for which this answers the same. */
  readonly apart?: ((tx: Transaction, change: Change) => unknown) | undefined
}
/** changes[from, to) of one transaction or part. */
export interface Part {
  readonly tx: Transaction
  readonly from: number
  readonly to: number
}
/** What one get gave out. It holds its slabs until release(), which must be called exactly once. */
export interface Batch {
  readonly id: bigint
  readonly start: Position
  readonly end: Position
  readonly redelivered: boolean // begins before the furthest position this client was given in this process
  readonly parts: readonly Part[]
  /** Whether the client's filter wants this change of the batch; ask for each, slices may hold unwanted ones. */
  wants(change: Change): boolean
  release(): void
}

/**
 * A client's filter over changes. Begin, commit and annotations go with the transaction, XA COMMIT and XA ROLLBACK
 * always; a statement by the table it names first, or always where it names none.
 */
export class Wanted {
  readonly #filter: Filter | undefined
  #table: object | undefined // the last one asked about: rows of one table come in runs
  #answer = true
  constructor(filter: Filter | undefined) {
    this.#filter = filter
  }
  wants(change: Change): boolean {
    if (this.#filter === undefined) return true
    switch (change.kind) {
      case 'insert':
      case 'update':
      case 'delete':
        if (change.table !== this.#table) {
          this.#table = change.table
          this.#answer = this.#filter(change.table.database, change.table.name)
        }
        return this.#answer
      case 'ddl':
      case 'statement':
        return change.table === '' || this.#filter(change.database, change.table)
      case 'begin':
      case 'commit':
      case 'annotation':
      case 'xaCommit':
      case 'xaRollback':
        return true
    }
  }
  /** Whether a whole transaction holds anything wanted: more than its begin, commit and annotations. */
  wantsAny(changes: readonly Change[]): boolean {
    for (const change of changes) {
      const { kind } = change
      if (kind === 'begin' || kind === 'commit' || kind === 'annotation') continue
      if (this.wants(change)) return true
    }
    return false
  }
}

/** A batch while it is put together: where it begins, what it holds. It keeps what it takes alive. */
export class Draft {
  readonly start: Position
  readonly parts: Part[] = []
  readonly #slabs: Slab[] = []
  changes = 0
  bytes = 0
  bytesBefore = 0 // the transaction that was taken last
  kind: unknown // what Limit.apart says of all its changes
  constructor(start: Position) {
    this.start = start
  }
  /** Whether the next change, of `size` bytes, belongs to the next batch. `begun`: its transaction has begun before. */
  endsBefore(limit: Limit, kind: unknown, size: number, begun: boolean): boolean {
    if (this.changes === 0) return false
    if (kind !== this.kind) return true
    if (this.changes < limit.changes && this.bytes + size <= limit.bytes) return false
    return !begun || this.bytes - this.bytesBefore + size > (limit.wholeBytes ?? 0)
  }
  full(limit: Limit, begun: boolean): boolean {
    if (this.changes < limit.changes && this.bytes < limit.bytes) return false
    return !begun || this.bytes - this.bytesBefore >= (limit.wholeBytes ?? 0)
  }
  add(tx: Transaction, from: number, to: number): void {
    this.parts.push({ tx, from, to })
    // Neighbours share their slab: one reference for the run of them.
    if (tx.slab !== undefined && tx.slab !== this.#slabs.at(-1)) this.#slabs.push(tx.slab.retain())
  }
  release(): void {
    for (const slab of this.#slabs) slab.release()
    this.#slabs.length = 0
  }
  finish(id: bigint, end: Position, redelivered: boolean, wanted: Wanted): Batch {
    return new DraftedBatch(this, id, end, redelivered, wanted)
  }
}

class DraftedBatch implements Batch {
  readonly id: bigint
  readonly start: Position
  readonly end: Position
  readonly redelivered: boolean
  readonly parts: readonly Part[]
  readonly #draft: Draft
  readonly #wanted: Wanted
  #released = false
  constructor(draft: Draft, id: bigint, end: Position, redelivered: boolean, wanted: Wanted) {
    this.id = id
    this.start = draft.start
    this.end = end
    this.redelivered = redelivered
    this.parts = draft.parts
    this.#draft = draft
    this.#wanted = wanted
  }
  wants(change: Change): boolean {
    return this.#wanted.wants(change)
  }
  release(): void {
    assert(!this.#released, 'a batch was released twice')
    this.#released = true
    for (const { tx } of this.parts) tx.forgetChanges?.()
    this.#draft.release()
  }
}

/** One turn of the event loop: sockets are read, timers run. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
