/** The example of docs/diagnostics.md, as it stands there, in a real server: its spans come out of what the channels say. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { sharedMysql, uniqueDatabase, versions } from './support/mysql.ts'
import { freePort, startSluice } from './support/sluice.ts'

interface Span {
  readonly name: string
  readonly startTimeUnixNano: string
  readonly endTimeUnixNano: string
  readonly attributes: { key: string; value: { stringValue: string } }[]
  readonly status: { code: number; message?: string }
}
const of = (span: Span, key: string): string | undefined =>
  span.attributes.find((a) => a.key === key)?.value.stringValue

test('makes spans of writes, good and bad, and of batches', async () => {
  const [, example] = /```js\n([\s\S]*?)```/.exec(readFileSync('docs/diagnostics.md', 'utf8'))!
  const spans: Span[] = []
  let taken = 0
  const collector = createServer((request, response) => {
    let text = ''
    request.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
    request.on('end', () => {
      if (request.url === '/v1/traces') {
        const { resourceSpans } = JSON.parse(text) as {
          resourceSpans: { scopeSpans: { spans: Span[] }[] }[]
        }
        spans.push(...resourceSpans.flatMap((r) => r.scopeSpans.flatMap((s) => s.spans)))
        response.end('{}')
        return
      }
      // The target of the sink: it fails once, then takes everything.
      response.statusCode = taken++ === 0 ? 503 : 200
      response.end()
    })
  })
  await new Promise<void>((resolve) => collector.listen(0, '127.0.0.1', resolve))
  const { port: collectorPort } = collector.address() as AddressInfo
  const base = `http://127.0.0.1:${collectorPort}`
  const dir = mkdtempSync(join(tmpdir(), 'sluice-diagnostics-'))
  writeFileSync(join(dir, 'spans.mjs'), example!)
  const mysql = await sharedMysql(versions[0]!)
  const database = uniqueDatabase('diag')
  await mysql.query(`CREATE DATABASE ${database}; CREATE TABLE ${database}.t (id INT PRIMARY KEY)`)
  const { host, port, user, password } = mysql
  const env = {
    NODE_OPTIONS: `--import=${join(dir, 'spans.mjs')}`,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `${base}/v1/traces`,
  }
  Object.assign(process.env, env)
  const starting = startSluice({
    dir,
    port: await freePort(),
    instances: {
      orders: {
        source: { host, port, user, password },
        filter: { include: `${database}\\..*` },
        sinks: {
          hook: { type: 'http', url: `${base}/hook`, retry: { minMs: '10ms', maxMs: '20ms' } },
        },
      },
    },
  })
  for (const name of Object.keys(env)) Reflect.deleteProperty(process.env, name)
  const sluice = await starting
  try {
    await sluice.logged('instance orders running')
    await mysql.query(`INSERT INTO ${database}.t VALUES (1), (2)`)
    const found = (fits: (span: Span) => boolean): Span | undefined => spans.find(fits)
    const good = (s: Span) => s.name === 'write hook' && s.status.code === 1
    const bad = (s: Span) => s.name === 'write hook' && s.status.code === 2
    const batch = (s: Span) => s.name === 'batch sink:hook'
    while (!found(good) || !found(bad) || !found(batch)) await sleep(50)
    const [wrote, failed, given] = [found(good)!, found(bad)!, found(batch)!]
    expect([of(wrote, 'instance'), of(wrote, 'rows'), of(wrote, 'refused')]).toEqual([
      'orders',
      '2',
      '0',
    ])
    expect([of(failed, 'rows'), failed.status.message]).toEqual([
      '0',
      expect.stringContaining('503'),
    ])
    expect(Number(of(given, 'changes'))).toBeGreaterThan(0)
    expect(Number(of(given, 'bytes'))).toBeGreaterThan(0)
    for (const { startTimeUnixNano: from, endTimeUnixNano: to } of spans)
      expect(BigInt(to) >= BigInt(from)).toBe(true)
  } finally {
    await sluice.stop()
    await mysql.query(`DROP DATABASE ${database}`)
    collector.close()
    collector.closeAllConnections()
    rmSync(dir, { recursive: true, force: true })
  }
})
