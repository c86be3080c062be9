/**
 * The ceiling of the Elasticsearch sink: the same client sends bulk bodies that were made beforehand, as large and as many
 * side by side as the sink's are by default, with the same ids, versions and mappings.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { SluiceError } from '../../src/errors.ts'
import { Client } from '../../src/sinks/elasticsearch/client.ts'
import { all, narrow, timed, url } from './common.ts'

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

const bodies: Buffer[] = []
for (let at = 0; at < all; at += ACTIONS) {
  let body = ''
  for (let id = at; id < Math.min(all, at + ACTIONS); id++) {
    const version = `"version":${(1n << 53n) + (1n << 32n) + BigInt(id)}`
    body += `{"index":{"_index":"${INDEX}","version_type":"external_gte",${version},"_id":"${id}"}}\n`
    body += `${JSON.stringify(narrow(id))}\n`
  }
  bodies.push(Buffer.from(body))
}
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
await timed(async (from, to) => {
  let next = from / ACTIONS
  const worker = async (): Promise<void> => {
    while (next * ACTIONS < to) {
      const answer = await send(bodies[next++]!)
      if (!answer.text.startsWith('{"errors":false')) throw new Error(answer.text.slice(0, 500))
    }
  }
  await Promise.all(Array.from({ length: SIDE_BY_SIDE }, worker))
})
