/**
 * What the kernel (native/rows.ts) must know of a table: a record for each column and the constant bytes of its Columns,
 * as one block of bytes that is copied into the kernel's memory when the table's turn comes. Layout and kinds stand in
 * native/rows.ts too, and must be the same there.
 */
import type { Column, Table, TextForm } from '../../change.ts'
import { AFTER_TAG, BEFORE_TAG, columnBytes, nullBytes, sqlTypeOf } from '../columns.ts'

/** Where a program stands in the kernel's memory, and how long it may be: about 1,500 columns. */
export const PROGRAM = 2048
export const PROGRAM_BYTES = 512 * 1024
const HEAD = 8
const RECORD = 112

const kinds: Readonly<Record<TextForm | 'skipped' | 'other', number>> = {
  skipped: 0,
  other: 1,
  signed: 2,
  unsigned: 3,
  utf8: 4,
  latin1: 5,
  decimal: 6,
  date: 7,
  time2: 8,
  datetime2: 9,
  json: 10,
}

export interface Program {
  readonly bytes: Uint8Array
  /** What of a row's output are not values, at most. */
  readonly rowBytes: number
}

/** The program of a table. One that is too wide for the kernel has no bytes, and rows that never fit. */
export function compileProgram(table: Table): Program {
  const { columns, selected } = table
  const records = Buffer.alloc((columns.length + 1) * RECORD)
  const constants: Buffer[] = []
  let at = PROGRAM + HEAD + records.length
  let rowBytes = 16
  const wanted = new Set(selected)
  const put = (record: number, bytes: Buffer): void => {
    records.writeInt32LE(at, record)
    records.writeInt32LE(bytes.length, record + 4)
    const padded = Buffer.alloc((bytes.length + 7) & ~7)
    bytes.copy(padded)
    constants.push(padded)
    at += padded.length
    rowBytes += bytes.length
  }
  for (const [i, column] of columns.entries()) {
    const record = i * RECORD
    const kind = wanted.has(column) ? kinds[column.form ?? 'other'] : kinds.skipped
    records.writeInt32LE(kind, record)
    records.writeInt32LE(column.size, record + 4)
    records.writeInt32LE(column.meta, record + 8)
    records.writeInt32LE(column.index, record + 12)
    if (kind === kinds.skipped) continue
    putConstants(column, (place, bytes) => put(record + place, bytes))
    records.writeInt32LE(1, record + 72)
    records.writeInt32LE(1, record + 76)
    records.writeBigUInt64LE(BigInt(sqlTypeOf(column).big?.from ?? 0), record + 104)
    rowBytes += 24
  }
  const bytes = Buffer.concat([Buffer.alloc(HEAD), records, ...constants])
  bytes.writeInt32LE(columns.length, 0)
  if (bytes.length > PROGRAM_BYTES) return { bytes: Buffer.alloc(0), rowBytes: Infinity }
  return { bytes, rowBytes }
}

/** Calls `put` with each constant and its place in the record. */
function putConstants(column: Column, put: (place: number, bytes: Buffer) => void): void {
  const { value, big } = sqlTypeOf(column)
  const usual = columnBytes(column, value)
  const other = columnBytes(column, big?.type ?? value)
  put(16, usual.before)
  put(24, usual.updated)
  put(32, other.before)
  put(40, other.updated)
  put(48, usual.suffix)
  put(56, nullBytes(column, BEFORE_TAG, false))
  put(64, nullBytes(column, AFTER_TAG, true))
}
