/**
 * The plain way from row images to Canal's RowData, column by column, by each column's own text: for every kind of row that the quick
 * way (kernel.ts) does not know. Rows of huge values go out in another way (large.ts), for which it writes the other columns.
 */
import {
  ABSENT,
  AFTER,
  BEFORE,
  NULL,
  type ImageSide,
  type RowReader,
  type RowsChange,
} from '../../change.ts'
import type { Out } from '../../out.ts'
import { AFTER_TAG, type Big, type ColumnCodec, type Forms, type TableCodec } from '../columns.ts'

/** RowChange.rowDatas; returns how many. */
export function writeRows(change: RowsChange, codec: TableCodec, out: Out): number {
  const reader = change.reader()
  const { kind } = change
  const { columns } = codec
  let width = codec.rowWidth
  let count = 0
  while (reader.next()) {
    count++
    out.ensure(12)
    out.u8(0x62)
    const mark = out.begin(width)
    if (kind === 'insert') {
      for (let i = 0; i < columns.length; i++) writeColumn(reader, AFTER, columns[i]!, true, out)
    } else {
      const { places } = codec
      for (let i = 0; i < columns.length; i++) {
        places[i] = out.at
        writeColumn(reader, BEFORE, columns[i]!, false, out)
      }
      places[columns.length] = out.at
      if (kind === 'update') writeAfter(reader, codec, out)
    }
    width = out.end(mark, width)
  }
  codec.rowWidth = width
  return count
}

/** The after image of an update. A column that has not changed has the bytes it has in the before image, but for its tag. */
function writeAfter(reader: RowReader, codec: TableCodec, out: Out): void {
  const { columns, places } = codec
  for (let i = 0; i < columns.length; i++) {
    const column = columns[i]!
    if (reader.changed(column.index)) writeColumn(reader, AFTER, column, true, out)
    else out.again(places[i]!, places[i + 1]!, AFTER_TAG)
  }
}

/** One Column with its tag and length; nothing when the column is absent from the image. */
export function writeColumn(
  reader: RowReader,
  side: ImageSide,
  column: ColumnCodec,
  updated: boolean,
  out: Out,
): void {
  const state = reader.state(side, column.index)
  if (state === ABSENT) return
  if (state === NULL) {
    if (side === BEFORE) return out.constant(column.nullBefore)
    return out.constant(updated ? column.nullUpdated : column.nullAfter)
  }
  const start = out.at
  const { big } = column
  writeValue(reader, side, column, formsOf(column, side, updated), out)
  if (big !== undefined && isBig(column, big, out)) {
    out.at = start
    writeValue(reader, side, column, formsOf(big, side, updated), out)
  }
}

/** The constant bytes in front of a value of this side. */
export function formsOf(of: ColumnCodec | Big, side: ImageSide, updated: boolean): Forms {
  return side === BEFORE ? of.before : updated ? of.updated : of.after
}

function writeValue(
  reader: RowReader,
  side: ImageSide,
  column: ColumnCodec,
  forms: Forms,
  out: Out,
): void {
  const { lengthWidth, valueWidth } = column
  const mark = out.at + 1 + lengthWidth
  out.constant(lengthWidth === 1 ? forms[0] : forms[1])
  const valueMark = out.begin(valueWidth)
  reader.text(side, column.index, out)
  column.valueBytes = out.at - valueMark
  column.valueWidth = out.end(valueMark, valueWidth)
  out.constant(column.suffix)
  column.lengthWidth = out.end(mark, lengthWidth) === 1 ? 1 : 2
}

/** Whether the unsigned value just written (its text stands before the suffix) is `from` or more. */
function isBig(column: ColumnCodec, big: Big, out: Out): boolean {
  const { from } = big
  if (column.valueBytes !== from.length) return column.valueBytes > from.length
  const { buf } = out
  const start = out.at - column.suffix.length - from.length
  for (let i = 0; i < from.length; i++) {
    if (buf[start + i] !== from[i]) return buf[start + i]! > from[i]!
  }
  return true
}
