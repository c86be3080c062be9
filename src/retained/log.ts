/**
 * The segments of one instance's retained log, in order: which positions they have, and reading from one of them. Segments
 * that join are one stretch; where one says that something is missing before it, or is damaged, the stretch ends, and nobody
 * is taken across. Reading checks every byte that it gives out. Knows no source: where the log ends, its caller goes on.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, unlinkSync } from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { parseTimeZone } from '../binlog/time.ts'
import type { Filter, Position, Transaction } from '../change.ts'
import { SluiceError } from '../errors.ts'
import type { ColumnFilter } from '../filter.ts'
import { compareEnd, comparePlaces, Track } from '../store/window.ts'
import { damaged, Flaw, readFrame, type Frame } from './frame.ts'
import { Tables, Unpacked } from './pack.ts'
import {
  frameBefore,
  indexOf,
  joins,
  known,
  scanSegment,
  SEGMENT,
  writeIndex,
  type Scan,
  type Segment,
} from './segment.ts'

/** Where the segments of an instance lie. */
export const logDir = (dataDir: string, instance: string): string =>
  join(dataDir, `${instance}.changes`)

/** How rows are shown: as the configuration of today says. */
export interface ViewOptions {
  readonly zone: string | undefined // undefined: as they were read at the time
  readonly columns: ColumnFilter
  readonly filter: Filter
  /** The filter as text: segments written under the same one need not be looked through for what is not wanted. */
  readonly filterText: string
}
export interface Warn {
  warn(fields: object, message: string): void
}

/** Segments of a folder, oldest first; no file is written. */
export class Segments {
  readonly dir: string
  readonly list: Segment[] = []
  /** Why others are not among them: their heads are damaged. */
  readonly unreadable: SluiceError[] = []
  /** The one that is being written, by us. */
  active: Segment | undefined
  readonly #waiting = new Set<() => void>()
  #flush: (() => void) | undefined

  constructor(dir: string) {
    this.dir = dir
  }
  /** What is there; a log that a server writes may have more by now. Throws LOG_DAMAGED where a file cannot be read. */
  static look(dir: string): Segments {
    const segments = new Segments(dir)
    if (existsSync(dir)) for (const { number, path } of filesOf(dir)) segments.#look(number, path)
    return segments
  }
  #look(number: number, path: string): void {
    try {
      const before = known(number, path)
      const segment = before?.all
        ? before.segment
        : scanSegment(number, path, { repair: false, from: before?.segment })?.segment
      if (segment) this.list.push(segment)
    } catch (error) {
      if (!isDamage(error)) throw error
      this.unreadable.push(error)
    }
  }
  /** For who writes: cuts off what a crash left half written, and makes the indexes that are missing. */
  static repair(dir: string, log: Warn): Segments {
    mkdirSync(dir, { recursive: true, mode: 0o700 })
    const segments = new Segments(dir)
    for (const { number, path } of filesOf(dir)) {
      const before = known(number, path)
      if (before?.all) segments.list.push(before.segment)
      else segments.#repair({ number, path, from: before?.segment }, log)
    }
    return segments
  }
  #repair(
    { number, path, from }: { number: number; path: string; from: Segment | undefined },
    log: Warn,
  ): void {
    let scan: Scan | undefined
    try {
      scan = scanSegment(number, path, { repair: true, from })
    } catch (error) {
      if (!isDamage(error)) throw error
      this.unreadable.push(error)
      const aside = `${path}.damaged`
      renameSync(path, aside)
      rmSync(indexOf(path), { force: true })
      const fields = { code: error.code, segment: path }
      log.warn(fields, `${error.message}; moved to ${aside}, nothing of it is used`)
      return
    }
    if (scan === undefined) {
      log.warn({ segment: path }, `${path}: removed: it was cut short before it had anything`)
      for (const one of [indexOf(path), path]) rmSync(one, { force: true })
      return
    }
    const { segment, flaw } = scan
    if (flaw !== undefined) {
      const text =
        segment.damagedAt === undefined
          ? `${path}, byte ${flaw.at}: ${flaw.message}; cut off, and read again from the source`
          : damaged(path, flaw.at, `${flaw.message}; nothing behind it is used`).message
      log.warn({ code: 'LOG_DAMAGED', segment: path, byte: flaw.at }, text)
    }
    writeIndex(segment)
    this.list.push(segment)
  }

  get bytes(): number {
    return this.list.reduce((sum, segment) => sum + segment.bytes, 0)
  }
  get last(): Segment | undefined {
    return this.list.at(-1)
  }
  /** Removes the oldest segment. Who reads it reads on. */
  dropOldest(): void {
    const [oldest] = this.list.splice(0, 1)
    if (oldest === undefined) return
    for (const path of [indexOf(oldest.path), oldest.path]) if (existsSync(path)) unlinkSync(path)
  }

  // ── places ─────────────────────────────────────────────────────────────────

  /** Whether the log has what comes after `at`, at least some of it. */
  covers(at: Position): boolean {
    return this.find(at, false) !== undefined
  }
  /** The segment that has what comes after `at`; `live`: or will have, as the one that is being written. */
  find(at: Position, live = true): Segment | undefined {
    for (let i = this.list.length - 1; i >= 0; i--) {
      const segment = this.list[i]!
      if (!isAfter(at, segment.from)) continue
      if (live && segment === this.active && joins(segment.end, at)) return segment
      return isAfter(at, segment.end) ? undefined : segment
    }
    return undefined
  }

  // ── reading ────────────────────────────────────────────────────────────────

  /** Somebody has written, or ended, the segment that is being written. */
  moved(): void {
    for (const wake of this.#waiting) wake()
  }
  /** `flush` is asked for what is not written yet when a reader has come to the end. */
  onEnd(flush: () => void): void {
    this.#flush = flush
  }

  /**
   * Transactions after `from`, as far as segments join; where one is being written, that is when it ends. The slab of each is
   * the caller's. Throws LOG_DAMAGED, which names the file and the byte; what came before it was whole.
   */
  async *read(
    from: Position,
    view: ViewOptions,
    signal: AbortSignal,
  ): AsyncGenerator<Transaction, void, undefined> {
    const track = new Track(from)
    for (;;) {
      const segment = this.find(track.position())
      if (segment === undefined || signal.aborted) return
      const reader = new SegmentReader(segment, view, from)
      try {
        await reader.open(track)
        for (;;) {
          for (let frame; (frame = await reader.next(track));) {
            for (const tx of reader.transactions(frame)) {
              track.pass(tx)
              yield tx
              if (signal.aborted) return
            }
          }
          if (segment !== this.active || signal.aborted) break
          await this.#more(segment, reader.at, signal)
        }
      } finally {
        await reader.close()
      }
      if (segment === this.find(track.position(), false)) return // it has nothing that we can use
    }
  }
  async #more(segment: Segment, at: number, signal: AbortSignal): Promise<void> {
    this.#flush?.()
    const { promise, resolve } = Promise.withResolvers<void>()
    const wake = (): void => {
      if (segment.bytes > at || segment !== this.active || signal.aborted) resolve()
    }
    this.#waiting.add(wake)
    signal.addEventListener('abort', wake)
    wake()
    await promise
    this.#waiting.delete(wake)
    signal.removeEventListener('abort', wake)
  }
}

/** Whether everything before `place` was had at `at`; by GTIDs where both have them. */
function isAfter(at: Position, place: Position): boolean {
  if (at.gtids && place.gtids) {
    if (!at.gtids.includes(place.gtids)) return false
    if (place.skip === 0 || !place.gtids.includes(at.gtids)) return true
  } else if (at.file === '') return false
  return comparePlaces(at, place) >= 0
}

export function filesOf(dir: string): { number: number; path: string }[] {
  return readdirSync(dir)
    .filter((name) => /^\d{8,}\.seg$/.test(name))
    .map((name) => ({ number: Number(name.slice(0, -SEGMENT.length)), path: join(dir, name) }))
    .sort((a, b) => a.number - b.number)
}

/** Reads one segment, from the frame on that has what comes after a place. */
class SegmentReader {
  at = 0
  readonly #segment: Segment
  readonly #from: Position
  readonly #tables: Tables
  #file: FileHandle | undefined

  constructor(segment: Segment, view: ViewOptions, from: Position) {
    this.#segment = segment
    this.#from = from
    const same = segment.filter === view.filterText
    this.#tables = new Tables({
      zone: parseTimeZone(view.zone ?? segment.zone),
      columns: view.columns,
      filter: same ? undefined : view.filter,
    })
  }
  async open(track: Track): Promise<void> {
    const { path, tableFrames } = this.#segment
    this.#file = await open(path, 'r').catch((cause: unknown) => {
      throw damaged(path, 0, `cannot be read: ${String(cause)}`, cause)
    })
    const first = frameBefore(this.#segment, track)
    this.at = first?.at ?? this.#segment.bytes
    for (const at of tableFrames) {
      if (at >= this.at) continue
      const frame = await this.#frame(at, track)
      if (frame?.kind === 'tables') this.#tables.learn(frame.body)
    }
  }
  /** The next frame of changes. Throws LOG_DAMAGED. */
  async next(track: Track): Promise<Frame | undefined> {
    for (;;) {
      const frame = await this.#frame(this.at, track)
      if (frame === undefined) return this.#ended()
      this.at = frame.end
      if (frame.kind === 'changes') return frame
      if (frame.kind === 'tables') this.#tables.learn(frame.body)
    }
  }
  #ended(): undefined {
    const { path, damagedAt } = this.#segment
    if (damagedAt !== undefined) throw damaged(path, damagedAt, 'nothing from here on can be used')
  }
  async #frame(at: number, track: Track): Promise<Frame | undefined> {
    const segment = this.#segment
    try {
      return await readFrame(this.#file!, at, segment.bytes)
    } catch (error) {
      const why = error instanceof Flaw ? error.message : String(error)
      segment.damagedAt = error instanceof Flaw ? error.at : at
      segment.end = track.position()
      throw damaged(segment.path, segment.damagedAt, why, error)
    }
  }
  transactions({ body }: Frame): Iterable<Transaction> {
    return new Unpacked(body).transactions(this.#tables, (tx) => begin(tx, this.#from))
  }
  async close(): Promise<void> {
    await this.#file?.close()
  }
}

/**
 * The ordinal with which a transaction or part begins for who is at `from`; undefined: he has had it; Infinity: only what it
 * says of those before it that nobody wanted is new.
 */
function begin(tx: Transaction, from: Position): number | undefined {
  const { gtids } = from
  if (gtids && tx.gtid) {
    const news = tx.skipped !== undefined && !gtids.includes(tx.skipped)
    if (gtids.contains(tx.gtid)) return news ? Infinity : undefined
  } else if (gtids && tx.skipped) {
    if (gtids.includes(tx.skipped)) return undefined
  } else if (from.file !== '' && compareEnd(tx, from) <= 0) return undefined
  const within = tx.epoch === from.epoch && tx.file === from.file && tx.offset === from.offset
  if (!within || from.skip <= tx.first) return tx.first
  return tx.state === 'open' && tx.next <= from.skip ? undefined : from.skip
}

export const isDamage = (error: unknown): error is SluiceError =>
  error instanceof SluiceError && error.code === 'LOG_DAMAGED'
