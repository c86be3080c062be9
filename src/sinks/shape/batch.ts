/**
 * What one write gets: rows of the log in order, as slices of the cursor's batches. Walking it twice gives the same rows,
 * and a slice or a lane of it is a batch as well: so a poison row is found by halving, and parallel writers share one
 * walk's worth of memory. Holds no memory of its own beyond two numbers a row; the cursor's batches stay the runner's.
 */
import {
  ABSENT,
  AFTER,
  BEFORE,
  type Change,
  type Position,
  type RowsChange,
  type Table,
  type Transaction,
} from '../../change.ts'
import { SinkRow, type TargetTable } from './row.ts'

/** changes[from, to) of one transaction or part. */
export interface Slice {
  readonly tx: Transaction
  readonly changes: readonly RowsChange[]
}
/** Which rows belong to whom: `of[index]` is the row's lane. */
export interface Lane {
  readonly of: Uint8Array
  readonly lane: number
}
export interface BatchFacts {
  readonly slices: readonly Slice[]
  readonly start: Position
  /**
   * Everything before it is in the target once this is written, so that a sink may always store it with the rows: behind
   * the rows of this batch, or where others are under way at the same time, behind the last that was done before.
   */
  readonly end: Position
  /** Whether that holds for each part of it that is written. */
  readonly settled?: boolean
  /** Versions of everything this cursor has given out until now are at most this: others may be written meanwhile. */
  readonly highest: string
  readonly redelivered: boolean
  readonly target: (table: Table) => TargetTable
}

export class SinkBatch {
  readonly facts: BatchFacts
  readonly #from: number
  readonly #to: number
  readonly #lane: Lane | undefined
  #count = 0
  constructor(facts: BatchFacts, from = 0, to = Infinity, lane?: Lane) {
    this.facts = facts
    this.#from = from
    this.#to = to
    this.#lane = lane
  }

  /** Everything before it is in the target once this is written; store it with the rows (State's positionToJson). */
  get end(): Position {
    return this.facts.end
  }
  get start(): Position {
    return this.facts.start
  }
  get highest(): string {
    return this.facts.highest
  }
  get redelivered(): boolean {
    return this.facts.redelivered
  }
  /** Whether `end` may be stored with it: always for a batch of the runner, else unless it is a slice or a lane. */
  get whole(): boolean {
    if (this.facts.settled === true) return true
    return this.#from === 0 && this.#to === Infinity && this.#lane === undefined
  }
  /** Whether it ends where a transaction of the source ends. */
  get closed(): boolean {
    return this.facts.end.skip === 0
  }

  /** Rows of the log with index in [from, to). */
  slice(from: number, to: number): SinkBatch {
    return new SinkBatch(this.facts, from, to, this.#lane)
  }
  lane(lane: Lane): SinkBatch {
    return new SinkBatch(this.facts, this.#from, this.#to, lane)
  }
  /** Only the rows with these indexes, which are among its own. */
  only(indexes: readonly number[]): SinkBatch {
    const of = new Uint8Array(Math.max(...indexes) + 1)
    for (const index of indexes) of[index] = 1
    return this.lane({ of, lane: 1 })
  }
  /** The same rows with another end. */
  endingAt(end: Position): SinkBatch {
    const { facts } = this
    const its: BatchFacts = {
      ...facts,
      end,
      get highest() {
        return facts.highest
      },
    }
    return new SinkBatch(its, this.#from, this.#to, this.#lane)
  }
  /** The indexes of its rows. Throws ROWS_MALFORMED. */
  indexes(): number[] {
    const indexes: number[] = []
    for (const row of this.rows(false)) indexes.push(row.index)
    return indexes
  }
  /** Rows of the log that the last walk has passed. */
  get walked(): number {
    return this.#count
  }

  /**
   * The rows, one object moved along: take what you need before you ask for the next. With `split`, an update of the
   * primary key comes as a delete of the old row and an insert of the new one, both with the update's version and index
   * (of a change that is one half: only that).
   * With `whole`, changes of which the batch has every row are shown to it first, as their first row, not read yet: it
   * answers how many rows it took, all there are, and the walk yields undefined; or -1, and they come one by one.
   * Throws ROWS_MALFORMED.
   */
  rows(split: boolean): Generator<SinkRow, void, undefined>
  rows(
    split: boolean,
    whole: (first: SinkRow) => number,
  ): Generator<SinkRow | undefined, void, undefined>
  *rows(
    split: boolean,
    whole?: (first: SinkRow) => number,
  ): Generator<SinkRow | undefined, void, undefined> {
    const row = new SinkRow()
    const lane = this.#lane
    const all = lane === undefined && this.#to === Infinity ? whole : undefined
    let index = -1
    this.#count = 0
    for (const { tx, changes } of this.facts.slices) {
      row.tx = tx
      for (const change of changes) {
        if (index + 1 >= this.#to) return
        row.change = change
        row.table = this.facts.target(change.table)
        if (all !== undefined && index + 1 >= this.#from) {
          row.index = index + 1
          row.op = change.kind
          const taken = all(row)
          if (taken >= 0) {
            index += taken
            this.#count += taken
            yield undefined
            continue
          }
        }
        const reader = change.reader()
        row.reader = reader
        row.row = (change.firstRow ?? 0) - 1
        while (reader.next()) {
          index++
          row.row++
          if (index < this.#from || index >= this.#to) continue
          if (lane !== undefined && lane.of[index] !== lane.lane) continue
          row.index = index
          this.#count++
          row.op = change.kind
          row.keyChanged = change.kind === 'update' && keyChanged(row)
          if (!split || !row.keyChanged) yield row
          else {
            row.op = 'delete'
            if (change.half !== 'insert') yield row
            row.op = 'insert'
            if (change.half !== 'delete') yield row
          }
        }
      }
    }
  }
}

function keyChanged(row: SinkRow): boolean {
  for (const key of row.table.keys) {
    if (row.state(BEFORE, key) !== ABSENT && row.state(AFTER, key) !== ABSENT && row.changed(key))
      return true
  }
  return false
}

/** The row changes of a slice of changes. */
export function rowChanges(changes: readonly Change[]): RowsChange[] {
  const rows: RowsChange[] = []
  for (const change of changes) {
    if (change.kind === 'insert' || change.kind === 'update' || change.kind === 'delete')
      rows.push(change)
  }
  return rows
}
