/**
 * Names of a target read backwards: from a key or an id that a template made to the values of the source's key in it. Only
 * where that has one answer: a template that holds the whole key, and in which at most one text stands without escapes. Pure.
 */
import type { Column } from '../../change.ts'
import { familyOf, type Family } from '../../sinks/sql/dialects/dialect.ts'
import type { TargetTable } from '../../sinks/shape/row.ts'
import type { Template } from '../../sinks/shape/template.ts'
import { keyText } from '../source.ts'
import type { TargetKey } from '../target.ts'
import { sourceLiteral } from './sql-forms.ts'

/** What the texts of a family look like. */
const LOOK: Partial<Readonly<Record<Family, string>>> = {
  integer: '-?\\d+',
  decimal: '-?\\d+(?:\\.\\d+)?',
  year: '\\d{4}',
  bit: '\\d+',
  date: '\\d{4}-\\d\\d-\\d\\d(?: \\d\\d:\\d\\d:\\d\\d(?:\\.\\d+)?)?',
  time: '-?\\d+:\\d\\d:\\d\\d(?:\\.\\d+)?',
}
const ESCAPED = '(?:[^:\\\\]|\\\\[:\\\\])*'
const literal = (text: string): string => text.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&')

/** Where a value stands in the pattern. */
interface Group {
  readonly at: number
  readonly escaped: boolean
}
export class Backwards {
  /** What every name begins with. */
  readonly start: string
  readonly #pattern: RegExp
  readonly #groups: readonly Group[] // of each key column
  readonly #key: readonly Column[]

  private constructor(
    start: string,
    pattern: RegExp,
    groups: readonly Group[],
    key: readonly Column[],
  ) {
    this.start = start
    this.#pattern = pattern
    this.#groups = groups
    this.#key = key
  }
  /** A sentence where names cannot be read backwards. Throws SINK_UNSUITABLE as Template.bind does. */
  static of(template: Template, table: TargetTable, key: readonly Column[]): Backwards | string {
    const parts = template.parts(table)
    const what = `names made by ${template.text} cannot be read backwards: `
    let pattern = ''
    let texts = 0
    const columns: (readonly [Column | undefined, boolean])[] = []
    for (const part of parts) {
      if (typeof part === 'string') {
        pattern += literal(part)
        continue
      }
      const { column, derived } = part.column
      columns.push([derived === undefined ? column : undefined, part.escaped])
      const look = derived === undefined ? LOOK[familyOf(part.column)] : undefined
      if (look === undefined && !part.escaped) texts++
      pattern += `(${look ?? (part.escaped ? ESCAPED : '[\\s\\S]*')})`
    }
    if (texts > 1) return `${what}several texts stand in it without escapes`
    const groups = key.map((c) => columns.findIndex(([column]) => column?.index === c.index))
    const lost = key.filter((_, i) => groups[i] === -1).map((c) => c.name)
    if (lost.length > 0)
      return `${what}expected the whole key of the source in it, ${lost.join(', ')} is not`
    const odd = key.find((c) =>
      UNREADABLE.has(familyOf({ name: '', index: 0, key: true, column: c, derived: undefined })),
    )
    if (odd !== undefined)
      return `${what}column ${odd.name} is of type ${odd.mysqlType}, whose text is not exact`
    const found = groups.map((i) => ({ at: i + 1, escaped: columns[i]![1] }))
    const first = parts[0]
    const start = template.start(table.database, table.name)
    return new Backwards(
      first === undefined ? '' : start,
      new RegExp(`^${pattern}$`, 'u'),
      found,
      key,
    )
  }

  /** undefined: the template makes no such name. */
  read(name: string): TargetKey | undefined {
    const match = this.#pattern.exec(name)
    if (match === null) return undefined
    const values = this.#groups.map(({ at, escaped }) => {
      const text = match[at]!
      return escaped ? text.replaceAll(/\\([:\\])/g, '$1') : text
    })
    const literals = values.flatMap((text, i) => sourceLiteral(this.#key[i], text) ?? [])
    return {
      text: keyText(values),
      literals: literals.length === values.length ? literals : undefined,
      shown: { key: name },
      values,
      id: name,
    }
  }
}
/** Families whose text in Canal's form is not the value itself, or depends on a time zone. */
const UNREADABLE = new Set<Family>([
  'timestamp',
  'binary',
  'enum',
  'set',
  'json',
  'float',
  'double',
])
