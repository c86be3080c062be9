/**
 * Cuts the bytes of a dump stream into the payloads of MySQL packets, by pull: `push` a chunk, ask `next` until it
 * says that the chunk is used up. Owns packet headers, joined packets and sequence ids; hands on ranges of the chunk
 * itself, so nothing is copied or allocated here. Knows nothing of what the payloads mean beyond their first byte.
 */
import { SluiceError, assert } from '../errors.ts'

const FULL = 0xffffff
const EMPTY = Buffer.alloc(0)
const ERR = 0xff
const EOF = 0xfe
const OK = 0x00
const SEMI_SYNC = 0xef
const ERROR_MAX = 64 * 1024

/** Makes the error for an ERR packet: its number and its text. */
export type Refusal = (number: number, text: string) => SluiceError

/**
 * A packet (sql-common/net_serv.cc), several joined where the length is 0xffffff:
 *
 *   3  length of what follows the header, little-endian
 *   1  sequence id: 1 for the first packet after our command, then counting up, modulo 256
 *   n  payload; the first byte of a joined payload is 0x00 before an event, 0xff ERR, 0xfe EOF
 *
 * To a semi-synchronous replica (plugin/semisync/semisync.h) a server with that plugin sends two more bytes before an
 * event: 0xef, and 1 where a commit waits for its acknowledgement, else 0. One without it does not.
 */
export class PacketReader {
  /** The chunk, and in it the piece of a payload that the last `next` found; the status byte is left out. */
  bytes: Buffer = EMPTY
  start = 0
  end = 0
  /** The piece begins a payload. */
  first = false
  /**
   * The piece ends its payload. A payload of exactly n · 0xffffff bytes is ended by an empty piece of its own.
   */
  last = false

  readonly #refusal: Refusal
  #at = 0
  #limit = 0
  #left = 0 // bytes of the current packet that have not come yet
  #joined = false // the current packet is full: its payload goes on in the next one
  #opening = true // the next byte of a payload is its status byte
  #begun = false // it has been read, and no piece handed on since
  #marks: 'none' | 'perhaps' | 'there' = 'none' // whether two bytes stand before an event
  #mark = 0 // how many of them are still to come
  #header = 0 // header bytes of a packet that a chunk's end tore
  #headerBytes = 0
  #sequence = 1
  #error: Buffer | undefined // an ERR payload being collected, its status byte left out
  #errorBytes = 0

  constructor(refusal: Refusal) {
    this.#refusal = refusal
  }

  /** Gives the next bytes of the stream; those given before must be used up, and may be overwritten from now on. */
  push(chunk: Buffer): void {
    this.bytes = chunk
    this.#at = 0
    this.#limit = chunk.length
  }

  /**
   * Moves to the next piece of a payload; false when the chunk is used up.
   * Throws PACKET_MALFORMED, STREAM_ENDED for an EOF packet, and what `refusal` makes of an ERR packet.
   */
  next(): boolean {
    for (;;) {
      if (this.#left === 0 && !this.#readHeader()) return false
      if (this.#opening && this.#left > 0) {
        if (this.#at === this.#limit) return false
        this.#readStatus(this.bytes[this.#at++]!)
        this.#left--
      }
      if (this.#mark > 0 && !this.#readMark()) return false
      const available = this.#limit - this.#at
      if (available === 0 && this.#left > 0) return false
      const taken = this.#left < available ? this.#left : available
      this.first = this.#begun
      this.#begun = false
      this.start = this.#at
      this.#at += taken
      this.end = this.#at
      this.#left -= taken
      this.last = this.#left === 0 && !this.#joined
      if (this.last) this.#opening = true
      if (this.#error === undefined) return true
      this.#collectError()
    }
  }

  /** Whether the server treats us as a semi-synchronous replica, once its first packet has come. */
  get marked(): boolean {
    return this.#marks === 'there'
  }
  /** Expects the answer to a new command, on a chunk that is used up; `marks`: we asked to be a semi-synchronous replica. */
  restart(marks: boolean): void {
    this.#marks = marks ? 'perhaps' : 'none'
    assert(
      this.#at === this.#limit && this.#opening,
      'a packet stream was restarted inside an answer',
    )
    this.#sequence = 1
  }

  /** True once a packet's header is complete. */
  #readHeader(): boolean {
    const { bytes } = this
    let header: number
    if (this.#headerBytes === 0 && this.#limit - this.#at >= 4) {
      const at = this.#at
      header = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)
      this.#at = at + 4
    } else {
      while (this.#headerBytes < 4) {
        if (this.#at === this.#limit) return false
        this.#header |= bytes[this.#at++]! << (8 * this.#headerBytes++)
      }
      header = this.#header
      this.#header = 0
      this.#headerBytes = 0
    }
    const sequence = header >>> 24
    if (sequence !== this.#sequence) {
      throw new SluiceError(
        'PACKET_MALFORMED',
        `dump stream: expected a packet with sequence id ${this.#sequence}, got ${sequence}`,
      )
    }
    this.#sequence = (sequence + 1) & 0xff
    this.#left = header & FULL
    this.#joined = this.#left === FULL
    if (this.#left === 0 && this.#opening) {
      throw new SluiceError(
        'PACKET_MALFORMED',
        'dump stream: expected a payload, got an empty packet',
      )
    }
    return true
  }

  /** False when the chunk is used up. The first event of a dump is a ROTATE without a time, so it begins with 0. */
  #readMark(): boolean {
    while (this.#mark > 0) {
      if (this.#at === this.#limit) return false
      const byte = this.bytes[this.#at]!
      if (this.#mark === 2 && byte !== SEMI_SYNC) {
        if (this.#marks === 'there') {
          throw new SluiceError(
            'PACKET_MALFORMED',
            `dump stream: expected the mark of semi-synchronous replication 0xef, got 0x${byte.toString(16)}`,
          )
        }
        this.#marks = 'none'
        this.#mark = 0
        return true
      }
      this.#marks = 'there'
      this.#at++
      this.#left--
      this.#mark--
    }
    return true
  }
  #readStatus(status: number): void {
    this.#opening = false
    this.#begun = true
    if (status === OK) {
      if (this.#marks !== 'none') this.#mark = 2
      return
    }
    if (status === ERR && !this.#joined && this.#left >= 3 && this.#left < ERROR_MAX) {
      this.#error = Buffer.alloc(this.#left - 1)
      this.#errorBytes = 0
    } else if (status === EOF && this.#left < 9) {
      throw new SluiceError('STREAM_ENDED', 'dump stream: MySQL ended the dump (EOF packet)')
    } else {
      throw new SluiceError(
        'PACKET_MALFORMED',
        `dump stream: expected a payload that begins with 0x00, 0xff or 0xfe, got 0x${status.toString(16)}`,
      )
    }
  }

  /**
   * ERR payload after its status byte: 2 number, then "#" and 5 bytes SQL state (where the protocol has them), text.
   * Torn by chunks it is collected; complete it is thrown.
   */
  #collectError(): void {
    const error = this.#error!
    this.#errorBytes += this.bytes.copy(error, this.#errorBytes, this.start, this.end)
    if (!this.last) return
    const text = error.toString('utf8', error[2] === 0x23 ? 8 : 2)
    throw this.#refusal(error.readUInt16LE(0), text)
  }
}
