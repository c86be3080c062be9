/**
 * What an instance does with a source it has just reached, before it reads anything: finds out which history this is, where
 * to begin the very first time, and whether all that is needed is still there. Everything it decides is durable when it
 * returns. Never goes on where it cannot prove that nothing is lost, unless the configuration says so.
 */
import type { Position } from '../change.ts'
import type { InstanceConfig } from '../config/config.ts'
import { begin, recognise, type Known } from '../epoch.ts'
import type { GtidSet } from '../gtid.ts'
import type { ConnectOptions } from '../mysql/connection.ts'
import { refuseIncident, type SourceFacts } from '../sources/index.ts'
import type { State } from '../store/state.ts'
import { recover, rememberLog, replacedLog, type LostRange } from './lost.ts'
import { startPosition } from './start.ts'

export interface Settling {
  readonly state: State
  readonly config: Pick<InstanceConfig, 'start' | 'onPositionLost'>
  readonly connect: ConnectOptions
  readonly facts: SourceFacts
  /** What is known from before, and where reading would go on; undefined at the very first start. */
  readonly before: { readonly known: Known; readonly resume: Position } | undefined
  readonly log: {
    info(fields: object, message: string): void
    warn(fields: object, message: string): void
  }
  readonly covered?: ((at: Position) => boolean) | undefined // as for recover
  readonly signal: AbortSignal
}

/**
 * `lost`: positions that the source could not serve; with a `to` they were moved, and whoever holds positions reads them
 * again. Throws what startPosition, recognise and recover throw, and INCIDENT; nothing is written once `signal` has aborted.
 */
export async function settle(
  about: Settling,
): Promise<{ readonly known: Known; readonly lost: LostRange | undefined }> {
  const { state, config, connect, facts, before, log, signal } = about
  if (before === undefined) {
    const at = await startPosition(connect, facts, config.start, log)
    signal.throwIfAborted() // the state file may be closed by now
    const known = begin(state, at, facts.serverUuid, log)
    await remember(about)
    return { known, lost: undefined }
  }
  const { resume } = before
  const replaced = await replacedLog(state, connect, facts)
  signal.throwIfAborted()
  const seen = seenBy(state, resume)
  const known = recognise(state, before.known, facts, { resume, seen, replaced }, log)
  const place = (to: 'earliest' | 'latest') => startPosition(connect, facts, to, log)
  const policy = config.onPositionLost
  const { covered } = about
  const lost = await recover(state, { known, facts, place, policy, resume, covered, signal }, log)
  if (lost?.to === undefined) await refuseGap(about, known, resume)
  await remember(about)
  return { known, lost }
}
/** The source says itself that its log lacks something behind `resume`, in a file that it would pass over. */
async function refuseGap(
  { connect, facts, signal }: Settling,
  { epoch }: Known,
  resume: Position,
): Promise<void> {
  const { files, latest, executed, mariadb, serverUuid } = facts
  const here = resume.epoch === epoch && resume.server === serverUuid
  if (mariadb || !executed || !resume.gtids || !here || resume.file === latest.file) return
  const first = files.indexOf(resume.file)
  if (first < 0) return
  await refuseIncident(connect, files.slice(first), resume.offset)
  signal.throwIfAborted()
}
async function remember({ state, connect, facts, signal }: Settling): Promise<void> {
  const mark = await rememberLog(connect, facts)
  signal.throwIfAborted()
  mark(state)
}

/** Everything that the main reader or a client was given. */
function seenBy(state: State, { gtids }: Position): GtidSet | undefined {
  if (gtids === undefined) return undefined
  const seen = gtids.clone()
  for (const { acked } of state.cursors()) if (acked.gtids) seen.merge(acked.gtids)
  return seen
}
