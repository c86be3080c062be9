/**
 * Events into bodies: which body an event goes into, when one is full, and which bodies must be answered before it may be
 * sent, for they have a key in common. Full ones wait here until `send`.
 */
import type { Written } from '../lines/lines.ts'
import { Body, type Mode, type Paper } from './body.ts'
import type { Flight, Group, Keys } from './flight.ts'

export interface FillOptions {
  readonly mode: Mode
  readonly eventsMax: number // in a body
  readonly bytesMax: number // one event more is allowed
  readonly keys: Keys
  readonly flight: Flight
  readonly group: Group
  /** For a body. */
  readonly take: () => Paper
}

export class Fill {
  /** Where the next event is written to. */
  body: Body
  readonly #options: FillOptions
  readonly #full: Body[] = []

  constructor(options: FillOptions) {
    this.#options = options
    this.body = this.#next()
  }
  /** The event that was written to the body last. */
  add(place: number, hash: number): void {
    this.#order(hash)
    this.body.add(place)
    this.#closeIfFull()
  }
  /** Events that were written elsewhere, of rows one after the other from `index` on. */
  all({ rows, memory, from, words, ends, hashes }: Written, index: number): void {
    const { eventsMax, bytesMax } = this.#options
    for (let i = 0, start = from; i < rows;) {
      const most = Math.min(rows, i + eventsMax - this.body.count)
      const room = start + bytesMax - this.body.out.at
      const first = i
      do this.#order(words[hashes + i]!)
      while (words[ends + i++]! < room && i < most)
      this.body.addAll({
        memory,
        from: start,
        words,
        ends: ends + first,
        index: index + first,
        count: i - first,
      })
      start = words[ends + i - 1]!
      this.#closeIfFull()
    }
  }
  /** Resolves when all that are full are under way; nothing where they are at once. Throws what an earlier one failed with. */
  send(): Promise<void> | undefined {
    const { flight, group } = this.#options
    for (let body = this.#full[0]; body !== undefined; body = this.#full[0]) {
      const begun = flight.begin(body, group)
      if (begun) return this.#rest(begun)
      this.#full.shift()
    }
    return undefined
  }
  async #rest(begun: Promise<void>): Promise<void> {
    await begun
    this.#full.shift()
    await this.send()
  }
  /** The same with the one that is not full. What it was not used for is in `body`. */
  async end(): Promise<void> {
    if (this.body.count > 0) this.#close()
    await this.send()
  }

  /** The next event of the body has this key. */
  #order(hash: number): void {
    const { keys, flight } = this.#options
    const { body } = this
    const last = keys.take(hash, body.number)
    if (last === body.number || last <= body.after) return
    if (flight.has(last) || last >= (this.#full[0]?.number ?? Infinity)) body.after = last
  }
  #closeIfFull(): void {
    const { eventsMax, bytesMax } = this.#options
    if (this.body.count >= eventsMax || this.body.out.at >= bytesMax) this.#close()
  }
  #close(): void {
    this.body.close()
    this.#full.push(this.body)
    this.body = this.#next()
  }
  #next(): Body {
    const { mode, keys, take } = this.#options
    return new Body(keys.next(), mode, take())
  }
}
