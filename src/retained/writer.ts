/**
 * Writes the retained log: gathers what the main reader has read, packs it in other threads and appends it to the segment at
 * hand, in order, one frame at a time. What it takes is in the log or the log's end is before it; nothing is ever left out:
 * where writing fails it keeps what it has, takes no more, and says so until it is written. Drops the oldest segments.
 *
 * `end` is where the main reader goes on after a start: what a crash took from the log is then read once more, so that the
 * log has no hole, whoever has acked what. The disk is asked to keep what was written once a second and at a segment's end.
 */
import { open, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Position, Transaction } from '../change.ts'
import { SluiceError } from '../errors.ts'
import { compareEnd, comparePlaces, Track } from '../store/window.ts'
import { frameOf, plainFrame } from './frame.ts'
import { Segments, type Warn } from './log.ts'
import { Packer } from './pack.ts'
import {
  count,
  headBody,
  joins,
  newSegment,
  noteTime,
  SEGMENT,
  writeIndex,
  type FrameEntry,
  type Head,
  type Segment,
} from './segment.ts'

const FRAME_BYTES = 512 * 1024 // raw bytes of one frame, or one larger part
const FRAME_TRANSACTIONS = 10_000
const QUEUE_BYTES = 4 * 1024 * 1024 // raw, gathered and not written yet; then who appends waits
const FLUSH_MS = 100
const SYNC_MS = 1000
const SWEEP_MS = 60_000

export interface Limits {
  readonly maxBytes: number
  readonly maxAgeMs: number // 0: none
  readonly segmentBytes: number
}
export interface WriterOptions {
  readonly instance: string
  readonly filter: string // in effect, as text
  readonly limits: Limits
  readonly log: Warn & { info(fields: object, message: string): void }
  /** Writing has failed; begin() says whether it goes on. */
  readonly failed: () => void
}
/** What is to be written next. */
type Job =
  | { readonly kind: 'segment'; readonly head: Omit<Head, 'created'>; readonly bytes: 0 }
  | {
      readonly kind: 'frame'
      readonly tables: Buffer | undefined
      readonly changes: Buffer
      readonly bytes: number // raw
      readonly entry: Omit<FrameEntry, 'at'>
      readonly end: Position
      readonly facts: Facts
    }
/** What the frame adds to what is known of its segment. */
interface Facts {
  transactions: number
  firstMs: number
  lastMs: number
  tables: Map<string, number>
}
const noFacts = (): Facts => ({ transactions: 0, firstMs: 0, lastMs: 0, tables: new Map() })

export class Writer {
  readonly segments: Segments
  readonly #options: WriterOptions
  readonly #packer = new Packer()
  readonly #queue: Job[] = []
  #queued = 0 // raw bytes
  #track: Track | undefined // after all that was taken; undefined: nothing that comes would join
  #zone = 'UTC'
  #gap: string | undefined // why the next segment joins nothing; undefined: it joins, or there is none
  #entry: Omit<FrameEntry, 'at'> | undefined // of the frame being gathered
  #facts = noFacts()
  #file: FileHandle | undefined
  #working: Promise<void> | undefined
  #error: SluiceError | undefined
  #room: (() => void)[] = []
  #rolls = true // the next transaction begins a segment
  #flush: NodeJS.Timeout | undefined
  #syncedAt = 0
  #noted = 0 // bytes of the segment at hand that its index has
  #sync: NodeJS.Timeout | undefined
  readonly #sweep: NodeJS.Timeout

  /** Mends what a crash left behind. */
  constructor(dir: string, options: WriterOptions) {
    this.#options = options
    this.segments = Segments.repair(dir, options.log)
    this.segments.onEnd(() => this.#cut())
    const last = this.segments.last
    if (last !== undefined) this.#track = new Track(last.end)
    this.#sweep = setInterval(() => this.#drop(), SWEEP_MS).unref()
    this.#drop()
  }

  /** After the last transaction taken; undefined where there is none, or nothing joins it any more. */
  get end(): Position | undefined {
    return this.#track?.position()
  }
  get error(): SluiceError | undefined {
    return this.#error
  }
  /** What comes next does not join what is there; `why` stands in the log. */
  breakOff(why: string): void {
    if (this.#track === undefined) return
    this.#cut()
    this.#track = undefined
    this.#gap = why
  }

  /**
   * The main reader is about to read on from `from`, on a server with this time zone. Writes first what could not be written
   * before. Throws LOG_WRITE_FAILED.
   */
  async begin(from: Position, zone: string): Promise<void> {
    this.#error = undefined
    if (zone !== this.#zone) this.#rolls = true
    this.#zone = zone
    this.#work()
    while (this.#working !== undefined) await this.#working
    if (this.#error !== undefined) throw this.#error as SluiceError
    const track = this.#track
    const again = track && from.epoch === track.epoch && comparePlaces(from, track) <= 0
    if (again || (track && joins(track.position(), from))) return
    const empty = this.segments.list.length === 0
    const why = track ? `reading went on elsewhere than the log ends` : undefined
    this.#cut()
    this.#gap ??= why ?? (empty ? 'the log begins here' : 'nothing is known of what came before')
    this.#track = new Track(from)
    this.#rolls = true
  }

  /**
   * Takes a copy of a transaction; passes over what it has already. A promise where what was taken before is not written yet.
   * Throws LOG_WRITE_FAILED, and takes nothing, where it cannot be.
   */
  append(tx: Transaction): void | Promise<void> {
    if (this.#error !== undefined) throw this.#error
    const track = this.#track
    if (track === undefined || compareEnd(tx, track) <= 0) return undefined
    if (track.skip === 0 && this.#full()) this.#rolls = true
    if (this.#rolls) this.#roll(track)
    this.#entry ??= {
      epoch: track.epoch,
      file: track.file,
      offset: track.offset,
      skip: track.skip,
      timestamp: tx.timestamp,
    }
    const within = tx.epoch === track.epoch && tx.file === track.file && tx.offset === track.offset
    this.#packer.add(tx, within ? track.skip : 0)
    this.#note(tx)
    track.pass(tx)
    const enough = this.#facts.transactions >= FRAME_TRANSACTIONS
    if (enough || this.#packer.bytes >= FRAME_BYTES) this.#cut()
    else this.#flush ??= setTimeout(() => this.#cut(), FLUSH_MS).unref()
    if (this.#queued < QUEUE_BYTES) return undefined
    return new Promise((resolve) => this.#room.push(resolve))
  }
  #note(tx: Transaction): void {
    const facts = this.#facts
    facts.transactions++
    if (tx.timestamp > 0) {
      if (facts.firstMs === 0 || tx.timestamp < facts.firstMs) facts.firstMs = tx.timestamp
      if (tx.timestamp > facts.lastMs) facts.lastMs = tx.timestamp
    }
  }

  /** Resolves when what was taken is written, or cannot be. */
  async flush(): Promise<void> {
    this.#cut()
    const last = this.#queue.at(-1)
    while (last && this.#queue.includes(last) && this.#error === undefined) await sleep(1)
  }
  /** Writes what was taken and closes the file. */
  async close(): Promise<void> {
    clearInterval(this.#sweep)
    this.#cut()
    while (this.#working !== undefined) await this.#working
    clearTimeout(this.#sync)
    await this.#seal().catch((error: unknown) => {
      this.#options.log.warn(
        {},
        `the last segment of the change log was not closed: ${String(error)}`,
      )
    })
    await this.#file?.close()
    this.#file = undefined
    this.segments.active = undefined
    this.segments.moved()
  }

  // ── gathering ──────────────────────────────────────────────────────────────

  /** Whether the segment that the next transaction would go into is full: with what waits to be written, as it is in memory. */
  #full(): boolean {
    const { segmentBytes, maxAgeMs } = this.#options.limits
    let bytes = this.#packer.bytes
    for (let i = this.#queue.length - 1; i >= 0; i--) {
      const job = this.#queue[i]!
      if (job.kind === 'segment') return bytes >= segmentBytes // not begun yet, or only just
      bytes += job.bytes
    }
    const { active } = this.segments
    if (active === undefined) return false
    const age = Date.now() - Date.parse(active.created)
    return active.bytes + bytes >= segmentBytes || (maxAgeMs > 0 && age > maxAgeMs / 8)
  }
  #roll(track: Track): void {
    this.#cut()
    this.#packer.restart()
    this.#rolls = false
    const { instance, filter } = this.#options
    const gap = this.#gap ?? ''
    this.#gap = undefined
    const head = { instance, from: track.position(), gap, filter, zone: this.#zone }
    this.#queue.push({ kind: 'segment', head, bytes: 0 })
  }
  /** What was gathered becomes a frame. */
  #cut(): void {
    clearTimeout(this.#flush)
    this.#flush = undefined
    if (!this.#packer.empty) {
      const raw = this.#packer.bytes
      const facts = this.#facts
      this.#packer.tables((name, changes) => {
        facts.tables.set(name, (facts.tables.get(name) ?? 0) + changes)
      })
      const bodies = this.#packer.take()
      const about = { entry: this.#entry!, end: this.#track!.position(), facts, bytes: raw }
      this.#queue.push({ kind: 'frame', ...bodies, ...about })
      this.#queued += raw
      this.#facts = noFacts()
      this.#entry = undefined
    }
    if (this.#error === undefined) this.#work()
  }

  // ── writing ────────────────────────────────────────────────────────────────

  #work(): void {
    if (this.#working !== undefined || this.#queue.length === 0) return
    this.#go()
  }
  #go(): void {
    this.#working = this.#drain().finally(() => {
      this.#working = undefined
      if (this.#error === undefined) this.#work() // what came meanwhile
    })
  }
  async #drain(): Promise<void> {
    try {
      for (let job; (job = this.#queue[0]); this.#queue.shift()) {
        if (job.kind === 'segment') await this.#begin(job.head)
        else await this.#write(job)
        this.#queued -= job.bytes
        this.segments.moved()
        if (this.#queued < QUEUE_BYTES) for (const go of this.#room.splice(0)) go()
      }
      await this.#syncSoon()
    } catch (cause) {
      const { path, bytes } = this.segments.active ?? { path: this.segments.dir, bytes: 0 }
      const text = `${path}, byte ${bytes}: the change log cannot be written: ${(cause as Error).message}`
      this.#error = new SluiceError('LOG_WRITE_FAILED', text, { cause })
      for (const go of this.#room.splice(0)) go()
      this.#options.failed()
    }
  }
  async #write(job: Job & { kind: 'frame' }): Promise<void> {
    const segment = this.segments.active!
    const { tables, changes, entry, facts } = job
    const pieces: Buffer[] = []
    if (tables) pieces.push(...(await frameOf('tables', tables)))
    const at = segment.bytes + pieces.reduce((sum, piece) => sum + piece.length, 0)
    pieces.push(...(await frameOf('changes', changes)))
    let to = segment.bytes
    for (const piece of pieces) to = await this.#put(piece, to)
    if (tables) segment.tableFrames.push(segment.bytes)
    segment.frames.push({ at, ...entry })
    segment.bytes = to
    segment.end = job.end
    segment.transactions += facts.transactions
    noteTime(segment, facts.firstMs)
    noteTime(segment, facts.lastMs)
    for (const [name, changed] of facts.tables) count(segment, name, changed)
  }
  async #put(piece: Buffer, to: number): Promise<number> {
    for (let done = 0; done < piece.length;) {
      const { bytesWritten } = await this.#file!.write(piece, done, piece.length - done, to + done)
      done += bytesWritten
    }
    return to + piece.length
  }
  async #begin(about: Omit<Head, 'created'>): Promise<void> {
    await this.#seal()
    const { segments } = this
    const number = (segments.last?.number ?? 0) + 1
    const path = join(segments.dir, String(number).padStart(8, '0') + SEGMENT)
    const head = { ...about, created: new Date().toISOString() }
    const frame = plainFrame('head', headBody(head))
    const file = await open(path, 'w', 0o600)
    this.#file = file
    await this.#put(frame, 0)
    this.#noted = 0
    const segment = newSegment(number, path, head, frame.length)
    segments.list.push(segment)
    segments.active = segment
    if (head.gap !== '' && number > 1) {
      const text = `the change log has a gap before ${path}: ${head.gap}`
      this.#options.log.warn({ segment: path }, text)
    }
    this.#drop()
  }
  /** The segment at hand is whole. Who reads it waits for the next one. */
  async #seal(): Promise<void> {
    const segment = this.segments.active
    if (segment !== undefined) {
      await this.#file?.datasync()
      writeIndex(segment)
    }
    await this.#file?.close()
    this.#file = undefined
  }
  async #syncSoon(): Promise<void> {
    const now = performance.now()
    if (now - this.#syncedAt < SYNC_MS) {
      const again = (): void => {
        this.#sync = undefined
        if (this.#working === undefined) this.#go()
      }
      this.#sync ??= setTimeout(again, SYNC_MS).unref()
      return
    }
    this.#syncedAt = now
    await this.#file?.datasync()
    const { active } = this.segments
    if (active === undefined || active.bytes - this.#noted < this.#options.limits.segmentBytes / 8)
      return
    this.#noted = active.bytes
    writeIndex(active)
  }

  // ── limits ─────────────────────────────────────────────────────────────────

  #drop(): void {
    const { list, active, bytes } = this.segments
    const { maxBytes, maxAgeMs } = this.#options.limits
    let left = bytes
    const old = (segment: Segment): boolean =>
      maxAgeMs > 0 && (segment.lastMs || Date.parse(segment.created)) < Date.now() - maxAgeMs
    while (list.length > 0 && list[0] !== active && (left > maxBytes || old(list[0]!))) {
      if (list.length === 1 && !old(list[0]!)) return
      left -= list[0]!.bytes
      try {
        this.segments.dropOldest()
      } catch (error) {
        this.#options.log.warn({}, `an old segment of the change log stays: ${String(error)}`)
        return
      }
    }
  }
}
