/**
 * What a migration would do: whether both sides are fit, which tables are made and how, what has no equivalent, how long
 * it may take. Asks both sides and changes neither.
 */
import { probe, readVariables, type Finding } from '../commands/check/probes.ts'
import { nameOf, type Inventory, type SourceTable } from './schema/inventory.ts'
import type { MigrateOptions, Remembered } from './options.ts'
import type { Source } from './source.ts'
import type { Target } from './target.ts'

export interface Check extends Finding {
  readonly side: 'source' | 'target'
}
export interface PlannedTable {
  readonly table: string
  readonly rows: number // estimated
  readonly bytes: number
  readonly key: readonly string[]
  readonly target: 'create' | 'empty' | 'begun' // 'begun': made by this migration before
  readonly indexes: number // made after the load
  readonly foreignKeys: number // made at the cut-over
}
export interface Note {
  readonly on: string
  readonly text: string
}
export interface Plan {
  readonly from: string
  readonly to: string
  readonly checks: readonly Check[]
  readonly tables: readonly PlannedTable[]
  readonly notes: readonly Note[]
  readonly rows: number
  readonly bytes: number
  readonly seconds: number // a rough estimate of the load
}

/** What a modest machine loads and indexes in a second. */
const ROWS_PER_SECOND = 20_000
const BYTES_PER_SECOND = 8 * 1024 * 1024

export async function makePlan(
  source: Source,
  target: Target,
  about: {
    readonly inventory: Inventory
    readonly options: MigrateOptions
    readonly before: Remembered | undefined
  },
): Promise<Plan> {
  const { inventory, options, before } = about
  const { tables } = inventory
  const made = new Set(before?.made)
  const variables = await readVariables(await source.connection())
  const checks = [
    ...(await sourceChecks(source, variables, { inventory, options })),
    ...(await targetChecks(target, variables, options)),
  ]
  const planned: PlannedTable[] = []
  const notes: Note[] = []
  for (const table of tables) {
    const draft = target.draft(table)
    const on = nameOf(table)
    notes.push(...draft.notes.map((text) => ({ on, text })))
    // What came by DDL since then is known to nobody but the sink.
    const begun = made.has(on) || (before !== undefined && before.phase !== 'schema')
    const there = begun ? 'begun' : await target.holds(table)
    if (there === 'rows') checks.push(occupied(target, on))
    checks.push(...tooLong(target, table))
    planned.push({
      table: on,
      rows: table.rows,
      bytes: table.bytes,
      key: table.key?.columns ?? [],
      target: there === undefined ? 'create' : there === 'begun' ? 'begun' : 'empty',
      indexes: draft.indexes.length,
      foreignKeys: draft.foreignKeys.length,
    })
  }
  notes.push(...objectNotes(inventory, target))
  const rows = tables.reduce((sum, table) => sum + table.rows, 0)
  const bytes = tables.reduce((sum, table) => sum + table.bytes, 0)
  const seconds = Math.ceil(Math.max(rows / ROWS_PER_SECOND, bytes / BYTES_PER_SECOND))
  const { host, port } = options.from
  return {
    from: `mysql://${host}:${port}`,
    to: target.where,
    checks,
    tables: planned,
    notes,
    rows,
    bytes,
    seconds,
  }
}
export const failures = ({ checks }: Plan): Check[] =>
  checks.filter(({ level }) => level === 'fail')

const occupied = (target: Target, name: string): Check => ({
  side: 'target',
  check: 'tables',
  level: 'fail',
  message: `${target.where} has a table ${name} with rows that this migration did not write; expected an empty one or none`,
  fix: 'drop it, leave it out by --exclude, or give the --dir of the migration that wrote it',
})

const NAME_BYTES = 63
/** PostgreSQL cuts names without a word. */
function tooLong(target: Target, table: SourceTable): Check[] {
  if (target.kind === 'mysql') return []
  return [table.database, table.name, ...table.columns.map(({ name }) => name)]
    .filter((name) => Buffer.byteLength(name) > NAME_BYTES)
    .map((name) => ({
      side: 'target',
      check: 'names',
      level: 'fail',
      message: `${nameOf(table)}: expected names of up to ${NAME_BYTES} bytes, found ${name}`,
      fix: 'rename it in the source, or leave the table out by --exclude',
    }))
}

// ── the source ───────────────────────────────────────────────────────────────

type Variables = ReadonlyMap<string, string>
async function sourceChecks(
  source: Source,
  variables: Variables,
  about: { readonly inventory: Inventory; readonly options: MigrateOptions },
): Promise<Check[]> {
  const { tables, odd } = about.inventory
  const { reverse, lockSource } = about.options
  const connection = await source.connection()
  const { config, filter } = source
  const side = 'source' as const
  const found: Check[] = (await probe({ connection, config, variables, filter, needed: [] }))
    .filter(({ check }) => check !== 'primary keys')
    .map((finding) => ({ ...finding, side }))
  const add = (
    check: string,
    message: string,
    fix: string,
    level: Finding['level'] = 'fail',
  ): void => {
    found.push({ side, check, level, message, fix })
  }
  for (const { name, why } of odd)
    add('tables', `${name} is ${why}: it cannot be moved`, 'leave it out by --exclude')
  if (variables.get('binlog_row_image') !== 'FULL')
    add(
      'row image',
      'rows that change while they are loaded would reach the target in parts',
      "SET GLOBAL binlog_row_image = 'FULL', and let sessions reconnect",
    )
  for (const table of tables)
    if (table.key === undefined)
      add(
        'primary keys',
        `${nameOf(table)} has neither a primary key nor a unique one without NULL: its rows cannot be told apart`,
        `ALTER TABLE ${nameOf(table)} ADD COLUMN id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, or leave it out by --exclude`,
      )
  if (reverse && lockSource)
    add(
      'reverse',
      '--lock-source with --reverse: the account of --from goes on writing',
      'it needs SUPER or CONNECTION_ADMIN',
      'warn',
    )
  return found
}

// ── the target ───────────────────────────────────────────────────────────────

async function targetChecks(
  target: Target,
  variables: Variables,
  { reverse }: MigrateOptions,
): Promise<Check[]> {
  const found: Check[] = []
  const add = (level: Finding['level'], check: string, message: string, fix?: string): void => {
    found.push({ side: 'target', check, level, message, ...(fix !== undefined && { fix }) })
  }
  add(
    'ok',
    'version',
    `${target.kind === 'postgres' ? 'PostgreSQL' : target.mariadb ? 'MariaDB' : 'MySQL'} ${target.version}`,
  )
  if (target.kind === 'postgres') {
    if (Number.parseInt(target.version, 10) < 12)
      add('fail', 'version', `PostgreSQL ${target.version}: too old`, 'PostgreSQL 12 or newer')
    const [row] = await target.run(
      "SELECT has_database_privilege(current_database(), 'CREATE')::text AS may",
    )
    if (row?.['may'] === 'true') add('ok', 'rights', 'may make schemas')
    else
      add(
        'fail',
        'rights',
        'the account may not make schemas',
        'GRANT CREATE ON DATABASE … TO the account',
      )
    if (reverse)
      add(
        'fail',
        'reverse',
        '--reverse: expected MySQL or MariaDB as the target, for changes are read from a binlog; found PostgreSQL',
        'leave --reverse out',
      )
    return found
  }
  await rightsOf(target, add)
  if (target.variable('read_only') === 'ON')
    add(
      'warn',
      'read_only',
      'read_only is ON: only accounts with SUPER write',
      'SET GLOBAL read_only = OFF',
    )
  const [theirs, ours = ''] = [
    target.variable('lower_case_table_names'),
    variables.get('lower_case_table_names'),
  ]
  if (theirs !== ours)
    add(
      'warn',
      'names',
      `lower_case_table_names is ${theirs}, the source has ${ours}: names of tables may be spelled differently`,
    )
  // MariaDB's name for it, of its newer versions
  const uuid = ['server_uuid', 'server_uid'].find((name) => variables.has(name))
  if (uuid !== undefined && target.variable(uuid) === variables.get(uuid))
    add(
      'fail',
      'server',
      'source and target are the same server',
      'another --to: databases keep their names',
    )
  if (reverse) reverseChecks(target, add)
  return found
}
type Add = (level: Finding['level'], check: string, message: string, fix?: string) => void

const RIGHTS = [
  'SELECT',
  'INSERT',
  'UPDATE',
  'DELETE',
  'CREATE',
  'DROP',
  'ALTER',
  'INDEX',
  'REFERENCES',
]
async function rightsOf(target: Target, add: Add): Promise<void> {
  const rows = await target.run('SHOW GRANTS')
  const grants = rows.flatMap((row) => Object.values(row).map(String))
  const missing = RIGHTS.filter(
    (right) =>
      !grants.some((grant) =>
        new RegExp(`^GRANT (ALL PRIVILEGES|(.*, )?${right}\\b.*) ON `).test(grant),
      ),
  )
  if (missing.length === 0) add('ok', 'rights', RIGHTS.join(', '))
  else
    add(
      'fail',
      'rights',
      `the account lacks ${missing.join(', ')}`,
      `GRANT ${missing.join(', ')} ON *.* TO the account`,
    )
}
function reverseChecks(target: Target, add: Add): void {
  const wanted = { log_bin: 'ON', binlog_format: 'ROW', binlog_row_image: 'FULL' }
  for (const [name, value] of Object.entries(wanted)) {
    const is = target.variable(name) || (name === 'binlog_format' ? 'ROW' : '')
    if (is !== value)
      add(
        'fail',
        'reverse',
        `--reverse: expected ${name}=${value} on the target, found ${is || 'nothing'}`,
        `${name}=${value}`,
      )
  }
  if (target.mariadb) add('ok', 'reverse', 'MariaDB logs rows')
}

/** What is beside tables. */
function objectNotes({ objects }: Inventory, target: Target): Note[] {
  if (target.kind === 'mysql') return []
  return objects.map(({ kind, database, name }) => ({
    on: `${database}.${name}`,
    text: `${kind}: not carried over, for its text is MySQL's`,
  }))
}

// ── on paper ─────────────────────────────────────────────────────────────────

export function planText(plan: Plan, phase: string | undefined): string {
  const lines = [`from ${plan.from}`, `to   ${plan.to}`, '']
  for (const { side, check, level, message, fix } of plan.checks) {
    lines.push(`${level.padEnd(4)} ${side}: ${check}: ${message}`)
    if (fix !== undefined && level !== 'ok') lines.push(`       ${fix}`)
  }
  lines.push('')
  const width = Math.max(...plan.tables.map(({ table }) => table.length))
  for (const { table, rows, bytes, key, target, indexes, foreignKeys } of plan.tables) {
    const more = [
      target,
      `key ${key.join(', ') || 'none'}`,
      ...(indexes > 0 ? [`${indexes} indexes after the load`] : []),
      ...(foreignKeys > 0 ? [`${foreignKeys} foreign keys at the cut-over`] : []),
    ]
    lines.push(`${table.padEnd(width)}  about ${rows} rows, ${sizeText(bytes)}  ${more.join('; ')}`)
  }
  if (plan.notes.length > 0) lines.push('', 'without equivalent, or different in the target:')
  for (const { on, text } of plan.notes) lines.push(`  ${on}: ${text}`)
  const begun = phase === undefined ? '' : `; it was begun before and goes on (${phase})`
  lines.push(
    '',
    `${plan.tables.length} tables, about ${plan.rows} rows, ${sizeText(plan.bytes)}; the load may take ${timeText(plan.seconds)}${begun}`,
  )
  return lines.join('\n')
}
export function sizeText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let n = bytes
  let unit = 0
  while (n >= 1024 && unit < units.length - 1) {
    n /= 1024
    unit++
  }
  return `${unit === 0 ? n : n.toFixed(1)} ${units[unit]}`
}
export function timeText(seconds: number): string {
  if (seconds < 120) return `${Math.round(seconds)} s`
  const minutes = Math.round(seconds / 60)
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}
