/**
 * A load beside the stream, on a real MySQL with writers that never rest: what a sink has written equals the source, and no
 * key ever went back. With GTIDs and without; over a stop in the middle; with DDL on the way.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { AFTER } from '../../src/change.ts'
import { instanceSchema } from '../../src/config/config.ts'
import type { InstanceConfig } from '../../src/config/config.ts'
import { Instance } from '../../src/instance.ts'
import { commonSchema } from '../../src/sinks/runner/options.ts'
import { Orders } from '../../src/snapshot/orders.ts'
import { Random } from '../e2e/load.ts'
import { Memory, memoryType } from '../sinks/memory.ts'
import { privateMysql, type MysqlServer } from '../support/mysql.ts'
import { Proxy } from '../support/proxy.ts'
import { enableSemiSync, SlowReplica } from './slow-replica.ts'
import { Clock, different, Observer, openWorld, readWorld, WIDE, Writer } from './world.ts'

let dir: string
let lines: Record<string, unknown>[]
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'sluice-snapshot-'))
  lines = []
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

function open(
  mysql: Pick<MysqlServer, 'host' | 'port' | 'user' | 'password'> & { readonly tls?: object },
  memory: Memory,
  options: object = {},
): Instance {
  const { host, port, user, password, tls } = mysql
  const source = { host, port, user, password, ...(tls && { tls }) }
  const config = instanceSchema.parse({
    source,
    retry: { minMs: 20, maxMs: 200 },
    filter: { include: 'world\\..*' },
  })
  const sink = { ...commonSchema.parse({ initialLoad: 'ifEmpty', ...options }), type: 'memory' }
  const log = pino(
    { level: 'info' },
    { write: (line: string) => void lines.push(JSON.parse(line) as Record<string, unknown>) },
  )
  return Instance.open({
    name: 'orders',
    config: { ...(config as InstanceConfig), sinks: { mem: sink } },
    dataDir: dir,
    log,
    sinkTypes: [memoryType(memory)],
  })
}
/** The load of the sink. */
const loadOf = (instance: Instance) =>
  instance.status.snapshots.find((s) => s.client === 'sink:mem')
async function until(what: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await what())) await sleep(20)
}
/** What the memory has been written, in order. */
function observe({ rows }: Memory): Observer {
  const observer = new Observer()
  for (const { op, key, values, table } of rows) {
    if (table !== 'items') continue
    if (op === 'delete') observer.gone(key.replace(/^(.*):(.*)$/, '$2/$1'))
    else observer.wrote(`${values['part']}/${values['k']}`, Number(values['n']))
  }
  return observer
}
/** What was written once nothing more comes that makes it more like the source. */
async function settled(mysql: MysqlServer, memory: Memory) {
  const source = await readWorld(mysql, 'world.items')
  for (let looks = 0; ; looks++) {
    const { rows, wentBack } = observe(memory)
    const differ = different(source, rows)
    if (differ === 0 || looks === 500) return { differ, wentBack }
    await sleep(20)
  }
}

describe('a load beside the stream', () => {
  const ROWS = 6000
  const writers = (mysql: MysqlServer, count: number, seed: number): Writer[] => {
    const clock = new Clock()
    const share = Math.ceil((ROWS * 1.2) / count)
    return Array.from({ length: count }, (_, i) => {
      const ids = { from: i * share, to: (i + 1) * share }
      return new Writer(mysql, 'world.items', { random: new Random(seed + i), clock, ids })
    })
  }

  const modes: [name: string, args: string[]][] = [
    ['with GTIDs', []],
    ['without GTIDs', ['--gtid-mode=OFF', '--enforce-gtid-consistency=OFF']],
  ]
  it.each(modes)('%s equals the source, and no key goes back', async (_name, args) => {
    await using mysql = await privateMysql('9.7', { args })
    await openWorld(mysql, 'world.items', ROWS)
    const memory = new Memory()
    // The sink is behind: what is read is newer than what the stream has given out.
    memory.before = () => sleep(10)
    const at = writers(mysql, 4, Date.now() % 10_000)
    const instance = open(mysql, memory, { batch: { changes: 10 } })
    instance.start()
    await until(() => loadOf(instance)?.state === 'done')
    memory.before = () => {}
    await sleep(100)
    await Promise.all(at.map((w) => w.stop()))
    const seen = await settled(mysql, memory)
    expect(seen).toEqual({ differ: 0, wentBack: 0 })
    expect(loadOf(instance)).toMatchObject({ tables: 1, done: 1, skipped: [] })
    expect(at.reduce((sum, w) => sum + w.writes, 0)).toBeGreaterThan(0)
    await instance.stop()
  })

  it('in small batches with the stream between them, no key goes back', async () => {
    await using mysql = await privateMysql('9.7')
    await openWorld(mysql, 'world.items', ROWS)
    const memory = new Memory()
    memory.before = () => sleep(10)
    const at = writers(mysql, 2, Date.now() % 10_000)
    const instance = open(mysql, memory, { batch: { changes: 20, bytes: '16KiB' } })
    instance.start()
    await until(() => loadOf(instance)?.state === 'done')
    await Promise.all(at.map((w) => w.stop()))
    expect(await settled(mysql, memory)).toEqual({ differ: 0, wentBack: 0 })
    await instance.stop()
  })

  it('a table that is read twice in a row: no key goes back', async () => {
    await using mysql = await privateMysql('9.7')
    await openWorld(mysql, 'world.items', ROWS)
    const memory = new Memory()
    // slow until the order for the second time is there, in the middle of the first
    memory.before = () => sleep(loadOf(instance)?.tables === 2 ? 1 : 400)
    const instance = open(mysql, memory, { batch: { changes: 10 } })
    instance.start()
    await until(() => memory.rows.length > 0)
    const orders = Orders.open(dir, 'orders')
    orders.give({ verb: 'start', client: 'sink:mem', tables: '', rowsPerSecond: 0 })
    orders.close()
    await until(() => loadOf(instance)?.tables === 2)
    const at = writers(mysql, 4, Date.now() % 10_000)
    await until(() => loadOf(instance)?.state === 'done')
    await Promise.all(at.map((w) => w.stop()))
    expect(await settled(mysql, memory)).toEqual({ differ: 0, wentBack: 0 })
    await instance.stop()
  })

  it.each(modes)(
    '%s loses no update between stream and SELECT where commits are late: semi-sync, slow replica, 8 writers',
    async (_name, args) => {
      await using mysql = await privateMysql('9.7', { args })
      await openWorld(mysql, 'world.items', ROWS)
      const memory = new Memory()
      // That the danger is there: a change was written to the sink, and a SELECT does not see it yet.
      let late = 0
      let looking: Promise<void> | undefined
      memory.before = (batch) => {
        for (const row of batch.rows(true)) {
          if (row.op !== 'update' || looking !== undefined) continue
          const [k, part, n] = ['k', 'part', 'n'].map((name) =>
            row.string(
              AFTER,
              row.table.columns.find((c) => c.name === name)!,
            ),
          )
          const sql = 'SELECT n FROM world.items WHERE part = ? AND k = ?'
          looking = mysql.query<{ n: string }>(sql, [part, k]).then(([found]) => {
            if (found !== undefined && Number(found.n) < Number(n)) late++
            looking = undefined
          })
        }
      }
      const instance = open(mysql, memory, { initialLoad: 'none' })
      instance.start()
      await until(() => instance.status.sinks[0]?.state === 'running')
      await enableSemiSync(mysql)
      await using _replica = await SlowReplica.open(mysql, 40)
      const at = writers(mysql, 8, Date.now() % 10_000)
      await until(() => at.every((w) => w.writes > 0))
      const orders = Orders.open(dir, 'orders')
      orders.give({ verb: 'start', client: 'sink:mem', tables: '', rowsPerSecond: 0 })
      orders.close()
      await until(() => loadOf(instance)?.state === 'done')
      await Promise.all(at.map((w) => w.stop()))
      const seen = await settled(mysql, memory)
      expect({ ...seen, late: late > 0 }).toEqual({ differ: 0, wentBack: 0, late: true })
      await instance.stop()
    },
  )

  it('goes on with the piece that was not acked, after a stop in the middle', async () => {
    await using mysql = await privateMysql('9.7')
    await openWorld(mysql, 'world.items', ROWS)
    await mysql.query('CREATE TABLE world.empty LIKE world.items')
    const memory = new Memory()
    const loaded = (): number => memory.rows.length
    let instance = open(mysql, memory)
    instance.start()
    await until(() => loaded() > 1000)
    await instance.stop()
    const first = loaded()
    expect(first).toBeLessThan(ROWS)
    const at = writers(mysql, 2, 77)
    instance = open(mysql, memory)
    instance.start()
    await until(() => loadOf(instance)?.state === 'done')
    await Promise.all(at.map((w) => w.stop()))
    expect(await settled(mysql, memory)).toEqual({ differ: 0, wentBack: 0 })
    expect(loadOf(instance)).toMatchObject({ tables: 2, done: 2, rows: expect.any(Number) })
    const inserts = memory.rows.filter((row) => row.op === 'insert' && row.id.includes('/0.'))
    expect(inserts.length).toBeLessThan(ROWS * 1.6)
    // over: another start loads nothing
    await instance.stop()
    const before = loaded()
    instance = open(mysql, memory)
    instance.start()
    await until(() => instance.status.state === 'running')
    await sleep(300)
    expect(loaded()).toBe(before)
    await instance.stop()
  })

  it('reads a piece again when DDL or TRUNCATE came in between, and tables without a key as one', async () => {
    await using mysql = await privateMysql('9.7', {
      args: ['--sql-generate-invisible-primary-key=OFF'],
    })
    await mysql.query('CREATE DATABASE world; CREATE TABLE world.bare (a INT, b VARCHAR(9))')
    await mysql.query("INSERT INTO world.bare VALUES (1, 'x'), (1, 'x'), (NULL, NULL)")
    await openWorld(mysql, 'world.items', 3000)
    const memory = new Memory()
    let altered: Promise<unknown> | undefined
    memory.before = async () => {
      altered ??= mysql.query(
        'ALTER TABLE world.items ADD COLUMN extra INT DEFAULT 5 AFTER n; UPDATE world.items SET extra = 6 WHERE part = 3',
      )
      await altered
    }
    const instance = open(mysql, memory, { unloggedChange: 'ignore' })
    instance.start()
    await until(() => loadOf(instance)?.state === 'done')
    expect(await settled(mysql, memory)).toEqual({ differ: 0, wentBack: 0 })
    const bare = memory.rows.filter((row) => row.table === 'bare').map((row) => row.values)
    expect(bare).toEqual([
      { a: '1', b: 'x' },
      { a: '1', b: 'x' },
      { a: null, b: null },
    ])
    const last = new Map(
      memory.rows.filter((r) => r.table === 'items').map((r) => [r.key, r.values]),
    )
    for (const values of last.values())
      if (values['part'] === '3') expect(values['extra']).toBe('6')
    // no row that was read before comes behind the statement
    const from = memory.statementsAt[memory.statements.findIndex((sql) => sql.startsWith('ALTER'))]
    const behind = memory.rows.slice(from).filter((r) => r.table === 'items')
    expect(behind.length).toBeGreaterThan(1000)
    expect(behind.filter(({ values }) => values['extra'] === undefined)).toEqual([])
    await instance.stop()
  })

  it('reads a piece again and again while DDL comes between its parts, and loses none of it', async () => {
    await using mysql = await privateMysql('9.7')
    await openWorld(mysql, 'world.items', ROWS, WIDE)
    const memory = new Memory()
    let altered = 0
    memory.before = async (batch) => {
      // each time there is a longer pause before what comes behind the piece is read
      const loaded = [...batch.rows(true)].some((row) => row.id.includes('/0.'))
      if (loaded && altered < 6)
        await mysql.query(`ALTER TABLE world.items ADD COLUMN x${altered++} INT NULL`)
    }
    const instance = open(mysql, memory, { batch: { bytes: '16KiB' } })
    instance.start()
    await until(() => loadOf(instance)?.state === 'done')
    expect(await settled(mysql, memory)).toEqual({ differ: 0, wentBack: 0 })
    expect(altered).toBe(6)
    await instance.stop()
  })

  it('keeps the pieces that wait when the question for the end of the log fails behind one of them', async () => {
    await using mysql = await privateMysql('9.7')
    await openWorld(mysql, 'world.items', ROWS, WIDE)
    await using proxy = await Proxy.start(mysql)
    const memory = new Memory()
    memory.before = () => sleep(20) // others wait behind the piece that is given out
    let asked = 0
    proxy.requestRule = (chunk) => {
      if (instance.status.state !== 'running' || !chunk.includes('BINARY LOG STATUS')) return chunk
      return ++asked % 2 === 0 ? { cutAfter: 0 } : chunk
    }
    const { user, password } = mysql
    const tls = { mode: 'disabled' } // the proxy reads along
    const source = { host: '127.0.0.1', port: proxy.port, user, password, tls }
    const instance = open(source, memory, { batch: { bytes: '64KiB' } })
    instance.start()
    await until(() => loadOf(instance)?.state === 'done')
    expect(await settled(mysql, memory)).toEqual({ differ: 0, wentBack: 0 })
    expect(asked).toBeGreaterThan(1)
    await instance.stop()
  })
})
