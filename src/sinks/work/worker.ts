/**
 * A worker behind Kafka: opens one sink and writes to it what its share of the topics' partitions has, as a member of a
 * consumer group (consumer.ts, writer.ts). Tries again for ever what may pass; throws what cannot. Any number of workers
 * run at once and die at any moment: a message is committed when it is written, written again where that is not known, and
 * an older version never wins in the target.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { IMemberAssignment } from 'kafkajs'
import { SluiceError, withoutPasswords } from '../../errors.ts'
import type { Logger } from '../../logger.ts'
import type { Control } from '../letters/control.ts'
import { GivenUp, noCounts, pauseMs } from '../runner/delivery.ts'
import { ownOptions, type SinkConfig } from '../runner/options.ts'
import type { Sink, SinkType } from '../sink.ts'
import { consume, type BrokerOptions } from './consumer.ts'
import { NOWHERE, Writer } from './writer.ts'

export interface WorkerOptions {
  readonly instance: string // that wrote the topics
  readonly kafka: BrokerOptions
  readonly topics: readonly string[]
  readonly group: string
  readonly sink: SinkConfig
  readonly type: SinkType
  readonly control: Control // dead letters
  readonly log: Logger
}

const GRACE_MS = 5000 // how long a write under way may take once the worker is to end
type State = 'connecting' | 'running' | 'retrying'

export class Worker {
  readonly #options: WorkerOptions
  readonly #log: Logger
  readonly #counts = noCounts()
  readonly #writer: Writer
  #state: State | undefined
  #failures = 0 // sessions in a row that ended before anything was written

  constructor(options: WorkerOptions) {
    const { instance, group, sink, control } = options
    this.#options = options
    this.#log = options.log.child({ instance, sink: group })
    this.#writer = new Writer({
      instance,
      name: group,
      config: sink,
      control,
      counts: this.#counts,
      log: this.#log,
      troubled: (error) => this.#troubled(error),
      recovered: () => this.#enter('running'),
    })
  }

  /** Until `signal`; then what is being written is finished and committed, or a few seconds later left to the others. */
  async run(signal: AbortSignal): Promise<void> {
    const { retry } = this.#options.sink
    while (!signal.aborted) {
      try {
        await this.#session(signal)
      } catch (error) {
        if (signal.aborted) break
        const passes = error instanceof SluiceError && error.retryable
        if (!passes) throw error
        this.#failures++
        if (retry.attempts > 0 && this.#failures >= retry.attempts)
          throw new GivenUp(`given up after ${this.#failures} attempts: ${error.message}`)
        this.#troubled(error)
        const pause = pauseMs(retry.minMs, retry.maxMs, this.#failures)
        await delay(pause, undefined, { signal }).catch(() => {})
      }
    }
    const { rows, writes, retries, deadLetters } = this.#counts
    this.#log.info({ rows, writes, retries, deadLetters }, 'worker stopped')
  }

  async #session(signal: AbortSignal): Promise<void> {
    const { kafka, topics, group, sink: config } = this.#options
    if (this.#state === undefined) this.#enter('connecting')
    const hard = new AbortController()
    let grace: NodeJS.Timeout | undefined
    const stop = (): void => {
      grace = setTimeout(() => hard.abort(), GRACE_MS)
    }
    signal.addEventListener('abort', stop)
    let sink: Sink | undefined
    try {
      sink = await this.#open(hard.signal)
      const opened = sink
      const { changes: messages, bytes } = config.batch
      await consume(
        {
          kafka,
          topics,
          group,
          limit: { messages, bytes },
          log: this.#log,
          joined: (partitions) => this.#joined(partitions),
          write: async (piece, halt) => {
            const done = await this.#writer.write(opened, piece, halt, hard.signal)
            if (done) this.#failures = 0
            return done
          },
        },
        signal,
      )
    } finally {
      clearTimeout(grace)
      signal.removeEventListener('abort', stop)
      await sink?.close().catch((error: unknown) => {
        this.#log.warn({ error: withoutPasswords(String(error)) }, 'closing the sink')
      })
    }
  }
  async #open(signal: AbortSignal): Promise<Sink> {
    const { type, sink, instance, group } = this.#options
    return await type.open(ownOptions(type, sink), {
      instance,
      sink: group,
      log: this.#log,
      signal,
      fence: 0,
      server: '',
      epoch: 0,
      position: NOWHERE,
      shared: true,
      onError: sink.onError,
      query: () => Promise.resolve([]),
    })
  }

  // ── states ─────────────────────────────────────────────────────────────────

  #joined(partitions: IMemberAssignment): void {
    this.#enter('running')
    const count = Object.values(partitions).reduce((sum, list) => sum + list.length, 0)
    this.#log.info({ partitions }, `worker has ${count} partitions`)
  }
  #troubled(error: Error): void {
    if (this.#state === 'retrying') return
    const message = withoutPasswords(error.message)
    const code = error instanceof SluiceError ? { code: error.code } : {}
    this.#log.warn({ ...code, state: 'retrying' }, `worker tries again: ${message}`)
    this.#state = 'retrying'
  }
  #enter(state: State): void {
    if (this.#state === state) return
    this.#state = state
    this.#log.info({ state }, `worker ${state}`)
  }
}
