/**
 * A Canal installation on disk: its configuration folder, the destinations it serves, and what its meta.dat and
 * parse.dat know of positions. Reads only. Throws CONFIG_UNREADABLE, CONFIG_INVALID with file and place.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { SluiceError } from '../../errors.ts'
import { Keys, parseProperties } from './properties.ts'
import type { PropertiesFile } from './properties.ts'

/** Canal's EntryPosition: the start of an event that was acked, or from which to go on. */
export interface CanalPosition {
  readonly file: string
  readonly offset: number
  readonly serverId: number // of the server that wrote the event; 0: not known
  readonly timestamp: number // ms, of the event; 0: not known
  readonly gtids: string // everything up to and including the event's transaction; "" without GTIDs
}
export interface CanalClient {
  readonly id: string
  readonly filter: string
  readonly position: CanalPosition | undefined
}
/** What is known of positions. */
export interface CanalMeta {
  readonly file: string
  readonly clients: readonly CanalClient[]
}
export interface Destination {
  readonly name: string
  readonly file: PropertiesFile
  readonly keys: Keys
  readonly dataDir: string // where its meta.dat lies; "" when that was not asked for
  readonly meta: CanalMeta | undefined
  readonly parsed: CanalPosition | undefined // parse.dat
}
export interface Installation {
  readonly folder: string
  readonly file: PropertiesFile
  readonly keys: Keys
  readonly destinations: readonly Destination[]
  /** Named in canal.destinations, but without a folder. */
  readonly missing: readonly string[]
}
type Environment = Readonly<Record<string, string | undefined>>

/** Reads all there is; `cursors`: meta.dat and parse.dat as well. */
export function readInstallation(
  folder: string,
  { cursors, env }: { readonly cursors: boolean; readonly env: Environment },
): Installation {
  const file = readProperties(join(folder, 'canal.properties'), 'canal.properties')
  const keys = new Keys({ files: [file], env })
  const named = destinationNames(keys)
  const scanned = keys.flag('canal.auto.scan') ? scan(confDir(folder, keys)) : []
  const names = [...new Set([...named, ...scanned])]
  const path = (name: string): string => join(confDir(folder, keys), name, 'instance.properties')
  const there = names.filter((name) => existsSync(path(name)))
  const destinations = there.map((name): Destination => {
    const own = readProperties(path(name), `${name}/instance.properties`)
    const fixed = { 'canal.instance.destination': name }
    const view = new Keys({ files: [own, file], env, fixed })
    const common = { name, file: own, keys: view }
    if (!cursors) return { ...common, dataDir: '', meta: undefined, parsed: undefined }
    const dataDir = join(dataFolder(folder, view), name)
    const meta = readMeta(join(dataDir, 'meta.dat'))
    return { ...common, dataDir, meta, parsed: readParsed(join(dataDir, 'parse.dat')) }
  })
  return { folder, file, keys, destinations, missing: names.filter((n) => !there.includes(n)) }
}

function readProperties(path: string, name: string): PropertiesFile {
  let bytes: Buffer
  try {
    bytes = readFileSync(path)
  } catch (cause) {
    const text = `expected a configuration folder of Canal with ${name}: ${(cause as Error).message}`
    throw new SluiceError('CONFIG_UNREADABLE', text, { cause })
  }
  return parseProperties(name, bytes)
}

/** canal.destinations.expr, which wins, or canal.destinations. Throws CONFIG_INVALID. */
export function destinationNames(keys: Keys): string[] {
  const list = keys.text('canal.destinations') ?? ''
  const expr = keys.find('canal.destinations.expr')
  if (expr === undefined)
    return list
      .split(',')
      .map((name) => name.trim())
      .filter((name) => name !== '')
  const match = /^(.+)\{(\d{1,6})-(\d{1,6})\}$/.exec(expr.value)
  const [from, to] = [Number(match?.[2]), Number(match?.[3])]
  if (!match || from > to || to - from > 10_000) {
    throw new SluiceError(
      'CONFIG_INVALID',
      `${expr.from}: canal.destinations.expr: expected prefix{1-5}, found "${expr.value}"`,
    )
  }
  return Array.from({ length: to - from + 1 }, (_, i) => `${match[1]}${from + i}`)
}

/** Canal starts in its bin folder: relative paths count from there. Where the path leads nowhere, the folder given. */
function confDir(folder: string, keys: Keys): string {
  const given = resolve(folder, '..', 'bin', keys.text('canal.conf.dir') ?? '../conf')
  return existsSync(given) ? given : resolve(folder)
}
/** Throws CONFIG_INVALID when it is not here: cursors would be lost without a word. */
function dataFolder(folder: string, keys: Keys): string {
  const found = keys.find('canal.file.data.dir')
  const conf = keys.text('canal.conf.dir')
  if (found === undefined || found.value === conf) return confDir(folder, keys)
  const dir = resolve(folder, '..', 'bin', found.value)
  if (existsSync(dir)) return dir
  throw new SluiceError(
    'CONFIG_INVALID',
    `${found.from}: canal.file.data.dir: expected a folder (its meta.dat files have the cursors), found nothing at ${dir}. ` +
      `Run this where Canal ran, or give a copy: env canal.file.data.dir=FOLDER sluice import-canal …`,
  )
}
function scan(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && entry.name !== 'spring')
    .map((entry) => entry.name)
    .filter((name) => existsSync(join(folder, name, 'instance.properties')))
    .sort()
}

// ── positions ────────────────────────────────────────────────────────────────

function readJson(path: string): unknown {
  if (!existsSync(path)) return undefined
  const text = readFileSync(path, 'utf8')
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new SluiceError(
      'CONFIG_INVALID',
      `${path}: expected JSON as Canal writes it: ${(cause as Error).message}. Canal rewrites this file in place: a crash can ` +
        'leave half of it. Repair it or restore a copy; without it the cursors are unknown (--without-cursors)',
      { cause },
    )
  }
}

/** meta.dat of the FileMixedMetaManager; undefined when there is none. Throws CONFIG_INVALID. */
export function readMeta(path: string): CanalMeta | undefined {
  const json = readJson(path)
  if (json === undefined) return undefined
  const { clientDatas } = fields(json, path)
  const wrong = (what: string): SluiceError =>
    new SluiceError('CONFIG_INVALID', `${path}: expected ${what}`)
  if (!Array.isArray(clientDatas)) throw wrong('a list "clientDatas"')
  const clients = clientDatas.map((data: unknown, i): CanalClient => {
    const where = `${path}: clientDatas[${i}]`
    const { clientIdentity, cursor } = fields(data, where)
    const { clientId, filter } = fields(clientIdentity, `${where}.clientIdentity`)
    if (typeof clientId !== 'number' || !Number.isInteger(clientId))
      throw wrong(`a number as clientDatas[${i}].clientIdentity.clientId`)
    return {
      id: String(clientId),
      filter: typeof filter === 'string' ? filter.trim() : '',
      position: cursor == null ? undefined : readPosition(cursor, `${where}.cursor`),
    }
  })
  return { file: path, clients }
}
function readParsed(path: string): CanalPosition | undefined {
  const json = readJson(path)
  return json == null ? undefined : readPosition(json, path)
}

/** A LogPosition; its EntryPosition goes by the name "postion" there. */
function readPosition(json: unknown, where: string): CanalPosition | undefined {
  const log = fields(json, where)
  const entry = log['postion'] ?? log['position']
  if (entry == null) return undefined
  const at = fields(entry, `${where}.postion`)
  const number = (key: string): number => {
    const value = at[key] ?? 0
    if (typeof value === 'number' && Number.isSafeInteger(value)) return Math.max(0, value)
    throw new SluiceError(
      'CONFIG_INVALID',
      `${where}.postion.${key}: expected a whole number, found ${JSON.stringify(value)}`,
    )
  }
  const text = (key: string): string => (typeof at[key] === 'string' ? at[key].trim() : '')
  const position = {
    file: text('journalName'),
    offset: number('position'),
    serverId: number('serverId'),
    timestamp: number('timestamp'),
    gtids: text('gtid'),
  }
  if (position.file !== '' || position.gtids !== '') return position
  throw new SluiceError(
    'CONFIG_INVALID',
    `${where}.postion: expected a journalName or a gtid, found neither`,
  )
}
function fields(json: unknown, where: string): Readonly<Record<string, unknown>> {
  if (typeof json === 'object' && json !== null && !Array.isArray(json))
    return json as Readonly<Record<string, unknown>>
  throw new SluiceError('CONFIG_INVALID', `${where}: expected an object`)
}
