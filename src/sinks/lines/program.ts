/**
 * Rows as JSON, many at a time: what native/lines.ts must know to write the rows of a table, as a list of steps for each kind
 * of change. Each step is a text that is always the same and one thing behind it that is not. The layout stands there too.
 */
import { AFTER, BEFORE, type ImageSide, type RowsChange, type TextWriter } from '../../change.ts'
import { kinds, PROGRAM, PROGRAM_BYTES, type Program } from '../../server/rows/kernel.ts'
import type { ColumnJson } from '../shape/json.ts'
import type { TargetColumn, TargetTable } from '../shape/row.ts'

export type Kind = RowsChange['kind']
export interface LinesProgram extends Program {
  /** Where the steps for each kind begin and end in the kernel's memory. */
  readonly steps: Readonly<Record<Kind, { readonly from: number; readonly to: number }>>
}

const HEAD = 8
const RECORD = 24
const STEP = 48
const operations = {
  literal: 0,
  slot: 1,
  number: 2,
  hex: 3,
  value: 4,
  key: 5,
  mark: 6,
  escape: 7,
  open: 8,
  shut: 9,
  again: 10,
  same: 11,
  old: 12,
  object: 13,
  split: 14,
  java: 15,
} as const
const forms = { bare: 0, quoted: 1, escaped: 2 } as const

/** A step, its texts not placed yet. */
interface Step {
  readonly operation: number
  readonly a: number
  readonly b: number
  readonly prefix: string
  readonly otherwise: string
  readonly form: number
  readonly kind: number
  readonly meta: number
  readonly writer: number
}

const NOTHING = { a: 0, b: 0, otherwise: '', form: 0, kind: 0, meta: 0, writer: 0 }

/** How values are written. */
export interface Values {
  /** undefined for a value that the mapping makes. */
  readonly of: (column: TargetColumn) => ColumnJson | undefined
  /** JSON documents as Canal prints them; else as MySQL does. */
  readonly canal: boolean
}

/** Thrown for a table whose rows only the other way can write. */
class Unsuitable extends Error {}

/** What one row becomes, put down from its first byte to its last. */
export class Steps {
  readonly steps: Step[] = []
  readonly #writers: TextWriter[]
  readonly #of: Values['of']
  #text = '' // before the next step

  constructor(writers: TextWriter[], of: Values['of']) {
    this.#writers = writers
    this.#of = of
  }
  literal(text: string): this {
    this.#text += text
    return this
  }
  /** A text that is the same for all rows of an event, by its number in what `run` of lines.ts is given. */
  slot(number: number): this {
    return this.#add('slot', { a: number })
  }
  /** The row's number in its event. */
  number(): this {
    return this.#add('number')
  }
  /** The same, as in a version. */
  hex(): this {
    return this.#add('hex')
  }
  /** One image of the row as an object of these columns, as JsonObjectWriter writes it. */
  object(columns: readonly TargetColumn[], side: ImageSide): this {
    let comma: '{' | ',' = '{'
    for (const target of columns) {
      this.#value('value', target, side, comma)
      comma = ','
    }
    return this.literal(comma === '{' ? '{}' : '}')
  }
  /** The same of the before image, with those columns only that have changed in this row or one before it in the event. */
  old(columns: readonly TargetColumn[]): this {
    this.#add('mark')
    for (const target of columns) this.#value('old', target, BEFORE, ',')
    return this.#add('object')
  }
  /** What comes before it and what comes behind it are for different places. */
  split(): this {
    return this.#add('split')
  }
  /** XOR of String.hashCode, as in Java, of the columns' texts; rows with others than ASCII in them go the other way. */
  hash(columns: readonly TargetColumn[], side: ImageSide): this {
    for (const target of columns) {
      this.#add('mark').#part(target, side)
      this.#add('java')
    }
    return this
  }
  /** The text of the key, its columns joined by ":", with escapes; `seed` is that of its hash. */
  key(columns: readonly TargetColumn[], side: ImageSide, seed: number): this {
    this.#add('mark')
    for (const target of columns) this.#part(target, side)
    return this.#add('escape', { a: seed })
  }
  /** What is written between `open` and `shut` can be written once more. */
  open(): this {
    return this.#add('open')
  }
  shut(): this {
    return this.#add('shut')
  }
  again(): this {
    return this.#add('again')
  }
  /** Leaves events to the other way in which one of these columns was updated. */
  same(columns: readonly TargetColumn[]): this {
    for (const target of columns) {
      if (target.derived !== undefined) throw new Unsuitable()
      this.#add('same', { a: recordOf(target) })
    }
    return this
  }
  end(): readonly Step[] {
    if (this.#text !== '') this.#add('literal')
    return this.steps
  }

  #value(
    operation: 'value' | 'old',
    target: TargetColumn,
    side: ImageSide,
    before: '{' | ',',
  ): void {
    const name = `${before}${JSON.stringify(target.name)}:`
    const json = this.#of(target)
    if (json === undefined) throw new Unsuitable()
    const otherwise = `${this.#text}${name}null`
    const about = { a: recordOf(target), b: sideOf(side), otherwise, form: forms[json.form] }
    this.literal(json.form === 'bare' ? name : `${name}"`)
    this.#add(operation, { ...about, ...this.#written(target, json.kind ?? 'other', json.write) })
  }
  /** The text of a value of a key. */
  #part(target: TargetColumn, side: ImageSide): void {
    const { column, derived } = target
    if (column === undefined || derived !== undefined) throw new Unsuitable()
    const written = this.#written(target, column.form ?? 'other', column.text)
    this.#add('key', { a: recordOf(target), b: sideOf(side), ...written })
  }
  #written(
    { column }: TargetColumn,
    kind: keyof typeof kinds,
    write: TextWriter,
  ): Pick<Step, 'kind' | 'meta' | 'writer'> {
    const writer = this.#writers.push(write) - 1
    return { kind: kinds[kind], meta: column!.meta, writer }
  }
  #add(operation: keyof typeof operations, about: Partial<Step> = {}): this {
    const prefix = this.#text
    this.#text = ''
    this.steps.push({ ...NOTHING, ...about, prefix, operation: operations[operation] })
    return this
  }
}
/** Where a column's record is in the kernel's memory, and what of it is about which image. */
export const sideOf = (side: ImageSide): number => (side === AFTER ? 8 : 0)
export const recordOf = ({ column }: TargetColumn): number =>
  PROGRAM + HEAD + column!.index * RECORD

/** undefined: rows of this table go the other way, for the mapping makes values, or the table is too wide. */
export function compileLines(
  table: TargetTable,
  values: Values,
  build: (steps: Steps, kind: Kind) => void,
): LinesProgram | undefined {
  const writers: TextWriter[] = []
  const of = (kind: Kind): readonly Step[] => {
    const steps = new Steps(writers, values.of)
    build(steps, kind)
    return steps.end()
  }
  try {
    const lists = { insert: of('insert'), update: of('update'), delete: of('delete') }
    return assemble(table, lists, writers, values.canal)
  } catch (error) {
    if (error instanceof Unsuitable) return undefined
    throw error
  }
}

function assemble(
  { source }: TargetTable,
  lists: Readonly<Record<Kind, readonly Step[]>>,
  writers: readonly TextWriter[],
  canal: boolean,
): LinesProgram | undefined {
  const { columns } = source
  const all = [...lists.insert, ...lists.update, ...lists.delete]
  const fixed = Buffer.alloc(HEAD + columns.length * RECORD + all.length * STEP)
  fixed.writeInt32LE(columns.length, 0)
  fixed.writeInt32LE(canal ? 1 : 0, 4)
  for (const [i, { size }] of columns.entries()) fixed.writeInt32LE(size, HEAD + i * RECORD)
  const constants: Buffer[] = []
  const places = new Map<string, number>()
  let end = PROGRAM + fixed.length
  const put = (text: string, at: number): void => {
    const bytes = Buffer.from(text)
    let place = places.get(text)
    if (place === undefined) {
      const padded = Buffer.alloc((bytes.length + 7) & ~7)
      bytes.copy(padded)
      constants.push(padded)
      places.set(text, (place = end))
      end += padded.length
    }
    fixed.writeInt32LE(place, at)
    fixed.writeInt32LE(bytes.length, at + 4)
  }
  let at = HEAD + columns.length * RECORD
  const stepsOf = (list: readonly Step[]): { readonly from: number; readonly to: number } => {
    const from = PROGRAM + at
    for (const step of list) {
      const { operation, a, b, form, kind, meta, writer } = step
      for (const [i, v] of [operation, a, b].entries()) fixed.writeInt32LE(v | 0, at + i * 4)
      put(step.prefix, at + 12)
      put(step.otherwise, at + 20)
      for (const [i, v] of [form, kind, meta, writer].entries())
        fixed.writeInt32LE(v, at + 28 + i * 4)
      at += STEP
    }
    return { from, to: PROGRAM + at }
  }
  const steps = {
    insert: stepsOf(lists.insert),
    update: stepsOf(lists.update),
    delete: stepsOf(lists.delete),
  }
  const bytes = Buffer.concat([fixed, ...constants])
  return bytes.length > PROGRAM_BYTES ? undefined : { bytes, writers, steps }
}
