/**
 * The two events that row changes consist of: the table map, which says how the columns that follow are laid out, and
 * the head of a rows event. The rest of a rows event, the images, belongs to rows.ts.
 * A table map is cheap to recognise (`sameTableMap` compares bytes) and its optional metadata is parsed only on request,
 * so that a stream of the same tables costs no parsing. Pure. Layouts: libs/mysql/binlog/event/rows_event.h of MySQL 9.
 */
import { mariadbCollation } from './charset.ts'
import { isMariadb } from './mariadb/events.ts'
import { HEADER_BYTES, Reader, eventTypes, sameBytes } from './reader.ts'
import type { Format } from './reader.ts'

/** MySQL's column type codes (include/field_types.h), as far as a table map can hold them. */
export const columnTypes = {
  DECIMAL: 0,
  TINY: 1,
  SHORT: 2,
  LONG: 3,
  FLOAT: 4,
  DOUBLE: 5,
  NULL: 6,
  TIMESTAMP: 7,
  LONGLONG: 8,
  INT24: 9,
  DATE: 10,
  TIME: 11,
  DATETIME: 12,
  YEAR: 13,
  NEWDATE: 14,
  VARCHAR: 15,
  BIT: 16,
  TIMESTAMP2: 17,
  DATETIME2: 18,
  TIME2: 19,
  TYPED_ARRAY: 20,
  BLOB_COMPRESSED: 140, // MariaDB's
  VARCHAR_COMPRESSED: 141, // MariaDB's
  VECTOR: 242,
  JSON: 245,
  NEWDECIMAL: 246,
  ENUM: 247,
  SET: 248,
  TINY_BLOB: 249,
  MEDIUM_BLOB: 250,
  LONG_BLOB: 251,
  BLOB: 252,
  VAR_STRING: 253,
  STRING: 254,
  GEOMETRY: 255,
} as const

// ── table map ────────────────────────────────────────────────────────────────

/** One version of a table as the binlog describes it. Owns its memory: nothing points into the event it was read from. */
export interface TableMap {
  readonly tableId: number
  readonly database: string
  readonly table: string
  readonly width: number // columns
  readonly types: Uint8Array // by column, as logged: ENUM and SET still stand as STRING
  /**
   * By column. BLOB family, JSON, GEOMETRY, VECTOR: bytes of the length prefix · FLOAT, DOUBLE: bytes · VARCHAR: bytes
   * at most · STRING, ENUM, SET: real type << 8 | bytes (longer than 255: two bits of the length stand inverted in the
   * real type) · NEWDECIMAL: precision << 8 | scale · BIT: whole bytes << 8 | odd bits · TIME2, DATETIME2, TIMESTAMP2:
   * fraction digits · TYPED_ARRAY: the element's · else 0.
   */
  readonly meta: Uint16Array
  readonly nullable: Uint8Array // bit i & 7 of byte i >> 3
  readonly optional: Buffer // the optional metadata as logged; empty before MySQL 8.0.1
  readonly serverVersion: string // of the server that wrote the log
  /** Everything after the table id, to recognise the same table map again. */
  readonly body: Buffer
}

/** Bytes of the table id: 4 in a format whose post-header for that event has 6 bytes, as before MySQL 5.1.4. */
export const idBytes = (format: Format, type: number): number =>
  format.postHeader[type] === 6 ? 4 : 6

/** The table id of a TABLE_MAP, without reading the rest. */
export function tableMapId(bytes: Buffer, start: number, end: number, format: Format): number {
  const r = new Reader('TABLE_MAP', bytes, start, end)
  return tableId(r, format, eventTypes.TABLE_MAP)
}

export function tableId(r: Reader, format: Format, type: number): number {
  return idBytes(format, type) === 4 ? r.u32('the table id') : r.u48('the table id')
}

/** Whether the TABLE_MAP in bytes[start, end) says, apart from the table id, exactly what `map` says. */
export function sameTableMap(
  map: TableMap,
  bytes: Buffer,
  start: number,
  end: number,
  format: Format,
): boolean {
  const at = start + HEADER_BYTES + idBytes(format, eventTypes.TABLE_MAP)
  return end - at === map.body.length && sameBytes(bytes, at, map.body, 0, end - at)
}

/**
 * TABLE_MAP:  u48 table id · u16 flags · u8 length, database, 0 · u8 length, table, 0 · packed column count ·
 *   a type per column · packed length of the types' metadata, metadata · nullable bits, a bit per column ·
 *   since MySQL 8.0.1 the optional metadata
 */
export function readTableMap(bytes: Buffer, start: number, end: number, format: Format): TableMap {
  const r = new Reader('TABLE_MAP', bytes, start, end)
  const id = tableId(r, format, eventTypes.TABLE_MAP)
  const body = Buffer.from(bytes.subarray(r.at, end))
  r.skip(2, 'flags')
  const database = r.utf8(r.u8('the length of the database name'), 'the database name')
  r.zero('after the database name')
  const table = r.utf8(r.u8('the length of the table name'), 'the table name')
  r.zero('after the table name')
  const width = r.packed('the column count')
  const typesAt = r.skip(width, 'the column types')
  const types = Uint8Array.from(bytes.subarray(typesAt, r.at))
  const metaBytes = r.packed('the length of the metadata')
  r.need(metaBytes, 'the metadata')
  const metaEnd = r.at + metaBytes
  const meta = new Uint16Array(width)
  for (let i = 0; i < width; i++) meta[i] = readMeta(r, types[i]!)
  if (r.at !== metaEnd)
    throw r.malformed(`${metaBytes} bytes of metadata, its types take ${r.at - metaEnd} more`)
  const bitsAt = r.skip(Math.ceil(width / 8), 'the nullable bits')
  const nullable = Uint8Array.from(bytes.subarray(bitsAt, r.at))
  const optional = body.subarray(body.length - r.left)
  const { serverVersion } = format
  return {
    tableId: id,
    database,
    table,
    width,
    types,
    meta,
    nullable,
    optional,
    serverVersion,
    body,
  }
}

function readMeta(r: Reader, type: number): number {
  const t = columnTypes
  switch (type) {
    case t.TINY_BLOB:
    case t.MEDIUM_BLOB:
    case t.LONG_BLOB:
    case t.BLOB:
    case t.BLOB_COMPRESSED:
    case t.FLOAT:
    case t.DOUBLE:
    case t.GEOMETRY:
    case t.JSON:
    case t.VECTOR:
    case t.TIME2:
    case t.DATETIME2:
    case t.TIMESTAMP2:
      return r.u8('column metadata')
    case t.VARCHAR:
    case t.VARCHAR_COMPRESSED:
    case t.BIT:
      return r.u16('column metadata')
    case t.STRING:
    case t.ENUM:
    case t.SET:
    case t.VAR_STRING:
    case t.NEWDECIMAL: {
      const high = r.u8('column metadata')
      return (high << 8) | r.u8('column metadata')
    }
    case t.TYPED_ARRAY: {
      const element = r.u8('the element type')
      if (element === t.TYPED_ARRAY) throw r.malformed('an array of something else than arrays')
      return readMeta(r, element)
    }
    default:
      return 0
  }
}

// ── optional metadata ────────────────────────────────────────────────────────

/** What the optional metadata says of one column. */
export interface ColumnMetadata {
  name: string // "" when not logged
  unsigned: boolean | undefined // undefined: not a number, or not logged
  collation: number // of character, binary, enum and set columns; 0: another type, or not logged
  members: readonly Buffer[] | undefined // of enum and set, in the column's character set
  geometry: number // 0 geometry, 1 point, 2 linestring, 3 polygon, 4 to 6 their multi forms, 7 collection; -1: another type
  dimension: number // of a vector: numbers at most; else 0
  key: boolean // in the primary key
  keyPrefix: number // characters of it in the primary key; 0: the whole value
  invisible: boolean
}
export interface TableMetadata {
  readonly columns: readonly Readonly<ColumnMetadata>[]
  /** Names, keys, members are logged: binlog_row_metadata=FULL. */
  readonly full: boolean
}

const fields = {
  SIGNEDNESS: 1,
  DEFAULT_CHARSET: 2,
  COLUMN_CHARSET: 3,
  COLUMN_NAME: 4,
  SET_MEMBERS: 5,
  ENUM_MEMBERS: 6,
  GEOMETRY_TYPE: 7,
  PRIMARY_KEY: 8,
  PRIMARY_KEY_WITH_PREFIX: 9,
  ENUM_AND_SET_DEFAULT_CHARSET: 10,
  ENUM_AND_SET_COLUMN_CHARSET: 11,
  VISIBILITY: 12,
  VECTOR_DIMENSION: 13,
} as const

/** Which columns a field's list is about. A STRING with a real type in its metadata is the enum or set it says. */
type Family = 'numeric' | 'character' | 'enum' | 'set' | 'geometry' | 'vector' | 'other'

function family(type: number, meta: number): Family {
  const t = columnTypes
  switch (type) {
    case t.TINY:
    case t.SHORT:
    case t.INT24:
    case t.LONG:
    case t.LONGLONG:
    case t.NEWDECIMAL:
    case t.FLOAT:
    case t.DOUBLE:
    case t.YEAR:
      return 'numeric'
    case t.STRING:
      return meta >> 8 === t.ENUM ? 'enum' : meta >> 8 === t.SET ? 'set' : 'character'
    case t.VARCHAR:
    case t.VARCHAR_COMPRESSED:
    case t.BLOB_COMPRESSED:
    case t.VAR_STRING:
    case t.TINY_BLOB:
    case t.MEDIUM_BLOB:
    case t.LONG_BLOB:
    case t.BLOB:
      return 'character'
    case t.ENUM:
      return 'enum'
    case t.SET:
      return 'set'
    case t.GEOMETRY:
      return 'geometry'
    case t.VECTOR:
      return 'vector'
    default:
      return 'other'
  }
}

function emptyColumn(): ColumnMetadata {
  return {
    name: '',
    unsigned: undefined,
    collation: 0,
    members: undefined,
    geometry: -1,
    dimension: 0,
    key: false,
    keyPrefix: 0,
    invisible: false,
  }
}

/**
 * A bit per numeric column. MySQL 8.0.31 and later count YEAR among them, 8.0.15 does not (both seen); where neither the
 * field's length nor the version tells, signedness stays unknown and the catalog asks the server.
 */
function readSignedness(r: Reader, map: TableMap, columns: ColumnMetadata[]): void {
  const numeric = columns.filter((_, i) => family(map.types[i]!, map.meta[i]!) === 'numeric')
  const others = numeric.filter((c) => map.types[columns.indexOf(c)] !== columnTypes.YEAR)
  const set = (column: ColumnMetadata, bit: boolean) => (column.unsigned = bit)
  const sizes = [numeric, others].map((list) => Math.ceil(list.length / 8))
  if (numeric.length === others.length) return readBits(r, numeric, set)
  if (sizes[0] !== sizes[1]) return readBits(r, r.left === sizes[1] ? others : numeric, set)
  const [, major, minor, patch] = /^(\d+)\.(\d+)\.(\d+)/.exec(map.serverVersion) ?? []
  const version = Number(major) * 10_000 + Number(minor) * 100 + Number(patch)
  if (version <= 80_015) return readBits(r, others, set)
  if (version >= 80_031) return readBits(r, numeric, set)
  r.skip(r.left, 'signedness')
}

function readField(r: Reader, type: number, map: TableMap, columns: ColumnMetadata[]): void {
  const of = (...wanted: Family[]): ColumnMetadata[] =>
    columns.filter((_, i) => wanted.includes(family(map.types[i]!, map.meta[i]!)))
  // MySQL 9.7 counts VECTOR among them, MariaDB geometry, both with the collation binary.
  const withCharset = (): ColumnMetadata[] =>
    isMariadb(map) ? of('character', 'geometry') : of('character', 'vector')
  switch (type) {
    case fields.SIGNEDNESS:
      return readSignedness(r, map, columns)
    case fields.VISIBILITY:
      return readBits(r, columns, (column, bit) => (column.invisible = !bit))
    case fields.DEFAULT_CHARSET:
      return readDefaultCollation(r, withCharset())
    case fields.ENUM_AND_SET_DEFAULT_CHARSET:
      return readDefaultCollation(r, of('enum', 'set'))
    case fields.COLUMN_CHARSET:
      return readList(r, withCharset(), (column) => (column.collation = r.packed('a collation')))
    case fields.ENUM_AND_SET_COLUMN_CHARSET:
      return readList(
        r,
        of('enum', 'set'),
        (column) => (column.collation = r.packed('a collation')),
      )
    case fields.COLUMN_NAME:
      return readList(r, columns, (column) => {
        column.name = r.utf8(r.packed('the length of a column name'), 'a column name')
      })
    case fields.SET_MEMBERS:
      return readList(r, of('set'), (column) => (column.members = readMembers(r)))
    case fields.ENUM_MEMBERS:
      return readList(r, of('enum'), (column) => (column.members = readMembers(r)))
    case fields.GEOMETRY_TYPE:
      return readList(
        r,
        of('geometry'),
        (column) => (column.geometry = r.packed('a geometry type')),
      )
    case fields.VECTOR_DIMENSION:
      return readList(r, of('vector'), (column) => (column.dimension = r.packed('a dimension')))
    case fields.PRIMARY_KEY:
    case fields.PRIMARY_KEY_WITH_PREFIX:
      while (r.left > 0) {
        const column = pick(r, columns)
        column.key = true
        if (type === fields.PRIMARY_KEY_WITH_PREFIX) column.keyPrefix = r.packed('a prefix length')
      }
  }
}

/** One entry per column of `columns`, which must fill the field. */
function readList(
  r: Reader,
  columns: ColumnMetadata[],
  read: (column: ColumnMetadata) => void,
): void {
  for (const column of columns) read(column)
  if (r.left > 0) throw r.malformed(`entries for ${columns.length} columns`)
}

function readBits(
  r: Reader,
  columns: ColumnMetadata[],
  set: (column: ColumnMetadata, bit: boolean) => void,
): void {
  const at = r.skip(Math.ceil(columns.length / 8), 'a bit per column')
  if (r.left > 0) throw r.malformed(`bits for ${columns.length} columns`)
  columns.forEach((column, i) => set(column, ((r.bytes[at + (i >> 3)]! << (i & 7)) & 0x80) !== 0))
}

function readDefaultCollation(r: Reader, columns: ColumnMetadata[]): void {
  const collation = r.packed('the default collation')
  for (const column of columns) column.collation = collation
  while (r.left > 0) {
    const column = pick(r, columns)
    column.collation = r.packed('a collation')
  }
}

/** Reads an index into `columns`. */
function pick(r: Reader, columns: ColumnMetadata[]): ColumnMetadata {
  const index = r.packed('a column index')
  const column = columns[index]
  if (!column) throw r.malformed(`a column index below ${columns.length}, got ${index}`)
  return column
}

function readMembers(r: Reader): Buffer[] {
  const count = r.packed('the count of members')
  const members: Buffer[] = []
  while (members.length < count) {
    const at = r.skip(r.packed('the length of a member'), 'a member')
    members.push(r.bytes.subarray(at, r.at))
  }
  return members
}

/**
 * The optional metadata of a table map, a row of fields:  u8 type · packed length · value
 *    1  a bit per numeric column (YEAR is one, BIT is not), the highest first: unsigned
 *    2  packed collation of most character columns · packed index among them, packed collation of the others
 *    3  packed collation per character column; binary columns are among them (63), enum and set are not
 *    4  packed length, name per column
 *    5  per set column: packed count of members · packed length, member        6  the same for enum columns
 *    7  packed geometry type per geometry column      13  packed dimension per vector column
 *    8  packed index per column of the primary key     9  packed index, packed prefix length (0: whole column)
 *   10, 11  like 2 and 3 for enum and set columns     12  a bit per column, the highest first: visible
 * Fields of another type are passed over. Throws EVENT_MALFORMED.
 */
export function readMetadata(map: TableMap): TableMetadata {
  const name = `optional metadata of the TABLE_MAP of ${map.database}.${map.table}`
  const r = new Reader(name, map.optional, 0, map.optional.length, 0)
  const columns = Array.from({ length: map.width }, emptyColumn)
  let full = false
  while (r.left > 0) {
    const type = r.u8('a field type')
    const past = r.skip(r.packed('a field length'), 'a field')
    const field = new Reader(name, map.optional, past, r.at, 0)
    if (type === fields.COLUMN_NAME) full = true
    readField(field, type, map, columns)
  }
  if (isMariadb(map)) for (const c of columns) c.collation = mariadbCollation(c.collation)
  for (const [i, c] of columns.entries()) if (map.types[i] === columnTypes.GEOMETRY) c.collation = 0
  return { columns, full }
}
