/**
 * A row that was refused, as text and back: every column of both images with its text and its value, the table as it was,
 * the transaction and the place in it. What comes back is a RowsChange of one row, from which a sink makes the same write
 * with the same version. Knows no store and no sink.
 */
import {
  ABSENT,
  AFTER,
  BEFORE,
  NULL,
  PRESENT,
  type Column,
  type ImageSide,
  type RawEvent,
  type Row,
  type RowReader,
  type RowsChange,
  type Table,
  type Transaction,
  type Value,
  type ValueState,
} from '../../change.ts'
import { assert, SluiceError } from '../../errors.ts'
import { Out } from '../../out.ts'
import type { SinkRow } from '../shape/row.ts'

/** Text or value where it is no plain JSON: bytes, a bigint, a JSON difference, minus zero. */
type Tagged =
  | string
  | number
  | { readonly bytes: string }
  | { readonly big: string }
  | { readonly diff: string }
  | { readonly minusZero: true }
/** 0: absent; null: NULL; else the text, the value where it is not that text, a TIMESTAMP's text in UTC where it is another. */
type Cell = 0 | null | { readonly t: Tagged; readonly v?: Tagged; readonly u?: string }
type PlainColumn = Omit<Column, 'text' | 'utc' | 'value' | 'members' | 'index'> & {
  readonly members: readonly string[] | null
}
type PlainTx = Omit<Transaction, 'gtid' | 'skipped' | 'changes' | 'slab' | 'bytes'> & {
  readonly gtid: { readonly sid: string; readonly gno: string } | null
}
interface Stored {
  readonly tx: PlainTx
  readonly kind: RowsChange['kind']
  readonly ordinal: number
  readonly row: number
  readonly tableId: number
  readonly event: { readonly head: string; readonly offset: number; readonly length: number }
  readonly table: {
    readonly database: string
    readonly name: string
    readonly origin: Table['origin']
    readonly columns: readonly PlainColumn[]
    readonly selected: readonly number[]
  }
  readonly before: readonly Cell[]
  readonly after: readonly Cell[]
  readonly changed: readonly number[]
}

const HEADER_BYTES = 19
const scratch = new Out(256)

/** The row that the reader stands at. */
export function rowToText({ tx, change, row, reader }: SinkRow): string {
  const { epoch, server, lastCommitted, sequenceNumber, file, offset, endFile, endOffset } = tx
  const { first, next, timestamp, state, gtid } = tx
  const { table, event } = change
  const columns = table.columns.map(
    ({ text: _t, utc: _u, value: _v, index: _i, members, ...plain }) => ({
      ...plain,
      members: members ?? null,
    }),
  )
  const image = (side: ImageSide): Cell[] => table.columns.map((c) => cellOf(reader, side, c.index))
  const stored: Stored = {
    tx: {
      epoch,
      server,
      lastCommitted,
      sequenceNumber,
      file,
      offset,
      endFile,
      endOffset,
      first,
      next,
      timestamp,
      state,
      gtid: gtid ? { sid: gtid.sid, gno: String(gtid.gno) } : null,
    },
    kind: change.kind,
    ordinal: change.ordinal,
    row,
    tableId: change.tableId,
    event: {
      head: event.bytes.toString('base64', event.start, event.start + HEADER_BYTES),
      offset: event.offset,
      length: event.length,
    },
    table: {
      database: table.database,
      name: table.name,
      origin: table.origin,
      columns,
      selected: table.selected.map((c) => c.index),
    },
    before: image(BEFORE),
    after: image(AFTER),
    changed: table.columns.flatMap((c) => (reader.changed(c.index) ? [c.index] : [])),
  }
  return JSON.stringify(stored)
}

function cellOf(reader: RowReader, side: ImageSide, column: number): Cell {
  const state = reader.state(side, column)
  if (state === ABSENT) return 0
  if (state === NULL) return null
  scratch.reset()
  reader.text(side, column, scratch)
  const bytes = scratch.buf.subarray(0, scratch.at)
  const text = bytes.toString('utf8')
  const t = Buffer.from(text, 'utf8').equals(bytes) ? text : { bytes: bytes.toString('base64') }
  const value = reader.value(side, column)
  scratch.reset()
  reader.utc(side, column, scratch)
  const utc = scratch.buf.toString('utf8', 0, scratch.at)
  const u = typeof t === 'string' && utc !== t ? { u: utc } : {}
  return value === t ? { t, ...u } : { t, v: tag(value), ...u }
}
function tag(value: Value | undefined): Tagged {
  if (typeof value === 'bigint') return { big: String(value) }
  if (value instanceof Uint8Array) return { bytes: Buffer.from(value).toString('base64') }
  if (typeof value === 'number') return Object.is(value, -0) ? { minusZero: true } : value
  if (typeof value === 'string') return value
  assert(value, 'a value that is present is not null')
  return { diff: value.text }
}
function untag(tagged: Tagged): Value {
  if (typeof tagged !== 'object') return tagged
  if ('big' in tagged) return BigInt(tagged.big)
  if ('bytes' in tagged) return Buffer.from(tagged.bytes, 'base64')
  return 'diff' in tagged ? { kind: 'jsonDiff', text: tagged.diff } : -0
}

/** What rowToText wrote. Throws STATE_UNREADABLE. */
export function rowFromText(text: string): {
  readonly tx: Transaction
  readonly change: RowsChange
} {
  let stored: Stored
  try {
    stored = JSON.parse(text) as Stored
    assert(stored.table.columns.length === stored.after.length, 'as many cells as columns')
  } catch (cause) {
    throw new SluiceError('STATE_UNREADABLE', `a dead letter cannot be read: ${String(cause)}`, {
      cause,
    })
  }
  const { gtid, ...plain } = stored.tx
  const change = new StoredRow(stored)
  const tx: Transaction = {
    ...plain,
    gtid: gtid === null ? undefined : { sid: gtid.sid, gno: BigInt(gtid.gno) },
    skipped: undefined,
    changes: [change],
    slab: undefined,
    bytes: text.length,
  }
  return { tx, change }
}

const noBytes = (): never => {
  throw new Error('bug in Sluice: a dead letter has no bytes of its own')
}
function tableOf({ database, name, origin, columns, selected }: Stored['table']): Table {
  const all = columns.map((plain, index): Column => ({
    ...plain,
    index,
    members: plain.members ?? undefined,
    text: noBytes,
    value: noBytes,
  }))
  return { database, name, origin, columns: all, selected: selected.map((i) => all[i]!) }
}

class StoredRow implements RowsChange {
  readonly kind: RowsChange['kind']
  readonly ordinal: number
  readonly event: RawEvent
  readonly table: Table
  readonly tableId: number
  readonly snapshot = false
  readonly firstRow: number
  readonly #stored: Stored
  constructor(stored: Stored) {
    const bytes = Buffer.from(stored.event.head, 'base64')
    const { offset, length } = stored.event
    this.kind = stored.kind
    this.ordinal = stored.ordinal
    this.event = { bytes, start: 0, end: bytes.length, offset, length }
    this.table = tableOf(stored.table)
    this.tableId = stored.tableId
    this.firstRow = stored.row
    this.#stored = stored
  }
  reader(): RowReader {
    return new StoredReader(this.#stored)
  }
  *rows(): Iterable<Row> {
    const reader = this.reader()
    reader.next()
    const image = (side: ImageSide): (Value | undefined)[] =>
      this.table.columns.map((c) => reader.value(side, c.index))
    yield {
      before: this.kind === 'insert' ? undefined : image(BEFORE),
      after: this.kind === 'delete' ? undefined : image(AFTER),
    }
  }
}

class StoredReader implements RowReader {
  readonly #stored: Stored
  #read = false
  constructor(stored: Stored) {
    this.#stored = stored
  }
  next(): boolean {
    if (this.#read) return false
    return (this.#read = true)
  }
  #cell(side: ImageSide, column: number): Cell {
    return (side === BEFORE ? this.#stored.before : this.#stored.after)[column] ?? null
  }
  state(side: ImageSide, column: number): ValueState {
    const cell = this.#cell(side, column)
    return cell === 0 ? ABSENT : cell === null ? NULL : PRESENT
  }
  text(side: ImageSide, column: number, out: Out): void {
    const cell = this.#cell(side, column)
    if (cell === 0 || cell === null) return
    const text = untag(cell.t)
    const bytes = typeof text === 'string' ? Buffer.from(text, 'utf8') : (text as Buffer)
    out.ensure(bytes.length)
    out.bytes(bytes, 0, bytes.length)
  }
  utc(side: ImageSide, column: number, out: Out): void {
    const cell = this.#cell(side, column)
    if (cell !== 0 && cell?.u !== undefined) out.utf8(cell.u)
    else this.text(side, column, out)
  }
  value(side: ImageSide, column: number): Value | undefined {
    const cell = this.#cell(side, column)
    if (cell === 0) return undefined
    return cell === null ? null : untag(cell.v ?? cell.t)
  }
  changed(column: number): boolean {
    return this.#stored.changed.includes(column)
  }
}
