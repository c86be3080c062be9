/**
 * How V8 keeps the heap of a process that runs for long. bin/sluice.js says the same, and the size of the youngest generation,
 * when it starts Node; where it did not (`node src/main.ts`, or a parent with a channel to us), what can still be changed is.
 */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

const GROWING = '--heap-growing-percent'
/** As bin/sluice.js: by so much may what lives on the heap grow before all of it is collected. */
const SMALL_PERCENT = 30
/** The clients of destinations make garbage that gets old, for it is kept until the answer comes. */
const SINKS_PERCENT = 60

/** What somebody chose when he started Node, "" for nothing. */
const chosen = [...process.execArgv, ...(process.env['NODE_OPTIONS'] ?? '').split(/\s+/)]
  .filter((flag) => flag.startsWith(GROWING))
  .join()

export function keepHeapSmall(): void {
  if (chosen !== '') return
  setFlagsFromString(`${GROWING}=${SMALL_PERCENT}`)
  setFlagsFromString('--no-parallel-scavenge')
  setFlagsFromString('--semi-space-growth-factor=1')
}

/** For a process with sinks: at 30 % collecting took up to a third of Kafka's time. Not where somebody chose otherwise. */
export function letHeapGrow(): void {
  if (chosen === '' || chosen === `${GROWING}=${SMALL_PERCENT}`)
    setFlagsFromString(`${GROWING}=${SINKS_PERCENT}`)
}

/**
 * Gives back what V8 keeps for later: half of the heap after the start, when that is garbage of loading the program; and before a
 * huge row is served, which needs the room.
 */
export function collectGarbage(): void {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as (options: object) => void
  collect({ type: 'major', execution: 'sync', flavor: 'last-resort' })
}
