/** Cursors over a fail-over to a server whose log has the same transactions in another order. */
import { expect, test } from 'vitest'
import type { Position, Source, Transaction } from '../../src/change.ts'
import { GtidSet } from '../../src/gtid.ts'
import type { Cursor } from '../../src/store/store.ts'
import { SERVER } from './log.ts'
import { hold, log, never, open, store, wait, whole } from './setup.ts'

/** The main reader had `had` from the first server; the log is the second one's, read in `epoch`. */
const behind = (epoch: number, had: string): Position => ({
  ...log.origin,
  epoch,
  offset: 9000,
  gtids: GtidSet.parse(`${SERVER}:${had}`),
})
const inEpoch = (epoch: number, tx: Transaction): Transaction => ({ ...tx, epoch })
const catchUp: Source['read'] = async function* (from, signal) {
  const at = from.epoch === 2 ? from : log.origin
  for await (const tx of log.read(at, signal, { part: 100, empties: false })) yield inEpoch(2, tx)
}
const one = { ...wait, changes: 3 }
const push = (tx: Transaction): void => expect(store.append(tx, never)).toBeUndefined()
/** Gives out one transaction, acks it when asked to; which one it was. */
async function next(cursor: Cursor, ack = false): Promise<string> {
  const batch = hold(await cursor.get(one, never))!
  if (ack) await cursor.ack(batch.id)
  const { tx } = batch.parts[0]!
  return `${tx.epoch}:${String(tx.gtid?.gno)}`
}

test('what a rollback goes back to may lack again what the main reader had from the old server', async () => {
  open({ catchUp, resume: behind(1, '2-3') })
  const cursor = store.subscribe('c')
  for (let i = 0; i < 4; i++) {
    const tx = log.write(['t0'])
    // 2 and 3 were read on the old server and come no more
    if (i === 0 || i === 3) push(inEpoch(2, whole(tx)))
  }
  expect(await next(cursor, true)).toBe('2:1')
  for (const name of ['2:2', '2:3', '2:4']) expect(await next(cursor)).toBe(name)
  expect(store.status().cursors[0]?.state).toBe('live')
  cursor.rollback()
  for (const name of ['2:2', '2:3', '2:4']) expect(await next(cursor)).toBe(name)
})

test('a second fail-over does not let a cursor into the window that lacks what the main reader had before the first', async () => {
  open({ catchUp, resume: behind(1, '2-3') })
  const cursor = store.subscribe('c')
  const written = Array.from({ length: 5 }, () => log.write(['t0']))
  push(inEpoch(2, whole(written[0]!)))
  push(inEpoch(2, whole(written[3]!)))
  expect(await next(cursor, true)).toBe('2:1')
  push(inEpoch(3, whole(written[4]!)))
  for (const name of ['2:2', '2:3']) expect(await next(cursor)).toBe(name)
})
