/**
 * One connection to a Canal server: TCP or TLS, handshake, authentication, then requests and their replies in order.
 * Guarantees that every request is settled, with its reply or with the error that ended the link, and that a link that
 * failed once stays failed. Must not know batches, positions or when to try again.
 */
import { connect as connectTcp } from 'node:net'
import type { Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import type { ConnectionOptions } from 'node:tls'
import { SluiceError } from '../errors.ts'
import * as wire from '../server/wire.ts'

export interface LinkOptions {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
  readonly tls: ConnectionOptions | undefined
  readonly connectTimeoutMs: number
  readonly silenceMs: number // a reply may stay away for so long beyond what its request allows
  readonly replyBytesMax: number
}

interface Waiting {
  readonly silence: number // ms that its reply may stay away
  resolve(reply: wire.Packet): void
  reject(error: SluiceError): void
}

const { ACK, CLIENTAUTHENTICATION, HANDSHAKE } = wire.packetTypes
const KEEP_ALIVE_MS = 30_000
/** A server that does not close in return is left. */
const CLOSE_MS = 5000
/** How long the server keeps a connection on which nothing moves. */
const IDLE_MS = 3_600_000

export class Link {
  readonly #socket: Socket
  readonly #framer: wire.Framer
  readonly #silenceMs: number
  readonly #name: string
  #waiting: Waiting[] = []
  #error: SluiceError | undefined

  /**
   * Connects and authenticates.
   * @throws SluiceError CONNECT_FAILED, TLS_FAILED, DISCONNECTED, WIRE_MALFORMED; SERVER_REFUSED for a wrong password
   */
  static async open(options: LinkOptions): Promise<Link> {
    const socket = await connected(options)
    const link = new Link(socket, options)
    const timer = setTimeout(() => {
      link.#fail(
        new SluiceError(
          'CONNECT_FAILED',
          `${link.#name}: no handshake in ${options.connectTimeoutMs} ms`,
        ),
      )
    }, options.connectTimeoutMs)
    try {
      const hello = await link.#expect(0)
      if (hello.type !== HANDSHAKE || hello.version !== 1)
        throw link.#malformed(
          `a handshake of version 1, got packet type ${hello.type}, version ${hello.version}`,
        )
      const { seeds } = wire.readHandshake(hello.body)
      const password =
        options.password === '' ? Buffer.alloc(0) : wire.scramble(options.password, seeds)
      await link.request(
        CLIENTAUTHENTICATION,
        wire.writeClientAuth({
          username: options.user,
          password,
          readTimeoutMs: IDLE_MS,
          writeTimeoutMs: IDLE_MS,
          destination: '',
          clientId: '',
          filter: '',
          startTimestamp: 0n,
        }),
      )
    } catch (error) {
      socket.destroy()
      throw error
    } finally {
      clearTimeout(timer)
    }
    return link
  }

  private constructor(socket: Socket, options: LinkOptions) {
    this.#socket = socket
    this.#framer = new wire.Framer(options.replyBytesMax)
    this.#silenceMs = options.silenceMs
    this.#name = nameOf(options)
    socket.setNoDelay(true)
    socket.setKeepAlive(true, KEEP_ALIVE_MS)
    socket.on('data', (chunk) => this.#data(chunk))
    socket.on('timeout', () => {
      if (this.#waiting.length > 0) this.#fail(this.#lost('the server has gone silent'))
    })
    socket.on('error', (cause) => this.#fail(this.#lost(cause.message, cause)))
    socket.on('close', () => this.#fail(this.#lost('the server closed the connection')))
  }

  get open(): boolean {
    return this.#error === undefined
  }

  /** Sends a request that is answered; `waitMs` is how long the server may take its time on purpose. */
  request(type: number, body: Buffer, waitMs = 0): Promise<wire.Packet> {
    const reply = this.#expect(waitMs)
    this.send(type, body)
    return reply
  }

  /** Sends a request that is not answered. On a failed link it is lost, like one that was on its way. */
  send(type: number, body: Buffer): void {
    if (this.open) this.#socket.write(wire.framePacket(type, body))
  }

  /** Sends what was written, then closes. Requests that wait for their reply reject with CLIENT_CLOSED. */
  async close(): Promise<void> {
    const socket = this.#socket
    this.#error ??= new SluiceError('CLIENT_CLOSED', `${this.#name}: the connection was closed`)
    this.#settle(this.#error)
    if (socket.closed) return
    const timer = setTimeout(() => socket.destroy(), CLOSE_MS)
    socket.setTimeout(0)
    socket.end()
    await new Promise<void>((resolve) => socket.once('close', () => resolve()))
    clearTimeout(timer)
  }

  #expect(waitMs: number): Promise<wire.Packet> {
    if (this.#error) return Promise.reject(this.#error)
    // those in front of it may take their time first
    const silence = Math.max(waitMs + this.#silenceMs, ...this.#waiting.map((w) => w.silence))
    this.#socket.setTimeout(Number.isFinite(silence) ? silence : 0)
    const reply = new Promise<wire.Packet>((resolve, reject) =>
      this.#waiting.push({ silence, resolve, reject }),
    )
    // A prefetched reply may fail before anybody asks for it.
    reply.catch(() => undefined)
    return reply
  }

  #data(chunk: Buffer): void {
    if (!this.open) return
    try {
      this.#framer.push(chunk)
      for (let bytes = this.#framer.next(); bytes; bytes = this.#framer.next())
        this.#packet(wire.readPacket(bytes))
    } catch (error) {
      this.#fail(error instanceof SluiceError ? error : this.#malformed(String(error)))
    }
  }

  /** An error ends the link whoever it answers: a failed CLIENTACK is answered too, in nobody's turn. */
  #packet(packet: wire.Packet): void {
    if ((packet.compression ?? wire.COMPRESSION_NONE) > wire.COMPRESSION_NONE)
      throw this.#malformed(`no compression, got ${packet.compression}`)
    if (packet.type === ACK) {
      const { errorCode = 0, errorMessage } = wire.readAck(packet.body)
      if (errorCode > 0) throw refused(`${this.#name}: ${errorCode} ${errorMessage}`, errorMessage)
    }
    const waiting = this.#waiting.shift()
    if (!waiting) throw this.#malformed(`no packet unasked for, got type ${packet.type}`)
    waiting.resolve(packet)
  }

  #fail(error: SluiceError): void {
    if (this.#error) return
    this.#error = error
    this.#socket.destroy()
    this.#settle(error)
  }
  #settle(error: SluiceError): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const request of waiting) request.reject(error)
  }
  #malformed(expected: string): SluiceError {
    return new SluiceError('WIRE_MALFORMED', `${this.#name}: expected ${expected}`)
  }
  #lost(why: string, cause?: Error): SluiceError {
    return new SluiceError('DISCONNECTED', `${this.#name}: ${why}`, { cause })
  }
}

function refused(message: string, text: string): SluiceError {
  const taken = text.startsWith('CURSOR_TAKEN')
  return new SluiceError(taken ? 'CURSOR_TAKEN' : 'SERVER_REFUSED', message.slice(0, 2000))
}

const nameOf = (options: Pick<LinkOptions, 'host' | 'port'>): string =>
  `Canal server ${options.host}:${options.port}`

function connected(options: LinkOptions): Promise<Socket> {
  const { host, port, tls, connectTimeoutMs } = options
  return new Promise((resolve, reject) => {
    const socket = tls ? connectTls({ host, port, ...tls }) : connectTcp({ host, port })
    const fail = (cause: Error): void => {
      socket.destroy()
      const code = tls && isTls(cause) ? 'TLS_FAILED' : 'CONNECT_FAILED'
      reject(
        new SluiceError(code, `${nameOf(options)}: ${cause.message || 'cannot connect'}`, {
          cause,
        }),
      )
    }
    const timer = setTimeout(
      () => fail(new Error(`no connection in ${connectTimeoutMs} ms`)),
      connectTimeoutMs,
    )
    socket.once('error', fail)
    socket.once('close', () => clearTimeout(timer))
    socket.once(tls ? 'secureConnect' : 'connect', () => {
      clearTimeout(timer)
      socket.off('error', fail)
      resolve(socket)
    })
  })
}

/** Certificates and protocol, in contrast to the network. */
function isTls(cause: Error): boolean {
  const code = String((cause as NodeJS.ErrnoException).code ?? '')
  return /^ERR_(?:SSL|TLS)|CERT|SIGNATURE|ISSUER|EPROTO/.test(code)
}
