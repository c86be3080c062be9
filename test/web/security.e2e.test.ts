/** Who may do what at the admin port of a real server, and what nobody learns there. */
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs'
import { get } from 'node:https'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { actions } from '../../src/web/api/actions.ts'
import { reads } from '../../src/web/api/reads.ts'
import { sharedMysql, uniqueDatabase, versions, type MysqlServer } from '../support/mysql.ts'
import { certificate } from '../support/services/certificate.ts'
import { startSluice } from '../support/sluice.ts'
import { AdminRig, OPERATOR, PASSWORD, READER, type Ask } from './rig.ts'

const SOURCE_PASSWORD = 'source-password-of-this-test'
const routes = [...reads, ...actions]
const pathOf = (path: string) => `/api/v1${path.replace(/\{\w+\}/g, 'orders')}`
const basic = (user: string, password: string): Ask => ({
  token: '',
  headers: { authorization: `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}` },
})

let mysql: MysqlServer
let rig: AdminRig
let user: string
beforeAll(async () => {
  mysql = await sharedMysql(versions[0]!)
  user = uniqueDatabase('u')
  await mysql.query(`CREATE USER ${user}@'%' IDENTIFIED BY '${SOURCE_PASSWORD}'`)
  await mysql.query(`GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.* TO ${user}@'%'`)
  const { host, port } = mysql
  rig = await AdminRig.start(mysql, {
    admin: { bodyBytesMax: '1KiB' },
    instance: { source: { host, port, user, password: SOURCE_PASSWORD } },
  })
})
afterAll(async () => {
  await rig[Symbol.asyncDispose]()
  await mysql.query(`DROP USER ${user}@'%'`)
})

test('nothing of the API without a token, nor with a wrong one, whatever the method', async () => {
  const before = await rig.instance()
  for (const { method, path } of routes) {
    const { status, headers, text } = await rig.ask(pathOf(path), { method, token: '' })
    expect([status, `${method} ${path}`]).toEqual([401, `${method} ${path}`])
    expect(headers['www-authenticate']).toMatch(/^Bearer/)
    expect(headers['set-cookie']).toBeUndefined()
    expect(headers['access-control-allow-origin']).toBeUndefined()
    expect(text).not.toContain('orders')
  }
  const wrong = ['x', `${OPERATOR}x`, OPERATOR.slice(0, -1), PASSWORD]
  for (const token of wrong) expect((await rig.ask('/api/v1/me', { token })).status).toBe(401)
  expect(await rig.instance()).toMatchObject({ state: 'running', since: before.since })
})

test('nothing beyond the role: a reader sees, but neither acts nor reads the contents of rows', async () => {
  expect(await rig.api('/me', { token: READER })).toEqual({ name: 'grafana', role: 'readOnly' })
  const forOperators = routes.filter((r) => r.role === 'operator')
  expect(routes.filter((r) => r.method !== 'GET').every((r) => r.role === 'operator')).toBe(true)
  expect(forOperators.map((r) => r.path)).toContain('/instances/{destination}/tail')
  for (const { method, path } of forOperators)
    expect((await rig.ask(pathOf(path), { method, token: READER })).status).toBe(403)
  expect((await rig.instance()).state).toBe('running')
  const refused = await rig.api<{ phase: string; account: string }[]>('/audit')
  expect(
    refused.filter((l) => l.phase === 'refused' && l.account === 'grafana').length,
  ).toBeGreaterThan(5)
})

test('a foreign page cannot act: not by a form, not by a fetch, not by a name that leads here', async () => {
  const stop = '/api/v1/instances/orders/stop'
  const act = async (headers: Record<string, string>) =>
    (await rig.ask(stop, { method: 'POST', headers })).status
  expect(await act({ 'content-type': 'application/x-www-form-urlencoded' })).toBe(415)
  expect(await act({ 'content-type': 'text/plain' })).toBe(415)
  expect(await act({ origin: 'http://evil.example' })).toBe(403)
  expect(await act({ origin: 'null' })).toBe(403)
  expect(await act({ 'sec-fetch-site': 'cross-site' })).toBe(403)
  for (const path of ['/api/v1/me', '/metrics', '/healthz', stop]) {
    expect((await rig.ask(path, { headers: { host: 'evil.example' } })).status).toBe(421)
    expect((await rig.ask(path, { headers: { host: '127.0.0.1.evil.example:80' } })).status).toBe(
      421,
    )
  }
  expect((await rig.ask('/healthz', { headers: { host: `localhost:${rig.port}` } })).status).toBe(
    200,
  )
  const preflight = await rig.ask(stop, {
    method: 'OPTIONS',
    headers: { origin: 'http://evil.example' },
  })
  expect([preflight.status, preflight.headers['access-control-allow-origin']]).toEqual([
    405,
    undefined,
  ])
  expect((await rig.instance()).state).toBe('running')
  const own = `http://127.0.0.1:${rig.port}`
  const dry = {
    method: 'PUT',
    body: { level: 'info' },
    headers: { origin: own, 'sec-fetch-site': 'same-origin' },
  }
  expect((await rig.ask('/api/v1/log', dry)).status).toBe(200)
})

test('no path leads out, and no name of an instance is a path', async () => {
  const before = readdirSync(join(rig.dir, 'data')).sort()
  const paths = [
    '/../../../../etc/passwd',
    '/..%2f..%2fetc%2fpasswd',
    '/api/v1/../../conf/server.yaml',
    '/api/v1/instances/..%2f..%2fconf%2fserver.yaml',
    '/api/v1/instances/..%2fdata%2forders/deadletters',
    '/api/v1/instances/%00/deadletters',
    '/api/v1/instances/%E0%A4%A/deadletters',
    '/api/v1/instances/__proto__',
    '/api/v1/instances/orders/deadletters/..%2f1',
    '//evil.example/api/v1/me',
    '/.env',
  ]
  for (const path of paths) {
    const { status, text } = await rig.ask(path)
    expect([path, status === 404 || status === 400]).toEqual([path, true])
    expect(text).not.toMatch(/root:|canal:|token:/)
  }
  expect(
    (await rig.ask('/api/v1/instances/orders/sinks/__proto__/pause', { method: 'POST' })).status,
  ).toBe(404)
  expect(
    (await rig.ask('/api/v1/instances/..%2fx/position', { method: 'POST', body: { to: null } }))
      .status,
  ).toBe(404)
  for (const name of ['..%2fconf%2fserver', '%2e%2e%2fx', '..%5cx', '%2ftmp%2fx', 'x%00', '.x']) {
    for (const method of ['GET', 'PUT', 'DELETE']) {
      const headers = { 'if-none-match': '*' }
      const body = method === 'PUT' ? { yaml: 'gtid: true' } : undefined
      const { status, text } = await rig.ask(`/api/v1/instances/${name}/config`, {
        method,
        headers: method === 'DELETE' ? { 'if-match': '*' } : headers,
        body,
      })
      expect([name, method, status]).toEqual([name, method, 400])
      expect(text).not.toMatch(/canal:|token:/)
    }
  }
  expect(readdirSync(join(rig.dir, 'instances'))).toEqual(['orders.yaml'])
  expect(readdirSync(join(rig.dir, 'data')).sort()).toEqual(before)
})

test('bodies that are too large, none, or not as expected', async () => {
  const put = (body: unknown, headers = {}) =>
    rig.ask('/api/v1/log', { method: 'PUT', body, headers })
  expect((await put(`{"level":"info","x":"${'x'.repeat(2000)}"}`)).status).toBe(413)
  expect((await put('x'.repeat(5000), { 'transfer-encoding': 'chunked' })).status).toBe(413)
  for (const body of ['', '{', '[]', 'null', '{"level":"loud"}', '{"level":"info","more":1}'])
    expect([body, (await put(body)).status]).toEqual([body, 400])
  expect((await rig.ask('/api/v1/instances?limit=1')).status).toBe(400)
  expect((await rig.ask(`/api/v1/me?${'x'.repeat(5000)}`)).status).toBe(400)
  expect(
    (await rig.ask('/api/v1/instances/orders/stop', { method: 'POST', body: { now: 1 } })).status,
  ).toBe(400)
  const rude = await new Promise<string>((resolve, reject) => {
    let text = ''
    const socket = connect(rig.port, '127.0.0.1', () => socket.write('NONSENSE\r\n\r\n'))
    socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
    socket.on('close', () => resolve(text)).on('error', reject)
  })
  expect(rude).toMatch(/^HTTP\/1.1 400/)
  expect(await rig.api('/server')).toMatchObject({ logLevel: 'info' })
})

test('no secret in any answer, in the metrics, in the log or in the audit log', async () => {
  let all = readFileSync(join(rig.dir, 'data', 'audit.log'), 'utf8') + rig.sluice.log.join('\n')
  for (const { path } of reads) all += (await rig.ask(pathOf(path))).text
  all += (await rig.ask('/metrics')).text + (await rig.ask('/healthz')).text
  all += (await rig.ask('/api/v1/openapi.json')).text
  expect(all).toContain(user)
  for (const secret of [
    SOURCE_PASSWORD,
    OPERATOR,
    READER,
    PASSWORD,
    Buffer.from(`alice:${PASSWORD}`).toString('base64'),
  ])
    expect(all).not.toContain(secret)
  expect(statSync(join(rig.dir, 'data', 'audit.log')).mode & 0o077).toBe(0)
})

test('passwords work, and after ten wrong ones in a row none is looked at; a token still is', async () => {
  expect((await rig.ask('/api/v1/me', basic('alice', PASSWORD))).json).toEqual({
    name: 'alice',
    role: 'operator',
  })
  expect((await rig.ask('/api/v1/me', basic('robot', OPERATOR))).status).toBe(401) // a token is no password
  const statuses: number[] = []
  for (let i = 0; i < 14; i++)
    statuses.push((await rig.ask('/api/v1/me', basic('alice', `guess ${i} of many`))).status)
  expect(statuses[0]).toBe(401)
  expect(statuses.slice(-3)).toEqual([429, 429, 429])
  const right = await rig.ask('/api/v1/me', basic('alice', PASSWORD))
  expect([right.status, Number(right.headers['retry-after']) > 0]).toEqual([429, true])
  expect((await rig.ask('/api/v1/me')).status).toBe(200)
  expect((await rig.ask('/metrics', { token: '' })).text).toMatch(
    /^sluice_admin_refused_total [1-9]/m,
  )
})

test('without accounts the token lies in a file of its own; with TLS there is no plain HTTP; closed metrics', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-admin-'))
  const pem = await certificate(dir)
  const ca = readFileSync(pem.ca)
  const tls = { cert: pem.certificate, key: pem.key }
  const server = { admin: { port: 0, openMetrics: false, tls } }
  const sluice = await startSluice({ dir, instances: {}, server })
  try {
    const { port } = JSON.parse(await sluice.logged('serving metrics')) as { port: number }
    const file = join(dir, 'data', 'admin.token')
    expect(statSync(file).mode & 0o777).toBe(0o600)
    const token = readFileSync(file, 'utf8').trim()
    const ask = (path: string, bearer: string) =>
      new Promise<number>((resolve, reject) => {
        const headers = { authorization: `Bearer ${bearer}`, host: 'localhost' }
        get({ host: '127.0.0.1', port, path, headers, ca, servername: 'localhost' }, (r) => {
          r.resume()
          resolve(r.statusCode!)
        }).on('error', reject)
      })
    expect(await ask('/api/v1/audit', token)).toBe(200)
    expect(await ask('/api/v1/audit', `${token}x`)).toBe(401)
    expect(await ask('/metrics', token)).toBe(200)
    expect(await ask('/metrics', 'x')).toBe(401)
    expect(await ask('/healthz', 'x')).toBe(200)
    await expect(fetch(`http://127.0.0.1:${port}/healthz`)).rejects.toThrow('fetch failed')
    expect(sluice.log.join('\n')).not.toContain(token)
  } finally {
    await sluice.stop()
    rmSync(dir, { recursive: true, force: true })
  }
})

test('there is no admin port unless it is asked for', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-admin-'))
  const sluice = await startSluice({ dir, instances: {} })
  await sluice.logged('serving Canal clients')
  expect(await sluice.stop()).toBe(0)
  expect(sluice.log.join('\n')).not.toContain('serving metrics')
  rmSync(dir, { recursive: true, force: true })
})
