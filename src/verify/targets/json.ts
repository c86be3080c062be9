/**
 * JSON of a target, compared and shown: numbers as they are written, members in any order. Pure.
 */
import { isDeepStrictEqual } from 'node:util'
import type { Values } from '../target.ts'

const SHOWN_MAX = 1000
/** A number, by its text. */
class Exact {
  readonly text: string
  constructor(text: string) {
    this.text = text
  }
}
const keep = (_key: string, value: unknown, context?: { readonly source?: string }): unknown =>
  typeof value === 'number' ? new Exact(plain(context?.source ?? String(value))) : value
/** Integers to the letter; others as the double that they are. */
const plain = (text: string): string => (/[.eE]/.test(text) ? String(Number(text)) : text)

/** undefined: it is no JSON. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text, keep as (key: string, value: unknown) => unknown) as unknown
  } catch {
    return undefined
  }
}
export const sameJson = (a: unknown, b: unknown): boolean => isDeepStrictEqual(a, b)

/** The members of an object, each as text; null for null. */
export function shownMembers(value: unknown): Values {
  if (typeof value !== 'object' || value === null) return { '(value)': cut(textOf(value)) }
  return Object.fromEntries(
    Object.entries(value).map(([name, member]) => [
      name,
      member === null ? null : cut(textOf(member)),
    ]),
  )
}
/** The same of its text, which may be something else. */
export function shownJson(bytes: Buffer): Values {
  const text = bytes.toString('utf8')
  const value = parseJson(text)
  return value === undefined ? { '(value)': cut(text) } : shownMembers(value)
}
/** A text or a number, as text; undefined of anything else. */
export function plainText(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  return value instanceof Exact ? value.text : undefined
}
function textOf(value: unknown): string {
  if (typeof value === 'string') return value
  if (value instanceof Exact) return value.text
  return JSON.stringify(value, (_key, member: unknown) =>
    member instanceof Exact
      ? (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON(member.text)
      : member,
  )
}
const cut = (text: string): string =>
  text.length > SHOWN_MAX ? `${text.slice(0, SHOWN_MAX)}…` : text
