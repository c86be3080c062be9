/** The conformance checklist of the wire document, over a real socket, with a real store. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { describe, expect, test } from 'vitest'
import { SluiceError } from '../../src/errors.ts'
import type { Destination } from '../../src/server/clients.ts'
import * as wire from '../../src/server/wire.ts'
import { State } from '../../src/store/state.ts'
import { UUID, begin, commit, rowsOf, slabs, transactionOf } from './changes.ts'
import { EXAMPLE, Harness, idsOf, kindsOf, until } from './harness.ts'
import { decodeEntry } from './oracle.ts'

const { packetTypes } = wire
const EMPTY = '00000011100118072a0b08ffffffffffffffffff01'
const golden = (name: string): string =>
  readFileSync(new URL('../fixtures/canal/golden.txt', import.meta.url), 'utf8').match(
    new RegExp(`^${name} (.*)$`, 'm'),
  )![1]!
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

describe('exact bytes', () => {
  test('handshake, auth, subscribe, empty get', async () => {
    await using h = await Harness.start()
    const client = await h.client(false)
    expect(client.seed).toHaveLength(8)
    expect((await h.client(false)).seed).not.toEqual(client.seed)
    client.sendAuth()
    expect(hex(await client.frame())).toBe('0000000410011803')
    client.subscribe()
    expect(hex(await client.frame())).toBe('0000000410011803')
    client.sendGet()
    expect(hex(await client.frame())).toBe(EMPTY)
  })
  test('the handshake frame', async () => {
    await using h = await Harness.start()
    const socket = connect(h.server.port, '127.0.0.1')
    const [chunk] = (await once(socket, 'data')) as [Buffer]
    socket.destroy()
    expect(hex(chunk.subarray(0, 12))).toBe('00000010' + '1001' + '1801' + '2a0a' + '1208')
    expect(chunk).toHaveLength(20)
  })
  test('a batch in raw form, without a version, of the entries that Java writes', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    const rows = [
      { after: ['1', 'Grüße', '127', '{"a": 1}', '3'] },
      { after: ['18446744073709551615', '', '128', null, null] },
    ]
    h.append([begin(), rowsOf('insert', rows), commit()])
    client.sendGet({ timeout: 0 })
    const frame = await client.frame()
    const entries = ['begin', 'insert', 'end'].map((name) => Buffer.from(golden(name), 'hex'))
    const body = wire.writeMessages(1n, entries)
    expect(hex(frame)).toBe(hex(wire.framePacket(packetTypes.MESSAGES, body)))
    expect(hex(frame.subarray(4, 6))).toBe('1807')
  })
  test('an error ACK', async () => {
    await using h = await Harness.start()
    const client = await h.client()
    client.send(packetTypes.SUBSCRIPTION, Buffer.alloc(0))
    const body = wire.writeAck({
      errorCode: 401,
      errorMessage: 'destination or client id is empty',
    })
    expect(hex(await client.frame())).toBe(hex(wire.framePacket(packetTypes.ACK, body, 1)))
  })
})

describe('replies: one to each request, none to ack and rollback', () => {
  test('ack and rollback that succeed are silent', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    h.insert(1)
    expect(await client.ids()).toEqual([1, '1'])
    client.ack(1)
    h.insert(2)
    expect(await client.ids()).toEqual([2, '2'])
    client.rollback()
    expect(await client.ids()).toEqual([3, '2'])
    client.rollback(3)
    expect(await client.ids()).toEqual([4, '2'])
    client.ack(4)
    client.ack(-1)
    expect((await client.get()).batchId).toBe(-1)
  })
  test('rollback before subscribe, of an unknown destination, of an unknown client', async () => {
    await using h = await Harness.start()
    const client = await h.client()
    client.rollback()
    client.rollback(0, 'nowhere')
    client.rollback(7)
    client.subscribe()
    await client.ok()
    h.insert(1)
    expect(await client.ids()).toEqual([1, '1'])
  })
  test('unsubscribe is answered, then a get is refused; the position stays', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    h.insert(1)
    h.insert(2)
    await client.ids({ fetchSize: 0 })
    client.rollback()
    expect((await client.ids())[0]).toBe(2)
    client.ack(2)
    client.unsubscribe()
    await client.ok()
    client.sendGet()
    expect(await client.error()).toMatchObject({
      code: 400,
      text: expect.stringContaining('should subscribe first') as string,
    })
    client.subscribe()
    await client.ok()
    h.insert(3)
    expect((await client.ids()).slice(1)).toEqual(['3'])
  })
})

describe('get', () => {
  test.each([
    ['timeout 0', { timeout: 0, unit: 2 }],
    ['no timeout', { timeout: undefined, unit: undefined }],
    ['timeout -2, unit -1', { timeout: -2, unit: -1 }],
    ['an hour', { timeout: 1, unit: 5 }],
  ])('%s waits until something is there', async (_name, more) => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    client.sendGet(more)
    await h.client() // a round trip, so that the get is waiting by now
    h.insert(7)
    expect(idsOf((await client.messages()).entries)).toEqual(['7'])
  })
  test('a short timeout ends empty', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    client.sendGet({ timeout: 5, unit: 2 })
    expect(hex(await client.frame())).toBe(EMPTY)
  })
  test('fetch_size 0 gives one event, and so does a negative one', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    h.insert(1)
    const sizes = [0, -5, 0]
    const kinds: string[][] = []
    for (const fetchSize of sizes) kinds.push(kindsOf((await client.get({ fetchSize })).entries))
    expect(kinds).toEqual([['BEGIN'], ['INSERT shop.orders'], ['END']])
  })
  test('needs a subscription, but a stored one will do', async () => {
    await using h = await Harness.start()
    const first = await h.client()
    first.sendGet()
    expect((await first.error()).text).toContain(
      'client 1001 of destination example should subscribe first',
    )
    first.subscribe()
    await first.ok()
    first.socket.destroy()
    await first.closed
    h.insert(1)
    const second = await h.client()
    // the server notices the end of the first connection in its own time
    let reply = await poll(second)
    while (reply === undefined) reply = await poll(second)
    expect(idsOf(reply)).toEqual(['1'])
  })
  test('several batches outstanding, acked in order', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    for (const id of [1, 2, 3]) h.insert(id)
    const got = []
    for (let i = 0; i < 9; i++) got.push((await client.get({ fetchSize: 0 })).batchId)
    expect(got).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9])
    client.ack(2)
    expect((await client.error()).text).toMatch(/^BATCH_NOT_FIRST/)
    for (let i = 1; i <= 9; i++) client.ack(i)
    expect((await client.get()).batchId).toBe(-1)
  })
  test('the reply proves that every earlier ack is on disk', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    for (let id = 1; id <= 30; id++) {
      h.insert(id)
      const [batch] = await client.ids()
      client.ack(batch)
      await client.get()
      const stored = State.read(h.statePath).cursors.find((c) => c.client === '1001')
      expect(stored?.acked.offset).toBe(1000 + id * 1000)
    }
  })
  test('no reply, empty or not, before a slow ack is durable', async () => {
    await using h = await Harness.start()
    let gate = Promise.withResolvers<void>()
    let open = false
    const store: Destination['store'] = {
      subscription: (client) => h.store.subscription(client),
      unsubscribe: (client) => h.store.unsubscribe(client),
      subscribe: (name, options) => {
        const cursor = h.store.subscribe(name, options)
        return {
          client: name,
          acked: cursor.acked,
          get: (limit, signal) => cursor.get(limit, signal),
          ack: (id) => gate.promise.then(() => cursor.ack(id)),
          rollback: (id) => cursor.rollback(id),
          close: () => cursor.close(),
        }
      },
    }
    h.destinations.set('example', { name: 'example', store, gtid: false })
    const client = await h.subscribed()
    h.insert(1)
    let [batch] = await client.ids()
    for (const more of [true, false]) {
      gate = Promise.withResolvers<void>()
      open = false
      client.ack(batch)
      if (more) h.insert(2)
      const reply = client.get().then(({ batchId }) => [batchId, open] as const)
      for (let i = 0; i < 5; i++) await h.client()
      open = true
      gate.resolve()
      const [id, opened] = await reply
      expect([id > 0, opened]).toEqual([more, true])
      batch = id
    }
  })
  test('a batch of many chunks arrives whole', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    const rows = (from: number): { after: string[] }[] =>
      Array.from({ length: 2000 }, (_, i) => ({ after: [String(from + i), 'n'.repeat(300)] }))
    const inserts = Array.from({ length: 12 }, (_, i) => rowsOf('insert', rows(i * 2000)))
    h.append([begin(), ...inserts, commit()])
    const { entries } = await client.get({ timeout: 0 })
    expect(idsOf(entries)).toEqual(Array.from({ length: 24_000 }, (_, i) => String(i)))
  })
})

async function poll(
  client: Awaited<ReturnType<Harness['client']>>,
): Promise<Uint8Array[] | undefined> {
  client.sendGet()
  const packet = wire.readPacket((await client.frame()).subarray(4))
  if (packet.type !== packetTypes.MESSAGES) return undefined
  const reader = new wire.MessagesReader(packet.body)
  const entries: Uint8Array[] = []
  while (reader.next()) entries.push(reader.bytes.subarray(reader.start, reader.end))
  return entries
}

describe('errors keep the connection', () => {
  const sub = { ...EXAMPLE, filter: '' }
  const get = { ...EXAMPLE, fetchSize: 1, timeout: -1, unit: 2, autoAck: false }
  const noId = { clientId: '' }
  const noDestination = { destination: '' }
  const cases: [string, number, Uint8Array, number, string][] = [
    [
      'sub without client',
      packetTypes.SUBSCRIPTION,
      wire.writeSub({ ...sub, ...noId }),
      401,
      'empty',
    ],
    [
      'unsub without destination',
      packetTypes.UNSUBSCRIPTION,
      wire.writeSub({ ...sub, ...noDestination }),
      401,
      'empty',
    ],
    ['get without client', packetTypes.GET, wire.writeGet({ ...get, ...noId }), 401, 'empty'],
    [
      'ack without client',
      packetTypes.CLIENTACK,
      wire.writeClientAck({ ...EXAMPLE, ...noId, batchId: 1n }),
      401,
      'empty',
    ],
    [
      'rollback without client',
      packetTypes.CLIENTROLLBACK,
      wire.writeClientAck({ ...EXAMPLE, ...noId, batchId: 1n }),
      401,
      'empty',
    ],
    [
      'ack of batch 0',
      packetTypes.CLIENTACK,
      wire.writeClientAck({ ...EXAMPLE, batchId: 0n }),
      402,
      'batch id',
    ],
    [
      'ack before subscribe',
      packetTypes.CLIENTACK,
      wire.writeClientAck({ ...EXAMPLE, batchId: 5n }),
      400,
      'BATCH_UNKNOWN',
    ],
    [
      'client id abc',
      packetTypes.SUBSCRIPTION,
      wire.writeSub({ ...sub, clientId: 'abc' }),
      400,
      '"abc"',
    ],
    [
      'client id 32768',
      packetTypes.GET,
      wire.writeGet({ ...get, clientId: '32768' }),
      400,
      '"32768"',
    ],
    [
      'unknown destination',
      packetTypes.SUBSCRIPTION,
      wire.writeSub({ ...sub, destination: 'x' }),
      400,
      'destination:x should start first',
    ],
    [
      'get of unknown destination',
      packetTypes.GET,
      wire.writeGet({ ...get, destination: 'x' }),
      400,
      'destination:x',
    ],
    [
      'bad filter',
      packetTypes.SUBSCRIPTION,
      wire.writeSub({ ...sub, filter: 'a.(b' }),
      400,
      'a.(b',
    ],
    ['SHUTDOWN', packetTypes.SHUTDOWN, Buffer.alloc(0), 400, 'type 9 is not supported'],
    ['DUMP', packetTypes.DUMP, Buffer.alloc(0), 400, 'type 10 is not supported'],
    ['HEARTBEAT', packetTypes.HEARTBEAT, Buffer.alloc(0), 400, 'type 11 is not supported'],
    [
      'CLIENTAUTHENTICATION again',
      packetTypes.CLIENTAUTHENTICATION,
      Buffer.alloc(0),
      400,
      'type 2 is not supported',
    ],
    ['no type', 0, Buffer.alloc(0), 400, 'type 0 is not supported'],
    ['a body that is none', packetTypes.GET, Buffer.from('0aff', 'hex'), 400, 'WIRE_MALFORMED'],
  ]
  test.each(cases)('%s', async (_name, type, body, code, text) => {
    await using h = await Harness.start()
    const client = await h.client()
    client.send(type, body)
    const error = await client.error()
    expect(error.code).toBe(code)
    expect(error.text).toContain(text)
    client.subscribe('', ' 1001'.trim())
    await client.ok()
    h.insert(1)
    expect(await client.ids()).toEqual([1, '1'])
    const { errors400, errors401, errors402 } = h.server.counters
    expect([errors400, errors401, errors402]).toEqual(
      [400, 401, 402].map((c) => Number(c === code)),
    )
  })
  test('compression is refused', async () => {
    await using h = await Harness.start()
    const client = await h.client()
    const packet = Buffer.from('18042003', 'hex')
    client.socket.write(Buffer.concat([Buffer.from([0, 0, 0, packet.length]), packet]))
    expect((await client.error()).text).toContain('compression 3')
  })
  test('"01001" and "+1001" are client 1001', async () => {
    await using h = await Harness.start()
    const client = await h.client()
    client.subscribe('', '01001')
    await client.ok()
    h.insert(1)
    expect(await client.ids({ clientId: '+1001' })).toEqual([1, '1'])
  })
  test('rows that cannot be decoded are an error each time, never skipped', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    const broken = {
      ...rowsOf('insert', []),
      reader: (): never => {
        throw new SluiceError('ROWS_MALFORMED', 'expected a row, got nonsense')
      },
    }
    h.append([begin(), broken, commit()])
    for (let i = 0; i < 3; i++) {
      client.sendGet({ timeout: 0 })
      expect(await client.error()).toEqual({
        code: 400,
        text: 'ROWS_MALFORMED: expected a row, got nonsense',
      })
    }
    expect(h.log.lines.filter((l) => l.includes('nonsense'))).toHaveLength(1)
  })
})

describe('the end of a connection', () => {
  test('a waiting get is cancelled and the client id is free', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    client.sendGet({ timeout: 0 })
    await h.client()
    client.socket.destroy()
    await until(() => h.store.status().cursors[0]?.state === 'away')
    const next = await h.subscribed()
    h.insert(1)
    expect((await next.ids()).slice(1)).toEqual(['1'])
  })
  test('an ack sent right before leaving counts', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    h.insert(1)
    await client.ids()
    client.sendGet({ timeout: 0 })
    client.ack(1)
    client.socket.end()
    await client.closed
    await until(() => State.read(h.statePath).cursors[0]?.acked.offset === 2000)
  })
  test('idle for longer than the client asked for', async () => {
    await using h = await Harness.start()
    const client = await h.client({ readTimeoutMs: 30, writeTimeoutMs: 3_600_000 })
    await client.closed
    const other = await h.client({ readTimeoutMs: 0, writeTimeoutMs: 30 })
    await other.closed
  })
  test('slabs are given back', async () => {
    const before = slabs.bytesInUse
    {
      await using h = await Harness.start()
      const client = await h.subscribed()
      for (let id = 1; id <= 20; id++) h.insert(id)
      for (let i = 0; i < 10; i++) await client.get({ fetchSize: 0 })
      client.rollback()
      await client.ids()
    }
    expect(slabs.bytesInUse).toBe(before)
  })
})

test('GTID mode', async () => {
  await using h = await Harness.start({ gtids: `${UUID}:1-4` })
  const client = await h.subscribed()
  const gtid = { sid: UUID, gno: 5n }
  h.append([begin(), rowsOf('insert', [{ after: ['1'] }]), commit()], { gtid })
  const { entries } = await client.get({ timeout: 0 })
  const headers = entries.map((e) => decodeEntry(e).header)
  expect(headers.map((x) => x.gtid)).toEqual(Array.from({ length: 3 }, () => `${UUID}:1-5`))
  expect(headers[1]!.props).toEqual([
    { key: 'curtGtid', value: `${UUID}:5` },
    { key: 'curtGtidSn', value: '7' },
    { key: 'curtGtidLct', value: '6' },
    { key: 'rowsCount', value: '1' },
  ])
})
test('a transaction in parts', async () => {
  await using h = await Harness.start()
  const client = await h.subscribed()
  const part = (
    from: number,
    state: 'open' | 'committed',
    changes: Parameters<typeof transactionOf>[1],
  ): void => {
    const tx = transactionOf(1000, changes, { first: from, next: from + changes.length, state })
    void h.store.append(tx, new AbortController().signal)
  }
  part(0, 'open', [begin(), rowsOf('insert', [{ after: ['1'] }], { ordinal: 2 })])
  part(3, 'open', [rowsOf('insert', [{ after: ['2'] }], { ordinal: 3 })])
  part(4, 'committed', [
    rowsOf('insert', [{ after: ['3'] }], { ordinal: 4 }),
    commit('1', false, 5),
  ])
  const kinds: string[] = []
  while (kinds.length < 5)
    kinds.push(...kindsOf((await client.get({ timeout: 0, fetchSize: 1 })).entries))
  expect(kinds).toEqual([
    'BEGIN',
    'INSERT shop.orders',
    'INSERT shop.orders',
    'INSERT shop.orders',
    'END',
  ])
})
