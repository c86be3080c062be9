/**
 * The expression of a generated column in PostgreSQL's words, where it means the same there: sums, differences and products
 * of integers and decimals, and texts put together. Anything else has no translation. Pure.
 */
import { Tokens } from '../../catalog/ddl/tokens.ts'
import { quote, text } from '../../sinks/sql/dialects/postgres-rows.ts'
import type { SourceColumn } from './inventory.ts'

const EXACT = /^(smallint|integer|bigint|numeric)/
const TEXT = /^(varchar|text)/

/** undefined: there is none. */
export function generatedText(
  column: SourceColumn,
  columns: readonly SourceColumn[],
  typeOf: (column: SourceColumn) => string,
): string | undefined {
  const type = typeOf(column)
  const known = new Map(columns.map((one) => [one.name.toLowerCase(), one]))
  const reader: Reader = {
    // information_schema of MySQL 8 and later shows strings of expressions as _utf8mb4\'x\'
    tokens: new Tokens(column.generated.replaceAll("\\'", "'")),
    column: (name, wanted) => {
      const found = known.get(name.toLowerCase())
      return found?.generated === '' && wanted.test(typeOf(found)) ? quote(found.name) : undefined
    },
  }
  const read = EXACT.test(type) ? sum(reader) : TEXT.test(type) ? joined(reader) : undefined
  return reader.tokens.kind === 'end' ? read : undefined
}
interface Reader {
  readonly tokens: Tokens
  readonly column: (name: string, wanted: RegExp) => string | undefined
}

function sum(reader: Reader): string | undefined {
  const { tokens } = reader
  let left = factor(reader)
  while (left !== undefined && ['+', '-', '*'].some((sign) => tokens.isPunctuation(sign))) {
    const sign = tokens.text
    tokens.next()
    const right = factor(reader)
    left = right === undefined ? undefined : `${left} ${sign} ${right}`
  }
  return left
}
function factor(reader: Reader): string | undefined {
  const { tokens } = reader
  if (tokens.takePunctuation('(')) {
    const inner = sum(reader)
    return inner !== undefined && tokens.takePunctuation(')') ? `(${inner})` : undefined
  }
  const { kind } = tokens
  if (kind === 'word' && /^\d+$/.test(tokens.text)) {
    const digits = tokens.text
    tokens.next()
    if (!tokens.takePunctuation('.')) return digits
    const part = tokens.text
    tokens.next()
    return `${digits}.${part}`
  }
  if (kind !== 'quoted' && kind !== 'word') return undefined
  const column = reader.column(tokens.text, EXACT)
  tokens.next()
  return column && `${column}::numeric`
}

/** concat(a, 'b', …): NULL where one of them is NULL, in both. */
function joined(reader: Reader): string | undefined {
  const { tokens } = reader
  if (!tokens.take('CONCAT') || !tokens.takePunctuation('(')) return undefined
  const parts: string[] = []
  do {
    if (/^_utf8(mb[34])?$/i.test(tokens.text)) tokens.next()
    const part = tokens.kind === 'string' ? text(tokens.text) : reader.column(tokens.text, TEXT)
    if (part === undefined) return undefined
    parts.push(part)
    tokens.next()
  } while (tokens.takePunctuation(','))
  return tokens.takePunctuation(')') ? parts.join(' || ') : undefined
}
