/** The SDK against a real CanalServer over a real Store: reading, acks, re-delivery, reconnecting, refusals. */
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Change } from '../src/change.ts'
import { SluiceError, connect } from '../src/client.ts'
import type { Batch, RowsChange, SluiceClient } from '../src/client.ts'
import * as wire from '../src/server/wire.ts'
import { begin, commit, rawEvent, rowsOf } from './server/changes.ts'
import { Harness, until } from './server/harness.ts'
import { FAST, idsOf, to } from './client/options.ts'
import { Proxy } from './support/proxy.ts'

/** A transaction as a real log has it: every event at an offset of its own, or, `packed`, all at one. */
function transaction(h: Harness, offset: number, ids: readonly number[], packed: boolean): void {
  const at = (change: Change, i: number): Change => ({
    ...change,
    ordinal: i,
    event: rawEvent(packed ? offset : offset + i * 50, 50),
  })
  const rows = ids.map((id) => rowsOf('insert', [{ after: [String(id), `name ${id}`] }]))
  h.append([begin(), ...rows, commit()].map(at))
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
  } catch (error) {
    return error instanceof SluiceError ? error.code : String(error)
  }
  return 'nothing thrown'
}

describe('reading', () => {
  it('batches, typed rows, transactions, raw entries', async () => {
    await using h = await Harness.start()
    await using client = await connect(to(h.server.port, { labels: true }))
    h.append([
      begin(),
      rowsOf('update', [
        { before: ['1', 'a', '1', '{}', '0'], after: ['1', null, '2', '{}', '3'] },
      ]),
      commit(),
    ])
    const batch = (await client.get())!
    expect(batch).toMatchObject({ id: 1n, redelivered: false, size: 3 })
    expect(batch.raw).toHaveLength(3)
    expect(batch.changes.map((change) => change.kind)).toEqual(['begin', 'rows', 'commit'])
    const [tx] = batch.transactions
    expect(tx).toMatchObject({ begun: true, ended: true })
    const change = tx!.changes[0] as RowsChange
    expect(change).toMatchObject({
      type: 'update',
      database: 'shop',
      table: 'orders',
      keys: ['id'],
    })
    expect(change.rows).toEqual([
      {
        before: { id: 1n, name: 'a', tiny: 1, doc: '{}', flags: [] },
        after: { id: 1n, name: null, tiny: 2, doc: '{}', flags: ['a', 'b'] },
      },
    ])
    await batch.ack()
    expect(await client.get({ waitMs: 0 })).toBeUndefined()
  })

  it('a loop gets everything in order, with several gets under way', async () => {
    await using h = await Harness.start()
    await using client = await connect(to(h.server.port))
    const stop = new AbortController()
    const total = 400
    const seen: bigint[] = []
    const batchIds: bigint[] = []
    let entries = 0
    const loop = (async () => {
      for await (const batch of client.batches({
        size: 0,
        pipeline: 8,
        waitMs: 5000,
        signal: stop.signal,
      })) {
        seen.push(...idsOf(batch))
        batchIds.push(batch.id)
        await batch.ack()
        entries += batch.size
        if (entries === 3 * total) stop.abort()
      }
    })()
    for (let i = 0; i < total; i++) transaction(h, 1000 + i * 1000, [i], false)
    await loop
    expect(seen).toEqual(Array.from({ length: total }, (_, i) => BigInt(i)))
    expect(batchIds).toEqual(batchIds.map((_, i) => BigInt(i + 1)))
    expect(batchIds.length).toBeGreaterThan(total)
  })

  it('what is under way when a loop is left goes to the next one', async () => {
    await using h = await Harness.start()
    await using client = await connect(to(h.server.port))
    for (let i = 0; i < 20; i++) transaction(h, 1000 + i * 1000, [i], false)
    const seen: bigint[] = []
    while (seen.length < 20)
      for await (const batch of client.batches({ size: 0, pipeline: 5 })) {
        seen.push(...idsOf(batch))
        await client.ack(batch.id)
        if (batch.id % 3n === 0n) break
        if (seen.length === 20) break
      }
    expect(seen).toEqual(Array.from({ length: 20 }, (_, i) => BigInt(i)))
  })

  it('a get that waits ends at an abort, and its batch is not lost', async () => {
    await using h = await Harness.start()
    await using client = await connect(to(h.server.port))
    const stop = new AbortController()
    const waiting = client.get({ waitMs: 60_000, signal: stop.signal })
    expect(await codeOf(client.get())).toBe('USAGE')
    stop.abort()
    expect(await waiting).toBeUndefined()
    h.insert(7)
    expect(idsOf((await client.get({ waitMs: 5000 }))!)).toEqual([7n])
  })

  it('bytes that arrive one by one, and TLS', async () => {
    const pem = (name: string): Buffer =>
      readFileSync(new URL(`./fixtures/tls/${name}.pem`, import.meta.url))
    await using h = await Harness.start({ tls: { key: pem('key'), cert: pem('cert') } })
    h.insert(1, 2)
    await using client = await connect(to(h.server.port, { tls: { ca: pem('cert') } }))
    expect(idsOf((await client.get())!)).toEqual([1n, 2n])
    expect(await codeOf(connect(to(h.server.port, { tls: true })))).toBe('TLS_FAILED')

    await using plain = await Harness.start()
    plain.insert(3)
    await using proxy = await Proxy.start({ host: '127.0.0.1', port: plain.server.port })
    const drip = createServer((socket) => dripFrom(proxy.port, socket)).listen(0)
    await using slow = await connect(to((drip.address() as AddressInfo).port))
    expect(idsOf((await slow.get())!)).toEqual([3n])
    drip.close()
  })
})

/** Passes on what the server says in pieces of one byte. */
function dripFrom(port: number, socket: Socket): void {
  void import('node:net').then(({ connect: dial }) => {
    const server = dial({ port, noDelay: true })
    socket.setNoDelay(true)
    socket.pipe(server)
    server.on('data', (chunk: Buffer) => {
      for (const byte of chunk) socket.write(Buffer.of(byte))
    })
    server.on('close', () => socket.destroy())
    socket.on('close', () => server.destroy())
  })
}

describe('acks', () => {
  it('go in order', async () => {
    await using h = await Harness.start()
    await using client = await connect(to(h.server.port))
    for (let i = 0; i < 3; i++) transaction(h, 1000 + i * 1000, [i], false)
    const batches = [(await client.get({ size: 0 }))!, (await client.get({ size: 0 }))!]
    expect(await codeOf(batches[1]!.ack())).toBe('BATCH_NOT_FIRST')
    await batches[0]!.ack()
    await batches[0]!.ack()
    await batches[1]!.ack()
    expect(client.connected).toBe(true)
  })

  it('are on the server when close resolves; the next connection goes on after them', async () => {
    await using h = await Harness.start()
    h.insert(1)
    h.insert(2)
    const first = await connect(to(h.server.port))
    const batch = (await first.get({ size: 0 }))!
    await batch.ack()
    await first.close()
    expect(await codeOf(first.ack(1n))).toBe('CLIENT_CLOSED')
    expect(await codeOf(first.get())).toBe('CLIENT_CLOSED')
    await using second = await connect(to(h.server.port))
    expect((await second.get({ size: 0 }))!.changes[0]).toMatchObject({
      kind: 'rows',
      redelivered: false,
    })
  })

  it('of a batch from before a rollback do nothing', async () => {
    await using h = await Harness.start()
    await using client = await connect(to(h.server.port))
    transaction(h, 1000, [1], false)
    const stale = (await client.get())!
    client.rollback()
    await stale.ack()
    const again = (await client.get())!
    expect(again).toMatchObject({ redelivered: true, size: stale.size })
    expect(again.changes.every((change) => change.redelivered)).toBe(true)
    transaction(h, 2000, [2], false)
    expect((await client.get())!.redelivered).toBe(false)
  })
})

describe('the connection', () => {
  it('comes back by itself, and what was not acked is said to come again', async () => {
    await using h = await Harness.start()
    await using proxy = await Proxy.start({ host: '127.0.0.1', port: h.server.port })
    const retries: string[] = []
    const retry = { ...FAST, onRetry: (error: SluiceError) => retries.push(error.code) }
    await using client = await connect(to(proxy.port, { retry }))
    transaction(h, 1000, [1, 2], false)
    await (await client.get({ size: 0 }))!.ack() // BEGIN
    const first = (await client.get({ size: 0 }))!
    proxy.cut(true)
    const again = (await client.get({ size: 0 }))!
    expect(retries).toEqual(['DISCONNECTED'])
    expect([idsOf(first), idsOf(again)]).toEqual([[1n], [1n]])
    expect([first.redelivered, again.redelivered]).toEqual([false, true])
    await first.ack()
    await again.ack()
    const second = (await client.get({ size: 0 }))!
    expect([idsOf(second), second.redelivered]).toEqual([[2n], false])
  })

  it('acks that were lost with the connection prove nothing, also where a new binlog file began', async () => {
    await using h = await Harness.start()
    await using proxy = await Proxy.start({ host: '127.0.0.1', port: h.server.port })
    await using client = await connect(to(proxy.port))
    const first: Batch[] = []
    for (const file of ['binlog.000001', 'binlog.000002']) {
      const changes = [begin(), rowsOf('insert', [{ after: ['1', file] }]), commit()]
      h.append(changes, { file })
      first.push((await client.get())!)
    }
    proxy.requestRule = () => Buffer.alloc(0)
    for (const batch of first) await batch.ack()
    proxy.cut(true)
    proxy.requestRule = (chunk) => chunk
    const again = (await client.get())!
    expect([...first, again].map((b) => [b.first.file, b.changes[0]!.redelivered])).toEqual([
      ['binlog.000001', false],
      ['binlog.000002', false],
      ['binlog.000001', true],
    ])
  })

  it('fails at once where it never was, after its attempts where it was', async () => {
    const h = await Harness.start()
    const retries: number[] = []
    const retry = { ...FAST, attempts: 3, onRetry: (_: SluiceError, n: number) => retries.push(n) }
    const client = await connect(to(h.server.port, { retry }))
    const waiting = codeOf(client.get({ waitMs: 60_000 }))
    const { port } = h.server
    await h[Symbol.asyncDispose]()
    expect(await waiting).toBe('CONNECT_FAILED')
    expect(retries).toEqual([1, 2, 3])
    expect(await codeOf(connect(to(port)))).toBe('CONNECT_FAILED')
    await client.close()
  })

  it('a destination that is away for a while is waited for', async () => {
    await using h = await Harness.start()
    const retries: string[] = []
    const retry = { ...FAST, onRetry: (error: SluiceError) => retries.push(error.code) }
    await using client = await connect(to(h.server.port, { retry }))
    const example = h.destinations.get('example')!
    h.destinations.clear()
    expect(await codeOf(connect(to(h.server.port)))).toBe('SERVER_REFUSED')
    const waiting = client.get({ waitMs: 60_000 })
    await until(() => retries.length > 2)
    h.destinations.set('example', example)
    h.insert(5)
    expect(idsOf((await waiting)!)).toEqual([5n])
    expect(new Set(retries)).toEqual(new Set(['SERVER_REFUSED']))
  })

  it('a server that goes silent is given up', async () => {
    await using h = await Harness.start()
    await using proxy = await Proxy.start({ host: '127.0.0.1', port: h.server.port })
    const retries: string[] = []
    const retry = { ...FAST, onRetry: (error: SluiceError) => retries.push(error.message) }
    await using client = await connect(to(proxy.port, { silenceMs: 50, retry }))
    h.insert(1)
    proxy.rule = () => 'hold'
    const waiting = client.get({ waitMs: 0 })
    await until(() => retries.length > 0)
    proxy.rule = (chunk) => chunk
    expect(idsOf((await waiting)!)).toEqual([1n])
    expect(retries[0]).toContain('silent')
  })

  it.each([
    ['nothing at all', Buffer.alloc(0), 'CONNECT_FAILED'],
    ['another protocol', Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'), 'WIRE_MALFORMED'],
    ['an absurd length', Buffer.from('7fffffff', 'hex'), 'WIRE_MALFORMED'],
    [
      'no handshake',
      wire.framePacket(wire.packetTypes.MESSAGES, Buffer.alloc(0)),
      'WIRE_MALFORMED',
    ],
  ])('a peer that says %s', async (_, bytes, code) => {
    const server = createServer((socket) =>
      socket.on('error', () => undefined).write(bytes),
    ).listen(0)
    const { port } = server.address() as AddressInfo
    expect(await codeOf(connect(to(port, { connectTimeoutMs: 200 })))).toBe(code)
    server.close()
  })
})

describe('refusals', () => {
  const secret = { user: 'canal', passwordHash: wire.passwordHash('secret') }

  it('a password', async () => {
    await using h = await Harness.start(secret)
    await using client = await connect(to(h.server.port, { user: 'canal', password: 'secret' }))
    expect(client.connected).toBe(true)
    for (const password of ['', 'Secret'])
      expect(await codeOf(connect(to(h.server.port, { user: 'canal', password })))).toBe(
        'SERVER_REFUSED',
      )
    await expect(
      connect(to(h.server.port, { user: 'canal', password: 'Hidden1' })),
    ).rejects.not.toThrow('Hidden1')
  })

  it('a destination, a filter, a client id', async () => {
    await using h = await Harness.start()
    expect(await codeOf(connect(to(h.server.port, { destination: 'nowhere' })))).toBe(
      'SERVER_REFUSED',
    )
    await expect(connect(to(h.server.port, { filter: '(' }))).rejects.toThrow('CONFIG_INVALID')
    expect(await codeOf(connect(to(h.server.port, { clientId: 70_000 })))).toBe('USAGE')
    expect(await codeOf(connect(to(h.server.port, { destination: '' })))).toBe('USAGE')
  })

  it('a client id that another connection took; it can be taken back', async () => {
    await using h = await Harness.start()
    await using first = await connect(to(h.server.port))
    const waiting = codeOf(first.get({ waitMs: 60_000 }))
    await using second = await connect(to(h.server.port))
    expect(await waiting).toBe('CURSOR_TAKEN')
    h.insert(1)
    expect(idsOf((await second.get())!)).toEqual([1n])
    await first.subscribe()
    expect(idsOf((await first.get())!)).toEqual([1n])
    expect(await codeOf(second.get())).toBe('CURSOR_TAKEN')
  })

  it('a filter can be changed on the way', async () => {
    await using h = await Harness.start()
    await using client = await connect(to(h.server.port, { filter: 'other\\..*' }))
    h.insert(1)
    expect(await client.get({ waitMs: 0 })).toBeUndefined()
    await client.subscribe('shop\\..*')
    h.insert(2)
    const batch = (await client.get({ waitMs: 5000 }))!
    expect(idsOf(batch).at(-1)).toBe(2n)
    await client.unsubscribe()
    expect(client.connected).toBe(false)
  })
})

describe('re-delivery', () => {
  type Step = 'get' | 'ack' | 'rollback' | 'subscribe' | 'cut'
  const steps = fc.array(
    fc.constantFrom<Step>('get', 'get', 'get', 'ack', 'ack', 'rollback', 'subscribe', 'cut'),
    { minLength: 5, maxLength: 40 },
  )
  const logs = fc.array(fc.record({ rows: fc.integer({ min: 1, max: 5 }), packed: fc.boolean() }), {
    minLength: 3,
    maxLength: 8,
  })

  it('is marked exactly, whatever happens, compressed transactions included', async () => {
    await fc.assert(
      fc.asyncProperty(logs, steps, fc.constantFrom(0, 1), async (log, list, size) => {
        await using h = await Harness.start()
        await using proxy = await Proxy.start({ host: '127.0.0.1', port: h.server.port })
        await using client = await connect(to(proxy.port))
        let id = 0
        log.forEach(({ rows, packed }, i) => {
          transaction(
            h,
            1000 + i * 1000,
            Array.from({ length: rows }, () => id++),
            packed,
          )
        })
        await play(client, proxy, list, size)
      }),
      { numRuns: 40 },
    )
  })

  async function play(
    client: SluiceClient,
    proxy: Proxy,
    list: readonly Step[],
    size: number,
  ): Promise<void> {
    const seen = new Set<string>()
    let held: Batch[] = []
    for (const step of [...list, 'rollback', 'get', 'get'] as Step[]) {
      if (step === 'ack') await held.shift()?.ack()
      else if (step !== 'get') {
        held = []
        if (step === 'cut') proxy.cut(true)
        else if (step === 'rollback') client.rollback()
        else void client.subscribe().catch(() => undefined) // a get comes while it is under way
      } else {
        const batch = await client.get({ size, waitMs: 0 })
        if (!batch) continue
        held.push(batch)
        for (const change of batch.changes) {
          const ids =
            change.kind === 'rows' ? change.rows.map((row) => row.after!['id'] as bigint) : []
          const name = `${change.kind} ${change.position.offset} ${ids.join(' ')}`
          expect([name, change.redelivered]).toEqual([name, seen.has(name)])
          seen.add(name)
        }
      }
    }
  }
})
