/**
 * The store against a small model: any interleaving of writes, a main reader, several clients that get, ack, roll
 * back, close and are taken over, and restarts; with windows so small that cursors fall out of them all the time, and
 * catch-up readers that cut transactions elsewhere than the main reader does. Every client sees exactly every change
 * it wants, in order, again only after a rollback, a close or a restart.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Filter, Transaction } from '../../src/change.ts'
import { State } from '../../src/store/state.ts'
import { type Batch, type Cursor, Store } from '../../src/store/store.ts'
import { type Item, itemsOf, Log, nameOf } from './log.ts'

let directory = ''
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'sluice-cursor-model-'))
})
afterAll(() => rmSync(directory, { recursive: true }))

const never = new AbortController().signal
const filters: (Filter | undefined)[] = [
  undefined,
  (_, table) => table === 't0',
  (_, table) => table === 't1',
]

/** The model of one client: what it must see, and how far it is. */
class Model {
  readonly filter: Filter | undefined
  readonly expected: { item: Item; name: string; must: boolean }[] = []
  at = 0 // the next one to come
  acked = 0
  furthest = 0 // in this process
  outstanding: { id: bigint; end: number }[] = []
  lastId = 0n
  #given = -1 // the last one given
  constructor(filter: Filter | undefined) {
    this.filter = filter
  }
  write(items: readonly Item[]): void {
    const wanted = ({ kind, table }: Item): boolean =>
      kind === 'insert' || kind === 'ddl' ? (this.filter?.('d', table) ?? true) : false
    const some = items.some(wanted)
    for (const item of items) {
      const edge = item.kind === 'begin' || item.kind === 'commit'
      // Begin and commit of a transaction with nothing wanted come when it is read in parts.
      if (edge || wanted(item)) {
        const name = `${item.tx.number}:${item.ordinal}`
        this.expected.push({ item, name, must: edge ? some : true })
      }
    }
  }
  give(name: string): void {
    for (;;) {
      const next = this.expected[this.at]
      expect(next, `${name} is more than was written`).toBeDefined()
      if (next!.name === name) break
      const open = next!.item.kind === 'commit' && this.#given === this.at - 1 // its begin was given
      expect(next!.must || open, `got ${name}, not ${next!.name}`).toBe(false)
      this.at++
    }
    this.#given = this.at++
  }
  back(): void {
    this.at = this.acked
    this.#given = this.acked - 1
    this.outstanding = []
  }
  /** Whether one of the first `transactions` holds something that must still come. */
  due(transactions: number): boolean {
    return this.expected
      .slice(this.at)
      .some(({ must, item }) => must && item.tx.number <= transactions)
  }
}

interface World {
  readonly log: Log
  readonly state: State
  readonly windowBytes: number
  readonly cuts: { main: number; catchUp: number; empties: boolean }
  readonly models: Model[]
  store: Store
  cursors: (Cursor | undefined)[]
  main: AsyncGenerator<Transaction>
  mainStop: AbortController
  appending: boolean
  appended: number // transactions in full
  held: { batch: Batch; names: string[] }[] // batches in hand, the oldest first
}

function openStore(world: Pick<World, 'log' | 'state' | 'windowBytes' | 'cuts'>): Store {
  const { log, state, windowBytes, cuts } = world
  return new Store({
    windowBytes,
    catchUpReaders: 2,
    readerIdleMs: 1,
    catchUp: async function* (from, signal) {
      for await (const tx of log.read(from, signal, {
        part: cuts.catchUp,
        empties: !cuts.empties,
      })) {
        if (tx.changes.length % 2) await turn()
        yield tx
      }
    },
    state,
    origin: log.origin,
    log: { info: () => {}, warn: () => {} },
  })
}
function startMain(world: World): void {
  const { log, cuts, store } = world
  world.mainStop = new AbortController()
  world.main = log.read(store.resume, world.mainStop.signal, {
    part: cuts.main,
    empties: cuts.empties,
  })
  world.appended = log.doneAt(store.resume)
  world.appending = false
}

/** The main reader hands on one part, unless it is waiting for room or has read everything. */
async function pump(world: World): Promise<void> {
  const { log, store, main } = world
  if (world.appending || log.doneAt(store.resume) === log.written.length) return
  const { value: tx } = await main.next()
  if (!tx) return
  const waits = store.append(tx, world.mainStop.signal)
  const done = (): void => {
    world.appended = log.doneAt(store.resume)
    world.appending = false
    const { bytes, transactions } = store.status()
    expect(bytes <= world.windowBytes || transactions === 1).toBe(true)
  }
  if (!waits) return done()
  world.appending = true
  void (async () => {
    await waits
    done()
  })()
}

async function take(world: World, who: number, changes: number, bytes: number): Promise<boolean> {
  const model = world.models[who]!
  const cursor = world.cursors[who]
  if (!cursor) return false
  const due = model.due(world.appended)
  const batch = await cursor.get({ changes, bytes, waitMs: due ? 5000 : 0 }, never)
  if (due) expect(batch, 'something was there').toBeDefined()
  if (!batch) return false
  check(world, model, batch, changes, bytes)
  return true
}

function check(
  world: World,
  model: Model,
  batch: Batch,
  changesMax: number,
  bytesMax: number,
): void {
  const { log } = world
  let changes = 0
  let bytes = 0
  let begin = -1
  for (const { tx, from, to } of batch.parts) {
    for (const change of tx.changes.slice(from, to)) {
      if (!batch.wants(change)) continue
      model.give(nameOf(change))
      if (begin < 0) begin = model.at - 1
      changes++
      bytes += change.event.end - change.event.start
    }
  }
  expect(changes).toBeGreaterThan(0)
  expect(changes).toBeLessThanOrEqual(Math.max(changesMax, 1))
  expect(bytes <= bytesMax || changes === 1).toBe(true)
  expect(batch.redelivered).toBe(begin < model.furthest)
  expect(batch.id).toBe(model.outstanding.length > 0 ? model.outstanding.at(-1)!.id + 1n : batch.id)
  expect(batch.id > model.lastId).toBe(true)
  if (log.gtids) {
    const done = log.doneAt(batch.end)
    expect(batch.end.gtids?.toString()).toBe(log.position('', 0, 0, done).gtids?.toString())
  }
  model.furthest = Math.max(model.furthest, model.at)
  model.lastId = batch.id
  model.outstanding.push({ id: batch.id, end: model.at })
  world.held.push({ batch, names: namesOf(batch) })
  letGo(world, 3)
}
const namesOf = ({ parts }: Batch): string[] =>
  parts.flatMap(({ tx, from, to }) => tx.changes.slice(from, to).map(nameOf))
/** A batch in hand keeps its bytes, whatever happened to its cursor and the window. */
function letGo(world: World, keep: number): void {
  for (const { batch, names } of world.held.splice(0, Math.max(0, world.held.length - keep))) {
    expect(namesOf(batch)).toEqual(names)
    batch.release()
  }
}

async function restart(world: World): Promise<void> {
  world.mainStop.abort()
  await world.store.close()
  await world.main.return(undefined)
  letGo(world, 0)
  expect(world.log.pool.bytesInUse).toBe(0)
  world.store = openStore(world)
  startMain(world)
  world.cursors = world.cursors.map(() => undefined)
  for (const model of world.models) {
    model.back()
    model.furthest = 0
  }
}

type Step =
  | { readonly do: 'write'; readonly rows: readonly string[] | 'ddl' }
  | { readonly do: 'pump'; readonly times: number }
  | { readonly do: 'get'; readonly who: number; readonly changes: number; readonly bytes: number }
  | {
      readonly do: 'ack' | 'ackWrong' | 'rollback' | 'rollbackOldest' | 'open' | 'close'
      readonly who: number
    }
  | { readonly do: 'restart' }

async function step(world: World, action: Step): Promise<void> {
  switch (action.do) {
    case 'write': {
      const items = itemsOf(world.log.write(action.rows))
      for (const model of world.models) model.write(items)
      return
    }
    case 'pump':
      for (let i = 0; i < action.times; i++) await pump(world)
      return
    case 'get':
      await take(world, action.who, action.changes, action.bytes)
      return
    case 'restart':
      return restart(world)
    case 'ack':
    case 'ackWrong':
    case 'rollback':
    case 'rollbackOldest':
    case 'open':
    case 'close':
      return onCursor(world, action.do, action.who)
  }
}
async function onCursor(world: World, act: string, who: number): Promise<void> {
  const model = world.models[who]!
  const cursor = world.cursors[who]
  if (act === 'open') {
    world.cursors[who] = world.store.subscribe(`c${who}`, { filter: model.filter })
    model.back()
    const late = cursor?.get({ changes: 1, bytes: 1, waitMs: 0 }, never)
    if (late) await expect(late).rejects.toMatchObject({ code: 'CURSOR_TAKEN' })
    return
  }
  if (!cursor) return
  const oldest = model.outstanding[0]
  if (act === 'ack' && oldest) {
    model.outstanding.shift()
    model.acked = oldest.end
    await cursor.ack(oldest.id)
  } else if (act === 'ackWrong') {
    await expect(cursor.ack(model.lastId + 1n)).rejects.toMatchObject({ code: 'BATCH_UNKNOWN' })
    const second = model.outstanding[1]
    if (second)
      await expect(cursor.ack(second.id)).rejects.toMatchObject({ code: 'BATCH_NOT_FIRST' })
  } else if (act === 'rollback') {
    cursor.rollback()
    model.back()
  } else if (act === 'rollbackOldest' && oldest) {
    cursor.rollback(oldest.id)
    model.back()
  } else if (act === 'close') {
    cursor.close()
    world.cursors[who] = undefined
    model.back()
  }
}

/** Everybody reads everything, then nothing may be left. */
async function finish(world: World): Promise<void> {
  for (let who = 0; who < world.models.length; who++) await onCursor(world, 'open', who)
  const everything = world.log.written.length
  const atEnd = (): boolean => {
    const { last, cursors } = world.store.status()
    return [last, ...cursors.map(({ acked }) => acked)].every(
      (at) => world.log.doneAt(at) === everything,
    )
  }
  for (let round = 0; round < 2000 && !atEnd(); round++) {
    for (let i = 0; i < 20; i++) await pump(world)
    for (let who = 0; who < world.models.length; who++) {
      while (await take(world, who, 7, 1000)) await onCursor(world, 'ack', who)
    }
    await turn()
  }
  for (const model of world.models) expect(model.due(everything)).toBe(false)
  const { last, cursors } = world.store.status()
  expect(world.log.doneAt(last)).toBe(everything)
  for (const cursor of cursors) {
    expect(cursor.outstanding).toBe(0)
    expect(world.log.doneAt(cursor.acked), 'acks move over what is passed over').toBe(everything)
  }
  await restart(world)
  world.mainStop.abort()
  await world.store.close()
  await world.main.return(undefined)
  expect(world.log.pool.bytesInUse).toBe(0)
}

const who = fc.nat(2)
const table = fc.constantFrom('t0', 't1', 't2')
const rows = fc.oneof(
  { arbitrary: fc.array(table, { maxLength: 6 }), weight: 8 },
  { arbitrary: fc.array(table, { minLength: 10, maxLength: 30 }), weight: 1 },
  { arbitrary: fc.constant('ddl' as const), weight: 1 },
)
const steps = fc.array(
  fc.oneof(
    { weight: 8, arbitrary: fc.record({ do: fc.constant('write' as const), rows }) },
    {
      weight: 6,
      arbitrary: fc.record({
        do: fc.constant('pump' as const),
        times: fc.integer({ min: 1, max: 12 }),
      }),
    },
    {
      weight: 12,
      arbitrary: fc.record({
        do: fc.constant('get' as const),
        who,
        changes: fc.integer({ min: 0, max: 9 }),
        bytes: fc.integer({ min: 1, max: 600 }),
      }),
    },
    { weight: 8, arbitrary: fc.record({ do: fc.constant('ack' as const), who }) },
    {
      weight: 5,
      arbitrary: fc.record({
        do: fc.constantFrom(
          'ackWrong' as const,
          'rollback' as const,
          'rollbackOldest' as const,
          'close' as const,
        ),
        who,
      }),
    },
    { weight: 4, arbitrary: fc.record({ do: fc.constant('open' as const), who }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('restart' as const) }) },
  ),
  { minLength: 20, maxLength: 150 },
)
const setting = fc.record({
  windowBytes: fc.integer({ min: 60, max: 2000 }),
  main: fc.integer({ min: 1, max: 12 }),
  catchUp: fc.integer({ min: 1, max: 12 }),
  empties: fc.boolean(),
  gtids: fc.boolean(),
})

let run = 0
const seen = { catchUp: 0, live: 0, braking: 0 }
const runs = Number(process.env['FC_RUNS'] ?? 100)
test('every client sees every change it wants, exactly once and in order, whatever happens', async () => {
  await fc.assert(
    fc.asyncProperty(
      setting,
      steps,
      async ({ windowBytes, main, catchUp, empties, gtids }, actions) => {
        const log = new Log(gtids)
        const state = State.open(join(directory, `${run++}.db`))
        const base = { log, state, windowBytes, cuts: { main, catchUp, empties } }
        const world: World = {
          ...base,
          models: filters.map((filter) => new Model(filter)),
          store: openStore(base),
          cursors: filters.map(() => undefined),
          main: log.read(log.origin, never, { part: 1, empties: true }),
          mainStop: new AbortController(),
          appending: false,
          appended: 0,
          held: [],
        }
        startMain(world)
        try {
          for (const action of actions) {
            await step(world, action)
            const { cursors, braking } = world.store.status()
            for (const cursor of cursors) if (cursor.state !== 'away') seen[cursor.state]++
            if (braking) seen.braking++
          }
          await finish(world)
        } finally {
          await world.store.close()
          state.close()
        }
      },
    ),
    { numRuns: runs },
  )
  // The run is worth something only if it went everywhere.
  expect(Math.min(seen.catchUp, seen.live, seen.braking)).toBeGreaterThan(100)
}, 60_000)
