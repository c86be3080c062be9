/**
 * The WebAssembly module (native/) that writes rows of usual types whose images are whole: its memory, and what is put
 * there for it. Who uses it (rowdata.ts here, sinks/lines/) brings a program for each table, and has another way, which
 * knows every case and every error, for whatever is refused; tests compare the two byte for byte.
 */
import type { RowsChange, TextForm, TextWriter } from '../../change.ts'
import { Out } from '../../out.ts'
import { engine, type Engine } from '../../wasm.ts'
import { rowsModule } from './wasm.ts'

/** What the module must know of a table, as bytes that are copied into its memory when the table's turn comes. */
export interface Program {
  readonly bytes: Uint8Array
  /** Who write the text of values that the module does not know, as the program numbers them. */
  readonly writers: readonly TextWriter[]
}
/** How a value is written, as native/values.ts has it. */
export const kinds: Readonly<Record<TextForm | 'skipped' | 'other', number>> = {
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

/** Where a program stands in the memory, and how long it may be: about 1,500 columns. */
export const PROGRAM = 2048
export const PROGRAM_BYTES = 512 * 1024
/** The events of a server have 8 KiB (binlog_row_event_max_size), or one larger row. */
const IN_BYTES = 64 * 1024
const PADDING = 64 // read and written in words
export const IN = PROGRAM + PROGRAM_BYTES
/** For what a caller wants to put there beside. */
export const SIDE = IN + IN_BYTES + PADDING
export const SIDE_BYTES = 224 * 1024
/** The last in the memory: what does not fit is a trap. Pages that nobody writes to cost nothing. */
export const OUT = SIDE + SIDE_BYTES + PADDING
const OUT_BYTES = 4 * 1024 * 1024
const PAGE = 65_536
const PAGES = Math.ceil((OUT + OUT_BYTES) / PAGE)

const ESCAPED = 1024
const LETTERS = 1280

type Encode = (at: number, end: number, out: number, limit: number, sides: number) => number
type Lines = (at: number, end: number, out: number) => number

export class Kernel {
  readonly memory: Buffer
  readonly words: Int32Array // the same memory
  readonly encode: Encode // native/rows.ts
  readonly lines: Lines // native/lines.ts
  readonly #out = new Out(0) // over the memory, for values that are written from here
  #program: Program | undefined // that is in the memory

  constructor(engine: Engine) {
    const memory = new engine.Memory({ initial: PAGES })
    this.memory = Buffer.from(memory.buffer)
    this.words = new Int32Array(memory.buffer)
    tables(this.memory)
    const imports = {
      env: { memory },
      m: {
        t: (number: number, from: number, end: number, to: number) =>
          this.#text(number, from, end, to),
      },
    }
    const instance = new engine.Instance(new engine.Module(rowsModule()), imports)
    this.encode = instance.exports['encode'] as Encode
    this.lines = instance.exports['lines'] as Lines
  }
  /** Puts rows into the memory, from IN on, and the program for them; says where they end. */
  load(program: Program, bytes: Buffer, from: number, end: number): number {
    const { memory } = this
    if (program !== this.#program) {
      memory.set(program.bytes, PROGRAM)
      this.#program = program
    }
    bytes.copy(memory, IN, from, end)
    return IN + end - from
  }
  /** Puts a text at `at`. */
  put(text: Out, at: number): void {
    this.#output(at).append(text)
  }
  /** Over the memory, also after a text that had no room there made it grow. */
  #output(at: number): Out {
    const out = this.#out
    if (out.buf !== this.memory) out.use(this.memory)
    out.at = at
    return out
  }
  #text(number: number, from: number, end: number, to: number): number {
    const out = this.#output(to)
    this.#program!.writers[number]!(this.memory, from, end, out)
    if (out.buf !== this.memory) throw new RangeError('a text is longer than was expected')
    return out.at
  }
}

/** Two digits of each number below 512, and which bytes a JSON string escapes: as Canal does, and as everybody does. */
function tables(memory: Buffer): void {
  for (let v = 0; v < 512; v++) {
    memory[v * 2] = 0x30 + ((v / 10) | 0)
    memory[v * 2 + 1] = 0x30 + (v % 10)
  }
  memory.fill(1, ESCAPED, ESCAPED + 0x20)
  for (const c of [0x22, 0x5c, 0x7f, 0xc2]) memory[ESCAPED + c] = 1
  memory.fill('u', LETTERS, LETTERS + 0x20)
  for (const [c, letter] of ['\bb', '\tt', '\nn', '\ff', '\rr', '""', '\\\\'])
    memory[LETTERS + c!.charCodeAt(0)] = letter!.charCodeAt(0)
}

let only: Kernel | undefined
let asked = false

/** The one there is: whoever asks has it until the next await. undefined where engine or processor cannot run it. */
export function theKernel(): Kernel | undefined {
  if (asked) return only
  asked = true
  try {
    if (engine !== undefined) only = new Kernel(engine)
  } catch {
    // No vector instructions: the other way does without.
  }
  return only
}

/** Where rows that are for the quick way begin in their event; -1 for others. */
export function quickFrom(change: RowsChange): number {
  const rows = change.wholeRows?.() ?? -1
  return rows >= 0 && change.event.end - rows <= IN_BYTES ? rows : -1
}
