/**
 * Which rows of the tables that are being read the stream has given out, and when: by the key's text, counted in batches.
 * A piece of a table asks it for what changed since it was read. What cannot be told by keys (DDL, statements, XA COMMIT,
 * images without the key or with holes) disturbs a whole table. Bounded: too many keys disturb everything.
 */
import {
  ABSENT,
  AFTER,
  BEFORE,
  type Column,
  type ImageSide,
  type QueryChange,
  type RowReader,
  type RowsChange,
  type Table,
} from '../change.ts'
import { Out } from '../out.ts'
import type { Batch } from '../store/cursor.ts'

const KEYS_MAX = 300_000
const KEYS_KEPT = 10_000 // fewer are not worth a look
const ALL = ''

interface Watched {
  readonly key: readonly string[] // names; none: every change disturbs
  readonly changed: Map<string, number> // key → when it changed last
  readonly columns: WeakMap<Table, readonly Column[] | 'unlike'>
}

const nameOf = (database: string, table: string): string => `${database}\0${table}`
const out = new Out(256)

/** A row's key as text; undefined where the image does not have it. A TIMESTAMP is in UTC, where no two are alike. */
export function keyText(
  reader: RowReader,
  side: ImageSide,
  columns: readonly Column[],
): string | undefined {
  out.reset()
  for (const { index } of columns) {
    const from = out.at
    const other = side === AFTER ? BEFORE : AFTER
    const there = reader.state(side, index) === ABSENT ? other : side
    if (reader.state(there, index) === ABSENT) return undefined
    reader.utc(there, index, out)
    // lengths between them, so that no two keys look the same
    out.ascii(`\u001f${out.at - from}`)
  }
  return out.buf.toString('latin1', 0, out.at)
}

export class Touched {
  /** Batches so far. */
  now = 0
  readonly #tables = new Map<string, Watched>()
  readonly #disturbed = new Map<string, number>()
  #keys = 0

  /** From now on changes of this table are written down. */
  watch(database: string, table: string, key: readonly string[]): void {
    const name = nameOf(database, table)
    const known = this.#tables.get(name)
    if (known !== undefined && known.key.join() === key.join()) return
    this.#tables.set(name, { key, changed: new Map(), columns: new WeakMap() })
    if (known !== undefined) this.#disturbed.set(name, this.now)
  }
  /** The table is read. */
  unwatch(database: string, table: string): void {
    const name = nameOf(database, table)
    this.#keys -= this.#tables.get(name)?.changed.size ?? 0
    this.#tables.delete(name)
    this.#disturbed.delete(name)
  }
  /** Nobody asks any more for what changed up to `before`. */
  forget(before: number): void {
    if (this.#keys < KEYS_KEPT) return
    for (const { changed } of this.#tables.values())
      for (const [key, at] of changed) if (at <= before && changed.delete(key)) this.#keys--
  }
  /** Nothing that was written down is asked for any more. */
  clear(): void {
    this.#tables.clear()
    this.#disturbed.clear()
    this.#keys = 0
  }

  /** When a key changed last; undefined: not since it is watched. */
  changed(database: string, table: string, key: string): number | undefined {
    return this.#tables.get(nameOf(database, table))?.changed.get(key)
  }
  /** Whether any key has changed at all. */
  any(database: string, table: string): boolean {
    return (this.#tables.get(nameOf(database, table))?.changed.size ?? 0) > 0
  }
  /** Whether a key that has changed after `since` may be another's too: its text has characters Unicode lacks. */
  vague(database: string, table: string, since: number): boolean {
    for (const [key, at] of this.#tables.get(nameOf(database, table))?.changed ?? [])
      if (at > since && key.includes('?')) return true
    return false
  }
  /** Whether something after `since` leaves open which rows have changed. */
  disturbed(database: string, table: string, since: number): boolean {
    const at = this.#disturbed.get(nameOf(database, table)) ?? 0
    return Math.max(at, this.#disturbed.get(ALL) ?? 0) > since
  }

  /** What is given out next. Throws ROWS_MALFORMED. */
  note(batch: Batch): void {
    this.now++
    if (this.#tables.size === 0) return
    for (const { tx, from, to } of batch.parts) {
      const { changes } = tx
      for (let i = from; i < to; i++) {
        const change = changes[i]!
        switch (change.kind) {
          case 'insert':
          case 'update':
          case 'delete':
            this.#rows(change)
            break
          case 'ddl':
          case 'statement':
            this.#statement(change)
            break
          case 'xaCommit':
            this.#disturbed.set(ALL, this.now) // its rows were given out when it was prepared
            break
          case 'begin':
          case 'commit':
          case 'annotation':
          case 'xaRollback':
        }
      }
    }
    if (this.#keys <= KEYS_MAX) return
    for (const { changed } of this.#tables.values()) changed.clear()
    this.#keys = 0
    this.#disturbed.set(ALL, this.now)
  }
  #statement({ tables }: QueryChange): void {
    for (const { database, table } of tables)
      this.#disturbed.set(table === '' ? ALL : nameOf(database, table), this.now)
    if (tables.length === 0) this.#disturbed.set(ALL, this.now)
  }
  #rows(change: RowsChange): void {
    const { table } = change
    const name = nameOf(table.database, table.name)
    const watched = this.#tables.get(name)
    if (watched === undefined) return
    const columns = columnsOf(watched, table)
    if (columns === 'unlike') {
      this.#disturbed.set(name, this.now)
      return
    }
    const { kind } = change
    const { changed } = watched
    let whole = true
    for (const reader = change.reader(); reader.next();) {
      if (kind !== 'insert') whole = this.#key(changed, keyText(reader, BEFORE, columns)) && whole
      if (kind === 'delete') continue
      whole = this.#key(changed, keyText(reader, AFTER, columns)) && whole
      for (const { index } of table.columns)
        if (reader.state(AFTER, index) === ABSENT) whole = false
    }
    // Who gets such a row and not ours, for its key has changed, would have a part of it only.
    if (!whole) this.#disturbed.set(name, this.now)
  }
  #key(changed: Map<string, number>, key: string | undefined): boolean {
    if (key === undefined) return false
    const { size } = changed
    changed.set(key, this.now)
    this.#keys += changed.size - size
    return true
  }
}

function columnsOf(watched: Watched, table: Table): readonly Column[] | 'unlike' {
  let columns = watched.columns.get(table)
  if (columns === undefined) {
    const found = watched.key.flatMap((name) => table.columns.find((c) => c.name === name) ?? [])
    columns = found.length === watched.key.length && found.length > 0 ? found : 'unlike'
    watched.columns.set(table, columns)
  }
  return columns
}
