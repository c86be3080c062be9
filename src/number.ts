/**
 * Numbers to text without a string in between: 64-bit integers, packed decimals, and doubles and floats in the two
 * layouts needed: Java's (what Canal clients get) and MySQL's (what SELECT shows of JSON). Exact, whatever the size.
 */
import type { Out } from './out.ts'

// ── integers ─────────────────────────────────────────────────────────────────

/** Unsigned 64 bits given as two unsigned halves. Ensures room itself. */
export function writeUint64(high: number, low: number, out: Out): void {
  if (high < 0x200000) return out.int(high * 0x100000000 + low)
  out.ensure(20)
  // Divided by 10^9 sixteen bits at a time, so that no step leaves 2^53.
  const first = Math.floor(high / 1e9)
  let rest = high - first * 1e9
  let step = rest * 65_536 + (low >>> 16)
  const upper = Math.floor(step / 1e9)
  rest = step - upper * 1e9
  step = rest * 65_536 + (low & 0xffff)
  const lower = Math.floor(step / 1e9)
  out.int(first * 0x100000000 + upper * 65_536 + lower)
  digits(out, step - lower * 1e9, 9)
}

/** Signed 64 bits: the halves as in two's complement, `high` signed. Ensures room itself. */
export function writeInt64(high: number, low: number, out: Out): void {
  if (high >= 0) return writeUint64(high, low, out)
  out.ensure(21)
  out.u8(0x2d)
  const negLow = -low >>> 0
  writeUint64((~high + (negLow === 0 ? 1 : 0)) >>> 0, negLow, out)
}

/** Exactly `count` decimal digits of a number below 2^31, zeros in front. Needs room. */
function digits(out: Out, v: number, count: number): void {
  const { buf } = out
  let left = v | 0
  for (let at = (out.at += count); count > 0; count--) {
    const q = (left / 10) | 0
    buf[--at] = 0x30 + (left - q * 10)
    left = q
  }
}

// ── decimals ─────────────────────────────────────────────────────────────────

const BYTES_OF_DIGITS = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4] as const

/** Bytes of a packed decimal. */
export function decimalBytes(precision: number, scale: number): number {
  const whole = precision - scale
  const of = (n: number): number => Math.floor(n / 9) * 4 + BYTES_OF_DIGITS[n % 9]!
  return of(whole) + of(scale)
}

/**
 * A packed decimal (decimal2bin, strings/decimal.cc): groups of 9 digits in 4 bytes big-endian counted from the point
 * outwards, the outermost group of each side in as few bytes as its digits need; the first bit turned round, and every
 * bit for a negative number. Writes exactly `scale` fraction digits. Ensures room itself.
 */
export function writeDecimal(
  bytes: Buffer,
  at: number,
  precision: number,
  scale: number,
  out: Out,
): void {
  const whole = precision - scale
  out.ensure(precision + 12) // a group that no server writes has up to nine digits more than it should
  const mask = bytes[at]! & 0x80 ? 0 : 0xff
  if (mask !== 0) out.u8(0x2d)
  let flip = mask ^ 0x80 // for the very first byte
  let blank = true // nothing but zeros so far
  for (let left = whole; left > 0;) {
    const count = left % 9 || 9
    const size = BYTES_OF_DIGITS[count]!
    let v = 0
    for (let i = 0; i < size; i++) {
      v = v * 256 + (bytes[at++]! ^ flip)
      flip = mask
    }
    left -= count
    if (!blank) digits(out, v, count)
    else if (v !== 0) {
      out.int(v)
      blank = false
    }
  }
  if (blank) out.u8(0x30)
  if (scale === 0) return
  out.u8(0x2e)
  for (let left = scale; left > 0;) {
    const count = left < 9 ? left : 9
    const size = BYTES_OF_DIGITS[count]!
    let v = 0
    for (let i = 0; i < size; i++) {
      v = v * 256 + (bytes[at++]! ^ flip)
      flip = mask
    }
    left -= count
    digits(out, v, count)
  }
}

// ── doubles and floats ───────────────────────────────────────────────────────

/**
 * How Java prints (Double.toString of JDK 19 and later): plain from 10^-3 up to 10^7, else "1.0E10"; the fewest digits
 * that mean this double, but at least two, and of those the nearest to it.
 */
export function writeJavaDouble(x: number, out: Out): void {
  if (writePlain(x, 1e7, 1e15, out)) return
  if (writeSpecial(x, out)) return
  java(x, x.toExponential(), out)
}

/** The same for a float: as few digits as tell it from its neighbouring floats. `x` must be a float's value. */
export function writeJavaFloat(x: number, out: Out): void {
  if (writePlain(x, 1e7, 1e6, out)) return
  if (writeSpecial(x, out)) return
  java(x, shortestFloat(x), out)
}

/**
 * How MySQL prints a double inside JSON (my_gcvt, strings/dtoa.cc): plain while the point lies within 15 places of the
 * first digit or within the digits, else "1.5e20"; a plain whole number gets ".0" (not in MySQL 5.7).
 */
export function writeMysqlDouble(x: number, out: Out): void {
  if (writePlain(x, 1e11, 1e15, out)) return
  if (writeSpecial(x, out)) return
  const text = x.toExponential()
  const digits = mantissa(text)
  const point = exponent(text) + 1
  const plain = point >= -14 && (point <= 15 || digits.length > point)
  if (x < 0) out.ascii('-')
  if (plain) return layout(digits, point, out)
  out.ascii(digits.length === 1 ? digits : `${digits[0]!}.${digits.slice(1)}`)
  out.ascii(`e${point - 1}`)
}

/**
 * The common case without a string: a number below `limit` that four fraction digits describe exactly. With fewer
 * than 16 (float: 7) significant digits no other text that short means the same number.
 */
function writePlain(x: number, limit: number, digitsMax: number, out: Out): boolean {
  const abs = x < 0 ? -x : x
  if (!(abs >= 1e-3 && abs < limit)) return false
  const scaled = Math.round(abs * 1e4)
  if (scaled >= digitsMax) return false
  const back = scaled / 1e4
  if (back !== abs && (digitsMax > 1e6 || Math.fround(back) !== abs)) return false
  const whole = Math.floor(scaled / 1e4)
  let rest = scaled - whole * 1e4
  out.ensure(24)
  if (x < 0) out.u8(0x2d)
  out.int(whole)
  out.u8(0x2e)
  let count = 4
  for (; count > 1 && rest % 10 === 0; count--) rest /= 10
  digits(out, rest, count)
  return true
}

function writeSpecial(x: number, out: Out): boolean {
  if (x === 0) out.ascii(Object.is(x, -0) ? '-0.0' : '0.0')
  else if (Number.isFinite(x)) return false
  else out.ascii(String(x))
  return true
}

/** `shortest` is the toExponential() text with the fewest digits. */
function java(x: number, shortest: string, out: Out): void {
  let digits = mantissa(shortest)
  let power = exponent(shortest)
  if (digits.length === 1) {
    // The smallest numbers: 4.9E-324, not 5.0E-324.
    const nearest = x.toExponential(1)
    digits = mantissa(nearest).replace(/0$/, '')
    power = exponent(nearest)
  }
  if (x < 0) out.ascii('-')
  if (power >= -3 && power < 7) return layout(digits, power + 1, out)
  out.ascii(`${digits[0]!}.${digits.length > 1 ? digits.slice(1) : '0'}E${power}`)
}

const mantissa = (text: string): string => text.slice(0, text.indexOf('e')).replace(/[-.]/g, '')
const exponent = (text: string): number => Number(text.slice(text.indexOf('e') + 1))

/** Digits with the point before digit `point` (may lie outside them), at least one digit on each side of it. */
function layout(digits: string, point: number, out: Out): void {
  if (point <= 0) return out.ascii(`0.${'0'.repeat(-point)}${digits}`)
  if (point >= digits.length) return out.ascii(`${digits}${'0'.repeat(point - digits.length)}.0`)
  out.ascii(`${digits.slice(0, point)}.${digits.slice(point)}`)
}

/**
 * The shortest toExponential() text that rounds to the float `x`, the nearest one among equally short. At a power of
 * two the floats above are twice as far apart as those below, so the nearest text can miss where the next one hits.
 */
function shortestFloat(x: number): string {
  const abs = Math.abs(x)
  for (let count = 0; count < 8; count++) {
    const text = halfToEven(abs, count)
    if (Math.fround(Number(text)) === abs) return text
    const above = `${Number(mantissa(text)) + 1}e${exponent(text) - count}`
    if (Math.fround(Number(above)) === abs) return Number(above).toExponential()
  }
  return abs.toExponential(8)
}

/** toExponential(), but a tie goes to the even digit. */
function halfToEven(abs: number, count: number): string {
  const text = abs.toExponential(count)
  const last = text.charCodeAt(text.indexOf('e') - 1)
  if (last % 2 === 0) return text
  const exact = mantissa(abs.toExponential(100))
  if (!/^50*$/.test(exact.slice(count + 1))) return text
  return text.replace(/.e/, `${String.fromCharCode(last - 1)}e`)
}
