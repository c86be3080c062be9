/**
 * Column types with random values as SQL, by what information_schema calls a column. For the random load of the chaos
 * run: every kind of column that MySQL has, values that a second server can be given by their text. Pure.
 */
import type { Random } from '../e2e/load.ts'

/** A type as in CREATE TABLE; no NOT NULL, for a column may be added to rows that are there. */
export const typeList = (vectors: boolean): readonly string[] =>
  vectors ? [...everywhere, 'VECTOR(3)', 'VECTOR'] : everywhere

const everywhere = [
  'TINYINT',
  'TINYINT(1)',
  'SMALLINT UNSIGNED',
  'MEDIUMINT',
  'MEDIUMINT UNSIGNED',
  'INT',
  'INT UNSIGNED ZEROFILL',
  'BIGINT',
  'BIGINT UNSIGNED',
  'DECIMAL(20,6)',
  'DECIMAL(5)',
  'DECIMAL(65,30)',
  'FLOAT',
  'DOUBLE',
  'BIT(1)',
  'BIT(17)',
  'BIT(64)',
  'YEAR',
  'DATE',
  'TIME',
  'TIME(3)',
  'DATETIME',
  'DATETIME(6)',
  'TIMESTAMP NULL',
  'TIMESTAMP(4) NULL',
  'CHAR(10)',
  'CHAR(200) CHARACTER SET utf8mb4',
  'VARCHAR(40)',
  'VARCHAR(200) CHARACTER SET gbk',
  'VARCHAR(60) CHARACTER SET latin1',
  'VARCHAR(90) CHARACTER SET utf16',
  'TINYTEXT',
  'TEXT',
  'MEDIUMTEXT CHARACTER SET utf8mb4',
  'LONGTEXT CHARACTER SET latin1',
  'BINARY(8)',
  'VARBINARY(90)',
  'TINYBLOB',
  'BLOB',
  'MEDIUMBLOB',
  'LONGBLOB',
  "ENUM('a','b,c','it''s','ü','last')",
  "ENUM('中','Straße','ö') CHARACTER SET gbk",
  `ENUM(${Array.from({ length: 300 }, (_, i) => `'m${i}'`).join(',')})`,
  "SET('x','y z','o''clock')",
  `SET(${Array.from({ length: 64 }, (_, i) => `'s${i}'`).join(',')})`,
  'JSON',
  'GEOMETRY',
  'POINT',
]

const texts = ['', 'a', 'Straße', '中文字', 'it\'s "quoted" \\ back', 'x'.repeat(30), '  spaced  ']
const documents = [
  'null',
  '1',
  '"text"',
  '[1, 2.5, "three", null, true]',
  '{"a": 1, "b": {"c": [1, 2, 3]}, "d": "é"}',
  '{"long": "' + 'y'.repeat(300) + '"}',
]
const two = (r: Random, least: number, most: number): string =>
  String(r.int(least, most)).padStart(2, '0')
const day = (r: Random): string => `${r.int(1971, 2037)}-${two(r, 1, 12)}-${two(r, 1, 28)}`
const clock = (r: Random): string => `${two(r, 0, 23)}:${two(r, 0, 59)}:${two(r, 0, 59)}`
const fraction = (r: Random): string => (r.chance(50) ? `.${r.int(0, 999_999)}` : '')
const quoted = (text: string): string => `'${text.replaceAll(/['\\]/g, '\\$&')}'`
const hex = (r: Random, most: number): string => {
  const bytes = Array.from({ length: r.int(0, most) }, () => r.int(0, 255))
  return bytes.length === 0 ? "''" : `X'${Buffer.from(bytes).toString('hex')}'`
}
const whole = (r: Random, least: number, most: number): string =>
  String(r.chance(20) ? r.pick([least, most]) : r.int(least, most))

type Maker = (r: Random, type: string) => string
/** By DATA_TYPE of information_schema.COLUMNS. */
const makers: Readonly<Record<string, Maker>> = {
  tinyint: (r, t) => (t.includes('unsigned') ? whole(r, 0, 255) : whole(r, -128, 127)),
  smallint: (r, t) => (t.includes('unsigned') ? whole(r, 0, 65_535) : whole(r, -32_768, 32_767)),
  mediumint: (r, t) =>
    t.includes('unsigned') ? whole(r, 0, 16_777_215) : whole(r, -8_388_608, 8_388_607),
  int: (r, t) =>
    t.includes('unsigned') ? whole(r, 0, 4_294_967_295) : whole(r, -(2 ** 31), 2 ** 31 - 1),
  bigint: (r, t) =>
    t.includes('unsigned')
      ? r.pick(['0', '18446744073709551615', '9223372036854775808', whole(r, 0, 1e9)])
      : r.pick(['-9223372036854775808', '9223372036854775807', whole(r, -1e9, 1e9)]),
  decimal: (r) => `${r.chance(50) ? '-' : ''}${r.int(0, 99_999)}.${r.int(0, 999_999)}`,
  float: (r) => r.pick(['0', '1.5', '-0.1', '16777216', '3.25e10', String(r.int(-1e6, 1e6) / 100)]),
  double: (r) => r.pick(['0', '1e-3', '-1.7e300', '9999999', String(r.int(-1e6, 1e6) / 7)]),
  bit: (r) => r.pick(['0', '1', String(r.int(0, 100_000)), '18446744073709551615']),
  year: (r) => String(r.chance(10) ? 0 : r.int(1901, 2155)),
  date: (r) => (r.chance(10) ? "'0000-00-00'" : `'${day(r)}'`),
  time: (r) =>
    `'${r.chance(30) ? '-' : ''}${r.int(0, 838)}:${two(r, 0, 59)}:${two(r, 0, 58)}${fraction(r)}'`,
  datetime: (r) =>
    r.chance(10) ? "'0000-00-00 00:00:00'" : `'${day(r)} ${clock(r)}${fraction(r)}'`,
  timestamp: (r) => `'${day(r)} ${clock(r)}${fraction(r)}'`,
  json: (r) => `CAST(${quoted(r.pick(documents))} AS JSON)`,
  enum: (r) => String(r.int(1, 4)),
  set: (r) => String(r.int(0, 7)),
  geometry: (r) => r.pick([point(r), `ST_GeomFromText('LINESTRING(0 0, 1 ${r.int(1, 9)}, 2 2)')`]),
  point: (r) => point(r),
  vector: (r) => `STRING_TO_VECTOR('[${r.int(-9, 9)}, 2.5, ${r.int(0, 99)}]')`,
}
const point = (r: Random): string => `ST_GeomFromText('POINT(${r.int(-9, 9)} ${r.int(-9, 9)})')`
const isBinary = (type: string): boolean => /binary|blob/.test(type)

/** An SQL expression for a column of that DATA_TYPE and COLUMN_TYPE; `bytes`: of a large value, at most. */
export function valueOf(r: Random, kind: string, type: string, bytes: number): string {
  if (r.chance(12)) return 'NULL'
  const maker = makers[kind]
  if (maker) return maker(r, type.toLowerCase())
  if (/^(medium|long)/.test(kind) && bytes > 0 && r.chance(40))
    return `REPEAT('pq', ${r.int(1, bytes >> 1)})`
  if (isBinary(kind)) return hex(r, 60)
  return quoted(r.pick(texts))
}

/**
 * A SELECT expression that shows a column's value exactly, as text or hexadecimal digits. Of text it is what the wire can
 * say: bytes of a binary column that was made a text of gbk may be characters which Unicode lacks.
 */
export function shown(column: string, kind: string): string {
  if (kind === 'float' || kind === 'double') return `CONCAT(JSON_ARRAY(CAST(${column} AS DOUBLE)))`
  if (kind === 'bit') return `HEX(${column} + 0)`
  if (/^((tiny|small|medium|big)?int|decimal|year|date|time|datetime|timestamp)$/.test(kind))
    return `CONCAT(${column})`
  if (kind === 'json') return `HEX(CAST(${column} AS CHAR CHARACTER SET utf8mb4))`
  if (/char|text/.test(kind)) return `HEX(CONVERT(${column} USING utf8mb4))`
  return `HEX(${column})`
}
