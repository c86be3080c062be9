/**
 * A table with rows in it and writers that never rest: inserts, updates, deletes, keys that move and come back, larger
 * transactions. Every write of a key has a higher `n` than the one before, so an observer of a key can say whether it went
 * back. Knows no Sluice.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Connection } from 'mysql2/promise'
import type { Random } from '../e2e/load.ts'
import type { MysqlServer } from '../support/mysql.ts'

export const TABLE = `(k VARCHAR(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NOT NULL, part INT NOT NULL,
  n BIGINT NOT NULL, pad VARCHAR(60) NOT NULL, at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3), PRIMARY KEY (part, k))`

const TYPES = [
  'INT NULL DEFAULT 7',
  'DECIMAL(12,3) NULL DEFAULT 1.5',
  "CHAR(7) NOT NULL DEFAULT 'x'",
  "ENUM('a','b') NOT NULL DEFAULT 'b'",
  'DATETIME(6) NULL DEFAULT NULL',
  'DOUBLE NULL DEFAULT 0.1',
  'VARBINARY(9) NULL DEFAULT NULL',
  'BIGINT UNSIGNED NOT NULL DEFAULT 18446744073709551615',
]
const COLLATIONS = ['utf8mb4_unicode_ci', 'utf8mb4_bin', 'utf8mb4_0900_ai_ci', 'latin1_swedish_ci']
/** TABLE with rows so wide that a few thousand are several pieces from the beginning. */
export const WIDE = TABLE.replace(
  '(',
  `(wide VARCHAR(2000) NOT NULL DEFAULT '${'w'.repeat(2000)}', `,
)

/** As TABLE, with another key, another collation and further columns. */
export function randomTable(random: Random): string {
  const collation = random.pick(COLLATIONS)
  const set = collation.slice(0, collation.indexOf('_'))
  const columns = [
    `k VARCHAR(${random.int(12, 60)}) CHARACTER SET ${set} COLLATE ${collation} NOT NULL`,
    `part ${random.pick(['INT', 'BIGINT UNSIGNED', 'SMALLINT', 'DECIMAL(9,0)'])} NOT NULL`,
    'n BIGINT NOT NULL',
    'pad VARCHAR(60) NOT NULL',
  ]
  for (let i = random.int(0, 4); i > 0; i--)
    columns.splice(random.int(0, columns.length), 0, `c${i} ${random.pick(TYPES)}`)
  const key = random.pick([
    'PRIMARY KEY (part, k)',
    'PRIMARY KEY (k, part)',
    'UNIQUE KEY (k, part)',
  ])
  return `(${columns.join(', ')}, ${key})`
}

/** "part/k" → n */
export type Rows = Map<string, number>

export async function openWorld(
  mysql: MysqlServer,
  table: string,
  rows: number,
  columns = TABLE,
): Promise<void> {
  const [database] = table.split('.')
  await mysql.query(`CREATE DATABASE IF NOT EXISTS ${database}; CREATE TABLE ${table} ${columns}`)
  for (let from = 0; from < rows; from += 1000) {
    const list = Array.from({ length: Math.min(1000, rows - from) }, (_, i) => rowText(from + i, 0))
    await mysql.query(`INSERT INTO ${table} (k, part, n, pad) VALUES ${list.join(', ')}`)
  }
}
const keyText = (id: number): string => `${id % 2 ? 'Ä' : 'b'}${id}`
const rowText = (id: number, n: number): string =>
  `('${keyText(id)}', ${id % 7}, ${n}, '${'x'.repeat(id % 60)}')`

export async function readWorld(mysql: Pick<MysqlServer, 'query'>, table: string): Promise<Rows> {
  const rows = await mysql.query<{ k: string; part: number; n: string }>(
    `SELECT k, part, n FROM ${table}`,
  )
  return new Map(rows.map(({ k, part, n }) => [`${part}/${k}`, Number(n)]))
}

/** Numbers that only rise, over all writers. */
export class Clock {
  now = 0
}

const LARGE = 2500 // rows of a large transaction

export class Writer {
  writes = 0
  readonly #mysql: MysqlServer
  readonly #table: string
  readonly #random: Random
  readonly #clock: Clock
  readonly #ids: { readonly from: number; readonly to: number }
  readonly #pauseMs: number
  readonly #large: boolean
  #stopped = false
  readonly #done: Promise<void>
  /** Each writer has keys of its own, so that the order of its own numbers is the order of each key's. */
  constructor(
    mysql: MysqlServer,
    table: string,
    about: {
      readonly random: Random
      readonly clock: Clock
      readonly ids: { readonly from: number; readonly to: number }
      readonly pauseMs?: number
      readonly large?: boolean // also transactions of very many rows
    },
  ) {
    this.#mysql = mysql
    this.#table = table
    this.#random = about.random
    this.#clock = about.clock
    this.#ids = about.ids
    this.#pauseMs = about.pauseMs ?? 3
    this.#large = about.large ?? false
    this.#done = this.#run()
  }
  async stop(): Promise<void> {
    this.#stopped = true
    await this.#done
  }
  async #run(): Promise<void> {
    let db: Connection | undefined
    while (!this.#stopped) {
      try {
        db ??= await this.#mysql.connect()
        await this.#write(db)
        this.writes++
        await sleep(this.#random.int(0, this.#pauseMs))
      } catch {
        db?.destroy() // killed, or a duplicate key where a row has moved to
        db = undefined
        await sleep(20)
      }
    }
    await db?.end().catch(() => {})
  }
  /** Many rows in one transaction. */
  async #writeMany(db: Connection): Promise<void> {
    const { from, to } = this.#ids
    const first = this.#random.int(from, to - 1)
    const n = ++this.#clock.now
    const ids = Array.from({ length: Math.min(LARGE, to - first) }, (_, i) => rowText(first + i, n))
    await db.query(
      `INSERT INTO ${this.#table} (k, part, n, pad) VALUES ${ids.join(', ')} ON DUPLICATE KEY UPDATE n = ${n}`,
    )
  }
  async #write(db: Connection): Promise<void> {
    const random = this.#random
    const { from, to } = this.#ids
    if (this.#large && random.chance(2)) return await this.#writeMany(db)
    const count = random.chance(5) ? 50 : random.int(1, 3)
    await db.query('BEGIN')
    for (let i = 0; i < count; i++) {
      const id = random.int(from, to - 1)
      const where = `part = ${id % 7} AND k = '${keyText(id)}'`
      const n = ++this.#clock.now
      const what = random.int(0, 9)
      if (what < 5) await db.query(`UPDATE ${this.#table} SET n = ${n} WHERE ${where}`)
      else if (what < 7) await db.query(`DELETE FROM ${this.#table} WHERE ${where}`)
      else if (what < 9) {
        await db.query(
          `INSERT INTO ${this.#table} (k, part, n, pad) VALUES ${rowText(id, n)} ON DUPLICATE KEY UPDATE n = ${n}`,
        )
      } else {
        const other = random.int(from, to - 1)
        const move = `part = ${other % 7}, k = '${keyText(other)}', n = ${n}`
        await db.query(
          `DELETE FROM ${this.#table} WHERE part = ${other % 7} AND k = '${keyText(other)}'`,
        )
        await db.query(`UPDATE ${this.#table} SET ${move} WHERE ${where}`)
      }
    }
    await db.query('COMMIT')
  }
}

/** What an observer of a target sees of each key. */
export class Observer {
  readonly rows: Rows = new Map()
  readonly #highest: Rows = new Map()
  wentBack = 0
  /** A key is written; a delete has no number. */
  wrote(key: string, n: number): void {
    const highest = this.#highest.get(key) ?? -1
    if (n < highest) this.wentBack++
    else this.#highest.set(key, n)
    this.rows.set(key, n)
  }
  gone(key: string): void {
    this.rows.delete(key)
  }
}

export function different(source: Rows, target: Rows): number {
  let count = 0
  for (const [key, n] of source) if (target.get(key) !== n) count++
  for (const key of target.keys()) if (!source.has(key)) count++
  return count
}
