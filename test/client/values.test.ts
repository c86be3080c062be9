/** Values of the SDK: from a Canal column's text to what a program gets, type by type. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { decoderOf, membersOf } from '../../src/client/values.ts'
import type { ClientValue, ValueOptions } from '../../src/client/values.ts'

const JAVA = {
  BIT: -7,
  TINYINT: -6,
  BIGINT: -5,
  CHAR: 1,
  DECIMAL: 3,
  INTEGER: 4,
  REAL: 7,
  BLOB: 2004,
  CLOB: 2005,
}

/** Decodes text that stands somewhere in a larger buffer. */
function decode(type: string, text: string, options: ValueOptions = {}, sqlType = 12): ClientValue {
  const value = Buffer.from(text)
  const bytes = Buffer.concat([Buffer.from('9-'), value, Buffer.from('7')])
  return decoderOf(type, sqlType, options)(bytes, 2, 2 + value.length)
}

describe('by mysqlType', () => {
  it.each<[string, string, ClientValue]>([
    ['tinyint(1)', '1', 1],
    ['tinyint(4)', '-128', -128],
    ['TINYINT UNSIGNED', '255', 255],
    ['smallint', '-32768', -32768],
    ['mediumint unsigned', '16777215', 16777215],
    ['int(10) unsigned zerofill', '4294967295', 4294967295],
    ['int', '-2147483648', -2147483648],
    ['year(4)', '2026', 2026],
    ['year', '0000', 0],
    ['bigint', '-9223372036854775808', -(2n ** 63n)],
    ['bigint(20) unsigned', '18446744073709551615', 2n ** 64n - 1n],
    ['bigint', '7', 7n],
    ['bit(1)', '1', 1n],
    ['bit(64)', '18446744073709551615', 2n ** 64n - 1n],
    ['float', '1.23456789E7', 12345678.9],
    ['double', '-0.0', -0],
    ['double(8,2)', '1.0E-4', 0.0001],
    ['decimal(65,30)', '-0.100000000000000000000000000000', '-0.100000000000000000000000000000'],
    ['date', '2020-00-00', '2020-00-00'],
    ['datetime(6)', '2026-11-23 12:30:00.123456', '2026-11-23 12:30:00.123456'],
    ['time', '-838:59:59', '-838:59:59'],
    ['char(10)', '中文 é', '中文 é'],
    ['longtext', '', ''],
    ["enum('a','b')", '2', 2],
    ["set('a','b')", '3', 3n],
    ['json', '{"a": 1}', '{"a": 1}'],
    ['binary(4)', '\0ÿ\u0080a', Buffer.from([0, 255, 128, 97])],
    ['binary(4)', 'ab', Buffer.from('ab\0\0')],
    ['binary', '', Buffer.from([0])],
    ['blob', '', Buffer.alloc(0)],
    ['point', 'abc', Buffer.from('abc')],
    ['vector(3)', '\0\0ÿ', Buffer.from([0, 0, 255])],
    ['something new', 'x', 'x'],
  ])('%s %j', (type, text, value) => {
    expect(decode(type, text)).toStrictEqual(value)
  })

  it('by sqlType where there is none', () => {
    expect(decode('', '5', {}, JAVA.TINYINT)).toBe(5)
    expect(decode('', '5', {}, JAVA.BIGINT)).toBe(5n)
    expect(decode('', '5', {}, JAVA.BIT)).toBe(5n)
    expect(decode('', '5.0', {}, JAVA.REAL)).toBe(5)
    expect(decode('', '5.00', {}, JAVA.DECIMAL)).toBe('5.00')
    expect(decode('', 'ÿ', {}, JAVA.BLOB)).toEqual(Buffer.from([255]))
    expect(decode('', 'ÿ', {}, JAVA.CLOB)).toBe('ÿ')
  })

  it('every byte string comes back from its characters', () => {
    fc.assert(
      fc.property(fc.uint8Array(), (bytes) => {
        const text = Buffer.from(bytes).toString('latin1')
        expect(decode('varbinary(255)', text)).toEqual(Buffer.from(bytes))
      }),
    )
  })

  it('every 64-bit integer is exact', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n }), (n) => {
        expect(decode('bigint', String(n))).toBe(n)
      }),
    )
  })
})

describe('on request', () => {
  const labels = { labels: true }
  it('labels', () => {
    expect(decode("enum('a','b')", '2', labels)).toBe('b')
    expect(decode("enum('a','b')", '0', labels)).toBe('')
    expect(decode("enum('a','b')", '3', labels)).toBe(3)
    expect(decode("set('a','b','c')", '5', labels)).toEqual(['a', 'c'])
    expect(decode("set('a','b')", '0', labels)).toEqual([])
    const many = Array.from({ length: 64 }, (_, i) => `m${i}`)
    const type = `set(${many.map((name) => `'${name}'`).join(',')})`
    expect(decode(type, String(2n ** 63n + 1n), labels)).toEqual(['m0', 'm63'])
  })

  it('members as MySQL writes them', () => {
    expect(membersOf(String.raw`enum('a\\b','it''s','x\ny','q,"','\0z','','ÿ''')`)).toEqual([
      'a\\b',
      "it's",
      'x\ny',
      'q,"',
      '\0z',
      '',
      "ÿ'",
    ])
  })

  it('dates', () => {
    const dates = { dates: 'date' } as const
    expect(decode('datetime(3)', '2026-11-23 12:30:00.250', dates)).toEqual(
      new Date('2026-11-23T12:30:00.250Z'),
    )
    expect(decode('timestamp', '2026-11-23 12:30:00', { ...dates, timezone: '+08:00' })).toEqual(
      new Date('2026-11-23T04:30:00Z'),
    )
    expect(decode('date', '2026-11-23', dates)).toEqual(new Date('2026-11-23T00:00:00Z'))
    for (const text of ['0000-00-00', '2020-00-10', '2020-02-30'])
      expect(decode('date', text, dates)).toBe(text)
    expect(decode('time', '12:00:00', dates)).toBe('12:00:00')
  })

  it('json', () => {
    const json = { json: 'parsed' } as const
    expect(decode('json', '{"a": [1, null]}', json)).toEqual({ a: [1, null] })
    expect(decode('json', "JSON_REPLACE(d, '$.a', 1)", json)).toBe("JSON_REPLACE(d, '$.a', 1)")
  })
})
