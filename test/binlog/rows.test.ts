/** Rows events built byte by byte: bitmaps, images, order, and everything that does not fit. No server. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { compileColumn } from '../../src/binlog/column.ts'
import { BinlogRows } from '../../src/binlog/rows.ts'
import { eventTypes } from '../../src/binlog/reader.ts'
import type { RowsHeader } from '../../src/binlog/rows-header.ts'
import { parseTimeZone } from '../../src/binlog/time.ts'
import {
  ABSENT,
  AFTER,
  BEFORE,
  NULL,
  PRESENT,
  type RowReader,
  type Table,
  type Value,
} from '../../src/change.ts'
import { SluiceError } from '../../src/errors.ts'
import { Out } from '../../src/out.ts'
import { FORMAT, typeOf } from '../server/random.ts'
import { encodeJson } from './json/encode.ts'

const TINY = { type: 1, meta: 0 }
const INT = { type: 3, meta: 0 }
const VARCHAR = { type: 15, meta: 30 }
const LONG_VARCHAR = { type: 15, meta: 300 }
const TEXT = { type: 252, meta: 3 }
const LONG_TEXT = { type: 252, meta: 4 }
const JSON_TYPE = { type: 245, meta: 4 }

function tableOf(...types: { type: number; meta: number }[]): Table {
  const columns = types.map(({ type, meta }, index) =>
    compileColumn(
      {
        name: `c${index}`,
        index,
        type,
        meta,
        unsigned: false,
        collation: type === 15 || type === 252 ? 255 : 0,
        mysqlType: '',
        key: false,
        nullable: true,
        invisible: false,
        members: undefined,
      },
      parseTimeZone('UTC'),
    ),
  )
  return { database: 'db', name: 't', columns, selected: columns, origin: 'event' }
}

interface Event {
  readonly kind: RowsHeader['kind']
  readonly rows: string | Buffer // hexadecimal
  readonly before?: readonly number[] // columns of the image; all
  readonly after?: readonly number[]
  readonly partial?: boolean
  readonly width?: number
}

/** What follows the event in its slab: lengths that would lead far away, were they read. */
const FOREIGN = Buffer.alloc(64, 0xff)

function rowsOf(table: Table, event: Event): BinlogRows {
  const { kind, partial = false, width = table.columns.length } = event
  const all = table.columns.map((c) => c.index)
  const bits = (columns: readonly number[]): Buffer => {
    const bitmap = Buffer.alloc((width + 7) >> 3)
    for (const i of columns) bitmap[i >> 3]! |= 1 << (i & 7)
    return bitmap
  }
  const start = 7
  const head = Buffer.alloc(30, 0xff) // the event's header, then a table id, flags, 2 bytes of extra data, the width
  head[4] = partial ? eventTypes.PARTIAL_UPDATE_ROWS : typeOf[kind]
  head.writeUIntLE(9, 19, 6)
  head.writeUInt16LE(2, 27)
  head[29] = width
  const images = kind === 'update' ? [event.before, event.after] : [event.before ?? event.after]
  const body =
    typeof event.rows === 'string' ? Buffer.from(event.rows.replaceAll(' ', ''), 'hex') : event.rows
  const whole = Buffer.concat([head, ...images.map((columns) => bits(columns ?? all)), body])
  const bytes = Buffer.concat([Buffer.alloc(start, 0xff), whole, FOREIGN])
  const end = start + whole.length
  const raw = { bytes, start, end, offset: 1234, length: end - start }
  return new BinlogRows({ ...raw, kind, ordinal: 3, table, format: FORMAT })
}
const values = (table: Table, event: Event): { before: unknown; after: unknown }[] => [
  ...rowsOf(table, event).rows(),
]

describe('images', () => {
  const table = tableOf(TINY, VARCHAR, INT)

  it('insert: several rows', () => {
    expect(
      values(table, { kind: 'insert', rows: '00 01 0161 05000000  02 02 06000000  06 03' }),
    ).toEqual([
      { before: undefined, after: [1, 'a', 5] },
      { before: undefined, after: [2, null, 6] },
      { before: undefined, after: [3, null, null] },
    ])
  })
  it('update and delete', () => {
    expect(values(table, { kind: 'update', rows: '00 01 0161 05000000  04 02 026262' })).toEqual([
      { before: [1, 'a', 5], after: [2, 'bb', null] },
    ])
    expect(values(table, { kind: 'delete', rows: '07' })).toEqual([
      { before: [null, null, null], after: undefined },
    ])
  })
  it('columns left out are absent, not NULL; null bits count the columns present', () => {
    const event: Event = { kind: 'update', before: [0], after: [1, 2], rows: '00 01  01 05000000' }
    expect(values(table, event)).toEqual([
      { before: [1, undefined, undefined], after: [undefined, null, 5] },
    ])
    const reader = rowsOf(table, event).reader()
    reader.next()
    const states = [BEFORE, AFTER].map((side) =>
      [0, 1, 2].map((c) => reader.state(side as 0 | 1, c)),
    )
    expect(states).toEqual([
      [PRESENT, ABSENT, ABSENT],
      [ABSENT, NULL, PRESENT],
    ])
    expect([0, 1, 2].map((c) => reader.changed(c))).toEqual([true, true, true])
  })
  it('null bits and image bits beyond the first byte', () => {
    const wide = tableOf(...Array.from({ length: 19 }, () => TINY))
    const nulls = [0, 7, 8, 18]
    const bitmap = Buffer.alloc(3)
    for (const i of nulls) bitmap[i >> 3]! |= 1 << (i & 7)
    const bytes = Buffer.from(Array.from({ length: 15 }, (_, i) => i))
    const [row] = values(wide, { kind: 'insert', rows: Buffer.concat([bitmap, bytes]) })
    const after = row!.after as Value[]
    expect(after.flatMap((v, i) => (v === null ? [i] : []))).toEqual(nulls)
    expect(after.filter((v) => v !== null)).toEqual([...bytes])
    const [some] = values(wide, { kind: 'insert', after: [3, 9, 17], rows: '02 0a 0b' })
    expect(some!.after).toEqual(
      Array.from({ length: 19 }, (_, i) => ({ 3: 10, 9: null, 17: 11 })[i]),
    )
  })
  it('lengths of one to four bytes', () => {
    const lengths = tableOf(VARCHAR, LONG_VARCHAR, TEXT, LONG_TEXT)
    const rows = '00 0161 0200 6262 030000 636363 04000000 64646464'
    expect(values(lengths, { kind: 'insert', rows })).toEqual([
      { before: undefined, after: ['a', 'bb', 'ccc', 'dddd'] },
    ])
  })
  it('an event without rows', () => {
    expect(values(table, { kind: 'insert', rows: '' })).toEqual([])
  })
})

describe('a reader', () => {
  const table = tableOf(TINY, VARCHAR)
  const event: Event = { kind: 'insert', rows: '00 01 0161  00 02 0162' }

  it('goes on by itself while others read', () => {
    const readers = Array.from({ length: 7 }, () => rowsOf(table, event).reader())
    const seen: Value[][] = readers.map(() => [])
    for (let step = 0; step < 3; step++)
      for (const [i, reader] of readers.entries()) {
        if (i % 2 === 1 && step === 0) continue // half of them lag behind
        if (reader.next()) seen[i]!.push(reader.value(AFTER, 1)!)
      }
    for (const [i, list] of seen.entries()) expect(list, `reader ${i}`).toEqual(['a', 'b'])
  })
  it('is over when it is over, until somebody asks for the next one', () => {
    const ended = rowsOf(table, event).reader()
    while (ended.next());
    expect(ended.next()).toBe(false)
    expect(ended.value(AFTER, 0)).toBeUndefined()
    expect(ended.state(AFTER, 0)).toBe(ABSENT)
    const other = rowsOf(table, { kind: 'delete', rows: '00 03 0163' }).reader()
    expect(other.next()).toBe(true)
    expect(other.state(AFTER, 0)).toBe(ABSENT)
    expect(other.value(BEFORE, 0)).toBe(3)
    expect(other.next()).toBe(false)
  })
  it('of another version of the table has its own columns', () => {
    const other = tableOf(VARCHAR, TINY, TINY)
    const rows = (t: Table, e: Event): Value[] => values(t, e).map((r) => (r.after as Value[])[0]!)
    expect(rows(table, event)).toEqual([1, 2])
    expect(rows(other, { kind: 'insert', rows: '00 0178 01 02' })).toEqual(['x'])
    expect(rows(table, event)).toEqual([1, 2])
  })
})

describe('changed', () => {
  it.each([
    ['equal', '00 05 0161  00 05 0161', [false, false]],
    ['a number', '00 05 0161  00 06 0161', [true, false]],
    ['a text', '00 05 0161  00 05 0162', [false, true]],
    ['a longer text', '00 05 0161  00 05 026161', [false, true]],
    ['to NULL', '00 05 0161  02 05', [false, true]],
    ['from NULL', '03  02 05', [true, false]],
    ['both NULL', '03 03', [false, false]],
  ])('%s', (_what, rows, expected) => {
    const reader = rowsOf(tableOf(TINY, VARCHAR), { kind: 'update', rows }).reader()
    reader.next()
    expect([reader.changed(0), reader.changed(1)]).toEqual(expected)
  })
  it('texts of any length that differ in one byte', () => {
    const table = tableOf(TEXT)
    const row = (b: Buffer): Buffer =>
      Buffer.concat([Buffer.of(0, b.length & 255, b.length >> 8, 0), b])
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 300 }), fc.nat(), (length, where) => {
        const a = Buffer.alloc(length, 0x61)
        const b = Buffer.from(a)
        b[where % length] = 0x62
        const answers = [a, b].map((after) => {
          const rows = Buffer.concat([row(a), row(after)])
          const reader = rowsOf(table, { kind: 'update', rows }).reader()
          reader.next()
          return reader.changed(0)
        })
        expect(answers).toEqual([false, true])
      }),
    )
  })
  it('equal JSON documents stored differently', () => {
    const length = (b: Buffer): Buffer => Buffer.of(0, b.length & 255, b.length >> 8, 0, 0)
    const small = encodeJson({ a: [1, 'x'] }, false)
    const large = encodeJson({ a: [1, 'x'] }, true)
    const rows = Buffer.concat([length(small), small, length(large), large])
    const reader = rowsOf(tableOf(JSON_TYPE), { kind: 'update', rows }).reader()
    reader.next()
    expect(reader.changed(0)).toBe(false)
  })
})

describe('rows that do not fit', () => {
  const table = tableOf(INT, VARCHAR, LONG_VARCHAR, TEXT, LONG_TEXT)
  const row = '00 01000000 0161 0100 62 010000 63 01000000 64'

  it('every way of cutting a row short is found, and nothing beyond the event is read', () => {
    const whole = Buffer.from(row.replaceAll(' ', ''), 'hex')
    expect(values(table, { kind: 'insert', rows: whole })).toHaveLength(1)
    for (let length = 1; length < whole.length; length++) {
      const rows = whole.subarray(0, length)
      expect(() => values(table, { kind: 'insert', rows }), `${length} bytes`).toThrow(
        expect.objectContaining({ code: 'ROWS_MALFORMED' }),
      )
    }
  })
  it('bytes behind the last row are the beginning of one that does not fit', () => {
    expect(() => values(table, { kind: 'insert', rows: `${row} 00` })).toThrow(
      /^db\.t, rows event at offset 1234 \(ordinal 3\), row 1, column "c0": expected it to end within the event's \d+ bytes, found byte \d+$/,
    )
  })
  it('the message names the place', () => {
    expect(() => values(table, { kind: 'insert', rows: `${row} 00 01000000 7f61` })).toThrow(
      /row 1, column "c1": expected/,
    )
    expect(() =>
      values(table, { kind: 'insert', rows: '00 01000000 00 0000 000000 ffffffff' }),
    ).toThrow(/row 0, column "c4": expected .* found byte 4294967\d+$/)
  })
  it('another number of columns', () => {
    expect(() => rowsOf(table, { kind: 'insert', rows: row, width: 4 }).reader()).toThrow(
      expect.objectContaining({
        code: 'SCHEMA_MISMATCH',
        message: expect.stringContaining("expected the table's 5 columns, the event has 4"),
      }),
    )
  })
  it('an image without columns cannot go on for ever', () => {
    expect(() => values(table, { kind: 'insert', after: [], rows: '00' })).toThrow(
      /row 0, rows: expected a row of at least one byte, found 0/,
    )
  })
  it('a malformed value says where it is', () => {
    const json = tableOf(TINY, JSON_TYPE)
    const reader = rowsOf(json, { kind: 'insert', rows: '00 01 02000000 0403' }).reader()
    reader.next()
    const message =
      /^db\.t, rows event at offset 1234 \(ordinal 3\), row 0, column "c1": JSON value of 2 bytes/
    expect(() => reader.value(AFTER, 1)).toThrow(message)
    expect(() => reader.text(AFTER, 1, new Out())).toThrow(message)
  })
  it('any bytes are rows or are refused', () => {
    const json = tableOf(TINY, VARCHAR, JSON_TYPE, LONG_TEXT)
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 80 }),
        fc.constantFrom<Event['kind']>('insert', 'update', 'delete'),
        fc.boolean(),
        (bytes, kind, partial) => {
          const event: Event = {
            kind,
            rows: Buffer.from(bytes),
            partial: partial && kind === 'update',
          }
          try {
            readAll(rowsOf(json, event).reader())
          } catch (error) {
            if (!(error instanceof SluiceError)) throw error
            expect(error.code).toBe('ROWS_MALFORMED')
          }
        },
      ),
      { numRuns: 3000 },
    )
  })
})

function readAll(reader: RowReader): void {
  const out = new Out()
  while (reader.next())
    for (let column = 0; column < 4; column++)
      for (const side of [BEFORE, AFTER] as const) {
        reader.value(side, column)
        if (reader.state(side, column) === PRESENT) reader.text(side, column, out)
        reader.changed(column)
      }
}

describe('JSON diffs', () => {
  const table = tableOf(TINY, JSON_TYPE, JSON_TYPE)
  const json = (value: unknown): Buffer => sized(encodeJson(value, false))
  const sized = (b: Buffer): Buffer => Buffer.concat([Buffer.of(b.length, 0, 0, 0), b])
  const replaceA = Buffer.from([0, 3, 0x24, 0x2e, 0x61, 3, 5, 7, 0]) // replace $.a with 7

  it('bits count the JSON columns of the table, also those outside the image', () => {
    const rows = Buffer.concat([
      Buffer.of(0, 1),
      json({ a: 1 }),
      json({ a: 2 }), // before
      Buffer.of(1, 0b10, 0),
      sized(replaceA), // after: options, diff bits, null bits, column 2
    ])
    const reader = rowsOf(table, { kind: 'update', rows, after: [2], partial: true }).reader()
    expect(reader.next()).toBe(true)
    expect(reader.value(AFTER, 1)).toBeUndefined()
    expect(reader.value(AFTER, 2)).toBe('{"a": 7}')
    expect(reader.changed(2)).toBe(true)
    const out = new Out()
    reader.text(AFTER, 2, out)
    expect(out.buf.toString('utf8', 0, out.at)).toBe('{"a": 7}')
    expect(reader.next()).toBe(false)
  })
  it('without a before image there is a marker', () => {
    const rows = Buffer.concat([Buffer.of(0, 1, 1, 0b01, 0), sized(replaceA), json([1])])
    const reader = rowsOf(table, {
      kind: 'update',
      rows,
      before: [0],
      after: [1, 2],
      partial: true,
    }).reader()
    reader.next()
    expect(reader.value(AFTER, 1)).toEqual({ kind: 'jsonDiff', text: "JSON_REPLACE(c1, '$.a', 7)" })
    expect(reader.value(AFTER, 2)).toBe('[1]')
    const out = new Out()
    reader.text(AFTER, 1, out)
    expect(out.buf.toString('utf8', 0, out.at)).toBe("JSON_REPLACE(c1, '$.a', 7)")
  })
  it('a row without options is a plain after image, row by row', () => {
    const full = [Buffer.of(0, 1), json(1), json(2)]
    const rows = Buffer.concat([
      ...full,
      Buffer.of(1, 0b01, 0, 2),
      sized(Buffer.alloc(0)),
      json(3),
      ...full,
      Buffer.of(0, 0, 2),
      json(4),
      json(5),
    ])
    const after = values(table, { kind: 'update', rows, partial: true }).map((r) => r.after)
    expect(after).toEqual([
      [2, '1', '3'],
      [2, '4', '5'],
    ])
  })
  it('an unknown option is refused', () => {
    const rows = Buffer.concat([Buffer.of(0, 1), json(1), json(2), Buffer.of(2, 0)])
    expect(() => values(table, { kind: 'update', rows, partial: true })).toThrow(
      /expected the value options 0 or 1, found 2/,
    )
  })
})
