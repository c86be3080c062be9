/**
 * The live tail: a sample of the changes of an instance as they are read, before any client or sink has them. Costs no
 * connection and no cursor; at full speed it shows so many rows a second and says how many changes it left out. Goes on when the instance
 * restarts.
 */
import type { Filter, Transaction } from '../../change.ts'
import type { Instance } from '../../instance.ts'
import { isRows, jsonRow, jsonStatement } from '../../shown.ts'
import { notNow } from '../refused.ts'
import { Stream, type Emit } from './stream.ts'

const TAILS_MAX = 8
const LOOK_MS = 500
const ROWS_PER_LOOK = 100

let open = 0 // in this process

/** `find`: the instance that runs now. Throws Refused when there are too many. */
export function tail(find: () => Instance | undefined, filter: Filter): Stream {
  if (open >= TAILS_MAX) throw notNow(`there are ${TAILS_MAX} live tails already`)
  return new Stream((emit) => {
    open++
    let instance: Instance | undefined
    let left = ROWS_PER_LOOK
    let skipped = 0
    const tap = (tx: Transaction): void => {
      if (left <= 0) skipped += tx.count ?? 0
      else left -= show(tx, filter, emit, left)
    }
    const look = (): void => {
      if (skipped > 0) emit('skipped', { changes: skipped })
      left = ROWS_PER_LOOK
      skipped = 0
      const now = find()
      if (now === instance) return
      instance?.reading.taps.delete(tap)
      now?.reading.taps.add(tap)
      instance = now
    }
    const timer = setInterval(look, LOOK_MS).unref()
    look()
    return () => {
      open--
      clearInterval(timer)
      instance?.reading.taps.delete(tap)
    }
  })
}

/** How many rows and statements were shown, `most` at most. */
function show(tx: Transaction, filter: Filter, emit: Emit, most: number): number {
  let shown = 0
  for (const change of tx.changes) {
    if (shown >= most) break
    if (!isRows(change)) {
      const statement = jsonStatement(tx, change)
      if (statement && emit('change', statement)) shown++
      continue
    }
    if (!filter(change.table.database, change.table.name)) continue
    for (const row of change.rows()) {
      if (shown >= most) break
      emit('change', jsonRow(tx, change, row))
      shown++
    }
  }
  return shown
}
