/**
 * What survives a restart, in one SQLite file per instance: each client's acked position, its reserved batch ids and
 * its subscription, and a few facts under text keys (epoch, server uuid, origin). WAL with synchronous=NORMAL: a
 * commit survives kill -9, a power loss may undo the last ones, which only repeats changes.
 *
 * One process owns the file: a second SQLite file beside it is held in an exclusive transaction, which the operating
 * system ends with the process, however that ends. Where file locks do not work, the fencing token does: it rises with
 * every open, and every write checks that it is still the writer's. Readers of other processes are always welcome.
 * Knows nothing of windows, cursors in use, sources or Canal.
 */
import { existsSync, mkdirSync, realpathSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { DatabaseSync, type StatementSync } from 'node:sqlite'
import type { Position } from '../change.ts'
import { assert, fileError, SluiceError } from '../errors.ts'
import { GtidSet } from '../gtid.ts'

const SCHEMA = 2
const APPLICATION_ID = 0x536c6369 // "Slci" in the file's header: whose file this is
const LATER_MS = 1000
const BUSY_MS = 250 // how long a write waits for a foreign tool that has the file locked

export interface StoredCursor {
  readonly client: string
  readonly acked: Position
  readonly reserved: bigint // the first batch id that is not reserved yet
  readonly filterText: string | undefined // undefined: not subscribed
}
/** A definition that holds from a place in the log on; what is in it is the catalog's. */
export interface StoredVersion {
  readonly epoch: number
  readonly file: string
  readonly offset: number
  readonly database: string
  readonly table: string
  readonly origin: 'ddl' | 'captured' | 'assumed'
  readonly definition: string
}
export interface StateSnapshot {
  readonly cursors: readonly StoredCursor[]
  readonly values: ReadonlyMap<string, string>
  /** Who opened it last; that it still runs is not said. */
  readonly holder: { readonly pid: number; readonly since: string; readonly fence: number }
}

export class State {
  readonly path: string
  /** Rises with every open; a write by an older holder fails with STATE_FENCED. */
  readonly fence: number
  readonly #db: DatabaseSync
  readonly #lock: DatabaseSync
  readonly #begin: StatementSync
  readonly #commit: StatementSync
  readonly #fenceNow: StatementSync
  readonly #ackOne: StatementSync
  #acks = new Map<string, Position>()
  #tick: PromiseWithResolvers<void> | undefined
  readonly #later = new Map<string, () => Position>()
  #laterTimer: NodeJS.Timeout | undefined
  #laterMs = LATER_MS
  #wrote: ((acks: ReadonlyMap<string, Position>) => void) | undefined
  #lost: SluiceError | undefined // set once we are fenced off: nothing may be written any more
  #closed = false

  private constructor(path: string, db: DatabaseSync, lock: DatabaseSync) {
    this.path = path
    this.#db = db
    this.#lock = lock
    this.#begin = db.prepare('BEGIN IMMEDIATE')
    this.#commit = db.prepare('COMMIT')
    this.#fenceNow = db.prepare('SELECT fence FROM sluice')
    this.#ackOne = db.prepare('UPDATE cursors SET acked = ? WHERE client = ?')
    this.fence = takeFence(db)
  }

  /**
   * Creates directory and file when missing. Throws STATE_LOCKED (with the holder's pid) when another process has it,
   * STATE_UNREADABLE when the file is corrupt, of a newer Sluice or not ours, STATE_UNWRITABLE when it cannot be written.
   */
  static open(path: string): State {
    const file = realPath(path)
    const lock = takeLock(file)
    let db: DatabaseSync | undefined
    try {
      db = new DatabaseSync(file, { timeout: BUSY_MS })
      prepareFile(db, file)
      return new State(file, db, lock)
    } catch (error) {
      if (db?.isOpen) db.close()
      lock.close()
      throw fileError(file, 'a state file of Sluice', error)
    }
  }

  /** Whether a process has this state file now. */
  static held(path: string): boolean {
    if (!existsSync(`${path}-lock`)) return false
    try {
      takeLock(realPath(path)).close()
      return false
    } catch (error) {
      if (error instanceof SluiceError && error.code === 'STATE_LOCKED') return true
      throw error
    }
  }
  /** For other processes while a Sluice runs. Throws STATE_UNREADABLE, also when there is no such file. */
  static read(path: string): StateSnapshot {
    let db: DatabaseSync | undefined
    try {
      db = new DatabaseSync(path, { readOnly: true, timeout: BUSY_MS })
      checkFile(db, path)
      const row = db.prepare('SELECT pid, since, fence FROM sluice').get()
      const holder = {
        pid: Number(row?.['pid']),
        since: String(row?.['since']),
        fence: Number(row?.['fence']),
      }
      return { cursors: readCursors(db, path), values: readValues(db), holder }
    } catch (error) {
      throw unreadable(path, error)
    } finally {
      if (db?.isOpen) db.close()
    }
  }

  cursors(): StoredCursor[] {
    return readCursors(this.#db, this.path)
  }
  value(key: string): string | undefined {
    const row = this.#db.prepare('SELECT value FROM facts WHERE key = ?').get(key)
    return row === undefined ? undefined : String(row['value'])
  }

  /** Durable when it returns. This and every other write throws STATE_FENCED, STATE_UNWRITABLE. */
  setValue(key: string, value: string): void {
    this.#write(() => {
      this.#db
        .prepare('INSERT INTO facts VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value')
        .run(key, value)
    })
  }
  /** Adds a cursor, or sets the subscription text of the one there is. Durable when it returns. */
  subscribe(client: string, acked: Position, filterText: string): void {
    this.#write(() => {
      this.#db
        .prepare(
          `INSERT INTO cursors (client, acked, reserved, filter) VALUES (?, ?, 1, ?)
           ON CONFLICT DO UPDATE SET filter = excluded.filter`,
        )
        .run(client, positionToJson(acked), filterText)
    })
    setImmediate(() => this.#closed || this.#wrote?.(new Map()))
  }
  /** The cursor stays, its subscription goes. Durable when it returns. */
  unsubscribe(client: string): void {
    this.#write(() => {
      this.#db.prepare('UPDATE cursors SET filter = NULL WHERE client = ?').run(client)
    })
  }
  /** Durable when it returns. */
  remove(client: string): void {
    this.#acks.delete(client)
    this.#later.delete(client)
    this.#write(() => {
      this.#db.prepare('DELETE FROM cursors WHERE client = ?').run(client)
    })
  }
  /** Batch ids below `reserved` may be given out from now on. Durable when it returns. */
  reserve(client: string, reserved: bigint): void {
    this.#write(() => {
      this.#db.prepare('UPDATE cursors SET reserved = ? WHERE client = ?').run(reserved, client)
    })
  }

  /** Definitions of tables through the log, oldest first. */
  *definitions(): Iterable<StoredVersion> {
    const select = this.#db.prepare('SELECT * FROM definitions ORDER BY epoch, file, offset')
    for (const row of select.all()) yield row as unknown as StoredVersion
  }
  /** Adds, or replaces those of the same place and name. Durable when it returns. */
  saveDefinitions(versions: readonly StoredVersion[]): void {
    this.#write(() => {
      const insert = this.#db.prepare(
        'INSERT OR REPLACE INTO definitions VALUES (?, ?, ?, ?, ?, ?, ?)',
      )
      for (const v of versions)
        insert.run(v.epoch, v.file, v.offset, v.database, v.table, v.origin, v.definition)
    })
  }

  /** Durable when it returns. */
  dropDefinitions(versions: readonly Omit<StoredVersion, 'origin' | 'definition'>[]): void {
    this.#write(() => {
      const remove = this.#db.prepare(
        'DELETE FROM definitions WHERE epoch = ? AND file = ? AND offset = ? AND database = ? AND "table" = ?',
      )
      for (const v of versions) remove.run(v.epoch, v.file, v.offset, v.database, v.table)
    })
  }
  /** What is known of tables is not to be trusted any longer. Durable when it returns. */
  forgetDefinitions(): void {
    this.#write(() => this.#db.exec('DELETE FROM definitions'))
  }

  /** Resolves when durable. All acks of one turn of the event loop share one commit, and one promise. */
  ack(client: string, acked: Position): Promise<void> {
    this.#acks.set(client, acked)
    if (this.#tick === undefined) {
      this.#tick = Promise.withResolvers()
      setImmediate(() => this.#settle())
    }
    return this.#tick.promise
  }
  /** Durable within a second or so, or with the next commit of acks; the position is asked for when it is written. */
  ackLater(client: string, acked: () => Position): void {
    this.#later.set(client, acked)
    this.#laterTimer ??= setTimeout(() => this.#settle(), this.#laterMs).unref()
  }
  /** `wrote` is told which acks have just become durable; those of ackLater do within `laterMs`. */
  follow(laterMs: number, wrote: (acks: ReadonlyMap<string, Position>) => void): void {
    this.#laterMs = laterMs
    this.#wrote = wrote
  }
  /** Makes every ack so far durable; their promises are settled too. Throws as the other writes do. */
  flush(): void {
    const error = this.#settle()
    if (error !== undefined) throw error
  }
  /** Flushes and gives the lock back. Idempotent. */
  close(): void {
    if (this.#closed) return
    const error = this.#lost === undefined ? this.#settle() : undefined
    this.#closed = true
    this.#db.close()
    this.#lock.close()
    if (error !== undefined) throw error
  }

  #settle(): unknown {
    clearTimeout(this.#laterTimer)
    this.#laterTimer = undefined
    const tick = this.#tick
    this.#tick = undefined
    if (this.#acks.size === 0 && this.#later.size === 0) {
      tick?.resolve()
      return undefined
    }
    const acks = this.#acks
    this.#acks = new Map()
    for (const [client, acked] of this.#later) acks.set(client, acked())
    this.#later.clear()
    try {
      this.#write(() => {
        for (const [client, acked] of acks) this.#ackOne.run(positionToJson(acked), client)
      })
      tick?.resolve()
      this.#wrote?.(acks)
      return undefined
    } catch (error) {
      // The newest position of each client is kept for the next commit; who waits for this one is told.
      for (const [client, acked] of acks) {
        if (!this.#acks.has(client)) this.#acks.set(client, acked)
      }
      tick?.promise.catch(() => {})
      tick?.reject(error)
      return error
    }
  }

  #write(statements: () => void): void {
    assert(!this.#closed, 'a closed state file was written')
    if (this.#lost !== undefined) throw this.#lost
    try {
      this.#begin.run()
      const fence = this.#fenceNow.get()?.['fence']
      if (fence !== this.fence) {
        this.#lost = new SluiceError(
          'STATE_FENCED',
          `${this.path}: another Sluice has opened this state file (fencing token ${this.fence} expected, found ` +
            `${String(fence)}); nothing is written any more by this one. Stop one of the two`,
        )
        throw this.#lost
      }
      statements()
      this.#commit.run()
    } catch (error) {
      if (this.#db.isTransaction) this.#db.exec('ROLLBACK')
      if (error instanceof SluiceError) throw error
      throw new SluiceError('STATE_UNWRITABLE', `${this.path}: cannot write: ${textOf(error)}`, {
        cause: error,
      })
    }
  }
}

// ── the file ─────────────────────────────────────────────────────────────────

/** Links resolved, so that two names of one file come to one lock. Creates the directory. */
function realPath(path: string): string {
  const file = resolve(path)
  try {
    mkdirSync(dirname(file), { recursive: true })
    return existsSync(file) ? realpathSync(file) : join(realpathSync(dirname(file)), basename(file))
  } catch (error) {
    throw fileError(file, 'a state file', error)
  }
}

/** A file that one process at a time holds, until it closes it or ends; undefined: another one has it. */
export function holdFile(path: string): DatabaseSync | undefined {
  let lock: DatabaseSync | undefined
  try {
    lock = new DatabaseSync(path, { timeout: 0 })
    lock.exec('BEGIN EXCLUSIVE')
    return lock
  } catch (error) {
    if (lock?.isOpen) lock.close()
    if (isBusy(error)) return undefined
    throw fileError(path, 'a file for the lock', error)
  }
}
function takeLock(file: string): DatabaseSync {
  const lock = holdFile(`${file}-lock`)
  if (lock !== undefined) return lock
  const text = `${file} is in use by another Sluice${holderText(file)}; one state file serves one process at a time`
  throw new SluiceError('STATE_LOCKED', text)
}
function holderText(file: string): string {
  try {
    const { pid, since } = State.read(file).holder
    return ` (process ${pid}, since ${since})`
  } catch {
    return '' // it is being created this very moment
  }
}

function prepareFile(db: DatabaseSync, path: string): void {
  const fresh =
    number(db, 'PRAGMA application_id') === 0 && number(db, 'PRAGMA schema_version') === 0
  // Small pages: an ack writes one page to the log, and a checkpoint stays short.
  if (fresh) db.exec('PRAGMA page_size = 1024')
  db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL')
  if (!fresh) {
    checkFile(db, path)
    return migrate(db)
  }
  db.exec(`
    BEGIN IMMEDIATE;
    CREATE TABLE sluice (
      one INTEGER PRIMARY KEY CHECK (one = 1), schema INTEGER NOT NULL, fence INTEGER NOT NULL,
      pid INTEGER NOT NULL, since TEXT NOT NULL
    ) STRICT;
    CREATE TABLE cursors (
      client TEXT PRIMARY KEY, acked TEXT NOT NULL, reserved INTEGER NOT NULL, filter TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    ${DEFINITIONS}
    INSERT INTO sluice VALUES (1, ${SCHEMA}, 0, 0, '');
    PRAGMA application_id = ${APPLICATION_ID};
    COMMIT`)
}

/** Versions of tables by the place in the log from which they hold. */
const DEFINITIONS = `
    CREATE TABLE definitions (
      epoch INTEGER NOT NULL, file TEXT NOT NULL, offset INTEGER NOT NULL, database TEXT NOT NULL,
      "table" TEXT NOT NULL, origin TEXT NOT NULL, definition TEXT NOT NULL,
      PRIMARY KEY (epoch, file, offset, database, "table")
    ) STRICT, WITHOUT ROWID;`

/** From the schema of an older Sluice to ours. */
function migrate(db: DatabaseSync): void {
  if (number(db, 'SELECT schema FROM sluice') === SCHEMA) return
  // 1 had no definitions
  db.exec(`BEGIN IMMEDIATE; ${DEFINITIONS} UPDATE sluice SET schema = ${SCHEMA}; COMMIT`)
}

function checkFile(db: DatabaseSync, path: string): void {
  const owner = number(db, 'PRAGMA application_id')
  if (owner !== APPLICATION_ID) {
    throw new SluiceError(
      'STATE_UNREADABLE',
      `${path} is an SQLite file, but not a state file of Sluice (application id ${owner})`,
    )
  }
  const schema = number(db, 'SELECT schema FROM sluice')
  if (schema > SCHEMA) {
    throw new SluiceError(
      'STATE_UNREADABLE',
      `${path} was written by a newer Sluice: its schema version is ${schema}, this one knows versions up to ` +
        `${SCHEMA}. Run the newer version, or point to another state file`,
    )
  }
  const damage = db.prepare('PRAGMA quick_check(1)').get()?.['quick_check']
  if (damage !== 'ok') {
    throw new SluiceError('STATE_UNREADABLE', `${path} is damaged: ${String(damage)}`)
  }
}

function takeFence(db: DatabaseSync): number {
  const row = db
    .prepare('UPDATE sluice SET fence = fence + 1, pid = ?, since = ? RETURNING fence')
    .get(process.pid, new Date().toISOString())
  return Number(row?.['fence'])
}

function readCursors(db: DatabaseSync, path: string): StoredCursor[] {
  const select = db.prepare('SELECT client, acked, reserved, filter FROM cursors ORDER BY client')
  select.setReadBigInts(true)
  const cursors: StoredCursor[] = []
  for (const { client, acked, reserved, filter } of select.iterate()) {
    assert(typeof reserved === 'bigint', 'an integer column of a strict table holds an integer')
    cursors.push({
      client: String(client),
      acked: positionFromJson(String(acked), `${path}, cursor ${JSON.stringify(client)}`),
      reserved,
      filterText: filter === null ? undefined : String(filter),
    })
  }
  return cursors
}
function readValues(db: DatabaseSync): Map<string, string> {
  const values = new Map<string, string>()
  for (const { key, value } of db.prepare('SELECT key, value FROM facts').iterate()) {
    values.set(String(key), String(value))
  }
  return values
}

function number(db: DatabaseSync, sql: string): number {
  const row = db.prepare(sql).get()
  return row === undefined ? Number.NaN : Number(Object.values(row)[0])
}
const textOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))
function isBusy(error: unknown): boolean {
  const code = error instanceof Error && 'errcode' in error ? Number(error.errcode) & 0xff : 0
  return code === 5 || code === 6 // SQLITE_BUSY, SQLITE_LOCKED
}
function unreadable(path: string, error: unknown): SluiceError {
  if (error instanceof SluiceError) return error
  const text = `${path}: expected a state file of Sluice: ${textOf(error)}`
  return new SluiceError('STATE_UNREADABLE', text, { cause: error })
}

// ── positions as text ────────────────────────────────────────────────────────

/** Under this key stands where a client's cursor was moved when the source no longer had what it needed. */
/** Set to "1" where changes of a client were lost that its tables, read again, are to make up for. */
export const gapKey = (client: string): string => `gap:${client}`
export const movedKey = (client: string): string => `moved:${client}`

/** A position as JSON text, `gtids` as MySQL prints them or null. */
export function positionToJson(position: Position): string {
  const { epoch, server, file, offset, skip, gtids, timestamp, row } = position
  const text = gtids === undefined ? null : gtids.toString()
  const rows = row === undefined || row === 0 ? {} : { row }
  return JSON.stringify({ epoch, server, file, offset, skip, gtids: text, timestamp, ...rows })
}
/** Reads what positionToJson wrote. `where` names the place in messages. Throws STATE_UNREADABLE. */
export function positionFromJson(text: string, where = 'a position'): Position {
  try {
    const fields: unknown = JSON.parse(text)
    assert(typeof fields === 'object' && fields !== null, 'expected an object')
    const { epoch, server, file, offset, skip, gtids, timestamp, row } = fields as Record<
      string,
      unknown
    >
    if (typeof server !== 'string' || typeof file !== 'string') throw new TypeError('server, file')
    if (gtids !== null && typeof gtids !== 'string') throw new TypeError('gtids')
    return {
      epoch: wholeNumber(epoch, 'epoch'),
      server,
      file,
      offset: wholeNumber(offset, 'offset'),
      skip: wholeNumber(skip, 'skip'),
      gtids: gtids === null ? undefined : GtidSet.parse(gtids),
      timestamp: wholeNumber(timestamp, 'timestamp'),
      ...(row !== undefined && { row: wholeNumber(row, 'row') }),
    }
  } catch (error) {
    throw new SluiceError(
      'STATE_UNREADABLE',
      `${where}: expected {"epoch", "server", "file", "offset", "skip", "gtids", "timestamp"}, got ${text.slice(0, 200)}`,
      { cause: error },
    )
  }
}
function wholeNumber(value: unknown, name: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
    throw new TypeError(name)
  return value
}
