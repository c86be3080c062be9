/** Commands that steer a running server through its admin port, and what they say without one. */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { sharedMysql } from '../support/mysql.ts'
import { freePort } from '../support/sluice.ts'
import { AdminRig } from '../web/rig.ts'
import { checkout, run } from './run.ts'

let rig: AdminRig
let config: string
beforeAll(async () => {
  rig = await AdminRig.start(await sharedMysql('9.7'), { admin: { port: await freePort() } })
  config = join(rig.dir, 'conf', 'server.yaml')
})
afterAll(() => rig[Symbol.asyncDispose]())
const sluice = (...args: string[]) => run(...args, '-c', config)

test('list, show, stop, start and restart', async () => {
  const listed = await sluice('instances', 'list')
  expect(listed).toMatchObject({ code: 0, stderr: '' })
  expect(listed.stdout).toMatch(/^orders {2}running {5}\S+\.\d+:\d+.*, 0 clients, 0 sinks\n$/)
  const { stdout } = await sluice('instances', 'show', 'orders', '--json')
  expect(JSON.parse(stdout)).toMatchObject({ destination: 'orders', state: 'running' })

  expect((await sluice('instances', 'stop', 'orders')).stdout).toBe('orders: stop is done\n')
  const held = await sluice('instances', 'list', '--json')
  expect(JSON.parse(held.stdout)).toMatchObject({
    server: 'running',
    instances: [{ state: 'held' }],
  })
  const refused = await sluice('instances', 'restart', 'orders')
  expect(refused.code).toBe(1)
  expect(refused.stderr).toContain('instance orders does not run: it was stopped by an operator')
  await sluice('instances', 'start', 'orders')
  await rig.when((view) => view.state === 'running')
  await sluice('instances', 'restart', 'orders')
  await rig.when((view) => view.state === 'running')

  const unknown = await sluice('instances', 'stop', 'order')
  expect(unknown).toMatchObject({ code: 2 })
  expect(unknown.stderr).toContain('did you mean "orders"?')
})

test('a position is set through the running server, checked on the source', async () => {
  const client = await rig.client()
  await rig.insert(1)
  const batch = await client.get({ waitMs: 5000 })
  await batch!.ack()
  await client.close()
  const set = await sluice('position', 'orders', 'set', 'latest')
  expect(set).toMatchObject({ code: 0, stderr: '' })
  expect(set.stdout).toMatch(/client 1001: \S+ → .*\norigin .* → /)
  await rig.when((view) => view.state === 'running')
  const wrong = await sluice('position', 'orders', 'set', 'nothing.000001:4')
  expect(wrong.code).toBe(1)
  expect(wrong.stderr).toContain('nothing.000001')
  expect((await sluice('position', 'orders', 'reset')).stdout).toContain('forgotten: the origin')
  await rig.when((view) => view.state === 'running')
})

test('without a server the files are read, and what needs one says so', async () => {
  using files = checkout(
    { orders: {}, broken: 'filter: 1', off: { enabled: false } },
    {
      admin: {
        port: await freePort(),
        accounts: { me: { role: 'operator', token: 'x'.repeat(20) } },
      },
    },
  )
  const { code, stdout } = await run('instances', 'list', '--json', '-c', files.config)
  expect(code).toBe(0)
  const { server, instances } = JSON.parse(stdout) as {
    server: null
    instances: { state: string }[]
  }
  expect([server, instances.map((i) => i.state)]).toEqual([
    null,
    ['invalid', 'disabled', 'stopped'],
  ])
  const start = await run('instances', 'start', 'orders', '-c', files.config)
  expect(start.code).toBe(1)
  expect(start.stderr).toMatch(
    /start needs the running server, and nobody listens on 127\.0\.0\.1:\d+/,
  )
})

test('types of the tables as they are', async () => {
  const { code, stdout } = await sluice('types', 'orders')
  expect(code).toBe(0)
  expect(stdout).toContain(`"${rig.database}.items": `)
  expect(stdout).toContain('  id: number // int\n  v: string | null // varchar(2000)\n')
  const none = await sluice('types', 'orders', '--filter', 'nothing\\..*')
  expect(none.code).toBe(2)
})

test('completion of the shell that this machine has', async () => {
  const { stdout } = await run('completion', 'bash')
  const complete = (...words: string[]): string =>
    execFileSync('bash', [
      '-c',
      `${stdout}\nCOMP_WORDS=(${words.map((w) => `'${w}'`).join(' ')}); COMP_CWORD=${words.length - 1}; _sluice; echo "\${COMPREPLY[*]}"`,
    ])
      .toString()
      .trim()
  expect(complete('sluice', 'inst')).toBe('instances')
  expect(complete('sluice', 'position', 'se')).toBe('set')
  expect(complete('sluice', 'tail', '--fr')).toBe('--from')
})
