/**
 * The SQL sink: MySQL, MariaDB and PostgreSQL tables that equal the source's. By default rows and position are stored in
 * one transaction, so that every change is in the target exactly once, whatever dies when; with `fence: version` every
 * row carries its version instead, for several writers at once.
 */
import * as z from 'zod'
import { SluiceError } from '../errors.ts'
import type { SinkRow } from './shape/row.ts'
import type { Dialect } from './sql/dialects/dialect.ts'
import type { SinkBatch } from './shape/batch.ts'
import { defineSink, type RowFailure, type Sink, type SinkContext } from './sink.ts'
import { addressOf, urlProblem } from './sql/dialects/address.ts'
import { mysqlDialect } from './sql/dialects/mysql.ts'
import { postgresDialect } from './sql/dialects/postgres.ts'
import { TargetCursor } from './sql/cursor.ts'
import { applier, stopper } from './sql/ddl.ts'
import { Fenced } from './sql/fenced.ts'
import { Tables, type TablesOptions } from './sql/tables.ts'
import { Transactional, type WriterOptions } from './sql/writer.ts'

const count = (max: number): z.ZodNumber => z.number().int().min(1).max(max)

const options = z.strictObject({
  url: z
    .string()
    .describe(
      'the target: `mysql://user:password@host:port/database` or `postgres://…`; its cursors are kept in this database',
    ),
  table: z
    .string()
    .default('{database}.{table}')
    .describe(
      "the target table's name; before a dot stands the database of MySQL or the schema of PostgreSQL. Several tables with one name are merged",
    ),
  fence: z
    .enum(['position', 'version'])
    .default('position')
    .describe(
      'position: rows and position in one transaction, exactly once. version: every row carries its version, so that several writers may work at once',
    ),
  versionColumn: z
    .string()
    .min(1)
    .default('sluice_version')
    .describe('with `fence: version`: the column of the version, 40 characters, NOT NULL'),
  tombstoneHours: count(87_600)
    .default(168)
    .describe('with `fence: version`: how long a delete is remembered; longer than any replay'),
  writers: count(32)
    .default(4)
    .describe('with `fence: version`: connections that write at the same time'),
  ddl: z
    .enum(['ignore', 'apply', 'stop'])
    .default('stop')
    .describe(
      'what a statement that changes tables does: nothing, the same in the target, or stop',
    ),
  createTables: z
    .boolean()
    .default(false)
    .describe(
      'make tables that the target lacks, with columns and primary key, without other indexes',
    ),
  keyless: z
    .enum(['refuse', 'match'])
    .default('refuse')
    .describe('tables without a primary key: refuse, or find a row by its whole image before'),
  zeroDates: z
    .enum(['null', 'error'])
    .default('null')
    .describe('PostgreSQL: what a date like 0000-00-00 becomes; error refuses the row'),
  nul: z
    .enum(['error', 'remove'])
    .default('error')
    .describe(
      'PostgreSQL: text with the character U+0000: refuse the row, or leave the character out',
    ),
  json: z
    .enum(['json', 'jsonb'])
    .default('json')
    .describe(
      'PostgreSQL: the type that `createTables` gives JSON; json keeps the text to the letter',
    ),
  cursorTable: z
    .string()
    .default('sluice_cursors')
    .describe('where the position is kept, in the database of `url`; made when it is not there'),
  tls: z
    .enum(['disabled', 'required', 'verify'])
    .default('disabled')
    .describe('required: encrypted; verify: the certificate and the host name too'),
  ca: z.string().optional().describe('with `tls: verify`: a PEM file of authorities to trust'),
  statementRows: count(100_000).default(2000).describe('rows of one statement, at most'),
  statementBytes: count(64 * 1024 * 1024)
    .default(512 * 1024)
    .describe('a statement is sent when it has this many bytes, or half of what the target takes'),
  connectTimeoutMs: count(600_000).default(10_000).describe('for the connection, in ms'),
  statementTimeoutMs: count(86_400_000)
    .default(300_000)
    .describe('after which a statement counts as lost, and the connection with it'),
})
export type SqlOptions = z.output<typeof options>

const NO_FAILURES: readonly RowFailure[] = []

export const sql = defineSink({
  type: 'sql',
  summary:
    'Writes to tables of MySQL, MariaDB or PostgreSQL, exactly once, or fenced by a version in every row.',
  options,
  problems,
  open,
})

function problems(o: SqlOptions): string[] {
  const found: string[] = []
  const url = urlProblem(o.url)
  if (url !== undefined) found.push(url)
  if (o.fence === 'version' && o.ddl === 'apply')
    found.push('ddl: expected ignore or stop with fence: version, got apply')
  if (o.fence === 'version' && o.keyless === 'match')
    found.push('keyless: expected refuse with fence: version, got match')
  return found
}

async function open(o: SqlOptions, context: SinkContext): Promise<Sink> {
  if (context.shared && o.fence === 'position') {
    throw new SluiceError(
      'SINK_UNSUITABLE',
      'fence: expected version where several workers write, found position: one position says nothing of their parts of the log',
    )
  }
  const address = addressOf(o)
  const dialect =
    address.dialect === 'mysql' ? await mysqlDialect(address) : postgresDialect(address, o.json)
  const cursors = dialect.quote(o.cursorTable)
  const tombstones = dialect.quote(`${o.cursorTable}_tombstones`)
  await prepare(dialect, cursors, tombstones)
  const tablesOptions: TablesOptions = {
    table: o.table,
    createTables: o.createTables,
    addColumns: o.ddl === 'apply' && dialect.name === 'postgres',
    keyless: o.keyless,
    fence: o.fence === 'version' ? o.versionColumn : undefined,
    zeroDates: o.zeroDates,
    nul: o.nul,
  }
  const makeTables = (): Tables => new Tables(dialect, tablesOptions)
  const shared = { dialect, statementRows: o.statementRows, statementBytes: o.statementBytes }
  if (o.fence === 'position')
    return transactional(o, context, { ...shared, tables: makeTables() }, cursors)
  const fenced = new Fenced({
    ...shared,
    makeTables,
    tombstones,
    locks: cursors,
    writers: o.writers,
    tombstoneHours: o.tombstoneHours,
  })
  await fenced.open()
  return {
    promise: 'fenced',
    inFlight: o.writers,
    target: ({ table }: SinkRow) => `${table.database}.${table.name}`,
    write: async (batch: SinkBatch, signal: AbortSignal) => {
      await fenced.write(batch, signal)
      return NO_FAILURES
    },
    ...(o.ddl === 'stop' ? { statement: stopper(dialect) } : {}),
    close: () => fenced.close(),
  }
}

async function prepare(dialect: Dialect, cursors: string, tombstones: string): Promise<void> {
  const session = await dialect.connect()
  try {
    for (const statement of dialect.bookkeeping(cursors, tombstones)) await session.run(statement)
  } finally {
    await session.close()
  }
}

async function transactional(
  o: SqlOptions,
  context: SinkContext,
  writing: WriterOptions,
  cursors: string,
): Promise<Sink> {
  const cursor = new TargetCursor(writing.dialect, context, cursors)
  const writer = new Transactional(writing, cursor)
  await writer.open()
  return {
    promise: 'transactional',
    wholeTransactions: true,
    inFlight: 1,
    resume: cursor.position,
    write: async (batch, signal) => {
      await writer.write(batch, signal)
      return NO_FAILURES
    },
    ...(o.ddl === 'ignore'
      ? {}
      : {
          statement:
            o.ddl === 'stop'
              ? stopper(writing.dialect)
              : applier({ ...writing, writer, createTables: o.createTables, context }),
        }),
    clears: o.ddl === 'apply',
    alters: o.ddl === 'apply',
    close: () => writer.close(),
  }
}
