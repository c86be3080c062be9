/**
 * Changes as plain objects for JSON: what `sluice tail --json` prints and the live tail of the API sends. Big integers are
 * text, bytes base64 in {"base64": …}; an absent column is left out. Pure.
 */
import { eventSeconds } from './change.ts'
import type { Change, Column, Row, RowsChange, Transaction, Value } from './change.ts'

export function isRows(change: Change): change is RowsChange {
  return change.kind === 'insert' || change.kind === 'update' || change.kind === 'delete'
}
const gtidText = (tx: Transaction): string | undefined => tx.gtid && `${tx.gtid.sid}:${tx.gtid.gno}`
/** When the event was written, by the source. */
export const isoTime = (change: Change): string =>
  new Date(eventSeconds(change.event) * 1000).toISOString()

/** A value for JSON. */
export function jsonValue(value: Value): unknown {
  if (typeof value === 'bigint') return value.toString()
  if (value instanceof Uint8Array) return { base64: Buffer.from(value).toString('base64') }
  if (typeof value === 'number' && !Number.isFinite(value)) return String(value)
  if (typeof value === 'object' && value !== null) return { jsonDiff: value.text }
  return value
}
function jsonImage(
  columns: readonly Column[],
  image: Row['after'],
): Record<string, unknown> | undefined {
  if (!image) return undefined
  const object: Record<string, unknown> = {}
  for (const column of columns) {
    const value = image[column.index]
    if (value !== undefined) object[column.name] = jsonValue(value)
  }
  return object
}
const jsonHead = (tx: Transaction, change: Change): object => ({
  time: isoTime(change),
  position: `${tx.file}:${change.event.offset}`,
  gtid: gtidText(tx),
})
/** One row. */
export function jsonRow(tx: Transaction, change: RowsChange, { before, after }: Row): object {
  return {
    kind: change.kind,
    database: change.table.database,
    table: change.table.name,
    ...jsonHead(tx, change),
    before: jsonImage(change.table.selected, before),
    after: jsonImage(change.table.selected, after),
  }
}
/** One statement; undefined for what only begins, ends or comments. */
export function jsonStatement(
  tx: Transaction,
  change: Exclude<Change, RowsChange>,
): object | undefined {
  if (!('sql' in change) || change.kind === 'annotation') return undefined
  const { kind, type, database, table, sql } = change
  return { kind, type, database, table, ...jsonHead(tx, change), sql }
}
