/**
 * Change → bytes of a CanalEntry, straight from the raw row image: no value becomes a string or an object on the way.
 * Guarantees the bytes that the Canal server writes (layouts in entries.ts): the entry messages are proto2 in every
 * released artefact, so whatever the server sets is written, zero and empty too. Holds no rows: what it was given may
 * be released as soon as `encode` returns. Must not know sockets, sessions or MySQL's formats.
 */
import {
  eventSeconds,
  eventServerId,
  type BeginChange,
  type Change,
  type CommitChange,
  type QueryChange,
  type RawEvent,
  type RowsChange,
  type Transaction,
} from '../change.ts'
import { formatGtid, isMariadb, type GtidSet } from '../gtid.ts'
import { Out, constantOf, varintSize, type Constant } from '../out.ts'
import { codecOf, compileNames } from './columns.ts'
import { entryTypes, eventTypes } from './entries.ts'
import { putIntField, putTextField } from '../protobuf.ts'
import { quickRows } from './rows/rowdata.ts'
import { moved, sizeOf, writeLargeRows, type Span } from './rows/large.ts'
import { writeRows } from './rows/plain.ts'

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
  /**
   * Writes one change as an element of Messages.messages: tag, length, Entry. Given `spans`, values that are huge are not
   * written but noted there, to be written where they belong: the change's bytes must be kept until that is done.
   */
  encode(change: Change, out: Out, spans?: Span[]): void {
    switch (change.kind) {
      case 'insert':
      case 'update':
      case 'delete':
        if (spans && change.event.end - change.event.start > HUGE_BYTES)
          return this.#largeRows(change, out, spans)
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

  /** The same without the values that are huge: what remains is small, and is copied once it is known how much there is of all. */
  #largeRows(change: RowsChange, out: Out, spans: Span[]): void {
    const codec = codecOf(change.table)
    const rest = new Out()
    const own: Span[] = []
    putIntField(rest, 1, change.tableId)
    const eventType = rowTypes[change.kind]
    putIntField(rest, 2, eventType)
    putIntField(rest, 10, 0)
    const count = writeLargeRows(change, codec, rest, own)
    const length = rest.at + sizeOf(own)
    this.#snapshot = change.snapshot
    const head = this.#writeHead(change.event, ROWDATA, eventType, codec.names, count, length)
    this.#snapshot = false
    out.ensure(12)
    out.u8(0x12)
    out.varint(head.at + length)
    out.append(head)
    for (const span of own) spans.push(moved(span, out.at))
    out.bytes(rest.buf, 0, rest.at)
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
