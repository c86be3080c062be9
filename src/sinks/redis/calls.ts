/**
 * Rows on their way to the script: arguments are written once, as the bytes of the wire, and a call goes out whenever it
 * holds enough rows. Calls of one write follow one another on the connection without waiting, a few at a time; one whose
 * rows build on what is in Redis already (partial hashes) waits for all before it, so that none is left out by an error.
 * In a cluster every hash tag has calls of its own, because a script sees one slot only.
 */
import type { Command as CommandType } from 'ioredis'
import { Out } from '../../out.ts'
import type { SinkRow } from '../shape/row.ts'
import type { Connection } from './connection.ts'
import { SCRIPT, SCRIPT_SHA } from './script.ts'

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
  constructor(prefix: string) {
    this.#version = `${prefix}sluice:v:`
    this.#tombstones = `${prefix}sluice:d:`
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
  /** Begins the operation of a row: its mark is the row's version and `owner` (with its length, as RESP has it). */
  begin(operation: string, row: Pick<SinkRow, 'index' | 'version'>, owner: Mark): void {
    this.#indexes.push(row.index)
    this.#args.ascii(operation)
    this.#args.ascii(owner.head)
    this.#args.ascii(row.version)
    this.#args.bytes(owner.tail, 0, owner.tail.length)
    this.#argCount += 2
  }
  key(text: string): void {
    if (this.#keyCount++ === 0) this.#first = text
    bulk(this.#keys, text)
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
  /** What goes out, and a new beginning. `cursor` are the arguments of the cursor, the first one its key. */
  take(fixed: readonly string[], cursor: readonly string[]): Ready {
    const start = new Out(1024 + this.#keys.at + this.#args.at)
    const keys = this.#keyCount + (cursor.length > 0 ? 1 : 0)
    const own = [...fixed, `${Math.max(0, cursor.length - 1)}`, ...cursor.slice(1)]
    bulk(start, `${keys}`)
    if (cursor.length > 0) bulk(start, cursor[0]!)
    start.append(this.#keys)
    for (const text of own) bulk(start, text)
    start.append(this.#args)
    const ready = {
      count: 3 + keys + own.length + this.#argCount,
      body: start.buf.subarray(0, start.at),
      key: cursor[0] ?? this.#first,
      indexes: this.#indexes,
      ordered: this.ordered,
    }
    this.#keys.reset()
    this.#args.reset()
    this.#keyCount = this.#argCount = 0
    this.#indexes = []
    this.ordered = false
    return ready
  }
}
interface Ready {
  readonly count: number // of words of the command
  readonly body: Buffer // from the number of keys on
  readonly key: string
  readonly indexes: readonly number[]
  readonly ordered: boolean
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

/** What stands behind a version in a mark, ready for the wire. */
export interface Mark {
  readonly head: string
  readonly tail: Buffer
}
export function markOf(owner: string): Mark {
  const tail = Buffer.from(`${owner}\r\n`)
  return { head: `$${40 + tail.length - 2}\r\n`, tail }
}
/** A constant argument, ready for the wire. */
export const readyArg = (text: string): Buffer =>
  Buffer.from(`$${Buffer.byteLength(text)}\r\n${text}\r\n`)
/** An operation's letter, ready for the wire. */
export const operation = (letter: string): string => `$1\r\n${letter}\r\n`

/** The calls of one write. */
export class Calls {
  readonly #connection: Connection
  readonly #fixed: readonly string[]
  readonly #open = new Map<string, Call>()
  readonly #streams = new Map<string, { call: Call; version: string; before: string }>()
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
  after(stream: string, call: Call, version: string): string {
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

/** Sends a call by the script's name, and with its text to a server that does not know it yet. */
export async function sendScript(
  command: (name: string, words: string, body: Buffer, key: string) => CommandType,
  send: (command: CommandType) => Promise<unknown>,
  ready: Pick<Ready, 'count' | 'body' | 'key'>,
): Promise<readonly unknown[]> {
  const { body, key } = ready
  const words = (name: string, script: string): string =>
    `*${ready.count}\r\n$${name.length}\r\n${name}\r\n$${script.length}\r\n${script}\r\n`
  try {
    return (await send(
      command('evalsha', words('EVALSHA', SCRIPT_SHA), body, key),
    )) as readonly unknown[]
  } catch (error) {
    if (!(error as Error).message.startsWith('NOSCRIPT')) throw error
    return (await send(command('eval', words('EVAL', SCRIPT), body, key))) as readonly unknown[]
  }
}
