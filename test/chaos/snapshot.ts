/**
 * `npm run chaos:snapshot -- --kills N --seed N [--rows N] [--tables N] [--only redis,postgres,client]`: tables of random shape are loaded
 * into Redis, PostgreSQL and a client of the SDK, which no fence protects, again at every start of Sluice and at random rates, so in pieces of random size, while writers
 * change them (rows that go and come again, keys that move, transactions of thousands of rows), columns come and go, a table is added, and Sluice, MySQL and the
 * targets are killed (kill -9) at random. Somebody watches every key of every target all the time. Afterwards each target
 * must equal SELECT, and no key may ever have gone back to an older value (the client's may: after a kill changes come again). Prints a line per target and their sum, and exits 1 unless all is right:
 *
 *   kills 20 keys 12345 different 0 wentBack 0
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Redis } from 'ioredis'
import { Client as Postgres } from 'pg'
import { connect } from '../../src/client.ts'
import type { ClientChange, Image } from '../../src/client/changes.ts'
import { Random } from '../e2e/load.ts'
import { Orders } from '../../src/snapshot/orders.ts'
import {
  Clock,
  different,
  openWorld,
  randomTable,
  readWorld,
  Writer,
  type Rows,
} from '../snapshot/world.ts'
import { privateMysql, type MysqlServer } from '../support/mysql.ts'
import { privateService, type Service } from '../support/services.ts'
import { freePort, startSluice, type SluiceProcess } from '../support/sluice.ts'

const { values: args } = parseArgs({
  options: {
    kills: { type: 'string', default: '5' },
    rows: { type: 'string', default: '15000' }, // of all tables that there are at first
    tables: { type: 'string', default: '3' },
    only: { type: 'string', default: 'redis,postgres,client' },
    seed: { type: 'string' },
  },
})
const kills = Number(args.kills)
const ROWS = Number(args.rows)
const seed = Number(args.seed ?? Math.trunc(Math.random() * 2 ** 31))
const random = new Random(seed)
const TABLES = Number(args.tables)
const nameOf = (i: number): string => `t${i}`
const CATCH_UP_MS = 180_000 // beside other work a load took up to 58 s; that it becomes equal is what is asked
const WRITERS = 2 // of each table

interface Target extends AsyncDisposable {
  readonly name: string
  /** Whose loads the operator gives orders about. */
  readonly client: string
  readonly service: Pick<Service, 'kill' | 'start'>
  /** A client has none: what comes again may be older than what it has. */
  readonly sink: object | undefined
  /** "table:part/k" → n. */
  read(): Promise<Rows>
}

async function redisTarget(): Promise<Target> {
  const service = await privateService('redis')
  const client = new Redis(service.url, { maxRetriesPerRequest: 0, retryStrategy: () => 50 })
  client.on('error', () => {})
  return {
    name: 'redis',
    client: 'sink:redis',
    service,
    sink: {
      type: 'redis',
      port: service.port,
      rules: [{ kind: 'hash', key: '{table}:{part}/{k}' }],
    },
    async read() {
      const keys = await client.keys('t[0-9]:*')
      const pipeline = client.pipeline()
      for (const key of keys) pipeline.hget(key, 'n')
      const answers = (await pipeline.exec()) ?? []
      const rows: Rows = new Map()
      for (const [i, [error, n]] of answers.entries()) {
        if (error) throw error
        if (n !== null) rows.set(keys[i]!, Number(n))
      }
      return rows
    },
    async [Symbol.asyncDispose]() {
      client.disconnect()
      await service[Symbol.asyncDispose]()
    },
  }
}
async function postgresTarget(): Promise<Target> {
  const service = await privateService('postgres')
  let client: Postgres | undefined
  const connect = async (): Promise<Postgres> => {
    const fresh = new Postgres({ connectionString: service.url })
    fresh.on('error', () => {})
    await fresh.connect()
    return fresh
  }
  return {
    name: 'postgres',
    client: 'sink:postgres',
    service,
    sink: { type: 'sql', url: service.url, table: '{table}', createTables: true, ddl: 'apply' },
    async read() {
      client ??= await connect()
      try {
        const found: Rows = new Map()
        const { rows: made } = await client.query<{ name: string }>(
          "SELECT tablename AS name FROM pg_tables WHERE tablename ~ '^t[0-9]$'",
        )
        for (const { name } of made) {
          const { rows } = await client.query<{ k: string; part: string; n: string }>(
            `SELECT k, part, n FROM ${name}`,
          )
          for (const { k, part, n } of rows) found.set(`${name}:${part}/${k}`, Number(n))
        }
        return found
      } catch (error) {
        const broken = client
        client = undefined
        await broken.end().catch(() => {})
        throw error
      }
    },
    async [Symbol.asyncDispose]() {
      await client?.end().catch(() => {})
      await service[Symbol.asyncDispose]()
    },
  }
}
const CLIENT = 7
/** Writes down what it reads, in order; killed, it loses what it has not acked and connects anew. */
function clientTarget(port: number): Promise<Target> {
  const rows: Rows = new Map()
  const key = (table: string, image: Image): string => {
    const [part, k] = [image['part'], image['k']].map((v) => (v as string | number).toString())
    return `${table}:${part}/${k}`
  }
  const take = (change: ClientChange): void => {
    if (change.kind !== 'rows') return
    for (const { before, after } of change.rows) {
      if (before) rows.delete(key(change.table, before))
      if (after) rows.set(key(change.table, after), Number(after['n']))
    }
  }
  const ended = new AbortController()
  let here = new AbortController()
  const run = async (): Promise<void> => {
    while (!ended.signal.aborted) {
      const signal = AbortSignal.any([here.signal, ended.signal])
      try {
        const options = { port, destination: 'world', clientId: CLIENT, snapshot: true }
        await using client = await connect({ ...options, retry: { attempts: 0 } })
        for await (const batch of client.batches({ size: 64, waitMs: 100, signal })) {
          for (const change of batch.changes) take(change)
          await batch.ack()
        }
      } catch {
        // Sluice is away
      }
      await sleep(50)
    }
  }
  const running = run()
  return Promise.resolve({
    name: 'client',
    client: String(CLIENT),
    service: {
      kill: () => Promise.resolve(here.abort()),
      start: () => Promise.resolve(void (here = new AbortController())),
    },
    sink: undefined,
    read: () => Promise.resolve(new Map(rows)),
    async [Symbol.asyncDispose]() {
      ended.abort()
      await running
    },
  })
}
const targets: Readonly<Record<string, (port: number) => Promise<Target>>> = {
  redis: redisTarget,
  postgres: postgresTarget,
  client: clientTarget,
}

/** Looks at a target again and again; a key that is lower than it was has gone back. */
class Watcher {
  wentBack = 0
  looks = 0
  readonly #seen: Rows = new Map()
  #stopped = false
  readonly #done: Promise<void>
  constructor(target: Target) {
    this.#done = this.#run(target)
  }
  async stop(): Promise<void> {
    this.#stopped = true
    await this.#done
  }
  async #run(target: Target): Promise<void> {
    while (!this.#stopped) {
      try {
        for (const [key, n] of await target.read()) {
          if (target.sink && n < (this.#seen.get(key) ?? -1)) this.wentBack++
          else this.#seen.set(key, n)
        }
        this.looks++
      } catch {
        // it was killed, or has no such table yet
      }
      await sleep(150)
    }
  }
}

/** Rows a second at which tables are read: pieces have those of a second at most. */
const randomRate = (): number | 'auto' => random.pick([0, 0, 'auto', 500, 3000, 12_000] as const)

interface World {
  readonly mysql: MysqlServer
  readonly list: readonly Target[]
  readonly dir: string
  readonly port: number
  sluice: SluiceProcess
}
const optionsOf = ({ dir, port, mysql, list }: Omit<World, 'sluice'>) => ({
  dir,
  port,
  instances: {
    world: {
      source: { host: mysql.host, port: mysql.port, user: mysql.user, password: mysql.password },
      start: 'latest',
      filter: { include: 'world\\..*' },
      retry: { minMs: 50, maxMs: 500 },
      partBytes: '64KiB', // so that large transactions travel in parts
      snapshot: { rowsPerSecond: randomRate() },
      sinks: Object.fromEntries(
        list.flatMap(({ name, sink }) => {
          if (sink === undefined) return []
          const options = {
            ...sink,
            // a table whose key is no primary key does not say what tells its rows apart
            tables: [{ match: '.*', key: ['part', 'k'] }],
            initialLoad: 'always',
            // small ones give a piece out in many parts, with the stream between them
            batch: { bytes: random.pick(['48KiB', '1MiB']) },
            retry: { minMs: 50, maxMs: 500 },
          }
          return [[name, options]]
        }),
      ),
    },
  },
})

async function kill(world: World): Promise<string> {
  const what = random.int(1, 10)
  if (what <= 7) {
    await world.sluice.kill()
    await sleep(random.int(0, 300))
    world.sluice = await startSluice(optionsOf(world))
    return 'sluice'
  }
  const victim = what === 8 ? world.mysql : random.pick(world.list).service
  await victim.kill()
  await sleep(random.int(0, 300))
  await victim.start()
  return what === 8 ? 'mysql' : 'a target'
}

/** How a target differs from the source, once nothing more comes. */
async function settled(target: Target, source: Rows): Promise<number> {
  const until = Date.now() + CATCH_UP_MS
  for (;;) {
    let count = source.size
    try {
      const rows = await target.read()
      count = different(source, rows)
      if (count > 0 && Date.now() > until) say(target.name, source, rows)
    } catch (error) {
      if (Date.now() > until) throw error
    }
    if (count === 0 || Date.now() > until) return count
    await sleep(200)
  }
}
/** Some of the keys that differ. */
function say(name: string, source: Rows, target: Rows): void {
  const keys = [...new Set([...source.keys(), ...target.keys()])]
  for (const key of keys.filter((k) => source.get(k) !== target.get(k)).slice(0, 10))
    console.log(`${name}: ${key}: expected ${source.get(key)}, found ${target.get(key)}`)
}

/** A table with rows, and its writers. */
async function addTable(mysql: MysqlServer, i: number, clock: Clock): Promise<Writer[]> {
  const table = `world.${nameOf(i)}`
  const rows = Math.ceil(ROWS / TABLES)
  const columns = randomTable(random)
  console.log(`${table} ${columns}`)
  for (;;) {
    try {
      await openWorld(mysql, table, rows, columns)
      break
    } catch (error) {
      console.log(`again: ${String(error)}`) // killed
      await sleep(200)
      await mysql.query(`DROP TABLE IF EXISTS ${table}`).catch(() => {})
    }
  }
  const share = Math.ceil((rows * 1.1) / WRITERS)
  return Array.from({ length: WRITERS }, (_, w) => {
    const ids = { from: w * share, to: (w + 1) * share }
    const own = new Random(seed + i * WRITERS + w + 1)
    return new Writer(mysql, table, { random: own, clock, ids, pauseMs: 10, large: true })
  })
}
/** Columns that were added to a table and are there still. */
const extra = new Map<string, string[]>()
/** DDL on a table that may be loaded right now: a column comes, or one that had come goes. */
async function alter(mysql: MysqlServer, n: number): Promise<string> {
  const table = `world.${nameOf(random.int(0, TABLES - 1))}`
  const known = extra.get(table) ?? []
  const [oldest] = known
  const drops = oldest !== undefined && random.chance(30)
  const name = drops ? oldest : `x${n}`
  const place = random.chance(50) ? ' FIRST' : ''
  const sql = `ALTER TABLE ${table} ${drops ? `DROP COLUMN ${name}` : `ADD COLUMN ${name} INT NULL${place}`}`
  try {
    await mysql.query(sql)
  } catch (error) {
    return `not done (${String(error)}): ${sql}` // killed
  }
  extra.set(table, drops ? known.slice(1) : [...known, name])
  return sql
}
/** What the operator might want now: another rate, or a table once more. */
function order({ dir, list }: World): string {
  const orders = Orders.open(join(dir, 'data'), 'world')
  try {
    const { client } = random.pick(list)
    const verb = random.pick(['throttle', 'throttle', 'start'] as const)
    const tables = `world\\.${nameOf(random.int(0, TABLES))}`
    const rowsPerSecond = randomRate()
    orders.give({ verb, client, tables, rowsPerSecond })
    return `${verb} ${client}${verb === 'start' ? ` ${tables}` : ''} at ${rowsPerSecond} rows/s`
  } finally {
    orders.close()
  }
}

/** Nothing is left to be disturbed: the rest is loaded as fast as it goes. */
function hurry({ dir, list }: World): void {
  const orders = Orders.open(join(dir, 'data'), 'world')
  try {
    for (const { client } of list)
      orders.give({ verb: 'throttle', client, tables: '', rowsPerSecond: 0 })
  } finally {
    orders.close()
  }
}

async function main(): Promise<number> {
  console.log(`chaos:snapshot with seed ${seed}`)
  await using stack = new AsyncDisposableStack()
  const port = await freePort()
  const list: Target[] = []
  for (const name of args.only.split(',')) {
    const open = targets[name]
    if (open === undefined)
      throw new Error(`expected --only of redis, postgres, client, got ${name}`)
    list.push(stack.use(await open(port)))
  }
  const mysql = stack.use(await privateMysql('9.7'))
  const clock = new Clock()
  const writers: Writer[] = []
  for (let i = 0; i < TABLES; i++) writers.push(...(await addTable(mysql, i, clock)))
  const dir = mkdtempSync(join(tmpdir(), 'sluice-chaos-snapshot-'))
  stack.defer(() => rmSync(dir, { recursive: true, force: true }))
  const parts = { mysql, list, dir, port }
  const world: World = { ...parts, sluice: await startSluice(optionsOf(parts)) }
  stack.defer(() => world.sluice.kill())
  const watchers = list.map((target) => new Watcher(target))
  const added = random.int(1, kills)
  for (let n = 1; n <= kills; n++) {
    await sleep(random.int(0, 1500))
    if (n === added) writers.push(...(await addTable(mysql, TABLES, clock)))
    console.log(order(world))
    if (random.chance(70)) console.log(await alter(mysql, n))
    await sleep(random.int(0, 700))
    console.log(`kill ${n}/${kills}: ${await kill(world)}`)
  }
  await sleep(500)
  const stopped = performance.now()
  await Promise.all(writers.map((w) => w.stop()))
  hurry(world)
  const source: Rows = new Map()
  for (let i = 0; i <= TABLES; i++) {
    const rows = await readWorld(mysql, `world.${nameOf(i)}`)
    for (const [key, n] of rows) source.set(`${nameOf(i)}:${key}`, n)
  }
  const sum = { different: 0, wentBack: 0 }
  for (const [i, target] of list.entries()) {
    const count = await settled(target, source)
    const { wentBack, looks } = watchers[i]!
    const seconds = ((performance.now() - stopped) / 1000).toFixed(1)
    const result = `keys ${source.size} different ${count} wentBack ${wentBack}`
    console.log(`${target.name}: ${result} (${looks} looks, equal after ${seconds} s)`)
    sum.different += count
    sum.wentBack += wentBack
  }
  await Promise.all(watchers.map((w) => w.stop()))
  console.log(
    `kills ${kills} keys ${source.size} different ${sum.different} wentBack ${sum.wentBack}`,
  )
  if (sum.different === 0 && sum.wentBack === 0 && source.size > 0) return 0
  console.log(world.sluice.log.slice(-40).join('\n'))
  return 1
}

process.exitCode = await main()
