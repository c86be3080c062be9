/**
 * The ceiling of the Elasticsearch sink: the same client sends bulk bodies that were made beforehand, as large and as many
 * side by side as the sink's are by default, with the same ids, versions and mappings. `{url, rows}` as its argument;
 * prints `{seconds}`.
 */
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { SluiceError } from '../../src/errors.ts'
import { Client } from '../../src/sinks/elasticsearch/client.ts'

const { url, rows } = JSON.parse(process.argv[2]!) as { url: string; rows: number }
const ACTIONS = 5000
const SIDE_BY_SIDE = 2
const INDEX = 'ceiling-v1'

const client = await Client.open({
  nodes: [url],
  verify: true,
  compress: false,
  timeoutMs: 60_000,
})
const keyword = { type: 'keyword', ignore_above: 1024 }
const text = { type: 'text', fields: { keyword } }
const properties = { id: { type: 'long' }, n: { type: 'integer' }, a: text, b: text }
await client.request('PUT', `/${INDEX}`, { body: JSON.stringify({ mappings: { properties } }) })

/** As the bench's narrow table has them. */
const letters = (id: number, count: number, width: number): string =>
  createHash('sha256').update(String(id)).digest('hex').slice(0, count).padEnd(width, 'x')
const bodies: Buffer[] = []
for (let at = 0; at < rows; at += ACTIONS) {
  let body = ''
  for (let id = at + 1; id <= Math.min(rows, at + ACTIONS); id++) {
    const version = `"version":${(1n << 53n) + (1n << 32n) + BigInt(id)}`
    body += `{"index":{"_index":"${INDEX}","version_type":"external_gte",${version},"_id":"${id}"}}\n`
    body += `{"id":${id},"n":${(id * 7919) % 1000003},"a":"${letters(id, 32, 120)}","b":"${letters(id, 40, 60)}"}\n`
  }
  bodies.push(Buffer.from(body))
}
const begin = performance.now()
const query = { filter_path: 'errors,items.*.status,items.*.error' }
/** As any client of it: what its memory has no room for at the moment comes again. */
const send = async (body: Buffer): ReturnType<typeof client.request> => {
  for (;;) {
    try {
      return await client.request('POST', '/_bulk', { body, query })
    } catch (error) {
      if (!(error instanceof SluiceError) || error.code !== 'SINK_UNAVAILABLE') throw error
      await sleep(100)
    }
  }
}
const worker = async (): Promise<void> => {
  for (let body = bodies.pop(); body; body = bodies.pop()) {
    const answer = await send(body)
    if (!answer.text.startsWith('{"errors":false')) throw new Error(answer.text.slice(0, 500))
  }
}
await Promise.all(Array.from({ length: SIDE_BY_SIDE }, worker))
console.log(JSON.stringify({ seconds: (performance.now() - begin) / 1000 }))
await client.request('DELETE', `/${INDEX}`)
await client.close()
