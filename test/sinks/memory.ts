/** A sink for tests: keeps what it is given in memory, and fails, waits or refuses rows when it is told to. */
import * as z from 'zod'
import { AFTER, BEFORE, type Position } from '../../src/change.ts'
import type { SinkBatch } from '../../src/sinks/shape/batch.ts'
import type { SinkRow } from '../../src/sinks/shape/row.ts'
import {
  defineSink,
  type Delivery,
  type RowFailure,
  type Sink,
  type SinkContext,
  type SinkStatement,
  type SinkType,
} from '../../src/sinks/sink.ts'

export interface Written {
  readonly op: string
  readonly table: string
  /** Name → Canal's text, of the image that counts. */
  readonly values: Readonly<Record<string, string | null | undefined>>
  readonly key: string
  readonly version: string
  readonly id: string
  readonly write: number // which write it came in
}
/** What a test sees of its sink, and how it tells it what to do. It outlives the sink's restarts. */
export class Memory {
  readonly rows: Written[] = []
  readonly statements: string[] = []
  /** How many rows had been written before each statement. */
  readonly statementsAt: number[] = []
  readonly opened: SinkContext[] = []
  readonly ends: Position[] = []
  readonly highest: string[] = []
  writes = 0
  running = 0
  runningMost = 0
  closed = 0
  /** Before a write; throws what the write shall fail with. */
  before: (batch: SinkBatch, signal: AbortSignal) => Promise<void> | void = () => {}
  /** The error of a row that is refused by itself. */
  refuse: (row: Written) => Omit<RowFailure, 'index'> | undefined = () => undefined
  /** Whether the whole write fails because of a row. */
  poison: (row: Written) => Error | undefined = () => undefined
  shape: Partial<Sink> & { readonly promise?: Delivery } = {}
  /** The position in the target, for a transactional one. */
  position: Position | undefined
}

function written(row: SinkRow, write: number): Written {
  const side = row.op === 'delete' ? BEFORE : AFTER
  const values = Object.fromEntries(row.table.columns.map((c) => [c.name, row.string(side, c)]))
  const key = row.table.keys.map((c) => row.string(side, c)).join(':')
  const { op, version, id } = row
  return { op, table: row.table.name, values, key, version, id, write }
}

class MemorySink implements Sink {
  readonly promise: Delivery
  readonly #memory: Memory
  constructor(memory: Memory) {
    this.#memory = memory
    this.promise = memory.shape.promise ?? 'fenced'
    Object.assign(this, memory.shape)
  }
  async write(batch: SinkBatch, signal: AbortSignal): Promise<readonly RowFailure[]> {
    const memory = this.#memory
    const write = ++memory.writes
    memory.running++
    memory.runningMost = Math.max(memory.runningMost, memory.running)
    try {
      await memory.before(batch, signal)
      const rows: Written[] = []
      const failures: RowFailure[] = []
      for (const row of batch.rows(true)) {
        const one = written(row, write)
        const poison = memory.poison(one)
        if (poison !== undefined) throw poison
        const refused = memory.refuse(one)
        if (refused === undefined) rows.push(one)
        else failures.push({ ...refused, index: row.index })
      }
      memory.rows.push(...rows)
      memory.ends.push(batch.end)
      memory.highest.push(batch.highest)
      if (this.promise === 'transactional') memory.position = batch.end
      return failures
    } finally {
      memory.running--
    }
  }
  async statement(statement: SinkStatement): Promise<void> {
    this.#memory.statements.push(statement.change.sql)
    this.#memory.statementsAt.push(this.#memory.rows.length)
  }
  async close(): Promise<void> {
    this.#memory.closed++
  }
}

/** The type whose sinks write to this memory. */
export function memoryType(memory: Memory): SinkType {
  return defineSink({
    type: 'memory',
    summary: 'For tests.',
    options: z.strictObject({ note: z.string().default('').describe('Nothing') }),
    async open(_options, context) {
      memory.opened.push(context)
      const sink: Sink = new MemorySink(memory)
      return memory.position === undefined ? sink : Object.assign(sink, { resume: memory.position })
    },
  }) as unknown as SinkType
}
