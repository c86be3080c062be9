/**
 * Configuration, main file: zod schemas of conf/server.yaml and of instances/<destination>.yaml, and the functions that load
 * them. Whatever comes out of here is complete (every default filled in, sizes in bytes, times in milliseconds, paths
 * absolute) and was checked as a whole: all problems are found at once, each with file, line, key, what was expected
 * and what was found. Values of secret keys never appear in a problem.
 *
 * Knows nothing of how anything runs. To add a key: one line in a schema with `.describe()`; conf/, docs/config.md and
 * the JSON Schemas follow (`sluice schema`; tests compare).
 */
import { existsSync, readdirSync } from 'node:fs'
import { basename, dirname, extname, join, resolve } from 'node:path'
import { stringify } from 'yaml'
import * as z from 'zod'
import { parseTimeZone } from '../binlog/time.ts'
import { SluiceError } from '../errors.ts'
import { compileColumns, compileFilter } from '../filter.ts'
import { GtidSet } from '../gtid.ts'
import { sinkTypes } from '../sinks/index.ts'
import { ownOptions, sinksSchema, type SinkConfig } from '../sinks/runner/options.ts'
import { adminProblems, adminSection } from './admin.ts'
import {
  bytes,
  duration,
  flag,
  integer,
  oneOf,
  path,
  patterns,
  section,
  serverTls,
  text,
} from './leaves.ts'
import { load, readText } from './load.ts'
import type { Loaded } from './load.ts'
import {
  changeLogSchema,
  failoverSchema,
  onDivergedSchema,
  onPositionLostSchema,
  semiSyncSchema,
  sourceSchema,
  standbysSchema,
  startSchema,
} from './source.ts'
import { formatProblem } from './yaml.ts'
import type { Environment, Path, YamlFile } from './yaml.ts'

// ── conf/server.yaml ─────────────────────────────────────────────────────────

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const
export const logLevel = oneOf(logLevels).default('info').describe('Least severity that is logged')

export const serverSchema = section({
  canal: section({
    host: text('an address or host name')
      .default('127.0.0.1')
      .describe('Address the Canal port listens on; 0.0.0.0 for all'),
    port: integer('a TCP port, 0 to 65535', 0, 65_535)
      .default(11_111)
      .describe('The Canal port; 0 picks a free one'),
    user: text('a user name')
      .optional()
      .describe('User that Canal clients must give; none: no authentication'),
    password: z
      .string({ error: 'a password as text (put digits in quotes)' })
      .optional()
      .describe("That user's password, in plain text; or use passwordHash"),
    passwordHash: z
      .string({ error: '40 hexadecimal digits, SHA1(SHA1(password)) (put it in quotes)' })
      .regex(/^\*?[0-9a-fA-F]{40}$/, { error: '40 hexadecimal digits, SHA1(SHA1(password))' })
      .optional()
      .describe('Hex SHA1(SHA1(password)), as canal.passwd of the Java server'),
    tls: serverTls.optional().describe('TLS on the Canal port; none: plain TCP'),
    packetBytesMax: bytes('4KiB', '1GiB')
      .prefault('8MiB')
      .describe('Longest packet a client may send; longer closes its connection'),
    connectionsMax: integer('a number of connections, 1 to 100000', 1, 100_000)
      .default(1000)
      .describe('Connections at once; more are refused'),
    idleMs: duration('1s', '1000h')
      .prefault('1h')
      .describe('A connection that sends nothing for this long is closed'),
  })
    .prefault({})
    .describe('The port for Canal clients and the SDK'),
  admin: adminSection,
  dataDir: path('a folder')
    .default('../data')
    .describe('Folder of the state files, one per instance (positions, cursors)'),
  instancesDir: path('a folder')
    .default('../instances')
    .describe('Folder of the instance files; watched while the server runs'),
  memoryBytesMax: bytes('2MiB', '1024GiB')
    .optional()
    .describe(
      'Memory for the windows of all instances together; they shrink in proportion. None: each has its windowBytes',
    ),
  shutdownMs: duration('0s', '1h')
    .prefault('10s')
    .describe('How long a graceful stop may take before connections are cut'),
  log: section({
    level: logLevel,
    stream: oneOf(['stdout', 'stderr'])
      .default('stdout')
      .describe('stdout | stderr; with a file sink on standard output it must be stderr'),
  })
    .prefault({})
    .describe('The log: JSON lines'),
})
export type ServerConfig = Readonly<z.output<typeof serverSchema>>

// ── instances/<destination>.yaml ─────────────────────────────────────────────

const RATE = 'auto, or a number of rows, 0 to 1000000000'

export const instanceSchema = section({
  enabled: flag().default(true).describe('false: the instance does not run'),
  source: sourceSchema,
  standbys: standbysSchema,
  failover: failoverSchema,
  start: startSchema,
  onPositionLost: onPositionLostSchema,
  onDiverged: onDivergedSchema,
  semiSync: semiSyncSchema,
  filter: section({
    include: patterns('regular expressions over database.table')
      .default('.*\\..*')
      .describe("Tables to deliver: regular expressions over database.table, Canal's syntax"),
    exclude: patterns('regular expressions over database.table')
      .default('')
      .describe('Tables to leave out; applied after include'),
    columns: section({
      include: patterns('database.table:column/column items')
        .default('')
        .describe(
          "Tables of which only some columns are delivered, Canal's syntax: shop.users:id/name",
        ),
      exclude: patterns('database.table:column/column items')
        .default('')
        .describe('Tables of which some columns are left out, the same'),
    })
      .prefault({})
      .describe('Column lists per table'),
    statements: section({
      ddl: flag()
        .default(true)
        .describe('Whether statements that define tables, indexes and databases are delivered'),
      dml: oneOf(['stop', 'deliver', 'drop'])
        .default('stop')
        .describe(
          'INSERT, UPDATE, DELETE logged as text, whose rows the log lacks: stop (an error) | deliver | drop; drop also leaves out ROWS_QUERY texts',
        ),
      dcl: flag()
        .default(true)
        .describe('Whether all other statements are: accounts, views, routines'),
    })
      .prefault({})
      .describe('Statements, by kind'),
    rows: section({
      insert: flag().default(true).describe('Whether inserted rows are delivered'),
      update: flag().default(true).describe('Whether updated rows are'),
      delete: flag().default(true).describe('Whether deleted rows are'),
    })
      .prefault({})
      .describe('Rows, by kind of change'),
    transactionEntries: flag()
      .default(true)
      .describe('Whether Canal clients get TRANSACTIONBEGIN and TRANSACTIONEND'),
  })
    .prefault({})
    .describe('What is delivered'),
  timezone: text('a time zone like UTC, +08:00 or Europe/Berlin')
    .optional()
    .describe("Zone in which TIMESTAMP is written; none: the source's"),
  ambiguousSchema: oneOf(['stop', 'positional'])
    .default('stop')
    .describe(
      'Rows whose columns nothing names for sure: stop | positional (names by position, with a warning)',
    ),
  gtid: flag().default(false).describe("Fill in GTIDs for Canal clients, as Canal's gtidon does"),
  windowBytes: bytes('1MiB', '64GiB')
    .prefault('8MiB')
    .describe('Memory for changes that clients have not taken yet'),
  partBytes: bytes('64KiB', '64MiB')
    .prefault('1MiB')
    .describe('A transaction larger than this travels in parts of this size'),
  catchUpReaders: integer('a number of readers, 1 to 64', 1, 64)
    .default(4)
    .describe('Extra connections to MySQL at once for clients that fell out of the window'),
  retry: section({
    minMs: duration('10ms', '10m')
      .prefault('500ms')
      .describe('Pause before the first retry; doubles from there'),
    maxMs: duration('10ms', '1h').prefault('30s').describe('Longest pause between retries'),
  })
    .prefault({})
    .describe('Reconnecting after an error that may pass'),
  snapshot: section({
    rowsPerSecond: z
      .union([z.literal('auto'), integer(RATE, 0, 1_000_000_000)], { error: RATE })
      .default('auto')
      .describe(
        'Rows a second that a load reads where it is not told: a number, 0 (as fast as it goes) or auto (as the source bears)',
      ),
    threadsRunningMax: integer('a number of threads, 1 to 1000000', 1, 1_000_000)
      .default(25)
      .describe('auto: reads more slowly while more threads of the source are at work'),
    replicaLagMaxMs: duration('100ms', '24h')
      .prefault('10s')
      .describe('auto: the same while the source, if it is a replica, is further behind'),
  })
    .prefault({})
    .describe('How quickly tables are read that were there before'),
  changeLog: changeLogSchema,
  sinks: sinksSchema(sinkTypes)
    .prefault({})
    .describe('Where changes are written to, by name: docs/sinks.md'),
})
export type InstanceConfig = Readonly<z.output<typeof instanceSchema>>

// ── loading ──────────────────────────────────────────────────────────────────

export const DEFAULT_CONFIG = join('conf', 'server.yaml')

/**
 * Loads conf/server.yaml. Relative paths in it count from the file's own folder. A file at the default place may be
 * missing: then every default holds, as if it were there and empty. Never throws: what is wrong comes as problems.
 */
export function loadServer(file: string, env: Environment = process.env): Loaded<ServerConfig> {
  const source = file === DEFAULT_CONFIG && !existsSync(file) ? '' : readText(file)
  return load(file, source, env, serverSchema, (yaml, config) => {
    const { canal } = config
    if (
      canal.user === undefined &&
      (canal.password !== undefined || canal.passwordHash !== undefined)
    ) {
      yaml.problem(['canal'], 'a password without a user: expected canal.user as well')
    }
    if (
      canal.user !== undefined &&
      canal.password === undefined &&
      canal.passwordHash === undefined
    ) {
      yaml.problem(
        ['canal', 'user'],
        'a user without a password: expected canal.password or canal.passwordHash as well',
      )
    }
    if (canal.password !== undefined && canal.passwordHash !== undefined) {
      yaml.keyProblem(
        ['canal', 'passwordHash'],
        'expected either canal.password or canal.passwordHash, found both',
      )
    }
    const { admin } = config
    for (const { at, message } of adminProblems(admin)) yaml.problem(['admin', ...at], message)
    const from = (p: string): string => resolve(dirname(file), p)
    const tls = canal.tls && filesOf(yaml, ['canal', 'tls'], canal.tls, from)
    const adminTls = admin.tls && filesOf(yaml, ['admin', 'tls'], admin.tls, from)
    return {
      ...config,
      canal: { ...canal, ...(tls && { tls }) },
      admin: { ...admin, ...(adminTls && { tls: adminTls }) },
      dataDir: from(config.dataDir),
      instancesDir: from(config.instancesDir),
    }
  })
}

/** Loads one instance file. Its name without extension is the destination. Never throws. */
export function loadInstance(file: string, env: Environment = process.env): Loaded<InstanceConfig> {
  return parseInstance(file, readText(file), env)
}
/** The same of a text that would stand in `file`. */
export function parseInstance(
  file: string,
  source: string | Error,
  env: Environment = process.env,
): Loaded<InstanceConfig> {
  return load(file, source, env, instanceSchema, (yaml, config) => {
    if (!destinationPattern.test(destinationOf(file))) {
      yaml.problem(
        [],
        `expected a file name of letters, digits, "-", "_" and ".", found "${basename(file)}"`,
      )
    }
    const { tls } = config.source
    const { include, exclude, columns } = config.filter
    attempt(yaml, ['filter', 'include'], () => compileFilter({ include }))
    attempt(yaml, ['filter', 'exclude'], () => compileFilter({ exclude }))
    attempt(yaml, ['filter', 'columns', 'include'], () =>
      compileColumns({ include: columns.include }),
    )
    attempt(yaml, ['filter', 'columns', 'exclude'], () =>
      compileColumns({ exclude: columns.exclude }),
    )
    attempt(
      yaml,
      ['timezone'],
      () => config.timezone !== undefined && parseTimeZone(config.timezone),
    )
    attempt(
      yaml,
      ['start', 'gtids'],
      () =>
        typeof config.start === 'object' &&
        'gtids' in config.start &&
        GtidSet.parse(config.start.gtids),
    )
    if ((tls.cert === undefined) !== (tls.key === undefined)) {
      yaml.problem(['source', 'tls'], 'expected cert and key together, found only one of them')
    }
    if (config.retry.maxMs < config.retry.minMs) {
      yaml.problem(
        ['retry', 'maxMs'],
        `expected at least retry.minMs (${config.retry.minMs}), found ${config.retry.maxMs}`,
      )
    }
    if (config.partBytes * 2 > config.windowBytes) {
      yaml.problem(
        ['partBytes'],
        `expected at most half of windowBytes (${config.windowBytes}), found ${config.partBytes}`,
      )
    }
    checkChangeLog(yaml, config.changeLog)
    checkSinks(yaml, config.sinks)
    const from = (p: string): string => resolve(dirname(file), p)
    const resolved = filesOf(yaml, ['source', 'tls'], tls, from)
    const standbys = config.standbys.map(({ tls: own, ...standby }, i) => {
      if (own && (own.cert === undefined) !== (own.key === undefined)) {
        yaml.problem(
          ['standbys', i, 'tls'],
          'expected cert and key together, found only one of them',
        )
      }
      return { ...standby, ...(own && { tls: filesOf(yaml, ['standbys', i, 'tls'], own, from) }) }
    })
    return { ...config, standbys, source: { ...config.source, tls: { ...tls, ...resolved } } }
  })
}

/**
 * What a program says in place of an instance file: the same keys, checks, messages and defaults. Throws CONFIG_INVALID with
 * every problem.
 */
export function instanceOf(name: string, instance: object): InstanceConfig {
  const { config, problems } = parseInstance(`${name}.yaml`, stringify(literal(instance)))
  if (config) return config
  const texts = problems.map(({ key, message }) => `${name}: ${key}: ${message}`)
  throw new SluiceError('CONFIG_INVALID', texts.join('\n'))
}
/** ${…} stands for itself. */
function literal(value: unknown): unknown {
  if (typeof value === 'string') return value.replaceAll('${', '$${')
  if (Array.isArray(value)) return value.map(literal)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, literal(one)]))
}

function checkChangeLog(
  yaml: YamlFile,
  { segmentBytes, maxBytes }: { readonly segmentBytes: number; readonly maxBytes: number },
): void {
  if (segmentBytes * 2 <= maxBytes) return
  const text = `expected at most half of changeLog.maxBytes (${maxBytes}), found ${segmentBytes}`
  yaml.problem(['changeLog', 'segmentBytes'], text)
}
function checkSinks(yaml: YamlFile, sinks: Readonly<Record<string, SinkConfig>>): void {
  for (const [name, sink] of Object.entries(sinks)) {
    const at = ['sinks', name]
    if (!sinkNamePattern.test(name)) {
      yaml.keyProblem(
        at,
        `expected a name of up to 50 letters, digits, "-" and "_", found "${name}"`,
      )
    }
    checkSink(yaml, at, sink)
  }
}
/** What the schema of a sink cannot say. */
export function checkSink(yaml: YamlFile, at: Path, sink: SinkConfig): void {
  const { include, exclude } = sink.filter
  attempt(yaml, [...at, 'filter', 'include'], () => compileFilter({ include }))
  attempt(yaml, [...at, 'filter', 'exclude'], () => compileFilter({ exclude }))
  const type = sinkTypes.find((t) => t.type === sink.type)
  for (const text of type?.problems?.(ownOptions(type, sink)) ?? []) yaml.problem(at, text)
}
/** Names of sinks, under which their positions are kept. */
export const sinkNamePattern = /^[A-Za-z0-9_][A-Za-z0-9_-]{0,49}$/
const destinationPattern = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$/
/** Whether an instance may have this name. */
export const isDestination = (name: string): boolean => destinationPattern.test(name)
/** "instances/orders.yaml" → "orders" */
export function destinationOf(file: string): string {
  return basename(file, extname(file))
}
/** The instance files of a folder, by destination; an unreadable folder throws CONFIG_UNREADABLE. */
export function instanceFiles(folder: string): Map<string, string> {
  const files = new Map<string, string>()
  let names: string[]
  try {
    names = readdirSync(folder)
  } catch (cause) {
    throw new SluiceError(
      'CONFIG_UNREADABLE',
      `cannot list the instances folder ${folder}: ${(cause as Error).message}`,
      { cause },
    )
  }
  for (const name of names.sort()) {
    if (!name.startsWith('.') && /\.ya?ml$/.test(name))
      files.set(destinationOf(name), join(folder, name))
  }
  return files
}

/** Throws CONFIG_INVALID with every problem on a line of its own; else returns the configuration. */
export function orThrow<T>(loaded: Loaded<T>): T {
  if (loaded.config !== undefined) return loaded.config
  const n = loaded.problems.length
  const list = loaded.problems.map((p) => `  ${formatProblem(p)}`).join('\n')
  throw new SluiceError(
    'CONFIG_INVALID',
    `the configuration has ${n} problem${n > 1 ? 's' : ''}:\n${list}`,
  )
}

/** What a compiler of a later stage has to say of a value. */
function attempt(yaml: YamlFile, at: Path, compile: () => unknown): void {
  try {
    compile()
  } catch (error) {
    yaml.problem(at, (error as Error).message)
  }
}

function filesOf<
  T extends { ca?: string | undefined; cert?: string | undefined; key?: string | undefined },
>(yaml: YamlFile, at: Path, tls: T, from: (path: string) => string): T {
  const resolved: T = { ...tls }
  for (const key of ['ca', 'cert', 'key'] as const) {
    const value = tls[key]
    if (value === undefined) continue
    resolved[key] = from(value)
    const content = readText(from(value))
    if (content instanceof Error)
      yaml.problem([...at, key], `expected a readable file: ${content.message}`)
    else if (!content.includes('-----BEGIN')) {
      yaml.problem(
        [...at, key],
        `expected a PEM file ("-----BEGIN …"), found something else in ${from(value)}`,
      )
    }
  }
  return resolved
}
