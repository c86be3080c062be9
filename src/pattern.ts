/**
 * Perl-like patterns on table names, matched in time proportional to pattern × name² at worst: filters come from the
 * network, and a backtracking engine can be made to run for years by thirty characters. A pattern becomes a
 * non-deterministic automaton that is walked with a set of states; nothing backtracks.
 *
 * Understood: literals, ".", classes, \d \w \s \D \W \S, \t \n \r \f \v \0 \xhh \uhhhh, groups, |, * + ? {n,m} (lazy forms
 * too), ^ $ \A \Z \z, \b \B, (?:…), (?=…), (?!…), a leading (?i). Not: back references, look-behind; these are refused.
 * Always ignores case, always matches the whole text. Knows nothing of tables.
 */

/**
 * What the patterns of one filter may cost together. A literal, which most names end at, costs 1, any other state
 * STATE_COST, and all LOOK_COST times that under a look-ahead. Whatever is accepted takes well under a second for a name
 * of the greatest length, and filter.ts asks once per table.
 */
const COST_MAX = 100_000
const STATE_COST = 10
const LOOK_COST = 64
const DEPTH_MAX = 100

/** A plain Error with the reason: the caller knows which setting the pattern stands in. */
const refuse = (reason: string): Error => new Error(reason)

type Node =
  | { readonly kind: 'literal'; readonly code: number }
  | { readonly kind: 'any' }
  | { readonly kind: 'class'; readonly set: CharacterSet }
  | { readonly kind: 'sequence'; readonly nodes: readonly Node[] }
  | { readonly kind: 'choice'; readonly nodes: readonly Node[] }
  | { readonly kind: 'repeat'; readonly node: Node; readonly min: number; readonly max: number }
  | { readonly kind: 'edge'; readonly edge: 'start' | 'end' | 'word' | 'notWord' }
  | { readonly kind: 'look'; readonly node: Node; readonly negative: boolean }

/** JavaScript reads the class itself; answers for characters below 128 are kept. */
class CharacterSet {
  readonly #known = new Uint8Array(128) // 0 not asked yet, 1 no, 2 yes
  readonly #regex: RegExp
  constructor(source: string) {
    this.#regex = new RegExp(`^${source}$`, 'i')
  }
  has(code: number): boolean {
    if (code >= 128) return this.#regex.test(String.fromCharCode(code))
    const known = (this.#known[code] ||= this.#regex.test(String.fromCharCode(code)) ? 2 : 1)
    return known === 2
  }
}

const fold = (code: number): number => {
  const lower = String.fromCharCode(code).toLowerCase()
  return lower.length === 1 ? lower.charCodeAt(0) : code
}

// ── reading ──────────────────────────────────────────────────────────────────

class PatternReader {
  #at = 0
  #depth = 0
  readonly #text: string
  readonly #sets = new Map<string, CharacterSet>()
  constructor(text: string) {
    this.#text = text
  }

  read(): Node {
    const node = this.#choice()
    if (this.#at < this.#text.length) throw refuse('")" without "("')
    return node
  }

  #choice(): Node {
    const nodes = [this.#sequence()]
    while (this.#take('|')) nodes.push(this.#sequence())
    return nodes.length === 1 ? nodes[0]! : { kind: 'choice', nodes }
  }
  #sequence(): Node {
    const nodes: Node[] = []
    while (this.#at < this.#text.length && !this.#sees('|') && !this.#sees(')')) {
      nodes.push(this.#repeats(this.#atom()))
    }
    return nodes.length === 1 ? nodes[0]! : { kind: 'sequence', nodes }
  }
  #repeats(node: Node): Node {
    const counted = /^\{(\d+)(,(\d*))?\}/.exec(this.#text.slice(this.#at, this.#at + 24))
    let min = 0
    let max = Infinity
    if (counted) {
      this.#at += counted[0].length
      min = Number(counted[1])
      max = counted[2] === undefined ? min : counted[3] === '' ? Infinity : Number(counted[3])
      if (max < min) throw refuse(`${counted[0]} counts backwards`)
    } else if (this.#take('?')) max = 1
    else if (this.#take('+')) min = 1
    else if (!this.#take('*')) return node
    this.#take('?') // lazy: the same texts match
    if (this.#sees('*') || this.#sees('+') || this.#sees('?'))
      throw refuse('two quantifiers in a row')
    return { kind: 'repeat', node, min, max }
  }
  #atom(): Node {
    const c = this.#text[this.#at++]!
    if (c === '(') return this.#group()
    if (c === '[') return this.#class()
    if (c === '\\') return this.#escape()
    if (c === '.') return { kind: 'any' }
    if (c === '^') return { kind: 'edge', edge: 'start' }
    if (c === '$') return { kind: 'edge', edge: 'end' }
    if (c === '*' || c === '+' || c === '?') throw refuse(`"${c}" with nothing before it`)
    return { kind: 'literal', code: fold(c.charCodeAt(0)) }
  }
  #group(): Node {
    if (++this.#depth > DEPTH_MAX) throw refuse(`groups nested deeper than ${DEPTH_MAX}`)
    let look: boolean | undefined
    if (this.#take('?')) {
      if (this.#take('=')) look = false
      else if (this.#take('!')) look = true
      else if (!this.#take(':')) throw refuse(`"(?${this.#text[this.#at] ?? ''}" is not supported`)
    }
    const node = this.#choice()
    if (!this.#take(')')) throw refuse('"(" without ")"')
    this.#depth--
    return look === undefined ? node : { kind: 'look', node, negative: look }
  }
  #class(): Node {
    const from = this.#at - 1
    this.#take('^')
    for (;;) {
      const c = this.#text[this.#at++]
      if (c === undefined) throw refuse('"[" without "]"')
      if (c === '\\') this.#at++
      else if (c === '[' && this.#sees(':')) throw refuse('"[:…:]" is not supported')
      else if (c === ']') break
    }
    return this.#set(this.#text.slice(from, this.#at))
  }
  #escape(): Node {
    const c = this.#text[this.#at++]
    if (c === undefined) throw refuse('"\\" at the end')
    if (c === 'b' || c === 'B') return { kind: 'edge', edge: c === 'b' ? 'word' : 'notWord' }
    if (c === 'A') return { kind: 'edge', edge: 'start' }
    if (c === 'Z' || c === 'z') return { kind: 'edge', edge: 'end' }
    if ('dDwWsStnrfv0'.includes(c)) return this.#set(`\\${c}`)
    const hex = /^(?:x[\da-f]{2}|u[\da-f]{4})/i.exec(this.#text.slice(this.#at - 1, this.#at + 4))
    if (hex) {
      this.#at += hex[0].length - 1
      return { kind: 'literal', code: fold(Number.parseInt(hex[0].slice(1), 16)) }
    }
    if (/[\dA-Za-z]/.test(c)) throw refuse(`"\\${c}" is not supported`)
    return { kind: 'literal', code: fold(c.charCodeAt(0)) }
  }
  #set(source: string): Node {
    let set = this.#sets.get(source)
    if (!set) this.#sets.set(source, (set = new CharacterSet(source)))
    return { kind: 'class', set }
  }
  #sees(c: string): boolean {
    return this.#text[this.#at] === c
  }
  #take(c: string): boolean {
    if (!this.#sees(c)) return false
    this.#at++
    return true
  }
}

// ── automaton ────────────────────────────────────────────────────────────────

/** The first three move on a character; the others are passed through without one. */
type State =
  | { readonly op: 'literal'; readonly code: number }
  | { readonly op: 'set'; readonly set: CharacterSet }
  | { readonly op: 'any' }
  | { readonly op: 'fork'; readonly to: number[] }
  | { readonly op: 'edge'; readonly edge: 'start' | 'end' | 'word' | 'notWord' }
  | { readonly op: 'look'; readonly program: State[]; readonly negative: boolean }
  | { readonly op: 'match' }

/** What is left for the patterns of one filter. */
export interface PatternBudget {
  cost: number
}
export const patternBudget = (): PatternBudget => ({ cost: COST_MAX })

class Emitter {
  states: State[] = []
  #weight = 1
  readonly #budget: PatternBudget
  constructor(budget: PatternBudget) {
    this.#budget = budget
  }

  program(node: Node): State[] {
    const outer = this.states
    this.states = []
    this.#emit(node)
    this.#push({ op: 'match' })
    const made = this.states
    this.states = outer
    return made
  }
  #push(state: State): void {
    this.#budget.cost -= this.#weight * (state.op === 'literal' ? 1 : STATE_COST)
    if (this.#budget.cost < 0) {
      throw refuse('the filter is too large: fewer patterns or smaller repetitions are needed')
    }
    this.states.push(state)
  }
  #fork(...to: number[]): number[] {
    this.#push({ op: 'fork', to })
    return to
  }
  #emit(node: Node): void {
    switch (node.kind) {
      case 'literal':
        return this.#push({ op: 'literal', code: node.code })
      case 'any':
        return this.#push({ op: 'any' })
      case 'class':
        return this.#push({ op: 'set', set: node.set })
      case 'sequence':
        for (const part of node.nodes) this.#emit(part)
        return
      case 'choice':
        return this.#choice(node.nodes)
      case 'repeat':
        return this.#repeat(node.node, node.min, node.max)
      case 'edge':
        return this.#push({ op: 'edge', edge: node.edge })
      case 'look': {
        this.#weight *= LOOK_COST
        const program = this.program(node.node)
        this.#weight /= LOOK_COST
        return this.#push({ op: 'look', program, negative: node.negative })
      }
    }
  }
  #choice(nodes: readonly Node[]): void {
    const starts = this.#fork()
    const ends: number[][] = []
    for (const node of nodes) {
      starts.push(this.states.length)
      this.#emit(node)
      ends.push(this.#fork())
    }
    for (const end of ends) end.push(this.states.length)
  }
  #repeat(node: Node, min: number, max: number): void {
    for (let n = 0; n < min; n++) this.#emit(node)
    if (max === Infinity) {
      const at = this.states.length
      const out = this.#fork(at + 1)
      this.#emit(node)
      this.#fork(at)
      out.push(this.states.length)
      return
    }
    const outs: number[][] = []
    for (let n = min; n < max; n++) {
      outs.push(this.#fork(this.states.length + 1))
      this.#emit(node)
    }
    for (const out of outs) out.push(this.states.length)
  }
}

const isWordAt = (text: string, at: number): boolean => /^\w$/.test(text.charAt(at))

function holds(edge: 'start' | 'end' | 'word' | 'notWord', text: string, at: number): boolean {
  if (edge === 'start') return at === 0
  if (edge === 'end') return at === text.length
  return (isWordAt(text, at - 1) !== isWordAt(text, at)) === (edge === 'word')
}

/** A name to be matched, and its characters in lower case, one by one. */
interface Subject {
  readonly text: string
  readonly folded: readonly number[]
}

function moves(state: State, subject: Subject, at: number): boolean {
  if (state.op === 'literal') return state.code === subject.folded[at]
  return state.op === 'any' || (state.op === 'set' && state.set.has(subject.text.charCodeAt(at)))
}

/** Walks `program` over the text from `from`; `whole`: only a match that ends with the text counts. */
function walk(program: readonly State[], subject: Subject, from: number, whole: boolean): boolean {
  const { text } = subject
  const seen = new Int32Array(program.length).fill(-1)
  let current: number[] = []
  let next: number[] = []
  const stack: number[] = []
  /** Adds a state and all that are reached without a character; true when that is a match. */
  const add = (start: number, at: number, to: number[]): boolean => {
    stack.push(start)
    let matched = false
    while (stack.length > 0) {
      const index = stack.pop()!
      if (seen[index] === at) continue
      seen[index] = at
      const state = program[index]!
      if (state.op === 'fork') for (const target of state.to) stack.push(target)
      else if (state.op === 'match') matched ||= !whole || at === text.length
      else if (state.op === 'edge') {
        if (holds(state.edge, text, at)) stack.push(index + 1)
      } else if (state.op === 'look') {
        if (walk(state.program, subject, at, false) !== state.negative) stack.push(index + 1)
      } else to.push(index)
    }
    return matched
  }
  if (add(0, from, current)) return true
  for (let at = from; at < text.length && current.length > 0; at++) {
    next.length = 0
    for (const index of current) {
      if (moves(program[index]!, subject, at) && add(index + 1, at + 1, next)) return true
    }
    ;[current, next] = [next, current]
  }
  return false
}

/** A predicate on whole texts, ignoring case. Throws a plain Error with the reason when the pattern is not accepted. */
export function compilePattern(
  pattern: string,
  budget: PatternBudget = patternBudget(),
): (text: string) => boolean {
  const tree = new PatternReader(pattern.replace(/^\(\?i\)/, '')).read()
  const program = new Emitter(budget).program(tree)
  return (text) => {
    const folded = Array.from({ length: text.length }, (_, at) => fold(text.charCodeAt(at)))
    return walk(program, { text, folded }, 0, true)
  }
}
