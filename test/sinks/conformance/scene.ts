/**
 * One destination under test: a real MySQL, the real `sluice serve`, a proxy between it and the destination where there is
 * a connection, and writers. Everything waits for a condition, nothing for a time.
 */
import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Connection, ResultSetHeader } from 'mysql2/promise'
import type { Delivery } from '../../../src/sinks/sink.ts'
import { memoryOf, Random } from '../../e2e/load.ts'
import { uniqueDatabase, type MysqlServer } from '../../support/mysql.ts'
import { Proxy } from '../../support/proxy.ts'
import { freePort, startSluice, type SluiceProcess } from '../../support/sluice.ts'
import { apply, type Seen } from './seen.ts'
import {
  createSql,
  items,
  large,
  picky,
  selectRows,
  typeTables,
  type ColumnSpec,
  type Row,
  type TableSpec,
} from './tables.ts'

export interface Address {
  readonly host: string
  readonly port: number
}
export interface Place {
  readonly database: string
  /** A folder of the test. */
  readonly dir: string
  readonly tables: readonly TableSpec[]
}
/** One kind of sink: how it is configured, and how its destination is read back, filled and made to refuse. */
export interface Destination extends AsyncDisposable {
  readonly promise: Delivery
  /** Where Sluice is to connect to; a proxy is put before it. None: there is no connection (a file). */
  readonly address?: Address
  /** A proxy of its own making, where the destination must know its port beforehand (Kafka). */
  readonly proxy?: Proxy
  /** Makes what must be there before Sluice writes. */
  prepare?(place: Place): Promise<void>
  /** The sink's entry in the instance file: `type` and its own options. */
  sink(place: Place, at: Address): object
  /** What it holds of a table, key → row; for a destination that is in step with the source. */
  rows?(place: Place, table: TableSpec): Promise<Map<string, Row>>
  /** What it was given, in its order; for a destination that keeps changes. */
  changes?(place: Place): Promise<readonly Seen[]>
  /** The form in which it has a value, where the manual says that it is another one. */
  shown?(column: ColumnSpec, value: string | null): string | null
  /** A value of picky.v that it refuses (the others are digits); none: it takes anything. */
  readonly refused?: string
  /** Lets it forget the position that it keeps, where it keeps one. */
  forget?(place: Place): Promise<void>
  /** Makes it full until disposed. */
  fill?(place: Place): Promise<AsyncDisposable>
}

const INSTANCE = 'conf'
export const SINK = 'out'
const STEP_MS = 20_000 // without any progress
const main = join(import.meta.dirname, '../../../src/main.ts')

export class Scene implements AsyncDisposable {
  readonly place: Place
  readonly destination: Destination
  readonly random: Random
  /** Row changes that were committed in tables of the suite. */
  written = 0
  proxy: Proxy | undefined
  sluice!: SluiceProcess
  readonly #mysql: MysqlServer
  readonly #log: string[] = []
  #db!: Connection
  #port = 0
  #nextId = 1
  #processes: SluiceProcess[] = []

  private constructor(mysql: MysqlServer, destination: Destination, seed: number) {
    this.#mysql = mysql
    this.destination = destination
    this.random = new Random(seed)
    const dir = mkdtempSync(join(tmpdir(), 'sluice-conform-'))
    const tables = [...typeTables, items, picky, large]
    this.place = { database: uniqueDatabase('conf'), dir, tables }
  }
  static async open(mysql: MysqlServer, destination: Destination, seed: number): Promise<Scene> {
    const scene = new Scene(mysql, destination, seed)
    const { database, tables } = scene.place
    const { address } = destination
    await mysql.query(`CREATE DATABASE ${database}`)
    for (const table of tables) await mysql.query(createSql(database, table))
    scene.#db = await mysql.connect({ database })
    await scene.#db.query(`SET sql_mode = 'ALLOW_INVALID_DATES', NAMES utf8mb4`)
    scene.proxy = destination.proxy ?? (address && (await Proxy.start(address)))
    await destination.prepare?.(scene.place)
    scene.#port = await freePort()
    await scene.start()
    return scene
  }
  async [Symbol.asyncDispose](): Promise<void> {
    for (const sluice of this.#processes) await sluice.kill()
    await this.proxy?.[Symbol.asyncDispose]()
    await this.destination[Symbol.asyncDispose]()
    await this.#db?.end()
    await this.#mysql.query(`DROP DATABASE IF EXISTS ${this.place.database}`)
    rmSync(this.place.dir, { recursive: true, force: true })
  }

  // ── Sluice ─────────────────────────────────────────────────────────────────

  get dataDir(): string {
    return join(this.place.dir, 'data')
  }
  get stateFile(): string {
    return join(this.dataDir, `${INSTANCE}.sqlite`)
  }
  #config(): object {
    const { host, port, user, password } = this.#mysql
    const at = this.proxy ? { host: '127.0.0.1', port: this.proxy.port } : { host: '', port: 0 }
    return {
      source: { host, port, user, password },
      filter: { include: `${this.place.database}\\..*` },
      windowBytes: '4MiB',
      partBytes: '256KiB',
      retry: { minMs: '20ms', maxMs: '200ms' },
      sinks: {
        [SINK]: {
          batch: { changes: 200, bytes: '512KiB' },
          parallel: 4,
          retry: { minMs: '20ms', maxMs: '200ms' },
          onError: 'deadLetter',
          ...this.destination.sink(this.place, at),
        },
      },
    }
  }
  /** On this scene's own state, or on another folder's as a second Sluice. */
  async start(dir = this.place.dir): Promise<SluiceProcess> {
    const own = dir === this.place.dir
    const port = own ? this.#port : await freePort()
    const instances = { [INSTANCE]: this.#config() }
    const sluice = await startSluice({ dir, instances, port })
    this.#processes.push(sluice)
    if (own) this.sluice = sluice
    await sluice.logged(`sink ${SINK} running`)
    return sluice
  }
  async kill(): Promise<void> {
    await this.sluice.kill()
    this.#log.push(...this.sluice.log)
  }
  /** Ends it in order; its exit code. */
  async stop(): Promise<number | null> {
    const code = await this.sluice.stop()
    this.#log.push(...this.sluice.log)
    return code
  }
  /** Where the sink's cursor is, as the state file has it; only while nobody runs. */
  cursor(): string {
    using db = new DatabaseSync(this.stateFile)
    const row = db.prepare('SELECT acked FROM cursors WHERE client = ?').get(`sink:${SINK}`)
    return row!['acked'] as string
  }
  setCursor(acked: string): void {
    using db = new DatabaseSync(this.stateFile)
    db.prepare('UPDATE cursors SET acked = ? WHERE client = ?').run(acked, `sink:${SINK}`)
  }
  memory(): { rss: number; peak: number } {
    return memoryOf(this.sluice.process.pid!)
  }
  /** What a command of Sluice prints. */
  command(...args: string[]): Promise<string> {
    const all = [main, ...args, '--config', join(this.place.dir, 'conf/server.yaml')]
    return new Promise((resolve, reject) => {
      execFile(process.execPath, all, (error, stdout, stderr) => {
        if (error) reject(new Error(`sluice ${args.join(' ')}: ${stderr}`))
        else resolve(stdout)
      })
    })
  }

  // ── writing ────────────────────────────────────────────────────────────────

  /** Runs one statement; counts the rows it changed. */
  async run(sql: string): Promise<number> {
    const [result] = await this.#db.query(sql)
    const { affectedRows, changedRows } = result as ResultSetHeader
    const rows = /^\s*UPDATE/i.test(sql) ? (changedRows ?? 0) : affectedRows
    this.written += rows
    return rows
  }
  async transaction(statements: readonly string[]): Promise<void> {
    await this.#db.query('BEGIN')
    for (const sql of statements) await this.run(sql)
    await this.#db.query('COMMIT')
  }
  /** Some random transactions on `items`: inserts, updates, updates of the key, swaps of keys, deletes. */
  async work(transactions: number): Promise<void> {
    for (let i = 0; i < transactions; i++) await this.transaction(this.#statements())
  }
  #statements(): string[] {
    const { random } = this
    const one = (): number => random.int(1, Math.max(1, this.#nextId - 1))
    const kind = random.int(0, 9)
    if (kind < 4) {
      const rows = Array.from({ length: random.int(1, 8) }, () => {
        return `(${this.#nextId++}, ${random.int(0, 1000)}, 'text ${random.int(0, 1e6)}')`
      })
      return [`INSERT INTO items VALUES ${rows.join(', ')}`]
    }
    if (kind < 6) {
      const from = one()
      return [
        `UPDATE items SET n = n + 1, s = CONCAT('u', n) WHERE id BETWEEN ${from} AND ${from + 10}`,
      ]
    }
    if (kind === 6) return [`DELETE FROM items WHERE id = ${one()}`]
    if (kind === 7)
      return [`UPDATE items SET id = ${this.#nextId++}, n = n + 1 WHERE id = ${one()}`]
    // a hot row, again and again
    if (kind === 8)
      return Array.from({ length: 3 }, () => `UPDATE items SET n = n + 1 WHERE id <= 3`)
    const [a, b] = [one(), one()]
    const free = this.#nextId++
    return a === b
      ? [`UPDATE items SET n = n + 1 WHERE id = ${a}`]
      : [
          `UPDATE items SET id = ${free} WHERE id = ${a}`,
          `UPDATE items SET id = ${a} WHERE id = ${b}`,
          `UPDATE items SET id = ${b} WHERE id = ${free}`,
        ]
  }
  /** A row of `items` that is seen at the end of what was written before it. */
  async mark(): Promise<string> {
    const id = this.#nextId++
    await this.run(`INSERT INTO items VALUES (${id}, 0, 'mark')`)
    return String(id)
  }

  // ── comparing ──────────────────────────────────────────────────────────────

  async held(table: TableSpec): Promise<Map<string, Row>> {
    const { destination, place } = this
    if (destination.rows) return destination.rows(place, table)
    return apply(await destination.changes!(place), table)
  }
  /** How much there is: for waiting until there is more. */
  async count(): Promise<number> {
    const { destination, place } = this
    if (destination.changes) return (await destination.changes(place)).length
    return (await destination.rows!(place, items)).size
  }
  /** Waits until the destination equals SELECT, in every table but for the rows left out ("picky/13"). */
  async inStep(without: readonly string[] = []): Promise<void> {
    let last = ''
    let since = Date.now()
    for (;;) {
      const found = await this.#differences(without)
      if (found.length === 0) return
      const text = found.join('\n')
      if (text !== last) since = Date.now()
      last = text
      if (Date.now() - since > STEP_MS || this.#over()) throw new Error(this.#tell(found))
      await sleep(50)
    }
  }
  #over(): boolean {
    const { exitCode, signalCode } = this.sluice.process
    return (
      exitCode !== null ||
      signalCode !== null ||
      this.sluice.log.some((line) => line.includes('sink out failed'))
    )
  }
  async #differences(without: readonly string[]): Promise<string[]> {
    const found: string[] = []
    for (const table of this.place.tables) {
      const expected = await selectRows(this.#mysql, this.place.database, table)
      const held = await this.held(table)
      for (const [id, row] of expected) {
        if (without.includes(`${table.name}/${id}`)) continue
        const mine = held.get(id)
        if (!mine) found.push(`${table.name}/${id} is missing`)
        else found.push(...this.#unequal(table, row, mine))
      }
      for (const id of held.keys())
        if (!expected.has(id)) found.push(`${table.name}/${id} is too many`)
    }
    return found
  }
  #unequal(table: TableSpec, expected: Row, held: Row): string[] {
    return table.columns.flatMap((column) => {
      const value = expected[column.name]!
      const shown = this.destination.shown ? this.destination.shown(column, value) : value
      const mine = held[column.name]
      if (mine === shown) return []
      const where = `${table.name}/${expected['id']}.${column.name} (${column.sql.slice(0, 40)})`
      return [`${where}: expected ${JSON.stringify(shown)}, holds ${JSON.stringify(mine)}`]
    })
  }
  #tell(found: readonly string[]): string {
    const lines = [...this.#log, ...this.sluice.log].slice(-15).map((line) => line.slice(0, 500))
    const some = [
      ...found.slice(0, 15),
      ...(found.length > 15 ? [`and ${found.length - 15} more`] : []),
    ]
    return ['the destination differs from the source:', ...some, "the log's end:", ...lines].join(
      '\n',
    )
  }
  /** The log of every process until now. */
  get log(): readonly string[] {
    return [...this.#log, ...this.sluice.log]
  }
  readFile(name: string): string {
    return readFileSync(join(this.place.dir, name), 'utf8')
  }
}
