/**
 * XA transactions as a sink sees them: their rows stand in the log at PREPARE, where they are passed over, and are read
 * again from there when XA COMMIT comes, which may be much later and after restarts. Where each prepared one begins is
 * durable before its rows are passed over. Knows no sink.
 */
import { classify } from '../../catalog/ddl/classify.ts'
import type { Position, QueryChange, Source, Transaction } from '../../change.ts'
import { comparePositions, formatPosition, beginningOf } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { formatGtid } from '../../gtid.ts'
import type { Batch } from '../../store/cursor.ts'
import { positionFromJson, positionToJson, type State } from '../../store/state.ts'

/** Where a prepared transaction begins. */
interface Start {
  readonly position: Position // reading from here gives it first
  readonly file: string
  readonly offset: number
  readonly gtid: string | undefined
  /** Committed or rolled back; kept for a while, for a target may be set back to before that. */
  done: boolean
}
const DONE_MAX = 256

const placeOf = (p: { readonly file: string; readonly offset: number }): string =>
  `${p.file}:${p.offset}`

export class Xa {
  readonly #state: State
  readonly #key: string
  readonly #starts = new Map<string, Start>() // by xid
  readonly #open = new Set<string>() // places of those of which parts were seen, not the end
  #last: Transaction | undefined
  #answer: string | undefined

  constructor(state: State, cursor: string) {
    this.#state = state
    this.#key = `${cursor}:xa`
    const saved = state.value(this.#key)
    if (!saved) return
    for (const [xid, one] of Object.entries(JSON.parse(saved) as Record<string, unknown>)) {
      const { position, file, offset, gtid, done } = one as Start & { readonly position: unknown }
      const at = positionFromJson(JSON.stringify(position), `${state.path}, ${this.#key}`)
      this.#starts.set(xid, { position: at, file, offset, gtid, done })
      this.#open.add(placeOf({ file, offset }))
    }
  }

  /**
   * For Limit.apart: a text for the rows of a transaction that is prepared or may come to be (of one that is then committed
   * in one phase too, where it came in parts), undefined for others.
   */
  apart(tx: Transaction): string | undefined {
    if (tx !== this.#last) {
      this.#last = tx
      this.#answer = this.#look(tx)
    }
    return this.#answer
  }
  #look(tx: Transaction): string | undefined {
    const place = placeOf(tx)
    const parts = this.#open.has(place)
    if (tx.state === 'prepared' || (parts && tx.first > 0)) return `held ${place}`
    if (tx.state === 'committed' || tx.first > 0 || xidOf(tx) === '') return undefined
    this.#open.add(place)
    return `held ${place}`
  }

  /** The batch holds rows that wait for XA COMMIT: where they begin is durable when this returns. */
  hold(batch: Batch): void {
    const { tx, from } = batch.parts[0]!
    const xid = xidOf(tx)
    if (xid === '' || tx.first > 0 || from > 0) return // more of one that was seen before
    const gtid = tx.gtid && formatGtid(tx.gtid)
    const { file, offset } = tx
    this.#starts.delete(xid) // the newest last
    this.#starts.set(xid, { position: batch.start, file, offset, gtid, done: false })
    this.#save()
  }
  /** The xid whose rows are due with a batch of held rows: the last one of a transaction committed in one phase. */
  committed(batch: Batch): string | undefined {
    const { tx } = batch.parts.at(-1)!
    if (tx.state !== 'committed' || batch.end.skip > 0) return undefined
    for (const [xid, start] of this.#starts) if (placeOf(start) === placeOf(tx)) return xid
    return undefined
  }
  knows(xid: string): boolean {
    return this.#starts.has(xid)
  }
  /** It was committed and delivered, or rolled back. Durable when it returns. */
  forget(xid: string): void {
    const start = this.#starts.get(xid)
    if (start === undefined) return
    start.done = true
    const done = [...this.#starts].filter(([, s]) => s.done)
    for (const [old, { file, offset }] of done.slice(0, -DONE_MAX)) {
      this.#starts.delete(old)
      this.#open.delete(placeOf({ file, offset }))
    }
    this.#save()
  }
  #save(): void {
    const plain = [...this.#starts].map(([xid, { position, ...rest }]) => [
      xid,
      { ...rest, position: JSON.parse(positionToJson(position)) as unknown },
    ])
    this.#state.setValue(this.#key, JSON.stringify(Object.fromEntries(plain)))
  }

  /**
   * The parts of a prepared transaction as if `commit` had written them: its place, and so the versions, are the commit's.
   * The caller releases their slabs. Throws POSITION_LOST when the source no longer has them, and what a read throws.
   */
  async *read(
    xid: string,
    commit: Transaction,
    read: Source['read'],
    signal: AbortSignal,
  ): AsyncGenerator<Transaction, void, undefined> {
    const start = this.#starts.get(xid)!
    for await (const tx of read(start.position, signal)) {
      const same = start.gtid === undefined ? undefined : tx.gtid && formatGtid(tx.gtid)
      if (same === undefined ? placeOf(tx) === placeOf(start) : same === start.gtid) {
        const last = tx.state !== 'open'
        yield committedAt(tx, commit)
        if (last) return
        continue
      }
      tx.slab?.release()
      if (
        tx.server === commit.server &&
        comparePositions(beginningOf(tx), beginningOf(commit)) >= 0
      )
        break
    }
    if (signal.aborted) return
    throw new SluiceError(
      'POSITION_LOST',
      `XA ${xid}: expected its rows after ${formatPosition(start.position)}, where it was prepared; the source no longer has them there`,
    )
  }
}

function xidOf(tx: Transaction): string {
  const first = tx.changes[0]
  return first?.kind === 'begin' ? first.xid : ''
}
/** The xid of XA COMMIT and XA ROLLBACK, as XA START has it. */
export function xidOfStatement(change: QueryChange): string {
  return classify(change.sql, '').xid
}

function committedAt(tx: Transaction, commit: Transaction): Transaction {
  const { epoch, server, gtid, file, offset, endFile, endOffset, timestamp } = commit
  const { lastCommitted, sequenceNumber } = commit
  const { first, next, changes, slab, bytes } = tx
  return {
    epoch,
    server,
    gtid,
    lastCommitted,
    sequenceNumber,
    skipped: undefined,
    file,
    offset,
    endFile,
    endOffset,
    first,
    next,
    timestamp,
    changes,
    state: 'prepared', // it says that its ordinals are another's
    slab,
    bytes,
  }
}
