/**
 * CloudEvents 1.0: one event per row. Structured mode has everything in one JSON document; binary mode has the data as the
 * value and the attributes as headers (`ce_…`, as the Kafka binding names them; an HTTP sink sends them as `ce-…`).
 *
 *   specversion 1.0 · id (stable over replays) · source /sluice/INSTANCE · type sluice.DATABASE.TABLE.insert|update|delete
 *   subject DATABASE.TABLE/KEY is not set: the key is the message's key · time of the change · datacontenttype
 *   sluiceversion: the version (docs of versions), an extension attribute
 *   data { "database", "table", "op", "before", "after" }    before of an insert and after of a delete are null
 */
import { AFTER, BEFORE, eventSeconds, type ImageSide } from '../../change.ts'
import type { Constant, Out } from '../../out.ts'
import { JsonObjectWriter } from '../shape/json.ts'
import type { SinkRow, TargetTable } from '../shape/row.ts'
import type { SinkStatement } from '../sink.ts'
import {
  fixed,
  type Encoder,
  type Format,
  type FormatContext,
  type Header,
  type RowEncoder,
} from './format.ts'

export const cloudevents: Format = {
  name: 'cloudevents',
  summary: 'CloudEvents 1.0 in structured mode: attributes and data in one JSON document',
  contentType: 'application/cloudevents+json; charset=UTF-8',
  splitsKeys: true,
  open: (context) => new CloudEncoder(context, false),
}
export const cloudeventsBinary: Format = {
  name: 'cloudevents-binary',
  summary: 'CloudEvents 1.0 in binary mode: the data as the value, attributes as ce_ headers',
  contentType: 'application/json',
  splitsKeys: true,
  open: (context) => new CloudEncoder(context, true),
}

const NAMES = {
  specversion: Buffer.from('ce_specversion'),
  id: Buffer.from('ce_id'),
  source: Buffer.from('ce_source'),
  type: Buffer.from('ce_type'),
  time: Buffer.from('ce_time'),
  version: Buffer.from('ce_sluiceversion'),
  contentType: Buffer.from('content-type'),
}
const JSON_TYPE = Buffer.from('application/json')
const SPEC = Buffer.from('1.0')
const isoTime = (seconds: number): string => new Date(seconds * 1000).toISOString()

class CloudEncoder implements Encoder {
  readonly #context: FormatContext
  readonly #binary: boolean
  readonly #source: string
  constructor(context: FormatContext, binary: boolean) {
    this.#context = context
    this.#binary = binary
    this.#source = context.options.source ?? `/sluice/${context.instance}`
  }
  start(): void {
    // nothing changes from write to write
  }
  table(table: TargetTable): RowEncoder {
    const { decimal } = this.#context.options
    return new CloudTable(table, { source: this.#source, binary: this.#binary, decimal })
  }
  statement({ change, id, version }: SinkStatement, _now: number, out: Out): boolean {
    if (change.kind !== 'ddl') return false
    const { database, table, sql, type } = change
    const data = { database, table, op: type.toLowerCase(), sql }
    const event = {
      specversion: '1.0',
      id,
      source: this.#source,
      type: `sluice.${database}.${table}.ddl`,
      time: isoTime(eventSeconds(change.event)),
      datacontenttype: 'application/json',
      sluiceversion: version,
      data,
    }
    // A statement is structured in both modes: readers tell by the content type
    out.utf8(JSON.stringify(event))
    return true
  }
}

interface CloudSettings {
  readonly source: string
  readonly binary: boolean
  readonly decimal: 'string' | 'number'
}
type Op = SinkRow['op']

class CloudTable implements RowEncoder {
  readonly unit = 'row'
  readonly #binary: boolean
  readonly #image: JsonObjectWriter
  readonly #keys: JsonObjectWriter | undefined
  readonly #heads: Record<Op, Constant> // up to the id's text
  readonly #middles: Record<Op, Constant> // from source to the time's text
  readonly #datas: Record<Op, Constant> // the data up to `before`'s value
  readonly #types: Record<Op, Buffer>
  readonly #source: Buffer
  #seconds = -1
  #time = ''
  #timeBytes = JSON_TYPE
  constructor(table: TargetTable, { source, binary, decimal }: CloudSettings) {
    const { database, name, keys } = table
    this.#binary = binary
    this.#image = new JsonObjectWriter(table, { decimal })
    this.#keys = keys.length > 0 ? new JsonObjectWriter(table, { decimal }, keys) : undefined
    const each = (text: (op: Op) => string): Record<Op, Constant> => ({
      insert: fixed(text('insert')),
      update: fixed(text('update')),
      delete: fixed(text('delete')),
    })
    const type = (op: Op): string => `sluice.${database}.${name}.${op}`
    this.#source = Buffer.from(source)
    this.#types = {
      insert: Buffer.from(type('insert')),
      update: Buffer.from(type('update')),
      delete: Buffer.from(type('delete')),
    }
    this.#heads = each(() => '{"specversion":"1.0","id":"')
    this.#middles = each(
      (op) =>
        `","source":${JSON.stringify(source)},"type":${JSON.stringify(type(op))},"datacontenttype":"application/json","time":"`,
    )
    this.#datas = each(
      (op) =>
        `{"database":${JSON.stringify(database)},"table":${JSON.stringify(name)},"op":"${op}","before":`,
    )
    this.key = this.#keys && ((row, side, out) => this.#keys!.write(row, side, out))
  }
  readonly key: RowEncoder['key']

  value(row: SinkRow, out: Out): void {
    if (this.#binary) return this.#data(row, out)
    const { op } = row
    out.constant(this.#heads[op])
    out.ascii(eventId(row))
    out.constant(this.#middles[op])
    this.#at(eventSeconds(row.change.event))
    out.ascii(this.#time)
    out.ascii('","sluiceversion":"')
    out.ascii(row.version)
    out.ascii('","data":')
    this.#data(row, out)
    out.ascii('}')
  }
  headers(row: SinkRow): readonly Header[] {
    if (!this.#binary) return STRUCTURED
    this.#at(eventSeconds(row.change.event))
    return [
      [NAMES.specversion, SPEC],
      [NAMES.id, Buffer.from(eventId(row), 'latin1')],
      [NAMES.source, this.#source],
      [NAMES.type, this.#types[row.op]],
      [NAMES.time, this.#timeBytes],
      [NAMES.version, Buffer.from(row.version, 'latin1')],
      [NAMES.contentType, JSON_TYPE],
    ]
  }
  #data(row: SinkRow, out: Out): void {
    const { op } = row
    out.constant(this.#datas[op])
    this.#side(row, BEFORE, op !== 'insert', out)
    out.ascii(',"after":')
    this.#side(row, AFTER, op !== 'delete', out)
    out.ascii('}')
  }
  #side(row: SinkRow, side: ImageSide, there: boolean, out: Out): void {
    if (there) this.#image.write(row, side, out)
    else out.ascii('null')
  }
  #at(seconds: number): void {
    if (seconds === this.#seconds) return
    this.#seconds = seconds
    this.#time = isoTime(seconds)
    this.#timeBytes = Buffer.from(this.#time)
  }
}

const STRUCTURED: readonly Header[] = [
  [NAMES.contentType, Buffer.from('application/cloudevents+json; charset=UTF-8')],
]

/** A split update of the key is two events: their ids differ. */
function eventId({ id, op, keyChanged }: SinkRow): string {
  return keyChanged && op === 'delete' ? `${id}-old` : id
}
