/**
 * Events of transactions → Transaction: what begins and ends one, which changes it has, in which parts it is handed on,
 * what a filter leaves of it. Ordinals count every event of a transaction before any filter, so that all readers of a
 * log agree. Guarantees that a transaction is 'committed' only after its commit was read, and that filtered traffic
 * still moves positions. Knows neither where events come from nor how their place in the log is counted.
 */
import { classify, isBegin, type Statement } from '../../catalog/ddl/classify.ts'
import {
  readExecuteLoadQuery,
  readGtid,
  readIntvar,
  readQuery,
  readRand,
  readRowsQuery,
  readUserVar,
  readXaPrepare,
  type Query,
  statementText,
  type GtidEvent,
} from '../../binlog/event.ts'
import * as mariadb from '../../binlog/mariadb/events.ts'
import { HEADER_BYTES, eventName, eventTypes, type Format } from '../../binlog/reader.ts'
import type { Filter, Position, Transaction } from '../../change.ts'
import type { KindOptions } from '../../filter.ts'
import { SluiceError } from '../../errors.ts'
import type { Slabs } from '../../slab.ts'
import { LoggedTransaction } from './logged.ts'
import { inflate, withOurCollations } from './mariadb.ts'
import { isRows, Pending, XID, type Event } from './pending.ts'
import { Skipped, type Place } from './skipped.ts'
import type { LogPlace } from '../../catalog/history.ts'
import { TableCache, type TableResolver } from './tables.ts'

export interface BuilderOptions {
  readonly epoch: number
  readonly server: string // server_uuid
  readonly catalog: TableResolver
  readonly filter: Filter
  readonly kinds?: KindOptions | undefined // what is wanted of the tables that `filter` wants
  readonly slabs: Slabs
  readonly partBytes: number
  /** Whether whole filtered transactions are to be told as a set of GTIDs. */
  readonly gtids: boolean
  /** For how long filtered transactions are gathered before they are told; by default a moment. */
  readonly skippedMs?: number | undefined
}

const BEGIN = { kind: 'begin', xid: '' } as const
const COMMIT = { kind: 'commit', xid: '0', xa: false } as const
const QUERY_HEAD = HEADER_BYTES + 13
const NO_GTID: GtidEvent = {
  gtid: undefined,
  lastCommitted: 0,
  sequenceNumber: 0,
  immediateCommit: 0,
  originalCommit: 0,
  transactionBytes: 0,
}

export class TransactionBuilder {
  /** What the last event completed: to be taken, and set to undefined, before the next one. */
  ready: Transaction | undefined
  readonly pending: Pending
  readonly tables: TableCache
  readonly #options: BuilderOptions
  #open = false // an event of a transaction has been read, its end has not
  #begun = false // BEGIN or the like has been read: statements do not end the transaction
  #handedOn = false // a part of it has been delivered, by us or before the skip
  #file = ''
  #offset = 0
  #first = 0 // ordinal at which the part begins
  #next = 0 // ordinal of the next event
  #skip = 0 // ordinals below are not delivered
  #resume: Pick<Position, 'file' | 'offset' | 'skip'> | undefined
  #gtid: GtidEvent = NO_GTID
  #noEffect = false // its statement is not carried out (yet)
  #timestamp = 0
  #unconfirmed = -1 // index of the first annotation whose statement has not shown a kept row yet; -1: none
  readonly #skipped: Skipped // filtered traffic

  constructor(options: BuilderOptions) {
    this.#options = options
    this.#skipped = new Skipped(options.skippedMs)
    this.pending = new Pending(options.slabs)
    this.tables = new TableCache(options.catalog, options.filter)
  }

  get open(): boolean {
    return this.#open
  }

  /** Should the next transaction be the one at `from`, its events with ordinals below `from.skip` are done. */
  resume(from: Pick<Position, 'file' | 'offset' | 'skip'>): void {
    this.#resume = from
    if (from.file !== '') this.#skipped.told(from)
  }

  /**
   * Takes an event of a transaction; `place` is past it. A promise only while the catalog looks a table up.
   * Throws EVENT_MALFORMED, EVENT_UNKNOWN and what the catalog throws.
   */
  take(event: Event, format: Format, place: Place): void | Promise<void> {
    const { type } = event
    if (
      type === eventTypes.GTID ||
      type === eventTypes.ANONYMOUS_GTID ||
      type === eventTypes.GTID_TAGGED
    )
      return this.#takeGtid(event, place)
    if (type === eventTypes.MARIADB_GTID) return this.#takeMariadbGtid(event, place)
    if (!this.#open) this.#begin(event, place)
    event.ordinal = this.#next++
    switch (type) {
      case eventTypes.TABLE_MAP:
        return this.tables.learn(event, format, this.#place)
      case eventTypes.WRITE_ROWS:
      case eventTypes.WRITE_ROWS_V1:
      case eventTypes.UPDATE_ROWS:
      case eventTypes.UPDATE_ROWS_V1:
      case eventTypes.DELETE_ROWS:
      case eventTypes.DELETE_ROWS_V1:
      case eventTypes.PARTIAL_UPDATE_ROWS:
        return this.#takeRows(event, format)
      case eventTypes.XID:
        if (this.#wanted(event)) this.pending.keep(event, XID)
        return this.#finish(place, 'committed')
      case eventTypes.QUERY:
        return this.#takeQuery(event, format, place)
      case eventTypes.XA_PREPARE: {
        const { onePhase } = readXaPrepare(event.bytes, event.start, event.end)
        return this.#finish(place, onePhase ? 'committed' : 'prepared')
      }
      default:
        if (mariadb.plainType(type) === type) return this.#takeOther(event)
        if (type !== eventTypes.QUERY_COMPRESSED) return this.#takeRows(event, format)
        inflate(event, format)
        return this.#takeQuery(event, format, place)
    }
  }

  #begin(event: Event, place: Place): void {
    const resume = this.#resume
    this.#resume = undefined
    // On another server the same transaction lies elsewhere, and `skip` means nothing there.
    const same = resume?.file === place.file && resume.offset === event.offset
    this.#skip = same ? resume.skip : 0
    this.tables.trim()
    this.#open = true
    this.#begun = false
    this.#handedOn = this.#skip > 0
    this.#file = place.file
    this.#offset = event.offset
    this.#first = this.#skip
    this.#next = 0
    this.#gtid = NO_GTID
    this.#noEffect = false
    this.#unconfirmed = -1
    this.#timestamp = event.bytes.readUInt32LE(event.start) * 1000
  }

  #takeGtid(event: Event, place: Place): void {
    if (this.#open) this.abandon(place)
    this.#begin(event, place)
    this.#next = 1
    this.#gtid = readGtid(event.bytes, event.start, event.end)
    if (this.#gtid.immediateCommit > 0) {
      this.#timestamp = Math.floor(this.#gtid.immediateCommit / 1000)
    }
  }

  /** MariaDB's, which is the transaction's BEGIN as well. */
  #takeMariadbGtid(event: Event, place: Place): void {
    if (this.#open) this.abandon(place)
    this.#begin(event, place)
    event.ordinal = this.#next++
    const { gtid, standalone, xid, noEffect } = mariadb.readMariadbGtid(event)
    this.#gtid = { ...NO_GTID, gtid }
    this.#noEffect = noEffect
    if (standalone) return
    this.#begun = true
    if (event.ordinal >= this.#skip)
      this.pending.keep(event, xid === '' ? BEGIN : { kind: 'begin', xid })
  }

  #takeRows(event: Event, format: Format): void {
    const detail = this.tables.rows(event, format)
    const { pending } = this
    if (detail === null || this.#options.kinds?.rows?.[detail.kind] === false) {
      if (this.#unconfirmed >= 0 && this.tables.lastOfStatement) this.#dropAnnotations()
      pending.shrink()
      return
    }
    if (event.ordinal < this.#skip) return pending.shrink()
    this.#unconfirmed = -1
    if (mariadb.plainType(event.type) !== event.type) inflate(event, format)
    pending.keep(event, detail)
    if (pending.bytes > this.#options.partBytes) this.#handOnPart()
  }

  #takeQuery(event: Event, format: Format, place: Place): void {
    const { bytes, start, end } = event
    if (this.#noEffect) return this.#finish(place, 'committed')
    if (end - start > QUERY_HEAD) {
      const sql = start + QUERY_HEAD + bytes[start + 27]! + bytes.readUInt16LE(start + 30) + 1
      if (isBegin(bytes, sql, end)) {
        this.#begun = true
        if (event.ordinal >= this.#skip) this.pending.keep(event, BEGIN)
        return
      }
    }
    const query = readQuery(bytes, start, end)
    const sql = statementText(bytes, query)
    const statement = classify(sql, query.database)
    if (this.#takeBoundary(event, statement, place)) return
    this.#dropAnnotationsOfFiltered(statement)
    this.#takeStatement(
      event,
      statement,
      mariadb.isMariadb(format) ? withOurCollations(query) : query,
      sql,
    )
    if (!this.#begun) {
      if (statement.opens) this.#begun = true
      else this.#finish(place, 'committed')
    }
  }

  /** Statements that begin or end a transaction or a stretch of it; false for all others. */
  #takeBoundary(event: Event, statement: Statement, place: Place): boolean {
    const { pending } = this
    switch (statement.kind) {
      case 'begin':
      case 'xaStart':
        this.#begun = true
        if (event.ordinal >= this.#skip) pending.keep(event, { kind: 'begin', xid: statement.xid })
        return true
      case 'rollback':
        this.#rollBack(place)
        if (this.#wanted(event)) pending.keep(event, COMMIT)
        this.#finish(place, 'committed')
        return true
      case 'commit':
        if (this.#wanted(event)) pending.keep(event, COMMIT)
        this.#finish(place, 'committed')
        return true
      case 'xaEnd':
        if (this.#wanted(event))
          pending.keep(event, { kind: 'commit', xid: statement.xid, xa: true })
        return true
      case 'xaPrepare':
        this.#finish(place, 'prepared')
        return true
      case 'savepoint':
        if (!this.#begun) this.#finish(place, 'committed')
        return true
      case 'xaCommit':
      case 'xaRollback':
      case 'ddl':
      case 'statement':
        return false
    }
  }

  #takeStatement(event: Event, statement: Statement, query: Query, sql: string): void {
    const { kind } = statement
    const { database, sqlMode, serverCollation, utf8mb4Collation, explicitTimestamps } = query
    if (kind === 'ddl' && statement.tables.length > 0) {
      const session = { database, sqlMode, serverCollation, utf8mb4Collation, explicitTimestamps }
      this.tables.statement({ sql, ...session, failed: query.errorCode !== 0 }, this.#place)
    }
    if (event.ordinal < this.#skip || !this.#passes(statement)) return
    if (kind !== 'ddl' && kind !== 'statement' && kind !== 'xaCommit' && kind !== 'xaRollback')
      return
    if (kind === 'statement' && this.#options.kinds?.statements?.dml === 'stop')
      throw this.#byStatement(event, statement)
    this.#unconfirmed = -1
    this.pending.keep(event, {
      kind,
      type: statement.type,
      database: statement.database,
      table: statement.table,
      tables: statement.tables,
      defaultDatabase: database,
      sql,
    })
    if (this.pending.bytes > this.#options.partBytes && this.#begun) this.#handOnPart()
  }
  /** Rows were changed, and the log does not have them. */
  #byStatement(event: Event, { type, database, table }: Statement): SluiceError {
    return new SluiceError(
      'SOURCE_UNSUITABLE',
      `${this.#file}:${event.offset}: expected changed rows, got ${type} on ${database}.${table} logged as text: the session that wrote it has another binlog_format than ROW. ` +
        "SET PERSIST binlog_format = 'ROW' on the source, let applications reconnect, and take from them the right to change it; " +
        'to pass this one, whose rows clients will not see, set filter.statements.dml to deliver (or drop), and read the table anew',
    )
  }
  /** Where the transaction begins. */
  get #place(): LogPlace {
    return { epoch: this.#options.epoch, file: this.#file, offset: this.#offset }
  }
  #passes(statement: Statement): boolean {
    const { kind, type, tables } = statement
    const { filter, kinds } = this.#options
    if (tables.length > 0 && !tables.some((t) => filter(t.database, t.table))) return false
    if (kind === 'statement') return kinds?.statements?.dml !== 'drop'
    if (kind !== 'ddl') return true
    const definition = type !== 'QUERY' || tables.length > 0
    return kinds?.statements?.[definition ? 'ddl' : 'dcl'] !== false
  }

  /** Events that only comment on others, and those that mean nothing to us. */
  #takeOther(event: Event): void {
    const { bytes, start, end } = event
    switch (event.type) {
      case eventTypes.ROWS_QUERY:
        return this.#annotate(event, readRowsQuery(bytes, start, end))
      case eventTypes.ANNOTATE_ROWS:
        return this.#annotate(event, mariadb.readAnnotation(bytes, start, end))
      case eventTypes.INTVAR:
        return this.#annotate(event, readIntvar(bytes, start, end))
      case eventTypes.RAND:
        return this.#annotate(event, readRand(bytes, start, end))
      case eventTypes.USER_VAR:
        return this.#annotate(event, readUserVar(bytes, start, end))
      case eventTypes.EXECUTE_LOAD_QUERY: {
        const query = readExecuteLoadQuery(bytes, start, end)
        const sql = statementText(bytes, query)
        const statement = classify(sql, query.database)
        this.#dropAnnotationsOfFiltered(statement)
        return this.#takeStatement(event, statement, query, sql)
      }
      case eventTypes.BEGIN_LOAD_QUERY:
      case eventTypes.APPEND_BLOCK:
      case eventTypes.DELETE_FILE:
      case eventTypes.TRANSACTION_CONTEXT:
      case eventTypes.VIEW_CHANGE:
      case eventTypes.IGNORABLE:
        return this.pending.shrink()
      default:
        if ((bytes[start + 17]! & 0x80) !== 0) return this.pending.shrink()
        throw new SluiceError(
          'EVENT_UNKNOWN',
          `${this.#file}:${event.offset}: expected an event that MySQL 5.6 to 9.x or MariaDB writes, got ${eventName(event.type)} without the flag that allows to pass over it`,
        )
    }
  }

  #annotate(event: Event, sql: string): void {
    // Several may stand before one statement; that which is the statement itself is alone.
    if (event.type === eventTypes.ROWS_QUERY || event.type === eventTypes.ANNOTATE_ROWS)
      this.#dropAnnotations()
    if (event.ordinal < this.#skip || this.#options.kinds?.statements?.dml === 'drop') return
    if (this.#unconfirmed < 0) this.#unconfirmed = this.pending.count
    this.pending.keep(event, {
      kind: 'annotation',
      type: 'QUERY',
      database: '',
      table: '',
      tables: [],
      defaultDatabase: '',
      sql,
    })
  }
  #dropAnnotations(): void {
    if (this.#unconfirmed < 0) return
    this.pending.truncate(this.#unconfirmed)
    this.#unconfirmed = -1
  }
  #dropAnnotationsOfFiltered(statement: Statement): void {
    if (!this.#passes(statement)) this.#dropAnnotations()
  }

  /** Whether the event that ends a transaction is delivered: only when anything of the transaction is. */
  #wanted(event: Event): boolean {
    this.#dropAnnotations()
    if (event.ordinal < this.#skip) return false
    return this.#handedOn || this.#hasContent()
  }
  #hasContent(): boolean {
    const { pending } = this
    // BEGIN alone is no content.
    return pending.count > 1 || (pending.count === 1 && !pending.startsWithBegin)
  }

  /** Rows before a ROLLBACK were not applied; text statements were, on tables that cannot roll back. */
  #rollBack(place: Place): void {
    if (this.#handedOn) {
      throw new SluiceError(
        'SOURCE_UNSUITABLE',
        `${this.#file}:${this.#offset}: a transaction of which parts were delivered already was rolled back at ${place.file}:${place.offset}; expected binlog_format=ROW, which logs no rolled back rows`,
      )
    }
    this.pending.remove(isRows)
  }

  /** The log goes on without the end of the open transaction, as after a crash of the server. */
  abandon(place: Place): void {
    if (!this.#open) return
    if (this.#handedOn) {
      throw new SluiceError(
        'EVENT_MALFORMED',
        `${place.file}:${place.offset}: expected the end of the transaction at ${this.#file}:${this.#offset}, got another one's beginning`,
      )
    }
    this.#close()
  }

  #close(): void {
    this.pending.reset()
    this.#open = false
  }

  #handOnPart(): void {
    this.ready = this.#transaction('open', { file: this.#file, offset: this.#offset })
    this.#first = this.#next
    this.#handedOn = true
  }

  #finish(place: Place, state: 'committed' | 'prepared'): void {
    this.#dropAnnotations()
    if (this.#handedOn || this.#hasContent()) this.ready = this.#transaction(state, place)
    else this.#skipOver(place)
    this.#close()
  }

  #transaction(state: Transaction['state'], end: Place): Transaction {
    const part = this.pending.take()
    const skipped = this.#skipped.take()
    if (state !== 'open') this.#skipped.told(end)
    const { gtid, lastCommitted, sequenceNumber } = this.#gtid
    return new LoggedTransaction(part, {
      epoch: this.#options.epoch,
      server: this.#options.server,
      gtid,
      lastCommitted,
      sequenceNumber,
      skipped,
      file: this.#file,
      offset: this.#offset,
      endFile: end.file,
      endOffset: end.offset,
      first: this.#first,
      next: this.#next,
      timestamp: this.#timestamp,
      state,
    })
  }

  // ── filtered traffic ───────────────────────────────────────────────────────

  /** The transaction at hand has nothing to deliver. */
  #skipOver(end: Place): void {
    const begin = { file: this.#file, offset: this.#offset }
    const gtid = this.#options.gtids ? this.#gtid.gtid : undefined
    if (this.#skipped.add(begin, end, this.#timestamp, gtid)) this.#tell(end)
  }

  /**
   * The source has nothing more to say for now: what moved the position without a transaction is told. A source that is
   * still passing over what we have already says where it is as well: nothing before the place we go on from is told.
   */
  idle(place: Place): void {
    if (!this.#open && !this.ready && this.#skipped.isWorthTelling(place)) this.#tell(place)
  }

  #tell(end: Place): void {
    const from = this.#skipped.begin ?? end
    this.#file = from.file
    this.#offset = from.offset
    this.#gtid = NO_GTID
    this.#first = 0
    this.#next = 0
    this.pending.reset()
    this.ready = this.#transaction('committed', end)
  }

  /** Gives memory back; the builder is of no use afterwards. */
  close(): void {
    this.pending.close()
  }
}
