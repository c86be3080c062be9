/**
 * What a verification has found: counted in full, shown up to a limit, with both values but for masked columns. Plain data.
 */
import type { Values } from './target.ts'

export type DifferenceKind = 'missing' | 'extra' | 'different'
export interface Difference {
  readonly table: string // database.table of the source
  readonly kind: DifferenceKind
  readonly key: Values
  /** What the sink would have written; of `different` only what differs. None of `extra`. */
  readonly expected?: Values | undefined
  /** What the target has; of `different` only what differs. None of `missing`. */
  readonly found?: Values | undefined
  /** It was written anew, or deleted, and then was as it should be. */
  repaired: boolean
}
export interface TableReport {
  readonly table: string
  /** Why its rows could not be compared; "" where they were, to the end. */
  why: string
  rows: number // of the source
  keys: number // of the target
  missing: number
  extra: number
  different: number
  /** Rows that never stood still while they were looked at. */
  unsettled: number
  /** Rows that the target cannot hold, so that no sink writes them. */
  refused: number
  repaired: number
}
export interface VerifyReport {
  /** equal: all was compared, and nothing differs (any more). incomplete: nothing differs in what was compared, not all was. */
  readonly result: 'equal' | 'different' | 'incomplete'
  readonly source: string // server_uuid
  readonly target: string
  readonly started: string // ISO 8601
  readonly ended: string
  readonly interrupted: boolean
  readonly tables: readonly TableReport[]
  /** As many as were asked for. */
  readonly differences: readonly Difference[]
}

export const emptyTable = (table: string): TableReport => ({
  table,
  why: '',
  rows: 0,
  keys: 0,
  missing: 0,
  extra: 0,
  different: 0,
  unsettled: 0,
  refused: 0,
  repaired: 0,
})
/** Differences that are still there. */
export const remaining = (t: TableReport): number => t.missing + t.extra + t.different - t.repaired

export function resultOf(
  tables: readonly TableReport[],
  interrupted: boolean,
): VerifyReport['result'] {
  if (tables.some((t) => remaining(t) > 0)) return 'different'
  const whole = tables.every((t) => t.why === '' && t.unsettled === 0 && t.refused === 0)
  return whole && !interrupted ? 'equal' : 'incomplete'
}
