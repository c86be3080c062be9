/**
 * Schemas as data: the JSON Schema editors complete from, the list of all keys with defaults and descriptions, and the
 * closest key to a misspelt one. Works on any zod schema; knows none in particular.
 */
import * as z from 'zod'
import type { Path } from './yaml.ts'

export interface Key {
  readonly path: string // "canal.tls.cert"
  readonly description: string
  readonly default: unknown // undefined: there is none
  readonly section: boolean
}
export interface JsonSchema {
  readonly [key: string]: unknown
  readonly properties?: Readonly<Record<string, JsonSchema>>
  readonly description?: string
  readonly default?: unknown
  readonly additionalProperties?: unknown
}

/** JSON Schema of a configuration file for editors; every scalar may also be a `${…}` substitution. */
export function jsonSchema(schema: z.ZodType, title: string): JsonSchema {
  const substitution = { type: 'string', pattern: '\\$\\{' }
  const json = z.toJSONSchema(schema, {
    io: 'input',
    override: ({ jsonSchema: node }) => {
      if (node.minimum === Number.MIN_SAFE_INTEGER) delete node.minimum
      if (node.maximum === Number.MAX_SAFE_INTEGER) delete node.maximum
      if (node.type !== 'integer' && node.type !== 'boolean' && !node.enum && !node.pattern) return
      const { description, default: value, ...rest } = node
      for (const key of Object.keys(node)) delete node[key]
      if (description !== undefined) node.description = description
      if (value !== undefined) node.default = value
      node.anyOf = [rest, substitution] as typeof node.anyOf & object
    },
  })
  return { title, ...json } as JsonSchema
}

/** Every key of a schema in order, sections before their keys. Conf files and docs/config.md are compared with it. */
export function listKeys(schema: z.ZodType): Key[] {
  const keys: Key[] = []
  const walk = (node: JsonSchema, above: string): void => {
    for (const [name, child] of Object.entries(node.properties ?? {})) {
      const at = above ? `${above}.${name}` : name
      const isSection = child.properties !== undefined
      keys.push({
        path: at,
        description: child.description ?? '',
        default: isSection ? undefined : child.default,
        section: isSection,
      })
      walk(child, at)
    }
  }
  walk(z.toJSONSchema(schema, { io: 'input' }) as JsonSchema, '')
  return keys
}

/** The keys a mapping at `at` may have. Of several forms those that fit the `type` that `value` has there, else all. */
export function keysAt(schema: z.ZodType, at: Path, value?: unknown): string[] {
  let here = value
  let nodes = formsOf(z.toJSONSchema(schema, { io: 'input' }) as JsonSchema, here)
  for (const part of at) {
    here = memberOf(here, part)
    nodes = nodes.flatMap((node) => {
      const named = typeof part === 'number' ? node['items'] : node.properties?.[String(part)]
      const child = named ?? (node.properties ? undefined : node.additionalProperties)
      return isObject(child) ? formsOf(child, here) : []
    })
  }
  return [...new Set(nodes.flatMap((node) => Object.keys(node.properties ?? {})))]
}
const isObject = (value: unknown): value is JsonSchema =>
  typeof value === 'object' && value !== null
const memberOf = (value: unknown, part: PropertyKey): unknown =>
  isObject(value) ? value[String(part)] : undefined

function formsOf(node: JsonSchema, value: unknown): JsonSchema[] {
  const forms = node['anyOf'] ?? node['oneOf']
  if (!Array.isArray(forms)) return [node]
  const all = (forms as JsonSchema[]).flatMap((form) => formsOf(form, value))
  const type = memberOf(value, 'type')
  const fitting = all.filter((form) => form.properties?.['type']?.['const'] === type)
  return type !== undefined && fitting.length > 0 ? fitting : all
}
/** The closest of `candidates` by edits, if it is close enough to be a slip; case does not count. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  const limit = Math.max(1, Math.floor(word.length / 3))
  const scored = candidates
    .map((c) => ({ c, edits: distance(word.toLowerCase(), c.toLowerCase()) }))
    .sort((a, b) => a.edits - b.edits)
  const best = scored[0]
  return best && best.edits <= limit ? best.c : undefined
}
/** Edits between two words: insertions, deletions, replacements and swaps of neighbours. */
function distance(a: string, b: string): number {
  const rows = [Array.from({ length: b.length + 1 }, (_, j) => j)]
  const cell = (i: number, j: number): number => rows[i]![j]!
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    rows.push(row)
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1
      let edits = Math.min(cell(i - 1, j) + 1, cell(i, j - 1) + 1, cell(i - 1, j - 1) + same)
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]
      if (swapped) edits = Math.min(edits, cell(i - 2, j - 2) + 1)
      row.push(edits)
    }
  }
  return cell(a.length, b.length)
}
