/**
 * Canal's protobuf messages (canal.mq.flatMessage=false): the value is one CanalPacket without its length, type MESSAGES,
 * with one Entry: the rows of one event that go to one place. The entries are those of the Canal port (server/entry.ts).
 *
 *   10 01 (version) · 18 07 (MESSAGES) · 2A length ( 12 length Entry )          batch_id is not set, as in Canal
 *
 * A mapping may leave columns out and rename them; values that it makes have no place in an Entry.
 */
import type { Column, ImageSide, RowReader, RowsChange, Table, Value } from '../../change.ts'
import type { ValueState } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { Out } from '../../out.ts'
import { EntryEncoder } from '../../server/entry.ts'
import type { SinkBatch } from '../shape/batch.ts'
import type { SinkRow, TargetTable } from '../shape/row.ts'
import type { SinkStatement } from '../sink.ts'
import type { Encoder, EventEncoder, Format, FormatContext } from './format.ts'

export const canalProtobuf: Format = {
  name: 'canal-protobuf',
  summary: "Canal's protobuf packets: what Canal writes to a topic with canal.mq.flatMessage=false",
  contentType: 'application/x-protobuf',
  splitsKeys: false,
  open: (context) => new PacketEncoder(context),
}

class PacketEncoder implements Encoder {
  readonly #entries: EntryEncoder
  readonly #gtid: boolean
  readonly #scratch = new Out(4096)
  constructor({ options }: FormatContext) {
    this.#gtid = options.gtid
    this.#entries = new EntryEncoder({ gtid: options.gtid })
  }
  start(batch: SinkBatch): void {
    this.#entries.start(this.#gtid ? batch.start.gtids : undefined)
  }
  table(table: TargetTable): EventEncoder {
    return new PacketTable(this.#entries, entryTable(table), this.#scratch)
  }
  statement({ tx, change, start }: SinkStatement, _now: number, out: Out): boolean {
    this.#entries.start(this.#gtid ? start.gtids : undefined)
    this.#entries.part(tx)
    const scratch = this.#scratch
    scratch.reset()
    this.#entries.encode(change, scratch)
    packet(scratch, out)
    return true
  }
}

interface Part {
  readonly rows: number[] // of the event, ascending
  place: number
}

class PacketTable implements EventEncoder {
  readonly unit = 'event'
  readonly #entries: EntryEncoder
  readonly #table: Table
  readonly #scratch: Out
  readonly #reader = new SomeRows()
  #parts: Part[] = []
  #row: { readonly tx: SinkRow['tx']; readonly change: RowsChange } | undefined
  constructor(entries: EntryEncoder, table: Table, scratch: Out) {
    this.#entries = entries
    this.#table = table
    this.#scratch = scratch
  }
  /** About: what the event has in the log. */
  get bytes(): number {
    return this.#row ? this.#row.change.event.length : 0
  }
  add(row: SinkRow, place: number): void {
    this.#row ??= { tx: row.tx, change: row.change }
    let part = this.#parts.find((p) => p.place === place)
    if (part === undefined) this.#parts.push((part = { rows: [], place }))
    part.rows.push(row.row)
  }
  end(out: Out, wrote: (place: number) => void): void {
    const { tx, change } = this.#row!
    this.#entries.part(tx)
    for (const { rows, place } of this.#parts) {
      const scratch = this.#scratch
      scratch.reset()
      const reader = (): RowReader => this.#reader.over(change, rows)
      const { kind, ordinal, event, tableId, snapshot } = change
      this.#entries.encode(
        {
          kind,
          ordinal,
          event,
          tableId,
          snapshot,
          table: this.#table,
          reader,
          rows: () => change.rows(),
        },
        scratch,
      )
      packet(scratch, out)
      wrote(place)
    }
    this.#parts = []
    this.#row = undefined
  }
}

/** A packet around one entry that has its tag and length already. */
function packet(entry: Out, out: Out): void {
  out.ensure(16)
  out.u8(0x10)
  out.u8(1)
  out.u8(0x18)
  out.u8(7)
  out.u8(0x2a)
  out.varint(entry.at)
  out.bytes(entry.buf, 0, entry.at)
}
/** The table with the columns and names of the mapping. Throws SINK_UNSUITABLE where it makes values. */
function entryTable(target: TargetTable): Table {
  const { source } = target
  const selected = target.columns.map(({ name, column, derived }): Column => {
    if (column === undefined || derived !== undefined) {
      throw new SluiceError(
        'SINK_UNSUITABLE',
        `${target.database}.${target.name}: format canal-protobuf expected columns of the log, but the mapping makes the value of ${name}; use canal-json`,
      )
    }
    return name === column.name ? column : { ...column, name }
  })
  return { ...source, database: target.database, name: target.name, selected }
}

/** Some rows of a reader, by their number. */
class SomeRows implements RowReader {
  #reader!: RowReader
  #rows: readonly number[] = []
  #at = 0
  #row = -1
  over(change: RowsChange, rows: readonly number[]): this {
    this.#reader = change.reader()
    this.#rows = rows
    this.#at = 0
    this.#row = (change.firstRow ?? 0) - 1
    return this
  }
  next(): boolean {
    const wanted = this.#rows[this.#at++]
    if (wanted === undefined) {
      while (this.#reader.next()); // to its end, so that it is free again
      return false
    }
    while (this.#row < wanted) {
      if (!this.#reader.next()) return false
      this.#row++
    }
    return true
  }
  state(side: ImageSide, column: number): ValueState {
    return this.#reader.state(side, column)
  }
  text(side: ImageSide, column: number, out: Out): void {
    this.#reader.text(side, column, out)
  }
  utc(side: ImageSide, column: number, out: Out): void {
    this.#reader.utc(side, column, out)
  }
  value(side: ImageSide, column: number): Value | undefined {
    return this.#reader.value(side, column)
  }
  changed(column: number): boolean {
    return this.#reader.changed(column)
  }
}
