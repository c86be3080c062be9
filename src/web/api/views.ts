/**
 * What the API shows, as schemas and as the functions that make it from the facts. The schemas are what the OpenAPI document
 * says, and a test holds real answers against them. Secrets are in none of it.
 */
import * as z from 'zod'
import { formatPosition, type Position } from '../../change.ts'
import { roles } from '../../config/admin.ts'
import { SluiceError, withoutPasswords } from '../../errors.ts'
import type { LogPlace } from '../../catalog/history.ts'
import type { RetainedStatus } from '../../retained/retained.ts'
import type { LoadStatus } from '../../snapshot/load.ts'
import { describeOutlook, isUrgent } from '../../upstream/purge.ts'
import type { SinkStatus } from '../../sinks/runner/runner.ts'
import { shownStates, type ClientFacts, type InstanceFacts, type Lag } from '../facts.ts'
import type { Stage } from '../health.ts'
import type { Rates } from '../live/past.ts'

const count = z.int().min(0)
const time = z.iso.datetime().describe('ISO 8601, UTC')

export const positionView = z
  .strictObject({
    text: z
      .string()
      .describe('file:offset, and +n where n events of the transaction there are done'),
    file: z.string(),
    offset: count,
    skip: count,
    epoch: count,
    server: z.string().describe('server_uuid'),
    gtids: z.string().nullable(),
    time: time.nullable().describe('by the source; null where it is not known'),
  })
  .describe('A place in the binlog')
export const lagView = z
  .strictObject({ ms: z.number().nullable(), bytes: z.number().nullable() })
  .describe('null: not known')
export const errorView = z.strictObject({ code: z.string(), message: z.string() })
export const faultView = z.strictObject({
  line: z.int(),
  column: z.int(),
  key: z.string().describe('the path of keys; "" for the text as a whole'),
  message: z.string(),
})

export const clientView = z.strictObject({
  client: z.string(),
  kind: z.enum(['client', 'sink']),
  state: z
    .enum(['live', 'catchUp', 'away'])
    .describe('reads from the window; from a connection of its own; is not connected'),
  subscribed: z.boolean(),
  acked: positionView,
  delivered: positionView,
  outstandingBatches: count,
  lag: z.strictObject({
    deliver: lagView.describe('read to delivered'),
    ack: lagView.describe('delivered to acked'),
  }),
  totals: z
    .strictObject({
      batches: count,
      changes: count,
      bytes: count,
      ackedBatches: count,
      ackedChanges: count,
      ackedBytes: count,
      rollbacks: count,
    })
    .describe('since the instance was started'),
})
export const sinkView = z.strictObject({
  name: z.string(),
  type: z.string(),
  state: z.enum(['connecting', 'running', 'paused', 'stopped', 'retrying', 'failed', 'disabled']),
  since: time.nullable(),
  error: errorView.nullable(),
  acked: positionView.nullable().describe('everything before it is in the target'),
  lag: lagView,
  deadLetters: count.describe('that wait'),
  totals: z.strictObject({
    rows: count,
    bytes: count,
    writes: count,
    writeMs: z.number(),
    errors: count,
    retries: count,
    deadLetters: count,
  }),
})
export const stageView = z.strictObject({
  destination: z.string(),
  stage: z.enum(['read', 'store', 'client', 'sink']),
  name: z.string().describe('of the client or sink'),
  ok: z.boolean(),
  idleMs: count.describe('it has work and has not moved for so long'),
  limitMs: count,
  reason: z.string(),
})
const upstreamView = z
  .strictObject({
    reading: z.string().nullable().describe('host:port of the source that is read'),
    standbys: count,
    failovers: count.describe('how often another source was gone over to'),
    positionsLost: count.describe('how often the source no longer had what was needed'),
    lost: z
      .strictObject({
        time,
        clients: z.array(z.string()),
        policy: z.string(),
        range: z.string(),
        to: z.string().nullable().describe('where they go on; null: nowhere'),
      })
      .nullable()
      .describe('the last time'),
    purge: z
      .strictObject({
        client: z.string().describe('the slowest'),
        file: z.string().describe('the one that it needs'),
        behindFiles: count,
        inMs: z.number().describe('until it may be removed; negative: any moment'),
        retentionMs: count,
        bytesPerHour: count.describe('at which the log grew since'),
        urgent: z.boolean(),
        text: z.string(),
      })
      .nullable()
      .describe('what the source will keep, as last looked at; null: not known, or for good'),
    semiSyncAcks: count.nullable().describe('sent; null: semiSync is off'),
  })
  .describe('Of the sources, since the instance was started')
const snapshotView = z.strictObject({
  client: z.string(),
  state: z.enum(['running', 'paused', 'done', 'cancelled']),
  tables: count,
  done: count.describe('tables'),
  table: z.string().nullable().describe('the one that is read now'),
  rows: count,
  rowsPerSecond: z
    .union([count, z.literal('auto')])
    .describe('the most that is read; 0: as fast as it goes; auto: as the source bears'),
  pace: count.describe('rows a second that auto allows now; 0: as fast as it goes'),
  where: z.string().nullable().describe('the condition that rows fulfil; null: all rows'),
  keys: count.nullable().describe('how many keys are read, where it is a list of them'),
  skipped: z.array(z.strictObject({ table: z.string(), why: z.string() })),
  started: time,
  ended: time.nullable(),
})
const changeLogView = z
  .strictObject({
    segments: count,
    bytes: count,
    oldest: z.string().nullable().describe('where it begins'),
    newest: z.string().nullable(),
    oldestTime: time.nullable().describe("by the source's clock"),
    newestTime: time.nullable(),
    gaps: count.describe('places at which something is missing'),
    damaged: count.describe('segments'),
    error: z.string().nullable().describe('why it cannot be written'),
  })
  .describe('The retained change log')
export const instanceView = z.strictObject({
  destination: z.string(),
  state: z
    .enum(shownStates)
    .describe(
      'held: stopped by an operator; standby: another process has its state; invalid: its file has problems',
    ),
  since: time.nullable(),
  error: errorView.nullable(),
  source: z.strictObject({ address: z.string(), user: z.string(), tls: z.string() }).nullable(),
  epoch: count,
  position: positionView.nullable().describe('where reading goes on'),
  sourceEnd: z.strictObject({ file: z.string(), offset: count }).nullable(),
  lag: z.strictObject({ read: lagView.describe('commit to read') }),
  rates: z
    .strictObject({ transactions: z.number(), changes: z.number(), bytes: z.number() })
    .describe('a second, over the last ten seconds'),
  totals: z
    .strictObject({
      transactions: count,
      changes: count,
      logBytes: count,
      storeWaitMs: count,
      connects: count,
      failures: count,
    })
    .describe('since the instance was started'),
  store: z
    .strictObject({
      bytes: count,
      limitBytes: count,
      transactions: count,
      full: z.boolean(),
      readers: count.describe('connections for clients that fell out of the window'),
      first: z.string(),
      last: z.string(),
    })
    .nullable(),
  clients: z.array(clientView),
  sinks: z.array(sinkView),
  stages: z.array(stageView),
  guessedTables: z.array(z.string()),
  upstream: upstreamView,
  changeLog: changeLogView.nullable().describe('null: it is off'),
  snapshots: z.array(snapshotView),
})
export type InstanceView = z.output<typeof instanceView>
export const whoView = z.strictObject({ name: z.string(), role: z.enum(roles) })

const iso = (ms: number): string => new Date(ms).toISOString()

export function showPosition(p: Position): z.output<typeof positionView> {
  const { file, offset, skip, epoch, server, gtids, timestamp } = p
  return {
    text: formatPosition(p),
    file,
    offset,
    skip,
    epoch,
    server,
    gtids: gtids?.toString() ?? null,
    time: timestamp > 0 ? iso(timestamp) : null,
  }
}
const showLag = ({ ms, bytes }: Lag) => ({ ms: ms ?? null, bytes: bytes ?? null })
export function showError(error: unknown): z.output<typeof errorView> {
  const message = withoutPasswords(error instanceof Error ? error.message : String(error))
  return { code: error instanceof SluiceError ? error.code : 'INTERNAL', message }
}
export function showClient({
  status,
  sink,
  deliver,
  ack,
}: ClientFacts): z.output<typeof clientView> {
  const { client, state, subscribed, acked, read, outstanding, tally } = status
  return {
    client,
    kind: sink === undefined ? 'client' : 'sink',
    state,
    subscribed,
    acked: showPosition(acked),
    delivered: showPosition(read),
    outstandingBatches: outstanding,
    lag: { deliver: showLag(deliver), ack: showLag(ack) },
    totals: { ...tally },
  }
}
export function showSink(s: SinkStatus): z.output<typeof sinkView> {
  const { rows, bytes, writes, writeMs, errors, retries, deadLetters } = s
  return {
    name: s.name,
    type: s.type,
    state: s.state,
    since: iso(s.since),
    error: 'error' in s ? showError(s.error) : null,
    acked: s.acked ? showPosition(s.acked) : null,
    lag: { ms: s.lagMs, bytes: s.lagBytes },
    deadLetters: s.letters,
    totals: { rows, bytes, writes, writeMs, errors, retries, deadLetters },
  }
}
/** A sink that does not run: disabled, or its instance does not. */
function showIdleSink(name: string, type: string, enabled: boolean): z.output<typeof sinkView> {
  return {
    name,
    type,
    state: enabled ? 'stopped' : 'disabled',
    since: null,
    error: null,
    acked: null,
    lag: { ms: null, bytes: null },
    deadLetters: 0,
    totals: { rows: 0, bytes: 0, writes: 0, writeMs: 0, errors: 0, retries: 0, deadLetters: 0 },
  }
}
const showPlace = ({ file, offset }: LogPlace) => ({ file, offset })

export function showInstance(
  facts: InstanceFacts,
  { stages, rates }: { readonly stages: readonly Stage[]; readonly rates: Rates },
): InstanceView {
  const { member, state, status, end, read, clients } = facts
  const { name, config, trouble } = member
  const error = status && 'error' in status ? showError(status.error) : null
  const source = config?.source
  const idle = Object.entries(config?.sinks ?? {}).filter(
    ([sink]) => !facts.sinks.some((s) => s.name === sink),
  )
  const { transactions, changes, logBytes, waitMs, connects, failures } = status?.counts ?? NOTHING
  return {
    destination: name,
    state,
    since: status ? iso(status.since) : null,
    error:
      error ??
      (status || trouble === undefined
        ? null
        : { code: 'STOPPED', message: withoutPasswords(trouble) }),
    source: source
      ? { address: `${source.host}:${source.port}`, user: source.user, tls: source.tls.mode }
      : null,
    epoch: status?.epoch ?? 0,
    position: status?.position ? showPosition(status.position) : null,
    sourceEnd: end ? showPlace(end) : null,
    lag: { read: showLag(read) },
    rates,
    totals: { transactions, changes, logBytes, storeWaitMs: waitMs, connects, failures },
    store: showStore(status?.store),
    clients: clients.map(showClient),
    sinks: [
      ...facts.sinks.map(showSink),
      ...idle.map(([sink, { type, enabled }]) => showIdleSink(sink, type, enabled)),
    ],
    stages: stages.filter((s) => s.destination === name).map(showStage),
    guessedTables: [...(status?.guessedTables ?? [])],
    upstream: showUpstream(facts),
    changeLog: status?.changeLog ? showLog(status.changeLog) : null,
    snapshots: status?.snapshots.map(showSnapshot) ?? [],
  }
}
const NOTHING = { transactions: 0, changes: 0, logBytes: 0, waitMs: 0, connects: 0, failures: 0 }

function showUpstream({ status, member }: InstanceFacts): z.output<typeof upstreamView> {
  const { lost, purge } = status ?? {}
  return {
    reading: status?.server ?? null,
    standbys: member.config?.standbys.length ?? 0,
    failovers: status?.failovers ?? 0,
    positionsLost: status?.positionsLost ?? 0,
    lost: lost
      ? {
          time: iso(lost.at),
          clients: [...lost.clients],
          policy: lost.policy,
          range: lost.range,
          to: lost.to ?? null,
        }
      : null,
    purge: purge ? { ...purge, urgent: isUrgent(purge), text: describeOutlook(purge) } : null,
    semiSyncAcks: status?.semiSyncAcks ?? null,
  }
}
function showLog(log: RetainedStatus): z.output<typeof changeLogView> {
  const { segments, bytes, oldest, newest, oldestMs, newestMs, gaps, damaged, error } = log
  return {
    segments,
    bytes,
    oldest: oldest ? formatPosition(oldest) : null,
    newest: newest ? formatPosition(newest) : null,
    oldestTime: oldestMs === undefined ? null : iso(oldestMs),
    newestTime: newestMs === undefined ? null : iso(newestMs),
    gaps,
    damaged,
    error: error ?? null,
  }
}
/** Not where in a table it stands: that is the contents of a row. */
function showSnapshot(load: LoadStatus): z.output<typeof snapshotView> {
  const { client, state, tables, done, table, rows, skipped, started, ended } = load
  const { rowsPerSecond, pace, where, keys } = load
  const counts = { tables, done, table, rows, rowsPerSecond, pace, where, keys }
  return { client, state, ...counts, skipped: [...skipped], started, ended }
}
export const showStage = (stage: Stage): Stage => ({
  ...stage,
  reason: withoutPasswords(stage.reason),
})
function showStore(store: NonNullable<InstanceFacts['status']>['store']): InstanceView['store'] {
  if (!store) return null
  const { bytes, windowBytes, transactions, braking, readers, first, last } = store
  return {
    bytes,
    limitBytes: windowBytes,
    transactions,
    full: braking,
    readers,
    first: formatPosition(first),
    last: formatPosition(last),
  }
}
