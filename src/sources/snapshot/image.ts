/**
 * A row of the binary protocol to a row image of the binlog, byte for byte what the log would hold, so that everything
 * behind it reads both with the same code. The exception is JSON, of which the protocol has MySQL's text: the image holds
 * that text, and `snapshotColumn` gives the column closures that read it. Pure.
 *
 * A value in the protocol (sql/protocol_classic.cc): integers and floating point little-endian (MEDIUMINT in 4 bytes, YEAR
 * in 2) · DATE, DATETIME, TIMESTAMP: u8 length 0, 4, 7 or 11, u16 year, u8 month, day, [hour, minute, second, [u32
 * microseconds]] · TIME: u8 length 0, 8 or 12, u8 negative, u32 days, u8 hours, minutes, seconds, [u32 microseconds] ·
 * all others: packed length, bytes (DECIMAL: its text).
 */
import { BINARY } from '../../binlog/charset.ts'
import { writeString } from '../../binlog/json/text.ts'
import { columnTypes as t } from '../../binlog/table-map.ts'
import { fractionBytes } from '../../binlog/time.ts'
import type { Column } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { decimalBytes, writeJavaDouble } from '../../number.ts'
import type { Out } from '../../out.ts'
import type { ResultColumn, RowTaker } from '../../mysql/binary.ts'

/** How a value is turned into what the image has. */
const FIXED = 0 // so many bytes of so many
const COUNTED = 1 // a length of 1 to 4 bytes before the bytes
const PADDED = 2 // the same, without zeros at the end
const PLAIN = 3 // bytes without their length
const MEMBERS = 4 // an integer of 8 bytes, of which the low ones count
const YEAR = 5
const DECIMAL = 6
const DATE = 7
const DATETIME = 8
const TIMESTAMP = 9
const TIME = 10

interface Codec {
  readonly how: number
  readonly wire: number // bytes in the protocol, of FIXED
  readonly size: number // bytes in the image; of COUNTED and PADDED those of the length
  readonly column: Column
}

/** MariaDB's types that the log has as bytes and the protocol as text. */
export const ADDRESSES: Readonly<Record<string, number>> = { uuid: 16, inet6: 16, inet4: 4 }

/** What is selected for a column: ENUM and SET by number, addresses as bytes, everything else as it is. */
export function selection({ name, type, mysqlType }: Column): string {
  const quoted = quoteName(name)
  const bytes = ADDRESSES[mysqlType]
  if (bytes !== undefined) return `CAST(${quoted} AS BINARY(${bytes})) AS ${quoted}`
  // "| 0" makes it 8 bytes wide on every server
  if (type === t.ENUM || type === t.SET) return `CAST(${quoted} AS UNSIGNED) | 0 AS ${quoted}`
  return quoted
}
export const quoteName = (name: string): string => `\`${name.replaceAll('`', '``')}\``

/** A column of the log as one of a snapshot: the same, but for JSON, which is MySQL's text. */
export function snapshotColumn(column: Column): Column {
  if (column.type !== t.JSON) return column
  return {
    ...column,
    text: (bytes, at, end, out) => writeCanalJson(bytes, at, end, out),
    value: (bytes, at, end) => bytes.toString('utf8', at, end),
  }
}

function codecOf(column: Column): Codec {
  const { type, size, collation } = column
  const fixed = (wire: number): Codec => ({ how: FIXED, wire, size, column })
  switch (type) {
    case t.TINY:
      return fixed(1)
    case t.SHORT:
      return fixed(2)
    case t.INT24:
    case t.LONG:
    case t.FLOAT:
      return fixed(4)
    case t.LONGLONG:
    case t.DOUBLE:
      return fixed(8)
    case t.YEAR:
      return { how: YEAR, wire: 2, size, column }
    case t.NEWDECIMAL:
      return { how: DECIMAL, wire: 0, size, column }
    case t.DATE:
      return { how: DATE, wire: 0, size, column }
    case t.DATETIME2:
      return { how: DATETIME, wire: 0, size, column }
    case t.TIMESTAMP2:
      return { how: TIMESTAMP, wire: 0, size, column }
    case t.TIME2:
      return { how: TIME, wire: 0, size, column }
    case t.BIT:
      return { how: PLAIN, wire: 0, size, column }
    case t.ENUM:
    case t.SET:
      return { how: MEMBERS, wire: 8, size, column }
    default: {
      if (size >= 0) throw unsuitable(column, `a type that can be read, its code is ${type}`)
      const padded = type === t.STRING && (collation === BINARY || collation === 0)
      return { how: padded ? PADDED : COUNTED, wire: 0, size: -size, column }
    }
  }
}
function unsuitable({ name }: Column, expected: string): SluiceError {
  return new SluiceError(
    'SCHEMA_MISMATCH',
    `column ${JSON.stringify(name)} of a snapshot: expected ${expected}`,
  )
}

const integers: Readonly<Record<number, number>> = {
  [t.TINY]: 1,
  [t.SHORT]: 2,
  [t.YEAR]: 2,
  [t.INT24]: 4,
  [t.LONG]: 4,
  [t.FLOAT]: 4,
  [t.LONGLONG]: 8,
  [t.DOUBLE]: 8,
}
const temporals: Readonly<Record<number, number>> = {
  [DATE]: t.DATE,
  [DATETIME]: t.DATETIME,
  [TIMESTAMP]: t.TIMESTAMP,
  [TIME]: t.TIME,
}

/** Appends the images of rows to `out`; where the values of the last one stand is in `starts` and `ends`. */
export class ImageWriter implements RowTaker {
  readonly starts: Int32Array
  /** -1: NULL. */
  readonly ends: Int32Array
  readonly #codecs: readonly Codec[]
  readonly #out: Out
  readonly #after: () => boolean
  #at = 0

  /** `begin` is called before each row; false: it is not wanted. */
  constructor(columns: readonly Column[], out: Out, begin: () => boolean) {
    this.#codecs = columns.map(codecOf)
    this.#out = out
    this.#after = begin
    this.starts = new Int32Array(columns.length)
    this.ends = new Int32Array(columns.length)
  }
  /** Throws SCHEMA_MISMATCH where the result is not of the columns. */
  columns(columns: readonly ResultColumn[]): void {
    for (const [i, { type }] of columns.entries()) {
      const codec = this.#codecs[i]
      if (codec === undefined || !fits(codec, type)) {
        const column = codec?.column ?? { name: columns[i]!.name }
        throw unsuitable(column as Column, `a result that fits it, got one of type ${type}`)
      }
    }
  }
  row(bytes: Buffer, start: number): void {
    if (!this.#after()) return
    const codecs = this.#codecs
    const out = this.#out
    const width = codecs.length
    const nullBytes = (width + 7) >> 3
    out.ensure(nullBytes)
    const nulls = out.at
    out.at += nullBytes
    out.buf.fill(0, nulls, out.at)
    this.#at = start + 1 + ((width + 9) >> 3)
    for (let i = 0; i < width; i++) {
      const bit = i + 2
      if (((bytes[start + 1 + (bit >> 3)]! >> (bit & 7)) & 1) !== 0) {
        out.buf[nulls + (i >> 3)]! |= 1 << (i & 7)
        this.ends[i] = -1
        continue
      }
      this.#value(codecs[i]!, i, bytes)
      this.ends[i] = out.at
    }
  }
  #value(codec: Codec, i: number, bytes: Buffer): void {
    const out = this.#out
    const { how, size } = codec
    let at = this.#at
    if (how === FIXED || how === MEMBERS) {
      out.ensure(8)
      this.starts[i] = out.at
      for (let k = 0; k < size; k++) out.u8(bytes[at + k]!)
      this.#at = at + codec.wire
      return
    }
    if (how === YEAR) {
      const year = bytes[at]! | (bytes[at + 1]! << 8)
      out.ensure(1)
      this.starts[i] = out.at
      out.u8(year === 0 ? 0 : year - 1900)
      this.#at = at + 2
      return
    }
    const length = this.#length(bytes)
    at = this.#at
    this.#at = at + length
    let end = at + length
    if (how >= DECIMAL) {
      out.ensure(40)
      this.starts[i] = out.at
      return convert(codec, bytes, at, length, out)
    }
    if (how === PADDED) while (end > at && bytes[end - 1] === 0) end--
    if (how !== PLAIN) {
      out.ensure(4)
      for (let k = 0, rest = end - at; k < size; k++, rest = Math.floor(rest / 256))
        out.u8(rest & 0xff)
    }
    this.starts[i] = out.at
    out.bytes(bytes, at, end)
  }
  /** The packed length where the value begins. */
  #length(bytes: Buffer): number {
    const at = this.#at
    const first = bytes[at]!
    const size = first < 251 ? 0 : first === 252 ? 2 : first === 253 ? 3 : 8
    this.#at = at + 1 + size
    if (size === 0) return first
    return bytes.readUIntLE(at + 1, Math.min(size, 6))
  }
}

/** Whether a result's column is what the codec reads. */
function fits({ how, wire }: Codec, type: number): boolean {
  if (how === MEMBERS) return type === t.LONGLONG
  if (how === FIXED || how === YEAR) return integers[type] === wire
  const temporal = temporals[how]
  if (temporal !== undefined) return type === temporal
  return integers[type] === undefined && !Object.values(temporals).includes(type)
}

/** A value of `length` bytes at `at`. */
function convert(
  { how, column }: Codec,
  bytes: Buffer,
  at: number,
  length: number,
  out: Out,
): void {
  const { meta } = column
  if (how === DECIMAL)
    return writePackedDecimal(
      bytes.toString('latin1', at, at + length),
      meta >> 8,
      meta & 0xff,
      out,
    )
  if (how === TIME) return writePackedTime(bytes, at, length, meta, out)
  const year = length > 0 ? bytes[at]! | (bytes[at + 1]! << 8) : 0
  const month = length > 0 ? bytes[at + 2]! : 0
  const day = length > 0 ? bytes[at + 3]! : 0
  if (how === DATE) {
    const v = (year << 9) | (month << 5) | day
    out.u8(v & 0xff)
    out.u8((v >> 8) & 0xff)
    return out.u8(v >> 16)
  }
  const timed = length > 4
  const [hour, minute, second] = timed ? [bytes[at + 4]!, bytes[at + 5]!, bytes[at + 6]!] : NO_TIME
  const micros = length > 7 ? bytes.readUInt32LE(at + 7) : 0
  if (how === TIMESTAMP) {
    const zero = year === 0 && month === 0
    const seconds = zero ? 0 : Date.UTC(year, month - 1, day, hour, minute, second) / 1000
    writeBytes(seconds, 4, out)
  } else {
    const days = (year * 13 + month) * 32 + day
    const whole = days * 131_072 + ((hour << 12) | (minute << 6) | second)
    writeBytes(whole + 0x80_0000_0000, 5, out)
  }
  writeFraction(micros, meta, out)
}
const NO_TIME = [0, 0, 0] as const

const DATES = /^(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?Z?)?$/
const HOURS_MAX = 838
/** Whether there is such a time, with as many digits behind its seconds. */
function isClock(
  [hours, minutes, seconds]: readonly (string | number | undefined)[],
  part = '',
  digits: number,
): boolean {
  const whole = Number(hours) < 24 && Number(minutes) < 60 && Number(seconds) < 60
  return whole && part.replace(/0+$/, '').length <= digits
}
/** Whether a TIMESTAMP can hold it. */
function isInstant(text: string): boolean {
  const seconds = Date.parse(`${text.replace(' ', 'T').replace(/Z?$/, 'Z')}`) / 1000
  return seconds > 0 && seconds < 2 ** 31
}
const TIMES = /^(-?)(\d{1,3}):(\d\d):(\d\d)(?:\.(\d{1,6}))?$/
/** A date or a time as MySQL prints it, an instant in UTC, as its image; false: the text is none, or the column is of another kind. */
export function writeTemporal(column: Column, text: string, out: Out): boolean {
  const codec = codecOf(column)
  const { how } = codec
  if (how < DATE) return false
  const value = Buffer.alloc(12)
  const micros = (digits: string | undefined): number => Number((digits ?? '').padEnd(6, '0'))
  const digits = how === DATE ? 0 : column.meta
  if (how === TIME) {
    const [all, sign, hours, minutes, seconds, part] = TIMES.exec(text) ?? []
    if (all === undefined || !isClock([0, minutes, seconds], part, digits)) return false
    if (Number(hours) > HOURS_MAX) return false
    value[0] = sign === '-' ? 1 : 0
    value.writeUInt32LE(Math.floor(Number(hours) / 24), 1)
    value.set([Number(hours) % 24, Number(minutes), Number(seconds)], 5)
    value.writeUInt32LE(micros(part), 8)
  } else {
    const [all, year, month, day, hours = 0, minutes = 0, seconds = 0, part] =
      DATES.exec(text) ?? []
    if (all === undefined || !isClock([hours, minutes, seconds], part, digits)) return false
    if (Number(month) > 12 || Number(day) > 31) return false
    if (how === TIMESTAMP && Number(year) > 0 && !isInstant(text)) return false
    value.writeUInt16LE(Number(year), 0)
    value.set([month, day, hours, minutes, seconds].map(Number), 2)
    value.writeUInt32LE(micros(part), 7)
  }
  out.ensure(16)
  convert(codec, value, 0, how === TIME ? 12 : 11, out)
  return true
}
/** `size` bytes, big-endian. */
function writeBytes(v: number, size: number, out: Out): void {
  const start = out.at
  out.at += size
  for (let at = out.at - 1; at >= start; at--) {
    out.buf[at] = v % 256
    v = Math.floor(v / 256)
  }
}
/** Microseconds in hundredths, ten thousandths or as they are. */
const fractionOf = (micros: number, digits: number): number =>
  fractionBytes(digits) === 1
    ? Math.floor(micros / 10_000)
    : fractionBytes(digits) === 2
      ? Math.floor(micros / 100)
      : micros
function writeFraction(micros: number, digits: number, out: Out): void {
  if (digits > 0) writeBytes(fractionOf(micros, digits), fractionBytes(digits), out)
}

/** TIME2: sign, hours, minutes, seconds and the fraction as one number, its sign bit turned round. */
function writePackedTime(
  bytes: Buffer,
  at: number,
  length: number,
  digits: number,
  out: Out,
): void {
  const extra = fractionBytes(digits)
  const scale = 256 ** extra
  let packed = 0
  if (length > 0) {
    const hours = bytes.readUInt32LE(at + 1) * 24 + bytes[at + 5]!
    const whole = (hours << 12) | (bytes[at + 6]! << 6) | bytes[at + 7]!
    const micros = length > 8 ? bytes.readUInt32LE(at + 8) : 0
    packed = whole * scale + (digits > 0 ? fractionOf(micros, digits) : 0)
    if (bytes[at] === 1) packed = -packed
  }
  writeBytes(packed + 0x80_0000 * scale, 3 + extra, out)
}

const GROUP_BYTES = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4] as const

/** The reverse of writeDecimal (number.ts), from MySQL's text. */
export function writePackedDecimal(text: string, precision: number, scale: number, out: Out): void {
  const negative = text.startsWith('-')
  const [whole = '', part = ''] = text.replace(/^[-+]/, '').split('.')
  const wholeDigits = precision - scale
  const digits = whole.replace(/^0+/, '').padStart(wholeDigits, '0') + part.padEnd(scale, '0')
  out.ensure(decimalBytes(precision, scale))
  const start = out.at
  const group = (at: number, count: number): void => {
    if (count > 0) writeBytes(Number(digits.slice(at, at + count)), GROUP_BYTES[count]!, out)
  }
  const first = wholeDigits % 9
  group(0, first)
  for (let at = first; at < wholeDigits; at += 9) group(at, 9)
  for (let at = wholeDigits; at < precision; at += 9) group(at, Math.min(9, precision - at))
  if (negative) for (let i = start; i < out.at; i++) out.buf[i]! ^= 0xff
  out.buf[start]! ^= 0x80
}

// ── JSON ─────────────────────────────────────────────────────────────────────

const QUOTE = 0x22
const BACKSLASH = 0x5c
const ESCAPES: Readonly<Record<string, number>> = { b: 8, f: 12, n: 10, r: 13, t: 9 }

/**
 * MySQL's text of a document in Canal's form: strings escaped as Canal does, doubles as Java prints them. What the text no
 * longer tells, it cannot know: a DATE inside a document is a string here, a number with a point is a double.
 */
export function writeCanalJson(bytes: Buffer, start: number, end: number, out: Out): void {
  let at = start
  while (at < end) {
    const b = bytes[at]!
    if (b === QUOTE) at = writeCanalString(bytes, at + 1, out)
    else if (b === 0x2d || (b >= 0x30 && b <= 0x39)) {
      let to = at + 1
      while (to < end && /[-+.eE0-9]/.test(String.fromCharCode(bytes[to]!))) to++
      const number = bytes.toString('latin1', at, to)
      if (/[.eE]/.test(number)) {
        out.ensure(32)
        writeJavaDouble(Number(number), out)
      } else out.ascii(number)
      at = to
    } else {
      out.ensure(1)
      out.u8(b)
      at++
    }
  }
}
/** From behind the opening quote; returns where it goes on. */
function writeCanalString(bytes: Buffer, start: number, out: Out): number {
  let at = start
  let escaped = false
  while (bytes[at] !== QUOTE) {
    if (bytes[at] === BACKSLASH) {
      escaped = true
      at++
    }
    at++
  }
  if (!escaped) writeString(bytes, start, at, false, out)
  else {
    const text = bytes
      .toString('utf8', start, at)
      .replaceAll(/\\(u[0-9a-fA-F]{4}|.)/g, (_, code: string) =>
        code.length > 1
          ? String.fromCharCode(Number.parseInt(code.slice(1), 16))
          : String.fromCharCode(ESCAPES[code] ?? code.charCodeAt(0)),
      )
    const plain = Buffer.from(text, 'utf8')
    writeString(plain, 0, plain.length, false, out)
  }
  return at + 1
}
