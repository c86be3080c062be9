/** A row with a value of 40 MiB on its way to a client, over a real socket: whole, alone on the wire, and its memory given back. */
import { describe, expect, test } from 'vitest'
import type { RowReader } from '../../src/change.ts'
import type { Slab } from '../../src/slab.ts'
import { column, orders, rowsOf, slabs, tableOf } from './changes.ts'
import { Harness, idsOf, until } from './harness.ts'
import { decodeEntry, decodeRowChange } from './oracle.ts'

describe('a huge value is sent from where it stands', () => {
  /** Bytes of a row's second column, a LONGBLOB, as the log would have them. */
  const LENGTH = 40 * 1024 * 1024
  const value = Buffer.alloc(LENGTH, Buffer.from('ab\u00e9', 'latin1'))
  const text = Buffer.from(value.toString('latin1'))
  const table = tableOf('shop', 'orders', [
    orders.columns[0]!,
    column(1, 'doc', 252, 'longblob', { form: 'latin1' }),
  ])
  /** Insert 1 with the value, in a slab that shows whether it was given back; then insert 2, without. */
  function append(h: Harness): Slab {
    const slab = slabs.open(LENGTH)
    value.copy(slab.bytes)
    const large = rowsOf('insert', [{ after: ['1', 'huge'] }], { table })
    const reader = (): RowReader => {
      const inner = large.reader()
      const raw = (_: number, index: number): Buffer =>
        index === 1 ? slab.bytes.subarray(0, LENGTH) : Buffer.of(1)
      return Object.assign(inner, { raw })
    }
    const event = { ...large.event, end: LENGTH }
    h.append([{ ...large, event, reader }], { slab })
    h.insert(2)
    return slab
  }

  test('to a client that takes it', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    const slab = append(h)
    const { entries } = await client.get({ timeout: 0 })
    const [row] = decodeRowChange(decodeEntry(entries[0]!).storeValue).rowDatas!
    expect(row!.afterColumns![0]!.value).toBe('1')
    expect(Buffer.from(row!.afterColumns![1]!.value!).equals(text)).toBe(true)
    expect(await client.ids()).toEqual([2, '2'])
    client.ack(1)
    await until(() => slab.free)
    expect(h.server.counters.bytesOut).toBeGreaterThan(text.length)
  })
  test('and nothing comes between its pieces', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    append(h)
    client.socket.pause()
    client.sendGet({ timeout: 0 })
    await until(() => h.server.counters.batches === 1)
    client.ack(77) // is answered with an error
    client.sendGet({ timeout: -1 })
    client.socket.resume()
    const { entries } = await client.messages()
    expect(idsOf(entries)).toEqual(['1'])
    expect((await client.error()).text).toContain('BATCH_UNKNOWN')
    expect(idsOf((await client.messages()).entries)).toEqual(['2'])
  })
  test('not to one that has left, which holds no memory', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    const slab = append(h)
    client.socket.pause()
    client.sendGet({ timeout: 0 })
    await until(() => h.server.counters.batches === 1)
    client.socket.destroy()
    await until(() => h.server.counters.connectionsOpen === 0)
    const next = await h.subscribed()
    expect(await next.ids()).toEqual([2, '1'])
    next.ack(2)
    await until(() => slab.free)
  })
})
