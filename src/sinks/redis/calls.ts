/**
 * Rows on their way to the script: arguments are written once, as the bytes of the wire, and a call goes out whenever it
 * holds enough rows. Calls of one write follow one another on the connection without waiting, a few at a time; one whose
 * rows build on what is in Redis already (partial hashes) waits for all before it, so that none is left out by an error.
 * In a cluster every hash tag has calls of its own, because a script sees one slot only.
 */
import type { Transaction } from '../../change.ts'
import { Out } from '../../out.ts'
import type { SinkRow } from '../shape/row.ts'
import { VERSION_LENGTH } from '../shape/version.ts'
import type { Connection } from './connection.ts'
import { SCRIPT_SHA } from './script.ts'

const ROWS_MAX = 256
const BYTES_MAX = 512 * 1024
const IN_FLIGHT_MAX = 4
/** In a cluster a call is small, often one row. */
const CLUSTER_IN_FLIGHT_MAX = 512
const OPEN_MAX = 1024

/** What the script passed over and said so: row is that of the call. */
export interface Exception {
  readonly index: number // SinkRow.index; -1: the cursor
  readonly kind: string
  readonly text: string
}

/** The hash tag, which decides the slot: what stands between the first braces, else all of it. */
function tagOf(key: string): string {
  const open = key.indexOf('{')
  if (open < 0) return key
  const close = key.indexOf('}', open + 1)
  return close <= open + 1 ? key : key.slice(open + 1, close)
}
/** Names of the keys that go with a key, in the same slot: `sluice:v:{key}`, or `sluice:v::key` where it has a tag. */
export class Names {
  readonly #version: string
  readonly #tombstones: string
  readonly #plain: readonly [Buffer, Buffer]
  constructor(prefix: string) {
    this.#plain = [Buffer.from(`${prefix}sluice:v:{`), Buffer.from('}')]
    this.#version = `${prefix}sluice:v:`
    this.#tombstones = `${prefix}sluice:d:`
  }
  /** Prefix and suffix of the version key, as bytes, for a key without a tag. */
  get plain(): readonly [Buffer, Buffer] {
    return this.#plain
  }
  version(key: string): string {
    return this.#version + (tagOf(key) === key ? `{${key}}` : `:${key}`)
  }
  tombstones(key: string): string {
    return this.#tombstones + (tagOf(key) === key ? `{${key}}` : `:${key}`)
  }
  /** Pattern of all version keys whose key begins with `start`, as SCAN takes it. */
  patterns(start: string): readonly string[] {
    const literal = (text: string): string => text.replace(/[*?[\]\\^]/g, String.raw`\$&`)
    return [`${this.#version}{`, `${this.#version}:`].map((p) => `${literal(p + start)}*`)
  }
  /** The key whose version this is. */
  key(version: string): string {
    const rest = version.slice(this.#version.length)
    return rest.startsWith(':') ? rest.slice(1) : rest.slice(1, -1)
  }
}
/** Whether the key and the keys that go with it may lie in different slots of a cluster. */
export const isSplit = (key: string): boolean => tagOf(key) === key && key.includes('}')

/** One call of the script in the making. */
export class Call {
  readonly tag: string
  readonly #keys: Out
  readonly #args: Out
  #keyCount = 0
  #argCount = 0
  #indexes: number[] = []
  #first = '' // a key, for the slot
  /** Whether it must not overtake, nor be overtaken. */
  ordered = false

  constructor(tag: string) {
    this.tag = tag
    this.#keys = new Out(tag === '' ? 16_384 : 128)
    this.#args = new Out(tag === '' ? 65_536 : 512)
  }
  get rows(): number {
    return this.#indexes.length
  }
  get full(): boolean {
    return this.#indexes.length >= ROWS_MAX || this.#keys.at + this.#args.at >= BYTES_MAX
  }
  /** Begins the operation of a row, with the row's version and what else the mark has. */
  begin(mark: Mark, row: Stamped): void {
    const args = this.#args
    this.#indexes.push(row.index)
    args.bytes(mark.head, 0, mark.head.length)
    writeVersion(row, args)
    args.bytes(mark.tail, 0, mark.tail.length)
    this.#argCount += mark.count
  }
  key(text: string): void {
    if (this.#keyCount++ === 0) this.#first = text
    bulk(this.#keys, text)
  }
  /** The key's version key and the key. */
  pair(names: Names, text: string): void {
    if (text.includes('{')) {
      this.key(names.version(text))
      return this.key(text)
    }
    if (this.#keyCount === 0) this.#first = text
    this.#keyCount += 2
    const keys = this.#keys
    const [before, after] = names.plain
    encoded.reset()
    encoded.utf8(text)
    head(keys, before.length + encoded.at + after.length)
    keys.bytes(before, 0, before.length)
    keys.append(encoded)
    keys.bytes(after, 0, after.length)
    end(keys)
    head(keys, encoded.at)
    keys.append(encoded)
    end(keys)
  }
  arg(text: string): void {
    this.#argCount++
    bulk(this.#args, text)
  }
  out(value: Out): void {
    this.#argCount++
    head(this.#args, value.at)
    this.#args.append(value)
    end(this.#args)
  }
  /** An argument with its length before it already. */
  ready(value: Buffer): void {
    this.#argCount++
    this.#args.bytes(value, 0, value.length)
  }
  /** What goes out; the call takes no more. `cursor` are the arguments of the cursor, the first one its key. */
  take(fixed: readonly string[], cursor: readonly string[]): Ready {
    const keys = this.#keyCount + (cursor.length > 0 ? 1 : 0)
    const own = [...fixed, `${Math.max(0, cursor.length - 1)}`, ...cursor.slice(1)]
    const count = 3 + keys + own.length + this.#argCount
    const out = new Out(2048 + this.#keys.at + this.#args.at)
    out.ascii(`*${count}\r\n$7\r\nEVALSHA\r\n$${SCRIPT_SHA.length}\r\n${SCRIPT_SHA}\r\n`)
    const rest = out.at
    bulk(out, `${keys}`)
    if (cursor.length > 0) bulk(out, cursor[0]!)
    out.append(this.#keys)
    for (const text of own) bulk(out, text)
    out.append(this.#args)
    return {
      count,
      bytes: out.buf.subarray(0, out.at),
      rest,
      key: cursor[0] ?? this.#first,
      indexes: this.#indexes,
      ordered: this.ordered,
    }
  }
}
/** A call, to who writes a row into it. */
export type CallWriter = Pick<Call, 'ordered' | 'begin' | 'key' | 'pair' | 'arg' | 'out' | 'ready'>
/** Where rows are written to: calls, or who wants to know what would be written. */
export interface Writes {
  readonly invalid: Set<string>
  of(key: string): CallWriter
  after(stream: string, call: CallWriter, version: string): string
}
interface Ready {
  readonly count: number // of words of the command
  readonly bytes: Buffer // the whole command, with the script's name
  readonly rest: number // where in it the number of keys stands, behind the name
  readonly key: string
  readonly indexes: readonly number[]
  readonly ordered: boolean
}
const encoded = new Out(256)
/** What is written for a row of the log, or for a statement. */
export type Stamped = Pick<SinkRow, 'index' | 'version'> &
  Partial<Pick<SinkRow, 'tx' | 'change' | 'row'>>

const DIGITS = Buffer.from('0123456789abcdef')
const versionBytes = Buffer.alloc(VERSION_LENGTH)
let versionOf: Transaction | undefined
/** The row's version, without a string where it is a row of the log. */
function writeVersion(row: Stamped, out: Out): void {
  const { tx, change } = row
  if (tx === undefined || change === undefined) return out.ascii(row.version)
  if (versionOf !== tx) {
    versionBytes.write(row.version, 'latin1')
    versionOf = tx
  }
  hex8(change.ordinal, VERSION_LENGTH - 16)
  hex8(row.row!, VERSION_LENGTH - 8)
  out.bytes(versionBytes, 0, VERSION_LENGTH)
}
function hex8(n: number, at: number): void {
  for (let i = at + 7; i >= at; i--, n >>>= 4) versionBytes[i] = DIGITS[n & 15]!
}
function bulk(out: Out, text: string): void {
  const length = Buffer.byteLength(text)
  head(out, length)
  if (length === text.length) out.ascii(text)
  else out.utf8(text)
  end(out)
}
function head(out: Out, length: number): void {
  out.ensure(1)
  out.u8(0x24)
  out.int(length)
  end(out)
}
function end(out: Out): void {
  out.ensure(2)
  out.u8(0x0d)
  out.u8(0x0a)
}

/** What stands around a version in an operation, ready for the wire. */
export interface Mark {
  readonly head: Buffer // the operation's letter, and the length of the mark
  readonly tail: Buffer // the owner, and the first arguments
  readonly count: number
}
/** Of an operation, by its letter, with the arguments that are the same for every row. */
export function markOf(letter: string, owner: string, ...fixed: string[]): Mark {
  const length = VERSION_LENGTH + Buffer.byteLength(owner)
  return {
    head: Buffer.from(`$1\r\n${letter}\r\n$${length}\r\n`),
    tail: Buffer.concat([Buffer.from(`${owner}\r\n`), ...fixed.map(readyArg)]),
    count: 2 + fixed.length,
  }
}
/** A constant argument, ready for the wire. */
export const readyArg = (text: string): Buffer =>
  Buffer.from(`$${Buffer.byteLength(text)}\r\n${text}\r\n`)

/** The calls of one write. */
export class Calls implements Writes {
  readonly #connection: Connection
  readonly #fixed: readonly string[]
  readonly #open = new Map<string, Call>()
  readonly #streams = new Map<string, { call: CallWriter; version: string; before: string }>()
  readonly #sent: Promise<void>[] = []
  readonly #inFlightMax: number
  #current: Call | undefined
  #due: Call[] = [] // full
  readonly exceptions: Exception[] = []
  /** Keys to delete once the source shows the change. */
  readonly invalid = new Set<string>()

  /** `fixed`: owner's start, time to live of tombstones, the highest version. */
  constructor(connection: Connection, fixed: readonly string[]) {
    this.#connection = connection
    this.#fixed = fixed
    this.#inFlightMax = connection.cluster ? CLUSTER_IN_FLIGHT_MAX : IN_FLIGHT_MAX
  }
  /** The version of the last entry for this stream in an earlier call of this write; "" where there is none. */
  after(stream: string, call: CallWriter, version: string): string {
    const last = this.#streams.get(stream)
    if (last === undefined) this.#streams.set(stream, { call, version, before: '' })
    else {
      if (last.call !== call) last.before = last.version
      last.call = call
      last.version = version
    }
    return last?.before ?? ''
  }
  /** Where a row that writes `key` goes. */
  of(key: string): Call {
    const tag = this.#connection.cluster ? tagOf(key) : ''
    let call = tag === this.#current?.tag ? this.#current : this.#open.get(tag)
    if (call?.full === true) {
      this.#due.push(call)
      call = undefined
    }
    if (call === undefined) {
      if (this.#open.size >= OPEN_MAX) {
        this.#due.push(...this.#open.values())
        this.#open.clear()
      }
      this.#open.set(tag, (call = new Call(tag)))
    }
    return (this.#current = call)
  }
  /** Whether `flush` has something to do. */
  get due(): boolean {
    return this.#due.length > 0
  }
  /** Sends what is full; waits while too much is under way. */
  async flush(): Promise<void> {
    const due = this.#due
    this.#due = []
    for (const call of due) await this.#send(call)
  }
  /**
   * Sends everything and waits for all replies. With `last`, a cursor, the last call carries it, alone if need be, and
   * only when all is well so far; `before` comes just before it.
   */
  async finish(last: readonly string[] | undefined, before: () => Promise<void>): Promise<void> {
    await this.flush()
    const rest = [...this.#open.values()].filter((call) => call.rows > 0)
    this.#open.clear()
    this.#current = undefined
    const own = last === undefined || this.#connection.cluster ? undefined : rest.pop()
    for (const call of rest) await this.#send(call)
    await this.#settle()
    await before()
    if (last !== undefined && this.exceptions.length === 0)
      await this.#exchange((own ?? new Call('')).take(this.#fixed, last))
    else if (own !== undefined) await this.#exchange(own.take(this.#fixed, []))
  }
  async #send(call: Call): Promise<void> {
    const ready = call.take(this.#fixed, [])
    if (ready.ordered || this.#sent.length >= this.#inFlightMax) await this.#settle(ready.ordered)
    const reply = this.#exchange(ready)
    reply.catch(() => {}) // its error is met in #settle
    this.#sent.push(reply)
    if (ready.ordered) await this.#settle()
  }
  /** Waits for every call under way, or for the older half of them; after an error for all. */
  async #settle(all = true): Promise<void> {
    const done = this.#sent.splice(0, all ? this.#sent.length : (this.#sent.length + 1) >> 1)
    try {
      for (const reply of done) await reply
    } catch (error) {
      await Promise.allSettled([...done, ...this.#sent])
      throw error
    }
  }
  async #exchange(ready: Ready): Promise<void> {
    const reply = await this.#connection.script(ready)
    for (let i = 0; i + 2 < reply.length; i += 3) {
      const row = Number(reply[i])
      const index = row < 0 ? -1 : ready.indexes[row]!
      this.exceptions.push({ index, kind: String(reply[i + 1]), text: String(reply[i + 2]) })
    }
  }
}
