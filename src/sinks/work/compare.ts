/**
 * What a changed configuration of a sink would make of changes that are there, beside what the present one makes of them: row by
 * row, as the target would get them, before the target's own form. Writes nothing.
 */
import { AFTER, BEFORE, type Filter, type RowsChange, type Transaction } from '../../change.ts'
import { compileFilter } from '../../filter.ts'
import { Out } from '../../out.ts'
import type { SinkConfig } from '../runner/options.ts'
import { rowChanges, SinkBatch } from '../shape/batch.ts'
import { JsonObjectWriter } from '../shape/json.ts'
import { compileMapping } from '../shape/mapping.ts'
import { perTable } from '../sink.ts'
import { VERSION_MAX } from '../shape/version.ts'
import { NOWHERE } from './writer.ts'

/** One row as a target gets it. */
export interface Shown {
  readonly op: string
  readonly table: string // in the target
  readonly key: string
  readonly row: string // JSON; of a delete its key only
}
export interface Difference {
  readonly id: string // of the change, as in sinks
  readonly was: Shown | null // null: not written
  readonly now: Shown | null
}
export interface TableDifference {
  readonly table: string // of the source
  was: number // writes
  now: number
  different: number
  readonly first: Difference[]
}

export class Comparison {
  readonly tables = new Map<string, TableDifference>()
  readonly #was: Side
  readonly #now: Side
  readonly #most: number

  /** `most`: differences that are kept of each table. */
  constructor(was: SinkConfig, now: SinkConfig, most: number) {
    this.#was = new Side(was)
    this.#now = new Side(now)
    this.#most = most
  }
  /** Throws ROWS_MALFORMED, CONFIG_INVALID for a mapping that does not fit. */
  take(tx: Transaction, filter: Filter): void {
    for (const change of rowChanges(tx.changes)) {
      if (!filter(change.table.database, change.table.name)) continue
      const was = this.#was.rows(tx, change)
      const now = this.#now.rows(tx, change)
      if (was.length > 0 || now.length > 0) this.#compare(change, was, now)
    }
  }
  #compare({ table }: RowsChange, was: readonly Named[], now: readonly Named[]): void {
    const name = `${table.database}.${table.name}`
    let found = this.tables.get(name)
    if (found === undefined) {
      found = { table: name, was: 0, now: 0, different: 0, first: [] }
      this.tables.set(name, found)
    }
    found.was += was.length
    found.now += now.length
    for (let i = 0; i < Math.max(was.length, now.length); i++) {
      const [a, b] = [was[i], now[i]]
      if (a !== undefined && b !== undefined && same(a.shown, b.shown)) continue
      found.different++
      if (found.first.length >= this.#most) continue
      const id = (a ?? b)!.id
      found.first.push({ id, was: a?.shown ?? null, now: b?.shown ?? null })
    }
  }
}
interface Named {
  readonly id: string
  readonly shown: Shown
}
const same = (a: Shown, b: Shown): boolean =>
  a.row === b.row && a.key === b.key && a.table === b.table && a.op === b.op

class Side {
  readonly #target
  readonly #wanted
  readonly #writer = perTable((table) => new JsonObjectWriter(table))
  readonly #keys = perTable((table) => new JsonObjectWriter(table, {}, table.keys))
  readonly #out = new Out(1024)
  constructor({ tables, filter: { include, exclude } }: SinkConfig) {
    this.#target = compileMapping(tables, 'sink')
    this.#wanted = compileFilter({ include, exclude })
  }
  rows(tx: Transaction, change: RowsChange): Named[] {
    const { database, name } = change.table
    if (!this.#wanted(database, name)) return []
    const batch = new SinkBatch({
      slices: [{ tx, changes: [change] }],
      start: NOWHERE,
      end: NOWHERE,
      highest: VERSION_MAX,
      redelivered: false,
      target: this.#target,
    })
    const rows: Named[] = []
    for (const row of batch.rows(true)) {
      const gone = row.op === 'delete'
      const { table } = row
      const text = (writer: JsonObjectWriter): string => {
        this.#out.reset()
        writer.write(row, gone ? BEFORE : AFTER, this.#out)
        return this.#out.buf.toString('utf8', 0, this.#out.at)
      }
      const key = text(this.#keys(table))
      const shown = {
        op: row.op,
        table: `${table.database}.${table.name}`,
        key,
        row: gone ? key : text(this.#writer(table)),
      }
      rows.push({ id: row.id, shown })
    }
    return rows
  }
}
