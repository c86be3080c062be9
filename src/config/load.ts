/**
 * One YAML file against one schema: reads, substitutes, checks, and turns every complaint of the schema into a problem
 * with its place, what was expected (the schema's own words) and what was found. Never throws. Knows no key by name,
 * except that the value of one that sounds secret is not repeated.
 */
import { readFileSync } from 'node:fs'
import type * as z from 'zod'
import { withoutPasswords } from '../errors.ts'
import { keysAt, nearest } from './keys.ts'
import { YamlFile } from './yaml.ts'
import type { Environment, Path, Problem } from './yaml.ts'

export type Loaded<T> =
  | { readonly config: T; readonly problems: readonly [] }
  | { readonly config: undefined; readonly problems: readonly Problem[] }

/** A file's text, or why it cannot be read. */
export function readText(file: string): string | Error {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    return error as Error
  }
}

/** `finish` checks what lies between keys and gives the value its last form; it reports problems to the file. */
export function load<S extends z.ZodType, T>(
  file: string,
  source: string | Error,
  env: Environment,
  schema: S,
  finish: (yaml: YamlFile, config: z.output<S>) => T,
): Loaded<T> {
  if (source instanceof Error) {
    const message = `cannot be read: ${source.message}`
    return { config: undefined, problems: [{ file, line: 0, column: 0, key: '', message }] }
  }
  const yaml = new YamlFile(file, source, env)
  if (yaml.problems.length > 0 && yaml.problems.some((p) => p.key === '')) return failed(yaml)
  let result = schema.safeParse(yaml.value, { reportInput: true })
  if (!result.success && coerce(yaml, result.error.issues)) {
    result = schema.safeParse(yaml.value, { reportInput: true })
  }
  if (!result.success) {
    for (const issue of result.error.issues) report(yaml, schema, issue)
    return failed(yaml)
  }
  const config = finish(yaml, result.data)
  return yaml.problems.length > 0 ? failed(yaml) : { config, problems: [] }
}
function failed(yaml: YamlFile): Loaded<never> {
  // A value whose substitution failed was reported there; what the schema says of the hole is noise.
  const seen = new Set<string>()
  const problems = yaml.problems.filter(
    (p) => !seen.has(p.key) && (p.key === '' || seen.add(p.key)),
  )
  return {
    config: undefined,
    problems: problems.sort((a, b) => a.line - b.line || a.column - b.column),
  }
}

/** Substituted values are text; where that does not fit, they become what YAML would have read. */
function coerce(yaml: YamlFile, issues: readonly z.core.$ZodIssue[]): boolean {
  let any = false
  for (const { path: at, input } of issues) {
    if (typeof input !== 'string' || yaml.substituted(at) === undefined) continue
    const value = /^(true|false)$/.test(input)
      ? input === 'true'
      : input.trim() === ''
        ? NaN
        : Number(input)
    if (Number.isNaN(value)) continue
    yaml.replace(at, value)
    any = true
  }
  return any
}

function report(yaml: YamlFile, schema: z.ZodType, given: z.core.$ZodIssue): void {
  const issue = atDiscriminator(given)
  if (issue.code === 'unrecognized_keys') {
    const known = keysAt(schema, issue.path, yaml.value)
    for (const key of issue.keys) {
      const near = nearest(key, known)
      const hint = near ? `did you mean "${near}"?` : `expected one of ${known.join(', ')}`
      yaml.keyProblem([...issue.path, key], `unknown key; ${hint}`)
    }
  } else if (issue.input === undefined) {
    yaml.problem(issue.path, `expected ${issue.message}, found nothing`)
  } else {
    const found = foundText(yaml, issue.path, issue.input)
    yaml.problem(issue.path, `expected ${issue.message}, found ${found}`)
  }
}
/** Of a union by a key the issue is at that key, but its input is the whole mapping. */
function atDiscriminator(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== 'invalid_union' || issue.discriminator === undefined) return issue
  const whole = issue.input as Readonly<Record<string, unknown>>
  return { ...issue, input: whole[issue.discriminator] }
}
const secretKey = /password|secret|token/i
function foundText(yaml: YamlFile, at: Path, input: unknown): string {
  const source = yaml.substituted(at)
  if (source !== undefined) return `the value of ${source}`
  if (at.some((part) => secretKey.test(String(part))))
    return Array.isArray(input) ? 'a list' : `a ${typeof input}`
  if (typeof input === 'string') {
    const text = withoutPasswords(input)
    return `"${text.length > 60 ? `${text.slice(0, 60)}…` : text}"`
  }
  if (Array.isArray(input))
    return `the list ${withoutPasswords(JSON.stringify(input)).slice(0, 60)}`
  if (typeof input === 'object' && input !== null)
    return `a mapping with ${Object.keys(input).join(', ') || 'no keys'}`
  return String(input)
}
