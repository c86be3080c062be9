/**
 * What a message format is: rows and statements of the log → bytes of messages. A format is compiled per table, writes
 * straight from the row image into an `Out`, and knows nothing of where messages go: Kafka, HTTP and files use the same.
 *
 * `row` formats make one message of each row. `event` formats make one message of the rows of one binlog event, split
 * by place where the rows go to several (a partition, a topic).
 */
import * as z from 'zod'
import type { ImageSide, Transaction } from '../../change.ts'
import { formatGtid, type GtidSet } from '../../gtid.ts'
import type { Out } from '../../out.ts'
import type { Written } from '../lines/lines.ts'
import type { SinkBatch } from '../shape/batch.ts'
import type { SinkRow, TargetColumn, TargetTable } from '../shape/row.ts'
import type { SinkStatement } from '../sink.ts'

/** Settings that some formats know; the sinks that use formats have them as `formatOptions`. */
export const formatOptions = z.strictObject({
  gtid: z
    .boolean({ error: 'true or false' })
    .default(false)
    .describe("Canal's formats: whether gtid holds the set executed so far, as Canal with gtidon"),
  source: z
    .string({ error: 'a name' })
    .min(1, { error: 'a name' })
    .optional()
    .describe(
      'Logical name of the source: source.name of Debezium, source of CloudEvents; default the name of the instance',
    ),
  decimal: z
    .enum(['string', 'number'], { error: 'one of string, number' })
    .default('string')
    .describe(
      'CloudEvents: DECIMAL as text, or as a number with all its digits, which many readers round',
    ),
})
export type FormatOptions = z.output<typeof formatOptions>

export interface FormatContext {
  readonly instance: string
  readonly server: string // server_uuid of the source
  readonly options: FormatOptions
}

/** A header of a message: name and value as bytes. */
export type Header = readonly [name: Buffer, value: Buffer]

export interface Format {
  readonly name: string
  /** One sentence for the manual. */
  readonly summary: string
  /** Media type of a message's value. */
  readonly contentType: string
  /** Whether an update of the primary key comes as delete and insert. */
  readonly splitsKeys: boolean
  /** Whether messages stand in for the rows of tables, so that changes of rows which are not in the log as rows matter. */
  readonly mirrors?: boolean
  /** Whether statements belong in a topic of their own, named as the source. */
  readonly statementsApart?: boolean
  open(context: FormatContext): Encoder
}

export interface Encoder {
  /** Before the rows of one write; `now` is the wall clock in ms. */
  start(batch: SinkBatch, now: number): void
  /** `hashed`: columns of which EventEncoder.all gives the hashes. */
  table(table: TargetTable, hashed?: readonly TargetColumn[]): RowEncoder | EventEncoder
  /** Writes the message for a statement; false when the format has none for it. */
  statement(statement: SinkStatement, now: number, out: Out): boolean
}

export interface RowEncoder {
  readonly unit: 'row'
  value(row: SinkRow, out: Out): void
  /** The key that the format gives the row; undefined where it has none. */
  readonly key: ((row: SinkRow, side: ImageSide, out: Out) => void) | undefined
  /** Headers that belong to the format. */
  headers?(row: SinkRow): readonly Header[]
}

/** Gathers the rows of one event: `add` each with its place (0, 1, …), then `end`, which starts over. */
export interface EventEncoder {
  readonly unit: 'event'
  add(row: SinkRow, place: number): void
  /** Bytes gathered since the last `end`. */
  readonly bytes: number
  /** Writes one message per place, in the order the places came up; `wrote` is called after each. */
  end(out: Out, wrote: (place: number) => void): void
  /**
   * The quick way, where there is one: reads all rows of the row's change, and says what the columns that `table` was given
   * hash to: XOR of String.hashCode, as in Java. undefined where they are to be added one by one. Nothing may be gathered.
   */
  all?(first: SinkRow): Written | undefined
  /** Behind `all`, at once: writes the message of some of the rows, by their numbers in the event, ascending. */
  some?(rows: readonly number[], out: Out): void
}

/** The GTIDs executed up to and including the transaction at hand, as text: what Canal puts in `gtid`. */
export class Executed {
  #gtids: GtidSet | undefined
  #tx: Transaction | undefined
  #text = ''
  start(gtids: GtidSet | undefined): void {
    this.#gtids = gtids?.clone()
    this.#tx = undefined
  }
  text(tx: Transaction): string {
    if (tx === this.#tx) return this.#text
    this.#tx = tx
    const gtids = this.#gtids
    if (gtids === undefined) return (this.#text = '')
    if (tx.skipped) gtids.merge(tx.skipped)
    if (tx.gtid) gtids.add(tx.gtid)
    return (this.#text = gtids.toString())
  }
}

/** The transaction's own GTID, "" without one. */
export const gtidText = (tx: Transaction): string => (tx.gtid ? formatGtid(tx.gtid) : '')

/** The connection that ran the transaction; undefined where the part at hand does not begin it. */
export function threadOf(tx: Transaction): number | undefined {
  const first = tx.changes[0]
  return first?.kind === 'begin' ? first.threadId : undefined
}
/** XID of the commit; undefined where the part at hand does not end the transaction. */
export function xidOf(tx: Transaction): string | undefined {
  const last = tx.changes.at(-1)
  return last?.kind === 'commit' && !last.xa && last.xid !== '0' ? last.xid : undefined
}

export { fixed } from '../../out.ts'
