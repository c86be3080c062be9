/**
 * The body of one request while it is made and sent: its events, which rows of the batch they stand for, and which bodies
 * before it must be answered first, for they have a key in common. Knows no sockets.
 */
import { Out } from '../../out.ts'
import { ID_AT, type Attributes } from './event.ts'

/** structured: one event; binary: the data of one event; batch: a list of events. */
export type Mode = 'structured' | 'binary' | 'batch'

const OPEN = 0x5b
const COMMA = 0x2c
const CLOSE = 0x5d
const QUOTE = 0x22
const BACKSLASH = 0x5c
/** A body begins with so much room. */
const START_BYTES = 16 * 1024

/** What a body is written on, one after the other. */
export class Paper {
  readonly out = new Out(START_BYTES)
  readonly places: Int32Array
  readonly ends: Int32Array
  constructor(events: number) {
    this.places = new Int32Array(events)
    this.ends = new Int32Array(events)
  }
}
/** Events that were written elsewhere, a comma behind each, of rows one after the other. */
interface Events {
  readonly memory: Buffer
  readonly from: number
  readonly count: number
  /** Where each ends, comma included: in `words` from `ends` on. */
  readonly words: Int32Array
  readonly ends: number
  readonly index: number // SinkRow.index of the first
}

export class Body {
  /** Counted over all bodies of a write. */
  readonly number: number
  /** It and all before it must be answered first; 0: none. */
  after = 0
  count = 0
  /** Of each event, where its row stands in the batch: twice SinkRow.index, and one more for the second half of a row. */
  readonly places: Int32Array
  /** It is written to, from its start. */
  readonly out: Out
  /** Nobody else may have it until the body is sent. */
  readonly paper: Paper
  readonly #list: boolean
  readonly #ends: Int32Array
  /** Of mode binary. */
  attributes: Attributes | undefined
  /** Whether a request with its bytes ended before the socket had all of them: then they are not to be written over. */
  lingers = false

  constructor(number: number, mode: Mode, paper: Paper) {
    this.number = number
    this.#list = mode === 'batch'
    this.paper = paper
    this.out = paper.out
    this.places = paper.places
    this.#ends = paper.ends
    this.out.reset()
    this.#byte(OPEN)
  }
  /** Behind each event. */
  add(place: number): void {
    this.places[this.count] = place
    this.#ends[this.count++] = this.out.at
    this.#byte(COMMA)
  }
  /** Of a list only. */
  addAll({ memory, from, words, ends, index, count }: Events): void {
    const { out, places } = this
    const moved = out.at - from - 1
    for (let i = 0, at = this.count; i < count; i++, at++) {
      places[at] = (index + i) * 2
      this.#ends[at] = words[ends + i]! + moved
    }
    this.count += count
    out.bytes(memory, from, words[ends + count - 1]!)
  }
  /** No more events will come. */
  close(): void {
    if (this.#list) this.out.buf[this.out.at - 1] = CLOSE
  }
  /** What is sent of the events [from, to). */
  bytes(from: number, to: number): Buffer {
    const bytes = this.out.buf.subarray(0, this.out.at)
    if (!this.#list || (from === 0 && to === this.count)) return bytes
    const list = Buffer.from(bytes.subarray(this.#start(from) - 1, this.#ends[to - 1]! + 1))
    list[0] = OPEN
    list[list.length - 1] = CLOSE
    return list
  }
  id(event: number): string {
    if (this.attributes !== undefined) return this.attributes.id
    const from = this.#start(event) + ID_AT
    const { buf } = this.out
    let to = from
    let plain = true
    for (; buf[to] !== QUOTE; to++) {
      if (buf[to] !== BACKSLASH) continue
      plain = false
      to++
    }
    const text = buf.toString('utf8', from, to)
    return plain ? text : (JSON.parse(`"${text}"`) as string)
  }
  subject(event: number): string {
    if (this.attributes !== undefined) return this.attributes.subject
    const text = this.out.buf.toString('utf8', this.#start(event), this.#ends[event])
    return (JSON.parse(text) as Attributes).subject
  }
  #start(event: number): number {
    if (event > 0) return this.#ends[event - 1]! + 1
    return this.#list ? 1 : 0
  }
  /** Between the events of a list. */
  #byte(byte: number): void {
    if (!this.#list) return
    this.out.ensure(1)
    this.out.u8(byte)
  }
}
