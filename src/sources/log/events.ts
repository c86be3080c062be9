/**
 * Cuts a log into its events, by pull and synchronously: the payloads of a dump's packets, or plain bytes of a file or
 * of an unpacked payload. An event that lies whole in one piece is handed on where it lies; one torn by pieces is put
 * together in the memory that `room` gives. Guarantees that an event is as long as its header and its packet say, and
 * that memory is taken only for a length that both allow. Looks at no event beyond its header.
 */
import {
  CHECKSUM_BYTES,
  HEADER_BYTES,
  checksumMatches,
  eventName,
  eventSize,
  eventType,
  eventTypes,
} from '../../binlog/reader.ts'
import { crc32 } from '../../crc.ts'
import { SluiceError } from '../../errors.ts'
import type { Slab } from '../../slab.ts'

/** Where bytes come from: `next` moves to the next piece of the chunk at hand, false when that is used up. */
export interface Pieces {
  readonly bytes: Buffer
  readonly start: number
  readonly end: number
  readonly first: boolean // begins a payload
  readonly last: boolean // ends it
  next(): boolean
}

const EMPTY = Buffer.alloc(0)

/** Pieces of a plain stream of events: each chunk is one. */
export class Chunks implements Pieces {
  bytes: Buffer = EMPTY
  readonly start = 0
  end = 0
  readonly first = false
  readonly last = false
  #fresh = false
  push(chunk: Buffer): void {
    this.bytes = chunk
    this.end = chunk.length
    this.#fresh = true
  }
  next(): boolean {
    const fresh = this.#fresh
    this.#fresh = false
    return fresh
  }
}

/** What `EventCutter.next` and `nextOfLarge` say. */
export const MORE = 0 // the chunk is used up
export const EVENT = 1 // bytes[start, end) is an event, checksum included
export const LARGE = 2 // a payload event too large to be collected: take it by `nextOfLarge`
export const FRAGMENT = 3 // bytes[start, end) is the next fragment of the large event
export const DONE = 4 // the large event is complete

/** MySQL's own limit of an event is 1 GiB (MAX_MAX_ALLOWED_PACKET) and what its headers add. */
const EVENT_MAX = 1024 * 1024 * 1024 + 1024 * 1024
/** TRANSACTION_PAYLOAD events beyond this are streamed. */
const COLLECTED_MAX = 256 * 1024

export interface CutterOptions {
  readonly framed: boolean // pieces tell where payloads begin and end
  /** A slab with room for `size` bytes from its `at` on. */
  readonly room: (size: number) => Slab
  /** Names the place in the log, for errors. */
  readonly where: () => string
}

export class EventCutter {
  bytes: Buffer = EMPTY
  start = 0
  end = 0
  /** The header of the event that LARGE announced. */
  readonly head = Buffer.alloc(HEADER_BYTES)

  readonly #pieces: Pieces
  readonly #framed: boolean
  readonly #room: (size: number) => Slab
  readonly #where: () => string
  #chunk: Buffer = EMPTY
  #at = 0
  #limit = 0
  #last = false
  #gathered = 0 // bytes of a torn event so far
  #wanted = 0 // its size; 0 while its header is not complete

  constructor(pieces: Pieces, options: CutterOptions) {
    this.#pieces = pieces
    this.#framed = options.framed
    this.#room = options.room
    this.#where = options.where
  }

  /** Whether the stream stands between two events. */
  get between(): boolean {
    return this.#gathered === 0 && this.#at === this.#limit
  }

  /** Moves to the next event: EVENT, LARGE or MORE. Throws PACKET_MALFORMED, EVENT_MALFORMED where pieces are no packets. */
  next(): number {
    if (this.#gathered > 0) return this.#gather()
    while (this.#at === this.#limit) if (!this.#nextPiece(true)) return MORE
    const left = this.#limit - this.#at
    if (left >= HEADER_BYTES) {
      const size = eventSize(this.#chunk, this.#at)
      this.#check(size, left)
      if (size <= left && (size <= COLLECTED_MAX || !isPayload(this.#chunk, this.#at))) {
        this.bytes = this.#chunk
        this.start = this.#at
        this.#at += size
        this.end = this.#at
        return EVENT
      }
    } else if (this.#framed && this.#last) throw this.#malformed(`a whole event, got ${left} bytes`)
    return this.#gather()
  }

  /** False when the chunk is used up. `begin`: an event begins with the piece. */
  #nextPiece(begin: boolean): boolean {
    const pieces = this.#pieces
    if (!pieces.next()) return false
    const { start, end } = pieces
    this.#chunk = pieces.bytes
    this.#at = start
    this.#limit = end
    this.#last = pieces.last
    if (!this.#framed) return true
    if (pieces.first !== begin) {
      // A payload of a multiple of 0xffffff bytes is ended by an empty packet.
      if (begin && start === end && pieces.last) return true
      throw this.#malformed(begin ? 'the end of a packet after the event' : 'the rest of an event')
    }
    if (start === end && pieces.last) throw this.#malformed('an event in the packet, got none')
    return true
  }

  /** `left`: bytes of the event that the piece at hand has. */
  #check(size: number, left: number): void {
    if (size < HEADER_BYTES || size > EVENT_MAX) {
      throw this.#malformed(`an event of ${HEADER_BYTES} to ${EVENT_MAX} bytes, got ${size}`)
    }
    if (this.#framed && (size < left || (size > left && this.#last))) {
      throw this.#malformed(`an event of ${size} bytes, as its header says, its packet has ${left}`)
    }
  }

  /** No checksum has been looked at: what came over a connection may have been damaged there, a file is as it is. */
  #malformed(expected: string): SluiceError {
    const code = this.#framed ? 'PACKET_MALFORMED' : 'EVENT_MALFORMED'
    return new SluiceError(code, `${this.#where()}: expected ${expected}`)
  }

  /** Puts a torn event together: first its header in `head`, then all of it where `room` says. */
  #gather(): number {
    for (;;) {
      if (this.#wanted === 0) {
        const taken = Math.min(HEADER_BYTES - this.#gathered, this.#limit - this.#at)
        this.#chunk.copy(this.head, this.#gathered, this.#at, this.#at + taken)
        this.#at += taken
        this.#gathered += taken
        if (this.#gathered === HEADER_BYTES) {
          const size = eventSize(this.head, 0)
          this.#check(size, this.#limit - this.#at + HEADER_BYTES)
          this.#wanted = size
          if (size > COLLECTED_MAX && isPayload(this.head, 0)) return LARGE
          const slab = this.#room(size)
          this.bytes = slab.bytes
          this.start = slab.at
          this.end = slab.at + size
          this.head.copy(this.bytes, this.start)
        }
      }
      if (this.#wanted > 0) {
        const taken = this.#take()
        this.#chunk.copy(this.bytes, this.start + this.#gathered, this.#at - taken, this.#at)
        this.#gathered += taken
        if (this.#gathered === this.#wanted) {
          this.#finish()
          return EVENT
        }
      }
      if (this.#at === this.#limit && !this.#nextPiece(false)) return MORE
    }
  }

  /** Passes over what the piece has of the wanted event and returns how much that is. */
  #take(): number {
    const missing = this.#wanted - this.#gathered
    const left = this.#limit - this.#at
    if (this.#framed && (missing < left || (missing > left && this.#last))) {
      throw this.#malformed(`${missing} more bytes of an event, its packet has ${left}`)
    }
    const taken = missing < left ? missing : left
    this.#at += taken
    return taken
  }
  #finish(): void {
    this.#gathered = 0
    this.#wanted = 0
  }

  /** After LARGE: FRAGMENT, MORE or DONE. The fragments are what follows `head`, checksum included. */
  nextOfLarge(): number {
    if (this.#gathered === this.#wanted) {
      this.#finish()
      return DONE
    }
    while (this.#at === this.#limit) if (!this.#nextPiece(false)) return MORE
    const taken = this.#take()
    this.#gathered += taken
    this.bytes = this.#chunk
    this.start = this.#at - taken
    this.end = this.#at
    return FRAGMENT
  }
}

const isPayload = (bytes: Buffer, start: number): boolean =>
  eventType(bytes, start) === eventTypes.TRANSACTION_PAYLOAD

// ── checksums ────────────────────────────────────────────────────────────────

/** Whether the CRC32 in the last four bytes of the event bytes[start, end) is right. */
export function isIntact(bytes: Buffer, start: number, end: number): boolean {
  const body = end - CHECKSUM_BYTES
  if (body - start < HEADER_BYTES) return false
  if (eventType(bytes, start) === eventTypes.FORMAT_DESCRIPTION) {
    return checksumMatches(bytes, start, end)
  }
  const logged =
    bytes[body]! | (bytes[body + 1]! << 8) | (bytes[body + 2]! << 16) | (bytes[body + 3]! << 24)
  return crc32(bytes, start, body) === logged
}

/** The error for an event whose checksum is wrong. */
export function checksumMismatch(type: number, where: string): SluiceError {
  return new SluiceError(
    'CHECKSUM_MISMATCH',
    `${where}: expected the ${eventName(type)} event to match its CRC32: it was damaged on its way or on the source's disk`,
  )
}

/** The error for an incident event that stands at a place in the log. */
export function incidentAt(
  file: string,
  { offset, size }: { readonly offset: number; readonly size: number },
  incident: string,
): SluiceError {
  return new SluiceError(
    'INCIDENT',
    `${file}:${offset}: the source reports incident ${incident}: changes may be missing from its binlog there. ` +
      `Compare the data; then go on behind it: sluice position <destination> set ${file}:${offset + size}`,
  )
}
