/**
 * What `sluice check` asks a MySQL source: a list of probes, each one question with its answer as a finding and, where
 * something is wrong, how to put it right. Reads only; changes nothing on the server.
 */
import type { Filter } from '../../change.ts'
import type { InstanceConfig } from '../../config/config.ts'
import { SluiceError } from '../../errors.ts'
import type { Connection } from '../../mysql/connection.ts'
import { connectOptions } from '../../upstream/connect.ts'
import { describeOutlook, isUrgent, purgeOutlook, type Needed } from '../../upstream/purge.ts'
import { readCascades } from '../../sinks/special/unlogged.ts'

export type Level = 'ok' | 'warn' | 'fail'
export interface Finding {
  readonly check: string
  readonly level: Level
  readonly message: string
  readonly fix?: string // what to do, as a statement where one does it
}
/** What a probe works with. `variables` are the server's global variables, names in lower case. */
export interface Context {
  readonly connection: Pick<Connection, 'query' | 'encrypted'>
  readonly config: InstanceConfig
  readonly variables: ReadonlyMap<string, string>
  readonly filter: Filter
  /** Saved positions, oldest first. */
  readonly needed: readonly Needed[]
}
type Probe = (
  context: Context,
) => Finding | readonly Finding[] | Promise<Finding | readonly Finding[]>

const ok = (check: string, message: string): Finding => ({ check, level: 'ok', message })
const warn = (check: string, message: string, fix: string): Finding => ({
  check,
  level: 'warn',
  message,
  fix,
})
const fail = (check: string, message: string, fix: string): Finding => ({
  check,
  level: 'fail',
  message,
  fix,
})

/** The global variables of a server. */
export async function readVariables(
  connection: Pick<Connection, 'query'>,
): Promise<Map<string, string>> {
  const rows = await connection.query<{ Variable_name: string; Value: string }>(
    'SHOW GLOBAL VARIABLES',
  )
  return new Map(rows.map((r) => [r.Variable_name.toLowerCase(), String(r.Value)]))
}
/** Runs every probe; one that cannot ask is a finding itself. */
export async function probe(context: Context): Promise<Finding[]> {
  const findings: Finding[] = []
  for (const [check, ask] of Object.entries(probes)) {
    try {
      findings.push(...[await ask(context)].flat())
    } catch (error) {
      findings.push(
        warn(
          check,
          `could not be checked: ${(error as Error).message}`,
          'give the user the missing right',
        ),
      )
    }
  }
  return findings
}
/** 8.0.36 → [8, 0, 36] */
function versionOf({ variables }: Context): [number, number, number] {
  const [, a, b, c] = /^(\d+)\.(\d+)\.(\d+)/.exec(variables.get('version') ?? '') ?? []
  return [Number(a ?? 0), Number(b ?? 0), Number(c ?? 0)]
}
function atLeast(context: Context, wanted: readonly [number, number, number]): boolean {
  const found = versionOf(context)
  for (const [i, n] of wanted.entries()) if (found[i] !== n) return found[i]! > n
  return true
}
const isMariadb = ({ variables }: Context): boolean =>
  /mariadb/i.test(`${variables.get('version')} ${variables.get('version_comment')}`)

/** The statement that sets a variable for good: SET PERSIST exists from 8.0 on, and not in MariaDB. */
function set(context: Context, name: string, value: string): string {
  const service = managedBy(context.config.source.host, context.variables)
  if (service !== undefined) return service(name, value)
  if (!isMariadb(context) && atLeast(context, [8, 0, 0])) return `SET PERSIST ${name} = ${value};`
  return `SET GLOBAL ${name} = ${value}; and the same in my.cnf`
}
/**
 * How a variable is set where nobody may do it by SQL: on Amazon's, Google's and Azure's servers, told by their names and
 * by what they say of themselves; undefined elsewhere.
 */
export function managedBy(
  host: string,
  variables: ReadonlyMap<string, string>,
): ((name: string, value: string) => string) | undefined {
  if (/\.rds\.amazonaws\.com/.test(host) || variables.get('basedir')?.startsWith('/rdsdbbin')) {
    return (name, value) =>
      name === 'binlog_expire_logs_seconds'
        ? `CALL mysql.rds_set_configuration('binlog retention hours', ${Number(value) / 3600});`
        : `set ${name} = ${value} in the parameter group of the server (Aurora: of the cluster)`
  }
  if (variables.get('version')?.endsWith('-google')) {
    return (name, value) =>
      name === 'binlog_expire_logs_seconds'
        ? `turn point-in-time recovery on, with ${Number(value) / 86_400} days of logs`
        : `set the database flag ${name} = ${value}`
  }
  if (host.endsWith('.mysql.database.azure.com'))
    return (name, value) => `set the server parameter ${name} = ${value}`
  return undefined
}
const user = ({ config }: Context): string => `'${config.source.user}'@'%'`

const version: Probe = (context) => {
  const text = context.variables.get('version') ?? ''
  const encrypted = context.connection.encrypted ? 'encrypted' : 'not encrypted'
  if (isMariadb(context)) {
    if (!atLeast(context, [10, 5, 0]))
      return fail('version', `MariaDB ${text}: too old`, 'MariaDB 10.5 or newer')
    return ok('version', `MariaDB ${text}, ${encrypted}`)
  }
  if (!atLeast(context, [5, 6, 0]))
    return fail('version', `MySQL ${text}: too old`, 'MySQL 5.6 or newer')
  return ok('version', `MySQL ${text}, ${encrypted}`)
}
const binlog: Probe = ({ variables }) =>
  variables.get('log_bin') === 'ON'
    ? ok('binlog', 'on')
    : fail('binlog', 'log_bin is OFF', 'start mysqld with log_bin and server_id in my.cnf')

const format: Probe = async (context) => {
  const value = context.variables.get('binlog_format') ?? 'ROW'
  const findings: Finding[] = []
  if (value === 'ROW') findings.push(ok('binlog format', 'ROW'))
  else {
    const fix = `${set(context, 'binlog_format', "'ROW'")} then let sessions reconnect`
    findings.push(
      fail('binlog format', `binlog_format is ${value}: changes are logged as statements`, fix),
    )
  }
  const others = await sessionsWithout(context, 'binlog_format', 'ROW')
  if (others > 0) {
    const text = `${others} session${others > 1 ? 's' : ''} with another binlog_format than ROW`
    findings.push(
      warn(
        'sessions',
        text,
        'find them in performance_schema.variables_by_thread and reconnect them',
      ),
    )
  }
  return findings
}
/** Sessions whose own value differs; 0 where that cannot be seen (performance_schema off, no right, before 5.7). */
async function sessionsWithout(
  { connection }: Context,
  name: string,
  value: string,
): Promise<number> {
  try {
    const [row] = await connection.query<{ n: number | string }>(
      'SELECT COUNT(*) AS n FROM performance_schema.variables_by_thread WHERE VARIABLE_NAME = ? AND VARIABLE_VALUE <> ?',
      [name, value],
    )
    return Number(row?.n ?? 0)
  } catch (error) {
    if (error instanceof SluiceError) return 0
    throw error
  }
}
const rowImage: Probe = async (context) => {
  const value = context.variables.get('binlog_row_image') ?? 'FULL'
  const others = await sessionsWithout(context, 'binlog_row_image', 'FULL')
  const fix = set(context, 'binlog_row_image', "'FULL'")
  if (value !== 'FULL') {
    return warn(
      'row image',
      `binlog_row_image is ${value}: columns that did not change are absent`,
      fix,
    )
  }
  if (others > 0)
    return warn('row image', `FULL, but ${others} sessions have another value`, 'reconnect them')
  return ok('row image', 'FULL')
}
const rowMetadata: Probe = (context) => {
  const value = context.variables.get('binlog_row_metadata')
  if (value === 'FULL') return ok('row metadata', 'FULL')
  if (value === undefined) {
    return ok(
      'row metadata',
      'this version has none; column names are read from information_schema',
    )
  }
  return warn(
    'row metadata',
    `binlog_row_metadata is ${value}: column names come from information_schema, as they are now and not as they were`,
    set(context, 'binlog_row_metadata', "'FULL'"),
  )
}
const partialJson: Probe = (context) => {
  const value = context.variables.get('binlog_row_value_options') ?? ''
  const image = context.variables.get('binlog_row_image') ?? 'FULL'
  if (!value.includes('PARTIAL_JSON') || image === 'FULL') return []
  const text = `PARTIAL_JSON with binlog_row_image ${image}: some updates carry only the difference of a JSON value`
  return warn('partial JSON', text, set(context, 'binlog_row_image', "'FULL'"))
}
const checksum: Probe = (context) => {
  const value = context.variables.get('binlog_checksum') ?? 'NONE'
  if (value === 'CRC32') return ok('checksum', 'CRC32')
  const text = `binlog_checksum is ${value}: damage on the way is not noticed`
  return warn('checksum', text, set(context, 'binlog_checksum', "'CRC32'"))
}
const rights: Probe = async (context) => {
  const { connection } = context
  const grant = (right: string): string => `GRANT ${right} ON *.* TO ${user(context)};`
  const findings: Finding[] = []
  const status = await denied(context, ['SHOW BINARY LOG STATUS', 'SHOW MASTER STATUS'])
  if (status) findings.push(fail('right to see positions', status, grant('REPLICATION CLIENT')))
  // MariaDB has a right of its own for that list, which reading does not need.
  const replica = isMariadb(context)
    ? await withoutReplicationSlave(context)
    : await denied(context, ['SHOW REPLICAS', 'SHOW SLAVE HOSTS'])
  if (replica) findings.push(fail('right to read the binlog', replica, grant('REPLICATION SLAVE')))
  if (findings.length === 0) findings.push(ok('rights', 'REPLICATION CLIENT, REPLICATION SLAVE'))
  const rows = await connection.query<Record<string, string>>('SHOW GRANTS')
  const grants = rows.flatMap((r) => Object.values(r))
  const everywhere = grants.some((g) =>
    /^GRANT (ALL PRIVILEGES|(.*, )?SELECT\b.*) ON \*\.\* TO/.test(g),
  )
  if (!everywhere) {
    const text =
      'no SELECT on *.*: definitions of tables without it cannot be seen, and reading stops at their first change'
    findings.push(warn('right to see tables', text, grant('SELECT')))
  }
  return findings
}
/** MariaDB: what the grants say; undefined where the right is there. */
async function withoutReplicationSlave({ connection }: Context): Promise<string | undefined> {
  const rows = await connection.query<Record<string, string>>('SHOW GRANTS')
  const has = rows
    .flatMap((row) => Object.values(row))
    .some((grant) => /^GRANT (ALL PRIVILEGES|.*\bREPLICATION SLAVE\b.*) ON \*\.\* TO/.test(grant))
  return has ? undefined : 'the grants lack REPLICATION SLAVE'
}
/** The server's refusal of the first statement that it understands; undefined when it answers. */
async function denied(
  { connection }: Context,
  statements: readonly string[],
): Promise<string | undefined> {
  let last: SluiceError | undefined
  for (const sql of statements) {
    try {
      await connection.query(sql)
      return undefined
    } catch (error) {
      if (!(error instanceof SluiceError)) throw error
      if (error.code === 'ACCESS_DENIED') return error.message
      last = error // a syntax error: another version's name for it
    }
  }
  return last?.message
}
/** Rows of the first statement that this version understands. */
async function firstOf(
  context: Context,
  statements: readonly string[],
): Promise<Record<string, string | number | null>[]> {
  for (const [i, sql] of statements.entries()) {
    try {
      return await context.connection.query<Record<string, string | number | null>>(sql)
    } catch (error) {
      if (i === statements.length - 1) throw error
    }
  }
  return []
}
const serverId: Probe = async (context) => {
  const source = Number(context.variables.get('server_id') ?? 0)
  if (source === 0) {
    return fail(
      'server id',
      'the source has server_id 0 and lets no replica in',
      set(context, 'server_id', '1'),
    )
  }
  const own = context.config.source.serverId
  if (own === undefined) return ok('server id', `source ${source}; ours is generated`)
  if (own === source) {
    return fail(
      'server id',
      `source.serverId is ${own}, the source's own`,
      'another number, or none: one is generated',
    )
  }
  if (isMariadb(context)) return ok('server id', `source ${source}, ours ${own}`)
  const rows = await firstOf(context, ['SHOW REPLICAS', 'SHOW SLAVE HOSTS'])
  if (rows.some((r) => Number(r['Server_Id'] ?? r['Server_id']) === own)) {
    const text = `a replica with server id ${own} is connected (a running Sluice with this configuration is one)`
    return warn('server id', text, 'if it is another one: a number of its own, or none')
  }
  return ok('server id', `source ${source}, ours ${own}`)
}
const gtid: Probe = (context) => {
  if (isMariadb(context)) {
    if (context.variables.get('gtid_strict_mode') === 'ON') return ok('GTID', 'gtid_strict_mode ON')
    const text =
      'gtid_strict_mode is OFF: numbers of a domain may go back, and GTIDs then do not say what was read'
    return warn('GTID', text, set(context, 'gtid_strict_mode', 'ON'))
  }
  const mode = context.variables.get('gtid_mode')
  if (mode === 'ON') return ok('GTID', 'ON')
  const steps =
    'SET PERSIST enforce_gtid_consistency = ON; then gtid_mode = OFF_PERMISSIVE, ON_PERMISSIVE and ON, in steps'
  if (
    context.config.gtid ||
    (typeof context.config.start === 'object' && 'gtids' in context.config.start)
  ) {
    return fail('GTID', `the instance wants GTIDs, but gtid_mode is ${mode ?? 'not there'}`, steps)
  }
  const text = `gtid_mode is ${mode ?? 'not there'}: after a change to another server reading cannot go on by itself`
  return warn('GTID', text, steps)
}
const retention: Probe = async (context) => {
  const rows = await context.connection.query<{ Log_name: string; File_size: string | number }>(
    'SHOW BINARY LOGS',
  )
  const bytes = rows.reduce((sum, r) => sum + Number(r.File_size), 0)
  const { variables } = context
  const seconds = Number(variables.get('binlog_expire_logs_seconds') ?? 0)
  const days = seconds > 0 ? seconds / 86_400 : Number(variables.get('expire_logs_days') ?? 0)
  const automatic = variables.get('binlog_expire_logs_auto_purge') !== 'OFF'
  const held = `${rows.length} files, ${(bytes / 1024 ** 3).toFixed(2)} GiB`
  const findings: Finding[] = []
  if (days === 0 || !automatic) {
    const text = `logs are never removed by themselves (${held}): the disk fills up`
    findings.push(warn('retention', text, set(context, 'binlog_expire_logs_seconds', '604800')))
  } else if (days < 1) {
    const text = `logs are kept ${(days * 24).toFixed(1)} hours (${held}): a longer pause loses the position`
    findings.push(warn('retention', text, set(context, 'binlog_expire_logs_seconds', '604800')))
  } else {
    findings.push(ok('retention', `${Number(days.toFixed(1))} days (${held})`))
  }
  const names = new Set(rows.map((r) => r.Log_name))
  const needed = [...new Set(context.needed.map(({ position }) => position.file))]
  const lost = needed.filter((file) => !names.has(file))
  if (lost.length > 0) {
    const text = `saved positions need ${lost.join(', ')}, which the source no longer has`
    findings.push(
      fail(
        'positions',
        text,
        'restore the files, or sluice position <destination> set earliest, or set onPositionLost',
      ),
    )
  } else if (needed.length > 0) {
    findings.push(
      ok('positions', `every saved position is in the source's logs (oldest ${needed[0]})`),
    )
    findings.push(...(await purge(context)))
  }
  return findings
}
/** Whether the source is about to remove what a saved position needs. */
async function purge({ connection, config, needed }: Context): Promise<Finding[]> {
  const outlook = await purgeOutlook(connection, connectOptions(config.source), needed)
  if (!outlook || !isUrgent(outlook)) return []
  const fix = 'let the client catch up, or keep logs longer: binlog_expire_logs_seconds'
  return [warn('purge', `client ${describeOutlook(outlook)}`, fix)]
}
const loggedDatabases: Probe = async (context) => {
  const [row] = await firstOf(context, ['SHOW BINARY LOG STATUS', 'SHOW MASTER STATUS'])
  const only = String(row?.['Binlog_Do_DB'] ?? '')
  const not = String(row?.['Binlog_Ignore_DB'] ?? '')
  if (!only && !not) return []
  const text = only
    ? `only ${only} are logged (binlog_do_db)`
    : `${not} are not logged (binlog_ignore_db)`
  return warn(
    'logged databases',
    text,
    'remove binlog_do_db and binlog_ignore_db from my.cnf; filter here instead',
  )
}
const replicaUpdates: Probe = async (context) => {
  const rows = await firstOf(context, ['SHOW REPLICA STATUS', 'SHOW SLAVE STATUS'])
  const { variables } = context
  const updates = variables.get('log_replica_updates') ?? variables.get('log_slave_updates')
  if (rows.length === 0 || updates === 'ON') return []
  const text =
    'the source is a replica and does not log what it receives: those changes never arrive here'
  return fail('replica', text, 'log_replica_updates (before 8.0.26: log_slave_updates) in my.cnf')
}
const timeZone: Probe = (context) => {
  const { config, variables } = context
  const zone = variables.get('time_zone') ?? 'SYSTEM'
  const source = zone === 'SYSTEM' ? `SYSTEM (${variables.get('system_time_zone')})` : zone
  if (config.timezone === undefined) return ok('time zone', `the source's: ${source}`)
  return ok('time zone', `${config.timezone}, by the timezone key; the source's is ${source}`)
}
const tables: Probe = async ({ connection, filter }) => {
  const rows = await connection.query<{ d: string; t: string; k: number | string }>(
    `SELECT t.TABLE_SCHEMA AS d, t.TABLE_NAME AS t, COUNT(c.CONSTRAINT_NAME) AS k
       FROM information_schema.TABLES t
       LEFT JOIN information_schema.TABLE_CONSTRAINTS c
         ON c.TABLE_SCHEMA = t.TABLE_SCHEMA AND c.TABLE_NAME = t.TABLE_NAME AND c.CONSTRAINT_TYPE = 'PRIMARY KEY'
      WHERE t.TABLE_TYPE = 'BASE TABLE' AND t.TABLE_SCHEMA NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema')
      GROUP BY t.TABLE_SCHEMA, t.TABLE_NAME ORDER BY t.TABLE_SCHEMA, t.TABLE_NAME`,
  )
  const matched = rows.filter((r) => filter(r.d, r.t))
  const list = (some: typeof rows): string => {
    const names = some.slice(0, 10).map((r) => `${r.d}.${r.t}`)
    return (
      names.join(', ') +
      (some.length > names.length ? ` and ${some.length - names.length} more` : '')
    )
  }
  if (matched.length === 0) {
    const text = `the filter matches none of the ${rows.length} tables that the user can see`
    return warn(
      'filter',
      text,
      'filter.include and filter.exclude: expressions over database.table',
    )
  }
  const findings = [
    ok('filter', `matches ${matched.length} of ${rows.length} tables: ${list(matched)}`),
  ]
  const keyless = matched.filter((r) => Number(r.k) === 0)
  if (keyless.length > 0) {
    const text = `${keyless.length} tables without primary key: ${list(keyless)}; consumers cannot tell equal rows apart`
    findings.push(warn('primary keys', text, 'ALTER TABLE … ADD PRIMARY KEY'))
  }
  return findings
}

/** InnoDB changes rows by itself below what these servers log. */
const cascades: Probe = async ({ connection, filter }) => {
  const found = await readCascades((sql) => connection.query(sql))
  const wanted = found.filter((c) => {
    const [database = '', table = ''] = c.child.split('.')
    return filter(database, table)
  })
  if (wanted.length === 0) return []
  const names = wanted.slice(0, 20).map((c) => `${c.child} → ${c.parent} (${c.rule})`)
  const more = wanted.length > names.length ? ` and ${wanted.length - names.length} more` : ''
  return warn(
    'foreign keys',
    `${wanted.length} foreign keys change rows without logging them: ${names.join(', ')}${more}`,
    'delete children before parents in the application, or MySQL 9.6 or newer; a sink stops at such a change (unloggedChange)',
  )
}

const probes: Readonly<Record<string, Probe>> = {
  version,
  binlog,
  'binlog format': format,
  'row image': rowImage,
  'row metadata': rowMetadata,
  'partial JSON': partialJson,
  checksum,
  rights,
  'server id': serverId,
  GTID: gtid,
  retention,
  'logged databases': loggedDatabases,
  replica: replicaUpdates,
  'time zone': timeZone,
  filter: tables,
  'foreign keys': cascades,
}
