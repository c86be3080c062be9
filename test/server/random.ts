/**
 * Random tables and rows as a binlog has them, made without a server: for comparing two ways of writing the same.
 */
import fc from 'fast-check'
import { compileColumn } from '../../src/binlog/column.ts'
import { eventTypes, type Format } from '../../src/binlog/reader.ts'
import { BinlogRows } from '../../src/binlog/rows.ts'
import { parseTimeZone } from '../../src/binlog/time.ts'
import type { RowsChange, Table } from '../../src/change.ts'
import { encodeJson } from '../binlog/json/encode.ts'

/** A type as the table map has it, and its values as a row image has them, lengths included. */
export interface Kind {
  readonly type: number
  readonly meta: number
  readonly collation?: number
  readonly values: fc.Arbitrary<Buffer>
}
export type Images = readonly (Buffer | null)[]

export const raw = (size: number): fc.Arbitrary<Buffer> =>
  fc.uint8Array({ minLength: size, maxLength: size }).map((b) => Buffer.from(b))
const sized = (width: number, bytes: fc.Arbitrary<Buffer>): fc.Arbitrary<Buffer> =>
  bytes.map((b) => {
    const length = Buffer.alloc(width)
    length.writeUIntLE(b.length, 0, width)
    return Buffer.concat([length, b])
  })
const anyBytes = (maxLength: number): fc.Arbitrary<Buffer> =>
  fc.uint8Array({ maxLength }).map((b) => Buffer.from(b))
const utf8 = (maxLength: number): fc.Arbitrary<Buffer> =>
  fc.string({ unit: 'binary', maxLength }).map((s) => Buffer.from(s.toWellFormed()))
/** Every group of a packed decimal is below 10^9 when its first byte is below 3B. */
const decimal = (size: number): fc.Arbitrary<Buffer> =>
  fc
    .tuple(fc.array(fc.nat(0x3a), { minLength: size, maxLength: size }), fc.boolean())
    .map(([b, negative]) => {
      const bytes = Buffer.from(b)
      bytes[0]! |= 0x80
      return negative ? Buffer.from(bytes.map((v) => ~v)) : bytes
    })
const fractional = (size: number, digits: number): fc.Arbitrary<Buffer> => {
  const extra = (digits + 1) >> 1
  return fc.tuple(raw(size), fc.nat(100 ** extra - 1)).map(([whole, v]) => {
    const part = Buffer.alloc(extra)
    if (extra > 0) part.writeUIntBE(v, 0, extra)
    return Buffer.concat([whole, part])
  })
}
/** A TIME2 is its magnitude added to or taken from the number in the middle. */
const time = (digits: number): fc.Arbitrary<Buffer> => {
  const extra = (digits + 1) >> 1
  const scale = 256 ** extra
  return fc
    .tuple(fc.nat(0x7f_ffff), fc.nat(100 ** extra - 1), fc.boolean())
    .map(([whole, v, negative]) => {
      const bytes = Buffer.alloc(3 + extra)
      const magnitude = whole * scale + v
      bytes.writeUIntBE(0x80_0000 * scale + (negative ? -magnitude : magnitude), 0, 3 + extra)
      return bytes
    })
}
export const blob = (meta: number, collation: number, values: fc.Arbitrary<Buffer>): Kind => ({
  type: 252,
  meta,
  collation,
  values: sized(meta, values),
})
export const UTF8MB4 = 255
const integers = [1, 2, 9, 3, 8].map((type, i) => ({
  type,
  meta: 0,
  values: raw([1, 2, 3, 4, 8][i]!),
}))
export const kinds: readonly Kind[] = [
  ...integers,
  { type: 246, meta: (18 << 8) | 4, values: decimal(9) },
  { type: 246, meta: (65 << 8) | 30, values: decimal(30) },
  { type: 246, meta: (9 << 8) | 9, values: decimal(4) },
  { type: 10, meta: 0, values: raw(3) },
  ...[0, 1, 2, 3, 4, 5, 6].flatMap((digits) => [
    { type: 18, meta: digits, values: fractional(5, digits) },
    { type: 19, meta: digits, values: time(digits) },
    { type: 17, meta: digits, values: fractional(4, digits) },
  ]),
  { type: 15, meta: 40, collation: UTF8MB4, values: sized(1, utf8(10)) },
  { type: 15, meta: 400, collation: 8, values: sized(2, anyBytes(30)) }, // latin1: only its own text knows it
  { type: 15, meta: 300, collation: 63, values: sized(2, anyBytes(300)) },
  blob(3, UTF8MB4, utf8(600)),
  blob(4, 63, anyBytes(200)),
  { type: 254, meta: (247 << 8) | 2, values: raw(2) }, // enum
  { type: 254, meta: (248 << 8) | 3, values: raw(3) }, // set
  { type: 16, meta: 5 << 8, values: raw(5) }, // bit
  { type: 13, meta: 0, values: raw(1) }, // year
  { type: 5, meta: 0, values: fc.double().map((v) => Buffer.from(Float64Array.of(v).buffer)) },
  {
    type: 245,
    meta: 4,
    values: sized(
      4,
      fc
        .tuple(fc.jsonValue({ maxDepth: 4 }), fc.boolean())
        .map(([v, large]) => encodeJson(v, large)),
    ),
  },
]

export function tableOf(
  of: readonly Kind[],
  unsigned: readonly boolean[],
  selected: boolean[],
): Table {
  const columns = of.map(({ type, meta, collation = 0 }, index) =>
    compileColumn(
      {
        name: `column_${index}`,
        index,
        type,
        meta,
        collation,
        mysqlType: 'any',
        unsigned: unsigned[index]!,
        key: index === 0,
        nullable: true,
        invisible: false,
        members: undefined,
      },
      parseTimeZone('+05:30'),
    ),
  )
  const wanted = columns.filter((_, i) => selected[i])
  return { database: 'db', name: 't', columns, selected: wanted, origin: 'event' }
}

export const FORMAT: Format = {
  serverVersion: '9.7.4',
  created: 0,
  postHeader: new Uint8Array(64).fill(10),
  checksum: 'none',
  checksumBytes: 0,
}
export const typeOf = {
  insert: eventTypes.WRITE_ROWS,
  update: eventTypes.UPDATE_ROWS,
  delete: eventTypes.DELETE_ROWS,
} as const

function image(values: Images): Buffer {
  const nulls = Buffer.alloc((values.length + 7) >> 3)
  for (const [i, v] of values.entries()) if (v === null) nulls[i >> 3]! |= 1 << (i & 7)
  return Buffer.concat([nulls, ...values.filter((v) => v !== null)])
}
export function rowsOf(table: Table, kind: RowsChange['kind'], body: Buffer): BinlogRows {
  const width = table.columns.length
  const head = Buffer.alloc(29)
  head[4] = typeOf[kind]
  head.writeUIntLE(9, 19, 6)
  head.writeUInt16LE(2, 27)
  const count = width < 251 ? Buffer.of(width) : Buffer.of(252, width & 0xff, width >> 8)
  const all = Buffer.alloc((width + 7) >> 3, 0xff)
  const bytes = Buffer.concat([
    Buffer.alloc(7),
    head,
    count,
    all,
    kind === 'update' ? all : Buffer.alloc(0),
    body,
    Buffer.alloc(64, 0xff), // what follows it in its slab
  ])
  const end = bytes.length - 64
  const event = { bytes, start: 7, end, offset: 1234, length: end - 7 }
  return new BinlogRows({ ...event, kind, ordinal: 3, table, format: FORMAT })
}

const nullable = (kind: Kind): fc.Arbitrary<Buffer | null> => fc.option(kind.values, { freq: 6 })
/** A table and rows as pairs of images, of which the second often has what the first has. */
export const cases = fc
  .array(
    fc.record({
      kind: fc.constantFrom(...kinds),
      unsigned: fc.boolean(),
      selected: fc.oneof(
        { weight: 9, arbitrary: fc.constant(true) },
        { weight: 1, arbitrary: fc.constant(false) },
      ),
    }),
    { minLength: 1, maxLength: 10 },
  )
  .chain((columns) => {
    const table = tableOf(
      columns.map((c) => c.kind),
      columns.map((c) => c.unsigned),
      columns.map((c) => c.selected),
    )
    const row = fc.tuple(
      ...columns.map(({ kind }) => fc.tuple(nullable(kind), nullable(kind), fc.boolean())),
    )
    return fc.array(row, { minLength: 1, maxLength: 4 }).map((rows) => ({
      table,
      rows: rows.map((r) => ({
        before: r.map(([v]) => v),
        after: r.map(([v, w, changed]) => (changed ? w : v)),
      })),
    }))
  })

export const eventOf = (
  kind: RowsChange['kind'],
  rows: readonly { before: Images; after: Images }[],
): Buffer =>
  Buffer.concat(
    rows.flatMap(({ before, after }) =>
      kind === 'insert'
        ? [image(after)]
        : kind === 'delete'
          ? [image(before)]
          : [image(before), image(after)],
    ),
  )
export const everyKind = fc.constantFrom('insert', 'update', 'delete')

/** Damages a few bytes, and cuts off the end. */
const damages = fc.array(fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.nat(255)), {
  minLength: 1,
  maxLength: 3,
})
const cuts = fc.oneof(fc.constant(0), fc.nat(8))
export const damaging = fc.tuple(damages, cuts).map(([places, short]) => (body: Buffer): Buffer => {
  for (const [place, v] of places) body[Math.floor(place * (body.length - 1))] = v
  return body.subarray(0, Math.max(0, body.length - short))
})
