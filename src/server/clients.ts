/**
 * Which connection holds which client's cursor. Guarantees that one client id of one destination is served to one
 * connection at a time: a SUBSCRIPTION takes it over, anything else from elsewhere is refused with the holder's address.
 * Must not know packets or sockets.
 */
import type { Filter } from '../change.ts'
import { SluiceError } from '../errors.ts'
import { compileFilter } from '../filter.ts'
import type { Cursor } from '../store/cursor.ts'
import type { Store } from '../store/store.ts'
import { EntryEncoder } from './entry.ts'

/** What a client subscribes to. */
export interface Destination {
  readonly name: string
  readonly store: Pick<Store, 'subscribe' | 'subscription' | 'unsubscribe'>
  readonly gtid: boolean // fill Header.gtid and the GTID props
  readonly transactionEntries?: boolean // send TRANSACTIONBEGIN and TRANSACTIONEND; default true
  /** Loads what the tables hold already, unless that was done for this client before. */
  readonly load?: ((client: string, filter: Filter) => void) | undefined
}

/** Before a subscription's filter: the client wants the rows there are, too. No pattern begins with a plus. */
export const LOAD_MARK = '+snapshot'
/** A subscription's filter without the mark, and whether it had it. */
function readMark(text: string): { readonly filterText: string; readonly load: boolean } {
  if (!/^\+snapshot(?:,|$)/.test(text)) return { filterText: text, load: false }
  return { filterText: text.slice(LOAD_MARK.length + 1), load: true }
}
/** Upper bounds of the buckets of reply times, in ms. */
export const LATENCY_MS = [2.5, 10, 25, 100] as const
/** What the clients of one destination were sent. Plain numbers, read by metrics at scrape time. */
export class Traffic {
  batches = 0
  emptyBatches = 0
  bytes = 0
  /** From a batch that is there to its reply in the socket's hands, by bucket; the last one is what lies above. */
  readonly latency: number[] = Array.from({ length: LATENCY_MS.length + 1 }, () => 0)
  latencyMs = 0
  sent(bytes: number, since: number): void {
    const ms = performance.now() - since
    const bucket = LATENCY_MS.findIndex((most) => ms <= most)
    this.latency[bucket < 0 ? LATENCY_MS.length : bucket]!++
    this.latencyMs += ms
    this.batches++
    this.bytes += bytes
  }
}
/** What the server needs of a logger (pino fits). */
export interface Log {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}
/** Plain numbers, read by metrics at scrape time. */
export class Counters {
  connectionsOpen = 0
  connectionsTotal = 0
  connectionsRefused = 0
  bytesIn = 0
  bytesOut = 0
  /** By packet type, 0 to 12; what is outside counts at 0. */
  readonly packetsIn: number[] = Array.from({ length: 13 }, () => 0)
  readonly packetsOut: number[] = Array.from({ length: 13 }, () => 0)
  batches = 0
  emptyBatches = 0
  entries = 0
  errors400 = 0
  errors401 = 0
  errors402 = 0
  malformed = 0
  authFailures = 0
  takeOvers = 0
}

/** A cursor in a connection's hands. */
export interface Held {
  readonly key: string
  readonly destination: Destination
  readonly cursor: Cursor
  readonly encoder: EntryEncoder
  readonly traffic: Traffic
  lastBatch: bigint // given out
  takenBy: string // address of the connection that took the client id over, else ""
}

/** All connections of a server. */
export class Clients {
  readonly owners = new Map<string, Holdings>() // by destination and client id
  readonly traffic = new Map<string, Traffic>() // by destination
  readonly resolve: (destination: string) => Destination | string
  readonly counters: { takeOvers: number }
  constructor(
    resolve: (destination: string) => Destination | string,
    counters: { takeOvers: number },
  ) {
    this.resolve = resolve
    this.counters = counters
  }
}

/** What one connection holds. */
export class Holdings {
  readonly peer: string
  readonly #all: Clients
  readonly #held = new Map<string, Held>()
  constructor(peer: string, all: Clients) {
    this.peer = peer
    this.#all = all
  }
  get(destination: string, client: string): Held | undefined {
    return this.#held.get(keyOf(destination, client))
  }
  /**
   * Opens the client's cursor here, away from any other connection. An empty filter keeps the stored one.
   * @throws SluiceError DESTINATION_UNKNOWN, CONFIG_INVALID for the filter, and what the store throws
   */
  open(name: string, client: string, subscription: string): Held {
    const { filterText, load } = readMark(subscription)
    const destination = this.#resolve(name)
    const { store } = destination
    const text = filterText || (store.subscription(client)?.filterText ?? '')
    const filter = compileFilter({ include: text })
    const cursor = store.subscribe(client, { filter, filterText: text })
    const key = keyOf(name, client)
    const { owners, counters } = this.#all
    const owner = owners.get(key)
    if (owner && owner !== this) {
      owner.#takenOver(key, this.peer)
      counters.takeOvers++
    }
    const encoder = new EntryEncoder({ gtid: destination.gtid })
    const traffic = this.#all.traffic.get(name) ?? new Traffic()
    this.#all.traffic.set(name, traffic)
    const held: Held = { key, destination, cursor, encoder, traffic, lastBatch: 0n, takenBy: '' }
    this.#held.set(key, held)
    owners.set(key, this)
    if (load) destination.load?.(client, filter)
    return held
  }
  /**
   * The cursor held here; without one, the stored subscription's, unless another connection has it.
   * @throws SluiceError DESTINATION_UNKNOWN, CURSOR_TAKEN, NOT_SUBSCRIBED
   */
  cursorOf(name: string, client: string): Held {
    const destination = this.#resolve(name)
    const key = keyOf(name, client)
    const held = this.#held.get(key)
    if (held && held.takenBy !== '') throw taken(held)
    if (held && held.destination.store === destination.store) return held
    if (held) this.#release(held) // the destination was restarted meanwhile
    this.#refuseForeign(name, client)
    if (destination.store.subscription(client) === undefined) {
      const message = `client ${client} of destination ${name} should subscribe first`
      throw new SluiceError('NOT_SUBSCRIBED', message)
    }
    return this.open(name, client, '')
  }
  unsubscribe(name: string, client: string): void {
    const { store } = this.#resolve(name)
    this.#refuseForeign(name, client)
    const held = this.get(name, client)
    if (held) this.#release(held)
    store.unsubscribe(client)
  }
  /** Closes every cursor held here. */
  close(): void {
    for (const held of this.#held.values()) this.#release(held)
  }
  #takenOver(key: string, by: string): void {
    const held = this.#held.get(key)
    if (held) held.takenBy = by
  }
  #resolve(name: string): Destination {
    const destination = this.#all.resolve(name)
    if (typeof destination === 'string') throw new SluiceError('DESTINATION_UNKNOWN', destination)
    return destination
  }
  #refuseForeign(name: string, client: string): void {
    const owner = this.#all.owners.get(keyOf(name, client))
    if (owner === undefined || owner === this) return
    const message =
      `client ${client} of destination ${name} is in use by the connection from ${owner.peer}` +
      '; subscribe to take it over'
    throw new SluiceError('CURSOR_TAKEN', message)
  }
  #release(held: Held): void {
    const { owners } = this.#all
    held.cursor.close()
    this.#held.delete(held.key)
    if (owners.get(held.key) === this) owners.delete(held.key)
  }
}

const keyOf = (destination: string, client: string): string => `${destination}\n${client}`

/** What a connection is told whose client id was taken over. */
export function taken(held: Held): SluiceError {
  const message =
    `client ${held.cursor.client} of destination ${held.destination.name} was taken over by the connection` +
    ` from ${held.takenBy}; subscribe to take it back`
  return new SluiceError('CURSOR_TAKEN', message)
}

/**
 * Java parses client ids as 16-bit numbers: "01" is client 1.
 * @throws SluiceError USAGE for anything else
 */
export function clientOf(text: string): string {
  const n = /^[+-]?\d{1,9}$/.test(text) ? Number(text) : NaN
  if (n >= -0x8000 && n <= 0x7fff) return String(n)
  const message = `expected a client id between -32768 and 32767 as text, got "${shorten(text, 32)}"`
  throw new SluiceError('USAGE', message)
}

/** At most so many characters of what a client sent. */
export const shorten = (text: string, most: number): string =>
  text.length > most ? `${text.slice(0, most)}…` : text
