/**
 * One sink, kept going: opens it, lets it live (life.ts), and after an error tries again what may pass. What cannot pass
 * leaves this sink 'failed', visible in its status and the log, with its cursor where it was; nothing leaves the runner, and
 * other sinks and the instance go on. Pause, resume and replay come from outside. Knows the contract of a sink (sink.ts)
 * and no sink by name.
 */
import { setTimeout as delay } from 'node:timers/promises'
import {
  comparePositions,
  formatPosition,
  type Filter,
  type Position,
  type Source,
} from '../../change.ts'
import { stateChannel, told } from '../../diagnostics.ts'
import { SluiceError, withoutPasswords } from '../../errors.ts'
import { compileFilter, everything, intersect } from '../../filter.ts'
import type { Logger } from '../../logger.ts'
import type { Cursor } from '../../store/cursor.ts'
import { gapKey, movedKey, positionFromJson, type State } from '../../store/state.ts'
import type { Store } from '../../store/store.ts'
import type { Control, Letter } from '../letters/control.ts'
import { compileMapping } from '../shape/mapping.ts'
import type { SinkRow } from '../shape/row.ts'
import { rowFromText } from '../shape/stored.ts'
import { NO_VERSION, versionBefore } from '../shape/version.ts'
import type { Sink, SinkContext, SinkType } from '../sink.ts'
import { bury } from './bury.ts'
import { GivenUp, noCounts, pauseMs, type Counts } from './delivery.ts'
import { clearsTables, issuedBefore, issuedKey, Life, type Extra, type Resnapshot } from './life.ts'
import { ownOptions, type SinkConfig } from './options.ts'

/** What a sink needs of its instance. */
export interface SinkHost {
  readonly instance: string
  readonly log: Logger
  readonly state: State
  readonly store: Store
  readonly control: Control
  readonly query: SinkContext['query']
  /** Which tables the instance reads. */
  readonly filter: Filter
  /** Which history is read now. */
  readonly known: () => { readonly server: string; readonly epoch: number }
  /**
   * A target knows a later epoch: the state file was lost. Makes the instance go on in that history, which ends this sink
   * for now. False where that is not so.
   */
  readonly adopt: (seen: { readonly server: string; readonly epoch: number }) => boolean
  /** The end of the source's log now. */
  readonly latest: () => Promise<Position>
  /** A read of the source of its own. */
  readonly read: Source['read']
  /** Tables read beside the stream; none where there is no source. */
  readonly loads?: Loads | undefined
}
/** What has been, and is to be, loaded for a cursor. */
export interface Loads {
  of(client: string): { readonly state: string } | undefined
  start(
    client: string,
    options: { readonly filter: Filter; readonly clear: boolean },
  ): Promise<unknown>
  /** Reads tables once more, behind what is loaded now. Durable when it returns. */
  again(client: string, options: Resnapshot): void
}
export type SinkState =
  | { readonly state: 'connecting' | 'running' | 'paused' | 'stopped' }
  | { readonly state: 'retrying'; readonly error: Error; readonly attempts: number }
  | { readonly state: 'failed'; readonly error: Error }
export type SinkStatus = SinkState &
  Readonly<Counts> & {
    readonly name: string
    readonly type: string
    readonly since: number // ms, of the last change of state
    readonly acked: Position | undefined // everything before it is in the target
    readonly lagMs: number // of `acked` behind the newest transaction in the store
    readonly lagBytes: number // the same in bytes of log; at least, where whole files lie between
    readonly letters: number // dead letters that wait
  }

/** The name of a sink's cursor in the store. */
export const cursorName = (sink: string): string => `sink:${sink}`

const GRACE_MS = 5000 // how long a write under way may take once the sink is to end

export class SinkRunner {
  readonly name: string
  readonly config: SinkConfig
  readonly #type: SinkType
  readonly #host: SinkHost
  readonly #log: Logger
  readonly #client: string
  #status: SinkState = { state: 'stopped' }
  #since = Date.now()
  #done: Promise<void> | undefined
  #halt = new AbortController() // ends this life, gracefully
  #stopped = false
  #paused: boolean
  #again: (() => void) | undefined // a paused or failed sink waits for this
  #cursor: Cursor | undefined
  #loaded = false // `initialLoad` was looked at since the start
  #failures = 0 // lives in a row that ended before anything was written
  #troubled = 0 // writes that are being tried again
  readonly #replays: Letter[] = []
  readonly #counts = noCounts()

  constructor(name: string, config: SinkConfig, type: SinkType, host: SinkHost) {
    this.name = name
    this.config = config
    this.#type = type
    this.#host = host
    this.#log = host.log.child({ sink: name })
    this.#client = cursorName(name)
    this.#paused = host.control.paused().has(name)
  }
  get status(): SinkStatus {
    const { store, control } = this.#host
    const { cursors, last } = store.status()
    const cursor = cursors.find((c) => c.client === this.#client)
    const acked = cursor?.acked
    const about = { name: this.name, type: this.config.type, since: this.#since, acked }
    const lag = { lagMs: cursor?.lagMs ?? 0, lagBytes: acked ? bytesBetween(acked, last) : 0 }
    return { ...this.#status, ...about, ...this.#counts, ...lag, letters: control.count(this.name) }
  }
  start(): void {
    this.#done ??= this.#run()
  }
  /** Ends after the writes that are under way, or a few seconds. Idempotent; never rejects. */
  async stop(): Promise<void> {
    this.#stopped = true
    this.#wake()
    await this.#done
    if (this.#status.state !== 'stopped') this.#enter({ state: 'stopped' })
  }
  /** What the operator wants, said again and again; only a change matters. */
  pause(paused: boolean): void {
    if (paused === this.#paused) return
    this.#paused = paused
    this.#wake()
  }
  /** Ends the pause, and lets a sink that has failed try again. */
  resume(): void {
    this.#paused = false
    this.#failures = 0
    if (this.#status.state === 'failed' || this.#status.state === 'paused') this.#wake()
  }
  /** Writes a dead letter again, as soon as the sink runs. */
  replay(letter: Letter): void {
    this.#replays.push(letter)
  }
  get running(): boolean {
    return this.#status.state === 'running' || this.#status.state === 'retrying'
  }

  #wake(): void {
    this.#halt.abort()
    this.#again?.()
  }
  async #run(): Promise<void> {
    while (!this.#stopped) {
      this.#halt = new AbortController()
      this.#troubled = 0
      try {
        if (this.#paused) await this.#wait({ state: 'paused' })
        else await this.#live(this.#halt.signal)
      } catch (error) {
        if (this.#stopped) return
        await this.#failed(asError(error))
      }
    }
  }
  async #wait(state: SinkState): Promise<void> {
    this.#enter(state)
    await new Promise<void>((resolve) => {
      this.#again = resolve
      if (this.#halt.signal.aborted) resolve()
    })
    this.#again = undefined
  }
  async #failed(error: Error): Promise<void> {
    const { minMs, maxMs, attempts } = this.config.retry
    const passes = error instanceof SluiceError && error.retryable
    this.#failures++
    if (!passes || (attempts > 0 && this.#failures >= attempts)) {
      if (!(error instanceof GivenUp)) this.#counts.errors++
      return await this.#wait({ state: 'failed', error })
    }
    this.#counts.errors++
    this.#counts.retries++
    this.#retrying(error, this.#failures)
    const { signal } = this.#halt
    await delay(pauseMs(minMs, maxMs, this.#failures), undefined, { signal }).catch(() => {})
  }

  // ── a life ─────────────────────────────────────────────────────────────────

  async #live(halt: AbortSignal): Promise<void> {
    const { store } = this.#host
    if (this.#status.state !== 'retrying') this.#enter({ state: 'connecting' })
    const { include, exclude } = this.config.filter
    const filter = compileFilter({ include, exclude })
    const filterText = filter === everything ? '' : `${String(include)} - ${String(exclude)}`
    const subscription = { filter: filter === everything ? undefined : filter, filterText }
    this.#cursor = store.subscribe(this.#client, subscription)
    const hard = new AbortController()
    let sink: Sink | undefined
    let grace: NodeJS.Timeout | undefined
    const halted = (): void => {
      grace = setTimeout(() => hard.abort(), GRACE_MS)
    }
    halt.addEventListener('abort', halted)
    try {
      sink = await this.#open(this.#cursor.acked, hard.signal)
      if (halt.aborted) return
      const issued = await this.#settle(sink)
      if (issued === undefined) return await aborted(halt)
      const { resume } = sink
      if (resume !== undefined && !this.#isLost(resume))
        this.#cursor = store.subscribe(this.#client, { ...subscription, moveTo: resume })
      this.#running()
      const fresh = issued === NO_VERSION && resume === undefined && sink.seen === undefined
      await this.#initialLoad(fresh, filter, clearsTables(sink))
      const wanted = intersect(this.#host.filter, filter)
      const life = this.#life(sink, { filter: wanted, halt, signal: hard.signal, issued })
      const { rows } = this.#counts
      try {
        await life.run()
      } finally {
        if (resume !== undefined && this.#counts.rows > rows) this.#isLost(this.#cursor.acked)
      }
    } finally {
      this.#cursor.close()
      await sink?.close().catch((error: unknown) => {
        this.#log.warn({ error: withoutPasswords(String(error)) }, `sink ${this.name}: closing`)
      })
      clearTimeout(grace)
      halt.removeEventListener('abort', halted)
    }
  }
  /**
   * Whether the source no longer had what comes after it, so that this sink's cursor was moved past it. A target that was
   * seen beyond that place and is before it now was put back: then the source is asked again.
   */
  #isLost(resume: Position): boolean {
    const { state } = this.#host
    const moved = state.value(movedKey(this.#client))
    if (!moved) return false
    const to = positionFromJson(moved, `${state.path}, ${movedKey(this.#client)}`)
    if (resume.epoch < to.epoch) return true
    if (resume.epoch === to.epoch && comparePositions(resume, to) < 0) return true
    this.#arrived()
    return false
  }
  /** The target has a place behind the one that its cursor was moved to. */
  #arrived(): void {
    const { state } = this.#host
    const key = movedKey(this.#client)
    if (state.value(key)) state.setValue(key, '')
  }
  /** Begins to load what is in the tables already, as `initialLoad` says; what was begun before goes on by itself. */
  async #initialLoad(fresh: boolean, filter: Filter, clear: boolean): Promise<void> {
    const { initialLoad } = this.config
    const { loads, state } = this.#host
    const gap = gapKey(this.#client)
    if (loads !== undefined && state.value(gap) === '1') {
      await loads.start(this.#client, { filter, clear })
      state.setValue(gap, '')
      this.#loaded = true
    }
    if (initialLoad === 'none' || loads === undefined || this.#loaded) return
    const before = loads.of(this.#client)?.state
    const open = before === 'running' || before === 'paused'
    const wanted = initialLoad === 'always' ? !open : fresh && before === undefined
    if (wanted) await loads.start(this.#client, { filter, clear: false })
    this.#loaded = true
  }
  async #open(position: Position, signal: AbortSignal): Promise<Sink> {
    const { state, instance, query, known } = this.#host
    return await this.#type.open(ownOptions(this.#type, this.config), {
      instance,
      sink: this.name,
      log: this.#log,
      signal,
      fence: state.fence,
      ...known(),
      position,
      query,
      onError: this.config.onError,
    })
  }
  #life(
    sink: Sink,
    more: { filter: Filter; halt: AbortSignal; signal: AbortSignal; issued: string },
  ): Life {
    const { state, read, query, loads } = this.#host
    return new Life({
      ...more,
      resnapshot: loads && ((what) => loads.again(this.#client, what)),
      sink,
      state,
      read,
      query,
      instance: this.#host.instance,
      name: this.name,
      client: this.#client,
      config: this.config,
      cursor: this.#cursor!,
      log: this.#log,
      counts: this.#counts,
      target: compileMapping(this.config.tables, `sinks.${this.name}`),
      rowsDone: sink.resume?.row ?? 0,
      troubled: (error, attempts) => {
        if (attempts === 1) this.#troubled++
        this.#retrying(error, attempts)
      },
      recovered: () => {
        if (--this.#troubled <= 0) this.#running()
      },
      bury: (row, error) => this.#bury(row, error),
      extra: () => this.#nextReplay(),
    })
  }
  /**
   * Whether target and source are of one history. Returns the highest version that may have been given out; undefined: the
   * instance begins anew, in the target's history, and with it this sink.
   */
  async #settle(sink: Sink): Promise<string | undefined> {
    const { state, known, adopt, latest, store } = this.#host
    const local = issuedBefore(state, this.#client)
    const seen = sink.resume ?? sink.seen
    if (seen === undefined) return local
    if (adopt(seen)) return undefined
    const { resume } = sink
    const ahead = resume !== undefined && versionBefore(resume) > versionBefore(store.resume)
    if (local !== NO_VERSION && !ahead) return local
    const end = { ...(await latest()), epoch: known().epoch }
    if (
      resume !== undefined &&
      resume.epoch === end.epoch &&
      versionBefore(resume) > versionBefore(end)
    ) {
      throw new SluiceError(
        'TARGET_AHEAD',
        `the target is at ${formatPosition(resume)}, behind the end of the source's log at ${formatPosition(end)}: ` +
          `the source was restored from a backup or is another one. Expected a target that this source has written`,
      )
    }
    // Where only the local state was lost, anything up to the end of the log may have been given out before.
    const issued = versionBefore(end) > local ? versionBefore(end) : local
    state.setValue(issuedKey(this.#client), issued)
    return issued
  }

  // ── dead letters ───────────────────────────────────────────────────────────

  #bury(row: SinkRow, cause: Error): void {
    const { deadLettersMax } = this.config
    const log = this.#log
    bury(this.#host.control, { sink: this.name, deadLettersMax, log }, row, cause)
  }
  /** The next dead letter that is to be written again. */
  #nextReplay(): Extra | undefined {
    const { control } = this.#host
    for (let letter = this.#replays.shift(); letter; letter = this.#replays.shift()) {
      const { id } = letter
      if (control.letter(id) === undefined) continue
      const { tx, change } = rowFromText(letter.row)
      return {
        slices: [{ tx, changes: [change] }],
        done: (error) => this.#replayed(letter, error),
      }
    }
    return undefined
  }

  /** Whether the sink goes on. */
  #replayed(letter: Letter, error: unknown): boolean {
    const { control } = this.#host
    if (error === undefined) {
      // Where it was refused again and buried again, an attempt was added.
      if (control.letter(letter.id)?.attempts === letter.attempts) control.drop(letter.id)
      return true
    }
    const code = error instanceof SluiceError ? error.code : undefined
    if (error instanceof GivenUp || code === 'SINK_DATA') {
      control.refused(letter.id, code ?? 'SINK_DATA', withoutPasswords(asError(error).message))
      return true
    }
    this.#replays.unshift(letter)
    return false
  }

  // ── states ─────────────────────────────────────────────────────────────────

  #running(): void {
    this.#troubled = 0
    this.#failures = 0
    if (this.#status.state !== 'running') this.#enter({ state: 'running' })
  }
  /** One line in the log when it begins; what changes from attempt to attempt is in the status. */
  #retrying(error: Error, attempts: number): void {
    const next = { state: 'retrying', error, attempts } as const
    if (this.#status.state === 'retrying') this.#status = next
    else this.#enter(next)
  }
  #enter(next: SinkState): void {
    this.#status = next
    this.#since = Date.now()
    const { name } = this
    if (stateChannel.hasSubscribers) {
      const { instance } = this.#host
      const error = told('error' in next ? next.error : undefined)
      const position = this.#cursor && formatPosition(this.#cursor.acked)
      stateChannel.publish({ instance, sink: name, state: next.state, position, error })
    }
    if (next.state !== 'failed' && next.state !== 'retrying') {
      this.#log.info({ state: next.state }, `sink ${name} ${next.state}`)
    } else {
      const fields = { state: next.state, ...errorFields(next.error) }
      const message = withoutPasswords(next.error.message)
      if (next.state === 'failed') this.#log.error(fields, `sink ${name} failed: ${message}`)
      else this.#log.warn(fields, `sink ${name} tries again: ${message}`)
    }
    try {
      this.#host.control.say(name, statusText(next))
    } catch (error) {
      this.#log.warn(errorFields(asError(error)), `sink ${name}: its state cannot be written down`)
    }
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve()
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
}
function statusText(state: SinkState): object {
  return 'error' in state
    ? {
        state: state.state,
        error: withoutPasswords(state.error.message),
        ...errorFields(state.error),
      }
    : state
}
function bytesBetween(from: Position, to: Position): number {
  if (from.epoch !== to.epoch || from.file !== to.file) return to.offset
  return Math.max(0, to.offset - from.offset)
}
const asError = (error: unknown): Error =>
  error instanceof Error ? error : new Error(String(error))
function errorFields(error: Error): object {
  if (error instanceof SluiceError) return { code: error.code }
  if (error instanceof GivenUp) return errorFields(error.cause as Error)
  return { stack: withoutPasswords(error.stack ?? '') }
}
