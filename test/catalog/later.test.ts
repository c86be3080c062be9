/** What became of a table since, by the statements of the log: a table of statements, each alone and in a row. */
import { describe, expect, it } from 'vitest'
import { fateOf, type ScannedStatement } from '../../src/catalog/later.ts'

const logged = (...list: string[]): ScannedStatement[] =>
  list.map((sql, i) => ({
    at: { epoch: 1, file: 'binlog.000001', offset: 100 + i },
    sql,
    database: 'd',
  }))
/** "database.name" it has now, or "?" where it may be another table. */
function now(...list: string[]): string {
  const { name, changed } = fateOf(
    { database: 'd', table: 't' },
    logged(...list),
    (a, b) => a.database === b.database && (a.table === '' || a.table === b.table),
  )
  return changed.length > 0 ? '?' : `${name.database}.${name.table}`
}

describe('fateOf', () => {
  it.each([
    'ALTER TABLE t FORCE',
    'alter table d.t engine = InnoDB row_format = DYNAMIC, algorithm=inplace',
    'ALTER TABLE t ADD INDEX i (a), DROP KEY j, RENAME INDEX k TO l, ALTER INDEX m INVISIBLE',
    'ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES u (id), ADD UNIQUE (b)',
    'ALTER TABLE t DROP CONSTRAINT c, ADD CONSTRAINT CHECK (a > 0)',
    'CREATE UNIQUE INDEX i ON t (a)',
    'DROP INDEX i ON t',
    'TRUNCATE TABLE t',
    'ALTER DATABASE d CHARACTER SET latin1',
    'ALTER DATABASE CHARACTER SET latin1',
    'CREATE DATABASE IF NOT EXISTS d',
    'CREATE TABLE IF NOT EXISTS t (other INT)',
    'CREATE TEMPORARY TABLE t (a INT)',
    'DROP TEMPORARY TABLE IF EXISTS t',
    'ALTER TABLE u ADD COLUMN x INT',
    'ALTER TABLE other.t ADD COLUMN x INT',
    'RENAME TABLE u TO v',
  ])('the same after %s', (sql) => {
    expect(now(sql)).toBe('d.t')
    expect(now('RENAME TABLE a TO b', sql, 'TRUNCATE t')).toBe('d.t')
  })

  it.each([
    'ALTER TABLE t ADD COLUMN x INT',
    'ALTER TABLE t ADD x INT',
    'ALTER TABLE t ADD INDEX i (a), MODIFY b INT',
    'ALTER TABLE t RENAME COLUMN a TO b',
    'ALTER TABLE t ALTER COLUMN a SET INVISIBLE',
    'ALTER TABLE t DROP PRIMARY KEY',
    'ALTER TABLE t DROP INDEX `PRIMARY`',
    'ALTER TABLE t DROP CONSTRAINT `primary`',
    'ALTER TABLE t ADD CONSTRAINT PRIMARY KEY (a)',
    'ALTER TABLE t ADD CONSTRAINT c PRIMARY KEY (a)',
    'ALTER TABLE t ENGINE = InnoDB DEFAULT CHARACTER SET latin1',
    'ALTER TABLE t CHARACTER SET latin1',
    'ALTER TABLE t CONVERT TO CHARACTER SET latin1',
    'ALTER TABLE t NOVELTY',
    'ALTER TABLE t FORCE; ALTER TABLE t ADD x INT',
    'CREATE TABLE t (a INT)',
    'CREATE OR REPLACE TABLE t (a INT)',
    'DROP TABLE t',
    'DROP TABLE u, t',
    'DROP INDEX `PRIMARY` ON t',
    'DROP DATABASE d',
  ])('perhaps another after %s', (sql) => {
    expect(now(sql)).toBe('?')
    expect(now('TRUNCATE t', sql, 'ALTER TABLE t FORCE')).toBe('?')
  })

  it('follows its names', () => {
    expect(now('RENAME TABLE t TO e.u')).toBe('e.u')
    expect(now('ALTER TABLE t RENAME TO u')).toBe('d.u')
    expect(now('ALTER TABLE t ADD INDEX (a), RENAME = u, FORCE')).toBe('d.u')
    expect(now('RENAME TABLE t TO x, u TO t, x TO u')).toBe('d.u')
    expect(now('RENAME TABLE u TO x, t TO u, x TO t')).toBe('d.u')
    expect(now('RENAME TABLE t TO old, new TO t', 'ALTER TABLE t ADD x INT')).toBe('d.old')
    expect(now('RENAME TABLE t TO old, new TO t', 'DROP TABLE old')).toBe('?')
    expect(now('RENAME TABLE t TO u', 'CREATE TABLE t (a INT)', 'DROP TABLE t')).toBe('d.u')
    expect(now('RENAME TABLE t TO u', 'RENAME TABLE u TO t')).toBe('d.t')
  })
})
