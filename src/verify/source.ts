/**
 * What verification reads of the source: tables in pieces by their key, rows by their keys, which keys there are, and where
 * the log ends. On connections of its own, by the binary protocol, as rows events like those of the log (sources/snapshot),
 * so that a sink's own code says what it would write of them.
 */
import { parseTimeZone } from '../binlog/time.ts'
import { Catalog } from '../catalog/catalog.ts'
import {
  AFTER,
  type Column,
  type Filter,
  type Position,
  type RowReader,
  type Transaction,
} from '../change.ts'
import { SluiceError } from '../errors.ts'
import { everyColumn, type ColumnFilter } from '../filter.ts'
import { GtidSet } from '../gtid.ts'
import { Lookup } from '../lookup.ts'
import { BinaryConnection } from '../mysql/binary.ts'
import type { ConnectOptions } from '../mysql/connection.ts'
import { Out } from '../out.ts'
import { SinkBatch, type BatchFacts } from '../sinks/shape/batch.ts'
import { VERSION_MAX } from '../sinks/shape/version.ts'
import {
  changesOf,
  eventsOf,
  readChunk,
  SNAPSHOT_SESSION,
  type Chunk,
} from '../sources/snapshot/chunk.ts'
import { readKeys, type KeyValues } from '../sources/snapshot/keys.ts'
import { ImageWriter, quoteName, selection } from '../sources/snapshot/image.ts'
import { literalOf, planTable, type KeyPlace, type TablePlan } from '../sources/snapshot/plan.ts'
import { logStatus } from '../sources/index.ts'
import { factsOf } from '../upstream/connect.ts'

export interface VerifySource {
  readonly connect: ConnectOptions
  /** Which tables there are for the sink. */
  readonly filter: Filter
  /** Which columns the instance delivers; default all. */
  readonly columns?: ColumnFilter | undefined
  /** The instance's `timezone`; default the server's. */
  readonly timeZone?: string | undefined
}
export interface FoundTable {
  readonly database: string
  readonly name: string
  readonly rows: number // about
}
/** Whether a read failed because somebody has its rows locked, for a long time. */
export const isLocked = (error: unknown): boolean =>
  error instanceof SluiceError && /lock wait timeout/i.test(error.message)

/** Literals of the values of some columns of the source. */
export type KeyLiterals = readonly string[]

const PIECE_BYTES = 1024 * 1024
const PIECE_BYTES_MAX = 8 * 1024 * 1024
const FIRST_ROWS = 500
const ROWS_MAX = 5000
const KEYS_OF_A_QUERY = 500

export class RowSource {
  readonly server: string
  readonly #options: VerifySource
  readonly #lookup: Lookup
  readonly #catalog: Catalog
  readonly #gtids: boolean
  #connection: BinaryConnection | undefined
  #rows = FIRST_ROWS

  private constructor(
    options: VerifySource,
    lookup: Lookup,
    about: { readonly catalog: Catalog; readonly server: string; readonly gtids: boolean },
  ) {
    this.#options = options
    this.#lookup = lookup
    this.#catalog = about.catalog
    this.#gtids = about.gtids
    this.server = about.server
  }
  /** Throws what a connection throws. */
  static async open(options: VerifySource): Promise<RowSource> {
    const facts = await factsOf(options.connect)
    const lookup = new Lookup(options.connect)
    const catalog = new Catalog({
      query: (sql, params) => lookup.query(sql, params),
      timeZone: parseTimeZone(options.timeZone ?? facts.timeZone),
      columns: options.columns ?? everyColumn,
      log: { warn: () => {} },
    })
    await catalog.prepare()
    // MariaDB's status of the log has none.
    const gtids = facts.executed !== undefined && !facts.mariadb
    return new RowSource(options, lookup, { catalog, server: facts.serverUuid, gtids })
  }
  close(): void {
    this.#lookup.close()
    this.#connection?.close()
  }

  /** In the order of their names. */
  async tables(wanted: Filter): Promise<FoundTable[]> {
    const found = await this.#lookup.query<{ d: string; t: string; n: string | null }>(
      `SELECT TABLE_SCHEMA AS d, TABLE_NAME AS t, TABLE_ROWS AS n FROM information_schema.TABLES
       WHERE TABLE_TYPE = 'BASE TABLE' AND TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')
       ORDER BY TABLE_SCHEMA, TABLE_NAME`,
    )
    return found
      .filter(({ d, t }) => this.#options.filter(d, t) && wanted(d, t))
      .map(({ d, t, n }) => ({ database: d, name: t, rows: Number(n ?? 0) }))
  }
  /** undefined: there is no such table any more. */
  async plan({ database, name }: FoundTable): Promise<TablePlan | undefined> {
    const found = await this.#catalog.current(database, name)
    return found && planTable(found)
  }
  /** Where the log ends. */
  async end(): Promise<Position> {
    const { file, offset, gtids } = await logStatus(this.#lookup)
    return {
      epoch: 0,
      server: this.server,
      file,
      offset,
      skip: 0,
      gtids: this.#gtids ? GtidSet.parse(gtids) : undefined,
      timestamp: Date.now(),
    }
  }

  /** The next piece of a table, of `most` rows at most. */
  async piece(plan: TablePlan, after: KeyPlace, most: number): Promise<Chunk> {
    const connection = await this.#connected()
    const rows = Math.max(1, Math.min(this.#rows, most))
    const options = { plan, after, rows, bytes: PIECE_BYTES_MAX, lock: false, serverId: 0 }
    const chunk = await this.#alive(() => readChunk(connection, options))
    if (chunk.rows > 0) {
      const wanted = Math.floor((PIECE_BYTES * chunk.rows) / chunk.bytes)
      this.#rows = Math.max(10, Math.min(ROWS_MAX, this.#rows * 4, wanted))
    }
    return chunk
  }
  /**
   * The rows that have one of these keys now, with what is being committed waited for: whoever saw a change of them in the
   * log before finds it here. In pieces of a bounded number of bytes.
   */
  async *byKeys(
    plan: TablePlan,
    columns: readonly Column[],
    keys: readonly KeyLiterals[],
  ): AsyncGenerator<Chunk, void, undefined> {
    for (let i = 0; i < keys.length;) {
      // Few enough that wide rows fit
      const count = Math.max(1, Math.min(KEYS_OF_A_QUERY, this.#rows))
      yield await this.#byKeys(plan, whereOf(columns, keys.slice(i, i + count)))
      i += count
    }
  }
  async #byKeys(plan: TablePlan, where: string): Promise<Chunk> {
    const { columns, database, name } = plan.table
    const connection = await this.#connected()
    const out = new Out(64 * 1024)
    const found = eventsOf(out, plan.table, 'insert', 0)
    const writer = new ImageWriter(columns, out, found.row)
    const list = columns.map(selection).join(', ')
    const sql = `SELECT ${list} FROM ${quoteName(database)}.${quoteName(name)} WHERE ${where} LOCK IN SHARE MODE`
    await this.#alive(() => connection.select(sql, writer))
    const { rows, events } = found.end()
    const about = { plan, bytes: out.at, rows, after: undefined }
    return { ...about, last: true, cut: false, buffer: out.buf, events }
  }
  /** Which of these keys there are, as texts of their values (keyText). */
  async existing(
    { table: { database, name } }: TablePlan,
    columns: readonly Column[],
    keys: readonly KeyLiterals[],
  ): Promise<Set<string>> {
    const found = new Set<string>()
    const connection = await this.#connected()
    const out = new Out(1024)
    const text = new Out(256)
    const own = columns.map((c, index) => ({ ...c, index }))
    const writer = new ImageWriter(own, out, () => true)
    const list = columns.map(selection).join(', ')
    const taker = {
      columns: writer.columns.bind(writer),
      row: (bytes: Buffer, start: number): void => {
        out.reset()
        writer.row(bytes, start)
        const parts = own.map((column, i) => {
          text.reset()
          const write = column.utc ?? column.text
          if (writer.ends[i]! >= 0) write(out.buf, writer.starts[i]!, writer.ends[i]!, text)
          return text.buf.toString('utf8', 0, text.at)
        })
        found.add(keyText(parts))
      },
    }
    for (let i = 0; i < keys.length; i += KEYS_OF_A_QUERY) {
      const where = whereOf(columns, keys.slice(i, i + KEYS_OF_A_QUERY))
      const sql = `SELECT ${list} FROM ${quoteName(database)}.${quoteName(name)} WHERE ${where}`
      await this.#alive(() => connection.select(sql, taker))
    }
    return found
  }

  /** As it is to be written again: rows that are there as inserts, keys that are not as deletes. At most KEYS_AT_ONCE. */
  async again(plan: TablePlan, keys: readonly KeyValues[]): Promise<Chunk> {
    const connection = await this.#connected()
    const options = { plan, keys, from: 0, total: keys.length, lock: true, serverId: 0 }
    return await this.#alive(() => readKeys(connection, options))
  }
  /** Asks the source, as a sink may. */
  query<T>(sql: string, params?: readonly (string | number | bigint | null)[]): Promise<T[]> {
    return this.#lookup.query<T>(sql, params)
  }

  async #connected(): Promise<BinaryConnection> {
    const session = [...SNAPSHOT_SESSION, 'SET SESSION innodb_lock_wait_timeout = 5']
    return (this.#connection ??= await BinaryConnection.open(this.#options.connect, session))
  }
  /** After an error the connection is of no use. */
  async #alive<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      this.#connection?.close()
      this.#connection = undefined
      throw error
    }
  }
}

/** Values of a key as one text; no two keys have the same. */
export const keyText = (parts: readonly string[]): string =>
  parts.length === 1 ? parts[0]! : parts.map((p) => `${p.length}:${p}`).join('')

function whereOf(columns: readonly Column[], keys: readonly KeyLiterals[]): string {
  const names = columns.map((c) => quoteName(c.name))
  if (names.length === 1) return `${names[0]} IN (${keys.map(([v]) => v).join(', ')})`
  return `(${names.join(', ')}) IN (${keys.map((key) => `(${key.join(', ')})`).join(', ')})`
}

/** A place that no log has: rows that are compared are never written with it. */
const NOWHERE: Position = {
  epoch: 0,
  server: '',
  file: 'verify.000001',
  offset: 4,
  skip: 0,
  gtids: undefined,
  timestamp: 0,
}
/** The version of rows that are written: a place, the number of the first, and the highest that may be in the target. */
export interface Written {
  readonly at: Position
  readonly firstRow: number
  readonly highest: string
}
const COMPARED: Written = { at: NOWHERE, firstRow: 0, highest: VERSION_MAX }

/** Rows of a piece as what a sink is given. */
export function batchOf(
  chunk: Chunk,
  target: BatchFacts['target'],
  { at, firstRow, highest }: Written = COMPARED,
): SinkBatch {
  const { epoch, server, file, offset } = at
  const changes = changesOf(chunk, { offset, firstRow })
  const tx: Transaction = {
    epoch,
    server,
    file,
    offset,
    gtid: undefined,
    lastCommitted: 0,
    sequenceNumber: 0,
    skipped: undefined,
    endFile: file,
    endOffset: offset,
    first: 0,
    next: 0,
    timestamp: Date.now(),
    changes,
    state: 'committed',
    slab: undefined,
    bytes: chunk.bytes,
  }
  const slices = [{ tx, changes }]
  return new SinkBatch({
    slices,
    start: at,
    end: at,
    settled: true,
    highest,
    redelivered: true,
    target,
  })
}

/** What a row is, and where: its image, literals of its key, and the key's values as texts. */
export interface RowFacts {
  readonly key: KeyLiterals
  readonly values: readonly string[]
  readonly image: Buffer
}
/** Of every row of a piece, in the order of SinkRow.index. */
export function rowsOf(chunk: Chunk): RowFacts[] {
  const { plan, buffer, events } = chunk
  const changes = changesOf(chunk, { offset: 0, firstRow: 0 })
  return changes.flatMap((change, n) => {
    const { rows, end } = events[n]!
    const found: RowFacts[] = []
    for (const reader = change.reader(); reader.next();) {
      const i = found.length
      const key = plan.key.map((c) => {
        const raw = reader.raw!(AFTER, c.index)!
        return literalOf(c, raw, 0, raw.length)
      })
      const values = plan.key.map((c) => valueOf(reader, c))
      found.push({ key, values, image: buffer.subarray(rows[i], rows[i + 1] ?? end) })
    }
    return found
  })
}

const text = new Out(256)
/** As a key is named that is to be read again: bytes as "0x…", instants in UTC, members by name. */
function valueOf(reader: RowReader, { index, utc }: Column): string {
  if (utc === undefined) {
    const value = reader.value(AFTER, index)
    if (value instanceof Uint8Array) return `0x${Buffer.from(value).toString('hex')}`
    if (typeof value !== 'object' && value !== undefined && !Object.is(value, -0))
      return String(value)
  }
  text.reset()
  reader.utc(AFTER, index, text)
  return text.buf.toString('utf8', 0, text.at)
}
