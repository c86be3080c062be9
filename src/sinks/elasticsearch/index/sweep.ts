/**
 * Work on all documents of an index: emptying it at TRUNCATE, removing tombstones that are old enough, filling a new
 * generation from the one before. Done with scroll and bulk requests, which every server has, because
 * `_delete_by_query` and `_reindex` know neither our versions nor our tombstones.
 */
import type { SluiceError } from '../../../errors.ts'
import { Bulk, type BulkLimits, type Refused } from '../bulk.ts'
import { exactJson, exactNumber, parseExact, type Client } from '../client.ts'
import { META } from './mapping.ts'

export interface Hit {
  readonly _id: string
  readonly _routing?: string
  readonly _version: unknown
  readonly _seq_no: number
  readonly _primary_term: number
  readonly _source?: Source
}
/** A document with our own field, which may be there. */
export interface Source extends Record<string, unknown> {
  readonly sluice?: {
    readonly deleted?: number
    readonly parts?: Record<string, { keys: string[] }>
  }
}
interface Page {
  readonly _scroll_id: string
  readonly hits: { readonly hits: readonly Hit[] }
}

const PAGE = 500

/** All documents that match, page by page, as they were when it began. */
export async function* scan(
  client: Client,
  index: string,
  query: object,
  signal: AbortSignal,
): AsyncGenerator<readonly Hit[]> {
  const path = `/${encodeURIComponent(index)}`
  await client.request('POST', `${path}/_refresh`, { signal })
  const body = { size: PAGE, sort: ['_doc'], version: true, seq_no_primary_term: true, query }
  let { text } = await client.request('POST', `${path}/_search`, {
    body: JSON.stringify(body),
    query: { scroll: '5m' },
    signal,
  })
  let scroll: string | undefined
  try {
    for (;;) {
      const page = parseExact<Page>(text)
      scroll = page._scroll_id
      if (page.hits.hits.length === 0) return
      yield page.hits.hits
      const next = JSON.stringify({ scroll: '5m', scroll_id: scroll })
      text = (await client.request('POST', '/_search/scroll', { body: next, signal })).text
    }
  } finally {
    if (scroll !== undefined) {
      const body = JSON.stringify({ scroll_id: [scroll] })
      await client.request('DELETE', '/_search/scroll', { body, accept: [404] })
    }
  }
}

/** One page's worth of actions, made as objects: for sweeps, where a row's speed is not needed. */
export class Actions {
  readonly #bulk = new Bulk()
  readonly #index: string
  constructor(index: string) {
    this.#index = index
  }
  add(verb: 'index' | 'create' | 'delete', hit: Hit, more: object, source?: string | Buffer): void {
    const { out } = this.#bulk
    const routing = hit._routing === undefined ? {} : { routing: hit._routing }
    this.#bulk.begin(0, { index: this.#index, id: hit._id, routing: hit._routing })
    out.utf8(JSON.stringify({ [verb]: { _index: this.#index, _id: hit._id, ...routing, ...more } }))
    out.utf8(source === undefined ? '\n' : `\n${source.toString().trimEnd()}\n`)
    this.#bulk.end()
  }
  /** Conflicts are answers: somebody has written something newer. */
  async send(
    client: Client,
    limits: BulkLimits,
    signal: AbortSignal,
    problem: (refused: Refused) => SluiceError,
  ): Promise<void> {
    const refused = await this.#bulk.send(client, limits, signal)
    this.#bulk.reset()
    for (const one of refused) if (one.status !== 409) throw problem(one)
  }
}

export interface Sweep {
  readonly client: Client
  readonly limits: BulkLimits
  readonly signal: AbortSignal
  readonly problem: (refused: Refused) => SluiceError
}

const external = (version: bigint): object => ({
  version: exactJson(version),
  version_type: 'external_gte',
})

/** Deletes every document that matches and is not newer than `version`; leaves `stone` where there is one. */
export async function clearDocuments(
  sweep: Sweep,
  index: string,
  { query, version, stone }: { query: object; version: bigint; stone: Buffer | undefined },
): Promise<void> {
  const { client, limits, signal, problem } = sweep
  const actions = new Actions(index)
  for await (const hits of scan(client, index, query, signal)) {
    for (const hit of hits) {
      if (exactNumber(hit._version) > version) continue
      if (stone === undefined) actions.add('delete', hit, external(version))
      else actions.add('index', hit, external(version), stone)
    }
    await actions.send(client, limits, signal, problem)
  }
}

/** Removes tombstones from before `before` (ms), unless a part of the document lives or it was written again. */
export async function purge(sweep: Sweep, index: string, before: number): Promise<void> {
  const { client, limits, signal, problem } = sweep
  const query = { range: { [`${META}.deleted`]: { lt: before } } }
  const actions = new Actions(index)
  for await (const hits of scan(client, index, query, signal)) {
    for (const hit of hits) {
      const parts = Object.values(hit._source?.sluice?.parts ?? {})
      if (parts.some((part) => part.keys.length > 0)) continue
      const { _seq_no: if_seq_no, _primary_term: if_primary_term } = hit
      actions.add('delete', hit, { if_seq_no, if_primary_term })
    }
    await actions.send(client, limits, signal, problem)
  }
}

/** Copies every document with its version, tombstones too. Returns how many. May be done again. */
export async function copyDocuments(sweep: Sweep, from: string, to: string): Promise<number> {
  const { client, limits, signal, problem } = sweep
  const actions = new Actions(to)
  let count = 0
  for await (const hits of scan(client, from, { match_all: {} }, signal)) {
    for (const hit of hits) {
      const source = JSON.stringify(hit._source)
      if (hit._source?.sluice?.parts !== undefined) actions.add('create', hit, {}, source)
      else actions.add('index', hit, external(exactNumber(hit._version)), source)
    }
    count += hits.length
    await actions.send(client, limits, signal, problem)
  }
  return count
}
