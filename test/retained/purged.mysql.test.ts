/**
 * The retained log in the place of a source that has purged its own: clients that start at old positions get, byte for byte,
 * the entries that others got live.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Position, Transaction } from '../../src/change.ts'
import { goalOf } from '../../src/commands/steer/position.ts'
import type { Instance } from '../../src/instance.ts'
import { Out } from '../../src/out.ts'
import { EntryEncoder } from '../../src/server/entry.ts'
import { ReaderThread } from '../../src/sources/index.ts'
import { stateFile } from '../../src/instance.ts'
import { State } from '../../src/store/state.ts'
import type { Cursor } from '../../src/store/store.ts'
import { privateMysql, versions, type MysqlServer } from '../support/mysql.ts'
import { newest, Rig, sourceOf } from '../upstream/rig.ts'

const never = new AbortController().signal
let rig: Rig
beforeEach(() => (rig = new Rig()))
afterEach(() => rig.close())

interface Seen {
  readonly entries: string[] // in hexadecimal
  readonly places: Position[] // after each batch
  readonly starts: Pick<Transaction, 'file' | 'offset' | 'gtid'>[] // of transactions
}
/** Every entry that a client gets up to the one in which `last` shows, each batch acked. */
async function entries(cursor: Cursor, last: string, start?: Position): Promise<Seen> {
  const encoder = new EntryEncoder({ gtid: true })
  encoder.start(start?.gtids)
  const seen: Seen = { entries: [], places: [], starts: [] }
  for (let over = false; !over;) {
    const batch = await cursor.get({ changes: 40, bytes: 1 << 20, waitMs: 1000 }, never)
    if (!batch) continue
    encoder.start(batch.start.gtids)
    for (const { tx, from, to } of batch.parts) {
      encoder.part(tx)
      if (tx.first === 0 && from === 0)
        seen.starts.push({ file: tx.file, offset: tx.offset, gtid: tx.gtid })
      for (const change of tx.changes.slice(from, to)) {
        if (over) continue // how much more is in a batch is chance
        const out = new Out(64)
        encoder.encode(change, out)
        const bytes = out.buf.subarray(0, out.at)
        seen.entries.push(bytes.toString('hex'))
        over ||= bytes.includes(last)
      }
    }
    batch.release()
    await cursor.ack(batch.id)
    seen.places.push(batch.end)
  }
  return seen
}

describe.each([
  ['with GTIDs, read in a thread', [], true],
  ['without GTIDs', ['--gtid-mode=OFF', '--enforce-gtid-consistency=OFF'], false],
] as const)('%s', (_, args, threaded) => {
  let mysql: MysqlServer
  let thread: ReaderThread | undefined
  beforeAll(async () => {
    mysql = await privateMysql(newest(versions), {
      args: [...args, '--binlog-row-metadata=MINIMAL'],
    })
    if (threaded) thread = new ReaderThread()
  })
  afterAll(async () => {
    await thread?.close()
    await mysql[Symbol.asyncDispose]()
  })
  beforeEach(() => mysql.query('DROP DATABASE IF EXISTS p8; CREATE DATABASE p8'))

  const open = (more: object = {}): Instance => {
    const changeLog = { enabled: true, segmentBytes: '4MiB' }
    return rig.open({ source: sourceOf(mysql), changeLog, partBytes: '64KiB', ...more }, thread)
  }
  const started = async (more: object = {}): Promise<Instance> => {
    const instance = open(more)
    instance.start()
    await rig.state(instance, 'running')
    return instance
  }
  /** Purges all that was, when the instance has read past it. */
  const purge = async (instance: Instance): Promise<void> => {
    await mysql.query('FLUSH BINARY LOGS; CREATE TABLE p8.mark (id INT)')
    const [last] = (await mysql.query<{ Log_name: string }>('SHOW BINARY LOGS')).slice(-1)
    await rig.until(() => instance.store!.resume.file === last!.Log_name)
    // a file that somebody still reads stays; dead connections are noticed by what is sent to them
    for (let first = ''; first !== last!.Log_name;) {
      await mysql.query(
        `CREATE DATABASE IF NOT EXISTS noise; PURGE BINARY LOGS TO '${last!.Log_name}'`,
      )
      first = (await mysql.query<{ Log_name: string }>('SHOW BINARY LOGS'))[0]!.Log_name
    }
  }
  /** Every kind of value, a table that is altered, a large transaction, statements; `last` is in the last entry. */
  const work = async (last: string): Promise<void> => {
    await mysql.query(`USE p8;
      CREATE TABLE p8.t (id INT UNSIGNED PRIMARY KEY AUTO_INCREMENT, n DECIMAL(10, 3), s VARCHAR(200),
        e ENUM('one', 'two'), f SET('a', 'b'), at TIMESTAMP(3) NULL, j JSON, b BLOB, l VARCHAR(20) CHARSET latin1);
      INSERT INTO p8.t (n, s, e, f, at, j, b, l) VALUES
        (1.5, 'hé', 'two', 'a,b', '2026-01-02 03:04:05.678', '{"a": [1, "x"]}', x'00ff', 'é');
      CREATE TABLE p8.big (id INT PRIMARY KEY AUTO_INCREMENT, s TEXT);
      INSERT INTO p8.big (s) SELECT REPEAT(SHA2(RAND(), 256), 60) FROM information_schema.columns LIMIT 300;
      ALTER TABLE p8.t ADD COLUMN later INT NOT NULL DEFAULT 7 AFTER id, DROP COLUMN n;
      UPDATE p8.t SET s = 'after', j = JSON_SET(j, '$.a', 5);
      DELETE FROM p8.big WHERE id % 3 = 0;
      INSERT INTO p8.t (s) VALUES ('${last}')`)
  }

  test('after PURGE a new client gets everything, exactly as another one got it live', async () => {
    let instance = await started()
    const start = instance.store!.resume
    await work('LAST1')
    const live = await entries(instance.store!.subscribe('1001'), 'LAST1', start)
    expect(live.entries.length).toBeGreaterThan(10)
    await purge(instance)
    await instance.stop()
    expect(instance.status.changeLog).toMatchObject({ segments: 1, gaps: 0, damaged: 0 })
    instance = await started()
    expect(instance.status.positionsLost).toBe(0)
    const late = await entries(instance.store!.subscribe('1002'), 'LAST1', start)
    expect(late.entries).toEqual(live.entries)
    // from the middle, on another connection; and on past the log's old end, to what comes now
    await mysql.query("INSERT INTO p8.t (s) VALUES ('LAST2')")
    const middle = live.places[live.places.length >> 1]!
    const rest = instance.store!.subscribe('1003', { from: middle })
    const seen = await entries(rest, 'LAST2', middle)
    const i = live.entries.length - live.entries.indexOf(seen.entries[0]!)
    expect(seen.entries.slice(0, i)).toEqual(live.entries.slice(-i))
    expect(i).toBeGreaterThan(3)
    // a place, a time and a GTID set that only the log has
    const options = {
      destination: 'orders',
      config: instance.config,
      saved: State.read(stateFile(rig.dir, 'orders')),
      file: stateFile(rig.dir, 'orders'),
      warn: (text: string) => expect.fail(text),
    }
    const { file, offset, gtid } = live.starts[4]!
    const wheres = [`${file}:${offset}`, ...(gtid ? [`${gtid.sid}:1-${gtid.gno - 1n}`] : [])]
    for (const where of wheres) {
      const { to } = await goalOf(where, options)
      const again = await entries(instance.store!.subscribe(where, { from: to }), 'LAST1', to)
      const k = live.entries.indexOf(again.entries[0]!)
      expect(again.entries).toEqual(live.entries.slice(k))
      expect(k).toBeGreaterThan(0)
    }
    expect((await entries(instance.store!.subscribe('1001'), 'LAST2')).entries.at(-1)).toBe(
      seen.entries.at(-1),
    )
    await instance.stop()
  })

  test('nobody is connected: reading goes on into the log, and nobody waits for the window', async () => {
    const instance = await started({ windowBytes: '1MiB', partBytes: '64KiB' })
    const start = instance.store!.resume
    // open, and does not move
    const stuck = instance.store!.subscribe('1001')
    await work('LAST1')
    await mysql.query(`USE p8;
      INSERT INTO p8.big (s) SELECT REPEAT(SHA2(RAND(), 256), 900) FROM information_schema.columns LIMIT 120;
      INSERT INTO p8.t (s) VALUES ('LAST2')`)
    const { offset } = await instance.sourceEnd()
    await rig.until(() => instance.store!.resume.offset === offset)
    await purge(instance)
    const seen = await entries(stuck, 'LAST2', start)
    const other = await entries(instance.store!.subscribe('1002'), 'LAST2', start)
    expect(other.entries).toEqual(seen.entries)
    await instance.stop()
  })

  test('a log that was off has a gap, and says so; who is before it gets the source or POSITION_LOST', async () => {
    let instance = await started()
    const start = instance.store!.resume
    await mysql.query(
      "CREATE TABLE p8.t (id INT PRIMARY KEY, s TEXT); INSERT INTO p8.t VALUES (1, 'ONE')",
    )
    await entries(instance.store!.subscribe('1001'), 'ONE')
    await instance.stop()
    instance = await started({ changeLog: { enabled: false } })
    await mysql.query("INSERT INTO p8.t VALUES (2, 'TWO')")
    const two = (await entries(instance.store!.subscribe('1001'), 'TWO')).places.at(-1)!
    await instance.stop()
    instance = await started()
    await mysql.query("INSERT INTO p8.t VALUES (3, 'THREE')")
    await entries(instance.store!.subscribe('1001'), 'THREE')
    await expect.poll(() => instance.status.changeLog).toMatchObject({ segments: 2, gaps: 1 })
    expect(rig.logged('has a gap before')).toContain('the log was switched off')
    // the source still has what is missing
    await entries(instance.store!.subscribe('1002', { from: start }), 'THREE')
    await purge(instance)
    await instance.stop()
    instance = await started()
    const lost = entries(instance.store!.subscribe('1003', { from: start }), 'THREE')
    await expect(lost).rejects.toMatchObject({ code: 'POSITION_LOST' })
    await entries(instance.store!.subscribe('1004', { from: two }), 'THREE')
    await instance.stop()
  })

  test('damage is named; the source helps out as long as it can', async () => {
    let instance = await started()
    const start = instance.store!.resume
    await work('LAST1')
    const live = await entries(instance.store!.subscribe('1001'), 'LAST1', start)
    await instance.stop()
    const dir = join(rig.dir, 'orders.changes')
    const path = join(
      dir,
      readdirSync(dir).find((name) => name.endsWith('.seg'))!,
    )
    const bytes = readFileSync(path)
    bytes[bytes.length - 5000]! ^= 1
    writeFileSync(path, bytes)
    instance = await started()
    const seen = await entries(instance.store!.subscribe('1002'), 'LAST1', start)
    expect(seen.entries).toEqual(live.entries)
    expect(rig.logged('going on at the source')).toContain(`${path}, byte `)
    await purge(instance)
    await instance.stop()
    instance = await started()
    const lost = entries(instance.store!.subscribe('1003'), 'LAST1')
    await expect(lost).rejects.toMatchObject({
      code: 'LOG_DAMAGED',
      message: expect.stringContaining(`${path}, byte `),
    })
    await instance.stop()
  })

  test('its limits hold while it runs; what it has dropped comes from the source', async () => {
    const limits = { enabled: true, segmentBytes: '1MiB', maxBytes: '2MiB', maxAgeMs: 0 }
    let instance = await started({ changeLog: limits })
    const start = instance.store!.resume
    await mysql.query('CREATE TABLE p8.big (id INT PRIMARY KEY AUTO_INCREMENT, s TEXT, b BLOB)')
    const random = 'CONCAT(RANDOM_BYTES(1024), RANDOM_BYTES(1024), RANDOM_BYTES(1024))'
    for (let i = 0; i < 6; i++)
      await mysql.query(
        `INSERT INTO p8.big (s, b) SELECT 'n${i}', ${random} FROM information_schema.columns LIMIT 400`,
      )
    await mysql.query("INSERT INTO p8.big (s) VALUES ('LAST1')")
    const { offset } = await instance.sourceEnd()
    await rig.until(() => instance.status.changeLog!.newest?.offset === offset)
    const { segments, bytes, oldest } = instance.status.changeLog!
    expect(segments).toBeLessThanOrEqual(3)
    expect(bytes).toBeLessThan(4 * 2 ** 20)
    expect(oldest!.offset).toBeGreaterThan(start.offset)
    const seen = await entries(instance.store!.subscribe('1001', { from: start }), 'LAST1', start)
    expect(seen.starts.length).toBe(8)
    await instance.stop()
    // by age, too
    instance = await started({ changeLog: { ...limits, maxAgeMs: '1s' } })
    const kept = async (): Promise<number> => {
      await mysql.query("INSERT INTO p8.big (s) VALUES ('x')")
      return instance.status.changeLog!.oldestMs ?? 0
    }
    const opened = Date.now()
    await expect.poll(kept).toBeGreaterThan(0)
    // what was written since it runs goes
    await expect.poll(kept).toBeGreaterThan(opened + 1000)
    await mysql.query("INSERT INTO p8.big (s) VALUES ('LAST2')")
    await entries(instance.store!.subscribe('1001'), 'LAST2')
    await instance.stop()
  })

  test('switched off, it is not there', async () => {
    const instance = rig.open({ source: sourceOf(mysql) })
    instance.start()
    await rig.state(instance, 'running')
    expect(instance.status.changeLog).toBeUndefined()
    await instance.stop()
    expect(existsSync(join(rig.dir, 'orders.changes'))).toBe(false)
    const { values } = State.read(stateFile(rig.dir, 'orders'))
    expect(values.has('changeLog')).toBe(false)
  })
})
