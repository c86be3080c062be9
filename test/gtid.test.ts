/** GTID sets: MySQL's text and bytes, set arithmetic against a plain Set, and @vlasky/zongji's GtidSet as a second opinion. */
import { GtidSet as ZongjiSet } from '@vlasky/zongji'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { SluiceError } from '../src/errors.ts'
import { GtidSet, formatGtid } from '../src/gtid.ts'
import type { Gtid } from '../src/gtid.ts'

const A = '2c256447-3f0d-431b-9a25-bddf1f1f6ef6'
const B = '3e11fa47-71ca-11e1-9e33-c80aa9429562'
const MAX = 2n ** 63n - 2n

const sids = fc.constantFrom(A, B, `${A}:tag_a`, `${A}:b`, `${B}:_9`)
const gnos = fc.bigInt({ min: 1n, max: 24n })
const gtids: fc.Arbitrary<Gtid> = fc.record({ sid: sids, gno: gnos })
/** As text with its intervals in any order, some overlapping, some empty. */
const texts = fc
  .array(fc.tuple(sids, fc.array(fc.tuple(gnos, gnos), { minLength: 1, maxLength: 6 })), {
    maxLength: 6,
  })
  .map((list) =>
    list.map(([sid, runs]) => `${sid}:${runs.map((run) => run.join('-')).join(':')}`).join(','),
  )

const codeOf = (f: () => unknown): string => {
  try {
    f()
  } catch (error) {
    return error instanceof SluiceError ? error.code : String(error)
  }
  return 'nothing thrown'
}

describe('text', () => {
  it.each([
    ['', ''],
    [' \n', ''],
    [`${A}:1-5`, `${A}:1-5`],
    [`${B}:3,${A}:1\n`, `${A}:1,${B}:3`],
    [`${A}:7:1-5:6`, `${A}:1-7`],
    [`${A}:5-3`, ''],
    [`${A}`, ''],
    [`${A}: 1 - 5 , ,`, `${A}:1-5`],
    [`${A.toUpperCase()}:TAG:1:2-3:tag:7`, `${A}:tag:1-3:7`],
    [`${A}:b:1:a:2:3`, `${A}:a:2-3:b:1`],
    [`${A}:1:tag:2,${A}:5`, `${A}:1:5:tag:2`],
    [`${A}:01`, `${A}:1`],
    [`{${A}}:1,${B.replaceAll('-', '')}:2`, `${A}:1,${B}:2`],
    [`${A}:1-${MAX}`, `${A}:1-${MAX}`],
  ])('%j is read as MySQL 9 reads it', (text, canonical) => {
    expect(GtidSet.parse(text).toString()).toBe(canonical)
    expect(GtidSet.parse(text).empty).toBe(canonical === '')
  })

  it.each([
    `${A}:0`,
    `${A}:0-5`,
    `${A}:`,
    `${A}:1-`,
    `${A}::1`,
    `${A}:+1`,
    `${A}:1t:1`,
    `${A}:1 2`,
    `${A}:${'a'.repeat(33)}:1`,
    `${A}:${MAX + 1n}`,
    `${A}:1-${MAX + 1n}`,
    `${A.slice(1)}:1`,
    'uuid:1',
  ])('%j is refused as MySQL 9 refuses it', (text) => {
    expect(codeOf(() => GtidSet.parse(text))).toBe('GTID_MALFORMED')
  })

  it('of one GTID', () => {
    expect(formatGtid({ sid: `${A}:tag`, gno: 7n })).toBe(`${A}:tag:7`)
  })

  it('a long text in the worst order is read without quadratic work', () => {
    const odd = Array.from({ length: 200_000 }, (_, i) => 400_001 - 2 * i)
    expect(GtidSet.parse(`${A}:${odd.join(':')}`).contains({ sid: A, gno: 3n })).toBe(true)
  })
})

describe('zongji agrees', () => {
  /** Without empty intervals, which zongji refuses. */
  const clean = texts.map((text) => GtidSet.parse(text).toString())

  it('on text and bytes', () => {
    fc.assert(
      fc.property(clean, (text) => {
        const theirs = ZongjiSet.parse(text)
        expect(GtidSet.parse(text).toString()).toBe(theirs.toString())
        expect(
          GtidSet.parse(text)
            .encode()
            .equals((theirs as unknown as { encode(): Buffer }).encode()),
        ).toBe(true)
      }),
    )
  })

  it('on add and contains', () => {
    fc.assert(
      fc.property(clean, fc.array(gtids), gtids, (text, added, asked) => {
        const ours = GtidSet.parse(text)
        const theirs = ZongjiSet.parse(text)
        for (const gtid of added) {
          ours.add(gtid)
          theirs.add(formatGtid(gtid))
        }
        expect(ours.toString()).toBe(theirs.toString())
        expect(ours.contains(asked)).toBe(theirs.contains(formatGtid(asked)))
      }),
    )
  })
})

describe('arithmetic', () => {
  const members = (set: GtidSet): Set<string> => {
    const found = new Set<string>()
    for (const sid of [A, B, `${A}:tag_a`, `${A}:b`, `${B}:_9`])
      for (let gno = 0n; gno < 40n; gno++)
        if (set.contains({ sid, gno })) found.add(`${sid}:${gno}`)
    return found
  }
  const build = (list: readonly Gtid[]): GtidSet => {
    const set = new GtidSet()
    for (const gtid of list) set.add(gtid)
    return set
  }
  const lists = fc.array(gtids, { maxLength: 60 })

  it('is that of plain sets', () => {
    fc.assert(
      fc.property(lists, lists, (a, b) => {
        const [x, y] = [build(a), build(b)]
        const [p, q] = [new Set(a.map(formatGtid)), new Set(b.map(formatGtid))]
        expect(members(x)).toEqual(p)
        expect(members(x.union(y))).toEqual(new Set([...p, ...q]))
        const rest = new Set([...p].filter((gtid) => !q.has(gtid)))
        expect(members(x.subtract(y))).toEqual(rest)
        expect(x.subtract(y).empty).toBe(rest.size === 0)
        expect(x.includes(y)).toBe([...q].every((gtid) => p.has(gtid)))
        expect(GtidSet.parse(x.toString()).toString()).toBe(x.toString())
        expect(x.union(y).toString()).toBe(y.union(x).toString())
        expect(members(x)).toEqual(p)
        expect(members(y)).toEqual(q)
      }),
    )
  })

  it('leaves clones alone, whichever is changed', () => {
    fc.assert(
      fc.property(lists, lists, lists, (a, b, c) => {
        const set = build(a)
        const copy = set.clone()
        for (const gtid of b) set.add(gtid)
        copy.merge(build(c))
        expect(members(set)).toEqual(new Set([...a, ...b].map(formatGtid)))
        expect(members(copy)).toEqual(new Set([...a, ...c].map(formatGtid)))
      }),
    )
  })

  it('is exact at the end of the range', () => {
    const set = GtidSet.parse(`${A}:${MAX - 2n}`)
    set.add({ sid: A, gno: MAX })
    expect(set.toString()).toBe(`${A}:${MAX - 2n}:${MAX}`)
    set.add({ sid: A, gno: MAX - 1n })
    expect(set.toString()).toBe(`${A}:${MAX - 2n}-${MAX}`)
  })
})

describe('bytes', () => {
  it('come back as the same set', () => {
    fc.assert(
      fc.property(texts, fc.nat(9), (text, offset) => {
        const set = GtidSet.parse(text)
        const bytes = Buffer.concat([
          Buffer.alloc(offset, 0xff),
          set.encode(),
          Buffer.alloc(3, 0xff),
        ])
        expect(GtidSet.decode(bytes, offset, bytes.length - 3).toString()).toBe(set.toString())
      }),
    )
  })

  it('truncated, lengthened or with flipped bits are refused or another set, nothing else', () => {
    fc.assert(
      fc.property(texts, fc.array(fc.nat(), { maxLength: 4 }), fc.nat(), (text, flips, cut) => {
        const bytes = GtidSet.parse(text).encode()
        for (const flip of flips) bytes[(flip >> 3) % bytes.length]! ^= 1 << (flip & 7)
        expect(['GTID_MALFORMED', 'nothing thrown']).toContain(
          codeOf(() => GtidSet.decode(bytes, 0, bytes.length)),
        )
        const whole = GtidSet.parse(text).encode()
        const part = whole.subarray(0, cut % whole.length)
        expect(codeOf(() => GtidSet.decode(part, 0, part.length))).toBe('GTID_MALFORMED')
        const more = Buffer.concat([whole, Buffer.alloc(1)])
        expect(codeOf(() => GtidSet.decode(more, 0, more.length))).toBe('GTID_MALFORMED')
      }),
      { numRuns: 500 },
    )
  })

  it('with a count far beyond their length take no memory for it', () => {
    const bytes = GtidSet.parse(`${A}:1`).encode()
    bytes.writeBigUInt64LE(0xffffffffffffn, 24)
    expect(codeOf(() => GtidSet.decode(bytes, 0, bytes.length))).toBe('GTID_MALFORMED')
  })
})

describe("MariaDB's", () => {
  const of = (text: string): GtidSet => GtidSet.parse(text)

  it.each([
    ['0-1-100', '0-1-100'],
    [' 10-2-5 , 2-1-7,0-1-1', '0-1-1,2-1-7,10-2-5'],
    ['0-1-18446744073709551615', '0-1-18446744073709551615'],
    ['0-1-5,0-2-9', '0-2-9'], // the later one of a domain
    ['0-1-0', ''],
  ])('text %j is %j', (text, canonical) => {
    expect(of(text).toString()).toBe(canonical)
    expect(of(text).kind).toBe(canonical === '' ? undefined : 'mariadb')
  })
  it.each(['0-1', '0-1-1-1', '4294967296-1-1', '0-4294967296-1', `0-1-1,${A}:1`, `${A}:1,0-1-1`])(
    '%j is refused',
    (text) => {
      expect(codeOf(() => of(text))).toBe('GTID_MALFORMED')
    },
  )
  it('a domain is everything up to its last number, whoever wrote it', () => {
    const set = of('0-1-100,5-1-3')
    set.add({ sid: '0-2', gno: 101n })
    expect(set.toString()).toBe('0-2-101,5-1-3')
    expect(set.contains({ sid: '0-7', gno: 50n })).toBe(true)
    expect(set.contains({ sid: '0-1', gno: 102n })).toBe(false)
    expect(set.contains({ sid: '1-1', gno: 1n })).toBe(false)
    expect(set.includes(of('0-1-101'))).toBe(true)
    expect(set.includes(of('0-1-101,1-1-1'))).toBe(false)
    expect(set.subtract(of('0-1-101,5-1-9')).empty).toBe(true)
    expect(set.subtract(of('0-1-50,5-1-3')).toString()).toBe('0-2-101')
    expect(
      of('0-1-50')
        .union(set.subtract(of('0-1-50')))
        .toString(),
    ).toBe('0-2-101,5-1-3')
    expect(set.union(of('0-9-7,6-1-1')).toString()).toBe('0-2-101,5-1-3,6-1-1')
    const copy = set.clone()
    copy.add({ sid: '5-1', gno: 4n })
    expect(set.toString()).toBe('0-2-101,5-1-3')
    expect(formatGtid({ sid: '0-2', gno: 101n })).toBe('0-2-101')
  })
})
