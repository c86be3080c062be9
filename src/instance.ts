/**
 * READ THIS FIRST. One destination: wires state, connection, catalog, source and store together and keeps them going.
 *
 *   MySQL ─▶ mysqlSource ─transactions▶ pump ─▶ store.append ─▶ Store ─▶ cursors of Canal clients
 *                 ▲ filter, catalog                 (waits when no client can take more: so does the socket)
 *
 * Guarantees: the origin and the epoch are durable before the first row is read; errors that may pass are retried with
 * growing pauses, others leave the instance visible as 'failed' with its clients served from what it holds; no error
 * leaves the instance. Must not know of the command line, of other instances, or of how clients are served.
 *
 * Over 500 lines because all that can happen to a source is followed here, where one reads how the parts act together.
 */
import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Catalog } from './catalog/catalog.ts'
import { compareLogPlaces, type LogPlace, type TableVersions } from './catalog/history.ts'
import { formatPosition } from './change.ts'
import type { Position, Source, Transaction } from './change.ts'
import type { InstanceConfig } from './config/config.ts'
import { Reading, type ReadCounts } from './counts.ts'
import { continueFrom, readKnown } from './epoch.ts'
import type { Known } from './epoch.ts'
import { stateChannel, told } from './diagnostics.ts'
import { SluiceError } from './errors.ts'
import { compileFilter } from './filter.ts'
import type { Logger } from './logger.ts'
import { Lookup } from './lookup.ts'
import { sinkTypes } from './sinks/index.ts'
import type { SinkStatus } from './sinks/runner/runner.ts'
import { Sinks } from './sinks/runner/sinks.ts'
import type { SinkType } from './sinks/sink.ts'
import { Retained, type RetainedStatus } from './retained/retained.ts'
import { SlabPool } from './slab.ts'
import type { LoadStatus } from './snapshot/load.ts'
import { waitsForGtids } from './snapshot/reader.ts'
import { Snapshots } from './snapshot/snapshots.ts'
import {
  logEnd,
  mysqlSource,
  pressureProbe,
  type ReaderThread,
  type ThreadSourceOptions,
  type SourceFacts,
} from './sources/index.ts'
import { State } from './store/state.ts'
import { Store, type StoreStatus } from './store/store.ts'
import { factsOf, openCatalog, unlessAborted } from './upstream/connect.ts'
import { lookBack, Trail } from './upstream/lookback.ts'
import { lostAfter, type LostRange } from './upstream/lost.ts'
import { Watch, type Needed, type Outlook } from './upstream/purge.ts'
import { SemiSync, withoutSemiSync } from './upstream/semisync.ts'
import { settle } from './upstream/settle.ts'
import { Sources } from './upstream/sources.ts'
import { StandbyWatch, type StandbyStatus } from './upstream/standby/watch.ts'

export type InstanceState =
  | { readonly state: 'connecting' | 'running' | 'stopped' }
  | { readonly state: 'retrying'; readonly error: Error; readonly retryAt: number }
  | { readonly state: 'failed'; readonly error: Error }
export type InstanceStatus = InstanceState & {
  readonly name: string
  readonly since: number // ms, of the last change of state
  readonly server: string // host:port of the source that is read
  readonly failovers: number // how often it was another one before
  readonly standbys: readonly StandbyStatus[] // when last looked at
  readonly positionsLost: number // how often the source no longer had what was needed
  readonly lost: LostRange | undefined // the last time
  readonly purge: Outlook | undefined // of what the slowest client needs, when last looked at
  readonly semiSyncAcks: number | undefined // sent; undefined: semiSync is off
  readonly position: Position | undefined // where reading goes on
  readonly epoch: number // 0 before the source was reached for the first time
  readonly counts: ReadCounts
  readonly store: StoreStatus | undefined
  readonly changeLog: RetainedStatus | undefined // undefined: it is off
  readonly snapshots: readonly LoadStatus[] // of clients and sinks, those that are over too
  readonly sinks: readonly SinkStatus[] // none before the source was reached for the first time
  /** Tables whose columns are matched by position, for their history is ambiguous. */
  readonly guessedTables: readonly string[]
}
export interface InstanceOptions {
  readonly name: string
  readonly config: InstanceConfig
  readonly dataDir: string
  readonly log: Logger
  readonly sinkTypes?: readonly SinkType[] // default: all there are
  /** Where the log is read; left out, in this thread. */
  readonly thread?: ReaderThread | undefined
}

/** How soon a place that a client passed over is durable where commits wait for it. */
const SEMI_SYNC_MS = 5

export class Instance {
  readonly name: string
  readonly config: InstanceConfig
  readonly #log: Logger
  readonly #state: State
  readonly #stop = new AbortController()
  readonly #thread: ReaderThread | undefined
  readonly #slabs = new SlabPool()
  readonly #sources: Sources
  readonly #watch: Watch
  readonly #standbys: StandbyWatch
  readonly #semiSync: SemiSync | undefined
  #lookup: Lookup
  #known: Known | undefined
  readonly #retained: Retained | undefined // the change log
  #store: Store | undefined
  readonly #sinkOptions: { readonly dataDir: string; readonly types: readonly SinkType[] }
  #sinks: Sinks | undefined
  #windowBytes: number
  #connection = new AbortController() // ends one read of the source
  #reopen = false // the state file was changed beneath the store
  #catalog: Catalog | undefined
  #facts: SourceFacts | undefined
  readonly snapshots: Snapshots
  #catchUp: Source['read'] | undefined
  #status: InstanceState = { state: 'stopped' }
  #since = Date.now()
  /** What was read; whoever wants to look on. */
  readonly reading = new Reading()
  #failures = 0 // in a row
  #changedSince: number | undefined // ms; the source looks like another one since then
  #positionLost = false // the source refused a position: it is looked at again before that is believed
  #lostCount = 0
  #lost: LostRange | undefined
  #trail: Trail | undefined // of what was read without GTIDs, where there is another source to go over to
  #done: Promise<void> | undefined

  private constructor(options: InstanceOptions, state: State) {
    this.name = options.name
    this.config = options.config
    this.#windowBytes = options.config.windowBytes
    this.#log = options.log
    this.#thread = options.thread
    this.#state = state
    this.#sinkOptions = { dataDir: options.dataDir, types: options.sinkTypes ?? sinkTypes }
    this.#sources = new Sources(options.config, state.value('source'))
    this.#trail = this.#sources.several ? new Trail() : undefined
    this.#lookup = new Lookup(this.#sources.connect)
    this.#watch = new Watch({
      log: options.log,
      query: (sql, params) => this.#lookup.query(sql, params),
      connect: () => this.#sources.connect,
      needed: () => this.#needed(),
    })
    this.#standbys = new StandbyWatch({
      log: options.log,
      others: () => this.#sources.others,
      read: () => this.#store?.resume.gtids,
    })
    if (options.config.semiSync) {
      const semiSync = new SemiSync(
        () => state.cursors(),
        () => this.#subscribers(),
      )
      state.follow(SEMI_SYNC_MS, (acks) => semiSync.wrote(acks))
      this.#semiSync = semiSync
    }
    this.#known = readKnown(state)
    this.snapshots = this.#openSnapshots(options)
    const failed = (): void => this.#connection.abort()
    this.#retained = Retained.open({ ...options, instance: this.name, failed }, state)
    // A source that was known before need not be there for its clients to be served.
    if (this.#known) this.#store = this.#openStore(this.#known.origin)
  }

  /** Takes the state file; throws STATE_LOCKED, STATE_UNREADABLE. */
  static open(options: InstanceOptions): Instance {
    const state = State.open(stateFile(options.dataDir, options.name))
    try {
      return new Instance(options, state)
    } catch (error) {
      state.close()
      throw error
    }
  }

  /** undefined until the first connection to a source that was never known. */
  get store(): Store | undefined {
    return this.#store
  }
  get status(): InstanceStatus {
    return {
      ...this.#status,
      name: this.name,
      since: this.#since,
      server: this.#sources.name,
      failovers: this.#sources.failovers,
      standbys: this.#standbys.status,
      positionsLost: this.#lostCount,
      lost: this.#lost,
      purge: this.#watch.purge,
      semiSyncAcks: this.#semiSync?.acks,
      position: this.#store?.resume,
      epoch: this.#known?.epoch ?? 0,
      counts: this.reading.counts(),
      store: this.#store?.status(),
      changeLog: this.#retained?.status(),
      snapshots: this.snapshots.status(),
      sinks: this.#sinks?.status() ?? [],
      guessedTables: [...(this.#catalog?.guessed ?? [])],
    }
  }

  /** Begins to read. What goes wrong shows in `status` and the log. */
  start(): void {
    this.#done ??= this.#run(this.#stop.signal).catch((error: unknown) => {
      this.#enter({ state: 'failed', error: asError(error) })
    })
  }
  /** Where the source's log ends now. Throws what a query throws, CONNECT_FAILED before the source was reached. */
  sourceEnd(): Promise<LogPlace> {
    return logEnd(this.#lookup, this.#knownOrThrow().epoch)
  }
  /** Definitions of tables through the log; none before the source was reached. */
  get tables(): readonly TableVersions[] {
    return this.#catalog?.history.tables() ?? []
  }
  /** The next row of a table asks the source for its definition. The log is read on by a new connection. */
  async reloadTable(database: string, table: string): Promise<void> {
    this.#knownOrThrow()
    await this.#catalog?.forget(database, table)
    this.#connection.abort()
  }
  /** How much of `windowBytes` it may use from now on: what others leave it. */
  resize(windowBytes: number): void {
    this.#windowBytes = windowBytes
    this.#store?.resize(windowBytes)
  }
  /** Lets sinks that have failed try again. */
  retrySinks(): void {
    this.#sinks?.retry()
  }
  /** Ends reading, stops sinks and closes cursors, makes acks durable and gives the state file back. Idempotent. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#done
    await this.#sinks?.stop()
    this.snapshots.close()
    await this.#store?.close()
    await this.#retained?.close()
    this.#watch.stop()
    this.#standbys.stop()
    this.#lookup.close()
    this.#state.close()
    if (this.#status.state !== 'stopped') this.#enter({ state: 'stopped' })
  }

  async #run(signal: AbortSignal): Promise<void> {
    if (this.#store) this.#startSinks(this.#store)
    while (!signal.aborted) {
      this.#connection = new AbortController()
      try {
        const either = AbortSignal.any([signal, this.#connection.signal])
        await unlessAborted(this.#read(either), either)
        if (this.#reopen && !signal.aborted) await this.#openAgain()
      } catch (error) {
        if (signal.aborted) return
        this.reading.failures++
        const lasted = this.#status.state === 'running' ? Date.now() - this.#since : 0
        if (lasted > this.config.retry.maxMs) this.#failures = 0
        if (!(await this.#failed(error, signal))) return
      }
    }
  }
  /** Decides what follows on an error, and waits until it is time for it; false: the instance has failed. */
  async #failed(error: unknown, signal: AbortSignal): Promise<boolean> {
    const retryable = error instanceof SluiceError && (error.retryable || this.#doubtful(error))
    const was = this.#sources.name
    const rank = (name: string): number => this.#standbys.rank(name)
    const next = this.#sources.failed(Date.now(), error, retryable, rank)
    if (next === 'fail') {
      if (error instanceof SluiceError && error.code === 'POSITION_LOST') this.#lostCount++
      this.#enter({ state: 'failed', error: asError(error) })
      return false
    }
    if (this.#sources.name !== was) this.#goOver(was, asError(error))
    if (next === 'next') return true
    const pause = this.#pause()
    this.#enter({ state: 'retrying', error: asError(error), retryAt: Date.now() + pause })
    await delay(pause, undefined, { signal }).catch(() => {})
    return true
  }
  /** Another source is the current one now. */
  #goOver(was: string, error: Error): void {
    this.#changedSince = undefined
    this.#lookup.close()
    this.#lookup = new Lookup(this.#sources.connect)
    this.#log.warn(
      { was, source: this.#sources.name, ...errorFields(error) },
      `instance ${this.name} gives ${was} up and goes over to ${this.#sources.name}: ${error.message}`,
    )
  }

  /** One connection's life. Returns only when `signal` aborts. */
  async #read(signal: AbortSignal): Promise<void> {
    const { connect, name } = this.#sources
    const config = { ...this.config, source: this.#sources.current }
    this.#enter({ state: 'connecting' })
    this.reading.connects++
    const facts = await factsOf(connect)
    if (signal.aborted) return
    if (config.filter.statements.dml === 'stop') requireRows(facts)
    this.#facts = facts
    // What the log lacks is gone: it begins anew where clients need it.
    const end = this.#retained && this.#store?.resume
    if (
      end &&
      lostAfter(end, facts) &&
      this.#retained?.breakOff('the source has removed that part')
    )
      await this.#openAgain()
    const store = await this.#settle(facts, signal)
    if (signal.aborted) return
    if (this.#sources.several) this.#state.setValue('source', name)
    const zone = config.timezone ?? facts.timeZone
    const catalog = openCatalog({
      config,
      facts,
      epoch: this.#known!.epoch,
      lookup: this.#lookup,
      log: this.#log,
      history: this.#state,
    })
    catalog.history.trim(this.#oldestPlace(facts))
    await catalog.prepare()
    if (signal.aborted) return
    this.#catalog = catalog
    const options = {
      connect,
      epoch: this.#known!.epoch,
      server: facts.serverUuid,
      catalog,
      partBytes: config.partBytes,
      heartbeatMs: config.source.heartbeatMs,
    }
    const { filter } = config
    const here = { ...options, filter: compileFilter(filter), kinds: filter, slabs: this.#slabs }
    // Only one dump can run under one server id or one uuid: each catch-up reader draws its own.
    this.#catchUp = (from, stop) => mysqlSource(here).read(from, stop)
    const about = { version: facts.version, timezone: zone, server: facts.serverUuid }
    const main = {
      ...options,
      serverId: config.source.serverId,
      replicaUuid: this.#replicaUuid(),
      onAcker: await this.#acker(),
      // The first thing a granted dump sends: before that, "running" would be a guess.
      onFormat: () => {
        if (this.#status.state !== 'connecting') return
        this.#enter({ state: 'running' }, about)
        this.#watch.start()
        if (this.#sources.several) this.#standbys.start()
      },
    }
    const source = this.#thread
      ? this.#thread.source({ ...main, filter })
      : mysqlSource({ ...here, ...main })
    await this.#retained?.begin(store.resume, zone)
    await this.#pump(source, store, signal)
  }

  async #pump(source: Source, store: Store, signal: AbortSignal): Promise<void> {
    for await (const tx of source.read(store.resume, signal)) {
      if (!tx.gtid) this.#trail?.note(tx)
      this.reading.take(tx)
      const full = this.#retained && this.#retain(this.#retained, tx)
      if (full) await this.reading.wait(full)
      const wait = store.append(tx, signal)
      if (wait) await this.reading.wait(wait)
      this.#failures = 0
      this.#changedSince = undefined
      this.#positionLost = false
      this.#sources.worked()
    }
  }

  /** What clients are given is in the log first. */
  #retain(retained: Retained, tx: Transaction): void | Promise<void> {
    try {
      return retained.append(tx)
    } catch (error) {
      tx.slab?.release()
      throw error
    }
  }

  /** Which history this is; on the very first connect also where it begins, and the store. */
  async #settle(facts: SourceFacts, signal: AbortSignal): Promise<Store> {
    const { config } = this
    const [state, log] = [this.#state, this.#log]
    const resume = this.#store?.resume
    const before = this.#known && resume && { known: this.#known, resume }
    const { connect } = this.#sources
    if (before && this.#trail && !(facts.executed && resume!.gtids)) {
      if (facts.serverUuid !== before.known.server) {
        const filter = compileFilter(config.filter)
        const { lookBackMs } = config.failover
        const about = { state, facts, connect, filter, lookBackMs, log, signal, trail: this.#trail }
        await this.#sinks?.stop()
        await this.#store!.close() // nothing is acked any more in the old log
        this.#store = undefined
        let againUntilMs = before.resume.timestamp
        try {
          againUntilMs = await lookBack({ ...about, ...before })
          this.#trail = new Trail()
        } finally {
          if (!signal.aborted) await this.#openAgain(againUntilMs)
        }
        return this.#store!
      }
    }
    const covered = this.#retained?.covers
    const found = await settle({ state, config, connect, facts, before, log, covered, signal })
    this.#know(found.known)
    if (found.lost) {
      if (found.lost.to !== undefined || found.lost.range !== this.#lost?.range) this.#lostCount++
      this.#lost = found.lost
      if (found.lost.to !== undefined) await this.#openAgain(undefined, found.lost.place)
    }
    if (this.#store) return this.#store
    this.#store = this.#openStore(found.known.origin)
    this.#startSinks(this.#store)
    return this.#store
  }
  #startSinks(store: Store): void {
    if (Object.keys(this.config.sinks).length === 0) return
    this.#sinks = Sinks.open(this.config.sinks, this.#sinkOptions, {
      instance: this.name,
      log: this.#log,
      state: this.#state,
      store,
      query: (sql, params) => this.#lookup.query(sql, params),
      filter: compileFilter(this.config.filter),
      known: () => this.#known!,
      adopt: (seen) => this.#adopt(seen),
      latest: async () => (await factsOf(this.#sources.connect)).latest,
      read: (from, signal) => this.#readPast(from, signal),
      loads: this.snapshots,
    })
    this.#sinks.start()
  }
  #openSnapshots({ name, dataDir, config, log }: InstanceOptions): Snapshots {
    const pressure = pressureProbe()
    return new Snapshots({
      instance: name,
      dataDir,
      state: this.#state,
      query: (sql, params) => this.#lookup.query(sql, params),
      filter: compileFilter(config.filter),
      clients: () => this.#store?.clients() ?? [],
      source: {
        connect: () => this.#sources.connect,
        catalog: () => this.#catalog,
        end: () => logEnd(this.#lookup, this.#known!.epoch),
        serverId: () => this.#facts?.serverId ?? 0,
        waits: () => waitsForGtids(this.#facts?.version ?? ''),
        pressure: () => pressure(this.#lookup),
        paceLimits: config.snapshot,
        log,
      },
      rate: config.snapshot.rowsPerSecond,
    })
  }
  /** A sink's target knows a later epoch than the state file, which was lost: every place we know is of that epoch. */
  #adopt(seen: Pick<Known, 'epoch' | 'server'>): boolean {
    if (!continueFrom(this.#state, this.#known!, seen, this.#log)) return false
    this.#reopen = true
    this.#connection.abort()
    return true
  }
  #know(known: Known | undefined): void {
    // the server before may go on, and answer questions about the one that is read now
    if (known?.epoch !== this.#known?.epoch) this.#lookup.close()
    this.#known = known
  }
  /** Begins anew with what the state file says. */
  async #openAgain(againUntilMs?: number, place?: Position): Promise<void> {
    this.#reopen = false
    this.#catchUp = undefined // it reads in the old epoch
    await this.#sinks?.stop()
    await this.#store?.close()
    this.#know(readKnown(this.#state))
    this.#store = this.#openStore(this.#known!.origin, againUntilMs, place)
    this.#startSinks(this.#store)
  }
  /** Nobody reads before this place any more: the oldest that a client may go on from, as far as the source still has it. */
  #oldestPlace({ earliest }: SourceFacts): LogPlace {
    const { epoch, origin } = this.#known!
    const wanted = [origin, ...this.#state.cursors().map(({ acked }) => acked)]
    const oldest = wanted.reduce((a, b) => (compareLogPlaces(a, b) <= 0 ? a : b))
    const kept = { ...earliest, epoch }
    return compareLogPlaces(oldest, kept) < 0 ? kept : oldest
  }
  /** What tells the main reader's source what is safe; undefined where nobody wants to know. */
  async #acker(): Promise<ThreadSourceOptions['onAcker']> {
    const semiSync = this.#semiSync
    if (!semiSync) return undefined
    const why = await withoutSemiSync((sql) => this.#lookup.query(sql))
    if (why !== undefined)
      this.#log.warn({}, `instance ${this.name}: semiSync, but its source waits for nobody: ${why}`)
    const { epoch } = this.#known!
    return (ack) => semiSync.connection(ack, epoch)
  }
  #subscribers(): string[] {
    const store = this.#store
    const names = store?.status().cursors.map(({ client }) => client) ?? []
    return names.filter((name) => store?.subscription(name) !== undefined)
  }
  /** Who needs the source's log from where on. */
  #needed(): Needed[] {
    const epoch = this.#known?.epoch
    const cursors = this.#store?.status().cursors ?? []
    return cursors.flatMap(({ client, acked }) =>
      acked.epoch === epoch ? [{ client, position: acked }] : [],
    )
  }
  #openStore(origin: Position, againUntilMs?: number, place?: Position): Store {
    const retained = this.#retained
    return new Store({
      instance: this.name,
      againUntilMs,
      resume: retained && (retained.resume(origin) ?? place),
      ahead: retained !== undefined,
      windowBytes: this.#windowBytes,
      catchUpReaders: this.config.catchUpReaders,
      catchUp: (from, signal) => this.#readPast(from, signal),
      state: this.#state,
      origin,
      log: this.#log,
      join: this.snapshots.join,
    })
  }
  /** From the change log as far as it goes, and from the source. */
  #readPast(from: Position, signal: AbortSignal): AsyncIterable<Transaction> {
    const read: Source['read'] = (place, stop) => this.#readOwn(place, stop)
    const has = (place: Position): boolean =>
      this.#facts !== undefined && lostAfter(place, this.#facts) === undefined
    return this.#retained?.read(from, signal, { read, has }) ?? read(from, signal)
  }
  async *#readOwn(from: Position, signal: AbortSignal): AsyncIterable<Transaction> {
    if (!this.#catchUp) {
      throw new SluiceError('CONNECT_FAILED', `${this.name}: the source was not reached yet`)
    }
    try {
      yield* this.#catchUp(from, signal)
    } catch (error) {
      const lost = error instanceof SluiceError && error.code === 'POSITION_LOST'
      // the next connect looks at every position, and follows the policy
      if (lost && this.config.onPositionLost !== 'fail') this.#connection.abort()
      throw error
    }
  }
  #knownOrThrow(): Known {
    if (this.#known && this.#catalog) return this.#known
    throw new SluiceError('CONNECT_FAILED', `${this.name}: the source was not reached yet`)
  }
  /** The same after a restart: MySQL then ends the dump that a dead connection of ours still holds. */
  #replicaUuid(): string {
    let uuid = this.#state.value('replicaUuid')
    if (uuid === undefined) this.#state.setValue('replicaUuid', (uuid = randomUUID()))
    return uuid
  }
  /**
   * A transaction reaches us before the source counts it as executed (with semi-synchronous replication long before),
   * and an address may lead to another server for a moment: a changed source is believed when it stays changed. A position
   * that the source refused is looked at again: the answer says what is lost, or the policy is followed.
   */
  #doubtful({ code }: SluiceError): boolean {
    if (code === 'POSITION_LOST') {
      const again = !this.#positionLost
      this.#positionLost = true
      return again
    }
    if (code !== 'SOURCE_CHANGED' && code !== 'SOURCE_DIVERGED') return false
    this.#changedSince ??= Date.now()
    return Date.now() - this.#changedSince < this.config.failover.divergedMs
  }
  /** ms before the next attempt: doubles from retry.minMs to retry.maxMs, less up to a half by chance. */
  #pause(): number {
    const { minMs, maxMs } = this.config.retry
    const most = Math.min(maxMs, minMs * 2 ** Math.min(this.#failures++, 20))
    return Math.round(most * (0.5 + Math.random() / 2))
  }
  /** One log line per change of state, with the position where reading goes on. */
  #enter(next: InstanceState, more: object = {}): void {
    this.#status = next
    this.#since = Date.now()
    const resume = this.#store?.resume
    const position = resume && formatPosition(resume)
    const { state } = next
    const fields = { state, ...(position !== undefined && { position }), ...more }
    if (stateChannel.hasSubscribers) {
      const error = told('error' in next ? next.error : undefined)
      stateChannel.publish({ instance: this.name, sink: undefined, state, position, error })
    }
    if (next.state === 'failed') {
      this.#log.error(
        { ...fields, ...errorFields(next.error) },
        `instance ${this.name} failed: ${next.error.message}`,
      )
    } else if (next.state === 'retrying') {
      const retryMs = next.retryAt - this.#since
      const text = `instance ${this.name} tries again in ${retryMs} ms: ${next.error.message}`
      this.#log.warn({ ...fields, ...errorFields(next.error), retryMs }, text)
    } else this.#log.info(fields, `instance ${this.name} ${next.state}`)
  }
}

const asError = (error: unknown): Error =>
  error instanceof Error ? error : new Error(String(error))
/** A SluiceError says all in its message; the stack is for our own bugs. */
const errorFields = (error: Error): object =>
  error instanceof SluiceError ? { code: error.code } : { stack: error.stack }

/** Throws SOURCE_UNSUITABLE for a source that logs changes as statements, which say nothing of rows. */
function requireRows({ binlogFormat }: SourceFacts): void {
  if (binlogFormat === '' || binlogFormat.toUpperCase() === 'ROW') return
  const text =
    `expected binlog_format ROW on the source, got ${binlogFormat}: changes are logged as statements, without their rows. ` +
    "SET PERSIST binlog_format = 'ROW' there and let applications reconnect; or set filter.statements.dml to deliver or drop"
  throw new SluiceError('SOURCE_UNSUITABLE', text)
}

/** The state file of a destination. */
export function stateFile(dataDir: string, name: string): string {
  return join(dataDir, `${name}.sqlite`)
}
