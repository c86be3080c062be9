import { afterEach, describe, expect, test } from 'vitest'
import type { Change, QueryChange } from '../../src/change.ts'
import { SluiceError } from '../../src/errors.ts'
import type { Cursor, Limit } from '../../src/store/store.ts'
import { slabs, rawEvent, rowsOf, transactionOf } from '../server/changes.ts'
import { http } from '../../src/sinks/http.ts'
import type { SinkType } from '../../src/sinks/sink.ts'
import { Receiver } from './receiver.ts'
import { changesOf, items, Rig, type Op } from './rig.ts'

/** Every slab was given back: nothing is held once a sink has stopped. */
afterEach(() => expect(slabs.bytesInUse).toBe(0))

const insert = (id: number, v = `v${id}`): Op => ({ kind: 'insert', id, v })
const update = (id: number, v: string): Op => ({ kind: 'update', id, v })
const data = (text: string) => new SluiceError('SINK_DATA', text)
const away = () => new SluiceError('SINK_UNAVAILABLE', 'away')
function statement(sql: string, type: QueryChange['type'], table = 'items'): Change {
  return {
    kind: 'ddl',
    ordinal: 1,
    event: rawEvent(100, 50),
    type,
    database: 'shop',
    table,
    tables: [{ database: 'shop', table }],
    defaultDatabase: 'shop',
    sql,
  }
}
const keys = (rig: Rig): string[] => rig.memory.rows.map((r) => r.key)

describe('what the target refuses', () => {
  test('is found by halving, buried, and the rest is written', async () => {
    await using rig = new Rig({ onError: 'deadLetter' })
    rig.memory.poison = (row) => (row.key === '5' ? data('no fives') : undefined)
    const end = rig.ops(...Array.from({ length: 9 }, (_, i) => insert(i + 1)))
    rig.sinks.start()
    await rig.reached(end)
    expect(keys(rig).toSorted()).toEqual(['1', '2', '3', '4', '6', '7', '8', '9'])
    const [letter, ...more] = rig.control.letters()
    expect(more).toEqual([])
    expect(letter).toMatchObject({
      sink: 'mem',
      table: 'shop.items',
      key: '5',
      op: 'insert',
      code: 'SINK_DATA',
      error: 'no fives',
      attempts: 1,
    })
    expect(rig.status).toMatchObject({ state: 'running', deadLetters: 1, letters: 1, errors: 1 })
  })
  test('by itself stops the sink by default, and says which row it was', async () => {
    await using rig = new Rig()
    rig.memory.refuse = (row) =>
      row.key === '2'
        ? { error: new Error('mysql://u:pw@host is full'), retryable: false }
        : undefined
    rig.ops(insert(1), insert(2), insert(3))
    rig.sinks.start()
    await rig.until(() => rig.status.state === 'failed')
    const { status } = rig
    expect('error' in status && status.error.message).toMatch(
      /^shop\.items id=2 \(insert at binlog\.000042:1000, .*\) is refused: /,
    )
    expect(JSON.stringify(rig.lines)).toContain('mysql://u:***@host is full')
    expect(JSON.stringify(rig.lines)).not.toContain('pw@')
    expect(status.acked?.offset).toBeLessThan(1001)
  })
  test('for now is written again alone, before what follows', async () => {
    await using rig = new Rig({ parallel: 1, batch: { changes: 1 } })
    let refusals = 2
    rig.memory.refuse = (row) =>
      row.key === '1' && refusals-- > 0 ? { error: away(), retryable: true } : undefined
    rig.append([rowsOf('insert', [{ after: ['1', 'a'] }, { after: ['2', 'b'] }], { table: items })])
    const end = rig.ops(update(1, 'c'))
    rig.sinks.start()
    await rig.reached(end)
    expect(rig.memory.rows.map((r) => `${r.key}${r.values['v']}`)).toEqual(['2b', '1a', '1c'])
    expect(rig.status.retries).toBe(2)
  })
  test('is tried again for ever with onError: retry', async () => {
    await using rig = new Rig({ onError: 'retry' })
    let times = 5
    rig.memory.poison = () => (times-- > 0 ? data('not yet') : undefined)
    const end = rig.ops(insert(1))
    rig.sinks.start()
    await rig.reached(end)
    expect(keys(rig)).toEqual(['1'])
  })
  test.each(['in one transaction', 'in another write beside it'])(
    'for now is not overtaken by a newer event of its key, %s',
    async (where) => {
      await using receiver = await Receiver.start()
      const taken: string[] = []
      let refusals = 3
      receiver.reply = ({ body }) => {
        const { data } = JSON.parse(body) as { data: { after: { v: string } } }
        const { v } = data.after
        if (v === 'a' && refusals-- > 0) return { status: 422 }
        taken.push(v)
        return { status: 200 }
      }
      const real = { type: http as unknown as SinkType, own: { url: receiver.url } }
      await using rig = new Rig({ onError: 'retry', batch: { changes: 3 } }, real)
      const ops = [insert(1, 'a'), update(1, 'b')]
      if (where === 'in one transaction') rig.ops(...ops)
      else for (const op of ops) rig.ops(op)
      const end = rig.ops(insert(2, 'c'))
      rig.sinks.start()
      await rig.reached(end)
      expect(taken.filter((v) => v !== 'c')).toEqual(['a', 'b'])
    },
  )
  test('beyond deadLettersMax stops the sink', async () => {
    await using rig = new Rig({ onError: 'deadLetter', deadLettersMax: 2 })
    rig.memory.poison = () => data('never')
    rig.ops(insert(1), insert(2), insert(3))
    rig.sinks.start()
    await rig.until(() => rig.status.state === 'failed')
    expect(rig.control.count('mem')).toBe(2)
    const { status } = rig
    expect('error' in status && status.error.message).toContain('deadLettersMax')
  })
  test('is written again exactly when it is replayed', async () => {
    await using rig = new Rig({ onError: 'deadLetter' })
    let refusing = true
    rig.memory.refuse = (row) =>
      refusing && row.key === '2' ? { error: new Error('no'), retryable: false } : undefined
    const end = rig.ops(insert(1), insert(2, 'exact é 😀'), insert(3))
    rig.sinks.start()
    await rig.reached(end)
    const letter = rig.control.letters()[0]!
    rig.control.wish('replay', 'mem', letter.id)
    await rig.until(() => rig.control.letter(letter.id)?.attempts === 2)
    expect(rig.status.state).toBe('running')
    refusing = false
    rig.control.wish('replay', 'mem', letter.id)
    await rig.until(() => rig.control.count('mem') === 0)
    const again = rig.memory.rows.at(-1)!
    expect(again).toMatchObject({ op: 'insert', key: '2', values: { id: '2', v: 'exact é 😀' } })
    expect([again.version, again.id]).toEqual([letter.version, letter.changeId])
    expect(rig.memory.highest.at(-1)! >= again.version).toBe(true)
  })
})

describe('a transactional sink', () => {
  test('stores rows and position in one step, also while a poison row is searched', async () => {
    await using rig = new Rig({ onError: 'deadLetter' })
    rig.memory.shape = { promise: 'transactional' }
    rig.memory.poison = (row) => (row.key === '7' ? data('no') : undefined)
    rig.ops(...Array.from({ length: 9 }, (_, i) => insert(i + 1)))
    // Dies after each commit: what is stored decides what comes again.
    let commits = 0
    const { memory } = rig
    const stored: (number | undefined)[] = []
    memory.before = () => {
      if (memory.ends.length > commits) {
        commits = memory.ends.length
        stored.push(memory.position?.row)
        throw away()
      }
    }
    const end = rig.ops(insert(10))
    rig.sinks.start()
    await rig.reached(end)
    expect(keys(rig)).toEqual(['1', '2', '3', '4', '5', '6', '8', '9', '10'])
    expect(stored.some((row) => row !== undefined && row > 0)).toBe(true)
    expect(rig.control.letters().map((l) => l.key)).toEqual(['7'])
    expect(memory.opened.length).toBeGreaterThan(2)
  })
  test('does not go back in the log for a poison row of a snapshot in the same write', async () => {
    await using rig = new Rig({ onError: 'deadLetter', batch: { waitMs: '50ms' } })
    const { memory } = rig
    memory.shape = { promise: 'transactional' }
    memory.poison = (row) => (row.key === '12' ? data('no') : undefined)
    // Dies once between the halves.
    let died = false
    memory.before = () => {
      if (died || memory.ends.length === 0) return
      died = true
      throw away()
    }
    // Rows that were read at 1000, given out behind the first two transactions.
    rig.join = (cursor): Cursor => {
      let loaded = false
      return {
        client: cursor.client,
        get acked() {
          return cursor.acked
        },
        get: async (limit: Limit, signal: AbortSignal) => {
          if (loaded || cursor.readPlace.offset < 3000) return await cursor.get(limit, signal)
          loaded = true
          const rows = [10, 11, 12, 13].map((id) => ({ after: [String(id), 'read'] }))
          const change = { ...rowsOf('insert', rows, { table: items }), ordinal: 0, snapshot: true }
          const tx = transactionOf(1000, [change], { endOffset: 1000 })
          const batch = cursor.give(tx, 0, 1, 100)
          tx.slab?.release()
          return batch
        },
        ack: (id: bigint) => cursor.ack(id),
        rollback: () => cursor.rollback(),
        close: () => cursor.close(),
      }
    }
    rig.ops(insert(1), insert(2))
    const end = rig.ops(insert(3), insert(4))
    rig.sinks.start()
    await rig.reached(end)
    await rig.until(() => rig.control.count('mem') === 1)
    await rig.reached(rig.ops(insert(5)))
    expect(keys(rig)).toEqual(['1', '2', '3', '4', '10', '11', '13', '5'])
    expect(memory.ends[0]).toMatchObject({ offset: 3000, skip: 0 })
  })
  test('goes on at its own position, which outranks the local one', async () => {
    await using rig = new Rig()
    rig.memory.shape = { promise: 'transactional' }
    const first = rig.ops(insert(1))
    const end = rig.ops(insert(2))
    rig.memory.position = first
    rig.sinks.start()
    await rig.reached(end)
    expect(keys(rig)).toEqual(['2'])
    rig.memory.position = first // the target was restored
    await rig.restart()
    await rig.until(() => keys(rig).length === 2)
    expect(keys(rig)).toEqual(['2', '2'])
  })
  test('misses no rows of another transaction where it stood within one and the source was switched', async () => {
    await using rig = new Rig()
    rig.memory.shape = { promise: 'transactional' }
    rig.known = { ...rig.known, epoch: 2 }
    const before = rig.ops(insert(1))
    rig.memory.position = { ...before, skip: 3, row: 2 } // two rows of what stood there on the old server
    const end = rig.append(changesOf([insert(2), insert(3), insert(4)]), { epoch: 2 })
    rig.sinks.start()
    await rig.reached(end)
    expect(keys(rig)).toEqual(['2', '3', '4'])
  })
  test('that is ahead of the source stops', async () => {
    await using rig = new Rig()
    rig.memory.shape = { promise: 'transactional' }
    rig.memory.position = { ...rig.ops(insert(1)), offset: 999_999 }
    rig.sinks.start()
    await rig.until(() => rig.status.state === 'failed')
    expect(rig.lines.at(-1)).toMatchObject({ code: 'TARGET_AHEAD' })
  })
})

describe('transactions and batches', () => {
  test('are not cut where the sink asks for whole ones', async () => {
    await using rig = new Rig({ batch: { changes: 3 } })
    rig.memory.shape = { wholeTransactions: true }
    for (let i = 1; i < 10; i += 3) {
      rig.ops(
        insert(i),
        update(i, 'a'),
        { kind: 'delete', id: i, v: 'a' },
        insert(i + 1),
        update(i, 'b'),
      )
    }
    const end = rig.ops(insert(99))
    rig.sinks.start()
    await rig.reached(end)
    expect(rig.memory.ends.every((p) => p.skip === 0)).toBe(true)
    expect(rig.memory.writes).toBeGreaterThan(2)
  })
  test('are cut where one is over the limit', async () => {
    await using rig = new Rig({ batch: { changes: 2 }, transactionBytesMax: '1KiB' })
    rig.memory.shape = { wholeTransactions: true }
    const many = Array.from({ length: 200 }, (_, i) => (i % 2 ? update(i, 'x') : insert(i)))
    const end = rig.ops(...many)
    rig.sinks.start()
    await rig.reached(end)
    expect(rig.memory.ends.some((p) => p.skip > 0)).toBe(true)
    expect(rig.memory.rows).toHaveLength(200)
  })
  test('grow while a write may be held back', async () => {
    await using rig = new Rig({ batch: { waitMs: '500ms', changes: 4 } })
    rig.sinks.start()
    await rig.until(() => rig.status.state === 'running')
    const ends = [1, 2, 3, 4].map((id) => rig.ops(insert(id)))
    await rig.reached(ends.at(-1)!)
    expect(rig.memory.writes).toBeLessThan(4)
    expect(keys(rig)).toEqual(['1', '2', '3', '4'])
  })
  test('of other tables than the filter wants do not come, and the position moves', async () => {
    await using rig = new Rig({ filter: { include: 'shop\\.other' } })
    const end = rig.ops(insert(1))
    rig.sinks.start()
    await rig.reached(end)
    expect(rig.memory.writes).toBe(0)
  })
})

describe('statements', () => {
  test('come alone, in order, and TRUNCATE goes to a sink that clears', async () => {
    await using rig = new Rig()
    rig.memory.shape = { clears: true }
    rig.ops(insert(1))
    rig.append([statement('TRUNCATE items', 'TRUNCATE')])
    rig.append([statement('ALTER TABLE items ADD COLUMN x INT', 'ALTER')])
    const end = rig.ops(insert(2))
    rig.sinks.start()
    await rig.reached(end)
    expect(rig.memory.statements).toEqual(['TRUNCATE items', 'ALTER TABLE items ADD COLUMN x INT'])
    expect(keys(rig)).toEqual(['1', '2'])
    expect(rig.memory.writes).toBe(2)
  })
  test.each([
    ['TRUNCATE items', 'TRUNCATE'],
    ['ALTER TABLE items DROP PARTITION p1', 'ALTER'],
    ['ALTER TABLE items MODIFY v INT', 'ALTER'],
  ] as const)('%s stops a sink that mirrors, before it', async (sql, type) => {
    await using rig = new Rig()
    rig.ops(insert(1))
    rig.append([statement(sql, type)])
    rig.ops(insert(2))
    rig.sinks.start()
    await rig.until(() => rig.status.state === 'failed')
    expect(keys(rig)).toEqual(['1'])
    expect(rig.lines.at(-1)).toMatchObject({ code: 'UNLOGGED_CHANGE' })
    expect(String(rig.lines.at(-1)!['msg'])).toMatch(
      /binlog\.000042:2000: .*(TRUNCATE|PARTITION|MODIFY).* on shop\.items .*unloggedChange: ignore in sinks\.mem/,
    )
  })
  test('that change rows unlogged pass with ignore, and where a sink only appends', async () => {
    for (const [options, shape] of [
      [{ unloggedChange: 'ignore' }, {}],
      [{}, { promise: 'append' as const }],
    ] as const) {
      await using rig = new Rig(options)
      rig.memory.shape = shape
      rig.append([statement('TRUNCATE items', 'TRUNCATE')])
      const end = rig.ops(insert(2))
      rig.sinks.start()
      await rig.reached(end)
      expect(keys(rig)).toEqual(['2'])
    }
  })
})

describe('the life of a sink', () => {
  test('pauses and goes on, over restarts', async () => {
    await using rig = new Rig()
    rig.sinks.start()
    await rig.reached(rig.ops(insert(1)))
    rig.control.pause('mem', true)
    await rig.until(() => rig.status.state === 'paused')
    const end = rig.ops(insert(2))
    await rig.restart()
    await rig.until(() => rig.status.state === 'paused')
    expect(keys(rig)).toEqual(['1'])
    rig.control.pause('mem', false)
    rig.control.wish('resume', 'mem', null)
    await rig.reached(end)
    expect(keys(rig)).toEqual(['1', '2'])
  })
  test('one that failed tries again when it is told to, and what was done is not done again', async () => {
    await using rig = new Rig()
    let broken = true
    rig.memory.before = () => {
      if (broken && rig.memory.rows.length === 1)
        throw new SluiceError('SINK_UNSUITABLE', 'no table')
    }
    rig.sinks.start()
    await rig.reached(rig.ops(insert(1)))
    const end = rig.ops(insert(2))
    await rig.until(() => rig.status.state === 'failed')
    broken = false
    rig.control.wish('resume', 'mem', null)
    await rig.reached(end)
    expect(keys(rig)).toEqual(['1', '2'])
    expect(rig.memory.closed).toBe(1)
  })
  test('gives up after retry.attempts', async () => {
    await using rig = new Rig({ retry: { minMs: 1, maxMs: 1, attempts: 3 } })
    rig.memory.before = () => {
      throw away()
    }
    rig.ops(insert(1))
    rig.sinks.start()
    await rig.until(() => rig.status.state === 'failed')
    expect(rig.memory.writes).toBe(3)
    expect(rig.lines.filter((l) => l['state'] === 'retrying')).toHaveLength(1)
  })
  test('stops while a write is tried again', async () => {
    const rig = new Rig({ retry: { minMs: '10m', maxMs: '10m' } })
    rig.memory.before = () => {
      throw away()
    }
    rig.ops(insert(1))
    rig.sinks.start()
    await rig.until(() => rig.status.state === 'retrying')
    await rig[Symbol.asyncDispose]()
    expect(rig.memory.closed).toBe(1)
  })
  test('lets a write under way end before it stops', async () => {
    await using rig = new Rig()
    const gate = Promise.withResolvers<void>()
    rig.memory.before = () => gate.promise
    const end = rig.ops(insert(1))
    rig.sinks.start()
    await rig.until(() => rig.memory.running === 1)
    const stopped = rig.sinks.stop()
    gate.resolve()
    await stopped
    expect(keys(rig)).toEqual(['1'])
    rig.memory.before = () => {}
    expect(rig.store.status().cursors[0]!.acked.offset).toBe(end.offset)
  })
  test('knows of what was given out beside a write, also in a half of it', async () => {
    await using rig = new Rig({ parallel: 2, batch: { changes: 3 }, onError: 'deadLetter' })
    const { memory } = rig
    memory.shape = {
      target: (row) => (row.string(row.side, row.table.keys[0]!) === '2' ? 'd' : 'a'),
    }
    memory.poison = (row) =>
      row.key === '3' && !memory.rows.some((r) => r.key === '1') ? data('no') : undefined
    memory.before = async (batch) => {
      const [row] = batch.rows(true)
      const first = row!.string(row!.side, row!.table.keys[0]!) !== '2'
      if (first) await rig.until(() => keys(rig).includes('2'))
    }
    rig.ops(insert(1), insert(3))
    const end = rig.ops(insert(2))
    rig.sinks.start()
    await rig.reached(end)
    const newest = memory.rows[0]!
    expect(newest.key).toBe('2')
    expect(memory.highest.every((highest) => highest >= newest.version)).toBe(true)
  })
  test('tells the sink how far everything is done', async () => {
    await using rig = new Rig({ parallel: 4 })
    const told: number[] = []
    rig.memory.shape = {
      target: (row) => row.string(row.side, row.table.keys[0]!) ?? '',
      inFlight: 3,
      reached: async (position) => void told.push(position.offset),
    }
    rig.sinks.start()
    const end = [1, 2, 3, 4, 5].map((id) => rig.ops(insert(id))).at(-1)!
    await rig.until(() => told.at(-1) === end.offset)
    expect(told.toSorted((a, b) => a - b)).toEqual(told)
  })
  test('a sink that keeps the order of its calls has several at once, and begins again after one that failed', async () => {
    await using rig = new Rig({ batch: { changes: 1 } })
    rig.memory.shape = { promise: 'append', inFlight: 3 }
    const gate = Promise.withResolvers<void>()
    let first = true
    rig.memory.before = async () => {
      const mine = first
      first = false
      await gate.promise
      if (mine) throw away()
    }
    const end = [1, 2, 3, 4, 5].map((id) => rig.append(changesOf([insert(id)]).slice(1, 2))).at(-1)!
    rig.sinks.start()
    await rig.until(() => rig.memory.running === 3)
    gate.resolve()
    await rig.reached(end)
    expect(keys(rig).slice(0, 2)).toEqual(['2', '3'])
    expect(keys(rig).slice(2)).toEqual(['1', '2', '3', '4', '5'])
  })
})
