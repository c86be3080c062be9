/**
 * One sink, kept going: opens it, reads its cursor, writes, acks, and tries again what may pass. What cannot pass leaves
 * this sink 'failed', visible in its status and the log, with its cursor where it was; nothing leaves the runner, and
 * other sinks and the instance go on. Knows the contract of a sink (sink.ts) and no sink by name.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Position, Source } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { compileFilter, everything } from '../../filter.ts'
import type { Logger } from '../../logger.ts'
import type { Batch, Cursor } from '../../store/cursor.ts'
import type { State } from '../../store/state.ts'
import type { Store } from '../../store/store.ts'
import { rowChanges, SinkBatch, type Slice } from '../shape/batch.ts'
import { plainTarget } from '../shape/row.ts'
import { NO_VERSION, versionBefore } from '../shape/version.ts'
import type { Sink, SinkContext, SinkType } from '../sink.ts'
import { ownOptions, type SinkConfig } from './options.ts'

/** What a sink needs of its instance. */
export interface SinkHost {
  readonly instance: string
  readonly log: Logger
  readonly state: State
  readonly store: Store
  readonly query: SinkContext['query']
  /** Which history is read now. */
  known(): { readonly server: string; readonly epoch: number }
  /** A read of the source of its own. */
  readonly read: Source['read']
}
export type SinkState =
  | { readonly state: 'connecting' | 'running' | 'paused' | 'stopped' }
  | { readonly state: 'retrying'; readonly error: Error; readonly attempts: number }
  | { readonly state: 'failed'; readonly error: Error }
export type SinkStatus = SinkState & {
  readonly name: string
  readonly type: string
  readonly since: number // ms, of the last change of state
  readonly acked: Position | undefined
  readonly rows: number // since the start of this instance, as the following
  readonly bytes: number // of binlog
  readonly writes: number
  readonly writeMs: number // spent in writes, all together
  readonly errors: number
  readonly retries: number
}

/** The name of a sink's cursor in the store. */
export const cursorName = (sink: string): string => `sink:${sink}`

export class SinkRunner {
  readonly name: string
  readonly config: SinkConfig
  readonly #type: SinkType
  readonly #host: SinkHost
  readonly #log: Logger
  readonly #stop = new AbortController()
  #status: SinkState = { state: 'stopped' }
  #since = Date.now()
  #done: Promise<void> | undefined
  #cursor: Cursor | undefined
  #issued = NO_VERSION
  #failures = 0
  readonly #counts = { rows: 0, bytes: 0, writes: 0, writeMs: 0, errors: 0, retries: 0 }

  constructor(name: string, config: SinkConfig, type: SinkType, host: SinkHost) {
    this.name = name
    this.config = config
    this.#type = type
    this.#host = host
    this.#log = host.log.child({ sink: name })
  }
  get status(): SinkStatus {
    const { name, config } = this
    const about = { name, type: config.type, since: this.#since, acked: this.#cursor?.acked }
    return { ...this.#status, ...about, ...this.#counts }
  }
  start(): void {
    this.#done ??= this.#run(this.#stop.signal).catch((error: unknown) => {
      this.#enter({ state: 'failed', error: asError(error) })
    })
  }
  /** Ends after the write that is under way. Idempotent; never rejects. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#done
    if (this.#status.state !== 'stopped') this.#enter({ state: 'stopped' })
  }

  async #run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await this.#life(signal)
      } catch (error) {
        if (signal.aborted) return
        if (!(await this.#failed(error, signal))) throw error
      }
    }
  }
  /** Counts a failure and waits; false when trying again cannot help. */
  async #failed(error: unknown, signal: AbortSignal): Promise<boolean> {
    this.#counts.errors++
    const { attempts } = this.config.retry
    if (!(error instanceof SluiceError) || !error.retryable) return false
    this.#failures++
    if (attempts > 0 && this.#failures >= attempts) return false
    this.#counts.retries++
    if (this.#status.state !== 'retrying')
      this.#enter({ state: 'retrying', error, attempts: this.#failures })
    else this.#status = { state: 'retrying', error, attempts: this.#failures }
    await delay(this.#pause(), undefined, { signal }).catch(() => {})
    return true
  }
  #pause(): number {
    const { minMs, maxMs } = this.config.retry
    const most = Math.min(maxMs, minMs * 2 ** Math.min(this.#failures - 1, 20))
    return Math.round(most * (0.5 + Math.random() / 2))
  }
  #worked(): void {
    this.#failures = 0
    if (this.#status.state !== 'running') this.#enter({ state: 'running' })
  }

  /** From open() to close(). */
  async #life(signal: AbortSignal): Promise<void> {
    const { store, state, instance, query } = this.#host
    if (this.#status.state === 'stopped') this.#enter({ state: 'connecting' })
    const client = cursorName(this.name)
    const { include, exclude } = this.config.filter
    const filter = compileFilter({ include, exclude })
    const filterText = filter === everything ? '' : `${String(include)} - ${String(exclude)}`
    const subscription = { filter: filter === everything ? undefined : filter, filterText }
    this.#cursor = store.subscribe(client, subscription)
    const own = ownOptions(this.#type, this.config)
    const sink = await this.#type.open(own, {
      instance,
      sink: this.name,
      log: this.#log,
      signal,
      fence: state.fence,
      ...this.#host.known(),
      position: this.#cursor.acked,
      query,
    })
    try {
      if (sink.resume !== undefined)
        this.#cursor = store.subscribe(client, { ...subscription, moveTo: sink.resume })
      this.#issued = state.value(`${client}:issued`) ?? NO_VERSION
      this.#worked()
      await this.#consume(sink, this.#cursor, signal)
    } finally {
      this.#cursor.close()
      await sink.close()
    }
  }
  async #consume(sink: Sink, cursor: Cursor, signal: AbortSignal): Promise<void> {
    const { changes, bytes } = this.config.batch
    const targets = new WeakMap<object, ReturnType<typeof plainTarget>>()
    while (!signal.aborted) {
      const batch = await cursor.get({ changes, bytes, waitMs: Infinity }, signal)
      if (batch === undefined) continue
      try {
        const slices = slicesOf(batch)
        if (slices.length > 0) {
          this.#issue(batch)
          const made = new SinkBatch({
            slices,
            start: batch.start,
            end: batch.end,
            highest: this.#issued,
            redelivered: batch.redelivered,
            target: (table) => {
              let known = targets.get(table)
              if (known === undefined) targets.set(table, (known = plainTarget(table)))
              return known
            },
          })
          if (!(await this.#write(sink, made, signal))) return
        }
        await cursor.ack(batch.id)
      } finally {
        batch.release()
      }
    }
  }
  /** Until it is written; false when `signal` came first. */
  async #write(sink: Sink, batch: SinkBatch, signal: AbortSignal): Promise<boolean> {
    for (;;) {
      try {
        const before = performance.now()
        const failures = await sink.write(batch, signal)
        this.#counts.writeMs += performance.now() - before
        this.#counts.writes++
        const first = failures[0]
        if (first !== undefined) throw first.error
        this.#worked()
        return true
      } catch (error) {
        if (signal.aborted) return false
        if (!(await this.#failed(error, signal))) throw error
      }
    }
  }
  /** Durable before the write: whoever finds a version above it in the target knows that it is not ours. */
  #issue(batch: Batch): void {
    const version = versionBefore(batch.end)
    if (version <= this.#issued) return
    this.#issued = version
    this.#host.state.setValue(`${cursorName(this.name)}:issued`, version)
  }
  #enter(next: SinkState): void {
    this.#status = next
    this.#since = Date.now()
    const { name } = this
    if (next.state === 'failed') {
      const fields = { state: next.state, ...errorFields(next.error) }
      this.#log.error(fields, `sink ${name} failed: ${next.error.message}`)
    } else if (next.state === 'retrying') {
      const fields = { state: next.state, ...errorFields(next.error) }
      this.#log.warn(fields, `sink ${name} tries again: ${next.error.message}`)
    } else this.#log.info({ state: next.state }, `sink ${name} ${next.state}`)
  }
}

function slicesOf(batch: Batch): Slice[] {
  const slices: Slice[] = []
  for (const { tx, from, to } of batch.parts) {
    const changes = rowChanges(tx.changes.slice(from, to)).filter((c) => batch.wants(c))
    if (changes.length > 0) slices.push({ tx, changes })
  }
  return slices
}
const asError = (error: unknown): Error =>
  error instanceof Error ? error : new Error(String(error))
function errorFields(error: Error): object {
  return error instanceof SluiceError ? { code: error.code } : { stack: error.stack }
}
