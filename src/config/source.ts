/**
 * Schemas of what an instance reads from: the source, those that stand by for it, where to begin, and what to do when a
 * source is lost or no longer has what is needed. Part of config.ts, which knows the files; knows no file.
 */
import * as z from 'zod'
import { bytes, duration, flag, integer, oneOf, path, port, section, text } from './leaves.ts'

const tls = {
  mode: oneOf(['disabled', 'preferred', 'required', 'verify-ca', 'verify-identity']),
  ca: path('certificates in PEM form')
    .optional()
    .describe('Authorities to trust, PEM file; none: those Node brings'),
  cert: path('the client certificate in PEM form')
    .optional()
    .describe('Client certificate, PEM file'),
  key: path("the client certificate's key in PEM form")
    .optional()
    .describe('Its private key, PEM file'),
}
const password = z.string({ error: 'a password as text (put digits in quotes)' })

export const sourceSchema = section({
  host: text('an address or host name').default('127.0.0.1').describe('The MySQL server'),
  port: port().default(3306).describe('Its port'),
  user: text('a user name')
    .default('canal')
    .describe('User with REPLICATION SLAVE, REPLICATION CLIENT and SELECT'),
  password: password.default('').describe('Its password'),
  tls: section({
    ...tls,
    mode: tls.mode
      .default('preferred')
      .describe(
        'disabled | preferred | required | verify-ca | verify-identity, as in the mysql client',
      ),
  })
    .prefault({})
    .describe('TLS to MySQL'),
  serverId: integer('a server id, 1 to 4294967295', 1, 4_294_967_295)
    .optional()
    .describe('Replica server id; none: a random one, changed when it clashes'),
  heartbeatMs: duration('100ms', '1h')
    .prefault('1s')
    .describe('How often an idle source sends a sign of life'),
  connectTimeoutMs: duration('100ms', '10m')
    .prefault('10s')
    .describe('How long a connection attempt may take'),
})
  .prefault({})
  .describe('The MySQL server to read from')

/** A source that stands by: what it does not say is as of `source`. */
export const standbysSchema = z
  .array(
    section({
      host: text('an address or host name').describe('The MySQL server'),
      port: port().optional().describe("Its port; none: the source's"),
      user: text('a user name').optional().describe("User; none: the source's"),
      password: password.optional().describe("Its password; none: the source's"),
      tls: section(tls).optional().describe("TLS; none: the source's"),
    }),
    { error: 'a list of sources, each with a host' },
  )
  .default([])
  .describe('Replicas of the source, in the order in which they are tried when it is lost')

const startError =
  'latest, earliest, {file: binlog.000123, offset: 4}, {gtids: "uuid:1-99"} or {timestamp: 2026-01-31T12:00:00Z}'
const timeError = 'a time like 2026-01-31T12:00:00Z, with its zone, or milliseconds since 1970'

/** A time as text with its zone, or as milliseconds since 1970; comes out in milliseconds. Undefined: it is none. */
export function parseTime(value: string): number | undefined {
  if (/^\d{12,14}$/.test(value)) return Number(value)
  const zoned = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?\s?(Z|[+-]\d\d:?\d\d)$/.test(value)
  const ms = zoned ? Date.parse(value.replace(' ', 'T').replace(/\s/, '')) : Number.NaN
  return Number.isNaN(ms) ? undefined : ms
}

export const startSchema = z
  .union(
    [
      z.enum(['latest', 'earliest']),
      section({
        file: text('a binlog file name'),
        offset: integer('an offset in bytes, 4 or more', 4, Number.MAX_SAFE_INTEGER).default(4),
      }),
      section({ gtids: text('a GTID set: everything already seen') }),
      section({
        timestamp: z
          .union([z.string({ error: timeError }), z.number({ error: timeError })])
          .transform((value) => parseTime(String(value)) ?? Number.NaN)
          .refine((ms) => !Number.isNaN(ms), { error: timeError }),
      }),
    ],
    { error: startError },
  )
  .prefault('latest')
  .describe(
    'Where to begin the very first time: latest | earliest | {file, offset} | {gtids} | {timestamp}; later the saved position counts',
  )

export const onPositionLostSchema = oneOf(['fail', 'earliest', 'latest', 'snapshot'])
  .default('fail')
  .describe(
    'When the source has purged what is still needed: fail | earliest (go on with the oldest it has) | latest (with its end) | snapshot (with the oldest, and sinks read their tables again)',
  )

export const onDivergedSchema = z
  .enum(['fail'], { error: 'fail (resnapshot comes with snapshots)' })
  .default('fail')
  .describe('When the source never had transactions that were already read: fail')

export const failoverSchema = section({
  afterMs: duration('0s', '24h')
    .prefault('10s')
    .describe('A source that cannot be read for so long is given up for the next of standbys'),
  lookBackMs: duration('1s', '24h')
    .prefault('1m')
    .describe('Without GTIDs: so long before the last change read is the new source searched'),
  divergedMs: duration('0s', '24h')
    .prefault('15s')
    .describe(
      'How long a source may lack transactions that were read before it counts as diverged',
    ),
})
  .prefault({})
  .describe('Going over to another source')

export const semiSyncSchema = flag()
  .default(false)
  .describe("Be a semi-synchronous replica: commits wait until every client's ack is durable")

export const changeLogSchema = section({
  enabled: flag().default(false).describe('Whether changes are kept on disk'),
  maxBytes: bytes('2MiB', '1048576GiB')
    .prefault('10GiB')
    .describe('What the log may take on disk; the oldest segments go first'),
  maxAgeMs: duration('0s', '87600h')
    .prefault('168h')
    .describe('Older segments are dropped; 0: only maxBytes counts'),
  segmentBytes: bytes('1MiB', '4GiB')
    .prefault('64MiB')
    .describe('A segment of this size is closed and another one begun'),
})
  .prefault({})
  .describe('The retained change log: docs/retained-log.md')
