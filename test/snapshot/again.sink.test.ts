/**
 * `unloggedChange: resnapshot` before real targets (Redis, PostgreSQL, MySQL): foreign keys that cascade below the log (MySQL 8.0)
 * and in it (9.7), TRUNCATE, partitions that go, are emptied and exchanged, ALTERs that change values. Each target equals SELECT.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { describe, expect, it } from 'vitest'
import { stringify } from 'yaml'
import { openTarget } from '../sinks/sql/targets.ts'
import { startInstance } from '../support/instance.ts'
import { sharedMysql, uniqueDatabase } from '../support/mysql.ts'
import { hasService, sharedService } from '../support/services.ts'

const TABLES = ['child', 'grand', 'other', 'parent', 'parts', 'swap'] as const
const lineOf = (table: string, row: object): string =>
  `${table} ${Object.entries(row)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `${name}=${String(value)}`)
    .toSorted()
    .join(' ')}`

describe.each(['8.0', '9.7'] as const)('MySQL %s', (version) => {
  it.skipIf(!hasService('redis') || !hasService('postgres'))(
    'tables whose rows changed beside the log are read again',
    async () => {
      const dir = mkdtempSync(join(tmpdir(), 'sluice-again-'))
      await using stack = new AsyncDisposableStack()
      stack.defer(() => rmSync(dir, { recursive: true, force: true }))
      const mysql = stack.use(await sharedMysql(version))
      const db = uniqueDatabase('again')
      await mysql.query(`CREATE DATABASE ${db}`)
      stack.defer(async () => void (await mysql.query(`DROP DATABASE ${db}`)))
      const postgres = stack.use(await openTarget('postgres'))
      const mirror = stack.use(await openTarget('mysql'))
      const { host: redisHost, port: redisPort } = sharedService('redis')
      const redis = new Redis({ host: redisHost, port: redisPort })
      stack.defer(() => redis.disconnect())
      const { host, port, user, password } = mysql
      const common = { unloggedChange: 'resnapshot', retry: { minMs: 20, maxMs: 200 } }
      const sql = { ...common, type: 'sql', table: '{table}', createTables: true, ddl: 'apply' }
      const rules = [{ kind: 'hash', match: `${db}\\..*` }]
      const cache = { type: 'redis', host: redisHost, port: redisPort, keyPrefix: `${db}:`, rules }
      const file = join(dir, 'shop.yaml')
      writeFileSync(
        file,
        stringify({
          source: { host, port, user, password, tls: { mode: 'disabled' } },
          start: 'latest',
          filter: { include: `${db}\\..*` },
          sinks: {
            cache: { ...common, ...cache },
            postgres: { ...sql, url: postgres.url },
            mirror: { ...sql, url: mirror.url },
          },
        }),
      )
      const partitions = 'PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN (20)'
      await mysql.query(`USE ${db}; CREATE TABLE parent (id INT PRIMARY KEY, v VARCHAR(20));
        CREATE TABLE child (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE ON UPDATE CASCADE);
        CREATE TABLE grand (id INT PRIMARY KEY, c INT, FOREIGN KEY (c) REFERENCES child (id) ON DELETE SET NULL);
        CREATE TABLE other (id INT PRIMARY KEY, v VARCHAR(20))`)
      // what the stream makes has partitions in the MySQL target, what comes with its first row has none
      const parts = `CREATE TABLE ${db}.parts (id INT PRIMARY KEY, v VARCHAR(20)) PARTITION BY RANGE (id) (${partitions})`
      if (version === '8.0') await mysql.query(parts)
      const instance = startInstance('shop', file, dir)
      stack.defer(() => instance.stop())
      while (
        !instance.status.sinks.every(({ state }) => state === 'running') ||
        instance.status.state !== 'running'
      )
        await sleep(20)

      const select = async (ask: (text: string) => Promise<object[]>): Promise<string[]> => {
        const found: string[] = []
        for (const table of TABLES)
          for (const row of await ask(`SELECT * FROM ${table}`)) found.push(lineOf(table, row))
        return found.toSorted()
      }
      const targets: Record<string, () => Promise<string[]>> = {
        cache: async () => {
          const found: string[] = []
          for (const table of TABLES)
            for (const key of await redis.keys(`${db}:${db}:${table}:*`))
              found.push(lineOf(table, await redis.hgetall(key)))
          return found.toSorted()
        },
        postgres: () => select((text) => postgres.query(text)),
        mirror: () => select((text) => mirror.query(text)),
      }
      const own = await mysql.connect({ database: db })
      stack.defer(() => own.end())
      const equal = async (names = Object.keys(targets)): Promise<void> => {
        const expected = await select(async (text) => (await own.query(text))[0] as object[])
        for (const name of names) {
          const sink = instance.status.sinks.find((one) => one.name === name)!
          const message = `${name} ${'error' in sink ? sink.error.message : sink.state}`
          await expect.poll(targets[name]!, { message }).toEqual(expected)
        }
      }
      if (version === '9.7') await own.query(parts)
      await own.query('CREATE TABLE swap (id INT PRIMARY KEY, v VARCHAR(20))')
      await own.query(`INSERT INTO parent VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd'); INSERT INTO child VALUES (1, 1), (2, 1), (3, 2), (4, 3), (5, NULL);
        INSERT INTO grand VALUES (1, 1), (2, 2), (3, 3), (4, 4); INSERT INTO other VALUES (1, '7'), (2, '8');
        INSERT INTO parts VALUES (1, 'a'), (2, 'b'), (11, 'c'); INSERT INTO swap VALUES (12, 'x'), (13, 'y')`)
      await equal()
      await own.query(
        "DELETE FROM parent WHERE id = 1; UPDATE parent SET id = 20 WHERE id = 2; INSERT INTO child VALUES (6, 20); UPDATE grand SET c = 6 WHERE id = 1; UPDATE parent SET v = 'D' WHERE id = 4",
      )
      await equal()
      await own.query("TRUNCATE other; INSERT INTO other VALUES (3, '9')")
      await equal()
      await own.query("ALTER TABLE parts DROP PARTITION p0; INSERT INTO parts VALUES (14, 'd')")
      await equal()
      await own.query('ALTER TABLE parts EXCHANGE PARTITION p1 WITH TABLE swap')
      await equal()
      await own.query(
        'ALTER TABLE parts TRUNCATE PARTITION p1; ALTER TABLE parts ADD PARTITION (PARTITION p2 VALUES LESS THAN (30))',
      )
      await own.query("INSERT INTO parts VALUES (25, 'e')")
      await equal()
      expect(instance.status.sinks.map((s) => ('error' in s ? s.error.message : s.state))).toEqual([
        'running',
        'running',
        'running',
      ])
      // PostgreSQL stops at what it has no statement for, as the manual says
      await own.query(
        'ALTER TABLE other MODIFY v DECIMAL(9,3); ALTER TABLE other ADD COLUMN w INT NOT NULL DEFAULT 5',
      )
      await equal(['cache', 'mirror'])
    },
  )
})
