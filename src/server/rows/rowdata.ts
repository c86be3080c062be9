/**
 * The quick way from row images to Canal's RowData, in WebAssembly (native/rows.ts). Whatever it refuses with -1 goes the way
 * of plain.ts.
 */
import type { RowsChange, Table } from '../../change.ts'
import type { Out } from '../../out.ts'
import { IN, OUT, quickFrom, theKernel, type Kernel } from './kernel.ts'
import { compileProgram, type RowDataProgram } from './program.ts'

/** Written at a time. */
const PIECE_BYTES = 1024 * 1024
/** A value becomes at most so many times as long. */
const MARGIN = 8
const RESULT = 1536 / 4

const programs = new WeakMap<Table, RowDataProgram>()
let last: Table | undefined // rows of a table mostly come one after the other
let lastProgram: RowDataProgram

function programOf(table: Table): RowDataProgram {
  if (table === last) return lastProgram
  let program = programs.get(table)
  if (program === undefined) programs.set(table, (program = compileProgram(table)))
  last = table
  lastProgram = program
  return program
}

/** Writes RowChange.rowDatas and returns how many; -1, and nothing, for rows that are not for the quick way. */
export function quickRows(change: RowsChange, out: Out): number {
  const kernel = theKernel()
  const rows = quickFrom(change)
  if (kernel === undefined || rows < 0) return -1
  const start = out.at
  let count = -1
  try {
    count = write(kernel, change, rows, out)
  } catch {
    // A column's text refused its bytes: the other way says where.
  }
  if (count < 0) out.at = start
  return count
}

function write(kernel: Kernel, change: RowsChange, rows: number, out: Out): number {
  const { bytes, end } = change.event
  const program = programOf(change.table)
  const limit = OUT + PIECE_BYTES - MARGIN * (end - rows) - program.rowBytes
  if (limit <= OUT) return -1
  const stop = kernel.load(program, bytes, rows, end)
  const sides = change.kind === 'insert' ? 2 : change.kind === 'delete' ? 1 : 3
  let count = 0
  for (let at = IN; at < stop;) {
    at = kernel.encode(at, stop, OUT, limit, sides)
    if (at < 0) return -1
    out.bytes(kernel.memory, OUT, kernel.words[RESULT]!)
    count += kernel.words[RESULT + 1]!
  }
  return count
}
