/**
 * A row as a sink sees it: which write it is, its columns after the sink's mapping, its version and its names. One
 * object, moved from row to row by the batch: whoever needs something of a row takes it before asking for the next.
 * Nothing is decoded before it is asked for. Knows no target and no format.
 */
import {
  AFTER,
  BEFORE,
  NULL,
  PRESENT,
  type Column,
  type ImageSide,
  type RowReader,
  type RowsChange,
  type Table,
  type Transaction,
  type Value,
  type ValueState,
} from '../../change.ts'
import { Out } from '../../out.ts'
import { transactionId, versionHead, versionPart } from './version.ts'
import { fileNumber } from '../../change.ts'

/** A value that the mapping makes: of a constant, of other columns, or of its own column, hidden. */
export interface Derived {
  state(row: SinkRow, side: ImageSide): ValueState
  /** Only where `state` is PRESENT: the value in Canal's form. */
  text(row: SinkRow, side: ImageSide): string
  changed(row: SinkRow): boolean
}
/** One column as the target gets it. */
export interface TargetColumn {
  readonly name: string // in the target
  readonly index: number // in TargetTable.columns
  readonly key: boolean
  readonly column: Column | undefined // in the log; undefined: the mapping makes it out of nothing
  readonly derived: Derived | undefined // undefined: the value as it is in the log
}
/** One version of a source table with the sink's mapping, compiled once: sinks keep what they compile of it in a WeakMap. */
export interface TargetTable {
  readonly source: Table
  readonly database: string // in the source
  readonly name: string
  readonly columns: readonly TargetColumn[]
  /** Those that tell rows apart: the primary key, or what the mapping names. Empty: rows have no identity. */
  readonly keys: readonly TargetColumn[]
}

/** The table as it is in the log. */
export function plainTarget(source: Table): TargetTable {
  const columns = source.selected.map((column, index): TargetColumn => ({
    name: column.name,
    index,
    key: column.key,
    column,
    derived: undefined,
  }))
  const keys = columns.filter((column) => column.key)
  return { source, database: source.database, name: source.name, columns, keys }
}

const scratch = new Out(256)

export class SinkRow {
  table!: TargetTable
  tx!: Transaction
  change!: RowsChange
  /** In the batch, counted in rows of the log: what RowFailure names. */
  index = 0
  /** In its rows event. */
  row = 0
  op: 'insert' | 'update' | 'delete' = 'insert'
  /** An update of the primary key: as it is (op update), or the delete or the insert it was split into. */
  keyChanged = false
  reader!: RowReader
  #head = '' // of the event it belongs to
  #headOf: RowsChange | undefined

  /** The image that says what the row is now (insert, update) or was (delete). */
  get side(): ImageSide {
    return this.op === 'delete' ? BEFORE : AFTER
  }
  /** Fixed-width text, 40 digits (version.ts). */
  get version(): string {
    const { tx, change, row } = this
    if (this.#headOf !== change) {
      this.#headOf = change
      this.#head =
        versionHead(tx.epoch, fileNumber(tx.file), tx.offset) + versionPart(change.ordinal)
    }
    return this.#head + versionPart(row)
  }
  /** Stable over restarts and readers: "uuid:17/3.0" (transaction / ordinal . row). */
  get id(): string {
    return `${transactionId(this.tx)}/${this.change.ordinal}.${this.row}`
  }

  state(side: ImageSide, { column, derived }: TargetColumn): ValueState {
    if (derived !== undefined) return derived.state(this, side)
    return this.reader.state(side, column!.index)
  }
  /** Only where `state` is PRESENT: Canal's text, UTF-8. */
  text(side: ImageSide, { column, derived }: TargetColumn, out: Out): void {
    if (derived === undefined) this.reader.text(side, column!.index, out)
    else out.utf8(derived.text(this, side))
  }
  /** As `text`, but a TIMESTAMP of the log in UTC, whatever the instance's `timezone`. */
  utc(side: ImageSide, { column, derived }: TargetColumn, out: Out): void {
    if (derived === undefined) this.reader.utc(side, column!.index, out)
    else out.utf8(derived.text(this, side))
  }
  /** Canal's text as a string; null for NULL, undefined for an absent column. Slower than `text`. */
  string(side: ImageSide, target: TargetColumn): string | null | undefined {
    const state = this.state(side, target)
    if (state === PRESENT) {
      if (target.derived !== undefined) return target.derived.text(this, side)
      scratch.reset()
      this.reader.text(side, target.column!.index, scratch)
      return scratch.buf.toString('utf8', 0, scratch.at)
    }
    return state === NULL ? null : undefined
  }
  /** The JS value (change.ts); null for NULL, undefined for an absent column. */
  value(side: ImageSide, target: TargetColumn): Value | undefined {
    if (target.derived !== undefined) return this.string(side, target)
    return this.reader.value(side, target.column!.index)
  }
  /** Whether after differs from before; a column without a before image has changed. */
  changed({ column, derived }: TargetColumn): boolean {
    if (derived === undefined) return this.reader.changed(column!.index)
    return derived.changed(this)
  }
  /** Whether every column of the log that the target gets is in the image of `side`. */
  whole(side: ImageSide): boolean {
    for (const { column } of this.table.columns) {
      if (column !== undefined && this.reader.state(side, column.index) === 0) return false
    }
    return true
  }
}
