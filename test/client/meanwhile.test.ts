/** Two things at once in the SDK, against a real CanalServer: subscribing, unsubscribing, rolling back and closing while it reads or reconnects. */
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { describe, expect, it } from 'vitest'
import type { Change } from '../../src/change.ts'
import { connect } from '../../src/client.ts'
import type { Batch } from '../../src/client.ts'
import { Link } from '../../src/client/link.ts'
import * as wire from '../../src/server/wire.ts'
import { begin, commit, orders, rowsOf } from '../server/changes.ts'
import { Harness, until } from '../server/harness.ts'
import { FAST, idsOf, to } from './options.ts'
import { Proxy } from '../support/proxy.ts'

describe('while the connection comes back', () => {
  it('closed or subscribed while it comes back, it leaves no connection behind', async () => {
    let subscribed = (): void => {}
    const resolve = (name: string) => {
      subscribed()
      return h.destinations.get(name)!
    }
    await using h: Harness = await Harness.start({ resolve })
    await using proxy = await Proxy.start({ host: '127.0.0.1', port: h.server.port })
    const retries: unknown[] = []
    const onRetry = (): void => void retries.push(client.subscribe().catch(() => undefined))
    const client = await connect(to(proxy.port, { retry: { ...FAST, delayMs: 200, onRetry } }))
    proxy.cut(true)
    expect(await client.get({ waitMs: 0 })).toBeUndefined()
    expect([retries.length, h.server.counters.connectionsOpen]).toEqual([1, 1])
    const closing = Promise.withResolvers<void>()
    subscribed = () => closing.resolve(client.close())
    proxy.cut(true)
    await client.get()
    await closing.promise
    await until(() => h.server.counters.connectionsOpen === 0)
  })

  it('unsubscribes and stops while it is away, or comes back', async () => {
    await using h = await Harness.start()
    await using proxy = await Proxy.start({ host: '127.0.0.1', port: h.server.port })
    await using client = await connect(to(proxy.port))
    for (const back of [false, true]) {
      proxy.cut(true)
      await until(() => !client.connected)
      const subscribing = back ? client.subscribe() : undefined
      await client.unsubscribe()
      await subscribing
      expect([h.store.subscription('1001'), client.connected]).toEqual([undefined, false])
      await client.subscribe()
    }
    proxy.cut(true)
    await until(() => !client.connected)
    proxy.rule = () => 'hold'
    const stop = new AbortController()
    const waiting = client.get({ signal: stop.signal })
    await until(() => h.server.counters.connectionsOpen > 0)
    const since = performance.now()
    stop.abort()
    expect(await waiting).toBeUndefined()
    expect(performance.now() - since).toBeLessThan(5000)
  })
})

describe('what begins anew', () => {
  it('does not wait for a get that waits', async () => {
    await using h = await Harness.start()
    await using client = await connect(to(h.server.port, { silenceMs: 500 }))
    h.insert(1)
    await client.get()
    for (const back of [async (): Promise<void> => client.rollback(), () => client.subscribe()]) {
      const waiting = client.get({ waitMs: Infinity })
      await until(() => h.server.counters.packetsIn[wire.packetTypes.GET]! % 2 === 0)
      await back()
      const again = (await waiting)!
      expect([idsOf(again), again.redelivered]).toEqual([[1n], true])
    }
  })

  it('and is given the time that those in front of it may take', async () => {
    const { framePacket, packetTypes, writeAck } = wire
    const ok = framePacket(packetTypes.ACK, writeAck({ errorCode: undefined, errorMessage: '' }))
    await using server = createServer((socket) => {
      let packets = 0
      socket.on('error', () => undefined)
      socket.on('data', () => {
        packets++
        if (packets === 1) socket.write(ok)
        else if (packets === 2) setTimeout(() => socket.write(Buffer.concat([ok, ok])), 500)
      })
      socket.write(framePacket(packetTypes.HANDSHAKE, wire.writeHandshake(Buffer.alloc(8)), 1))
    }).listen(0)
    const { port } = server.address() as AddressInfo
    const about = { host: '127.0.0.1', port, user: '', password: '', tls: undefined }
    const limits = { connectTimeoutMs: 5000, silenceMs: 100, replyBytesMax: 1000 }
    const link = await Link.open({ ...about, ...limits })
    const replies = [
      link.request(packetTypes.GET, Buffer.alloc(0), 1000),
      link.request(packetTypes.SUBSCRIPTION, Buffer.alloc(0)),
    ]
    expect((await Promise.all(replies)).map(({ type }) => type)).toEqual([
      packetTypes.ACK,
      packetTypes.ACK,
    ])
    await link.close()
  })

  it('of a subscription with another filter is not marked, for the filter before may have left it out', async () => {
    await using h = await Harness.start()
    await using client = await connect(to(h.server.port, { filter: 'shop\\.orders' }))
    const other = { ...orders, name: 'lines' }
    const lines: Change = {
      ...rowsOf('insert', [{ after: ['1', 'a'] }], { table: other }),
      ordinal: 1,
    }
    const own: Change = { ...rowsOf('insert', [{ after: ['2', 'b'] }]), ordinal: 2 }
    h.append([begin(), lines, own, commit()])
    const tables = (batch: Batch): unknown[] =>
      batch.changes.flatMap((c) => (c.kind === 'rows' ? [[c.table, c.redelivered]] : []))
    expect(tables((await client.get())!)).toEqual([['orders', false]])
    await client.subscribe('shop\\..*')
    expect(tables((await client.get())!)).toEqual([
      ['lines', false],
      ['orders', false],
    ])
    await client.subscribe('shop\\..*')
    expect((await client.get())!.redelivered).toBe(true)
  })
})
