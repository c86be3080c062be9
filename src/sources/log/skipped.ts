/**
 * Traffic of which nothing is delivered: what of it has passed since positions moved last, and when it is time that they
 * move again. Knows no events.
 */
import { comparePositions } from '../../change.ts'
import { type Gtid, GtidSet } from '../../gtid.ts'

/** Past an event, in the log. */
export interface Place {
  readonly file: string
  readonly offset: number
}

/** How much may pass before positions move; a piece of a snapshot waits for it. */
const PASSED_MS = 250
const TRANSACTIONS = 8_192
const BYTES = 64 * 1024 * 1024

export class Skipped {
  #gtids: GtidSet | undefined
  #count = 0
  #bytes = 0
  #from: Place = { file: '', offset: 0 }
  #since = 0 // event time, ms
  #sinceWall = 0
  #told: Place | undefined
  readonly #passedMs: number

  constructor(passedMs = PASSED_MS) {
    this.#passedMs = passedMs
  }

  /** Where the untold begins; undefined where the log has not said that yet. */
  get begin(): Place | undefined {
    return this.#count > 0 ? this.#from : this.#told
  }
  /** Everything up to here is told: the end of the last transaction handed on; at first where we go on. */
  told({ file, offset }: Place): void {
    this.#told = { file, offset }
  }

  /** A transaction has passed, at `timestamp` (ms). Whether that is enough for positions to move to `end`. */
  add(begin: Place, end: Place, timestamp: number, gtid: Gtid | undefined): boolean {
    if (this.#count === 0) {
      this.#from = begin
      this.#since = timestamp
      this.#sinceWall = Date.now()
    }
    this.#count++
    this.#bytes += end.file === begin.file ? end.offset - begin.offset : end.offset
    if (gtid) (this.#gtids ??= new GtidSet()).add(gtid)
    const enough =
      this.#count >= TRANSACTIONS ||
      this.#bytes >= BYTES ||
      timestamp - this.#since >= this.#passedMs ||
      Date.now() - this.#sinceWall >= this.#passedMs
    return enough && this.#isNews(end)
  }

  /** The log has come to `place` and rests: whether positions should move there. */
  isWorthTelling(place: Place): boolean {
    if (this.#told !== undefined) return this.#isNews(place)
    this.told(place)
    return this.#count > 0
  }

  /** The GTIDs that have passed; from now on they are told. */
  take(): GtidSet | undefined {
    const gtids = this.#gtids
    this.#gtids = undefined
    this.#count = 0
    this.#bytes = 0
    return gtids
  }

  /** Whether the log has come further than it was told. */
  #isNews({ file, offset }: Place): boolean {
    if (this.#told === undefined) return true
    return comparePositions({ file, offset, skip: 0 }, { ...this.#told, skip: 0 }) > 0
  }
}
