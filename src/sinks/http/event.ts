/**
 * A change as a CloudEvent 1.0. The data is the plain form of the change (shape/plain.ts); the attributes say what a router needs:
 *
 *   id            the change's id; "-delete" or "-insert" behind it for the two halves of an update of the key
 *   source        /sluice/INSTANCE
 *   type          sluice.row.insert | sluice.row.update | sluice.row.delete | sluice.statement
 *   subject       database.table/key
 *   time          of the transaction
 *   partitionkey  database.table/key: events with the same one come in order
 *   sequence      the version: the order of all events of a source, and of the two events with one key the newer
 */
import { Out } from '../../out.ts'
import { keyText, PlainWriter } from '../shape/plain.ts'
import type { JsonOptions } from '../shape/json.ts'
import type { SinkRow } from '../shape/row.ts'
import type { SinkStatement } from '../sink.ts'

export interface Attributes {
  readonly id: string
  readonly source: string
  readonly type: string
  readonly subject: string
  readonly time: string
  readonly partitionkey: string
  readonly sequence: string
}
export interface CloudEvent {
  readonly attributes: Attributes
  readonly data: Buffer
}

const SPEC = '1.0'

/** Rows with the same answer are one after the other in the target. */
export function orderKey(row: SinkRow): string {
  return `${row.table.database}.${row.table.name}/${keyText(row)}`
}

export class EventWriter {
  readonly #plain: PlainWriter
  readonly #source: string
  #out = new Out(16 * 1024)
  constructor(instance: string, options: JsonOptions) {
    this.#plain = new PlainWriter(options)
    this.#source = `/sluice/${encodeURIComponent(instance)}`
  }
  row(row: SinkRow): CloudEvent {
    const key = orderKey(row)
    const half = row.keyChanged && row.op !== 'update'
    const id = half ? `${row.id}-${row.op}` : row.id
    const { op, version } = row
    const attributes = this.#attributes(id, `sluice.row.${op}`, key, row.tx.timestamp, version)
    return { attributes, data: this.#data((out) => this.#plain.row(row, out)) }
  }
  statement(statement: SinkStatement): CloudEvent {
    const { database, table } = statement.change
    const subject = table === '' ? database : `${database}.${table}`
    const { id, version } = statement
    const { timestamp } = statement.tx
    const attributes = this.#attributes(id, 'sluice.statement', subject, timestamp, version)
    return { attributes, data: this.#data((out) => this.#plain.statement(statement, out)) }
  }

  // oxlint-disable-next-line max-params
  #attributes(id: string, type: string, key: string, ms: number, sequence: string): Attributes {
    const time = new Date(ms).toISOString()
    return { id, source: this.#source, type, subject: key, time, partitionkey: key, sequence }
  }
  #data(write: (out: Out) => void): Buffer {
    if (this.#out.buf.length > 4 * 1024 * 1024) this.#out = new Out(16 * 1024)
    this.#out.reset()
    write(this.#out)
    return Buffer.from(this.#out.buf.subarray(0, this.#out.at))
  }
}

/** One event as JSON: the attributes, then the data. */
export function structured({ attributes, data }: CloudEvent): Buffer {
  const head = { specversion: SPEC, ...attributes, datacontenttype: 'application/json' }
  const text = JSON.stringify(head)
  return Buffer.concat([Buffer.from(`${text.slice(0, -1)},"data":`), data, Buffer.from('}')])
}
export function batched(events: readonly CloudEvent[]): Buffer {
  const parts: Buffer[] = []
  for (const event of events) {
    parts.push(Buffer.from(parts.length === 0 ? '[' : ','), structured(event))
  }
  return Buffer.concat([...parts, Buffer.from(']')])
}
/** The attributes as headers of binary mode. */
export function headersOf({ attributes }: CloudEvent): Record<string, string> {
  const headers: Record<string, string> = { 'ce-specversion': SPEC }
  for (const [name, value] of Object.entries(attributes)) headers[`ce-${name}`] = headerText(value)
  return headers
}
/** What a header cannot hold is percent-encoded, as the HTTP binding of CloudEvents says. */
export function headerText(value: string): string {
  return value.replace(/[^\x21-\x7e]|["%]/gu, (c) =>
    Array.from(Buffer.from(c), (b) => `%${b.toString(16).toUpperCase().padStart(2, '0')}`).join(''),
  )
}
