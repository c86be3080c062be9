/**
 * Reads rows with the catalog as an instance does: a source on a real server, and a catalog that may ask it and look
 * through its log. Says of each inserted row which columns it was read with, and where those come from.
 */
import { parseTimeZone } from '../../src/binlog/time.ts'
import { Catalog, type CatalogOptions } from '../../src/catalog/catalog.ts'
import type { HistoryFile, LogPlace, StoredVersion, VersionKey } from '../../src/catalog/history.ts'
import { advance, type Filter, type Position, type Table } from '../../src/change.ts'
import { everyColumn } from '../../src/filter.ts'
import { Lookup } from '../../src/lookup.ts'
import { SlabPool } from '../../src/slab.ts'
import { logEnd, mysqlSource, scanStatements } from '../../src/sources/index.ts'
import type { MysqlServer } from '../support/mysql.ts'
import { connectOptions, factsOf } from '../sources/reading.ts'
import type { Newer } from './newer.ts'

/** A history file that a test can look into. */
export class MemoryHistory implements HistoryFile {
  readonly stored = new Map<string, StoredVersion>()
  definitions(): Iterable<StoredVersion> {
    return [...this.stored.values()]
  }
  saveDefinitions(versions: readonly StoredVersion[]): void {
    for (const version of versions) this.stored.set(keyOf(version), version)
  }
  dropDefinitions(versions: readonly VersionKey[]): void {
    for (const version of versions) this.stored.delete(keyOf(version))
  }
}
const keyOf = ({ epoch, file, offset, database, table }: VersionKey): string =>
  JSON.stringify([epoch, file, offset, database, table])

/** A row as it was read. */
export interface ReadRow {
  readonly name: string
  readonly columns: readonly string[] // "name type"
  readonly origin: Table['origin']
}
export const columnTexts = (table: Pick<Table, 'columns'>): string[] =>
  table.columns.map((c) => `${c.name} ${c.mysqlType}${c.key ? ' key' : ''}`)

export interface ReaderOptions {
  readonly history?: HistoryFile
  readonly ambiguous?: CatalogOptions['ambiguous']
  readonly filter?: Filter
  /** What the reader sees in place of a statement of the log. */
  readonly newer?: Newer | undefined
}

export class LogReader implements AsyncDisposable {
  readonly catalog: Catalog
  readonly warnings: string[] = []
  prepared = 0 // queries of `prepare`
  queries = 0 // since
  scans = 0
  readonly #mysql: MysqlServer
  readonly #lookup: Lookup
  readonly #filter: Filter
  readonly #newer: Newer
  #position: Position

  private constructor(mysql: MysqlServer, from: Position, options: ReaderOptions) {
    this.#mysql = mysql
    this.#lookup = new Lookup(connectOptions(mysql))
    this.#filter = options.filter ?? ((database) => database !== 'mysql')
    this.#newer = options.newer ?? ((sql) => sql)
    this.#position = { ...from, gtids: undefined }
    this.catalog = new Catalog({
      query: (sql, params) => (this.queries++, this.#lookup.query(sql, params)),
      timeZone: parseTimeZone('UTC'),
      columns: everyColumn,
      log: { warn: (_details, message) => void this.warnings.push(message) },
      history: options.history,
      ambiguous: options.ambiguous,
      end: () => logEnd(this.#lookup, 1),
      scan: async (begin, end) => {
        this.scans++
        const found = await scanStatements(this.#source, begin, end)
        return found.map((f) => ({ ...f, sql: this.#newer(f.sql, f.database) }))
      },
    })
  }
  /** Begins at `from`, or where the log ends now. */
  static async open(
    mysql: MysqlServer,
    options: ReaderOptions = {},
    from?: Position,
  ): Promise<LogReader> {
    const reader = new LogReader(mysql, from ?? (await factsOf(mysql)).latest, options)
    await reader.catalog.prepare()
    reader.prepared = reader.queries
    reader.queries = 0
    return reader
  }
  get position(): Position {
    return this.#position
  }
  get #source() {
    return { connect: connectOptions(this.#mysql), epoch: 1, slabs: new SlabPool() }
  }

  /** Reads on to where the log ends now. Where it throws, the position stays before what was not read. */
  async read(): Promise<ReadRow[]> {
    const to: LogPlace = await logEnd(this.#lookup, 1)
    const rows: ReadRow[] = []
    const source = mysqlSource({
      ...this.#source,
      catalog: {
        resolve: (map, at) => this.catalog.resolve(map, at),
        statement: (logged, at) => {
          const sql = this.#newer(logged.sql, logged.database)
          this.catalog.statement({ ...logged, sql }, at)
        },
      },
      filter: this.#filter,
      heartbeatMs: 50,
    })
    for await (const tx of source.read(this.#position, new AbortController().signal)) {
      for (const change of tx.changes) {
        if (change.kind !== 'insert') continue
        const { table } = change
        const name = `${table.database}.${table.name}`
        rows.push({ name, columns: columnTexts(table), origin: table.origin })
      }
      tx.slab?.release()
      this.#position = { ...advance(this.#position, tx), gtids: undefined }
      if (tx.state !== 'open' && tx.endFile === to.file && tx.endOffset >= to.offset) break
    }
    return rows
  }
  [Symbol.asyncDispose](): Promise<void> {
    this.#lookup.close()
    return Promise.resolve()
  }
}
