/**
 * One row, one document: full images written with the version of their transaction, which the server compares. A deleted
 * row's document stays behind as a tombstone that the alias does not show.
 *
 * The server compares 63 bits, so only the head of a version (version.ts of shape) fits, and all changes of one transaction
 * have the same number:
 *
 *   epoch 10 bits | number of the log file 21 bits | offset of the transaction's first event 32 bits
 *
 * Writes go out as external_gte: an equal number overwrites, so of one transaction the last write wins.
 */
import {
  ABSENT,
  AFTER,
  BEFORE,
  fileNumber,
  type ImageSide,
  type RowsChange,
  type Transaction,
} from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { writeJsonString, JsonObjectWriter } from '../shape/json.ts'
import type { SinkRow, TargetColumn, TargetTable } from '../shape/row.ts'
import type { BoundTemplate, Template } from '../shape/template.ts'
import { parseVersion } from '../shape/version.ts'
import type { Bulk } from './bulk.ts'
import { META } from './index/mapping.ts'

const ID_BYTES_MAX = 512

// ── versions ─────────────────────────────────────────────────────────────────

const EPOCH_MAX = 0x3ff
const FILE_MAX = 0x1f_ffff
const OFFSET_MAX = 0xffff_ffff

export interface VersionHead {
  readonly epoch: number
  readonly file: number
  readonly offset: number
}

/**
 * The document's version. A transaction that begins beyond 4 GiB of its file (one may: behind a huge one of the same group
 * commit) has the number of the file's last byte: not below any before it in the file, and below the next file's.
 * Throws SINK_UNSUITABLE when the epoch or the file's number does not fit.
 */
export function packVersion({ epoch, file, offset }: VersionHead): bigint {
  if (epoch > EPOCH_MAX) {
    throw new SluiceError(
      'SINK_UNSUITABLE',
      `expected an epoch of at most ${EPOCH_MAX}, which is what fits a document's version, got ${epoch}; write to another index, with the instance's state begun anew`,
    )
  }
  if (file > FILE_MAX) {
    throw new SluiceError(
      'SINK_UNSUITABLE',
      `expected a log file with a number of at most ${FILE_MAX}, which is what fits a document's version, got ${file}; use versions: parts with another index, or reset the source's logs, which begins an epoch`,
    )
  }
  return (BigInt(epoch) << 53n) | (BigInt(file) << 32n) | BigInt(Math.min(offset, OFFSET_MAX))
}

/** The document's version of a version's text. */
export const packText = (version: string): bigint => packVersion(parseVersion(version))

/** The decimal text of a transaction's version; made once for rows that follow each other. */
export class PackedVersions {
  #of: Transaction | undefined
  #text = ''
  text(tx: Transaction): string {
    if (tx !== this.#of) {
      this.#text = packVersion({
        epoch: tx.epoch,
        file: fileNumber(tx.file),
        offset: tx.offset,
      }).toString()
      this.#of = tx
    }
    return this.#text
  }
}

// ── addresses ────────────────────────────────────────────────────────────────

/** Where a row's document is. Templates give names; columns say which changes move a row to another document. */
export interface Address {
  readonly id: BoundTemplate
  readonly routing: BoundTemplate | undefined
  readonly columns: readonly TargetColumn[]
}
export function bindAddress(
  table: TargetTable,
  id: Template,
  routing: Template | undefined,
): Address {
  const names = [...id.columns, ...(routing?.columns ?? [])]
  const columns = names.flatMap((name) =>
    name === 'key' ? table.keys : table.columns.filter((column) => column.name === name),
  )
  return { id: id.bind(table), routing: routing?.bind(table), columns }
}
/** Whether an update takes a row from one document to another. */
export function moves(row: SinkRow, columns: readonly TargetColumn[]): boolean {
  if (row.op !== 'update') return false
  for (const column of columns) {
    if (row.state(AFTER, column) === ABSENT || row.state(BEFORE, column) === ABSENT) continue
    if (row.changed(column)) return true
  }
  return false
}
/** Throws SINK_DATA for an id that no document can have. */
export function checkId(row: SinkRow, id: string): string {
  if (id !== '' && (id.length <= ID_BYTES_MAX / 3 || Buffer.byteLength(id) <= ID_BYTES_MAX))
    return id
  throw new SluiceError(
    'SINK_DATA',
    `${row.table.database}.${row.table.name} at ${row.id}: expected a document id of 1 to ${ID_BYTES_MAX} bytes, got ${Buffer.byteLength(id)}`,
  )
}
/** Throws SINK_UNSUITABLE for a table whose columns clash with our own field. */
export function checkColumns(table: TargetTable): void {
  if (!table.columns.some((column) => column.name === META)) return
  throw new SluiceError(
    'SINK_UNSUITABLE',
    `${table.database}.${table.name}: a column may not be named ${META}, which is our own field in a document; rename it in the sink's mapping`,
  )
}

export interface DocumentOptions {
  readonly index: string // the concrete one
  readonly address: Address
  readonly pipeline: string | undefined
  readonly tombstones: boolean
  /** The join field of parents and children in one index: its name, the name of this relation, the parent's id. */
  readonly join: Join | undefined
}
export interface Join {
  readonly field: string
  readonly name: string
  readonly parent: BoundTemplate | undefined
}

const bytes = (text: string): Buffer => Buffer.from(text)
const MIDDLE = bytes(',"_id":')
const ROUTING = bytes(',"routing":')
const ACTION_END = bytes('}}\n')

/** Writes rows of one table version. */
export class DocumentWriter {
  readonly index: string
  readonly #options: DocumentOptions
  readonly #indexHead: Buffer
  readonly #deleteHead: Buffer
  readonly #source: JsonObjectWriter
  #whole: RowsChange | undefined
  constructor(table: TargetTable, options: DocumentOptions) {
    checkColumns(table)
    const { index, pipeline, tombstones } = options
    const named = `"_index":${JSON.stringify(index)},"version_type":"external_gte"`
    const through = pipeline === undefined ? '' : `,"pipeline":${JSON.stringify(pipeline)}`
    this.index = index
    this.#options = options
    this.#indexHead = bytes(`{"index":{${named}${through},"version":`)
    this.#deleteHead = bytes(`{"${tombstones ? 'index' : 'delete'}":{${named},"version":`)
    this.#source = new JsonObjectWriter(table)
  }

  /** The actions of one row, into a batch that knows which document has one already. */
  write(row: SinkRow, batch: DocumentBatch): void {
    if (row.op === 'delete') return this.#delete(row, BEFORE, batch)
    // which columns are logged is the same for all rows of an event
    if (row.change !== this.#whole) {
      if (!row.whole(AFTER)) throw partial(row)
      this.#whole = row.change
    }
    this.#put(row, batch)
    if (moves(row, this.#options.address.columns)) this.#delete(row, BEFORE, batch)
  }
  #delete(row: SinkRow, side: ImageSide, batch: DocumentBatch): void {
    this.#begin(row, side, this.#deleteHead, batch)
    if (this.#options.tombstones) batch.bulk.out.bytes(batch.tombstone, 0, batch.tombstone.length)
    batch.bulk.end()
  }
  #put(row: SinkRow, batch: DocumentBatch): void {
    const { join } = this.#options
    const parent = join?.parent?.(row, AFTER)
    this.#begin(row, AFTER, this.#indexHead, batch)
    const { out } = batch.bulk
    if (join === undefined) this.#source.write(row, AFTER, out)
    else {
      out.ascii('{')
      if (this.#source.members(row, AFTER, out)) out.ascii(',')
      writeJsonString(join.field, out)
      out.ascii(':{"name":')
      writeJsonString(join.name, out)
      if (parent !== undefined) {
        out.ascii(',"parent":')
        writeJsonString(parent, out)
      }
      out.ascii('}}')
    }
    out.ascii('\n')
    batch.bulk.end()
  }
  #begin(row: SinkRow, side: ImageSide, head: Buffer, batch: DocumentBatch): void {
    const { address } = this.#options
    const id = checkId(row, address.id(row, side))
    const routing = address.routing?.(row, side)
    const { bulk } = batch
    const { out } = bulk
    batch.take(this.index, id, routing, row.index)
    out.bytes(head, 0, head.length)
    out.ascii(batch.versions.text(row.tx))
    out.bytes(MIDDLE, 0, MIDDLE.length)
    writeJsonString(id, out)
    if (routing !== undefined && routing !== '') {
      out.bytes(ROUTING, 0, ROUTING.length)
      writeJsonString(routing, out)
    }
    out.bytes(ACTION_END, 0, ACTION_END.length)
  }
}

/** The documents of one write: the last action on each. */
export class DocumentBatch {
  readonly bulk: Bulk
  readonly versions = new PackedVersions()
  readonly tombstone = tombstone(Date.now())
  readonly #actions = new Map<string, Map<string, number>>() // index → id (and routing) → action
  constructor(bulk: Bulk) {
    this.bulk = bulk
  }
  take(index: string, id: string, routing: string | undefined, row: number): void {
    let known = this.#actions.get(index)
    if (known === undefined) this.#actions.set(index, (known = new Map()))
    const key = routing === undefined ? id : `${routing}\0${id}`
    const before = known.get(key)
    if (before !== undefined) this.bulk.drop(before)
    known.set(key, this.bulk.begin(row, { index, id, routing }))
  }
}

/** What stays of a deleted document, with the line's end. */
export const tombstone = (now: number): Buffer => bytes(`{"${META}":{"deleted":${now}}}\n`)

function partial(row: SinkRow): SluiceError {
  return new SluiceError(
    'SINK_UNSUITABLE',
    `${row.table.database}.${row.table.name} at ${row.id}: expected the whole row (binlog_row_image=FULL), found columns left out; set versions: parts for this table to merge what has changed`,
  )
}
