/** A load while the source's address goes over to another server, and the one before stays up with the connections it has. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { expect, it } from 'vitest'
import { instanceSchema } from '../../src/config/config.ts'
import type { InstanceConfig } from '../../src/config/config.ts'
import { Instance } from '../../src/instance.ts'
import { commonSchema } from '../../src/sinks/runner/options.ts'
import { Memory, memoryType } from '../sinks/memory.ts'
import { privateMysql } from '../support/mysql.ts'
import { Proxy } from '../support/proxy.ts'
import { different, openWorld, readWorld, WIDE } from './world.ts'

interface Source {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
}
/** An instance that loads what there is into a memory. */
function open(
  dir: string,
  {
    source,
    memory,
    failover,
    batch,
  }: { source: Source; memory: Memory; failover?: object; batch?: object },
): Instance {
  const config = instanceSchema.parse({
    source,
    retry: { minMs: 20, maxMs: 200 },
    filter: { include: 'world\\..*' },
    ...(failover && { failover }),
  })
  const common = commonSchema.parse({ initialLoad: 'ifEmpty', ...(batch && { batch }) })
  return Instance.open({
    name: 'orders',
    config: { ...(config as InstanceConfig), sinks: { mem: { ...common, type: 'memory' } } },
    dataDir: dir,
    log: pino({ level: 'silent' }),
    sinkTypes: [memoryType(memory)],
  })
}
const loadOf = (instance: Instance) =>
  instance.status.snapshots.find((s) => s.client === 'sink:mem')

it('reads on from the new one', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-snapshot-'))
  await using stack = new AsyncDisposableStack()
  stack.defer(() => rmSync(dir, { recursive: true, force: true }))
  const before = stack.use(await privateMysql('9.7'))
  const after = stack.use(await privateMysql('9.7'))
  const { host, port, user, password } = before
  await after.query(
    `CHANGE REPLICATION SOURCE TO SOURCE_HOST = '${host}', SOURCE_PORT = ${port}, SOURCE_USER = '${user}',
     SOURCE_PASSWORD = '${password}', GET_SOURCE_PUBLIC_KEY = 1, SOURCE_AUTO_POSITION = 1; START REPLICA`,
  )
  await openWorld(before, 'world.items', 6000, WIDE)
  const count = async (): Promise<number> =>
    (await readWorld(after, 'world.items').catch(() => undefined))?.size ?? 0
  while ((await count()) < 6000) await sleep(50)
  await after.query('STOP REPLICA; RESET REPLICA ALL')
  // the files of the two are nothing alike
  for (let i = 0; i < 5; i++) await before.query('FLUSH BINARY LOGS')

  const proxy = stack.use(await Proxy.start(before))
  const source = { host: '127.0.0.1', port: proxy.port, user, password }
  let epoch = 0
  const memory = new Memory()
  memory.before = () => sleep(instance.status.epoch === epoch ? 200 : 0)
  const instance = open(dir, {
    source,
    memory,
    failover: { divergedMs: 0 },
    batch: { bytes: '64KiB' },
  })
  stack.defer(() => instance.stop())
  instance.start()
  while (memory.rows.length === 0) await sleep(20)
  epoch = instance.status.epoch
  proxy.target = after
  const dumps = await before.query<{ id: number }>(
    "SELECT ID AS id FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'",
  )
  for (const { id } of dumps) await before.query(`KILL ${id}`).catch(() => {}) // of the replica, gone by itself
  while (instance.status.epoch === epoch || instance.status.state !== 'running') await sleep(20)
  await after.query('UPDATE world.items SET n = 7 WHERE part = 3')
  const until = Date.now() + 20_000
  while (loadOf(instance)?.state !== 'done' && Date.now() < until) await sleep(20)
  expect(loadOf(instance)?.state).toBe('done')
  const rows = await readWorld(after, 'world.items')
  const seen = new Map<string, number>()
  for (const { values } of memory.rows)
    seen.set(`${values['part']}/${values['k']}`, Number(values['n']))
  expect(different(rows, seen)).toBe(0)
})

it('leaves no table out because its user may not log in for a while', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-snapshot-'))
  await using stack = new AsyncDisposableStack()
  stack.defer(() => rmSync(dir, { recursive: true, force: true }))
  const mysql = stack.use(await privateMysql('9.7'))
  const { host, port } = mysql
  await mysql.query("CREATE USER loader IDENTIFIED BY 'one'; GRANT ALL ON *.* TO loader")
  for (let i = 0; i < 8; i++) await openWorld(mysql, `world.t${i}`, 10)
  const source = { host, port, user: 'loader', password: 'one' }
  const memory = new Memory()
  const locked = Promise.withResolvers<void>()
  memory.before = () => locked.promise
  const instance = open(dir, { source, memory })
  stack.defer(() => instance.stop())
  instance.start()
  while (loadOf(instance)?.state !== 'running' || instance.status.state !== 'running')
    await sleep(20)
  await sleep(1000) // three pieces wait
  await mysql.query('ALTER USER loader ACCOUNT LOCK')
  const sessions = await mysql.query<{ id: number }>(
    "SELECT ID AS id FROM information_schema.PROCESSLIST WHERE USER = 'loader' AND COMMAND NOT LIKE 'Binlog Dump%'",
  )
  for (const { id } of sessions) await mysql.query(`KILL ${id}`)
  locked.resolve()
  await sleep(2000)
  await mysql.query('ALTER USER loader ACCOUNT UNLOCK')
  while (loadOf(instance)?.state !== 'done') await sleep(20)
  expect(loadOf(instance)).toMatchObject({ done: 8, rows: 80, skipped: [] })
})
