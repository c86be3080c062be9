/**
 * What the kernel (native/rows.ts) must know of a table to write RowData: a record for each column and the constant bytes of
 * its Columns. The layout stands in native/rows.ts too, and must be the same there.
 */
import type { Column, Table } from '../../change.ts'
import { AFTER_TAG, BEFORE_TAG, columnBytes, nullBytes, sqlTypeOf } from '../columns.ts'
import { kinds, PROGRAM, PROGRAM_BYTES, type Program } from './kernel.ts'

const HEAD = 8
const RECORD = 112

export interface RowDataProgram extends Program {
  /** What of a row's output are not values, at most. */
  readonly rowBytes: number
}

/** The program of a table. One that is too wide for the kernel has no bytes, and rows that never fit. */
export function compileProgram(table: Table): RowDataProgram {
  const { columns, selected } = table
  const writers = columns.map(({ text }) => text)
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
  if (bytes.length > PROGRAM_BYTES) return { bytes: Buffer.alloc(0), writers, rowBytes: Infinity }
  return { bytes, writers, rowBytes }
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
