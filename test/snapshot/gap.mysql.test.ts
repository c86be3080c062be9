/**
 * What the log does not tell is read again: a gap in the log (`onPositionLost: snapshot`), and changes of rows that are not logged
 * (`unloggedChange: resnapshot`). What is gone goes too, where the target can be emptied. On a real MySQL.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest'
import { instanceSchema, type InstanceConfig } from '../../src/config/config.ts'
import { compileFilter } from '../../src/filter.ts'
import { Instance } from '../../src/instance.ts'
import { commonSchema } from '../../src/sinks/runner/options.ts'
import { Memory, memoryType } from '../sinks/memory.ts'
import { privateMysql, type MysqlServer } from '../support/mysql.ts'

let mysql: MysqlServer
let dir: string
let memory: Memory
beforeAll(async () => {
  mysql = await privateMysql('9.7')
})
afterAll(async () => await mysql[Symbol.asyncDispose]())
beforeEach(async () => {
  await mysql.query('DROP DATABASE IF EXISTS gap; CREATE DATABASE gap')
  dir = mkdtempSync(join(tmpdir(), 'sluice-gap-'))
  memory = new Memory()
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

async function open(options: object, sink: object = {}): Promise<Instance> {
  const { host, port, user, password } = mysql
  const config = instanceSchema.parse({
    source: { host, port, user, password },
    filter: { include: 'gap\\..*' },
    ...options,
  }) as InstanceConfig
  const instance = Instance.open({
    name: 'orders',
    config: { ...config, sinks: { mem: { ...commonSchema.parse(sink), type: 'memory' } } },
    dataDir: dir,
    log: pino({ level: 'silent' }),
    sinkTypes: [memoryType(memory)],
  })
  instance.start()
  await until(() => instance.status.state === 'running')
  return instance
}
async function until(what: () => boolean): Promise<void> {
  while (!what()) await sleep(10)
}
/** What a target that was written like this holds: "table:key" → value. */
function held(): Map<string, string> {
  const rows = new Map<string, string>()
  for (const [i, { op, table, key, values }] of memory.rows.entries()) {
    for (const [s, at] of memory.statementsAt.entries()) {
      const name = /^TRUNCATE TABLE `gap`\.`(\w+)`$/.exec(memory.statements[s]!)?.[1]
      if (at !== i || name === undefined) continue
      for (const held of rows.keys()) if (held.startsWith(`${name}:`)) rows.delete(held)
    }
    if (op === 'delete') rows.delete(`${table}:${key}`)
    else rows.set(`${table}:${key}`, values['v'] ?? '')
  }
  return rows
}
async function source(...tables: string[]): Promise<Map<string, string>> {
  const rows = new Map<string, string>()
  for (const table of tables)
    for (const { k, v } of await mysql.query<{ k: number; v: string }>(
      `SELECT * FROM gap.${table}`,
    ))
      rows.set(`${table}:${k}`, String(v))
  return rows
}
async function equal(...tables: string[]): Promise<void> {
  const wanted = [...(await source(...tables))].map(String).toSorted()
  const have = () => [...held()].map(String).toSorted()
  for (let looks = 0; JSON.stringify(have()) !== JSON.stringify(wanted) && looks < 500; looks++)
    await sleep(20)
  expect(have()).toEqual(wanted)
}

it('onPositionLost: snapshot fills a gap in the log, deletes included', async () => {
  memory.shape = { clears: true }
  await mysql.query('CREATE TABLE gap.a (k INT PRIMARY KEY, v TEXT)')
  const first = await open({ start: 'latest' })
  await mysql.query("INSERT INTO gap.a VALUES (1, 'one'), (2, 'two'), (3, 'three')")
  await equal('a')
  await first.stop()
  // in the gap: a row goes, one changes, a table comes
  await mysql.query("DELETE FROM gap.a WHERE k = 1; UPDATE gap.a SET v = 'zwei' WHERE k = 2")
  await mysql.query(
    "CREATE TABLE gap.b (k INT PRIMARY KEY, v TEXT); INSERT INTO gap.b VALUES (9, 'b')",
  )
  await mysql.query('FLUSH BINARY LOGS')
  const [last] = (await mysql.query<{ Log_name: string }>('SHOW BINARY LOGS')).slice(-1)
  await mysql.query(`PURGE BINARY LOGS TO '${last!.Log_name}'`)
  await mysql.query("INSERT INTO gap.a VALUES (4, 'four')")
  const again = await open({ onPositionLost: 'snapshot' })
  await equal('a', 'b')
  await until(() => again.snapshots.of('sink:mem')?.state === 'done')
  expect(again.status).toMatchObject({ positionsLost: 1, lost: { policy: 'snapshot' } })
  const emptied = memory.statements.filter((sql) => sql.startsWith('TRUNCATE'))
  expect(emptied).toEqual(['TRUNCATE TABLE `gap`.`a`', 'TRUNCATE TABLE `gap`.`b`'])
  await mysql.query("UPDATE gap.a SET v = 'vier' WHERE k = 4")
  await equal('a', 'b')
  await again.stop()
  // once is enough
  const third = await open({ onPositionLost: 'snapshot' })
  await until(() => third.status.sinks[0]?.state === 'running')
  await sleep(100)
  expect(memory.statements.filter((sql) => sql.startsWith('TRUNCATE')).length).toBe(2)
  await third.stop()
})

it('unloggedChange: resnapshot reads tables again whose rows changed beside the log', async () => {
  memory.shape = { clears: true }
  const partitions = 'PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN (20)'
  await mysql.query(
    `CREATE TABLE gap.parts (k INT PRIMARY KEY, v TEXT) PARTITION BY RANGE (k) (${partitions}); CREATE TABLE gap.other (k INT PRIMARY KEY, v VARCHAR(9))`,
  )
  const instance = await open({ start: 'latest' }, { unloggedChange: 'resnapshot' })
  await until(() => instance.status.sinks[0]?.state === 'running')
  await mysql.query(
    "INSERT INTO gap.parts VALUES (1, 'a'), (11, 'b'), (12, 'c'); INSERT INTO gap.other VALUES (1, '7'), (2, '8')",
  )
  await equal('parts', 'other')
  await mysql.query(
    'ALTER TABLE gap.parts DROP PARTITION p0; ALTER TABLE gap.other MODIFY v INT; ALTER TABLE gap.other MODIFY v DECIMAL(9,2)',
  )
  await mysql.query("INSERT INTO gap.parts VALUES (13, 'd')")
  await equal('parts', 'other')
  expect(instance.status.sinks[0]?.state).toBe('running')
  await instance.stop()
})

it('stops where rows may be gone and the target cannot be emptied; goes on where they only changed', async () => {
  await mysql.query(
    'CREATE TABLE gap.a (k INT PRIMARY KEY, v INT); INSERT INTO gap.a VALUES (1, 7)',
  )
  const instance = await open({ start: 'latest' }, { unloggedChange: 'resnapshot' })
  const sink = () => instance.status.sinks[0]!
  await until(() => sink().state === 'running')
  await mysql.query('ALTER TABLE gap.a MODIFY v DECIMAL(9,2)')
  await equal('a')
  // a load that is under way keeps what it has to do
  const busy = { filter: compileFilter({ include: 'gap\\..*' }), rowsPerSecond: 3 }
  await mysql.query('CREATE TABLE gap.b (k INT PRIMARY KEY, v INT)')
  await mysql.query('INSERT INTO gap.b VALUES (1, 1), (2, 2), (3, 3)')
  await instance.snapshots.start('sink:mem', busy)
  await mysql.query('ALTER TABLE gap.a MODIFY v DECIMAL(9,3)')
  await until(() => instance.snapshots.of('sink:mem')!.state === 'done')
  await equal('a', 'b')
  await mysql.query('TRUNCATE gap.a')
  await until(() => sink().state === 'failed')
  const status = sink()
  expect('error' in status ? status.error.message : '').toMatch(
    /TRUNCATE TABLE on gap\.a .*resnapshot cannot help: rows may be gone, and the target cannot be emptied/,
  )
  await instance.stop()
})

it('a load whose last piece has no rows ends between two batches of the stream', async () => {
  await mysql.query(
    'CREATE TABLE gap.a (k INT PRIMARY KEY, v INT); CREATE TABLE gap.b (k INT PRIMARY KEY, v INT)',
  )
  const instance = await open({ start: 'latest' })
  const failed = (): boolean => instance.status.sinks[0]?.state === 'failed'
  const done = (): boolean => instance.snapshots.of('sink:mem')?.state !== 'running'
  await until(() => instance.status.sinks[0]?.state === 'running')
  for (let k = 0, loads = 0; loads < 20 && !failed(); k++) {
    await mysql.query(`INSERT INTO gap.a VALUES (${k}, ${k})`)
    if (!done()) continue
    loads++
    await instance.snapshots.start('sink:mem', { filter: compileFilter({ include: 'gap\\.b' }) })
  }
  await until(() => done() || failed())
  expect(instance.status.sinks[0]).toMatchObject({ state: 'running', errors: 0 })
  await equal('a', 'b')
  await instance.stop()
})
