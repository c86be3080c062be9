/** The reader thread gives what mysqlSource gives: this file compares the two on real servers, and kills the thread. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Position, Source, Transaction } from '../../src/change.ts'
import { SluiceError } from '../../src/errors.ts'
import { ReaderThread, type ThreadSourceOptions } from '../../src/sources/index.ts'
import type { TableResolver } from '../../src/sources/log/tables.ts'
import { privateMysql, uniqueDatabase, versions, type MysqlServer } from '../support/mysql.ts'
import { Proxy } from '../support/proxy.ts'
import { bareCatalog, changesOf, describeTransaction, slowCatalog } from './fixture.ts'
import { connectOptions, everything, factsOf, noGtids, readTo, sourceOn } from './reading.ts'

const thread = new ReaderThread()
afterAll(() => thread.close())

function threadOn(
  address: Parameters<typeof connectOptions>[0],
  database: string,
  options: Partial<ThreadSourceOptions> = {},
): Source {
  return thread.source({
    connect: connectOptions(address),
    epoch: 1,
    catalog: bareCatalog,
    filter: { include: `${database}\\..*` },
    heartbeatMs: 1_000,
    ...options,
  })
}

describe.each(versions)('MySQL %s', (version) => {
  let mysql: MysqlServer
  let db: string
  let written: { from: Position; to: Position }
  beforeAll(async () => {
    mysql = await privateMysql(version) // others' XA statements name no table, so they pass every filter
    db = uniqueDatabase('thread')
    written = await everything(mysql, db)
  })
  afterAll(async () => {
    await mysql.query(`DROP DATABASE ${db}`)
    await mysql[Symbol.asyncDispose]()
  })
  const behindProxy = (proxy: Proxy) => ({ ...mysql, host: '127.0.0.1', port: proxy.port })

  test.each([
    ['by GTID', (p: Position) => p, undefined],
    ['by file and offset', noGtids, undefined],
    ['in small parts', (p: Position) => p, 1],
  ])('the same transactions as without a thread, %s', async (_name, start, partBytes) => {
    const from = start(written.from)
    const here = await readTo(sourceOn(mysql, db, { partBytes }).source, from, written.to)
    const there = await readTo(threadOn(mysql, db, { partBytes }), from, written.to)
    expect(there.error).toBeUndefined()
    expect(there.all).toEqual(here.all)
    expect(there.positions).toEqual(here.positions)
    expect(there.all.length).toBeGreaterThan(15)
  })

  test('tables that the catalog takes a while to look up, and statements', async () => {
    const asked = (catalog: TableResolver): { log: string[]; catalog: TableResolver } => {
      const log: string[] = []
      return {
        log,
        catalog: {
          resolve: (map, at) => {
            log.push(`resolve ${map.table} at ${at.file}:${at.offset}`)
            return catalog.resolve(map, at)
          },
          statement: ({ sql }, at) => void log.push(`statement ${sql} at ${at.file}:${at.offset}`),
        },
      }
    }
    const here = asked(bareCatalog)
    const there = asked(slowCatalog)
    const { from, to } = written
    const one = await readTo(sourceOn(mysql, db, { catalog: here.catalog }).source, from, to)
    const other = await readTo(threadOn(mysql, db, { catalog: there.catalog }), from, to)
    expect(other.all).toEqual(one.all)
    const statements = (log: readonly string[]) => log.filter((l) => l.startsWith('statement'))
    expect(statements(there.log)).toEqual(statements(here.log))
    expect(statements(here.log).length).toBeGreaterThan(2)
    // the thread's table maps may be asked for more often, never of another place
    expect(here.log.filter((line) => !there.log.includes(line))).toEqual([])
    expect(there.log.filter((line) => line.startsWith('resolve t ')).length).toBeGreaterThan(1)
  })

  test('what the catalog refuses comes after what was before it', async () => {
    const refusal = new SluiceError('SCHEMA_MISMATCH', 'not this one')
    const catalog: TableResolver = {
      ...bareCatalog,
      resolve(map, at) {
        if (map.table === 'u') throw refusal
        return bareCatalog.resolve(map, at)
      },
    }
    const { all, error } = await readTo(threadOn(mysql, db, { catalog }), written.from, written.to)
    expect(error).toBe(refusal)
    expect(all.length).toBeGreaterThan(10)
  })

  test('an idle source moves over filtered traffic', async () => {
    const { latest } = await factsOf(mysql)
    const { error, all } = await readTo(threadOn(mysql, 'another_database'), written.from, latest)
    expect(error).toBeUndefined()
    // statements of other tests that name no table (GRANT, …) come through every filter
    const filtered = (c: string): boolean =>
      /^\d+ (insert|update|delete) /.test(c) || c.includes(db)
    expect(changesOf(all).filter(filtered)).toEqual([])
    const ours = await readTo(threadOn(mysql, db), written.from, written.to)
    expect(changesOf(ours.all).filter(filtered).length).toBeGreaterThan(10)
  })

  test('errors keep code and message', async () => {
    const lost = { ...noGtids(written.from), file: 'binlog.999999' }
    const here = await readTo(sourceOn(mysql, db).source, lost, undefined)
    const there = await readTo(threadOn(mysql, db), lost, undefined)
    expect(there.error).toBeInstanceOf(SluiceError)
    expect(there.error).toMatchObject({
      code: 'POSITION_LOST',
      message: (here.error as Error).message,
    })
    const filter = { include: '(' }
    const bad = await readTo(threadOn(mysql, db, { filter }), written.from, undefined)
    expect(bad.error).toMatchObject({ code: 'CONFIG_INVALID' })
    const connect = { ...connectOptions(mysql), password: 'wrong' }
    const refused = await readTo(threadOn(mysql, db, { connect }), written.from, undefined)
    expect(refused.error).toMatchObject({ code: 'ACCESS_DENIED' })
  })

  test('damaged bytes are noticed', async () => {
    await using proxy = await Proxy.start(mysql)
    proxy.rule = (chunk) => {
      const at = chunk.indexOf('annotated')
      if (at < 0) return chunk
      const copy = Buffer.from(chunk)
      copy[copy.lastIndexOf('annotated')]! ^= 1
      return copy
    }
    const { error, all } = await readTo(threadOn(behindProxy(proxy), db), written.from, written.to)
    expect(error).toMatchObject({ code: 'CHECKSUM_MISMATCH' })
    expect(all.length).toBeGreaterThan(5)
  })

  test('a connection cut at any byte: an error, and nothing lost or doubled on the way on', async () => {
    await using proxy = await Proxy.start(mysql)
    const whole = await readTo(threadOn(mysql, db), written.from, written.to)
    const source = threadOn(behindProxy(proxy), db, { partBytes: 200 })
    let position = written.from
    const got: string[] = []
    let cuts = 0
    for (let i = 0; i < 100; i++) {
      const limit = 1200 + i * 60 + ((i * 7919) % 1500)
      proxy.rule = (chunk, at) =>
        at + chunk.length <= limit ? chunk : { cutAfter: Math.max(0, limit - at) }
      const { all, positions, error } = await readTo(source, position, written.to)
      got.push(...changesOf(all))
      position = positions.at(-1) ?? position
      if (error === undefined) break
      expect((error as SluiceError).retryable).toBe(true)
      cuts++
    }
    expect(cuts).toBeGreaterThan(3)
    expect(got).toEqual(changesOf(whole.all))
  }, 120_000)

  test('many reads at once, and one that ends early lets go of the server', async () => {
    const identity = { serverId: 3_456_789, replicaUuid: crypto.randomUUID() }
    const source = threadOn(mysql, db, identity)
    const reads = await Promise.all(
      Array.from({ length: 4 }, () => readTo(source, written.from, written.to)),
    )
    for (const read of reads) expect(read.error).toBeUndefined()
    for (const read of reads) expect(read.all).toEqual(reads[0]?.all)
    const abort = new AbortController()
    for await (const tx of source.read(written.from, abort.signal)) {
      tx.slab?.release()
      abort.abort()
    }
    const again = await readTo(source, written.from, written.to)
    expect(again.error).toBeUndefined()
  })

  test('a thread that dies: an error that may be retried, and the next read has another one', async () => {
    const own = new ReaderThread()
    const source = own.source({
      connect: connectOptions(mysql),
      epoch: 1,
      catalog: bareCatalog,
      filter: { include: `${db}\\..*` },
    })
    const iterator = source.read(written.from, new AbortController().signal)[Symbol.asyncIterator]()
    const { value } = await iterator.next()
    value?.slab?.release()
    await own.close()
    const rest = (async () => {
      while ((await iterator.next()).done !== true);
    })()
    await expect(rest).rejects.toMatchObject({ code: 'STREAM_ENDED', retryable: true })
    const { error, all } = await readTo(source, written.from, written.to)
    expect(error).toBeUndefined()
    expect(all.length).toBeGreaterThan(15)
    await own.close()
  })

  test('memory that is held stays as it was, whatever comes after it', async () => {
    const table = `${db}.held`
    await mysql.query(`CREATE TABLE ${table} (id INT PRIMARY KEY, a LONGBLOB)`)
    const { latest: from } = await factsOf(mysql)
    const connection = await mysql.connect()
    // 30 slabs' worth, and some events that are larger than a slab.
    for (let id = 0; id < 60; id++) {
      const size = id % 20 === 7 ? 3_000_000 : 500_000
      await connection.query(`INSERT INTO ${table} VALUES (?, ?)`, [id, randomBytes(size)])
    }
    await connection.end()
    const { latest: to } = await factsOf(mysql)
    const here = await readTo(sourceOn(mysql, db).source, from, to)
    const source = threadOn(mysql, db)
    for (const keep of [1, 7, 1000]) {
      const held: Transaction[] = []
      const seen: unknown[] = []
      const letGo = (): void => {
        const tx = held.shift()!
        if (tx.changes.length > 0) seen.push(describeTransaction(tx))
        tx.slab?.release()
      }
      for await (const tx of source.read(from, new AbortController().signal)) {
        held.push(tx)
        if (held.length > keep) letGo()
        if (tx.endFile === to.file && tx.endOffset >= to.offset) break
      }
      while (held.length > 0) letGo()
      expect(seen).toEqual(here.all)
    }
    await mysql.query(`DROP TABLE ${table}`)
  }, 60_000)

  test('nobody asks: the thread does not read on and on', async () => {
    const table = `${db}.much`
    await mysql.query(`CREATE TABLE ${table} (id INT PRIMARY KEY, a LONGBLOB)`)
    const { latest: from } = await factsOf(mysql)
    const connection = await mysql.connect()
    for (let id = 0; id < 64; id++)
      await connection.query(`INSERT INTO ${table} VALUES (?, REPEAT('m', 1000000))`, [id])
    await connection.end()
    await using proxy = await Proxy.start(mysql)
    let passed = 0
    proxy.rule = (chunk) => {
      passed += chunk.length
      return chunk
    }
    const abort = new AbortController()
    const iterator = threadOn(behindProxy(proxy), db)
      .read(from, abort.signal)
      [Symbol.asyncIterator]()
    const { value } = await iterator.next()
    value?.slab?.release()
    for (let before = -1; before < passed;) {
      before = passed
      await sleep(500)
    }
    // What the sockets on the way hold, and a few parcels.
    expect(passed).toBeLessThan(32_000_000)
    abort.abort()
    await iterator.return?.()
    await mysql.query(`DROP TABLE ${table}`)
  }, 60_000)
})
