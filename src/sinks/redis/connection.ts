/**
 * The connection to Redis: one server, what a sentinel calls the primary, or a cluster; and what an error of it means for
 * the sink. Loses nothing and repeats nothing by itself: a command that was under way when the connection broke fails, and
 * the runner writes again. Knows no rows.
 */
import { readFile } from 'node:fs/promises'
import type { ConnectionOptions } from 'node:tls'
import type { Cluster, Command as CommandType, Redis, RedisOptions as ClientOptions } from 'ioredis'
import { SluiceError } from '../../errors.ts'
import type { Logger } from '../../logger.ts'
import type { RedisOptions } from './options.ts'
import { SCRIPT } from './script.ts'

/** First words of replies after which trying again can help. */
const PASSING = new Set(
  'OOM READONLY LOADING CLUSTERDOWN MASTERDOWN TRYAGAIN BUSY MISCONF NOREPLICAS MOVED ASK UNKILLABLE'.split(
    ' ',
  ),
)
/** First words of replies that an operator must see to. */
const UNSUITABLE = new Set(['NOAUTH', 'WRONGPASS', 'NOPERM', 'NOPROTO', 'CROSSSLOT', 'DENIED'])

const MISSING = /unknown (redis )?command|executing the script can't/i

/** What an error of ioredis means: its code says who acts next. */
export function failureOf(error: unknown, what: string): SluiceError {
  if (error instanceof SluiceError) return error
  const { name, message } = error as Error
  const word = /^-?([A-Z]+)\b/.exec(message)?.[1] ?? ''
  const code =
    name !== 'ReplyError' || PASSING.has(word)
      ? 'SINK_UNAVAILABLE'
      : UNSUITABLE.has(word) || MISSING.test(message)
        ? 'SINK_UNSUITABLE'
        : 'SINK_DATA'
  return new SluiceError(code, `Redis, ${what}: ${message}`, { cause: error })
}

/** A call of the script, ready for the wire. */
interface Script {
  readonly count: number // of words of the command
  readonly bytes: Buffer // the whole command, with the script's name
  readonly rest: number // where in it the number of keys stands, behind the name
  readonly key: string // for the slot
}

export class Connection {
  readonly cluster: boolean
  readonly #client: Redis | Cluster
  readonly #command: typeof CommandType

  private constructor(client: Redis | Cluster, command: typeof CommandType, cluster: boolean) {
    this.#client = client
    this.#command = command
    this.cluster = cluster
  }

  /** Throws SINK_UNAVAILABLE, SINK_UNSUITABLE. */
  static async open(
    options: RedisOptions,
    name: string,
    log: Logger,
    signal: AbortSignal,
  ): Promise<Connection> {
    const { Redis, Cluster, Command } = await import('ioredis')
    const common = await clientOptions(options, name)
    const { cluster, sentinel, timeoutMs } = options
    const client =
      cluster !== undefined
        ? new Cluster(cluster.map(addressOf), {
            lazyConnect: true,
            slotsRefreshTimeout: timeoutMs,
            clusterRetryStrategy: pause,
            redisOptions: common,
          })
        : new Redis({
            ...common,
            retryStrategy: pause,
            ...(sentinel === undefined
              ? { host: options.host, port: options.port }
              : sentinelOptions(sentinel, common.tls)),
          })
    let last: unknown
    client.on('error', (error: Error) => {
      last = error
      log.debug({ error: error.message }, 'Redis connection')
    })
    const stop = (): void => client.disconnect()
    const timer = setTimeout(stop, timeoutMs)
    signal.addEventListener('abort', stop)
    try {
      await client.connect()
    } catch (error) {
      client.disconnect()
      throw failureOf(refusal(last, error), 'connecting')
    } finally {
      clearTimeout(timer)
      signal.removeEventListener('abort', stop)
    }
    return new Connection(client, Command, cluster !== undefined)
  }

  /** Runs the script by its name, and with its text on a server that does not know it yet; errors as failureOf. */
  async script({ count, bytes, rest, key }: Script): Promise<readonly unknown[]> {
    try {
      return (await this.#send('evalsha', bytes, key).catch((error: Error) => {
        if (!error.message.startsWith('NOSCRIPT')) throw error
        const words = `*${count}\r\n$4\r\nEVAL\r\n$${SCRIPT.length}\r\n${SCRIPT}\r\n`
        return this.#send('eval', Buffer.concat([Buffer.from(words), bytes.subarray(rest)]), key)
      })) as readonly unknown[]
    } catch (error) {
      throw failureOf(error, 'writing')
    }
  }
  /** A command whose words are written already: ioredis only learns the key, for the slot. */
  #send(name: string, bytes: Buffer, key: string): Promise<unknown> {
    const command = new this.#command(name, ['', 1, key], { replyEncoding: 'utf8' })
    command.toWritable = () => bytes
    return this.#client.sendCommand(command) as Promise<unknown>
  }
  /** Any other command, on the server of its key; errors as failureOf. */
  async call(name: string, ...args: (string | number)[]): Promise<unknown> {
    try {
      return await this.#client.call(name, ...args)
    } catch (error) {
      throw failureOf(error, name)
    }
  }
  /** The same, with a reply of bytes. */
  async bytes(name: string, ...args: (string | number)[]): Promise<unknown> {
    try {
      return await this.#client.callBuffer(name, ...args)
    } catch (error) {
      throw failureOf(error, name)
    }
  }
  /** Deletes keys, a thousand in a command; in a cluster each by itself. Errors as failureOf. */
  async unlink(keys: readonly string[]): Promise<void> {
    const most = this.cluster ? 1 : 1000
    for (let i = 0; i < keys.length;) {
      const round: Promise<unknown>[] = []
      for (; i < keys.length && round.length < 500; i += most)
        round.push(this.call('UNLINK', ...keys.slice(i, i + most)))
      await Promise.all(round)
    }
  }
  /** Every server that holds keys, to scan. */
  primaries(): readonly Redis[] {
    const client = this.#client
    return 'nodes' in client ? client.nodes('master') : [client]
  }
  /** Lets go of commands under way, which fail; a later one connects again. */
  interrupt(): void {
    this.#client.disconnect(true)
  }
  close(): void {
    this.#client.disconnect()
  }
}

const pause = (times: number): number => Math.min(50 * 2 ** Math.min(times, 6), 2000)

/** Why a connection was not made: what the server said rather than that it is closed. */
function refusal(last: unknown, error: unknown): unknown {
  const { lastNodeError } = (last ?? {}) as { lastNodeError?: unknown }
  return lastNodeError ?? last ?? error
}
function addressOf(text: string): { host: string; port: number } {
  const colon = text.lastIndexOf(':')
  return { host: text.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(text.slice(colon + 1)) }
}

async function clientOptions(
  options: RedisOptions,
  name: string,
): Promise<Omit<ClientOptions, 'replyMapping'>> {
  const { username, password, db, timeoutMs } = options
  const tls = await tlsOptions(options.tls)
  return {
    lazyConnect: true,
    connectionName: name.replace(/[^!-~]/g, '_'),
    connectTimeout: timeoutMs,
    commandTimeout: timeoutMs,
    socketTimeout: timeoutMs,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    disconnectTimeout: 200,
    // a server that still loads says so itself, and INFO may be forbidden
    enableReadyCheck: false,
    // a primary that became a replica: connect again, to whoever is the primary now
    reconnectOnError: (error) => error.message.includes('READONLY'),
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password }),
    ...(tls === undefined ? {} : { tls }),
    db,
  }
}
async function tlsOptions(tls: RedisOptions['tls']): Promise<ConnectionOptions | undefined> {
  if (tls === undefined || tls.mode === 'disabled') return undefined
  const file = async (what: string, path: string): Promise<Buffer> => {
    try {
      return await readFile(path)
    } catch (cause) {
      throw new SluiceError('SINK_UNSUITABLE', `tls.${what}: cannot read ${path}`, { cause })
    }
  }
  const verify = tls.mode === 'verify-ca' || tls.mode === 'verify-identity'
  return {
    rejectUnauthorized: verify,
    ...(tls.mode === 'verify-identity' ? {} : { checkServerIdentity: () => undefined }),
    ...(tls.ca === undefined ? {} : { ca: await file('ca', tls.ca) }),
    ...(tls.cert === undefined ? {} : { cert: await file('cert', tls.cert) }),
    ...(tls.key === undefined ? {} : { key: await file('key', tls.key) }),
  }
}
function sentinelOptions(
  sentinel: NonNullable<RedisOptions['sentinel']>,
  tls: ConnectionOptions | undefined,
): Omit<ClientOptions, 'replyMapping'> {
  const { name, nodes, username, password } = sentinel
  return {
    sentinels: nodes.map(addressOf),
    name,
    failoverDetector: true,
    ...(username === undefined ? {} : { sentinelUsername: username }),
    ...(password === undefined ? {} : { sentinelPassword: password }),
    ...(tls === undefined ? {} : { enableTLSForSentinelMode: true }),
    ...(sentinel.tls ? { sentinelTLS: tls ?? {} } : {}),
  }
}
