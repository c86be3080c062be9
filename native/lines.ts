/**
 * Row images → rows as JSON, in WebAssembly: the inner loop of src/sinks/lines/. AssemblyScript: see values.ts.
 *
 * Knows no format: what stands around the values is a program made by src/sinks/lines/program.ts, one list of steps for
 * each kind of change. Whole images only; bytes that do not add up end `lines` with -1, and so does what the program refuses:
 * the caller's own way knows what to do.
 *
 * Its program: u32 columns, u32 1 where JSON documents are to be as Canal prints them, then a record for each column, then
 * the steps, then constants, each padded to words of eight.
 */
import {
  begin,
  copy,
  copyBytes,
  escapeCopy,
  escapeHere,
  integer,
  JSON,
  past,
  refused,
  same,
  signed,
  SIGNED,
  unsigned,
  UNSIGNED,
  UTF8,
  valueEnd,
  write,
} from './values'

const PROGRAM = 2048
const CANAL = PROGRAM + 4
const RECORDS = PROGRAM + 8

/** A record of a column. */
const RECORD = 24
const SIZE = 0 // as Column.size
const FROM = 4 // in the before image; eight bytes on: in the after image
const TO = 8 // NULL: -1
const UPDATED = 20 // whether it changed in a row up to now

/** What is to be done, as words: set by src/server/rows/kernel.ts before each call. */
const JOB = 1600
const ROW = JOB // number of the first row
const SIDES = JOB + 4 // bit 0: before images, bit 1: after images
const STEPS = JOB + 8
const STEPS_END = JOB + 12
const ENDS = JOB + 16 // where the end of each row's output goes, and the hash of its key
const HASHES = JOB + 20
const ROWS_MAX = JOB + 24
const SLOTS = JOB + 28 // address and length of each text that is the same for all rows
const SPLITS = JOB + 32 // where the place of SPLIT goes, for each row
const ROWS = JOB + 36 // the answer

/** A step. Before anything else it writes its prefix. */
const STEP = 48
const OPERATION = 0
const A = 4
const B = 8
const PREFIX = 12 // an address and a length
const OTHERWISE = 20 // of VALUE and OLD: instead of the prefix and the value, where there is none
const FORM = 28 // of VALUE and OLD
const KIND = 32 // of VALUE, OLD and KEY, with what write() of values.ts needs
const META = 36
const WRITER = 40

/** Operations, as in src/sinks/lines/program.ts. */
const LITERAL = 0
const SLOT = 1 // A: which
const NUMBER = 2 // the row's number
const HEX = 3 // the same, eight hexadecimal digits
const VALUE = 4 // A: record, B: 0 for the before image, 8 for the after image
const KEY = 5 // A, B: as VALUE: text of a part of the key, with a colon between it and what is there
const MARK = 6
const ESCAPE = 7 // A: seed: the hash of what was written since MARK; then its escapes
const OPEN = 8
const SHUT = 9 // what is written again was written since OPEN
const AGAIN = 10
const SAME = 11 // A: record: the row is refused where the column changed
const OLD = 12 // as VALUE, but nothing, no prefix either, while the column has not changed in a row up to this one
const OBJECT = 13 // what was written since MARK begins with a comma, or is nothing: to be an object
const SPLIT = 14
const JAVA = 15 // what was written since MARK goes into the hash, and is taken back

/** Forms of a value, as in src/sinks/lines/program.ts; 1 is between quotes, without escapes. */
const BARE = 0
const ESCAPED = 2

const QUOTE = 0x22

/** Finds the columns of an image; returns where it ends, -1 when malformed. */
function scan(at: i32, end: i32, side: i32): i32 {
  const count = load<i32>(PROGRAM)
  const bits = at
  at += (count + 7) >> 3
  if (at > end) return -1
  let column = RECORDS
  for (let i = 0; i < count; i++, column += RECORD) {
    if ((load<u8>(bits + (i >> 3)) >> (i & 7)) & 1) {
      store<i32>(column + side, -1, TO)
      continue
    }
    const stop = valueEnd(load<i32>(column, SIZE), at, end)
    if (stop < 0) return -1
    store<i32>(column + side, past, FROM)
    store<i32>(column + side, stop, TO)
    at = stop
  }
  return at
}

/** The text of a value, with escapes where `form` says so. */
function text(step: i32, from: i32, end: i32, form: i32, at: i32): i32 {
  const kind = load<i32>(step, KIND)
  if (kind === UTF8)
    return form === ESCAPED ? escapeCopy(from, end, at) : copyBytes(from, end - from, at)
  if (kind === SIGNED) {
    const shift = 64 - 8 * (end - from)
    return signed((i64(integer(from, end - from)) << shift) >> shift, at)
  }
  if (kind === UNSIGNED) return unsigned(integer(from, end - from), at)
  const past = write(kind, load<i32>(step, META), load<i32>(step, WRITER), from, end, at)
  return form === ESCAPED ? escapeHere(at, past) : past
}

function changed(column: i32): boolean {
  const from = load<i32>(column, FROM)
  const to = load<i32>(column, TO)
  const now = load<i32>(column, FROM + 8)
  const nowTo = load<i32>(column, TO + 8)
  if (to < 0 || nowTo < 0) return to >= 0 || nowTo >= 0
  return to - from !== nowTo - now || !same(from, now, to - from)
}

/** Whether the texts differ: JSON that was changed in place keeps gaps, so equal documents may be stored differently. */
function textChanged(step: i32, column: i32, at: i32): boolean {
  const to = load<i32>(column, TO)
  const nowTo = load<i32>(column, TO + 8)
  if (to < 0 || nowTo < 0) return true
  const now = text(step, load<i32>(column, FROM), to, BARE, at)
  const end = text(step, load<i32>(column, FROM + 8), nowTo, BARE, now)
  return now - at !== end - now || !same(at, now, now - at)
}
/** Whether the column of a step has changed in a row up to this one. What is at `at` is written over. */
function updated(step: i32, at: i32): boolean {
  const column = load<i32>(step, A)
  if (load<i32>(column, UPDATED) !== 0) return true
  if (!changed(column)) return false
  if (load<i32>(step, KIND) === JSON && !textChanged(step, column, at)) return false
  store<i32>(column, 1, UPDATED)
  return true
}

let mark: i32 = 0
let opened: i32 = 0
let shut: i32 = 0
let hash: u32 = 0
let split: i32 = 0

/** Eight digits: a nibble to each byte, then each made a letter or a digit. */
@inline
function hex(v: u32, at: i32): i32 {
  let x: u64 = v
  x = ((x & 0xffff0000) << 16) | (x & 0xffff)
  x = ((x & 0x0000ff00_0000ff00) << 8) | (x & 0x000000ff_000000ff)
  x = ((x & 0x00f000f0_00f000f0) << 4) | (x & 0x000f000f_000f000f)
  const letters = ((x + 0x06060606_06060606) >> 4) & 0x01010101_01010101
  store<u64>(at, bswap(x + 0x30303030_30303030 + letters * 0x27))
  return at + 8
}

/** What a step writes behind its prefix; -1 to refuse the row. */
@inline
function perform(step: i32, row: u32, at: i32): i32 {
  switch (load<i32>(step, OPERATION)) {
    case SLOT: {
      const slot = load<i32>(SLOTS) + 8 * load<i32>(step, A)
      return copy(load<i32>(slot), load<i32>(slot, 4), at)
    }
    case NUMBER:
      return unsigned(row, at)
    case HEX:
      return hex(row, at)
    case KEY: {
      if (at > mark) store<u8>(at++, 0x3a)
      const image = load<i32>(step, A) + load<i32>(step, B)
      const to = load<i32>(image, TO)
      return to < 0 ? at : text(step, load<i32>(image, FROM), to, BARE, at)
    }
    case MARK:
      mark = at
      return at
    case ESCAPE: {
      let h: u32 = load<u32>(step, A)
      for (let i = mark; i < at; i++) h = (h ^ load<u8>(i)) * 0x01000193
      hash = h
      return escapeHere(mark, at)
    }
    case OPEN:
      opened = at
      return at
    case SHUT:
      shut = at
      return at
    case AGAIN:
      return copyBytes(opened, shut - opened, at)
    case SAME:
      return changed(load<i32>(step, A)) ? -1 : at
    case OBJECT:
      if (at === mark) at++
      store<u8>(mark, 0x7b)
      store<u8>(at, 0x7d)
      return at + 1
    case SPLIT:
      split = at
      return at
    case JAVA: {
      let h: u32 = 0
      for (let i = mark; i < at; i++) {
        const b: u32 = load<u8>(i)
        if (b > 0x7f) return -1 // UTF-16 is for the caller
        h = h * 31 + b
      }
      hash ^= h
      return mark
    }
  }
  return at
}

/** Runs the steps for one row; returns where its output ends, -1 when it is refused. */
function rowAt(row: u32, at: i32): i32 {
  const last = load<i32>(STEPS_END)
  hash = 0
  for (let step = load<i32>(STEPS); step < last; step += STEP) {
    const operation = load<i32>(step, OPERATION)
    if (operation === OLD) {
      if (!updated(step, at)) continue
    } else if (operation !== VALUE) {
      at = copy(load<i32>(step, PREFIX), load<i32>(step, PREFIX + 4), at)
      if (operation !== LITERAL) {
        at = perform(step, row, at)
        if (at < 0) return -1
      }
      continue
    }
    const image = load<i32>(step, A) + load<i32>(step, B)
    const to = load<i32>(image, TO)
    if (to < 0) {
      at = copy(load<i32>(step, OTHERWISE), load<i32>(step, OTHERWISE + 4), at)
      continue
    }
    at = copy(load<i32>(step, PREFIX), load<i32>(step, PREFIX + 4), at)
    const form = load<i32>(step, FORM)
    at = text(step, load<i32>(image, FROM), to, form, at)
    if (form !== BARE) store<u8>(at++, QUOTE)
  }
  return at
}

/**
 * Writes all rows in [at, end); returns where the output ends, -1 when it is refused. ROWS, ENDS and HASHES say
 * more. The output is the last in the memory: what does not fit there ends in a trap.
 */
export function lines(at: i32, end: i32, out: i32): i32 {
  const sides = load<i32>(SIDES)
  const first = load<u32>(ROW)
  const most = load<u32>(ROWS_MAX)
  const ends = load<i32>(ENDS)
  const hashes = load<i32>(HASHES)
  const splits = load<i32>(SPLITS)
  let rows: u32 = 0
  begin(load<i32>(CANAL) === 0)
  let column = RECORDS
  for (let i = load<i32>(PROGRAM); i > 0; i--, column += RECORD) store<i32>(column, 0, UPDATED)
  for (; at < end; rows++) {
    const from = at
    if (sides & 1) {
      at = scan(at, end, 0)
      if (at < 0) return -1
    }
    if (sides & 2) {
      at = scan(at, end, 8)
      if (at < 0) return -1
    }
    if (at === from || rows >= most) return -1
    out = rowAt(first + rows, out)
    if (out < 0 || refused) return -1
    store<i32>(ends + i32(rows) * 4, out)
    store<u32>(hashes + i32(rows) * 4, hash)
    store<i32>(splits + i32(rows) * 4, split)
  }
  store<u32>(ROWS, rows)
  return out
}
