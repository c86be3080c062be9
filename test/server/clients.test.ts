/** Several clients and connections: whose cursor is whose, filters, and requests sent ahead. */
import { describe, expect, test } from 'vitest'
import { State } from '../../src/store/state.ts'
import { begin, column, commit, rowsOf, tableOf } from './changes.ts'
import { Harness, idsOf, kindsOf, until } from './harness.ts'

describe('clients are independent', () => {
  test('each client id has its own cursor', async () => {
    await using h = await Harness.start()
    const a = await h.subscribed('', '1')
    const b = await h.subscribed('', '2')
    h.insert(1)
    h.insert(2)
    const one = await a.ids({ clientId: '1' })
    a.ack(one[0], '1')
    expect(one.slice(1)).toEqual(['1', '2'])
    expect((await b.ids({ clientId: '2' })).slice(1)).toEqual(['1', '2'])
  })
  test("a filter is one client's own, stays stored, and empties no reply", async () => {
    await using h = await Harness.start()
    const other = tableOf('shop', 'other', [column(0, 'id', 8, 'bigint')])
    const a = await h.subscribed('shop\\.other', '1')
    const b = await h.subscribed('', '2')
    h.insert(1)
    h.append([begin(), rowsOf('insert', [{ after: ['2'] }], { table: other }), commit()])
    h.append([
      begin(),
      rowsOf('insert', [{ after: ['3'] }], { table: other }),
      rowsOf('insert', [{ after: ['4'] }]),
      commit(),
    ])
    const kinds = ['BEGIN', 'INSERT shop.other', 'END', 'BEGIN', 'INSERT shop.other', 'END']
    expect(kindsOf((await a.get({ timeout: 0, clientId: '1' })).entries)).toEqual(kinds)
    expect((await b.ids({ clientId: '2' })).slice(1)).toEqual(['1', '2', '3', '4'])
    a.subscribe('', '1') // an empty filter keeps the stored one
    await a.ok()
    expect(kindsOf((await a.get({ timeout: 0, clientId: '1' })).entries)).toEqual(kinds)
    a.subscribe('.*\\..*', '1')
    await a.ok()
    expect((await a.ids({ clientId: '1' })).slice(1)).toEqual(['1', '2', '3', '4'])
  })
  test('a subscription takes the client id over; the old connection is told by whom', async () => {
    await using h = await Harness.start()
    const old = await h.subscribed()
    h.insert(1)
    expect(await old.ids()).toEqual([1, '1'])
    old.sendGet({ timeout: 0 })
    await h.client() // a round trip, so that the get is waiting by now
    const taker = await h.subscribed()
    const takenOver = `was taken over by the connection from ${taker.address}`
    expect((await old.error()).text).toContain(takenOver) // the waiting get
    old.sendGet()
    expect((await old.error()).text).toContain(takenOver)
    old.ack(1)
    expect((await old.error()).text).toContain(takenOver)
    old.rollback() // silent, and must not reach the other's cursor
    expect((await taker.ids()).slice(1)).toEqual(['1'])
    const third = await h.client()
    third.sendGet()
    expect((await third.error()).text).toContain(`in use by the connection from ${taker.address}`)
    third.unsubscribe()
    expect((await third.error()).text).toContain('in use by')
    old.subscribe()
    await old.ok()
    taker.sendGet()
    expect((await taker.error()).text).toContain(`from ${old.address}`)
    expect((await old.ids()).slice(1)).toEqual(['1'])
  })
})

test('a destination that was restarted goes on with its stored subscription', async () => {
  await using h = await Harness.start()
  await using again = await Harness.start()
  const client = await h.subscribed()
  again.store.subscribe('1001', { filterText: '' }).close()
  h.destinations.set('example', { name: 'example', store: again.store, gtid: false })
  again.insert(5)
  expect((await client.ids()).slice(1)).toEqual(['5'])
  h.destinations.delete('example')
  client.rollback()
  client.sendGet()
  expect((await client.error()).text).toContain('should start first')
})
test('a subscription by ClientAuth', async () => {
  await using h = await Harness.start()
  const client = await h.client({ destination: 'example', clientId: '1001' })
  h.insert(1)
  expect(await client.ids()).toEqual([1, '1'])
  const refused = await h.client(false)
  refused.sendAuth({ destination: 'nowhere', clientId: '1001' })
  expect((await refused.error()).text).toContain('destination:nowhere')
  await refused.auth()
})
describe('pipelining', () => {
  test('gets are answered in order', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    for (let id = 1; id <= 4; id++) h.insert(id)
    for (let i = 0; i < 12; i++) client.sendGet({ fetchSize: 0 })
    client.sendGet()
    const ids: number[] = []
    for (let i = 0; i < 13; i++) ids.push((await client.messages()).batchId)
    expect(ids).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, -1])
  })
  test('an ack overtakes a get that waits', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    h.insert(1)
    client.sendGet({ timeout: 0 })
    client.sendGet({ timeout: 0 })
    expect((await client.messages()).batchId).toBe(1)
    client.ack(1)
    await until(() => State.read(h.statePath).cursors[0]?.acked.offset === 2000)
    h.insert(2)
    expect(idsOf((await client.messages()).entries)).toEqual(['2'])
  })
  test('an ack of a batch that is yet to come waits its turn', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    client.sendGet({ timeout: 0 })
    await h.client() // a round trip, so that the get is waiting by now
    client.ack(1)
    client.sendGet()
    await h.client()
    h.insert(1)
    expect((await client.messages()).batchId).toBe(1)
    expect((await client.messages()).batchId).toBe(-1)
    expect(State.read(h.statePath).cursors[0]?.acked.offset).toBe(2000)
  })
  test('a client that asks for much and reads nothing keeps nobody waiting', async () => {
    await using h = await Harness.start()
    const slow = await h.subscribed('', '1')
    slow.socket.pause()
    const rows = Array.from({ length: 300 }, (_, r) => ({ after: [String(r), 'n'.repeat(1000)] }))
    for (let i = 0; i < 40; i++) h.append([begin(), rowsOf('insert', rows), commit()])
    // one event each: 12 MB, more than sockets hold
    for (let i = 0; i < 120; i++) slow.sendGet({ clientId: '1', fetchSize: 0 })
    const quick = await h.subscribed('', '2')
    for (let i = 0; i < 120; i++) {
      const { entries } = await quick.get({ clientId: '2', timeout: 0, fetchSize: 0 })
      expect(idsOf(entries)).toHaveLength(i % 3 === 1 ? 300 : 0)
    }
    expect(h.server.counters.batches).toBeLessThan(240)
    slow.socket.resume()
    let slowRows = 0
    for (let i = 0; i < 120; i++) slowRows += idsOf((await slow.messages()).entries).length
    expect(slowRows).toBe(40 * 300)
    // one that leaves without having read is forgotten
    slow.socket.pause()
    slow.rollback(0, 'example', '1')
    for (let i = 0; i < 120; i++) slow.sendGet({ clientId: '1', fetchSize: 0 })
    await until(() => h.server.counters.batches > 242)
    slow.socket.destroy()
    await until(() => h.server.counters.connectionsOpen === 1)
    expect(h.store.status().cursors.find((c) => c.client === '1')?.state).toBe('away')
  })
})

test('without transaction entries', async () => {
  await using h = await Harness.start()
  h.destinations.set('example', {
    name: 'example',
    store: h.store,
    gtid: false,
    transactionEntries: false,
  })
  const client = await h.subscribed()
  h.insert(1)
  h.insert(2)
  expect(kindsOf((await client.get({ timeout: 0 })).entries)).toEqual([
    'INSERT shop.orders',
    'INSERT shop.orders',
  ])
})
