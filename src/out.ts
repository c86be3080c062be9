/**
 * A growing byte buffer that encoders write to: bytes and text straight to UTF-8, no string in between.
 * Protobuf lengths that stand before what they measure are reserved by `begin` and filled in by `end`, which moves the
 * bytes only when the guessed width was wrong.
 */
import { giveBack } from './slab.ts'

const NOTHING = new Uint8Array(0)
/** ISO-8859-1 up to half of this is not counted before it is written. */
const SHORT = 128
/** Copies of so many bytes go word by word: below, a loop over bytes is quicker, above, the call into native code. */
const WORDS_MIN = 16
const WORDS_MAX = 192
/** From here on the buffer grows to a quarter more than is needed, not by itself: what is not written takes no memory. */
const LARGE = 8 * 1024 * 1024
const SMALL = 256

export class Out {
  buf: Buffer
  at = 0
  #view: DataView // of `buf`, for eight bytes at a time
  #source: Uint8Array = NOTHING // what was copied from last: mostly one slab, again and again
  #sourceView = viewOf(NOTHING)
  constructor(size = 64 * 1024) {
    this.buf = Buffer.allocUnsafeSlow(size)
    this.#view = viewOf(this.buf)
  }
  /** Goes on in another buffer, from its start, and forgets what it copied from. The old buffer is the caller's. */
  use(buf: Buffer): void {
    this.buf = buf
    this.at = 0
    this.#view = viewOf(buf)
    this.#source = NOTHING
  }
  /** Makes room for `n` more bytes. Callers of the u8 / ascii / varint family must have room: one ensure per value. */
  ensure(n: number): void {
    if (this.at + n > this.buf.length) this.#grow(n)
  }
  #grow(n: number): void {
    const { length } = this.buf
    const need = this.at + n
    const more = need < LARGE ? length * 2 : need * 1.25
    const next = Buffer.allocUnsafeSlow(Math.ceil(Math.max(more, need)))
    this.buf.copy(next, 0, 0, this.at)
    this.buf = next
    this.#view = viewOf(next)
  }
  reset(): void {
    this.at = 0
  }
  /** Starts over, and returns memory that was needed once and is large to the system. */
  shrink(): void {
    this.at = 0
    if (this.buf.length < LARGE) return
    giveBack(this.buf)
    this.use(Buffer.allocUnsafeSlow(SMALL))
  }
  /** What was written, as text; then starts over, as `shrink` does. */
  take(): string {
    const text = this.buf.toString('utf8', 0, this.at)
    this.shrink()
    return text
  }
  u8(v: number): void {
    this.buf[this.at++] = v
  }
  /** Short ASCII text. Ensures room itself. */
  ascii(s: string): void {
    this.ensure(s.length)
    const { buf } = this
    let at = this.at
    for (let i = 0; i < s.length; i++) buf[at++] = s.charCodeAt(i)
    this.at = at
  }
  /** Any text as UTF-8. Ensures room itself. */
  utf8(s: string): void {
    this.ensure(s.length * 3)
    this.at += this.buf.write(s, this.at, 'utf8')
  }
  /** Raw bytes src[start, end). Ensures room itself. */
  bytes(src: Uint8Array, start: number, end: number): void {
    const n = end - start
    this.ensure(n)
    const { buf } = this
    let at = this.at
    this.at += n
    if (n > WORDS_MAX) return buf.set(src.subarray(start, end), at)
    if (n >= WORDS_MIN) {
      if (src !== this.#source) this.#look(src)
      const to = this.#view
      const from = this.#sourceView
      for (const last = end - 7; start < last; start += 8, at += 8) {
        to.setBigUint64(at, from.getBigUint64(start, true), true)
      }
    }
    while (start < end) buf[at++] = src[start++]!
  }
  /** Everything written to another one. Ensures room itself. */
  append(other: Out): void {
    const n = other.at
    this.ensure(n)
    const to = this.#view
    const from = other.#view
    let at = this.at
    let start = 0
    for (const last = n - 7; start < last; start += 8, at += 8) {
      to.setBigUint64(at, from.getBigUint64(start, true), true)
    }
    for (; start < n; start++) this.buf[at++] = other.buf[start]!
    this.at += n
  }
  /** Bytes [start, end) of what was written, again, with another first byte; nothing where there are none. */
  again(start: number, end: number, first: number): void {
    const n = end - start
    if (n === 0) return
    const at = this.at
    this.ensure(n)
    this.at += n
    if (n > WORDS_MAX) this.buf.copyWithin(at, start, end)
    else {
      const view = this.#view
      let to = at
      for (const last = end - 7; start < last; start += 8, to += 8) {
        view.setBigUint64(to, view.getBigUint64(start, true), true)
      }
      const { buf } = this
      while (start < end) buf[to++] = buf[start++]!
    }
    this.buf[at] = first
  }
  /** Whether JSON wants an escape for a byte since `from`: below 0x20, a quote or a backslash. Four bytes a step. */
  needsEscape(from: number): boolean {
    const view = this.#view
    let at = from
    for (const last = this.at - 3; at < last; at += 4) {
      const x = view.getInt32(at, true)
      const q = x ^ 0x22222222
      const b = x ^ 0x5c5c5c5c
      const low = (x - 0x20202020) & ~x
      const quote = (q - 0x01010101) & ~q
      if (((low | quote | ((b - 0x01010101) & ~b)) & 0x80808080) !== 0) return true
    }
    const { buf } = this
    for (; at < this.at; at++) {
      const c = buf[at]!
      if (c < 0x20 || c === 0x22 || c === 0x5c) return true
    }
    return false
  }
  #look(src: Uint8Array): void {
    this.#source = src
    this.#sourceView = viewOf(src)
  }
  /** A compiled constant: a few stores instead of a loop over its bytes. Ensures room itself. */
  constant(c: Constant): void {
    const { words } = c
    this.ensure(words.length * 8)
    const view = this.#view
    let at = this.at
    for (let i = 0; i < words.length; i++, at += 8) view.setBigUint64(at, words[i]!, true)
    this.at += c.length
  }
  /** Bytes read as ISO-8859-1 and written as UTF-8. Ensures room itself. */
  latin1(src: Uint8Array, start: number, end: number): void {
    let room = (end - start) * 2
    if (room > SHORT) {
      const size = latin1Size(src, start, end)
      if (size === end - start) return this.bytes(src, start, end)
      room = size
    }
    this.ensure(room)
    const { buf } = this
    let at = this.at
    for (let i = start; i < end; i++) {
      const b = src[i]!
      if (b < 0x80) buf[at++] = b
      else {
        buf[at++] = 0xc0 | (b >> 6)
        buf[at++] = 0x80 | (b & 0x3f)
      }
    }
    this.at = at
  }
  /** A decimal integer, |v| ≤ 2^53. Ensures room itself. */
  int(v: number): void {
    this.ensure(20)
    if (v < 0) {
      this.buf[this.at++] = 0x2d
      v = -v
    }
    let digits = 1
    for (let p = 10; v >= p; p *= 10) digits++
    let at = (this.at += digits)
    for (; v > 0x7fffffff; digits--) {
      const q = Math.floor(v / 10)
      this.buf[--at] = 0x30 + (v - q * 10)
      v = q
    }
    for (; digits > 0; digits--) {
      const q = (v / 10) | 0
      this.buf[--at] = 0x30 + (v - q * 10)
      v = q
    }
  }
  /** Unsigned varint, v ≤ 2^53, at most 8 bytes. Needs room. */
  varint(v: number): void {
    while (v > 0x7fffffff) {
      this.buf[this.at++] = (v & 0x7f) | 0x80
      v = Math.floor(v / 128)
    }
    while (v > 0x7f) {
      this.buf[this.at++] = (v & 0x7f) | 0x80
      v >>>= 7
    }
    this.buf[this.at++] = v
  }
  /** Reserves `width` bytes for a varint length; returns the mark for `end`. Ensures room itself. */
  begin(width: number): number {
    this.ensure(width + 8)
    this.at += width
    return this.at
  }
  /** Fills in the length of everything since `begin(width)`; returns the width it took: the best guess for next time. */
  end(mark: number, width: number): number {
    const length = this.at - mark
    if (width === 1 && length < 0x80) {
      this.buf[mark - 1] = length
      return 1
    }
    if (width === 2 && length >= 0x80 && length < 0x4000) {
      this.buf[mark - 2] = (length & 0x7f) | 0x80
      this.buf[mark - 1] = length >> 7
      return 2
    }
    return this.#endAny(mark, width, length)
  }
  #endAny(mark: number, width: number, length: number): number {
    const need = varintSize(length)
    if (need !== width) {
      this.ensure(8)
      this.buf.copyWithin(mark + need - width, mark, this.at)
      this.at += need - width
    }
    const at = this.at
    this.at = mark - width
    this.varint(length)
    this.at = at
    return need
  }
}

/** Bytes that are written again and again, padded to words of eight, little-endian. */
export interface Constant {
  readonly words: BigUint64Array
  readonly length: number // bytes, padding not counted
}
export function constantOf(bytes: Uint8Array): Constant {
  const padded = new Uint8Array(Math.ceil(bytes.length / 8) * 8)
  padded.set(bytes)
  const view = viewOf(padded)
  const words = new BigUint64Array(padded.length / 8)
  for (let i = 0; i < words.length; i++) words[i] = view.getBigUint64(i * 8, true)
  return { words, length: bytes.length }
}
/** Text that is written again and again. */
export const fixed = (text: string): Constant => constantOf(Buffer.from(text))
function viewOf(b: Uint8Array): DataView {
  return new DataView(b.buffer, b.byteOffset, b.byteLength)
}

/** Bytes that src[start, end), read as ISO-8859-1, takes as UTF-8. */
export function latin1Size(src: Uint8Array, start: number, end: number): number {
  let size = end - start
  for (let i = start; i < end; i++) size += src[i]! >> 7
  return size
}
/** Bytes of an unsigned varint. */
export function varintSize(v: number): number {
  let n = 1
  while (v > 0x7f) {
    v = Math.floor(v / 128)
    n++
  }
  return n
}
