/**
 * Changes as a client sees them, made from the entries of a MESSAGES reply. Rows are decoded when somebody asks for
 * them; names, types and decoders of a table's columns are kept from entry to entry and recognised by their bytes, so
 * that a row costs its values and two objects. Must not know connections, acks or re-delivery.
 */
import {
  entryTypes,
  eventTypes,
  readEntry,
  readRowChange,
  readTransactionMark,
} from '../server/entries.ts'
import type { ColumnReader, Header, Pair, RowChange } from '../server/entries.ts'
import { decoderOf } from './values.ts'
import type { ClientValue, Decoder, ValueOptions } from './values.ts'

export interface ClientPosition {
  readonly file: string // of the source's binlog
  readonly offset: number // of the event
}
interface ChangeHead {
  readonly position: ClientPosition
  readonly time: number // ms since 1970, whole seconds
  readonly serverId: number // of the MySQL that executed it
  /** Of its transaction, "uuid:number"; "" where the server is not asked to send GTIDs. */
  readonly gtid: string
  /** Everything executed up to and with this transaction, as MySQL prints GTID sets; "" like `gtid`. */
  readonly executed: string
  readonly redelivered: boolean
}
/** By column name. A column that is not in the row's image (binlog_row_image MINIMAL or NOBLOB) has no entry. */
export type Image = Readonly<Record<string, ClientValue>>
export interface ClientRow {
  readonly before: Image | undefined // of updates and deletes
  readonly after: Image | undefined // of inserts and updates
}
/** The rows of one binlog event. */
export interface RowsChange extends ChangeHead {
  readonly kind: 'rows'
  readonly type: 'insert' | 'update' | 'delete'
  readonly database: string
  readonly table: string
  readonly tableId: bigint
  /** Decoded at the first access. Throws SluiceError WIRE_MALFORMED. */
  readonly rows: readonly ClientRow[]
  /** Rows that the table had already, loaded because the subscription asked for it: as inserts. */
  readonly snapshot: boolean
  /** Names of the primary key's columns as far as they are in the images. */
  readonly keys: readonly string[]
}
/** ddl: changes definitions; statement: rows changed by a statement logged as text; annotation: comments on what follows. */
export interface StatementChange extends ChangeHead {
  readonly kind: 'ddl' | 'statement' | 'annotation'
  readonly type: keyof typeof eventTypes
  readonly database: string // of the first table it is about, else ""
  readonly table: string
  readonly defaultDatabase: string // of the session
  readonly sql: string
}
/** XA COMMIT or XA ROLLBACK of what was prepared earlier; with ONE PHASE of what stands right before it. */
export interface XaChange extends ChangeHead {
  readonly kind: 'xa'
  readonly type: 'commit' | 'rollback'
  readonly xid: string
  readonly onePhase: boolean
}
export interface BeginChange extends ChangeHead {
  readonly kind: 'begin'
  readonly threadId: number
  readonly xid: string // of XA START, else ""
}
export interface CommitChange extends ChangeHead {
  readonly kind: 'commit'
  readonly transactionId: string // of the storage engine; "0" when there is none
  readonly xid: string // of XA END, else "": the transaction is prepared, not committed
}
export type ClientChange = RowsChange | StatementChange | XaChange | BeginChange | CommitChange

/** Changes that stand together. A big transaction goes on over several batches: whole only with `begun` and `ended`. */
export interface ClientTransaction {
  readonly begun: boolean
  readonly ended: boolean
  readonly gtid: string
  readonly changes: readonly (RowsChange | StatementChange | XaChange)[]
}

/** Groups changes by their BEGIN and COMMIT; a DDL statement outside of both is a transaction of its own. */
export function transactionsOf(changes: readonly ClientChange[]): ClientTransaction[] {
  const list: ClientTransaction[] = []
  let open: ClientTransaction['changes'][number][] | undefined
  let begun = false
  let gtid = ''
  const close = (ended: boolean): void => {
    if (open) list.push({ begun, ended, gtid, changes: open })
    open = undefined
    begun = false
  }
  for (const change of changes) {
    if (change.kind === 'begin') {
      close(false)
      open = []
      begun = true
    } else if (change.kind === 'commit') open ??= []
    else if (!open && (change.kind === 'ddl' || change.kind === 'xa')) {
      list.push({ begun: true, ended: true, gtid: change.gtid, changes: [change] })
      continue
    } else (open ??= []).push(change)
    gtid = change.gtid
    if (change.kind === 'commit') close(true)
  }
  close(false)
  return list
}

/** One column of a table as it comes on the wire, with what was made of it. */
interface Slot {
  readonly name: string
  readonly nameBytes: Buffer
  readonly typeBytes: Buffer
  readonly sqlType: number
  readonly decode: Decoder
  key: boolean
}
/** By position in the row: before columns, then after columns. */
type Slots = Slot[]

const TABLES_MAX = 10_000

const kinds = new Map<number, RowsChange['type']>([
  [eventTypes.INSERT, 'insert'],
  [eventTypes.UPDATE, 'update'],
  [eventTypes.DELETE, 'delete'],
])
const typeNames = new Map<number, keyof typeof eventTypes>(
  Object.entries(eventTypes).map(([name, type]) => [type, name as keyof typeof eventTypes]),
)

/** Makes changes of entries; one per client, because it remembers tables. */
export class ChangeReader {
  readonly #options: ValueOptions
  readonly #tables = new Map<string, Slots>()
  constructor(options: ValueOptions) {
    this.#options = options
  }

  /**
   * Reads the Entry in bytes[start, end); undefined for a kind that carries no change.
   * @throws SluiceError WIRE_MALFORMED
   */
  read(bytes: Buffer, start: number, end: number, redelivered: boolean): ClientChange | undefined {
    const { header, entryType, storeValue } = readEntry(bytes, start, end)
    const head = headOf(header, redelivered)
    if (entryType === entryTypes.ROWDATA)
      return this.#rowData(header, head, readRowChange(storeValue))
    if (entryType !== entryTypes.TRANSACTIONBEGIN && entryType !== entryTypes.TRANSACTIONEND)
      return undefined
    const { threadId, transactionId, props } = readTransactionMark(storeValue)
    const xid = valueOf(props, 'XA_XID').trim()
    return entryType === entryTypes.TRANSACTIONBEGIN
      ? { kind: 'begin', ...head, threadId, xid }
      : { kind: 'commit', ...head, transactionId, xid }
  }

  #rowData(header: Header, head: ChangeHead, change: RowChange): ClientChange {
    const { schemaName: database, tableName: table } = header
    const eventType = change.eventType ?? header.eventType ?? 0
    if (eventType === eventTypes.XACOMMIT || eventType === eventTypes.XAROLLBACK) {
      const type = eventType === eventTypes.XACOMMIT ? 'commit' : 'rollback'
      const onePhase = change.sql.endsWith(' ONE PHASE')
      return { kind: 'xa', ...head, type, xid: valueOf(change.props, 'XA_XID').trim(), onePhase }
    }
    const rowsOf = change.sql === '' ? kinds.get(eventType) : undefined
    if (rowsOf)
      return new Rows(
        head,
        header,
        rowsOf,
        change,
        this.#slots(database, table, rowsOf),
        this.#options,
      )
    return {
      kind: change.isDdl === undefined ? 'annotation' : change.isDdl ? 'ddl' : 'statement',
      ...head,
      type: typeNames.get(eventType) ?? 'QUERY',
      database,
      table,
      defaultDatabase: change.ddlSchemaName,
      sql: change.sql,
    }
  }

  #slots(database: string, table: string, type: string): Slots {
    const key = `${type} ${database}.${table}`
    let slots = this.#tables.get(key)
    if (!slots) {
      if (this.#tables.size >= TABLES_MAX) this.#tables.clear()
      slots = []
      this.#tables.set(key, slots)
    }
    return slots
  }
}

function headOf(header: Header, redelivered: boolean): ChangeHead {
  return {
    position: { file: header.logfileName, offset: header.logfileOffset },
    time: header.executeTime,
    serverId: header.serverId,
    gtid: valueOf(header.props, 'curtGtid'),
    executed: header.gtid,
    redelivered,
  }
}
const valueOf = (props: readonly Pair[], key: string): string =>
  props.find((pair) => pair.key === key)?.value ?? ''

class Rows implements RowsChange {
  readonly kind = 'rows'
  readonly type: RowsChange['type']
  readonly database: string
  readonly table: string
  readonly tableId: bigint
  readonly position: ClientPosition
  readonly time: number
  readonly serverId: number
  readonly gtid: string
  readonly executed: string
  readonly redelivered: boolean
  readonly snapshot: boolean
  readonly #change: RowChange
  readonly #slots: Slots
  readonly #options: ValueOptions
  #rows: ClientRow[] | undefined
  #keys: readonly string[] = []

  constructor(
    head: ChangeHead,
    header: Header,
    type: RowsChange['type'],
    change: RowChange,
    slots: Slots,
    options: ValueOptions,
  ) {
    this.type = type
    this.database = header.schemaName
    this.table = header.tableName
    this.tableId = change.tableId
    this.position = head.position
    this.time = head.time
    this.serverId = head.serverId
    this.gtid = head.gtid
    this.executed = head.executed
    this.redelivered = head.redelivered
    this.snapshot = valueOf(header.props, 'snapshot') === 'true'
    this.#change = change
    this.#slots = slots
    this.#options = options
  }

  get rows(): readonly ClientRow[] {
    this.#rows ??= this.#decode()
    return this.#rows
  }
  get keys(): readonly string[] {
    this.#rows ??= this.#decode()
    return this.#keys
  }

  #decode(): ClientRow[] {
    const list: ClientRow[] = []
    const reader = this.#change.rows()
    const { column } = reader
    const slots = this.#slots
    let width = 0
    while (reader.next()) {
      const before: Record<string, ClientValue> | undefined =
        this.type === 'insert' ? undefined : {}
      const after: Record<string, ClientValue> | undefined = this.type === 'delete' ? undefined : {}
      let i = 0
      for (; reader.nextColumn(); i++) {
        let slot = slots[i]
        if (!slot || !fits(slot, column)) slots[i] = slot = slotOf(column, this.#options)
        slot.key = column.isKey
        const value = column.isNull
          ? null
          : slot.decode(column.bytes, column.valueStart, column.valueEnd)
        const image = reader.side === 'before' ? before : after
        if (image) put(image, slot.name, value)
      }
      width = Math.max(width, i)
      list.push({ before, after })
    }
    this.#keys = [
      ...new Set(
        slots
          .slice(0, width)
          .filter((slot) => slot.key)
          .map((slot) => slot.name),
      ),
    ]
    return list
  }
}

/** A column may be called __proto__. */
function put(image: Record<string, ClientValue>, name: string, value: ClientValue): void {
  if (name !== '__proto__') image[name] = value
  else
    Object.defineProperty(image, name, {
      value,
      enumerable: true,
      configurable: true,
      writable: true,
    })
}

/** The type of a NULL does not matter. */
function fits(slot: Slot, column: ColumnReader): boolean {
  if (!same(slot.nameBytes, column.bytes, column.nameStart, column.nameEnd)) return false
  if (column.isNull) return true
  if (!same(slot.typeBytes, column.bytes, column.mysqlTypeStart, column.mysqlTypeEnd)) return false
  return slot.typeBytes.length > 0 || slot.sqlType === column.sqlType
}

function same(known: Buffer, bytes: Buffer, start: number, end: number): boolean {
  if (known.length !== end - start) return false
  if (known.length > 32) return known.compare(bytes, start, end) === 0
  for (let i = 0; i < known.length; i++) if (known[i] !== bytes[start + i]) return false
  return true
}

function slotOf(column: ColumnReader, options: ValueOptions): Slot {
  const { bytes, sqlType } = column
  return {
    name: column.name(),
    nameBytes: Buffer.from(bytes.subarray(column.nameStart, column.nameEnd)),
    typeBytes: Buffer.from(bytes.subarray(column.mysqlTypeStart, column.mysqlTypeEnd)),
    sqlType,
    decode: decoderOf(column.mysqlType(), sqlType, options),
    key: column.isKey,
  }
}
