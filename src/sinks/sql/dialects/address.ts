/**
 * Where a SQL target is: its URL taken apart, once, so that no password goes any further.
 */
import { readFileSync } from 'node:fs'
import { SluiceError } from '../../../errors.ts'

export interface Address {
  readonly dialect: 'mysql' | 'postgres'
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
  readonly database: string
  readonly tls: { readonly rejectUnauthorized: boolean; readonly ca?: string } | undefined
  readonly connectTimeoutMs: number
  readonly statementTimeoutMs: number
}
export interface AddressOptions {
  readonly url: string
  readonly tls: 'disabled' | 'required' | 'verify'
  readonly ca?: string | undefined
  readonly connectTimeoutMs: number
  readonly statementTimeoutMs: number
}

const schemes = new Map<string, { readonly dialect: Address['dialect']; readonly port: number }>([
  ['mysql:', { dialect: 'mysql', port: 3306 }],
  ['mariadb:', { dialect: 'mysql', port: 3306 }],
  ['postgres:', { dialect: 'postgres', port: 5432 }],
  ['postgresql:', { dialect: 'postgres', port: 5432 }],
])

/** What is wrong with the URL, as a sentence that holds nothing of it; undefined when it is right. */
export function urlProblem(text: string): string | undefined {
  if (!URL.canParse(text))
    return 'url: expected mysql://user:password@host:port/database or postgres://…, got what is no URL'
  const url = new URL(text)
  if (!schemes.has(url.protocol))
    return `url: expected a scheme of ${[...schemes.keys()].map((s) => s.slice(0, -1)).join(', ')}; got ${url.protocol.slice(0, -1)}`
  if (url.pathname.length < 2)
    return 'url: expected a database after the host, where the cursors of this sink are kept; got none'
  return undefined
}

/** Throws SINK_UNSUITABLE. */
export function addressOf(options: AddressOptions): Address {
  const problem = urlProblem(options.url)
  if (problem !== undefined) throw new SluiceError('SINK_UNSUITABLE', problem)
  const url = new URL(options.url)
  const { dialect, port } = schemes.get(url.protocol)!
  return {
    dialect,
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port === '' ? port : Number(url.port),
    user: decodeURIComponent(url.username),
    password: decodeURIComponent(url.password),
    database: decodeURIComponent(url.pathname.slice(1)),
    tls: tlsOf(options),
    connectTimeoutMs: options.connectTimeoutMs,
    statementTimeoutMs: options.statementTimeoutMs,
  }
}
function tlsOf({ tls, ca }: AddressOptions): Address['tls'] {
  if (tls === 'disabled') return undefined
  if (tls === 'required') return { rejectUnauthorized: false }
  if (ca === undefined) return { rejectUnauthorized: true }
  try {
    return { rejectUnauthorized: true, ca: readFileSync(ca, 'utf8') }
  } catch (cause) {
    throw new SluiceError('SINK_UNSUITABLE', `ca: cannot read ${ca}`, { cause })
  }
}
