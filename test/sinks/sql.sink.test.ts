/**
 * The SQL sink against MySQL, MariaDB and PostgreSQL, fed with what a real MySQL logged: at the end the target equals
 * SELECT on the source, whatever died on the way. Values of every type: sql/types.sink.test.ts. Statements of DDL:
 * sql/ddl.sink.test.ts.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { Connection } from 'mysql2/promise'
import { Proxy } from '../support/proxy.ts'
import { sharedMysql, uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import { plainTarget, type TargetTable } from '../../src/sinks/shape/row.ts'
import type { Sink } from '../../src/sinks/sink.ts'
import { positionBefore } from '../../src/sinks/runner/delivery.ts'
import { PRESENT, type Table, type ValueState } from '../../src/change.ts'
import { contextOf, deliver, drive, Log, type Item } from './sql/log.ts'
import { kinds, openTarget, textOf, type Target } from './sql/targets.ts'

let server: MysqlServer
let source: Connection
const database = uniqueDatabase('sql')
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

const { signal } = new AbortController()
let made = 0
const rowsOf = async (sql: string): Promise<Record<string, unknown>[]> => {
  const [rows] = await source.query(sql)
  return (rows as Record<string, unknown>[]).map(asTexts)
}
const asTexts = (row: Record<string, unknown>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(row).map(([k, v]) => [k, textOf(v)]))

describe.each(kinds)('to %s', (kind) => {
  let target: Target
  let table = ''
  let sink: Sink | undefined
  beforeAll(async () => {
    target = await openTarget(kind)
  })
  afterAll(() => target[Symbol.asyncDispose]())
  beforeEach(() => {
    table = `t${made++}`
  })
  afterEach(async () => {
    await sink?.close()
    sink = undefined
  })
  const theirs = async (text = `SELECT * FROM ${table} ORDER BY 1, 2`) =>
    (await target.query(text)).map(asTexts)
  const equal = async (): Promise<void> => {
    const text = `SELECT * FROM ${table} ORDER BY 1, 2`
    expect(await theirs(text)).toEqual(await rowsOf(text))
  }
  /** Creates a table on the source and starts to read after it. */
  const begin = async (definition: string, options = {}): Promise<Log> => {
    await source.query(`CREATE TABLE ${table} (${definition})`)
    return Log.start(server, database, options)
  }

  it('makes the table and keeps it equal through inserts, updates and deletes', async () => {
    const log = await begin('id INT PRIMARY KEY, name VARCHAR(20), n INT')
    sink = await target.open(contextOf(log.position, table))
    expect(sink.promise).toBe('transactional')
    expect(sink.resume).toBeUndefined()
    await source.query(`INSERT INTO ${table} VALUES (1,'a',1),(2,'b',2),(3,'c',3)`)
    await source.query(`UPDATE ${table} SET n = n + 1, name = 'it''s \\\\ "quoted"' WHERE id < 3`)
    await source.query(`DELETE FROM ${table} WHERE id = 2`)
    await drive(sink, await log.read())
    await equal()
    await source.query(`INSERT INTO ${table} VALUES (2,'again',NULL)`)
    await source.query(`DELETE FROM ${table} WHERE id = 1`)
    await drive(sink, await log.read())
    await equal()
  })

  it('goes on from the place that the target holds, not from the local one', async () => {
    const log = await begin('id INT PRIMARY KEY, n INT')
    const start = log.position
    sink = await target.open(contextOf(start, table))
    await source.query(`INSERT INTO ${table} VALUES (1,1)`)
    await drive(sink, await log.read())
    await sink.close()
    sink = await target.open(contextOf(start, table, 2))
    expect(sink.resume).toMatchObject({
      file: log.position.file,
      offset: log.position.offset,
      skip: 0,
    })
    expect(sink.resume?.gtids?.toString()).toBe(log.position.gtids?.toString())
  })

  it('stores the place inside of a batch with a slice of it', async () => {
    const log = await begin('id INT PRIMARY KEY, n INT')
    sink = await target.open(contextOf(log.position, table))
    await source.query(`INSERT INTO ${table} VALUES (1,1),(2,2),(3,3),(4,4)`)
    const [item] = await log.read()
    const { batch } = item as Extract<Item, { batch: unknown }>
    const place = positionBefore(batch.facts, 2)
    await sink.write(batch.slice(0, 2).endingAt(place), signal)
    expect(await theirs()).toHaveLength(2)
    await sink.close()
    sink = await target.open(contextOf(log.position, table, 2))
    expect(sink.resume).toMatchObject({ offset: place.offset, skip: place.skip, row: 2 })
  })

  it('refuses the older of two writers', async () => {
    const log = await begin('id INT PRIMARY KEY, n INT')
    const old = await target.open(contextOf(log.position, table, 1))
    await source.query(`INSERT INTO ${table} VALUES (1,1)`)
    const items = await log.read()
    sink = await target.open(contextOf(log.position, table, 2))
    await expect(drive(old, items)).rejects.toMatchObject({ code: 'STATE_FENCED' })
    await expect(target.open(contextOf(log.position, table, 1))).rejects.toMatchObject({
      code: 'STATE_FENCED',
    })
    await old.close()
    await drive(sink, items)
    await equal()
  })

  it('is exact once when the connection dies anywhere between write and answer', async () => {
    const log = await begin('id INT PRIMARY KEY, n INT', { rowsMax: 1 })
    await using proxy = await Proxy.start(target)
    const address = new URL(target.url)
    address.port = String(proxy.port)
    sink = await target.open(contextOf(log.position, table), { url: address.href })
    for (let i = 0; i < 40; i++)
      await source.query(
        `INSERT INTO ${table} VALUES (${i % 7},1) ON DUPLICATE KEY UPDATE n = n + 1`,
      )
    const items = await log.read()
    let cuts = 0
    for (const [n, item] of items.entries()) {
      // answers of the server from the n % 5th on are lost, together with the connection
      let answers = n % 5
      proxy.rule = (chunk) => (answers-- > 0 ? chunk : { cutAfter: 0 })
      const open = (): Promise<Sink> =>
        target.open(contextOf(log.position, table), { url: address.href, keyless: 'match' })
      sink = await deliver(sink, open, [item], () => {
        if (++cuts % 2 === 0) proxy.rule = (chunk) => chunk
      })
      proxy.rule = (chunk) => chunk
    }
    expect(cuts).toBeGreaterThan(20)
    await equal()
  })

  it('swaps unique values and keys inside one batch', async () => {
    const log = await begin('id INT PRIMARY KEY, u INT UNIQUE, n INT')
    sink = await target.open(contextOf(log.position, table))
    await source.query(`INSERT INTO ${table} VALUES (1,10,1),(2,20,2),(3,30,3)`)
    await drive(sink, await log.read())
    await target.query(`CREATE UNIQUE INDEX u_${table} ON ${table} (u)`)
    await sink.close()
    sink = await target.open(contextOf(log.position, table))
    await source.query(`UPDATE ${table} SET u = 99 WHERE id = 1`)
    await source.query(`UPDATE ${table} SET u = 10 WHERE id = 2`)
    await source.query(`UPDATE ${table} SET u = 20 WHERE id = 1`)
    await drive(sink, await log.read())
    await equal()
    await source.query(`UPDATE ${table} SET id = 9 WHERE id = 1`)
    await source.query(`UPDATE ${table} SET id = 1 WHERE id = 2`)
    await source.query(`UPDATE ${table} SET id = 2 WHERE id = 9`)
    await source.query(`DELETE FROM ${table} WHERE id = 3`)
    await source.query(`INSERT INTO ${table} VALUES (4,30,4)`)
    await drive(sink, await log.read())
    await equal()
  })

  it('never overwrites another row that has a unique value of the new one', async () => {
    const log = await begin('id INT PRIMARY KEY, u INT, n INT')
    sink = await target.open(contextOf(log.position, table))
    await source.query(`INSERT INTO ${table} VALUES (1,10,1)`)
    await drive(sink, await log.read())
    await target.query(`CREATE UNIQUE INDEX u_${table} ON ${table} (u)`)
    await sink.close()
    sink = await target.open(contextOf(log.position, table))
    await source.query(`INSERT INTO ${table} VALUES (2,10,2),(3,30,3)`)
    const [item] = await log.read()
    await expect(drive(sink, [item!])).rejects.toMatchObject({ code: 'SINK_DATA' })
    expect(await theirs()).toEqual([{ id: '1', u: '10', n: '1' }])
    // the poison row found by halving, the others are written
    const { batch } = item as Extract<Item, { batch: unknown }>
    await expect(sink.write(batch.slice(0, 1), signal)).rejects.toMatchObject({ code: 'SINK_DATA' })
    await sink.write(batch.slice(1, 2), signal)
    expect(await theirs()).toMatchObject([{ id: '1' }, { id: '3' }])
  })

  it('keeps foreign keys of the target', async () => {
    const log = await begin('id INT PRIMARY KEY, p INT NULL')
    sink = await target.open(contextOf(log.position, table))
    await source.query(`INSERT INTO ${table} VALUES (1,NULL),(2,1)`)
    await drive(sink, await log.read())
    await target.query(
      `ALTER TABLE ${table} ADD CONSTRAINT f_${table} FOREIGN KEY (p) REFERENCES ${table} (id)`,
    )
    await sink.close()
    sink = await target.open(contextOf(log.position, table))
    await source.query(`INSERT INTO ${table} VALUES (5,2),(4,5)`)
    await source.query(`UPDATE ${table} SET p = 4 WHERE id = 2`)
    await source.query(`DELETE FROM ${table} WHERE id = 1`)
    await source.query(`UPDATE ${table} SET p = NULL`)
    await source.query(`DELETE FROM ${table} WHERE id = 5`)
    await source.query(`INSERT INTO ${table} VALUES (6,4)`)
    await drive(sink, await log.read())
    await equal()
  })

  it('writes only the columns of a minimal row image', async () => {
    const log = await begin('id INT PRIMARY KEY, a INT, b VARCHAR(10), c INT DEFAULT 7')
    sink = await target.open(contextOf(log.position, table))
    await source.query(`INSERT INTO ${table} VALUES (1,1,'x',1),(2,2,'y',2)`)
    await drive(sink, await log.read())
    await target.query(`UPDATE ${table} SET c = 55`)
    await source.query("SET binlog_row_image='MINIMAL'")
    await source.query(`UPDATE ${table} SET a = 5, b = NULL WHERE id = 1`)
    await source.query(`UPDATE ${table} SET a = a + 1`)
    await source.query(`UPDATE ${table} SET id = 20 WHERE id = 2`)
    await source.query(`INSERT INTO ${table} (id, a) VALUES (3, 3)`)
    await source.query("SET binlog_row_image='FULL'")
    await drive(sink, await log.read())
    expect(await theirs()).toMatchObject([
      { id: '1', a: '6', b: null, c: '55' },
      { id: '3', a: '3' },
      { id: '20', a: '3', b: 'y', c: '55' },
    ])
  })

  it('refuses tables without a key, or finds their rows by the whole image', async () => {
    const log = await begin('a INT, b VARCHAR(10), d DECIMAL(5,2), f FLOAT')
    sink = await target.open(contextOf(log.position, table))
    await source.query(
      `INSERT INTO ${table} VALUES (1,'x',1.5,0.1),(1,'x',1.5,0.1),(2,NULL,2,NULL)`,
    )
    await source.query(`INSERT INTO ${table} VALUES (1,'X',1.5,0.1)`)
    await source.query(`DELETE FROM ${table} WHERE a = 1 LIMIT 1`)
    await source.query(`UPDATE ${table} SET b = 'z' WHERE b IS NULL`)
    const items = await log.read()
    await expect(drive(sink, items)).rejects.toMatchObject({
      code: 'SINK_UNSUITABLE',
      message: expect.stringContaining('keyless: match') as string,
    })
    await sink.close()
    sink = await target.open(contextOf(log.position, table), { keyless: 'match' })
    await drive(sink, items)
    const text = `SELECT a, b, d FROM ${table} ORDER BY a, ${kind === 'postgres' ? 'b COLLATE "C"' : 'BINARY b'}`
    expect(await theirs(text)).toEqual([
      { a: '1', b: 'X', d: '1.50' },
      { a: '1', b: 'x', d: '1.50' },
      { a: '2', b: 'z', d: '2.00' },
    ])
  })

  it('merges shards by a column that the mapping makes', async () => {
    const mapping = (from: Table): TargetTable => {
      const plain = plainTarget(from)
      const text = from.name.endsWith('a') ? 'a' : 'b'
      const shard = {
        name: 'shard',
        index: 2,
        key: true,
        column: undefined,
        derived: { state: () => PRESENT as ValueState, text: () => text, changed: () => false },
      }
      return { ...plain, columns: [...plain.columns, shard], keys: [...plain.keys, shard] }
    }
    await source.query(`CREATE TABLE ${table}_a (id INT PRIMARY KEY, n INT)`)
    await source.query(`CREATE TABLE ${table}_b LIKE ${table}_a`)
    const log = await Log.start(server, database, { mapping })
    sink = await target.open(contextOf(log.position, table), { table: `${table}_all` })
    await source.query(`INSERT INTO ${table}_a VALUES (1,1),(2,2)`)
    await source.query(`INSERT INTO ${table}_b VALUES (1,10),(2,20)`)
    await source.query(`UPDATE ${table}_a SET n = 5 WHERE id = 1`)
    await source.query(`DELETE FROM ${table}_b WHERE id = 1`)
    await drive(sink, await log.read())
    expect(await theirs(`SELECT id, n, shard FROM ${table}_all ORDER BY shard, id`)).toEqual([
      { id: '1', n: '5', shard: 'a' },
      { id: '2', n: '2', shard: 'a' },
      { id: '2', n: '20', shard: 'b' },
    ])
  })

  it('says which row the target refuses, and writes none of its batch', async () => {
    const log = await begin('id INT PRIMARY KEY, name VARCHAR(20) NULL')
    const narrow = `CREATE TABLE ${table} (id INT PRIMARY KEY, name VARCHAR(3) NOT NULL)`
    await target.query(narrow)
    sink = await target.open(contextOf(log.position, table))
    for (const bad of ["'too long'", 'NULL']) {
      await source.query(`REPLACE INTO ${table} VALUES (1,'ok'),(2,${bad})`)
      await expect(drive(sink, await log.read())).rejects.toMatchObject({ code: 'SINK_DATA' })
      expect(await theirs()).toEqual([])
    }
  })

  it('names what the target lacks', async () => {
    const log = await begin('id INT PRIMARY KEY, n INT')
    sink = await target.open(contextOf(log.position, table), { createTables: false })
    await source.query(`INSERT INTO ${table} VALUES (1,1)`)
    const items = await log.read()
    const fails = (text: string): Promise<void> =>
      expect(drive(sink!, items)).rejects.toMatchObject({
        code: 'SINK_UNSUITABLE',
        message: expect.stringContaining(text) as string,
      })
    await fails('createTables: true')
    await target.query(`CREATE TABLE ${table} (id INT PRIMARY KEY)`)
    await fails('expected a column n')
    await target.query(`DROP TABLE ${table}`)
    await target.query(`CREATE TABLE ${table} (id INT, n INT)`)
    await fails('unique index on (id)')
    const address = new URL(target.url)
    address.password = 'wrong'
    await expect(
      target.open(contextOf(log.position, table), { url: address.href }),
    ).rejects.toMatchObject({
      code: 'SINK_UNSUITABLE',
      message: expect.not.stringContaining('wrong') as string,
    })
  })

  it('leaves columns alone that the target computes', async () => {
    const log = await begin('id INT PRIMARY KEY, n INT, twice INT AS (n * 2) STORED')
    const generated =
      kind === 'postgres' ? 'GENERATED ALWAYS AS (n * 3) STORED' : 'AS (n * 3) STORED'
    await target.query(`CREATE TABLE ${table} (id INT PRIMARY KEY, n INT, twice INT ${generated})`)
    sink = await target.open(contextOf(log.position, table))
    await source.query(`INSERT INTO ${table} (id, n) VALUES (1,1)`)
    await drive(sink, await log.read())
    expect(await theirs()).toEqual([{ id: '1', n: '1', twice: '3' }])
  })

  describe('with fence: version', () => {
    const fenced = { fence: 'version' }
    const values = `SELECT id, n FROM`

    it('lets no older version win, and nothing deleted come back', async () => {
      const log = await begin('id INT PRIMARY KEY, n INT', { rowsMax: 1 })
      sink = await target.open(contextOf(log.position, table), fenced)
      expect(sink.promise).toBe('fenced')
      await source.query(`INSERT INTO ${table} VALUES (1,1),(2,2),(3,3)`)
      await source.query(`UPDATE ${table} SET n = 10 WHERE id = 1`)
      await source.query(`DELETE FROM ${table} WHERE id = 2`)
      await source.query(`UPDATE ${table} SET id = 30 WHERE id = 3`)
      const items = await log.read()
      await drive(sink, items)
      const wanted = await rowsOf(`${values} ${table} ORDER BY id`)
      expect(await theirs(`${values} ${table} ORDER BY id`)).toEqual(wanted)
      for (const item of items.toReversed()) {
        await drive(sink, [item])
        expect(await theirs(`${values} ${table} ORDER BY id`)).toEqual(wanted)
      }
    })

    it('lets several writers work at once', async () => {
      const log = await begin('id INT PRIMARY KEY, n INT', { rowsMax: 1 })
      sink = await target.open(contextOf(log.position, table), fenced)
      for (let i = 0; i < 30; i++)
        await source.query(
          i % 4 === 3
            ? `DELETE FROM ${table} WHERE id = ${i % 3}`
            : `INSERT INTO ${table} VALUES (${i % 3},1) ON DUPLICATE KEY UPDATE n = n + 1`,
        )
      const items = await log.read()
      const batches = items.map((item) => (item as Extract<Item, { batch: unknown }>).batch)
      const write = async (at: number): Promise<void> => {
        for (let i = at; i < batches.length; i += 3)
          for (;;)
            try {
              await sink!.write(batches[i]!, signal)
              break
            } catch (error) {
              expect(error).toMatchObject({ code: 'SINK_UNAVAILABLE' })
            }
      }
      await Promise.all([write(0), write(1), write(2)])
      expect(await theirs(`${values} ${table} ORDER BY id`)).toEqual(
        await rowsOf(`${values} ${table} ORDER BY id`),
      )
    })

    it('stops at a version that it has not issued', async () => {
      const log = await begin('id INT PRIMARY KEY, n INT')
      sink = await target.open(contextOf(log.position, table), fenced)
      await source.query(`INSERT INTO ${table} VALUES (1,1),(2,2)`)
      await drive(sink, await log.read())
      await target.query(`UPDATE ${table} SET sluice_version = '${'f'.repeat(40)}' WHERE id = 1`)
      await source.query(`UPDATE ${table} SET n = 5`)
      await expect(drive(sink, await log.read())).rejects.toMatchObject({ code: 'TARGET_AHEAD' })
    })

    it('orders rows by version where constraints need it', async () => {
      const log = await begin('id INT PRIMARY KEY, u INT UNIQUE, n INT')
      sink = await target.open(contextOf(log.position, table), fenced)
      await source.query(`INSERT INTO ${table} VALUES (1,10,1),(2,20,2)`)
      await drive(sink, await log.read())
      await target.query(`CREATE UNIQUE INDEX u_${table} ON ${table} (u)`)
      await sink.close()
      sink = await target.open(contextOf(log.position, table), fenced)
      await source.query(`UPDATE ${table} SET u = 99 WHERE id = 1`)
      await source.query(`UPDATE ${table} SET u = 10 WHERE id = 2`)
      await source.query(`UPDATE ${table} SET u = 20 WHERE id = 1`)
      await drive(sink, await log.read())
      expect(await theirs(`SELECT id, u, n FROM ${table} ORDER BY id`)).toEqual(
        await rowsOf(`SELECT id, u, n FROM ${table} ORDER BY id`),
      )
    })
  })
})
