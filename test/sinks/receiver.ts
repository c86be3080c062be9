/** A receiver of webhooks on a real port: keeps every request whole, and answers as the test says. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'

export interface Received {
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
  /** Which connection it came on, counted from 0. */
  readonly connection: number
}
export interface Reply {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  /** Before the answer. */
  readonly after?: Promise<unknown>
  /** No answer: the connection is reset. */
  readonly reset?: boolean
}

export class Receiver implements AsyncDisposable {
  readonly requests: Received[] = []
  reply: (request: Received) => Reply = () => ({ status: 204 })
  running = 0
  runningMost = 0
  connections = 0
  readonly #server: Server
  readonly #numbers = new Map<Socket, number>()

  private constructor() {
    this.#server = createServer((request, response) => {
      void this.#take(request).then(async (received) => {
        this.running++
        this.runningMost = Math.max(this.runningMost, this.running)
        const { status, headers = {}, body = '', after, reset } = this.reply(received)
        await after
        this.running--
        if (reset) request.socket.resetAndDestroy()
        else response.writeHead(status, headers).end(body)
      })
    })
    this.#server.on('connection', (socket) => this.#numbers.set(socket, this.connections++))
    this.#server.keepAliveTimeout = 60_000
  }
  static async start(): Promise<Receiver> {
    const receiver = new Receiver()
    await receiver.listen(0)
    return receiver
  }
  async listen(port: number): Promise<void> {
    this.#server.listen(port, '127.0.0.1')
    await once(this.#server, 'listening')
  }
  /** Refuses connections until it listens again. */
  async close(): Promise<void> {
    if (!this.#server.listening) return
    this.#server.closeAllConnections()
    this.#server.close()
    await once(this.#server, 'close')
  }
  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }
  get url(): string {
    return `http://127.0.0.1:${this.port}/hook`
  }
  closeConnections(): void {
    this.#server.closeAllConnections()
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #take(request: IncomingMessage): Promise<Received> {
    const chunks: Buffer[] = []
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk)
    const received = {
      headers: request.headers as Record<string, string>,
      body: Buffer.concat(chunks).toString(),
      connection: this.#numbers.get(request.socket) ?? -1,
    }
    this.requests.push(received)
    return received
  }
}
