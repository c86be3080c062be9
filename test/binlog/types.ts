/**
 * Every column type of MySQL with random SQL values for it and the SELECT expression that shows one exactly, for the
 * tests that compare decoded rows with what a real server returns.
 */
import fc from 'fast-check'
import { expect } from 'vitest'
import type { Value } from '../../src/change.ts'

export interface TypeSpec {
  readonly sql: string // as in CREATE TABLE
  readonly values: fc.Arbitrary<string> // SQL expressions, NULL left out
  /** SELECT expression that gives the value exactly, as text; of the column name. */
  readonly select: (column: string) => string
  /** What `select` gave in a form to compare; else as it is. */
  readonly read?: (text: string) => string
  /** Our value in that form. */
  readonly show: (value: Value) => string
  /** SELECT expression equal to Canal's text; undefined where SQL has no way to print it. */
  readonly text?: (column: string) => string
}

const asText = (c: string): string => `CAST(${c} AS CHAR CHARACTER SET utf8mb4)`
const show = (v: Value): string =>
  typeof v === 'object' ? expect.fail('bytes where text was expected') : String(v)
const hex = (v: Value): string =>
  Buffer.from(v as string | Uint8Array)
    .toString('hex')
    .toUpperCase()

// ── numbers ──────────────────────────────────────────────────────────────────

function integer(name: string, bits: bigint): TypeSpec[] {
  const half = 1n << (bits - 1n)
  const plain = { select: asText, show, text: asText }
  const edges = (min: bigint, max: bigint): fc.Arbitrary<string> =>
    fc.oneof(
      fc.constantFrom(min, max, min + 1n, 0n, 1n, max / 2n, max / 2n + 1n).map(String),
      fc.bigInt({ min, max }).map(String),
    )
  return [
    { sql: name, values: edges(-half, half - 1n), ...plain },
    { sql: `${name} UNSIGNED`, values: edges(0n, 2n * half - 1n), ...plain },
  ]
}

function decimal(precision: number, scale: number, unsigned = ''): TypeSpec {
  const values = fc
    .tuple(
      fc.string({
        unit: fc.constantFrom(...Array.from('0123456789')),
        maxLength: precision - scale,
      }),
      fc.string({ unit: fc.constantFrom(...Array.from('0001234567899')), maxLength: scale }),
      fc.boolean(),
    )
    .map(([whole, part, negative]) => `${negative && !unsigned ? '-' : ''}${whole}.${part}0`)
    .map((text) => `CAST('${text}' AS DECIMAL(65,30))`)
  return {
    sql: `DECIMAL(${precision},${scale})${unsigned}`,
    values,
    select: asText,
    show,
    text: asText,
  }
}

const doubles = fc.oneof(
  fc.double({ noNaN: true, noDefaultInfinity: true }),
  fc.constantFrom(0, -0, 1, -1.5, 1e7, 9999999, 1e-3, 9.99e-4, 1.7976931348623157e308, 5e-324),
  fc.integer().map((n) => n / 100),
)
const floats = fc.oneof(
  fc.float({ noNaN: true, noDefaultInfinity: true }),
  fc.constantFrom(
    0.1,
    16777216,
    3.4028234663852886e38,
    1.401298464324817e-45,
    1.1754943508222875e-38,
  ),
)
const exact = (x: number): string => (Object.is(x, -0) ? '-0' : String(x))
/** CAST(x AS CHAR) cuts digits off; a double inside JSON has them all. */
const float = (sql: string, values: fc.Arbitrary<number>): TypeSpec => ({
  sql,
  values: values.map((x) => `CAST('${exact(x)}' AS DOUBLE)`),
  select: (c) => `IF(${c} IS NULL, NULL, ${asText(`JSON_ARRAY(CAST(${c} AS DOUBLE))`)})`,
  read: (text) => exact(Number(text.slice(1, -1))),
  show: (v) => exact(Number(v)),
})

const bit = (n: number): TypeSpec => ({
  sql: `BIT(${n})`,
  values: fc.bigInt({ min: 0n, max: (1n << BigInt(n)) - 1n }).map((v) => `${v}`),
  select: (c) => asText(`CAST(${c} AS UNSIGNED)`),
  show,
  text: (c) => asText(`CAST(${c} AS UNSIGNED)`),
})

const year: TypeSpec = {
  sql: 'YEAR',
  values: fc.oneof(fc.constant('0'), fc.integer({ min: 1901, max: 2155 }).map(String)),
  select: asText,
  show: (v) => show(v).padStart(4, '0'),
  text: asText,
}

export const numbers: readonly TypeSpec[] = [
  ...integer('TINYINT', 8n),
  ...integer('SMALLINT', 16n),
  ...integer('MEDIUMINT', 24n),
  ...integer('INT', 32n),
  ...integer('BIGINT', 64n),
  decimal(65, 30),
  decimal(10, 2),
  decimal(5, 0),
  decimal(30, 30),
  decimal(65, 0),
  decimal(1, 0),
  decimal(18, 4, ' UNSIGNED'),
  decimal(9, 9),
  decimal(19, 10),
  decimal(38, 27),
  float('FLOAT', floats),
  float('DOUBLE', doubles),
  ...[1, 7, 8, 9, 31, 32, 33, 63, 64].map(bit),
  year,
]

// ── dates and times ──────────────────────────────────────────────────────────

const two = (max: number, min = 0): fc.Arbitrary<string> =>
  fc.integer({ min, max }).map((n) => String(n).padStart(2, '0'))
const sixDigits = fc.oneof(
  fc.constantFrom('000000', '999999', '100000', '000001', '120000', '123456'),
  fc.integer({ min: 0, max: 999_999 }).map((n) => String(n).padStart(6, '0')),
)
/** As many fraction digits as fit: nothing is rounded up to a value that is none. */
const cut = (fraction: string, digits: number): string =>
  digits ? `.${fraction.slice(0, digits)}` : ''
const dates = fc.oneof(
  fc.constantFrom(
    '0000-00-00',
    '1000-01-01',
    '9999-12-31',
    '2020-00-00',
    '2020-02-00',
    '2024-02-29',
  ),
  fc
    .tuple(fc.integer({ min: 0, max: 9999 }), two(12, 1), two(28, 1))
    .map(([y, m, d]) => `${String(y).padStart(4, '0')}-${m}-${d}`),
)
const clock = fc.tuple(two(23), two(59), two(59)).map((parts) => parts.join(':'))
const plainText = { select: asText, show, text: asText }
const name = (type: string, digits: number): string => (digits ? `${type}(${digits})` : type)

const time = (digits: number): TypeSpec => ({
  sql: name('TIME', digits),
  values: fc.oneof(
    fc.constantFrom(
      "'838:59:59'",
      "'-838:59:59'",
      "'00:00:00'",
      "'100:00:00'",
      "'-01:51:00'",
      "'24:00:00'",
    ),
    fc
      .tuple(
        fc.constantFrom('', '-'),
        fc.integer({ min: 0, max: 837 }),
        two(59),
        two(59),
        sixDigits,
      )
      .map(
        ([sign, h, m, s, f]) => `'${sign}${String(h).padStart(2, '0')}:${m}:${s}${cut(f, digits)}'`,
      ),
  ),
  ...plainText,
})
const datetime = (digits: number): TypeSpec => ({
  sql: name('DATETIME', digits),
  values: fc
    .tuple(dates, clock, sixDigits)
    .map(([d, t, f]) => (d.includes('-00') ? `'${d}'` : `'${d} ${t}${cut(f, digits)}'`)),
  ...plainText,
})
const timestamp = (digits: number): TypeSpec => ({
  sql: `${name('TIMESTAMP', digits)} NULL`,
  values: fc.oneof(
    fc.constantFrom("'0000-00-00 00:00:00'", 'FROM_UNIXTIME(1)', 'FROM_UNIXTIME(2147483647)'),
    fc
      .tuple(fc.integer({ min: 1, max: 2_147_483_647 }), sixDigits)
      .map(([s, f]) => `FROM_UNIXTIME('${s}${cut(f, digits)}')`),
  ),
  ...plainText,
})
const fractions = [0, 1, 2, 3, 4, 5, 6]

export const temporals: readonly TypeSpec[] = [
  { sql: 'DATE', values: dates.map((d) => `'${d}'`), ...plainText },
  ...fractions.map(time),
  ...fractions.map(datetime),
  ...fractions.map(timestamp),
]

// ── strings ──────────────────────────────────────────────────────────────────

const unicode = fc.oneof(
  { weight: 3, arbitrary: fc.string({ unit: 'grapheme-ascii', maxLength: 12 }) },
  { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 10 }) },
)
const ofCharset = (type: string, set: string, maxLength: number): TypeSpec => ({
  sql: `${type} CHARACTER SET ${set}`,
  values: unicode.map((s) => `CONVERT(${utf8(s.slice(0, maxLength))} USING ${set})`),
  select: (c) => `HEX(CONVERT(${c} USING utf8mb4))`,
  show: hex,
  text: (c) => `CONVERT(${c} USING utf8mb4)`,
})
const utf8 = (s: string): string => `_utf8mb4 X'${Buffer.from(s.toWellFormed()).toString('hex')}'`
const bytes = (sql: string, maxLength: number): TypeSpec => ({
  sql,
  values: fc.uint8Array({ maxLength }).map((b) => `X'${Buffer.from(b).toString('hex')}'`),
  select: (c) => `HEX(${c})`,
  show: hex,
})
const labels = (type: string, members: readonly string[], set = 'utf8mb4'): TypeSpec => ({
  sql: `${type}(${members.map((m) => `'${m.replaceAll("'", "''")}'`).join(',')}) CHARACTER SET ${set}`,
  values:
    type === 'ENUM'
      ? fc.oneof(fc.constant("''"), fc.integer({ min: 1, max: members.length }).map(String))
      : fc.bigInt({ min: 0n, max: (1n << BigInt(members.length)) - 1n }).map(String),
  select: (c) => `CONVERT(${c} USING utf8mb4)`,
  show,
  text: (c) => asText(`CAST(${c} AS UNSIGNED)`),
})
const many = (count: number): string[] => Array.from({ length: count }, (_, i) => `m${i}`)

export const strings: readonly TypeSpec[] = [
  ...[
    'CHAR(12)',
    'CHAR(63)',
    'CHAR(64)',
    'CHAR(255)',
    'VARCHAR(12)',
    'VARCHAR(63)',
    'VARCHAR(64)',
    'VARCHAR(600)',
  ].map((type) => ofCharset(type, 'utf8mb4', 12)),
  ...['TINYTEXT', 'TEXT', 'MEDIUMTEXT', 'LONGTEXT'].map((type) => ofCharset(type, 'utf8mb4', 12)),
  bytes('BINARY(1)', 1),
  bytes('BINARY(16)', 16),
  bytes('BINARY(255)', 40),
  bytes('VARBINARY(20)', 20),
  bytes('VARBINARY(300)', 300),
  bytes('TINYBLOB', 255),
  bytes('BLOB', 300),
  bytes('MEDIUMBLOB', 20),
  bytes('LONGBLOB', 20),
  labels('ENUM', ['a', 'B', "it's", 'ü', '中,文']),
  labels('ENUM', many(300)),
  labels('ENUM', ['ä', 'é'], 'latin1'),
  labels('ENUM', ['中', '文'], 'gbk'),
  ...[3, 8, 9, 17, 25, 33, 64].map((n) => labels('SET', many(n))),
  labels('SET', ['ソ', '表'], 'sjis'),
]

/** Columns in every character set, with characters most sets know only some of; the others become "?". */
export function charsetColumns(sets: readonly string[]): TypeSpec[] {
  const samples = Array.from('aZ~\\ äÖ€œ¥ž ŁőжЯґ Ωάע ش ไ中文表ソ ｶ 한갂 აԱ ∂√■ 😀𠀀')
  const values = fc.array(fc.constantFrom(...samples), { maxLength: 10 }).map((a) => a.join(''))
  return sets
    .flatMap((set) => [
      ofCharset('CHAR(10)', set, 10),
      ofCharset('VARCHAR(70)', set, 10),
      ofCharset('TEXT', set, 10),
    ])
    .map((spec) => {
      const set = spec.sql.split(' ').at(-1)!
      return { ...spec, values: values.map((s) => `CONVERT(${utf8(s)} USING ${set})`) }
    })
}

// ── json, geometry, vector ───────────────────────────────────────────────────

const quoted = (json: string): string => `CAST(${utf8(json)} AS JSON)`
const jsonLeaf = fc.oneof(
  fc.jsonValue({ stringUnit: 'binary', maxDepth: 3 }).map((v) => quoted(JSON.stringify(v))),
  numbers[8]!.values, // BIGINT
  numbers[9]!.values, // BIGINT UNSIGNED
  decimal(65, 30).values,
  decimal(10, 2).values,
  doubles.map((x) => `CAST('${x}' AS DOUBLE)`),
  time(6).values.map((v) => `CAST(${v} AS TIME(6))`),
  dates.map((d) => `CAST('${d}' AS DATE)`),
  datetime(6).values.map((v) => `CAST(${v} AS DATETIME(6))`),
  fc
    .uint8Array({ maxLength: 120 })
    .map((b) => `CAST(X'${Buffer.from(b).toString('hex')}' AS BINARY)`),
  fc.constantFrom('true', 'false', 'NULL', "b'1011'", 'CAST(2024 AS YEAR)'),
)
const jsonKey = fc.string({ unit: 'binary', maxLength: 6 }).map(utf8)
/** A SQL expression of type JSON: documents with every kind of value the binary form knows. */
const jsonOf = (leaf: fc.Arbitrary<string>): fc.Arbitrary<string> =>
  fc.letrec<{ node: string; leaf: string }>((tie) => ({
    leaf,
    node: fc.oneof(
      { depthSize: 'small', withCrossShrink: true },
      tie('leaf').map((v) => `JSON_EXTRACT(JSON_ARRAY(${v}), '$[0]')`),
      fc.array(tie('node'), { maxLength: 5 }).map((vs) => `JSON_ARRAY(${vs.join(', ')})`),
      fc
        .array(fc.tuple(jsonKey, tie('node')), { maxLength: 5 })
        .map((es) => `JSON_OBJECT(${es.map(([k, v]) => `${k}, ${v}`).join(', ')})`),
    ),
  })).node
export const jsonExpressions = jsonOf(jsonLeaf)
/** For servers before CAST(… AS DOUBLE) and CAST(… AS YEAR). */
const olderJsonExpressions = jsonOf(
  fc.oneof(
    fc.jsonValue({ stringUnit: 'binary', maxDepth: 3 }).map((v) => quoted(JSON.stringify(v))),
    numbers[8]!.values, // BIGINT
    numbers[9]!.values, // BIGINT UNSIGNED
    decimal(65, 30).values,
    doubles.map((x) => `'${x}' + 0e0`),
    time(6).values.map((v) => `CAST(${v} AS TIME(6))`),
    datetime(6).values.map((v) => `CAST(${v} AS DATETIME(6))`),
    fc.constantFrom('true', 'false', 'NULL', "b'1011'"),
  ),
)

const geometry = (sql: string, ...texts: string[]): TypeSpec => ({
  sql,
  values: fc
    .tuple(fc.constantFrom(...texts), fc.constantFrom(0, 4326))
    .map(([wkt, srid]) => `ST_GeomFromText('${wkt}', ${srid})`),
  select: (c) => `HEX(${c})`,
  show: hex,
})
export const documents: readonly TypeSpec[] = [
  { sql: 'JSON', values: jsonExpressions, select: asText, show },
  geometry('GEOMETRY', 'POINT(1 2)', 'GEOMETRYCOLLECTION(POINT(1 2),LINESTRING(0 0,1 1))'),
  geometry('POINT', 'POINT(-1.5 2.25)'),
  geometry('LINESTRING', 'LINESTRING(0 0,1 1,2 3)'),
  geometry('POLYGON', 'POLYGON((0 0,0 2,2 2,0 0))'),
  geometry('MULTIPOINT', 'MULTIPOINT(0 0,1 1)'),
]
export const vector: TypeSpec = {
  sql: 'VECTOR(4)',
  values: fc
    .array(fc.integer({ min: -999, max: 999 }), { minLength: 1, maxLength: 4 })
    .map((list) => `STRING_TO_VECTOR('[${list.join(',')}]')`),
  select: (c) => `HEX(${c})`,
  show: hex,
}

// ── servers that are not the newest MySQL ────────────────────────────────────

export interface Flavour {
  readonly mariadb: boolean
  readonly version: number // 80031, 50624, 101118
}
export function flavourOf(text: string): Flavour {
  const [major = 0, minor = 0, patch = 0] = text.split(/[.-]/).map(Number)
  return { mariadb: /mariadb/i.test(text), version: major * 10_000 + minor * 100 + patch }
}

/** A server without CAST(… AS DOUBLE): a number that a text protocol prints is the shortest that reads as the same. */
const plainFloat = (sql: string, values: fc.Arbitrary<number>): TypeSpec => ({
  sql,
  values: values.map((x) => `'${exact(x)}' + 0e0`),
  select: (c) => `${c} + 0e0`,
  // A FLOAT as a double is half-way between two texts of 16 digits now and then, and MariaDB takes the farther one.
  read: (text) => exact(sql === 'FLOAT' ? Math.fround(Number(text)) : Number(text)),
  show: (v) => exact(Number(v)),
})

const UUIDS = fc
  .tuple(fc.constantFrom('', '1', '4', '7', '8'), fc.uint8Array({ minLength: 16, maxLength: 16 }))
  .map(([version, bytes]) => {
    const hex = Buffer.from(bytes).toString('hex')
    return version === ''
      ? hex
      : `${hex.slice(0, 12)}${version}${hex.slice(13, 16)}a${hex.slice(17)}`
  })
const zeros = fc.constantFrom('00', '00', '00', 'ff', '7f', '0a')
const bytesOf = (count: number): fc.Arbitrary<string> =>
  fc.oneof(
    fc.array(zeros, { minLength: count, maxLength: count }).map((a) => a.join('')),
    fc
      .uint8Array({ minLength: count, maxLength: count })
      .map((b) => Buffer.from(b).toString('hex')),
  )
const packed = (type: string, more = ''): TypeSpec => ({
  ...ofCharset(type, 'utf8mb4', 12),
  sql: `${type} COMPRESSED ${more}`,
  values: fc
    .tuple(unicode, fc.constantFrom(0, 1, 12))
    .map(([s, times]) => utf8(s.slice(0, 12).repeat(times))),
})

/** Types that only MariaDB has, or keeps in its own way. */
function mariadbOnly({ version }: Flavour): TypeSpec[] {
  const specs: TypeSpec[] = [
    { sql: 'UUID', values: UUIDS.map((hex) => `X'${hex}'`), ...plainText },
    { sql: 'INET6', values: bytesOf(16).map((hex) => `X'${hex}'`), ...plainText },
    { sql: 'INET4', values: bytesOf(4).map((hex) => `X'${hex}'`), ...plainText },
    packed('VARCHAR(60)', 'CHARACTER SET utf8mb4'),
    packed('VARCHAR(255)', 'CHARACTER SET utf8mb4'),
    packed('TINYTEXT', 'CHARACTER SET utf8mb4'),
    packed('LONGTEXT', 'CHARACTER SET utf8mb4'),
    { ...bytes('VARBINARY(254)', 254), sql: 'VARBINARY(254) COMPRESSED' },
    { ...bytes('BLOB', 3000), sql: 'BLOB COMPRESSED' },
    {
      ...ofCharset('JSON', 'utf8mb4', 0),
      sql: 'JSON',
      values: fc.jsonValue({ stringUnit: 'binary' }).map((v) => utf8(JSON.stringify(v))),
    },
    {
      ...ofCharset('TEXT', 'latin1', 12),
      sql: 'TEXT CHARACTER SET latin1 COLLATE latin1_swedish_nopad_ci',
    },
  ]
  if (version >= 110_700)
    specs.push({
      sql: 'VECTOR(4)',
      values: fc
        .array(fc.integer({ min: -999, max: 999 }), { minLength: 4, maxLength: 4 })
        .map((list) => `VEC_FromText('[${list.join(',')}]')`),
      select: (c) => `HEX(${c})`,
      show: hex,
    })
  return specs
}

/** MySQL 5.7 prints the double 1 in a JSON document as 1, later ones and we as 1.0: the one difference from its SELECT. */
const withoutPointZero = (spec: TypeSpec): TypeSpec => {
  const cut = (text: string): string => text.replaceAll(/(\d)\.0(?!\d)/g, '$1')
  return { ...spec, read: cut, show: (v) => cut(show(v)) }
}

/** Every column type that a server has, in groups that fit into one table each. */
export function typesOf(flavour: Flavour): Record<string, readonly TypeSpec[]> {
  const { mariadb, version } = flavour
  const modern = !mariadb && version >= 80_017
  const ofNumbers = modern
    ? numbers
    : numbers.map((spec) => {
        if (spec.sql === 'FLOAT') return plainFloat('FLOAT', floats)
        return spec.sql === 'DOUBLE' ? plainFloat('DOUBLE', doubles) : spec
      })
  const json =
    mariadb || version < 50_708 ? undefined : modern ? jsonExpressions : olderJsonExpressions
  return {
    numbers: ofNumbers,
    temporals,
    strings,
    documents: documents.flatMap((spec) => {
      if (spec.sql !== 'JSON') return spec
      if (!json) return []
      return version < 80_000
        ? withoutPointZero({ ...spec, values: json })
        : { ...spec, values: json }
    }),
    ...(mariadb ? { mariadb: mariadbOnly(flavour) } : {}),
    ...(!mariadb && version >= 90_000 ? { vectors: [vector] } : {}),
  }
}
