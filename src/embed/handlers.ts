/**
 * A subscriber inside the program: a sink whose target is a function. The runner does what it does for all sinks (a cursor of
 * its own, order, patience, initial load, mapping); here a row becomes an object and a handler is called with it, once again
 * only when it threw. Append: at least once, in the order of the log; a batch is acked when its handlers have resolved.
 */
import type { Position, RowsChange, StatementType, Transaction, Value } from '../change.ts'
import {
  AFTER,
  BEFORE,
  beginningOf,
  eventSeconds,
  formatPosition,
  type ImageSide,
} from '../change.ts'
import { section } from '../config/leaves.ts'
import { SluiceError } from '../errors.ts'
import type { SinkBatch, Slice } from '../sinks/shape/batch.ts'
import type { SinkRow, TargetTable } from '../sinks/shape/row.ts'
import {
  defineSink,
  perTable,
  type RowFailure,
  type Sink,
  type SinkStatement,
  type SinkType,
} from '../sinks/sink.ts'

/** A row whose table was not described by a type. A column that is not in the row's image has no entry. */
export type AnyRow = Readonly<Record<string, Value | undefined>>
/** Which change a handler is called for. */
export interface About {
  readonly kind: 'insert' | 'update' | 'delete'
  readonly database: string
  readonly table: string
  /** The same whenever it comes again: "uuid:17/3.0" or "binlog.000123:4567/3.0" (transaction / event . row). */
  readonly id: string
  /** Text of fixed width: of two versions of a row the later one is greater. */
  readonly version: string
  readonly position: string // of its transaction, "binlog.000123:4567"
  readonly gtid: string | undefined // "uuid:17"
  readonly time: Date // whole seconds, when the source wrote it
  /** It may have been handled before: its batch was given out and not acked. */
  readonly redelivered: boolean
  /** The table had the row already: it was loaded (`initialLoad`), and comes as an insert. */
  readonly snapshot: boolean
}
type Done = void | Promise<void>
export interface Handlers<Row = AnyRow> {
  insert?(row: Row, about: About): Done
  /** `before` has the columns that are in the log's before image: all, or fewer with binlog_row_image MINIMAL or NOBLOB. */
  update?(row: Row, before: Partial<Row>, about: About): Done
  delete?(row: Row, about: About): Done
}
/** One version of a table, for whoever makes handlers of it. */
export interface TableInfo {
  readonly database: string
  readonly table: string
  readonly columns: readonly {
    readonly name: string
    readonly mysqlType: string
    readonly key: boolean
  }[]
}
/** Asked once for each version of a table; undefined: its rows are passed over. */
export type HandlerFactory<Row = AnyRow> = (table: TableInfo) => Handlers<Row> | undefined
export interface StatementInfo {
  readonly type: StatementType
  readonly database: string // of the first table it touches, else ""
  readonly table: string
  readonly sql: string
  readonly id: string
  readonly position: string
  readonly time: Date
}
export type StatementHandler = (statement: StatementInfo) => Done

/**
 * Thrown by a handler: this row is wrong, and trying again will not help. What happens then is what the subscription's
 * `onError` says. Any other error is taken for one that passes, and the handler is called again (`retry`).
 */
export class RowRefused extends Error {
  override readonly name = 'RowRefused'
}

interface Registration {
  readonly tables: string | RegExp
  readonly make: HandlerFactory
}

/** Where a program says what it wants to be called for. */
export class Subscriber<Tables extends object = Record<string, AnyRow>> {
  readonly name: string
  readonly #registrations: Registration[] = []
  #statement: StatementHandler | undefined
  constructor(name: string) {
    this.name = name
  }
  /**
   * Handlers for the rows of a table by its name "database.table", or of all whose name matches a RegExp. All that match are
   * called, in the order of their registration.
   */
  on<Name extends keyof Tables & string>(
    table: Name,
    handlers: Handlers<Tables[Name]> | HandlerFactory<Tables[Name]>,
  ): this
  on(tables: RegExp, handlers: Handlers | HandlerFactory): this
  on(tables: string | RegExp, handlers: Handlers | HandlerFactory): this {
    const make = typeof handlers === 'function' ? handlers : () => handlers
    this.#registrations.push({ tables, make })
    return this
  }
  /** Called for DDL, TRUNCATE and other statements, in their place between the rows. */
  onStatement(handler: StatementHandler): this {
    this.#statement = handler
    return this
  }

  get statement(): StatementHandler | undefined {
    return this.#statement
  }
  /** The tables it names, where it names all of them: what else there is need not be read. */
  get names(): readonly string[] | undefined {
    const names = this.#registrations.map(({ tables }) => tables)
    const all = names.every((name) => typeof name === 'string')
    return all && names.length > 0 && !this.#statement ? (names as string[]) : undefined
  }
  handlersOf({ database, name, columns }: TargetTable): Handlers[] {
    const full = `${database}.${name}`
    const info: TableInfo = {
      database,
      table: name,
      columns: columns.map((c) => ({
        name: c.name,
        mysqlType: c.column?.mysqlType ?? 'text',
        key: c.key,
      })),
    }
    return this.#registrations.flatMap(({ tables, make }) => {
      const wanted = typeof tables === 'string' ? tables === full : full.search(tables) >= 0
      return (wanted && make(info)) || []
    })
  }
}

export const HANDLER = 'handler'

/** The type of sink whose sinks are these subscribers, by the sinks' names. */
export function handlerSinks(subscribers: ReadonlyMap<string, Subscriber<never>>): SinkType {
  return defineSink({
    type: HANDLER,
    summary: 'Calls functions of the program',
    options: section({}),
    open: (_options, { sink }) => Promise.resolve(handlerSink(subscribers.get(sink)!)),
  })
}

/** Indexes of rows that were handled, by the batch they are in: for the attempt after one that failed. */
type Handled = WeakMap<readonly Slice[], Set<number>>

function handlerSink(subscriber: Subscriber<never>): Sink {
  const compiled = perTable((table) => ({
    handlers: subscriber.handlersOf(table),
    read: imageReader(table),
  }))
  const handled: Handled = new WeakMap()
  const { statement } = subscriber
  return {
    promise: 'append',
    splitsKeys: false,
    inFlight: 1,
    target: targetOf,
    write: (batch, signal) => write(batch, { signal, compiled, handled }),
    ...(statement && { statement: (one: SinkStatement) => tell(statement, one) }),
    close: () => Promise.resolve(),
  }
}

/** The row itself: its table and its key. */
function targetOf(row: SinkRow): string {
  const { table, side } = row
  const keys = table.keys.map((key) => row.string(side, key) ?? '')
  return [table.database, table.name, ...keys].join('\0')
}

interface Writing {
  readonly signal: AbortSignal
  readonly compiled: (table: TargetTable) => {
    readonly handlers: readonly Handlers[]
    readonly read: ImageReader
  }
  readonly handled: Handled
}
async function write(
  batch: SinkBatch,
  { signal, compiled, handled }: Writing,
): Promise<readonly RowFailure[]> {
  const { slices } = batch.facts
  const before = handled.get(slices)
  const now: number[] = []
  for (const row of batch.rows(false)) {
    if (before?.has(row.index)) continue
    const { handlers, read } = compiled(row.table)
    try {
      if (signal.aborted) throw new SluiceError('SINK_UNAVAILABLE', 'the subscriber is to end')
      for (const handler of handlers) {
        const under = call(handler, row, read, batch.redelivered)
        if (under) await under
      }
    } catch (error) {
      // other lanes of the same batch keep theirs in it
      handled.set(slices, new Set([...(handled.get(slices) ?? []), ...now]))
      throw failure(error, row)
    }
    now.push(row.index)
  }
  return []
}

function call(handlers: Handlers, row: SinkRow, read: ImageReader, redelivered: boolean): Done {
  switch (row.op) {
    case 'insert':
      return handlers.insert?.(read(row, AFTER), aboutOf(row, redelivered))
    case 'update':
      return handlers.update?.(read(row, AFTER), read(row, BEFORE), aboutOf(row, redelivered))
    case 'delete':
      return handlers.delete?.(read(row, BEFORE), aboutOf(row, redelivered))
  }
}

function failure(error: unknown, row: SinkRow): SluiceError {
  if (error instanceof SluiceError && error.code === 'SINK_UNAVAILABLE') return error
  const { table, tx, op } = row
  const text = error instanceof Error ? error.message : String(error)
  const where = `${table.database}.${table.name} at ${formatPosition(beginningOf(tx))} (${row.id})`
  const code = error instanceof RowRefused ? 'SINK_DATA' : 'SINK_UNAVAILABLE'
  return new SluiceError(code, `the ${op} handler of ${where} threw: ${text}`, { cause: error })
}

const gtidOf = ({ gtid }: Transaction): string | undefined => gtid && `${gtid.sid}:${gtid.gno}`
const placeOf = (tx: Pick<Position, 'file' | 'offset'>): string => formatPosition(beginningOf(tx))
const timeOf = ({ event }: Pick<RowsChange, 'event'>): Date => new Date(eventSeconds(event) * 1000)

function aboutOf(row: SinkRow, redelivered: boolean): About {
  const { op, table, tx, change } = row
  return {
    kind: op,
    database: table.database,
    table: table.name,
    id: row.id,
    version: row.version,
    position: placeOf(tx),
    gtid: gtidOf(tx),
    time: timeOf(change),
    redelivered,
    snapshot: change.snapshot,
  }
}

async function tell(handler: StatementHandler, { change, tx, id }: SinkStatement): Promise<void> {
  const { type, database, table, sql } = change
  const about = { type, database, table, sql, id, position: placeOf(tx), time: timeOf(change) }
  try {
    await handler(about)
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error)
    const where = `${about.position} (${id})`
    throw new SluiceError('SINK_UNAVAILABLE', `the statement handler threw at ${where}: ${text}`, {
      cause: error,
    })
  }
}

type ImageReader = (row: SinkRow, side: ImageSide) => AnyRow

/** An image as an object, its columns in the order of the table. */
function imageReader({ columns }: TargetTable): ImageReader {
  const plain = columns.every(({ name }) => name !== '__proto__')
  return (row, side) => {
    const object: Record<string, Value> = plain
      ? {}
      : (Object.create(null) as Record<string, Value>)
    for (const column of columns) {
      const value = row.value(side, column)
      if (value !== undefined) object[column.name] = value
    }
    return object
  }
}
