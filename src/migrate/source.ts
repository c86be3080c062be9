/**
 * The database that is moved from: how it is configured as the source of an instance, one connection for questions with a
 * session in which SHOW CREATE TABLE says the same everywhere, and what a cut-over does to it.
 */
import type { InstanceConfig } from '../config/config.ts'
import { instanceOf } from '../config/config.ts'
import { SluiceError } from '../errors.ts'
import { compileFilter } from '../filter.ts'
import type { Filter } from '../change.ts'
import { refusedOnly } from '../lookup.ts'
import { Connection } from '../mysql/connection.ts'
import { logStatus } from '../sources/index.ts'
import { connectOptions } from '../upstream/connect.ts'
import { takeInventory, type Inventory, type Query } from './schema/inventory.ts'
import type { Endpoint, Place, Wanted } from './options.ts'

const TRIES = 20

export class Source {
  readonly #config: InstanceConfig
  readonly #filter: Filter
  #connection: Promise<Connection> | undefined

  constructor(end: Endpoint, wanted: Wanted) {
    const filter = filterOf(wanted)
    this.#config = instanceOf('source', { source: sourceOf(end), filter })
    this.#filter = compileFilter(filter)
  }
  get config(): InstanceConfig {
    return this.#config
  }
  get filter(): Filter {
    return this.#filter
  }
  /** Asks; after an error the next question connects anew. */
  readonly query: Query = async <T>(sql: string, params?: readonly string[]): Promise<T[]> => {
    const connection = (this.#connection ??= this.#open())
    try {
      return await (await connection).query<T>(sql, params)
    } catch (error) {
      if (this.#connection === connection && !refusedOnly(error)) this.close()
      throw error
    }
  }
  connection(): Promise<Connection> {
    return (this.#connection ??= this.#open())
  }
  async #open(): Promise<Connection> {
    const connection = await Connection.open(connectOptions(this.#config.source))
    await connection.query("SET SESSION sql_mode='', sql_quote_show_create=1, time_zone='+00:00'")
    return connection
  }
  close(): void {
    const connection = this.#connection
    this.#connection = undefined
    connection?.then(
      (one) => one.close(),
      () => {},
    )
  }

  inventory(): Promise<Inventory> {
    return takeInventory(this.query, this.#filter)
  }
  /** Definitions, and a place in the log at which they held: DDL before it is in them, DDL behind it is in the stream. */
  async definitionsAt(): Promise<{ readonly inventory: Inventory; readonly place: Place }> {
    let before = await this.inventory()
    for (let i = 0; i < TRIES; i++) {
      const place = await this.logEnd()
      const inventory = await this.inventory()
      if (shape(before) === shape(inventory)) return { inventory, place }
      before = inventory
    }
    throw new SluiceError(
      'SOURCE_UNSUITABLE',
      `expected tables that keep their definitions for a moment, found DDL at each of ${TRIES} looks; start again when it is over`,
    )
  }
  async logEnd(): Promise<Place> {
    const place = await logStatus({ query: this.query })
    return { ...place, gtids: place.gtids.replaceAll('\n', '') }
  }
  /** Nobody but those with SUPER writes any more; with `everybody` not even they, where the server can do that. */
  async lock(everybody: boolean): Promise<void> {
    await this.query('SET GLOBAL read_only = ON')
    if (everybody && (await this.#knowsSuper())) await this.query('SET GLOBAL super_read_only = ON')
  }
  /** The statement that ends it. */
  async unlockText(): Promise<string> {
    return `SET GLOBAL ${(await this.#knowsSuper()) ? 'super_read_only = OFF, ' : ''}read_only = OFF`
  }
  /** MariaDB and MySQL before 5.7 do not. */
  async #knowsSuper(): Promise<boolean> {
    return (await this.query("SHOW VARIABLES LIKE 'super_read_only'")).length > 0
  }
}
const shape = ({ tables }: Inventory): string =>
  tables.map(({ create }) => create.replace(/ AUTO_INCREMENT=\d+/, '')).join('\n')

/** The keys of an instance file; of a target, too, whose own changes are read. */
export function sourceOf({ host, port, user, password, tls, ca }: Endpoint): object {
  const mode = tls === 'verify' ? 'verify-ca' : tls
  return { host, port, user, password, ...(mode !== undefined && { tls: { mode, ca } }) }
}
/** Positions that sinks keep in the same databases are no part of them. */
export const filterOf = ({ tables, exclude }: Wanted): { include: string; exclude: string } => ({
  include: tables || '.*\\..*',
  exclude: ['.*\\.sluice_cursors(_tombstones)?', 'sluice_migrate\\..*', exclude]
    .filter((text) => text !== '')
    .join(','),
})
