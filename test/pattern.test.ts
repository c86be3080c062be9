/**
 * The matcher against JavaScript's own engine on random patterns, and on patterns that kill a backtracking one.
 */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { compilePattern } from '../src/pattern.ts'

const atom = fc.constantFrom(
  'a',
  'B',
  'c',
  '.',
  '\\.',
  '[ab]',
  '[^a-c]',
  '\\w',
  '\\d',
  '\\W',
  '7',
  '_',
  '\\x61',
)
const edge = fc.constantFrom('^', '$', '\\b', '\\B')
const quantifier = fc.constantFrom('', '', '', '*', '+', '?', '*?', '{2}', '{1,3}', '{0,}', '{0}')
const { pattern } = fc.letrec<{ pattern: string; piece: string }>((tie) => ({
  piece: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    fc.tuple(atom, quantifier).map((parts) => parts.join('')),
    edge,
    fc
      .tuple(fc.constantFrom('(', '(?:'), tie('pattern'), quantifier)
      .map(([open, p, q]) => `${open}${p})${q}`),
    fc.tuple(fc.constantFrom('(?=', '(?!'), tie('pattern')).map(([open, p]) => `${open}${p})`),
  ),
  pattern: fc.oneof(
    fc.array(tie('piece'), { maxLength: 4 }).map((pieces) => pieces.join('')),
    fc.tuple(tie('pattern'), tie('pattern')).map((parts) => parts.join('|')),
  ),
}))
const subject = fc.string({
  unit: fc.constantFrom('a', 'A', 'b', 'c', '.', '7', '_', '-'),
  maxLength: 8,
})

describe('compilePattern', () => {
  it('agrees with RegExp', () => {
    let matches = 0
    fc.assert(
      fc.property(pattern, fc.array(subject, { minLength: 5, maxLength: 10 }), (source, texts) => {
        fc.pre(source.length < 200)
        let mine: (text: string) => boolean
        try {
          mine = compilePattern(source)
        } catch (error) {
          expect(String(error)).toContain('too large') // look-aheads in look-aheads cost most
          return
        }
        const theirs = new RegExp(`^(?:${source})$`, 'i')
        for (const text of texts) {
          const expected = theirs.test(text)
          if (expected) matches++
          expect(mine(text), `${source} on "${text}"`).toBe(expected)
        }
      }),
      { numRuns: 3000 },
    )
    expect(matches).toBeGreaterThan(100)
  })
  it('ends on patterns that a backtracking engine would not survive', () => {
    const text = `${'a'.repeat(64)}.${'a'.repeat(64)}!`
    for (const source of [
      '(a*)*b',
      '(a+)+$',
      '(a|a)*b',
      '(a|aa)+b',
      '(.*)*(.*)*x',
      `${'.*'.repeat(2000)}b`,
    ]) {
      expect(compilePattern(source)(text)).toBe(false)
    }
    expect(compilePattern('(?=.*(a*)*b).*')(text)).toBe(false)
  })
  it.each([
    ['(a', '"(" without ")"'],
    ['a)', '")" without "("'],
    ['[a', '"[" without "]"'],
    ['[b-a]', 'out of order'],
    ['*', 'nothing before'],
    ['a**', 'two quantifiers'],
    ['a{3,2}', 'backwards'],
    ['(a)\\1', 'not supported'],
    ['(?<=a)b', 'not supported'],
    ['(?<name>a)', 'not supported'],
    ['[[:alpha:]]', 'not supported'],
    ['a\\', 'at the end'],
    ['(a{1000}){1000}', 'too large'],
  ])('refuses %s', (source, reason) => {
    expect(() => compilePattern(source)).toThrow(reason)
  })
  it('refuses deep nesting before the stack ends', () => {
    expect(() => compilePattern('('.repeat(60_000))).toThrow('nested deeper')
  })
  it('reads what Perl has and JavaScript has not', () => {
    expect(compilePattern('(?i)\\Ashop\\..*\\Z')('SHOP.t')).toBe(true)
  })
  it('ignores case beyond ASCII', () => {
    expect(compilePattern('größe\\.[é]')('GRÖßE.É')).toBe(true)
  })
})
