/**
 * What a real server writes to its binlog for some statements, decoded: tables from the FULL metadata of the table maps,
 * rows by BinlogRows. Apart from src/sources and src/catalog, which have tests of their own.
 */
import type { Connection } from 'mysql2/promise'
import { type ColumnDefinition, compileColumn, typeText } from '../../src/binlog/column.ts'
import { BINARY, charsetOf } from '../../src/binlog/charset.ts'
import { CHECKSUM_BYTES, eventType, eventTypes as t, readFormat } from '../../src/binlog/reader.ts'
import type { Format } from '../../src/binlog/reader.ts'
import { BinlogRows } from '../../src/binlog/rows.ts'
import { readMetadata, readTableMap } from '../../src/binlog/table-map.ts'
import { readRowsHeader } from '../../src/binlog/rows-header.ts'
import type { TableMap } from '../../src/binlog/table-map.ts'
import { type TimeZone, parseTimeZone } from '../../src/binlog/time.ts'
import type { RowsChange, Table } from '../../src/change.ts'
import { GtidSet } from '../../src/gtid.ts'
import type { MysqlServer } from '../support/mysql.ts'
import { dumpGtid } from './dump.ts'

export interface Captured {
  readonly changes: RowsChange[]
  /** GTIDs executed before the first statement, MySQL's text. */
  readonly before: string
  /** Rows changes of one table. */
  of(table: string): RowsChange[]
}

export interface CaptureOptions {
  readonly server: MysqlServer
  readonly database: string
  readonly zone?: TimeZone
  /** The statements, on a connection whose default database is `database`. */
  readonly write: (db: Connection) => Promise<unknown>
}

/** Runs `write` and returns the row changes it caused in `database`. */
export async function capture(options: CaptureOptions): Promise<Captured> {
  const { server, database, write, zone = parseTimeZone('UTC') } = options
  const db = await server.connect()
  let executed: string
  try {
    await db.query(`CREATE DATABASE IF NOT EXISTS ${database}; USE ${database}`)
    executed = await gtidExecuted(db)
    await write(db)
  } finally {
    await db.end()
  }
  const changes = decode(await dumpGtid(server, GtidSet.parse(executed)), database, zone)
  return { changes, before: executed, of: (table) => changes.filter((c) => c.table.name === table) }
}

async function gtidExecuted(db: Connection): Promise<string> {
  const [rows] = await db.query('SELECT @@GLOBAL.gtid_executed AS executed')
  return (rows as { executed: string }[])[0]!.executed.replaceAll('\n', '')
}

/** The row changes of `database` in a row of events with checksums. */
export function decode(events: readonly Buffer[], database: string, zone: TimeZone): RowsChange[] {
  const changes: RowsChange[] = []
  const maps = new Map<number, Table>()
  let format: Format | undefined
  for (const bytes of events) {
    const type = eventType(bytes, 0)
    if (type === t.FORMAT_DESCRIPTION) format = readFormat(bytes, 0, bytes.length)
    if (!format) continue
    const end = bytes.length - CHECKSUM_BYTES
    if (type === t.TABLE_MAP) {
      const map = readTableMap(bytes, 0, end, format)
      if (map.database === database) maps.set(map.tableId, tableOf(map, zone))
      else maps.delete(map.tableId)
    } else if (rowsTypes.has(type)) {
      const header = readRowsHeader(bytes, 0, end, format)
      const table = maps.get(header.tableId)
      const event = { bytes, start: 0, end, offset: 0, length: bytes.length }
      const ordinal = changes.length
      const { kind } = header
      if (table) changes.push(new BinlogRows({ ...event, kind, ordinal, table, format }))
    }
  }
  return changes
}
const rowsTypes: ReadonlySet<number> = new Set([
  t.WRITE_ROWS,
  t.UPDATE_ROWS,
  t.DELETE_ROWS,
  t.PARTIAL_UPDATE_ROWS,
])

/** A table made from nothing but its FULL table map. */
export function tableOf(map: TableMap, zone: TimeZone): Table {
  const columns = readMetadata(map).columns.map((facts, index) => {
    const type = map.types[index]!
    const meta = map.meta[index]!
    const { collation, name, key, invisible, geometry, dimension, unsigned = false } = facts
    const charset = charsetOf(collation || BINARY)
    const members = facts.members?.map((m) => charset.decode(m, 0, m.length))
    const definition: ColumnDefinition = {
      name,
      index,
      type,
      meta,
      unsigned,
      collation,
      members,
      mysqlType: typeText({ type, meta, unsigned, collation, members, geometry, dimension }),
      key,
      nullable: ((map.nullable[index >> 3]! >> (index & 7)) & 1) === 1,
      invisible,
    }
    return compileColumn(definition, zone)
  })
  return { database: map.database, name: map.table, columns, selected: columns, origin: 'event' }
}
