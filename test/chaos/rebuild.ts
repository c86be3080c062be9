/**
 * A second server that is written from delivered changes alone, and the reader that does it: every change is checked as
 * it comes. `n` of each row must have counted on (nothing lost, nothing in another order), a change that comes again must
 * be the same, byte for byte, and must say so. Afterwards the second server's tables are to be what SELECT says of the
 * source's. Knows no binlog.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import type { Connection, ResultSetHeader } from 'mysql2/promise'
import { connect } from '../../src/client.ts'
import type { Batch, SluiceClient } from '../../src/client.ts'
import type { ClientChange, Image, RowsChange } from '../../src/client/changes.ts'
import type { ClientValue } from '../../src/client/values.ts'
import type { Random } from '../e2e/load.ts'
import type { MysqlServer } from '../support/mysql.ts'
import { shown } from './types.ts'
import { databases, quote, SQL_MODE } from './workload.ts'

const FRESH = 1000
const STATEMENTS_MAX = 200 // in one query
const BYTES_MAX = 4 * 1024 * 1024

export type RowImage = 'FULL' | 'MINIMAL' | 'NOBLOB'

/** A row change as a statement that changes exactly one row, or else something is missing. */
interface Write {
  readonly sql: string
  readonly what: string
}

// ── the second server ────────────────────────────────────────────────────────

export class Mirror {
  readonly wrong: string[] = []
  readonly #db: Connection
  readonly #generated = new Map<string, ReadonlySet<string>>()
  constructor(db: Connection) {
    this.#db = db
  }
  static async open(mysql: MysqlServer): Promise<Mirror> {
    const db = await mysql.connect()
    await db.query(
      `SET sql_mode = '${SQL_MODE}', time_zone = '+00:00', foreign_key_checks = 0, unique_checks = 0`,
    )
    return new Mirror(db)
  }
  async close(): Promise<void> {
    await this.#db.end()
  }

  async ddl(sql: string, database: string): Promise<void> {
    this.#generated.clear()
    if (database !== '') await this.#db.query(`USE ${quote(database)}`).catch(() => undefined) // it may be gone
    try {
      await this.#db.query(sql.replace(/\s+START\s+TRANSACTION\s*$/i, ''))
    } catch (error) {
      this.wrong.push(`${(error as Error).message}: ${sql.slice(0, 500)}`)
    }
  }
  /** The statement for each row of a change. */
  async writes(change: RowsChange): Promise<Write[]> {
    const name = `${quote(change.database)}.${quote(change.table)}`
    const generated = await this.#generatedOf(change.database, change.table)
    const sets = (image: Image, glue: string): string =>
      Object.entries(image)
        .filter(([column]) => !generated.has(column))
        .map(([column, value]) => `${quote(column)} = ${literal(value)}`)
        .join(glue)
    return change.rows.map(({ before, after }) => {
      const place = `${change.position.file}:${change.position.offset} ${change.type} ${name}`
      if (before === undefined)
        return { sql: `INSERT INTO ${name} SET ${sets(after!, ', ')}`, what: place }
      const keys = change.keys.map((k) => `${quote(k)} = ${literal(before[k]!)}`)
      const what = `${place} where ${keys.join(' AND ')}`
      const chain = after
        ? counted(after['n'])
        : before['n'] === undefined
          ? ''
          : ` AND n = ${literal(before['n'])}`
      const where = `WHERE ${keys.join(' AND ')}${chain}`
      if (after === undefined) return { sql: `DELETE FROM ${name} ${where}`, what }
      return { sql: `UPDATE ${name} SET ${sets(after, ', ')} ${where}`, what: `${what}${chain}` }
    })
  }
  /** All of a transaction. Says what did not change one row. */
  async apply(writes: readonly Write[]): Promise<void> {
    await this.#db.query('BEGIN')
    for (let from = 0; from < writes.length;) {
      let to = from
      for (
        let bytes = 0;
        to < writes.length && to - from < STATEMENTS_MAX && bytes < BYTES_MAX;
        to++
      )
        bytes += writes[to]!.sql.length
      const some = writes.slice(from, to)
      await this.#db.query('SAVEPOINT some')
      try {
        this.#check(some, await this.#results(some.map((w) => w.sql).join(';\n')))
      } catch {
        await this.#db.query('ROLLBACK TO some')
        await this.#oneByOne(some)
      }
      from = to
    }
    await this.#db.query('COMMIT')
  }
  async #results(sql: string): Promise<ResultSetHeader[]> {
    const [results] = await this.#db.query(sql)
    return (Array.isArray(results) ? results : [results]) as ResultSetHeader[]
  }
  #check(some: readonly Write[], results: readonly ResultSetHeader[]): void {
    for (const [i, { affectedRows }] of results.entries()) {
      const { what, sql } = some[i]!
      if (affectedRows !== 1)
        this.wrong.push(`${affectedRows} rows changed: ${what}: ${sql.slice(0, 1000)}`)
    }
  }
  /** What was refused together: which of them is refused, and why. */
  async #oneByOne(some: readonly Write[]): Promise<void> {
    for (const write of some) {
      try {
        this.#check([write], await this.#results(write.sql))
      } catch (error) {
        const { what, sql } = write
        this.wrong.push(`${(error as Error).message}: ${what}: ${sql.slice(0, 1500)}`)
      }
    }
  }
  async #generatedOf(database: string, table: string): Promise<ReadonlySet<string>> {
    const key = `${database}\0${table}`
    let found = this.#generated.get(key)
    if (!found) {
      const [rows] = await this.#db.query(
        `SELECT COLUMN_NAME AS name FROM information_schema.COLUMNS
          WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND GENERATION_EXPRESSION <> ''`,
        [database, table],
      )
      found = new Set((rows as { name: string }[]).map((r) => r.name))
      this.#generated.set(key, found)
    }
    return found
  }
}

/** The row must have been one update behind, unless REPLACE wrote it. */
function counted(n: ClientValue | undefined): string {
  if (typeof n !== 'number') return ' AND FALSE /* an update without its counter */'
  return n % FRESH === 0 ? '' : ` AND n = ${n - 1}`
}
function literal(value: ClientValue): string {
  if (value === null) return 'NULL'
  if (typeof value === 'number' || typeof value === 'bigint') return String(value)
  if (typeof value === 'string') return `_utf8mb4 X'${Buffer.from(value).toString('hex')}'`
  if (Buffer.isBuffer(value)) return `X'${value.toString('hex')}'`
  throw new Error(`no value of the client without options: ${JSON.stringify(value)}`)
}

// ── the reader ───────────────────────────────────────────────────────────────

/** Rows and statements of the log; XA COMMIT … ONE PHASE is none. */
const counts = (change: ClientChange): boolean =>
  change.kind === 'rows' || change.kind === 'ddl' || (change.kind === 'xa' && !change.onePhase)

interface Known {
  readonly sum: number
  readonly place: string // "file:offset"
}

export interface ReaderOptions {
  readonly port: number
  readonly destination: string
  readonly mirror: Mirror
  readonly random: Random
}

export class Reader {
  /** Changes delivered: rows events and statements, each once. "file:offset" → how many there. */
  readonly places = new Map<string, number>()
  readonly wrong: string[] = []
  changes = 0
  redelivered = 0
  rows = 0
  error: Error | undefined
  /** What the source writes into a row image now. */
  image: RowImage = 'FULL'
  readonly #options: ReaderOptions
  readonly #log: Known[] = []
  readonly #index = new Map<string, number[]>() // "place sum" → where in #log
  #next = 0 // in #log, of the next change
  #mayGoBack = false
  #busy = false
  #begun = false
  #open: Write[] = []
  #xid = ''
  readonly #prepared = new Map<string, Write[]>()
  #stop = new AbortController()
  #client: SluiceClient | undefined
  #running: Promise<void> | undefined

  constructor(options: ReaderOptions) {
    this.#options = options
  }
  /** All that was delivered, in a form to compare. */
  get length(): number {
    return this.#log.length
  }
  matches(at: number, place: string, sum: number): boolean {
    const known = this.#log[at]
    return known?.place === place && known.sum === sum
  }
  where(): string {
    return `${this.changes} changes, ${this.#log.length} entries, next ${this.#next}, the last at ${this.#log.at(-1)?.place}`
  }

  async start(): Promise<void> {
    this.#stop = new AbortController()
    const { port, destination } = this.#options
    this.#client = await connect({ port, destination, retry: { delayMs: 10, delayMaxMs: 200 } })
    this.#running = this.#run(this.#client).catch((error: unknown) => {
      this.error = error as Error
    })
  }
  /** `position set` was used: whoever comes back after that is not told what came before. */
  async stop({ mayGoBack = false } = {}): Promise<void> {
    this.#stop.abort()
    await this.#running
    await this.#client?.close()
    this.#mayGoBack = mayGoBack
  }
  rollback(): void {
    this.#client?.rollback()
  }
  async subscribe(): Promise<void> {
    await this.#client?.subscribe().catch(() => undefined) // the server may be away: the next get tries again
  }

  async #run(client: SluiceClient): Promise<void> {
    const { random } = this.#options
    const signal = this.#stop.signal
    let held: Batch[] = []
    for await (const batch of client.batches({
      signal,
      pipeline: random.int(1, 4),
      size: random.pick([1, 64, 1000]),
      waitMs: 200,
    })) {
      await this.#take(batch)
      held.push(batch)
      if (random.chance(2)) {
        client.rollback()
        held = []
      }
      for (const keep = random.int(0, 3); held.length > keep;) await held.shift()!.ack()
    }
  }
  async #take(batch: Batch): Promise<void> {
    const { raw, changes } = batch
    this.#busy = true
    if (raw.length !== changes.length) throw new Error('an entry that is no change')
    for (const [i, change] of changes.entries()) {
      const place = `${change.position.file}:${change.position.offset}`
      if (!this.#isNew(place, crc32(raw[i]!), change)) continue
      if (counts(change)) {
        this.changes++
        this.places.set(place, (this.places.get(place) ?? 0) + 1)
      }
      await this.#change(change)
    }
    this.#busy = false
  }
  /** Whether it was never delivered before; if it was, it must be what it was, where it was, and say that it comes again. */
  #isNew(place: string, sum: number, { redelivered }: ClientChange): boolean {
    const key = `${place} ${sum}`
    const at = this.#next
    if (this.matches(at, place, sum)) {
      this.#next++
    } else if (
      at < this.#log.length ||
      (this.#index.has(key) && !this.#twice(place, redelivered))
    ) {
      const back = this.#index.get(key)?.findLast((i) => i <= at)
      if (back === undefined) {
        this.wrong.push(
          `${place}: expected again the change at ${this.#log[at]?.place ?? 'the end'}`,
        )
        return false
      }
      this.#next = back + 1
    } else {
      this.#mayGoBack = false
      if (redelivered) this.wrong.push(`${place}: never delivered, but marked as redelivered`)
      this.#log.push({ sum, place })
      this.#index.set(key, [...(this.#index.get(key) ?? []), at])
      this.#next++
      return true
    }
    this.redelivered++
    if (!redelivered && !this.#mayGoBack) this.wrong.push(`${place}: comes again without saying so`)
    return false
  }

  /** A compressed transaction may delete, write and delete the same row: all its changes stand at one place. */
  #twice(place: string, redelivered: boolean): boolean {
    return !redelivered && this.#log.at(-1)?.place === place
  }

  async #change(change: ClientChange): Promise<void> {
    const { mirror } = this.#options
    switch (change.kind) {
      case 'begin':
        this.#begun = true
        this.#open = []
        this.#xid = change.xid
        return
      case 'rows':
        this.#checkImages(change)
        this.rows += change.rows.length
        this.#open.push(...(await mirror.writes(change)))
        return
      case 'commit':
        this.#begun = false
        if (this.#xid === '') await mirror.apply(this.#open)
        else this.#prepared.set(this.#xid, this.#open)
        this.#open = []
        this.#xid = ''
        return
      case 'xa': {
        const writes = this.#prepared.get(change.xid)
        if (!writes) this.wrong.push(`XA ${change.type} of ${change.xid}, which was not prepared`)
        else if (change.type === 'commit') await mirror.apply(writes)
        this.#prepared.delete(change.xid)
        return
      }
      case 'ddl':
        return mirror.ddl(change.sql, change.defaultDatabase)
      case 'statement':
        this.wrong.push(`rows changed by statement: ${change.sql}`)
        return
      case 'annotation':
        return
    }
  }
  /** What must be in a row image, and what must be absent from it. */
  #checkImages(change: RowsChange): void {
    const { keys, position, table } = change
    const wrong = (text: string): void =>
      void this.wrong.push(`${position.file}:${position.offset} ${change.type} ${table}: ${text}`)
    if (keys.length === 0) wrong('no key')
    for (const { before, after } of change.rows) {
      const had = before && Object.keys(before)
      if (before && keys.some((k) => before[k] === undefined)) wrong('a key column is absent')
      if (!had || !after || this.image === 'NOBLOB') continue
      if (this.image === 'FULL' && had.length !== Object.keys(after).length)
        wrong(`${had.length} columns before, ${Object.keys(after).length} after`)
      if (this.image === 'MINIMAL' && had.length !== keys.length)
        wrong(`expected the key alone before, got ${had.join()}`)
    }
  }

  /** Waits until everything in the log was delivered; `wanted` of places. */
  async caughtUp(wanted: ReadonlyMap<string, number>, limitMs: number): Promise<void> {
    let since = Date.now()
    let seen = -1
    const last = [...wanted.keys()].at(-1)
    const done = (): boolean =>
      (last === undefined || this.places.has(last)) &&
      this.#next === this.#log.length &&
      !this.#busy &&
      !this.#begun
    while (!this.error && !done()) {
      if (seen !== this.#next + this.redelivered) since = Date.now()
      seen = this.#next + this.redelivered
      if (Date.now() - since > limitMs) return
      await sleep(20)
    }
  }
}

// ── what must be so ──────────────────────────────────────────────────────────

/** Rows events and statements in the server's own words (SHOW BINLOG EVENTS): "file:offset" → how many begin there. */
export async function logged(mysql: MysqlServer): Promise<Map<string, number>> {
  const found = new Map<string, number>()
  const files = await mysql.query<{ Log_name: string }>('SHOW BINARY LOGS')
  const boundary = /^(BEGIN|COMMIT|ROLLBACK|XA START|XA END|SAVEPOINT)\b/
  for (const { Log_name: file } of files) {
    const events = await mysql.query<{
      Pos: number
      End_log_pos: number
      Event_type: string
      Info: string
    }>(`SHOW BINLOG EVENTS IN '${file}'`)
    let payload = { from: -1, end: -1 }
    for (const { Pos, End_log_pos, Event_type: type, Info } of events) {
      if (type === 'Transaction_payload') payload = { from: Pos, end: End_log_pos }
      const change =
        /^(Write|Update|Delete|Update_rows_partial|Partial_update)_rows/i.test(type) ||
        (type === 'Query' && !boundary.test(Info.replace(/^use `(?:[^`]|``)*`; /, '')))
      if (!change) continue
      const place = `${file}:${Pos === payload.end && End_log_pos === Pos ? payload.from : Pos}`
      found.set(place, (found.get(place) ?? 0) + 1)
    }
  }
  return found
}

/** Tables that are not the same on both servers, in words. */
export async function differences(
  source: MysqlServer,
  mirror: MysqlServer,
): Promise<{ tables: number; different: string[] }> {
  const tables = async (mysql: MysqlServer) => {
    const rows = await mysql.query<Record<'d' | 't' | 'name' | 'kind' | 'type' | 'pri', string>>(
      `SELECT TABLE_SCHEMA AS d, TABLE_NAME AS t, COLUMN_NAME AS name, DATA_TYPE AS kind, COLUMN_TYPE AS type,
              COLUMN_KEY AS pri
         FROM information_schema.COLUMNS WHERE TABLE_SCHEMA IN (?) ORDER BY 1, 2, ORDINAL_POSITION`,
      [databases],
    )
    const map = new Map<string, { name: string; kind: string; type: string; pri: string }[]>()
    for (const { d, t, ...column } of rows) {
      const name = `${quote(d)}.${quote(t)}`
      map.set(name, [...(map.get(name) ?? []), { ...column, kind: column.kind.toLowerCase() }])
    }
    return map
  }
  const [ours, theirs] = [await tables(mirror), await tables(source)]
  const different: string[] = []
  for (const name of new Set([...ours.keys(), ...theirs.keys()])) {
    const [a, b] = [theirs.get(name), ours.get(name)]
    if (JSON.stringify(a) !== JSON.stringify(b)) {
      different.push(`${name}: at the source ${JSON.stringify(a)}, rebuilt ${JSON.stringify(b)}`)
      continue
    }
    const columns = a!.map((c) => `IFNULL(${shown(quote(c.name), c.kind)}, 'NULL')`)
    const keys = a!.filter((c) => c.pri === 'PRI').map((c) => quote(c.name))
    const sql = `SELECT CONCAT_WS('|', ${columns.join(', ')}) AS row_ FROM ${name} ORDER BY ${keys.join(', ')}`
    const rowsA = await source.query<{ row_: string }>(sql).catch((error: { code?: string }) => {
      if (error.code !== 'ER_TABLESPACE_MISSING') throw error
      return undefined
    })
    if (rowsA === undefined) {
      // a mysqld that was killed amid a DDL statement: nothing is left to compare with
      console.log(`${name}: the source itself has lost its rows when it was killed`)
      continue
    }
    const rowsB = await mirror.query<{ row_: string }>(sql)
    const at = rowsA.findIndex((row, i) => row.row_ !== rowsB[i]?.row_)
    if (at < 0 && rowsA.length === rowsB.length) continue
    const names = a!.map((c) => `${c.name} ${c.type.slice(0, 30)}`).join(' | ')
    different.push(
      `${name}: ${rowsA.length} rows at the source, ${rowsB.length} rebuilt; ${names}\n  source  ${rowsA[at]?.row_.slice(0, 600)}\n  rebuilt ${rowsB[at]?.row_.slice(0, 600)}`,
    )
  }
  return { tables: theirs.size, different }
}
