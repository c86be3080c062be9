import { describe, expect, test } from 'vitest'
import { gtidsAt } from '../src/epoch.ts'
import { privateMysql, versions } from './support/mysql.ts'

describe.each(versions)('GTIDs before a place, on MySQL %s', (version) => {
  test('are what the server had executed there, in every file', async () => {
    await using mysql = await privateMysql(version)
    const statement = version === '8.0' ? 'SHOW MASTER STATUS' : 'SHOW BINARY LOG STATUS'
    const here = async () =>
      (
        await mysql.query<{ File: string; Position: number; Executed_Gtid_Set: string }>(statement)
      )[0]!
    const query = <T>(sql: string, params?: (string | number)[]): Promise<T[]> =>
      mysql.query<T>(sql, params)
    await mysql.query('CREATE DATABASE p8')
    await mysql.query('CREATE TABLE p8.t (id INT)')
    const places = []
    for (let file = 0; file < 2; file++) {
      for (let i = 0; i < 3; i++) {
        await mysql.query('INSERT INTO p8.t VALUES (1), (2)')
        places.push(await here())
      }
      await mysql.query('FLUSH BINARY LOGS')
    }
    for (const { File, Position, Executed_Gtid_Set } of places) {
      const found = await gtidsAt(query, File, Position)
      expect(found?.toString()).toBe(Executed_Gtid_Set.replaceAll('\n', ''))
    }
  })
})
