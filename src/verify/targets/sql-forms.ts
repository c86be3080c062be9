/**
 * How a column of a SQL target is shown, compared byte for byte, and walked through in the order of its index; and how the
 * text of a key in the target is a literal of the source again. Pure.
 */
import type { Column } from '../../change.ts'
import { familyOf, type BoundColumn, type Dialect } from '../../sinks/sql/dialects/dialect.ts'
import { isAddress } from '../../sources/snapshot/keys.ts'

export interface Form {
  /** An expression for people: text, cut where it is long. */
  show(column: string): string
  /** The same of a key, whole. */
  whole(column: string): string
  /** Whether two columns of this type have the very same value, NULL included. */
  same(a: string, b: string): string
  /** An expression from whose text `literal` makes a literal that compares as the column does. */
  place(column: string): string
  literal(text: string): string
  /** From a shown key to the text that the source's value has; undefined: the source has no such value. */
  source(text: string): string | undefined
}

const SHOWN_MAX = 1000
const hexOf = (text: string): string => Buffer.from(text, 'utf8').toString('hex')

export function formOf(dialect: Dialect['name'], column: BoundColumn): Form {
  return dialect === 'mysql' ? mysqlForm(column) : postgresForm(column)
}

const asIs = (text: string): string => text

function mysqlForm({ type }: BoundColumn): Form {
  const same = (a: string, b: string): string => `${a} <=> ${b}`
  if (/^(char|varchar|tinytext|text|mediumtext|longtext|enum|set)\b/.test(type)) {
    const listed = /^(enum|set)/.test(type)
    return {
      show: (c) => `LEFT(CONVERT(${c} USING utf8mb4), ${SHOWN_MAX})`,
      whole: (c) => `CONVERT(${c} USING utf8mb4)`,
      same: (a, b) => `CAST(${a} AS BINARY) <=> CAST(${b} AS BINARY)`,
      place: (c) => (listed ? `${c}+0` : `CONVERT(${c} USING utf8mb4)`),
      literal: (text) => (listed ? text : `_utf8mb4 x'${hexOf(text)}'`),
      source: asIs,
    }
  }
  if (/^(json)\b/.test(type)) {
    const text = (c: string): string => `CAST(${c} AS CHAR)`
    const shown = (c: string): string => `LEFT(${text(c)}, ${SHOWN_MAX})`
    return { show: shown, whole: text, same, place: text, literal: quoted, source: asIs }
  }
  if (
    /^(binary|varbinary|tinyblob|blob|mediumblob|longblob|geom|point|line|poly|multi|vector)/.test(
      type,
    )
  ) {
    return {
      show: (c) => `LEFT(HEX(${c}), ${SHOWN_MAX})`,
      whole: (c) => `HEX(${c})`,
      same: (a, b) => `HEX(${a}) <=> HEX(${b})`,
      place: (c) => `HEX(${c})`,
      literal: (text) => `x'${text}'`,
      source: asIs,
    }
  }
  const numeric =
    /^(tinyint|smallint|mediumint|int|bigint|decimal|float|double|bit|year|bool)/.test(type)
  const number = (c: string): string =>
    type.startsWith('bit')
      ? `CAST(${c}+0 AS CHAR)`
      : type.startsWith('float')
        ? `CAST(${c}+0e0 AS CHAR)`
        : `CAST(${c} AS CHAR)`
  const literal = numeric ? asIs : quoted
  // 0 equals -0
  const signed = (a: string, b: string): string =>
    `(${same(a, b)} AND ${number(a)} <=> ${number(b)})`
  const alike = /^(float|double)/.test(type) ? signed : same
  return { show: number, whole: number, same: alike, place: number, literal, source: asIs }
}
const quoted = (text: string): string => `'${text.replaceAll("'", "''")}'`

/** Types whose `=` is exact. */
const EXACT =
  /^(smallint|integer|bigint|numeric|boolean|date|timestamp|time|uuid|bytea|bit|interval)\b/

function postgresForm({ type, source }: BoundColumn): Form {
  const exact = EXACT.test(type)
  const text = (c: string): string => `${c}::text COLLATE "C"`
  return {
    show: (c) => `left(${c}::text, ${SHOWN_MAX})`,
    whole: (c) => `${c}::text`,
    same: (a, b) =>
      exact ? `${a} IS NOT DISTINCT FROM ${b}` : `${text(a)} IS NOT DISTINCT FROM ${text(b)}`,
    place: (c) => `${c}::text`,
    literal: (value) => `${quoted(value)}::${type}`,
    source: (shown) => fromPostgres(shown, type, source.column?.mysqlType ?? ''),
  }
}
function fromPostgres(text: string, type: string, mysqlType: string): string | undefined {
  if (type === 'bytea') return text.slice(2).toUpperCase()
  if (type === 'uuid') return mysqlType === 'uuid' ? text : text.replaceAll('-', '').toUpperCase()
  if (type === 'boolean') return text === 'true' || text === 't' ? '1' : '0'
  if (type.startsWith('bit')) return BigInt(`0b${text}`).toString()
  if (/^(date|timestamp)/.test(type)) {
    const year0 = text.endsWith(' BC')
    const plain = text.replace(/ BC$/, '').replace(/\+00$/, '')
    if (year0) return `0000${plain.slice(4)}`
    return withFraction(plain, mysqlType)
  }
  if (type === 'interval' || /^time\b/.test(type)) return withFraction(text, mysqlType)
  if (mysqlType === 'year') return text.padStart(4, '0')
  return text
}
/** As many digits as the source's type has. */
function withFraction(text: string, mysqlType: string): string {
  const digits = Number(/\((\d)\)/.exec(mysqlType)?.[1] ?? 0)
  const [whole = '', part = ''] = text.split('.')
  return digits === 0 ? whole : `${whole}.${part.padEnd(digits, '0')}`
}

/** A literal that the source compares with this column as its own value. */
export function sourceLiteral(column: Column | undefined, text: string): string | undefined {
  if (column === undefined) return undefined
  const target = { name: '', index: 0, key: true, column, derived: undefined }
  switch (familyOf(target)) {
    case 'integer':
    case 'decimal':
    case 'bit':
    case 'year':
    case 'float':
    case 'double':
      return /^-?[\d.]+(e[-+]?\d+)?$/i.test(text) ? text : undefined
    case 'date':
    case 'timestamp':
    case 'time':
      return /^[-\d: .]+$/.test(text) ? `'${text}'` : undefined
    case 'binary':
      return /^([\da-f]{2})*$/i.test(text) ? `x'${text}'` : undefined
    case 'enum':
    case 'set':
    case 'text':
      if (!isAddress(column.mysqlType, text)) return undefined
      return `_utf8mb4 x'${hexOf(text)}'`
    case 'json':
      return undefined
  }
}
