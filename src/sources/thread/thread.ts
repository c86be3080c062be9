/**
 * A thread for reading: mysqlSource runs in it, one thread for all instances of a process, and what it reads comes here
 * in parcels. Reading, checking and cutting the log then take a core of their own, and one source still reads as much
 * ahead as IN_FLIGHT_BYTES in worker.ts. The same guarantees as mysqlSource's: commit order, backpressure, no retries.
 * A thread that dies ends its reads with an error that may be retried; the next read starts another one.
 */
import { extname } from 'node:path'
import { MessageChannel, Worker, type MessagePort } from 'node:worker_threads'
import type { Position, Source, Transaction } from '../../change.ts'
import { assert, SluiceError, type ErrorCode } from '../../errors.ts'
import type { FilterOptions } from '../../filter.ts'
import type { ConnectOptions } from '../../mysql/connection.ts'
import { Slab, giveBack } from '../../slab.ts'
import { Identities, type MysqlSourceOptions } from '../mysql.ts'
import { PARCEL_BYTES, Unpacker, type Parcel } from './parcel.ts'

export interface ThreadSourceOptions extends Omit<
  MysqlSourceOptions,
  'filter' | 'kinds' | 'slabs'
> {
  readonly filter: FilterOptions // its text, for the thread compiles its own
}

/** What is to be read. Plain data, as everything that goes to the thread and comes from it. */
export interface Order {
  readonly connect: ConnectOptions
  readonly serverId: number
  readonly replicaUuid: string
  readonly server: string | undefined
  readonly epoch: number
  readonly filter: FilterOptions
  readonly partBytes: number | undefined
  readonly heartbeatMs: number | undefined
  readonly semiSync: boolean
  readonly from: Omit<Position, 'gtids'>
  readonly gtids: string | undefined
}
/** To the thread: parcels of so many bytes are used up; a slab is; a place is safe; the read is to end. */
export type Request =
  | { readonly kind: 'taken'; readonly bytes: number }
  | { readonly kind: 'stop' }
  | { readonly kind: 'free'; readonly slab: number }
  | { readonly kind: 'ack'; readonly file: string; readonly offset: number }
/** From the thread. Nothing comes after the end. */
export type Report =
  | { readonly kind: 'parcel'; readonly parcel: Parcel; readonly bytes: number }
  | { readonly kind: 'end'; readonly failure: Failure | undefined }
export interface Failure {
  readonly code: ErrorCode | undefined // undefined: not a SluiceError
  readonly message: string
  readonly stack: string | undefined
}

/** The youngest generation of its heap: what it makes lives shortly. */
const YOUNG_MB = 8
/** An event with its memory for itself, which is a good part of what the process has. */
const HUGE_BYTES = 16 * 1024 * 1024

export class ReaderThread {
  #worker: Worker | undefined
  #ended: Promise<unknown> = Promise.resolve() // with the reason
  readonly #huge: () => void

  /** `huge` is called when an event of many megabytes has come, before it is given out. */
  constructor(huge: () => void = () => {}) {
    this.#huge = huge
  }

  /** Reads from the server at `options.connect`, in the thread. `read` throws what mysqlSource's does. */
  source(options: ThreadSourceOptions): Source {
    const identities = new Identities(options)
    return { read: (from, signal) => this.#read(options, identities, from, signal) }
  }
  /** Ends the thread, and with an error every read that goes on. A later read starts another one. */
  async close(): Promise<void> {
    await this.#worker?.terminate()
  }

  async *#read(
    options: ThreadSourceOptions,
    identities: Identities,
    from: Position,
    signal: AbortSignal,
  ): AsyncGenerator<Transaction, void, undefined> {
    if (signal.aborted) return
    const { identity, done } = identities.draw()
    const inbox = new Inbox(
      this.#start({ ...orderOf(options, from), ...identity }),
      this.#ended,
      this.#huge,
    )
    const stop = (): void => inbox.send({ kind: 'stop' })
    signal.addEventListener('abort', stop)
    const { epoch, catalog, onFormat, onAcker } = options
    onAcker?.((file, offset) => inbox.send({ kind: 'ack', file, offset }))
    const unpacker = new Unpacker({ epoch, catalog, onFormat, slab: (id) => inbox.slab(id) })
    try {
      for (;;) {
        const report = await inbox.next()
        if (signal.aborted) return
        if (report.kind === 'end') {
          if (report.failure) throw revive(report.failure)
          return
        }
        inbox.openSlabs(report.parcel)
        unpacker.open(report.parcel)
        for (;;) {
          const waiting = unpacker.advance()
          if (waiting) await waiting
          else if (unpacker.ready) {
            const tx = unpacker.ready
            unpacker.ready = undefined
            // Who takes it may wait until its slab is free.
            if (unpacker.last) inbox.closeSlabs(report.parcel)
            yield tx
          } else break
          if (signal.aborted) return
        }
        inbox.closeSlabs(report.parcel)
        inbox.taken(report.bytes)
      }
    } finally {
      signal.removeEventListener('abort', stop)
      onAcker?.(false)
      await inbox.close()
      done()
    }
  }

  /** Hands an order to the thread, which is started when there is none. */
  #start(order: Order): MessagePort {
    const worker = (this.#worker ??= this.#spawn())
    const { port1, port2 } = new MessageChannel()
    worker.postMessage({ order, port: port2 }, [port2])
    return port1
  }
  #spawn(): Worker {
    const file = new URL(`./worker${extname(import.meta.filename)}`, import.meta.url)
    const worker = new Worker(file, { resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MB } })
    worker.unref() // reads keep the process alive by their ports
    let reason: unknown
    worker.on('error', (error) => (reason = error))
    this.#ended = new Promise((resolve) => {
      worker.on('exit', () => {
        if (this.#worker === worker) this.#worker = undefined
        resolve(reason)
      })
    })
    return worker
  }
}

function orderOf(
  options: ThreadSourceOptions,
  { gtids, ...from }: Position,
): Omit<Order, 'serverId' | 'replicaUuid'> {
  const { connect, server, epoch, filter, partBytes, heartbeatMs } = options
  return {
    connect,
    server,
    epoch,
    filter: {
      include: filter.include,
      exclude: filter.exclude,
      statements: filter.statements,
      rows: filter.rows,
    },
    partBytes,
    heartbeatMs,
    semiSync: options.onAcker !== undefined,
    from,
    gtids: gtids?.toString(),
  }
}

/** This thread's end of one read: what has come and was not asked for yet, and the slabs in use. */
class Inbox {
  readonly #port: MessagePort
  readonly #huge: () => void
  readonly #slabs = new Map<number, Slab>() // that the thread still fills
  #reports: Report[] = []
  #wake: (() => void) | undefined
  #taken = 0 // bytes that the thread does not know of
  #over = false // the end has come, or nothing can come any more

  constructor(port: MessagePort, ended: Promise<unknown>, huge: () => void) {
    this.#port = port
    this.#huge = huge
    port.on('message', (report: Report) => this.#take(report))
    port.on('close', () => {
      if (this.#over) return
      void ended.then((reason) => this.#take({ kind: 'end', failure: lost(reason) }))
    })
  }
  #take(report: Report): void {
    if (report.kind === 'end') this.#over = true
    this.#reports.push(report)
    this.#wake?.()
  }
  /** Used up. The thread is not told of every parcel, for that wakes it. */
  taken(bytes: number): void {
    this.#taken += bytes
    if (this.#taken < PARCEL_BYTES) return
    this.send({ kind: 'taken', bytes: this.#taken })
    this.#taken = 0
  }
  send(request: Request): void {
    if (!this.#over) this.#port.postMessage(request)
  }
  async next(): Promise<Report> {
    for (;;) {
      const report = this.#reports.shift()
      if (report) return report
      await new Promise<void>((resolve) => (this.#wake = resolve))
    }
  }

  openSlabs({ slabs }: Parcel): void {
    for (const { id, memory } of slabs) {
      if (memory.byteLength > HUGE_BYTES) this.#huge()
      const bytes = Buffer.from(memory)
      const take = (): void => {
        if (memory instanceof ArrayBuffer) giveBack(bytes)
        else this.send({ kind: 'free', slab: id })
      }
      this.#slabs.set(id, new Slab(bytes, { take }))
    }
  }
  closeSlabs({ closed }: Parcel): void {
    for (const id of closed) {
      this.#slabs.get(id)?.release()
      this.#slabs.delete(id)
    }
  }
  slab(id: number): Slab {
    const slab = this.#slabs.get(id)
    assert(slab, 'a parcel names a slab that was not sent')
    return slab
  }

  /** Ends the read, waiting until the thread has let go of the server. */
  async close(): Promise<void> {
    this.send({ kind: 'stop' })
    this.#reports = this.#reports.filter((report) => report.kind === 'end')
    while (!this.#over) {
      await this.next()
    }
    this.#port.close()
  }
}

function lost(reason: unknown): Failure {
  const why = reason instanceof Error ? reason.message : 'it was ended'
  return { code: 'STREAM_ENDED', message: `the reader thread is gone: ${why}`, stack: undefined }
}
function revive({ code, message, stack }: Failure): Error {
  if (code !== undefined) return new SluiceError(code, message)
  const error = new Error(message)
  if (stack !== undefined) error.stack = stack
  return error
}
