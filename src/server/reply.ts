/**
 * A MESSAGES reply on its way out: entries encoded into pooled chunks, the packet's head put in front at the end, and
 * what waits in sockets counted. Guarantees that a huge batch does not keep the event loop for more than a few ms at a
 * time, that chunks return to the pool when the socket has taken them, and that a huge value is nowhere whole: it is written
 * from the batch's own memory, a piece whenever the socket has taken the one before. Must not know requests or cursors.
 *
 *   raw form:  int32 length | 18 07 | 2A length ( 08 batch id ( 12 length Entry )* )      no version, as Canal's default
 */
import type { Socket } from 'node:net'
import { setImmediate } from 'node:timers/promises'
import type { Change } from '../change.ts'
import { SluiceError } from '../errors.ts'
import { Out } from '../out.ts'
import { giveBack } from '../slab.ts'
import type { Batch } from '../store/cursor.ts'
import type { EntryEncoder } from './entry.ts'
import { putBigint } from '../protobuf.ts'
import { letGo, sizeOf, type Span } from './rows/large.ts'
import { packetTypes } from './wire.ts'

export const CHUNK_BYTES = 1024 * 1024
const CHUNK_FULL = CHUNK_BYTES - CHUNK_BYTES / 4
/** A last piece under this is copied, so that small replies to slow clients do not hold whole chunks. */
const SMALL_BYTES = 64 * 1024
const HEAD_ROOM = 32
/** A frame's length is a signed 32-bit number. */
const REPLY_BYTES_MAX = 0x7fffffff - HEAD_ROOM
const SLICE_BYTES = 64 * 1024
/** So much of a huge value is written at a time; as UTF-8 it fits into a chunk. */
const SPAN_SLICE_BYTES = CHUNK_BYTES / 2
/** How long one connection may keep the event loop. */
export const SLICE_MS = 4

/** Chunks for all connections of a server. */
export class ChunkPool {
  /** Encoded bytes that no socket has taken yet. */
  bytesWaiting = 0
  readonly #spare: Buffer[] = []
  readonly #spareMax: number
  constructor(spareMax = 8) {
    this.#spareMax = spareMax
  }
  take(): Buffer {
    return this.#spare.pop() ?? Buffer.allocUnsafeSlow(CHUNK_BYTES)
  }
  give(chunk: Buffer): void {
    if (chunk.length === CHUNK_BYTES && this.#spare.length < this.#spareMax) this.#spare.push(chunk)
  }
}

const NOTHING = Buffer.alloc(0)

/** One connection's replies, one at a time: `begin`, `add` until done, then `send`, or `drop`. */
export class Reply {
  entries = 0
  readonly #pool: ChunkPool
  readonly #out = new Out(0)
  #chunk: Buffer | undefined
  #pieces: (Buffer | Span)[] = []
  #chunks: Buffer[] = []
  #spans: Span[] = [] // to be written between what is in the chunk at hand
  #spanBytes = 0 // of the whole reply
  #outgrown: Buffer[] = [] // that took the place of chunks that were too small
  #sealed = 0
  constructor(pool: ChunkPool) {
    this.#pool = pool
  }
  begin(): void {
    this.entries = 0
    this.#open()
    this.#out.at = HEAD_ROOM
  }
  get bytes(): number {
    return this.#sealed + this.#out.at + this.#spanBytes
  }
  /** It has values that are in the batch only, which must not be released before `send` has sent it. */
  get borrows(): boolean {
    return this.#spanBytes > 0
  }
  /** @throws SluiceError REPLY_TOO_LARGE, and ROWS_MALFORMED from the change's reader */
  add(encoder: EntryEncoder, change: Change): void {
    const before = this.#spans.length
    encoder.encode(change, this.#out, this.#spans)
    if (this.#spans.length > before) this.#spanBytes += sizeOf(this.#spans.slice(before))
    this.entries++
    if (this.bytes > REPLY_BYTES_MAX) {
      const { offset } = change.event
      throw new SluiceError(
        'REPLY_TOO_LARGE',
        `expected at most ${REPLY_BYTES_MAX} bytes of entries in a reply, got ${this.bytes} with the event at offset ${offset}`,
      )
    }
    if (this.#out.at > CHUNK_FULL) {
      this.#seal()
      this.#open()
    }
  }
  /**
   * Hands the reply to the socket in one vectored write; `taken` is called when the socket has it all or is gone. One that
   * borrows is written piece by piece, with `taken` after each, and `sent` resolves when nothing of the batch is needed any more.
   */
  send(
    batchId: bigint,
    socket: Socket,
    taken: () => void,
  ): { readonly frame: number; readonly sent: Promise<void> | undefined } {
    const id = new Out(16)
    id.u8(0x08)
    putBigint(id, batchId)
    const body = this.bytes - HEAD_ROOM + id.at
    const head = new Out(HEAD_ROOM)
    head.at = 4
    head.u8(0x18)
    head.u8(packetTypes.MESSAGES)
    head.u8(0x2a)
    head.varint(body)
    head.bytes(id.buf, 0, id.at)
    const frame = head.at + body - id.at
    head.buf.writeInt32BE(frame - 4, 0)
    this.#seal()
    const first = this.#pieces[0] as Buffer // the head's room is in it
    head.buf.copy(first, HEAD_ROOM - head.at, 0, head.at)
    this.#pieces[0] = first.subarray(HEAD_ROOM - head.at)
    const sent = this.borrows ? this.#stream(frame, socket, taken) : undefined
    if (!sent) this.#write(frame, socket, taken)
    return { frame, sent }
  }
  /** Gives up what was encoded. */
  drop(): void {
    if (this.#chunk) this.#pool.give(this.#chunk)
    for (const chunk of this.#chunks) this.#pool.give(chunk)
    if (this.#out.buf.length > CHUNK_BYTES) giveBack(this.#out.buf)
    for (const buf of this.#outgrown) giveBack(buf)
    for (const span of [...this.#pieces, ...this.#spans]) if (!Buffer.isBuffer(span)) letGo(span)
    this.#clear()
  }
  #write(frame: number, socket: Socket, taken: () => void): void {
    const pool = this.#pool
    const chunks = this.#chunks
    const outgrown = this.#outgrown
    const pieces = this.#pieces as Buffer[] // it borrows nothing
    this.#clear()
    pool.bytesWaiting += frame
    const done = (error?: Error | null): void => {
      pool.bytesWaiting -= frame
      for (const chunk of chunks) pool.give(chunk)
      if (!error) for (const buf of outgrown) giveBack(buf)
      taken()
    }
    socket.cork()
    pieces.forEach((piece, i) => {
      if (i < pieces.length - 1) socket.write(piece)
      else socket.write(piece, done)
    })
    socket.uncork()
  }
  async #stream(frame: number, socket: Socket, taken: () => void): Promise<void> {
    const pool = this.#pool
    const pieces = this.#pieces
    const chunks = this.#chunks
    const outgrown = this.#outgrown
    this.#clear()
    pool.bytesWaiting += frame
    let waiting = frame
    let gone = false
    let before: Promise<void> | undefined
    // One slice is made while the socket takes the one before.
    const put = async (bytes: Buffer, chunk?: Buffer): Promise<void> => {
      const written = write(socket, bytes).then((done) => {
        gone ||= !done
        if (done && chunk) pool.give(chunk)
        pool.bytesWaiting -= bytes.length
        waiting -= bytes.length
        taken()
      })
      await before
      before = written
    }
    for (const [bytes, chunk] of slicesOf(pieces, pool)) {
      await put(bytes, chunk)
      if (gone) break
    }
    await before
    pool.bytesWaiting -= waiting
    // What was handed to a socket that is gone may be read until it is closed.
    if (gone && !socket.closed) await new Promise((resolve) => socket.once('close', resolve))
    for (const chunk of chunks) pool.give(chunk)
    for (const buf of outgrown) giveBack(buf)
    for (const piece of pieces) if (!Buffer.isBuffer(piece)) letGo(piece)
  }
  #clear(): void {
    this.#chunk = undefined
    this.#spans = []
    this.#spanBytes = 0
    this.#pieces = []
    this.#chunks = []
    this.#outgrown = []
    this.#sealed = 0
    this.#out.use(NOTHING) // keeps neither a chunk nor a slab alive
  }
  #open(): void {
    this.#chunk = this.#pool.take()
    this.#out.use(this.#chunk)
  }
  #seal(): void {
    const out = this.#out
    const chunk = this.#chunk!
    const piece = out.buf.subarray(0, out.at)
    this.#sealed += out.at
    out.at = 0
    this.#chunk = undefined
    const outgrown = out.buf !== chunk
    if (!outgrown && piece.length > SMALL_BYTES) this.#chunks.push(chunk)
    else this.#pool.give(chunk)
    if (outgrown && piece.length > SMALL_BYTES) this.#outgrown.push(out.buf)
    const kept = piece.length > SMALL_BYTES ? piece : Buffer.from(piece)
    let from = 0
    for (const span of this.#spans) {
      if (span.at > from) this.#pieces.push(kept.subarray(from, span.at))
      this.#pieces.push(span)
      from = span.at
    }
    if (kept.length > from) this.#pieces.push(kept.subarray(from))
    this.#spans = []
  }
}

/** What is to be written, in slices; with each that was made for it the chunk of the pool that it lies in. */
function* slicesOf(
  pieces: readonly (Buffer | Span)[],
  pool: ChunkPool,
): Generator<[Buffer, Buffer?]> {
  const out = new Out(0)
  for (const piece of pieces) {
    if (Buffer.isBuffer(piece)) {
      yield [piece]
      continue
    }
    const { bytes, form } = piece
    for (let at = 0; at < bytes.length; at += SPAN_SLICE_BYTES) {
      const slice = bytes.subarray(at, at + SPAN_SLICE_BYTES)
      if (form === 'utf8') {
        yield [slice]
        continue
      }
      const chunk = pool.take()
      out.use(chunk)
      out.latin1(slice, 0, slice.length)
      yield [chunk.subarray(0, out.at), chunk]
    }
  }
}
/** Resolves when the socket has taken the bytes; false: it is gone. */
function write(socket: Socket, bytes: Buffer): Promise<boolean> {
  return new Promise((resolve) => socket.write(bytes, (error) => resolve(!error)))
}

export interface EncodeOptions {
  /** Whether TRANSACTIONBEGIN and TRANSACTIONEND entries are wanted. */
  readonly transactionEntries: boolean
  readonly cancelled: () => boolean
}

/**
 * Encodes what of a batch its client wants. A reply is never empty: where transaction entries are off and there is
 * nothing else, they are sent all the same, so that the client has something to ack.
 */
export async function encodeBatch(
  batch: Batch,
  encoder: EntryEncoder,
  reply: Reply,
  options: EncodeOptions,
): Promise<void> {
  reply.begin()
  const marks = options.transactionEntries
  encoder.start(batch.start.gtids)
  let sliceStart = performance.now()
  let checkAt = SLICE_BYTES
  for (const part of batch.parts) {
    encoder.part(part.tx)
    for (let i = part.from; i < part.to; i++) {
      const change = part.tx.changes[i]!
      if (!batch.wants(change) || (!marks && isMark(change))) continue
      reply.add(encoder, change)
      if (reply.bytes < checkAt) continue
      checkAt = reply.bytes + SLICE_BYTES
      if (performance.now() - sliceStart < SLICE_MS) continue
      await setImmediate()
      if (options.cancelled()) return
      sliceStart = performance.now()
    }
  }
  if (reply.entries === 0) encodeMarks(batch, encoder, reply)
}

const isMark = (change: Change): boolean => change.kind === 'begin' || change.kind === 'commit'

function encodeMarks(batch: Batch, encoder: EntryEncoder, reply: Reply): void {
  const part = batch.parts.findLast(({ tx, from, to }) => tx.changes.slice(from, to).some(isMark))
  if (part === undefined) return
  encoder.part(part.tx)
  for (const change of part.tx.changes.slice(part.from, part.to)) {
    if (isMark(change)) reply.add(encoder, change)
  }
}

/** The other side of a socket: "127.0.0.1:40000", "[::1]:40000". */
export function addressOf(socket: Socket): string {
  const host = socket.remoteAddress ?? 'unknown'
  return host.includes(':') ? `[${host}]:${socket.remotePort}` : `${host}:${socket.remotePort}`
}
