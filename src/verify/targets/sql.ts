/**
 * MySQL, MariaDB and PostgreSQL tables. The target itself compares: rows of the source go, by the sink's own literals, into a
 * temporary table with the target's own columns, and a join says where the two differ. So equal means equal as the target's
 * types define it, and what a value becomes on its way is decided by the sink alone.
 */
import { SluiceError } from '../../errors.ts'
import { AFTER, PRESENT, type Column } from '../../change.ts'
import type { SinkBatch } from '../../sinks/shape/batch.ts'
import type { SinkRow, TargetTable } from '../../sinks/shape/row.ts'
import { addressOf } from '../../sinks/sql/dialects/address.ts'
import {
  ConstraintError,
  type BoundColumn,
  type Collector,
  type Dialect,
  type Session,
  type TargetName,
} from '../../sinks/sql/dialects/dialect.ts'
import { mysqlDialect } from '../../sinks/sql/dialects/mysql.ts'
import { postgresDialect } from '../../sinks/sql/dialects/postgres.ts'
import { Tables, type BoundTable } from '../../sinks/sql/tables.ts'
import type { SqlOptions } from '../../sinks/sql.ts'
import { behind } from '../../sources/snapshot/plan.ts'
import { keyText } from '../source.ts'
import type { Bound, Destination, Extra, TargetKey, Unlike, Values } from '../target.ts'
import { formOf, sourceLiteral, type Form } from './sql-forms.ts'

const ORDINAL = 'sluice_n'
const PAGE = 2000

/** A table that is being compared. */
interface Compared {
  readonly bound: BoundTable
  /** Of the table, without the version's column. */
  readonly columns: readonly Field[]
  readonly keys: readonly Field[]
  readonly temporary: string // its full name
  readonly collector: Collector
}
interface Field {
  readonly column: BoundColumn
  readonly name: string // quoted
  readonly form: Form
}
type Row = Readonly<Record<string, unknown>>

export class SqlDestination implements Destination {
  readonly where: string
  readonly #dialect: Dialect
  readonly #tables: Tables
  readonly #places: ReadonlyMap<string, readonly string[]>
  #session: Session | undefined
  #compared: { readonly table: TargetTable; readonly now: Compared | undefined } | undefined
  #temporaries = 0

  private constructor(
    dialect: Dialect,
    tables: Tables,
    wanted: Iterable<readonly [string, string]>,
  ) {
    this.where = dialect.where
    this.#dialect = dialect
    this.#tables = tables
    const places = new Map<string, string[]>()
    for (const [database, name] of wanted) {
      const place = dialect.full(tables.nameOf(database, name))
      places.set(place, [...(places.get(place) ?? []), `${database}.${name}`])
    }
    this.#places = places
  }
  /** `wanted`: all tables that the sink writes. Throws SINK_UNAVAILABLE, SINK_UNSUITABLE. */
  static async open(
    o: SqlOptions,
    wanted: Iterable<readonly [string, string]>,
  ): Promise<SqlDestination> {
    const address = addressOf(o)
    const dialect =
      address.dialect === 'mysql' ? await mysqlDialect(address) : postgresDialect(address, o.json)
    const tables = new Tables(dialect, {
      table: o.table,
      createTables: false,
      addColumns: false,
      keyless: 'refuse',
      fence: o.fence === 'version' ? o.versionColumn : undefined,
      zeroDates: o.zeroDates,
      nul: o.nul,
    })
    const destination = new SqlDestination(dialect, tables, wanted)
    await destination.#open()
    return destination
  }

  async bind(table: TargetTable): Promise<Bound> {
    this.#compared = undefined
    const name = this.#tables.nameOf(table.database, table.name)
    const sharing = this.#places.get(this.#dialect.full(name)) ?? []
    if (sharing.length > 1) {
      const merged = `${sharing.join(', ')} are merged into ${this.#dialect.full(name)}`
      return { why: `${merged}: which of its rows are whose cannot be told` }
    }
    const columns = sourceKey(table)
    if ('why' in columns) return columns
    const session = await this.#open()
    const there = await this.#dialect.describe(session, name)
    if (there === undefined) this.#compared = { table, now: undefined }
    else {
      try {
        await this.#tables.bind(session, [table])
      } catch (error) {
        if (!(error instanceof SluiceError) || error.code !== 'SINK_UNSUITABLE') throw error
        return { why: error.message }
      }
      const now = await this.#prepare(session, this.#tables.get(table)!, name)
      this.#compared = { table, now }
    }
    return { why: '', columns }
  }
  async #open(): Promise<Session> {
    if (this.#session?.alive === true) return this.#session
    this.#session = await this.#dialect.connect()
    // Only a temporary table is written: nothing of it needs a disk.
    // The rows that are looked up are few: an index leads to them, whatever a planner thinks of a table without statistics.
    if (this.#dialect.name === 'postgres')
      await this.#session.run(
        'SET jit=off; SET synchronous_commit=off; SET enable_hashjoin=off; SET enable_mergejoin=off; SET enable_seqscan=off',
      )
    return this.#session
  }
  async #prepare(session: Session, bound: BoundTable, name: TargetName): Promise<Compared> {
    const mysql = this.#dialect.name === 'mysql'
    const own = {
      space: mysql ? name.space : undefined,
      table: `sluice_verify_${++this.#temporaries}`,
    }
    const field = (column: BoundColumn): Field => ({
      column,
      name: this.#dialect.quote(column.name),
      form: formOf(this.#dialect.name, column),
    })
    const list = bound.columns.map(({ name: c }) => this.#dialect.quote(c)).join(', ')
    const temporary = this.#dialect.full(own)
    const from = `FROM ${bound.id} LIMIT 0`
    try {
      await session.run(
        mysql
          ? `CREATE TEMPORARY TABLE ${temporary} (${ORDINAL} INT NOT NULL DEFAULT 0 PRIMARY KEY) ENGINE=InnoDB SELECT ${list} ${from}`
          : `CREATE TEMPORARY TABLE ${temporary} AS SELECT 0::int AS ${ORDINAL}, ${list} ${from}`,
      )
    } catch (cause) {
      const { message } = cause as Error
      if (!/denied|permission/i.test(message)) throw cause
      const text = `${message}; rows are compared in a temporary table: grant CREATE TEMPORARY TABLES (MySQL) or TEMPORARY (PostgreSQL)`
      throw new SluiceError('SINK_UNSUITABLE', text, { cause })
    }
    const columns = bound.columns.filter(({ name: c }) => c !== bound.fence).map(field)
    const { keys } = bound
    return {
      bound,
      columns,
      keys: keys.map((k) => columns.find(({ column }) => column.name === k.name)!),
      temporary,
      collector: bound.into(own, [ordinal]),
    }
  }
  #now(table: TargetTable): Compared | undefined {
    if (this.#compared?.table !== table) throw new Error('bug in Sluice: a table that is not bound')
    return this.#compared.now
  }

  async compare(batch: SinkBatch): Promise<readonly Unlike[]> {
    const [first] = batch.rows(false)
    if (first === undefined) return []
    const now = this.#now(first.table)
    if (now === undefined) return plainMissing(batch)
    const session = await this.#open()
    const refused: Unlike[] = []
    await this.#fill(session, now, [batch], refused)
    const { columns, keys, temporary, bound } = now
    const shown = columns.map(
      ({ form, name }, i) =>
        `${form.show(`u.${name}`)} AS u${i}, ${form.show(`t.${name}`)} AS t${i}`,
    )
    const { rows } = await session.run(
      `SELECT u.${ORDINAL} AS n, ${this.#none(`t.${keys[0]!.name}`)} AS gone, ${shown.join(', ')}
       FROM ${temporary} AS u LEFT JOIN ${bound.id} AS t ON ${joined(keys)}
       WHERE NOT (${columns.map((c) => alike(c)).join(' AND ')})`,
    )
    const found = rows.map((row): Unlike => {
      const values = (side: 'u' | 't'): Values =>
        Object.fromEntries(
          columns.map(({ column }, i) => [column.name, textOf(row[`${side}${i}`])]),
        )
      const gone = isTrue(row['gone'])
      const index = Number(row['n'])
      return gone
        ? { index, kind: 'missing', expected: values('u') }
        : { index, kind: 'different', expected: values('u'), found: values('t') }
    })
    return [...refused, ...found]
  }
  /** Rows into the temporary table, which is emptied before; those that the target's types cannot hold are told. */
  async #fill(
    session: Session,
    now: Compared,
    batches: readonly SinkBatch[],
    refused: Unlike[],
  ): Promise<void> {
    await session.run(`TRUNCATE TABLE ${now.temporary}`)
    for (const batch of batches) {
      now.collector.reset()
      try {
        for (const row of batch.rows(false)) {
          now.collector.add(row)
          if (now.collector.bytes > this.#dialect.statementMax / 4)
            await session.run(now.collector.take())
        }
        if (now.collector.rows > 0) await session.run(now.collector.take())
      } catch (error) {
        const refusal = error instanceof SluiceError && error.code === 'SINK_DATA'
        if (!refusal || error instanceof ConstraintError) throw error
        await this.#fillOneByOne(session, now, batch, refused)
      }
    }
  }
  async #fillOneByOne(
    session: Session,
    now: Compared,
    batch: SinkBatch,
    refused: Unlike[],
  ): Promise<void> {
    await session.run(`TRUNCATE TABLE ${now.temporary}`)
    for (const index of batch.indexes()) {
      now.collector.reset()
      for (const row of batch.only([index]).rows(false)) {
        try {
          now.collector.add(row)
          await session.run(now.collector.take())
        } catch (error) {
          if (!(error instanceof SluiceError) || error.code !== 'SINK_DATA') throw error
          refused.push({ index, kind: 'refused', expected: plainValues(row), why: error.message })
        }
      }
    }
  }
  #none(expression: string): string {
    // IS NULL of MySQL is true for a date 0000-00-00 in a column that is NOT NULL
    return this.#dialect.name === 'mysql' ? `(${expression} <=> NULL)` : `(${expression} IS NULL)`
  }

  async *keys(table: TargetTable): AsyncGenerator<readonly TargetKey[], void, undefined> {
    const now = this.#now(table)
    if (now === undefined) return
    const { keys, bound } = now
    const shown = keys.map(
      ({ form, name }, i) => `${form.whole(name)} AS k${i}, ${form.place(name)} AS p${i}`,
    )
    const names = keys.map(({ name }) => name)
    for (let after = ''; ;) {
      const session = await this.#open()
      const { rows } = await session.run(
        `SELECT ${shown.join(', ')} FROM ${bound.id}${after} ORDER BY ${names.join(', ')} LIMIT ${PAGE}`,
      )
      if (rows.length > 0) yield rows.map((row) => this.#keyOf(row, keys))
      if (rows.length < PAGE) return
      const last = keys.map(({ form }, i) => form.literal(String(rows.at(-1)![`p${i}`])))
      after = ` WHERE ${behind(names, last)}`
    }
  }
  #keyOf(row: Row, keys: readonly Field[]): TargetKey {
    const shown: Record<string, string | null> = {}
    const literals: string[] = []
    const places: string[] = []
    const values: string[] = []
    for (const [i, { column, name, form }] of keys.entries()) {
      const text = textOf(row[`k${i}`])
      shown[column.name] = text
      const value = text === null ? undefined : form.source(text)
      const literal = value === undefined ? undefined : sourceLiteral(column.source.column, value)
      if (literal !== undefined) literals.push(literal)
      values.push(value ?? '')
      places.push(`${name}=${text === null ? 'NULL' : form.literal(String(row[`p${i}`]))}`)
    }
    return {
      text: keyText(values),
      literals: literals.length === keys.length ? literals : undefined,
      shown,
      values,
      id: places.join(' AND '),
    }
  }

  async extras(
    table: TargetTable,
    candidates: readonly TargetKey[],
    rows: readonly SinkBatch[],
  ): Promise<readonly Extra[]> {
    const now = this.#now(table)
    if (now === undefined || candidates.length === 0) return []
    const session = await this.#open()
    const numbered = rows.filter((batch) => batch.indexes().length > 0)
    const { keys, columns, temporary, bound } = now
    const extra = new Map<string, Values>()
    const byText = new Map(candidates.map((key) => [key.text + JSON.stringify(key.shown), key]))
    // The temporary table numbers its rows: those of one batch at a time.
    for (const [n, batch] of (numbered.length === 0 ? [undefined] : numbered).entries()) {
      if (batch === undefined) await session.run(`TRUNCATE TABLE ${temporary}`)
      else await this.#fill(session, now, [batch], [])
      const shown = columns.map(({ form, name }, i) => `${form.show(`t.${name}`)} AS t${i}`)
      const keyed = keys.map(
        ({ form, name }, i) =>
          `${form.whole(`t.${name}`)} AS k${i}, ${form.place(`t.${name}`)} AS p${i}`,
      )
      const same = keys.map((key) => alike(key)).join(' AND ')
      const left = new Map<string, Values>()
      for (let i = 0; i < candidates.length; i += PAGE / 4) {
        const wanted = candidates.slice(i, i + PAGE / 4).map(({ id }) => `(${id})`)
        const { rows: found } = await session.run(
          `SELECT ${[...keyed, ...shown].join(', ')} FROM ${bound.id} AS t WHERE (${wanted.join(' OR ')})
           AND NOT EXISTS (SELECT 1 FROM ${temporary} AS u WHERE ${same})`,
        )
        for (const row of found) {
          const { text, shown: of } = this.#keyOf(row, keys)
          const values = columns.map(({ column }, c) => [column.name, textOf(row[`t${c}`])])
          left.set(text + JSON.stringify(of), Object.fromEntries(values) as Values)
        }
      }
      if (n === 0) for (const [text, found] of left) extra.set(text, found)
      else for (const text of extra.keys()) if (!left.has(text)) extra.delete(text)
    }
    return [...extra].flatMap(([text, found]): Extra[] => {
      const key = byText.get(text)
      return key === undefined ? [] : [{ key, found }]
    })
  }

  async close(): Promise<void> {
    await this.#session?.close()
  }
}

/** The columns of the source that the key of the target is. */
function sourceKey({ keys, database, name }: TargetTable): readonly Column[] | { why: string } {
  if (keys.length === 0) return { why: `${database}.${name} has no primary key in the target` }
  const made = keys.find(({ column, derived }) => column === undefined || derived !== undefined)
  if (made === undefined) return keys.map(({ column }) => column!)
  return {
    why: `key column ${made.name} is made by the mapping: nothing leads from a row of the target to the source`,
  }
}

/** The number of a row in its batch, as a column of the temporary table. */
const ordinal: BoundColumn = {
  name: ORDINAL,
  type: 'integer',
  source: {
    name: ORDINAL,
    index: -1,
    key: false,
    column: undefined,
    derived: { state: () => PRESENT, text: (row) => String(row.index), changed: () => true },
  },
}
const alike = ({ form, name }: Field): string => form.same(`t.${name}`, `u.${name}`)
const joined = (keys: readonly Field[]): string =>
  keys.map(({ name }) => `t.${name}=u.${name}`).join(' AND ')
/** Drivers were told to give texts. */
const textOf = (value: unknown): string | null =>
  value === null || typeof value === 'string' ? value : String(value as number)
const isTrue = (value: unknown): boolean => value === true || String(value) === '1' || value === 't'

function plainMissing(batch: SinkBatch): Unlike[] {
  const missing: Unlike[] = []
  for (const row of batch.rows(false))
    missing.push({ index: row.index, kind: 'missing', expected: plainValues(row) })
  return missing
}
const plainValues = (row: SinkRow): Values =>
  Object.fromEntries(row.table.columns.map((c) => [c.name, row.string(AFTER, c) ?? null]))
