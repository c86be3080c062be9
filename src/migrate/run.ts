/**
 * A migration from beginning to end: plan, schema, load beside the stream, indexes, stream until the cut-over (cutover.ts).
 * Each phase is durable when the next begins, and can be done again: whoever was interrupted, however, starts the same
 * command and goes on. The load and the stream are an instance with an SQL sink that writes exactly once; while indexes are
 * made it rests, so that it meets the new unique ones with its eyes open.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { instanceOf } from '../config/config.ts'
import { comparePositions } from '../change.ts'
import type { LogPlace } from '../catalog/history.ts'
import { SluiceError } from '../errors.ts'
import { Instance } from '../instance.ts'
import type { SinkConfig } from '../sinks/runner/options.ts'
import type { SinkStatus } from '../sinks/runner/runner.ts'
import type { LoadStatus } from '../snapshot/load.ts'
import { ReaderThread } from '../sources/index.ts'
import { cutOver, hints, noter } from './end/cutover.ts'
import { Folder, remembered, type MigrateOptions } from './options.ts'
import type { Host, Outcome, Parts, Stream } from './parts.ts'
import { failures, makePlan } from './plan.ts'
import { cascades, keyRules, nameOf, type Inventory, type SourceTable } from './schema/inventory.ts'
import { filterOf, Source, sourceOf } from './source.ts'
import { Target } from './target.ts'

const SINK = 'target'
const CLIENT = `sink:${SINK}`
const LOOK_MS = 200
const TELL_MS = 1000

/** Throws what servers answer, STATE_LOCKED, USAGE for a folder of another migration, and what stops the sink. */
export async function migrate(options: MigrateOptions, host: Host): Promise<Outcome> {
  const source = new Source(options.from, options.wanted)
  let target: Target | undefined
  try {
    target = await Target.open(options.to)
    const before = remembered(options.dir)
    const inventory = await source.inventory()
    const plan = await makePlan(source, target, { inventory, options, before })
    host.report({ event: 'plan', plan, phase: before?.phase ?? 'schema' })
    if (failures(plan).length > 0 && before?.phase !== 'done') return 'unfit'
    if (options.dryRun) return 'planned'
    const folder = Folder.open(options)
    try {
      return await new Migration({ options, host, source, target, folder }).run(inventory)
    } finally {
      folder.close()
    }
  } finally {
    source.close()
    await target?.close()
  }
}

class Migration implements Stream {
  readonly #parts: Parts
  readonly #thread = new ReaderThread()
  #instance: Instance | undefined
  #told = { at: 0, rows: 0, text: '' }
  #expected = { rows: 0 }

  constructor(parts: Parts) {
    this.#parts = parts
  }
  async run(inventory: Inventory): Promise<Outcome> {
    const { folder, host } = this.#parts
    this.#expected = { rows: inventory.tables.reduce((sum, table) => sum + table.rows, 0) }
    try {
      while (!host.signal.aborted) {
        const { phase } = folder.now
        if (phase === 'schema') await this.#schema()
        else if (phase === 'load') await this.#load()
        else if (phase === 'indexes') await this.#indexes()
        else if (phase === 'done') return await hints(this.#parts)
        else {
          const outcome = await this.#stream()
          if (outcome !== undefined) return outcome
        }
      }
      return 'stopped'
    } finally {
      await this.rest()
      await this.#thread.close()
    }
  }

  // ── the schema ─────────────────────────────────────────────────────────────

  async #schema(): Promise<void> {
    const { folder, source, target } = this.#parts
    this.#phase('making databases and tables')
    for (const name of folder.now.made) await target.drop(name)
    const { inventory, place } = await source.definitionsAt()
    await target.makeDatabases(inventory.databases)
    const missing: SourceTable[] = []
    for (const table of inventory.tables) {
      const there = await target.holds(table)
      if (there === 'rows') {
        const text = `${target.where}: expected ${nameOf(table)} empty or not there, found rows in it`
        throw new SluiceError('SINK_UNSUITABLE', text)
      }
      if (there === undefined) missing.push(table)
    }
    // Before they are there: what a crash leaves is made anew.
    folder.update({ made: missing.map(nameOf) })
    for (const table of missing) await target.make(table)
    folder.update({ phase: 'load', start: place })
  }

  // ── the instance ───────────────────────────────────────────────────────────

  async #instanceOf(unlogged: Unlogged): Promise<Instance> {
    const { options, host, folder, source, target } = this.#parts
    const { start, id } = folder.now
    const { file, offset } = start!
    const { tables } = await source.inventory()
    const config = instanceOf(id, {
      source: sourceOf(options.from),
      start: { file, offset },
      filter: filterOf(options.wanted),
      sinks: {
        [SINK]: {
          type: 'sql',
          url: target.sinkUrl,
          ...(options.to.tls !== undefined && { tls: options.to.tls }),
          ...(options.to.ca !== undefined && { ca: options.to.ca }),
          initialLoad: 'ifEmpty',
          ddl: options.ddl,
          createTables: target.kind === 'postgres',
          nul: options.removeNul ? 'remove' : 'error',
          unloggedChange: unlogged,
          tables: keyRules(tables),
          batch: { bytes: '4MiB' },
        },
      },
    })
    const log = host.log.child({ instance: id })
    return Instance.open({ name: id, config, dataDir: folder.dir, log, thread: this.#thread })
  }
  async #start(unlogged: Unlogged): Promise<Instance> {
    if (this.#instance !== undefined) return this.#instance
    const instance = await this.#instanceOf(unlogged)
    this.#instance = instance
    this.#told = { at: Date.now(), rows: 0, text: '' }
    instance.start()
    return instance
  }
  async rest(): Promise<void> {
    const instance = this.#instance
    this.#instance = undefined
    await instance?.stop()
  }
  /** Looks again and again until `over` says so; false: stopped before. Throws what has stopped the instance or its sink. */
  async #until(over: (now: Now) => boolean | Promise<boolean>): Promise<boolean> {
    const { signal } = this.#parts.host
    for (;;) {
      const now = this.#now()
      this.#tell(now)
      if (await over(now)) return true
      await sleep(LOOK_MS, undefined, { signal }).catch(() => undefined)
      if (signal.aborted) return false
    }
  }
  #now(): Now {
    const { status } = this.#instance!
    const sink = status.sinks.find(({ name }) => name === SINK)
    if (status.state === 'failed') throw status.error
    if (sink?.state === 'failed') throw sink.error
    const trouble =
      status.state === 'retrying'
        ? status.error
        : sink?.state === 'retrying'
          ? sink.error
          : undefined
    return { load: status.snapshots.find(({ client }) => client === CLIENT), sink, trouble }
  }
  /** Whether the target has everything up to a place in the source's log. */
  #has({ sink }: Now, { file, offset }: Pick<LogPlace, 'file' | 'offset'>): boolean {
    const acked = sink?.acked
    return acked !== undefined && comparePositions(acked, { file, offset, skip: 0 }) >= 0
  }
  async caughtUp(): Promise<boolean> {
    let end: LogPlace | undefined
    return await this.#until(async (now) => {
      if (now.sink === undefined) return false
      end ??= await this.#end()
      return end !== undefined && this.#has(now, end)
    })
  }
  async passed(place: Pick<LogPlace, 'file' | 'offset'>): Promise<void> {
    if (await this.#until((now) => this.#has(now, place))) return
    throw new SluiceError('CURSOR_CLOSED', 'the migration was stopped')
  }
  /** undefined while the source cannot be asked. */
  async #end(): Promise<LogPlace | undefined> {
    try {
      return await this.#instance!.sourceEnd()
    } catch (error) {
      if (error instanceof SluiceError && error.retryable) return undefined
      throw error
    }
  }
  get sink(): SinkConfig {
    return this.#instance!.config.sinks[SINK]!
  }
  get written(): number {
    return this.#now().sink?.rows ?? 0
  }

  // ── the phases ─────────────────────────────────────────────────────────────

  async #load(): Promise<void> {
    const { folder, options } = this.#parts
    this.#phase('loading tables, with the stream beside')
    for (;;) {
      // Without foreign keys in the target, rows that go with their parents are read again.
      const instance = await this.#start(options.ddl === 'apply' ? 'resnapshot' : 'stop')
      const over = await this.#until(({ load }) => {
        if (load?.state === 'cancelled' || (load?.skipped.length ?? 0) > 0) throw leftOut(load!)
        return load?.state === 'done'
      })
      // Indexes are made of definitions as they are then: the target must have them.
      if (!over || !(await this.caughtUp())) return
      await this.rest()
      // Meanwhile something may have to be read again.
      const load = instance.status.snapshots.find(({ client }) => client === CLIENT)
      if (load?.state === 'done') break
    }
    folder.update({ phase: 'indexes' })
  }
  async #indexes(): Promise<void> {
    const { folder, source, target } = this.#parts
    await this.rest()
    this.#phase('making indexes; the stream waits')
    const { tables } = await source.inventory()
    try {
      for (const table of tables) {
        if (this.#parts.host.signal.aborted) return
        if ((await target.holds(table)) === undefined) continue // made by the stream before long
        const note = noter(this.#parts, table)
        await target.makeIndexes(table, note)
        if (cascades(table)) await target.makeForeignKeys(table, note)
      }
    } catch (error) {
      // Perhaps of a column that has come since: the stream goes on before the next try.
      folder.update({ phase: 'load' })
      throw error
    }
    folder.update({ phase: 'stream' })
  }
  async #stream(): Promise<Outcome | undefined> {
    const { folder, options, source } = this.#parts
    this.#phase('streaming')
    if (folder.now.phase === 'stream') {
      const { tables } = await source.inventory()
      await this.#start(tables.some(cascades) ? 'ignore' : 'stop')
      if (!(await this.caughtUp())) return 'stopped'
      this.#parts.host.report({ event: 'inStep', text: 'the target is in step with the source' })
      const asked = await this.#until(() => options.cutOver || folder.ordered)
      if (!asked) return 'stopped'
    }
    return await cutOver(this, this.#parts)
  }

  // ── what is told ───────────────────────────────────────────────────────────

  #phase(text: string): void {
    const { host, folder } = this.#parts
    host.report({ event: 'phase', phase: folder.now.phase, text })
  }
  #tell({ load, sink, trouble }: Now): void {
    const { host, folder } = this.#parts
    const text = trouble?.message ?? ''
    if (text !== '' && text !== this.#told.text) {
      const code = trouble instanceof SluiceError ? trouble.code : ''
      host.report({ event: 'trouble', code, text })
    }
    const at = Date.now()
    const ms = at - this.#told.at
    if (ms < TELL_MS) {
      this.#told = { ...this.#told, text }
      return
    }
    const streamed = sink?.rows ?? 0
    const rowsPerSecond = Math.round(((streamed - this.#told.rows) * 1000) / ms)
    const rows = load?.rows ?? 0
    const left = Math.max(0, this.#expected.rows - rows)
    const loading = folder.now.phase === 'load'
    host.report({
      event: 'progress',
      phase: folder.now.phase,
      table: load?.table ?? null,
      tables: load?.tables ?? 0,
      tablesDone: load?.done ?? 0,
      rows,
      rowsExpected: this.#expected.rows,
      rowsPerSecond,
      secondsLeft: loading && rowsPerSecond > 0 ? Math.ceil(left / rowsPerSecond) : null,
      streamed,
      lagMs: sink?.lagMs ?? 0,
      lagBytes: sink?.lagBytes ?? 0,
    })
    this.#told = { at, rows: streamed, text }
  }
}
type Unlogged = 'stop' | 'ignore' | 'resnapshot'
interface Now {
  readonly load: LoadStatus | undefined
  readonly sink: SinkStatus | undefined
  readonly trouble: Error | undefined
}

function leftOut({ state, skipped }: LoadStatus): SluiceError {
  const text =
    state === 'cancelled'
      ? 'the load was cancelled'
      : `expected every table to be loaded; left out: ${skipped.map(({ table, why }) => `${table}: ${why}`).join('; ')}`
  return new SluiceError(
    'SOURCE_UNSUITABLE',
    `${text}. Put it right or --exclude it, and begin anew with another --dir`,
  )
}
