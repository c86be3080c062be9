/**
 * Stage 3: which columns a table had when a row was written. Definitions come from the history (history.ts): statements of
 * the log move it along (apply.ts), the server is asked for what it lacks (capture.ts). A table map with full metadata
 * (binlog_row_metadata=FULL) describes itself, and the history only lends what no event tells. Without it the definition
 * of that place must fit the table map in everything the binlog says; where it does not, or is not known, the server is
 * asked, and what it says counts only if no statement of the log can have changed the table in between. Where one can
 * have, `ambiguous` decides: SCHEMA_MISMATCH stops the stream, or columns are matched by position, with a warning. Values
 * are never put silently under names they may not belong to.
 *
 * Knows no store; the ways to the server are functions it is given.
 */
import { compileColumn, type ColumnDefinition } from '../binlog/column.ts'
import { readMetadata } from '../binlog/table-map.ts'
import type { TableMap, TableMetadata } from '../binlog/table-map.ts'
import type { TimeZone } from '../binlog/time.ts'
import { formatPosition, type Table } from '../change.ts'
import { SluiceError } from '../errors.ts'
import type { ColumnFilter } from '../filter.ts'
import { effectsOf, type Effect } from './ddl/apply.ts'
import { captureDialect, captureTables, type Query } from './capture.ts'
import { classify, type TableName } from './ddl/classify.ts'
import type { Dialect } from './ddl/dialect.ts'
import {
  disagreement,
  fromCapture,
  fromEvent,
  mapOf,
  positional,
  type Definition,
  type Key,
  type Knowledge,
} from './definition.ts'
import { fateOf, type ScannedStatement } from './later.ts'
import {
  compareLogPlaces,
  History,
  type HistoryFile,
  type LogPlace,
  type Origin,
} from './history.ts'

/** A statement of the log that may change definitions. */
export interface LoggedStatement {
  readonly sql: string
  readonly database: string // the session's
  readonly sqlMode: number
  readonly serverCollation: number
  readonly utf8mb4Collation: number
  readonly explicitTimestamps: boolean | undefined
  /** It did not run to its end, or not everywhere. */
  readonly failed: boolean
}
export interface CatalogOptions {
  /** Runs SQL with "?" parameters at the source; undefined where there is no server, as for binlog files alone. */
  readonly query: Query | undefined
  readonly timeZone: TimeZone // of TIMESTAMP texts
  readonly columns: ColumnFilter
  readonly log: { warn(details: object, message: string): void }
  readonly history?: HistoryFile | undefined
  /** Where the log that `query`'s server writes ends now. */
  readonly end?: (() => Promise<LogPlace>) | undefined
  /** Definition statements of transactions that begin at `from` or later, and before `to`. */
  readonly scan?:
    | ((from: LogPlace, to: LogPlace) => Promise<readonly ScannedStatement[]>)
    | undefined
  readonly ambiguous?: 'stop' | 'positional' | undefined
}
export type { ScannedStatement } from './later.ts'

/** The last tables made of table maps, by their bytes and what was known then. */
interface Made {
  readonly body: Buffer
  readonly now: Knowledge
  readonly table: Table
}

/** A reader that lags and one that does not may see a table before and after a DDL in turns. */
const MADE_MAX = 4
const ATTEMPTS = 5

const ADVICE =
  'events written after SET PERSIST binlog_row_metadata=FULL on the source describe themselves; ' +
  'to pass the older ones, start behind them, leave the table out by the filter, or set ambiguousSchema: positional'

export class Catalog {
  readonly history: History
  /** Tables that were matched by position because their history is ambiguous. */
  readonly guessed = new Set<string>()
  readonly #options: CatalogOptions
  readonly #made = new Map<string, Made[]>() // "database\0table"
  readonly #lent = new Map<string, Definition | undefined>() // for FULL metadata: what the server says now
  readonly #warned = new Set<string>()
  #dialect: Dialect | undefined
  #healing: Promise<unknown> = Promise.resolve() // one look at the server after the other
  #scanned: { from: LogPlace; to: LogPlace; statements: ScannedStatement[] } | undefined

  constructor(options: CatalogOptions) {
    this.#options = options
    this.history = new History(options.history)
  }

  /**
   * Before anything is read: learns how the server reads DDL and, where the history is empty, every table it has, with
   * a few queries for thousands of tables. Throws QUERY_FAILED or what `query` threw.
   */
  async prepare(): Promise<void> {
    const { query, end } = this.#options
    if (!query) return
    this.#dialect ??= await asked('the server', captureDialect(query))
    if (this.#dialect.foldsCase) this.history.foldCase()
    if (!this.history.empty || !end) return
    let effects: Effect[] = []
    let from = await end()
    for (let attempt = 1; ; attempt++) {
      effects = await asked('all tables', captureTables(query, this.#dialect, undefined))
      const to = await end()
      const between = await this.#scan(from, to)
      if (between.length === 0) break
      from = to
      if (attempt < ATTEMPTS) continue
      effects = effects.map((effect) =>
        effect.kind === 'table' && this.#touched(effect.name, between)
          ? { ...effect, now: 'unknown' }
          : effect,
      )
      break
    }
    // what a transaction that begins right there does to a table comes after this
    const { offset, ...rest } = await end()
    this.history.record({ ...rest, offset: offset - 1 }, effects, 'captured')
  }

  /**
   * The table a table map belongs to, in a transaction that begins at `at`; at once when what is known of that place
   * fits. Throws (or rejects with) SluiceError SCHEMA_MISMATCH, CONFIG_INVALID (column filter), EVENT_MALFORMED
   * (metadata), and QUERY_FAILED or what `query` threw when the server cannot be asked.
   */
  resolve(map: TableMap, at: LogPlace): Table | Promise<Table> {
    const key = `${map.database}\0${map.table}`
    const version = this.history.at(map.database, map.table, at)
    const now = version?.now
    const made = this.#made.get(key)?.find((m) => m.now === now && m.body.equals(map.body))
    if (made) return made.table
    const says = readMetadata(map)
    if (isDefinition(now) && (says.full || disagreement(map, says, now.columns) === ''))
      return this.#make(map, { now, columns: columnsOf(map, says, now), origin: version!.origin })
    if (says.full) return this.#alone(() => this.#lend(map, says, at))
    return this.#alone(() => this.#heal(map, says, at))
  }

  /**
   * A table as the server defines it now, for rows that are read from it and not from the log; undefined where there is
   * none. Throws as resolve does.
   */
  async current(
    database: string,
    table: string,
  ): Promise<{ readonly table: Table; readonly keys: readonly Key[] } | undefined> {
    const now = await this.#capture(database, table)
    if (now === undefined) return undefined
    const map = mapOf(database, table, now, this.#dialect?.mariadb === true)
    const columns = fromCapture(map, now.columns)
    return { table: this.#make(map, { now, columns, origin: 'captured' }), keys: now.keys }
  }

  /** A statement of the log: moves the history along. One that is not understood leaves its tables to be asked for. */
  statement(statement: LoggedStatement, at: LogPlace): void {
    const { sql, database } = statement
    const dialect = this.#dialect && withSession(this.#dialect, statement)
    const understood = dialect && !statement.failed
    const effects = understood
      ? effectsOf({ ...statement, dialect }, this.history.before(at))
      : classify(sql, database).tables.flatMap((name): Effect[] =>
          name.table === '' ? [] : [{ kind: 'table', name, now: 'unknown' }],
        )
    const fresh = this.#last(effects).filter((effect) => !this.#settled(effect, at))
    for (const effect of fresh)
      if (effect.kind === 'table')
        this.#lent.delete(`${effect.name.database}\0${effect.name.table}`)
    this.history.record(at, fresh, 'ddl')
  }
  /** What holds after the statement: a swap of names says of one table first that it is gone, and then what it is. */
  #last(effects: readonly Effect[]): Effect[] {
    if (effects.length < 2) return [...effects]
    const last = new Map<string, Effect>()
    for (const effect of effects) {
      const { database, table } =
        effect.kind === 'table' ? effect.name : { database: effect.database, table: '' }
      const key = `${database}\0${table}`
      last.set(this.history.foldsCase ? key.toLowerCase() : key, effect)
    }
    return [...last.values()]
  }
  /** A place that was read before, by us or another reader, and has been asked for since: the answer stays. */
  #settled(effect: Effect, at: LogPlace): boolean {
    if (effect.kind !== 'table' || effect.now !== 'unknown') return false
    const known = this.history.at(effect.name.database, effect.name.table, at)
    return known !== undefined && compareLogPlaces(known.from, at) === 0
  }

  /** From the present end of the log on the table's definition is unknown, so that its next row asks the server. */
  async forget(database: string, table: string): Promise<void> {
    const place = await this.#options.end?.()
    if (place === undefined) return
    const key = `${database}\0${table}`
    this.#lent.delete(key)
    this.#made.delete(key)
    const effect: Effect = { kind: 'table', name: { database, table }, now: 'unknown' }
    this.history.record(place, [effect], 'captured')
  }

  // ── the server is asked ────────────────────────────────────────────────────

  /** One after the other: what the first one learns the next ones need not ask. */
  #alone<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#healing.then(work, work)
    this.#healing = result.catch(() => undefined)
    return result
  }

  /** An event that describes itself: the server lends type texts, whenever it is asked. */
  async #lend(map: TableMap, says: TableMetadata, at: LogPlace): Promise<Table> {
    const { database, table } = map
    const key = `${database}\0${table}`
    if (!this.#lent.has(key)) {
      if (this.history.at(database, table, at)?.now === 'unknown') {
        // a statement was not understood: what is certain is kept, so that it is lent again when these rows come again
        const { captured, between } = await this.#ask(map, at)
        this.#lent.set(key, captured)
        if (captured && between.length === 0 && disagreement(map, says, captured.columns) === '')
          this.#remember(map, at, captured)
      } else this.#lent.set(key, await this.#capture(database, table))
    }
    return this.#make(map, {
      now: this.history.at(database, table, at)?.now,
      columns: fromEvent(map, says, this.#lent.get(key)?.columns ?? []),
      origin: 'event',
    })
  }

  async #heal(map: TableMap, says: TableMetadata, at: LogPlace): Promise<Table> {
    const { database, table } = map
    const fits = (now: Knowledge): now is Definition =>
      isDefinition(now) && disagreement(map, says, now.columns) === ''
    const make = (now: Definition, origin: Origin): Table =>
      this.#make(map, {
        now: this.history.at(database, table, at)?.now,
        columns: fromCapture(map, now.columns),
        origin,
      })
    const version = this.history.at(database, table, at)
    if (version && fits(version.now)) return make(version.now, version.origin)
    const later = this.history.after(database, table, at)
    if (later?.origin === 'captured' && fits(later.now)) {
      if (!this.#touched(map, await this.#since(at, later.from))) {
        this.#remember(map, at, later.now)
        return make(later.now, 'captured')
      }
    }
    const { captured, between } = await this.#ask(map, at)
    if (captured && fits(captured) && between.length === 0) {
      this.#remember(map, at, captured)
      return make(captured, this.#options.end ? 'captured' : 'assumed')
    }
    return this.#doubt(map, says, { at, captured, between })
  }

  /** What the server says of a table of `at`, under the name it has now, and what can have changed it since. */
  async #ask(map: TableMap, at: LogPlace): Promise<Omit<Doubt, 'at'>> {
    const { end } = this.#options
    let name: TableName = map
    for (let attempt = 1; ; attempt++) {
      const captured = await this.#capture(name.database, name.table)
      const fate = fateOf(map, end ? await this.#since(at, await end()) : [], this.#same)
      const between = fate.changed
      const moved = !sameName(fate.name, name)
      if (between.length > 0 || !moved) return { captured, between }
      if (attempt === ATTEMPTS) return { captured: undefined, between }
      name = fate.name
    }
  }

  /** What the server says holds from `at` on, or from the statement before it that left the table unknown. */
  #remember({ database, table }: TableMap, at: LogPlace, now: Definition): void {
    const version = this.history.at(database, table, at)
    const from = version?.now === 'unknown' ? version.from : at
    this.history.record(from, [{ kind: 'table', name: { database, table }, now }], 'captured')
  }

  /** Nothing says which columns these rows were written with. */
  #doubt(map: TableMap, says: TableMetadata, facts: Doubt): Table {
    const name = `${map.database}.${map.table}`
    const why = reasons(map, says, facts, this.#options.query !== undefined)
    if (this.#options.ambiguous !== 'positional') {
      throw new SluiceError(
        'SCHEMA_MISMATCH',
        `table ${name} at ${formatPosition({ ...facts.at, skip: 0 })}: ${why}; ${ADVICE}`,
      )
    }
    if (!this.guessed.has(name)) {
      this.guessed.add(name)
      this.#options.log.warn(
        {
          database: map.database,
          table: map.table,
          position: formatPosition({ ...facts.at, skip: 0 }),
        },
        `table ${name}: columns are matched by position: ${why}`,
      )
    }
    const columns = positional(map, says, facts.captured?.columns ?? [])
    const now = this.history.at(map.database, map.table, facts.at)?.now
    return this.#make(map, { now, columns, origin: 'assumed' })
  }

  async #capture(database: string, table: string): Promise<Definition | undefined> {
    const { query } = this.#options
    if (!query) return undefined
    const dialect = (this.#dialect ??= await asked('the server', captureDialect(query)))
    const effects = await asked(
      `columns of ${database}.${table}`,
      captureTables(query, dialect, { database, table }),
    )
    const tables = effects.flatMap((e) =>
      e.kind === 'table' && isDefinition(e.now) ? [{ name: e.name, now: e.now }] : [],
    )
    // Old servers compare names here without case, even where tables t and T are two.
    return (tables.find((t) => t.name.table === table) ?? tables[0])?.now
  }

  /** Whether statements can have changed a table's definition, or named it otherwise. */
  #touched(table: TableName, statements: readonly ScannedStatement[]): boolean {
    const { name, changed } = fateOf(table, statements, this.#same)
    return changed.length > 0 || !sameName(name, table)
  }
  /** Statements of the transactions after the one at `from`, before `to`. */
  async #since(from: LogPlace, to: LogPlace): Promise<readonly ScannedStatement[]> {
    const found = await this.#scan(from, to)
    return found.filter(({ at }) => compareLogPlaces(at, from) !== 0)
  }
  /** Statements from `from` to before `to`. The log is looked through to its end, and every stretch of it once. */
  async #scan(from: LogPlace, to: LogPlace): Promise<readonly ScannedStatement[]> {
    const { scan, end } = this.#options
    if (!scan || !end || compareLogPlaces(from, to) >= 0) return []
    let known = this.#scanned
    if (!known || compareLogPlaces(from, known.from) < 0 || compareLogPlaces(from, known.to) > 0) {
      const last = await end()
      known = { from, to: last, statements: [...(await scan(from, last))] }
    } else if (compareLogPlaces(known.to, to) < 0) {
      const last = await end()
      const more = await scan(known.to, last)
      known = { from: known.from, to: last, statements: [...known.statements, ...more] }
    }
    this.#scanned = known
    return known.statements.filter(
      ({ at }) => compareLogPlaces(at, from) >= 0 && compareLogPlaces(at, to) < 0,
    )
  }
  readonly #same = (a: TableName, b: TableName): boolean => {
    const fold = (text: string): string => (this.history.foldsCase ? text.toLowerCase() : text)
    return (
      fold(a.database) === fold(b.database) && (a.table === '' || fold(a.table) === fold(b.table))
    )
  }

  #make(map: TableMap, { now, columns, origin }: Making): Table {
    const { database, table: name } = map
    const compiled = columns.map((d) => compileColumn(d, this.#options.timeZone))
    const { selected, warning } = this.#options.columns(database, name, compiled)
    if (warning !== '' && !this.#warned.has(warning)) {
      this.#warned.add(warning)
      this.#options.log.warn({ database, table: name }, warning)
    }
    const full = readMetadata(map).full
    const table: Table = {
      database,
      name,
      columns: compiled,
      selected,
      origin: full ? 'event' : origin,
    }
    const key = `${database}\0${name}`
    const made = this.#made.get(key) ?? []
    made.push({ body: map.body, now, table })
    if (made.length > MADE_MAX) made.shift()
    this.#made.set(key, made)
    return table
  }
}

interface Making {
  readonly now: Knowledge // what the history said of the place
  readonly columns: readonly ColumnDefinition[]
  readonly origin: Table['origin']
}
interface Doubt {
  readonly at: LogPlace
  readonly captured: Definition | undefined
  readonly between: readonly ScannedStatement[]
}

const sameName = (a: TableName, b: TableName): boolean =>
  a.database === b.database && a.table === b.table

const isDefinition = (now: Knowledge): now is Definition => now !== undefined && now !== 'unknown'

const columnsOf = (
  map: TableMap,
  says: TableMetadata,
  { columns }: Definition,
): ColumnDefinition[] => (says.full ? fromEvent(map, says, columns) : fromCapture(map, columns))

function reasons(
  map: TableMap,
  says: TableMetadata,
  { captured, between }: Doubt,
  asks: boolean,
): string {
  if (!captured) {
    return asks
      ? 'the source has no such table any more, or this user may not see it, and the binlog does not name its columns'
      : 'there is no server to ask, and the binlog does not name its columns'
  }
  const wrong = disagreement(map, says, captured.columns)
  const changed =
    between.length > 0
      ? `, and ${between.length} statements changed it since, the first at ${formatPosition({ ...between[0]!.at, skip: 0 })}`
      : ''
  if (wrong !== '')
    return `its definition at the source is not the one these rows were written with: ${wrong}${changed}`
  return `its definition at the source fits, but nothing says that it is the one these rows were written with${changed}`
}

/** The session's own settings, as the log has them. */
function withSession(
  dialect: Dialect,
  { explicitTimestamps, utf8mb4Collation }: LoggedStatement,
): Dialect {
  const utf8mb4 = dialect.charsets.get('utf8mb4')
  const explicit = explicitTimestamps ?? dialect.explicitTimestamps
  const collation = utf8mb4Collation || utf8mb4?.collation
  if (explicit === dialect.explicitTimestamps && collation === utf8mb4?.collation) return dialect
  const charsets = new Map(dialect.charsets)
  if (utf8mb4 && collation) charsets.set('utf8mb4', { ...utf8mb4, collation })
  return { ...dialect, explicitTimestamps: explicit, charsets }
}

async function asked<T>(what: string, answer: Promise<T>): Promise<T> {
  try {
    return await answer
  } catch (cause) {
    if (cause instanceof SluiceError) throw cause
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new SluiceError(
      'QUERY_FAILED',
      `${what} could not be read from information_schema: ${reason}`,
      { cause },
    )
  }
}
