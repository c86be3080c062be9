/**
 * One segment of the retained log: a file of frames, the first of which says where it begins and how its rows were read, and
 * beside it an index: how far it was written, which tables it has, which frame has what. Of the segment at hand it is made now
 * and then, so that after a crash only what came since is looked through. One that is missing or damaged is made again. Knows nothing of other segments.
 */
import {
  closeSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { parseTimeZone } from '../binlog/time.ts'
import { comparePositions, type Position } from '../change.ts'
import { SluiceError } from '../errors.ts'
import { everyColumn } from '../filter.ts'
import { positionFromJson, positionToJson } from '../store/state.ts'
import { comparePlaces, Track, type Place } from '../store/window.ts'
import { damaged, Flaw, FRAME_HEADER, plainFrame, readFrameNow, type Frame } from './frame.ts'
import { Tables, Unpacked } from './pack.ts'

export const SEGMENT = '.seg'
const INDEX = '.idx'

/** What a segment says of itself in its first frame. */
export interface Head {
  readonly instance: string
  readonly created: string // ISO 8601
  readonly from: Position // its first transaction comes after it
  readonly gap: string // why what comes before is not in the log; "" where the segment before it ends right here
  readonly filter: string // what the instance let through when it was written
  readonly zone: string // of TIMESTAMP texts then
}
/** A frame of changes: where it stands in the file, and the place before its first transaction. */
export interface FrameEntry extends Place {
  readonly at: number
  readonly timestamp: number
}
/** What is known of a segment. Of the one that is being written it grows. */
export interface Segment extends Head {
  readonly number: number
  readonly path: string
  end: Position // after its last whole transaction or part
  bytes: number // of whole frames
  firstMs: number // times of its transactions, by the source's clock; 0: there are none
  lastMs: number
  transactions: number
  changes: number
  readonly tables: Map<string, number> // "database.table": changes
  readonly frames: FrameEntry[]
  readonly tableFrames: number[] // where frames of tables stand
  /** Where it is damaged: nothing from there on is given out. */
  damagedAt: number | undefined
}

export const headBody = (head: Head): Buffer =>
  Buffer.from(JSON.stringify({ ...head, from: positionToJson(head.from) }))

/** A segment that has its head and nothing else. */
export function newSegment(number: number, path: string, head: Head, bytes: number): Segment {
  return {
    ...head,
    number,
    path,
    end: head.from,
    bytes,
    firstMs: 0,
    lastMs: 0,
    transactions: 0,
    changes: 0,
    tables: new Map(),
    frames: [],
    tableFrames: [],
    damagedAt: undefined,
  }
}

/** Whether one ends where the other begins. */
export function joins(end: Position, from: Position): boolean {
  if (end.epoch === from.epoch && comparePositions(end, from) === 0) return true
  if (!end.gtids || !from.gtids || end.skip > 0 || from.skip > 0) return false
  return end.gtids.includes(from.gtids) && from.gtids.includes(end.gtids)
}

/** The frame to begin with for who wants what comes after `place`. */
export function frameBefore({ frames }: Segment, place: Place): FrameEntry | undefined {
  if (place.file === '') return frames[0]
  return frames.findLast((entry) => comparePlaces(entry, place) <= 0) ?? frames[0]
}

// ── the index ────────────────────────────────────────────────────────────────

/** Writes the index beside the segment, so that it is there as a whole or not at all. */
export function writeIndex(segment: Segment): void {
  const { tables, end, number: _number, path, from, ...rest } = segment
  const body = JSON.stringify({
    ...rest,
    from: positionToJson(from),
    end: positionToJson(end),
    tables: Object.fromEntries(tables),
  })
  const file = indexOf(path)
  writeFileSync(`${file}.new`, plainFrame('index', Buffer.from(body)))
  renameSync(`${file}.new`, file)
}
export const indexOf = (path: string): string => path.slice(0, -SEGMENT.length) + INDEX

/** What the index says, and whether that is all of the file; undefined where there is none that can be believed. */
export function known(
  number: number,
  path: string,
): { segment: Segment; all: boolean } | undefined {
  const segment = readIndex(number, path)
  if (segment === undefined) return undefined
  const { size } = statSync(path)
  if (size < segment.bytes) return undefined
  return { segment, all: size === segment.bytes || segment.damagedAt !== undefined }
}
/** undefined where there is none that can be believed. */
function readIndex(number: number, path: string): Segment | undefined {
  try {
    const bytes = readFileSync(indexOf(path))
    const fd = openSync(indexOf(path), 'r')
    let frame: Frame | undefined
    try {
      frame = readFrameNow(fd, 0, bytes.length)
    } finally {
      closeSync(fd)
    }
    if (frame?.kind !== 'index') return undefined
    const read = JSON.parse(frame.body.toString()) as Omit<Segment, 'from' | 'end' | 'tables'> & {
      from: string
      end: string
      tables: Record<string, number>
    }
    const [from, end] = [positionFromJson(read.from), positionFromJson(read.end)]
    const tables = new Map(Object.entries(read.tables))
    return { ...read, damagedAt: read.damagedAt, from, end, tables, number, path }
  } catch {
    return undefined
  }
}

// ── looking through ──────────────────────────────────────────────────────────

export interface Scan {
  readonly segment: Segment
  /** Why the file is shorter, or is used only in part; undefined: it is whole. */
  readonly flaw: Flaw | undefined
}

/**
 * Reads a whole segment, at once, and says what it has. Its tail is cut off where a write was cut short (`repair`): there, no
 * whole frame follows. Damage elsewhere stays, and what comes after it is not used. With `from`, what is known of its beginning,
 * it is read from there on. undefined: it was cut short within its head. Throws LOG_DAMAGED where the head is not whole and
 * frames follow: nobody can say what they are.
 */
export function scanSegment(
  number: number,
  path: string,
  { repair, from }: { readonly repair: boolean; readonly from?: Segment | undefined },
): Scan | undefined {
  const fd = openSync(path, repair ? 'r+' : 'r')
  try {
    const { size } = fstatSync(fd)
    const scanner = new Scanner(number, path, from)
    let flaw: Flaw | undefined
    try {
      for (const at of from?.tableFrames ?? []) scanner.learn(readFrameNow(fd, at, size)!)
      for (let frame; (frame = readFrameNow(fd, scanner.at, size));) scanner.take(frame)
    } catch (error) {
      flaw = error instanceof Flaw ? error : new Flaw(scanner.at, false, String(error))
    }
    const { segment } = scanner
    if (segment === undefined) {
      if (flaw === undefined || !followed(fd, flaw.at, size)) return undefined
      throw damaged(path, flaw.at, `the segment's head cannot be read: ${flaw.message}`)
    }
    if (flaw !== undefined && followed(fd, flaw.at, size)) segment.damagedAt = flaw.at
    else if (flaw !== undefined && repair) {
      ftruncateSync(fd, segment.bytes)
      fsyncSync(fd)
    }
    return { segment, flaw }
  } finally {
    closeSync(fd)
  }
}

/** Follows the frames of a segment. */
class Scanner {
  at = 0
  segment: Segment | undefined
  readonly #number: number
  readonly #path: string
  readonly #tables = new Tables({
    zone: parseTimeZone('UTC'),
    columns: everyColumn,
    filter: undefined,
  })
  #track: Track | undefined

  constructor(number: number, path: string, from: Segment | undefined) {
    this.#number = number
    this.#path = path
    if (from === undefined) return
    this.segment = from
    this.at = from.bytes
    this.#track = new Track(from.end)
  }
  learn({ body }: Frame): void {
    this.#tables.learn(body)
  }
  take(frame: Frame): void {
    const { kind, body, at, end } = frame
    const segment = this.segment
    if (segment === undefined || this.#track === undefined) {
      if (kind !== 'head') throw new Flaw(at, false, `expected a segment's head, found ${kind}`)
      const head = readHead(body)
      this.segment = newSegment(this.#number, this.#path, head, end)
      this.#track = new Track(head.from)
    } else {
      if (kind === 'tables') {
        this.learn(frame)
        segment.tableFrames.push(at)
      } else if (kind === 'changes') this.#changes(segment, this.#track, frame)
      segment.bytes = end
    }
    this.at = end
  }
  #changes(segment: Segment, track: Track, { body, at }: Frame): void {
    const { epoch, file, offset, skip } = track
    const unpacked = new Unpacked(body)
    unpacked.tables(this.#tables, (name, changes) => count(segment, name, changes))
    let timestamp = 0
    for (const tx of unpacked.places()) {
      timestamp ||= tx.timestamp
      noteTime(segment, tx.timestamp)
      track.pass(tx)
    }
    segment.transactions += unpacked.count
    segment.frames.push({ at, epoch, file, offset, skip, timestamp })
    segment.end = track.position()
  }
}
export function readHead(body: Buffer): Head {
  const { from, ...rest } = JSON.parse(body.toString()) as Omit<Head, 'from'> & { from: string }
  return { ...rest, from: positionFromJson(from) }
}
export function count(segment: Segment, name: string, changes: number): void {
  segment.tables.set(name, (segment.tables.get(name) ?? 0) + changes)
  segment.changes += changes
}
export function noteTime(segment: Segment, ms: number): void {
  if (ms === 0) return
  if (segment.firstMs === 0 || ms < segment.firstMs) segment.firstMs = ms
  if (ms > segment.lastMs) segment.lastMs = ms
}

const CHUNK = 1024 * 1024
/** Whether a whole frame begins somewhere behind `at`. */
function followed(fd: number, at: number, size: number): boolean {
  const chunk = Buffer.alloc(CHUNK)
  for (let from = at + 1; from < size; from += CHUNK - FRAME_HEADER) {
    const have = readSync(fd, chunk, 0, CHUNK, from)
    for (let i = 0; (i = chunk.indexOf('SLF1', i)) >= 0 && i < have; i++) {
      try {
        if (readFrameNow(fd, from + i, size)) return true
      } catch (error) {
        if (!(error instanceof Flaw)) throw new SluiceError('LOG_DAMAGED', String(error))
      }
    }
    chunk.fill(0)
  }
  return false
}
