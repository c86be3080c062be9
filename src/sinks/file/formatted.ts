/**
 * Lines in one of the message formats, as they stand in Kafka topics: a message a line. A row that the primary key was changed
 * of is one line or two, as the format has it. Event formats gather the rows of one binlog event in a line.
 */
import type { RowsChange } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { Out } from '../../out.ts'
import type { Encoder, EventEncoder, Format, FormatContext, RowEncoder } from '../formats/format.ts'
import type { SinkBatch } from '../shape/batch.ts'
import type { SinkRow, TargetTable } from '../shape/row.ts'
import { perTable, type RowFailure, type Sink, type SinkStatement } from '../sink.ts'
import { Ahead } from './ahead.ts'
import type { Lines } from './lines.ts'

const NEWLINE = 0x0a

export class FormattedLines implements Sink {
  readonly promise = 'append'
  readonly splitsKeys: boolean
  /** An encoder gathers: two writes would meet in it. */
  readonly inFlight = 1
  readonly #lines: Lines
  readonly #ahead: Ahead
  readonly #encoder: Encoder
  readonly #table: (table: TargetTable) => RowEncoder | EventEncoder
  readonly #lineBytesMax: number
  #event: EventEncoder | undefined // that has rows
  #change: RowsChange | undefined // that they are of
  #rows: SinkRowPlace[] = []

  constructor(lines: Lines, format: Format, context: FormatContext, lineBytesMax = Infinity) {
    this.#lines = lines
    this.#ahead = new Ahead(lines)
    this.splitsKeys = format.splitsKeys
    this.#encoder = format.open(context)
    this.#table = perTable((table) => this.#encoder.table(table))
    this.#lineBytesMax = lineBytesMax
  }
  async write(batch: SinkBatch, signal: AbortSignal): Promise<readonly RowFailure[]> {
    const failures: RowFailure[] = []
    await this.#ahead.run(signal, async (write) => {
      this.#forget() // of a write that failed
      this.#encoder.start(batch, Date.now())
      for (const row of batch.rows(this.splitsKeys)) {
        if (this.#event !== undefined && row.change !== this.#change)
          this.#endEvent(write.out, failures)
        if (this.#event === undefined && write.isFull) await write.full()
        const encoder = this.#table(row.table)
        if (encoder.unit === 'row') {
          const from = write.out.at
          encoder.value(row, write.out)
          this.#endLine(write.out, from, [placeOf(row)], failures)
          continue
        }
        this.#event = encoder
        this.#change = row.change
        this.#rows.push(placeOf(row))
        encoder.add(row, 0)
      }
      if (this.#event !== undefined) this.#endEvent(write.out, failures)
    })
    return failures
  }
  async statement(statement: SinkStatement, signal: AbortSignal): Promise<void> {
    await this.#ahead.run(signal, ({ out }) => {
      if (this.#encoder.statement(statement, Date.now(), out)) newline(out)
      return Promise.resolve()
    })
  }
  async close(): Promise<void> {
    await this.#lines.close()
  }

  #endEvent(out: Out, failures: RowFailure[]): void {
    const from = out.at
    this.#event!.end(out, () => {})
    this.#endLine(out, from, this.#rows, failures)
    this.#event = undefined
    this.#rows = []
  }
  #endLine(out: Out, from: number, rows: SinkRowPlace[], failures: RowFailure[]): void {
    newline(out)
    const length = out.at - from
    if (length <= this.#lineBytesMax) return
    out.at = from
    for (const { index, name } of rows) {
      const expected = `expected a line of at most ${this.#lineBytesMax} bytes (lineBytesMax)`
      const error = new SluiceError('SINK_DATA', `${name}: ${expected}, got ${length}`)
      failures.push({ index, error, retryable: false })
    }
  }
  #forget(): void {
    this.#event?.end(new Out(64), () => {})
    this.#event = undefined
    this.#rows = []
  }
}

/** What a message of a row names. */
interface SinkRowPlace {
  readonly index: number
  readonly name: string
}
const placeOf = ({ index, table, id }: SinkRow): SinkRowPlace => ({
  index,
  name: `${table.database}.${table.name} at ${id}`,
})
function newline(out: Out): void {
  out.ensure(1)
  out.u8(NEWLINE)
}
