/**
 * Webhooks: every change is a CloudEvent in a POST, signed. Append: every event is delivered at least once; events with the
 * same key in order, one request after the other. An event that comes again has the same id.
 *
 * An answer of 200 to 299 means taken. What the receiver refuses (400, 409, 413, 422 and their like) is a refused row; of
 * a batch it is found by halving. Anything else is tried again by the runner, not before the time in Retry-After.
 */
import { setTimeout as delay } from 'node:timers/promises'
import * as z from 'zod'
import { SluiceError } from '../errors.ts'
import { Body, Paper } from './http/body.ts'
import { EventWriter, hashText, headersOf, headerText } from './http/event.ts'
import { Fill } from './http/fill.ts'
import { Flight, Group, Keys } from './http/flight.ts'
import { Poster } from './http/post.ts'
import { secretBytes, signatureOf } from './http/signature.ts'
import type { BatchFacts, SinkBatch } from './shape/batch.ts'
import { bytes, duration, flag, integer, oneOf, section, text } from '../config/leaves.ts'
import type { SinkRow } from './shape/row.ts'
import {
  defineSink,
  type RowFailure,
  type Sink,
  type SinkContext,
  type SinkStatement,
} from './sink.ts'

/** No receiver can make us wait for longer. */
const RETRY_AFTER_MS_MAX = 5 * 60_000

const secret = () =>
  z
    .string({ error: 'a secret of at least 16 characters' })
    .min(16, { error: 'a secret of at least 16 characters' })
    .optional()

const options = section({
  url: text('an http or https URL').describe('Where events are sent: an http or https URL'),
  mode: oneOf(['structured', 'binary', 'batch'])
    .default('structured')
    .describe(
      'structured: one event a request, all of it in the body; binary: attributes in headers; batch: a list of events a request',
    ),
  batchEvents: integer('a number of events, 1 to 10000', 1, 10_000)
    .default(100)
    .describe('Events in one request, in mode batch'),
  batchBytes: bytes('1KiB', '64MiB')
    .prefault('1MiB')
    .describe('A batch is sent when it is as large as this, in mode batch'),
  secret: secret().describe(
    'Signs requests by HMAC-SHA-256: any text, or whsec_ and base64; none: not signed',
  ),
  previousSecret: secret().describe('The secret before; requests are signed with both'),
  bearerToken: text('a token').optional().describe('Sent as Authorization: Bearer'),
  headers: z
    .record(
      z.string().regex(/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/, { error: 'the name of a header' }),
      z
        .string({ error: 'a text of printable characters' })
        .regex(/^[\x20-\x7e]*$/, { error: 'a text of printable characters' }),
      { error: 'a mapping of header names to texts' },
    )
    .default({})
    .describe('More headers for every request'),
  concurrency: integer('a number of requests, 1 to 256', 1, 256)
    .default(8)
    .describe('Requests at once, each for other keys'),
  timeoutMs: duration('10ms', '10m')
    .prefault('10s')
    .describe('A request without an answer for this long is given up, and tried again'),
  statements: flag().default(false).describe('Also an event for each DDL statement and TRUNCATE'),
  decimal: oneOf(['string', 'number'])
    .default('string')
    .describe('DECIMAL as a string, or as a number with all its digits'),
  binary: oneOf(['base64', 'hex']).default('base64').describe('How bytes are written'),
  tls: section({
    ca: text('a path')
      .optional()
      .describe('Authorities to trust, PEM file; none: those Node brings'),
    cert: text('a path').optional().describe('Client certificate, PEM file'),
    key: text('a path').optional().describe('Its private key, PEM file'),
  })
    .prefault({})
    .describe('TLS to the receiver, where the URL is https'),
})
type HttpOptions = Readonly<z.output<typeof options>>

export const http = defineSink({
  type: 'http',
  summary: 'Sends changes to a webhook as CloudEvents, signed, in order per key',
  options,
  problems({ url, secret: now, previousSecret, tls, headers, bearerToken }) {
    const found: string[] = []
    const parsed = URL.parse(url)
    if (parsed?.protocol !== 'http:' && parsed?.protocol !== 'https:')
      found.push('url: expected an http or https URL')
    if (parsed && (parsed.username !== '' || parsed.password !== ''))
      found.push('url: expected no user and password in it; use bearerToken or headers')
    if (previousSecret !== undefined && now === undefined)
      found.push('previousSecret: expected secret as well')
    if ((tls.cert === undefined) !== (tls.key === undefined))
      found.push('tls: expected cert and key together, found only one of them')
    const ours = Object.keys(headers).filter((name) =>
      /^(content-(type|length)|host|transfer-encoding|ce-.*|webhook-.*|idempotency-key)$/i.test(
        name,
      ),
    )
    if (ours.length > 0) found.push(`headers: ${ours.join(', ')} are set by Sluice`)
    if (bearerToken !== undefined && Object.keys(headers).some((n) => /^authorization$/i.test(n)))
      found.push('headers: expected either bearerToken or a header authorization, found both')
    return found
  },
  open(chosen, { instance, onError }) {
    let poster: Poster
    try {
      const { url, concurrency, timeoutMs, tls, bearerToken } = chosen
      const headers = {
        'user-agent': 'sluice',
        ...chosen.headers,
        ...(bearerToken !== undefined && { authorization: `Bearer ${bearerToken}` }),
      }
      poster = new Poster({ url, concurrency, timeoutMs, tls, headers })
    } catch (error) {
      const message = `http sink: cannot be set up: ${(error as Error).message}`
      throw new SluiceError('SINK_UNSUITABLE', message, { cause: error })
    }
    return Promise.resolve(new HttpSink(poster, { instance, onError }, chosen))
  },
})

/** Which events of a batch were taken: when the rest is tried again, these are not sent another time. */
class Delivered {
  #marks = new Uint8Array(1024)
  /** Whether there is any. */
  any = false
  /** Two places for a row, for it may be split. */
  static place(row: SinkRow): number {
    return row.index * 2 + (row.keyChanged && row.op === 'insert' ? 1 : 0)
  }
  has(place: number): boolean {
    return this.#marks[place] === 1
  }
  add(place: number): void {
    this.any = true
    if (place >= this.#marks.length) {
      const more = new Uint8Array(Math.max(place + 1, this.#marks.length * 2))
      more.set(this.#marks)
      this.#marks = more
    }
    this.#marks[place] = 1
  }
}
/** One write under way. */
interface Sending {
  readonly delivered: Delivered
  readonly failures: RowFailure[]
  readonly signal: AbortSignal
}
class HttpSink implements Sink {
  readonly promise = 'append'
  /** The requests of the next write are begun while the last ones of this are under way. */
  readonly inFlight = 2
  readonly clears: boolean
  readonly statement?: (statement: SinkStatement, signal: AbortSignal) => Promise<void>
  readonly #poster: Poster
  readonly #events: EventWriter
  readonly #options: HttpOptions
  readonly #secrets: readonly Buffer[]
  readonly #delivered = new WeakMap<BatchFacts, Delivered>()
  readonly #flight: Flight
  readonly #keys: Keys
  readonly #spare: Paper[] = []
  readonly #eventsMax: number
  readonly #patient: boolean // what is refused is sent again until it is taken
  #notBefore = 0 // ms; what Retry-After said

  constructor(
    poster: Poster,
    { instance, onError }: Pick<SinkContext, 'instance' | 'onError'>,
    chosen: HttpOptions,
  ) {
    this.#patient = onError === 'retry'
    const { decimal, binary, secret: now, previousSecret, mode, concurrency } = chosen
    this.#poster = poster
    this.#options = chosen
    this.#eventsMax = mode === 'batch' ? chosen.batchEvents : 1
    this.#flight = new Flight(concurrency)
    this.#keys = new Keys(concurrency * this.#eventsMax)
    this.#events = new EventWriter(instance, { decimal, binary })
    this.#secrets = [now, previousSecret].flatMap((s) => (s === undefined ? [] : [secretBytes(s)]))
    this.clears = chosen.statements
    if (chosen.statements) this.statement = (s, signal) => this.#statement(s, signal)
  }

  async write(batch: SinkBatch, signal: AbortSignal): Promise<readonly RowFailure[]> {
    const { facts } = batch
    let delivered = this.#delivered.get(facts)
    if (delivered === undefined) this.#delivered.set(facts, (delivered = new Delivered()))
    const sending: Sending = { delivered, failures: [], signal }
    const group = new Group(async (body) => {
      await this.#send(body, 0, body.count, sending)
      this.#give(body)
    })
    if (this.#flight.idle) this.#keys.reset()
    await this.#flight.run(group, async () => await this.#fill(batch, group, sending))
    return sending.failures.sort((a, b) => a.index - b.index)
  }
  close(): Promise<void> {
    this.#poster.close()
    return Promise.resolve()
  }

  async #fill(batch: SinkBatch, group: Group, { delivered }: Sending): Promise<void> {
    const { mode, batchBytes } = this.#options
    const eventsMax = this.#eventsMax
    const take = (): Paper => this.#spare.pop() ?? new Paper(eventsMax)
    const of = { keys: this.#keys, flight: this.#flight, group }
    const fill = new Fill({ ...of, mode, eventsMax, bytesMax: batchBytes, take })
    const again = delivered.any
    const whole = (first: SinkRow): number => {
      const written = again || mode !== 'batch' ? undefined : this.#events.all(first)
      if (written === undefined) return -1
      fill.all(written, first.index)
      return written.rows
    }
    for (const row of batch.rows(true, whole)) {
      if (row !== undefined) {
        const place = Delivered.place(row)
        if (delivered.has(place)) continue
        fill.add(place, this.#event(row, fill.body))
      }
      const begun = fill.send()
      if (begun) await begun
    }
    await fill.end()
    this.#give(fill.body)
  }
  #give({ paper, lingers }: Body): void {
    const fits = paper.out.buf.length <= this.#options.batchBytes * 2
    if (!lingers && fits && this.#spare.length <= this.#options.concurrency) this.#spare.push(paper)
  }
  /** Answers a hash of the key. */
  #event(row: SinkRow, body: Body): number {
    const { out } = body
    if (this.#options.mode !== 'binary') return this.#events.structured(row, out)
    const attributes = this.#events.attributes(row)
    body.attributes = attributes
    this.#events.data(row, out)
    return hashText(attributes.partitionkey)
  }
  async #statement(statement: SinkStatement, signal: AbortSignal): Promise<void> {
    const { mode } = this.#options
    const body = new Body(1, mode, new Paper(1))
    if (mode === 'binary') body.attributes = this.#events.statement(statement, body.out)
    else this.#events.structuredStatement(statement, body.out)
    body.add(0)
    body.close()
    const sending: Sending = { delivered: new Delivered(), failures: [], signal }
    await this.#send(body, 0, 1, sending)
    for (const { error } of sending.failures) throw error
  }

  /** The events [from, to) in one request; in halves when it is refused, until it is known which event is the one. */
  async #send(body: Body, from: number, to: number, sending: Sending): Promise<void> {
    if (this.#notBefore > 0) await this.#pause(sending.signal)
    const answer = await this.#post(body, from, to, sending.signal)
    if (!answer.sent) body.lingers = true
    if (answer.kind === 'done') {
      for (let i = from; i < to; i++) sending.delivered.add(body.places[i]!)
    } else if (answer.kind === 'misled') {
      const text = `${answer.message}: redirects are not followed; set url to where it leads`
      throw new SluiceError('SINK_UNSUITABLE', text)
    } else if (answer.kind === 'later') {
      const after = Math.min(answer.afterMs ?? 0, RETRY_AFTER_MS_MAX)
      this.#notBefore = Math.max(this.#notBefore, Date.now() + after)
      throw new SluiceError('SINK_UNAVAILABLE', answer.message)
    } else if (to - from > 1) {
      const middle = (from + to) >> 1
      await this.#send(body, from, middle, sending)
      await this.#send(body, middle, to, sending)
    } else {
      const text = `${body.subject(from)} at ${body.id(from)}: ${answer.message}`
      const error = new SluiceError('SINK_DATA', text)
      if (this.#patient) throw error
      sending.failures.push({ index: body.places[from]! >> 1, error, retryable: false })
    }
  }
  #post(body: Body, from: number, to: number, signal: AbortSignal): ReturnType<Poster['post']> {
    const first = body.id(from)
    const id = headerText(to - from === 1 ? first : `${first}..${body.id(to - 1)}`)
    const { mode } = this.#options
    const bytes = body.bytes(from, to)
    const headers: Record<string, string> = {
      ...(body.attributes && headersOf(body.attributes)),
      'content-type': contentTypes[mode],
      'idempotency-key': id,
    }
    if (this.#secrets.length > 0) {
      const seconds = Math.floor(Date.now() / 1000)
      headers['webhook-id'] = id
      headers['webhook-timestamp'] = String(seconds)
      headers['webhook-signature'] = signatureOf(this.#secrets, { id, seconds, body: bytes })
    }
    return this.#poster.post(bytes, headers, signal)
  }
  async #pause(signal: AbortSignal): Promise<void> {
    const ms = this.#notBefore - Date.now()
    if (ms > 0) await delay(ms, undefined, { signal })
    else this.#notBefore = 0
  }
}

const contentTypes = {
  binary: 'application/json',
  structured: 'application/cloudevents+json',
  batch: 'application/cloudevents-batch+json',
} as const
