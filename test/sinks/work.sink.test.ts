/**
 * Workers behind Kafka on real servers: killed, stopped and added while a workload runs, the writing Sluice killed as well;
 * afterwards the target equals the source, and nothing in it ever went back.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { stringify } from 'yaml'
import { Control, controlFile } from '../../src/sinks/letters/control.ts'
import { rowFromText } from '../../src/sinks/shape/stored.ts'
import { sharedMysql, uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import { hasService, sharedService } from '../support/services.ts'
import { startSluice, type SluiceProcess } from '../support/sluice.ts'
import { shown } from './elastic.ts'
import { Receiver, type Received } from './receiver.ts'

const PARTITIONS = 4
const ROUNDS = 8
const KEYS = 40
const BURST = 5000

class Worker {
  readonly process: ChildProcess
  readonly log: string[] = []
  constructor(file: string) {
    const main = join(import.meta.dirname, '../../src/main.ts')
    this.process = spawn(process.execPath, [main, 'work', '--config', file])
    for (const stream of [this.process.stdout!, this.process.stderr!]) {
      let rest = ''
      stream.setEncoding('utf8').on('data', (text: string) => {
        const lines = (rest + text).split('\n')
        rest = lines.pop()!
        this.log.push(...lines)
      })
    }
  }
  get over(): boolean {
    return this.process.exitCode !== null || this.process.signalCode !== null
  }
  /** The number of partitions it was given last. */
  get partitions(): number {
    const last = this.log.findLast((line) => line.includes('worker has '))
    return Number(/worker has (\d+)/.exec(last ?? '')?.[1] ?? 0)
  }
  async end(signal: NodeJS.Signals): Promise<number | null> {
    const ended = this.over ? undefined : once(this.process, 'close')
    this.process.kill(signal)
    await ended
    return this.process.exitCode
  }
}

describe.skipIf(!hasService('kafka') || !hasService('redis'))('workers behind Kafka', () => {
  let mysql: MysqlServer
  let client: Redis
  let broker: string
  const database = uniqueDatabase('work')
  const redis = () => {
    const { host, port } = sharedService('redis')
    return { host, port }
  }
  beforeAll(async () => {
    mysql = await sharedMysql('9.7')
    await mysql.query(`CREATE DATABASE ${database}`)
    client = new Redis(redis())
    const { host, port } = sharedService('kafka')
    broker = `${host}:${port}`
  })
  afterAll(async () => {
    client.disconnect()
    await mysql.query(`DROP DATABASE IF EXISTS ${database}`)
    await mysql[Symbol.asyncDispose]()
  })

  /** A Sluice that writes tables to a topic, files for workers that read it, and what is left of them at the end. */
  class Scene implements AsyncDisposable {
    readonly dir = mkdtempSync(join(tmpdir(), 'sluice-work-'))
    readonly topic = `work-${randomUUID()}`
    readonly workers: Worker[] = []
    sluice: SluiceProcess | undefined
    readonly #kafka: object
    readonly #tables: string
    constructor(tables: string, kafka: object = {}) {
      this.#tables = tables
      this.#kafka = kafka
    }
    async write(): Promise<void> {
      const { host, port, user, password } = mysql
      const instance = {
        source: { host, port, user, password, tls: { mode: 'disabled' } },
        filter: { include: `${database}\\.(${this.#tables})` },
        retry: { minMs: 20, maxMs: 200 },
        sinks: {
          out: {
            type: 'kafka',
            brokers: [broker],
            format: 'sluice',
            topic: this.topic,
            partitions: PARTITIONS,
            batch: { changes: 50 },
            ...this.#kafka,
          },
        },
      }
      this.sluice = await startSluice({ dir: this.dir, instances: { shop: instance } })
      await this.sluice.logged('sink out running')
    }
    work(group: string, sink: object): Worker {
      const file = join(this.dir, `${group}.yaml`)
      const config = {
        instance: 'shop',
        kafka: { brokers: [broker], sessionMs: 6000 },
        topics: [this.topic],
        group: `${group}-${this.topic}`,
        sink: { retry: { minMs: 20, maxMs: 200 }, batch: { changes: 50 }, ...sink },
        dataDir: this.dir,
      }
      writeFileSync(file, stringify(config))
      const worker = new Worker(file)
      this.workers.push(worker)
      return worker
    }
    get living(): Worker[] {
      return this.workers.filter((worker) => !worker.over)
    }
    async [Symbol.asyncDispose](): Promise<void> {
      await Promise.all(this.living.map((worker) => worker.end('SIGKILL')))
      await this.sluice?.stop()
      rmSync(this.dir, { recursive: true, force: true })
    }
  }
  const lastLines = ({ workers, sluice }: Scene): string =>
    [...workers.map((w) => w.log.slice(-3).join('\n')), sluice?.log.slice(-3).join('\n')].join(
      '\n\n',
    )

  /** Random transactions until it is stopped; `n` of a row rises with every change of anything. */
  function workload(table: string): { stop(): Promise<void>; readonly done: number } {
    let stopped = false
    let n = 0
    const pick = (): number => 1 + Math.floor(Math.random() * KEYS)
    const run = async (): Promise<void> => {
      const connection = await mysql.connect({ database })
      while (!stopped) {
        const [a, b] = [pick(), pick()]
        n++
        const statements = [
          `UPDATE ${table} SET v = v + 1, n = ${n} WHERE id BETWEEN ${a} AND ${a + 5}`,
          `REPLACE INTO ${table} VALUES (${a}, ${n}, 'x\\n"', ${n})`,
          `DELETE FROM ${table} WHERE id = ${a}; INSERT INTO ${table} VALUES (${a}, 0, NULL, ${n})`,
          `DELETE FROM ${table} WHERE id = ${b}; UPDATE ${table} SET id = ${b}, n = ${n} WHERE id = ${a}`,
          `INSERT INTO ${table} VALUES (${a}, 1, 'new', ${n}) ON DUPLICATE KEY UPDATE v = v + 2, n = ${n}`,
        ]
        await connection.query(`BEGIN; ${statements[n % statements.length]}; COMMIT`)
        await sleep(2)
      }
      await connection.end()
    }
    const running = run()
    return {
      get done() {
        return n
      },
      stop: async () => {
        stopped = true
        await running
      },
    }
  }
  const select = (table: string): Promise<Record<string, unknown>[]> =>
    mysql.query(`SELECT * FROM ${table} ORDER BY id`)
  /** Rows as they stand in Redis, by id. */
  async function inRedis(prefix: string): Promise<Record<string, unknown>[]> {
    const keys = Array.from({ length: KEYS }, (_, i) => `${prefix}:${i + 1}`)
    const values = await client.mget(keys)
    return values.flatMap((text) => (text === null ? [] : [JSON.parse(text) as object as never]))
  }

  it('equal the source whoever is killed, and nothing goes back to an older version', async () => {
    const create = 'CREATE TABLE t (id INT PRIMARY KEY, v INT, s VARCHAR(20), n INT)'
    const connection = await mysql.connect({ database })
    await connection.query(`${create}; CREATE TABLE b (id INT PRIMARY KEY)`)
    await using scene = new Scene('t|b')
    await scene.write()
    const prefix = `${database}:t`
    const seen = `${database}:b` // every row that was ever inserted: nobody writes it again
    const rules = [
      { match: '.*\\.t', kind: 'string', key: `${prefix}:{id}` },
      { match: '.*\\.b', kind: 'set', key: seen, member: '{id}' },
    ]
    const sink = { type: 'redis', ...redis(), rules }
    /** So many rows that workers are in the middle of them when this returns. */
    const burst = async (round: number): Promise<void> => {
      const before = await client.scard(seen)
      const [from, to] = [round * BURST, (round + 1) * BURST - 1]
      await connection.query(
        `SET cte_max_recursion_depth = ${BURST}; INSERT INTO b WITH RECURSIVE n(i) AS (SELECT ${from} UNION ALL SELECT i + 1 FROM n WHERE i < ${to}) SELECT i FROM n`,
      )
      await expect.poll(() => client.scard(seen), { ...poll, interval: 1 }).toBeGreaterThan(before)
    }
    const start = (): Worker => scene.work('cache', sink)
    const load = workload(`${database}.t`)
    for (let i = 0; i < 3; i++) start()
    await expect
      .poll(() => scene.living.reduce((sum, w) => sum + w.partitions, 0), poll)
      .toBe(PARTITIONS)
    await expect.poll(async () => (await inRedis(prefix)).length, poll).toBeGreaterThan(0)

    const highest = new Map<number, number>()
    const wentBack: string[] = []
    let watching = true
    const watch = (async () => {
      for (; watching; await sleep(5)) {
        for (const { id, n } of (await inRedis(prefix)) as { id: number; n: number }[]) {
          const before = highest.get(id) ?? 0
          if (n < before) wentBack.push(`${id}: ${before} → ${n}`)
          highest.set(id, Math.max(n, before))
        }
      }
    })()
    for (let round = 0; round < ROUNDS; round++) {
      const living = scene.living
      const victims = living.filter((w) => w.partitions > 0)
      const victim = victims[Math.floor(Math.random() * victims.length)] ?? living[0]!
      await burst(round)
      if (round === 3) {
        // one that wakes up when the others have its partitions, and finishes what it had in hand
        victim.process.kill('SIGSTOP')
        await sleep(7000)
        victim.process.kill('SIGCONT')
      } else await victim.end('SIGKILL')
      if (round === 5) {
        await scene.sluice!.kill()
        await scene.write()
      }
      await sleep(Math.random() * 1000)
      if (scene.living.length < 3 || Math.random() < 0.3) start()
      await sleep(Math.random() * 2000)
    }
    await load.stop()
    const expected = await select(`${database}.t`)
    expect(expected.length).toBeGreaterThan(5)
    await expect
      .poll(() => inRedis(prefix), { ...poll, message: lastLines(scene) })
      .toEqual(expected)
    await expect.poll(() => client.scard(seen), poll).toBe(ROUNDS * BURST)
    await connection.end()
    watching = false
    await watch
    expect(wentBack).toEqual([])
    expect(highest.size).toBeGreaterThan(20)

    // what is done is committed: a worker that comes later has nothing to do
    const begun = (): boolean => scene.living.every((w) => w.log.some((l) => l.includes('worker ')))
    await expect.poll(begun, poll).toBe(true)
    for (const worker of scene.living) expect(await worker.end('SIGTERM')).toBe(0)
    const late = start()
    await expect.poll(() => late.partitions, poll).toBe(PARTITIONS)
    await sleep(1000)
    expect(await late.end('SIGTERM')).toBe(0)
    const end = late.log.find((line) => line.includes('worker stopped'))
    expect(JSON.parse(end!)).toMatchObject({ rows: 0 })
  }, 400_000)

  it('write to every kind of sink: joined documents, tables, requests', async () => {
    const sql = `CREATE TABLE o (id INT PRIMARY KEY, v INT); CREATE TABLE i (id INT PRIMARY KEY, o INT, v INT)`
    const connection = await mysql.connect({ database })
    await connection.query(`${sql}; CREATE DATABASE ${database}_copy`)
    await using scene = new Scene('o|i', { partitionHash: String.raw`.*\.o:id,.*\.i:o` })
    await scene.write()
    await using receiver = await Receiver.start()
    const { user, password, host, port } = mysql
    const url = `mysql://${user}:${encodeURIComponent(password)}@${host}:${port}/${database}_copy`
    const orders = `${database}-orders`
    const sinks: Record<string, object> = {
      hooks: { type: 'http', url: receiver.url, parallel: 2, batch: { changes: 5 } },
      copy: { type: 'sql', url, table: '{table}', fence: 'version', createTables: true },
    }
    const search = hasService('elasticsearch') ? sharedService('elasticsearch') : undefined
    if (search !== undefined) {
      sinks['search'] = {
        type: 'elasticsearch',
        nodes: search.url,
        settings: { number_of_replicas: 0 },
        documents: [
          { table: `${database}.o`, index: orders },
          { table: `${database}.i`, nest: { index: orders, field: 'items', document: '{o}' } },
        ],
      }
    }
    for (const [name, sink] of Object.entries(sinks))
      for (let n = 0; n < 2; n++) scene.work(name, sink)
    await connection.query(
      'INSERT INTO o VALUES (1,0),(2,0),(3,0),(4,0); INSERT INTO i VALUES (1,1,0),(2,2,0),(3,3,0),(4,1,0)',
    )
    for (let k = 1; k <= 60; k++) {
      await connection.query(
        `UPDATE o SET v = ${k} WHERE id = ${1 + (k % 3)}; UPDATE i SET o = 1 + (o % 3), v = ${k} WHERE id = ${1 + (k % 4)}`,
      )
    }
    // both halves of a key that changes, and the way back
    await connection.query(
      'UPDATE i SET id = 14 WHERE id = 4; UPDATE i SET id = 24 WHERE id = 14; UPDATE o SET id = 9 WHERE id = 4; DELETE FROM i WHERE id = 2',
    )
    await connection.end()
    const [o, i] = [await select(`${database}.o`), await select(`${database}.i`)]
    const message = lastLines(scene)
    const copied = async (t: string): Promise<unknown> => {
      const columns = t === 'o' ? 'id, v' : 'id, o, v'
      return mysql.query(`SELECT ${columns} FROM ${database}_copy.${t} ORDER BY id`).catch(() => [])
    }
    await expect.poll(() => copied('o'), { ...poll, message }).toEqual(o)
    await expect.poll(() => copied('i'), { ...poll, message }).toEqual(i)
    // requests come in order within a partition; an item changes its partition with its order
    const wanted = new Map([['4', 'null']])
    for (const row of o) wanted.set(String(row['id']), JSON.stringify(row))
    const events = (): Map<string, string> => lastOrders(receiver.requests)
    await expect.poll(events, { ...poll, message }).toEqual(wanted)
    const ids = (): number =>
      new Set(receiver.requests.map(({ body }) => (JSON.parse(body) as { id: string }).id)).size
    await expect.poll(ids, { ...poll, message }).toBe(8 + 120 + 2 * 3 + 1)
    if (search !== undefined) {
      await expect
        .poll(
          async () => {
            const all = Object.values(await shown(search, orders).catch(() => ({}))) as Record<
              string,
              unknown
            >[]
            const items = all.flatMap((d) => (d['items'] ?? []) as { id: number }[])
            return {
              o: all
                .map(({ id, v }) => ({ id, v }) as { id: number })
                .toSorted((a, b) => a.id - b.id),
              i: items.toSorted((a, b) => a.id - b.id),
            }
          },
          { ...poll, message },
        )
        .toEqual({ o, i })
    }
    for (const worker of scene.living) expect(await worker.end('SIGTERM')).toBe(0)
    await mysql.query(`DROP DATABASE ${database}_copy`)
  }, 300_000)

  it('keep what the target refuses, and go on', async () => {
    await mysql.query(`CREATE TABLE ${database}.d (id INT PRIMARY KEY, v INT)`)
    await using scene = new Scene('d', { partition: 0 })
    await scene.write()
    const prefix = `${database}:d`
    await client.rpush(`${prefix}:2`, 'no hash')
    await mysql.query(`INSERT INTO ${database}.d VALUES (1, 1), (2, 2), (3, 3)`)
    const rules = [{ kind: 'hash', key: `${prefix}:{id}` }]
    const worker = scene.work('cache', { type: 'redis', ...redis(), rules, onError: 'deadLetter' })
    await expect.poll(() => client.hgetall(`${prefix}:3`), poll).toEqual({ id: '3', v: '3' })
    expect(await client.hgetall(`${prefix}:1`)).toEqual({ id: '1', v: '1' })
    expect(await worker.end('SIGTERM')).toBe(0)
    const control = Control.open(controlFile(scene.dir, `cache-${scene.topic}`))
    const [letter, ...others] = control.letters()
    control.close()
    expect(others).toEqual([])
    expect(letter).toMatchObject({
      table: `${database}.d`,
      key: '2',
      op: 'insert',
      code: 'SINK_DATA',
    })
    const { change } = rowFromText(letter!.row)
    expect([...change.rows()]).toEqual([{ before: undefined, after: [2, 2] }])
  }, 200_000)

  it('stops the writer at what no message says, and the worker at what is no message', async () => {
    await mysql.query(`CREATE TABLE ${database}.s (id INT PRIMARY KEY)`)
    await using scene = new Scene('s')
    await scene.write()
    await mysql.query(`TRUNCATE ${database}.s`)
    expect(await scene.sluice!.logged('sink out failed')).toMatch(/UNLOGGED_CHANGE.*TRUNCATE/)
    await using other = new Scene('s', { format: 'debezium' })
    await other.write()
    await mysql.query(`INSERT INTO ${database}.s VALUES (1)`)
    await other.sluice!.logged('sink out running')
    const rules = [{ kind: 'string', key: `${database}:s:{id}` }]
    const worker = other.work('cache', { type: 'redis', ...redis(), rules })
    await once(worker.process, 'close')
    expect(worker.process.exitCode).toBe(1)
    const said = worker.log.join('\n')
    expect(said).toMatch(/SINK_UNSUITABLE/)
    expect(said).toMatch(/partition \d, offset 0: expected a message of format sluice, got/)
  }, 200_000)
})

/** The last row of each order that requests brought; null: it was deleted. */
function lastOrders(requests: readonly Received[]): Map<string, string> {
  const last = new Map<string, string>()
  for (const { body } of requests) {
    const { table, key, after } = (JSON.parse(body) as { data: Data }).data
    if (table === 'o') last.set(String(key.id), JSON.stringify(after))
  }
  return last
}
interface Data {
  readonly table: string
  readonly key: { readonly id: number }
  readonly after: object | null
}
const poll = { timeout: 120_000, interval: 200 }
