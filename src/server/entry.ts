/**
 * Change → bytes of a CanalEntry, straight from the raw row image: no value becomes a string or an object on the way.
 * Guarantees the bytes that the Canal server writes (layouts in entries.ts): the entry messages are proto2 in every
 * released artefact, so whatever the server sets is written, zero and empty too. Holds no rows: what it was given may
 * be released as soon as `encode` returns. Must not know sockets, sessions or MySQL's formats.
 */
import {
  ABSENT,
  AFTER,
  BEFORE,
  NULL,
  eventSeconds,
  eventServerId,
  type BeginChange,
  type Change,
  type CommitChange,
  type ImageSide,
  type QueryChange,
  type RawEvent,
  type RowReader,
  type RowsChange,
  type Transaction,
} from '../change.ts'
import { formatGtid, isMariadb, type GtidSet } from '../gtid.ts'
import { Out, constantOf, varintSize, type Constant } from '../out.ts'
import {
  AFTER_TAG,
  codecOf,
  compileNames,
  type Big,
  type ColumnCodec,
  type Forms,
  type TableCodec,
} from './columns.ts'
import { entryTypes, eventTypes } from './entries.ts'
import { putIntField, putTextField } from '../protobuf.ts'
import { quickRows } from './rows/rowdata.ts'

const { ROWDATA, TRANSACTIONBEGIN, TRANSACTIONEND } = entryTypes
const UTF_8 = constantOf(Buffer.from('\x2a\x05UTF-8'))
/** Header.props of rows that were read from the table and not from the log. */
const SNAPSHOT = constantOf(Buffer.from('\x62\x10\x0a\x08snapshot\x12\x04true'))
const ROWS_COUNT = constantOf(Buffer.from('\x0a\x09rowsCount\x12'))
const HUGE_BYTES = 1024 * 1024
const NO_NAMES = compileNames('', '')
const NOTHING = constantOf(Buffer.alloc(0))
const rowTypes = {
  insert: eventTypes.INSERT,
  update: eventTypes.UPDATE,
  delete: eventTypes.DELETE,
} as const

/** One per consumer. `start` a batch, `part` before the changes of each transaction or part of one, then `encode`. */
export class EntryEncoder {
  readonly #gtid: boolean
  readonly #head = new Out(1024)
  readonly #store = new Out(4096)
  readonly #scratch = new Out(64)
  #file = ''
  #fileBytes = NOTHING // Header.version and Header.logfileName
  #serverId = -1
  #seconds = -1
  #origin = NOTHING // Header.serverId, serverenCode and executeTime: few events do not share them with the one before
  #headerWidth = 2
  #snapshot = false // what is encoded now is of a snapshot
  #gtids: GtidSet | undefined
  #gtidProps = NOTHING
  #gtidText = NOTHING
  #committed = false // the transaction ends in this part, and takes effect with it
  /** @param options.gtid fill Header.gtid and the GTID props, as Canal does with gtidon */
  constructor(options: { readonly gtid: boolean }) {
    this.#gtid = options.gtid
  }
  /** @param gtids what was executed before the batch; never changed */
  start(gtids: GtidSet | undefined): void {
    this.#gtids = this.#gtid ? gtids?.clone() : undefined
  }
  /** The changes that follow are of this transaction. */
  part(tx: Transaction): void {
    this.#committed = tx.state === 'committed'
    if (tx.file !== this.#file) {
      this.#file = tx.file
      this.#fileBytes = compiled(this.#store, (out) => {
        putIntField(out, 1, 1)
        putTextField(out, 2, tx.file)
      })
    }
    if (this.#gtid) this.#executed(tx)
  }
  /** Writes one change as an element of Messages.messages: tag, length, Entry. */
  encode(change: Change, out: Out): void {
    switch (change.kind) {
      case 'insert':
      case 'update':
      case 'delete':
        return this.#rows(change, out)
      case 'begin':
        return this.#begin(change, out)
      case 'commit':
        return this.#commit(change, out)
      case 'ddl':
      case 'statement':
      case 'annotation':
      case 'xaCommit':
      case 'xaRollback':
        return this.#query(change, out)
    }
  }

  #executed(tx: Transaction): void {
    const { gtid } = tx
    const gtids = this.#gtids
    if (gtids && tx.skipped) gtids.merge(tx.skipped)
    if (gtids && gtid) gtids.add(gtid)
    const text = gtids?.toString() ?? ''
    this.#gtidText = compiled(this.#store, (out) => {
      if (text !== '') putTextField(out, 13, text)
    })
    this.#gtidProps = compiled(this.#store, (out) => {
      if (gtid === undefined) return
      putPair(out, 12, 'curtGtid', formatGtid(gtid))
      if (isMariadb(gtid.sid)) return // which has no such numbers
      putPair(out, 12, 'curtGtidSn', String(tx.sequenceNumber))
      putPair(out, 12, 'curtGtidLct', String(tx.lastCommitted))
    })
  }

  #begin(change: BeginChange, out: Out): void {
    const store = this.#store
    store.reset()
    if (change.xid !== '') putXa(store, 3, 'XA START', change.xid)
    putIntField(store, 4, change.threadId)
    this.#small(change.event, TRANSACTIONBEGIN, 0, NO_NAMES, out)
  }
  #commit(change: CommitChange, out: Out): void {
    const store = this.#store
    store.reset()
    putTextField(store, 2, change.xa ? '0' : change.xid)
    if (change.xa) putXa(store, 3, 'XA END', change.xid)
    this.#small(change.event, TRANSACTIONEND, 0, NO_NAMES, out)
    if (change.xa && this.#committed) this.#onePhase(change, out)
  }
  /** XA COMMIT … ONE PHASE leaves no statement: who waits for the XACOMMIT of an XA END gets one. */
  #onePhase({ event, xid }: CommitChange, out: Out): void {
    const store = this.#store
    store.reset()
    putIntField(store, 2, eventTypes.XACOMMIT)
    putTextField(store, 11, `XA COMMIT ${xid} ONE PHASE`)
    putXa(store, 13, 'XA COMMIT', xid)
    this.#small(event, ROWDATA, eventTypes.XACOMMIT, NO_NAMES, out)
  }
  #query(change: QueryChange, out: Out): void {
    const store = this.#store
    const eventType = eventTypes[change.type]
    store.reset()
    putIntField(store, 2, eventType)
    const isStatement = change.kind === 'ddl' || change.kind === 'statement'
    if (isStatement) putIntField(store, 10, Number(change.kind === 'ddl'))
    putTextField(store, 11, change.sql)
    if (change.kind === 'xaCommit') putXa(store, 13, 'XA COMMIT', xidOf(change.sql))
    else if (change.kind === 'xaRollback') putXa(store, 13, 'XA ROLLBACK', xidOf(change.sql))
    else if (isStatement && change.defaultDatabase !== '') {
      putTextField(store, 14, change.defaultDatabase)
    }
    this.#small(change.event, ROWDATA, eventType, namesOf(change, isStatement), out)
  }
  /** An entry whose storeValue stands in #store. */
  #small(event: RawEvent, entryType: number, eventType: number, names: Constant, out: Out): void {
    const store = this.#store
    const head = this.#writeHead(event, entryType, eventType, names, 0, store.at)
    out.ensure(12)
    out.u8(0x12)
    out.varint(head.at + store.at)
    out.append(head)
    out.append(store)
  }

  /**
   * The head stands in front and needs the number of rows and of bytes: the rows are written first, behind a gap as
   * large as the head of the table's last entry, and moved only if that was wrong.
   */
  #rows(change: RowsChange, out: Out): void {
    const codec = codecOf(change.table)
    const start = out.at
    const gap = codec.headSize
    const { event } = change
    const bytes = event.end - event.start
    // Two bytes for one of a BLOB. Growing on the way would hold a huge row several times; memory not written to costs none.
    out.ensure(gap + 32 + (bytes > HUGE_BYTES ? bytes * 2 + HUGE_BYTES : 0))
    out.at = start + gap
    const eventType = rowTypes[change.kind]
    putIntField(out, 1, change.tableId)
    putIntField(out, 2, eventType)
    putIntField(out, 10, 0)
    // rows of a snapshot have JSON as text, which the quick way would take for the log's form
    let count = change.snapshot ? -1 : quickRows(change, out)
    if (count < 0) count = writeRows(change, codec, out)
    const length = out.at - start - gap
    this.#snapshot = change.snapshot
    const head = this.#writeHead(event, ROWDATA, eventType, codec.names, count, length)
    this.#snapshot = false
    const size = 1 + varintSize(head.at + length) + head.at
    if (size !== gap) {
      out.ensure(size) // more than needed when the gap was too wide
      out.buf.copyWithin(start + size, start + gap, out.at)
      codec.headSize = size
    }
    out.at = start
    out.u8(0x12)
    out.varint(head.at + length)
    out.append(head)
    out.at += length
  }

  #compileOrigin(serverId: number, seconds: number): void {
    this.#serverId = serverId
    this.#seconds = seconds
    this.#origin = compiled(this.#scratch, (out) => {
      putIntField(out, 4, serverId)
      out.constant(UTF_8)
      putIntField(out, 6, seconds * 1000)
    })
  }
  /** Entry.header, Entry.entryType, and tag and length of Entry.storeValue. */
  #writeHead(
    event: RawEvent,
    entryType: number,
    eventType: number,
    names: Constant,
    rowsCount: number,
    storeBytes: number,
  ): Out {
    const out = this.#head
    out.reset()
    out.u8(0x0a)
    const mark = out.begin(this.#headerWidth)
    out.constant(this.#fileBytes)
    putIntField(out, 3, event.offset)
    const serverId = eventServerId(event)
    const seconds = eventSeconds(event)
    if (serverId !== this.#serverId || seconds !== this.#seconds)
      this.#compileOrigin(serverId, seconds)
    out.constant(this.#origin)
    out.constant(names)
    putIntField(out, 10, event.length)
    if (eventType !== 0) putIntField(out, 11, eventType)
    if (this.#gtid) out.constant(this.#gtidProps)
    if (rowsCount > 0) putRowsCount(out, rowsCount)
    if (this.#snapshot) out.constant(SNAPSHOT)
    if (this.#gtid) out.constant(this.#gtidText)
    this.#headerWidth = out.end(mark, this.#headerWidth)
    putIntField(out, 2, entryType)
    out.ensure(12)
    out.u8(0x1a)
    out.varint(storeBytes)
    return out
  }
}

function compiled(scratch: Out, write: (out: Out) => void): Constant {
  scratch.reset()
  write(scratch)
  return constantOf(scratch.buf.subarray(0, scratch.at))
}
function putPair(out: Out, field: number, key: string, value: string): void {
  out.ensure(1)
  out.u8((field << 3) | 2)
  const mark = out.begin(1)
  putTextField(out, 1, key)
  putTextField(out, 2, value)
  out.end(mark, 1)
}
/** Canal cuts the statement right behind its keywords: the space in front of the xid stays. */
function putXa(out: Out, field: number, type: string, xid: string): void {
  putPair(out, field, 'XA_TYPE', type)
  putPair(out, field, 'XA_XID', ` ${xid.trimStart()}`)
}
/** Names that a statement's text did not give are left out, those that an annotation cannot have are empty. */
function namesOf(change: QueryChange, isStatement: boolean): Constant {
  if (!isStatement) return compileNames('', change.table)
  return compileNames(change.database || undefined, change.table || undefined)
}
/** What stands behind XA COMMIT or XA ROLLBACK. */
function xidOf(sql: string): string {
  return sql.replace(/^\s*xa\s+(?:commit|rollback)\s*/i, '')
}
function putRowsCount(out: Out, count: number): void {
  let digits = 1
  for (let p = 10; count >= p; p *= 10) digits++
  out.ensure(3)
  out.u8(0x62)
  out.u8(ROWS_COUNT.length + 1 + digits)
  out.constant(ROWS_COUNT)
  out.u8(digits)
  out.int(count)
}

/** RowChange.rowDatas; returns how many. */
function writeRows(change: RowsChange, codec: TableCodec, out: Out): number {
  const reader = change.reader()
  const { kind } = change
  const { columns } = codec
  let width = codec.rowWidth
  let count = 0
  while (reader.next()) {
    count++
    out.ensure(12)
    out.u8(0x62)
    const mark = out.begin(width)
    if (kind === 'insert') {
      for (let i = 0; i < columns.length; i++) writeColumn(reader, AFTER, columns[i]!, true, out)
    } else {
      const { places } = codec
      for (let i = 0; i < columns.length; i++) {
        places[i] = out.at
        writeColumn(reader, BEFORE, columns[i]!, false, out)
      }
      places[columns.length] = out.at
      if (kind === 'update') writeAfter(reader, codec, out)
    }
    width = out.end(mark, width)
  }
  codec.rowWidth = width
  return count
}

/** The after image of an update. A column that has not changed has the bytes it has in the before image, but for its tag. */
function writeAfter(reader: RowReader, codec: TableCodec, out: Out): void {
  const { columns, places } = codec
  for (let i = 0; i < columns.length; i++) {
    const column = columns[i]!
    if (reader.changed(column.index)) writeColumn(reader, AFTER, column, true, out)
    else out.again(places[i]!, places[i + 1]!, AFTER_TAG)
  }
}

/** One Column with its tag and length; nothing when the column is absent from the image. */
function writeColumn(
  reader: RowReader,
  side: ImageSide,
  column: ColumnCodec,
  updated: boolean,
  out: Out,
): void {
  const state = reader.state(side, column.index)
  if (state === ABSENT) return
  if (state === NULL) {
    if (side === BEFORE) return out.constant(column.nullBefore)
    return out.constant(updated ? column.nullUpdated : column.nullAfter)
  }
  const start = out.at
  const { big } = column
  writeValue(reader, side, column, formsOf(column, side, updated), out)
  if (big !== undefined && isBig(column, big, out)) {
    out.at = start
    writeValue(reader, side, column, formsOf(big, side, updated), out)
  }
}

function formsOf(of: ColumnCodec | Big, side: ImageSide, updated: boolean): Forms {
  return side === BEFORE ? of.before : updated ? of.updated : of.after
}

function writeValue(
  reader: RowReader,
  side: ImageSide,
  column: ColumnCodec,
  forms: Forms,
  out: Out,
): void {
  const { lengthWidth, valueWidth } = column
  const mark = out.at + 1 + lengthWidth
  out.constant(lengthWidth === 1 ? forms[0] : forms[1])
  const valueMark = out.begin(valueWidth)
  reader.text(side, column.index, out)
  column.valueBytes = out.at - valueMark
  column.valueWidth = out.end(valueMark, valueWidth)
  out.constant(column.suffix)
  column.lengthWidth = out.end(mark, lengthWidth) === 1 ? 1 : 2
}

/** Whether the unsigned value just written (its text stands before the suffix) is `from` or more. */
function isBig(column: ColumnCodec, big: Big, out: Out): boolean {
  const { from } = big
  if (column.valueBytes !== from.length) return column.valueBytes > from.length
  const { buf } = out
  const start = out.at - column.suffix.length - from.length
  for (let i = 0; i < from.length; i++) {
    if (buf[start + i] !== from[i]) return buf[start + i]! > from[i]!
  }
  return true
}
