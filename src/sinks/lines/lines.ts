/**
 * The quick way from the rows of an event to JSON: written in WebAssembly (native/lines.ts), as program.ts says for their
 * table. What it refuses goes row by row, the way that knows every case and every error.
 */
import type { ImageSide, RowsChange } from '../../change.ts'
import type { Out } from '../../out.ts'
import {
  IN,
  OUT,
  quickFrom,
  SIDE,
  SIDE_BYTES,
  theKernel,
  type Kernel,
} from '../../server/rows/kernel.ts'
import type { TargetColumn } from '../shape/row.ts'
import { recordOf, sideOf, type LinesProgram } from './program.ts'

/** All rows of an event, in the kernel's memory until the next await. */
export interface Written {
  readonly rows: number
  readonly memory: Buffer
  /** Where the first begins. */
  readonly from: number
  /** Where each ends, in `words` from `ends` on, its hash from `hashes` on, and where it was split from `splits` on. */
  readonly words: Int32Array
  readonly ends: number
  readonly hashes: number
  readonly splits: number
  /** Where the last ends. */
  readonly to: number
}

/** As many rows of an event may be written at a time. */
const ROWS_MAX = 16 * 1024
const ENDS = SIDE
const HASHES = ENDS + ROWS_MAX * 4
const SPLITS = HASHES + ROWS_MAX * 4
const SLOTS = SPLITS + ROWS_MAX * 4
const SLOTS_MAX = 8
const TEXTS = SLOTS + SLOTS_MAX * 8
const TEXTS_END = SIDE + SIDE_BYTES

/** The job, as words. */
const ROW = 1600 / 4
const ROWS = ROW + 9

/** Writes all rows of a change; undefined where that is not for the quick way. `slots`: what is the same for all. */
export function writeLines(
  change: RowsChange,
  program: LinesProgram,
  slots: readonly Out[],
): Written | undefined {
  const kernel = theKernel()
  const rows = change.snapshot || change.half !== undefined ? -1 : quickFrom(change)
  if (kernel === undefined || rows < 0 || !place(slots, kernel)) return undefined
  const { memory, words } = kernel
  const { bytes, end } = change.event
  const { from, to } = program.steps[change.kind]
  const sides = change.kind === 'insert' ? 2 : change.kind === 'delete' ? 1 : 3
  words.set([change.firstRow ?? 0, sides, from, to, ENDS, HASHES, ROWS_MAX, SLOTS, SPLITS], ROW)
  try {
    const past = kernel.lines(IN, kernel.load(program, bytes, rows, end), OUT)
    if (past < 0) return undefined
    const [ends, hashes, splits] = [ENDS / 4, HASHES / 4, SPLITS / 4]
    return { rows: words[ROWS]!, memory, from: OUT, words, ends, hashes, splits, to: past }
  } catch {
    // A column's text refused its bytes, or the output has no room: the other way says where, or grows.
    return undefined
  }
}

/** Where a column's value of the last row begins in the kernel's memory, and where it ends; -1 for NULL. */
export const lastFrom = ({ words }: Written, side: ImageSide, column: TargetColumn): number =>
  words[(recordOf(column) + sideOf(side) + 4) / 4]!
export const lastEnd = ({ words }: Written, side: ImageSide, column: TargetColumn): number =>
  words[(recordOf(column) + sideOf(side) + 8) / 4]!

function place(slots: readonly Out[], kernel: Kernel): boolean {
  const { words } = kernel
  let at = TEXTS
  for (let i = 0, slot = SLOTS / 4; i < slots.length; i++, slot += 2) {
    const text = slots[i]!
    const length = text.at
    if (at + length + 8 > TEXTS_END) return false
    kernel.put(text, at)
    words[slot] = at
    words[slot + 1] = length
    at += (length + 7) & ~7
  }
  return true
}
