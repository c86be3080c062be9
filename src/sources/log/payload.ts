/**
 * Unpacks TRANSACTION_PAYLOAD events: small ones at once, large ones as a stream whose memory does not depend on their
 * size. Guarantees that no more comes out than the event declares, and that the end of a large one is said only after
 * its checksum and its size were right. The events inside carry no checksums of their own.
 */
import { Readable, pipeline } from 'node:stream'
import { crc32, createZstdDecompress, zstdDecompressSync } from 'node:zlib'
import { readTransactionPayload } from '../../binlog/event.ts'
import { CHECKSUM_BYTES, HEADER_BYTES, Reader, eventSize, eventTypes } from '../../binlog/reader.ts'
import { SluiceError } from '../../errors.ts'
import { DONE, FRAGMENT, checksumMismatch, type EventCutter } from './events.ts'

/** Unpacked at once up to this size. */
const SMALL_MAX = 4 * 1024 * 1024
/** What goes to the decompressor and comes from it at a time: each time is a trip to another thread. */
const STREAM_CHUNK = 512 * 1024
/** What stands before the payload takes 3 fields of at most 19 bytes and 1 byte. */
const FIELDS_MAX = 64

/** Chunks of unpacked events; undefined at the end, when everything has been verified. */
export interface Unpacked {
  next(): Promise<Buffer | undefined>
  close(): void
}

/**
 * Unpacks the whole event in bytes[start, end), checksum left out: all of it where that is little, else as a stream.
 * Throws EVENT_MALFORMED.
 */
export function unpack(
  bytes: Buffer,
  start: number,
  end: number,
  where: string,
): Buffer | Unpacked {
  const payload = readTransactionPayload(bytes, start, end)
  const packed = bytes.subarray(payload.start, payload.end)
  const declared = payload.uncompressedBytes
  if (payload.compression === 'none') return Buffer.from(packed)
  if (declared > SMALL_MAX) {
    // Kept apart: the memory at hand is written over while the events inside are read.
    const copy = Buffer.from(packed)
    const source = (async function* () {
      yield copy
    })()
    return new UnpackedStream(source, { compressed: true, declared, where })
  }
  let unpacked: Buffer
  try {
    unpacked = zstdDecompressSync(packed, { maxOutputLength: Math.max(declared, 1) })
  } catch (cause) {
    throw malformed(where, `zstd data that unpacks to ${declared} bytes`, cause)
  }
  if (unpacked.length !== declared) {
    throw malformed(where, `a payload of ${declared} bytes, got ${unpacked.length}`)
  }
  return unpacked
}

function malformed(where: string, expected: string, cause?: unknown): SluiceError {
  const text = cause instanceof Error ? `: ${cause.message}` : ''
  const message = `${where}: TRANSACTION_PAYLOAD: expected ${expected}${text}`
  return new SluiceError('EVENT_MALFORMED', message, { cause })
}

export interface LargeOptions {
  readonly cutter: EventCutter // has just said LARGE
  /** Brings the cutter more bytes; false at the end of the stream. */
  readonly more: () => Promise<boolean>
  readonly checksumBytes: number
  readonly where: string
}

/** Unpacks an event while it arrives. Throws EVENT_MALFORMED, CHECKSUM_MISMATCH, STREAM_ENDED. */
export async function unpackLarge(options: LargeOptions): Promise<Unpacked> {
  const { where, checksumBytes } = options
  const size = eventSize(options.cutter.head, 0)
  const body = bodyOf(options, size)
  // The fields stand at the beginning; fragments may be torn anywhere.
  let begun: Buffer = Buffer.alloc(0)
  while (begun.length < FIELDS_MAX) {
    const { value, done } = await body.next()
    if (done === true) break
    begun = Buffer.concat([begun, value])
  }
  const fields = readFields(begun)
  const announced = size - HEADER_BYTES - checksumBytes - fields.at
  if (fields.payloadBytes !== announced) {
    throw malformed(where, `a payload of ${announced} bytes, got ${fields.payloadBytes}`)
  }
  const source = (async function* () {
    let parts = [begun.subarray(fields.at)]
    let bytes = 0
    for await (const fragment of body) {
      parts.push(fragment)
      bytes += fragment.length
      if (bytes < STREAM_CHUNK) continue
      yield Buffer.concat(parts)
      parts = []
      bytes = 0
    }
    yield Buffer.concat(parts)
  })()
  const declared = fields.compressed ? fields.declared : announced
  return new UnpackedStream(source, { compressed: fields.compressed, declared, where })
}

/** The same fields that readTransactionPayload reads, of an event that is not whole: its layout is drawn there. */
function readFields(bytes: Buffer): {
  at: number
  compressed: boolean
  payloadBytes: number
  declared: number
} {
  const r = new Reader('TRANSACTION_PAYLOAD', bytes, 0, bytes.length, 0)
  const values = new Map<number, number>()
  for (;;) {
    const type = r.packed('a field type')
    if (type === 0) break
    const length = r.packed('a field length')
    const past = r.at + length
    if (type >= 1 && type <= 3) values.set(type, r.packed('a field'))
    else r.skip(length, 'a field')
    if (r.at !== past) throw r.malformed('a field to fill its length')
  }
  const compression = values.get(2)
  if (compression !== 0 && compression !== 255) {
    throw r.malformed(`compression 0 or 255, got ${compression}`)
  }
  const declared = values.get(3) ?? -1
  const payloadBytes = values.get(1) ?? -1
  if (compression === 0 && declared < 0) throw r.malformed('the uncompressed size')
  return { at: r.at, compressed: compression === 0, payloadBytes, declared }
}

/** The bytes of the event between header and checksum; ends only when the checksum was right. */
async function* bodyOf(options: LargeOptions, size: number): AsyncGenerator<Buffer, void> {
  const { cutter, checksumBytes, where } = options
  let left = size - HEADER_BYTES - checksumBytes
  let sum = crc32(cutter.head)
  const logged = Buffer.alloc(CHECKSUM_BYTES)
  let loggedBytes = 0
  for (;;) {
    const step = cutter.nextOfLarge()
    if (step === DONE) break
    if (step !== FRAGMENT) {
      if (await options.more()) continue
      throw new SluiceError(
        'STREAM_ENDED',
        `${where}: the log ends inside a TRANSACTION_PAYLOAD event`,
      )
    }
    const { bytes, start, end } = cutter
    const taken = Math.min(left, end - start)
    loggedBytes += bytes.copy(logged, loggedBytes, start + taken, end)
    left -= taken
    if (taken === 0) continue
    // A copy: the chunk is read over while the decompressor still holds it.
    const fragment = Buffer.from(bytes.subarray(start, start + taken))
    sum = crc32(fragment, sum)
    yield fragment
  }
  if (checksumBytes > 0 && logged.readUInt32LE(0) !== sum) {
    throw checksumMismatch(eventTypes.TRANSACTION_PAYLOAD, where)
  }
}

interface StreamOptions {
  readonly compressed: boolean
  readonly declared: number
  readonly where: string
}

class UnpackedStream implements Unpacked {
  readonly #chunks: AsyncIterator<Buffer>
  readonly #declared: number
  readonly #where: string
  readonly #readable: Readable
  #bytes = 0

  constructor(source: AsyncGenerator<Buffer, void>, options: StreamOptions) {
    this.#declared = options.declared
    this.#where = options.where
    const input = Readable.from(source, { highWaterMark: 1 })
    if (options.compressed) {
      const zstd = createZstdDecompress({ chunkSize: STREAM_CHUNK })
      // Its error reaches us through the iterator as well.
      pipeline(input, zstd, () => {})
      this.#readable = zstd
    } else this.#readable = input
    this.#chunks = this.#readable.iterator({ destroyOnReturn: true })[Symbol.asyncIterator]()
  }

  async next(): Promise<Buffer | undefined> {
    let result: IteratorResult<Buffer>
    try {
      result = await this.#chunks.next()
    } catch (cause) {
      if (cause instanceof SluiceError) throw cause
      throw malformed(this.#where, 'zstd data', cause)
    }
    if (result.done === true) {
      if (this.#bytes === this.#declared) return undefined
      throw malformed(this.#where, `a payload of ${this.#declared} bytes, got ${this.#bytes}`)
    }
    this.#bytes += result.value.length
    if (this.#bytes > this.#declared) {
      throw malformed(this.#where, `a payload of ${this.#declared} bytes, got more`)
    }
    return result.value
  }
  close(): void {
    this.#readable.on('error', () => {})
    this.#readable.destroy()
  }
}
