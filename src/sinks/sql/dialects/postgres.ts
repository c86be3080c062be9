/**
 * PostgreSQL as a target: a session whose settings never come between a value and its column, what its errors mean, and
 * what there is to know of a target's tables and types.
 */
import type { Client } from 'pg'
import type { SluiceError } from '../../../errors.ts'
import type { TargetColumn } from '../../shape/row.ts'
import type { Address } from './address.ts'
import {
  failure,
  familyOf,
  type Dialect,
  type Found,
  type Outcome,
  type Session,
  type Statement,
  type TargetName,
} from './dialect.ts'
import { ArrayCollector, full, quote, text } from './postgres-rows.ts'

// ── the session ──────────────────────────────────────────────────────────────

const GRANT =
  'grant the account SELECT, INSERT, UPDATE, DELETE (and CREATE where Sluice makes tables)'
const UNSUITABLE = new Map<string, string>([
  ['28000', 'check user and password in url'],
  ['28P01', 'check user and password in url'],
  ['3D000', 'create the database, or name another in url'],
  ['3F000', 'create the schema, or set createTables: true'],
  ['42501', GRANT],
  ['42P01', 'create the table, or set createTables: true'],
  ['42703', 'add the column to the target, leave it out in the mapping, or set ddl: apply'],
  ['42P10', 'give the table a primary key or a unique index on the key columns'],
])
const CONSTRAINTS = new Set(['23505', '23503', '23001', '23P01', '21000'])

function failureOf(where: string, cause: unknown): SluiceError {
  const { code = '', detail } = cause as { code?: string; detail?: string }
  const sqlState = /^[0-9A-Z]{5}$/.test(code) ? code : ''
  const advice = UNSUITABLE.get(sqlState)
  if (advice !== undefined) return failure('SINK_UNSUITABLE', where, cause, advice)
  if (sqlState === '' || /^(08|40|53|55|57|58|XX|25006|25P03)/.test(sqlState))
    return failure('SINK_UNAVAILABLE', where, cause)
  if (/^(42|0A|28)/.test(sqlState)) return failure('SINK_UNSUITABLE', where, cause)
  return failure(CONSTRAINTS.has(sqlState) ? 'constraint' : 'SINK_DATA', where, cause, detail)
}

class PostgresSession implements Session {
  readonly #client: Client
  readonly #where: string
  #broken: unknown
  #fail: ((error: unknown) => void) | undefined
  constructor(client: Client, where: string) {
    this.#client = client
    this.#where = where
    client.on('error', (error) => this.#break(error))
    client.on('end', () => this.#break(new Error('the server closed the connection')))
  }
  #break(error: unknown): void {
    this.#broken ??= error
    this.#fail?.(error)
  }
  get alive(): boolean {
    return this.#broken === undefined
  }
  async run(statement: Statement | string): Promise<Outcome> {
    const { sql, values, name } =
      typeof statement === 'string' ? { sql: statement } : (statement as Statement)
    try {
      if (this.#broken !== undefined) throw this.#broken
      const result = await new Promise<unknown>((resolve, reject) => {
        this.#fail = reject
        const query = {
          text: sql,
          ...(values === undefined ? {} : { values: [...values] }),
          ...(name === undefined ? {} : { name }),
        }
        this.#client.query(query).then(resolve, reject)
      })
      return outcome(result)
    } catch (error) {
      const known = failureOf(this.#where, error)
      if (known.code === 'SINK_UNAVAILABLE') this.#broken ??= error
      throw known
    } finally {
      this.#fail = undefined
    }
  }
  async close(): Promise<void> {
    this.#break(new Error('closed by us'))
    await this.#client.end().catch(() => undefined)
  }
}
interface Result {
  readonly rows: readonly Record<string, unknown>[]
  readonly rowCount: number | null
}
function outcome(result: unknown): Outcome {
  const last = (Array.isArray(result) ? result.at(-1) : result) as Result
  return { rows: last.rows, count: last.rowCount ?? 0 }
}

async function connect(address: Address, where: string): Promise<Session> {
  const { default: pg } = await import('pg')
  const client = new pg.Client({
    host: address.host,
    port: address.port,
    user: address.user,
    password: address.password,
    database: address.database,
    ssl: address.tls ?? false,
    connectionTimeoutMillis: address.connectTimeoutMs,
    query_timeout: address.statementTimeoutMs,
    keepAlive: true,
    application_name: 'sluice',
    // a process that was lost or sleeps must not hold the cursor's row: between statements there are milliseconds
    idle_in_transaction_session_timeout: 15_000,
    lock_timeout: 30_000,
    // texts come as the source has them
    types: { getTypeParser: () => (value: unknown) => value },
  })
  try {
    await client.connect()
  } catch (error) {
    await client.end().catch(() => undefined)
    throw failureOf(where, error)
  }
  const session = new PostgresSession(client, where)
  await session.run(
    "SET TIME ZONE 'UTC'; SET datestyle='ISO, YMD'; SET intervalstyle='postgres'; SET bytea_output='hex'; SET extra_float_digits=1; SET standard_conforming_strings=on",
  )
  return session
}

// ── what is there ────────────────────────────────────────────────────────────

async function describe(session: Session, name: TargetName): Promise<Found | undefined> {
  const table = `to_regclass(${text(full(name))})`
  const columns = await session.run(
    `SELECT attname AS name, format_type(atttypid, -1) AS type, attgenerated <> '' AS generated
     FROM pg_attribute WHERE attrelid=${table} AND attnum > 0 AND NOT attisdropped ORDER BY attnum`,
  )
  if (columns.rows.length === 0) return undefined
  const indexes = await session.run(
    `SELECT i.indexrelid AS id, a.attname AS name FROM pg_index i
     CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
     JOIN pg_attribute a ON a.attrelid=i.indrelid AND a.attnum=k.attnum
     WHERE i.indrelid=${table} AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND k.n <= i.indnkeyatts
     ORDER BY NOT i.indisprimary, i.indexrelid, k.n`,
  )
  const uniques = new Map<string, string[]>()
  for (const row of indexes.rows) {
    const id = String(row['id'])
    uniques.set(id, [...(uniques.get(id) ?? []), String(row['name'])])
  }
  const cascading = await session.run(
    `SELECT 1 FROM pg_constraint WHERE contype='f' AND (conrelid=${table} OR confrelid=${table})
     AND (confdeltype IN ('c','n','d') OR confupdtype IN ('c','n','d')) LIMIT 1`,
  )
  return {
    columns: columns.rows.map((row) => ({
      name: String(row['name']),
      type: String(row['type']),
      generated: row['generated'] === 't' || row['generated'] === true,
    })),
    uniques: [...uniques.values()],
    cascades: cascading.rows.length > 0,
  }
}

const bookkeeping = (cursors: string, tombstones: string): string[] => [
  `CREATE TABLE IF NOT EXISTS ${cursors} (
     name text PRIMARY KEY, server text, epoch bigint NOT NULL DEFAULT 0, position text,
     pending text, fence bigint NOT NULL DEFAULT 0,
     owner text NOT NULL, gtids text, updated_at timestamptz NOT NULL DEFAULT now())`,
  `CREATE TABLE IF NOT EXISTS ${tombstones} (
     table_name text NOT NULL, row_key bytea NOT NULL, version text COLLATE "C" NOT NULL,
     deleted_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (table_name, row_key))`,
]

function typeOf({ column, derived }: TargetColumn, json: 'json' | 'jsonb'): string {
  if (column === undefined || derived !== undefined) return 'text'
  const { mysqlType, unsigned } = column
  const binary = familyOf({ column, derived } as TargetColumn) === 'binary'
  return postgresType({ mysqlType, unsigned, binary }, json)
}
/** The nearest type that holds every value of a type of MySQL's. */
export function postgresType(
  source: { readonly mysqlType: string; readonly unsigned: boolean; readonly binary: boolean },
  json: 'json' | 'jsonb',
): string {
  const { mysqlType, unsigned, binary } = source
  const name = /^\w+/.exec(mysqlType)?.[0] ?? ''
  const [first, second] = [...mysqlType.matchAll(/\d+/g)].map(([digits]) => digits)
  const digits = first === undefined ? '0' : first
  switch (name) {
    case 'tinyint':
    case 'year':
      return 'smallint'
    case 'smallint':
      return unsigned ? 'integer' : 'smallint'
    case 'mediumint':
      return 'integer'
    case 'int':
      return unsigned ? 'bigint' : 'integer'
    case 'bigint':
      return unsigned ? 'numeric(20)' : 'bigint'
    case 'decimal':
      return `numeric(${first ?? 10},${second ?? 0})`
    case 'float':
      return 'real'
    case 'double':
      return 'double precision'
    case 'bit':
      return `bit(${first ?? 1})`
    case 'date':
      return 'date'
    case 'datetime':
      return `timestamp(${digits})`
    case 'timestamp':
      return `timestamptz(${digits})`
    case 'time':
      return `interval(${digits})`
    case 'char':
    case 'varchar':
      return `varchar(${first ?? 1})`
    case 'json':
      return json
    case 'uuid':
      return 'uuid'
    case 'vector':
      return 'real[]'
    default:
      return binary ? 'bytea' : 'text'
  }
}

export function postgresDialect(address: Address, json: 'json' | 'jsonb'): Dialect {
  const where = `postgres://${address.host}:${address.port}/${address.database}`
  return {
    name: 'postgres',
    where,
    versionType: 'text COLLATE "C"',
    statementMax: 256 * 1024 * 1024,
    connect: () => connect(address, where),
    quote,
    full,
    text,
    bookkeeping,
    describe,
    collector: (shape, options) => new ArrayCollector(shape, options),
    typeOf: (column) => typeOf(column, json),
    createSpace: (space) => `CREATE SCHEMA IF NOT EXISTS ${quote(space)}`,
  }
}
