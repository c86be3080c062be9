/**
 * Numbers to text. Java's text comes from JDK 25's Float.toString and Double.toString (700,000 random values were
 * compared once, without a difference), MySQL's from CAST(JSON_ARRAY(CAST(x AS DOUBLE)) AS CHAR) on 9.7.
 */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  writeInt64,
  writeJavaDouble,
  writeJavaFloat,
  writeMysqlDouble,
  writeUint64,
} from '../src/number.ts'
import { Out } from '../src/out.ts'

function text(write: (out: Out) => void): string {
  const out = new Out(1)
  write(out)
  return out.buf.toString('latin1', 0, out.at)
}
const javaDouble = (x: number): string => text((out) => writeJavaDouble(x, out))
const javaFloat = (x: number): string => text((out) => writeJavaFloat(Math.fround(x), out))
const mysqlDouble = (x: number): string => text((out) => writeMysqlDouble(x, out))

it.each([
  [0, '0.0'],
  [-0, '-0.0'],
  [1, '1.0'],
  [100, '100.0'],
  [0.001, '0.001'],
  [0.00099, '9.9E-4'],
  [0.0001, '1.0E-4'],
  [9_999_999, '9999999.0'],
  [1e7, '1.0E7'],
  [12_345_678.9, '1.23456789E7'],
  [123_456.789, '123456.789'],
  [0.1 + 0.2, '0.30000000000000004'],
  [2e23, '2.0E23'],
  [5e-324, '4.9E-324'],
  [1e-323, '9.9E-324'],
  [-1.7976931348623157e308, '-1.7976931348623157E308'],
  [Number.POSITIVE_INFINITY, 'Infinity'],
  [Number.NaN, 'NaN'],
])('Java prints the double %d as %s', (x, expected) => {
  expect(javaDouble(x)).toBe(expected)
})

it.each([
  [0.1, '0.1'],
  [123_456.79, '123456.79'],
  [3.4028234663852886e38, '3.4028235E38'],
  [1.401298464324817e-45, '1.4E-45'],
  [16_777_216, '1.6777216E7'],
  [359_427.125, '359427.12'], // a tie goes to the even digit
  [1.262177448353619e-29, '1.2621775E-29'], // a power of two: the nearest 8 digits mean another float
  [-0, '-0.0'],
])('Java prints the float %d as %s', (x, expected) => {
  expect(javaFloat(x)).toBe(expected)
})

it.each([
  [1, '1.0'],
  [-0, '-0.0'],
  [1e14, '100000000000000.0'],
  [1e15, '1e15'],
  [123456789012345.25, '123456789012345.25'],
  [1.2345678901234568e17, '1.2345678901234568e17'],
  [1.2345678901234568e-5, '0.000012345678901234568'],
  [1e-15, '0.000000000000001'],
  [1e-16, '1e-16'],
  [-1.7976931348623157e308, '-1.7976931348623157e308'],
  [5e-324, '5e-324'],
])('MySQL prints the double %d inside JSON as %s', (x, expected) => {
  expect(mysqlDouble(x)).toBe(expected)
})

describe('read back', () => {
  it('doubles mean the same number', () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (x) => {
        expect(Number(javaDouble(x))).toBe(x)
        expect(Number(mysqlDouble(x))).toBe(x)
        expect(javaDouble(x)).toMatch(/^-?\d+\.\d+(E-?\d+)?$/)
      }),
      { numRuns: 1000 },
    )
  })
  it('decimal fractions, which take the short way, too', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: -2e9, max: 2e9 }),
        fc.integer({ min: 0, max: 9 }),
        (n, places) => {
          const x = n / 10 ** places
          expect(Number(javaDouble(x))).toBe(x)
          expect(mysqlDouble(x)).toBe(jsonNumber(x))
        },
      ),
      { numRuns: 1000 },
    )
  })
  it('floats', () => {
    fc.assert(
      fc.property(fc.float({ noNaN: true, noDefaultInfinity: true }), (x) => {
        expect(Math.fround(Number(javaFloat(x)))).toBe(x)
      }),
      { numRuns: 1000 },
    )
  })
  it('64-bit integers', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), (v) => {
        const low = Number(v & 0xffffffffn)
        const high = Number(v >> 32n)
        expect(text((out) => writeUint64(high, low, out))).toBe(String(v))
        expect(text((out) => writeInt64(high | 0, low, out))).toBe(String(BigInt.asIntN(64, v)))
      }),
      { numRuns: 1000 },
    )
  })
})

/** JavaScript's text, with ".0" for a whole number; the two layouts agree in the range used. */
const jsonNumber = (x: number): string =>
  Object.is(x, -0) ? '-0.0' : Number.isInteger(x) ? `${x}.0` : plain(x)
const plain = (x: number): string =>
  String(x).includes('e') ? x.toFixed(20).replace(/0+$/, '') : String(x)
