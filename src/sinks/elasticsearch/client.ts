/**
 * The HTTP client: requests to the nodes of Elasticsearch or OpenSearch, and what their answers mean for a sink. It is the
 * transport of Elastic's own client (@elastic/transport, Apache-2.0) without the client around it: that one refuses
 * OpenSearch, and we send bytes that are made already. Answers come as text, for JSON.parse rounds large numbers.
 */
import { readFile } from 'node:fs/promises'
import type { Transport } from '@elastic/transport'
import { SluiceError } from '../../errors.ts'

export interface ClientOptions {
  readonly nodes: readonly string[]
  readonly username?: string | undefined
  readonly password?: string | undefined
  readonly apiKey?: string | undefined
  readonly caFile?: string | undefined
  readonly verify: boolean
  readonly compress: boolean
  readonly timeoutMs: number
}
export interface Answer {
  readonly status: number
  readonly text: string
}
export interface RequestOptions {
  readonly body?: Buffer | string | undefined
  readonly query?: Readonly<Record<string, string>>
  readonly signal?: AbortSignal | undefined
  /** Statuses that are answers, not errors; those below 400 are anyway. */
  readonly accept?: readonly number[]
}
type Method = 'GET' | 'PUT' | 'POST' | 'DELETE'

export class Client {
  readonly #transport: Transport
  /** Their addresses, without accounts. */
  readonly nodes: string
  readonly #failed: new (
    ...args: never[]
  ) => Error & { readonly meta: { statusCode?: number; body?: unknown } }
  private constructor(
    transport: Transport,
    nodes: string,
    failed: new (
      ...args: never[]
    ) => Error & { readonly meta: { statusCode?: number; body?: unknown } },
  ) {
    this.#transport = transport
    this.nodes = nodes
    this.#failed = failed
  }

  static async open(options: ClientOptions): Promise<Client> {
    const { Transport, Serializer, UndiciConnection, WeightedConnectionPool, errors } =
      await import('@elastic/transport')
    class Text extends Serializer {
      override deserialize<T>(json: string): T {
        return json as T
      }
    }
    const { username, password, apiKey, caFile, verify, timeoutMs, compress } = options
    const tls = {
      rejectUnauthorized: verify,
      ...(caFile === undefined ? {} : { ca: await readFile(caFile) }),
    }
    const auth =
      apiKey !== undefined
        ? { apiKey }
        : username !== undefined
          ? { username, password: password ?? '' }
          : undefined
    const pool = new WeightedConnectionPool({
      Connection: UndiciConnection,
      tls,
      ...(auth === undefined ? {} : { auth }),
    })
    pool.addConnection([...options.nodes])
    const transport = new Transport({
      connectionPool: pool,
      serializer: new Text(),
      // another node at once; pauses are the runner's
      maxRetries: options.nodes.length - 1,
      requestTimeout: timeoutMs,
      compression: compress,
      openTelemetry: { enabled: false },
    })
    return new Client(transport, shown(options.nodes), errors.ResponseError)
  }

  /**
   * Throws SINK_UNAVAILABLE where trying again may help, SINK_UNSUITABLE where it will not (no access, a request that the
   * server does not know), and the signal's reason.
   */
  async request(
    method: Method,
    path: string,
    { body, query = {}, signal, accept = [] }: RequestOptions = {},
  ): Promise<Answer> {
    const bulk = path.endsWith('/_bulk')
    const type = bulk ? 'application/x-ndjson' : 'application/json'
    try {
      const { statusCode, body: text } = await this.#transport.request<string>(
        {
          method,
          path,
          querystring: query,
          ...(body === undefined ? {} : { body: body as Buffer }),
        },
        {
          meta: true,
          ...(body === undefined
            ? {}
            : { headers: { 'content-type': type, accept: 'application/json' } }),
          ...(signal === undefined ? {} : { signal }),
        },
      )
      return { status: statusCode, text }
    } catch (error) {
      signal?.throwIfAborted()
      const what = `${method} ${path} on ${this.nodes}`
      if (!(error instanceof this.#failed)) {
        const message = error instanceof Error ? error.message : String(error)
        throw new SluiceError('SINK_UNAVAILABLE', `${what}: ${message}`, { cause: error })
      }
      const { statusCode = 0, body: answer } = error.meta
      const text = typeof answer === 'string' ? answer : ''
      if (accept.includes(statusCode)) return { status: statusCode, text }
      throw refusal(what, statusCode, text)
    }
  }
  async json<T>(method: Method, path: string, options?: RequestOptions): Promise<T> {
    return JSON.parse((await this.request(method, path, options)).text) as T
  }
  async close(): Promise<void> {
    await this.#transport.connectionPool.empty()
  }
}

/** Without the account that may stand in an address. */
function shown(nodes: readonly string[]): string {
  return nodes.map((node) => new URL(node).host).join(', ')
}

interface Cause {
  readonly type?: string
  readonly reason?: string
  readonly caused_by?: Cause
}
/** "type: reason (reason of the cause)" of the error that an answer or an item holds. */
export function describeError(error: Cause | string | undefined): string {
  if (error === undefined || typeof error === 'string') return error ?? 'no reason given'
  const cause = error.caused_by?.reason
  return `${error.type ?? 'error'}: ${error.reason ?? 'no reason given'}${cause === undefined ? '' : ` (${cause})`}`
}
/** What the server says was wrong, of an answer that is an error. */
export function reasonOf(text: string): string {
  try {
    const { error } = JSON.parse(text) as { error?: Cause | string }
    return describeError(error)
  } catch {
    return text.slice(0, 200)
  }
}

/** Kinds of refusals that pass by themselves, or when somebody makes room. */
export const passes = (status: number, type: string): boolean =>
  status === 429 ||
  status >= 500 ||
  type.includes('cluster_block_exception') ||
  type.includes('index_not_found_exception')

function refusal(what: string, status: number, text: string): SluiceError {
  const reason = reasonOf(text)
  const message = `${what}: status ${status}, ${reason}`
  return new SluiceError(passes(status, reason) ? 'SINK_UNAVAILABLE' : 'SINK_UNSUITABLE', message)
}

const { rawJSON } = JSON as unknown as { rawJSON(this: void, text: string): unknown }
/** Like JSON.parse, but a number that JavaScript would write differently stays as it is written. */
export function parseExact<T>(text: string): T {
  const keep = (_key: string, value: unknown, context?: { source?: string }): unknown =>
    typeof value === 'number' && context?.source !== undefined && context.source !== String(value)
      ? rawJSON(context.source)
      : value
  return JSON.parse(text, keep as (key: string, value: unknown) => unknown) as T
}
/** A number that parseExact gave, whole and exact. */
export const exactNumber = (value: unknown): bigint =>
  BigInt(typeof value === 'number' ? value : (value as { rawJSON: string }).rawJSON)
/** A number of any size for JSON.stringify. */
export const exactJson = (value: bigint): unknown => rawJSON(value.toString())
