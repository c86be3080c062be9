/**
 * A log, from a dump or from files, as transactions: its control events, checksums, the place of every event in it,
 * compressed transactions. Offsets are counted from event sizes, for the log's own are 32 bits wide; a place that the
 * count cannot explain is an error. One await per chunk and one per transaction, none per event.
 */
import { readHeartbeat, readIncident, readRotate } from '../binlog/event.ts'
import {
  FLAG_ARTIFICIAL,
  HEADER_BYTES,
  eventName,
  eventNextPosition,
  eventSize,
  eventType,
  eventTypes,
  readFormat,
  type Format,
} from '../binlog/reader.ts'
import type { Position, Transaction } from '../change.ts'
import { SluiceError } from '../errors.ts'
import { TransactionBuilder, type BuilderOptions } from './log/builder.ts'
import {
  Chunks,
  EVENT,
  EventCutter,
  LARGE,
  MORE,
  checksumMismatch,
  incidentAt,
  isIntact,
  type Pieces,
} from './log/events.ts'
import { unpack, unpackLarge, type Unpacked } from './log/payload.ts'
import type { Event } from './log/pending.ts'

export interface LogInput {
  readonly pieces: Pieces
  readonly framed: boolean // pieces tell where packets begin and end
  /** Brings the next chunk; false at the end, which is then quiet. `between`: the last one ended with an event. */
  more(between: boolean): Promise<boolean>
  close(): void
}
export interface OpenLog {
  readonly input: LogInput
  readonly options: LogOptions
}
export interface LogOptions extends Omit<BuilderOptions, 'gtids'> {
  readonly from: Position
  /** The log leaves out what we have (a GTID dump): between transactions places may jump. */
  readonly jumps: boolean
  /** The log begins before `from` in its file: events before it are passed over. */
  readonly early: boolean
  /** Whether events before the first format description have a checksum. */
  readonly checksum: boolean
  /** Told of every format description, artificial ones too. */
  readonly onFormat?: ((format: Format) => void) | undefined
}

const FOUR_GIB = 2 ** 32

/** What LogReader.advance says. */
const READY = 10 // `builder.ready` is a transaction
const WAIT = 11 // `waiting` is a promise
const UNPACK = 12 // a large payload is to be unpacked

/**
 * Transactions after `options.from` of the log that `open` opens; it is closed at the end. Ends quietly when `signal`
 * aborts. Throws EVENT_MALFORMED, EVENT_UNKNOWN, CHECKSUM_MISMATCH, INCIDENT, BINLOG_ENCRYPTED, POSITION_LOST, and what
 * `open`, `input.more` and the catalog throw; STREAM_ENDED when the log ends inside a transaction.
 */
export async function* readTransactions(
  open: () => Promise<OpenLog>,
  signal: AbortSignal,
): AsyncGenerator<Transaction, void, undefined> {
  let reader: LogReader | undefined
  let input: LogInput | undefined
  try {
    const log = await open()
    input = log.input
    reader = new LogReader(input, log.options)
    for (;;) {
      const step = reader.advance()
      if (step === READY) yield reader.takeReady()
      else if (step === WAIT) await reader.waiting
      else if (step === UNPACK) await reader.unpackLarge()
      else if (reader.unpacking) await reader.moreUnpacked()
      else if (!(await input.more(reader.between))) break
    }
    if (signal.aborted) return
    reader.end()
    if (reader.ready) yield reader.takeReady()
  } catch (error) {
    if (!signal.aborted) throw reader?.doubted(error) ?? error
  } finally {
    reader?.close()
    input?.close()
  }
}

class LogReader {
  waiting: void | Promise<void> = undefined
  readonly #input: LogInput
  readonly #framed: boolean
  readonly #options: LogOptions
  readonly #builder: TransactionBuilder
  readonly #cutter: EventCutter
  readonly #place = { file: '', offset: 4 }
  readonly #event: Event
  #format: Format
  #early: boolean
  #announced = '' // the file in which the log goes on, as the end of the last one says
  // Of a payload being unpacked:
  readonly #chunks = new Chunks()
  #inner: EventCutter | undefined
  #unpacked: Unpacked | undefined // undefined for a small one
  #held: Transaction | undefined // its last part, until the payload has been verified
  #unverified = false // its checksum is still to come
  #payloadOffset = 0
  #payloadLength = 0

  constructor(input: LogInput, options: LogOptions) {
    this.#input = input
    this.#framed = input.framed
    this.#options = options
    this.#builder = new TransactionBuilder({ ...options, gtids: options.from.gtids !== undefined })
    this.#builder.resume(options.from)
    this.#cutter = this.#newCutter(input.pieces, input.framed)
    this.#early = options.early
    this.#format = {
      serverVersion: '',
      created: 0,
      postHeader: new Uint8Array(0),
      checksum: options.checksum ? 'crc32' : 'none',
      checksumBytes: options.checksum ? 4 : 0,
    }
    const bytes = this.#cutter.bytes
    this.#event = { bytes, start: 0, end: 0, type: 0, offset: 0, length: 0, ordinal: 0 }
  }
  #newCutter(pieces: Pieces, framed: boolean): EventCutter {
    const room = (size: number) => this.#builder.pending.room(size)
    return new EventCutter(pieces, { framed, room, where: () => this.#where() })
  }
  #where(): string {
    return `${this.#place.file}:${this.#place.offset}`
  }

  get ready(): boolean {
    return this.#builder.ready !== undefined
  }
  takeReady(): Transaction {
    const tx = this.#builder.ready!
    this.#builder.ready = undefined
    return tx
  }
  get between(): boolean {
    return this.#cutter.between
  }
  get unpacking(): boolean {
    return this.#inner !== undefined
  }

  /** Reads events until one of READY, WAIT, UNPACK, MORE has to be said. */
  advance(): number {
    if (this.ready) return READY
    for (;;) {
      const cutter = this.#inner ?? this.#cutter
      const step = cutter.next()
      if (step === MORE) {
        if (cutter === this.#cutter || this.#unpacked) return MORE
        this.#endPayload()
        if (this.ready) return READY
        continue
      }
      if (step === LARGE && cutter === this.#cutter) return UNPACK
      const waiting = cutter === this.#cutter ? this.#takeOuter() : this.#takeInner(step)
      if (waiting) {
        this.waiting = waiting
        return WAIT
      }
      if (this.ready && !this.#hold()) return READY
    }
  }

  // ── places ─────────────────────────────────────────────────────────────────

  /**
   * Where the event of `size` bytes begins in the file, -1 when it is in none. The place moves past it.
   * Throws EVENT_MALFORMED when its logged position does not follow from what came before.
   */
  #locate(bytes: Buffer, start: number, size: number): number {
    const logged = eventNextPosition(bytes, start)
    if ((bytes[start + 17]! & FLAG_ARTIFICIAL) !== 0) return -1
    const place = this.#place
    let end = place.offset + size
    if (end >>> 0 !== logged) {
      // MariaDB from 11.4 on does not know the places of events inside a transaction when it writes them.
      if (logged === 0 && !this.#builder.open) return -1
      if (logged !== 0) end = this.#jump(end, logged, eventType(bytes, start))
    }
    if (place.file === '') {
      throw this.#malformed(`a ROTATE event first, got ${eventName(eventType(bytes, start))}`)
    }
    place.offset = end
    return end - size
  }
  #jump(end: number, logged: number, type: number): number {
    const jumped = unwrap(logged, end)
    if (this.#options.jumps && !this.#builder.open) return jumped
    throw this.#malformed(
      `the ${eventName(type)} event to end at ${end >>> 0} (mod 2^32), it says ${logged}: events are missing`,
    )
  }
  #malformed(expected: string): SluiceError {
    return new SluiceError('EVENT_MALFORMED', `${this.#where()}: expected ${expected}`)
  }

  /** Whether the event at `offset` lies before the place we start from. */
  #isEarly(offset: number): boolean {
    if (!this.#early || offset < 0) return false
    const { from } = this.#options
    if (offset < from.offset) return true
    this.#early = false
    if (offset === from.offset) return false
    throw this.#lost(`the nearest one begins at ${offset}`)
  }
  /** The log or its file ends here: what we start from must not lie beyond. */
  #checkPast(): void {
    const { offset } = this.#place
    if (this.#early && offset < this.#options.from.offset)
      throw this.#lost(`the log ends at ${offset}`)
    this.#early = false
  }
  #lost(got: string): SluiceError {
    const { file, offset } = this.#options.from
    return new SluiceError(
      'POSITION_LOST',
      `${file}:${offset}: expected an event to begin there, ${got}`,
    )
  }

  // ── events of the log ──────────────────────────────────────────────────────

  #takeOuter(): void | Promise<void> {
    const { bytes, start, end } = this.#cutter
    const type = bytes[start + 4]!
    if (type === eventTypes.FORMAT_DESCRIPTION) return this.#takeFormat()
    const { checksumBytes } = this.#format
    if (checksumBytes > 0 && !isIntact(bytes, start, end)) {
      throw checksumMismatch(type, this.#where())
    }
    const body = end - checksumBytes
    if (body - start < HEADER_BYTES) throw this.#malformed('an event to hold its checksum')
    if (type === eventTypes.HEARTBEAT || type === eventTypes.HEARTBEAT_V2) {
      return this.#takeHeartbeat(bytes, start, body)
    }
    const offset = this.#locate(bytes, start, end - start)
    if (this.#early && type !== eventTypes.ROTATE && this.#isEarly(offset)) return
    switch (type) {
      case eventTypes.ROTATE: {
        const { file, position } = readRotate(bytes, start, body)
        return this.#moveTo(file, position, offset >= 0)
      }
      case eventTypes.STOP:
      case eventTypes.PREVIOUS_GTIDS:
      case eventTypes.GTID_LIST:
      case eventTypes.BINLOG_CHECKPOINT:
        return
      case eventTypes.INCIDENT: {
        const { incident, message } = readIncident(bytes, start, body)
        const { file, offset: past } = this.#place
        const at = offset < 0 ? past : offset
        throw incidentAt(file, { offset: at, size: past - at }, `${incident} (${message})`)
      }
      case eventTypes.START_ENCRYPTION:
        if (this.#framed) return // a server sends it, and what follows decrypted
        // MySQL's own encryption is known by the file's first bytes
        throw new SluiceError(
          'BINLOG_ENCRYPTED',
          `${this.#where()}: expected readable events, the binlog is encrypted from here on`,
        )
      case eventTypes.TRANSACTION_PAYLOAD:
        return this.#takePayload(offset)
      default:
    }
    const event = this.#event
    event.bytes = bytes
    event.start = start
    event.end = body
    event.type = type
    event.offset = offset
    event.length = end - start
    return this.#builder.take(event, this.#format, this.#place)
  }

  #takeFormat(): void {
    const { bytes, start, end } = this.#cutter
    const format = this.#readFormat(bytes, start, end)
    if (format.checksumBytes > 0 && !isIntact(bytes, start, end)) {
      throw checksumMismatch(eventTypes.FORMAT_DESCRIPTION, this.#where())
    }
    // One that is in the file begins it: nothing of an earlier transaction can follow.
    if (this.#locate(bytes, start, end - start) >= 0) this.#builder.abandon(this.#place)
    this.#format = format
    this.#builder.tables.clear()
    this.#options.onFormat?.(format)
  }

  /** Damage can hit what says that there is a checksum: servers since 5.6 always write one here. */
  #readFormat(bytes: Buffer, start: number, end: number): Format {
    try {
      return readFormat(bytes, start, end)
    } catch (error) {
      if (isIntact(bytes, start, end)) throw error
      throw checksumMismatch(eventTypes.FORMAT_DESCRIPTION, this.#where())
    }
  }

  #takeHeartbeat(bytes: Buffer, start: number, end: number): void {
    const place = this.#place
    if (this.#builder.open) return
    this.#checkPast()
    if (this.#options.jumps) {
      const heartbeat = readHeartbeat(bytes, start, end)
      const position =
        eventType(bytes, start) === eventTypes.HEARTBEAT_V2
          ? heartbeat.position
          : unwrap(heartbeat.position, place.offset)
      if (heartbeat.file === place.file && position > place.offset) place.offset = position
    }
    this.#builder.idle(place)
  }

  /** The log goes on in a file: `logged` says that the one before ends with it, else the stream says so. */
  #moveTo(file: string, offset: number, logged: boolean): void {
    const place = this.#place
    if (!logged && this.#announced !== '' && this.#announced !== file) {
      throw this.#malformed(`the log to go on in ${this.#announced}, it does in ${file}`)
    }
    this.#announced = logged ? file : ''
    if (place.file !== file) {
      this.#builder.abandon(place)
      if (place.file !== '') this.#checkPast()
    }
    place.file = file
    place.offset = offset
    this.#builder.tables.clear()
  }

  // ── payloads ───────────────────────────────────────────────────────────────

  #takePayload(offset: number): void {
    const { bytes, start, end } = this.#cutter
    const unpacked = unpack(bytes, start, end - this.#format.checksumBytes, this.#where())
    this.#beginPayload(offset, end - start)
    if ('next' in unpacked) this.#unpacked = unpacked
    else this.#chunks.push(unpacked)
  }
  #beginPayload(offset: number, length: number): void {
    this.#payloadOffset = offset
    this.#payloadLength = length
    this.#inner = this.#newCutter(this.#chunks, false)
  }

  /** After UNPACK. */
  async unpackLarge(): Promise<void> {
    const cutter = this.#cutter
    this.#unverified = this.#format.checksumBytes > 0
    const size = eventSize(cutter.head, 0)
    const offset = this.#locate(cutter.head, 0, size)
    const early = this.#isEarly(offset)
    const unpacked = await unpackLarge({
      cutter,
      more: () => this.#input.more(false),
      checksumBytes: this.#format.checksumBytes,
      where: this.#where(),
    })
    this.#unpacked = unpacked
    if (early) {
      while (await unpacked.next());
      this.#unpacked = undefined
      this.#unverified = false
    } else this.#beginPayload(offset, size)
  }
  /** What is wrong in a payload before its checksum has come may be damage on the way: worth another try. */
  doubted(error: unknown): unknown {
    if (!this.#unverified || !(error instanceof SluiceError) || error.retryable) return error
    const text = `${error.message} (in a TRANSACTION_PAYLOAD whose CRC32 had not come yet: it was damaged on its way or on the source's disk)`
    return new SluiceError('CHECKSUM_MISMATCH', text, { cause: error })
  }
  /** After MORE while unpacking. */
  async moreUnpacked(): Promise<void> {
    const chunk = await this.#unpacked!.next()
    if (chunk) this.#chunks.push(chunk)
    else this.#endPayload()
  }
  #endPayload(): void {
    if (!this.#inner!.between) throw this.#malformed('whole events in a TRANSACTION_PAYLOAD')
    this.#inner = undefined
    this.#unpacked = undefined
    this.#unverified = false
    this.#builder.ready = this.#held
    this.#held = undefined
  }

  #takeInner(step: number): void | Promise<void> {
    const { bytes, start, end } = this.#inner!
    const type = bytes[start + 4]!
    if (step !== EVENT || type === eventTypes.TRANSACTION_PAYLOAD) {
      throw this.#malformed('no TRANSACTION_PAYLOAD inside another')
    }
    if (this.#held) throw this.#malformed('one transaction in a TRANSACTION_PAYLOAD')
    const event = this.#event
    event.bytes = bytes
    event.start = start
    event.end = end
    event.type = type
    event.offset = this.#payloadOffset
    event.length = this.#payloadLength
    return this.#builder.take(event, this.#format, this.#place)
  }
  /** Holds back what ends a transaction until its payload has been verified. */
  #hold(): boolean {
    if (!this.#inner || this.#builder.ready!.state === 'open') return false
    this.#held = this.takeReady()
    return true
  }

  // ── the end ────────────────────────────────────────────────────────────────

  /** The log has no more bytes: quiet between transactions, an error inside one. */
  end(): void {
    if (this.#builder.open) {
      throw new SluiceError('STREAM_ENDED', `${this.#where()}: the log ends inside a transaction`)
    }
    this.#checkPast()
    this.#builder.idle(this.#place)
  }
  close(): void {
    this.#unpacked?.close()
    this.#held?.slab?.release()
    this.#builder.ready?.slab?.release()
    this.#builder.close()
  }
}

/** The smallest number from `least` on that is `low` modulo 2^32. */
function unwrap(low: number, least: number): number {
  const candidate = least - (least >>> 0) + low
  return candidate < least ? candidate + FOUR_GIB : candidate
}
