/**
 * What the API shows, and changes nothing: the server, its instances with clients, sinks, tables and dead letters, what went
 * wrong of late, and who did what.
 */
import * as z from 'zod'
import type { TableVersions, Version } from '../../catalog/history.ts'
import { Control, controlFile, type Letter } from '../../sinks/letters/control.ts'
import { STEP_LOOKS } from '../live/past.ts'
import type { Panel } from '../panel.ts'
import { notFound } from '../refused.ts'
import { configReads } from './config.ts'
import { route, type Route } from './route.ts'
import { instanceView, showStage, stageView, whoView } from './views.ts'

const most = (limit: number, usual: number) =>
  z.coerce.number().int().min(1).max(limit).default(usual).describe('at most so many')

const serverView = z.strictObject({
  version: z.string(),
  node: z.string(),
  startedAt: z.iso.datetime(),
  ready: z.boolean(),
  healthy: z.boolean(),
  logLevel: z.string(),
  instances: z.record(z.string(), z.string()).describe('state by destination'),
  canal: z
    .strictObject({
      port: z.int(),
      connections: z.int(),
      connectionsTotal: z.int(),
      authFailures: z.int(),
      sentBytes: z.int(),
    })
    .nullable()
    .describe('null: the port is not open yet'),
  memoryBytes: z.int(),
})
const origin = z
  .enum(['ddl', 'captured', 'assumed'])
  .describe(
    'a statement of the log; the source, when nothing can have changed it since; the source, when something may have',
  )
const series = z.array(z.number().nullable())
const historyView = z
  .strictObject({
    stepMs: z.int(),
    at: z.array(z.number()).describe('ms since 1970, the end of each step'),
    changes: series.describe('read, a second'),
    bytes: series.describe('of log read, a second'),
    readMs: series.describe('commit to read, the worst of the step'),
    ackMs: series.describe('read to acked, of the client that is furthest behind'),
    storeBytes: series,
  })
  .describe('null: not known then')
const tableView = z.strictObject({
  database: z.string(),
  table: z.string(),
  versions: z.int().describe('how many definitions are known, through the log'),
  state: z.enum(['known', 'unknown', 'gone']).describe('unknown: its next row asks the source'),
  columns: z.int(),
  keys: z.array(z.string()).describe('columns of its key'),
  from: z.string().nullable().describe('the place in the log from which the newest holds'),
  origin: origin.nullable(),
})
const versionView = z.strictObject({
  from: z.string().describe('the place in the log from which it holds'),
  epoch: z.int(),
  origin,
  state: z.enum(['known', 'unknown', 'gone']),
  columns: z.array(
    z.strictObject({
      name: z.string(),
      type: z.string(),
      nullable: z.boolean(),
      key: z.boolean(),
    }),
  ),
})
const letterView = z.strictObject({
  id: z.int(),
  sink: z.string(),
  table: z.string(),
  op: z.string(),
  position: z.string(),
  code: z.string(),
  error: z.string(),
  time: z.string(),
  attempts: z.int(),
})
const image = z.record(z.string(), z.unknown())
const wholeLetterView = letterView.extend({
  key: z.string(),
  version: z.string(),
  before: image,
  after: image,
})
const notedView = z.strictObject({
  time: z.iso.datetime(),
  level: z.enum(['warn', 'error', 'fatal']),
  instance: z.string(),
  sink: z.string(),
  code: z.string(),
  position: z.string(),
  message: z.string(),
})
const auditView = z.strictObject({
  time: z.iso.datetime(),
  id: z.int(),
  phase: z.enum(['asked', 'done', 'failed', 'refused']),
  account: z.string(),
  address: z.string(),
  action: z.string(),
  details: z.string(),
})

const server: readonly Route[] = [
  route({
    method: 'GET',
    path: '/me',
    summary: 'Who asks, and what he may do',
    role: 'readOnly',
    reply: whoView,
    run: (_panel, { who }) => who,
  }),
  route({
    method: 'GET',
    path: '/server',
    summary: 'The process',
    role: 'readOnly',
    reply: serverView,
    run: showServer,
  }),
  route({
    method: 'GET',
    path: '/stages',
    summary: 'What every stage is doing, and what stands still',
    role: 'readOnly',
    reply: z.strictObject({ healthy: z.boolean(), stages: z.array(stageView) }),
    run: ({ watchdog }) => ({
      healthy: watchdog.stages.every((s) => s.ok),
      stages: watchdog.stages.map(showStage),
    }),
  }),
  route({
    method: 'GET',
    path: '/errors',
    summary: 'Warnings and errors of late, the newest first',
    role: 'readOnly',
    query: z.strictObject({ destination: z.string().optional(), limit: most(200, 50) }),
    reply: z.array(notedView),
    run: ({ book }, { query: { destination, limit } }) =>
      book.noted
        .filter((n) => destination === undefined || n.instance === destination)
        .slice(-limit)
        .reverse(),
  }),
  route({
    method: 'GET',
    path: '/audit',
    summary: 'Who did what, the newest first',
    role: 'operator',
    query: z.strictObject({ limit: most(1000, 100) }),
    reply: z.array(auditView),
    run: ({ audit }, { query }) => audit.read(query.limit),
  }),
]

const instances: readonly Route[] = [
  route({
    method: 'GET',
    path: '/instances',
    summary: 'Every instance with its clients and sinks',
    role: 'readOnly',
    reply: z.array(instanceView),
    run: (panel) => panel.instances(),
  }),
  route({
    method: 'GET',
    path: '/instances/{destination}',
    summary: 'One instance with its clients and sinks',
    role: 'readOnly',
    reply: instanceView,
    run: (panel, { params }) => panel.instance(params['destination']!),
  }),
  route({
    method: 'GET',
    path: '/instances/{destination}/history',
    summary:
      'The last hour of an instance, in steps of ten seconds, as far as this process goes back',
    role: 'readOnly',
    reply: historyView,
    run: (panel, { params }) => {
      const { at, ...rest } = panel.past.series(panel.member(params['destination']!).name)
      return { stepMs: STEP_LOOKS * 1000, at: at.map(Number), ...rest }
    },
  }),
  route({
    method: 'GET',
    path: '/instances/{destination}/tables',
    summary: 'The tables whose definitions are known, by name',
    role: 'readOnly',
    query: z.strictObject({
      database: z.string().optional(),
      search: z
        .string()
        .optional()
        .describe('only names (database.table) with these letters, in any case'),
      after: z.string().optional().describe('database.table: only what comes behind it'),
      limit: most(1000, 200),
    }),
    reply: z.array(tableView),
    run: (panel, { params, query: { database, search = '', after = '', limit } }) =>
      panel
        .running(params['destination']!)
        .tables.filter((t) => database === undefined || t.database === database)
        .map(showTable)
        .filter((t) => nameOf(t) > after && nameOf(t).toLowerCase().includes(search.toLowerCase()))
        .sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1))
        .slice(0, limit),
  }),
  route({
    method: 'GET',
    path: '/instances/{destination}/tables/{database}/{table}',
    summary: 'The definitions of a table through the log, the oldest first',
    role: 'readOnly',
    reply: z.array(versionView),
    run: (panel, { params }) => {
      const { destination, database, table } = params
      const found = panel
        .running(destination!)
        .tables.find((t) => t.database === database && t.table === table)
      if (!found) throw notFound(`nothing is known of a table ${database}.${table}`)
      return found.versions.map(showVersion)
    },
  }),
  route({
    method: 'GET',
    path: '/instances/{destination}/deadletters',
    summary: 'Rows that targets have refused, the oldest first, without their contents',
    role: 'readOnly',
    query: z.strictObject({
      sink: z.string().optional(),
      after: z.coerce.number().int().min(0).default(0).describe('only ids above it'),
      limit: most(1000, 200),
    }),
    reply: z.array(letterView),
    run: (panel, { params, query: { sink, after, limit } }) =>
      withLetters(panel, params['destination']!, (control) => control?.letters(sink) ?? [])
        .filter(({ id }) => id > after)
        .slice(0, limit)
        .map(showLetter),
  }),
  route({
    method: 'GET',
    path: '/instances/{destination}/deadletters/{id}',
    summary: 'A row that a target has refused, with its contents',
    role: 'operator',
    reply: wholeLetterView,
    run: (panel, { params }) => {
      const { destination, id } = params
      const letter = withLetters(panel, destination!, (control) =>
        /^\d{1,15}$/.test(id!) ? control?.letter(Number(id)) : undefined,
      )
      if (!letter) throw notFound(`there is no dead letter ${id}`)
      return {
        ...showLetter(letter),
        key: letter.key,
        version: letter.version,
        ...imagesOf(letter),
      }
    },
  }),
]

export const reads: readonly Route[] = [...server, ...instances, ...configReads]

function showServer(panel: Panel): z.input<typeof serverView> {
  const { version, startedAt, ready, watchdog, book, canal, fleet } = panel
  const { connectionsOpen, connectionsTotal, authFailures, bytesOut } = canal?.counters ?? {}
  return {
    version,
    node: process.versions.node,
    startedAt,
    ready,
    healthy: watchdog.stages.every((s) => s.ok),
    logLevel: book.level,
    instances: Object.fromEntries(
      fleet.members().map((m) => [m.name, m.instance?.status.state ?? 'stopped']),
    ),
    canal: canal
      ? {
          port: canal.port,
          connections: connectionsOpen!,
          connectionsTotal: connectionsTotal!,
          authFailures: authFailures!,
          sentBytes: bytesOut!,
        }
      : null,
    memoryBytes: process.memoryUsage.rss(),
  }
}

const nameOf = (t: { readonly database: string; readonly table: string }): string =>
  `${t.database}.${t.table}`
const stateOf = ({ now }: Version): 'known' | 'unknown' | 'gone' =>
  now === undefined ? 'gone' : now === 'unknown' ? 'unknown' : 'known'
function showTable({ database, table, versions }: TableVersions): z.input<typeof tableView> {
  const last = versions.at(-1)
  const columns = typeof last?.now === 'object' ? last.now.columns : []
  return {
    database,
    table,
    versions: versions.length,
    state: last ? stateOf(last) : 'unknown',
    columns: columns.length,
    keys: columns.filter((c) => c.key).map((c) => c.name),
    from: last ? `${last.from.file}:${last.from.offset}` : null,
    origin: last?.origin ?? null,
  }
}
function showVersion(version: Version): z.input<typeof versionView> {
  const { from, now, origin } = version
  const columns = typeof now === 'object' ? now.columns : []
  return {
    from: `${from.file}:${from.offset}`,
    epoch: from.epoch,
    origin,
    state: stateOf(version),
    columns: columns.map(({ name, mysqlType, nullable, key }) => ({
      name,
      type: mysqlType,
      nullable,
      key,
    })),
  }
}

/** The file of dead letters and wishes, where there is one; checks that there is such an instance. */
export function withLetters<T>(
  panel: Panel,
  destination: string,
  work: (control: Control | undefined) => T,
): T {
  panel.member(destination) // or a name could be a path
  const control = Control.openIfThere(controlFile(panel.dataDir, destination))
  try {
    return work(control)
  } finally {
    control?.close()
  }
}
const showLetter = (letter: Letter): z.input<typeof letterView> => {
  const { id, sink, table, op, position, code, error, time, attempts } = letter
  return { id, sink, table, op, position, code, error, time, attempts }
}
function imagesOf({ row }: Letter): Record<'before' | 'after', Record<string, unknown>> {
  const { table, before, after } = JSON.parse(row) as {
    readonly table: { readonly columns: readonly { readonly name: string }[] }
    readonly before?: readonly unknown[]
    readonly after?: readonly unknown[]
  }
  const shown = (cell: unknown): unknown =>
    cell === null ? null : (cell as { readonly t: unknown }).t
  const of = (cells: readonly unknown[] = []): Record<string, unknown> =>
    Object.fromEntries(
      table.columns.flatMap(({ name }, i) =>
        cells[i] === undefined || cells[i] === 0 ? [] : [[name, shown(cells[i])]],
      ),
    )
  return { before: of(before), after: of(after) }
}
