/**
 * Changes of rows that are not in the log as rows, for a sink whose target is to equal the source: statements that rewrite
 * tables, and rows that InnoDB changes by itself because of a foreign key (servers before 9 do not log these). Finds them
 * and says what they are; what follows is the runner's decision.
 */
import type { Change, Filter, QueryChange, RowsChange, Table } from '../../change.ts'
import { rewriteOf } from '../../catalog/ddl/rewrites.ts'
import type { Sink, SinkContext } from '../sink.ts'

/** What happens to the rows of other tables when a row of one goes, or its key changes. */
export interface Cascade {
  readonly parent: string // database.table
  readonly child: string
  readonly onDelete: boolean
  readonly onUpdate: boolean
  readonly columns: readonly string[] // of the parent, in lower case
  readonly rule: string // "CASCADE", "SET NULL"
}

const ACTS = new Set(['CASCADE', 'SET NULL', 'SET DEFAULT'])

/** The foreign keys by which InnoDB changes rows itself; none where the server does it above InnoDB, and logs it. */
export async function readCascades(query: SinkContext['query']): Promise<Cascade[]> {
  const [native] = await query<{ Value: string }>(
    "SHOW GLOBAL VARIABLES LIKE 'innodb_native_foreign_keys'",
  )
  if (native?.Value === 'OFF') return []
  const rows = await query<
    Record<'cs' | 'name' | 'ps' | 'parent' | 'child' | 'del' | 'upd', string>
  >(
    `SELECT CONSTRAINT_SCHEMA AS cs, CONSTRAINT_NAME AS name, UNIQUE_CONSTRAINT_SCHEMA AS ps,
       REFERENCED_TABLE_NAME AS parent, TABLE_NAME AS child, DELETE_RULE AS del, UPDATE_RULE AS upd
       FROM information_schema.REFERENTIAL_CONSTRAINTS`,
  )
  const acting = rows.filter((r) => ACTS.has(r.del) || ACTS.has(r.upd))
  const columns = acting.length === 0 ? new Map<string, string[]>() : await referenced(query)
  return acting.map((r) => ({
    parent: `${r.ps}.${r.parent}`,
    child: `${r.cs}.${r.child}`,
    onDelete: ACTS.has(r.del),
    onUpdate: ACTS.has(r.upd),
    columns: columns.get(`${r.cs}.${r.name}`) ?? [],
    rule: ACTS.has(r.del) ? r.del : r.upd,
  }))
}
/** By constraint, the columns of the parent in lower case. One question for all: information_schema can be slow. */
async function referenced(query: SinkContext['query']): Promise<Map<string, string[]>> {
  const rows = await query<Record<'cs' | 'name' | 'col', string>>(
    `SELECT CONSTRAINT_SCHEMA AS cs, CONSTRAINT_NAME AS name, REFERENCED_COLUMN_NAME AS col
       FROM information_schema.KEY_COLUMN_USAGE WHERE REFERENCED_COLUMN_NAME IS NOT NULL`,
  )
  const found = new Map<string, string[]>()
  for (const { cs, name, col } of rows) {
    const key = `${cs}.${name}`
    found.set(key, [...(found.get(key) ?? []), col.toLowerCase()])
  }
  return found
}

/** Rows that have changed beside the log. */
export interface UnloggedChange {
  readonly what: string // "TRUNCATE TABLE on shop.items"
  readonly tables: readonly (readonly [database: string, table: string])[] // those that the sink gets
  readonly gone: boolean // whether rows may have gone
}

type SinkPart = Pick<Sink, 'clears' | 'alters' | 'statement'>

export class Unlogged {
  readonly #sink: SinkPart
  readonly #query: SinkContext['query']
  readonly #filter: Filter
  #cascades = new Map<string, Cascade[]>() // by parent, in lower case
  #tables = new WeakMap<Table, readonly Cascade[]>()

  constructor(sink: SinkPart, query: SinkContext['query'], filter: Filter) {
    this.#sink = sink
    this.#query = query
    this.#filter = filter
  }

  /** Asks the source for its foreign keys. Throws as a query does. */
  async load(): Promise<void> {
    const found = new Map<string, Cascade[]>()
    for (const cascade of await readCascades(this.#query)) {
      const [database = '', table = ''] = cascade.child.split('.')
      if (!this.#filter(database, table)) continue
      const key = cascade.parent.toLowerCase()
      found.set(key, [...(found.get(key) ?? []), cascade])
    }
    this.#cascades = found
    this.#tables = new WeakMap()
  }
  /** Whether a statement may have changed the foreign keys. */
  changesKeys(change: QueryChange): boolean {
    return change.kind === 'ddl' && /\b(references|foreign|rename|drop)\b/i.test(change.sql)
  }

  /** What a statement does to rows beside the log, and the sink does not do in its target; undefined: nothing. */
  statement(change: QueryChange): UnloggedChange | undefined {
    const rewrite = rewriteOf(change)
    if (rewrite === undefined) return undefined
    if (this.#sink.statement !== undefined) {
      if (rewrite.kind === 'truncate' && this.#sink.clears === true) return undefined
      if (rewrite.kind === 'alter' && this.#sink.alters === true) return undefined
    }
    const name = change.table === '' ? '' : ` on ${change.database}.${change.table}`
    const tables = change.tables.flatMap(({ database, table }) =>
      table !== '' && this.#filter(database, table) ? [[database, table] as const] : [],
    )
    return { what: `${rewrite.what}${name}`, tables, gone: rewrite.kind !== 'alter' }
  }
  /** Whether rows(change) is worth asking: cheap, for every change. */
  suspects(change: Change): boolean {
    if (this.#cascades.size === 0) return false
    if (change.kind !== 'delete' && change.kind !== 'update') return false
    return this.#of(change.table).length > 0
  }
  /** What a change of rows does to rows of other tables; undefined: nothing. */
  rows(change: RowsChange): UnloggedChange | undefined {
    for (const cascade of this.#of(change.table)) {
      const acts =
        change.kind === 'delete'
          ? cascade.onDelete
          : cascade.onUpdate && changesColumns(change, cascade.columns)
      if (acts) {
        const what = `foreign key ${cascade.child} → ${cascade.parent} (${cascade.rule}): its ${change.kind} changed rows of ${cascade.child}`
        return { what, ...this.#below(change.table) }
      }
    }
    return undefined
  }
  /** All tables whose rows may have changed because of rows of `table`. */
  #below({ database, name }: Table): Pick<UnloggedChange, 'tables' | 'gone'> {
    const found = new Set<string>()
    let gone = false
    const open = [`${database}.${name}`]
    for (let parent = open.pop(); parent !== undefined; parent = open.pop()) {
      for (const { child, rule } of this.#cascades.get(parent.toLowerCase()) ?? []) {
        gone ||= rule === 'CASCADE'
        if (found.has(child)) continue
        found.add(child)
        open.push(child)
      }
    }
    const tables = [...found].map((child) => {
      const at = child.indexOf('.')
      return [child.slice(0, at), child.slice(at + 1)] as const
    })
    return { tables, gone }
  }
  #of(table: Table): readonly Cascade[] {
    let found = this.#tables.get(table)
    if (found === undefined) {
      found = this.#cascades.get(`${table.database}.${table.name}`.toLowerCase()) ?? []
      this.#tables.set(table, found)
    }
    return found
  }
}

function changesColumns(change: RowsChange, names: readonly string[]): boolean {
  const columns = change.table.columns.filter((c) => names.includes(c.name.toLowerCase()))
  for (const reader = change.reader(); reader.next();)
    if (columns.some((c) => reader.changed(c.index))) return true
  return false
}
