/**
 * Row images → Canal RowData, in WebAssembly: the inner loop of src/server/rows/rowdata.ts. AssemblyScript: see values.ts.
 *
 * Knows whole images only. Bytes that do not add up end `encode` with -1, and the caller's own way says what is wrong. Never
 * reads beyond `end`, never writes beyond what MARGIN of src/server/rows/rowdata.ts leaves.
 *
 * Its program: u32 columns, then a record for each (below), then constants, each padded to words of eight.
 */
import {
  begin,
  copy,
  copyBytes,
  integer,
  JSON,
  past,
  refused,
  same,
  signed,
  SIGNED,
  SKIPPED,
  unsigned,
  UNSIGNED,
  UTF8,
  valueEnd,
  write,
} from './values'

const RESULT = 1536 // u32 end of the output, u32 rows
const PROGRAM = 2048
const RECORDS = PROGRAM + 8

/** A record of a column. Constants are an address and a length. */
const RECORD = 112
const KIND = 0
const SIZE = 4 // as Column.size
const META = 8
const INDEX = 12
const BEFORE = 16 // fields up to the value's tag, of the before image
const UPDATED = 24 // of the after image
const BIG = 32 // more than the first two from here on, for unsigned values from LIMIT on: as BEFORE
const SUFFIX = 48
const NULL_BEFORE = 56 // the whole Column
const NULL_UPDATED = 64
const LENGTH_WIDTH = 72 // bytes of the last lengths written, the guess for the next
const VALUE_WIDTH = 76
const FROM = 80 // in the row's before image
const TO = 84 // NULL: -1
const PLACE = 88 // of its Column in the output
const VALUE = 92 // of its value in the output
const VALUE_END = 96
const LIMIT = 104 // u64

const ROW_TAG = 0x62
const BEFORE_TAG = 0x0a
const AFTER_TAG = 0x12

let to: i32 = 0 // where the output goes on
let rowWidth: i32 = 2

/** Fills in the length of [mark, at), for which `width` bytes were left; returns the new end. */
function measure(mark: i32, width: i32, at: i32): i32 {
  const length = at - mark
  let need = 1
  for (let rest = length >>> 7; rest > 0; rest >>>= 7) need++
  if (need !== width) memory.copy(mark + need - width, mark, length)
  let p = mark - width
  let v = length
  for (; v > 0x7f; v >>>= 7) store<u8>(p++, (v & 0x7f) | 0x80)
  store<u8>(p, v)
  return at + need - width
}
@inline
function widthOf(length: i32): i32 {
  return length < 0x80 ? 1 : length < 0x4000 ? 2 : 3
}

// ── columns and rows ─────────────────────────────────────────────────────────

/** A Column with its tag; where its value is in the output goes into the record of a before image. */
function put(column: i32, kind: i32, tag: u32, fields: i32, from: i32, end: i32, at: i32): i32 {
  store<u8>(at, tag)
  const suffix = load<i32>(column, SUFFIX + 4)
  if (kind === UTF8) {
    // Both lengths are known before.
    const bytes = end - from
    const head = load<i32>(column + fields, 4)
    const whole = head + widthOf(bytes) + bytes + suffix
    at = varint(whole, at + 1)
    at = copy(load<i32>(column + fields), head, at)
    at = varint(bytes, at)
    store<i32>(column, at, VALUE)
    at = copyBytes(from, bytes, at)
    store<i32>(column, at, VALUE_END)
    return copy(load<i32>(column, SUFFIX), suffix, at)
  }
  const lengthWidth = load<i32>(column, LENGTH_WIDTH)
  const valueWidth = load<i32>(column, VALUE_WIDTH)
  const mark = at + 1 + lengthWidth
  let number: u64 = 0
  if (kind === UNSIGNED) {
    number = integer(from, end - from)
    if (number >= load<u64>(column, LIMIT)) fields += BIG - BEFORE
  }
  at = copy(load<i32>(column + fields), load<i32>(column + fields, 4), mark) + valueWidth
  const value = at
  if (kind === UNSIGNED) at = unsigned(number, at)
  else if (kind === SIGNED) {
    const shift = 64 - 8 * (end - from)
    at = signed((i64(integer(from, end - from)) << shift) >> shift, at)
  } else at = write(kind, load<i32>(column, META), load<i32>(column, INDEX), from, end, at)
  const bytes = at - value
  if (valueWidth === 1 && bytes < 0x80) store<u8>(value - 1, bytes)
  else {
    at = measure(value, valueWidth, at)
    store<i32>(column, widthOf(bytes), VALUE_WIDTH)
  }
  store<i32>(column, at - bytes, VALUE)
  store<i32>(column, at, VALUE_END)
  at = copy(load<i32>(column, SUFFIX), suffix, at)
  if (lengthWidth === 1 && at - mark < 0x80) {
    store<u8>(mark - 1, at - mark)
    return at
  }
  const width = widthOf(at - mark)
  const moved = width - lengthWidth
  at = measure(mark, lengthWidth, at)
  if (moved !== 0) {
    store<i32>(column, width, LENGTH_WIDTH)
    store<i32>(column, load<i32>(column, VALUE) + moved, VALUE)
    store<i32>(column, load<i32>(column, VALUE_END) + moved, VALUE_END)
  }
  return at
}
function varint(v: u32, at: i32): i32 {
  for (; v > 0x7f; v >>= 7) store<u8>(at++, (v & 0x7f) | 0x80)
  store<u8>(at, v)
  return at + 1
}

/** The before image of a row, or the after image of an insert: returns where it ends, -1 when malformed. */
function image(tag: u32, fields: i32, nulls: i32, at: i32, end: i32): i32 {
  const count = load<i32>(PROGRAM)
  const bits = at
  at += (count + 7) >> 3
  if (at > end) return -1
  let out = to
  let column = RECORDS
  for (let i = 0; i < count; i++, column += RECORD) {
    const kind = load<i32>(column, KIND)
    store<i32>(column, out, PLACE)
    if ((load<u8>(bits + (i >> 3)) >> (i & 7)) & 1) {
      store<i32>(column, -1, TO)
      if (kind !== SKIPPED) out = copy(load<i32>(column + nulls), load<i32>(column + nulls, 4), out)
      continue
    }
    const stop = valueEnd(load<i32>(column, SIZE), at, end)
    if (stop < 0) return -1
    store<i32>(column, past, FROM)
    store<i32>(column, stop, TO)
    at = stop
    if (kind !== SKIPPED) out = put(column, kind, tag, fields, past, stop, out)
  }
  store<i32>(column, out, PLACE)
  to = out
  return at
}

/** The after image of an update: a column that has not changed has the bytes of the before image, but for its tag. */
function after(at: i32, end: i32): i32 {
  const count = load<i32>(PROGRAM)
  const bits = at
  at += (count + 7) >> 3
  if (at > end) return -1
  let out = to
  let column = RECORDS
  for (let i = 0; i < count; i++, column += RECORD) {
    const kind = load<i32>(column, KIND)
    const before = load<i32>(column, TO)
    let stop = -1
    let changed = before >= 0
    if (((load<u8>(bits + (i >> 3)) >> (i & 7)) & 1) === 0) {
      stop = valueEnd(load<i32>(column, SIZE), at, end)
      if (stop < 0) return -1
      at = stop
      const from = load<i32>(column, FROM)
      changed = before < 0 || before - from !== stop - past || !same(from, past, stop - past)
    }
    if (kind === SKIPPED) continue
    const place = load<i32>(column, PLACE)
    const length = load<i32>(column + RECORD, PLACE) - place
    if (changed && stop < 0) {
      out = copy(load<i32>(column, NULL_UPDATED), load<i32>(column, NULL_UPDATED + 4), out)
      continue
    }
    if (changed) {
      const value = load<i32>(column, VALUE)
      const valueBytes = load<i32>(column, VALUE_END) - value
      const next = put(column, kind, AFTER_TAG, UPDATED, past, stop, out)
      // JSON that was changed in place keeps gaps: documents stored differently can still be equal.
      const now = load<i32>(column, VALUE)
      if (
        kind !== JSON ||
        before < 0 ||
        load<i32>(column, VALUE_END) - now !== valueBytes ||
        !same(value, now, valueBytes)
      ) {
        out = next
        continue
      }
    }
    copyBytes(place, length, out)
    store<u8>(out, AFTER_TAG)
    out += length
  }
  to = out
  return at
}

/**
 * Writes the rows in [at, end), as far as they begin before `limit` in the output. Returns where the next row begins, -1
 * when the bytes do not add up; RESULT says how many there are and where the output ends.
 * @param sides bit 0: before images, bit 1: after images
 */
export function encode(at: i32, end: i32, out: i32, limit: i32, sides: i32): i32 {
  let rows = 0
  begin(false)
  while (at < end && out < limit) {
    const from = at
    const mark = out + 1 + rowWidth
    store<u8>(out, ROW_TAG)
    to = mark
    if (sides === 2) at = image(AFTER_TAG, UPDATED, NULL_UPDATED, at, end)
    else {
      at = image(BEFORE_TAG, BEFORE, NULL_BEFORE, at, end)
      if (at >= 0 && sides === 3) at = after(at, end)
    }
    if (at <= from || refused) return -1
    out = measure(mark, rowWidth, to)
    rowWidth = widthOf(to - mark)
    rows++
  }
  store<i32>(RESULT, out)
  store<i32>(RESULT, rows, 4)
  return at
}
