/**
 * Binary JSON to text. The bytes of the table are what MySQL 9.7 wrote to its binlog for `INSERT … SELECT` of the
 * documents shown, MySQL's text is its CAST(v AS CHAR); Canal's follows section 14 of the wire document.
 */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type JsonStyle, writeJson } from '../../../src/binlog/json/text.ts'
import { SluiceError } from '../../../src/errors.ts'
import { Out } from '../../../src/out.ts'
import { encodeJson } from './encode.ts'

function text(document: Buffer, style: JsonStyle): string {
  const bytes = Buffer.concat([Buffer.alloc(3, 0xee), document, Buffer.alloc(7, 0xee)])
  const out = new Out(4)
  writeJson(bytes, 3, 3 + document.length, style, out)
  return out.buf.toString('utf8', 0, out.at)
}

const same = undefined
// prettier-ignore
const table: [hex: string, canal: string, mysql: string | undefined][] = [
  ['0400', 'null', same],
  ['0401', 'true', same],
  ['0402', 'false', same],
  ['050080', '-32768', same],
  ['07ffff0000', '65535', same],
  ['0700000080', '-2147483648', same],
  ['09ffffffff00000000', '4294967295', same],
  ['090000000000000080', '-9223372036854775808', same],
  ['0affffffffffffffff', '18446744073709551615', same],
  ['0b000000000000f83f', '1.5', same],
  ['0b408cb5781daf1544', '1.0E20', '1e20'],
  ['0b2d431cebe2361a3f', '1.0E-4', '0.0001'],
  ['0c1761225c080c0a0d09012fc3a97fc285c2a0c2a1f09f9880', '"a\\"\\\\\\u0008\\u000c\\n\\r\\t\\u0001/é\\u007f\\u0085\\u00a0¡😀"', '"a\\"\\\\\\b\\f\\n\\r\\t\\u0001/é\u007f\u0085\u00a0¡😀"'],
  ['0c00', '""', same],
  ['0200000400', '[]', same],
  ['0000000400', '{}', same],
  ['0203002f00050100020d0000210002001400050200020a0002000a0004010004000001000e000b0001000c0c006b0176', '[1, [2, [true, null]], {"k": "v"}]', same],
  ['0003002e00190001001a0002001c000200001e00050100050200616262c3a9010010000b000100020c006300000400', '{"a": {"c": []}, "bb": 1, "é": 2}', same],
  [`0c8201${'78'.repeat(130)}`, `"${'x'.repeat(130)}"`, same],
  ['0202002a000f0a000f1400f6080a037ffffb2dfe0bf614271e7fffffffe2329affffffffffffffffffffff', '[-1234.500, -0.500000000000000000000000000000]', same],
  ['02040038000f10000f1a000f24000f2e000a0800000000006ebb190b082019f44737ffffff0c0840f50683106ebb19070801000083106ebb19', '["2026-11-23 00:00:00.000000", "-12:34:56.780000", "2026-11-23 01:02:03.456000", "2026-11-23 01:02:03.000001"]', '["2026-11-23", "-12:34:56.780000", "2026-11-23 01:02:03.456000", "2026-11-23 01:02:03.000001"]'],
  ['02040038000f10000f1a000f24000f2e000a0800000000000000000c0800000000000000000b080000000591cbffff0b08ffffffffffffffff', '["0000-00-00 00:00:00", "0000-00-00 00:00:00", "-838:59:59.000000", "-00:00:00.000001"]', '["0000-00-00", "0000-00-00 00:00:00.000000", "-838:59:59.000000", "-00:00:00.000001"]'],
  ['02050028000f13000f170006ea070c1e000b200010020aaafc052200ff5c610178000000000000f83f', '["\\nª", "\\"\\u0000ÿ\\\\a", 2026, "x", 1.5]', '["base64:type16:Cqo=", "base64:type252:IgD/XGE=", 2026, "x", 1.5]'],
  ['', '', 'null'],
]

describe('documents of a real server', () => {
  it.each(table)('%s', (hex, canal, mysql) => {
    const document = Buffer.from(hex, 'hex')
    expect(text(document, 'canal')).toBe(canal)
    expect(text(document, 'mysql')).toBe(mysql ?? canal)
  })
})

describe('long values', () => {
  it('opaque bytes break after every 76 signs of base64, as MySQL prints them', () => {
    const document = Buffer.concat([Buffer.of(15, 252, 100), Buffer.alloc(100, 0x78)])
    const lines = [`${'eHh4'.repeat(19)}`, `${'eHh4'.repeat(14)}eA==`]
    expect(text(document, 'mysql')).toBe(`"base64:type252:${lines.join('\\n')}"`)
  })
  it('large objects and arrays have 4-byte offsets and more inlined types', () => {
    const value = { a: [1, -70_000, 3_000_000_000, 'x', null, 1.5, { b: [] }], key: true }
    expect(text(encodeJson(value, true), 'mysql')).toBe(
      '{"a": [1, -70000, 3000000000, "x", null, 1.5, {"b": []}], "key": true}',
    )
  })
  it('strings of every length of length', () => {
    for (const length of [127, 128, 16_383, 16_384, 2_097_152]) {
      const value = 'y'.repeat(length)
      expect(text(encodeJson(value, false), 'canal')).toBe(`"${value}"`)
    }
  })
})

describe('documents that cannot be', () => {
  const refused: [what: string, hex: string, message: RegExp][] = [
    ['an unknown type', '0d00', /at byte 1: expected a value of type 0 to 12 or 15, found type 13/],
    ['a literal that is none', '0403', /expected the literal 0, 1 or 2, found 3/],
    ['a literal without its byte', '04', /expected 1 bytes of a literal, found 0/],
    ['a number cut short', '09ffffff', /expected 8 bytes of a number, found 3/],
    ['a string cut short', '0c0561', /expected 5 bytes of a string, found 1/],
    ['a length without end', '0cffffffffffff', /expected a length of at most 5 bytes/],
    [
      'an object whose size is beyond the document',
      '0001004000',
      /expected 64 bytes of an object or array/,
    ],
    [
      'an array with more entries than bytes',
      '02ff000400',
      /expected at least 769 bytes for 255 entries, found 4/,
    ],
    [
      'a key beyond the object',
      '0001000c000b00090005010061',
      /expected a key within 12 bytes, found 9 bytes at 11/,
    ],
    [
      'a value beyond the array',
      '02010007000c0900',
      /expected a value within 7 bytes, found offset 9/,
    ],
    [
      'a decimal of another length',
      '0ff603050280',
      /expected 5 bytes of a decimal\(5,2\), found 3/,
    ],
    ['a date of 3 bytes', '0f0a03112233', /expected 8 bytes of a date or time, found 3/],
  ]
  it.each(refused)('%s', (_what, hex, message) => {
    for (const style of ['canal', 'mysql'] as const) {
      expect(() => text(Buffer.from(hex, 'hex'), style)).toThrow(message)
      expect(() => text(Buffer.from(hex, 'hex'), style)).toThrow(
        expect.objectContaining({ code: 'ROWS_MALFORMED' }),
      )
    }
  })

  it('values that share bytes: the work stays within the length of the document', () => {
    // An array whose 200 entries all point at the same array of 200 entries, and so on.
    const levels = 8
    const entries = 200
    const size = 4 + entries * 3
    const document = Buffer.alloc(1 + size * levels)
    document[0] = 2
    for (let level = 0; level < levels; level++) {
      const at = 1 + level * size
      document.writeUInt16LE(entries, at)
      document.writeUInt16LE(size * (levels - level), at + 2)
      for (let i = 0; i < entries; i++) {
        document[at + 4 + i * 3] = level === levels - 1 ? 4 : 2
        document.writeUInt16LE(level === levels - 1 ? 0 : size, at + 5 + i * 3)
      }
    }
    expect(() => text(document, 'mysql')).toThrow(/expected values that do not overlap/)
  })

  it('100 levels and no more', () => {
    let value: unknown = 1
    for (let i = 0; i < 99; i++) value = [value]
    expect(text(encodeJson(value, true), 'canal')).toBe(`${'['.repeat(99)}1${']'.repeat(99)}`)
    for (let i = 0; i < 2; i++) value = [value]
    expect(() => text(encodeJson(value, true), 'canal')).toThrow(
      /expected at most 100 levels, found more/,
    )
  })

  it('any bytes either are a document or are refused', () => {
    const valid = table.map(([hex]) => Buffer.from(hex, 'hex')).filter((b) => b.length > 2)
    const damaged = fc
      .tuple(
        fc.constantFrom(...valid),
        fc.array(fc.tuple(fc.nat(200), fc.nat(255)), { maxLength: 4 }),
      )
      .map(([document, changes]) => {
        const copy = Buffer.from(document)
        for (const [at, byte] of changes) copy[at % copy.length] = byte
        return copy
      })
    const noise = fc.uint8Array({ maxLength: 60 }).map((b) => Buffer.from(b))
    fc.assert(
      fc.property(fc.oneof(damaged, noise), (document) => {
        try {
          expect(text(document, 'mysql').length).toBeLessThanOrEqual(40 + document.length * 20)
        } catch (error) {
          if (!(error instanceof SluiceError)) throw error
          expect(error.code).toBe('ROWS_MALFORMED')
        }
      }),
      { numRuns: 3000 },
    )
  })
})

describe('round trips', () => {
  it('what is encoded is what is printed', () => {
    fc.assert(
      fc.property(fc.jsonValue({ stringUnit: 'binary' }), fc.boolean(), (value, large) => {
        const document = encodeJson(value, large)
        for (const style of ['canal', 'mysql'] as const)
          expect(JSON.parse(text(document, style))).toEqual(value)
      }),
    )
  })
})
