/**
 * Rows as PostgreSQL's statements: one array per column, read by the input function of the target column's type, so that a
 * statement is prepared once per table and carries as many rows as its bytes allow.
 */
import { AFTER, BEFORE, type ImageSide } from '../../../change.ts'
import { Out } from '../../../out.ts'
import type { SinkRow, TargetColumn } from '../../shape/row.ts'
import {
  bytesNamed,
  bytesOf,
  dataError,
  escape,
  familyOf,
  orNull,
  stringOf,
  writeHex,
  type BoundColumn,
  type Collector,
  type DialectOptions,
  type Literal,
  type Shape,
  type Statement,
  type TargetName,
} from './dialect.ts'

const SPECIAL = bytesNamed(0x22, 0x5c)
export const quote = (identifier: string): string => `"${identifier.replaceAll('"', '""')}"`
export const full = ({ space, table }: TargetName): string =>
  space === undefined ? quote(table) : `${quote(space)}.${quote(table)}`
export const text = (value: string): string => `'${value.replaceAll("'", "''")}'`

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

export class ArrayCollector implements Collector {
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
