/**
 * The database that is moved to, as the SQL sink reaches it: what it is, whether it is fit, which tables it has already,
 * and how each table of the source is made there. Changes nothing by itself but what it is told to run.
 */
import { SluiceError } from '../errors.ts'
import { addressOf } from '../sinks/sql/dialects/address.ts'
import type { Dialect, Session, TargetName } from '../sinks/sql/dialects/dialect.ts'
import { mysqlDialect } from '../sinks/sql/dialects/mysql.ts'
import { postgresDialect } from '../sinks/sql/dialects/postgres.ts'
import { nameOf, type SourceDatabase, type SourceTable } from './schema/inventory.ts'
import { mysqlDatabase, mysqlTable, together, type Later, type MysqlFacts } from './schema/mysql.ts'
import { urlOf, type Endpoint, type Place } from './options.ts'
import { postgresTable, type PostgresDraft } from './schema/postgres.ts'

/** Making an index of a large table takes its time. */
const STATEMENT_MS = 7 * 86_400_000
/** Where positions are kept on a MySQL whose URL names no database. */
const OWN_DATABASE = 'sluice_migrate'

/** How a table is made in the target. */
export type Draft = Omit<PostgresDraft, 'notNull' | 'counter' | 'columns'> &
  Partial<Pick<PostgresDraft, 'notNull' | 'counter' | 'columns'>>

export class Target {
  readonly kind: Endpoint['kind']
  readonly where: string
  readonly version: string
  readonly #end: Endpoint
  readonly #dialect: Dialect
  readonly #facts: MysqlFacts | undefined
  readonly #variables: ReadonlyMap<string, string>
  #session: Session

  private constructor(
    end: Endpoint,
    dialect: Dialect,
    about: {
      session: Session
      version: string
      facts: MysqlFacts | undefined
      variables: ReadonlyMap<string, string>
    },
  ) {
    this.kind = end.kind
    this.where = dialect.where.replace(/\/$/, '')
    this.version = about.version
    this.#end = end
    this.#dialect = dialect
    this.#facts = about.facts
    this.#variables = about.variables
    this.#session = about.session
  }
  /** Throws SINK_UNAVAILABLE, SINK_UNSUITABLE. */
  static async open(end: Endpoint): Promise<Target> {
    const tls = { tls: (end.tls ?? 'disabled') as 'disabled', ca: end.ca }
    const times = { connectTimeoutMs: 10_000, statementTimeoutMs: STATEMENT_MS }
    const named = end.database === '' ? { ...end, database: 'mysql' } : end
    const parsed = addressOf({ url: urlOf(named, true), ...tls, ...times })
    const address = end.database === '' ? { ...parsed, database: '' } : parsed
    const mysql = end.kind === 'mysql'
    const dialect = mysql ? await mysqlDialect(address) : postgresDialect(address, 'json')
    const session = await dialect.connect()
    const variables = mysql ? await variablesOf(session) : new Map<string, string>()
    const version =
      variables.get('version') ??
      String((await session.run('SHOW server_version')).rows[0]!['server_version'])
    const facts = mysql ? await factsOf(session, version) : undefined
    return new Target(end, dialect, { session, version, facts, variables })
  }
  async close(): Promise<void> {
    await this.#session.close()
  }
  /** Runs one statement, on a new connection where the last one was lost. */
  async run(sql: string): Promise<readonly Readonly<Record<string, unknown>>[]> {
    return (await (await this.#alive()).run(sql)).rows
  }
  async #alive(): Promise<Session> {
    if (this.#session.alive) return this.#session
    await this.#session.close()
    return (this.#session = await this.#dialect.connect())
  }
  /** A global variable of MySQL; '' where there is none. */
  variable(name: string): string {
    return this.#variables.get(name) ?? ''
  }
  get mariadb(): boolean {
    return this.#facts?.mariadb === true
  }
  get foldsCase(): boolean {
    return Number(this.variable('lower_case_table_names') || 0) > 0
  }
  /** For the sink: with the password, and a database for its positions. */
  get sinkUrl(): string {
    return urlOf({ ...this.#end, database: this.bookkeeping }, true)
  }
  /** The database in which the sink keeps its position. */
  get bookkeeping(): string {
    return this.#end.database || OWN_DATABASE
  }

  draft(table: SourceTable): Draft {
    return this.#facts === undefined ? postgresTable(table) : mysqlTable(table, this.#facts)
  }
  async makeDatabases(databases: readonly SourceDatabase[]): Promise<void> {
    if (this.#facts === undefined) {
      for (const { name } of databases) await this.run(this.#dialect.createSpace(name))
      return
    }
    for (const database of databases) await this.run(mysqlDatabase(database, this.#facts))
    await this.run(this.#dialect.createSpace(this.bookkeeping))
  }
  /** Throws SINK_UNSUITABLE, which names the table. */
  async make(table: SourceTable): Promise<void> {
    for (const sql of this.draft(table).create) {
      try {
        await this.run(sql)
      } catch (error) {
        throw refused(`${this.where}: the table ${nameOf(table)} cannot be made as\n${sql}`, error)
      }
    }
  }
  fullName(table: { readonly database: string; readonly name: string }): string {
    return this.#dialect.full(targetName(table))
  }
  /** PostgreSQL gets new tables and columns with the first row that comes in them; here are those in which none came. */
  async complete(table: SourceTable): Promise<void> {
    const { columns } = this.draft(table)
    if (columns === undefined) return
    const found = await this.#dialect.describe(await this.#alive(), targetName(table))
    if (found === undefined) return await this.make(table)
    const there = new Set(found.columns.map(({ name }) => name.toLowerCase()))
    for (const [name, text] of columns)
      if (!there.has(name.toLowerCase()))
        await this.run(`ALTER TABLE ${this.fullName(table)} ADD COLUMN ${text}`)
  }
  async drop(name: string): Promise<void> {
    const [space, ...table] = name.split('.')
    await this.run(`DROP TABLE IF EXISTS ${this.#dialect.full({ space, table: table.join('.') })}`)
  }
  /** undefined: it is not there. */
  async holds(table: SourceTable): Promise<'rows' | 'nothing' | undefined> {
    const name = targetName(table)
    if ((await this.#dialect.describe(await this.#alive(), name)) === undefined) return undefined
    const rows = await this.run(`SELECT 1 AS one FROM ${this.#dialect.full(name)} LIMIT 1`)
    return rows.length > 0 ? 'rows' : 'nothing'
  }

  // ── after the load ─────────────────────────────────────────────────────────

  /**
   * Those that are not there yet. One that PostgreSQL refuses, and that rows are right without, is a note. Throws
   * SINK_UNSUITABLE, which names table and index.
   */
  async makeIndexes(table: SourceTable, note: (text: string) => void): Promise<void> {
    for (const { name, sql } of await this.#missingIndexes(table)) {
      try {
        await this.run(sql)
      } catch (error) {
        const failure = refused(
          `${this.where}: index ${name} of ${nameOf(table)} cannot be made as\n${sql}`,
          error,
        )
        const needed = this.kind === 'mysql' || sql.startsWith('CREATE UNIQUE')
        if (needed || failure.retryable) throw failure
        note(failure.message)
      }
    }
  }
  /** Those that are not there yet, without a look at the rows: they are the source's, which has checked them. */
  async makeForeignKeys(table: SourceTable, note: (text: string) => void): Promise<void> {
    const mysql = this.kind === 'mysql'
    for (const { name, sql } of await this.#missingForeignKeys(table)) {
      try {
        if (mysql) await this.run('SET SESSION foreign_key_checks=0')
        await this.run(sql)
      } catch (error) {
        const failure = refused(`foreign key ${name} cannot be made as\n${sql}`, error)
        if (failure.retryable) throw failure
        note(failure.message)
      } finally {
        if (mysql) await this.run('SET SESSION foreign_key_checks=1')
      }
    }
  }
  async #missingIndexes(table: SourceTable): Promise<Later[]> {
    const there = await this.#names(
      this.kind === 'mysql'
        ? `SELECT DISTINCT INDEX_NAME AS name FROM information_schema.STATISTICS WHERE ${this.#at(table, 'TABLE')}`
        : `SELECT indexname AS name FROM pg_indexes WHERE schemaname=${this.#text(table.database)} AND tablename=${this.#text(table.name)}`,
    )
    const missing = this.draft(table).indexes.filter(({ name }) => !there.has(name.toLowerCase()))
    return this.kind === 'mysql' ? together(missing) : missing
  }
  async #missingForeignKeys(table: SourceTable): Promise<Later[]> {
    const there = await this.#names(
      this.kind === 'mysql'
        ? `SELECT CONSTRAINT_NAME AS name FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE ${this.#at(table, 'CONSTRAINT')}`
        : `SELECT conname AS name FROM pg_constraint WHERE contype='f' AND conrelid=to_regclass(${this.#text(this.#dialect.full(targetName(table)))})`,
    )
    return this.draft(table).foreignKeys.filter(({ name }) => !there.has(name.toLowerCase()))
  }
  async #names(sql: string): Promise<Set<string>> {
    return new Set((await this.run(sql)).map((row) => String(row['name']).toLowerCase()))
  }
  #text(value: string): string {
    return this.#dialect.text(value)
  }
  #at({ database, name }: SourceTable, prefix: 'TABLE' | 'CONSTRAINT'): string {
    return `${prefix}_SCHEMA=${this.#text(database)} AND TABLE_NAME=${this.#text(name)}`
  }
  /** What a table's counter begins with, and dates that need not take NULL; returns what could not be done. */
  async settle(table: SourceTable): Promise<string[]> {
    const { counter, notNull } = this.draft(table)
    const name = this.#dialect.full(targetName(table))
    if (this.kind === 'mysql') {
      if (table.autoIncrement !== undefined)
        await this.run(`ALTER TABLE ${name} AUTO_INCREMENT = ${table.autoIncrement}`)
      return []
    }
    if (counter !== undefined) await this.run(counter)
    const notes: string[] = []
    for (const column of notNull ?? []) {
      const quoted = this.#dialect.quote(column)
      const rows = await this.run(`SELECT 1 AS one FROM ${name} WHERE ${quoted} IS NULL LIMIT 1`)
      if (rows.length === 0)
        await this.run(`ALTER TABLE ${name} ALTER COLUMN ${quoted} SET NOT NULL`)
      else
        notes.push(`${nameOf(table)}.${column} stays nullable: dates that do not exist became NULL`)
    }
    return notes
  }
  /** Where its log ends; undefined where it has none, or none with rows. */
  async logEnd(): Promise<Place | undefined> {
    if (this.kind !== 'mysql' || this.variable('log_bin') !== 'ON') return undefined
    const rows = await this.run('SHOW BINARY LOG STATUS').catch(() =>
      this.run('SHOW MASTER STATUS'),
    )
    const [row] = rows
    if (row === undefined) return undefined
    const gtids = row['Executed_Gtid_Set']
    return {
      file: String(row['File']),
      offset: Number(row['Position']),
      gtids: typeof gtids === 'string' ? gtids.replaceAll('\n', '') : '',
    }
  }
}

const targetName = ({ database, name }: { database: string; name: string }): TargetName => ({
  space: database,
  table: name,
})
function refused(text: string, cause: unknown): SluiceError {
  if (cause instanceof SluiceError && cause.code === 'SINK_UNAVAILABLE') return cause
  const why = cause instanceof Error ? cause.message : String(cause)
  return new SluiceError('SINK_UNSUITABLE', `${text}\n${why}`, { cause })
}

async function variablesOf(session: Session): Promise<Map<string, string>> {
  const { rows } = await session.run('SHOW GLOBAL VARIABLES')
  return new Map(
    rows.map((row) => [String(row['Variable_name']).toLowerCase(), String(row['Value'])]),
  )
}
async function factsOf(session: Session, text: string): Promise<MysqlFacts> {
  const [major = 0, minor = 0, patch = 0] = text.split(/[.-]/).map(Number)
  const version = major * 10_000 + minor * 100 + patch
  const mariadb = /mariadb/i.test(text)
  const { rows } = await session.run(
    mariadb && version >= 101_000
      ? 'SELECT FULL_COLLATION_NAME AS name, CHARACTER_SET_NAME AS charset FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY'
      : 'SELECT COLLATION_NAME AS name, CHARACTER_SET_NAME AS charset FROM information_schema.COLLATIONS',
  )
  const known = rows.filter((row) => row['charset'] !== null)
  const collations = new Map(known.map((row) => [String(row['name']), String(row['charset'])]))
  return { version, mariadb, collations }
}
