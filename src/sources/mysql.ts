/**
 * Transactions from a running MySQL server, to which we pose as a replica; and what there is to know about a server
 * before that. Each `read` has a connection, a server id and a replica uuid of its own. Never retries: a failed read is
 * over, and the next one may begin where the last transaction ended. Knows nothing of the store or of clients.
 */
import { randomInt, randomUUID } from 'node:crypto'
import type { Format } from '../binlog/reader.ts'
import type { ScannedStatement } from '../catalog/catalog.ts'
import { compareLogPlaces, type LogPlace } from '../catalog/history.ts'
import { formatPosition, type Filter, type Position, type Source } from '../change.ts'
import type { KindOptions } from '../filter.ts'
import { SluiceError } from '../errors.ts'
import { GtidSet } from '../gtid.ts'
import {
  Connection,
  PLAIN_OFFSET_MAX,
  type ConnectOptions,
  type DumpRequest,
} from '../mysql/connection.ts'
import type { Slabs } from '../slab.ts'
import type { TableResolver } from './log/tables.ts'
import { readTransactions, type LogOptions, type OpenLog } from './transactions.ts'

export interface MysqlSourceOptions {
  readonly connect: ConnectOptions
  /** Ours as a replica. Left out, every read draws one; a second read at the same time always does. */
  readonly serverId?: number | undefined
  /** Ours as a replica, the same way. */
  readonly replicaUuid?: string | undefined
  /** server_uuid the epoch belongs to: another server is SOURCE_CHANGED. */
  readonly server?: string | undefined
  readonly epoch: number
  readonly catalog: TableResolver
  readonly filter: Filter
  readonly kinds?: KindOptions | undefined
  readonly slabs: Slabs
  readonly partBytes?: number | undefined
  readonly heartbeatMs?: number | undefined
  readonly onFormat?: ((format: Format) => void) | undefined
  /** Be a semi-synchronous replica: told how to acknowledge, before anything is read; false once the read has ended. */
  readonly onAcker?: ((ack: Acknowledge | false) => void) | undefined
}
/** Everything before this place is safe. */
export type Acknowledge = (file: string, offset: number) => void

export const PART_BYTES = 256 * 1024
const HEARTBEAT_MS = 10_000

/** Reads from the server at `options.connect`. `read` throws what Connection and readTransactions throw. */
export function mysqlSource(options: MysqlSourceOptions): Source {
  const identities = new Identities(options)
  return {
    read(from, signal) {
      const { identity, done } = identities.draw()
      return readTransactions(
        () => openDump(options, { ...identity, from, signal, closed: done }),
        signal,
      )
    },
  }
}

/** Who a source is to its server: the configured names for one read at a time, drawn ones for any other. */
export class Identities {
  readonly #options: Pick<MysqlSourceOptions, 'serverId' | 'replicaUuid'>
  #named = false // the configured names are in use
  constructor(options: Pick<MysqlSourceOptions, 'serverId' | 'replicaUuid'>) {
    this.#options = options
  }
  /** `done` is called when the read has ended. */
  draw(): { identity: { serverId: number; replicaUuid: string }; done: () => void } {
    const mine = !this.#named
    this.#named = true
    const { serverId, replicaUuid } = mine ? this.#options : {}
    const identity = {
      serverId: serverId ?? drawServerId(),
      replicaUuid: replicaUuid ?? randomUUID(),
    }
    const done = (): void => {
      if (mine) this.#named = false
    }
    return { identity, done }
  }
}

/** High, for people number their servers from 1. */
const drawServerId = (): number => randomInt(0x4000_0000, 0xffff_ffff)

interface Reading {
  readonly serverId: number
  readonly replicaUuid: string
  readonly from: Position
  readonly signal: AbortSignal
  readonly closed: () => void
}

async function openDump(options: MysqlSourceOptions, reading: Reading): Promise<OpenLog> {
  const { from, signal } = reading
  let connection: Connection | undefined
  const abort = (): void => connection?.close()
  try {
    connection = await Connection.open(options.connect, signal)
    signal.addEventListener('abort', abort)
    const source = identityOf(await readVariables(connection))
    const server = checkServer(options, from, source.server, source.gtids)
    const plan = source.mariadb ? planMariadb(from, server) : planDump(from, source.gtids)
    const stream = await connection.dump(
      {
        serverId: reading.serverId,
        replicaUuid: reading.replicaUuid,
        heartbeatMs: options.heartbeatMs ?? HEARTBEAT_MS,
        place: plan.jumps ? `${formatPosition(from)} by GTID` : formatPosition(from),
        semiSync: options.onAcker !== undefined,
        ...plan.request,
      },
      signal,
    )
    const log: LogOptions = {
      epoch: options.epoch,
      server,
      catalog: options.catalog,
      filter: options.filter,
      kinds: options.kinds,
      slabs: options.slabs,
      partBytes: options.partBytes ?? PART_BYTES,
      onFormat: options.onFormat,
      from: server === from.server || from.server === '' ? from : { ...from, file: '', skip: 0 },
      jumps: plan.jumps,
      early: plan.early,
      skippedMs: options.onAcker ? 0 : undefined, // a commit may wait for what nobody wants
      checksum: stream.checksum.toUpperCase() === 'CRC32',
    }
    options.onAcker?.((file, offset) => stream.ack(file, offset))
    const close = (): void => {
      options.onAcker?.(false)
      stream.close()
      reading.closed()
    }
    const more = (): Promise<boolean> => stream.more()
    return { options: log, input: { pieces: stream.packets, framed: true, more, close } }
  } catch (error) {
    connection?.close()
    reading.closed()
    throw error
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

/** Whether the server may go on where `from` says; returns its uuid. */
function checkServer(
  options: MysqlSourceOptions,
  from: Position,
  uuid: string,
  gtidsOn: boolean,
): string {
  const expected = options.server ?? (from.gtids && gtidsOn ? uuid : from.server || uuid)
  if (uuid === expected) return uuid
  const { host, port } = options.connect
  throw new SluiceError(
    'SOURCE_CHANGED',
    `${host}:${port}: expected the server ${expected}, on which ${from.file}:${from.offset} was read, got ${uuid}`,
  )
}

interface DumpPlan {
  readonly request: Pick<DumpRequest, 'file' | 'offset' | 'gtids' | 'state'>
  readonly jumps: boolean
  readonly early: boolean
}
/** By GTIDs where both sides have them, else by file and offset, which the plain form knows up to 4 GiB. */
function planDump(from: Position, gtidsOn: boolean): DumpPlan {
  const { file, offset } = from
  if (gtidsOn && from.gtids) {
    return {
      request: { file: '', offset: 4, gtids: from.gtids.encode() },
      jumps: true,
      early: false,
    }
  }
  if (offset <= PLAIN_OFFSET_MAX) {
    return { request: { file, offset, gtids: undefined }, jumps: false, early: false }
  }
  // The form with GTIDs has a 64-bit offset; with an empty set it leaves nothing out.
  if (gtidsOn) {
    return { request: { file, offset, gtids: new GtidSet().encode() }, jumps: false, early: false }
  }
  return { request: { file, offset: 4, gtids: undefined }, jumps: false, early: true }
}

/**
 * MariaDB: by file and offset where they are of this server, for a GTID there says no more; by GTID on another one, and
 * where a file is larger than the plain form can say.
 */
function planMariadb(from: Position, server: string): DumpPlan {
  const { file, offset, gtids } = from
  const here = file !== '' && (from.server === '' || from.server === server)
  if (here && offset <= PLAIN_OFFSET_MAX)
    return { request: { file, offset, gtids: undefined }, jumps: false, early: false }
  if (!gtids) return { request: { file, offset: 4, gtids: undefined }, jumps: false, early: true }
  return {
    request: { file: '', offset: 4, gtids: undefined, state: gtids.toString() },
    jumps: true,
    early: false,
  }
}

// ── statements ───────────────────────────────────────────────────────────────

/**
 * The definition statements of transactions that begin at `from` or later and before `to`, a place at which the log has been
 * already. Reads that stretch once, decoding no row. Throws what `read` throws.
 */
export async function scanStatements(
  options: Omit<MysqlSourceOptions, 'catalog' | 'filter'>,
  from: LogPlace,
  to: LogPlace,
): Promise<ScannedStatement[]> {
  const found: ScannedStatement[] = []
  if (compareLogPlaces(from, to) >= 0) return found
  const catalog: TableResolver = {
    resolve: () => {
      throw new Error('bug in Sluice: a scan resolves no table')
    },
    statement: ({ sql, database }, at) => {
      if (compareLogPlaces(at, from) >= 0 && compareLogPlaces(at, to) < 0)
        found.push({ at, sql, database })
    },
  }
  const source = mysqlSource({
    ...options,
    catalog,
    filter: () => false,
    heartbeatMs: SCAN_HEARTBEAT_MS,
  })
  const begin = { ...from, server: options.server ?? '', skip: 0, gtids: undefined, timestamp: 0 }
  const stop = new AbortController()
  for await (const tx of source.read(begin, stop.signal)) {
    tx.slab?.release()
    const end = { epoch: to.epoch, file: tx.endFile, offset: tx.endOffset }
    if (tx.state !== 'open' && compareLogPlaces(end, to) >= 0) break
  }
  return found
}
/** A scan is over at the end of the log, which an idle server says with its next heartbeat. */
const SCAN_HEARTBEAT_MS = 50

// ── facts ────────────────────────────────────────────────────────────────────

/** What a server says of itself. Variables it does not know are "". */
export interface SourceFacts {
  readonly version: string
  readonly mariadb: boolean
  readonly serverUuid: string // of MariaDB, which has none, "mariadb-" and its server_id
  readonly serverId: number
  readonly binlogOn: boolean
  readonly binlogFormat: string // ROW, MIXED, STATEMENT
  readonly rowImage: string // FULL, MINIMAL, NOBLOB
  readonly rowMetadata: string // FULL, MINIMAL; "" before 8.0.1
  readonly checksum: string // CRC32, NONE
  readonly gtidMode: string // ON, OFF, ON_PERMISSIVE, OFF_PERMISSIVE; of MariaDB, which always has them, ON
  readonly retentionSeconds: number // 0: never purged by age
  readonly timeZone: string // of the server: "UTC", "Europe/Berlin", "+08:00"; never SYSTEM
  readonly executed: GtidSet | undefined // undefined where GTIDs are off
  readonly purged: GtidSet | undefined
  readonly files: readonly string[] // of its binlog, oldest first
  readonly latest: Position // past everything in the binlog
  readonly earliest: Position // the beginning of the oldest file
}

/** MariaDB's: the GTIDs before a place in its log. */
const BINLOG_GTID_POS = 'CONVERT(BINLOG_GTID_POS(?, ?) USING utf8)'

const variables = [
  'version',
  'server_uuid',
  'server_id',
  'log_bin',
  'binlog_format',
  'binlog_row_image',
  'binlog_row_metadata',
  'binlog_checksum',
  'gtid_mode',
  'binlog_expire_logs_seconds',
  'expire_logs_days',
]

async function readVariables(
  connection: Pick<Connection, 'query'>,
): Promise<(name: string) => string> {
  const list = variables.map((name) => `'${name}'`).join(', ')
  const rows = await connection.query<{ Variable_name: string; Value: string }>(
    `SHOW GLOBAL VARIABLES WHERE Variable_name IN (${list})`,
  )
  const values = new Map(rows.map((row) => [row.Variable_name.toLowerCase(), row.Value]))
  return (name) => values.get(name) ?? ''
}

/** Who a server is, and whether its transactions have GTIDs. */
function identityOf(value: (name: string) => string): {
  mariadb: boolean
  server: string
  gtids: boolean
} {
  const mariadb = /mariadb/i.test(value('version'))
  // Its server_uid is made of the machine's address: a container has another one after each start.
  const server = mariadb ? `mariadb-${value('server_id')}` : value('server_uuid')
  return { mariadb, server, gtids: mariadb || value('gtid_mode') === 'ON' }
}

/**
 * Asks a server about itself. Positions get `epoch`.
 * Throws ACCESS_DENIED without REPLICATION CLIENT, SOURCE_UNSUITABLE without a binlog.
 */
export async function sourceFacts(connection: Connection, epoch = 1): Promise<SourceFacts> {
  const value = await readVariables(connection)
  const { mariadb, server: serverUuid, gtids: gtidsOn } = identityOf(value)
  const status = await logStatus(connection)
  const files = await connection.query<{ Log_name: string }>('SHOW BINARY LOGS')
  const first = files[0]
  if (!first) {
    throw new SluiceError(
      'SOURCE_UNSUITABLE',
      'expected at least one binlog file on the source, got none',
    )
  }
  const sets = mariadb
    ? await mariadbSets(connection, first.Log_name, status)
    : gtidsOn
      ? await gtidSets(connection)
      : undefined
  const common = { epoch, server: serverUuid, skip: 0, timestamp: Date.now() }
  return {
    version: value('version'),
    mariadb,
    serverUuid,
    serverId: Number(value('server_id')),
    binlogOn: value('log_bin') === 'ON',
    binlogFormat: value('binlog_format'),
    rowImage: value('binlog_row_image'),
    rowMetadata: value('binlog_row_metadata'),
    checksum: value('binlog_checksum'),
    gtidMode: mariadb ? 'ON' : value('gtid_mode'),
    retentionSeconds:
      Number(value('binlog_expire_logs_seconds')) || Number(value('expire_logs_days')) * 86_400,
    timeZone: await timeZoneOf(connection),
    executed: sets?.executed,
    purged: sets?.purged,
    files: files.map((f) => f.Log_name),
    latest: {
      ...common,
      file: status.file,
      offset: status.offset,
      gtids: mariadb ? sets?.executed : sets && GtidSet.parse(status.gtids),
    },
    earliest: { ...common, timestamp: 0, file: first.Log_name, offset: 4, gtids: sets?.purged },
  }
}

async function gtidSets(connection: Connection): Promise<{ executed: GtidSet; purged: GtidSet }> {
  const [row] = await connection.query<{ executed: string; purged: string }>(
    'SELECT @@global.gtid_executed AS executed, @@global.gtid_purged AS purged',
  )
  return { executed: GtidSet.parse(row?.executed ?? ''), purged: GtidSet.parse(row?.purged ?? '') }
}

/** What MariaDB has logged up to the end of its binlog, and before its oldest file; undefined where it cannot say. */
async function mariadbSets(
  connection: Pick<Connection, 'query'>,
  oldest: string,
  { file, offset }: { file: string; offset: number },
): Promise<{ executed: GtidSet; purged: GtidSet } | undefined> {
  const [row] = await connection.query<{ executed: string | null; purged: string | null }>(
    `SELECT ${BINLOG_GTID_POS} AS executed, ${BINLOG_GTID_POS} AS purged`,
    [file, offset, oldest, 4],
  )
  if (!row || row.executed === null || row.purged === null) return undefined
  return { executed: GtidSet.parse(row.executed), purged: GtidSet.parse(row.purged) }
}

/** Where a server's binlog ends now. Throws as `query` does, SOURCE_UNSUITABLE without a binlog. */
export async function logEnd(
  connection: Pick<Connection, 'query'>,
  epoch: number,
): Promise<LogPlace> {
  const { file, offset } = await logStatus(connection)
  return { epoch, file, offset }
}

/** Who refused the new name of the statement, and knew the old one. */
const olderServers = new WeakSet<object>()

/** ER_PARSE_ERROR: whatever else went wrong, the old name would not mend it, and its error would hide this one. */
const isUnknownStatement = (error: unknown): boolean =>
  error instanceof SluiceError && (error.cause as { errno?: unknown } | undefined)?.errno === 1064

interface StatusRow {
  readonly File: string
  readonly Position: number | string
  readonly Executed_Gtid_Set?: string
}
/** Where the binlog ends, and what was executed just then. MySQL 8.2 renamed the statement, 8.4 dropped the old name. */
export async function logStatus(
  connection: Pick<Connection, 'query'>,
): Promise<{ file: string; offset: number; gtids: string }> {
  const older = olderServers.has(connection)
  let rows: StatusRow[]
  try {
    rows = await connection.query<StatusRow>(
      older ? 'SHOW MASTER STATUS' : 'SHOW BINARY LOG STATUS',
    )
  } catch (error) {
    if (older || !isUnknownStatement(error)) throw error
    rows = await connection.query<StatusRow>('SHOW MASTER STATUS')
    olderServers.add(connection)
  }
  const row = rows[0]
  if (!row) {
    throw new SluiceError(
      'SOURCE_UNSUITABLE',
      'expected a binlog on the source, it has log_bin=OFF',
    )
  }
  return { file: row.File, offset: Number(row.Position), gtids: row.Executed_Gtid_Set ?? '' }
}

/** The server's time zone by name, or where it goes by an abbreviation of its system as the offset it has now. */
async function timeZoneOf(connection: Connection): Promise<string> {
  const [row] = await connection.query<{ zone: string; system: string; seconds: number }>(
    'SELECT @@global.time_zone AS zone, @@global.system_time_zone AS `system`,' +
      ' TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW()) AS seconds',
  )
  if (!row) return 'UTC'
  if (row.zone !== 'SYSTEM') return row.zone
  const minutes = Math.round(Number(row.seconds) / 60)
  const two = (n: number): string => String(n).padStart(2, '0')
  const size = Math.abs(minutes)
  const offset = `${minutes < 0 ? '-' : '+'}${two(Math.floor(size / 60))}:${two(size % 60)}`
  return namesOffset(row.system, minutes) ? row.system : offset
}
function namesOffset(zone: string, minutes: number): boolean {
  try {
    const now = new Date(Math.floor(Date.now() / 1000) * 1000)
    const there = new Date(`${now.toLocaleString('sv-SE', { timeZone: zone })}Z`)
    return Math.round((there.getTime() - now.getTime()) / 60_000) === minutes
  } catch {
    return false
  }
}
