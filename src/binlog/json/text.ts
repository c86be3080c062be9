/**
 * MySQL's binary JSON to text, in the two layouts needed: Canal's and MySQL's own. Text is written straight from the
 * bytes, nothing is built in between. Bytes that do not add up throw ROWS_MALFORMED with the place; work is bounded by
 * the length of the document, whatever its offsets say. Knows no column.
 *
 * The format (sql-common/json_binary.h):
 *   document  u8 type · value
 *   object    count · size · count x (offset, u16 length) of keys · count x (u8 type, offset or value) · keys · values
 *   array     count · size · count x (u8 type, offset or value) · values
 *             count, size and offset are u16 in a small, u32 in a large one; offsets count from `count`;
 *             literals, int16, uint16 and in a large one int32, uint32 stand in place of their offset
 *   literal   u8: 0 null, 1 true, 2 false        string   packed length · UTF-8
 *   numbers   little-endian                      opaque   u8 column type · packed length · bytes
 */
import { SluiceError } from '../../errors.ts'
import { Out } from '../../out.ts'
import {
  decimalBytes,
  writeDecimal,
  writeInt64,
  writeJavaDouble,
  writeMysqlDouble,
  writeUint64,
} from '../../number.ts'
import { columnTypes } from '../table-map.ts'
import { writePackedDate, writePackedDatetime, writePackedTime } from '../time.ts'

export type JsonStyle = 'canal' | 'mysql'

export const jsonTypes = {
  SMALL_OBJECT: 0,
  LARGE_OBJECT: 1,
  SMALL_ARRAY: 2,
  LARGE_ARRAY: 3,
  LITERAL: 4,
  INT16: 5,
  UINT16: 6,
  INT32: 7,
  UINT32: 8,
  INT64: 9,
  UINT64: 10,
  DOUBLE: 11,
  STRING: 12,
  OPAQUE: 15,
} as const
const t = jsonTypes

/** MySQL refuses deeper documents (JSON_DOCUMENT_MAX_DEPTH). */
export const JSON_DEPTH_MAX = 100

/** A value inside a document: bytes[start, end) is the whole document, bytes[at…) the value, of the JSON type `type`. */
export interface JsonPart {
  readonly bytes: Buffer
  readonly start: number
  readonly end: number
  readonly type: number
  readonly at: number
}
/** What an object or array holds; `keys` (UTF-8) only of an object. */
export interface JsonEntries {
  readonly keys: Buffer[] | undefined
  readonly values: JsonPart[]
}

const NULL_DOCUMENT = Buffer.of(t.LITERAL, 0)

/** The value a whole document is; an empty one is the literal null, as MySQL reads it. */
export function jsonPart(bytes: Buffer, at: number, end: number): JsonPart {
  if (at === end) return { bytes: NULL_DOCUMENT, start: 0, end: 2, type: t.LITERAL, at: 1 }
  return { bytes, start: at, end, type: bytes[at]!, at: at + 1 }
}

/** The entries of an object or array; undefined for any other value. Throws ROWS_MALFORMED. */
export function jsonEntries({ bytes, start, end, type, at }: JsonPart): JsonEntries | undefined {
  if (type > t.LARGE_ARRAY) return undefined
  mysqlWriter.open(bytes, start, end, unused)
  return mysqlWriter.entries(type, at)
}

/** Writes one value of a document as text; `depth` is that of the value. Throws ROWS_MALFORMED. */
export function writeJsonPart(part: JsonPart, depth: number, style: JsonStyle, out: Out): void {
  const writer = style === 'canal' ? canalWriter : mysqlWriter
  writer.open(part.bytes, part.start, part.end, out)
  writer.value(part.type, part.at, depth)
}

/** Writes the document in bytes[at, end) as text. An empty one is what Canal shows as "" and MySQL as null. */
export function writeJson(
  bytes: Buffer,
  at: number,
  end: number,
  style: JsonStyle,
  out: Out,
): void {
  if (at === end) {
    if (style === 'mysql') out.ascii('null')
    return
  }
  const writer = style === 'canal' ? canalWriter : mysqlWriter
  writer.open(bytes, at, end, out)
  writer.value(bytes[at]!, at + 1, 0)
}

const COMMA = 0x2c
const SPACE = 0x20
const COLON = 0x3a

class JsonWriter {
  readonly #mysql: boolean
  #bytes: Buffer = NULL_DOCUMENT
  #start = 0
  #end = 0
  #out: Out
  #budget = 0 // bytes not yet accounted for: each byte of a document belongs to one value, so this does not run out
  #past = 0 // behind the last packed length

  constructor(style: JsonStyle, out: Out) {
    this.#mysql = style === 'mysql'
    this.#out = out
  }

  open(bytes: Buffer, start: number, end: number, out: Out): void {
    this.#bytes = bytes
    this.#start = start
    this.#end = end
    this.#out = out
    this.#budget = end - start
  }

  /** Writes a value of `type` whose bytes begin at `at`. */
  value(type: number, at: number, depth: number): void {
    const bytes = this.#bytes
    switch (type) {
      case t.SMALL_OBJECT:
      case t.LARGE_OBJECT:
        return this.#object(at, type === t.LARGE_OBJECT, depth)
      case t.SMALL_ARRAY:
      case t.LARGE_ARRAY:
        return this.#array(at, type === t.LARGE_ARRAY, depth)
      case t.LITERAL:
        this.#need(at, 1, 'a literal')
        return this.#literal(bytes[at]!, at)
      case t.STRING: {
        const length = this.#packed(at)
        this.#spend(length, at)
        return writeString(bytes, this.#past, this.#past + length, this.#mysql, this.#out)
      }
      case t.OPAQUE:
        return this.#opaque(at)
      default:
        if (type > t.DOUBLE)
          throw this.#malformed(at, 'a value of type 0 to 12 or 15', `type ${type}`)
        return this.#number(type, at)
    }
  }

  /** The entries of a container without writing them. */
  entries(type: number, at: number): JsonEntries {
    const large = type === t.LARGE_OBJECT || type === t.LARGE_ARRAY
    const isObject = type === t.SMALL_OBJECT || type === t.LARGE_OBJECT
    const wide = large ? 4 : 2
    const keyBytes = isObject ? wide + 2 : 0
    const count = this.#container(at, large, 0, keyBytes + wide + 1)
    const size = this.#uint(at + wide, large)
    const first = at + 2 * wide + count * keyBytes
    const keys: Buffer[] | undefined = isObject ? [] : undefined
    const values: JsonPart[] = []
    for (let i = 0; i < count; i++) {
      if (keys) {
        const entry = at + 2 * wide + i * keyBytes
        const key = at + this.#key(entry, size, large)
        keys.push(this.#bytes.subarray(key, key + this.#uint(entry + wide, false)))
      }
      const entry = first + i * (wide + 1)
      const part = { bytes: this.#bytes, start: this.#start, end: this.#end }
      values.push({ ...part, type: this.#bytes[entry]!, at: this.#place(at, size, entry, large) })
    }
    return { keys, values }
  }

  #number(type: number, at: number): void {
    const bytes = this.#bytes
    const out = this.#out
    const size = type <= t.UINT16 ? 2 : type <= t.UINT32 ? 4 : 8
    this.#need(at, size, 'a number')
    switch (type) {
      case t.INT16:
        return out.int(((bytes[at]! | (bytes[at + 1]! << 8)) << 16) >> 16)
      case t.UINT16:
        return out.int(bytes[at]! | (bytes[at + 1]! << 8))
      case t.INT32:
        return out.int(bytes.readInt32LE(at))
      case t.UINT32:
        return out.int(bytes.readUInt32LE(at))
      case t.INT64:
        return writeInt64(bytes.readInt32LE(at + 4), bytes.readUInt32LE(at), out)
      case t.UINT64:
        return writeUint64(bytes.readUInt32LE(at + 4), bytes.readUInt32LE(at), out)
      default:
        if (this.#mysql) return writeMysqlDouble(bytes.readDoubleLE(at), out)
        return writeJavaDouble(bytes.readDoubleLE(at), out)
    }
  }

  #object(at: number, large: boolean, depth: number): void {
    const out = this.#out
    const wide = large ? 4 : 2
    const count = this.#container(at, large, depth, 2 * wide + 3)
    const size = this.#uint(at + wide, large)
    const keys = at + 2 * wide
    const values = keys + count * (wide + 2)
    out.ensure(1)
    out.u8(0x7b)
    for (let i = 0; i < count; i++) {
      const entry = keys + i * (wide + 2)
      const key = at + this.#key(entry, size, large)
      if (i > 0) this.#separator(COMMA)
      writeString(this.#bytes, key, key + this.#uint(entry + wide, false), this.#mysql, out)
      this.#separator(COLON)
      const value = values + i * (wide + 1)
      const place = this.#place(at, size, value, large)
      this.value(this.#bytes[value]!, place, depth + 1)
    }
    out.ensure(1)
    out.u8(0x7d)
  }

  #array(at: number, large: boolean, depth: number): void {
    const out = this.#out
    const wide = large ? 4 : 2
    const count = this.#container(at, large, depth, wide + 1)
    const size = this.#uint(at + wide, large)
    out.ensure(1)
    out.u8(0x5b)
    for (let i = 0; i < count; i++) {
      if (i > 0) this.#separator(COMMA)
      const value = at + 2 * wide + i * (wide + 1)
      const place = this.#place(at, size, value, large)
      this.value(this.#bytes[value]!, place, depth + 1)
    }
    out.ensure(1)
    out.u8(0x5d)
  }

  #separator(sign: number): void {
    const out = this.#out
    out.ensure(2)
    out.u8(sign)
    out.u8(SPACE)
  }

  /** Checks the head of an object or array whose entries take `entryBytes` each; returns their number. */
  #container(at: number, large: boolean, depth: number, entryBytes: number): number {
    if (depth >= JSON_DEPTH_MAX)
      throw this.#malformed(at, `at most ${JSON_DEPTH_MAX} levels`, 'more')
    const wide = large ? 4 : 2
    this.#need(at, 2 * wide, 'the head of an object or array')
    const count = this.#uint(at, large)
    const size = this.#uint(at + wide, large)
    this.#need(at, size, 'an object or array')
    const least = 2 * wide + count * entryBytes
    if (least > size)
      throw this.#malformed(at, `at least ${least} bytes for ${count} entries`, `${size}`)
    this.#spend(least, at)
    return count
  }

  /** The offset of the key whose entry stands at `entry`. */
  #key(entry: number, size: number, large: boolean): number {
    const offset = this.#uint(entry, large)
    const length = this.#uint(entry + (large ? 4 : 2), false)
    if (offset + length > size)
      throw this.#malformed(entry, `a key within ${size} bytes`, `${length} bytes at ${offset}`)
    this.#spend(length, entry)
    return offset
  }

  /** Where the value begins whose entry stands at `entry`, in the container that begins at `base`. */
  #place(base: number, size: number, entry: number, large: boolean): number {
    const type = this.#bytes[entry]!
    if (type === t.LITERAL || type === t.INT16 || type === t.UINT16) return entry + 1
    if (large && (type === t.INT32 || type === t.UINT32)) return entry + 1
    const offset = this.#uint(entry + 1, large)
    if (offset >= size)
      throw this.#malformed(entry, `a value within ${size} bytes`, `offset ${offset}`)
    return base + offset
  }

  #literal(v: number, at: number): void {
    if (v > 2) throw this.#malformed(at, 'the literal 0, 1 or 2', `${v}`)
    this.#out.ascii(v === 0 ? 'null' : v === 1 ? 'true' : 'false')
  }

  #opaque(at: number): void {
    const bytes = this.#bytes
    const out = this.#out
    this.#need(at, 2, 'an opaque value')
    const type = bytes[at]!
    const length = this.#packed(at + 1)
    const from = this.#past
    this.#spend(length, at)
    if (type === columnTypes.NEWDECIMAL) {
      const precision = length < 2 ? 0 : bytes[from]!
      const scale = length < 2 ? 0 : bytes[from + 1]!
      const expected = 2 + decimalBytes(precision, scale)
      if (scale > precision || length !== expected)
        throw this.#malformed(
          at,
          `${expected} bytes of a decimal(${precision},${scale})`,
          `${length}`,
        )
      return writeDecimal(bytes, from + 2, precision, scale, out)
    }
    if (isTemporal(type)) {
      if (length !== 8) throw this.#malformed(at, '8 bytes of a date or time', `${length}`)
      out.ascii('"')
      writeTemporal(bytes, from, type, this.#mysql, out)
      return out.ascii('"')
    }
    if (this.#mysql) writeBase64(bytes, from, from + length, type, out)
    else writeLatin1String(bytes, from, from + length, out)
  }

  /** A length of 7 bits a byte, the lowest first, the high bit set when more follow; `#past` is then behind it. */
  #packed(at: number): number {
    let length = 0
    for (let i = 0, scale = 1; i < 5; i++, scale *= 128) {
      this.#need(at + i, 1, 'a length')
      const b = this.#bytes[at + i]!
      length += (b & 0x7f) * scale
      if (b < 0x80) {
        this.#past = at + i + 1
        this.#need(this.#past, length, 'a string')
        return length
      }
    }
    throw this.#malformed(at, 'a length of at most 5 bytes', 'more')
  }
  #uint(at: number, large: boolean): number {
    const bytes = this.#bytes
    const low = bytes[at]! | (bytes[at + 1]! << 8)
    return large ? (low | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0 : low
  }
  #need(at: number, count: number, what: string): void {
    if (at + count > this.#end)
      throw this.#malformed(at, `${count} bytes of ${what}`, `${Math.max(0, this.#end - at)}`)
  }
  #spend(count: number, at: number): void {
    this.#budget -= count
    if (this.#budget < 0)
      throw this.#malformed(at, 'values that do not overlap', 'more bytes than there are')
  }
  #malformed(at: number, expected: string, found: string): SluiceError {
    const place = `JSON value of ${this.#end - this.#start} bytes, at byte ${at - this.#start}`
    return new SluiceError('ROWS_MALFORMED', `${place}: expected ${expected}, found ${found}`)
  }
}

const unused = new Out(16)
const canalWriter = new JsonWriter('canal', unused)
const mysqlWriter = new JsonWriter('mysql', unused)

// ── strings and opaque values ────────────────────────────────────────────────

const HEX = '0123456789abcdef'
const QUOTE = 0x22
const BACKSLASH = 0x5c

/** Writes UTF-8 bytes as a JSON string. MySQL has short forms for \b and \f; Canal escapes U+007F to U+00A0 too. */
export function writeString(
  bytes: Buffer,
  at: number,
  end: number,
  mysql: boolean,
  out: Out,
): void {
  out.ensure(end - at + 2)
  out.u8(QUOTE)
  while (at < end) {
    const { buf } = out
    let to = out.at
    let b = 0
    for (; at < end; at++) {
      b = bytes[at]!
      if (mysql ? isEscapedByMysql(b) : isEscapedByCanal(b)) break
      buf[to++] = b
    }
    out.at = to
    if (at === end) break
    out.ensure(end - at + 7)
    // C2 begins U+0080 to U+00BF
    if (b !== 0xc2) escape(b, mysql, out)
    else if (at + 1 < end && bytes[at + 1]! <= 0xa0) escape(bytes[++at]!, mysql, out)
    else out.u8(b)
    at++
  }
  out.u8(QUOTE)
}
const isEscapedByMysql = (b: number): boolean => b < 0x20 || b === QUOTE || b === BACKSLASH
const isEscapedByCanal = (b: number): boolean =>
  b < 0x20 || b === QUOTE || b === BACKSLASH || b === 0x7f || b === 0xc2

/** Writes each byte as the character of that number: what Canal makes of bytes. */
function writeLatin1String(bytes: Buffer, at: number, end: number, out: Out): void {
  out.ensure((end - at) * 6 + 2)
  out.u8(QUOTE)
  for (; at < end; at++) {
    const b = bytes[at]!
    if (b < 0x20 || b === QUOTE || b === BACKSLASH || (b >= 0x7f && b <= 0xa0))
      escape(b, false, out)
    else out.latin1(bytes, at, at + 1)
  }
  out.u8(QUOTE)
}

/** As MySQL shows opaque values it has no better form for; a line break, escaped, after every 76 signs. */
function writeBase64(bytes: Buffer, at: number, end: number, type: number, out: Out): void {
  const lines = bytes.toString('base64', at, end).match(/.{1,76}/g) ?? []
  out.ascii(`"base64:type${type}:${lines.join('\\n')}"`)
}

/** Needs 6 bytes of room. */
function escape(c: number, mysql: boolean, out: Out): void {
  out.u8(BACKSLASH)
  if (c === QUOTE || c === BACKSLASH) return out.u8(c)
  if (c === 0x0a) return out.u8(0x6e)
  if (c === 0x0d) return out.u8(0x72)
  if (c === 0x09) return out.u8(0x74)
  if (mysql && c === 0x08) return out.u8(0x62)
  if (mysql && c === 0x0c) return out.u8(0x66)
  out.u8(0x75)
  out.u8(0x30)
  out.u8(0x30)
  out.u8(HEX.charCodeAt(c >> 4))
  out.u8(HEX.charCodeAt(c & 15))
}

const isTemporal = (type: number): boolean =>
  type === columnTypes.DATE ||
  type === columnTypes.TIME ||
  type === columnTypes.DATETIME ||
  type === columnTypes.TIMESTAMP

/** Canal shows a DATE as the midnight it begins with, and a zero date without a fraction. */
function writeTemporal(bytes: Buffer, at: number, type: number, mysql: boolean, out: Out): void {
  if (type === columnTypes.TIME) return writePackedTime(bytes, at, out)
  if (type === columnTypes.DATE && mysql) return writePackedDate(bytes, at, out)
  const zero = bytes.readUInt32LE(at) === 0 && bytes.readUInt32LE(at + 4) === 0
  writePackedDatetime(bytes, at, zero && !mysql ? 0 : 6, out)
}
