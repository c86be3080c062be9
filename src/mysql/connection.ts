/**
 * A connection to a MySQL server that can `query()` and, as its last act, `dump()`: mysql2 connects, speaks TLS and
 * authenticates; for a dump its socket is taken over and read by pull, so that whoever does not ask holds the server
 * back by TCP alone. Guarantees that every end of a dump before its signal aborts is an error, and that a silent
 * server is noticed, but only while somebody waits for it. Knows nothing of binlog events.
 */
import { connect, type Socket } from 'node:net'
import type { Connection as Driver, ConnectionOptions } from 'mysql2'
import { SluiceError, assert } from '../errors.ts'
import { chunksOf, takers, type Chunks, type Taker } from './chunks.ts'
import {
  dumpCommand,
  gtidDumpCommand,
  registerCommand,
  semiSyncAck,
  type DumpRequest,
} from './commands.ts'
import { feed, guardSequence, socketOf, watchAnswer } from './answer.ts'
import { driverFailure, lacksTls, serverFailure } from './failure.ts'
import { PacketReader } from './packet.ts'

export { PLAIN_OFFSET_MAX, type DumpRequest } from './commands.ts'

export interface TlsOptions {
  /**
   * disabled; preferred: where the server has it, unverified; required: unverified, as MySQL's own clients do;
   * verify-ca: the certificate's chain; verify-identity: the chain and the host name.
   */
  readonly mode: 'disabled' | 'preferred' | 'required' | 'verify-ca' | 'verify-identity'
  readonly ca?: string | Buffer | undefined // PEM
  readonly cert?: string | Buffer | undefined // PEM
  readonly key?: string | Buffer | undefined // PEM
}
export interface ConnectOptions {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
  readonly tls: TlsOptions
  readonly connectTimeoutMs: number
}
/** What packets of a dump are read from; `packets` holds what the last `more()` brought. */
export interface DumpStream {
  readonly packets: PacketReader
  /** @@global.binlog_checksum of the session: how the events before the first format description are checked. */
  readonly checksum: string
  /** Waits for the next bytes; false only after the signal aborted. Throws STREAM_ENDED, STREAM_STALLED. */
  more(): Promise<boolean>
  /** Tells the server that everything before this place is safe; nothing unless it takes us for a semi-synchronous replica. */
  ack(file: string, offset: number): void
  close(): void
}

const STALL_EXTRA_MS = 5_000
const WRITE_TIMEOUT_SECONDS = 86_400
type Params = readonly (string | number | bigint | null)[]

/**
 * For a session of questions: without the limits that the server has for others, for an answer that is cut short would say that
 * the rest is not there. MySQL and MariaDB each take the other's name of the time limit for a comment.
 */
export const NO_LIMITS =
  'SET SESSION sql_select_limit = 18446744073709551615, SESSION sql_big_selects = 1' +
  ' /*!50708 , SESSION max_execution_time = 0 */ /*M!100101 , SESSION max_statement_time = 0 */'

export class Connection {
  readonly #driver: Driver
  readonly #where: string
  #taken = false
  #broken: unknown
  #fail: ((error: unknown) => void) | undefined // ends the query under way
  #turn: Promise<unknown> = Promise.resolve() // the query before, whatever came of it

  private constructor(driver: Driver, where: string) {
    this.#driver = driver
    this.#where = where
    driver.on('error', this.#onError)
  }
  readonly #onError = (error: unknown): void => {
    this.#broken ??= error
  }

  /**
   * Connects and authenticates (caching_sha2_password, mysql_native_password, sha256_password).
   * Throws ACCESS_DENIED, TLS_FAILED or CONNECT_FAILED, the last one also when `signal` aborts.
   */
  static async open(options: ConnectOptions, signal?: AbortSignal): Promise<Connection> {
    const where = `${options.host}:${options.port}`
    const attempt = async (tls: TlsOptions): Promise<Connection> =>
      new Connection(await connectDriver(options, tls, signal), where)
    // as mysql2 says it of errors that end a connection: here there never was one
    const failure = (error: unknown): SluiceError =>
      driverFailure(
        error instanceof Error ? Object.assign(error, { fatal: true }) : error,
        `connecting to ${where}`,
        'CONNECT_FAILED',
      )
    try {
      return await attempt(options.tls)
    } catch (error) {
      if (options.tls.mode === 'preferred' && lacksTls(error)) {
        try {
          return await attempt({ mode: 'disabled' })
        } catch (plain) {
          throw failure(plain)
        }
      }
      throw failure(error)
    }
  }

  /** Whether the connection is encrypted. */
  get encrypted(): boolean {
    return 'encrypted' in socketOf(this.#driver)
  }

  /**
   * Rows of a text query as objects; integers beyond 2^53, decimals and dates are strings. One query after the other.
   * Throws QUERY_FAILED, also when the answer does not come or stops in the middle; PACKET_MALFORMED, ACCESS_DENIED and the
   * like.
   */
  async query<T>(sql: string, params: Params = []): Promise<T[]> {
    assert(!this.#taken, 'a query on a connection that dumps')
    const rows = this.#turn.then(() => this.#ask<T>(sql, params))
    this.#turn = rows.catch(() => {})
    return await rows
  }
  async #ask<T>(sql: string, params: Params): Promise<T[]> {
    const what = `${this.#where}: ${sql.length > 120 ? `${sql.slice(0, 120)}…` : sql}`
    if (this.#broken !== undefined) throw driverFailure(this.#broken, what, 'QUERY_FAILED')
    const rows = await new Promise<unknown>((resolve, reject) => {
      // mysql2 forgets a query that is under way when its connection is closed by us.
      this.#fail = (error) => {
        unwatch()
        reject(driverFailure(error, what, 'QUERY_FAILED'))
      }
      const unwatch = watchAnswer(socketOf(this.#driver), what, (error) => {
        this.#broken ??= error
        this.close()
      })
      this.#driver.query({ sql, values: [...params] }, (error, result) => {
        unwatch()
        if (error instanceof SluiceError) this.#broken ??= error
        if (error) reject(driverFailure(error, what, 'QUERY_FAILED'))
        else resolve(result)
      })
    })
    return Array.isArray(rows) ? (rows as T[]) : []
  }

  /**
   * Prepares the session, takes the socket over and asks for the binlog. The connection is the dump's from then on.
   * Errors of the server (POSITION_LOST, SERVER_ID_CLASH …) come from the stream's `packets`.
   */
  async dump(request: DumpRequest, signal: AbortSignal): Promise<DumpStream> {
    const checksum = await this.#prepareSession(request)
    const socket = this.#release()
    const where = `dump of ${this.#where} from ${request.place}`
    const stall = request.heartbeatMs * 3 + STALL_EXTRA_MS
    const stream = new SocketStream(socket, { where, stall, checksum, signal })
    socket.write(registerCommand(request.serverId))
    try {
      // The server answers the registration with OK before it reads the next command.
      await stream.registered(request.semiSync === true)
      socket.write(request.gtids ? gtidDumpCommand(request, request.gtids) : dumpCommand(request))
      return stream
    } catch (error) {
      stream.close()
      throw error
    }
  }

  /** The session's socket and its bytes by pull, for who speaks another protocol on it; queries are over. */
  takeOver(): { readonly socket: Socket; readonly chunks: Chunks; readonly where: string } {
    const socket = this.#release()
    return { socket, chunks: chunksOf(socket), where: this.#where }
  }
  #release(): Socket {
    assert(!this.#taken, 'a connection is taken over once')
    this.#taken = true
    const socket = socketOf(this.#driver).pause()
    for (const event of ['data', 'end', 'close', 'error', 'drain']) socket.removeAllListeners(event)
    return socket.on('error', () => {})
  }

  /** Everything a dump wants of its session; returns the checksum the server writes events with. */
  async #prepareSession(request: DumpRequest): Promise<string> {
    const heartbeat = BigInt(request.heartbeatMs) * 1_000_000n
    const uuid = request.replicaUuid
    await this.query(
      `SET SESSION net_write_timeout = ${WRITE_TIMEOUT_SECONDS}, SESSION net_read_timeout = 3600,` +
        ` SESSION wait_timeout = ${WRITE_TIMEOUT_SECONDS}`,
    )
    const [row] = await this.query<{ checksum: string | null }>(
      'SELECT @@global.binlog_checksum AS checksum',
    )
    // The last four are what MariaDB's replicas say of themselves (4: they know GTIDs); elsewhere they mean nothing.
    await this.query(
      `SET @master_heartbeat_period = ${heartbeat}, @source_heartbeat_period = ${heartbeat},` +
        ' @slave_uuid = ?, @replica_uuid = ?, @master_binlog_checksum = @@global.binlog_checksum,' +
        ' @source_binlog_checksum = @@global.binlog_checksum, @mariadb_slave_capability = 4,' +
        ' @slave_connect_state = ?, @slave_gtid_strict_mode = 0, @slave_gtid_ignore_duplicates = 0',
      [uuid, uuid, request.state ?? null],
    )
    if (request.semiSync) {
      await this.query('SET @rpl_semi_sync_replica = 1, @rpl_semi_sync_slave = 1')
    }
    return row?.checksum ?? 'NONE'
  }

  /** Closes without waiting for the server. */
  close(): void {
    this.#broken ??= new SluiceError('QUERY_FAILED', `${this.#where}: the connection was closed`)
    this.#fail?.(this.#broken)
    abandon(this.#driver)
  }
  [Symbol.dispose](): void {
    this.close()
  }
}

/** mysql2's own destroy only says goodbye: what the server answers to that would go to the console. */
function abandon(driver: Driver): void {
  driver.destroy()
  socketOf(driver).destroy()
}

function sslOptions(tls: TlsOptions): Pick<ConnectionOptions, 'ssl'> {
  if (tls.mode === 'disabled') return {}
  const verify = tls.mode === 'verify-ca' || tls.mode === 'verify-identity'
  return {
    ssl: {
      rejectUnauthorized: verify,
      verifyIdentity: tls.mode === 'verify-identity',
      ...(tls.ca === undefined ? {} : { ca: tls.ca }),
      ...(tls.cert === undefined ? {} : { cert: tls.cert }),
      ...(tls.key === undefined ? {} : { key: tls.key }),
    },
  }
}

const ANSWER_BYTES = 16 * 1024 // before the dump

/**
 * The socket under a connection. It reads into one buffer that is used again and again: a buffer per read would be
 * garbage by the gigabyte. mysql2 gets copies until the dump takes the socket over; TLS reads for itself.
 */
function openSocket({ host, port }: ConnectOptions): Socket {
  const taker: Taker = {
    take: (chunk) => feed(socket, Buffer.from(chunk)),
    buffer: Buffer.allocUnsafeSlow(ANSWER_BYTES),
  }
  const socket = connect({
    host,
    port,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: 60_000,
    onread: {
      buffer: () => taker.buffer,
      callback: (size, buffer) => taker.take((buffer as Buffer).subarray(0, size)),
    },
  })
  takers.set(socket, taker)
  // TLS on a socket verifies the name in `_host`, which Node sets for names alone: a server that is called by its address
  // would have to prove that it is "localhost".
  Object.assign(socket, { _host: host })
  return socket
}

async function connectDriver(
  options: ConnectOptions,
  tls: TlsOptions,
  signal: AbortSignal | undefined,
): Promise<Driver> {
  signal?.throwIfAborted()
  const { createConnection } = await import('mysql2')
  const driver = createConnection({
    stream: () => openSocket(options),
    host: options.host,
    port: options.port,
    user: options.user,
    password: options.password,
    connectTimeout: options.connectTimeoutMs,
    charset: 'utf8mb4',
    supportBigNumbers: true,
    dateStrings: true,
    // Not sought, and FOUND_ROWS and the like would only change what statements answer.
    flags: ['-FOUND_ROWS', '-LOCAL_FILES'],
    ...sslOptions(tls),
  })
  guardSequence(driver, `${options.host}:${options.port}`)
  return new Promise((resolve, reject) => {
    const fail = (error: unknown): void => {
      signal?.removeEventListener('abort', abort)
      driver.on('error', () => {})
      abandon(driver)
      reject(error)
    }
    const abort = (): void => fail(signal?.reason)
    signal?.addEventListener('abort', abort)
    driver.once('error', fail)
    driver.once('connect', () => {
      signal?.removeEventListener('abort', abort)
      driver.removeListener('error', fail)
      resolve(driver)
    })
  })
}

interface SocketStreamOptions {
  readonly where: string
  readonly stall: number // ms of silence that are too many
  readonly checksum: string
  readonly signal: AbortSignal
}

/** The socket after the takeover: one chunk at a time, and a watchdog that runs only while one is waited for. */
class SocketStream implements DumpStream {
  readonly packets: PacketReader
  readonly checksum: string
  readonly #socket: Socket
  readonly #where: string
  readonly #stall: number
  readonly #signal: AbortSignal
  readonly #chunks: Chunks
  readonly #watchdog: NodeJS.Timeout
  #safe: Buffer | undefined // an acknowledgement to be sent
  #waitingSince = 0 // performance.now(), 0 while nobody waits
  #stalled = false
  #ended = false

  constructor(socket: Socket, options: SocketStreamOptions) {
    this.#socket = socket
    this.#where = options.where
    this.#stall = options.stall
    this.#signal = options.signal
    this.checksum = options.checksum
    this.packets = new PacketReader((number, text) => serverFailure(number, text, options.where))
    this.#chunks = chunksOf(socket)
    this.#watchdog = setInterval(this.#watch, Math.min(1_000, Math.max(50, options.stall / 4)))
    this.#watchdog.unref()
    options.signal.addEventListener('abort', this.#abort)
    if (options.signal.aborted) this.close()
  }
  readonly #abort = (): void => this.close()
  readonly #watch = (): void => {
    if (this.#waitingSince === 0) return
    if (performance.now() - this.#waitingSince < this.#stall) return
    this.#stalled = true
    this.close()
  }

  /** Waits for the OK packet that answers the registration. */
  async registered(semiSync: boolean): Promise<void> {
    const { packets } = this
    for (;;) {
      while (!packets.next()) if (!(await this.more())) return
      if (packets.last) break
    }
    packets.restart(semiSync)
  }

  ack(file: string, offset: number): void {
    this.#safe = semiSyncAck(file, offset)
    this.#answer()
  }
  /** Only the first packet says whether the server wants to know. */
  #answer(): void {
    if (!this.#safe || !this.packets.marked || this.#ended) return
    this.#socket.write(this.#safe)
    this.#safe = undefined
  }

  async more(): Promise<boolean> {
    this.#answer()
    this.#waitingSince = performance.now()
    let cause: unknown
    try {
      const result = await this.#chunks.next()
      if (result.done !== true && !this.#ended) {
        this.packets.push(result.value)
        return true
      }
    } catch (error) {
      cause = error
    } finally {
      this.#waitingSince = 0
    }
    const failure = this.#endOf(cause)
    if (failure === undefined) return false
    throw failure
  }

  /** Why no more bytes come: undefined when we were told to stop. */
  #endOf(cause: unknown): SluiceError | undefined {
    this.close()
    if (this.#stalled) {
      const text = `${this.#where}: no packet, not even a heartbeat, for ${this.#stall} ms`
      return new SluiceError('STREAM_STALLED', text, { cause })
    }
    if (this.#signal.aborted) return undefined
    const text = cause instanceof Error ? cause.message : 'MySQL closed the connection'
    return new SluiceError('STREAM_ENDED', `${this.#where}: ${text}`, { cause })
  }

  close(): void {
    if (this.#ended) return
    this.#ended = true
    clearInterval(this.#watchdog)
    this.#signal.removeEventListener('abort', this.#abort)
    this.#socket.destroy()
  }
}
