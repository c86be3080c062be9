/**
 * Rows as JSON, the quick way against the slow one, byte for byte: random tables, rows and damage. No server;
 * test/binlog/values.mysql.test.ts does the same with what a real one logs.
 */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { compileMapping } from '../../src/sinks/shape/mapping.ts'
import { ruleSchema } from '../../src/sinks/runner/options.ts'
import { transactionOf } from '../server/changes.ts'
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
} from '../server/random.ts'
import { eventLines, flatMessages, plainLines } from './lines.ts'

const tx = transactionOf(123_456, [])
const options = fc.record({
  decimal: fc.constantFrom('string', 'number'),
  binary: fc.constantFrom('base64', 'hex'),
})

describe('all rows of an event at once are what they are one by one', () => {
  it('for any table and rows', () => {
    fc.assert(
      fc.property(cases, everyKind, options, ({ table, rows }, kind, chosen) => {
        const change = rowsOf(table, kind, eventOf(kind, rows))
        const plain = plainLines(change, { ...chosen, tx })
        expect(plain.quick).toEqual(plain.slow)
        const events = eventLines(change, { ...chosen, tx })
        const moved = kind === 'update' && events.slow.length > rows.length
        expect(events.quick).toEqual(moved ? undefined : events.slow)
        const flat = flatMessages(change, { tx })
        // undefined where a key has other characters than ASCII
        if (flat.quick !== undefined) expect(flat.quick).toEqual(flat.slow)
      }),
      { numRuns: 300 },
    )
  })
  it('and refused where one by one they fail, whatever is wrong', () => {
    fc.assert(
      fc.property(cases, everyKind, damaging, ({ table, rows }, kind, damage) => {
        const change = rowsOf(table, kind, damage(eventOf(kind, rows)))
        const all = [plainLines, eventLines, flatMessages]
        for (const { slow, quick } of all.map((lines) => lines(change, { tx })))
          if (quick !== undefined) expect(quick).toEqual(slow)
      }),
      { numRuns: 500 },
    )
  })
  it('with names and values that have escapes, and lengths of every width', () => {
    const every = Buffer.from(Array.from({ length: 128 }, (_, i) => i))
    for (const text of [
      every,
      Buffer.from(`"\\${'x'.repeat(3000)}\u0001"`),
      Buffer.alloc(60_000, 'y'),
    ]) {
      const value = Buffer.concat([Buffer.alloc(3), text])
      value.writeUIntLE(text.length, 0, 3)
      for (const collation of [UTF8MB4, 63]) {
        const table = tableOf([blob(3, collation, raw(1)), kinds[0]!], [false, true], [true, true])
        const named = { ...table, database: 'a"b', name: 'ü\n' }
        const row = { before: [value, Buffer.of(200)], after: [value, null] }
        for (const kind of ['insert', 'update', 'delete'] as const) {
          const body = eventOf(kind, [row, row])
          for (const lines of [eventLines, flatMessages]) {
            const { slow, quick } = lines(rowsOf(named, kind, body), { tx })
            expect(quick).toEqual(body.length < 64 * 1024 ? slow : undefined)
          }
        }
      }
    }
  })
  it('of renamed columns and some of them; not of those that a rule makes', () => {
    const of = [kinds[0]!, kinds[3]!, kinds[4]!]
    const table = tableOf(of, [false, false, true], [true, true, true])
    const row = { before: of.map(() => null), after: [Buffer.of(7), null, Buffer.alloc(8, 0xff)] }
    const change = rowsOf(table, 'insert', eventOf('insert', [row]))
    const mapped = (rule: object) => {
      const target = compileMapping([ruleSchema.parse({ match: '.*', ...rule })], 'sinks.x')
      return plainLines(change, { tx, target })
    }
    const { slow, quick } = mapped({
      rename: { column_2: 'big "one"' },
      columns: { exclude: ['column_1'] },
    })
    expect(quick).toEqual(slow)
    expect(slow[0]).toContain('"after":{"column_0":7,"big \\"one\\"":18446744073709551615}')
    for (const rule of [{ mask: { column_2: 'hash' } }, { constants: { shard: '7' } }])
      expect(mapped(rule).quick).toBeUndefined()
  })
  it('up to as many rows and bytes as there is room for', () => {
    for (const [width, count, fits] of [
      [1, 10_000, true],
      [1, 40_000, false],
      [1000, 200, false],
    ] as const) {
      const of = Array.from({ length: width }, (_, i) => kinds[i % 5]!)
      const flags = of.map(() => true)
      const nulls = of.map(() => null)
      const rows = Array.from({ length: count }, () => ({ before: nulls, after: nulls }))
      const change = rowsOf(tableOf(of, flags, flags), 'update', eventOf('update', rows))
      const { slow, quick } = plainLines(change, { tx })
      expect(quick !== undefined).toBe(fits)
      if (fits) expect(quick).toEqual(slow)
      const flat = flatMessages(change, { tx })
      if (width === 1) expect(flat.quick !== undefined).toBe(fits)
      if (flat.quick !== undefined) expect(flat.quick).toEqual(flat.slow)
    }
  })
})
