/**
 * One life of a sink, from its opening to its closing: takes work from the cursor, gives it to the lanes, acks in order what
 * is done. Ends by throwing, or quietly when it is halted, after the writes that are under way. What follows an error is the
 * runner's decision.
 */
import type { Filter, Position, QueryChange, Source, Transaction } from '../../change.ts'
import { fileNumber, formatPosition, beginningOf } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import type { Logger } from '../../logger.ts'
import type { Batch, Cursor } from '../../store/cursor.ts'
import type { State } from '../../store/state.ts'
import { SinkBatch, type BatchFacts, type Slice } from '../shape/batch.ts'
import {
  NO_VERSION,
  transactionId,
  versionBefore,
  versionHead,
  versionTail,
} from '../shape/version.ts'
import type { Sink, SinkContext } from '../sink.ts'
import { Delivery, Halted, type DeliveryOptions } from './delivery.ts'
import { Feed, type RowsWork, type Work } from './feed.ts'
import { Lanes, type Entry } from './lanes.ts'
import type { SinkConfig } from './options.ts'
import { Unlogged, type UnloggedChange } from '../special/unlogged.ts'
import { Xa } from '../special/xa.ts'

export interface LifeOptions extends Omit<DeliveryOptions, 'config'> {
  readonly client: string // the cursor's name
  readonly config: SinkConfig
  readonly cursor: Cursor
  readonly state: State
  readonly log: Logger
  readonly filter: Filter
  readonly read: Source['read']
  readonly query: SinkContext['query']
  /** Has tables read once more; none where there is no source. */
  readonly resnapshot: ((what: Resnapshot) => void) | undefined
  readonly target: BatchFacts['target']
  /** Rows of the event at the beginning that the target has already. */
  readonly rowsDone: number
  /** The highest version that may have been given out before. */
  readonly issued: string
  /** What else is to be written between two pieces of work; undefined: nothing now. */
  readonly extra: () => Extra | undefined
}
/** Tables whose rows have changed beside the log. `clear`: some may be gone, so the target is emptied first. */
export interface Resnapshot {
  readonly tables: readonly (readonly [database: string, table: string])[]
  readonly clear: boolean
}
/** Whether a sink can empty its part of a table. */
export const clearsTables = (sink: Pick<Sink, 'clears' | 'statement'>): boolean =>
  sink.clears === true && sink.statement !== undefined

/** Rows that do not come from the cursor. */
export interface Extra {
  readonly slices: readonly Slice[]
  /** With what it failed with; answers whether the sink goes on. */
  done(error: unknown): boolean
}

export class Life {
  readonly #options: LifeOptions
  readonly #delivery: Delivery
  readonly #lanes: Lanes
  readonly #xa: Xa
  readonly #unlogged: Unlogged | undefined
  #issued: string
  #rowsDone: number
  #floor: Position // everything before it is in the target
  #reaching: Promise<void> | undefined
  #reached: Position

  constructor(options: LifeOptions) {
    const { sink, config, state, client, cursor, query, filter } = options
    this.#options = options
    this.#delivery = new Delivery(options)
    const single = sink.promise === 'transactional'
    const laned = sink.target !== undefined && !single
    const inFlight = single ? 1 : (sink.inFlight ?? 1)
    this.#lanes = new Lanes({
      delivery: this.#delivery,
      lanes: laned ? config.parallel : 1,
      depth: laned ? 1 : inFlight,
      entriesMax: Math.max(2, inFlight), // one is prepared while another is written
    })
    this.#xa = new Xa(state, client)
    const mirrors = sink.mirrors ?? sink.promise !== 'append'
    if (mirrors && config.unloggedChange !== 'ignore')
      this.#unlogged = new Unlogged(sink, query, filter)
    this.#issued = options.issued
    this.#rowsDone = options.rowsDone
    this.#floor = cursor.acked
    this.#reached = cursor.acked
  }

  /** Until it is halted. Everything taken from the cursor has been given back when this ends. */
  async run(): Promise<void> {
    const { cursor, config, sink, halt } = this.#options
    await this.#unlogged?.load()
    const feed = new Feed({
      cursor,
      config,
      wholeTransactions: sink.wholeTransactions ?? false,
      xa: this.#xa,
      unlogged: this.#unlogged,
    })
    try {
      while (!halt.aborted) {
        await this.#lanes.room()
        await this.#extra()
        const work = await feed.next(halt)
        if (work !== undefined) await this.#take(work)
      }
      await this.#lanes.idle()
    } catch (error) {
      this.#lanes.fail(error)
      if (!(error instanceof Halted)) throw error
    } finally {
      await this.#lanes.quiet()
      this.#lanes.giveBack()
      feed.close()
      await this.#reaching
    }
  }

  async #take(work: Work): Promise<void> {
    if (work.kind === 'rows') return await this.#rows(work)
    const { batch } = work
    try {
      if (work.kind === 'xaRollback') this.#xa.forget(work.xid)
      else if (work.kind !== 'held') await this.#lanes.idle()
      if (work.kind === 'xaCommit') await this.#commit(work)
      if (work.kind === 'statement') await this.#statement(work.tx, work.change, batch)
    } catch (error) {
      batch.release()
      throw error
    }
    this.#lanes.seal(this.#open([batch]))
  }

  // ── rows ───────────────────────────────────────────────────────────────────

  async #rows(work: RowsWork): Promise<void> {
    const { batches, slices, bytes, start, end, redelivered } = work
    const entry = this.#open(batches)
    this.#checkUnlogged(slices)
    if (slices.length > 0) {
      this.#issue(highestOf(slices, end))
      this.#options.counts.bytes += bytes
      const batch = new SinkBatch(
        this.#facts(slices, { start, end, redelivered }),
        this.#skip(slices),
      )
      await this.#spread(entry, batch)
    }
    this.#lanes.seal(entry)
  }
  #facts(
    slices: readonly Slice[],
    { start, end, redelivered }: Pick<BatchFacts, 'start' | 'end' | 'redelivered'>,
  ): BatchFacts {
    const { target, sink } = this.#options
    // Beside others, "behind this batch" is not yet true when it is written.
    const beside = this.#lanes.count > 1 || (sink.target === undefined && (sink.inFlight ?? 1) > 1)
    const safe = beside && sink.promise !== 'transactional' ? this.#floor : end
    const issued = (): string => this.#issued
    return {
      slices,
      start,
      end: safe,
      settled: true,
      get highest() {
        return issued()
      },
      redelivered,
      target,
    }
  }
  async #spread(entry: Entry, batch: SinkBatch): Promise<void> {
    const { sink } = this.#options
    await this.#lanes.spread(entry, batch, sink.target && ((row) => sink.target!(row)))
  }
  /** Rows of the first event that a transactional target has already, because a refused row was searched among them. */
  #skip(slices: readonly Slice[]): number {
    if (slices[0]?.changes[0]?.snapshot === true) return 0
    const done = this.#rowsDone
    this.#rowsDone = 0
    if (done === 0) return 0
    // Another server need not go on with the same transaction.
    const { epoch, file, offset, skip } = this.#options.cursor.acked
    const { tx, changes } = slices[0]!
    const same = tx.epoch === epoch && tx.file === file && tx.offset === offset
    return same && changes[0]?.ordinal === skip ? done : 0
  }
  /** Durable before the write: whoever finds a version above it in the target knows that it is not ours. */
  #issue(version: string): void {
    if (version <= this.#issued) return
    this.#issued = version
    this.#options.state.setValue(issuedKey(this.#options.client), version)
  }

  // ── what is done ───────────────────────────────────────────────────────────

  #open(batches: readonly Batch[]): Entry {
    return this.#lanes.open({
      finish: () => {
        for (const batch of batches) {
          batch.release()
          // Not waited for: acks of one turn share a commit. One that fails ends the life.
          this.#options.cursor.ack(batch.id).catch((error: unknown) => this.#lanes.fail(error))
        }
        this.#floor = batches.at(-1)!.end
        this.#reach()
      },
      drop: () => {
        for (const batch of batches) batch.release()
      },
    })
  }
  /** Tells the sink how far everything is done, the newest only. */
  #reach(): void {
    const { sink } = this.#options
    if (sink.reached === undefined || this.#reaching !== undefined) return
    this.#reached = this.#floor
    this.#reaching = sink
      .reached(this.#reached)
      .catch((error: unknown) => this.#lanes.fail(error))
      .then(() => {
        this.#reaching = undefined
        if (this.#reached !== this.#floor) this.#reach()
      })
  }

  /** Rows that do not come from the cursor: alone, for they are older than what is under way. */
  async #extra(): Promise<void> {
    for (let extra = this.#options.extra(); extra; extra = this.#options.extra()) {
      await this.#lanes.idle()
      const position = this.#floor
      const about = { start: position, end: position, redelivered: true }
      try {
        await this.#delivery.deliver(new SinkBatch(this.#facts(extra.slices, about)))
      } catch (error) {
        if (!extra.done(error)) throw error
        continue
      }
      extra.done(undefined)
    }
  }

  // ── statements and XA ──────────────────────────────────────────────────────

  async #statement(tx: Transaction, change: QueryChange, batch: Batch): Promise<void> {
    const { sink, signal } = this.#options
    const unlogged = this.#unlogged
    if (unlogged !== undefined) {
      const found = unlogged.statement(change)
      if (found !== undefined) this.#unlike(found, tx)
      if (unlogged.changesKeys(change)) await unlogged.load()
    }
    if (sink.statement === undefined) return
    this.#issue(versionBefore(batch.end))
    const { ordinal } = change
    const head = versionHead(tx.epoch, fileNumber(tx.file), tx.offset)
    const version = head + versionTail(ordinal, 0)
    const id = `${transactionId(tx)}/${ordinal}`
    const statement = { tx, change, version, id, start: batch.start, end: batch.end }
    await this.#delivery.run(async () => await sink.statement!(statement, signal))
  }
  #checkUnlogged(slices: readonly Slice[]): void {
    const unlogged = this.#unlogged
    if (unlogged === undefined) return
    for (const { tx, changes } of slices) {
      for (const change of changes) {
        if (!unlogged.suspects(change)) continue
        const found = unlogged.rows(change)
        if (found !== undefined) this.#unlike(found, tx)
      }
    }
  }
  /** The target no longer equals the source: its tables are read again, or the sink stops. */
  #unlike({ what, tables, gone }: UnloggedChange, tx: Transaction): void {
    const { config, resnapshot, sink, name, log } = this.#options
    const at = formatPosition(beginningOf(tx))
    let why = ''
    if (config.unloggedChange === 'resnapshot') {
      if (resnapshot === undefined) why = 'a worker has no source to read'
      else if (tables.length === 0) why = 'it names no table'
      else if (gone && !clearsTables(sink))
        why = 'rows may be gone, and the target cannot be emptied'
      else {
        resnapshot({ tables, clear: gone })
        const names = tables.map((table) => table.join('.')).join(', ')
        log.warn({ at, tables: names }, `${at}: ${what}: ${names} are read again`)
        return
      }
      why = ` (resnapshot cannot help: ${why})`
    }
    throw new SluiceError(
      'UNLOGGED_CHANGE',
      `${at}: ${what} changes rows without logging them, so the target no longer equals the source${why}. ` +
        `Put the target right, then let the sink go on with unloggedChange: ignore in sinks.${name}`,
    )
  }

  /** The rows of an XA transaction, read again from where it was prepared. */
  async #commit({ batch, tx, xid }: Work & { kind: 'xaCommit' }): Promise<void> {
    const { log, read, config, filter, halt } = this.#options
    if (!this.#xa.knows(xid)) {
      log.warn({ xid, at: formatPosition(beginningOf(tx)) }, UNKNOWN_XA)
      return
    }
    this.#issue(versionBefore(batch.end))
    const most = Math.max(config.batch.bytes, config.transactionBytesMax)
    let held: Transaction[] = []
    let bytes = 0
    const write = async (end: Position): Promise<void> => {
      const slices = held.flatMap((part) => rowsOf(part, filter))
      const parts = held
      held = []
      const { start, redelivered } = batch
      const release = (): void => {
        for (const part of parts) part.slab?.release()
      }
      const inner = this.#lanes.open({ finish: release, drop: release })
      this.#checkUnlogged(slices)
      if (slices.length > 0)
        await this.#spread(inner, new SinkBatch(this.#facts(slices, { start, end, redelivered })))
      this.#lanes.seal(inner)
    }
    try {
      for await (const part of this.#xa.read(xid, tx, read, halt)) {
        if (bytes > 0 && bytes + part.bytes > most) {
          await write(batch.start)
          await this.#lanes.idle()
          bytes = 0
        }
        held.push(part)
        bytes += part.bytes
      }
    } catch (error) {
      for (const part of held) part.slab?.release()
      throw error
    }
    if (halt.aborted) {
      for (const part of held) part.slab?.release()
      throw new Halted('while an XA transaction was read')
    }
    await write(batch.end)
    await this.#lanes.idle()
    this.#xa.forget(xid)
  }
}

const UNKNOWN_XA =
  'XA COMMIT of a transaction of which this sink has seen no rows: none that it wants, or it was prepared before the sink began'

/** The key of the highest version a cursor has given out, in the state file. */
export const issuedKey = (client: string): string => `${client}:issued`

/** What may have been given out before, by the state file. */
export const issuedBefore = (state: State, client: string): string =>
  state.value(issuedKey(client)) ?? NO_VERSION

/** Above or at every version of rows before `end`; rows of a snapshot have the place of an end and are counted there. */
function highestOf(slices: readonly Slice[], end: Position): string {
  const snapshot = slices.some(({ changes }) => changes[0]?.snapshot === true)
  if (!snapshot) return versionBefore(end)
  return versionHead(end.epoch, fileNumber(end.file), end.offset) + versionTail(end.skip, ROW_MAX)
}
const ROW_MAX = 0xffff_ffff

function rowsOf(tx: Transaction, filter: Filter): Slice[] {
  const changes = tx.changes.filter(
    (c) =>
      (c.kind === 'insert' || c.kind === 'update' || c.kind === 'delete') &&
      filter(c.table.database, c.table.name),
  )
  return changes.length === 0 ? [] : [{ tx, changes: changes as Slice['changes'] }]
}
