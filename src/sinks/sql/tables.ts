/**
 * Which table of the target a table of the source goes to, and how: its columns and types as the target has them, its
 * key, and the collectors that turn its rows into statements. Asked of the target once per version of a table.
 */
import { SluiceError } from '../../errors.ts'
import type { SinkRow, TargetColumn, TargetTable } from '../shape/row.ts'
import { Template } from '../shape/template.ts'
import { ABSENT, AFTER, PRESENT } from '../../change.ts'
import { columnText, createTable, type CreateOptions } from './create.ts'
import {
  type BoundColumn,
  type Collector,
  type Dialect,
  type DialectOptions,
  type Found,
  type Operation,
  type Session,
  type TargetName,
} from './dialects/dialect.ts'

export interface TablesOptions extends DialectOptions {
  /** `{database}.{table}` or a name in the connection's database. */
  readonly table: string
  readonly createTables: boolean
  /** Columns that a table of the target lacks are added to it. */
  readonly addColumns: boolean
  readonly keyless: 'refuse' | 'match'
  /** The column of versions, when rows are fenced by it. */
  readonly fence: string | undefined
}

/** A table of the source, bound to one of the target. */
export class BoundTable {
  readonly target: TargetTable
  readonly name: TargetName
  /** Quoted: tells tables of the target apart. */
  readonly id: string
  readonly keyless: boolean
  /** Rows change by themselves in the target: writes must come one for one, in order. */
  readonly cascades: boolean
  /** The column of versions, as the target spells it. */
  readonly fence: string | undefined
  /** Those that are written, the version's last where there is one. */
  readonly columns: readonly BoundColumn[]
  readonly keys: readonly BoundColumn[]
  readonly #guarded: boolean
  readonly #dialect: Dialect
  readonly #options: TablesOptions
  readonly #collectors = new Map<string, Collector>()

  constructor(
    target: TargetTable,
    name: TargetName,
    found: Found,
    dialect: Dialect,
    options: TablesOptions,
  ) {
    this.target = target
    this.name = name
    this.id = dialect.full(name)
    this.#dialect = dialect
    this.#options = options
    this.fence = options.fence
    this.keyless = target.keys.length === 0
    this.cascades = found.cascades
    this.#guarded = found.uniques.length > 1
    this.columns = bindColumns(target, found, this.id, dialect, options.fence)
    const bound = (key: TargetColumn): BoundColumn =>
      this.columns.find(({ source }) => source === key) ?? generatedKey(key, this.id)
    this.keys = target.keys.map(bound)
    if (!this.keyless && !hasIndex(found, this.keys)) throw noIndex(this.keys, this.id)
  }

  /** Inserts of whole rows into another table, which has these columns and those of `more`. */
  into(name: TargetName, more: readonly BoundColumn[]): Collector {
    const columns = [...this.columns, ...more]
    const shape = { name, operation: 'insert', columns, keys: [], matchAll: false } as const
    return this.#dialect.collector({ ...shape, fence: undefined, guarded: false }, this.#options)
  }
  collector(operation: Exclude<Operation, 'update'>): Collector {
    return this.#collector(operation, operation, this.columns)
  }
  /** For the columns that are in this row's image after; undefined where there are none. */
  partial(row: SinkRow, operation: 'upsert' | 'insert' | 'update'): Collector | undefined {
    const present = this.columns.filter(({ source }) => row.state(AFTER, source) !== ABSENT)
    if (present.length === 0) return undefined
    const which = present.map(({ source }) => source.index).join()
    return this.#collector(`${operation} ${which}`, operation, present)
  }
  #collector(id: string, operation: Operation, columns: readonly BoundColumn[]): Collector {
    let collector = this.#collectors.get(id)
    if (collector === undefined) {
      if (this.#collectors.size >= COLLECTORS_MAX) this.#collectors.clear()
      const writes = operation !== 'delete' && operation !== 'ahead'
      collector = this.#dialect.collector(
        {
          name: this.name,
          operation,
          columns: writes ? columns : [],
          keys: this.keyless && operation !== 'insert' ? this.#images() : this.keys,
          matchAll: this.keyless,
          fence: this.#options.fence,
          guarded: this.#guarded,
        },
        this.#options,
      )
      this.#collectors.set(id, collector)
    }
    return collector
  }
  /** Forgets rows that were collected for statements that were never run. */
  reset(): void {
    for (const collector of this.#collectors.values()) collector.reset()
  }
  /** What tells rows without a key apart: everything, but for what has no equality. */
  #images(): BoundColumn[] {
    return this.columns.filter(({ source }) => {
      const type = source.column?.mysqlType ?? ''
      return !/^(geometry|point|line|poly|multi|geom)/.test(type) && source.column !== undefined
    })
  }
}
/** Partial images come with any set of columns. */
const COLLECTORS_MAX = 256

function bindColumns(
  target: TargetTable,
  found: Found,
  id: string,
  dialect: Dialect,
  fence: string | undefined,
): BoundColumn[] {
  const fold = (name: string): string => (dialect.name === 'mysql' ? name.toLowerCase() : name)
  const there = new Map(found.columns.map((column) => [fold(column.name), column]))
  const bound: BoundColumn[] = []
  for (const source of target.columns) {
    const column = there.get(fold(source.name))
    if (column === undefined) throw missing(source.name, id, found)
    if (!column.generated) bound.push({ name: column.name, type: column.type, source })
  }
  if (fence === undefined) return bound
  const column = there.get(fold(fence))
  if (column === undefined) throw missing(fence, id, found)
  const source: TargetColumn = {
    name: fence,
    index: target.columns.length,
    key: false,
    column: undefined,
    derived: { state: () => PRESENT, text: (row) => row.version, changed: () => true },
  }
  return [...bound, { name: column.name, type: column.type, source }]
}
const missing = (name: string, id: string, found: Found): SluiceError =>
  new SluiceError(
    'SINK_UNSUITABLE',
    `table ${id} of the target: expected a column ${name}, it has ${found.columns.map((c) => c.name).join(', ')}; add it, or leave it out in the sink's mapping`,
  )
const generatedKey = (key: TargetColumn, id: string): never => {
  throw new SluiceError(
    'SINK_UNSUITABLE',
    `table ${id} of the target: key column ${key.name} is generated there; expected one that can be written`,
  )
}
const hasIndex = (found: Found, keys: readonly BoundColumn[]): boolean =>
  found.uniques.some(
    (unique) => unique.length === keys.length && keys.every(({ name }) => unique.includes(name)),
  )
const noIndex = (keys: readonly BoundColumn[], id: string): SluiceError =>
  new SluiceError(
    'SINK_UNSUITABLE',
    `table ${id} of the target: expected a primary key or unique index on (${keys.map((k) => k.name).join(', ')}), there is none; create it, or name other key columns in the sink's mapping`,
  )

/** Every table bound so far. */
export class Tables {
  readonly #dialect: Dialect
  readonly #options: TablesOptions
  readonly #space: Template | undefined
  readonly #table: Template
  #bound = new Map<TargetTable, BoundTable>()

  constructor(dialect: Dialect, options: TablesOptions) {
    this.#dialect = dialect
    this.#options = options
    const [space, table] = splitName(options.table)
    this.#space = space === undefined ? undefined : new Template(space)
    this.#table = new Template(table)
  }

  nameOf(database: string, table: string): TargetName {
    return { space: this.#space?.name(database, table), table: this.#table.name(database, table) }
  }
  /** Those of a bound table; the caller has bound it. */
  get(target: TargetTable): BoundTable | undefined {
    return this.#bound.get(target)
  }
  /** Asks the target where it has not been asked yet. Throws SINK_UNSUITABLE. */
  async bind(session: Session, targets: Iterable<TargetTable>): Promise<void> {
    for (const target of targets)
      if (!this.#bound.has(target)) {
        if (this.#bound.size >= TABLES_MAX) this.#bound.clear()
        this.#bound.set(target, await this.#bind(session, target))
      }
  }
  reset(): void {
    for (const table of this.#bound.values()) table.reset()
  }
  /** The target's tables may have changed. */
  forget(): void {
    this.#bound = new Map()
  }
  /** The newest version of a table that rows have come from. */
  seen(database: string, table: string): TargetTable | undefined {
    return [...this.#bound.keys()].findLast((t) => t.database === database && t.name === table)
  }

  async #bind(session: Session, target: TargetTable): Promise<BoundTable> {
    const { keyless, fence } = this.#options
    if (target.keys.length === 0 && (keyless === 'refuse' || fence !== undefined))
      throw new SluiceError(
        'SINK_UNSUITABLE',
        `${target.database}.${target.name}: expected a primary key, it has none; give it one, name key columns in the sink's mapping, leave it out by the sink's filter${fence === undefined ? ', or set keyless: match' : ''}`,
      )
    const name = this.nameOf(target.database, target.name)
    const found = await this.#found(session, target, name)
    return new BoundTable(target, name, found, this.#dialect, this.#options)
  }
  async #found(session: Session, target: TargetTable, name: TargetName): Promise<Found> {
    const there = await this.#dialect.describe(session, name)
    const options: CreateOptions = {
      name,
      versionColumn: this.#options.fence,
      zeroDatesAreNull: this.#options.zeroDates === 'null' && this.#dialect.name === 'postgres',
    }
    if (there !== undefined) {
      const added = this.#options.addColumns ? this.#added(target, there, options) : []
      if (added.length === 0) return there
      for (const sql of added) await session.run(sql)
      return (await this.#dialect.describe(session, name))!
    }
    if (!this.#options.createTables)
      throw new SluiceError(
        'SINK_UNSUITABLE',
        `${this.#dialect.where}: expected a table ${this.#dialect.full(name)} for ${target.database}.${target.name}, there is none; create it, or set createTables: true`,
      )
    try {
      for (const sql of createTable(target, this.#dialect, options)) await session.run(sql)
    } catch (error) {
      // another writer can have been faster; PostgreSQL's IF NOT EXISTS does not wait for it
      const made = session.alive ? await this.#dialect.describe(session, name) : undefined
      if (made === undefined) throw error
      return made
    }
    return (await this.#dialect.describe(session, name))!
  }
  #added(target: TargetTable, { columns }: Found, options: CreateOptions): string[] {
    const there = new Set(columns.map(({ name }) => name.toLowerCase()))
    const table = this.#dialect.full(options.name)
    return target.columns
      .filter(
        ({ name, column, key }) =>
          !key && column?.nullable === true && !there.has(name.toLowerCase()),
      )
      .map(
        (c) =>
          `ALTER TABLE ${table} ADD COLUMN IF NOT EXISTS ${columnText(c, this.#dialect, options)}`,
      )
  }
}
/** Versions of tables, all instances of ALTER counted. */
const TABLES_MAX = 20_000

/** Before and after the first dot outside of braces. */
function splitName(template: string): [space: string | undefined, table: string] {
  let depth = 0
  for (let i = 0; i < template.length; i++) {
    const c = template[i]
    if (c === '{') depth++
    else if (c === '}') depth--
    else if (c === '.' && depth === 0) return [template.slice(0, i), template.slice(i + 1)]
  }
  return [undefined, template]
}
