/**
 * Maxwell's JSON: one message per row.
 *
 *   {"database","table","type":"insert|update|delete","ts","xid","commit":true | "xoffset","data":{…},"old":{…}}
 *
 * `old` has the columns that an update changed. `ts` is in seconds. A transaction so big that it travels in parts has no
 * `xid` in parts but the last; its `xoffset` counts on from the first row of each part. Numbers are numbers, DECIMAL too,
 * SET is a list, binary values are base64, dates and times are text as MySQL prints them.
 */
import { AFTER, BEFORE, eventSeconds, type ImageSide, type Transaction } from '../../change.ts'
import type { RowsChange } from '../../change.ts'
import type { Constant, Out } from '../../out.ts'
import { JsonObjectWriter, jsonWriter } from '../shape/json.ts'
import type { SinkRow, TargetTable } from '../shape/row.ts'
import { fixed, xidOf, type Encoder, type Format, type RowEncoder } from './format.ts'

export const maxwell: Format = {
  name: 'maxwell',
  summary: "Maxwell's JSON",
  contentType: 'application/json',
  splitsKeys: false,
  open: () => new MaxwellEncoder(),
}

/** Where in its transaction a row stands. */
class Place {
  #tx: Transaction | undefined
  #before = new Map<RowsChange, number>() // rows of the transaction before the event
  #rows = 0
  #closed = false
  xid: string | undefined
  offset(row: SinkRow): number {
    if (row.tx !== this.#tx) this.#look(row.tx)
    return (this.#before.get(row.change) ?? 0) + row.row
  }
  /** Whether it is the last row of a transaction that is committed. */
  isLast(offset: number): boolean {
    return this.#closed && offset === this.#rows - 1
  }
  #look(tx: Transaction): void {
    this.#tx = tx
    this.xid = xidOf(tx)
    this.#closed = tx.state === 'committed'
    this.#before.clear()
    this.#rows = 0
    for (const change of tx.changes) {
      if (change.kind !== 'insert' && change.kind !== 'update' && change.kind !== 'delete') continue
      this.#before.set(change, this.#rows)
      const reader = change.reader()
      while (reader.next()) this.#rows++
    }
  }
}

class MaxwellEncoder implements Encoder {
  readonly #place = new Place()
  start(): void {
    // nothing changes from write to write
  }
  table(table: TargetTable): RowEncoder {
    return new MaxwellTable(table, this.#place)
  }
  statement(): boolean {
    return false
  }
}

class MaxwellTable implements RowEncoder {
  readonly unit = 'row'
  readonly #place: Place
  readonly #image: JsonObjectWriter
  readonly #heads: Record<SinkRow['op'], Constant>
  readonly key: RowEncoder['key']
  constructor(table: TargetTable, place: Place) {
    this.#place = place
    this.#image = new JsonObjectWriter(table, { decimal: 'number' })
    const names = `"database":${JSON.stringify(table.database)},"table":${JSON.stringify(table.name)}`
    const head = (op: string): Constant => fixed(`{${names},"type":"${op}","ts":`)
    this.#heads = { insert: head('insert'), update: head('update'), delete: head('delete') }
    this.key = table.keys.length > 0 ? keyWriter(table, names) : undefined
  }
  value(row: SinkRow, out: Out): void {
    const place = this.#place
    const { op } = row
    out.constant(this.#heads[op])
    out.int(eventSeconds(row.change.event))
    const offset = place.offset(row)
    if (place.xid !== undefined) out.ascii(`,"xid":${place.xid}`)
    if (place.isLast(offset)) out.ascii(',"commit":true')
    else {
      out.ascii(',"xoffset":')
      out.int(offset)
    }
    out.ascii(',"data":')
    this.#image.write(row, op === 'delete' ? BEFORE : AFTER, out)
    if (op === 'update') {
      out.ascii(',"old":{')
      this.#old(row, out)
      out.ascii('}')
    }
    out.ascii('}')
  }
  #old(row: SinkRow, out: Out): void {
    this.#image.members(row, BEFORE, out, true)
  }
}

/** `{"database":"d","table":"t","pk.id":1}` */
function keyWriter(table: TargetTable, names: string): RowEncoder['key'] {
  const head = fixed(`{${names}`)
  const keys = table.keys.map((target) => ({
    name: fixed(`,${JSON.stringify(`pk.${target.name}`)}:`),
    write: jsonWriter(target, { decimal: 'number' }),
  }))
  return (row: SinkRow, side: ImageSide, out: Out) => {
    out.constant(head)
    for (const { name, write } of keys) {
      out.constant(name)
      write(row, side, out)
    }
    out.ascii('}')
  }
}
