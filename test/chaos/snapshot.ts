/**
 * `npm run chaos:snapshot -- --kills N --seed N [--rows N] [--only redis,postgres]`: a table is loaded into Redis and
 * PostgreSQL, again at every start of Sluice, while writers change it and Sluice, MySQL and the targets are killed (kill -9) at
 * random. Somebody watches every key of every target all the time. Afterwards each target must equal SELECT, and no key may
 * ever have gone back to an older value. Prints a line per target and their sum, and exits 1 unless all is right:
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
import { Random } from '../e2e/load.ts'
import { Clock, different, openWorld, readWorld, Writer, type Rows } from '../snapshot/world.ts'
import { privateMysql, type MysqlServer } from '../support/mysql.ts'
import { privateService, type Service } from '../support/services.ts'
import { freePort, startSluice, type SluiceProcess } from '../support/sluice.ts'

const { values: args } = parseArgs({
  options: {
    kills: { type: 'string', default: '5' },
    rows: { type: 'string', default: '15000' },
    only: { type: 'string', default: 'redis,postgres' },
    seed: { type: 'string' },
  },
})
const kills = Number(args.kills)
const ROWS = Number(args.rows)
const seed = Number(args.seed ?? Math.trunc(Math.random() * 2 ** 31))
const random = new Random(seed)
const TABLE = 'world.items'
const CATCH_UP_MS = 120_000
const WRITERS = 4

interface Target extends AsyncDisposable {
  readonly name: string
  readonly service: Service
  readonly sink: object
  /** "part/k" → n. */
  read(): Promise<Rows>
}

async function redisTarget(): Promise<Target> {
  const service = await privateService('redis')
  const client = new Redis(service.url, { maxRetriesPerRequest: 0, retryStrategy: () => 50 })
  client.on('error', () => {})
  return {
    name: 'redis',
    service,
    sink: { type: 'redis', port: service.port, rules: [{ kind: 'hash', key: 'items:{part}/{k}' }] },
    async read() {
      const keys = await client.keys('items:*')
      const pipeline = client.pipeline()
      for (const key of keys) pipeline.hget(key, 'n')
      const answers = (await pipeline.exec()) ?? []
      const rows: Rows = new Map()
      for (const [i, [error, n]] of answers.entries()) {
        if (error) throw error
        if (n !== null) rows.set(keys[i]!.slice('items:'.length), Number(n))
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
    service,
    sink: { type: 'sql', url: service.url, table: 'items', createTables: true },
    async read() {
      client ??= await connect()
      try {
        const { rows } = await client.query<{ k: string; part: number; n: string }>(
          'SELECT k, part, n FROM items',
        )
        return new Map(rows.map(({ k, part, n }) => [`${part}/${k}`, Number(n)]))
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
const targets: Readonly<Record<string, () => Promise<Target>>> = {
  redis: redisTarget,
  postgres: postgresTarget,
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
          if (n < (this.#seen.get(key) ?? -1)) this.wentBack++
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
      sinks: Object.fromEntries(
        list.map((t) => [
          t.name,
          { ...t.sink, initialLoad: 'always', retry: { minMs: 50, maxMs: 500 } },
        ]),
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
      count = different(source, await target.read())
    } catch (error) {
      if (Date.now() > until) throw error
    }
    if (count === 0 || Date.now() > until) return count
    await sleep(200)
  }
}

async function main(): Promise<number> {
  console.log(`chaos:snapshot with seed ${seed}`)
  await using stack = new AsyncDisposableStack()
  const list: Target[] = []
  for (const name of args.only.split(',')) {
    const open = targets[name]
    if (open === undefined) throw new Error(`expected --only of redis, postgres, got ${name}`)
    list.push(stack.use(await open()))
  }
  const mysql = stack.use(await privateMysql('9.7'))
  await openWorld(mysql, TABLE, ROWS)
  const dir = mkdtempSync(join(tmpdir(), 'sluice-chaos-snapshot-'))
  stack.defer(() => rmSync(dir, { recursive: true, force: true }))
  const clock = new Clock()
  const share = Math.ceil((ROWS * 1.1) / WRITERS)
  const writers = Array.from(
    { length: WRITERS },
    (_, i) =>
      new Writer(mysql, TABLE, {
        random: new Random(seed + i + 1),
        clock,
        ids: { from: i * share, to: (i + 1) * share },
        pauseMs: 6,
      }),
  )
  const parts = { mysql, list, dir, port: await freePort() }
  const world: World = { ...parts, sluice: await startSluice(optionsOf(parts)) }
  stack.defer(() => world.sluice.kill())
  const watchers = list.map((target) => new Watcher(target))
  for (let n = 1; n <= kills; n++) {
    await sleep(random.int(0, 1500))
    console.log(`kill ${n}/${kills}: ${await kill(world)}`)
  }
  await sleep(500)
  const stopped = performance.now()
  await Promise.all(writers.map((w) => w.stop()))
  const source = await readWorld(mysql, TABLE)
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
  if (sum.different === 0 && sum.wentBack === 0) return 0
  console.log(world.sluice.log.slice(-40).join('\n'))
  return 1
}

process.exitCode = await main()
