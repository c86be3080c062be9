/**
 * The `admin` section of conf/server.yaml: the port for metrics, health and the API, who may do what there, and how long a
 * stage may stand still. Knows nothing of how any of it is served.
 */
import * as z from 'zod'
import {
  bytes,
  duration,
  flag,
  integer,
  oneOf,
  secret,
  section,
  serverTls,
  text,
} from './leaves.ts'

/** What an account may do: see, or see and act. */
export const roles = ['readOnly', 'operator'] as const
export type Role = (typeof roles)[number]

const TOKEN_MIN = 20
const PASSWORD_MIN = 10

const account = section({
  role: oneOf(roles)
    .default('readOnly')
    .describe('readOnly | operator; only an operator may act, and see the contents of rows'),
  token: secret(`a token of at least ${TOKEN_MIN} characters`)
    .min(TOKEN_MIN, { error: `a token of at least ${TOKEN_MIN} characters` })
    .optional()
    .describe('For Authorization: Bearer'),
  password: secret(`a password of at least ${PASSWORD_MIN} characters`)
    .min(PASSWORD_MIN, { error: `a password of at least ${PASSWORD_MIN} characters` })
    .optional()
    .describe('For Authorization: Basic, with the name of the account as the user'),
})
export type Account = Readonly<z.output<typeof account>>

const limit = (value: string, what: string) =>
  duration('1s', '8760h').prefault(value).describe(what)

export const adminSection = section({
  host: text('an address or host name')
    .default('127.0.0.1')
    .describe('Address the admin port listens on'),
  port: integer('a TCP port, 0 to 65535', 0, 65_535)
    .optional()
    .describe(
      'The port for metrics, health and the API; 0 picks a free one; none: there is no such port',
    ),
  tls: serverTls.optional().describe('TLS on the admin port; none: plain HTTP'),
  hostNames: z
    .array(text('a host name'), { error: 'a list of host names' })
    .default([])
    .describe(
      'Host names by which it may be asked, beside those of this machine where host is a loopback address',
    ),
  accounts: z
    .record(z.string(), account, { error: 'a mapping of names to accounts' })
    .default({})
    .describe(
      'Who may use the API, by name: {role, token} or {role, password}; none: the token in admin.token of dataDir, an operator',
    ),
  openMetrics: flag()
    .default(true)
    .describe(
      'false: /metrics needs an account too; /healthz and /readyz are open, and say only what stands still',
    ),
  bodyBytesMax: bytes('1KiB', '64MiB')
    .prefault('1MiB')
    .describe('Longest body of a request; longer is refused'),
  requestMs: duration('1s', '1h').prefault('30s').describe('How long a request may take to arrive'),
  health: section({
    readMs: limit(
      '30s',
      'Reading a source: not connected, or behind the end of its log without moving',
    ),
    storeMs: limit('60s', 'A full store that nobody empties'),
    clientMs: limit('60s', 'A connected client that has changes to take or to ack'),
    awayMs: limit('10m', 'A subscribed client that is not connected and has changes to take'),
    sinkMs: limit('60s', 'A sink that has changes to write, paused or not'),
  })
    .prefault({})
    .describe('How long a stage may have work and make no progress before /healthz fails'),
})
  .prefault({})
  .describe('The port for metrics, health and the API')
export type AdminConfig = Readonly<z.output<typeof adminSection>>

/** What the schema cannot say. */
export function adminProblems({
  accounts,
}: AdminConfig): { readonly at: readonly string[]; readonly message: string }[] {
  return Object.entries(accounts).flatMap(([name, { token, password }]) => {
    const at = ['accounts', name]
    if (!/^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}$/.test(name)) {
      const message = 'expected a name of up to 64 letters, digits, "_", "-", "." and "@"'
      return [{ at, message }]
    }
    if ((token === undefined) === (password === undefined))
      return [{ at, message: 'expected either a token or a password' }]
    return []
  })
}
