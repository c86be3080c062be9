/**
 * Canal's FlatMessage, to the letter of what Canal 1.1.8 writes (fastjson2, nulls written):
 *
 *   {"data":[{column:text|null}],"database","es","gtid","id","isDdl","mysqlType":{},"old":[{}]|null,"pkNames":[]|null,
 *    "sql","sqlType":{},"table","ts","type"}                                         keys in alphabetical order
 *
 * One message per rows event; split by place, each part keeps what was found for the whole event: `sqlType` of its last
 * row, and in `old` every column that this row or a row before it in the event has changed. All values are text.
 */
import {
  ABSENT,
  AFTER,
  BEFORE,
  PRESENT,
  eventSeconds,
  type ImageSide,
  type RowsChange,
} from '../../change.ts'
import { Out, type Constant } from '../../out.ts'
import { sqlTypeOf, type SqlType } from '../../server/columns.ts'
import { lastEnd, lastFrom, writeLines, type Written } from '../lines/lines.ts'
import { compileLines, type Kind, type LinesProgram, type Steps } from '../lines/program.ts'
import { escapeJson, type ColumnJson } from '../shape/json.ts'
import type { SinkRow, TargetColumn, TargetTable } from '../shape/row.ts'
import {
  Executed,
  fixed,
  type Encoder,
  type EventEncoder,
  type Format,
  type FormatContext,
} from './format.ts'
import type { SinkBatch } from '../shape/batch.ts'
import type { SinkStatement } from '../sink.ts'

export const canalJson: Format = {
  name: 'canal-json',
  summary: "Canal's FlatMessage: what Canal writes to a topic with canal.mq.flatMessage=true",
  contentType: 'application/json',
  splitsKeys: false,
  open: (context) => new FlatEncoder(context),
}

/** What all tables share during one write. */
interface Shared {
  id: number // Canal's batch id: counts writes
  now: number
  readonly executed: Executed
}

class FlatEncoder implements Encoder {
  readonly #gtid: boolean
  readonly #shared: Shared = { id: 0, now: 0, executed: new Executed() }
  constructor({ options }: FormatContext) {
    this.#gtid = options.gtid
  }
  start(batch: SinkBatch, now: number): void {
    this.#shared.id++
    this.#shared.now = now
    this.#shared.executed.start(this.#gtid ? batch.start.gtids : undefined)
  }
  table(table: TargetTable, hashed: readonly TargetColumn[] = []): EventEncoder {
    return new FlatTable(table, hashed, this.#shared)
  }
  statement({ tx, change, start }: SinkStatement, now: number, out: Out): boolean {
    if (change.kind !== 'ddl' && change.kind !== 'statement') return false
    const shared = this.#shared
    shared.executed.start(this.#gtid ? start.gtids : undefined)
    out.utf8(
      JSON.stringify({
        data: null,
        database: change.database,
        es: eventSeconds(change.event) * 1000,
        gtid: shared.executed.text(tx),
        id: ++shared.id,
        isDdl: change.kind === 'ddl',
        mysqlType: null,
        old: null,
        pkNames: null,
        sql: change.sql,
        sqlType: null,
        table: change.table,
        ts: now,
        type: change.type,
      }),
    )
    return true
  }
}

/** What of a column is the same in every row. */
interface Member {
  readonly target: TargetColumn
  readonly name: Constant // `"name":`
  readonly sqlType: SqlType
  readonly mysqlType: string // `"name":"int"`
  readonly escapes: boolean // whether its text may need escapes
  seen: boolean // in an image of this event
  updated: boolean // in a row of this event up to now
  type: number // sqlType of the last row
}
/** The rows of one event that go to one place. */
interface Part {
  readonly data: Out
  readonly old: Out
  place: number
}

const VARCHAR: SqlType = { value: 12, null: 12, big: undefined }
const OPEN = 0x7b
const CLOSE = 0x7d
const COMMA = 0x2c
const QUOTE = 0x22
const NULL_TEXT = fixed('null')
const DATA = fixed('{"data":[')
const OLD = fixed('[')
const LIST_END = 0x5d
/** Numbers, dates and times, ENUM and SET (numbers here): MySQL type codes, include/field_types.h. */
const PLAIN = new Set([
  0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, 246, 247, 248,
])
const types = { insert: 'INSERT', update: 'UPDATE', delete: 'DELETE' } as const

class FlatTable implements EventEncoder {
  readonly unit = 'event'
  readonly #shared: Shared
  readonly #members: readonly Member[]
  readonly #database: string
  readonly #table: string
  readonly #pkNames: string
  readonly #spare: Part[] = []
  readonly #parts: Part[] = []
  readonly #program: LinesProgram | undefined
  #change: RowsChange | undefined
  #all: { readonly change: RowsChange; readonly written: Written } | undefined
  #gtid = ''
  // What stands between data, old and the end, made again only when something of it has changed
  #headOf = { seconds: -1, gtid: '', id: -1 }
  #head = NULL_TEXT
  #tailOf = { kind: '', now: -1 }
  #tail = NULL_TEXT
  #seenChanged = true
  #typesChanged = true
  constructor(table: TargetTable, hashed: readonly TargetColumn[], shared: Shared) {
    this.#shared = shared
    this.#program = compileLines(table, { of: flatJson, canal: true }, (steps, kind) =>
      flatSteps(steps, table, hashed, kind),
    )
    this.#members = table.columns.map(memberOf)
    this.#database = JSON.stringify(table.database)
    this.#table = JSON.stringify(table.name)
    const keys = table.columns.filter((column) => column.key).map((column) => column.name)
    this.#pkNames = keys.length > 0 ? JSON.stringify(keys) : 'null'
  }
  get bytes(): number {
    let n = 0
    for (const { data, old } of this.#parts) n += data.at + old.at
    return n
  }
  add(row: SinkRow, place: number): void {
    if (this.#change === undefined) this.#begin(row)
    const part = this.#part(place)
    const { data, old } = part
    data.ensure(1)
    if (data.at > 0) data.u8(COMMA)
    if (row.op !== 'update') return this.#image(row, row.op === 'delete' ? BEFORE : AFTER, data)
    for (const member of this.#members) {
      if (!member.updated && row.changed(member.target)) member.updated = true
    }
    this.#image(row, AFTER, data)
    old.ensure(1)
    if (old.at > 0) old.u8(COMMA)
    this.#old(row, old)
  }
  end(out: Out, wrote: (place: number) => void): void {
    const change = this.#change!
    for (const part of this.#parts) {
      this.#write(change, part, out)
      wrote(part.place)
      part.data.reset()
      part.old.reset()
      this.#spare.push(part)
    }
    this.#parts.length = 0
    this.#change = undefined
  }

  all(first: SinkRow): Written | undefined {
    const { change, op } = first
    const written = this.#program && writeLines(change, this.#program, [])
    if (written === undefined) return undefined
    this.#all = { change, written }
    this.#gtid = this.#shared.executed.text(first.tx)
    const side = op === 'delete' ? BEFORE : AFTER
    for (const member of this.#members) {
      this.#see(member, true)
      this.#is(member, lastType(written, side, member))
    }
    return written
  }
  some(rows: readonly number[], out: Out): void {
    const { change, written } = this.#all!
    out.constant(DATA)
    copyRows(written, rows, change, false, out)
    this.#middle(change, out)
    if (change.kind !== 'update') out.constant(NULL_TEXT)
    else {
      out.constant(OLD)
      copyRows(written, rows, change, true, out)
      out.ensure(1)
      out.u8(LIST_END)
    }
    this.#last(change, out)
  }

  #begin(row: SinkRow): void {
    this.#change = row.change
    this.#gtid = this.#shared.executed.text(row.tx)
    const side = row.op === 'delete' ? BEFORE : AFTER
    for (const member of this.#members) {
      member.updated = false
      // all rows of an event have the same columns
      this.#see(member, row.state(side, member.target) !== ABSENT)
    }
  }
  #see(member: Member, seen: boolean): void {
    if (seen === member.seen) return
    member.seen = seen
    this.#seenChanged = true
    this.#typesChanged = true
  }
  #is(member: Member, type: number): void {
    if (type === member.type) return
    member.type = type
    this.#typesChanged = true
  }
  #part(place: number): Part {
    for (const part of this.#parts) if (part.place === place) return part
    const part = this.#spare.pop() ?? { data: new Out(1024), old: new Out(256), place }
    part.place = place
    this.#parts.push(part)
    return part
  }
  /** `{"column":"text",…}` */
  #image(row: SinkRow, side: ImageSide, out: Out): void {
    let open = OPEN
    for (const member of this.#members) {
      if (!member.seen) continue
      const { target, sqlType } = member
      out.ensure(1)
      out.u8(open)
      open = COMMA
      out.constant(member.name)
      let type = sqlType.null
      if (row.state(side, target) === PRESENT) {
        const from = writeText(row, side, member, out)
        type = typeOf(sqlType, out, from, out.at - 1)
      } else out.constant(NULL_TEXT)
      this.#is(member, type)
    }
    close(out, open === OPEN)
  }
  #old(row: SinkRow, out: Out): void {
    let open = OPEN
    for (const member of this.#members) {
      if (!member.updated) continue
      const state = row.state(BEFORE, member.target)
      if (state === ABSENT) continue
      out.ensure(1)
      out.u8(open)
      open = COMMA
      out.constant(member.name)
      if (state === PRESENT) writeText(row, BEFORE, member, out)
      else out.constant(NULL_TEXT)
    }
    close(out, open === OPEN)
  }
  #write(change: RowsChange, { data, old }: Part, out: Out): void {
    out.constant(DATA)
    appendAll(out, data)
    this.#middle(change, out)
    if (old.at === 0) out.constant(NULL_TEXT)
    else {
      out.constant(OLD)
      appendAll(out, old)
      out.ensure(1)
      out.u8(LIST_END)
    }
    this.#last(change, out)
  }
  #middle({ event }: RowsChange, out: Out): void {
    const seconds = eventSeconds(event)
    const { id } = this.#shared
    const of = this.#headOf
    if (this.#seenChanged || of.seconds !== seconds || of.id !== id || of.gtid !== this.#gtid)
      this.#makeHead(seconds, id)
    out.constant(this.#head)
  }
  #last({ kind }: RowsChange, out: Out): void {
    const { now } = this.#shared
    if (this.#typesChanged || this.#tailOf.kind !== kind || this.#tailOf.now !== now)
      this.#makeTail(kind, now)
    out.constant(this.#tail)
  }
  /** Behind data, up to the value of old. */
  #makeHead(seconds: number, id: number): void {
    const mysqlType = this.#members.filter((m) => m.seen).map((m) => m.mysqlType)
    this.#headOf = { seconds, id, gtid: this.#gtid }
    this.#seenChanged = false
    this.#head = fixed(
      `],"database":${this.#database},"es":${seconds}000,"gtid":"${this.#gtid}","id":${id},"isDdl":false,"mysqlType":{${mysqlType.join(',')}},"old":`,
    )
  }
  /** Behind old. */
  #makeTail(kind: RowsChange['kind'], now: number): void {
    const seen = this.#members.filter((m) => m.seen)
    const sqlType = seen.map((m) => `${JSON.stringify(m.target.name)}:${m.type}`)
    this.#tailOf = { kind, now }
    this.#typesChanged = false
    this.#tail = fixed(
      `,"pkNames":${this.#pkNames},"sql":"","sqlType":{${sqlType.join(',')}},"table":${this.#table},"ts":${now},"type":"${types[kind]}"}`,
    )
  }
}

function memberOf(target: TargetColumn): Member {
  const { column, derived, name } = target
  const kept = column !== undefined && derived === undefined
  return {
    target,
    name: fixed(`${JSON.stringify(name)}:`),
    sqlType: kept ? sqlTypeOf(column) : VARCHAR,
    mysqlType: JSON.stringify({ [name]: kept ? column.mysqlType : 'varchar' }).slice(1, -1),
    escapes: !kept || !PLAIN.has(column.type),
    seen: false,
    updated: false,
    type: 0,
  }
}

function close(out: Out, empty: boolean): void {
  out.ensure(2)
  if (empty) out.u8(OPEN)
  out.u8(CLOSE)
}

/** Short ones word by word, long ones by the native copy. */
function appendAll(out: Out, from: Out): void {
  if (from.at < 1024) out.append(from)
  else out.bytes(from.buf, 0, from.at)
}

/** A value's text with quotes; returns where it begins in `out`. */
function writeText(row: SinkRow, side: ImageSide, { target, escapes }: Member, out: Out): number {
  out.ensure(1)
  out.u8(QUOTE)
  const from = out.at
  row.text(side, target, out)
  if (escapes) escapeJson(out, from)
  out.ensure(1)
  out.u8(QUOTE)
  return from
}

/** The type of a value whose text is out.buf[from, to). */
function typeOf({ value, big }: SqlType, out: Out, from: number, to: number): number {
  return big !== undefined && isBig(big.from, out, from, to) ? big.type : value
}
/** Whether the digits in out.buf[from, to) are `least` or more. */
function isBig(least: string, { buf }: Out, from: number, to: number): boolean {
  const length = to - from
  if (length !== least.length) return length > least.length
  for (let i = 0; i < length; i++) {
    const digit = buf[from + i]! - least.charCodeAt(i)
    if (digit !== 0) return digit > 0
  }
  return true
}

// ── all rows of an event at once ─────────────────────────────────────────────

/** Every value is text. */
function flatJson(target: TargetColumn): ColumnJson | undefined {
  const { column, derived } = target
  if (column === undefined || derived !== undefined) return undefined
  const form = PLAIN.has(column.type) ? 'quoted' : 'escaped'
  return { form, kind: column.form, write: column.text }
}
/** A row of `data`, and behind the split one of `old`, a comma behind each. */
function flatSteps(
  steps: Steps,
  { columns }: TargetTable,
  hashed: readonly TargetColumn[],
  kind: Kind,
): void {
  const side = kind === 'delete' ? BEFORE : AFTER
  steps.hash(hashed, side).object(columns, side).literal(',').split()
  if (kind === 'update') steps.old(columns).literal(',')
}

const scratch = new Out(64)
function lastType(written: Written, side: ImageSide, { sqlType, target }: Member): number {
  const end = lastEnd(written, side, target)
  if (end < 0) return sqlType.null
  if (sqlType.big === undefined) return sqlType.value
  scratch.reset()
  target.column!.text(written.memory, lastFrom(written, side, target), end, scratch)
  return typeOf(sqlType, scratch, 0, scratch.at)
}

/** Rows by their numbers in the event, without the last comma. What follows one on another is copied at once. */
function copyRows(
  { memory, words, from, ends, splits }: Written,
  rows: readonly number[],
  { firstRow = 0 }: RowsChange,
  old: boolean,
  out: Out,
): void {
  const stops = old ? ends : splits
  let start = 0
  let stop = 0
  for (const number of rows) {
    const row = number - firstRow
    const at = old ? words[splits + row]! : row === 0 ? from : words[ends + row - 1]!
    if (at !== stop) {
      if (stop > start) out.bytes(memory, start, stop)
      start = at
    }
    stop = words[stops + row]!
  }
  out.bytes(memory, start, stop - 1)
}
