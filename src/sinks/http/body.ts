/**
 * The body of one request while it is made and sent: its events, which rows of the batch they stand for, and which bodies
 * before it must be answered first, for they have a key in common. Knows no sockets.
 */
import type { Out } from '../../out.ts'
import { ID_AT, type Attributes } from './event.ts'

/** structured: one event; binary: the data of one event; batch: a list of events. */
export type Mode = 'structured' | 'binary' | 'batch'

const OPEN = 0x5b
const COMMA = 0x2c
const CLOSE = 0x5d
const AFTER_ID = '","source":'

/** Events that were written elsewhere, a comma behind each. */
interface Events {
  readonly memory: Buffer
  readonly from: number
  readonly ends: Int32Array // of each, comma included
}

export class Body {
  /** Counted over all bodies of a write. */
  readonly number: number
  /** It and all before it must be answered first; 0: none. */
  after = 0
  /** Of each event, where its row stands in the batch: twice SinkRow.index, and one more for the second half of a row. */
  readonly places: number[] = []
  readonly #list: boolean
  readonly #ends: number[] = []
  /** It is written to, from its start; nobody else may have it until the body is sent. */
  readonly out: Out
  /** Of mode binary. */
  attributes: Attributes | undefined
  /** Whether a request with its bytes ended before the socket had all of them: then they are not to be written over. */
  lingers = false

  constructor(number: number, mode: Mode, out: Out) {
    this.number = number
    this.#list = mode === 'batch'
    this.out = out
    out.reset()
    this.#byte(OPEN)
  }
  get count(): number {
    return this.#ends.length
  }
  /** Behind each event. */
  add(place: number): void {
    this.places.push(place)
    this.#ends.push(this.out.at)
    this.#byte(COMMA)
  }
  /** The places are the caller's to add. Of a list only. */
  addAll({ memory, from, ends }: Events): void {
    const { out } = this
    const moved = out.at - from
    for (const end of ends) this.#ends.push(end + moved - 1)
    out.bytes(memory, from, ends.at(-1)!)
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
    const text = buf.toString('utf8', from, buf.indexOf(AFTER_ID, from))
    return JSON.parse(`"${text}"`) as string
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
