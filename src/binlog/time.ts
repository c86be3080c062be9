/**
 * MySQL's temporal types: packed bytes to the text MySQL prints, and the time zones TIMESTAMP needs for it.
 * Guarantees exactly the fraction digits of the column, zero and partly zero dates as stored, and the offset in force
 * at each instant, right up to both edges of a clock change. Knows no column and no clock.
 */
import { SluiceError } from '../errors.ts'
import type { Out } from '../out.ts'

// ── time zones ───────────────────────────────────────────────────────────────

export interface TimeZone {
  readonly name: string
  /** Seconds east of UTC in force at `seconds` since 1970. */
  offset(seconds: number): number
}

const OFFSET = /^([+-])(\d{1,2}):(\d{2})$/

/**
 * A fixed offset as MySQL allows it ('-13:59' to '+14:00'), 'UTC', or an IANA name ('Europe/Berlin'). 'SYSTEM' means
 * nothing here: the caller resolves it first. Throws CONFIG_INVALID for anything else.
 */
export function parseTimeZone(text: string): TimeZone {
  const name = text.trim()
  const fixed = OFFSET.exec(name)
  if (fixed) {
    const minutes = (Number(fixed[2]) * 60 + Number(fixed[3])) * (fixed[1] === '-' ? -1 : 1)
    if (Number(fixed[3]) < 60 && minutes >= -(13 * 60 + 59) && minutes <= 14 * 60)
      return { name, offset: () => minutes * 60 }
    throw unknownZone(text)
  }
  if (/^(UTC|GMT|Z)$/i.test(name)) return { name: 'UTC', offset: () => 0 }
  let format: Intl.DateTimeFormat
  try {
    if (!/^[A-Za-z]/.test(name) || /^system$/i.test(name)) throw new Error('not a zone name')
    format = new Intl.DateTimeFormat('en-US', { ...zoneFields, timeZone: name })
  } catch (cause) {
    throw unknownZone(text, cause)
  }
  return new NamedZone(name, format)
}

function unknownZone(text: string, cause?: unknown): SluiceError {
  const message = `time zone ${JSON.stringify(text)}: expected an offset from -13:59 to +14:00, UTC, or an IANA name such as Europe/Berlin`
  return new SluiceError('CONFIG_INVALID', message, { cause })
}

const zoneFields: Intl.DateTimeFormatOptions = {
  calendar: 'gregory',
  numberingSystem: 'latn',
  hourCycle: 'h23',
  year: 'numeric',
  month: '2-digit',
  day: '2-digit',
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
}

/** Six days: no zone has changed its offset twice within one of these and come back to where it was. */
const BLOCK_SECONDS = 2 ** 19

/** The offsets of one block: `before` up to `change`, `after` from it on. */
interface Block {
  readonly before: number
  readonly change: number
  readonly after: number
}

/** Asks Intl once per block of time, finds the exact second of a change by halving, and remembers. */
class NamedZone implements TimeZone {
  readonly name: string
  readonly #format: Intl.DateTimeFormat
  readonly #blocks = new Map<number, Block>()
  #number = Number.NaN
  #block: Block = { before: 0, change: Infinity, after: 0 }

  constructor(name: string, format: Intl.DateTimeFormat) {
    this.name = name
    this.#format = format
  }
  offset(seconds: number): number {
    const number = Math.floor(seconds / BLOCK_SECONDS)
    if (number !== this.#number) {
      let block = this.#blocks.get(number)
      if (block === undefined)
        this.#blocks.set(number, (block = this.#load(number * BLOCK_SECONDS)))
      this.#block = block
      this.#number = number
    }
    const block = this.#block
    return seconds < block.change ? block.before : block.after
  }
  #load(start: number): Block {
    const before = this.#ask(start)
    const after = this.#ask(start + BLOCK_SECONDS)
    if (before === after) return { before, change: Infinity, after }
    let low = start
    let high = start + BLOCK_SECONDS
    while (high - low > 1) {
      const middle = (low + high) >>> 1
      if (this.#ask(middle) === before) low = middle
      else high = middle
    }
    return { before, change: high, after: this.#ask(high) }
  }
  #ask(seconds: number): number {
    const field: Record<string, number> = {}
    for (const part of this.#format.formatToParts(seconds * 1000))
      field[part.type] = Number(part.value)
    const { year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0 } = field
    return Date.UTC(year, month - 1, day, hour, minute, second) / 1000 - seconds
  }
}

// ── text ─────────────────────────────────────────────────────────────────────

/** Bytes that hold the fraction of a temporal type with this many digits. */
export const fractionBytes = (digits: number): number => (digits + 1) >> 1

function two(out: Out, v: number): void {
  const { buf } = out
  const tens = (v / 10) | 0
  buf[out.at++] = 0x30 + tens
  buf[out.at++] = 0x30 + (v - tens * 10)
}

/** YYYY-MM-DD. Needs 10 bytes of room. */
export function date(out: Out, year: number, month: number, day: number): void {
  two(out, (year / 100) | 0)
  two(out, year % 100)
  out.u8(0x2d)
  two(out, month)
  out.u8(0x2d)
  two(out, day)
}

/** HH:MM:SS, the hour with a third digit when it has one. Needs 9 bytes of room. */
export function clock(out: Out, hour: number, minute: number, second: number): void {
  if (hour > 99) out.u8(0x30 + ((hour / 100) | 0))
  two(out, hour % 100)
  out.u8(0x3a)
  two(out, minute)
  out.u8(0x3a)
  two(out, second)
}

/** ".ffffff" cut to `digits`. Needs 7 bytes of room. */
export function fraction(out: Out, micros: number, digits: number): void {
  if (digits === 0) return
  out.u8(0x2e)
  for (let power = 100_000, i = 0; i < digits; i++, power /= 10) {
    const digit = (micros / power) | 0
    out.u8(0x30 + digit)
    micros -= digit * power
  }
}

/** What stands behind the whole seconds, big-endian in hundredths, ten thousandths or millionths, as microseconds. */
function micros(bytes: Buffer, at: number, digits: number): number {
  switch (fractionBytes(digits)) {
    case 0:
      return 0
    case 1:
      return bytes[at]! * 10_000
    case 2:
      return ((bytes[at]! << 8) | bytes[at + 1]!) * 100
    default:
      return (bytes[at]! << 16) | (bytes[at + 1]! << 8) | bytes[at + 2]!
  }
}

/** DATE (Field_newdate, sql/field.cc): 3 bytes little-endian, year 15 bits, month 4, day 5. */
export function writeDate(bytes: Buffer, at: number, out: Out): void {
  out.ensure(10)
  const v = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16)
  date(out, v >> 9, (v >> 5) & 15, v & 31)
}

/**
 * TIME2 (my_time_packed_to_binary, mysys/my_time.cc): 3 bytes big-endian and the fraction, together one number with
 * the sign bit turned round; its magnitude is sign 1, unused 1, hour 10, minute 6, second 6 bits, then the fraction.
 */
export function writeTime2(bytes: Buffer, at: number, digits: number, out: Out): void {
  out.ensure(20)
  const extra = fractionBytes(digits)
  let raw = ((bytes[at]! << 16) | (bytes[at + 1]! << 8) | bytes[at + 2]!) - 0x800000
  let scale = 1
  for (let i = 0; i < extra; i++) {
    raw = raw * 256 + bytes[at + 3 + i]!
    scale *= 256
  }
  if (raw < 0) {
    out.u8(0x2d)
    raw = -raw
  }
  const whole = Math.floor(raw / scale)
  clock(out, (whole >> 12) & 0x3ff, (whole >> 6) & 63, whole & 63)
  fraction(out, (raw - whole * scale) * (extra === 1 ? 10_000 : extra === 2 ? 100 : 1), digits)
}

/** DATETIME2: 5 bytes big-endian (sign 1, year * 13 + month 17, day 5, hour 5, minute 6, second 6 bits), the fraction. */
export function writeDatetime2(bytes: Buffer, at: number, digits: number, out: Out): void {
  out.ensure(28)
  const b2 = bytes[at + 2]!
  const b3 = bytes[at + 3]!
  const b4 = bytes[at + 4]!
  const months = ((bytes[at]! & 0x7f) << 10) | (bytes[at + 1]! << 2) | (b2 >> 6)
  const year = (months / 13) | 0
  date(out, year, months - year * 13, (b2 >> 1) & 31)
  out.u8(0x20)
  clock(out, ((b2 & 1) << 4) | (b3 >> 4), ((b3 & 15) << 2) | (b4 >> 6), b4 & 63)
  fraction(out, micros(bytes, at + 5, digits), digits)
}

/** TIMESTAMP2: 4 bytes big-endian seconds since 1970 in UTC, the fraction. 0 is the zero date in every zone. */
export function writeTimestamp2(
  bytes: Buffer,
  at: number,
  digits: number,
  zone: TimeZone,
  out: Out,
): void {
  const seconds =
    ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0
  writeInstant(seconds, zone, out)
  fraction(out, micros(bytes, at + 4, digits), digits)
}

/** The pre-5.6 TIMESTAMP: 4 bytes little-endian seconds since 1970 in UTC. */
export function writeTimestamp(bytes: Buffer, at: number, zone: TimeZone, out: Out): void {
  writeInstant(bytes.readUInt32LE(at), zone, out)
}

/** The pre-5.6 TIME: 3 bytes little-endian, signed, the decimal number HHMMSS. */
export function writeTime(bytes: Buffer, at: number, out: Out): void {
  out.ensure(12)
  let v = ((bytes[at]! << 8) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 24)) >> 8
  if (v < 0) {
    out.u8(0x2d)
    v = -v
  }
  clock(out, Math.floor(v / 10_000), Math.floor(v / 100) % 100, v % 100)
}

/** The pre-5.6 DATETIME: 8 bytes little-endian, the decimal number YYYYMMDDHHMMSS. */
export function writeDatetime(bytes: Buffer, at: number, out: Out): void {
  out.ensure(24)
  const v = bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * 2 ** 32
  const day = Math.floor(v / 1_000_000)
  const time = v - day * 1_000_000
  date(out, Math.floor(day / 10_000) % 10_000, Math.floor(day / 100) % 100, day % 100)
  out.u8(0x20)
  clock(out, Math.floor(time / 10_000), Math.floor(time / 100) % 100, time % 100)
}

let knownDay = Number.NaN // days since 1970 of the date below: neighbouring rows share it
let knownYear = 0
let knownMonth = 0
let knownDate = 0

/** Seconds since 1970 as local date and time; ensures room for the fraction too. */
export function writeInstant(seconds: number, zone: TimeZone, out: Out): void {
  out.ensure(28)
  if (seconds === 0) return out.ascii('0000-00-00 00:00:00')
  const local = seconds + zone.offset(seconds)
  const day = Math.floor(local / 86_400)
  const second = local - day * 86_400
  if (day !== knownDay) setKnownDay(day)
  date(out, knownYear, knownMonth, knownDate)
  out.u8(0x20)
  clock(out, (second / 3600) | 0, ((second / 60) | 0) % 60, second % 60)
}

/** Civil date of a day number, counted in 400-year cycles of years that begin in March. */
function setKnownDay(day: number): void {
  const shifted = day + 719_468
  const cycle = Math.floor(shifted / 146_097)
  const inCycle = shifted - cycle * 146_097
  const year =
    ((inCycle - ((inCycle / 1460) | 0) + ((inCycle / 36_524) | 0) - ((inCycle / 146_096) | 0)) /
      365) |
    0
  const inYear = inCycle - (365 * year + (year >> 2) - ((year / 100) | 0))
  const march = ((5 * inYear + 2) / 153) | 0
  knownDay = day
  knownDate = inYear - (((153 * march + 2) / 5) | 0) + 1
  knownMonth = march < 10 ? march + 3 : march - 9
  knownYear = year + cycle * 400 + (knownMonth <= 2 ? 1 : 0)
}

/**
 * Packed dates and times inside binary JSON: an 8-byte little-endian integer, 24 bits of microseconds at the bottom
 * (my_time.h). Above them DATETIME as in DATETIME2 above, TIME as in TIME2, its whole value negated for negatives.
 */
export function writePackedDatetime(bytes: Buffer, at: number, digits: number, out: Out): void {
  out.ensure(28)
  const low = bytes.readUInt32LE(at)
  const whole = (bytes.readUInt32LE(at + 4) & 0x7fffffff) * 256 + (low >>> 24)
  writePackedDay(whole, out)
  out.u8(0x20)
  const time = whole % 0x20000
  clock(out, time >> 12, (time >> 6) & 63, time & 63)
  fraction(out, low & 0xffffff, digits)
}
export function writePackedDate(bytes: Buffer, at: number, out: Out): void {
  out.ensure(10)
  writePackedDay((bytes.readUInt32LE(at + 4) & 0x7fffffff) * 256 + bytes[at + 3]!, out)
}
function writePackedDay(whole: number, out: Out): void {
  const day = Math.floor(whole / 0x20000)
  const months = day >> 5
  date(out, Math.floor(months / 13) % 10_000, months % 13, day & 31)
}
export function writePackedTime(bytes: Buffer, at: number, out: Out): void {
  out.ensure(20)
  let packed = bytes.readInt32LE(at + 4) * 2 ** 32 + bytes.readUInt32LE(at)
  if (packed < 0) {
    out.u8(0x2d)
    packed = -packed
  }
  const whole = Math.floor(packed / 0x1000000)
  clock(out, (whole >> 12) & 0x3ff, (whole >> 6) & 63, whole & 63)
  fraction(out, packed % 0x1000000, 6)
}
