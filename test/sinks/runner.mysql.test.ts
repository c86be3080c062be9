import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { loadInstance, orThrow } from '../../src/config/config.ts'
import type { RowsChange } from '../../src/change.ts'
import { probe, readVariables } from '../../src/commands/check/probes.ts'
import { SluiceError } from '../../src/errors.ts'
import { Instance } from '../../src/instance.ts'
import { rowFromText } from '../../src/sinks/shape/stored.ts'
import { Control, controlFile } from '../../src/sinks/letters/control.ts'
import { commonSchema } from '../../src/sinks/runner/options.ts'
import { documents, numbers, strings, temporals, type TypeSpec } from '../binlog/types.ts'
import fc from 'fast-check'
import { everything } from '../../src/filter.ts'
import { privateMysql, versions } from '../support/mysql.ts'
import type { MysqlServer } from '../support/mysql.ts'
import { Memory, memoryType } from './memory.ts'

let dir: string
let lines: Record<string, unknown>[]
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'sluice-runner-'))
  lines = []
})
afterEach(() => rmSync(dir, { recursive: true }))

function open(mysql: MysqlServer, sinks: Record<string, [Memory, object?]>): Instance {
  const file = join(dir, 'orders.yaml')
  const { host, port, user, password } = mysql
  const source = { host, port, user, password }
  const retry = { minMs: 20, maxMs: 200 }
  writeFileSync(file, stringify({ source, retry, filter: { include: 'shop\\..*' } }))
  const log = pino(
    { level: 'debug' },
    { write: (line: string) => void lines.push(JSON.parse(line) as Record<string, unknown>) },
  )
  const made = Object.entries(sinks).map(([name, [memory, options]]) => {
    const type = { ...memoryType(memory), type: name }
    return [
      name,
      type,
      { ...commonSchema.parse({ retry: { minMs: 5, maxMs: 20 }, ...options }), type: name },
    ] as const
  })
  return Instance.open({
    name: 'orders',
    config: {
      ...orThrow(loadInstance(file, {})),
      sinks: Object.fromEntries(made.map(([name, , config]) => [name, config])),
    },
    dataDir: dir,
    log,
    sinkTypes: made.map(([, type]) => type),
  })
}
async function until(what: () => boolean): Promise<void> {
  while (!what()) await sleep(5)
}
const running = (i: Instance) => until(() => i.status.state === 'running')
const sinkOf = (i: Instance, name = 'mem') => i.status.sinks.find((s) => s.name === name)!

test('writes rows in order, tries again what may pass, and goes on after a restart', async () => {
  await using mysql = await privateMysql(versions[0]!)
  await mysql.query('CREATE DATABASE shop')
  await mysql.query('CREATE TABLE shop.t (id INT PRIMARY KEY, v VARCHAR(20))')
  const memory = new Memory()
  let down = 3
  memory.before = () => {
    if (down-- > 0) throw new SluiceError('SINK_UNAVAILABLE', 'away')
  }
  let instance = open(mysql, { mem: [memory] })
  instance.start()
  await running(instance)
  await mysql.query("INSERT INTO shop.t VALUES (1, 'a'), (2, 'b')")
  await mysql.query("UPDATE shop.t SET v = 'c' WHERE id = 1")
  await mysql.query('DELETE FROM shop.t WHERE id = 2')
  await until(() => memory.rows.length === 4)
  expect(memory.rows.map((r) => `${r.op} ${r.key} ${r.values['v']}`)).toEqual([
    'insert 1 a',
    'insert 2 b',
    'update 1 c',
    'delete 2 b',
  ])
  await instance.stop()
  await mysql.query("INSERT INTO shop.t VALUES (3, 'x')")
  instance = open(mysql, { mem: [memory] })
  instance.start()
  await until(() => memory.rows.some((r) => r.key === '3'))
  await until(() => sinkOf(instance).state === 'running')
  await instance.stop()
  const versionsSeen = memory.rows.map((r) => r.version)
  expect(versionsSeen.toSorted()).toEqual(versionsSeen)
  expect(memory.highest.every((h, i) => h > memory.rows[i]!.version)).toBe(true)
})

const shown = (memory: Memory): string[] =>
  memory.rows.map((r) => `${r.op} ${r.table} ${r.key} ${r.values['v']}`)
const inOrder = (memory: Memory): void => {
  const seen = memory.rows.map((r) => r.version)
  expect(seen.toSorted()).toEqual(seen)
}
/** The files as they are now, put back later: what a kill -9 at this moment leaves. */
function snapshot(): () => void {
  const kept = mkdtempSync(join(tmpdir(), 'sluice-kept-'))
  cpSync(dir, kept, { recursive: true })
  return () => {
    for (const file of readdirSync(dir)) rmSync(join(dir, file))
    cpSync(kept, dir, { recursive: true })
    rmSync(kept, { recursive: true })
  }
}

describe.each(versions)('on MySQL %s', (version) => {
  test('XA rows come at XA COMMIT, with its place, over restarts and kill -9; rolled back ones never', async () => {
    await using mysql = await privateMysql(version)
    await mysql.query('CREATE DATABASE shop')
    await mysql.query('CREATE TABLE shop.t (id INT PRIMARY KEY, v LONGTEXT)')
    const memory = new Memory()
    const wide = new Memory()
    const both: Record<string, [Memory, object]> = {
      mem: [memory, { batch: { bytes: '64KiB' } }],
      wide: [wide, { batch: { bytes: '16MiB' } }],
    }
    let instance = open(mysql, both)
    instance.start()
    await running(instance)
    const session = await mysql.connect()
    const xa = async (...statements: string[]): Promise<void> => {
      for (const sql of statements) await session.query(sql)
    }
    const prepare = (xid: string, ...statements: string[]) =>
      xa(`XA START '${xid}'`, ...statements, `XA END '${xid}'`, `XA PREPARE '${xid}'`)
    await prepare('a', "INSERT INTO shop.t VALUES (1, 'xa'), (2, 'xa')")
    await prepare('b', "INSERT INTO shop.t VALUES (3, 'gone')")
    // larger than a part of the source: it comes in several
    const big = Array.from({ length: 40 }, (_, i) => `(${100 + i}, REPEAT('x', 100000))`)
    await prepare('big', ...big.map((row) => `INSERT INTO shop.t VALUES ${row}`))
    await mysql.query("INSERT INTO shop.t VALUES (10, 'plain')")
    await until(() => memory.rows.length === 1 && wide.rows.length === 1)
    const back = snapshot()
    await instance.stop()
    back()
    instance = open(mysql, both)
    instance.start()
    await running(instance)
    await mysql.query("INSERT INTO shop.t VALUES (11, 'plain')")
    await until(() => memory.rows.some((r) => r.key === '11'))
    expect(shown(memory).filter((s) => s.includes('xa') || s.includes('gone'))).toEqual([])
    await xa("XA ROLLBACK 'b'", "XA COMMIT 'a'")
    await until(() => memory.rows.some((r) => r.key === '2'))
    await mysql.query("UPDATE shop.t SET v = 'after' WHERE id = 1")
    await xa("XA COMMIT 'big'")
    await prepare('c', 'DELETE FROM shop.t WHERE id = 2')
    await xa("XA COMMIT 'c'")
    // in one phase: no prepare, the rows come as any others
    const one = Array.from({ length: 30 }, (_, i) => `(${200 + i}, REPEAT('y', 100000))`)
    await xa("XA START 'd'", ...one.map((row) => `INSERT INTO shop.t VALUES ${row}`), "XA END 'd'")
    await xa("XA COMMIT 'd' ONE PHASE")
    await mysql.query("INSERT INTO shop.t VALUES (12, 'end')")
    await until(() => [memory, wide].every((m) => m.rows.some((r) => r.key === '12')))
    await session.end()
    await instance.stop()
    const small = shown(memory).filter((s) => s.length < 100)
    expect([...new Set(small)]).toEqual([
      'insert t 10 plain',
      'insert t 11 plain',
      'insert t 1 xa',
      'insert t 2 xa',
      'update t 1 after',
      'delete t 2 xa',
      'insert t 12 end',
    ])
    for (const { rows } of [memory, wide])
      expect(rows.filter((r) => Number(r.key) >= 100).map((r) => Number(r.key))).toEqual([
        ...Array.from({ length: 40 }, (_, i) => 100 + i),
        ...Array.from({ length: 30 }, (_, i) => 200 + i),
      ])
    const [first, second] = memory.rows.filter((r) => ['1', '11'].includes(r.key))
    expect([first!.key, second!.key, first!.version < second!.version]).toEqual(['11', '1', true])
    inOrder(memory)
    expect(memory.highest.every((h, i) => h >= (memory.rows[i]?.version ?? ''))).toBe(true)
  })

  test('rows that a foreign key changes are logged, or the sink stops before them', async () => {
    await using mysql = await privateMysql(version)
    await mysql.query('CREATE DATABASE shop')
    await mysql.query('CREATE TABLE shop.p (id INT PRIMARY KEY)')
    await mysql.query(
      'CREATE TABLE shop.c (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES shop.p (id) ON DELETE CASCADE ON UPDATE CASCADE)',
    )
    const [memory, lenient, log] = [new Memory(), new Memory(), new Memory()]
    log.shape = { promise: 'append' }
    const instance = open(mysql, {
      mem: [memory],
      lenient: [lenient, { unloggedChange: 'ignore' }],
      log: [log],
    })
    instance.start()
    await running(instance)
    await mysql.query('INSERT INTO shop.p VALUES (1), (2)')
    await mysql.query('INSERT INTO shop.c VALUES (11, 1), (12, 2)')
    await mysql.query('DELETE FROM shop.c WHERE id = 12')
    await mysql.query('ALTER TABLE shop.p ADD COLUMN note INT')
    await mysql.query('UPDATE shop.p SET note = 1') // no key changes
    await mysql.query('DELETE FROM shop.p WHERE id = 1')
    const logged = version === '9.7'
    await until(() => log.rows.some((r) => r.op === 'delete' && r.table === 'p'))
    await until(() => lenient.rows.length === log.rows.length)
    if (logged) {
      await until(() => memory.rows.length === log.rows.length)
      expect(log.rows.map((r) => `${r.op} ${r.table} ${r.key}`)).toContain('delete c 11')
    } else {
      await until(() => sinkOf(instance).state === 'failed')
      expect(memory.rows.map((r) => `${r.op} ${r.table} ${r.key}`).at(-1)).toBe('update p 2')
      const line = lines.find((l) => l['code'] === 'UNLOGGED_CHANGE')!
      expect(line['msg']).toMatch(/foreign key shop\.c → shop\.p \(CASCADE\): its delete/)
      expect(sinkOf(instance, 'lenient').state).toBe('running')
      expect(instance.status.state).toBe('running')
    }
    await instance.stop()
    const connection = { query: mysql.query.bind(mysql), encrypted: false } as never
    const findings = await probe({
      connection,
      config: instance.config,
      variables: await readVariables(connection),
      filter: everything,
      needed: [],
    })
    const found = findings.find((f) => f.check === 'foreign keys')
    if (logged) expect(found).toBeUndefined()
    else
      expect(found?.message).toBe(
        '1 foreign keys change rows without logging them: shop.c → shop.p (CASCADE)',
      )
  })
})

test('a dead letter holds every type exactly', async () => {
  await using mysql = await privateMysql(versions[0]!)
  await mysql.query('CREATE DATABASE shop')
  const specs: readonly TypeSpec[] = [...numbers, ...temporals, ...strings, ...documents]
  const columns = specs.map((s, i) => `c${i} ${s.sql}${/TIMESTAMP/.test(s.sql) ? ' NULL' : ''}`)
  await mysql.query(`CREATE TABLE shop.t (id INT PRIMARY KEY, ${columns.join(', ')})`)
  const memory = new Memory()
  memory.refuse = () => ({ error: new Error('no'), retryable: false })
  const instance = open(mysql, { mem: [memory, { onError: 'deadLetter' }] })
  instance.start()
  await running(instance)
  const rows = 5
  await mysql.query("SET SESSION sql_mode = ''")
  for (let id = 0; id < rows; id++) {
    const values = specs.map((s) =>
      id === 0 ? 'NULL' : fc.sample(s.values, { numRuns: 1, seed: id })[0]!,
    )
    await mysql.query(`INSERT INTO shop.t VALUES (${id}, ${values.join(', ')})`)
  }
  await mysql.query('UPDATE shop.t SET id = id + 100 WHERE id > 0')
  await mysql.query('DELETE FROM shop.t WHERE id = 0')
  const expected = 2 * rows
  const control = Control.open(controlFile(dir, 'orders'))
  await until(() => control.count('mem') === expected)
  const cursor = instance.store!.subscribe('1001')
  const changes: RowsChange[] = []
  const batch = await cursor.get(
    { changes: 1000, bytes: 1 << 24, waitMs: 5000 },
    new AbortController().signal,
  )
  for (const { tx, from, to } of batch!.parts) {
    for (const c of tx.changes.slice(from, to))
      if (c.kind === 'insert' || c.kind === 'update' || c.kind === 'delete') changes.push(c)
  }
  const original = changes.flatMap((c) => [...c.rows()].map((row) => ({ kind: c.kind, ...row })))
  const letters = control.letters().map(({ row }) => {
    const { change } = rowFromText(row)
    return { kind: change.kind, ...[...change.rows()][0]! }
  })
  expect(letters).toEqual(original)
  batch!.release()
  const refused: unknown[] = []
  memory.refuse = () => undefined
  for (const { id } of control.letters()) control.wish('replay', 'mem', id)
  await until(() => control.count('mem') === 0)
  const names = memory.rows.map((r) => r.op)
  expect(names).toHaveLength(expected + rows - 1) // a changed key is a delete and an insert
  expect(refused).toEqual([])
  control.close()
  await instance.stop()
}, 120_000)

test('where the state file was lost, the target says which history to continue', async () => {
  await using mysql = await privateMysql(versions[0]!)
  await mysql.query('CREATE DATABASE shop')
  await mysql.query('CREATE TABLE shop.t (id INT PRIMARY KEY, v VARCHAR(20))')
  const [fenced, exact] = [new Memory(), new Memory()]
  exact.shape = { promise: 'transactional' }
  let instance = open(mysql, { fenced: [fenced], exact: [exact] })
  instance.start()
  await running(instance)
  await mysql.query("INSERT INTO shop.t VALUES (1, 'a')")
  await until(() => fenced.rows.length === 1 && exact.rows.length === 1)
  const server = fenced.opened[0]!.server
  await instance.stop()
  for (const file of readdirSync(dir)) rmSync(join(dir, file))
  mkdirSync(dir, { recursive: true })
  // while nobody looked; the new state begins at the end of the log, the target's position does not
  await mysql.query("INSERT INTO shop.t VALUES (2, 'b')")
  fenced.shape = { seen: { epoch: 7, server } }
  exact.position = { ...exact.position!, epoch: 7 }
  instance = open(mysql, { fenced: [fenced], exact: [exact] })
  instance.start()
  await until(() => exact.rows.length === 2)
  await mysql.query("INSERT INTO shop.t VALUES (3, 'c')")
  await until(() => exact.rows.length === 3 && fenced.rows.length >= 2)
  expect(exact.rows.map((r) => `${r.key} ${r.version.slice(0, 4)}`)).toEqual([
    '1 0001',
    '2 0007',
    '3 0007',
  ])
  expect(fenced.rows.at(-1)).toMatchObject({ key: '3' })
  expect(fenced.rows.at(-1)!.version.slice(0, 4)).toBe('0007')
  expect(instance.status.state).toBe('running')
  await instance.stop()
})
