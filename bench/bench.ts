/**
 * The bench: one command starts MySQL, loads four workloads and measures every subject on the same binlog in the same
 * run: the dump floor, @vlasky/zongji decoding to objects, Sluice decoding to values, and Sluice end to end over TCP to
 * a client that acks. Each subject is a process of its own. Prints one table; `--json FILE` writes the rows.
 *
 *   npm run bench -- [--short] [--json FILE] [--only narrow_ins,…,latency] [--repeat N]
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { privateMysql, type MysqlServer } from '../test/support/mysql.ts'
import { freePort, startSluice } from '../test/support/sluice.ts'
import { measureLatency, type LatencyRow } from './latency.ts'
import type { Measured, Task } from './subjects/common.ts'
import { workloads, type Workload } from './workloads.ts'

interface BenchRow {
  readonly workload: string
  readonly subject: string
  readonly rows: number
  readonly seconds: number
  readonly rowsPerSecond: number
  readonly mbPerSecond: number
  readonly cpuSeconds: number
  readonly peakRssMb: number
}

const { values: args } = parseArgs({
  options: {
    short: { type: 'boolean', default: false },
    json: { type: 'string' },
    only: { type: 'string' },
    repeat: { type: 'string', default: '1' },
  },
})

const subjectsDir = join(import.meta.dirname, 'subjects')

/** Runs one subject process and returns the line of JSON that it ends with. */
async function runSubject(name: string, task: Task): Promise<Measured> {
  const child = spawn(process.execPath, [join(subjectsDir, `${name}.ts`), JSON.stringify(task)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let last = ''
  for await (const line of createInterface({ input: child.stdout })) last = line
  if (child.exitCode === null) await once(child, 'exit')
  if (child.exitCode !== 0) throw new Error(`the subject ${name} exited with ${child.exitCode}`)
  return JSON.parse(last) as Measured
}

/** CPU seconds and peak resident MB of a running process, from /proc. */
function usage(child: ChildProcess): { cpuSeconds: number; peakRssMb: number } {
  const stat = readFileSync(`/proc/${child.pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const ticks = Number(fields[11]) + Number(fields[12])
  const peak = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))
  return { cpuSeconds: ticks / 100, peakRssMb: Number(peak?.[1] ?? 0) / 1024 }
}

/**
 * The whole product: a real server process that begins at the stretch's first byte, and a client process that acks. The
 * clock runs from the moment the server begins to read to the moment the client has everything; CPU and memory are the
 * server's.
 */
async function runTcp(task: Task): Promise<Measured> {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-bench-'))
  const canalPort = await freePort()
  const client = runSubject('tcp-client', { ...task, canalPort })
  client.catch(() => {})
  const sluice = await startSluice({
    dir,
    port: canalPort,
    instances: {
      bench: {
        // without TLS, as every other subject
        source: {
          host: task.host,
          port: task.port,
          user: task.user,
          password: task.password,
          tls: { mode: 'disabled' },
        },
        start: { file: task.file, offset: task.from },
        filter: { include: `${task.database}\\..*` },
      },
    },
  })
  try {
    const running = JSON.parse(await sluice.logged('instance bench running')) as {
      time: string | number
    }
    const { rows, endedAtMs } = await client
    return {
      rows,
      seconds: (endedAtMs! - new Date(running.time).getTime()) / 1000,
      ...usage(sluice.process),
    }
  } finally {
    await sluice.stop()
    rmSync(dir, { recursive: true, force: true })
  }
}

const subjects: Record<string, (task: Task) => Promise<Measured>> = {
  floor: (task) => runSubject('floor', task),
  zongji: (task) => runSubject('zongji', task),
  'sluice-decode': (task) => runSubject('decode', task),
  'sluice-tcp': runTcp,
}

/** Loads a workload into a database of its own; returns the stretch of the binlog that holds it. */
async function load(mysql: MysqlServer, workload: Workload, rows: number): Promise<Task> {
  const database = `bench_${workload.name}`
  const db = await mysql.connect()
  await db.query(`CREATE DATABASE ${database}`)
  await db.query(`USE ${database}`)
  await workload.setup(db, rows)
  await db.query('FLUSH BINARY LOGS')
  const from = await position(mysql)
  await workload.load(db, rows)
  const to = await position(mysql)
  await db.end()
  if (from.file !== to.file)
    throw new Error('the stretch spans binlog files: raise max_binlog_size')
  const { host, port, user, password } = mysql
  return {
    host,
    port,
    user,
    password,
    database,
    file: from.file,
    from: from.offset,
    to: to.offset,
    rows,
  }
}

async function position(mysql: MysqlServer): Promise<{ file: string; offset: number }> {
  const [row] = await mysql.query<{ File: string; Position: number }>('SHOW BINARY LOG STATUS')
  return { file: row!.File, offset: Number(row!.Position) }
}

function median(rows: readonly BenchRow[]): BenchRow {
  return rows.toSorted((a, b) => a.seconds - b.seconds)[(rows.length - 1) >> 1]!
}

function print(rows: readonly BenchRow[], latencies: readonly LatencyRow[]): void {
  const lines = [
    '| workload | subject | rows/s | MB/s | CPU s | peak RSS MB | ÷ floor | ÷ zongji |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for (const r of rows) {
    const of = (subject: string) =>
      rows.find((o) => o.workload === r.workload && o.subject === subject)
    const ratio = (subject: string) =>
      (r.rowsPerSecond / (of(subject)?.rowsPerSecond ?? NaN)).toFixed(2)
    lines.push(
      `| ${r.workload} | ${r.subject} | ${Math.round(r.rowsPerSecond).toLocaleString('en')} | ${r.mbPerSecond.toFixed(0)} | ${r.cpuSeconds.toFixed(1)} | ${r.peakRssMb.toFixed(0)} | ${ratio('floor')} | ${ratio('zongji')} |`,
    )
  }
  const ms = (value: number): string => `${value.toFixed(1)} ms`
  for (const l of latencies) {
    lines.push(
      '',
      `Commit to client at 1,000 transactions a second: p50 ${ms(l.p50Ms)}, p99 ${ms(l.p99Ms)}.`,
      `Commit to a bare dump's socket, no Sluice: p50 ${ms(l.floorP50Ms)}, p99 ${ms(l.floorP99Ms)}; from there to the client: p50 ${ms(l.addedP50Ms)}, p99 ${ms(l.addedP99Ms)}.`,
    )
  }
  console.log(`\n${lines.join('\n')}\n`)
}

const chosen = workloads.filter((w) => !args.only || args.only.split(',').includes(w.name))
const repeat = Number(args.repeat)
console.log(`MySQL 9.7, ${cpus().length} cores (${cpus()[0]?.model}), Node ${process.version}`)
await using mysql = await privateMysql('9.7', {
  args: ['--max-binlog-size=1073741824', '--innodb-buffer-pool-size=512M'],
})
const out: BenchRow[] = []
for (const workload of chosen) {
  const rows = args.short ? workload.rows / 10 : workload.rows
  console.log(`loading ${workload.name}: ${rows.toLocaleString('en')} rows`)
  const task = await load(mysql, workload, rows)
  const megabytes = (task.to - task.from) / 1e6
  const runs: BenchRow[] = []
  for (let n = 0; n < repeat; n++) {
    for (const [subject, run] of Object.entries(subjects)) {
      const m = await run(task)
      if (m.rows !== task.rows) throw new Error(`${subject} saw ${m.rows} rows of ${task.rows}`)
      console.log(`  ${subject}: ${Math.round(m.rows / m.seconds).toLocaleString('en')} rows/s`)
      runs.push({
        workload: workload.name,
        subject,
        ...m,
        rowsPerSecond: m.rows / m.seconds,
        mbPerSecond: megabytes / m.seconds,
      })
    }
  }
  for (const subject of Object.keys(subjects))
    out.push(median(runs.filter((r) => r.subject === subject)))
}
const latencies: LatencyRow[] = []
if (!args.only || args.only.split(',').includes('latency'))
  latencies.push(await measureLatency(mysql, args.short ? 3_000 : 15_000))
print(out, latencies)
if (args.json) writeFileSync(args.json, JSON.stringify([...out, ...latencies], null, 2) + '\n')
