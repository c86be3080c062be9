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
import { escapeJson } from '../shape/json.ts'
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
  table(table: TargetTable): EventEncoder {
    return new FlatTable(table, this.#shared)
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
const LIST = 0x5b
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
  #change: RowsChange | undefined
  #gtid = ''
  // What stands between data, old and the end, made again only when something of it has changed
  #headOf = { seconds: -1, gtid: '', id: -1 }
  #head = NULL_TEXT
  #tailOf = { kind: '', now: -1 }
  #tail = NULL_TEXT
  #seenChanged = true
  #typesChanged = true
  constructor(table: TargetTable, shared: Shared) {
    this.#shared = shared
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

  #begin(row: SinkRow): void {
    this.#change = row.change
    this.#gtid = this.#shared.executed.text(row.tx)
    const side = row.op === 'delete' ? BEFORE : AFTER
    for (const member of this.#members) {
      member.updated = false
      // all rows of an event have the same columns
      const seen = row.state(side, member.target) !== ABSENT
      if (seen !== member.seen) {
        member.seen = seen
        this.#seenChanged = true
        this.#typesChanged = true
      }
    }
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
        const { value, big } = sqlType
        type = big !== undefined && isBig(big.from, from, out) ? big.type : value
      } else out.constant(NULL_TEXT)
      if (type !== member.type) {
        member.type = type
        this.#typesChanged = true
      }
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
    const seconds = eventSeconds(change.event)
    const { id, now } = this.#shared
    const of = this.#headOf
    if (this.#seenChanged || of.seconds !== seconds || of.id !== id || of.gtid !== this.#gtid)
      this.#makeHead(seconds, id)
    out.constant(this.#head)
    if (old.at === 0) out.constant(NULL_TEXT)
    else {
      out.ensure(1)
      out.u8(LIST)
      appendAll(out, old)
      out.ensure(1)
      out.u8(LIST_END)
    }
    if (this.#typesChanged || this.#tailOf.kind !== change.kind || this.#tailOf.now !== now)
      this.#makeTail(change.kind, now)
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

/** Whether the digits in out.buf[from, out.at - 1) are `least` or more. */
function isBig(least: string, from: number, out: Out): boolean {
  const length = out.at - 1 - from
  if (length !== least.length) return length > least.length
  for (let i = 0; i < length; i++) {
    const digit = out.buf[from + i]! - least.charCodeAt(i)
    if (digit !== 0) return digit > 0
  }
  return true
}
