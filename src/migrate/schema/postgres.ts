/**
 * A table of MySQL as PostgreSQL takes it: the types of the SQL sink (docs/sinks/sql.md), and what a log does not hold:
 * defaults, counters, comments, generated columns, indexes, foreign keys. What has no equivalent becomes a note. Pure.
 */
import { createHash } from 'node:crypto'
import { postgresType } from '../../sinks/sql/dialects/postgres.ts'
import { full, quote, text } from '../../sinks/sql/dialects/postgres-rows.ts'
import { generatedText } from './expression.ts'
import { isDate, type SourceColumn, type SourceIndex, type SourceTable } from './inventory.ts'
import type { Later, TableDraft } from './mysql.ts'

export interface PostgresDraft extends TableDraft {
  /** Columns by name, as ADD COLUMN takes them. */
  readonly columns: ReadonlyMap<string, string>
  /** Columns that take NULL while rows are written, for dates that do not exist, and NOT NULL in the source. */
  readonly notNull: readonly string[]
  /** The column that counts, with the statement that sets its next number. */
  readonly counter: string | undefined
}
const nameIn = ({ database, name }: { database: string; name: string }) => ({
  space: database,
  table: name,
})

export function postgresTable(table: SourceTable): PostgresDraft {
  const notes: string[] = []
  const name = full(nameIn(table))
  const notNull: string[] = []
  const lines = table.columns.map((column) => columnText(column, table, { notes, notNull }))
  const columns = new Map(table.columns.map(({ name: column }, i) => [column, lines[i]!]))
  const primary = table.indexes.find((index) => index.name === 'PRIMARY')
  if (primary !== undefined) {
    lines.push(`PRIMARY KEY (${primary.parts.map((part) => quote(part.column!)).join(', ')})`)
    if (primary.parts.some((part) => part.length !== undefined))
      notes.push('primary key over prefixes: becomes one over whole values')
  }
  const counter = table.columns.find(isCounter)
  const create = [
    ...sequence(table, counter),
    `CREATE TABLE ${name} (\n  ${lines.join(',\n  ')}\n)`,
  ]
  if (counter !== undefined && sequence(table, counter).length > 0)
    create.push(`ALTER SEQUENCE ${sequenceOf(table)} OWNED BY ${name}.${quote(counter.name)}`)
  if (table.comment !== '') create.push(`COMMENT ON TABLE ${name} IS ${text(table.comment)}`)
  for (const column of table.columns)
    if (column.comment !== '')
      create.push(`COMMENT ON COLUMN ${name}.${quote(column.name)} IS ${text(column.comment)}`)
  const indexes: Later[] = []
  for (const index of table.indexes) {
    if (index.name === 'PRIMARY') continue
    const sql = indexText(table, index, notes)
    if (sql === undefined) continue
    if (primary === undefined && index.name === table.key?.index) create.push(sql)
    else indexes.push({ name: indexName(table, index.name), sql })
  }
  noteTable(table, notes)
  return {
    create,
    columns,
    indexes,
    foreignKeys: foreignKeys(table, notes),
    notes,
    notNull,
    counter:
      counter &&
      `SELECT setval(pg_get_serial_sequence(${text(name)}, ${text(counter.name)}), ${table.autoIncrement ?? 1}, false)`,
  }
}
/** What is of the whole table. */
function noteTable(table: SourceTable, notes: string[]): void {
  if (table.partitioned) notes.push('partitions: made as one table')
  if (table.checks.length > 0)
    notes.push(
      `CHECK constraints ${table.checks.join(', ')}: not made, for their expressions are MySQL's`,
    )
  const folding = table.indexes.filter(
    (index) => index.unique && index.parts.some((part) => folds(table, part.column)),
  )
  if (folding.length > 0)
    notes.push(
      `unique ${folding.map((index) => index.name).join(', ')}: values that differ in case or accents only are different in PostgreSQL`,
    )
  const labels = table.columns.filter((c) => /^(enum|set)\(/.test(c.type)).map((c) => c.name)
  if (labels.length > 0)
    notes.push(`${labels.join(', ')}: ENUM and SET are text, which takes any label`)
}
const folds = ({ columns }: SourceTable, name: string | undefined): boolean =>
  columns.find((column) => column.name === name)?.collation?.endsWith('_ci') === true

// ── columns ──────────────────────────────────────────────────────────────────

const BINARY =
  /^(tiny|medium|long)?blob|^(var)?binary|^(geometry|point|linestring|polygon|multi\w+|geom\w+)\b/
const isCounter = ({ extra }: SourceColumn): boolean => /auto_increment/i.test(extra)

export const columnType = ({ type }: SourceColumn): string =>
  postgresType(
    { mysqlType: type, unsigned: /\bunsigned\b/.test(type), binary: BINARY.test(type) },
    'json',
  )

function columnText(
  column: SourceColumn,
  table: SourceTable,
  { notes, notNull }: { notes: string[]; notNull: string[] },
): string {
  const type = columnType(column)
  const key = table.key?.columns.includes(column.name) === true
  const head = `${quote(column.name)} ${type}`
  if (/on update/i.test(column.extra))
    notes.push(
      `column ${column.name}: ON UPDATE CURRENT_TIMESTAMP has no equivalent; a trigger can do it`,
    )
  if (BINARY.test(column.type) && !/blob|binary/.test(column.type))
    notes.push(
      `column ${column.name}: ${column.type} becomes bytea, SRID and WKB as MySQL stores them`,
    )
  const later = !column.nullable && !key && isDate(column.type)
  if (later) notNull.push(column.name)
  const required = column.nullable || later ? '' : ' NOT NULL'
  if (column.generated !== '') {
    const expression = key ? undefined : generatedText(column, table.columns, columnType)
    if (expression !== undefined)
      return `${head} GENERATED ALWAYS AS (${expression}) STORED${required}`
    notes.push(
      `column ${column.name}: generated as ${column.generated}, becomes a column that the application has to write`,
    )
    return `${head}${required}`
  }
  if (isCounter(column)) {
    if (/^(smallint|integer|bigint)$/.test(type)) return `${head} GENERATED BY DEFAULT AS IDENTITY`
    return `${head}${required} DEFAULT nextval(${text(sequenceOf(table))})`
  }
  const value = defaultText(column, type)
  if (value === undefined && column.default !== undefined && column.default !== 'NULL')
    notes.push(`column ${column.name}: its default ${column.default} has no equivalent`)
  return `${head}${required}${value === undefined ? '' : ` DEFAULT ${value}`}`
}
const NUMERIC = /^(smallint|integer|bigint|numeric|real|double)/

function defaultText(column: SourceColumn, type: string): string | undefined {
  const { default: value, computedDefault } = column
  if (value === undefined) return undefined
  const now = /^(?:current_timestamp|now)(?:\((\d?)\))?$/i.exec(value)
  if (now !== null) {
    const digits = now[1] ? `(${now[1]})` : '(0)'
    return type.startsWith('timestamptz') ? `CURRENT_TIMESTAMP${digits}` : `LOCALTIMESTAMP${digits}`
  }
  if (computedDefault) {
    if (!/^uuid\(\)$/i.test(value) || type === 'bytea') return undefined
    return `gen_random_uuid()${type === 'uuid' ? '' : '::text'}`
  }
  if (NUMERIC.test(type)) return /^-?\d+(\.\d+)?(e[+-]?\d+)?$/i.test(value) ? value : undefined
  if (type.startsWith('bit')) {
    const bits = /^b'([01]+)'$/.exec(value)?.[1]
    const width = Number(/\d+/.exec(type)![0])
    return bits === undefined ? undefined : `B'${bits.padStart(width, '0')}'`
  }
  if (/^(date|timestamp)/.test(type))
    return /^0000|-00/.test(value.slice(0, 10)) ? undefined : text(value)
  if (type === 'bytea') {
    const hex = /^0x([0-9A-F]*)$/i.exec(value)?.[1]
    return hex === undefined ? undefined : `'\\x${hex}'::bytea`
  }
  return type === 'json' || type === 'real[]' ? undefined : text(value)
}

/** A counter whose type PostgreSQL has no identity of: BIGINT UNSIGNED. */
function sequence(table: SourceTable, counter: SourceColumn | undefined): string[] {
  if (counter === undefined || /^(smallint|integer|bigint)$/.test(columnType(counter))) return []
  return [`CREATE SEQUENCE ${sequenceOf(table)}`]
}
const sequenceOf = (table: SourceTable): string =>
  full({ space: table.database, table: short(`${table.name}_seq`) })

// ── indexes and foreign keys ─────────────────────────────────────────────────

const NAME_BYTES = 63
/** A name that PostgreSQL does not cut. */
function short(name: string): string {
  if (Buffer.byteLength(name) <= NAME_BYTES) return name
  const hash = createHash('sha256').update(name).digest('hex').slice(0, 8)
  return `${Buffer.from(name)
    .subarray(0, NAME_BYTES - 12)
    .toString('utf8')
    .replaceAll('\ufffd', '')}_${hash}`
}
/** Names of indexes are a schema's in PostgreSQL, and a table's in MySQL. */
const indexName = (table: SourceTable, name: string): string => short(`${table.name}_${name}`)

function indexText(table: SourceTable, index: SourceIndex, notes: string[]): string | undefined {
  if (index.kind === 'FULLTEXT' || index.kind === 'SPATIAL') {
    notes.push(`index ${index.name}: ${index.kind} has no equivalent; not made`)
    return undefined
  }
  if (index.parts.some((part) => part.column === undefined)) {
    notes.push(`index ${index.name}: over an expression of MySQL; not made`)
    return undefined
  }
  const parts: string[] = []
  for (const { column, length, descending } of index.parts) {
    const type = columnType(table.columns.find((one) => one.name === column)!)
    if (type === 'json' || type === 'real[]') {
      notes.push(`index ${index.name}: ${type} cannot be indexed; not made`)
      return undefined
    }
    const name = quote(column!)
    const prefix =
      type === 'bytea' ? `substring(${name} from 1 for ${length})` : `left(${name}, ${length})`
    parts.push(`${length === undefined ? name : `(${prefix})`}${descending ? ' DESC' : ''}`)
  }
  const unique = index.unique ? 'UNIQUE ' : ''
  return `CREATE ${unique}INDEX ${quote(indexName(table, index.name))} ON ${full(nameIn(table))} (${parts.join(', ')})`
}

function foreignKeys(table: SourceTable, notes: string[]): Later[] {
  const list = (names: readonly string[]): string => names.map(quote).join(', ')
  return table.foreignKeys.flatMap(
    ({ name, columns, parent, parentColumns, onDelete, onUpdate }) => {
      if ([onDelete, onUpdate].includes('SET DEFAULT')) {
        notes.push(`foreign key ${name} with SET DEFAULT: not made`)
        return []
      }
      const sql =
        `ALTER TABLE ${full(nameIn(table))} ADD CONSTRAINT ${quote(short(name))} FOREIGN KEY (${list(columns)}) ` +
        `REFERENCES ${full(nameIn(parent))} (${list(parentColumns)}) ON DELETE ${onDelete} ON UPDATE ${onUpdate}`
      return [{ name: short(name), sql }]
    },
  )
}
