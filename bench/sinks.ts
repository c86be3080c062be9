/**
 * `npm run bench:sinks -- [--json FILE] [--rows N] [--only redis,kafka] [--repeat N]`: how fast a backlog of rows gets into each
 * destination, against the ceiling of the destination's client: the same library, on the same machine, in the same run,
 * writing payloads that were made beforehand, with no CDC in front (bench/ceilings/). Everything is real: a MySQL with a
 * million rows in its binlog, the destination, a `sluice serve` process. Prints one table and writes the rows of it.
 *
 * Both have written a tenth as much before the time is taken, for a server has been running when a backlog comes: compiled is
 * what is hot, and its connections are open. What takes seconds only is done three times (--repeat), the ceiling and the sink in
 * turn, and the round in the middle counts: machines are faster and slower from one second to the other.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { DatabaseSync, type StatementSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { comparePositions, type Position } from '../src/change.ts'
import { stateFile } from '../src/instance.ts'
import { positionFromJson } from '../src/store/state.ts'
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
    repeat: { type: 'string', default: '3' },
  },
})
const total = Number(args.rows)
const warm = Math.ceil(total / 10 / 5000) * 5000
/** A round that takes less is done again. */
const QUICK_SECONDS = 10
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

interface Stretch {
  readonly start: Place // of the rows before the time is taken
  readonly from: Place
  readonly to: Place
}

/** A million rows of the bench's narrow table; returns the stretch of the binlog that holds them. */
async function load(mysql: MysqlServer): Promise<Stretch> {
  const workload = workloads.find(({ name }) => name === 'narrow_ins')!
  const db = await mysql.connect()
  await db.query(`CREATE DATABASE ${DATABASE}`)
  await db.query(`USE ${DATABASE}`)
  await workload.setup(db, warm + total)
  await db.query('FLUSH BINARY LOGS')
  const start = await place(mysql)
  await workload.load(db, warm)
  const from = await place(mysql)
  await workload.load(db, warm + total, warm)
  const to = await place(mysql)
  await db.end()
  return { start, from, to }
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
  const child = spawn(process.execPath, [script, JSON.stringify({ url, rows: total, warm })], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let last = ''
  for await (const line of createInterface({ input: child.stdout })) last = line
  if (child.exitCode === null) await once(child, 'exit')
  if (child.exitCode !== 0) throw new Error(`the ceiling of ${name} exited with ${child.exitCode}`)
  return total / (JSON.parse(last) as { seconds: number }).seconds
}

/** Asks again and again how far a sink is, by the state file; cheaply, for it takes from the two cores that are measured. */
class Progress {
  readonly #file: string
  readonly #cursor: string
  #select: StatementSync | undefined

  constructor(file: string, cursor: string) {
    this.#file = file
    this.#cursor = cursor
  }
  /** Resolves when all before `place` is confirmed. */
  async reach(place: Place, child: ChildProcess): Promise<number> {
    for (let waited = 0; ; waited++) {
      const acked = this.#acked()
      if (acked && comparePositions(acked, { ...place, skip: 0 }) >= 0) return performance.now()
      if (child.exitCode !== null || waited > 60_000) throw new Error('the backlog was not written')
      await sleep(10)
    }
  }
  #acked(): Position | undefined {
    try {
      this.#select ??= new DatabaseSync(this.#file, { readOnly: true }).prepare(
        'SELECT acked FROM cursors WHERE client = ?',
      )
      const row = this.#select.get(this.#cursor)
      return row && positionFromJson(String(row['acked']), this.#file)
    } catch {
      return undefined // it is being made
    }
  }
}

/** From the moment the destination has confirmed the first rows to the moment it has confirmed the last one. */
async function measure(
  mysql: MysqlServer,
  { start, from, to }: Stretch,
  { name, sink }: Destination,
): Promise<Omit<SinkRow, 'sink' | 'ceilingRowsPerSecond'>> {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-bench-'))
  const { host, port, user, password } = mysql
  const sluice = await startSluice({
    dir,
    instances: {
      [INSTANCE]: {
        source: { host, port, user, password, tls: { mode: 'disabled' } },
        start,
        filter: { include: `${DATABASE}\\.narrow` },
        sinks: { [name]: sink },
      },
    },
  })
  const { process: child } = sluice
  try {
    const progress = new Progress(stateFile(join(dir, 'data'), INSTANCE), `sink:${name}`)
    const begin = await progress.reach(from, child)
    const before = usage(child).cpuSeconds
    const end = await progress.reach(to, child)
    const { cpuSeconds, peakRssMb } = usage(child)
    const rowsPerSecond = (total / (end - begin)) * 1000
    return { rows: total, rowsPerSecond, cpuSeconds: cpuSeconds - before, peakRssMb }
  } catch (error) {
    throw new Error(`${name}: ${(error as Error).message}:\n${sluice.log.join('\n')}`, {
      cause: error,
    })
  } finally {
    await sluice.stop()
    rmSync(dir, { recursive: true, force: true })
  }
}

const ratio = (row: SinkRow): number => row.rowsPerSecond / row.ceilingRowsPerSecond

function print(rows: readonly SinkRow[]): void {
  const n = (value: number): string => Math.round(value).toLocaleString('en')
  const lines = rows.map(
    (r) =>
      `| ${r.sink} | ${n(r.rowsPerSecond)} | ${n(r.ceilingRowsPerSecond)} | ${ratio(r).toFixed(2)} | ${r.cpuSeconds.toFixed(1)} | ${n(r.peakRssMb)} |`,
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
  const rounds: SinkRow[] = []
  let quick = true
  while (quick && rounds.length < Number(args.repeat)) {
    await using destination = await start()
    const ceilingRowsPerSecond = await ceiling(destination)
    await destination.empty()
    const measured = await measure(mysql, stretch, destination)
    rounds.push({ sink: name, ...measured, ceilingRowsPerSecond })
    quick = total / ceilingRowsPerSecond + total / measured.rowsPerSecond < QUICK_SECONDS
  }
  rounds.sort((a, b) => ratio(a) - ratio(b))
  console.log(`  ${name}: ${rounds.map((round) => ratio(round).toFixed(2)).join(', ')}`)
  out.push(rounds[rounds.length >> 1]!)
}
print(out)
if (args.json) writeFileSync(args.json, `${JSON.stringify(out, null, 2)}\n`)
