/**
 * Which tables and which of their columns are wanted, in Canal's syntax. A filter answers once per table and remembers;
 * patterns cannot be made slow (pattern.ts), and their length is limited, because clients send them over the network.
 * Pure; knows no configuration file and no connection.
 *
 * Tables: comma-separated patterns on "database.table" (commas inside (), [] and {} separate nothing), each for the whole
 * name, ignoring case. A "." is any character unless escaped: "shop.*" is also "shopping.cart", "shop\..*" is not. A
 * doubled backslash, as Java properties files need it, counts as one: no table name holds a backslash.
 * Columns: comma-separated "database.table:column/column".
 */
import type { Column, Filter } from './change.ts'
import { SluiceError } from './errors.ts'
import { compilePattern, patternBudget } from './pattern.ts'

/** Characters of one filter text. A list of a thousand full table names fits. */
export const FILTER_LENGTH_MAX = 65_536
const REMEMBERED_MAX = 20_000

export type FilterText = string | readonly string[]

export interface FilterOptions extends KindOptions {
  /** Empty or missing: every table. */
  readonly include?: FilterText | undefined
  /** Empty or missing: none. Wins over include. */
  readonly exclude?: FilterText | undefined
}

/** Which kinds of changes are wanted; whatever is missing is. */
export interface KindOptions {
  readonly statements?:
    | {
        readonly ddl?: boolean | undefined // of tables, indexes and databases
        readonly dml?: 'stop' | 'deliver' | 'drop' | undefined // INSERT, UPDATE, DELETE logged as text; missing: deliver
        readonly dcl?: boolean | undefined // accounts, views, routines and all other statements
      }
    | undefined
  readonly rows?:
    | {
        readonly insert?: boolean | undefined
        readonly update?: boolean | undefined
        readonly delete?: boolean | undefined
      }
    | undefined
}

export const everything: Filter = () => true

/** Throws SluiceError CONFIG_INVALID that names the item. */
export function compileFilter(options: FilterOptions): Filter {
  const include = compileList('include', options.include)
  const exclude = compileList('exclude', options.exclude)
  if (include.length === 0 && exclude.length === 0) return everything
  return remember((database, table) => {
    const name = `${database}.${table}`
    return (include.length === 0 || include.some((p) => p(name))) && !exclude.some((p) => p(name))
  })
}

/** Wanted by both. */
export function intersect(a: Filter, b: Filter): Filter {
  if (a === everything) return b
  if (b === everything || a === b) return a
  return (database, table) => a(database, table) && b(database, table)
}

function compileList(what: string, text: FilterText | undefined): ((name: string) => boolean)[] {
  const items = splitItems(what, text)
  const budget = patternBudget()
  return items.map((item, index) => {
    try {
      return compilePattern(item.replaceAll('\\\\', '\\'), budget)
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause)
      const shown = item.length > 200 ? `${item.slice(0, 200)}…` : item
      const message = `filter ${what}, item ${index + 1} "${shown}": ${reason}`
      throw new SluiceError('CONFIG_INVALID', message, { cause })
    }
  })
}

function splitItems(what: string, text: FilterText | undefined): string[] {
  if (text === undefined) return []
  const texts: readonly string[] = typeof text === 'string' ? [text] : text
  const length = texts.reduce((sum, item) => sum + item.length, 0)
  if (length <= FILTER_LENGTH_MAX) return texts.flatMap(splitText)
  const message = `filter ${what}: ${length} characters, at most ${FILTER_LENGTH_MAX} are accepted`
  throw new SluiceError('CONFIG_INVALID', message)
}

/** Items between commas that stand outside brackets, trimmed, empty ones dropped. */
function splitText(text: string): string[] {
  const items: string[] = []
  let depth = 0
  let from = 0
  for (let at = 0; at < text.length; at++) {
    const c = text[at]!
    if (c === '\\') at++
    else if (c === '(' || c === '[' || c === '{') depth++
    else if (c === ')' || c === ']' || c === '}') depth--
    else if (c === ',' && depth <= 0) {
      items.push(text.slice(from, at))
      from = at + 1
    }
  }
  items.push(text.slice(from))
  return items.map((item) => item.trim()).filter((item) => item !== '')
}

/** Two levels of maps: no key text is built per call. Starts afresh when it has grown too big. */
function remember(filter: Filter): Filter {
  const databases = new Map<string, Map<string, boolean>>()
  let size = 0
  return (database, table) => {
    const known = databases.get(database)?.get(table)
    if (known !== undefined) return known
    const wanted = filter(database, table)
    if (++size > REMEMBERED_MAX) {
      databases.clear()
      size = 1
    }
    let tables = databases.get(database)
    if (!tables) databases.set(database, (tables = new Map()))
    tables.set(table, wanted)
    return wanted
  }
}

// ── columns ──────────────────────────────────────────────────────────────────

export interface ColumnSelection {
  /** The same array as given when nothing is left out. */
  readonly selected: readonly Column[]
  /** Says which primary key columns are left out; "" when none is. */
  readonly warning: string
}
/**
 * Selects a table's columns. Throws SluiceError CONFIG_INVALID when a listed column does not exist or none is left.
 */
export type ColumnFilter = (
  database: string,
  table: string,
  columns: readonly Column[],
) => ColumnSelection

export const everyColumn: ColumnFilter = (_database, _table, columns) => ({
  selected: columns,
  warning: '',
})

/**
 * Column lists per table; where a table stands in both, include decides, as in Canal.
 * Throws SluiceError CONFIG_INVALID that names the item.
 */
export function compileColumns(options: FilterOptions): ColumnFilter {
  const include = readColumnLists('include', options.include)
  const exclude = readColumnLists('exclude', options.exclude)
  if (include.size === 0 && exclude.size === 0) return everyColumn
  return (database, table, columns) => {
    const name = `${database}.${table}`
    const kept = include.get(name.toLowerCase())
    const dropped = kept ? undefined : exclude.get(name.toLowerCase())
    const list = kept ?? dropped
    if (!list) return { selected: columns, warning: '' }
    checkColumns(name, list, columns)
    const selected = columns.filter((c) => list.has(c.name.toLowerCase()) === (kept !== undefined))
    if (selected.length === 0) {
      throw new SluiceError('CONFIG_INVALID', `column filter of ${name}: no column is left`)
    }
    return { selected, warning: keyWarning(name, columns, selected) }
  }
}

/** Lower-case "database.table" → lower-case column → column as written. */
type ColumnLists = Map<string, Map<string, string>>

function readColumnLists(what: string, text: FilterText | undefined): ColumnLists {
  const lists: ColumnLists = new Map()
  for (const [index, item] of splitItems(what, text).entries()) {
    const match = /^([^.:]+\.[^:]+):([^:]+)$/.exec(item)
    const columns = (match?.[2] ?? '').split('/').map((column) => column.trim())
    if (!match || columns.some((column) => column === '')) {
      throw new SluiceError(
        'CONFIG_INVALID',
        `column filter ${what}, item ${index + 1} "${item}": expected database.table:column/column`,
      )
    }
    const name = match[1]!.trim().toLowerCase()
    const list = lists.get(name) ?? new Map<string, string>()
    for (const column of columns) list.set(column.toLowerCase(), column)
    lists.set(name, list)
  }
  return lists
}

function checkColumns(
  name: string,
  list: ReadonlyMap<string, string>,
  columns: readonly Column[],
): void {
  const present = new Set(columns.map((column) => column.name.toLowerCase()))
  const unknown = [...list].filter(([lower]) => !present.has(lower)).map(([, written]) => written)
  if (unknown.length === 0) return
  throw new SluiceError(
    'CONFIG_INVALID',
    `column filter of ${name}: no column ${unknown.join(', ')}; it has ${columns.map((c) => c.name).join(', ')}`,
  )
}

function keyWarning(name: string, columns: readonly Column[], selected: readonly Column[]): string {
  const lost = columns.filter((column) => column.key && !selected.includes(column))
  if (lost.length === 0) return ''
  return `column filter of ${name} leaves out primary key columns ${lost.map((c) => c.name).join(', ')}: consumers cannot tell its rows apart`
}
