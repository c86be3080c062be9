/**
 * What a server writes to its binlog for some statements, as Sluice reads it: mysqlSource with a catalog that was ready
 * before the first statement, as in an instance. Works with every server, whatever metadata it logs.
 */
import { parseTimeZone } from '../../src/binlog/time.ts'
import { Catalog } from '../../src/catalog/catalog.ts'
import {
  comparePositions,
  type Change,
  type Position,
  type RowsChange,
  type Transaction,
} from '../../src/change.ts'
import { compileColumns } from '../../src/filter.ts'
import { Connection, type ConnectOptions } from '../../src/mysql/connection.ts'
import { SlabPool } from '../../src/slab.ts'
import { logEnd, mysqlSource, scanStatements, sourceFacts } from '../../src/sources/index.ts'
import type { CaptureOptions } from '../binlog/capture.ts'
import type { MysqlServer } from '../support/mysql.ts'

export const connectOptions = (server: MysqlServer): ConnectOptions => ({
  host: server.host,
  port: server.port,
  user: server.user,
  password: server.password,
  tls: { mode: 'preferred' },
  connectTimeoutMs: 10_000,
})

export interface Read {
  readonly changes: RowsChange[]
  /** Of every kind, in order. */
  readonly all: Change[]
  readonly transactions: Transaction[]
  readonly from: Position
  readonly to: Position
  readonly warnings: string[]
}
export interface ReadOptions extends CaptureOptions {
  /** Where to begin instead of where the log ends before the first statement. */
  readonly start?: (latest: Position) => Position
}

/** Runs `write` and reads everything it caused. */
export async function readThroughSource(options: ReadOptions): Promise<Read> {
  const { server, database, write, zone = parseTimeZone('UTC'), start = (p) => p } = options
  const connect = connectOptions(server)
  const db = await server.connect()
  using questions = await Connection.open(connect)
  try {
    await db.query(`CREATE DATABASE IF NOT EXISTS ${database}; USE ${database}`)
    const facts = await sourceFacts(questions)
    const warnings: string[] = []
    const own = { connect, epoch: 1, server: facts.serverUuid, slabs: new SlabPool() }
    const catalog = new Catalog({
      query: (sql, params) => questions.query(sql, params),
      timeZone: zone,
      columns: compileColumns({}),
      log: { warn: (_details, message) => void warnings.push(message) },
      end: () => logEnd(questions, 1),
      scan: (from, to) => scanStatements(own, from, to),
    })
    await catalog.prepare()
    await write(db)
    const to = (await sourceFacts(questions)).latest
    const source = mysqlSource({
      ...own,
      catalog,
      filter: (name) => name === database,
      heartbeatMs: 100,
    })
    const stop = new AbortController()
    const transactions: Transaction[] = []
    const from = start(facts.latest)
    for await (const tx of source.read(from, stop.signal)) {
      transactions.push(tx)
      const end = { file: tx.endFile, offset: tx.endOffset, skip: 0 }
      if (tx.state !== 'open' && comparePositions(end, to) >= 0) break
    }
    const all = transactions.flatMap((tx) => [...tx.changes])
    const changes = all.filter(
      (c): c is RowsChange => c.kind === 'insert' || c.kind === 'update' || c.kind === 'delete',
    )
    return { changes, all, transactions, from, to, warnings }
  } finally {
    await db.end()
  }
}
