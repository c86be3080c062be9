import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { loadInstance, orThrow } from '../../src/config/config.ts'
import { SluiceError } from '../../src/errors.ts'
import { Instance } from '../../src/instance.ts'
import { commonSchema } from '../../src/sinks/runner/options.ts'
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
