/**
 * One table, compared in both directions: its rows piece by piece with the target, the target's keys page by page with the
 * source. What differs waits for its second look (verify.ts), is reported, repaired where that is wanted, and looked at again.
 */
import { createHash } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { AFTER, comparePositions, type Column, type Position } from '../change.ts'
import { SluiceError } from '../errors.ts'
import type { SinkBatch, BatchFacts } from '../sinks/shape/batch.ts'
import type { TargetTable } from '../sinks/shape/row.ts'
import { familyOf } from '../sinks/sql/dialects/dialect.ts'
import type { Chunk } from '../sources/snapshot/chunk.ts'
import type { KeyPlace, TablePlan } from '../sources/snapshot/plan.ts'
import type { Difference, TableReport } from './report.ts'
import {
  batchOf,
  isLocked,
  rowsOf,
  type FoundTable,
  type KeyLiterals,
  type RowSource,
} from './source.ts'
import type { Destination, Extra, TargetKey, Unlike, Values } from './target.ts'

/** What is to be put right in one table. */
export interface RepairWork {
  readonly plan: TablePlan
  readonly table: TargetTable
  /** Values of `plan.key`: what the source has of them is to be written, what it has not deleted. */
  readonly keys: readonly (readonly string[])[]
}
export interface TableOptions {
  readonly source: RowSource
  readonly destination: Destination
  readonly target: BatchFacts['target']
  readonly report: TableReport
  readonly found: FoundTable
  readonly passed: (position: Position, signal: AbortSignal) => Promise<void>
  readonly atOnce: number // rows
  readonly throttle: (rows: number) => Promise<void>
  readonly repair: { fix(work: RepairWork): Promise<void> } | undefined
  readonly show: (difference: Difference) => void
  readonly progress: (phase: 'rows' | 'keys', rows: number) => void
  readonly signal: AbortSignal
}

/** Keys that wait for their second look, at most. */
const SUSPECTS_MAX = 1000
const ROUNDS_MAX = 8
const ROUND_PAUSE_MS = 50

/** What a row was, on both sides, when it was looked at. */
interface Look {
  readonly key: KeyLiterals
  readonly values: readonly string[]
  readonly is: string // of the source's row and what the target has instead
  readonly unlike: Unlike
  readonly shown: Values
}

export class TableVerifier {
  readonly #options: TableOptions
  #plan!: TablePlan
  #table!: TargetTable
  #keyColumns: readonly Column[] = []
  #end: Position | undefined // passed by the sink

  constructor(options: TableOptions) {
    this.#options = options
  }

  /** Throws what source and target throw; what was found so far is in the report. */
  async run(): Promise<void> {
    const { source, destination, target, report, found } = this.#options
    const plan = await source.plan(found)
    if (plan === undefined) return // dropped since
    if (plan.key.length === 0) {
      report.why = 'it has no primary or unique key without NULLs: its rows cannot be told apart'
      return
    }
    this.#plan = plan
    this.#table = target(plan.table)
    const bound = await destination.bind(this.#table, plan.key)
    if (bound === undefined) return
    report.why = bound.why
    if (!('columns' in bound)) return
    this.#keyColumns = bound.columns
    await this.#rows()
    await this.#keys()
  }

  // ── the source's rows in the target ────────────────────────────────────────

  async #rows(): Promise<void> {
    const { source, destination, report, signal, atOnce, throttle, progress } = this.#options
    let suspects: KeyLiterals[] = []
    let after: KeyPlace
    for (let last = false; !last;) {
      signal.throwIfAborted()
      const chunk = await source.piece(this.#plan, after, Math.min(atOnce, SUSPECTS_MAX))
      ;({ after, last } = chunk)
      if (chunk.rows > 0) {
        const unlike = await destination.compare(this.#batch(chunk), signal)
        if (unlike.length > 0) {
          const facts = rowsOf(chunk)
          suspects.push(...unlike.map(({ index }) => facts[index]!.key))
        }
      }
      report.rows += chunk.rows
      progress('rows', report.rows)
      await throttle(chunk.rows)
      if (suspects.length < SUSPECTS_MAX && !last) continue
      await this.#settleRows(suspects)
      suspects = []
    }
  }
  #batch(chunk: Chunk): SinkBatch {
    return batchOf(chunk, this.#options.target)
  }

  async #settleRows(suspects: readonly KeyLiterals[]): Promise<void> {
    const { repair, report } = this.#options
    const stable = await this.#lookAtRows(suspects)
    const shown: Difference[] = []
    for (const { unlike, shown: key } of stable) {
      if (unlike.kind === 'refused') report.refused++
      else shown.push(this.#tell(unlike.kind, key, unlike))
    }
    const rows = stable.filter(({ unlike }) => unlike.kind !== 'refused')
    if (repair === undefined || rows.length === 0) return
    await repair.fix({
      plan: this.#plan,
      table: this.#table,
      keys: rows.map(({ values }) => values),
    })
    const again = new Set(
      (await this.#lookAtRows(rows.map(({ key }) => key))).map(({ key }) => key.join()),
    )
    for (const [i, { key }] of rows.entries()) if (!again.has(key.join())) this.#repaired(shown[i]!)
  }
  /** Those that differ from one look to the next in the same way. */
  async #lookAtRows(suspects: readonly KeyLiterals[]): Promise<Look[]> {
    const { report } = this.#options
    const stable: Look[] = []
    let before = new Map<string, Look>()
    let left = suspects
    for (let round = 0; left.length > 0; round++) {
      if (round === ROUNDS_MAX) {
        report.unsettled += left.length
        break
      }
      if (round > 1) await this.#pause(round)
      const looks = await unlessLocked(() => this.#lookOnce(left))
      if (looks === 'locked') {
        before = new Map()
        continue
      }
      if (looks === undefined) {
        report.unsettled += left.length
        break
      }
      const now = new Map<string, Look>()
      for (const look of looks) {
        const name = look.key.join()
        if (before.get(name)?.is === look.is) stable.push(look)
        else now.set(name, look)
      }
      before = now
      left = [...now.values()].map(({ key }) => key)
    }
    return stable
  }
  /** undefined: the sink does not get there. */
  async #lookOnce(keys: readonly KeyLiterals[]): Promise<Look[] | undefined> {
    const { source, destination, signal } = this.#options
    const looks: Look[] = []
    const chunks = source.byKeys(this.#plan, this.#plan.key, keys)
    for await (const chunk of chunks) {
      if (!(await this.#passed())) return undefined
      if (chunk.rows === 0) continue
      const facts = rowsOf(chunk)
      const batch = this.#batch(chunk)
      const unlike = await destination.compare(batch, signal)
      const shown = keysOf(batch, new Set(unlike.map(({ index }) => index)))
      for (const one of unlike) {
        const { key, values, image } = facts[one.index]!
        const hash = createHash('sha1')
          .update(image)
          .update(JSON.stringify(one.found ?? null))
        looks.push({
          key,
          values,
          is: hash.digest('hex'),
          unlike: one,
          shown: shown.get(one.index)!,
        })
      }
    }
    return looks
  }

  // ── the target's keys in the source ────────────────────────────────────────

  async #keys(): Promise<void> {
    const { source, destination, report, signal, throttle, progress } = this.#options
    let suspects: TargetKey[] = []
    for await (const page of destination.keys(this.#table, signal)) {
      signal.throwIfAborted()
      const literals = page.flatMap((key) => (key.literals === undefined ? [] : [key.literals]))
      const there = await source.existing(this.#plan, this.#keyColumns, literals)
      const doubtful = page.filter(({ text }) => !there.has(text))
      if (doubtful.length > 0) {
        const rows = await unlessLocked(() => this.#rowsOf(doubtful))
        if (rows === 'locked') suspects.push(...doubtful)
        else {
          const extras = await destination.extras(this.#table, doubtful, rows, signal)
          suspects.push(...extras.map(({ key }) => key))
        }
      }
      report.keys += page.length
      progress('keys', report.keys)
      await throttle(page.length)
      if (suspects.length < SUSPECTS_MAX) continue
      await this.#settleKeys(suspects)
      suspects = []
    }
    await this.#settleKeys(suspects)
  }
  async #rowsOf(keys: readonly TargetKey[]): Promise<SinkBatch[]> {
    const literals = keys.flatMap((key) => (key.literals === undefined ? [] : [key.literals]))
    const batches: SinkBatch[] = []
    const chunks = this.#options.source.byKeys(this.#plan, this.#keyColumns, literals)
    for await (const chunk of chunks) if (chunk.rows > 0) batches.push(this.#batch(chunk))
    return batches
  }
  async #settleKeys(suspects: readonly TargetKey[]): Promise<void> {
    const { repair } = this.#options
    const stable = await this.#lookAtKeys(suspects)
    const shown = stable.map(({ key, found }) =>
      this.#tell('extra', key.shown, { expected: undefined, found }),
    )
    if (repair === undefined || stable.length === 0) return
    const extras = stable.map(({ key }) => key)
    const keys = extras.flatMap((key) => this.#valuesOf(key) ?? [])
    if (keys.length > 0) await repair.fix({ plan: this.#plan, table: this.#table, keys })
    const again = new Set((await this.#lookAtKeys(extras)).map(({ key }) => key.id))
    for (const [i, { key }] of stable.entries()) if (!again.has(key.id)) this.#repaired(shown[i]!)
  }
  /** Those that are there in two looks and are no row's. */
  async #lookAtKeys(suspects: readonly TargetKey[]): Promise<readonly Extra[]> {
    const { destination, report, signal } = this.#options
    let left = suspects
    let extras: readonly Extra[] = []
    for (let round = 0; round < 2 && left.length > 0; round++) {
      const rows = await unlessLocked(() => this.#rowsOf(left))
      if (rows === 'locked' || !(await this.#passed())) {
        report.unsettled += left.length
        return []
      }
      extras = await destination.extras(this.#table, left, rows, signal)
      left = extras.map(({ key }) => key)
    }
    return left.length === 0 ? [] : extras
  }

  /** Values of the source's key; undefined: the target's key does not tell them. */
  #valuesOf({ literals, values }: TargetKey): [readonly string[]] | undefined {
    if (literals === undefined) return undefined
    const found = this.#plan.key.map((c) => {
      const i = this.#keyColumns.findIndex(({ index }) => index === c.index)
      const value = values[i]
      return value !== undefined && isBytes(c) ? `0x${value}` : value
    })
    return found.includes(undefined) ? undefined : [found as string[]]
  }

  // ── common ─────────────────────────────────────────────────────────────────

  /** Until the sink has written everything up to here; false: it will not. */
  async #passed(): Promise<boolean> {
    const { source, passed, signal } = this.#options
    const end = await source.end()
    if (this.#end !== undefined && comparePositions(this.#end, end) === 0) return true
    try {
      await passed(end, signal)
      this.#end = end
      return true
    } catch (error) {
      if (signal.aborted || !(error instanceof SluiceError) || error.code !== 'SINK_UNAVAILABLE')
        throw error
      return false
    }
  }
  async #pause(round: number): Promise<void> {
    const { signal } = this.#options
    await delay(ROUND_PAUSE_MS * 2 ** round, undefined, { signal })
  }
  #tell(
    kind: Difference['kind'],
    key: Values,
    {
      expected,
      found,
    }: { readonly expected: Values | undefined; readonly found?: Values | undefined },
  ): Difference {
    const { report, show } = this.#options
    report[kind]++
    const unlike = kind === 'different' ? differing(expected!, found!) : undefined
    const difference: Difference = {
      table: report.table,
      kind,
      key,
      expected: kind === 'extra' ? undefined : pick(expected!, unlike),
      found: kind === 'missing' ? undefined : this.#hidden(pick(found!, unlike), expected),
      repaired: false,
    }
    show(difference)
    return difference
  }
  /** A masked column of the target may hold what was to be hidden. */
  #hidden(found: Values, expected: Values | undefined): Values {
    const masked = new Set(
      this.#table.columns
        .filter((c) => c.column !== undefined && c.derived !== undefined)
        .map((c) => c.name),
    )
    if (masked.size === 0) return found
    const entries = Object.entries(found).map(([name, value]) => [
      name,
      value === null || !masked.has(name) || value === expected?.[name] ? value : '(masked)',
    ])
    return Object.fromEntries(entries) as Values
  }
  #repaired(difference: Difference): void {
    difference.repaired = true
    this.#options.report.repaired++
  }
}

/** Rows that somebody has locked for long are in motion. */
async function unlessLocked<T>(work: () => Promise<T>): Promise<T | 'locked'> {
  try {
    return await work()
  } catch (error) {
    if (isLocked(error)) return 'locked'
    throw error
  }
}
function keysOf(batch: SinkBatch, indexes: ReadonlySet<number>): Map<number, Values> {
  const found = new Map<number, Values>()
  for (const row of batch.rows(false)) {
    if (!indexes.has(row.index)) continue
    const key = row.table.keys.map((c) => [c.name, row.string(AFTER, c) ?? null])
    found.set(row.index, Object.fromEntries(key) as Values)
  }
  return found
}
/** Whose value a target shows in hexadecimal digits. */
const isBytes = (column: Column): boolean =>
  familyOf({ name: '', index: 0, key: true, column, derived: undefined }) === 'binary'
/** Names of what differs; where their texts look the same, all. */
function differing(expected: Values, found: Values): ReadonlySet<string> | undefined {
  const names = Object.keys({ ...expected, ...found }).filter((n) => expected[n] !== found[n])
  return names.length === 0 ? undefined : new Set(names)
}
const pick = (values: Values, names: ReadonlySet<string> | undefined): Values =>
  names === undefined
    ? values
    : Object.fromEntries(Object.entries(values).filter(([name]) => names.has(name)))
