/**
 * The Redis sink's position in Redis and the token of read-your-writes, invalidation, and what it says when something does
 * not fit.
 */
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { GTID_APPLIED, waitApplied } from '../../../src/sinks/redis/applied.ts'
import { GtidSet } from '../../../src/gtid.ts'
import { SinkBatch } from '../../../src/sinks/shape/batch.ts'
import type { Sink } from '../../../src/sinks/sink.ts'
import { type MysqlServer, sharedMysql, uniqueDatabase, versions } from '../../support/mysql.ts'
import { sharedService } from '../../support/services.ts'
import { contextOf, Log, never, openSink, withHighest } from './log.ts'

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
/** As any client would send it. */
const lua = (script: string, key: string, arg: string): Promise<unknown> =>
  client.eval(script, '1', key, arg) as Promise<unknown>

describe('the position in Redis', () => {
  it('moves with the rows and is where a new start goes on', async () => {
    const t = table()
    const context = contextOf(mysql, { sink: `pos${t}`, fence: 1 })
    const options = {
      ...where(),
      keyPrefix: prefix,
      rules: [{ kind: 'string', match: `${database}.${t}` }],
    }
    await using sink = await openSink(options, context)
    expect(sink.resume).toBeUndefined()
    const { batch, end } = await log.run(
      `CREATE TABLE ${t} (id INT PRIMARY KEY); INSERT INTO ${t} VALUES (1), (2)`,
    )
    // a slice is not all of it
    await sink.write(batch.slice(0, 1), never)
    await using early = await openSink(options, context)
    expect(early.resume).toBeUndefined()
    await sink.write(batch, never)
    await using late = await openSink(options, context)
    expect(late.resume).toEqual(end)
    const key = `${prefix}sluice:{shop}:applied:pos${t}`
    expect(await client.hget(key, 'gtids')).toBe(end.gtids!.toString())
    // an older batch, delivered again, does not take it back
    await sink.write(
      withHighest(new SinkBatch({ ...batch.facts, end: batch.start }), batch.highest),
      never,
    )
    expect(await client.hget(key, 'offset')).toBe(String(end.offset))
    // what was confirmed and is gone is an error, not a gap
    await client.del(key)
    await expect(
      sink.write((await log.run(`INSERT INTO ${t} VALUES (3)`)).batch, never),
    ).rejects.toMatchObject({
      code: 'SINK_UNSUITABLE',
      message: expect.stringContaining('lost what it confirmed'),
    })
  })
  it('answers an application that asks for its own transaction', async () => {
    const t = table()
    const name = `ryw${t}`
    const options = {
      ...where(),
      keyPrefix: prefix,
      rules: [{ kind: 'string', match: `${database}.${t}` }],
    }
    await using sink = await openSink(options, contextOf(mysql, { sink: name }))
    await write(sink, `CREATE TABLE ${t} (id INT PRIMARY KEY)`)
    const { batch, end } = await log.run(`INSERT INTO ${t} VALUES (1)`)
    const { tx } = batch.facts.slices.at(-1)!
    const gtids = `${tx.gtid!.sid}:${tx.gtid!.gno}`
    const wait = { instance: 'shop', sink: name, keyPrefix: prefix }
    expect(await waitApplied(client, { gtids }, { ...wait, timeoutMs: 20 })).toBe(false)
    const key = `${prefix}sluice:{shop}:applied:${name}`
    expect(await lua(GTID_APPLIED, key, gtids)).toBe(0)
    const waiting = waitApplied(client, { gtids }, { ...wait, timeoutMs: 60_000 })
    await sink.write(batch, never)
    expect(await waiting).toBe(true)
    expect(await waitApplied(client, { file: end.file, offset: end.offset }, wait)).toBe(true)
    expect(
      await waitApplied(
        client,
        { file: end.file, offset: end.offset + 1 },
        { ...wait, timeoutMs: 0 },
      ),
    ).toBe(false)
    expect(await lua(GTID_APPLIED, key, gtids)).toBe(1)
  })
  it('is asked in Lua as the set would answer, tags and 63 bits included', async () => {
    const uuid = '3e11fa47-71ca-11e1-9e33-c80aa9429562'
    const other = '4e11fa47-71ca-11e1-9e33-c80aa9429562'
    const set = `${uuid}:1-3:7:9223372036854775800-9223372036854775806:tag:2-4,${other}:5`
    const key = `${prefix}lua`
    await client.hset(key, 'gtids', GtidSet.parse(set).toString())
    const ids = [1, 3, 4, 7, 8, '9223372036854775799', '9223372036854775800', '9223372036854775806']
    for (const id of [
      ...ids.map((n) => `${uuid}:${n}`),
      `${uuid}:tag:1`,
      `${uuid}:tag:4`,
      `${other}:5`,
      `${other}:1`,
    ]) {
      const [, sid, gno] = /^(.+):(\d+)$/.exec(id)!
      const expected = GtidSet.parse(set).contains({ sid: sid!, gno: BigInt(gno!) })
      expect([id, await lua(GTID_APPLIED, key, id)]).toEqual([id, expected ? 1 : 0])
    }
  })
})

describe('invalidate', () => {
  it('deletes keys before and after the change', async () => {
    const t = table()
    await using sink = await open([
      { kind: 'invalidate', match: `${database}.${t}`, key: ['i:{id}', 'i:mail:{email}'] },
    ])
    const seed = ['i:1', 'i:mail:a', 'i:mail:b', 'i:2']
    await write(
      sink,
      `CREATE TABLE ${t} (id INT PRIMARY KEY, email VARCHAR(9)); INSERT INTO ${t} VALUES (1, 'a')`,
    )
    for (const key of seed) await client.set(prefix + key, 'cached')
    await write(sink, `UPDATE ${t} SET email = 'b'`)
    expect(await client.exists(...seed.map((key) => prefix + key))).toBe(1)
    expect(await client.get(`${prefix}i:2`)).toBe('cached')
  })
  it('waits once per batch until the source shows the change', async () => {
    const t = table()
    const asked: unknown[][] = []
    let late = 2
    const context = contextOf(mysql, {
      query: async <T>(sql: string, params?: readonly unknown[]): Promise<T[]> => {
        asked.push([sql, params?.[0]])
        // the first answers are those of a source whose commit hangs
        return late-- > 0 ? [{ late: 1 } as T] : mysql.query<T>(sql, params)
      },
    })
    const rules = [{ kind: 'invalidate', match: `${database}.${t}`, key: `v${t}:{id}` }]
    await using sink = await openSink({ ...where(), keyPrefix: prefix, rules }, context)
    const { batch } = await log.run(
      `CREATE TABLE ${t} (id INT PRIMARY KEY); INSERT INTO ${t} VALUES (1), (2), (3)`,
    )
    await sink.write(batch, never)
    const { tx } = batch.facts.slices.findLast(({ changes }) => changes.length > 0)!
    expect(asked).toHaveLength(3)
    expect(asked[0]![0]).toMatch(/WAIT_FOR_EXECUTED_GTID_SET/)
    expect(GtidSet.parse(asked[0]![1] as string).contains(tx.gtid!)).toBe(true)
  })
})

describe('what does not fit is said when it opens', () => {
  it('a module that is not there', async () => {
    await expect(open([{ kind: 'json' }])).rejects.toMatchObject({
      code: 'SINK_UNSUITABLE',
      message: expect.stringContaining('JSON.SET'),
    })
  })
  it('a source that logs partial rows', async () => {
    const context = contextOf(mysql, {
      query: () => Promise.resolve([{ image: 'MINIMAL' } as never]),
    })
    const opening = openSink({ ...where(), rules: [{ kind: 'string' }] }, context)
    await expect(opening).rejects.toMatchObject({
      code: 'SINK_UNSUITABLE',
      message: expect.stringMatching(/expected binlog_row_image=FULL on the source, found MINIMAL/),
    })
  })
  it('a table without a key, a column that is not there', async () => {
    const t = table()
    const { batch } = await log.run(`CREATE TABLE ${t} (a INT); INSERT INTO ${t} VALUES (1)`)
    const only = { kind: 'string', match: `${database}.${t}` }
    await using keyless = await open([only])
    await expect(keyless.write(batch, never)).rejects.toMatchObject({ code: 'SINK_UNSUITABLE' })
    await using wrong = await open([{ ...only, key: 'k:{a}', fields: ['b'] }])
    await expect(wrong.write(batch, never)).rejects.toThrow(/no column b in .*; it has a/)
  })
  it('options that contradict one another', async () => {
    for (const [options, message] of [
      [{ rules: [{ kind: 'zset' }] }, /score/],
      [{ rules: [{ kind: 'string', key: ['a', 'b'] }] }, /only invalidate takes a list/],
      [{ rules: [{ kind: 'string', key: 'a{' }] }, /lone/],
      [{ rules: [{ kind: 'set' }], cluster: ['a:1'], db: 1 }, /only database 0/],
    ] as const)
      await expect(openSink(options, contextOf(mysql))).rejects.toThrow(message)
  })
})
