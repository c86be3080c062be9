/**
 * Decides, at every connect, what the source is to us: new (where do we begin?), the one we knew, or another one. Keeps
 * the answer in the state file before anything is read: `epoch` (rises when the history we read is replaced by
 * another), `server` (its server_uuid) and `origin` (where the instance began, and every new client begins).
 * Never goes on where it cannot prove that nothing is lost: it throws and says what to do.
 */
import { comparePositions, formatPosition } from './change.ts'
import type { Position } from './change.ts'
import { SluiceError } from './errors.ts'
import { GtidSet } from './gtid.ts'
import { positionFromJson, positionToJson } from './store/state.ts'
import type { State } from './store/state.ts'

/** What has to be known of a source. `latest` and `earliest` carry any epoch. */
export interface Facts {
  readonly serverUuid: string
  readonly latest: Position // the end of its binlog now; gtids: everything executed, undefined where GTIDs are off
  readonly earliest: Position // its oldest binlog file; gtids: everything purged
}
export interface Known {
  readonly epoch: number
  readonly server: string
  readonly origin: Position
}
interface Log {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
}

/** What the state file knows; undefined before the first start and after a reset. */
export function readKnown(state: Pick<State, 'value' | 'path'>): Known | undefined {
  const origin = state.value('origin')
  if (!origin) return undefined
  return {
    epoch: Number(state.value('epoch')),
    server: state.value('server') ?? '',
    origin: positionFromJson(origin, `${state.path}, origin`),
  }
}
/** Makes the next start begin anew, in a new epoch. The caller removes the cursors. */
export function forgetOrigin(state: State): void {
  state.setValue('origin', '')
}

/** The first start of an instance, or the first after a reset: records where it begins, on which server, in a new epoch. */
export function begin(state: State, at: Position, server: string, log: Log): Known {
  const epoch = Number(state.value('epoch') ?? 0) + 1
  const origin = { ...at, epoch, server }
  state.forgetDefinitions() // what happened in between is not known
  state.setValue('epoch', String(epoch))
  state.setValue('server', server)
  state.setValue('origin', positionToJson(origin)) // last: it makes the others count
  log.info(
    { position: formatPosition(origin), gtids: origin.gtids?.toString(), epoch },
    'first start: origin recorded',
  )
  return { epoch, server, origin }
}

/**
 * A target knows this history from before: `seen` is what it kept, and the state file, which was lost or is an older one,
 * knows an earlier epoch. Every place of ours gets the epoch that follows, so that versions go on rising. Durable when it
 * returns; false, with nothing done, where the state file is not behind. Positions in use are the caller's to read again.
 */
export function continueFrom(
  state: State,
  known: Known,
  seen: Pick<Known, 'epoch' | 'server'>,
  log: Log,
): boolean {
  const same = seen.server === known.server
  const epoch = same ? seen.epoch : seen.epoch + 1
  if (seen.epoch < known.epoch || (same && seen.epoch === known.epoch)) return false
  state.flush()
  for (const { client, acked } of state.cursors()) {
    if (acked.epoch === known.epoch) void state.ack(client, { ...acked, epoch }).catch(() => {})
  }
  state.flush()
  state.setValue('origin', positionToJson({ ...known.origin, epoch }))
  state.setValue('epoch', String(epoch))
  log.warn(
    { epoch, was: known.epoch, server: known.server, seen: seen.server },
    'a target knows a later epoch than the state file, which was lost: going on after it',
  )
  return true
}

/** What has been read from a source so far. */
export interface Progress {
  readonly resume: Position // where the main reader wants to go on
  /** Everything that anybody was given; undefined where GTIDs are off. */
  readonly seen: GtidSet | undefined
  /** Why the log cannot be the one that was read before, though its server says that it is; undefined: it may be. */
  readonly replaced?: string | undefined
}

/**
 * Every later connect. Raises the epoch, durably, when the source is another server that has all we have read. Throws
 * SOURCE_DIVERGED when it lacks transactions that were read, SOURCE_CHANGED when nothing says how to go on there.
 */
export function recognise(
  state: State,
  known: Known,
  facts: Facts,
  { resume, seen, replaced }: Progress,
  log: Log,
): Known {
  const executed = facts.latest.gtids
  const other = facts.serverUuid !== known.server
  if (other && seen?.kind && executed?.kind && seen.kind !== executed.kind) {
    throw new SluiceError(
      'SOURCE_CHANGED',
      `expected the server ${known.server}, found ${facts.serverUuid}; GTIDs of MySQL mean nothing on MariaDB, and ` +
        `the other way round. Point the instance back to it, or ${ANEW}`,
    )
  }
  const missing = executed && seen ? seen.subtract(executed) : undefined
  if (missing && !missing.empty) throw diverged(facts, known, missing)
  if (other && !missing) {
    throw new SluiceError(
      'SOURCE_CHANGED',
      `expected the server ${known.server}, found ${facts.serverUuid}; without GTIDs on both, position ` +
        `${formatPosition(resume)} means nothing there. Point the instance back to it, or ${ANEW}`,
    )
  }
  const ahead = resume.epoch === known.epoch && comparePositions(resume, facts.latest) > 0
  if (!other && (replaced !== undefined || (!missing && ahead))) {
    const why =
      replaced ?? `its end is ${formatPosition(facts.latest)}, we are at ${formatPosition(resume)}`
    throw new SluiceError(
      'SOURCE_CHANGED',
      `the source ${facts.serverUuid} has another log than the one that was read (${why}): its logs were reset or it ` +
        `was restored from a backup. Go back to the old one, or ${ANEW}`,
    )
  }
  return other ? nextEpoch(state, known, facts.serverUuid, log) : known
}
const ANEW = 'begin anew with "sluice position <destination> reset" (the server stopped)'

function diverged(facts: Facts, known: Known, missing: GtidSet): SluiceError {
  const other =
    facts.serverUuid === known.server
      ? 'its logs were reset or it was restored from a backup'
      : `it is not the server that they were read from (${known.server}), and they never reached it`
  return new SluiceError(
    'SOURCE_DIVERGED',
    `the source ${facts.serverUuid} is behind what was already read: it lacks ${missing.toString()}. Either ${other}; ` +
      `what was delivered of them is not in its data. Let it have them (replication), or ${ANEW}`,
  )
}

/** Another server goes on with the history. Durable when it returns. */
export function nextEpoch(state: State, known: Known, server: string, log: Log): Known {
  const epoch = known.epoch + 1
  state.setValue('epoch', String(epoch))
  state.setValue('server', server)
  log.warn({ epoch, server, was: known.server }, 'another source: going on in a new epoch')
  return { ...known, epoch, server }
}

/** The same of a MariaDB server, which keeps count itself. undefined where no event of that file begins there. */
export async function mariadbGtidsAt(
  query: <T>(sql: string, params?: (string | number)[]) => Promise<T[]>,
  file: string,
  offset: number,
): Promise<GtidSet | undefined> {
  const [row] = await query<{ gtids: string | null }>(
    'SELECT CONVERT(BINLOG_GTID_POS(?, ?) USING utf8) AS gtids',
    [file, offset],
  )
  return typeof row?.gtids === 'string' ? GtidSet.parse(row.gtids) : undefined
}

const PAGE = 10_000
/**
 * Every GTID before a place in the log, from the file's own record of what came before it and its events up to there.
 * undefined when the file has no such record: it was written without GTIDs. Needs REPLICATION SLAVE.
 */
export async function gtidsAt(
  query: <T>(sql: string, params?: (string | number)[]) => Promise<T[]>,
  file: string,
  offset: number,
): Promise<GtidSet | undefined> {
  let gtids: GtidSet | undefined
  for (let from = 4; ;) {
    const rows = await query<{
      Pos: number | string
      Event_type: string
      End_log_pos: number | string
      Info: string
    }>(`SHOW BINLOG EVENTS IN ? FROM ${from} LIMIT ${PAGE}`, [file])
    for (const { Pos, Event_type: type, Info } of rows) {
      if (Number(Pos) >= offset) return gtids
      const gtid = /GTID_NEXT\s*=\s*'([^']+:[^']+)'/i.exec(Info)
      if (/^previous_gtids$/i.test(type)) gtids = GtidSet.parse(Info)
      else if (gtid && gtids) gtids.merge(GtidSet.parse(gtid[1]!))
    }
    const next = Number(rows.at(-1)?.End_log_pos ?? 0)
    if (rows.length < PAGE || next <= from) return gtids
    from = next
  }
}
