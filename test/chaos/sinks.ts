/**
 * `npm run chaos:sinks -- --faults N --seconds N [--only redis,kafka] [--seed N]`: the bank runs on a real MySQL while
 * Sluice, MySQL, the destinations and the connections between them are killed, frozen and cut at random. Afterwards
 * every destination must equal the source, and a read_committed consumer of Kafka must have seen every change exactly
 * once. Prints a line per destination, and exits 1 unless all are right:
 *
 *   redis faults 50 expected 4711 lost 0 duplicated 0 different 0
 *
 * expected: changes of the source. lost, duplicated: of those, as far as the destination keeps changes. different: rows
 * that are not as in the source.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Random } from '../e2e/load.ts'
import { privateMysql, type MysqlServer } from '../support/mysql.ts'
import { Proxy } from '../support/proxy.ts'
import { freePort, startSluice, type SluiceProcess } from '../support/sluice.ts'
import { accounts, ACCOUNTS, OPENING, openBank, Teller, type Account } from './bank.ts'
import { targets, type Contents, type Target } from './targets.ts'

const { values: args } = parseArgs({
  options: {
    faults: { type: 'string', default: '10' },
    seconds: { type: 'string', default: '30' },
    only: { type: 'string' },
    seed: { type: 'string' },
  },
})
const faults = Number(args.faults)
const seconds = Number(args.seconds)
const seed = Number(args.seed ?? Math.trunc(Math.random() * 2 ** 31))
const random = new Random(seed)
const CATCH_UP_MS = 120_000
const DATABASE = 'bank'

/** Everything that runs, and what can be done to it. */
interface World {
  readonly mysql: MysqlServer
  readonly source: Proxy
  readonly list: readonly Target[]
  readonly dir: string
  readonly port: number
  sluice: SluiceProcess
}
interface Fault {
  readonly name: string
  run(world: World): Promise<void>
}

const down = (): Promise<void> => sleep(random.int(0, 800))
const startOptions = ({ dir, port, source, mysql, list }: Omit<World, 'sluice'>) => ({
  dir,
  port,
  instances: {
    [DATABASE]: {
      source: { host: '127.0.0.1', port: source.port, user: mysql.user, password: mysql.password },
      start: 'earliest',
      filter: { include: `${DATABASE}\\..*` },
      retry: { minMs: 50, maxMs: 1000 },
      sinks: Object.fromEntries(
        list.map((t) => [t.name, { ...t.sink, retry: { minMs: 50, maxMs: 1000 } }]),
      ),
    },
  },
})

/** By weight: Sluice dies most often. */
function faultsOf(list: readonly Target[]): Fault[] {
  const sluice: Fault = {
    name: 'kill -9 sluice',
    async run(world) {
      await world.sluice.kill()
      await down()
      world.sluice = await startSluice(startOptions(world))
    },
  }
  const mysql: Fault = {
    name: 'kill -9 mysql',
    async run(world) {
      await world.mysql.kill()
      await down()
      await world.mysql.start()
    },
  }
  const cutSource: Fault = {
    name: 'cut mysql',
    run: ({ source }) => Promise.resolve(source.cut(random.chance(50))),
  }
  const frozen: Fault = {
    name: 'freeze sluice',
    async run(world) {
      world.sluice.process.kill('SIGSTOP')
      await down()
      world.sluice.process.kill('SIGCONT')
    },
  }
  const ofTargets = list.flatMap((t): Fault[] => [
    {
      name: `kill -9 ${t.name}`,
      async run() {
        await t.service.kill()
        await down()
        await t.service.start()
      },
    },
    {
      name: `cut ${t.name}`,
      run: () => Promise.resolve(t.proxy.cut(random.chance(50))),
    },
    {
      name: `cut ${t.name} before it has answered`,
      async run() {
        // what was asked for is done, and nobody hears of it
        t.proxy.rule = () => 'hold'
        await sleep(random.int(5, 100))
        t.proxy.cut()
        t.proxy.rule = (chunk) => chunk
      },
    },
  ])
  return [sluice, sluice, sluice, mysql, cutSource, frozen, ...ofTargets]
}

/** How a destination differs from the source. */
interface Verdict {
  readonly lost: number
  readonly duplicated: number
  readonly different: number
}
function compare(source: ReadonlyMap<number, Account>, { rows, seen }: Contents): Verdict {
  let different = 0
  for (const [id, { balance, counter }] of source) {
    const row = rows.get(id)
    if (row?.balance !== balance || row.counter !== counter) different++
  }
  for (const id of rows.keys()) if (!source.has(id)) different++
  let lost = 0
  let duplicated = 0
  if (seen) {
    for (const [id, { counter }] of source)
      for (let n = 0; n <= counter; n++) if (!seen.has(`${id}/${n}`)) lost++
    for (const times of seen.values()) duplicated += times - 1
  }
  return { lost, duplicated, different }
}
const right = (v: Verdict): boolean => v.lost === 0 && v.duplicated === 0 && v.different === 0

/** The verdict once it is right, or when there was no more time. */
async function settled(target: Target, source: ReadonlyMap<number, Account>): Promise<Verdict> {
  const until = Date.now() + CATCH_UP_MS
  for (;;) {
    let verdict: Verdict = { lost: 0, duplicated: 0, different: ACCOUNTS }
    try {
      verdict = compare(source, await target.read())
    } catch (error) {
      // it may have come back this very moment
      if (Date.now() > until) throw error
    }
    if (right(verdict) || verdict.duplicated > 0 || Date.now() > until) return verdict
    await sleep(500)
  }
}

/** Runs the bank with faults; the number of them per destination is the same for all, for they share the source. */
async function run(world: World): Promise<void> {
  const { mysql, list } = world
  const tellers = [1, 2, 3].map((n) => new Teller(mysql, DATABASE, new Random(seed + n)))
  const choice = faultsOf(list)
  const begin = Date.now()
  for (let n = 1; n <= faults; n++) {
    const due = begin + (n * seconds * 1000) / (faults + 1)
    await sleep(Math.max(random.int(0, 50), due - Date.now()))
    const fault = random.pick(choice)
    console.log(`${((Date.now() - begin) / 1000).toFixed(1)} s  ${n}/${faults}  ${fault.name}`)
    await fault.run(world)
  }
  await sleep(Math.max(0, begin + seconds * 1000 - Date.now()))
  await Promise.all(tellers.map((t) => t.stop()))
  console.log(`${tellers.reduce((sum, t) => sum + t.moves, 0)} moves; waiting for the destinations`)
}

async function main(): Promise<number> {
  console.log(`chaos:sinks with seed ${seed}`)
  await using stack = new AsyncDisposableStack()
  const chosen = args.only?.split(',') ?? Object.keys(targets)
  const list = await Promise.all(
    chosen.map(async (name) => stack.use(await (targets[name] ?? unknownTarget(name))())),
  )
  const mysql = stack.use(await privateMysql('9.7'))
  const source = stack.use(await Proxy.start(mysql))
  await openBank(mysql, DATABASE)
  const dir = mkdtempSync(join(tmpdir(), 'sluice-chaos-'))
  stack.defer(() => rmSync(dir, { recursive: true, force: true }))
  const parts = { mysql, source, list, dir, port: await freePort() }
  const world: World = { ...parts, sluice: await startSluice(startOptions(parts)) }
  stack.defer(() => world.sluice.kill())
  await run(world)
  const rows = await accounts(mysql, DATABASE)
  const expected = [...rows.values()].reduce((sum, { counter }) => sum + counter + 1, 0)
  const sum = [...rows.values()].reduce((total, { balance }) => total + balance, 0)
  if (sum !== ACCOUNTS * OPENING) throw new Error(`the bank itself is wrong: ${sum}`)
  let failed = false
  for (const target of list) {
    const { lost, duplicated, different } = await settled(target, rows)
    console.log(
      `${target.name} faults ${faults} expected ${expected} lost ${lost} duplicated ${duplicated} different ${different}`,
    )
    if (right({ lost, duplicated, different })) continue
    failed = true
    console.log(world.sluice.log.slice(-30).join('\n'))
  }
  return failed ? 1 : 0
}
function unknownTarget(name: string): never {
  throw new Error(`expected --only of ${Object.keys(targets).join(', ')}, got ${name}`)
}

process.exitCode = await main()
