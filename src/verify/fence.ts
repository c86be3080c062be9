/**
 * How far a sink is, by its instance's state file, for who is another process than the server: waits until it has passed a
 * place of the source's log.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { comparePositions, formatPosition, type Position } from '../change.ts'
import { SluiceError } from '../errors.ts'
import { State } from '../store/state.ts'

const LOOK_MS = 100
/** A sink that does not move for so long while it is waited for is not waited for any longer. */
const STILL_MS = 60_000

export interface FenceOptions {
  readonly stateFile: string
  readonly client: string // the sink's cursor
  /** What stands in the sink's way; "" while nothing does. */
  readonly stopped: () => string
}

/** For VerifyOptions.passed. Throws SINK_UNAVAILABLE when the sink does not get there. */
export async function waitPassed(
  { stateFile, client, stopped }: FenceOptions,
  position: Position,
  signal: AbortSignal,
): Promise<void> {
  let last = ''
  let since = Date.now()
  for (;;) {
    // Before the look: a sink that was stopped behind the place stays there.
    const runs = State.held(stateFile)
    const why = stopped()
    const acked = State.read(stateFile).cursors.find((c) => c.client === client)?.acked
    if (acked !== undefined && isPast(acked, position)) return
    const at = acked === undefined ? 'nowhere' : formatPosition(acked)
    if (at !== last) since = Date.now()
    last = at
    const text = !runs ? 'the server does not run' : why
    if (text !== '' || Date.now() - since > STILL_MS) {
      throw new SluiceError(
        'SINK_UNAVAILABLE',
        `${client} is at ${at} and does not get to ${formatPosition(position)}: ${text || 'it does not move'}`,
      )
    }
    await delay(LOOK_MS, undefined, { signal })
  }
}

/** Throws SOURCE_CHANGED where the two are places of different servers and GTIDs do not tell. */
function isPast(acked: Position, position: Position): boolean {
  if (acked.server === position.server) return comparePositions(acked, position) >= 0
  const { gtids } = position
  if (gtids !== undefined && acked.gtids !== undefined) return acked.gtids.includes(gtids)
  throw new SluiceError(
    'SOURCE_CHANGED',
    `the sink's place is in the log of server ${acked.server}, and the source is ${position.server}: without GTIDs they do not compare`,
  )
}
