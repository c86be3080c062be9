/**
 * A store fed with transactions of a test's own making, and the sinks of an instance on it: everything real but the source
 * of the changes. For what a MySQL is too slow for.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import {
  advance,
  type Change,
  type Position,
  type Table,
  type Transaction,
} from '../../src/change.ts'
import { Control, controlFile } from '../../src/sinks/letters/control.ts'
import { commonSchema, type SinkConfig } from '../../src/sinks/runner/options.ts'
import type { SinkHost, SinkStatus } from '../../src/sinks/runner/runner.ts'
import { Sinks } from '../../src/sinks/runner/sinks.ts'
import type { SinkType } from '../../src/sinks/sink.ts'
import { State } from '../../src/store/state.ts'
import type { ClientCursor } from '../../src/store/cursor.ts'
import { type Cursor, Store } from '../../src/store/store.ts'
import {
  begin,
  column,
  commit,
  FILE,
  rowsOf,
  tableOf,
  transactionOf,
  UUID,
} from '../server/changes.ts'
import { Memory, memoryType } from './memory.ts'

export const items: Table = tableOf('shop', 'items', [
  column(0, 'id', 3, 'int', { key: true, nullable: false }),
  column(1, 'v', 15, 'varchar(99)'),
])
export type Op =
  | { readonly kind: 'insert' | 'update' | 'delete'; readonly id: number; readonly v: string }
  | { readonly kind: 'move'; readonly id: number; readonly to: number; readonly v: string }

/** A rows event for each run of operations of one kind, as MySQL logs them. */
export function changesOf(ops: readonly Op[]): Change[] {
  const changes: Change[] = [begin()]
  let ordinal = 3
  for (let i = 0; i < ops.length;) {
    const kindOf = (op: Op) => (op.kind === 'move' ? 'update' : op.kind)
    const kind = kindOf(ops[i]!)
    const run: Op[] = []
    while (i < ops.length && kindOf(ops[i]!) === kind) run.push(ops[i++]!)
    const rows = run.map((op) => {
      const image = [String(op.id), op.v]
      if (op.kind === 'insert') return { after: image }
      if (op.kind === 'delete') return { before: image }
      return {
        before: [image[0]!, 'old'],
        after: op.kind === 'move' ? [String(op.to), op.v] : image,
      }
    })
    changes.push(rowsOf(kind, rows, { table: items, ordinal }))
    ordinal += 2
  }
  changes.push(commit('1', false, ordinal))
  return changes
}

const origin: Position = {
  epoch: 1,
  server: UUID,
  file: FILE,
  offset: 4,
  skip: 0,
  gtids: undefined,
  timestamp: 0,
}
const never = new AbortController().signal

export class Rig {
  readonly dir = mkdtempSync(join(tmpdir(), 'sluice-rig-'))
  readonly memory = new Memory()
  readonly lines: Record<string, unknown>[] = []
  readonly config: SinkConfig
  readonly #all: { readonly changes: readonly Change[]; readonly more: Partial<Transaction> }[] = []
  #offset = 1000
  state: State
  store: Store
  sinks: Sinks
  known = { epoch: 1, server: UUID }
  /** What stands between a cursor and a sink. */
  join: (cursor: ClientCursor) => Cursor = (cursor) => cursor
  read: SinkHost['read'] = () => {
    throw new Error('no source')
  }

  readonly #type: SinkType

  /** Another sink than the one in memory, with options of its own. */
  constructor(options: object = {}, real?: { readonly type: SinkType; readonly own: object }) {
    const retry = { minMs: 1, maxMs: 3 }
    this.#type = real?.type ?? memoryType(this.memory)
    const own = real && this.#type.options.parse(real.own)
    this.config = { ...commonSchema.parse({ retry, ...options }), ...own, type: this.#type.type }
    this.state = State.open(join(this.dir, 'orders.sqlite'))
    this.store = this.#openStore()
    this.sinks = this.#openSinks()
  }
  #openStore(): Store {
    return new Store({
      windowBytes: 64 * 1024 * 1024,
      catchUpReaders: 1,
      catchUp: (from, signal) => this.#again(from, signal),
      state: this.state,
      origin,
      log: { info: () => {}, warn: () => {} },
      join: (cursor) => this.join(cursor),
    })
  }
  #openSinks(): Sinks {
    const log = pino(
      { level: 'debug' },
      {
        write: (line: string) => void this.lines.push(JSON.parse(line) as Record<string, unknown>),
      },
    )
    const types = [this.#type]
    return Sinks.open(
      { mem: this.config },
      { dataDir: this.dir, types },
      {
        instance: 'orders',
        log,
        state: this.state,
        store: this.store,
        query: async () => [],
        filter: () => true,
        known: () => this.known,
        adopt: () => false,
        latest: async () => this.store.resume,
        read: (from, signal) => this.read(from, signal),
      },
    )
  }
  /** What was appended, once more: as the source has it. */
  async *#again(from: Position, signal: AbortSignal): AsyncGenerator<Transaction> {
    let offset = 1000
    for (const { changes, more } of this.#all) {
      const tx = transactionOf(offset, changes, more)
      offset += 1000
      if (tx.endOffset <= from.offset) tx.slab?.release()
      else yield tx
    }
    if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve))
  }
  append(changes: readonly Change[], more: Partial<Transaction> = {}): Position {
    this.#all.push({ changes, more })
    const tx = transactionOf(this.#offset, changes, more)
    this.#offset += 1000
    const end = advance(this.store.resume, tx)
    void this.store.append(tx, never)
    return end
  }
  ops(...ops: Op[]): Position {
    return this.append(changesOf(ops))
  }
  get status(): SinkStatus {
    return this.sinks.status()[0]!
  }
  get control(): Control {
    return (this.#control ??= Control.open(controlFile(this.dir, 'orders')))
  }
  #control: Control | undefined

  /** As after the end of the process: everything is opened again from the files. */
  async restart(): Promise<void> {
    await this.sinks.stop()
    await this.store.close()
    this.state.close()
    this.state = State.open(join(this.dir, 'orders.sqlite'))
    this.store = this.#openStore()
    const from = this.store.resume
    this.#offset = 1000
    for (const { changes, more } of this.#all) {
      const tx = transactionOf(this.#offset, changes, more)
      this.#offset += 1000
      if (tx.endOffset <= from.offset) tx.slab?.release()
      else void this.store.append(tx, never)
    }
    this.sinks = this.#openSinks()
    this.sinks.start()
  }
  async until(what: () => boolean): Promise<void> {
    for (let i = 0; !what(); i++) {
      if (i > 4000) throw new Error(`nothing happened: ${JSON.stringify(this.lines.slice(-5))}`)
      await new Promise((resolve) => setTimeout(resolve, 2))
    }
  }
  /** Until everything before `end` is acked. */
  async reached(end: Position): Promise<void> {
    await this.until(() => (this.status.acked?.offset ?? 0) >= end.offset)
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.sinks.stop()
    await this.store.close()
    this.state.close()
    this.#control?.close()
    rmSync(this.dir, { recursive: true })
  }
}
