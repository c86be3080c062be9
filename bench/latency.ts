/**
 * Commit-to-client latency: 1,000 small transactions a second on a real MySQL, through a real Sluice process, to an SDK
 * client that acks. A sample is the time from the moment the INSERT's OK reached the writer to the moment the client
 * has the row; negative values (the binlog is sent before the OK is) count as 0. Writers, client and a bare dump share
 * one process and one clock. The bare dump says what of it MySQL and the machine take with no Sluice between: when the
 * raw event reaches a socket here.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect } from '../src/client.ts'
import type { MysqlServer } from '../test/support/mysql.ts'
import { startSluice } from '../test/support/sluice.ts'
import { openDump } from './subjects/dump.ts'

export interface LatencyRow {
  readonly workload: 'latency'
  readonly subject: 'sluice-tcp'
  readonly p50Ms: number
  readonly p99Ms: number
  /** The same of the bare dump. */
  readonly floorP50Ms: number
  readonly floorP99Ms: number
  /** From the raw event here to the row at the client: what Sluice, its way over two sockets and its client take. */
  readonly addedP50Ms: number
  readonly addedP99Ms: number
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
  const raw: number[] = []
  const dump = await watchDump(mysql, raw)
  const total = await write(mysql, durationMs, committed)
  const over = (): boolean => rows >= total && raw.length >= total
  for (const end = performance.now() + 10_000; !over() && performance.now() < end;)
    await new Promise((resolve) => setTimeout(resolve, 20))
  dump.destroy()
  stop.abort()
  await reading.catch(() => {})
  await client.close()
  await sluice.stop()
  rmSync(dir, { recursive: true, force: true })
  const from = Math.floor(total / 5)
  const [p50Ms, p99Ms] = quantiles(committed, arrived, from)
  const [floorP50Ms, floorP99Ms] = quantiles(committed, raw, from)
  const [addedP50Ms, addedP99Ms] = quantiles(raw, arrived, from)
  return {
    workload: 'latency',
    subject: 'sluice-tcp',
    p50Ms,
    p99Ms,
    floorP50Ms,
    floorP99Ms,
    addedP50Ms,
    addedP99Ms,
  }
}

/** Median and 99th percentile of what passed between two times of each row, from row `first` on. */
function quantiles(began: readonly number[], ended: readonly number[], first: number) {
  const samples: number[] = []
  for (let id = first; id < began.length; id++) {
    const at = ended[id]
    if (at === undefined) throw new Error(`row ${id} did not arrive`)
    samples.push(Math.max(0, at - began[id]!))
  }
  samples.sort((a, b) => a - b)
  const at = (q: number) => samples[Math.floor((samples.length - 1) * q)]!
  return [at(0.5), at(0.99)] as const
}

const WRITE_ROWS = 30
/** In a packet: head, OK, event header, table id, flags, extra (none), width, columns, NULL bits. Then the id. */
const ID_AT = 4 + 1 + 19 + 6 + 2 + 2 + 1 + 1 + 1

/** Notes when each row's raw event is here, from now on. Nothing else may be written meanwhile. */
async function watchDump(mysql: MysqlServer, raw: number[]): Promise<Socket> {
  const [status] = await mysql.query<{ File: string; Position: number }>('SHOW BINARY LOG STATUS')
  const { host, port, user, password } = mysql
  const place = { file: status!.File, from: Number(status!.Position) }
  const socket = await openDump({ host, port, user, password, ...place, serverId: 424_243 })
  let rest: Buffer = Buffer.alloc(0)
  socket.on('data', (piece: Buffer) => {
    const now = performance.now()
    const chunk: Buffer = rest.length > 0 ? Buffer.concat([rest, piece]) : piece
    let at = 0
    while (chunk.length - at >= 4) {
      const length = chunk.readUIntLE(at, 3)
      if (chunk.length - at < 4 + length) break
      if (chunk[at + 9] === WRITE_ROWS) raw[Number(chunk.readBigInt64LE(at + ID_AT))] = now
      at += 4 + length
    }
    rest = chunk.subarray(at)
  })
  return socket
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
