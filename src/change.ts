/**
 * The vocabulary: what moves from a source through the store to clients and sinks. Types and a few pure helpers;
 * knows nothing of sockets, files, Canal or configuration.
 *
 * The unit that moves is the transaction (a big one in parts). Rows stay the raw bytes of the binlog, in
 * reference-counted slabs, until somebody asks for a value or its text.
 */
import type { Gtid, GtidSet } from './gtid.ts'
import type { Out } from './out.ts'
import type { Slab } from './slab.ts'

// ── positions ────────────────────────────────────────────────────────────────

/**
 * A place in a source's history. Within one epoch (file number, offset, skip) is a total order; across epochs only
 * GTID inclusion compares. Positions are values: nobody changes one (nor its `gtids`) after making it.
 */
export interface Position {
  readonly epoch: number // rises when server_uuid changes, logs are reset or the server was restored; durable
  readonly server: string // server_uuid
  readonly file: string // binlog file name, e.g. "binlog.000123"
  readonly offset: number // bytes; of a transaction's first event, or the end of the last one; not wrapped at 4 GiB
  readonly skip: number // events of the transaction at `offset` already done (ordinals below it), counted before any filter
  readonly gtids: GtidSet | undefined // everything delivered before this position; undefined where GTIDs are off
  readonly timestamp: number // ms; for people and lag, never for order
  readonly row?: number | undefined // rows of the event at `skip` already done; only in what a sink stores in its target
}

/** The number in a binlog file's name: "binlog.000123" → 123. 0 where there is none. */
export function fileNumber(file: string): number {
  const dot = file.lastIndexOf('.')
  const n = Number(file.slice(dot + 1))
  return dot >= 0 && Number.isSafeInteger(n) ? n : 0
}

/** Order of two positions of one epoch: negative, 0 or positive. */
export function comparePositions(
  a: Pick<Position, 'file' | 'offset' | 'skip'>,
  b: Pick<Position, 'file' | 'offset' | 'skip'>,
): number {
  const files = a.file === b.file ? 0 : fileNumber(a.file) - fileNumber(b.file)
  return files || a.offset - b.offset || a.skip - b.skip
}

/** For people and logs: "binlog.000123:4567" and "+12" where a transaction is partly done. */
export function formatPosition(p: Pick<Position, 'file' | 'offset' | 'skip'>): string {
  return p.skip > 0 ? `${p.file}:${p.offset}+${p.skip}` : `${p.file}:${p.offset}`
}

// ── tables and values ────────────────────────────────────────────────────────

/** A JSON change for which there is no before image: the list of MySQL's JSON diffs, as text. */
export interface JsonDiff {
  readonly kind: 'jsonDiff'
  readonly text: string
}
/**
 * null = SQL NULL; undefined (where allowed) = the column is absent from the row image.
 * Integers up to 48 bits and YEAR are numbers, BIGINT and BIT bigints, DECIMAL a string with its exact scale, FLOAT and
 * DOUBLE numbers, temporal types strings as MySQL prints them, ENUM and SET their labels, JSON the text MySQL prints,
 * character types strings, BINARY / VARBINARY / BLOB / GEOMETRY / VECTOR bytes.
 */
export type Value = null | number | bigint | string | Uint8Array | JsonDiff

/** Writes a value's text (Canal's form, UTF-8) from bytes[at, end) to `out`. */
export type TextWriter = (bytes: Buffer, at: number, end: number, out: Out) => void
/**
 * How a value's text is made from its bytes, for those who write many of them at a time: integers little-endian, strings that
 * are UTF-8 already, ISO-8859-1, and the packed forms of MySQL 5.6 and later.
 */
export type TextForm =
  | 'signed'
  | 'unsigned'
  | 'utf8'
  | 'latin1'
  | 'decimal'
  | 'date'
  | 'time2'
  | 'datetime2'
  | 'json'
/** Reads a JS value from bytes[at, end). */
export type ValueReader = (bytes: Buffer, at: number, end: number) => Value

/** One column of one version of a table, compiled: everything a codec needs, nothing it must look up per row. */
export interface Column {
  readonly name: string
  readonly index: number // 0-based ordinal in the table
  readonly type: number // MySQL type code as it is in effect (enum and set resolved from STRING), include/field_types.h
  readonly meta: number // the table map's type metadata
  readonly mysqlType: string // as SHOW CREATE TABLE prints it: "int unsigned", "tinyint(1)", "enum('a','b')"
  readonly collation: number // 0 where the type has none
  readonly key: boolean // member of the primary key
  readonly nullable: boolean
  readonly unsigned: boolean
  readonly invisible: boolean
  readonly members: readonly string[] | undefined // enum, set
  readonly size: number // > 0: every value has this many bytes; -n: an n-byte little-endian length stands before it; 0: always empty
  readonly text: TextWriter
  /** What `text` does, where that has a name; `meta` has its digits. */
  readonly form?: TextForm | undefined
  /** Of TIMESTAMP only: its text in UTC, whatever zone `text` is in: exact also in the hour that a zone has twice. */
  readonly utc?: TextWriter | undefined
  readonly value: ValueReader
}

export interface Table {
  readonly database: string
  readonly name: string
  readonly columns: readonly Column[] // all of them, in table order: row images are laid out by these
  readonly selected: readonly Column[] // those that are delivered (column filter); the same array when all are
  /**
   * Where names and types come from: the event itself, a statement of the log, information_schema at a moment when nothing
   * can have changed the table since, or information_schema when something may have.
   */
  readonly origin: 'event' | 'ddl' | 'captured' | 'assumed'
}

// ── changes ──────────────────────────────────────────────────────────────────

/** One raw binlog event inside a slab. */
export interface RawEvent {
  readonly bytes: Buffer // the slab's memory, shared with other events
  readonly start: number // of the event's 19-byte header in `bytes`
  readonly end: number // past the event's body; a trailing checksum is left out
  readonly offset: number // of the event's first byte in the binlog file; unpacked from a TRANSACTION_PAYLOAD: the payload's
  readonly length: number // as logged, checksum included; unpacked from a TRANSACTION_PAYLOAD: the payload's
}
/** Seconds since 1970 of an event, from its header. */
export const eventSeconds = (e: RawEvent): number => e.bytes.readUInt32LE(e.start)
/** The server that wrote the event first. */
export const eventServerId = (e: RawEvent): number => e.bytes.readUInt32LE(e.start + 5)

export const ABSENT = 0 // the column is not in this row image (binlog_row_image MINIMAL or NOBLOB)
export const NULL = 1
export const PRESENT = 2
export const BEFORE = 0
export const AFTER = 1
export type ImageSide = typeof BEFORE | typeof AFTER
export type ValueState = typeof ABSENT | typeof NULL | typeof PRESENT

/**
 * Walks the rows of one rows change; one object, reused for every row, nothing allocated per column. Once `next` has
 * said false it belongs to whoever asks for a reader next: drop it. A side that the
 * kind of change does not have (before of an insert) is ABSENT in every column.
 */
export interface RowReader {
  /** Moves to the next row; false after the last. Throws SluiceError ROWS_MALFORMED when the bytes do not add up. */
  next(): boolean
  state(side: ImageSide, column: number): ValueState
  /** Only for PRESENT columns: writes the text of the value. */
  text(side: ImageSide, column: number, out: Out): void
  /** As `text`, but a TIMESTAMP in UTC. */
  utc(side: ImageSide, column: number, out: Out): void
  /** The bytes that a PRESENT value is made of; undefined where it is made of several. Missing where nobody knows them. */
  raw?(side: ImageSide, column: number): Buffer | undefined
  /** null for NULL, undefined for ABSENT. */
  value(side: ImageSide, column: number): Value | undefined
  /** Whether after differs from before in value or nullness; a column without a before image has changed. */
  changed(column: number): boolean
}
export interface Row {
  readonly before: readonly (Value | undefined)[] | undefined
  readonly after: readonly (Value | undefined)[] | undefined
}
/** Two implementations to come to the same values: rows of a binlog event, and (later) rows of a snapshot. */
export interface RowsChange {
  readonly kind: 'insert' | 'update' | 'delete'
  readonly ordinal: number
  readonly event: RawEvent
  readonly table: Table
  readonly tableId: number // the binlog's own number for the table map
  readonly snapshot: boolean
  /** Of a snapshot: `first` and then `more` are together all rows of a table without a key; with none before, it equals the source. */
  readonly whole?: 'first' | 'more' | undefined
  readonly firstRow?: number | undefined // the number in its event of the first row it has; default 0
  /** An update of the key of which somebody else writes the other half; whoever does not split it writes all of it. */
  readonly half?: 'delete' | 'insert' | undefined
  reader(): RowReader
  /**
   * Where its rows begin in the event, when they go on to the event's end one behind the other, each image having all of
   * `table.columns`: null bits, then values as Column.size says. -1 for any others; missing where there are none such.
   */
  wholeRows?(): number
  /** Decoded when somebody asks: arrays in the order of `table.columns`. Generic and slower than reader(). */
  rows(): Iterable<Row>
}
export type StatementType =
  | 'INSERT'
  | 'UPDATE'
  | 'DELETE'
  | 'CREATE'
  | 'ALTER'
  | 'ERASE'
  | 'QUERY'
  | 'TRUNCATE'
  | 'RENAME'
  | 'CINDEX'
  | 'DINDEX'
  | 'XACOMMIT'
  | 'XAROLLBACK'
/**
 * ddl: any logged statement that is not a row change by statement; statement: INSERT, UPDATE, DELETE logged as text;
 * annotation: ROWS_QUERY, INTVAR, RAND, USER_VAR and the like, which only comment on what follows.
 */
export interface QueryChange {
  readonly kind: 'ddl' | 'statement' | 'annotation' | 'xaCommit' | 'xaRollback'
  readonly ordinal: number
  readonly event: RawEvent
  readonly type: StatementType
  readonly database: string // of the first table touched, else ""
  readonly table: string // the first table touched (RENAME: its new name), else ""
  /** All tables touched, `table` "" for a whole database; old and new names of a RENAME. */
  readonly tables: readonly { readonly database: string; readonly table: string }[]
  readonly defaultDatabase: string // the session's
  readonly sql: string
}
/** BEGIN, or XA START with its `xid` text. */
export interface BeginChange {
  readonly kind: 'begin'
  readonly ordinal: number
  readonly event: RawEvent
  readonly threadId: number
  readonly xid: string // of XA START, as in the statement; "" for BEGIN
}
/** XID or COMMIT (`xid` its decimal text, "0" for COMMIT), or XA END (`xa` true, `xid` as in the statement). */
export interface CommitChange {
  readonly kind: 'commit'
  readonly ordinal: number
  readonly event: RawEvent
  readonly xid: string
  readonly xa: boolean
}
export type Change = BeginChange | RowsChange | QueryChange | CommitChange

/**
 * A transaction, or one part of a big one. `ordinal` numbers the transaction's events from 0 (its GTID event, or what
 * stands first) before any filter, inside a TRANSACTION_PAYLOAD too, so that every reader of the log agrees.
 * Parts of one transaction share file and offset; all but the last are 'open'. A transaction without changes moves
 * positions over filtered traffic.
 */
export interface Transaction {
  readonly epoch: number
  readonly server: string
  readonly gtid: Gtid | undefined
  readonly lastCommitted: number // in every part, decoded by the source from the GTID event (tagged too); 0 where there is none
  readonly sequenceNumber: number // likewise
  readonly skipped: GtidSet | undefined // whole filtered transactions between the previous yielded one and this one
  readonly file: string
  readonly offset: number // of the transaction's first event
  readonly endFile: string
  readonly endOffset: number // past its last event; meaningful unless 'open'
  readonly first: number // ordinal at which this part begins
  readonly next: number // ordinal at which the next part goes on; meaningful when 'open'
  readonly timestamp: number // ms, of its first event
  readonly changes: readonly Change[]
  readonly count?: number | undefined // of changes, where it is known without making their objects
  readonly state: 'open' | 'committed' | 'prepared'
  readonly slab: Slab | undefined // holds every event's bytes; undefined when there are no changes
  readonly bytes: number // what it counts in the window's budget: raw bytes and a fixed overhead per object
  /** Nobody needs the objects of `changes` for now; who asks again gets others. Missing where they are all there is. */
  forgetChanges?(): void
}

/** Where a transaction begins, `skip` events into it. Transactions are not for spreading: their fields may be computed. */
export function beginningOf(
  { file, offset }: Pick<Transaction, 'file' | 'offset'>,
  skip = 0,
): Pick<Position, 'file' | 'offset' | 'skip'> {
  return { file, offset, skip }
}

/** The position after a whole transaction or part, given the position before it. */
export function advance(from: Position, tx: Transaction): Position {
  const open = tx.state === 'open'
  let gtids = from.gtids
  if (gtids && (tx.skipped || (tx.gtid && !open))) {
    gtids = gtids.clone()
    if (tx.skipped) gtids.merge(tx.skipped)
    if (tx.gtid && !open) gtids.add(tx.gtid)
  }
  return {
    epoch: tx.epoch,
    server: tx.server,
    file: open ? tx.file : tx.endFile,
    offset: open ? tx.offset : tx.endOffset,
    skip: open ? tx.next : 0,
    gtids,
    timestamp: tx.timestamp,
  }
}

// ── flow ─────────────────────────────────────────────────────────────────────

/** (database, table) → whether it is wanted. */
export type Filter = (database: string, table: string) => boolean
/** Throws, never retries; not asking for the next transaction is the backpressure. */
export interface Source {
  /**
   * Transactions after `from`, in commit order. The consumer owns one reference to each transaction's slab and
   * releases it. Ends only by throwing (or by `signal`, then quietly); a log file source also ends at the end of its files.
   */
  read(from: Position, signal: AbortSignal): AsyncIterable<Transaction>
}
