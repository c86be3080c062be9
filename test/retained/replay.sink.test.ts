/**
 * `sluice replay`: after PURGE BINARY LOGS an emptied Elasticsearch index and an emptied Redis cache are rebuilt from the log to what
 * they were, by the real command; and what a changed mapping would do is shown first.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { pino } from 'pino'
import { expect, it, vi } from 'vitest'
import { stringify } from 'yaml'
import { run as runCommand } from '../../src/cli.ts'
import { loadInstance, orThrow } from '../../src/config/config.ts'
import { Instance } from '../../src/instance.ts'
import { privateMysql, uniqueDatabase, versions } from '../support/mysql.ts'
import { sharedService } from '../support/services.ts'
import { shown } from '../sinks/elastic.ts'

/** One command line in this process, with what it prints. */
async function run(...argv: string[]) {
  const [printed, complained]: string[][] = [[], []]
  const log = vi.spyOn(console, 'log').mockImplementation((text) => void printed!.push(`${text}`))
  const error = vi
    .spyOn(console, 'error')
    .mockImplementation((text) => void complained!.push(`${text}`))
  try {
    const code = await runCommand(argv)
    return { code, stdout: printed!.join('\n'), stderr: complained!.join('\n') }
  } finally {
    log.mockRestore()
    error.mockRestore()
  }
}

it('rebuilds an index and a cache after PURGE; a dry run shows what a mapping changes', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-replay-'))
  await using stack = new AsyncDisposableStack()
  stack.defer(() => rmSync(dir, { recursive: true, force: true }))
  const mysql = stack.use(await privateMysql(versions[0]!))
  const db = uniqueDatabase('replay')
  const elastic = sharedService('elasticsearch')
  const where = sharedService('redis')
  const redis = new Redis({ host: where.host, port: where.port })
  stack.defer(() => redis.disconnect())
  await mysql.query(`CREATE DATABASE ${db}; CREATE TABLE ${db}.t (id INT PRIMARY KEY, v VARCHAR(40), n DECIMAL(8,2));
    CREATE TABLE ${db}.gone (id INT PRIMARY KEY, v INT)`)
  const { host, port, user, password } = mysql
  const sinks = {
    search: {
      type: 'elasticsearch',
      nodes: elastic.url,
      cursorIndex: `cursors-${db}`,
      settings: { number_of_replicas: 0 },
    },
    cache: {
      type: 'redis',
      host: where.host,
      port: where.port,
      keyPrefix: `${db}:`,
      rules: [{ kind: 'hash', match: `${db}\\..*` }],
    },
    lines: { type: 'file', path: join(dir, 'lines.ndjson'), enabled: false },
  }
  const instance = {
    source: { host, port, user, password, tls: { mode: 'disabled' } },
    filter: { include: `${db}\\..*` },
    changeLog: { enabled: true },
    sinks,
  }
  const [server, file] = [join(dir, 'server.yml'), join(dir, 'orders.yaml')]
  writeFileSync(file, stringify(instance))
  writeFileSync(server, stringify({ dataDir: join(dir, 'data'), instancesDir: dir }))
  const open = async (): Promise<Instance> => {
    const opened = Instance.open({
      name: 'orders',
      config: orThrow(loadInstance(file, {})),
      dataDir: dir,
      log: pino({ level: 'silent' }),
    })
    opened.start()
    while (opened.status.state !== 'running') await sleep(20)
    return opened
  }
  writeFileSync(server, stringify({ dataDir: dir, instancesDir: dir }))
  const running = await open()
  await mysql.query(`USE ${db};
    INSERT INTO t VALUES (1, 'one', 1.5), (2, 'two', NULL), (3, 'three', 3), (4, 'four', 4);
    INSERT INTO gone VALUES (1, 1), (2, 2);
    UPDATE t SET v = 'changed' WHERE id = 2; DELETE FROM t WHERE id = 3; UPDATE t SET id = 40 WHERE id = 4;
    TRUNCATE gone; INSERT INTO gone VALUES (9, 9);
    XA START 'x'; INSERT INTO t VALUES (5, 'xa', 5); XA END 'x'; XA PREPARE 'x'; XA COMMIT 'x';
    UPDATE t SET v = 'last' WHERE id = 1`)
  const cache = async (): Promise<Record<string, unknown>> => {
    const keys = (await redis.keys(`${db}:*`)).filter((key) => !key.includes('sluice:')).sort()
    return Object.fromEntries(await Promise.all(keys.map(async (k) => [k, await redis.hgetall(k)])))
  }
  const index = async (): Promise<unknown> => ({
    t: await shown(elastic, `${db}-t`),
    gone: await shown(elastic, `${db}-gone`),
  })
  await expect.poll(cache, { timeout: 60_000 }).toMatchObject({
    [`${db}:${db}:t:1`]: { v: 'last' },
    [`${db}:${db}:t:40`]: { id: '40' },
    [`${db}:${db}:t:5`]: { v: 'xa' },
  })
  await expect
    .poll(index, { timeout: 60_000 })
    .toMatchObject({ t: { 1: { v: 'last' }, 5: { v: 'xa' } } })
  const before = { cache: await cache(), index: await index() }
  expect(Object.keys(before.cache)).toHaveLength(5)
  await running.stop()
  await mysql.query('FLUSH BINARY LOGS')
  const [last] = (await mysql.query<{ Log_name: string }>('SHOW BINARY LOGS')).slice(-1)
  await mysql.query(`PURGE BINARY LOGS TO '${last!.Log_name}'`)
  await mysql.stop()

  const sluice = (...argv: string[]) => run(...argv, '--config', server)
  // what is newer in the target stays
  const again = await sluice('replay', 'orders', 'cache', '--from', 'earliest', '--json')
  expect(again, again.stderr).toMatchObject({ code: 0 })
  expect(JSON.parse(again.stdout)).toMatchObject({ sink: 'cache', deadLetters: 0, done: true })
  expect(await cache()).toEqual(before.cache)

  await redis.del(await redis.keys(`${db}:*`))
  for (const table of ['t', 'gone'])
    await fetch(`${elastic.url}/${db}-${table}`, { method: 'DELETE' })
  expect(await cache()).toEqual({})
  for (const name of ['cache', 'search']) {
    const done = await sluice('replay', 'orders', name, '--from', 'earliest')
    expect(done, done.stderr).toMatchObject({ code: 0 })
  }
  expect(await cache()).toEqual(before.cache)
  await expect.poll(index, { timeout: 60_000 }).toEqual(before.index)

  // one table, up to a place within
  await redis.del(await redis.keys(`${db}:*`))
  await sluice('replay', 'orders', 'cache', '--from', 'earliest', '--tables', `${db}\\.gone`)
  expect(Object.keys(await cache())).toEqual([`${db}:${db}:gone:9`])

  const changed = join(dir, 'changed')
  const tables = [{ match: `${db}\\.t`, rename: { v: 'word' } }]
  writeFileSync(
    changed,
    stringify({ ...instance, sinks: { ...sinks, search: { ...sinks.search, tables } } }),
  )
  const dry = await sluice(
    'replay',
    'orders',
    'search',
    '--from',
    'earliest',
    '--dry-run',
    '--with',
    changed,
    '--json',
  )
  expect(dry, dry.stderr).toMatchObject({ code: 1 })
  const { tables: found } = JSON.parse(dry.stdout) as {
    tables: { table: string; first: unknown[] }[]
  }
  expect(found).toMatchObject([
    { table: `${db}.t`, was: 10, now: 10, different: 8 },
    { table: `${db}.gone`, was: 3, now: 3, different: 0, first: [] },
  ])
  expect(found[0]!.first[0]).toMatchObject({
    was: { op: 'insert', key: '{"id":1}', row: '{"id":1,"v":"one","n":"1.50"}' },
    now: { op: 'insert', key: '{"id":1}', row: '{"id":1,"word":"one","n":"1.50"}' },
  })

  const has = await sluice('log', 'orders', '--verify', '--json')
  expect(has.code).toBe(0)
  const { segments } = JSON.parse(has.stdout) as { segments: { path: string; bytes: number }[] }
  expect(segments).toMatchObject([{ number: 1, gap: 'the log begins here', damagedAt: null }])
  expect(segments[0]).toHaveProperty(['tables', `${db}.gone`], 2)
  const bytes = readFileSync(segments[0]!.path)
  bytes[bytes.length - 10]! ^= 64
  writeFileSync(segments[0]!.path, bytes)
  expect(await sluice('log', 'orders', '--verify')).toMatchObject({
    code: 1,
    stdout: expect.stringMatching(/DAMAGED from byte \d+ on/),
  })
  const damaged = await sluice('replay', 'orders', 'cache', '--from', 'earliest')
  expect(damaged).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/0001\.seg, byte \d+: expected the CRC32/s),
  })

  for (const [words, message] of [
    [['lines', '--from', 'earliest'], /writes carry versions/],
    [
      ['cache', '--from', 'binlog.000001:5'],
      /expected the beginning of a transaction in the change log; it has binlog/,
    ],
    [['cache'], /expected --from POSITION/],
    [['none', '--from', 'earliest'], /no sink "none"; found search, cache, lines/],
  ] as const) {
    const failed = await sluice('replay', 'orders', ...words)
    expect(failed.code).toBeGreaterThan(0)
    expect(failed.stderr).toMatch(message)
  }
})
