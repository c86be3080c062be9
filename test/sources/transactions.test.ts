import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { eventTypes } from '../../src/binlog/reader.ts'
import { advance, type Position, type Transaction } from '../../src/change.ts'
import { SluiceError } from '../../src/errors.ts'
import { GtidSet } from '../../src/gtid.ts'
import { SlabPool } from '../../src/slab.ts'
import { filesSource } from '../../src/sources/index.ts'
import {
  LogWriter,
  SERVER,
  START,
  bareCatalog,
  changesOf,
  collect,
  cut,
  describeChange,
  innerEvents,
  packets,
  read,
  readChunks,
  slowCatalog,
} from './fixture.ts'

/** A log with something of everything. */
function sample(checksum = true): LogWriter {
  const log = new LogWriter(checksum).start()
  log.transaction('users', 2, 40)
  log.gtid().query('create table app.t (a int)')
  log.gtid().begin().event(29, Buffer.from('\x06insert')).tableMap(1, 'a').tableMap(2, 'b')
  log.rows(1, 30, 0).rows(2, 300).xid()
  log.gtid().begin().tableMap(9, 'noise').rows(9, 100).xid()
  log.heartbeat()
  log.gtid().payload(innerEvents('zipped', 3, 500))
  log.gtid().query("XA START X'61',X'',1").tableMap(1, 'a').rows(1, 20).query("XA END X'61',X'',1")
  log.event(38, Buffer.from('0001000000010000000000000061', 'hex'))
  log.gtid().query("XA COMMIT X'61',X'',1")
  log
    .gtid()
    .begin()
    .event(5, Buffer.from('020500000000000000', 'hex'))
    .query('insert into t values (1)')
    .query('COMMIT')
  log.event(37, Buffer.alloc(52)).event(28, Buffer.alloc(3), { flags: 0x80 }).xid()
  log.rotate('binlog.000002', 4, false).rotate('binlog.000002').format()
  log.transaction('users', 1, 700)
  return log
}

describe('events → transactions', () => {
  test('order, kinds, places and ordinals', async () => {
    const all = await read(packets(sample().events))
    expect(
      all.map((tx) => [
        tx.gtid.slice(-2),
        tx.state,
        tx.changes.map((c) => c.split(' ').slice(0, 3).join(' ')),
      ]),
    ).toEqual([
      [':1', 'committed', ['1 begin ', '3 insert app.users', '5 insert app.users', '6 commit 7']],
      [':2', 'committed', ['1 ddl create']],
      [
        ':3',
        'committed',
        ['1 begin ', '2 annotation insert', '5 insert app.a', '6 insert app.b', '7 commit 7'],
      ],
      [':4', 'committed', ['1 begin ', '3 insert app.noise', '4 commit 7']],
      [
        ':5',
        'committed',
        [
          '1 begin ',
          '3 insert app.zipped',
          '5 insert app.zipped',
          '7 insert app.zipped',
          '8 commit 7',
        ],
      ],
      [':6', 'prepared', ["1 begin X'61',X'',1", '3 insert app.a', "4 commit X'61',X'',1"]],
      [':7', 'committed', ['1 xaCommit XA']],
      [':8', 'committed', ['1 begin ', '2 annotation SET', '3 statement insert', '4 commit 0']],
      [':9', 'committed', ['1 begin ', '3 insert app.users', '4 commit 7']],
    ])
    expect(all.at(-1)?.place).toMatch(/^binlog\.000002:\d+$/)
    for (let i = 1; i < 8; i++) expect(all[i]?.place).toBe(all[i - 1]?.end)
  })

  test('a stream cut at every byte, and byte by byte, reads the same', async () => {
    const stream = packets(sample().events)
    const whole = await read(stream)
    const text = JSON.stringify(whole)
    const slabs = new SlabPool() // one for thousands of reads
    for (let at = 1; at < stream.length; at++) {
      const all = await collect(readChunks(cut(stream, [at]), { slabs }))
      if (JSON.stringify(all) !== text) expect(all, `cut at ${at}`).toEqual(whole)
    }
    const bytes = Array.from(stream, (_, i) => stream.subarray(i, i + 1))
    expect(await collect(readChunks(bytes))).toEqual(whole)
  })

  test('any chunking, any size of parts, any catalog reads the same changes', async () => {
    const stream = packets(sample().events)
    const whole = changesOf(await read(stream))
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.nat(stream.length), { maxLength: 40 }),
        fc.integer({ min: 1, max: 2000 }),
        async (at, partBytes) => {
          const slabs = new SlabPool()
          const chunks = cut(
            stream,
            at.toSorted((a, b) => a - b),
          )
          const all = await collect(readChunks(chunks, { partBytes, catalog: slowCatalog, slabs }))
          expect(changesOf(all)).toEqual(whole)
          expect(slabs.bytesInUse).toBe(0)
        },
      ),
      { numRuns: 60 },
    )
  })

  test('files hold the same: events without packets', async () => {
    const log = sample()
    const framed = await read(packets(log.events))
    expect(await read(Buffer.concat(log.events), { framed: false })).toEqual(framed)
  })

  test('a log without checksums reads the same changes', async () => {
    const log = sample(false)
    const all = await read(packets(log.events), { checksum: false })
    const kinds = (list: string[]) => list.map((c) => c.split(' @')[0])
    expect(kinds(changesOf(all))).toEqual(kinds(changesOf(await read(packets(sample().events)))))
  })

  test('resumed at every part and transaction, the rest is what the uninterrupted read had', async () => {
    const stream = sample()
    const bytes = packets(stream.events)
    const options = { partBytes: 1 }
    const places: { position: Position; done: number }[] = [{ position: START, done: 0 }]
    const whole: string[] = []
    let position = START
    for await (const tx of readChunks([bytes], options)) {
      whole.push(...tx.changes.map((c) => describeChange(c)))
      tx.slab?.release()
      position = advance(position, tx)
      places.push({ position, done: whole.length })
    }
    expect(places.length).toBeGreaterThan(20)
    expect(places.some((p) => p.position.skip > 3)).toBe(true)
    for (const { position: from, done } of places) {
      const tail = from.file === 'binlog.000001' ? stream.events : tailOf(stream.events)
      // A heartbeat would say that the log ends there.
      const chunks = [packets(tail.filter((event) => event[4] !== 41))]
      const rest = await collect(readChunks(chunks, { ...options, from, early: from.offset > 4 }))
      expect(changesOf(rest)).toEqual(whole.slice(done))
    }
  })

  test('a transaction beyond partBytes comes in parts that share its start', async () => {
    const log = new LogWriter().start().transaction('users', 50, 1000)
    const all = await read(packets(log.events), { partBytes: 10_000 })
    expect(all.length).toBeGreaterThan(4)
    expect(new Set(all.map((tx) => tx.place)).size).toBe(1)
    expect(all.map((tx) => tx.state)).toEqual([...Array(all.length - 1).fill('open'), 'committed'])
    for (let i = 1; i < all.length; i++) expect(all[i]?.first).toBe(all[i - 1]?.next)
  })

  test('a small transaction stays whole in one slab, wherever the slab ends', async () => {
    const log = new LogWriter().start()
    for (let i = 0; i < 60; i++) log.transaction('users', 5, 9_000 + i * 37)
    const slabs = new SlabPool()
    let count = 0
    for await (const tx of readChunks([packets(log.events)], { slabs })) {
      expect(tx.changes).toHaveLength(7)
      for (const change of tx.changes) expect(change.event.bytes).toBe(tx.slab?.bytes)
      tx.slab?.release()
      count++
    }
    expect(count).toBe(60)
    expect(slabs.bytesInUse).toBe(0)
  })

  test('an event larger than 16 MiB, and one of exactly a packet', async () => {
    const log = new LogWriter().start()
    const exact = 0xffffff - 1 - 19 - 4 - 16
    log
      .transaction('users', 1, 20_000_000)
      .transaction('users', 1, exact)
      .transaction('users', 1, 10)
    const stream = packets(log.events)
    const chunks = cut(
      stream,
      Array.from({ length: 600 }, (_, i) => (i + 1) * 65_536),
    )
    const slabs = new SlabPool()
    const all = await collect(readChunks(chunks, { slabs }))
    expect(
      all
        .flatMap((tx) => tx.changes.filter((c) => c.includes('insert')))
        .map((c) => c.split(' ').at(-1)?.split(':')[0]),
    ).toEqual([`${20_000_000 + 35}`, `${exact + 35}`, '45'])
    expect(slabs.bytesInUse).toBe(0)
  })
})

/** The second file of the sample as a dump of its own. */
function tailOf(events: readonly Buffer[]): Buffer[] {
  const rotates = events.flatMap((event, i) => (event[4] === 4 ? [i] : []))
  return events.slice(rotates.at(-1))
}

describe('filter and positions', () => {
  const filter = (_: string, table: string): boolean => table !== 'noise'

  test('filtered tables leave no change, and their transactions are told as skipped', async () => {
    const log = new LogWriter().start()
    log.transaction('noise', 1, 50).transaction('noise', 2, 50).transaction('users', 1, 10)
    log.gtid().begin().tableMap(1, 'noise').tableMap(2, 'users').rows(1, 10, 0).rows(2, 10).xid()
    log.gtid().query('alter table noise add b int').transaction('users', 1, 10)
    const all = await read(packets(log.events), { filter, from: { gtids: new GtidSet() } })
    expect(all.map((tx) => [tx.gtid.slice(-2), tx.skipped, tx.changes.length])).toEqual([
      [':3', `${SERVER}:1-2`, 3],
      [':4', '', 3],
      [':6', `${SERVER}:5`, 3],
    ])
  })

  test('the text of a filtered statement is not delivered', async () => {
    const log = new LogWriter().start().gtid().begin()
    log.event(29, Buffer.from('\x06secret')).tableMap(1, 'noise').rows(1, 10)
    log.event(29, Buffer.from('\x06public')).tableMap(2, 'users').rows(2, 10).xid()
    const all = await read(packets(log.events), { filter })
    expect(changesOf(all).join()).toContain('public')
    expect(changesOf(all).join()).not.toContain('secret')
  })

  test('long filtered traffic moves positions by time, by count and when the source is idle', async () => {
    const byTime = new LogWriter().start()
    for (let i = 0; i < 20; i++) {
      byTime.seconds++
      byTime.transaction('noise', 1, 10)
    }
    const slow = await read(packets(byTime.events), { filter, from: { gtids: new GtidSet() } })
    // A quarter of a second of event time, which has whole seconds; and the rest at the end of the log.
    expect(slow.map((tx) => tx.skipped)).toEqual(
      Array.from({ length: 10 }, (_, i) => `${SERVER}:${2 * i + 1}-${2 * i + 2}`),
    )
    const byCount = new LogWriter().start()
    for (let i = 0; i < 9000; i++) byCount.transaction('noise', 1, 10)
    const many = await read(packets(byCount.events), { filter, from: { gtids: new GtidSet() } })
    // At most so many at a time; fewer where the machine is slow, for time counts as well.
    const sets = many.map((tx) => GtidSet.parse(tx.skipped))
    const lengths = many.map((tx) => {
      const [, first = 0, last = first] = /:(\d+)(?:-(\d+))?$/.exec(tx.skipped) ?? []
      return Number(last) - Number(first) + 1
    })
    expect(Math.max(...lengths)).toBeLessThanOrEqual(8192)
    const union = new GtidSet()
    for (const set of sets) union.merge(set)
    expect(union.toString()).toBe(`${SERVER}:1-9000`)
    const idle = new LogWriter().start().transaction('users', 1, 5).transaction('noise', 1, 5)
    const end = idle.offset
    idle.heartbeat().heartbeat().transaction('users', 1, 5)
    const some = await read(packets(idle.events), { filter })
    expect(some.map((tx) => tx.changes.length)).toEqual([3, 0, 3])
    expect(some[1]?.end).toBe(`binlog.000001:${end}`)
  })

  test('heartbeats of a server on its way to where we are move nothing back', async () => {
    const log = new LogWriter().start()
    const big = new LogWriter()
    big.offset = 50_000
    const { offset } = big
    for (const at of [10_000, 20_000, offset]) log.heartbeat(at)
    big.transaction('users', 5, 1000).heartbeat().transaction('noise', 1, 5).heartbeat()
    for (const skip of [0, 4]) {
      const all = await read(packets([...log.events, ...big.events]), {
        jumps: true,
        filter: (_database, table) => table === 'users',
        from: { offset, skip, gtids: new GtidSet() },
      })
      expect(all.map((tx) => tx.end)).toEqual([
        expect.stringMatching(/^binlog/),
        `binlog.000001:${big.offset}`,
      ])
      expect(all[0]).toMatchObject({ place: `binlog.000001:${offset}`, first: skip })
    }
  })

  test('a new file moves the position of an idle source', async () => {
    const log = new LogWriter().start().transaction('users', 1, 5)
    log.rotate('binlog.000002', 4, false).rotate('binlog.000002').format().heartbeat()
    const all = await read(packets(log.events))
    expect(all.at(-1)).toMatchObject({ end: `binlog.000002:${log.offset}`, changes: [] })
  })

  // A server that takes more than a second to find in a long file what we lack says where it is, again and again.
  test.each([0, 3])(
    'a source that passes over what we have moves no position: +%i',
    async (skip) => {
      const log = new LogWriter().start().transaction('users', 1, 5)
      const dump = new LogWriter().start()
      const [first, second] = [dump.offset + 10, dump.offset + 20]
      const from = { offset: log.offset, skip, gtids: new GtidSet() }
      dump.heartbeat(first).heartbeat(second).heartbeat(from.offset)
      dump.offset = from.offset
      dump.transaction('noise', 1, 5).transaction('users', 2, 5).heartbeat()
      const all = await read(packets(dump.events), { filter: () => true, jumps: true, from })
      expect(all.map((tx) => tx.place)).toEqual([`binlog.000001:${from.offset}`, all[0]?.end])
      expect(all.map((tx) => tx.changes.length)).toEqual([skip === 0 ? 3 : 2, 4])
    },
  )

  test('offsets count on beyond 4 GiB', async () => {
    const log = new LogWriter().rotate('binlog.000001', 2 ** 32 - 300).format(true)
    for (let i = 0; i < 3; i++) log.transaction('users', 1, 100)
    const all = await read(packets(log.events), { from: { offset: 2 ** 32 - 300 } })
    expect(all.map((tx) => tx.place)).toEqual([
      `binlog.000001:${2 ** 32 - 300}`,
      all[0]?.end,
      all[1]?.end,
    ])
    expect(all.at(-1)?.end).toBe(`binlog.000001:${log.offset}`)
    expect(log.offset).toBeGreaterThan(2 ** 32)
  })

  test('a gap is an error in a plain dump and a jump in a GTID dump', async () => {
    const log = new LogWriter().start().transaction('users', 1, 10)
    log.offset += 5_000_000_000
    const start = log.offset
    log.transaction('users', 1, 10)
    await expect(read(packets(log.events))).rejects.toMatchObject({ code: 'EVENT_MALFORMED' })
    // A heartbeat that tells the whole position comes before what a GTID dump left out over 4 GiB.
    const told = new LogWriter().start().transaction('users', 1, 10)
    told.offset = start
    told.heartbeat().transaction('users', 1, 10)
    const all = await read(packets(told.events), { jumps: true })
    expect(all.at(-1)?.place).toBe(`binlog.000001:${start}`)
  })

  test('an offset that is no event is POSITION_LOST, one in the middle skips what is before', async () => {
    const log = new LogWriter().start().transaction('users', 1, 10)
    const middle = log.offset
    log.transaction('users', 2, 10)
    const rest = await read(packets(log.events), { early: true, from: { offset: middle } })
    expect(rest.map((tx) => tx.place)).toEqual([`binlog.000001:${middle}`])
    const lost = async (offset: number) =>
      await expect(
        read(packets(log.events), { early: true, from: { offset } }),
      ).rejects.toMatchObject({ code: 'POSITION_LOST' })
    await lost(middle + 1)
    await lost(log.offset + 1)
    const past = log.offset + 100
    log.heartbeat()
    await lost(past)
    log.rotate('binlog.000002', 4, false).rotate('binlog.000002').format()
    await lost(past)
  })
})

describe('what must stop the stream', () => {
  const after = (add: (log: LogWriter) => void) => {
    const log = new LogWriter().start().transaction('users', 1, 10)
    add(log)
    return read(packets(log.events))
  }
  test.each<[string, string, (log: LogWriter) => void]>([
    ['an unknown event', 'EVENT_UNKNOWN', (log) => log.event(99, Buffer.alloc(5))],
    ['an incident', 'INCIDENT', (log) => log.event(26, Buffer.from('\x01\x00\x04lost', 'latin1'))],
    ['rows without a table map', 'EVENT_MALFORMED', (log) => log.gtid().begin().rows(5, 10)],
    ['a log that ends inside a transaction', 'STREAM_ENDED', (log) => log.gtid().begin()],
    [
      'a wrong checksum',
      'CHECKSUM_MISMATCH',
      (log) => log.xid().events.at(-1)!.writeUInt32LE(1, 19),
    ],
  ])('%s: %s', async (_, code, add) => {
    await expect(after(add)).rejects.toMatchObject({ code })
  })

  test('encryption stops a file; in a dump the server has decrypted what follows', async () => {
    const log = new LogWriter().start()
    log.event(eventTypes.START_ENCRYPTION, Buffer.alloc(17)).transaction('users', 1, 10)
    expect(await read(packets(log.events))).toHaveLength(1)
    const dir = mkdtempSync(join(tmpdir(), 'sluice-encrypted-'))
    try {
      const file = join(dir, 'binlog.000001')
      const magic = Buffer.from([0xfe, 0x62, 0x69, 0x6e])
      writeFileSync(file, Buffer.concat([magic, ...log.events.slice(1)]))
      const source = filesSource({
        files: [file],
        server: SERVER,
        epoch: 1,
        catalog: bareCatalog,
        filter: () => true,
        slabs: new SlabPool(),
      })
      const from = {
        epoch: 1,
        server: SERVER,
        file: '',
        offset: 4,
        skip: 0,
        gtids: undefined,
        timestamp: 0,
      }
      const all = collect(source.read(from, new AbortController().signal))
      await expect(all).rejects.toMatchObject({ code: 'BINLOG_ENCRYPTED' })
    } finally {
      rmSync(dir, { recursive: true })
    }
  })

  test('an open transaction that the log never ends is dropped, unless parts were delivered', async () => {
    const crash = (partBytes: number) => {
      const log = new LogWriter().start().gtid().begin().tableMap(1, 'a').rows(1, 500)
      log.rotate('binlog.000002').format().transaction('users', 1, 10)
      return read(packets(log.events), { partBytes })
    }
    expect(await crash(10_000)).toHaveLength(1)
    await expect(crash(100)).rejects.toMatchObject({ code: 'EVENT_MALFORMED' })
  })

  test('rows that were rolled back are not delivered', async () => {
    const log = new LogWriter()
      .start()
      .gtid()
      .begin()
      .tableMap(1, 'a')
      .rows(1, 50)
      .query('insert into myisam values (1)')
    log.query('ROLLBACK')
    const all = await read(packets(log.events))
    expect(changesOf(all).map((c) => c.split(' ')[1])).toEqual(['begin', 'statement', 'commit'])
  })

  test('the abort signal ends it quietly', async () => {
    const abort = new AbortController()
    const got: Transaction[] = []
    const log = new LogWriter().start().transaction('users', 1, 10).gtid().begin()
    for await (const tx of readChunks([packets(log.events)], { signal: abort.signal })) {
      got.push(tx)
      tx.slab?.release()
      abort.abort()
    }
    expect(got).toHaveLength(1)
  })

  test.each([true, false])(
    'flipped bits (checksums: %s) end in an error of ours or in transactions, never in a crash',
    async (checksum) => {
      const log = sample(checksum)
      log.gtid().payload(innerEvents('zipped', 30, 20_000))
      const stream = packets(log.events)
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.nat(stream.length * 8 - 1), { minLength: 1, maxLength: 3 }),
          async (bits) => {
            const copy = Buffer.from(stream)
            for (const bit of bits) copy[bit >> 3]! ^= 1 << (bit & 7)
            const slabs = new SlabPool()
            try {
              await collect(readChunks(cut(copy, [1000, 3000, 90_000]), { slabs, checksum }))
            } catch (error) {
              expect(error).toBeInstanceOf(SluiceError)
            }
            expect(slabs.bytesInUse).toBe(0)
          },
        ),
        { numRuns: 400 },
      )
    },
  )

  test('truncated streams end in an error or between transactions', async () => {
    const stream = packets(sample().events)
    const whole = changesOf(await read(stream))
    for (let size = 0; size < stream.length; size += 7) {
      const slabs = new SlabPool()
      const got: string[] = []
      try {
        for await (const tx of readChunks([stream.subarray(0, size)], { slabs })) {
          got.push(...tx.changes.map((c) => describeChange(c)))
          tx.slab?.release()
        }
      } catch (error) {
        expect(error).toMatchObject({ code: 'STREAM_ENDED' })
      }
      expect(got).toEqual(whole.slice(0, got.length))
      expect(slabs.bytesInUse).toBe(0)
    }
  })
})
