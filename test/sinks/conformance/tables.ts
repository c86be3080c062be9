/**
 * The tables of the conformance suite, and one form in which every value of every type can be compared: what MySQL selects
 * and what a destination holds come to the same text, or they differ.
 *
 *   integers, BIT, YEAR: digits · DECIMAL: its digits with the exact scale · FLOAT, DOUBLE: the shortest text of the double
 *   characters, dates, ENUM, SET: the text · bytes, GEOMETRY, VECTOR: upper-case hex · JSON: keys sorted, every digit
 */
import { createHash } from 'node:crypto'
import fc from 'fast-check'
import type { MysqlServer } from '../../support/mysql.ts'
import {
  documents,
  numbers,
  strings,
  temporals,
  vector,
  type TypeSpec,
} from '../../binlog/types.ts'

export type Form = 'integer' | 'decimal' | 'float' | 'text' | 'set' | 'bytes' | 'json'
export interface ColumnSpec {
  readonly name: string
  readonly sql: string // its type, as in CREATE TABLE
  readonly form: Form
  readonly spec: TypeSpec | undefined // undefined: the key
}
export interface TableSpec {
  readonly name: string
  readonly columns: readonly ColumnSpec[] // the first is the key, `id`
}
/** Column → value in the form above; null is NULL (and the JSON document null). */
export type Row = Readonly<Record<string, string | null>>

function formOf(sql: string): Form {
  if (/^((TINY|SMALL|MEDIUM|BIG)?INT|BIT|YEAR)\b/.test(sql)) return 'integer'
  if (sql.startsWith('DECIMAL')) return 'decimal'
  if (/^(FLOAT|DOUBLE)/.test(sql)) return 'float'
  if (sql.startsWith('SET')) return 'set'
  if (sql.startsWith('JSON')) return 'json'
  if (/BINARY|BLOB|GEOMETRY|POINT|LINESTRING|POLYGON|VECTOR/.test(sql)) return 'bytes'
  return 'text'
}
const key: ColumnSpec = {
  name: 'id',
  sql: 'INT NOT NULL PRIMARY KEY',
  form: 'integer',
  spec: undefined,
}
const typeTable = (name: string, specs: readonly TypeSpec[]): TableSpec => ({
  name,
  columns: [
    key,
    ...specs.map((spec, i) => ({ name: `c${i}`, sql: spec.sql, form: formOf(spec.sql), spec })),
  ],
})
const plain = (sql: string, name: string): ColumnSpec => ({
  name,
  sql,
  form: formOf(sql),
  spec: {
    sql,
    values: fc.constant('NULL'),
    select: formOf(sql) === 'bytes' ? (c) => `HEX(${c})` : (c) => `CAST(${c} AS CHAR)`,
    show: String,
  },
})

export const typeTables: readonly TableSpec[] = [
  typeTable('numbers', numbers),
  typeTable('temporals', temporals),
  typeTable('strings', strings),
  typeTable('documents', documents),
]
export const vectors = typeTable('vectors', [vector])
/** What the workload writes to. */
export const items: TableSpec = {
  name: 'items',
  columns: [key, plain('INT', 'n'), plain('VARCHAR(200)', 's')],
}
/** Rows of which the destination refuses one. */
export const picky: TableSpec = { name: 'picky', columns: [key, plain('MEDIUMTEXT', 'v')] }
/** Much data. */
export const large: TableSpec = { name: 'large', columns: [key, plain('MEDIUMBLOB', 'pad')] }

export const createSql = (database: string, { name, columns }: TableSpec): string =>
  `CREATE TABLE ${database}.${name} (${columns.map((c) => `${c.name} ${c.sql}`).join(', ')}) CHARACTER SET utf8mb4`

/** SQL tuples of random rows, NULLs among them. */
export function randomTuples(table: TableSpec, count: number, seed: number): string[][] {
  const values = table.columns.flatMap(({ spec }) =>
    spec ? [fc.option(spec.values, { nil: 'NULL', freq: 8 })] : [],
  )
  return fc.sample(fc.tuple(...values), { numRuns: count, seed })
}

/** What SELECT says a table holds, key → row. Also for destinations that are a MySQL or a MariaDB. */
export async function selectRows(
  server: Pick<MysqlServer, 'query'>,
  database: string,
  table: TableSpec,
): Promise<Map<string, Row>> {
  const list = table.columns.map(({ name, spec }) =>
    spec ? `${spec.select(name)} AS ${name}` : `CAST(${name} AS CHAR) AS ${name}`,
  )
  const rows = await server.query<Record<string, string | null>>(
    `SELECT ${list.join(', ')} FROM ${database}.${table.name}`,
  )
  return new Map(
    rows.map((row) => [
      row['id']!,
      Object.fromEntries(table.columns.map((c) => [c.name, selected(c, row[c.name]!)])),
    ]),
  )
}
function selected({ sql, form, spec }: ColumnSpec, text: string | null): string | null {
  if (text === null) return null
  const value = spec?.read?.(text) ?? text
  if (form === 'json') return short(canonicalJson(parseExact(value)))
  if (sql.startsWith('YEAR')) return String(Number(value))
  if (form === 'text' && /CHARACTER SET/.test(sql) && !sql.startsWith('ENUM'))
    return short(Buffer.from(value, 'hex').toString())
  return short(value)
}

// ── JSON ─────────────────────────────────────────────────────────────────────

/** A number as it was written. */
export class Digits {
  readonly text: string
  constructor(text: string) {
    this.text = text
  }
}
export type Exact = null | boolean | string | Digits | Exact[] | { readonly [key: string]: Exact }

/** JSON.parse that loses no digit. */
export function parseExact(text: string): Exact {
  const reviver = (_: string, value: unknown, context?: { source?: string }): unknown =>
    typeof value === 'number' ? new Digits(context?.source ?? String(value)) : value
  return JSON.parse(text, reviver as (key: string, value: unknown) => unknown) as Exact
}
const exactDouble = (x: number): string => (Object.is(x, -0) ? '-0' : String(x))

function canonicalJson(value: Exact): string | null {
  const text = ordered(value)
  return text === 'null' ? null : text
}
function ordered(value: Exact): string {
  if (value instanceof Digits)
    return /[eE]/.test(value.text) ? exactDouble(Number(value.text)) : value.text
  if (Array.isArray(value)) return `[${value.map(ordered).join(',')}]`
  if (value === null || typeof value !== 'object') return JSON.stringify(value)
  const members = Object.keys(value).sort()
  return `{${members.map((name) => `${JSON.stringify(name)}:${ordered(value[name]!)}`).join(',')}}`
}

/** A value of a destination that holds JSON as src/sinks/shape/json.ts writes it. */
export function fromJson({ form, sql }: ColumnSpec, value: Exact): string | null {
  if (value === null) return null
  if (form === 'json') return short(canonicalJson(value))
  if (form === 'set' && Array.isArray(value)) return value.map(String).join(',')
  const text = value instanceof Digits ? value.text : value
  if (typeof text !== 'string')
    throw new Error(`${sql}: no text or number: ${JSON.stringify(value)}`)
  if (form === 'float') return fromDouble(sql, text)
  if (form === 'bytes') return short(Buffer.from(text, 'base64').toString('hex').toUpperCase())
  return short(text)
}
/** FLOAT and DOUBLE from any text that means the number. */
export function fromDouble(sql: string, text: string): string {
  return exactDouble(sql.startsWith('FLOAT') ? Math.fround(Number(text)) : Number(text))
}
/** A whole row of such a destination; columns that are not there are left out. */
export function rowFromJson(table: TableSpec, object: Exact): Row {
  const members = object as { readonly [key: string]: Exact }
  return Object.fromEntries(
    table.columns.flatMap((c) => {
      const value = members[c.name]
      return value === undefined ? [] : [[c.name, fromJson(c, value)]]
    }),
  )
}

/** Long values by their digest, so that many can be kept. */
export function short(text: string | null): string | null {
  if (text === null || text.length <= 2048) return text
  return `${text.length} characters, ${createHash('sha1').update(text).digest('hex')}`
}
