/**
 * The Redis sink on servers of its own: cluster, sentinel, TLS and ACL; killed and started again, full, read-only; and a
 * source whose commit is logged before anybody can read it.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Cluster, Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Sink } from '../../../src/sinks/sink.ts'
import {
  type MysqlServer,
  privateMysql,
  sharedMysql,
  uniqueDatabase,
  versions,
} from '../../support/mysql.ts'
import {
  privateService,
  redisCluster,
  type RedisCluster,
  redisSentinel,
} from '../../support/services.ts'
import { contextOf, Log, never, openSink, withHighest, type Written } from './log.ts'

let mysql: MysqlServer
let log: Log
const database = uniqueDatabase('rservers')
let tables = 0
const table = (): string => `t${tables++}`

beforeAll(async () => {
  mysql = await sharedMysql(versions[0]!)
  log = await Log.open(mysql, database)
})
afterAll(async () => {
  await mysql.query(`DROP DATABASE IF EXISTS ${database}`)
  await mysql[Symbol.asyncDispose]()
})

/** Writes as the runner does: again, while the error says that it may pass. */
async function persist(sink: Sink, batch: Written['batch']): Promise<number> {
  for (let attempt = 0; ; attempt++) {
    try {
      expect(await sink.write(batch, never)).toEqual([])
      return attempt
    } catch (error) {
      if (!(error as { retryable?: boolean }).retryable || attempt > 200) throw error
      await delay(50)
    }
  }
}
const rows = (t: string, from: number, to: number): string =>
  `INSERT INTO ${t} WITH RECURSIVE n(i) AS (SELECT ${from} UNION ALL SELECT i + 1 FROM n WHERE i < ${to}) SELECT i, i FROM n`
const thousand = (t: string, round: number): string => rows(t, round * 1000, round * 1000 + 999)
const create = (t: string): string => `CREATE TABLE ${t} (id INT PRIMARY KEY, v INT)`

describe('a cluster', () => {
  let cluster: RedisCluster
  beforeAll(async () => {
    cluster = await redisCluster()
  })
  afterAll(() => cluster[Symbol.asyncDispose]())

  it('gets rows, members, streams and the position, and is cleared and fenced', async () => {
    const nodes = cluster.nodes.map(({ host, port }) => ({ host, port }))
    const client = new Cluster(nodes)
    const t = table()
    const rules = [
      { kind: 'string', key: 'c:{id}' },
      { kind: 'hash', key: 'h:{{{v}}}:{id}' },
      { kind: 'set', key: 's:{v}', member: '{id}' },
      { kind: 'stream', key: 'log' },
      { kind: 'invalidate', key: 'i:{id}' },
    ].map((rule) => ({ ...rule, match: `${database}.${t}` }))
    const options = { cluster: nodes.map(({ host, port }) => `${host}:${port}`), rules }
    const context = contextOf(mysql)
    await using sink = await openSink(options, context)
    await client.set('i:7', 'cached')
    const first = await log.run(`${create(t)}; ${rows(t, 1, 900)}`)
    expect(await sink.write(first.batch, never)).toEqual([])
    for (const id of [1, 450, 900]) {
      expect(await client.get(`c:${id}`)).toBe(`{"id":${id},"v":${id}}`)
      expect(await client.hgetall(`h:{${id}}:${id}`)).toEqual({ id: `${id}`, v: `${id}` })
      expect(await client.smembers(`s:${id}`)).toEqual([`${id}`])
    }
    expect(await client.xlen('log')).toBe(900)
    expect(await client.get('i:7')).toBeNull()
    const second = await log.run(`UPDATE ${t} SET v = -1 WHERE id < 10`)
    await sink.write(second.batch, never)
    await sink.write(withHighest(first.batch, second.batch.highest), never)
    expect(await client.get('c:9')).toBe('{"id":9,"v":-1}')
    expect(await client.scard('s:-1')).toBe(9)
    expect(await client.exists('s:9')).toBe(0)
    expect(await client.exists('h:{9}:9')).toBe(0)
    expect(await client.xlen('log')).toBe(909)
    await using again = await openSink(options, context)
    expect(again.resume).toEqual(second.end)
    await sink.statement!((await log.run(`TRUNCATE ${t}`)).statements[0]!, never)
    expect(await client.exists('c:450')).toBe(0)
    expect(await client.exists('h:{450}:450')).toBe(0)
    expect(await client.exists('s:450')).toBe(0)
    client.disconnect()
  })
  it('loses a node and gets it back', async () => {
    const t = table()
    const options = {
      cluster: cluster.nodes.map(({ host, port }) => `${host}:${port}`),
      rules: [{ kind: 'string', key: 'k:{id}', match: `${database}.${t}` }],
      timeoutMs: '1s',
    }
    await using sink = await openSink(options, contextOf(mysql, { sink: 'lost' }))
    await sink.write((await log.run(`${create(t)}; ${rows(t, 1, 100)}`)).batch, never)
    const { batch } = await log.run(rows(t, 101, 300))
    const [, node] = cluster.nodes
    await node!.kill()
    await expect(sink.write(batch, never)).rejects.toMatchObject({ code: 'SINK_UNAVAILABLE' })
    await node!.start()
    await persist(sink, batch)
    const client = new Cluster(cluster.nodes.map(({ host, port }) => ({ host, port })))
    for (let id = 1; id <= 300; id++)
      expect(await client.get(`k:${id}`)).toBe(`{"id":${id},"v":${id}}`)
    client.disconnect()
  })
})

describe('a sentinel', () => {
  it('leads to the new primary, and what that one lost is noticed', async () => {
    await using set = await redisSentinel()
    const t = table()
    const { host, port } = set.sentinel
    const options = {
      sentinel: { name: set.name, nodes: [`${host}:${port}`] },
      rules: [{ kind: 'string', key: '{id}', match: `${database}.${t}` }],
      replicas: 1,
      timeoutMs: '2s',
    }
    const context = contextOf(mysql)
    const sink = await openSink(options, context)
    const first = await log.run(`${create(t)}; ${rows(t, 1, 50)}`)
    await persist(sink, first.batch)
    await set.primary.kill()
    const { batch, end } = await log.run(rows(t, 51, 60))
    // alone, the new primary has no replica to confirm
    await using alone = await openSink({ ...options, replicas: 0 }, context).catch(async () => {
      await delay(3000)
      return openSink({ ...options, replicas: 0 }, context)
    })
    expect(alone.resume).toEqual(first.end)
    await persist(alone, batch)
    await sink.close()
    const client = new Redis({ host: set.replica.host, port: set.replica.port })
    expect(await client.dbsize()).toBe(60 * 2 + 1)
    expect(await client.hget('sluice:{shop}:applied:cache', 'offset')).toBe(String(end.offset))
    client.disconnect()
  })
})

describe('TLS and accounts', () => {
  it('are checked, and what is missing is named', async () => {
    // no more than the manual asks for
    const manual = await readFile(join(import.meta.dirname, '../../../docs/sinks/redis.md'), 'utf8')
    const listed = /`(\+evalsha[^`]*)`/.exec(manual)![1]!.replaceAll('\n', ' ')
    const user = {
      name: 'sluice',
      password: 'secret1',
      rules: `~app:* &app:* -@all ${listed} +scan +hscan`,
    }
    await using server = await privateService('redis', { tls: true, user })
    const t = table()
    const options = {
      host: server.host,
      port: server.port,
      keyPrefix: 'app:',
      rules: ['string', 'hash', 'set', 'stream', 'pubsub', 'invalidate'].map((kind) => ({
        kind,
        key: `${kind}:{id}`,
        match: `${database}.${t}`,
      })),
      username: 'sluice',
      password: 'secret1',
      tls: { ca: server.ca },
      timeoutMs: '2s',
    }
    const { batch } = await log.run(`${create(t)}; ${rows(t, 1, 3)}`)
    await using sink = await openSink(options, contextOf(mysql))
    expect(await sink.write(batch, never)).toEqual([])
    await sink.write((await log.run(`DELETE FROM ${t} WHERE id = 1`)).batch, never)
    await sink.statement!((await log.run(`TRUNCATE ${t}`)).statements[0]!, never)
    const open = (more: object) => openSink({ ...options, ...more }, contextOf(mysql))
    await expect(open({ password: 'wrong7' })).rejects.toMatchObject({ code: 'SINK_UNSUITABLE' })
    await expect(open({ password: 'wrong7' })).rejects.not.toThrow(/wrong7/)
    await expect(open({ tls: {} })).rejects.toMatchObject({ code: 'SINK_UNAVAILABLE' })
    await using loose = await open({ tls: { mode: 'required' } })
    expect(loose.resume).toBeDefined()
    const silent = { kind: 'pubsub', key: 'no', match: `${database}.${t}` }
    await using mute = await open({ keyPrefix: '', rules: [silent], cursor: false })
    await expect(mute.write(batch, never)).rejects.toMatchObject({ code: 'SINK_UNSUITABLE' })
    await using elsewhere = await open({ keyPrefix: 'other:', cursor: false })
    await expect(elsewhere.write(batch, never)).rejects.toMatchObject({ code: 'SINK_UNSUITABLE' })
  })
})

describe('a server in trouble', () => {
  it('is killed and started again, and lacks nothing', async () => {
    await using server = await privateService('redis')
    const t = table()
    const rules = [
      { kind: 'string', key: '{id}', match: `${database}.${t}` },
      { kind: 'stream', key: 'log', match: `${database}.${t}` },
    ]
    const options = { host: server.host, port: server.port, rules, timeoutMs: '1s' }
    const context = contextOf(mysql)
    await using sink = await openSink(options, context)
    await persist(sink, (await log.run(create(t))).batch)
    let last = log.position
    for (let round = 0; round < 4; round++) {
      const { batch, end } = await log.run(thousand(t, round))
      last = end
      const writing = persist(sink, batch)
      if (round % 2 === 0) await delay(round * 2)
      await server.kill()
      await delay(20)
      await server.start()
      await writing
    }
    const client = new Redis({ host: server.host, port: server.port })
    expect(await client.dbsize()).toBe(4000 * 2 + 2 + 1)
    expect(await client.xlen('log')).toBe(4000)
    expect(await client.get('3999')).toBe('{"id":3999,"v":3999}')
    await using again = await openSink(options, context)
    expect(again.resume).toEqual(last)
    client.disconnect()
  })
  it('is full, and takes what it refused when it has room', async () => {
    await using server = await privateService('redis', {
      settings: { 'maxmemory-policy': 'noeviction' },
    })
    const client = new Redis({ host: server.host, port: server.port })
    const t = table()
    const rules = [{ kind: 'string', key: '{id}', match: `${database}.${t}` }]
    await using sink = await openSink(
      { host: server.host, port: server.port, rules },
      contextOf(mysql),
    )
    const { batch } = await log.run(`${create(t)}; ${rows(t, 1, 500)}`)
    await client.config('SET', 'maxmemory', '1')
    await expect(sink.write(batch, never)).rejects.toMatchObject({
      code: 'SINK_UNAVAILABLE',
      message: expect.stringContaining('OOM'),
    })
    await client.config('SET', 'maxmemory', '0')
    await persist(sink, batch)
    expect(await client.dbsize()).toBe(500 * 2 + 1)
    await client.call('REPLICAOF', '127.0.0.1', '1')
    const more = await log.run(rows(t, 501, 510))
    await expect(sink.write(more.batch, never)).rejects.toMatchObject({ code: 'SINK_UNAVAILABLE' })
    await client.call('REPLICAOF', 'NO', 'ONE')
    await persist(sink, more.batch)
    expect(await client.get('510')).toBe('{"id":510,"v":510}')
    client.disconnect()
  })
  it('does not answer, and a stop is not held up', async () => {
    await using server = await privateService('redis')
    const client = new Redis({ host: server.host, port: server.port })
    const t = table()
    const rules = [{ kind: 'string', key: '{id}', match: `${database}.${t}` }]
    const options = { host: server.host, port: server.port, rules, timeoutMs: '1m' }
    await using sink = await openSink(options, contextOf(mysql))
    const { batch } = await log.run(`${create(t)}; ${rows(t, 1, 5)}`)
    await client.call('CLIENT', 'PAUSE', '60000', 'ALL')
    const stop = new AbortController()
    const writing = sink.write(batch, stop.signal)
    setTimeout(() => stop.abort(), 100)
    await expect(writing).rejects.toMatchObject({ code: 'SINK_UNAVAILABLE' })
    client.disconnect()
    await server.kill()
  })
  it('is not there', async () => {
    const opening = openSink({ port: 1, rules: [{ kind: 'hash' }] }, contextOf(mysql))
    await expect(opening).rejects.toMatchObject({
      code: 'SINK_UNAVAILABLE',
      message: expect.stringContaining('ECONNREFUSED'),
    })
  })
})

describe('a commit that is logged and cannot be read yet', () => {
  it('keeps the key until it can be', async () => {
    await using redis = await privateService('redis')
    await using source = await privateMysql('9.7')
    const client = new Redis({ host: redis.host, port: redis.port })
    const own = await Log.open(source, 'app')
    await source.query(
      `USE app; CREATE TABLE t (id INT PRIMARY KEY, v INT); INSERT INTO t VALUES (1, 1);
       INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so';
       SET GLOBAL rpl_semi_sync_source_timeout = 600000, GLOBAL rpl_semi_sync_source_wait_point = AFTER_SYNC`,
    )
    await own.read()
    await source.query('SET GLOBAL rpl_semi_sync_source_enabled = ON')
    const rules = [{ kind: 'invalidate', key: 'row:{id}' }]
    await using sink = await openSink(
      { host: redis.host, port: redis.port, rules },
      contextOf(source),
    )
    // no replica acknowledges: the commit hangs between the log and the storage engine
    const committing = source.query('UPDATE app.t SET v = 2')
    let written = await own.read()
    while (written.batch.facts.slices.every(({ changes }) => changes.length === 0)) {
      await delay(20)
      written = await own.read()
    }
    const load = async (): Promise<string> => {
      const [row] = await source.query<{ v: number }>('SELECT v FROM app.t')
      await client.set('row:1', `${row!.v}`)
      return `${row!.v}`
    }
    expect(await load()).toBe('1')
    let done = false
    const writing = sink.write(written.batch, never).then(() => (done = true))
    await delay(1500)
    expect(done).toBe(false)
    expect(await client.get('row:1')).toBe('1')
    await source.query('SET GLOBAL rpl_semi_sync_source_enabled = OFF')
    await committing
    await writing
    expect(await client.get('row:1')).toBeNull()
    expect(await load()).toBe('2')
    client.disconnect()
  })
})
