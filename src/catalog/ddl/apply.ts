/**
 * What a DDL statement makes of table definitions: CREATE, ALTER, DROP, RENAME of tables, indexes and databases, applied
 * to a schema that is known. Follows the server's own order (mysql_prepare_alter_table in sql/sql_table.cc): clauses name
 * columns as they were, AFTER names them as they are becoming. Pure. A statement that it does not understand is said to
 * leave the tables it names 'unknown': they are then asked for at the server.
 */
import type { Definition, Key, Knowledge } from '../definition.ts'
import { classify, type TableName } from './classify.ts'
import { nameOf, readColumn } from './columns.ts'
import {
  NO_BACKSLASH_ESCAPES,
  NotUnderstood,
  pickCollation,
  type Defaults,
  type Dialect,
} from './dialect.ts'
import { Draft } from './draft.ts'
import { keywords, Tokens } from './tokens.ts'
import { charsetName, readTableOptions, touchesNoColumn } from './types.ts'

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
  | {
      readonly kind: 'database'
      readonly database: string
      readonly collation: number | undefined
      readonly created?: boolean // it was not there before: neither was any table in it
    }

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
    const collation = said === 0 ? undefined : said
    this.effects.push({ kind: 'database', database, collation, created: !guarded })
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
    else if (touchesNoColumn(t)) this.#option(draft)
    else throw new NotUnderstood(`clause ${t.text}`)
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
    draft.collation = readTableOptions(this.#tokens, this.#facts.dialect, draft.collation, draft)
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
