/**
 * A cursor with a load beside its stream: between the batches of the log it gives out rows of tables that were read, as
 * inserts with the mark `snapshot`, at a moment and with a version that make them right without lock and without a write
 * at the source. A piece that was read behind P is given out once the stream has passed `high`, without the rows whose keys
 * the stream has given out since P: those have come already, newer. All others are at `high` as they were at P, so they
 * carry P's place. What keys cannot tell (touched.ts, the table's history) has the piece read again.
 *
 * The consumer acks these batches like any other; the load's progress is durable after the ack of a piece's last one.
 */
import { compareLogPlaces } from '../catalog/history.ts'
import type { Change, ImageSide, Position, RowReader, Transaction } from '../change.ts'
import { changeOf, clearChange } from '../sources/snapshot/chunk.ts'
import type { Batch, ClientCursor, Cursor, Limit } from '../store/cursor.ts'
import { laterRows, type Load, type Progress } from './load.ts'
import { PieceReader, type Piece, type SnapshotSource } from './reader.ts'
import { keyText, Touched } from './touched.ts'

/** How long the stream is waited for while a piece is on its way. */
const LOOK_MS = 20
const ROWS_OF_A_VERSION = 2 ** 32

/** A piece that is being given out. */
interface Giving {
  readonly piece: Piece
  /** Its changes are those that were given out. */
  readonly tx: Transaction & { readonly changes: Change[] }
  at: number // of the piece's events
  firstRow: number // of that event
  next: Progress // the piece's, or that of a table behind it that was left out
}

export class Joined implements Cursor {
  readonly #cursor: ClientCursor
  readonly #source: SnapshotSource
  readonly #touched: Touched
  #load: Load | undefined
  #reader: PieceReader | undefined
  #giving: Giving | undefined
  #streamed = false // the last batch was of the log, or there was none: it is the load's turn
  /** Batches after whose ack the load has come so far; oldest first. */
  readonly #marks: { readonly id: bigint; readonly progress: Progress | undefined }[] = []
  #closed = false
  readonly #over: () => void

  /** `over` is called when a load is done; it may bring the next one. */
  constructor(
    cursor: ClientCursor,
    source: SnapshotSource,
    { load, over }: { readonly load: Load | undefined; readonly over: () => void },
  ) {
    this.#cursor = cursor
    this.#touched = new Touched(cursor.client.startsWith('sink:'))
    this.#source = source
    this.#over = over
    cursor.rolledBack = () => {
      if (this.#load !== undefined) this.#drop()
    }
    this.load(load)
  }
  /** What to load from now on; undefined: nothing. */
  load(load: Load | undefined): void {
    this.#drop()
    this.#load = load?.open === true ? load : undefined
  }
  /** Whether nothing is loaded now. */
  get idle(): boolean {
    return this.#load === undefined
  }
  get client(): string {
    return this.#cursor.client
  }
  get acked(): Position {
    return this.#cursor.acked
  }

  async get(limit: Limit, signal: AbortSignal): Promise<Batch | undefined> {
    const until = performance.now() + limit.waitMs
    for (;;) {
      const load = this.#load
      if (load === undefined || this.#closed)
        return await this.#cursor.get(rest(limit, until), signal)
      this.#reader ??= this.#read(load)
      if (this.#streamed) {
        this.#streamed = false
        const given = this.#give(limit)
        if (given !== undefined) return given
        if (this.#load !== load) continue // it has ended with a piece that had nothing left
      }
      const left = until - performance.now()
      const busy = this.#giving !== undefined || this.#reader.pieces.length > 0
      const ready = this.#giving !== undefined && this.#cursor.readPlace.skip === 0
      const waitMs = Math.max(0, Math.min(left, ready ? 0 : busy ? LOOK_MS : LOOK_MS * 5))
      const batch = await this.#cursor.get({ ...limit, waitMs }, signal)
      this.#streamed = true
      if (batch !== undefined) {
        this.#touched.note(batch)
        return batch
      }
      if (signal.aborted) return undefined
      const given = this.#give(limit)
      if (given !== undefined) {
        this.#streamed = false
        return given
      }
      if (until - performance.now() <= 0) return undefined
    }
  }

  async ack(id: bigint): Promise<void> {
    await this.#cursor.ack(id)
    while (this.#marks.length > 0 && this.#marks[0]!.id <= id) {
      const { progress } = this.#marks.shift()!
      if (progress !== undefined) this.#reached(progress)
    }
  }
  rollback(id?: bigint): void {
    this.#cursor.rollback(id)
  }
  close(): void {
    this.leave()
    this.#cursor.close()
  }
  /** Reads no more; somebody else has the cursor, or the instance stops. */
  leave(): void {
    this.#closed = true
    this.#reader?.close()
  }

  // ── the load ───────────────────────────────────────────────────────────────

  #read(load: Load): PieceReader {
    const { client } = this
    this.#source.log.info(load.status, `snapshot for ${client}: reading`)
    const cursor = this.#cursor
    const leftOut = (next: Progress): void => {
      if (this.#giving === undefined) this.#mark(next)
      else this.#giving.next = next
    }
    return new PieceReader({ source: this.#source, load, cursor, touched: this.#touched, leftOut })
  }
  /** Nothing that was read counts; the load goes on from what is durable. */
  #drop(): void {
    this.#reader?.close()
    this.#reader = undefined
    this.#letGo()
    this.#marks.length = 0
    this.#touched.clear()
  }
  #reached(progress: Progress): void {
    const load = this.#load
    if (load === undefined || this.#closed || this.#cursor.ended) return
    load.reached(progress)
    if (load.state !== 'done') return
    const { client } = this
    this.#source.log.info(load.status, `snapshot for ${client}: done`)
    this.load(undefined)
    this.#over()
  }

  /** The next batch of rows that were read, if there is one that may be given out. */
  #give(limit: Limit): Batch | undefined {
    for (;;) {
      const reader = this.#reader
      const piece = this.#giving?.piece ?? reader?.pieces[0]
      if (reader === undefined || piece === undefined || !this.#past(piece)) return undefined
      // Parts of one piece have the stream between them, which may have changed what is still to be given out.
      if (this.#spoiled(piece)) {
        this.#letGo()
        reader.restart(piece.from)
        return undefined
      }
      if (this.#giving === undefined) {
        this.#giving = this.#begin(piece)
        reader.taken()
      }
      const batch = this.#part(this.#giving, limit)
      if (batch !== undefined || this.#load === undefined) return batch
    }
  }
  #mark(progress: Progress): void {
    const last = this.#marks.pop()
    if (last === undefined) this.#reached(progress)
    else this.#marks.push({ id: last.id, progress })
  }
  /** Whether the stream has given out everything up to the piece's `high`. */
  #past({ high, place }: Piece): boolean {
    const { epoch, file, offset, skip } = this.#cursor.readPlace
    if (skip !== 0) return false
    // Another history: spoiled, as soon as it is looked at.
    if (epoch !== place.epoch) return true
    if (high === undefined) return false
    return compareLogPlaces({ epoch, file, offset }, { ...high, epoch }) >= 0
  }
  #spoiled({ chunk, place, since, high }: Piece): boolean {
    const { database, name } = chunk.plan.table
    const { epoch } = this.#cursor.readPlace
    if (epoch !== place.epoch || high?.epoch !== place.epoch) return true
    if (this.#touched.disturbed(database, name, since)) return true
    const history = this.#source.catalog()?.history
    const before = { epoch, file: place.file, offset: place.offset - 1 }
    if (history === undefined || history.after(database, name, before) !== undefined) return true
    return chunk.plan.doubtful && this.#touched.vague(database, name, since)
  }
  /** Keys that are read again where nothing was logged since they were read before must still be newer. */
  #firstRow(rows: number): number {
    const load = this.#load
    const base = load?.slot === 'reread' ? laterRows(new Date(load.status.started)) : 0
    return (base + rows) % ROWS_OF_A_VERSION
  }
  #begin(piece: Piece): Giving {
    const { epoch, server, file, offset } = piece.place
    const tx = {
      epoch,
      server,
      gtid: undefined,
      lastCommitted: 0,
      sequenceNumber: 0,
      skipped: undefined,
      file,
      offset,
      endFile: file,
      endOffset: offset,
      first: 0,
      next: 0,
      timestamp: Date.now(),
      changes: [],
      state: 'committed',
      slab: piece.slab,
      bytes: piece.chunk.bytes,
    } as const
    // above an order to empty the table, which may stand at the same place
    return {
      piece,
      tx: { ...tx, changes: [] },
      at: 0,
      firstRow: this.#firstRow(piece.from.rows + 1),
      next: piece.next,
    }
  }
  /** The next change of a piece, without the rows whose keys the stream has given out since P; undefined: none is left of it. */
  #change(giving: Giving): Change | undefined {
    const { piece, firstRow } = giving
    const { chunk, place, since } = piece
    if (piece.clear) return clearChange(chunk.plan.table)
    const { table, key } = chunk.plan
    const { database, name } = table
    const event = chunk.events[giving.at]!
    giving.firstRow += event.rows.length
    const touched = this.#touched
    const dropped = (reader: RowReader, side: ImageSide): boolean => {
      const at = touched.changed(database, name, keyText(reader, side, key)!)
      return at !== undefined && at > since
    }
    const { offset } = place
    const any = touched.any(database, name)
    const all = key.length === 0 && this.#load?.slot === 'snapshot'
    const whole = all ? (giving.at === 0 ? 'first' : 'more') : undefined
    return changeOf(chunk, event, { offset, firstRow, whole }, any ? dropped : undefined)
  }
  /** As much of a piece as the limit allows, one change at least; undefined: all that was left comes with the stream. */
  #part(giving: Giving, { changes: most, bytes: bytesMost }: Limit): Batch | undefined {
    const { tx, piece } = giving
    const { events } = piece.chunk
    const count = piece.clear ? 1 : events.length
    const from = tx.changes.length
    let bytes = 0
    for (; giving.at < count; giving.at++) {
      const given = tx.changes.length - from
      const size = piece.clear ? 0 : events[giving.at]!.end - events[giving.at]!.start
      if (given > 0 && (given >= most || bytes + size > bytesMost)) break
      const change = this.#change(giving)
      if (change === undefined) continue
      tx.changes.push(change)
      bytes += change.event.end - change.event.start
    }
    const to = tx.changes.length
    const batch = to > from ? this.#cursor.give(tx, from, to, bytes) : undefined
    const whole = giving.at === count
    if (batch !== undefined)
      this.#marks.push({ id: batch.id, progress: whole ? giving.next : undefined })
    if (whole) this.#given(giving, batch !== undefined)
    return batch
  }
  /** A piece is given out as a whole. `marked`: its last batch says so when it is acked. */
  #given({ piece: { from, next: own, chunk }, next }: Giving, marked: boolean): void {
    const { database, name } = chunk.plan.table
    // the same table may come once more right behind
    if (own.done > from.done && this.#reader?.reads(database, name) !== true)
      this.#touched.unwatch(database, name)
    this.#letGo()
    this.#reader?.given()
    if (this.#reader !== undefined) this.#touched.forget(this.#reader.since)
    // All of its rows have come with the stream: it is done when what was given out before is.
    if (!marked) this.#mark(next)
  }
  #letGo(): void {
    this.#giving?.tx.slab?.release()
    this.#giving = undefined
  }
}

function rest(limit: Limit, until: number): Limit {
  return limit.waitMs === Infinity || limit.waitMs === 0
    ? limit
    : { ...limit, waitMs: Math.max(0, until - performance.now()) }
}
