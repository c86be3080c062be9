/**
 * The quick way of writing rows against the slow one, byte for byte: random tables, rows and damage. No server;
 * test/binlog/values.mysql.test.ts does the same with what a real one logs.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { SOURCE_SHA256 } from '../../src/server/rows/wasm.ts'
import { encodeJson } from '../binlog/json/encode.ts'
import { bothWays, inOnePiece, withSpans } from './quick.ts'
import {
  blob,
  cases,
  damaging,
  eventOf,
  everyKind,
  kinds,
  raw,
  rowsOf,
  tableOf,
  UTF8MB4,
  type Images,
  type Kind,
} from './random.ts'

describe('the quick way writes what the slow one writes', () => {
  it('for any table and rows', () => {
    fc.assert(
      fc.property(cases, everyKind, ({ table, rows }, kind) => {
        const { usual, slow, quick } = bothWays(rowsOf(table, kind, eventOf(kind, rows)))
        expect(usual).toBe(slow)
        expect(quick).toBe(true)
      }),
      { numRuns: 300 },
    )
  })
  it('and fails as it fails, whatever is wrong', () => {
    fc.assert(
      fc.property(cases, everyKind, damaging, ({ table, rows }, kind, damage) => {
        const { usual, slow } = bothWays(rowsOf(table, kind, damage(eventOf(kind, rows))))
        expect(usual).toBe(slow)
      }),
      { numRuns: 500 },
    )
  })
  it('for lengths of every width', () => {
    for (const length of [0, 1, 60, 90, 100, 126, 127, 128, 200, 16_300, 16_383, 16_384, 60_000]) {
      const text = Buffer.alloc(3 + length, 'x')
      text.writeUIntLE(length, 0, 3)
      const high = Buffer.alloc(3 + length, 0xe9)
      high.writeUIntLE(length, 0, 3)
      for (const [collation, value] of [
        [UTF8MB4, text],
        [63, text],
        [63, high],
      ] as const) {
        const table = tableOf([blob(3, collation, raw(1)), kinds[0]!], [false, true], [true, true])
        const small = { before: [value, Buffer.of(200)], after: [value, Buffer.of(100)] }
        const rows = [small, { before: [null, null], after: [Buffer.alloc(3), Buffer.of(1)] }]
        for (const kind of ['insert', 'update'] as const) {
          const body = eventOf(kind, rows)
          const { usual, slow, quick } = bothWays(rowsOf(table, kind, body))
          expect(usual === slow).toBe(true)
          expect(quick).toBe(body.length < 64 * 1024)
        }
      }
    }
  })
  it('for more rows than its output holds at a time, and for thousands of columns', () => {
    const wide = Array.from({ length: 3000 }, (_, i) => kinds[i % kinds.length]!)
    const flags = wide.map(() => true)
    for (const [of, count] of [
      [wide, 5],
      [wide.slice(0, 1000), 20],
      [wide.slice(0, 1), 30_000],
    ] as const) {
      const table = tableOf(of, flags, flags)
      const row = { before: of.map(() => null), after: of.map(() => null) }
      const rows = Array.from({ length: count }, () => row)
      const { usual, slow, quick } = bothWays(rowsOf(table, 'update', eventOf('update', rows)))
      expect(usual === slow).toBe(true)
      expect(quick).toBe(of.length < 3000) // whose program is too long
    }
  })
})

describe('huge values are left out and put where they belong', () => {
  const MIB = 1024 * 1024
  const value = (prefix: number, bytes: Buffer): Buffer => {
    const head = Buffer.alloc(prefix)
    head.writeUIntLE(bytes.length, 0, prefix)
    return Buffer.concat([head, bytes])
  }
  const pattern = (size: number): Buffer => Buffer.alloc(size, Buffer.from('abc\u00e9', 'latin1'))
  // a BLOB, a TEXT in utf8mb4 and one in latin1, a JSON document, and what stands between them
  const of: Kind[] = [
    kinds[3]!,
    blob(4, 63, raw(1)),
    blob(4, UTF8MB4, raw(1)),
    blob(4, 8, raw(1)),
    { type: 245, meta: 4, values: raw(1) },
    { type: 15, meta: 40, collation: UTF8MB4, values: raw(1) },
  ]
  const flags = (except?: number): boolean[] => of.map((_, i) => i !== except)
  const row = (id: number, sizes: readonly (number | null)[], word: string): Images => {
    const [binary, utf8, latin1, json] = sizes.map((size) =>
      size === null ? null : value(4, pattern(size)),
    )
    const text = utf8 && value(4, Buffer.alloc(utf8.length - 4, 'Grüße'))
    const document = json && value(4, encodeJson({ a: 'x'.repeat(json.length), b: [1] }, true))
    return [Buffer.of(id, 0, 0, 0), binary!, text!, latin1!, document!, value(1, Buffer.from(word))]
  }
  it.each([
    ['a BLOB', [2 * MIB, 5, 5, 5], 1],
    ['a TEXT', [5, 2 * MIB, null, 5], 1],
    ['a TEXT in another character set', [null, 5, 2 * MIB, 5], 1],
    ['a JSON document', [5, 5, 5, 2 * MIB], 1],
    ['all of them', [MIB, MIB, MIB, MIB], 4],
    ['one just large enough, among others that are not', [256 * 1024, 255 * 1024, MIB, 9], 2],
  ] as const)('%s', (_, sizes, spans) => {
    const table = tableOf(of, flags(0), flags())
    const small = row(200, [1, 2, 3, 4], 'small')
    const large = row(7, sizes, 'large')
    const rows = [
      { before: large, after: small },
      { before: small, after: large },
      { before: large, after: large }, // nothing has changed
    ]
    for (const [kind, times] of [
      ['insert', 2],
      ['update', 4],
      ['delete', 2],
    ] as const) {
      const change = rowsOf(table, kind, eventOf(kind, rows))
      const found = withSpans(change)
      expect(found.spans).toBe(spans * times)
      expect(found.entry.equals(inOnePiece(change))).toBe(true)
    }
  })
  it('but not of columns that are not delivered, nor in events that are not large', () => {
    const large = row(1, [2 * MIB, 1, 1, 1], '')
    const body = eventOf('insert', [{ before: large, after: large }])
    const hidden = rowsOf(tableOf(of, flags(), flags(1)), 'insert', body)
    expect(withSpans(hidden)).toEqual({ entry: inOnePiece(hidden), spans: 0 })
    const less = row(1, [MIB / 2, 1, 1, 1], '')
    const event = eventOf('insert', [{ before: less, after: less }])
    const whole = rowsOf(tableOf(of, flags(), flags()), 'insert', event)
    expect(withSpans(whole).spans).toBe(0)
  })
  it('and rows that do not add up fail as they always do', () => {
    const body = eventOf('insert', [{ before: [], after: row(1, [2 * MIB, 1, 1, 1], 'x') }])
    const short = rowsOf(tableOf(of, flags(), flags()), 'insert', body.subarray(0, -1))
    expect(() => withSpans(short)).toThrow(/expected it to end within the event's/)
  })
})

it('the kernel was compiled from the source that is here: else `npm run native`', () => {
  const hash = createHash('sha256')
  for (const name of ['lines.ts', 'rows.ts', 'values.ts'])
    hash.update(readFileSync(new URL(`../../native/${name}`, import.meta.url)))
  expect(hash.digest('hex')).toBe(SOURCE_SHA256)
})
