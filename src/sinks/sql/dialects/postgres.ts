/**
 * PostgreSQL as a target: rows go as one array per column (`unnest`), so that a statement is prepared once per table and
 * carries as many rows as its bytes allow, beyond the protocol's 65,535 parameters. Values are the source's texts, read by
 * the input function of the target column's type.
 */
import type { Client } from 'pg'
import { AFTER, BEFORE, type ImageSide } from '../../../change.ts'
import type { SluiceError } from '../../../errors.ts'
import { Out } from '../../../out.ts'
import type { SinkRow, TargetColumn } from '../../shape/row.ts'
import type { Address } from './address.ts'
import {
  bytesNamed,
  bytesOf,
  dataError,
  escape,
  failure,
  familyOf,
  orNull,
  stringOf,
  writeHex,
  type BoundColumn,
  type Collector,
  type Dialect,
  type DialectOptions,
  type Found,
  type Literal,
  type Outcome,
  type Session,
  type Shape,
  type Statement,
  type TargetName,
} from './dialect.ts'

const SPECIAL = bytesNamed(0x22, 0x5c)
const quote = (identifier: string): string => `"${identifier.replaceAll('"', '""')}"`
const full = ({ space, table }: TargetName): string =>
  space === undefined ? quote(table) : `${quote(space)}.${quote(table)}`
const text = (value: string): string => `'${value.replaceAll("'", "''")}'`

// ── elements of arrays ───────────────────────────────────────────────────────

const raw =
  (source: TargetColumn): Literal =>
  (row, side, out) =>
    row.text(side, source, out)
/** What `write` writes, as a quoted element. PostgreSQL has no text with a zero byte. */
const quoted =
  (source: TargetColumn, write: Literal, nul: DialectOptions['nul']): Literal =>
  (row, side, out) => {
    out.ensure(1)
    out.u8(0x22)
    const from = out.at
    write(row, side, out)
    for (let i = from; i < out.at; i++) if (out.buf[i] === 0) dropZeros(row, source, nul, out, i)
    escape(out, from, SPECIAL)
    out.ensure(1)
    out.u8(0x22)
  }

function dropZeros(
  row: SinkRow,
  source: TargetColumn,
  nul: DialectOptions['nul'],
  out: Out,
  from: number,
): void {
  if (nul === 'error') {
    const expected = 'text without the character U+0000, which PostgreSQL cannot hold'
    throw dataError(row, source, `${expected} (nul: remove leaves it out)`)
  }
  let to = from
  for (let i = from; i < out.at; i++) if (out.buf[i] !== 0) out.buf[to++] = out.buf[i]!
  out.at = to
}

function elementOf({ source, type }: BoundColumn, options: DialectOptions): Literal {
  switch (familyOf(source)) {
    case 'integer':
    case 'decimal':
    case 'float':
    case 'double':
    case 'year':
      return raw(source)
    case 'bit':
      return /bit/.test(type) ? bits(source) : raw(source)
    case 'date':
      return moment(source, raw(source), '', options)
    case 'timestamp': {
      const utc: Literal = (row, side, out) => row.utc(side, source, out)
      return moment(source, utc, type.includes('with time zone') ? '+00' : '', options)
    }
    case 'binary':
      return binary(source, type)
    case 'json':
    case 'enum':
      return quoted(source, (row, side, out) => out.utf8(stringOf(row, side, source)), options.nul)
    case 'set':
      return quoted(source, labels(source, type), options.nul)
    case 'text':
    case 'time':
      return quoted(source, raw(source), options.nul)
  }
}
const bits =
  (source: TargetColumn): Literal =>
  (row, side, out) => {
    const value = BigInt(row.value(side, source) as bigint)
    const width = Number(/\d+/.exec(source.column!.mysqlType)?.[0] ?? 1)
    out.ascii(value.toString(2).padStart(width, '0'))
  }
const scratch = new Out(64)
/** Dates that are none become NULL; the year 0 has another name. */
function moment(
  source: TargetColumn,
  write: Literal,
  zone: string,
  options: DialectOptions,
): Literal {
  return (row, side, out) => {
    scratch.reset()
    write(row, side, scratch)
    const value = scratch.buf.toString('latin1', 0, scratch.at)
    if (value.startsWith('00', 5) || value.startsWith('00', 8)) {
      if (options.zeroDates === 'null') return out.ascii('NULL')
      throw dataError(row, source, `a date that exists (zeroDates is error), got ${value}`)
    }
    const year0 = value.startsWith('0000')
    out.ascii(`"${year0 ? `0001${value.slice(4)}` : value}${zone}${year0 ? ' BC' : ''}"`)
  }
}
function binary(source: TargetColumn, type: string): Literal {
  const vector = source.column?.mysqlType.startsWith('vector') === true
  if (vector && (type === 'vector' || type.endsWith('[]'))) {
    const [open, close] = type === 'vector' ? ['[', ']'] : ['{', '}']
    return (row, side, out) => {
      const bytes = bytesOf(row, side, source)
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      const list = Array.from({ length: bytes.length >> 2 }, (_, i) => view.getFloat32(i * 4, true))
      out.ascii(`"${open}${list.join(',')}${close}"`)
    }
  }
  const prefix = type === 'uuid' ? '' : '\\\\x'
  return (row, side, out) => {
    out.ascii(`"${prefix}`)
    writeHex(bytesOf(row, side, source), out)
    out.ascii('"')
  }
}
function labels(source: TargetColumn, type: string): Literal {
  if (!type.endsWith('[]')) return (row, side, out) => out.utf8(stringOf(row, side, source))
  return (row, side, out) => {
    const list = stringOf(row, side, source)
    const quotedLabel = (label: string): string => `"${label.replaceAll(/["\\]/g, '\\$&')}"`
    out.utf8(`{${list === '' ? '' : list.split(',').map(quotedLabel).join(',')}}`)
  }
}

// ── statements ───────────────────────────────────────────────────────────────

/** One parameter: an array that grows by one element per row. */
interface Parameter {
  readonly type: string
  readonly side: ImageSide | 'key'
  readonly write: (row: SinkRow, out: Out, side: ImageSide) => void
  readonly out: Out
}

let statements = 0

class ArrayCollector implements Collector {
  rows = 0
  readonly #parameters: readonly Parameter[]
  readonly #sql: string
  readonly #name: string | undefined
  constructor(shape: Shape, options: DialectOptions) {
    const bound = (columns: readonly BoundColumn[], side: Parameter['side']): Parameter[] =>
      columns.map((column) => {
        const write = orNull(column.source, elementOf(column, options), 'NULL')
        return {
          type: column.type,
          side,
          write: (row, out, from) => write(row, from, out),
          out: new Out(2048),
        }
      })
    const written = bound(shape.columns, AFTER)
    const looked =
      shape.operation === 'upsert' || shape.operation === 'insert' ? [] : bound(shape.keys, 'key')
    const version: Parameter[] =
      shape.fence === undefined || shape.operation === 'upsert' || shape.operation === 'ahead'
        ? []
        : [
            {
              type: 'text',
              side: AFTER,
              write: (row, out) => out.ascii(row.version),
              out: new Out(2048),
            },
          ]
    this.#parameters = [...written, ...looked, ...version]
    this.#sql = textOf(shape, this.#parameters)
    // partial images come in many forms: only whole ones are worth a prepared statement
    this.#name = shape.operation === 'update' ? undefined : `sluice_${++statements}`
  }
  get bytes(): number {
    let bytes = 0
    for (const { out } of this.#parameters) bytes += out.at
    return bytes
  }
  add(row: SinkRow): void {
    const mark = this.rows === 0 ? 0x7b : 0x2c
    const key: ImageSide = row.op === 'insert' ? AFTER : BEFORE
    for (const { out, side, write } of this.#parameters) {
      out.ensure(1)
      out.u8(mark)
      write(row, out, side === 'key' ? key : side)
    }
    this.rows++
  }
  take(): Statement {
    const values = this.#parameters.map(({ out }) => {
      out.ascii('}')
      return out.buf.toString('utf8', 0, out.at)
    })
    this.reset()
    return { sql: this.#sql, values, name: this.#name }
  }
  reset(): void {
    for (const { out } of this.#parameters) out.reset()
    this.rows = 0
  }
}

/** unnest cannot give rows of arrays: those travel as texts and are read one by one. */
const carried = (type: string): string => (type.endsWith('[]') ? 'text' : type)

function textOf(shape: Shape, parameters: readonly Parameter[]): string {
  const { operation, columns, keys, fence } = shape
  const arrays = parameters.map(({ type }, i) => `$${i + 1}::${carried(type)}[]`)
  const field = (i: number): string =>
    parameters[i]!.type.endsWith('[]') ? `u.c${i}::${parameters[i]!.type}` : `u.c${i}`
  const from = `unnest(${arrays.join(',')}) AS u(${parameters.map((_, i) => `c${i}`).join(',')})`
  const table = full(shape.name)
  if (operation === 'upsert' || operation === 'insert') {
    const list = columns.map(({ name }) => quote(name)).join(',')
    const fields = columns.map((_, i) => field(i)).join(',')
    const insert = `INSERT INTO ${table} AS t (${list}) OVERRIDING SYSTEM VALUE SELECT ${fields} FROM ${from}`
    return operation === 'insert' ? insert : `${insert} ${onConflict(shape)}`
  }
  const at = columns.length
  const same = keys.map(({ name }, i) =>
    shape.matchAll
      ? `${comparable(`t.${quote(name)}`, keys[i]!.type)} IS NOT DISTINCT FROM ${comparable(field(at + i), keys[i]!.type)}`
      : `t.${quote(name)}=${field(at + i)}`,
  )
  if (operation === 'ahead')
    return `SELECT t.${quote(fence ?? '')} AS version FROM ${table} AS t, ${from} WHERE ${same.join(' AND ')}`
  if (fence !== undefined) same.push(`t.${quote(fence)}<=u.c${parameters.length - 1}`)
  const where = shape.matchAll
    ? `t.ctid=(SELECT t.ctid FROM ${table} AS t, u WHERE ${same.join(' AND ')} LIMIT 1)`
    : same.join(' AND ')
  const set = columns.map(({ name }, i) => `${quote(name)}=${field(i)}`).join(',')
  const rows = shape.matchAll ? `WITH u AS (SELECT * FROM ${from}) ` : ''
  const source = shape.matchAll ? 'u' : from
  return operation === 'update'
    ? `${rows}UPDATE ${table} AS t SET ${set} FROM ${source} WHERE ${where}`
    : `${rows}DELETE FROM ${table} AS t USING ${source} WHERE ${where}`
}
/** json has no equality of its own. */
const comparable = (expression: string, type: string): string =>
  type === 'json' ? `${expression}::text` : expression

function onConflict({ columns, keys, fence }: Shape): string {
  const key = new Set(keys.map(({ name }) => name))
  const target = keys.map(({ name }) => quote(name)).join(',')
  const sets = columns
    .filter(({ name }) => !key.has(name))
    .map(({ name }) => `${quote(name)}=EXCLUDED.${quote(name)}`)
  if (sets.length === 0) return `ON CONFLICT (${target}) DO NOTHING`
  const where = fence === undefined ? '' : ` WHERE t.${quote(fence)}<=EXCLUDED.${quote(fence)}`
  return `ON CONFLICT (${target}) DO UPDATE SET ${sets.join(',')}${where}`
}

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
    // a connection that was lost must not hold the cursor's row
    idle_in_transaction_session_timeout: 60_000,
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

/** The nearest type that holds every value of the source's. */
function typeOf({ column, derived }: TargetColumn, json: 'json' | 'jsonb'): string {
  if (column === undefined || derived !== undefined) return 'text'
  const { mysqlType, unsigned } = column
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
    case 'vector':
      return 'real[]'
    default:
      return familyOf({ column, derived } as TargetColumn) === 'binary' ? 'bytea' : 'text'
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
