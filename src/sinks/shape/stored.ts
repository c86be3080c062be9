/**
 * A row as text and back, for dead letters and for workers behind Kafka: every column of both images with its text and its
 * value, the table as it was, the transaction and the place in it. What comes back is a RowsChange of one row, from which
 * a sink makes the same write with the same version. Knows no store, no sink and no format.
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
import type { SinkRow } from './row.ts'

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
/** All of a row but its table. */
export interface StoredPart {
  readonly tx: PlainTx
  readonly kind: RowsChange['kind']
  readonly ordinal: number
  readonly row: number
  readonly tableId: number
  readonly event: { readonly head: string; readonly offset: number; readonly length: number }
  readonly before: readonly Cell[] // empty: the change has no such side
  readonly after: readonly Cell[]
  readonly changed?: readonly number[] // of an update
  readonly half?: RowsChange['half']
}
/** A table as data. */
export interface StoredTable {
  readonly database: string
  readonly name: string
  readonly origin: Table['origin']
  readonly columns: readonly PlainColumn[]
  readonly selected: readonly number[] // indexes in `columns`
}
type Stored = StoredPart & { readonly table: StoredTable }

const HEADER_BYTES = 19
const scratch = new Out(256)

/** The row that the reader stands at. */
export function rowToText(row: SinkRow): string {
  const { columns } = row.change.table
  const stored: Stored = { ...storedPart(row, columns), table: storedTable(row.change.table) }
  return JSON.stringify(stored)
}
/** The row that the reader stands at, with the values of these columns; others are as if the log had left them out. */
export function storedPart(
  { tx, change, row, reader }: SinkRow,
  columns: readonly Column[],
): StoredPart {
  const { epoch, server, lastCommitted, sequenceNumber, file, offset, endFile, endOffset } = tx
  const { first, next, timestamp, state, gtid } = tx
  const { event, kind, ordinal, tableId, table, half } = change
  const image = (side: ImageSide): Cell[] => {
    const cells: Cell[] = Array.from(table.columns, () => 0 as const)
    for (const { index } of columns) cells[index] = cellOf(reader, side, index)
    return cells
  }
  return {
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
    kind,
    ordinal,
    row,
    tableId,
    event: {
      head: event.bytes.toString('base64', event.start, event.start + HEADER_BYTES),
      offset: event.offset,
      length: event.length,
    },
    before: kind === 'insert' ? [] : image(BEFORE),
    after: kind === 'delete' ? [] : image(AFTER),
    ...(kind === 'update' && {
      changed: columns.flatMap((c) => (reader.changed(c.index) ? [c.index] : [])),
    }),
    ...(half && { half }),
  }
}
export function storedTable({ database, name, origin, columns, selected }: Table): StoredTable {
  const plain = columns.map(({ text: _t, utc: _u, value: _v, index: _i, members, ...rest }) => ({
    ...rest,
    members: members ?? null,
  }))
  return { database, name, origin, columns: plain, selected: selected.map((c) => c.index) }
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

/** A row that came back. */
export interface StoredRow {
  readonly tx: Transaction
  readonly change: RowsChange
}
/** What rowToText wrote. Throws STATE_UNREADABLE. */
export function rowFromText(text: string): StoredRow {
  try {
    const { table, ...part } = JSON.parse(text) as Stored
    return rowFromPart(part, tableFrom(table))
  } catch (cause) {
    throw new SluiceError('STATE_UNREADABLE', `a dead letter cannot be read: ${String(cause)}`, {
      cause,
    })
  }
}
/** Throws an Error when it is no such row of this table. */
export function rowFromPart(part: StoredPart, table: Table): StoredRow {
  const { length } = table.columns
  for (const cells of [part.before, part.after]) {
    const fits = cells.length === length || cells.length === 0
    assert(fits, `as many cells as columns (${length}), or none`)
  }
  const { gtid, ...plain } = part.tx
  const change = new OneRow(part, table)
  const tx: Transaction = {
    ...plain,
    gtid: gtid === null ? undefined : { sid: gtid.sid, gno: BigInt(gtid.gno) },
    skipped: undefined,
    changes: [change],
    slab: undefined,
    bytes: 0,
  }
  return { tx, change }
}

const noBytes = (): never => {
  throw new Error('bug in Sluice: a stored row has no bytes of its own')
}
export function tableFrom({ database, name, origin, columns, selected }: StoredTable): Table {
  const all = columns.map((plain, index): Column => ({
    ...plain,
    index,
    members: plain.members ?? undefined,
    text: noBytes,
    value: noBytes,
  }))
  return { database, name, origin, columns: all, selected: selected.map((i) => all[i]!) }
}

class OneRow implements RowsChange {
  readonly kind: RowsChange['kind']
  readonly ordinal: number
  readonly event: RawEvent
  readonly table: Table
  readonly tableId: number
  readonly snapshot = false
  readonly firstRow: number
  readonly half: RowsChange['half']
  readonly #stored: StoredPart
  constructor(stored: StoredPart, table: Table) {
    const bytes = Buffer.from(stored.event.head, 'base64')
    const { offset, length } = stored.event
    this.kind = stored.kind
    this.ordinal = stored.ordinal
    this.event = { bytes, start: 0, end: bytes.length, offset, length }
    this.table = table
    this.tableId = stored.tableId
    this.firstRow = stored.row
    this.half = stored.half
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
  readonly #stored: StoredPart
  #read = false
  constructor(stored: StoredPart) {
    this.#stored = stored
  }
  next(): boolean {
    if (this.#read) return false
    return (this.#read = true)
  }
  #cell(side: ImageSide, column: number): Cell {
    const cell = (side === BEFORE ? this.#stored.before : this.#stored.after)[column]
    return cell === undefined ? 0 : cell
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
    const { changed } = this.#stored
    if (changed !== undefined) return changed.includes(column)
    return this.state(BEFORE, column) !== this.state(AFTER, column)
  }
}
