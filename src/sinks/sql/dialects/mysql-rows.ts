/**
 * Rows as MySQL's statements: literals from the row image to the statement's bytes, and statements of many rows.
 */
import { AFTER, BEFORE, type ImageSide } from '../../../change.ts'
import { Out } from '../../../out.ts'
import type { SinkRow, TargetColumn } from '../../shape/row.ts'
import {
  bytesNamed,
  bytesOf,
  escape,
  familyOf,
  orNull,
  stringOf,
  writeHex,
  type BoundColumn,
  type Collector,
  type Literal,
  type Shape,
  type Statement,
  type TargetName,
} from './dialect.ts'

const SPECIAL = bytesNamed(0x00, 0x27, 0x5c)
export const quote = (identifier: string): string => `\`${identifier.replaceAll('`', '``')}\``
export const full = ({ space, table }: TargetName): string =>
  space === undefined ? quote(table) : `${quote(space)}.${quote(table)}`
export const text = (value: string): string =>
  `'${value.replaceAll('\\', '\\\\').replaceAll("'", "\\'").replaceAll('\0', '\\0')}'`

// ── literals ─────────────────────────────────────────────────────────────────

const raw =
  (source: TargetColumn): Literal =>
  (row, side, out) =>
    row.text(side, source, out)
/** What `write` writes, as a string literal. */
const quoted =
  (write: Literal): Literal =>
  (row, side, out) => {
    out.ensure(1)
    out.u8(0x27)
    const from = out.at
    write(row, side, out)
    escape(out, from, SPECIAL)
    out.ensure(1)
    out.u8(0x27)
  }
const hexadecimal =
  (source: TargetColumn): Literal =>
  (row, side, out) => {
    out.ascii("X'")
    writeHex(bytesOf(row, side, source), out)
    out.ascii("'")
  }

function literalOf(source: TargetColumn): Literal {
  switch (familyOf(source)) {
    case 'integer':
    case 'decimal':
    case 'bit':
      return raw(source)
    case 'float':
      // the float's exact value: its shortest text can round to more than a FLOAT holds
      return quoted((row, side, out) => out.ascii(exact(Number(row.value(side, source)))))
    case 'timestamp':
      return quoted((row, side, out) => row.utc(side, source, out))
    case 'binary':
      return hexadecimal(source)
    case 'json':
    case 'enum':
    case 'set':
      return quoted((row, side, out) => out.utf8(stringOf(row, side, source)))
    case 'date':
    case 'double':
    case 'text':
    case 'time':
    case 'year':
      return quoted(raw(source))
  }
}
const exact = (x: number): string => (Object.is(x, -0) ? '-0' : String(x))

/** A comparison that is true for the very same value, NULL included. */
function sameAs({ name, type, source }: BoundColumn): { readonly left: string; right: Literal } {
  const literal = orNull(source, literalOf(source), 'NULL')
  const wrap =
    (before: string, after: string): Literal =>
    (row, side, out) => {
      out.ascii(before)
      literal(row, side, out)
      out.ascii(after)
    }
  const family = familyOf(source)
  if (family === 'json' && type === 'json')
    return { left: `${quote(name)}<=>`, right: wrap('CAST(', ' AS JSON)') }
  if (family === 'text' || family === 'enum' || family === 'set') {
    const left = `CAST(CONVERT(${quote(name)} USING utf8mb4) AS BINARY)<=>`
    return { left, right: wrap('CAST(', ' AS BINARY)') }
  }
  return { left: `${quote(name)}<=>`, right: literal }
}

// ── statements ───────────────────────────────────────────────────────────────

/** ENUM columns with a value outside of their list: what MySQL stores as '' and takes back only without strict mode. */
interface Errors {
  readonly source: TargetColumn
  readonly name: string
}
const errorsOf = (columns: readonly BoundColumn[]): Errors[] =>
  columns
    .filter(({ source }) => familyOf(source) === 'enum')
    .filter(({ source }) => source.column?.members?.includes('') === false)
    .map(({ source, name }) => ({ source, name }))

export class TextCollector implements Collector {
  rows = 0
  readonly #out = new Out(16 * 1024)
  readonly #row: (row: SinkRow, out: Out) => void
  readonly #head: string
  readonly #between: string
  readonly #tail: string
  readonly #errors: readonly Errors[]
  #lenient = new Set<string>()

  constructor(shape: Shape) {
    const { operation } = shape
    this.#errors = operation === 'delete' ? [] : errorsOf(shape.columns)
    if (operation === 'upsert' || operation === 'insert') {
      this.#head = `INSERT INTO ${full(shape.name)} (${names(shape.columns)}) VALUES `
      this.#between = ','
      this.#tail = operation === 'upsert' ? onDuplicate(shape) : ''
      this.#row = tuple(shape.columns)
    } else if (operation === 'update' || shape.matchAll) {
      this.#head = ''
      this.#between = ';'
      this.#tail = ''
      this.#row = single(shape)
    } else {
      const list = shape.keys.length === 1 && (operation === 'ahead' || shape.fence === undefined)
      const verb =
        operation === 'delete' ? 'DELETE' : `SELECT ${quote(shape.fence ?? '')} AS version`
      this.#head = `${verb} FROM ${full(shape.name)} WHERE (${list ? `${names(shape.keys)} IN (` : ''}`
      this.#between = list ? ',' : ' OR '
      this.#tail = list ? '))' : ')'
      this.#row = list ? keyLiteral(shape.keys[0]!) : located(shape)
    }
  }
  get bytes(): number {
    return this.#out.at
  }
  add(row: SinkRow): void {
    const out = this.#out
    out.ascii(this.rows === 0 ? '' : this.#between)
    if (this.rows === 0) out.utf8(this.#head)
    this.#row(row, out)
    this.rows++
    for (const { source, name } of this.#errors)
      if (row.value(AFTER, source) === '') this.#lenient.add(name)
  }
  take(): MysqlStatement {
    const out = this.#out
    out.utf8(this.#tail)
    const sql = out.buf.toString('utf8', 0, out.at)
    const lenient = this.#lenient.size > 0 ? this.#lenient : undefined
    this.reset()
    return { sql, lenient }
  }
  reset(): void {
    this.#lenient = new Set()
    this.rows = 0
    this.#out.reset()
  }
}
export interface MysqlStatement extends Statement {
  /** Columns that may be "truncated": ENUMs with the value ''. */
  readonly lenient?: ReadonlySet<string> | undefined
}

const names = (columns: readonly BoundColumn[]): string =>
  columns.map(({ name }) => quote(name)).join(',')

function tuple(columns: readonly BoundColumn[]): (row: SinkRow, out: Out) => void {
  const literals = columns.map(({ source }) => orNull(source, literalOf(source), 'NULL'))
  return (row, out) => {
    for (let i = 0; i < literals.length; i++) {
      out.ensure(1)
      out.u8(i === 0 ? 0x28 : 0x2c)
      literals[i]!(row, AFTER, out)
    }
    out.ensure(1)
    out.u8(0x29)
  }
}
/** VALUES(c), not an alias of the row: MariaDB knows no other. */
function onDuplicate({ columns, keys, fence, guarded }: Shape): string {
  const key = new Set(keys.map(({ name }) => name))
  const fresh = fence === undefined ? '' : `VALUES(${quote(fence)})>=${quote(fence)}`
  const set = ({ name }: BoundColumn): string => {
    const column = quote(name)
    return fresh
      ? `${column}=IF(${fresh},VALUES(${column}),${column})`
      : `${column}=VALUES(${column})`
  }
  // A key in another case is the same key; its text still has to change.
  const respelled = (c: BoundColumn): boolean =>
    fence === undefined && familyOf(c.source) === 'text'
  const wanted = columns.filter((c) => c.name !== fence && (!key.has(c.name) || respelled(c)))
  const sets = wanted.map(set)
  if (guarded) {
    const first = quote(keys[0]!.name)
    const same = keys.map(({ name }) => `${quote(name)}<=>VALUES(${quote(name)})`).join(' AND ')
    // Another row has a unique value of this one: NULL in a key is an error, and the row stays as it is.
    sets.unshift(`${first}=IF(${same},${first},NULL)`)
  }
  if (fence !== undefined) {
    const column = quote(fence)
    sets.push(`${column}=IF(${fresh},VALUES(${column}),${column})`)
  }
  if (sets.length === 0) sets.push(`${quote(keys[0]!.name)}=${quote(keys[0]!.name)}`)
  return ` ON DUPLICATE KEY UPDATE ${sets.join(',')}`
}
/** `a=1 AND b=2`, in the image before. */
function located({ keys, fence, matchAll, operation }: Shape): (row: SinkRow, out: Out) => void {
  const parts = keys.map((key) =>
    matchAll
      ? sameAs(key)
      : { left: `${quote(key.name)}=`, right: orNull(key.source, literalOf(key.source), 'NULL') },
  )
  return (row, out) => {
    for (let i = 0; i < parts.length; i++) {
      out.ascii(i === 0 ? '(' : ' AND ')
      out.utf8(parts[i]!.left)
      parts[i]!.right(row, keySide(row), out)
    }
    if (fence !== undefined && operation !== 'ahead')
      out.utf8(` AND ${quote(fence)}<='${row.version}'`)
    out.ascii(')')
  }
}
function keyLiteral({ source }: BoundColumn): (row: SinkRow, out: Out) => void {
  const literal = orNull(source, literalOf(source), 'NULL')
  return (row, out) => literal(row, keySide(row), out)
}
/** Inserts that were split off an update, and updates whose image before is not there, have their key after. */
const keySide = (row: SinkRow): ImageSide => (row.op === 'insert' ? AFTER : BEFORE)

/** A statement of its own for a row: an update, or what equals a whole image. */
function single(shape: Shape): (row: SinkRow, out: Out) => void {
  const where = located(shape)
  const verb =
    shape.operation === 'delete'
      ? `DELETE FROM ${full(shape.name)} WHERE `
      : `UPDATE ${full(shape.name)} SET `
  const sets = shape.columns.map(({ name, source }) => ({
    left: `${quote(name)}=`,
    right: orNull(source, literalOf(source), 'NULL'),
  }))
  const limit = shape.matchAll ? ' LIMIT 1' : ''
  return (row, out) => {
    out.utf8(verb)
    for (let i = 0; i < sets.length; i++) {
      if (i > 0) out.ascii(',')
      out.utf8(sets[i]!.left)
      sets[i]!.right(row, AFTER, out)
    }
    if (sets.length > 0) out.ascii(' WHERE ')
    where(row, out)
    out.ascii(limit)
  }
}
