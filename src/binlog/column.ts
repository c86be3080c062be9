/**
 * THE table of MySQL's column types: how many bytes a value takes in a row image, its text (Canal's form), its JS value
 * (what SELECT returns) and the name of the type. A new type is one entry here and one row in the table-driven test.
 * compileColumn() turns one column of one table version into closures, once; nothing here looks anything up per value.
 * Knows no row and no table. Over 500 lines because it is one table.
 */
import type { Column, TextForm, TextWriter, Value, ValueReader } from '../change.ts'
import { SluiceError } from '../errors.ts'
import {
  decimalBytes,
  writeDecimal,
  writeInt64,
  writeJavaDouble,
  writeJavaFloat,
  writeUint64,
} from '../number.ts'
import { Out } from '../out.ts'
import { BINARY, charsetOf } from './charset.ts'
import { writeJson } from './json/text.ts'
import { definedText, inflatedText, inflatedValue } from './mariadb/values.ts'
import { columnTypes } from './table-map.ts'
import {
  type TimeZone,
  fractionBytes,
  parseTimeZone,
  writeDate,
  writeDatetime,
  writeDatetime2,
  writeTime,
  writeTime2,
  writeTimestamp,
  writeTimestamp2,
} from './time.ts'

/** What must be known of a column to compile it; from a FULL table map, or from the catalog. */
export interface ColumnDefinition {
  readonly name: string
  readonly index: number
  readonly type: number // the raw code of the table map: ENUM and SET may still stand as STRING
  readonly meta: number // the table map's, see TableMap.meta
  readonly unsigned: boolean
  readonly collation: number // 0 where the type has none
  readonly mysqlType: string
  readonly key: boolean
  readonly nullable: boolean
  readonly invisible: boolean
  readonly members: readonly string[] | undefined // undefined: not known; values are then the index or mask as a number
}

/** What a type's name is made from when there is no catalog. */
export interface TypeFacts {
  readonly type: number
  readonly meta: number
  readonly unsigned: boolean
  readonly collation: number
  readonly members: readonly string[] | undefined
  readonly geometry?: number // as in the table map's metadata; -1 where it is none
  readonly dimension?: number // of a vector
}

const t = columnTypes

interface ColumnType {
  /** As Column.size: > 0 fixed, -n with an n-byte length before it, 0 always empty; NaN: no such metadata. */
  size(meta: number): number
  text(column: ColumnDefinition, zone: TimeZone): TextWriter
  /** What `text` does, where it has a name. */
  form?(column: ColumnDefinition): TextForm | undefined
  value(column: ColumnDefinition, zone: TimeZone): ValueReader
  name(facts: TypeFacts): string
}

/** The code in effect: ENUM and SET stand as STRING in the table map, with the real type in the metadata. */
export function realType(type: number, meta: number): number {
  if (type !== t.STRING) return type
  const real = meta >> 8
  return real === t.ENUM || real === t.SET ? real : type
}

const UTC = parseTimeZone('UTC')
const isTimestamp = (type: number): boolean => type === t.TIMESTAMP || type === t.TIMESTAMP2

/** Bytes at most of a CHAR or BINARY: above 255, bits 8 and 9 stand inverted in bits 4 and 5 of the type code. */
function stringBytes(meta: number): number {
  const code = meta >> 8
  return (meta & 0xff) | (((code & 0x30) ^ 0x30) << 4)
}

/** Compiles a column. Throws SCHEMA_MISMATCH for a type or collation that is not MySQL's. */
export function compileColumn(definition: ColumnDefinition, zone: TimeZone): Column {
  const { name, index, meta, mysqlType, collation, key, nullable, unsigned, invisible, members } =
    definition
  const type = realType(definition.type, meta)
  const kind = definedType(type, mysqlType) ?? typeOf(type, name)
  const size = kind.size(meta)
  if (Number.isNaN(size)) throw unknownType(name, `${type} with metadata ${meta}`)
  return {
    name,
    index,
    type,
    meta,
    mysqlType,
    collation,
    key,
    nullable,
    unsigned,
    invisible,
    members,
    size,
    text: kind.text(definition, zone),
    form: kind.form?.(definition),
    utc: isTimestamp(type) ? kind.text(definition, UTC) : undefined,
    value: kind.value(definition, zone),
  }
}

/** A type of MariaDB's that the table map does not tell. */
function definedType(type: number, mysqlType: string): ColumnType | undefined {
  const defined = definedText(type, mysqlType)
  return (
    defined && {
      size: () => defined.size,
      text: (_column, zone) => defined.write(zone),
      value: (_column, zone) => asText(defined.write(zone)),
      name: () => mysqlType,
    }
  )
}

/** The type as SHOW CREATE TABLE prints it, as far as a FULL table map tells: no width, zerofill or float(7,2). */
export function typeText(facts: TypeFacts): string {
  return typeOf(realType(facts.type, facts.meta), '').name(facts)
}

function typeOf(type: number, name: string): ColumnType {
  const kind = types[type]
  if (!kind) throw unknownType(name, String(type))
  return kind
}

function unknownType(name: string, found: string): SluiceError {
  const message = `column ${JSON.stringify(name)}: expected a column type of MySQL's, found type code ${found}`
  return new SluiceError('SCHEMA_MISMATCH', message)
}

/** `size` where the metadata makes sense. */
const sizeIf = (makesSense: boolean, size: number): number => (makesSense ? size : Number.NaN)

// ── values made from text ────────────────────────────────────────────────────

const scratch = new Out(256)

/** The value is the text, which is ASCII. */
function asText(text: TextWriter): ValueReader {
  return (bytes, at, end) => {
    scratch.reset()
    text(bytes, at, end, scratch)
    return scratch.buf.toString('latin1', 0, scratch.at)
  }
}

// ── numbers ──────────────────────────────────────────────────────────────────

/** An integer of up to 6 bytes, little-endian. */
function integer(
  size: number,
  typeName: string,
  signed: ValueOf<number>,
  unsigned: ValueOf<number>,
): ColumnType {
  const read = (column: ColumnDefinition): ValueOf<number> => (column.unsigned ? unsigned : signed)
  return {
    size: () => size,
    text(column) {
      const number = read(column)
      return (bytes, at, _end, out) => out.int(number(bytes, at))
    },
    form: ({ unsigned }) => (unsigned ? 'unsigned' : 'signed'),
    value: read,
    name: (facts) => (facts.unsigned ? `${typeName} unsigned` : typeName),
  }
}
type ValueOf<T extends Value> = (bytes: Buffer, at: number) => T

const u16 = (b: Buffer, at: number): number => b[at]! | (b[at + 1]! << 8)
const u24 = (b: Buffer, at: number): number => u16(b, at) | (b[at + 2]! << 16)
const i32 = (b: Buffer, at: number): number => u24(b, at) | (b[at + 3]! << 24)

const bigint: ColumnType = {
  size: () => 8,
  text: (column) =>
    column.unsigned
      ? (bytes, at, _end, out) => writeUint64(i32(bytes, at + 4) >>> 0, i32(bytes, at) >>> 0, out)
      : (bytes, at, _end, out) => writeInt64(i32(bytes, at + 4), i32(bytes, at) >>> 0, out),
  form: ({ unsigned }) => (unsigned ? 'unsigned' : 'signed'),
  value: (column) =>
    column.unsigned
      ? (bytes, at) => bytes.readBigUInt64LE(at)
      : (bytes, at) => bytes.readBigInt64LE(at),
  name: (facts) => (facts.unsigned ? 'bigint unsigned' : 'bigint'),
}

const float: ColumnType = {
  size: () => 4,
  text: () => (bytes, at, _end, out) => writeJavaFloat(bytes.readFloatLE(at), out),
  value: () => (bytes, at) => bytes.readFloatLE(at),
  name: (facts) => (facts.unsigned ? 'float unsigned' : 'float'),
}

const double: ColumnType = {
  size: () => 8,
  text: () => (bytes, at, _end, out) => writeJavaDouble(bytes.readDoubleLE(at), out),
  value: () => (bytes, at) => bytes.readDoubleLE(at),
  name: (facts) => (facts.unsigned ? 'double unsigned' : 'double'),
}

const decimalText = (column: ColumnDefinition): TextWriter => {
  const precision = column.meta >> 8
  const scale = column.meta & 0xff
  return (bytes, at, _end, out) => writeDecimal(bytes, at, precision, scale, out)
}
const decimal: ColumnType = {
  size(meta) {
    const [precision, scale] = [meta >> 8, meta & 0xff]
    const makesSense = precision >= 1 && precision <= 65 && scale <= precision && scale <= 30
    return sizeIf(makesSense, decimalBytes(precision, Math.min(precision, scale)))
  },
  text: decimalText,
  form: () => 'decimal',
  value: (column) => asText(decimalText(column)),
  name: ({ meta, unsigned }) =>
    `decimal(${meta >> 8},${meta & 0xff})${unsigned ? ' unsigned' : ''}`,
}

/** Unsigned, big-endian, 1 to 8 bytes. */
function bigEndian(bytes: Buffer, at: number, end: number): bigint {
  const low = end - at > 4 ? bytes.readUInt32BE(end - 4) : bytes.readUIntBE(at, end - at)
  const high = end - at > 4 ? bytes.readUIntBE(at, end - at - 4) : 0
  return (BigInt(high) << 32n) | BigInt(low)
}
const bitCount = (meta: number): number => (meta >> 8) * 8 + (meta & 0xff)
const bit: ColumnType = {
  size: (meta) => sizeIf(bitCount(meta) >= 1 && bitCount(meta) <= 64, (bitCount(meta) + 7) >> 3),
  text: () => (bytes, at, end, out) => {
    let high = 0
    let low = 0
    for (; end - at > 4; at++) high = high * 256 + bytes[at]!
    for (; at < end; at++) low = low * 256 + bytes[at]!
    writeUint64(high, low, out)
  },
  value: () => bigEndian,
  name: ({ meta }) => `bit(${bitCount(meta)})`,
}

// ── dates and times ──────────────────────────────────────────────────────────

function temporal(
  typeName: string,
  size: (meta: number) => number,
  write: (digits: number, zone: TimeZone) => TextWriter,
  form?: TextForm,
): ColumnType {
  return {
    size: (meta) => sizeIf(meta <= 6, size(meta)),
    text: (column, zone) => write(column.meta, zone),
    form: () => form,
    value: (column, zone) => asText(write(column.meta, zone)),
    name: ({ meta }) => (meta > 0 ? `${typeName}(${meta})` : typeName),
  }
}

const date = temporal(
  'date',
  () => 3,
  () => (bytes, at, _end, out) => writeDate(bytes, at, out),
  'date',
)

const year: ColumnType = {
  size: () => 1,
  text: () => (bytes, at, _end, out) =>
    bytes[at] === 0 ? out.ascii('0000') : out.int(1900 + bytes[at]!),
  value: () => (bytes, at) => (bytes[at] === 0 ? 0 : 1900 + bytes[at]!),
  name: () => 'year',
}

// ── strings ──────────────────────────────────────────────────────────────────

const prefix = (bytesMax: number): number => (bytesMax > 255 ? -2 : -1)

const textOf = (column: ColumnDefinition): TextWriter => charsetOf(column.collation || BINARY).write
const formOf = (column: ColumnDefinition): TextForm | undefined =>
  charsetOf(column.collation || BINARY).form
/** A copy, so that a value outlives the slab its bytes stand in. */
const copy: ValueReader = (bytes, at, end) => Buffer.from(bytes.subarray(at, end))
const valueOf = (column: ColumnDefinition): ValueReader =>
  isBinary(column.collation) ? copy : charsetOf(column.collation).decode
const isBinary = (collation: number): boolean => collation === BINARY || collation === 0
const characters = (bytes: number, collation: number): number =>
  isBinary(collation) ? bytes : Math.floor(bytes / charsetOf(collation).maxBytes)

/** CHAR and BINARY: the padding is not in the binlog; SELECT shows that of BINARY, so the value gets it back. */
const fixedString: ColumnType = {
  size: (meta) => prefix(stringBytes(meta)),
  text: textOf,
  form: formOf,
  value(column) {
    if (!isBinary(column.collation)) return valueOf(column)
    const length = stringBytes(column.meta)
    return (bytes, at, end) => {
      const padded = Buffer.alloc(Math.max(length, end - at))
      bytes.copy(padded, 0, at, end)
      return padded
    }
  },
  name: ({ meta, collation }) =>
    `${isBinary(collation) ? 'binary' : 'char'}(${characters(stringBytes(meta), collation)})`,
}

const varString = (bytesMax: (meta: number) => number): ColumnType => ({
  size: (meta) => prefix(bytesMax(meta)),
  text: textOf,
  form: formOf,
  value: valueOf,
  name: ({ meta, collation }) =>
    `${isBinary(collation) ? 'varbinary' : 'varchar'}(${characters(bytesMax(meta), collation)})`,
})

const BLOB_SIZES = ['', 'tiny', '', 'medium', 'long'] as const
const blobSize = (meta: number): number => sizeIf(meta >= 1 && meta <= 4, -meta)
const blob: ColumnType = {
  size: blobSize,
  text: textOf,
  form: formOf,
  value: valueOf,
  name: ({ meta, collation }) =>
    `${BLOB_SIZES[meta] ?? ''}${isBinary(collation) ? 'blob' : 'text'}`,
}

/** MariaDB's COMPRESSED columns: the plain type, each value packed, with a byte of its own before it. */
const compressed = (plain: ColumnType, metaOf: (meta: number) => number): ColumnType => ({
  size: (meta) => plain.size(meta),
  text: (column, zone) => inflatedText(plain.text(column, zone)),
  value: (column, zone) => inflatedValue(plain.value(column, zone)),
  name: (facts) => plain.name({ ...facts, meta: metaOf(facts.meta) }),
})
const whole = (meta: number): number => meta

const GEOMETRIES =
  'geometry point linestring polygon multipoint multilinestring multipolygon geomcollection'.split(
    ' ',
  )
const bytesType = (name: (facts: TypeFacts) => string): ColumnType => ({
  size: blobSize,
  text: () => (bytes, at, end, out) => out.latin1(bytes, at, end),
  form: () => 'latin1',
  value: () => copy,
  name,
})

/** A typed array stands in multi-valued indexes only; its values are JSON arrays. */
const json = (name: string): ColumnType => ({
  size: blobSize,
  text: () => (bytes, at, end, out) => writeJson(bytes, at, end, 'canal', out),
  form: () => 'json',
  value: () => (bytes, at, end) => {
    scratch.reset()
    writeJson(bytes, at, end, 'mysql', scratch)
    return scratch.take()
  },
  name: () => name,
})

// ── enum and set ─────────────────────────────────────────────────────────────

const quoted = (members: readonly string[] | undefined): string =>
  (members ?? []).map((m) => `'${m.replaceAll("'", "''")}'`).join(',')

const memberBytes =
  (max: number) =>
  (meta: number): number =>
    sizeIf((meta & 0xff) >= 1 && (meta & 0xff) <= max, meta & 0xff)

const enumeration: ColumnType = {
  size: memberBytes(2),
  text: () => (bytes, at, end, out) => out.int(end - at > 1 ? u16(bytes, at) : bytes[at]!),
  form: () => 'unsigned',
  value:
    ({ members, name }) =>
    (bytes, at, end) => {
      const n = end - at > 1 ? u16(bytes, at) : bytes[at]!
      if (n === 0) return '' // what MySQL stores for an invalid value
      if (members === undefined) return n
      return members[n - 1] ?? memberMissing(name, n, members.length)
    },
  name: ({ members }) => `enum(${quoted(members)})`,
}

const set: ColumnType = {
  size: memberBytes(8),
  text: () => (bytes, at, end, out) => {
    let high = 0
    let low = 0
    for (let i = end - 1; i >= at; i--) {
      if (i - at > 3) high = high * 256 + bytes[i]!
      else low = low * 256 + bytes[i]!
    }
    writeUint64(high, low, out)
  },
  form: () => 'unsigned',
  value:
    ({ members, name }) =>
    (bytes, at, end) => {
      let mask = 0n
      for (let i = end - 1; i >= at; i--) mask = (mask << 8n) | BigInt(bytes[i]!)
      if (members === undefined) return mask
      const labels: string[] = []
      for (let i = 0; i < (end - at) * 8; i++)
        if ((bytes[at + (i >> 3)]! >> (i & 7)) & 1)
          labels.push(members[i] ?? memberMissing(name, i + 1, members.length))
      return labels.join(',')
    },
  name: ({ members }) => `set(${quoted(members)})`,
}

function memberMissing(column: string, n: number, count: number): never {
  const message = `column ${JSON.stringify(column)}: expected one of its ${count} members, found member ${n}`
  throw new SluiceError('SCHEMA_MISMATCH', message)
}

// ── the table ────────────────────────────────────────────────────────────────

const types: Readonly<Record<number, ColumnType>> = {
  [t.TINY]: integer(
    1,
    'tinyint',
    (b, at) => (b[at]! << 24) >> 24,
    (b, at) => b[at]!,
  ),
  [t.SHORT]: integer(2, 'smallint', (b, at) => (u16(b, at) << 16) >> 16, u16),
  [t.INT24]: integer(3, 'mediumint', (b, at) => (u24(b, at) << 8) >> 8, u24),
  [t.LONG]: integer(4, 'int', i32, (b, at) => i32(b, at) >>> 0),
  [t.LONGLONG]: bigint,
  [t.FLOAT]: float,
  [t.DOUBLE]: double,
  [t.NEWDECIMAL]: decimal,
  [t.BIT]: bit,
  [t.NULL]: { size: () => 0, text: () => () => {}, value: () => () => null, name: () => 'null' },
  [t.YEAR]: year,
  [t.DATE]: date,
  [t.NEWDATE]: date,
  [t.TIME]: temporal(
    'time',
    () => 3,
    () => (bytes, at, _end, out) => writeTime(bytes, at, out),
  ),
  [t.DATETIME]: temporal(
    'datetime',
    () => 8,
    () => (bytes, at, _end, out) => writeDatetime(bytes, at, out),
  ),
  [t.TIMESTAMP]: temporal(
    'timestamp',
    () => 4,
    (_digits, zone) => (bytes, at, _end, out) => writeTimestamp(bytes, at, zone, out),
  ),
  [t.TIME2]: temporal(
    'time',
    (meta) => 3 + fractionBytes(meta),
    (digits) => (bytes, at, _end, out) => writeTime2(bytes, at, digits, out),
    'time2',
  ),
  [t.DATETIME2]: temporal(
    'datetime',
    (meta) => 5 + fractionBytes(meta),
    (digits) => (bytes, at, _end, out) => writeDatetime2(bytes, at, digits, out),
    'datetime2',
  ),
  [t.TIMESTAMP2]: temporal(
    'timestamp',
    (meta) => 4 + fractionBytes(meta),
    (digits, zone) => (bytes, at, _end, out) => writeTimestamp2(bytes, at, digits, zone, out),
  ),
  [t.VARCHAR]: varString(whole),
  [t.VAR_STRING]: varString(stringBytes),
  [t.VARCHAR_COMPRESSED]: compressed(varString(whole), (meta) => meta - 1),
  [t.BLOB_COMPRESSED]: compressed(blob, whole),
  [t.STRING]: fixedString,
  [t.TINY_BLOB]: blob,
  [t.BLOB]: blob,
  [t.MEDIUM_BLOB]: blob,
  [t.LONG_BLOB]: blob,
  [t.ENUM]: enumeration,
  [t.SET]: set,
  [t.JSON]: json('json'),
  [t.TYPED_ARRAY]: json('json array'),
  [t.GEOMETRY]: bytesType(({ geometry = 0 }) => GEOMETRIES[geometry] ?? 'geometry'),
  [t.VECTOR]: bytesType(({ dimension = 0 }) => (dimension > 0 ? `vector(${dimension})` : 'vector')),
}
