/**
 * The contract of a sink. A sink is one file that exports `defineSink({...})`, and one line in index.ts; its options are a
 * zod schema, from which the checks of the configuration, the JSON Schema and the manual follow. The runner
 * (runner/runner.ts) does what is the same for all: batches, lanes, retries, poison rows, dead letters, positions.
 */
import type * as z from 'zod'
import type { Position, QueryChange, Transaction } from '../change.ts'
import type { Logger } from '../logger.ts'
import type { SinkBatch } from './shape/batch.ts'
import type { SinkRow, TargetTable } from './shape/row.ts'

/** One row that the target refused while it took others. */
export interface RowFailure {
  readonly index: number // SinkRow.index
  readonly error: Error
  readonly retryable: boolean
}

/**
 * fenced: every write carries its version and an older one never wins. transactional: rows and position are stored in
 * one step, so every change is in the target exactly once. append: every change is written at least once, in order.
 */
export type Delivery = 'fenced' | 'transactional' | 'append'

/** A statement of the log that a target can do something with. */
export interface SinkStatement {
  readonly tx: Transaction
  readonly change: QueryChange
  readonly version: string
  readonly id: string
  readonly start: Position
  readonly end: Position // once it is done in the target
}

export interface Sink {
  readonly promise: Delivery
  /** The target's own position, read by open(): outranks the local one. */
  readonly resume?: Position | undefined
  /**
   * The highest epoch of this instance that the target knows, with its server_uuid, where there is no `resume` to say so:
   * should the state file have been lost, the instance goes on from there and not from 1.
   */
  readonly seen?: { readonly epoch: number; readonly server: string } | undefined
  /**
   * Whether the target is to equal the source's tables, so that changes of rows which are not in the log as rows matter
   * (`unloggedChange`); default: unless the promise is append.
   */
  readonly mirrors?: boolean
  /** Whether an update of the primary key is to come as delete and insert in SinkBatch.rows(); default true. */
  readonly splitsKeys?: boolean
  /** Whether batches must end where transactions end, unless larger than the limit. */
  readonly wholeTransactions?: boolean
  /**
   * Batches that may be under way at once; default 1. With `target` they share the lanes. Without, writes of several
   * batches overlap, begun in order: only for a sink that keeps the order of its calls (after a failed one the others are
   * written again, in order), and never for a transactional one.
   */
  readonly inFlight?: number
  /**
   * What of the target a row is written to: rows with the same answer are written in order, others may be written at the
   * same time. Without it everything goes through one lane.
   */
  target?(row: SinkRow): string
  /**
   * Writes rows; resolves when the target has them durably, with those it refused. Throws SluiceError when the whole
   * write failed: a retryable code (SINK_UNAVAILABLE) is tried again, SINK_DATA leads to halving, anything else stops
   * the sink. Must leave nothing half done that a repetition of the same rows would not mend. A transactional sink writes
   * all or nothing: it throws SINK_DATA for a row that is refused. After a retryable error it is closed and opened
   * again, so that its `resume` decides what was written.
   */
  write(batch: SinkBatch, signal: AbortSignal): Promise<readonly RowFailure[]>
  /**
   * DDL, TRUNCATE and other statements, alone and in order with the rows around them. Without it they are passed over
   * (what the runner's `unloggedChange` says holds all the same).
   */
  statement?(statement: SinkStatement, signal: AbortSignal): Promise<void>
  /** Whether `statement` empties the target's part of a table at TRUNCATE. */
  readonly clears?: boolean
  /** Whether `statement` does to the target's rows what an ALTER TABLE does to the source's. */
  readonly alters?: boolean
  /** Everything before `position` is in the target. Called in order, not for every batch. */
  reached?(position: Position): Promise<void>
  /** Writes what is still held back, and lets go of the connection. */
  close(): Promise<void>
}

export interface SinkContext {
  readonly instance: string
  readonly sink: string // its name in the instance's file
  readonly log: Logger
  readonly signal: AbortSignal
  /** Rises with every start of this instance; a younger one must fence off the older. */
  readonly fence: number
  readonly server: string // server_uuid of the source
  readonly epoch: number
  /** The local position: where the sink would begin without a `resume` of its own. */
  readonly position: Position
  /**
   * Several processes write to the target as this sink (workers behind Kafka): no position of the log is meaningful in
   * it, and there is no source to ask: `query` answers nothing.
   */
  readonly shared?: boolean
  /**
   * With `retry`, who keeps an order without versions throws SINK_DATA for a refused row where it would go on with others:
   * nothing may overtake what is written later.
   */
  readonly onError?: 'stop' | 'retry' | 'deadLetter' | undefined
  /**
   * Asks the source: rows as objects, integers beyond 2^53 as strings, dates as text. Throws SluiceError.
   */
  readonly query: <T>(
    sql: string,
    params?: readonly (string | number | bigint | null)[],
  ) => Promise<T[]>
}

export interface SinkType<Name extends string = string, Schema extends z.ZodObject = z.ZodObject> {
  readonly type: Name
  /** One sentence for the manual and for help. */
  readonly summary: string
  /** The sink's own options, every one described. */
  readonly options: Schema
  /** Connects; throws SINK_UNAVAILABLE (tried again), SINK_UNSUITABLE (stops the sink). */
  open(options: z.output<Schema>, context: SinkContext): Promise<Sink>
  /** What is wrong with the options beyond their schema, as sentences; connects to nothing. */
  problems?(options: z.output<Schema>): readonly string[]
}

export const defineSink = <const Name extends string, Schema extends z.ZodObject>(
  sink: SinkType<Name, Schema>,
): SinkType<Name, Schema> => sink

/** What a sink compiles once per table version. */
export function perTable<T>(compile: (table: TargetTable) => T): (table: TargetTable) => T {
  const known = new WeakMap<TargetTable, T>()
  let last: TargetTable | undefined // rows of a table mostly come one after the other
  let lastCompiled: T | undefined
  return (table) => {
    if (table === last) return lastCompiled as T
    let compiled = known.get(table)
    if (compiled === undefined) known.set(table, (compiled = compile(table)))
    last = table
    lastCompiled = compiled
    return compiled
  }
}
