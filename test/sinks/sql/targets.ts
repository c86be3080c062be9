/** The three targets of the SQL sink's tests, each with a database of its own, and what a test asks of them. */
import pg from 'pg'
import { createConnection, type Connection } from 'mysql2/promise'
import type { SinkContext, Sink } from '../../../src/sinks/sink.ts'
import { sql } from '../../../src/sinks/sql.ts'
import { sharedMysql, uniqueDatabase, type MysqlServer } from '../../support/mysql.ts'
import { sharedService } from '../../support/services.ts'

export type Kind = 'mysql' | 'mariadb' | 'postgres'
export const kinds: readonly Kind[] = ['mysql', 'mariadb', 'postgres']

export interface Target extends AsyncDisposable {
  readonly kind: Kind
  readonly database: string
  readonly url: string
  readonly host: string
  readonly port: number
  /** Quotes a name. */
  quote(name: string): string
  query(sql: string): Promise<Record<string, unknown>[]>
  open(context: SinkContext, options?: Record<string, unknown>): Promise<Sink>
}

/** What a driver returned, as text. */
export const textOf = (value: unknown): string | null =>
  value === null ? null : String(value as string | number)

export async function openTarget(kind: Kind): Promise<Target> {
  const database = uniqueDatabase('sql')
  return kind === 'postgres' ? postgresTarget(database) : mysqlTarget(kind, database)
}
const openSink = (
  url: string,
  context: SinkContext,
  options: Record<string, unknown> = {},
): Promise<Sink> =>
  sql.open(sql.options.parse({ url, table: '{table}', createTables: true, ...options }), context)

async function mysqlTarget(kind: 'mysql' | 'mariadb', database: string): Promise<Target> {
  const server: MysqlServer | ReturnType<typeof sharedService> =
    kind === 'mysql' ? await sharedMysql('9.7') : sharedService('mariadb')
  const { host, port, user, password } = server
  const connection: Connection = await createConnection({
    host,
    port,
    user: user!,
    password: password!,
    charset: 'utf8mb4',
    dateStrings: true,
    supportBigNumbers: true,
    multipleStatements: true,
  })
  await connection.query(`CREATE DATABASE ${database} CHARACTER SET utf8mb4`)
  await connection.query(`USE ${database}`)
  await connection.query(`SET time_zone='+00:00'`)
  const url = `mysql://${user}:${password}@${host}:${port}/${database}`
  return {
    kind,
    database,
    url,
    host,
    port,
    quote: (name) => `\`${name}\``,
    query: async (text) => {
      const [rows] = await connection.query(text)
      return rows as Record<string, unknown>[]
    },
    open: (context, options) => openSink(url, context, options),
    [Symbol.asyncDispose]: async () => {
      await connection.query(`DROP DATABASE IF EXISTS ${database}`)
      await connection.end()
      await server[Symbol.asyncDispose]()
    },
  }
}

async function postgresTarget(database: string): Promise<Target> {
  const server = sharedService('postgres')
  const admin = new pg.Client({ connectionString: server.url })
  await admin.connect()
  await admin.query(`CREATE DATABASE ${database}`)
  const address = new URL(server.url)
  address.pathname = `/${database}`
  const url = address.href
  const client = new pg.Client({ connectionString: url, types: { getTypeParser: () => String } })
  await client.connect()
  await client.query("SET TIME ZONE 'UTC'")
  return {
    kind: 'postgres',
    database,
    url,
    host: server.host,
    port: server.port,
    quote: (name) => `"${name}"`,
    query: async (text) => {
      const result = await client.query(text)
      return (Array.isArray(result) ? result.at(-1) : result).rows as Record<string, unknown>[]
    },
    open: (context, options) => openSink(url, context, options),
    [Symbol.asyncDispose]: async () => {
      await client.end()
      await admin.query(`DROP DATABASE ${database} WITH (FORCE)`)
      await admin.end()
    },
  }
}

/** What PostgreSQL printed of a column of this type of the source, in the form in which the source prints it. */
export function postgresForm(sql: string, text: string): string {
  if (sql.startsWith('BIT')) return String(BigInt(`0b${text}`))
  if (/^(FLOAT|DOUBLE)/.test(sql)) {
    const number = sql === 'FLOAT' ? Math.fround(Number(text)) : Number(text)
    return Object.is(number, -0) ? '-0' : String(number)
  }
  if (sql === 'YEAR') return text.padStart(4, '0')
  if (/^(DATETIME|TIMESTAMP|TIME)/.test(sql)) {
    const plain = text.replace(/\+00\b/, '').replace(' BC', '')
    const digits = Number(/\((\d)\)/.exec(sql)?.[1] ?? 0)
    const [whole, part = ''] = plain.split('.')
    const full = digits === 0 ? whole! : `${whole}.${part.padEnd(digits, '0')}`
    return text.endsWith(' BC') ? `0000${full.slice(4)}` : full
  }
  if (sql === 'DATE') return text.endsWith(' BC') ? `0000${text.slice(4, 10)}` : text
  if (text.startsWith('\\x')) return text.slice(2).toUpperCase()
  if (sql.startsWith('VECTOR')) {
    const floats = Float32Array.from(text.slice(1, -1).split(',').map(Number))
    return Buffer.from(floats.buffer).toString('hex').toUpperCase()
  }
  return text
}
