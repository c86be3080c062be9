/**
 * Documents of several rows, or of rows that come in pieces: each row is a part with a version of its own (the whole one,
 * 40 digits), kept in the document's field `sluice` beside what is searched. Written by reading the document, putting in
 * what is newer, and storing it only if nobody has stored another in between (if_seq_no).
 *
 *   { "id": 1, "total": "9.90", "items": [{…}, {…}],
 *     "sluice": { "deleted": 1790000000000,                        only while the root's row is not there
 *                 "parts": { "": {…}, "items": { "keys": ["7", "8"],   in the order of the array
 *                                                "versions": { "7": "0001…", "8": "0001…", "5": "0001…" },
 *                                                "gone": { "5": 1790000000000 } } } } }
 *
 * A part that was deleted keeps its version under `gone` until that is older than any replay.
 */
import { AFTER, BEFORE, type ImageSide } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { Out } from '../../out.ts'
import { JsonObjectWriter, writeJsonString } from '../shape/json.ts'
import type { SinkRow, TargetColumn, TargetTable } from '../shape/row.ts'
import type { BoundTemplate } from '../shape/template.ts'
import type { RowFailure } from '../sink.ts'
import { Bulk, type BulkLimits, type Refused } from './bulk.ts'
import { parseExact, type Client } from './client.ts'
import { checkColumns, checkId, moves } from './documents.ts'
import { META } from './index/mapping.ts'

/** The root's part; the others are named by their field. */
export const ROOT = ''
const ROUNDS_MAX = 50
const READ_AT_ONCE = 200

type Fields = Record<string, unknown>
export interface PartChange {
  readonly part: string
  readonly key: string
  readonly version: string
  /** set: the whole row; merge: what has changed of it. */
  readonly kind: 'set' | 'merge' | 'delete'
  readonly fields: Fields | undefined
  readonly row: number
}
/** A document and the changes that wait for it, in order. */
interface Waiting {
  readonly index: string
  readonly id: string
  changes: PartChange[]
  take: number // how many of them are tried at once
}
export type Documents = Map<string, Waiting>

export function addChange(to: Documents, index: string, id: string, change: PartChange): void {
  const key = `${index}\0${id}`
  const known = to.get(key)
  if (known !== undefined) known.changes.push(change)
  else to.set(key, { index, id, changes: [change], take: Infinity })
}

// ── rows → changes ───────────────────────────────────────────────────────────

export interface PartOptions {
  readonly index: string // the concrete one
  readonly part: string
  readonly document: BoundTemplate
  readonly key: BoundTemplate
  /** Those of both templates. */
  readonly columns: readonly TargetColumn[]
}
const scratch = new Out(4096)

/** Turns rows of one table version into changes of parts. */
export class PartWriter {
  readonly #options: PartOptions
  readonly #source: JsonObjectWriter
  constructor(table: TargetTable, options: PartOptions) {
    checkColumns(table)
    this.#options = options
    this.#source = new JsonObjectWriter(table)
  }
  write(row: SinkRow, to: Documents): void {
    if (row.op === 'delete') return this.#add(row, BEFORE, 'delete', to)
    const whole = row.op === 'insert' || row.whole(AFTER)
    const moved = moves(row, this.#options.columns)
    if (!whole && moved) throw pieces(row)
    this.#add(row, AFTER, whole ? 'set' : 'merge', to)
    if (moved) this.#add(row, BEFORE, 'delete', to)
  }
  #add(row: SinkRow, side: ImageSide, kind: PartChange['kind'], to: Documents): void {
    const { index, part, document, key } = this.#options
    let fields: Fields | undefined
    if (kind !== 'delete') {
      scratch.reset()
      this.#source.write(row, side, scratch)
      fields = parseExact<Fields>(scratch.buf.toString('utf8', 0, scratch.at))
    }
    const change = { part, key: key(row, side), version: row.version, kind, fields, row: row.index }
    addChange(to, index, checkId(row, document(row, side)), change)
  }
}
function pieces(row: SinkRow): SluiceError {
  return new SluiceError(
    'SINK_DATA',
    `${row.table.database}.${row.table.name} at ${row.id}: the row moves to another document; expected all of it (binlog_row_image=FULL), found columns left out`,
  )
}

// ── a document ───────────────────────────────────────────────────────────────

interface StoredPart {
  readonly keys: string[]
  readonly versions: Record<string, string>
  readonly gone: Record<string, number>
}
interface StoredMeta {
  readonly deleted?: number
  readonly parts: Record<string, StoredPart>
}
interface Part {
  readonly rows: Map<string, Fields>
  readonly versions: Map<string, string>
  readonly gone: Map<string, number>
}
export interface PartFacts {
  readonly highest: string
  readonly now: number
  readonly keepDeletedMs: number
}

/**
 * The document after the changes; undefined where all of them were there already. Throws TARGET_AHEAD when a part's
 * version is above the highest there is.
 */
export function applyChanges(
  stored: Fields | undefined,
  changes: readonly PartChange[],
  where: string,
  facts: PartFacts,
): Fields | undefined {
  const parts = readParts(stored, where)
  const before = new Map<string, string | undefined>()
  let any = false
  for (const change of changes) {
    let part = parts.get(change.part)
    if (part === undefined)
      parts.set(change.part, (part = { rows: new Map(), versions: new Map(), gone: new Map() }))
    const name = `${change.part}\0${change.key}`
    // What was stored, not what an earlier change of this same write has made of it: a row that was split into delete and
    // insert has one version.
    if (!before.has(name)) before.set(name, part.versions.get(change.key))
    const known = before.get(name)
    if (known !== undefined && known >= change.version) {
      checkAhead(known, where, facts)
      continue
    }
    any = true
    applyOne(part, change, facts)
  }
  return any ? writeParts(parts, facts) : undefined
}
function checkAhead(version: string, where: string, { highest }: PartFacts): void {
  if (version <= highest) return
  throw new SluiceError(
    'TARGET_AHEAD',
    `${where}: holds a part of version ${version}, and the highest of this sink is ${highest}`,
  )
}
function applyOne(part: Part, { kind, key, version, fields }: PartChange, facts: PartFacts): void {
  part.versions.set(key, version)
  if (kind === 'delete') {
    part.rows.delete(key)
    part.gone.set(key, facts.now)
    return
  }
  part.gone.delete(key)
  const old = kind === 'merge' ? part.rows.get(key) : undefined
  part.rows.set(key, { ...old, ...fields })
}

function readParts(stored: Fields | undefined, where: string): Map<string, Part> {
  const parts = new Map<string, Part>()
  if (stored === undefined) return parts
  const { [META]: own, ...rest } = stored as Fields & { [META]?: StoredMeta }
  if (own?.parts === undefined) {
    throw new SluiceError(
      'SINK_UNSUITABLE',
      `${where}: expected a document with versions of its parts, found one without; it was written otherwise: begin another index, or the next generation after emptying this one`,
    )
  }
  for (const [name, { keys, versions, gone }] of Object.entries(own.parts)) {
    const rows = name === ROOT ? (keys.length > 0 ? [rest] : []) : (rest[name] as Fields[])
    if (rows?.length !== keys.length) {
      throw new SluiceError(
        'SINK_DATA',
        `${where}: expected ${keys.length} rows in field ${name}, found ${rows?.length ?? 'none'}; somebody else has written it`,
      )
    }
    parts.set(name, {
      rows: new Map(keys.map((key, i) => [key, rows[i]!])),
      versions: new Map(Object.entries(versions)),
      gone: new Map(Object.entries(gone)),
    })
  }
  // The root's row is what is left when the others have taken theirs.
  const root = parts.get(ROOT)?.rows.get(ROOT)
  if (root !== undefined) for (const name of parts.keys()) if (name !== ROOT) delete root[name]
  return parts
}
function writeParts(parts: Map<string, Part>, facts: PartFacts): Fields {
  const arrays: Fields = {}
  const stored: [string, StoredPart][] = []
  for (const [name, { rows, versions, gone }] of parts) {
    for (const [key, time] of gone) {
      if (time >= facts.now - facts.keepDeletedMs) continue
      gone.delete(key)
      versions.delete(key)
    }
    stored.push([
      name,
      {
        keys: [...rows.keys()],
        versions: Object.fromEntries(versions),
        gone: Object.fromEntries(gone),
      },
    ])
    if (name !== ROOT) arrays[name] = [...rows.values()]
  }
  const root = parts.get(ROOT)?.rows.get(ROOT)
  const deleted = root === undefined ? { deleted: facts.now } : {}
  return { ...root, ...arrays, [META]: { ...deleted, parts: Object.fromEntries(stored) } }
}

// ── the store ────────────────────────────────────────────────────────────────

interface Read {
  readonly source: Fields | undefined
  readonly seqNo: number
  readonly term: number
}
interface Got {
  readonly found?: boolean
  readonly error?: { readonly type?: string; readonly reason?: string }
  readonly _seq_no?: number
  readonly _primary_term?: number
  readonly _source?: Fields
}

export class PartStore {
  readonly #client: Client
  readonly #limits: BulkLimits
  readonly #keepDeletedMs: number
  readonly #bulk = new Bulk()
  constructor(client: Client, limits: BulkLimits, keepDeletedMs: number) {
    this.#client = client
    this.#limits = limits
    this.#keepDeletedMs = keepDeletedMs
  }

  /** Puts all changes into their documents. Returns the rows that the server refused. */
  async write(documents: Documents, highest: string, signal: AbortSignal): Promise<RowFailure[]> {
    const facts = { highest, now: Date.now(), keepDeletedMs: this.#keepDeletedMs }
    const failures: RowFailure[] = []
    const all = [...documents.values()]
    for (let at = 0; at < all.length; at += READ_AT_ONCE) {
      let waiting = all.slice(at, at + READ_AT_ONCE)
      for (let round = 0; waiting.length > 0; round++) {
        if (round === ROUNDS_MAX) throw busy(waiting)
        waiting = await this.#round(waiting, facts, failures, signal)
      }
    }
    return failures
  }
  /** One try for each; returns those with something left to do. */
  async #round(
    waiting: readonly Waiting[],
    facts: PartFacts,
    failures: RowFailure[],
    signal: AbortSignal,
  ): Promise<Waiting[]> {
    const read = await this.#read(waiting, signal)
    this.#bulk.reset()
    for (const [i, document] of waiting.entries()) {
      const { index, id, changes, take } = document
      const { source, seqNo, term } = read[i]!
      const where = `document ${id} of ${index}`
      const next = applyChanges(source, changes.slice(0, take), where, facts)
      if (next !== undefined) this.#put(i, document, { source: next, seqNo, term })
    }
    const refused = new Map<number, Refused>()
    for (const one of await this.#bulk.send(this.#client, this.#limits, signal)) {
      refused.set(one.tag, one)
    }
    return waiting.filter((document, i) => left(document, refused.get(i), failures))
  }
  #put(tag: number, { index, id }: Waiting, { source, seqNo, term }: Read): void {
    const { out } = this.#bulk
    this.#bulk.begin(tag, { index, id, routing: undefined })
    out.utf8(`{"${seqNo < 0 ? 'create' : 'index'}":{"_index":${JSON.stringify(index)},"_id":`)
    writeJsonString(id, out)
    if (seqNo >= 0) out.ascii(`,"if_seq_no":${seqNo},"if_primary_term":${term}`)
    out.ascii('}}\n')
    out.utf8(JSON.stringify(source))
    out.ascii('\n')
    this.#bulk.end()
  }
  async #read(waiting: readonly Waiting[], signal: AbortSignal): Promise<Read[]> {
    const docs = waiting.map(({ index, id }) => ({ _index: index, _id: id }))
    const body = JSON.stringify({ docs })
    const { text } = await this.#client.request('POST', '/_mget', { body, signal })
    return parseExact<{ docs: Got[] }>(text).docs.map((got) => {
      if (got.error !== undefined) {
        throw new SluiceError('SINK_UNAVAILABLE', `reading documents: ${got.error.reason}`)
      }
      if (got.found !== true) return { source: undefined, seqNo: -1, term: 0 }
      return { source: got._source, seqNo: got._seq_no!, term: got._primary_term! }
    })
  }
}

/** What one try has left of a document; true when there is more to do. */
function left(document: Waiting, refused: Refused | undefined, failures: RowFailure[]): boolean {
  const { changes, take } = document
  // somebody else was faster, or is: read again
  if (refused?.status === 409) return true
  if (refused === undefined) document.changes = changes.slice(take)
  else if (refused.passes) {
    // what comes later waits with it, for it would make these too old
    document.changes = []
    fail(changes, document, refused, failures)
  } else if (Math.min(take, changes.length) > 1) document.take = 1
  else {
    document.changes = changes.slice(1)
    fail(changes.slice(0, 1), document, refused, failures)
  }
  return document.changes.length > 0
}
function fail(
  changes: readonly PartChange[],
  { index, id }: Waiting,
  { passes, reason }: Refused,
  failures: RowFailure[],
): void {
  const code = passes ? 'SINK_UNAVAILABLE' : 'SINK_DATA'
  const error = new SluiceError(code, `document ${id} of ${index}: ${reason}`)
  for (const { row } of changes) failures.push({ index: row, error, retryable: passes })
}
function busy(waiting: readonly Waiting[]): SluiceError {
  const { index, id } = waiting[0]!
  return new SluiceError(
    'SINK_UNAVAILABLE',
    `document ${id} of ${index} was changed by somebody else ${ROUNDS_MAX} times between our reading and writing it`,
  )
}
