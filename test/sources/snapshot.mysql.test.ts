/**
 * Rows that are read from a table equal those that the log has of them, for every type and character set: state, text, text
 * in UTC and value; and pieces by keys of every kind hold every row once, in any order the server has.
 */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import * as types from '../binlog/types.ts'
import type { TypeSpec } from '../binlog/types.ts'
import { type MysqlServer, sharedMysql, uniqueDatabase, versions } from '../support/mysql.ts'
import { readTable, roundTrip as roundTripOn, rowsOf } from './snapshot-rows.ts'

describe.each(versions)('a snapshot of MySQL %s', (version) => {
  let server: MysqlServer
  const database = uniqueDatabase('snapshot')
  let tables = 0
  beforeAll(async () => {
    server = await sharedMysql(version)
    await server.query(`CREATE DATABASE ${database}`)
  })
  afterAll(async () => {
    await server.query(`DROP DATABASE IF EXISTS ${database}`)
    await server[Symbol.asyncDispose]()
  })

  const roundTrip = (specs: readonly TypeSpec[], count: number, options: object = {}) =>
    roundTripOn({ server, database }, specs, count, options)

  it('numbers', () => roundTrip(types.numbers, 200))
  it('dates and times', () => roundTrip(types.temporals, 200))
  it('dates and times in another zone', () => roundTrip(types.temporals, 60, { zone: '-03:30' }))
  it('strings, enums and sets', () => roundTrip(types.strings, 150))
  it('geometry', () => roundTrip(types.documents.slice(1), 60))
  it('JSON as MySQL shows it', () =>
    roundTrip(types.documents.slice(0, 1), 200, { ignoreText: true }))
  it("JSON in Canal's form, where it came as text", () => {
    const values = fc
      .jsonValue({ stringUnit: 'binary', maxDepth: 4 })
      .map((v) => `CAST(_utf8mb4 X'${Buffer.from(JSON.stringify(v)).toString('hex')}' AS JSON)`)
    return roundTrip([{ ...types.documents[0]!, values }], 200)
  })
  if (version === '9.7') it('vectors', () => roundTrip([types.vector], 30))
  it('pieces by any key hold every row once', async () => {
    if (version !== versions[0]) return
    const all = [...types.numbers, ...types.temporals, ...types.strings]
    const specs = all.filter((s) => !/TEXT|BLOB/.test(s.sql) && !s.sql.includes("'m63'"))
    const seed = Date.now()
    for (const spec of [...specs, ...types.charsetColumns(['gbk', 'sjis', 'utf16', 'latin7'])]) {
      if (spec.sql.startsWith('TEXT')) continue
      const table = `k${tables++}`
      const values = fc.sample(spec.values, { numRuns: 14, seed })
      const type = spec.sql.replace(/ NULL$/, '')
      const db = await server.connect()
      try {
        await db.query(
          `USE ${database}; SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'`,
        )
        const collation = type.includes('utf8mb4') ? ' COLLATE utf8mb4_unicode_ci' : ''
        await db.query(
          `CREATE TABLE ${table} (n INT NOT NULL, v ${type}${collation} NOT NULL, PRIMARY KEY (v, n))`,
        )
        const tuples = values.map((v, n) => `(${n}, ${v})`)
        await db.query(`INSERT INTO ${table} VALUES ${tuples.join(', ')}`)
      } finally {
        await db.end()
      }
      const size = { rows: 3, bytes: 1 << 20 }
      const chunks = await readTable(server, [database, table], { zone: '+00:00', size })
      const read = rowsOf(chunks).flatMap((c) => [...c.rows()].map((row) => row.after![0]))
      const where = `seed ${seed}, ${type}: ${values.join(' | ')}`
      expect(chunks.length, where).toBe(5)
      expect(
        read.toSorted((a, b) => Number(a) - Number(b)),
        where,
      ).toEqual(values.map((_, n) => n))
    }
  })
  it('every character set', async () => {
    const sets = await server.query<{ name: string }>(
      `SELECT CHARACTER_SET_NAME AS name FROM information_schema.CHARACTER_SETS WHERE CHARACTER_SET_NAME <> 'binary'`,
    )
    for (let i = 0; i < sets.length; i += 14)
      await roundTrip(types.charsetColumns(sets.slice(i, i + 14).map((s) => s.name)), 40)
  })
})
