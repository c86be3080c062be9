/**
 * Canal's cursors as ours. Canal keeps the start of an *event*, somewhere in the transaction it last acked; a position of
 * ours is the start of a transaction. So the source's log is asked where that transaction begins: it is delivered once
 * more, nothing is left out. That the log is the one Canal read is checked by the event itself: its place, its server
 * id, its time. (Canal's `included` says nothing: it is false for events that were acked, too.) Where the file is gone or is another one, the GTID set decides, if there is one and nothing of it was
 * purged; else this throws, and says what to do.
 */
import { randomInt, randomUUID } from 'node:crypto'
import { eventNextPosition, eventSize, HEADER_BYTES } from '../../binlog/reader.ts'
import { comparePositions, fileNumber, formatPosition } from '../../change.ts'
import type { Position } from '../../change.ts'
import type { InstanceConfig } from '../../config/config.ts'
import { begin, gtidsAt, mariadbGtidsAt, readKnown } from '../../epoch.ts'
import { SluiceError } from '../../errors.ts'
import { GtidSet } from '../../gtid.ts'
import type { Logger } from '../../logger.ts'
import { Connection, PLAIN_OFFSET_MAX } from '../../mysql/connection.ts'
import type { SourceFacts } from '../../sources/mysql.ts'
import { State } from '../../store/state.ts'
import { connectOptions } from '../../upstream/connect.ts'
import { openSource } from '../common.ts'
import type { CanalPosition } from './installation.ts'

/** A cursor to be made. */
export interface Wanted {
  readonly client: string // of ours: a client id, or a sink's cursor
  readonly filterText: string
  readonly position: CanalPosition
}
/** A cursor with its place in the source's log. */
export interface Placed {
  readonly client: string
  readonly filterText: string
  readonly position: Position // of any epoch
  readonly how: string // for people
}
export interface Places {
  readonly facts: SourceFacts
  readonly cursors: readonly Placed[]
  readonly origin: Position // the earliest of them, or `start`
}
type Query = <T>(sql: string, params?: (string | number)[]) => Promise<T[]>

/**
 * Finds every cursor's place, and `start`'s when it is a place in the log and there is no cursor. Throws what connecting
 * throws; POSITION_LOST, SOURCE_CHANGED for a cursor that has no place.
 */
export async function findPlaces(
  config: InstanceConfig,
  wanted: readonly Wanted[],
  log: Logger,
): Promise<Places> {
  using source = await openSource(config, log)
  const { facts } = source
  const query: Query = (sql, params) => source.lookup.query(sql, params)
  const finder = { config, facts, query }
  const cursors: Placed[] = []
  for (const { client, filterText, position } of wanted)
    cursors.push({ client, filterText, ...(await place(finder, client, position)) })
  const { start } = config
  if (cursors.length === 0 && typeof start === 'object' && 'file' in start) {
    const at = { file: start.file, offset: start.offset, serverId: 0, timestamp: 0, gtids: '' }
    return { facts, cursors, origin: (await place(finder, 'start', at)).position }
  }
  const origin = cursors.map((c) => c.position).reduce(earlier)
  return { facts, cursors, origin }
}
const earlier = (a: Position, b: Position): Position => (comparePositions(b, a) < 0 ? b : a)

interface Finder {
  readonly config: InstanceConfig
  readonly facts: SourceFacts
  readonly query: Query
}
const help =
  'Look at what is missing; then import with --without-cursors and write where to begin into `start` of the instance file'

async function place(
  finder: Finder,
  who: string,
  at: CanalPosition,
): Promise<{ position: Position; how: string }> {
  const { facts, query } = finder
  const why = at.file === '' ? 'meta.dat names no file' : await unlike(finder, at)
  const given = at.gtids === '' ? undefined : GtidSet.parse(at.gtids)
  const common = { ...facts.latest, skip: 0, timestamp: at.timestamp }
  if (why === '') {
    const found = (await transactionAt(query, at.file, at.offset))!
    const { file } = at
    const offset = found.start
    const ask = facts.mariadb ? mariadbGtidsAt : gtidsAt
    const gtids = facts.executed && (await ask(query, file, offset))
    const inside = at.offset - offset
    return {
      position: { ...common, file, offset, gtids },
      how: `${file}:${offset}${inside > 0 ? `, where the transaction of Canal's ${at.offset} begins` : ''}`,
    }
  }
  const where = `${who}: ${at.file}:${at.offset}`
  if (given === undefined || facts.executed === undefined || facts.purged === undefined) {
    const gtids = given ? 'and the source has no GTIDs' : 'and Canal kept no GTIDs'
    throw new SluiceError('POSITION_LOST', `${where}: ${why}, ${gtids}. ${help}`)
  }
  const unknown = given.subtract(facts.executed)
  if (!unknown.empty) {
    throw new SluiceError(
      'SOURCE_CHANGED',
      `${where}: ${why}, and the source never executed ${unknown.toString()}, which Canal delivered. ${help}`,
    )
  }
  const purged = facts.purged.subtract(given)
  if (!purged.empty) {
    throw new SluiceError(
      'POSITION_LOST',
      `${where}: ${why}, and the source has purged ${purged.toString()}, which were not delivered. ${help}`,
    )
  }
  const position = { ...facts.earliest, skip: 0, gtids: given, timestamp: at.timestamp }
  return { position, how: `by its GTID set, for ${why}` }
}

/** Why the source's log is not the one Canal read there; "" when it is. */
async function unlike({ config, facts, query }: Finder, at: CanalPosition): Promise<string> {
  const files = await query<{ Log_name: string }>('SHOW BINARY LOGS')
  if (!files.some((f) => f.Log_name === at.file)) {
    const first = facts.earliest.file
    const gone = fileNumber(at.file) < fileNumber(first)
    return gone
      ? `the source has purged the file (its first one is ${first})`
      : 'the source has no such file'
  }
  const found = await transactionAt(query, at.file, at.offset)
  if (!found) return 'no event begins there: the source, or its log, is another one'
  if (at.serverId > 0 && found.serverId !== undefined && found.serverId !== at.serverId)
    return `the event there is of server id ${found.serverId}, not ${at.serverId}: another source`
  const plain = found.type !== 'Transaction_payload' && at.offset <= PLAIN_OFFSET_MAX
  if (at.timestamp === 0 || !plain) return ''
  const seconds = await secondsAt(config, at)
  const expected = Math.floor(at.timestamp / 1000)
  return seconds === undefined || seconds === expected
    ? ''
    : `the event there is of ${iso(seconds)}, not of ${iso(expected)}: the log was reset, or the source is another one`
}
const iso = (seconds: number): string => new Date(seconds * 1000).toISOString()

// ── the log ──────────────────────────────────────────────────────────────────

const PAGE = 10_000
const CONTROL =
  /^(Format_desc|Previous_gtids|Gtid_list|Rotate|Stop|Start_encryption|Binlog_checkpoint|Heartbeat)/i
interface EventRow {
  readonly Pos: number | string
  readonly Event_type: string
  readonly Server_id: number | string
  readonly End_log_pos: number | string
  readonly Info: string
}
export interface Enclosing {
  readonly start: number // of the transaction that has the event at the offset; of the event, when it is in none
  readonly type: string
  readonly serverId: number | undefined // undefined at the end of the log
}

/**
 * The transaction around the event that begins at `offset`; at the end of the file, that end. undefined when no event
 * begins there. Reads the file's events from its beginning, needs REPLICATION SLAVE.
 */
export async function transactionAt(
  query: Query,
  file: string,
  offset: number,
): Promise<Enclosing | undefined> {
  const group = new Group()
  for (let from = 4; ;) {
    const rows = await query<EventRow>(`SHOW BINLOG EVENTS IN ? FROM ${from} LIMIT ${PAGE}`, [file])
    for (const row of rows) {
      const pos = Number(row.Pos)
      if (pos > offset) return undefined
      group.event(row)
      if (pos < offset) continue
      return { start: group.first ?? pos, type: row.Event_type, serverId: Number(row.Server_id) }
    }
    const next = Number(rows.at(-1)?.End_log_pos ?? 0)
    if (rows.length === PAGE && next > from) {
      from = next
      continue
    }
    const atEnd = next === offset && group.closed
    return atEnd ? { start: offset, type: '', serverId: undefined } : undefined
  }
}

/** Follows events, and knows where the transaction of the last one began. */
class Group {
  first: number | undefined // undefined: the last event belongs to no transaction
  closed = true // the last event ended its transaction
  #open = false // BEGIN was seen
  #done = 0 // a payload's own events, where a server lists them, lie before this

  event({ Pos, Event_type: type, End_log_pos: end, Info }: EventRow): void {
    const pos = Number(Pos)
    if (pos < this.#done) return
    if (this.closed) this.first = CONTROL.test(type) ? undefined : pos
    if (this.first === undefined) return
    this.closed = this.#ends(type, Info.replace(/^use `(?:[^`]|``)*`; /, ''))
    if (type === 'Transaction_payload') this.#done = Number(end)
    if (this.closed) this.#open = false
  }
  #ends(type: string, sql: string): boolean {
    if (/^(Xid|XA_prepare|Transaction_payload)$/i.test(type)) return true
    if (!/^Query/i.test(type)) return false
    if (/^(BEGIN|XA START)\b/i.test(sql)) this.#open = true
    return !this.#open || /^(COMMIT|ROLLBACK(?!\s+(WORK\s+)?TO\b))/i.test(sql)
  }
}

/** Seconds since 1970 in the header of the event at a place; undefined where the log is quiet there. */
async function secondsAt(config: InstanceConfig, at: CanalPosition): Promise<number | undefined> {
  using connection = await Connection.open(connectOptions(config.source))
  const stop = new AbortController()
  const { file, offset } = at
  const stream = await connection.dump(
    {
      serverId: randomInt(0x4000_0000, 0xffff_ffff),
      replicaUuid: randomUUID(),
      heartbeatMs: 1000,
      place: `${file}:${offset}`,
      file,
      offset,
      gtids: undefined,
    },
    stop.signal,
  )
  try {
    let header = Buffer.alloc(0)
    while (await stream.more()) {
      while (stream.packets.next()) {
        const { bytes, start, end, first } = stream.packets
        const have = first ? Buffer.alloc(0) : header
        if (have.length >= HEADER_BYTES) continue
        header = Buffer.concat([have, bytes.subarray(start, Math.min(end, start + HEADER_BYTES))])
        if (header.length < HEADER_BYTES) continue
        const type = header[4]!
        if (type === 27 || type === 41) return undefined // a heartbeat
        const begins = eventNextPosition(header, 0) - eventSize(header, 0)
        if (begins === offset) return header.readUInt32LE(0)
      }
    }
    return undefined
  } finally {
    stop.abort()
    stream.close()
  }
}

// ── the state file ───────────────────────────────────────────────────────────

/** Makes the state file that `sluice serve` goes on from. Throws STATE_UNREADABLE when there is one with positions. */
export function writeState(path: string, places: Places, log: Logger): void {
  const { facts, cursors, origin } = places
  const state = State.open(path)
  try {
    if (readKnown(state) !== undefined || state.cursors().length > 0) {
      const text = `${path}: this state file has positions already; move it away, or use another --out`
      throw new SluiceError('STATE_UNREADABLE', text)
    }
    const known = begin(state, origin, facts.serverUuid, log)
    const { epoch, server } = known
    for (const { client, position, filterText } of cursors)
      state.subscribe(client, { ...position, epoch, server }, filterText)
  } finally {
    state.close()
  }
}
/** For people: one line per cursor. */
export const describePlace = ({ client, position, how }: Placed): string =>
  `client ${client}: begins at ${how || formatPosition(position)}`
