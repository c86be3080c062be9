/**
 * Row images: one pass over a row finds where every column begins and ends, in arrays that are used again for the next
 * row; text and values are made from there when somebody asks. Guarantees that nothing is read beyond the event, that
 * NULL and absent columns are told apart, and that bytes which do not add up stop with ROWS_MALFORMED. Knows no column
 * type: compiled columns bring their sizes and closures. Nothing is allocated per row or column.
 */
import {
  ABSENT,
  AFTER,
  BEFORE,
  type Column,
  type ImageSide,
  type JsonDiff,
  NULL,
  PRESENT,
  type RawEvent,
  type Row,
  type RowReader,
  type RowsChange,
  type Table,
  type Value,
  type ValueState,
} from '../change.ts'
import { SluiceError } from '../errors.ts'
import { Out } from '../out.ts'
import { sameBytes } from './reader.ts'
import type { JsonStyle } from './json/text.ts'
import { diffExpression, writePatched } from './json/diff.ts'
import { columnTypes } from './table-map.ts'
import { emptyRowsHeader, readRowsHeader, rowsTableId, type RowsHeader } from './rows-header.ts'
import type { Format } from './reader.ts'

export interface RowsFacts extends RawEvent {
  readonly kind: RowsChange['kind'] // of the event's type
  readonly ordinal: number
  readonly table: Table
  readonly format: Format
}

/** The rows of one binlog event, and that event: one object, for there are as many of them as events. */
export class BinlogRows implements RowsChange, RawEvent {
  readonly kind: RowsChange['kind']
  readonly ordinal: number
  readonly table: Table
  readonly bytes: Buffer
  readonly start: number
  readonly end: number
  readonly offset: number
  readonly length: number
  readonly #format: Format

  constructor(facts: RowsFacts) {
    this.kind = facts.kind
    this.ordinal = facts.ordinal
    this.table = facts.table
    this.bytes = facts.bytes
    this.start = facts.start
    this.end = facts.end
    this.offset = facts.offset
    this.length = facts.length
    this.#format = facts.format
  }
  get event(): RawEvent {
    return this
  }
  get snapshot(): boolean {
    return false
  }
  get tableId(): number {
    return rowsTableId(this.bytes, this.start, this.#format)
  }
  /** Throws SCHEMA_MISMATCH when the event has another number of columns than the table, EVENT_MALFORMED for its head. */
  reader(): RowReader {
    const { table } = this
    readRowsHeader(this.bytes, this.start, this.end, this.#format, header)
    const reader = layoutOf(table).spare.pop() ?? new ImageReader(table)
    reader.open(this, header)
    return reader
  }
  wholeRows(): number {
    const { bytes, table } = this
    readRowsHeader(bytes, this.start, this.end, this.#format, header)
    const { width, before, after } = header
    if (header.partial || width !== table.columns.length) return -1
    if (before >= 0 && !hasAll(bytes, before, width)) return -1
    if (after >= 0 && !hasAll(bytes, after, width)) return -1
    return header.rows
  }
  *rows(): Iterable<Row> {
    const reader = this.reader()
    const width = this.table.columns.length
    while (reader.next())
      yield {
        before: this.kind === 'insert' ? undefined : image(reader, BEFORE, width),
        after: this.kind === 'delete' ? undefined : image(reader, AFTER, width),
      }
  }
}

function image(reader: RowReader, side: ImageSide, width: number): (Value | undefined)[] {
  const values: (Value | undefined)[] = []
  for (let i = 0; i < width; i++) values.push(reader.value(side, i))
  return values
}

/** What all readers of one table version share. */
interface Layout {
  readonly sizes: Int32Array // Column.size
  readonly jsonColumns: number
  readonly spare: ImageReader[] // that have ended
}
/** Where the columns of the current row are, those of the before image first; an end below 0 is a mark. */
interface Places {
  readonly starts: Int32Array
  readonly ends: Int32Array
}
const NULL_MARK = -1
const ABSENT_MARK = -2
const NO_PLACES: Places = { starts: new Int32Array(0), ends: new Int32Array(0) }
const SPARE_MAX = 4
const PLACE_MAX = 0x7fffffff // what fits into Places

const layouts = new WeakMap<Table, Layout>()

function layoutOf(table: Table): Layout {
  let layout = layouts.get(table)
  if (layout === undefined) {
    const { columns } = table
    const isJson = (c: Column): boolean => c.type === columnTypes.JSON
    layout = {
      sizes: Int32Array.from(columns, (c) => c.size),
      jsonColumns: columns.filter(isJson).length,
      spare: [],
    }
    layouts.set(table, layout)
  }
  return layout
}

/** The columns in an image that does not have them all; undefined for one that has. */
function presentColumns(bytes: Buffer, bits: number, width: number): Int32Array | undefined {
  if (hasAll(bytes, bits, width)) return undefined
  const present: number[] = []
  for (let i = 0; i < width; i++) if ((bytes[bits + (i >> 3)]! >> (i & 7)) & 1) present.push(i)
  return Int32Array.from(present)
}
function hasAll(bytes: Buffer, bits: number, width: number): boolean {
  let at = bits
  let left = width
  for (; left >= 8; left -= 8) if (bytes[at++] !== 0xff) return false
  const rest = (1 << left) - 1
  return left === 0 || (bytes[at]! & rest) === rest
}

const header = emptyRowsHeader() // of the rows that are being opened
const scratch = new Out(256) // patched documents on their way to strings
const beforeText = new Out(256)
const afterText = new Out(256)

/** The value options of an after image in PARTIAL_UPDATE_ROWS (binlog_row_value_options). */
const PARTIAL_JSON = 1

/** Used again for another event of its table once `next` has said false. */
class ImageReader implements RowReader {
  readonly #columns: readonly Column[]
  readonly #layout: Layout
  readonly #own: Places
  #places = NO_PLACES
  #rows!: BinlogRows
  #bytes!: Buffer
  #at = 0
  #end = 0
  #row = -1
  #hasBefore = false
  #hasAfter = false
  #before: Int32Array | undefined // columns of the image; undefined: all
  #after: Int32Array | undefined
  #diffs: Uint8Array | undefined // by column: the after image is a list of JSON diffs

  constructor(table: Table) {
    const width = table.columns.length
    this.#columns = table.columns
    this.#layout = layoutOf(table)
    this.#own = { starts: new Int32Array(width * 2), ends: new Int32Array(width * 2) }
  }
  open(rows: BinlogRows, header: RowsHeader): void {
    const { bytes, end } = rows.event
    const width = this.#columns.length
    this.#rows = rows
    this.#bytes = bytes
    this.#at = header.rows
    this.#end = end
    this.#row = -1
    if (header.width !== width) throw this.#widthDiffers(header.width)
    if (end > PLACE_MAX) throw this.#malformed('rows', 'an event below 2 GiB', `${end}`)
    const hasBefore = (this.#hasBefore = header.before >= 0)
    const hasAfter = (this.#hasAfter = header.after >= 0)
    this.#before = hasBefore ? presentColumns(bytes, header.before, width) : undefined
    this.#after = hasAfter ? presentColumns(bytes, header.after, width) : undefined
    this.#diffs = header.partial ? new Uint8Array(width) : undefined
    const places = (this.#places = this.#own)
    if (!hasBefore || this.#before) places.ends.fill(ABSENT_MARK, 0, width)
    if (!hasAfter || this.#after) places.ends.fill(ABSENT_MARK, width)
  }

  next(): boolean {
    if (this.#at >= this.#end) {
      this.#release()
      return false
    }
    this.#row++
    const from = this.#at
    if (this.#hasBefore) this.#at = this.#scan(BEFORE, this.#before)
    if (this.#hasAfter) {
      if (this.#diffs) this.#readOptions(this.#diffs)
      this.#at = this.#scan(AFTER, this.#after)
    }
    if (this.#at === from) throw this.#malformed('rows', 'a row of at least one byte', '0')
    return true
  }
  state(side: ImageSide, column: number): ValueState {
    const end = this.#places.ends[side * this.#columns.length + column]!
    return end >= 0 ? PRESENT : end === NULL_MARK ? NULL : ABSENT
  }
  text(side: ImageSide, column: number, out: Out): void {
    const { starts, ends } = this.#places
    const i = side * this.#columns.length + column
    try {
      if (this.#diffs !== undefined && side === AFTER && this.#diffs[column] === 1)
        this.#diffText(column, out)
      else this.#columns[column]!.text(this.#bytes, starts[i]!, ends[i]!, out)
    } catch (cause) {
      throw this.#located(cause, column)
    }
  }
  utc(side: ImageSide, column: number, out: Out): void {
    const { utc } = this.#columns[column]!
    if (utc === undefined) return this.text(side, column, out)
    const { starts, ends } = this.#places
    const i = side * this.#columns.length + column
    utc(this.#bytes, starts[i]!, ends[i]!, out)
  }
  raw(side: ImageSide, column: number): Buffer | undefined {
    if (this.#diffs !== undefined && side === AFTER && this.#diffs[column] === 1) return undefined
    const { starts, ends } = this.#places
    const i = side * this.#columns.length + column
    return this.#bytes.subarray(starts[i], ends[i])
  }
  value(side: ImageSide, column: number): Value | undefined {
    const { starts, ends } = this.#places
    const i = side * this.#columns.length + column
    const end = ends[i]!
    if (!(end >= 0)) return end === NULL_MARK ? null : undefined
    try {
      if (this.#diffs !== undefined && side === AFTER && this.#diffs[column] === 1)
        return this.#diffValue(column)
      return this.#columns[column]!.value(this.#bytes, starts[i]!, end)
    } catch (cause) {
      throw this.#located(cause, column)
    }
  }
  changed(column: number): boolean {
    const { starts, ends } = this.#places
    const i = this.#columns.length + column
    const beforeEnd = ends[column]!
    const afterEnd = ends[i]!
    if (!(beforeEnd >= 0 && afterEnd >= 0)) return beforeEnd !== afterEnd
    const before = starts[column]!
    const after = starts[i]!
    const differ =
      beforeEnd - before !== afterEnd - after || bytesDiffer(this.#bytes, before, beforeEnd, after)
    if (!differ || this.#columns[column]!.type !== columnTypes.JSON) return differ
    return this.#textDiffers(column)
  }
  /** JSON that was changed in place keeps gaps: documents stored differently can still be equal. */
  #textDiffers(column: number): boolean {
    beforeText.reset()
    afterText.reset()
    this.text(BEFORE, column, beforeText)
    this.text(AFTER, column, afterText)
    const differ = beforeText.buf.compare(afterText.buf, 0, afterText.at, 0, beforeText.at) !== 0
    beforeText.shrink()
    afterText.shrink()
    return differ
  }

  /** Finds the columns of one image that begins at `#at`; returns its end. */
  #scan(side: ImageSide, present: Int32Array | undefined): number {
    const bytes = this.#bytes
    const end = this.#end
    const sizes = this.#layout.sizes
    const { starts, ends } = this.#places
    const base = side * sizes.length
    const count = present === undefined ? sizes.length : present.length
    const nulls = this.#at
    let at = nulls + ((count + 7) >> 3)
    if (at > end) throw this.#overrun(-1, at)
    for (let i = 0; i < count; i++) {
      const column = present === undefined ? i : present[i]!
      if (((bytes[nulls + (i >> 3)]! >> (i & 7)) & 1) !== 0) {
        ends[base + column] = NULL_MARK
        continue
      }
      const size = sizes[column]!
      let length = size
      if (size < 0) {
        if (at - size > end) throw this.#overrun(column, at - size)
        if (size === -1) length = bytes[at]!
        else if (size === -2) length = bytes[at]! | (bytes[at + 1]! << 8)
        else length = longLength(bytes, at, size)
        at -= size
      }
      starts[base + column] = at
      at += length
      if (at > end) throw this.#overrun(column, at)
      ends[base + column] = at
    }
    return at
  }

  /**
   * Before an after image of PARTIAL_UPDATE_ROWS:  packed value options · [bit 0 set: a bit per JSON column of the table:
   * its value is a list of diffs]
   */
  #readOptions(diffs: Uint8Array): void {
    const bytes = this.#bytes
    const at = this.#at
    diffs.fill(0)
    if (at >= this.#end) throw this.#overrun(-1, at + 1)
    const options = bytes[at]!
    if (options > PARTIAL_JSON)
      throw this.#malformed('rows', 'the value options 0 or 1', String(options))
    this.#at = at + 1
    if (options === 0) return
    const size = (this.#layout.jsonColumns + 7) >> 3
    if (at + 1 + size > this.#end) throw this.#overrun(-1, at + 1 + size)
    let bit = 0
    for (const [i, column] of this.#columns.entries())
      if (column.type === columnTypes.JSON) {
        diffs[i] = (bytes[at + 1 + (bit >> 3)]! >> (bit & 7)) & 1
        bit++
      }
    this.#at = at + 1 + size
  }
  /** The document that an after image of diffs leads to; false where there is no document before. */
  #writePatched(column: number, style: JsonStyle, out: Out): boolean {
    const { starts, ends } = this.#places
    const i = this.#columns.length + column
    const beforeEnd = ends[column]!
    if (!(beforeEnd >= 0)) return false
    const bytes = this.#bytes
    writePatched(bytes, starts[column]!, beforeEnd, starts[i]!, ends[i]!, style, out)
    return true
  }
  #expression(column: number): JsonDiff {
    const { starts, ends } = this.#places
    const i = this.#columns.length + column
    return diffExpression(this.#bytes, starts[i]!, ends[i]!, this.#columns[column]!.name)
  }
  #diffText(column: number, out: Out): void {
    if (!this.#writePatched(column, 'canal', out)) out.utf8(this.#expression(column).text)
  }
  #diffValue(column: number): Value {
    scratch.reset()
    if (!this.#writePatched(column, 'mysql', scratch)) return this.#expression(column)
    return scratch.take()
  }

  /** Gives itself back; from here on every column is absent. */
  #release(): void {
    if (this.#places === NO_PLACES) return
    if (this.#layout.spare.length < SPARE_MAX) this.#layout.spare.push(this)
    this.#places = NO_PLACES
  }

  #where(): string {
    const { table, event, ordinal } = this.#rows
    return `${table.database}.${table.name}, rows event at offset ${event.offset} (ordinal ${ordinal}), row ${this.#row}`
  }
  #malformed(what: string, expected: string, found: string): SluiceError {
    return new SluiceError(
      'ROWS_MALFORMED',
      `${this.#where()}, ${what}: expected ${expected}, found ${found}`,
    )
  }
  #overrun(column: number, at: number): SluiceError {
    const { start } = this.#rows.event
    const what = column < 0 ? 'null bits' : `column ${JSON.stringify(this.#columns[column]!.name)}`
    return this.#malformed(
      what,
      `it to end within the event's ${this.#end - start} bytes`,
      `byte ${at - start}`,
    )
  }
  #widthDiffers(width: number): SluiceError {
    const found = `the event has ${width}`
    const message = `${this.#where()}: expected the table's ${this.#columns.length} columns, ${found}`
    return new SluiceError('SCHEMA_MISMATCH', message)
  }
  /** An error of a column's closure, with the place added. */
  #located(cause: unknown, column: number): unknown {
    if (!(cause instanceof SluiceError)) return cause
    const name = JSON.stringify(this.#columns[column]!.name)
    return new SluiceError(cause.code, `${this.#where()}, column ${name}: ${cause.message}`, {
      cause,
    })
  }
}

/** Little-endian length of 3 or 4 bytes; `size` is -3 or -4. */
function longLength(bytes: Buffer, at: number, size: number): number {
  const low = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16)
  return size === -3 ? low : (low | (bytes[at + 3]! << 24)) >>> 0
}

/** Whether bytes[at, end) differ from as many bytes at `other`. */
function bytesDiffer(bytes: Buffer, at: number, end: number, other: number): boolean {
  return !sameBytes(bytes, at, bytes, other, end - at)
}
