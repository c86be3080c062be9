/**
 * JSON diffs. The bytes of the first test are what MySQL 9.7 wrote with binlog_row_value_options=PARTIAL_JSON; the rest
 * is built here. rows.mysql.test.ts applies random diffs of real servers.
 */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { diffExpression, writePatched } from '../../../src/binlog/json/diff.ts'
import { SluiceError } from '../../../src/errors.ts'
import { Out } from '../../../src/out.ts'
import { encodeJson } from './encode.ts'

type Operation = 'replace' | 'insert' | 'remove'

function diff(operation: Operation, path: string, value?: unknown): Buffer {
  const code = ['replace', 'insert', 'remove'].indexOf(operation)
  const text = Buffer.from(path)
  const parts = [Buffer.of(code), packed(text.length), text]
  if (operation !== 'remove') {
    const document = encodeJson(value, false)
    parts.push(packed(document.length), document)
  }
  return Buffer.concat(parts)
}
const packed = (n: number): Buffer => (n < 251 ? Buffer.of(n) : Buffer.of(252, n & 255, n >> 8))

function patched(before: Buffer, diffs: Buffer): string {
  const bytes = Buffer.concat([before, diffs])
  const out = new Out(8)
  writePatched(bytes, 0, before.length, before.length, bytes.length, 'mysql', out)
  return out.buf.toString('utf8', 0, out.at)
}
const apply = (before: unknown, ...diffs: Buffer[]): string =>
  patched(encodeJson(before, false), Buffer.concat(diffs))
const expression = (column: string, ...diffs: Buffer[]): string => {
  const bytes = Buffer.concat(diffs)
  return diffExpression(bytes, 0, bytes.length, column).text
}

it('bytes of a real server', () => {
  // {"a": 1, "b": [1, 2, 3], "c": "0123456789…"}; JSON_SET(a, '$.b[1]', 99, '$.new', 1.5)
  const before =
    '0003005200190001001a0001001b000100050100021c000c290061626303000d000501000502000503002830313233343536373839303132333435363738393031323334353637383930313233343536373839'
  const diffs = '0006242e625b315d030563000105242e6e6577070ff60402018105'
  expect(patched(Buffer.from(before, 'hex'), Buffer.from(diffs, 'hex'))).toBe(
    `{"a": 1, "b": [1, 99, 3], "c": "${'0123456789'.repeat(4)}", "new": 1.5}`,
  )
  const bytes = Buffer.from(diffs, 'hex')
  expect(diffExpression(bytes, 0, bytes.length, 'a')).toEqual({
    kind: 'jsonDiff',
    text: "JSON_INSERT(JSON_REPLACE(a, '$.b[1]', 99), '$.new', 1.5)",
  })
})

describe('applied', () => {
  const document = { a: [1, { b: 2 }], 'k w': 'x', 'q"': null }
  it.each<[string, Buffer[], string]>([
    ['nothing', [], '{"a": [1, {"b": 2}], "q\\"": null, "k w": "x"}'],
    ['a member', [diff('replace', '$.a', true)], '{"a": true, "q\\"": null, "k w": "x"}'],
    [
      'a cell',
      [diff('replace', '$.a[1].b', 'y')],
      '{"a": [1, {"b": "y"}], "q\\"": null, "k w": "x"}',
    ],
    ['the document', [diff('replace', '$', [1])], '[1]'],
    [
      'quoted names',
      [diff('remove', '$."k w"'), diff('replace', '$."q\\""', 1)],
      '{"a": [1, {"b": 2}], "q\\"": 1}',
    ],
    [
      'a new member in its place',
      [diff('insert', '$.aa', 1)],
      '{"a": [1, {"b": 2}], "aa": 1, "q\\"": null, "k w": "x"}',
    ],
    [
      'a cell before another',
      [diff('insert', '$.a[1]', 0)],
      '{"a": [1, 0, {"b": 2}], "q\\"": null, "k w": "x"}',
    ],
    [
      'a cell behind the last',
      [diff('insert', '$.a[9]', 0)],
      '{"a": [1, {"b": 2}, 0], "q\\"": null, "k w": "x"}',
    ],
    ['a cell removed', [diff('remove', '$.a[0]')], '{"a": [{"b": 2}], "q\\"": null, "k w": "x"}'],
    [
      'one after the other',
      [diff('replace', '$.a', {}), diff('insert', '$.a.n', [1]), diff('insert', '$.a.n[0]', 2)],
      '{"a": {"n": [2, 1]}, "q\\"": null, "k w": "x"}',
    ],
  ])('%s', (_what, diffs, expected) => {
    expect(apply(document, ...diffs)).toBe(expected)
  })

  it('a value longer than a byte can say', () => {
    expect(apply({ a: 1 }, diff('replace', '$.a', 'z'.repeat(1000)))).toBe(
      `{"a": "${'z'.repeat(1000)}"}`,
    )
  })
})

describe('refused', () => {
  it.each<[string, Buffer[], RegExp]>([
    [
      'a member that is not there',
      [diff('replace', '$.z', 1)],
      /replace \$\.z: expected a value there/,
    ],
    ['a cell that is not there', [diff('remove', '$.a[7]')], /expected a value there/],
    ['a member that is there already', [diff('insert', '$.a', 1)], /expected no such member yet/],
    ['a member of an array', [diff('insert', '$.a.b', 1)], /expected an object to insert into/],
    ['a cell of an object', [diff('insert', '$[0]', 1)], /expected an array to insert into/],
    ['below a number', [diff('replace', '$.a[0].x', 1)], /expected an object or array there/],
    ['the document removed', [diff('remove', '$')], /expected a path below the document/],
    [
      'a wildcard',
      [diff('replace', '$.*[*]', 1)],
      /expected a path of members and cells|expected an object/,
    ],
    ['a path without $', [diff('replace', '.a', 1)], /expected a path of members and cells/],
    ['a quote left open', [diff('replace', '$."a', 1)], /expected a path of members and cells/],
    [
      'an unknown operation',
      [Buffer.of(3, 1, 36)],
      /at byte 0: expected operation 0, 1 or 2, found 3/,
    ],
    [
      'a path beyond the diffs',
      [Buffer.of(2, 9, 36)],
      /at byte 2: expected 9 bytes of a path, found 1/,
    ],
    ['a diff without a value', [Buffer.of(0, 1, 36)], /expected the length of a value/],
    ['a length that is NULL', [Buffer.of(2, 251)], /expected the length of a path, found 251/],
  ])('%s', (_what, diffs, message) => {
    expect(() => apply({ a: [1] }, ...diffs)).toThrow(message)
    expect(() => apply({ a: [1] }, ...diffs)).toThrow(
      expect.objectContaining({ code: 'ROWS_MALFORMED' }),
    )
  })

  it('any bytes either apply or are refused', () => {
    const valid = Buffer.concat([
      diff('replace', '$.a[0]', 'x'),
      diff('insert', '$."b c"', 2),
      diff('remove', '$.a'),
    ])
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), { maxLength: 3 }),
        (changes) => {
          const copy = Buffer.from(valid)
          for (const [at, byte] of changes) copy[at] = byte
          for (const run of [() => apply({ a: [1] }, copy), () => expression('c', copy)])
            try {
              run()
            } catch (error) {
              if (!(error instanceof SluiceError)) throw error
            }
        },
      ),
      { numRuns: 2000 },
    )
  })
})

describe('as SQL', () => {
  it.each<[string, Buffer[], string]>([
    ['a number', [diff('replace', '$.a', 1)], "JSON_REPLACE(col, '$.a', 1)"],
    [
      'the same function once',
      [diff('remove', '$.a'), diff('remove', '$.b')],
      "JSON_REMOVE(col, '$.a', '$.b')",
    ],
    ['a string', [diff('insert', '$.a', "it's \\")], "JSON_INSERT(col, '$.a', 'it''s \\\\')"],
    ['a cell', [diff('insert', '$[0]', -5)], "JSON_ARRAY_INSERT(col, '$[0]', -5)"],
    ['null', [diff('replace', '$.a', null)], "JSON_REPLACE(col, '$.a', CAST('null' AS JSON))"],
    ['a double', [diff('replace', '$.a', 0.5)], "JSON_REPLACE(col, '$.a', CAST('0.5' AS JSON))"],
    [
      'an object',
      [diff('replace', '$.a', { k: "'" })],
      `JSON_REPLACE(col, '$.a', CAST('{"k": "''"}' AS JSON))`,
    ],
    ['no change', [], 'col'],
  ])('%s', (_what, diffs, expected) => {
    expect(expression('col', ...diffs)).toBe(expected)
  })
  it('a column name that needs quotes', () => {
    expect(expression('my `col', diff('remove', '$.a'))).toBe("JSON_REMOVE(`my ``col`, '$.a')")
  })
})
