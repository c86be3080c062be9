/**
 * Which definition every table had at every place of the log: versions by place, in memory and through the file it is
 * given. What is recorded stays true: recording the same place again replaces what was said of it, with the same answer.
 * Knows no server and no binlog.
 *
 * A version holds from its place (the beginning of the transaction that made it) to the next one's. `origin` says where
 * it comes from: 'ddl' a statement of the log, 'captured' the server itself, at a moment when nothing can have changed it
 * since, 'assumed' the server, when something may have.
 */
import { fileNumber } from '../change.ts'
import type { Effect, Schema } from './ddl/apply.ts'
import type { Definition, Knowledge } from './definition.ts'

/** The beginning of a transaction in the log. */
export interface LogPlace {
  readonly epoch: number
  readonly file: string
  readonly offset: number
}
export type Origin = 'ddl' | 'captured' | 'assumed'
export interface Version {
  readonly from: LogPlace
  readonly now: Knowledge
  readonly origin: Origin
}
/** A version of a table (`definition` is JSON, "" for gone, "?" for unknown), or with table "" of a database. */
export interface StoredVersion extends LogPlace {
  readonly database: string
  readonly table: string
  readonly origin: Origin
  readonly definition: string
}
export type VersionKey = Pick<StoredVersion, 'epoch' | 'file' | 'offset' | 'database' | 'table'>
/** All versions of one table, oldest first. */
export interface TableVersions {
  readonly database: string
  readonly table: string
  readonly versions: readonly Version[]
}
/** Where versions outlive the process. What is done is durable when it returns. */
export interface HistoryFile {
  definitions(): Iterable<StoredVersion>
  /** Adds, or replaces those of the same place and name. */
  saveDefinitions(versions: readonly StoredVersion[]): void
  dropDefinitions(versions: readonly VersionKey[]): void
}

export function compareLogPlaces(a: LogPlace, b: LogPlace): number {
  if (a.epoch !== b.epoch) return a.epoch - b.epoch
  return (a.file === b.file ? 0 : fileNumber(a.file) - fileNumber(b.file)) || a.offset - b.offset
}

/** Versions of one name, oldest first. */
interface Line<V> {
  readonly name: string // as written where it was first seen
  readonly versions: V[]
}
interface DatabaseVersion {
  readonly from: LogPlace
  readonly collation: number | undefined
  readonly created: boolean // no table was in it then
}
type StoredDatabase = Pick<DatabaseVersion, 'collation' | 'created'>
interface DatabaseLine extends Line<DatabaseVersion> {
  readonly tables: Map<string, Line<Version>>
}

export class History {
  readonly #file: HistoryFile | undefined
  readonly #databases = new Map<string, DatabaseLine>()
  #foldsCase = false

  constructor(file?: HistoryFile) {
    this.#file = file
    for (const stored of file?.definitions() ?? []) this.#load(stored)
  }
  /** lower_case_table_names other than 0: names are one in any case. */
  get foldsCase(): boolean {
    return this.#foldsCase
  }
  foldCase(): void {
    if (this.#foldsCase) return
    this.#foldsCase = true
    const lines = [...this.#databases.values()]
    this.#databases.clear()
    for (const { name, versions, tables } of lines) {
      for (const version of versions) put(this.#database(name).versions, version)
      for (const table of tables.values())
        for (const version of table.versions) put(this.#table(name, table.name).versions, version)
    }
  }
  get empty(): boolean {
    return this.#databases.size === 0
  }

  /** The version that holds at a place; undefined where none is recorded at or before it. */
  at(database: string, table: string, place: LogPlace): Version | undefined {
    return lastAt(this.#line(database)?.tables.get(this.#key(table))?.versions, place)
  }
  /** The first version after a place. */
  after(database: string, table: string, place: LogPlace): Version | undefined {
    const versions = this.#line(database)?.tables.get(this.#key(table))?.versions
    return versions?.find(({ from }) => compareLogPlaces(from, place) > 0)
  }
  /** Every version of a table, oldest first. */
  versions(database: string, table: string): readonly Version[] {
    return this.#line(database)?.tables.get(this.#key(table))?.versions ?? []
  }

  /** Every table there is a version of. */
  tables(): TableVersions[] {
    return [...this.#databases.values()].flatMap(({ name, tables }) =>
      [...tables.values()].map((line) => ({
        database: name,
        table: line.name,
        versions: line.versions,
      })),
    )
  }

  /** The schema just before the transaction at a place. */
  before(place: LogPlace): Schema {
    const earlier = { ...place, offset: place.offset - 1 }
    return {
      table: (database, table) => {
        const version = this.at(database, table, earlier)
        if (version) return version.now
        // not seen so far: it may be there if it is seen later, unless its whole database was made since
        const line = this.#line(database)?.versions
        const made = line?.some((v) => v.created && compareLogPlaces(v.from, earlier) <= 0)
        return !made && this.after(database, table, earlier) ? 'unknown' : undefined
      },
      tables: (database) =>
        [...(this.#line(database)?.tables.values() ?? [])]
          .filter(({ versions }) => lastAt(versions, earlier)?.now !== undefined)
          .map(({ name }) => name),
      collation: (database) => lastAt(this.#line(database)?.versions, earlier)?.collation,
    }
  }

  /** What a statement, or a look at the server, says of tables and databases from `from` on. Durable when it returns. */
  record(from: LogPlace, effects: readonly Effect[], origin: Origin): void {
    const stored: StoredVersion[] = []
    for (const effect of effects) {
      if (effect.kind === 'database') {
        const { database, collation, created = false } = effect
        const line = this.#database(database)
        put(line.versions, { from, collation, created })
        const definition = JSON.stringify({ collation, created } satisfies StoredDatabase)
        stored.push({ ...from, database: line.name, table: '', origin, definition })
      } else {
        const { name, now } = effect
        const line = this.#table(name.database, name.table)
        put(line.versions, { from, now, origin })
        const definition = now === undefined ? '' : now === 'unknown' ? '?' : JSON.stringify(now)
        const database = this.#database(name.database).name
        stored.push({ ...from, database, table: line.name, origin, definition })
      }
    }
    if (stored.length > 0) this.#file?.saveDefinitions(stored)
  }

  /** Drops what nobody needs who reads from `oldest` on: of each table what came before the version that holds just before it. */
  trim(oldest: LogPlace): void {
    const dropped: VersionKey[] = []
    for (const { name: database, tables } of this.#databases.values()) {
      for (const { name: table, versions } of tables.values()) {
        const held = versions.findLastIndex(({ from }) => compareLogPlaces(from, oldest) < 0)
        for (const { from } of versions.splice(0, Math.max(held, 0)))
          dropped.push({ ...from, database, table })
      }
    }
    if (dropped.length > 0) this.#file?.dropDefinitions(dropped)
  }

  #load({ database, table, definition, origin, epoch, file, offset }: StoredVersion): void {
    const from = { epoch, file, offset }
    if (table === '') {
      const { collation, created } = JSON.parse(definition) as StoredDatabase
      put(this.#database(database).versions, { from, collation, created })
      return
    }
    const now = definition === '' ? undefined : definition === '?' ? 'unknown' : parse(definition)
    put(this.#table(database, table).versions, { from, now, origin })
  }
  #key(name: string): string {
    return this.#foldsCase ? name.toLowerCase() : name
  }
  #line(database: string): DatabaseLine | undefined {
    return this.#databases.get(this.#key(database))
  }
  #database(name: string): DatabaseLine {
    const key = this.#key(name)
    let line = this.#databases.get(key)
    if (!line) this.#databases.set(key, (line = { name, versions: [], tables: new Map() }))
    return line
  }
  #table(database: string, name: string): Line<Version> {
    const { tables } = this.#database(database)
    const key = this.#key(name)
    let line = tables.get(key)
    if (!line) tables.set(key, (line = { name, versions: [] }))
    return line
  }
}

function parse(definition: string): Definition {
  return JSON.parse(definition) as Definition
}

function lastAt<V extends { readonly from: LogPlace }>(
  versions: readonly V[] | undefined,
  place: LogPlace,
): V | undefined {
  return versions?.findLast(({ from }) => compareLogPlaces(from, place) <= 0)
}
/** In order of place; another version of the same place gives way. */
function put<V extends { readonly from: LogPlace }>(versions: V[], version: V): void {
  let at = versions.length
  while (at > 0 && compareLogPlaces(versions[at - 1]!.from, version.from) > 0) at--
  const same = at > 0 && compareLogPlaces(versions[at - 1]!.from, version.from) === 0
  versions.splice(same ? at - 1 : at, same ? 1 : 0, version)
}
