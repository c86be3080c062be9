/** The real server process on a real MySQL: instances come and go with their files, and it stops when it is told to. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { beforeAll, expect, test } from 'vitest'
import { State } from '../../src/store/state.ts'
import { checkout, run, start } from '../commands/run.ts'
import type { Running } from '../commands/run.ts'
import { sharedMysql, versions } from '../support/mysql.ts'
import type { MysqlServer } from '../support/mysql.ts'

let mysql: MysqlServer
beforeAll(async () => {
  mysql = await sharedMysql(versions[0]!)
})
const source = (more: object = {}) => {
  const { host, port, user, password } = mysql
  return {
    source: { host, port, user, password, ...more },
    retry: { minMs: '50ms', maxMs: '100ms' },
  }
}
/** Starts a server, runs `body`, and stops it; returns all it logged. */
async function serving(c: { config: string }, body: (server: Running) => Promise<void>) {
  const server = start(['serve', '-c', c.config])
  try {
    await server.printed('serving Canal clients')
    await body(server)
  } finally {
    server.child.kill('SIGTERM')
  }
  const { code, stdout, stderr } = await server.result
  expect([code, stderr]).toEqual([0, ''])
  expect(stdout).toContain('"msg":"stopped"')
  const lines = stdout
    .trim()
    .split('\n')
    .map((l) => JSON.parse(l) as Record<string, unknown>)
  return { stdout, lines, messages: lines.map((l) => String(l['msg'])) }
}

test('an instance runs, its origin is durable, and SIGTERM ends the server with exit code 0', async () => {
  using c = checkout({ orders: source() })
  const { lines } = await serving(c, (server) => server.printed('instance orders running'))
  const running = lines.find((l) => l['state'] === 'running')
  expect(running).toMatchObject({
    instance: 'orders',
    level: 'info',
    position: expect.stringMatching(/^\S+\.\d+:\d+$/) as string,
  })
  expect(running).toHaveProperty('timezone')
  const { values } = State.read(join(c.dir, 'data', 'orders.sqlite'))
  expect(values.get('epoch')).toBe('1')
  const origin = JSON.parse(values.get('origin')!) as { file: string; offset: number }
  expect(`${origin.file}:${origin.offset}`).toBe(running?.['position'])
  // The origin of the first start stays, whatever `start` says later.
  c.write('orders', { ...source(), start: 'earliest' })
  await serving(c, (server) => server.printed('instance orders running'))
  expect(State.read(join(c.dir, 'data', 'orders.sqlite')).values.get('origin')).toBe(
    values.get('origin'),
  )
})

test('files that are added, edited and removed start, restart and stop that instance alone', async () => {
  using c = checkout({ a: source() })
  const { messages } = await serving(c, async (server) => {
    await server.printed('instance a running')
    c.write('b', source())
    await server.printed('instance b running')
    c.write('b', `${readFileSync(c.file('b'), 'utf8')}# a comment changes nothing\n`)
    c.write('c', 'enabled: false')
    await server.printed('instance c is disabled')
    c.write('b', { ...source(), gtid: true })
    await server.printed('instance b: its file was changed, restarting it')
    c.write('b', 'source: {prot: 1}')
    await server.printed('instance b: its file has problems; it goes on with what it had')
    rmSync(c.file('b'))
    await server.printed('instance b: its file was removed')
    await server.printed('instance b stopped')
  })
  expect(messages.filter((m) => m.startsWith('instance a '))).toEqual([
    'instance a connecting',
    'instance a running',
    'instance a stopped',
  ])
  expect(messages.filter((m) => m.includes('restarting'))).toHaveLength(1)
})

test('problems, unreachable sources and refused passwords stay with their instance, and end with a good edit', async () => {
  const secret = 'hunter2-not-the-password'
  using c = checkout({
    broken: 'source: {prot: 1}',
    denied: source({ password: secret }),
    gone: source({ port: 1 }),
    good: source(),
  })
  const { stdout, lines } = await serving(c, async (server) => {
    await server.printed('instance good running')
    await server.printed('instance broken: its file has problems')
    await server.printed('instance denied failed')
    await server.printed('instance gone tries again in')
    for (const name of ['broken', 'denied', 'gone']) c.write(name, source())
    for (const name of ['broken', 'denied', 'gone'])
      await server.printed(`instance ${name} running`)
  })
  expect(stdout).not.toContain(secret)
  expect(lines.find((l) => l['state'] === 'failed')).toMatchObject({
    instance: 'denied',
    level: 'error',
    code: 'ACCESS_DENIED',
  })
  expect(lines.find((l) => l['state'] === 'retrying')).toMatchObject({
    instance: 'gone',
    level: 'warn',
    code: 'CONNECT_FAILED',
  })
  expect(lines.find((l) => l['instance'] === 'broken')).toMatchObject({
    problems: [expect.stringContaining('broken.yaml:1:10: source.prot: unknown key')],
  })
})

test('a second server on the same state says who holds it, and takes over when it is free', async () => {
  using c = checkout({ orders: source() })
  await serving(c, async (first) => {
    await first.printed('instance orders running')
    await serving(c, async (second) => {
      await second.printed(`is in use by another Sluice (process ${first.child.pid}`)
      first.child.kill('SIGTERM')
      await second.printed('instance orders running')
    })
  })
})

test('SIGINT is SIGTERM; a port in use and a missing folder are said plainly', async () => {
  using c = checkout({ orders: source() })
  const server = start(['serve', '-c', c.config])
  await server.printed('serving Canal clients')
  server.child.kill('SIGINT')
  expect((await server.result).code).toBe(0)

  const taken = createServer()
  await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve))
  const { port } = taken.address() as AddressInfo
  writeFileSync(c.config, `canal: {port: ${port}}`)
  const refused = await run('serve', '-c', c.config)
  taken.close()
  expect(refused.code).toBe(1)
  expect(refused.stderr).toMatch(new RegExp(`^sluice: .*127\\.0\\.0\\.1:${port}`))
  expect(refused.stderr).not.toContain('    at ')
  writeFileSync(c.config, 'instancesDir: ../nowhere\ncanal: {port: 0}')
  await serving(c, (s) => s.printed('cannot list the instances folder'))
})

test('a port beyond this machine without user and TLS is warned about', async () => {
  using open = checkout({}, { canal: { host: '0.0.0.0', port: 0 } })
  const { lines } = await serving(open, (s) => s.printed('is open beyond this machine'))
  expect(lines.find((l) => l['level'] === 'warn')).toMatchObject({
    missing: ['canal.user', 'canal.tls'],
  })
  using closed = checkout({}, { canal: { port: 0, user: 'u', password: 'pässword' } })
  const quiet = await serving(closed, async () => {})
  expect(quiet.stdout).not.toContain('beyond')
  expect(quiet.stdout).not.toContain('pässword')
})
