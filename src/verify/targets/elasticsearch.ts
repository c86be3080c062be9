/**
 * Elasticsearch and OpenSearch: documents, one for each row. The sink's own writer says what a document would be; ids of the
 * target are read backwards to rows.
 */
import type { Column } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { createLogger } from '../../logger.ts'
import { ElasticSink, type Documented } from '../../sinks/elasticsearch.ts'
import { Bulk } from '../../sinks/elasticsearch/bulk.ts'
import { Client } from '../../sinks/elasticsearch/client.ts'
import { DocumentBatch } from '../../sinks/elasticsearch/documents.ts'
import { scan } from '../../sinks/elasticsearch/index/sweep.ts'
import type { ElasticOptions } from '../../sinks/elasticsearch/options.ts'
import type { SinkBatch } from '../../sinks/shape/batch.ts'
import type { SinkRow, TargetTable } from '../../sinks/shape/row.ts'
import type { SinkContext } from '../../sinks/sink.ts'
import { Backwards } from './backwards.ts'
import type { Bound, Destination, Extra, TargetKey, Unlike } from '../target.ts'
import { parseJson, sameJson, shownMembers } from './json.ts'

const META = 'sluice' // our own field in a document
const READ_AT_ONCE = 500

/** A document by its address; what of it is compared. */
interface Address {
  readonly id: string
  readonly routing: string | undefined
}
interface Wanted extends Address {
  readonly source: unknown
}
interface Compared extends Documented {
  readonly table: TargetTable
  readonly backwards: Backwards
}
interface Fetched {
  readonly found?: boolean
  readonly _source?: Record<string, unknown>
}

export class ElasticDestination implements Destination {
  readonly where: string
  readonly #client: Client
  readonly #sink: ElasticSink
  readonly #bulk = new Bulk()
  #now: Compared | undefined

  private constructor(where: string, client: Client, sink: ElasticSink) {
    this.where = where
    this.#client = client
    this.#sink = sink
  }
  /** Throws SINK_UNAVAILABLE, SINK_UNSUITABLE. */
  static async open(own: ElasticOptions): Promise<ElasticDestination> {
    const nodes = typeof own.nodes === 'string' ? [own.nodes] : own.nodes
    const client = await Client.open({ ...own, nodes })
    const context = { log: createLogger('fatal', 2) } as SinkContext
    try {
      await client.request('GET', '/')
    } catch (error) {
      await client.close()
      throw error
    }
    const sink = new ElasticSink(own, context, { client, opensearch: false, cursor: undefined })
    const where = nodes.map((node) => new URL(node).origin).join(', ')
    return new ElasticDestination(where, client, sink)
  }

  bind(table: TargetTable, key: readonly Column[]): Promise<Bound> {
    try {
      const documented = this.#sink.documents(table)
      if (typeof documented === 'string') return Promise.resolve({ why: documented })
      const backwards = Backwards.of(documented.id, table, key)
      if (typeof backwards === 'string') return Promise.resolve({ why: backwards })
      this.#now = { ...documented, table, backwards }
      return Promise.resolve({ why: '', columns: key })
    } catch (error) {
      const why =
        error instanceof SluiceError ? error.message.replace(/^TRUNCATE of /, '') : undefined
      if (why === undefined) throw error
      return Promise.resolve({ why })
    }
  }
  #bound(table: TargetTable): Compared {
    if (this.#now?.table !== table) throw new Error('bug in Sluice: a table that is not bound')
    return this.#now
  }

  async compare(batch: SinkBatch, signal: AbortSignal): Promise<readonly Unlike[]> {
    const [first] = batch.rows(false)
    if (first === undefined) return []
    const { index, writer } = this.#bound(first.table)
    const unlike: Unlike[] = []
    const wanted: (readonly [number, Wanted])[] = []
    for (const row of batch.rows(false)) {
      try {
        wanted.push([row.index, this.#wanted(row, writer)])
      } catch (error) {
        if (!(error instanceof SluiceError) || error.code !== 'SINK_DATA') throw error
        unlike.push({ index: row.index, kind: 'refused', expected: {}, why: error.message })
      }
    }
    const found = await this.#read(
      index,
      wanted.map(([, address]) => address),
      signal,
    )
    for (const [i, [row, { source }]] of wanted.entries()) {
      const there = found[i]
      if (there !== undefined && sameJson(source, there)) continue
      const expected = shownMembers(source)
      unlike.push(
        there === undefined
          ? { index: row, kind: 'missing', expected }
          : { index: row, kind: 'different', expected, found: shownMembers(there) },
      )
    }
    return unlike
  }
  #wanted(row: SinkRow, writer: Documented['writer']): Wanted {
    this.#bulk.reset()
    writer.write(row, new DocumentBatch(this.#bulk))
    const { out } = this.#bulk
    const [action = '', source = ''] = out.buf.toString('utf8', 0, out.at).split('\n')
    const { index } = JSON.parse(action) as { index: { _id: string; routing?: string } }
    return { id: index._id, routing: index.routing, source: parseJson(source) }
  }
  /** What is there of each; undefined: nothing that lives. */
  async #read(
    index: string,
    addresses: readonly Address[],
    signal: AbortSignal | undefined,
  ): Promise<(Record<string, unknown> | undefined)[]> {
    const found: (Record<string, unknown> | undefined)[] = []
    for (let i = 0; i < addresses.length; i += READ_AT_ONCE) {
      const docs = addresses.slice(i, i + READ_AT_ONCE).map(({ id, routing }) => ({
        _index: index,
        _id: id,
        ...(routing === undefined ? {} : { routing }),
      }))
      const body = JSON.stringify({ docs })
      const { text } = await this.#client.request('POST', '/_mget', { body, signal })
      const answer = parseJson(text) as { docs: readonly Fetched[] }
      found.push(...answer.docs.map(living))
    }
    return found
  }

  async *keys(table: TargetTable, signal: AbortSignal): AsyncGenerator<readonly TargetKey[]> {
    const { index, query, backwards } = this.#bound(table)
    const path = `/${encodeURIComponent(index)}/_mapping`
    const { status } = await this.#client.request('GET', path, { signal, accept: [404] })
    if (status === 404) return
    for await (const hits of scan(this.#client, index, query, signal)) {
      yield hits.map(({ _id: id, _routing: routing }): TargetKey => {
        const address = JSON.stringify([id, routing ?? null])
        const key = backwards.read(id)
        const none = { text: `\u0000${id}`, literals: undefined, values: [] }
        return { ...(key ?? none), shown: { _id: id }, id: address }
      })
    }
  }
  async extras(
    table: TargetTable,
    keys: readonly TargetKey[],
    rows: readonly SinkBatch[],
    signal: AbortSignal,
  ): Promise<readonly Extra[]> {
    const { index, writer } = this.#bound(table)
    const wanted = new Set<string>()
    for (const batch of rows) {
      for (const row of batch.rows(false)) {
        const { id, routing } = this.#wanted(row, writer)
        wanted.add(JSON.stringify([id, routing ?? null]))
      }
    }
    const left = keys.filter(({ id }) => !wanted.has(id))
    const addresses = left.map(({ id }): Address => {
      const [name, routing] = JSON.parse(id) as [string, string | null]
      return { id: name, routing: routing ?? undefined }
    })
    const found = await this.#read(index, addresses, signal)
    return left.flatMap((key, i): Extra[] => {
      const there = found[i]
      return there === undefined ? [] : [{ key, found: shownMembers(there) }]
    })
  }
  async close(): Promise<void> {
    await this.#client.close()
  }
}

/** A document without our own field; undefined: there is none, or only its tombstone. */
function living({ found, _source }: Fetched): Record<string, unknown> | undefined {
  if (found !== true || _source === undefined) return undefined
  const { [META]: meta, ...source } = _source
  const deleted = (meta as { readonly deleted?: unknown } | undefined)?.deleted
  return deleted === undefined ? source : undefined
}
