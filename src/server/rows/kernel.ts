/**
 * The quick way from row images to Canal's RowData: rows of usual types whose images are whole are copied into the memory
 * of a WebAssembly module (native/rows.ts), which writes them there, and from there to the output. Everything else, and
 * whatever does not add up, is refused with -1 and goes the way of plain.ts, which knows every case and every error; a
 * test compares the two byte for byte.
 */
import type { RowsChange, Table } from '../../change.ts'
import { Out } from '../../out.ts'
import { engine, type Engine } from '../../wasm.ts'
import { PROGRAM, PROGRAM_BYTES, compileProgram, type Program } from './program.ts'
import { rowsModule } from './wasm.ts'

/** The events of a server have 8 KiB (binlog_row_event_max_size), or one larger row. */
const IN_BYTES = 64 * 1024
const OUT_BYTES = 1024 * 1024
const IN = PROGRAM + PROGRAM_BYTES
const PADDING = 64 // read and written in words
const OUT = IN + IN_BYTES + PADDING
const PAGE = 65_536
const PAGES = Math.ceil((OUT + OUT_BYTES + PADDING) / PAGE)
/** A value becomes at most so many times as long. */
const MARGIN = 8

type Encode = (at: number, end: number, out: number, limit: number, sides: number) => number

const ESCAPED = 1024
const RESULT = 1280 / 4

class Kernel {
  readonly #memory: Buffer
  readonly #result: Int32Array
  readonly #encode: Encode
  readonly #out = new Out(0) // over the memory, for columns that write their text themselves
  readonly #programs = new WeakMap<Table, Program>()
  #table: Table | undefined // whose program is in the memory
  #program: Program | undefined

  constructor(engine: Engine) {
    const memory = new engine.Memory({ initial: PAGES })
    this.#memory = Buffer.from(memory.buffer)
    this.#result = new Int32Array(memory.buffer)
    tables(this.#memory)
    const imports = {
      env: { memory },
      m: {
        t: (column: number, from: number, end: number, to: number) =>
          this.#text(column, from, end, to),
      },
    }
    const instance = new engine.Instance(new engine.Module(rowsModule()), imports)
    this.#encode = instance.exports['encode'] as Encode
  }
  /** The rows of `change`, from `rows` on in its event, as RowChange.rowDatas; how many there were, or -1. */
  rows(change: RowsChange, rows: number, out: Out): number {
    const { bytes, end } = change.event
    const memory = this.#memory
    const program = change.table === this.#table ? this.#program! : this.#load(change.table)
    const limit = OUT + OUT_BYTES - MARGIN * (end - rows) - program.rowBytes
    if (limit <= OUT) return -1
    bytes.copy(memory, IN, rows, end)
    this.#out.use(memory)
    const sides = change.kind === 'insert' ? 2 : change.kind === 'delete' ? 1 : 3
    const stop = IN + end - rows
    let count = 0
    for (let at = IN; at < stop;) {
      at = this.#encode(at, stop, OUT, limit, sides)
      if (at < 0) return -1
      out.bytes(memory, OUT, this.#result[RESULT]!)
      count += this.#result[RESULT + 1]!
    }
    return count
  }
  #load(table: Table): Program {
    let program = this.#programs.get(table)
    if (program === undefined) this.#programs.set(table, (program = compileProgram(table)))
    this.#memory.set(program.bytes, PROGRAM)
    this.#table = table
    this.#program = program
    return program
  }
  #text(column: number, from: number, end: number, to: number): number {
    const out = this.#out
    out.at = to
    this.#table!.columns[column]!.text(this.#memory, from, end, out)
    if (out.buf !== this.#memory) throw new RangeError('a text is longer than was expected')
    return out.at
  }
}

/** Two digits of each number below 512, and which bytes a JSON string escapes (src/binlog/json/text.ts). */
function tables(memory: Buffer): void {
  for (let v = 0; v < 512; v++) {
    memory[v * 2] = 0x30 + ((v / 10) | 0)
    memory[v * 2 + 1] = 0x30 + (v % 10)
  }
  memory.fill(1, ESCAPED, ESCAPED + 0x20)
  for (const c of [0x22, 0x5c, 0x7f, 0xc2]) memory[ESCAPED + c] = 1
}

let kernel: Kernel | undefined

/** Writes RowChange.rowDatas and returns how many; -1, and nothing, for rows that are not for the quick way. */
export function quickRows(change: RowsChange, out: Out): number {
  if (engine === undefined || change.wholeRows === undefined) return -1
  const rows = change.wholeRows()
  if (rows < 0 || change.event.end - rows > IN_BYTES) return -1
  const start = out.at
  let count = -1
  try {
    kernel ??= new Kernel(engine)
    count = kernel.rows(change, rows, out)
  } catch {
    // A column's text refused its bytes: the other way says where.
  }
  if (count < 0) out.at = start
  return count
}
