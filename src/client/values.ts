/**
 * Values of Canal columns: from the text on the wire to what a program wants, chosen by the column's mysqlType, and by
 * its sqlType where the server has none. Exact: no integer, decimal or byte is changed on the way. What the text of a
 * type looks like: /docs/protocol.md. Must not know entries, connections or the server.
 */

/**
 * tinyint to int, year, float, double, enum (its index): number · bigint, bit, set (its bits): bigint · decimal, dates,
 * times, json, characters: string · binary, blob, geometry, vector: Buffer. With options: enum labels: string, set
 * labels: string[], datetime, timestamp and date: Date, json: what it says.
 */
export type ClientValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Buffer
  | Date
  | readonly unknown[]
  | { readonly [key: string]: unknown }

export interface ValueOptions {
  /** ENUM as its label instead of its index, SET as labels instead of bits. */
  readonly labels?: boolean | undefined
  /** 'date': DATE, DATETIME and TIMESTAMP as Date. What no Date can say ("0000-00-00") stays text. */
  readonly dates?: 'text' | 'date' | undefined
  /** With dates 'date': the offset the texts are in, "Z" or "+08:00". Default "Z". */
  readonly timezone?: string | undefined
  /** 'parsed': JSON.parse, so numbers beyond 2^53 lose digits. A JSON diff, which is no JSON, stays text. */
  readonly json?: 'text' | 'parsed' | undefined
}

/** Reads a value from its text in bytes[start, end). */
export type Decoder = (bytes: Buffer, start: number, end: number) => ClientValue

/** java.sql.Types that decide where there is no mysqlType. */
const bySqlType = new Map<number, string>([
  [-7, 'bit'],
  [-6, 'tinyint'],
  [-5, 'bigint'],
  [4, 'int'],
  [5, 'smallint'],
  [7, 'float'],
  [8, 'double'],
  [2004, 'blob'],
])

/** The decoder of a column, by its mysqlType ("int unsigned", "enum('a','b')") and java.sql.Types code. */
export function decoderOf(mysqlType: string, sqlType: number, options: ValueOptions): Decoder {
  const word =
    /^[a-z]+\d*/.exec(mysqlType.trim().toLowerCase())?.[0] ?? bySqlType.get(sqlType) ?? ''
  switch (word) {
    case 'tinyint':
    case 'smallint':
    case 'mediumint':
    case 'int':
    case 'integer':
    case 'year':
    case 'bool':
    case 'boolean':
    case 'int1':
    case 'int2':
    case 'int3':
    case 'int4':
      return readInteger
    case 'float':
    case 'double':
    case 'real':
      return readNumber
    case 'bigint':
    case 'int8':
    case 'serial':
    case 'bit':
      return readBigint
    case 'enum':
      return options.labels ? enumLabel(membersOf(mysqlType)) : readInteger
    case 'set':
      return options.labels ? setLabels(membersOf(mysqlType)) : readBigint
    case 'date':
    case 'datetime':
    case 'timestamp':
      return options.dates === 'date' ? dateReader(options.timezone ?? 'Z') : readText
    case 'json':
      return options.json === 'parsed' ? readJson : readText
    case 'binary':
      return paddedBytes(Number(/\((\d+)\)/.exec(mysqlType)?.[1] ?? 1))
    case 'varbinary':
    case 'tinyblob':
    case 'blob':
    case 'mediumblob':
    case 'longblob':
    case 'geometry':
    case 'point':
    case 'linestring':
    case 'polygon':
    case 'multipoint':
    case 'multilinestring':
    case 'multipolygon':
    case 'geometrycollection':
    case 'geomcollection':
    case 'vector':
      return readBytes
    default:
      return readText
  }
}

const readText: Decoder = (bytes, start, end) => bytes.toString('utf8', start, end)
const readNumber: Decoder = (bytes, start, end) => Number(bytes.toString('latin1', start, end))

const DIGITS_EXACT = 15

function readInteger(bytes: Buffer, start: number, end: number): number {
  const negative = bytes[start] === 0x2d
  let at = negative ? start + 1 : start
  if (end - at > DIGITS_EXACT) return Number(bytes.toString('latin1', start, end))
  let value = 0
  for (; at < end; at++) value = value * 10 + bytes[at]! - 0x30
  return negative ? -value : value
}

function readBigint(bytes: Buffer, start: number, end: number): ClientValue {
  if (end - start <= DIGITS_EXACT) return BigInt(readInteger(bytes, start, end))
  const text = bytes.toString('latin1', start, end)
  return /^-?\d+$/.test(text) ? BigInt(text) : text
}

/** Bytes travel as the characters U+0000 to U+00FF, in UTF-8. */
function readBytes(bytes: Buffer, start: number, end: number): Buffer {
  let high = 0
  for (let i = start; i < end; i++) if (bytes[i]! >= 0xc0) high++
  if (high === 0) return Buffer.from(bytes.subarray(start, end))
  const out = Buffer.allocUnsafe(end - start - high)
  for (let i = start, at = 0; i < end; i++) {
    const byte = bytes[i]!
    out[at++] = byte < 0xc0 ? byte : ((byte & 3) << 6) | (bytes[++i]! & 0x3f)
  }
  return out
}

/** The binlog leaves out the zeros at the end of a BINARY(n), and the wire with it. */
const paddedBytes =
  (size: number): Decoder =>
  (bytes, start, end) => {
    const value = readBytes(bytes, start, end)
    return value.length < size ? Buffer.concat([value], size) : value
  }

function readJson(bytes: Buffer, start: number, end: number): ClientValue {
  const text = bytes.toString('utf8', start, end)
  try {
    return JSON.parse(text) as ClientValue
  } catch {
    return text
  }
}

/** The members in "enum('a','it''s')" or "set(…)", as MySQL prints them: quotes doubled, backslashes before the rest. */
export function membersOf(mysqlType: string): string[] {
  const escapes: Record<string, string> = { '0': '\0', n: '\n', r: '\r' }
  return [...mysqlType.matchAll(/'((?:[^'\\]|''|\\[^])*)'/g)].map((match) =>
    match[1]!.replace(/''|\\([^])/g, (_, escaped?: string) =>
      escaped === undefined ? "'" : (escapes[escaped] ?? escaped),
    ),
  )
}

/** 0 is MySQL's empty value for what was no member. */
const enumLabel =
  (members: readonly string[]): Decoder =>
  (bytes, start, end) => {
    const index = readInteger(bytes, start, end)
    return index === 0 ? '' : (members[index - 1] ?? index)
  }

const setLabels =
  (members: readonly string[]): Decoder =>
  (bytes, start, end) => {
    const bits = BigInt(bytes.toString('latin1', start, end))
    return members.filter((_, i) => (bits >> BigInt(i)) & 1n)
  }

function dateReader(timezone: string): Decoder {
  return (bytes, start, end) => {
    const text = bytes.toString('latin1', start, end)
    const iso = text.length === 10 ? `${text}T00:00:00` : text.replace(' ', 'T')
    const date = new Date(iso + timezone)
    // 30 February, which MySQL may hold, would become a day of March
    const day = new Date(`${iso}Z`).getUTCDate()
    return Number.isNaN(date.getTime()) || day !== Number(text.slice(8, 10)) ? text : date
  }
}
