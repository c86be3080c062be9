/**
 * READ THIS FIRST. One destination: wires state, connection, catalog, source and store together and keeps them going.
 *
 *   MySQL ─▶ mysqlSource ─transactions▶ pump ─▶ store.append ─▶ Store ─▶ cursors of Canal clients
 *                 ▲ filter, catalog                 (waits when no client can take more: so does the socket)
 *
 * Guarantees: the origin and the epoch are durable before the first row is read; errors that may pass are retried with
 * growing pauses, others leave the instance visible as 'failed' with its clients served from what it holds; no error
 * leaves the instance. Must not know of the command line, of other instances, or of how clients are served.
 */
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parseTimeZone } from './binlog/time.ts'
import { Catalog } from './catalog/catalog.ts'
import {
  compareLogPlaces,
  type HistoryFile,
  type LogPlace,
  type TableVersions,
} from './catalog/history.ts'
import { formatPosition } from './change.ts'
import type { Position, Source, Transaction } from './change.ts'
import type { InstanceConfig } from './config/config.ts'
import { Reading, type ReadCounts } from './counts.ts'
import { begin, continueFrom, gtidsAt, mariadbGtidsAt, readKnown, recognise } from './epoch.ts'
import type { Known, Start } from './epoch.ts'
import { SluiceError } from './errors.ts'
import { compileColumns, compileFilter } from './filter.ts'
import type { Logger } from './logger.ts'
import { Lookup } from './lookup.ts'
import { Connection } from './mysql/connection.ts'
import type { ConnectOptions } from './mysql/connection.ts'
import { sinkTypes } from './sinks/index.ts'
import type { SinkStatus } from './sinks/runner/runner.ts'
import { Sinks } from './sinks/runner/sinks.ts'
import type { SinkType } from './sinks/sink.ts'
import { SlabPool } from './slab.ts'
import type { LoadStatus } from './snapshot/load.ts'
import { waitsForGtids } from './snapshot/reader.ts'
import { Snapshots } from './snapshot/snapshots.ts'
import {
  logEnd,
  mysqlSource,
  scanStatements,
  sourceFacts,
  type ReaderThread,
  type SourceFacts,
} from './sources/index.ts'
import { State } from './store/state.ts'
import { Store } from './store/store.ts'
import type { StoreStatus } from './store/store.ts'

export type InstanceState =
  | { readonly state: 'connecting' | 'running' | 'stopped' }
  | { readonly state: 'retrying'; readonly error: Error; readonly retryAt: number }
  | { readonly state: 'failed'; readonly error: Error }
export type InstanceStatus = InstanceState & {
  readonly name: string
  readonly since: number // ms, of the last change of state
  readonly server: string // host:port
  readonly position: Position | undefined // where reading goes on
  readonly epoch: number // 0 before the source was reached for the first time
  readonly counts: ReadCounts
  readonly store: StoreStatus | undefined
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

const DOUBT_MS = 15_000

export class Instance {
  readonly name: string
  readonly config: InstanceConfig
  readonly #log: Logger
  readonly #state: State
  readonly #stop = new AbortController()
  readonly #thread: ReaderThread | undefined
  readonly #slabs = new SlabPool()
  readonly #lookup: Lookup
  #known: Known | undefined
  #store: Store | undefined
  readonly #sinkOptions: { readonly dataDir: string; readonly types: readonly SinkType[] }
  #sinks: Sinks | undefined
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
  #done: Promise<void> | undefined

  private constructor(options: InstanceOptions, state: State) {
    this.name = options.name
    this.config = options.config
    this.#log = options.log
    this.#thread = options.thread
    this.#state = state
    this.#sinkOptions = { dataDir: options.dataDir, types: options.sinkTypes ?? sinkTypes }
    this.#lookup = new Lookup(connectOptions(options.config.source))
    this.#known = readKnown(state)
    this.snapshots = this.#openSnapshots(options)
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
    const { host, port } = this.config.source
    return {
      ...this.#status,
      name: this.name,
      since: this.#since,
      server: `${host}:${port}`,
      position: this.#store?.resume,
      epoch: this.#known?.epoch ?? 0,
      counts: this.reading.counts(),
      store: this.#store?.status(),
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
        const retryable = error instanceof SluiceError && (error.retryable || this.#doubtful(error))
        if (!retryable) return this.#enter({ state: 'failed', error: asError(error) })
        const pause = this.#pause()
        this.#enter({ state: 'retrying', error, retryAt: Date.now() + pause })
        await delay(pause, undefined, { signal }).catch(() => {})
      }
    }
  }

  /** One connection's life. Returns only when `signal` aborts. */
  async #read(signal: AbortSignal): Promise<void> {
    const { config } = this
    this.#enter({ state: 'connecting' })
    this.reading.connects++
    const facts = await factsOf(connectOptions(config.source))
    if (signal.aborted) return
    this.#facts = facts
    if (config.filter.statements.dml === 'stop') requireRows(facts)
    const store = await this.#settle(facts)
    if (signal.aborted) return
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
      connect: connectOptions(config.source),
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
      // The first thing a granted dump sends: before that, "running" would be a guess.
      onFormat: () => {
        if (this.#status.state === 'connecting') this.#enter({ state: 'running' }, about)
      },
    }
    const source = this.#thread
      ? this.#thread.source({ ...main, filter })
      : mysqlSource({ ...here, ...main })
    await this.#pump(source, store, signal)
  }

  async #pump(source: Source, store: Store, signal: AbortSignal): Promise<void> {
    for await (const tx of source.read(store.resume, signal)) {
      this.reading.take(tx)
      const wait = store.append(tx, signal)
      if (wait) await this.reading.wait(wait)
      this.#failures = 0
      this.#changedSince = undefined
    }
  }

  /** Which history this is; on the very first connect also where it begins, and the store. */
  async #settle(facts: SourceFacts): Promise<Store> {
    if (this.#known && this.#store) {
      this.#known = recognise(this.#state, this.#known, facts, this.#store.resume, this.#log)
      return this.#store
    }
    const start = await this.#startPoint(facts)
    this.#stop.signal.throwIfAborted() // the state file may be closed by now
    this.#known = begin(this.#state, start, facts, this.#log)
    this.#store = this.#openStore(this.#known.origin)
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
      latest: async () => (await factsOf(connectOptions(this.config.source))).latest,
      read: (from, signal) => this.#readOwn(from, signal),
      loads: this.snapshots,
    })
    this.#sinks.start()
  }
  #openSnapshots({ name, dataDir, config, log }: InstanceOptions): Snapshots {
    return new Snapshots({
      instance: name,
      dataDir,
      state: this.#state,
      query: (sql, params) => this.#lookup.query(sql, params),
      filter: compileFilter(config.filter),
      clients: () => this.#store?.clients() ?? [],
      source: {
        connect: () => connectOptions(config.source),
        catalog: () => this.#catalog,
        end: () => logEnd(this.#lookup, this.#known!.epoch),
        serverId: () => this.#facts?.serverId ?? 0,
        waits: () => waitsForGtids(this.#facts?.version ?? ''),
        log,
      },
    })
  }
  /** A sink's target knows a later epoch than the state file, which was lost: every place we know is of that epoch. */
  #adopt(seen: Pick<Known, 'epoch' | 'server'>): boolean {
    if (!continueFrom(this.#state, this.#known!, seen, this.#log)) return false
    this.#reopen = true
    this.#connection.abort()
    return true
  }
  /** Begins anew with what the state file says. */
  async #openAgain(): Promise<void> {
    this.#reopen = false
    this.#catchUp = undefined // it reads in the old epoch
    await this.#sinks?.stop()
    await this.#store?.close()
    this.#known = readKnown(this.#state)
    this.#store = this.#openStore(this.#known!.origin)
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
  /** The `start` key; with GTIDs on, a place in the log gets the GTIDs before it, so that a fail-over can be followed. */
  async #startPoint({ executed, mariadb }: SourceFacts): Promise<Start> {
    const { start } = this.config
    if (typeof start !== 'object' || !('file' in start) || !executed) return start
    const { file, offset } = start
    const ask = mariadb ? mariadbGtidsAt : gtidsAt
    const gtids = await ask((sql, params) => this.#lookup.query(sql, params), file, offset)
    return { ...start, gtids }
  }
  #openStore(origin: Position): Store {
    return new Store({
      windowBytes: this.config.windowBytes,
      catchUpReaders: this.config.catchUpReaders,
      catchUp: (from, signal) => this.#readOwn(from, signal),
      state: this.#state,
      origin,
      log: this.#log,
      join: this.snapshots.join,
    })
  }
  #knownOrThrow(): Known {
    if (this.#known && this.#catalog) return this.#known
    throw new SluiceError('CONNECT_FAILED', `${this.name}: the source was not reached yet`)
  }
  #readOwn(from: Position, signal: AbortSignal): AsyncIterable<Transaction> {
    if (this.#catchUp) return this.#catchUp(from, signal)
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
   * and an address may lead to another server for a moment: a changed source is believed when it stays changed.
   */
  #doubtful(error: SluiceError): boolean {
    if (error.code !== 'SOURCE_CHANGED') return false
    this.#changedSince ??= Date.now()
    return Date.now() - this.#changedSince < DOUBT_MS
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
    const fields = {
      state: next.state,
      ...(resume && { position: formatPosition(resume) }),
      ...more,
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

/** Does not wait for `work` any longer once `signal` aborts: a connection attempt cannot be called off. */
async function unlessAborted(work: Promise<void>, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  const aborted = (): void => resolve()
  signal.addEventListener('abort', aborted)
  try {
    await Promise.race([work, promise])
  } finally {
    signal.removeEventListener('abort', aborted)
  }
}
const asError = (error: unknown): Error =>
  error instanceof Error ? error : new Error(String(error))
/** A SluiceError says all in its message; the stack is for our own bugs. */
function errorFields(error: Error): object {
  return error instanceof SluiceError ? { code: error.code } : { stack: error.stack }
}

/** Connects, asks what there is to know of the source, and closes. Throws what Connection.open and sourceFacts throw. */
export async function factsOf(options: ConnectOptions): Promise<SourceFacts> {
  using connection = await Connection.open(options)
  return await sourceFacts(connection)
}

/** Throws SOURCE_UNSUITABLE for a source that logs changes as statements, which say nothing of rows. */
function requireRows({ binlogFormat }: SourceFacts): void {
  if (binlogFormat === '' || binlogFormat.toUpperCase() === 'ROW') return
  const text =
    `expected binlog_format ROW on the source, got ${binlogFormat}: changes are logged as statements, without their rows. ` +
    "SET PERSIST binlog_format = 'ROW' there and let applications reconnect; or set filter.statements.dml to deliver or drop"
  throw new SluiceError('SOURCE_UNSUITABLE', text)
}

/** The catalog of a source: asks it by `lookup`, and looks through its log on a connection of its own. */
export function openCatalog(about: {
  readonly config: InstanceConfig
  readonly facts: SourceFacts
  readonly epoch: number
  readonly lookup: Lookup
  readonly log: Logger
  readonly history?: HistoryFile | undefined
}): Catalog {
  const { config, facts, epoch, lookup, log, history } = about
  const connect = connectOptions(config.source)
  return new Catalog({
    query: (sql, params) => lookup.query(sql, params),
    timeZone: parseTimeZone(config.timezone ?? facts.timeZone),
    columns: compileColumns(config.filter.columns),
    log,
    history,
    ambiguous: config.ambiguousSchema,
    end: () => logEnd(lookup, epoch),
    scan: (from, to) => {
      const options = { connect, epoch, server: facts.serverUuid, slabs: new SlabPool() }
      return scanStatements(options, from, to)
    },
  })
}

/** The state file of a destination. */
export function stateFile(dataDir: string, name: string): string {
  return join(dataDir, `${name}.sqlite`)
}

/** What a connection needs; reads the certificate files. */
export function connectOptions(source: InstanceConfig['source']): ConnectOptions {
  const { host, port, user, password, connectTimeoutMs, tls } = source
  const read = (file: string | undefined): Buffer | undefined =>
    file === undefined ? undefined : readFileSync(file)
  return {
    host,
    port,
    user,
    password,
    connectTimeoutMs,
    tls: { mode: tls.mode, ca: read(tls.ca), cert: read(tls.cert), key: read(tls.key) },
  }
}
