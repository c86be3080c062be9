/**
 * A client that asks for a snapshot by its subscription, and the operator's orders, by the real command against a running
 * instance behind the real Canal port.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { expect, it, vi } from 'vitest'
import { stringify } from 'yaml'
import { run as runCommand } from '../../src/cli.ts'
import { connect, type SluiceClient } from '../../src/client.ts'
import { loadInstance, orThrow } from '../../src/config/config.ts'
import { Instance } from '../../src/instance.ts'
import { CanalServer } from '../../src/server/server.ts'
import type { LoadStatus } from '../../src/snapshot/load.ts'
import { privateMysql } from '../support/mysql.ts'
import { openWorld } from './world.ts'

/** One command line in this process, with what it prints. */
async function run(...argv: string[]) {
  const printed: string[] = []
  const complained: string[] = []
  const log = vi.spyOn(console, 'log').mockImplementation((text) => void printed.push(`${text}`))
  const error = vi.spyOn(console, 'error').mockImplementation((text) => void complained.push(text))
  try {
    const code = await runCommand(argv)
    return { code, stdout: printed.join('\n'), stderr: complained.join('\n') }
  } finally {
    log.mockRestore()
    error.mockRestore()
  }
}

it('a client opts in by its subscription; the operator starts, throttles, pauses and cancels', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-snapshot-'))
  await using stack = new AsyncDisposableStack()
  stack.defer(() => rmSync(dir, { recursive: true, force: true }))
  const mysql = stack.use(await privateMysql('9.7'))
  await openWorld(mysql, 'world.items', 2000)
  const { host, port, user, password } = mysql
  const file = join(dir, 'orders.yaml')
  writeFileSync(
    file,
    stringify({ source: { host, port, user, password }, filter: { include: 'world\\..*' } }),
  )
  const config = join(dir, 'server.yml')
  writeFileSync(config, stringify({ dataDir: dir, instancesDir: dir }))
  const log = pino({ level: 'silent' })
  const instance = Instance.open({
    name: 'orders',
    config: orThrow(loadInstance(file, {})),
    dataDir: dir,
    log,
  })
  stack.defer(() => instance.stop())
  instance.start()
  while (instance.status.state !== 'running') await sleep(20)
  const server = await CanalServer.listen({
    host: '127.0.0.1',
    packetBytesMax: 1 << 20,
    connectionsMax: 10,
    idleMs: 60_000,
    port: 0,
    log,
    resolve: () => ({
      name: 'orders',
      store: instance.store!,
      gtid: false,
      load: (client, filter) => instance.snapshots.once(client, filter),
    }),
  })
  stack.defer(() => server.close())
  const subscribed = (): Promise<SluiceClient> =>
    connect({ port: server.port, destination: 'orders', filter: 'world\\.items', snapshot: true })

  /** Keys and marks of the rows that come until `wanted` of them have. */
  const read = async (client: SluiceClient, wanted: number): Promise<Map<string, boolean>> => {
    const rows = new Map<string, boolean>()
    for (const until = Date.now() + 30_000; rows.size < wanted && Date.now() < until;) {
      const batch = await client.get({ waitMs: 200 })
      for (const change of batch?.changes ?? [])
        if (change.kind === 'rows')
          for (const { after } of change.rows) rows.set(after!['k'] as string, change.snapshot)
      await batch?.ack()
    }
    return rows
  }
  /** What the server last said; it says so twice a second. */
  const status = async (): Promise<LoadStatus> => {
    for (;;) {
      const { stdout } = await run('snapshot', 'orders', 'list', '--json', '-c', config)
      const [found] = JSON.parse(stdout) as LoadStatus[]
      if (found !== undefined) return found
      await sleep(50)
    }
  }
  const order = (...words: string[]) => run('snapshot', 'orders', ...words, '-c', config)

  let client = await subscribed()
  const first = await read(client, 2000)
  expect([first.size, [...first.values()].every((mark) => mark)]).toEqual([2000, true])
  await mysql.query("INSERT INTO world.items (k, part, n, pad) VALUES ('new', 1, 1, '')")
  expect([...(await read(client, 1))]).toEqual([['new', false]])
  while ((await status()).state !== 'done') await sleep(50)
  expect(await status()).toMatchObject({
    client: '1001',
    tables: 1,
    done: 1,
    rows: 2000,
    skipped: [],
  })

  // asked again by a reconnect: it was done
  await client.close()
  client = await subscribed()
  expect((await status()).state).toBe('done')

  const more = ['--tables', 'world\\.i.*', '--rows-per-second', '100']
  expect(await order('start', '1001', ...more)).toMatchObject({ code: 0, stdout: '1001: loads' })
  expect((await read(client, 1)).size).toBeGreaterThan(0)
  expect((await order('pause', '1001')).code).toBe(0)
  while ((await status()).state !== 'paused') await sleep(50)
  expect(await status()).toMatchObject({ rowsPerSecond: 100, table: 'world.items' })
  const list = await order('list')
  expect(list.stdout).toMatch(/^1001 {2}paused {2}0 of 1 tables, \d+ rows, at most 100 rows\/s$/m)
  expect((await order('throttle', '1001', '--rows-per-second', '0')).code).toBe(0)
  expect((await order('resume', '1001')).code).toBe(0)
  expect((await read(client, 1400)).size).toBeGreaterThanOrEqual(1400)
  while ((await status()).state !== 'done') {
    const batch = await client.get({ waitMs: 100 })
    await batch?.ack()
  }
  const over = await order('cancel', '1001')
  expect([over.code, over.stderr]).toEqual([
    2,
    expect.stringContaining('nothing is loaded for 1001'),
  ])
  const nobody = await order('start', '1002')
  expect([nobody.code, nobody.stderr]).toEqual([
    2,
    expect.stringContaining('no client 1002; found 1001'),
  ])
  for (const wrong of [['eat', '1001'], ['start'], ['list', '1001'], ['throttle', '1001']])
    expect((await order(...wrong)).code).toBe(2)
  await client.close()
})
