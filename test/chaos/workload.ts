/**
 * Random DML and DDL by several sessions at once: transactions of every shape and statements of every kind, over tables
 * that change under them. What a server refuses is passed over; what a lost connection did with the last statement is
 * not asked. Every row has a column `n` that counts its own updates, so that a reader can tell a change that is missing
 * or out of order. Knows no Sluice.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Connection } from 'mysql2/promise'
import type { Random } from '../e2e/load.ts'
import type { MysqlServer } from '../support/mysql.ts'
import { typeList, valueOf } from './types.ts'

export const databases = ['core_a', 'core b'] as const
/** Every session's: what is written must not depend on what the log does not say. */
export const SQL_MODE = 'NO_AUTO_VALUE_ON_ZERO'
const TABLES_MANY = 50 // more of them go than come
const FRESH = 1000 // `n` of a row that REPLACE wrote is a multiple of it

export const quote = (name: string): string => `\`${name.replaceAll('`', '``')}\``

interface ShapeColumn {
  readonly name: string
  readonly kind: string
  readonly type: string
  readonly key: boolean
  readonly generated: boolean
  /** ENUM or SET with members that CONVERT TO would spoil: a server then takes their bytes for those of the other set. */
  readonly brittle: boolean
}
interface Shape {
  readonly name: string // quoted, with its database
  readonly database: string
  readonly columns: readonly ShapeColumn[]
}

/** Shared by the writers of one run. */
export class Names {
  #serial = 0
  next(random: Random, prefix: string): string {
    const n = ++this.#serial
    return random.pick([`${prefix}${n}`, `${prefix} ${n}`, `${prefix}表${n}`, `${prefix}\`${n}`])
  }
  get number(): number {
    return ++this.#serial
  }
}

export interface WriterOptions {
  readonly mysql: MysqlServer
  readonly random: Random
  readonly names: Names
  readonly vectors: boolean
  /** Each session sets it itself: a server that was killed comes back with what its command line says. */
  readonly image: 'FULL' | 'MINIMAL' | 'NOBLOB'
  /** Partial updates of JSON, which only a full row image makes readable. */
  readonly partialJson: boolean
}

export class Writer {
  transactions = 0
  readonly #options: WriterOptions
  readonly #r: Random
  readonly #stop = new AbortController()
  readonly #done: Promise<void>
  #db: Connection | undefined
  #shapes: readonly Shape[] = []

  constructor(options: WriterOptions) {
    this.#options = options
    this.#r = options.random
    this.#done = this.#run()
  }
  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#done
  }

  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      try {
        const db = (this.#db ??= await this.#connect())
        if (this.#r.chance(40) || this.#shapes.length === 0) this.#shapes = await readShapes(db)
        await this.#step(db)
        this.transactions++
        await sleep(this.#r.int(0, 12))
      } catch (error) {
        await this.#recover(error)
      }
    }
    this.#db?.destroy()
  }
  async #connect(): Promise<Connection> {
    const db = await this.#options.mysql.connect({ connectTimeout: 2000, database: databases[0] })
    db.on('error', () => undefined) // a kill is also told here
    await db.query(
      `SET sql_mode = '${SQL_MODE}', time_zone = '+00:00', lock_wait_timeout = 2, innodb_lock_wait_timeout = 2,
        binlog_row_image = ${this.#options.image}`,
    )
    if (this.#options.partialJson && this.#r.chance(50))
      await db.query("SET binlog_row_value_options = 'PARTIAL_JSON'")
    await finishPrepared(db, this.#r)
    return db
  }
  /** A refused statement, a deadlock or a wait that was too long end with their transaction; a lost connection with itself. */
  async #recover(error: unknown): Promise<void> {
    const { fatal, errno, code } = error as { fatal?: boolean; errno?: number; code?: string }
    const refused =
      fatal !== true && code?.startsWith('ER_') === true && code !== 'ER_SERVER_SHUTDOWN'
    try {
      if (refused && errno !== 1399) await this.#db?.query('ROLLBACK')
      if (refused && errno !== 1399) return void (this.#shapes = [])
    } catch {
      // in the middle of an XA transaction: a new session
    }
    this.#db?.destroy()
    this.#db = undefined
    await sleep(50)
  }

  // ── what a session does next ───────────────────────────────────────────────

  async #step(db: Connection): Promise<void> {
    const r = this.#r
    if (this.#shapes.length < 4 || r.chance(3)) return void (await db.query(this.#create()))
    const dice = r.int(1, 100)
    if (dice <= 14) return void (await db.query(this.#ddl()))
    if (dice <= 20) return this.#xa(db)
    if (dice <= 24) await db.query(`USE ${quote(r.pick(databases))}`)
    await this.#transaction(db)
  }
  async #transaction(db: Connection): Promise<void> {
    const r = this.#r
    if (r.chance(20))
      await db.query(
        `SET binlog_transaction_compression = ${r.pick(['ON', 'OFF'])}, binlog_rows_query_log_events = ${r.pick(['ON', 'OFF'])}`,
      )
    if (r.chance(25)) return void (await db.query(this.#statement(0)))
    await db.query('BEGIN')
    const big = r.chance(4)
    for (let left = big ? r.int(5, 25) : r.int(0, 6); left > 0; left--) {
      if (r.chance(12)) await this.#savepoint(db)
      else await db.query(this.#statement(big ? 40_000 : r.pick([0, 0, 2000])))
    }
    await db.query(r.chance(8) ? 'ROLLBACK' : 'COMMIT')
  }
  async #savepoint(db: Connection): Promise<void> {
    await db.query('SAVEPOINT s')
    await db.query(this.#statement(0))
    await db.query(this.#r.pick(['ROLLBACK TO s', 'RELEASE SAVEPOINT s']))
  }
  async #xa(db: Connection): Promise<void> {
    const r = this.#r
    const xid = `'core ${this.#options.names.number}'`
    await db.query(`XA START ${xid}`)
    for (let left = r.int(1, 3); left > 0; left--) await db.query(this.#statement(0))
    await db.query(`XA END ${xid}`)
    if (r.chance(20)) return void (await db.query(`XA COMMIT ${xid} ONE PHASE`))
    await db.query(`XA PREPARE ${xid}`)
    if (r.chance(30)) await sleep(r.int(0, 30))
    await db.query(`XA ${r.chance(70) ? 'COMMIT' : 'ROLLBACK'} ${xid}`)
  }

  // ── rows ───────────────────────────────────────────────────────────────────

  /** `bytes`: of a large value, at most. */
  #statement(bytes: number): string {
    const r = this.#r
    const shape = r.pick(this.#shapes)
    const dice = r.int(1, 100)
    if (dice <= 38) return this.#insert(shape, bytes)
    if (dice <= 68) return this.#update(shape, bytes)
    if (dice <= 76) return `DELETE FROM ${shape.name} WHERE ${this.#range(shape)}`
    if (dice <= 84) return this.#updateTwo(shape)
    if (dice <= 88) {
      const other = r.pick(this.#shapes)
      return `DELETE x, y FROM ${shape.name} x JOIN ${other.name} y ON ${firstKey(shape, 'x')} = ${firstKey(other, 'y')} WHERE ${firstKey(shape, 'x')} BETWEEN ${this.#id} AND 30`
    }
    if (dice <= 93) return `UPDATE ${shape.name} SET n = n + 1 WHERE ${firstKey(shape)} = -5`
    const key = firstKey(shape)
    return `UPDATE ${shape.name} SET ${key} = ${key} + 200, n = n + 1 WHERE ${key} = ${this.#id}`
  }
  get #id(): number {
    return this.#r.int(1, 60)
  }
  #range(shape: Shape): string {
    const id = this.#id
    return `${firstKey(shape)} BETWEEN ${id} AND ${id + this.#r.pick([0, 0, 3, 20])}`
  }
  #insert(shape: Shape, bytes: number): string {
    const r = this.#r
    const columns = shape.columns.filter(
      (c) => !c.generated && (c.key || c.name === 'n' || r.chance(85)),
    )
    const replace = r.chance(25)
    const first = this.#id
    const rows = Array.from({ length: r.chance(8) ? r.int(30, 200) : r.int(1, 4) }, (_, i) => {
      const values = columns.map((c) => {
        if (c.key) return c.kind === 'int' || c.kind === 'bigint' ? first + i : `'k${r.int(1, 3)}'`
        if (c.name === 'n') return replace ? FRESH * this.#options.names.number : 0
        return valueOf(r, c.kind, c.type, bytes)
      })
      return `(${values.join(', ')})`
    })
    const verb = replace ? 'REPLACE INTO' : 'INSERT INTO'
    const end = !replace && r.chance(60) ? ` ON DUPLICATE KEY UPDATE n = ${shape.name}.n + 1` : ''
    return `${verb} ${shape.name} (${columns.map((c) => quote(c.name)).join(', ')}) VALUES ${rows.join(', ')}${end}`
  }
  #update(shape: Shape, bytes: number): string {
    const r = this.#r
    const free = shape.columns.filter((c) => !c.key && c.name !== 'n' && !c.generated)
    const sets = free
      .filter(() => r.chance(40))
      .map((c) => {
        const name = quote(c.name)
        return c.kind === 'json' && r.chance(60)
          ? `${name} = JSON_SET(${name}, '$.a', ${r.int(1, 99)}, '$.z', 'new')`
          : `${name} = ${valueOf(r, c.kind, c.type, bytes)}`
      })
    return `UPDATE ${shape.name} SET ${['n = n + 1', ...sets].join(', ')} WHERE ${this.#range(shape)}`
  }
  #updateTwo(shape: Shape): string {
    const other = this.#r.pick(this.#shapes)
    if (other.name === shape.name) return this.#update(shape, 0)
    return `UPDATE ${shape.name} x JOIN ${other.name} y ON ${firstKey(shape, 'x')} = ${firstKey(other, 'y')} SET x.n = x.n + 1, y.n = y.n + 1 WHERE ${firstKey(shape, 'x')} < ${this.#id}`
  }

  // ── definitions ────────────────────────────────────────────────────────────

  get #type(): string {
    return this.#r.pick(typeList(this.#options.vectors))
  }
  /**
   * What a column may become. A JSON value that was made of a decimal or a date is more than its text says, and a VECTOR
   * that was a BLOB keeps bytes that no statement could write into it.
   */
  get #other(): string {
    for (;;) {
      const type = this.#type
      if (!/^(JSON|VECTOR)/.test(type)) return type
    }
  }
  #fresh(prefix: string): string {
    return this.#options.names.next(this.#r, prefix)
  }
  #freshTable(): string {
    return `${quote(this.#r.pick(databases))}.${quote(this.#fresh('t'))}`
  }
  #create(): string {
    const r = this.#r
    const own = Array.from(
      { length: r.int(1, 9) },
      () => `${quote(this.#fresh('c'))} ${this.#type}`,
    )
    if (r.chance(25))
      own.push(`${quote(this.#fresh('g'))} INT AS (n * 2) ${r.pick(['STORED', 'VIRTUAL'])}`)
    const two = r.chance(20)
    const columns = ['id INT', 'n INT NOT NULL DEFAULT 0', ...own]
    if (two) columns.splice(r.int(0, columns.length), 0, "k VARCHAR(8) NOT NULL DEFAULT 'k1'")
    if (r.chance(30)) columns.push(columns.shift()!)
    columns.push(`PRIMARY KEY (${two ? r.pick(['id, k', 'k, id']) : 'id'})`)
    return `CREATE TABLE ${this.#freshTable()} (${columns.join(', ')})`
  }
  #ddl(): string {
    const r = this.#r
    const shape = r.pick(this.#shapes)
    if (this.#shapes.length > TABLES_MANY && r.chance(25)) return `DROP TABLE ${shape.name}`
    const dice = r.int(1, 100)
    if (dice <= 60) return `ALTER TABLE ${shape.name} ${this.#clauses(shape)}`
    if (dice <= 68) return this.#swap(shape)
    if (dice <= 74) return `TRUNCATE TABLE ${shape.name}`
    if (dice <= 82 && this.#shapes.length > 8)
      return `DROP TABLE ${shape.name}${r.chance(30) ? `, ${r.pick(this.#shapes).name}` : ''}`
    if (dice <= 87) return `CREATE TABLE ${this.#freshTable()} LIKE ${shape.name}`
    if (dice <= 92)
      return `CREATE TABLE ${this.#freshTable()} (PRIMARY KEY (${keyList(shape)})) SELECT * FROM ${shape.name}`
    if (dice <= 96) return `CREATE INDEX ${quote(this.#fresh('i'))} ON ${shape.name} (n)`
    return `ALTER DATABASE ${quote(shape.database)} CHARACTER SET ${r.pick(['utf8mb4', 'latin1', 'gbk'])}`
  }
  #swap(shape: Shape): string {
    const other = this.#r.pick(this.#shapes)
    const spare = this.#freshTable()
    if (other.name === shape.name) return `RENAME TABLE ${shape.name} TO ${spare}`
    return `RENAME TABLE ${shape.name} TO ${spare}, ${other.name} TO ${shape.name}, ${spare} TO ${other.name}`
  }
  #clauses(shape: Shape): string {
    const r = this.#r
    const free = shape.columns.filter((c) => !c.key && c.name !== 'n' && !c.generated)
    const add = (): string =>
      `ADD COLUMN ${quote(this.#fresh('c'))} ${this.#type}${r.pick(['', ' FIRST', ` AFTER ${quote(r.pick(shape.columns).name)}`])}`
    if (free.length === 0) return add()
    const column = quote(r.pick(free).name)
    const makers: readonly (() => string)[] = [
      add,
      add,
      () => `${add()}, ${add()}`,
      () => `DROP COLUMN ${column}`,
      () => `DROP COLUMN ${column}, ${add()}`,
      () => `MODIFY COLUMN ${column} ${this.#other}${r.pick(['', ' FIRST', ' AFTER n'])}`,
      () => `CHANGE COLUMN ${column} ${quote(this.#fresh('c'))} ${this.#other}`,
      () => `RENAME COLUMN ${column} TO ${quote(this.#fresh('c'))}`,
      () =>
        `RENAME COLUMN ${quote(shape.columns.find((c) => c.key)!.name)} TO ${quote(this.#fresh('id'))}`,
      () => `MODIFY COLUMN n INT NOT NULL DEFAULT 0 ${r.pick(['FIRST', `AFTER ${column}`])}`,
      () =>
        shape.columns.some((c) => c.brittle)
          ? 'FORCE'
          : `CONVERT TO CHARACTER SET ${r.pick(['utf8mb4', 'utf8mb3'])}`,
      () => 'FORCE',
    ]
    return r.pick(makers)()
  }
}

const keyList = (shape: Shape): string =>
  shape.columns
    .filter((c) => c.key)
    .map((c) => quote(c.name))
    .join(', ')
/** The number in the key. */
function firstKey(shape: Shape, alias?: string): string {
  const name = quote(shape.columns.find((c) => c.key && /int/.test(c.kind))!.name)
  return alias === undefined ? name : `${alias}.${name}`
}

/** Every table of the databases that has its key and its counter. */
async function readShapes(db: Connection): Promise<Shape[]> {
  const [rows] = await db.query(
    `SELECT TABLE_SCHEMA AS d, TABLE_NAME AS t, COLUMN_NAME AS name, DATA_TYPE AS kind, COLUMN_TYPE AS type,
            COLUMN_KEY = 'PRI' AS pri, GENERATION_EXPRESSION <> '' AS gen, CHARACTER_SET_NAME AS charset
       FROM information_schema.COLUMNS WHERE TABLE_SCHEMA IN (?) ORDER BY 1, 2, ORDINAL_POSITION`,
    [databases],
  )
  const shapes = new Map<string, { name: string; database: string; columns: ShapeColumn[] }>()
  for (const row of rows as Record<
    'd' | 't' | 'name' | 'kind' | 'type' | 'pri' | 'gen' | 'charset',
    string
  >[]) {
    const name = `${quote(row.d)}.${quote(row.t)}`
    const shape = shapes.get(name) ?? { name, database: row.d, columns: [] }
    shapes.set(name, shape)
    const utf8 = row.charset?.startsWith('utf8') ?? false
    const brittle = /^(enum|set)/i.test(row.kind) && !utf8 && /[^ -~]/.test(row.type)
    const flags = { key: Number(row.pri) === 1, generated: Number(row.gen) === 1, brittle }
    shape.columns.push({ name: row.name, kind: row.kind.toLowerCase(), type: row.type, ...flags })
  }
  const whole = ({ columns }: Shape): boolean =>
    columns.some((c) => c.key && /int/.test(c.kind)) && columns.some((c) => c.name === 'n')
  return [...shapes.values()].filter(whole)
}

/** Prepared transactions that a killed server or session left. */
export async function finishPrepared(db: Connection, random: Random): Promise<void> {
  const [rows] = await db.query('XA RECOVER')
  for (const { data } of rows as { data: string }[])
    await db.query(`XA ${random.pick(['COMMIT', 'ROLLBACK'])} '${data}'`).catch(() => undefined)
}
