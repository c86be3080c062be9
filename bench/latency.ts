/**
 * Commit-to-client latency: 1,000 small transactions a second on a real MySQL, through a real Sluice process, to an SDK
 * client that acks. A sample is the time from the moment the INSERT's OK reached the writer to the moment the client
 * has the row; negative values (the binlog is sent before the OK is) count as 0.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect } from '../src/client.ts'
import type { MysqlServer } from '../test/support/mysql.ts'
import { startSluice } from '../test/support/sluice.ts'

export interface LatencyRow {
  readonly workload: 'latency'
  readonly subject: 'sluice-tcp'
  readonly p50Ms: number
  readonly p99Ms: number
}

/** `durationMs` of load; the first fifth is warm-up and not counted. */
export async function measureLatency(mysql: MysqlServer, durationMs: number): Promise<LatencyRow> {
  await mysql.query('CREATE DATABASE IF NOT EXISTS bench_latency')
  await mysql.query(
    'CREATE TABLE IF NOT EXISTS bench_latency.t (id BIGINT PRIMARY KEY, v VARCHAR(100))',
  )
  const dir = mkdtempSync(join(tmpdir(), 'sluice-bench-'))
  const { host, port, user, password } = mysql
  const sluice = await startSluice({
    dir,
    instances: {
      bench: { source: { host, port, user, password }, filter: { include: 'bench_latency\\..*' } },
    },
  })
  const committed: number[] = []
  const arrived: number[] = []
  let rows = 0 // the last to be written need not be the last to arrive
  const client = await connect({ host: '127.0.0.1', port: sluice.port, destination: 'bench' })
  const stop = new AbortController()
  const reading = (async () => {
    for await (const batch of client.batches({ size: 1000, waitMs: 1000, signal: stop.signal })) {
      const now = performance.now()
      for (const change of batch.changes) {
        if (change.kind !== 'rows') continue
        for (const row of change.rows) arrived[Number(row.after!['id'])] = now
        rows += change.rows.length
      }
      await batch.ack()
    }
  })()
  const total = await write(mysql, durationMs, committed)
  for (const end = performance.now() + 10_000; rows < total && performance.now() < end;)
    await new Promise((resolve) => setTimeout(resolve, 20))
  stop.abort()
  await reading.catch(() => {})
  await client.close()
  await sluice.stop()
  rmSync(dir, { recursive: true, force: true })
  const samples: number[] = []
  for (let id = Math.floor(total / 5); id < total; id++) {
    const at = arrived[id]
    if (at === undefined) throw new Error(`row ${id} did not arrive`)
    samples.push(Math.max(0, at - committed[id]!))
  }
  samples.sort((a, b) => a - b)
  const at = (q: number) => samples[Math.floor((samples.length - 1) * q)]!
  return { workload: 'latency', subject: 'sluice-tcp', p50Ms: at(0.5), p99Ms: at(0.99) }
}

/** Four connections share the rate; each row's time of commit goes into `committed`. Returns the number of rows. */
async function write(mysql: MysqlServer, durationMs: number, committed: number[]): Promise<number> {
  const connections = await Promise.all([0, 1, 2, 3].map(() => mysql.connect()))
  const total = durationMs
  const begin = performance.now()
  await Promise.all(
    connections.map(async (db, lane) => {
      for (let id = lane; id < total; id += connections.length) {
        const due = begin + id
        const early = due - performance.now()
        if (early > 1) await new Promise((resolve) => setTimeout(resolve, early))
        await db.query('INSERT INTO bench_latency.t VALUES (?, REPEAT("x", 80))', [id])
        committed[id] = performance.now()
      }
      await db.end()
    }),
  )
  return total
}
