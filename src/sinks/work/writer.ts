/**
 * Messages of the format `sluice` → one write to a sink, with what the runner uses beside the log: retries, halving, dead
 * letters, lanes. What differs: positions say nothing here, for others write other partitions, and so does the highest
 * version that was given out: that something newer is in the target is the others' work, never a fault.
 */
import type { Position } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { compileFilter } from '../../filter.ts'
import type { Logger } from '../../logger.ts'
import { RowReading } from '../formats/sluice.ts'
import type { Control } from '../letters/control.ts'
import { bury } from '../runner/bury.ts'
import { Delivery, Halted, type Counts } from '../runner/delivery.ts'
import { Lanes } from '../runner/lanes.ts'
import type { SinkConfig } from '../runner/options.ts'
import { SinkBatch, type Slice } from '../shape/batch.ts'
import { compileMapping } from '../shape/mapping.ts'
import { VERSION_MAX } from '../shape/version.ts'
import type { Sink } from '../sink.ts'
import type { Piece } from './consumer.ts'

/** Where a worker is in the log: nowhere. */
export const NOWHERE: Position = {
  epoch: 0,
  server: '',
  file: '',
  offset: 0,
  skip: 0,
  gtids: undefined,
  timestamp: 0,
}

export interface WriterOptions {
  readonly instance: string
  readonly name: string // of the sink, in dead letters
  readonly config: SinkConfig
  readonly control: Control
  readonly counts: Counts
  readonly log: Logger
  readonly troubled: (error: Error) => void
  readonly recovered: () => void
}

export class Writer {
  readonly #options: WriterOptions
  readonly #reading = new RowReading()
  readonly #target
  readonly #wanted
  constructor(options: WriterOptions) {
    const { include, exclude } = options.config.filter
    this.#options = options
    this.#target = compileMapping(options.config.tables, 'sink')
    this.#wanted = compileFilter({ include, exclude })
  }

  /**
   * False when `halt` came before everything was in the target or a dead letter; `signal` ends what is under way. Throws
   * what ends the sink's life.
   */
  async write(sink: Sink, piece: Piece, halt: AbortSignal, signal: AbortSignal): Promise<boolean> {
    const slices = this.#slices(piece)
    if (slices.length === 0) return true
    const lanes = this.#lanes(sink, halt, signal)
    try {
      const entry = lanes.open({ finish: () => {}, drop: () => {} })
      const batch = new SinkBatch({
        slices,
        start: NOWHERE,
        end: NOWHERE,
        settled: true,
        highest: VERSION_MAX,
        redelivered: true,
        target: this.#target,
      })
      await lanes.spread(entry, batch, sink.target && ((row) => sink.target!(row)))
      lanes.seal(entry)
      await lanes.idle()
      return true
    } catch (error) {
      lanes.fail(error)
      if (error instanceof Halted) return false
      throw error
    } finally {
      await lanes.quiet()
      lanes.giveBack()
    }
  }
  #lanes(sink: Sink, halt: AbortSignal, signal: AbortSignal): Lanes {
    const { config, counts, control, name, log, troubled, recovered } = this.#options
    const { deadLettersMax, parallel } = config
    const delivery = new Delivery({
      instance: '',
      name,
      sink,
      config,
      counts,
      signal,
      halt,
      troubled,
      recovered,
      bury: (row, error) => bury(control, { sink: name, deadLettersMax, log }, row, error),
    })
    const lanes = sink.target === undefined ? 1 : parallel
    return new Lanes({ delivery, lanes, depth: 1, entriesMax: 1 })
  }
  #slices({ topic, partition, messages }: Piece): Slice[] {
    const { counts, instance } = this.#options
    const slices: Slice[] = []
    for (const { value, offset } of messages) {
      if (value === null) continue // a tombstone: the delete before it has said all
      const where = `topic ${topic}, partition ${partition}, offset ${offset}`
      const { tx, change, instance: from } = this.#read(value, where)
      if (from !== instance) {
        throw new SluiceError(
          'SINK_UNSUITABLE',
          `${where}: expected a change of instance ${instance}, got one of ${from}: versions of different instances do not compare`,
        )
      }
      counts.bytes += value.length
      if (this.#wanted(change.table.database, change.table.name))
        slices.push({ tx, changes: [change] })
    }
    return slices
  }
  #read(value: Buffer, where: string): ReturnType<RowReading['read']> {
    try {
      return this.#reading.read(value.toString('utf8'))
    } catch (cause) {
      const text = `${where}: ${(cause as Error).message}; workers read topics that a kafka sink with format: sluice wrote`
      throw new SluiceError('SINK_UNSUITABLE', text, { cause })
    }
  }
}
