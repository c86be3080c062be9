/**
 * The standbys while they are not read: whether each one replicates, how far it is behind by its own account, and whether it has
 * everything that was read from the current source. Looks now and then, warns when one could not take over and says when it can
 * again, and ranks them for the fail-over. Asks only; a standby that cannot be asked disturbs nobody.
 */
import { SluiceError } from '../../errors.ts'
import { GtidSet } from '../../gtid.ts'
import { Connection, type ConnectOptions } from '../../mysql/connection.ts'

export interface StandbyStatus {
  readonly server: string // host:port
  /** 'alone': it is nobody's replica; 'stopped': it is one, and does not replicate; 'away': it could not be asked. */
  readonly state: 'replicating' | 'alone' | 'stopped' | 'away'
  readonly lagMs: number | undefined // what it says itself; undefined where it cannot say
  /** Whether it has all that was read from the current source; undefined where GTIDs do not tell. */
  readonly complete: boolean | undefined
  readonly reason: string // why it could not take over; "" when it could
}
export interface StandbyOptions {
  readonly others: () => readonly { readonly name: string; readonly connect: ConnectOptions }[]
  /** Everything that was read, where GTIDs say what that is. */
  readonly read: () => GtidSet | undefined
  readonly log: {
    info(fields: object, message: string): void
    warn(fields: object, message: string): void
  }
}

const LOOK_MS = 10_000
/** A standby that is further behind could not take over soon. */
const LAG_MS = 60_000

export class StandbyWatch {
  readonly #options: StandbyOptions
  #status: readonly StandbyStatus[] = []
  readonly #warned = new Set<string>()
  #timer: NodeJS.Timeout | undefined
  #looking: Promise<void> | undefined
  #stopped = false

  constructor(options: StandbyOptions) {
    this.#options = options
  }
  get status(): readonly StandbyStatus[] {
    return this.#status
  }
  /** Looks at once, and from now on. */
  start(): void {
    if (this.#stopped) return
    this.#timer ??= setInterval(() => void this.look(), LOOK_MS).unref()
    void this.look()
  }
  stop(): void {
    this.#stopped = true
    clearInterval(this.#timer)
  }
  /** Who is to be tried first: the lowest. As far as is known: one that has everything, one that may get it, the others. */
  rank(server: string): number {
    const known = this.#status.find((s) => s.server === server)
    if (!known || known.state === 'away') return 2
    if (known.complete !== undefined)
      return known.complete ? 0 : known.state === 'replicating' ? 1 : 2
    return known.state === 'stopped' ? 2 : 1
  }
  /** Never throws. */
  look(): Promise<void> {
    this.#looking ??= this.#look().finally(() => (this.#looking = undefined))
    return this.#looking
  }
  async #look(): Promise<void> {
    const { others, read } = this.#options
    const found = await Promise.all(
      others().map(async ({ name, connect }): Promise<StandbyStatus> => {
        try {
          using connection = await Connection.open(connect)
          return await statusOf(name, connection, read())
        } catch (error) {
          const reason = error instanceof Error ? error.message : String(error)
          return { server: name, state: 'away', lagMs: undefined, complete: undefined, reason }
        }
      }),
    )
    if (this.#stopped) return
    this.#status = found
    for (const standby of found) this.#say(standby)
  }
  #say({ server, state, lagMs, reason }: StandbyStatus): void {
    const { log } = this.#options
    if (reason !== '') {
      if (this.#warned.has(server)) return
      this.#warned.add(server)
      log.warn(
        { standby: server, state, lagMs },
        `standby ${server} could not take over: ${reason}`,
      )
    } else if (this.#warned.delete(server))
      log.info({ standby: server, state, lagMs }, `standby ${server} could take over again`)
  }
}

/** One row for each channel; what is missing is "". */
type Row = Readonly<Record<string, string | number | null>>

async function statusOf(
  server: string,
  connection: Connection,
  read: GtidSet | undefined,
): Promise<StandbyStatus> {
  const [about] = await connection.query<{ version: string }>('SELECT VERSION() AS version')
  const mariadb = /mariadb/i.test(about!.version)
  const channels = await channelsOf(connection, mariadb)
  const complete = mariadb || !read ? undefined : await has(connection, read)
  if (channels.length === 0) {
    const reason = complete === false ? 'it replicates from nobody, and lacks what was read' : ''
    return { server, state: 'alone', lagMs: undefined, complete, reason }
  }
  const runs = (row: Row, part: string): boolean =>
    (row[`Replica_${part}_Running`] ?? row[`Slave_${part}_Running`]) === 'Yes'
  const broken = channels.find((row) => !runs(row, 'IO') || !runs(row, 'SQL'))
  const lags = channels.map((row) => row['Seconds_Behind_Source'] ?? row['Seconds_Behind_Master'])
  const known = lags.filter((lag) => lag !== null && lag !== undefined).map(Number)
  const lagMs = known.length > 0 ? Math.max(...known) * 1000 : undefined
  if (broken) {
    const error = [broken['Last_IO_Error'], broken['Last_SQL_Error']].find(Boolean)
    const reason = `its replication is stopped${error ? `: ${error}` : ''}`
    return { server, state: 'stopped', lagMs, complete, reason }
  }
  const late = lagMs !== undefined && lagMs > LAG_MS && complete !== true
  const reason = late ? `it is ${Math.round(lagMs / 1000)} s behind` : ''
  return { server, state: 'replicating', lagMs, complete, reason }
}
/** MySQL 8.0.22 renamed the statement, 8.4 dropped the old name. */
async function channelsOf(connection: Connection, mariadb: boolean): Promise<Row[]> {
  if (mariadb) return await connection.query<Row>('SHOW ALL SLAVES STATUS')
  try {
    return await connection.query<Row>('SHOW REPLICA STATUS')
  } catch (error) {
    if (!(error instanceof SluiceError) || error.code !== 'QUERY_FAILED') throw error
    return await connection.query<Row>('SHOW SLAVE STATUS')
  }
}
async function has(connection: Connection, read: GtidSet): Promise<boolean | undefined> {
  const [row] = await connection.query<{ executed: string }>(
    'SELECT @@global.gtid_executed AS executed',
  )
  return GtidSet.parse(row?.executed ?? '').includes(read)
}
