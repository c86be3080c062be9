/**
 * The quick way of writing rows against the slow one, byte for byte: random tables, rows and damage. No server;
 * test/binlog/values.mysql.test.ts does the same with what a real one logs.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { SOURCE_SHA256 } from '../../src/server/rows/wasm.ts'
import { bothWays } from './quick.ts'
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

it('the kernel was compiled from the source that is here: else `npm run native`', () => {
  const hash = createHash('sha256')
  for (const name of ['lines.ts', 'rows.ts', 'values.ts'])
    hash.update(readFileSync(new URL(`../../native/${name}`, import.meta.url)))
  expect(hash.digest('hex')).toBe(SOURCE_SHA256)
})
