/**
 * A binlog for tests of the store: transactions as a server would have them, and readers that yield them cut into
 * parts at places of their own choosing, with real slabs that many parts share. Every event's bytes name it, so that
 * a slab that was reused too early shows.
 */
import { setImmediate as turn } from 'node:timers/promises'
import type {
  BeginChange,
  Change,
  CommitChange,
  Position,
  QueryChange,
  RawEvent,
  RowsChange,
  Table,
  Transaction,
} from '../../src/change.ts'
import { GtidSet } from '../../src/gtid.ts'
import { type Slab, SlabPool } from '../../src/slab.ts'

export const SERVER = '3e11fa47-71ca-11e1-9e33-c80aa9429562'
const EVENT_BYTES = 40
const OVERHEAD = 10 // what a transaction counts besides its events

/** One transaction as written; `rows` are table names in order, [] one that the source filters out, 'ddl' a statement. */
export interface Written {
  readonly number: number // also its gno
  readonly rows: readonly string[] | 'ddl'
  readonly file: string
  readonly offset: number
  readonly endOffset: number
}
export interface Item {
  readonly tx: Written
  readonly ordinal: number
  readonly kind: 'begin' | 'insert' | 'ddl' | 'commit'
  readonly table: string
}

const tables = new Map<string, Table>()
function tableOf(name: string): Table {
  let table = tables.get(name)
  if (!table) {
    table = { database: 'd', name, columns: [], selected: [], origin: 'event' }
    tables.set(name, table)
  }
  return table
}

/** The events of a transaction in order; ordinal 0 is its GTID event, which is no change. */
export function itemsOf(tx: Written): Item[] {
  if (tx.rows === 'ddl') return [{ tx, ordinal: 1, kind: 'ddl', table: 't0' }]
  if (tx.rows.length === 0) return []
  const rows = tx.rows.map((table, i): Item => ({ tx, ordinal: 2 + i * 2, kind: 'insert', table })) // table maps between
  return [
    { tx, ordinal: 1, kind: 'begin', table: '' },
    ...rows,
    { tx, ordinal: 2 + rows.length * 2, kind: 'commit', table: '' },
  ]
}

/** How a reader cuts: numbers taken in turn. */
export interface Cuts {
  readonly part: number // changes in a part at most
  readonly empties: boolean // filtered transactions: as transactions without changes, or folded into the next
}

export class Log {
  readonly written: Written[] = []
  readonly pool = new SlabPool()
  readonly gtids: boolean
  #file = 1
  #offset = 4
  #more: (() => void)[] = []
  constructor(gtids = true) {
    this.gtids = gtids
  }
  write(rows: readonly string[] | 'ddl'): Written {
    const offset = this.#offset
    const endOffset = offset + 100 + (rows === 'ddl' ? 1 : rows.length) * 50
    const number = this.written.length + 1
    const tx = {
      number,
      rows,
      file: `binlog.${String(this.#file).padStart(6, '0')}`,
      offset,
      endOffset,
    }
    this.written.push(tx)
    this.#offset = endOffset
    if (number % 17 === 0) {
      this.#file++
      this.#offset = 4
    }
    for (const more of this.#more.splice(0)) more()
    return tx
  }
  get origin(): Position {
    return this.position('binlog.000001', 4, 0, 0)
  }
  /** The position at a place, `done` transactions having been done in full before it. */
  position(file: string, offset: number, skip: number, done: number): Position {
    const text = done > 0 ? `${SERVER}:1-${done}` : ''
    const gtids = this.gtids ? GtidSet.parse(text) : undefined
    return { epoch: 1, server: SERVER, file, offset, skip, gtids, timestamp: done * 1000 }
  }
  after(tx: Written): Position {
    return this.position(tx.file, tx.endOffset, 0, tx.number)
  }
  /** How many transactions are done in full at a position. */
  doneAt(position: Pick<Position, 'file' | 'offset'>): number {
    const later = this.written.findIndex(
      (tx) =>
        tx.file > position.file || (tx.file === position.file && tx.endOffset > position.offset),
    )
    return later < 0 ? this.written.length : later
  }

  /** Transactions after `from`, for ever; ends quietly with the signal. */
  async *read(from: Position, signal: AbortSignal, cuts: Cuts): AsyncGenerator<Transaction> {
    const maker = new Maker(this.pool, this.gtids)
    let next = this.doneAt(from)
    let skip = from.skip
    let skipped: Written[] = []
    try {
      for (;;) {
        if (signal.aborted) return
        const tx = this.written[next]
        if (tx?.rows.length === 0) {
          skipped.push(tx)
          next++
          if (cuts.empties) {
            yield maker.empty(skipped)
            skipped = []
          }
          continue
        }
        if (!tx) {
          if (skipped.length > 0) {
            yield maker.empty(skipped)
            skipped = []
            continue // more may have been written meanwhile
          }
          await new Promise<void>((resolve) => {
            this.#more.push(resolve)
            signal.addEventListener('abort', () => resolve(), { once: true })
          })
          await turn()
          continue
        }
        next++
        let items = itemsOf(tx).filter((item) => item.ordinal >= skip)
        let first = skip
        skip = 0
        do {
          const part = items.slice(0, cuts.part)
          items = items.slice(cuts.part)
          yield maker.part(tx, first, part, items[0]?.ordinal, skipped)
          if (signal.aborted) return
          skipped = []
          first = items[0]?.ordinal ?? 0
        } while (items.length > 0)
      }
    } finally {
      maker.end()
    }
  }
}

/** Builds transactions in slabs as a reader does: several in one, each with a reference of its own. */
export class Maker {
  readonly #pool: SlabPool
  readonly #gtids: boolean
  readonly #eventsPerSlab: number
  #slab: Slab | undefined
  #inSlab = 0
  constructor(pool: SlabPool, gtids: boolean, eventsPerSlab = 12) {
    this.#pool = pool
    this.#gtids = gtids
    this.#eventsPerSlab = eventsPerSlab
  }
  part(
    tx: Written,
    first: number,
    items: readonly Item[],
    next: number | undefined,
    skipped: readonly Written[],
  ): Transaction {
    const slab = this.#room(items.length)
    const changes = items.map((item) => changeOf(item, this.#event(slab, item)))
    return {
      epoch: 1,
      server: SERVER,
      gtid: this.#gtids ? { sid: SERVER, gno: BigInt(tx.number) } : undefined,
      lastCommitted: 0,
      sequenceNumber: 0,
      skipped: this.#setOf(skipped),
      file: tx.file,
      offset: tx.offset,
      endFile: tx.file,
      endOffset: next === undefined ? tx.endOffset : 0,
      first,
      next: next ?? 0,
      timestamp: tx.number * 1000,
      changes,
      state: next === undefined ? 'committed' : 'open',
      slab: slab.retain(),
      bytes: OVERHEAD + items.length * EVENT_BYTES,
    }
  }
  empty(filtered: readonly Written[]): Transaction {
    const from = filtered[0]!
    const to = filtered.at(-1)!
    return {
      epoch: 1,
      server: SERVER,
      gtid: undefined,
      lastCommitted: 0,
      sequenceNumber: 0,
      skipped: this.#setOf(filtered),
      file: from.file,
      offset: from.offset,
      endFile: to.file,
      endOffset: to.endOffset,
      first: 0,
      next: 0,
      timestamp: to.number * 1000,
      changes: [],
      state: 'committed',
      slab: undefined,
      bytes: OVERHEAD,
    }
  }
  end(): void {
    this.#slab?.release()
    this.#slab = undefined
  }
  #setOf(filtered: readonly Written[]): GtidSet | undefined {
    if (!this.#gtids || filtered.length === 0) return undefined
    const set = new GtidSet()
    for (const tx of filtered) set.add({ sid: SERVER, gno: BigInt(tx.number) })
    return set
  }
  #room(events: number): Slab {
    if (!this.#slab || this.#inSlab + events > this.#eventsPerSlab) {
      this.#slab?.release()
      this.#slab = this.#pool.open(Math.max(this.#eventsPerSlab, events) * EVENT_BYTES)
      this.#inSlab = 0
    }
    this.#inSlab += events
    return this.#slab
  }
  #event(slab: Slab, item: Item): RawEvent {
    const start = slab.at
    slab.at += EVENT_BYTES
    slab.bytes.writeUInt32LE(item.tx.number, start)
    slab.bytes.writeUInt32LE(item.ordinal, start + 4)
    const { bytes } = slab
    return {
      bytes,
      start,
      end: slab.at,
      offset: item.tx.offset + item.ordinal,
      length: EVENT_BYTES,
    }
  }
}

function changeOf(item: Item, event: RawEvent): Change {
  const { kind, ordinal } = item
  switch (kind) {
    case 'begin': {
      const begin: BeginChange = { kind, ordinal, event, threadId: 1, xid: '' }
      return begin
    }
    case 'commit': {
      const commit: CommitChange = { kind, ordinal, event, xid: '1', xa: false }
      return commit
    }
    case 'ddl': {
      const ddl: QueryChange = {
        kind,
        ordinal,
        event,
        type: 'ALTER',
        database: 'd',
        table: item.table,
        tables: [{ database: 'd', table: item.table }],
        defaultDatabase: 'd',
        sql: 'alter table t0 …',
      }
      return ddl
    }
    case 'insert': {
      const rows: RowsChange = {
        kind,
        ordinal,
        event,
        table: tableOf(item.table),
        tableId: 1,
        snapshot: false,
        reader: () => {
          throw new Error('the store reads no rows')
        },
        rows: () => [],
      }
      return rows
    }
  }
}

/** What an event's bytes say it is, read now: "number:ordinal". */
export function nameOf(change: Change): string {
  const { bytes, start } = change.event
  return `${bytes.readUInt32LE(start)}:${bytes.readUInt32LE(start + 4)}`
}
