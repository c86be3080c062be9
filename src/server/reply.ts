/**
 * A MESSAGES reply on its way out: entries encoded into pooled chunks, the packet's head put in front at the end, and
 * what waits in sockets counted. Guarantees that a huge batch does not keep the event loop for more than a few ms at a
 * time, and that chunks return to the pool when the socket has taken them. Must not know requests or cursors.
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
import { packetTypes } from './wire.ts'

export const CHUNK_BYTES = 1024 * 1024
const CHUNK_FULL = CHUNK_BYTES - CHUNK_BYTES / 4
/** A last piece under this is copied, so that small replies to slow clients do not hold whole chunks. */
const SMALL_BYTES = 64 * 1024
const HEAD_ROOM = 32
/** A frame's length is a signed 32-bit number. */
const REPLY_BYTES_MAX = 0x7fffffff - HEAD_ROOM
const SLICE_BYTES = 64 * 1024
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
  #pieces: Buffer[] = []
  #chunks: Buffer[] = []
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
    return this.#sealed + this.#out.at
  }
  /** @throws SluiceError REPLY_TOO_LARGE, and ROWS_MALFORMED from the change's reader */
  add(encoder: EntryEncoder, change: Change): void {
    encoder.encode(change, this.#out)
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
   * Hands the reply to the socket in one vectored write; `taken` is called when the socket has it all or is gone.
   * Returns the bytes of the frame.
   */
  send(batchId: bigint, socket: Socket, taken: () => void): number {
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
    const first = this.#pieces[0]!
    head.buf.copy(first, HEAD_ROOM - head.at, 0, head.at)
    this.#pieces[0] = first.subarray(HEAD_ROOM - head.at)
    this.#write(frame, socket, taken)
    return frame
  }
  /** Gives up what was encoded. */
  drop(): void {
    if (this.#chunk) this.#pool.give(this.#chunk)
    for (const chunk of this.#chunks) this.#pool.give(chunk)
    if (this.#out.buf.length > CHUNK_BYTES) giveBack(this.#out.buf)
    for (const buf of this.#outgrown) giveBack(buf)
    this.#clear()
  }
  #write(frame: number, socket: Socket, taken: () => void): void {
    const pool = this.#pool
    const chunks = this.#chunks
    const outgrown = this.#outgrown
    const pieces = this.#pieces
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
  #clear(): void {
    this.#chunk = undefined
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
    if (piece.length > 0) this.#pieces.push(piece.length > SMALL_BYTES ? piece : Buffer.from(piece))
  }
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
