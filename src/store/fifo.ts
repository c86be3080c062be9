/**
 * A first-in first-out list that may get long: taking from its front costs the same at any length. Knows nothing.
 */
const SLACK = 1024 // emptied places in front that are put up with

export class Fifo<T> {
  #items: (T | undefined)[] = []
  #at = 0
  get length(): number {
    return this.#items.length - this.#at
  }
  push(item: T): void {
    this.#items.push(item)
  }
  first(): T | undefined {
    return this.#items[this.#at]
  }
  shift(): T | undefined {
    const item = this.#items[this.#at]
    if (item === undefined) return undefined
    this.#items[this.#at++] = undefined // or what it refers to would live on
    if (this.#at === this.#items.length) this.clear()
    else if (this.#at >= SLACK && this.#at * 2 >= this.#items.length) {
      this.#items = this.#items.slice(this.#at)
      this.#at = 0
    }
    return item
  }
  clear(): void {
    this.#items = []
    this.#at = 0
  }
}
