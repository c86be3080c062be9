/**
 * `npm run bench:snapshot -- [--rows N] [--rounds N] [--shape narrow|slim] [--json FILE]`: how quickly a table of a real MySQL is
 * read into a sink that keeps nothing, beside `mysqldump` of the same table to /dev/null, in turns. While Sluice reads, a writer
 * does small transactions on another table and a client receives them: their latency is that of the running stream, and
 * the same is measured before the snapshot begins. Debezium's published figure stands beside it for comparison. Exits 1
 * when rows are missing.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { connect } from '../src/client.ts'
import { privateMysql, type MysqlServer } from '../test/support/mysql.ts'
import { cached, debianLoader, findCommand, unpackDebian } from '../test/support/services/fetch.ts'
import type { SnapshotMeasured, SnapshotTask } from './subjects/snapshot.ts'

const { values: args } = parseArgs({
  options: {
    rows: { type: 'string', default: '3000000' },
    rounds: { type: 'string', default: '3' },
    shape: { type: 'string', default: 'narrow' },
    json: { type: 'string' },
    profile: { type: 'string' }, // a folder for a CPU profile of the subject
    'no-mysqldump': { type: 'boolean', default: false },
  },
})
const ROWS = Number(args.rows)
const TABLE = 'bench.narrow'

/** The published figures: of others, elsewhere, so they say the order of magnitude and no more. */
const DEBEZIUM =
  'Debezium publishes no rate of its own for MySQL snapshots. Published by others: 45,476 rows/s (Debezium Server 3.6.1, 8 snapshot ' +
  'threads, PostgreSQL to PostgreSQL, galaxy-io/benchmarks 2026-08-31); about 12,000 rows/s (its snapshot inside Flink CDC 1.x, ' +
  '65 million rows in 89 minutes, release post of Flink CDC 2.0)'
/** As in workloads.ts, and a row of 40 bytes for very many of them. */
const shapes: Readonly<Record<string, { readonly columns: string; readonly values: string }>> = {
  narrow: {
    columns: 'n INT NOT NULL, a CHAR(120) NOT NULL, b CHAR(60) NOT NULL',
    values: `i * 7919 % 1000003, RPAD(HEX(i * 2654435761), 120, 'x'), RPAD(i, 60, 'y')`,
  },
  slim: {
    columns: 'n INT NOT NULL, a VARCHAR(40) NOT NULL',
    values: `i * 7919 % 1000003, CONCAT('row ', i)`,
  },
}

interface Row {
  readonly workload: 'snapshot'
  readonly subject: 'mysqldump' | 'sluice'
  readonly rows: number
  readonly seconds: number
  readonly rowsPerSecond: number
  readonly cpuSeconds: number
  readonly cpuSecondsPerMillion: number
  readonly peakRssMb: number
  /** Commit to client on another table, before and while the snapshot runs. */
  readonly p99BeforeMs?: number
  readonly p99Ms?: number
}

/** Rows by cross joins of the digits, a million a statement, not in the log. */
async function load(mysql: MysqlServer): Promise<void> {
  const shape = shapes[args.shape]
  if (shape === undefined)
    throw new Error(`expected --shape of ${Object.keys(shapes).join(', ')}, got ${args.shape}`)
  const db = await mysql.connect()
  await db.query(`CREATE DATABASE bench; USE bench; SET SESSION sql_log_bin = 0, unique_checks = 0`)
  await db.query(`CREATE TABLE narrow (id BIGINT PRIMARY KEY, ${shape.columns})`)
  await db.query(
    'CREATE TABLE d (i INT PRIMARY KEY); INSERT INTO d VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)',
  )
  const at = ['a', 'b', 'c', 'd', 'e', 'f']
  const number = at.map((name, power) => `${name}.i * ${10 ** power}`).join(' + ')
  // the last one first, so that rows come in the order of the key
  const from = at
    .map((name) => `d ${name}`)
    .toReversed()
    .join(' STRAIGHT_JOIN ')
  for (let first = 0; first < ROWS; first += 1_000_000) {
    await db.query(
      `INSERT INTO narrow SELECT i, ${shape.values} FROM (SELECT ${first} + ${number} AS i FROM ${from}) x WHERE i < ${ROWS}`,
    )
  }
  await db.query('CREATE TABLE ticks (id BIGINT PRIMARY KEY, v VARCHAR(100))')
  await db.end()
}

async function mysqldump(mysql: MysqlServer): Promise<Row | undefined> {
  const program = await findDump()
  if (program === undefined) return undefined
  const { host, port, user, password } = mysql
  const where = [`--host=${host}`, `--port=${port}`, `--user=${user}`, `--password=${password}`]
  const how = [
    '--no-defaults',
    ...where,
    '--single-transaction',
    '--no-tablespaces',
    '--ssl-mode=DISABLED',
    '--set-gtid-purged=OFF',
  ]
  const began = performance.now()
  const [command, ...first] = program
  const usage = join(mkdtempSync(join(tmpdir(), 'sluice-bench-')), 'usage')
  const timed = ['-c', `"$@" >/dev/null 2>&1; code=$?; times >"${usage}"; exit $code`, 'sh']
  const child = spawn('bash', [...timed, command!, ...first, ...how, 'bench', 'narrow'], {
    stdio: 'ignore',
  })
  let peakKb = 0
  const watching = setInterval(() => {
    peakKb = Math.max(peakKb, residentOf(child.pid!))
  }, 100)
  const [code] = (await once(child, 'exit')) as [number | null]
  clearInterval(watching)
  if (code !== 0) throw new Error(`mysqldump exited with ${code}`)
  const seconds = (performance.now() - began) / 1000
  // "0m1.234s 0m0.123s" twice: of the shell, of its children
  const [, children = ''] = readFileSync(usage, 'utf8').split('\n')
  const cpuSeconds = [...children.matchAll(/(\d+)m([\d.]+)s/g)].reduce(
    (sum, [, m, s]) => sum + Number(m) * 60 + Number(s),
    0,
  )
  return row('mysqldump', { rows: ROWS, seconds, cpuSeconds, peakRssMb: peakKb / 1024 })
}
/** kB of the shell's child. */
function residentOf(pid: number): number {
  try {
    const child = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')[0]!
    return Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${child}/status`, 'utf8'))?.[1] ?? 0)
  } catch {
    return 0 // it has ended
  }
}
async function findDump(): Promise<readonly string[] | undefined> {
  if (args['no-mysqldump']) return undefined
  const own = findCommand('mysqldump')
  if (own !== undefined) return [own]
  try {
    const folder = await cached('mysql-client-9.7', 'fetching mysqldump (Debian packages)', (to) =>
      unpackDebian('sid', ['mysql-client-core'], to, (name) => !/perl|^debconf|^ucf/.test(name)),
    )
    return [...debianLoader(folder), join(folder, 'usr/bin/mysqldump')]
  } catch (error) {
    console.error(`no mysqldump to compare with: ${(error as Error).message}`)
    return undefined
  }
}

function row(
  subject: Row['subject'],
  { rows, seconds, cpuSeconds, peakRssMb }: SnapshotMeasured,
  more: object = {},
): Row {
  const about = { workload: 'snapshot', subject, rows, seconds } as const
  const rates = {
    rowsPerSecond: rows / seconds,
    cpuSeconds,
    cpuSecondsPerMillion: (cpuSeconds * 1e6) / rows,
  }
  return { ...about, ...rates, peakRssMb, ...more }
}

/** Small transactions on another table, and when the client had them; numbers go on over the rounds. */
class Ticks {
  readonly committed: number[] = []
  readonly arrived: number[] = []
  readonly #stop = new AbortController()
  #done: Promise<unknown> = Promise.resolve()
  async open(mysql: MysqlServer, port: number): Promise<void> {
    const db = await mysql.connect()
    await db.query('TRUNCATE bench.ticks')
    const client = await connect({ port, destination: 'bench', filter: 'bench\\.ticks' })
    const { signal } = this.#stop
    const write = async (): Promise<void> => {
      for (let id = 0; !signal.aborted; id++) {
        await db.query('INSERT INTO bench.ticks VALUES (?, REPEAT("x", 80))', [id])
        this.committed[id] = performance.now()
        await sleep(5)
      }
      await db.end()
    }
    const read = async (): Promise<void> => {
      // a little longer than the writer, for what is on its way
      while (!signal.aborted || this.arrived.length < this.committed.length) {
        const batch = await client.get({ size: 1000, waitMs: 200 })
        const now = performance.now()
        for (const change of batch?.changes ?? [])
          if (change.kind === 'rows')
            for (const { after } of change.rows) this.arrived[Number(after!['id'])] = now
        await batch?.ack()
      }
      await client.close()
    }
    this.#done = Promise.all([write(), read()])
  }
  async close(): Promise<void> {
    this.#stop.abort()
    await this.#done
  }
  /** 99th percentile of what was committed between two moments. */
  p99(from: number, to: number): number {
    const samples = this.committed.flatMap((at, id) =>
      at >= from && at < to ? [Math.max(0, this.arrived[id]! - at)] : [],
    )
    samples.sort((a, b) => a - b)
    return samples[Math.floor((samples.length - 1) * 0.99)] ?? NaN
  }
}

/** As bin/sluice.js starts a server. */
const FLAGS = ['--max-semi-space-size=4', '--heap-growing-percent=30', '--no-parallel-scavenge']
const MALLOC = {
  MALLOC_ARENA_MAX: '2',
  MALLOC_TRIM_THRESHOLD_: '1048576',
  MALLOC_MMAP_THRESHOLD_: '262144',
}

async function sluice(mysql: MysqlServer): Promise<Row> {
  const { host, port, user, password } = mysql
  const dir = mkdtempSync(join(tmpdir(), 'sluice-bench-'))
  const task: SnapshotTask = { host, port, user, password, dir, table: TABLE, filter: 'bench\\..*' }
  const script = join(import.meta.dirname, 'subjects', 'snapshot.ts')
  const profile = args.profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${args.profile}`]
  const child = spawn(process.execPath, [...FLAGS, ...profile, script, JSON.stringify(task)], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, ...MALLOC },
  })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const line = async <T>(): Promise<T> => {
    const { done, value } = await lines.next()
    if (done === true) throw new Error(`the subject ended with ${child.exitCode}`)
    return JSON.parse(value) as T
  }
  const { port: canal } = await line<{ port: number }>()
  const ticks = new Ticks()
  await ticks.open(mysql, canal)
  await sleep(500)
  const before = performance.now()
  await sleep(2000)
  const began = performance.now()
  child.stdin.write('go\n')
  const measured = await line<SnapshotMeasured>()
  const ended = performance.now()
  await ticks.close()
  child.stdin.end()
  if (child.exitCode === null) await once(child, 'exit')
  rmSync(dir, { recursive: true, force: true })
  const p99BeforeMs = ticks.p99(before, began)
  return row('sluice', measured, { p99BeforeMs, p99Ms: ticks.p99(began, ended) })
}

const number = (n: number, digits = 0): string =>
  n.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits })
function print(rows: readonly Row[]): void {
  console.log(
    '| subject | rows/s | seconds | CPU s per million rows | peak RSS MB | p99 of the stream before, meanwhile (ms) |',
  )
  console.log('|---|---|---|---|---|---|')
  for (const {
    subject,
    rowsPerSecond,
    seconds,
    cpuSecondsPerMillion,
    peakRssMb,
    p99BeforeMs,
    p99Ms,
  } of rows) {
    const stream = p99Ms === undefined ? '' : `${number(p99BeforeMs!, 1)}, ${number(p99Ms, 1)}`
    console.log(
      `| ${subject} | ${number(rowsPerSecond)} | ${number(seconds, 1)} | ${number(cpuSecondsPerMillion, 2)} | ${number(peakRssMb)} | ${stream} |`,
    )
  }
}

async function main(): Promise<number> {
  await using mysql = await privateMysql('9.7', {
    args: [
      '--innodb-buffer-pool-size=512M',
      '--innodb-redo-log-capacity=1G',
      '--innodb-flush-log-at-trx-commit=0',
    ],
  })
  const began = performance.now()
  await load(mysql)
  const [cpu] = cpus()
  console.log(
    `${number(ROWS)} rows (${args.shape}) loaded in ${number((performance.now() - began) / 1000, 1)} s; MySQL ${mysql.version}, Node ${process.version}, ` +
      `${cpus().length} × ${cpu?.model ?? 'unknown'}, load ${loadavg()[0]!.toFixed(1)}\n`,
  )
  const rows: Row[] = []
  for (let round = 0; round < Number(args.rounds); round++)
    for (const one of [await mysqldump(mysql), await sluice(mysql)]) if (one) rows.push(one)
  print(rows)
  console.log(`\n${DEBEZIUM}.`)
  if (args.json !== undefined) writeFileSync(args.json, JSON.stringify(rows, undefined, 2) + '\n')
  const short = rows.filter(({ rows: got }) => got < ROWS)
  for (const { subject, rows: got } of short) console.error(`${subject}: ${got} of ${ROWS} rows`)
  return short.length === 0 ? 0 : 1
}
process.exitCode = await main()
