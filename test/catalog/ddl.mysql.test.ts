/**
 * Statements as a real server logs them (it rewrites some) against what `classify` makes of them.
 */
import mysql from 'mysql2/promise'
import { describe, expect, it } from 'vitest'
import { classify } from '../../src/catalog/ddl/classify.ts'
import { privateMysql, versions } from '../support/mysql.ts'

/** Statement → what stands in the binlog for it: kind, type, head table and tables, of each logged text. */
const cases: [sql: string, ...logged: string[]][] = [
  ['CREATE TABLE t (id INT PRIMARY KEY, a INT, b VARCHAR(9))', 'ddl CREATE d.t | d.t'],
  [
    'create /*!80000 table */ `e`.`we``ird` (a int) comment "drop table x; begin"',
    'ddl CREATE e.we`ird | e.we`ird',
  ],
  ['create /*!99999 temporary */ table if not exists /* t */ t (x int)', 'ddl CREATE d.t | d.t'],
  ['CREATE TABLE `表` LIKE t', 'ddl CREATE d.表 | d.表'],
  ['CREATE TABLE s SELECT 1 AS one', 'begin', 'ddl CREATE d.s | d.s opens'],
  ['CREATE TEMPORARY TABLE tmp (a INT)'],
  ['DROP TEMPORARY TABLE tmp'],
  ['ALTER TABLE t ADD COLUMN c INT, ADD INDEX (a)', 'ddl ALTER d.t | d.t'],
  ['alter table t add unique key u (b)', 'ddl CINDEX d.t | d.t'],
  ['alter table t drop key u, drop column c', 'ddl DINDEX d.t | d.t'],
  ['alter table t rename column b to bb', 'ddl ALTER d.t | d.t'],
  ['alter table t comment = "x", rename to e.moved', 'ddl ALTER d.t | d.t e.moved'],
  ['alter table e.moved rename t', 'ddl RENAME d.t | e.moved d.t'],
  ['CREATE INDEX `on` ON t (a)', 'ddl CINDEX d.t | d.t'],
  ['DROP INDEX `on` ON d.t', 'ddl DINDEX d.t | d.t'],
  ['RENAME TABLE t TO e.t2, s TO t, e.t2 TO s', 'ddl RENAME e.t2 | d.t e.t2 d.s d.t e.t2 d.s'],
  ['truncate t', 'ddl TRUNCATE d.t | d.t'],
  ['TRUNCATE TABLE e.`we``ird`', 'ddl TRUNCATE e.we`ird | e.we`ird'],
  [
    'CREATE TABLE p (a INT) PARTITION BY RANGE (a) (PARTITION p0 VALUES LESS THAN (9))',
    'ddl CREATE d.p | d.p',
  ],
  ['CREATE TABLE p2 (a INT)', 'ddl CREATE d.p2 | d.p2'],
  ['ALTER TABLE p EXCHANGE PARTITION p0 WITH TABLE p2', 'ddl ALTER d.p | d.p d.p2'],
  ['ALTER TABLE p ADD PARTITION (PARTITION p1 VALUES LESS THAN (20))', 'ddl ALTER d.p | d.p'],
  ['CREATE TABLE f (a INT, FOREIGN KEY (a) REFERENCES s (id))', 'ddl CREATE d.f | d.f'],
  ['ALTER TABLE f ADD CONSTRAINT c CHECK (a > 0)', 'ddl ALTER d.f | d.f'],
  ['DROP TABLE f, p, e.`we``ird`', 'ddl ERASE d.f | d.f d.p e.we`ird'],
  ['DROP TABLE IF EXISTS nope', 'ddl ERASE d.nope | d.nope'],
  ['CREATE VIEW v AS SELECT * FROM s', 'ddl QUERY - |'],
  ['DROP VIEW v', 'ddl QUERY - |'],
  ['CREATE PROCEDURE pr() BEGIN DROP TABLE s; COMMIT; END', 'ddl QUERY - |'],
  ['DROP PROCEDURE pr', 'ddl QUERY - |'],
  ['CREATE TRIGGER g BEFORE INSERT ON s FOR EACH ROW SET @x = 1', 'ddl QUERY - |'],
  ['DROP TRIGGER g', 'ddl QUERY - |'],
  ['CREATE FUNCTION fn() RETURNS INT DETERMINISTIC RETURN 1', 'ddl QUERY - |'],
  ['CREATE EVENT ev ON SCHEDULE EVERY 1 YEAR DISABLE DO TRUNCATE s', 'ddl QUERY - |'],
  ["CREATE USER u IDENTIFIED BY 'commit'", 'ddl QUERY - |'],
  ['GRANT SELECT ON d.* TO u', 'ddl QUERY - |'],
  ['DROP USER u', 'ddl QUERY - |'],
  ['ALTER DATABASE CHARACTER SET latin1', 'ddl QUERY d. | d.'],
  ['CREATE DATABASE IF NOT EXISTS x', 'ddl QUERY x. | x.'],
  ['DROP DATABASE x', 'ddl QUERY x. | x.'],
  ['ANALYZE TABLE s', 'ddl QUERY - |'],
  ["SET SESSION sql_mode = 'ANSI_QUOTES'"],
  ['CREATE TABLE "q t" ("a b" INT)', 'ddl CREATE d.q t | d.q t'],
  ['DROP TABLE "q t", p2', 'ddl ERASE d.q t | d.q t d.p2'],
  ['SET SESSION sql_mode = DEFAULT'],
  ['CREATE TABLE m (a INT) ENGINE = MyISAM', 'ddl CREATE d.m | d.m'],
  ['INSERT INTO m VALUES (1)', 'begin', 'commit'],
  ['INSERT INTO t VALUES (1)', 'begin'],
  ['XA START "x"'],
  ['INSERT INTO t VALUES (2)'],
  ['XA END "x"'],
  ['XA PREPARE "x"', "xaStart xid X'78',X'',1 opens", "xaEnd xid X'78',X'',1"],
  ['XA COMMIT "x"', "xaCommit XACOMMIT xid X'78',X'',1"],
  ['SET SESSION binlog_format = STATEMENT'],
  ['UPDATE t SET one = 3 WHERE one = 2', 'begin', 'statement UPDATE d.t | d.t'],
  [
    'DELETE t.* FROM t JOIN m ON m.a = t.one WHERE one = 9',
    'begin',
    'statement DELETE d.t | d.t d.m',
    'commit',
  ],
  ['REPLACE e.moved2 SELECT 1', 'begin', 'statement INSERT e.moved2 | e.moved2'],
  [
    'WITH c AS (SELECT 1 AS k) UPDATE t, c SET one = 4 WHERE one = k',
    'begin',
    'statement UPDATE d.t | d.t d.c',
  ],
]

function summary(sql: string, database: string): string {
  const s = classify(sql, database)
  const type = s.type === 'QUERY' && s.kind !== 'ddl' ? '' : ` ${s.type}`
  const head = s.database === '' && s.table === '' ? '-' : `${s.database}.${s.table}`
  const tables = s.tables.map((t) => ` ${t.database}.${t.table}`).join('')
  const names = s.kind === 'ddl' || s.kind === 'statement' ? ` ${head} |${tables}` : ''
  const xid = s.xid && ` xid ${s.xid}`
  return `${s.kind}${type}${names}${xid}${s.opens && s.kind !== 'begin' ? ' opens' : ''}`
}

describe('classify on what a server logs', () => {
  it(`knows ${cases.length} statements`, { timeout: 120_000 }, async () => {
    await using server = await privateMysql(versions[0]!)
    const { host, port, user, password } = server
    const session = await mysql.createConnection({ host, port, user, password })
    const rows = async (sql: string): Promise<Record<string, string>[]> =>
      (await session.query(sql))[0] as Record<string, string>[]
    try {
      await session.query('CREATE DATABASE d')
      await session.query('CREATE DATABASE e')
      await session.query('CREATE TABLE e.moved2 (a INT)')
      await session.query('USE d')
      const found: [sql: string, ...logged: string[]][] = []
      for (const [sql] of cases) {
        const before = (await rows('SHOW BINARY LOGS')).at(-1)!
        await session.query(sql)
        const events = await rows(
          `SHOW BINLOG EVENTS IN '${before.Log_name}' FROM ${before.File_size}`,
        )
        const texts = events.filter((e) => e.Event_type === 'Query').map((e) => e.Info!)
        // The server prints the default database, and a comment of its own, beside the text.
        const logged = texts.map((text) => summary(text.replace(/^use `d`; /, ''), 'd'))
        found.push([sql, ...logged])
      }
      expect(found).toEqual(cases)
    } finally {
      session.destroy()
    }
  })
})
