/** The options of the Elasticsearch sink, and what can be wrong with them beyond their types. */
import * as z from 'zod'
import { Template } from '../shape/template.ts'

const DAY_MS = 86_400_000

const template = (what: string) =>
  z
    .string()
    .min(1)
    .refine(valid, {
      error: `${what}, in which {database}, {table}, {key} and columns may stand in braces`,
    })
function valid(text: string): boolean {
  try {
    return new Template(text).text === text
  } catch {
    return false
  }
}
/** Depends on the table alone. */
const name = (what: string) =>
  template(what).refine((text) => !valid(text) || new Template(text).columns.length === 0, {
    error: `${what}, in which {database} and {table} may stand in braces`,
  })

const nest = z
  .strictObject({
    index: name('an index name').describe("The parents' `index`"),
    field: z.string().min(1).describe('Field of the document that holds the rows, as an array'),
    document: template('a document id').describe("The parent's id, from columns of this table"),
    key: template('a key').default('{key}').describe('What tells the rows of one parent apart'),
  })
  .describe('Rows of this table go into the documents of another')
const join = z
  .strictObject({
    field: z.string().min(1).describe('The join field'),
    name: z.string().min(1).describe('Name of this relation in it'),
    of: z
      .string()
      .min(1)
      .optional()
      .describe("Name of the parents' relation; none: these are the parents"),
    parent: template('a document id')
      .optional()
      .describe("The parent's id, from columns of this table"),
  })
  .describe('Parents and children as documents of one index, with a field of type join')
const table = z.strictObject({
  table: z
    .union([z.string(), z.array(z.string()).min(1)])
    .describe('database.table, or a list of them; exact names'),
  index: name('an index name').optional().describe('Instead of the common `index`'),
  id: template('a document id').optional().describe('Instead of the common `id`'),
  routing: template('a routing value').optional().describe('Routing value; none: by id'),
  pipeline: z.string().min(1).optional().describe('Ingest pipeline, instead of the common one'),
  versions: z.enum(['document', 'parts']).optional().describe('Instead of the common `versions`'),
  nest: nest.optional(),
  join: join.optional(),
})
export type TableOptions = Readonly<z.output<typeof table>>

export const options = z.strictObject({
  nodes: z
    .union([z.url(), z.array(z.url()).min(1)])
    .describe('Address of a node, or of several: http://search-1:9200'),
  username: z.string().optional().describe('Account'),
  password: z.string().optional().describe("The account's password"),
  apiKey: z.string().optional().describe('API key, base64, instead of an account'),
  caFile: z.string().optional().describe('Certificate authority to trust, a PEM file'),
  verify: z.boolean().default(true).describe('false: any certificate will do, which is for tests'),
  compress: z.boolean().default(false).describe('Send requests compressed with gzip'),
  timeoutMs: z.int().min(100).max(600_000).default(60_000).describe('Longest wait for an answer'),
  index: name('an index name')
    .default('{database}-{table}')
    .describe('Alias that applications search, in lower case'),
  generation: z
    .int()
    .min(0)
    .max(99_999)
    .default(1)
    .describe('Number of the index behind the alias; raise it to index anew. 0: no alias'),
  id: template('a document id').default('{key}').describe('Id of a document'),
  routing: template('a routing value').optional().describe('Routing value; none: by id'),
  versions: z
    .enum(['document', 'parts'])
    .default('document')
    .describe('document: one row is one document, in full images. parts: a version per row in it'),
  tables: z.array(table).default([]).describe('What is different for some tables'),
  deletes: z
    .enum(['tombstone', 'remove'])
    .default('tombstone')
    .describe('tombstone: a deleted document stays, hidden by the alias; remove: it is deleted'),
  keepDeletedMs: z
    .int()
    .min(60_000)
    .default(7 * DAY_MS)
    .describe('How long tombstones stay: longer than the longest replay'),
  decimal: z
    .enum(['keyword', 'scaledFloat', 'double'])
    .default('keyword')
    .describe('Field type of DECIMAL'),
  json: z
    .enum(['stored', 'object', 'flattened'])
    .default('stored')
    .describe('Field type of JSON; stored: kept, not searched'),
  text: z
    .enum(['both', 'text', 'keyword'])
    .default('both')
    .describe('Field type of character columns; both: text with a subfield keyword'),
  fields: z
    .record(z.string(), z.record(z.string(), z.unknown()))
    .default({})
    .describe('Mappings of fields by name, as the server has them; they win'),
  settings: z
    .record(z.string(), z.unknown())
    .default({})
    .describe('Settings of new indexes, as the server has them'),
  pipeline: z.string().min(1).optional().describe('Ingest pipeline for written rows'),
  refresh: z
    .enum(['false', 'true', 'wait_for'])
    .default('false')
    .describe('Whether a write waits until it can be found'),
  bulkBytes: z
    .int()
    .min(1024)
    .max(100 * 1024 * 1024)
    .default(5 * 1024 * 1024)
    .describe('Most bytes in one bulk request; a larger document goes alone'),
  bulkActions: z.int().min(1).max(100_000).default(5000).describe('Most documents in one'),
  bulkRequests: z.int().min(1).max(16).default(2).describe('Bulk requests side by side'),
  cursorIndex: z
    .string()
    .min(1)
    .default('sluice-cursors')
    .describe('Index that holds the position, for when the local state is lost'),
})
export type ElasticOptions = Readonly<z.output<typeof options>>

export const namesOf = ({ table: names }: TableOptions): readonly string[] =>
  typeof names === 'string' ? [names] : names

/** Index names are in lower case. */
export const indexName = (text: string, database: string, tableName: string): string =>
  new Template(text).name(database, tableName).toLowerCase()

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
  for (const entry of own.tables) {
    for (const known of namesOf(entry)) {
      if (!/^[^.]+\.[^.]+$/.test(known)) found.push(`tables: expected database.table, got ${known}`)
      if (seen.has(known)) found.push(`tables: ${known} is there twice`)
      seen.add(known)
    }
    found.push(...tableProblems(own, entry).map((text) => `tables, ${namesOf(entry)[0]}: ${text}`))
  }
  return found
}
function tableProblems(own: ElasticOptions, entry: TableOptions): string[] {
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
