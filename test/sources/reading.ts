/** How the tests on real servers read: a source with tables nobody decodes, and reads that stop where asked. */
import {
  sourceFacts,
  mysqlSource,
  type MysqlSourceOptions,
  type SourceFacts,
} from '../../src/sources/index.ts'
import { advance, type Filter, type Position, type Source } from '../../src/change.ts'
import { Connection, type ConnectOptions } from '../../src/mysql/connection.ts'
import { SlabPool } from '../../src/slab.ts'
import type { MysqlServer } from '../support/mysql.ts'
import { bareCatalog, describeTransaction, type Described } from './fixture.ts'

interface Address {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
}
export const connectOptions = (address: Address): ConnectOptions => ({
  host: address.host,
  port: address.port,
  user: address.user,
  password: address.password,
  tls: { mode: 'disabled' },
  connectTimeoutMs: 10_000,
})

export async function factsOf(address: Address): Promise<SourceFacts> {
  using connection = await Connection.open(connectOptions(address))
  return await sourceFacts(connection)
}

/** A source on the server; only tables of `database` where it is given. */
export function sourceOn(
  address: Address,
  database: string,
  options: Partial<Omit<MysqlSourceOptions, 'slabs'>> = {},
  slabs = new SlabPool(),
): { source: Source; slabs: SlabPool } {
  const filter: Filter = (name) => name === database
  const source = mysqlSource({
    connect: connectOptions(address),
    epoch: 1,
    catalog: bareCatalog,
    filter,
    slabs,
    heartbeatMs: 1_000,
    ...options,
  })
  return { source, slabs }
}

export interface Read {
  readonly all: Described[]
  /** After each of `all`. */
  readonly positions: Position[]
  /** What ended the read, when it was not the end asked for. */
  readonly error: unknown
}
/** Reads from `from` until the position has reached `to`, or an error. Only transactions with changes are in `all`. */
export async function readTo(
  source: Source,
  from: Position,
  to: Position | undefined,
): Promise<Read> {
  const abort = new AbortController()
  const all: Described[] = []
  const positions: Position[] = []
  let position = from
  try {
    for await (const tx of source.read(from, abort.signal)) {
      position = advance(position, tx)
      if (tx.changes.length > 0) {
        all.push(describeTransaction(tx))
        positions.push(position)
      }
      tx.slab?.release()
      if (to && tx.state !== 'open' && tx.endFile === to.file && tx.endOffset >= to.offset) break
    }
  } catch (error) {
    return { all, positions, error }
  } finally {
    abort.abort()
  }
  return { all, positions, error: undefined }
}

/** By file and offset, even where there are GTIDs. */
export const noGtids = (position: Position): Position => ({ ...position, gtids: undefined })

/** Writes a bit of everything; returns where it begins and ends. */
export async function everything(
  mysql: MysqlServer,
  db: string,
): Promise<{ from: Position; to: Position }> {
  const connection = await mysql.connect()
  const run = (sql: string) => connection.query(sql)
  await run(`CREATE DATABASE IF NOT EXISTS ${db}`)
  await run(`USE ${db}`)
  await run('DROP TABLE IF EXISTS t, u, copied, m')
  await run('CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(200))')
  await run('CREATE TABLE u (id INT PRIMARY KEY, b BLOB)')
  const { latest: from } = await factsOf(mysql)
  await run("INSERT INTO t VALUES (1,'one'),(2,'two'),(3,'three')")
  await run("UPDATE t SET a = CONCAT(a,'!')")
  await run(
    'BEGIN; INSERT INTO t VALUES (4,NULL); SAVEPOINT s; INSERT INTO u VALUES (1,NULL); ROLLBACK TO s; DELETE FROM t WHERE id = 1; COMMIT',
  )
  await run('BEGIN; INSERT INTO t VALUES (77,NULL); ROLLBACK')
  await run('CREATE TABLE copied AS SELECT * FROM t')
  await run('CREATE TABLE m (id INT) ENGINE=MyISAM')
  await run('INSERT INTO m VALUES (1)')
  await run("XA START 'a'; INSERT INTO t VALUES (5,'xa'); XA END 'a'; XA PREPARE 'a'")
  await run("XA COMMIT 'a'")
  await run("XA START 'b'; INSERT INTO t VALUES (6,'xa'); XA END 'b'; XA PREPARE 'b'")
  await run("XA ROLLBACK 'b'")
  await run("XA START 'c'; INSERT INTO t VALUES (7,'xa'); XA END 'c'; XA COMMIT 'c' ONE PHASE")
  await run(
    "SET SESSION binlog_rows_query_log_events = ON; INSERT INTO t VALUES (8,'annotated'); SET SESSION binlog_rows_query_log_events = OFF",
  )
  await run(
    "SET SESSION binlog_format = STATEMENT; SET @v = 'user''s'; INSERT INTO m VALUES (LENGTH(@v)); SET SESSION binlog_format = ROW",
  )
  await run(
    "SET SESSION binlog_transaction_compression = ON; INSERT INTO t SELECT id + 100, REPEAT('z', 200) FROM t; SET SESSION binlog_transaction_compression = OFF",
  )
  await run(
    'BEGIN; UPDATE t, u SET t.a = 1, u.b = 2 WHERE t.id = 2; INSERT INTO u VALUES (9, REPEAT(0x61, 100)); INSERT INTO t VALUES (9, 0x62); COMMIT',
  )
  await run('FLUSH BINARY LOGS')
  await run('ALTER TABLE t ADD COLUMN c INT')
  await run('INSERT INTO t (id, c) VALUES (10, 10)')
  await run('TRUNCATE TABLE u')
  const { latest: to } = await factsOf(mysql)
  await connection.end()
  return { from, to }
}
