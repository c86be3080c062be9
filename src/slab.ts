/**
 * Memory for raw events: slabs of one fixed size, filled front to back by one reader, shared by reference count, and
 * reused only when nobody holds them. An event that is larger than a slab gets a slab of its own size.
 * Off-heap on purpose: the garbage collector never walks it.
 */
import { assert } from './errors.ts'

export const SLAB_BYTES = 1024 * 1024

/** Who gives slabs out: a pool, or another thread's. */
export interface Slabs {
  /** A slab with room for at least `size` bytes and one reference, the caller's. */
  open(size: number): Slab
}

export class Slab {
  readonly bytes: Buffer
  /** Where the reader writes next. Owned by the reader that fills the slab. */
  at = 0
  #refs = 1
  readonly #owner: { take(slab: Slab): void }
  /** `owner.take` is called by the last release. */
  constructor(bytes: Buffer, owner: { take(slab: Slab): void }) {
    this.bytes = bytes
    this.#owner = owner
  }
  /** Nobody holds it any more. */
  get free(): boolean {
    return this.#refs === 0
  }
  retain(): this {
    assert(this.#refs > 0, 'a released slab was retained')
    this.#refs++
    return this
  }
  release(): void {
    assert(this.#refs > 0, 'a slab was released twice')
    if (--this.#refs === 0) this.#owner.take(this)
  }
}

/** Gives slabs out and takes them back; `bytesInUse` is what is held by anybody, `spareMax` how many free ones are kept. */
export class SlabPool implements Slabs {
  bytesInUse = 0
  #spare: Buffer[] = []
  readonly #spareMax: number
  constructor(spareMax = 4) {
    this.#spareMax = spareMax
  }
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
    if (slab.bytes.length > SLAB_BYTES) return giveBack(slab.bytes)
    if (slab.bytes.length === SLAB_BYTES && this.#spare.length < this.#spareMax)
      this.#spare.push(slab.bytes)
  }
}

/** Returns large memory to the system at once, not when the garbage collector comes by; all views of it become empty. */
export function giveBack({ buffer }: Buffer): void {
  if (buffer instanceof ArrayBuffer) buffer.transfer(0)
}
