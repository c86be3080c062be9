/**
 * The reader thread: runs mysqlSource for reads that thread.ts orders, each over a port of its own, and hands what it
 * read over in parcels. Guarantees that what has been read is sent before the thread waits for more, and that no more than
 * IN_FLIGHT_BYTES (or one larger transaction) are under way: then the source is not asked, which is the backpressure.
 * Knows no catalog, no store and no logger.
 */
import { flushCompileCache } from 'node:module'
import { parentPort, type MessagePort } from 'node:worker_threads'
import { SluiceError } from '../../errors.ts'
import { compileFilter } from '../../filter.ts'
import { GtidSet } from '../../gtid.ts'
import { SLAB_BYTES, Slab, type Slabs } from '../../slab.ts'
import { mysqlSource, type Acknowledge } from '../mysql.ts'
import { Packer, PARCEL_BYTES, type SharedSlab } from './parcel.ts'
import type { Failure, Order, Report, Request } from './thread.ts'

const IN_FLIGHT_BYTES = 1024 * 1024
/** Free slabs that are kept, of all reads together: the window and what is under way once, for memory in use is reused then. */
const SPARE_MAX = 12

interface Memory {
  readonly id: number
  readonly bytes: Buffer
  told: boolean // the other side knows it
  closed: boolean // nothing more will be written to it
}

/**
 * Free memory of one slab's size. What is dropped instead of kept is gone only when both threads' collectors have seen it,
 * and until then a new one stands beside it.
 */
const spare: Buffer[] = []

/** Slabs in shared memory: filled here, released there. One of its own size moves there for good. */
class SharedSlabs implements Slabs {
  readonly #known = new Map<Slab, Memory>()
  readonly #there = new Map<number, Buffer>() // closed here, still held there
  #next = 0
  #fresh: Memory[] = [] // to be told
  #closed: number[] = [] // to be told

  open(size: number): Slab {
    const shared = size <= SLAB_BYTES
    const bytes = shared
      ? (spare.pop() ?? Buffer.from(new SharedArrayBuffer(SLAB_BYTES)))
      : Buffer.allocUnsafeSlow(size)
    const slab = new Slab(bytes, this)
    this.#known.set(slab, { id: this.#next++, bytes, told: false, closed: false })
    return slab
  }
  /** Nobody here holds it any longer. */
  take(slab: Slab): void {
    const memory = this.#known.get(slab)!
    this.#known.delete(slab)
    memory.closed = true
    if (!memory.told) return this.#keep(memory.bytes)
    this.#closed.push(memory.id)
    this.#there.set(memory.id, memory.bytes)
  }
  /** Nobody there holds it any longer. */
  free(id: number): void {
    const bytes = this.#there.get(id)
    this.#there.delete(id)
    if (bytes) this.#keep(bytes)
  }
  #keep(bytes: Buffer): void {
    if (bytes.length === SLAB_BYTES && spare.length < SPARE_MAX) spare.push(bytes)
  }
  /** The number by which the other side knows, or will know, the slab. */
  idOf(slab: Slab): number {
    const memory = this.#known.get(slab)!
    if (!memory.told) this.#fresh.push(memory)
    memory.told = true
    return memory.id
  }
  /** What is to be told since the last call, and what of it moves. */
  news(): { slabs: SharedSlab[]; closed: number[]; moved: ArrayBuffer[] } {
    const slabs = this.#fresh.map(({ id, bytes }) => ({ id, memory: bytes.buffer }))
    const moved = slabs.map(({ memory }) => memory).filter((m) => m instanceof ArrayBuffer)
    const closed = this.#closed
    for (const { id, memory } of slabs) if (memory instanceof ArrayBuffer) this.#there.delete(id)
    this.#fresh = []
    this.#closed = []
    return { slabs, closed, moved }
  }
}

/** One read, from its order to its end. */
class Reading {
  readonly #port: MessagePort
  readonly #slabs = new SharedSlabs()
  readonly #packer = new Packer()
  readonly #stop = new AbortController()
  #ack: Acknowledge | undefined // once the connection is there
  #safe: { readonly file: string; readonly offset: number } | undefined // the last place acknowledged
  #inFlight = 0 // bytes of the parcels under way
  #room: (() => void) | undefined
  #flush: NodeJS.Immediate | undefined

  constructor(port: MessagePort) {
    this.#port = port
    port.on('message', (request: Request) => this.#take(request))
  }
  #take(request: Request): void {
    if (request.kind === 'free') return this.#slabs.free(request.slab)
    if (request.kind === 'ack') {
      this.#safe = request
      return this.#ack?.(request.file, request.offset)
    }
    if (request.kind === 'stop') this.#stop.abort()
    else this.#inFlight -= request.bytes
    this.#room?.()
  }

  async run(order: Order): Promise<void> {
    const { from, gtids, filter, semiSync, ...options } = order
    let failure: Failure | undefined
    try {
      const source = mysqlSource({
        ...options,
        connect: { ...options.connect, tls: revive(options.connect.tls) },
        catalog: this.#packer,
        filter: compileFilter(filter),
        kinds: filter,
        slabs: this.#slabs,
        onAcker: semiSync ? (ack) => this.#acker(ack || undefined) : undefined,
        onFormat: (format) => {
          this.#packer.format(format)
          this.#sendSoon()
        },
      })
      const start = { ...from, gtids: gtids === undefined ? undefined : GtidSet.parse(gtids) }
      for await (const tx of source.read(start, this.#stop.signal)) {
        this.#packer.add(tx, tx.slab ? this.#slabs.idOf(tx.slab) : -1)
        tx.slab?.release()
        if (this.#packer.bytes >= PARCEL_BYTES) this.#send()
        else this.#sendSoon()
        if (this.#inFlight >= IN_FLIGHT_BYTES) await this.#haveRoom()
      }
    } catch (error) {
      failure = describe(error)
    }
    this.#send()
    const report: Report = { kind: 'end', failure }
    this.#port.postMessage(report)
  }

  #acker(ack: Acknowledge | undefined): void {
    this.#ack = ack
    if (this.#safe) ack?.(this.#safe.file, this.#safe.offset)
  }
  /** When the source has to wait for its socket, this comes first. */
  #sendSoon(): void {
    this.#flush ??= setImmediate(() => this.#send())
  }
  #send(): void {
    clearImmediate(this.#flush)
    this.#flush = undefined
    if (this.#packer.empty) return
    const { bytes } = this.#packer
    const { slabs, closed, moved } = this.#slabs.news()
    const parcel = this.#packer.take(slabs, closed)
    const report: Report = { kind: 'parcel', parcel, bytes }
    this.#port.postMessage(report, [parcel.heads.buffer, parcel.changes.buffer, ...moved])
    this.#inFlight += bytes
  }
  async #haveRoom(): Promise<void> {
    while (this.#inFlight >= IN_FLIGHT_BYTES && !this.#stop.signal.aborted)
      await new Promise<void>((resolve) => (this.#room = resolve))
    this.#room = undefined
  }
}

/** Certificates arrive as plain bytes. */
function revive({ mode, ca, cert, key }: Order['connect']['tls']): Order['connect']['tls'] {
  const buffer = (bytes: string | Uint8Array | undefined): string | Buffer | undefined =>
    bytes instanceof Uint8Array ? Buffer.from(bytes) : bytes
  return { mode, ca: buffer(ca), cert: buffer(cert), key: buffer(key) }
}

/** An error as plain data: a clone would lose its code. */
function describe(error: unknown): Failure {
  const code = error instanceof SluiceError ? error.code : undefined
  if (!(error instanceof Error)) return { code, message: String(error), stack: undefined }
  return { code, message: error.message, stack: error.stack }
}

parentPort!.on('message', ({ order, port }: { order: Order; port: MessagePort }) => {
  void new Reading(port).run(order)
})
// Now, for a process that is killed has no time for it.
flushCompileCache()
