/**
 * What is loaded for one client, and how far it is: durable in the state file, so that a start after kill -9 goes on with
 * the piece that was not acked. The list of tables is written once; where it stands, after every piece. Knows no server.
 */
import type { KeyValues } from '../sources/snapshot/keys.ts'
import type { KeyPlace } from '../sources/snapshot/plan.ts'
import type { State } from '../store/state.ts'

/** A place in front of a table's first row, behind the order to empty it. */
export const CLEARED = 'cleared'

/** A table by its two names. */
export type TableName = readonly [database: string, table: string]

/** Where a load stands: `done` tables are finished; of the next one what lies up to `after` is. */
export interface Progress {
  readonly done: number
  readonly after: KeyPlace
  /** What `after` belongs to (TablePlan.signature); another one begins the table anew. */
  readonly signature: string
  /** Read so far, of all tables. */
  readonly rows: number
}
export type LoadState = 'running' | 'paused' | 'done' | 'cancelled'
/** What is read of the tables, where it is not all. */
export interface Part {
  /** Rows that fulfil it, in SQL. */
  readonly where?: string | undefined
  /** Exactly these keys, of one table. */
  readonly keys?: readonly KeyValues[] | undefined
}
/** The most that is read in a second; 0: as fast as it goes; auto: as the source bears (pace.ts). */
export type Rate = number | 'auto'
/** `snapshot` is a client's load of whole tables; `reread` another one of a part of them, beside it. */
export type Slot = 'snapshot' | 'reread'
interface Head extends Part {
  /** Of `tables`, those that the target empties before their first row comes: "database.table". */
  readonly clears?: readonly string[] | undefined
  readonly tables: readonly TableName[]
  readonly started: string // ISO 8601
}
interface Tail extends Progress {
  readonly state: LoadState
  readonly rowsPerSecond: Rate
  readonly skipped: readonly Skipped[]
  readonly ended: string | null
}
/** A table that cannot be loaded, and why. */
export interface Skipped {
  readonly table: string
  readonly why: string
}
/** For people. */
export interface LoadStatus {
  readonly client: string
  readonly state: LoadState
  readonly tables: number
  readonly done: number
  readonly table: string | null // the one that is read now
  readonly after: KeyPlace | null
  readonly rows: number
  readonly rowsPerSecond: Rate
  readonly pace: number // rows/s that auto allows now; 0: as fast as it goes
  readonly where: string | null
  readonly keys: number | null // how many are read, of a list
  readonly skipped: readonly Skipped[]
  readonly started: string
  readonly ended: string | null
}

/**
 * The number of the first row of what is read again, in versions of one place of the log: above that of every load that began
 * at this place, and of what was read again there before, at a row a millisecond.
 */
export function laterRows(started: Date): number {
  return 2 ** 31 + (started.getTime() % 2 ** 31)
}

const headKey = (client: string, slot: Slot): string => `${client}:${slot}`
const tailKey = (client: string, slot: Slot): string => `${client}:${slot}:at`

export class Load {
  readonly client: string
  readonly slot: Slot
  /** What auto allows now. */
  pace = 0
  readonly #state: Pick<State, 'setValue'>
  readonly #head: Head
  #tail: Tail

  private constructor(
    state: Pick<State, 'setValue'>,
    { client, slot }: { readonly client: string; readonly slot: Slot },
    [head, tail]: [Head, Tail],
  ) {
    this.client = client
    this.slot = slot
    this.#state = state
    this.#head = head
    this.#tail = tail
  }
  /** Begins one anew. Durable when it returns. */
  static begin(
    state: Pick<State, 'setValue'>,
    client: string,
    options: Part & {
      readonly tables: readonly TableName[]
      readonly rowsPerSecond: Rate
      readonly clears?: readonly string[] | undefined
      /** Of the first table, what is done. */
      readonly from?: Progress | undefined
    },
  ): Load {
    const now = new Date().toISOString()
    const { tables, rowsPerSecond, where, keys, clears, from } = options
    const slot = where === undefined && keys === undefined ? 'snapshot' : 'reread'
    const tail: Tail = {
      state: tables.length === 0 ? 'done' : 'running',
      done: 0,
      after: from?.after,
      signature: from?.signature ?? '',
      rows: from?.rows ?? 0,
      rowsPerSecond,
      skipped: [],
      ended: tables.length === 0 ? now : null,
    }
    const head = {
      tables,
      started: now,
      ...(where !== undefined && { where }),
      ...(keys && { keys }),
      ...(clears && { clears }),
    }
    const load = new Load(state, { client, slot }, [head, tail])
    // A place at the beginning first: a crash in between leaves it with the old list or the new one, never a wrong place.
    load.#write({ ...tail, after: undefined, signature: '' })
    state.setValue(headKey(client, slot), JSON.stringify(load.#head))
    if (from !== undefined) load.#write(tail)
    return load
  }
  /** The one there was before, in whatever state. */
  static find(
    state: Pick<State, 'setValue' | 'value'>,
    client: string,
    slot: Slot = 'snapshot',
  ): Load | undefined {
    const head = state.value(headKey(client, slot))
    const tail = state.value(tailKey(client, slot))
    if (!head || !tail) return undefined
    return new Load(state, { client, slot }, [JSON.parse(head) as Head, JSON.parse(tail) as Tail])
  }

  get tables(): readonly TableName[] {
    return this.#head.tables
  }
  get progress(): Progress {
    return this.#tail
  }
  get state(): LoadState {
    return this.#tail.state
  }
  get open(): boolean {
    return this.state === 'running' || this.state === 'paused'
  }
  get rowsPerSecond(): Rate {
    return this.#tail.rowsPerSecond
  }
  /** Whether the target is to empty a table first. */
  clears([database, table]: TableName): boolean {
    return this.#head.clears?.includes(`${database}.${table}`) === true
  }
  get cleared(): readonly string[] {
    return this.#head.clears ?? []
  }
  /** What is read of its tables. */
  get part(): Part {
    return this.#head
  }
  get status(): LoadStatus {
    const { state, done, after, rows, rowsPerSecond, skipped, ended } = this.#tail
    const { tables, started, where = null, keys } = this.#head
    const { client, pace } = this
    const table = this.open ? (tables[done]?.join('.') ?? null) : null
    const about = { client, state, tables: tables.length, done, table, after: after ?? null }
    const part = { where, keys: keys?.length ?? null }
    return { ...about, ...part, rows, rowsPerSecond, pace, skipped, started, ended }
  }

  /** Durable when it returns, as every change. */
  reached({ done, after, signature, rows }: Progress): void {
    const state = done >= this.tables.length ? 'done' : this.state
    const ended = state === 'done' ? new Date().toISOString() : this.#tail.ended
    this.#write({ ...this.#tail, done, after, signature, rows, state, ended })
  }
  skip(table: string, why: string): void {
    this.#write({ ...this.#tail, skipped: [...this.#tail.skipped, { table, why }] })
  }
  pause(paused: boolean): void {
    if (this.open) this.#write({ ...this.#tail, state: paused ? 'paused' : 'running' })
  }
  cancel(): void {
    if (!this.open) return
    this.#write({ ...this.#tail, state: 'cancelled', ended: new Date().toISOString() })
  }
  throttle(rowsPerSecond: Rate): void {
    this.pace = 0
    this.#write({ ...this.#tail, rowsPerSecond })
  }
  #write(tail: Tail): void {
    this.#tail = tail
    this.#state.setValue(tailKey(this.client, this.slot), JSON.stringify(tail))
  }
}
