/**
 * What statements of DDL do to the target. MySQL: the statement itself, in the database its tables go to. PostgreSQL: the
 * subset below. What cannot be done exactly stops the sink with the statement and what to do about it.
 *
 *   CREATE TABLE, ADD COLUMN without DEFAULT and NOT NULL → made when their first row comes · DROP TABLE · TRUNCATE ·
 *   RENAME TABLE · DROP COLUMN · RENAME COLUMN · indexes and comments → nothing
 */
import { SluiceError } from '../../errors.ts'
import { classify, type Statement as Parsed } from '../../catalog/ddl/classify.ts'
import { Tokens } from '../../catalog/ddl/tokens.ts'
import type { SinkContext, SinkStatement } from '../sink.ts'
import type { Dialect, Session } from './dialects/dialect.ts'
import type { Tables } from './tables.ts'
import type { Transactional } from './writer.ts'

export interface ApplyOptions {
  readonly dialect: Dialect
  readonly tables: Tables
  readonly writer: Transactional
  readonly createTables: boolean
  readonly context: SinkContext
}
type Handler = (statement: SinkStatement, signal: AbortSignal) => Promise<void>

const short = (sql: string): string => (sql.length > 300 ? `${sql.slice(0, 300)}…` : sql)
const GO_ON = 'do it in the target by hand, start once with ddl: ignore, then set ddl back'

function refused(dialect: Dialect, { change, id }: SinkStatement, why: string, cause?: unknown) {
  return new SluiceError(
    'SINK_UNSUITABLE',
    `${dialect.where}: ${why}: ${short(change.sql)} (${id}); ${GO_ON}`,
    { cause },
  )
}
/** Statements that leave every row and column where it was. */
const HARMLESS = new Set(['CREATE', 'CINDEX', 'DINDEX', 'QUERY'])

/** ddl: stop. */
export function stopper(dialect: Dialect): Handler {
  return (statement) => {
    const { kind, type } = statement.change
    if (kind !== 'ddl' || HARMLESS.has(type)) return Promise.resolve()
    return Promise.reject(
      refused(dialect, statement, 'ddl is stop, and the source changed a table'),
    )
  }
}

/** ddl: apply. */
export function applier(options: ApplyOptions): Handler {
  const { writer, dialect, context } = options
  return async (statement, signal) => {
    const { change } = statement
    if (change.kind !== 'ddl') return
    const parsed = classify(change.sql, change.defaultDatabase)
    if (change.type === 'QUERY' || parsed.tables.length === 0) {
      context.log.debug({ sql: short(change.sql) }, 'a statement that touches no table')
      return
    }
    const plan = dialect.name === 'mysql' ? planMysql : planPostgres
    const statements = plan(statement, parsed, options)
    await writer.apply(statement, signal, async (session, again) => {
      if (again && undoesItself(change.sql, parsed))
        throw refused(
          dialect,
          statement,
          'names change places, which a second time would undo, and the connection was lost while it ran: see whether it was done',
        )
      const { rows } = await session.run(
        dialect.name === 'mysql' ? 'SELECT DATABASE() AS name' : "SELECT '' AS name",
      )
      try {
        // a table that is made with its first row need not be there yet
        const lenient = again || (change.type === 'TRUNCATE' && options.createTables)
        for (const sql of statements) await run(session, sql, lenient, statement, dialect)
      } finally {
        if (dialect.name === 'mysql' && session.alive)
          await session.run(`USE ${dialect.quote(String(rows[0]!['name']))}`)
      }
    })
    context.log.info({ sql: short(change.sql) }, 'applied a statement to the target')
  }
}

/** Whether names change places, so that nothing says that it was done already. */
function undoesItself(sql: string, { type, tables }: Parsed): boolean {
  const before = new Set<string>()
  const now = new Set<string>()
  const rename = (from: string, to: string): void => {
    if (from.toLowerCase() === to.toLowerCase()) return
    if (!now.delete(from.toLowerCase())) before.add(from.toLowerCase())
    now.add(to.toLowerCase())
  }
  const full = (i: number): string => `${tables[i]!.database}.${tables[i]!.table}`
  if (type === 'RENAME') for (let i = 0; i + 1 < tables.length; i += 2) rename(full(i), full(i + 1))
  if (type === 'ALTER')
    for (const clause of clauses(sql)) {
      const tokens = new Tokens(clause)
      const renames = tokens.take('RENAME') && tokens.is('COLUMN')
      if (!renames && !tokens.take('CHANGE')) continue
      tokens.take('COLUMN')
      const from = tokens.takeIdentifier() ?? ''
      if (renames) tokens.take('TO')
      rename(from, tokens.takeIdentifier() ?? '')
    }
  return now.size > 0 && now.size === before.size && [...now].every((name) => before.has(name))
}

/** What a statement says that was done already: exists, has that column, has it no more. */
const DONE = new Set([1007, 1008, 1050, 1051, 1054, 1060, 1061, 1091, 1146, 1826, 3822])

async function run(
  session: Session,
  sql: string,
  again: boolean,
  statement: SinkStatement,
  dialect: Dialect,
): Promise<void> {
  try {
    await session.run(sql)
  } catch (error) {
    if (!(error instanceof SluiceError) || error.code === 'SINK_UNAVAILABLE') throw error
    const { errno } = (error.cause ?? {}) as { errno?: number }
    if (again && errno !== undefined && DONE.has(errno)) return
    if (errno === NOT_PARTITIONED && storageOf(statement) === 'partitions') return
    throw refused(dialect, statement, `cannot apply (${error.message})`, error)
  }
}

/**
 * Whether an ALTER TABLE is about partitions or the tablespace alone. What it does to rows is no matter here: the runner has
 * had the tables read again, or was told to ignore it (`unloggedChange`).
 */
function storageOf({ change }: SinkStatement): 'partitions' | 'tablespace' | undefined {
  if (!/\b(partition|partitioning|tablespace)\b/i.test(change.sql)) return undefined
  const tokens = behindName(change.sql)
  if (tokens.is('PARTITION')) return 'partitions'
  tokens.next()
  if (tokens.is('TABLESPACE')) return 'tablespace'
  return tokens.is('PARTITION') || tokens.is('PARTITIONING') ? 'partitions' : undefined
}
/** The table of the target has no partitions. */
const NOT_PARTITIONED = 1505

// ── MySQL ────────────────────────────────────────────────────────────────────

const START_AT_END = /\s*\bSTART\s+TRANSACTION\s*$/i

function planMysql(statement: SinkStatement, parsed: Parsed, options: ApplyOptions): string[] {
  const { dialect, tables } = options
  const { change } = statement
  if (parsed.type === 'TRUNCATE')
    return parsed.tables.map(
      ({ database, table }) => `TRUNCATE TABLE ${dialect.full(tables.nameOf(database, table))}`,
    )
  if (parsed.type === 'ALTER' && storageOf(statement) === 'tablespace') return []
  const spaces = new Map<string, string | undefined>()
  for (const { database, table } of parsed.tables) {
    const name = tables.nameOf(database, table)
    if (name.table.toLowerCase() !== table.toLowerCase())
      throw refused(
        dialect,
        statement,
        `${database}.${table} has another name in the target (${name.table}), and names inside of statements are not translated`,
      )
    if (parsed.type === 'ALTER') refuseMapped(statement, database, table, options)
    spaces.set(database, name.space)
  }
  const sql = requalified(change.sql.replace(START_AT_END, ''), spaces, dialect)
  const space = spaces.has(change.defaultDatabase)
    ? spaces.get(change.defaultDatabase)
    : tables.nameOf(change.defaultDatabase, 'x').space
  const made = [...new Set(spaces.values())].filter((name) => name !== undefined)
  const creates = parsed.type === 'CREATE' ? made.map((name) => dialect.createSpace(name)) : []
  const use = space !== undefined && made.includes(space) ? [`USE ${dialect.quote(space)}`] : []
  return [...creates, ...use, sql]
}
/** `db`.`t` with the database its tables have in the target. */
function requalified(
  sql: string,
  spaces: ReadonlyMap<string, string | undefined>,
  dialect: Dialect,
): string {
  const tokens = new Tokens(sql)
  let out = ''
  let copied = 0
  let afterDot = false
  while (tokens.kind !== 'end') {
    const { start, end } = tokens
    const name = tokens.kind === 'word' || tokens.kind === 'quoted' ? tokens.text : undefined
    tokens.next()
    const dot = tokens.isPunctuation('.')
    if (name !== undefined && dot && !afterDot && spaces.has(name)) {
      const space = spaces.get(name)
      const to = space === undefined ? '' : dialect.quote(space)
      out += sql.slice(copied, start) + to
      copied = space === undefined ? tokens.end : end
    }
    afterDot = dot
    if (dot) tokens.next()
  }
  return out + sql.slice(copied)
}
/** The mapping's columns are not the statement's. */
function refuseMapped(
  statement: SinkStatement,
  database: string,
  table: string,
  { tables, dialect }: ApplyOptions,
): void {
  const seen = tables.seen(database, table)
  const mapped = seen?.columns.find((c) => c.column !== undefined && c.column.name !== c.name)
  if (mapped !== undefined)
    throw refused(
      dialect,
      statement,
      `the sink's mapping renames columns of ${database}.${table} (${mapped.column!.name} is ${mapped.name}), and names inside of statements are not translated`,
    )
}

// ── PostgreSQL ───────────────────────────────────────────────────────────────

function planPostgres(statement: SinkStatement, parsed: Parsed, options: ApplyOptions): string[] {
  const { dialect, tables, createTables } = options
  const { type } = parsed
  const full = ({ database, table }: { database: string; table: string }): string =>
    dialect.full(tables.nameOf(database, table))
  if (type === 'CINDEX' || type === 'DINDEX') return indexOnly(statement, options)
  if (type === 'CREATE') {
    if (createTables) return [] // with its first row, from the definition in the log
    throw refused(dialect, statement, 'createTables is false, and the source made a table')
  }
  if (type === 'ERASE') return parsed.tables.map((t) => `DROP TABLE IF EXISTS ${full(t)}`)
  if (type === 'TRUNCATE')
    return parsed.tables.map((t) =>
      createTables ? unlessMissing(`TRUNCATE TABLE ${full(t)}`) : `TRUNCATE TABLE ${full(t)}`,
    )
  if (type === 'RENAME') return renames(statement, parsed, options)
  if (type === 'ALTER') return alter(statement, parsed, options)
  throw refused(dialect, statement, 'no statement of PostgreSQL is known for it')
}
/** ALTER TABLE … ADD INDEX, and whatever else stands beside it. */
function indexOnly(statement: SinkStatement, options: ApplyOptions): string[] {
  const tokens = new Tokens(statement.change.sql)
  if (!tokens.is('ALTER')) return []
  return alter(statement, classify(statement.change.sql, statement.change.defaultDatabase), options)
}
/** Old and new name by turns. */
function renames(statement: SinkStatement, parsed: Parsed, options: ApplyOptions): string[] {
  const { dialect, tables } = options
  const out: string[] = []
  for (let i = 0; i + 1 < parsed.tables.length; i += 2) {
    const from = parsed.tables[i]!
    const to = parsed.tables[i + 1]!
    const a = tables.nameOf(from.database, from.table)
    const b = tables.nameOf(to.database, to.table)
    if (a.space !== b.space)
      throw refused(dialect, statement, 'a table moves to another schema of the target')
    out.push(`ALTER TABLE IF EXISTS ${dialect.full(a)} RENAME TO ${dialect.quote(b.table)}`)
  }
  return out
}
const NO_COLUMN = new Set(
  'INDEX KEY UNIQUE FULLTEXT SPATIAL CONSTRAINT FOREIGN PRIMARY CHECK PARTITION'.split(' '),
)
const IGNORED = new Set(
  'COMMENT ENGINE AUTO_INCREMENT ROW_FORMAT ALGORITHM LOCK KEY_BLOCK_SIZE STATS_PERSISTENT'.split(
    ' ',
  ),
)

function alter(statement: SinkStatement, parsed: Parsed, options: ApplyOptions): string[] {
  const { dialect, tables } = options
  const { database, table } = parsed.tables[0]!
  if (storageOf(statement) !== undefined) return []
  refuseMapped(statement, database, table, options)
  const head = `ALTER TABLE IF EXISTS ${dialect.full(tables.nameOf(database, table))}`
  const out: string[] = []
  for (const clause of clauses(statement.change.sql)) {
    const done = readClause(new Tokens(clause), clause, dialect)
    if (done === undefined)
      throw refused(dialect, statement, `no statement of PostgreSQL is known for "${clause}"`)
    if (done === 'rename') out.push(...renames(statement, parsed, options))
    else if (done !== '') out.push(unlessMissing(`${head} ${done}`))
  }
  return out
}
/** A table or column that no row has come with yet is not there yet either. */
const unlessMissing = (sql: string): string =>
  `DO $sluice$ BEGIN ${sql}; EXCEPTION WHEN undefined_column OR undefined_table THEN NULL; END $sluice$`
/** What stands behind ALTER TABLE name. */
function behindName(sql: string): Tokens {
  const tokens = new Tokens(sql)
  while (tokens.kind !== 'end' && !tokens.is('TABLE')) tokens.next()
  tokens.next()
  if (tokens.take('IF')) tokens.take('EXISTS')
  tokens.takeIdentifier()
  if (tokens.takePunctuation('.')) tokens.takeIdentifier()
  return tokens
}
/** The same, at its commas. */
function clauses(sql: string): string[] {
  const tokens = behindName(sql)
  const found: string[] = []
  let from = tokens.start
  while (tokens.kind !== 'end') {
    if (tokens.isPunctuation('(')) tokens.skipParentheses()
    else if (tokens.isPunctuation(',')) {
      found.push(sql.slice(from, tokens.start).trim())
      tokens.next()
      from = tokens.start
    } else tokens.next()
  }
  found.push(sql.slice(from).trim())
  return found.filter((clause) => clause !== '')
}
/** PostgreSQL's clause; "" for nothing to do; undefined for what is not known. */
function readClause(tokens: Tokens, clause: string, dialect: Dialect): string | undefined {
  const word = tokens.text.toUpperCase()
  const quoted = (name: string | undefined): string => dialect.quote(name ?? '')
  if (IGNORED.has(word)) return ''
  if (!['ADD', 'DROP', 'RENAME'].includes(word)) return undefined
  tokens.next()
  const explicit = tokens.take('COLUMN')
  if (!explicit && tokens.kind === 'word' && NO_COLUMN.has(tokens.text.toUpperCase()))
    return tokens.is('PRIMARY') ? undefined : ''
  if (word === 'ADD') {
    const filled = /\bNOT\s+NULL\b|\bDEFAULT\b(?!\s+NULL\b)|\bGENERATED\b|\bAS\s*\(/i.test(clause)
    return filled || tokens.isPunctuation('(') ? undefined : ''
  }
  if (word === 'DROP') {
    if (tokens.take('IF')) tokens.take('EXISTS')
    return `DROP COLUMN IF EXISTS ${quoted(tokens.takeIdentifier())}`
  }
  if (!explicit) return tokens.is('INDEX') || tokens.is('KEY') ? '' : 'rename'
  const from = tokens.takeIdentifier()
  tokens.take('TO')
  return `RENAME COLUMN ${quoted(from)} TO ${quoted(tokens.takeIdentifier())}`
}
