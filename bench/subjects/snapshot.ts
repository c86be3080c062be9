/**
 * The subject of bench/snapshot.ts: a process as `sluice serve` would be one, with an instance, its reader thread and the Canal
 * port, and a sink of the type `null`, which walks over its rows, counts them and keeps nothing. Says its port, waits for a
 * line on stdin, then loads the table into the sink and prints what that took.
 */
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import * as z from 'zod'
import { instanceSchema, type InstanceConfig } from '../../src/config/config.ts'
import { compileFilter } from '../../src/filter.ts'
import { Instance } from '../../src/instance.ts'
import { CanalServer } from '../../src/server/server.ts'
import { commonSchema } from '../../src/sinks/runner/options.ts'
import { defineSink, type SinkType } from '../../src/sinks/sink.ts'
import { ReaderThread } from '../../src/sources/index.ts'

export interface SnapshotTask {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
  readonly dir: string
  readonly table: string // database.table
  readonly filter: string // of the instance
}
export interface SnapshotMeasured {
  readonly rows: number
  readonly seconds: number
  readonly cpuSeconds: number
  readonly peakRssMb: number
}

let counted = 0
const nothing: SinkType = defineSink({
  type: 'null',
  summary: 'Counts rows.',
  options: z.strictObject({}),
  open: () =>
    Promise.resolve({
      promise: 'fenced',
      async write(batch) {
        for (const row of batch.rows(false)) if (row !== undefined) counted++
        return []
      },
      async close() {},
    }),
}) as unknown as SinkType

const task = JSON.parse(process.argv[2]!) as SnapshotTask
const { host, port, user, password } = task
const log = pino({ level: 'warn' }, pino.destination(2))
const [database, name] = task.table.split('.')
const include = `${database}\\.${name}`
const config = instanceSchema.parse({
  source: { host, port, user, password, tls: { mode: 'disabled' } },
  start: 'latest',
  filter: { include: task.filter },
}) as InstanceConfig
const sink = { ...commonSchema.parse({ filter: { include } }), type: 'null' }
const thread = new ReaderThread()
const instance = Instance.open({
  name: 'bench',
  config: { ...config, sinks: { null: sink } },
  dataDir: task.dir,
  log,
  sinkTypes: [nothing],
  thread,
})
instance.start()
while (instance.status.state !== 'running' || instance.status.sinks[0]?.state !== 'running')
  await sleep(20)
const server = await CanalServer.listen({
  host: '127.0.0.1',
  port: 0,
  packetBytesMax: 1 << 20,
  connectionsMax: 10,
  idleMs: 60_000,
  log,
  resolve: () => ({ name: 'bench', store: instance.store!, gtid: false }),
})
console.log(JSON.stringify({ port: server.port }))

await once(process.stdin, 'data')
const began = performance.now()
const cpuAt = process.cpuUsage()
await instance.snapshots.start('sink:null', { filter: compileFilter({ include }) })
while (instance.snapshots.of('sink:null')?.state !== 'done') await sleep(10)
const seconds = (performance.now() - began) / 1000
const cpu = process.cpuUsage(cpuAt)
const measured: SnapshotMeasured = {
  rows: counted,
  seconds,
  cpuSeconds: (cpu.user + cpu.system) / 1e6,
  peakRssMb: process.resourceUsage().maxRSS / 1024,
}
console.log(JSON.stringify(measured))

await once(process.stdin, 'end')
await server.close()
await instance.stop()
await thread.close()
