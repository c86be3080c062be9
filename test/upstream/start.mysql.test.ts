/** What every form of a start position means on a real server. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Position } from '../../src/change.ts'
import type { InstanceConfig } from '../../src/config/config.ts'
import { factsOf } from '../../src/upstream/connect.ts'
import { startPosition } from '../../src/upstream/start.ts'
import { privateMysql, versions, type MysqlServer } from '../support/mysql.ts'
import { connectOptions } from '../sources/reading.ts'

interface Place {
  readonly File: string
  readonly Position: number
  readonly Executed_Gtid_Set: string
}
const flat = (gtids: string): string => gtids.replaceAll('\n', '')

describe.each(versions)('start positions on MySQL %s', (version) => {
  let mysql: MysqlServer
  const places: Place[] = []
  const seconds: number[] = []
  const warnings: string[] = []
  const here = async (): Promise<Place> =>
    (
      await mysql.query<Place>(version === '8.0' ? 'SHOW MASTER STATUS' : 'SHOW BINARY LOG STATUS')
    )[0]!
  const start = async (wanted: InstanceConfig['start']): Promise<Position> => {
    const connect = connectOptions(mysql)
    const warn = (_: object, text: string): void => void warnings.push(text)
    return await startPosition(connect, await factsOf(connect), wanted, { warn })
  }
  /** Three files; in each three transactions of two seconds. */
  beforeAll(async () => {
    mysql = await privateMysql(version)
    await mysql.query('CREATE DATABASE p8; CREATE TABLE p8.t (id INT AUTO_INCREMENT PRIMARY KEY)')
    for (let file = 0; file < 3; file++) {
      await mysql.query('FLUSH BINARY LOGS')
      for (let i = 0; i < 2; i++) {
        if (i > 0) await sleep(1000 - (Date.now() % 1000) + 20)
        await mysql.query('BEGIN; INSERT INTO p8.t VALUES (); INSERT INTO p8.t VALUES (); COMMIT')
        places.push(await here())
        seconds.push(Math.floor(Date.now() / 1000))
      }
      await mysql.query('INSERT INTO p8.t VALUES ()')
    }
  })
  afterAll(() => mysql[Symbol.asyncDispose]())

  test('latest and earliest', async () => {
    const end = await here()
    expect(await start('latest')).toMatchObject({ file: end.File, offset: Number(end.Position) })
    expect((await start('latest')).gtids?.toString()).toBe(flat(end.Executed_Gtid_Set))
    expect(await start('earliest')).toMatchObject({ offset: 4 })
    expect((await start('earliest')).gtids?.toString()).toBe('')
  })
  test('latest under traffic has exactly the GTIDs before its place', async () => {
    const stop = new AbortController()
    const writers = Array.from({ length: 4 }, async () => {
      const connection = await mysql.connect()
      while (!stop.signal.aborted) await connection.query('INSERT INTO p8.t VALUES ()')
      await connection.end()
    })
    for (let i = 0; i < 6; i++) {
      const { file, offset, gtids } = await start('latest')
      const again = await start({ file, offset })
      expect(gtids?.toString()).toBe(again.gtids?.toString())
    }
    stop.abort()
    await Promise.all(writers)
  })
  test('a place in the log, with the GTIDs before it; only where a transaction begins', async () => {
    for (const { File: file, Position: at, Executed_Gtid_Set } of places) {
      const found = await start({ file, offset: Number(at) })
      expect(found).toMatchObject({ file, offset: Number(at) })
      expect(found.gtids?.toString()).toBe(flat(Executed_Gtid_Set))
    }
    const { File: file, Position: at } = places[1]!
    await expect(start({ file, offset: Number(at) - 31 })).rejects.toThrow(
      new RegExp(`lies within one; the nearest are ${file}:\\d+ and ${file}:${at}`),
    )
    await expect(start({ file: 'binlog.000999', offset: 4 })).rejects.toThrow(
      /expected a position from \S+:4 to \S+, which the source has; found binlog.000999:4/,
    )
    await expect(start({ file, offset: 99_999_999 })).rejects.toThrow(/ends at \d+; found offset/)
    expect((await start({ file, offset: 4 })).gtids?.toString()).toMatch(/:1-\d+$/)
  })
  test('a time: the first transaction of that second or later, whole', async () => {
    // the second transaction of each file is the first of its second
    for (const i of [1, 3, 5]) {
      const before = places[i - 1]!
      const { file, offset, gtids } = await start({ timestamp: seconds[i]! * 1000 + 500 })
      expect([file, offset]).toEqual([before.File, Number(before.Position)])
      expect(gtids?.toString()).toBe(flat(before.Executed_Gtid_Set))
    }
    await expect(start({ timestamp: Date.now() + 3_600_000 })).rejects.toThrow(
      /expected a time that has come, by the source's clock \S+; found/,
    )
    // before everything: nothing was purged, so nothing is missing
    expect(await start({ timestamp: 1_000_000_000_000 })).toMatchObject({
      offset: expect.any(Number),
    })
    await sleep(1100)
    const end = await here()
    expect(await start({ timestamp: Date.now() })).toMatchObject({
      file: end.File,
      offset: Number(end.Position),
    })
    expect(warnings.at(-1)).toContain('nothing was changed since that time')
  })
  test('a GTID set, which gains what is purged, and may hold nothing unknown', async () => {
    const [uuid] = flat(places[0]!.Executed_Gtid_Set).split(':')
    expect((await start({ gtids: `${uuid}:1-3` })).gtids?.toString()).toBe(`${uuid}:1-3`)
    await expect(
      start({ gtids: `${uuid}:1-3,3e11fa47-71ca-11e1-9e33-c80aa9429562:7` }),
    ).rejects.toThrow(/it does not know 3e11fa47-71ca-11e1-9e33-c80aa9429562:7/)
    await mysql.query(`PURGE BINARY LOGS TO '${places[2]!.File}'`)
    const { gtids } = await start({ gtids: `${uuid}:1` })
    expect(gtids?.includes((await factsOf(connectOptions(mysql))).purged!)).toBe(true)
    expect(warnings.at(-1)).toContain('they are skipped')
    await expect(start({ timestamp: seconds[0]! * 1000 - 5000 })).rejects.toThrow(
      /the source's log begins with \S+ at \S+; what was changed from \S+ to then it no longer has/,
    )
  })
})
