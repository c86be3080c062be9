/**
 * JSON diffs, what PARTIAL_UPDATE_ROWS has in place of a document: applied to the document before, which gives the one
 * after, or, where there is none, written as the SQL expression that would apply them. A diff that does not fit the
 * document stops with ROWS_MALFORMED, as it would stop a replica. Knows no column but its name.
 *
 * A list of diffs (sql-common/json_diff.h), each:
 *   u8 operation: 0 replace, 1 insert, 2 remove · length, path as text · [not remove: length, binary JSON]
 * Lengths as in the client protocol: one byte up to 250; 252, 253, 254 and then 2, 3, 8 bytes little-endian.
 */
import type { JsonDiff } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { Out } from '../../out.ts'
import {
  JSON_DEPTH_MAX,
  type JsonPart,
  type JsonStyle,
  jsonEntries,
  jsonPart,
  jsonTypes,
  writeJsonPart,
  writeString,
} from './text.ts'

const REPLACE = 0
const INSERT = 1
const REMOVE = 2

interface Diff {
  readonly operation: number
  readonly path: string
  readonly value: JsonPart | undefined // undefined to remove
}

/** The list of diffs in bytes[at, end). Throws ROWS_MALFORMED. */
function readDiffs(bytes: Buffer, at: number, end: number): Diff[] {
  const start = at
  const malformed = (expected: string, found: string | number): SluiceError =>
    new SluiceError(
      'ROWS_MALFORMED',
      `JSON diffs of ${end - start} bytes, at byte ${at - start}: expected ${expected}, found ${found}`,
    )
  const take = (what: string): number => {
    const first = at < end ? bytes[at]! : 255
    const width = first < 251 ? 0 : first === 252 ? 2 : first === 253 ? 3 : first === 254 ? 8 : -1
    if (width < 0 || at + 1 + width > end) throw malformed(`the length of ${what}`, first)
    const low = width === 0 ? first : bytes.readUIntLE(at + 1, Math.min(width, 6))
    at += 1 + width
    if (low > end - at) throw malformed(`${low} bytes of ${what}`, end - at)
    at += low
    return at - low
  }
  const diffs: Diff[] = []
  while (at < end) {
    const operation = bytes[at]!
    if (operation > REMOVE) throw malformed('operation 0, 1 or 2', operation)
    at++
    const pathAt = take('a path')
    const path = bytes.toString('utf8', pathAt, at)
    if (operation === REMOVE) diffs.push({ operation, path, value: undefined })
    else {
      const valueAt = take('a value')
      diffs.push({ operation, path, value: jsonPart(bytes, valueAt, at) })
    }
  }
  return diffs
}

// ── applying ─────────────────────────────────────────────────────────────────

/** A document as far as paths have been followed into it: what no diff touches stays bytes. */
type Node = JsonPart | Opened
interface Opened {
  readonly keys: Buffer[] | undefined // sorted as MySQL sorts them; undefined in an array
  readonly values: Node[]
}

/** Writes the document in bytes[at, end) with the diffs in bytes[diffs, diffsEnd) applied. Throws ROWS_MALFORMED. */
export function writePatched(
  bytes: Buffer,
  at: number,
  end: number,
  diffs: number,
  diffsEnd: number,
  style: JsonStyle,
  out: Out,
): void {
  let root: Node = jsonPart(bytes, at, end)
  for (const diff of readDiffs(bytes, diffs, diffsEnd)) root = apply(root, diff)
  writeNode(root, 0, style, out)
}

function apply(root: Node, diff: Diff): Node {
  const legs = parsePath(diff.path)
  const last = legs.pop()
  if (last === undefined) {
    if (diff.operation === REPLACE && diff.value) return diff.value
    throw misfit(diff, 'a path below the document')
  }
  const opened = open(root)
  let parent = opened
  for (const leg of legs) {
    const i = parent ? find(parent, leg) : -1
    const child: Node | undefined = parent?.values[i]
    const next: Opened | undefined = child && open(child)
    if (parent && next) parent.values[i] = next
    parent = next
  }
  if (!opened || !parent) throw misfit(diff, 'an object or array there')
  change(parent, last, diff)
  return opened
}

function change(parent: Opened, leg: string | number, diff: Diff): void {
  const { keys, values } = parent
  const i = find(parent, leg)
  if (diff.operation === INSERT) {
    const value = diff.value!
    if (typeof leg === 'number') {
      if (keys) throw misfit(diff, 'an array to insert into')
      values.splice(Math.min(leg, values.length), 0, value)
      return
    }
    if (!keys || i >= 0)
      throw misfit(diff, keys ? 'no such member yet' : 'an object to insert into')
    const key = Buffer.from(leg)
    const place = keys.findIndex((other) => compareKeys(other, key) > 0)
    const index = place < 0 ? keys.length : place
    keys.splice(index, 0, key)
    values.splice(index, 0, value)
    return
  }
  if (i < 0) throw misfit(diff, 'a value there')
  if (diff.value) values[i] = diff.value
  else {
    values.splice(i, 1)
    keys?.splice(i, 1)
  }
}

/** MySQL sorts the keys of an object by length, then by bytes. */
const compareKeys = (a: Buffer, b: Buffer): number => a.length - b.length || a.compare(b)

function open(node: Node): Opened | undefined {
  return 'values' in node ? node : jsonEntries(node)
}

/** The index of a member or cell; -1: there is none. */
function find({ keys, values }: Opened, leg: string | number): number {
  if (typeof leg === 'number') return keys || leg >= values.length ? -1 : leg
  if (!keys) return -1
  const key = Buffer.from(leg)
  return keys.findIndex((other) => other.equals(key))
}

function misfit(diff: Diff, expected: string): SluiceError {
  const what = ['replace', 'insert', 'remove'][diff.operation]!
  const message = `JSON diff to ${what} ${diff.path}: expected ${expected}, the document before has none`
  return new SluiceError('ROWS_MALFORMED', message)
}

/** "$", ".name", ."any JSON string" and "[7]" only: the server writes no wildcards. */
function parsePath(path: string): (string | number)[] {
  const legs: (string | number)[] = []
  const leg = /\.("(?:[^"\\]|\\.)*"|[^.["\\]+)|\[(\d{1,10})\]/y
  leg.lastIndex = 1
  while (path.startsWith('$') && leg.lastIndex < path.length) {
    const found = leg.exec(path)
    if (!found) break
    const name = found[1]
    legs.push(name === undefined ? Number(found[2]) : name.startsWith('"') ? unquote(name) : name)
    if (leg.lastIndex === path.length) return legs
  }
  if (path === '$') return legs
  const message = `JSON diff: expected a path of members and cells, found ${JSON.stringify(path)}`
  throw new SluiceError('ROWS_MALFORMED', message)
}

function unquote(name: string): string {
  try {
    return String(JSON.parse(name))
  } catch (cause) {
    const message = `JSON diff: expected a quoted member name, found ${name}`
    throw new SluiceError('ROWS_MALFORMED', message, { cause })
  }
}

function writeNode(node: Node, depth: number, style: JsonStyle, out: Out): void {
  if (!('values' in node)) return writeJsonPart(node, depth, style, out)
  const { keys, values } = node
  if (depth >= JSON_DEPTH_MAX)
    throw new SluiceError('ROWS_MALFORMED', `JSON diff: expected at most ${JSON_DEPTH_MAX} levels`)
  out.ascii(keys ? '{' : '[')
  for (const [i, value] of values.entries()) {
    if (i > 0) out.ascii(', ')
    const key = keys?.[i]
    if (key) {
      writeString(key, 0, key.length, style === 'mysql', out)
      out.ascii(': ')
    }
    writeNode(value, depth + 1, style, out)
  }
  out.ascii(keys ? '}' : ']')
}

// ── as an expression ─────────────────────────────────────────────────────────

/**
 * The diffs in bytes[at, end) as SQL on the column: JSON_REPLACE(col, '$.a', 1). Throws ROWS_MALFORMED.
 */
export function diffExpression(bytes: Buffer, at: number, end: number, column: string): JsonDiff {
  let text = /^[A-Za-z_$][\w$]*$/.test(column) ? column : `\`${column.replaceAll('`', '``')}\``
  let current = ''
  for (const { operation, path, value } of readDiffs(bytes, at, end)) {
    const name = functionName(operation, path)
    if (name === current) text = text.slice(0, -1)
    else text = `${name}(${text}`
    text += `, ${sqlString(path)}${value ? `, ${sqlValue(value)}` : ''})`
    current = name
  }
  return { kind: 'jsonDiff', text }
}

function functionName(operation: number, path: string): string {
  if (operation === REMOVE) return 'JSON_REMOVE'
  if (operation === REPLACE) return 'JSON_REPLACE'
  return path.endsWith(']') ? 'JSON_ARRAY_INSERT' : 'JSON_INSERT'
}

const sqlString = (text: string): string =>
  `'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`

/** Integers, strings and decimals keep their type as SQL literals; anything else goes through a cast. */
function sqlValue(part: JsonPart): string {
  const out = new Out(256)
  writeJsonPart(part, 0, 'mysql', out)
  const text = out.buf.toString('utf8', 0, out.at)
  const { type } = part
  if (type === jsonTypes.STRING) return sqlString(String(JSON.parse(text)))
  const isNumber = type >= jsonTypes.INT16 && type <= jsonTypes.UINT64
  if (isNumber || (type === jsonTypes.OPAQUE && !text.startsWith('"'))) return text
  return `CAST(${sqlString(text)} AS JSON)`
}
