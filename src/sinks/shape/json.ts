/**
 * Values as JSON, written as bytes. One writer per column, chosen once from its type; the text of numbers, decimals and
 * dates goes from the row image to the output as it is.
 *
 *   integers, YEAR, BIT, FLOAT, DOUBLE → number (every digit of a BIGINT is written) · DECIMAL → string (or number, by
 *   option) · JSON → the document · ENUM → its label · SET → a list of labels · dates and times → string as MySQL prints
 *   it · characters → string · BINARY, VARBINARY, BLOB, GEOMETRY, VECTOR → base64 · NULL → null
 */
import {
  ABSENT,
  NULL,
  PRESENT,
  type Column,
  type ImageSide,
  type TextForm,
  type TextWriter,
  type Value,
} from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { fixed, type Constant, type Out } from '../../out.ts'
import type { SinkRow, TargetColumn, TargetTable } from './row.ts'

export interface JsonOptions {
  /** DECIMAL as a number with all its digits, which many readers round; default string. */
  readonly decimal?: 'string' | 'number' | undefined
  /** BINARY and its kin; default base64. */
  readonly binary?: 'base64' | 'hex' | undefined
}

type JsonWriter = (row: SinkRow, side: ImageSide, out: Out) => void

const BINARY_COLLATION = 63
const QUOTE = 0x22
const NULL_TEXT = fixed('null')
const HEX = '0123456789abcdef'

/** Escapes for JSON what stands in out.buf[from, out.at): UTF-8 text without quotes around it. */
export function escapeJson(out: Out, from: number): void {
  if (!out.needsEscape(from)) return
  const { buf } = out
  const end = out.at
  let more = 0
  for (let i = from; i < end; i++) {
    const b = buf[i]!
    if (b < 0x20) more += shortEscape(b) === 0 ? 5 : 1
    else if (b === QUOTE || b === 0x5c) more++
  }
  if (more > 0) spread(out, from, more)
}
/** The letter after the backslash; 0 where only \u00xx says it. */
function shortEscape(b: number): number {
  switch (b) {
    case 0x08:
      return 0x62
    case 0x09:
      return 0x74
    case 0x0a:
      return 0x6e
    case 0x0c:
      return 0x66
    case 0x0d:
      return 0x72
    default:
      return 0
  }
}
/** From the back to the front, in place. */
function spread(out: Out, from: number, more: number): void {
  let read = out.at
  out.ensure(more)
  const { buf } = out
  out.at += more
  let write = out.at
  while (read > from) {
    const b = buf[--read]!
    if (b >= 0x20 && b !== QUOTE && b !== 0x5c) {
      buf[--write] = b
      continue
    }
    const letter = b >= 0x20 ? b : shortEscape(b)
    if (letter !== 0) {
      buf[--write] = letter
      buf[--write] = 0x5c
      continue
    }
    buf[--write] = HEX.charCodeAt(b & 15)
    buf[--write] = HEX.charCodeAt(b >> 4)
    buf[--write] = 0x30
    buf[--write] = 0x30
    buf[--write] = 0x75
    buf[--write] = 0x5c
  }
}

/** A string as a JSON string. */
export function writeJsonString(text: string, out: Out): void {
  out.ensure(1)
  out.u8(QUOTE)
  const from = out.at
  out.utf8(text)
  escapeJson(out, from)
  out.ensure(1)
  out.u8(QUOTE)
}

/** MySQL type codes, include/field_types.h. */
const NUMBERS = new Set([1, 2, 3, 4, 5, 8, 9, 16])
const YEAR = 13 // its text is 0000 for the year 0, which is no number in JSON
const DECIMALS = new Set([0, 246])
const TIMES = new Set([7, 10, 11, 12, 14, 17, 18, 19])
const JSON_TYPE = 245
const ENUM = 247
const SET = 248
const BLOBS = new Set([249, 250, 251, 252])
const STRINGS = new Set([15, 253, 254])
const GEOMETRY = 255
const VECTOR = 242

/** Whether values are bytes, not text. */
export function isBinary({ type, collation }: Column): boolean {
  if (type === GEOMETRY || type === VECTOR) return true
  return (STRINGS.has(type) || BLOBS.has(type)) && collation === BINARY_COLLATION
}

/** The writer of a column's value, NULL as null. An absent column must not be asked for. */
export function jsonWriter(target: TargetColumn, options: JsonOptions = {}): JsonWriter {
  const write = valueWriter(target, options)
  return (row, side, out) => {
    if (row.state(side, target) === PRESENT) write(row, side, out)
    else out.constant(NULL_TEXT)
  }
}
/** How a value's text stands in JSON: as it is, between quotes, between quotes and with escapes, or made of its value. */
type Form = 'bare' | 'quoted' | 'escaped' | 'made'
function formOf({ column, derived }: TargetColumn, options: JsonOptions): Form {
  if (column === undefined || derived !== undefined) return 'escaped'
  const { type } = column
  if (NUMBERS.has(type)) return 'bare'
  if (DECIMALS.has(type)) return options.decimal === 'number' ? 'bare' : 'quoted'
  if (TIMES.has(type)) return 'quoted'
  const made = type === JSON_TYPE || type === ENUM || type === SET || type === YEAR
  return made || isBinary(column) ? 'made' : 'escaped'
}
function valueWriter(target: TargetColumn, options: JsonOptions): JsonWriter {
  switch (formOf(target, options)) {
    case 'bare':
      return raw(target)
    case 'made':
      return target.column!.type === JSON_TYPE ? document(target) : byValue(target, options)
    case 'quoted':
    case 'escaped':
      return quoted(target)
  }
}
const raw =
  (target: TargetColumn): JsonWriter =>
  (row, side, out) =>
    row.text(side, target, out)
/** As MySQL prints it: Canal's text has dates and opaque values inside a document in forms of its own. */
const document =
  (target: TargetColumn): JsonWriter =>
  (row, side, out) => {
    const value = row.value(side, target)
    if (typeof value === 'string') return out.utf8(value)
    const { database, name } = row.table
    throw new SluiceError(
      'SINK_UNSUITABLE',
      `${database}.${name}.${target.name} at ${row.id}: expected the whole JSON document, the log has only what changed in it; expected binlog_row_value_options without PARTIAL_JSON`,
    )
  }
const quoted =
  (target: TargetColumn): JsonWriter =>
  (row, side, out) => {
    out.ensure(1)
    out.u8(QUOTE)
    const from = out.at
    row.text(side, target, out)
    escapeJson(out, from)
    out.ensure(1)
    out.u8(QUOTE)
  }
function byValue(target: TargetColumn, options: JsonOptions): JsonWriter {
  const write = ofValue(target.column!, options)
  return (row, side, out) => write(row.value(side, target), out)
}
type ValueJson = (value: Value | undefined, out: Out) => void
function ofValue({ type }: Column, options: JsonOptions): ValueJson {
  if (type === ENUM || type === SET) return labels(type === SET)
  return (value, out) => {
    if (value instanceof Uint8Array) {
      const { buffer, byteOffset, length } = value
      const text = Buffer.from(buffer, byteOffset, length).toString(options.binary ?? 'base64')
      out.ascii(`"${text}"`)
    } else writeValue(value, out)
  }
}
/** So many different values of a column are kept ready. */
const LABELS_MAX = 256
function labels(isSet: boolean): ValueJson {
  const ready = new Map<string, Constant>()
  return (value, out) => {
    if (typeof value !== 'string') return writeValue(value, out)
    let text = ready.get(value)
    if (text === undefined) {
      text = fixed(JSON.stringify(!isSet ? value : value === '' ? [] : value.split(',')))
      if (ready.size < LABELS_MAX) ready.set(value, text)
    }
    out.constant(text)
  }
}
function writeValue(value: Value | undefined, out: Out): void {
  if (typeof value === 'string') writeJsonString(value, out)
  else if (typeof value === 'number') out.int(value) // a YEAR; or labels that are not known
  else out.constant(NULL_TEXT)
}

/** How a value gets from its bytes in the log into JSON, without a row. */
export interface ColumnJson {
  /** Written as it is, between quotes, or between quotes and with escapes. */
  readonly form: 'bare' | 'quoted' | 'escaped'
  /** What `write` does, where that has a name; a document is written as MySQL prints it. */
  readonly kind: TextForm | undefined
  readonly write: TextWriter
}
/** For compileLines: values as JsonObjectWriter writes them. */
export const jsonValues = (
  options: JsonOptions,
): {
  readonly of: (target: TargetColumn) => ColumnJson | undefined
  readonly canal: boolean
} => ({ of: (target) => columnJson(target, options), canal: false })
/** undefined for a value that the mapping makes. */
function columnJson(target: TargetColumn, options: JsonOptions): ColumnJson | undefined {
  const { column, derived } = target
  if (column === undefined || derived !== undefined) return undefined
  const form = formOf(target, options)
  if (form !== 'made') return { form, kind: column.form, write: column.text }
  const kind = column.type === JSON_TYPE ? column.form : undefined
  const write = kind === 'json' ? writeDocument : ofValue(column, options)
  return { form: 'bare', kind, write: (b, at, end, out) => write(column.value(b, at, end), out) }
}
function writeDocument(value: Value | undefined, out: Out): void {
  out.utf8(value as string)
}

/** A column, with what stands in front of its value ready to be copied: `"name":`, with the quote where there is one. */
interface Member {
  readonly target: TargetColumn
  readonly index: number // in the log; -1: the mapping makes the value
  readonly form: Form
  readonly first: Constant
  readonly next: Constant // with a comma before it
  readonly firstNull: Constant
  readonly nextNull: Constant
  readonly write: JsonWriter
}
function memberOf(target: TargetColumn, options: JsonOptions): Member {
  const { column, derived } = target
  const form = formOf(target, options)
  const name = `${JSON.stringify(target.name)}:`
  const start = form === 'quoted' || form === 'escaped' ? `${name}"` : name
  return {
    target,
    index: derived === undefined && column !== undefined ? column.index : -1,
    form,
    first: fixed(start),
    next: fixed(`,${start}`),
    firstNull: fixed(`${name}null`),
    nextNull: fixed(`,${name}null`),
    write: valueWriter(target, options),
  }
}
/** Writes one image of a row as a JSON object, absent columns left out. Compile once per table. */
export class JsonObjectWriter {
  readonly #members: readonly Member[]
  constructor(table: TargetTable, options: JsonOptions = {}, columns = table.columns) {
    this.#members = columns.map((target) => memberOf(target, options))
  }
  write(row: SinkRow, side: ImageSide, out: Out): void {
    out.ensure(1)
    out.u8(0x7b)
    this.members(row, side, out)
    out.ensure(1)
    out.u8(0x7d)
  }
  /** Without the braces; says whether there was any. With `changedOnly`, columns that differ from the other image. */
  members(row: SinkRow, side: ImageSide, out: Out, changedOnly = false): boolean {
    let any = false
    for (const member of this.#members) {
      const { target, index } = member
      const state = index < 0 ? row.state(side, target) : row.reader.state(side, index)
      if (state === ABSENT || (changedOnly && !row.changed(target))) continue
      if (state === NULL) out.constant(any ? member.nextNull : member.firstNull)
      else {
        out.constant(any ? member.next : member.first)
        writeMember(member, row, side, out)
      }
      any = true
    }
    return any
  }
}
/** A value that is there, up to its closing quote. */
function writeMember(member: Member, row: SinkRow, side: ImageSide, out: Out): void {
  const { form, index } = member
  if (form === 'made') return member.write(row, side, out)
  const from = out.at
  if (index < 0) row.text(side, member.target, out)
  else row.reader.text(side, index, out)
  if (form === 'bare') return
  if (form === 'escaped') escapeJson(out, from)
  out.ensure(1)
  out.u8(QUOTE)
}
