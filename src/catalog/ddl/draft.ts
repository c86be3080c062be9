/**
 * A table in the making: the columns and keys it had, the clauses of one statement that change them, and what comes out.
 * Clauses name columns as they were, AFTER names them as they are becoming (mysql_prepare_alter_table in
 * sql/sql_table.cc). Pure. What it cannot follow throws NotUnderstood.
 */
import { BINARY } from '../../binlog/charset.ts'
import type { CapturedColumn, Definition, Key } from '../definition.ts'
import { columnOf, lostMembers, type ColumnDraft } from './columns.ts'
import {
  binOf,
  charsetOfId,
  maxBytes,
  NotUnderstood,
  type Defaults,
  type Dialect,
} from './dialect.ts'
import { capacityOf, textFor } from './types.ts'

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

export class Draft {
  collation: number
  readonly defaults: Defaults
  readonly #before: readonly CapturedColumn[]
  #keys: KeptKey[]
  collated = false // whether a table option has said COLLATE
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
    const keys = this.#keys.map(plainKey)
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
    // its size may be its own, or what it grows to
    if (!kept && capacityOf(column.base) > 0)
      throw new NotUnderstood('CONVERT of a text that is defined anew')
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

/** Whether the bytes of members are the same in both sets. */
function sameBytes({ members = [] }: CapturedColumn, before: string, after: string): boolean {
  if (before === after) return true
  if (WIDE.has(before) || WIDE.has(after)) return false
  const utf8 = before.startsWith('utf8') && after.startsWith('utf8')
  return members.every((m) => !(utf8 ? /[^\0-\uffff]/u : /[^ -~]/).test(m))
}

const plainKey = ({ name, primary, unique, columns, whole }: KeptKey): Key => ({
  name,
  primary,
  unique,
  columns,
  whole,
})

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
  if (column.members && (lostMembers(column) || !sameBytes(column, before, after)))
    throw new NotUnderstood('CONVERT of members')
  return columnOf({ name, mysqlType, collation, nullable, invisible }, dialect)
}
