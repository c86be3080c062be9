/**
 * `npm run bench:admin -- [--rows N] [--rounds N] [--json FILE]`: what the admin port costs, and how quickly it answers while the
 * server streams as fast as it can. Rounds alternate over one stretch of the binlog, each with a `sluice serve` of its own and a client
 * that acks: `alone` (nobody asks), `watched` (what an open console asks, 1 request a second of an own poller and 1 scrape of the metrics a
 * second, but not what drawing costs the browser's machine), `asked` (one request after another, 5 ms apart, timed). Prints one table.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, get } from 'node:http'
import { cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { privateMysql, type MysqlServer } from '../test/support/mysql.ts'
import { freePort, startSluice } from '../test/support/sluice.ts'
import type { Measured, Task } from './subjects/common.ts'
import { workloads } from './workloads.ts'

const modes = ['alone', 'watched', 'asked'] as const
type Mode = (typeof modes)[number]
interface AdminRow {
  readonly mode: Mode
  readonly rowsPerSecond: number
  readonly cpuSeconds: number // of the server
  readonly requestsMs: readonly number[]
}

const { values: args } = parseArgs({
  options: {
    rows: { type: 'string', default: '3000000' },
    rounds: { type: 'string', default: '5' },
    json: { type: 'string' },
  },
})
const rows = Number(args.rows)
const TOKEN = 'token-of-the-admin-bench'
const DESTINATION = 'bench'
const one = `/api/v1/instances/${DESTINATION}`
/** What an instance's page of the console asks every two seconds; the last hour every ten. */
const consoleAsks = ['/api/v1/server', one, `/api/v1/errors?destination=${DESTINATION}&limit=20`]
const reads = [
  ...consoleAsks,
  '/api/v1/instances',
  '/api/v1/stages',
  `${one}/tables`,
  `${one}/history`,
]

async function load(mysql: MysqlServer): Promise<Task> {
  const workload = workloads.find(({ name }) => name === 'narrow_ins')!
  const place = async () => {
    const [row] = await mysql.query<{ File: string; Position: number }>('SHOW BINARY LOG STATUS')
    return { file: row!.File, offset: Number(row!.Position) }
  }
  const db = await mysql.connect()
  await db.query('CREATE DATABASE bench')
  await db.query('USE bench')
  await workload.setup(db, rows)
  await db.query('FLUSH BINARY LOGS')
  const from = await place()
  await workload.load(db, rows)
  const to = await place()
  await db.end()
  if (from.file !== to.file) throw new Error('the stretch spans binlog files: use fewer rows')
  const { host, port, user, password } = mysql
  const stretch = { database: 'bench', file: from.file, from: from.offset, to: to.offset, rows }
  return { host, port, user, password, ...stretch }
}
async function runClient(task: Task): Promise<Measured> {
  const script = join(import.meta.dirname, 'subjects', 'tcp-client.ts')
  const child = spawn(process.execPath, [script, JSON.stringify(task)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let last = ''
  for await (const line of createInterface({ input: child.stdout })) last = line
  if (child.exitCode === null) await once(child, 'exit')
  if (child.exitCode !== 0) throw new Error(`the client exited with ${child.exitCode}`)
  return JSON.parse(last) as Measured
}
function cpuSeconds(child: ChildProcess): number {
  const stat = readFileSync(`/proc/${child.pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}

/** One request; its time in ms until the whole answer is there. */
function ask(port: number, path: string, agent: Agent): Promise<number> {
  const begin = performance.now()
  return new Promise((resolve, reject) => {
    const headers = { authorization: `Bearer ${TOKEN}` }
    get({ host: '127.0.0.1', port, path, headers, agent }, (answer) => {
      answer.on('error', reject)
      answer.on('end', () =>
        answer.statusCode === 200
          ? resolve(performance.now() - begin)
          : reject(new Error(`${path}: ${answer.statusCode}`)),
      )
      answer.resume()
    }).on('error', reject)
  })
}
/** Asks as the mode does, until it is stopped. */
async function pester(mode: Mode, port: number, signal: AbortSignal): Promise<number[]> {
  const times: number[] = []
  const agent = new Agent({ keepAlive: true, maxSockets: 6 })
  const pause = (ms: number) => sleep(ms, undefined, { signal }).catch(() => {})
  const all = (paths: readonly string[]) =>
    Promise.all(paths.map(async (path) => times.push(await ask(port, path, agent))))
  if (mode === 'asked') {
    for (let i = 0; !signal.aborted; i++) {
      await all([reads[i % reads.length]!])
      await pause(5)
    }
  }
  for (let second = 0; mode === 'watched' && !signal.aborted; second++) {
    const page = second % 2 === 0 ? consoleAsks : []
    const hour = second % 10 === 0 ? [`${one}/history`] : []
    await all(['/api/v1/instances', '/metrics', ...page, ...hour])
    await pause(1000)
  }
  agent.destroy()
  return times
}

async function run(task: Task, mode: Mode): Promise<AdminRow> {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-bench-'))
  const canalPort = await freePort()
  const client = runClient({ ...task, canalPort })
  client.catch(() => {})
  const { host, port, user, password } = task
  const sluice = await startSluice({
    dir,
    port: canalPort,
    server: { admin: { port: 0, accounts: { bench: { role: 'operator', token: TOKEN } } } },
    instances: {
      [DESTINATION]: {
        source: { host, port, user, password, tls: { mode: 'disabled' } },
        start: { file: task.file, offset: task.from },
        filter: { include: `${task.database}\\..*` },
      },
    },
  })
  const stop = new AbortController()
  try {
    const said = await sluice.logged('serving metrics, health and the API')
    const admin = (JSON.parse(said) as { port: number }).port
    const running = JSON.parse(await sluice.logged(`instance ${DESTINATION} running`)) as {
      time: string
    }
    const pestering = pester(mode, admin, stop.signal)
    pestering.catch(() => {})
    const { endedAtMs } = await client
    stop.abort()
    const requestsMs = await pestering
    const seconds = (endedAtMs! - new Date(running.time).getTime()) / 1000
    return {
      mode,
      rowsPerSecond: rows / seconds,
      cpuSeconds: cpuSeconds(sluice.process),
      requestsMs,
    }
  } finally {
    stop.abort()
    await sluice.stop()
    rmSync(dir, { recursive: true, force: true })
  }
}

const middle = (numbers: readonly number[], share = 0.5): number =>
  numbers.toSorted((a, b) => a - b)[
    Math.min(numbers.length - 1, Math.floor(numbers.length * share))
  ] ?? NaN

console.log(
  `MySQL 9.7, ${cpus().length} cores (${cpus()[0]?.model}), Node ${process.version}, load ${loadavg()
    .map((n) => n.toFixed(1))
    .join(' ')}`,
)
await using mysql = await privateMysql('9.7', {
  args: ['--max-binlog-size=1073741824', '--innodb-buffer-pool-size=512M'],
})
const task = await load(mysql)
const done: AdminRow[] = []
for (let round = 0; round < Number(args.rounds); round++) {
  for (const mode of round % 2 === 0 ? modes : modes.toReversed()) {
    const row = await run(task, mode)
    console.log(`  ${mode}: ${Math.round(row.rowsPerSecond).toLocaleString('en')} rows/s`)
    done.push(row)
  }
}
const alone = done.filter((r) => r.mode === 'alone')
const of = (list: readonly AdminRow[], key: 'rowsPerSecond' | 'cpuSeconds') =>
  middle(list.map((r) => r[key]))
const lines = modes.map((mode) => {
  const own = done.filter((r) => r.mode === mode)
  const requests = own.flatMap((r) => r.requestsMs)
  const ms = (share: number) =>
    requests.length === 0 ? '' : `${middle(requests, share).toFixed(1)} ms`
  const speed = of(own, 'rowsPerSecond')
  const cpu = of(own, 'cpuSeconds')
  return `| ${mode} | ${Math.round(speed).toLocaleString('en')} | ${(speed / of(alone, 'rowsPerSecond')).toFixed(3)} | ${cpu.toFixed(2)} | ${(cpu / of(alone, 'cpuSeconds')).toFixed(3)} | ${requests.length} | ${ms(0.5)} | ${ms(0.99)} |`
})
console.log(
  `\n| | rows/s | ÷ alone | CPU s | ÷ alone | requests | p50 | p99 |\n|---|---|---|---|---|---|---|---|\n${lines.join('\n')}\n`,
)
console.log(`Medians of ${args.rounds} rounds; load at the end ${loadavg()[0]!.toFixed(1)}.`)
if (args.json) writeFileSync(args.json, JSON.stringify(done, null, 2) + '\n')
