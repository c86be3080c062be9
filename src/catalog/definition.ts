/**
 * Column definitions as information_schema gives them, whether a table map can belong to them, and both put together: with
 * full metadata the event wins and the rest only lends what no event tells. Pure. The check is
 * strict, down to lengths: a definition that differs in anything the binlog says is not the one the rows were written
 * with, and then its names cannot be trusted either.
 *
 * Layouts: Field_*::do_save_field_metadata in sql/field.cc; types as they are logged, ENUM and SET inside STRING.
 */
import { BINARY, charsetOf } from '../binlog/charset.ts'
import { typeText } from '../binlog/column.ts'
import type { ColumnDefinition } from '../binlog/column.ts'
import { isMariadb } from '../binlog/mariadb/events.ts'
import type { ColumnMetadata, TableMap, TableMetadata } from '../binlog/table-map.ts'
import { columnTypes, columnTypes as t } from '../binlog/table-map.ts'
import { SluiceError } from '../errors.ts'

/** A row of the capture query (catalog.ts). Numbers may come as text or bigint, whatever the connection makes of them. */
export interface CapturedRow {
  readonly tableName: string
  readonly name: string
  readonly columnType: string
  readonly octets: number | bigint | string | null
  readonly collation: number | bigint | string | null
  readonly nullable: string
  readonly extra: string
  readonly columnKey: string
  readonly isKey: number | bigint | string
}

/** One column as the server defines it now. */
export interface CapturedColumn {
  readonly name: string
  readonly mysqlType: string // COLUMN_TYPE: the same text as in SHOW CREATE TABLE
  readonly base: string // its first word: "varchar"
  readonly sizes: readonly number[] // numbers in its parentheses
  readonly members: readonly string[] | undefined // enum, set
  readonly unsigned: boolean
  readonly octets: number // of character and binary types: bytes at most
  readonly collation: number // 63 for binary strings, 0 for types without
  readonly key: boolean // in the primary key
  readonly promoted: boolean // in the unique key that servers take for the primary key of a table without one
  readonly nullable: boolean
  readonly invisible: boolean
}

export interface Key {
  readonly name: string
  readonly primary: boolean
  readonly unique: boolean
  /** Columns in the order of the key; a functional part or a prefix makes the key none that tells rows apart. */
  readonly columns: readonly string[]
  readonly whole: boolean
  /** As the server said when it was asked; no statement may tell it to use this one. */
  readonly invisible?: boolean
}

export interface Definition {
  readonly columns: readonly CapturedColumn[]
  readonly keys: readonly Key[]
  readonly collation: number // default of new columns
}

/** undefined: there is no such table. 'unknown': there may be one, and nobody here knows its columns. */
export type Knowledge = Definition | 'unknown' | undefined

const binaryBases = new Set(['binary', 'varbinary', 'tinyblob', 'blob', 'mediumblob', 'longblob'])

/** How MariaDB says that a column is COMPRESSED: that is how it is kept, not what it holds. */
const MARIADB_COMMENT = / \/\*M?!\d+ COMPRESSED\*\//

export function readCapturedColumn(row: CapturedRow): CapturedColumn {
  const { base, sizes, members } = readColumnType(row.columnType)
  const enumerated = base === 'enum' || base === 'set'
  return {
    name: row.name,
    mysqlType: row.columnType.replace(MARIADB_COMMENT, ''),
    base,
    sizes,
    members: enumerated ? members : undefined,
    unsigned: /\bunsigned\b/.test(enumerated ? '' : row.columnType),
    octets: Number(row.octets ?? 0),
    collation: binaryBases.has(base) ? BINARY : Number(row.collation ?? 0),
    key: Number(row.isKey) === 1,
    promoted: Number(row.isKey) !== 1 && row.columnKey === 'PRI',
    nullable: row.nullable === 'YES',
    invisible: /\binvisible\b/i.test(row.extra),
  }
}

/** "decimal(10,2) unsigned" → decimal, [10, 2]; "enum('a','b''c')" → enum, members a and b'c. Never throws. */
export function readColumnType(text: string): {
  base: string
  sizes: number[]
  members: string[]
} {
  const base = /^\w+/.exec(text)?.[0].toLowerCase() ?? ''
  const sizes = /^\w+\(([\d,]+)\)/.exec(text)?.[1]?.split(',').map(Number) ?? []
  const members: string[] = []
  if (base === 'enum' || base === 'set') {
    for (const [, body] of text.matchAll(/'((?:[^'\\]|''|\\.)*)'/gs)) members.push(unescape(body!))
  }
  return { base, sizes, members }
}

const escapes: Readonly<Record<string, string>> = { '0': '\0', n: '\n', r: '\r' }

function unescape(body: string): string {
  return body.replaceAll(/''|\\(.)/gs, (whole, c: string | undefined) =>
    c === undefined ? whole[0]! : (escapes[c] ?? c),
  )
}

/** How a column may stand in a table map. */
interface Layout {
  readonly type: number
  readonly meta: number
}

const plain: Readonly<Record<string, readonly Layout[]>> = {
  tinyint: [{ type: t.TINY, meta: 0 }],
  smallint: [{ type: t.SHORT, meta: 0 }],
  mediumint: [{ type: t.INT24, meta: 0 }],
  int: [{ type: t.LONG, meta: 0 }],
  bigint: [{ type: t.LONGLONG, meta: 0 }],
  float: [{ type: t.FLOAT, meta: 4 }],
  double: [{ type: t.DOUBLE, meta: 8 }],
  year: [{ type: t.YEAR, meta: 0 }],
  date: [
    { type: t.DATE, meta: 0 },
    { type: t.NEWDATE, meta: 0 },
  ],
  tinyblob: [{ type: t.BLOB, meta: 1 }],
  blob: [{ type: t.BLOB, meta: 2 }],
  mediumblob: [{ type: t.BLOB, meta: 3 }],
  longblob: [{ type: t.BLOB, meta: 4 }],
  tinytext: [{ type: t.BLOB, meta: 1 }],
  text: [{ type: t.BLOB, meta: 2 }],
  mediumtext: [{ type: t.BLOB, meta: 3 }],
  longtext: [{ type: t.BLOB, meta: 4 }],
  json: [{ type: t.JSON, meta: 4 }],
  vector: [{ type: t.VECTOR, meta: 4 }],
  // MariaDB's
  uuid: [{ type: t.STRING, meta: (t.STRING << 8) | 16 }],
  inet6: [{ type: t.STRING, meta: (t.STRING << 8) | 16 }],
  inet4: [{ type: t.STRING, meta: (t.STRING << 8) | 4 }],
}
/** By the type number of the optional metadata. */
const geometries: readonly string[] = [
  'geometry',
  'point',
  'linestring',
  'polygon',
  'multipoint',
  'multilinestring',
  'multipolygon',
  'geomcollection',
]

/** The types with a fraction of seconds: since 5.6 with it, before as the old type without (in MariaDB not said). */
function temporal(modern: number, old: number, digits: number, mariadb: boolean): Layout[] {
  const layouts = [{ type: modern, meta: digits }]
  if (digits === 0 || mariadb) layouts.push({ type: old, meta: 0 })
  return layouts
}

/** CHAR and BINARY: bits 8 and 9 of the length stand inverted in bits 4 and 5 of the real type. */
function stringMeta(octets: number): number {
  return ((t.STRING ^ ((octets & 0x300) >> 4)) << 8) | (octets & 0xff)
}

function layouts(column: CapturedColumn, mariadb: boolean): readonly Layout[] {
  const { base, octets } = column
  const [size = 0, scale = 0] = column.sizes
  const members = column.members?.length ?? 0
  switch (base) {
    case 'decimal':
      return [
        { type: t.NEWDECIMAL, meta: (size << 8) | scale },
        { type: t.DECIMAL, meta: 0 },
      ]
    case 'bit':
      return [{ type: t.BIT, meta: ((size >> 3) << 8) | (size & 7) }]
    case 'time':
      return temporal(t.TIME2, t.TIME, size, mariadb)
    case 'datetime':
      return temporal(t.DATETIME2, t.DATETIME, size, mariadb)
    case 'timestamp':
      return temporal(t.TIMESTAMP2, t.TIMESTAMP, size, mariadb)
    case 'char':
    case 'binary':
      return [{ type: t.STRING, meta: stringMeta(octets) }]
    case 'varchar':
    case 'varbinary':
      return [
        { type: t.VARCHAR, meta: octets },
        { type: t.VAR_STRING, meta: octets },
        { type: t.VARCHAR_COMPRESSED, meta: octets + 1 },
      ]
    case 'enum':
      return [{ type: t.STRING, meta: (t.ENUM << 8) | (members > 255 ? 2 : 1) }]
    case 'set': {
      const bytes = (members + 7) >> 3
      return [{ type: t.STRING, meta: (t.SET << 8) | (bytes > 4 ? 8 : bytes) }]
    }
    case 'vector': // of MariaDB: its bytes
      return [...plain['vector']!, { type: t.VARCHAR, meta: size * 4 }]
    default:
      return (plain[base] ?? (isGeometry(base) ? [{ type: t.GEOMETRY, meta: 4 }] : [])).flatMap(
        (layout) =>
          layout.type === t.BLOB ? [layout, { ...layout, type: t.BLOB_COMPRESSED }] : layout,
      )
  }
}

/**
 * The table map that a server of today would write for a table, without optional metadata: for rows that are read from
 * the table and not from the log. Throws SCHEMA_MISMATCH for a type nobody knows.
 */
export function mapOf(
  database: string,
  table: string,
  { columns }: Definition,
  mariadb: boolean,
): TableMap {
  const width = columns.length
  const types = new Uint8Array(width)
  const meta = new Uint16Array(width)
  const nullable = new Uint8Array((width + 7) >> 3)
  for (const [i, column] of columns.entries()) {
    const known = layouts(column, mariadb)
    // MariaDB's vectors are bytes, MySQL's a type of their own
    const layout = mariadb && column.base === 'vector' ? known.at(-1) : known[0]
    if (layout === undefined) {
      const text = `${database}.${table}, column ${JSON.stringify(column.name)}: expected a type of MySQL's, found ${column.mysqlType}`
      throw new SluiceError('SCHEMA_MISMATCH', text)
    }
    types[i] = layout.type
    meta[i] = layout.meta
    if (column.nullable) nullable[i >> 3]! |= 1 << (i & 7)
  }
  const optional = Buffer.alloc(0)
  const body = Buffer.from(JSON.stringify(columns))
  const about = { tableId: 0, serverVersion: '', database, table, width }
  return { ...about, types, meta, nullable, optional, body }
}

const isGeometry = (base: string): boolean =>
  geometries.includes(base) || base === 'geometrycollection'

/**
 * Whether column `index` of the table map can be this one. `says` is its optional metadata: what it does not say is not
 * compared; the name neither. Returns "" when it fits, else the property that does not: "type", "nullability"….
 */
export function misfit(
  column: CapturedColumn,
  map: TableMap,
  index: number,
  says: Readonly<ColumnMetadata>,
): string {
  const type = map.types[index]!
  const meta = map.meta[index]!
  const mariadb = isMariadb(map)
  if (!layouts(column, mariadb).some((layout) => layout.type === type && layout.meta === meta))
    return 'type'
  if (((map.nullable[index >> 3]! >> (index & 7)) & 1) !== (column.nullable ? 1 : 0)) {
    return 'nullability'
  }
  const { unsigned } = says
  if (unsigned !== undefined && unsigned !== column.unsigned && type !== t.YEAR) return 'signedness'
  // Types that are logged as binary strings: vectors, MariaDB's addresses and UUIDs.
  const asBinary = type === t.VECTOR || (mariadb && says.collation === BINARY && says.geometry < 0)
  if (
    says.collation !== 0 &&
    says.collation !== column.collation &&
    !(asBinary && column.collation === 0)
  )
    return 'character set or collation'
  if (says.geometry >= 0 && geometries[says.geometry] !== geometryName(column.base)) return 'type'
  if (says.dimension > 0 && says.dimension !== column.sizes[0]) return 'dimension'
  return ''
}

const geometryName = (base: string): string =>
  base === 'geometrycollection' ? 'geomcollection' : base

/** All columns of a table; empty when there is no such table. */
export type Capture = readonly CapturedColumn[]

// ── the event wins ───────────────────────────────────────────────────────────

export function fromEvent(
  map: TableMap,
  says: TableMetadata,
  captured: Capture,
): ColumnDefinition[] {
  return says.columns.map((column, index) => {
    const definition = eventDefinition(map, index, column)
    const now = captured.length === map.width ? captured[index] : undefined
    if (!now || !lendable(now, map, index, column, definition.members)) return definition
    return { ...definition, mysqlType: now.mysqlType, key: column.key && !now.promoted }
  })
}

function eventDefinition(
  map: TableMap,
  index: number,
  column: Readonly<ColumnMetadata>,
): ColumnDefinition {
  const type = map.types[index]!
  const meta = map.meta[index]!
  const { name, key, invisible, geometry, dimension } = column
  const collation = type === columnTypes.VECTOR ? 0 : column.collation
  const unsigned = column.unsigned === true && type !== columnTypes.YEAR // which is logged as unsigned
  const members = column.members && decodeMembers(column.members, collation)
  const mysqlType = typeText({ type, meta, unsigned, collation, members, geometry, dimension })
  const nullable = isNullable(map, index)
  return {
    name,
    index,
    type,
    meta,
    unsigned,
    collation,
    mysqlType,
    key,
    nullable,
    invisible,
    members,
  }
}

function decodeMembers(members: readonly Buffer[], collation: number): string[] {
  const charset = charsetOf(collation)
  return members.map((bytes) => charset.decode(bytes, 0, bytes.length))
}

const isNullable = (map: TableMap, index: number): boolean =>
  ((map.nullable[index >> 3]! >> (index & 7)) & 1) === 1

/** Whether what only the server tells of a column can be used for the event's. */
function lendable(
  now: CapturedColumn,
  map: TableMap,
  index: number,
  column: Readonly<ColumnMetadata>,
  members: readonly string[] | undefined,
): boolean {
  if (now.name !== column.name || misfit(now, map, index, column) !== '') return false
  return members === undefined || sameList(members, now.members ?? [])
}

const sameList = (a: readonly string[], b: readonly string[]): boolean =>
  a.length === b.length && a.every((item, i) => item === b[i])

// ── information_schema, checked ──────────────────────────────────────────────

/** "" when the capture fits the table map, else what differs, with expected and found. */
export function disagreement(map: TableMap, says: TableMetadata, captured: Capture): string {
  if (captured.length !== map.width) {
    return `expected ${captured.length} columns, found ${map.width} in the binlog`
  }
  for (const [index, column] of captured.entries()) {
    const said = says.columns[index]!
    const wrong = misfit(column, map, index, said)
    const what = wrong || (said.name === '' || said.name === column.name ? '' : 'name')
    if (what === '') continue
    const expected = `${column.mysqlType}${column.nullable ? '' : ' not null'}`
    const place = `column ${index + 1} of ${map.width}, ${JSON.stringify(column.name)}`
    const { expectedMore, foundMore } = details(what, column, said)
    return `${place}: expected ${expected}${expectedMore}, found ${foundText(map, index, column, said)}${foundMore} in the binlog; the ${what} differs`
  }
  return ''
}

function details(
  what: string,
  column: CapturedColumn,
  said: Readonly<ColumnMetadata>,
): { expectedMore: string; foundMore: string } {
  if (what === 'name')
    return { expectedMore: '', foundMore: ` called ${JSON.stringify(said.name)}` }
  if (what !== 'character set or collation') return { expectedMore: '', foundMore: '' }
  return {
    expectedMore: ` with collation id ${column.collation}`,
    foundMore: ` with collation id ${said.collation}`,
  }
}

/** What the binlog says a column is; what it leaves unsaid is filled in from the captured column. */
function foundText(
  map: TableMap,
  index: number,
  column: CapturedColumn,
  said: Readonly<ColumnMetadata>,
): string {
  const text = typeText({
    type: map.types[index]!,
    meta: map.meta[index]!,
    unsigned: said.unsigned ?? column.unsigned,
    collation: said.collation || column.collation,
    members: column.members,
    geometry: said.geometry,
    dimension: said.dimension,
  })
  return isNullable(map, index) ? text : `${text} not null`
}

/** For a table map that a definition fits. */
export function fromCapture(map: TableMap, captured: Capture): ColumnDefinition[] {
  return captured.map((column, index) => ({
    name: column.name,
    index,
    type: map.types[index]!,
    meta: map.meta[index]!,
    unsigned: column.unsigned,
    collation: column.collation,
    mysqlType: column.mysqlType,
    key: column.key,
    nullable: column.nullable,
    invisible: column.invisible,
    members: column.members,
  }))
}

/**
 * Where nothing says which definition it is: types as the binlog has them, names by position as far as the captured
 * definition reaches and its columns can stand there, else column_1, column_2….
 */
export function positional(
  map: TableMap,
  says: TableMetadata,
  captured: Capture,
): ColumnDefinition[] {
  return says.columns.map((said, index) => {
    const now = captured[index]
    if (now && misfit(now, map, index, said) === '') {
      return fromCapture(
        { ...map, types: map.types.subarray(index), meta: map.meta.slice(index) },
        [now],
      ).map((definition) => ({ ...definition, index }))[0]!
    }
    const name = now?.name ?? `column_${index + 1}`
    return { ...eventDefinition(map, index, said), name, key: now?.key ?? false }
  })
}
