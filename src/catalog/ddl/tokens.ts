/**
 * SQL text as tokens, for readers that look only at the head of a statement. Pure, linear in the text, never throws:
 * what is not closed ends with the text. Comments vanish; the content of versioned comments (slash, star, "!80000" or
 * MariaDB's "M!100100") counts, because a server that would not run it logs it as a plain comment. Knows no statement.
 */
export type TokenKind = 'word' | 'quoted' | 'string' | 'punctuation' | 'end'

const TAB = 9
const SPACE = 32
const DOUBLE = 34
const HASH = 35
const SINGLE = 39
const STAR = 42
const DASH = 45
const SLASH = 47
const BANG = 33
const BACKSLASH = 92
const BACKTICK = 96

const isBlank = (c: number): boolean => c === SPACE || (c >= TAB && c <= 13) || c === 0
const isDigit = (c: number): boolean => c >= 48 && c <= 57
/** Letters, digits, $, _ and everything beyond ASCII: MySQL's unquoted identifiers. */
const isWord = (c: number): boolean =>
  isDigit(c) || (c >= 97 && c <= 122) || (c >= 65 && c <= 90) || c === 95 || c === 36 || c >= 128

/** A set of keywords from their list in one text. */
export const keywords = (list: string): ReadonlySet<string> => new Set(list.split(' '))

/**
 * A cursor over the tokens; the current one is in `kind` and `text` from the start.
 * `text`: a word as written, an identifier or string without its quotes, one character of punctuation, "" at the end.
 */
export class Tokens {
  kind: TokenKind = 'end'
  text = ''
  /** Where the current token begins and ends in `sql`. */
  start = 0
  end = 0
  readonly sql: string
  readonly #escapes: boolean
  #versioned = 0 // versioned comments that are open

  /** `plain`: a backslash is a character like any other (NO_BACKSLASH_ESCAPES). */
  constructor(sql: string, plain = false) {
    this.sql = sql
    this.#escapes = !plain
    this.next()
  }
  /** Another cursor at the same token. */
  fork(): Tokens {
    const other = new Tokens(this.sql, !this.#escapes)
    other.kind = this.kind
    other.text = this.text
    other.start = this.start
    other.end = this.end
    other.#versioned = this.#versioned
    return other
  }

  next(): void {
    const { sql } = this
    const at = this.#skip(this.end)
    this.start = at
    if (at >= sql.length) {
      this.kind = 'end'
      this.text = ''
      this.end = sql.length
      return
    }
    const c = sql.charCodeAt(at)
    if (isWord(c)) {
      let end = at + 1
      while (end < sql.length && isWord(sql.charCodeAt(end))) end++
      this.kind = 'word'
      this.end = end
      this.text = sql.slice(at, end)
    } else if (c === BACKTICK || c === DOUBLE || c === SINGLE) this.#quoted(at, c)
    else {
      this.kind = 'punctuation'
      this.end = at + 1
      this.text = sql[at]!
    }
  }

  /** Whether the current token is this keyword (given in upper case), unquoted. */
  is(keyword: string): boolean {
    return (
      this.kind === 'word' &&
      this.text.length === keyword.length &&
      this.text.toUpperCase() === keyword
    )
  }
  /** Whether the current token is one of these keywords, unquoted. */
  isOneOf(keywords: ReadonlySet<string>): boolean {
    return this.kind === 'word' && this.text.length <= 16 && keywords.has(this.text.toUpperCase())
  }
  isPunctuation(character: string): boolean {
    return this.kind === 'punctuation' && this.text === character
  }
  /** Steps over the keyword if it is the current token. */
  take(keyword: string): boolean {
    if (!this.is(keyword)) return false
    this.next()
    return true
  }
  takePunctuation(character: string): boolean {
    if (!this.isPunctuation(character)) return false
    this.next()
    return true
  }
  /** The current token as an identifier, stepped over; undefined, and not stepped, where it cannot be one. */
  takeIdentifier(): string | undefined {
    if ((this.kind !== 'word' && this.kind !== 'quoted') || this.text === '') return undefined
    const { text } = this
    this.next()
    return text
  }
  /** From a current "(" to past its ")", or to the end. Does nothing elsewhere. */
  skipParentheses(): void {
    if (!this.isPunctuation('(')) return
    let depth = 0
    do {
      if (this.isPunctuation('(')) depth++
      else if (this.isPunctuation(')')) depth--
      this.next()
    } while (depth > 0 && this.kind !== 'end')
  }

  /** A double-quoted token may be a string or, with ANSI_QUOTES, an identifier: the reader's place decides. */
  #quoted(at: number, quote: number): void {
    const { sql } = this
    let end = at + 1
    let doubled = false
    for (; end < sql.length; end++) {
      const c = sql.charCodeAt(end)
      if (c === BACKSLASH && quote !== BACKTICK && this.#escapes) end++
      else if (c === quote) {
        if (sql.charCodeAt(end + 1) !== quote) break
        doubled = true
        end++
      }
    }
    const body = sql.slice(at + 1, end)
    const mark = sql[at]!
    this.kind = quote === SINGLE ? 'string' : 'quoted'
    this.text = doubled ? body.replaceAll(mark + mark, mark) : body
    this.end = Math.min(end + 1, sql.length)
  }

  /** Past blanks and comments. */
  #skip(from: number): number {
    const { sql } = this
    let at = from
    while (at < sql.length) {
      const c = sql.charCodeAt(at)
      const next = sql.charCodeAt(at + 1)
      if (isBlank(c)) at++
      else if (c === HASH || (c === DASH && next === DASH && this.#endsDashes(at + 2))) {
        const eol = sql.indexOf('\n', at)
        at = eol < 0 ? sql.length : eol + 1
      } else if (c === SLASH && next === STAR) at = this.#comment(at)
      else if (c === STAR && next === SLASH && this.#versioned > 0) {
        this.#versioned--
        at += 2
      } else break
    }
    return at
  }
  #endsDashes(at: number): boolean {
    return at >= this.sql.length || isBlank(this.sql.charCodeAt(at))
  }
  #comment(at: number): number {
    const { sql } = this
    const maria = sql.charCodeAt(at + 2) === 77
    if (sql.charCodeAt(at + 2 + (maria ? 1 : 0)) === BANG) {
      let body = at + (maria ? 4 : 3)
      for (let n = 0; n < 6 && isDigit(sql.charCodeAt(body)); n++) body++
      this.#versioned++
      return body
    }
    const close = sql.indexOf('*/', at + 2)
    return close < 0 ? sql.length : close + 2
  }
}
