import { describe, expect, test } from 'vitest'
import { classify } from '../../src/catalog/ddl/classify.ts'
import { rewriteOf } from '../../src/catalog/ddl/rewrites.ts'

const kindOf = (sql: string): string | undefined => {
  const { kind, type } = classify(sql, 'shop')
  if (kind !== 'ddl' && kind !== 'statement') return undefined
  return rewriteOf({ kind, type, sql })?.kind
}

describe('rewriteOf', () => {
  test.each([
    ['TRUNCATE t', 'truncate'],
    ['truncate table shop.t', 'truncate'],
    ['ALTER TABLE t DROP PARTITION p1', 'other'],
    ['ALTER TABLE t EXCHANGE PARTITION p WITH TABLE u', 'other'],
    ['ALTER TABLE t TRUNCATE PARTITION ALL', 'other'],
    ['ALTER TABLE t IMPORT TABLESPACE', 'other'],
    ['ALTER TABLE shop.t MODIFY a BIGINT', 'alter'],
    ['ALTER TABLE t ADD INDEX (a), CHANGE a b INT', 'alter'],
    ['ALTER TABLE t ADD COLUMN a INT DEFAULT 5', 'alter'],
    ['ALTER TABLE t ADD a INT NOT NULL', 'alter'],
    ['ALTER TABLE t ADD a INT AS (b + 1)', 'alter'],
    ["ALTER TABLE t ADD COLUMN (a INT, b VARCHAR(3) DEFAULT 'x')", 'alter'],
    ['ALTER TABLE t ADD a DECIMAL(10,2) NOT NULL', 'alter'],
    ['/* hint */ ALTER TABLE `t` /*!50100 DROP PARTITION p1 */', 'other'],
    ['INSERT INTO t VALUES (1)', 'other'],
    ['UPDATE t SET a = 1', 'other'],
  ])('sees what %s does', (sql, kind) => {
    expect(kindOf(sql)).toBe(kind)
  })
  test.each([
    'ALTER TABLE t ADD COLUMN a INT',
    'ALTER TABLE t ADD COLUMN a DECIMAL(10,2) NULL DEFAULT NULL',
    'ALTER TABLE t ADD COLUMN (a INT, b VARCHAR(3))',
    'ALTER TABLE t ADD UNIQUE KEY k (a)',
    'ALTER TABLE t ADD PARTITION (PARTITION p2 VALUES LESS THAN (3))',
    'ALTER TABLE t DROP COLUMN a',
    'ALTER TABLE t DROP INDEX k',
    'ALTER TABLE t ENGINE = InnoDB',
    "ALTER TABLE t COMMENT 'drop partition modify'",
    'ALTER TABLE t RENAME TO u',
    'CREATE TABLE t (a INT NOT NULL DEFAULT 5)',
    'DROP TABLE t',
    'CREATE VIEW v AS SELECT 1',
    'ALTER USER a IDENTIFIED BY "modify"',
    '',
  ])('passes over %s', (sql) => {
    expect(kindOf(sql)).toBeUndefined()
  })
})
