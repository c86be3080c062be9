/**
 * What several commands need: the configuration they were pointed to, a source of their own that touches no state, and
 * colours where somebody looks.
 */
import { mkdirSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Arguments } from '../cli.ts'
import type { Filter, Position, Source } from '../change.ts'
import {
  DEFAULT_CONFIG,
  instanceFiles,
  loadInstance,
  loadServer,
  orThrow,
} from '../config/config.ts'
import type { InstanceConfig, ServerConfig } from '../config/config.ts'
import { nearest } from '../config/keys.ts'
import { SluiceError } from '../errors.ts'
import { compileFilter, intersect } from '../filter.ts'
import { createLogger } from '../logger.ts'
import type { Logger } from '../logger.ts'
import { Lookup } from '../lookup.ts'
import { SlabPool } from '../slab.ts'
import { mysqlSource } from '../sources/mysql.ts'
import type { SourceFacts } from '../sources/mysql.ts'
import { connectOptions, factsOf, openCatalog } from '../upstream/connect.ts'

/** The server's configuration. Throws CONFIG_INVALID. */
export function serverConfig(args: Arguments): ServerConfig {
  return orThrow(loadServer(args.text('config') ?? DEFAULT_CONFIG))
}
/** The file of a destination. Throws USAGE when there is none. */
export function instanceFile(config: ServerConfig, destination: string): string {
  const files = instanceFiles(config.instancesDir)
  const file = files.get(destination)
  if (file !== undefined) return file
  const near = nearest(destination, [...files.keys()])
  const hint = near
    ? `did you mean "${near}"?`
    : `found ${[...files.keys()].join(', ') || 'no instance files'}`
  throw new SluiceError(
    'USAGE',
    `no file for destination "${destination}" in ${config.instancesDir}; ${hint}`,
  )
}
export function instanceConfig(config: ServerConfig, destination: string): InstanceConfig {
  return orThrow(loadInstance(instanceFile(config, destination)))
}
/**
 * Makes the folder where there is none. Throws STATE_UNWRITABLE when no file can be made in it. A full disk is none of that: it
 * passes, and meanwhile each instance says what it lacks.
 */
export function requireWritable(dataDir: string): void {
  const probe = join(dataDir, `.probe-${process.pid}`)
  try {
    mkdirSync(dataDir, { recursive: true })
    writeFileSync(probe, '', { flag: 'wx' })
    unlinkSync(probe)
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException
    if (code === 'ENOSPC' || code === 'EDQUOT') return
    const who = `user ${process.getuid?.() ?? process.env['USERNAME']}`
    const text =
      `dataDir: expected a folder that ${who} can write: state files, admin.token and audit.log are kept there; ` +
      `found ${dataDir}: ${message}. Configuration and instance files may be read-only`
    throw new SluiceError('STATE_UNWRITABLE', text, { cause })
  }
}
/** Warnings and worse go to standard error: standard output carries the result. */
export const commandLogger = (): Logger => createLogger('warn', 2)

/** A source of its own: no state, no cursor, its own server id and replica uuid. */
export interface OwnSource {
  readonly facts: SourceFacts
  readonly lookup: Lookup
  read(from: Position, filter: Filter, signal: AbortSignal): ReturnType<Source['read']>
  [Symbol.dispose](): void
}
/** Connects and asks for the facts. Throws what Connection.open throws. */
export async function openSource(config: InstanceConfig, log: Logger): Promise<OwnSource> {
  const connect = connectOptions(config.source)
  const lookup = new Lookup(connect)
  try {
    const facts = await factsOf(connect)
    const catalog = openCatalog({ config, facts, epoch: 1, lookup, log })
    await catalog.prepare()
    const read: OwnSource['read'] = (from, filter, signal) =>
      mysqlSource({
        connect,
        epoch: 1,
        catalog,
        filter: intersect(compileFilter(config.filter), filter),
        slabs: new SlabPool(),
        partBytes: config.partBytes,
        heartbeatMs: config.source.heartbeatMs,
      }).read(from, signal)
    return { facts, lookup, read, [Symbol.dispose]: () => lookup.close() }
  } catch (error) {
    lookup.close()
    throw error
  }
}

const codes = { red: 31, green: 32, yellow: 33, blue: 34, magenta: 35, dim: 2, bold: 1 }
export type Paint = Readonly<Record<keyof typeof codes, (text: string) => string>>
/** Colours for a stream, only where it is a terminal and NO_COLOR is not set. */
export function painter(stream: { readonly isTTY?: boolean }): Paint {
  const on = stream.isTTY === true && !process.env['NO_COLOR']
  const entries = Object.entries(codes).map(([name, code]) => {
    return [name, (text: string) => (on ? `\u001b[${code}m${text}\u001b[0m` : text)]
  })
  return Object.fromEntries(entries) as Paint
}

// ── commands that run until they are told to stop ────────────────────────────

const SAME_SIGNAL_MS = 500 // a terminal, npm and the launcher each pass on the same Ctrl-C

/** A bug ends the process at once, with its stack in the log. */
export function dieOfBugs(log: Logger): void {
  process.on('unhandledRejection', (error) => die(log, error))
  process.on('uncaughtException', (error) => die(log, error))
}
function die(log: Logger, error: unknown): void {
  log.fatal(
    { stack: error instanceof Error ? error.stack : undefined },
    `a bug in Sluice: ${String(error)}`,
  )
  process.exit(1)
}

/** The first SIGTERM or SIGINT; a later one ends the process at once. */
export function firstSignal(log: Logger): Promise<string> {
  return new Promise((resolve) => {
    let first = 0
    const on = (signal: string, number: number): void => {
      process.on(signal, () => {
        if (first === 0) {
          first = Date.now()
          resolve(signal)
        } else if (Date.now() - first > SAME_SIGNAL_MS) {
          log.warn({ signal }, `${signal} again: ending at once`)
          process.exit(128 + number)
        }
      })
    }
    on('SIGINT', 2)
    on('SIGTERM', 15)
  })
}
