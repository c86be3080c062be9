/** MariaDB to MySQL and to PostgreSQL while rows are written: its own types, defaults and tables. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { orderCutOver, tablesOf } from '../../src/migrate/options.ts'
import { openTarget } from '../sinks/sql/targets.ts'
import { sharedMysql, uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import { expectEqual, expectEqualPostgres, inStep, run, Shop } from './rig.ts'

/** Definitions that only MariaDB prints so. */
const OWN = `CREATE TABLE own (
  id UUID NOT NULL DEFAULT uuid() PRIMARY KEY, n INT DEFAULT (1 + 2), s VARCHAR(20) DEFAULT 'it''s \\\\', at TIMESTAMP(3) NULL DEFAULT current_timestamp(3),
  doc JSON, packed VARCHAR(60) COMPRESSED CHARACTER SET latin1 COLLATE latin1_swedish_ci DEFAULT 'x', six INET6, hidden INT INVISIBLE DEFAULT 3,
  label VARCHAR(40) GENERATED ALWAYS AS (CONCAT(s, '-')) VIRTUAL, KEY unused (n) IGNORED, KEY (six)
) COLLATE utf8mb4_unicode_nopad_ci;
INSERT INTO own (id, six) VALUES ('00000000-0000-0000-0000-000000000001', '::ffff:1.2.3.4'), ('f47ac10b-58cc-4372-a567-0e02b2c3d479', '2001:db8::1');
CREATE SEQUENCE numbers_of;
CREATE PROCEDURE add_one(name VARCHAR(20)) INSERT INTO customers (name) VALUES (name)`
const own = 'SELECT id, s, six FROM'

const dir = mkdtempSync(join(tmpdir(), 'sluice-migrate-'))
let source: MysqlServer
beforeAll(async () => {
  source = await sharedMysql('mariadb-10.11')
})
afterAll(async () => {
  rmSync(dir, { recursive: true, force: true })
  await source[Symbol.asyncDispose]()
})

test.each(['mysql', 'postgres'] as const)('MariaDB to %s under load', async (kind) => {
  await using target = await (kind === 'mysql' ? sharedMysql('9.7') : openTarget(kind))
  const database = uniqueDatabase('maria')
  const contents = { orders: 500, zeros: kind === 'mysql', more: OWN }
  await using shop = await Shop.open(source, database, contents)
  try {
    const folder = join(dir, kind)
    const refused = run(shop, target.url, { dir: folder, dryRun: true })
    expect(await refused.outcome).toBe('unfit')
    expect(refused.events[0]).toMatchObject({
      plan: {
        checks: expect.arrayContaining([
          expect.objectContaining({
            message: `${database}.numbers_of is sequence, which only MariaDB has: it cannot be moved`,
          }),
        ]),
      },
    })
    shop.start()
    const wanted = { tables: tablesOf([database]), exclude: `${database}\\.numbers_of` }
    const moving = run(shop, target.url, { dir: folder, wanted })
    await inStep(moving)
    await source.query(`UPDATE ${database}.own SET s = 'changed' WHERE six = '2001:db8::1'`)
    // MariaDB does not log what a foreign key deletes
    await source.query(`DELETE FROM ${database}.teams WHERE id = 1`)
    await shop.stop()
    orderCutOver(folder)
    expect(await moving.outcome).toBe('done')
    expect(shop.writes).toBeGreaterThan(5)
    const [verified] = moving.events.filter((one) => one.event === 'verified')
    expect(verified).toMatchObject({ tables: shop.groups.length + 5, different: [] })
    if (kind === 'mysql') await expectEqual(shop, target as MysqlServer)
    else await expectEqualPostgres(shop, (sql) => target.query(sql))
    const rows = await source.query(`${own} ${database}.own ORDER BY id`)
    expect(await target.query(`${own} ${database}.own ORDER BY id`)).toEqual(rows)
    await target.query(`INSERT INTO ${database}.own (n) VALUES (4)`)
    const made = `SELECT s, packed FROM ${database}.own WHERE n = 4`
    expect(await target.query(made)).toEqual([{ s: "it's \\", packed: 'x' }])
    const notes = moving.events.flatMap((one) => (one.event === 'plan' ? one.plan.notes : []))
    const uuid = notes.some(({ text }) => text.startsWith('column id: uuid becomes varchar(36)'))
    expect(uuid).toBe(kind === 'mysql')
  } finally {
    await target.query(
      kind === 'mysql'
        ? `DROP DATABASE IF EXISTS ${database}`
        : `DROP SCHEMA IF EXISTS ${database} CASCADE`,
    )
  }
})
