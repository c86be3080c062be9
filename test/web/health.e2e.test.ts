/**
 * Every stage is frozen in turn, on a real server with a real MySQL: /healthz fails and names it, the metrics say so, and it is
 * well again by itself. Limits are short here; what is tested is the signal, not its time.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { SluiceClient } from '../../src/client.ts'
import type { StageKind } from '../../src/web/health.ts'
import { privateMysql, versions, type MysqlServer } from '../support/mysql.ts'
import { AdminRig } from './rig.ts'

const short = { readMs: '2s', storeMs: '2s', clientMs: '2s', awayMs: '3s', sinkMs: '2s' }
let mysql: MysqlServer
let rig: AdminRig
let id = 0
beforeAll(async () => {
  mysql = await privateMysql(versions[0]!)
  rig = await AdminRig.start(mysql, {
    admin: { health: short },
    instance: {
      windowBytes: '1MiB',
      partBytes: '64KiB',
      sinks: { lines: { type: 'file', path: join(mysql.dir!, 'lines') } },
    },
  })
})
afterAll(async () => {
  await rig[Symbol.asyncDispose]()
  await mysql[Symbol.asyncDispose]()
})

interface Health {
  readonly status: string
  readonly failing: readonly { readonly stage: StageKind; readonly name: string }[]
}
async function failing(): Promise<string[]> {
  const { status, json } = await rig.ask('/healthz', { token: '' })
  const health = json as Health
  expect([status, health.status]).toEqual(
    health.failing.length === 0 ? [200, 'ok'] : [503, 'failing'],
  )
  return health.failing.map((f) => `${f.stage} ${f.name}`.trim())
}
const fails = (stage: string) => rig.until(async () => (await failing()).includes(stage))
const well = () => rig.until(async () => (await failing()).length === 0)
const gauge = async (stage: string, name: string): Promise<number> => {
  const { text } = await rig.ask('/metrics', { token: '' })
  const labels = `{destination="orders",stage="${stage}",name="${name}"}`
  return Number(
    text
      .split('\n')
      .find((l) => l.startsWith(`sluice_stage_ok${labels}`))
      ?.split(' ')[1],
  )
}
const insert = () => rig.insert(++id, 'x'.repeat(1000))
async function drain(client: SluiceClient): Promise<void> {
  for (
    let batch = await client.get({ waitMs: 300 });
    batch;
    batch = await client.get({ waitMs: 300 })
  )
    await batch.ack()
}

test('all is well and ready, also with nothing to do for longer than the limits', async () => {
  await insert()
  await rig.when((v) => v.sinks[0]!.totals.rows === 1)
  await well() // a start may take longer than the limits on a full machine; it is not what is tested
  await mysql.query('FLUSH BINARY LOGS')
  const { stages } = await rig.when((v) => v.stages.length >= 3 && v.stages.every((s) => s.ok))
  expect(stages.map((s) => s.stage)).toEqual(['read', 'store', 'sink'])
  for (const end = Date.now() + 3500; Date.now() < end;) expect(await failing()).toEqual([])
  await rig.when((v) => v.lag.read.ms === 0 && v.lag.read.bytes === 0)
  expect((await rig.ask('/readyz', { token: '' })).status).toBe(200)
  expect((await rig.ask('/livez', { token: '' })).status).toBe(200)
})

test('a MySQL that stands still (SIGSTOP)', async () => {
  const [{ file } = { file: '' }] = await mysql.query<{ file: string }>('SELECT @@pid_file AS file')
  const pid = Number(await readFile(file, 'utf8'))
  process.kill(pid, 'SIGSTOP')
  try {
    await fails('read')
    expect(await gauge('read', '')).toBe(0)
    expect((await rig.instance()).lag.read).toEqual({
      ms: expect.any(Number) as number,
      bytes: null,
    })
    const { stages } = await rig.api<{ stages: { stage: string; ok: boolean; reason: string }[] }>(
      '/stages',
    )
    expect(stages.find((s) => s.stage === 'read')).toMatchObject({
      ok: false,
      reason: expect.stringMatching(/^(retrying|connecting) at /) as string,
    })
  } finally {
    process.kill(pid, 'SIGCONT')
  }
  await well()
  expect(await gauge('read', '')).toBe(1)
  await insert()
})

test('a client that takes a batch and does not ack it, then goes, then comes back', async () => {
  const client = await rig.client()
  await insert()
  await rig.until(async () => await client.get({ waitMs: 1000 }))
  await fails('client 1001')
  expect(await gauge('client', '1001')).toBe(0)
  await client.close()
  await rig.when((v) => v.clients.some((c) => c.client === '1001' && c.state === 'away'))
  await fails('client 1001')
  const again = await rig.client()
  await drain(again)
  await well()
  await again.close()
  await rig.act('DELETE', '/instances/orders/clients/1001')
})

test('a sink that is paused, and a full store behind it', async () => {
  await rig.act('POST', '/instances/orders/sinks/lines/pause')
  await rig.when((v) => v.sinks[0]!.state === 'paused')
  await insert()
  await fails('sink lines')
  expect(await failing()).toEqual(['sink lines'])
  const rows = Array.from({ length: 1500 }, () => `(${++id}, REPEAT('y', 2000))`)
  for (let i = 0; i < rows.length; i += 100)
    await mysql.query(
      `INSERT INTO ${rig.database}.items VALUES ${rows.slice(i, i + 100).join(', ')}`,
    )
  await rig.when((v) => v.store!.full)
  await fails('store')
  await rig.act('POST', '/instances/orders/sinks/lines/resume')
  await well()
  await rig.when((v) => v.sinks[0]!.lag.bytes === 0 && v.lag.read.bytes === 0 && !v.store!.full)
})

test('an instance that has failed, at once; the others are not blamed', async () => {
  const { host, port, user } = mysql
  rig.writeInstance('denied', { source: { host, port, user, password: 'not-the-password' } })
  await rig.until(async () =>
    (await rig.ask('/healthz')).text.includes('"destination":"denied","stage":"read"'),
  )
  expect((await rig.ask('/readyz')).status).toBe(503)
  const errors = await rig.api<{ instance: string; code: string; level: string }[]>(
    '/errors?destination=denied',
  )
  expect(errors[0]).toMatchObject({ instance: 'denied', code: 'ACCESS_DENIED', level: 'error' })
  rig.removeInstance('denied')
  await well()
})
