/**
 * A table of MySQL as another MySQL or MariaDB takes it: the text of SHOW CREATE TABLE, taken apart at its commas and put
 * together again. Character sets and collations become explicit, for their defaults differ between versions; options that
 * the target lacks go; secondary indexes and foreign keys become statements of their own. Pure.
 */
import { Tokens } from '../../catalog/ddl/tokens.ts'
import { ADDRESSES } from '../../sinks/sql/dialects/dialect.ts'
import { addressType } from '../../sinks/sql/dialects/mysql.ts'
import { fullName, isDate, quoted, type SourceColumn, type SourceTable } from './inventory.ts'

/** What is to be known of a MySQL or MariaDB target. */
export interface MysqlFacts {
  readonly version: number // 90700, 101118
  readonly mariadb: boolean
  /** Name → character set. */
  readonly collations: ReadonlyMap<string, string>
}
/** A statement that is run after the load. */
export interface Later {
  readonly name: string // of the index or foreign key
  readonly sql: string
}
export interface TableDraft {
  readonly create: readonly string[]
  readonly indexes: readonly Later[]
  readonly foreignKeys: readonly Later[]
  /** What the target has no equivalent of, or has differently. */
  readonly notes: readonly string[]
}

interface Definition {
  readonly kind: 'column' | 'primary' | 'index' | 'foreign' | 'check' | 'other'
  readonly name: string
  readonly text: string
}

export function mysqlTable(table: SourceTable, facts: MysqlFacts): TableDraft {
  const notes: string[] = []
  const { definitions, tail } = takeApart(table.create)
  const columns = new Map(table.columns.map((column) => [column.name, column]))
  const early = earlyIndexes(table)
  const lines: string[] = []
  const indexes: Later[] = []
  const foreignKeys: Later[] = []
  const about = { table: table.collation, facts, notes }
  const alter = `ALTER TABLE ${fullName(table)} ADD `
  for (const { kind, name, text } of definitions) {
    if (kind === 'column') lines.push(columnText(text, columns.get(name), about))
    else if (kind === 'foreign') foreignKeys.push({ name, sql: alter + text })
    else if (kind === 'index' && isFunctional(table, name) && !functional(facts))
      notes.push(`index ${name} is over an expression, which the target does not know: not made`)
    else if (kind === 'index' && !early.has(name))
      indexes.push({ name, sql: alter + indexText(text, facts) })
    else if (kind === 'other') notes.push(`not made: ${text}`)
    else lines.push(indexText(text, facts))
  }
  const options = optionsText(table, tail, facts, notes)
  const create = `CREATE TABLE ${fullName(table)} (\n  ${lines.join(',\n  ')}\n) ${options}`
  return { create: [create], indexes, foreignKeys, notes }
}

/** The parts between the parentheses, and what stands behind them. */
function takeApart(create: string): { definitions: Definition[]; tail: string } {
  const tokens = new Tokens(create)
  while (tokens.kind !== 'end' && !tokens.isPunctuation('(')) tokens.next()
  tokens.next()
  const definitions: Definition[] = []
  let from = tokens.start
  for (;;) {
    const over = tokens.kind === 'end' || tokens.isPunctuation(')')
    if (over || tokens.isPunctuation(',')) {
      definitions.push(definitionOf(create.slice(from, tokens.start).trim()))
      if (over) return { definitions, tail: create.slice(tokens.end) }
      tokens.next()
      from = tokens.start
    } else if (tokens.isPunctuation('(')) tokens.skipParentheses()
    else tokens.next()
  }
}
function definitionOf(text: string): Definition {
  const tokens = new Tokens(text)
  if (tokens.kind === 'quoted') return { kind: 'column', name: tokens.text, text }
  if (tokens.is('PRIMARY')) return { kind: 'primary', name: 'PRIMARY', text }
  if (tokens.take('CONSTRAINT')) {
    const name = tokens.takeIdentifier() ?? ''
    return { kind: tokens.is('FOREIGN') ? 'foreign' : 'check', name, text }
  }
  if (tokens.is('CHECK')) return { kind: 'check', name: '', text }
  while (['UNIQUE', 'FULLTEXT', 'SPATIAL'].some((word) => tokens.take(word)));
  if (tokens.take('KEY')) return { kind: 'index', name: tokens.text, text }
  return { kind: 'other', name: '', text }
}

/** Those that the table cannot be made, or its rows not be found, without. */
function earlyIndexes({ key, indexes, columns }: SourceTable): Set<string> {
  const early = new Set(key === undefined ? indexes.map((index) => index.name) : [key.index])
  const counter = columns.find(({ extra }) => /auto_increment/i.test(extra))
  const led = indexes.filter((index) => index.parts[0]?.column === counter?.name)
  if (counter !== undefined && !led.some((index) => early.has(index.name)))
    if (led[0] !== undefined) early.add(led[0].name)
  return early
}
const isFunctional = ({ indexes }: SourceTable, name: string): boolean =>
  indexes.some(
    (index) => index.name === name && index.parts.some((part) => part.column === undefined),
  )
/** MariaDB's word for an index that is kept and not used. */
const indexText = (text: string, { mariadb }: MysqlFacts): string =>
  mariadb ? text : text.replace(/\) IGNORED$/, ') INVISIBLE')
const functional = ({ mariadb, version }: MysqlFacts): boolean => !mariadb && version >= 80_013

// ── columns ──────────────────────────────────────────────────────────────────

function columnText(
  text: string,
  column: SourceColumn | undefined,
  { table, facts, notes }: { table: string; facts: MysqlFacts; notes: string[] },
): string {
  const tokens = new Tokens(text)
  const name = tokens.text
  tokens.next()
  const from = tokens.start
  const word = tokens.text.toLowerCase()
  let typeEnd = tokens.end
  tokens.next()
  if (tokens.isPunctuation('(')) {
    typeEnd = closing(tokens)
    tokens.skipParentheses()
  }
  let rest = typeEnd
  for (;;) {
    if (tokens.is('COMPRESSED')) notes.push(`column ${name}: COMPRESSED: not taken over`)
    else if (tokens.take('CHARACTER')) tokens.next()
    else if (!tokens.take('COLLATE')) break
    rest = tokens.end
    tokens.next()
  }
  const type = typeText(text.slice(from, typeEnd), word, { facts, notes, name })
  const tail = defaultIn(
    text
      .slice(rest)
      .replace(/^\s*\*\//, '')
      .trim(),
    column,
  )
  if (column?.default !== undefined && /^0000-00-00|-00/.test(column.default) && isDate(word))
    notes.push(
      `column ${name}: its default ${column.default} is refused by the target's usual sql_mode`,
    )
  // Without its own it gets the table's, which is always written out.
  const own = column?.collation !== undefined && (rest > typeEnd || column.collation !== table)
  const set = own ? ` ${charsetText(column.collation!, facts, notes)}` : ''
  return `${quoted(name)} ${type}${set}${tail === '' ? '' : ` ${tail}`}`
}
/** MySQL takes an expression other than the time as a default in parentheses only. */
function defaultIn(tail: string, column: SourceColumn | undefined): string {
  const value = column?.computedDefault === true ? column.default : undefined
  if (value === undefined || /^current_timestamp(\(\d?\))?$/i.test(value)) return tail
  return tail.replace(`DEFAULT ${value}`, () => `DEFAULT (${value})`)
}
/** Where the parentheses that begin at the current token end. */
function closing(tokens: Tokens): number {
  const ahead = tokens.fork()
  let depth = 0
  let end = ahead.end
  do {
    if (ahead.isPunctuation('(')) depth++
    else if (ahead.isPunctuation(')')) depth--
    end = ahead.end
    ahead.next()
  } while (depth > 0 && ahead.kind !== 'end')
  return end
}
function typeText(
  text: string,
  word: string,
  { facts, notes, name }: { facts: MysqlFacts; notes: string[]; name: string },
): string {
  if (word === 'geomcollection' && (facts.mariadb || facts.version < 80_011))
    return 'geometrycollection'
  const address = ADDRESSES[word]
  if (address !== undefined && !facts.mariadb) {
    notes.push(`column ${name}: ${word} becomes ${addressType(address)}`)
    return addressType(address)
  }
  if (word !== 'vector' || (!facts.mariadb && facts.version >= 90_000)) return text
  const bytes = 4 * Number(/\d+/.exec(text)?.[0] ?? 2048)
  notes.push(`column ${name}: ${text} is varbinary(${bytes}), with the same bytes`)
  return `varbinary(${bytes})`
}

/** `CHARACTER SET x COLLATE y` with what the target has of it. */
function charsetText(collation: string, facts: MysqlFacts, notes: string[]): string {
  const found = targetCollation(collation, facts)
  const charset = facts.collations.get(found)
  if (
    !sameCollation(found, collation) &&
    !notes.some((note) => note.startsWith(`collation ${collation} `))
  )
    notes.push(`collation ${collation} is not there; ${found} is taken, which compares differently`)
  return charset === undefined ? '' : `CHARACTER SET ${charset} COLLATE ${found}`
}
const sameCollation = (a: string, b: string): boolean =>
  a.replace(/^utf8_/, 'utf8mb3_') === b.replace(/^utf8_/, 'utf8mb3_')
/** The same, or the nearest of the same character set. */
export function targetCollation(name: string, { collations }: MysqlFacts): string {
  const set = name.split('_')[0]!
  const candidates = [
    name,
    name.replace('_nopad', ''),
    name.replace(/^utf8_/, 'utf8mb3_'),
    name.replace(/^utf8mb3_/, 'utf8_'),
    ...(/_0900_ai_ci$|_as_ci$|_ai_ci$/.test(name)
      ? [`${set}_unicode_520_ci`, `${set}_unicode_ci`]
      : []),
    ...(/_cs$|_bin$/.test(name) ? [`${set}_bin`] : []),
    `${set}_general_ci`,
    `${set}_bin`,
  ]
  return candidates.find((one) => collations.has(one)) ?? 'utf8mb4_bin'
}

// ── options ──────────────────────────────────────────────────────────────────

const KEPT = new Set(
  'ROW_FORMAT KEY_BLOCK_SIZE STATS_PERSISTENT STATS_AUTO_RECALC STATS_SAMPLE_PAGES COMMENT'.split(
    ' ',
  ),
)
const FORMATS = new Set(['DYNAMIC', 'COMPACT', 'COMPRESSED', 'REDUNDANT'])
/** Said by other means, or worth no word. */
const SILENT = new Set(
  'ENGINE AUTO_INCREMENT CHARSET COLLATE DEFAULT MAX_ROWS MIN_ROWS AVG_ROW_LENGTH CHECKSUM DELAY_KEY_WRITE PACK_KEYS'.split(
    ' ',
  ),
)

function optionsText(table: SourceTable, tail: string, facts: MysqlFacts, notes: string[]): string {
  const found = table.partitioned ? /\s(\/\*!\d+ )?PARTITION BY /.exec(tail) : null
  const at = found?.index ?? tail.length
  const kept = [`ENGINE=InnoDB DEFAULT ${charsetText(table.collation, facts, notes)}`]
  if (table.engine !== 'InnoDB') notes.push(`${table.engine} becomes InnoDB`)
  const tokens = new Tokens(tail.slice(0, at))
  while (tokens.kind !== 'end') {
    const { start } = tokens
    const name = tokens.text.toUpperCase()
    tokens.next()
    if (!tokens.takePunctuation('=')) continue
    const value = tokens.text
    const text = tail.slice(start, tokens.end)
    tokens.next()
    if (KEPT.has(name) && (name !== 'ROW_FORMAT' || FORMATS.has(value.toUpperCase())))
      kept.push(text)
    else if (!SILENT.has(name)) notes.push(`option ${text}: not taken over`)
  }
  return `${kept.join(' ')}${tail.slice(at)}`
}

/** The statement that makes a database as the source has it. */
export function mysqlDatabase(
  { name, collation }: { readonly name: string; readonly collation: string },
  facts: MysqlFacts,
): string {
  return `CREATE DATABASE IF NOT EXISTS ${quoted(name)} ${charsetText(collation, facts, [])}`
}
/** Several clauses of one table in one statement, which passes over its rows once. */
export function together(later: readonly Later[]): Later[] {
  const alone = later.filter(({ sql }) => / ADD (FULLTEXT|SPATIAL) /.test(sql))
  const rest = later.filter((one) => !alone.includes(one))
  if (rest.length < 2) return [...rest, ...alone]
  const clauses = rest.map(({ sql }) => sql.slice(sql.indexOf(' ADD ') + 1))
  const head = rest[0]!.sql.slice(0, rest[0]!.sql.indexOf(' ADD '))
  const name = rest.map((one) => one.name).join(', ')
  return [{ name, sql: `${head} ${clauses.join(', ')}` }, ...alone]
}
