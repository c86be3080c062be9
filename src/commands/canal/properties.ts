/**
 * Java properties as Canal reads them: the file format (java.util.Properties), and where a key's value comes from. An
 * environment variable with the dotted name wins over every file, the instance's file over canal.properties; values are
 * trimmed, empty ones count as missing, `${key}` and `${key:default}` stand for other keys. Pure: opens nothing.
 *
 * Remembers which keys were asked for, so that an import can say which ones it did not understand.
 */
import { SluiceError } from '../../errors.ts'

export interface Property {
  readonly value: string
  readonly line: number
}
/** One file. */
export interface PropertiesFile {
  readonly name: string // for people: "canal.properties", "example/instance.properties"
  readonly properties: ReadonlyMap<string, Property>
}

/**
 * Parses a file; UTF-8 where its bytes are that, else ISO-8859-1. The last of equal keys counts, as in Java.
 * Throws CONFIG_INVALID for a malformed \uXXXX, which Java refuses too.
 */
export function parseProperties(name: string, bytes: Buffer): PropertiesFile {
  const properties = new Map<string, Property>()
  for (const { text, line } of logicalLines(decode(bytes))) {
    let at = 0
    while (at < text.length && !/[=:\s]/.test(text[at]!)) at += text[at] === '\\' ? 2 : 1
    const key = text.slice(0, at)
    const value = text.slice(at).replace(/^\s*[=:]?\s*/, '')
    const where = `${name}:${line}`
    properties.set(unescape(key, where), { value: unescape(value, where), line })
  }
  return { name, properties }
}

function decode(bytes: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    return bytes.toString('latin1')
  }
}

/** Lines without comments, with those joined that end in an odd number of backslashes. */
function* logicalLines(text: string): Iterable<{ text: string; line: number }> {
  let joined = ''
  let first = 0
  for (const [i, raw] of text.split(/\r\n|\r|\n/).entries()) {
    const line = raw.replace(/^[ \t\f]+/, '')
    if (first === 0 && (line === '' || line.startsWith('#') || line.startsWith('!'))) continue
    if (first === 0) first = i + 1
    const slashes = /\\*$/.exec(line)![0].length
    joined += slashes % 2 === 1 ? line.slice(0, -1) : line
    if (slashes % 2 === 1) continue
    yield { text: joined, line: first }
    joined = ''
    first = 0
  }
  if (first > 0 && joined !== '') yield { text: joined, line: first }
}

const escapes: Readonly<Record<string, string>> = { t: '\t', n: '\n', r: '\r', f: '\f' }
function unescape(text: string, where: string): string {
  return text.replace(/\\(u[0-9a-fA-F]{4}|u|[^])?/g, (_, escaped: string | undefined) => {
    if (escaped === undefined) return ''
    if (escaped === 'u')
      throw new SluiceError(
        'CONFIG_INVALID',
        `${where}: expected four hexadecimal digits after \\u`,
      )
    if (escaped.length > 1) return String.fromCharCode(parseInt(escaped.slice(1), 16))
    return escapes[escaped] ?? escaped
  })
}

/** A value and where it came from. */
export interface Found {
  readonly key: string
  readonly value: string
  readonly from: string // "canal.properties:12", "the environment"
}
export interface KeysOptions {
  readonly files: readonly PropertiesFile[] // first wins
  readonly env: Readonly<Record<string, string | undefined>>
  /** What Canal itself sets: canal.instance.destination. Wins over all. */
  readonly fixed?: Readonly<Record<string, string>>
}

const DEPTH_MAX = 20

/** Canal's view of all keys of one instance, or of the server. */
export class Keys {
  readonly #options: KeysOptions
  readonly #asked = new Set<string>()

  constructor(options: KeysOptions) {
    this.#options = options
  }

  /** The first of these keys that has a value. All of them count as asked for. */
  find(...keys: string[]): Found | undefined {
    for (const key of keys) this.#asked.add(key)
    for (const key of keys) {
      const found = this.#look(key, 0)
      if (found !== undefined) return found
    }
    return undefined
  }
  /** The value alone. */
  text(...keys: string[]): string | undefined {
    return this.find(...keys)?.value
  }
  /** As Java's Boolean.valueOf. */
  flag(key: string, missing = false): boolean {
    const value = this.text(key)
    return value === undefined ? missing : value.toLowerCase() === 'true'
  }
  /** A whole number; undefined for anything else. */
  number(key: string): number | undefined {
    const value = this.text(key)
    return value !== undefined && /^-?\d{1,15}$/.test(value) ? Number(value) : undefined
  }
  /** What has a value, in the order of the files, and was never asked for. `file`: only of this one. */
  rest(file?: PropertiesFile): Found[] {
    const rest = new Map<string, Found>()
    for (const { name, properties } of file ? [file] : this.#options.files) {
      for (const [key, { line }] of properties) {
        if (this.#asked.has(key) || rest.has(key)) continue
        const found = this.#look(key, 0)
        if (found !== undefined) rest.set(key, { ...found, from: `${name}:${line}` })
      }
    }
    return [...rest.values()]
  }

  #look(key: string, depth: number): Found | undefined {
    const { files, env, fixed } = this.#options
    const given = fixed?.[key] ?? env[key]?.trim()
    if (given) return { key, value: given, from: 'the environment' }
    for (const { name, properties } of files) {
      const property = properties.get(key)
      if (property === undefined || property.value.trim() === '') continue
      const value = this.#resolve(property.value, depth).trim()
      return value === '' ? undefined : { key, value, from: `${name}:${property.line}` }
    }
    return undefined
  }
  /** Innermost references first; one that leads nowhere stays as it is. */
  #resolve(text: string, depth: number): string {
    if (depth > DEPTH_MAX) return text
    return text.replace(
      /\$\{([^${}:]+)(?::([^{}]*))?\}/g,
      (whole, key: string, missing?: string) => {
        return this.#look(key.trim(), depth + 1)?.value ?? missing ?? whole
      },
    )
  }
}
