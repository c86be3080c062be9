/**
 * The requests of one write: begun in order, as many at once as allowed, but none before those with a key in common are
 * answered: so events of one key stay in order. Keys are known by a hash; that two of them share one costs a wait.
 */
import type { Body } from './body.ts'

/** Which body had a key last, by its hash. Belongs to one write at a time. */
export class Keys {
  readonly #last: Int32Array
  #number = 0

  /** For so many keys under way at once. */
  constructor(keys: number) {
    const size = 2 ** Math.ceil(Math.log2(keys)) * ROOM
    this.#last = new Int32Array(Math.min(size, SIZE_MAX))
  }
  /** Before the first body of a write: nothing is under way. */
  reset(): void {
    if (this.#number < NUMBER_MAX) return
    this.#last.fill(0)
    this.#number = 0
  }
  /** The number of a new body. */
  next(): number {
    return ++this.#number
  }
  /** The body that had the key last; now `number` has it. */
  take(hash: number, number: number): number {
    const at = hash & (this.#last.length - 1)
    const last = this.#last[at]!
    this.#last[at] = number
    return last
  }
}
/** Of so many places one is taken. */
const ROOM = 512
const SIZE_MAX = 2 ** 20
const NUMBER_MAX = 2 ** 30

export class Flight {
  readonly #most: number
  readonly #send: (body: Body) => Promise<void>
  readonly #running = new Map<number, Promise<void>>()
  #error: unknown
  #failed = false

  constructor(most: number, send: (body: Body) => Promise<void>) {
    this.#most = most
    this.#send = send
  }
  /** Whether it was sent and is not answered yet. */
  has(number: number): boolean {
    return this.#running.has(number)
  }
  /** Resolves when it is under way. Throws what one before it failed with. */
  async begin(body: Body): Promise<void> {
    const { after } = body
    if (after > 0)
      await Promise.all([...this.#running].flatMap(([n, done]) => (n <= after ? [done] : [])))
    while (this.#running.size >= this.#most) await Promise.race(this.#running.values())
    if (this.#failed) throw this.#error
    this.#running.set(body.number, this.#run(body))
  }
  /** Resolves when all are answered. Throws what one of them failed with. */
  async end(): Promise<void> {
    await Promise.all(this.#running.values())
    if (this.#failed) throw this.#error
  }
  async #run(body: Body): Promise<void> {
    try {
      await this.#send(body)
    } catch (error) {
      if (!this.#failed) this.#error = error
      this.#failed = true
    } finally {
      this.#running.delete(body.number)
    }
  }
}
