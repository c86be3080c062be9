/** What a sink is given, made of what a real MySQL logged: a batch, and a context to open the sink in. */
import { pino } from 'pino'
import { parseTimeZone } from '../../src/binlog/time.ts'
import { Catalog } from '../../src/catalog/catalog.ts'
import { advance, type Position, type QueryChange, type Transaction } from '../../src/change.ts'
import { compileColumns } from '../../src/filter.ts'
import { rowChanges, SinkBatch } from '../../src/sinks/shape/batch.ts'
import { plainTarget } from '../../src/sinks/shape/row.ts'
import { transactionId, versionBefore } from '../../src/sinks/shape/version.ts'
import type { SinkContext, SinkStatement } from '../../src/sinks/sink.ts'
import type { Table } from '../../src/change.ts'
import type { MysqlServer } from '../support/mysql.ts'
import { factsOf, sourceOn } from '../sources/reading.ts'

export interface Fed {
  readonly transactions: readonly Transaction[]
  readonly batch: SinkBatch
  readonly statements: readonly SinkStatement[]
}

/** Runs statements (several in one text are fine) and returns what they logged in `database`. */
export async function feed(mysql: MysqlServer, database: string, sql: string): Promise<Fed> {
  const { latest: from } = await factsOf(mysql)
  const connection = await mysql.connect({ database })
  await connection.query(sql)
  await connection.end()
  const { latest: to } = await factsOf(mysql)
  const log = pino({ level: 'silent' })
  const catalog = new Catalog({
    query: (text, params) => mysql.query(text, params),
    timeZone: parseTimeZone('UTC'),
    columns: compileColumns({}),
    log,
  })
  const { source } = sourceOn(mysql, database, { catalog })
  const transactions: Transaction[] = []
  const abort = new AbortController()
  for await (const tx of source.read(from, abort.signal)) {
    transactions.push(tx)
    if (tx.endFile === to.file && tx.endOffset >= to.offset) break
  }
  abort.abort()
  return {
    transactions,
    batch: batchOf(transactions, from),
    statements: statementsOf(transactions, from),
  }
}

function batchOf(transactions: readonly Transaction[], start: Position): SinkBatch {
  let end = start
  for (const tx of transactions) end = advance(end, tx)
  const known = new WeakMap<Table, ReturnType<typeof plainTarget>>()
  const slices = transactions.map((tx) => ({ tx, changes: rowChanges(tx.changes) }))
  return new SinkBatch({
    slices,
    start,
    end,
    highest: versionBefore(end),
    redelivered: false,
    target: (table) => {
      let made = known.get(table)
      if (made === undefined) known.set(table, (made = plainTarget(table)))
      return made
    },
  })
}
function statementsOf(transactions: readonly Transaction[], start: Position): SinkStatement[] {
  return transactions.flatMap((tx) =>
    tx.changes
      .filter((change): change is QueryChange => change.kind === 'ddl')
      .map((change) => ({
        tx,
        change,
        version: versionBefore(start),
        id: `${transactionId(tx)}/${change.ordinal}`,
        start,
        end: advance(start, tx),
      })),
  )
}

/** Of instance "orders", sink "out"; `log` gets what the sink logs. */
export function context(log: string[] = []): SinkContext {
  return {
    instance: 'orders',
    sink: 'out',
    log: pino({ level: 'debug' }, { write: (line: string) => void log.push(line) }),
    signal: new AbortController().signal,
    fence: 1,
    server: '',
    epoch: 1,
    position: {
      epoch: 1,
      server: '',
      file: 'binlog.000001',
      offset: 4,
      skip: 0,
      gtids: undefined,
      timestamp: 0,
    },
    query: () => Promise.resolve([]),
  }
}
