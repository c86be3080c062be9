/**
 * Rows that a target cannot hold, against real servers: each is SINK_DATA with the row's place and what was expected, so
 * that the runner finds it by halving and puts it aside; nothing of it is in the target.
 */
import type { Connection } from 'mysql2/promise'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { sql } from '../../../src/sinks/sql.ts'
import type { Sink } from '../../../src/sinks/sink.ts'
import { privateMysql, sharedMysql, uniqueDatabase, type MysqlServer } from '../../support/mysql.ts'
import { contextOf, drive, Log } from './log.ts'
import { openTarget } from './targets.ts'

let server: MysqlServer
let source: Connection
const database = uniqueDatabase('refused')
beforeAll(async () => {
  server = await sharedMysql('9.7')
  await server.query(`CREATE DATABASE ${database}`)
  source = await server.connect({ database })
  await source.query(`SET sql_mode = 'ALLOW_INVALID_DATES'`)
})
afterAll(async () => {
  await source.end()
  await server.query(`DROP DATABASE IF EXISTS ${database}`)
  await server[Symbol.asyncDispose]()
})

const refusal = (message: string): object => ({
  code: 'SINK_DATA',
  message: expect.stringMatching(message) as string,
})

it('PostgreSQL: dates that do not exist, text with U+0000', async () => {
  await using target = await openTarget('postgres')
  const columns = `d DATE, dt DATETIME(3), ts TIMESTAMP NULL, v VARCHAR(9), t TEXT, e ENUM('a'), j JSON`
  await source.query(`CREATE TABLE p (id INT PRIMARY KEY, ${columns})`)
  const log = await Log.start(server, database)
  await using sink = closing(
    await target.open(contextOf(log.position, 'p'), { zeroDates: 'error', json: 'jsonb' }),
  )
  await source.query(`INSERT INTO p (id, d, v) VALUES (1, '2026-11-26', 'good')`)
  await drive(sink, await log.read())
  for (const [column, value, expected] of [
    ['d', `'0000-00-00'`, '\\.p.*\\bd: expected a date that exists .*, got 0000-00-00'],
    ['d', `'2026-02-31'`, 'out of range: "2026-02-31"'],
    [
      'dt',
      `'2026-00-10 01:02:03.5'`,
      '\\.p.*\\bdt: expected a date that exists .*, got 2026-00-10 01:02:03',
    ],
    ['ts', `'0000-00-00 00:00:00'`, '\\.p.*\\bts: expected a date that exists .*, got 0000-00-00'],
    ['v', `'a\\0b'`, '\\.p.*\\bv: expected text without the character U\\+0000'],
    ['t', `'\\0'`, '\\.p.*\\bt: expected text without the character U\\+0000'],
    ['j', `'{"a": "\\\\u0000"}'`, 'unsupported Unicode escape sequence'],
  ] as const) {
    await source.query(`INSERT INTO p (id, ${column}) VALUES (2, ${value})`)
    const items = await log.read()
    await expect(drive(sink, items), value).rejects.toMatchObject(refusal(expected))
    await source.query('DELETE FROM p WHERE id = 2')
    await log.read()
    expect(await target.query('SELECT id FROM p')).toEqual([{ id: '1' }])
  }
})

it('MySQL: a row over max_allowed_packet, to the byte', async () => {
  const packet = 64 * 1024
  await using small = await privateMysql('9.7', { args: [`--max-allowed-packet=${packet}`] })
  await small.query('CREATE DATABASE target')
  const { user, password, host, port } = small
  const url = `mysql://${user}:${password}@${host}:${port}/target`
  await source.query('CREATE TABLE m (id INT PRIMARY KEY, v LONGTEXT)')
  const log = await Log.start(server, database)
  const options = sql.options.parse({ url, table: '{table}', createTables: true })
  await using sink = closing(await sql.open(options, contextOf(log.position, 'm')))
  const held = async (): Promise<unknown> =>
    (await small.query<{ n: number }>('SELECT MAX(LENGTH(v)) AS n FROM target.m'))[0]!.n
  let taken = 0
  let refused = 0
  for (const length of [1000, packet - 1500, packet - 1200, packet - 1100, packet - 1000, packet]) {
    await source.query(`REPLACE INTO m VALUES (1, REPEAT('x', ${length}))`)
    const items = await log.read()
    try {
      await drive(sink, items)
      taken++
      expect(await held()).toBe(length)
    } catch (error) {
      refused++
      const text = `${database}\\.m.*expected a row .* of ${packet - 1024} bytes.*raise max_allowed_packet`
      expect(error).toMatchObject(refusal(text))
      expect(await held()).toBeLessThan(length)
    }
  }
  expect({ taken, refused }).toEqual({ taken: 4, refused: 2 })
})

/** The sink, closed when its block ends. */
const closing = (sink: Sink): Sink & AsyncDisposable =>
  Object.assign(sink, { [Symbol.asyncDispose]: () => sink.close() })
