/** GTID sets against MySQL's own functions; what only a server that knows tags can say, on such a one (8.3+). */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { GtidSet } from '../src/gtid.ts'
import { sharedMysql, versions } from './support/mysql.ts'
import type { MysqlServer } from './support/mysql.ts'

const A = '2c256447-3f0d-431b-9a25-bddf1f1f6ef6'
const B = '3e11fa47-71ca-11e1-9e33-c80aa9429562'

const gnos = fc.bigInt({ min: 1n, max: 30n })
const plain = fc.constantFrom(A, B, A.toUpperCase())
const tagged = fc.constantFrom(A, B, `${A}:tag_a`, `${A.toUpperCase()}:B`, `${B}: _9 `)
const texts = (sids: fc.Arbitrary<string>): fc.Arbitrary<string> =>
  fc
    .array(fc.tuple(sids, fc.array(fc.tuple(gnos, gnos), { minLength: 1, maxLength: 5 })), {
      maxLength: 5,
    })
    .map((list) =>
      list.map(([sid, runs]) => `${sid}:${runs.map((run) => run.join('-')).join(':')}`).join(', '),
    )

describe.each(versions)('MySQL %s', (version) => {
  let server: MysqlServer
  beforeAll(async () => {
    server = await sharedMysql(version)
  })
  afterAll(() => server[Symbol.asyncDispose]())

  it('text, difference and inclusion are what it says', async () => {
    const sets = texts(version === '9.7' ? tagged : plain)
    await fc.assert(
      fc.asyncProperty(sets, sets, async (a, b) => {
        const [row] = await server.query<{ text: string; difference: string; subset: number }>(
          `SELECT GTID_SUBTRACT(?, '') AS text, GTID_SUBTRACT(?, ?) AS difference, GTID_SUBSET(?, ?) AS subset`,
          [a, a, b, a, b],
        )
        const [x, y] = [GtidSet.parse(a), GtidSet.parse(b)]
        expect(x.toString()).toBe(row!.text.replaceAll('\n', ''))
        expect(x.subtract(y).toString()).toBe(row!.difference.replaceAll('\n', ''))
        expect(y.includes(x)).toBe(row!.subset === 1)
      }),
      { numRuns: 300 },
    )
  })

  if (version === '9.7')
    it('what it calls malformed is malformed', async () => {
      const pieces = fc.constantFrom(A, B, ...':-, 017a_{}+'.split(''), '')
      let refused = 0
      await fc.assert(
        fc.asyncProperty(fc.array(pieces, { maxLength: 9 }), async (list) => {
          const text = list.join('')
          const theirs = await server
            .query<{ text: string }>(`SELECT GTID_SUBTRACT(?, '') AS text`, [text])
            .then(
              ([row]) => row!.text.replaceAll('\n', ''),
              () => 'malformed',
            )
          let ours = 'malformed'
          try {
            ours = GtidSet.parse(text).toString()
          } catch {
            refused++
          }
          expect([text, ours]).toEqual([text, theirs])
        }),
        { numRuns: 1000 },
      )
      expect(refused).toBeGreaterThan(100)
    })
})
