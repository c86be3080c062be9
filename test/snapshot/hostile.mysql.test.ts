/**
 * Loads where the source makes it hard: limits that its operator has set for others, keys that no hint may name, XA transactions
 * all the time, tables that vanish, conditions that try to escape and keys that are none. On a real MySQL.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest'
import { instanceSchema, type InstanceConfig } from '../../src/config/config.ts'
import { Instance } from '../../src/instance.ts'
import { commonSchema } from '../../src/sinks/runner/options.ts'
import type { LoadOptions } from '../../src/snapshot/snapshots.ts'
import { Memory, memoryType } from '../sinks/memory.ts'
import { privateMysql, type MysqlServer } from '../support/mysql.ts'

const SINK = 'sink:mem'
let mysql: MysqlServer
let dir: string
let memory: Memory
let instance: Instance
beforeAll(async () => {
  mysql = await privateMysql('9.7', { args: ['--sql-generate-invisible-primary-key=OFF'] })
})
afterAll(async () => await mysql[Symbol.asyncDispose]())
beforeEach(async () => {
  await mysql.query('DROP DATABASE IF EXISTS world; CREATE DATABASE world')
  dir = mkdtempSync(join(tmpdir(), 'sluice-snapshot-'))
  memory = new Memory()
  const { host, port, user, password } = mysql
  const source = { host, port, user, password }
  const config = instanceSchema.parse({ source, filter: { include: 'world\\..*' } })
  instance = Instance.open({
    name: 'orders',
    config: {
      ...(config as InstanceConfig),
      sinks: { mem: { ...commonSchema.parse({}), type: 'memory' } },
    },
    dataDir: dir,
    log: pino({ level: 'silent' }),
    sinkTypes: [memoryType(memory)],
  })
  instance.start()
  await until(
    () => instance.status.state === 'running' && instance.status.sinks[0]?.state === 'running',
  )
})
afterEach(async () => {
  await instance.stop()
  rmSync(dir, { recursive: true, force: true })
})
async function until(what: () => boolean): Promise<void> {
  while (!what()) await sleep(10)
}
/** Until the stream has brought so many rows. */
const streamed = (count: number): Promise<void> => until(() => memory.rows.length === count)
const numbers = (count: number): string =>
  Array.from({ length: count }, (_, i) => `(${i}, ${i % 7})`).join(', ')
/** Loads one table; the rows that came, by what they are. */
async function load(table: string, options: Partial<LoadOptions> = {}): Promise<string> {
  const before = memory.rows.length
  await instance.snapshots.start(SINK, {
    filter: (_, name) => name === table,
    rowsPerSecond: 0,
    ...options,
  })
  await until(() => instance.status.snapshots.every(({ state }) => state === 'done'))
  const ops = memory.rows
    .slice(before)
    .filter((row) => row.table === table)
    .map(({ op }) => op)
  const count = (op: string): number => ops.filter((one) => one === op).length
  return `${count('insert')} inserts, ${count('delete')} deletes`
}

it('is not held up by limits that the server has for others, nor by a key that no hint may name', async () => {
  await mysql.query(
    `CREATE TABLE world.t (a INT NOT NULL, b INT NOT NULL, UNIQUE KEY z (a), UNIQUE KEY a (b, a) INVISIBLE);
     INSERT INTO world.t VALUES ${numbers(1200)}`,
  )
  await streamed(1200)
  const set = (values: string): Promise<unknown> => mysql.query(`SET GLOBAL ${values}`)
  await set('sql_select_limit = 3, max_execution_time = 1, max_join_size = 10')
  try {
    expect(await load('t')).toBe('1200 inserts, 0 deletes')
    // a result that is cut short would say that the rest is gone
    const keys = Array.from({ length: 9 }, (_, i) => [i])
    expect(await load('t', { keys })).toBe('9 inserts, 0 deletes')
  } finally {
    await set('sql_select_limit = DEFAULT, max_execution_time = 0, max_join_size = DEFAULT')
  }
})

it('goes on under XA transactions, and loses no row of one that is rolled back', async () => {
  await mysql.query(
    `CREATE TABLE world.t (a INT PRIMARY KEY, b INT); CREATE TABLE world.x (a INT PRIMARY KEY, b INT);
     INSERT INTO world.t VALUES ${numbers(4000)}; INSERT INTO world.x VALUES ${numbers(100)}`,
  )
  await streamed(4100)
  let going = true
  let ended = 0
  const work = async (worker: number): Promise<void> => {
    const db = await mysql.connect()
    await db.query('USE world')
    const keys = Array.from({ length: 200 }, (_, i) => i * 20 + worker).join()
    while (going) {
      const xid = `'${worker}-${ended++}'`
      const commits = worker === 3
      // what is committed is of another table: the load must go on all the same
      const change = `UPDATE ${commits ? 'x' : 't'} SET b = b + 1 WHERE a IN (${keys})`
      await db.query(`XA START ${xid}; ${change}; XA END ${xid}; XA PREPARE ${xid}`)
      await db.query(`XA ${commits ? 'COMMIT' : 'ROLLBACK'} ${xid}`)
    }
    await db.end()
  }
  const workers = [0, 1, 2, 3].map(work)
  await until(() => ended > 10)
  expect(await load('t')).toBe('4000 inserts, 0 deletes')
  // committed ones of the table itself: the last value wins
  await mysql.query(
    "XA START 'last'; UPDATE world.t SET b = -1 WHERE a = 5; XA END 'last'; XA PREPARE 'last'; XA COMMIT 'last'",
  )
  await until(() => memory.rows.some(({ key, values }) => key === '5' && values['b'] === '-1'))
  going = false
  await Promise.all(workers)
})

it('a list of keys is read although the load before it ended with a table that is gone', async () => {
  await mysql.query(
    `CREATE TABLE world.t (a INT PRIMARY KEY, b INT); INSERT INTO world.t VALUES ${numbers(20)};
     CREATE TABLE world.u (a INT PRIMARY KEY)`,
  )
  await streamed(20)
  memory.before = async () => {
    memory.before = () => {}
    await mysql.query('DROP TABLE world.u')
  }
  await instance.snapshots.start(SINK, { filter: () => true, rowsPerSecond: 10 })
  await until(() => instance.snapshots.of(SINK)?.state === 'done')
  expect(memory.rows.length).toBe(40)
  const read = instance.snapshots.reread(SINK, { table: ['world', 't'], keys: [[1], [99]] })
  expect(await read).toMatchObject({ state: 'done', rows: 2 })
})

it('a condition stays within its brackets', async () => {
  await mysql.query('CREATE TABLE world.t (a INT PRIMARY KEY, b INT)')
  for (const where of [
    'a >= 0) OR (1 = 1',
    '1 THEN 1 END OR CASE WHEN 1',
    '1) GROUP BY (1',
    'a = ?',
  ])
    await expect(load('t', { where })).rejects.toThrow(/the condition .* on world\.t: .*syntax/)
})

it('keys that their column cannot hold are refused', async () => {
  const refused: readonly [type: string, key: string | number, expected: RegExp][] = [
    ['TINYINT', 300, /an integer from -128 to 127, found 300/],
    ['BIGINT UNSIGNED', '18446744073709551616', /an integer from 0 to 18446744073709551615/],
    ['BIGINT', 9007199254740992, /a number beyond 2\^53 as a text/],
    ['DECIMAL(5,2)', '1234', /at most 3 digits before the point and 2 behind it/],
    ['DECIMAL(5,2)', '1.239', /at most 3 digits before the point/],
    ['FLOAT', 1e300, /a number of its range/],
    ['YEAR', 3000, /a year from 1901 to 2155/],
    ['BIT(4)', 16, /an integer from 0 to 15/],
    ["ENUM('a','b')", 3, /an integer from 0 to 2/],
    ["SET('a','b')", 4, /an integer from 0 to 3/],
    ['DATE', '2024-13-01', /a date or time as MySQL prints it/],
    ['DATETIME(3)', '2024-01-01 25:00:00', /a date or time/],
    ['DATETIME(3)', '2024-01-01 12:00:00.1234', /a date or time/],
    ['TIMESTAMP', '1960-01-01 00:00:00', /a date or time/],
    ['TIME', '839:00:00', /a date or time/],
    ['VARCHAR(10)', 'x'.repeat(11), /at most 10 characters/],
    ['VARCHAR(10) CHARACTER SET utf8mb3', '😀', /without characters of four bytes/],
    ['VARCHAR(10) CHARACTER SET ascii', 'ä', /a text of ASCII characters/],
    ['VARCHAR(10)', '\ud800', /without halves of characters/],
    ['BINARY(2)', '0x010203', /at most 2 bytes/],
  ]
  for (const [i, [type]] of refused.entries())
    await mysql.query(`CREATE TABLE world.t${i} (k ${type} NOT NULL PRIMARY KEY)`)
  for (const [i, [, key, expected]] of refused.entries())
    await expect(load(`t${i}`, { keys: [[key]] })).rejects.toThrow(expected)
  // and what just fits is none of these
  await mysql.query(
    "INSERT INTO world.t1 VALUES (18446744073709551615); INSERT INTO world.t3 VALUES (-999.9); INSERT INTO world.t15 VALUES ('😀😀😀😀😀😀😀😀😀😀')",
  )
  await streamed(3)
  expect(await load('t1', { keys: [['18446744073709551615']] })).toBe('1 inserts, 0 deletes')
  expect(await load('t3', { keys: [['-0999.90']] })).toBe('1 inserts, 0 deletes')
  expect(await load('t15', { keys: [['😀'.repeat(10)]] })).toBe('1 inserts, 0 deletes')
  expect(await load('t10', { keys: [['2024-02-29']] })).toBe('0 inserts, 1 deletes')
  expect(await load('t13', { keys: [['2024-02-29']] })).toBe('0 inserts, 1 deletes')
})
