/** Character sets without a server: a sample of each kind, and bytes that are none. charset.mysql.test.ts compares all. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { charsetNamed, charsetOf } from '../../src/binlog/charset.ts'
import { Out } from '../../src/out.ts'

const decode = (name: string, hex: string): string => {
  const bytes = Buffer.from(`ee${hex}ee`, 'hex')
  return charsetNamed(name).decode(bytes, 1, bytes.length - 1)
}

describe('characters', () => {
  it.each([
    ['utf8mb4', 'f09f9880', '😀'],
    ['utf8', 'e4b8ad', '中'],
    ['latin1', '8081e9', '€\u0081é'],
    ['binary', '00ff', '\u0000ÿ'],
    ['ascii', '41ff', 'A?'],
    ['swe7', '405b7e', 'ÉÄü'],
    ['cp1251', 'cff0e8', 'При'],
    ['hebrew', 'f9ec', 'של'],
    ['tis620', 'a1', 'ก'],
    ['ucs2', '0041d8004e2d', 'A?中'],
    ['utf16', '0041d83dde00', 'A😀'],
    ['utf16le', '41003dd800de', 'A😀'],
    ['utf32', '000000410001f60000110000', 'A😀?'],
    ['big5', 'a4a4a145', '中•'],
    ['gbk', 'd6d0a140', '中?'],
    ['gb2312', 'd6d0', '中'],
    ['gb18030', 'd6d08130813090308130', '中\u0080\u{10000}'],
    ['sjis', '835c815fb1', 'ソ\\ｱ'],
    ['cp932', '815ffa40', '＼ⅰ'],
    ['euckr', 'b0a18141', '가갂'],
    ['ujis', 'a4a28fb0a18eb1', 'あ丂ｱ'],
    ['eucjpms', 'a4a2a1c1', 'あ～'],
  ])('%s %s', (name, hex, text) => {
    expect(decode(name, hex)).toBe(text)
  })
})

describe('bytes that are no characters', () => {
  const names = [
    'latin1',
    'big5',
    'gbk',
    'gb2312',
    'gb18030',
    'sjis',
    'cp932',
    'euckr',
    'ujis',
    'eucjpms',
  ]
  const wide = ['ucs2', 'utf16', 'utf16le', 'utf32', 'swe7']
  it.each([...names, ...wide])(
    '%s: always well-formed UTF-8, nothing read behind the end',
    (name) => {
      const { write } = charsetNamed(name)
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 20 }), (bytes) => {
          const text = [0x00, 0xa1].map((filler) => {
            const out = new Out(1)
            write(Buffer.from([...bytes, filler, filler, filler]), 0, bytes.length, out)
            return out.buf.subarray(0, out.at)
          })
          expect(text[0]!.equals(text[1]!)).toBe(true)
          expect(() => new TextDecoder('utf-8', { fatal: true }).decode(text[0])).not.toThrow()
        }),
      )
    },
  )
  it('a lead byte without its second is one question mark', () => {
    expect(decode('gbk', '41d6')).toBe('A?')
    expect(decode('ujis', '8fb0')).toBe('??')
    expect(decode('gb18030', '813081')).toBe('?0?')
  })
})

describe('collations', () => {
  it.each([
    [8, 'latin1'],
    [33, 'utf8mb3'],
    [45, 'utf8mb4'],
    [63, 'binary'],
    [255, 'utf8mb4'],
    [323, 'utf8mb4'],
    [28, 'gbk'],
    [101, 'utf16'],
  ])('%i is %s', (id, name) => {
    expect(charsetOf(id).name).toBe(name)
  })
  it.each([0, 17, 127, 1024])('%i is none', (id) => {
    expect(() => charsetOf(id)).toThrow(expect.objectContaining({ code: 'SCHEMA_MISMATCH' }))
  })
})
