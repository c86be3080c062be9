/**
 * Templates of names: topics, keys, indexes, channels. `{database}` and `{table}` are the source's names, `{key}` the values
 * of the key columns joined by ":", `{column}` the value of a column of the target; `{{` and `}}` stand for braces.
 * Where a key has several columns, a ":" or "\" in a value has a "\" before it, so that no two rows have one name.
 * Checked once per table, then a join of texts per row.
 */
import { AFTER, BEFORE, type ImageSide } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import type { SinkRow, TargetColumn, TargetTable } from './row.ts'

export type BoundTemplate = (row: SinkRow, side: ImageSide) => string

/** Where the text of a column stands. */
export interface TemplatePart {
  readonly column: TargetColumn
  /** A ":" or a "\\" in it has a "\\" before it. */
  readonly escaped: boolean
}
type Piece = { readonly text: string } | { readonly name: string }

export class Template {
  readonly text: string
  readonly #pieces: readonly Piece[]
  /** Throws CONFIG_INVALID for braces that do not match. */
  constructor(text: string) {
    this.text = text
    this.#pieces = parse(text)
  }
  /** Names other than database and table: they vary from row to row. */
  get columns(): readonly string[] {
    return this.#pieces.flatMap((p) =>
      'name' in p && p.name !== 'database' && p.name !== 'table' ? [p.name] : [],
    )
  }
  /** What every text of this table begins with. */
  start(database: string, table: string): string {
    let start = ''
    for (const p of this.#pieces) {
      if ('text' in p) start += p.text
      else if (p.name === 'database') start += database
      else if (p.name === 'table') start += table
      else break
    }
    return start
  }
  /** The text where it depends on the table alone. Throws SINK_UNSUITABLE where it does not. */
  name(database: string, table: string): string {
    return this.#pieces
      .map((p) => {
        if ('text' in p) return p.text
        if (p.name === 'database') return database
        if (p.name === 'table') return table
        throw new SluiceError(
          'SINK_UNSUITABLE',
          `template ${this.text}: expected only {database} and {table}, found {${p.name}}`,
        )
      })
      .join('')
  }
  /**
   * For the rows of one table. Throws SINK_UNSUITABLE when the table has no such column, or no key where `{key}` stands.
   * What it returns throws SINK_DATA when a column is absent from the image; NULL is "". A column that is absent after an
   * update but there before it has not changed.
   */
  bind(table: TargetTable): BoundTemplate {
    const parts = this.parts(table)
    if (parts.every((part) => typeof part === 'string')) {
      const constant = parts.join('')
      return () => constant
    }
    return (row, side) => {
      let text = ''
      for (const part of parts)
        text += typeof part === 'string' ? part : this.#value(row, side, part)
      return text
    }
  }
  /** What its texts are made of, for who wants to read them backwards. Throws as bind does. */
  parts(table: TargetTable): readonly (string | TemplatePart)[] {
    const several = table.keys.length > 1
    return this.#pieces.flatMap((p): (string | TemplatePart)[] => {
      if ('text' in p) return [p.text]
      if (p.name === 'database') return [table.database]
      if (p.name === 'table') return [table.name]
      if (p.name !== 'key') return [{ column: this.#column(table, p.name), escaped: false }]
      return this.#keys(table).map((k) => (k === ':' ? k : { column: k, escaped: several }))
    })
  }
  #keys(table: TargetTable): (':' | TargetColumn)[] {
    if (table.keys.length === 0) {
      throw new SluiceError(
        'SINK_UNSUITABLE',
        `template ${this.text}: expected ${table.database}.${table.name} to have a primary key, it has none; name key columns in the sink's mapping`,
      )
    }
    return table.keys.flatMap((column, i) => (i === 0 ? [column] : [':' as const, column]))
  }
  #column(table: TargetTable, name: string): TargetColumn {
    const column = table.columns.find((c) => c.name === name)
    if (column !== undefined) return column
    throw new SluiceError(
      'SINK_UNSUITABLE',
      `template ${this.text}: no column ${name} in ${table.database}.${table.name}; it has ${table.columns.map((c) => c.name).join(', ')}`,
    )
  }
  #value(row: SinkRow, side: ImageSide, { column, escaped }: TemplatePart): string {
    let text = row.string(side, column)
    if (text === undefined && side === AFTER) text = row.string(BEFORE, column)
    if (typeof text === 'string' && escaped && /[:\\]/.test(text))
      return text.replaceAll(/[:\\]/g, '\\$&')
    if (text !== undefined) return text ?? ''
    throw new SluiceError(
      'SINK_DATA',
      `${row.table.database}.${row.table.name} at ${row.id}: template ${this.text} needs column ${column.name}, which is not in the row image; expected binlog_row_image=FULL`,
    )
  }
}

function parse(text: string): Piece[] {
  const pieces: Piece[] = []
  let at = 0
  for (const match of text.matchAll(/\{\{|\}\}|\{([^{}]+)\}|[{}]/g)) {
    if (match.index > at) pieces.push({ text: text.slice(at, match.index) })
    at = match.index + match[0].length
    if (match[1] !== undefined) pieces.push({ name: match[1].trim() })
    else if (match[0].length === 2) pieces.push({ text: match[0][0]! })
    else {
      throw new SluiceError(
        'CONFIG_INVALID',
        `template "${text}": a lone "${match[0]}" at character ${match.index + 1}; expected {name}, or {{ and }} for braces`,
      )
    }
  }
  if (at < text.length) pieces.push({ text: text.slice(at) })
  return pieces
}
