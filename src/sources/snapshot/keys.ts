/**
 * Keys that somebody names, to be read again: their values as texts or numbers become the bytes that a row image would
 * hold, from which follow the literals to ask for them, and for a key that is no longer there the image of a delete. Also
 * reads them: rows that are there as inserts, keys that are not as deletes before them. Knows no stream.
 */
import { BINARY, charsetOf } from '../../binlog/charset.ts'
import { addressBytes } from '../../binlog/mariadb/values.ts'
import { columnTypes as t } from '../../binlog/table-map.ts'
import type { Column } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import type { BinaryConnection } from '../../mysql/binary.ts'
import { Out } from '../../out.ts'
import { eventsOf, type Chunk } from './chunk.ts'
import { ADDRESSES, ImageWriter, quoteName, writeTemporal, writePackedDecimal } from './image.ts'
import { literalOf, selectList, tableName, type TablePlan } from './plan.ts'

/** Values of the columns of a key, in its order. Bytes: "0x…"; ENUM and SET: by name or number; times as MySQL prints them, in UTC. */
export type KeyValues = readonly (string | number)[]

/** So many are asked for at once. */
export const KEYS_AT_ONCE = 500

interface EncodedKey {
  readonly starts: readonly number[] // in the common buffer, of the key's columns
  readonly ends: readonly number[]
  readonly text: string // the bytes, to compare
}

/** Throws USAGE for a key that cannot be one of this table: which, and why. */
export function checkKeys(plan: TablePlan, keys: readonly KeyValues[]): void {
  const out = new Out(1024)
  for (const key of keys) {
    out.reset()
    encode(plan, key, out)
  }
}

/** The images of a key's columns, one after the other, each with what stands before it in a row image. */
function encode({ table, key }: TablePlan, values: KeyValues, out: Out): EncodedKey {
  const where = `${table.database}.${table.name}`
  if (key.length === 0)
    throw new SluiceError('USAGE', `${where} has no primary or unique key without NULLs`)
  if (values.length !== key.length) {
    const names = key.map((c) => c.name).join(', ')
    const text = `a key of ${where}: expected ${key.length} values (${names}), found ${JSON.stringify(values)}`
    throw new SluiceError('USAGE', text)
  }
  const starts: number[] = []
  const ends: number[] = []
  for (const [i, column] of key.entries()) {
    out.ensure(64)
    try {
      starts.push(writeKey(column, values[i]!, out))
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error)
      const text = `a key of ${where}: column ${column.name} (${column.mysqlType}): expected ${why}, found ${JSON.stringify(values[i])}`
      throw new SluiceError('USAGE', text)
    }
    ends.push(out.at)
  }
  const text = starts.map((at, i) => out.buf.toString('latin1', at, ends[i])).join('\u0000\u001f')
  return { starts, ends, text }
}

const INTEGERS = new Map<number, number>([
  [t.TINY, 1],
  [t.SHORT, 2],
  [t.INT24, 3],
  [t.LONG, 4],
  [t.LONGLONG, 8],
])
const PLAIN_ASCII = /^[\u0020-\u007e]*$/

/** Writes one value; returns where its bytes begin, behind a length. Throws what was expected. */
function writeKey(column: Column, value: string | number, out: Out): number {
  const { type, size, meta } = column
  const start = out.at
  const text = String(value)
  const bytes = INTEGERS.get(type)
  // JSON has rounded it already
  if (typeof value === 'number' && Math.abs(value) > Number.MAX_SAFE_INTEGER && !isFloating(type))
    throw new Error('a number beyond 2^53 as a text, in quotes')
  if (bytes !== undefined) {
    const bits = BigInt(8 * bytes)
    const least = column.unsigned ? 0n : -(1n << (bits - 1n))
    writeInteger(
      within(integerOf(text, 'an integer'), least, least + (1n << bits) - 1n),
      bytes,
      out,
    )
  } else if (type === t.ENUM || type === t.SET) writeInteger(memberOf(column, text), size, out)
  else if (type === t.BIT) {
    const given = integerOf(text.replace(/^b'([01]+)'$/, '0b$1'), 'an integer')
    const bits = within(given, 0n, (1n << BigInt(bitsOf(column))) - 1n)
    for (let i = size - 1; i >= 0; i--) out.u8(Number((bits >> BigInt(8 * i)) & 0xffn))
  } else if (type === t.YEAR) {
    const year = Number(integerOf(text, 'a year'))
    if (year !== 0 && (year < 1901 || year > 2155)) throw new Error('0 or a year from 1901 to 2155')
    out.u8(year === 0 ? 0 : year - 1900)
  } else if (isFloating(type)) {
    const given = Number(text)
    const number = type === t.FLOAT ? Math.fround(given) : given
    if (text.trim() === '' || !Number.isFinite(number)) throw new Error('a number of its range')
    if (type === t.FLOAT) out.buf.writeFloatLE(number, start)
    else out.buf.writeDoubleLE(number, start)
    out.at += size
  } else if (type === t.NEWDECIMAL) writeDecimal(text, meta >> 8, meta & 0xff, out)
  else if (size < 0) return writeCounted(column, bytesOf(column, text), out)
  else if (!writeTemporal(column, text, out)) throw new Error('a date or time as MySQL prints it')
  return start
}
const isFloating = (type: number): boolean => type === t.FLOAT || type === t.DOUBLE
/** "bit(10)": 10. */
const bitsOf = ({ mysqlType }: Column): number => Number(/\d+/.exec(mysqlType)?.[0] ?? 1)
function within(value: bigint, least: bigint, most: bigint): bigint {
  if (value < least || value > most) throw new Error(`an integer from ${least} to ${most}`)
  return value
}
function writeDecimal(text: string, precision: number, scale: number, out: Out): void {
  const [all, whole = '', part = ''] = /^[-+]?0*(\d*?)(?:\.(\d*?)0*)?$/.exec(text) ?? []
  if (all === undefined || !/\d/.test(text)) throw new Error('a decimal number')
  if (whole.length > precision - scale || part.length > scale)
    throw new Error(`at most ${precision - scale} digits before the point and ${scale} behind it`)
  writePackedDecimal(`${text.startsWith('-') ? '-' : ''}${whole}.${part}`, precision, scale, out)
}
function integerOf(text: string, expected: string): bigint {
  if (!/^(-?\d+|0[bx][\da-f]+)$/i.test(text)) throw new Error(expected)
  return BigInt(text)
}
function writeInteger(value: bigint, bytes: number, out: Out): void {
  for (let i = 0; i < bytes; i++) out.u8(Number((value >> BigInt(8 * i)) & 0xffn))
}
function memberOf({ type, members = [] }: Column, text: string): bigint {
  if (/^\d+$/.test(text) && !members.includes(text)) {
    const most = type === t.ENUM ? BigInt(members.length) : (1n << BigInt(members.length)) - 1n
    return within(BigInt(text), 0n, most)
  }
  if (type === t.ENUM) {
    const at = members.indexOf(text)
    if (at < 0) throw new Error(`one of ${members.join(', ')}`)
    return BigInt(at + 1)
  }
  let mask = 0n
  for (const name of text === '' ? [] : text.split(',')) {
    const at = members.indexOf(name)
    if (at < 0) throw new Error(`names of ${members.join(', ')}`)
    mask |= 1n << BigInt(at)
  }
  return mask
}
/** The text in the column's character set; of a binary column the bytes that "0x…" names, else those of the text. */
function bytesOf({ collation, type, mysqlType }: Column, text: string): Buffer {
  const most = ADDRESSES[mysqlType] ?? Number(/\((\d+)\)/.exec(mysqlType)?.[1] ?? Infinity)
  if (collation === BINARY || collation === 0) {
    const hex = /^0x((?:[\da-f]{2})*)$/i.exec(text)
    const bytes = hex
      ? Buffer.from(hex[1]!, 'hex')
      : (addressBytes(mysqlType, text) ?? Buffer.from(text, 'utf8'))
    let end = bytes.length
    if (type === t.STRING) while (end > 0 && bytes[end - 1] === 0) end--
    if (end > most) throw new Error(`at most ${most} bytes`)
    return bytes.subarray(0, end)
  }
  // a CHAR is stored without the spaces at its end
  const plain = type === t.STRING ? text.replace(/ +$/, '') : text
  if (!plain.isWellFormed()) throw new Error('a text without halves of characters')
  if (plain.length > most && Array.from(plain).length > most)
    throw new Error(`at most ${most} characters`)
  const { name } = charsetOf(collation)
  // MySQL's latin1 has other characters where ISO-8859-1 has its second control characters
  if (name === 'latin1' && !/[\u0080-\u009f\u0100-\uffff]/.test(plain))
    return Buffer.from(plain, 'latin1')
  if (name === 'utf8mb4' || (name === 'utf8mb3' && !/[\ud800-\udfff]/.test(plain)))
    return Buffer.from(plain, 'utf8')
  if (
    Buffer.byteLength(plain) === plain.length &&
    (name === 'ascii' || PLAIN_ASCII.test(plain)) &&
    !/^(ucs2|utf16|utf32)/.test(name)
  )
    return Buffer.from(plain, 'latin1')
  if (name === 'utf8mb3') throw new Error('a text without characters of four bytes')
  throw new Error(`a text of ASCII characters, for the column is in ${name}`)
}
/** Whether a text is one of MariaDB's address or UUID types, where the type is such a one. */
export function isAddress(mysqlType: string, text: string): boolean {
  try {
    addressBytes(mysqlType, text)
    return true
  } catch {
    return false
  }
}
/** A length of 1 to 4 bytes, then the bytes. */
function writeCounted({ size }: Column, bytes: Buffer, out: Out): number {
  for (let k = 0, rest = bytes.length; k < -size; k++, rest = Math.floor(rest / 256))
    out.u8(rest & 0xff)
  const start = out.at
  out.bytes(bytes, 0, bytes.length)
  return start
}

export interface KeyChunkOptions {
  readonly plan: TablePlan
  readonly keys: readonly KeyValues[] // KEYS_AT_ONCE at most
  readonly from: number // how many of the list were read before
  readonly total: number // of the list
  readonly lock: boolean
  readonly serverId: number
}
/** Reads these keys. Throws what the connection throws, USAGE for a key that is none. */
export async function readKeys(
  connection: BinaryConnection,
  { plan, keys, from, total, lock, serverId }: KeyChunkOptions,
): Promise<Chunk> {
  const { table, key } = plan
  const scratch = new Out(4096)
  const wanted = new Map<string, EncodedKey>()
  for (const values of keys) {
    const encoded = encode(plan, values, scratch)
    wanted.set(encoded.text, encoded)
  }
  const literal = ({ starts, ends }: EncodedKey): string =>
    key
      .map((c, i) => `${quoteName(c.name)} = ${literalOf(c, scratch.buf, starts[i]!, ends[i]!)}`)
      .join(' AND ')
  const any = [...wanted.values()].map((one) => `(${literal(one)})`).join(' OR ')
  const sql =
    `SELECT ${selectList(plan)} FROM ${tableName(table)} FORCE INDEX (${quoteName(plan.keyName)})` +
    ` WHERE ${any}${lock ? ' LOCK IN SHARE MODE' : ''}`
  const out = new Out(64 * 1024)
  const found = eventsOf(out, table, 'insert', serverId)
  const writer = new ImageWriter(table.columns, out, found.row)
  await connection.select(sql, {
    columns: (columns) => writer.columns(columns),
    row: (bytes, start) => {
      writer.row(bytes, start)
      const parts = key.map(({ index }) =>
        out.buf.toString('latin1', writer.starts[index]!, writer.ends[index]),
      )
      wanted.delete(parts.join('\u0000\u001f'))
    },
  })
  const inserts = found.end()
  const gone = eventsOf(out, table, 'delete', serverId, key)
  // columns of an image stand in the table's order
  const order = key.map((_, i) => i).toSorted((a, b) => key[a]!.index - key[b]!.index)
  for (const { starts, ends } of wanted.values()) {
    gone.row()
    const bits = (key.length + 7) >> 3
    out.ensure(bits)
    for (let i = 0; i < bits; i++) out.u8(0)
    for (const i of order) writeAgain(key[i]!, scratch.buf, starts[i]!, ends[i]!, out)
  }
  const done = from + keys.length
  return {
    plan,
    bytes: out.at,
    rows: inserts.rows + wanted.size,
    after: [String(done)],
    last: done >= total,
    cut: false,
    buffer: out.buf,
    // What is gone comes first: in a target that compares keys less exactly, a row that is there stays.
    events: [...gone.end().events, ...inserts.events],
  }
}
function writeAgain(column: Column, bytes: Buffer, start: number, end: number, out: Out): void {
  if (column.size < 0) writeCounted(column, bytes.subarray(start, end), out)
  else out.bytes(bytes, start, end)
}
