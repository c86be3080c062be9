/**
 * Asks the running server through its admin port, as one of the accounts in its configuration: for commands that steer what
 * runs. Whoever can read the configuration (or the token beside the state) may do what it allows.
 */
import { readFileSync } from 'node:fs'
import { request as plainRequest, type IncomingMessage } from 'node:http'
import { request as tlsRequest } from 'node:https'
import { join } from 'node:path'
import type { ServerConfig } from '../../config/config.ts'
import { SluiceError } from '../../errors.ts'

const WAIT_MS = 30_000
const ANSWER_BYTES_MAX = 64 * 1024 * 1024

export interface Ask {
  readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE'
  /** Below /api/v1. */
  readonly path: string
  readonly body?: object
}
/** What stands in the way of asking at all, as a sentence. */
export type Away = { readonly away: string }

/**
 * The answer of the running server. Away where there is no admin port or nobody listens on it. Throws SERVER_REFUSED with the
 * server's own words.
 */
export async function askServer<T extends object>(
  config: ServerConfig,
  ask: Ask,
): Promise<T | Away> {
  const { port, host } = config.admin
  if (port === undefined || port === 0)
    return { away: 'conf/server.yaml names no admin.port, by which it could be asked' }
  const authorization = accountOf(config)
  if (authorization === undefined)
    return { away: 'there is no account of an operator in admin.accounts, and no admin.token' }
  const at = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host
  try {
    const { status, text } = await send(config, { ...ask, host: at, port, authorization })
    const answer = JSON.parse(text) as T & { readonly error?: { readonly message: string } }
    if (status >= 200 && status < 300) return answer
    throw refused(`${at}:${port}`, answer.error?.message ?? `status ${status}`)
  } catch (error) {
    if (error instanceof SluiceError) throw error
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'ECONNREFUSED') return { away: `nobody listens on ${at}:${port} (admin.port)` }
    throw refused(`${at}:${port}`, message, error)
  }
}
const refused = (at: string, message: string, cause?: unknown): SluiceError =>
  new SluiceError('SERVER_REFUSED', `the server at ${at}: ${message}`, { cause })
export const isAway = (answer: object): answer is Away => 'away' in answer

/** The header of an operator, or of whoever there is. */
function accountOf({ admin, dataDir }: ServerConfig): string | undefined {
  const accounts = Object.entries(admin.accounts).sort(([, a]) => (a.role === 'operator' ? -1 : 1))
  for (const [name, { token, password }] of accounts) {
    if (token !== undefined) return `Bearer ${token}`
    if (password !== undefined)
      return `Basic ${Buffer.from(`${name}:${password}`).toString('base64')}`
  }
  try {
    return `Bearer ${readFileSync(join(dataDir, 'admin.token'), 'utf8').trim()}`
  } catch {
    return undefined
  }
}

interface Sent extends Ask {
  readonly host: string
  readonly port: number
  readonly authorization: string
}
function send(
  { admin: { tls } }: ServerConfig,
  sent: Sent,
): Promise<{ status: number; text: string }> {
  const { method, path, body, host, port, authorization } = sent
  const payload = method === 'GET' ? undefined : JSON.stringify(body ?? {})
  const headers = {
    authorization,
    ...(payload !== undefined && {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(payload),
    }),
  }
  const options = { host, port, method, path: `/api/v1${path}`, headers, timeout: WAIT_MS }
  return new Promise((resolve, reject) => {
    const outgoing = tls
      ? tlsRequest({ ...options, ...ownCertificate(tls.cert) }, answered)
      : plainRequest(options, answered)
    function answered(incoming: IncomingMessage): void {
      const parts: Buffer[] = []
      let bytes = 0
      incoming.on('data', (part: Buffer) => {
        parts.push(part)
        bytes += part.length
        if (bytes > ANSWER_BYTES_MAX)
          outgoing.destroy(new Error(`expected an answer of at most ${ANSWER_BYTES_MAX} bytes`))
      })
      incoming.on('end', () =>
        resolve({ status: incoming.statusCode ?? 0, text: Buffer.concat(parts).toString('utf8') }),
      )
      incoming.on('error', reject)
    }
    outgoing.on('timeout', () => outgoing.destroy(new Error(`no answer in ${WAIT_MS / 1000} s`)))
    outgoing.on('error', reject)
    outgoing.end(payload)
  })
}
/** The certificate that the server was given is the one to trust, whoever signed it and whatever name it has. */
function ownCertificate(file: string): { ca: string; checkServerIdentity: () => undefined } {
  return { ca: readFileSync(file, 'utf8'), checkServerIdentity: () => undefined }
}
