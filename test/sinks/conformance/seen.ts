/**
 * Destinations that get changes, one after the other: what they were given, in the order they got it, and what follows from
 * it: the tables that somebody would have who applied all of it, and whether the order and the number are right.
 */
import { parseExact, rowFromJson, type Exact, type Row, type TableSpec } from './tables.ts'

export interface Seen {
  readonly table: string
  readonly op: 'insert' | 'update' | 'delete'
  readonly id: string // of the change
  readonly version: string
  readonly key: string
  /** The key before, where an update changed it. */
  readonly oldKey: string | undefined
  readonly row: Row | undefined // after; none for a delete
}

/** A change in the plain form (src/sinks/shape/plain.ts); undefined for a statement and for other tables. */
export function seenOf(line: string, tables: readonly TableSpec[]): Seen | undefined {
  return seenOfValue(parseExact(line), tables)
}
export function seenOfValue(value: Exact, tables: readonly TableSpec[]): Seen | undefined {
  const change = value as Record<string, Exact>
  const table = tables.find(({ name }) => name === change['table'])
  if (change['kind'] !== 'row' || !table) return undefined
  const image = (side: string): Row | undefined =>
    change[side] === null ? undefined : rowFromJson(table, change[side]!)
  const before = image('before')
  const after = image('after')
  const key = (after ?? before)!['id']!
  const oldKey = after && before && before['id'] !== key ? before['id']! : undefined
  return {
    table: table.name,
    op: change['op'] as Seen['op'],
    id: change['id'] as string,
    version: change['version'] as string,
    key,
    oldKey,
    row: after,
  }
}

/** The rows of one table after all of them. */
export function apply(changes: readonly Seen[], table: TableSpec): Map<string, Row> {
  const rows = new Map<string, Row>()
  for (const { table: name, key, oldKey, row } of changes) {
    if (name !== table.name) continue
    if (oldKey !== undefined) rows.delete(oldKey)
    if (row) rows.set(key, row)
    else rows.delete(key)
  }
  return rows
}

/**
 * What is wrong with the order: a change that was never seen must be newer than all of its key before it; a known one may
 * come again, and then everything of its key after it comes again too.
 */
export function disorder(changes: readonly Seen[]): string[] {
  const known = new Map<string, { versions: string[]; at: number }>()
  const faults: string[] = []
  for (const { table, key, version, id } of changes) {
    const name = `${table}/${key}`
    let state = known.get(name)
    if (!state) known.set(name, (state = { versions: [], at: 0 }))
    const { versions, at } = state
    const again = versions.indexOf(version)
    if (again >= 0) state.at = again + 1
    else if (version < (versions.at(-1) ?? ''))
      faults.push(`${name}: ${id} is older than what came before`)
    else if (at < versions.length)
      faults.push(`${name}: ${id} came before all that was to come again`)
    else {
      versions.push(version)
      state.at = versions.length
    }
  }
  return faults
}

/** How many changes there are, each counted once. */
export const distinct = (changes: readonly Seen[]): number =>
  new Set(changes.map(({ id }) => id)).size
