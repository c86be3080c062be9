/** MySQL 5.7 to 9.7 while rows are written: killed in every phase, with the cut-over and the way back. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { orderCutOver } from '../../src/migrate/options.ts'
import { start } from '../commands/run.ts'
import { Random, scaled, seed } from '../e2e/load.ts'
import { privateMysql, sharedMysql, uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import { expectEqual, killedInEveryPhase, run, Shop } from './rig.ts'

const dir = mkdtempSync(join(tmpdir(), 'sluice-migrate-'))
let source: MysqlServer
let target: MysqlServer
beforeAll(async () => {
  source = await privateMysql('5.7')
  target = await sharedMysql('9.7')
})
afterAll(async () => {
  rmSync(dir, { recursive: true, force: true })
  await source[Symbol.asyncDispose]()
  await target[Symbol.asyncDispose]()
})

test('killed in every phase, and begun again', { timeout: scaled(120_000, 900_000) }, async () => {
  const database = uniqueDatabase('killed')
  await using shop = await Shop.open(source, database, { orders: 3000, zeros: true })
  shop.start()
  try {
    const killed = await killedInEveryPhase(shop, target.url, {
      dir: join(dir, 'killed'),
      random: new Random(seed),
      rounds: scaled(1, 4),
    })
    expect(killed.length, `seed ${seed}: ${killed.join(' ')}`).toBeGreaterThanOrEqual(4)
    expect(shop.writes).toBeGreaterThan(10)
    await expectEqual(shop, target)
    await sameSchema(shop, target)
  } finally {
    await target.query(`DROP DATABASE IF EXISTS ${database}`)
  }
})

test('5.7 to 9.7 under load: every type, keys, foreign keys, views, triggers; and back', async () => {
  const database = uniqueDatabase('moved')
  const home = join(dir, 'moved')
  await using shop = await Shop.open(source, database, { orders: 2000, zeros: true })
  shop.start()
  const moving = run(shop, target.url, { dir: home, reverse: true, lockSource: true })
  try {
    const said = (event: string): boolean => moving.events.some((one) => one.event === event)
    await Promise.race([
      expect.poll(() => said('inStep'), { timeout: 60_000 }).toBe(true),
      moving.outcome,
    ])
    await source.query(`ALTER TABLE ${database}.customers ADD COLUMN age INT`)
    // 5.7 does not log what a foreign key deletes
    await source.query(`DELETE FROM ${database}.teams WHERE id = 1`)
    await shop.stop()
    await source.query('FLUSH BINARY LOGS') // a place in the log without a change behind it
    orderCutOver(home)
    await expect.poll(() => said('cutOver'), { timeout: 60_000 }).toBe(true)
    expect(shop.writes).toBeGreaterThan(10)
    await expectEqual(shop, target)
    const [verified] = moving.events.filter((one) => one.event === 'verified')
    expect(verified).toMatchObject({ tables: shop.groups.length + 4, different: [] })
    await sameSchema(shop, target)
    // what is written to the target comes back
    await target.query(
      `INSERT INTO ${database}.customers (name, age) VALUES ('new', 7); UPDATE ${database}.orders SET n = 1000 WHERE id < 50`,
    )
    const back = (): Promise<unknown[]> =>
      source.query(`SELECT name FROM ${database}.customers WHERE age = 7`)
    await expect.poll(back).toEqual([{ name: 'new' }])
    await expectEqual(shop, target)
    expect(readFileSync(join(home, 'reverse.yaml'), 'utf8')).not.toMatch(
      /:sluice@|password: sluice/,
    )
  } finally {
    moving.stop()
    await moving.outcome
    await target.query(`DROP DATABASE IF EXISTS ${database}`)
  }
})

test('TLS to both, passwords from files, and the way back by TLS', async () => {
  await using older = await sharedMysql('8.0')
  const database = uniqueDatabase('tls')
  const files = new Map<string, string>()
  // neither takes them without TLS
  for (const [name, server] of Object.entries({ from: older, to: target })) {
    const password = `p-${name}:@/?`
    await server.query(
      `CREATE USER '${database}'@'%' IDENTIFIED BY '${password}' REQUIRE SSL; GRANT ALL ON *.* TO '${database}'@'%' WITH GRANT OPTION`,
    )
    files.set(name, join(dir, `${name}.password`))
    writeFileSync(files.get(name)!, `${password}\n`)
  }
  await using shop = await Shop.open(older, database, { orders: 20, zeros: true, bare: true })
  const url = ({ host, port }: MysqlServer, path = ''): string =>
    `mysql://${database}@${host}:${port}${path}?tls=required`
  const sides = ['--from', url(older, `/${database}`), '--to', url(target)]
  const secrets = [...files].flatMap(([name, file]) => [`--${name}-password-file`, file])
  const more = ['--dir', join(dir, 'tls'), '--cut-over', '--reverse', '--json']
  const moving = start(['migrate', ...sides, ...secrets, ...more])
  try {
    await moving.printed('streaming back into the source')
    await target.query(`INSERT INTO ${database}.customers (name) VALUES ('new')`)
    const back = (): Promise<unknown[]> =>
      older.query(`SELECT name FROM ${database}.customers WHERE name = 'new'`)
    await expect.poll(back).toEqual([{ name: 'new' }])
    await expectEqual(shop, target)
    moving.child.kill('SIGINT')
    const { code, stdout, stderr } = await moving.result
    expect([code, stderr]).toEqual([0, ''])
    const written = readFileSync(join(dir, 'tls', 'reverse.yaml'), 'utf8')
    expect(stdout + written).not.toMatch(/p-from|p-to/)
    expect(written).toMatch(/tls: required/)
  } finally {
    moving.child.kill('SIGKILL')
    await target.query(`DROP DATABASE IF EXISTS ${database}`)
    for (const server of [older, target]) await server.query(`DROP USER '${database}'@'%'`)
  }
})

test('--lock-source alone: nobody writes any more, whatever account he has', async () => {
  const database = uniqueDatabase('locked')
  await using shop = await Shop.open(source, database, { orders: 20, zeros: true, bare: true })
  try {
    const home = join(dir, 'locked')
    const moving = run(shop, target.url, { dir: home, lockSource: true, cutOver: true })
    expect(await moving.outcome).toBe('done')
    expect(moving.events.some(({ event }) => event === 'waiting')).toBe(false)
    const write = source.query(`DELETE FROM ${database}.orders`)
    await expect(write).rejects.toThrow(/super-read-only/)
    await expectEqual(shop, target)
    const unlock = 'SET GLOBAL super_read_only = OFF, read_only = OFF'
    expect(JSON.stringify(moving.events.at(-1))).toContain(unlock)
    await source.query(unlock)
  } finally {
    await target.query(`DROP DATABASE IF EXISTS ${database}`)
  }
})

async function sameSchema(shop: Shop, target: Pick<Shop['mysql'], 'query'>): Promise<void> {
  const { database, mysql } = shop
  const questions = [
    `SELECT TABLE_NAME AS t, INDEX_NAME AS i, SEQ_IN_INDEX AS n, COLUMN_NAME AS c, NON_UNIQUE AS u FROM information_schema.STATISTICS WHERE TABLE_SCHEMA='${database}' ORDER BY 1, 2, 3`,
    `SELECT CONSTRAINT_NAME AS c, REPLACE(DELETE_RULE, 'RESTRICT', 'NO ACTION') AS d, REFERENCED_TABLE_NAME AS r FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA='${database}' ORDER BY 1`,
    `SELECT TABLE_NAME AS t, COLUMN_NAME AS c, IS_NULLABLE AS n, REPLACE(COLLATION_NAME, 'utf8mb3', 'utf8') AS l, COLUMN_COMMENT AS m FROM information_schema.COLUMNS WHERE TABLE_SCHEMA='${database}' ORDER BY 1, ORDINAL_POSITION`,
    `SELECT TABLE_NAME AS t, TABLE_TYPE AS y, TABLE_COMMENT AS c FROM information_schema.TABLES WHERE TABLE_SCHEMA='${database}' ORDER BY 1`,
  ]
  for (const sql of questions) {
    const wanted = await mysql.query(sql)
    expect(wanted.length).toBeGreaterThan(0)
    expect(await target.query(sql), sql).toEqual(wanted)
  }
  const counter = `SHOW CREATE TABLE ${database}.orders`
  const next = async (server: Pick<Shop['mysql'], 'query'>): Promise<string | undefined> =>
    / AUTO_INCREMENT=(\d+)/.exec(
      (await server.query<Record<string, string>>(counter))[0]!['Create Table']!,
    )?.[1]
  expect(await next(target)).toBe(await next(mysql))
}
