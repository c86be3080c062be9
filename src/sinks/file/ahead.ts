/**
 * Lines on their way to a file: buffers are filled while others are written, and the next write goes into the file while
 * the one before is brought to disk. Writes reach the file one after the other, in the order in which they were begun; when
 * one fails, those behind it fail with it, so that nothing is ever confirmed past a gap.
 */
import { setImmediate as turn } from 'node:timers/promises'
import { Out } from '../../out.ts'
import type { Lines } from './lines.ts'

/** So much is gathered before it is written. */
const CHUNK_BYTES = 512 * 1024
/** Buffers of one write that wait for the file, beside the one that is being filled. */
const WAITING_MAX = 4
/** Writes at once; so many buffers are kept for them. */
export const WRITES_MAX = 3
const SPARE_MAX = WRITES_MAX * (WAITING_MAX + 1)
/** A buffer that a long line made larger than this is not kept. */
const KEEP_BYTES = 2 * 1024 * 1024

export class Ahead {
  readonly #lines: Lines
  readonly #spare: Out[] = []
  #last: Promise<void> | undefined // all of the write that was begun last is in the file, while any is under way
  #running = 0

  constructor(lines: Lines) {
    this.#lines = lines
  }
  /**
   * One write: `fill` puts whole lines into `write.out` and awaits `write.full()` where that says so. Resolves when all of it
   * is where a crash cannot reach it. Throws what `fill` and the file throw.
   */
  async run(signal: AbortSignal, fill: (write: Write) => Promise<void>): Promise<void> {
    const before = this.#last
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    promise.catch(() => {}) // thrown here
    this.#last = promise
    this.#running++
    try {
      const write = this.#begin(before, signal)
      try {
        await fill(write)
      } catch (error) {
        await write.quiet()
        throw error
      }
      await write.end()
      const committed = this.#lines.commit()
      resolve()
      await committed
    } catch (error) {
      reject(error as Error)
      throw error
    } finally {
      if (--this.#running === 0) this.#last = undefined
    }
  }
  #begin(before: Promise<void> | undefined, signal: AbortSignal): Write {
    const lines = this.#lines
    const begun =
      before === undefined ? lines.begin(true) : before.then(async () => await lines.begin(false))
    return new Write(begun, {
      put: async (outs) => {
        signal.throwIfAborted()
        const filled = outs.filter((out) => out.at > 0).map(({ buf, at }) => buf.subarray(0, at))
        if (filled.length > 0) await lines.put(filled, signal)
        for (const out of outs) this.#give(out)
      },
      take: () => this.#spare.pop() ?? new Out(CHUNK_BYTES + 64 * 1024),
    })
  }
  #give(out: Out): void {
    if (out.buf.length > KEEP_BYTES || this.#spare.length >= SPARE_MAX) return
    out.reset()
    this.#spare.push(out)
  }
}

interface Buffers {
  /** Whole lines, in this order; the memory is free again when it resolves. */
  put(outs: readonly Out[]): Promise<void>
  take(): Out
}
export class Write {
  out: Out
  readonly #buffers: Buffers
  readonly #begun: Promise<void>
  #waiting: Out[] = [] // for the file
  #putting = 0 // buffers that are being written
  #running: Promise<void> | undefined
  #failed: unknown // nothing is put behind what could not be
  #wake: (() => void) | undefined

  constructor(begun: Promise<void>, buffers: Buffers) {
    this.#buffers = buffers
    this.out = buffers.take()
    this.#begun = begun
    begun.catch(() => {}) // thrown by end()
  }
  /** Whether `full` is to be called before more is written. */
  get isFull(): boolean {
    return this.out.at >= CHUNK_BYTES
  }
  /** Sends what is in `out` on its way; resolves when there is room for more. */
  async full(): Promise<void> {
    this.#send()
    this.out = this.#buffers.take()
    await turn() // so that what the disk has done meanwhile is heard of, and what the reader has read
    while (this.#running && this.#waiting.length + this.#putting > WAITING_MAX)
      await new Promise<void>((resolve) => (this.#wake = resolve))
  }
  async end(): Promise<void> {
    this.#send()
    await this.#running
    if (this.#failed !== undefined) throw this.#failed
  }
  /** Resolves when nothing of it is under way any more. */
  async quiet(): Promise<void> {
    await this.#running
  }
  #send(): void {
    if (this.#failed !== undefined) return
    this.#waiting.push(this.out)
    this.#running ??= this.#run()
  }
  /** All that waits goes to the file at once, until nothing waits: each call costs a turn of a busy event loop. */
  async #run(): Promise<void> {
    try {
      await this.#begun
      while (this.#waiting.length > 0) {
        const outs = this.#waiting
        this.#waiting = []
        this.#putting = outs.length
        await this.#buffers.put(outs)
        this.#putting = 0
        this.#wake?.()
      }
    } catch (error) {
      this.#failed = error
    }
    this.#running = undefined
    this.#wake?.()
  }
}
