/**
 * The table maps of the log as Tables: by table id and by the bytes of the map, so that a stream of the same tables
 * costs one comparison each. A table that the filter does not want is remembered as such and never decoded.
 */
import { HEADER_BYTES, eventTypes, type Format } from '../../binlog/reader.ts'
import { readTableMap, sameTableMap, tableMapId, type TableMap } from '../../binlog/table-map.ts'
import type { LoggedStatement } from '../../catalog/catalog.ts'
import type { LogPlace } from '../../catalog/history.ts'
import type { Filter, Table } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import type { Event, RowsDetail, RowsKind } from './pending.ts'

/** What the catalog does for us; `at` is the beginning of the transaction. */
export interface TableResolver {
  resolve(map: TableMap, at: LogPlace): Table | Promise<Table>
  /** A statement of the log that may change definitions. */
  statement(statement: LoggedStatement, at: LogPlace): void
}

/** A table map and the three details its rows events share; `insert` is null when the filter does not want the table. */
interface Entry {
  readonly map: TableMap
  readonly insert: RowsDetail | null
  readonly update: RowsDetail | null
  readonly delete: RowsDetail | null
}

/** Rows events that only end a statement name this table (sql/rpl_constants.h does not; sql/log_event.cc does). */
const DUMMY_TABLE_ID = 0xffffff
const ENTRIES_MAX = 10_000
const STATEMENT_END = 1

export class TableCache {
  /** Whether the last rows event ended its statement. */
  lastOfStatement = false
  readonly #catalog: TableResolver
  readonly #filter: Filter
  readonly #entries = new Map<number, Entry>()
  #lastId = -1
  #last: Entry | undefined

  constructor(catalog: TableResolver, filter: Filter) {
    this.#catalog = catalog
    this.#filter = filter
  }

  /** Forgets every map: table ids begin anew. */
  clear(): void {
    this.#entries.clear()
    this.#lastId = -1
    this.#last = undefined
  }
  /** Called between transactions, for a server gives out ids for ever. */
  trim(): void {
    if (this.#entries.size > ENTRIES_MAX) this.clear()
  }
  /** Definitions are about to change. */
  statement(statement: LoggedStatement, at: LogPlace): void {
    this.clear()
    this.#catalog.statement(statement, at)
  }

  /** Takes a TABLE_MAP; a promise only while the catalog looks the table up. */
  learn(event: Event, format: Format, at: LogPlace): void | Promise<void> {
    const { bytes, start, end } = event
    const id = tableMapId(bytes, start, end, format)
    const known = id === this.#lastId ? this.#last : this.#entries.get(id)
    if (known && sameTableMap(known.map, bytes, start, end, format)) {
      this.#lastId = id
      this.#last = known
      return
    }
    const map = readTableMap(bytes, start, end, format)
    if (!this.#filter(map.database, map.table)) return this.#remember(map, null, format)
    const table = this.#catalog.resolve(map, at)
    if (table instanceof Promise) return table.then((t) => this.#remember(map, t, format))
    this.#remember(map, table, format)
  }

  #remember(map: TableMap, table: Table | null, format: Format): void {
    const detail = (kind: RowsKind): RowsDetail | null => table && { kind, table, format }
    const entry = {
      map,
      insert: detail('insert'),
      update: detail('update'),
      delete: detail('delete'),
    }
    this.#entries.set(map.tableId, entry)
    this.#lastId = map.tableId
    this.#last = entry
  }

  /** What a rows event consists of, null when it is not wanted. Throws EVENT_MALFORMED when no map said so. */
  rows(event: Event, format: Format): RowsDetail | null {
    const { bytes, start, end, type } = event
    const wide = format.postHeader[type] !== 6
    const at = start + HEADER_BYTES
    if (at + 8 > end) throw this.#malformed(event, 'a table id and flags')
    const id = wide ? bytes.readUIntLE(at, 6) : bytes.readUInt32LE(at)
    this.lastOfStatement = (bytes[at + (wide ? 6 : 4)]! & STATEMENT_END) !== 0
    const entry = id === this.#lastId ? this.#last : this.#entries.get(id)
    if (entry === undefined) {
      if (id === DUMMY_TABLE_ID) return null
      throw this.#malformed(event, `a table map for table id ${id} before the rows`)
    }
    switch (type) {
      case eventTypes.WRITE_ROWS:
      case eventTypes.WRITE_ROWS_V1:
      case eventTypes.WRITE_ROWS_COMPRESSED:
      case eventTypes.WRITE_ROWS_COMPRESSED_V1:
        return entry.insert
      case eventTypes.DELETE_ROWS:
      case eventTypes.DELETE_ROWS_V1:
      case eventTypes.DELETE_ROWS_COMPRESSED:
      case eventTypes.DELETE_ROWS_COMPRESSED_V1:
        return entry.delete
      default:
        return entry.update
    }
  }
  #malformed(event: Event, expected: string): SluiceError {
    return new SluiceError(
      'EVENT_MALFORMED',
      `rows event at offset ${event.offset}: expected ${expected}`,
    )
  }
}
