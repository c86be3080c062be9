/** The HTTP sink in the conformance suite: the receiver stands in for whoever keeps a log of the events it was sent. */
import { conformance, type Destination, type Place } from '../conformance.ts'
import { Receiver, type Received } from '../receiver.ts'
import type { Address } from './scene.ts'
import { seenOfValue, type Seen } from './seen.ts'
import { parseExact, type Exact } from './tables.ts'

class Hooks implements Destination {
  readonly promise = 'append'
  readonly refused = 'refuse me'
  readonly #receiver: Receiver
  readonly #seen: Seen[] = []
  #full = false
  #place: Place | undefined

  constructor(receiver: Receiver) {
    this.#receiver = receiver
    // A request counts when it is answered by 200: only then has the receiver kept it.
    receiver.reply = (request) => {
      receiver.requests.length = 0
      if (this.#full) return { status: 507 }
      if (request.body.includes(this.refused)) return { status: 422, body: 'no, thank you' }
      this.#keep(request)
      return { status: 200 }
    }
  }
  get address(): Address {
    return { host: '127.0.0.1', port: this.#receiver.port }
  }
  sink(place: Place, { host, port }: Address): object {
    this.#place = place
    const url = `http://${host}:${port}/hook`
    return { type: 'http', url, secret: 'a secret, long enough', timeoutMs: '2s' }
  }
  async changes(): Promise<readonly Seen[]> {
    return this.#seen
  }
  async fill(): Promise<AsyncDisposable> {
    this.#full = true
    return { [Symbol.asyncDispose]: async () => void (this.#full = false) }
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.#receiver[Symbol.asyncDispose]()
  }

  #keep({ body, headers }: Received): void {
    const value = parseExact(body)
    const events = Array.isArray(value) ? value : [value]
    for (const event of events) {
      const { data } = event as { data?: Exact }
      const seen = seenOfValue(data ?? event, this.#place!.tables)
      const id = (event as { id?: string }).id ?? headers['ce-id']!
      // the halves of an update of the key are one change
      if (seen) this.#seen.push({ ...seen, id: id.replace(/-old$/, '') })
    }
  }
}

conformance('http', async () => new Hooks(await Receiver.start()))
