/**
 * Whether Sluice and zongji mean the same by a value. Pure. What zongji is known to do differently has a name here;
 * nothing is passed over without one.
 */
import type { Column, Value } from '../../change.ts'

export type Verdict =
  | { readonly kind: 'same' }
  | { readonly kind: 'known'; readonly reason: string }
  | { readonly kind: 'different' }

// include/field_types.h
const FLOAT = 4
const TIME = new Set([11, 19])
const YEAR = 13
const BIT = 16
export const VECTOR = 242
const JSON_TYPE = 245
const ENUM = 247
const GEOMETRY = 255

const same: Verdict = { kind: 'same' }
const different: Verdict = { kind: 'different' }
const known = (reason: string): Verdict => ({ kind: 'known', reason })

/** `ours` undefined: the column is absent from the row image. */
export function compareValues(column: Column, ours: Value | undefined, theirs: unknown): Verdict {
  if (ours === undefined) {
    return theirs === null || theirs === undefined
      ? known('an absent column, which zongji gives as NULL')
      : different
  }
  if (ours === null) return theirs === null ? same : different
  if (column.type === GEOMETRY) return known('a geometry, which zongji takes apart')
  if (typeof ours === 'object' && 'kind' in ours)
    return known('a partial JSON update, which zongji cannot decode')
  if (column.type === JSON_TYPE) return compareJson(String(ours), theirs)
  if (column.type === ENUM && ours === '' && theirs === undefined)
    return known("ENUM's error value ''")
  if (column.type === BIT) return bitsOf(theirs) === BigInt(ours as bigint) ? same : different
  if (column.type === YEAR && ours === 0 && theirs === 1900)
    return known('YEAR 0000, which zongji gives as 1900')
  if (column.type === FLOAT)
    return Math.fround(Number(ours)) === Math.fround(Number(theirs)) ? same : different
  if (ours instanceof Uint8Array) return compareBytes(ours, theirs)
  if (typeof ours === 'string') {
    if (ours === theirs) return same
    const negative = TIME.has(column.type) && ours.startsWith('-')
    return negative ? known('a negative TIME, whose borrow zongji leaves out') : different
  }
  return String(ours) === String(theirs) ? same : different
}

function bitsOf(theirs: unknown): bigint | undefined {
  if (!(theirs instanceof Uint8Array)) return undefined
  return BigInt(`0x${Buffer.from(theirs).toString('hex') || '0'}`)
}
function compareBytes(ours: Uint8Array, theirs: unknown): Verdict {
  if (!(theirs instanceof Uint8Array)) return different
  if (Buffer.compare(ours, theirs) === 0) return same
  const begins = Buffer.compare(ours.subarray(0, theirs.length), theirs) === 0
  const padded = begins && ours.subarray(theirs.length).every((b) => b === 0)
  return padded ? known('BINARY(n), which zongji does not always pad') : different
}
function compareJson(ours: string, theirs: unknown): Verdict {
  let a: unknown
  let b: unknown
  try {
    a = JSON.parse(ours)
    b = typeof theirs === 'string' ? JSON.parse(theirs) : theirs
  } catch {
    return different
  }
  if (alike(a, b)) return same
  return /"base64:type\d+:/.test(ours) ? known('an opaque value inside JSON') : different
}
/** Equal JSON; a number and its text count as equal, for DECIMAL and 64-bit integers inside JSON. */
function alike(a: unknown, b: unknown): boolean {
  if (typeof a === 'number' || typeof b === 'number') {
    const [x, y] = [Number(a), Number(b)]
    return x === y || Math.abs(x - y) <= Math.abs(x) * 1e-15
  }
  if (Array.isArray(a))
    return Array.isArray(b) && a.length === b.length && a.every((v, i) => alike(v, b[i]))
  if (typeof a !== 'object' || a === null || typeof b !== 'object' || b === null) return a === b
  const left = a as Record<string, unknown>
  const right = b as Record<string, unknown>
  const keys = Object.keys(left)
  return (
    keys.length === Object.keys(right).length &&
    keys.every((k) => Object.hasOwn(right, k) && alike(left[k], right[k]))
  )
}
