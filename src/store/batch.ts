/**
 * What one get gives out: slices of transactions, and the slabs that hold their bytes until the consumer lets go.
 * Also which changes a client's filter wants, and what a cursor is to its reader. Knows no window.
 */
import type { Change, Filter, Position, QueryChange, Transaction } from '../change.ts'
import { assert, SluiceError } from '../errors.ts'
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
/** What a client was given and has acked, since the store was opened. Plain numbers, read by whoever asks. */
export class Tally {
  batches = 0
  changes = 0
  bytes = 0 // raw bytes of those changes
  ackedBatches = 0
  ackedChanges = 0
  ackedBytes = 0
  rollbacks = 0
  give({ changes, bytes }: Size): void {
    this.batches++
    this.changes += changes
    this.bytes += bytes
  }
  ack({ changes, bytes }: Size): void {
    this.ackedBatches++
    this.ackedChanges += changes
    this.ackedBytes += bytes
  }
}
export interface Size {
  readonly changes: number
  readonly bytes: number
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
 * A client's place in the log. One owner: one get at a time. After a take-over every call throws CURSOR_TAKEN, after
 * close() (or the store's) CURSOR_CLOSED; a waiting get rejects with the same.
 */
export interface Cursor {
  readonly client: string
  /** In memory; durable once the ack's promise has resolved. */
  readonly acked: Position
  /**
   * undefined: nothing came within waitMs, or `signal` was aborted. Throws TOO_MANY_BATCHES when 65,536 are
   * outstanding, and what a catch-up reader failed with when trying again cannot help.
   */
  get(limit: Limit, signal: AbortSignal): Promise<Batch | undefined>
  /** Oldest first, else BATCH_NOT_FIRST; BATCH_UNKNOWN when it is not outstanding. Resolves when durable. */
  ack(id: bigint): Promise<void>
  /** Drops every outstanding batch and reads on from `acked`; with an id, only when that is the oldest outstanding. */
  rollback(id?: bigint): void
  /** The client's acked position stays; outstanding batches are dropped. Idempotent. */
  close(): void
}

/**
 * A client's filter over changes. Begin, commit and annotations go with the transaction, XA COMMIT and XA ROLLBACK
 * always; a statement where any table it names is wanted, or always where it names none or a whole database.
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
        return this.#wantsStatement(change.tables, this.#filter)
      case 'begin':
      case 'commit':
      case 'annotation':
      case 'xaCommit':
      case 'xaRollback':
        return true
    }
  }
  #wantsStatement(tables: QueryChange['tables'], filter: Filter): boolean {
    return tables.length === 0 || tables.some((t) => t.table === '' || filter(t.database, t.table))
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
  readonly #released: () => void
  /** @param released told whenever what it took was let go */
  constructor(start: Position, released: () => void) {
    this.start = start
    this.#released = released
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
    this.#released()
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

/** Why a batch cannot be acked or rolled back now: it is not the oldest of `count` outstanding ones, the first of which is `first`. */
export function orderOf(
  client: string,
  id: bigint,
  first: bigint,
  count: bigint,
): SluiceError | undefined {
  if (id < first || id >= first + count) {
    const has = count === 0n ? 'none is' : `${first} to ${first + count - 1n} are`
    const text = `batch ${id} of client ${client} is not outstanding (${has})`
    return new SluiceError('BATCH_UNKNOWN', text)
  }
  if (id === first) return undefined
  const text = `batch ${id} of client ${client} is not the oldest outstanding one, which is ${first}`
  return new SluiceError('BATCH_NOT_FIRST', text)
}
