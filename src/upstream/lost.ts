/**
 * Positions that a source can no longer serve, because it has removed that part of its log: finds them before anything is
 * read, names the range that is lost, and does what `onPositionLost` says. Also knows a log that was replaced by another
 * one under the same name, by when its files were begun. Knows the state file and a source's facts; reads no changes.
 */
import { comparePositions, fileNumber, formatPosition, type Position } from '../change.ts'
import type { InstanceConfig } from '../config/config.ts'
import type { Known } from '../epoch.ts'
import { SluiceError } from '../errors.ts'
import type { ConnectOptions } from '../mysql/connection.ts'
import { fileSeconds, type SourceFacts } from '../sources/index.ts'
import { gapKey, movedKey, positionToJson, type State } from '../store/state.ts'

type Policy = InstanceConfig['onPositionLost']
type Facts = Pick<SourceFacts, 'serverUuid' | 'latest' | 'earliest'>
interface Log {
  warn(fields: object, message: string): void
}

/** What was lost once: shown in the status. */
export interface LostRange {
  readonly at: number // ms
  readonly clients: readonly string[] // whose position it was; "(origin)": where new clients begin
  readonly policy: Policy
  readonly range: string // in words
  readonly to: string | undefined // where they go on; undefined: nowhere
  readonly place?: Position | undefined // the same
}
/** The name of the origin among clients. */
const ORIGIN = '(origin)'

/** What of the log after `from` the source has removed, in words; undefined when it has all. */
export function lostAfter(from: Position, { serverUuid, earliest }: Facts): string | undefined {
  const first = formatPosition(earliest)
  const place = from.file === '' ? '' : ` from ${formatPosition(from)}`
  if (from.gtids && earliest.gtids) {
    const lost = earliest.gtids.subtract(from.gtids)
    if (lost.empty) return undefined
    return `GTIDs ${lost.toString()},${place} up to ${first}, with which the source's log begins now`
  }
  if (from.server !== serverUuid || from.file === '') return undefined
  if (fileNumber(from.file) >= fileNumber(earliest.file)) return undefined
  return `everything${place} up to ${first}, with which the source's log begins now`
}

/** `to`, and past everything that `from` has seen. */
function pastAll(to: Position, from: Position): Position {
  return { ...to, gtids: from.gtids && to.gtids ? to.gtids.union(from.gtids) : to.gtids }
}

/**
 * Before reading goes on at `resume`. Moves what was lost as the policy says, durably, and returns it; undefined when
 * nothing was. The caller reads positions in use again. Throws POSITION_LOST by `fail` when `resume` itself is lost; of a
 * client far behind it only says so, for others can be served. Writes nothing once `signal` has aborted.
 */
export async function recover(
  state: State,
  about: {
    readonly known: Known
    readonly facts: Facts
    readonly place: (policy: 'earliest' | 'latest') => Promise<Position> // exact
    readonly policy: Policy
    readonly resume: Position
    /** Whether what comes after a position is kept here; what the source has is then no matter. */
    readonly covered?: ((at: Position) => boolean) | undefined
    readonly signal: AbortSignal
  },
  log: Log,
): Promise<LostRange | undefined> {
  const { known, facts, policy, resume, signal } = about
  const places = [
    ...state.cursors().map(({ client, acked }) => ({ client, at: acked })),
    { client: ORIGIN, at: known.origin },
  ]
  const lost = places.flatMap(({ client, at }) => {
    const range = about.covered?.(at) ? undefined : lostAfter(at, facts)
    return range === undefined ? [] : [{ client, at, range }]
  })
  const own = lostAfter(resume, facts)
  if (own === undefined && lost.every(({ client }) => client === ORIGIN) && policy === 'fail')
    return undefined
  const oldest = lost.reduce<(typeof lost)[number] | undefined>(
    (a, b) => (a && comparePositions(a.at, b.at) <= 0 ? a : b),
    undefined,
  )
  const range = own ?? oldest?.range
  if (range === undefined) return undefined
  const clients = lost.map(({ client }) => client)
  if (policy === 'fail') {
    const text = `the source has removed what comes after ${formatPosition(own ? resume : oldest!.at)}: lost are ${range}`
    if (own !== undefined) throw lostError(text, clients)
    log.warn({ code: 'POSITION_LOST', clients, lost: range }, text)
    return { at: Date.now(), clients, policy, range, to: undefined }
  }
  const { epoch } = known
  // what the log has left is given out, and the tables make up for the rest
  const target = await about.place(policy === 'snapshot' ? 'earliest' : policy)
  signal.throwIfAborted() // the state file may be closed by now
  for (const { client, at } of lost) {
    const to = { ...pastAll(target, at), epoch, server: facts.serverUuid }
    if (client === ORIGIN) state.setValue('origin', positionToJson(to))
    else {
      if (policy === 'snapshot') state.setValue(gapKey(client), '1') // before its place moves
      state.setValue(movedKey(client), positionToJson(to)) // for a target that keeps a place of its own
      void state.ack(client, to).catch(() => {}) // flush() throws it
    }
  }
  state.flush()
  const to = formatPosition(target)
  log.warn(
    { code: 'POSITION_LOST', clients, lost: range, policy, position: to },
    `changes were lost: the source has removed ${range}; going on at ${to}, as onPositionLost: ${policy} says`,
  )
  const place = { ...target, epoch, server: facts.serverUuid }
  return { at: Date.now(), clients, policy, range, to, place }
}
function lostError(text: string, clients: readonly string[]): SluiceError {
  const whose = clients.length > 0 ? ` (needed by ${clients.join(', ')})` : ''
  return new SluiceError(
    'POSITION_LOST',
    `${text}${whose}. Restore the binlog files, or load the missing data another way and go on with ` +
      '"sluice position <destination> set earliest" (the server stopped), or set onPositionLost',
  )
}

const MARK = 'log'
/**
 * Why the log of a server is not the one that was read before; undefined when nothing speaks against it. Remembers, durably,
 * when the file in which reading goes on was begun: a log that was reset has files of the same names and other times.
 */
export async function replacedLog(
  state: State,
  connect: ConnectOptions,
  facts: Pick<SourceFacts, 'serverUuid' | 'latest' | 'files'>,
): Promise<string | undefined> {
  const known = /^(\S+) (\S+) (\d+)$/.exec(state.value(MARK) ?? '')
  const [, server, file, seconds] = known ?? []
  if (server === facts.serverUuid) {
    const { latest, files } = facts
    if (fileNumber(file!) > fileNumber(latest.file))
      return `it ends in ${latest.file}, and was read up to ${file}`
    if (files.includes(file!)) {
      const now = await fileSeconds(connect, file!)
      if (String(now) !== seconds) {
        const time = (s: number): string => new Date(s * 1000).toISOString()
        return `${file} was begun at ${time(now)}, and was read as one of ${time(Number(seconds))}`
      }
    }
  }
  return undefined
}
/** Asks when the log was begun; what comes back notes that reading goes on in it, which replacedLog compares with later. */
export async function rememberLog(
  connect: ConnectOptions,
  { serverUuid, latest }: Pick<SourceFacts, 'serverUuid' | 'latest'>,
): Promise<(state: State) => void> {
  const seconds = await fileSeconds(connect, latest.file)
  return (state) => state.setValue(MARK, `${serverUuid} ${latest.file} ${seconds}`)
}
