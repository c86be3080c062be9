/**
 * What there is in the source to be moved: databases, tables with columns, indexes and foreign keys as information_schema
 * and SHOW CREATE TABLE have them, and the objects beside tables. Asks the server and changes nothing.
 */
import type { Filter } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { literally } from '../options.ts'

export type Query = <T>(sql: string, params?: readonly string[]) => Promise<T[]>

export interface SourceColumn {
  readonly name: string
  readonly type: string // COLUMN_TYPE
  readonly nullable: boolean
  readonly default: string | undefined
  /** The default is an expression, not a literal. */
  readonly computedDefault: boolean
  readonly extra: string
  readonly generated: string // its expression; '' for a column that is written
  readonly collation: string | undefined
  readonly comment: string
}
export interface SourceIndex {
  readonly name: string
  readonly unique: boolean
  readonly kind: string // BTREE, FULLTEXT, SPATIAL …
  readonly parts: readonly IndexPart[]
}
export interface IndexPart {
  readonly column: string | undefined // undefined: an expression
  readonly length: number | undefined // of a prefix
  readonly descending: boolean
}
export interface SourceForeignKey {
  readonly name: string
  readonly columns: readonly string[]
  readonly parent: { readonly database: string; readonly name: string }
  readonly parentColumns: readonly string[]
  readonly onDelete: string
  readonly onUpdate: string
}
export interface SourceTable {
  readonly database: string
  readonly name: string
  readonly engine: string
  readonly rows: number // as the server estimates
  readonly bytes: number
  readonly comment: string
  readonly collation: string
  readonly partitioned: boolean
  /** The next number, of SHOW CREATE TABLE: information_schema has it of a day ago. */
  readonly autoIncrement: string | undefined
  readonly create: string // SHOW CREATE TABLE
  readonly columns: readonly SourceColumn[]
  readonly indexes: readonly SourceIndex[] // the primary key too
  readonly foreignKeys: readonly SourceForeignKey[]
  readonly checks: readonly string[] // names
  /** Columns that tell rows apart: the primary key, or else a unique one without NULLs and prefixes; undefined: none. */
  readonly key: { readonly index: string; readonly columns: readonly string[] } | undefined
}
export interface SourceObject {
  readonly kind: 'view' | 'trigger' | 'procedure' | 'function' | 'event'
  readonly database: string
  readonly name: string
}
export interface SourceDatabase {
  readonly name: string
  readonly charset: string
  readonly collation: string
}
export interface Inventory {
  /** Tables that can not be moved, and why. */
  readonly odd: readonly { readonly name: string; readonly why: string }[]
  readonly databases: readonly SourceDatabase[]
  readonly tables: readonly SourceTable[]
  readonly objects: readonly SourceObject[]
}

export const quoted = (name: string): string => `\`${name.replaceAll('`', '``')}\``
export const nameOf = ({ database, name }: { database: string; name: string }): string =>
  `${database}.${name}`
export const fullName = ({ database, name }: { database: string; name: string }): string =>
  `${quoted(database)}.${quoted(name)}`

export const isDate = (type: string): boolean => /^(date|datetime|timestamp)\b/.test(type)

type Row = Readonly<Record<string, string | number | null>>
const text = (row: Row, key: string): string => String(row[key] ?? '')
const optional = (row: Row, key: string): string | undefined =>
  row[key] === null || row[key] === undefined ? undefined : String(row[key])

const SYSTEM = `('mysql', 'information_schema', 'performance_schema', 'sys')`

/** Throws SOURCE_UNSUITABLE where the filter matches no table. */
export async function takeInventory(query: Query, filter: Filter): Promise<Inventory> {
  const [server] = await query<Row>('SELECT VERSION() AS version')
  const mariadb = /mariadb/i.test(text(server!, 'version'))
  const all = await query<Row>(
    `SELECT * FROM information_schema.TABLES WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED', 'SEQUENCE')
       AND TABLE_SCHEMA NOT IN ${SYSTEM} ORDER BY TABLE_SCHEMA, TABLE_NAME`,
  )
  const matching = all.filter((row) => filter(text(row, 'TABLE_SCHEMA'), text(row, 'TABLE_NAME')))
  const wanted = matching.filter((row) => row['TABLE_TYPE'] === 'BASE TABLE')
  if (wanted.length === 0)
    throw new SluiceError(
      'SOURCE_UNSUITABLE',
      `expected tables to move, found none that matches among the ${all.length} that the account can see`,
    )
  const names = [...new Set(wanted.map((row) => text(row, 'TABLE_SCHEMA')))]
  const parts = await details(query, names)
  const tables: SourceTable[] = []
  for (const row of wanted) tables.push(await tableOf(query, row, { parts, mariadb }))
  const databases = await query<Row>(
    `SELECT SCHEMA_NAME, DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA
      WHERE SCHEMA_NAME IN (${marks(names)})`,
    names,
  )
  return {
    odd: matching
      .filter((row) => !wanted.includes(row))
      .map((row) => ({
        name: `${text(row, 'TABLE_SCHEMA')}.${text(row, 'TABLE_NAME')}`,
        why: `${text(row, 'TABLE_TYPE').toLowerCase()}, which only MariaDB has`,
      })),
    databases: databases.map((row) => ({
      name: text(row, 'SCHEMA_NAME'),
      charset: text(row, 'DEFAULT_CHARACTER_SET_NAME'),
      collation: text(row, 'DEFAULT_COLLATION_NAME'),
    })),
    tables,
    objects: await objectsOf(query, names, filter),
  }
}
const marks = (list: readonly string[]): string => list.map(() => '?').join(', ')

/** Rows of information_schema by "database.table". */
type Details = Readonly<
  Record<'columns' | 'indexes' | 'keys' | 'rules' | 'checks', Map<string, Row[]>>
>

async function details(query: Query, names: readonly string[]): Promise<Details> {
  const by = async (sql: string, prefix = 'TABLE'): Promise<Map<string, Row[]>> => {
    const rows = await query<Row>(sql, [...names])
    return Map.groupBy(rows, (row) => `${text(row, `${prefix}_SCHEMA`)}.${text(row, 'TABLE_NAME')}`)
  }
  const within = `IN (${marks(names)})`
  return {
    columns: await by(
      `SELECT * FROM information_schema.COLUMNS WHERE TABLE_SCHEMA ${within} ORDER BY ORDINAL_POSITION`,
    ),
    indexes: await by(
      `SELECT * FROM information_schema.STATISTICS WHERE TABLE_SCHEMA ${within} ORDER BY INDEX_NAME, SEQ_IN_INDEX`,
    ),
    keys: await by(
      `SELECT * FROM information_schema.KEY_COLUMN_USAGE WHERE TABLE_SCHEMA ${within}
         AND REFERENCED_TABLE_NAME IS NOT NULL ORDER BY CONSTRAINT_NAME, ORDINAL_POSITION`,
    ),
    rules: await by(
      `SELECT * FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA ${within}`,
      'CONSTRAINT',
    ),
    checks: await by(
      `SELECT * FROM information_schema.TABLE_CONSTRAINTS WHERE TABLE_SCHEMA ${within} AND CONSTRAINT_TYPE = 'CHECK'`,
    ),
  }
}

async function tableOf(
  query: Query,
  row: Row,
  { parts, mariadb }: { parts: Details; mariadb: boolean },
): Promise<SourceTable> {
  const database = text(row, 'TABLE_SCHEMA')
  const name = text(row, 'TABLE_NAME')
  const at = `${database}.${name}`
  const [shown] = await query<Row>(`SHOW CREATE TABLE ${fullName({ database, name })}`)
  const create = text(shown ?? {}, 'Create Table')
  const columns = (parts.columns.get(at) ?? []).map((one) =>
    mariadb ? ofMariadb(columnOf(one)) : columnOf(one),
  )
  const indexes = [
    ...Map.groupBy(parts.indexes.get(at) ?? [], (one) => text(one, 'INDEX_NAME')).values(),
  ].map(indexOf)
  const rules = new Map(
    (parts.rules.get(at) ?? []).map((one) => [text(one, 'CONSTRAINT_NAME'), one]),
  )
  const keys = Map.groupBy(parts.keys.get(at) ?? [], (one) => text(one, 'CONSTRAINT_NAME'))
  return {
    database,
    name,
    engine: text(row, 'ENGINE'),
    rows: Number(row['TABLE_ROWS'] ?? 0),
    bytes: Number(row['DATA_LENGTH'] ?? 0) + Number(row['INDEX_LENGTH'] ?? 0),
    comment: text(row, 'TABLE_COMMENT'),
    collation: text(row, 'TABLE_COLLATION'),
    partitioned: text(row, 'CREATE_OPTIONS').includes('partitioned'),
    autoIncrement: /^\) .*?\bAUTO_INCREMENT=(\d+)/m.exec(create)?.[1],
    create,
    columns,
    indexes,
    foreignKeys: [...keys].map(([key, list]) => foreignKeyOf(list, rules.get(key))),
    checks: (parts.checks.get(at) ?? []).map((one) => text(one, 'CONSTRAINT_NAME')),
    key: keyOf(columns, indexes),
  }
}
function columnOf(row: Row): SourceColumn {
  const extra = text(row, 'EXTRA')
  const generated = text(row, 'GENERATION_EXPRESSION')
  return {
    name: text(row, 'COLUMN_NAME'),
    type: text(row, 'COLUMN_TYPE'),
    nullable: text(row, 'IS_NULLABLE') === 'YES',
    default: generated === '' ? optional(row, 'COLUMN_DEFAULT') : undefined,
    computedDefault: /DEFAULT_GENERATED/i.test(extra),
    extra,
    generated,
    collation: optional(row, 'COLLATION_NAME'),
    comment: text(row, 'COLUMN_COMMENT'),
  }
}
/** MariaDB shows a default as it is written, and NULL for a column that has none and takes it. */
function ofMariadb(column: SourceColumn): SourceColumn {
  const { default: written } = column
  if (written === undefined || written === 'NULL') return { ...column, default: undefined }
  const string = /^'(.*)'$/s.exec(written)?.[1]
  if (string !== undefined) {
    const plain = string.replaceAll(/''|\\(.)/gs, (_, c?: string) => ESCAPED[c ?? "'"] ?? c ?? "'")
    return { ...column, default: plain }
  }
  const literal = /^(-?[\d.]+(e[+-]?\d+)?|b'[01]*'|current_timestamp\(\d?\))$/i.test(written)
  return { ...column, computedDefault: !literal }
}
const ESCAPED: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t', '0': '\0' }

function indexOf(rows: readonly Row[]): SourceIndex {
  const [first] = rows
  return {
    name: text(first!, 'INDEX_NAME'),
    unique: Number(first!['NON_UNIQUE']) === 0,
    kind: text(first!, 'INDEX_TYPE'),
    parts: rows.map((row) => ({
      column: optional(row, 'COLUMN_NAME'),
      length: row['SUB_PART'] === null ? undefined : Number(row['SUB_PART']),
      descending: text(row, 'COLLATION') === 'D',
    })),
  }
}
function foreignKeyOf(rows: readonly Row[], rule: Row | undefined): SourceForeignKey {
  const [first] = rows
  return {
    name: text(first!, 'CONSTRAINT_NAME'),
    columns: rows.map((row) => text(row, 'COLUMN_NAME')),
    parent: {
      database: text(first!, 'REFERENCED_TABLE_SCHEMA'),
      name: text(first!, 'REFERENCED_TABLE_NAME'),
    },
    parentColumns: rows.map((row) => text(row, 'REFERENCED_COLUMN_NAME')),
    onDelete: text(rule ?? {}, 'DELETE_RULE') || 'NO ACTION',
    onUpdate: text(rule ?? {}, 'UPDATE_RULE') || 'NO ACTION',
  }
}
function keyOf(
  columns: readonly SourceColumn[],
  indexes: readonly SourceIndex[],
): SourceTable['key'] {
  const nullable = new Set(columns.filter((c) => c.nullable).map((c) => c.name))
  const whole = (index: SourceIndex): boolean =>
    index.parts.every(
      ({ column, length }) => column !== undefined && length === undefined && !nullable.has(column),
    )
  const found =
    indexes.find((index) => index.name === 'PRIMARY') ??
    indexes.find((index) => index.unique && whole(index))
  return found && { index: found.name, columns: found.parts.map((part) => part.column!) }
}

async function objectsOf(
  query: Query,
  names: readonly string[],
  filter: Filter,
): Promise<SourceObject[]> {
  const list = marks(names)
  const found: SourceObject[] = []
  const add = async (kind: SourceObject['kind'] | '', sql: string): Promise<void> => {
    for (const row of await query<Row>(sql, [...names])) {
      if (row['t'] !== undefined && !filter(text(row, 'd'), text(row, 't'))) continue
      const own = kind === '' ? (text(row, 'kind').toLowerCase() as SourceObject['kind']) : kind
      found.push({ kind: own, database: text(row, 'd'), name: text(row, 'n') })
    }
  }
  await add(
    '',
    `SELECT ROUTINE_SCHEMA AS d, ROUTINE_NAME AS n, ROUTINE_TYPE AS kind FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA IN (${list})
      ORDER BY ROUTINE_TYPE, ROUTINE_SCHEMA, ROUTINE_NAME`,
  )
  await add(
    'view',
    `SELECT TABLE_SCHEMA AS d, TABLE_NAME AS n FROM information_schema.VIEWS WHERE TABLE_SCHEMA IN (${list}) ORDER BY TABLE_SCHEMA, TABLE_NAME`,
  )
  await add(
    'trigger',
    `SELECT TRIGGER_SCHEMA AS d, TRIGGER_NAME AS n, EVENT_OBJECT_TABLE AS t FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA IN (${list})
      ORDER BY TRIGGER_SCHEMA, EVENT_OBJECT_TABLE, ACTION_TIMING, EVENT_MANIPULATION, ACTION_ORDER`,
  )
  await add(
    'event',
    `SELECT EVENT_SCHEMA AS d, EVENT_NAME AS n FROM information_schema.EVENTS WHERE EVENT_SCHEMA IN (${list}) ORDER BY EVENT_SCHEMA, EVENT_NAME`,
  )
  return found
}

/** Tables whose rows are told apart by a unique key that is not the primary one. */
export const keyRules = (tables: readonly SourceTable[]): object[] =>
  tables.flatMap((table) =>
    table.key === undefined || table.key.index === 'PRIMARY'
      ? []
      : [
          {
            match: `${literally(table.database)}\\.${literally(table.name)}`,
            key: table.key.columns,
          },
        ],
  )

const ACTS = new Set(['CASCADE', 'SET NULL', 'SET DEFAULT'])
/** Whether rows of it change without being logged, so that the target has to change them itself as well. */
export const cascades = ({ foreignKeys }: SourceTable): boolean =>
  foreignKeys.some(({ onDelete, onUpdate }) => ACTS.has(onDelete) || ACTS.has(onUpdate))
