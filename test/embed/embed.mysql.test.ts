/** Handlers inside a program, on a real MySQL: typed rows, order, patience, places that outlive the program. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { embed, RowRefused, type About, type EmbedOptions, type Embedded } from '../../src/embed.ts'
import { sharedMysql, uniqueDatabase, type MysqlServer } from '../support/mysql.ts'

let mysql: MysqlServer
let database: string
const dir = mkdtempSync(join(tmpdir(), 'sluice-embed-'))
beforeAll(async () => {
  mysql = await sharedMysql('9.7')
  database = uniqueDatabase('embed')
  await mysql.query(`CREATE DATABASE ${database}`)
  await mysql.query(
    `CREATE TABLE ${database}.orders (id INT PRIMARY KEY, total DECIMAL(10,2), big BIGINT UNSIGNED,
       state ENUM('new','paid'), tags SET('a','b'), doc JSON, raw VARBINARY(20), at DATETIME(3))`,
  )
  await mysql.query(`CREATE TABLE ${database}.users (id INT PRIMARY KEY, name VARCHAR(50))`)
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

interface User {
  id: number
  name: string | null
}
let count = 0
const options = (name = `shop${++count}`): EmbedOptions => ({
  name,
  dataDir: dir,
  log: 'silent',
  source: { host: mysql.host, port: mysql.port, user: mysql.user, password: mysql.password },
  filter: { include: `${database}\\..*` },
})
const open = (name?: string): Embedded<Record<string, User>> => embed(options(name))

test('handlers get rows as objects with exact values, and what they are about', async () => {
  const shop = embed(options())
  const calls: [string, unknown, unknown, About][] = []
  shop.subscribe('all').on(`${database}.orders`, {
    insert: (row, about) => void calls.push(['insert', row, undefined, about]),
    update: (row, before, about) => void calls.push(['update', row, before, about]),
    delete: (row, about) => void calls.push(['delete', row, undefined, about]),
  })
  await shop.start()
  await mysql.query(
    `INSERT INTO ${database}.orders VALUES (1, 12.50, 18446744073709551615, 'paid', 'a,b', '{"a": 1}', x'00ff', '2026-01-31 12:00:00.125')`,
  )
  await mysql.query(`UPDATE ${database}.orders SET id = 2, total = NULL WHERE id = 1`)
  await mysql.query(`DELETE FROM ${database}.orders`)
  await expect.poll(() => calls.length).toBe(3)
  const row = {
    id: 1,
    total: '12.50',
    big: 18446744073709551615n,
    state: 'paid',
    tags: 'a,b',
    doc: '{"a": 1}',
    raw: Buffer.from([0, 255]),
    at: '2026-01-31 12:00:00.125',
  }
  const changed = { ...row, id: 2, total: null }
  expect(calls.map(([kind, now, before]) => [kind, now, before])).toEqual([
    ['insert', row, undefined],
    ['update', changed, row],
    ['delete', changed, undefined],
  ])
  expect(calls[0]![3]).toMatchObject({
    kind: 'insert',
    database,
    table: 'orders',
    redelivered: false,
    snapshot: false,
  })
  const versions = calls.map(([, , , about]) => about.version)
  expect(versions).toEqual([...versions].sort())
  expect(new Set(calls.map(([, , , about]) => about.id)).size).toBe(3)
  await shop.stop()
  await shop.ended
})

test('each subscriber has its own place, which outlives the program', async () => {
  const seen: string[] = []
  const run = async (until: number): Promise<void> => {
    await using shop = open('places')
    for (const who of ['a', 'b'])
      shop.subscribe(who).on(`${database}.users`, {
        insert: async (row) => {
          await Promise.resolve()
          seen.push(`${who}${row.id}`)
        },
      })
    await shop.start()
    if (until === 2) await mysql.query(`INSERT INTO ${database}.users VALUES (101, 'x')`)
    await expect.poll(() => seen.length).toBe(until)
  }
  await run(2)
  await mysql.query(`INSERT INTO ${database}.users VALUES (102, 'y')`)
  await run(4)
  expect(seen.toSorted()).toEqual(['a101', 'a102', 'b101', 'b102'])
})

test('a handler that throws is called again with that row, and with none that was handled', async () => {
  await using shop = open()
  const calls: number[] = []
  let failures = 3
  shop.subscribe('one', { retry: { minMs: 5, maxMs: 20 } }).on(`${database}.users`, {
    insert: (row) => {
      calls.push(row.id)
      if (row.id === 202 && failures-- > 0) throw new Error('not now')
    },
  })
  await shop.start()
  await mysql.query(`INSERT INTO ${database}.users VALUES (201, 'a'), (202, 'b'), (203, 'c')`)
  await expect.poll(() => calls).toEqual([201, 202, 202, 202, 202, 203])
  expect(shop.status?.sinks[0]).toMatchObject({ name: 'one', retries: 3 })
})

test('a refused row becomes a dead letter, or ends the subscriber, which `ended` tells', async () => {
  const seen: number[] = []
  const refuse = (row: User): void => {
    if (row.id === 302) throw new RowRefused('no such thing')
    seen.push(row.id)
  }
  {
    await using shop = open()
    shop.subscribe('one', { onError: 'deadLetter' }).on(`${database}.users`, { insert: refuse })
    await shop.start()
    await mysql.query(`INSERT INTO ${database}.users VALUES (301, 'a'), (302, 'b'), (303, 'c')`)
    await expect.poll(() => seen).toEqual([301, 303])
    await expect.poll(() => shop.status?.sinks[0]?.letters).toBe(1)
  }
  await mysql.query(`DELETE FROM ${database}.users`)
  await using shop = open()
  shop.subscribe('one').on(`${database}.users`, { insert: refuse })
  await shop.start()
  await mysql.query(`INSERT INTO ${database}.users VALUES (302, 'b'), (304, 'c')`)
  await expect(shop.ended).rejects.toThrow(
    new RegExp(`insert handler of ${database}\\.users at .*no such thing`),
  )
  expect(seen).toEqual([301, 303])
})

test('rows that were there come first with initialLoad; a factory sees the columns of each version of a table', async () => {
  await mysql.query(`CREATE TABLE ${database}.late (id INT PRIMARY KEY)`)
  await mysql.query(`INSERT INTO ${database}.late VALUES (1), (2)`)
  await using shop = embed(options())
  const seen: string[] = []
  shop.subscribe('cache', { initialLoad: 'ifEmpty' }).on(/\.late$/, ({ columns }) => ({
    insert: (row, { snapshot }) =>
      void seen.push(
        `${snapshot ? 'loaded' : 'new'} ${columns.map((c) => `${c.name}=${JSON.stringify(row[c.name])}`).join()}`,
      ),
  }))
  await shop.start()
  await expect.poll(() => seen.toSorted()).toEqual(['loaded id=1', 'loaded id=2'])
  await mysql.query(`ALTER TABLE ${database}.late ADD COLUMN v INT`)
  await mysql.query(`INSERT INTO ${database}.late VALUES (3, 7)`)
  await expect.poll(() => seen.at(-1)).toBe('new id=3,v=7')
})

test('statements come in their place', async () => {
  await using shop = open()
  const seen: string[] = []
  shop
    .subscribe('one')
    .on(`${database}.users`, { insert: (row) => void seen.push(`row ${row.id}`) })
    .onStatement(({ type, table }) => {
      // the server is shared, and statements about users are of no table
      if (table !== '') seen.push(`${type} ${table}`)
    })
  await shop.start()
  await mysql.query(`INSERT INTO ${database}.users VALUES (401, 'a')`)
  await mysql.query(`TRUNCATE ${database}.users`)
  await mysql.query(`INSERT INTO ${database}.users VALUES (402, 'a')`)
  await expect.poll(() => seen).toEqual(['row 401', 'TRUNCATE users', 'row 402'])
})

test('rows of one key keep their order with several lanes', async () => {
  await using shop = open()
  const last = new Map<number, string>()
  let done = 0
  shop.subscribe('lanes', { parallel: 4 }).on(`${database}.users`, {
    async insert(row) {
      await new Promise(setImmediate)
      last.set(row.id, row.name ?? '')
      done++
    },
    async update(row) {
      last.set(row.id, row.name ?? '')
      done++
      await Promise.resolve()
    },
  })
  await shop.start()
  const ids = Array.from({ length: 40 }, (_, i) => 500 + i)
  await mysql.query(
    `INSERT INTO ${database}.users VALUES ${ids.map((id) => `(${id}, 'v0')`).join()}`,
  )
  for (const v of ['v1', 'v2', 'v3'])
    await mysql.query(`UPDATE ${database}.users SET name = '${v}' WHERE id >= 500`)
  await expect.poll(() => done).toBe(160)
  expect([...last.values()].every((v) => v === 'v3')).toBe(true)
})

test('what is wrong is said at once, with the key', async () => {
  const wrong = { ...options(), windowBytes: 'much', sorce: {} } as unknown as EmbedOptions
  expect(() => embed(wrong)).toThrow(/windowBytes: expected .*\n.*sorce/)
  const shop = open('twice')
  expect(() => shop.subscribe('a b')).toThrow('subscriber: expected a new name')
  expect(() => shop.subscribe('x', { onError: 'never' as 'stop' })).toThrow('subscriber x: onError')
  shop.subscribe('x')
  expect(() => shop.subscribe('x')).toThrow('subscriber: expected a new name')
  await shop.start()
  const second = open('twice')
  await expect(second.start()).rejects.toMatchObject({ code: 'STATE_LOCKED' })
  await shop.stop()
  const nobody = embed({ ...options(), source: { ...options().source, password: 'wrong ${HOME}' } })
  await expect(nobody.start()).rejects.toMatchObject({ code: 'ACCESS_DENIED' })
  await nobody.stop()
})
