/**
 * What the operator and the running server tell each other about an instance's snapshots, in an SQLite file beside its
 * state: orders of commands with their answers, and what the server last said. WAL: the server and any number of commands
 * have it open at once.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { fileError, SluiceError } from '../errors.ts'
import type { KeyValues } from '../sources/snapshot/keys.ts'
import type { Rate } from './load.ts'

const APPLICATION_ID = 0x536c736e // "Slsn"
const SCHEMA = 1
const BUSY_MS = 5000

export interface Order {
  readonly verb: 'start' | 'pause' | 'resume' | 'cancel' | 'throttle'
  readonly client: string
  readonly tables: string // of start: a filter in Canal's syntax
  readonly rowsPerSecond: Rate | undefined // of start and throttle; undefined: as the configuration says
  readonly where?: string | undefined // of start
  readonly keys?: readonly KeyValues[] | undefined // of start
}

/** The file of a destination. */
export const ordersFile = (dataDir: string, destination: string): string =>
  join(dataDir, `${destination}.snapshots.sqlite`)

export class Orders {
  readonly #path: string
  readonly #db: DatabaseSync

  private constructor(path: string, db: DatabaseSync) {
    this.#path = path
    this.#db = db
  }
  /** Creates the file when missing. Throws STATE_UNREADABLE when it is something else, STATE_UNWRITABLE. */
  static open(dataDir: string, destination: string): Orders {
    const path = ordersFile(dataDir, destination)
    let db: DatabaseSync | undefined
    try {
      db = new DatabaseSync(path, { timeout: BUSY_MS })
      prepare(db, path)
      return new Orders(path, db)
    } catch (error) {
      if (db?.isOpen) db.close()
      throw fileError(path, 'a file of snapshots', error)
    }
  }
  /** What the server of a destination last said; undefined: nothing. */
  static said(dataDir: string, destination: string): string | undefined {
    if (!existsSync(ordersFile(dataDir, destination))) return undefined
    const orders = Orders.open(dataDir, destination)
    try {
      const row = orders.#db.prepare('SELECT status FROM said').get()
      return row === undefined ? undefined : String(row['status'])
    } finally {
      orders.close()
    }
  }
  close(): void {
    this.#db.close()
  }

  /** Returns the order's number. */
  give(order: Order): number {
    const sql = 'INSERT INTO orders (text) VALUES (?)'
    return this.#write(() =>
      Number(this.#db.prepare(sql).run(JSON.stringify(order)).lastInsertRowid),
    )
  }
  waiting(): { readonly id: number; readonly order: Order }[] {
    const rows = this.#db
      .prepare('SELECT id, text FROM orders WHERE answer IS NULL ORDER BY id')
      .all()
    return rows.map((row) => ({
      id: Number(row['id']),
      order: JSON.parse(String(row['text'])) as Order,
    }))
  }
  /** `answer` "": done. */
  done(id: number, answer: string): void {
    const sql = 'UPDATE orders SET answer = ? WHERE id = ?'
    this.#write(() => this.#db.prepare(sql).run(answer, id))
  }
  /** undefined: not done yet. An answer is given once. */
  answer(id: number): string | undefined {
    const row = this.#db.prepare('SELECT answer FROM orders WHERE id = ?').get(id)
    const answer = row?.['answer']
    if (typeof answer !== 'string') return undefined
    this.#write(() => this.#db.prepare('DELETE FROM orders WHERE id = ?').run(id))
    return answer
  }
  say(status: string): void {
    const sql =
      'INSERT INTO said VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET status = excluded.status'
    this.#write(() => this.#db.prepare(sql).run(status))
  }
  #write<T>(statement: () => T): T {
    try {
      return statement()
    } catch (cause) {
      const text = `${this.#path}: cannot write: ${(cause as Error).message}`
      throw new SluiceError('STATE_UNWRITABLE', text, { cause })
    }
  }
}

function prepare(db: DatabaseSync, path: string): void {
  const pragma = (name: string): number => Number(db.prepare(`PRAGMA ${name}`).get()?.[name])
  const owner = pragma('application_id')
  const fresh = owner === 0 && pragma('schema_version') === 0
  if (!fresh && (owner !== APPLICATION_ID || pragma('user_version') > SCHEMA)) {
    const found = `application id ${owner}, schema version ${pragma('user_version')}`
    const text = `${path}: expected a file of snapshots with a schema version up to ${SCHEMA}, found ${found}`
    throw new SluiceError('STATE_UNREADABLE', text)
  }
  db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL')
  if (!fresh) return
  db.exec(`
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL, answer TEXT) STRICT;
    CREATE TABLE IF NOT EXISTS said (one INTEGER PRIMARY KEY CHECK (one = 1), status TEXT NOT NULL) STRICT;
    PRAGMA application_id = ${APPLICATION_ID};
    PRAGMA user_version = ${SCHEMA};
    COMMIT`)
}
