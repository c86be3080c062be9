/** A source that has purged what is still needed: what each policy does, in which words, and who is warned before. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { privateMysql, versions, type MysqlServer } from '../support/mysql.ts'
import { newest, numbers, Rig, sourceOf } from './rig.ts'

let rig: Rig
beforeEach(() => (rig = new Rig()))
afterEach(() => rig.close())

describe.each([
  ['with GTIDs', []],
  ['without GTIDs', ['--gtid-mode=OFF', '--enforce-gtid-consistency=OFF']],
] as const)('logs purged past the cursor, %s', (_, args) => {
  let mysql: MysqlServer
  beforeAll(async () => {
    mysql = await privateMysql(newest(versions), { args })
    await mysql.query('CREATE DATABASE p8; CREATE TABLE p8.t (id INT PRIMARY KEY)')
  })
  afterAll(() => mysql[Symbol.asyncDispose]())
  beforeEach(() => mysql.query('TRUNCATE p8.t'))
  const insert = async (from: number, to: number) => {
    for (const id of numbers(from, to)) await mysql.query(`INSERT INTO p8.t VALUES (${id})`)
  }
  /** Reads 1 to 3 of five; four to six are lost, 7 and 8 are there. */
  const purged = async (): Promise<void> => {
    const first = rig.open({ source: sourceOf(mysql) })
    first.start()
    await rig.state(first, 'running')
    await insert(1, 3)
    expect(await rig.read(first.store!.subscribe('1001'), 3)).toEqual(numbers(1, 3))
    await first.stop()
    await insert(4, 6)
    await mysql.query('FLUSH BINARY LOGS')
    const [last] = (await mysql.query<{ Log_name: string }>('SHOW BINARY LOGS')).slice(-1)
    await mysql.query(`PURGE BINARY LOGS TO '${last!.Log_name}'`)
    await insert(7, 8)
  }
  const range =
    args.length === 0 ? /GTIDs \S+:\d+-\d+, from \S+ up to \S+:4/ : /from \S+ up to \S+:4/

  test('fail: stays where it is and names what is lost', async () => {
    await purged()
    const instance = rig.open({ source: sourceOf(mysql) })
    instance.start()
    await rig.state(instance, 'failed')
    const { status } = instance
    expect(status).toMatchObject({ error: { code: 'POSITION_LOST' }, positionsLost: 1 })
    const message = 'error' in status ? status.error.message : ''
    expect(message).toMatch(range)
    expect(message).toContain('needed by 1001')
    expect(message).toContain('position <destination> set earliest')
    await instance.stop()
  })
  test('earliest: goes on with the oldest change that is there', async () => {
    await purged()
    const instance = rig.open({ source: sourceOf(mysql), onPositionLost: 'earliest' })
    instance.start()
    await rig.state(instance, 'running')
    expect(instance.status).toMatchObject({
      positionsLost: 1,
      lost: {
        policy: 'earliest',
        clients: ['1001', '(origin)'],
        range: expect.stringMatching(range),
      },
    })
    expect(await rig.read(instance.store!.subscribe('1001'), 8)).toEqual([7, 8])
    // and a client that comes now begins there as well
    expect(await rig.read(instance.store!.subscribe('1002'), 8)).toEqual([7, 8])
    expect(rig.logged('POSITION_LOST')).toMatch(
      /changes were lost: .*as onPositionLost: earliest says/,
    )
    await instance.stop()
  })
  test('latest: goes on with what comes', async () => {
    await purged()
    const instance = rig.open({ source: sourceOf(mysql), onPositionLost: 'latest' })
    instance.start()
    await rig.state(instance, 'running')
    await insert(9, 10)
    expect(await rig.read(instance.store!.subscribe('1001'), 10)).toEqual([9, 10])
    expect(instance.status).toMatchObject({ positionsLost: 1, lost: { policy: 'latest' } })
    await instance.stop()
  })
  test('a client far behind is warned about before its file goes', async () => {
    await mysql.query('SET GLOBAL binlog_expire_logs_seconds = 3')
    const first = rig.open({ source: sourceOf(mysql) })
    first.start()
    await rig.state(first, 'running')
    await insert(1, 2)
    await rig.read(first.store!.subscribe('1001'), 2)
    await first.stop()
    await mysql.query('FLUSH BINARY LOGS')
    await insert(3, 4)
    await sleep(1600)
    const again = rig.open({ source: sourceOf(mysql) })
    again.start()
    await rig.until(() => rig.logged('purged') !== '')
    expect(rig.logged('purged')).toMatch(
      /client 1001 needs \S+, which is purged (in about \d s|at any moment) \(1 files behind the end; the log grows \S+ MiB\/h\)/,
    )
    expect(again.status.purge).toMatchObject({ client: '1001', behindFiles: 1 })
    await again.stop()
    await mysql.query('SET GLOBAL binlog_expire_logs_seconds = 2592000')
  })
})

test('a log that was reset is noticed, though it has as many GTIDs again', async () => {
  const version = newest(versions)
  await using mysql = await privateMysql(version)
  await mysql.query('CREATE DATABASE p8; CREATE TABLE p8.t (id INT PRIMARY KEY)')
  const first = rig.open({ source: sourceOf(mysql) })
  first.start()
  await rig.state(first, 'running')
  await mysql.query('INSERT INTO p8.t VALUES (1)')
  await rig.read(first.store!.subscribe('1001'), 1)
  await first.stop()
  await sleep(1100) // files are told apart by the second in which they were begun
  await mysql.query(version === '8.0' ? 'RESET MASTER' : 'RESET BINARY LOGS AND GTIDS')
  for (let id = 10; id < 20; id++) await mysql.query(`INSERT INTO p8.t VALUES (${id})`)
  const second = rig.open({ source: sourceOf(mysql), failover: { divergedMs: 0 } })
  second.start()
  await rig.state(second, 'failed')
  expect(second.status).toMatchObject({
    error: {
      code: 'SOURCE_CHANGED',
      message: expect.stringMatching(/has another log .*(was begun at|ends in)/) as string,
    },
  })
  await second.stop()
})
