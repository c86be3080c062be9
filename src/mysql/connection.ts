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
import { feed, guardSequence, socketOf, watchAnswer } from './answer.ts'
import { driverFailure, lacksTls, serverFailure } from './failure.ts'
import { PacketReader } from './packet.ts'

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
export interface DumpRequest {
  readonly serverId: number // 1 … 2^32 - 1, ours; unique among the source's replicas
  readonly replicaUuid: string // ours; a shared one makes MySQL kill the dump that had it first
  readonly heartbeatMs: number // how often the server speaks when it has nothing to say
  readonly place: string // where the dump begins, for messages
  readonly file: string // "" with `gtids`: the server finds the file
  readonly offset: number // 4 is the first event
  readonly gtids: Buffer | undefined // encoded set of what we have: COM_BINLOG_DUMP_GTID, else COM_BINLOG_DUMP
  readonly state?: string | undefined // of MariaDB: the last GTID of each domain that we have; it then finds the file
}
/** What packets of a dump are read from; `packets` holds what the last `more()` brought. */
export interface DumpStream {
  readonly packets: PacketReader
  /** @@global.binlog_checksum of the session: how the events before the first format description are checked. */
  readonly checksum: string
  /** Waits for the next bytes; false only after the signal aborted. Throws STREAM_ENDED, STREAM_STALLED. */
  more(): Promise<boolean>
  close(): void
}

const COM_BINLOG_DUMP = 0x12
const COM_REGISTER_SLAVE = 0x15
const COM_BINLOG_DUMP_GTID = 0x1e
/** Flags of a dump (sql/rpl_constants.h, sql/rpl_binlog_sender.h). */
const USE_HEARTBEAT_V2 = 0x02
const THROUGH_GTID = 0x04
const STALL_EXTRA_MS = 5_000
const WRITE_TIMEOUT_SECONDS = 86_400
/** What the plain form can address. */
export const PLAIN_OFFSET_MAX = 0xffffffff

type Params = readonly (string | number | bigint | null)[]

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
    try {
      return await attempt(options.tls)
    } catch (error) {
      if (options.tls.mode === 'preferred' && lacksTls(error)) {
        try {
          return await attempt({ mode: 'disabled' })
        } catch (plain) {
          throw driverFailure(plain, `connecting to ${where}`, 'CONNECT_FAILED')
        }
      }
      throw driverFailure(error, `connecting to ${where}`, 'CONNECT_FAILED')
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
      await stream.registered()
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
    await this.query(
      `SET @master_heartbeat_period = ${heartbeat}, @source_heartbeat_period = ${heartbeat},` +
        ' @slave_uuid = ?, @replica_uuid = ?',
      [uuid, uuid],
    )
    // What a MariaDB server asks its replicas for, whose own names these are: 4, GTIDs and everything older; elsewhere they
    // mean nothing.
    await this.query(
      'SET @mariadb_slave_capability = 4, @slave_connect_state = ?, @slave_gtid_strict_mode = 0,' +
        ' @slave_gtid_ignore_duplicates = 0',
      [request.state ?? null],
    )
    const [row] = await this.query<{ checksum: string | null }>(
      'SELECT @@global.binlog_checksum AS checksum',
    )
    await this.query(
      'SET @master_binlog_checksum = @@global.binlog_checksum,' +
        ' @source_binlog_checksum = @@global.binlog_checksum',
    )
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

/** A command packet: sequence id 0. */
function command(body: Buffer): Buffer {
  const packet = Buffer.alloc(4 + body.length)
  packet.writeUIntLE(body.length, 0, 3)
  body.copy(packet, 4)
  return packet
}

/**
 * COM_REGISTER_SLAVE (sql/rpl_source.cc, register_replica):
 *
 *   1 command · 4 server id · 1+n host · 1+n user · 1+n password · 2 port · 4 rank (unused) · 4 source id (0)
 */
function registerCommand(serverId: number): Buffer {
  const body = Buffer.alloc(18)
  body[0] = COM_REGISTER_SLAVE
  body.writeUInt32LE(serverId, 1)
  return command(body)
}

/**
 * COM_BINLOG_DUMP (sql/rpl_source.cc, com_binlog_dump):
 *
 *   1 command · 4 position · 2 flags · 4 server id · rest file name
 */
function dumpCommand(request: DumpRequest): Buffer {
  assert(request.offset <= PLAIN_OFFSET_MAX, 'the plain dump cannot address beyond 4 GiB')
  const file = Buffer.from(request.file, 'utf8')
  const body = Buffer.alloc(11 + file.length)
  body[0] = COM_BINLOG_DUMP
  body.writeUInt32LE(request.offset, 1)
  body.writeUInt16LE(USE_HEARTBEAT_V2, 5)
  body.writeUInt32LE(request.serverId, 7)
  file.copy(body, 11)
  return command(body)
}

/**
 * COM_BINLOG_DUMP_GTID (sql/rpl_source.cc, com_binlog_dump_gtid):
 *
 *   1 command · 2 flags · 4 server id · 4 length of the file name · file name · 8 position · 4 length of the set · set
 */
function gtidDumpCommand(request: DumpRequest, gtids: Buffer): Buffer {
  const file = Buffer.from(request.file, 'utf8')
  const body = Buffer.alloc(23 + file.length + gtids.length)
  body[0] = COM_BINLOG_DUMP_GTID
  body.writeUInt16LE(USE_HEARTBEAT_V2 | THROUGH_GTID, 1)
  body.writeUInt32LE(request.serverId, 3)
  body.writeUInt32LE(file.length, 7)
  file.copy(body, 11)
  body.writeBigUInt64LE(BigInt(request.offset), 11 + file.length)
  body.writeUInt32LE(gtids.length, 19 + file.length)
  gtids.copy(body, 23 + file.length)
  return command(body)
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
  async registered(): Promise<void> {
    const { packets } = this
    for (;;) {
      while (!packets.next()) if (!(await this.more())) return
      if (packets.last) break
    }
    packets.restart()
  }

  async more(): Promise<boolean> {
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
