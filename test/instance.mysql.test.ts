import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Instance } from '../src/instance.ts'
import { State } from '../src/store/state.ts'
import type { Cursor } from '../src/store/cursor.ts'
import { privateMysql, versions } from './support/mysql.ts'
import type { MysqlServer } from './support/mysql.ts'
import { numbers, Rig } from './upstream/rig.ts'

let rig: Rig
beforeEach(() => {
  rig = new Rig()
})
afterEach(() => rig.close())

const open = (source: object, more: object = {}): Instance => rig.open({ source, ...more })
const sourceOf = ({ host, port, user, password }: MysqlServer) => ({ host, port, user, password })
const state = (instance: Instance, wanted: string) => rig.state(instance, wanted)
const read = (cursor: Cursor, last: number) => rig.read(cursor, last)
async function insert(mysql: MysqlServer, from: number, to: number): Promise<void> {
  for (const id of numbers(from, to)) await mysql.query(`INSERT INTO p8.t VALUES (${id})`)
}

describe.each(versions)('an instance on MySQL %s', (version) => {
  test('where no history names the columns it stops, or matches by position and says so', async () => {
    await using mysql = await privateMysql(version, { args: ['--binlog-row-metadata=MINIMAL'] })
    await mysql.query('CREATE DATABASE p8; CREATE TABLE p8.t (id INT PRIMARY KEY, a INT, b INT)')
    await mysql.query('FLUSH BINARY LOGS; INSERT INTO p8.t VALUES (1, 2, 3)')
    const logs = await mysql.query<{ Log_name: string }>('SHOW BINARY LOGS')
    await mysql.query('ALTER TABLE p8.t RENAME COLUMN a TO c; INSERT INTO p8.t VALUES (2, 3, 4)')
    const start = { file: logs.at(-1)!.Log_name, offset: 4 }
    const strict = open(sourceOf(mysql), { start })
    strict.start()
    await state(strict, 'failed')
    expect(strict.status).toMatchObject({ error: { code: 'SCHEMA_MISMATCH' }, guessedTables: [] })
    await strict.stop()

    const lax = open(sourceOf(mysql), { start, ambiguousSchema: 'positional' })
    lax.start()
    await state(lax, 'running')
    expect(await read(lax.store!.subscribe('1001'), 2)).toEqual([1, 2])
    expect(lax.status.guessedTables).toEqual(['p8.t'])
    await lax.stop()
    // what was learned is there after a restart, down to what a reader may still need
    const held = State.open(join(rig.dir, 'orders.sqlite'))
    const versionsOfT = [...held.definitions()].filter((v) => v.table === 't')
    held.close()
    expect(versionsOfT.map((v) => v.definition.includes('"name":"c"'))).toContain(true)
  })
  test('goes on after its own restart and after the death of MySQL, and loses nothing', async () => {
    await using mysql = await privateMysql(version)
    await mysql.query('CREATE DATABASE p8')
    await mysql.query('CREATE TABLE p8.t (id INT PRIMARY KEY)')
    let instance = open(sourceOf(mysql))
    expect(instance.store).toBeUndefined()
    instance.start()
    await state(instance, 'running')
    await insert(mysql, 1, 5)
    expect(await read(instance.store!.subscribe('1001'), 5)).toEqual(numbers(1, 5))
    await instance.stop()
    expect(instance.status.state).toBe('stopped')

    await insert(mysql, 6, 10)
    instance = open(sourceOf(mysql))
    // The source was known: clients are served before it answers.
    const cursor = instance.store!.subscribe('1001')
    instance.start()
    expect(await read(cursor, 10)).toEqual(numbers(6, 10))
    await mysql.kill()
    await state(instance, 'retrying')
    await mysql.start()
    await insert(mysql, 11, 15)
    expect(await read(cursor, 15)).toEqual(numbers(11, 15))
    await state(instance, 'running')
    expect(instance.status).toMatchObject({ name: 'orders', server: `127.0.0.1:${mysql.port}` })
    // A client that comes late begins where the instance began.
    expect(await read(instance.store!.subscribe('1002'), 15)).toEqual(numbers(1, 15))
    await instance.stop()
    await instance.stop()
    const changes = rig.lines.flatMap((l) => (l['state'] ? [l['state']] : []))
    expect(changes.slice(0, 6)).toEqual([
      'connecting',
      'running',
      'stopped',
      'connecting',
      'running',
      'retrying',
    ])
    expect(changes.at(-1)).toBe('stopped')
    for (const line of rig.lines)
      if (line['state'] === 'running') expect(line['position']).toMatch(/\.\d+:\d+$/)
  })

  test('starts at a place in the log, with the GTIDs before it', async () => {
    await using mysql = await privateMysql(version)
    await mysql.query('CREATE DATABASE p8')
    await mysql.query('CREATE TABLE p8.t (id INT PRIMARY KEY)')
    await insert(mysql, 1, 3)
    const sql = version === '8.0' ? 'SHOW MASTER STATUS' : 'SHOW BINARY LOG STATUS'
    const [here] = await mysql.query<{ File: string; Position: number; Executed_Gtid_Set: string }>(
      sql,
    )
    await insert(mysql, 4, 6)
    const instance = open(sourceOf(mysql), {
      start: { file: here!.File, offset: Number(here!.Position) },
    })
    instance.start()
    await state(instance, 'running')
    const origin = State.read(join(rig.dir, 'orders.sqlite')).values.get('origin')!
    expect(JSON.parse(origin)).toMatchObject({ gtids: here!.Executed_Gtid_Set })
    expect(await read(instance.store!.subscribe('1001'), 6)).toEqual([4, 5, 6])
    await instance.stop()
  })
})

test('fails, visibly and with what to do, when the logs of the source were reset', async () => {
  await using mysql = await privateMysql(versions[0]!)
  await mysql.query('CREATE DATABASE p8')
  await mysql.query('CREATE TABLE p8.t (id INT PRIMARY KEY)')
  const first = open(sourceOf(mysql))
  first.start()
  await state(first, 'running')
  await insert(mysql, 1, 2)
  await read(first.store!.subscribe('1001'), 2)
  await first.stop()
  await mysql.query(versions[0] === '8.0' ? 'RESET MASTER' : 'RESET BINARY LOGS AND GTIDS')
  const second = open(sourceOf(mysql))
  second.start()
  await state(second, 'failed')
  const { status } = second
  expect('error' in status && status.error.message).toMatch(
    /its logs were reset.*sluice position <destination> reset/,
  )
  expect(second.store).toBeDefined()
  await second.stop()
  expect(State.read(join(rig.dir, 'orders.sqlite')).values.get('epoch')).toBe('1')
})

test('stops at once while a server does not answer', async () => {
  const silent = createServer(() => {})
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  const instance = open({ port: (silent.address() as AddressInfo).port, connectTimeoutMs: '10m' })
  instance.start()
  expect(instance.status.state).toBe('connecting')
  await instance.stop()
  expect(instance.status.state).toBe('stopped')
  silent.close()
})
test('only one instance has a state file', async () => {
  const first = open({ port: 1 })
  expect(() => open({ port: 1 })).toThrow(/is in use by another Sluice/)
  await first.stop()
  await open({ port: 1 }).stop()
})
