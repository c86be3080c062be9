/** The API of a real server on a real MySQL: what it shows is true and as documented, what it does happens. */
import { mkdirSync } from 'node:fs'
import { get } from 'node:http'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import * as z from 'zod'
import { actions } from '../../src/web/api/actions.ts'
import { openApi } from '../../src/web/api/openapi.ts'
import { reads } from '../../src/web/api/reads.ts'
import { sharedMysql, versions, type MysqlServer } from '../support/mysql.ts'
import { AdminRig, OPERATOR, READER } from './rig.ts'

let mysql: MysqlServer
let rig: AdminRig
beforeAll(async () => {
  mysql = await sharedMysql(versions[0]!)
  const folder = join('/tmp', `sluice-api-${process.pid}`)
  mkdirSync(folder, { recursive: true })
  rig = await AdminRig.start(mysql, {
    instance: { sinks: { lines: { type: 'file', path: join(folder, 'lines') } } },
  })
})
afterAll(() => rig[Symbol.asyncDispose]())

const routes = [...reads, ...actions]

describe('what it shows', () => {
  test('every read answers as its schema says, and as the OpenAPI document says', async () => {
    await rig.insert(1)
    await rig.when((v) => v.sinks[0]?.totals.rows === 1)
    const document = await rig.api<ReturnType<typeof openApi>>('/openapi.json')
    expect(document).toEqual(
      JSON.parse(JSON.stringify(openApi(routes, document['info'] ? versionOf(document) : ''))),
    )
    const values = { destination: 'orders', database: rig.database, table: 'items' }
    const asked = reads.filter((r) => !r.path.includes('{id}'))
    expect(asked.length).toBeGreaterThan(8)
    for (const { path, reply } of asked) {
      const full = path.replace(/\{(\w+)\}/g, (_, name: keyof typeof values) => values[name])
      const answer = await rig.api(full)
      const result = reply.safeParse(answer)
      expect(result.error && `${path}: ${z.prettifyError(result.error)}`).toBeUndefined()
      const paths = document['paths'] as Record<
        string,
        Record<string, { responses: Record<string, { content: object }> }>
      >
      const described = paths[path]!['get']!.responses['200']!.content as Record<
        string,
        { schema: Parameters<typeof z.fromJSONSchema>[0] }
      >
      expect(
        z.fromJSONSchema(described['application/json']!.schema).safeParse(answer).success,
        path,
      ).toBe(true)
    }
  })
  test('positions, lags, throughput and totals follow what happens', async () => {
    const before = await rig.instance()
    const client = await rig.client()
    await rig.insert(10)
    await rig.insert(11)
    const batch = await client.get({ waitMs: 5000 })
    const view = await rig.when((v) =>
      v.clients.some((c) => c.client === '1001' && c.outstandingBatches > 0),
    )
    const mine = view.clients.find((c) => c.client === '1001')!
    expect(mine).toMatchObject({ kind: 'client', state: 'live', subscribed: true })
    expect(mine.lag.ack.bytes).toBeGreaterThan(0)
    expect(view.totals.transactions).toBeGreaterThan(before.totals.transactions)
    expect(view.totals.logBytes).toBeGreaterThan(before.totals.logBytes)
    await rig.when((v) => v.rates.transactions > 0) // rates are sampled every second
    expect(view.source?.address).toBe(`${mysql.host}:${mysql.port}`)
    await batch!.ack()
    const acked = await rig.when((v) => {
      const c = v.clients.find((one) => one.client === '1001')
      return c !== undefined && c.outstandingBatches === 0 && c.totals.ackedBatches > 0
    })
    expect(acked.clients.find((c) => c.client === '1001')!.totals.changes).toBeGreaterThan(0)
    await rig.when((v) => v.lag.read.bytes === 0)
    await client.close()
  })
  test('the definitions of a table with its history', async () => {
    await mysql.query(`ALTER TABLE ${rig.database}.items ADD COLUMN w INT`)
    await rig
      .insert(20)
      .catch(() => mysql.query(`INSERT INTO ${rig.database}.items VALUES (20, 'x', 1)`))
    const versionsOf = () =>
      rig.api<{ columns: { name: string }[]; state: string }[]>(
        `/instances/orders/tables/${rig.database}/items`,
      )
    const found = await rig.until(async () => {
      const list = await versionsOf()
      return list.length > 1 && list
    })
    expect(found.map((v) => v.columns.map((c) => c.name))).toEqual([
      ['id', 'v'],
      ['id', 'v', 'w'],
    ])
    await rig.act('POST', `/instances/orders/tables/${rig.database}/items/reload`)
    await mysql.query(`INSERT INTO ${rig.database}.items VALUES (21, 'x', 1)`)
    await rig.when((v) => v.state === 'running')
    await rig.until(async () => (await versionsOf()).some((v) => v.state === 'unknown'))
  })
  test('a live tail shows changes as they are read, through a filter', async () => {
    const path = `/api/v1/instances/orders/tail?filter=${encodeURIComponent(`${rig.database}\\.items`)}`
    const headers = { authorization: `Bearer ${OPERATOR}` }
    const seen = await new Promise<string>((resolve, reject) => {
      const outgoing = get({ host: '127.0.0.1', port: rig.port, path, headers }, (incoming) => {
        expect(incoming.headers['content-type']).toBe('text/event-stream')
        let text = ''
        let written = false
        incoming.setEncoding('utf8').on('data', (chunk: string) => {
          text += chunk
          if (!written) {
            written = true
            mysql
              .query(`INSERT INTO ${rig.database}.items VALUES (30, 'live <b>', 1)`)
              .catch(reject)
          }
          if (text.includes('live <b>')) {
            outgoing.destroy()
            resolve(text)
          }
        })
      })
      outgoing.on('error', reject)
    })
    const data = /event: change\ndata: (.*live.*)\n/.exec(seen)![1]!
    expect(JSON.parse(data)).toMatchObject({
      kind: 'insert',
      table: 'items',
      after: { id: 30, v: 'live <b>' },
    })
  })
})

describe('what it does', () => {
  test('stops, starts and restarts an instance; what was stopped stays so', async () => {
    await rig.act('POST', '/instances/orders/stop')
    expect(await rig.instance()).toMatchObject({
      state: 'held',
      error: { message: 'it was stopped by an operator' },
    })
    expect((await rig.ask('/healthz')).status).toBe(200)
    await rig.act('POST', '/instances/orders/start')
    await rig.when((v) => v.state === 'running')
    const before = await rig.instance()
    await rig.act('POST', '/instances/orders/restart')
    await rig.when((v) => v.state === 'running' && v.since !== before.since)
  })
  test('sets a position and forgets it; a client is rolled back and dropped', async () => {
    const client = await rig.client(7)
    await mysql.query(`INSERT INTO ${rig.database}.items VALUES (40, 'x', 1)`)
    const batch = await rig.until(async () => (await client.get({ waitMs: 1000 })) ?? false)
    await rig.act('POST', '/instances/orders/clients/7/rollback')
    await batch.ack().catch(() => {}) // comes too late: it was taken back
    const again = await rig.until(async () => (await client.get({ waitMs: 1000 })) ?? false)
    expect(again.id).not.toBe(batch.id)
    expect(again.changes[0]?.position).toEqual(batch.changes[0]?.position)
    await again.ack()
    const [file] = (await rig.instance()).position!.text.split(':')
    const { changes } = await rig.act<{ changes: string[] }>('POST', '/instances/orders/position', {
      to: `${file}:4`,
      client: '7',
    })
    expect(changes[0]).toContain(`→ ${file}:4`)
    await rig.when((v) => v.clients.some((c) => c.client === '7' && c.acked.text === `${file}:4`))
    const wrong = await rig.ask('/api/v1/instances/orders/position', {
      method: 'POST',
      body: { to: 'nonsense' },
    })
    expect([wrong.status, wrong.text]).toEqual([
      400,
      expect.stringContaining('file:offset like binlog.000123:4567, a GTID set'),
    ])
    await client.close()
    await rig.when((v) => v.clients.some((c) => c.client === '7' && c.state === 'away'))
    await rig.act('DELETE', '/instances/orders/clients/7')
    expect((await rig.instance()).clients.map((c) => c.client)).not.toContain('7')
    expect(
      (await rig.ask('/api/v1/instances/orders/clients/sink:lines', { method: 'DELETE' })).status,
    ).toBe(409)
  })
  test('pauses and resumes a sink', async () => {
    await rig.act('POST', '/instances/orders/sinks/lines/pause')
    await rig.when((v) => v.sinks[0]!.state === 'paused')
    await rig.act('POST', '/instances/orders/sinks/lines/resume')
    await rig.when((v) => v.sinks[0]!.state === 'running')
    expect(
      (await rig.ask('/api/v1/instances/orders/sinks/none/pause', { method: 'POST' })).status,
    ).toBe(404)
  })
  test('checks an instance file and says what it would do', async () => {
    interface DryRun {
      valid: boolean
      problems: { line: number; message: string }[]
      tables: { names: string[] } | null
      sample: object[] | null
    }
    const dry = (yaml: string, connect = false) =>
      rig.act<DryRun>('POST', '/dry-run', { destination: 'new', yaml, connect })
    const bad = await dry('source: {prot: 1}')
    expect(bad).toMatchObject({
      valid: false,
      problems: [{ line: 1, message: expect.stringContaining('did you mean "port"') as string }],
    })
    const { host, port, user, password } = mysql
    const yaml = JSON.stringify({
      source: { host, port, user, password },
      filter: { include: `${rig.database}\\..*` },
    })
    // The newest file of the log is what is shown; others write to it too.
    await mysql.query(`FLUSH BINARY LOGS; INSERT INTO ${rig.database}.items VALUES (50, 'x', 1)`)
    const good = await dry(yaml, true)
    expect(good).toMatchObject({
      valid: true,
      tables: { wanted: 1, names: [`${rig.database}.items`] },
    })
    expect(good.sample).toContainEqual(expect.objectContaining({ kind: 'insert', table: 'items' }))
  })
  test('creates, edits and removes an instance by its file, with what was seen of it', async () => {
    interface File {
      yaml: string
      tag: string
    }
    const path = '/api/v1/instances/extra/config'
    const put = (yaml: string, headers: Record<string, string>) =>
      rig.ask(path, { method: 'PUT', body: { yaml }, headers })
    const { host, port, user, password } = mysql
    const source = { host, port, user, password: password || 'none' }
    const yaml = stringify({ enabled: false, source })
    expect((await rig.ask(path)).status).toBe(404)
    expect((await put(yaml, {})).status).toBe(428)
    expect((await put(yaml, { 'if-match': 'nonsense' })).status).toBe(400)
    const wrong = await put('enabled: 1\nsource: {prot: 1}\n', { 'if-none-match': '*' })
    expect([wrong.status, wrong.json]).toMatchObject([
      422,
      {
        error: { code: 'CONFIG_INVALID', problems: [{ line: 1 }, { line: 2, key: 'source.prot' }] },
      },
    ])
    expect((await put(yaml, { 'if-none-match': '*' })).status).toBe(200)
    expect(await rig.api('/instances/extra')).toMatchObject({ state: 'disabled' })
    expect((await put(yaml, { 'if-none-match': '*' })).status).toBe(412)
    const read = await rig.ask(path)
    const file = read.json as File
    expect(read.headers.etag).toBe(`"${file.tag}"`)
    expect(file.yaml).toMatch(/password: \(hidden [0-9a-f]{8}\)/)
    // The dry run knows the hidden password too.
    const dry = await rig.act<{ valid: boolean; problems: unknown[] }>('POST', '/dry-run', {
      destination: 'extra',
      yaml: file.yaml,
    })
    expect(dry).toMatchObject({ valid: true, problems: [] })
    const seen = { 'if-match': read.headers.etag! }
    const edited = await put(file.yaml.replace('enabled: false', 'enabled: true'), seen)
    expect(edited.status).toBe(200)
    expect((await rig.api<{ state: string }>('/instances/extra')).state).not.toBe('disabled')
    const stale = await rig.ask(path, { method: 'DELETE', headers: seen })
    expect([stale.status, stale.text]).toEqual([
      412,
      expect.stringContaining('was changed since it was read'),
    ])
    const { after } = edited.json as { after: string }
    const removed = await rig.ask(path, {
      method: 'DELETE',
      headers: { 'if-match': `"${after}"` },
    })
    expect(removed.json).toEqual({ before: after, after: null })
    expect((await rig.ask('/api/v1/instances/extra')).status).toBe(404)
    const lines = await rig.api<{ action: string; phase: string; details: string }[]>('/audit')
    const [last] = lines.filter((l) => l.action === 'PUT /instances/extra/config')
    expect(last).toMatchObject({
      phase: 'done',
      details: `sha256 before ${file.tag}, after ${after}`,
    })
    expect(lines.every((l) => !l.details.includes(source.password))).toBe(true)
  })
  test('changes the level of the log, by the API and by SIGUSR2', async () => {
    await rig.act('PUT', '/log', { level: 'error' })
    expect(await rig.api('/server')).toMatchObject({ logLevel: 'error' })
    const lines = rig.sluice.log.length
    await rig.act('POST', '/instances/orders/restart')
    await rig.when((v) => v.state === 'running')
    expect(rig.sluice.log.slice(lines)).toEqual([])
    rig.sluice.process.kill('SIGUSR2')
    await rig.until(
      async () => (await rig.api<{ logLevel: string }>('/server')).logLevel === 'info',
    )
    rig.sluice.process.kill('SIGUSR2')
    await rig.until(
      async () => (await rig.api<{ logLevel: string }>('/server')).logLevel === 'debug',
    )
  })
  test('every action stands in the audit log, with who and how it went', async () => {
    const lines =
      await rig.api<{ action: string; phase: string; account: string; details: string }[]>(
        '/audit?limit=500',
      )
    const phases = (action: string) =>
      lines.filter((l) => l.action === action && l.account === 'robot').map((l) => l.phase)
    expect(phases('POST /instances/orders/stop')).toEqual(['done', 'asked'])
    expect(phases('DELETE /instances/orders/clients/7')).toEqual(['done', 'asked'])
    expect(phases('POST /instances/orders/position')).toEqual(['failed', 'asked', 'done', 'asked'])
    const dry = lines.filter((l) => l.action === 'POST /dry-run').map((l) => l.details)
    expect(dry.every((text) => !text.includes('source'))).toBe(true)
    expect((await rig.ask('/api/v1/audit', { token: READER })).status).toBe(403)
  })
})

describe('metrics', () => {
  test('are there under the names of Canal and ours, with what happened', async () => {
    const { text, headers } = await rig.ask('/metrics', { token: '' })
    expect(headers['content-type']).toContain('version=0.0.4')
    const value = (name: string): number =>
      Number(
        text
          .split('\n')
          .find((line) => line.startsWith(name))
          ?.split(' ')
          .at(-1),
      )
    expect(value('canal_instance{destination="orders"')).toBe(1)
    expect(value('sluice_instance_state{destination="orders",state="running"}')).toBe(1)
    expect(
      value('sluice_sink_state{destination="orders",sink="lines",type="file",state="running"}'),
    ).toBe(1)
    expect(value('process_resident_memory_bytes')).toBeGreaterThan(1e7)
    expect(value('canal_instance_client_bytes{destination="orders"}')).toBeGreaterThan(0)
    for (const line of text.trim().split('\n'))
      expect(line).toMatch(/^(# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"\n]*",?)*\})? [\d.e+-]+)$/)
  })
})

const versionOf = (document: object): string =>
  (document as { info: { version: string } }).info.version
