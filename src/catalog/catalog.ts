/**
 * Stage 3: which columns a table has. A table map with full metadata (binlog_row_metadata=FULL) describes itself, and
 * information_schema only lends what no event tells, column by column where the two agree: type texts such as tinyint(1),
 * and that a unique key, logged as the primary key of a table without one, is none. Without it the definition comes from information_schema and must fit the table map in everything the
 * binlog says, or SCHEMA_MISMATCH stops the stream: values are never put under names they do not belong to.
 *
 * Guarantees one query per table until forget(), shared by concurrent callers, and a fresh one before it gives up. Knows no
 * position and no store; the way to the server is the `query` function it is given.
 */
import { charsetOf } from '../binlog/charset.ts'
import { compileColumn, typeText } from '../binlog/column.ts'
import type { ColumnDefinition } from '../binlog/column.ts'
import { columnTypes, readMetadata } from '../binlog/table-map.ts'
import type { ColumnMetadata, TableMap, TableMetadata } from '../binlog/table-map.ts'
import type { TimeZone } from '../binlog/time.ts'
import type { Table } from '../change.ts'
import { SluiceError } from '../errors.ts'
import type { ColumnFilter } from '../filter.ts'
import { misfit, readCapturedColumn } from './definition.ts'
import type { CapturedColumn, CapturedRow } from './definition.ts'

export interface CatalogOptions {
  /** Runs SQL with "?" parameters at the source; undefined where there is no server, as for binlog files alone. */
  readonly query: (<T>(sql: string, params?: string[]) => Promise<T[]>) | undefined
  readonly timeZone: TimeZone // of TIMESTAMP texts
  readonly columns: ColumnFilter
  readonly log: { warn(details: object, message: string): void }
}

/** All columns of a table now; empty when there is no such table. */
type Capture = readonly CapturedColumn[]

interface Entry {
  readonly database: string
  readonly table: string
  captured: Capture | undefined
  pending: Promise<Capture> | undefined
  known: { readonly body: Buffer; readonly table: Table }[] // the last table maps resolved, by their bytes
}

/** A reader that lags and one that does not may see a table before and after a DDL in turns. */
const KNOWN_MAX = 4

const CAPTURE = `
  SELECT c.TABLE_NAME AS tableName, c.COLUMN_NAME AS name, c.COLUMN_TYPE AS columnType,
    c.CHARACTER_OCTET_LENGTH AS octets, l.ID AS collation, c.IS_NULLABLE AS nullable, c.EXTRA AS extra,
    c.COLUMN_KEY AS columnKey, CASE WHEN k.COLUMN_NAME IS NULL THEN 0 ELSE 1 END AS isKey
  FROM information_schema.COLUMNS c
  LEFT JOIN information_schema.COLLATIONS l ON l.COLLATION_NAME = c.COLLATION_NAME
  LEFT JOIN (
    SELECT TABLE_NAME, COLUMN_NAME FROM information_schema.STATISTICS
    WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND INDEX_NAME = 'PRIMARY'
  ) k ON k.TABLE_NAME = c.TABLE_NAME AND k.COLUMN_NAME = c.COLUMN_NAME
  WHERE c.TABLE_SCHEMA = ? AND c.TABLE_NAME = ?
  ORDER BY c.ORDINAL_POSITION`

const ADVICE =
  'events written after SET PERSIST binlog_row_metadata=FULL on the source describe themselves; ' +
  'to pass the older ones, start behind them or leave the table out by the filter'

export class Catalog {
  readonly #options: CatalogOptions
  readonly #databases = new Map<string, Map<string, Entry>>()
  readonly #warned = new Set<string>()

  constructor(options: CatalogOptions) {
    this.#options = options
  }

  /**
   * The table a table map belongs to; at once when the same table map has been resolved before or the table has been read
   * from the server since the last forget(). Throws (or rejects with) SluiceError SCHEMA_MISMATCH, CONFIG_INVALID (column
   * filter), EVENT_MALFORMED (metadata), and QUERY_FAILED or what `query` threw when the server cannot be asked.
   */
  resolve(map: TableMap): Table | Promise<Table> {
    const entry = this.#entry(map.database, map.table)
    const known = entry.known.find(({ body }) => body.equals(map.body))
    if (known) return known.table
    const says = readMetadata(map)
    if (entry.captured && disagreement(map, says, entry.captured) === '') {
      return this.#make(entry, map, says, entry.captured)
    }
    return this.#capture(entry).then((captured) => this.#make(entry, map, says, captured))
  }

  /** After a DDL: the table, or all of a database, will be read from the server again. Names ignore case. */
  forget(database: string, table?: string): void {
    const same = (a: string, b: string): boolean => a === b || a.toLowerCase() === b.toLowerCase()
    for (const [name, tables] of this.#databases) {
      if (!same(name, database)) continue
      if (table === undefined || table === '') this.#databases.delete(name)
      else for (const key of tables.keys()) if (same(key, table)) tables.delete(key)
    }
  }

  #entry(database: string, table: string): Entry {
    let tables = this.#databases.get(database)
    if (!tables) this.#databases.set(database, (tables = new Map<string, Entry>()))
    let entry = tables.get(table)
    if (!entry) {
      entry = { database, table, captured: undefined, pending: undefined, known: [] }
      tables.set(table, entry)
    }
    return entry
  }

  /** Asks the server, whatever is known already; callers that come while it is asked share the answer. */
  #capture(entry: Entry): Promise<Capture> {
    entry.pending ??= this.#ask(entry.database, entry.table)
      .then((captured) => (entry.captured = captured))
      .finally(() => (entry.pending = undefined))
    return entry.pending
  }

  async #ask(database: string, table: string): Promise<Capture> {
    const { query } = this.#options
    if (!query) return []
    let rows: CapturedRow[]
    try {
      rows = await query<CapturedRow>(CAPTURE, [database, table, database, table])
    } catch (cause) {
      if (cause instanceof SluiceError) throw cause
      const reason = cause instanceof Error ? cause.message : String(cause)
      const message = `columns of ${database}.${table} could not be read from information_schema: ${reason}`
      throw new SluiceError('QUERY_FAILED', message, { cause })
    }
    // Old servers compare names here without case, even where tables t and T are two.
    const exact = rows.filter((row) => row.tableName === table)
    return (exact.length > 0 ? exact : rows).map(readCapturedColumn)
  }

  #make(entry: Entry, map: TableMap, says: TableMetadata, captured: Capture): Table {
    const definitions = says.full
      ? fromEvent(map, says, captured)
      : fromCapture(map, says, captured, this.#options.query !== undefined)
    const columns = definitions.map((d) => compileColumn(d, this.#options.timeZone))
    const { database, table: name } = map
    const { selected, warning } = this.#options.columns(database, name, columns)
    if (warning !== '' && !this.#warned.has(warning)) {
      this.#warned.add(warning)
      this.#options.log.warn({ database, table: name }, warning)
    }
    const origin = says.full ? 'event' : 'captured'
    const table: Table = { database, name, columns, selected, origin }
    entry.known.push({ body: map.body, table })
    if (entry.known.length > KNOWN_MAX) entry.known.shift()
    return table
  }
}

// ── the event wins ───────────────────────────────────────────────────────────

function fromEvent(map: TableMap, says: TableMetadata, captured: Capture): ColumnDefinition[] {
  return says.columns.map((column, index) => {
    const definition = eventDefinition(map, index, column)
    const now = captured.length === map.width ? captured[index] : undefined
    if (!now || !lendable(now, map, index, column, definition.members)) return definition
    return { ...definition, mysqlType: now.mysqlType, key: column.key && !now.promoted }
  })
}

function eventDefinition(
  map: TableMap,
  index: number,
  column: Readonly<ColumnMetadata>,
): ColumnDefinition {
  const type = map.types[index]!
  const meta = map.meta[index]!
  const { name, key, invisible, geometry, dimension } = column
  const collation = type === columnTypes.VECTOR ? 0 : column.collation
  const unsigned = column.unsigned === true && type !== columnTypes.YEAR // which is logged as unsigned
  const members = column.members && decodeMembers(column.members, collation)
  const mysqlType = typeText({ type, meta, unsigned, collation, members, geometry, dimension })
  const nullable = isNullable(map, index)
  return {
    name,
    index,
    type,
    meta,
    unsigned,
    collation,
    mysqlType,
    key,
    nullable,
    invisible,
    members,
  }
}

function decodeMembers(members: readonly Buffer[], collation: number): string[] {
  const charset = charsetOf(collation)
  return members.map((bytes) => charset.decode(bytes, 0, bytes.length))
}

const isNullable = (map: TableMap, index: number): boolean =>
  ((map.nullable[index >> 3]! >> (index & 7)) & 1) === 1

/** Whether what only the server tells of a column can be used for the event's. */
function lendable(
  now: CapturedColumn,
  map: TableMap,
  index: number,
  column: Readonly<ColumnMetadata>,
  members: readonly string[] | undefined,
): boolean {
  if (now.name !== column.name || misfit(now, map, index, column) !== '') return false
  return members === undefined || sameList(members, now.members ?? [])
}

const sameList = (a: readonly string[], b: readonly string[]): boolean =>
  a.length === b.length && a.every((item, i) => item === b[i])

// ── information_schema, checked ──────────────────────────────────────────────

/** "" when the capture fits the table map, else what differs, with expected and found. */
function disagreement(map: TableMap, says: TableMetadata, captured: Capture): string {
  if (captured.length !== map.width) {
    return `expected ${captured.length} columns, found ${map.width} in the binlog`
  }
  for (const [index, column] of captured.entries()) {
    const said = says.columns[index]!
    const wrong = misfit(column, map, index, said)
    const what = wrong || (said.name === '' || said.name === column.name ? '' : 'name')
    if (what === '') continue
    const expected = `${column.mysqlType}${column.nullable ? '' : ' not null'}`
    const place = `column ${index + 1} of ${map.width}, ${JSON.stringify(column.name)}`
    const { expectedMore, foundMore } = details(what, column, said)
    return `${place}: expected ${expected}${expectedMore}, found ${foundText(map, index, column, said)}${foundMore} in the binlog; the ${what} differs`
  }
  return ''
}

function details(
  what: string,
  column: CapturedColumn,
  said: Readonly<ColumnMetadata>,
): { expectedMore: string; foundMore: string } {
  if (what === 'name')
    return { expectedMore: '', foundMore: ` called ${JSON.stringify(said.name)}` }
  if (what !== 'character set or collation') return { expectedMore: '', foundMore: '' }
  return {
    expectedMore: ` with collation id ${column.collation}`,
    foundMore: ` with collation id ${said.collation}`,
  }
}

/** What the binlog says a column is; what it leaves unsaid is filled in from the captured column. */
function foundText(
  map: TableMap,
  index: number,
  column: CapturedColumn,
  said: Readonly<ColumnMetadata>,
): string {
  const text = typeText({
    type: map.types[index]!,
    meta: map.meta[index]!,
    unsigned: said.unsigned ?? column.unsigned,
    collation: said.collation || column.collation,
    members: column.members,
    geometry: said.geometry,
    dimension: said.dimension,
  })
  return isNullable(map, index) ? text : `${text} not null`
}

function fromCapture(
  map: TableMap,
  says: TableMetadata,
  captured: Capture,
  asked: boolean,
): ColumnDefinition[] {
  const name = `${map.database}.${map.table}`
  if (captured.length === 0) {
    const where = asked
      ? 'the source has no such table any more, or this user may not see it,'
      : 'there is no server to ask'
    const message = `table ${name}: ${where} and the binlog does not name its columns; ${ADVICE}`
    throw new SluiceError('SCHEMA_MISMATCH', message)
  }
  const wrong = disagreement(map, says, captured)
  if (wrong !== '') {
    const message = `table ${name}: its definition at the source is not the one these rows were written with: ${wrong}; ${ADVICE}`
    throw new SluiceError('SCHEMA_MISMATCH', message)
  }
  return captured.map((column, index) => ({
    name: column.name,
    index,
    type: map.types[index]!,
    meta: map.meta[index]!,
    unsigned: column.unsigned,
    collation: column.collation,
    mysqlType: column.mysqlType,
    key: column.key,
    nullable: column.nullable,
    invisible: column.invisible,
    members: column.members,
  }))
}
