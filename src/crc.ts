/**
 * CRC32 (the one of zlib) of ranges of memory, without a call out of the engine or an object for each: sixteen tables
 * (slicing-by-16) in WebAssembly, over memory that such a module can see. `crcMemory` gives out that memory, for a
 * reader to read into; ranges of any other go to zlib. Knows no events.
 */
import { crc32 as zlibCrc32 } from 'node:zlib'
import { engine } from './wasm.ts'

const PAGE = 65_536
const TABLES = 16
/** From here on zlib's own loop is quicker than ours, whatever the way there costs. */
const LONG = 4096

type Sum = (from: number, to: number, crc: number) => number
const sums = new WeakMap<ArrayBufferLike, Sum>()

/** Memory of `size` bytes in which sums are quick; plain memory where the engine has none of that kind. */
export function crcMemory(size: number): Buffer {
  if (engine === undefined) return Buffer.allocUnsafeSlow(size)
  try {
    const memory = new engine.Memory({ initial: 1 + Math.ceil(size / PAGE) })
    const { buffer } = memory
    fillTables(new Int32Array(buffer, 0, TABLES * 256))
    module ??= new engine.Module(Uint8Array.from(assemble()))
    const instance = new engine.Instance(module, { m: { m: memory } })
    sums.set(buffer, instance.exports['s'] as Sum)
    return Buffer.from(buffer, PAGE, size)
  } catch {
    return Buffer.allocUnsafeSlow(size)
  }
}

let lastBytes: Buffer | undefined
let lastSum: Sum | undefined
let lastOffset = 0

/** The sum of bytes[start, end), as a signed number. */
export function crc32(bytes: Buffer, start: number, end: number): number {
  if (bytes !== lastBytes) {
    lastBytes = bytes
    lastSum = sums.get(bytes.buffer)
    lastOffset = bytes.byteOffset
  }
  if (lastSum !== undefined && end - start < LONG)
    return ~lastSum(lastOffset + start, lastOffset + end, -1)
  return zlibCrc32(bytes.subarray(start, end)) | 0
}

function fillTables(t: Int32Array): void {
  for (let i = 0; i < 256; i++) {
    let c = i
    for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1
    t[i] = c
  }
  for (let i = 256; i < t.length; i++) t[i] = (t[i - 256]! >>> 8) ^ t[t[i - 256]! & 0xff]!
}

// ── the module ───────────────────────────────────────────────────────────────

let module: object | undefined

/** Instructions (WebAssembly core specification, 5.4) with what follows them. */
const get = (local: number): number[] => [0x20, local]
const set = (local: number): number[] => [0x21, local]
const load32 = (offset: number): number[] => [0x28, 0, ...unsigned(offset)]
const load8 = [0x2d, 0, 0]
const i32 = (v: number): number[] => [0x41, ...signed(v)]
const [and, xor, add, sub, shl, shr] = [[0x71], [0x73], [0x6a], [0x6b], [0x74], [0x76]]
const [less, notBelow] = [[0x48], [0x4f]] // signed; unsigned
const [block, loop, end, leave, again] = [[0x02, 0x40], [0x03, 0x40], [0x0b], [0x0d, 1], [0x0c, 0]]

function unsigned(v: number): number[] {
  return v < 0x80 ? [v] : [(v & 0x7f) | 0x80, ...unsigned(v >>> 7)]
}
function signed(v: number): number[] {
  return v >= -64 && v < 64 ? [v & 0x7f] : [(v & 0x7f) | 0x80, ...signed(v >> 7)]
}

/**
 * s(from, to, crc): while 16 bytes are left, crc = the xor of the tables' entries for each of them, the first four
 * xored with crc before; then byte by byte. The tables stand at 0: that of byte k of a step at (15 - k) * 1024.
 */
function assemble(): number[] {
  const [from, to, crc, word] = [0, 1, 2, 3]
  const entry = (byte: number): number[] => {
    const k = byte % 4
    const shift = k === 0 ? [...i32(2), ...shl] : [...i32(8 * k - 2), ...shr]
    return [...get(word), ...shift, ...i32(0x3fc), ...and, ...load32((15 - byte) * 1024)]
  }
  const step = [0, 4, 8, 12].flatMap((at) => {
    const word32 = [...get(from), ...load32(at), ...(at === 0 ? [...get(crc), ...xor] : [])]
    const entries = [0, 1, 2, 3].flatMap((k) => [...entry(at + k), ...(at + k === 0 ? [] : xor)])
    return [...word32, ...set(word), ...entries]
  })
  const code = [
    [...block, ...loop, ...get(to), ...get(from), ...sub, ...i32(16), ...less, ...leave],
    [...step, ...set(crc), ...get(from), ...i32(16), ...add, ...set(from), ...again, ...end],
    [...end, ...block, ...loop, ...get(from), ...get(to), ...notBelow, ...leave],
    [...get(crc), ...get(from), ...load8, ...xor, ...i32(255), ...and, ...i32(2), ...shl],
    [...load32(0), ...get(crc), ...i32(8), ...shr, ...xor, ...set(crc)],
    [...get(from), ...i32(1), ...add, ...set(from), ...again, ...end, ...end, ...get(crc), ...end],
  ].flat()
  const body = [1, 1, 0x7f, ...code] // one more local, an i32
  const section = (id: number, bytes: number[]): number[] => [
    id,
    ...unsigned(bytes.length),
    ...bytes,
  ]
  const magic = [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0]
  return [
    ...magic,
    ...section(1, [1, 0x60, 3, 0x7f, 0x7f, 0x7f, 1, 0x7f]), // the type: three i32 → i32
    ...section(2, [1, 1, 0x6d, 1, 0x6d, 2, 0, 1]), // imports memory m.m
    ...section(3, [1, 0]),
    ...section(7, [1, 1, 0x73, 0, 0]), // exports s
    ...section(10, [1, ...unsigned(body.length), ...body]),
  ]
}
