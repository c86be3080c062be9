/**
 * How quickly a load is read: at a rate that was said, or by `auto` as the source bears. Auto looks once a second at how many
 * threads of the source are at work, and where the source is a replica at how far it is behind; above a limit it halves the
 * rate of what was read in that second, below it lets half as much again through, until nothing holds it any more.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Load } from './load.ts'

/** What the source has to do now. */
export interface Pressure {
  readonly threadsRunning: number
  /** Where it is a replica. */
  readonly replicaLagMs: number | undefined
}
/** Above which `auto` reads more slowly. */
export interface PaceLimits {
  readonly threadsRunningMax: number
  readonly replicaLagMaxMs: number
}
export interface PaceOptions {
  readonly load: Load
  readonly limits: PaceLimits
  readonly pressure: () => Promise<Pressure>
  /** The limit was lowered for the first time, or is gone. */
  readonly changed: (rowsPerSecond: number, pressure: Pressure) => void
}

const LOOK_MS = 1000
const WAIT_MS = 100
const RATE_MIN = 100

/** The next rate: `now` is the rate that holds (0: none), `read` what was read in the last second. */
export function nextRate(now: number, read: number, calm: boolean): number {
  const least = Math.max(RATE_MIN, Math.floor((now > 0 ? Math.min(now, read || now) : read) / 2))
  if (!calm) return least
  if (now === 0) return 0
  // nothing is held back any more where what was read is far below what may be
  return read > 0 && read * 2 < now ? 0 : Math.ceil(now * 1.5)
}
export function isCalm(
  { threadsRunning, replicaLagMs = 0 }: Pressure,
  { threadsRunningMax, replicaLagMaxMs }: PaceLimits,
): boolean {
  return threadsRunning <= threadsRunningMax && replicaLagMs <= replicaLagMaxMs
}

export class Pace {
  readonly #options: PaceOptions
  #lookedAt = -Infinity
  #read = 0 // rows since then

  constructor(options: PaceOptions) {
    this.#options = options
  }
  /** Of a piece, as the rate is now: the rows of a second at most. */
  atMost(rows: number): number {
    const rate = this.#rate
    return rate === 0 ? rows : Math.max(1, Math.min(rows, rate))
  }
  /** After `rows` were read since `started`: waits as long as the rate wants. Throws as the question for pressure does. */
  async after(rows: number, started: number, signal: AbortSignal): Promise<void> {
    this.#read += rows
    while (!signal.aborted) {
      await this.look()
      const rate = this.#rate
      if (rate === 0) return
      const left = started + (rows * 1000) / rate - performance.now()
      if (left <= 0) return
      await delay(Math.min(left, WAIT_MS), undefined, { signal }).catch(() => {})
    }
  }
  get #rate(): number {
    const { load } = this.#options
    return load.rowsPerSecond === 'auto' ? load.pace : load.rowsPerSecond
  }
  /** Asks the source, if it is time. Throws as the question does. */
  async look(): Promise<void> {
    const { load, limits, pressure, changed } = this.#options
    const passed = performance.now() - this.#lookedAt
    if (load.rowsPerSecond !== 'auto' || passed < LOOK_MS) return
    const read = (this.#read * 1000) / passed
    this.#read = 0
    const seen = await pressure()
    this.#lookedAt = performance.now()
    const before = load.pace
    load.pace = nextRate(before, Math.floor(read), isCalm(seen, limits))
    if ((before === 0) !== (load.pace === 0)) changed(load.pace, seen)
  }
}
