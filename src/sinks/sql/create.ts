/**
 * Makes a table in the target out of what is known of the source's: names, types that hold every value, the key. Pure:
 * it returns statements. Indexes, defaults, checks and foreign keys of the source are not in its log, and are not made.
 */
import type { TargetColumn, TargetTable } from '../shape/row.ts'
import { familyOf, type Dialect, type TargetName } from './dialects/dialect.ts'

export interface CreateOptions {
  readonly name: TargetName
  /** The column of versions, when rows are to have one. */
  readonly versionColumn?: string | undefined
  /** Whether dates that do not exist become NULL, so that their columns must take it. */
  readonly zeroDatesAreNull?: boolean | undefined
}

/** The statements that make `table` in the target: its space and itself, both IF NOT EXISTS. */
export function createTable(
  table: TargetTable,
  dialect: Dialect,
  options: CreateOptions,
): string[] {
  const { name, versionColumn } = options
  const lines = table.columns.map((column) => columnText(column, dialect, options))
  if (versionColumn !== undefined)
    lines.push(`${dialect.quote(versionColumn)} ${dialect.versionType} NOT NULL`)
  if (table.keys.length > 0) {
    const keys = table.keys.map((key) => dialect.quote(key.name)).join(', ')
    lines.push(`PRIMARY KEY (${keys})`)
  }
  const create = `CREATE TABLE IF NOT EXISTS ${dialect.full(name)} (\n  ${lines.join(',\n  ')}\n)`
  return name.space === undefined ? [create] : [dialect.createSpace(name.space), create]
}

/** One column's definition, as CREATE TABLE and ADD COLUMN take it. */
export function columnText(column: TargetColumn, dialect: Dialect, options: CreateOptions): string {
  const key = column.key
  const family = familyOf(column)
  const dates = family === 'date' || family === 'timestamp'
  const nullable =
    !key && ((dates && options.zeroDatesAreNull === true) || column.column?.nullable !== false)
  // TIMESTAMP without NULL would get a default of its own in old servers
  const tail = nullable ? ' NULL' : ' NOT NULL'
  return `${dialect.quote(column.name)} ${dialect.typeOf(column, key)}${tail}`
}
