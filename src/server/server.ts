/**
 * The Canal port: listens, with TLS or without, limits connections and gives each its session. Guarantees that closing
 * lets the reply in hand of every connection finish, within a bound of time. Must not know requests.
 */
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { createServer as createTlsServer, type TlsOptions } from 'node:tls'
import { SluiceError } from '../errors.ts'
import { Clients, Counters, type Destination, type Log, type Traffic } from './clients.ts'
import { ChunkPool } from './reply.ts'
import { Session, type Shared } from './session.ts'

export interface ServerOptions {
  readonly host: string
  readonly port: number // 0: any free one
  readonly user?: string | undefined
  readonly passwordHash?: string | undefined // hex of SHA1(SHA1(plain)), any case
  readonly tls?: TlsOptions | undefined // key and cert, or pfx
  readonly packetBytesMax: number // of one inbound packet
  readonly connectionsMax: number
  readonly idleMs: number // closes a connection silent for so long, where its client asks for nothing else
  readonly log: Log
  /** The destination, or the text of the error its clients get. Asked at every request, so it must be cheap. */
  readonly resolve: (destination: string) => Destination | string
}

const CLOSE_MS = 5000
const TLS_HANDSHAKE_MS = 30_000

export class CanalServer {
  readonly counters: Counters
  /** What clients were sent, by destination. */
  readonly traffic: ReadonlyMap<string, Readonly<Traffic>>
  readonly port: number
  readonly #server: Server
  readonly #sessions: Set<Session>
  readonly #sockets: Set<Socket>
  private constructor(
    server: Server,
    { counters, clients }: Shared,
    sessions: Set<Session>,
    sockets: Set<Socket>,
  ) {
    this.#server = server
    this.#sessions = sessions
    this.#sockets = sockets
    this.counters = counters
    this.traffic = clients.traffic
    this.port = (server.address() as AddressInfo).port
  }
  /**
   * @throws SluiceError CONFIG_INVALID for a user without a password or a hash that is none; LISTEN_FAILED when the
   *   address cannot be bound
   */
  static async listen(options: ServerOptions): Promise<CanalServer> {
    const shared = sharedOf(options)
    const { counters } = shared
    const { log } = options
    const sessions = new Set<Session>()
    const sockets = new Set<Socket>()
    const accept = (socket: Socket): void => {
      counters.connectionsTotal++
      const session = new Session(socket, shared)
      sessions.add(session)
      void session.done.then(() => sessions.delete(session))
    }
    const common = { noDelay: true, keepAlive: true }
    const server = options.tls
      ? createTlsServer({ ...common, handshakeTimeout: TLS_HANDSHAKE_MS, ...options.tls }, accept)
      : createServer(common, accept)
    server.maxConnections = options.connectionsMax
    server.on('connection', (socket: Socket) => {
      sockets.add(socket)
      socket.once('close', () => sockets.delete(socket))
    })
    server.on('drop', (peer) => {
      counters.connectionsRefused++
      log.warn(
        { peer: peer?.remoteAddress, connectionsMax: options.connectionsMax },
        'connection refused: the limit is reached',
      )
    })
    server.on('tlsClientError', (error: Error, socket: Socket) => {
      log.warn({ peer: socket.remoteAddress, reason: error.message }, 'TLS handshake failed')
    })
    await bind(server, options)
    return new CanalServer(server, shared, sessions, sockets)
  }
  /** Stops accepting, lets replies in hand finish, then ends every connection; after 5 s without waiting. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    const bound = setTimeout(() => {
      for (const socket of this.#sockets) socket.destroy()
    }, CLOSE_MS)
    const sessions = [...this.#sessions]
    for (const session of sessions) session.drain()
    await Promise.all(sessions.map((session) => session.done))
    // sockets that are still in their TLS handshake have no session
    for (const socket of this.#sockets) socket.destroy()
    await closed
    clearTimeout(bound)
  }
}

function sharedOf(options: ServerOptions): Shared {
  const { user = '', passwordHash = '' } = options
  if (user !== '' && passwordHash === '') {
    throw new SluiceError('CONFIG_INVALID', `the Canal port has user "${user}" but no password`)
  }
  if (passwordHash !== '' && !/^[0-9a-f]{40}$/i.test(passwordHash)) {
    throw new SluiceError(
      'CONFIG_INVALID',
      `expected the Canal port's password hash as 40 hexadecimal characters, got ${passwordHash.length} characters`,
    )
  }
  const counters = new Counters()
  return {
    user,
    passwordHash,
    packetBytesMax: options.packetBytesMax,
    idleMs: options.idleMs,
    log: options.log,
    pool: new ChunkPool(),
    counters,
    clients: new Clients(options.resolve, counters),
  }
}

function bind(server: Server, options: ServerOptions): Promise<void> {
  const { host, port, log } = options
  return new Promise((resolve, reject) => {
    const refuse = (cause: Error): void =>
      reject(
        new SluiceError('LISTEN_FAILED', `cannot listen on ${host}:${port}: ${cause.message}`, {
          cause,
        }),
      )
    server.once('error', refuse)
    server.listen({ host, port }, () => {
      server.off('error', refuse)
      server.on('error', (error) => log.error({ err: error }, 'the Canal port reports an error'))
      resolve()
    })
  })
}
