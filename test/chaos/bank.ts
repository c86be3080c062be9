/**
 * The bank: accounts whose sum is constant and whose every row counts its own updates, so that afterwards each change
 * has a name (account, counter) and it can be said which one is missing, doubled or old. Tellers survive kills of their
 * server. Knows no Sluice and no target.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Connection } from 'mysql2/promise'
import type { MysqlServer } from '../support/mysql.ts'
import type { Random } from '../e2e/load.ts'

export const ACCOUNTS = 200
export const OPENING = 1000

export interface Account {
  readonly balance: number
  readonly counter: number // of the row's updates: its changes are the insert (0) and 1 to counter
}

export async function openBank(mysql: MysqlServer, database: string): Promise<void> {
  await mysql.query(`CREATE DATABASE ${database}`)
  await mysql.query(
    `CREATE TABLE ${database}.accounts (id INT PRIMARY KEY, balance INT NOT NULL, counter INT NOT NULL, note VARCHAR(80) NOT NULL)`,
  )
  const rows = Array.from({ length: ACCOUNTS }, (_, id) => `(${id}, ${OPENING}, 0, 'opened')`)
  await mysql.query(`INSERT INTO ${database}.accounts VALUES ${rows.join(', ')}`)
}

/** The source's own rows. */
export async function accounts(
  mysql: Pick<MysqlServer, 'query'>,
  database: string,
): Promise<Map<number, Account>> {
  const rows = await mysql.query<Account & { id: number }>(
    `SELECT id, balance, counter FROM ${database}.accounts`,
  )
  return new Map(rows.map(({ id, balance, counter }) => [id, { balance, counter }]))
}

/** Moves money between random accounts until told to stop; what a lost connection did with the last move is not asked. */
export class Teller {
  moves = 0
  readonly #mysql: MysqlServer
  readonly #database: string
  readonly #random: Random
  #stopped = false
  readonly #done: Promise<void>
  constructor(mysql: MysqlServer, database: string, random: Random) {
    this.#mysql = mysql
    this.#database = database
    this.#random = random
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
        db ??= await this.#connect()
        await this.#move(db)
        this.moves++
        await sleep(this.#random.int(0, 4))
      } catch {
        // killed, cut off, or a deadlock with another teller
        db?.destroy()
        db = undefined
        await sleep(50)
      }
    }
    await db?.end().catch(() => undefined)
  }
  async #connect(): Promise<Connection> {
    const db = await this.#mysql.connect({ connectTimeout: 2000 })
    db.on('error', () => undefined) // a kill is also told here
    return db
  }
  async #move(db: Connection): Promise<void> {
    const from = this.#random.int(0, ACCOUNTS - 1)
    const to = (from + this.#random.int(1, ACCOUNTS - 1)) % ACCOUNTS
    const amount = this.#random.int(1, 20)
    const update = `UPDATE ${this.#database}.accounts SET balance = balance + ?, counter = counter + 1, note = ? WHERE id = ?`
    await db.query('BEGIN')
    await db.query(update, [-amount, `paid ${amount} to ${to}`, from])
    await db.query(update, [amount, `got ${amount} from ${from}`, to])
    await db.query(this.#random.chance(5) ? 'ROLLBACK' : 'COMMIT')
  }
}
