/**
 * Values of row images → text, in WebAssembly: what rows.ts and lines.ts beside it share. AssemblyScript, not TypeScript:
 * `npm run native` compiles it into src/server/rows/wasm.ts, which is checked in, so nobody needs a compiler to run,
 * test or package Sluice. A test holds the two together.
 *
 * Knows the usual types only. What it does not know it leaves to `text`, an import, value by value. Every value becomes at
 * most 8 times as long; the output lies last in the memory, so what nobody reckoned with ends as a trap.
 *
 * Memory: tables made by tables() of src/server/rows/kernel.ts there · a job (lines.ts) · program · input · output.
 */

/** Lets the writer `number` of the program write the text of the value in [from, end) to `to`; returns where it ends. */
@external('m', 't')
declare function text(number: i32, from: i32, end: i32, to: i32): i32

const PAIRS = 0 // two digits of 0 to 511, as two bytes
const ESCAPED = 1024 // by byte: 1 where a JSON string of Canal's has an escape for it
const LETTERS = 1280 // by byte: the letter of the escape in a JSON string, u for \u00xx, 0 for none

/** Kinds, as in src/server/rows/kernel.ts. */
export const SKIPPED = 0
export const OTHER = 1
export const SIGNED = 2
export const UNSIGNED = 3
export const UTF8 = 4
export const LATIN1 = 5
export const DECIMAL = 6
export const DATE = 7
export const TIME2 = 8
export const DATETIME2 = 9
export const JSON = 10

export let refused: bool = false // a value that no server writes: the caller's own way shows it as it always did
let plain: bool = false // JSON documents as MySQL prints them, not as Canal does

export function begin(asMysql: bool): void {
  refused = false
  plain = asMysql
}

/** Copies in pieces of sixteen: up to fifteen bytes more than asked for. */
@inline
export function copy(from: i32, length: i32, at: i32): i32 {
  for (let i = 0; i < length; i += 16) v128.store(at + i, v128.load(from + i))
  return at + length
}
/** Copies exactly. */
export function copyBytes(from: i32, length: i32, at: i32): i32 {
  if (length > 256) memory.copy(at, from, length)
  else copy(from, length, at)
  return at + length
}


// ── numbers ──────────────────────────────────────────────────────────────────

@inline
function pair(v: u32, at: i32): void {
  store<u16>(at, load<u16>(PAIRS + v * 2))
}
@inline
function digitsOf(v: u32): i32 {
  if (v < 100_000) return v < 100 ? (v < 10 ? 1 : 2) : v < 1000 ? 3 : v < 10_000 ? 4 : 5
  if (v < 10_000_000) return v < 1_000_000 ? 6 : 7
  return v < 100_000_000 ? 8 : v < 1_000_000_000 ? 9 : 10
}
function small(v: u32, at: i32): i32 {
  const end = at + digitsOf(v)
  let p = end
  while (v >= 100) {
    const q = v / 100
    p -= 2
    pair(v - q * 100, p)
    v = q
  }
  if (v > 9) pair(v, p - 2)
  else store<u8>(p - 1, 0x30 + v)
  return end
}
/** Exactly `digits` digits of v. */
function padded(v: u32, digits: i32, at: i32): i32 {
  let p = at + digits
  while (p - at >= 2) {
    const q = v / 100
    p -= 2
    pair(v - q * 100, p)
    v = q
  }
  if (p > at) store<u8>(at, 0x30 + (v % 10))
  return at + digits
}
export function unsigned(v: u64, at: i32): i32 {
  if (v <= 0xffffffff) return small(u32(v), at)
  const high = v / 1_000_000_000
  const low = u32(v - high * 1_000_000_000)
  return padded(low, 9, high <= 0xffffffff ? small(u32(high), at) : unsigned(high, at))
}
export function signed(v: i64, at: i32): i32 {
  if (v >= 0) return unsigned(u64(v), at)
  store<u8>(at, 0x2d)
  return unsigned(u64(-v), at + 1)
}
/** Little-endian, of 1 to 8 bytes. */
export function integer(from: i32, size: i32): u64 {
  switch (size) {
    case 1:
      return load<u8>(from)
    case 2:
      return load<u16>(from)
    case 4:
      return load<u32>(from)
    case 8:
      return load<u64>(from)
  }
  let v: u64 = 0
  for (let i = size - 1; i >= 0; i--) v = (v << 8) | load<u8>(from + i)
  return v
}

/** As writeDecimal of src/number.ts. */
function decimal(from: i32, precision: i32, scale: i32, at: i32): i32 {
  const mask: u32 = load<u8>(from) & 0x80 ? 0 : 0xff
  if (mask !== 0) store<u8>(at++, 0x2d)
  let flip: u32 = mask ^ 0x80
  let blank = true
  for (let left = precision - scale; left > 0; ) {
    const digits = left % 9 === 0 ? 9 : left % 9
    let v: u32 = 0
    for (let size = (digits + 1) >> 1 < 4 ? (digits + 1) >> 1 : 4; size > 0; size--) {
      v = (v << 8) | (load<u8>(from++) ^ flip)
      flip = mask
    }
    if (v > 0x7fffffff) refused = true
    left -= digits
    if (!blank) at = padded(v, digits, at)
    else if (v !== 0) {
      at = small(v, at)
      blank = false
    }
  }
  if (blank) store<u8>(at++, 0x30)
  if (scale === 0) return at
  store<u8>(at++, 0x2e)
  for (let left = scale; left > 0; ) {
    const digits = left < 9 ? left : 9
    let v: u32 = 0
    for (let size = (digits + 1) >> 1 < 4 ? (digits + 1) >> 1 : 4; size > 0; size--) {
      v = (v << 8) | (load<u8>(from++) ^ flip)
      flip = mask
    }
    if (v > 0x7fffffff) refused = true
    left -= digits
    at = padded(v, digits, at)
  }
  return at
}

// ── dates and times, as in src/binlog/time.ts ────────────────────────────────

function day(year: u32, month: u32, date: u32, at: i32): i32 {
  pair(year / 100, at)
  pair(year % 100, at + 2)
  store<u8>(at, 0x2d, 4)
  pair(month, at + 5)
  store<u8>(at, 0x2d, 7)
  pair(date, at + 8)
  return at + 10
}
function clock(hour: u32, minute: u32, second: u32, at: i32): i32 {
  if (hour > 99) store<u8>(at++, 0x30 + hour / 100)
  pair(hour % 100, at)
  store<u8>(at, 0x3a, 2)
  pair(minute, at + 3)
  store<u8>(at, 0x3a, 5)
  pair(second, at + 6)
  return at + 8
}
/** `value` stands in as many bytes as `digits` need: hundredths, ten thousandths or millionths. */
function fraction(value: u32, digits: i32, at: i32): i32 {
  if (digits === 0) return at
  if (value >= (digits < 3 ? 100 : digits < 5 ? 10_000 : u32(1_000_000))) refused = true
  store<u8>(at, 0x2e)
  padded(value, (digits + 1) & ~1, at + 1)
  return at + 1 + digits
}
function bigEndian(from: i32, size: i32): u32 {
  let v: u32 = 0
  for (let i = 0; i < size; i++) v = (v << 8) | load<u8>(from + i)
  return v
}
function date(from: i32, at: i32): i32 {
  const v = u32(load<u16>(from)) | (u32(load<u8>(from, 2)) << 16)
  return day(v >> 9, (v >> 5) & 15, v & 31, at)
}
function datetime2(from: i32, digits: i32, at: i32): i32 {
  const v = u32(bswap(load<u32>(from)))
  const months = (v & 0x7fffffff) >> 14
  const low = (v << 8) | load<u8>(from, 4) // day 5 bits from bit 25 on, hour 5, minute 6, second 6 bits
  at = day(months / 13, months % 13, (low >> 17) & 31, at)
  store<u8>(at, 0x20)
  at = clock((low >> 12) & 31, (low >> 6) & 63, low & 63, at + 1)
  return fraction(bigEndian(from + 5, (digits + 1) >> 1), digits, at)
}
function time2(from: i32, digits: i32, at: i32): i32 {
  const extra = (digits + 1) >> 1
  const bits = extra * 8
  let raw = i64(bigEndian(from, 3)) - 0x800000
  raw = (raw << bits) + i64(bigEndian(from + 3, extra))
  if (raw < 0) {
    store<u8>(at++, 0x2d)
    raw = -raw
  }
  const whole = u32(raw >> bits)
  at = clock((whole >> 12) & 0x3ff, (whole >> 6) & 63, whole & 63, at)
  return fraction(u32(raw & ((i64(1) << bits) - 1)), digits, at)
}

// ── strings ──────────────────────────────────────────────────────────────────

export function latin1(from: i32, end: i32, at: i32): i32 {
  while (end - from >= 16) {
    const v = v128.load(from)
    if (i8x16.bitmask(v) !== 0) break
    v128.store(at, v)
    from += 16
    at += 16
  }
  for (; from < end; from++) {
    const b = load<u8>(from)
    if (b < 0x80) store<u8>(at++, b)
    else {
      store<u8>(at, 0xc0 | (b >> 6))
      store<u8>(at, 0x80 | (b & 0x3f), 1)
      at += 2
    }
  }
  return at
}

/** Which of sixteen bytes a JSON string has an escape for. */
@inline
function special(v: v128): v128 {
  const low = i8x16.lt_u(v, i8x16.splat(0x20))
  return v128.or(low, v128.or(i8x16.eq(v, i8x16.splat(0x22)), i8x16.eq(v, i8x16.splat(0x5c))))
}
/** A byte as it stands in a JSON string. */
@inline
function escapedByte(b: u32, at: i32): i32 {
  const letter = load<u8>(LETTERS + b)
  if (letter === 0) {
    store<u8>(at, b)
    return at + 1
  }
  store<u8>(at, 0x5c)
  store<u8>(at, letter, 1)
  if (letter !== 0x75) return at + 2
  store<u16>(at, 0x3030, 2)
  store<u8>(at, 0x30 + (b >> 4), 4)
  const low = b & 15
  store<u8>(at, low < 10 ? 0x30 + low : 0x57 + low, 5)
  return at + 6
}
/** Copies UTF-8, with escapes where a JSON string wants them. Writes up to fifteen bytes more, as `copy` does, and reads up to 31. */
export function escapeCopy(from: i32, end: i32, at: i32): i32 {
  while (from < end) {
    const v = v128.load(from)
    const w = v128.load(from, 16)
    if (end - from >= 32 && !v128.any_true(v128.or(special(v), special(w)))) {
      v128.store(at, v)
      v128.store(at, w, 16)
      from += 32
      at += 32
      continue
    }
    const length = min(end - from, 16)
    if ((i8x16.bitmask(special(v)) & ((1 << length) - 1)) === 0) {
      v128.store(at, v)
      at += length
    } else for (let i = 0; i < length; i++) at = escapedByte(load<u8>(from + i), at)
    from += length
  }
  return at
}
/** The same for what stands in the output already, from `from` to `at`; returns the new end. */
export function escapeHere(from: i32, at: i32): i32 {
  let clean = from
  while (at - clean >= 16 && !v128.any_true(special(v128.load(clean)))) clean += 16
  while (clean < at && load<u8>(LETTERS + u32(load<u8>(clean))) === 0) clean++
  if (clean === at) return at
  const length = at - clean
  // Behind the longest it can become.
  const aside = clean + length * 6 + 16
  memory.copy(aside, clean, length)
  return escapeCopy(aside, aside + length, clean)
}

// ── JSON documents: src/binlog/json/text.ts says how they are stored ───

let jsonEnd: i32 = 0
let budget: i32 = 0

function escape(c: u32, at: i32): i32 {
  store<u8>(at, 0x5c)
  let short: u32 = 0
  if (c === 0x22 || c === 0x5c) short = c
  else if (c === 0x0a) short = 0x6e
  else if (c === 0x0d) short = 0x72
  else if (c === 0x09) short = 0x74
  if (short !== 0) {
    store<u8>(at, short, 1)
    return at + 2
  }
  store<u32>(at, 0x30303075, 1) // u000, of which the last is written over
  const low = c & 15
  store<u8>(at, 0x30 + (c >> 4), 4)
  store<u8>(at, low < 10 ? 0x30 + low : 0x57 + low, 5)
  return at + 6
}
function string(from: i32, end: i32, at: i32): i32 {
  store<u8>(at++, 0x22)
  if (plain) at = escapeCopy(from, end, at)
  else for (; from < end; from++) {
    const b = load<u8>(from)
    if (load<u8>(ESCAPED + b) === 0) store<u8>(at++, b)
    else if (b !== 0xc2) at = escape(b, at)
    else if (from + 1 < end && load<u8>(from, 1) <= 0xa0) {
      const c = load<u8>(++from)
      at = hex(c, at)
    } else store<u8>(at++, b)
  }
  store<u8>(at, 0x22)
  return at + 1
}
/** \u00XX of a byte of which the first digit may be a letter. */
function hex(c: u32, at: i32): i32 {
  const high = c >> 4
  if (high < 10) return escape(c, at)
  escape(c, at)
  store<u8>(at, 0x57 + high, 4)
  return at + 6
}

/** Writes a value; 0 when this one is for `text`: not known here, or malformed. */
function json(type: u32, value: i32, depth: i32, at: i32): i32 {
  switch (type) {
    case 0:
    case 1:
    case 2:
    case 3:
      return container(type, value, depth, at)
    case 4:
      return literal(value, at)
    case 5:
      return value + 2 > jsonEnd ? 0 : signed(i64(load<i16>(value)), at)
    case 6:
      return value + 2 > jsonEnd ? 0 : small(load<u16>(value), at)
    case 7:
      return value + 4 > jsonEnd ? 0 : signed(i64(load<i32>(value)), at)
    case 8:
      return value + 4 > jsonEnd ? 0 : small(load<u32>(value), at)
    case 9:
      return value + 8 > jsonEnd ? 0 : signed(load<i64>(value), at)
    case 10:
      return value + 8 > jsonEnd ? 0 : unsigned(load<u64>(value), at)
    case 12: {
      const from = packed(value)
      if (from === 0) return 0
      return string(from, from + length, at)
    }
    case 15:
      return opaque(value, at)
  }
  return 0
}
function literal(value: i32, at: i32): i32 {
  if (value + 1 > jsonEnd) return 0
  const v = load<u8>(value)
  return v > 2 ? 0 : literalText(v, at)
}
function literalText(v: u32, at: i32): i32 {
  if (v === 0) {
    store<u32>(at, 0x6c6c756e) // null
    return at + 4
  }
  if (v === 1) {
    store<u32>(at, 0x65757274) // true
    return at + 4
  }
  store<u32>(at, 0x736c6166) // fals
  store<u8>(at, 0x65, 4)
  return at + 5
}
function opaque(value: i32, at: i32): i32 {
  if (value + 2 > jsonEnd || load<u8>(value) !== 246) return 0
  const from = packed(value + 1)
  if (from === 0 || length < 2) return 0
  const precision: i32 = load<u8>(from)
  const scale: i32 = load<u8>(from, 1)
  if (scale > precision || length !== 2 + decimalBytes(precision - scale) + decimalBytes(scale))
    return 0
  return decimal(from + 2, precision, scale, at)
}
function decimalBytes(digits: i32): i32 {
  const rest = digits % 9
  return (digits / 9) * 4 + (rest > 6 ? 4 : (rest + 1) >> 1)
}

/** What the last `packed` read. */
let length: i32 = 0
/** Reads a packed length; where what it measures begins, 0 when that does not end within the document. */
function packed(at: i32): i32 {
  let v: u64 = 0
  for (let shift: u64 = 0; shift < 35; shift += 7) {
    if (at >= jsonEnd) return 0
    const b: u64 = load<u8>(at++)
    v |= (b & 0x7f) << shift
    if (b < 0x80) {
      if (v > u64(jsonEnd - at)) return 0
      length = i32(v)
      budget -= length
      return budget < 0 ? 0 : at
    }
  }
  return 0
}

function container(type: u32, base: i32, depth: i32, at: i32): i32 {
  const large = (type & 1) !== 0
  const isObject = type < 2
  const wide = large ? 4 : 2
  if (depth >= 100 || base + 2 * wide > jsonEnd) return 0
  const count = large ? load<u32>(base) : u32(load<u16>(base))
  const size = large ? load<u32>(base, 4) : u32(load<u16>(base, 2))
  const keyBytes = isObject ? wide + 2 : 0
  const least = u64(2 * wide) + u64(count) * u64(keyBytes + wide + 1)
  if (u64(size) > u64(jsonEnd - base) || least > u64(size)) return 0
  budget -= i32(least)
  if (budget < 0) return 0
  let key = base + 2 * wide
  let entry = key + i32(count) * keyBytes
  store<u8>(at++, isObject ? 0x7b : 0x5b)
  for (let i: u32 = 0; i < count; i++) {
    if (i > 0) {
      store<u16>(at, 0x202c)
      at += 2
    }
    if (isObject) {
      const offset = large ? load<u32>(key) : u32(load<u16>(key))
      const bytes: u32 = load<u16>(key + wide)
      if (u64(offset) + u64(bytes) > u64(size)) return 0
      budget -= i32(bytes)
      if (budget < 0) return 0
      at = string(base + i32(offset), base + i32(offset + bytes), at)
      store<u16>(at, 0x203a)
      at += 2
      key += wide + 2
    }
    const kind: u32 = load<u8>(entry)
    let value = entry + 1
    if (!(kind >= 4 && kind <= 6) && !(large && (kind === 7 || kind === 8))) {
      const offset = large ? load<u32>(value) : u32(load<u16>(value))
      if (offset >= size) return 0
      value = base + i32(offset)
    }
    at = json(kind, value, depth + 1, at)
    if (at === 0) return 0
    entry += wide + 1
  }
  store<u8>(at, isObject ? 0x7d : 0x5d)
  return at + 1
}
function document(from: i32, end: i32, at: i32): i32 {
  if (from === end) return plain ? literalText(0, at) : at
  jsonEnd = end
  budget = end - from
  return json(load<u8>(from), from + 1, 0, at)
}

// ── columns ──────────────────────────────────────────────────────────────────

/** The text of a value; `meta` is the column's, `writer` who knows what is not known here. */
export function write(kind: i32, meta: i32, writer: i32, from: i32, end: i32, at: i32): i32 {
  switch (kind) {
    case LATIN1:
      return latin1(from, end, at)
    case DECIMAL:
      return decimal(from, meta >> 8, meta & 0xff, at)
    case DATE:
      return date(from, at)
    case TIME2:
      return time2(from, meta, at)
    case DATETIME2:
      return datetime2(from, meta, at)
    case JSON: {
      const past = document(from, end, at)
      if (past !== 0) return past
    }
  }
  return text(writer, from, end, at)
}

export let past: i32 = 0 // behind the value's length, where `valueEnd` was asked for a value
/** Where the value at `at` ends; -1 when beyond `end`. */
@inline
export function valueEnd(size: i32, at: i32, end: i32): i32 {
  past = at
  let length: u32 = size
  if (size < 0) {
    past = at - size
    if (past > end) return -1
    if (size === -1) length = load<u8>(at)
    else if (size === -2) length = load<u16>(at)
    else if (size === -3) length = u32(load<u16>(at)) | (u32(load<u8>(at, 2)) << 16)
    else length = load<u32>(at)
  }
  if (length > u32(end - past)) return -1
  return past + length
}
export function same(a: i32, b: i32, length: i32): boolean {
  let i = 0
  for (; i + 8 <= length; i += 8) if (load<u64>(a + i) !== load<u64>(b + i)) return false
  for (; i < length; i++) if (load<u8>(a + i) !== load<u8>(b + i)) return false
  return true
}
