/**
 * What a real MySQL logged, given to a sink as the runner would: batches of whole transactions, cut at statements of DDL,
 * with the sink's own position followed.
 */
import { pino } from 'pino'
import { parseTimeZone } from '../../../src/binlog/time.ts'
import { Catalog } from '../../../src/catalog/catalog.ts'
import {
  advance,
  comparePositions,
  type Position,
  type Table,
  type Transaction,
} from '../../../src/change.ts'
import { SluiceError } from '../../../src/errors.ts'
import { compileColumns } from '../../../src/filter.ts'
import { rowChanges, SinkBatch, type Slice } from '../../../src/sinks/shape/batch.ts'
import { plainTarget, type TargetTable } from '../../../src/sinks/shape/row.ts'
import {
  transactionId,
  versionBefore,
  versionHead,
  versionTail,
} from '../../../src/sinks/shape/version.ts'
import type { Sink, SinkContext, SinkStatement } from '../../../src/sinks/sink.ts'
import { fileNumber, type QueryChange } from '../../../src/change.ts'
import type { MysqlServer } from '../../support/mysql.ts'
import { factsOf, sourceOn } from '../../sources/reading.ts'

export type Item = { readonly batch: SinkBatch } | { readonly statement: SinkStatement }

export interface LogOptions {
  readonly timeZone?: string
  /** Rows of one batch, at most, but whole transactions. */
  readonly rowsMax?: number
  readonly mapping?: (table: Table) => TargetTable
}

/** Reads what is logged in `database` from here on. */
export class Log {
  readonly #mysql: MysqlServer
  readonly #database: string
  readonly #options: LogOptions
  position: Position
  private constructor(mysql: MysqlServer, database: string, options: LogOptions, from: Position) {
    this.#mysql = mysql
    this.#database = database
    this.#options = options
    this.position = from
  }
  static async start(mysql: MysqlServer, database: string, options: LogOptions = {}): Promise<Log> {
    return new Log(mysql, database, options, (await factsOf(mysql)).latest)
  }

  /** Everything since the last time. */
  async read(from = this.position): Promise<Item[]> {
    const { latest: to } = await factsOf(this.#mysql)
    const catalog = new Catalog({
      query: (text, params) => this.#mysql.query(text, params),
      timeZone: parseTimeZone(this.#options.timeZone ?? 'UTC'),
      columns: compileColumns({}),
      log: pino({ level: 'silent' }),
    })
    const { source } = sourceOn(this.#mysql, this.#database, { catalog })
    const abort = new AbortController()
    const transactions: Transaction[] = []
    let position = from
    if (position.file !== to.file || position.offset < to.offset)
      for await (const tx of source.read(from, abort.signal)) {
        transactions.push(tx)
        if (tx.endFile === to.file && tx.endOffset >= to.offset) break
      }
    abort.abort()
    const items = [...itemsOf(transactions, from, this.#options)]
    for (const tx of transactions) position = advance(position, tx)
    this.position = position
    return items
  }
}

function* itemsOf(
  transactions: readonly Transaction[],
  from: Position,
  options: LogOptions,
): Generator<Item> {
  const known = new Map<Table, TargetTable>()
  const target = (table: Table): TargetTable => {
    let made = known.get(table)
    if (made === undefined) known.set(table, (made = (options.mapping ?? plainTarget)(table)))
    return made
  }
  let end = from
  for (const tx of transactions) end = advance(end, tx)
  const highest = versionBefore(end)
  let slices: Slice[] = []
  let rows = 0
  let start = from
  let position = from
  const batch = (): Item => ({
    batch: new SinkBatch({ slices, start, end: position, highest, redelivered: false, target }),
  })
  for (const tx of transactions) {
    const ddl = tx.changes.filter((c): c is QueryChange => c.kind === 'ddl')
    const changes = rowChanges(tx.changes)
    if (slices.length > 0 && (ddl.length > 0 || rows >= (options.rowsMax ?? Infinity))) {
      yield batch()
      slices = []
      rows = 0
      start = position
    }
    const before = position
    position = advance(position, tx)
    for (const change of ddl) yield { statement: statementOf(tx, change, before, position) }
    if (changes.length > 0) {
      slices.push({ tx, changes })
      for (const change of changes) for (const _ of change.rows()) rows++
    }
  }
  if (slices.length > 0) yield batch()
}
function statementOf(
  tx: Transaction,
  change: QueryChange,
  start: Position,
  end: Position,
): SinkStatement {
  const version =
    versionHead(tx.epoch, fileNumber(tx.file), tx.offset) + versionTail(change.ordinal, 0)
  return { tx, change, version, id: `${transactionId(tx)}/${change.ordinal}`, start, end }
}

/** Writes everything; rows that are refused are an error. */
export async function drive(sink: Sink, items: readonly Item[]): Promise<void> {
  const { signal } = new AbortController()
  for (const item of items) {
    if ('statement' in item) await sink.statement?.(item.statement, signal)
    else {
      const [failure] = await sink.write(item.batch, signal)
      if (failure !== undefined) throw failure.error
    }
  }
}

/**
 * As `drive`, but as the runner does it: after an error that may pass (`failed` is told) the sink is opened again, and what
 * its `resume` says was written is not written again. Returns the sink that is open at the end.
 */
export async function deliver(
  sink: Sink,
  open: () => Promise<Sink>,
  items: readonly Item[],
  failed: () => void | Promise<void>,
): Promise<Sink> {
  let current: Sink | undefined = sink
  const rest = [...items]
  while (rest.length > 0)
    try {
      if (current === undefined) {
        current = await open()
        const { resume } = current
        while (resume !== undefined && rest[0] !== undefined && isDone(rest[0], resume))
          rest.shift()
        continue
      }
      await drive(current, rest.slice(0, 1))
      rest.shift()
    } catch (error) {
      if (!(error instanceof SluiceError) || !error.retryable) throw error
      await failed()
      await current?.close()
      current = undefined
    }
  return current ?? (await open())
}
const isDone = (item: Item, resume: Position): boolean =>
  comparePositions('batch' in item ? item.batch.end : item.statement.end, resume) <= 0

/** The context of sink `name` of an instance; `fence` says which start of it. */
export function contextOf(position: Position, name = 'target', fence = 1): SinkContext {
  return {
    instance: 'shop',
    sink: name,
    log: pino({ level: 'silent' }),
    signal: new AbortController().signal,
    fence,
    server: position.server,
    epoch: position.epoch,
    position,
    query: () => Promise.resolve([]),
  }
}
