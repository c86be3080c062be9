/**
 * Reads one piece of a table: rows behind a place in its key, as rows events in one buffer, and the place behind the last.
 * Bounded twice: by the number of rows that are asked for, and by bytes, behind which rows are passed over, for the next
 * piece begins with them. Knows no log.
 */
import { eventTypes, HEADER_BYTES } from '../../binlog/reader.ts'
import { BinlogRows } from '../../binlog/rows.ts'
import { AFTER, BEFORE } from '../../change.ts'
import type {
  Column,
  ImageSide,
  QueryChange,
  RawEvent,
  Row,
  RowReader,
  RowsChange,
  Table,
} from '../../change.ts'
import type { BinaryConnection } from '../../mysql/binary.ts'
import { NO_LIMITS } from '../../mysql/connection.ts'
import { Out } from '../../out.ts'
import { ImageWriter } from './image.ts'
import {
  beginEvent,
  literalOf,
  selectText,
  SNAPSHOT_FORMAT,
  tableName,
  type KeyPlace,
  type TablePlan,
} from './plan.ts'

/** Statements for the session of a connection that reads pieces. */
export const SNAPSHOT_SESSION: readonly string[] = [
  // Texts in the character set of their column, instants in UTC, whatever is stored.
  "SET SESSION character_set_results = NULL, SESSION time_zone = '+00:00', SESSION sql_mode = ''",
  // A locking read then locks rows and no gaps; nothing else depends on it, for each SELECT is a transaction.
  'SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED',
  'SET SESSION net_write_timeout = 86400, SESSION wait_timeout = 86400, SESSION autocommit = 1',
  NO_LIMITS,
]

const EVENT_BYTES = 32 * 1024
const FIRST_BYTES = 256 * 1024
const EVENT_ROWS = 500

/** Rows of a piece, as many as an event may have. */
interface EventRange {
  readonly kind: 'insert' | 'delete'
  readonly start: number
  end: number
  readonly rows: number[] // where each begins
}
export interface Chunk {
  readonly plan: TablePlan
  readonly bytes: number // of its rows
  readonly rows: number
  readonly after: KeyPlace // where the next piece begins
  /** The table has no rows behind this piece. */
  readonly last: boolean
  /** Too large for the limit and without a key to go on by. */
  readonly cut: boolean
  readonly buffer: Buffer
  readonly events: readonly EventRange[]
}
export interface ChunkOptions {
  readonly plan: TablePlan
  readonly after: KeyPlace
  readonly rows: number // at most
  readonly bytes: number // about; one larger row is still taken
  /** Waits for transactions that are being committed: a locking read. */
  readonly lock: boolean
  readonly serverId: number
  /** A condition that rows fulfil, in SQL. */
  readonly where?: string | undefined
  /** Where its rows go, as far as it has room: one that a piece before had. */
  readonly buffer?: Buffer | undefined
}

/** Rows that are written to `out` as events, each as large as one may be. */
export function eventsOf(
  out: Out,
  { columns }: Table,
  kind: EventRange['kind'],
  serverId: number,
  key?: readonly Column[], // all that the rows of a delete have
): {
  /** A row begins. */
  readonly row: () => true
  readonly end: () => { readonly rows: number; readonly events: readonly EventRange[] }
} {
  const events: EventRange[] = []
  let rows = 0
  const seal = (): void => {
    const event = events.at(-1)
    if (event) event.end = out.at
  }
  return {
    row() {
      const event = events.at(-1)
      if (!event || event.rows.length >= EVENT_ROWS || out.at - event.start >= EVENT_BYTES) {
        seal()
        const start = beginEvent(out, columns.length, serverId, key)
        events.push({ kind, start, end: 0, rows: [] })
      }
      events.at(-1)!.rows.push(out.at)
      rows++
      return true
    },
    end() {
      seal()
      return { rows, events }
    },
  }
}

/** Throws what the connection throws. */
export async function readChunk(
  connection: BinaryConnection,
  { plan, after, rows: limit, bytes: most, lock, serverId, buffer, where }: ChunkOptions,
): Promise<Chunk> {
  const { table } = plan
  const out = new Out(buffer === undefined ? FIRST_BYTES : 0)
  if (buffer !== undefined) out.use(buffer)
  const taken = eventsOf(out, table, 'insert', serverId)
  let seen = 0
  const writer = new ImageWriter(table.columns, out, () => {
    seen++
    return out.at < most && taken.row()
  })
  await connection.select(selectText(plan, { after, limit, lock, where }), writer)
  const { rows, events } = taken.end()
  const keyed = plan.key.length > 0
  const literal = (c: Column): string =>
    literalOf(c, out.buf, writer.starts[c.index]!, writer.ends[c.index]!)
  return {
    plan,
    bytes: out.at,
    rows,
    after: rows === 0 || !keyed ? after : plan.key.map(literal),
    last: keyed ? seen < limit && rows === seen : true,
    cut: !keyed && (rows < seen || seen >= limit),
    buffer: out.buf,
    events,
  }
}

/**
 * The rows of one of a piece's events as a change, numbered from `firstRow`; without those that `dropped` answers true for,
 * undefined where none stays. To be asked once for each event: rows that stay are moved together.
 */
export function changeOf(
  { buffer, plan }: Chunk,
  { kind, start, end: past, rows }: EventRange,
  place: Pick<SnapshotPlace, 'offset' | 'firstRow' | 'whole'>,
  dropped: ((reader: RowReader, side: ImageSide) => boolean) | undefined,
): SnapshotRows | undefined {
  let end = past
  if (dropped !== undefined) {
    const whole = new SnapshotRows(plan.table, { bytes: buffer, start, end }, { ...place, kind })
    const side = kind === 'delete' ? BEFORE : AFTER
    const gone: boolean[] = []
    for (const reader = whole.reader(); reader.next();) gone.push(dropped(reader, side))
    let to = rows[0]!
    for (const [i, from] of rows.entries()) {
      const next = rows[i + 1] ?? past
      if (gone[i] === true) continue
      if (to !== from) buffer.copyWithin(to, from, next)
      to += next - from
    }
    end = to
  }
  if (end <= rows[0]!) return undefined
  return new SnapshotRows(plan.table, { bytes: buffer, start, end }, { ...place, kind })
}

/** All rows of a piece as changes. To be asked once. */
export function changesOf(
  chunk: Chunk,
  { offset, firstRow }: { readonly offset: number; readonly firstRow: number },
): SnapshotRows[] {
  let next = firstRow
  return chunk.events.flatMap((event) => {
    const change = changeOf(chunk, event, { offset, firstRow: next }, undefined)
    next += event.rows.length
    return change ?? []
  })
}

/** What empties a table in a target, as the source would have logged it. */
export function clearChange({ database, name }: Pick<Table, 'database' | 'name'>): QueryChange {
  const bytes = Buffer.alloc(HEADER_BYTES)
  bytes.writeUInt32LE(Math.floor(Date.now() / 1000), 0)
  bytes[4] = eventTypes.QUERY
  return {
    kind: 'ddl',
    type: 'TRUNCATE',
    ordinal: 0,
    event: { bytes, start: 0, end: bytes.length, offset: 0, length: bytes.length },
    database,
    table: name,
    tables: [{ database, table: name }],
    defaultDatabase: database,
    sql: `TRUNCATE TABLE ${tableName({ database, name })}`,
  }
}

interface SnapshotPlace {
  readonly offset: number
  readonly firstRow: number
  readonly kind: EventRange['kind']
  readonly whole?: RowsChange['whole']
}
/** The rows of one event of a piece. */
export class SnapshotRows implements RowsChange {
  readonly kind: 'insert' | 'delete'
  readonly ordinal = 0
  readonly tableId = 0
  readonly snapshot = true
  readonly whole: RowsChange['whole']
  readonly firstRow: number
  readonly table: Table
  readonly event: RawEvent
  readonly #rows: BinlogRows

  /** Rows of bytes[start, end), the event's head included; `offset` is that of the place they stand for. */
  constructor(
    table: Table,
    { bytes, start, end }: Pick<RawEvent, 'bytes' | 'start' | 'end'>,
    { offset, firstRow, kind, whole }: SnapshotPlace,
  ) {
    this.kind = kind
    this.whole = whole
    this.table = table
    this.firstRow = firstRow
    this.event = { bytes, start, end, offset, length: end - start }
    const facts = { kind, ordinal: 0, table, format: SNAPSHOT_FORMAT } as const
    this.#rows = new BinlogRows({ ...this.event, ...facts })
  }
  reader(): RowReader {
    return this.#rows.reader()
  }
  rows(): Iterable<Row> {
    return this.#rows.rows()
  }
}
