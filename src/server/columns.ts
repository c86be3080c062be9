/**
 * What of a Canal Column is the same in every row: its constant bytes, compiled once per table version, and the rules
 * for sqlType. Knows java.sql.Types and Canal's presence rules; must not know rows, entries or sockets.
 *
 *   Column = 08 index · 10 sqlType · 1A name · 20 isKey · 28 updated · 30 isNull · 42 value · 52 mysqlType
 *            (all but value are always written, zero or not; value is missing where isNull)
 */
import type { Column, Table } from '../change.ts'
import { Out, constantOf, type Constant } from '../out.ts'
import { putIntField, putTextField } from '../protobuf.ts'

/** java.sql.Types */
const BIT = -7
const TINYINT = -6
const BIGINT = -5
const CHAR = 1
const DECIMAL = 3
const INTEGER = 4
const SMALLINT = 5
const REAL = 7
const DOUBLE = 8
const VARCHAR = 12
const DATE = 91
const TIME = 92
const TIMESTAMP = 93
const OTHER = 1111
const BLOB = 2004
const CLOB = 2005

const BINARY_COLLATION = 63

export interface SqlType {
  readonly value: number
  readonly null: number
  /** An unsigned integer that does not fit the signed type: from this text on, another sqlType. */
  readonly big: { readonly from: string; readonly type: number } | undefined
}

const one = (value: number, ofNull = value): SqlType => ({ value, null: ofNull, big: undefined })
const integer = (value: number, unsigned: boolean, from: string, type: number): SqlType => ({
  value,
  null: value,
  big: unsigned ? { from, type } : undefined,
})

/** The sqlType Canal gives a column, by MySQL type code (include/field_types.h). */
export function sqlTypeOf(column: Column): SqlType {
  const { type, unsigned } = column
  switch (type) {
    case 1: // TINY
      return integer(TINYINT, unsigned, '128', SMALLINT)
    case 2: // SHORT
      return integer(SMALLINT, unsigned, '32768', INTEGER)
    case 3: // LONG
      return integer(INTEGER, unsigned, '2147483648', BIGINT)
    case 8: // LONGLONG
      return integer(BIGINT, unsigned, '9223372036854775808', DECIMAL)
    case 9: // INT24
      return one(INTEGER)
    case 0: // DECIMAL
    case 246: // NEWDECIMAL
      return one(DECIMAL)
    case 4: // FLOAT
      return one(REAL)
    case 5: // DOUBLE
      return one(DOUBLE)
    case 7: // TIMESTAMP
    case 12: // DATETIME
    case 17: // TIMESTAMP2
    case 18: // DATETIME2
      return one(TIMESTAMP)
    case 10: // DATE
    case 14: // NEWDATE
      return one(DATE)
    case 11: // TIME
    case 19: // TIME2
      return one(TIME)
    case 13: // YEAR
      return one(VARCHAR)
    case 16: // BIT
      return one(BIT)
    case 242: // VECTOR
    case 255: // GEOMETRY
      return one(BLOB)
    case 245: // JSON
      return one(VARCHAR, OTHER)
    case 247: // ENUM
      return one(INTEGER)
    case 248: // SET
      return one(BIT, BLOB)
    case 249: // TINY_BLOB, MEDIUM_BLOB, LONG_BLOB, BLOB: what the table map says of TEXT too
    case 250:
    case 251:
    case 252:
      return one(isText(column) ? CLOB : BLOB)
    case 254: // STRING
      return one(isBinary(column) ? BLOB : CHAR)
    default: // VARCHAR, VAR_STRING, and what MySQL never logs
      return one(isBinary(column) ? BLOB : VARCHAR)
  }
}

function isText(column: Column): boolean {
  if (column.mysqlType === '') return column.collation !== BINARY_COLLATION
  return /^(?:tiny|medium|long)?text\b/i.test(column.mysqlType)
}
function isBinary(column: Column): boolean {
  if (column.mysqlType === '') return column.collation === BINARY_COLLATION
  return /^(?:var)?binary\b/i.test(column.mysqlType)
}

/**
 * The constant bytes in front of a value: tag, room for the Column's length in `lengthWidth` bytes, the fields up to
 * isNull, the value's tag. By the width of that length: [one byte, two bytes]; longer Columns are moved to make room.
 */
export type Forms = readonly [Constant, Constant]

/** The constant bytes of one column; a NULL is constant from tag to end. */
export interface ColumnCodec {
  readonly index: number
  readonly before: Forms
  readonly after: Forms
  readonly updated: Forms
  /** For unsigned values from the text `bigFrom` on. */
  readonly big: Big | undefined
  readonly suffix: Constant
  readonly nullBefore: Constant
  readonly nullAfter: Constant
  readonly nullUpdated: Constant
  /** Widths of the last lengths written, the guess for the next; and the size of the last value. */
  lengthWidth: 1 | 2
  valueWidth: number
  valueBytes: number
}
export interface Big {
  readonly from: Buffer
  readonly before: Forms
  readonly after: Forms
  readonly updated: Forms
}

export interface TableCodec {
  readonly columns: readonly ColumnCodec[]
  /** Header fields sourceType, schemaName, tableName. */
  readonly names: Constant
  rowWidth: number
  headSize: number
  /** Where in the output the Columns of the before image begin; one more for where they end. */
  readonly places: Int32Array
}

const scratch = new Out(1024)
function bytesOf(write: (out: Out) => void): Buffer {
  scratch.reset()
  write(scratch)
  return Buffer.from(scratch.buf.subarray(0, scratch.at))
}

/** Header fields 7 to 9: sourceType MYSQL, schemaName, tableName; a name that is undefined is left out. */
export function compileNames(database: string | undefined, table: string | undefined): Constant {
  const bytes = bytesOf((out) => {
    putIntField(out, 7, 2)
    if (database !== undefined) putTextField(out, 8, database)
    if (table !== undefined) putTextField(out, 9, table)
  })
  return constantOf(bytes)
}

const codecs = new WeakMap<Table, TableCodec>()

/** The codec of a table version; compiled once, shared by all encoders. */
export function codecOf(table: Table): TableCodec {
  let codec = codecs.get(table)
  if (codec === undefined) {
    codec = {
      columns: table.selected.map(compileColumn),
      names: compileNames(table.database, table.name),
      rowWidth: 2,
      headSize: 96,
      places: new Int32Array(table.selected.length + 1),
    }
    codecs.set(table, codec)
  }
  return codec
}

/** RowData.beforeColumns and RowData.afterColumns. */
export const BEFORE_TAG = 0x0a
export const AFTER_TAG = 0x12

/** What is the same in every Column of a table's column, as bytes; lengths and the tag of the side are not in it. */
export interface ColumnBytes {
  /** The fields up to the value's tag: of a before image, an after image, an after image that differs. */
  readonly before: Buffer
  readonly after: Buffer
  readonly updated: Buffer
  readonly suffix: Buffer
}
/** The bytes of a column's values of one sqlType. */
export function columnBytes(column: Column, sqlType: number): ColumnBytes {
  const head = (updated: boolean): Buffer =>
    Buffer.concat([fields(column, sqlType, updated, false), Buffer.of(VALUE_TAG)])
  return {
    before: head(false),
    after: head(false),
    updated: head(true),
    suffix: suffixOf(column),
  }
}
/** A NULL of a column, from the tag to the end. */
export function nullBytes(column: Column, side: number, updated: boolean): Buffer {
  const { null: sqlType } = sqlTypeOf(column)
  const body = Buffer.concat([fields(column, sqlType, updated, true), suffixOf(column)])
  return bytesOf((out) => {
    out.ensure(12)
    out.u8(side)
    out.varint(body.length)
    out.bytes(body, 0, body.length)
  })
}
function suffixOf({ mysqlType }: Column): Buffer {
  return bytesOf((out) => {
    if (mysqlType !== '') putTextField(out, 10, mysqlType)
  })
}

function compileColumn(column: Column): ColumnCodec {
  const { value, big } = sqlTypeOf(column)
  return {
    index: column.index,
    ...sides(column, value),
    big: big && { from: Buffer.from(big.from), ...sides(column, big.type) },
    suffix: constantOf(suffixOf(column)),
    nullBefore: constantOf(nullBytes(column, BEFORE_TAG, false)),
    nullAfter: constantOf(nullBytes(column, AFTER_TAG, false)),
    nullUpdated: constantOf(nullBytes(column, AFTER_TAG, true)),
    lengthWidth: 1,
    valueWidth: 1,
    valueBytes: 0,
  }
}

function sides(column: Column, sqlType: number): Pick<Big, 'before' | 'after' | 'updated'> {
  const { before, after, updated } = columnBytes(column, sqlType)
  const forms = (side: number, rest: Buffer): Forms => {
    const room = 0
    return [
      constantOf(Uint8Array.from([side, room, ...rest])),
      constantOf(Uint8Array.from([side, room, room, ...rest])),
    ]
  }
  return {
    before: forms(BEFORE_TAG, before),
    after: forms(AFTER_TAG, after),
    updated: forms(AFTER_TAG, updated),
  }
}

const VALUE_TAG = 0x42

/** Column fields 1 to 6. */
function fields(column: Column, sqlType: number, updated: boolean, isNull: boolean): Buffer {
  return bytesOf((out) => {
    putIntField(out, 1, column.index)
    putIntField(out, 2, sqlType)
    putTextField(out, 3, column.name)
    putIntField(out, 4, Number(column.key))
    putIntField(out, 5, Number(updated))
    putIntField(out, 6, Number(isNull))
  })
}
