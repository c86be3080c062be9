/**
 * Metrics under our own names: state, watchdog, lags hop by hop, what the source keeps, snapshots, clients, sinks, ports and the
 * process.
 */
import type { RetainedStatus } from '../../retained/retained.ts'
import type { Counters } from '../../server/clients.ts'
import { shownStates } from '../facts.ts'
import {
  client,
  each,
  family,
  one,
  seconds,
  sink,
  snapshot,
  wholeLoads,
  sum,
  type Family,
  type Sample,
} from './family.ts'

const LOAD_STATES = ['running', 'paused', 'done', 'cancelled'] as const
const SINK_STATES = ['connecting', 'running', 'retrying', 'failed', 'paused', 'stopped'] as const

/** Of the retained log, where there is one. */
const changeLog = (value: (log: RetainedStatus) => number | undefined) =>
  one((i) => i.status?.changeLog && value(i.status.changeLog))

const instances: readonly Family[] = [
  family(
    'sluice_instance_state',
    'gauge',
    'State of an instance: 1 for the one it is in, 0 for the others',
    each((i, destination) =>
      shownStates.map((state): Sample => [{ destination, state }, Number(i.state === state)]),
    ),
  ),
  family(
    'sluice_stage_ok',
    'gauge',
    '0: the stage has failed, or has work and has not moved within its limit; else 1',
    ({ stages }) =>
      stages.map(({ destination, stage, name, ok }): Sample => [
        { destination, stage, name },
        Number(ok),
      ]),
  ),
  family(
    'sluice_stage_idle_seconds',
    'gauge',
    'How long a stage has had work and has not moved',
    ({ stages }) =>
      stages.map(({ destination, stage, name, idleMs }): Sample => [
        { destination, stage, name },
        idleMs / 1000,
      ]),
  ),
  family(
    'sluice_read_lag_seconds',
    'gauge',
    'From commit to read',
    one((i) => seconds(i.read.ms)),
  ),
  family(
    'sluice_read_lag_bytes',
    'gauge',
    "Bytes of binlog between what was read and the end of the source's log; at least, where whole files lie between",
    one((i) => i.read.bytes),
  ),
  family(
    'sluice_source_connects_total',
    'counter',
    'Attempts to connect to the source',
    one((i) => i.status?.counts.connects),
  ),
  family(
    'sluice_source_failures_total',
    'counter',
    'Connections to the source that ended with an error',
    one((i) => i.status?.counts.failures),
  ),
  family(
    'sluice_standby_ready',
    'gauge',
    '1: the standby could take over; 0: it cannot be asked, does not replicate, or is too far behind',
    each((i, destination) =>
      (i.status?.standbys ?? []).map(({ server, reason }): Sample => [
        { destination, standby: server },
        Number(reason === ''),
      ]),
    ),
  ),
  family(
    'sluice_standby_lag_seconds',
    'gauge',
    'How far a standby is behind, by its own account',
    each((i, destination) =>
      (i.status?.standbys ?? []).flatMap(({ server, lagMs }): Sample[] =>
        lagMs === undefined ? [] : [[{ destination, standby: server }, lagMs / 1000]],
      ),
    ),
  ),
  family(
    'sluice_store_bytes',
    'gauge',
    'Bytes in the window',
    one((i) => i.status?.store?.bytes),
  ),
  family(
    'sluice_store_limit_bytes',
    'gauge',
    'windowBytes of the instance',
    one((i) => i.status?.store?.windowBytes),
  ),
  family(
    'sluice_store_full',
    'gauge',
    '1: reading waits for room in the window',
    one((i) => Number(i.status?.store?.braking ?? false)),
  ),
  family(
    'sluice_catchup_readers',
    'gauge',
    'Connections to the source for clients that fell out of the window',
    one((i) => i.status?.store?.readers),
  ),
]
const upstream: readonly Family[] = [
  family(
    'sluice_source_failovers_total',
    'counter',
    'Times another source was gone over to',
    one((i) => i.status?.failovers),
  ),
  family(
    'sluice_positions_lost_total',
    'counter',
    'Times the source no longer had what was needed',
    one((i) => i.status?.positionsLost),
  ),
  family(
    'sluice_purge_seconds',
    'gauge',
    'Until the source may remove the file that the slowest client needs, as last looked at (once a minute); negative: any moment; missing: not known, or nothing is removed by age',
    one((i) => seconds(i.status?.purge?.inMs)),
  ),
  family(
    'sluice_purge_behind_files',
    'gauge',
    'Files that the source has begun since the one that the slowest client needs',
    one((i) => i.status?.purge?.behindFiles),
  ),
  family(
    'sluice_semi_sync_acks_total',
    'counter',
    'Acknowledgements sent to a semi-synchronous source; missing where semiSync is off',
    one((i) => i.status?.semiSyncAcks),
  ),
  family(
    'sluice_log_bytes',
    'gauge',
    'Bytes of the retained change log; this and the others of the log are missing where it is off',
    changeLog((l) => l.bytes),
  ),
  family(
    'sluice_log_segments',
    'gauge',
    'Segments of the change log',
    changeLog((l) => l.segments),
  ),
  family(
    'sluice_log_oldest_seconds',
    'gauge',
    'Age of the oldest change in the change log',
    changeLog((l) => l.oldestMs && (Date.now() - l.oldestMs) / 1000),
  ),
  family(
    'sluice_log_gaps',
    'gauge',
    'Places in the change log at which something is missing',
    changeLog((l) => l.gaps),
  ),
  family(
    'sluice_log_damaged_segments',
    'gauge',
    'Segments of the change log that are known to be damaged',
    changeLog((l) => l.damaged),
  ),
  family(
    'sluice_log_ok',
    'gauge',
    '0: the change log cannot be written, and reading waits for it; else 1',
    changeLog((l) => Number(l.error === undefined)),
  ),
  family(
    'sluice_snapshot_state',
    'gauge',
    'State of the last load of a client: 1 for the one it is in, 0 for the others',
    each((i, destination) =>
      wholeLoads(i).flatMap((load) =>
        LOAD_STATES.map((state): Sample => [
          { destination, client: load.client, state },
          Number(load.state === state),
        ]),
      ),
    ),
  ),
  family(
    'sluice_snapshot_tables',
    'gauge',
    'Tables of the load',
    snapshot((l) => l.tables),
  ),
  family(
    'sluice_snapshot_tables_done',
    'gauge',
    'Tables of it that are done',
    snapshot((l) => l.done),
  ),
  family(
    'sluice_snapshot_rows_total',
    'counter',
    'Rows that the load has read',
    snapshot((l) => l.rows),
  ),
]
const clients: readonly Family[] = [
  family(
    'sluice_client_connected',
    'gauge',
    "1: the client's cursor is open",
    client((c) => Number(c.status.state !== 'away')),
  ),
  family(
    'sluice_client_deliver_lag_seconds',
    'gauge',
    "From read to delivered, by the source's clock",
    client((c) => seconds(c.deliver.ms)),
  ),
  family(
    'sluice_client_deliver_lag_bytes',
    'gauge',
    'From read to delivered, in bytes of binlog',
    client((c) => c.deliver.bytes),
  ),
  family(
    'sluice_client_ack_lag_seconds',
    'gauge',
    "From delivered to acked, by the source's clock",
    client((c) => seconds(c.ack.ms)),
  ),
  family(
    'sluice_client_ack_lag_bytes',
    'gauge',
    'From delivered to acked, in bytes of binlog',
    client((c) => c.ack.bytes),
  ),
  family(
    'sluice_client_outstanding_batches',
    'gauge',
    'Batches delivered and not acked',
    client((c) => c.status.outstanding),
  ),
  family(
    'sluice_client_batches_total',
    'counter',
    'Batches delivered',
    client((c) => c.status.tally.batches),
  ),
  family(
    'sluice_client_changes_total',
    'counter',
    'Changes delivered',
    client((c) => c.status.tally.changes),
  ),
  family(
    'sluice_client_bytes_total',
    'counter',
    'Bytes of binlog delivered',
    client((c) => c.status.tally.bytes),
  ),
  family(
    'sluice_client_acked_batches_total',
    'counter',
    'Batches acked',
    client((c) => c.status.tally.ackedBatches),
  ),
  family(
    'sluice_client_rollbacks_total',
    'counter',
    'Times a client began again at what it had acked',
    client((c) => c.status.tally.rollbacks),
  ),
]
const sinks: readonly Family[] = [
  family(
    'sluice_sink_state',
    'gauge',
    'State of a sink: 1 for the one it is in, 0 for the others',
    each((i, destination) =>
      i.sinks.flatMap((s) =>
        SINK_STATES.map((state): Sample => [
          { destination, sink: s.name, type: s.type, state },
          Number(s.state === state),
        ]),
      ),
    ),
  ),
  family(
    'sluice_sink_rows_total',
    'counter',
    'Rows that the target has confirmed',
    sink((s) => s.rows),
  ),
  family(
    'sluice_sink_bytes_total',
    'counter',
    'Bytes of binlog of the batches given to the sink',
    sink((s) => s.bytes),
  ),
  family(
    'sluice_sink_writes_total',
    'counter',
    'Writes that the target has confirmed',
    sink((s) => s.writes),
  ),
  family(
    'sluice_sink_write_seconds_total',
    'counter',
    'Time spent in writes',
    sink((s) => s.writeMs / 1000),
  ),
  family(
    'sluice_sink_errors_total',
    'counter',
    'Writes and rows that failed',
    sink((s) => s.errors),
  ),
  family(
    'sluice_sink_retries_total',
    'counter',
    'Writes tried again',
    sink((s) => s.retries),
  ),
  family(
    'sluice_sink_dead_letters_total',
    'counter',
    'Rows put aside because the target refused them',
    sink((s) => s.deadLetters),
  ),
  family(
    'sluice_sink_dead_letters',
    'gauge',
    'Dead letters that wait',
    sink((s) => s.letters),
  ),
  family(
    'sluice_sink_lag_seconds',
    'gauge',
    "From read to written, by the source's clock",
    sink((s) => seconds(s.lagMs)),
  ),
  family(
    'sluice_sink_lag_bytes',
    'gauge',
    'From read to written, in bytes of binlog',
    sink((s) => s.lagBytes),
  ),
]
const counter = (name: string, help: string, of: (c: Counters) => number): Family =>
  family(name, 'counter', help, ({ canal: c }) => (c ? [[{}, of(c)]] : []))
const server: readonly Family[] = [
  family('sluice_canal_connections', 'gauge', 'Connections to the Canal port', ({ canal: c }) =>
    c ? [[{}, c.connectionsOpen]] : [],
  ),
  counter(
    'sluice_canal_connections_total',
    'Connections accepted by the Canal port',
    (c) => c.connectionsTotal,
  ),
  counter(
    'sluice_canal_connections_refused_total',
    'Connections refused because of canal.connectionsMax',
    (c) => c.connectionsRefused,
  ),
  counter(
    'sluice_canal_auth_failures_total',
    'Canal clients whose user or password was wrong',
    (c) => c.authFailures,
  ),
  counter(
    'sluice_canal_malformed_total',
    'Packets that are none of the Canal protocol',
    (c) => c.malformed,
  ),
  counter(
    'sluice_canal_take_overs_total',
    'Client ids that another connection has taken over',
    (c) => c.takeOvers,
  ),
  counter(
    'sluice_canal_received_bytes_total',
    'Bytes that came in on the Canal port',
    (c) => c.bytesIn,
  ),
  counter(
    'sluice_canal_sent_bytes_total',
    'Bytes that went out on the Canal port',
    (c) => c.bytesOut,
  ),
  family(
    'sluice_admin_requests_total',
    'counter',
    'Requests to the admin port, by class of status',
    ({ admin }) =>
      admin.requests.map((n, i): Sample => [{ status: `${i}xx` }, n] as const).slice(2),
  ),
  family(
    'sluice_admin_refused_total',
    'counter',
    'Requests to the admin port with a wrong token or password',
    ({ admin }) => [[{}, admin.refused]],
  ),
  family('sluice_build_info', 'gauge', 'Versions of Sluice and Node; always 1', ({ version }) => [
    [{ version, node: process.versions.node }, 1],
  ]),
  family(
    'sluice_event_loop_utilization',
    'gauge',
    'Share of time in which the main thread was busy, since the start',
    () => [[{}, performance.eventLoopUtilization().utilization]],
  ),
  family('process_resident_memory_bytes', 'gauge', 'Memory of the process that is in RAM', () => [
    [{}, process.memoryUsage.rss()],
  ]),
  family(
    'process_cpu_seconds_total',
    'counter',
    'Processor time of the process, all its threads',
    () => [[{}, sum(Object.values(process.resourceUsage()).slice(0, 2) as number[]) / 1e6]],
  ),
  family(
    'process_start_time_seconds',
    'gauge',
    'When the process started, in seconds since 1970',
    () => [[{}, performance.timeOrigin / 1000]],
  ),
]

/** All of them. */
export const own: readonly Family[] = [...instances, ...upstream, ...clients, ...sinks, ...server]
