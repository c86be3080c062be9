/**
 * The options that every sink has, beside its own: which tables, how large a batch, what happens when something goes
 * wrong. `sinks:` of an instance file is a mapping of names to these and the options of the type, in one mapping. Knows no
 * type by name: the schema is made of the list it is given.
 */
import * as z from 'zod'
import {
  bytes,
  duration,
  flag,
  integer,
  oneOf,
  patterns,
  secret,
  section,
  template,
  text,
} from '../../config/leaves.ts'
import type { SinkType } from '../sink.ts'

const common = {
  enabled: flag().default(true).describe('false: the sink does not run; its position stays'),
  filter: section({
    include: patterns('regular expressions over database.table')
      .default('')
      .describe("Tables for this sink, Canal's syntax; none: all that the instance reads"),
    exclude: patterns('regular expressions over database.table')
      .default('')
      .describe('Tables to leave out; applied after include'),
  })
    .prefault({})
    .describe('What this sink gets of what the instance reads'),
  initialLoad: oneOf(['none', 'ifEmpty', 'always'])
    .default('none')
    .describe(
      'Rows that the tables have already, loaded beside the stream: none | ifEmpty (at its first start) | always (at each)',
    ),
  batch: section({
    changes: integer('a number of changes, 1 to 1000000', 1, 1_000_000)
      .default(10_000)
      .describe('Most changes (rows events, statements) in one write'),
    bytes: bytes('1KiB', '256MiB')
      .prefault('1MiB')
      .describe('Most bytes of binlog in one write; one larger change still goes alone'),
    waitMs: duration('0s', '1m')
      .prefault('0s')
      .describe('How long a write may be held back to grow; 0: as soon as something is there'),
  })
    .prefault({})
    .describe('How large a write is'),
  transactionBytesMax: bytes('1KiB', '1GiB')
    .prefault('8MiB')
    .describe(
      'A transaction of the source is kept in one write up to this size, where the sink asks for it',
    ),
  parallel: integer('a number of lanes, 1 to 64', 1, 64)
    .default(1)
    .describe('Writes at once, where the sink can; rows of one target keep their order'),
  retry: section({
    minMs: duration('1ms', '10m')
      .prefault('200ms')
      .describe('Pause before the first retry; doubles from there'),
    maxMs: duration('1ms', '1h').prefault('30s').describe('Longest pause between retries'),
    attempts: integer('a number of attempts, 0 to 1000000', 0, 1_000_000)
      .default(0)
      .describe('After so many failures in a row the sink stops; 0: never'),
  })
    .prefault({})
    .describe('Writing again after an error that may pass'),
  onError: oneOf(['stop', 'retry', 'deadLetter'])
    .default('stop')
    .describe('A row that the target refuses: stop | retry | deadLetter'),
  deadLettersMax: integer('a number of rows, 1 to 10000000', 1, 10_000_000)
    .default(100_000)
    .describe('Most dead letters kept of this sink; when there are more, it stops'),
  unloggedChange: oneOf(['stop', 'ignore', 'resnapshot'])
    .default('stop')
    .describe(
      'A change of rows that is not in the log as rows (TRUNCATE, …): stop | ignore | resnapshot (its tables are read again)',
    ),
}

const columnNames = (what: string) => z.array(text('a column name'), { error: `a list of ${what}` })
const named = (what: string) =>
  z.record(z.string(), text(`${what} as text`), { error: `a mapping of names to ${what}` })

const mask = z.union(
  [
    z.enum(['hash', 'redact']),
    section({ hash: section({ secret: secret('a secret').min(1) }) }),
    section({ truncate: integer('a number of characters', 0, 1_000_000) }),
  ],
  { error: 'hash, redact, {truncate: 4} or {hash: {secret: …}}' },
)
/** One entry of `tables:`. */
export const ruleSchema = section({
  match: patterns('regular expressions over database.table').describe(
    "Tables this rule is for, Canal's syntax; the first rule that matches counts",
  ),
  columns: section({
    include: columnNames('columns')
      .optional()
      .describe('Only these columns of the source; none: all'),
    exclude: columnNames('columns').default([]).describe('Not these'),
  })
    .prefault({})
    .describe('Which columns the target gets'),
  rename: named('names in the target').default({}).describe('Column → its name in the target'),
  constants: named('values').default({}).describe('Further columns: name → its value, as text'),
  computed: z
    .record(z.string(), template('a template'), { error: 'a mapping of names to templates' })
    .default({})
    .describe('Further columns: name → template over the columns of the source'),
  mask: z
    .record(z.string(), mask, { error: 'a mapping of columns to masks' })
    .default({})
    .describe('Column → hash | redact | {truncate: n} | {hash: {secret: …}}'),
  key: columnNames('columns of the target')
    .optional()
    .describe('Columns of the target that tell rows apart; none: the primary key'),
})
const tables = {
  tables: z
    .array(ruleSchema, { error: 'a list of rules' })
    .default([])
    .describe('What becomes of the columns of which tables, first rule first'),
}

/** What every sink has. */
export const commonSchema = section({ ...common, ...tables })
export type CommonOptions = Readonly<z.output<typeof commonSchema>>
/** One entry of `sinks:`: the common options, and the type's own beside them. */
export type SinkConfig = CommonOptions & { readonly type: string } & Readonly<
    Record<string, unknown>
  >

/** The schema of one type's entry: `type`, its own options, the common ones. */
export function entrySchema(sink: SinkType): z.ZodObject {
  return section({
    type: z.literal(sink.type).describe(sink.summary),
    ...common,
    ...tables,
    ...sink.options.shape,
  })
}

/** The schema of one sink of any of these types. */
export function sinkSchema(types: readonly SinkType[]): z.ZodType<SinkConfig> {
  const names = `one of ${types.map((t) => t.type).join(', ')}`
  const error = ({ code }: { readonly code?: string | undefined }): string =>
    code === 'invalid_union' ? names : `a mapping with type: ${names}`
  const entries = types.map(entrySchema)
  const entry =
    entries.length === 0
      ? z.never({ error: 'no sink, for there are no types of sinks' })
      : z.discriminatedUnion('type', entries as [z.ZodObject, ...z.ZodObject[]], { error })
  return entry as unknown as z.ZodType<SinkConfig>
}
/** The schema of `sinks:`. */
export function sinksSchema(types: readonly SinkType[]): z.ZodType<Record<string, SinkConfig>> {
  return z.record(z.string(), sinkSchema(types), { error: 'a mapping of names to sinks' })
}

/** The type's own part of an entry, for its open(). */
export function ownOptions(type: SinkType, config: SinkConfig): Record<string, unknown> {
  const keys = Object.keys(type.options.shape)
  return Object.fromEntries(keys.map((key) => [key, config[key]]))
}
