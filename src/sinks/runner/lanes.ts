/**
 * What is under way between a cursor and a sink: entries in the order of the log, each cut into jobs, one for each lane
 * that has rows in it. A lane writes its jobs one after another; so rows of one target keep their order over batches. An
 * entry is finished when its jobs and every earlier entry are. Knows no cursor and no target.
 */
import { SluiceError } from '../../errors.ts'
import type { SinkBatch } from '../shape/batch.ts'
import type { SinkRow } from '../shape/row.ts'
import { GivenUp, type Delivery } from './delivery.ts'

/** Some of the log, finished as a whole. */
export interface Entry {
  left: number // jobs that are not done
  sealed: boolean // no more jobs will come
  readonly end: EntryEnd
}
/** One of the two is called, once. */
export interface EntryEnd {
  /** It and all before it are done. */
  readonly finish: () => void
  /** It will not be done. */
  readonly drop: () => void
}
interface Job {
  readonly entry: Entry
  readonly batch: SinkBatch
  written: boolean
}
export interface LanesOptions {
  readonly delivery: Delivery
  readonly lanes: number
  /** Writes at once in one lane; above 1 only for a sink that keeps the order of its calls. */
  readonly depth: number
  /** Entries that may be unfinished at once. */
  readonly entriesMax: number
}

export class Lanes {
  readonly #options: LanesOptions
  readonly #lanes: readonly Lane[]
  readonly #entries: Entry[] = []
  #running = 0 // jobs that are not done
  #error: unknown
  #failed = false
  #wake: (() => void) | undefined

  constructor(options: LanesOptions) {
    this.#options = options
    const { delivery, lanes, depth } = options
    const owner = {
      delivery,
      depth,
      done: (entry: Entry): void => {
        this.#running--
        entry.left--
        this.#settle()
      },
      failed: (error: unknown): void => this.fail(error),
      stopped: (): boolean => this.#failed,
    }
    this.#lanes = Array.from({ length: lanes }, () => new Lane(owner))
  }
  get count(): number {
    return this.#lanes.length
  }
  /** Begins no more jobs; room() and idle() throw this. */
  fail(error: unknown): void {
    if (!this.#failed) {
      this.#failed = true
      this.#error = error
    }
    this.#wake?.()
  }
  /** Resolves when another entry may come. Throws what a job failed with. */
  async room(): Promise<void> {
    await this.#until(() => this.#entries.length < this.#options.entriesMax)
  }
  /** Resolves when every job is done. Throws what a job failed with. */
  async idle(): Promise<void> {
    await this.#until(() => this.#running === 0)
  }
  /** Resolves when nothing is being written any more, whether it is done or not. */
  async quiet(): Promise<void> {
    await Promise.all(this.#lanes.map((lane) => lane.quiet()))
  }
  /** Drops what is not finished; when quiet. */
  giveBack(): void {
    for (const entry of this.#entries.splice(0)) entry.end.drop()
  }
  open(end: EntryEnd): Entry {
    const entry: Entry = { left: 0, sealed: false, end }
    this.#entries.push(entry)
    return entry
  }
  add(entry: Entry, batch: SinkBatch, lane = 0): void {
    entry.left++
    this.#running++
    this.#lanes[lane]!.push({ entry, batch, written: false })
  }
  /** The rows of a batch, each in the lane of its target. Throws ROWS_MALFORMED, and what a job failed with. */
  async spread(
    entry: Entry,
    batch: SinkBatch,
    target: ((row: SinkRow) => string) | undefined,
  ): Promise<void> {
    if (target === undefined || this.count === 1) return this.add(entry, batch)
    for (const { alone, jobs } of spread(batch, target, this.count)) {
      if (alone) await this.idle()
      for (const { lane, batch: part } of jobs) this.add(entry, part, lane)
      if (alone) await this.idle()
    }
  }
  seal(entry: Entry): void {
    entry.sealed = true
    this.#settle()
  }

  #settle(): void {
    for (let first = this.#entries[0]; first?.sealed && first.left === 0;) {
      this.#entries.shift()
      first.end.finish()
      first = this.#entries[0]
    }
    this.#wake?.()
  }
  async #until(what: () => boolean): Promise<void> {
    for (;;) {
      if (this.#failed) throw this.#error
      if (what()) return
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
      this.#wake = undefined
    }
  }
}

interface Owner {
  readonly delivery: Delivery
  readonly depth: number
  readonly done: (entry: Entry) => void
  readonly failed: (error: unknown) => void
  readonly stopped: () => boolean
}

class Lane {
  readonly #owner: Owner
  readonly #queue: Job[] = []
  #next = 0 // of the queue: to be begun
  #running = 0
  #behind = false // a job failed beside others: when these have ended it is delivered alone, then they are written again
  #alone = false // that is what happens now
  readonly #quiet: (() => void)[] = []

  constructor(owner: Owner) {
    this.#owner = owner
  }
  push(job: Job): void {
    this.#queue.push(job)
    this.#pump()
  }
  async quiet(): Promise<void> {
    if (this.#running > 0) await new Promise<void>((resolve) => this.#quiet.push(resolve))
  }

  #pump(): void {
    const { depth, stopped } = this.#owner
    const free = (): boolean => !stopped() && !this.#behind && !this.#alone
    while (free() && this.#running < depth && this.#next < this.#queue.length) {
      const job = this.#queue[this.#next++]!
      this.#running++
      void this.#begin(job, depth > 1)
    }
  }
  async #begin(job: Job, beside: boolean): Promise<void> {
    const { delivery } = this.#owner
    try {
      if (beside) await delivery.attempt(job.batch)
      else await delivery.deliver(job.batch)
      job.written = true
    } catch (error) {
      if (beside && !(error instanceof GivenUp)) this.#behind = true
      else this.#owner.failed(error)
    }
    this.#ended()
  }
  #ended(): void {
    this.#running--
    this.#alone = false
    while (this.#queue[0]?.written) {
      const job = this.#queue.shift()!
      this.#next--
      this.#owner.done(job.entry)
    }
    if (this.#running === 0 && !this.#owner.stopped()) {
      if (this.#behind) return this.#catchUp()
    }
    if (this.#running === 0) for (const resolve of this.#quiet.splice(0)) resolve()
    this.#pump()
  }
  /** The oldest job that is not written, alone and with all patience; those begun after it follow once more. */
  #catchUp(): void {
    this.#behind = false
    this.#alone = true
    for (const job of this.#queue) job.written = false
    this.#next = 1
    this.#running = 1
    void this.#begin(this.#queue[0]!, false)
  }
}

// ── which row goes where ─────────────────────────────────────────────────────

/** Part of a batch: alone when every lane is empty, or one job for each lane that has rows in it. */
export interface Step {
  readonly alone: boolean
  readonly jobs: readonly { readonly lane: number; readonly batch: SinkBatch }[]
}

/**
 * Spreads a batch over lanes by the rows' targets. Rows whose key changes stand in a step of their own: they touch two
 * targets. Throws ROWS_MALFORMED.
 */
export function spread(batch: SinkBatch, target: (row: SinkRow) => string, lanes: number): Step[] {
  const steps: Step[] = []
  let of = new Uint8Array(1024)
  let from = 0
  let alone = false
  let used = new Uint8Array(lanes)
  const end = (to: number): void => {
    if (to > from) steps.push(stepOf(batch.slice(from, to), { alone, of, used }))
    from = to
    used = new Uint8Array(lanes)
  }
  let next = 0
  for (const row of batch.rows(false)) {
    const { index, keyChanged } = row
    if (keyChanged !== alone) {
      end(index)
      alone = keyChanged
    }
    const lane = alone ? 0 : laneOf(row, target, lanes)
    if (index >= of.length) {
      const longer = new Uint8Array(of.length * 2)
      longer.set(of)
      of = longer
    }
    of[index] = lane
    used[lane] = 1
    next = index + 1
  }
  end(next)
  return steps
}
function stepOf(
  part: SinkBatch,
  {
    alone,
    of,
    used,
  }: { readonly alone: boolean; readonly of: Uint8Array; readonly used: Uint8Array },
): Step {
  const lanes = [...used.keys()].filter((lane) => used[lane] === 1)
  if (alone) return { alone, jobs: [{ lane: 0, batch: part }] }
  return { alone, jobs: lanes.map((lane) => ({ lane, batch: part.lane({ of, lane }) })) }
}
/** A row whose target cannot be told goes somewhere: the write says what is wrong with it. */
function laneOf(row: SinkRow, target: (row: SinkRow) => string, lanes: number): number {
  let text: string
  try {
    text = target(row)
  } catch (error) {
    if (error instanceof SluiceError && error.code === 'SINK_DATA') return 0
    throw error
  }
  let hash = 0x811c9dc5 // FNV-1a
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return (hash >>> 0) % lanes
}
