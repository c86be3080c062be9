/**
 * Rows with values so large that a copy of them would be felt: everything else is written, such a value becomes a span, which whoever
 * sends it writes piece by piece from where it stands in the event. Guarantees the bytes of the plain way; a test compares the two.
 * A value whose text is not made from its bytes piece by piece (JSON, character sets other than UTF-8) is written whole, in memory
 * of its own. Must not know sockets.
 */
import {
  AFTER,
  BEFORE,
  PRESENT,
  type ImageSide,
  type RowReader,
  type RowsChange,
} from '../../change.ts'
import { Out, latin1Size, varintSize } from '../../out.ts'
import { giveBack } from '../../slab.ts'
import { AFTER_TAG, BEFORE_TAG, type ColumnCodec, type TableCodec } from '../columns.ts'
import { formsOf, writeColumn } from './plain.ts'

/** Bytes that are to be written before what stands at `at`. */
export interface Span {
  readonly at: number
  readonly bytes: Buffer
  /** As they are, or as ISO-8859-1 to UTF-8. */
  readonly form: 'utf8' | 'latin1'
  readonly length: number // when written
  readonly own: boolean // nobody else holds `bytes`
}

/** From here on a value becomes a span. */
const SPAN_BYTES = 256 * 1024

/** What spans take when they are written. */
export function sizeOf(spans: readonly Span[]): number {
  return spans.reduce((sum, { length }) => sum + length, 0)
}
/** The same span in something of which it began `by` further on. */
export const moved = (span: Span, by: number): Span => ({ ...span, at: span.at + by })
/** A span was written, or never will be. */
export function letGo({ own, bytes }: Span): void {
  if (own) giveBack(bytes)
}

/** Writes RowChange.rowDatas without its spans, and notes these; returns how many rows there are. */
export function writeLargeRows(
  change: RowsChange,
  codec: TableCodec,
  out: Out,
  spans: Span[],
): number {
  const reader = change.reader()
  const { kind } = change
  const row = new Out(4096)
  let count = 0
  while (reader.next()) {
    count++
    row.reset()
    const own: Span[] = []
    const put = (side: ImageSide, column: ColumnCodec, updated: boolean): void => {
      const span = spanOf(change, reader, side, column)
      if (span === undefined) writeColumn(reader, side, column, updated, row)
      else own.push(writeAround(span, side, column, updated, row))
    }
    if (kind !== 'insert') for (const column of codec.columns) put(BEFORE, column, false)
    if (kind !== 'delete')
      for (const column of codec.columns)
        put(AFTER, column, kind === 'insert' || reader.changed(column.index))
    out.ensure(12)
    out.u8(0x62)
    out.varint(row.at + sizeOf(own))
    for (const span of own) spans.push(moved(span, out.at))
    out.bytes(row.buf, 0, row.at)
  }
  return count
}

/** A large value, at no place yet; undefined for any other. */
function spanOf(
  { table }: RowsChange,
  reader: RowReader,
  side: ImageSide,
  { index }: ColumnCodec,
): Span | undefined {
  if (reader.state(side, index) !== PRESENT) return undefined
  const bytes = reader.raw?.(side, index)
  if (bytes === undefined || bytes.length < SPAN_BYTES) return undefined
  const { form } = table.columns[index]!
  const { length } = bytes
  if (form === 'utf8') return { at: 0, bytes, form, length, own: false }
  if (form === 'latin1')
    return { at: 0, bytes, form, length: latin1Size(bytes, 0, length), own: false }
  const text = new Out(length + length / 4) // what is not written takes no memory
  reader.text(side, index, text)
  return { at: 0, bytes: text.buf.subarray(0, text.at), form: 'utf8', length: text.at, own: true }
}

/** One Column with its tag and length, but for the value; the span at its place. */
function writeAround(
  span: Span,
  side: ImageSide,
  column: ColumnCodec,
  updated: boolean,
  out: Out,
): Span {
  const { words, length } = formsOf(column, side, updated)[0]
  const head = Buffer.from(words.buffer, 2, length - 2) // without the tag and the room for a length
  const size = head.length + varintSize(span.length) + span.length + column.suffix.length
  out.ensure(16)
  out.u8(side === BEFORE ? BEFORE_TAG : AFTER_TAG)
  out.varint(size)
  out.bytes(head, 0, head.length)
  out.ensure(16)
  out.varint(span.length)
  const placed = moved(span, out.at)
  out.constant(column.suffix)
  return placed
}
