/** The byte writer against plain Buffers. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Out, constantOf, varintSize } from '../src/out.ts'

const written = (out: Out): Buffer => Buffer.from(out.buf.subarray(0, out.at))

test('bytes and constants of any length and offset, from any source, into any buffer', () => {
  const source = fc.uint8Array({ minLength: 1, maxLength: 2000 })
  const step = fc.record({
    which: fc.nat(2),
    from: fc.nat(),
    length: fc.oneof(fc.nat(40), fc.nat(2000)),
    kind: fc.constantFrom('bytes', 'constant', 'latin1'),
  })
  fc.assert(
    fc.property(
      fc.tuple(source, source, source),
      fc.array(step, { maxLength: 30 }),
      (sources, steps) => {
        const out = new Out(1)
        const expected: Buffer[] = []
        for (const { which, from, length, kind } of steps) {
          const src = Buffer.from(sources[which]!)
          const start = from % src.length
          const end = Math.min(src.length, start + length)
          const slice = src.subarray(start, end)
          if (kind === 'bytes') out.bytes(src, start, end)
          else if (kind === 'constant') out.constant(constantOf(slice))
          else out.latin1(src, start, end)
          expected.push(kind === 'latin1' ? Buffer.from(slice.toString('latin1')) : slice)
        }
        expect(written(out).equals(Buffer.concat(expected))).toBe(true)
      },
    ),
  )
})

test('a length is right whatever was guessed for its width', () => {
  const size = fc.oneof(
    fc.nat(300),
    fc.integer({ min: 16_000, max: 17_000 }),
    fc.constant(2_100_000),
  )
  fc.assert(
    fc.property(size, fc.integer({ min: 1, max: 5 }), (length, guess) => {
      const out = new Out(16)
      out.u8(0xaa)
      const mark = out.begin(guess)
      const body = Buffer.alloc(length, 7)
      out.bytes(body, 0, length)
      const width = out.end(mark, guess)
      out.ensure(1)
      out.u8(0xbb)
      const prefix = new Out(16)
      prefix.varint(length)
      expect(width).toBe(varintSize(length))
      const expected = Buffer.concat([
        Buffer.from([0xaa]),
        written(prefix),
        body,
        Buffer.from([0xbb]),
      ])
      expect(written(out).equals(expected)).toBe(true)
    }),
    { numRuns: 60 },
  )
})

test('goes on in another buffer', () => {
  const out = new Out(8)
  out.ascii('first')
  const first = out.buf
  const second = Buffer.alloc(64)
  out.use(second)
  out.bytes(Buffer.from('a text that is copied word by word'), 2, 34)
  out.constant(constantOf(Buffer.from('123456789')))
  expect(first.toString('latin1', 0, 5)).toBe('first')
  expect(second.toString('latin1', 0, out.at)).toBe('text that is copied word by word123456789')
})
