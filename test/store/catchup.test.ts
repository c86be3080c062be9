/** Cursors that the window has left behind, and the readers that bring them back. */
import { setImmediate as turn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { Source } from '../../src/change.ts'
import { SluiceError } from '../../src/errors.ts'
import type { Cursor } from '../../src/store/store.ts'
import { itemsOf } from './log.ts'
import { append, get, hold, log, maker, names, never, open, poll, store, wait } from './setup.ts'

/** Lets the window run away from 'slow', which stays open: 'fast' reads everything. */
async function leaveBehind(count: number): Promise<Cursor> {
  const slow = store.subscribe('slow')
  const fast = store.subscribe('fast')
  for (let i = 0; i < count; i++) {
    append(1)
    await get(fast)
  }
  return slow
}

test('a slow cursor reads for itself until it is back in the window', async () => {
  open({ windowBytes: 1000 })
  const slow = await leaveBehind(50)
  expect(store.status().cursors.find(({ client }) => client === 'slow')?.state).toBe('catchUp')
  const seen: string[] = []
  for (let i = 0; i < 50; i++) seen.push(...names(await slow.get({ ...wait, changes: 3 }, never)))
  expect(seen.filter((name) => name.endsWith(':2'))).toEqual(
    log.written.map(({ number }) => `${number}:2`),
  )
  expect(store.status()).toMatchObject({ readers: 0 })
  expect(store.status().cursors.every((cursor) => cursor.state === 'live')).toBe(true)
})

test('it is back only well inside the window, and a rollback of nothing leaves its reader alone', async () => {
  let readers = 0
  open({
    windowBytes: 10 * 130,
    catchUp: (from, signal) => {
      readers++
      return log.read(from, signal, { part: 100, empties: false })
    },
  })
  const slow = await leaveBehind(50)
  const states: string[] = []
  for (let i = 1; i <= 50; i++) {
    await slow.ack(hold(await slow.get({ ...wait, changes: 3 }, never))!.id)
    slow.rollback()
    for (let turns = 0; turns < 5; turns++) await turn() // its reader fills the queue again
    states[i] = store.status().cursors.find(({ client }) => client === 'slow')!.state
  }
  expect(readers).toBe(1)
  expect([30, 40, 41, 42].map((i) => states[i])).toEqual([
    'catchUp',
    'catchUp',
    'catchUp',
    'catchUp',
  ])
  expect(states[45]).toBe('live')
})

test('redelivered is exact where the same events are read in other parts', async () => {
  const cursor = open({ windowBytes: 130 }).subscribe('c')
  const tx = log.write(['t0', 't0'])
  const items = itemsOf(tx) // ordinals 1, 2, 4, 6
  await store.append(maker.part(tx, 0, items.slice(0, 2), 4, []), never)
  expect(await get(cursor)).toEqual(['1:1', '1:2'])
  await store.append(maker.part(tx, 4, items.slice(2), undefined, []), never)
  cursor.rollback()
  const first = hold(await cursor.get({ ...wait, changes: 2 }, never))
  const second = hold(await cursor.get({ ...wait, changes: 2 }, never))
  expect(first).toMatchObject({ redelivered: true, end: { skip: 3 } })
  expect(second).toMatchObject({ redelivered: false, start: { skip: 3 } })
})

test('a catch-up reader is tried again after what may pass, and gives up on what may not', async () => {
  let attempts = 0
  const warnings: unknown[] = []
  const failures = [
    new SluiceError('STREAM_ENDED', 'cut'),
    new SluiceError('POSITION_LOST', 'purged'),
  ]
  open({
    windowBytes: 1000,
    catchUp: async function* (from, signal) {
      attempts++
      let rest = 3
      for await (const tx of log.read(from, signal, { part: 100, empties: false })) {
        if (rest-- === 0 && failures.length > 0) {
          tx.slab?.release()
          throw failures.shift()!
        }
        yield tx
      }
    },
    log: { info: () => {}, warn: (fields) => warnings.push(fields) },
  })
  const slow = await leaveBehind(50)
  const seen: string[] = []
  const read = async (): Promise<void> => {
    for (let batch; (batch = await slow.get({ ...poll, waitMs: 300 }, never));)
      seen.push(...names(batch))
  }
  await expect(read()).rejects.toMatchObject({ code: 'POSITION_LOST' })
  expect(seen).toHaveLength(6 * 3)
  expect({ attempts, warnings }).toMatchObject({
    attempts: 2,
    warnings: [{ client: 'slow', at: 'binlog.000001:454' }],
  })
  await read() // the next get starts afresh
  expect(seen).toHaveLength(50 * 3)
})

test('a catch-up reader reads no further than its queue allows, and as many run at once as may', async () => {
  let running = 0
  let read = 0
  let most = 0
  const catchUp: Source['read'] = async function* (from, signal) {
    most = Math.max(most, ++running)
    try {
      for await (const tx of log.read(from, signal, { part: 100, empties: false })) {
        read += tx.bytes
        yield tx
      }
    } finally {
      running--
    }
  }
  open({ windowBytes: 4000, readerIdleMs: 20, catchUp })
  const cursors = ['a', 'b'].map((name) => store.subscribe(name))
  await leaveBehind(100)
  expect(await get(cursors[0]!, 1)).toEqual([])
  const first = hold(await cursors[0]!.get({ ...wait, changes: 1 }, never))
  expect(first?.parts).toHaveLength(1)
  for (let i = 0; i < 50; i++) await turn()
  expect(read).toBeLessThanOrEqual(1000 + 130)
  expect(running).toBe(1)
  // The other one waits until nobody asks the first for a while; the first goes on later where it was.
  expect(names(await cursors[1]!.get({ ...wait, changes: 3 }, never))).toEqual([
    '1:1',
    '1:2',
    '1:4',
  ])
  expect(names(await cursors[0]!.get({ ...wait, changes: 2 }, never))).toEqual(['1:2', '1:4'])
  expect(most).toBe(1)
})
