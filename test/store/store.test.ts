/** The store and its cursors, one behaviour at a time; how they go together is cursor.model.test.ts. */
import { setImmediate as turn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { Position } from '../../src/change.ts'
import { State } from '../../src/store/state.ts'
import { resumeFrom } from '../../src/store/store.ts'
import { itemsOf } from './log.ts'
import {
  append,
  get,
  held,
  hold,
  log,
  maker,
  names,
  never,
  open,
  poll,
  state,
  store,
  useMaker,
  wait,
  whole,
} from './setup.ts'

test('a get that waits is served when something comes, with all that comes in the same breath', async () => {
  const cursor = open().subscribe('c')
  const batch = cursor.get(wait, never)
  await turn()
  append(2)
  await Promise.resolve()
  append(1)
  expect(names(await batch)).toHaveLength(9)
  expect(await get(cursor)).toEqual([])
})

test('a get ends empty when its time is up, and when it is aborted, also in the middle of lingering', async () => {
  const cursor = open().subscribe('c')
  expect(await cursor.get({ ...poll, waitMs: 5 }, never)).toBeUndefined()
  const abort = new AbortController()
  const waiting = cursor.get(wait, abort.signal)
  abort.abort()
  expect(await waiting).toBeUndefined()
  append(1)
  const again = new AbortController()
  const lingering = cursor.get(wait, again.signal)
  again.abort()
  expect(await lingering).toBeUndefined()
  expect(store.status().cursors[0]?.read).toBe(cursor.acked) // it holds nothing of what it had gathered
  expect(await get(cursor)).toEqual(['1:1', '1:2', '1:4'])
})

test('batches are cut between any two changes, and their ends say exactly where', async () => {
  const cursor = open().subscribe('c')
  append(1)
  await store.append(whole(log.write(['t0', 't1'])), never)
  const ends: string[] = []
  for (let batch; (batch = await cursor.get({ ...poll, changes: 2 }, never)); held.push(batch)) {
    ends.push(`${batch.end.offset}+${batch.end.skip} ${batch.end.gtids!.toString().slice(37)}`)
  }
  expect(ends).toEqual(['4+3 ', '154+2 1', '154+5 1', '354+0 1-2'])
  expect(held.map(({ id }) => id)).toEqual([1n, 2n, 3n, 4n])
  await cursor.ack(1n)
  await cursor.ack(2n)
  expect(cursor.acked).toMatchObject({ offset: 154, skip: 2 })
  expect(cursor.acked.gtids!.toString()).toMatch(/:1$/)
  cursor.rollback()
  expect(await get(cursor)).toEqual(['2:2', '2:4', '2:6'])
})

test('acks: in order, of what is outstanding, durable together', async () => {
  const cursor = open().subscribe('c')
  append(4)
  for (let i = 0; i < 4; i++) await get(cursor, 3)
  await expect(cursor.ack(2n)).rejects.toMatchObject({
    code: 'BATCH_NOT_FIRST',
    message: 'batch 2 of client c is not the oldest outstanding one, which is 1',
  })
  await expect(cursor.ack(5n)).rejects.toMatchObject({ code: 'BATCH_UNKNOWN' })
  expect(() => cursor.rollback(2n)).toThrow(/oldest outstanding/)
  await Promise.all([cursor.ack(1n), cursor.ack(2n)])
  await expect(cursor.ack(1n)).rejects.toMatchObject({ code: 'BATCH_UNKNOWN' })
  expect(log.doneAt(State.read(state.path).cursors[0]!.acked)).toBe(2)
  cursor.rollback(3n)
  await expect(cursor.ack(4n)).rejects.toMatchObject({ code: 'BATCH_UNKNOWN' })
  const again = await cursor.get(poll, never)
  expect(again).toMatchObject({ id: 5n, redelivered: true })
  expect(names(again)).toHaveLength(6)
  append(1)
  const fresh = await cursor.get(poll, never)
  expect(fresh?.redelivered).toBe(false)
  names(fresh)
})

test('batch ids go on at the next reserved block after a restart, and belong to the client, not the cursor', async () => {
  open().subscribe('c')
  append(3)
  expect(
    (
      await store
        .subscribe('c')
        .get({ ...poll, changes: 1 }, never)
        .then(hold)
    )?.id,
  ).toBe(1n)
  expect(
    (
      await store
        .subscribe('c')
        .get({ ...poll, changes: 1 }, never)
        .then(hold)
    )?.id,
  ).toBe(2n)
  expect(
    (
      await store
        .subscribe('d')
        .get({ ...poll, changes: 1 }, never)
        .then(hold)
    )?.id,
  ).toBe(1n)
  await store.close()
  open()
  for (const tx of log.written) await store.append(whole(tx), never)
  const batch = await store
    .subscribe('c')
    .get({ ...wait, changes: 1 }, never)
    .then(hold)
  expect(batch?.id).toBe(1001n)
  expect(batch?.redelivered).toBe(false) // not in this process
})
test('a take-over: the old cursor throws, its waiting get too; the new one starts at what was acked', async () => {
  const old = open().subscribe('c')
  append(2)
  await get(old, 3)
  await get(old, 3)
  void old.ack(1n)
  const waiting = old.get(wait, never)
  const cursor = store.subscribe('c')
  const taken = { code: 'CURSOR_TAKEN' }
  await expect(waiting).rejects.toMatchObject(taken)
  await expect(old.get(poll, never)).rejects.toMatchObject(taken)
  await expect(old.ack(2n)).rejects.toMatchObject(taken)
  expect(() => old.rollback()).toThrow(/taken over/)
  old.close()
  expect(log.doneAt(cursor.acked)).toBe(1)
  expect(await get(cursor)).toEqual(['2:1', '2:2', '2:4'])
  await cursor.ack(3n)
})

test('closing: the cursor, the subscription, the client, the store', async () => {
  const closed = { code: 'CURSOR_CLOSED' }
  const cursor = open().subscribe('c', { filterText: 'd\\.t0' })
  append(1)
  await get(cursor)
  await cursor.ack(1n)
  const waiting = cursor.get(wait, never)
  cursor.close()
  cursor.close()
  await expect(waiting).rejects.toMatchObject(closed)
  expect(store.subscription('c')).toEqual({ filterText: 'd\\.t0' })
  expect(store.status().cursors).toMatchObject([{ client: 'c', state: 'away', outstanding: 0 }])

  const second = store.subscribe('c')
  expect(store.subscription('c')).toEqual({ filterText: 'd\\.t0' })
  store.unsubscribe('c')
  await expect(second.get(poll, never)).rejects.toMatchObject(closed)
  expect(store.subscription('c')).toBeUndefined()
  expect(log.doneAt(store.subscribe('c').acked)).toBe(1)
  expect(store.subscription('c')).toEqual({ filterText: '' })

  store.forget('c')
  expect(store.status().cursors).toEqual([])
  const third = store.subscribe('c')
  expect(log.doneAt(third.acked)).toBe(0)
  const last = third.get({ ...wait, changes: 1 }, never)
  hold(await last)
  const end = third.get(wait, never)
  end.catch(() => {})
  await store.close()
  await end.then(hold, (error: unknown) => expect(error).toMatchObject(closed))
})

test('where a client starts: from only when it was never seen, else the origin', async () => {
  open()
  append(3)
  const from = log.after(log.written[1]!)
  expect(await get(store.subscribe('late', { from }))).toEqual(['3:1', '3:2', '3:4'])
  expect(await get(store.subscribe('c'))).toHaveLength(9)
  store.subscribe('c').close()
  expect(log.doneAt(store.subscribe('c', { from }).acked)).toBe(0)
})

test('append waits when no open cursor has read the oldest, and only then', async () => {
  open({ windowBytes: 3 * 130 })
  append(3)
  const waiting = store.append(whole(log.write(['t0'])), never)
  expect(waiting).toBeInstanceOf(Promise)
  expect(store.status()).toMatchObject({ braking: true, transactions: 3 })
  const cursor = store.subscribe('c')
  expect(store.status().braking).toBe(true)
  await get(cursor, 2) // into the oldest, not past it
  expect(store.status().braking).toBe(true)
  await get(cursor, 1)
  await waiting
  expect(store.status()).toMatchObject({ braking: false, transactions: 3 })

  const abort = new AbortController()
  const aborted = store.append(whole(log.write(['t0'])), abort.signal)
  abort.abort()
  await aborted
  expect(log.doneAt(store.resume)).toBe(4)
})

test('a part that is larger than the window is taken when nothing else is there, and is alone until it was let go', async () => {
  open({ windowBytes: 100 })
  let appended = 0
  const bring = async (): Promise<void> => {
    const tx = whole(log.write(['t0']))
    maker.end() // its slab is its own
    await store.append(tx, never)
    appended++
  }
  const first = bring()
  expect(store.status()).toMatchObject({ bytes: 130, transactions: 1, braking: true })
  const cursor = store.subscribe('c')
  const batch = await cursor.get(poll, never)
  await turn()
  // it is in the batch only
  expect(store.status()).toMatchObject({ bytes: 0, transactions: 0, braking: true })
  expect(appended).toBe(0)
  batch!.release()
  await first
  expect(store.status().braking).toBe(false)

  // one that waits for a place waits there, too
  const second = bring()
  const third = second.then(bring)
  const held = await cursor.get(poll, never)
  await turn()
  expect(appended).toBe(1)
  // nobody who has done with it is kept waiting by who has not
  expect(await get(cursor)).toEqual([])
  await second
  expect(await get(cursor)).toEqual(['3:1', '3:2', '3:4'])
  held!.release()
  expect(await get(cursor)).toEqual([])
  await third

  const abort = new AbortController()
  const aborted = store.append(whole(log.write(['t0'])), abort.signal)
  abort.abort()
  await aborted
  expect(log.doneAt(store.resume)).toBe(4)
  const last = store.append(whole(log.write(['t0'])), never)
  await store.close()
  await last
})

test('what every client has acked leaves the window', async () => {
  const cursor = open().subscribe('c')
  store.subscribe('away').close()
  append(10)
  await get(cursor, 15)
  await cursor.ack(1n)
  expect(store.status().transactions).toBe(10)
  store.forget('away')
  await get(cursor, 6)
  await cursor.ack(2n)
  expect(store.status().transactions).toBe(3)
})

test('filtered: what nobody wants is passed over without waking anyone, and acked without a batch', async () => {
  const filter = (_: string, table: string): boolean => table === 't1'
  const cursor = open().subscribe('c', { filter })
  append(5)
  const waiting = cursor.get(wait, never)
  await turn()
  append(5)
  log.write([])
  await store.append(whole(log.written.at(-1)!), never)
  expect(log.doneAt(cursor.acked)).toBe(11)
  expect(cursor.acked.gtids!.toString()).toMatch(/:1-11$/)
  state.flush()
  expect(log.doneAt(State.read(state.path).cursors[0]!.acked)).toBe(11)
  expect(store.status().transactions).toBe(0)

  append(1, 't1')
  append(3)
  expect(names(await waiting)).toEqual(['12:1', '12:2', '12:4'])
  expect(log.doneAt(cursor.acked)).toBe(11)
  append(2)
  expect(await get(cursor)).toEqual([])
  await cursor.ack(1n)
  expect(log.doneAt(cursor.acked)).toBe(17)
  expect(log.doneAt(State.read(state.path).cursors[0]!.acked)).toBe(17)
})

test('a transaction in parts keeps its begin and commit, wanted or not', async () => {
  const cursor = open().subscribe('c', { filter: (_, table) => table === 't1' })
  const tx = log.write(['t0', 't0', 't0'])
  const items = itemsOf(tx)
  await store.append(maker.part(tx, 0, items.slice(0, 2), 4, []), never)
  expect(await get(cursor)).toEqual(['1:1'])
  await store.append(maker.part(tx, 4, items.slice(2, 4), 8, []), never)
  expect(await get(cursor)).toEqual([])
  await store.append(maker.part(tx, 8, items.slice(4), undefined, []), never)
  expect(await get(cursor)).toEqual(['1:8'])
})

test('a batch is let go once', async () => {
  const cursor = open().subscribe('c')
  append(1)
  const batch = await cursor.get(poll, never)
  batch!.release()
  expect(() => batch!.release()).toThrow(/released twice/)
})

test('65,536 batches may be outstanding, in little memory', async () => {
  const cursor = open({ windowBytes: 1e9 }).subscribe('c')
  useMaker(20_000)
  append(30_000)
  for (let i = 0; i < 65_536; i++) (await cursor.get({ ...poll, changes: 1 }, never))!.release()
  await expect(cursor.get(poll, never)).rejects.toMatchObject({ code: 'TOO_MANY_BATCHES' })
  await cursor.ack(1n)
  ;(await cursor.get({ ...poll, changes: 1 }, never))!.release()
  cursor.rollback()
  expect((await get(cursor, 3)).at(0)).toBe('1:2')
})

test('the main reader begins at the oldest ack that is not too far from the newest', () => {
  const at = (file: number, offset: number, epoch = 1): Position => ({
    ...log.origin,
    epoch,
    offset,
    file: `b.${file}`,
  })
  const of = (...acks: Position[]): string => {
    const { epoch, file, offset } = resumeFrom(acks, log.origin, 100)
    return `${epoch} ${file}:${offset}`
  }
  open()
  expect(of()).toBe('1 binlog.000001:4')
  expect(of(at(1, 500))).toBe('1 b.1:500')
  expect(of(at(1, 500), at(1, 400), at(1, 450))).toBe('1 b.1:400')
  expect(of(at(1, 500), at(1, 399), at(1, 450))).toBe('1 b.1:450')
  expect(of(at(9, 500), at(10, 4))).toBe('1 b.10:4')
  expect(of(at(1, 500), at(1, 490, 2))).toBe('2 b.1:490')
})

test('after a restart, a cursor ahead of the main reader gets nothing twice', async () => {
  const ahead = open().subscribe('ahead')
  const behind = store.subscribe('behind')
  append(5)
  expect(await get(ahead, 9)).toHaveLength(9)
  await ahead.ack(1n)
  await get(behind, 4)
  await behind.ack(1n)
  await store.close()

  open()
  expect(store.resume).toMatchObject({ offset: log.written[1]!.offset, skip: 2 })
  const [late, early] = [store.subscribe('ahead'), store.subscribe('behind')]
  const tx = log.written[1]!
  await store.append(maker.part(tx, 2, itemsOf(tx).slice(1), undefined, []), never)
  for (const next of log.written.slice(2)) await store.append(whole(next), never)
  expect(await get(late)).toEqual(['4:1', '4:2', '4:4', '5:1', '5:2', '5:4'])
  expect(await get(early, 3)).toEqual(['2:2', '2:4', '3:1'])
})
