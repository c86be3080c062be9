/** For the tests of the Elasticsearch sink: what a real MySQL logged as batches, sinks on real servers, and what is there. */
import { pino } from 'pino'
import { expect } from 'vitest'
import { parseTimeZone } from '../../src/binlog/time.ts'
import { Catalog } from '../../src/catalog/catalog.ts'
import { advance, type Position, type QueryChange, type Transaction } from '../../src/change.ts'
import { SluiceError } from '../../src/errors.ts'
import { compileColumns } from '../../src/filter.ts'
import { elasticsearch, type ElasticSink } from '../../src/sinks/elasticsearch.ts'
import { parseExact } from '../../src/sinks/elasticsearch/client.ts'
import { rowChanges, SinkBatch } from '../../src/sinks/shape/batch.ts'
import { plainTarget, type TargetTable } from '../../src/sinks/shape/row.ts'
import { versionBefore } from '../../src/sinks/shape/version.ts'
import type { RowFailure, SinkContext, SinkStatement } from '../../src/sinks/sink.ts'
import { factsOf, sourceOn } from '../sources/reading.ts'
import { anyMysql, uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import type { Service } from '../support/services.ts'

const silent = pino({ level: 'silent' })
export const noSignal = new AbortController().signal

/** Transactions with the position before the first. */
export interface Logged {
  readonly start: Position
  readonly transactions: readonly Transaction[]
}

/** A database on a real MySQL, and what it logs. */
export class Feed implements AsyncDisposable {
  readonly mysql: MysqlServer
  readonly database: string
  readonly #known = new Map<unknown, TargetTable>()
  readonly #catalog: Catalog
  private constructor(mysql: MysqlServer, database: string) {
    this.mysql = mysql
    this.database = database
    this.#catalog = new Catalog({
      query: (text, params) => mysql.query(text, params),
      timeZone: parseTimeZone('UTC'),
      columns: compileColumns({}),
      log: silent,
    })
  }
  static async open(): Promise<Feed> {
    const feed = new Feed(await anyMysql(), uniqueDatabase('elastic'))
    await feed.mysql.query(`CREATE DATABASE ${feed.database}`)
    return feed
  }
  /** Runs statements, several in one text, and returns what they logged. */
  async run(sql: string): Promise<Logged> {
    const { latest: start } = await factsOf(this.mysql)
    const connection = await this.mysql.connect({ database: this.database })
    await connection.query("SET time_zone = '+00:00', NAMES utf8mb4")
    await connection.query(sql)
    await connection.end()
    const { latest: to } = await factsOf(this.mysql)
    const { source } = sourceOn(this.mysql, this.database, { catalog: this.#catalog })
    const transactions: Transaction[] = []
    const abort = new AbortController()
    for await (const tx of source.read(start, abort.signal)) {
      transactions.push(tx)
      if (tx.endFile === to.file && tx.endOffset >= to.offset) break
    }
    abort.abort()
    return { start, transactions }
  }
  /** One batch of it; `more` overrides, e.g. the highest version. */
  batch({ start, transactions }: Logged, more: { highest?: string } = {}): SinkBatch {
    let end = start
    for (const tx of transactions) end = advance(end, tx)
    const slices = transactions.map((tx) => ({ tx, changes: rowChanges(tx.changes) }))
    return new SinkBatch({
      slices,
      start,
      end,
      highest: more.highest ?? versionBefore(end),
      redelivered: false,
      target: (table) => {
        let known = this.#known.get(table)
        if (known === undefined) this.#known.set(table, (known = plainTarget(table)))
        return known
      },
    })
  }
  /** Its statements that are DDL. */
  statements({ start, transactions }: Logged): SinkStatement[] {
    let before = start
    return transactions.flatMap((tx) => {
      const version = versionBefore({ ...before, file: tx.file, offset: tx.offset })
      const end = (before = advance(before, tx))
      const at = { ...end, file: tx.file, offset: tx.offset }
      return tx.changes
        .filter((change): change is QueryChange => change.kind === 'ddl')
        .map((change) => ({ tx, change, version, id: `${tx.offset}`, start: at, end }))
    })
  }
  async select<T>(sql: string): Promise<T[]> {
    const connection = await this.mysql.connect({ database: this.database })
    await connection.query("SET time_zone = '+00:00', NAMES utf8mb4")
    const [rows] = await connection.query(sql)
    await connection.end()
    return rows as T[]
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.mysql.query(`DROP DATABASE IF EXISTS ${this.database}`)
    await this.mysql[Symbol.asyncDispose]()
  }
}

const START: Position = {
  epoch: 1,
  server: 'the server',
  file: 'binlog.000001',
  offset: 4,
  skip: 0,
  gtids: undefined,
  timestamp: 0,
}
/** A sink on a server, with indexes of the feed's own. */
export async function openSink(
  service: Service,
  feed: Feed,
  options: object = {},
  context: Partial<SinkContext> = {},
): Promise<ElasticSink> {
  const own = elasticsearch.options.parse({
    nodes: service.url,
    cursorIndex: `cursors-${feed.database}`,
    settings: { number_of_shards: 1, number_of_replicas: 0 },
    ...options,
  })
  expect(elasticsearch.problems?.(own)).toEqual([])
  return (await elasticsearch.open(own, {
    instance: 'shop',
    sink: 'search',
    log: silent,
    signal: noSignal,
    fence: 1,
    server: START.server,
    epoch: 1,
    position: START,
    query: () => Promise.resolve([]),
    ...context,
  })) as ElasticSink
}

/** Writes a batch that nothing of is refused. */
export async function writeAll(sink: ElasticSink, batch: SinkBatch): Promise<void> {
  expect(await sink.write(batch, noSignal)).toEqual([])
}
export const codes = (failures: readonly RowFailure[]): unknown[] =>
  failures.map(({ index, error, retryable }) => [
    index,
    error instanceof SluiceError ? error.code : error,
    retryable,
  ])
export const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'none',
    (error: unknown) => (error instanceof SluiceError ? error.code : String(error)),
  )

export async function ask<T>(
  service: Service,
  method: string,
  path: string,
  body?: object,
): Promise<T> {
  const response = await fetch(`${service.url}${path}`, {
    method,
    headers: { 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  const text = await response.text()
  if (!response.ok && response.status !== 404) throw new Error(`${method} ${path}: ${text}`)
  return parseExact<T>(text)
}
export type Document = Record<string, unknown>
interface Found {
  readonly hits: { readonly hits: { _id: string; _source: Document; _index: string }[] }
}
/** All documents that an alias shows, by id. */
export async function documents(
  service: Service,
  index: string,
  query: object = { match_all: {} },
): Promise<Record<string, Document>> {
  await ask(service, 'POST', `/${index}/_refresh`)
  const body = { size: 10_000, query }
  const { hits } = await ask<Found>(service, 'POST', `/${index}/_search`, body)
  return Object.fromEntries(hits.hits.map(({ _id, _source }) => [_id, _source]))
}
/** The same without what is ours in them. */
export async function shown(service: Service, index: string, query?: object) {
  const all = await documents(service, index, query)
  return Object.fromEntries(
    Object.entries(all).map(([id, source]) => {
      const own = { ...source }
      delete own['sluice']
      return [id, own]
    }),
  )
}
/** Reads a document, deleted ones too; undefined where there is none. */
export async function stored(
  service: Service,
  index: string,
  id: string,
): Promise<Document | undefined> {
  const path = `/${index}/_doc/${encodeURIComponent(id)}`
  return (await ask<{ _source?: Document }>(service, 'GET', path))._source
}
