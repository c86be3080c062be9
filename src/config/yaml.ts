/**
 * Reads one YAML file into plain values and remembers where each of them stood, so that whoever checks them can point
 * at file, line and column. Substitutes `${NAME}` and `${NAME:-default}` from the environment it is given. A key
 * without a value counts as not written, and so does a mapping in which every key is without a value.
 *
 * Pure: no file is opened here, no environment looked up on its own, and nothing is known of what the keys mean.
 */
import { isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument } from 'yaml'
import type { Document, Node, Pair, YAMLMap } from 'yaml'

/** Something wrong in a configuration file. `key` is the path of keys, "" for the file as a whole. */
export interface Problem {
  readonly file: string
  readonly line: number
  readonly column: number
  readonly key: string
  readonly message: string
}
export type Path = readonly PropertyKey[]
export type Environment = Readonly<Record<string, string | undefined>>

interface Place {
  readonly key: number // offset of the key (of a list's element: the element)
  readonly value: number
  readonly source: string | undefined // the text before substitution, where there was one
}
const DEPTH_MAX = 32

/** "canal.tls.cert", "filter.columns.include[0]" */
export function keyPath(path: Path): string {
  let text = ''
  for (const part of path) {
    text += typeof part === 'number' ? `[${part}]` : (text ? '.' : '') + String(part)
  }
  return text
}

/** "conf/server.yaml:3:9: canal.port: expected …" */
export function formatProblem(p: Problem): string {
  const where = p.line > 0 ? `${p.file}:${p.line}:${p.column}` : p.file
  return p.key ? `${where}: ${p.key}: ${p.message}` : `${where}: ${p.message}`
}

/** One parsed file. `value` is made of null-prototype objects, arrays, strings, numbers and booleans. */
export class YamlFile {
  readonly file: string
  readonly value: unknown
  readonly problems: Problem[] = []
  readonly #lines = new LineCounter()
  readonly #places = new Map<string, Place>()
  readonly #document: Document
  readonly #env: Environment

  constructor(file: string, text: string, env: Environment) {
    this.file = file
    this.#env = env
    this.#document = parseDocument(text, { lineCounter: this.#lines, prettyErrors: false })
    for (const e of this.#document.errors)
      this.#report(e.pos[0], [], `not valid YAML: ${e.message}`)
    const contents = this.#document.contents
    const value = this.problems.length > 0 ? {} : this.#read(contents, [], new Set())
    this.value = value ?? Object.create(null)
  }

  /** Adds a problem at the value of `path`, or at the closest parent that was written. */
  problem(path: Path, message: string): void {
    this.#report(this.#place(path)?.value ?? 0, path, message)
  }
  /** Adds a problem at the key itself. */
  keyProblem(path: Path, message: string): void {
    this.#report(this.#place(path)?.key ?? 0, path, message)
  }
  /** The text as written, where `${…}` was substituted in it. */
  substituted(path: Path): string | undefined {
    return this.#places.get(keyPath(path))?.source
  }
  /** Puts another value in the place of a substituted one: the reader knows better what type it should have. */
  replace(path: Path, value: unknown): void {
    let parent = this.value as Record<PropertyKey, unknown>
    for (const part of path.slice(0, -1)) parent = parent[part] as Record<PropertyKey, unknown>
    parent[path.at(-1)!] = value
  }

  #place(path: Path): Place | undefined {
    for (let n = path.length; n > 0; n--) {
      const place = this.#places.get(keyPath(path.slice(0, n)))
      if (place) return n === path.length ? place : { ...place, value: place.key }
    }
    return undefined
  }
  #report(offset: number, path: Path, message: string): void {
    const { line, col } = this.#lines.linePos(offset)
    this.problems.push({
      file: this.file,
      line: Math.max(line, 1),
      column: Math.max(col, 1),
      key: keyPath(path),
      message,
    })
  }

  #read(node: unknown, path: Path, above: Set<Node>): unknown {
    const resolved = isAlias(node)
      ? node.resolve(this.#document)
      : (node as Node | null | undefined)
    if (!resolved) return null
    if (above.has(resolved) || path.length > DEPTH_MAX) {
      this.problem(path, 'nested too deeply, or an alias that contains itself')
      return null
    }
    if (isMap(resolved)) return this.#map(resolved, path, new Set(above).add(resolved))
    if (isSeq(resolved)) {
      const inside = new Set(above).add(resolved)
      return resolved.items.map((item, i) => {
        const at = (item as Node | null)?.range?.[0] ?? resolved.range?.[0] ?? 0
        this.#places.set(keyPath([...path, i]), { key: at, value: at, source: undefined })
        return this.#read(item, [...path, i], inside)
      })
    }
    if (!isScalar(resolved)) return null
    const { value } = resolved
    if (typeof value !== 'string' || !value.includes('${')) return value
    const text = this.#substitute(value, path)
    const place = this.#places.get(keyPath(path))
    if (place) this.#places.set(keyPath(path), { ...place, source: value })
    return text === '' && resolved.type === 'PLAIN' ? null : text
  }

  #map(map: YAMLMap, path: Path, above: Set<Node>): unknown {
    const object = Object.create(null) as Record<string, unknown>
    let unset = 0
    for (const pair of map.items as Pair<Node, Node | null>[]) {
      const key = isScalar(pair.key) ? String(pair.key.value) : String(pair.key)
      const inside = [...path, key]
      const at = pair.key.range?.[0] ?? 0
      this.#places.set(keyPath(inside), {
        key: at,
        value: pair.value?.range?.[0] ?? at,
        source: undefined,
      })
      const value = this.#read(pair.value, inside, above)
      if (value === null) unset++
      else object[key] = value
    }
    return unset > 0 && unset === map.items.length ? null : object
  }

  #substitute(text: string, path: Path): string {
    return text.replace(/(\$?)\$\{([^}]*)\}/g, (whole: string, escape: string, inside: string) => {
      if (escape) return whole.slice(1)
      const match = /^([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?$/s.exec(inside)
      if (!match) {
        this.problem(path, `expected \${NAME} or \${NAME:-default}, found "${whole}"`)
        return ''
      }
      const value = this.#env[match[1]!]
      if (match[2] !== undefined) return value || match[2]
      if (value === undefined) {
        this.problem(
          path,
          `the environment variable ${match[1]} is not set; set it, or write \${${match[1]}:-default}`,
        )
      }
      return value ?? ''
    })
  }
}
