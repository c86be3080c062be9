/**
 * Which rows of the tables that are being read the stream has given out, and when: by the key's text, counted in batches.
 * A piece of a table asks it for what changed since it was read. What cannot be told by keys (DDL, statements, XA COMMIT
 * of what was not seen before, images without the key or with holes) disturbs a whole table. Bounded: too many keys disturb everything.
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
import { classify } from '../catalog/ddl/classify.ts'
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

/** Keys of an XA transaction's rows that wait for its COMMIT, by table; undefined: any of the table. */
type Held = Map<string, { readonly watched: Watched; readonly keys: Set<string> } | undefined>

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
  /** By xid: of those that were seen from their beginning. */
  readonly #held = new Map<string, Held>()
  #heldKeys = 0
  #xa: { readonly place: string; readonly xid: string } | undefined // of the part that came last
  readonly #holds: boolean

  /** `holds`: who is given the rows of an XA transaction takes them for changes at its COMMIT only, as sinks do. */
  constructor(holds = false) {
    this.#holds = holds
  }

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
    this.#letGo()
  }
  #letGo(): void {
    this.#held.clear()
    this.#heldKeys = 0
    this.#xa = undefined
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
    if (this.#tables.size === 0) {
      this.#letGo() // what is not seen as a whole is not known
      return
    }
    for (const { tx, from, to } of batch.parts) {
      const { changes } = tx
      const place = `${tx.epoch}:${tx.file}:${tx.offset}`
      if (this.#xa?.place !== place) this.#xa = undefined
      for (let i = from; i < to; i++) {
        const change = changes[i]!
        switch (change.kind) {
          case 'insert':
          case 'update':
          case 'delete':
            this.#rows(change, this.#xa && this.#held.get(this.#xa.xid))
            break
          case 'ddl':
          case 'statement':
            this.#statement(change)
            break
          case 'xaCommit':
            this.#commit(classify(change.sql, '').xid)
            break
          case 'xaRollback':
            this.#forgetXa(classify(change.sql, '').xid)
            break
          case 'begin':
            if (change.xid === '') break
            this.#forgetXa(change.xid)
            this.#xa = { place, xid: change.xid }
            this.#held.set(change.xid, new Map())
            break
          case 'commit':
          case 'annotation':
        }
      }
      // in one phase
      if (this.#xa !== undefined && tx.state === 'committed') this.#commit(this.#xa.xid)
    }
    if (this.#heldKeys > KEYS_MAX || this.#held.size > KEYS_KEPT) this.#letGo()
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
  /** Rows that were given out when their XA transaction was prepared are now those of the table. */
  #commit(xid: string): void {
    const held = this.#held.get(xid)
    if (held === undefined) {
      this.#disturbed.set(ALL, this.now) // begun before anything was watched
      return
    }
    this.#forgetXa(xid)
    for (const [name, one] of held) {
      const watched = this.#tables.get(name)
      if (watched === undefined) continue
      if (one?.watched !== watched) this.#disturbed.set(name, this.now)
      else for (const key of one.keys) this.#key(watched.changed, key)
    }
  }
  #forgetXa(xid: string): void {
    for (const one of this.#held.get(xid)?.values() ?? []) this.#heldKeys -= one?.keys.size ?? 0
    this.#held.delete(xid)
    if (this.#xa?.xid === xid) this.#xa = undefined
  }
  #rows(change: RowsChange, held: Held | undefined): void {
    const { table } = change
    const name = nameOf(table.database, table.name)
    const watched = this.#tables.get(name)
    if (watched === undefined) {
      this.#anyOf(held, name)
      return
    }
    const columns = columnsOf(watched, table)
    if (columns === 'unlike') {
      this.#anyOf(held, name)
      this.#disturbed.set(name, this.now)
      return
    }
    const { kind } = change
    const changed = this.#holds && held !== undefined ? undefined : watched.changed
    const keys = held && this.#keysOf(held, name, watched)
    const note = (side: ImageSide, reader: RowReader): boolean => {
      const key = keyText(reader, side, columns)
      if (key === undefined) return false
      if (changed !== undefined) this.#key(changed, key)
      if (keys === undefined || keys.has(key)) return true
      keys.add(key)
      this.#heldKeys++
      return true
    }
    let whole = true
    for (const reader = change.reader(); reader.next();) {
      if (kind !== 'insert') whole = note(BEFORE, reader) && whole
      if (kind === 'delete') continue
      whole = note(AFTER, reader) && whole
      for (const { index } of table.columns)
        if (reader.state(AFTER, index) === ABSENT) whole = false
    }
    // Who gets such a row and not ours, for its key has changed, would have a part of it only.
    if (whole) return
    this.#disturbed.set(name, this.now)
    this.#anyOf(held, name)
  }
  #anyOf(held: Held | undefined, name: string): void {
    this.#heldKeys -= held?.get(name)?.keys.size ?? 0
    held?.set(name, undefined)
  }
  /** Where keys of a table are written down; undefined where that is of no use any more. */
  #keysOf(held: Held, name: string, watched: Watched): Set<string> | undefined {
    if (!held.has(name)) held.set(name, { watched, keys: new Set() })
    const one = held.get(name)
    if (one?.watched === watched) return one.keys
    this.#anyOf(held, name)
    return undefined
  }
  #key(changed: Map<string, number>, key: string): void {
    const { size } = changed
    changed.set(key, this.now)
    this.#keys += changed.size - size
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
