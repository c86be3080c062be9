/**
 * Reads the tables of a load piece by piece, a few ahead of who takes them, on a connection of its own. For each piece: P,
 * everything the cursor has given out; then a SELECT that sees all of P; then `high`, where the log ended behind it. MySQL
 * sends a transaction to replicas before InnoDB commits it, so a SELECT sees P only once it has waited for it: with GTIDs
 * by WAIT_FOR_EXECUTED_GTID_SET, without them by locking the rows for a moment (LOCK IN SHARE MODE). Errors that may pass
 * are tried again; a table that cannot be read is left out, and the load says why.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Catalog } from '../catalog/catalog.ts'
import type { LogPlace } from '../catalog/history.ts'
import type { Position } from '../change.ts'
import { SluiceError } from '../errors.ts'
import { BinaryConnection } from '../mysql/binary.ts'
import type { ConnectOptions } from '../mysql/connection.ts'
import { readChunk, SNAPSHOT_SESSION, type Chunk } from '../sources/snapshot/chunk.ts'
import { KEYS_AT_ONCE, readKeys } from '../sources/snapshot/keys.ts'
import { planTable, type TablePlan } from '../sources/snapshot/plan.ts'
import { giveBack, Slab } from '../slab.ts'
import type { ClientCursor } from '../store/cursor.ts'
import { CLEARED, type Load, type Progress } from './load.ts'
import { Pace, type PaceLimits, type Pressure } from './pace.ts'
import type { Touched } from './touched.ts'

/** What reading needs of the instance. */
export interface SnapshotSource {
  readonly connect: () => ConnectOptions
  /** undefined while there is no connection to the source. */
  readonly catalog: () => Catalog | undefined
  /** Where the source's log ends now. */
  readonly end: () => Promise<LogPlace>
  readonly serverId: () => number
  /** What the source has to do now, for the rate `auto`. Throws as a query does. */
  readonly pressure: () => Promise<Pressure>
  readonly paceLimits: PaceLimits
  /** Whether it knows WAIT_FOR_EXECUTED_GTID_SET: MySQL since 5.7 with GTIDs. */
  readonly waits: () => boolean
  readonly log: {
    info(fields: object, message: string): void
    warn(fields: object, message: string): void
  }
}
/** A piece of a table that waits until the stream has passed `high`. */
export interface Piece {
  readonly chunk: Chunk
  /** The target empties the table; there are no rows. */
  readonly clear: boolean
  readonly from: Progress // where it begins
  readonly next: Progress
  readonly place: Position // P
  readonly since: number // Touched.now at P
  high: LogPlace | undefined // until the source has answered
  /** The memory of its rows, one reference of which is the piece's; none where it has no rows of its own. */
  readonly slab: Slab | undefined
}
export interface PieceReaderOptions {
  readonly source: SnapshotSource
  readonly load: Load
  readonly cursor: Pick<ClientCursor, 'client' | 'read' | 'readPlace'>
  readonly touched: Touched
  /** A table is left out, and no piece waits: what was given out before may not be acked yet. */
  readonly leftOut: (next: Progress) => void
}

const AHEAD = 3 // pieces
const SPARE_MAX = AHEAD + 1 // buffers that wait for the next piece
const PIECE_BYTES = 4 * 1024 * 1024
const PIECE_BYTES_MAX = 8 * 1024 * 1024
const FIRST_ROWS = 500
const ROWS_MAX = 50_000
/** A table without a key is one piece, held in memory. */
const KEYLESS_BYTES = 32 * 1024 * 1024
const KEYLESS_ROWS = 1_000_000
const REPEATS_MAX = 30 // of a table without a key, which any change of it disturbs
const LOOK_MS = 20
const GTID_WAIT_SECONDS = 2
const BACKOFF_MS = 200
const BACKOFF_MAX_MS = 10_000

/** A table's plan, and the place from which it held. */
interface Planned {
  readonly name: string
  readonly plan: TablePlan
  readonly at: LogPlace
}

export class PieceReader {
  /** In order; the first is the next to be given out. */
  readonly pieces: Piece[] = []
  readonly #options: PieceReaderOptions
  readonly #stop = new AbortController()
  readonly #pace: Pace
  #next: Progress
  #round = 0 // rises when what is being read is not wanted any more
  #planned: Planned | undefined
  #connection: BinaryConnection | undefined
  #epoch = 0 // which it was opened in
  #rows = FIRST_ROWS // of the next piece
  readonly #buffers: Buffer[] = [] // of pieces that are done
  #repeats = 0
  #failures = 0
  #reading: number | undefined // Touched.now at the P of what is being read
  #unanswered: unknown // what went wrong when the log's end was asked for
  #ofTable = false // what goes wrong now is the table's fault

  constructor(options: PieceReaderOptions) {
    this.#options = options
    this.#next = options.load.progress
    this.#pace = paceOf(options)
    void this.#run(this.#stop.signal).catch((error: unknown) => {
      options.source.log.warn(
        { client: options.load.client },
        `snapshot: stopped: ${String(error)}`,
      )
    })
  }
  /** What changed before this (Touched.now) is not asked for any more. */
  get since(): number {
    return this.pieces[0]?.since ?? this.#reading ?? this.#options.touched.now
  }
  /** Whether a piece of this table waits, or is read next. */
  reads(database: string, name: string): boolean {
    const next = this.#options.load.tables[this.#next.done]
    return (
      (next?.[0] === database && next[1] === name) ||
      this.pieces.some(
        ({ chunk: { plan } }) => plan.table.database === database && plan.table.name === name,
      )
    )
  }
  /** Drops all that was read, to read again from `progress` on: what was given out last, or is first, is spoiled. */
  restart(progress: Progress): void {
    this.#backTo(0, progress)
    this.#repeats++
  }
  /** Drops the pieces from the one at `at` on, the first of which begins at `progress`. */
  #backTo(at: number, progress: Progress): void {
    for (const { slab } of this.pieces.splice(at)) slab?.release()
    this.#round++
    this.#next = progress
    this.#planned = undefined
  }
  /** The first piece begins to be given out: its slab is the caller's. */
  taken(): void {
    this.pieces.shift()
  }
  /** What was taken is given out as a whole. */
  given(): void {
    this.#repeats = 0
  }
  /** Idempotent. */
  close(): void {
    this.#stop.abort()
    this.#connection?.close()
    this.#backTo(0, this.#next)
    this.#buffers.length = 0
  }
  /** Called by the last release of a piece's slab: collecting buffers of megabytes costs more than filling them. */
  take({ bytes }: Slab): void {
    const fits = bytes.length <= PIECE_BYTES_MAX && this.#buffers.length < SPARE_MAX
    if (fits && !this.#stop.signal.aborted) this.#buffers.push(bytes)
    else giveBack(bytes)
  }

  async #run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const round = this.#round
      try {
        const started = performance.now()
        const rows = await this.#step(signal)
        this.#failures = 0
        if (rows !== undefined) await this.#pace.after(rows, started, signal)
      } catch (error) {
        if (signal.aborted) return
        await this.#failed(error, round, signal)
      } finally {
        this.#reading = undefined
        this.#ofTable = false
      }
    }
  }
  /** Reads one piece, or waits a little for a reason to; the rows that were read. */
  async #step(signal: AbortSignal): Promise<number | undefined> {
    const { load, cursor, touched, source } = this.#options
    const unanswered = this.#unanswered
    this.#unanswered = undefined
    if (unanswered !== undefined) throw unanswered
    const round = this.#round // with `progress`: whoever restarts while this waits moves both
    const progress = this.#next
    const table = load.tables[progress.done]
    const catalog = source.catalog()
    const idle = load.state !== 'running' || this.pieces.length >= AHEAD || table === undefined
    // Inside a transaction P would have to be a part of it, for which nobody can wait.
    if (idle || catalog === undefined || cursor.readPlace.skip !== 0) {
      await delay(LOOK_MS, undefined, { signal }).catch(() => {})
      return undefined
    }
    if (this.#repeats > 0)
      await delay(Math.min(1000, 10 * 2 ** this.#repeats), undefined, { signal })
    const [database, name] = table
    const planned = await this.#plan(catalog, database, name)
    if (round !== this.#round) return undefined
    if (planned === undefined) return this.#leaveOut(progress, '')
    const { plan } = planned
    touched.watch(
      database,
      name,
      plan.key.map((c) => c.name),
    )
    if (cursor.readPlace.skip !== 0) return undefined
    const place = cursor.read
    const since = touched.now
    this.#reading = since
    if (catalog.history.after(database, name, planned.at) !== undefined) {
      this.#planned = undefined // its definition has changed on the way to P
      return undefined
    }
    if (load.clears(table) && progress.after === undefined && progress.signature !== CLEARED) {
      this.#clear(plan, progress, place)
      return undefined
    }
    // What is read must be what came after: P is behind the order.
    if (this.pieces.some(({ clear }) => clear)) {
      await delay(LOOK_MS, undefined, { signal }).catch(() => {})
      return undefined
    }
    const chunk = await this.#read(plan, progress, place, signal)
    if (round !== this.#round) return undefined
    const refused = this.#refusal(chunk)
    if (refused !== '') return this.#leaveOut(progress, refused)
    const next = nextOf(progress, chunk)
    this.#next = next
    this.#adapt(chunk)
    const slab = chunk.rows > 0 ? new Slab(chunk.buffer, this) : undefined
    this.#push({ chunk, clear: false, from: progress, next, place, since, high: undefined, slab })
    return chunk.rows
  }
  /** Asks where the log ends behind it, while the next one is read. */
  #push(piece: Piece): void {
    this.pieces.push(piece)
    this.#options.source.end().then(
      (high) => {
        piece.high = high
      },
      (error: unknown) => {
        const at = this.pieces.indexOf(piece)
        if (at < 0) return
        this.#unanswered = error
        this.#backTo(at, piece.from) // those before it are as good as before
      },
    )
  }
  /** The order to empty a table, as a piece of its own, to be given out where the stream stands. */
  #clear(plan: TablePlan, progress: Progress, place: Position): void {
    const next = { ...progress, signature: CLEARED }
    const { epoch, file, offset } = place
    const facts = { place, since: this.#options.touched.now, high: { epoch, file, offset } }
    const chunk = emptyChunk(plan)
    this.pieces.push({ ...facts, chunk, clear: true, from: progress, next, slab: undefined })
    this.#next = next
  }
  async #plan(catalog: Catalog, database: string, name: string): Promise<Planned | undefined> {
    const full = `${database}\0${name}`
    if (this.#planned?.name === full) return this.#planned
    const { epoch, file, offset } = this.#options.cursor.readPlace
    // What begins right at P is behind it.
    const at = { epoch, file, offset: offset - 1 }
    this.#ofTable = true
    const found = await catalog.current(database, name)
    this.#ofTable = false
    this.#planned = found && { name: full, plan: planTable(found), at }
    return this.#planned
  }
  async #read(
    plan: TablePlan,
    progress: Progress,
    place: Position,
    signal: AbortSignal,
  ): Promise<Chunk> {
    const { source, load } = this.#options
    if (this.#epoch !== place.epoch) {
      this.#connection?.close() // another server, which may go on and lack what this one has
      this.#connection = undefined
      this.#epoch = place.epoch
    }
    this.#connection ??= await BinaryConnection.open(source.connect(), SNAPSHOT_SESSION, signal)
    const connection = this.#connection
    signal.throwIfAborted()
    await this.#pace.look()
    const waits = place.gtids !== undefined && source.waits()
    if (waits && place.gtids) await waitFor(connection, place.gtids.toString(), signal)
    const keyless = plan.key.length === 0
    const fits = progress.signature === plan.signature
    if (!fits && progress.after !== undefined) {
      const fields = { client: load.client, table: `${plan.table.database}.${plan.table.name}` }
      source.log.warn(fields, 'snapshot: the key has changed, the table is read from its beginning')
    }
    this.#ofTable = true
    const { where, keys } = load.part
    const after = fits ? progress.after : undefined
    const common = { plan, lock: !waits, serverId: source.serverId() }
    let chunk: Chunk
    if (keys !== undefined) {
      const from = Number(after?.[0] ?? 0)
      const some = keys.slice(from, from + this.#pace.atMost(KEYS_AT_ONCE))
      chunk = await readKeys(connection, { ...common, keys: some, from, total: keys.length })
    } else {
      chunk = await readChunk(connection, {
        ...common,
        after,
        where,
        rows: keyless ? KEYLESS_ROWS : this.#pace.atMost(this.#rows),
        bytes: keyless ? KEYLESS_BYTES : PIECE_BYTES_MAX,
        buffer: this.#buffers.pop(),
      })
    }
    this.#ofTable = false
    return chunk
  }
  /** Why a table is not loaded; "" where it is. */
  #refusal({ cut, plan }: Chunk): string {
    if (cut) {
      return `it has no primary or unique key without NULLs, and more than ${KEYLESS_BYTES / 2 ** 20} MiB or ${KEYLESS_ROWS} rows`
    }
    if (plan.key.length > 0 || this.#repeats < REPEATS_MAX) return ''
    return `it has no primary or unique key without NULLs, and changed every time it was read (${this.#repeats} times)`
  }
  /** The next piece has as many rows as fit. */
  #adapt({ bytes, rows }: Chunk): void {
    if (rows === 0) return
    const wanted = Math.floor((PIECE_BYTES * rows) / bytes)
    this.#rows = Math.max(10, Math.min(ROWS_MAX, this.#rows * 4, wanted))
  }
  /** `why` "": there is no such table any more, so there is nothing to load. */
  #leaveOut(progress: Progress, why: string): undefined {
    const { load, source } = this.#options
    const table = load.tables[progress.done]!.join('.')
    if (why !== '') {
      load.skip(table, why)
      source.log.warn({ client: load.client, table }, `snapshot: ${table} is left out: ${why}`)
    }
    this.#next = { ...progress, done: progress.done + 1, after: undefined, signature: '' }
    this.#planned = undefined
    if (this.pieces.length === 0) this.#options.leftOut(this.#next)
    else this.pieces.push(empty(this.pieces.at(-1)!, this.#next))
    return undefined
  }

  async #failed(error: unknown, round: number, signal: AbortSignal): Promise<void> {
    const { load, source } = this.#options
    this.#connection?.close()
    this.#connection = undefined
    const text = error instanceof Error ? error.message : String(error)
    if (error instanceof SluiceError && !error.retryable && this.#ofTable && !onTheWay(error)) {
      // restarted meanwhile, `next` may be another table
      if (round === this.#round) this.#leaveOut(this.#next, text)
      return
    }
    if (this.#failures++ === 0)
      source.log.warn({ client: load.client }, `snapshot: trying again: ${text}`)
    const pause = Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** Math.min(this.#failures, 10))
    await delay(pause, undefined, { signal }).catch(() => {})
  }
}

/** Whether the server was not even reached, by a user or password that it does not take now: no table's fault. */
function onTheWay({ cause }: SluiceError): boolean {
  return (cause as { fatal?: unknown } | undefined)?.fatal === true
}
function nextOf({ done, rows }: Progress, chunk: Chunk): Progress {
  const total = rows + chunk.rows
  if (chunk.last) return { done: done + 1, after: undefined, signature: '', rows: total }
  return { done, after: chunk.after, signature: chunk.plan.signature, rows: total }
}
function paceOf({ load, source }: PieceReaderOptions): Pace {
  const { paceLimits: limits, pressure, log } = source
  const changed = (rate: number, { threadsRunning, replicaLagMs }: Pressure): void => {
    const fields = { client: load.client, rowsPerSecond: rate, threadsRunning, replicaLagMs }
    const what =
      rate === 0 ? 'as fast as it goes again' : `at ${rate} rows/s, for the source is busy`
    log.info(fields, `snapshot for ${load.client}: ${what}`)
  }
  return new Pace({ load, limits, pressure, changed })
}
/** A piece without rows, behind another. */
function empty({ chunk, next: from, place, since }: Piece, next: Progress): Piece {
  const { epoch, file, offset } = place
  const facts = { place, since, high: { epoch, file, offset } }
  return { ...facts, chunk: emptyChunk(chunk.plan), clear: false, from, next, slab: undefined }
}
function emptyChunk(plan: TablePlan): Chunk {
  const nothing = { bytes: 0, rows: 0, after: undefined, last: false, cut: false }
  return { plan, ...nothing, buffer: Buffer.alloc(0), events: [] }
}

/** Until the server has executed, and committed, all of a GTID set. */
async function waitFor(
  connection: BinaryConnection,
  gtids: string,
  signal: AbortSignal,
): Promise<void> {
  if (gtids === '') return
  const sql = `SELECT WAIT_FOR_EXECUTED_GTID_SET('${gtids}', ${GTID_WAIT_SECONDS}) AS late`
  for (let late = true; late;) {
    signal.throwIfAborted()
    await connection.select(sql, {
      columns: () => {},
      // 0x00 · one byte of null bits · i64: 0 done, 1 the time was up
      row: (bytes, start) => {
        late = bytes[start + 2] !== 0
      },
    })
  }
}

/** Whether a server of this version knows WAIT_FOR_EXECUTED_GTID_SET. */
export function waitsForGtids(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return !/mariadb/i.test(version) && (major > 5 || (major === 5 && minor >= 7))
}
