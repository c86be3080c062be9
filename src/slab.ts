/**
 * Memory for raw events: slabs of one fixed size, filled front to back by one reader, shared by reference count, and
 * reused only when nobody holds them. An event that is larger than a slab gets a slab of its own size.
 * Off-heap on purpose: the garbage collector never walks it.
 */
import { assert } from './errors.ts'

export const SLAB_BYTES = 1024 * 1024

export class Slab {
  readonly bytes: Buffer
  /** Where the reader writes next. Owned by the reader that fills the slab. */
  at = 0
  #refs = 1
  readonly #pool: SlabPool
  constructor(bytes: Buffer, pool: SlabPool) {
    this.bytes = bytes
    this.#pool = pool
  }
  retain(): this {
    assert(this.#refs > 0, 'a released slab was retained')
    this.#refs++
    return this
  }
  release(): void {
    assert(this.#refs > 0, 'a slab was released twice')
    if (--this.#refs === 0) this.#pool.take(this)
  }
}

/** Gives slabs out and takes them back; `bytesInUse` is what is held by anybody, `spareMax` how many free ones are kept. */
export class SlabPool {
  bytesInUse = 0
  #spare: Buffer[] = []
  readonly #spareMax: number
  constructor(spareMax = 8) {
    this.#spareMax = spareMax
  }
  /** A slab with room for at least `size` bytes and one reference, the caller's. */
  open(size: number): Slab {
    const bytes =
      size <= SLAB_BYTES
        ? (this.#spare.pop() ?? Buffer.allocUnsafeSlow(SLAB_BYTES))
        : Buffer.allocUnsafeSlow(size)
    this.bytesInUse += bytes.length
    return new Slab(bytes, this)
  }
  /** Called by the last release. */
  take(slab: Slab): void {
    this.bytesInUse -= slab.bytes.length
    if (slab.bytes.length === SLAB_BYTES && this.#spare.length < this.#spareMax)
      this.#spare.push(slab.bytes)
  }
}
