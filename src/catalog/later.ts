/**
 * Whether what a server says of a table now was true at an earlier place of its log already: which statements since then
 * can have changed the table's columns, and under which name it goes now. Reads the heads of statements, and says that
 * a table has changed wherever it cannot tell. Pure.
 */
import { classify, type TableName } from './ddl/classify.ts'
import { keywords, Tokens } from './ddl/tokens.ts'
import type { LogPlace } from './history.ts'

/** A statement that was found in the log without reading its rows. */
export interface ScannedStatement {
  readonly at: LogPlace
  readonly sql: string
  readonly database: string // the session's
}
/** What became of a table. */
export interface Fate {
  /** Its name now, if nothing else happened to it. */
  readonly name: TableName
  /** Statements that can have changed its columns, or put another table in its place. */
  readonly changed: readonly ScannedStatement[]
}
/** Whether two names are one here; the first may stand for a whole database (table ""). */
type Same = (a: TableName, b: TableName) => boolean

/** Follows a table through statements that are given in the order of the log. */
export function fateOf(
  table: TableName,
  statements: readonly ScannedStatement[],
  same: Same,
): Fate {
  let name = { database: table.database, table: table.table }
  const changed: ScannedStatement[] = []
  for (const statement of statements) {
    const { type, tables } = classify(statement.sql, statement.database)
    if (type === 'TRUNCATE' || !tables.some((t) => same(t, name))) continue
    const after = afterwards(statement, name, same)
    if (after === undefined) changed.push(statement)
    else name = after
  }
  return { name, changed }
}

/** The table's name after a statement that leaves its columns as they are; undefined where that is not certain. */
function afterwards(
  { sql, database }: ScannedStatement,
  name: TableName,
  same: Same,
): TableName | undefined {
  const t = new Tokens(sql)
  let after: TableName | undefined
  if (t.take('CREATE')) after = created(t) ? name : undefined
  else if (t.take('ALTER')) after = altered(t, database, name)
  else if (t.take('DROP')) after = dropped(t) ? name : undefined
  else if (t.take('RENAME')) after = renamed(t, database, name, same)
  t.takePunctuation(';')
  return atEnd(t) ? after : undefined
}

const atEnd = (t: Tokens): boolean => t.kind === 'end'
const toEnd = (t: Tokens): true => {
  while (!atEnd(t) && !t.isPunctuation(';')) t.next()
  return true
}
function nameAt(t: Tokens, database: string): TableName | undefined {
  const first = t.takeIdentifier()
  if (first === undefined || !t.takePunctuation('.'))
    return first === undefined ? undefined : { database, table: first }
  const second = t.takeIdentifier()
  return second === undefined ? undefined : { database: first, table: second }
}

const INDEX_WORDS = keywords('UNIQUE FULLTEXT SPATIAL VECTOR ONLINE OFFLINE')

/** Indexes, temporary tables, databases (which had no such table before), and a table IF it did NOT EXIST, which it did. */
function created(t: Tokens): boolean {
  if (t.take('TEMPORARY') || t.is('DATABASE') || t.is('SCHEMA')) return toEnd(t)
  if (t.take('TABLE')) return t.is('IF') && toEnd(t)
  while (t.isOneOf(INDEX_WORDS)) t.next()
  return t.is('INDEX') && toEnd(t)
}

function dropped(t: Tokens): boolean {
  if (t.take('TEMPORARY')) return toEnd(t)
  while (t.take('ONLINE') || t.take('OFFLINE'));
  if (!t.take('INDEX')) return false
  if (t.take('IF')) t.take('EXISTS')
  return t.text.toUpperCase() !== 'PRIMARY' && toEnd(t)
}

/** RENAME TABLE a TO b, c TO d …, in their order. */
function renamed(t: Tokens, database: string, name: TableName, same: Same): TableName | undefined {
  if (!t.take('TABLE') && !t.take('TABLES')) return undefined
  if (t.take('IF')) t.take('EXISTS')
  let now = name
  do {
    const from = nameAt(t, database)
    if (t.take('WAIT')) t.next()
    else t.take('NOWAIT')
    const to = t.take('TO') ? nameAt(t, database) : undefined
    if (!from || !to) return undefined
    if (same(from, now)) now = to
  } while (t.takePunctuation(','))
  return now
}

function altered(t: Tokens, database: string, name: TableName): TableName | undefined {
  while (t.take('ONLINE') || t.take('OFFLINE') || t.take('IGNORE'));
  if (t.is('DATABASE') || t.is('SCHEMA')) {
    toEnd(t)
    return name
  }
  if (!t.take('TABLE')) return undefined
  if (t.take('IF')) t.take('EXISTS')
  if (!nameAt(t, database)) return undefined
  let now = name
  while (!atEnd(t) && !t.isPunctuation(';')) {
    if (t.is('RENAME')) {
      const to = renameClause(t, database, now)
      if (!to) return undefined
      now = to
    } else if (!plainClause(t)) return undefined
    while (!atEnd(t) && !t.isPunctuation(';')) {
      if (t.takePunctuation(',')) break
      if (t.isPunctuation('(')) t.skipParentheses()
      else t.next()
    }
  }
  return now
}
/** RENAME [TO | AS | =] name, RENAME INDEX …; undefined for a column. */
function renameClause(t: Tokens, database: string, name: TableName): TableName | undefined {
  t.next()
  if (t.is('COLUMN')) return undefined
  if (t.is('INDEX') || t.is('KEY')) return name
  if (!t.take('TO') && !t.take('AS')) t.takePunctuation('=')
  return nameAt(t, database)
}

const KEYS = keywords('INDEX KEY UNIQUE FULLTEXT SPATIAL FOREIGN CHECK')
const OPTIONS = keywords(
  'FORCE ENGINE COMMENT AUTO_INCREMENT ROW_FORMAT ALGORITHM LOCK ENABLE DISABLE STATS_PERSISTENT STATS_AUTO_RECALC ' +
    'STATS_SAMPLE_PAGES KEY_BLOCK_SIZE COMPRESSION ENCRYPTION ANALYZE OPTIMIZE REBUILD REPAIR',
)
const CHARSETS = keywords('DEFAULT CHARACTER CHARSET CHAR COLLATE')
const primary = (t: Tokens): boolean => t.text.toUpperCase() === 'PRIMARY'

/** A clause of ALTER TABLE that leaves names, types and order of columns, NULLs and the primary key as they are. */
function plainClause(t: Tokens): boolean {
  if (t.isOneOf(OPTIONS)) return plainOptions(t.fork())
  if (t.take('DROP')) {
    if (!t.is('CONSTRAINT') && !t.isOneOf(KEYS)) return false
    t.next()
    return !primary(t)
  }
  if (t.take('ALTER')) return t.is('INDEX') || t.is('CHECK') || t.is('CONSTRAINT')
  if (!t.take('ADD')) return false
  if (t.take('CONSTRAINT') && !t.isOneOf(KEYS) && !primary(t)) t.next()
  return t.isOneOf(KEYS)
}
/** Options need no comma between them. */
function plainOptions(t: Tokens): boolean {
  for (; !atEnd(t) && !t.isPunctuation(',') && !t.isPunctuation(';'); t.next())
    if (t.isOneOf(CHARSETS)) return false
  return true
}
