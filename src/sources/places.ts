/**
 * Finds places in a server's log without reading what changed there: walks the headers of one binlog file, from its
 * beginning, as a dump of its own. Knows where transactions begin, when, and which GTIDs lie before them. Whole values
 * are read only of events that say so; of a row event nothing but its header is looked at.
 */
import {
  readGtid,
  readIncident,
  readPreviousGtids,
  readQuery,
  statementText,
} from '../binlog/event.ts'
import {
  FLAG_ARTIFICIAL,
  HEADER_BYTES,
  eventFlags,
  eventNextPosition,
  eventSize,
  eventType,
  eventTypes,
  readFormat,
} from '../binlog/reader.ts'
import { SluiceError } from '../errors.ts'
import type { Gtid, GtidSet } from '../gtid.ts'
import { Connection, type ConnectOptions } from '../mysql/connection.ts'
import { incidentAt } from './log/events.ts'
import { Identities } from './mysql.ts'

/** A place between two transactions. */
export interface Boundary {
  readonly offset: number
  readonly seconds: number // of the first event behind it; 0 at the end of what was walked
  /** Every GTID before it; undefined where the file has no record of those in earlier files. */
  readonly gtids: GtidSet | undefined
}
export interface LogFile {
  readonly name: string
  readonly bytes: number
}

/** The binlog files that a server has, oldest first. */
export async function logFiles(connection: Pick<Connection, 'query'>): Promise<LogFile[]> {
  const rows = await connection.query<{ Log_name: string; File_size: number | string }>(
    'SHOW BINARY LOGS',
  )
  return rows.map((row) => ({ name: row.Log_name, bytes: Number(row.File_size) }))
}

/** When a binlog file was begun, in seconds since 1970, by the server's clock. Throws POSITION_LOST when it is gone. */
export async function fileSeconds(connect: ConnectOptions, file: string): Promise<number> {
  let seconds = 0
  await walkEvents(connect, file, (event) => {
    if (event.type !== eventTypes.FORMAT_DESCRIPTION) return true
    seconds = event.seconds
    return false
  })
  return seconds
}

/**
 * The first boundary in `file` that `wanted` says yes to, as far as `end`; with `found` false the last one there is.
 * The boundary at `end` itself is asked about too. Throws POSITION_LOST when the file is gone.
 */
export async function findBoundary(
  connect: ConnectOptions,
  { name, bytes: end }: LogFile,
  wanted: (at: Boundary) => boolean,
): Promise<Boundary & { readonly found: boolean; readonly before: number }> {
  const walk = new Walk()
  let last: Boundary = { offset: 4, seconds: 0, gtids: undefined }
  let before = 4 // the offset of the boundary before `last`
  let found = false
  const ask = (at: Boundary): boolean => {
    if (at.offset !== last.offset) before = last.offset
    last = at
    return (found = wanted(at))
  }
  await walkEvents(connect, name, (event) => {
    const at = walk.take(event)
    if (at && (at.offset >= end || ask(at))) return false
    return event.offset + event.size < end
  })
  if (!found && walk.closing > 0) ask(walk.end(walk.closing))
  if (!found) ask(walk.end(end))
  return { ...last, found, before }
}

/**
 * The first transaction, in the log's order, whose first event is of `seconds` or later; everything before it is older.
 * `found` false: there is none yet, and the boundary is the end of the log. `oldest`: the time at which the log begins.
 */
export async function findTime(
  connect: ConnectOptions,
  files: readonly LogFile[],
  seconds: number,
): Promise<{ file: string; boundary: Boundary; found: boolean; oldest: number }> {
  let low = 0 // files before it began before `seconds`
  let high = files.length // files from it on did not
  let oldest = 0
  while (low < high) {
    const middle = (low + high) >>> 1
    const began = await fileSeconds(connect, files[middle]!.name)
    if (middle === 0) oldest = began
    if (began < seconds) low = middle + 1
    else high = middle
  }
  // what was committed in the second in which a file was begun may stand in the one before it
  for (let i = Math.max(0, low - 1); ; i++) {
    const file = files[i]!
    const boundary = await findBoundary(connect, file, (at) => at.seconds >= seconds)
    if (boundary.found || i === files.length - 1) {
      return { file: file.name, boundary, found: boundary.found, oldest }
    }
  }
}

/**
 * Throws INCIDENT where one stands between `offset` in the first of `files` and the next transaction. A server that is asked by
 * GTID passes over it: it begins with the newest file before which nothing is missing.
 */
export async function refuseIncident(
  connect: ConnectOptions,
  files: readonly string[],
  offset: number,
): Promise<void> {
  let begun = false // a transaction, which the server will send
  for (const [i, file] of files.entries()) {
    if (begun) return
    const visit = (event: WalkedEvent): boolean => {
      begun ||= !apart.has(event.type)
      if (event.type === INCIDENT) {
        const { incident, message } = readIncident(event.bytes, 0, event.bytes.length)
        throw incidentAt(file, event, `${incident} (${message})`)
      }
      return !begun
    }
    await walkEvents(connect, file, visit, i === 0 ? offset : 4)
  }
}
// ── events ───────────────────────────────────────────────────────────────────

interface WalkedEvent {
  readonly type: number
  readonly seconds: number
  readonly offset: number
  readonly size: number
  readonly bytes: Buffer // of those in `read` all, of others the header
}
const { QUERY, ROTATE, STOP, FORMAT_DESCRIPTION, XID, XA_PREPARE } = eventTypes
const { GTID, ANONYMOUS_GTID, GTID_TAGGED, PREVIOUS_GTIDS } = eventTypes
const { HEARTBEAT, HEARTBEAT_V2, INCIDENT } = eventTypes
/** MariaDB's: GTID begins a transaction; the others stand between transactions. */
const MARIADB = { CHECKPOINT: 161, GTID: 162, GTID_LIST: 163, ENCRYPTION: 164 } as const
const read = new Set<number>([
  FORMAT_DESCRIPTION,
  PREVIOUS_GTIDS,
  GTID,
  ANONYMOUS_GTID,
  GTID_TAGGED,
  QUERY,
  INCIDENT,
])
/** What stands between transactions. */
const apart = new Set<number>([FORMAT_DESCRIPTION, PREVIOUS_GTIDS, ROTATE, STOP, INCIDENT])
const READ_MAX = 64 * 1024 * 1024
const WALK_HEARTBEAT_MS = 100 // an idle server says with it that the log ends here

/** Every event that stands in `file` from an event on, until `visit` says false, the file ends, or the log does. */
async function walkEvents(
  connect: ConnectOptions,
  file: string,
  visit: (event: WalkedEvent) => boolean,
  from = 4,
): Promise<void> {
  const stop = new AbortController()
  const connection = await Connection.open(connect)
  const { identity } = new Identities({}).draw()
  const request = { file, offset: from, gtids: undefined, place: `${file}:${from}` }
  let stream: Awaited<ReturnType<Connection['dump']>> | undefined
  try {
    stream = await connection.dump(
      { ...identity, ...request, heartbeatMs: WALK_HEARTBEAT_MS },
      stop.signal,
    )
    const head = new Head()
    const { packets } = stream
    let offset = from
    for (;;) {
      while (!packets.next()) if (!(await stream.more())) return
      if (packets.first) head.begin()
      head.add(packets.bytes, packets.start, packets.end)
      if (!packets.last) continue
      const { bytes } = head
      const type = eventType(bytes, 0)
      if (type === HEARTBEAT || type === HEARTBEAT_V2) return
      if (eventFlags(bytes, 0) & FLAG_ARTIFICIAL) continue
      // it is sent wherever one begins
      if (type === FORMAT_DESCRIPTION && eventNextPosition(bytes, 0) === 0) continue
      const size = eventSize(bytes, 0)
      if (!visit({ type, seconds: bytes.readUInt32LE(0), offset, size, bytes })) return
      if (type === ROTATE || type === STOP) return
      offset += size
    }
  } finally {
    stop.abort()
    stream?.close()
    connection.close()
  }
}

/** The event under way: its header, and all of it where it is of a kind that is read. */
class Head {
  #bytes = Buffer.alloc(4096)
  #have = 0
  #keep = HEADER_BYTES
  get bytes(): Buffer {
    if (this.#have < HEADER_BYTES) {
      throw new SluiceError(
        'EVENT_MALFORMED',
        `expected an event of ${HEADER_BYTES} bytes or more, got ${this.#have}`,
      )
    }
    return this.#bytes.subarray(0, this.#have)
  }
  begin(): void {
    this.#have = 0
    this.#keep = HEADER_BYTES
  }
  add(from: Buffer, start: number, end: number): void {
    while (start < end && this.#have < this.#keep) {
      const count = Math.min(end - start, this.#keep - this.#have)
      this.#have += from.copy(this.#bytes, this.#have, start, start + count)
      start += count
      if (this.#have === HEADER_BYTES && this.#keep === HEADER_BYTES) this.#decide()
    }
  }
  #decide(): void {
    if (!read.has(eventType(this.#bytes, 0))) return
    this.#keep = Math.min(READ_MAX, Math.max(HEADER_BYTES, eventSize(this.#bytes, 0)))
    if (this.#keep > this.#bytes.length) {
      const larger = Buffer.alloc(this.#keep)
      this.#bytes.copy(larger, 0, 0, this.#have)
      this.#bytes = larger
    }
  }
}

/** Follows the events of a file and knows where a transaction begins: by its GTID event, before 5.7 by what stands first. */
class Walk {
  #checksumBytes = 0
  #gtids: GtidSet | undefined
  #gtid: Gtid | undefined // of the transaction under way
  #open = false
  #begun = false // by BEGIN: its own end is to come
  /** Where the event that ends the file begins: everything is before it. 0 before it was seen. */
  closing = 0

  /** The boundary before `event`, where there is one. */
  take(event: WalkedEvent): Boundary | undefined {
    const { type, bytes, seconds, offset } = event
    const end = bytes.length - this.#checksumBytes
    if (type === FORMAT_DESCRIPTION) {
      this.#checksumBytes = readFormat(bytes, 0, bytes.length).checksumBytes
      this.#close()
    } else if (type === PREVIOUS_GTIDS) this.#gtids = readPreviousGtids(bytes, 0, end)
    else if (type === GTID || type === GTID_TAGGED || type === ANONYMOUS_GTID) {
      const at = this.#boundary(offset, seconds)
      this.#gtid = readGtid(bytes, 0, end).gtid
      this.#open = true
      this.#begun = true // what ends it is the next GTID
      return at
    } else if (type === MARIADB.GTID) {
      const at = this.#boundary(offset, seconds)
      this.#open = true
      this.#begun = true
      return at
    } else if (type === ROTATE || type === STOP) this.closing = offset
    else if (!between(type)) {
      const at = this.#open ? undefined : this.#boundary(offset, seconds)
      this.#open = true
      this.#follow(event, end)
      return at
    }
    return undefined
  }
  /** Where nothing follows. */
  end(offset: number): Boundary {
    return this.#boundary(offset, 0)
  }
  #boundary(offset: number, seconds: number): Boundary {
    this.#close()
    return { offset, seconds, gtids: this.#gtids?.clone() }
  }
  #close(): void {
    if (this.#gtid) this.#gtids?.add(this.#gtid)
    this.#gtid = undefined
    this.#open = false
    this.#begun = false
  }
  /** A transaction without a GTID event ends with what its kind ends with. */
  #follow({ type, bytes }: WalkedEvent, end: number): void {
    if (this.#gtid) return
    if (type === XID || type === XA_PREPARE) this.#open = false
    else if (type === QUERY) {
      const text = statementText(bytes, readQuery(bytes, 0, end))
        .slice(0, 20)
        .trim()
        .toUpperCase()
      if (/^(BEGIN|XA START)\b/.test(text)) this.#begun = true
      else if (!this.#begun || /^(COMMIT|ROLLBACK)$/.test(text)) this.#open = false
    }
    if (!this.#open) this.#begun = false
  }
}
const between = (type: number): boolean =>
  type === INCIDENT ||
  type === MARIADB.CHECKPOINT ||
  type === MARIADB.GTID_LIST ||
  type === MARIADB.ENCRYPTION
