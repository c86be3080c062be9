/**
 * The text of an instance file without its secrets, and back: every secret is shown as a mark like `(hidden 5f2c91aa)`, and a text
 * that comes back with one gets the secret of that mark, if the file still has it. A mark is made with a key that lives as long as
 * the process, so it says nothing of the secret. What is written as `${NAME}` is no secret and stays. A secret
 * is what stands under a key that sounds like one (as in the log), or between `//user:` and `@` of a URL; in comments too. Pure.
 */
import { createHmac } from 'node:crypto'
import { isAlias, isPair, isScalar, parseDocument, visit, type Document, type Node } from 'yaml'

export interface Hidden {
  readonly text: string
  /** As they stand in the file, by their marks. */
  readonly secrets: ReadonlyMap<string, string>
  /** Places where a secret would be shown nevertheless: aliases of one under a key that does not sound like one. */
  readonly exposed: readonly number[]
  /** The text is no YAML; what is hidden in it was found by its words. */
  readonly broken: boolean
}
/** A piece of the text. */
interface Piece {
  readonly from: number
  readonly to: number
  readonly raw: string // what a mark for it becomes again
}

const SECRET_KEY = /pass(word|wd|phrase)|secret|token|api_?key|authorization|credential|^headers$/i
const SECRET_LINE =
  /^([ \t#]*(?:- *)?["']?(?=[\w.-]*(?:pass(?:word|wd|phrase)|secret|token|api_?key|authorization|credential))[\w.-]+["']?[ \t]*:[ \t]+)(\S.*?)[ \t]*$/gim
const IN_URL = /(\b[a-z][a-z0-9+.-]*:\/\/[^\s/:@]*:)([^\s/@]+)(?=@)/gi
const MARK = /\(hidden [0-9a-f]{8}\)/g
const ONLY_ENV = /^["']?(?:\$\{[A-Za-z_][A-Za-z0-9_]*\})+["']?$/

/** The text as it may be shown. */
export function hide(text: string, key: Buffer): Hidden {
  const document = parseDocument(text, { prettyErrors: false })
  const found = [...bySecretKeys(document, text), ...byPattern(text, document.errors.length > 0)]
  const secrets = new Map<string, string>()
  let shown = ''
  let at = 0
  for (const { from, to, raw } of found.toSorted((a, b) => a.from - b.from || b.to - a.to)) {
    if (from < at) continue // inside the one before
    const digest = createHmac('sha256', key).update(raw).digest('hex')
    const mark = `(hidden ${digest.slice(0, 8)})`
    secrets.set(mark, raw)
    shown += text.slice(at, from) + mark
    at = to
  }
  const broken = document.errors.length > 0
  return { text: shown + text.slice(at), secrets, exposed: aliases(document, found), broken }
}
/** Places of marks that would no longer be hidden in `whole`, which was made of `text`: a mark may only stand where a secret does. */
export function misplaced(text: string, secrets: Hidden['secrets'], whole: Hidden): number[] {
  const left = new Map<string, number>()
  for (const [mark] of whole.text.matchAll(MARK)) left.set(mark, (left.get(mark) ?? 0) + 1)
  return [...text.matchAll(MARK)].flatMap(({ 0: mark, index }) => {
    const times = left.get(mark) ?? 0
    left.set(mark, times - 1)
    return times > 0 || !secrets.has(mark) ? [] : [index]
  })
}
/** Whether what stands at this path of keys is a secret. */
export const isSecret = (path: string): boolean =>
  path.split(/[.[\]]/).some((key) => SECRET_KEY.test(key))

/** The text with the secrets that its marks stand for; `unknown` has the marks that stand for none, with their places. */
export function reveal(
  text: string,
  secrets: Hidden['secrets'],
): { readonly text: string; readonly unknown: readonly { mark: string; offset: number }[] } {
  const unknown: { mark: string; offset: number }[] = []
  const whole = text.replace(MARK, (mark, offset: number) => {
    const secret = secrets.get(mark)
    if (secret === undefined) unknown.push({ mark, offset })
    return secret ?? mark
  })
  return { text: whole, unknown }
}

function bySecretKeys(document: Document, text: string): Piece[] {
  const pieces: Piece[] = []
  const take = (node: unknown): void => {
    const target = isAlias(node) ? node.resolve(document) : (node as Node | null)
    if (!target) return
    visit(target as Node, {
      Alias: (_, alias) => take(alias),
      Scalar: (key, scalar) => {
        if (key !== 'key') pieces.push(...pieceOf(scalar.value, scalar.range, text))
      },
    })
  }
  visit(document, {
    Pair: (_, { key, value }) => {
      if (isScalar(key) && SECRET_KEY.test(String(key.value))) take(value)
    },
  })
  return pieces
}
/** Aliases of what is hidden, under keys that hide nothing. */
function aliases(document: Document, hidden: readonly Piece[]): number[] {
  const places: number[] = []
  visit(document, {
    Alias: (_, alias, path) => {
      const under = path.some(
        (node) => isPair(node) && isScalar(node.key) && SECRET_KEY.test(String(node.key.value)),
      )
      const [from = 0, to = 0] = alias.resolve(document)?.range ?? []
      if (!under && hidden.some((p) => p.from < to && p.to > from))
        places.push(alias.range?.[0] ?? 0)
    },
  })
  return places
}
function pieceOf(value: unknown, range: Node['range'], text: string): Piece[] {
  if (!range || value === null || value === '' || typeof value === 'boolean') return []
  const [from, to] = range
  const raw = text.slice(from, to)
  if (ONLY_ENV.test(raw.trim())) return []
  if (!raw.includes('\n')) return [{ from, to, raw }]
  // On one line, so that places in what comes back are places in what was shown.
  const end = from + raw.trimEnd().length
  return [{ from, to: end, raw: JSON.stringify(value) }]
}
function byPattern(text: string, broken: boolean): Piece[] {
  const pieces: Piece[] = []
  const add = (from: number, raw: string): void => {
    if (!ONLY_ENV.test(raw)) pieces.push({ from, to: from + raw.length, raw })
  }
  for (const match of text.matchAll(IN_URL)) add(match.index + match[1]!.length, match[2]!)
  for (const match of text.matchAll(MARK)) add(match.index, match[0])
  for (const match of text.matchAll(SECRET_LINE)) {
    const [whole, head, value] = match
    // Of a good file the structure says what is a secret; of comments and of a broken one, only the words.
    if (!broken && !head!.includes('#')) continue
    add(match.index + head!.length, value!)
    if (broken) pieces.push(...deeper(text, match.index, whole.length))
  }
  return pieces
}
const KEY_LINE = /^[ \t]*(?:- +)*["']?[\w.-]+["']?[ \t]*:(?:\s|$)/
/** Each line below one at `at`, until the next key beside it or above: it may go on with a secret that begins there. */
function deeper(text: string, at: number, length: number): Piece[] {
  const indentOf = (line: string): number =>
    /^[ \t]*/.exec(line)![0].replaceAll('\t', '        ').length
  const indent = indentOf(text.slice(at))
  const pieces: Piece[] = []
  let from = text.indexOf('\n', at + length) + 1
  for (const line of from === 0 ? [] : text.slice(from).split('\n')) {
    if (KEY_LINE.test(line) && indentOf(line) <= indent) break
    const raw = line.trim()
    const begin = from + line.length - line.trimStart().length
    if (raw !== '') pieces.push({ from: begin, to: begin + raw.length, raw })
    from += line.length + 1
  }
  return pieces
}
