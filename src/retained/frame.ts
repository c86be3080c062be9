/**
 * Frames: what a segment of the retained log is made of, one behind the other from its first byte to its last. Each says
 * what it is and how long, and has two checksums, so that no byte of it can change unnoticed. Knows no transactions.
 *
 *   u32 "SLF1" · u8 kind · u8 how its body is stored, 0 as it is, 1 zstd · u16 version of the format ·
 *   u32 bytes of the body · u32 bytes of the body unpacked · u32 CRC32 of the body · u32 CRC32 of these 20 bytes · body
 */
import { readSync } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { promisify } from 'node:util'
import { constants, zstdCompress, zstdDecompress, zstdDecompressSync } from 'node:zlib'
import { crc32 } from '../crc.ts'
import { SluiceError } from '../errors.ts'

export const FORMAT_VERSION = 1
export const FRAME_HEADER = 24
const MAGIC = 0x31464c53 // "SLF1"
const STORED = 0
const ZSTD = 1
/** Below this, packing saves nothing worth a trip to another thread. */
const SMALL = 256
/** No frame is larger: an event has at most 1 GiB, and so little stands beside it. */
const BODY_MAX = 2 ** 30 + 2 ** 28

/** head: of the segment; tables: definitions for what follows; changes: transactions; index: of a side file. */
export type FrameKind = 'head' | 'tables' | 'changes' | 'index'
const kinds: readonly FrameKind[] = ['head', 'tables', 'changes', 'index']

export interface Frame {
  readonly kind: FrameKind
  readonly body: Buffer // unpacked
  readonly at: number // of its first byte in the file
  readonly end: number
}

const compress = promisify(zstdCompress)
const decompress = promisify(zstdDecompress)
const level = { params: { [constants.ZSTD_c_compressionLevel]: 1 } }

/** The bytes of a frame, header and body in pieces to be written one behind the other. Packs in another thread. */
export async function frameOf(kind: FrameKind, body: Buffer): Promise<Buffer[]> {
  if (body.length < SMALL) return [headerOf(kind, STORED, body, body.length), body]
  const packed = await compress(body, level)
  return [headerOf(kind, ZSTD, packed, body.length), packed]
}
/** The same of a small body, at once. */
export function plainFrame(kind: FrameKind, body: Buffer): Buffer {
  return Buffer.concat([headerOf(kind, STORED, body, body.length), body])
}
function headerOf(kind: FrameKind, stored: number, body: Buffer, plain: number): Buffer {
  const header = Buffer.alloc(FRAME_HEADER)
  header.writeUInt32LE(MAGIC, 0)
  header[4] = kinds.indexOf(kind) + 1
  header[5] = stored
  header.writeUInt16LE(FORMAT_VERSION, 6)
  header.writeUInt32LE(body.length, 8)
  header.writeUInt32LE(plain, 12)
  header.writeInt32LE(crc32(body, 0, body.length), 16)
  header.writeInt32LE(crc32(header, 0, 20), 20)
  return header
}

// ── reading ──────────────────────────────────────────────────────────────────

interface Header {
  readonly kind: FrameKind
  readonly packed: boolean
  readonly size: number
  readonly plain: number
  readonly sum: number
}

/** What is wrong with a frame. */
export class Flaw extends Error {
  readonly at: number
  /** The file ends before the frame does: that is how a write looks that was cut short. */
  readonly torn: boolean
  constructor(at: number, torn: boolean, message: string) {
    super(message)
    this.at = at
    this.torn = torn
  }
}
/** Names the segment and the place. */
export function damaged(path: string, at: number, message: string, cause?: unknown): SluiceError {
  return new SluiceError('LOG_DAMAGED', `${path}, byte ${at}: ${message}`, { cause })
}

function readHeader(bytes: Buffer, at: number): Header {
  const flaw = (message: string): Flaw => new Flaw(at, false, message)
  const sum = crc32(bytes, 0, 20)
  if (sum !== bytes.readInt32LE(20)) {
    const found = hex(bytes.readInt32LE(20))
    throw flaw(`expected the CRC32 ${hex(sum)} of a frame's header, found ${found}`)
  }
  if (bytes.readUInt32LE(0) !== MAGIC)
    throw flaw(`expected a frame that begins with "SLF1", found ${hex(bytes.readUInt32BE(0))}`)
  const version = bytes.readUInt16LE(6)
  if (version !== FORMAT_VERSION)
    throw flaw(`expected version ${FORMAT_VERSION} of the log's format, found ${version}`)
  const [kind, stored] = [kinds[bytes[4]! - 1], bytes[5]!]
  const [size, plain] = [bytes.readUInt32LE(8), bytes.readUInt32LE(12)]
  if (kind === undefined || stored > ZSTD || size > BODY_MAX || plain > BODY_MAX)
    throw flaw(`expected a kind of frame there is, found kind ${bytes[4]}, ${size} bytes`)
  return { kind, packed: stored === ZSTD, size, plain, sum: bytes.readInt32LE(16) }
}
const hex = (n: number): string => `0x${(n >>> 0).toString(16).padStart(8, '0')}`

function checkBody(header: Header, body: Buffer, at: number): void {
  const sum = crc32(body, 0, body.length)
  if (sum === header.sum) return
  const text = `expected the CRC32 ${hex(header.sum)} of a frame of ${header.size} bytes, found ${hex(sum)}`
  throw new Flaw(at, false, text)
}
function short(at: number, expected: number, found: number): Flaw {
  return new Flaw(at, true, `expected ${expected} bytes more, found ${found}`)
}

/** The frame at `at` of a file that ends at `end`; undefined at the end. Throws Flaw. */
export async function readFrame(
  file: FileHandle,
  at: number,
  end: number,
): Promise<Frame | undefined> {
  if (at === end) return undefined
  const head = Buffer.alloc(FRAME_HEADER)
  const got = await fill(file, head, at, end)
  if (got < FRAME_HEADER) throw short(at, FRAME_HEADER, got)
  const header = readHeader(head, at)
  const stored = Buffer.allocUnsafeSlow(Math.min(header.size, Math.max(0, end - at - FRAME_HEADER)))
  const have = await fill(file, stored, at + FRAME_HEADER, end)
  if (have < header.size) throw short(at + FRAME_HEADER, header.size, have)
  checkBody(header, stored, at)
  const body = header.packed
    ? await decompress(stored, { maxOutputLength: header.plain || 1 })
    : stored
  return { kind: header.kind, body, at, end: at + FRAME_HEADER + header.size }
}
async function fill(file: FileHandle, into: Buffer, at: number, end: number): Promise<number> {
  const wanted = Math.min(into.length, end - at)
  let have = 0
  while (have < wanted) {
    const { bytesRead } = await file.read(into, have, wanted - have, at + have)
    if (bytesRead === 0) break
    have += bytesRead
  }
  return have
}

/** As readFrame, at once: for the start, before anything runs. */
export function readFrameNow(fd: number, at: number, end: number): Frame | undefined {
  if (at === end) return undefined
  const fillNow = (into: Buffer, from: number): number => {
    const wanted = Math.min(into.length, end - from)
    let have = 0
    for (let read = 1; have < wanted && read > 0; have += read)
      read = readSync(fd, into, have, wanted - have, from + have)
    return have
  }
  const head = Buffer.alloc(FRAME_HEADER)
  const got = fillNow(head, at)
  if (got < FRAME_HEADER) throw short(at, FRAME_HEADER, got)
  const header = readHeader(head, at)
  const stored = Buffer.allocUnsafeSlow(Math.min(header.size, Math.max(0, end - at - FRAME_HEADER)))
  const have = fillNow(stored, at + FRAME_HEADER)
  if (have < header.size) throw short(at + FRAME_HEADER, header.size, have)
  checkBody(header, stored, at)
  const body = header.packed
    ? zstdDecompressSync(stored, { maxOutputLength: header.plain || 1 })
    : stored
  return { kind: header.kind, body, at, end: at + FRAME_HEADER + header.size }
}
