/**
 * What every instance did of late, from looks a second apart: rates over the last ten seconds, and an hour of points for charts in a
 * ring that cannot grow. Forgets an instance whose file is gone. Asks nobody.
 */
import type { InstanceFacts } from '../facts.ts'

export interface Rates {
  readonly transactions: number
  readonly changes: number
  readonly bytes: number
}
/** One point covers so many looks. */
export const STEP_LOOKS = 10
export const POINTS_MAX = 360
const FIELDS = ['at', 'changes', 'bytes', 'readMs', 'ackMs', 'storeBytes'] as const
type Field = (typeof FIELDS)[number]
/** The same number of points in each, the oldest first; null: not known then. */
export type Series = Record<Field, (number | null)[]>

interface Sample extends Rates {
  readonly at: number // performance.now()
}
/** Numbers of the point that is being made; lags are the worst of its looks. */
interface Open {
  looks: number
  begin: Sample
  readMs: number
  ackMs: number
}
class Trace {
  readonly samples: Sample[] = []
  readonly #ring = Object.fromEntries(
    FIELDS.map((field) => [field, new Float64Array(POINTS_MAX)]),
  ) as Record<Field, Float64Array>
  #points = 0 // ever
  #open: Open | undefined

  look(facts: InstanceFacts, at: number): void {
    const { transactions = 0, changes = 0, logBytes: bytes = 0 } = facts.status?.counts ?? {}
    const sample = { at, transactions, changes, bytes }
    if (transactions < (this.samples.at(-1)?.transactions ?? 0)) {
      this.samples.length = 0 // it began anew
      if (this.#open) this.#open.begin = { ...this.#open.begin, changes: 0, bytes: 0 }
    }
    this.samples.push(sample)
    if (this.samples.length > STEP_LOOKS + 1) this.samples.shift()
    const open = (this.#open ??= { looks: -1, begin: sample, readMs: NaN, ackMs: NaN })
    open.looks++
    open.readMs = worst(open.readMs, facts.read.ms)
    for (const { deliver, ack } of facts.clients)
      open.ackMs = worst(open.ackMs, (deliver.ms ?? 0) + (ack.ms ?? 0))
    if (open.looks >= STEP_LOOKS) this.#close(open, sample, facts.status?.store?.bytes)
  }
  #close({ begin, readMs, ackMs }: Open, now: Sample, storeBytes = NaN): void {
    const seconds = (now.at - begin.at) / 1000
    const point: Record<Field, number> = {
      at: Date.now(),
      changes: Math.round((now.changes - begin.changes) / seconds),
      bytes: Math.round((now.bytes - begin.bytes) / seconds),
      readMs,
      ackMs,
      storeBytes,
    }
    for (const field of FIELDS) this.#ring[field][this.#points % POINTS_MAX] = point[field]
    this.#points++
    this.#open = { looks: 0, begin: now, readMs: NaN, ackMs: NaN }
  }
  get series(): Series {
    const from = Math.max(0, this.#points - POINTS_MAX)
    const places = Array.from({ length: this.#points - from }, (_, i) => (from + i) % POINTS_MAX)
    const known = (n: number): number | null => (Number.isNaN(n) ? null : n)
    return Object.fromEntries(
      FIELDS.map((field) => [field, places.map((place) => known(this.#ring[field][place]!))]),
    ) as Series
  }
}
const worst = (a: number, b: number | undefined): number =>
  b === undefined ? a : Number.isNaN(a) ? b : Math.max(a, b)

export class Past {
  readonly #traces = new Map<string, Trace>()

  /** One look at all instances; `now` is performance.now(). */
  take(all: readonly InstanceFacts[], now: number): void {
    for (const facts of all) {
      let trace = this.#traces.get(facts.member.name)
      if (!trace) this.#traces.set(facts.member.name, (trace = new Trace()))
      trace.look(facts, now)
    }
    for (const name of this.#traces.keys())
      if (!all.some((f) => f.member.name === name)) this.#traces.delete(name)
  }
  /** A second, over the last looks. */
  rates(destination: string): Rates {
    const samples = this.#traces.get(destination)?.samples ?? []
    const [first, last] = [samples[0], samples.at(-1)]
    if (!first || !last || first === last) return { transactions: 0, changes: 0, bytes: 0 }
    const per = (key: keyof Rates): number =>
      Math.round(((last[key] - first[key]) * 1e5) / (last.at - first.at)) / 100
    return { transactions: per('transactions'), changes: per('changes'), bytes: per('bytes') }
  }
  series(destination: string): Series {
    return (this.#traces.get(destination) ?? new Trace()).series
  }
}
