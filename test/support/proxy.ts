/**
 * A TCP proxy that misbehaves on request: what comes from the server, and what goes to it, is cut, damaged, held or let
 * through, as a function of the test decides. It stands before any server of one port (Kafka has to be told its port:
 * see `target`). One per test; disposing it closes everything.
 */
import { connect, createServer, type Server, type Socket } from 'node:net'

export interface Target {
  readonly host: string
  readonly port: number
}

/** What to do with bytes of one direction; `at` is how many of the connection came before, `id` is the connection's number. */
export type Rule = (
  chunk: Buffer,
  at: number,
  id: number,
) => Buffer | 'hold' | { readonly cutAfter: number }

export class Proxy implements AsyncDisposable {
  /** Decides about every chunk from the server to the client, on all connections. */
  rule: Rule = (chunk) => chunk
  /** The same for what goes from the client to the server. */
  requestRule: Rule = (chunk) => chunk
  /**
   * Where new connections go; without it they are reset. A server that has to know the proxy's port before it starts gets
   * its proxy first: `proxy = await Proxy.start()`, `privateService('kafka', { advertised: proxy.port })`, `proxy.target =`.
   */
  target: Target | undefined
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  readonly #servers = new Set<Socket>()
  #stalled = false
  #count = 0

  private constructor(server: Server, target: Target | undefined) {
    this.#server = server
    this.target = target
  }

  static async start(target?: Target): Promise<Proxy> {
    const server = createServer({ noDelay: true })
    const proxy = new Proxy(server, target)
    server.on('connection', (client) => {
      if (!proxy.target) return void client.resetAndDestroy()
      const { host, port } = proxy.target
      proxy.#connect(client, connect({ host, port, noDelay: true }))
    })
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(0, '127.0.0.1', resolve)
    })
    return proxy
  }

  get port(): number {
    const address = this.#server.address()
    return address !== null && typeof address === 'object' ? address.port : 0
  }

  #connect(client: Socket, server: Socket): void {
    const end = (): void => {
      client.destroy()
      server.destroy()
    }
    for (const socket of [client, server]) {
      this.#sockets.add(socket)
      socket.on('error', end)
      socket.on('close', () => {
        this.#sockets.delete(socket)
        end()
      })
    }
    this.#servers.add(server)
    server.on('close', () => this.#servers.delete(server))
    client.on('end', () => server.end())
    server.on('end', () => client.end())
    const id = this.#count++
    this.#forward(client, server, (chunk, at) => this.requestRule(chunk, at, id))
    this.#forward(server, client, (chunk, at) => this.rule(chunk, at, id))
  }

  #forward(from: Socket, to: Socket, rule: (chunk: Buffer, at: number) => ReturnType<Rule>): void {
    let at = 0
    from.on('data', (chunk) => {
      const decision = rule(chunk, at)
      at += chunk.length
      if (decision === 'hold') return
      if ('cutAfter' in decision) {
        from.pause()
        to.end(chunk.subarray(0, decision.cutAfter), () => from.destroy())
      } else if (!to.write(decision)) {
        from.pause()
        to.once('drain', () => (this.#stalled && this.#servers.has(from)) || from.resume())
      }
    })
  }

  /** As a client that does not read: what the server sends stays in the buffers on the way, and then with the server. */
  stall(on: boolean): void {
    this.#stalled = on
    for (const server of this.#servers) {
      if (on) server.pause()
      else server.resume()
    }
  }

  /** Ends every connection now, by reset where `reset` is set. */
  cut(reset = false): void {
    for (const socket of this.#sockets) {
      if (reset) socket.resetAndDestroy()
      else socket.destroy()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut()
    await new Promise<void>((resolve) => this.#server.close(() => resolve()))
  }
}
