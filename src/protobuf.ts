/**
 * Protobuf primitives: one reader that walks the fields of a message, and the few writers that
 * `Out` does not have. Guarantees that nothing but SluiceError WIRE_MALFORMED comes out of bytes that do not add up,
 * and that no length is believed before it is checked. Must not know any message.
 *
 *   field    = varint tag, payload           tag = field number << 3 | wire type
 *   wire type  0: varint   1: 8 bytes   2: varint length, then so many bytes   5: 4 bytes
 *
 * Source: the public encoding description of Protocol Buffers. Groups (3, 4) do not exist in proto3 and are refused.
 */
import { SluiceError } from './errors.ts'
import type { Out } from './out.ts'

const TWO_32 = 0x1_0000_0000

/** Tag of a varint field. */
export const varintTag = (field: number): number => field << 3
/** Tag of a length-delimited field. */
export const bytesTag = (field: number): number => (field << 3) | 2

/**
 * Walks the fields of bytes[start, end). After `next()` returned true, `tag` says what comes; exactly one of the value
 * methods (or `skip`) must be called before the following `next()`. An unexpected wire type has an unexpected tag and
 * so ends as a skipped unknown field, as in other implementations.
 */
export class FieldReader {
  bytes: Buffer
  at: number
  end: number
  tag = 0
  /** Range of the last `range()`. */
  start = 0
  stop = 0
  #low = 0
  #high = 0
  constructor(bytes: Buffer, start = 0, end = bytes.length) {
    this.bytes = bytes
    this.at = start
    this.end = end
  }
  /** Starts over on other bytes. */
  reset(bytes: Buffer, start: number, end: number): void {
    this.bytes = bytes
    this.at = start
    this.end = end
  }
  /** Moves to the next field; false at the end of the message. */
  next(): boolean {
    if (this.at >= this.end) return false
    this.#read()
    if (this.#high !== 0 || this.#low < 8) throw this.#malformed('a field tag')
    this.tag = this.#low
    return true
  }
  /** Low 32 bits, signed: int32 and enums. */
  int32(): number {
    this.#read()
    return this.#low | 0
  }
  bool(): boolean {
    this.#read()
    return this.#low !== 0 || this.#high !== 0
  }
  /** int64 as a number; rounded beyond 2^53. */
  int64(): number {
    this.#read()
    return (this.#high | 0) * TWO_32 + this.#low
  }
  bigint(): bigint {
    this.#read()
    return (BigInt(this.#high | 0) << 32n) | BigInt(this.#low)
  }
  /** Sets `start` and `stop` to the payload of a length-delimited field. */
  range(): void {
    this.#read()
    const length = this.#low
    if (this.#high !== 0 || length > this.end - this.at) {
      throw this.#malformed(`a field of ${this.#high * TWO_32 + length} bytes`)
    }
    this.start = this.at
    this.stop = this.at += length
  }
  /** A view, not a copy. */
  view(): Buffer {
    this.range()
    return this.bytes.subarray(this.start, this.stop)
  }
  /** UTF-8; what is not valid becomes U+FFFD. */
  text(): string {
    this.range()
    return this.start === this.stop ? '' : this.bytes.toString('utf8', this.start, this.stop)
  }
  skip(): void {
    switch (this.tag & 7) {
      case 0:
        return this.#read()
      case 1:
        return this.#fixed(8)
      case 2:
        return this.range()
      case 5:
        return this.#fixed(4)
      default:
        throw this.#malformed(`wire type ${this.tag & 7}`)
    }
  }
  #fixed(size: number): void {
    if (size > this.end - this.at) throw this.#malformed(`a field of ${size} bytes`)
    this.at += size
  }
  #read(): void {
    const { bytes, end } = this
    let at = this.at
    let low = 0
    let high = 0
    for (let shift = 0; shift < 70; shift += 7) {
      if (at >= end) throw this.#malformed('a varint')
      const b = bytes[at++]!
      const bits = b & 0x7f
      if (shift < 28) low |= bits << shift
      else if (shift === 28) {
        low |= (bits & 0x0f) << 28
        high = bits >> 4
      } else high |= bits << (shift - 32)
      if (b < 0x80) {
        this.at = at
        this.#low = low >>> 0
        this.#high = high >>> 0
        return
      }
    }
    throw this.#malformed('a varint of at most 10 bytes')
  }
  #malformed(expected: string): SluiceError {
    return new SluiceError(
      'WIRE_MALFORMED',
      `expected ${expected} at byte ${this.at} of a message that ends at byte ${this.end}`,
    )
  }
}

/** int32 or int64 as a varint: negative numbers take ten bytes. |v| ≤ 2^53. Ensures room itself. */
export function putInt(out: Out, v: number): void {
  out.ensure(10)
  if (v >= 0) return out.varint(v)
  putBits(out, BigInt.asUintN(64, BigInt(v)))
}

/** int64 as a varint. Ensures room itself. */
export function putBigint(out: Out, v: bigint): void {
  out.ensure(10)
  putBits(out, BigInt.asUintN(64, v))
}

function putBits(out: Out, bits: bigint): void {
  for (; bits > 0x7fn; bits >>= 7n) out.u8(Number(bits & 0x7fn) | 0x80)
  out.u8(Number(bits))
}

/** A varint field, zero included. Field numbers up to 15. Ensures room itself. */
export function putIntField(out: Out, field: number, v: number): void {
  out.ensure(12)
  out.u8(varintTag(field))
  putInt(out, v)
}

/** A text field, empty or not. Field numbers up to 15. Ensures room itself. */
export function putTextField(out: Out, field: number, text: string): void {
  out.ensure(1)
  out.u8(bytesTag(field))
  putText(out, text)
}

/** Length and text. Ensures room itself. */
export function putText(out: Out, text: string): void {
  const width = text.length < 0x80 ? 1 : text.length < 0x4000 ? 2 : 3
  const mark = out.begin(width)
  out.utf8(text)
  out.end(mark, width)
}

/** A bytes field; nothing at all where there are none. Field numbers up to 15. Ensures room itself. */
export function putBytesField(out: Out, field: number, bytes: Uint8Array): void {
  if (bytes.length === 0) return
  out.ensure(12)
  out.u8(bytesTag(field))
  out.varint(bytes.length)
  out.bytes(bytes, 0, bytes.length)
}
