/**
 * A gap in the log before real targets: the source has purged what came while Sluice was down, rows that were deleted included.
 * With `onPositionLost: snapshot` every target that can be emptied equals SELECT afterwards, whenever Sluice is killed on the way;
 * Kafka keeps what has gone, as the manual says. The tables are written to meanwhile.
 */
import { randomUUID } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Admin, Consumer } from '@platformatic/kafka'
import { Redis } from 'ioredis'
import { expect, it } from 'vitest'
import { stringify } from 'yaml'
import type { Instance } from '../../src/instance.ts'
import type { SinkStatus } from '../../src/sinks/runner/runner.ts'
import type { LoadStatus } from '../../src/snapshot/load.ts'
import { Orders } from '../../src/snapshot/orders.ts'
import { shown } from '../sinks/elastic.ts'
import { Receiver } from '../sinks/receiver.ts'
import { openTarget } from '../sinks/sql/targets.ts'
import { startInstance } from '../support/instance.ts'
import { privateMysql, uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import { hasService, sharedService } from '../support/services.ts'
import { startSluice, type SluiceProcess } from '../support/sluice.ts'

type Values = Readonly<Record<string, string | number | null | undefined>>
/** Table and key → the row as text. */
type Content = Map<string, string>
/** Columns of the key, and the others. */
const TABLES = {
  a: [['id'], ['v', 'n']],
  b: [['x', 'y'], ['v']],
  emptied: [['id'], ['v']],
  late: [['id'], ['v']],
} as const
type TableName = keyof typeof TABLES
const tables = Object.keys(TABLES) as TableName[]

const keyOf = (table: TableName, row: Values): string =>
  [table, ...TABLES[table][0].map((c) => String(row[c]))].join(' ')
function put(content: Content, table: TableName, row: Values): void {
  const [keys, others] = TABLES[table]
  const text = [...keys, ...others].map((c) => `${c}=${String(row[c] ?? 'NULL')}`).join(' ')
  content.set(keyOf(table, row), text)
}

interface Target {
  readonly name: string
  readonly sink: object
  readonly read: () => Promise<Content>
  /** Whether rows that went in the gap stay. */
  readonly keeps: boolean
  /** Copies all that it has, the sink's position too; what comes back puts it back. */
  readonly backup?: () => Promise<() => Promise<void>>
  readonly query?: (sql: string) => Promise<unknown>
}

function redisTarget(db: string, stack: AsyncDisposableStack): Target {
  const { host, port } = sharedService('redis')
  const redis = new Redis({ host, port })
  stack.defer(() => redis.disconnect())
  const rules = [{ kind: 'hash', match: `${db}\\..*` }]
  return {
    name: 'cache',
    sink: { type: 'redis', host, port, keyPrefix: `${db}:`, rules },
    keeps: false,
    async read() {
      const found: Content = new Map()
      for (const table of tables)
        for (const key of await redis.keys(`${db}:${db}:${table}:*`))
          put(found, table, await redis.hgetall(key))
      return found
    },
    async backup() {
      const copies: [string, Buffer][] = []
      for (const key of await redis.keys(`${db}:*`))
        copies.push([key, (await redis.dumpBuffer(key))!])
      return async () => {
        await redis.del(await redis.keys(`${db}:*`))
        for (const [key, copy] of copies) await redis.restore(key, 0, copy)
      }
    },
  }
}
function elasticTarget(db: string): Target {
  const service = sharedService('elasticsearch')
  const settings = { number_of_replicas: 0 }
  return {
    name: 'search',
    sink: { type: 'elasticsearch', nodes: service.url, cursorIndex: `cursors-${db}`, settings },
    keeps: false,
    async read() {
      const found: Content = new Map()
      for (const table of tables)
        for (const row of Object.values(await shown(service, `${db}-${table}`)))
          put(found, table, row as Values)
      return found
    },
  }
}
async function sqlTarget(kind: 'postgres' | 'mysql', stack: AsyncDisposableStack): Promise<Target> {
  const target = stack.use(await openTarget(kind))
  return {
    name: kind,
    sink: { type: 'sql', url: target.url, table: '{table}', createTables: true, ddl: 'apply' },
    keeps: false,
    async read() {
      const found: Content = new Map()
      for (const table of tables)
        for (const row of await target.query(`SELECT * FROM ${table}`))
          put(found, table, row as Values)
      return found
    },
    query: (sql) => target.query(sql),
    async backup() {
      const all = [...tables, 'sluice_cursors']
      for (const name of all)
        await target.query(
          `CREATE TABLE old_${name} LIKE ${name}; INSERT INTO old_${name} SELECT * FROM ${name}`,
        )
      return async () => {
        for (const name of all)
          await target.query(`DROP TABLE ${name}; RENAME TABLE old_${name} TO ${name}`)
      }
    },
  }
}
/** Statements and rows in the order of the file or the requests. */
interface Line {
  readonly op: string // insert, update, delete, TRUNCATE
  readonly table: TableName
  readonly before: Values | undefined
  readonly after: Values | undefined
}
function replayed(lines: Iterable<Line>): Content {
  const found: Content = new Map()
  for (const { op, table, before, after } of lines) {
    if (op === 'TRUNCATE')
      for (const key of found.keys()) if (key.startsWith(`${table} `)) found.delete(key)
    if (before) found.delete(keyOf(table, before))
    if (after && op !== 'delete') put(found, table, after)
  }
  return found
}
interface Json {
  readonly [word: string]: unknown
  readonly before?: Values
  readonly after?: Values
  readonly data?: Values
  readonly old?: Values
}

function fileTarget(dir: string): Target {
  const path = join(dir, 'lines.ndjson')
  return {
    name: 'lines',
    sink: { type: 'file', path },
    keeps: false,
    read: () => {
      const lines = readFileSync(path, 'utf8').split('\n').slice(0, -1)
      return Promise.resolve(
        replayed(
          lines.map((text) => {
            const { op, type, table, before, after } = JSON.parse(text) as Json
            return { op: String(op ?? type), table: String(table) as TableName, before, after }
          }),
        ),
      )
    },
  }
}
async function httpTarget(stack: AsyncDisposableStack): Promise<Target> {
  const receiver = stack.use(await Receiver.start())
  return {
    name: 'hook',
    sink: { type: 'http', url: receiver.url, mode: 'batch', statements: true },
    keeps: false,
    read: () =>
      Promise.resolve(
        replayed(
          receiver.requests.flatMap(({ body }) =>
            [JSON.parse(body) as { data: Json } | { data: Json }[]].flat().map(({ data }) => {
              const { op, type, table, before, after } = data
              return { op: String(op ?? type), table: String(table) as TableName, before, after }
            }),
          ),
        ),
      ),
  }
}
async function kafkaTarget(stack: AsyncDisposableStack): Promise<Target> {
  const { host, port } = sharedService('kafka')
  const broker = `${host}:${port}`
  const topic = `gap-${randomUUID()}`
  const lines: Line[] = []
  const base = { clientId: 'gap', bootstrapBrokers: [broker], retries: 50 }
  // a consumer that came before its topic would look for it again after a minute
  const admin = new Admin(base)
  await admin.createTopics({ topics: [topic], partitions: 1, replicas: 1 })
  await admin.close()
  const consumer = new Consumer({ ...base, groupId: `g-${randomUUID()}` })
  stack.defer(() => consumer.close(true))
  const stream = await consumer.consume({
    topics: [topic],
    mode: 'earliest',
    isolationLevel: 1,
    maxWaitTime: 100,
  })
  stream.on('data', ({ value }) => {
    const { type, table, data, old } = JSON.parse(String(value)) as Json
    const before = type === 'delete' ? data : old && { ...data, ...old }
    if (String(table) in TABLES)
      lines.push({ op: String(type), table: String(table) as TableName, before, after: data })
  })
  return {
    name: 'topic',
    sink: { type: 'kafka', brokers: [broker], topic, partitions: 1, format: 'maxwell' },
    keeps: true,
    read: () => Promise.resolve(replayed(lines)),
  }
}

async function select(mysql: MysqlServer, db: string): Promise<Content> {
  const found: Content = new Map()
  for (const table of tables)
    for (const row of await mysql.query<Values>(`SELECT * FROM ${db}.${table}`))
      put(found, table, row)
  return found
}
async function purge(mysql: MysqlServer): Promise<void> {
  await mysql.query('FLUSH BINARY LOGS')
  const [last] = (await mysql.query<{ Log_name: string }>('SHOW BINARY LOGS')).slice(-1)
  await mysql.query(`PURGE BINARY LOGS TO '${last!.Log_name}'`)
}
async function until(what: () => boolean): Promise<void> {
  while (!what()) await sleep(20)
}
const sorted = (content: Content): string[] => [...content.values()].toSorted()

it('every target that can be emptied equals SELECT after a gap, whenever Sluice is killed', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-gap-'))
  await using stack = new AsyncDisposableStack()
  stack.defer(() => rmSync(dir, { recursive: true, force: true }))
  const mysql = stack.use(await privateMysql('9.7'))
  const db = uniqueDatabase('gap')
  const targets = [
    ...(hasService('redis') ? [redisTarget(db, stack)] : []),
    ...(hasService('elasticsearch') ? [elasticTarget(db)] : []),
    ...(hasService('postgres') ? [await sqlTarget('postgres', stack)] : []),
    await sqlTarget('mysql', stack),
    fileTarget(dir),
    await httpTarget(stack),
    ...(hasService('kafka') ? [await kafkaTarget(stack)] : []),
  ]
  const numbers = (from: number, to: number): number[] =>
    Array.from({ length: to - from + 1 }, (_, i) => from + i)
  await mysql.query(`CREATE DATABASE ${db}; USE ${db};
    CREATE TABLE a (id INT PRIMARY KEY, v VARCHAR(40), n INT);
    CREATE TABLE b (x VARCHAR(10), y INT, v VARCHAR(40), PRIMARY KEY (x, y));
    CREATE TABLE emptied (id INT PRIMARY KEY, v VARCHAR(40))`)
  const { host, port, user, password } = mysql
  const instance = {
    source: { host, port, user, password, tls: { mode: 'disabled' } },
    start: 'latest',
    filter: { include: `${db}\\..*` },
    retry: { minMs: 20, maxMs: 200 },
    sinks: Object.fromEntries(
      targets.map(({ name, sink }) => [name, { ...sink, retry: { minMs: 20, maxMs: 200 } }]),
    ),
  }
  let sluice: SluiceProcess | undefined
  stack.defer(() => sluice?.kill())
  const start = async (more: object = {}): Promise<SluiceProcess> =>
    (sluice = await startSluice({ dir, instances: { shop: { ...instance, ...more } } }))
  const loads = (): LoadStatus[] =>
    JSON.parse(Orders.said(join(dir, 'data'), 'shop') ?? '[]') as LoadStatus[]
  const equal = async (expected: Content, kept: Content): Promise<void> => {
    for (const { name, read, keeps } of targets)
      await expect
        .poll(async () => sorted(await read()), {
          timeout: 60_000,
          interval: 200,
          message: `${name}: ${sluice!.log.slice(-8).join('\n')}`,
        })
        .toEqual(sorted(keeps ? kept : expected))
  }

  await start()
  await sluice!.logged('running')
  const rows = numbers(1, 400).map((id) => `(${id}, 'before', 0)`)
  const pairs = numbers(1, 60).map((y) => `('x${y % 7}', ${y}, 'before')`)
  await mysql.query(`USE ${db}; INSERT INTO a VALUES ${rows.join(',')}; INSERT INTO b VALUES ${pairs.join(',')};
    INSERT INTO emptied VALUES (1, 'a'), (2, 'b'), (3, 'c')`)
  await mysql.query(`CREATE TABLE ${db}.late (id INT PRIMARY KEY, v VARCHAR(40))`)
  await mysql.query(`INSERT INTO ${db}.late VALUES (1, 'early')`)
  const before = await select(mysql, db)
  await equal(before, before)
  await sluice!.stop()
  // what nobody will ever read
  const added = numbers(401, 500).map((id) => `(${id}, 'added', 0)`)
  await mysql.query(`USE ${db}; DELETE FROM a WHERE id % 4 = 0; UPDATE a SET v = 'gap' WHERE id % 4 = 1;
    INSERT INTO a VALUES ${added.join(',')}; UPDATE b SET y = y + 1000 WHERE y % 5 = 0; DELETE FROM b WHERE y % 5 = 1;
    TRUNCATE emptied; DROP TABLE late; CREATE TABLE late (id INT PRIMARY KEY, v VARCHAR(40)); INSERT INTO late VALUES (2, 'late')`)
  const gone = await select(mysql, db)
  await purge(mysql)
  // what is left of the log
  await mysql.query(
    `USE ${db}; UPDATE a SET n = n + 1 WHERE id % 10 = 2; DELETE FROM a WHERE id = 2; INSERT INTO emptied VALUES (9, 'new')`,
  )
  const policy = { onPositionLost: 'snapshot', snapshot: { rowsPerSecond: 150 } }
  await start(policy)
  await sluice!.logged('changes were lost')
  await sluice!.kill()
  await start(policy)
  const under = (): boolean =>
    loads().length === targets.length && loads().every(({ rows }) => rows > 0)
  while (!under()) await sleep(50)
  await mysql.query(`USE ${db}; UPDATE a SET v = 'meanwhile' WHERE id % 9 = 0; DELETE FROM a WHERE id % 11 = 0;
    INSERT INTO a VALUES (2, 'again', 5), (600, 'new', 0); DELETE FROM b WHERE y % 13 = 0`)
  expect(loads().some(({ state }) => state === 'running')).toBe(true)
  await sluice!.kill()
  await start({ ...policy, snapshot: { rowsPerSecond: 0 } })
  await mysql.query(
    `USE ${db}; UPDATE a SET n = 77 WHERE id = 3; UPDATE b SET y = 5000 WHERE y = 2`,
  )
  const after = await select(mysql, db)
  const kept = new Map([...[...before].filter(([key]) => !gone.has(key)), ...after])
  await equal(after, kept)
  while (!loads().every(({ state }) => state === 'done')) await sleep(50)
  expect(await sluice!.stop()).toBe(0)
})

it('a gap that held DDL; targets set back to a backup from before a gap, which was filled since', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-gap-'))
  await using stack = new AsyncDisposableStack()
  stack.defer(() => rmSync(dir, { recursive: true, force: true }))
  const mysql = stack.use(await privateMysql('9.7'))
  const db = uniqueDatabase('gap')
  const redis = redisTarget(db, stack)
  const mirror = await sqlTarget('mysql', stack)
  const warehouse = await sqlTarget('postgres', stack)
  const { host, port, user, password } = mysql
  const file = join(dir, 'shop.yaml')
  const retry = { minMs: 20, maxMs: 200 }
  const targets = [redis, mirror, warehouse]
  writeFileSync(
    file,
    stringify({
      source: { host, port, user, password, tls: { mode: 'disabled' } },
      start: 'latest',
      filter: { include: `${db}\\..*` },
      retry,
      onPositionLost: 'snapshot',
      sinks: Object.fromEntries(targets.map(({ name, sink }) => [name, { ...sink, retry }])),
    }),
  )
  let instance: Instance | undefined
  stack.defer(() => instance?.stop())
  const start = (): void => {
    instance = startInstance('shop', file, dir)
  }
  const status = (name: string): SinkStatus | undefined =>
    instance?.status.sinks.find((sink) => sink.name === name)
  const equal = async (some: readonly Target[]): Promise<void> => {
    const expected = sorted(await select(mysql, db))
    for (const { name, read } of some)
      await expect.poll(async () => sorted(await read()), { message: name }).toEqual(expected)
  }
  await mysql.query(`CREATE DATABASE ${db}; USE ${db};
    CREATE TABLE a (id INT PRIMARY KEY, v VARCHAR(40)); CREATE TABLE b (x VARCHAR(10), y INT, v VARCHAR(40), PRIMARY KEY (x, y));
    CREATE TABLE emptied (id INT PRIMARY KEY, v VARCHAR(40)); CREATE TABLE late LIKE emptied`)
  start()
  while (instance!.status.state !== 'running') await sleep(20)
  await mysql.query(`USE ${db}; INSERT INTO a VALUES (1, 'one'), (2, 'two'); INSERT INTO b VALUES ('x', 1, 'b');
    INSERT INTO emptied VALUES (1, 'e'); INSERT INTO late VALUES (1, 'l')`)
  await equal(targets)
  await instance!.stop()
  const restoreRedis = await redis.backup!()
  const restoreMirror = await mirror.backup!()

  await mysql.query(
    `USE ${db}; DELETE FROM a WHERE id = 1; ALTER TABLE a ADD COLUMN n INT; INSERT INTO a VALUES (3, 'three', 3)`,
  )
  await purge(mysql)
  start()
  await equal([redis, warehouse])
  await until(() => status('mysql')?.state === 'failed')
  const failed = status('mysql')!
  expect('error' in failed && failed.error.message).toMatch(
    /table `a` of the target: expected a column n, it has id, v; add it/,
  )
  await mirror.query!('ALTER TABLE a ADD COLUMN n INT')
  instance!.retrySinks()
  await equal(targets)

  // the gap is filled; a restart later somebody restores two of the targets
  await instance!.stop()
  start()
  await until(() => targets.every(({ name }) => status(name)?.state === 'running'))
  await mysql.query(`INSERT INTO ${db}.a VALUES (4, 'four', 4)`)
  await equal(targets)
  await instance!.stop()
  await restoreRedis()
  await restoreMirror()
  start()
  await equal([redis, warehouse])
  await until(() => status('mysql')?.state === 'failed')
  await mirror.query!('ALTER TABLE a ADD COLUMN n INT')
  instance!.retrySinks()
  await equal(targets)
  expect(instance!.status.positionsLost).toBeGreaterThan(0)
})
