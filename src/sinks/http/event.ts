/**
 * A change as a CloudEvent 1.0, with the attributes that formats/cloudevents.ts gives it and two more. The data is the plain form
 * of the change (shape/plain.ts).
 *
 *   id             the change's id; "-old" behind it for the delete that an update of the key begins with
 *   source         /sluice/INSTANCE
 *   type           sluice.DATABASE.TABLE.insert | update | delete | ddl
 *   subject        DATABASE.TABLE/KEY
 *   partitionkey   the same: events with the same one come in order
 *   time           of the transaction
 *   sluiceversion  the version: of two events with one key, which is the newer
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
  readonly sluiceversion: string
}
export interface CloudEvent {
  readonly attributes: Attributes
  readonly data: Buffer
}

interface Facts {
  readonly id: string
  readonly type: string
  readonly key: string
  readonly ms: number
  readonly version: string
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
    const { op, version, tx, table } = row
    const id = row.keyChanged && op === 'delete' ? `${row.id}-old` : row.id
    const type = `sluice.${table.database}.${table.name}.${op}`
    const attributes = this.#attributes({ id, type, key, ms: tx.timestamp, version })
    return { attributes, data: this.#data((out) => this.#plain.row(row, out)) }
  }
  statement(statement: SinkStatement): CloudEvent {
    const { id, version, tx, change } = statement
    const key = change.table === '' ? change.database : `${change.database}.${change.table}`
    const type = `sluice.${key}.ddl`
    const attributes = this.#attributes({ id, type, key, ms: tx.timestamp, version })
    return { attributes, data: this.#data((out) => this.#plain.statement(statement, out)) }
  }

  #attributes({ id, type, key, ms, version }: Facts): Attributes {
    const time = new Date(ms).toISOString()
    const source = this.#source
    return { id, source, type, subject: key, time, partitionkey: key, sluiceversion: version }
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
