/**
 * A change as a CloudEvent 1.0, with the attributes that formats/cloudevents.ts gives it and two more. The data is the plain form
 * of the change (shape/plain.ts). Structured events are written as bytes, what a table's have in common compiled once.
 *
 *   id             the change's id; "-old" behind it for the delete that an update of the key begins with
 *   source         /sluice/INSTANCE
 *   type           sluice.DATABASE.TABLE.insert | update | delete | ddl
 *   subject        DATABASE.TABLE/KEY
 *   partitionkey   the same: events with the same one come in order
 *   time           of the transaction
 *   sluiceversion  the version: of two events with one key, which is the newer
 */
import { AFTER, BEFORE, PRESENT } from '../../change.ts'
import { fixed, Out, type Constant } from '../../out.ts'
import { writeLines, type Written } from '../lines/lines.ts'
import { compileLines, type Kind, type LinesProgram, type Steps } from '../lines/program.ts'
import { ID_SLOT, keySide, keyText, PlainWriter, plainSteps, VERSION_SLOT } from '../shape/plain.ts'
import { escapeJson, jsonValues, type JsonOptions } from '../shape/json.ts'
import type { SinkRow, TargetTable } from '../shape/row.ts'
import { RowNames } from '../shape/version.ts'
import { perTable, type SinkStatement } from '../sink.ts'

export interface Attributes {
  readonly id: string
  readonly source: string
  readonly type: string
  readonly subject: string
  readonly time: string
  readonly partitionkey: string
  readonly sluiceversion: string
}

interface Facts {
  readonly id: string
  readonly type: string
  readonly key: string
  readonly ms: number
  readonly version: string
}
/** What the events of a table have in common. */
interface TableEvents {
  readonly kinds: Readonly<Record<SinkRow['op'], Constant>> // from source up to the subject's value
  readonly subject: Constant // up to the key
  readonly seed: number // of the hashes of its keys
}

const SPEC = '1.0'
const QUOTE = 0x22
const HEAD_TEXT = `{"specversion":"${SPEC}","id":"`
const HEAD = fixed(HEAD_TEXT)
/** Where in a structured event its id begins. */
export const ID_AT = HEAD.length
const OLD = fixed('-old')
const VERSION_TEXT = ',"sluiceversion":"'
const VERSION = fixed(VERSION_TEXT)
const DATA_TEXT = '","datacontenttype":"application/json","data":'
const DATA = fixed(DATA_TEXT)
const END = fixed('}')

/** Rows with the same answer are one after the other in the target. */
function orderKey(row: SinkRow): string {
  return `${row.table.database}.${row.table.name}/${keyText(row)}`
}

export class EventWriter {
  readonly #plain: PlainWriter
  readonly #slots: readonly Out[]
  readonly #source: string
  readonly #names = new RowNames()
  readonly #table: (table: TargetTable) => TableEvents
  readonly #program: (table: TargetTable) => LinesProgram | undefined
  readonly #time = new Out(64) // what stands between subject and partitionkey
  #ms = NaN
  #second = NaN
  #upToSecond = ''
  constructor(instance: string, options: JsonOptions) {
    this.#plain = new PlainWriter(options)
    this.#slots = [...this.#plain.slots, this.#time]
    this.#source = `/sluice/${encodeURIComponent(instance)}`
    this.#table = perTable((table) => compile(table, this.#source))
    this.#program = perTable((table) =>
      compileLines(table, jsonValues(options), (steps, kind) =>
        eventSteps(steps, table, kind, this.#source),
      ),
    )
  }
  /**
   * All events of the row's change, a comma behind each, and hashes of their partitionkeys; undefined where they are to be
   * written one by one.
   */
  all(row: SinkRow): Written | undefined {
    const program = this.#program(row.table)
    if (program === undefined) return undefined
    if (row.tx.timestamp !== this.#ms) this.#newTime(row.tx.timestamp)
    this.#plain.see(row)
    return writeLines(row.change, program, this.#slots)
  }
  /** Writes the whole event; returns a hash of its partitionkey. */
  structured(row: SinkRow, out: Out): number {
    const { kinds, subject, seed } = this.#table(row.table)
    out.constant(HEAD)
    this.#names.id(row, out)
    if (row.keyChanged && row.op === 'delete') out.constant(OLD)
    out.constant(kinds[row.op])
    const at = out.at
    out.constant(subject)
    const keyAt = out.at
    writeKey(row, out)
    const hash = hashOf(seed, out, keyAt)
    escapeJson(out, keyAt)
    out.ensure(1)
    out.u8(QUOTE)
    const end = out.at
    if (row.tx.timestamp !== this.#ms) this.#newTime(row.tx.timestamp)
    out.append(this.#time)
    out.again(at, end, QUOTE)
    out.constant(VERSION)
    this.#names.version(row, out)
    out.constant(DATA)
    this.#plain.row(row, out)
    out.constant(END)
    return hash
  }
  attributes(row: SinkRow): Attributes {
    const { op, version, tx, table } = row
    const id = row.keyChanged && op === 'delete' ? `${row.id}-old` : row.id
    const type = `sluice.${table.database}.${table.name}.${op}`
    return this.#attributes({ id, type, key: orderKey(row), ms: tx.timestamp, version })
  }
  data(row: SinkRow, out: Out): void {
    this.#plain.row(row, out)
  }
  /** Writes the data, behind it answers the attributes. */
  statement(statement: SinkStatement, out: Out): Attributes {
    const { id, version, tx, change } = statement
    const key = change.table === '' ? change.database : `${change.database}.${change.table}`
    this.#plain.statement(statement, out)
    return this.#attributes({ id, type: `sluice.${key}.ddl`, key, ms: tx.timestamp, version })
  }
  structuredStatement(statement: SinkStatement, out: Out): void {
    const data = new Out(1024)
    const head = { specversion: SPEC, ...this.statement(statement, data) }
    const text = JSON.stringify({ ...head, datacontenttype: 'application/json' })
    out.utf8(`${text.slice(0, -1)},"data":`)
    out.append(data)
    out.constant(END)
  }

  #attributes({ id, type, key, ms, version }: Facts): Attributes {
    const time = new Date(ms).toISOString()
    const source = this.#source
    return { id, source, type, subject: key, time, partitionkey: key, sluiceversion: version }
  }
  #newTime(ms: number): void {
    this.#ms = ms
    const second = Math.floor(ms / 1000)
    if (second !== this.#second) {
      this.#second = second
      this.#upToSecond = `,"time":"${new Date(second * 1000).toISOString().slice(0, -'000Z'.length)}`
    }
    this.#time.reset()
    this.#time.ascii(this.#upToSecond)
    this.#time.ascii(String(1000 + ms - second * 1000).slice(1))
    this.#time.ascii('Z","partitionkey":')
  }
}

const TIME_SLOT = 3
/** The same as EventWriter.structured, as steps; where the key was updated there are two events, so that goes the other way. */
function eventSteps(steps: Steps, table: TargetTable, kind: Kind, source: string): void {
  const subject = subjectOf(table)
  if (kind === 'update') steps.same(table.keys)
  steps
    .literal(HEAD_TEXT)
    .slot(ID_SLOT)
    .number()
    .literal(aboutText(table, kind, source))
  steps.open().literal(JSON.stringify(subject).slice(0, -1))
  steps.key(table.keys, kind === 'delete' ? BEFORE : AFTER, hashText(subject))
  steps.literal('"').shut().slot(TIME_SLOT).again()
  steps.literal(VERSION_TEXT).slot(VERSION_SLOT).hex().literal(DATA_TEXT)
  plainSteps(steps, table, kind)
  steps.literal('},')
}
const subjectOf = ({ database, name }: TargetTable): string => `${database}.${name}/`
const aboutText = ({ database, name }: TargetTable, op: SinkRow['op'], source: string): string =>
  `","source":${JSON.stringify(source)},"type":${JSON.stringify(`sluice.${database}.${name}.${op}`)},"subject":`

function compile(table: TargetTable, source: string): TableEvents {
  const kind = (op: SinkRow['op']): Constant => fixed(aboutText(table, op, source))
  const subject = subjectOf(table)
  return {
    kinds: { insert: kind('insert'), update: kind('update'), delete: kind('delete') },
    subject: fixed(JSON.stringify(subject).slice(0, -1)),
    seed: hashText(subject),
  }
}
/** As keyText. */
function writeKey(row: SinkRow, out: Out): void {
  const side = keySide(row)
  const from = out.at
  for (const key of row.table.keys) {
    out.ensure(1)
    if (out.at > from) out.u8(0x3a)
    if (row.state(side, key) === PRESENT) row.text(side, key, out)
  }
}
const SEED = 0x811c9dc5
/** FNV-1a of what was written since `from`. */
function hashOf(seed: number, out: Out, from: number): number {
  const { buf, at } = out
  let hash = seed
  for (let i = from; i < at; i++) hash = Math.imul(hash ^ buf[i]!, 0x01000193)
  return hash
}

export function hashText(text: string): number {
  const out = new Out(text.length * 3)
  out.utf8(text)
  return hashOf(SEED, out, 0)
}

/** The attributes as headers of binary mode. */
export function headersOf(attributes: Attributes): Record<string, string> {
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
