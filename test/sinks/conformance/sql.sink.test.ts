/** The SQL sink in the conformance suite: to each of its targets, in both of its ways. */
import pg from 'pg'
import { createConnection, type Connection } from 'mysql2/promise'
import { sharedMysql, uniqueDatabase } from '../../support/mysql.ts'
import { hasService, sharedService } from '../../support/services.ts'
import { long } from '../../e2e/load.ts'
import { conformance, type Destination, type Place } from '../conformance.ts'
import type { Address } from './scene.ts'
import { postgresForm as formOf } from '../sql/targets.ts'
import {
  fromDouble,
  fromJson,
  parseExact,
  selectRows,
  short,
  type ColumnSpec,
  type Row,
  type TableSpec,
} from './tables.ts'

type Fence = 'position' | 'version'
const own = (fence: Fence): object => ({
  type: 'sql',
  table: '{table}',
  fence,
  createTables: true,
  ddl: 'ignore',
})
const promiseOf = (fence: Fence): 'transactional' | 'fenced' =>
  fence === 'position' ? 'transactional' : 'fenced'
const toUrl = (url: string, at: Address, database: string): string => {
  const address = new URL(url)
  address.host = `${at.host}:${at.port}`
  address.pathname = `/${database}`
  return address.href
}
class MysqlTarget implements Destination {
  readonly promise
  readonly address
  readonly refused = 'x'.repeat(70_000)
  readonly #database = uniqueDatabase('target')
  readonly #url: string
  readonly #fence: Fence
  #connection!: Connection
  readonly #mariadb: boolean
  constructor(url: string, fence: Fence, mariadb = false) {
    const { hostname: host, port } = new URL(url)
    this.#url = url
    this.#fence = fence
    this.#mariadb = mariadb
    this.promise = promiseOf(fence)
    this.address = { host, port: Number(port) }
  }
  async prepare(place: Place): Promise<void> {
    this.#connection = await createConnection({
      uri: this.#url,
      charset: 'utf8mb4',
      dateStrings: true,
      multipleStatements: true,
    })
    const version = this.#fence === 'version' ? ', sluice_version CHAR(40) NOT NULL' : ''
    await this.#connection.query(
      `CREATE DATABASE ${this.#database} CHARACTER SET utf8mb4; USE ${this.#database}; SET time_zone='+00:00';
       CREATE TABLE picky (id INT PRIMARY KEY, v TEXT${version})`,
    )
    // JSON text has no DECIMAL, dates and binary as MySQL's own JSON has: to the letter only as text
    const documents = place.tables.find(({ name }) => name === 'documents')!
    const columns = documents.columns.map(
      ({ name, sql }) => `${name} ${sql.replace('JSON', 'LONGTEXT')}`,
    )
    await this.#connection.query(`CREATE TABLE documents (${columns.join(', ')}${version})`)
  }
  sink(_: Place, at: Address): object {
    return { ...own(this.#fence), url: toUrl(this.#url, at, this.#database) }
  }
  async rows(_: Place, table: TableSpec): Promise<Map<string, Row>> {
    const query = async <T>(sql: string): Promise<T[]> =>
      (await this.#connection.query(sql))[0] as T[]
    return selectRows({ query }, this.#database, table).catch(ifMissing)
  }
  /** MariaDB's JSON, with which doubles are printed, has no -0. */
  shown({ form }: ColumnSpec, value: string | null): string | null {
    return this.#mariadb && form === 'float' && value === '-0' ? '0' : value
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#connection.query(`DROP DATABASE ${this.#database}`)
    await this.#connection.end()
  }
}
const ifMissing = (error: unknown): Map<string, Row> => {
  if (/doesn't exist|does not exist/.test(String(error))) return new Map()
  throw error
}

class PostgresTarget implements Destination {
  readonly promise
  readonly address
  readonly refused = 'x'.repeat(70_000)
  readonly #database = uniqueDatabase('target')
  readonly #url: string
  readonly #fence: Fence
  #client!: pg.Client
  constructor(url: string, fence: Fence) {
    const { hostname: host, port } = new URL(url)
    this.#url = url
    this.#fence = fence
    this.promise = promiseOf(fence)
    this.address = { host, port: Number(port) }
  }
  async prepare(): Promise<void> {
    const admin = new pg.Client({ connectionString: this.#url })
    await admin.connect()
    await admin.query(`CREATE DATABASE ${this.#database}`)
    await admin.end()
    const connectionString = toUrl(this.#url, this.address, this.#database)
    this.#client = new pg.Client({ connectionString, types: { getTypeParser: () => String } })
    await this.#client.connect()
    const version = this.#fence === 'version' ? ', sluice_version TEXT COLLATE "C" NOT NULL' : ''
    await this.#client.query("SET TIME ZONE 'UTC'")
    await this.#client.query(`CREATE TABLE picky (id INT PRIMARY KEY, v VARCHAR(60000)${version})`)
  }
  sink(_: Place, at: Address): object {
    return { ...own(this.#fence), nul: 'remove', url: toUrl(this.#url, at, this.#database) }
  }
  async rows(_: Place, table: TableSpec): Promise<Map<string, Row>> {
    const list = table.columns.map(({ name }) => `${name}::text AS ${name}`)
    const text = `SELECT ${list.join(', ')} FROM ${table.name}`
    try {
      const { rows } = await this.#client.query<Record<string, string | null>>(text)
      return new Map(
        rows.map((row) => [
          row['id']!,
          Object.fromEntries(table.columns.map((c) => [c.name, postgresForm(c, row[c.name]!)])),
        ]),
      )
    } catch (error) {
      return ifMissing(error)
    }
  }
  shown(column: ColumnSpec, value: string | null): string | null {
    if (value === null) return null
    const { sql } = column
    // the table of types: dates that do not exist, U+0000
    if (/^(DATE|TIMESTAMP)/.test(sql) && /-00/.test(value.slice(0, 10))) return null
    return value.replaceAll('\0', '')
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client.end()
    const admin = new pg.Client({ connectionString: this.#url })
    await admin.connect()
    await admin.query(`DROP DATABASE ${this.#database} WITH (FORCE)`)
    await admin.end()
  }
}

function postgresForm(column: ColumnSpec, text: string | null): string | null {
  if (text === null) return null
  const { sql, form } = column
  if (form === 'json') return fromJson(column, parseExact(text))
  if (form === 'float') return fromDouble(sql, text)
  const plain = formOf(sql, text)
  return short(form === 'integer' ? String(BigInt(plain)) : plain)
}

/** In the short form MySQL with positions, MariaDB with versions, PostgreSQL with both. */
for (const fence of ['position', 'version'] as const) {
  if (long || fence === 'position')
    conformance(`sql to MySQL, fence: ${fence}`, async () => {
      const { host, port, user, password } = await sharedMysql('9.7')
      return new MysqlTarget(`mysql://${user}:${password}@${host}:${port}/`, fence)
    })
  if (hasService('mariadb') && (long || fence === 'version'))
    conformance(`sql to MariaDB, fence: ${fence}`, async () => {
      return new MysqlTarget(sharedService('mariadb').url, fence, true)
    })
  if (hasService('postgres'))
    conformance(`sql to PostgreSQL, fence: ${fence}`, async () => {
      return new PostgresTarget(sharedService('postgres').url, fence)
    })
}
