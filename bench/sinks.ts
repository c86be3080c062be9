/**
 * `npm run bench:sinks -- [--json FILE] [--rows N] [--only redis,kafka]`: how fast a backlog of rows gets into each
 * destination, against the ceiling of the destination's client: the same library, on the same machine, in the same run,
 * writing payloads that were made beforehand, with no CDC in front (bench/ceilings/). Everything is real: a MySQL with a
 * million rows in its binlog, the destination, a `sluice serve` process. Prints one table and writes the rows of it.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { comparePositions } from '../src/change.ts'
import { stateFile } from '../src/instance.ts'
import { State } from '../src/store/state.ts'
import { privateMysql, type MysqlServer } from '../test/support/mysql.ts'
import { startSluice } from '../test/support/sluice.ts'
import { destinations, type Destination } from './destinations.ts'
import { workloads } from './workloads.ts'

interface SinkRow {
  readonly sink: string
  readonly rows: number
  readonly rowsPerSecond: number
  readonly ceilingRowsPerSecond: number
  readonly cpuSeconds: number
  readonly peakRssMb: number
}

const { values: args } = parseArgs({
  options: {
    rows: { type: 'string', default: '1000000' },
    json: { type: 'string' },
    only: { type: 'string' },
  },
})
const total = Number(args.rows)
const DATABASE = 'bench'
const INSTANCE = 'bench'

interface Place {
  readonly file: string
  readonly offset: number
}

async function place(mysql: MysqlServer): Promise<Place> {
  const [row] = await mysql.query<{ File: string; Position: number }>('SHOW BINARY LOG STATUS')
  return { file: row!.File, offset: Number(row!.Position) }
}

/** A million rows of the bench's narrow table; returns the stretch of the binlog that holds them. */
async function load(mysql: MysqlServer): Promise<{ from: Place; to: Place }> {
  const workload = workloads.find(({ name }) => name === 'narrow_ins')!
  const db = await mysql.connect()
  await db.query(`CREATE DATABASE ${DATABASE}`)
  await db.query(`USE ${DATABASE}`)
  await workload.setup(db, total)
  await db.query('FLUSH BINARY LOGS')
  const from = await place(mysql)
  await workload.load(db, total)
  const to = await place(mysql)
  await db.end()
  return { from, to }
}

/** CPU seconds and peak resident MB of a running process, from /proc. */
function usage(child: ChildProcess): { cpuSeconds: number; peakRssMb: number } {
  const stat = readFileSync(`/proc/${child.pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const ticks = Number(fields[11]) + Number(fields[12])
  const peak = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))
  return { cpuSeconds: ticks / 100, peakRssMb: Number(peak?.[1] ?? 0) / 1024 }
}

/** Runs the ceiling of a destination in a process of its own: rows a second. */
async function ceiling({ name, url }: Destination): Promise<number> {
  const script = join(import.meta.dirname, 'ceilings', `${name}.ts`)
  const child = spawn(process.execPath, [script, JSON.stringify({ url, rows: total })], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let last = ''
  for await (const line of createInterface({ input: child.stdout })) last = line
  if (child.exitCode === null) await once(child, 'exit')
  if (child.exitCode !== 0) throw new Error(`the ceiling of ${name} exited with ${child.exitCode}`)
  return total / (JSON.parse(last) as { seconds: number }).seconds
}

/** From the moment Sluice begins to read to the moment the destination has confirmed the last row. */
async function measure(
  mysql: MysqlServer,
  { from, to }: { from: Place; to: Place },
  { name, sink }: Destination,
): Promise<Omit<SinkRow, 'sink' | 'ceilingRowsPerSecond'>> {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-bench-'))
  const { host, port, user, password } = mysql
  const sluice = await startSluice({
    dir,
    instances: {
      [INSTANCE]: {
        source: { host, port, user, password, tls: { mode: 'disabled' } },
        start: from,
        filter: { include: `${DATABASE}\\.narrow` },
        sinks: { [name]: sink },
      },
    },
  })
  try {
    const running = JSON.parse(await sluice.logged(`instance ${INSTANCE} running`)) as {
      time: string | number
    }
    const file = stateFile(join(dir, 'data'), INSTANCE)
    for (let waited = 0; ; waited++) {
      const cursor = State.read(file).cursors.find(({ client }) => client === `sink:${name}`)
      if (cursor && comparePositions(cursor.acked, { ...to, skip: 0 }) >= 0) break
      if (sluice.process.exitCode !== null || waited > 60_000)
        throw new Error(`${name}: the backlog was not written:\n${sluice.log.join('\n')}`)
      await sleep(10)
    }
    const seconds = (Date.now() - new Date(running.time).getTime()) / 1000
    return { rows: total, rowsPerSecond: total / seconds, ...usage(sluice.process) }
  } finally {
    await sluice.stop()
    rmSync(dir, { recursive: true, force: true })
  }
}

function print(rows: readonly SinkRow[]): void {
  const n = (value: number): string => Math.round(value).toLocaleString('en')
  const lines = rows.map(
    (r) =>
      `| ${r.sink} | ${n(r.rowsPerSecond)} | ${n(r.ceilingRowsPerSecond)} | ${(r.rowsPerSecond / r.ceilingRowsPerSecond).toFixed(2)} | ${r.cpuSeconds.toFixed(1)} | ${n(r.peakRssMb)} |`,
  )
  console.log(
    `\n| sink | rows/s | ceiling rows/s | ÷ ceiling | CPU s | peak RSS MB |\n|---|---|---|---|---|---|\n${lines.join('\n')}\n`,
  )
}

console.log(`${cpus().length} cores (${cpus()[0]?.model}), Node ${process.version}`)
await using mysql = await privateMysql('9.7', {
  args: ['--max-binlog-size=1073741824', '--innodb-buffer-pool-size=512M'],
})
const stretch = await load(mysql)
const out: SinkRow[] = []
for (const [name, start] of Object.entries(destinations)) {
  if (args.only && !args.only.split(',').includes(name)) continue
  await using destination = await start()
  const ceilingRowsPerSecond = await ceiling(destination)
  await destination.empty()
  const measured = await measure(mysql, stretch, destination)
  console.log(`  ${name}: ${Math.round(measured.rowsPerSecond).toLocaleString('en')} rows/s`)
  out.push({ sink: name, ...measured, ceilingRowsPerSecond })
}
print(out)
if (args.json) writeFileSync(args.json, `${JSON.stringify(out, null, 2)}\n`)
