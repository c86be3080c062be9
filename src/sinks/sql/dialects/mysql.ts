/**
 * MySQL and MariaDB as a target: a session that says what exactness needs (strict, UTC, no surprises with zero), and
 * statements of many rows written as text, from the row image to the statement's bytes. Values arrive as SELECT shows
 * them on the source: a session's time zone, charset or sql_mode never comes between.
 */
import type { Connection } from 'mysql2'
import { AFTER, BEFORE, type ImageSide } from '../../../change.ts'
import type { SluiceError } from '../../../errors.ts'
import { Out } from '../../../out.ts'
import type { SinkRow, TargetColumn } from '../../shape/row.ts'
import {
  bytesNamed,
  bytesOf,
  escape,
  failure,
  familyOf,
  orNull,
  stringOf,
  writeHex,
  type BoundColumn,
  type Collector,
  type Dialect,
  type Found,
  type Literal,
  type Outcome,
  type Session,
  type Shape,
  type Statement,
  type TargetName,
} from './dialect.ts'
import type { Address } from './address.ts'

const STRICT = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION'
const LENIENT = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION'
const SPECIAL = bytesNamed(0x00, 0x27, 0x5c)
const quote = (identifier: string): string => `\`${identifier.replaceAll('`', '``')}\``
const full = ({ space, table }: TargetName): string =>
  space === undefined ? quote(table) : `${quote(space)}.${quote(table)}`
const text = (value: string): string =>
  `'${value.replaceAll('\\', '\\\\').replaceAll("'", "\\'").replaceAll('\0', '\\0')}'`

// ── literals ─────────────────────────────────────────────────────────────────

const raw =
  (source: TargetColumn): Literal =>
  (row, side, out) =>
    row.text(side, source, out)
/** What `write` writes, as a string literal. */
const quoted =
  (write: Literal): Literal =>
  (row, side, out) => {
    out.ensure(1)
    out.u8(0x27)
    const from = out.at
    write(row, side, out)
    escape(out, from, SPECIAL)
    out.ensure(1)
    out.u8(0x27)
  }
const hexadecimal =
  (source: TargetColumn): Literal =>
  (row, side, out) => {
    out.ascii("X'")
    writeHex(bytesOf(row, side, source), out)
    out.ascii("'")
  }

function literalOf(source: TargetColumn): Literal {
  switch (familyOf(source)) {
    case 'integer':
    case 'decimal':
    case 'bit':
      return raw(source)
    case 'float':
      // the float's exact value: its shortest text can round to more than a FLOAT holds
      return quoted((row, side, out) => out.ascii(exact(Number(row.value(side, source)))))
    case 'timestamp':
      return quoted((row, side, out) => row.utc(side, source, out))
    case 'binary':
      return hexadecimal(source)
    case 'json':
    case 'enum':
    case 'set':
      return quoted((row, side, out) => out.utf8(stringOf(row, side, source)))
    case 'date':
    case 'double':
    case 'text':
    case 'time':
    case 'year':
      return quoted(raw(source))
  }
}
const exact = (x: number): string => (Object.is(x, -0) ? '-0' : String(x))

/** A comparison that is true for the very same value, NULL included. */
function sameAs({ name, type, source }: BoundColumn): { readonly left: string; right: Literal } {
  const literal = orNull(source, literalOf(source), 'NULL')
  const wrap =
    (before: string, after: string): Literal =>
    (row, side, out) => {
      out.ascii(before)
      literal(row, side, out)
      out.ascii(after)
    }
  const family = familyOf(source)
  if (family === 'json' && type === 'json')
    return { left: `${quote(name)}<=>`, right: wrap('CAST(', ' AS JSON)') }
  if (family === 'text' || family === 'enum' || family === 'set') {
    const left = `CAST(CONVERT(${quote(name)} USING utf8mb4) AS BINARY)<=>`
    return { left, right: wrap('CAST(', ' AS BINARY)') }
  }
  return { left: `${quote(name)}<=>`, right: literal }
}

// ── statements ───────────────────────────────────────────────────────────────

/** ENUM columns with a value outside of their list: what MySQL stores as '' and takes back only without strict mode. */
interface Errors {
  readonly source: TargetColumn
  readonly name: string
}
const errorsOf = (columns: readonly BoundColumn[]): Errors[] =>
  columns
    .filter(({ source }) => familyOf(source) === 'enum')
    .filter(({ source }) => source.column?.members?.includes('') === false)
    .map(({ source, name }) => ({ source, name }))

class TextCollector implements Collector {
  rows = 0
  readonly #out = new Out(16 * 1024)
  readonly #row: (row: SinkRow, out: Out) => void
  readonly #head: string
  readonly #between: string
  readonly #tail: string
  readonly #errors: readonly Errors[]
  #lenient = new Set<string>()

  constructor(shape: Shape) {
    const { operation } = shape
    this.#errors = operation === 'delete' ? [] : errorsOf(shape.columns)
    if (operation === 'upsert' || operation === 'insert') {
      this.#head = `INSERT INTO ${full(shape.name)} (${names(shape.columns)}) VALUES `
      this.#between = ','
      this.#tail = operation === 'upsert' ? onDuplicate(shape) : ''
      this.#row = tuple(shape.columns)
    } else if (operation === 'update' || shape.matchAll) {
      this.#head = ''
      this.#between = ';'
      this.#tail = ''
      this.#row = single(shape)
    } else {
      const list = shape.keys.length === 1 && (operation === 'ahead' || shape.fence === undefined)
      const verb =
        operation === 'delete' ? 'DELETE' : `SELECT ${quote(shape.fence ?? '')} AS version`
      this.#head = `${verb} FROM ${full(shape.name)} WHERE (${list ? `${names(shape.keys)} IN (` : ''}`
      this.#between = list ? ',' : ' OR '
      this.#tail = list ? '))' : ')'
      this.#row = list ? keyLiteral(shape.keys[0]!) : located(shape)
    }
  }
  get bytes(): number {
    return this.#out.at
  }
  add(row: SinkRow): void {
    const out = this.#out
    out.ascii(this.rows === 0 ? '' : this.#between)
    if (this.rows === 0) out.utf8(this.#head)
    this.#row(row, out)
    this.rows++
    for (const { source, name } of this.#errors)
      if (row.value(AFTER, source) === '') this.#lenient.add(name)
  }
  take(): MysqlStatement {
    const out = this.#out
    out.utf8(this.#tail)
    const sql = out.buf.toString('utf8', 0, out.at)
    const lenient = this.#lenient.size > 0 ? this.#lenient : undefined
    this.reset()
    return { sql, lenient }
  }
  reset(): void {
    this.#lenient = new Set()
    this.rows = 0
    this.#out.reset()
  }
}
interface MysqlStatement extends Statement {
  /** Columns that may be "truncated": ENUMs with the value ''. */
  readonly lenient?: ReadonlySet<string> | undefined
}

const names = (columns: readonly BoundColumn[]): string =>
  columns.map(({ name }) => quote(name)).join(',')

function tuple(columns: readonly BoundColumn[]): (row: SinkRow, out: Out) => void {
  const literals = columns.map(({ source }) => orNull(source, literalOf(source), 'NULL'))
  return (row, out) => {
    for (let i = 0; i < literals.length; i++) {
      out.ensure(1)
      out.u8(i === 0 ? 0x28 : 0x2c)
      literals[i]!(row, AFTER, out)
    }
    out.ensure(1)
    out.u8(0x29)
  }
}
/** VALUES(c), not an alias of the row: MariaDB knows no other. */
function onDuplicate({ columns, keys, fence, guarded }: Shape): string {
  const key = new Set(keys.map(({ name }) => name))
  const fresh = fence === undefined ? '' : `VALUES(${quote(fence)})>=${quote(fence)}`
  const set = ({ name }: BoundColumn): string => {
    const column = quote(name)
    return fresh
      ? `${column}=IF(${fresh},VALUES(${column}),${column})`
      : `${column}=VALUES(${column})`
  }
  // A key in another case is the same key; its text still has to change.
  const respelled = (c: BoundColumn): boolean =>
    fence === undefined && familyOf(c.source) === 'text'
  const wanted = columns.filter((c) => c.name !== fence && (!key.has(c.name) || respelled(c)))
  const sets = wanted.map(set)
  if (guarded) {
    const first = quote(keys[0]!.name)
    const same = keys.map(({ name }) => `${quote(name)}<=>VALUES(${quote(name)})`).join(' AND ')
    // Another row has a unique value of this one: NULL in a key is an error, and the row stays as it is.
    sets.unshift(`${first}=IF(${same},${first},NULL)`)
  }
  if (fence !== undefined) {
    const column = quote(fence)
    sets.push(`${column}=IF(${fresh},VALUES(${column}),${column})`)
  }
  if (sets.length === 0) sets.push(`${quote(keys[0]!.name)}=${quote(keys[0]!.name)}`)
  return ` ON DUPLICATE KEY UPDATE ${sets.join(',')}`
}
/** `a=1 AND b=2`, in the image before. */
function located({ keys, fence, matchAll, operation }: Shape): (row: SinkRow, out: Out) => void {
  const parts = keys.map((key) =>
    matchAll
      ? sameAs(key)
      : { left: `${quote(key.name)}=`, right: orNull(key.source, literalOf(key.source), 'NULL') },
  )
  return (row, out) => {
    for (let i = 0; i < parts.length; i++) {
      out.ascii(i === 0 ? '(' : ' AND ')
      out.utf8(parts[i]!.left)
      parts[i]!.right(row, keySide(row), out)
    }
    if (fence !== undefined && operation !== 'ahead')
      out.utf8(` AND ${quote(fence)}<='${row.version}'`)
    out.ascii(')')
  }
}
function keyLiteral({ source }: BoundColumn): (row: SinkRow, out: Out) => void {
  const literal = orNull(source, literalOf(source), 'NULL')
  return (row, out) => literal(row, keySide(row), out)
}
/** Inserts that were split off an update, and updates whose image before is not there, have their key after. */
const keySide = (row: SinkRow): ImageSide => (row.op === 'insert' ? AFTER : BEFORE)

/** A statement of its own for a row: an update, or what equals a whole image. */
function single(shape: Shape): (row: SinkRow, out: Out) => void {
  const where = located(shape)
  const verb =
    shape.operation === 'delete'
      ? `DELETE FROM ${full(shape.name)} WHERE `
      : `UPDATE ${full(shape.name)} SET `
  const sets = shape.columns.map(({ name, source }) => ({
    left: `${quote(name)}=`,
    right: orNull(source, literalOf(source), 'NULL'),
  }))
  const limit = shape.matchAll ? ' LIMIT 1' : ''
  return (row, out) => {
    out.utf8(verb)
    for (let i = 0; i < sets.length; i++) {
      if (i > 0) out.ascii(',')
      out.utf8(sets[i]!.left)
      sets[i]!.right(row, AFTER, out)
    }
    if (sets.length > 0) out.ascii(' WHERE ')
    where(row, out)
    out.ascii(limit)
  }
}

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
    const { sql, lenient } = typeof statement === 'string' ? { sql: statement } : statement
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
       max_error_count=65535, wait_timeout=28800, foreign_key_checks=1, unique_checks=1`,
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
     position LONGTEXT ${collation} NULL, version CHAR(40) ${collation} NOT NULL,
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

/** As the source has it; what MariaDB lacks in its nearest exact form. */
function typeOf({ column, derived }: TargetColumn, key: boolean, mariadb: boolean): string {
  if (column === undefined || derived !== undefined)
    return key ? 'varchar(191) CHARACTER SET utf8mb4' : 'longtext CHARACTER SET utf8mb4'
  const { mysqlType } = column
  const family = familyOf({ column, derived } as TargetColumn)
  if (mariadb && mysqlType.startsWith('vector'))
    return `varbinary(${4 * Number(/\d+/.exec(mysqlType)?.[0] ?? 2048)})`
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
