/**
 * What one instance has read, as plain numbers, and who looks on while it reads. Written by the pump of instance.ts, read by
 * whoever asks (metrics, API). Nothing here waits, and nothing is kept of a transaction.
 */
import type { Transaction } from './change.ts'

/** Since the instance was opened. */
export interface ReadCounts {
  readonly transactions: number // parts counted
  readonly changes: number
  readonly logBytes: number // of the log, from the beginning to the end of each transaction
  readonly waitMs: number // reading waited for the store to have room
  readonly delayMs: number | undefined // commit to read of the newest transaction; undefined: none was read
  readonly readAt: number // ms, when that was; 0: none was read
  readonly connects: number
  readonly failures: number // connections that ended with an error
}

export class Reading {
  connects = 0
  failures = 0
  /** Shown every transaction before anybody else has it; to be quick, and to keep nothing. */
  readonly taps = new Set<(tx: Transaction) => void>()
  #transactions = 0
  #changes = 0
  #logBytes = 0
  #waitMs = 0
  #delayMs: number | undefined
  #readAt = 0
  #waitingSince = 0 // performance.now(); 0: the store has room

  take(tx: Transaction): void {
    this.#transactions++
    this.#changes += tx.count ?? tx.changes.length
    this.#readAt = Date.now()
    if (tx.timestamp > 0) this.#delayMs = Math.max(0, this.#readAt - tx.timestamp)
    if (tx.state !== 'open')
      this.#logBytes += tx.endFile === tx.file ? tx.endOffset - tx.offset : tx.endOffset
    for (const tap of this.taps) tap(tx)
  }
  async wait(room: Promise<void>): Promise<void> {
    this.#waitingSince = performance.now()
    await room
    this.#waitMs += performance.now() - this.#waitingSince
    this.#waitingSince = 0
  }
  counts(): ReadCounts {
    const waitingMs = this.#waitingSince === 0 ? 0 : performance.now() - this.#waitingSince
    return {
      transactions: this.#transactions,
      changes: this.#changes,
      logBytes: this.#logBytes,
      waitMs: Math.round(this.#waitMs + waitingMs),
      delayMs: this.#delayMs,
      readAt: this.#readAt,
      connects: this.connects,
      failures: this.failures,
    }
  }
}
