/** The Elasticsearch sink in the conformance suite: on Elasticsearch and on OpenSearch, rows as documents. */
import { hasService, sharedService, type Service } from '../../support/services.ts'
import { conformance, type Destination, type Place } from '../conformance.ts'
import type { Address } from './scene.ts'
import { parseExact, rowFromJson, type Exact, type Row, type TableSpec } from './tables.ts'

class Documents implements Destination {
  readonly promise = 'fenced'
  readonly refused = 'refuse me'
  readonly address: Address
  readonly #server: Service
  #place: Place | undefined

  constructor(server: Service) {
    this.#server = server
    this.address = server
  }
  async #ask(
    method: string,
    path: string,
    body?: object,
  ): Promise<{ status: number; text: string }> {
    const response = await fetch(`http://${this.#server.host}:${this.#server.port}/${path}`, {
      method,
      ...(body && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
    })
    return { status: response.status, text: await response.text() }
  }
  sink(place: Place, { host, port }: Address): object {
    this.#place = place
    return {
      type: 'elasticsearch',
      nodes: `http://${host}:${port}`,
      timeoutMs: '5s',
      cursorIndex: `${place.database}-cursors`,
      // what is no number is refused
      documents: [],
      fields: { v: { type: 'long' } },
      settings: { number_of_replicas: 0 },
    }
  }
  async rows({ database }: Place, table: TableSpec): Promise<Map<string, Row>> {
    const alias = `${database}-${table.name}`
    await this.#ask('POST', `${alias}/_refresh`)
    const { status, text } = await this.#ask('POST', `${alias}/_search`, { size: 10_000 })
    if (status === 404) return new Map()
    if (status !== 200) throw new Error(`search in ${alias}: ${status} ${text.slice(0, 200)}`)
    const found = parseExact(text) as { hits: { hits: { _id: string; _source: Exact }[] } }
    return new Map(found.hits.hits.map((hit) => [hit._id, rowFromJson(table, hit._source)]))
  }
  async fill({ database }: Place): Promise<AsyncDisposable> {
    const block = (on: true | null): Promise<unknown> =>
      this.#ask('PUT', `${database}-*/_settings`, { 'index.blocks.read_only_allow_delete': on })
    await block(true)
    return { [Symbol.asyncDispose]: async () => void (await block(null)) }
  }
  async forget({ database }: Place): Promise<void> {
    await this.#ask('DELETE', `${database}-cursors`)
  }
  async [Symbol.asyncDispose](): Promise<void> {
    const { text } = await this.#ask(
      'GET',
      `_cat/indices/${this.#place?.database}*?h=index&format=json`,
    )
    for (const { index } of JSON.parse(text) as { index: string }[])
      await this.#ask('DELETE', index)
  }
}

for (const name of ['elasticsearch', 'opensearch'] as const) {
  if (hasService(name)) conformance(name, async () => new Documents(sharedService(name)))
}
