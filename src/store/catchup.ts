/**
 * Catch-up readers: a cursor that stands outside the window is served by a read of the source of its own, through a
 * small queue, until its place lies in the window. At most `max` run at once; the rest wait their turn, first come,
 * first served. What can be retried is retried while somebody asks; what cannot is handed to the cursor.
 *
 * A reader ends itself when nobody has asked for a while and others wait, or its connection is broken: what it has
 * read stays in the queue, and the cursor opens the next one at its end. Knows no windows, batches or clients' acks.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { formatPosition, type Position, type Source, type Transaction } from '../change.ts'
import { assert, SluiceError } from '../errors.ts'
import { Fifo } from './fifo.ts'
import { Track } from './window.ts'

const BACKOFF_MS = 100 // doubles with every failure in a row
const BACKOFF_MAX_MS = 10_000
const GIVE_UP_MS = 10_000 // nobody asked for so long: no further attempt

/** What the store needs of a logger (pino fits). */
export interface Log {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
}
export interface ReadersOptions {
  readonly max: number
  readonly queueBytes: number // per reader; one larger part is still taken when the queue is empty
  readonly idleMs: number // nobody asked for so long: the slot may go to somebody who waits
  readonly read: Source['read']
  readonly log: Log
}
/** Who reads: the cursor's side of a reader. */
export interface Asker {
  readonly client: string
  /** There is something new to peek at, or the reader has ended. */
  wake(): void
  /** When something was last asked for, by performance.now(). */
  askedAt(): number
}

export class Readers {
  readonly options: ReadersOptions
  readonly #running = new Set<CatchUp>()
  readonly #waiting: { readonly reader: CatchUp; readonly go: () => void }[] = []
  #idleCheck: NodeJS.Timeout | undefined
  constructor(options: ReadersOptions) {
    assert(options.max >= 1, 'at least one catch-up reader')
    this.options = options
  }
  get running(): number {
    return this.#running.size
  }
  open(from: Position, asker: Asker): CatchUp {
    return new CatchUp(this, from, asker)
  }
  /** Resolves when it is this reader's turn, or when it withdrew. */
  enter(reader: CatchUp): Promise<void> {
    if (this.#running.size < this.options.max) {
      this.#running.add(reader)
      return Promise.resolve()
    }
    const checkMs = this.options.idleMs / 4
    this.#idleCheck ??= setInterval(() => this.#retireIdle(), checkMs).unref()
    return new Promise((go) => this.#waiting.push({ reader, go }))
  }
  /** Out of the queue for a slot; nothing where the reader does not wait for one. */
  withdraw(reader: CatchUp): void {
    const place = this.#waiting.findIndex((waiter) => waiter.reader === reader)
    if (place >= 0) this.#waiting.splice(place, 1)[0]!.go()
    this.#checkNoMore()
  }
  leave(reader: CatchUp): void {
    if (!this.#running.delete(reader)) return
    const next = this.#waiting.shift()
    if (next) {
      this.#running.add(next.reader)
      next.go()
    }
    this.#checkNoMore()
  }
  /** Resolves when every reader that runs now has ended. */
  async ended(): Promise<void> {
    await Promise.all([...this.#running].map((reader) => reader.done))
  }
  #checkNoMore(): void {
    if (this.#waiting.length > 0) return
    clearInterval(this.#idleCheck)
    this.#idleCheck = undefined
  }
  #retireIdle(): void {
    for (const reader of this.#running) if (reader.idle) return reader.retire()
  }
}

export class CatchUp {
  /** Resolves when the reader has let go of its connection and its slot. Never rejects. */
  readonly done: Promise<void>
  /** Set when trying again cannot help; what was read before is still in the queue. */
  error: unknown
  /** Nothing will be added to the queue any more. */
  ended = false
  readonly #readers: Readers
  readonly #asker: Asker
  readonly #abort = new AbortController()
  readonly #track: Track
  readonly #queue = new Fifo<Transaction>()
  #bytes = 0
  #room: (() => void) | undefined
  #failures = 0

  constructor(readers: Readers, from: Position, asker: Asker) {
    this.#readers = readers
    this.#asker = asker
    this.#track = new Track(from)
    this.done = this.#run()
  }
  /** Nobody has asked for a while. */
  get idle(): boolean {
    return !this.ended && performance.now() - this.#asker.askedAt() > this.#readers.options.idleMs
  }
  /** The oldest part that has been read; undefined when there is none (yet). */
  peek(): Transaction | undefined {
    return this.#queue.first()
  }
  /** Drops what peek() shows and gives its slab reference back. */
  shift(): void {
    const tx = this.#queue.shift()
    assert(tx, 'the queue of a catch-up reader is empty')
    this.#bytes -= tx.bytes
    tx.slab?.release()
    if (this.#bytes < this.#readers.options.queueBytes) this.#room?.()
  }
  /** Ends the reader; its queue stays. */
  retire(): void {
    this.ended = true
    this.#abort.abort()
    this.#room?.()
    this.#readers.withdraw(this)
  }
  /** Ends the reader and drops its queue. Idempotent. */
  stop(): void {
    while (this.#queue.length > 0) this.shift()
    this.retire()
  }

  async #run(): Promise<void> {
    await this.#readers.enter(this)
    while (!this.ended) {
      try {
        await this.#read()
        if (this.ended) break
        throw new SluiceError('STREAM_ENDED', `the log ended at ${formatPosition(this.#track)}`)
      } catch (error) {
        if (!this.ended) await this.#failed(error)
      }
    }
    this.#readers.leave(this)
    this.#asker.wake()
  }
  async #read(): Promise<void> {
    const { read, queueBytes } = this.#readers.options
    for await (const tx of read(this.#track.position(), this.#abort.signal)) {
      if (this.ended) {
        tx.slab?.release()
        return
      }
      this.#failures = 0
      this.#track.pass(tx)
      this.#queue.push(tx)
      this.#bytes += tx.bytes
      this.#asker.wake()
      if (this.#bytes >= queueBytes) await this.#haveRoom()
      if (this.ended) return
    }
  }
  async #haveRoom(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#room = resolve
    })
    this.#room = undefined
  }
  /** Waits before the next attempt, or ends the reader: nobody asks, or trying again cannot help. */
  async #failed(error: unknown): Promise<void> {
    if (!(error instanceof SluiceError) || !error.retryable) {
      this.error = error
      this.ended = true
      return
    }
    const waitMs = Math.min(BACKOFF_MS * 2 ** this.#failures++, BACKOFF_MAX_MS)
    const fields = {
      client: this.#asker.client,
      at: formatPosition(this.#track),
      err: error,
      waitMs,
    }
    this.#readers.options.log.warn(fields, 'catch-up reader failed; trying again')
    await delay(waitMs, undefined, { signal: this.#abort.signal, ref: false }).catch(() => {})
    if (performance.now() - this.#asker.askedAt() > waitMs + GIVE_UP_MS) this.ended = true
  }
}
