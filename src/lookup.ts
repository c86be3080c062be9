/**
 * A connection for questions (table definitions, server facts) that is there when it is needed: opened by the first
 * query, closed after a quiet while, so that no server time-out and no forgetful firewall finds it half dead.
 */
import { SluiceError } from './errors.ts'
import { Connection, NO_LIMITS } from './mysql/connection.ts'
import type { ConnectOptions } from './mysql/connection.ts'

const QUIET_MS = 15_000

export class Lookup {
  readonly #options: ConnectOptions
  #connection: Promise<Connection> | undefined
  #running = 0
  #timer: NodeJS.Timeout | undefined

  constructor(options: ConnectOptions) {
    this.#options = options
  }

  /** As Connection.query. After a failure the next query connects anew. */
  async query<T>(sql: string, params?: Parameters<Connection['query']>[1]): Promise<T[]> {
    clearTimeout(this.#timer)
    this.#running++
    const connection = (this.#connection ??= this.#open())
    try {
      return await (await connection).query<T>(sql, params)
    } catch (error) {
      if (this.#connection === connection && !refusedOnly(error)) this.close()
      throw error
    } finally {
      if (--this.#running === 0) this.#timer = setTimeout(() => this.close(), QUIET_MS).unref()
    }
  }

  async #open(): Promise<Connection> {
    const connection = await Connection.open(this.#options)
    try {
      await connection.query(NO_LIMITS)
      return connection
    } catch (error) {
      connection.close()
      throw error
    }
  }

  /** Closes what is open; a later query opens it again. */
  close(): void {
    clearTimeout(this.#timer)
    const connection = this.#connection
    this.#connection = undefined
    connection?.then(
      (c) => c.close(),
      () => {},
    )
  }
}

/**
 * Whether the server has refused a statement and the connection is as good as before: others may be in the middle of an answer
 * on it. (Servers before 8.2 refuse the new name of a statement each time that it is tried before the old one.)
 */
export function refusedOnly(error: unknown): boolean {
  if (!(error instanceof SluiceError) || !['QUERY_FAILED', 'ACCESS_DENIED'].includes(error.code))
    return false
  const cause = error.cause as { sqlState?: unknown; fatal?: unknown } | undefined
  return typeof cause?.sqlState === 'string' && cause.fatal !== true
}
