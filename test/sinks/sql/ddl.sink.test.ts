/** What statements of DDL on the source do to the target, by policy; and that a statement which was cut off is done once. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { Connection } from 'mysql2/promise'
import { plainTarget } from '../../../src/sinks/shape/row.ts'
import type { Sink } from '../../../src/sinks/sink.ts'
import { sharedMysql, uniqueDatabase, type MysqlServer } from '../../support/mysql.ts'
import { Proxy } from '../../support/proxy.ts'
import { contextOf, deliver, drive, Log } from './log.ts'
import { kinds, openTarget, textOf, type Target } from './targets.ts'

let server: MysqlServer
let source: Connection
const database = uniqueDatabase('sqlddl')
beforeAll(async () => {
  server = await sharedMysql('9.7')
  await server.query(`CREATE DATABASE ${database}`)
  source = await server.connect({ database })
})
afterAll(async () => {
  await source.end()
  await server.query(`DROP DATABASE IF EXISTS ${database}`)
  await server[Symbol.asyncDispose]()
})
let made = 0

describe.each(kinds)('DDL to %s', (kind) => {
  let target: Target
  let sink: Sink | undefined
  let t = ''
  beforeAll(async () => {
    target = await openTarget(kind)
  })
  afterAll(() => target[Symbol.asyncDispose]())
  beforeEach(() => {
    t = `d${made++}`
  })
  afterEach(async () => {
    await sink?.close()
    sink = undefined
  })
  const shown = async (text: string): Promise<unknown[][]> =>
    (await target.query(text)).map((row) => Object.values(row).map(textOf))

  it('stops at a change of a table, says what to do, and passes what changes none', async () => {
    const log = await Log.start(server, database)
    sink = await target.open(contextOf(log.position, t))
    await source.query(`CREATE TABLE ${t} (id INT PRIMARY KEY, n INT)`)
    await source.query(`INSERT INTO ${t} VALUES (1,1)`)
    await source.query(`CREATE INDEX i ON ${t} (n)`)
    await drive(sink, await log.read())
    await source.query(`ALTER TABLE ${t} ADD COLUMN m INT`)
    await expect(drive(sink, await log.read())).rejects.toMatchObject({
      code: 'SINK_UNSUITABLE',
      message: expect.stringContaining(`ALTER TABLE ${t} ADD COLUMN m INT`) as string,
    })
  })

  it('applies what is known, in order with the rows around it', async () => {
    const log = await Log.start(server, database)
    sink = await target.open(contextOf(log.position, t), { ddl: 'apply' })
    expect(sink.clears).toBe(true)
    await source.query(`CREATE TABLE ${t} (id INT PRIMARY KEY, n INT, gone INT)`)
    await source.query(`INSERT INTO ${t} VALUES (1,1,1)`)
    await source.query(`ALTER TABLE ${t} ADD COLUMN m VARCHAR(10), ADD INDEX (n)`)
    await source.query(`INSERT INTO ${t} VALUES (2,2,2,'two')`)
    await source.query(`ALTER TABLE ${database}.${t} RENAME COLUMN n TO number, DROP COLUMN gone`)
    await source.query(`INSERT INTO ${t} VALUES (3,3,'three')`)
    const items = await log.read()
    await drive(sink, items)
    const all = [
      ['1', '1', null],
      ['2', '2', 'two'],
      ['3', '3', 'three'],
    ]
    expect(await shown(`SELECT id, number, m FROM ${t} ORDER BY id`)).toEqual(all)
    await source.query(`RENAME TABLE ${t} TO ${t}_new`)
    await source.query(`INSERT INTO ${t}_new VALUES (4,4,'four')`)
    await source.query(`CREATE TABLE ${t}_x (id INT PRIMARY KEY)`)
    await source.query(`INSERT INTO ${t}_x VALUES (1)`)
    await drive(sink, await log.read())
    expect(await shown(`SELECT count(*) FROM ${t}_new`)).toEqual([['4']])
    await source.query(`TRUNCATE TABLE ${t}_new`)
    await source.query(`INSERT INTO ${t}_new VALUES (5,5,'five')`)
    await source.query(`DROP TABLE ${t}_x`)
    await drive(sink, await log.read())
    expect(await shown(`SELECT id FROM ${t}_new`)).toEqual([['5']])
    await expect(target.query(`SELECT * FROM ${t}_x`)).rejects.toThrow(/exist/)
  })

  it('does each statement once, wherever the connection dies', async () => {
    const log = await Log.start(server, database)
    await using proxy = await Proxy.start(target)
    const address = new URL(target.url)
    address.port = String(proxy.port)
    sink = await target.open(contextOf(log.position, t), { url: address.href, ddl: 'apply' })
    await source.query(`CREATE TABLE ${t} (id INT PRIMARY KEY, n INT)`)
    await source.query(`INSERT INTO ${t} VALUES (1,1)`)
    for (const column of ['a', 'b', 'c', 'd', 'e', 'f'])
      await source.query(`ALTER TABLE ${t} ADD COLUMN ${column} INT`)
    await source.query(`ALTER TABLE ${t} DROP COLUMN a`)
    await source.query(`ALTER TABLE ${t} RENAME COLUMN b TO bb`)
    await source.query(`INSERT INTO ${t} VALUES (2,2,2,2,2,2,2)`)
    let cuts = 0
    for (const [n, item] of (await log.read()).entries()) {
      let answers = n % 6
      proxy.rule = (chunk) => (answers-- > 0 ? chunk : { cutAfter: 0 })
      const open = (): Promise<Sink> =>
        target.open(contextOf(log.position, t), { url: address.href, ddl: 'apply' })
      sink = await deliver(sink, open, [item], () => {
        cuts++
        proxy.rule = (chunk) => chunk
      })
    }
    expect(cuts).toBeGreaterThan(5)
    expect(await shown(`SELECT id, n, bb, c, d, e, f FROM ${t} ORDER BY id`)).toEqual([
      ['1', '1', null, null, null, null, null],
      ['2', '2', '2', '2', '2', '2', '2'],
    ])
  })

  it.each([
    [
      'tables',
      (a: string, b: string) => `RENAME TABLE ${a} TO x_${a}, ${b} TO ${a}, x_${a} TO ${b}`,
    ],
    ['columns', (a: string) => `ALTER TABLE ${a} RENAME COLUMN n TO m, CHANGE m n INT`],
  ])('does not let %s change places twice, wherever the connection dies', async (_, swap) => {
    const log = await Log.start(server, database)
    await using proxy = await Proxy.start(target)
    const address = new URL(target.url)
    address.port = String(proxy.port)
    const open = (): Promise<Sink> =>
      target.open(contextOf(log.position, t), { url: address.href, ddl: 'apply' })
    sink = await open()
    for (const [i, name] of [t, `${t}_b`].entries()) {
      await source.query(`CREATE TABLE ${name} (id INT PRIMARY KEY, n INT, m INT)`)
      await source.query(`INSERT INTO ${name} VALUES (1,${i},${i + 2})`)
    }
    await drive(sink, await log.read())
    const rows = `SELECT n, m FROM ${t}`
    const statement = swap(t, `${t}_b`)
    if (kind === 'postgres' && statement.includes('CHANGE')) return
    let refused = 0
    for (let cut = 0; cut < 8; cut++) {
      await source.query(statement)
      let answers = cut
      proxy.rule = (chunk) => (answers-- > 0 ? chunk : { cutAfter: 0 })
      const whole = (): void => void (proxy.rule = (chunk) => chunk)
      const [wanted] = (await source.query(rows)) as unknown as [{ n: number; m: number }[]]
      const expected = [[String(wanted[0]!.n), String(wanted[0]!.m)]]
      try {
        sink = await deliver(sink, open, await log.read(), whole)
      } catch (error) {
        expect(error).toMatchObject({ code: 'SINK_UNSUITABLE' })
        expect((error as Error).message).toContain('see whether it was done')
        refused++
        sink = await open()
        if (String(await shown(rows)) !== String(expected)) await target.query(statement)
      }
      whole()
      expect(await shown(rows)).toEqual(expected)
    }
    expect(refused > 0).toBe(kind !== 'postgres')
  })

  it('refuses what it cannot do exactly', async () => {
    await source.query(`CREATE TABLE ${t} (id INT PRIMARY KEY, n INT)`)
    const log = await Log.start(server, database, {
      mapping: (table) => {
        const plain = plainTarget(table)
        const columns = plain.columns.map((c) => (c.name === 'n' ? { ...c, name: 'number' } : c))
        return { ...plain, columns }
      },
    })
    sink = await target.open(contextOf(log.position, t), { ddl: 'apply' })
    await source.query(`INSERT INTO ${t} VALUES (1,1)`)
    await drive(sink, await log.read())
    const refused = async (statement: string, why: string): Promise<void> => {
      await source.query(statement)
      await expect(drive(sink!, await log.read())).rejects.toMatchObject({
        code: 'SINK_UNSUITABLE',
        message: expect.stringContaining(why) as string,
      })
    }
    await refused(`ALTER TABLE ${t} ADD COLUMN m INT`, "the sink's mapping renames columns")
    await sink.close()
    sink = await target.open(contextOf(log.position, t), { ddl: 'apply', table: 'x_{table}' })
    if (kind !== 'postgres')
      await refused(`ALTER TABLE ${t} ADD COLUMN k INT`, 'has another name in the target')
    else
      for (const clause of [
        'MODIFY n BIGINT',
        'ADD COLUMN k INT NOT NULL DEFAULT 5',
        'CHANGE n o INT',
      ])
        await refused(`ALTER TABLE ${t} ${clause}`, 'no statement of PostgreSQL is known')
  })
})

it('applies statements to databases of their own', async () => {
  await using target = await openTarget('mysql')
  const log = await Log.start(server, database)
  const space = `${target.database}_other`
  const sink = await target.open(contextOf(log.position, 'spaces'), {
    ddl: 'apply',
    table: `${space}.{table}`,
  })
  await source.query(`CREATE TABLE ${database}.spaced (id INT PRIMARY KEY)`)
  await source.query(`INSERT INTO spaced VALUES (1)`)
  await source.query(`ALTER TABLE spaced ADD COLUMN n INT`)
  await source.query(`ALTER TABLE \`${database}\` . spaced ADD COLUMN m INT`)
  await source.query(`INSERT INTO spaced VALUES (2,2,2)`)
  await drive(sink, await log.read())
  await sink.close()
  expect(await target.query(`SELECT * FROM ${space}.spaced ORDER BY id`)).toEqual([
    { id: 1, n: null, m: null },
    { id: 2, n: 2, m: 2 },
  ])
  await target.query(`DROP DATABASE ${space}`)
})
