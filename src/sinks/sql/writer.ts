/**
 * Writes batches so that each change is in the target exactly once: rows and the cursor's place in one transaction. The
 * merged plan is tried first, the log's order when constraints of the target stand in its way.
 */
import type { Position } from '../../change.ts'
import type { SinkStatement } from '../sink.ts'
import type { SinkBatch } from '../shape/batch.ts'
import type { TargetCursor } from './cursor.ts'
import {
  ConstraintError,
  failure,
  type Dialect,
  type Session,
  type Statement,
} from './dialects/dialect.ts'
import { merged, ordered, survey, targetsOf, type PlanOptions } from './plan.ts'
import type { Tables } from './tables.ts'

export interface WriterOptions {
  readonly dialect: Dialect
  readonly tables: Tables
  readonly statementRows: number
  readonly statementBytes: number
}

/** Keeps one connection, opened when needed. */
export class Line {
  readonly #dialect: Dialect
  readonly #opened: (session: Session) => Promise<void>
  #session: Session | undefined
  constructor(dialect: Dialect, opened: (session: Session) => Promise<void>) {
    this.#dialect = dialect
    this.#opened = opened
  }
  async session(): Promise<Session> {
    if (this.#session?.alive === true) return this.#session
    await this.close()
    const session = await this.#dialect.connect()
    try {
      await this.#opened(session)
    } catch (error) {
      await session.close()
      throw error
    }
    return (this.#session = session)
  }
  /** Runs `work` on the connection, which `signal` ends; after an error nothing of a transaction is left. */
  async use<T>(signal: AbortSignal, work: (session: Session) => Promise<T>): Promise<T> {
    const session = await this.session()
    const stop = (): void => void session.close()
    signal.addEventListener('abort', stop, { once: true })
    try {
      return await work(session)
    } catch (error) {
      // The server ends what a lost connection has begun; a living one is told.
      if (session.alive) await session.run('ROLLBACK').catch(() => session.close())
      throw error
    } finally {
      signal.removeEventListener('abort', stop)
    }
  }
  async close(): Promise<void> {
    const session = this.#session
    this.#session = undefined
    await session?.close()
  }
}

/** Runs statements in order, the next one made while the target works on the one before. */
export async function runAll(session: Session, statements: Iterable<Statement>): Promise<void> {
  let running: Promise<unknown> | undefined
  try {
    for (const statement of statements) {
      await running
      running = session.run(statement)
      // told at the next await; an error meanwhile is no unhandled one
      running.catch(() => undefined)
    }
  } finally {
    await running
  }
}

export function planOptions(options: WriterOptions): PlanOptions {
  const { dialect, tables } = options
  tables.reset()
  return {
    bound: (table) => {
      const bound = tables.get(table)
      if (bound === undefined) throw new Error(`bug in Sluice: ${table.name} is not bound`)
      return bound
    },
    rowsMax: options.statementRows,
    bytesMax: Math.min(options.statementBytes, dialect.statementMax / 2),
    bytesLimit: dialect.statementMax,
  }
}

export class Transactional {
  readonly #options: WriterOptions
  readonly #cursor: TargetCursor
  readonly #line: Line
  constructor(options: WriterOptions, cursor: TargetCursor) {
    this.#options = options
    this.#cursor = cursor
    let opened = false
    this.#line = new Line(options.dialect, async (session) => {
      // What a lost connection has committed, only the stored place knows: who opens the sink again reads it.
      if (opened) throw failure('SINK_UNAVAILABLE', options.dialect.where, 'the connection is lost')
      opened = true
      await cursor.claim(session)
    })
  }
  async open(): Promise<void> {
    await this.#line.session()
  }
  async write(batch: SinkBatch, signal: AbortSignal): Promise<void> {
    await this.#line.use(signal, async (session) => {
      await this.#options.tables.bind(session, targetsOf(batch))
      const plan = planOptions(this.#options)
      const found = survey(batch, plan, false)
      if (found.ordered) return this.#commit(session, batch.end, ordered(batch, plan))
      try {
        await this.#commit(session, batch.end, merged(batch, found, plan))
      } catch (error) {
        if (!(error instanceof ConstraintError) || found.rows < 2) throw error
        await session.run('ROLLBACK')
        this.#options.tables.reset()
        await this.#commit(session, batch.end, ordered(batch, plan))
      }
    })
  }
  async #commit(session: Session, end: Position, statements: Iterable<Statement>): Promise<void> {
    await this.#cursor.begin(session, end)
    await runAll(session, statements)
    await session.run('COMMIT')
  }
  /** Runs statements of DDL and moves the cursor behind them; `again`: whether an earlier try may have done it. */
  async apply(
    statement: SinkStatement,
    signal: AbortSignal,
    run: (session: Session, again: boolean) => Promise<void>,
  ): Promise<void> {
    await this.#line.use(signal, async (session) => {
      if (this.#options.dialect.name === 'postgres') {
        await this.#cursor.begin(session, statement.end)
        await run(session, false)
      } else {
        // DDL is no part of a transaction there
        const again = this.#cursor.pending === statement.version
        await this.#cursor.announce(session, statement.version)
        await run(session, again)
        await this.#cursor.begin(session, statement.end)
      }
      await session.run('COMMIT')
    })
    this.#options.tables.forget()
  }
  close(): Promise<void> {
    return this.#line.close()
  }
}
