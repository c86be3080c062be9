/**
 * Debezium's envelope as its MySQL connector writes it with the JSON converter, without or with schemas:
 *
 *   {"before","after","source":{…},"transaction":null,"op":"c|u|d|r","ts_ms","ts_us","ts_ns"}       the payload
 *   {"schema":{…},"payload":{…}}                                                                     with schemas
 *
 * The key is the primary key as a struct. An update of the primary key comes as a delete and a create. Knows no type of a
 * column (types.ts).
 */
import { ABSENT, AFTER, BEFORE, eventSeconds, eventServerId } from '../../../change.ts'
import type { ImageSide, QueryChange, RowsChange, Transaction } from '../../../change.ts'
import type { Constant, Out } from '../../../out.ts'
import type { SinkBatch } from '../../shape/batch.ts'
import type { SinkRow, TargetTable } from '../../shape/row.ts'
import type { SinkStatement } from '../../sink.ts'
import {
  gtidText,
  fixed,
  threadOf,
  type Encoder,
  type Format,
  type FormatContext,
  type RowEncoder,
} from '../format.ts'
import { debeziumColumn, type DebeziumColumn } from './types.ts'

export const debezium: Format = {
  name: 'debezium',
  summary: "Debezium's envelope as JSON without schemas (schemas.enable=false)",
  contentType: 'application/json',
  splitsKeys: true,
  statementsApart: true,
  open: (context) => new DebeziumEncoder(context, false),
}
export const debeziumSchema: Format = {
  name: 'debezium-schema',
  summary: "Debezium's envelope as JSON with the Kafka Connect schema in every message",
  contentType: 'application/json',
  splitsKeys: true,
  statementsApart: true,
  open: (context) => new DebeziumEncoder(context, true),
}

const VERSION = 'sluice'

class DebeziumEncoder implements Encoder {
  readonly #name: string
  readonly #schemas: boolean
  readonly #clock = { now: 0 }
  constructor({ instance, options }: FormatContext, schemas: boolean) {
    this.#name = options.source ?? instance
    this.#schemas = schemas
  }
  start(_batch: SinkBatch, now: number): void {
    this.#clock.now = now
  }
  table(table: TargetTable): RowEncoder {
    return new DebeziumTable(table, this.#name, this.#schemas, this.#clock)
  }
  /** What Debezium writes to its schema change topic; with schemas there is none. */
  statement({ tx, change }: SinkStatement, now: number, out: Out): boolean {
    if (change.kind !== 'ddl' || this.#schemas) return false
    const { database, table, sql } = change
    out.ascii('{"source":')
    out.constant(sourceHead(this.#name))
    writeSource({ tx, change, row: 0, names: sourceNames(database, table), out })
    out.ascii(`,"ts_ms":${now},"databaseName":`)
    out.utf8(`${JSON.stringify(database)},"schemaName":null,"ddl":${JSON.stringify(sql)}`)
    out.ascii(',"tableChanges":[]}')
    return true
  }
}

const sourceHead = (name: string, before = ''): Constant =>
  fixed(
    `${before}{"version":"${VERSION}","connector":"mysql","name":${JSON.stringify(name)},"ts_ms":`,
  )
interface SourceNames {
  readonly database: Constant
  readonly table: Constant
}
const sourceNames = (database: string, table: string): SourceNames => ({
  database: fixed(`","db":${JSON.stringify(database)},"sequence":null,"ts_us":`),
  table: fixed(`,"table":${JSON.stringify(table)},"server_id":`),
})
interface SourceFacts {
  readonly tx: Transaction
  readonly change: RowsChange | QueryChange
  readonly row: number
  readonly names: SourceNames
  readonly out: Out
}
/** The source block from the value of ts_ms on. */
function writeSource({ tx, change, row, names, out }: SourceFacts): void {
  const { event } = change
  const seconds = eventSeconds(event)
  out.int(seconds)
  out.ascii('000,"snapshot":"')
  out.ascii('snapshot' in change && change.snapshot ? 'true' : 'false')
  out.constant(names.database)
  out.int(seconds)
  out.ascii('000000,"ts_ns":')
  out.int(seconds)
  out.ascii('000000000')
  out.constant(names.table)
  out.int(eventServerId(event))
  out.ascii(tx.gtid ? `,"gtid":"${gtidText(tx)}","file":"` : ',"gtid":null,"file":"')
  out.ascii(tx.file)
  out.ascii('","pos":')
  out.int(event.offset)
  out.ascii(',"row":')
  out.int(row)
  const thread = threadOf(tx)
  out.ascii(`,"thread":${thread ?? 'null'},"query":null}`)
}

interface Member {
  readonly name: Constant
  readonly column: DebeziumColumn
}
const membersOf = (columns: readonly DebeziumColumn[]): Member[] =>
  columns.map((column) => ({
    name: fixed(`${JSON.stringify(column.target.name)}:`),
    column,
  }))
function writeMembers(members: readonly Member[], row: SinkRow, side: ImageSide, out: Out): void {
  let open = 0x7b
  for (const { name, column } of members) {
    if (row.state(side, column.target) === ABSENT) continue
    out.ensure(1)
    out.u8(open)
    open = 0x2c
    out.constant(name)
    column.write(row, side, out)
  }
  out.ascii(open === 0x7b ? '{}' : '}')
}

class DebeziumTable implements RowEncoder {
  readonly unit = 'row'
  readonly key: RowEncoder['key']
  readonly #members: readonly Member[]
  readonly #before: Constant // up to the value of `before`
  readonly #source: Constant // up to the source's ts_ms
  readonly #names: SourceNames
  readonly #end: Constant
  readonly #clock: { readonly now: number }
  constructor(table: TargetTable, name: string, schemas: boolean, clock: { readonly now: number }) {
    const { database, name: tableName } = table
    const columns = table.columns.map(debeziumColumn)
    const full = `${name}.${database}.${tableName}`
    this.#members = membersOf(columns)
    this.#clock = clock
    const schema = schemas
      ? `{"schema":${JSON.stringify(envelopeSchema(full, columns))},"payload":`
      : ''
    this.#before = fixed(`${schema}{"before":`)
    this.#source = sourceHead(name, ',"source":')
    this.#names = sourceNames(database, tableName)
    this.#end = fixed(schemas ? '}}' : '}')
    this.key = table.keys.length > 0 ? keyWriter(table, full, schemas) : undefined
  }
  value(row: SinkRow, out: Out): void {
    const { op, change } = row
    out.constant(this.#before)
    if (op === 'insert') out.ascii('null')
    else writeMembers(this.#members, row, BEFORE, out)
    out.ascii(',"after":')
    if (op === 'delete') out.ascii('null')
    else writeMembers(this.#members, row, AFTER, out)
    out.constant(this.#source)
    writeSource({ tx: row.tx, change, row: row.row, names: this.#names, out })
    out.ascii(',"transaction":null,"op":"')
    const read = change.snapshot && op === 'insert'
    out.ascii(read ? 'r' : op === 'insert' ? 'c' : op === 'update' ? 'u' : 'd')
    out.ascii('","ts_ms":')
    const { now } = this.#clock
    out.int(now)
    out.ascii(',"ts_us":')
    out.int(now)
    out.ascii('000,"ts_ns":')
    out.int(now)
    out.ascii('000000')
    out.constant(this.#end)
  }
}

function keyWriter(table: TargetTable, full: string, schemas: boolean): RowEncoder['key'] {
  const columns = table.keys.map(debeziumColumn)
  const fields = columns.map(({ schema }) => ({ ...schema, optional: false }))
  const schema = { type: 'struct', fields, optional: false, name: `${full}.Key` }
  const head = fixed(schemas ? `{"schema":${JSON.stringify(schema)},"payload":` : '')
  const members = membersOf(columns)
  return (row, side, out) => {
    out.constant(head)
    writeMembers(members, row, side, out)
    if (schemas) out.ascii('}')
  }
}

/** Kafka Connect's schema of the envelope. */
function envelopeSchema(full: string, columns: readonly DebeziumColumn[]): object {
  const field = (type: string, name: string, optional: boolean): object => ({
    type,
    optional,
    field: name,
  })
  const image = (name: string): object => ({
    type: 'struct',
    fields: columns.map(({ schema }) => schema),
    optional: true,
    name: `${full}.Value`,
    field: name,
  })
  const snapshot = {
    type: 'string',
    optional: true,
    name: 'io.debezium.data.Enum',
    version: 1,
    parameters: {
      allowed: 'true,first,first_in_data_collection,last_in_data_collection,last,false,incremental',
    },
    default: 'false',
    field: 'snapshot',
  }
  const source = [
    ...['version', 'connector', 'name'].map((name) => field('string', name, false)),
    field('int64', 'ts_ms', false),
    snapshot,
    field('string', 'db', false),
    field('string', 'sequence', true),
    field('int64', 'ts_us', true),
    field('int64', 'ts_ns', true),
    field('string', 'table', true),
    field('int64', 'server_id', false),
    field('string', 'gtid', true),
    field('string', 'file', false),
    field('int64', 'pos', false),
    field('int32', 'row', false),
    field('int64', 'thread', true),
    field('string', 'query', true),
  ]
  const transaction = [
    field('string', 'id', false),
    field('int64', 'total_order', false),
    field('int64', 'data_collection_order', false),
  ]
  const struct = (fields: object[], optional: boolean, name: string, version?: number): object => ({
    type: 'struct',
    fields,
    optional,
    name,
    ...(version && { version }),
  })
  return struct(
    [
      image('before'),
      image('after'),
      { ...struct(source, false, 'io.debezium.connector.mysql.Source'), field: 'source' },
      { ...struct(transaction, true, 'event.block', 1), field: 'transaction' },
      field('string', 'op', false),
      field('int64', 'ts_ms', true),
      field('int64', 'ts_us', true),
      field('int64', 'ts_ns', true),
    ],
    false,
    `${full}.Envelope`,
    2,
  )
}
