/**
 * What verification asks of a target: whether a table's rows can be compared there, which of some rows are not what the sink
 * would have written, which keys there are, and which of them are no row's. One implementation for each kind of sink, in
 * targets/.
 */
import type { Column } from '../change.ts'
import type { SinkBatch } from '../sinks/shape/batch.ts'
import type { TargetTable } from '../sinks/shape/row.ts'
import type { KeyLiterals } from './source.ts'

/** Name in the target → its value as text; null: NULL. */
export type Values = Readonly<Record<string, string | null>>

/** A row that the target does not have as it should. */
export interface Unlike {
  readonly index: number // SinkRow.index
  /** refused: a row that the target cannot hold, which no sink would have written. */
  readonly kind: 'missing' | 'different' | 'refused'
  readonly expected: Values
  /** Of `different`. */
  readonly found?: Values | undefined
  /** Of `refused`. */
  readonly why?: string | undefined
}
/** A row, document or message of the target, by what tells it apart. */
export interface TargetKey {
  /** As `keyText` (source.ts) of the source's values, where it has that form; else something that is none of them. */
  readonly text: string
  /** Of the columns of the source that the key is made of; undefined: no row of the source can have it. */
  readonly literals: KeyLiterals | undefined
  /** For people. */
  readonly shown: Values
  /** The values of those columns, for a delete: Canal's texts. */
  readonly values: readonly string[]
  /** What the target needs to find it again. */
  readonly id: string
}
/** A key of the target that is no row's, with what it holds. */
export interface Extra {
  readonly key: TargetKey
  readonly found: Values
}
/** What a table is in a target: why its rows cannot be compared, or which columns of the source its keys tell. */
export type Bound =
  | { readonly why: string }
  | { readonly why: ''; readonly columns: readonly Column[] }
export interface Destination {
  /** host:port and so on, for messages; no account in it. */
  readonly where: string
  /**
   * Before anything else is asked of a table; `key` are the columns by which the source's rows are told apart. undefined:
   * nothing of it is written there.
   */
  bind(table: TargetTable, key: readonly Column[]): Promise<Bound | undefined>
  /** The rows that are not as they should be. */
  compare(batch: SinkBatch, signal: AbortSignal): Promise<readonly Unlike[]>
  /** Every key there is, page by page, in whatever order. */
  keys(table: TargetTable, signal: AbortSignal): AsyncIterable<readonly TargetKey[]>
  /** Those of these keys that are there, and that none of these rows has. */
  extras(
    table: TargetTable,
    keys: readonly TargetKey[],
    rows: readonly SinkBatch[],
    signal: AbortSignal,
  ): Promise<readonly Extra[]>
  close(): Promise<void>
}
