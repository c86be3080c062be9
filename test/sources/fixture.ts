/**
 * A small binlog writer and the ways to read what it wrote, for tests that need no server: events with right positions
 * and checksums, packets, payloads, and transactions as plain values that can be compared.
 */
import { crc32, zstdCompressSync } from 'node:zlib'
import { eventTypes, type Format } from '../../src/binlog/reader.ts'
import type { TableMap } from '../../src/binlog/table-map.ts'
import type { Change, Filter, Position, Table, Transaction } from '../../src/change.ts'
import { SluiceError } from '../../src/errors.ts'
import { GtidSet } from '../../src/gtid.ts'
import { PacketReader } from '../../src/mysql/packet.ts'
import { SlabPool } from '../../src/slab.ts'
import { Chunks } from '../../src/sources/log/events.ts'
import type { TableResolver } from '../../src/sources/log/tables.ts'
import { readTransactions, type LogOptions } from '../../src/sources/transactions.ts'

export const SERVER = '00112233-4455-6677-8899-aabbccddeeff'
const UUID = Buffer.from(SERVER.replaceAll('-', ''), 'hex')
const SECONDS = 1_790_000_000

interface EventOptions {
  readonly flags?: number
  readonly artificial?: boolean
  readonly checksum?: boolean
  readonly seconds?: number
}

/** Writes one log; `events` are whole events in order. */
export class LogWriter {
  readonly events: Buffer[] = []
  file = 'binlog.000001'
  offset = 4
  seconds = SECONDS
  readonly checksum: boolean
  #gno = 0
  constructor(checksum = true) {
    this.checksum = checksum
  }
  event(type: number, body: Buffer, options: EventOptions = {}): this {
    const trailer = (options.checksum ?? this.checksum) ? 4 : 0
    const event = Buffer.alloc(19 + body.length + trailer)
    event.writeUInt32LE(options.seconds ?? this.seconds, 0)
    event[4] = type
    event.writeUInt32LE(1, 5)
    event.writeUInt32LE(event.length, 9)
    if (options.artificial !== true) this.offset += event.length
    event.writeUInt32LE(options.artificial === true ? 0 : this.offset % 2 ** 32, 13)
    event.writeUInt16LE(options.flags ?? (options.artificial === true ? 0x20 : 0), 17)
    body.copy(event, 19)
    if (trailer > 0) seal(event)
    this.events.push(event)
    return this
  }
  rotate(file: string, position = 4, artificial = true): this {
    const body = Buffer.alloc(8 + file.length)
    body.writeBigUInt64LE(BigInt(position))
    body.write(file, 8)
    this.event(eventTypes.ROTATE, body, { artificial })
    this.file = file
    this.offset = position
    return this
  }
  format(artificial = false): this {
    const lengths = Buffer.alloc(42)
    lengths.fill(8)
    const body = Buffer.alloc(2 + 50 + 4 + 1 + lengths.length + 1)
    body.writeUInt16LE(4)
    body.write('9.7.4', 2)
    body[56] = 19
    lengths.copy(body, 57)
    body[body.length - 1] = this.checksum ? 1 : 0
    return this.event(eventTypes.FORMAT_DESCRIPTION, body, { artificial, checksum: true, flags: 0 })
  }
  /** What a dump from here on begins with. */
  start(file = this.file, position = 4): this {
    return this.rotate(file, position).format(position !== 4)
  }
  gtid(): this {
    this.#gno++
    const body = Buffer.alloc(42)
    UUID.copy(body, 1)
    body.writeBigInt64LE(BigInt(this.#gno), 17)
    body[25] = 2
    body.writeBigInt64LE(BigInt(this.#gno - 1), 26)
    body.writeBigInt64LE(BigInt(this.#gno), 34)
    return this.event(eventTypes.GTID, body)
  }
  query(sql: string, database = 'app'): this {
    return this.event(eventTypes.QUERY, queryBody(sql, database))
  }
  begin(): this {
    return this.query('BEGIN')
  }
  tableMap(id: number, table: string, database = 'app'): this {
    return this.event(eventTypes.TABLE_MAP, tableMapBody(id, database, table))
  }
  rows(id: number, bytes: number, flags = 1): this {
    return this.event(eventTypes.WRITE_ROWS, rowsBody(id, bytes, flags))
  }
  xid(): this {
    return this.event(eventTypes.XID, Buffer.from([7, 0, 0, 0, 0, 0, 0, 0]))
  }
  heartbeat(position = this.offset): this {
    const name = Buffer.from(this.file)
    const field = Buffer.alloc(9)
    field[0] = 254
    field.writeBigUInt64LE(BigInt(position), 1)
    const body = Buffer.concat([
      Buffer.from([1, name.length]),
      name,
      Buffer.from([2, 9]),
      field,
      Buffer.from([0]),
    ])
    return this.event(eventTypes.HEARTBEAT_V2, body, { artificial: true, flags: 0 })
  }
  /** A whole transaction of `count` rows events of `bytes` each. */
  transaction(table: string, count: number, bytes: number): this {
    this.gtid().begin()
    for (let i = 0; i < count; i++) this.tableMap(idOf(table), table).rows(idOf(table), bytes)
    return this.xid()
  }
  payload(inner: Buffer, options: { compress?: boolean; declared?: number } = {}): this {
    const compress = options.compress ?? true
    const packed = compress ? zstdCompressSync(inner) : inner
    const fields = Buffer.concat([
      field(2, compress ? 0 : 255),
      field(1, packed.length),
      field(3, options.declared ?? inner.length),
      Buffer.from([0]),
    ])
    return this.event(eventTypes.TRANSACTION_PAYLOAD, Buffer.concat([fields, packed]))
  }
}

/** Puts the right CRC32 at the end of an event. */
export function seal(event: Buffer): void {
  event.writeUInt32LE(crc32(event.subarray(0, event.length - 4)), event.length - 4)
}

function field(type: number, value: number): Buffer {
  const packed = Buffer.alloc(9)
  packed[0] = 254
  packed.writeBigUInt64LE(BigInt(value), 1)
  return Buffer.concat([Buffer.from([type, 9]), packed])
}
const idOf = (table: string): number => 100 + (table.charCodeAt(0) & 31)

function queryBody(sql: string, database: string): Buffer {
  const head = Buffer.alloc(13)
  head.writeUInt32LE(77)
  head[8] = database.length
  return Buffer.concat([head, Buffer.from(`${database}\0${sql}`)])
}
function tableMapBody(id: number, database: string, table: string): Buffer {
  const head = Buffer.alloc(8)
  head.writeUIntLE(id, 0, 6)
  const name = (s: string): Buffer =>
    Buffer.from(`${String.fromCharCode(s.length)}${s}\0`, 'latin1')
  // One LONG_BLOB column, nullable.
  return Buffer.concat([head, name(database), name(table), Buffer.from([1, 252, 1, 4, 1])])
}
function rowsBody(id: number, bytes: number, flags: number, seed = 0): Buffer {
  const body = Buffer.alloc(16 + bytes)
  body.writeUIntLE(id, 0, 6)
  body.writeUInt16LE(flags, 6)
  body.writeUInt16LE(2, 8)
  body[10] = 1
  body[11] = 1
  body.writeUInt32LE(bytes, 12 + 1 - 1)
  let noise = id + seed
  for (let i = 0; i < bytes; i++) {
    noise = (Math.imul(noise, 1_664_525) + 1_013_904_223) | 0
    body[16 + i] = seed < 0 ? id : noise >>> 24
  }
  return body
}

/** The events of a transaction after its GTID, as they stand in a payload: no checksums. */
export function innerEvents(
  table: string,
  count: number,
  bytes: number,
  compressible = false,
): Buffer {
  const writer = new LogWriter(false)
  const id = idOf(table)
  writer.begin()
  for (let i = 0; i < count; i++) {
    writer
      .tableMap(id, table)
      .event(eventTypes.WRITE_ROWS, rowsBody(id, bytes, 1, compressible ? -1 : i))
  }
  writer.xid()
  return Buffer.concat(writer.events)
}

/** Events as the packets of a dump. */
export function packets(events: readonly Buffer[]): Buffer {
  const out: Buffer[] = []
  let sequence = 1
  for (const event of events) {
    const payload = Buffer.concat([Buffer.from([0]), event])
    let at = 0
    for (;;) {
      const size = Math.min(payload.length - at, 0xffffff)
      const head = Buffer.alloc(4)
      head.writeUIntLE(size, 0, 3)
      head[3] = sequence++ & 0xff
      out.push(head, payload.subarray(at, at + size))
      at += size
      if (size < 0xffffff) break
    }
  }
  return Buffer.concat(out)
}

// ── reading ──────────────────────────────────────────────────────────────────

export const START: Position = {
  epoch: 1,
  server: SERVER,
  file: 'binlog.000001',
  offset: 4,
  skip: 0,
  gtids: undefined,
  timestamp: 0,
}

/** Tables without columns' meaning: enough where nobody decodes. */
export const bareCatalog: TableResolver = {
  resolve: (map: TableMap): Table => ({
    database: map.database,
    name: map.table,
    columns: [],
    selected: [],
    origin: 'event',
  }),
  statement() {},
}
/** The same, but every answer takes a while. */
export const slowCatalog: TableResolver = {
  async resolve(map, at) {
    await new Promise(setImmediate)
    return bareCatalog.resolve(map, at)
  },
  statement() {},
}

export interface ReadOptions {
  readonly framed?: boolean
  readonly from?: Partial<Position>
  readonly filter?: Filter
  readonly partBytes?: number
  readonly catalog?: TableResolver
  readonly slabs?: SlabPool
  readonly jumps?: boolean
  readonly early?: boolean
  readonly checksum?: boolean
  readonly signal?: AbortSignal
  readonly onFormat?: (format: Format) => void
}

/** Transactions from chunks of a dump stream or, not framed, of plain events. */
export function readChunks(
  chunks: Iterable<Buffer>,
  options: ReadOptions = {},
): AsyncGenerator<Transaction, void, undefined> {
  const framed = options.framed ?? true
  const pieces = framed
    ? new PacketReader((number, text) => new SluiceError('SERVER_ERROR', `${number} ${text}`))
    : new Chunks()
  const iterator = chunks[Symbol.iterator]()
  const log: LogOptions = {
    epoch: 1,
    server: SERVER,
    catalog: options.catalog ?? bareCatalog,
    filter: options.filter ?? (() => true),
    slabs: options.slabs ?? new SlabPool(),
    partBytes: options.partBytes ?? 256 * 1024,
    from: { ...START, ...options.from },
    jumps: options.jumps ?? false,
    early: options.early ?? false,
    checksum: options.checksum ?? true,
    onFormat: options.onFormat,
  }
  const more = (): Promise<boolean> => {
    const { value, done } = iterator.next()
    if (done === true) return Promise.resolve(false)
    pieces.push(value)
    return Promise.resolve(true)
  }
  const opened = { options: log, input: { pieces, framed, more, close() {} } }
  return readTransactions(
    () => Promise.resolve(opened),
    options.signal ?? new AbortController().signal,
  )
}

/** A change as text; its bytes as their length and CRC32. */
export function describeChange(change: Change): string {
  const { bytes, start, end, offset, length } = change.event
  const sum = crc32(bytes.subarray(start, end)).toString(16)
  const what =
    'sql' in change
      ? change.sql
      : 'table' in change
        ? `${change.table.database}.${change.table.name}`
        : change.kind === 'begin'
          ? change.xid
          : change.xid
  return `${change.ordinal} ${change.kind} ${what} @${offset}+${length} ${end - start}:${sum}`
}
export interface Described {
  gtid: string
  place: string
  end: string
  state: string
  first: number
  next: number
  skipped: string
  changes: string[]
}
export function describeTransaction(tx: Transaction): Described {
  return {
    gtid: tx.gtid ? `${tx.gtid.sid}:${tx.gtid.gno}` : '',
    place: `${tx.file}:${tx.offset}`,
    end: `${tx.endFile}:${tx.endOffset}`,
    state: tx.state,
    first: tx.first,
    next: tx.next,
    skipped: tx.skipped?.toString() ?? '',
    changes: tx.changes.map(describeChange),
  }
}
/** All of it, with the memory given back. */
export async function collect(transactions: AsyncIterable<Transaction>): Promise<Described[]> {
  const all: Described[] = []
  for await (const tx of transactions) {
    all.push(describeTransaction(tx))
    tx.slab?.release()
  }
  return all
}
/** The changes of all parts, in order. */
export const changesOf = (all: readonly Described[]): string[] => all.flatMap((tx) => tx.changes)
export const noGtids = new GtidSet()
/** The stream in pieces that end at the offsets `at`, in ascending order. */
export function cut(stream: Buffer, at: readonly number[]): Buffer[] {
  const chunks: Buffer[] = []
  let from = 0
  for (const to of [...at, stream.length]) {
    if (to > from) chunks.push(stream.subarray(from, to))
    from = Math.max(from, to)
  }
  return chunks
}
/** Reads one chunk. */
export const read = (stream: Buffer, options?: ReadOptions): Promise<Described[]> =>
  collect(readChunks([stream], options))
