/**
 * Changes for the server's tests: a second implementation of RowsChange whose values are given as text, and
 * transactions made of them. Independent of the binlog decoder on purpose.
 */
import {
  ABSENT,
  AFTER,
  BEFORE,
  NULL,
  PRESENT,
  type Change,
  type Column,
  type RawEvent,
  type Row,
  type RowReader,
  type RowsChange,
  type Table,
  type Transaction,
} from '../../src/change.ts'
import { type Slab, SlabPool } from '../../src/slab.ts'

export const UUID = '3e11fa47-71ca-11e1-9e33-c80aa9429562'
export const FILE = 'binlog.000042'

export function column(
  index: number,
  name: string,
  type: number,
  mysqlType: string,
  more: Partial<Column> = {},
): Column {
  return {
    name,
    index,
    type,
    meta: 0,
    mysqlType,
    collation: 255,
    key: false,
    nullable: true,
    unsigned: mysqlType.includes('unsigned'),
    invisible: false,
    members: undefined,
    size: 0,
    text: () => undefined,
    value: () => null,
    ...more,
  }
}
export function tableOf(
  database: string,
  name: string,
  columns: readonly Column[],
  selected = columns,
): Table {
  return { database, name, columns, selected, origin: 'event' }
}
export const orders = tableOf('shop', 'orders', [
  column(0, 'id', 8, 'bigint unsigned', { key: true, nullable: false }),
  column(1, 'name', 15, 'varchar(255)'),
  column(2, 'tiny', 1, 'tinyint unsigned'),
  column(3, 'doc', 245, 'json'),
  column(4, 'flags', 248, "set('a','b')", { members: ['a', 'b'] }),
])

/** undefined: the column is absent. */
export type Texts = readonly (string | null | undefined)[]
export interface TextRow {
  readonly before?: Texts
  readonly after?: Texts
}

class TextReader implements RowReader {
  readonly #rows: readonly TextRow[]
  #at = -1
  constructor(rows: readonly TextRow[]) {
    this.#rows = rows
  }
  next(): boolean {
    return ++this.#at < this.#rows.length
  }
  #cell(side: number, index: number): string | null | undefined {
    const row = this.#rows[this.#at]!
    return (side === BEFORE ? row.before : row.after)?.[index]
  }
  state(side: 0 | 1, index: number): 0 | 1 | 2 {
    const cell = this.#cell(side, index)
    return cell === undefined ? ABSENT : cell === null ? NULL : PRESENT
  }
  text(side: 0 | 1, index: number, out: Parameters<RowReader['text']>[2]): void {
    out.utf8(this.#cell(side, index)!)
  }
  utc(side: 0 | 1, index: number, out: Parameters<RowReader['text']>[2]): void {
    this.text(side, index, out)
  }
  value(side: 0 | 1, index: number): string | null | undefined {
    return this.#cell(side, index)
  }
  changed(index: number): boolean {
    return this.#cell(BEFORE, index) !== this.#cell(AFTER, index)
  }
}

/** An event of a slab's bytes that only has a header: seconds, server id. */
export function rawEvent(offset: number, length: number, bytes?: Buffer): RawEvent {
  const b = bytes ?? Buffer.alloc(19)
  b.writeUInt32LE(1_700_000_001, 0)
  b.writeUInt32LE(33_097, 5)
  return { bytes: b, start: 0, end: 19, offset, length }
}

export function rowsOf(
  kind: RowsChange['kind'],
  rows: readonly TextRow[],
  options: { table?: Table; ordinal?: number; offset?: number; length?: number } = {},
): RowsChange {
  return {
    kind,
    ordinal: options.ordinal ?? 2,
    event: rawEvent(options.offset ?? 300, options.length ?? 123),
    table: options.table ?? orders,
    tableId: 108,
    snapshot: false,
    reader: () => new TextReader(rows),
    rows: (): Iterable<Row> => rows.map(({ before, after }) => ({ before, after })),
  }
}

export const begin = (threadId = 12, xid = ''): Change => ({
  kind: 'begin',
  ordinal: 1,
  event: rawEvent(200, 79),
  threadId,
  xid,
})
export const commit = (xid = '4711', xa = false, ordinal = 9): Change => ({
  kind: 'commit',
  ordinal,
  event: rawEvent(900, 31),
  xid,
  xa,
})

export const slabs = new SlabPool()

/** A transaction of these changes at binlog offset `offset`, `bytes` long; its slab is real and counted. */
export function transactionOf(
  offset: number,
  changes: readonly Change[],
  more: Partial<Transaction> = {},
): Transaction {
  const slab: Slab = slabs.open(100)
  return {
    epoch: 1,
    server: UUID,
    gtid: undefined,
    lastCommitted: 6,
    sequenceNumber: 7,
    skipped: undefined,
    file: FILE,
    offset,
    endFile: FILE,
    endOffset: offset + 1000,
    first: 0,
    next: 0,
    timestamp: 1_700_000_001_000,
    changes,
    state: 'committed',
    slab,
    bytes: 1000,
    ...more,
  }
}
