/**
 * Transactions as the body of a frame, and back: the numbers of the transactions and of their changes, what the changes
 * consist of, and the raw events, as they were read. Packing and unpacking stand side by side here, so that nobody else
 * knows the layout. Tables go into frames of their own, once per segment, with all that is needed to read their rows; so a
 * segment asks nobody what it means. What a value's text is, which columns are selected and which tables are wanted is
 * decided when it is unpacked.
 *
 *   u32 transactions · u32 changes · u32 bytes of the JSON · u32 bytes of the events ·
 *   HEAD f64 for each transaction · NUMBERS f64 for each change · JSON, padded to 8 · events
 */
import { compileColumn, type ColumnDefinition } from '../binlog/column.ts'
import type { Format } from '../binlog/reader.ts'
import type { TimeZone } from '../binlog/time.ts'
import type { Column, Filter, Table, Transaction } from '../change.ts'
import { assert } from '../errors.ts'
import type { ColumnFilter } from '../filter.ts'
import { GtidSet } from '../gtid.ts'
import { Slab } from '../slab.ts'
import {
  isRows,
  keptOf,
  LoggedTransaction,
  NUMBERS,
  withRoom,
  type Detail,
  type RowsDetail,
  type RowsKind,
} from '../sources/index.ts'

/**
 * epoch · first · next · offset · endOffset · timestamp · lastCommitted · sequenceNumber · state · bytes · count of changes ·
 * texts of server, file, endFile, sid, skipped (-1: none) · gno, upper and lower half
 */
const HEAD = 18
const PREFIX = 16
const states = ['open', 'committed', 'prepared'] as const

type PackedDetail = Exclude<Detail, RowsDetail> | { readonly kind: RowsKind; readonly id: number }
interface Texts {
  readonly texts: readonly string[]
  readonly details: readonly PackedDetail[]
}
/** All there is to know of a table, as the rows after it were written. */
interface PackedTable {
  readonly id: number
  readonly database: string
  readonly name: string
  readonly origin: Table['origin']
  readonly columns: readonly ColumnDefinition[]
  readonly format: Omit<Format, 'postHeader'> & { readonly postHeader: readonly number[] }
}

// ── packing ──────────────────────────────────────────────────────────────────

/** Gathers the transactions of the next frame. */
export class Packer {
  /** Raw bytes gathered. */
  bytes = 0
  #count = 0
  #heads = new Float64Array(HEAD * 256)
  #numbers = new Float64Array(NUMBERS * 1024)
  #changes = 0
  #raw = Buffer.allocUnsafeSlow(1024 * 1024)
  #texts: string[] = []
  #details: PackedDetail[] = []
  #uses: number[] = [] // of each detail: changes that have it
  readonly #indices = new Map<Detail, number>() // in #details
  #tables: PackedTable[] = [] // that the segment has not named yet
  readonly #known = new Map<Table, { readonly id: number; readonly format: Format }>()
  #nextTable = 0

  get empty(): boolean {
    return this.#count === 0
  }
  /** A segment begins: nothing of what it will need is in it. */
  restart(): void {
    assert(this.empty, 'a segment begins with transactions gathered for another one')
    this.#known.clear()
    this.#nextTable = 0
  }

  /** Copies what it needs, its events from `ordinal` on; the transaction stays its owner's. */
  add(tx: Transaction, ordinal: number): void {
    const { bytes, numbers: from, details, at, count: all } = keptOf(tx)
    let n = at
    const stop = at + all * NUMBERS
    while (n < stop && from[n + 4]! < ordinal) n += NUMBERS
    const count = (stop - n) / NUMBERS
    let to = this.#changes * NUMBERS
    const numbers = (this.#numbers = withRoom(this.#numbers, to, count * NUMBERS))
    if (count > 0) {
      const shift = this.#copy(bytes, from[n]!, from[stop - NUMBERS + 1]!) - from[n]!
      for (; n < stop; n += NUMBERS, to += NUMBERS) {
        const index = this.#indexOf(details[from[n + 5]!]!)
        numbers[to] = from[n]! + shift
        numbers[to + 1] = from[n + 1]! + shift
        numbers[to + 2] = from[n + 2]!
        numbers[to + 3] = from[n + 3]!
        numbers[to + 4] = from[n + 4]!
        numbers[to + 5] = index
        this.#uses[index]!++
      }
    }
    this.#changes += count
    this.#addHead(tx, Math.max(tx.first, ordinal), count)
  }
  /** Returns where they lie. */
  #copy(bytes: Buffer, from: number, end: number): number {
    const at = this.bytes
    const size = end - from
    if (at + size > this.#raw.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(at + size, this.#raw.length * 2))
      this.#raw.copy(larger, 0, 0, at)
      this.#raw = larger
    }
    bytes.copy(this.#raw, at, from, end)
    this.bytes += size
    return at
  }
  #addHead(tx: Transaction, first: number, count: number): void {
    const h = this.#count++ * HEAD
    const heads = (this.#heads = withRoom(this.#heads, h, HEAD))
    const { gtid, skipped } = tx
    heads[h] = tx.epoch
    heads[h + 1] = first
    heads[h + 2] = tx.next
    heads[h + 3] = tx.offset
    heads[h + 4] = tx.endOffset
    heads[h + 5] = tx.timestamp
    heads[h + 6] = tx.lastCommitted
    heads[h + 7] = tx.sequenceNumber
    heads[h + 8] = states.indexOf(tx.state)
    heads[h + 9] = tx.bytes
    heads[h + 10] = count
    heads[h + 11] = this.#textOf(tx.server)
    heads[h + 12] = this.#textOf(tx.file)
    heads[h + 13] = this.#textOf(tx.endFile)
    heads[h + 14] = gtid ? this.#textOf(gtid.sid) : -1
    heads[h + 15] = skipped ? this.#textOf(skipped.toString()) : -1
    heads[h + 16] = gtid ? Number(gtid.gno >> 32n) : 0
    heads[h + 17] = gtid ? Number(gtid.gno & 0xffffffffn) : 0
  }
  #textOf(text: string): number {
    const last = this.#texts.length - 1
    for (let i = last; i >= 0 && i > last - 6; i--) if (this.#texts[i] === text) return i
    this.#texts.push(text)
    return last + 1
  }
  #indexOf(detail: Detail): number {
    let index = this.#indices.get(detail)
    if (index === undefined) {
      index = this.#details.push(isRows(detail) ? this.#rows(detail) : detail) - 1
      this.#indices.set(detail, index)
      this.#uses.push(0)
    }
    return index
  }
  /** Every table that was gathered, with how many changes. */
  tables(count: (name: string, changes: number) => void): void {
    for (const [detail, index] of this.#indices) {
      if (isRows(detail)) count(`${detail.table.database}.${detail.table.name}`, this.#uses[index]!)
    }
  }
  #rows({ kind, table, format }: RowsDetail): PackedDetail {
    let known = this.#known.get(table)
    if (known === undefined || !sameFormat(known.format, format)) {
      known = { id: this.#nextTable++, format }
      this.#known.set(table, known)
      const { database, name, origin } = table
      const columns = table.columns.map(definitionOf)
      const packed = { ...format, postHeader: [...format.postHeader] }
      this.#tables.push({ id: known.id, database, name, origin, columns, format: packed })
    }
    return { kind, id: known.id }
  }

  /** What was gathered since the last time, as bodies of frames: of the tables that are new, and of the changes. */
  take(): { readonly tables: Buffer | undefined; readonly changes: Buffer } {
    const tables = this.#tables.length > 0 ? Buffer.from(JSON.stringify(this.#tables)) : undefined
    const texts: Texts = { texts: this.#texts, details: this.#details }
    const json = Buffer.from(JSON.stringify(texts))
    const padded = (json.length + 7) & ~7
    const heads = this.#count * HEAD * 8
    const numbers = this.#changes * NUMBERS * 8
    const changes = Buffer.allocUnsafeSlow(PREFIX + heads + numbers + padded + this.bytes)
    changes.writeUInt32LE(this.#count, 0)
    changes.writeUInt32LE(this.#changes, 4)
    changes.writeUInt32LE(json.length, 8)
    changes.writeUInt32LE(this.bytes, 12)
    Buffer.from(this.#heads.buffer, 0, heads).copy(changes, PREFIX)
    Buffer.from(this.#numbers.buffer, 0, numbers).copy(changes, PREFIX + heads)
    json.copy(changes, PREFIX + heads + numbers)
    changes.fill(0x20, PREFIX + heads + numbers + json.length, PREFIX + heads + numbers + padded)
    this.#raw.copy(changes, PREFIX + heads + numbers + padded, 0, this.bytes)
    this.#reset()
    return { tables, changes }
  }
  #reset(): void {
    if (this.#raw.length > 4 * 1024 * 1024) this.#raw = Buffer.allocUnsafeSlow(1024 * 1024)
    this.bytes = 0
    this.#count = 0
    this.#changes = 0
    this.#texts = []
    this.#details = []
    this.#uses = []
    this.#indices.clear()
    this.#tables = []
  }
}

function sameFormat(a: Format, b: Format): boolean {
  if (a === b) return true
  return (
    a.serverVersion === b.serverVersion &&
    a.checksumBytes === b.checksumBytes &&
    Buffer.compare(a.postHeader, b.postHeader) === 0
  )
}
function definitionOf(column: Column): ColumnDefinition {
  const { name, index, type, meta, unsigned, collation, mysqlType, key, nullable } = column
  const { invisible, members } = column
  const about = { name, index, type, meta, unsigned, collation, mysqlType, key, nullable }
  return { ...about, invisible, members }
}

// ── unpacking ────────────────────────────────────────────────────────────────

/** How what is unpacked shall look. */
export interface View {
  readonly zone: TimeZone // of TIMESTAMP texts
  readonly columns: ColumnFilter
  /** Tables that are wanted; undefined: all. */
  readonly filter: Filter | undefined
}

/** The tables of one segment. */
export class Tables {
  readonly #view: View
  readonly #tables = new Map<number, { readonly packed: PackedTable; table?: Table }>()
  readonly #details = new Map<string, RowsDetail>()
  constructor(view: View) {
    this.#view = view
  }
  get filter(): Filter | undefined {
    return this.#view.filter
  }
  /** Takes the body of a frame of tables. */
  learn(body: Buffer): void {
    for (const packed of JSON.parse(body.toString()) as PackedTable[])
      this.#tables.set(packed.id, { packed })
  }
  nameOf(id: number): { readonly database: string; readonly name: string } {
    return this.#known(id).packed
  }
  /** Throws SCHEMA_MISMATCH, CONFIG_INVALID (column filter). */
  detail(kind: RowsKind, id: number): RowsDetail {
    const key = `${kind} ${id}`
    let detail = this.#details.get(key)
    if (detail === undefined) {
      const { packed } = this.#known(id)
      const postHeader = Uint8Array.from(packed.format.postHeader)
      detail = { kind, table: this.#table(id), format: { ...packed.format, postHeader } }
      this.#details.set(key, detail)
    }
    return detail
  }
  #known(id: number): { readonly packed: PackedTable; table?: Table } {
    const known = this.#tables.get(id)
    assert(known, 'a frame names a table that the segment does not have')
    return known
  }
  #table(id: number): Table {
    const known = this.#known(id)
    if (known.table === undefined) {
      const { database, name, origin } = known.packed
      const columns = known.packed.columns.map((column) =>
        compileColumn({ ...column, members: column.members }, this.#view.zone),
      )
      const { selected } = this.#view.columns(database, name, columns)
      known.table = { database, name, columns, selected, origin }
    }
    return known.table
  }
}

/** The body of a frame of changes, read. */
export class Unpacked {
  readonly count: number
  readonly #heads: Float64Array
  readonly #numbers: Float64Array
  readonly #texts: Texts
  readonly #raw: Buffer

  constructor(body: Buffer) {
    this.count = body.readUInt32LE(0)
    const changes = body.readUInt32LE(4)
    const json = body.readUInt32LE(8)
    const heads = this.count * HEAD * 8
    const numbers = changes * NUMBERS * 8
    this.#heads = floats(body, PREFIX, heads)
    this.#numbers = floats(body, PREFIX + heads, numbers)
    const at = PREFIX + heads + numbers
    this.#texts = JSON.parse(body.toString('utf8', at, at + json)) as Texts
    this.#raw = body.subarray(at + ((json + 7) & ~7))
  }

  /** Every table that it has rows of, with how many changes. */
  tables(tables: Tables, count: (name: string, changes: number) => void): void {
    const { details } = this.#texts
    const changes = new Float64Array(details.length)
    for (let n = 5; n < this.#numbers.length; n += NUMBERS) changes[this.#numbers[n]!]!++
    for (const [i, detail] of details.entries()) {
      if (!('id' in detail)) continue
      const { database, name } = tables.nameOf(detail.id)
      count(`${database}.${name}`, changes[i]!)
    }
  }

  /** The transactions without their changes: where they are. */
  *places(): Generator<Transaction> {
    for (let i = 0; i < this.count; i++) {
      const { facts } = this.#facts(i * HEAD, this.#heads[i * HEAD + 1]!)
      const kept = { bytes: this.#raw, numbers: this.#numbers, details: [], at: 0, count: 0 }
      yield new LoggedTransaction({ kept, slab: undefined, bytes: 0 }, facts)
    }
  }

  /**
   * The transactions; of each its slab is to be released. `cut` says of one that is known in part which ordinal it begins
   * with (Infinity: none of its changes), and undefined where it is not wanted. Throws what Tables.detail throws.
   */
  *transactions(
    tables: Tables,
    cut: (tx: Transaction) => number | undefined,
  ): Generator<Transaction> {
    const slab = new Slab(this.#raw, { take: () => {} })
    const details = this.#texts.details.map((): Detail | undefined => undefined)
    let at = 0
    const places = this.places()
    for (let i = 0; i < this.count; i++) {
      const count = this.#heads[i * HEAD + 10]!
      const first = cut(places.next().value as Transaction)
      if (first !== undefined) {
        const about = { tables, details, slab, from: at, count, first }
        yield this.#transaction(i * HEAD, about)
      }
      at += count
    }
  }
  #transaction(h: number, about: Making): Transaction {
    const { details, slab } = about
    const none = about.first === Infinity
    const { facts, bytes } = this.#facts(h, none ? this.#heads[h + 1]! : about.first)
    const { at, count } = this.#changesOf(about)
    const whole = count > 0 ? slab.retain() : undefined
    const kept = {
      bytes: this.#raw,
      numbers: this.#numbers,
      details: details as Detail[], // those that its changes have
      at,
      count,
    }
    return new LoggedTransaction({ kept, slab: whole, bytes }, facts)
  }
  /** Puts the changes that are wanted one behind the other, and makes what they consist of. */
  #changesOf({ tables, details, from, count, first }: Making): { at: number; count: number } {
    const numbers = this.#numbers
    const end = (from + count) * NUMBERS
    let to = end
    for (let n = end - NUMBERS; n >= from * NUMBERS; n -= NUMBERS) {
      const index = numbers[n + 5]!
      if (numbers[n + 4]! < first || !this.#wanted(tables, this.#texts.details[index]!)) continue
      details[index] ??= this.#detail(tables, this.#texts.details[index]!)
      to -= NUMBERS
      if (to !== n) numbers.copyWithin(to, n, n + NUMBERS)
    }
    return { at: to, count: (end - to) / NUMBERS }
  }
  #detail(tables: Tables, packed: PackedDetail): Detail {
    return 'id' in packed ? tables.detail(packed.kind, packed.id) : packed
  }
  #wanted(tables: Tables, packed: PackedDetail): boolean {
    const { filter } = tables
    if (filter === undefined) return true
    if ('id' in packed) {
      const { database, name } = tables.nameOf(packed.id)
      return filter(database, name)
    }
    if (packed.kind !== 'ddl' && packed.kind !== 'statement') return true
    return packed.tables.length === 0 || packed.tables.some((t) => filter(t.database, t.table))
  }
  #facts(h: number, first: number) {
    const heads = this.#heads
    const text = (i: number): string => this.#texts.texts[heads[h + i]!]!
    const gno = (BigInt(heads[h + 16]!) << 32n) | BigInt(heads[h + 17]!)
    const facts = {
      epoch: heads[h]!,
      first,
      next: heads[h + 2]!,
      offset: heads[h + 3]!,
      endOffset: heads[h + 4]!,
      timestamp: heads[h + 5]!,
      lastCommitted: heads[h + 6]!,
      sequenceNumber: heads[h + 7]!,
      state: states[heads[h + 8]!]!,
      server: text(11),
      file: text(12),
      endFile: text(13),
      gtid: heads[h + 14]! < 0 ? undefined : { sid: text(14), gno },
      skipped: heads[h + 15]! < 0 ? undefined : GtidSet.parse(text(15)),
    }
    return { facts, bytes: heads[h + 9]! }
  }
}
interface Making {
  readonly tables: Tables
  readonly details: (Detail | undefined)[]
  readonly slab: Slab
  readonly from: number // index of its first change
  readonly count: number
  readonly first: number // the ordinal it begins with
}

/** Numbers at any place of a buffer. */
function floats(bytes: Buffer, at: number, size: number): Float64Array {
  const from = bytes.byteOffset + at
  if (from % 8 === 0) return new Float64Array(bytes.buffer, from, size / 8)
  return new Float64Array(Uint8Array.prototype.slice.call(bytes, at, at + size).buffer)
}
