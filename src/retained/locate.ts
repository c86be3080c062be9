/**
 * Places in the retained log by file and offset, by time, by GTIDs, or its ends, as positions from which it can be read. Only
 * what the log has is found: a place at which it lacks something, or that lies within a transaction, is none.
 */
import type { Position, Transaction } from '../change.ts'
import { everyColumn, everything } from '../filter.ts'
import { GtidSet } from '../gtid.ts'
import { comparePlaces, Track } from '../store/window.ts'
import type { Segments, ViewOptions } from './log.ts'
import type { Segment } from './segment.ts'

/** As `start` of an instance, and a whole position. */
export type Where =
  | 'earliest'
  | 'latest'
  | { readonly file: string; readonly offset: number }
  | { readonly gtids: string }
  | { readonly timestamp: number }

const plain: ViewOptions = {
  zone: undefined,
  columns: everyColumn,
  filter: everything,
  filterText: '',
}

/** undefined where the log does not have it. Throws LOG_DAMAGED. */
export async function locate(segments: Segments, where: Where): Promise<Position | undefined> {
  const { list } = segments
  if (where === 'earliest') return list[0]?.from
  if (where === 'latest') return list.at(-1)?.end
  if ('gtids' in where) return bySet(segments, GtidSet.parse(where.gtids))
  if ('timestamp' in where) {
    const { timestamp } = where
    const i = list.findIndex(({ lastMs }) => lastMs >= timestamp)
    const segment = list[i]
    if (segment === undefined) return undefined
    const found = await before(segments, segment, (tx) => tx.timestamp >= timestamp)
    // what was changed between that time and the log's first change nobody here knows
    const joined = i > 0 && segment.gap === ''
    return found && (joined || comparePlaces(found, segment.from) > 0) ? found : undefined
  }
  const { file, offset } = where
  for (const segment of list.toReversed()) {
    for (const epoch of new Set([segment.from.epoch, segment.end.epoch])) {
      const place = { epoch, file, offset, skip: 0 }
      if (comparePlaces(place, segment.from) < 0 || comparePlaces(place, segment.end) >= 0) continue
      const past = (_: Transaction, at: Track): boolean => comparePlaces(at, place) >= 0
      const found = await before(segments, segment, past)
      if (found && comparePlaces(found, place) === 0) return found
    }
  }
  return undefined
}
function bySet(segments: Segments, gtids: GtidSet): Position | undefined {
  const newest = segments.last?.end.gtids
  const at = { epoch: 0, server: '', file: '', offset: 0, skip: 0, gtids, timestamp: 0 }
  const segment = segments.find(at, false)
  if (!segment?.from.gtids || !newest?.includes(gtids)) return undefined
  return { ...segment.from, skip: 0, gtids }
}
/** The place before the first transaction that is `wanted`, between transactions. */
async function before(
  segments: Segments,
  { from }: Segment,
  wanted: (tx: Transaction, at: Track) => boolean,
): Promise<Position | undefined> {
  const track = new Track(from)
  const stop = new AbortController()
  for await (const tx of segments.read(from, plain, stop.signal)) {
    tx.slab?.release()
    if (track.skip === 0 && wanted(tx, track)) return track.position()
    track.pass(tx)
  }
  return undefined
}
