/**
 * Exactly once when the target itself is killed: a table without a key would show every row that was written twice, a
 * counter every one that was lost.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { createConnection } from 'mysql2/promise'
import { sql } from '../../../src/sinks/sql.ts'
import type { Sink } from '../../../src/sinks/sink.ts'
import { privateMysql, sharedMysql, uniqueDatabase, type MysqlServer } from '../../support/mysql.ts'
import { privateService } from '../../support/services.ts'
import { contextOf, deliver, Log } from './log.ts'

interface Victim extends AsyncDisposable {
  readonly url: string
  kill(): Promise<void>
  start(): Promise<void>
}
const victims: Record<string, () => Promise<Victim>> = {
  mysql: () => privateMysql('9.7'),
  mariadb: () => privateService('mariadb'),
  postgres: () => privateService('postgres'),
}

let server: MysqlServer
const database = uniqueDatabase('sqlcrash')
beforeAll(async () => {
  server = await sharedMysql('9.7')
  await server.query(`CREATE DATABASE ${database}`)
})
afterAll(async () => {
  await server.query(`DROP DATABASE IF EXISTS ${database}`)
  await server[Symbol.asyncDispose]()
})

describe.each(Object.keys(victims))('%s killed by SIGKILL', (kind) => {
  it('has each change exactly once afterwards', async () => {
    await using victim = await victims[kind]!()
    const url = await databaseOn(kind, victim.url)
    const [counters, events] = [`${kind}_counters`, `${kind}_events`]
    const source = await server.connect({ database })
    await source.query(`CREATE TABLE ${counters} (id INT PRIMARY KEY, n INT)`)
    await source.query(`CREATE TABLE ${events} (n INT)`)
    const log = await Log.start(server, database, { rowsMax: 6 })
    const options = sql.options.parse({
      url,
      table: '{table}',
      createTables: true,
      keyless: 'match',
    })
    let sink: Sink = await sql.open(options, contextOf(log.position, kind))
    for (let i = 0; i < 200; i++) {
      await source.query('BEGIN')
      await source.query(
        `INSERT INTO ${counters} VALUES (${i % 5},1) ON DUPLICATE KEY UPDATE n = n + 1`,
      )
      await source.query(`INSERT INTO ${events} VALUES (${i})`)
      await source.query('COMMIT')
    }
    const items = await log.read()
    let kills = 0
    let killing: Promise<void> | undefined
    for (const [n, item] of items.entries()) {
      if (n % 12 === 5) killing = restart(victim, n)
      sink = await deliver(
        sink,
        () => sql.open(options, contextOf(log.position, kind)),
        [item],
        async () => {
          await killing
          kills++
        },
      )
      await killing
    }
    await sink.close()
    expect(kills).toBeGreaterThan(1)
    const ask = `SELECT n FROM ${events} ORDER BY n`
    expect(await numbers(kind, url, ask)).toEqual(Array.from({ length: 200 }, (_, i) => i))
    expect(await numbers(kind, url, `SELECT n FROM ${counters}`)).toEqual([40, 40, 40, 40, 40])
    await source.end()
  })
})

async function restart(victim: Victim, n: number): Promise<void> {
  await sleep(n % 4)
  await victim.kill()
  await victim.start()
}
async function databaseOn(kind: string, url: string): Promise<string> {
  const address = new URL(url)
  if (kind === 'postgres') return url
  const connection = await createConnection(address.href)
  await connection.query('CREATE DATABASE IF NOT EXISTS target')
  await connection.end()
  address.pathname = '/target'
  return address.href
}
async function numbers(kind: string, url: string, text: string): Promise<number[]> {
  if (kind === 'postgres') {
    const client = new pg.Client({ connectionString: url })
    await client.connect()
    const { rows } = await client.query<{ n: number }>(text)
    await client.end()
    return rows.map(({ n }) => n)
  }
  const connection = await createConnection(url)
  const [rows] = await connection.query(text)
  await connection.end()
  return (rows as { n: number }[]).map(({ n }) => n)
}
