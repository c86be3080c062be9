/**
 * What the reader thread hands over: transactions packed into numbers and a few texts, their bytes in memory that both
 * threads see. Packing and unpacking stand side by side here, so that nobody else knows the layout. What the packing
 * side cannot know, the columns of a table, is asked of the catalog when a transaction is unpacked, in the log's order.
 */
import type { LoggedStatement } from '../../catalog/catalog.ts'
import type { LogPlace } from '../../catalog/history.ts'
import type { Format } from '../../binlog/reader.ts'
import type { TableMap } from '../../binlog/table-map.ts'
import type { Change, Table, Transaction } from '../../change.ts'
import { assert } from '../../errors.ts'
import { GtidSet } from '../../gtid.ts'
import type { Slab } from '../../slab.ts'
import { LoggedTransaction, changesOf } from '../log/logged.ts'
import {
  isRows,
  NUMBERS,
  withRoom,
  type Detail,
  type Kept,
  type RowsDetail,
  type RowsKind,
} from '../log/pending.ts'
import type { TableResolver } from '../log/tables.ts'

/** One message's worth of the log. Plain data: structured clone takes it as it is. */
export interface Parcel {
  readonly server: string
  readonly slabs: readonly SharedSlab[] // first used here
  readonly closed: readonly number[] // slabs of which nothing will come after this parcel
  readonly heads: Float64Array<ArrayBuffer> // HEAD numbers of each transaction
  readonly changes: Float64Array<ArrayBuffer> // as Kept.numbers, transaction after transaction
  readonly details: readonly PackedDetail[] // what the changes point to
  readonly tables: readonly PackedTable[] // first used here
  readonly tablesFrom: number // tables with ids below will not be named again
  readonly texts: readonly string[]
  readonly steps: readonly Step[]
}
export interface SharedSlab {
  readonly id: number
  readonly memory: ArrayBuffer | SharedArrayBuffer // an ArrayBuffer has moved here, and does not go back
}
/** Something to be done before the transaction number `at` of the parcel. */
export type Step = { readonly at: number } & (
  | { readonly kind: 'format'; readonly format: Format }
  | { readonly kind: 'statement'; readonly statement: LoggedStatement; readonly place: LogPlace }
)
type PackedDetail = Exclude<Detail, RowsDetail> | { readonly kind: 'rows'; readonly table: number }
interface PackedTable {
  readonly id: number
  readonly kind: RowsKind
  readonly map: TableMap
  readonly place: LogPlace // of the transaction that has the map first
  readonly format: Format
}

/**
 * A head: first · next · offset · endOffset · timestamp · lastCommitted · sequenceNumber · state · slab, -1: none ·
 * bytes · count of changes · texts of file, endFile, sid, skipped (-1: none) · gno, upper and lower half · details up to
 * and with this transaction
 */
const HEAD = 18
const states = ['open', 'committed', 'prepared'] as const
const HALF = 2 ** 32
/** A parcel is sent when it has this much, or when there is nothing more to be read for now. */
export const PARCEL_BYTES = 256 * 1024
const TABLES_MAX = 1000 // known on the other side at a time

// ── packing ──────────────────────────────────────────────────────────────────

/** A table as the thread knows it: what the log says. */
class MappedTable implements Table {
  readonly map: TableMap
  readonly place: LogPlace
  readonly database: string
  readonly name: string
  readonly columns = []
  readonly selected = []
  readonly origin = 'event'
  constructor(map: TableMap, place: LogPlace) {
    this.place = place
    // Memory of its own: a clone takes all that a view looks at.
    const own = (bytes: Buffer): Buffer => Buffer.from(Uint8Array.from(bytes).buffer)
    this.map = { ...map, body: own(map.body), optional: own(map.optional) }
    this.database = map.database
    this.name = map.table
  }
}

/** Gathers what goes into the next parcel. Stands in for the catalog where the log is read. */
export class Packer implements TableResolver {
  /** Raw bytes of the transactions gathered. */
  bytes = 0
  #count = 0
  #heads = new Float64Array(HEAD * 64)
  #changes = new Float64Array(NUMBERS * 1024)
  #changesAt = 0
  #server = ''
  #details: PackedDetail[] = []
  #indices = new Map<Detail, number>() // in #details
  #texts: string[] = []
  #steps: Step[] = []
  #tables: PackedTable[] = []
  readonly #known = new Map<RowsDetail, number>() // ids of the tables the other side knows
  #tablesNext = 0
  #tablesFrom = 0

  get empty(): boolean {
    return this.#count === 0 && this.#steps.length === 0
  }

  resolve(map: TableMap, place: LogPlace): Table {
    return new MappedTable(map, place)
  }
  statement(statement: LoggedStatement, place: LogPlace): void {
    this.#steps.push({ at: this.#count, kind: 'statement', statement, place })
  }
  format(format: Format): void {
    this.#steps.push({ at: this.#count, kind: 'format', format })
  }

  /** Adds a transaction whose bytes lie in the slab that the other side knows as `slab`. */
  add(tx: Transaction, slab: number): void {
    assert(tx instanceof LoggedTransaction, 'only transactions of a log can be packed')
    const { kept } = tx
    const changes = (this.#changes = withRoom(this.#changes, this.#changesAt, kept.count * NUMBERS))
    let to = this.#changesAt
    for (let i = 0, n = kept.at; i < kept.count; i++, n += NUMBERS, to += NUMBERS) {
      changes[to] = kept.numbers[n]!
      changes[to + 1] = kept.numbers[n + 1]!
      changes[to + 2] = kept.numbers[n + 2]!
      changes[to + 3] = kept.numbers[n + 3]!
      changes[to + 4] = kept.numbers[n + 4]!
      changes[to + 5] = this.#indexOf(kept.details[kept.numbers[n + 5]!]!)
    }
    this.#changesAt = to
    this.#addHead(tx, slab)
    this.bytes += tx.bytes
  }
  #addHead(tx: LoggedTransaction, slab: number): void {
    const h = this.#count++ * HEAD
    const heads = (this.#heads = withRoom(this.#heads, h, HEAD))
    const { gtid } = tx
    heads[h] = tx.first
    heads[h + 1] = tx.next
    heads[h + 2] = tx.offset
    heads[h + 3] = tx.endOffset
    heads[h + 4] = tx.timestamp
    heads[h + 5] = tx.lastCommitted
    heads[h + 6] = tx.sequenceNumber
    heads[h + 7] = states.indexOf(tx.state)
    heads[h + 8] = slab
    heads[h + 9] = tx.bytes
    heads[h + 10] = tx.kept.count
    heads[h + 11] = this.#textOf(tx.file)
    heads[h + 12] = this.#textOf(tx.endFile)
    heads[h + 13] = gtid ? this.#textOf(gtid.sid) : -1
    heads[h + 14] = tx.skipped ? this.#textOf(tx.skipped.toString()) : -1
    heads[h + 15] = gtid ? Number(gtid.gno >> 32n) : 0
    heads[h + 16] = gtid ? Number(gtid.gno & 0xffffffffn) : 0
    heads[h + 17] = this.#details.length
    this.#server = tx.server
  }
  #textOf(text: string): number {
    const last = this.#texts.length - 1
    for (let i = last; i >= 0 && i > last - 4; i--) if (this.#texts[i] === text) return i
    this.#texts.push(text)
    return last + 1
  }
  #indexOf(detail: Detail): number {
    let index = this.#indices.get(detail)
    if (index === undefined) {
      index = this.#details.push(this.#pack(detail)) - 1
      this.#indices.set(detail, index)
    }
    return index
  }
  #pack(detail: Detail): PackedDetail {
    if (!isRows(detail)) return detail
    let id = this.#known.get(detail)
    if (id === undefined) {
      const { kind, table, format } = detail
      assert(table instanceof MappedTable, 'the table of a packed change is not from its packer')
      id = this.#tablesNext++
      this.#known.set(detail, id)
      this.#tables.push({ id, kind, map: table.map, place: table.place, format })
    }
    return { kind: 'rows', table: id }
  }

  /** The parcel of what was added since the last one. */
  take(slabs: readonly SharedSlab[], closed: readonly number[]): Parcel {
    const parcel = {
      server: this.#server,
      slabs,
      closed,
      heads: this.#heads.slice(0, this.#count * HEAD),
      changes: this.#changes.slice(0, this.#changesAt),
      details: this.#details,
      tables: this.#tables,
      tablesFrom: this.#tablesFrom,
      texts: this.#texts,
      steps: this.#steps,
    }
    this.bytes = 0
    this.#count = 0
    this.#changesAt = 0
    this.#details = []
    this.#indices.clear()
    this.#tables = []
    this.#texts = []
    this.#steps = []
    if (this.#known.size > TABLES_MAX) {
      this.#known.clear()
      this.#tablesFrom = this.#tablesNext
    }
    return parcel
  }
}

// ── unpacking ────────────────────────────────────────────────────────────────

export interface UnpackerOptions {
  readonly epoch: number
  readonly catalog: TableResolver
  readonly onFormat: ((format: Format) => void) | undefined
  /** The slab of that number; it is given a reference for each transaction. */
  readonly slab: (id: number) => Slab
}

/** Gives the transactions of parcels out, one after the other. */
export class Unpacker {
  /** What `advance` came to: to be taken before the next call. */
  ready: Transaction | undefined
  readonly #options: UnpackerOptions
  readonly #tables = new Map<number, PackedTable | RowsDetail>()
  #parcel: Parcel | undefined
  #details: Detail[] = []
  #common: Common | undefined
  #at = 0 // transactions given out
  #step = 0 // steps done
  #changesAt = 0

  constructor(options: UnpackerOptions) {
    this.#options = options
  }
  open(parcel: Parcel): void {
    this.#parcel = parcel
    this.#details = []
    this.#common = { epoch: this.#options.epoch, parcel, details: this.#details }
    this.#at = 0
    this.#step = 0
    this.#changesAt = 0
    for (const id of this.#tables.keys()) if (id < parcel.tablesFrom) this.#tables.delete(id)
    for (const table of parcel.tables) this.#tables.set(table.id, table)
  }

  /** Whether the parcel has no further transaction. */
  get last(): boolean {
    return this.#at * HEAD === this.#parcel!.heads.length
  }

  /**
   * Moves to the next transaction: `ready`, which stays undefined at the parcel's end. A promise while the catalog looks
   * a table up: wait for it and call again. Throws what the catalog throws.
   */
  advance(): void | Promise<void> {
    const parcel = this.#parcel!
    const { heads, steps } = parcel
    for (; this.#step < steps.length && steps[this.#step]!.at <= this.#at; this.#step++)
      this.#do(steps[this.#step]!)
    const h = this.#at * HEAD
    if (h === heads.length) return
    while (this.#details.length < heads[h + 17]!) {
      const waiting = this.#nextDetail(parcel)
      if (waiting) return waiting
    }
    this.#at++
    this.ready = this.#transaction(parcel, h)
  }
  #do(step: Step): void {
    if (step.kind === 'format') this.#options.onFormat?.(step.format)
    else this.#options.catalog.statement(step.statement, step.place)
  }
  #nextDetail(parcel: Parcel): void | Promise<void> {
    const packed = parcel.details[this.#details.length]!
    if (packed.kind !== 'rows') {
      this.#details.push(packed)
      return
    }
    const table = this.#tables.get(packed.table)
    assert(table, 'a parcel names a table that was not sent')
    if (!('map' in table)) {
      this.#details.push(table)
      return
    }
    const { id, kind, place, format } = table
    const known = (resolved: Table): void => {
      const detail = { kind, table: resolved, format }
      this.#tables.set(id, detail)
      this.#details.push(detail)
    }
    const resolved = this.#options.catalog.resolve(revive(table.map), place)
    if (resolved instanceof Promise) return resolved.then(known)
    known(resolved)
  }
  #transaction(parcel: Parcel, h: number): Transaction {
    const id = parcel.heads[h + 8]! | 0
    const slab = id < 0 ? undefined : this.#options.slab(id).retain()
    const at = this.#changesAt
    this.#changesAt += parcel.heads[h + 10]! * NUMBERS
    return new PackedTransaction(this.#common!, h, at, slab)
  }
}

/** What the transactions of one parcel share. */
interface Common {
  readonly epoch: number
  readonly parcel: Parcel
  readonly details: readonly Detail[]
}

/** A transaction that stays in its parcel: thousands wait in the window, and each is one small object. */
class PackedTransaction implements Transaction {
  readonly slab: Slab | undefined
  readonly #common: Common
  readonly #head: number
  readonly #at: number // of its changes' numbers
  #changes: readonly Change[] | undefined

  constructor(common: Common, head: number, at: number, slab: Slab | undefined) {
    this.slab = slab
    this.#common = common
    this.#head = head
    this.#at = at
  }
  #number(index: number): number {
    return this.#common.parcel.heads[this.#head + index]!
  }
  #text(index: number): string {
    return this.#common.parcel.texts[this.#number(index)]!
  }
  get epoch(): number {
    return this.#common.epoch
  }
  get server(): string {
    return this.#common.parcel.server
  }
  get first(): number {
    return this.#number(0)
  }
  get next(): number {
    return this.#number(1)
  }
  get offset(): number {
    return this.#number(2)
  }
  get endOffset(): number {
    return this.#number(3)
  }
  get timestamp(): number {
    return this.#number(4)
  }
  get lastCommitted(): number {
    return this.#number(5)
  }
  get sequenceNumber(): number {
    return this.#number(6)
  }
  get state(): Transaction['state'] {
    return states[this.#number(7)]!
  }
  get bytes(): number {
    return this.#number(9)
  }
  get file(): string {
    return this.#text(11)
  }
  get endFile(): string {
    return this.#text(12)
  }
  get gtid(): Transaction['gtid'] {
    if (this.#number(13) < 0) return undefined
    return { sid: this.#text(13), gno: gnoOf(this.#number(15), this.#number(16)) }
  }
  get skipped(): Transaction['skipped'] {
    return this.#number(14) < 0 ? undefined : GtidSet.parse(this.#text(14))
  }
  get kept(): Kept {
    return {
      bytes: this.slab?.bytes ?? NO_BYTES,
      numbers: this.#common.parcel.changes,
      details: this.#common.details,
      at: this.#at,
      count: this.#number(10),
    }
  }
  get changes(): readonly Change[] {
    return (this.#changes ??= changesOf(this.kept))
  }
  forgetChanges(): void {
    this.#changes = undefined
  }
}

const NO_BYTES = Buffer.alloc(0)

const gnoOf = (high: number, low: number): bigint =>
  high < HALF / 2048 ? BigInt(high * HALF + low) : (BigInt(high) << 32n) | BigInt(low)

/** Buffers arrive as plain bytes. */
function revive(map: TableMap): TableMap {
  const buffer = ({ buffer, byteOffset, length }: Uint8Array): Buffer =>
    Buffer.from(buffer, byteOffset, length)
  return { ...map, body: buffer(map.body), optional: buffer(map.optional) }
}
