/**
 * What a logged statement is and which tables it touches: enough for positions, filters, Canal's event types and for the
 * catalog to know what to forget. A tolerant reader of the statement's head, not a grammar. Never throws: what it does
 * not understand is a 'ddl' of type QUERY without tables. Pure; knows neither events nor the catalog.
 *
 * Types follow Canal: of several tables or ALTER clauses the first decides (ALTER TABLE … ADD INDEX is CINDEX), RENAME
 * carries its new name, database and everything else is QUERY. Unlike Canal, a text that merely ends in BEGIN or COMMIT is
 * no BEGIN or COMMIT.
 */
import type { StatementType } from '../../change.ts'
import { keywords, Tokens } from './tokens.ts'

export interface TableName {
  readonly database: string
  readonly table: string
}
export type StatementKind =
  | 'begin'
  | 'commit'
  | 'rollback'
  | 'xaStart'
  | 'xaEnd'
  | 'xaPrepare'
  | 'xaCommit'
  | 'xaRollback'
  | 'savepoint'
  | 'ddl'
  | 'statement'

export interface Statement {
  /** 'savepoint' is also RELEASE and ROLLBACK TO; 'statement' INSERT, REPLACE, UPDATE, DELETE, LOAD as text. */
  readonly kind: StatementKind
  readonly type: StatementType
  /** Of the first table, or of the database statement, else "". */
  readonly database: string
  /** The first table; of a RENAME its new name; else "". */
  readonly table: string
  /**
   * Every table whose definition or content the text touches, old and new names of a RENAME, those of further statements
   * in the text too. `table` "" stands for the whole database (CREATE / ALTER / DROP DATABASE).
   */
  readonly tables: readonly TableName[]
  /** Of XA statements: the text after the verb, trimmed ("X'61',X'',1", "… ONE PHASE"); else "". */
  readonly xid: string
  /**
   * Rows and a commit of the same transaction follow: BEGIN, XA START, and the CREATE TABLE … START TRANSACTION that
   * MySQL ≥ 8.0.21 logs for CREATE TABLE … SELECT. Any other ddl is a transaction by itself.
   */
  readonly opens: boolean
}

/** What the reader of one statement fills in. */
interface Draft {
  kind: StatementKind
  type: StatementType
  head: TableName | undefined
  tables: TableName[]
  xid: string
  body: boolean // a routine's body follows: its semicolons end nothing
}

const plain = (kind: StatementKind): Statement =>
  Object.freeze({
    kind,
    type: 'QUERY',
    database: '',
    table: '',
    tables: Object.freeze([]),
    xid: '',
    opens: kind === 'begin',
  })
const BEGIN = plain('begin')
const COMMIT = plain('commit')

/** Whether bytes[start, end) are exactly the text BEGIN, in any case: what servers log before a transaction's rows. */
export function isBegin(bytes: Uint8Array, start: number, end: number): boolean {
  return (
    end - start === 5 &&
    (bytes[start]! | 32) === 98 &&
    (bytes[start + 1]! | 32) === 101 &&
    (bytes[start + 2]! | 32) === 103 &&
    (bytes[start + 3]! | 32) === 105 &&
    (bytes[start + 4]! | 32) === 110
  )
}

const START_AT_END = /\bSTART\s+TRANSACTION\s*$/i

/** Reads a query event's text. `defaultDatabase` is the session's, "" where there was none. Never throws. */
export function classify(sql: string, defaultDatabase: string): Statement {
  if (sql === 'BEGIN') return BEGIN
  if (sql === 'COMMIT') return COMMIT
  const tokens = new Tokens(sql)
  const first = readStatement(tokens, defaultDatabase)
  const { kind, type, head, tables, xid } = first
  if (!first.body && sql.includes(';')) readRest(tokens, defaultDatabase, tables)
  const opens =
    kind === 'begin' ||
    kind === 'xaStart' ||
    (type === 'CREATE' && START_AT_END.test(sql.slice(-64)))
  const { database = '', table = '' } = head ?? {}
  return { kind, type, database, table, tables, xid, opens }
}

function readRest(tokens: Tokens, defaultDatabase: string, tables: TableName[]): void {
  for (;;) {
    while (tokens.kind !== 'end' && !tokens.isPunctuation(';')) tokens.next()
    if (tokens.kind === 'end') return
    const next = readStatement(tokens, defaultDatabase)
    for (const table of next.tables) tables.push(table)
    if (next.body) return
  }
}

type Reader = (tokens: Tokens, database: string, draft: Draft) => void

const readers = new Map<string, Reader>([
  ['BEGIN', readBegin],
  ['START', (t, _, d) => void (d.kind = t.is('TRANSACTION') ? 'begin' : d.kind)],
  ['COMMIT', (_t, _, d) => void (d.kind = 'commit')],
  ['ROLLBACK', readRollback],
  ['SAVEPOINT', (_t, _, d) => void (d.kind = 'savepoint')],
  ['RELEASE', (t, _, d) => void (d.kind = t.is('SAVEPOINT') ? 'savepoint' : d.kind)],
  ['XA', readXa],
  ['CREATE', readCreate],
  ['ALTER', readAlter],
  ['DROP', readDrop],
  ['TRUNCATE', readTruncate],
  ['RENAME', readRename],
  ['INSERT', readInsert],
  ['REPLACE', readInsert],
  ['UPDATE', readUpdate],
  ['DELETE', readDelete],
  ['LOAD', readLoad],
])

/** Reads one statement's head; the tokens stop somewhere inside it. */
function readStatement(tokens: Tokens, database: string): Draft {
  const draft: Draft = {
    kind: 'ddl',
    type: 'QUERY',
    head: undefined,
    tables: [],
    xid: '',
    body: false,
  }
  while (tokens.isPunctuation('(') || tokens.isPunctuation(';')) tokens.next()
  skipPrefix(tokens)
  if (tokens.kind !== 'word' || tokens.text.length > 9) return draft
  const reader = readers.get(tokens.text.toUpperCase())
  if (!reader) return draft
  tokens.next()
  reader(tokens, database, draft)
  return draft
}

const AFTER_WITH = keywords('UPDATE DELETE INSERT REPLACE SELECT')

/** WITH … before DML, and MariaDB's SET STATEMENT … FOR. */
function skipPrefix(tokens: Tokens): void {
  if (tokens.take('WITH')) {
    while (tokens.kind !== 'end' && !tokens.isPunctuation(';')) {
      if (tokens.isOneOf(AFTER_WITH)) return
      if (tokens.isPunctuation('(')) tokens.skipParentheses()
      else tokens.next()
    }
  } else if (tokens.take('SET') && tokens.take('STATEMENT')) {
    while (tokens.kind !== 'end' && !tokens.isPunctuation(';'))
      if (tokens.take('FOR')) return
      else tokens.next()
  }
}

// ── names ────────────────────────────────────────────────────────────────────

/** [database .] table, also with a trailing ".*" as DELETE allows; undefined, and not stepped, where no name stands. */
function readName(tokens: Tokens, database: string): TableName | undefined {
  if (tokens.isPunctuation('.')) tokens.next()
  const first = tokens.takeIdentifier()
  if (first === undefined) return undefined
  if (!tokens.takePunctuation('.') || tokens.takePunctuation('*')) return { database, table: first }
  const second = tokens.takeIdentifier()
  if (second === undefined) return { database, table: first }
  if (tokens.takePunctuation('.')) tokens.takePunctuation('*')
  return { database: first, table: second }
}

function skipExists(tokens: Tokens): void {
  if (!tokens.take('IF')) return
  tokens.take('NOT')
  tokens.take('EXISTS')
}

/** Steps over any of these keywords, in any order. */
function skipWords(tokens: Tokens, words: ReadonlySet<string>): void {
  while (tokens.isOneOf(words)) tokens.next()
}

/** Sets type and head when there is a name; without one the statement was not understood and stays QUERY. */
function touch(draft: Draft, type: StatementType, name: TableName | undefined): void {
  if (!name) return
  draft.type = type
  draft.head ??= name
  draft.tables.push(name)
}

function touchDatabase(tokens: Tokens, database: string, draft: Draft): void {
  skipExists(tokens)
  const named = tokens.takeIdentifier() ?? database
  if (named !== '') touch(draft, 'QUERY', { database: named, table: '' })
}

// ── transactions ─────────────────────────────────────────────────────────────

function readBegin(tokens: Tokens, _database: string, draft: Draft): void {
  tokens.take('WORK')
  if (tokens.kind === 'end' || tokens.isPunctuation(';')) draft.kind = 'begin'
  else draft.body = true
}

function readRollback(tokens: Tokens, _database: string, draft: Draft): void {
  tokens.take('WORK')
  draft.kind = tokens.is('TO') ? 'savepoint' : 'rollback'
}

function readXa(tokens: Tokens, _database: string, draft: Draft): void {
  const verb = tokens.kind === 'word' ? tokens.text.toUpperCase() : ''
  if (verb === 'START' || verb === 'BEGIN') draft.kind = 'xaStart'
  else if (verb === 'END') draft.kind = 'xaEnd'
  else if (verb === 'PREPARE') draft.kind = 'xaPrepare'
  else if (verb === 'COMMIT') {
    draft.kind = 'xaCommit'
    draft.type = 'XACOMMIT'
  } else if (verb === 'ROLLBACK') {
    draft.kind = 'xaRollback'
    draft.type = 'XAROLLBACK'
  } else return
  const from = tokens.end
  let to = from
  for (tokens.next(); tokens.kind !== 'end' && !tokens.isPunctuation(';'); tokens.next())
    to = tokens.end
  draft.xid = tokens.sql
    .slice(from, to)
    .trim()
    .replace(/\s+ONE\s+PHASE$/i, '')
}

// ── definitions ──────────────────────────────────────────────────────────────

const ALTER_MODIFIERS = keywords('ONLINE OFFLINE IGNORE')
const DROP_MODIFIERS = keywords('TEMPORARY ONLINE OFFLINE')
const CREATE_MODIFIERS = keywords(
  'OR REPLACE TEMPORARY EXTERNAL UNIQUE FULLTEXT SPATIAL VECTOR ONLINE OFFLINE',
)

function readCreate(tokens: Tokens, database: string, draft: Draft): void {
  skipWords(tokens, CREATE_MODIFIERS)
  if (tokens.take('TABLE')) {
    skipExists(tokens)
    touch(draft, 'CREATE', readName(tokens, database))
  } else if (tokens.take('INDEX')) readIndex(tokens, database, draft, 'CINDEX')
  else if (tokens.take('DATABASE') || tokens.take('SCHEMA')) {
    skipExists(tokens)
    const name = tokens.takeIdentifier()
    if (name !== undefined) touch(draft, 'QUERY', { database: name, table: '' })
  } else draft.body = true
}

/** [IF [NOT] EXISTS] index … ON table; the first unquoted ON after the index's name. */
function readIndex(tokens: Tokens, database: string, draft: Draft, type: StatementType): void {
  skipExists(tokens)
  if (!tokens.is('ON')) tokens.next()
  while (tokens.kind !== 'end' && !tokens.isPunctuation(';')) {
    if (tokens.take('ON')) {
      touch(draft, type, readName(tokens, database))
      return
    }
    tokens.next()
  }
}

/** Words that may follow ALTER DATABASE when it names none. */
const DATABASE_OPTIONS = keywords('CHARACTER CHARSET DEFAULT COLLATE ENCRYPTION READ COMMENT')

function readAlter(tokens: Tokens, database: string, draft: Draft): void {
  skipWords(tokens, ALTER_MODIFIERS)
  if (tokens.take('DATABASE') || tokens.take('SCHEMA')) {
    if (tokens.isOneOf(DATABASE_OPTIONS)) {
      if (database !== '') touch(draft, 'QUERY', { database, table: '' })
    } else touchDatabase(tokens, database, draft)
    return
  }
  if (!tokens.take('TABLE')) {
    draft.body = true
    return
  }
  skipExists(tokens)
  const name = readName(tokens, database)
  touch(draft, 'ALTER', name)
  if (name) readClauses(tokens, database, draft)
}

/** The clauses of ALTER TABLE, for those that give Canal's type or name another table. */
function readClauses(tokens: Tokens, database: string, draft: Draft): void {
  for (let first = true; tokens.kind !== 'end' && !tokens.isPunctuation(';'); first = false) {
    if (tokens.take('RENAME')) {
      const renamed = readNewName(tokens, database)
      if (renamed && first) {
        draft.type = 'RENAME'
        draft.head = renamed
      }
      if (renamed) draft.tables.push(renamed)
    } else if (tokens.take('EXCHANGE')) readExchange(tokens, database, draft)
    else if (first) draft.type = clauseType(tokens)
    skipClause(tokens)
  }
}

function skipClause(tokens: Tokens): void {
  while (tokens.kind !== 'end' && !tokens.isPunctuation(';')) {
    if (tokens.takePunctuation(',')) return
    if (tokens.isPunctuation('(')) tokens.skipParentheses()
    else tokens.next()
  }
}

/** After RENAME: the table's new name, unless a column or an index is renamed. */
function readNewName(tokens: Tokens, database: string): TableName | undefined {
  if (tokens.is('COLUMN') || tokens.is('INDEX') || tokens.is('KEY')) return undefined
  if (!tokens.take('TO') && !tokens.take('AS')) tokens.takePunctuation('=')
  return readName(tokens, database)
}

/** After EXCHANGE: PARTITION p WITH TABLE other. */
function readExchange(tokens: Tokens, database: string, draft: Draft): void {
  while (tokens.kind !== 'end' && !tokens.isPunctuation(',') && !tokens.isPunctuation(';')) {
    if (tokens.take('TABLE')) {
      const other = readName(tokens, database)
      if (other) draft.tables.push(other)
      return
    }
    tokens.next()
  }
}

const INDEX_ADDED = keywords('INDEX KEY UNIQUE FULLTEXT SPATIAL PRIMARY')
const CONSTRAINTS = keywords('UNIQUE PRIMARY FOREIGN CHECK')
const INDEX_DROPPED = keywords('INDEX KEY CONSTRAINT')

/** Canal's type of a first clause: index clauses are CINDEX and DINDEX, foreign keys and checks are not. */
function clauseType(tokens: Tokens): StatementType {
  if (tokens.take('ADD')) {
    if (tokens.take('CONSTRAINT') && !tokens.isOneOf(CONSTRAINTS)) tokens.next()
    return tokens.isOneOf(INDEX_ADDED) ? 'CINDEX' : 'ALTER'
  }
  return tokens.take('DROP') && tokens.isOneOf(INDEX_DROPPED) ? 'DINDEX' : 'ALTER'
}

function readDrop(tokens: Tokens, database: string, draft: Draft): void {
  skipWords(tokens, DROP_MODIFIERS)
  if (tokens.take('TABLE') || tokens.take('TABLES')) {
    skipExists(tokens)
    do touch(draft, 'ERASE', readName(tokens, database))
    while (tokens.takePunctuation(','))
  } else if (tokens.take('INDEX')) readIndex(tokens, database, draft, 'DINDEX')
  else if (tokens.take('DATABASE') || tokens.take('SCHEMA')) {
    skipExists(tokens)
    const name = tokens.takeIdentifier()
    if (name !== undefined) touch(draft, 'QUERY', { database: name, table: '' })
  }
}

function readTruncate(tokens: Tokens, database: string, draft: Draft): void {
  tokens.take('TABLE')
  do touch(draft, 'TRUNCATE', readName(tokens, database))
  while (tokens.takePunctuation(','))
}

function readRename(tokens: Tokens, database: string, draft: Draft): void {
  if (!tokens.take('TABLE') && !tokens.take('TABLES')) return
  skipExists(tokens)
  do {
    const from = readName(tokens, database)
    skipClauseUntilTo(tokens)
    const to = tokens.take('TO') ? readName(tokens, database) : undefined
    if (!from || !to) return
    draft.type = 'RENAME'
    draft.head ??= to
    draft.tables.push(from, to)
  } while (tokens.takePunctuation(','))
}

/** MariaDB's WAIT n and NOWAIT between the names. */
function skipClauseUntilTo(tokens: Tokens): void {
  if (tokens.take('WAIT')) tokens.next()
  else tokens.take('NOWAIT')
}

// ── row changes logged as text ───────────────────────────────────────────────

const DML_MODIFIERS = keywords('LOW_PRIORITY DELAYED HIGH_PRIORITY IGNORE INTO')
const DELETE_MODIFIERS = keywords('LOW_PRIORITY QUICK IGNORE HISTORY')

function readInsert(tokens: Tokens, database: string, draft: Draft): void {
  draft.kind = 'statement'
  draft.type = 'INSERT'
  skipWords(tokens, DML_MODIFIERS)
  touch(draft, 'INSERT', readName(tokens, database))
}

function readUpdate(tokens: Tokens, database: string, draft: Draft): void {
  draft.kind = 'statement'
  draft.type = 'UPDATE'
  skipWords(tokens, DML_MODIFIERS)
  for (const { name } of readReferences(tokens, database).found) touch(draft, 'UPDATE', name)
}

function readDelete(tokens: Tokens, database: string, draft: Draft): void {
  draft.kind = 'statement'
  draft.type = 'DELETE'
  skipWords(tokens, DELETE_MODIFIERS)
  const targets: TableName[] = []
  if (!tokens.is('FROM')) {
    do {
      const target = readName(tokens, database)
      if (target) targets.push(target)
    } while (tokens.takePunctuation(','))
  }
  if (!tokens.take('FROM')) return
  let { found, using } = readReferences(tokens, database)
  if (using) {
    for (const { name } of found) targets.push(name)
    found = readReferences(tokens, database).found
  }
  const target = targets[0]
  const real = target && found.find((r) => r.alias === target.table)?.name
  draft.head = real
  for (const { name } of found) touch(draft, 'DELETE', name)
  if (found.length === 0) touch(draft, 'DELETE', target)
}

interface Reference {
  readonly name: TableName
  readonly alias: string
}

const REFERENCES_END = keywords('SET WHERE ORDER LIMIT RETURNING')

/**
 * Tables of a table-reference clause, up to SET, WHERE, ORDER, LIMIT, the end, or past the USING of a DELETE (`using`).
 * Derived tables are left out.
 */
function readReferences(tokens: Tokens, database: string): { found: Reference[]; using: boolean } {
  const found: Reference[] = []
  let expected = true
  while (tokens.kind !== 'end' && !tokens.isPunctuation(';')) {
    if (tokens.isOneOf(REFERENCES_END)) break
    if (tokens.take('USING')) {
      if (!tokens.isPunctuation('(')) return { found, using: true }
      tokens.skipParentheses()
    } else if (expected && tokens.takePunctuation('(')) {
      if (tokens.is('SELECT') || tokens.is('WITH')) expected = false
    } else if (expected) {
      expected = false
      const name = readName(tokens, database)
      if (!name) tokens.next()
      else found.push({ name, alias: readAlias(tokens) ?? name.table })
    } else if (tokens.takePunctuation(',') || tokens.take('JOIN') || tokens.take('STRAIGHT_JOIN')) {
      expected = true
    } else if (tokens.isPunctuation('(')) tokens.skipParentheses()
    else tokens.next()
  }
  return { found, using: false }
}

const NO_ALIAS = keywords(
  'SET WHERE USING ORDER LIMIT RETURNING JOIN STRAIGHT_JOIN INNER CROSS LEFT RIGHT NATURAL ON PARTITION FORCE USE IGNORE FOR',
)

function readAlias(tokens: Tokens): string | undefined {
  if (tokens.take('PARTITION')) tokens.skipParentheses()
  if (tokens.take('AS')) return tokens.takeIdentifier()
  return tokens.isOneOf(NO_ALIAS) ? undefined : tokens.takeIdentifier()
}

/** LOAD DATA | XML … INTO TABLE name. */
function readLoad(tokens: Tokens, database: string, draft: Draft): void {
  if (!tokens.take('DATA') && !tokens.take('XML')) return
  draft.kind = 'statement'
  draft.type = 'INSERT'
  while (tokens.kind !== 'end' && !tokens.isPunctuation(';')) {
    if (tokens.take('INTO')) {
      tokens.take('TABLE')
      touch(draft, 'INSERT', readName(tokens, database))
      return
    }
    tokens.next()
  }
}
