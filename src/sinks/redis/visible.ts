/**
 * When a change can be read on the source. MySQL sends a transaction to its replicas, and so to Sluice, before it shows it
 * to other sessions: an application that finds its cache key deleted in between reads the old row and caches that again.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { SluiceError } from '../../errors.ts'
import type { GtidSet } from '../../gtid.ts'
import type { SinkContext } from '../sink.ts'

/** One question lasts so long at most: others want to ask as well. */
const STEP_SECONDS = 1
const STEPS_MAX = 30

/**
 * Waits until SELECT on the source shows the transactions. Without GTIDs nothing can be asked; then a pause has to do.
 * Throws SINK_UNAVAILABLE when it takes half a minute.
 */
export async function waitVisible(
  context: Pick<SinkContext, 'query' | 'server'>,
  gtids: GtidSet,
  pauseMs: number,
  signal: AbortSignal,
): Promise<void> {
  if (gtids.empty) {
    await delay(pauseMs, undefined, { signal })
    return
  }
  const set = gtids.toString()
  for (let step = 0; step < STEPS_MAX; step++) {
    signal.throwIfAborted()
    const [row] = await context.query<{ late: number | string }>(
      'SELECT WAIT_FOR_EXECUTED_GTID_SET(?, ?) AS late',
      [set, STEP_SECONDS],
    )
    if (Number(row?.late) === 0) return
  }
  throw new SluiceError(
    'SINK_UNAVAILABLE',
    `expected ${set} to be visible on ${context.server} within ${STEP_SECONDS * STEPS_MAX} s, it is not: keys are not deleted yet`,
  )
}
