/**
 * A batch as a client holds it, and the memory of how far a client has come: what was delivered before a reconnect or
 * a rollback is recognised when it comes again. Entries are only scanned for their positions on arrival; what they say
 * is decoded when somebody asks. Must not know connections.
 *
 * The order of entries is (file number, offset, order among the entries with the same offset): the entries of a
 * compressed transaction all carry the offset of the event that holds them.
 */
import { crc32 } from 'node:zlib'
import { FieldReader, bytesTag, varintTag } from '../protobuf.ts'
import type { MessagesReader } from '../server/wire.ts'
import { transactionsOf } from './changes.ts'
import type { ChangeReader, ClientChange, ClientPosition, ClientTransaction } from './changes.ts'

const [ENTRY, HEADER, PROPS] = [bytesTag(2), bytesTag(1), bytesTag(12)] // of a reply, an entry, a header
const SNAPSHOT = Buffer.from('\x0a\x08snapshot\x12\x04true')

/** Where the entries of a reply stand in its bytes: start, end, start, end … */
interface Scan {
  readonly bytes: Buffer
  readonly ranges: readonly number[]
  readonly redelivered: number // so many, from the first on
  readonly first: ClientPosition
  readonly last: ClientPosition
  readonly end: Mark // of the last entry
}

/**
 * What one get brought. Ack it when its changes are dealt with; batches are acked in the order they came. After a
 * reconnect or a rollback a batch is stale: acking it does nothing, its changes come again.
 */
export class Batch {
  readonly id: bigint
  /** Whether some of its changes were delivered before; each change says it of itself. */
  readonly redelivered: boolean
  /** Of the first and the last entry. */
  readonly first: ClientPosition
  readonly last: ClientPosition
  readonly #scan: Scan
  readonly #reader: ChangeReader
  readonly #ack: (batch: Batch) => void
  #changes: ClientChange[] | undefined

  constructor(id: bigint, scan: Scan, reader: ChangeReader, ack: (batch: Batch) => void) {
    this.id = id
    this.redelivered = scan.redelivered > 0
    this.first = scan.first
    this.last = scan.last
    this.#scan = scan
    this.#reader = reader
    this.#ack = ack
  }

  /** Number of entries: BEGIN, COMMIT and rows events each count one. */
  get size(): number {
    return this.#scan.ranges.length / 2
  }
  /** The entries as Canal's protobuf messages (com.alibaba.otter.canal.protocol.Entry), views of the reply's memory. */
  get raw(): Buffer[] {
    const { bytes, ranges } = this.#scan
    return Array.from({ length: this.size }, (_, i) =>
      bytes.subarray(ranges[2 * i], ranges[2 * i + 1]),
    )
  }
  /** Everything in order. Decoded at the first access. Throws SluiceError WIRE_MALFORMED. */
  get changes(): readonly ClientChange[] {
    this.#changes ??= this.#read()
    return this.#changes
  }
  /** The same by transaction, without BEGIN and COMMIT. */
  get transactions(): ClientTransaction[] {
    return transactionsOf(this.changes)
  }

  /**
   * Sends the ack; it is durable on the server once a later get was answered. Resolves when it is handed to the socket.
   * @throws SluiceError BATCH_NOT_FIRST when an earlier batch is not acked, CLIENT_CLOSED
   */
  async ack(): Promise<void> {
    this.#ack(this)
  }

  #read(): ClientChange[] {
    const { bytes, ranges, redelivered } = this.#scan
    const changes: ClientChange[] = []
    for (let i = 0; i < ranges.length; i += 2) {
      const change = this.#reader.read(bytes, ranges[i]!, ranges[i + 1]!, i < 2 * redelivered)
      if (change) changes.push(change)
    }
    return changes
  }
}

/** A place in the order of entries. */
export interface Mark {
  readonly file: number
  readonly offset: number
  readonly order: number
}

/** How far a client has come. One per client, over all its connections. */
export class Track {
  readonly #fields = new FieldReader(Buffer.alloc(0))
  // the entry seen last
  #name = Buffer.alloc(0)
  #fileText = ''
  #file = -1
  #offset = -1
  #order = 0
  /** Checksums of the entries at #offset, as far as they may be needed, and where acks ended among them. */
  #sums: (number | undefined)[] = []
  #acked: number[] = []
  /** Up to here everything was delivered before; undefined once that is passed. */
  #mark: Mark | undefined
  #resumed: 'no' | 'after the last ack' | 'after some ack' = 'no'
  #durableFile = -1

  /** From here on the server begins again; `sure`: it has all acks, not only those that arrived. */
  back(sure: boolean): void {
    if (this.#file >= 0 && !this.#mark)
      this.#mark = { file: this.#file, offset: this.#offset, order: this.#order }
    if (this.#resumed !== 'after some ack')
      this.#resumed = sure ? 'after the last ack' : 'after some ack'
  }

  /** What comes may have been left out before, wherever it stands: nothing says any more that it was delivered. */
  forget(): void {
    this.#mark = undefined
  }

  /** A batch that ended there was acked. */
  acked({ file, offset, order }: Mark): void {
    if (file === this.#file && offset === this.#offset) this.#acked.push(order + 1)
  }

  /** An ack that ended in this file (-1: none) is known to be durable: nothing of an earlier file comes again. */
  durable(file: number): void {
    if (file >= 0 && file <= this.#file) this.#durableFile = file
  }

  /**
   * Takes the entries of one reply. Throws SluiceError WIRE_MALFORMED. Rows of a snapshot stand at a place that the stream
   * has passed: they say nothing of it, and nothing says whether they came before, for each time they are read anew.
   */
  scan(reader: MessagesReader): Scan {
    if (!this.#isSnapshot(reader.bytes)) return this.#scan(reader)
    const end = { file: this.#file, offset: this.#offset, order: this.#order }
    return { ...new Track().#scan(reader), end }
  }
  /** Of a batch: those of a snapshot hold nothing else. */
  #isSnapshot(bytes: Buffer): boolean {
    const r = this.#fields
    r.reset(bytes, 0, bytes.length)
    for (const tag of [ENTRY, HEADER]) {
      if (!found(r, tag)) return false
      r.reset(bytes, r.start, r.stop)
    }
    while (found(r, PROPS)) if (SNAPSHOT.equals(bytes.subarray(r.start, r.stop))) return true
    return false
  }
  #scan(reader: MessagesReader): Scan {
    const { bytes } = reader
    const ranges: number[] = []
    let redelivered = 0
    let first: ClientPosition | undefined
    while (reader.next()) {
      this.#entry(bytes, reader.start, reader.end, ranges)
      ranges.push(reader.start, reader.end)
      if (this.#mark && this.#known(this.#mark)) redelivered++
      else this.#mark = undefined
      first ??= { file: this.#fileText, offset: this.#offset }
    }
    this.#sums[this.#order] ??= sumOf(bytes, ranges.at(-2)!, ranges.at(-1)!)
    const last = { file: this.#fileText, offset: this.#offset }
    const end = { file: this.#file, offset: this.#offset, order: this.#order }
    return { bytes, ranges, redelivered, first: first ?? last, last, end }
  }

  /** Whether the entry seen last stands at or before the mark. */
  #known(mark: Mark): boolean {
    return (this.#file - mark.file || this.#offset - mark.offset || this.#order - mark.order) <= 0
  }

  /** `before`: the ranges of the entries before it in its reply. */
  #entry(bytes: Buffer, start: number, end: number, before: readonly number[]): void {
    const [file, offset] = [this.#file, this.#offset]
    const r = this.#fields
    r.reset(bytes, start, end)
    if (found(r, HEADER)) {
      r.reset(bytes, r.start, r.stop)
      this.#header(r)
    }
    if (this.#offset !== offset || this.#file !== file) {
      this.#order = 0
      this.#sums = []
      this.#acked = []
      if (this.#file < this.#durableFile) {
        // the source counts its files anew: another server, or its logs were reset
        this.#durableFile = -1
        this.#mark = undefined
      }
    } else if (this.#resumed === 'no') {
      this.#sums[this.#order] ??= sumOf(bytes, before.at(-2)!, before.at(-1)!)
      this.#order++
    } else {
      this.#order = this.#orderOf(sumOf(bytes, start, end))
      this.#acked = this.#acked.filter((order) => order <= this.#order)
    }
    this.#resumed = 'no'
  }

  /**
   * Where among the entries of this offset the server began again: after an ack, or at the first. Which acks it had is
   * known after a rollback; after a new connection the entry's bytes tell.
   */
  #orderOf(sum: number): number {
    const places = [0, ...this.#acked].reverse()
    if (this.#resumed === 'after the last ack') return places[0]!
    return places.find((order) => this.#sums[order] === sum) ?? this.#sums.length
  }

  /** File and offset, which servers write first. */
  #header(r: FieldReader): void {
    for (let seen = 0; seen < 2 && r.next();) {
      if (r.tag === bytesTag(2)) {
        r.range()
        this.#nameOf(r.bytes, r.start, r.stop)
        seen++
      } else if (r.tag === varintTag(3)) {
        this.#offset = r.int64()
        seen++
      } else r.skip()
    }
  }

  #nameOf(bytes: Buffer, start: number, end: number): void {
    if (this.#name.length === end - start && this.#name.compare(bytes, start, end) === 0) return
    this.#name = Buffer.from(bytes.subarray(start, end))
    this.#fileText = this.#name.toString()
    this.#file = fileNumber(this.#fileText)
  }
}

/** Goes on to the next field with this tag; its bytes are between start and stop. */
function found(r: FieldReader, tag: number): boolean {
  while (r.next()) {
    r.skip()
    if (r.tag === tag) return true
  }
  return false
}

/** "binlog.000123" → 123. */
function fileNumber(file: string): number {
  const n = Number(file.slice(file.lastIndexOf('.') + 1))
  return Number.isSafeInteger(n) ? n : 0
}

const sumOf = (bytes: Buffer, start: number, end: number): number =>
  crc32(bytes.subarray(start, end))
