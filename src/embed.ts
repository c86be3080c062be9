/**
 * The package itself, `import { embed } from 'sluice'`: one instance inside a program, and functions that are called with its
 * changes. The same reading, the same durable positions and the same patience as in the server, with the program's own
 * functions as sinks: each subscriber has a place of its own in the log, and goes on there after a restart.
 *
 *   const shop = embed({ name: 'shop', dataDir: 'data', source: { host: 'db', user: 'sluice', password } })
 *   shop.subscribe('search').on('shop.orders', { insert: (row) => index(row), delete: (row) => remove(row) })
 *   await shop.start()
 *
 * One process at a time can have a `dataDir` and a `name`; the server's own (conf/server.yaml) must be another folder.
 */
import { mkdirSync } from 'node:fs'
import { resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type * as z from 'zod'
import {
  instanceOf,
  sinkNamePattern,
  type InstanceConfig,
  type instanceSchema,
} from './config/config.ts'
import { HANDLER, Subscriber, handlerSinks, type AnyRow } from './embed/handlers.ts'
import { SluiceError } from './errors.ts'
import { Instance, type InstanceStatus } from './instance.ts'
import { createLogger, type Logger } from './logger.ts'
import { commonSchema, type SinkConfig } from './sinks/runner/options.ts'
import { sinkTypes } from './sinks/index.ts'
import { ReaderThread } from './sources/index.ts'

export { RowRefused, Subscriber } from './embed/handlers.ts'
export type * from './embed/handlers.ts'
export { SluiceError } from './errors.ts'
export type { ErrorCode } from './errors.ts'
export type { InstanceStatus } from './instance.ts'
export type { JsonDiff, Value } from './change.ts'

/** Every key of an instance file (docs/config.md), and where the state is kept. */
export type EmbedOptions = z.input<typeof instanceSchema> & {
  /** Of the instance: its state is `<name>.sqlite` in `dataDir`. */
  readonly name: string
  /** A folder for the state; made where there is none. */
  readonly dataDir: string
  /** A pino logger, or the least level of lines on standard error; default 'warn'. */
  readonly log?: Logger | 'debug' | 'info' | 'warn' | 'error' | 'silent'
  /** Read and check the log in a thread of its own: faster, for some 30 MB. Default false. */
  readonly thread?: boolean
}
/** What all sinks have: batch, retry, onError, initialLoad, tables, parallel and so on (docs/sinks.md). */
export type SubscribeOptions = z.input<typeof commonSchema>

const LOOK_MS = 100

/** Checks the options. Throws SluiceError CONFIG_INVALID with every problem at once. */
export function embed<Tables extends object = Record<string, AnyRow>>(
  options: EmbedOptions,
): Embedded<Tables> {
  return new Embedded(options)
}

export class Embedded<Tables extends object = Record<string, AnyRow>> implements AsyncDisposable {
  readonly name: string
  readonly #config: InstanceConfig
  readonly #dataDir: string
  readonly #log: Logger
  readonly #thread: ReaderThread | undefined
  readonly #subscribers = new Map<string, Subscriber<never>>()
  readonly #options = new Map<string, SubscribeOptions>()
  #instance: Instance | undefined
  #over: Promise<void> | undefined
  readonly #stop = new AbortController()
  /** Resolves after stop(); rejects when the instance, or one of its sinks, has failed for good: what is left goes on. */
  readonly ended: Promise<void>
  #end!: { readonly resolve: () => void; readonly reject: (error: Error) => void }

  constructor({ name, dataDir, log = 'warn', thread = false, ...instance }: EmbedOptions) {
    this.name = name
    this.#config = instanceOf(name, instance)
    this.#dataDir = resolve(dataDir)
    const logger = typeof log === 'string' ? createLogger(log, 2) : log
    this.#log = logger.child({ instance: name })
    this.#thread = thread ? new ReaderThread() : undefined
    this.ended = new Promise((resolve, reject) => (this.#end = { resolve, reject }))
    this.ended.catch(() => undefined) // who does not ask is told by the log
  }

  /**
   * Another subscriber, before start(). Its name is durable: under it the place in the log is kept. Throws SluiceError USAGE,
   * CONFIG_INVALID.
   */
  subscribe(name: string, options: SubscribeOptions = {}): Subscriber<Tables> {
    if (this.#instance)
      throw new SluiceError('USAGE', `${this.name}: expected subscribe before start`)
    if (!sinkNamePattern.test(name) || this.#subscribers.has(name) || this.#config.sinks[name]) {
      const text = `expected a new name of up to 50 letters, digits, "-" and "_", found "${name}"`
      throw new SluiceError('USAGE', `${this.name}: subscriber: ${text}`)
    }
    const subscriber = new Subscriber<Tables>(name)
    sinkConfig(name, options)
    this.#subscribers.set(name, subscriber as unknown as Subscriber<never>)
    this.#options.set(name, options)
    return subscriber
  }

  /**
   * Begins, and resolves when the source is being read; where it cannot be reached, that may take until it can. Throws
   * SluiceError STATE_LOCKED, STATE_UNREADABLE, and what makes the instance fail (SOURCE_UNSUITABLE, ACCESS_DENIED …).
   */
  async start(): Promise<void> {
    if (this.#instance)
      throw new SluiceError('USAGE', `${this.name}: expected one start, found another`)
    mkdirSync(this.#dataDir, { recursive: true })
    const own = [...this.#subscribers].map(([name, subscriber]): [string, SinkConfig] => [
      name,
      sinkConfig(name, { ...onlyThese(subscriber.names), ...this.#options.get(name) }),
    ])
    const instance = Instance.open({
      name: this.name,
      config: { ...this.#config, sinks: { ...this.#config.sinks, ...Object.fromEntries(own) } },
      dataDir: this.#dataDir,
      log: this.#log,
      sinkTypes: [...sinkTypes, handlerSinks(this.#subscribers)],
      thread: this.#thread,
    })
    this.#instance = instance
    instance.start()
    void this.#watch(instance)
    while (!this.#stop.signal.aborted) {
      const { status } = instance
      if (status.state === 'running') return
      if (status.state === 'failed') throw status.error
      await sleep(LOOK_MS, undefined, { signal: this.#stop.signal }).catch(() => undefined)
    }
  }

  /** undefined before start(). */
  get status(): InstanceStatus | undefined {
    return this.#instance?.status
  }

  /** Ends after the handlers that are under way, and makes positions durable. Idempotent. */
  stop(): Promise<void> {
    this.#over ??= this.#close()
    return this.#over
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }
  async #close(): Promise<void> {
    this.#stop.abort()
    await this.#instance?.stop()
    await this.#thread?.close()
    this.#end.resolve()
  }

  /** Tells `ended` of what has failed. */
  async #watch(instance: Instance): Promise<void> {
    while (!this.#stop.signal.aborted) {
      const { sinks, ...status } = instance.status
      const failed = [status, ...sinks].find((one) => one.state === 'failed')
      if (failed?.state === 'failed') return this.#end.reject(failed.error)
      await sleep(LOOK_MS, undefined, { signal: this.#stop.signal, ref: false }).catch(
        () => undefined,
      )
    }
  }
}

function sinkConfig(name: string, options: SubscribeOptions): SinkConfig {
  const { data, error } = commonSchema.safeParse(options)
  if (data) return { ...data, type: HANDLER }
  const texts = error.issues.map(
    (i) => `subscriber ${name}: ${i.path.join('.')}: expected ${i.message}`,
  )
  throw new SluiceError('CONFIG_INVALID', texts.join('\n'))
}
/** As Canal's regular expressions over database.table. */
function onlyThese(names: readonly string[] | undefined): SubscribeOptions {
  if (!names) return {}
  const literally = (text: string): string =>
    text.replace(/[!-/:-@[-^`{-~]/g, (mark) => (mark === ',' ? '\\x2c' : `\\${mark}`))
  return { filter: { include: names.map(literally).join(',') } }
}
