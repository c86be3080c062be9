/**
 * Rules: what a row becomes in Redis. Each rule is compiled once per table version to a function that turns a row into
 * operations of the script. Whatever may be wrong with a row is found before its first operation is written, so that a
 * refused row leaves nothing behind in the call. Knows keys and values, no connection.
 */
import { ABSENT, AFTER, BEFORE, NULL, PRESENT, type ImageSide } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { compileFilter } from '../../filter.ts'
import type { Filter } from '../../change.ts'
import { Out } from '../../out.ts'
import { isBinary, JsonObjectWriter, writeJsonString } from '../shape/json.ts'
import type { SinkRow, TargetColumn, TargetTable } from '../shape/row.ts'
import { Template, type BoundTemplate } from '../shape/template.ts'
import { isSplit, markOf, readyArg } from './calls.ts'
import type { Mark, Names, Stamped, Writes } from './calls.ts'
import type { RedisOptions, RuleOptions } from './options.ts'

/** Writes one row. Throws SINK_DATA with nothing written. */
export type RowWriter = (row: SinkRow, calls: Writes) => void

/** A rule, ready for tables. */
export interface Rule {
  readonly kind: RuleOptions['kind']
  readonly options: RuleOptions
  readonly matches: Filter
  readonly keys: readonly Template[]
  readonly member: Template
}
export interface RuleContext {
  readonly names: Names
  readonly cluster: boolean
  readonly instance: string
  readonly options: Pick<RedisOptions, 'decimal' | 'binary'>
}

export function rulesOf(options: RedisOptions): readonly Rule[] {
  const prefix = options.keyPrefix.replace(/[{}]/g, '$&$&')
  return options.rules.map((rule) => ({
    kind: rule.kind,
    options: rule,
    matches: compileFilter({ include: rule.match, exclude: rule.except }),
    keys: (typeof rule.key === 'string' ? [rule.key] : rule.key).map(
      (key) => new Template(prefix + key),
    ),
    member: new Template(rule.member),
  }))
}
/** Whose version a mark is: versions of different instances never compare. */
export const ownerOf = (instance: string, database: string, table: string): string =>
  `${instance}/${database}.${table}`

/** The writer of every rule that matches the table. Throws SINK_UNSUITABLE where a rule does not fit it. */
export function writersOf(
  rules: readonly Rule[],
  table: TargetTable,
  context: RuleContext,
): readonly RowWriter[] {
  return rules
    .filter((rule) => rule.matches(table.database, table.name))
    .map((rule) => writerOf(rule, table, context))
}
function writerOf(rule: Rule, table: TargetTable, context: RuleContext): RowWriter {
  switch (rule.kind) {
    case 'string':
    case 'json':
    case 'hash':
      return documentWriter(rule, table, context)
    case 'set':
    case 'zset':
      return memberWriter(rule, table, context)
    case 'stream':
    case 'pubsub':
      return eventWriter(rule, table, context)
    case 'invalidate':
      return invalidator(rule, table)
  }
}

const scratch = new Out(4096)
const old = new Out(1024)

const where = (row: SinkRow): string => `${row.table.database}.${row.table.name} at ${row.id}`
const bad = (row: SinkRow, text: string): SluiceError =>
  new SluiceError('SINK_DATA', `${where(row)}: ${text}`)
const partial = (row: SinkRow, what: string): SluiceError =>
  bad(row, `${what} needs the whole row, but its image is partial; expected binlog_row_image=FULL`)
const ttlOf = ({ options }: Rule): string => `${options.ttlMs ?? ''}`

/** Whether a template says the same before and after an update that leaves the key columns alone. */
function isFixed(template: Template, table: TargetTable): boolean {
  return template.columns.every(
    (name) => name === 'key' || table.keys.some((column) => column.name === name),
  )
}
function columnOf(table: TargetTable, name: string, what: string): TargetColumn {
  const column = table.columns.find((c) => c.name === name)
  if (column !== undefined) return column
  throw new SluiceError(
    'SINK_UNSUITABLE',
    `${what}: no column ${name} in ${table.database}.${table.name}; it has ${table.columns.map((c) => c.name).join(', ')}`,
  )
}
function fieldsOf(rule: Rule, table: TargetTable): readonly TargetColumn[] {
  return rule.options.fields?.map((name) => columnOf(table, name, 'fields')) ?? table.columns
}

/** Where a row was and where it is now, in the target: texts that are the same after as before count as "is" alone. */
class Place {
  from: string | undefined
  to: string | undefined
  readonly #bound: BoundTemplate
  readonly #fixed: boolean
  readonly #cluster: boolean
  constructor(template: Template, fixed: boolean, table: TargetTable, cluster: boolean) {
    this.#bound = template.bind(table)
    this.#fixed = fixed
    this.#cluster = cluster
  }
  find(row: SinkRow): void {
    this.from = this.to = undefined
    if (row.op === 'insert') this.to = this.#at(row, AFTER)
    else if (row.op === 'delete') this.from = this.#at(row, BEFORE)
    else if (this.#fixed && !row.keyChanged) this.to = this.#at(row, BEFORE)
    else {
      this.from = this.#at(row, BEFORE)
      this.to = this.#at(row, AFTER)
    }
  }
  #at(row: SinkRow, side: ImageSide): string {
    const key = this.#bound(row, side)
    if (key === '') throw bad(row, 'the key is empty')
    if (this.#cluster && isSplit(key))
      throw bad(row, `key ${key}: in a cluster a key with "}" needs a hash tag, {…}`)
    return key
  }
}

// ── string, json, hash: one key is one row ───────────────────────────────────

/** What of a row goes into its key. */
interface Body {
  /** Throws SINK_DATA. */
  prepare(row: SinkRow, moved: boolean): void
  write(row: SinkRow, key: string, calls: Writes): void
}
function documentWriter(rule: Rule, table: TargetTable, context: RuleContext): RowWriter {
  const template = rule.keys[0]!
  const place = new Place(template, isFixed(template, table), table, context.cluster)
  const owner = ownerOf(context.instance, table.database, table.name)
  const body =
    rule.kind === 'hash'
      ? hashBody(rule, table, context, owner)
      : jsonBody(rule, table, context, owner)
  const remove = markOf('d', owner)
  return (row, calls) => {
    place.find(row)
    const { to } = place
    const from = place.from === to ? undefined : place.from
    if (to !== undefined) body.prepare(row, from !== undefined)
    if (from !== undefined) {
      const call = calls.of(from)
      call.begin(remove, row)
      call.pair(context.names, from)
    }
    if (to !== undefined) body.write(row, to, calls)
  }
}
function jsonBody(rule: Rule, table: TargetTable, context: RuleContext, owner: string): Body {
  const columns = fieldsOf(rule, table)
  const json = new JsonObjectWriter(table, context.options, columns)
  const mark = markOf(rule.kind === 'json' ? 'j' : 's', owner, ttlOf(rule))
  return {
    prepare(row) {
      if (!isWhole(row, columns)) throw partial(row, `a document of kind ${rule.kind}`)
      refuseDiffs(row, columns)
    },
    write(row, key, calls) {
      const call = calls.of(key)
      call.begin(mark, row)
      call.pair(context.names, key)
      scratch.reset()
      json.write(row, AFTER, scratch)
      call.out(scratch)
    },
  }
}
function hashBody(rule: Rule, table: TargetTable, context: RuleContext, owner: string): Body {
  const columns = fieldsOf(rule, table)
  const fields = columns.map((target) => ({
    target,
    name: readyArg(target.name),
    write: hashValue(target),
  }))
  const full = markOf('h', owner, ttlOf(rule), 'f')
  // where keys expire, a missing hash is a cache miss that the application mends
  const some = markOf('h', owner, ttlOf(rule), rule.options.ttlMs === undefined ? 'p' : 'q')
  let whole = true
  let pairs = 0
  let gone = 0
  return {
    prepare(row, moved) {
      pairs = gone = 0
      for (const { target } of fields) {
        const state = row.state(AFTER, target)
        if (state === PRESENT) pairs++
        else if (state === NULL) gone++
      }
      whole = pairs + gone === fields.length
      if (!whole && (moved || row.op !== 'update')) throw partial(row, 'a new hash')
      refuseDiffs(row, columns)
    },
    write(row, key, calls) {
      if (pairs + gone === 0) return
      const call = calls.of(key)
      if (!whole) call.ordered = true
      call.begin(whole ? full : some, row)
      call.pair(context.names, key)
      call.arg(`${pairs}`)
      call.arg(`${gone}`)
      for (const { target, name, write } of fields) {
        if (row.state(AFTER, target) !== PRESENT) continue
        call.ready(name)
        scratch.reset()
        write(row, scratch)
        call.out(scratch)
      }
      if (gone === 0) return
      for (const { target, name } of fields) if (row.state(AFTER, target) === NULL) call.ready(name)
    },
  }
}
const ENUM = 247
const SET = 248
const JSON_TYPE = 245
/** A value in a hash: text as MySQL prints it, labels of ENUM and SET, bytes as they are. JSON differences: refuseDiffs. */
function hashValue(target: TargetColumn): (row: SinkRow, out: Out) => void {
  const { column, derived } = target
  if (column === undefined || derived !== undefined)
    return (row, out) => row.text(AFTER, target, out)
  if (isBinary(column)) {
    return (row, out) => {
      const bytes = row.value(AFTER, target) as Uint8Array
      out.bytes(bytes, 0, bytes.length)
    }
  }
  if (column.type === ENUM || column.type === SET || column.type === JSON_TYPE)
    return (row, out) => out.utf8(`${row.value(AFTER, target) as string | number}`)
  return (row, out) => row.text(AFTER, target, out)
}
function isWhole(row: SinkRow, columns: readonly TargetColumn[]): boolean {
  for (const target of columns) if (row.state(AFTER, target) === ABSENT) return false
  return true
}
/** A JSON column that the log holds only as a difference to a value it does not hold. */
function refuseDiffs(row: SinkRow, columns: readonly TargetColumn[]): void {
  if (row.op !== 'update') return
  for (const target of columns) {
    if (target.column?.type !== JSON_TYPE || row.state(BEFORE, target) !== ABSENT) continue
    const value = row.value(AFTER, target)
    if (value !== null && typeof value === 'object' && 'kind' in value)
      throw partial(row, `column ${target.name}, logged as a JSON difference,`)
  }
}

// ── set, zset: one member is one row ─────────────────────────────────────────

function memberWriter(rule: Rule, table: TargetTable, context: RuleContext): RowWriter {
  const template = rule.keys[0]!
  const fixed = isFixed(template, table) && isFixed(rule.member, table)
  const key = new Place(template, fixed, table, context.cluster)
  const member = new Place(rule.member, fixed, table, false)
  const score =
    rule.options.score === undefined ? undefined : columnOf(table, rule.options.score, 'score')
  const owner = ownerOf(context.instance, table.database, table.name)
  const add = markOf(score === undefined ? 'a' : 'z', owner, ttlOf(rule))
  const remove = markOf(score === undefined ? 'r' : 'y', owner, ttlOf(rule))
  const begin = (row: SinkRow, calls: Writes, mark: Mark, at: string, who: string) => {
    const call = calls.of(at)
    call.begin(mark, row)
    call.pair(context.names, at)
    call.key(context.names.tombstones(at))
    call.arg(who)
    return call
  }
  return (row, calls) => {
    key.find(row)
    member.find(row)
    const stays = key.from === key.to && member.from === member.to
    const points = score === undefined || row.op === 'delete' ? '' : scoreOf(row, score)
    if (key.from !== undefined && !stays) begin(row, calls, remove, key.from, member.from!)
    // undefined: the image does not have it, because it did not change
    if (key.to === undefined || points === undefined) return
    if (points === null) begin(row, calls, remove, key.to, member.to!)
    else {
      const call = begin(row, calls, add, key.to, member.to!)
      if (score !== undefined) call.arg(points)
    }
  }
}
const DATE = /^(\d{4})-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(\.\d+)?)?$/
/** A number as text; null: the row has none and stands in no order. */
function scoreOf(row: SinkRow, column: TargetColumn): string | null | undefined {
  const text = row.string(AFTER, column)
  if (text === undefined && (row.keyChanged || row.op === 'insert'))
    throw partial(row, 'a member at a new place')
  if (text === null || text === undefined) return text
  const date = DATE.exec(text)
  if (date === null) {
    if (text !== '' && Number.isFinite(Number(text))) return text
    throw bad(
      row,
      `score: expected a number or a date in ${column.name}, found "${text.slice(0, 80)}"`,
    )
  }
  const ms = Date.parse(`${text.slice(0, 10)}T${text.slice(11, 19) || '00:00:00'}Z`)
  if (Number.isNaN(ms))
    throw bad(row, `score: ${column.name} holds no day of the calendar, ${text}`)
  return `${ms / 1000}${date[7] ?? ''}`
}

// ── stream, pubsub: one entry is one change ──────────────────────────────────

function eventWriter(rule: Rule, table: TargetTable, context: RuleContext): RowWriter {
  const bound = rule.keys[0]!.bind(table)
  const fixed = isFixed(rule.keys[0]!, table)
  const json = new JsonObjectWriter(table, context.options, fieldsOf(rule, table))
  const event = eventOf(rule, table.database, table.name, context)
  return (row, calls) => {
    const side = fixed && row.op === 'update' && !row.keyChanged ? BEFORE : row.side
    const key = bound(row, side)
    scratch.reset()
    json.write(row, row.side, scratch)
    old.reset()
    if (row.op === 'update') {
      old.ascii('{')
      json.members(row, BEFORE, old, true)
      old.ascii('}')
    }
    event(calls, row, key, row.op, scratch, old)
  }
}
type EventWriter = (
  calls: Writes,
  row: Stamped & Pick<SinkRow, 'id'>,
  key: string,
  op: string,
  data: Out,
  old: Out,
) => void
const NAMES = { op: 'op', table: 'table', id: 'id', version: 'version', data: 'data', old: 'old' }
const ready = Object.fromEntries(Object.values(NAMES).map((name) => [name, readyArg(name)]))
const message = new Out(4096)

/** Writes entries of a stream (fields) or messages of a channel (JSON). An Out without bytes is left out. */
export function eventOf(
  rule: Rule,
  database: string,
  table: string,
  context: RuleContext,
): EventWriter {
  const owner = ownerOf(context.instance, database, table)
  const name = readyArg(`${database}.${table}`)
  const publish = markOf('p', owner)
  const append = markOf('x', owner, ttlOf(rule), `${rule.options.lengthMax ?? ''}`)
  if (rule.kind === 'pubsub') {
    return (calls, row, channel, op, data, before) => {
      const call = calls.of(channel)
      call.begin(publish, row)
      call.key(context.names.version(channel))
      call.arg(channel)
      message.reset()
      message.ascii(`{"op":"${op}","table":`)
      writeJsonString(`${database}.${table}`, message)
      message.ascii(`,"id":"${row.id}","version":"${row.version}"`)
      for (const [field, out] of [['data', data] as const, ['old', before] as const]) {
        if (out.at === 0) continue
        message.ascii(`,"${field}":`)
        message.append(out)
      }
      message.ascii('}')
      call.out(message)
    }
  }
  return (calls, row, key, op, data, before) => {
    const call = calls.of(key)
    call.begin(append, row)
    call.pair(context.names, key)
    call.arg(calls.after(key, call, row.version))
    const words = 8 + (data.at > 0 ? 2 : 0) + (before.at > 0 ? 2 : 0)
    call.arg(`${words}`)
    call.ready(ready['op']!)
    call.arg(op)
    call.ready(ready['table']!)
    call.ready(name)
    call.ready(ready['id']!)
    call.arg(row.id)
    call.ready(ready['version']!)
    call.arg(row.version)
    for (const [field, out] of [['data', data] as const, ['old', before] as const]) {
      if (out.at === 0) continue
      call.ready(ready[field]!)
      call.out(out)
    }
  }
}

// ── invalidate ───────────────────────────────────────────────────────────────

function invalidator(rule: Rule, table: TargetTable): RowWriter {
  const places = rule.keys.map(
    (template) => new Place(template, isFixed(template, table), table, false),
  )
  return (row, calls) => {
    for (const place of places) place.find(row)
    for (const { from, to } of places) {
      if (from !== undefined) calls.invalid.add(from)
      if (to !== undefined) calls.invalid.add(to)
    }
  }
}
