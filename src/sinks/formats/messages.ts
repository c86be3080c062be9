/**
 * A batch of rows → messages in chunks, in the order of the log: what the sinks that send messages (Kafka, HTTP, files)
 * share. Runs the format over the rows, keeps the rows of one event together where the format does, gives every message
 * its key, its headers and its place (whatever the sink's `route` says: an object per topic and partition), and adds
 * tombstones. Memory: one `Out` per chunk, given back with `free`; nothing of a batch is kept.
 *
 * Headers of every message, for those who deduplicate or fence:
 *   x-sluice-version   40 hexadecimal digits (shape/version.ts); of the first row, where there are several
 *   x-sluice-rows      only with several rows: their numbers in the event, "0-4" or "0,3": they replace the last 8 digits
 *   x-sluice-id        stable over replays: transaction/event.row
 *   x-sluice-op        insert, update, delete; a split key: delete and insert with the same version
 *   x-sluice-position  file:offset of the transaction in the log
 *   x-sluice-instance  versions of different instances never compare
 */
import { BEFORE, type ImageSide, type RowsChange, type Transaction } from '../../change.ts'
import { Out } from '../../out.ts'
import type { SinkBatch } from '../shape/batch.ts'
import type { SinkRow, TargetColumn, TargetTable } from '../shape/row.ts'
import type { Template, BoundTemplate } from '../shape/template.ts'
import { versionPart } from '../shape/version.ts'
import { perTable, type SinkStatement } from '../sink.ts'
import type { Encoder, EventEncoder, Format, FormatContext, Header, RowEncoder } from './format.ts'

export interface Message<Place> {
  readonly place: Place
  /** SinkRow.index of its first and last row. */
  readonly first: number
  readonly last: number
  /** Version of its last row. */
  readonly version: string
  /** null: a tombstone. */
  readonly value: Buffer | null
  readonly key: Buffer | null
  readonly headers: readonly Header[]
  /** Of key, value and headers. */
  readonly bytes: number
}
export interface Chunk<Place> {
  readonly messages: readonly Message<Place>[]
  readonly out: Out
}

/** Where a row's message goes. The key stands in out.buf[from, to); from = to where it has none. */
export type Route<Place> = (row: SinkRow, out: Out, from: number, to: number) => Place

/** The same for all rows of an event at once: by what their columns hash to (EventEncoder.all). */
export interface HashRoute<Place> {
  /** undefined for a table whose rows have to be looked at. */
  hashed(table: TargetTable): readonly TargetColumn[] | undefined
  byHash(table: TargetTable): (hash: number) => Place
}

export interface MessageOptions<Place> {
  readonly format: Format
  readonly context: FormatContext
  readonly route: Route<Place>
  /** Without it every row is routed by `route`, one by one. */
  readonly hashRoute?: HashRoute<Place> | undefined
  /** Whether messages carry the x-sluice headers. */
  readonly headers: boolean
  /** The key; without it the one the format gives. With a template every row is a message of its own. */
  readonly key?: Template | undefined
  /** Whether a delete is followed by a message with the same key and no value. */
  readonly tombstones: boolean
  /** A chunk is closed when it has so many bytes. */
  readonly chunkBytes: number
}

type WriteKey = (row: SinkRow, side: ImageSide, out: Out) => void
interface Compiled {
  readonly encoder: RowEncoder | EventEncoder
  readonly key: WriteKey | undefined
  readonly quick: boolean // whether all rows of an event may be written at once
}
/** A message whose bytes are places in the chunk's buffer. */
interface Draft<Place> {
  readonly place: Place
  readonly first: number
  readonly last: number
  readonly version: string // of the last row
  readonly firstVersion: string
  readonly headers: readonly Header[] // of the format
  readonly id: string
  readonly op: Buffer
  readonly position: Buffer
  readonly rows: string
  readonly at: number
  readonly keyEnd: number
  readonly end: number // = keyEnd: a tombstone
}

const NAMES = {
  version: Buffer.from('x-sluice-version'),
  rows: Buffer.from('x-sluice-rows'),
  id: Buffer.from('x-sluice-id'),
  op: Buffer.from('x-sluice-op'),
  position: Buffer.from('x-sluice-position'),
  instance: Buffer.from('x-sluice-instance'),
}
const OPS = {
  insert: Buffer.from('insert'),
  update: Buffer.from('update'),
  delete: Buffer.from('delete'),
}
const NO_HEADERS: readonly Header[] = []
/** Between two chunks; nothing is ever written to it. */
const NO_OUT = new Out(0)
const OVERHEAD = 24 // about what a record adds

/** The rows of one event in one place, for the headers. */
interface Group<Place> {
  readonly place: Place
  readonly first: number
  last: number
  readonly firstVersion: string
  readonly id: string
  readonly rows: number[]
}

export class MessageWriter<Place> {
  readonly encoder: Encoder
  readonly #options: MessageOptions<Place>
  readonly #instance: Buffer
  readonly #compiled: (table: TargetTable) => Compiled
  readonly #spare: Out[] = []
  #out = NO_OUT
  #drafts: Draft<Place>[] = []
  #groups: Group<Place>[] = []
  #event: EventEncoder | undefined // that has rows
  #change: RowsChange | undefined
  #op = OPS.insert
  #tx: Transaction | undefined
  #position = OPS.insert

  constructor(options: MessageOptions<Place>) {
    this.#options = options
    this.encoder = options.format.open(options.context)
    this.#instance = Buffer.from(options.context.instance)
    this.#compiled = perTable((table) => this.#compile(table))
  }

  /** Takes a chunk's memory back: only when nobody reads its messages any more. */
  free(chunk: Chunk<Place>): void {
    if (this.#spare.length < 3 && chunk.out.buf.length <= this.#options.chunkBytes * 4)
      this.#spare.push(chunk.out)
  }

  statementHeaders({ version, id, tx, change }: SinkStatement): Header[] {
    return [
      [NAMES.version, Buffer.from(version)],
      [NAMES.id, Buffer.from(id)],
      [NAMES.op, Buffer.from(change.kind)],
      [NAMES.position, Buffer.from(`${tx.file}:${tx.offset}`)],
      [NAMES.instance, this.#instance],
    ]
  }

  /**
   * Rows up to version `after` are passed over. A chunk ends between two events or rows, never within what shares an
   * index. Throws ROWS_MALFORMED, SINK_UNSUITABLE, SINK_DATA.
   */
  *chunks(
    batch: SinkBatch,
    now = Date.now(),
    after = '',
  ): Generator<Chunk<Place>, void, undefined> {
    this.encoder.start(batch, now)
    this.#reset()
    let passing = after !== ''
    const whole = (first: SinkRow): number => (passing ? -1 : this.#all(first))
    for (const row of batch.rows(this.#options.format.splitsKeys, whole)) {
      if (row === undefined) {
        if (this.#out.at >= this.#options.chunkBytes) yield this.#chunk()
        continue
      }
      if (passing && row.version <= after) continue
      passing = false
      if (this.#event !== undefined && row.change !== this.#change) this.#endEvent()
      const whole = !(row.keyChanged && row.op === 'insert') // what a row was split into stays together
      if (whole && this.#out.at >= this.#options.chunkBytes) yield this.#chunk()
      this.#add(row)
    }
    if (this.#event !== undefined) this.#endEvent()
    if (this.#drafts.length > 0) yield this.#chunk()
  }

  #reset(): void {
    if (this.#event !== undefined) this.#event.end(new Out(64), () => {}) // of a write that failed
    this.#event = undefined
    this.#groups.length = 0
    this.#out.reset()
    this.#drafts = []
  }
  #open(): void {
    this.#out = this.#spare.pop() ?? new Out(this.#options.chunkBytes + 64 * 1024)
    this.#out.reset()
    this.#drafts = []
  }
  #compile(table: TargetTable): Compiled {
    const { key, hashRoute } = this.#options
    const hashed = key === undefined ? hashRoute?.hashed(table) : undefined
    const encoder = this.encoder.table(table, hashed)
    if (key !== undefined) return { encoder, key: writerOf(key.bind(table)), quick: false }
    if (encoder.unit === 'row') return { encoder, key: encoder.key, quick: false }
    return { encoder, key: undefined, quick: hashed !== undefined && encoder.all !== undefined }
  }
  #add(row: SinkRow): void {
    const { encoder, key } = this.#compiled(row.table)
    this.#begin(row)
    if (encoder.unit === 'row') this.#row(row, encoder, key)
    else if (key === undefined) this.#gather(row, encoder)
    else {
      this.#keyed(row, encoder, key)
    }
  }
  #begin({ tx }: SinkRow): void {
    if (this.#out === NO_OUT) this.#open()
    if (tx === this.#tx) return
    this.#tx = tx
    this.#position = Buffer.from(`${tx.file}:${tx.offset}`)
  }
  #row(row: SinkRow, encoder: RowEncoder, key: WriteKey | undefined): void {
    const out = this.#out
    const at = out.at
    key?.(row, row.side, out)
    const keyEnd = out.at
    const place = this.#options.route(row, out, at, keyEnd)
    encoder.value(row, out)
    this.#draft(row, place, encoder.headers?.(row) ?? NO_HEADERS, at, keyEnd)
    if (key !== undefined && this.#options.tombstones) this.#tombstone(row, place, key)
  }
  /** An event format with a key: every row is a message. */
  #keyed(row: SinkRow, encoder: EventEncoder, key: WriteKey): void {
    const out = this.#out
    const at = out.at
    key(row, row.side, out)
    const keyEnd = out.at
    const place = this.#options.route(row, out, at, keyEnd)
    encoder.add(row, 0)
    encoder.end(out, () => {})
    this.#draft(row, place, NO_HEADERS, at, keyEnd)
    if (this.#options.tombstones) this.#tombstone(row, place, key)
  }
  #gather(row: SinkRow, encoder: EventEncoder): void {
    const out = this.#out
    const place = this.#options.route(row, out, out.at, out.at)
    this.#event = encoder
    this.#change = row.change
    this.#op = OPS[row.op]
    encoder.add(row, this.#group(row, place))
  }
  /** The group of a row; returns its number. */
  #group(row: SinkRow, place: Place): number {
    const groups = this.#groups
    let i = 0
    while (i < groups.length && groups[i]!.place !== place) i++
    const { index } = row
    if (i === groups.length) {
      const { version, id } = row
      const rows = [row.row]
      groups.push({ place, first: index, last: index, firstVersion: version, id, rows })
    } else {
      const group = groups[i]!
      group.last = index
      group.rows.push(row.row)
    }
    return i
  }
  /** All rows of the row's change at once; answers how many, -1 where they are to come one by one. */
  #all(row: SinkRow): number {
    const { encoder, quick } = this.#compiled(row.table)
    if (!quick || encoder.unit === 'row') return -1
    if (this.#event !== undefined) this.#endEvent()
    const written = encoder.all!(row)
    if (written === undefined) return -1
    this.#begin(row)
    this.#op = OPS[row.op]
    const byHash = this.#options.hashRoute!.byHash(row.table)
    const { rows, words, hashes } = written
    const { index, change } = row
    const firstRow = change.firstRow ?? 0
    for (let i = 0; i < rows; i++) {
      row.row = firstRow + i
      row.index = index + i
      this.#group(row, byHash(words[hashes + i]!))
    }
    const out = this.#out
    for (const group of this.#groups) {
      const at = out.at
      encoder.some!(group.rows, out)
      this.#draftGroup(group, at)
    }
    this.#groups.length = 0
    return rows
  }
  #endEvent(): void {
    const out = this.#out
    let at = out.at
    this.#event!.end(out, (i) => {
      this.#draftGroup(this.#groups[i]!, at)
      at = out.at
    })
    this.#event = undefined
    this.#groups.length = 0
  }
  #draftGroup({ place, first, last, firstVersion, id, rows }: Group<Place>, at: number): void {
    const many = rows.length > 1
    this.#drafts.push({
      place,
      first,
      last,
      firstVersion,
      version: many ? lastOf(firstVersion, rows) : firstVersion,
      id,
      headers: NO_HEADERS,
      op: this.#op,
      position: this.#position,
      rows: many ? ranges(rows) : '',
      at,
      keyEnd: at,
      end: this.#out.at,
    })
  }
  #draft(row: SinkRow, place: Place, headers: readonly Header[], at: number, keyEnd: number): void {
    const { index, version, id } = row
    this.#drafts.push({
      place,
      first: index,
      last: index,
      version,
      firstVersion: version,
      headers,
      id,
      op: OPS[row.op],
      position: this.#position,
      rows: '',
      at,
      keyEnd,
      end: this.#out.at,
    })
  }
  /** For the key that is no more: after a delete, and after an update that moved a row to another key. */
  #tombstone(row: SinkRow, place: Place, key: WriteKey): void {
    if (row.op !== 'delete' && !(row.op === 'update' && row.keyChanged)) return
    const out = this.#out
    const at = out.at
    key(row, BEFORE, out)
    const there = row.op === 'delete' ? place : this.#options.route(row, out, at, out.at)
    this.#draft(row, there, NO_HEADERS, at, out.at)
  }
  #chunk(): Chunk<Place> {
    const out = this.#out
    const messages = this.#drafts.map((draft) => this.#message(draft, out))
    this.#out = NO_OUT
    this.#drafts = []
    return { messages, out }
  }
  #message(draft: Draft<Place>, { buf }: Out): Message<Place> {
    const { place, first, last, version, at, keyEnd, end } = draft
    const headers = this.#options.headers ? this.#headers(draft) : draft.headers
    let bytes = end - at + OVERHEAD
    for (const [name, value] of headers) bytes += name.length + value.length + 2
    return {
      place,
      first,
      last,
      version,
      value: end > keyEnd ? buf.subarray(keyEnd, end) : null,
      key: keyEnd > at ? buf.subarray(at, keyEnd) : null,
      headers,
      bytes,
    }
  }
  #headers({ headers, firstVersion, id, op, position, rows }: Draft<Place>): Header[] {
    const all: Header[] = [
      [NAMES.version, Buffer.from(firstVersion, 'latin1')],
      [NAMES.id, Buffer.from(id, 'latin1')],
      [NAMES.op, op],
      [NAMES.position, position],
      [NAMES.instance, this.#instance],
    ]
    if (rows !== '') all.push([NAMES.rows, Buffer.from(rows, 'latin1')])
    return headers.length > 0 ? [...headers, ...all] : all
  }
}

const writerOf =
  (bound: BoundTemplate): WriteKey =>
  (row, side, out) =>
    out.utf8(bound(row, side))

/** The version of the last of some rows of one event, given that of the first. */
const lastOf = (first: string, rows: readonly number[]): string =>
  first.slice(0, -8) + versionPart(rows.at(-1)!)

/** Ascending numbers: "0-4", "0,3,7-9". */
function ranges(rows: readonly number[]): string {
  let text = ''
  for (let i = 0; i < rows.length;) {
    let j = i
    while (rows[j + 1] === rows[j]! + 1) j++
    text += `${text === '' ? '' : ','}${rows[i]}${j > i ? `-${rows[j]}` : ''}`
    i = j + 1
  }
  return text
}
