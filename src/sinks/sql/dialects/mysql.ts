/**
 * MySQL and MariaDB as a target: a session that says what exactness needs (strict, UTC, no surprises with zero), so that
 * a session's time zone, charset or sql_mode never comes between; and what there is to know of a target's tables.
 */
import type { Connection } from 'mysql2'
import type { SluiceError } from '../../../errors.ts'
import type { TargetColumn } from '../../shape/row.ts'
import type { Address } from './address.ts'
import {
  ADDRESSES,
  failure,
  familyOf,
  type Dialect,
  type Found,
  type Outcome,
  type Session,
  type TargetName,
} from './dialect.ts'
import { full, quote, text, TextCollector, type MysqlStatement } from './mysql-rows.ts'

const STRICT = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION'
const LENIENT = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION'
// ── the session ──────────────────────────────────────────────────────────────

interface Header {
  readonly affectedRows?: number
}
type Result = Header | readonly Record<string, unknown>[]

const UNAVAILABLE = new Set([
  1021, 1030, 1037, 1038, 1040, 1041, 1042, 1043, 1053, 1080, 1114, 1152, 1158, 1159, 1160, 1161,
  1180, 1184, 1189, 1190, 1203, 1205, 1206, 1213, 1226, 1290, 1317, 1792, 1836, 1927, 1969, 3024,
  3032, 3100, 3101, 3572, 4031,
])
const UNSUITABLE = new Map<number, string>([
  [
    1044,
    'grant the account SELECT, INSERT, UPDATE, DELETE (and CREATE, ALTER where Sluice makes tables)',
  ],
  [1045, 'check user and password in url'],
  [1049, 'create the database, or name another in url or table'],
  [1054, 'add the column to the target, leave it out in the mapping, or set ddl: apply'],
  [1064, ''],
  [1136, ''],
  [
    1142,
    'grant the account SELECT, INSERT, UPDATE, DELETE (and CREATE, ALTER where Sluice makes tables)',
  ],
  [1143, 'grant the account access to the column'],
  [1146, 'create the table, or set createTables: true'],
  [1227, 'grant the account the privilege it names'],
  [1298, ''],
  [1418, ''],
  [1665, "set the target's binlog_format to ROW"],
  [1698, 'check user and password in url'],
  [1820, 'set a new password for the account'],
  [3118, 'unlock the account'],
])
const CONSTRAINTS = new Set([1022, 1048, 1062, 1169, 1216, 1217, 1451, 1452, 1557, 1761, 1762])

function failureOf(where: string, cause: unknown): SluiceError {
  const { errno, fatal, code } = cause as { errno?: number; fatal?: boolean; code?: string }
  const number = errno ?? 0
  const advice = UNSUITABLE.get(number)
  if (advice !== undefined) return failure('SINK_UNSUITABLE', where, cause, advice)
  if (UNAVAILABLE.has(number) || number < 1000 || (number >= 2000 && number < 3000))
    return failure('SINK_UNAVAILABLE', where, cause)
  if (fatal === true && code?.startsWith('ER_') !== true)
    return failure('SINK_UNAVAILABLE', where, cause)
  return failure(CONSTRAINTS.has(number) ? 'constraint' : 'SINK_DATA', where, cause)
}

const IDLE_S = 28_800
const IDLE_INSIDE_S = 15
/**
 * MySQL has no limit for transactions that nobody goes on with: a process that sleeps, or a machine that was lost, would
 * hold the cursor's row for hours. So the connection's own limit is a short one from BEGIN on; between our statements
 * there are milliseconds.
 */
function impatient(sql: string): string {
  if (sql.startsWith('BEGIN')) return `SET wait_timeout=${IDLE_INSIDE_S}; ${sql}`
  if (sql === 'COMMIT' || sql === 'ROLLBACK') return `${sql}; SET wait_timeout=${IDLE_S}`
  return sql
}

class MysqlSession implements Session {
  readonly #connection: Connection
  readonly #where: string
  readonly #timeoutMs: number
  #broken: unknown
  #fail: ((error: unknown) => void) | undefined
  constructor(connection: Connection, where: string, timeoutMs: number) {
    this.#connection = connection
    this.#where = where
    this.#timeoutMs = timeoutMs
    connection.on('error', (error) => this.#break(error))
    connection.on('end', () => this.#break(new Error('the server closed the connection')))
  }
  #break(error: unknown): void {
    this.#broken ??= error
    this.#fail?.(error)
  }
  get alive(): boolean {
    return this.#broken === undefined
  }
  async run(statement: MysqlStatement | string): Promise<Outcome> {
    if (typeof statement === 'string') return outcome(await this.#query(impatient(statement)))
    const { sql, lenient } = statement
    if (lenient === undefined) return outcome(await this.#query(sql))
    try {
      await this.#query(`SET sql_mode='${LENIENT}'`)
      const result = await this.#query(sql)
      const warnings = outcome(await this.#query('SHOW WARNINGS')).rows
      const bad = warnings.find((warning) => !isExpected(warning, lenient))
      if (bad === undefined) return outcome(result)
      throw failure('SINK_DATA', this.#where, new Error(String(bad['Message'])))
    } finally {
      if (this.alive) await this.#query(`SET sql_mode='${STRICT}'`)
    }
  }
  async #query(sql: string): Promise<Result | readonly Result[]> {
    try {
      if (this.#broken !== undefined) throw this.#broken
      return await new Promise<Result | readonly Result[]>((resolve, reject) => {
        this.#fail = reject // the driver forgets a query under way when its connection is closed
        this.#connection.query({ sql, timeout: this.#timeoutMs }, (error, result) => {
          if (error) reject(error)
          else resolve(result as Result | readonly Result[])
        })
      })
    } catch (error) {
      const known = failureOf(this.#where, error)
      if (known.code === 'SINK_UNAVAILABLE') this.#broken ??= error
      throw known
    } finally {
      this.#fail = undefined
    }
  }
  close(): Promise<void> {
    this.#break(new Error('closed by us'))
    this.#connection.destroy()
    return Promise.resolve()
  }
}
function isExpected(warning: Record<string, unknown>, columns: ReadonlySet<string>): boolean {
  const message = String(warning['Message'])
  if (warning['Level'] === 'Note' || warning['Code'] === 1287) return true
  return warning['Code'] === 1265 && [...columns].some((name) => message.includes(`'${name}'`))
}
function outcome(result: Result | readonly Result[]): Outcome {
  const list = Array.isArray(result) && result.some((one) => Array.isArray(one) || isHeader(one))
  const last = (list ? (result as readonly Result[]).at(-1) : result) as Result
  if (Array.isArray(last)) return { rows: last, count: last.length }
  return { rows: [], count: (last as Header).affectedRows ?? 0 }
}
const isHeader = (value: unknown): boolean =>
  typeof value === 'object' && value !== null && 'affectedRows' in value && 'warningStatus' in value

async function connect(address: Address, where: string): Promise<{ session: MysqlSession }> {
  const { createConnection } = await import('mysql2')
  const connection = createConnection({
    host: address.host,
    port: address.port,
    user: address.user,
    password: address.password,
    ...(address.database === '' ? {} : { database: address.database }),
    ...(address.tls === undefined ? {} : { ssl: address.tls }),
    connectTimeout: address.connectTimeoutMs,
    charset: 'utf8mb4',
    multipleStatements: true,
    // statements have no placeholders: nobody needs to look for them
    queryFormat: (sql: string) => sql,
    supportBigNumbers: true,
    bigNumberStrings: true,
    dateStrings: true,
    enableKeepAlive: true,
  })
  await new Promise<void>((resolve, reject) => {
    connection.once('error', reject)
    connection.connect((error) => (error ? reject(error) : resolve()))
  }).catch((error: unknown) => {
    connection.destroy()
    throw failureOf(where, error)
  })
  const session = new MysqlSession(connection, where, address.statementTimeoutMs)
  await session.run(
    `SET SESSION sql_mode='${STRICT}', time_zone='+00:00', innodb_lock_wait_timeout=30,
       max_error_count=65535, wait_timeout=${IDLE_S}, foreign_key_checks=1, unique_checks=1`,
  )
  await session.run('SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED')
  return { session }
}

// ── what is there ────────────────────────────────────────────────────────────

interface Facts {
  statementMax: number
  mariadb: boolean
}

async function describe(
  session: Session,
  { space, table }: TargetName,
): Promise<Found | undefined> {
  const at = (schema: string, name: string): string =>
    `${schema}=${space === undefined ? 'DATABASE()' : text(space)} AND ${name}=${text(table)}`
  const columns = await session.run(
    `SELECT COLUMN_NAME AS name, COLUMN_TYPE AS type, EXTRA AS extra FROM information_schema.COLUMNS
     WHERE ${at('TABLE_SCHEMA', 'TABLE_NAME')} ORDER BY ORDINAL_POSITION`,
  )
  if (columns.rows.length === 0) return undefined
  const indexes = await session.run(
    `SELECT INDEX_NAME AS name, COLUMN_NAME AS col FROM information_schema.STATISTICS
     WHERE ${at('TABLE_SCHEMA', 'TABLE_NAME')} AND NON_UNIQUE=0
     ORDER BY INDEX_NAME<>'PRIMARY', INDEX_NAME, SEQ_IN_INDEX`,
  )
  const uniques = new Map<string, string[]>()
  for (const { name, col } of indexes.rows) {
    const list = uniques.get(String(name)) ?? []
    uniques.set(String(name), [...list, String(col)])
  }
  const cascading = await session.run(
    `SELECT 1 FROM information_schema.REFERENTIAL_CONSTRAINTS
     WHERE ((${at('CONSTRAINT_SCHEMA', 'TABLE_NAME')}) OR (${at('UNIQUE_CONSTRAINT_SCHEMA', 'REFERENCED_TABLE_NAME')}))
       AND (DELETE_RULE IN ('CASCADE','SET NULL','SET DEFAULT') OR UPDATE_RULE IN ('CASCADE','SET NULL','SET DEFAULT')) LIMIT 1`,
  )
  return {
    columns: columns.rows.map(({ name, type, extra }) => ({
      name: String(name),
      type: String(type),
      generated: /GENERATED(?! ALWAYS AS ROW)|VIRTUAL|STORED|PERSISTENT/i.test(
        String(extra).replace('DEFAULT_GENERATED', ''),
      ),
    })),
    uniques: [...uniques.values()],
    cascades: cascading.rows.length > 0,
  }
}

const collation = 'CHARACTER SET utf8mb4 COLLATE utf8mb4_bin'
const bookkeeping = (cursors: string, tombstones: string): string[] => [
  `CREATE TABLE IF NOT EXISTS ${cursors} (
     name VARCHAR(191) ${collation} NOT NULL PRIMARY KEY,
     server CHAR(36) ${collation} NULL, epoch BIGINT NOT NULL DEFAULT 0,
     position LONGTEXT ${collation} NULL,
     pending CHAR(40) ${collation} NULL, fence BIGINT NOT NULL DEFAULT 0,
     owner CHAR(32) ${collation} NOT NULL, gtids LONGTEXT ${collation} NULL,
     updated_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3)
   ) ENGINE=InnoDB`,
  `CREATE TABLE IF NOT EXISTS ${tombstones} (
     table_name VARCHAR(191) ${collation} NOT NULL, row_key VARBINARY(512) NOT NULL,
     version CHAR(40) ${collation} NOT NULL,
     deleted_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
     PRIMARY KEY (table_name, row_key), KEY (deleted_at)
   ) ENGINE=InnoDB`,
]

/** Of so many characters, for MySQL, which has no types for addresses and UUIDs. */
export const addressType = (size: number): string =>
  `varchar(${size}) CHARACTER SET ascii COLLATE ascii_bin`
/** As the source has it; what the target lacks in its nearest exact form. */
function typeOf({ column, derived }: TargetColumn, key: boolean, mariadb: boolean): string {
  if (column === undefined || derived !== undefined)
    return key ? 'varchar(191) CHARACTER SET utf8mb4' : 'longtext CHARACTER SET utf8mb4'
  const { mysqlType } = column
  const family = familyOf({ column, derived } as TargetColumn)
  if (mariadb && mysqlType.startsWith('vector'))
    return `varbinary(${4 * Number(/\d+/.exec(mysqlType)?.[0] ?? 2048)})`
  const address = ADDRESSES[mysqlType]
  if (address !== undefined) return mariadb ? mysqlType : addressType(address)
  const plain = mysqlType.replace(/ zerofill$/, '').replace(/^geomcollection/, 'geometrycollection')
  return family === 'text' || family === 'enum' || family === 'set'
    ? `${plain} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin`
    : plain
}

/** Rows are sent in pieces of this much unless the server takes less. */
const STATEMENT_BYTES = 1024 * 1024

export async function mysqlDialect(address: Address): Promise<Dialect> {
  const where = `mysql://${address.host}:${address.port}/${address.database}`
  const { session } = await connect(address, where)
  const facts: Facts = { statementMax: STATEMENT_BYTES, mariadb: false }
  try {
    const { rows } = await session.run(
      'SELECT VERSION() AS version, @@max_allowed_packet AS packet',
    )
    facts.mariadb = /mariadb/i.test(String(rows[0]!['version']))
    facts.statementMax = Number(rows[0]!['packet']) - 1024
  } finally {
    await session.close()
  }
  return {
    name: 'mysql',
    where,
    versionType: `char(40) ${collation}`,
    statementMax: facts.statementMax,
    connect: async () => (await connect(address, where)).session,
    quote,
    full,
    text,
    bookkeeping,
    describe,
    collector: (shape) => new TextCollector(shape),
    typeOf: (column, key) => typeOf(column, key, facts.mariadb),
    createSpace: (space) => `CREATE DATABASE IF NOT EXISTS ${quote(space)} CHARACTER SET utf8mb4`,
  }
}
