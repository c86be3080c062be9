/**
 * Going over to another server without GTIDs: places of the old log become places of the new one. Trail remembers what the
 * last transactions looked like (when, by which server, the bytes of their rows), which replicas log as they were. Where the
 * transaction that a client acked last stands in the new log exactly once, with the same ones before it, its place is exact.
 * Where it does not, or nothing is remembered (a restart), the place is that of `lookBackMs` before, and changes are repeated.
 * Never a later place than that: what cannot be told apart is delivered again.
 */
import { crc32 } from 'node:zlib'
import { compareLogPlaces, type LogPlace } from '../catalog/history.ts'
import {
  eventSeconds,
  eventServerId,
  type Filter,
  type Position,
  type Transaction,
} from '../change.ts'
import { nextEpoch, type Known } from '../epoch.ts'
import { SluiceError } from '../errors.ts'
import { Connection, type ConnectOptions } from '../mysql/connection.ts'
import { SlabPool } from '../slab.ts'
import { findTime, logFiles, mysqlSource, type SourceFacts } from '../sources/index.ts'
import { positionToJson, type State } from '../store/state.ts'

const TRAIL_MAX = 20_000
const NEIGHBOURS = 3 // transactions that must be the same, the acked one included
const HEARTBEAT_MS = 100 // an idle server says with it that its log ends here
const ROWS_HEAD = 19 + 8 // header, table id and flags: the id is the server's own

interface Step {
  readonly end: LogPlace
  readonly print: string
  readonly timestamp: number // of the commit in this log, ms: a replica's is later than its source's
}

export class Trail {
  #steps: Step[] = []
  #crc = 0
  #bytes = 0

  get steps(): readonly Step[] {
    return this.#steps
  }
  /** A transaction or part in the log's order. One of which nothing was kept leaves no trace. */
  note(tx: Transaction): void {
    let head: string | undefined
    for (const change of tx.changes) {
      const { bytes, start, end } = change.event
      head ??= `${eventSeconds(change.event)} ${eventServerId(change.event)}`
      if (change.kind === 'begin' || change.kind === 'commit' || change.kind === 'annotation')
        continue
      const rows = 'table' in change && typeof change.table === 'object'
      const from = rows ? Math.min(end, start + ROWS_HEAD) : end
      this.#crc = rows
        ? crc32(bytes.subarray(from, end), this.#crc)
        : crc32(sqlOf(change), this.#crc)
      this.#bytes += rows ? end - from : 1
    }
    if (tx.state === 'open') return
    if (this.#bytes > 0) {
      const end = { epoch: tx.epoch, file: tx.endFile, offset: tx.endOffset }
      const print = `${head} ${this.#bytes} ${this.#crc}`
      this.#steps.push({ end, print, timestamp: tx.timestamp })
      if (this.#steps.length > 2 * TRAIL_MAX) this.#steps = this.#steps.slice(-TRAIL_MAX)
    }
    this.#crc = 0
    this.#bytes = 0
    tx.forgetChanges?.()
  }
  /** Where in `other` the client stands that has acked everything before `acked` here; undefined where that is not certain. */
  match(acked: LogPlace, other: readonly Step[]): Step | undefined {
    const at = this.#steps.findLastIndex(({ end }) => compareLogPlaces(end, acked) <= 0)
    if (at < 0) return undefined
    const wanted = this.#steps.slice(Math.max(0, at + 1 - NEIGHBOURS), at + 1).map((s) => s.print)
    const found = other.flatMap((_, i) => {
      const same = wanted.every((print, k) => other[i + 1 - wanted.length + k]?.print === print)
      return same ? [i] : []
    })
    return found.length === 1 ? other[found[0]!] : undefined
  }
}
function sqlOf(change: Transaction['changes'][number]): string {
  return 'sql' in change ? change.sql : change.kind
}

export interface LookBack {
  readonly state: State
  readonly known: Known
  readonly resume: Position // what lies before it was read
  readonly facts: SourceFacts
  readonly connect: ConnectOptions
  readonly filter: Filter
  readonly trail: Trail
  readonly lookBackMs: number
  readonly log: {
    info(fields: object, message: string): void
    warn(fields: object, message: string): void
  }
  readonly signal: AbortSignal
}

/**
 * Translates every saved position to the log of the server at `connect`, durably, in the next epoch. Resolves with the time in
 * that log (ms) until which changes may have been given out before. Throws SOURCE_CHANGED where a position has no time;
 * POSITION_LOST where the new log does not reach back.
 */
export async function lookBack(about: LookBack): Promise<number> {
  const { state, known, resume, facts, connect, trail, lookBackMs, log, signal } = about
  const cursors = state.cursors()
  using connection = await Connection.open(connect)
  const files = await logFiles(connection)
  const epoch = known.epoch + 1
  const common = { epoch, server: facts.serverUuid, skip: 0, gtids: undefined }
  const byTime = async (position: Position): Promise<Position> => {
    const seconds = Math.floor((timeOf(position) - lookBackMs) / 1000)
    const { file, boundary } = await findTime(connect, files, seconds)
    return { ...common, file, offset: boundary.offset, timestamp: boundary.seconds * 1000 }
  }
  const moved: { client: string; to: Position; exact: boolean }[] = []
  for (const { client, acked } of cursors)
    moved.push({ client, to: await byTime(acked), exact: false })
  const origin = await byTime(known.origin)
  const oldest = moved.map(({ to }) => to).sort(compareLogPlaces)[0]
  const there = oldest ? (await walk(about, oldest, epoch)).steps : []
  for (const [i, { client, acked }] of cursors.entries()) {
    const exact = acked.epoch === known.epoch ? trail.match(acked, there)?.end : undefined
    const to = { ...common, ...exact!, timestamp: acked.timestamp }
    if (exact) moved[i] = { client, exact: true, to }
  }
  signal.throwIfAborted() // the state file may be closed by now
  for (const { client, to } of moved) void state.ack(client, to).catch(() => {}) // flush() throws it
  state.flush()
  state.setValue('origin', positionToJson(origin))
  nextEpoch(state, known, facts.serverUuid, log)
  for (const { client, to, exact } of moved) {
    const how = exact
      ? 'exactly where it was'
      : `${lookBackMs} ms before what it acked last: changes are repeated`
    log.warn({ client, file: to.file, offset: to.offset, exact }, `client ${client} goes on ${how}`)
  }
  return (trail.match(resume, there) ?? there.at(-1))?.timestamp ?? resume.timestamp
}

/** What the new log looks like from `begin` to its end. */
async function walk(
  { connect, facts, filter, signal }: LookBack,
  begin: Position,
  epoch: number,
): Promise<Trail> {
  const trail = new Trail()
  const source = mysqlSource({
    connect,
    epoch,
    server: facts.serverUuid,
    filter,
    slabs: new SlabPool(),
    heartbeatMs: HEARTBEAT_MS,
    catalog: {
      resolve: ({ database, table: name }) => ({
        database,
        name,
        columns: [],
        selected: [],
        origin: 'event',
      }),
      statement: () => {},
    },
  })
  const stop = new AbortController()
  for await (const tx of source.read(begin, AbortSignal.any([signal, stop.signal]))) {
    trail.note(tx)
    tx.slab?.release()
    const end = { epoch, file: tx.endFile, offset: tx.endOffset }
    if (tx.state !== 'open' && compareLogPlaces(end, { ...facts.latest, epoch }) >= 0) break
  }
  return trail
}

function timeOf({ timestamp, file, offset }: Position): number {
  if (timestamp > 0) return timestamp
  throw new SluiceError(
    'SOURCE_CHANGED',
    `without GTIDs another server is searched by time, and of ${file}:${offset} none is known. Set the position on the new ` +
      'server with "sluice position <destination> reset" (the server stopped) and the start key',
  )
}
