/**
 * Load whose every change has a number, so that a reader can say which one is missing, doubled or out of order: writers
 * of transactions of many sizes on a real MySQL, the random numbers that choose them, and what the whole-process tests
 * share beyond that. A writer survives kills of its server and knows afterwards what was committed. Knows no Sluice.
 */
import { appendFileSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Connection } from 'mysql2/promise'
import type { MysqlServer } from '../support/mysql.ts'

/** Set by `npm run long`. */
export const long = process.env['SLUICE_LONG'] === '1'
/** A number of the short form (CI), or of the long one. */
export const scaled = (short: number, inLongForm: number): number => (long ? inLongForm : short)
export const TEST_MS = scaled(180_000, 4 * 3_600_000)
export const MIB = 1024 * 1024

/** A line for the record of the long form. */
export function fact(text: string): void {
  const file = process.env['SLUICE_LONG_FACTS']
  if (file !== undefined) appendFileSync(file, `${text}\n`)
}

/** From SLUICE_SEED, to replay a failure; else a new one. */
export const seed = Number(process.env['SLUICE_SEED'] ?? Math.trunc(Math.random() * 2 ** 31))

/** Repeatable random numbers (mulberry32). */
export class Random {
  #state: number
  constructor(from: number) {
    this.#state = from | 0
  }
  /** A whole number from `least` to `most`. */
  int(least: number, most: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return least + (((t ^ (t >>> 14)) >>> 0) % (most - least + 1))
  }
  chance(percent: number): boolean {
    return this.int(1, 100) <= percent
  }
  pick<T>(list: readonly T[]): T {
    return list[this.int(0, list.length - 1)]!
  }
}

/** Resident memory of a process in MB: now, and at its highest. */
export function memoryOf(pid: number): { rss: number; peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const mb = (key: string): number => {
    const kb = new RegExp(`^${key}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]
    if (kb === undefined) throw new Error(`no ${key} in /proc/${pid}/status`)
    return Math.round(Number(kb) / 1024)
  }
  return { rss: mb('VmRSS'), peak: mb('VmHWM') }
}

/** Waits until `done`; throws `what()` after `limitMs` without a change of `progress`. */
export async function until(
  done: () => boolean,
  what: () => string,
  { progress = () => 0, limitMs = 60_000 }: { progress?: () => number; limitMs?: number } = {},
): Promise<void> {
  let seen = progress()
  let since = Date.now()
  while (!done()) {
    if (progress() !== seen) {
      seen = progress()
      since = Date.now()
    } else if (Date.now() - since > limitMs) throw new Error(`waited too long: ${what()}`)
    await sleep(10)
  }
}

const TABLES = 3
export const tableNames = Array.from({ length: TABLES }, (_, i) => `t${i}`)

/** A database for writers; `crc` lets a reader check what it got without knowing it. */
export async function createTables(mysql: MysqlServer, database: string): Promise<void> {
  await mysql.query(`CREATE DATABASE ${database}`)
  for (const table of tableNames)
    await mysql.query(
      `CREATE TABLE ${database}.${table} (writer INT, id INT, seq INT, pad LONGBLOB,
       crc INT UNSIGNED AS (CRC32(pad)) STORED, PRIMARY KEY (writer, id))`,
    )
  await mysql.query(`CREATE TABLE ${database}.progress (writer INT PRIMARY KEY, tx INT)`)
}

/** What a transaction does, until it is known to be committed. */
interface Draft {
  readonly sql: string[]
  readonly rows: Map<string, number | undefined> // "table:id" → seq; undefined: deleted
  next: number
}

/** How a writer writes. */
export interface Pace {
  readonly pauseMs?: number // at most, between transactions
  readonly large?: number // percent of transactions of several MB
  readonly compressed?: number // percent
}

/** One stream of changes, numbered from 0 in the order of the log. */
export class Writer {
  readonly id: number
  /** So many changes were committed: 0 … count - 1. */
  count = 0
  transactions = 0
  /** What is in the tables: "table:id" → the number of the change that put it there. */
  readonly rows = new Map<string, number>()
  /** A delete carries no number of its own: the one of the row it removed → its own. Known before it is written. */
  readonly deletes = new Map<number, number>()
  readonly database: string
  readonly #mysql: MysqlServer
  readonly #random: Random
  readonly #pace: Pace
  readonly #stop = new AbortController()
  #connection: Connection | undefined
  #nextId = 1
  #running: Promise<void> | undefined

  constructor(mysql: MysqlServer, database: string, id: number, from: number, pace: Pace = {}) {
    this.#mysql = mysql
    this.database = database
    this.id = id
    this.#random = new Random(from)
    this.#pace = pace
  }

  start(): void {
    this.#running ??= this.#run()
    this.#running.catch(() => undefined) // stop() tells
  }
  /** Finishes its transaction. Throws what ended the writer early. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#running
    this.#connection?.destroy()
  }

  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      const draft = this.#draft()
      if (await this.#write(draft)) this.#apply(draft)
      const { pauseMs = 0 } = this.#pace
      if (pauseMs > 0) await sleep(this.#random.int(0, pauseMs))
    }
  }

  /** Whether the transaction was committed; waits for a server that is away. */
  async #write({ sql }: Draft): Promise<boolean> {
    const tx = this.transactions + 1
    try {
      const connection = await this.#connect()
      const compressed = this.#random.chance(this.#pace.compressed ?? 20) ? 'ON' : 'OFF'
      await connection.query(
        [
          `SET SESSION binlog_transaction_compression = ${compressed}`,
          'BEGIN',
          `REPLACE INTO progress VALUES (${this.id}, ${tx})`,
          ...sql,
          'COMMIT',
        ].join(';\n'),
      )
      return true
    } catch (error) {
      // a deadlock with the other writer rolls the transaction back, which the look at `progress` finds
      if (!isLost(error) && (error as { code?: string }).code !== 'ER_LOCK_DEADLOCK') throw error
      this.#connection?.destroy()
      this.#connection = undefined
    }
    const [row] = await this.#asked(`SELECT tx FROM progress WHERE writer = ${this.id}`)
    return row?.tx === tx
  }
  async #connect(): Promise<Connection> {
    if (this.#connection) return this.#connection
    const connection = await this.#mysql.connect({ database: this.database })
    connection.on('error', () => undefined)
    return (this.#connection = connection)
  }
  async #asked(sql: string): Promise<{ tx: number }[]> {
    for (let attempt = 0; ; attempt++) {
      try {
        const connection = await this.#connect()
        const [rows] = await connection.query(sql)
        return rows as { tx: number }[]
      } catch (error) {
        this.#connection?.destroy()
        this.#connection = undefined
        if (attempt > 600) throw error
        await sleep(100)
      }
    }
  }
  #apply({ rows, next }: Draft): void {
    this.count = next
    this.transactions++
    for (const [key, seq] of rows) {
      if (seq === undefined) this.rows.delete(key)
      else this.rows.set(key, seq)
    }
  }

  // ── what to write ──────────────────────────────────────────────────────────

  #draft(): Draft {
    const draft: Draft = { sql: [], rows: new Map(), next: this.count }
    const r = this.#random
    if (r.chance(this.#pace.large ?? 3)) {
      for (let n = r.int(2, 6); n > 0; n--) this.#insert(draft, 1, r.int(200, 1200))
      this.#deleteRange(draft, 1000)
    } else if (r.chance(25)) {
      for (let n = r.int(1, 3); n > 0; n--) this.#insert(draft, r.int(20, 200), 1)
      this.#deleteRange(draft, 500)
    }
    for (let n = r.int(1, 10); n > 0; n--) {
      if (r.chance(40)) this.#insert(draft, 1, 1)
      else if (r.chance(70)) this.#update(draft)
      else this.#delete(draft)
    }
    return draft
  }
  /** `size`: KiB at most when it is more than 1. */
  #pad(size: number): string {
    return size === 1
      ? `RANDOM_BYTES(${this.#random.int(1, 300)})`
      : `REPEAT(RANDOM_BYTES(1024), ${size})`
  }
  #insert(draft: Draft, count: number, size: number): void {
    const table = this.#random.pick(tableNames)
    const values: string[] = []
    for (let i = 0; i < count; i++) {
      const id = this.#nextId++
      draft.rows.set(`${table}:${id}`, draft.next)
      values.push(`(${this.id}, ${id}, ${draft.next++}, ${this.#pad(size)})`)
    }
    draft.sql.push(`INSERT INTO ${table} (writer, id, seq, pad) VALUES ${values.join(', ')}`)
  }
  #update(draft: Draft): void {
    const key = this.#some(draft)
    if (key === undefined) return
    draft.rows.set(key, draft.next)
    draft.sql.push(
      `UPDATE ${tableOf(key)} SET seq = ${draft.next++}, pad = ${this.#pad(1)} WHERE ${this.#where(key)}`,
    )
  }
  #delete(draft: Draft): void {
    const key = this.#some(draft)
    if (key === undefined) return
    this.#remove(draft, key)
    draft.sql.push(`DELETE FROM ${tableOf(key)} WHERE ${this.#where(key)}`)
  }
  /** The oldest rows of one table in one statement, so that the tables stay small. */
  #deleteRange(draft: Draft, keep: number): void {
    const table = this.#random.pick(tableNames)
    const ids: number[] = []
    for (const key of this.rows.keys())
      if (tableOf(key) === table && draft.rows.get(key) === undefined) ids.push(idOf(key))
    const gone = ids.sort((a, b) => a - b).slice(0, Math.max(0, ids.length - keep))
    if (gone.length === 0) return
    for (const id of gone) this.#remove(draft, `${table}:${id}`)
    draft.sql.push(
      `DELETE FROM ${table} WHERE writer = ${this.id} AND id <= ${gone.at(-1)!} ORDER BY id`,
    )
  }
  #remove(draft: Draft, key: string): void {
    this.deletes.set(draft.rows.get(key) ?? this.rows.get(key)!, draft.next++)
    draft.rows.set(key, undefined)
  }
  /** A row that is there; a young one, as long as they are found quickly. */
  #some(draft: Draft): string | undefined {
    for (let attempt = 0; attempt < 30; attempt++) {
      const id = this.#random.int(Math.max(1, this.#nextId - 2000), this.#nextId)
      const key = `${this.#random.pick(tableNames)}:${id}`
      if (draft.rows.has(key) ? draft.rows.get(key) !== undefined : this.rows.has(key)) return key
    }
    return undefined
  }
  #where(key: string): string {
    return `writer = ${this.id} AND id = ${idOf(key)}`
  }
}

const tableOf = (key: string): string => key.slice(0, key.indexOf(':'))
const idOf = (key: string): number => Number(key.slice(key.indexOf(':') + 1))

/** Whether the server or the way to it is gone, in contrast to a statement it refuses. */
function isLost(error: unknown): boolean {
  const { code, fatal } = error as { code?: string; fatal?: boolean }
  return (
    fatal === true || /^(E[A-Z]+|PROTOCOL_CONNECTION_LOST|ER_SERVER_SHUTDOWN)$/.test(code ?? '')
  )
}
