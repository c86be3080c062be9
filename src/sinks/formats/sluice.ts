/**
 * Rows for workers (sinks/work/): everything a sink can ask of a row, so that a worker makes the very write that the sink
 * would have made beside the log. One JSON object per row, in two lines, so that a reader need not parse a table again:
 *
 *   {"v":1,"instance":"shop","tx":{…},"kind":"update","ordinal":3,"row":0,…,"before":[…],"after":[…],"changed":[1],
 *   "table":{"database":"shop","name":"users","columns":[…],"selected":[0,1]}}
 *
 * The key is ["shop.users","1"]. An update of the primary key comes twice, to the old key with "half":"delete" and to the
 * new one with "half":"insert", each with the whole update: what becomes of it depends on the worker's own keys. Columns
 * that the instance's filter leaves out have no values. What is the same in all of this and in its reader is in
 * shape/stored.ts. There are no messages for statements.
 */
import { SluiceError } from '../../errors.ts'
import { ABSENT, AFTER, BEFORE, type Column, type ImageSide, type Table } from '../../change.ts'
import type { Out } from '../../out.ts'
import type { SinkRow, TargetColumn, TargetTable } from '../shape/row.ts'
import {
  rowFromPart,
  storedPart,
  storedTable,
  tableFrom,
  type StoredPart,
  type StoredRow,
  type StoredTable,
} from '../shape/stored.ts'
import { fixed, type Encoder, type Format, type RowEncoder } from './format.ts'

export const sluice: Format = {
  name: 'sluice',
  summary: 'Rows with all that Sluice knows of them, for `sluice work`',
  contentType: 'application/json',
  splitsKeys: true,
  mirrors: true,
  open: ({ instance }) => new SluiceEncoder(instance),
}

interface Head extends StoredPart {
  readonly v: 1
  readonly instance: string
}

class SluiceEncoder implements Encoder {
  readonly #instance: string
  constructor(instance: string) {
    this.#instance = instance
  }
  start(): void {
    // nothing changes from write to write
  }
  table(table: TargetTable): RowEncoder {
    return new SluiceTable(table, this.#instance)
  }
  statement(): boolean {
    return false
  }
}

class SluiceTable implements RowEncoder {
  readonly unit = 'row'
  readonly key: RowEncoder['key']
  readonly #instance: string
  readonly #columns: readonly Column[]
  readonly #tail
  constructor(table: TargetTable, instance: string) {
    requirePlain(table)
    const { source, keys } = table
    this.#instance = instance
    this.#columns = source.selected
    this.#tail = fixed(`\n"table":${JSON.stringify(storedTable(source))}}`)
    const name = `${source.database}.${source.name}`
    const key = (row: SinkRow, side: ImageSide, out: Out): void =>
      out.utf8(JSON.stringify([name, ...keys.map((c) => keyValue(row, side, c))]))
    this.key = keys.length > 0 ? key : undefined
  }
  value(row: SinkRow, out: Out): void {
    const head: Head = {
      v: 1,
      instance: this.#instance,
      ...storedPart(row, this.#columns),
      ...(row.keyChanged && row.op !== 'update' && { half: row.op }),
    }
    out.utf8(`${JSON.stringify(head).slice(0, -1)},`)
    out.constant(this.#tail)
  }
}

/** From the other image where the log left it out of this one. */
function keyValue(row: SinkRow, side: ImageSide, column: TargetColumn): string | null {
  const from = row.state(side, column) === ABSENT ? (side === AFTER ? BEFORE : AFTER) : side
  return row.string(from, column) ?? null
}

/** What the mapping makes of a row would be lost, or a column it hides would not: that is for the worker's sink to do. */
function requirePlain({ source, columns, database, name }: TargetTable): void {
  const plain =
    columns.length === source.selected.length &&
    columns.every((c, i) => c.derived === undefined && c.name === source.selected[i]!.name)
  if (plain) return
  throw new SluiceError(
    'SINK_UNSUITABLE',
    `format sluice writes ${database}.${name} as it is in the log: expected no rule of the sink's tables that changes its columns; ` +
      `put it into the worker's sink, or leave columns out with filter.columns of the instance`,
  )
}

// ── reading ──────────────────────────────────────────────────────────────────

export interface ReadRow extends StoredRow {
  readonly instance: string
}

const TABLES_MAX = 10_000

/** Reads what the format wrote. Tables are the same objects as long as they are the same. */
export class RowReading {
  readonly #tables = new Map<string, Table>()

  /** Throws an Error that says what is wrong with the text. */
  read(text: string): ReadRow {
    const line = text.indexOf('\n')
    const tail = text.slice(line + 1)
    if (line < 0 || !tail.startsWith('"table":') || !text.startsWith('{"v":'))
      throw new Error(`expected a message of format sluice, got ${JSON.stringify(start(text))}`)
    const { v, instance, ...part } = JSON.parse(`${text.slice(0, line - 1)}}`) as Head
    if (v !== 1) throw new Error(`expected version 1 of format sluice, got ${String(v)}`)
    return { ...rowFromPart(part, this.#table(tail)), instance }
  }
  #table(tail: string): Table {
    const known = this.#tables.get(tail)
    if (known !== undefined) return known
    if (this.#tables.size >= TABLES_MAX) this.#tables.clear()
    const { table } = JSON.parse(`{${tail}`) as { readonly table: StoredTable }
    const made = tableFrom(table)
    this.#tables.set(Buffer.from(tail).toString(), made) // a text of its own, not a part of the message
    return made
  }
}

const start = (text: string): string => text.slice(0, 40)
