/**
 * Redis and Elasticsearch: what the sink has written is equal; a seeded difference of each kind is found and shown with both
 * values. What cannot be compared is said.
 */
import { Redis } from 'ioredis'
import { Kafka, logLevel } from 'kafkajs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import * as types from '../binlog/types.ts'
import fc from 'fast-check'
import { sharedMysql, uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import { sharedService } from '../support/services.ts'
import { Pair } from './rig.ts'

let server: MysqlServer
const database = uniqueDatabase('verdoc')
beforeAll(async () => {
  server = await sharedMysql('9.7')
  await server.query(`CREATE DATABASE ${database}`)
})
afterAll(async () => {
  await server.query(`DROP DATABASE IF EXISTS ${database}`)
  await server[Symbol.asyncDispose]()
})

/** One table of all types, keyed by two columns. */
async function createAll(table: string, json = types.documents[0]!): Promise<void> {
  const specs = [...types.numbers, ...types.temporals, ...types.strings, json]
  const columns = specs.map((s, i) => `c${i} ${s.sql}`)
  const source = await server.connect({ database })
  await source.query("SET sql_mode='ALLOW_INVALID_DATES', time_zone='+00:00', NAMES utf8mb4")
  await source.query(
    `CREATE TABLE ${table} (a INT, b VARCHAR(20), ${columns.join(', ')}, PRIMARY KEY (a, b))`,
  )
  const rows = fc.sample(
    fc.tuple(...specs.map((s) => fc.option(s.values, { nil: 'NULL', freq: 8 }))),
    { numRuns: 40 },
  )
  await source.query(
    `INSERT INTO ${table} VALUES ${rows.map((row, i) => `(${[i % 3, `'k:${i}'`, ...row].join(', ')})`).join(', ')}`,
  )
  await source.end()
}

describe('Redis', () => {
  const { host, port } = sharedService('redis')
  const options = (rules: object[], include: string): object => ({
    type: 'redis',
    host,
    port,
    keyPrefix: `${database}:`,
    rules,
    filter: { include: `${database}\\.${include}` },
  })

  it.each(['hash', 'string'] as const)(
    'finds a %s of all types equal, and each difference',
    async (kind) => {
      const table = `r_${kind}`
      const pair = await Pair.start(
        server,
        database,
        options([{ kind, key: '{table}:{key}' }], table),
      )
      await createAll(table)
      await pair.write()
      expect(await pair.verify()).toMatchObject({
        result: 'equal',
        tables: [{ why: '', rows: 40, keys: 40 }],
      })

      const client = new Redis({ host, port })
      const at = (rest: string): string => `${database}:${table}:${rest}`
      await client.del(at('0:k\\:0'))
      if (kind === 'hash') {
        await client.hset(at('1:k\\:1'), 'c0', '77')
        await client.hset(at('0:k\\:39'), 'c1', 'x')
        await client.hset(at('9:gone'), 'a', '9')
      } else {
        await client.set(at('1:k\\:1'), '{"a":1,"b":"k:1","c0":77}')
        await client.set(at('0:k\\:39'), 'x')
        await client.set(at('9:gone'), '{"a":9}')
      }
      const report = await pair.verify()
      expect(report.tables).toMatchObject([{ missing: 1, different: 2, extra: 1 }])
      const find = (what: string) => report.differences.find((d) => d.kind === what)
      expect(find('missing')).toMatchObject({ key: { a: '0', b: 'k:0' }, expected: { b: 'k:0' } })
      expect(find('extra')).toMatchObject({ key: { key: at('9:gone') }, found: { a: '9' } })
      const changed = report.differences.find((d) => d.key['b'] === 'k:1')
      expect(changed).toMatchObject({ kind: 'different', found: { c0: '77' } })
      client.disconnect()
      await pair.close()
    },
  )

  it('says which tables cannot be compared, and leaves keys of others alone', async () => {
    await server.query(
      `CREATE TABLE ${database}.s_stream (id INT PRIMARY KEY, v INT); CREATE TABLE ${database}.s_other (id INT PRIMARY KEY, name VARCHAR(9));
       CREATE TABLE ${database}.s_ttl (id INT PRIMARY KEY, v INT)`,
    )
    const rules = [
      { kind: 'stream', match: '.*\\.s_stream', key: 'log' },
      { kind: 'hash', match: '.*\\.s_other', key: 'by:{name}' },
      { kind: 'hash', match: '.*\\.s_ttl', key: 'same:{key}', ttlMs: '1h' },
      { kind: 'hash', match: '.*\\.s_two', key: 'same:{key}' },
    ]
    const pair = await Pair.start(server, database, options(rules, 's_.*'))
    await server.query(`CREATE TABLE ${database}.s_two (id INT PRIMARY KEY, v INT)`)
    await server.query(
      `INSERT INTO ${database}.s_ttl VALUES (1, 1); INSERT INTO ${database}.s_two VALUES (2, 2)`,
    )
    await pair.write()
    const client = new Redis({ host, port })
    await client.del(`${database}:same:1`)
    const report = await pair.verify()
    expect(report.result).toBe('incomplete')
    expect(report.tables).toMatchObject([
      {
        table: `${database}.s_other`,
        why: expect.stringContaining('expected the whole key of the source in it, id is not'),
      },
      { table: `${database}.s_stream`, why: expect.stringContaining('kind stream') },
      { table: `${database}.s_ttl`, why: '', missing: 0, extra: 0 },
      { table: `${database}.s_two`, why: '', missing: 0, extra: 0 },
    ])
    client.disconnect()
    await pair.close()
  })
})

describe('Elasticsearch', () => {
  const { url } = sharedService('elasticsearch')
  const ask = async (method: string, path: string, body?: object): Promise<number> => {
    const init = { method, headers: { 'content-type': 'application/json' } }
    const { status } = await fetch(
      `${url}${path}`,
      body === undefined ? init : { ...init, body: JSON.stringify(body) },
    )
    return status
  }

  it('finds documents of all types equal, and each difference', async () => {
    const pair = await Pair.start(server, database, {
      type: 'elasticsearch',
      nodes: url,
      cursorIndex: `${database}-cursors`,
      filter: { include: `${database}\\.e_all` },
    })
    await createAll('e_all')
    await pair.write()
    expect(await pair.verify()).toMatchObject({
      result: 'equal',
      tables: [{ why: '', rows: 40, keys: 40 }],
    })
    await server.query(`DELETE FROM ${database}.e_all WHERE b = 'k:20'`)
    await pair.write()
    expect((await pair.verify()).result).toBe('equal')
    const index = `${database}-e_all-v1`
    const doc = (id: string): string => `/${index}/_doc/${encodeURIComponent(id)}`
    expect(await ask('DELETE', doc('0:k\\:0'))).toBe(200)
    expect(
      await ask('POST', `/${index}/_update/${encodeURIComponent('0:k\\:39')}`, { doc: { c0: 77 } }),
    ).toBe(200)
    expect(await ask('PUT', doc('9:gone'), { a: 9 })).toBe(201)
    expect(await ask('PUT', doc('nobody'), { a: 10 })).toBe(201)
    const report = await pair.verify()
    expect(report.tables).toMatchObject([{ missing: 1, different: 1, extra: 2 }])
    expect(report.differences).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ kind: 'missing', key: { a: '0', b: 'k:0' } }),
        expect.objectContaining({
          kind: 'different',
          key: { a: '0', b: 'k:39' },
          found: { c0: '77' },
        }),
        expect.objectContaining({ kind: 'extra', key: { _id: '9:gone' }, found: { a: '9' } }),
        expect.objectContaining({ kind: 'extra', key: { _id: 'nobody' }, found: { a: '10' } }),
      ]),
    )
    await pair.close()
    await ask('DELETE', `/${index}`)
    await ask('DELETE', `/${database}-cursors`)
  })
})

describe('Kafka', () => {
  const { host, port } = sharedService('kafka')

  it.each(['debezium', 'maxwell', 'canal-json'] as const)(
    'finds a compacted topic of %s equal, and each difference',
    async (format) => {
      const table = `k_${format.replace('-', '_')}`
      const topic = `${database}.${table}`
      const config = {
        type: 'kafka',
        brokers: [`${host}:${port}`],
        format,
        tombstones: true,
        ...(format === 'canal-json' ? { key: '{key}' } : {}),
        filter: { include: `${database}\\.${table}` },
      }
      const kafka = new Kafka({ brokers: config.brokers, logLevel: logLevel.NOTHING })
      const admin = kafka.admin()
      await admin.connect()
      await admin.createTopics({ topics: [{ topic, numPartitions: 2 }], waitForLeaders: true })
      const pair = await Pair.start(server, database, config)
      // Canal's form of the document is not known of members that MySQL alone has types for
      const values = fc
        .jsonValue({ stringUnit: 'grapheme-ascii', maxDepth: 3 })
        .map((v) => `CAST(_utf8mb4 X'${Buffer.from(JSON.stringify(v)).toString('hex')}' AS JSON)`)
      await createAll(table, { ...types.documents[0]!, values })
      await server.query(
        `UPDATE ${database}.${table} SET c0 = 5 WHERE b = 'k:3'; DELETE FROM ${database}.${table} WHERE b = 'k:4'`,
      )
      await pair.write()
      expect((await pair.verify()).tables[0]!.why).toContain(
        'is not compacted (cleanup.policy=delete)',
      )
      const compact = [{ name: 'cleanup.policy', value: 'compact' }]
      await admin.alterConfigs({
        validateOnly: false,
        resources: [{ type: 2, name: topic, configEntries: compact }],
      })
      const before = await pair.verify()
      expect(before.differences).toEqual([])
      expect(before).toMatchObject({ result: 'equal', tables: [{ why: '', rows: 39 }] })

      const messages = await readAll(kafka, topic)
      const of = (b: string) =>
        messages.findLast(({ key, value }) => key.replace('\\', '').includes(b) && value !== '')!
      const producer = kafka.producer()
      await producer.connect()
      const send = (at: (typeof messages)[number], value: string | null, key = at.key) =>
        producer.send({ topic, messages: [{ key, value, partition: at.partition }] })
      await send(of('k:0'), null)
      await send(of('k:39'), of('k:39').value.replaceAll('k:39', 'k:77'))
      await send(
        of('k:5'),
        of('k:5').value.replaceAll('k:5', 'nobody'),
        of('k:5').key.replace(/k\\?:5/, 'nobody'),
      )
      await producer.disconnect()
      await admin.disconnect()
      const report = await pair.verify()
      expect(report.tables).toMatchObject([{ missing: 1, different: 1, extra: 1 }])
      expect(report.differences).toEqual(
        expect.arrayContaining([
          expect.objectContaining({ kind: 'missing', key: { a: '0', b: 'k:0' } }),
          expect.objectContaining({
            kind: 'different',
            key: { a: '0', b: 'k:39' },
            expected: { b: 'k:39' },
            found: { b: 'k:77' },
          }),
          expect.objectContaining({
            kind: 'extra',
            found: expect.objectContaining({ b: 'nobody' }),
          }),
        ]),
      )
      await pair.close()
    },
  )
})

async function readAll(kafka: Kafka, topic: string) {
  const found: { key: string; value: string; partition: number }[] = []
  const admin = kafka.admin()
  await admin.connect()
  const ends = await admin.fetchTopicOffsets(topic)
  await admin.disconnect()
  let left = ends.reduce((sum, { high }) => sum + Number(high), 0)
  const consumer = kafka.consumer({ groupId: topic })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await new Promise<void>((resolve) => {
    void consumer.run({
      eachMessage: async ({ partition, message: { key, value } }) => {
        found.push({ key: String(key), value: value === null ? '' : String(value), partition })
        if (--left === 0) resolve()
      },
    })
  })
  await consumer.disconnect()
  return found
}

it('other sinks are refused', async () => {
  const pair = await Pair.start(server, database, { type: 'http', url: 'http://127.0.0.1:1/' })
  await expect(pair.verify()).rejects.toThrow(
    /sink test \(http\) cannot be verified: what a receiver/,
  )
})
