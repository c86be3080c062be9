/**
 * A cursor's batches as work for a sink: rows in as large a piece as the options allow, and by themselves what has to stand
 * alone: statements, rows that wait for XA COMMIT, changes that touch rows beside the log. Takes nothing ahead that it
 * would have to give back, but one batch.
 */
import type { Change, Position, QueryChange, RowsChange, Transaction } from '../../change.ts'
import type { Batch, Cursor, Limit } from '../../store/cursor.ts'
import type { Slice } from '../shape/batch.ts'
import type { CommonOptions } from './options.ts'
import type { Unlogged } from '../special/unlogged.ts'
import { xidOfStatement, type Xa } from '../special/xa.ts'

export interface RowsWork {
  readonly kind: 'rows'
  readonly batches: readonly Batch[] // to be acked and released
  readonly slices: readonly Slice[]
  readonly bytes: number // of the rows' events
  readonly changes: number
  readonly start: Position
  readonly end: Position
  readonly redelivered: boolean
}
export type Work =
  | RowsWork
  | {
      readonly kind: 'statement'
      readonly batch: Batch
      readonly tx: Transaction
      readonly change: QueryChange
    }
  | { readonly kind: 'held'; readonly batch: Batch }
  | {
      readonly kind: 'xaCommit'
      readonly batch: Batch
      readonly tx: Transaction
      readonly xid: string
    }
  | { readonly kind: 'xaRollback'; readonly batch: Batch; readonly xid: string }

export interface FeedOptions {
  readonly cursor: Cursor
  readonly config: Pick<CommonOptions, 'batch' | 'transactionBytesMax'>
  readonly wholeTransactions: boolean
  readonly xa: Xa
  readonly unlogged: Unlogged | undefined
}

/** How often somebody who waits for work may look at other things. */
const LOOK_MS = 500

export class Feed {
  readonly #options: FeedOptions
  readonly #limit: Limit
  #kept: Work | undefined

  constructor(options: FeedOptions) {
    this.#options = options
    const { config, xa, unlogged, wholeTransactions } = options
    this.#limit = {
      changes: config.batch.changes,
      bytes: config.batch.bytes,
      waitMs: LOOK_MS,
      ...(wholeTransactions && { wholeBytes: config.transactionBytesMax }),
      apart: (tx, change) => {
        const { kind } = change
        if (kind === 'ddl' || kind === 'statement' || kind === 'xaCommit' || kind === 'xaRollback')
          return change
        return xa.apart(tx) ?? (unlogged?.suspects(change) === true ? change : undefined)
      },
    }
  }

  /** undefined: nothing came for a while, or `signal` was aborted. Throws what the cursor throws. */
  async next(signal: AbortSignal): Promise<Work | undefined> {
    const kept = this.#kept
    this.#kept = undefined
    if (kept !== undefined) return kept
    const batch = await this.#options.cursor.get(this.#limit, signal)
    if (batch === undefined) return undefined
    const work = this.#read(batch)
    const { waitMs } = this.#options.config.batch
    return work.kind === 'rows' && waitMs > 0 ? await this.#grow(work, waitMs, signal) : work
  }
  /** Lets go of what was taken ahead. */
  close(): void {
    const kept = this.#kept
    this.#kept = undefined
    if (kept === undefined) return
    for (const batch of kept.kind === 'rows' ? kept.batches : [kept.batch]) batch.release()
  }

  async #grow(first: RowsWork, waitMs: number, signal: AbortSignal): Promise<RowsWork> {
    const until = performance.now() + waitMs
    let work = first
    for (;;) {
      const changes = this.#limit.changes - work.changes
      const bytes = this.#limit.bytes - work.bytes
      const left = until - performance.now()
      if (changes <= 0 || bytes <= 0 || left <= 0 || signal.aborted) return work
      let next: Work | undefined
      try {
        const limit = { ...this.#limit, changes, bytes, waitMs: left }
        const batch = await this.#options.cursor.get(limit, signal)
        next = batch && this.#read(batch)
      } catch (error) {
        for (const batch of work.batches) batch.release()
        throw error
      }
      if (next === undefined) continue
      if (next.kind !== 'rows') {
        this.#kept = next
        return work
      }
      work = {
        ...work,
        batches: [...work.batches, ...next.batches],
        slices: [...work.slices, ...next.slices],
        bytes: work.bytes + next.bytes,
        changes: work.changes + next.changes,
        end: next.end,
      }
    }
  }

  #read(batch: Batch): Work {
    try {
      return this.#look(batch)
    } catch (error) {
      batch.release()
      throw error
    }
  }
  #look(batch: Batch): Work {
    const { tx, from } = batch.parts[0]!
    const first = firstWanted(batch) ?? tx.changes[from]!
    if (first.kind === 'ddl' || first.kind === 'statement')
      return { kind: 'statement', batch, tx, change: first }
    if (first.kind === 'xaRollback')
      return { kind: 'xaRollback', batch, xid: xidOfStatement(first) }
    if (first.kind === 'xaCommit')
      return { kind: 'xaCommit', batch, tx, xid: xidOfStatement(first) }
    const { xa } = this.#options
    if (xa.apart(tx) !== undefined) {
      xa.hold(batch)
      const xid = xa.committed(batch)
      if (xid === undefined) return { kind: 'held', batch }
      return { kind: 'xaCommit', batch, tx: batch.parts.at(-1)!.tx, xid }
    }
    return readRows(batch)
  }
}

function firstWanted(batch: Batch): Change | undefined {
  for (const { tx, from, to } of batch.parts) {
    const { changes } = tx
    for (let i = from; i < to; i++) if (batch.wants(changes[i]!)) return changes[i]
  }
  return undefined
}

function readRows(batch: Batch): RowsWork {
  const slices: Slice[] = []
  let bytes = 0
  let count = 0
  for (const { tx, from, to } of batch.parts) {
    const all = tx.changes
    const changes: RowsChange[] = []
    for (let i = from; i < to; i++) {
      const change = all[i]!
      if (change.kind !== 'insert' && change.kind !== 'update' && change.kind !== 'delete') continue
      if (!batch.wants(change)) continue
      changes.push(change)
      bytes += change.event.end - change.event.start
    }
    count += changes.length
    if (changes.length > 0) slices.push({ tx, changes })
  }
  const { start, end, redelivered } = batch
  return { kind: 'rows', batches: [batch], slices, bytes, changes: count, start, end, redelivered }
}
