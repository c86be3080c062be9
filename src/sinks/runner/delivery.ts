/**
 * Writes one batch until it is done: tries again what may pass, halves a batch that the target refuses as a whole until
 * the row that does it is alone, writes again the rows that were refused for now, and does with the others what `onError`
 * says. Keeps the order of a batch's rows in all of this. Throws what ends the sink's life; knows no lanes and no cursors.
 */
import { setTimeout as delay } from 'node:timers/promises'
import {
  advance,
  comparePositions,
  formatPosition,
  type Position,
  beginningOf,
} from '../../change.ts'
import { told, writeChannel } from '../../diagnostics.ts'
import { SluiceError } from '../../errors.ts'
import type { BatchFacts, SinkBatch } from '../shape/batch.ts'
import type { SinkRow } from '../shape/row.ts'
import type { RowFailure, Sink } from '../sink.ts'
import type { CommonOptions } from './options.ts'

/** Plain counters, read by whoever asks. */
export interface Counts {
  rows: number
  bytes: number
  writes: number
  writeMs: number
  errors: number
  retries: number
  deadLetters: number
}
export const noCounts = (): Counts => ({
  rows: 0,
  bytes: 0,
  writes: 0,
  writeMs: 0,
  errors: 0,
  retries: 0,
  deadLetters: 0,
})
export interface DeliveryOptions {
  readonly instance: string // "" where there is none
  readonly name: string // of the sink
  readonly sink: Sink
  readonly config: Pick<CommonOptions, 'retry' | 'onError'>
  readonly counts: Counts
  /** Ends what is under way. */
  readonly signal: AbortSignal
  /** Ends the waits between attempts, and begins no new write. */
  readonly halt: AbortSignal
  /** A write failed and is tried again; `attempts` failures in a row. */
  readonly troubled: (error: Error, attempts: number) => void
  /** A write that was tried again is done. */
  readonly recovered: () => void
  /** Keeps a row that the target does not take, durably. */
  readonly bury: (row: SinkRow, error: Error) => void
}
/** The sink is to stop, although the error is one that may pass. */
export class GivenUp extends Error {
  override readonly name = 'GivenUp'
}
/** The sink was told to stop or to pause before this was written. */
export class Halted extends Error {
  override readonly name = 'Halted'
}

const retryable = (error: unknown): error is SluiceError =>
  error instanceof SluiceError && error.retryable

export class Delivery {
  readonly #options: DeliveryOptions
  constructor(options: DeliveryOptions) {
    this.#options = options
  }

  /** One try, for a batch that is written beside others. Throws whatever goes wrong, also of rows that may yet be taken. */
  async attempt(batch: SinkBatch): Promise<void> {
    const failures = await this.#write(batch)
    const { onError } = this.#options.config
    const again = failures.find((f) => f.retryable || onError === 'retry')
    if (again !== undefined) throw again.error
    // What is refused for good would be refused again, and the rest written twice.
    this.#settle(batch, failures)
  }

  /** Resolves when every row is in the target or a dead letter. */
  async deliver(batch: SinkBatch): Promise<void> {
    let rest = batch
    for (let attempts = 0; ;) {
      let failures: readonly RowFailure[] = []
      let error: unknown
      try {
        failures = await this.#write(rest)
      } catch (thrown) {
        error = thrown
      }
      if (error === undefined && failures.length === 0) return this.#done(attempts)
      const { onError } = this.#options.config
      if (error instanceof SluiceError && error.code === 'SINK_DATA' && onError !== 'retry') {
        this.#done(attempts)
        return await this.#halve(rest, error)
      }
      if (error === undefined) {
        const again = this.#settle(rest, failures)
        if (again.length === 0) return this.#done(attempts)
        rest = rest.only(again.map((f) => f.index))
        error = again[0]!.error
      } else if (this.#options.sink.promise === 'transactional' || !this.#passes(error)) throw error
      await this.#wait(error as Error, ++attempts)
    }
  }

  /** The same patience for what is not a batch. */
  async run(work: () => Promise<void>): Promise<void> {
    for (let attempts = 0; ;) {
      try {
        this.#begin()
        await work()
        return this.#done(attempts)
      } catch (error) {
        if (!retryable(error) || this.#options.sink.promise === 'transactional') throw error
        await this.#wait(error, ++attempts)
      }
    }
  }

  #begin(): void {
    if (this.#options.halt.aborted) throw new Halted('no new write is begun')
  }
  async #write(batch: SinkBatch): Promise<readonly RowFailure[]> {
    this.#begin()
    const { sink, counts, signal } = this.#options
    const before = performance.now()
    let failures: readonly RowFailure[] | undefined
    let error: unknown
    try {
      failures = await sink.write(batch, signal)
      counts.writes++
      counts.rows += Math.max(0, batch.walked - failures.length)
      return failures
    } catch (thrown) {
      error = thrown
      throw thrown
    } finally {
      const ms = performance.now() - before
      counts.writeMs += ms
      if (writeChannel.hasSubscribers) {
        const { instance, name } = this.#options
        const refused = failures?.length ?? 0
        const rows = failures ? Math.max(0, batch.walked - refused) : 0
        const startedAt = performance.timeOrigin + before
        const about = { instance, sink: name, startedAt, ms, rows, refused }
        writeChannel.publish({ ...about, error: told(error) })
      }
    }
  }
  #passes(error: unknown): boolean {
    if (retryable(error)) return true
    const { onError } = this.#options.config
    return onError === 'retry' && error instanceof SluiceError && error.code === 'SINK_DATA'
  }
  async #wait(error: Error, attempts: number): Promise<void> {
    const { config, counts, halt, troubled } = this.#options
    const { minMs, maxMs, attempts: most } = config.retry
    counts.errors++
    if (most > 0 && attempts >= most) {
      throw new GivenUp(`given up after ${attempts} attempts: ${error.message}`, { cause: error })
    }
    counts.retries++
    troubled(error, attempts)
    await delay(pauseMs(minMs, maxMs, attempts), undefined, { signal: halt }).catch(() => {})
  }
  #done(attempts: number): void {
    if (attempts > 0) this.#options.recovered()
  }

  /** What is to be written again of the rows that were refused; the others are dealt with. */
  #settle(batch: SinkBatch, failures: readonly RowFailure[]): readonly RowFailure[] {
    const { sink, config } = this.#options
    if (sink.promise === 'transactional')
      throw new Error('bug in a sink: a transactional one refused single rows of a write')
    const again = failures.filter((f) => f.retryable || config.onError === 'retry')
    if (again.length === failures.length) return again
    const dead = new Map<number, Error>()
    for (const f of failures) if (!again.includes(f)) dead.set(f.index, f.error)
    for (const row of batch.rows(false)) {
      const error = dead.get(row.index)
      if (error !== undefined) this.#refused(row, error)
    }
    return again
  }
  #refused(row: SinkRow, error: Error): void {
    const { config, counts, bury } = this.#options
    counts.errors++
    if (config.onError !== 'deadLetter') throw new GivenUp(refusal(row, error), { cause: error })
    bury(row, error)
    counts.deadLetters++
  }

  /** The write was refused as a whole: each half by itself, the first one first. */
  async #halve(batch: SinkBatch, error: Error): Promise<void> {
    const indexes = batch.indexes()
    const middle = indexes[indexes.length >> 1]
    if (indexes.length <= 1 || middle === undefined) {
      for (const row of batch.rows(false)) this.#refused(row, error)
      return
    }
    const { facts } = batch
    const firstEnd = isBehind(facts) ? positionBefore(facts, middle) : facts.end
    await this.deliver(batch.slice(indexes[0]!, middle).endingAt(firstEnd))
    await this.deliver(batch.slice(middle, indexes.at(-1)! + 1))
  }
}

/** ms before attempt n + 1: doubles, less up to a half by chance. */
export function pauseMs(minMs: number, maxMs: number, failures: number): number {
  const most = Math.min(maxMs, minMs * 2 ** Math.min(failures - 1, 20))
  return Math.round(most * (0.5 + Math.random() / 2))
}

function refusal(row: SinkRow, error: Error): string {
  const { table, tx } = row
  const keys = table.keys.map((c) => `${c.name}=${String(row.string(row.side, c))}`).join(' ')
  const where = `${table.database}.${table.name}${keys ? ` ${keys}` : ''}`
  return `${where} (${row.op} at ${formatPosition(beginningOf(tx))}, ${row.id}) is refused: ${error.message}`
}

/** Whether `end` lies behind the batch's own rows. */
function isBehind({ start, end }: BatchFacts): boolean {
  if (end.epoch !== start.epoch) return true
  return (comparePositions(end, start) || (end.row ?? 0) - (start.row ?? 0)) > 0
}

/** The position at which the rows of the batch with an index below are done, and no other. */
export function positionBefore(facts: BatchFacts, index: number): Position {
  let position = facts.start
  let first = 0
  for (const { tx, changes } of facts.slices) {
    if (tx.state === 'prepared') return facts.start // its rows come at XA COMMIT, from elsewhere in the log
    for (const change of changes) {
      let rows = 0
      for (const reader = change.reader(); reader.next();) rows++
      if (index < first + rows) {
        if (change.snapshot) return position // its rows are not in the log
        const { epoch, server, file, offset, timestamp } = tx
        const inside = { skip: change.ordinal, row: index - first }
        return { epoch, server, file, offset, timestamp, gtids: position.gtids, ...inside }
      }
      first += rows
    }
    if (changes[0]?.snapshot !== true) position = advance(position, tx)
  }
  return facts.end
}
