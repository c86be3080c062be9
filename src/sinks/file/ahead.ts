/**
 * Lines on their way to a file: buffers are filled while others are written, and the next write is prepared while the one
 * before is brought to disk. Writes reach the file one after the other, in the order in which they were begun; when one
 * fails, those that wait behind it fail with it, so that nothing is ever written past a gap.
 */
import { Out } from '../../out.ts'
import type { Lines } from './lines.ts'

/** So much is gathered before it is written. */
const CHUNK_BYTES = 512 * 1024
/** Buffers of one write that wait for the file, beside the one that is being filled. */
const WAITING_MAX = 2
/** Writes at once; so many buffers are kept for them. */
export const WRITES_MAX = 2
const SPARE_MAX = WRITES_MAX * (WAITING_MAX + 1)
/** A buffer that a long line made larger than this is not kept. */
const KEEP_BYTES = 2 * 1024 * 1024

export class Ahead {
  readonly #lines: Lines
  readonly #spare: Out[] = []
  #last: Promise<void> | undefined // the write that was begun last, while any is under way
  #running = 0

  constructor(lines: Lines) {
    this.#lines = lines
  }
  /**
   * One write: `fill` puts whole lines into `write.out` and awaits `write.full()` where that says so. Resolves when all of it
   * is where a crash cannot reach it. Throws what `fill` and the file throw.
   */
  async run(signal: AbortSignal, fill: (write: Write) => Promise<void>): Promise<void> {
    const before = this.#last ?? Promise.resolve()
    this.#running++
    const done = this.#run(before, signal, fill)
    this.#last = done
    try {
      await done
    } finally {
      if (--this.#running === 0) this.#last = undefined
    }
  }
  async #run(
    before: Promise<void>,
    signal: AbortSignal,
    fill: (write: Write) => Promise<void>,
  ): Promise<void> {
    const lines = this.#lines
    const write = new Write(
      before.then(async () => await lines.begin()),
      {
        put: async (out) => {
          signal.throwIfAborted()
          if (out.at > 0) await lines.put(out.buf.subarray(0, out.at), signal)
          this.#give(out)
        },
        take: () => this.#spare.pop() ?? new Out(CHUNK_BYTES + 64 * 1024),
      },
    )
    try {
      await fill(write)
    } catch (error) {
      await write.quiet()
      throw error
    }
    await write.end()
    await lines.commit()
  }
  #give(out: Out): void {
    if (out.buf.length > KEEP_BYTES || this.#spare.length >= SPARE_MAX) return
    out.reset()
    this.#spare.push(out)
  }
}

interface Buffers {
  put(out: Out): Promise<void>
  take(): Out
}
export class Write {
  out: Out
  readonly #buffers: Buffers
  readonly #waiting: Promise<void>[] = []
  #tail: Promise<void>

  constructor(begun: Promise<void>, buffers: Buffers) {
    this.#buffers = buffers
    this.out = buffers.take()
    this.#tail = begun
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
    if (this.#waiting.length > WAITING_MAX) await this.#waiting.shift()
  }
  async end(): Promise<void> {
    this.#send()
    await this.#tail
  }
  /** Resolves when nothing of it is under way any more. */
  async quiet(): Promise<void> {
    await this.#tail.catch(() => {})
  }
  #send(): void {
    const { out } = this
    this.#tail = this.#tail.then(async () => await this.#buffers.put(out))
    this.#tail.catch(() => {})
    this.#waiting.push(this.#tail)
  }
}
