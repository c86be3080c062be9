/** A source whose commits wait for Sluice: until a client has acked, durably; for nobody when Sluice is away. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { ReaderThread } from '../../src/sources/index.ts'
import { privateMysql, type MysqlServer } from '../support/mysql.ts'
import { Rig, sourceOf } from './rig.ts'

const never = new AbortController().signal
let rig: Rig
let mysql: MysqlServer
beforeAll(async () => {
  mysql = await privateMysql('9.7')
  await mysql.query("INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'")
  await mysql.query('SET GLOBAL rpl_semi_sync_source_enabled = ON')
  await mysql.query('SET GLOBAL rpl_semi_sync_source_timeout = 600000')
  await mysql.query('SET GLOBAL rpl_semi_sync_source_wait_no_replica = OFF')
  await mysql.query('CREATE DATABASE p8')
})
afterAll(() => mysql[Symbol.asyncDispose]())
beforeEach(() => (rig = new Rig()))
afterEach(() => rig.close())

const status = async (name: string): Promise<string> => {
  const [row] = await mysql.query<{ Value: string }>(
    `SHOW STATUS LIKE 'Rpl_semi_sync_source_${name}'`,
  )
  return row!.Value
}

test.each([['this thread'], ['the reader thread']])(
  'commits wait for acks, read in %s',
  async (where) => {
    await mysql.query('DROP TABLE IF EXISTS p8.t, p8.u; CREATE TABLE p8.t (id INT PRIMARY KEY)')
    await mysql.query(
      'CREATE DATABASE IF NOT EXISTS other; CREATE TABLE IF NOT EXISTS other.t (id INT)',
    )
    const thread = where === 'this thread' ? undefined : new ReaderThread()
    const instance = rig.open({ source: sourceOf(mysql), semiSync: true }, thread)
    instance.start()
    await rig.state(instance, 'running')
    const cursor = instance.store!.subscribe('1001')
    while ((await status('clients')) !== '1') await sleep(20)
    while ((await status('status')) !== 'ON') await sleep(20)
    let committed = false
    const commit = mysql.query('INSERT INTO p8.t VALUES (1)').then(() => (committed = true))
    // delivered before it is committed
    const batch = await cursor.get({ changes: 100, bytes: 1 << 20, waitMs: 20_000 }, never)
    expect(batch).toBeDefined()
    batch!.release()
    while ((await status('wait_sessions')) !== '1') await sleep(20)
    await sleep(300)
    expect(committed).toBe(false)
    await cursor.ack(batch!.id)
    await commit
    expect(instance.status.semiSyncAcks).toBeGreaterThan(0)
    // what nobody wants does not hold a commit up for long
    const get = cursor.get({ changes: 100, bytes: 1 << 20, waitMs: 20_000 }, never)
    await mysql.query('INSERT INTO other.t VALUES (1)')
    // with Sluice gone, commits wait until the server gives up, and it goes on without
    const waiting = mysql.query('INSERT INTO p8.t VALUES (2)')
    expect(await get).toBeDefined()
    await mysql.query('SET GLOBAL rpl_semi_sync_source_timeout = 500')
    await instance.stop()
    await waiting
    await mysql.query('INSERT INTO p8.t VALUES (3)')
    expect(await status('status')).toBe('OFF')
    await mysql.query('SET GLOBAL rpl_semi_sync_source_timeout = 600000')
    // and is semi-synchronous again when a client has caught up
    const again = rig.open({ source: sourceOf(mysql), semiSync: true }, thread)
    again.start()
    expect(await rig.read(again.store!.subscribe('1001'), 3)).toEqual([2, 3])
    while ((await status('status')) !== 'ON') await sleep(20)
    await again.stop()
    await thread?.close()
  },
)
test('a source that does not know it is read all the same, with a warning', async () => {
  await using plain = await privateMysql('9.7')
  await plain.query('CREATE DATABASE p8; CREATE TABLE p8.t (id INT PRIMARY KEY)')
  const instance = rig.open({ source: sourceOf(plain), semiSync: true })
  instance.start()
  await rig.state(instance, 'running')
  await plain.query('INSERT INTO p8.t VALUES (1)')
  expect(await rig.read(instance.store!.subscribe('1001'), 1)).toEqual([1])
  expect(rig.logged('waits for nobody')).toContain('the plugin semisync_source')
  await instance.stop()
})
