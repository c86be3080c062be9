/**
 * The options of the Redis sink: where Redis is, and by which rules rows become keys. Knows no connection and no row.
 */
import * as z from 'zod'
import {
  duration,
  flag,
  integer,
  oneOf,
  path,
  patterns,
  port,
  secret,
  section,
  text,
} from '../../config/leaves.ts'
import { compileFilter } from '../../filter.ts'
import { Template } from '../shape/template.ts'

const many = (error: string) => z.union([text(error), z.array(text(error)).min(1)], { error })
const address = z.string({ error: 'an address like host:6379' }).regex(/^[^\s]+:\d{1,5}$/, {
  error: 'an address like host:6379',
})

export const kinds = [
  'string',
  'hash',
  'set',
  'zset',
  'stream',
  'pubsub',
  'json',
  'invalidate',
] as const

const rule = section({
  match: patterns('regular expressions over database.table')
    .default('')
    .describe("Tables of this rule, Canal's syntax; none: all that the sink gets"),
  except: patterns('regular expressions over database.table')
    .default('')
    .describe('Tables to leave out'),
  kind: oneOf(kinds).describe(`What a row becomes: ${kinds.join(' | ')}`),
  key: many('a template like {database}:{table}:{key}')
    .default('{database}:{table}:{key}')
    .describe(
      'Template of the key (stream: of the stream, pubsub: of the channel); invalidate takes a list',
    ),
  member: text('a template like {key}')
    .default('{key}')
    .describe('set, zset: template of the member; it must tell the rows of one key apart'),
  score: text("a column's name")
    .optional()
    .describe('zset: the column that gives the score; a number, or a date (seconds since 1970)'),
  fields: z
    .array(text("a column's name"))
    .min(1)
    .optional()
    .describe('Columns to write, in this order; none: all'),
  ttlMs: duration('1ms', '8760h')
    .optional()
    .describe('Keys expire so long after they were written last'),
  lengthMax: integer('a number of entries from 1', 1, 1e12)
    .optional()
    .describe('stream: trimmed to about so many entries'),
})
export type RuleOptions = Readonly<z.output<typeof rule>>

export const redisOptions = section({
  host: text('a host name').default('127.0.0.1').describe('The Redis server'),
  port: port().default(6379).describe('Its port'),
  cluster: z
    .array(address)
    .min(1)
    .optional()
    .describe('A Redis Cluster: addresses (host:port) of some of its nodes; instead of host'),
  sentinel: section({
    name: text('the name of the primary').describe('Name under which the sentinels know it'),
    nodes: z.array(address).min(1).describe('Addresses (host:port) of the sentinels'),
    username: text('a user').optional().describe('User for the sentinels'),
    password: secret('a password').optional().describe('Password for the sentinels'),
    tls: flag().default(false).describe('Whether the sentinels speak TLS too'),
  })
    .optional()
    .describe('Sentinels that know where the primary is; instead of host'),
  username: text('a user').optional().describe('User of an ACL; none: default'),
  password: secret('a password').optional().describe('Its password'),
  db: integer('a number of a database from 0', 0, 1_000_000)
    .default(0)
    .describe('Number of the database; a cluster has only 0'),
  tls: section({
    mode: oneOf(['disabled', 'required', 'verify-ca', 'verify-identity'])
      .default('verify-identity')
      .describe('disabled | required | verify-ca | verify-identity'),
    ca: path('certificates in PEM form').optional().describe('Authorities to trust, PEM file'),
    cert: path('a certificate in PEM form').optional().describe('Client certificate, PEM file'),
    key: path('a private key in PEM form').optional().describe('Its private key, PEM file'),
  })
    .optional()
    .describe('TLS to Redis; none: plain TCP'),
  keyPrefix: z
    .string({ error: 'a text' })
    .default('')
    .describe("Before every key, Sluice's own included"),
  rules: z
    .array(rule, { error: 'a list of rules' })
    .min(1, { error: 'at least one rule' })
    .describe('What rows become; every rule that matches a table holds'),
  decimal: oneOf(['string', 'number'])
    .default('string')
    .describe('DECIMAL in JSON: string | number'),
  binary: oneOf(['base64', 'hex'])
    .default('base64')
    .describe('Bytes in JSON: base64 | hex (in a hash they stand as they are)'),
  tombstoneTtlMs: duration('1s', '8760h')
    .prefault('168h')
    .describe('How long the version of a deleted row is kept: longer than the longest replay'),
  cursor: flag()
    .default(true)
    .describe('Keep the position in Redis, moved with the rows it stands for'),
  replicas: integer('a number of replicas, 0 to 100', 0, 100)
    .default(0)
    .describe('A write is done when so many replicas have it (WAIT)'),
  timeoutMs: duration('10ms', '1h')
    .prefault('10s')
    .describe('How long Redis may take to connect, or to answer'),
  visibleMs: duration('0s', '1h')
    .prefault('500ms')
    .describe('invalidate, on a source without GTIDs: pause between a change and the deletion'),
})
export type RedisOptions = Readonly<z.output<typeof redisOptions>>

/** What the schema cannot say. */
export function redisProblems(options: RedisOptions): readonly string[] {
  const problems: string[] = []
  if (options.cluster !== undefined && options.sentinel !== undefined)
    problems.push('cluster and sentinel: expected one of the two')
  if (options.cluster !== undefined && options.db !== 0)
    problems.push(`db: a cluster has only database 0, found ${options.db}`)
  for (const [i, r] of options.rules.entries())
    for (const problem of ruleProblems(r)) problems.push(`rules[${i}]: ${problem}`)
  return problems
}
function* ruleProblems(r: RuleOptions): Iterable<string> {
  const attempt = (what: () => unknown): string | undefined => {
    try {
      what()
      return undefined
    } catch (error) {
      return (error as Error).message
    }
  }
  const list = typeof r.key === 'string' ? [r.key] : r.key
  if (r.kind !== 'invalidate' && list.length > 1)
    yield `key: only invalidate takes a list, kind is ${r.kind}`
  for (const template of [...list, r.member]) {
    const problem = attempt(() => new Template(template))
    if (problem !== undefined) yield problem
  }
  const filter = attempt(() => compileFilter({ include: r.match, exclude: r.except }))
  if (filter !== undefined) yield filter
  if (r.kind === 'zset' && r.score === undefined)
    yield 'score: expected the column that gives the score of the sorted set'
  if (r.kind !== 'zset' && r.score !== undefined)
    yield `score: only zset has one, kind is ${r.kind}`
  if (r.kind !== 'stream' && r.lengthMax !== undefined)
    yield `lengthMax: only stream has one, kind is ${r.kind}`
}
