/** What the server remembers of an hour: rates, worst lags, gaps; never more than its ring holds. */
import { expect, test } from 'vitest'
import type { InstanceFacts } from '../../src/web/facts.ts'
import { Past, POINTS_MAX, STEP_LOOKS } from '../../src/web/live/past.ts'

/** One instance at one look: what it has read so far, and how late it is. */
function facts(name: string, read: number, readMs?: number): InstanceFacts {
  const counts = { transactions: read, changes: read * 3, logBytes: read * 100 }
  return {
    member: { name },
    status: { counts, store: { bytes: 7 } },
    read: { ms: readMs, bytes: 0 },
    clients: [
      { deliver: { ms: 1, bytes: 0 }, ack: { ms: 2, bytes: 0 } },
      { deliver: { ms: undefined, bytes: 0 }, ack: { ms: read, bytes: 0 } },
    ],
  } as unknown as InstanceFacts
}

test('a point covers ten looks, with the rate over all and the worst lag of any', () => {
  const past = new Past()
  for (let look = 0; look <= STEP_LOOKS * 2; look++)
    past.take(
      [facts('a', look * 5, look === 3 ? 900 : look > STEP_LOOKS ? undefined : 4)],
      look * 1000,
    )
  const { at, ...series } = past.series('a')
  expect(series).toEqual({
    changes: [15, 15],
    bytes: [500, 500],
    readMs: [900, null],
    ackMs: [50, 100],
    storeBytes: [7, 7],
  })
  expect(at).toHaveLength(2)
  expect(past.rates('a')).toEqual({ transactions: 5, changes: 15, bytes: 500 })
  expect(past.series('other').at).toEqual([])
})
test('an instance that began anew has no rate below zero', () => {
  const past = new Past()
  for (let look = 0; look <= STEP_LOOKS; look++)
    past.take([facts('a', look < 5 ? 1000 + look : look - 5)], look * 1000)
  expect(past.series('a').changes).toEqual([2])
  expect(past.rates('a').transactions).toBe(1)
})
test('the ring holds an hour and no more, the newest last; what is gone is forgotten', () => {
  const past = new Past()
  const looks = (POINTS_MAX + 5) * STEP_LOOKS
  for (let look = 0; look <= looks; look++) past.take([facts('a', look ** 2)], look * 1000)
  const { changes } = past.series('a')
  expect(changes).toHaveLength(POINTS_MAX)
  expect(changes).toEqual(changes.toSorted((a, b) => a! - b!))
  expect(changes[0]).toBeGreaterThan(0)
  past.take([], (looks + 1) * 1000)
  expect(past.series('a').changes).toEqual([])
})
