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
import type { Out } from '../../out.ts'
import { perTable, type SinkStatement } from '../sink.ts'
import { JsonObjectWriter, writeJsonString, type JsonOptions } from './json.ts'
import type { SinkRow, TargetTable } from './row.ts'

const OPS = ['insert', 'update', 'delete'] as const

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
  constructor(options: JsonOptions = {}) {
    this.#table = perTable((table) => compile(table, options))
  }
  row(row: SinkRow, out: Out): void {
    this.#table(row.table)(row, out)
    out.ascii(`,"version":"${row.version}","id":`)
    this.#end(row.id, row.tx, out)
  }
  statement({ change, tx, version, id }: SinkStatement, out: Out): void {
    const { type, database, table, sql } = change
    const head = JSON.stringify({ kind: 'statement', type, database, table, sql, version })
    out.utf8(`${head.slice(0, -1)},"id":`)
    this.#end(id, tx, out)
  }
  #end(id: string, { file, offset, timestamp }: Transaction, out: Out): void {
    writeJsonString(id, out)
    out.ascii(',"position":')
    writeJsonString(`${file}:${offset}`, out)
    out.ascii(`,"ts":${timestamp}}`)
  }
}

function compile(table: TargetTable, options: JsonOptions): (row: SinkRow, out: Out) => void {
  const { database, name } = table
  const heads = new Map(
    OPS.map((op) => {
      const head = JSON.stringify({ kind: 'row', op, database, table: name })
      return [op, Buffer.from(`${head.slice(0, -1)},"key":`)] as const
    }),
  )
  const whole = new JsonObjectWriter(table, options)
  const keys = new JsonObjectWriter(table, options, table.keys)
  const keyed = table.keys.length > 0
  return (row, out) => {
    const head = heads.get(row.op)!
    out.bytes(head, 0, head.length)
    if (keyed) keys.write(row, keySide(row), out)
    else out.ascii('null')
    out.ascii(',"before":')
    if (row.op === 'insert') out.ascii('null')
    else whole.write(row, BEFORE, out)
    out.ascii(',"after":')
    if (row.op === 'delete') out.ascii('null')
    else whole.write(row, AFTER, out)
  }
}
