/**
 * All loads of one instance: which client loads what, how far it is, and what the operator wants of it. Puts itself between
 * every cursor of the store and who reads it (joined.ts), so that sinks and Canal clients get rows of a load the same way.
 * Wishes come from commands through a file of its own (orders.ts), looked at twice a second.
 */
import type { Filter } from '../change.ts'
import { SluiceError } from '../errors.ts'
import { compileFilter } from '../filter.ts'
import type { ClientCursor, Cursor } from '../store/cursor.ts'
import type { State } from '../store/state.ts'
import { Joined } from './joined.ts'
import { Load, type LoadStatus, type TableName } from './load.ts'
import { Orders } from './orders.ts'
import type { SnapshotSource } from './reader.ts'

const LOOK_MS = 500

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
}
export interface LoadOptions {
  /** Of what the instance reads. */
  readonly filter: Filter
  readonly rowsPerSecond?: number | undefined // 0 or none: as fast as it goes
}

export class Snapshots {
  readonly #options: SnapshotsOptions
  readonly #orders: Orders
  readonly #loads = new Map<string, Load | undefined>() // undefined: looked for, and there was none
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
    const joined = new Joined(cursor, this.#options.source, this.#load(client))
    this.#joined.set(client, joined)
    return joined
  }
  /** The load of a client, running or over; undefined: there was none. */
  of(client: string): LoadStatus | undefined {
    return this.#load(client)?.status
  }
  status(): LoadStatus[] {
    const known = new Set([...this.#options.clients(), ...this.#loads.keys()])
    return [...known].flatMap((client) => this.of(client) ?? [])
  }

  /**
   * Begins to load tables for a client whose cursor there is, whatever was loaded before. Its list of tables is durable when
   * this resolves. Throws as a query does, SOURCE_UNSUITABLE where the log has rows in parts.
   */
  async start(client: string, { filter, rowsPerSecond = 0 }: LoadOptions): Promise<LoadStatus> {
    const { state, query } = this.#options
    const [row] = await query<{ image: string; version: string }>(
      'SELECT @@global.binlog_row_image AS image, VERSION() AS version',
    )
    if (/mariadb/i.test(row?.version ?? '')) {
      const text = `a snapshot of ${this.#options.instance}: expected a MySQL server, found ${row?.version}`
      throw new SluiceError('SOURCE_UNSUITABLE', text)
    }
    if (row?.image.toUpperCase() !== 'FULL') {
      throw new SluiceError(
        'SOURCE_UNSUITABLE',
        `a snapshot of ${this.#options.instance}: expected binlog_row_image=FULL on the source, found ${row?.image}: ` +
          'rows that change while they are read would reach the target in parts',
      )
    }
    const tables = await this.#tables(filter)
    if (this.#timer === undefined)
      throw new SluiceError('CURSOR_CLOSED', 'the instance was stopped')
    const load = Load.begin(state, client, { tables, rowsPerSecond })
    this.#loads.set(client, load)
    this.#joined.get(client)?.load(load)
    return load.status
  }
  /** start(), unless there was a load for this client before; an error is logged, and the next call tries again. */
  once(client: string, filter: Filter): void {
    if (this.#starting.has(client) || this.#load(client) !== undefined) return
    this.#starting.add(client)
    void this.start(client, { filter })
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
  #load(client: string): Load | undefined {
    if (!this.#loads.has(client)) this.#loads.set(client, Load.find(this.#options.state, client))
    return this.#loads.get(client)
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
        const load = this.#load(client)
        if (order.verb === 'start') await this.#startFor(client, order)
        else if (load?.open !== true) answer = `nothing is loaded for ${client}`
        else if (order.verb === 'throttle') load.throttle(order.rowsPerSecond)
        else if (order.verb === 'cancel') {
          load.cancel()
          this.#joined.get(client)?.load(undefined)
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
    order: { readonly tables: string; readonly rowsPerSecond: number },
  ): Promise<void> {
    const { clients, instance } = this.#options
    if (!clients().includes(client)) {
      throw new SluiceError(
        'USAGE',
        `${instance} has no client ${client}; found ${clients().join(', ') || 'none'}`,
      )
    }
    const filter = compileFilter({ include: order.tables })
    await this.start(client, { filter, rowsPerSecond: order.rowsPerSecond })
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
