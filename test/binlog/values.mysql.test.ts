/**
 * Every column type and character set with random values: what is decoded from a real server's binlog equals what SELECT
 * returns, and Canal's text equals it where SQL can print that form.
 */
import { afterAll, beforeAll, describe, it } from 'vitest'
import { type MysqlServer, sharedMysql, uniqueDatabase, versions } from '../support/mysql.ts'
import { capture } from './capture.ts'
import { roundTrip as roundTripBy, type RoundTrip } from './round-trip.ts'
import * as types from './types.ts'

const roundTrip = (what: Omit<RoundTrip, 'capture'>): Promise<void> =>
  roundTripBy({ ...what, capture })

describe.each(versions)('MySQL %s', (version) => {
  let server: MysqlServer
  const database = uniqueDatabase('values')
  beforeAll(async () => {
    server = await sharedMysql(version)
  })
  afterAll(async () => {
    await server.query(`DROP DATABASE IF EXISTS ${database}`)
    await server[Symbol.asyncDispose]()
  })

  it('numbers', () => roundTrip({ server, database, specs: types.numbers, count: 300 }))
  it('dates and times', () => roundTrip({ server, database, specs: types.temporals, count: 300 }))
  it('dates and times in another zone', () =>
    roundTrip({ server, database, specs: types.temporals, count: 100, zone: '-03:30' }))
  it('strings, enums and sets', () =>
    roundTrip({ server, database, specs: types.strings, count: 200 }))
  it('JSON and geometry', () => roundTrip({ server, database, specs: types.documents, count: 300 }))
  if (version === '9.7')
    it('vectors', () => roundTrip({ server, database, specs: [types.vector], count: 50 }))
  it('every character set', async () => {
    const sets = await server.query<{ name: string }>(
      `SELECT CHARACTER_SET_NAME AS name FROM information_schema.CHARACTER_SETS WHERE CHARACTER_SET_NAME <> 'binary'`,
    )
    for (let i = 0; i < sets.length; i += 14) {
      const specs = types.charsetColumns(sets.slice(i, i + 14).map((s) => s.name))
      await roundTrip({ server, database, specs, count: 60 })
    }
  })
})
