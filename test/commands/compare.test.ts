import { expect, test } from 'vitest'
import type { Column, Value } from '../../src/change.ts'
import { compareValues } from '../../src/commands/check/compare.ts'

const column = (type: number): Column => ({ type }) as Column
const verdict = (type: number, ours: Value | undefined, theirs: unknown): string => {
  const v = compareValues(column(type), ours, theirs)
  return v.kind === 'known' ? v.reason : v.kind
}

test.each<[string, number, Value | undefined, unknown]>([
  ['integers', 3, -5, -5],
  ['a bigint within the safe range', 8, 5n, 5],
  ['a bigint beyond it', 8, 18446744073709551615n, '18446744073709551615'],
  ['NULL', 3, null, null],
  ['FLOAT in single precision', 4, 0.1, 0.10000000149011612],
  ['DECIMAL', 246, '1.50', '1.50'],
  ['BIT', 16, 513n, Buffer.from([2, 1])],
  ['bytes', 252, Buffer.from('ab'), Buffer.from('ab')],
  ['JSON whatever its spacing', 245, '{"a": [1, 2.0]}', '{"a":[1,2]}'],
  ['a decimal inside JSON', 245, '{"a": 1.10}', '{"a":"1.10"}'],
])('%s are the same', (_, type, ours, theirs) => {
  expect(verdict(type, ours, theirs)).toBe('same')
})
test.each<[string, number, Value | undefined, unknown]>([
  ['integers', 3, -5, 5],
  ['NULL and a value', 3, null, 0],
  ['a value and NULL', 3, 0, null],
  ['text', 15, 'a', 'A'],
  ['DECIMAL of another scale', 246, '1.50', '1.5'],
  ['BIT', 16, 513n, Buffer.from([1, 2])],
  ['bytes of another length', 252, Buffer.from('ab'), Buffer.from('a')],
  ['JSON', 245, '{"a": 1}', '{"a": 1, "b": 2}'],
  ['JSON that is none', 245, '{"a": 1}', '{'],
  ['an absent column and a value', 3, undefined, 0],
  ['a positive TIME', 19, '00:01:00', '00:01:01'],
  ['FLOAT', 4, 0.1, 0.2],
])('%s that differ are different', (_, type, ours, theirs) => {
  expect(verdict(type, ours, theirs)).toBe('different')
})
test.each<[string, number, Value | undefined, unknown]>([
  ['NULL', 3, undefined, null],
  ['geometry', 255, Buffer.from('x'), { x: 1 }],
  ['partial JSON', 245, { kind: 'jsonDiff', text: '' }, null],
  ['error value', 247, '', undefined],
  ['1900', 13, 0, 1900],
  ['pad', 254, Buffer.from('a\0\0'), Buffer.from('a')],
  ['negative TIME', 19, '-00:01:00', '-00:00:64'],
])('what zongji does differently has a name: %s', (name, type, ours, theirs) => {
  expect(verdict(type, ours, theirs)).toContain(name)
})
