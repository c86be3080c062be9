/**
 * What a migration is told, and what it remembers of itself in its folder: the two servers without their passwords, which
 * tables, how far it is. One process at a time has the folder; another one may leave it the order to cut over. Knows no
 * server.
 */
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { SluiceError } from '../errors.ts'

/** One of the two servers. */
export interface Endpoint {
  readonly kind: 'mysql' | 'postgres'
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
  /** MySQL: '' where the URL names none. */
  readonly database: string
  readonly tls: string | undefined
  readonly ca: string | undefined
}
/** `tables` and `exclude` are regular expressions over database.table, as everywhere. */
export interface Wanted {
  readonly tables: string
  readonly exclude: string
}
export interface MigrateOptions {
  readonly from: Endpoint
  readonly to: Endpoint
  readonly dir: string
  readonly wanted: Wanted
  readonly dryRun: boolean
  /** As soon as it is in step, without being asked. */
  readonly cutOver: boolean
  /** At the cut-over the source is made read-only; else somebody stops its writers. */
  readonly lockSource: boolean
  readonly reverse: boolean
  /** What DDL does while the migration runs. */
  readonly ddl: 'apply' | 'ignore'
  /** PostgreSQL has no text with U+0000: stop at one, or leave the character out. */
  readonly removeNul: boolean
}

const kinds = new Map<string, readonly [Endpoint['kind'], number]>([
  ['mysql:', ['mysql', 3306]],
  ['mariadb:', ['mysql', 3306]],
  ['postgres:', ['postgres', 5432]],
  ['postgresql:', ['postgres', 5432]],
])
const TLS: Readonly<Record<string, readonly string[]>> = {
  from: ['disabled', 'preferred', 'required', 'verify-ca', 'verify-identity'],
  to: ['disabled', 'required', 'verify'],
}

/** `password`: what stands outside of the URL, for one without. Throws USAGE, which shows nothing of the URL. */
export function endpointOf(
  which: 'from' | 'to',
  text: string,
  password: string | undefined,
): Endpoint {
  const wrong = (expected: string): SluiceError =>
    new SluiceError('USAGE', `--${which}: expected ${expected}`)
  const shape =
    which === 'from'
      ? 'mysql://user@host:port/database'
      : 'mysql://… or postgres://user@host/database'
  if (!URL.canParse(text)) throw wrong(`${shape}, found what is no URL`)
  const url = new URL(text)
  const [kind, port] = kinds.get(url.protocol) ?? []
  if (kind === undefined || (which === 'from' && kind !== 'mysql'))
    throw wrong(`${shape}, found the scheme ${url.protocol.slice(0, -1)}`)
  const database = decodeURIComponent(url.pathname.slice(1))
  if (kind === 'postgres' && database === '') throw wrong('a database after the host, found none')
  if (url.username === '') throw wrong('a user before the host, found none')
  const ca = url.searchParams.get('ca') ?? undefined
  // Who names an authority wants it to be asked.
  const asked = ca === undefined ? undefined : which === 'from' ? 'verify-ca' : 'verify'
  const tls = url.searchParams.get('tls') ?? asked
  if (tls !== undefined && !TLS[which]!.includes(tls))
    throw wrong(`tls= one of ${TLS[which]!.join(', ')}, found ${tls}`)
  for (const name of url.searchParams.keys())
    if (name !== 'tls' && name !== 'ca') throw wrong(`tls= and ca= behind the "?", found ${name}=`)
  return {
    kind,
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port === '' ? port! : Number(url.port),
    user: decodeURIComponent(url.username),
    password: url.password === '' ? (password ?? '') : decodeURIComponent(url.password),
    database,
    tls,
    ca,
  }
}
/** The URL again; without the password unless it is asked for. */
export function urlOf(end: Endpoint, secret = false): string {
  const enc = encodeURIComponent
  const host = end.host.includes(':') ? `[${end.host}]` : end.host
  const account = secret ? `${enc(end.user)}:${enc(end.password)}` : enc(end.user)
  const more = Object.entries({ tls: end.tls, ca: end.ca }).flatMap(([name, value]) =>
    value === undefined || secret ? [] : [`${name}=${enc(value)}`],
  )
  const query = more.length === 0 ? '' : `?${more.join('&')}`
  return `${end.kind}://${account}@${host}:${end.port}/${enc(end.database)}${query}`
}
export const whereOf = ({ kind, host, port, database }: Endpoint): string =>
  `${kind}://${host}:${port}${database === '' ? '' : `/${database}`}`

/** All tables of these databases, as a regular expression. */
export const tablesOf = (databases: readonly string[]): string =>
  databases.map((name) => `${literally(name)}\\..*`).join(',')
/** As Canal's regular expressions have it. */
export const literally = (text: string): string =>
  text.replace(/[!-/:-@[-^`{-~]/g, (mark) => (mark === ',' ? '\\x2c' : `\\${mark}`))

// ── what it remembers ────────────────────────────────────────────────────────

export type Phase = 'schema' | 'load' | 'indexes' | 'stream' | 'finish' | 'done'
/** A place in a MySQL log. */
export interface Place {
  readonly file: string
  readonly offset: number
  readonly gtids: string // '' without GTIDs
}
export interface Remembered {
  readonly id: string
  readonly from: string
  readonly to: string
  readonly wanted: Wanted
  readonly phase: Phase
  /** Where the stream begins: tables were made as they were there. */
  readonly start: Place | undefined
  /** Tables of the target that it has made, or found empty. */
  readonly made: readonly string[]
  /** What the source's log ended with at the cut-over, and the target's. */
  readonly cutOver: { readonly source: Place; readonly target: Place | undefined } | undefined
}
const FILE = 'migration.json'
const ORDER = 'cut-over'

export function remembered(dir: string): Remembered | undefined {
  const path = join(dir, FILE)
  if (!existsSync(path)) return undefined
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Remembered
  } catch (cause) {
    const text = `${path}: expected what a migration wrote, found something else: ${(cause as Error).message}`
    throw new SluiceError('STATE_UNREADABLE', text, { cause })
  }
}

/** The folder of one migration, held by this process. */
export class Folder {
  readonly dir: string
  readonly #lock: DatabaseSync
  #now: Remembered

  private constructor(dir: string, lock: DatabaseSync, now: Remembered) {
    this.dir = dir
    this.#lock = lock
    this.#now = now
  }
  /**
   * Made where there is none. Throws STATE_LOCKED when another process has it, USAGE when it belongs to a migration of
   * other servers or tables.
   */
  static open(options: MigrateOptions): Folder {
    const { dir, from, to, wanted } = options
    mkdirSync(dir, { recursive: true })
    const lock = takeLock(dir)
    if (lock === undefined)
      throw new SluiceError('STATE_LOCKED', `${dir}: another process is at this migration`)
    try {
      const about = { from: urlOf(from), to: urlOf(to), wanted }
      const id = `migrate-${randomBytes(4).toString('hex')}`
      const fresh: Remembered = {
        id,
        ...about,
        phase: 'schema',
        start: undefined,
        made: [],
        cutOver: undefined,
      }
      const before = remembered(dir)
      if (before !== undefined) requireSame(dir, before, about)
      const folder = new Folder(dir, lock, before ?? fresh)
      if (before === undefined) folder.update({})
      return folder
    } catch (error) {
      lock.close()
      throw error
    }
  }
  get now(): Remembered {
    return this.#now
  }
  /** Durable when it returns. */
  update(part: Partial<Remembered>): void {
    this.#now = { ...this.#now, ...part }
    const path = join(this.dir, FILE)
    writeFileSync(`${path}.new`, `${JSON.stringify(this.#now, null, 2)}\n`, {
      mode: 0o600,
      flush: true,
    })
    renameSync(`${path}.new`, path)
  }
  /** Whether another process asked to cut over. */
  get ordered(): boolean {
    return existsSync(join(this.dir, ORDER))
  }
  close(): void {
    rmSync(join(this.dir, ORDER), { force: true })
    this.#lock.close()
  }
}
function requireSame(
  dir: string,
  before: Remembered,
  about: Pick<Remembered, 'from' | 'to' | 'wanted'>,
): void {
  for (const key of ['from', 'to', 'wanted'] as const) {
    const [was, is] = [before[key], about[key]].map((value) =>
      typeof value === 'string' ? value : `${value!.tables} without ${value!.exclude || 'nothing'}`,
    )
    if (was === is) continue
    throw new SluiceError(
      'USAGE',
      `${dir} belongs to the migration ${key === 'wanted' ? 'of' : key} ${was}; found ${is}. Expected the same, or another --dir`,
    )
  }
}

/** Whether a process is at the migration of this folder. */
export function held(dir: string): boolean {
  if (!existsSync(join(dir, 'lock.sqlite'))) return false
  const lock = takeLock(dir)
  lock?.close()
  return lock === undefined
}
/** Tells the process that has the folder to cut over. */
export function orderCutOver(dir: string): void {
  writeFileSync(join(dir, ORDER), '')
}
function takeLock(dir: string): DatabaseSync | undefined {
  const db = new DatabaseSync(join(dir, 'lock.sqlite'), { timeout: 0 })
  try {
    db.exec('BEGIN EXCLUSIVE')
    return db
  } catch {
    db.close()
    return undefined
  }
}
