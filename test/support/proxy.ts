/**
 * A TCP proxy that misbehaves on request: what comes from the server is cut, damaged, held or let through, as a function
 * of the test decides. One per test; disposing it closes everything.
 */
import { connect, createServer, type Server, type Socket } from 'node:net'

/** What to do with bytes from the server; `at` is how many of the connection came before. */
export type Rule = (chunk: Buffer, at: number) => Buffer | 'hold' | { readonly cutAfter: number }

interface Address {
  readonly host: string
  readonly port: number
}

export class Proxy implements AsyncDisposable {
  /** Decides about every chunk from the server to the client, on all connections. */
  rule: Rule = (chunk) => chunk
  /** Where connections go from now on. */
  target: Address
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  readonly #servers = new Set<Socket>()
  #stalled = false

  private constructor(server: Server, target: Address) {
    this.#server = server
    this.target = target
  }

  static async start({ host, port }: Address): Promise<Proxy> {
    const server = createServer({ noDelay: true })
    const proxy = new Proxy(server, { host, port })
    server.on('connection', (client) =>
      proxy.#connect(client, connect({ ...proxy.target, noDelay: true })),
    )
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
    let at = 0
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
    client.pipe(server)
    this.#servers.add(server)
    server.on('close', () => this.#servers.delete(server))
    server.on('data', (chunk) => {
      const decision = this.rule(chunk, at)
      at += chunk.length
      if (decision === 'hold') return
      if (!('cutAfter' in decision)) {
        if (!client.write(decision)) {
          server.pause()
          client.once('drain', () => this.#stalled || server.resume())
        }
        return
      }
      server.pause()
      client.end(chunk.subarray(0, decision.cutAfter), () => server.destroy())
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
