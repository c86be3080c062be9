/**
 * The admin port: HTTP for metrics, health and the API. Decides who is let in, before anything else is looked at; routes decide
 * what is shown. There are no cookies, so nothing that a browser sends by itself lets a foreign page act: what acts needs a
 * JSON body type, which a foreign page may not send unasked, and an origin that is ours.
 *
 * Must not know instances, clients or sinks: the panel and the routes do.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import type { TlsOptions } from 'node:tls'
import type * as z from 'zod'
import type { AdminConfig } from '../config/admin.ts'
import { SluiceError, type ErrorCode } from '../errors.ts'
import type { Logger } from '../logger.ts'
import { METRICS_TYPE } from '../metrics.ts'
import { actions } from './api/actions.ts'
import { API, openApi } from './api/openapi.ts'
import { reads } from './api/reads.ts'
import type { Route } from './api/route.ts'
import { showError } from './api/views.ts'
import type { Auth, Who } from './auth.ts'
import { assets, POLICY } from './console/assets.ts'
import { Stream } from './live/stream.ts'
import { metricsText } from './metrics/families.ts'
import type { Panel } from './panel.ts'
import { notFound, Refused } from './refused.ts'

export interface AdminOptions {
  readonly config: AdminConfig & { readonly port: number }
  readonly tls: TlsOptions | undefined
  readonly auth: Auth
  readonly panel: Panel
  readonly log: Logger
}

const URL_MAX = 4096
const CONNECTIONS_MAX = 500
const CLOSE_MS = 1000
const routes: readonly Route[] = [...reads, ...actions]

const HEADERS = {
  'cache-control': 'no-store',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
}
/** Statuses of errors that are not the server's fault. */
const STATUSES: Partial<Record<ErrorCode, number>> = {
  USAGE: 400,
  CONFIG_INVALID: 422,
  CONFIG_UNREADABLE: 409,
  GTID_MALFORMED: 400,
  DESTINATION_UNKNOWN: 404,
  STATE_LOCKED: 409,
  CURSOR_TAKEN: 409,
  CURSOR_CLOSED: 409,
  CONNECT_FAILED: 502,
  ACCESS_DENIED: 502,
  QUERY_FAILED: 502,
  TLS_FAILED: 502,
  POSITION_LOST: 422,
  SOURCE_UNSUITABLE: 422,
}

export class AdminServer {
  readonly port: number
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  readonly #options: AdminOptions
  readonly #requests = [0, 0, 0, 0, 0, 0] // by first digit of the status
  readonly #document: string

  private constructor(server: Server, options: AdminOptions) {
    this.#server = server
    this.#options = options
    this.#document = JSON.stringify(openApi(routes, options.panel.version))
    this.port = (server.address() as AddressInfo).port
    server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket)
      socket.once('close', () => this.#sockets.delete(socket))
    })
    server.on('request', (request, response) => void this.#serve(request, response))
  }
  /** Throws LISTEN_FAILED. */
  static async listen(options: AdminOptions): Promise<AdminServer> {
    const { config, tls } = options
    const limits = {
      headersTimeout: config.requestMs,
      requestTimeout: config.requestMs,
      keepAliveTimeout: 5000,
    }
    const server = tls ? createTlsServer({ ...limits, ...tls }) : createServer(limits)
    server.maxConnections = CONNECTIONS_MAX
    const { host, port } = config
    await new Promise<void>((resolve, reject) => {
      server.once('error', (cause) => {
        const text = `cannot listen on ${host}:${port} (admin): ${cause.message}`
        reject(new SluiceError('LISTEN_FAILED', text, { cause }))
      })
      server.listen({ host, port }, resolve)
    })
    server.removeAllListeners('error')
    server.on('error', (error) =>
      options.log.error({ err: error }, 'the admin port reports an error'),
    )
    return new AdminServer(server, options)
  }
  /** Lets answers under way finish, for a second. */
  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve))
    this.#server.closeIdleConnections()
    const late = setTimeout(() => {
      for (const socket of this.#sockets) socket.destroy()
    }, CLOSE_MS)
    await closed
    clearTimeout(late)
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    response.on('error', () => {})
    for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value)
    try {
      await this.#answer(request, response)
    } catch (error) {
      this.#refuse(error, response)
    }
    this.#requests[Math.floor(response.statusCode / 100)]!++
  }
  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = urlOf(request)
    this.#checkHost(request)
    const { pathname } = url
    if (!pathname.startsWith(`${API}/`)) return this.#open(request, pathname, response)
    const address = request.socket.remoteAddress ?? 'unknown'
    const who = this.#identify(request, address, response)
    if (pathname === `${API}/openapi.json`)
      return send(response, 200, this.#document, 'application/json')
    const { route, params } = find(request.method ?? '', pathname.slice(API.length), response)
    const action = `${route.method} ${decodeURIComponent(pathname.slice(API.length))}`
    if (route.role === 'operator' && who.role !== 'operator') {
      const message = `${who.name} is ${who.role}; this needs an operator`
      if (route.method !== 'GET') this.#note('refused', who, address, action, message)
      throw new Refused(403, 'NOT_AUTHORIZED', message)
    }
    if (route.method !== 'GET') checkOrigin(request)
    const query = parsed(route.query, Object.fromEntries(url.searchParams), 'the query')
    const text = await bodyOf(request, this.#options.config.bodyBytesMax)
    const body = route.body && parsed(route.body, json(text), 'the body')
    if (!route.body && text.trim() !== '' && text.trim() !== '{}')
      throw new Refused(400, 'REQUEST_INVALID', 'expected no body')
    const run = (): unknown =>
      route.run(this.#options.panel, { params, query, body, headers: request.headers, who })
    const result = await (route.method === 'GET'
      ? run()
      : this.#act(run, {
          who,
          address,
          action,
          details: noted(route, body),
          outcome: route.outcome,
        }))
    if (result instanceof Stream) return await result.serve(request, response)
    const tag = route.tag?.(result)
    if (tag !== undefined) response.setHeader('etag', `"${tag}"`)
    send(response, 200, JSON.stringify(result), 'application/json')
  }

  /** What needs no account. */
  #open(request: IncomingMessage, pathname: string, response: ServerResponse): void {
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.setHeader('allow', 'GET, HEAD')
      throw new Refused(405, 'REQUEST_INVALID', `expected GET, found ${request.method}`)
    }
    const { panel, config } = this.#options
    const { stages } = panel.watchdog
    const asset = assets.get(pathname)
    if (asset) {
      response.setHeader('content-security-policy', POLICY)
      return send(response, 200, asset.text, asset.type)
    }
    switch (pathname) {
      case '/livez':
        return send(response, 200, 'ok\n', 'text/plain')
      case '/readyz':
        return send(
          response,
          panel.ready ? 200 : 503,
          panel.ready ? 'ready\n' : 'not ready\n',
          'text/plain',
        )
      case '/healthz': {
        const failing = stages
          .filter((s) => !s.ok)
          .map(({ destination, stage, name, idleMs, limitMs }) => ({
            destination,
            stage,
            name,
            idleMs,
            limitMs,
          }))
        const status = failing.length === 0 ? 'ok' : 'failing'
        return send(
          response,
          status === 'ok' ? 200 : 503,
          JSON.stringify({ status, failing }),
          'application/json',
        )
      }
      case '/metrics': {
        if (!config.openMetrics)
          this.#identify(request, request.socket.remoteAddress ?? 'unknown', response)
        return send(response, 200, this.#metrics(), METRICS_TYPE)
      }
      default:
        throw notFound('there is nothing here; the console is at /, the API at /api/v1/')
    }
  }
  #metrics(): string {
    const { panel, auth } = this.#options
    return metricsText({
      instances: panel.watchdog.facts(),
      stages: panel.watchdog.stages,
      canal: panel.canal?.counters,
      traffic: panel.canal?.traffic ?? new Map(),
      admin: { requests: this.#requests, refused: auth.refused },
      version: panel.version,
    })
  }

  // ── who asks, and from where ───────────────────────────────────────────────

  #identify(request: IncomingMessage, address: string, response: ServerResponse): Who {
    const { auth } = this.#options
    const who = auth.check(request.headers.authorization, address)
    if (typeof who === 'object') return who
    if (who === 'limited') {
      response.setHeader('retry-after', String(auth.retryAfter(address)))
      throw new Refused(
        429,
        'NOT_AUTHORIZED',
        'too many wrong tokens or passwords from this address',
      )
    }
    // Bearer only: a browser that was asked for a password would send it along with every foreign page's request.
    response.setHeader('www-authenticate', 'Bearer realm="sluice"')
    const what =
      who === 'wrong' ? 'the token or password is wrong' : 'a token or a password is needed'
    if (who === 'wrong')
      this.#note('refused', { name: '', role: 'readOnly' }, address, 'authenticate', what)
    throw new Refused(401, 'NOT_AUTHORIZED', what)
  }
  /** A name that leads to this machine only since a moment ago is not ours (DNS rebinding). */
  #checkHost(request: IncomingMessage): void {
    const { host, hostNames } = this.#options.config
    const local = isLoopback(host)
    if (!local && hostNames.length === 0) return
    const asked = (request.headers.host ?? '')
      .replace(/:\d+$/, '')
      .replace(/^\[|\]$/g, '')
      .toLowerCase()
    const known = hostNames.some((name) => name.toLowerCase() === asked) || asked === host
    if (known || (local && isLoopback(asked))) return
    throw new Refused(
      421,
      'REQUEST_INVALID',
      'expected a Host header that names this server; admin.hostNames lists more',
    )
  }

  // ── actions ────────────────────────────────────────────────────────────────

  async #act(
    run: () => unknown,
    about: {
      readonly who: Who
      readonly address: string
      readonly action: string
      readonly details: string
      readonly outcome: Route['outcome']
    },
  ): Promise<unknown> {
    const { who, address, action, details, outcome } = about
    const id = this.#note('asked', who, address, action, details)
    try {
      const result = await run()
      this.#note('done', who, address, action, outcome?.(result) ?? '', id)
      return result
    } catch (error) {
      this.#note('failed', who, address, action, showError(error).message, id)
      throw error
    }
  }
  #note(
    phase: 'asked' | 'done' | 'failed' | 'refused',
    who: Who,
    address: string,
    action: string,
    details: string,
    id?: number,
  ): number {
    return this.#options.panel.audit.write(
      { phase, account: who.name, address, action, details },
      id,
    )
  }

  #refuse(error: unknown, response: ServerResponse): void {
    if (response.headersSent) {
      response.destroy()
      return
    }
    if (error instanceof Refused) {
      const { status, code, message, faults } = error
      if (status === 413) response.setHeader('connection', 'close')
      return send(
        response,
        status,
        JSON.stringify({ error: { code, message, ...(faults && { problems: faults }) } }),
        'application/json',
      )
    }
    const status = error instanceof SluiceError ? (STATUSES[error.code] ?? 500) : 500
    if (!(error instanceof SluiceError))
      this.#options.log.error({ err: error }, 'a request to the admin port failed unexpectedly')
    const shown =
      error instanceof SluiceError
        ? showError(error)
        : { code: 'INTERNAL', message: 'see the log of the server' }
    send(response, status, JSON.stringify({ error: shown }), 'application/json')
  }
}

function send(response: ServerResponse, status: number, text: string, type: string): void {
  const body = Buffer.from(text)
  response.writeHead(status, { 'content-type': type, 'content-length': body.length })
  response.end(response.req.method === 'HEAD' ? undefined : body)
}
function urlOf({ url = '' }: IncomingMessage): URL {
  if (!url.startsWith('/') || url.startsWith('//') || url.length > URL_MAX)
    throw new Refused(400, 'REQUEST_INVALID', `expected a path of at most ${URL_MAX} characters`)
  try {
    return new URL(url, 'http://localhost')
  } catch {
    throw new Refused(400, 'REQUEST_INVALID', 'expected a path')
  }
}
/** The route of a path; its parameters decoded. */
function find(
  method: string,
  path: string,
  response: ServerResponse,
): { readonly route: Route; readonly params: Record<string, string> } {
  const parts = path.split('/')
  const fitting = routes.flatMap((route) => {
    const params = match(route.path.split('/'), parts)
    return params ? [{ route, params }] : []
  })
  const found = fitting.find(({ route }) => route.method === method)
  if (found) return found
  if (fitting.length === 0) throw notFound('there is no such path; /api/v1/openapi.json lists them')
  response.setHeader('allow', fitting.map(({ route }) => route.method).join(', '))
  throw new Refused(405, 'REQUEST_INVALID', `${method} is not possible here`)
}
function match(
  pattern: readonly string[],
  parts: readonly string[],
): Record<string, string> | undefined {
  if (pattern.length !== parts.length) return undefined
  const params: Record<string, string> = {}
  for (const [i, want] of pattern.entries()) {
    const part = parts[i]!
    if (!want.startsWith('{')) {
      if (want !== part) return undefined
      continue
    }
    try {
      params[want.slice(1, -1)] = decodeURIComponent(part)
    } catch {
      return undefined
    }
  }
  return params
}
function checkOrigin({ headers }: IncomingMessage): void {
  const type = (headers['content-type'] ?? '').split(';')[0]!.trim().toLowerCase()
  if (type !== 'application/json')
    throw new Refused(415, 'REQUEST_INVALID', 'expected Content-Type: application/json')
  const { origin, host } = headers
  const site = headers['sec-fetch-site']
  const foreign = site !== undefined && site !== 'same-origin' && site !== 'none'
  if (foreign || (origin !== undefined && hostOf(origin) !== host))
    throw new Refused(403, 'NOT_AUTHORIZED', 'a page of another origin may not act here')
}
const hostOf = (origin: string): string => origin.replace(/^https?:\/\//, '')

async function bodyOf(request: IncomingMessage, most: number): Promise<string> {
  const chunks: Buffer[] = []
  let bytes = 0
  const tooLarge = (): Refused =>
    new Refused(413, 'REQUEST_INVALID', `expected a body of at most ${most} bytes`)
  if (Number(request.headers['content-length'] ?? 0) > most) throw tooLarge()
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > most) throw tooLarge()
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}
function json(text: string): unknown {
  try {
    return text === '' ? undefined : JSON.parse(text)
  } catch (error) {
    throw new Refused(400, 'REQUEST_INVALID', `expected JSON: ${(error as Error).message}`)
  }
}
function parsed<S extends z.ZodType>(schema: S, value: unknown, what: string): z.output<S> {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const issues = result.error.issues.map((i) => `${i.path.join('.') || what}: ${i.message}`)
  throw new Refused(400, 'REQUEST_INVALID', `${what} is not as expected: ${issues.join('; ')}`)
}
const DETAILS_MAX = 2000
function noted(route: Route, body: unknown): string {
  if (body === undefined) return ''
  const text = route.noted ? route.noted(body) : JSON.stringify(body)
  return text.length > DETAILS_MAX ? `${text.slice(0, DETAILS_MAX)}…` : text
}

/** Whether an address or name is this machine only. */
export const isLoopback = (host: string): boolean =>
  /^(localhost|127\.\d+\.\d+\.\d+|::1)$/.test(host)
