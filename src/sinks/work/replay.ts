/**
 * Writes a stretch of the log to a sink once more, beside the instance or without it: through a store and a cursor of its own
 * and one life of the sink (runner/life.ts), so that batches, XA, retries and dead letters are what they always are. Changes keep
 * their versions: what is newer in the target stays. The sink is told that it is not alone (`shared`), and keeps no position.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Filter, Position, Source, Transaction } from '../../change.ts'
import { SluiceError, withoutPasswords } from '../../errors.ts'
import { compileFilter, intersect } from '../../filter.ts'
import type { Logger } from '../../logger.ts'
import type { Cursor } from '../../store/cursor.ts'
import type { State } from '../../store/state.ts'
import { Store } from '../../store/store.ts'
import type { Control } from '../letters/control.ts'
import { bury } from '../runner/bury.ts'
import { noCounts, type Counts } from '../runner/delivery.ts'
import { Life } from '../runner/life.ts'
import { ownOptions, type SinkConfig } from '../runner/options.ts'
import { compileMapping } from '../shape/mapping.ts'
import { VERSION_MAX } from '../shape/version.ts'
import type { Sink, SinkType } from '../sink.ts'
import { NOWHERE } from './writer.ts'

const CLIENT = 'replay'
const WINDOW_BYTES = 8 * 1024 * 1024
const LOOK_MS = 20

export interface ReplayOptions {
  readonly instance: string
  readonly name: string // of the sink
  readonly config: SinkConfig
  readonly type: SinkType
  readonly control: Control // dead letters
  readonly state: State // of its own, empty
  readonly from: Position
  /** The stretch, and its parts once more. Ends where it ends. */
  readonly transactions: AsyncIterable<Transaction>
  readonly read: Source['read']
  readonly filter: Filter
  readonly log: Logger
}
export interface ReplayProgress extends Readonly<Counts> {
  readonly transactions: number // read
  readonly position: Position // everything before it is in the target
}

/** Why a sink cannot be replayed into beside a server; undefined: it can. */
export function unfit(sink: SinkConfig): string | undefined {
  const { type } = sink
  const instead = 'set its position back instead: sluice position … set … --client sink:NAME'
  if (type === 'kafka' || type === 'file')
    return `expected a sink whose writes carry versions, found type ${type}: what it wrote has an order; ${instead}`
  if (type === 'sql' && sink['fence'] !== 'version')
    return `expected fence: version, found ${String(sink['fence'])}: rows without a version cannot be told from newer ones; ${instead}`
  const rules = (sink['rules'] ?? []) as readonly { readonly kind: string }[]
  if (type === 'redis' && rules.some(({ kind }) => kind === 'invalidate'))
    return 'expected rules of other kinds than invalidate, which asks the source for what is visible now'
  return undefined
}

export class Replay {
  readonly counts = noCounts()
  readonly #options: ReplayOptions
  readonly #store: Store
  #cursor: Cursor | undefined
  #transactions = 0

  constructor(options: ReplayOptions) {
    const { state, from, read, log } = options
    this.#options = options
    this.#store = new Store({
      windowBytes: WINDOW_BYTES,
      catchUpReaders: 1,
      catchUp: read,
      state,
      origin: from,
      log,
    })
  }
  get progress(): ReplayProgress {
    const position = this.#cursor?.acked ?? this.#options.from
    return { ...this.counts, transactions: this.#transactions, position }
  }

  /**
   * Until the stretch is in the target. Throws what ends the sink's life, and what reading throws once all that came before is in the
   * target. With `signal` it ends after what is being written.
   */
  async run(signal: AbortSignal): Promise<void> {
    const { config, type, instance, name, log } = this.#options
    const halt = new AbortController()
    const stop = (): void => halt.abort()
    signal.addEventListener('abort', stop)
    const hard = new AbortController()
    let sink: Sink | undefined
    try {
      sink = await type.open(ownOptions(type, config), {
        instance,
        sink: name,
        log,
        signal: hard.signal,
        fence: 0,
        server: '',
        epoch: 0,
        position: NOWHERE,
        shared: true,
        onError: config.onError,
        query: () => Promise.resolve([]),
      })
      await this.#write(sink, halt, hard.signal)
    } finally {
      signal.removeEventListener('abort', stop)
      await this.#store.close()
      await sink?.close().catch((error: unknown) => {
        log.warn({ error: withoutPasswords(String(error)) }, `sink ${name}: closing`)
      })
    }
  }
  async #write(sink: Sink, halt: AbortController, signal: AbortSignal): Promise<void> {
    const { config } = this.#options
    const { include, exclude } = config.filter
    const filter = intersect(this.#options.filter, compileFilter({ include, exclude }))
    const cursor = this.#store.subscribe(CLIENT, { filter })
    this.#cursor = cursor
    let failed: unknown
    const life = this.#life(sink, { filter, cursor, halt: halt.signal, signal })
      .run()
      .catch((error: unknown) => {
        failed = error
      })
      .finally(() => halt.abort())
    const read = await this.#pump(cursor, halt)
    halt.abort()
    await life
    cursor.close()
    if (failed !== undefined) throw failed
    if (read !== undefined) throw read
  }
  /** What reading threw. */
  async #pump(cursor: Cursor, halt: AbortController): Promise<unknown> {
    let error: unknown
    try {
      for await (const tx of this.#options.transactions) {
        await this.#store.append(tx, halt.signal)
        if (halt.signal.aborted) return undefined
        this.#transactions++
      }
    } catch (thrown) {
      error = thrown
    }
    const { file, offset, skip } = this.#store.resume
    const done = ({ acked }: Cursor): boolean =>
      acked.file === file && acked.offset === offset && acked.skip === skip
    while (!halt.signal.aborted && !done(cursor)) await sleep(LOOK_MS)
    return error
  }
  #life(
    sink: Sink,
    more: {
      readonly filter: Filter
      readonly cursor: Cursor
      readonly halt: AbortSignal
      readonly signal: AbortSignal
    },
  ): Life {
    const { config, instance, name, control, state, log, read } = this.#options
    const { deadLettersMax } = config
    return new Life({
      ...more,
      sink,
      state,
      read,
      instance,
      name,
      client: CLIENT,
      config: { ...config, unloggedChange: 'ignore' },
      log,
      counts: this.counts,
      query: () => Promise.resolve([]),
      resnapshot: undefined, // the source is not asked
      target: compileMapping(config.tables, `sinks.${name}`),
      rowsDone: 0,
      issued: VERSION_MAX, // that something newer is there is the rule
      troubled: (error, attempts) => {
        if (attempts > 1) return
        const code = error instanceof SluiceError ? { code: error.code } : {}
        log.warn(code, `sink ${name} tries again: ${withoutPasswords(error.message)}`)
      },
      recovered: () => {},
      bury: (row, error) => bury(control, { sink: name, deadLettersMax, log }, row, error),
      extra: () => undefined,
    })
  }
}
