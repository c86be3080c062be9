import { describe, expect, test } from 'vitest'
import { SLAB_BYTES, SlabPool } from '../../src/slab.ts'
import {
  LogWriter,
  changesOf,
  collect,
  cut,
  innerEvents,
  packets,
  read,
  readChunks,
  slowCatalog,
} from './fixture.ts'

describe('compressed transactions', () => {
  const large = innerEvents('zipped', 400, 20_000)

  test.each([
    ['small', innerEvents('zipped', 3, 200), true],
    ['large, compressed to little', innerEvents('zipped', 3000, 4000, true), true],
    ['large', large, true],
    ['small, not compressed', innerEvents('zipped', 3, 200), false],
    ['large, not compressed', large, false],
  ])('%s: the changes that the events inside have', async (_, inner, compress) => {
    const log = new LogWriter()
      .start()
      .gtid()
      .payload(inner, { compress })
      .transaction('users', 1, 1)
    const stream = packets(log.events)
    const slabs = new SlabPool()
    const chunks = cut(
      stream,
      Array.from({ length: 200 }, (_i, i) => (i + 1) * 50_000),
    )
    const all = await collect(readChunks(chunks, { slabs, catalog: slowCatalog }))
    const inserts = changesOf(all).filter((c) => c.includes('app.zipped'))
    expect(inserts).toHaveLength(inner === large ? 400 : inner.length > 1_000_000 ? 3000 : 3)
    const offsets = new Set(inserts.map((c) => c.split('@')[1]?.split(' ')[0]))
    expect(offsets.size).toBe(1)
    expect(all.at(-2)?.state).toBe('committed')
    expect(all.at(-1)?.changes).toHaveLength(3)
    expect(slabs.bytesInUse).toBe(0)
  })

  test('a large one is delivered in parts, its commit only after the checksum was right', async () => {
    const log = new LogWriter().start().gtid().payload(large)
    const bad = log.events.at(-1)!
    bad[bad.length - 1]! ^= 1
    const states: string[] = []
    const slabs = new SlabPool()
    const reading = (async () => {
      const stream = packets(log.events)
      const chunks = cut(
        stream,
        Array.from({ length: 200 }, (_, i) => (i + 1) * 50_000),
      )
      for await (const tx of readChunks(chunks, { slabs })) {
        states.push(tx.state)
        tx.slab?.release()
      }
    })()
    await expect(reading).rejects.toMatchObject({ code: 'CHECKSUM_MISMATCH' })
    expect(states.length).toBeGreaterThan(10)
    expect(new Set(states)).toEqual(new Set(['open']))
    expect(slabs.bytesInUse).toBe(0)
  })

  test.each([
    ['small, more declared', innerEvents('zipped', 3, 200), 1],
    ['small, less declared', innerEvents('zipped', 3, 200), -1],
    ['large, more declared', large, 1],
    ['large, less declared', large, -1],
  ])('%s than there is: an error', async (name, inner, difference) => {
    const log = new LogWriter()
      .start()
      .gtid()
      .payload(inner, { declared: inner.length + difference })
    // a large one is unpacked before its checksum has come: what is wrong in it may be damage, and is tried again
    const code = name.startsWith('large') ? 'CHECKSUM_MISMATCH' : 'EVENT_MALFORMED'
    await expect(read(packets(log.events))).rejects.toMatchObject({ code })
  })

  test.each([large, innerEvents('zipped', 3, 200)])(
    'is complete without waiting for what follows',
    async (inner) => {
      const log = new LogWriter().start().gtid().payload(inner)
      let waited = false
      function* chunks(): Generator<Buffer> {
        yield packets(log.events)
        waited = true
      }
      for await (const tx of readChunks(chunks())) {
        tx.slab?.release()
        if (tx.state === 'committed') break
      }
      expect(waited).toBe(false)
    },
  )

  test('memory does not grow with the size', async () => {
    const log = new LogWriter()
      .start()
      .gtid()
      .payload(innerEvents('zipped', 3000, 16_000))
    const slabs = new SlabPool()
    let most = 0
    for await (const tx of readChunks([packets(log.events)], { slabs })) {
      most = Math.max(most, slabs.bytesInUse)
      tx.slab?.release()
    }
    expect(most).toBeLessThanOrEqual(3 * SLAB_BYTES)
  })
})
