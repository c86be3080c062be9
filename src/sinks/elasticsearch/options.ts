/**
 * The options of the Elasticsearch sink, and what can be wrong with them beyond their types.
 */
import * as z from 'zod'
import {
  bytes,
  duration,
  flag,
  integer,
  oneOf,
  path,
  secret,
  section,
  template,
  text,
} from '../../config/leaves.ts'
import type { Template } from '../shape/template.ts'

const indexTemplate = () => template('an index name', false)
const idTemplate = () => template('a document id')
const routingTemplate = () => template('a routing value')
const url = () => z.url({ protocol: /^https?$/, error: 'an address like http://search-1:9200' })
const anything = (what: string) => z.record(z.string(), z.unknown(), { error: what })

const nest = section({
  index: indexTemplate().describe("The parents' `index`"),
  field: text('a field').describe('Field of the document that holds the rows, as an array'),
  document: idTemplate().describe("The parent's id, of columns of this table"),
  key: template('a key').prefault('{key}').describe('What tells the rows of one parent apart'),
}).describe('Rows of this table go into the documents of another')
const join = section({
  field: text('a field').describe('The join field'),
  name: text('a name').describe('Name of this relation in it'),
  of: text('a name')
    .optional()
    .describe("Name of the parents' relation; none: these are the parents"),
  parent: idTemplate().optional().describe("The parent's id, of columns of this table"),
}).describe('Parents and children as documents of one index, with a field of type join')
const document = section({
  table: z
    .union([text('database.table'), z.array(text('database.table')).min(1)], {
      error: 'database.table, or a list of them',
    })
    .describe('database.table, or a list of them; exact names'),
  index: indexTemplate().optional().describe('Instead of the common `index`'),
  id: idTemplate().optional().describe('Instead of the common `id`'),
  routing: routingTemplate().optional().describe('Instead of the common `routing`'),
  pipeline: text('the name of a pipeline').optional().describe('Instead of the common `pipeline`'),
  versions: oneOf(['document', 'parts']).optional().describe('Instead of the common `versions`'),
  nest: nest.optional(),
  join: join.optional(),
})
export type DocumentEntry = Readonly<z.output<typeof document>>

export const options = section({
  nodes: z
    .union([url(), z.array(url()).min(1)], {
      error: 'an address like http://search-1:9200, or a list of them',
    })
    .describe('Address of a node, or of several: http://search-1:9200'),
  username: text('a name').optional().describe('Account'),
  password: secret('a password').optional().describe("The account's password"),
  apiKey: secret('an API key').optional().describe('API key, base64, instead of an account'),
  caFile: path('a PEM file').optional().describe('Certificate authority to trust, a PEM file'),
  verify: flag().default(true).describe('false: any certificate will do, which is for tests'),
  compress: flag().default(false).describe('Send requests compressed with gzip'),
  timeoutMs: duration('100ms', '10m').prefault('1m').describe('Longest wait for an answer'),
  index: indexTemplate()
    .prefault('{database}-{table}')
    .describe('Alias that applications search; in lower case'),
  generation: integer('a number from 0 to 99999', 0, 99_999)
    .default(1)
    .describe('Number of the index behind the alias; raise it to index anew. 0: no alias'),
  id: idTemplate().prefault('{key}').describe('Id of a document'),
  routing: routingTemplate().optional().describe('Routing value; none: by id'),
  versions: oneOf(['document', 'parts'])
    .default('document')
    .describe('document: one row is one document, in full images. parts: a version per row in it'),
  documents: z
    .array(document, { error: 'a list of tables with what is different for them' })
    .default([])
    .describe('What is different for some tables'),
  deletes: oneOf(['tombstone', 'remove'])
    .default('tombstone')
    .describe('tombstone: a deleted document stays, hidden by the alias; remove: it is deleted'),
  keepDeletedMs: duration('1m', '10000h')
    .prefault('168h')
    .describe('How long tombstones stay: longer than the longest replay'),
  decimal: oneOf(['keyword', 'scaledFloat', 'double'])
    .default('keyword')
    .describe('Field type of DECIMAL'),
  json: oneOf(['stored', 'object', 'flattened'])
    .default('stored')
    .describe('Field type of JSON; stored: kept, not searched'),
  text: oneOf(['both', 'text', 'keyword'])
    .default('both')
    .describe('Field type of character columns; both: text with a subfield keyword'),
  fields: z
    .record(z.string(), anything('a mapping of a field'), { error: 'a mapping of fields' })
    .default({})
    .describe('Mappings of fields by name, as the server has them; they win'),
  settings: anything('a mapping of settings')
    .default({})
    .describe('Settings of new indexes, as the server has them'),
  pipeline: text('the name of a pipeline').optional().describe('Ingest pipeline for written rows'),
  refresh: oneOf(['none', 'now', 'wait'])
    .default('none')
    .describe('Whether what is written can be found at once: now makes it so, wait waits for it'),
  bulkBytes: bytes('1KiB', '100MiB')
    .prefault('5MiB')
    .describe('Most bytes in one bulk request; a larger document goes alone'),
  bulkActions: integer('a number of documents, 1 to 100000', 1, 100_000)
    .default(5000)
    .describe('Most documents in one bulk request'),
  bulkRequests: integer('a number of requests, 1 to 16', 1, 16)
    .default(2)
    .describe('Bulk requests side by side'),
  cursorIndex: text('an index name')
    .default('sluice-cursors')
    .describe('Index that holds the position, for when the local state is lost'),
})
export type ElasticOptions = Readonly<z.output<typeof options>>

export const namesOf = ({ table: names }: DocumentEntry): readonly string[] =>
  typeof names === 'string' ? [names] : names

/** Index names are in lower case. */
export const indexName = (made: Template, database: string, table: string): string =>
  made.name(database, table).toLowerCase()

/** What is wrong beyond the types, as sentences. */
export function problems(own: ElasticOptions): string[] {
  const found: string[] = []
  if (own.apiKey !== undefined && own.username !== undefined)
    found.push('apiKey and username: expected one of the two')
  if (own.password !== undefined && own.username === undefined)
    found.push('password: expected a username with it')
  if (own.generation === 0 && own.deletes === 'tombstone') {
    found.push(
      'generation 0 has no alias that could hide tombstones: expected deletes: remove with it',
    )
  }
  const seen = new Set<string>()
  for (const entry of own.documents) {
    for (const known of namesOf(entry)) {
      if (!/^[^.]+\.[^.]+$/.test(known))
        found.push(`documents: expected database.table, got ${known}`)
      if (seen.has(known)) found.push(`documents: ${known} is there twice`)
      seen.add(known)
    }
    found.push(
      ...tableProblems(own, entry).map((text) => `documents, ${namesOf(entry)[0]}: ${text}`),
    )
  }
  return found
}
function tableProblems(own: ElasticOptions, entry: DocumentEntry): string[] {
  const found: string[] = []
  const { nest: nested, join: joined } = entry
  if (nested !== undefined && joined !== undefined)
    found.push('nest and join: expected one of the two')
  if (nested !== undefined && entry.index !== undefined)
    found.push('index: a nested table has that of its parents, in nest.index')
  if (nested !== undefined && own.generation === 0)
    found.push('nest: documents in parts need an alias: expected a generation of at least 1')
  if ((joined?.of === undefined) !== (joined?.parent === undefined))
    found.push('join: expected `of` and `parent` together')
  const inParts = (entry.versions ?? own.versions) === 'parts' || nested !== undefined
  if (inParts && (entry.routing ?? own.routing) !== undefined)
    found.push('routing: documents in parts are routed by id')
  if (inParts && (entry.pipeline ?? own.pipeline) !== undefined)
    found.push('pipeline: documents in parts are read back, so no pipeline may change them')
  if (inParts && joined !== undefined)
    found.push('join: each row is a document: expected versions: document')
  if (inParts && own.deletes === 'remove')
    found.push('deletes: remove: documents in parts keep tombstones; expected deletes: tombstone')
  return found
}
