/**
 * What a DDL statement makes of table definitions: CREATE, ALTER, DROP, RENAME of tables, indexes and databases, applied
 * to a schema that is known. Follows the server's own order (mysql_prepare_alter_table in sql/sql_table.cc): clauses name
 * columns as they were, AFTER names them as they are becoming. Pure. A statement that it does not understand is said to
 * leave the tables it names 'unknown': they are then asked for at the server.
 */
import { classify, type TableName } from './ddl.ts'
import { BINARY } from '../binlog/charset.ts'
import {
  binOf,
  capacityOf,
  charsetName,
  charsetOfId,
  columnOf,
  maxBytes,
  nameOf,
  NotUnderstood,
  NO_BACKSLASH_ESCAPES,
  pickCollation,
  readColumn,
  textFor,
  type ColumnDraft,
  type Defaults,
  type Dialect,
} from './columns.ts'
import type { CapturedColumn } from './definition.ts'
import { keywords, Tokens } from './tokens.ts'

export interface Key {
  readonly name: string
  readonly primary: boolean
  readonly unique: boolean
  /** Columns in the order of the key; a functional part or a prefix makes the key none that tells rows apart. */
  readonly columns: readonly string[]
  readonly whole: boolean
}
export interface Definition {
  readonly columns: readonly CapturedColumn[]
  readonly keys: readonly Key[]
  readonly collation: number // default of new columns
}
/** undefined: there is no such table. 'unknown': there may be one, and nobody here knows its columns. */
export type Knowledge = Definition | 'unknown' | undefined

/** The schema before the statement. */
export interface Schema {
  table(database: string, table: string): Knowledge
  /** Tables of a database that are known to be there. */
  tables(database: string): Iterable<string>
  /** A database's default collation; undefined where it is not known. */
  collation(database: string): number | undefined
}
export interface StatementFacts {
  readonly sql: string
  readonly database: string // the session's
  readonly sqlMode: number
  readonly dialect: Dialect
  readonly serverCollation?: number // the session's collation_server, for CREATE DATABASE; 0 or none: not known
}
/** In order; the last one of a name holds. */
export type Effect =
  | { readonly kind: 'table'; readonly name: TableName; readonly now: Knowledge }
  | { readonly kind: 'database'; readonly database: string; readonly collation: number | undefined }

/** What is different after the statement. Never throws. */
export function effectsOf(facts: StatementFacts, schema: Schema): Effect[] {
  const work = new Work(facts, schema)
  try {
    work.run()
    return work.effects
  } catch (error) {
    if (!(error instanceof NotUnderstood)) throw error
    const { tables } = classify(facts.sql, facts.database)
    return tables.flatMap((name): Effect[] =>
      name.table === ''
        ? [{ kind: 'database', database: name.database, collation: undefined }]
        : [{ kind: 'table', name, now: 'unknown' }],
    )
  }
}

const CREATE_MODIFIERS = keywords('OR REPLACE')
const INDEX_MODIFIERS = keywords('UNIQUE FULLTEXT SPATIAL VECTOR ONLINE OFFLINE')

const tokensOf = ({ sql, sqlMode }: StatementFacts): Tokens =>
  new Tokens(sql, (sqlMode & NO_BACKSLASH_ESCAPES) !== 0)

class Work {
  readonly effects: Effect[] = []
  readonly #facts: StatementFacts
  readonly #schema: Schema
  readonly #tokens: Tokens
  /** A routine's body follows: its semicolons end nothing. */
  #body = false
  /** Of this statement, by "database.table" as written. */
  readonly #changed = new Map<string, Knowledge>()

  constructor(facts: StatementFacts, schema: Schema, tokens = tokensOf(facts)) {
    this.#facts = facts
    this.#schema = schema
    this.#tokens = tokens
  }

  run(): void {
    const t = this.#tokens
    do {
      if (t.take('CREATE')) this.#create()
      else if (t.take('ALTER')) this.#alter()
      else if (t.take('DROP')) this.#drop()
      else if (t.take('RENAME')) this.#rename()
      if (this.#body) return
      while (t.kind !== 'end' && !t.isPunctuation(';')) t.next()
    } while (t.takePunctuation(';'))
  }

  // ── names and what is known of them ────────────────────────────────────────

  #name(): TableName {
    const first = nameOf(this.#tokens)
    if (!this.#tokens.takePunctuation('.')) return { database: this.#facts.database, table: first }
    return { database: first, table: nameOf(this.#tokens) }
  }
  #known({ database, table }: TableName): Knowledge {
    const key = `${database}\0${table}`
    return this.#changed.has(key) ? this.#changed.get(key) : this.#schema.table(database, table)
  }
  #set(name: TableName, now: Knowledge): void {
    this.#changed.set(`${name.database}\0${name.table}`, now)
    this.effects.push({ kind: 'table', name, now })
  }
  #collation(database: string): number {
    const collation = this.#schema.collation(database)
    if (collation === undefined) throw new NotUnderstood(`database ${database}`)
    return collation
  }
  #defaults(collation: number): Defaults {
    return { dialect: this.#facts.dialect, sqlMode: this.#facts.sqlMode, collation }
  }
  #ifExists(): boolean {
    const t = this.#tokens
    if (!t.take('IF')) return false
    t.take('NOT')
    t.take('EXISTS')
    return true
  }

  // ── CREATE ─────────────────────────────────────────────────────────────────

  #create(): void {
    const t = this.#tokens
    let replace = false
    while (t.isOneOf(CREATE_MODIFIERS)) {
      replace = true
      t.next()
    }
    if (t.take('TEMPORARY')) return
    if (t.take('TABLE')) return this.#createTable(replace)
    if (t.take('DATABASE') || t.take('SCHEMA')) return this.#createDatabase()
    const unique = t.is('UNIQUE')
    while (t.isOneOf(INDEX_MODIFIERS)) t.next()
    if (t.take('INDEX')) this.#createIndex(unique)
    else this.#body = true
  }

  #createTable(replace: boolean): void {
    const t = this.#tokens
    const guarded = this.#ifExists()
    const name = this.#name()
    const before = this.#known(name)
    if (guarded && before !== undefined) {
      // nothing happens where it is there; where that is not known, neither is what it is now
      if (before === 'unknown' && !replace) this.#set(name, 'unknown')
      return
    }
    if (t.take('LIKE')) return this.#set(name, this.#like(this.#name()))
    if (!t.isPunctuation('(')) throw new NotUnderstood('CREATE TABLE without columns')
    t.next()
    if (t.take('LIKE')) return this.#set(name, this.#like(this.#name()))
    // the options behind the list decide about the list's character sets
    const options = new Tokens(t.sql.slice(closing(t)))
    const collation = readTableOptions(options, this.#facts.dialect, this.#collation(name.database))
    const draft = new Draft([], [], collation, this.#defaults(collation))
    do this.#element(draft)
    while (t.takePunctuation(','))
    if (!t.isPunctuation(')')) throw new NotUnderstood(`")" expected at ${t.start}`)
    this.#set(name, draft.finish())
  }
  #like(name: TableName): Knowledge {
    return this.#known(name) ?? 'unknown'
  }

  /** One column, key or constraint of a CREATE TABLE. */
  #element(draft: Draft): void {
    if (this.#key(draft)) return
    const name = nameOf(this.#tokens)
    draft.add(name, readColumn(this.#tokens, name, draft.defaults))
  }

  /** A key or constraint, as CREATE TABLE and ADD know them; false where a column stands. */
  #key(draft: Draft): boolean {
    const t = this.#tokens
    let name = ''
    if (t.take('CONSTRAINT')) {
      if (!t.isOneOf(CONSTRAINT_KINDS)) name = nameOf(t)
    } else if (!t.isOneOf(KEY_KINDS)) return false
    if (t.take('PRIMARY')) {
      t.take('KEY')
      this.#keyParts(draft, 'PRIMARY', { primary: true, unique: true })
    } else if (t.take('UNIQUE')) {
      if (!t.take('KEY')) t.take('INDEX')
      this.#keyParts(draft, name, { primary: false, unique: true })
    } else if (t.take('KEY') || t.take('INDEX')) {
      this.#keyParts(draft, name, { primary: false, unique: false })
    } else if (t.isOneOf(NO_KEYS)) {
      // FULLTEXT, SPATIAL, FOREIGN, CHECK, PERIOD: they decide about no column
      const plain = t.is('FULLTEXT') || t.is('SPATIAL')
      t.next()
      if (plain) {
        if (!t.take('KEY')) t.take('INDEX')
        this.#keyParts(draft, '', { primary: false, unique: false })
      }
      skipElement(t)
    } else throw new NotUnderstood(`a key expected at ${t.start}`)
    return true
  }
  /** [name] [USING x] ( column [(n)] [ASC | DESC], … ) options */
  #keyParts(draft: Draft, given: string, kind: Pick<Key, 'primary' | 'unique'>): void {
    const t = this.#tokens
    let name = given
    if (this.#ifExists() || (!t.isPunctuation('(') && !t.is('USING') && !t.is('TYPE'))) {
      if (!t.isPunctuation('(')) {
        const own = nameOf(t)
        if (!kind.primary) name = own
      }
    }
    if (t.take('USING') || t.take('TYPE')) t.next()
    if (!t.takePunctuation('(')) throw new NotUnderstood(`"(" expected at ${t.start}`)
    const columns: string[] = []
    let whole = true
    do {
      if (t.isPunctuation('(')) {
        t.skipParentheses()
        whole = false
      } else {
        columns.push(nameOf(t))
        if (t.isPunctuation('(')) {
          t.skipParentheses()
          whole = false
        }
      }
      if (!t.take('ASC')) t.take('DESC')
    } while (t.takePunctuation(','))
    if (!t.takePunctuation(')')) throw new NotUnderstood(`")" expected at ${t.start}`)
    draft.addKey({ ...kind, name, columns, whole })
    skipElement(t)
  }

  #createIndex(unique: boolean): void {
    const t = this.#tokens
    this.#ifExists()
    const index = t.is('ON') ? '' : nameOf(t)
    while (!t.take('ON')) {
      if (t.kind === 'end') throw new NotUnderstood('CREATE INDEX without ON')
      t.next()
    }
    const name = this.#name()
    const before = this.#known(name)
    if (before === 'unknown' || before === undefined) return this.#set(name, 'unknown')
    const draft = this.#draft(before)
    this.#keyParts(draft, index, { primary: false, unique })
    this.#set(name, draft.finish())
  }

  #createDatabase(): void {
    const t = this.#tokens
    const guarded = this.#ifExists()
    const database = nameOf(t)
    if (guarded && this.#schema.collation(database) !== undefined) return
    const said = readTableOptions(t, this.#facts.dialect, this.#facts.serverCollation ?? 0)
    this.effects.push({ kind: 'database', database, collation: said === 0 ? undefined : said })
  }

  // ── ALTER ──────────────────────────────────────────────────────────────────

  #draft({ columns, keys, collation }: Definition): Draft {
    return new Draft(columns, keys, collation, this.#defaults(collation))
  }

  #alter(): void {
    const t = this.#tokens
    while (t.take('ONLINE') || t.take('OFFLINE') || t.take('IGNORE'));
    if (t.take('DATABASE') || t.take('SCHEMA')) return this.#alterDatabase()
    if (!t.take('TABLE')) {
      this.#body = true
      return
    }
    this.#ifExists()
    const name = this.#name()
    const before = this.#known(name)
    if (before === 'unknown' || before === undefined) {
      // what becomes of it is not known, but under which name is
      throw new NotUnderstood(`table ${name.database}.${name.table} is not known`)
    }
    // a default that changes holds for all columns of the statement, also those that stand before it
    const ahead = new Work(this.#facts, this.#schema, t.fork())
    const first = ahead.#draft(before)
    ahead.#clauses(first)
    const draft = this.#draft({ ...before, collation: first.collation })
    const renamed = this.#clauses(draft)
    const after = draft.finish()
    if (renamed) this.#set(name, undefined)
    this.#set(renamed ?? name, after)
  }
  /** Returns the table's new name where a clause renames it. */
  #clauses(draft: Draft): TableName | undefined {
    const t = this.#tokens
    let renamed: TableName | undefined
    while (t.kind !== 'end' && !t.isPunctuation(';')) {
      renamed = this.#clause(draft) ?? renamed
      skipElement(t)
      if (!t.takePunctuation(',')) break
    }
    return renamed
  }

  #alterDatabase(): void {
    const t = this.#tokens
    const named = t.isOneOf(DATABASE_OPTIONS) ? this.#facts.database : nameOf(t)
    const before = this.#collation(named)
    const collation = readTableOptions(t, this.#facts.dialect, before)
    this.effects.push({ kind: 'database', database: named, collation })
  }

  /** One clause of ALTER TABLE; returns the new name where it renames the table. */
  #clause(draft: Draft): TableName | undefined {
    const t = this.#tokens
    if (t.take('ADD')) this.#add(draft)
    else if (t.take('DROP')) this.#dropClause(draft)
    else if (t.take('MODIFY')) {
      t.take('COLUMN')
      const guarded = this.#ifExists()
      const name = nameOf(t)
      draft.change(name, name, readColumn(t, name, draft.defaults), guarded)
    } else if (t.take('CHANGE')) {
      t.take('COLUMN')
      const guarded = this.#ifExists()
      const from = nameOf(t)
      const to = nameOf(t)
      draft.change(from, to, readColumn(t, to, draft.defaults), guarded)
    } else if (t.take('RENAME')) return this.#renameClause(draft)
    else if (t.take('ALTER')) this.#alterColumn(draft)
    else if (t.take('CONVERT')) this.#convert(draft)
    else this.#option(draft)
    return undefined
  }

  #add(draft: Draft): void {
    const t = this.#tokens
    if (t.take('PARTITION')) return
    if (this.#key(draft)) return
    const column = t.take('COLUMN')
    const guarded = this.#ifExists()
    if (t.isPunctuation('(')) {
      t.next()
      do {
        if (!column && this.#key(draft)) continue
        const name = nameOf(t)
        draft.add(name, readColumn(t, name, draft.defaults))
      } while (t.takePunctuation(','))
      if (!t.takePunctuation(')')) throw new NotUnderstood(`")" expected at ${t.start}`)
      return
    }
    const name = nameOf(t)
    const added = readColumn(t, name, draft.defaults)
    if (!guarded || !draft.has(name)) draft.add(name, added)
  }

  #dropClause(draft: Draft): void {
    const t = this.#tokens
    if (t.take('PRIMARY')) {
      t.take('KEY')
      return draft.dropKey('PRIMARY')
    }
    if (t.take('INDEX') || t.take('KEY') || t.take('CONSTRAINT')) {
      this.#ifExists()
      return draft.dropKey(nameOf(t))
    }
    if (t.take('FOREIGN') || t.take('CHECK') || t.take('PARTITION') || t.take('SYSTEM')) return
    t.take('COLUMN')
    this.#ifExists()
    draft.drop(nameOf(t))
  }

  #renameClause(draft: Draft): TableName | undefined {
    const t = this.#tokens
    if (t.take('COLUMN')) {
      this.#ifExists()
      const from = nameOf(t)
      if (!t.take('TO')) throw new NotUnderstood('RENAME COLUMN without TO')
      draft.rename(from, nameOf(t))
      return undefined
    }
    if (t.take('INDEX') || t.take('KEY')) {
      this.#ifExists()
      const from = nameOf(t)
      if (!t.take('TO')) throw new NotUnderstood('RENAME INDEX without TO')
      draft.renameKey(from, nameOf(t))
      return undefined
    }
    if (!t.take('TO') && !t.take('AS')) t.takePunctuation('=')
    return this.#name()
  }

  #alterColumn(draft: Draft): void {
    const t = this.#tokens
    if (t.take('INDEX') || t.take('CHECK') || t.take('CONSTRAINT')) return
    t.take('COLUMN')
    this.#ifExists()
    const name = nameOf(t)
    if (!t.take('SET')) return
    if (t.take('INVISIBLE')) draft.show(name, true)
    else if (t.take('VISIBLE')) draft.show(name, false)
  }

  /** CONVERT TO CHARACTER SET x [COLLATE y] */
  #convert(draft: Draft): void {
    const t = this.#tokens
    if (!t.take('TO')) throw new NotUnderstood('CONVERT without TO')
    if (!t.take('CHARSET')) {
      if (!t.take('CHARACTER')) t.take('CHAR')
      t.take('SET')
    }
    const charset = t.is('DEFAULT') ? (t.next(), undefined) : charsetName(t)
    const collate = t.take('COLLATE') ? charsetName(t) : undefined
    const { dialect } = this.#facts
    draft.convert(pickCollation(dialect, draft.collation, charset, collate))
  }

  /** A table option: the default character set counts. */
  #option(draft: Draft): void {
    draft.collation = readTableOptions(this.#tokens, this.#facts.dialect, draft.collation, true)
  }

  // ── DROP, RENAME ───────────────────────────────────────────────────────────

  #drop(): void {
    const t = this.#tokens
    while (t.take('ONLINE') || t.take('OFFLINE'));
    if (t.take('TEMPORARY')) return
    if (t.take('TABLE') || t.take('TABLES')) {
      this.#ifExists()
      do this.#set(this.#name(), undefined)
      while (t.takePunctuation(','))
    } else if (t.take('DATABASE') || t.take('SCHEMA')) {
      this.#ifExists()
      const database = nameOf(t)
      for (const table of this.#schema.tables(database)) this.#set({ database, table }, undefined)
      this.effects.push({ kind: 'database', database, collation: undefined })
    } else if (t.take('INDEX')) {
      this.#ifExists()
      const index = nameOf(t)
      if (!t.take('ON')) throw new NotUnderstood('DROP INDEX without ON')
      const name = this.#name()
      const before = this.#known(name)
      if (before === 'unknown' || before === undefined) return this.#set(name, 'unknown')
      const draft = this.#draft(before)
      draft.dropKey(index.toUpperCase() === 'PRIMARY' ? 'PRIMARY' : index)
      this.#set(name, draft.finish())
    }
  }

  #rename(): void {
    const t = this.#tokens
    if (!t.take('TABLE') && !t.take('TABLES')) return
    this.#ifExists()
    do {
      const from = this.#name()
      if (t.take('WAIT')) t.next()
      else t.take('NOWAIT')
      if (!t.take('TO')) throw new NotUnderstood('RENAME TABLE without TO')
      const to = this.#name()
      const moved = this.#known(from) ?? 'unknown'
      this.#set(from, undefined)
      this.#set(to, moved)
    } while (t.takePunctuation(','))
  }
}

const CONSTRAINT_KINDS = keywords('PRIMARY UNIQUE FOREIGN CHECK')
const KEY_KINDS = keywords('PRIMARY UNIQUE KEY INDEX FULLTEXT SPATIAL FOREIGN CHECK PERIOD VECTOR')
const NO_KEYS = keywords('FULLTEXT SPATIAL FOREIGN CHECK PERIOD VECTOR')
const DATABASE_OPTIONS = keywords('CHARACTER CHARSET DEFAULT COLLATE ENCRYPTION READ COMMENT')

/** To the comma, the closing parenthesis or the end. */
function skipElement(tokens: Tokens): void {
  while (tokens.kind !== 'end' && !tokens.isPunctuation(';')) {
    if (tokens.isPunctuation(',') || tokens.isPunctuation(')')) return
    if (tokens.isPunctuation('(')) tokens.skipParentheses()
    else tokens.next()
  }
}

/** Where the list that has been entered ends: past its ")". */
function closing(tokens: Tokens): number {
  const ahead = tokens.fork()
  for (let depth = 1; ahead.kind !== 'end'; ahead.next()) {
    if (ahead.isPunctuation('(')) depth++
    else if (ahead.isPunctuation(')') && --depth === 0) return ahead.end
  }
  throw new NotUnderstood('a list that does not end')
}

/**
 * The default collation among table or database options. `one`: stops behind the first option, as between the commas of
 * ALTER TABLE, where options may also follow one another without one.
 */
function readTableOptions(tokens: Tokens, dialect: Dialect, before: number, one = false): number {
  let charset: string | undefined
  let collate: string | undefined
  while (tokens.kind !== 'end' && !tokens.isPunctuation(';')) {
    if (one && tokens.isPunctuation(',')) break
    if (tokens.take('CHARSET')) charset = charsetName(tokens)
    else if (tokens.take('CHARACTER') || tokens.take('CHAR')) {
      if (tokens.take('SET')) charset = charsetName(tokens)
    } else if (tokens.take('COLLATE')) collate = charsetName(tokens)
    else if (tokens.is('PARTITION') || tokens.is('AS') || tokens.is('SELECT')) break
    else if (tokens.isPunctuation('(')) tokens.skipParentheses()
    else tokens.next()
  }
  return pickCollation(dialect, before, charset, collate)
}

// ── a table in the making ────────────────────────────────────────────────────

/** A clause that adds or redefines a column, kept until all are read. */
interface Planned {
  readonly from: string | undefined // of CHANGE, MODIFY, RENAME: the column as it was called
  readonly column: CapturedColumn
  readonly after: string | undefined
  /** RENAME, SET VISIBLE: the type is as it was. */
  readonly kept?: boolean
  readonly bin?: boolean // ColumnDraft.bin
}
interface KeptKey extends Key {
  readonly old: boolean // from before the statement: its columns go by their old names
}
const same = (a: string, b: string): boolean => a === b || a.toLowerCase() === b.toLowerCase()

class Draft {
  collation: number
  readonly defaults: Defaults
  readonly #before: readonly CapturedColumn[]
  #keys: KeptKey[]
  #converted = 0 // the collation of CONVERT TO
  readonly #planned: Planned[] = []
  readonly #dropped: string[] = []

  constructor(
    columns: readonly CapturedColumn[],
    keys: readonly Key[],
    collation: number,
    defaults: Defaults,
  ) {
    this.#before = columns
    this.#keys = keys.map((key) => ({ ...key, old: true }))
    this.collation = collation
    this.defaults = defaults
  }

  has(name: string): boolean {
    return (
      this.#before.some((c) => same(c.name, name)) ||
      this.#planned.some((p) => same(p.column.name, name))
    )
  }
  add(name: string, { column, primary, unique, bin, after }: ColumnDraft): void {
    this.#planned.push({ from: undefined, column, bin, after })
    this.#attributes(name, primary, unique)
  }
  change(from: string, to: string, draft: ColumnDraft, guarded: boolean): void {
    if (!this.#before.some((c) => same(c.name, from))) {
      if (guarded) return
      throw new NotUnderstood(`column ${from}`)
    }
    const { column, bin, after } = draft
    this.#planned.push({ from, column, bin, after })
    this.#renameInKeys(from, to)
    this.#attributes(to, draft.primary, draft.unique)
  }
  rename(from: string, to: string): void {
    const column = this.#before.find((c) => same(c.name, from))
    if (!column) throw new NotUnderstood(`column ${from}`)
    this.#planned.push({ from, column: { ...column, name: to }, after: undefined, kept: true })
    this.#renameInKeys(from, to)
  }
  show(name: string, invisible: boolean): void {
    const column = this.#before.find((c) => same(c.name, name))
    if (!column) throw new NotUnderstood(`column ${name}`)
    this.#planned.push({
      from: column.name,
      column: { ...column, invisible },
      after: undefined,
      kept: true,
    })
  }
  drop(name: string): void {
    this.#dropped.push(name)
  }
  #attributes(name: string, primary: boolean, unique: boolean): void {
    if (primary)
      this.addKey({ name: 'PRIMARY', primary, unique: true, columns: [name], whole: true })
    if (unique)
      this.addKey({ name: '', primary: false, unique: true, columns: [name], whole: true })
  }

  addKey(key: Key): void {
    const first = key.columns[0] ?? 'functional_index'
    const name = key.name === '' ? this.#freeName(this.#named(first)) : key.name
    this.#keys.push({ ...key, name, old: false })
  }
  /** As servers call a key without a name: after its first column, with _2, _3… where that is taken. */
  #freeName(first: string): string {
    const taken = (name: string): boolean => this.#keys.some((key) => same(key.name, name))
    if (!taken(first) && !same(first, 'PRIMARY')) return first
    for (let n = 2; ; n++) if (!taken(`${first}_${n}`)) return `${first}_${n}`
  }
  /** A column as it is written where it is defined. */
  #named(name: string): string {
    const planned = this.#planned.find((p) => same(p.column.name, name))?.column
    return (planned ?? this.#before.find((c) => same(c.name, name)))?.name ?? name
  }
  dropKey(name: string): void {
    this.#keys = this.#keys.filter((key) => !(key.old && same(key.name, name)))
  }
  renameKey(from: string, to: string): void {
    this.#keys = this.#keys.map((key) =>
      key.old && same(key.name, from) ? { ...key, name: to } : key,
    )
  }
  /** Renames hold together: in a swap of two names each stands for the old one. */
  readonly #renamed = new Map<string, string>()
  #renameInKeys(from: string, to: string): void {
    if (!same(from, to)) this.#renamed.set(from.toLowerCase(), to)
  }

  convert(collation: number): void {
    this.collation = collation
    this.#converted = collation
  }

  finish(): Definition {
    const list = this.#place()
    this.#settleKeys(list)
    const primary = this.#keys.find((key) => key.primary)
    const inKey = (key: Key | undefined, name: string): boolean =>
      key?.columns.some((column) => same(column, name)) ?? false
    const named = list.map((column) =>
      inKey(primary, column.name) ? { ...column, nullable: false } : column,
    )
    const promoted = primary ? undefined : promotedKey(this.#keys, named)
    const columns = named.map((column) => ({
      ...column,
      key: inKey(primary, column.name),
      promoted: inKey(promoted, column.name),
    }))
    const keys = this.#keys.map(({ old: _, ...key }) => key)
    return { columns, keys, collation: this.collation }
  }

  /** Old columns in their places, changed ones with a place of their own and new ones put in afterwards, in order. */
  #place(): CapturedColumn[] {
    const dropped = (name: string): boolean => this.#dropped.some((d) => same(d, name))
    // the last word on a column counts, all of them where they say different things
    const changes = new Map<string, Planned>()
    for (const planned of this.#planned) {
      if (planned.from === undefined) continue
      const key = planned.from.toLowerCase()
      if (changes.has(key)) throw new NotUnderstood(`column ${planned.from} changed twice`)
      changes.set(key, planned)
    }
    const list: CapturedColumn[] = []
    for (const column of this.#before) {
      const change = changes.get(column.name.toLowerCase())
      if (change === undefined) {
        if (!dropped(column.name)) list.push(this.#convertedFrom({ column, kept: true }))
      } else if (change.after === undefined) {
        list.push(this.#convertedFrom(change))
      }
    }
    for (const planned of this.#planned) {
      const { from, after } = planned
      const column = this.#convertedFrom(planned)
      if (after === undefined) {
        if (from === undefined) list.push(column)
      } else if (after === '') list.unshift(column)
      else {
        const at = list.findIndex((c) => same(c.name, after))
        if (at < 0) throw new NotUnderstood(`AFTER ${after}`)
        list.splice(at + 1, 0, column)
      }
    }
    return list
  }
  /** In the character set of CONVERT TO; a text that is defined anew has its own size, one that was there grows. */
  #convertedFrom({ column, kept, bin }: Pick<Planned, 'column' | 'kept' | 'bin'>): CapturedColumn {
    if (this.#converted === 0 || column.collation === 0 || column.collation === BINARY)
      return column
    const { dialect } = this.defaults
    const collation = bin ? binOf(this.#converted, dialect) : this.#converted
    return converted(column, { collation, grows: kept === true }, dialect)
  }
  /** Columns that are gone leave their keys. */
  #settleKeys(list: readonly CapturedColumn[]): void {
    this.#keys = this.#keys.flatMap((key) => {
      const columns = key.columns
        .map((name) => (key.old && this.#renamed.get(name.toLowerCase())) || name)
        .filter((name) => list.some((column) => same(column.name, name)))
      if (columns.length === 0 && key.columns.length > 0) return []
      // a text is in a key with its beginning only
      const long = list.some((c) => LONG.test(c.base) && columns.some((name) => same(c.name, name)))
      return [{ ...key, columns, whole: key.whole && !long }]
    })
  }
}

const beyondAscii = ({ members }: CapturedColumn): boolean =>
  members?.some((m) => /[^ -~]/.test(m)) ?? false

const LONG = /text|blob/
const WIDE = new Set(['ucs2', 'utf16', 'utf16le', 'utf32'])

/** The unique key that servers show as primary in a table without one: the first without a NULL, a prefix or a function. */
function promotedKey(keys: readonly Key[], columns: readonly CapturedColumn[]): Key | undefined {
  return keys.find(
    (key) =>
      key.unique &&
      key.whole &&
      key.columns.every((name) => columns.find((c) => same(c.name, name))?.nullable === false),
  )
}

/** A text column in another character set: its texts stay whole, so its bytes may be more. */
function converted(
  column: CapturedColumn,
  { collation, grows }: { readonly collation: number; readonly grows: boolean },
  dialect: Dialect,
): CapturedColumn {
  const { name, nullable, invisible, base } = column
  const capacity = capacityOf(base)
  let { mysqlType } = column
  const from = maxBytes(column.collation, dialect)
  const to = maxBytes(collation, dialect)
  if (grows && capacity > 0 && to > from) mysqlType = textFor(Math.floor(capacity / from) * to)
  const [before, after] = [charsetOfId(column.collation, dialect), charsetOfId(collation, dialect)]
  if (after === 'binary') throw new NotUnderstood('CONVERT TO binary')
  // servers take the bytes of members for those of the other set: nobody could guess what comes out
  if (
    column.members &&
    before !== after &&
    (WIDE.has(before) || WIDE.has(after) || beyondAscii(column))
  )
    throw new NotUnderstood('CONVERT of members')
  return columnOf({ name, mysqlType, collation, nullable, invisible }, dialect)
}
