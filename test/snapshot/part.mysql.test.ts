/**
 * A part of a table, read again for a sink that runs: rows that fulfil a condition, or a list of keys, of which those that are
 * gone come as deletes; and the rate that gives way to a busy source. On a real MySQL, under writers.
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
import type { LoadOptions } from '../../src/snapshot/snapshots.ts'
import { Random } from '../e2e/load.ts'
import { Memory, memoryType } from '../sinks/memory.ts'
import { privateMysql, type MysqlServer } from '../support/mysql.ts'
import { Clock, openWorld, Writer } from './world.ts'

const SINK = 'sink:mem'
let mysql: MysqlServer
let dir: string
beforeAll(async () => {
  mysql = await privateMysql('9.7')
})
afterAll(async () => await mysql[Symbol.asyncDispose]())
beforeEach(async () => {
  await mysql.query('DROP DATABASE IF EXISTS world')
  dir = mkdtempSync(join(tmpdir(), 'sluice-snapshot-'))
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

async function open(memory: Memory, options: object = {}): Promise<Instance> {
  const { host, port, user, password } = mysql
  const config = instanceSchema.parse({
    source: { host, port, user, password },
    filter: { include: 'world\\..*' },
    ...options,
  }) as InstanceConfig
  const instance = Instance.open({
    name: 'orders',
    config: { ...config, sinks: { mem: { ...commonSchema.parse({}), type: 'memory' } } },
    dataDir: dir,
    log: pino({ level: 'silent' }),
    sinkTypes: [memoryType(memory)],
  })
  instance.start()
  await until(
    () => instance.status.state === 'running' && instance.status.sinks[0]?.state === 'running',
  )
  return instance
}
async function until(what: () => boolean): Promise<void> {
  while (!what()) await sleep(10)
}
const partOf = (instance: Instance) =>
  instance.status.snapshots.find(({ where, keys }) => where !== null || keys !== null)

it('reads the rows of a condition, and says what is wrong with one before it begins', async () => {
  await openWorld(mysql, 'world.items', 500)
  await mysql.query('CREATE TABLE world.others (k INT PRIMARY KEY)')
  const memory = new Memory()
  const instance = await open(memory)
  const start = (where: string, include: string) =>
    instance.snapshots.start(SINK, { filter: compileFilter({ include }), where })

  await start('part = 3 OR n > 5 -- a comment', 'world\\.items')
  await until(() => partOf(instance)?.state === 'done')
  const parts = memory.rows.map((row) => row.values['part'])
  expect([parts.length, new Set(parts)]).toEqual([71, new Set(['3'])])
  expect(partOf(instance)).toMatchObject({ rows: 71, where: 'part = 3 OR n > 5 -- a comment' })
  // it is no load of the whole: that was never asked for
  expect(instance.snapshots.of(SINK)).toBeUndefined()

  for (const [where, include, wrong] of [
    ['part = 3', 'world\\.others', /"part = 3" on world\.others: .*Unknown column 'part'/],
    ['part = ', 'world\\.items', /"part = " on world\.items: .*syntax/],
    ['1) OR (1', 'world\\.nothing', /expected a table that the instance reads/],
  ] as const)
    await expect(start(where, include)).rejects.toThrow(wrong)
  await instance.stop()
})

it('reads exactly the keys of a list, deletes what is gone, and is joined with the stream', async () => {
  const ROWS = 1400
  await openWorld(mysql, 'world.items', ROWS)
  const memory = new Memory()
  const instance = await open(memory)
  const clock = new Clock()
  const writers = [0, 1].map(
    (i) =>
      new Writer(mysql, 'world.items', {
        random: new Random(Date.now() + i),
        clock,
        ids: { from: i * 700, to: (i + 1) * 700 },
      }),
  )
  const keyOf = (id: number) => [id % 7, `${id % 2 ? 'Ä' : 'b'}${id}`] as const
  const keys = Array.from({ length: ROWS + 200 }, (_, id) => keyOf(id))
  const table = ['world', 'items'] as const
  await until(() => writers.every(({ writes }) => writes > 5))
  // two lists at once: one after the other
  const both = [keys, keys.slice(0, 10)].map((some) =>
    instance.snapshots.reread(SINK, { table, keys: some }),
  )
  const [first, second] = await Promise.all(both)
  expect([first?.keys, first?.rows, second?.rows]).toEqual([1600, 1600, 10])
  await Promise.all(writers.map((w) => w.stop()))
  const highest = (): Map<string, { version: string; n: string | null | undefined }> => {
    const seen = new Map<string, { version: string; n: string | null | undefined }>()
    for (const { key, op, version, values } of memory.rows) {
      const before = seen.get(key)?.version ?? ''
      if (version >= before) seen.set(key, { version, n: op === 'delete' ? null : values['n'] })
    }
    return seen
  }
  const source = await mysql.query<{ k: string; part: number; n: string }>(
    'SELECT k, part, n FROM world.items',
  )
  const wanted = new Map(source.map(({ k, part, n }) => [`${k}:${part}`, String(n)]))
  const differ = (): string[] => {
    const seen = highest()
    return keys
      .map(([part, k]) => `${k}:${part}`)
      .filter((key) => (seen.get(key)?.n ?? null) !== (wanted.get(key) ?? null))
  }
  for (let looks = 0; differ().length > 0 && looks < 300; looks++) await sleep(20)
  expect(differ()).toEqual([])
  // keys that never were came as deletes, with what tells them apart
  expect(memory.rows.find(({ key }) => key === 'b1500:2')).toMatchObject({
    op: 'delete',
    values: { n: undefined, part: '2', k: 'b1500' },
  })
  await instance.stop()
})

it('takes keys of every type, and refuses what is none', async () => {
  const columns: readonly [type: string, there: string | number, gone: string | number][] = [
    ['TINYINT', -5, 7],
    ['BIGINT UNSIGNED', '18446744073709551615', 1],
    ['MEDIUMINT', -8388608, 5],
    ['DECIMAL(20,4)', '-12.5000', '13.25'],
    ['DOUBLE', 2.5, 3],
    ['DATE', '2024-02-29', '2024-03-01'],
    ['DATETIME(6)', '2024-02-29 12:30:01.123456', '2024-02-29 12:30:01.123457'],
    ['TIMESTAMP(3)', '2024-02-29 12:30:01.123', '2024-02-29 12:30:02'],
    ['TIME(2)', '-101:02:03.45', '00:00:00'],
    ['YEAR', 2024, 2025],
    ['CHAR(10) CHARACTER SET utf8mb4', 'Ärger ', 'Ärge'],
    ['VARCHAR(300) CHARACTER SET latin1', 'Größe', 'Groß'],
    ['VARCHAR(20) CHARACTER SET gbk', 'abc', 'abd'],
    ['BINARY(4)', '0x01020000', '0x0103'],
    ['VARBINARY(8)', '0xff00', '0xff'],
    ["ENUM('a','b')", 'b', 1],
    ["SET('x','y','z')", 'x,z', 'y'],
    ['BIT(10)', 513, 2],
  ]
  await mysql.query('CREATE DATABASE world')
  const db = await mysql.connect()
  await db.query("SET time_zone = '+00:00'")
  for (const [i, [type, there]] of columns.entries()) {
    await db.query(`CREATE TABLE world.t${i} (v INT, k ${type} NOT NULL, PRIMARY KEY (k))`)
    const value = String(there).startsWith('0x') ? there : db.escape(there)
    await db.query(`INSERT INTO world.t${i} VALUES (${i}, ${value})`)
  }
  await db.end()
  const memory = new Memory()
  const instance = await open(memory)
  for (const [i, [type, there, gone]] of columns.entries()) {
    const from = memory.rows.length
    await instance.snapshots.reread(SINK, { table: ['world', `t${i}`], keys: [[there], [gone]] })
    const seen = memory.rows.slice(from).map(({ op, values }) => `${op} ${values['v'] ?? ''}`)
    expect([type, ...seen]).toEqual([type, 'delete ', `insert ${i}`])
  }
  const refused = (i: number, keys: readonly (string | number)[][]) =>
    instance.snapshots.reread(SINK, { table: ['world', `t${i}`], keys })
  for (const [i, keys, wrong] of [
    [0, [['x']], /a key of world\.t0: column k \(tinyint\): expected an integer, found "x"/],
    [5, [['29.2.2024']], /column k \(date\): expected a date or time/],
    [15, [['c']], /expected one of a, b, found "c"/],
    [0, [[1, 2]], /expected 1 values \(k\), found \[1,2\]/],
    [0, [], /expected 1 to 100000/],
  ] as const)
    await expect(refused(i, keys as never)).rejects.toThrow(wrong)
  await instance.stop()
})

it('auto reads more slowly while the source is busy, and recovers', async () => {
  await openWorld(mysql, 'world.items', 1500)
  const memory = new Memory()
  const instance = await open(memory, { snapshot: { threadsRunningMax: 6 } })
  const busy = await Promise.all(Array.from({ length: 8 }, () => mysql.connect()))
  const working = busy.map((db) => db.query('SELECT SLEEP(600)').catch(() => {}))
  const options: LoadOptions = { filter: compileFilter({ include: 'world\\..*' }) }
  await instance.snapshots.start(SINK, options)
  const load = () => instance.snapshots.of(SINK)!
  await until(() => load().pace > 0)
  expect(load()).toMatchObject({ rowsPerSecond: 'auto', state: 'running' })
  const lowest = load().pace
  for (const { id } of await mysql.query<{ id: number }>(
    "SELECT ID AS id FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP%'",
  ))
    await mysql.query(`KILL QUERY ${id}`)
  await Promise.all(working)
  for (const db of busy) await db.end()
  await until(() => load().pace > lowest)
  await until(() => load().state === 'done')
  expect(memory.rows.length).toBe(1500)
  await instance.stop()
})
