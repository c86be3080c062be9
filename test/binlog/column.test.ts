/**
 * The table of column types, row by row: bytes of one value, Canal's text, the value. Metadata and bytes were taken from
 * the binlog of MySQL 9.7 (one INSERT per row into a table with one column, default character set utf8mb4); only the
 * formats from before MySQL 5.6 are put together by hand from the layouts in time.ts, no server writes them any more.
 */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  type ColumnDefinition,
  type TypeFacts,
  compileColumn,
  realType,
  typeText,
} from '../../src/binlog/column.ts'
import { parseTimeZone } from '../../src/binlog/time.ts'
import type { Value } from '../../src/change.ts'
import { Out } from '../../src/out.ts'

type Facts = Partial<TypeFacts> & Pick<TypeFacts, 'type' | 'meta'>

const bytes = (hex: string): Uint8Array => Buffer.from(hex, 'hex')
const many = (count: number): string[] => Array.from({ length: count }, (_, i) => `m${i}`)
const typeOf = (type: string, count: number): string =>
  `${type}(${many(count)
    .map((m) => `'${m}'`)
    .join(',')})`

const complete = (facts: Facts): TypeFacts => ({
  unsigned: false,
  collation: 0,
  members: undefined,
  ...facts,
})
const define = (facts: Facts): ColumnDefinition => ({
  ...complete(facts),
  name: 'c',
  index: 0,
  mysqlType: '',
  key: false,
  nullable: true,
  invisible: false,
})

function decode(
  facts: Facts,
  hex: string,
  zone = 'UTC',
): { size: number; text: string; value: Value } {
  const column = compileColumn(define(facts), parseTimeZone(zone))
  // Other bytes around it: neither the text nor the value may touch them.
  const value = Buffer.from(hex, 'hex')
  const buffer = Buffer.concat([Buffer.alloc(5, 0xee), value, Buffer.alloc(9, 0xee)])
  const out = new Out(16)
  column.text(buffer, 5, 5 + value.length, out)
  return {
    size: column.size,
    text: out.buf.toString('utf8', 0, out.at),
    value: column.value(buffer, 5, 5 + value.length),
  }
}

type Row = [mysqlType: string, facts: Facts, size: number, hex: string, text: string, value: Value]

// prettier-ignore
const table: Row[] = [
  ["tinyint", { type: 1, meta: 0x0 }, 1, '80', "-128", -128],
  ["tinyint", { type: 1, meta: 0x0 }, 1, '7f', "127", 127],
  ["tinyint unsigned", { type: 1, meta: 0x0, unsigned: true }, 1, 'c8', "200", 200],
  ["smallint", { type: 2, meta: 0x0 }, 2, '0080', "-32768", -32768],
  ["smallint unsigned", { type: 2, meta: 0x0, unsigned: true }, 2, 'ffff', "65535", 65535],
  ["mediumint", { type: 9, meta: 0x0 }, 3, '000080', "-8388608", -8388608],
  ["mediumint", { type: 9, meta: 0x0 }, 3, 'ffffff', "-1", -1],
  ["mediumint unsigned", { type: 9, meta: 0x0, unsigned: true }, 3, 'ffffff', "16777215", 16777215],
  ["int", { type: 3, meta: 0x0 }, 4, '00000080', "-2147483648", -2147483648],
  ["int", { type: 3, meta: 0x0 }, 4, '07000000', "7", 7],
  ["int unsigned", { type: 3, meta: 0x0, unsigned: true }, 4, 'ffffffff', "4294967295", 4294967295],
  ["bigint", { type: 8, meta: 0x0 }, 8, '0000000000000080', "-9223372036854775808", -9223372036854775808n],
  ["bigint", { type: 8, meta: 0x0 }, 8, '0100000000002000', "9007199254740993", 9007199254740993n],
  ["bigint", { type: 8, meta: 0x0 }, 8, 'ffffffffffffffff', "-1", -1n],
  ["bigint unsigned", { type: 8, meta: 0x0, unsigned: true }, 8, 'ffffffffffffffff', "18446744073709551615", 18446744073709551615n],
  ["bigint unsigned", { type: 8, meta: 0x0, unsigned: true }, 8, '0000e8890423c78a', "10000000000000000000", 10000000000000000000n],
  ["decimal(10,2)", { type: 246, meta: 0xa02 }, 5, '7fffffffcd', "-0.50", "-0.50"],
  ["decimal(10,2)", { type: 246, meta: 0xa02 }, 5, '85f5e0ff63', "99999999.99", "99999999.99"],
  ["decimal(10,2)", { type: 246, meta: 0xa02 }, 5, '8000000000', "0.00", "0.00"],
  ["decimal(65,30)", { type: 246, meta: 0x411e }, 30, '7f439eb1ca484078caf1cb3fd0f8a086f8a432eaff439eb1ca484078fc85', "-12345678901234567890123456789012345.123456789012345678901234567890", "-12345678901234567890123456789012345.123456789012345678901234567890"],
  ["decimal(65,30)", { type: 246, meta: 0x411e }, 30, '800000000000000000000000000000010000000000000000000000000000', "1.000000000000000000000000000000", "1.000000000000000000000000000000"],
  ["decimal(5,0)", { type: 246, meta: 0x500 }, 3, '800064', "100", "100"],
  ["decimal(30,30)", { type: 246, meta: 0x1e1e }, 14, '8000000100000000000000000000', "0.000000001000000000000000000000", "0.000000001000000000000000000000"],
  ["decimal(18,4) unsigned", { type: 246, meta: 0x1204, unsigned: true }, 9, '800000000004d21388', "1234.5000", "1234.5000"],
  ["float", { type: 4, meta: 0x4 }, 4, 'cdcccc3d', "0.1", 0.10000000149011612],
  ["float", { type: 4, meta: 0x4 }, 4, '6520f1c7', "-123456.79", -123456.7890625],
  ["float", { type: 4, meta: 0x4 }, 4, 'f9021550', "1.0E10", 10000000000],
  ["float", { type: 4, meta: 0x4 }, 4, '00000000', "0.0", 0],
  ["double", { type: 5, meta: 0x8 }, 8, '9a9999999999b93f', "0.1", 0.1],
  ["double", { type: 5, meta: 0x8 }, 8, '00000000d0126341', "1.0E7", 10000000],
  ["double", { type: 5, meta: 0x8 }, 8, '000000e0cf126341', "9999999.0", 9999999],
  ["double", { type: 5, meta: 0x8 }, 8, 'fca9f1d24d62503f', "0.001", 0.001],
  ["double", { type: 5, meta: 0x8 }, 8, '2d431cebe2361a3f', "1.0E-4", 0.0001],
  ["double", { type: 5, meta: 0x8 }, 8, 'ffffffffffffefff', "-1.7976931348623157E308", -1.7976931348623157e+308],
  ["double", { type: 5, meta: 0x8 }, 8, '0100000000000000', "4.9E-324", 5e-324],
  ["double", { type: 5, meta: 0x8 }, 8, '00008054346f9d41', "1.23456789125E8", 123456789.125],
  ["bit(1)", { type: 16, meta: 0x1 }, 1, '01', "1", 1n],
  ["bit(12)", { type: 16, meta: 0x104 }, 2, '0aaa', "2730", 2730n],
  ["bit(64)", { type: 16, meta: 0x800 }, 8, 'ffffffffffffffff', "18446744073709551615", 18446744073709551615n],
  ["year", { type: 13, meta: 0x0, unsigned: true }, 1, '00', "0000", 0],
  ["year", { type: 13, meta: 0x0, unsigned: true }, 1, '7e', "2026", 2026],
  ["date", { type: 10, meta: 0x0 }, 3, '77d50f', "2026-11-23", "2026-11-23"],
  ["date", { type: 10, meta: 0x0 }, 3, '000000', "0000-00-00", "0000-00-00"],
  ["date", { type: 10, meta: 0x0 }, 3, '40c80f', "2020-02-00", "2020-02-00"],
  ["time", { type: 19, meta: 0x0 }, 3, 'b46efb', "838:59:59", "838:59:59"],
  ["time", { type: 19, meta: 0x0 }, 3, '4b9105', "-838:59:59", "-838:59:59"],
  ["time", { type: 19, meta: 0x0 }, 3, '7fffff', "-00:00:01", "-00:00:01"],
  ["time(1)", { type: 19, meta: 0x1 }, 4, '7fffffce', "-00:00:00.5", "-00:00:00.5"],
  ["time(3)", { type: 19, meta: 0x3 }, 5, '80c8b81ed2', "12:34:56.789", "12:34:56.789"],
  ["time(6)", { type: 19, meta: 0x6 }, 6, '79bfffffffff', "-100:00:00.000001", "-100:00:00.000001"],
  ["datetime", { type: 18, meta: 0x0 }, 5, 'fef3ff7efb', "9999-12-31 23:59:59", "9999-12-31 23:59:59"],
  ["datetime", { type: 18, meta: 0x0 }, 5, '8000000000', "0000-00-00 00:00:00", "0000-00-00 00:00:00"],
  ["datetime(2)", { type: 18, meta: 0x2 }, 6, '99bb6e10832d', "2026-11-23 01:02:03.45", "2026-11-23 01:02:03.45"],
  ["datetime(5)", { type: 18, meta: 0x5 }, 8, '8cb242000000000a', "1000-01-01 00:00:00.00001", "1000-01-01 00:00:00.00001"],
  ["timestamp", { type: 17, meta: 0x0 }, 4, '7fffffff', "2038-01-19 03:14:07", "2038-01-19 03:14:07"],
  ["timestamp", { type: 17, meta: 0x0 }, 4, '00000000', "0000-00-00 00:00:00", "0000-00-00 00:00:00"],
  ["timestamp(3)", { type: 17, meta: 0x3 }, 6, '00000001000a', "1970-01-01 00:00:01.001", "1970-01-01 00:00:01.001"],
  ["timestamp(6)", { type: 17, meta: 0x6 }, 7, '6b03908b0f423f', "2026-11-23 01:02:03.999999", "2026-11-23 01:02:03.999999"],
  ["char(5)", { type: 254, meta: 0xfe14, collation: 255 }, -1, '61c3b120f09f9880', "añ 😀", "añ 😀"],
  ["char(255)", { type: 254, meta: 0xcefc, collation: 255 }, -2, '78', "x", "x"],
  ["char(3)", { type: 254, meta: 0xfe03, collation: 8 }, -1, '80e9', "€é", "€é"],
  ["varchar(63)", { type: 15, meta: 0xfc, collation: 255 }, -1, '6220', "b ", "b "],
  ["varchar(64)", { type: 15, meta: 0x100, collation: 255 }, -2, '6220', "b ", "b "],
  ["varchar(9)", { type: 15, meta: 0x12, collation: 28 }, -1, 'd6d0cec4', "中文", "中文"],
  ["varchar(9)", { type: 15, meta: 0x12, collation: 13 }, -1, '835c955c', "ソ表", "ソ表"],
  ["varchar(9)", { type: 15, meta: 0x24, collation: 54 }, -1, '0061d83dde00', "a😀", "a😀"],
  ["varchar(9)", { type: 15, meta: 0x24, collation: 60 }, -1, '000000610001f600', "a😀", "a😀"],
  ["binary(4)", { type: 254, meta: 0xfe04, collation: 63 }, -1, '01ff', "\u0001ÿ", bytes('01ff0000')],
  ["varbinary(4)", { type: 15, meta: 0x4, collation: 63 }, -1, '01ff00', "\u0001ÿ\u0000", bytes('01ff00')],
  ["varbinary(300)", { type: 15, meta: 0x12c, collation: 63 }, -2, '', "", bytes('')],
  ["tinytext", { type: 252, meta: 0x1, collation: 255 }, -1, '74', "t", "t"],
  ["text", { type: 252, meta: 0x2, collation: 255 }, -2, 'c3a9', "é", "é"],
  ["mediumtext", { type: 252, meta: 0x3, collation: 255 }, -3, '6d', "m", "m"],
  ["longtext", { type: 252, meta: 0x4, collation: 255 }, -4, '6c', "l", "l"],
  ["tinyblob", { type: 252, meta: 0x1, collation: 63 }, -1, '80', "", bytes('80')],
  ["blob", { type: 252, meta: 0x2, collation: 63 }, -2, '00ff', "\u0000ÿ", bytes('00ff')],
  ["mediumblob", { type: 252, meta: 0x3, collation: 63 }, -3, '61', "a", bytes('61')],
  ["longblob", { type: 252, meta: 0x4, collation: 63 }, -4, '62', "b", bytes('62')],
  ["enum('a','it''s','é')", { type: 254, meta: 0xf701, collation: 255, members: ["a","it's","é"] }, 1, '02', "2", "it's"],
  ["enum('a','it''s','é')", { type: 254, meta: 0xf701, collation: 255, members: ["a","it's","é"] }, 1, '03', "3", "é"],
  ["enum('a','it''s','é')", { type: 254, meta: 0xf701, collation: 255, members: ["a","it's","é"] }, 1, '00', "0", ""],
  [typeOf('enum', 256), { type: 254, meta: 0xf702, collation: 255, members: many(256) }, 2, '0001', "256", "m255"],
  ["set('a','b','c')", { type: 254, meta: 0xf801, collation: 255, members: ["a","b","c"] }, 1, '05', "5", "a,c"],
  ["set('a','b','c')", { type: 254, meta: 0xf801, collation: 255, members: ["a","b","c"] }, 1, '00', "0", ""],
  [typeOf('set', 64), { type: 254, meta: 0xf808, collation: 255, members: many(64) }, 8, '0100000000000080', "9223372036854775809", "m0,m63"],
  ["json", { type: 245, meta: 0x4 }, -4, '0002002b0012000100130001000214000b2300616203000f000501000400000c0d000178000000000000f83f', "{\"a\": [1, null, \"x\"], \"b\": 1.5}", "{\"a\": [1, null, \"x\"], \"b\": 1.5}"],
  ["point", { type: 255, meta: 0x4, geometry: 1 }, -4, '000000000101000000000000000000f03f0000000000000040', "\u0000\u0000\u0000\u0000\u0001\u0001\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0000ð?\u0000\u0000\u0000\u0000\u0000\u0000\u0000@", bytes('000000000101000000000000000000f03f0000000000000040')],
  ["vector(2)", { type: 242, meta: 0x4, collation: 63, dimension: 2 }, -4, '0000803f00000040', "\u0000\u0000?\u0000\u0000\u0000@", bytes('0000803f00000040')],
  ['json array', { type: 20, meta: 4 }, -4, '0200000400', '[]', '[]'],
  ['date', { type: 14, meta: 0 }, 3, '77d50f', '2026-11-23', '2026-11-23'],
  // before MySQL 5.6
  ['time', { type: 11, meta: 0 }, 3, 'a7f57f', '838:59:59', '838:59:59'],
  ['time', { type: 11, meta: 0 }, 3, '590a80', '-838:59:59', '-838:59:59'],
  ['time', { type: 11, meta: 0 }, 3, '40420f', '100:00:00', '100:00:00'],
  ['datetime', { type: 12, meta: 0 }, 8, '9b2e0a696d120000', '2026-11-23 01:02:03', '2026-11-23 01:02:03'],
  ['datetime', { type: 12, meta: 0 }, 8, '0000000000000000', '0000-00-00 00:00:00', '0000-00-00 00:00:00'],
  ['timestamp', { type: 7, meta: 0 }, 4, '8b90036b', '2026-11-23 01:02:03', '2026-11-23 01:02:03'],
  ['timestamp', { type: 7, meta: 0 }, 4, '00000000', '0000-00-00 00:00:00', '0000-00-00 00:00:00'],
]

describe('column types', () => {
  it.each(table)('%s', (mysqlType, facts, size, hex, text, value) => {
    expect(decode(facts, hex)).toStrictEqual({ size, text, value })
    expect(typeText(complete(facts))).toBe(mysqlType)
  })

  it('TIMESTAMP is shown in the zone given, zero dates in none', () => {
    const facts = { type: 17, meta: 3 }
    expect(decode(facts, '000000010001', '+08:00').value).toBe('1970-01-01 08:00:01.000')
    expect(decode(facts, '000000010001', '-03:30').text).toBe('1969-12-31 20:30:01.000')
    expect(decode(facts, '000000000000', '+08:00').value).toBe('0000-00-00 00:00:00.000')
    expect(decode({ type: 7, meta: 0 }, '01000000', '+08:00').text).toBe('1970-01-01 08:00:01')
  })

  it('an enum or set without members is a number', () => {
    expect(decode({ type: 254, meta: 0xf702 }, '0102').value).toBe(513)
    expect(decode({ type: 254, meta: 0xf801 }, '05').value).toBe(5n)
  })

  it('a member that the definition does not have stops', () => {
    const members = ['a', 'b']
    expect(() => decode({ type: 254, meta: 0xf701, members }, '03')).toThrow(
      'column "c": expected one of its 2 members, found member 3',
    )
    expect(() => decode({ type: 254, meta: 0xf801, members }, '04')).toThrow(/found member 3/)
  })

  it('unsigned is part of the name of every number', () => {
    const names = [1, 2, 3, 4, 5, 8, 9].map((type) =>
      typeText(complete({ type, meta: 0, unsigned: true })),
    )
    expect(names.every((n) => n.endsWith(' unsigned'))).toBe(true)
  })

  it.each([
    ['an unknown type', 200, 0],
    ['the DECIMAL of MySQL 4', 0, 0],
    ['a decimal without digits', 246, 0x0000],
    ['a decimal with more fraction than digits', 246, 0x0305],
    ['a decimal of 66 digits', 246, 0x4200],
    ['seven fraction digits', 18, 7],
    ['a bit field of 65 bits', 16, 0x0801],
    ['a bit field of none', 16, 0],
    ['an enum of 3 bytes', 254, 0xf703],
    ['a set of 9 bytes', 254, 0xf809],
    ['a blob with a length of 5 bytes', 252, 5],
  ])('%s is refused', (_what, type, meta) => {
    expect(() => compileColumn(define({ type, meta }), parseTimeZone('UTC'))).toThrow(
      expect.objectContaining({ code: 'SCHEMA_MISMATCH' }),
    )
  })

  it("a collation that is not MySQL's is refused", () => {
    expect(() => decode({ type: 15, meta: 9, collation: 2000 }, '')).toThrow(/collation 2000/)
  })

  it('realType resolves enum and set', () => {
    expect([realType(254, 0xf701), realType(254, 0xf808), realType(254, 0xcefc)]).toEqual([
      247, 248, 254,
    ])
    expect(realType(3, 0)).toBe(3)
  })
})

describe('round trips', () => {
  const int = (bits: number, unsigned: boolean): fc.Arbitrary<bigint> => {
    const size = 1n << BigInt(bits)
    return fc.bigInt(
      unsigned ? { min: 0n, max: size - 1n } : { min: -size / 2n, max: size / 2n - 1n },
    )
  }
  it.each([
    [1, 8],
    [2, 16],
    [9, 24],
    [3, 32],
    [8, 64],
  ])('integers of type %i', (type, bits) => {
    for (const unsigned of [false, true])
      fc.assert(
        fc.property(int(bits, unsigned), (v) => {
          const hex = littleEndian(BigInt.asUintN(bits, v), bits / 8)
          const { text, value } = decode({ type, meta: 0, unsigned }, hex)
          expect(text).toBe(String(v))
          expect(value).toBe(bits === 64 ? v : Number(v))
        }),
      )
  })

  it('bit fields', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 64 }),
        fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
        (n, seed) => {
          const v = BigInt.asUintN(n, seed)
          const hex = v.toString(16).padStart(((n + 7) >> 3) * 2, '0')
          const { text, value } = decode({ type: 16, meta: ((n >> 3) << 8) | (n & 7) }, hex)
          expect([text, value]).toEqual([String(v), v])
        },
      ),
    )
  })

  it('decimals of every precision and scale', () => {
    const shapes = fc
      .integer({ min: 1, max: 65 })
      .chain((p) => fc.tuple(fc.constant(p), fc.integer({ min: 0, max: Math.min(p, 30) })))
    fc.assert(
      fc.property(
        shapes,
        fc.bigInt({ min: 0n, max: 10n ** 65n }),
        fc.boolean(),
        ([p, s], seed, minus) => {
          const digits = String(seed % 10n ** BigInt(p)).padStart(p, '0')
          const whole = digits.slice(0, p - s)
          const part = digits.slice(p - s)
          const negative = minus && /[1-9]/.test(digits)
          const text = `${negative ? '-' : ''}${whole.replace(/^0+(?=.)/, '') || '0'}${s > 0 ? `.${part}` : ''}`
          const { value } = decode(
            { type: 246, meta: (p << 8) | s },
            packDecimal(whole, part, negative),
          )
          expect(value).toBe(text)
        },
      ),
      { numRuns: 500 },
    )
  })
})

function littleEndian(v: bigint, size: number): string {
  return Buffer.from(v.toString(16).padStart(size * 2, '0'), 'hex')
    .reverse()
    .toString('hex')
}

/** decimal2bin of strings/decimal.cc, the plain way. */
function packDecimal(whole: string, part: string, negative: boolean): string {
  const size = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4]
  const group = (text: string): string =>
    Number(text)
      .toString(16)
      .padStart(size[text.length]! * 2, '0')
  const first = whole.length % 9
  const groups = [
    whole.slice(0, first),
    ...(whole.slice(first).match(/.{9}/g) ?? []),
    ...(part.match(/.{1,9}/g) ?? []),
  ]
  const packed = Buffer.from(groups.map((g) => (g === '' ? '' : group(g))).join(''), 'hex')
  packed[0] = packed[0]! ^ 0x80
  if (negative) for (let i = 0; i < packed.length; i++) packed[i] = packed[i]! ^ 0xff
  return packed.toString('hex')
}
