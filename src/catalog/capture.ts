/**
 * Definitions as a server has them now, read from information_schema: many tables with one query, so that thousands of
 * tables cost a few. Knows no binlog; the way to the server is the `query` function it is given.
 */
import { mariadbCollation } from '../binlog/charset.ts'
import type { Effect } from './ddl/apply.ts'
import { columnOf } from './ddl/columns.ts'
import type { Dialect } from './ddl/dialect.ts'
import {
  readCapturedColumn,
  type CapturedColumn,
  type CapturedRow,
  type Definition,
  type Key,
} from './definition.ts'

export type Query = <T>(sql: string, params?: readonly string[]) => Promise<T[]>

const COLLATIONS =
  'SELECT COLLATION_NAME AS name, ID AS id, CHARACTER_SET_NAME AS charset, IS_DEFAULT AS isDefault FROM information_schema.COLLATIONS'
/** Since 10.10 MariaDB has collations of no character set, and their names and ids with one stand elsewhere. */
const FULL_NAMES_SINCE = 101_000
const FULL_COLLATIONS =
  'SELECT FULL_COLLATION_NAME AS name, ID AS id, CHARACTER_SET_NAME AS charset, IS_DEFAULT AS isDefault FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY'

/** How this server reads DDL. */
export async function captureDialect(query: Query): Promise<Dialect> {
  const [row] = await query<{ version: string; explicit: number | string; folds: number | string }>(
    'SELECT VERSION() AS version, @@explicit_defaults_for_timestamp AS explicit, @@lower_case_table_names AS folds',
  )
  const text = row?.version ?? ''
  const [major = 0, minor = 0, patch = 0] = text.split(/[.-]/).map(Number)
  const version = major * 10_000 + minor * 100 + patch
  const mariadb = /mariadb/i.test(text)
  const collations = await query<{
    name: string
    id: number | string | null
    charset: string | null
    isDefault: string | null
  }>(mariadb && version >= FULL_NAMES_SINCE ? FULL_COLLATIONS : COLLATIONS)
  const sets = await query<{ name: string; maxBytes: number | string }>(
    'SELECT CHARACTER_SET_NAME AS name, MAXLEN AS maxBytes FROM information_schema.CHARACTER_SETS',
  )
  const idOf = (id: number | string | null): number =>
    mariadb ? mariadbCollation(Number(id)) : Number(id)
  const known = collations.filter((c) => c.id !== null && c.charset !== null)
  const defaults = new Map(
    known.filter((c) => c.isDefault === 'Yes').map((c) => [c.charset, idOf(c.id)]),
  )
  return {
    version,
    mariadb,
    collations: new Map(
      known.map((c) => [c.name.toLowerCase(), { id: idOf(c.id), charset: c.charset! }]),
    ),
    charsets: new Map(
      sets.map(({ name, maxBytes }) => [
        name,
        { collation: defaults.get(name) ?? 0, maxBytes: Number(maxBytes) },
      ]),
    ),
    foldsCase: Number(row?.folds) > 0,
    explicitTimestamps: Number(row?.explicit) === 1 || row?.explicit === 'ON',
  }
}

const COLUMNS = `
  SELECT c.TABLE_SCHEMA AS databaseName, c.TABLE_NAME AS tableName, c.COLUMN_NAME AS name, c.COLUMN_TYPE AS columnType,
    c.CHARACTER_OCTET_LENGTH AS octets, c.COLLATION_NAME AS collationName, c.IS_NULLABLE AS nullable,
    c.EXTRA AS extra, c.COLUMN_KEY AS columnKey, 0 AS isKey
  FROM information_schema.COLUMNS c`
const KEYS = `
  SELECT TABLE_SCHEMA AS databaseName, TABLE_NAME AS tableName, INDEX_NAME AS name, NON_UNIQUE AS nonUnique,
    COLUMN_NAME AS columnName, SUB_PART AS part, $seen AS seen
  FROM information_schema.STATISTICS`
const TABLES = `
  SELECT t.TABLE_SCHEMA AS databaseName, t.TABLE_NAME AS tableName, t.TABLE_TYPE AS type,
    t.TABLE_COLLATION AS collationName
  FROM information_schema.TABLES t`
/** Names of MariaDB's: tables with a history, and sequences, which are logged as tables of one row. */
const TABLE_TYPES = "TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED', 'SEQUENCE')"

interface KeyRow {
  readonly databaseName: string
  readonly tableName: string
  readonly name: string
  readonly nonUnique: number | string
  readonly columnName: string | null
  readonly part: number | string | null
  readonly seen: string // by the optimizer: no hint may name another one
}
/** Since when a key can be invisible, or ignored as MariaDB says. */
function seenOf({ version, mariadb }: Dialect): string {
  if (mariadb) return version >= 100_600 ? "IF(IGNORED = 'YES', 'NO', 'YES')" : "'YES'"
  return version >= 80_000 ? 'IS_VISIBLE' : "'YES'"
}

/** A table, databases, or (undefined) all there is but the server's own. */
export type Scope =
  | { readonly database: string; readonly table: string }
  | readonly string[]
  | undefined

const SYSTEM = ['mysql', 'information_schema', 'performance_schema', 'sys']

function conditionOf(scope: Scope, column: string): [sql: string, params: readonly string[]] {
  const marks = (list: readonly string[]): string => list.map(() => '?').join(', ')
  if (scope === undefined) return [`${column} NOT IN (${marks(SYSTEM)})`, SYSTEM]
  if ('table' in scope) return [`${column} = ?`, [scope.database]]
  return [`${column} IN (${marks(scope)})`, scope]
}

/** Tables and the defaults of their databases, with four queries however many there are. */
export async function captureTables(
  query: Query,
  dialect: Dialect,
  scope: Scope,
): Promise<Effect[]> {
  const [ofSchema, schemas] = conditionOf(scope, 'SCHEMA_NAME')
  let [condition, params] = conditionOf(scope, 'TABLE_SCHEMA')
  if (scope && 'table' in scope) {
    condition += ' AND TABLE_NAME = ?'
    params = [...params, scope.table]
  }
  const schemata = await query<{ name: string; collation: string }>(
    `SELECT SCHEMA_NAME AS name, DEFAULT_COLLATION_NAME AS collation FROM information_schema.SCHEMATA WHERE ${ofSchema}`,
    schemas,
  )
  const tables = await query<{
    databaseName: string
    tableName: string
    type: string
    collationName: string | null
  }>(`${TABLES} WHERE ${TABLE_TYPES} AND ${condition}`, params)
  const columns = await query<
    Omit<CapturedRow, 'collation'> & { databaseName: string; collationName: string | null }
  >(
    `${COLUMNS} WHERE ${condition} ORDER BY c.TABLE_SCHEMA, c.TABLE_NAME, c.ORDINAL_POSITION`,
    params,
  )
  const keys = await query<KeyRow>(
    `${KEYS.replace('$seen', seenOf(dialect))} WHERE ${condition} ORDER BY SEQ_IN_INDEX`,
    params,
  )
  const of = (row: { databaseName: string; tableName: string }): string =>
    `${row.databaseName}\0${row.tableName}`
  const idOf = (name: string | null): number =>
    name === null ? 0 : (dialect.collations.get(name.toLowerCase())?.id ?? 0)
  const columnsOf = Map.groupBy(columns, of)
  const keysOf = Map.groupBy(keys, of)
  const databases = schemata.map(({ name, collation }): Effect => ({
    kind: 'database',
    database: name,
    collation: dialect.collations.get(collation.toLowerCase())?.id,
  }))
  return [
    ...databases,
    ...tables.map((table): Effect => ({
      kind: 'table',
      name: { database: table.databaseName, table: table.tableName },
      now: definition(
        [
          ...(columnsOf.get(of(table)) ?? []).map((row) =>
            readCapturedColumn({ ...row, collation: idOf(row.collationName) }),
          ),
          ...hiddenColumns(table, columnsOf.get(of(table)) ?? []),
        ],
        keysFrom(keysOf.get(of(table)) ?? []),
        { collation: idOf(table.collationName), dialect },
      ),
    })),
  ]
}

/** What WITH SYSTEM VERSIONING adds by itself is in the log, and not in information_schema. */
function hiddenColumns(
  { tableName, type }: { readonly tableName: string; readonly type: string },
  columns: readonly { readonly extra: string; readonly columnType: string }[],
): CapturedColumn[] {
  const named = columns.filter(
    (c) =>
      c.extra.includes('STORED GENERATED') &&
      /^(timestamp\(6\)|bigint\(20\) unsigned)$/.test(c.columnType),
  )
  if (type !== 'SYSTEM VERSIONED' || named.length >= 2) return []
  return ['row_start', 'row_end'].map((name) =>
    readCapturedColumn({
      tableName,
      name,
      columnType: 'timestamp(6)',
      octets: null,
      collation: 0,
      nullable: 'NO',
      extra: 'INVISIBLE',
      columnKey: '',
      isKey: 0,
    }),
  )
}

function definition(
  captured: readonly CapturedColumn[],
  keys: readonly Key[],
  { collation, dialect }: { collation: number; dialect: Dialect },
): Definition {
  const primary = keys.find((key) => key.primary)
  const columns = captured.map((column) => ({
    ...columnOf(column, dialect),
    key: primary?.columns.includes(column.name) ?? false,
    promoted: primary === undefined && column.promoted,
  }))
  return { columns, keys, collation }
}

function keysFrom(rows: readonly KeyRow[]): Key[] {
  return [...Map.groupBy(rows, (row) => row.name)].map(([name, parts]) => ({
    name,
    primary: name === 'PRIMARY',
    unique: Number(parts[0]!.nonUnique) === 0,
    columns: parts.flatMap(({ columnName }) => (columnName === null ? [] : [columnName])),
    whole: parts.every((p) => p.columnName !== null && p.part === null),
    ...(parts[0]!.seen === 'NO' && { invisible: true }),
  }))
}
