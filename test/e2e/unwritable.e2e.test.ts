/**
 * Folders that cannot be written and disks that are full, under the real server with a real MySQL: what it needs is said, it goes
 * on with what it can, nothing is lost, and it is well again by itself. The disk is a small one in memory (root may mount).
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { connect, type Batch, type SluiceClient } from '../../src/client.ts'
import { run } from '../commands/run.ts'
import { sharedMysql, uniqueDatabase, versions, type MysqlServer } from '../support/mysql.ts'
import { freePort, writeConfig } from '../support/sluice.ts'
import { accounts, OPERATOR } from '../web/rig.ts'

const main = join(import.meta.dirname, '../../bin/sluice.js')
let mysql: MysqlServer
let dir: string
let disk: string
beforeAll(async () => {
  mysql = await sharedMysql(versions[0]!)
})
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'sluice-disk-'))
  disk = join(dir, 'disk')
  mkdirSync(disk)
})
let sluice: Served | undefined
afterEach(() => {
  sluice?.child.kill('SIGKILL')
  spawnSync('umount', ['-l', disk])
  rmSync(dir, { recursive: true, force: true })
})

function mount(...options: string[]): void {
  const { status, stderr } = spawnSync('mount', [...options, disk], { encoding: 'utf8' })
  expect([status, stderr]).toEqual([0, ''])
}
/** Leaves not a byte. */
function fill(): void {
  const file = openSync(join(disk, 'ballast'), 'a')
  try {
    for (let size = 64 * 1024; size >= 1; size = size >> 1) for (;;) if (!fits(file, size)) break
  } finally {
    closeSync(file)
  }
}
function fits(file: number, size: number): boolean {
  try {
    return writeSync(file, Buffer.alloc(size)) > 0
  } catch {
    return false
  }
}
const empty = () => rmSync(join(disk, 'ballast'))

test('a server whose dataDir is read-only says who must write what, and ends with exit code 1', async () => {
  mount('-t', 'tmpfs', '-o', 'ro', 'tmpfs')
  const config = writeConfig({ dir, instances: {}, server: { dataDir: disk } }, 0)
  const { code, stderr } = await run('serve', '-c', config)
  expect(code).toBe(1)
  expect(stderr).toContain(`expected a folder that user ${process.getuid!()} can write`)
  expect(stderr).toContain(`found ${disk}: EROFS: read-only file system`)
  expect(stderr).not.toContain('    at ')
})

/** A server whose state and log are on the disk. */
class Served {
  readonly port: number
  readonly admin: number
  readonly child: ChildProcess
  static async start(database: string): Promise<Served> {
    const [port, admin] = [await freePort(), await freePort()]
    const { host, port: mysqlPort, user, password } = mysql
    const orders = {
      source: { host, port: mysqlPort, user, password, heartbeatMs: '200ms' },
      filter: { include: `${database}\\..*` },
      retry: { minMs: '50ms', maxMs: '200ms' },
    }
    const server = {
      dataDir: join(disk, 'data'),
      admin: { port: admin, accounts, health: { readMs: '1s' } },
    }
    const config = writeConfig({ dir, instances: { orders }, server }, port)
    return new Served(config, port, admin)
  }
  private constructor(config: string, port: number, admin: number) {
    this.port = port
    this.admin = admin
    const log = openSync(join(disk, 'log'), 'a')
    this.child = spawn(process.execPath, [main, 'serve', '-c', config], {
      stdio: ['ignore', log, 'inherit'],
    })
    closeSync(log)
  }
  async ask(path: string, method = 'GET'): Promise<{ status: number; text: string }> {
    const headers = { authorization: `Bearer ${OPERATOR}`, 'content-type': 'application/json' }
    const answer = await fetch(`http://127.0.0.1:${this.admin}${path}`, {
      method,
      headers,
      ...(method === 'POST' && { body: '{}' }),
    })
    return { status: answer.status, text: await answer.text() }
  }
  /** Until the health says so; the process must live. */
  async until(fits: (status: number, text: string) => boolean, path = '/healthz'): Promise<void> {
    for (;;) {
      expect(this.child.exitCode).toBe(null)
      const { status, text } = await this.ask(path).catch(() => ({ status: 0, text: '' }))
      if (fits(status, text)) return
      await sleep(50)
    }
  }
  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null> {
    this.child.kill(signal)
    await once(this.child, 'exit')
    return this.child.exitCode
  }
}
const lacking = (_: number, text: string) => /STATE_UNWRITABLE|that user \d+ can write/.test(text)

test('a full disk is said, loses nothing, and is over when there is room', async () => {
  mount('-t', 'tmpfs', '-o', 'size=4m', 'tmpfs')
  const database = uniqueDatabase('disk')
  await mysql.query(`CREATE DATABASE ${database}`)
  await mysql.query(`CREATE TABLE ${database}.t (id INT PRIMARY KEY)`)
  sluice = await Served.start(database)
  await sluice.until((status) => status === 200, '/readyz')
  const client = await connect({ port: sluice.port, destination: 'orders' })
  const refused: string[] = []
  const seen = new Set<string>()
  let last = 0
  const step = async (): Promise<void> => {
    await mysql.query(`INSERT INTO ${database}.t VALUES (${++last})`)
    try {
      const batch = await client.get({ waitMs: 200 })
      for (const name of names(batch)) seen.add(name)
      await batch?.ack()
    } catch (error) {
      refused.push((error as Error).message)
    }
  }
  await step()
  fill()
  while (refused.length === 0) await step()
  expect(refused[0]).toContain('STATE_UNWRITABLE')
  // what an instance must note of its source before it can go on
  await mysql.query(`CREATE TABLE ${database}.u (id INT PRIMARY KEY)`)
  await mysql.query(`INSERT INTO ${database}.u VALUES (1)`)
  await sluice.until(lacking, '/api/v1/instances/orders')
  await sluice.until((status, text) => status === 503 && text.includes('orders'))
  expect((await sluice.ask('/api/v1/instances/orders/stop', 'POST')).text).toContain('audit.log')
  empty()
  while (!seen.has('u 1')) await step()
  await sluice.until((status) => status === 200)
  for (let id = 1; id < last; id++) expect(seen).toContain(`t ${id}`)
  // what was logged meanwhile stands there, line by line
  const lines = readFileSync(join(disk, 'log'), 'utf8').trim().split('\n')
  const codes = lines.map((line) => (JSON.parse(line) as { code?: string }).code)
  expect(codes).toContain('STATE_UNWRITABLE')
  await client.close()

  // The same at a first start: the port is open, the instance says what it lacks, and comes by itself.
  await sluice.end('SIGKILL')
  rmSync(join(disk, 'data'), { recursive: true })
  fill()
  sluice = await Served.start(database)
  await sluice.until(lacking, '/api/v1/instances/orders')
  empty()
  const again = await reconnected(sluice)
  await mysql.query(`INSERT INTO ${database}.u VALUES (2)`)
  for (const rest = new Set<string>(); !rest.has('u 2');) {
    const batch = await again.get({ waitMs: 200 })
    for (const name of names(batch)) rest.add(name)
  }
  await again.close()
  expect(await sluice.end('SIGTERM')).toBe(0)
})

async function reconnected(served: Served): Promise<SluiceClient> {
  await served.until((_, text) => text.includes('"state":"running"'), '/api/v1/instances/orders')
  return await connect({ port: served.port, destination: 'orders' })
}
/** "t 1" of every row. */
function names(batch: Batch | undefined): string[] {
  return (batch?.changes ?? []).flatMap((change) =>
    change.kind === 'rows'
      ? [...change.rows].map((row) => `${change.table} ${row.after?.['id'] as number}`)
      : [],
  )
}
