/**
 * All loads of one instance: which client loads what, how far it is, and what the operator wants of it. Puts itself between
 * every cursor of the store and who reads it (joined.ts), so that sinks and Canal clients get rows of a load the same way.
 * Wishes come from commands through a file of its own (orders.ts), looked at twice a second.
 */
import type { Filter } from '../change.ts'
import { setTimeout as delay } from 'node:timers/promises'
import { SluiceError } from '../errors.ts'
import { compileFilter } from '../filter.ts'
import type { ClientCursor, Cursor } from '../store/cursor.ts'
import { gapKey, type State } from '../store/state.ts'
import { Joined } from './joined.ts'
import { Load, type LoadStatus, type Part, type Rate, type Slot, type TableName } from './load.ts'
import { Orders, type Order } from './orders.ts'
import { checkKeys, type KeyValues } from '../sources/snapshot/keys.ts'
import { planTable, tableName } from '../sources/snapshot/plan.ts'
import type { SnapshotSource } from './reader.ts'

const LOOK_MS = 500
const REREAD_LOOK_MS = 20
/** Of a list that is read again: it is durable as a whole. */
const KEYS_MAX = 100_000
const KEYS_BYTES_MAX = 8 * 1024 * 1024

export interface SnapshotsOptions {
  readonly instance: string
  readonly dataDir: string
  readonly state: State
  readonly source: SnapshotSource
  readonly query: <T>(sql: string, params?: readonly string[]) => Promise<T[]>
  /** Which tables the instance reads. */
  readonly filter: Filter
  /** Which clients there are, subscribed or not. */
  readonly clients: () => readonly string[]
  /** The rate of loads that say none. */
  readonly rate: Rate
}
export interface LoadOptions extends Part {
  /** Of what the instance reads. */
  readonly filter: Filter
  readonly rowsPerSecond?: Rate | undefined // none: as the configuration says
  /** Whether the target empties each table before its rows come, so that rows that are gone go. */
  readonly clear?: boolean | undefined
  /** Behind what is being loaded, if something is, instead of it. */
  readonly add?: boolean
}
/** Tables that are to be read once more. */
export interface Again {
  readonly tables: readonly TableName[]
  readonly clear: boolean
}
/** Keys of one table that are to be read again. */
export interface Reread {
  readonly table: TableName
  readonly keys: readonly KeyValues[]
}

export class Snapshots {
  readonly #options: SnapshotsOptions
  readonly #orders: Orders
  // by slot; undefined: looked for, and there was none
  readonly #loads: Readonly<Record<Slot, Map<string, Load | undefined>>> = {
    snapshot: new Map(),
    reread: new Map(),
  }
  readonly #rereading = new Map<string, Promise<unknown>>() // by client, the last that waits
  readonly #joined = new Map<string, Joined>()
  readonly #starting = new Set<string>()
  #timer: NodeJS.Timeout | undefined
  #said = ''
  #busy: Promise<void> | undefined

  constructor(options: SnapshotsOptions) {
    this.#options = options
    this.#orders = Orders.open(options.dataDir, options.instance)
    this.#timer = setInterval(() => this.#look(), LOOK_MS).unref()
  }

  /** For StoreOptions.join. */
  readonly join = (cursor: ClientCursor): Cursor => {
    const { client } = cursor
    this.#joined.get(client)?.leave()
    const over = (): void => this.#handOver(client)
    const joined = new Joined(cursor, this.#options.source, { load: this.#next(client), over })
    this.#joined.set(client, joined)
    return joined
  }
  /** The load of a client, running or over; undefined: there was none. */
  of(client: string): LoadStatus | undefined {
    return this.#load(client)?.status
  }
  status(): LoadStatus[] {
    const known = new Set([...this.#options.clients(), ...this.#loads.snapshot.keys()])
    return [...known].flatMap((client) => {
      const both = [this.of(client), this.#load(client, 'reread')?.status]
      return both.filter((one) => one !== undefined)
    })
  }

  /**
   * Begins to load tables for a client whose cursor there is, whatever was loaded before. Its list of tables is durable when
   * this resolves. With a part (`where`, `keys`) it is read after what is being loaded, and forgets only another part.
   * Throws as a query does, SOURCE_UNSUITABLE where the log has rows in parts, USAGE for a part that the source refuses.
   */
  async start(client: string, options: LoadOptions): Promise<LoadStatus> {
    const { filter, rowsPerSecond = this.#options.rate, where, keys, clear = false } = options
    const { state, query } = this.#options
    const [row] = await query<{ image: string }>('SELECT @@global.binlog_row_image AS image')
    if (row?.image.toUpperCase() !== 'FULL') {
      throw new SluiceError(
        'SOURCE_UNSUITABLE',
        `a snapshot of ${this.#options.instance}: expected binlog_row_image=FULL on the source, found ${row?.image}: ` +
          'rows that change while they are read would reach the target in parts',
      )
    }
    const tables = await this.#tables(filter)
    await this.#check(tables, { where, keys })
    if (this.#timer === undefined)
      throw new SluiceError('CURSOR_CLOSED', 'the instance was stopped')
    if (options.add === true && where === undefined && keys === undefined) {
      const open = this.#load(client)
      if (open?.open === true) {
        this.again(client, { tables, clear })
        const load = this.#load(client)!
        if (options.rowsPerSecond !== undefined) load.throttle(options.rowsPerSecond)
        return load.status
      }
    }
    const clears = clear ? tables.map((table) => table.join('.')) : undefined
    const load = Load.begin(state, client, { tables, rowsPerSecond, where, keys, clears })
    const before = this.#load(client, load.slot)
    this.#loads[load.slot].set(client, load)
    const joined = this.#joined.get(client)
    if (load.slot === 'snapshot' || before?.open === true) joined?.load(this.#next(client))
    else this.#handOver(client)
    return load.status
  }
  /**
   * Reads these tables once more, behind what a client is loading; `clear`: its target empties them first. One that is still to
   * be read is not read twice. Durable when this returns.
   */
  again(client: string, { tables, clear }: Again): void {
    const before = this.#load(client)
    const open = before?.open === true ? before : undefined
    const rest = open?.tables.slice(open.progress.done) ?? []
    const names = tables.map((table) => table.join('.'))
    // the one that is read now has rows from before
    const late = new Set(rest.slice(1).map((table) => table.join('.')))
    const added = tables.filter((table) => !late.has(table.join('.')))
    const clears = [...new Set([...(open?.cleared ?? []), ...(clear ? names : [])])]
    const { rate: rowsPerSecond } = this.#options
    const load = Load.begin(this.#options.state, client, {
      tables: [...rest, ...added],
      rowsPerSecond: open?.rowsPerSecond ?? rowsPerSecond,
      clears,
      from: open?.progress,
    })
    if (open?.state === 'paused') load.pause(true)
    this.#loads.snapshot.set(client, load)
    this.#joined.get(client)?.load(load)
  }
  /**
   * Reads exactly these keys again for a client, joined with its stream like any piece: rows that are there come as inserts,
   * keys that are not as deletes, both with the version of P, so that a fenced target keeps what is newer. One list of a
   * client after the other, after what it is loading. Resolves once the client has acked them all; `reread`
   * throws as start does, CURSOR_CLOSED where it was cancelled or another took its place, the signal's reason.
   */
  async reread(client: string, { table, keys }: Reread, signal?: AbortSignal): Promise<LoadStatus> {
    const before = this.#rereading.get(client)
    const own = (async (): Promise<LoadStatus> => {
      await before?.catch(() => {})
      await this.#until(client, () => this.#load(client, 'reread')?.open !== true, signal)
      const filter: Filter = (database, name) => database === table[0] && name === table[1]
      await this.start(client, { filter, keys })
      const load = this.#load(client, 'reread')!
      await this.#until(client, () => !load.open || this.#load(client, 'reread') !== load, signal)
      if (load.state === 'done') return load.status
      const text = `keys of ${table.join('.')} for ${client} were not read again: it was cancelled, or others came`
      throw new SluiceError('CURSOR_CLOSED', text)
    })()
    this.#rereading.set(client, own)
    try {
      return await own
    } finally {
      if (this.#rereading.get(client) === own) this.#rereading.delete(client)
    }
  }
  async #until(client: string, what: () => boolean, signal?: AbortSignal): Promise<void> {
    while (!what()) {
      signal?.throwIfAborted()
      if (this.#timer === undefined)
        throw new SluiceError('CURSOR_CLOSED', 'the instance was stopped')
      if (this.#next(client)?.state === 'paused')
        throw new SluiceError('USAGE', `the snapshot of ${client} is paused: resume or cancel it`)
      await delay(REREAD_LOOK_MS)
    }
  }
  /** Throws USAGE for a condition that the source does not understand, and for keys that are none of the table. */
  async #check(tables: readonly TableName[], { where, keys }: Part): Promise<void> {
    if (where === undefined && keys === undefined) return
    if (tables.length === 0)
      throw new SluiceError('USAGE', 'expected a table that the instance reads, found none')
    for (const [database, name] of where === undefined ? [] : tables) {
      try {
        const table = tableName({ database, name })
        // Between other words too: one that closes our bracket would escape from the piece.
        for (const [before, behind] of [
          ['(', ')'],
          ['CASE WHEN ', 'THEN 1 END'],
        ])
          await this.#options.query(
            `SELECT 1 FROM ${table} WHERE ${before}${where}\n${behind} LIMIT 0`,
          )
      } catch (error) {
        if (!(error instanceof SluiceError) || error.code !== 'QUERY_FAILED') throw error
        const said = error.message.replace(/^.*LIMIT 0: /s, '')
        const text = `the condition ${JSON.stringify(where)} on ${database}.${name}: ${said}`
        throw new SluiceError('USAGE', text, { cause: error })
      }
    }
    if (keys === undefined) return
    if (tables.length > 1 || where !== undefined) {
      const found = tables.map((t) => t.join('.')).join(', ')
      const text = `a list of keys: expected one table and no condition, found ${found}`
      throw new SluiceError('USAGE', text)
    }
    const bytes = JSON.stringify(keys).length
    if (keys.length === 0 || keys.length > KEYS_MAX || bytes > KEYS_BYTES_MAX) {
      const text = `a list of keys: expected 1 to ${KEYS_MAX} in up to ${KEYS_BYTES_MAX} bytes, found ${keys.length} in ${bytes}`
      throw new SluiceError('USAGE', text)
    }
    const [database, name] = tables[0]!
    const found = await this.#options.source.catalog()?.current(database, name)
    if (found === undefined)
      throw new SluiceError('CONNECT_FAILED', `${database}.${name}: the source is not reached now`)
    checkKeys(planTable(found), keys)
  }
  /** start(), unless there was a load for this client before; an error is logged, and the next call tries again. */
  once(client: string, filter: Filter): void {
    const { state } = this.#options
    const gap = state.value(gapKey(client)) === '1'
    if (this.#starting.has(client) || (this.#load(client) !== undefined && !gap)) return
    this.#starting.add(client)
    void this.start(client, { filter })
      .then(() => gap && state.setValue(gapKey(client), ''))
      .catch((error: unknown) => {
        const text = error instanceof Error ? error.message : String(error)
        this.#options.source.log.warn({ client }, `snapshot for ${client}: cannot begin: ${text}`)
      })
      .finally(() => this.#starting.delete(client))
  }
  async #tables(filter: Filter): Promise<TableName[]> {
    const rows = await this.#options.query<{ d: string; t: string }>(
      `SELECT TABLE_SCHEMA AS d, TABLE_NAME AS t FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE'
         AND TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys') ORDER BY TABLE_SCHEMA, TABLE_NAME`,
    )
    return rows
      .filter(({ d, t }) => this.#options.filter(d, t) && filter(d, t))
      .map(({ d, t }): TableName => [d, t])
  }
  #load(client: string, slot: Slot = 'snapshot'): Load | undefined {
    const loads = this.#loads[slot]
    if (!loads.has(client)) loads.set(client, Load.find(this.#options.state, client, slot))
    return loads.get(client)
  }
  /** What is to be read now: a part waits for the whole. */
  #next(client: string): Load | undefined {
    const load = this.#load(client)
    return load?.open === true ? load : this.#load(client, 'reread')
  }
  #handOver(client: string): void {
    const joined = this.#joined.get(client)
    if (joined?.idle === true) joined.load(this.#next(client))
  }

  // ── orders ─────────────────────────────────────────────────────────────────

  #look(): void {
    if (this.#busy !== undefined) return
    this.#busy = this.#obey()
      .catch((error: unknown) => {
        this.#options.source.log.warn({}, `snapshot: an order failed: ${String(error)}`)
      })
      .finally(() => {
        this.#busy = undefined
      })
  }
  async #obey(): Promise<void> {
    const text = JSON.stringify(this.status())
    if (text !== this.#said) this.#orders.say((this.#said = text))
    for (const { id, order } of this.#orders.waiting()) {
      const { client } = order
      let answer = ''
      try {
        const load = this.#next(client)
        if (order.verb === 'start') await this.#startFor(client, order)
        else if (load?.open !== true) answer = `nothing is loaded for ${client}`
        else if (order.verb === 'throttle') load.throttle(order.rowsPerSecond ?? this.#options.rate)
        else if (order.verb === 'cancel') {
          load.cancel()
          this.#joined.get(client)?.load(this.#next(client))
        } else load.pause(order.verb === 'pause')
      } catch (error) {
        if (!(error instanceof SluiceError)) throw error
        answer = `${error.code}: ${error.message}`
      }
      this.#orders.done(id, answer)
    }
  }
  async #startFor(
    client: string,
    { tables, rowsPerSecond, where, keys }: Omit<Order, 'verb' | 'client'>,
  ): Promise<void> {
    const { clients, instance } = this.#options
    if (!clients().includes(client)) {
      throw new SluiceError(
        'USAGE',
        `${instance} has no client ${client}; found ${clients().join(', ') || 'none'}`,
      )
    }
    const filter = compileFilter({ include: tables })
    await this.start(client, { filter, rowsPerSecond, where, keys, add: true })
  }

  /** Ends reading; what was loaded stays known. Idempotent. */
  close(): void {
    if (this.#timer === undefined) return
    clearInterval(this.#timer)
    this.#timer = undefined
    for (const joined of this.#joined.values()) joined.leave()
    this.#joined.clear()
    this.#orders.close()
  }
}
