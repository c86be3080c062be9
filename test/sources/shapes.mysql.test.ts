/**
 * Transactions as they were: for every shape that the manual describes, what stands in a real server's log and is
 * delivered. docs/transactions.md says the same for people.
 */
import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Connection } from 'mysql2/promise'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseTimeZone } from '../../src/binlog/time.ts'
import { Catalog } from '../../src/catalog/catalog.ts'
import type { Transaction } from '../../src/change.ts'
import { everyColumn } from '../../src/filter.ts'
import { privateMysql, versions, type MysqlServer } from '../support/mysql.ts'
import { factsOf, sourceOn } from './reading.ts'

/** Events describe their tables themselves (binlog_row_metadata=FULL). */
const catalog = (): Catalog =>
  new Catalog({
    query: undefined,
    timeZone: parseTimeZone('UTC'),
    columns: everyColumn,
    log: { warn: () => undefined },
  })

/** "begin, insert t 3 rows, commit", transaction after transaction. */
function shape(tx: Transaction): string {
  const list: string[] = []
  let rows: { kind: string; table: string; count: number } | undefined
  const flush = (): void => {
    if (rows) list.push(`${rows.kind} ${rows.table} ${rows.count}`)
    rows = undefined
  }
  for (const change of tx.changes) {
    if (change.kind === 'insert' || change.kind === 'update' || change.kind === 'delete') {
      const { kind, table } = change
      let count = 0
      const reader = change.reader()
      while (reader.next()) count++
      if (rows?.kind === kind && rows.table === table.name) rows.count += count
      else {
        flush()
        rows = { kind, table: table.name, count }
      }
      continue
    }
    flush()
    if (change.kind === 'begin') list.push(change.xid === '' ? 'begin' : 'XA begin')
    else if (change.kind === 'commit') list.push(change.xa ? 'XA end' : 'commit')
    else if (change.kind === 'annotation') list.push('text')
    else if (change.kind === 'ddl' || change.kind === 'statement')
      list.push(`${change.kind} ${change.type} ${change.table}`)
    else list.push(change.kind)
  }
  flush()
  return (tx.state === 'committed' ? '' : `${tx.state}: `) + list.join(', ')
}

describe.each(versions)('MySQL %s', (version) => {
  let mysql: MysqlServer
  let db: Connection
  beforeAll(async () => {
    mysql = await privateMysql(version)
    db = await mysql.connect()
    await db.query('CREATE DATABASE shapes; USE shapes')
    await db.query('CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(2000)); CREATE TABLE u LIKE t')
    await db.query('CREATE TABLE m (id INT PRIMARY KEY) ENGINE = MyISAM')
  })
  afterAll(async () => {
    await db.end()
    await mysql[Symbol.asyncDispose]()
  })

  /** What is delivered of `sql`; parts of one transaction are one line each. */
  async function delivered(sql: string): Promise<string[]> {
    const { latest: from } = await factsOf(mysql)
    await db.query(sql)
    const { latest: to } = await factsOf(mysql)
    if (from.offset === to.offset && from.file === to.file) return []
    const { source } = sourceOn(mysql, 'shapes', {
      catalog: catalog(),
      partBytes: 64 * 1024,
      heartbeatMs: 50,
    })
    const found: string[] = []
    for await (const tx of source.read(from, new AbortController().signal)) {
      if (tx.changes.length > 0) found.push(shape(tx))
      tx.slab?.release()
      if (tx.state !== 'open' && tx.endFile === to.file && tx.endOffset >= to.offset) break
    }
    return found
  }

  test('empty ones, savepoints, rollbacks, implicit commits', async () => {
    expect(
      await delivered('BEGIN; COMMIT; BEGIN; UPDATE t SET a = 1 WHERE id = -1; COMMIT'),
    ).toEqual([])
    expect(await delivered("BEGIN; INSERT INTO t VALUES (1, 'x'); ROLLBACK")).toEqual([])
    expect(
      await delivered(
        "BEGIN; INSERT INTO t VALUES (1, 'x'); SAVEPOINT s; INSERT INTO t VALUES (2, 'x'); ROLLBACK TO s; INSERT INTO u VALUES (3, 'x'); COMMIT",
      ),
    ).toEqual(['begin, insert t 1, insert u 1, commit'])
    expect(
      await delivered(
        "BEGIN; INSERT INTO t VALUES (4, 'x'); CREATE TABLE implicit (id INT); ROLLBACK",
      ),
    ).toEqual(['begin, insert t 1, commit', 'ddl CREATE implicit'])
    expect(await delivered('BEGIN; DELETE FROM t WHERE id = 4; BEGIN; ROLLBACK')).toEqual([
      'begin, delete t 1, commit',
    ])
  })

  test('XA: prepare and commit apart, rolled back, in one phase', async () => {
    const xa = (id: number, end: string) =>
      delivered(`XA START 'x'; INSERT INTO t VALUES (${id}, 'x'); XA END 'x'; ${end}`)
    expect(await xa(10, "XA PREPARE 'x'")).toEqual(['prepared: XA begin, insert t 1, XA end'])
    expect(await delivered("XA COMMIT 'x'")).toEqual(['xaCommit'])
    expect(await xa(11, "XA PREPARE 'x'; XA ROLLBACK 'x'")).toEqual([
      'prepared: XA begin, insert t 1, XA end',
      'xaRollback',
    ])
    expect(await xa(12, "XA COMMIT 'x' ONE PHASE")).toEqual(['XA begin, insert t 1, XA end'])
    expect(await xa(13, "XA ROLLBACK 'x'")).toEqual([])
  })

  test('tables without transactions: at once, whatever becomes of the transaction around them', async () => {
    await db.query('SET GLOBAL enforce_gtid_consistency = WARN').catch(() => undefined)
    expect(await delivered('INSERT INTO m VALUES (1), (2)')).toEqual(['begin, insert m 2, commit'])
    expect(await delivered('TRUNCATE m')).toEqual(['ddl TRUNCATE m'])
  })

  test('one statement for many rows and tables, LOAD DATA, CREATE TABLE … SELECT', async () => {
    const rows = Array.from({ length: 300 }, (_, i) => `(${1000 + i}, '${'y'.repeat(1000)}')`)
    const parts = await delivered(`INSERT INTO t VALUES ${rows.join(', ')}`)
    expect(parts.length).toBeGreaterThan(2)
    expect(parts[0]).toMatch(/^open: begin, insert t \d+$/)
    expect(parts.at(-1)).toMatch(/commit$/)
    const counts = parts.map((p) => Number(/insert t (\d+)/.exec(p)?.[1] ?? 0))
    expect(counts.reduce((a, b) => a + b, 0)).toBe(300)
    await db.query(
      "DELETE FROM u; INSERT INTO u SELECT id, 'u' FROM t WHERE id BETWEEN 1000 AND 1004",
    )
    expect(
      await delivered(
        'UPDATE t STRAIGHT_JOIN u ON t.id = u.id SET t.a = "both", u.a = "both" WHERE t.id < 1003',
      ),
    ).toEqual(['begin, update t 3, update u 3, commit'])
    expect(
      await delivered('DELETE t, u FROM t STRAIGHT_JOIN u ON t.id = u.id WHERE t.id < 1002'),
    ).toEqual(['begin, delete t 2, delete u 2, commit'])
    expect(await delivered("REPLACE INTO t VALUES (1003, 'r'), (5, 'r')")).toEqual([
      'begin, update t 1, insert t 1, commit',
    ])
    const file = join(mysql.dataDir!, `load-${randomBytes(4).toString('hex')}.txt`)
    writeFileSync(file, '7001\tone\n7002\ttwo\n')
    expect(await delivered(`LOAD DATA INFILE '${file}' INTO TABLE t`)).toEqual([
      'begin, insert t 2, commit',
    ])
    expect(
      await delivered('CREATE TABLE copied (PRIMARY KEY (id)) SELECT id FROM t WHERE id > 7000'),
    ).toEqual(['begin, ddl CREATE copied, insert copied 2, commit'])
    expect(await delivered('TRUNCATE copied; DROP TABLE copied')).toEqual([
      'ddl TRUNCATE copied',
      'ddl ERASE copied',
    ])
  })

  test('foreign keys: what the server changes below the statement', async () => {
    await db.query(
      'CREATE TABLE parent (id INT PRIMARY KEY); CREATE TABLE child (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE ON UPDATE CASCADE)',
    )
    await db.query(
      'INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1), (2, 1), (3, 2)',
    )
    const rows = await delivered('DELETE FROM parent WHERE id = 1')
    const [row] = await mysql.query<{ n: number }>('SELECT COUNT(*) AS n FROM shapes.child')
    expect(row!.n).toBe(1)
    // MySQL 9.6 moved cascades out of InnoDB
    if (Number.parseInt(mysql.version, 10) >= 9)
      expect(rows.join()).toMatch(/delete parent 1.*delete child 2|delete child 2.*delete parent 1/)
    else expect(rows).toEqual(['begin, delete parent 1, commit'])
  })

  test('rows of a statement that is logged as text are not there, and its text is', async () => {
    await db.query('SET SESSION binlog_format = STATEMENT')
    const found = await delivered("UPDATE t SET a = 'text' WHERE id = 5")
    const stopping = sourceOn(mysql, 'shapes', { kinds: { statements: { dml: 'stop' } } })
    const { latest } = await factsOf(mysql)
    const { latest: from } = { latest: { ...latest } }
    await db.query("UPDATE t SET a = 'again' WHERE id = 5; SET SESSION binlog_format = ROW")
    expect(found).toEqual(['begin, statement UPDATE t, commit'])
    const read = async (): Promise<void> => {
      for await (const tx of stopping.source.read(from, new AbortController().signal))
        tx.slab?.release()
    }
    await expect(read()).rejects.toMatchObject({
      code: 'SOURCE_UNSUITABLE',
      message: expect.stringMatching(
        /UPDATE on shapes\.t logged as text.*SET PERSIST binlog_format = 'ROW'.*filter\.statements\.dml/s,
      ) as string,
    })
  })

  test('kinds of changes that are not wanted are left out', async () => {
    const { latest: from } = await factsOf(mysql)
    await db.query(
      "SET SESSION binlog_rows_query_log_events = ON; INSERT INTO u VALUES (90, 'k'); UPDATE u SET a = 'l' WHERE id = 90; DELETE FROM u WHERE id = 90; SET SESSION binlog_rows_query_log_events = OFF",
    )
    await db.query(
      'CREATE VIEW v AS SELECT 1; CREATE TABLE kinds (id INT); DROP TABLE kinds; CREATE DATABASE other',
    )
    await db.query("INSERT INTO u VALUES (91, 'end')")
    const { latest: to } = await factsOf(mysql)
    const read = async (kinds: object): Promise<string[]> => {
      const { source } = sourceOn(mysql, 'shapes', { catalog: catalog(), kinds, heartbeatMs: 50 })
      const found: string[] = []
      for await (const tx of source.read(from, new AbortController().signal)) {
        if (tx.changes.length > 0) found.push(shape(tx))
        tx.slab?.release()
        if (tx.endFile === to.file && tx.endOffset >= to.offset) break
      }
      return found
    }
    const end = 'begin, insert u 1, commit'
    const texts = [
      'begin, text, insert u 1, commit',
      'begin, text, update u 1, commit',
      'begin, text, delete u 1, commit',
    ]
    const ddl = ['ddl CREATE kinds', 'ddl ERASE kinds']
    const view = 'ddl QUERY '
    expect(await read({})).toEqual([...texts, view, ...ddl, end])
    expect(await read({ statements: { ddl: false } })).toEqual([...texts, view, end])
    expect(await read({ statements: { dcl: false } })).toEqual([...texts, ...ddl, end])
    expect(await read({ statements: { dml: 'drop' } })).toEqual([
      ...texts.map((t) => t.replace('text, ', '')),
      view,
      ...ddl,
      end,
    ])
    expect(await read({ rows: { update: false, delete: false } })).toEqual([
      texts[0],
      view,
      ...ddl,
      end,
    ])
    expect(await read({ rows: { insert: false, update: false, delete: false } })).toEqual([
      view,
      ...ddl,
    ])
  })
})
