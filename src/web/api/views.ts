/**
 * What the API shows, as schemas and as the functions that make it from the facts. The schemas are what the OpenAPI document
 * says, and a test holds real answers against them. Secrets are in none of it.
 */
import * as z from 'zod'
import { formatPosition, type Position } from '../../change.ts'
import { roles } from '../../config/admin.ts'
import { SluiceError, withoutPasswords } from '../../errors.ts'
import type { LogPlace } from '../../catalog/history.ts'
import type { SinkStatus } from '../../sinks/runner/runner.ts'
import { shownStates, type ClientFacts, type InstanceFacts, type Lag } from '../facts.ts'
import type { Stage } from '../health.ts'

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
})
export type InstanceView = z.output<typeof instanceView>
export const whoView = z.strictObject({ name: z.string(), role: z.enum(roles) })

export interface Rates {
  readonly transactions: number
  readonly changes: number
  readonly bytes: number
}

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
  }
}
const NOTHING = { transactions: 0, changes: 0, logBytes: 0, waitMs: 0, connects: 0, failures: 0 }

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
