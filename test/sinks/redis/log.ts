/** What the Redis sink is given in its tests: batches and statements of what a real MySQL logged, and a context. */
import { pino } from 'pino'
import { parseTimeZone } from '../../../src/binlog/time.ts'
import { Catalog } from '../../../src/catalog/catalog.ts'
import { advance, type Position, type QueryChange, type Transaction } from '../../../src/change.ts'
import { compileColumns } from '../../../src/filter.ts'
import { redis } from '../../../src/sinks/redis.ts'
import { rowChanges, SinkBatch } from '../../../src/sinks/shape/batch.ts'
import { plainTarget } from '../../../src/sinks/shape/row.ts'
import {
  transactionId,
  versionBefore,
  versionHead,
  versionTail,
} from '../../../src/sinks/shape/version.ts'
import type { Sink, SinkContext, SinkStatement } from '../../../src/sinks/sink.ts'
import { fileNumber } from '../../../src/change.ts'
import type { MysqlServer } from '../../support/mysql.ts'
import { factsOf, sourceOn } from '../../sources/reading.ts'

const log = pino({ level: 'silent' })

export interface Written {
  readonly batch: SinkBatch
  readonly statements: readonly SinkStatement[]
  readonly end: Position
}

/** The log of one database of a server, from now on. */
export class Log {
  readonly database: string
  readonly mysql: MysqlServer
  #position: Position
  private constructor(mysql: MysqlServer, database: string, position: Position) {
    this.mysql = mysql
    this.database = database
    this.#position = position
  }
  static async open(mysql: MysqlServer, database: string): Promise<Log> {
    await mysql.query(`CREATE DATABASE IF NOT EXISTS ${database}`)
    const { latest } = await factsOf(mysql)
    return new Log(mysql, database, { ...latest, epoch: 1 })
  }
  get position(): Position {
    return this.#position
  }

  /** Runs statements and gives what they logged since the last time. */
  async run(sql: string): Promise<Written> {
    const connection = await this.mysql.connect({ database: this.database })
    await connection.query(sql)
    await connection.end()
    return this.read()
  }
  async read(): Promise<Written> {
    const { latest: to } = await factsOf(this.mysql)
    const catalog = new Catalog({
      query: (text, params) => this.mysql.query(text, params),
      timeZone: parseTimeZone('UTC'),
      columns: compileColumns({}),
      log,
    })
    const { source } = sourceOn(this.mysql, this.database, { catalog })
    const start = this.#position
    const transactions: Transaction[] = []
    const statements: SinkStatement[] = []
    const abort = new AbortController()
    let end = start
    for await (const tx of source.read(start, abort.signal)) {
      const before = end
      end = advance(end, tx)
      transactions.push(tx)
      for (const change of tx.changes)
        if (change.kind === 'ddl') statements.push(statementOf(tx, change, before, end))
      if (tx.endFile === to.file && tx.endOffset >= to.offset) break
    }
    abort.abort()
    this.#position = end
    return { batch: batchOf(transactions, start, end), statements, end }
  }
}
export function batchOf(
  transactions: readonly Transaction[],
  start: Position,
  end: Position,
  highest = versionBefore(end),
): SinkBatch {
  return new SinkBatch({
    slices: transactions.map((tx) => ({ tx, changes: rowChanges(tx.changes) })),
    start,
    end,
    highest,
    redelivered: false,
    target: perTableTarget(),
  })
}
function perTableTarget(): (
  table: Parameters<typeof plainTarget>[0],
) => ReturnType<typeof plainTarget> {
  const known = new WeakMap<object, ReturnType<typeof plainTarget>>()
  return (table) => {
    let made = known.get(table)
    if (made === undefined) known.set(table, (made = plainTarget(table)))
    return made
  }
}
function statementOf(
  tx: Transaction,
  change: QueryChange,
  start: Position,
  end: Position,
): SinkStatement {
  const head = versionHead(tx.epoch, fileNumber(tx.file), tx.offset)
  return {
    tx,
    change,
    version: head + versionTail(change.ordinal, 0),
    id: `${transactionId(tx)}/${change.ordinal}`,
    start,
    end,
  }
}
/** The batch as a cursor knows it that has given out nothing above `highest`. */
export const withHighest = ({ facts }: SinkBatch, highest: string): SinkBatch =>
  new SinkBatch({ ...facts, highest })

export function contextOf(mysql: MysqlServer, more: Partial<SinkContext> = {}): SinkContext {
  const position = {
    epoch: 1,
    server: '',
    file: 'binlog.000001',
    offset: 4,
    skip: 0,
    timestamp: 0,
    gtids: undefined,
  }
  return {
    instance: 'shop',
    sink: 'cache',
    log,
    signal: new AbortController().signal,
    fence: 1,
    server: '',
    epoch: 1,
    position,
    query: (sql, params) => mysql.query(sql, params),
    ...more,
  }
}

/** Opens the sink with options as they stand in a file. */
export async function openSink(
  options: Record<string, unknown>,
  context: SinkContext,
): Promise<Sink & AsyncDisposable> {
  const parsed = redis.options.parse(options)
  const problems = redis.problems!(parsed)
  if (problems.length > 0) throw new Error(problems.join('\n'))
  const sink = await redis.open(parsed, context)
  return Object.assign(sink, { [Symbol.asyncDispose]: () => sink.close() })
}
export const never = new AbortController().signal
