import { randomBytes } from 'node:crypto'
import { crc32 as zlibCrc32 } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { crc32, crcMemory } from '../src/crc.ts'

const SIZE = 100_000
const own = crcMemory(SIZE)
const plain = Buffer.alloc(SIZE)
randomBytes(SIZE).copy(plain)
plain.copy(own)

describe('crc32', () => {
  it('works in memory of its own', () => {
    expect(own.length).toBe(SIZE)
    expect(own.byteOffset).toBeGreaterThan(0) // else it is a plain buffer, and this file tests zlib against itself
  })
  it.each([
    ['memory of its own', own],
    ['a view of that', own.subarray(0, 90_000)],
    ['a view that begins later', own.subarray(7)],
    ['any other memory', plain],
  ])('is that of zlib in %s', (_name, bytes) => {
    const ranges = fc.tuple(fc.nat(80_000), fc.oneof(fc.nat(300), fc.nat(9_000)))
    fc.assert(
      fc.property(ranges, ([start, length]) => {
        const expected = zlibCrc32(bytes.subarray(start, start + length)) | 0
        expect(crc32(bytes, start, start + length)).toBe(expected)
      }),
      { numRuns: 2_000 },
    )
  })
  it('notices every bit', () => {
    const bytes = own.subarray(0, 64)
    const sum = crc32(bytes, 0, 64)
    for (let bit = 0; bit < 512; bit++) {
      bytes[bit >> 3]! ^= 1 << (bit & 7)
      expect(crc32(bytes, 0, 64)).not.toBe(sum)
      bytes[bit >> 3]! ^= 1 << (bit & 7)
    }
    expect(crc32(bytes, 0, 64)).toBe(sum)
  })
  it('several memories at a time', () => {
    const other = crcMemory(1_000)
    other.fill(1)
    expect(crc32(other, 0, 500)).toBe(zlibCrc32(other.subarray(0, 500)) | 0)
    expect(crc32(own, 0, 500)).toBe(zlibCrc32(own.subarray(0, 500)) | 0)
  })
})
