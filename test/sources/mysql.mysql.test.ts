import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Position } from '../../src/change.ts'
import { SluiceError } from '../../src/errors.ts'
import { SLAB_BYTES, SlabPool } from '../../src/slab.ts'
import { filesSource } from '../../src/sources/index.ts'
import { privateMysql, uniqueDatabase, versions, type MysqlServer } from '../support/mysql.ts'
import { Proxy } from '../support/proxy.ts'
import { bareCatalog, changesOf } from './fixture.ts'
import { connectOptions, everything, factsOf, noGtids, readTo, sourceOn } from './reading.ts'

/** ordinal, kind and what, without the bytes. */
const brief = (changes: readonly string[]): string[] =>
  changes.map((c) => c.replace(/ @\d+\+.*$/s, '').replace(/\s+/g, ' '))

describe.each(versions)('MySQL %s', (version) => {
  let mysql: MysqlServer
  let db: string
  let written: { from: Position; to: Position }
  beforeAll(async () => {
    mysql = await privateMysql(version) // others' XA statements name no table, so they pass every filter
    db = uniqueDatabase('p4')
    written = await everything(mysql, db)
  })
  afterAll(async () => {
    await mysql.query(`DROP DATABASE ${db}`)
    await mysql[Symbol.asyncDispose]()
  })

  test('every kind of transaction, in order', async () => {
    const { source, slabs } = sourceOn(mysql, db)
    const { all, error } = await readTo(source, written.from, written.to)
    expect(error).toBeUndefined()
    expect(slabs.bytesInUse).toBe(0)
    const shown = all.map((tx) =>
      `${tx.state}: ${brief(tx.changes).join(', ')}`.replaceAll(db, 'db'),
    )
    const one = (rows: string): string => `committed: 1 begin , ${rows} commit`
    expect(shown.map((s) => s.replace(/(?<= commit) \d+$/, ''))).toEqual([
      one('3 insert db.t, 4'),
      one('3 update db.t, 4'),
      one('3 insert db.t, 6 delete db.t, 7'), // ordinal 4 is the SAVEPOINT
      one(
        '2 ddl CREATE TABLE `copied` ( `id` int NOT NULL, `a` varchar(200) DEFAULT NULL ) START TRANSACTION, 4 insert db.copied, 5',
      ),
      'committed: 1 ddl CREATE TABLE m (id INT) ENGINE=MyISAM',
      one('3 insert db.m, 4'),
      "prepared: 1 begin X'61',X'',1, 3 insert db.t, 4 commit X'61',X'',1",
      "committed: 1 xaCommit XA COMMIT X'61',X'',1",
      "prepared: 1 begin X'62',X'',1, 3 insert db.t, 4 commit X'62',X'',1",
      "committed: 1 xaRollback XA ROLLBACK X'62',X'',1",
      "committed: 1 begin X'63',X'',1, 3 insert db.t, 4 commit X'63',X'',1",
      one("2 annotation INSERT INTO t VALUES (8,'annotated'), 4 insert db.t, 5"),
      one("2 annotation SET @v := 'user\\'s', 3 statement INSERT INTO m VALUES (LENGTH(@v)), 4"),
      one('3 insert db.t, 4'),
      one('3 insert db.u, 5 insert db.t, 6'),
      'committed: 1 ddl ALTER TABLE t ADD COLUMN c INT',
      one('3 insert db.t, 4'),
      'committed: 1 ddl TRUNCATE TABLE u',
    ])
    for (const tx of all) expect(tx.gtid).toMatch(/:\d+$/)
  })

  test('by file and offset the same as by GTID', async () => {
    const { source } = sourceOn(mysql, db)
    const byGtid = await readTo(source, written.from, written.to)
    const byFile = await readTo(source, noGtids(written.from), written.to)
    expect(byFile.all.map((tx) => ({ ...tx, skipped: '' }))).toEqual(
      byGtid.all.map((tx) => ({ ...tx, skipped: '' })),
    )
  })

  test('resumed after every part, the rest is what the uninterrupted read had', async () => {
    const { source } = sourceOn(mysql, db, { partBytes: 1 })
    const whole = await readTo(source, written.from, written.to)
    expect(whole.positions.filter((p) => p.skip > 0).length).toBeGreaterThan(10)
    for (const [i, position] of whole.positions.entries()) {
      const rest = whole.all.slice(i + 1).flatMap((tx) => tx.changes)
      if (rest.length === 0) continue
      for (const from of [position, noGtids(position)]) {
        const { all, error } = await readTo(source, from, written.to)
        expect(error).toBeUndefined()
        expect(changesOf(all)).toEqual(rest)
      }
    }
  }, 120_000)

  test('a connection cut at any byte: an error, and nothing lost or doubled on the way on', async () => {
    await using proxy = await Proxy.start(mysql)
    const { source } = sourceOn(mysql, db)
    const whole = await readTo(source, written.from, written.to)
    const through = sourceOn({ ...mysql, host: '127.0.0.1', port: proxy.port }, db, {
      connect: { ...connectOptions(mysql), host: '127.0.0.1', port: proxy.port },
      partBytes: 200,
    })
    let random = 7
    let position = written.from
    const got: string[] = []
    let cuts = 0
    for (let i = 0; i < 200; i++) {
      random = (random * 48_271) % 2_147_483_647
      // The session's own answers are about 1500 bytes; more each time, for others write here as well.
      const limit = 1200 + i * 100 + (random % 3000)
      const reset = i % 3 === 0
      proxy.rule = (chunk, at) => {
        if (at + chunk.length <= limit) return chunk
        if (reset) proxy.cut(true)
        return { cutAfter: Math.max(0, limit - at) }
      }
      const { all, positions, error } = await readTo(through.source, position, written.to)
      got.push(...changesOf(all))
      position = positions.at(-1) ?? position
      if (error === undefined) break
      expect(error).toBeInstanceOf(SluiceError)
      expect((error as SluiceError).retryable).toBe(true)
      cuts++
    }
    expect(cuts).toBeGreaterThan(3)
    expect(got).toEqual(changesOf(whole.all))
    expect(through.slabs.bytesInUse).toBe(0)
  }, 120_000)

  test('damaged bytes are noticed', async () => {
    await using proxy = await Proxy.start(mysql)
    const connect = { ...connectOptions(mysql), host: '127.0.0.1', port: proxy.port }
    const { source, slabs } = sourceOn(mysql, db, { connect })
    // The only place in the stream with this text: a row of an insert.
    proxy.rule = (chunk) => {
      const at = chunk.indexOf('annotated')
      if (at < 0) return chunk
      const copy = Buffer.from(chunk)
      copy[copy.lastIndexOf('annotated')]! ^= 1
      return copy
    }
    const { error, all } = await readTo(source, written.from, written.to)
    expect(error).toMatchObject({ code: 'CHECKSUM_MISMATCH' })
    expect(all.length).toBeGreaterThan(5)
    expect(slabs.bytesInUse).toBe(0)
  })

  test('a position that the server does not have', async () => {
    const { source } = sourceOn(mysql, db)
    const { from } = written
    for (const lost of [
      { ...noGtids(from), file: 'binlog.999999' },
      { ...noGtids(from), offset: 2 ** 31 },
      { ...noGtids(from), offset: 2 ** 33 },
    ]) {
      const { error } = await readTo(source, lost, undefined)
      expect(error).toMatchObject({ code: 'POSITION_LOST' })
      expect((error as Error).message).toContain(lost.file)
    }
    const { error } = await readTo(
      source,
      { ...noGtids(from), server: '00000000-0000-0000-0000-000000000001' },
      undefined,
    )
    expect(error).toMatchObject({ code: 'SOURCE_CHANGED' })
  })

  test('two readers with one identity: one of them is told of the clash', async () => {
    const identity = { serverId: 1_234_567, replicaUuid: crypto.randomUUID() }
    const abort = new AbortController()
    const read = async (): Promise<unknown> => {
      try {
        const { source } = sourceOn(mysql, db, identity)
        for await (const tx of source.read(written.to, abort.signal)) tx.slab?.release()
        return undefined
      } catch (error) {
        return error
      }
    }
    const reads = [read(), read()]
    const error = await Promise.race(reads)
    // Whether the server gets its reason out before it closes is up to it.
    expect((error as SluiceError).code).toMatch(/^(SERVER_ID_CLASH|STREAM_ENDED)$/)
    abort.abort()
    await Promise.all(reads)
  })

  test('many readers of one source at once', async () => {
    const { source } = sourceOn(mysql, db, {
      serverId: 2_345_678,
      replicaUuid: crypto.randomUUID(),
    })
    const reads = await Promise.all(
      Array.from({ length: 5 }, () => readTo(source, written.from, written.to)),
    )
    for (const read of reads) expect(read.error).toBeUndefined()
    for (const read of reads) expect(read.all).toEqual(reads[0]?.all)
  })

  test('an idle source moves over filtered traffic', async () => {
    const { source } = sourceOn(mysql, 'another_database')
    const { latest } = await factsOf(mysql)
    const { error, all } = await readTo(source, written.from, latest)
    expect(error).toBeUndefined()
    // XA COMMIT and the like name no table.
    expect(all.every((tx) => tx.changes.every((c) => /xaCommit|xaRollback/.test(c)))).toBe(true)
  })

  test('a silent server is noticed while we wait, and only then', async () => {
    await using proxy = await Proxy.start(mysql)
    const connect = { ...connectOptions(mysql), host: '127.0.0.1', port: proxy.port }
    const { source } = sourceOn(mysql, db, { connect, heartbeatMs: 50 })
    const abort = new AbortController()
    const iterator = source.read(written.from, abort.signal)[Symbol.asyncIterator]()
    const one = await iterator.next()
    if (one.done !== true) one.value.slab?.release()
    proxy.rule = () => 'hold'
    // Nobody asks: no error may come of it, however long it takes.
    await sleep(6_000)
    const rest = (async () => {
      for (;;) {
        const { value, done } = await iterator.next()
        if (done === true) return
        value.slab?.release()
      }
    })()
    await expect(rest).rejects.toMatchObject({ code: 'STREAM_STALLED' })
  }, 30_000)

  test('events beyond 16 MiB, compressed and not', async () => {
    await mysql.query(`CREATE TABLE ${db}.big (id INT PRIMARY KEY, a LONGBLOB)`)
    const { latest: from } = await factsOf(mysql)
    const connection = await mysql.connect()
    await connection.query(
      `INSERT INTO ${db}.big VALUES (1, REPEAT('x', 20000000)), (2, REPEAT('y', 18000000))`,
    )
    await connection.query('SET SESSION binlog_transaction_compression = ON')
    await connection.query(`INSERT INTO ${db}.big VALUES (3, REPEAT('x', 20000000))`)
    // Incompressible, so that the payload event is large too.
    await connection.query(`INSERT INTO ${db}.big VALUES (4, ?)`, [randomBytes(18_000_000)])
    await connection.end()
    const { latest: to } = await factsOf(mysql)
    const { source, slabs } = sourceOn(mysql, db)
    const { all, error } = await readTo(source, from, to)
    expect(error).toBeUndefined()
    const sizes = changesOf(all)
      .filter((c) => c.includes('insert'))
      .map((c) => Number(/ (\d+):/.exec(c)?.[1]))
    expect(sizes.map((n) => Math.round(n / 1e6))).toEqual([20, 18, 20, 18])
    expect(slabs.bytesInUse).toBe(0)
    await mysql.query(`DROP TABLE ${db}.big`)
  })
})

describe.each(versions)('a MySQL %s of our own', (version) => {
  test('files hold what the dump says, to the byte', async () => {
    await using mysql = await privateMysql(version)
    const { from, to } = await everything(mysql, 'app')
    const dump = await readTo(sourceOn(mysql, 'app').source, noGtids(from), to)
    const names = (await mysql.query<{ Log_name: string }>('SHOW BINARY LOGS')).map(
      (row) => row.Log_name,
    )
    const slabs = new SlabPool()
    const source = filesSource({
      files: names.map((name) => join(mysql.dataDir!, name)),
      server: from.server,
      epoch: 1,
      catalog: bareCatalog,
      filter: (database) => database === 'app',
      slabs,
    })
    const files = await readTo(source, noGtids(from), undefined)
    expect(files.error).toBeUndefined()
    expect(files.all).toEqual(dump.all)
    expect(slabs.bytesInUse).toBe(0)
    const first = await readTo(source, { ...noGtids(from), file: '', offset: 4 }, undefined)
    expect(changesOf(first.all).slice(-changesOf(files.all).length)).toEqual(changesOf(files.all))
  })

  test('without checksums and without GTIDs', async () => {
    await using mysql = await privateMysql(version, {
      args: ['--binlog-checksum=NONE', '--gtid-mode=OFF', '--enforce-gtid-consistency=OFF'],
    })
    const { from, to } = await everything(mysql, 'app')
    expect(from.gtids).toBeUndefined()
    const { source } = sourceOn(mysql, 'app', { partBytes: 1 })
    const whole = await readTo(source, from, to)
    expect(whole.error).toBeUndefined()
    expect(whole.all.every((tx) => tx.gtid === '')).toBe(true)
    expect(changesOf(whole.all).length).toBeGreaterThan(40)
    for (const [i, position] of whole.positions.entries()) {
      const rest = whole.all.slice(i + 1).flatMap((tx) => tx.changes)
      if (i % 5 !== 0 || rest.length === 0) continue
      expect(changesOf((await readTo(source, position, to)).all)).toEqual(rest)
    }
  })

  test('a server killed in the middle: an error, and the rest after it is back', async () => {
    await using mysql = await privateMysql(version, {
      args: ['--sync-binlog=1', '--innodb-flush-log-at-trx-commit=1'],
    })
    await mysql.query('CREATE DATABASE app')
    await mysql.query('CREATE TABLE app.t (id INT PRIMARY KEY AUTO_INCREMENT, a VARCHAR(100))')
    const { latest: from } = await factsOf(mysql)
    const { source } = sourceOn(mysql, 'app')
    const writing = (async () => {
      const connection = await mysql.connect()
      connection.on('error', () => {})
      for (;;) await connection.query("INSERT INTO app.t (a) VALUES (REPEAT('k', 100)), ('l')")
    })().catch(() => {})
    const reading = readTo(source, from, undefined)
    await sleep(700)
    await mysql.kill()
    await writing
    const before = await reading
    expect(before.error).toMatchObject({ code: 'STREAM_ENDED' })
    await mysql.start()
    await mysql.query("INSERT INTO app.t (a) VALUES ('after')")
    const { latest: to } = await factsOf(mysql)
    const after = await readTo(source, before.positions.at(-1) ?? from, to)
    expect(after.error).toBeUndefined()
    const [row] = await mysql.query<{ n: number }>('SELECT COUNT(*) AS n FROM app.t')
    const inserts = changesOf([...before.all, ...after.all]).filter((c) => c.includes('insert'))
    // Two rows each, and the last one.
    expect((inserts.length - 1) * 2 + 1).toBe(Number(row?.n))
  })

  test('a large transaction flows through a few slabs', async () => {
    await using mysql = await privateMysql(version)
    await mysql.query('CREATE DATABASE app')
    await mysql.query('CREATE TABLE app.t (id INT PRIMARY KEY AUTO_INCREMENT, a LONGBLOB)')
    const connection = await mysql.connect()
    await connection.query("INSERT INTO app.t (a) VALUES (REPEAT('a', 30000))")
    for (let i = 0; i < 10; i++) await connection.query('INSERT INTO app.t (a) SELECT a FROM app.t')
    const { latest: from } = await factsOf(mysql)
    await connection.query('SET SESSION max_execution_time = 0')
    await connection.query('BEGIN')
    for (let i = 0; i < 9; i++)
      await connection.query("UPDATE app.t SET a = REPEAT('b', 15000 + ?)", [i])
    await connection.query('COMMIT')
    const { latest: to } = await factsOf(mysql)
    expect(to.offset - from.offset).toBeGreaterThan(256 * 1024 * 1024)
    const { source, slabs } = sourceOn(mysql, 'app')
    const abort = new AbortController()
    let most = 0
    let bytes = 0
    for await (const tx of source.read(from, abort.signal)) {
      for (const change of tx.changes) bytes += change.event.end - change.event.start
      most = Math.max(most, slabs.bytesInUse)
      tx.slab?.release()
      if (tx.state !== 'open' && tx.changes.length > 0) break
    }
    expect(bytes).toBeGreaterThan(256 * 1024 * 1024)
    expect(most).toBeLessThanOrEqual(4 * SLAB_BYTES)
    await connection.end()
  }, 120_000)
})
