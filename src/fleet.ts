/**
 * The running instances, kept equal to the files of the instances folder: a file that is added, edited or removed
 * starts, restarts or stops that instance and no other. An edit with problems is logged and changes nothing. Watches
 * the folder and also looks now and then, because not every file system tells.
 */
import { statSync, watch } from 'node:fs'
import type { FSWatcher } from 'node:fs'
import { instanceFiles, loadInstance } from './config/config.ts'
import type { InstanceConfig } from './config/config.ts'
import { formatProblem } from './config/yaml.ts'
import { SluiceError } from './errors.ts'
import { Instance } from './instance.ts'
import type { InstanceStatus } from './instance.ts'
import type { Logger } from './logger.ts'
import type { ReaderThread } from './sources/index.ts'

const DEBOUNCE_MS = 100 // editors write a file in several steps
const POLL_MS = 2000
const SETTLE_MS = 20
const HELD = 'it was stopped by an operator'

export interface FleetOptions {
  readonly folder: string
  readonly dataDir: string
  readonly log: Logger
  readonly thread?: ReaderThread | undefined // where instances read their logs; left out, in this thread
  readonly memoryBytesMax?: number | undefined // for the windows of all instances together
  readonly onSinks?: (() => void) | undefined // called before an instance with sinks is opened
}
/** What is known of one instance file. */
export interface FleetMember {
  readonly name: string
  readonly file: string
  readonly config: InstanceConfig | undefined // undefined: it never had a good one
  readonly instance: Instance | undefined
  readonly trouble: string | undefined // why there is no instance
  readonly code: string | undefined // of the error behind it
  readonly held: boolean // stopped by an operator
}
/** One instance file. `instance` is undefined while it is disabled, has problems from the start, or could not open. */
interface Entry {
  readonly file: string
  stamp: string // of the file as last looked at
  config: InstanceConfig | undefined
  instance: Instance | undefined
  trouble: string | undefined // why there is no instance
  code: string | undefined // of the error behind it
  held: boolean // an operator has stopped it
}

export class Fleet {
  readonly #options: FleetOptions
  readonly #log: Logger
  readonly #entries = new Map<string, Entry>()
  #watcher: FSWatcher | undefined
  #poll: NodeJS.Timeout | undefined
  #debounce: NodeJS.Timeout | undefined
  #work: Promise<void> = Promise.resolve() // scans and the close, one after another
  #closed = false
  #folderTrouble = ''

  constructor(options: FleetOptions) {
    this.#options = options
    this.#log = options.log
  }

  /** Starts what is in the folder and goes on watching it. Resolves when every instance was opened. */
  async open(): Promise<void> {
    await this.scan()
    this.#poll = setInterval(() => {
      this.#watch()
      void this.scan()
    }, POLL_MS).unref()
    this.#watch()
  }

  /** Looks at the folder once; resolves when the instances follow it. Never rejects. */
  scan(): Promise<void> {
    return (this.#work = this.#work.then(() => this.#scan()))
  }

  /** Resolves when no instance is in its first connection attempt, or after `waitMs`. */
  async settled(waitMs: number): Promise<void> {
    const until = Date.now() + waitMs
    const connecting = (): boolean => this.statuses().some((s) => s.state === 'connecting')
    while (connecting() && Date.now() < until) {
      await new Promise((resolve) => setTimeout(resolve, SETTLE_MS))
    }
  }

  /** The running instance of a destination, or why there is none. */
  find(destination: string): Instance | string {
    const entry = this.#entries.get(destination)
    if (!entry)
      return `destination ${destination} is unknown: there is no such file in the instances folder`
    return (
      entry.instance ??
      `destination ${destination} does not run: ${entry.trouble ?? 'it is starting'}`
    )
  }
  members(): FleetMember[] {
    return [...this.#entries].map(([name, entry]) => ({ name, ...entry }))
  }
  /** Stops an instance until start, or the end of this process. Throws DESTINATION_UNKNOWN. */
  hold(name: string): Promise<void> {
    return this.#alone(name, async (entry) => {
      entry.held = true
      await this.#stop(entry)
      entry.trouble = HELD
    })
  }
  /** Starts an instance that was stopped, has failed or could not open. Throws DESTINATION_UNKNOWN. */
  release(name: string): Promise<void> {
    return this.#alone(name, async (entry) => {
      if (!entry.config) throw new SluiceError('CONFIG_INVALID', `${name}: ${entry.trouble}`)
      entry.held = false
      if (entry.instance && entry.instance.status.state !== 'failed') return
      await this.#stop(entry)
      this.#start(name, entry)
    })
  }
  /** Stops an instance, does something, and starts it again where it ran. Throws DESTINATION_UNKNOWN, and what `work` throws. */
  whileStopped<T>(name: string, work: () => T): Promise<T> {
    return this.#alone(name, async (entry) => {
      await this.#stop(entry)
      try {
        return work()
      } finally {
        this.#start(name, entry)
      }
    })
  }
  statuses(): InstanceStatus[] {
    return [...this.#entries.values()].flatMap((e) => e.instance?.status ?? [])
  }

  /** Stops watching, then every instance. */
  async close(): Promise<void> {
    this.#closed = true
    clearInterval(this.#poll)
    clearTimeout(this.#debounce)
    this.#watcher?.close()
    await this.#work
    await Promise.all([...this.#entries.values()].map((entry) => this.#stop(entry)))
  }

  /** One after another with everything that starts and stops instances. */
  #alone<T>(name: string, work: (entry: Entry) => Promise<T>): Promise<T> {
    const result = this.#work.then(async () => {
      const entry = this.#entries.get(name)
      if (entry && !this.#closed) return await work(entry)
      throw new SluiceError('DESTINATION_UNKNOWN', `there is no instance ${name}`)
    })
    this.#work = result.then(
      () => {},
      () => {},
    )
    return result
  }

  #watch(): void {
    if (this.#watcher || this.#closed) return
    try {
      this.#watcher = watch(this.#options.folder, () => {
        clearTimeout(this.#debounce)
        this.#debounce = setTimeout(() => void this.scan(), DEBOUNCE_MS)
      })
      const gone = (): void => {
        this.#watcher?.close()
        this.#watcher = undefined
      }
      this.#watcher.on('error', gone)
    } catch {
      // The folder is away or the system has no watches left: the poll does it.
    }
  }

  async #scan(): Promise<void> {
    if (this.#closed) return
    let files: Map<string, string>
    try {
      files = instanceFiles(this.#options.folder)
      this.#folderTrouble = ''
    } catch (error) {
      // A folder that is gone for a moment must not stop everything.
      const { message } = error as Error
      if (message !== this.#folderTrouble) this.#log.error({ code: 'CONFIG_UNREADABLE' }, message)
      this.#folderTrouble = message
      return
    }
    for (const [name, entry] of this.#entries) {
      if (files.get(name) === entry.file) continue
      this.#entries.delete(name)
      this.#log.info({ instance: name }, `instance ${name}: its file was removed`)
      await this.#stop(entry)
    }
    for (const [name, file] of files) await this.#look(name, file)
  }

  async #look(name: string, file: string): Promise<void> {
    const stamp = stampOf(file)
    if (stamp === undefined) return // removed or still empty: the next look decides
    const entry = this.#entries.get(name)
    if (entry?.stamp === stamp) {
      if (isWorthAnotherTry(entry)) this.#start(name, entry)
      return
    }
    const { config, problems } = loadInstance(file)
    if (!config) {
      const text = problems.map(formatProblem).join('\n')
      const still = entry?.instance ? '; it goes on with what it had' : ''
      this.#log.error(
        { instance: name, code: 'CONFIG_INVALID', problems: problems.map(formatProblem) },
        `instance ${name}: its file has problems${still}`,
      )
      if (entry) entry.stamp = stamp
      else
        this.#entries.set(name, {
          file,
          stamp,
          config,
          instance: undefined,
          trouble: text,
          code: undefined,
          held: false,
        })
      return
    }
    const next = entry ?? {
      file,
      stamp,
      config: undefined,
      instance: undefined,
      trouble: undefined,
      code: undefined,
      held: false,
    }
    const same = JSON.stringify(next.config) === JSON.stringify(config)
    next.stamp = stamp
    next.config = config
    this.#entries.set(name, next)
    if (same && next.instance && next.instance.status.state !== 'failed') {
      next.instance.retrySinks()
      return
    }
    if (next.instance) {
      this.#log.info({ instance: name }, `instance ${name}: its file was changed, restarting it`)
      await this.#stop(next)
    }
    this.#start(name, next)
  }

  #start(name: string, entry: Entry): void {
    const { config } = entry
    const before = isWorthAnotherTry(entry) ? entry.trouble : undefined
    entry.code = undefined
    entry.trouble = undefined
    if (!config) return
    if (entry.held) {
      entry.trouble = HELD
      return
    }
    const log = this.#log.child({ instance: name })
    if (!config.enabled) {
      entry.trouble = 'it is disabled (enabled: false)'
      log.info({ state: 'disabled' }, `instance ${name} is disabled`)
      return
    }
    try {
      const { dataDir, thread } = this.#options
      this.#requireRoom(config)
      if (Object.keys(config.sinks).length > 0) this.#options.onSinks?.()
      entry.instance = Instance.open({ name, config, dataDir, log, thread })
      this.#share()
      entry.instance.start()
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error)
      const code = error instanceof SluiceError ? error.code : undefined
      entry.code = code
      entry.trouble = message
      if (message === before) return // said already
      log.error({ state: 'failed', code }, `instance ${name} failed: ${message}`)
    }
  }
  async #stop(entry: Entry): Promise<void> {
    const { instance } = entry
    entry.instance = undefined
    try {
      await instance?.stop()
    } catch (error) {
      this.#log.error({ instance: instance?.name }, `stopping: ${(error as Error).message}`)
    }
    this.#share()
  }

  // ── memory ─────────────────────────────────────────────────────────────────

  #running(): Instance[] {
    return [...this.#entries.values()].flatMap(({ instance }) => instance ?? [])
  }
  /** Throws CONFIG_INVALID when one more window cannot have the least that it needs. */
  #requireRoom(config: InstanceConfig): void {
    const { memoryBytesMax } = this.#options
    const all = [...this.#running().map((instance) => instance.config), config]
    const least = all.reduce((sum, one) => sum + leastWindow(one), 0)
    if (memoryBytesMax === undefined || least <= memoryBytesMax) return
    const text =
      `memoryBytesMax: expected room for ${all.length} instances, which need ${least} bytes at least ` +
      `(twice the partBytes of each), found ${memoryBytesMax}`
    throw new SluiceError('CONFIG_INVALID', text)
  }
  /** Each window gets its least, and of the rest what its windowBytes asks for, less in proportion where that is too much. */
  #share(): void {
    const { memoryBytesMax } = this.#options
    if (memoryBytesMax === undefined) return
    const running = this.#running()
    const sum = (of: (config: InstanceConfig) => number): number =>
      running.reduce((total, { config }) => total + of(config), 0)
    const least = sum(leastWindow)
    const more = sum((c) => c.windowBytes) - least
    const part = more > 0 ? Math.min(1, (memoryBytesMax - least) / more) : 0
    for (const instance of running) {
      const { config } = instance
      const own = leastWindow(config)
      instance.resize(own + Math.floor((config.windowBytes - own) * part))
    }
  }
}

/** A transaction travels in parts, of which two must fit. */
const leastWindow = ({ partBytes }: InstanceConfig): number => 2 * partBytes

/** By itself: another process has its state, or there is no room for it. */
const isWorthAnotherTry = ({ code }: Entry): boolean =>
  code === 'STATE_LOCKED' || code === 'STATE_UNWRITABLE'

/** Changes with every write of a file; undefined when it is not there or empty (being written). */
function stampOf(file: string): string | undefined {
  const stat = statSync(file, { throwIfNoEntry: false })
  return stat && stat.size > 0 ? `${stat.mtimeMs}-${stat.size}-${stat.ino}` : undefined
}
