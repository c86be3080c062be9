/**
 * A real MySQL for tests, the demo and the bench. `sharedMysql` is the server that the whole run shares (vitest's global
 * set-up started it): use a database of your own on it. `privateMysql` starts another one with its own data directory,
 * which may be killed and restarted. Nothing is installed, and nothing stays behind.
 */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createConnection, createPool } from 'mysql2/promise'
import type { Connection, ConnectionOptions, Pool } from 'mysql2/promise'
import { allVersions, findInstallation, variable } from './mysqld/install.ts'
import type { Installation, MysqlVersion } from './mysqld/install.ts'
import { account, createProcess } from './mysqld/server.ts'
import type { MysqlProcess } from './mysqld/server.ts'
import { parseAddress, type Service } from './services/service.ts'

export type { MysqlVersion } from './mysqld/install.ts'
export { matrixVersions } from './mysqld/install.ts'

export interface MysqlServer extends Service {
  /** What the server says it is, e.g. "9.7.4" or "8.0.31". */
  readonly version: string
  readonly user: string
  readonly password: string
  /** Where its data, binary logs and ca.pem lie; none when it is shared, in Docker or not ours. */
  readonly dataDir: string | undefined
  /**
   * Runs a statement on one of a few connections. Dates come as text, integers beyond 2^53 as strings. Several
   * statements in one text are allowed; then there is one result for each.
   */
  query<T = Record<string, unknown>>(sql: string, params?: readonly unknown[]): Promise<T[]>
  /** A connection of your own, with mysql2's options on top of ours; yours to end. */
  connect(options?: ConnectionOptions): Promise<Connection>
}

/** The environment's variable with the address of the server of `version` to use. */
export const urlVariable = (version: MysqlVersion): string =>
  version === 'mariadb-10.11' ? 'SLUICE_TEST_MARIADB' : variable('SLUICE_TEST_MYSQL', version)

/** What the environment says about a shared server, as the global set-up or .ci/run put it there. */
export function sharedUrl(version: MysqlVersion): string | undefined {
  return process.env[urlVariable(version)] || undefined
}

const present = allVersions.filter((version) => sharedUrl(version))
/** The versions this run has: `describe.each(versions)`. */
export const versions: readonly MysqlVersion[] = present.length > 0 ? present : allVersions

/** Makes sure that the server program for `version` is there; says where it comes from. Throws when there is none. */
export const fetchMysql = (version: MysqlVersion): Promise<Installation> =>
  findInstallation(version)

/** A name nobody else uses on a shared server. */
export const uniqueDatabase = (prefix: string): string =>
  `${prefix}_${randomBytes(5).toString('hex')}`

/** The server that this run shares. When only another version was given by `SLUICE_TEST_MYSQL`, that one. */
export async function sharedMysql(version: MysqlVersion): Promise<MysqlServer> {
  const url = sharedUrl(version) ?? (process.env['SLUICE_TEST_MYSQL'] || undefined)
  if (!url) throw new Error(`this run has no shared MySQL ${version}: see what the set-up said`)
  const server = new Server(url, undefined)
  await server.open()
  return server
}

/** A server of your own with `args` after the usual ones. Disposing it, or the end of the process, removes it. */
export async function privateMysql(
  version: MysqlVersion,
  options: { readonly args?: readonly string[] } = {},
): Promise<MysqlServer> {
  const installation = await findInstallation(version)
  for (let attempt = 1; ; attempt++) {
    const process = await createProcess(installation, options.args ?? [])
    const { user, password } = account
    const server = new Server(`mysql://${user}:${password}@127.0.0.1:${process.port}`, process)
    try {
      await server.start()
      return server
    } catch (error) {
      await server[Symbol.asyncDispose]()
      // somebody else was faster to listen on the port
      if (attempt === 3 || !/address already in use/i.test(String(error))) throw error
    }
  }
}

/** For the demo: the server of `SLUICE_TEST_MYSQL`, else one of our own, the newest that can be had. */
export async function anyMysql(): Promise<MysqlServer> {
  if (process.env['SLUICE_TEST_MYSQL']) return sharedMysql('9.7')
  const reasons: string[] = []
  for (const version of allVersions) {
    try {
      await findInstallation(version)
    } catch (error) {
      reasons.push((error as Error).message)
      continue
    }
    return privateMysql(version)
  }
  throw new Error(reasons.join('\n'))
}

class Server implements MysqlServer {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
  readonly url: string
  readonly ca: string | undefined
  readonly dir: string | undefined
  readonly dataDir: string | undefined
  version = ''
  readonly #process: MysqlProcess | undefined
  #pool: Pool | undefined

  constructor(url: string, process: MysqlProcess | undefined) {
    const address = parseAddress(url, { scheme: 'mysql', defaultPort: 3306 })
    this.host = address.host
    this.port = address.port
    this.url = address.url
    this.user = address.user ?? ''
    this.password = address.password ?? ''
    this.dir = process?.dir
    this.dataDir = process?.dataDir
    const ca = this.dataDir && join(this.dataDir, 'ca.pem')
    this.ca = ca && existsSync(ca) ? ca : undefined
    this.#process = process
  }

  get #options(): ConnectionOptions {
    return {
      host: this.host,
      port: this.port,
      user: this.user,
      password: this.password,
      multipleStatements: true,
      supportBigNumbers: true,
      dateStrings: true,
      charset: 'utf8mb4',
    }
  }

  async query<T>(sql: string, params: readonly unknown[] = []): Promise<T[]> {
    this.#pool ??= createPool({ ...this.#options, connectionLimit: 4, maxIdle: 1 })
    const [rows] = await this.#pool.query(sql, [...params])
    return rows as T[]
  }
  connect(options: ConnectionOptions = {}): Promise<Connection> {
    return createConnection({ ...this.#options, ...options })
  }

  /** Asks for the version; the process, when there is one, must answer already. */
  async open(): Promise<void> {
    const [row] = await this.query<{ version: string }>('SELECT VERSION() AS version')
    this.version = row!.version
  }

  async start(): Promise<void> {
    await this.#own.start()
    const deadline = Date.now() + 120_000
    while (!(await this.#answers(deadline))) await sleep(20)
    if (!this.version) await this.open()
  }
  async kill(): Promise<void> {
    await this.#own.kill()
    await this.#disconnect()
  }
  async stop(): Promise<void> {
    await this.#disconnect()
    await this.#own.stop()
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#disconnect()
    await this.#process?.dispose()
  }

  get #own(): MysqlProcess {
    if (!this.#process) throw new Error('this server is shared: start a private one to stop it')
    return this.#process
  }

  async #disconnect(): Promise<void> {
    const pool = this.#pool
    this.#pool = undefined
    await pool?.end().catch(() => undefined)
  }

  /** Whether our own process answers our account. Throws when it ended. */
  async #answers(deadline: number): Promise<boolean> {
    const ended = await this.#own.ended()
    if (ended) throw new Error(`MySQL did not start: ${ended}`)
    try {
      await using connection = await this.connect({ connectTimeout: 2000, ...this.#starter })
      if (!this.dataDir && !this.version) await createAccount(connection)
      const [rows] = await connection.query('SELECT @@server_id AS id, @@datadir AS dir')
      const [row] = rows as { id: number; dir: string }[]
      // another test's server may have taken the port before ours could
      if (this.dataDir && row!.dir !== `${this.dataDir}/`) throw new Error('address already in use')
      return true
    } catch (error) {
      const { code } = error as { code?: string }
      const waits = ['ECONNREFUSED', 'ECONNRESET', 'PROTOCOL_CONNECTION_LOST', 'ETIMEDOUT']
      if (!code || !waits.includes(code) || Date.now() > deadline) throw error
      return false
    }
  }

  /** An image starts with root only. */
  get #starter(): ConnectionOptions {
    return this.dataDir ? {} : { user: 'root' }
  }
}

async function createAccount(connection: Connection): Promise<void> {
  const { user, password } = account
  await connection.query(`CREATE USER IF NOT EXISTS '${user}'@'%' IDENTIFIED BY '${password}'`)
  await connection.query(`GRANT ALL ON *.* TO '${user}'@'%' WITH GRANT OPTION`)
}
