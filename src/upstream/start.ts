/**
 * What a start position means on a source: `latest`, `earliest`, a place in the log, a GTID set or a time become a Position
 * with everything that is known of it, the GTIDs before it too, so that a fail-over can be followed. Asks the source; where
 * the source cannot give it, says what was expected and what is there. Writes nothing.
 */
import { comparePositions, fileNumber, formatPosition, type Position } from '../change.ts'
import type { InstanceConfig } from '../config/config.ts'
import { mariadbGtidsAt } from '../epoch.ts'
import { SluiceError } from '../errors.ts'
import { GtidSet } from '../gtid.ts'
import { Connection, type ConnectOptions } from '../mysql/connection.ts'
import {
  fileSeconds,
  findBoundary,
  findTime,
  logFiles,
  logStatus,
  type SourceFacts,
} from '../sources/index.ts'

export type Start = InstanceConfig['start']
type Facts = Pick<
  SourceFacts,
  'serverUuid' | 'latest' | 'earliest' | 'executed' | 'purged' | 'mariadb'
>
interface Log {
  warn(fields: object, message: string): void
}
/** Of a log: a walk through so much of it costs next to nothing. */
const WALK_BYTES = 64 * 1024 * 1024
const STABLE_TRIES = 50

/**
 * The position that `start` means on the source at `connect` now, in any epoch. Throws POSITION_LOST where the source does
 * not have it, SOURCE_DIVERGED where it names transactions that the source does not know, SOURCE_UNSUITABLE for GTIDs
 * without gtid_mode=ON, and what connections throw.
 */
export async function startPosition(
  connect: ConnectOptions,
  facts: Facts,
  start: Start,
  log: Log,
): Promise<Position> {
  if (start === 'earliest') {
    const { earliest } = facts
    return { ...earliest, timestamp: (await fileSeconds(connect, earliest.file)) * 1000 }
  }
  if (start === 'latest') return await latestPosition(connect, facts)
  if ('gtids' in start) return gtidPosition(facts, GtidSet.parse(start.gtids), log)
  if ('timestamp' in start) return await timePosition(connect, facts, start.timestamp, log)
  return await filePosition(connect, facts, start)
}

/**
 * The end of the log. A server counts a transaction as executed only after it wrote it into the log, so what it says at one
 * time does not fit together: what lies before the end is read from the log itself.
 */
async function latestPosition(connect: ConnectOptions, facts: Facts): Promise<Position> {
  const { latest } = facts
  if (!facts.executed || facts.mariadb) return latest // MariaDB says both at one time
  const { file, offset } = latest
  if (offset > WALK_BYTES) {
    const stable = await stableEnd(connect)
    if (stable) return { ...latest, ...stable }
  }
  const end = await findBoundary(connect, { name: file, bytes: offset }, () => false)
  return { ...latest, gtids: end.gtids ?? latest.gtids }
}
/** Where and what a server says twice in a row, a moment apart, while nothing waits for a commit. */
async function stableEnd(
  connect: ConnectOptions,
): Promise<Pick<Position, 'file' | 'offset' | 'gtids'> | undefined> {
  using connection = await Connection.open(connect)
  let before = ''
  for (let i = 0; i < STABLE_TRIES; i++) {
    const { file, offset, gtids } = await logStatus(connection)
    const now = `${file}:${offset} ${gtids}`
    if (now === before) return { file, offset, gtids: GtidSet.parse(gtids) }
    before = now
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  return undefined
}

/** After these transactions; what the source has purged counts as seen, with a warning. */
function gtidPosition({ latest, earliest, serverUuid }: Facts, seen: GtidSet, log: Log): Position {
  if (!latest.gtids || !earliest.gtids) {
    throw new SluiceError(
      'SOURCE_UNSUITABLE',
      'start: found a GTID set, but the source has gtid_mode OFF; expected {file, offset} or {timestamp}',
    )
  }
  const unknown = seen.subtract(latest.gtids)
  if (!unknown.empty) {
    throw new SluiceError(
      'SOURCE_DIVERGED',
      `start: expected transactions that the source ${serverUuid} has executed; it does not know ${unknown.toString()}`,
    )
  }
  const lost = earliest.gtids.subtract(seen)
  if (!lost.empty) {
    log.warn(
      { purged: lost.toString() },
      'start: the source has already removed transactions that the given GTID set lacks; they are skipped',
    )
  }
  return { ...earliest, gtids: seen.union(lost), timestamp: 0 }
}

/** A place in the log: one where a transaction begins, or the end. */
async function filePosition(
  connect: ConnectOptions,
  { latest, earliest, executed, mariadb }: Facts,
  { file, offset }: { readonly file: string; readonly offset: number },
): Promise<Position> {
  const wanted: Position = { ...latest, file, offset, skip: 0, gtids: undefined, timestamp: 0 }
  const before = fileNumber(file) < fileNumber(earliest.file)
  if (before || comparePositions(wanted, latest) > 0) {
    throw new SluiceError(
      'POSITION_LOST',
      `start: expected a position from ${formatPosition(earliest)} to ${formatPosition(latest)}, which the source has; ` +
        `found ${formatPosition(wanted)}`,
    )
  }
  using connection = await Connection.open(connect)
  const found = (await logFiles(connection)).find((f) => f.name === file)
  if (!found) {
    throw new SluiceError(
      'POSITION_LOST',
      `start: the source has no binlog file "${file}"; it has ${earliest.file} to ${latest.file}`,
    )
  }
  if (offset > found.bytes) {
    throw new SluiceError(
      'POSITION_LOST',
      `start: ${file} ends at ${found.bytes}; found offset ${offset}`,
    )
  }
  const at = await findBoundary(connect, found, (b) => b.offset >= offset)
  // 4 is the beginning of a file, before the events that describe it
  if (at.offset !== offset && offset !== 4 && at.before !== 4) {
    throw new SluiceError(
      'POSITION_LOST',
      `start: expected the beginning of a transaction, ${file}:${offset} lies within one; the nearest are ` +
        `${file}:${at.before} and ${file}:${at.offset}`,
    )
  }
  const gtids = mariadb
    ? await mariadbGtidsAt((sql, params) => connection.query(sql, params), file, offset)
    : at.gtids
  return { ...wanted, gtids: executed && gtids, timestamp: at.seconds * 1000 }
}

/** The first transaction of that second or later. */
async function timePosition(
  connect: ConnectOptions,
  { latest, earliest, executed, mariadb }: Facts,
  ms: number,
  log: Log,
): Promise<Position> {
  using connection = await Connection.open(connect)
  const files = await logFiles(connection)
  const [clock] = await connection.query<{ now: number | string }>('SELECT UNIX_TIMESTAMP() AS now')
  const seconds = Math.floor(ms / 1000)
  const time = (s: number): string => new Date(s * 1000).toISOString()
  if (seconds > Number(clock?.now)) {
    throw new SluiceError(
      'POSITION_LOST',
      `start: expected a time that has come, by the source's clock ${time(Number(clock?.now))}; found ${time(seconds)}`,
    )
  }
  const { file, boundary, found, oldest } = await findTime(connect, files, seconds)
  const { offset } = boundary
  const gtids = mariadb
    ? await mariadbGtidsAt((sql, params) => connection.query(sql, params), file, offset)
    : boundary.gtids
  // with GTIDs an empty set says that nothing was removed, without them the number of the first file
  const purged = earliest.gtids ? !earliest.gtids.empty : fileNumber(files[0]!.name) > 1
  if (oldest > seconds && file === files[0]!.name && purged) {
    throw new SluiceError(
      'POSITION_LOST',
      `start: the source's log begins with ${file} at ${time(oldest)}; what was changed from ${time(seconds)} to then ` +
        'it no longer has',
    )
  }
  if (!found) log.warn({ time: time(seconds) }, 'start: nothing was changed since that time')
  const timestamp = boundary.seconds * 1000
  return { ...latest, file, offset, skip: 0, gtids: executed && gtids, timestamp }
}
