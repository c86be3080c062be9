/**
 * The real command from MariaDB and MySQL 5.7 into each kind of target: what was loaded is equal, a seeded difference of each
 * kind is found and repaired, by the running server and without it.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Kafka, logLevel } from 'kafkajs'
import { expect, it } from 'vitest'
import { stringify } from 'yaml'
import type { VerifyReport } from '../../src/verify/verify.ts'
import { inProcess } from '../commands/run.ts'
import { openTarget } from '../sinks/sql/targets.ts'
import { startInstance } from '../support/instance.ts'
import { privateMysql, uniqueDatabase } from '../support/mysql.ts'
import { sharedService } from '../support/services.ts'

/** Makes one row missing, one different and one too many: those of the keys b, c and z. */
type Damage = () => Promise<void>
/** The values of the second key column. */
const KEYS = ['a', 'b', 'c', 'd']

interface Case {
  readonly version: 'mariadb-10.11' | '5.7'
  readonly search: 'elasticsearch' | 'opensearch'
  readonly second: string // the type of the second key column
  readonly keys: Readonly<Record<string, string>>
  /** What is damaged and repaired while the server runs, and then without it. */
  readonly repaired: readonly (readonly SinkName[])[]
}
type SinkName = 'my' | 'pg' | 'search' | 'topic'
const cases: readonly Case[] = [
  {
    version: 'mariadb-10.11',
    search: 'elasticsearch',
    second: 'INET6',
    keys: {
      a: '::',
      b: '::ffff:10.0.0.1',
      c: '2001:db8::c',
      d: 'fe80::1:0:0:d',
      z: '1:2:3:4:5:6:7:8',
    },
    repaired: [
      ['my', 'search', 'topic'],
      ['pg', 'topic'],
    ],
  },
  {
    version: '5.7',
    search: 'opensearch',
    second: 'VARCHAR(40)',
    keys: { a: 'ä:1', b: 'B', c: 'c, "d"', d: '', z: 'zz' },
    repaired: [['search'], ['my', 'search']],
  },
]
const uuid = (letter: string): string =>
  `00000000-0000-4000-8000-0000000000${letter.charCodeAt(0).toString(16)}`

it.each(cases)(
  '$version to SQL, $search and a compacted topic',
  async ({ version, search, second, keys, repaired }) => {
    const dir = mkdtempSync(join(tmpdir(), 'sluice-repair-'))
    await using stack = new AsyncDisposableStack()
    stack.defer(() => rmSync(dir, { recursive: true, force: true }))
    const mysql = stack.use(await privateMysql(version))
    const database = uniqueDatabase('rep')
    const first = version === '5.7' ? 'CHAR(36)' : 'UUID'
    await mysql.query(`CREATE DATABASE ${database} CHARACTER SET utf8mb4; USE ${database};
    CREATE TABLE items (id ${first} NOT NULL, k ${second} NOT NULL, v VARCHAR(20), n DECIMAL(8,2), at DATETIME(3), PRIMARY KEY (id, k));
    INSERT INTO items VALUES ${KEYS.map((key) => `('${uuid(key)}', '${keys[key]}', '${key}', 1.5, '2024-02-29 12:00:00.120')`).join(', ')}`)
    const topic = `${database}.items`
    const broker = sharedService('kafka')
    const kafka = new Kafka({
      brokers: [`${broker.host}:${broker.port}`],
      logLevel: logLevel.NOTHING,
    })
    const admin = kafka.admin()
    await admin.connect()
    stack.defer(() => admin.disconnect())
    const configEntries = [{ name: 'cleanup.policy', value: 'compact' }]
    await admin.createTopics({
      topics: [{ topic, numPartitions: 1, configEntries }],
      waitForLeaders: true,
    })
    const elastic = sharedService(search)
    const [my, pg] = [stack.use(await openTarget('mysql')), stack.use(await openTarget('postgres'))]
    const common = { initialLoad: 'ifEmpty' }
    const sql = { type: 'sql', table: '{table}', createTables: true, ...common }
    const sinks = {
      my: { ...sql, url: my.url },
      pg: { ...sql, url: pg.url },
      search: {
        type: 'elasticsearch',
        nodes: elastic.url,
        cursorIndex: `${database}-cursors`,
        ...common,
      },
      topic: {
        type: 'kafka',
        brokers: [`${broker.host}:${broker.port}`],
        format: 'debezium',
        tombstones: true,
        ...common,
      },
    }
    const { host, port, user, password } = mysql
    const file = join(dir, 'orders.yaml')
    writeFileSync(
      file,
      stringify({
        source: { host, port, user, password },
        filter: { include: `${database}\\..*` },
        sinks,
      }),
    )
    const config = join(dir, 'server.yml')
    writeFileSync(config, stringify({ dataDir: dir, instancesDir: dir }))
    const instance = startInstance('orders', file, dir)
    stack.defer(() => instance.stop())
    const loaded = (): string[] => instance.status.snapshots.map((s) => s.state)
    await expect.poll(loaded, { timeout: 60_000 }).toEqual(['done', 'done', 'done', 'done'])

    const index = `${database}-items-v1`
    const documents = async (): Promise<Map<string, string>> => {
      await fetch(`${elastic.url}/${index}/_refresh`, { method: 'POST' })
      const answer = await fetch(`${elastic.url}/${index}/_search?size=100`)
      const { hits } = (await answer.json()) as {
        hits: { hits: { _id: string; _source: { v: string } }[] }
      }
      return new Map(hits.hits.map(({ _id, _source }) => [_source.v, _id]))
    }
    const ask = async (method: string, path: string, body?: object): Promise<void> => {
      const init = { method, headers: { 'content-type': 'application/json' } }
      const answer = await fetch(
        `${elastic.url}/${index}/${path}`,
        body ? { ...init, body: JSON.stringify(body) } : init,
      )
      expect([200, 201]).toContain(answer.status)
    }
    const inSql =
      (target: typeof my): Damage =>
      async () => {
        await target.query(`DELETE FROM items WHERE v = 'b'`)
        await target.query(`UPDATE items SET n = 7 WHERE v = 'c'`)
        await target.query(
          `INSERT INTO items (id, k, v) VALUES ('${uuid('z')}', '${keys['z']}', 'z')`,
        )
      }
    const damages: Readonly<Record<SinkName, Damage>> = {
      my: inSql(my),
      pg: inSql(pg),
      search: async () => {
        const there = await documents()
        const of = (v: string): string => encodeURIComponent(there.get(v)!)
        await ask('DELETE', `_doc/${of('b')}`)
        await ask('POST', `_update/${of('c')}`, { doc: { n: 7 } })
        const extra = there.get('d')!.replace(uuid('d'), uuid('z'))
        await ask('PUT', `_doc/${encodeURIComponent(extra)}`, { v: 'z' })
      },
      topic: async () => {
        const found = new Map<string, [Buffer, string]>()
        const consumer = kafka.consumer({ groupId: `${topic}${Math.random()}` })
        await consumer.connect()
        await consumer.subscribe({ topic, fromBeginning: true })
        const [partition] = await admin.fetchTopicOffsets(topic)
        const { promise, resolve } = Promise.withResolvers<void>()
        await consumer.run({
          eachMessage: ({ message: { key, value, offset } }) => {
            const v = /"v":"(\w+)"/.exec(String(value))?.[1]
            if (v !== undefined) found.set(v, [key!, String(value)])
            if (Number(offset) === Number(partition!.high) - 1) resolve()
            return Promise.resolve()
          },
        })
        await promise
        await consumer.disconnect()
        const [b, c, d] = ['b', 'c', 'd'].map((v) => found.get(v)!)
        const moved = (text: string): string => text.replaceAll(uuid('d'), uuid('z'))
        const producer = kafka.producer()
        await producer.connect()
        const messages = [
          { key: b![0], value: null },
          { key: c![0], value: c![1].replace(/"v":"c"/, '"v":"wrong"') },
          { key: moved(String(d![0])), value: moved(d![1]) },
        ]
        await producer.send({ topic, messages })
        await producer.disconnect()
      },
    }
    const verify = async (sink: string, ...more: string[]) => {
      const args = ['verify', 'orders', sink, '-c', config, '--json', ...more]
      const { code, stdout, stderr } = await inProcess(args)
      return { code, stderr, report: JSON.parse(stdout || '{}') as VerifyReport }
    }
    const seed = async (sink: SinkName): Promise<void> => {
      const before = await verify(sink)
      expect([sink, before.stderr, before.report.differences, before.report.tables]).toMatchObject([
        sink,
        '',
        [],
        [{ why: '', rows: KEYS.length }],
      ])
      await damages[sink]()
      const found = await verify(sink, '--repair')
      expect([sink, found.stderr, found.report]).toMatchObject([
        sink,
        '',
        {
          result: 'equal',
          tables: [{ why: '', missing: 1, different: 1, extra: 1, repaired: 3 }],
        },
      ])
      expect(found.code).toBe(0)
      const after = await verify(sink)
      expect([sink, after.report.result, after.report.differences]).toEqual([sink, 'equal', []])
    }
    for (const sink of repaired[0]!) await seed(sink)
    expect(instance.status.sinks.map((s) => s.state)).toEqual(Array(4).fill('running'))
    const end = await instance.sourceEnd()
    await expect
      .poll(() =>
        instance.status.sinks.every(
          ({ acked }) => acked?.file === end.file && acked.offset >= end.offset,
        ),
      )
      .toBe(true)
    await instance.stop()
    for (const sink of repaired[1]!) await seed(sink)
    await fetch(`${elastic.url}/${index}`, { method: 'DELETE' })
    await fetch(`${elastic.url}/${database}-cursors`, { method: 'DELETE' })
  },
)
