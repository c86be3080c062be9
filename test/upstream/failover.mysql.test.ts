/** The primary is killed under load, the standby promoted: a client sees everything that the standby has, once. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { SluiceError } from '../../src/errors.ts'
import { ReaderThread } from '../../src/sources/index.ts'
import type { Cursor } from '../../src/store/cursor.ts'
import { privateMysql, versions, type MysqlServer } from '../support/mysql.ts'
import { Proxy } from '../support/proxy.ts'
import { newest, numbers, Rig, sourceOf } from './rig.ts'

let rig: Rig
beforeEach(() => (rig = new Rig()))
afterEach(() => rig.close())
const version = newest(versions)
const never = new AbortController().signal

/** Makes `standby` a replica of `primary`. */
async function replicate(
  primary: MysqlServer,
  standby: MysqlServer,
  gtids: boolean,
): Promise<void> {
  const { host, port, user, password } = primary
  const [at] = gtids
    ? []
    : await primary.query<{ File: string; Position: number }>(
        version === '8.0' ? 'SHOW MASTER STATUS' : 'SHOW BINARY LOG STATUS',
      )
  const place = at
    ? `SOURCE_LOG_FILE = '${at.File}', SOURCE_LOG_POS = ${at.Position}`
    : 'SOURCE_AUTO_POSITION = 1'
  await standby.query(
    `CHANGE REPLICATION SOURCE TO SOURCE_HOST = '${host}', SOURCE_PORT = ${port}, SOURCE_USER = '${user}',
     SOURCE_PASSWORD = '${password}', GET_SOURCE_PUBLIC_KEY = 1, ${place}`,
  )
  await standby.query('START REPLICA')
}
/** Applies what has come, and is a server of its own from now on. */
async function promote(standby: MysqlServer): Promise<void> {
  await standby.query('STOP REPLICA IO_THREAD')
  for (;;) {
    const [s] = await standby.query<Record<string, string>>('SHOW REPLICA STATUS')
    if (/has read all relay log/i.test(s!['Replica_SQL_Running_State']!)) break
    await sleep(20)
  }
  await standby.query('STOP REPLICA; RESET REPLICA ALL')
}
/** Writes one row after another until the server is gone; the ids it confirmed. */
function load(mysql: MysqlServer, first: number): { done: Promise<number> } {
  const run = async (): Promise<number> => {
    const connection = await mysql.connect()
    connection.on('error', () => {})
    let id = first
    try {
      for (; ; id++) await connection.query(`INSERT INTO p8.t VALUES (${id}, REPEAT('x', 200))`)
    } catch {
      return id - 1
    }
  }
  return { done: run() }
}

/** Reads until `enough`, one batch behind with its acks; what it saw again without a mark is in `again`. */
class Client {
  readonly seen = new Map<number, number>()
  readonly order: number[] = []
  readonly again: number[] = []
  marked = 0
  acked = 0 // the last id
  changes = 20 // a batch
  readonly #subscribe: () => Cursor | undefined
  #cursor: Cursor
  #open: { id: bigint; last: number }[] = []
  #last = 0
  constructor(subscribe: () => Cursor | undefined) {
    this.#subscribe = subscribe
    this.#cursor = subscribe()!
  }
  async read(enough: () => boolean): Promise<void> {
    while (!enough()) {
      const batch = await this.#get()
      if (!batch) continue
      for (const { tx, from, to } of batch.parts) {
        for (const change of tx.changes.slice(from, to)) {
          if (change.kind !== 'insert') continue
          for (const row of change.rows()) this.#take(Number(row.after![0]), batch.redelivered)
        }
      }
      batch.release()
      this.#open.push({ id: batch.id, last: this.#last })
      if (this.#open.length <= 3) continue
      const { id, last } = this.#open.shift()!
      await this.#cursor.ack(id).then(
        () => (this.acked = last),
        () => {}, // closed: get says so
      )
    }
  }
  /** A cursor that was closed is subscribed to again, as a client that connects again does. */
  async #get() {
    try {
      return await this.#cursor.get({ changes: this.changes, bytes: 1 << 20, waitMs: 200 }, never)
    } catch (error) {
      if (!(error instanceof SluiceError) || error.code !== 'CURSOR_CLOSED') throw error
      await sleep(20)
      this.#open = []
      this.#cursor = this.#subscribe() ?? this.#cursor
      return undefined
    }
  }
  /** Forgets what is not acked: it comes again. */
  rollback(): void {
    this.#open = []
    this.#cursor.rollback()
  }
  #take(id: number, redelivered: boolean): void {
    this.#last = id
    const times = this.seen.get(id) ?? 0
    this.seen.set(id, times + 1)
    if (times === 0) this.order.push(id)
    else if (redelivered) this.marked++
    else this.again.push(id)
  }
}

test('with GTIDs, read in the thread: every change that the standby has, in order, none twice unmarked', async () => {
  await using primary = await privateMysql(version)
  await using standby = await privateMysql(version)
  await using proxy = await Proxy.start(primary)
  await replicate(primary, standby, true)
  await primary.query('CREATE DATABASE p8; CREATE TABLE p8.t (id INT PRIMARY KEY, v VARCHAR(250))')
  const thread = new ReaderThread()
  const instance = rig.open(
    {
      source: { ...sourceOf(primary), port: proxy.port },
      standbys: [{ host: standby.host, port: standby.port }],
      failover: { afterMs: 500, divergedMs: '60s' },
    },
    thread,
  )
  instance.start()
  await rig.state(instance, 'running')
  const client = new Client(() => instance.store?.subscribe('1001'))
  const slow = instance.store!.subscribe('1002') // stands at the beginning, and will catch up on the other server
  const written = load(primary, 1)
  await client.read(() => client.seen.size > 200)
  // what Sluice has read, the standby must have: its own stream ends a moment before the primary does
  proxy.rule = () => 'hold'
  await sleep(500)
  await primary.kill()
  const confirmed = await written.done
  await promote(standby)
  const rows = await standby.query<{ id: number }>('SELECT id FROM p8.t ORDER BY id')
  expect(rows.length).toBeGreaterThan(client.seen.size)
  expect(rows.length).toBeGreaterThanOrEqual(confirmed - 50)
  const last = rows.at(-1)!.id
  await client.read(() => client.seen.size >= last)
  client.rollback()
  const more = numbers(last + 1, last + 50)
  for (const id of more) await standby.query(`INSERT INTO p8.t VALUES (${id}, '')`)
  await client.read(() => client.seen.has(last + 50))
  expect(client.order).toEqual(numbers(1, last + 50))
  expect(client.again).toEqual([])
  expect(client.marked).toBeGreaterThan(0)
  expect(await rig.read(slow, last + 50)).toEqual(numbers(1, last + 50))
  expect(instance.status).toMatchObject({
    server: `127.0.0.1:${standby.port}`,
    failovers: 1,
    position: { epoch: 2 },
  })
  expect(rig.logged('goes over to')).toMatch(
    /gives 127.0.0.1:\d+ up and goes over to 127.0.0.1:\d+/,
  )
  await instance.stop()

  // the old primary comes back: it is not the history any more, and a restart does not go there
  await primary.start()
  await primary.query("INSERT INTO p8.t VALUES (1000001, 'stray')")
  const again = rig.open({
    source: sourceOf(primary),
    standbys: [{ host: standby.host, port: standby.port }],
  })
  again.start()
  await rig.state(again, 'running')
  expect(again.status.server).toBe(`127.0.0.1:${standby.port}`)
  await again.stop()
  await thread.close()
  // and alone it is refused
  const wrong = rig.open({ source: sourceOf(primary), failover: { divergedMs: '300ms' } })
  wrong.start()
  await rig.state(wrong, 'failed')
  expect(wrong.status).toMatchObject({ error: { code: 'SOURCE_DIVERGED' } })
  await wrong.stop()
})

test('the standby that has everything is taken, and one that could not take over is warned about', async () => {
  await using primary = await privateMysql(version)
  await using stale = await privateMysql(version)
  await using fresh = await privateMysql(version)
  const insert = (mysql: MysqlServer, id: number) =>
    mysql.query(`INSERT INTO p8.t VALUES (${id}, '')`)
  /** Until both have executed the same. */
  const caughtUp = async (standby: MysqlServer): Promise<void> => {
    const [row] = await primary.query<{ set: string }>('SELECT @@global.gtid_executed AS `set`')
    await standby.query('SELECT WAIT_FOR_EXECUTED_GTID_SET(?)', [row!.set])
  }
  await primary.query('CREATE DATABASE p8; CREATE TABLE p8.t (id INT PRIMARY KEY, v VARCHAR(250))')
  for (const standby of [stale, fresh]) {
    await replicate(primary, standby, true)
    await caughtUp(standby)
  }
  await stale.query('STOP REPLICA')
  await insert(primary, 1)
  await caughtUp(fresh)
  const standbys = [stale, fresh].map(({ host, port }) => ({ host, port }))
  const failover = { afterMs: 300, divergedMs: '60s' }
  const instance = rig.open({ source: sourceOf(primary), standbys, failover })
  instance.start()
  await rig.until(() => instance.status.standbys.length === 2)
  const [first, second] = standbys.map(({ host, port }) => `${host}:${port}`)
  expect(instance.status.standbys).toMatchObject([
    { server: first, state: 'stopped', complete: false, reason: 'its replication is stopped' },
    { server: second, state: 'replicating', complete: true, lagMs: expect.any(Number), reason: '' },
  ])
  expect(rig.logged('could not take over')).toBe(
    `standby ${first} could not take over: its replication is stopped`,
  )
  const cursor = instance.store!.subscribe('1001')
  await insert(primary, 2)
  expect(await rig.read(cursor, 2)).toEqual([2])
  await caughtUp(fresh)
  await primary.kill()
  await promote(fresh)
  await insert(fresh, 3)
  expect(await rig.read(cursor, 3)).toEqual([3])
  expect(instance.status).toMatchObject({ server: second, failovers: 1 })
  // the other two are looked at now
  await rig.until(() => instance.status.standbys.some(({ state }) => state === 'away'))
  await instance.stop()
})

test.each([false, true])('MariaDB, by its GTIDs; with a change log: %s', async (enabled) => {
  const args = ['--log-slave-updates']
  await using primary = await privateMysql('mariadb-10.11', { args })
  await using standby = await privateMysql('mariadb-10.11', { args })
  const insert = async (mysql: MysqlServer, from: number, to: number): Promise<void> => {
    for (const id of numbers(from, to)) await mysql.query(`INSERT INTO p8.t VALUES (${id}, '')`)
  }
  const position = async (): Promise<string> =>
    (await primary.query<{ pos: string }>('SELECT @@global.gtid_binlog_pos AS pos'))[0]!.pos
  const { host, port, user, password } = primary
  await standby.query('RESET MASTER')
  await standby.query('SET GLOBAL gtid_slave_pos = ?', [await position()])
  await standby.query(
    `CHANGE MASTER TO MASTER_HOST = '${host}', MASTER_PORT = ${port}, MASTER_USER = '${user}', MASTER_PASSWORD = '${password}',
     MASTER_USE_GTID = slave_pos; START SLAVE`,
  )
  await primary.query('CREATE DATABASE p8; CREATE TABLE p8.t (id INT PRIMARY KEY, v VARCHAR(250))')
  const instance = rig.open({
    source: sourceOf(primary),
    standbys: [{ host: standby.host, port: standby.port }],
    failover: { afterMs: 300, divergedMs: '60s' },
    changeLog: { enabled },
  })
  instance.start()
  await rig.until(() => instance.status.standbys.length === 1)
  const start = instance.store!.resume
  const server = `${standby.host}:${standby.port}`
  expect(instance.status.standbys).toMatchObject([{ server, state: 'replicating', reason: '' }])
  const cursor = instance.store!.subscribe('1001')
  await insert(primary, 1, 30)
  expect(await rig.read(cursor, 30)).toEqual(numbers(1, 30))
  await insert(primary, 31, 40) // read before or after: by GTIDs none is missing or repeated
  await standby.query('SELECT MASTER_GTID_WAIT(?)', [await position()])
  await primary.kill()
  await standby.query('STOP SLAVE; RESET SLAVE ALL')
  await insert(standby, 41, 50)
  expect(await rig.read(cursor, 50)).toEqual(numbers(31, 50))
  expect(instance.status).toMatchObject({ server, failovers: 1, position: { epoch: 2 } })
  if (enabled) {
    // what was read of both is in the log, as one stretch, and no server has it any more
    await standby.query('FLUSH BINARY LOGS')
    const [last] = (await standby.query<{ Log_name: string }>('SHOW BINARY LOGS')).slice(-1)
    await insert(standby, 51, 51)
    expect(await rig.read(cursor, 51)).toEqual([51])
    await standby.query(`PURGE BINARY LOGS TO '${last!.Log_name}'`)
    const late = instance.store!.subscribe('1002', { from: start })
    expect(await rig.read(late, 51)).toEqual(numbers(1, 51))
    expect(instance.status.changeLog).toMatchObject({ gaps: 0, damaged: 0, error: undefined })
    expect(instance.status.positionsLost).toBe(0)
  }
  await instance.stop()
})

test('without GTIDs: what was acked is found in the other log by what it looks like, else by time', async () => {
  const args = ['--gtid-mode=OFF', '--enforce-gtid-consistency=OFF']
  await using primary = await privateMysql(version, { args })
  await using standby = await privateMysql(version, { args })
  await using proxy = await Proxy.start(primary)
  await standby.query('FLUSH BINARY LOGS; FLUSH BINARY LOGS') // its places are others
  await replicate(primary, standby, false)
  await primary.query('CREATE DATABASE p8; CREATE TABLE p8.t (id INT PRIMARY KEY, v VARCHAR(250))')
  const config = {
    source: { ...sourceOf(primary), port: proxy.port },
    standbys: [{ host: standby.host, port: standby.port }],
    failover: { afterMs: 500 },
  }
  const instance = rig.open(config)
  instance.start()
  await rig.state(instance, 'running')
  const client = new Client(() => instance.store?.subscribe('1001'))
  await standby.query('STOP REPLICA SQL_THREAD') // it commits later than the primary
  const written = load(primary, 1)
  await client.read(() => client.seen.size > 200)
  const acked = client.acked
  proxy.rule = () => 'hold'
  await sleep(500)
  await primary.kill()
  await written.done
  await standby.query('START REPLICA SQL_THREAD')
  await promote(standby)
  const rows = await standby.query<{ id: number }>('SELECT id FROM p8.t ORDER BY id')
  const last = rows.at(-1)!.id
  await rig.until(
    () => instance.status.position?.epoch === 2 && instance.status.state === 'running',
  )
  client.changes = 1 // what comes again is not all in the first batch
  const more = numbers(last + 1, last + 20)
  for (const id of more) await standby.query(`INSERT INTO p8.t VALUES (${id}, '')`)
  await client.read(() => client.seen.has(last + 20))
  expect(client.order).toEqual(numbers(1, last + 20))
  // only what was not acked came again, and said so
  expect(client.again).toEqual([])
  expect(client.marked).toBeGreaterThan(0)
  expect([...client.seen].filter(([id, n]) => id <= acked && n > 1)).toEqual([])
  expect(rig.logged('client 1001 goes on')).toContain('exactly where it was')
  await instance.stop()

  // a restart in between remembers nothing: changes of the look-back are repeated, none is missing
  const late = rig.open({
    source: sourceOf(standby),
    standbys: [{ host: primary.host, port: primary.port }],
    failover: { afterMs: 0 },
  })
  await primary.start()
  expect(late.status.server).toBe(`127.0.0.1:${standby.port}`)
  await standby.kill()
  late.start()
  await rig.until(() => late.status.position?.epoch === 3)
  expect(rig.logged('client 1001 goes on')).toContain('60000 ms before')
  await late.stop()
})
