/**
 * Values that only MariaDB stores: addresses and UUIDs as text, values of COMPRESSED columns unpacked, and the temporal
 * types with a fraction as MariaDB had them before MySQL's (mysql56_temporal_format=OFF; tables made so keep them).
 * Pure: bytes to text. Layouts: sql/field.cc, sql/sql_type_inet.cc, plugin/type_uuid of MariaDB 11.
 */
import { inflateRawSync, inflateSync } from 'node:zlib'
import type { TextWriter, ValueReader } from '../../change.ts'
import { columnTypes } from '../table-map.ts'
import { SluiceError } from '../../errors.ts'
import { clock, date, fraction, writeInstant, type TimeZone } from '../time.ts'

// ── uuid, inet4, inet6 ───────────────────────────────────────────────────────

/** The bytes of a type with a fixed length, whose zeros at the end are not logged. */
const byteAt = (bytes: Buffer, at: number, end: number, i: number): number =>
  at + i < end ? bytes[at + i]! : 0

const DIGITS = '0123456789abcdef'
const writeUuid: TextWriter = (bytes, at, end, out) => {
  out.ensure(36)
  for (let i = 0; i < 16; i++) {
    if (i === 4 || i === 6 || i === 8 || i === 10) out.u8(0x2d)
    const byte = byteAt(bytes, at, end, i)
    out.u8(DIGITS.charCodeAt(byte >> 4))
    out.u8(DIGITS.charCodeAt(byte & 15))
  }
}

const writeInet4: TextWriter = (bytes, at, end, out) => {
  for (let i = 0; i < 4; i++) {
    if (i > 0) out.u8(0x2e)
    out.int(byteAt(bytes, at, end, i))
  }
}

/** As inet_ntop does: the longest run of zeros as "::", the last four bytes of mapped and compatible ones as IPv4. */
const writeInet6: TextWriter = (bytes, at, end, out) => {
  const words = Array.from(
    { length: 8 },
    (_, i) => (byteAt(bytes, at, end, i * 2) << 8) | byteAt(bytes, at, end, i * 2 + 1),
  )
  let gap = -1
  let length = 0
  for (let i = 0; i < 8; i++) {
    let run = 0
    while (i + run < 8 && words[i + run] === 0) run++
    if (run > length) [gap, length] = [i, run]
    i += run
  }
  const ipv4 = gap === 0 && (length === 6 || (length === 5 && words[5] === 0xffff))
  out.ensure(48)
  for (let i = 0; i < 8; i++) {
    if (i === gap) {
      out.ascii('::')
      i += length - 1
      continue
    }
    if (i > 0 && (gap < 0 || i !== gap + length)) out.u8(0x3a)
    if (ipv4 && i === 6) return writeInet4(bytes, at + 12, end, out)
    out.ascii(words[i]!.toString(16))
  }
}

/** Types that stand as BINARY(n) in the log, by the name the catalog has for them. */
const fixedTexts: Readonly<Record<string, TextWriter>> = {
  uuid: writeUuid,
  inet6: writeInet6,
  inet4: writeInet4,
}

/** What the log has of a text of such a type; undefined for all others. Throws what was expected. */
export function addressBytes(mysqlType: string, text: string): Buffer | undefined {
  if (mysqlType === 'uuid') {
    const hex = text.replaceAll('-', '')
    if (/^[\da-f]{32}$/i.test(hex)) return Buffer.from(hex, 'hex')
    throw new Error('a UUID')
  }
  if (mysqlType === 'inet4') {
    const four = text.split('.').map(Number)
    if (four.length === 4 && four.every((n) => n >= 0 && n < 256)) return Buffer.from(four)
    throw new Error('an IPv4 address')
  }
  if (mysqlType !== 'inet6') return undefined
  const plain = text.replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_, ...four) => {
    const [a, b, c, d] = four.map((n) => Number(n).toString(16).padStart(2, '0'))
    return `${a}${b}:${c}${d}`
  })
  const [left = [], right] = plain.split('::').map((side) => (side === '' ? [] : side.split(':')))
  const zeros = right === undefined ? 0 : 8 - left.length - right.length
  const words = [...left, ...Array.from({ length: zeros }, () => '0'), ...(right ?? [])]
  if (words.length === 8 && words.every((word) => /^[\da-f]{1,4}$/i.test(word)))
    return Buffer.from(words.map((word) => word.padStart(4, '0')).join(''), 'hex')
  throw new Error('an IPv6 address')
}

// ── COMPRESSED columns ───────────────────────────────────────────────────────

const VALUE_MAX = 1024 * 1024 * 1024
const EMPTY = Buffer.alloc(0)

/**
 * The value in bytes[at, end), unpacked:  nothing (empty), or u8 0 · the value, or
 *   u8 128 | 8 (without zlib's own header) | count of length bytes · length, big-endian · deflated value
 * Throws ROWS_MALFORMED.
 */
function inflateValue(bytes: Buffer, at: number, end: number): Buffer {
  if (at >= end) return EMPTY
  const mark = bytes[at]!
  if (mark === 0) return bytes.subarray(at + 1, end)
  const lengthBytes = mark & 7
  const data = at + 1 + lengthBytes
  if ((mark & 0xf0) !== 0x80 || lengthBytes < 1 || lengthBytes > 4 || data > end)
    throw malformed(`a compressed value to begin with 0 or 129 to 140, found ${mark}`)
  const length = bytes.readUIntBE(at + 1, lengthBytes)
  if (length > VALUE_MAX) throw malformed(`a value below 1 GiB, found ${length} bytes`)
  const options = { maxOutputLength: Math.max(length, 1) }
  const packed = bytes.subarray(data, end)
  let value: Buffer
  try {
    value = (mark & 8) !== 0 ? inflateRawSync(packed, options) : inflateSync(packed, options)
  } catch (cause) {
    throw malformed(`a value that unpacks to ${length} bytes: ${String(cause)}`, cause)
  }
  if (value.length !== length) throw malformed(`${length} unpacked bytes, found ${value.length}`)
  return value
}

/** A writer and a reader of plain values, for packed ones. */
export const inflatedText =
  (write: TextWriter): TextWriter =>
  (bytes, at, end, out) => {
    const value = inflateValue(bytes, at, end)
    write(value, 0, value.length, out)
  }
export const inflatedValue =
  (read: ValueReader): ValueReader =>
  (bytes, at, end) => {
    const value = inflateValue(bytes, at, end)
    return read(value, 0, value.length)
  }

function malformed(expected: string, cause?: unknown): SluiceError {
  return new SluiceError('ROWS_MALFORMED', `COMPRESSED column: expected ${expected}`, { cause })
}

// ── temporal types with a fraction, before MySQL's form of them ──────────────

const TIME_BYTES = [3, 4, 4, 5, 5, 5, 6]
const DATETIME_BYTES = [5, 6, 6, 7, 7, 7, 8]
const TIMESTAMP_BYTES = [4, 5, 5, 6, 6, 7, 7]

interface Fractional {
  readonly bytes: (digits: number) => number
  readonly write: (digits: number, zone: TimeZone) => TextWriter
}

const scaled = (micros: bigint, digits: number): bigint => micros / 10n ** BigInt(6 - digits)
function bigEndian(bytes: Buffer, at: number, end: number): bigint {
  let value = 0n
  for (; at < end; at++) value = (value << 8n) | BigInt(bytes[at]!)
  return value
}
const fractionOf = (value: bigint, digits: number): number =>
  Number((value % 10n ** BigInt(digits)) * 10n ** BigInt(6 - digits))

/** 839 hours in the unit of the column stand for 0, so that negative ones sort first. */
const time: Fractional = {
  bytes: (digits) => TIME_BYTES[digits]!,
  write: (digits) => {
    const zero = scaled(839n * 3600n * 1_000_000n, digits)
    return (bytes, at, end, out) => {
      let value = bigEndian(bytes, at, end) - zero
      out.ensure(24)
      if (value < 0n) {
        out.u8(0x2d)
        value = -value
      }
      const seconds = Number(value / 10n ** BigInt(digits))
      clock(out, Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60)
      fraction(out, fractionOf(value, digits), digits)
    }
  },
}

/** ((((year · 13 + month) · 32 + day) · 24 + hour) · 60 + minute) · 60 + second, and the fraction. */
const datetime: Fractional = {
  bytes: (digits) => DATETIME_BYTES[digits]!,
  write: (digits) => (bytes, at, end, out) => {
    const value = bigEndian(bytes, at, end)
    out.ensure(32)
    const seconds = Number(value / 10n ** BigInt(digits))
    const days = Math.floor(seconds / 86_400)
    const months = days >> 5
    date(out, Math.floor(months / 13), months % 13, days & 31)
    out.u8(0x20)
    clock(out, Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60, seconds % 60)
    fraction(out, fractionOf(value, digits), digits)
  },
}

/** Seconds since 1970, big-endian, and the fraction in as many bytes as it needs. */
const timestamp: Fractional = {
  bytes: (digits) => TIMESTAMP_BYTES[digits]!,
  write: (digits, zone) => (bytes, at, end, out) => {
    const seconds = bytes.readUInt32BE(at)
    writeInstant(seconds, zone, out)
    const part = at + 4 < end ? bytes.readUIntBE(at + 4, end - at - 4) : 0
    fraction(out, part * 10 ** (6 - digits), digits)
  },
}

const OLD: Readonly<Record<number, readonly [base: string, kind: Fractional]>> = {
  [columnTypes.TIME]: ['time', time],
  [columnTypes.DATETIME]: ['datetime', datetime],
  [columnTypes.TIMESTAMP]: ['timestamp', timestamp],
}

/** How a value stands in a row image (as Column.size) and how it becomes text. */
export interface DefinedText {
  readonly size: number
  readonly write: (zone: TimeZone) => TextWriter
}

/** For a type that only the definition tells, as the table map has a plainer one for it; undefined for all others. */
export function definedText(type: number, mysqlType: string): DefinedText | undefined {
  if (type === columnTypes.STRING) {
    const write = fixedTexts[mysqlType]
    return write && { size: -1, write: () => write }
  }
  const old = OLD[type]
  if (!old) return undefined
  const [, base, digits = '0'] = /^([a-z]+)\((\d)\)/.exec(mysqlType) ?? []
  const [name, kind] = old
  if (base !== name || digits === '0') return undefined
  return { size: kind.bytes(Number(digits)), write: (zone) => kind.write(Number(digits), zone) }
}
