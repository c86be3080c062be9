/**
 * What an import makes: YAML files in which every value says where it came from, and notes on what became of each key.
 * Values are escaped, so that nothing of Canal's is taken for a reference to the environment. Writes nothing.
 */
import { Document, isScalar, Scalar } from 'yaml'
import type { Found } from './properties.ts'

/**
 * carried: it stands in a file now; unneeded: Sluice does without, nothing is lost; lost: it does something in Canal that
 * does not happen here; open: a dry run cannot know it; refused: the import cannot go on.
 */
export type NoteKind = 'carried' | 'unneeded' | 'lost' | 'open' | 'refused'
export interface Note {
  readonly kind: NoteKind
  readonly where: string // a destination; "" for the server
  readonly key: string // of Canal; "" where it is about none
  readonly text: string
  readonly fix?: string | undefined // what to do instead
}

/** A value of Canal's as text in YAML: `${` would be a reference. */
function literal(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(literal)
  return typeof value === 'string' ? value.replaceAll('${', () => '$${') : value
}

export class Draft {
  readonly where: string
  readonly notes: Note[] = []
  /** Environment variables that the file refers to, with their values: for the checks, never for print. */
  readonly secrets = new Map<string, string | undefined>()
  readonly #document = new Document({})

  constructor(where: string, heading: string) {
    this.where = where
    this.#document.commentBefore = heading
  }

  /** Sets a key, by its dotted path, with a comment beside it. */
  set(path: string, value: unknown, comment: string): void {
    this.#set(path, literal(value), comment)
  }
  /** Sets a key to what a key of Canal says, and notes that. */
  carry(path: string, value: unknown, found: Found): void {
    this.set(path, value, `${found.key} (${found.from})`)
    this.note('carried', found.key, path)
  }
  /** The same for a secret: with `variable` the file refers to the environment. `value` undefined: nobody knows it. */
  carrySecret(
    path: string,
    value: string | undefined,
    key: string,
    variable: string | undefined,
  ): void {
    if (variable === undefined) this.set(path, value ?? '', key)
    else {
      this.secrets.set(variable, value)
      this.#set(path, `\${${variable}}`, key)
    }
    this.note('carried', key, variable === undefined ? path : `${path}, as \${${variable}}`)
  }
  note(kind: NoteKind, key: string, text: string, fix?: string): void {
    this.notes.push({ kind, where: this.where, key, text, fix })
  }
  get refused(): boolean {
    return this.notes.some((n) => n.kind === 'refused')
  }
  /** The values as they were set, nested. */
  get values(): unknown {
    return this.#document.toJS()
  }
  toString(): string {
    return this.#document.toString({ lineWidth: 0 })
  }

  #set(path: string, value: unknown, comment: string): void {
    const node = this.#document.createNode(value)
    if (isScalar(node)) {
      if (typeof value === 'string' && /[\\:#,]/.test(value)) node.type = Scalar.QUOTE_SINGLE
      node.comment = ` ${comment}`
    } else node.commentBefore = ` ${comment}`
    this.#document.setIn(path.split('.'), node)
  }
}
