/**
 * For the catalog's tests on real servers: a table with a column of every kind whose type text is not obvious, and the
 * table maps of a binlog file.
 */
import { eventType, eventTypes, readFormat } from '../../src/binlog/reader.ts'
import { readTableMap } from '../../src/binlog/table-map.ts'
import type { TableMap } from '../../src/binlog/table-map.ts'
import { dump } from '../binlog/dump.ts'
import type { Address } from '../binlog/dump.ts'

/** The table maps in `file`, in their order. */
export async function readTableMaps(server: Address, file: string): Promise<TableMap[]> {
  const events = await dump(server, file)
  const first = events.find((event) => eventType(event, 0) === eventTypes.FORMAT_DESCRIPTION)!
  const format = readFormat(first, 0, first.length)
  return events
    .filter((event) => eventType(event, 0) === eventTypes.TABLE_MAP)
    .map((event) => readTableMap(event, 0, event.length - format.checksumBytes, format))
}

const members = (count: number): string =>
  Array.from({ length: count }, (_, i) => `'member ${i}'`).join(', ')

const columns = [
  'id BIGINT UNSIGNED NOT NULL',
  'Sub INT NOT NULL',
  't1 TINYINT(1)',
  't2 BOOL NOT NULL DEFAULT 0',
  't3 TINYINT UNSIGNED',
  't4 TINYINT(3) ZEROFILL',
  's SMALLINT',
  'm MEDIUMINT UNSIGNED',
  'i INTEGER(5) UNSIGNED ZEROFILL',
  'b BIGINT',
  'y YEAR',
  'y2 YEAR NOT NULL DEFAULT 2000',
  'f FLOAT UNSIGNED',
  'f2 FLOAT(7,2)',
  'f3 FLOAT(30)',
  'd REAL',
  'd2 DOUBLE(8,3)',
  'd3 DOUBLE UNSIGNED',
  'dec1 NUMERIC(10,2)',
  'dec2 DECIMAL(65,30) UNSIGNED',
  'dec3 DECIMAL(5) ZEROFILL',
  'bit1 BIT(1)',
  'bit2 BIT(13)',
  'bit3 BIT(64)',
  'da DATE',
  'ti TIME',
  'ti3 TIME(3)',
  'dt DATETIME',
  'dt6 DATETIME(6)',
  'ts TIMESTAMP NULL',
  'ts2 TIMESTAMP(2) NULL',
  'c CHAR(10)',
  'c2 CHAR(255) CHARACTER SET utf8mb4',
  'c3 CHAR(0)',
  'c4 CHAR(7) CHARACTER SET latin1',
  'c5 CHAR(100) CHARACTER SET utf8mb3',
  'vc VARCHAR(20)',
  'vc2 VARCHAR(300) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin',
  'vc3 VARCHAR(10) CHARACTER SET gbk COLLATE gbk_bin',
  'vc4 NVARCHAR(12)',
  'bi BINARY(16)',
  'vb VARBINARY(300)',
  'tb TINYBLOB',
  'bl BLOB(500)',
  'mb MEDIUMBLOB',
  'lb LONGBLOB',
  'tt TINYTEXT',
  'te TEXT',
  'mt MEDIUMTEXT',
  'lt LONGTEXT CHARACTER SET latin1',
  `e ENUM('a', 'b,c', 'it''s', 'say "no"', '(1)', '', 'ümlaut')`,
  `e2 ENUM(${members(300)})`,
  `se SET('x', 'y z', 'o''clock') CHARACTER SET latin1`,
  `se2 SET(${members(40)})`,
  'j JSON',
  'g GEOMETRY',
  'p POINT',
  'ls LINESTRING',
  'po POLYGON NOT NULL',
  'mp MULTIPOINT',
  'ml MULTILINESTRING',
  'mpo MULTIPOLYGON',
  'gc GEOMETRYCOLLECTION',
  'gen INT UNSIGNED GENERATED ALWAYS AS (Sub * 2) VIRTUAL',
  'gen2 VARCHAR(9) GENERATED ALWAYS AS (Sub * 3) STORED NOT NULL',
  'inv INT INVISIBLE DEFAULT 7',
  '`spa ce`` (x)` INT',
  'uni码 INT',
]

/** CREATE TABLE for it; `version` 9 has VECTOR too. */
export function createWide(name: string, version: 8 | 9): string {
  // Not at the end: character sets are listed by position among the columns that have one.
  const more = version === 9 ? ['v VECTOR(3)', 'v2 VECTOR'] : []
  const keys = ['PRIMARY KEY (id, c(3))', 'UNIQUE KEY (Sub)', 'KEY functional ((s + m))']
  return `CREATE TABLE ${name} (${[...more, ...columns, ...keys].join(', ')}) CHARACTER SET utf8mb3`
}
/** A row for it: only what must be given. */
export const insertWide = (name: string): string =>
  `INSERT INTO ${name} (id, Sub, c, po) VALUES (1, 2, 'x', ST_GeomFromText('POLYGON((0 0, 0 1, 1 1, 0 0))'))`
