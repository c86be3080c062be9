/**
 * From the rows of a batch to statements, in one of two ways. Merged: of every key only what it is at the batch's end,
 * deletes before upserts: few statements, and right whatever swaps of unique values lie between, because the end is a
 * state that the source had. In order: as the log has them, so that keys of other tables always find their rows.
 * Statements come out while later rows are still being encoded. Knows no connection.
 */
import { AFTER, BEFORE, type ImageSide, type RowsChange } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { Out } from '../../out.ts'
import type { SinkBatch } from '../shape/batch.ts'
import type { SinkRow, TargetTable } from '../shape/row.ts'
import { placeOf, type Collector, type Statement } from './dialects/dialect.ts'
import type { BoundTable } from './tables.ts'

export interface PlanOptions {
  readonly bound: (table: TargetTable) => BoundTable
  readonly rowsMax: number
  readonly bytesMax: number
  /** What the target takes at most: a row beyond it is refused. */
  readonly bytesLimit: number
  /** By `deadKey`: versions of deletes that are in the target; what is older stays deleted. */
  readonly dead?: ReadonlyMap<string, string> | undefined
}
export const deadKey = (table: BoundTable, key: string): string => `${table.id} ${key}`

const SKIP = 0
const UPSERT = 1
const DELETE = 2

/** What a key is at the end of a batch. */
export interface Last {
  readonly table: BoundTable
  readonly key: string
  readonly version: string
  readonly seq: number
  readonly deleted: boolean
}
export interface Survey {
  /** By the number of the row in the walk: what is left to do for it. */
  readonly todo: Uint8Array
  readonly deletes: number
  /** Rows come in parts, or without a key, or change others: they have to be written in order. */
  readonly ordered: boolean
  readonly rows: number
  /** With `keep`: every key. */
  readonly last: readonly Last[]
}

const scratch = new Out(256)

/** A row's key as text: those of equal rows are equal. */
export function keyText(row: SinkRow, side: ImageSide): string {
  scratch.reset()
  const { keys } = row.table
  for (let i = 0; i < keys.length; i++) {
    const from = scratch.at
    row.text(side, keys[i]!, scratch)
    // lengths between them, so that no two keys look the same
    if (i > 0) scratch.ascii(`\u001f${scratch.at - from}`)
  }
  return scratch.buf.toString('latin1', 0, scratch.at)
}

/** Which tables the batch's rows go to. */
export function targetsOf(batch: SinkBatch): Set<TargetTable> {
  const targets = new Set<TargetTable>()
  for (const { changes } of batch.facts.slices)
    for (const change of changes) targets.add(batch.facts.target(change.table))
  return targets
}

/** The first walk: finds the last state of every key, and whether the batch can be merged. */
export function survey(batch: SinkBatch, options: PlanOptions, keep: boolean): Survey {
  let todo = new Uint8Array(1024)
  const tables = new Map<string, Map<string, number>>()
  const last: (Last | undefined)[] = []
  let change: RowsChange | undefined
  let keys = new Map<string, number>()
  let table: BoundTable | undefined
  let ordered = false
  let deletes = 0
  let rows = 0
  let seq = -1
  for (const row of batch.rows(true)) {
    seq++
    if (seq >= todo.length) todo = grown(todo)
    if (row.change !== change) {
      change = row.change
      table = options.bound(row.table)
      keys = tables.get(table.id) ?? new Map<string, number>()
      tables.set(table.id, keys)
      ordered ||= table.keyless || table.cascades || (row.op !== 'delete' && !row.whole(AFTER))
    }
    rows++
    if (ordered && !keep) continue
    const deleted = row.op === 'delete'
    const key = keyText(row, deleted ? BEFORE : AFTER)
    const before = keys.get(key)
    if (before !== undefined) {
      if (todo[before] === DELETE) deletes--
      todo[before] = SKIP
      if (keep) last[before] = undefined
    }
    keys.set(key, seq)
    todo[seq] = deleted ? DELETE : UPSERT
    if (deleted) deletes++
    if (keep) last[seq] = { table: table!, key, version: row.version, seq, deleted }
  }
  const kept = keep ? last.filter((one) => one !== undefined) : []
  return { todo, deletes, ordered, rows, last: kept }
}
function grown(array: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const next = new Uint8Array(array.length * 4)
  next.set(array)
  return next
}

/** Collectors in the order of their first row. */
class Pile {
  readonly #options: PlanOptions
  #collectors = new Set<Collector>()
  constructor(options: PlanOptions) {
    this.#options = options
  }
  /** Whether there is enough for statements. */
  add(collector: Collector, row: SinkRow): boolean {
    this.#collectors.add(collector)
    const before = collector.rows === 0 ? 0 : collector.bytes
    collector.add(row)
    const { bytes } = collector
    if (bytes - before > this.#options.bytesLimit) {
      throw new SluiceError(
        'SINK_DATA',
        `${placeOf(row)}: expected a row that the target takes in one statement of ${this.#options.bytesLimit} bytes, its statement has ${bytes - before}; raise max_allowed_packet of the target`,
      )
    }
    return collector.rows >= this.#options.rowsMax || bytes >= this.#options.bytesMax
  }
  *take(): Generator<Statement, void, undefined> {
    for (const collector of this.#collectors) if (collector.rows > 0) yield collector.take()
    this.#collectors = new Set()
  }
}

/** What `survey` left to do. */
export function* merged(
  batch: SinkBatch,
  { todo, deletes }: Survey,
  options: PlanOptions,
): Generator<Statement, void, undefined> {
  if (deletes > 0) yield* walk(batch, todo, DELETE, options)
  yield* walk(batch, todo, UPSERT, options)
}
function* walk(
  batch: SinkBatch,
  todo: Uint8Array,
  what: number,
  options: PlanOptions,
): Generator<Statement, void, undefined> {
  const pile = new Pile(options)
  let change: RowsChange | undefined
  let collector: Collector | undefined
  let seq = -1
  for (const row of batch.rows(true)) {
    if (todo[++seq] !== what) continue
    if (row.change !== change) {
      change = row.change
      collector = options.bound(row.table).collector(what === DELETE ? 'delete' : 'upsert')
    }
    if (pile.add(collector!, row)) yield* pile.take()
  }
  yield* pile.take()
}

/** Row by row as the log has them, neighbours of one kind in one statement. */
export function* ordered(
  batch: SinkBatch,
  options: PlanOptions,
): Generator<Statement, void, undefined> {
  const run = new Run(options)
  for (const row of batch.rows(false)) {
    const table = options.bound(row.table)
    if (table.keyless && row.change.snapshot) yield* anew(row, table, run)
    if (row.op !== 'delete' && isDead(row, table, options)) continue
    const whole = row.whole(AFTER)
    if (row.op === 'delete') yield* run.add(table.collector('delete'), row, BEFORE, table)
    else if (row.op === 'insert') {
      const verb = table.keyless ? 'insert' : 'upsert'
      yield* run.add(whole ? table.collector(verb) : table.partial(row, verb), row, AFTER, table)
    } else {
      if (table.keyless || row.keyChanged || !whole)
        yield* run.add(table.partial(row, 'update'), row, BEFORE, table)
      // Should the row not have been there: it is now.
      if (!table.keyless && whole) yield* run.add(table.collector('upsert'), row, AFTER, table)
    }
  }
  yield* run.take()
}

/**
 * Rows of a snapshot in a table without a key: those that the stream has written already cannot be told apart, so the
 * table begins anew with the first. Throws SINK_UNSUITABLE where it does not come as a whole.
 */
function* anew(row: SinkRow, table: BoundTable, run: Run): Generator<Statement, void, undefined> {
  const { whole, firstRow = 0 } = row.change
  if (whole === undefined)
    throw new SluiceError(
      'SINK_UNSUITABLE',
      `${placeOf(row)}: expected a snapshot of the whole table in one piece, for its rows cannot be told apart (keyless: match), got a part of it; ` +
        "name its unique key as key in the sink's mapping, or leave the table out by the sink's filter",
    )
  if (whole !== 'first' || row.row !== firstRow) return
  yield* run.take()
  yield { sql: `DELETE FROM ${table.id}` }
}
function isDead(row: SinkRow, table: BoundTable, { dead }: PlanOptions): boolean {
  if (dead === undefined || dead.size === 0) return false
  const version = dead.get(deadKey(table, keyText(row, row.keyChanged ? AFTER : row.side)))
  return version !== undefined && version > row.version
}

/** Rows that one statement can take without their order being lost. */
class Run {
  readonly #keys = new Set<string>()
  readonly #pile: Pile
  #collector: Collector | undefined
  constructor(options: PlanOptions) {
    this.#pile = new Pile(options)
  }
  *add(
    collector: Collector | undefined,
    row: SinkRow,
    side: ImageSide,
    table: BoundTable,
  ): Generator<Statement, void, undefined> {
    if (collector === undefined) return // no column of the target was changed
    const key = table.keyless ? '' : keyText(row, side)
    // Equal rows without a key: each statement must find the next one.
    const alone = table.keyless && row.op !== 'insert'
    if (collector !== this.#collector || alone || this.#keys.has(key)) yield* this.take()
    this.#collector = collector
    if (!table.keyless) this.#keys.add(key)
    if (this.#pile.add(collector, row)) yield* this.take()
  }
  *take(): Generator<Statement, void, undefined> {
    yield* this.#pile.take()
    this.#keys.clear()
    this.#collector = undefined
  }
}
