/**
 * Readers of what a Canal MESSAGES reply carries: Entry, Header, RowChange, RowData, Column and the transaction marks.
 * For the SDK; the server only writes them (entry.ts). Rows and columns are walked in place: nothing is allocated per
 * column until its name or value is asked for. Garbage becomes SluiceError WIRE_MALFORMED.
 *
 *   Entry            = 1 Header · 2 entryType · 3 storeValue bytes
 *   Header           = 1 version · 2 logfileName · 3 logfileOffset · 4 serverId · 5 serverenCode · 6 executeTime ·
 *                      7 sourceType · 8 schemaName · 9 tableName · 10 eventLength · 11 eventType · 12 Pair* · 13 gtid
 *   RowChange        = 1 tableId · 2 eventType · 10 isDdl · 11 sql · 12 RowData* · 13 Pair* · 14 ddlSchemaName
 *   RowData          = 1 Column* before · 2 Column* after · 3 Pair*
 *   Column           = 1 index · 2 sqlType · 3 name · 4 isKey · 5 updated · 6 isNull · 7 Pair* · 8 value · 9 length ·
 *                      10 mysqlType
 *   TransactionBegin = 1 executeTime · 2 transactionId · 3 Pair* · 4 threadId
 *   TransactionEnd   = 1 executeTime · 2 transactionId · 3 Pair*
 *   Pair             = 1 key · 2 value
 *
 * Facts: the classes of com.alibaba.otter:canal.protocol 1.1.4 to 1.1.8. They are proto2, though the source tree's later
 * EntryProtocol.proto is proto3: released servers write zero and empty fields too. Both forms are read.
 */
import { FieldReader, bytesTag, varintTag } from '../protobuf.ts'

export const entryTypes = {
  TRANSACTIONBEGIN: 1,
  ROWDATA: 2,
  TRANSACTIONEND: 3,
  HEARTBEAT: 4,
  GTIDLOG: 5,
} as const

/** Header.eventType and RowChange.eventType. */
export const eventTypes = {
  INSERT: 1,
  UPDATE: 2,
  DELETE: 3,
  CREATE: 4,
  ALTER: 5,
  ERASE: 6,
  QUERY: 7,
  TRUNCATE: 8,
  RENAME: 9,
  CINDEX: 10,
  DINDEX: 11,
  GTID: 12,
  XACOMMIT: 13,
  XAROLLBACK: 14,
  MHEARTBEAT: 15,
} as const

export interface Pair {
  readonly key: string
  readonly value: string
}
export interface Header {
  readonly version: number | undefined
  readonly logfileName: string
  readonly logfileOffset: number
  readonly serverId: number
  readonly serverenCode: string
  readonly executeTime: number // ms
  readonly sourceType: number | undefined
  readonly schemaName: string
  readonly tableName: string
  readonly eventLength: number
  readonly eventType: number | undefined // absent in TRANSACTIONBEGIN and TRANSACTIONEND
  readonly props: readonly Pair[]
  readonly gtid: string
}
export interface Entry {
  readonly header: Header
  readonly entryType: number | undefined
  readonly storeValue: Buffer // a view: RowChange, TransactionBegin or TransactionEnd
}

/** Reads one Entry, header included, storeValue left as it is. */
export function readEntry(bytes: Buffer, start = 0, end = bytes.length): Entry {
  let header: Header | undefined
  let entryType: number | undefined
  let storeValue = bytes.subarray(end, end)
  const r = new FieldReader(bytes, start, end)
  while (r.next()) {
    if (r.tag === bytesTag(1)) {
      r.range()
      header = readHeader(bytes, r.start, r.stop)
    } else if (r.tag === varintTag(2)) entryType = r.int32()
    else if (r.tag === bytesTag(3)) storeValue = r.view()
    else r.skip()
  }
  return { header: header ?? readHeader(bytes, end, end), entryType, storeValue }
}

export function readHeader(bytes: Buffer, start: number, end: number): Header {
  const h = {
    version: undefined as number | undefined,
    logfileName: '',
    logfileOffset: 0,
    serverId: 0,
    serverenCode: '',
    executeTime: 0,
    sourceType: undefined as number | undefined,
    schemaName: '',
    tableName: '',
    eventLength: 0,
    eventType: undefined as number | undefined,
    props: [] as Pair[],
    gtid: '',
  }
  const r = new FieldReader(bytes, start, end)
  while (r.next()) {
    if (r.tag === varintTag(1)) h.version = r.int32()
    else if (r.tag === bytesTag(2)) h.logfileName = r.text()
    else if (r.tag === varintTag(3)) h.logfileOffset = r.int64()
    else if (r.tag === varintTag(4)) h.serverId = r.int64()
    else if (r.tag === bytesTag(5)) h.serverenCode = r.text()
    else if (r.tag === varintTag(6)) h.executeTime = r.int64()
    else if (r.tag === varintTag(7)) h.sourceType = r.int32()
    else if (r.tag === bytesTag(8)) h.schemaName = r.text()
    else if (r.tag === bytesTag(9)) h.tableName = r.text()
    else if (r.tag === varintTag(10)) h.eventLength = r.int64()
    else if (r.tag === varintTag(11)) h.eventType = r.int32()
    else if (r.tag === bytesTag(12)) h.props.push(readPair(r))
    else if (r.tag === bytesTag(13)) h.gtid = r.text()
    else r.skip()
  }
  return h
}

function readPair(outer: FieldReader): Pair {
  outer.range()
  const pair = { key: '', value: '' }
  const r = new FieldReader(outer.bytes, outer.start, outer.stop)
  while (r.next()) {
    if (r.tag === bytesTag(1)) pair.key = r.text()
    else if (r.tag === bytesTag(2)) pair.value = r.text()
    else r.skip()
  }
  return pair
}

export interface RowChange {
  readonly tableId: bigint
  readonly eventType: number | undefined
  readonly isDdl: boolean | undefined
  readonly sql: string
  readonly props: readonly Pair[]
  readonly ddlSchemaName: string
  /** The rows, walked in place; each call starts over. */
  readonly rows: () => RowDataReader
}
export function readRowChange(bytes: Buffer, start = 0, end = bytes.length): RowChange {
  let tableId = 0n
  let eventType: number | undefined
  let isDdl: boolean | undefined
  let sql = ''
  let ddlSchemaName = ''
  const props: Pair[] = []
  const r = new FieldReader(bytes, start, end)
  while (r.next()) {
    if (r.tag === varintTag(1)) tableId = r.bigint()
    else if (r.tag === varintTag(2)) eventType = r.int32()
    else if (r.tag === varintTag(10)) isDdl = r.bool()
    else if (r.tag === bytesTag(11)) sql = r.text()
    else if (r.tag === bytesTag(13)) props.push(readPair(r))
    else if (r.tag === bytesTag(14)) ddlSchemaName = r.text()
    else r.skip()
  }
  const rows = (): RowDataReader => new RowDataReader(bytes, start, end)
  return { tableId, eventType, isDdl, sql, props, ddlSchemaName, rows }
}

export type Side = 'before' | 'after'

/**
 * Walks the rows of a RowChange, and the columns of each row:
 * `while (rows.next()) while (rows.nextColumn()) use(rows.side, rows.column)`. `column` is one object, reused.
 */
export class RowDataReader {
  side: Side = 'after'
  readonly column: ColumnReader
  readonly #change: FieldReader
  readonly #row: FieldReader
  constructor(bytes: Buffer, start: number, end: number) {
    this.#change = new FieldReader(bytes, start, end)
    this.#row = new FieldReader(bytes, end, end)
    this.column = new ColumnReader(bytes)
  }
  next(): boolean {
    const r = this.#change
    while (r.next()) {
      r.skip()
      if (r.tag !== bytesTag(12)) continue
      this.#row.reset(r.bytes, r.start, r.stop)
      return true
    }
    return false
  }
  nextColumn(): boolean {
    const r = this.#row
    while (r.next()) {
      r.skip()
      if (r.tag !== bytesTag(1) && r.tag !== bytesTag(2)) continue
      this.side = r.tag === bytesTag(1) ? 'before' : 'after'
      this.column.read(r.start, r.stop)
      return true
    }
    return false
  }
}

/** One Column in place. Texts are ranges of `bytes` until asked for. */
export class ColumnReader {
  readonly bytes: Buffer
  index = 0
  sqlType = 0
  isKey = false
  updated = false
  isNull = false
  nameStart = 0
  nameEnd = 0
  valueStart = 0
  valueEnd = 0
  mysqlTypeStart = 0
  mysqlTypeEnd = 0
  readonly #fields: FieldReader
  constructor(bytes: Buffer) {
    this.bytes = bytes
    this.#fields = new FieldReader(bytes, 0, 0)
  }
  /** The value's text; "" for NULL too. */
  value(): string {
    return this.bytes.toString('utf8', this.valueStart, this.valueEnd)
  }
  name(): string {
    return this.bytes.toString('utf8', this.nameStart, this.nameEnd)
  }
  mysqlType(): string {
    return this.bytes.toString('utf8', this.mysqlTypeStart, this.mysqlTypeEnd)
  }
  /** Reads the Column in bytes[start, end). */
  read(start: number, end: number): void {
    const r = this.#fields
    r.reset(this.bytes, start, end)
    this.index = this.sqlType = 0
    this.isKey = this.updated = this.isNull = false
    this.nameStart = this.nameEnd = this.valueStart = this.valueEnd = 0
    this.mysqlTypeStart = this.mysqlTypeEnd = 0
    while (r.next()) this.#field(r)
  }
  #field(r: FieldReader): void {
    switch (r.tag) {
      case varintTag(1):
        this.index = r.int32()
        break
      case varintTag(2):
        this.sqlType = r.int32()
        break
      case bytesTag(3):
        r.range()
        this.nameStart = r.start
        this.nameEnd = r.stop
        break
      case varintTag(4):
        this.isKey = r.bool()
        break
      case varintTag(5):
        this.updated = r.bool()
        break
      case varintTag(6):
        this.isNull = r.bool()
        break
      case bytesTag(8):
        r.range()
        this.valueStart = r.start
        this.valueEnd = r.stop
        break
      case bytesTag(10):
        r.range()
        this.mysqlTypeStart = r.start
        this.mysqlTypeEnd = r.stop
        break
      default:
        r.skip()
    }
  }
}

export interface TransactionMark {
  readonly executeTime: number // unused by servers
  readonly transactionId: string // TransactionEnd: the xid in decimal
  readonly props: readonly Pair[] // XA_TYPE and XA_XID of an XA transaction
  readonly threadId: number // TransactionBegin
}
/** Reads a TransactionBegin or a TransactionEnd. */
export function readTransactionMark(bytes: Buffer, start = 0, end = bytes.length): TransactionMark {
  let executeTime = 0
  let transactionId = ''
  let threadId = 0
  const props: Pair[] = []
  const r = new FieldReader(bytes, start, end)
  while (r.next()) {
    if (r.tag === varintTag(1)) executeTime = r.int64()
    else if (r.tag === bytesTag(2)) transactionId = r.text()
    else if (r.tag === bytesTag(3)) props.push(readPair(r))
    else if (r.tag === varintTag(4)) threadId = r.int64()
    else r.skip()
  }
  return { executeTime, transactionId, props, threadId }
}
