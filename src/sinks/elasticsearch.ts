/**
 * Elasticsearch and OpenSearch: tables as indexes that are in step with the source, whatever is repeated, late or written
 * twice at once. A row is a document, or a part of one; every write carries its version, and an older one never wins.
 *
 * elasticsearch/documents.ts writes rows that are documents, parts.ts those that are parts, bulk.ts sends them, indexes.ts
 * and mapping.ts make the indexes, sweep.ts does what concerns all documents of one.
 */
import type { Position } from '../change.ts'
import { SluiceError } from '../errors.ts'
import { VERSION_MAX } from './shape/version.ts'
import { Bulk, type BulkLimits, type Refused, type Where } from './elasticsearch/bulk.ts'
import { Client, exactNumber, parseExact } from './elasticsearch/client.ts'
import { CursorDocument } from './elasticsearch/cursor.ts'
import {
  bindAddress,
  DocumentBatch,
  DocumentWriter,
  packText,
  tombstone,
} from './elasticsearch/documents.ts'
import { Indexes } from './elasticsearch/index/indexes.ts'
import {
  fieldMapping,
  liveOnly,
  type Fields,
  type MappingOptions,
} from './elasticsearch/index/mapping.ts'
import {
  indexName,
  namesOf,
  options,
  problems,
  type ElasticOptions,
  type DocumentEntry,
} from './elasticsearch/options.ts'
import { addChange, PartStore, PartWriter, ROOT, type Documents } from './elasticsearch/parts.ts'
import {
  clearDocuments,
  copyDocuments,
  purge,
  scan,
  type Sweep,
} from './elasticsearch/index/sweep.ts'
import type { SinkBatch } from './shape/batch.ts'
import type { TargetTable } from './shape/row.ts'
import { Template } from './shape/template.ts'
import {
  defineSink,
  type RowFailure,
  type Sink,
  type SinkContext,
  type SinkStatement,
} from './sink.ts'

const PURGE_EVERY_MS = 3_600_000
/** Above every version of a document. */
const DOCUMENT_VERSION_MAX = 2n ** 63n - 1n

type Writer = DocumentWriter | PartWriter

/** What a table's rows become, by its names alone. */
interface Place {
  readonly index: string
  readonly entry: DocumentEntry | undefined
  readonly part: string | undefined // undefined: documents of their own
}

/** What the rows of a table become: documents of their own. */
export interface Documented {
  readonly index: string // the concrete one
  readonly writer: DocumentWriter
  readonly id: Template
  /** Finds those that live. */
  readonly query: object
}

export class ElasticSink implements Sink {
  readonly promise = 'fenced'
  readonly splitsKeys = false
  readonly wholeTransactions = true
  readonly clears = true
  readonly resume: Position | undefined
  readonly seen: Sink['seen']
  readonly #own: ElasticOptions
  readonly #client: Client
  readonly #mapping: MappingOptions
  readonly #indexes: Indexes
  readonly #limits: BulkLimits
  readonly #cursor: CursorDocument | undefined
  readonly #bulk = new Bulk()
  readonly #parts: PartStore
  readonly #writers = new WeakMap<TargetTable, Writer>()
  readonly #placeOf = new Map<string, DocumentEntry>()
  #purgeAt = Date.now() + PURGE_EVERY_MS

  constructor(
    own: ElasticOptions,
    context: SinkContext,
    {
      client,
      opensearch,
      cursor,
    }: {
      client: Client
      opensearch: boolean
      cursor: CursorDocument | undefined
    },
  ) {
    this.#own = own
    this.#client = client
    this.#cursor = cursor
    this.resume = cursor?.resume
    this.seen = cursor?.seen
    this.#mapping = { decimal: own.decimal, json: own.json, text: own.text, opensearch }
    const { bulkBytes, bulkActions, bulkRequests, refresh } = own
    this.#limits = { bytes: bulkBytes, actions: bulkActions, requests: bulkRequests, refresh }
    this.#parts = new PartStore(client, this.#limits, own.keepDeletedMs)
    this.#indexes = new Indexes(client, own, context.log, (from, to, signal) =>
      copyDocuments(this.#sweep(signal), from, to),
    )
    for (const entry of own.documents)
      for (const name of namesOf(entry)) this.#placeOf.set(name, entry)
  }

  async write(batch: SinkBatch, signal: AbortSignal): Promise<readonly RowFailure[]> {
    await this.#prepare(batch, signal)
    this.#bulk.reset()
    const documents = new DocumentBatch(this.#bulk)
    const parts: Documents = new Map()
    const failures: RowFailure[] = []
    for (const row of batch.rows(false)) {
      const writer = this.#writers.get(row.table)!
      try {
        if (writer instanceof DocumentWriter) writer.write(row, documents)
        else writer.write(row, parts)
      } catch (error) {
        if (!(error instanceof SluiceError) || error.code !== 'SINK_DATA') throw error
        this.#bulk.abandon()
        failures.push({ index: row.index, error, retryable: false })
      }
    }
    const refused = await this.#bulk.send(this.#client, this.#limits, signal)
    failures.push(...(await this.#judge(refused, batch.highest, signal)))
    if (parts.size > 0) failures.push(...(await this.#parts.write(parts, batch.highest, signal)))
    await this.#purgeSometimes(signal)
    return failures
  }

  async statement({ change, version }: SinkStatement, signal: AbortSignal): Promise<void> {
    if (change.type !== 'TRUNCATE') return
    const place = this.#place(change.database, change.table)
    const { name, concrete } = await this.#indexes.ensure(place.index, {}, signal)
    const stone = this.#own.deletes === 'tombstone' ? tombstone(Date.now()) : undefined
    if (place.part === undefined) {
      const query = this.#onlyOf(change.database, change.table, place)
      const sweep = this.#sweep(signal)
      return clearDocuments(sweep, concrete, { query, version: packText(version), stone })
    }
    for await (const hits of scan(this.#client, concrete, { match_all: {} }, signal)) {
      const documents: Documents = new Map()
      for (const { _id: id, _source } of hits) {
        for (const key of _source?.sluice?.parts?.[place.part]?.keys ?? []) {
          const gone = {
            part: place.part,
            key,
            version,
            kind: 'delete',
            fields: undefined,
          } as const
          addChange(documents, concrete, id, { ...gone, row: 0 })
        }
      }
      const failed = await this.#parts.write(documents, VERSION_MAX, signal)
      const first = failed[0]
      if (first !== undefined)
        throw new SluiceError('SINK_UNAVAILABLE', `emptying ${name}: ${first.error.message}`)
    }
  }

  async reached(position: Position): Promise<void> {
    await this.#cursor?.reached(position)
  }
  async close(): Promise<void> {
    try {
      await this.#cursor?.flush()
    } finally {
      await this.#client.close()
    }
  }

  // ── tables ─────────────────────────────────────────────────────────────────

  /** Makes indexes and writers of tables that are new in this batch. */
  async #prepare({ facts }: SinkBatch, signal: AbortSignal): Promise<void> {
    for (const { changes } of facts.slices) {
      for (const change of changes) {
        const table = facts.target(change.table)
        if (!this.#writers.has(table)) this.#writers.set(table, await this.#compile(table, signal))
      }
    }
  }
  #place(database: string, table: string): Place {
    const entry = this.#placeOf.get(`${database}.${table}`)
    if (entry?.nest !== undefined) {
      const index = indexName(entry.nest.index, database, table)
      return { index, entry, part: entry.nest.field }
    }
    const index = indexName(entry?.index ?? this.#own.index, database, table)
    const inParts =
      (entry?.versions ?? this.#own.versions) === 'parts' || this.#nestedIn(index).length > 0
    return { index, entry, part: inParts ? ROOT : undefined }
  }
  /** Fields of an index that hold rows of other tables. */
  #nestedIn(index: string): string[] {
    return [...this.#placeOf].flatMap(([name, { nest }]) => {
      const [database = '', table = ''] = name.split('.')
      return nest && indexName(nest.index, database, table) === index ? [nest.field] : []
    })
  }
  async #compile(table: TargetTable, signal: AbortSignal): Promise<Writer> {
    const { database, name } = table
    const place = this.#place(database, name)
    const columns: Fields = Object.fromEntries(
      table.columns.map((column) => [column.name, fieldMapping(column, this.#mapping)]),
    )
    const nested = place.entry?.nest !== undefined
    const fields = nested
      ? { [place.part!]: { type: 'nested', properties: columns } }
      : { ...columns, ...this.#joinField(place) }
    const { concrete } = await this.#indexes.ensure(place.index, fields, signal)
    return place.part === undefined
      ? this.#documentWriter(table, place, concrete)
      : this.#partWriter(table, place, concrete)
  }
  #documentWriter(table: TargetTable, { entry }: Place, index: string): DocumentWriter {
    const { routing, pipeline, deletes } = this.#own
    const join = entry?.join
    const address = bindAddress(table, this.#idOf(entry), entry?.routing ?? routing ?? join?.parent)
    return new DocumentWriter(table, {
      index,
      address,
      pipeline: entry?.pipeline ?? pipeline,
      tombstones: deletes === 'tombstone',
      join: join && {
        field: join.field,
        name: join.name,
        parent: join.parent?.bind(table),
      },
    })
  }
  #idOf(entry: DocumentEntry | undefined): Template {
    const join = entry?.join
    const childId = join?.of === undefined ? this.#own.id : new Template(`${join.name}:{key}`)
    return entry?.id ?? childId
  }
  /**
   * What becomes of a table's rows, for who compares them; makes no index. A sentence where a row is no document of its own.
   * Throws SINK_UNSUITABLE, UNLOGGED_CHANGE where an index does not tell whose documents are whose.
   */
  documents(table: TargetTable): Documented | string {
    const { database, name } = table
    const place = this.#place(database, name)
    if (place.part !== undefined) return 'rows are parts of documents (versions: parts, or nest)'
    if ((place.entry?.pipeline ?? this.#own.pipeline) !== undefined)
      return 'an ingest pipeline changes the documents'
    const index = this.#indexes.concrete(place.index)
    return {
      index,
      writer: this.#documentWriter(table, place, index),
      id: this.#idOf(place.entry),
      query: this.#onlyOf(database, name, place),
    }
  }
  #partWriter(table: TargetTable, { index, entry, part }: Place, concrete: string): PartWriter {
    const nest = entry?.nest
    if (nest === undefined) {
      const clash = this.#nestedIn(index).find((f) => table.columns.some((c) => c.name === f))
      if (clash !== undefined) {
        throw new SluiceError(
          'SINK_UNSUITABLE',
          `${table.database}.${table.name} has a column ${clash}, which is to hold nested rows; expected another nest.field`,
        )
      }
    }
    const document = nest?.document ?? entry?.id ?? this.#own.id
    return new PartWriter(table, {
      index: concrete,
      part: part!,
      document: document.bind(table),
      key: nest?.key.bind(table) ?? ((): string => ROOT),
      columns: bindAddress(table, document, nest?.key).columns,
    })
  }
  #joinField({ index, entry }: Place): Fields {
    const join = entry?.join
    if (join === undefined) return {}
    const relations: Record<string, string[]> = {}
    for (const other of this.#own.documents) {
      const [database = '', table = ''] = namesOf(other)[0]!.split('.')
      if (other.join?.of === undefined || this.#place(database, table).index !== index) continue
      ;(relations[other.join.of] ??= []).push(other.join.name)
    }
    return { [join.field]: { type: 'join', relations } }
  }
  /** A query for the documents of one table. Throws UNLOGGED_CHANGE where an index does not tell. */
  #onlyOf(database: string, table: string, { index, entry }: Place): object {
    const live = this.#own.deletes === 'tombstone' ? [liveOnly] : []
    if (entry?.join !== undefined)
      return { bool: { must: [...live, { term: { [entry.join.field]: entry.join.name } }] } }
    const { text } = entry?.index ?? this.#own.index
    const alone =
      entry?.index !== undefined
        ? namesOf(entry).length === 1 &&
          this.#own.documents.filter(
            (other) => other.index?.text.toLowerCase() === text.toLowerCase(),
          ).length === 1
        : text.includes('{database}') && text.includes('{table}')
    if (alone) return live[0] ?? { match_all: {} }
    throw new SluiceError(
      'UNLOGGED_CHANGE',
      `TRUNCATE of ${database}.${table}: index ${index} may hold documents of other tables, and nothing in them tells which are this table's; expected an index of its own`,
    )
  }

  // ── what was refused ───────────────────────────────────────────────────────

  /**
   * Conflicts are success, unless something newer than all of this sink is there: TARGET_AHEAD. The rest are failures of
   * their rows.
   */
  async #judge(
    refused: readonly Refused[],
    highest: string,
    signal: AbortSignal,
  ): Promise<RowFailure[]> {
    const failures: RowFailure[] = []
    const limit = highest === VERSION_MAX ? DOCUMENT_VERSION_MAX : packText(highest)
    for (const one of refused) {
      if (one.status === 409) {
        const touched = touchedVersion(one.reason, limit)
        if (touched === undefined) await this.#checkConflict(one, limit, signal)
        else {
          const again = this.#bulk.again(one, touched)
          for (const { reason } of await again.send(this.#client, this.#limits, signal))
            throw new SluiceError('SINK_UNAVAILABLE', `document ${one.id}: ${reason}`)
        }
      } else {
        const code = one.passes ? 'SINK_UNAVAILABLE' : 'SINK_DATA'
        const error = new SluiceError(code, `document ${one.id}: ${one.reason}`)
        failures.push({ index: one.tag, error, retryable: one.passes })
      }
    }
    return failures
  }
  async #checkConflict(
    { id, reason, index, routing }: Refused,
    limit: bigint,
    signal: AbortSignal,
  ): Promise<void> {
    // The answer says it; a document that was deleted has no version that could be asked for.
    const said = /current version \[(\d+)\]/.exec(reason)?.[1]
    const version =
      said === undefined ? await this.#versionOf({ index, id, routing }, signal) : BigInt(said)
    if (version === undefined || version <= limit) return
    throw new SluiceError(
      'TARGET_AHEAD',
      `document ${id} has version ${version}, and the highest of this sink is ${limit}: somebody else writes here, or the source's history went back`,
    )
  }
  async #versionOf(
    { index, id, routing }: Where,
    signal: AbortSignal,
  ): Promise<bigint | undefined> {
    const path = `/${encodeURIComponent(index)}/_doc/${encodeURIComponent(id)}`
    const { status, text } = await this.#client.request('GET', path, {
      query: { _source: 'false', ...(routing === undefined ? {} : { routing }) },
      signal,
      accept: [404],
    })
    return status === 404
      ? undefined
      : exactNumber(parseExact<{ _version: unknown }>(text)._version)
  }

  // ── sweeps ─────────────────────────────────────────────────────────────────

  #sweep(signal: AbortSignal): Sweep {
    const problem = ({ id, reason }: Refused): SluiceError =>
      new SluiceError('SINK_UNAVAILABLE', `document ${id}: ${reason}`)
    return { client: this.#client, limits: this.#limits, signal, problem }
  }
  async #purgeSometimes(signal: AbortSignal): Promise<void> {
    if (Date.now() < this.#purgeAt) return
    this.#purgeAt = Date.now() + PURGE_EVERY_MS
    await this.purge(signal)
  }
  /** Removes tombstones that are older than any replay. */
  async purge(signal: AbortSignal): Promise<void> {
    if (this.#own.deletes !== 'tombstone') return
    const before = Date.now() - this.#own.keepDeletedMs
    for (const { concrete } of this.#indexes.known)
      await purge(this.#sweep(signal), concrete, before)
  }
}

interface Info {
  readonly version?: { readonly number?: string; readonly distribution?: string }
}
/** No two transactions begin so near to each other: an event's head alone is longer. */
const TOUCHES_MAX = 18n
/**
 * Above the limit: the version of a document that somebody has changed or deleted past the sink, each time by one, since a
 * write of the place that this one has. Nothing of the log lies between, so this row is the newest there is.
 */
function touchedVersion(reason: string, limit: bigint): bigint | undefined {
  const said = /current version \[(\d+)\].* provided \[(\d+)\]/.exec(reason)
  if (said === null) return undefined
  const [found, own] = [BigInt(said[1]!), BigInt(said[2]!)]
  return found > limit && found - own <= TOUCHES_MAX ? found : undefined
}

/** Whether it is OpenSearch. Throws SINK_UNSUITABLE for a server that is too old. */
async function recognise(client: Client, signal: AbortSignal): Promise<boolean> {
  const { version } = await client.json<Info>('GET', '/', { signal })
  const opensearch = version?.distribution === 'opensearch'
  const [major = 0, minor = 0] = (version?.number ?? '').split('.').map(Number)
  if (opensearch || major > 7 || (major === 7 && minor >= 10)) return opensearch
  throw new SluiceError(
    'SINK_UNSUITABLE',
    `expected Elasticsearch from 7.10 on or OpenSearch, found ${version?.number ?? 'something else'}`,
  )
}

export const elasticsearch = defineSink({
  type: 'elasticsearch',
  summary: 'Elasticsearch or OpenSearch: tables as indexes, rows as documents or parts of one',
  options,
  problems,
  open: async (own, context) => {
    const nodes = typeof own.nodes === 'string' ? [own.nodes] : own.nodes
    const client = await Client.open({ ...own, nodes })
    try {
      const opensearch = await recognise(client, context.signal)
      const cursor = context.shared
        ? undefined
        : await CursorDocument.open(client, own.cursorIndex, context)
      return new ElasticSink(own, context, { client, opensearch, cursor })
    } catch (error) {
      await client.close()
      throw error
    }
  },
})
