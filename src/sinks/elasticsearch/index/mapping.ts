/**
 * Which type a column gets in an index, derived from the table's definition. What is stored is always the exact JSON of
 * shape/json.ts; a mapping only says how it is searched, so a value that a type cannot hold (a zero date) is stored all
 * the same and merely not found by that field.
 */
import type { Column } from '../../../change.ts'
import { isBinary } from '../../shape/json.ts'
import type { TargetColumn } from '../../shape/row.ts'

export type Mapping = Readonly<Record<string, unknown>>
/** Fields of an index by name. */
export type Fields = Record<string, Mapping>

export interface MappingOptions {
  readonly decimal: 'keyword' | 'scaledFloat' | 'double'
  readonly json: 'stored' | 'object' | 'flattened'
  readonly text: 'both' | 'text' | 'keyword'
  readonly opensearch: boolean
}

/** Our own field in every document that needs it: when it was deleted, and the versions of its parts. */
export const META = 'sluice'
export const metaMapping: Mapping = {
  properties: {
    deleted: { type: 'date', format: 'epoch_millis' },
    parts: { type: 'object', enabled: false },
  },
}
/** What an alias shows: everything that is not deleted. */
export const liveOnly = { bool: { must_not: { exists: { field: `${META}.deleted` } } } }

/** Longest text that is found as a whole; the limit of a term is 32766 bytes. */
const KEYWORD_MAX = 1024

/** MySQL type codes, include/field_types.h. */
const [DECIMAL, NEWDECIMAL, TINY, SHORT, LONG, FLOAT, DOUBLE] = [0, 246, 1, 2, 3, 4, 5]
const [LONGLONG, INT24, YEAR, BIT, JSON_TYPE, ENUM, SET] = [8, 9, 13, 16, 245, 247, 248]
const [DATE, NEWDATE] = [10, 14]
const MOMENTS = new Set([7, 12, 17, 18])
const TIMES = new Set([11, 19])

const keyword: Mapping = { type: 'keyword', ignore_above: KEYWORD_MAX }
const date = (format: string): Mapping => ({ type: 'date', format, ignore_malformed: true })

/** The mapping of one column. */
export function fieldMapping(target: TargetColumn, options: MappingOptions): Mapping {
  const { column, derived } = target
  if (column === undefined || derived !== undefined) return textMapping(options)
  switch (column.type) {
    case TINY:
      return { type: column.unsigned ? 'short' : 'byte' }
    case SHORT:
      return { type: column.unsigned ? 'integer' : 'short' }
    case INT24:
      return { type: 'integer' }
    case LONG:
      return { type: column.unsigned ? 'long' : 'integer' }
    case LONGLONG:
      return { type: column.unsigned ? 'unsigned_long' : 'long' }
    case BIT:
      return { type: argument(column, 1) === 64 ? 'unsigned_long' : 'long' }
    case YEAR:
      return { type: 'short' }
    case FLOAT:
      return { type: 'float' }
    case DOUBLE:
      return { type: 'double' }
    case DECIMAL:
    case NEWDECIMAL:
      return decimalMapping(column, options)
    case DATE:
    case NEWDATE:
      return date('uuuu-MM-dd')
    case JSON_TYPE:
      return jsonMapping(options)
    case ENUM:
    case SET:
      return keyword
    default:
      return otherMapping(column, options)
  }
}
function otherMapping(column: Column, options: MappingOptions): Mapping {
  if (MOMENTS.has(column.type)) {
    const digits = argument(column, 1)
    return date(`uuuu-MM-dd HH:mm:ss${digits > 0 ? `.${'S'.repeat(digits)}` : ''}`)
  }
  if (TIMES.has(column.type)) return keyword
  if (isBinary(column)) return { type: 'binary' }
  return textMapping(options)
}
/** The n-th number in brackets of a type's text: decimal(10,2). */
const argument = ({ mysqlType }: Column, n: 1 | 2): number =>
  Number(/\((\d+)(?:,(\d+))?\)/.exec(mysqlType)?.[n] ?? 0)

function decimalMapping(column: Column, { decimal }: MappingOptions): Mapping {
  const scale = argument(column, 2)
  switch (decimal) {
    case 'keyword':
      return keyword
    case 'double':
      return { type: 'double' }
    case 'scaledFloat':
      return { type: 'scaled_float', scaling_factor: 10 ** Math.min(scale, 15) }
  }
}
function jsonMapping({ json, opensearch }: MappingOptions): Mapping {
  switch (json) {
    case 'stored':
      return { type: 'object', enabled: false }
    case 'object':
      return { type: 'object' }
    case 'flattened':
      return opensearch ? { type: 'flat_object' } : { type: 'flattened', ignore_above: KEYWORD_MAX }
  }
}
function textMapping({ text }: MappingOptions): Mapping {
  if (text === 'keyword') return keyword
  return text === 'text' ? { type: 'text' } : { type: 'text', fields: { keyword } }
}

/** The fields of `wanted` that are not in `there`, properties of properties too. */
export function missingFields(wanted: Fields, there: Fields): Fields {
  const missing: Fields = {}
  for (const [name, mapping] of Object.entries(wanted)) {
    const known = there[name]
    if (known === undefined) missing[name] = mapping
    else if (mapping['properties'] !== undefined) {
      const inner = missingFields(
        mapping['properties'] as Fields,
        (known['properties'] ?? {}) as Fields,
      )
      if (Object.keys(inner).length === 0) continue
      const type = mapping['type']
      missing[name] = { ...(type === undefined ? {} : { type }), properties: inner }
    }
  }
  return missing
}
/** Fields that are there with another type: "price: keyword instead of long". */
export function differentFields(wanted: Fields, there: Fields): string[] {
  const typeOf = ({ type }: Mapping): string => (typeof type === 'string' ? type : 'object')
  return Object.entries(wanted).flatMap(([name, mapping]) => {
    const known = there[name]
    if (known === undefined || typeOf(mapping) === typeOf(known)) return []
    return [`${name} is ${typeOf(known)}, not ${typeOf(mapping)}`]
  })
}
/** With keyword where the server does not know the type. */
export function withoutType(fields: Fields, type: string): Fields {
  return Object.fromEntries(
    Object.entries(fields).map(([name, mapping]) => {
      if (mapping['type'] === type) return [name, keyword]
      const properties = mapping['properties'] as Fields | undefined
      return [
        name,
        properties === undefined
          ? mapping
          : { ...mapping, properties: withoutType(properties, type) },
      ]
    }),
  )
}
