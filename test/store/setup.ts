/**
 * What the tests of the store share: a state file, a log, a store that each test opens as it likes, and the check
 * that all memory was given back. Importing it registers the hooks.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect } from 'vitest'
import type { Transaction } from '../../src/change.ts'
import { State } from '../../src/store/state.ts'
import { type Batch, type Cursor, Store, type StoreOptions } from '../../src/store/store.ts'
import { itemsOf, Log, Maker, nameOf, type Written } from './log.ts'

let directory = ''
export let state: State
export let log: Log
export let maker: Maker
export let store: Store
export const held: Batch[] = []
export const never = new AbortController().signal
export const poll = { changes: 100, bytes: 1e6, waitMs: 0 }
export const wait = { ...poll, waitMs: Infinity }

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sluice-store-'))
  state = State.open(join(directory, 'state.db'))
  log = new Log()
  maker = new Maker(log.pool, true)
})
/** Every test ends with all memory given back. */
afterEach(async () => {
  for (const batch of held.splice(0)) batch.release()
  await store.close()
  maker.end()
  state.close()
  expect(log.pool.bytesInUse).toBe(0)
  rmSync(directory, { recursive: true })
})

export function open(options: Partial<StoreOptions> = {}): Store {
  store = new Store({
    windowBytes: 1e6,
    catchUpReaders: 1,
    catchUp: (from, signal) => log.read(from, signal, { part: 100, empties: false }),
    state,
    origin: log.origin,
    log: { info: () => {}, warn: () => {} },
    ...options,
  })
  return store
}
export function whole(tx: Written): Transaction {
  if (tx.rows.length === 0) return maker.empty([tx])
  return maker.part(tx, 0, itemsOf(tx), undefined, [])
}
/** Writes transactions of one row and appends them; all must have room. */
export function append(count: number, table = 't0'): void {
  for (let i = 0; i < count; i++)
    expect(store.append(whole(log.write([table])), never)).toBeUndefined()
}
export function names(batch: Batch | undefined): string[] {
  if (!batch) return []
  held.push(batch)
  return batch.parts.flatMap(({ tx, from, to }) =>
    tx.changes
      .slice(from, to)
      .filter((c) => batch.wants(c))
      .map(nameOf),
  )
}
export const get = async (cursor: Cursor, changes = 100): Promise<string[]> =>
  names(await cursor.get({ ...poll, changes }, never))
export function hold(batch: Batch | undefined): Batch | undefined {
  if (batch) held.push(batch)
  return batch
}
/** From now on transactions are made with so many events in a slab. */
export function useMaker(eventsPerSlab: number): void {
  maker.end()
  maker = new Maker(log.pool, true, eventsPerSlab)
}
