/**
 * What an instance has of its retained log: the writer, and reading it in the place of the source. Who needs what the log has
 * reads it there; where it ends, begins too late, or is damaged, he goes on at the source, and nothing is left out on the way.
 */
import type { Position, Source, Transaction } from '../change.ts'
import { SluiceError } from '../errors.ts'
import { compileColumns, compileFilter, type FilterOptions } from '../filter.ts'
import { comparePlaces, Track } from '../store/window.ts'
import { isDamage, logDir, type ViewOptions } from './log.ts'
import { Writer, type WriterOptions } from './writer.ts'

/** Of an instance's configuration. */
export interface RetainedConfig {
  readonly changeLog: {
    readonly enabled: boolean
    readonly maxBytes: number
    readonly maxAgeMs: number
    readonly segmentBytes: number
  }
  readonly timezone?: string | undefined
  readonly filter: FilterOptions & { readonly columns: FilterOptions }
}
export interface RetainedOptions {
  readonly instance: string
  readonly dataDir: string
  readonly config: RetainedConfig
  readonly log: WriterOptions['log']
  readonly failed: () => void
}
/** Values in the state file. */
interface Values {
  value(key: string): string | undefined
  setValue(key: string, value: string): void
}
export interface RetainedStatus {
  readonly segments: number
  readonly bytes: number
  readonly oldest: Position | undefined
  readonly newest: Position | undefined
  readonly oldestMs: number | undefined // by the source's clock
  readonly newestMs: number | undefined
  readonly gaps: number // between segments
  readonly damaged: number // segments
  readonly error: string | undefined // why nothing can be written
}

/** The filter of an instance as text: what is in the log depends on it. */
export function filterText({ include, exclude, rows, statements }: FilterOptions): string {
  return JSON.stringify({ include, exclude, rows, statements })
}
/** How the configuration of today shows what was written at any time. */
export function viewOf({ filter, timezone }: RetainedConfig): ViewOptions {
  return {
    zone: timezone,
    columns: compileColumns(filter.columns),
    filter: compileFilter(filter),
    filterText: filterText(filter),
  }
}

const STATE = 'changeLog'

export class Retained {
  readonly #writer: Writer
  readonly #view: ViewOptions
  readonly #log: WriterOptions['log']

  /** The log of an instance that keeps one; else undefined, and the state says from now on that there is a hole. */
  static open(options: RetainedOptions, state: Values): Retained | undefined {
    const was = state.value(STATE)
    if (options.config.changeLog.enabled) {
      const retained = new Retained(options)
      if (was === 'off') retained.breakOff('the log was switched off')
      if (was !== 'on') state.setValue(STATE, 'on')
      return retained
    }
    if (was === 'on') state.setValue(STATE, 'off')
    return undefined
  }
  private constructor({ instance, dataDir, config, log, failed }: RetainedOptions) {
    const { enabled: _, ...limits } = config.changeLog
    const filter = filterText(config.filter)
    this.#log = log
    this.#view = viewOf(config)
    this.#writer = new Writer(logDir(dataDir, instance), { instance, filter, limits, log, failed })
  }

  /**
   * Where the main reader goes on after a start: where the log ends, so that it has no hole. undefined where it cannot, for the
   * instance has begun anew since.
   */
  resume(origin: Position): Position | undefined {
    const { end } = this.#writer
    if (end === undefined || end.epoch < origin.epoch) return undefined
    return end
  }
  /** From here on the log joins nothing that it has. False where it did not before. */
  breakOff(why: string): boolean {
    if (this.#writer.end === undefined) return false
    this.#writer.breakOff(why)
    return true
  }
  begin(from: Position, zone: string): Promise<void> {
    return this.#writer.begin(from, zone)
  }
  /** As Writer.append. */
  append(tx: Transaction): void | Promise<void> {
    return this.#writer.append(tx)
  }
  /** Whether the log has what comes after `at`. */
  readonly covers = (at: Position): boolean => this.#writer.segments.covers(at)

  /**
   * Transactions after `from`: from the log as far as it has them, then from the source. `atSource` says that the source has
   * them too, which is asked first where the log was written under another filter, and may lack what is wanted now.
   */
  async *read(
    from: Position,
    signal: AbortSignal,
    source: { readonly read: Source['read']; readonly has: (from: Position) => boolean },
  ): AsyncGenerator<Transaction, void, undefined> {
    const track = new Track(from)
    let damage: SluiceError | undefined
    try {
      // what was read a moment ago may not be written yet
      if (this.#writer.segments.find(from) === undefined) await this.#writer.flush()
      if (this.#first(from, source.has)) {
        for await (const tx of this.#writer.segments.read(from, this.#view, signal)) {
          track.pass(tx)
          yield tx
        }
      }
    } catch (error) {
      if (!isDamage(error)) throw error
      damage = error
      this.#log.warn({ code: error.code }, `${error.message}; going on at the source`)
    }
    if (signal.aborted) return
    try {
      yield* source.read(track.position(), signal)
    } catch (error) {
      const lost = error instanceof SluiceError && error.code === 'POSITION_LOST'
      if (!lost || damage === undefined) throw error
      const text = `${damage.message}, and the source no longer has it: ${error.message}`
      throw new SluiceError('LOG_DAMAGED', text, { cause: error })
    }
  }
  #first(from: Position, atSource: (from: Position) => boolean): boolean {
    const segment = this.#writer.segments.find(from)
    if (segment === undefined) return false
    if (segment.filter === this.#view.filterText || !atSource(from)) return true
    return comparePlaces(from, segment.end) >= 0
  }

  status(): RetainedStatus {
    const { segments, error } = this.#writer
    const { list } = segments
    const times = (ms: number | undefined): number | undefined => ms || undefined
    return {
      segments: list.length,
      bytes: segments.bytes,
      oldest: list[0]?.from,
      newest: list.at(-1)?.end,
      oldestMs: times(list.find(({ firstMs }) => firstMs > 0)?.firstMs),
      newestMs: times(list.findLast(({ lastMs }) => lastMs > 0)?.lastMs),
      gaps: list.filter(({ gap }, i) => i > 0 && gap !== '').length,
      damaged:
        segments.unreadable.length + list.filter(({ damagedAt }) => damagedAt !== undefined).length,
      error: error?.message,
    }
  }
  close(): Promise<void> {
    return this.#writer.close()
  }
}
