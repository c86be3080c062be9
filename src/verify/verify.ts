/**
 * Compares a source with what a sink has made of it: every row of the source is looked for in the target, and every key of the
 * target in the source. Rows in motion give no alarm: what differs is looked at again once the sink has passed the place where
 * the source's log ended after its rows were read, and counts only when neither side has changed from one look to the next.
 *
 * The reads for that second look wait for what is being committed (MySQL gives a transaction to replicas before a SELECT sees
 * it): whatever the target showed in one look, the source shows in the next. Memory is bounded: a piece of a table, and the
 * keys that wait for their second look.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Filter, Position } from '../change.ts'
import { SluiceError } from '../errors.ts'
import { compileFilter } from '../filter.ts'
import type { SinkConfig } from '../sinks/runner/options.ts'
import { compileMapping } from '../sinks/shape/mapping.ts'
import {
  emptyTable,
  resultOf,
  type Difference,
  type TableReport,
  type VerifyReport,
} from './report.ts'
import { openDestination } from './targets/open.ts'
import { RowSource, type FoundTable, type VerifySource } from './source.ts'
import { TableVerifier, type RepairWork } from './table.ts'
import type { Destination } from './target.ts'

export type { VerifySource } from './source.ts'
export type { Difference, TableReport, VerifyReport } from './report.ts'

export interface Progress {
  readonly table: string
  readonly tables: number
  readonly done: number // tables
  readonly phase: 'rows' | 'keys' // of the source; of the target
  readonly rows: number // of this phase of this table
  readonly about: number // rows that the table has, about
  readonly differences: number // so far, of all tables
}
export interface Repair {
  /** Writes rows anew, or deletes them: what `fix` asks for. Throws as a sink does. */
  fix(work: RepairWork): Promise<void>
}
export type { RepairWork } from './table.ts'
export interface VerifyOptions {
  readonly source: VerifySource
  readonly instance: string
  readonly name: string // of the sink
  readonly sink: SinkConfig
  /** Of those that the sink writes; default all. */
  readonly tables?: Filter | undefined
  /**
   * Resolves when everything before a place of the source's log is in the target; rejects when that will not happen
   * (SINK_UNAVAILABLE: what differs then is unsettled).
   */
  readonly passed: (position: Position, signal: AbortSignal) => Promise<void>
  readonly rowsPerSecond?: number | undefined // 0 or none: as fast as it goes
  readonly shownMax?: number | undefined // differences that the report shows
  readonly onProgress?: ((progress: Progress) => void) | undefined
  readonly repair?: Repair | undefined
  readonly signal: AbortSignal
}
const SHOWN_MAX = 100

/**
 * Throws where nothing can be compared at all (connections, a sink whose target cannot be compared). When `signal` aborts,
 * what was found so far is reported, as interrupted.
 */
export async function verify(options: VerifyOptions): Promise<VerifyReport> {
  const started = new Date().toISOString()
  const { sink } = options
  const { include, exclude } = sink.filter
  const source = await RowSource.open(options.source)
  let destination: Destination | undefined
  try {
    const written = await source.tables(compileFilter({ include, exclude }))
    const wanted = written.filter(({ database, name }) => options.tables?.(database, name) ?? true)
    destination = await openDestination(
      options,
      written.map(({ database, name }) => [database, name]),
    )
    const tables: TableReport[] = []
    const differences: Difference[] = []
    const whole = await all(options, { source, destination, wanted, tables, differences })
    return {
      result: resultOf(tables, !whole),
      source: source.server,
      target: destination.where,
      started,
      ended: new Date().toISOString(),
      interrupted: !whole,
      tables,
      differences,
    }
  } finally {
    source.close()
    await destination?.close().catch(() => {})
  }
}

interface Work {
  readonly source: RowSource
  readonly destination: Destination
  readonly wanted: readonly FoundTable[]
  readonly tables: TableReport[]
  readonly differences: Difference[]
}
/** false: interrupted. */
async function all(options: VerifyOptions, work: Work): Promise<boolean> {
  const { signal, rowsPerSecond = 0, shownMax = SHOWN_MAX } = options
  const { source, destination, wanted, tables, differences } = work
  const target = compileMapping(options.sink.tables, `sinks.${options.name}`)
  for (const [done, found] of wanted.entries()) {
    const report = emptyTable(`${found.database}.${found.name}`)
    tables.push(report)
    const verifier = new TableVerifier({
      source,
      destination,
      target,
      report,
      found,
      passed: options.passed,
      atOnce: rowsPerSecond || Infinity,
      throttle: throttle(rowsPerSecond, signal),
      repair: options.repair,
      signal,
      show: (difference) => {
        if (differences.length < shownMax) differences.push(difference)
      },
      progress: (phase, rows) => {
        const count = tables.reduce((sum, t) => sum + t.missing + t.extra + t.different, 0)
        const about = { table: report.table, tables: wanted.length, done, about: found.rows }
        options.onProgress?.({ ...about, phase, rows, differences: count })
      },
    })
    try {
      await verifier.run()
    } catch (error) {
      if (signal.aborted) {
        report.why ||= 'interrupted'
        return false
      }
      if (!(error instanceof SluiceError)) throw error
      report.why = `${error.code}: ${error.message}`
    }
  }
  return !signal.aborted
}

/** Waits so long that no more rows a second come by than are allowed. */
function throttle(perSecond: number, signal: AbortSignal): (rows: number) => Promise<void> {
  let at = performance.now()
  return async (rows) => {
    if (perSecond === 0) return
    at = Math.max(at, performance.now() - 1000) + (rows * 1000) / perSecond
    const left = at - performance.now()
    if (left > 0) await delay(left, undefined, { signal })
  }
}
