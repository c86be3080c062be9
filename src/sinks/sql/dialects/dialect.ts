/**
 * What MySQL and PostgreSQL have in common for the SQL sink: a session that runs statements, the layout of a target
 * table, collectors that turn rows into statements of many rows, and how errors are told apart. mysql.ts and postgres.ts
 * are the two dialects; nobody else knows which one it is talking to.
 */
import { ABSENT, AFTER, NULL, type ImageSide } from '../../../change.ts'
import { SluiceError, type ErrorCode } from '../../../errors.ts'
import type { Out } from '../../../out.ts'
import type { SinkRow, TargetColumn, TargetTable } from '../../shape/row.ts'

export interface Statement {
  readonly sql: string
  readonly values?: readonly string[] | undefined
  /** Prepared under this name and kept, where the driver can. */
  readonly name?: string | undefined
}
export interface Outcome {
  /** Of the last statement of the text. */
  readonly rows: readonly Readonly<Record<string, unknown>>[]
  /** Rows that the last statement met. */
  readonly count: number
}
/** One connection. Once an error of it was SINK_UNAVAILABLE it is dead: close it and open another. */
export interface Session {
  /** Throws SINK_UNAVAILABLE, SINK_UNSUITABLE, SINK_DATA; a SINK_DATA of a constraint is a ConstraintError. */
  run(statement: Statement | string): Promise<Outcome>
  readonly alive: boolean
  close(): Promise<void>
}

/** A row met another row: a unique or foreign key. The order of writes can be the reason. */
export class ConstraintError extends SluiceError {}

export interface TargetName {
  /** MySQL: the database, PostgreSQL: the schema; undefined: the connection's. */
  readonly space: string | undefined
  readonly table: string
}
export interface FoundColumn {
  readonly name: string
  /** PostgreSQL: the type as a cast takes it; MySQL: COLUMN_TYPE. */
  readonly type: string
  /** Computed by the target: never written. */
  readonly generated: boolean
}
/** A table as the target has it. */
export interface Found {
  readonly columns: readonly FoundColumn[]
  /** The columns of every unique index, the primary key first. */
  readonly uniques: readonly (readonly string[])[]
  /** Whether a foreign key of the target changes rows of it or of others by itself (CASCADE, SET NULL, SET DEFAULT). */
  readonly cascades: boolean
}

/** ahead: asks for a version of these keys; the caller says above what. */
export type Operation = 'upsert' | 'insert' | 'update' | 'delete' | 'ahead'

/** One kind of write to one table: rows go in, statements of many rows come out. */
export interface Collector {
  readonly rows: number
  readonly bytes: number
  /** Throws SINK_DATA for a value that the target has no place for. */
  add(row: SinkRow): void
  /** What was collected since the last time. */
  take(): Statement
  /** Forgets what was collected. */
  reset(): void
}
export interface Shape {
  readonly name: TargetName
  readonly operation: Operation
  /** Written. With 'delete': none. */
  readonly columns: readonly BoundColumn[]
  /** Looked up with, in 'update' and 'delete', in the image before. With 'upsert': those of the unique index. */
  readonly keys: readonly BoundColumn[]
  /** `keys` is a whole image, not a key: one row that equals it, NULL included. */
  readonly matchAll: boolean
  /** The column of the version: nothing newer is overwritten or deleted. */
  readonly fence: string | undefined
  /** Other unique indexes than the key: an upsert must not end in another row. */
  readonly guarded: boolean
}
export interface BoundColumn {
  /** In the target. */
  readonly name: string
  /** In the target. */
  readonly type: string
  readonly source: TargetColumn
}

/** Writes a value as the dialect's literal; NULL as NULL. */
export type Literal = (row: SinkRow, side: ImageSide, out: Out) => void

export interface DialectOptions {
  readonly zeroDates: 'null' | 'error'
  readonly nul: 'error' | 'remove'
}

export interface Dialect {
  readonly name: 'mysql' | 'postgres'
  /** `scheme://host:port/database`, for messages: no account in it. */
  readonly where: string
  /** The type of the column that holds versions. */
  readonly versionType: string
  /** Bytes that one statement may have. */
  readonly statementMax: number
  connect(): Promise<Session>
  readonly quote: (identifier: string) => string
  /** Quoted, with its space. */
  readonly full: (name: TargetName) => string
  /** A string literal. */
  readonly text: (text: string) => string
  /** The cursors' table, the locks' and the tombstones', each IF NOT EXISTS. */
  bookkeeping(cursors: string, tombstones: string): readonly string[]
  describe(session: Session, name: TargetName): Promise<Found | undefined>
  collector(shape: Shape, options: DialectOptions): Collector
  /** The type of a column made for `column` (create.ts). */
  typeOf(column: TargetColumn, key: boolean): string
  /** Statements that make the space of a table. */
  createSpace(space: string): string
}

// ── values ───────────────────────────────────────────────────────────────────

/** MySQL type codes, include/field_types.h. */
export const types = {
  FLOAT: 4,
  DOUBLE: 5,
  YEAR: 13,
  BIT: 16,
  JSON: 245,
  DECIMAL: 246,
  ENUM: 247,
  SET: 248,
  GEOMETRY: 255,
  VECTOR: 242,
} as const
const INTEGERS = new Set([1, 2, 3, 8, 9])
const DATES = new Set([10, 12, 14, 18])
const TIMESTAMPS = new Set([7, 17])
const TIMES = new Set([11, 19])

export type Family =
  | 'integer'
  | 'decimal'
  | 'float'
  | 'double'
  | 'bit'
  | 'year'
  | 'date'
  | 'timestamp'
  | 'time'
  | 'json'
  | 'enum'
  | 'set'
  | 'binary'
  | 'text'

/** Types of MariaDB's that are known by their text, and the longest that each has. */
export const ADDRESSES: Readonly<Record<string, number>> = { uuid: 36, inet6: 39, inet4: 15 }

/** What a value is, of the source's types or made by the mapping. */
export function familyOf({ column, derived }: TargetColumn): Family {
  if (column === undefined || derived !== undefined) return 'text'
  const { type, collation, mysqlType } = column
  if (INTEGERS.has(type)) return 'integer'
  if (DATES.has(type)) return 'date'
  if (TIMESTAMPS.has(type)) return 'timestamp'
  if (TIMES.has(type)) return 'time'
  switch (type) {
    case 0:
    case types.DECIMAL:
      return 'decimal'
    case types.FLOAT:
      return 'float'
    case types.DOUBLE:
      return 'double'
    case types.BIT:
      return 'bit'
    case types.YEAR:
      return 'year'
    case types.JSON:
      return 'json'
    case types.ENUM:
      return 'enum'
    case types.SET:
      return 'set'
    case types.GEOMETRY:
    case types.VECTOR:
      return 'binary'
    default:
      if (mysqlType in ADDRESSES) return 'text'
      return collation === 63 || collation === 0 ? 'binary' : 'text'
  }
}

/** Bytes of a value of family 'binary', whole: BINARY with the padding that the log leaves out. */
export function bytesOf(row: SinkRow, side: ImageSide, target: TargetColumn): Uint8Array {
  const value = row.value(side, target)
  if (value instanceof Uint8Array) return value
  throw dataError(row, target, `bytes, got ${typeof value}`)
}
/** The text of a value that is a string: JSON, labels. */
export function stringOf(row: SinkRow, side: ImageSide, target: TargetColumn): string {
  const value = row.value(side, target)
  if (typeof value === 'string') return value
  // an ENUM or SET without known labels: its number
  if (typeof value === 'number' || typeof value === 'bigint') return String(value)
  throw dataError(
    row,
    target,
    'a whole document, got a list of changes to one; expected binlog_row_value_options without PARTIAL_JSON, or binlog_row_image=FULL',
  )
}
const HEX = Buffer.from('0123456789abcdef')
export function writeHex(bytes: Uint8Array, out: Out): void {
  out.ensure(bytes.length * 2)
  for (let i = 0; i < bytes.length; i++) {
    out.u8(HEX[bytes[i]! >> 4]!)
    out.u8(HEX[bytes[i]! & 15]!)
  }
}

/** A backslash before every byte of out.buf[from, out.at) that `special` names; a zero byte becomes "\0". */
export function escape(out: Out, from: number, special: Uint8Array): void {
  const { buf } = out
  let count = 0
  for (let i = from; i < out.at; i++) count += special[buf[i]!]!
  if (count > 0) spread(out, from, count, special)
}
function spread(out: Out, from: number, count: number, special: Uint8Array): void {
  let read = out.at
  out.ensure(count)
  const { buf } = out
  out.at += count
  let write = out.at
  while (read > from) {
    const b = buf[--read]!
    buf[--write] = b === 0 ? 0x30 : b
    if (special[b] === 1) buf[--write] = 0x5c
  }
}
export function bytesNamed(...bytes: readonly number[]): Uint8Array {
  const table = new Uint8Array(256)
  for (const byte of bytes) table[byte] = 1
  return table
}

/** Where a row stands, for messages. */
export const placeOf = (row: SinkRow): string =>
  `${row.table.database}.${row.table.name} at ${row.id}`

export function dataError(row: SinkRow, target: TargetColumn, expected: string): SluiceError {
  return new SluiceError(
    'SINK_DATA',
    `${placeOf(row)}: column ${target.name}: expected ${expected}`,
  )
}
/** A literal that says NULL for NULL. Throws SINK_DATA for an absent column. */
export function orNull(source: TargetColumn, write: Literal, nothing: string): Literal {
  return (row, side, out) => {
    const state = row.state(side, source)
    if (state === NULL) out.ascii(nothing)
    else if (state === ABSENT) throw absent(row, source)
    else write(row, side, out)
  }
}
const absent = (row: SinkRow, target: TargetColumn): SluiceError =>
  dataError(row, target, 'it in the row image; binlog_row_image=FULL sends every column')

/** The side that a shape's written columns are read from. */
export const WRITTEN: ImageSide = AFTER

/** What a driver's error means; the message keeps the server's words. */
export function failure(
  code: Extract<ErrorCode, 'SINK_UNAVAILABLE' | 'SINK_UNSUITABLE' | 'SINK_DATA'> | 'constraint',
  where: string,
  cause: unknown,
  advice = '',
): SluiceError {
  const text = cause instanceof Error ? cause.message : String(cause)
  const message = `${where}: ${text}${advice && `; ${advice}`}`
  if (code === 'constraint') return new ConstraintError('SINK_DATA', message, { cause })
  return new SluiceError(code, message, { cause })
}

/** Names of the columns that a table must have in the target. */
export const keyNames = (table: TargetTable): string[] => table.keys.map((key) => key.name)
