/**
 * The Redis sink on a real Redis, fed with what a real MySQL logged: documents, members and entries, fences, tombstones,
 * moves between keys, TRUNCATE. The position: redis/position.sink.test.ts.
 */
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Sink } from '../../src/sinks/sink.ts'
import { type MysqlServer, sharedMysql, uniqueDatabase, versions } from '../support/mysql.ts'
import { sharedService } from '../support/services.ts'
import { contextOf, Log, never, openSink, withHighest } from './redis/log.ts'

let mysql: MysqlServer
let client: Redis
const where = (): { host: string; port: number } => {
  const { host, port } = sharedService('redis')
  return { host, port }
}
const database = uniqueDatabase('cache')
const prefix = `${database}:`
let log: Log
let tables = 0
const table = (): string => `t${tables++}`

beforeAll(async () => {
  mysql = await sharedMysql(versions[0]!)
  log = await Log.open(mysql, database)
  client = new Redis(where())
})
afterAll(async () => {
  await mysql.query(`DROP DATABASE IF EXISTS ${database}`)
  await mysql[Symbol.asyncDispose]()
  client.disconnect()
})

const open = (rules: readonly Record<string, unknown>[], options: Record<string, unknown> = {}) =>
  openSink(
    { ...where(), keyPrefix: prefix, rules, ...options },
    contextOf(mysql, { sink: table() }),
  )
/** Runs SQL and has the sink write what was logged. */
async function write(sink: Sink, sql: string): Promise<void> {
  const { batch } = await log.run(sql)
  expect(await sink.write(batch, never)).toEqual([])
}
const version = (key: string): Promise<string | null> =>
  client.get(`${prefix}sluice:v:{${prefix}${key}}`)

describe('documents', () => {
  it('are in step with their rows: insert, update, delete', async () => {
    const t = table()
    await using sink = await open([{ kind: 'string', match: `${database}.${t}` }])
    expect(sink.promise).toBe('fenced')
    await write(
      sink,
      `CREATE TABLE ${t} (id INT PRIMARY KEY, name VARCHAR(20), price DECIMAL(8,2)); INSERT INTO ${t} VALUES (1, 'tea', 2.50), (2, 'Ćaj "x"', NULL)`,
    )
    const key = (id: number): string => `${prefix}${database}:${t}:${id}`
    expect(await client.get(key(1))).toBe('{"id":1,"name":"tea","price":"2.50"}')
    expect(await client.get(key(2))).toBe('{"id":2,"name":"Ćaj \\"x\\"","price":null}')
    await write(sink, `UPDATE ${t} SET price = 3 WHERE id = 1; DELETE FROM ${t} WHERE id = 2`)
    expect(await client.get(key(1))).toBe('{"id":1,"name":"tea","price":"3.00"}')
    expect(await client.get(key(2))).toBeNull()
    expect(await client.pttl(`${prefix}sluice:v:{${key(2)}}`)).toBeGreaterThan(6 * 86_400_000)
    expect(await client.pttl(`${prefix}sluice:v:{${key(1)}}`)).toBe(-1)
  })
  it('move when what their key is made of changes', async () => {
    const t = table()
    await using sink = await open([
      { kind: 'string', match: `${database}.${t}`, key: 'm:{email}', fields: ['id'] },
      { kind: 'hash', match: `${database}.${t}`, key: 'n:{key}' },
    ])
    await write(
      sink,
      `CREATE TABLE ${t} (id INT PRIMARY KEY, email VARCHAR(20)); INSERT INTO ${t} VALUES (1, 'a@b'); UPDATE ${t} SET email = 'c@d'; UPDATE ${t} SET id = 7`,
    )
    expect(await client.get(`${prefix}m:a@b`)).toBeNull()
    expect(await client.get(`${prefix}m:c@d`)).toBe('{"id":7}')
    expect(await client.hgetall(`${prefix}n:1`)).toEqual({})
    expect(await client.hgetall(`${prefix}n:7`)).toEqual({ id: '7', email: 'c@d' })
  })
  it('expire where a time to live is set, their version later', async () => {
    const t = table()
    await using sink = await open([
      { kind: 'hash', match: `${database}.${t}`, key: 'e:{id}', ttlMs: '1h' },
    ])
    await write(sink, `CREATE TABLE ${t} (id INT PRIMARY KEY); INSERT INTO ${t} VALUES (1)`)
    const ttl = await client.pttl(`${prefix}e:1`)
    expect(ttl).toBeGreaterThan(3_000_000)
    expect(ttl).toBeLessThanOrEqual(3_600_000)
    expect(await client.pttl(`${prefix}sluice:v:{${prefix}e:1}`)).toBeGreaterThan(6 * 86_400_000)
  })
  it('are written in many calls when there are many rows, and large ones', async () => {
    const t = table()
    await using sink = await open([{ kind: 'string', match: `${database}.${t}`, key: 'b:{id}' }])
    await write(
      sink,
      `CREATE TABLE ${t} (id INT PRIMARY KEY, x LONGTEXT); SET cte_max_recursion_depth = 10000; INSERT INTO ${t} WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) SELECT i, REPEAT('x', i MOD 100) FROM n; INSERT INTO ${t} VALUES (0, REPEAT('€', 1000000))`,
    )
    for (const id of [1, 99, 256, 257, 3000])
      expect(await client.get(`${prefix}b:${id}`)).toBe(
        JSON.stringify({ id, x: 'x'.repeat(id % 100) }),
      )
    expect(await client.get(`${prefix}b:0`)).toBe(
      JSON.stringify({ id: 0, x: '€'.repeat(1_000_000) }),
    )
  })
  it('of a hash follow changed columns alone, and say what they lack', async () => {
    const t = table()
    await using sink = await open([{ kind: 'hash', match: `${database}.${t}`, key: 'p:{key}' }])
    await write(
      sink,
      `CREATE TABLE ${t} (id INT PRIMARY KEY, a INT, b INT); INSERT INTO ${t} VALUES (1, 1, 1), (2, 2, 2); SET SESSION binlog_row_image = MINIMAL; UPDATE ${t} SET a = 5; UPDATE ${t} SET b = NULL WHERE id = 1`,
    )
    expect(await client.hgetall(`${prefix}p:1`)).toEqual({ id: '1', a: '5' })
    expect(await client.hgetall(`${prefix}p:2`)).toEqual({ id: '2', a: '5', b: '2' })
    await client.del(`${prefix}p:2`)
    const partial = `SET SESSION binlog_row_image = MINIMAL; UPDATE ${t} SET a = 6`
    const failures = await sink.write((await log.run(partial)).batch, never)
    expect(failures.map(({ index }) => index)).toEqual([1])
    expect(failures[0]!.error.message).toMatch(
      /no hash to add it to; expected binlog_row_image=FULL/,
    )
    expect(await client.hget(`${prefix}p:1`, 'a')).toBe('6')
    await using text = await open([{ kind: 'string', match: `${database}.${t}`, key: 'q:{key}' }])
    const [failure] = await text.write((await log.run(partial.replace('6', '7'))).batch, never)
    expect(failure!.error).toMatchObject({
      code: 'SINK_DATA',
      message: expect.stringMatching(/binlog_row_image=FULL/),
    })
  })
})

describe('fences', () => {
  const setUp = async () => {
    const t = table()
    const key = `f${t}:1`
    const sink = await open([{ kind: 'string', match: `${database}.${t}`, key: `f${t}:{id}` }])
    const first = await log.run(
      `CREATE TABLE ${t} (id INT PRIMARY KEY, v INT); INSERT INTO ${t} VALUES (1, 1)`,
    )
    const second = await log.run(`UPDATE ${t} SET v = 2`)
    const third = await log.run(`DELETE FROM ${t}`)
    const value = async (): Promise<string | null> => client.get(`${prefix}${key}`)
    return { t, key, sink, first: first.batch, second: second.batch, third: third.batch, value }
  }
  it('let a replay pass without an effect', async () => {
    const { sink, first, second, third, value, key } = await setUp()
    const { highest } = third
    for (const batch of [first, second]) await sink.write(batch, never)
    const marked = await version(key)
    expect(await sink.write(withHighest(first, highest), never)).toEqual([])
    expect(await value()).toBe('{"id":1,"v":2}')
    expect(await version(key)).toBe(marked)
    await sink.write(third, never)
    for (const batch of [first, second, third])
      expect(await sink.write(withHighest(batch, highest), never)).toEqual([])
    expect(await value()).toBeNull()
    await sink.close()
  })
  it('stop a writer whose target is ahead of all it ever wrote', async () => {
    const { sink, first, second, third, value, t } = await setUp()
    for (const batch of [first, second]) await sink.write(batch, never)
    await expect(sink.write(withHighest(first, first.highest), never)).rejects.toMatchObject({
      code: 'TARGET_AHEAD',
      message: expect.stringContaining(`${database}.${t}`),
    })
    await sink.write(third, never)
    await expect(sink.write(second, never)).rejects.toMatchObject({ code: 'TARGET_AHEAD' })
    expect(await value()).toBeNull()
    await sink.close()
  })
  it('hold between two writers at once, one of them stale', async () => {
    const { t, sink, first, second, third } = await setUp()
    await sink.close()
    const rules = [{ kind: 'string', match: `${database}.${t}`, key: `two${t}:{id}` }]
    const { highest } = third
    const options = { ...where(), keyPrefix: prefix, rules, cursor: false }
    await using a = await openSink(options, contextOf(mysql))
    await using b = await openSink(options, contextOf(mysql))
    for (let i = 0; i < 20; i++) {
      await Promise.all([
        a.write(withHighest(first, highest), never),
        b.write(withHighest(second, highest), never),
      ])
      expect(await client.get(`${prefix}two${t}:1`)).toBe('{"id":1,"v":2}')
    }
    await Promise.all([
      a.write(withHighest(third, highest), never),
      b.write(withHighest(first, highest), never),
    ])
    expect(await client.get(`${prefix}two${t}:1`)).toBeNull()
  })
  it('make a younger start of the same sink the only writer of its position', async () => {
    const t = table()
    const rules = [{ kind: 'string', match: `${database}.${t}`, key: `y${t}:{id}` }]
    const options = { ...where(), keyPrefix: prefix, rules }
    const at = (fence: number) => contextOf(mysql, { sink: `y${t}`, fence })
    await using old = await openSink(options, at(3))
    const first = await log.run(
      `CREATE TABLE ${t} (id INT PRIMARY KEY); INSERT INTO ${t} VALUES (1)`,
    )
    await old.write(first.batch, never)
    await using young = await openSink(options, at(4))
    expect(young.resume).toEqual(first.end)
    const second = await log.run(`INSERT INTO ${t} VALUES (2)`)
    await young.write(second.batch, never)
    await expect(old.write(second.batch, never)).rejects.toMatchObject({
      code: 'TARGET_AHEAD',
      message: expect.stringContaining('younger'),
    })
    // local state was lost: the count of starts begins anew, and still wins
    await using anew = await openSink(options, at(1))
    expect(anew.resume).toEqual(second.end)
    await anew.write((await log.run(`INSERT INTO ${t} VALUES (3)`)).batch, never)
    await expect(young.write(second.batch, never)).rejects.toMatchObject({ code: 'TARGET_AHEAD' })
  })
  it('keep instances apart: their versions do not compare', async () => {
    const { t, sink, first } = await setUp()
    await sink.write(first, never)
    const rules = [{ kind: 'string', match: `${database}.${t}`, key: `f${t}:{id}` }]
    const context = contextOf(mysql, { instance: 'other' })
    await using other = await openSink({ ...where(), keyPrefix: prefix, rules }, context)
    const [failure] = await other.write(first, never)
    expect(failure!.error.message).toMatch(/belongs to shop\/.*expected other/)
    await sink.close()
  })
  it('report a key of another type as the failure of its row', async () => {
    const t = table()
    await using sink = await open([{ kind: 'hash', match: `${database}.${t}`, key: `w${t}:{id}` }])
    await client.set(`${prefix}w${t}:2`, 'taken')
    const { batch } = await log.run(
      `CREATE TABLE ${t} (id INT PRIMARY KEY); INSERT INTO ${t} VALUES (1), (2), (3)`,
    )
    const failures = await sink.write(batch, never)
    expect(failures).toHaveLength(1)
    expect(failures[0]).toMatchObject({ index: 1, retryable: false, error: { code: 'SINK_DATA' } })
    expect(failures[0]!.error.message).toMatch(/WRONGTYPE/)
    expect(await client.hgetall(`${prefix}w${t}:3`)).toEqual({ id: '3' })
    // and the position stays before it
    expect(await version(`w${t}:2`)).toBeNull()
  })
})

describe('sets and sorted sets', () => {
  it('have a member for each row, with fences of their own', async () => {
    const t = table()
    const rules = [
      { kind: 'set', match: `${database}.${t}`, key: `s${t}:{who}`, member: '{friend}' },
      {
        kind: 'zset',
        match: `${database}.${t}`,
        key: `z${t}`,
        member: '{who}-{friend}',
        score: 'points',
      },
      { kind: 'zset', match: `${database}.${t}`, key: `d${t}`, member: '{key}', score: 'since' },
    ]
    await using sink = await open(rules)
    const first = await log.run(
      `CREATE TABLE ${t} (who INT, friend INT, points DOUBLE, since DATETIME(3), PRIMARY KEY (who, friend)); INSERT INTO ${t} VALUES (1, 2, 1.5, '2024-02-29 12:00:00.250'), (1, 3, -2, NULL), (2, 3, 1e10, '1970-01-01 00:00:01')`,
    )
    await sink.write(first.batch, never)
    expect((await client.smembers(`${prefix}s${t}:1`)).sort()).toEqual(['2', '3'])
    expect(await client.zrange(`${prefix}z${t}`, '0', '-1', 'WITHSCORES')).toEqual([
      '1-3',
      '-2',
      '1-2',
      '1.5',
      '2-3',
      '10000000000',
    ])
    expect(await client.zrange(`${prefix}d${t}`, '0', '-1', 'WITHSCORES')).toEqual([
      '2:3',
      '1',
      '1:2',
      '1709208000.25',
    ])
    const second = await log.run(
      `UPDATE ${t} SET who = 5 WHERE who = 1 AND friend = 2; DELETE FROM ${t} WHERE who = 1; UPDATE ${t} SET points = 7`,
    )
    await sink.write(second.batch, never)
    const now = async (): Promise<unknown[]> => [
      await client.smembers(`${prefix}s${t}:1`),
      await client.smembers(`${prefix}s${t}:5`),
      await client.zrange(`${prefix}z${t}`, '0', '-1', 'WITHSCORES'),
    ]
    const expected = [[], ['2'], ['2-3', '7', '5-2', '7']]
    expect(await now()).toEqual(expected)
    await sink.write(withHighest(first.batch, second.batch.highest), never)
    expect(await now()).toEqual(expected)
    await expect(sink.write(first.batch, never)).rejects.toMatchObject({ code: 'TARGET_AHEAD' })
  })
  it('forget tombstones of members when their time is over', async () => {
    const t = table()
    const rules = [{ kind: 'set', match: `${database}.${t}`, key: `g${t}`, member: '{id}' }]
    await using sink = await open(rules, { tombstoneTtlMs: '1s' })
    await write(
      sink,
      `CREATE TABLE ${t} (id INT PRIMARY KEY); INSERT INTO ${t} VALUES (1), (2), (3); DELETE FROM ${t} WHERE id = 1`,
    )
    const fences = `${prefix}sluice:v:{${prefix}g${t}}`
    expect(await client.hlen(fences)).toBe(3)
    const dead = `${prefix}sluice:d:{${prefix}g${t}}`
    await client.zadd(dead, '1', '1') // long ago
    await write(sink, `DELETE FROM ${t} WHERE id = 2`)
    expect((await client.hkeys(fences)).sort()).toEqual(['2', '3'])
    await write(sink, `DELETE FROM ${t} WHERE id = 3`)
    for (const key of [fences, dead]) expect(await client.pttl(key)).toBeGreaterThan(0)
    await write(sink, `INSERT INTO ${t} VALUES (4)`)
    expect(await client.pttl(fences)).toBe(-1)
  })
  it('refuse a score that is no number', async () => {
    const t = table()
    await using sink = await open([
      { kind: 'zset', match: `${database}.${t}`, key: `n${t}`, member: '{id}', score: 's' },
    ])
    const { batch } = await log.run(
      `CREATE TABLE ${t} (id INT PRIMARY KEY, s VARCHAR(9)); INSERT INTO ${t} VALUES (1, 'ten'), (2, '10')`,
    )
    const failures = await sink.write(batch, never)
    expect(failures.map(({ error }) => error.message)).toEqual([
      expect.stringMatching(/score: expected a number or a date in s, found "ten"/),
    ])
    expect(await client.zscore(`${prefix}n${t}`, '2')).toBe('10')
  })
})

describe('streams and channels', () => {
  it('have every change once, in order, however often it is written', async () => {
    const t = table()
    await using sink = await open([
      { kind: 'stream', match: `${database}.${t}`, key: 'st:{table}' },
    ])
    expect(sink.promise).toBe('append')
    const { batch } = await log.run(
      `CREATE TABLE ${t} (id INT PRIMARY KEY, v INT); INSERT INTO ${t} VALUES (1, 1), (2, 2); UPDATE ${t} SET v = 9 WHERE id = 1; DELETE FROM ${t} WHERE id = 2`,
    )
    for (let i = 0; i < 3; i++) await sink.write(batch, never)
    const entries = await client.xrange(`${prefix}st:${t}`, '-', '+')
    const fields = entries.map(([, list]) =>
      Object.fromEntries(list.flatMap((name, i) => (i % 2 === 0 ? [[name, list[i + 1]!]] : []))),
    )
    expect(fields.map(({ op, data, old }) => [op, data, old])).toEqual([
      ['insert', '{"id":1,"v":1}', undefined],
      ['insert', '{"id":2,"v":2}', undefined],
      ['update', '{"id":1,"v":9}', '{"v":1}'],
      ['delete', '{"id":2,"v":2}', undefined],
    ])
    expect(fields[0]).toMatchObject({
      table: `${database}.${t}`,
      version: expect.stringMatching(/^[0-9a-f]{40}$/),
    })
    await sink.statement!((await log.run(`TRUNCATE ${t}`)).statements[0]!, never)
    expect(
      (await client.xrevrange(`${prefix}st:${t}`, '+', '-', 'COUNT', 1))[0]![1].slice(0, 2),
    ).toEqual(['op', 'truncate'])
  })
  it('tell who listens', async () => {
    const t = table()
    await using sink = await open([
      { kind: 'pubsub', match: `${database}.${t}`, key: 'ch:{table}' },
    ])
    const listener = new Redis(where())
    await listener.subscribe(`${prefix}ch:${t}`)
    const heard: unknown[] = []
    const all = new Promise<void>((resolve) =>
      listener.on('message', (_, text) => {
        if (heard.push(JSON.parse(text)) === 2) resolve()
      }),
    )
    await write(
      sink,
      `CREATE TABLE ${t} (id INT PRIMARY KEY, v INT); INSERT INTO ${t} VALUES (1, 1); UPDATE ${t} SET v = 2`,
    )
    await all
    expect(heard).toMatchObject([
      { op: 'insert', table: `${database}.${t}`, data: { id: 1, v: 1 } },
      { op: 'update', data: { id: 1, v: 2 }, old: { v: 1 } },
    ])
    listener.disconnect()
  })
})

describe('TRUNCATE', () => {
  it('clears the keys of its table and no other, and keeps older writes out', async () => {
    const [t, u] = [table(), table()]
    const only = { match: `${database}.(${t}|${u})` }
    const rules = [
      { kind: 'string', ...only, key: '{{tr}}:{table}:{key}' },
      { kind: 'hash', ...only, key: 'tr:{key}:{table}' },
      { kind: 'set', ...only, key: 'tr:all', member: '{table}{key}' },
    ]
    await using sink = await open(rules)
    expect(sink.clears).toBe(true)
    const rows = `(SELECT 1 AS id UNION SELECT 2)`
    const first = await log.run(
      `CREATE TABLE ${t} (id INT PRIMARY KEY); CREATE TABLE ${u} (id INT PRIMARY KEY); INSERT INTO ${t} ${rows}; INSERT INTO ${u} ${rows}`,
    )
    await sink.write(first.batch, never)
    const keys = async (): Promise<string[]> =>
      (await client.keys(`${prefix}*tr*`)).filter((k) => !k.includes('sluice:')).sort()
    const ofTable = (name: string): string[] =>
      ['1', '2'].flatMap((id) => [`${prefix}tr:${id}:${name}`, `${prefix}{tr}:${name}:${id}`])
    expect(await keys()).toEqual([...ofTable(t), ...ofTable(u), `${prefix}tr:all`].sort())
    const { statements, end } = await log.run(`TRUNCATE TABLE ${t}`)
    await sink.statement!(statements[0]!, never)
    const left = [...ofTable(u), `${prefix}tr:all`].sort()
    expect(await keys()).toEqual(left)
    expect((await client.smembers(`${prefix}tr:all`)).sort()).toEqual([`${u}1`, `${u}2`])
    const highest = (await log.run(`INSERT INTO ${u} VALUES (3)`)).batch.highest
    await sink.write(withHighest(first.batch, highest), never)
    expect(await keys()).toEqual(left)
    expect(end.offset).toBeGreaterThan(0)
    await sink.write((await log.run(`INSERT INTO ${t} VALUES (1)`)).batch, never)
    await sink.statement!(statements[0]!, never) // again: what came after it stays
    expect(await client.get(`${prefix}{tr}:${t}:1`)).toBe('{"id":1}')
  })
  it('is beyond what deletes keys of an application', async () => {
    await using sink = await open([{ kind: 'invalidate', key: 'x:{key}' }])
    expect(sink.clears).toBe(false)
  })
})
