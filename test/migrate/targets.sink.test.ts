/**
 * MySQL 9.7 to PostgreSQL while rows are written, killed in the middle of the load and begun again; to MariaDB with what stands
 * beside tables; and what a plan says without changing anything.
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createConnection } from 'mysql2/promise'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Event } from '../../src/migrate/parts.ts'
import { orderCutOver } from '../../src/migrate/options.ts'
import { inProcess, start, type Running } from '../commands/run.ts'
import { long, Random, seed } from '../e2e/load.ts'
import { openTarget, type Target } from '../sinks/sql/targets.ts'
import { sharedMysql, uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import { sharedService } from '../support/services.ts'
import { expectEqualPostgres, inStep, killedInEveryPhase, ODD, ODD_ROWS, run, Shop } from './rig.ts'

const dir = mkdtempSync(join(tmpdir(), 'sluice-migrate-'))
let source: MysqlServer
let target: Target
beforeAll(async () => {
  source = await sharedMysql('9.7')
  target = await openTarget('postgres')
})
afterAll(async () => {
  rmSync(dir, { recursive: true, force: true })
  await target[Symbol.asyncDispose]()
  await source[Symbol.asyncDispose]()
})

const eventsOf = (stdout: string): Event[] =>
  stdout
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Event)

test('9.7 to PostgreSQL under load, killed in the load: every type, keys, counters', async () => {
  await using shop = await Shop.open(source, uniqueDatabase('moved'), {
    orders: 12_000,
    zeros: false,
    more: `${ODD}; ${ODD_ROWS}`,
  })
  const { database } = shop
  const folder = join(dir, 'postgres')
  const secret = `:${source.password}@`
  const args = [
    '--from',
    `${source.url}/${database}`,
    '--to',
    target.url,
    '--dir',
    folder,
    '--json',
  ]
  // the plan, and nothing else
  const dry = await inProcess(['migrate', ...args.slice(0, -1), '--dry-run'])
  expect(dry).toMatchObject({ code: 0, stderr: '' })
  for (const text of [
    `${database}.orders`,
    'key id',
    'view: not carried over',
    'becomes bytea',
    'the load may take',
  ])
    expect(dry.stdout).toContain(text)
  expect(dry.stdout + dry.stderr).not.toContain(secret)
  expect(readdirSync(dir)).toEqual([])
  expect(await target.query(`SELECT 1 FROM pg_namespace WHERE nspname='${database}'`)).toEqual([])

  shop.start()
  const first = start(['migrate', ...args])
  await first.printed('"phase":"load"')
  await rowsIn(database, first)
  first.child.kill('SIGKILL')
  await first.result
  const again = start(['migrate', ...args])
  await again.printed('"event":"inStep"')
  // somebody else may ask for it, and waits
  await source.query(`ALTER TABLE ${database}.customers ADD COLUMN age INT`)
  await source.query(`DELETE FROM ${database}.teams WHERE id = 1`)
  await source.query(`INSERT INTO ${database}.customers (name, age) VALUES ('late', 3)`)
  await shop.stop()
  const asked = await inProcess(['migrate', '--dir', folder, '--cut-over'])
  expect(asked).toMatchObject({ code: 0, stderr: '' })
  const { code, stdout } = await again.result
  expect(code, stdout).toBe(0)
  const events = eventsOf(stdout)
  expect(events.find((one) => one.event === 'verified')).toMatchObject({ different: [] })
  expect(stdout).not.toContain(secret)
  await expectEqualPostgres(shop, (sql) => target.query(sql))
  await postgresSchema(shop)
})

/** Waits until some rows of the load are in the target, but not all. */
async function rowsIn(database: string, running: Running): Promise<void> {
  const count = async (): Promise<number> => {
    const rows = await target
      .query(`SELECT COUNT(*) AS n FROM ${database}.orders`)
      .catch(() => [{ n: 0 }])
    return Number(rows[0]!['n'])
  }
  await expect.poll(count, { interval: 5 }).toBeGreaterThan(1000)
  expect(running.child.exitCode).toBe(null)
}
async function postgresSchema({ database, mysql }: Shop): Promise<void> {
  const indexes = await target.query(
    `SELECT indexname AS name, indexdef AS def FROM pg_indexes WHERE schemaname='${database}' AND tablename='orders' ORDER BY 1`,
  )
  expect(indexes.map(({ name }) => name)).toEqual([
    'orders_by_code',
    'orders_by_n',
    'orders_by_price',
    'orders_of_customer',
    'orders_pkey',
  ])
  expect(indexes[0]!['def']).toContain('UNIQUE')
  const columns = await target.query(
    `SELECT column_name AS name, is_nullable AS nullable, column_default AS value, is_generated AS generated, is_identity AS identity,
       col_description('${database}.orders'::regclass, ordinal_position) AS comment
     FROM information_schema.columns WHERE table_schema='${database}' AND table_name='orders' ORDER BY ordinal_position`,
  )
  const named = new Map(columns.map((column) => [column['name'], column]))
  expect(named.get('id')).toMatchObject({ nullable: 'NO', identity: 'YES' })
  expect(named.get('price')).toMatchObject({ nullable: 'NO', value: '1.00', comment: 'in EUR' })
  expect(named.get('total')).toMatchObject({ generated: 'ALWAYS' })
  expect(named.get('at')).toMatchObject({ nullable: 'NO' })
  const [last] = await mysql.query<{ id: number }>(`SELECT MAX(id) AS id FROM ${database}.orders`)
  const insert = `INSERT INTO ${database}.orders (customer, code) VALUES (1, 'new') RETURNING id`
  const [made] = await target.query(insert)
  expect(Number(made!['id'])).toBeGreaterThan(last!.id)
  const wrong = `INSERT INTO ${database}.orders (customer, code) VALUES (99, 'wrong')`
  await expect(target.query(wrong)).rejects.toThrow('of_customer')
}

if (long)
  test('killed again and again, in every phase', { timeout: 900_000 }, async () => {
    const more = `${ODD}; ${ODD_ROWS}`
    const contents = { orders: 20_000, zeros: false, more }
    await using shop = await Shop.open(source, uniqueDatabase('moved'), contents)
    shop.start()
    const about = { dir: join(dir, shop.database), random: new Random(seed), rounds: 5 }
    const killed = await killedInEveryPhase(shop, target.url, about)
    console.log(`seed ${seed}, phases at the kills: ${killed.join(' ')}`)
    await expectEqualPostgres(shop, (sql) => target.query(sql))
    await postgresSchema(shop)
  })

test('to MariaDB: views, triggers and routines come last; what is not there is said', async () => {
  await using shop = await Shop.open(source, uniqueDatabase('moved'), {
    orders: 100,
    zeros: true,
    bare: true,
    more: `${ODD}; ${ODD_ROWS}`,
  })
  const { database } = shop
  const db = await source.connect({ database })
  await db.query(
    `CREATE TABLE audit (id INT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(30) COLLATE utf8mb4_0900_as_ci)`,
  )
  await db.query(
    `CREATE TRIGGER noted AFTER INSERT ON customers FOR EACH ROW INSERT INTO audit (what) VALUES (NEW.name)`,
  )
  await db.query(
    `CREATE PROCEDURE add_one(name VARCHAR(20)) INSERT INTO customers (name) VALUES (name)`,
  )
  await db.end()
  await using server = sharedService('mariadb')
  const { host, port, user, password } = server
  const there = await createConnection({
    host,
    port,
    user: user!,
    password: password!,
    multipleStatements: true,
  })
  try {
    const to = `mysql://${user}:${password}@${host}:${port}`
    const folder = join(dir, 'mariadb')
    // rows of the target are changed by others: nothing is cut over
    const first = run(shop, to, { dir: folder })
    await inStep(first)
    await there.query(`DELETE FROM ${database}.orders WHERE id = 7`)
    await there.query(`UPDATE ${database}.orders SET n = 77 WHERE id = 8`)
    await there.query(
      `INSERT INTO ${database}.orders (id, customer, code) VALUES (999, 1, 'nobody')`,
    )
    orderCutOver(folder)
    expect(await first.outcome).toBe('different')
    expect(first.events.at(-1)).toMatchObject({
      event: 'verified',
      different: [
        {
          table: `${database}.orders`,
          text: '1 missing, 1 extra, 1 different of 100 rows: missing 7, different 8, extra 999',
        },
      ],
    })
    // which writes them anew
    await source.query(`UPDATE ${database}.orders SET n = n + 1 WHERE id IN (7, 8)`)
    await there.query(`DELETE FROM ${database}.orders WHERE id = 999`)
    const moving = run(shop, to, { dir: folder, cutOver: true })
    expect(await moving.outcome).toBe('done')
    const notes = moving.events.flatMap((one) => (one.event === 'plan' ? one.plan.notes : []))
    const vector = 'column v: vector(3) is varbinary(12), with the same bytes'
    expect(notes.map(({ text }) => text)).toContain(vector)
    const [verified] = moving.events.filter((one) => one.event === 'verified')
    expect(verified).toMatchObject({ different: [] })
    await there.query(`USE ${database}; CALL add_one('later')`)
    const [audit] = await there.query('SELECT what FROM audit')
    expect(audit).toEqual([{ what: 'later' }])
    const [dear] = await there.query('SELECT COUNT(*) AS n FROM dear')
    expect(dear).toEqual(await source.query(`SELECT COUNT(*) AS n FROM ${database}.dear`))
  } finally {
    await there.query(`DROP DATABASE IF EXISTS ${database}`)
    await there.end()
  }
})

test('U+0000 stops it, and is left out where that is asked for', async () => {
  const contents = { orders: 10, zeros: false, bare: true }
  await using shop = await Shop.open(source, uniqueDatabase('moved'), contents)
  const { database } = shop
  await source.query(`UPDATE ${database}.teams SET name = x'410042' WHERE id = 3`)
  const folder = join(dir, 'nul')
  const first = run(shop, target.url, { dir: folder, cutOver: true })
  await expect(first.outcome).rejects.toThrow(
    /teams.*column name: expected text without the character U\+0000/,
  )
  const again = run(shop, target.url, { dir: folder, cutOver: true, removeNul: true })
  expect(await again.outcome).toBe('done')
  expect(again.events.find(({ event }) => event === 'verified')).toMatchObject({ different: [] })
  const rows = await target.query(`SELECT name FROM ${database}.teams WHERE id = 3`)
  expect(rows).toEqual([{ name: 'AB' }])
})

test('DDL that PostgreSQL cannot follow stops it, and it goes on behind it', async () => {
  await using shop = await Shop.open(source, uniqueDatabase('moved'), {
    orders: 10,
    zeros: false,
    bare: true,
  })
  const { database } = shop
  const folder = join(dir, 'ddl')
  const first = run(shop, target.url, { dir: folder })
  await inStep(first)
  // no rows come in these
  await source.query(`ALTER TABLE ${database}.teams ADD COLUMN note VARCHAR(9) DEFAULT NULL`)
  await source.query(
    `CREATE TABLE ${database}.late (id INT AUTO_INCREMENT PRIMARY KEY, v INT, KEY by_v (v))`,
  )
  await source.query(`ALTER TABLE ${database}.customers MODIFY name VARCHAR(80) NOT NULL`)
  const long = 'x'.repeat(70)
  await source.query(`INSERT INTO ${database}.customers (name) VALUES ('${long}')`)
  await expect(first.outcome).rejects.toThrow(/SINK_UNSUITABLE|MODIFY name VARCHAR\(80\)/)
  await target.query(`ALTER TABLE ${database}.customers ALTER COLUMN name TYPE varchar(80)`)
  expect(await run(shop, target.url, { dir: folder, ddl: 'ignore', cutOver: true }).outcome).toBe(
    'done',
  )
  const rows = await target.query(`SELECT name FROM ${database}.customers ORDER BY id DESC LIMIT 1`)
  expect(rows).toEqual([{ name: long }])
  const made = await target.query(
    `INSERT INTO ${database}.late (v) SELECT COUNT(note) FROM ${database}.teams RETURNING id`,
  )
  expect(made).toEqual([{ id: '1' }])
})

test('what cannot be is said before anything is done', async () => {
  const database = uniqueDatabase('moved')
  await source.query(
    `CREATE DATABASE ${database}; CREATE TABLE ${database}.heap (a INT); CREATE TABLE ${database}.t (a INT PRIMARY KEY)`,
  )
  await target.query(
    `CREATE SCHEMA ${database}; CREATE TABLE ${database}.t (a INT PRIMARY KEY); INSERT INTO ${database}.t VALUES (1)`,
  )
  try {
    const args = [
      'migrate',
      '--from',
      `${source.url}/${database}`,
      '--to',
      target.url,
      '--dir',
      join(dir, 'never'),
      '--reverse',
    ]
    const { code, stdout } = await inProcess(args)
    expect(code).toBe(1)
    expect(stdout).toContain(
      `${database}.heap has neither a primary key nor a unique one without NULL`,
    )
    expect(stdout).toContain(
      `has a table ${database}.t with rows that this migration did not write`,
    )
    expect(stdout).toContain('--reverse: expected MySQL or MariaDB as the target')
    expect(
      await target.query(`SELECT tablename FROM pg_tables WHERE schemaname='${database}'`),
    ).toEqual([{ tablename: 't' }])
  } finally {
    await source.query(`DROP DATABASE ${database}`)
  }
})
test.each([
  [['--to', 'mysql://u@h/d'], 'expected --from URL, or --dir of a migration that was begun'],
  [
    ['--from', 'postgres://u:secret@h/d', '--to', 'mysql://u@h'],
    '--from: expected mysql://user@host:port/database, found the scheme postgres',
  ],
  [
    ['--from', 'mysql://u@h', '--to', 'postgres://u:secret@h'],
    '--to: expected a database after the host, found none',
  ],
  [
    ['--from', 'mysql://u@h', '--to', 'mysql://u:secret@h?tls=maybe'],
    '--to: expected tls= one of disabled, required, verify, found maybe',
  ],
  [
    ['--from', 'mysql://u@h', '--to', 'mysql://u@h', '--ddl', 'no'],
    '--ddl: expected apply or ignore, found "no"',
  ],
  [
    ['--from', 'mysql://u@h', '--to', 'mysql://u@h', '--tables', 'a', '--databases', 'b'],
    'expected --databases or --tables, found both',
  ],
])('%j is refused with exit code 2', async (args, message) => {
  const { code, stderr } = await inProcess(['migrate', ...args])
  expect(code).toBe(2)
  expect(stderr).toContain(message)
  expect(stderr).not.toContain('secret')
})
