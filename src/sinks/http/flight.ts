/**
 * Requests under way: begun in order, as many at once as allowed, but none before those with a key in common are
 * answered: so events of one key stay in order. Keys are known by a hash; that two of them share one costs a wait.
 *
 * The last requests of a write are under way when the next write's are begun. After one that failed nothing more is begun,
 * until every write there is has ended.
 */
import type { Body } from './body.ts'

/** Which body had a key last, by its hash. */
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

/** One write's part of it. */
export class Group {
  readonly send: (body: Body) => Promise<void>
  /** What one of its requests failed with. */
  failure: { readonly error: unknown } | undefined

  constructor(send: (body: Body) => Promise<void>) {
    this.send = send
  }
}
interface Running {
  readonly group: Group
  readonly done: Promise<void> // never rejects
}

export class Flight {
  readonly #most: number
  readonly #running = new Map<number, Running>()
  #ended: PromiseWithResolvers<void> | undefined // resolves when the next request has ended
  readonly #groups = new Set<Group>()
  #filled: Promise<unknown> = Promise.resolve() // the write before has begun all it has
  #failure: Group['failure'] // until nobody writes any more

  constructor(most: number) {
    this.#most = most
  }
  /** Whether no write is under way. */
  get idle(): boolean {
    return this.#groups.size === 0
  }
  /** Whether it was sent and is not answered yet. */
  has(number: number): boolean {
    return this.#running.has(number)
  }
  /**
   * One write: `fill` begins its bodies, when the writes before have begun theirs. Resolves when all are answered. Throws what
   * one of them failed with, or one of a write beside it before all of these were begun.
   */
  async run(group: Group, fill: () => Promise<void>): Promise<void> {
    this.#groups.add(group)
    const filled = this.#filled.then(fill)
    this.#filled = filled.catch(() => {})
    try {
      await filled
    } catch (error) {
      this.#failure ??= { error } // nothing may overtake what was not begun
      throw error
    } finally {
      const ours = [...this.#running.values()].filter((running) => running.group === group)
      await Promise.all(ours.map(({ done }) => done))
      this.#groups.delete(group)
      if (this.idle) this.#failure = undefined
    }
    if (group.failure) throw group.failure.error
  }
  /** Nothing where it is under way at once; else resolves when it is. Throws what one before it failed with. */
  begin(body: Body, group: Group): Promise<void> | undefined {
    if (body.after > 0 || this.#running.size >= this.#most) return this.#later(body, group)
    this.#begin(body, group)
    return undefined
  }
  async #later(body: Body, group: Group): Promise<void> {
    const { after } = body
    if (after > 0)
      await Promise.all([...this.#running].flatMap(([n, { done }]) => (n <= after ? [done] : [])))
    while (this.#running.size >= this.#most) await (this.#ended ??= Promise.withResolvers()).promise
    this.#begin(body, group)
  }
  #begin(body: Body, group: Group): void {
    if (this.#failure) throw this.#failure.error
    this.#running.set(body.number, { group, done: this.#run(body, group) })
  }
  async #run(body: Body, group: Group): Promise<void> {
    try {
      await group.send(body)
    } catch (error) {
      group.failure ??= { error }
      this.#failure ??= { error }
    } finally {
      this.#running.delete(body.number)
      this.#ended?.resolve()
      this.#ended = undefined
    }
  }
}
