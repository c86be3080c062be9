/**
 * What the operator and the running server tell each other about an instance's sinks, in one SQLite file beside its state:
 * dead letters, wishes (pause, resume, replay), and what each sink last said of itself. WAL: the server and any number of
 * commands have it open at once. Knows no sink; its rows are texts.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { fileError, SluiceError } from '../../errors.ts'

const SCHEMA = 1
const APPLICATION_ID = 0x536c646c // "Sldl"
const BUSY_MS = 5000

/** A row that a target refused. */
export interface NewLetter {
  readonly sink: string
  readonly table: string // database.table
  readonly key: string
  readonly version: string
  readonly changeId: string // SinkRow.id
  readonly op: string
  readonly position: string
  readonly code: string
  readonly error: string
  readonly row: string // row.ts
}
export interface Letter extends NewLetter {
  readonly id: number
  readonly time: string // ISO 8601, of the first refusal
  readonly attempts: number // replays among them
}
export interface Wish {
  readonly id: number
  readonly kind: 'replay' | 'resume'
  readonly sink: string
  readonly letter: number | null
}
export interface Said {
  readonly sink: string
  readonly time: string
  readonly status: string // JSON
}

/** The file of a destination. */
export const controlFile = (dataDir: string, destination: string): string =>
  join(dataDir, `${destination}.deadletters.sqlite`)

type Cell = string | number | null

export class Control {
  readonly path: string
  readonly #db: DatabaseSync
  #seen = -1 // data_version

  private constructor(path: string, db: DatabaseSync) {
    this.path = path
    this.#db = db
  }
  /** Creates the file when missing. Throws STATE_UNREADABLE when it is something else, STATE_UNWRITABLE. */
  static open(path: string): Control {
    let db: DatabaseSync | undefined
    try {
      db = new DatabaseSync(path, { timeout: BUSY_MS })
      prepare(db, path)
      return new Control(path, db)
    } catch (error) {
      if (db?.isOpen) db.close()
      throw fileError(path, 'a file of dead letters', error)
    }
  }
  /** undefined when there is no such file. */
  static openIfThere(path: string): Control | undefined {
    return existsSync(path) ? Control.open(path) : undefined
  }
  close(): void {
    this.#db.close()
  }
  /** Whether another connection has written since the last call; true the first time. */
  changed(): boolean {
    const version = Number(this.#db.prepare('PRAGMA data_version').get()?.['data_version'])
    if (version === this.#seen) return false
    this.#seen = version
    return true
  }

  // ── dead letters ───────────────────────────────────────────────────────────

  /** Durable when it returns. The same change of the same sink is kept once. */
  bury(letter: NewLetter): void {
    this.#run(
      `INSERT INTO letters (sink, tab, key, version, change, op, position, code, error, row, time, attempts)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)
       ON CONFLICT (sink, change) DO UPDATE SET code = excluded.code, error = excluded.error, attempts = attempts + 1`,
      letter.sink,
      letter.table,
      letter.key,
      letter.version,
      letter.changeId,
      letter.op,
      letter.position,
      letter.code,
      letter.error,
      letter.row,
      new Date().toISOString(),
    )
  }
  count(sink: string): number {
    const row = this.#db.prepare('SELECT COUNT(*) AS n FROM letters WHERE sink = ?').get(sink)
    return Number(row?.['n'])
  }
  has(sink: string, changeId: string): boolean {
    const sql = 'SELECT 1 FROM letters WHERE sink = ? AND change = ?'
    return this.#db.prepare(sql).get(sink, changeId) !== undefined
  }
  /** Oldest first; of one sink where it is named. */
  letters(sink?: string): Letter[] {
    const rows = this.#db
      .prepare('SELECT * FROM letters WHERE ? IS NULL OR sink = ? ORDER BY id')
      .all(sink ?? null, sink ?? null)
    return rows.map(letterOf)
  }
  letter(id: number): Letter | undefined {
    const row = this.#db.prepare('SELECT * FROM letters WHERE id = ?').get(id)
    return row && letterOf(row)
  }
  drop(id: number): void {
    this.#run('DELETE FROM letters WHERE id = ?', id)
  }
  /** A replay was refused as well. */
  refused(id: number, code: string, error: string): void {
    const sql = 'UPDATE letters SET code = ?, error = ?, attempts = attempts + 1 WHERE id = ?'
    this.#run(sql, code, error, id)
  }

  // ── wishes ─────────────────────────────────────────────────────────────────

  paused(): Set<string> {
    const rows = this.#db.prepare('SELECT sink FROM paused').all()
    return new Set(rows.map((row) => String(row['sink'])))
  }
  /** Holds until the opposite is said, over restarts. */
  pause(sink: string, paused: boolean): void {
    if (paused) this.#run('INSERT INTO paused VALUES (?) ON CONFLICT DO NOTHING', sink)
    else this.#run('DELETE FROM paused WHERE sink = ?', sink)
  }
  wish(kind: Wish['kind'], sink: string, letter: number | null): void {
    this.#run('INSERT INTO wishes (kind, sink, letter) VALUES (?, ?, ?)', kind, sink, letter)
  }
  wishes(): Wish[] {
    const rows = this.#db.prepare('SELECT id, kind, sink, letter FROM wishes ORDER BY id').all()
    return rows.map((row) => ({
      id: Number(row['id']),
      kind: row['kind'] === 'replay' ? 'replay' : 'resume',
      sink: String(row['sink']),
      letter: row['letter'] === null ? null : Number(row['letter']),
    }))
  }
  fulfilled(id: number): void {
    this.#run('DELETE FROM wishes WHERE id = ?', id)
  }

  // ── what sinks say ─────────────────────────────────────────────────────────

  say(sink: string, status: object): void {
    this.#run(
      `INSERT INTO said VALUES (?, ?, ?)
       ON CONFLICT (sink) DO UPDATE SET time = excluded.time, status = excluded.status`,
      sink,
      new Date().toISOString(),
      JSON.stringify(status),
    )
  }
  said(): Said[] {
    return this.#db
      .prepare('SELECT sink, time, status FROM said ORDER BY sink')
      .all()
      .map((row) => ({
        sink: String(row['sink']),
        time: String(row['time']),
        status: String(row['status']),
      }))
  }

  #run(sql: string, ...values: Cell[]): void {
    try {
      this.#db.prepare(sql).run(...values)
    } catch (cause) {
      const text = `${this.path}: cannot write: ${(cause as Error).message}`
      throw new SluiceError('STATE_UNWRITABLE', text, { cause })
    }
  }
}

function letterOf(row: Record<string, unknown>): Letter {
  const text = (key: string): string => String(row[key])
  return {
    id: Number(row['id']),
    sink: text('sink'),
    table: text('tab'),
    key: text('key'),
    version: text('version'),
    changeId: text('change'),
    op: text('op'),
    position: text('position'),
    code: text('code'),
    error: text('error'),
    row: text('row'),
    time: text('time'),
    attempts: Number(row['attempts']),
  }
}

function prepare(db: DatabaseSync, path: string): void {
  const pragma = (name: string): number => Number(db.prepare(`PRAGMA ${name}`).get()?.[name])
  const owner = pragma('application_id')
  const fresh = owner === 0 && pragma('schema_version') === 0
  if (!fresh && owner !== APPLICATION_ID) {
    const text = `${path} is an SQLite file, but none of dead letters (application id ${owner})`
    throw new SluiceError('STATE_UNREADABLE', text)
  }
  if (!fresh && pragma('user_version') > SCHEMA) {
    const text = `${path} was written by a newer Sluice: its schema version is ${pragma('user_version')}, this one knows versions up to ${SCHEMA}`
    throw new SluiceError('STATE_UNREADABLE', text)
  }
  db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL')
  if (!fresh) return
  db.exec(`
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS letters (
      id INTEGER PRIMARY KEY AUTOINCREMENT, sink TEXT NOT NULL, tab TEXT NOT NULL, key TEXT NOT NULL,
      version TEXT NOT NULL, change TEXT NOT NULL, op TEXT NOT NULL, position TEXT NOT NULL, code TEXT NOT NULL,
      error TEXT NOT NULL, row TEXT NOT NULL, time TEXT NOT NULL, attempts INTEGER NOT NULL, UNIQUE (sink, change)
    ) STRICT;
    CREATE TABLE IF NOT EXISTS wishes (
      id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, sink TEXT NOT NULL, letter INTEGER
    ) STRICT;
    CREATE TABLE IF NOT EXISTS paused (sink TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS said (sink TEXT PRIMARY KEY, time TEXT NOT NULL, status TEXT NOT NULL) STRICT, WITHOUT ROWID;
    PRAGMA application_id = ${APPLICATION_ID};
    PRAGMA user_version = ${SCHEMA};
    COMMIT`)
}
