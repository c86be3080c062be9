/**
 * Looks at a source now and then while it is read: how long it keeps what the slowest client needs. Warns once per
 * halving of the time that is left, and says when the danger has passed. A look that fails changes nothing.
 */
import type { Connection, ConnectOptions } from '../mysql/connection.ts'
import { describeOutlook, isUrgent, purgeOutlook, type Needed, type Outlook } from './purge.ts'

const LOOK_MS = 60_000

export interface WatchOptions {
  readonly query: Connection['query']
  readonly connect: () => ConnectOptions
  readonly needed: () => readonly Needed[]
  readonly log: {
    info(fields: object, message: string): void
    warn(fields: object, message: string): void
    debug(fields: object, message: string): void
  }
}

export class Watch {
  /** What the slowest client needs, when last looked at. */
  purge: Outlook | undefined
  readonly #options: WatchOptions
  readonly #began = new Map<string, number>()
  #timer: NodeJS.Timeout | undefined
  #stopped = false
  #looking = false
  #warnBelowMs = Infinity

  constructor(options: WatchOptions) {
    this.#options = options
  }
  /** Looks at once, and from now on. */
  start(): void {
    if (this.#stopped) return
    this.#timer ??= setInterval(() => void this.#look(), LOOK_MS).unref()
    void this.#look()
  }
  stop(): void {
    this.#stopped = true
    clearInterval(this.#timer)
  }

  async #look(): Promise<void> {
    if (this.#looking || this.#stopped) return
    this.#looking = true
    const { query, connect, needed, log } = this.#options
    try {
      this.purge = await purgeOutlook({ query }, connect(), needed(), this.#began)
      if (!this.#stopped) this.#say(this.purge)
    } catch (error) {
      log.debug({ error: String(error) }, 'the source could not be asked what it keeps')
    } finally {
      this.#looking = false
    }
  }
  #say(purge: Outlook | undefined): void {
    const { log } = this.#options
    if (purge && isUrgent(purge)) {
      if (purge.inMs >= this.#warnBelowMs) return
      this.#warnBelowMs = Math.max(0, purge.inMs / 2)
      const { client, file, inMs } = purge
      log.warn({ client, file, purgedInMs: inMs }, `client ${describeOutlook(purge)}`)
    } else if (this.#warnBelowMs < Infinity) {
      this.#warnBelowMs = Infinity
      log.info(
        { client: purge?.client, file: purge?.file },
        'the source keeps what is needed again',
      )
    }
  }
}
