/**
 * The real command beside a running instance: no false alarm while writers never rest, seeded differences found and repaired
 * through the running server and without it, what stands in the way said.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { stringify } from 'yaml'
import { compareLogPlaces } from '../../src/catalog/history.ts'
import type { Instance } from '../../src/instance.ts'
import type { VerifyReport } from '../../src/verify/verify.ts'
import { inProcess } from '../commands/run.ts'
import { Random } from '../e2e/load.ts'
import { openTarget } from '../sinks/sql/targets.ts'
import { Clock, openWorld, Writer } from '../snapshot/world.ts'
import { startInstance } from '../support/instance.ts'
import { privateMysql, uniqueDatabase } from '../support/mysql.ts'
import { sharedService } from '../support/services.ts'

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'sluice-verify-'))
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

it('under writers: no false alarm; seeded differences are found and repaired', async () => {
  await using stack = new AsyncDisposableStack()
  // its own: without the server running, a source that others write to is never passed
  const mysql = stack.use(await privateMysql('9.7'))
  const database = uniqueDatabase('live')
  await openWorld(mysql, `${database}.items`, 1500)
  const target = stack.use(await openTarget('postgres'))
  const { host: redisHost, port: redisPort } = sharedService('redis')
  const client = new Redis(redisPort, redisHost)
  stack.defer(() => client.disconnect())
  const { host, port, user, password } = mysql
  const file = join(dir, 'orders.yaml')
  const sinks = {
    pg: {
      type: 'sql',
      url: target.url,
      table: '{table}',
      createTables: true,
      initialLoad: 'ifEmpty',
    },
    cache: {
      type: 'redis',
      host: redisHost,
      port: redisPort,
      keyPrefix: `${database}:`,
      rules: [{ kind: 'hash', key: '{table}:{key}' }],
      initialLoad: 'ifEmpty',
    },
  }
  writeFileSync(
    file,
    stringify({
      source: { host, port, user, password },
      filter: { include: `${database}\\..*` },
      sinks,
    }),
  )
  const config = join(dir, 'server.yml')
  writeFileSync(config, stringify({ dataDir: dir, instancesDir: dir }))
  const start = (): Instance => startInstance('orders', file, dir)
  let instance = start()
  stack.defer(() => instance.stop())
  const loaded = (): boolean =>
    instance.status.snapshots.length === 2 &&
    instance.status.snapshots.every((s) => s.state === 'done')
  while (!loaded()) await sleep(50)

  const verify = async (sink: string, ...more: string[]) => {
    const { code, stdout, stderr } = await inProcess([
      'verify',
      'orders',
      sink,
      '-c',
      config,
      '--json',
      ...more,
    ])
    return {
      code,
      stderr,
      report: (stdout === '' ? undefined : JSON.parse(stdout)) as VerifyReport,
    }
  }
  const clock = new Clock()
  const writers = [0, 1].map(
    (i) =>
      new Writer(mysql, `${database}.items`, {
        random: new Random(i + 1),
        clock,
        ids: { from: i * 900, to: (i + 1) * 900 },
      }),
  )
  for (const sink of ['pg', 'cache']) {
    const { code, report, stderr } = await verify(sink)
    expect([sink, stderr, report?.tables.map((t) => t.why), report?.differences]).toEqual([
      sink,
      '',
      [''],
      [],
    ])
    expect(code).toBe(0)
  }
  await Promise.all(writers.map((w) => w.stop()))
  expect(writers.reduce((sum, w) => sum + w.writes, 0)).toBeGreaterThan(10)

  const end = await instance.sourceEnd()
  const behind = (): boolean =>
    instance.status.sinks.some(
      ({ acked }) => acked === undefined || compareLogPlaces(acked, end) < 0,
    )
  while (behind()) await sleep(20)

  await target.query(`DELETE FROM items WHERE part = 0`)
  await target.query(`UPDATE items SET pad = 'wrong' WHERE part = 6`)
  await target.query(
    `INSERT INTO items SELECT 'nobody', part, 1, '', at FROM items WHERE part = 1 LIMIT 1`,
  )
  const metrics = join(dir, 'verify.prom')
  const found = await verify(
    'pg',
    '--show',
    '1',
    '--metrics-file',
    metrics,
    '--report',
    join(dir, 'r.json'),
  )
  expect(found.code).toBe(1)
  expect(found.report.tables).toMatchObject([{ extra: 1, missing: expect.any(Number) }])
  expect(found.report.differences).toHaveLength(1)
  expect(JSON.parse(readFileSync(join(dir, 'r.json'), 'utf8'))).toEqual(found.report)
  const { missing, different } = found.report.tables[0]!
  expect(Math.min(missing, different)).toBeGreaterThan(50)
  expect(readFileSync(metrics, 'utf8')).toContain(
    `sluice_verify_rows{instance="orders",sink="pg",table="${database}.items",kind="missing"} ${missing}`,
  )

  // by the running server
  const all = missing + different + 1
  const repaired = await verify('pg', '--repair')
  expect([repaired.stderr, repaired.code, repaired.report.result]).toEqual(['', 0, 'equal'])
  expect(repaired.report.tables).toMatchObject([{ missing, different, extra: 1, repaired: all }])
  expect((await verify('pg')).report).toMatchObject({ result: 'equal', differences: [] })
  const key = async (like: string): Promise<string> =>
    (await client.keys(`${database}:items:*${like}*`))[0]!
  const damage = async (): Promise<void> => {
    await client.del(await key('b20'))
    await client.hset(await key('b40'), 'pad', 'wrong')
    await client.hset(`${database}:items:nobody:1`, 'k', 'nobody')
  }
  for (let round = 0; round < 2; round++) {
    await damage()
    const put = await verify('cache', '--repair')
    expect([put.stderr, put.code]).toEqual(['', 0])
    expect(put.report.tables).toMatchObject([{ missing: 1, different: 1, extra: 1, repaired: 3 }])
  }

  // without it
  await instance.stop()
  await damage()
  await target.query(`DELETE FROM items WHERE part = 1`)
  await target.query(
    `INSERT INTO items SELECT 'nobody', part, 1, '', at FROM items WHERE part = 2 LIMIT 1`,
  )
  for (const sink of ['cache', 'pg']) {
    const put = await verify(sink, '--repair')
    const whys = put.report.tables.map(({ why }) => why)
    const all = JSON.stringify(put.report).slice(0, 4000)
    expect([sink, put.stderr, whys, put.code], all).toEqual([sink, '', [''], 0])
    expect(put.report.tables[0]!.repaired).toBeGreaterThanOrEqual(3)
  }

  // it goes on, and takes nothing of this for somebody else's
  instance = start()
  await mysql.query(
    `UPDATE ${database}.items SET pad = 'later', n = n + 1 WHERE part IN (1, 2); INSERT INTO ${database}.items (k, part, n, pad) VALUES ('nobody', 1, 1, '')`,
  )
  for (const sink of ['cache', 'pg']) expect((await verify(sink)).report.result).toBe('equal')
  expect(instance.status.sinks.map((s) => s.state)).toEqual(['running', 'running'])

  // what is in motion is told from what is wrong: a sink that stands still has not passed the place
  expect((await inProcess(['sinks', 'orders', 'pause', 'pg', '-c', config])).code).toBe(0)
  while (instance.status.sinks.find((s) => s.name === 'pg')!.state !== 'paused') await sleep(20)
  await mysql.query(`UPDATE ${database}.items SET pad = 'last' WHERE k = 'nobody'`)
  const paused = await verify('pg')
  expect(paused.code).toBe(2)
  expect(paused.report).toMatchObject({
    result: 'incomplete',
    tables: [{ unsettled: 1, different: 0 }],
  })

  const none = await inProcess(['verify', 'orders', 'nothing', '-c', config])
  expect([none.code, none.stderr]).toEqual([
    2,
    expect.stringContaining('no sink "nothing" in orders; found pg, cache'),
  ])
  const text = await inProcess(['verify', 'orders', 'cache', '-c', config])
  expect(text.stdout).toMatch(/items {2}\d+ rows, \d+ keys {2}equal\nequal$/)
})
