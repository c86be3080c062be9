/**
 * Column types as Debezium's MySQL connector maps them by default (decimal.handling.mode=precise, time.precision.mode=
 * adaptive_time_microseconds, binary.handling.mode=bytes): for each the Kafka Connect schema and a writer of the JSON
 * value. Values go from the row image to the output; dates are computed from the text in the output buffer.
 */
import { NULL, type Column, type ImageSide, type Value } from '../../../change.ts'
import type { Out } from '../../../out.ts'
import { escapeJson, isBinary, writeJsonString } from '../../shape/json.ts'
import type { SinkRow, TargetColumn } from '../../shape/row.ts'
import { daysOf, fractionOf, secondsOf, writeMicros } from './time.ts'

export interface Schema {
  readonly type: string
  readonly name?: string
  readonly version?: number
  readonly parameters?: Readonly<Record<string, string>>
  readonly fields?: readonly object[]
  readonly items?: object
}
/** Writes a value that is there; false: it has no value in this type (a zero date): null, or 0 where null is not allowed. */
type Write = (row: SinkRow, side: ImageSide, out: Out) => boolean
interface Kind {
  readonly schema: Schema
  readonly write: Write
  readonly zero?: string // for a value that has none where null is not allowed
}

export interface DebeziumColumn {
  readonly target: TargetColumn
  readonly optional: boolean
  /** The field's schema as Kafka Connect's JSON converter writes it. */
  readonly schema: object
  /** Writes the value, `null` for NULL. The column must not be absent. */
  write(row: SinkRow, side: ImageSide, out: Out): void
}

export function debeziumColumn(target: TargetColumn): DebeziumColumn {
  const { column, derived } = target
  const kind = column === undefined || derived !== undefined ? text(target) : kindOf(column, target)
  const optional = column === undefined || derived !== undefined ? true : column.nullable
  const { type, name, version, parameters, fields, items } = kind.schema
  const schema = {
    type,
    ...(fields && { fields }),
    ...(items && { items }),
    optional,
    ...(name && { name, version }),
    ...(parameters && { parameters }),
    field: target.name,
  }
  const none = optional ? 'null' : (kind.zero ?? 'null')
  const { write } = kind
  return {
    target,
    optional,
    schema,
    write(row, side, out) {
      if (row.state(side, target) === NULL) out.ascii('null')
      else if (!write(row, side, out)) out.ascii(none)
    },
  }
}

/** MySQL type codes: include/field_types.h. */
function kindOf(column: Column, target: TargetColumn): Kind {
  const { type, unsigned } = column
  switch (type) {
    case 1: // TINY
      return plain('int16', target)
    case 2: // SHORT
      return plain(unsigned ? 'int32' : 'int16', target)
    case 9: // INT24
      return plain('int32', target)
    case 3: // LONG
      return plain(unsigned ? 'int64' : 'int32', target)
    case 8: // LONGLONG
      return plain('int64', target)
    case 4:
      return plain('float', target)
    case 5:
      return plain('double', target)
    case 13:
      return { ...plain('int32', target), schema: named('int32', 'io.debezium.time.Year') }
    case 0:
    case 246:
      return decimal(column, target)
    case 16:
      return bits(column, target)
    case 245:
      return { ...text(target), schema: named('string', 'io.debezium.data.Json') }
    case 247:
    case 248:
      return labels(column, target)
    case 242:
      return vector(target)
    case 255:
      return geometry(column, target)
    default:
      return temporalOf(column, target) ?? (isBinary(column) ? bytes(target) : text(target))
  }
}

const named = (type: string, name: string, parameters?: Record<string, string>): Schema => ({
  type,
  name,
  version: 1,
  ...(parameters && { parameters }),
})

/** Numbers: Canal's text is a JSON number. */
const plain = (type: string, target: TargetColumn): Kind => ({
  schema: { type },
  write(row, side, out) {
    if (type === 'int32' && target.column?.type === 13) {
      out.int(Number(row.value(side, target))) // "0000" is no JSON number
      return true
    }
    row.text(side, target, out)
    return true
  },
})
const text = (target: TargetColumn): Kind => ({
  schema: { type: 'string' },
  write(row, side, out) {
    out.ascii('"')
    const from = out.at
    row.text(side, target, out)
    escapeJson(out, from)
    out.ascii('"')
    return true
  },
})

function base64(value: Uint8Array, out: Out): true {
  out.ascii(`"${Buffer.from(value.buffer, value.byteOffset, value.length).toString('base64')}"`)
  return true
}
const asBytes = (value: Value | undefined): Uint8Array =>
  value instanceof Uint8Array ? value : Buffer.from(typeof value === 'string' ? value : '')
const bytes = (target: TargetColumn): Kind => ({
  schema: { type: 'bytes' },
  write: (row, side, out) => base64(asBytes(row.value(side, target)), out),
})

/** Two's complement of the unscaled number, big-endian, as short as can be. */
export function unscaled(decimalText: string): Buffer {
  const n = BigInt(decimalText.replace('.', ''))
  let length = 1
  while (n >= 1n << BigInt(length * 8 - 1) || n < -(1n << BigInt(length * 8 - 1))) length++
  const hex = BigInt.asUintN(length * 8, n).toString(16)
  return Buffer.from(hex.padStart(length * 2, '0'), 'hex')
}
function decimal({ meta }: Column, target: TargetColumn): Kind {
  const [precision, scale] = [meta >> 8, meta & 0xff]
  return {
    schema: {
      ...named('bytes', 'org.apache.kafka.connect.data.Decimal'),
      parameters: { scale: String(scale), 'connect.decimal.precision': String(precision) },
    },
    write(row, side, out) {
      const from = out.at
      row.text(side, target, out)
      const digits = out.buf.toString('latin1', from, out.at)
      out.at = from
      return base64(unscaled(digits), out)
    },
  }
}

function bits({ meta }: Column, target: TargetColumn): Kind {
  const length = (meta >> 8) * 8 + (meta & 0xff)
  if (length === 1) {
    return {
      schema: { type: 'boolean' },
      write(row, side, out) {
        out.ascii(BigInt(row.value(side, target) as bigint) === 0n ? 'false' : 'true')
        return true
      },
    }
  }
  const size = (length + 7) >> 3
  const little = Buffer.alloc(8)
  return {
    schema: named('bytes', 'io.debezium.data.Bits', { length: String(length) }),
    write(row, side, out) {
      little.writeBigUInt64LE(BigInt(row.value(side, target) as bigint))
      return base64(little.subarray(0, size), out)
    },
  }
}

function labels({ type, members }: Column, target: TargetColumn): Kind {
  const allowed = (members ?? []).join(',')
  return {
    schema: named('string', `io.debezium.data.Enum${type === 248 ? 'Set' : ''}`, { allowed }),
    write(row, side, out) {
      const value = row.value(side, target)
      writeJsonString(typeof value === 'string' ? value : String(value as number | bigint), out)
      return true
    },
  }
}

/** Four bytes of SRID, little-endian, then WKB. */
function geometry({ mysqlType }: Column, target: TargetColumn): Kind {
  const point = mysqlType === 'point'
  const field = (type: string, name: string, optional: boolean): object => ({
    type,
    optional,
    field: name,
  })
  const fields = [
    ...(point ? [field('double', 'x', false), field('double', 'y', false)] : []),
    field('bytes', 'wkb', point),
    field('int32', 'srid', true),
  ]
  const name = `io.debezium.data.geometry.${point ? 'Point' : 'Geometry'}`
  return {
    schema: { type: 'struct', name, version: 1, fields },
    write(row, side, out) {
      const value = Buffer.from(asBytes(row.value(side, target)))
      out.ascii('{')
      // byte order, type 1, x, y
      if (point) out.ascii(`"x":${value.readDoubleLE(9)},"y":${value.readDoubleLE(17)},`)
      out.ascii(`"wkb":"${value.toString('base64', 4)}","srid":${value.readUInt32LE(0)}}`)
      return true
    },
  }
}
const vector = (target: TargetColumn): Kind => ({
  schema: {
    type: 'array',
    items: { type: 'float', optional: false },
    name: 'io.debezium.data.FloatVector',
    version: 1,
  },
  write(row, side, out) {
    const value = Buffer.from(asBytes(row.value(side, target)))
    const numbers: string[] = []
    for (let at = 0; at + 4 <= value.length; at += 4) numbers.push(float(value.readFloatLE(at)))
    out.ascii(`[${numbers.join(',')}]`)
    return true
  },
})
/** The shortest digits that give the same 32-bit float. */
function float(x: number): string {
  for (let digits = 1; digits < 9; digits++) {
    const short = x.toPrecision(digits)
    if (Math.fround(Number(short)) === x) return String(Number(short))
  }
  return String(x)
}

/** What the type's text says, computed in the output buffer and replaced there; undefined for other types. */
function temporalOf(column: Column, target: TargetColumn): Kind | undefined {
  const inPlace =
    (write: (buf: Buffer, from: number, end: number, out: Out) => boolean): Write =>
    (row, side, out) => {
      const from = out.at
      row.text(side, target, out)
      const end = out.at
      out.at = from
      return write(out.buf, from, end, out)
    }
  const digits = column.type >= 17 ? column.meta : 0
  switch (column.type) {
    case 10:
    case 14:
      return {
        schema: named('int32', 'io.debezium.time.Date'),
        zero: '0',
        write: inPlace((buf, from, _end, out) => {
          const days = daysOf(buf, from)
          if (days !== undefined) out.int(days)
          return days !== undefined
        }),
      }
    case 11:
    case 19:
      return { schema: named('int64', 'io.debezium.time.MicroTime'), write: inPlace(writeTime) }
    case 12:
    case 18:
      return {
        schema: named('int64', `io.debezium.time.${digits <= 3 ? 'Timestamp' : 'MicroTimestamp'}`),
        zero: '0',
        write: inPlace((buf, from, end, out) => writeDatetime(buf, from, end, digits <= 3, out)),
      }
    case 7:
    case 17:
      return {
        schema: named('string', 'io.debezium.time.ZonedTimestamp'),
        zero: '"1970-01-01T00:00:00Z"',
        write: (row, side, out) => {
          const from = out.at
          out.ascii('"')
          row.utc(side, target, out)
          if (daysOf(out.buf, from + 1) === undefined) out.at = from
          else {
            out.buf[from + 11] = 0x54 // T
            out.ascii('Z"')
          }
          return out.at > from
        },
      }
    default:
      return undefined
  }
}

/** `[-]HHH:MM:SS[.f]` → microseconds. */
function writeTime(buf: Buffer, from: number, end: number, out: Out): boolean {
  const negative = buf[from] === 0x2d
  let at = negative ? from + 1 : from
  let hours = 0
  while (buf[at] !== 0x3a) hours = hours * 10 + buf[at++]! - 0x30
  const two = (i: number): number => (buf[i]! - 0x30) * 10 + buf[i + 1]! - 0x30
  const seconds = hours * 3600 + two(at + 1) * 60 + two(at + 4)
  const micros = seconds * 1_000_000 + fractionOf(buf, at + 6, end)
  out.int(negative ? -micros : micros)
  return true
}
function writeDatetime(
  buf: Buffer,
  from: number,
  end: number,
  inMillis: boolean,
  out: Out,
): boolean {
  const seconds = secondsOf(buf, from)
  if (seconds === undefined) return false
  const micros = fractionOf(buf, from + 19, end)
  if (inMillis) out.int(seconds * 1000 + Math.floor(micros / 1000))
  else writeMicros(seconds, micros, out)
  return true
}
