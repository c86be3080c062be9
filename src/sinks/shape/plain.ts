/**
 * The plain form of a change: one JSON object that says everything Sluice knows of it, written as bytes. One line of a file,
 * or the data of an event. Knows no target.
 *
 *   {"kind":"row","op":"update","database":"shop","table":"users","key":{"id":1},"before":{…},"after":{…},
 *    "version":"…40 digits…","id":"uuid:17/3.0","position":"binlog.000003:4567","ts":1790000000000}
 *   {"kind":"statement","type":"TRUNCATE","database":"shop","table":"users","sql":"…","version":…,"id":…,"position":…,"ts":…}
 *
 * before is null for an insert, after for a delete, key where the table has none. Values are those of json.ts; a column
 * that the log does not hold (binlog_row_image other than FULL) is left out.
 */
import { ABSENT, AFTER, BEFORE, type ImageSide, type Transaction } from '../../change.ts'
import { fixed, Out, type Constant } from '../../out.ts'
import { perTable, type SinkStatement } from '../sink.ts'
import { writeLines, type Written } from '../lines/lines.ts'
import { compileLines, type Kind, type LinesProgram, type Steps } from '../lines/program.ts'
import { JsonObjectWriter, jsonValues, type JsonOptions } from './json.ts'
import type { SinkRow, TargetTable } from './row.ts'
import { RowNames } from './version.ts'

/** The image in which the key of a row is to be found: the row's own, or the other where the log left it out. */
export function keySide(row: SinkRow): ImageSide {
  const { side } = row
  for (const key of row.table.keys) {
    if (row.state(side, key) === ABSENT) return side === AFTER ? BEFORE : AFTER
  }
  return side
}

/** The values of the key columns joined by ":"; "" where there are none. */
export function keyText(row: SinkRow): string {
  const side = keySide(row)
  let text = ''
  for (const key of row.table.keys) {
    if (text !== '') text += ':'
    text += row.string(side, key) ?? ''
  }
  return text
}

export class PlainWriter {
  readonly #table: (table: TargetTable) => (row: SinkRow, out: Out) => void
  readonly #program: (table: TargetTable) => LinesProgram | undefined
  readonly #names = new RowNames()
  readonly #end = new Out(128)
  #endOf: Transaction | undefined
  /** For the steps of plainSteps. */
  readonly slots: readonly Out[] = [...this.#names.heads, this.#end]
  constructor(options: JsonOptions = {}) {
    this.#table = perTable((table) => compile(table, options))
    this.#program = perTable((table) =>
      compileLines(table, jsonValues(options), (steps, kind) => {
        plainSteps(steps, table, kind)
        steps.literal('\n')
      }),
    )
  }
  /** All rows of the row's change, each on a line; undefined where they are to be written one by one. */
  lines(row: SinkRow): Written | undefined {
    const program = this.#program(row.table)
    if (program === undefined) return undefined
    this.see(row)
    return writeLines(row.change, program, this.slots)
  }
  /** Makes the slots those of the row's change. */
  see(row: SinkRow): void {
    this.#names.see(row)
    if (row.tx !== this.#endOf) this.#newEnd(row.tx)
  }
  row(row: SinkRow, out: Out): void {
    this.#table(row.table)(row, out)
    out.constant(VERSION)
    this.#names.version(row, out)
    out.constant(ID)
    this.#names.id(row, out)
    if (row.tx !== this.#endOf) this.#newEnd(row.tx)
    out.append(this.#end)
  }
  statement({ change, tx, version, id }: SinkStatement, out: Out): void {
    const { type, database, table, sql } = change
    const head = JSON.stringify({ kind: 'statement', type, database, table, sql, version, id })
    out.utf8(head.slice(0, -2))
    this.#newEnd(tx)
    out.append(this.#end)
  }
  /** What follows the id of every change of a transaction. */
  #newEnd(tx: Transaction): void {
    this.#endOf = tx
    this.#end.reset()
    const position = JSON.stringify(`${tx.file}:${tx.offset}`)
    this.#end.utf8(`","position":${position},"ts":${tx.timestamp}}`)
  }
}

/** Slots of plainSteps. */
export const VERSION_SLOT = 0
export const ID_SLOT = 1
const END_SLOT = 2

/** The same as PlainWriter.row, as steps. */
export function plainSteps(steps: Steps, table: TargetTable, kind: Kind): void {
  const { columns, keys } = table
  const side = kind === 'delete' ? BEFORE : AFTER
  steps.literal(headText(table, kind))
  if (keys.length > 0) steps.object(keys, side)
  else steps.literal('null')
  steps.literal(',"before":')
  if (kind === 'insert') steps.literal('null')
  else steps.object(columns, BEFORE)
  steps.literal(',"after":')
  if (kind === 'delete') steps.literal('null')
  else steps.object(columns, AFTER)
  steps.literal(',"version":"').slot(VERSION_SLOT).hex()
  steps.literal('","id":"').slot(ID_SLOT).number().slot(END_SLOT)
}
const headText = ({ database, name }: TargetTable, op: SinkRow['op']): string =>
  `${JSON.stringify({ kind: 'row', op, database, table: name }).slice(0, -1)},"key":`

const NULL = fixed('null')
const VERSION = fixed(',"version":"')
const ID = fixed('","id":"')
const AFTER_MEMBER = fixed(',"after":')
const NO_AFTER = fixed(',"after":null')

function compile(table: TargetTable, options: JsonOptions): (row: SinkRow, out: Out) => void {
  const head = (op: SinkRow['op']): Constant => fixed(headText(table, op))
  const heads = { insert: head('insert'), update: head('update'), delete: head('delete') }
  const inserted = fixed(',"before":null')
  const before = fixed(',"before":')
  const whole = new JsonObjectWriter(table, options)
  const keys = new JsonObjectWriter(table, options, table.keys)
  const keyed = table.keys.length > 0
  return (row, out) => {
    const { op } = row
    out.constant(heads[op])
    if (keyed) keys.write(row, keySide(row), out)
    else out.constant(NULL)
    if (op === 'insert') out.constant(inserted)
    else {
      out.constant(before)
      whole.write(row, BEFORE, out)
    }
    if (op === 'delete') out.constant(NO_AFTER)
    else {
      out.constant(AFTER_MEMBER)
      whole.write(row, AFTER, out)
    }
  }
}
