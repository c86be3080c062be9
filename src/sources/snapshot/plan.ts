/**
 * How a table is read in pieces: by which key, with which SELECT, and where the next piece begins. The key is the primary
 * key, or a unique one without NULLs and prefixes; a table that has neither is read as one piece. A place in the key is a
 * list of SQL literals, exact for every type and collation: durable as it is. Pure.
 */
import { BINARY, charsetOf } from '../../binlog/charset.ts'
import { columnTypes as t } from '../../binlog/table-map.ts'
import { eventTypes, HEADER_BYTES, type Format } from '../../binlog/reader.ts'
import type { Key } from '../../catalog/definition.ts'
import type { Column, Table } from '../../change.ts'
import { Out } from '../../out.ts'
import { quoteName, selection, snapshotColumn } from './image.ts'

export interface TablePlan {
  /** As the rows of a snapshot have it (image.ts). */
  readonly table: Table
  /** In the order of the key; empty: the table is one piece. */
  readonly key: readonly Column[]
  readonly keyName: string
  /** Whether texts of different keys can be the same: a set with characters that Unicode lacks. */
  readonly doubtful: boolean
  /** What a saved place belongs to: the key and its types. */
  readonly signature: string
}
/** A place in a key: literals of its columns; undefined: the beginning. */
export type KeyPlace = readonly string[] | undefined

const EXACT = new Set(['utf8mb4', 'utf8mb3', 'latin1', 'ascii', 'binary'])

export function planTable(found: {
  readonly table: Table
  readonly keys: readonly Key[]
}): TablePlan {
  const columns = found.table.columns.map(snapshotColumn)
  const selected = found.table.selected.map(({ index }) => columns[index]!)
  const table: Table = { ...found.table, columns, selected }
  const chosen = keyOf(columns, found.keys)
  const key = (chosen?.columns ?? []).map((name) => columns.find((c) => c.name === name)!)
  const doubtful = key.some((c) => isText(c) && !EXACT.has(charsetOf(c.collation).name))
  const parts = key.map((c) => `${c.name} ${c.mysqlType} ${c.collation}`)
  return { table, key, keyName: chosen?.name ?? '', doubtful, signature: parts.join(', ') }
}
function keyOf(columns: readonly Column[], keys: readonly Key[]): Key | undefined {
  const usable = keys.filter(
    (key) =>
      key.unique &&
      key.whole &&
      key.invisible !== true &&
      key.columns.length > 0 &&
      key.columns.every((name) => columns.some((c) => c.name === name && isUsable(c))),
  )
  return usable.find((key) => key.primary) ?? usable[0]
}

/** MySQL compares a SET with a number as doubles. */
const SET_MEMBERS_MAX = 52
const isUsable = ({ nullable, type, members }: Column): boolean =>
  !nullable && !(type === t.SET && (members?.length ?? 64) > SET_MEMBERS_MAX)

const isText = ({ type, collation }: Column): boolean =>
  collation !== 0 && collation !== BINARY && type !== t.ENUM && type !== t.SET

/** What is selected of a table, and its name, in SQL. */
export const selectList = ({ table }: Pick<TablePlan, 'table'>): string =>
  table.columns.map(selection).join(', ')
export const tableName = ({ database, name }: Pick<Table, 'database' | 'name'>): string =>
  `${quoteName(database)}.${quoteName(name)}`

/** The SELECT of the piece of at most `limit` rows behind `after`; of a table without a key, of `limit` rows at all. */
export function selectText(
  { table, key, keyName }: TablePlan,
  {
    after,
    limit,
    lock,
    where,
  }: { after: KeyPlace; limit: number; lock: boolean; where?: string | undefined },
): string {
  const list = selectList({ table })
  const from = tableName(table)
  const shared = lock ? ' LOCK IN SHARE MODE' : ''
  const names = key.map((c) => `${from}.${quoteName(c.name)}`)
  const conditions: string[] = []
  if (key.length > 0 && after !== undefined) conditions.push(`(${behind(names, after)})`)
  // on a line of its own, for it may end in a comment
  if (where !== undefined) conditions.push(`(${where}\n)`)
  const filter = conditions.length === 0 ? '' : ` WHERE ${conditions.join(' AND ')}`
  if (key.length === 0) return `SELECT ${list} FROM ${from}${filter} LIMIT ${limit}${shared}`
  return (
    `SELECT ${list} FROM ${from} FORCE INDEX (${quoteName(keyName)})${filter}` +
    ` ORDER BY ${names.join(', ')} LIMIT ${limit}${shared}`
  )
}
/** "a >= 1 AND (a > 1 OR (a = 1 AND (b > 2)))": what the optimizer makes a range of, unlike "(a, b) > (1, 2)". */
export function behind(names: readonly string[], after: readonly string[]): string {
  const from = (i: number): string => {
    const greater = `${names[i]} > ${after[i]}`
    return i === names.length - 1
      ? greater
      : `${greater} OR (${names[i]} = ${after[i]} AND (${from(i + 1)}))`
  }
  return names.length === 1 ? from(0) : `${names[0]} >= ${after[0]} AND (${from(0)})`
}

const scratch = new Out(256)

/** The value in an image at bytes[at, end) as an SQL literal that compares as the column does. */
export function literalOf(column: Column, bytes: Buffer, at: number, end: number): string {
  const { type } = column
  if (type === t.ENUM || type === t.SET) {
    let mask = 0n
    for (let i = end - 1; i >= at; i--) mask = (mask << 8n) | BigInt(bytes[i]!)
    return String(mask)
  }
  if (isText(column)) return `_${introducer(column)} x'${bytes.toString('hex', at, end)}'`
  const value = column.value(bytes, at, end)
  if (value instanceof Uint8Array) return `x'${Buffer.from(value).toString('hex')}'`
  if (typeof value === 'number') return Object.is(value, -0) ? '0' : String(value)
  if (typeof value === 'bigint') return String(value)
  if (type === t.NEWDECIMAL && typeof value === 'string') return value
  scratch.reset()
  ;(column.utc ?? column.text)(bytes, at, end, scratch)
  return `'${scratch.buf.toString('latin1', 0, scratch.at)}'`
}
/** Servers before 8.0 know only the old name of one. */
function introducer({ collation }: Column): string {
  const { name } = charsetOf(collation)
  return name === 'utf8mb3' ? 'utf8' : name
}

// ── events ───────────────────────────────────────────────────────────────────

/** How the events of snapshots are laid out. */
export const SNAPSHOT_FORMAT: Format = {
  serverVersion: '',
  created: 0,
  postHeader: new Uint8Array(0),
  checksum: 'none',
  checksumBytes: 0,
}

/**
 * The head of a WRITE_ROWS event (rows-header.ts) that holds images with all columns; with `key`, of a DELETE_ROWS event that
 * has those columns only. Its size is filled in by nobody.
 */
export function beginEvent(
  out: Out,
  width: number,
  serverId: number,
  key?: readonly Column[],
): number {
  const bits = (width + 7) >> 3
  out.ensure(HEADER_BYTES + 13 + bits)
  const start = out.at
  out.buf.fill(0, start, start + HEADER_BYTES + 10)
  out.buf.writeUInt32LE(Math.floor(Date.now() / 1000), start)
  out.buf[start + 4] = key ? eventTypes.DELETE_ROWS : eventTypes.WRITE_ROWS
  out.buf.writeUInt32LE(serverId, start + 5)
  out.buf[start + HEADER_BYTES + 6] = 1 // end of the statement
  out.buf[start + HEADER_BYTES + 8] = 2 // no extra data
  out.at = start + HEADER_BYTES + 10
  if (width < 251) out.u8(width)
  else {
    out.u8(252)
    out.u8(width & 0xff)
    out.u8(width >> 8)
  }
  out.buf.fill(key ? 0 : 0xff, out.at, out.at + bits)
  for (const { index } of key ?? []) out.buf[out.at + (index >> 3)]! |= 1 << (index & 7)
  out.at += bits
  return start
}
