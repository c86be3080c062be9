/**
 * Metrics under Canal's names, with its types, labels and units, so that dashboards made for it go on working. They mean the
 * same as far as that is possible; where not, their help says so.
 */
import { LATENCY_MS, type Traffic } from '../../server/clients.ts'
import type { InstanceFacts, Lag } from '../facts.ts'
import { family, one, perDestination, sum, type Family, type Sample } from './family.ts'

const ownClients = ({ clients }: InstanceFacts): InstanceFacts['clients'] =>
  clients.filter((c) => c.sink === undefined)
const parser = ({ status }: InstanceFacts) => ({ parser: status?.server ?? '' })
/** Of the client that is furthest behind, from the commit on. */
function worst(i: InstanceFacts, lags: (c: InstanceFacts['clients'][number]) => Lag[]): number {
  const own = i.clients.map((c) => sum(lags(c).map((lag) => lag.ms ?? 0)))
  return Math.max(0, ...own) + (i.read.ms ?? 0)
}

/** Canal's names, its types and units. */
export const canal: readonly Family[] = [
  family('canal_instance', 'gauge', 'An instance that runs; always 1', (s) => [
    ...one(
      () => 1,
      () => ({ mode: 'embedded' }),
    )(s),
  ]),
  family(
    'canal_instance_subscriptions',
    'gauge',
    'Clients that are subscribed, connected or not; sinks are not among them',
    one((i) => ownClients(i).filter((c) => c.status.subscribed).length),
  ),
  family(
    'canal_instance_traffic_delay',
    'gauge',
    'Milliseconds from commit to read; 0 when there is nothing to read; while the source has more or is not reached, how old a commit that waits can be',
    one((i) => i.read.ms ?? 0),
  ),
  family(
    'canal_instance_transactions',
    'counter',
    'Transactions read; a large one counts once for each of its parts',
    one((i) => i.status?.counts.transactions),
  ),
  family(
    'canal_instance_received_binlog_bytes',
    'counter',
    'Bytes of binlog of the transactions that were read',
    one((i) => i.status?.counts.logBytes, parser),
  ),
  family(
    'canal_instance_publish_blocking_time',
    'counter',
    'Always 0: between reader and store is no queue of its own that could block',
    one(() => 0, parser),
  ),
  family(
    'canal_instance_parser_mode',
    'gauge',
    'Always 1: the log is read in a thread of its own',
    one(
      () => 1,
      () => ({ parallel: 'true' }),
    ),
  ),
  family(
    'canal_instance_sink_blocking_time',
    'counter',
    'Milliseconds for which reading waited for room in the store',
    one((i) => i.status?.counts.waitMs),
  ),
  family(
    'canal_instance_store',
    'gauge',
    'The window of an instance, its size in bytes as a label; always 1',
    one(
      () => 1,
      (i) => ({ batchMode: 'MEMSIZE', size: String(i.status?.store?.windowBytes ?? 0) }),
    ),
  ),
  family(
    'canal_instance_store_produce_seq',
    'counter',
    'Transactions put into the window, parts counted',
    one((i) => i.status?.counts.transactions),
  ),
  family(
    'canal_instance_store_consume_seq',
    'counter',
    'The same less those that are still in the window',
    one((i) =>
      Math.max(0, (i.status?.counts.transactions ?? 0) - (i.status?.store?.transactions ?? 0)),
    ),
  ),
  family(
    'canal_instance_store_produce_mem',
    'counter',
    'Bytes of binlog put into the window',
    one((i) => i.status?.counts.logBytes),
  ),
  family(
    'canal_instance_store_consume_mem',
    'counter',
    'The same less the bytes that are still in the window',
    one((i) => Math.max(0, (i.status?.counts.logBytes ?? 0) - (i.status?.store?.bytes ?? 0))),
  ),
  family(
    'canal_instance_put_delay',
    'gauge',
    'Milliseconds from commit to read, as canal_instance_traffic_delay',
    one((i) => i.read.ms ?? 0),
  ),
  family(
    'canal_instance_get_delay',
    'gauge',
    'Milliseconds from commit to delivered, of the client or sink that is furthest behind',
    one((i) => worst(i, (c) => [c.deliver])),
  ),
  family(
    'canal_instance_ack_delay',
    'gauge',
    'Milliseconds from commit to acked, of the client or sink that is furthest behind',
    one((i) => worst(i, (c) => [c.deliver, c.ack])),
  ),
  family(
    'canal_instance_put_rows',
    'counter',
    'Changes read: row events, statements, begins and commits (not single rows)',
    one((i) => i.status?.counts.changes),
  ),
  family(
    'canal_instance_get_rows',
    'counter',
    'Changes delivered to clients and sinks, each counted; repeated ones too',
    one((i) => sum(i.clients.map((c) => c.status.tally.changes))),
  ),
  family(
    'canal_instance_ack_rows',
    'counter',
    'Changes acked by clients and sinks, each counted',
    one((i) => sum(i.clients.map((c) => c.status.tally.ackedChanges))),
  ),
  family(
    'canal_instance_client_packets',
    'counter',
    'Batches sent to Canal clients',
    ({ traffic }) =>
      [...traffic].map(([destination, t]): Sample => [
        { destination, packetType: 'GET' },
        t.batches,
      ]),
  ),
  family(
    'canal_instance_client_bytes',
    'counter',
    'Bytes of batches sent to Canal clients',
    perDestination((t) => t.bytes),
  ),
  family(
    'canal_instance_client_empty_batches',
    'counter',
    'Answers without changes sent to Canal clients',
    perDestination((t) => t.emptyBatches),
  ),
  family(
    'canal_instance_client_request_error',
    'counter',
    'Requests of Canal clients that were answered with an error; destination is empty, for a request may be refused before it names one',
    ({ canal: c }) =>
      c === undefined
        ? []
        : (
            [
              ['400', c.errors400],
              ['401', c.errors401],
              ['402', c.errors402],
            ] as const
          ).map(([errorCode, n]): Sample => [{ destination: '', errorCode }, n]),
  ),
  family(
    'canal_instance_client_request_latency',
    'histogram',
    'Milliseconds from a batch that is there to its reply in the hands of the socket',
    ({ traffic }) => [...traffic].flatMap(([destination, t]) => latency(destination, t)),
  ),
]

function latency(destination: string, { latency: counts, latencyMs }: Readonly<Traffic>): Sample[] {
  let below = 0
  const buckets = counts.map((n, i): Sample => {
    below += n
    const le = i < LATENCY_MS.length ? String(LATENCY_MS[i]) : '+Inf'
    return [{ destination, le }, below, '_bucket']
  })
  return [...buckets, [{ destination }, latencyMs, '_sum'], [{ destination }, below, '_count']]
}
