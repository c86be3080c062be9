/** Both ways of writing rows as JSON, for the file and for HTTP: all of an event at once (src/sinks/lines/), and row by row. */
import type { RowsChange, Table, Transaction } from '../../src/change.ts'
import { SluiceError } from '../../src/errors.ts'
import { Out } from '../../src/out.ts'
import { EventWriter } from '../../src/sinks/http/event.ts'
import type { Written } from '../../src/sinks/lines/lines.ts'
import { SinkBatch, type BatchFacts } from '../../src/sinks/shape/batch.ts'
import type { JsonOptions } from '../../src/sinks/shape/json.ts'
import { PlainWriter } from '../../src/sinks/shape/plain.ts'
import { plainTarget, type SinkRow, type TargetTable } from '../../src/sinks/shape/row.ts'

/** Each row, a character for a byte, with its hash; or the error. */
type Shown = readonly string[] | string
export interface BothLines {
  readonly slow: Shown
  /** undefined: refused. */
  readonly quick: Shown | undefined
}
export interface LinesOptions extends JsonOptions {
  readonly tx: Transaction
  readonly target?: (table: Table) => TargetTable
}

interface Way {
  readonly events: boolean // with a hash for each, and in halves where the key changes
  one(row: SinkRow, out: Out): number
  all(first: SinkRow): Written | undefined
}

export function plainLines(change: RowsChange, options: LinesOptions): BothLines {
  const writer = new PlainWriter(options)
  return both(change, options, {
    events: false,
    one(row, out) {
      writer.row(row, out)
      out.ascii('\n')
      return 0
    },
    all: (first) => writer.lines(first),
  })
}
export function eventLines(change: RowsChange, options: LinesOptions): BothLines {
  const writer = new EventWriter('shop "1"', options)
  return both(change, options, {
    events: true,
    one(row, out) {
      const hash = writer.structured(row, out)
      out.ascii(',')
      return hash
    },
    all: (first) => writer.all(first),
  })
}

function both(change: RowsChange, { tx, target = plainTarget }: LinesOptions, way: Way): BothLines {
  const position = { epoch: 1, server: '', file: tx.file, offset: 4, skip: 0, timestamp: 0 }
  const place = { ...position, gtids: undefined }
  const facts: BatchFacts = {
    slices: [{ tx, changes: [change] }],
    start: place,
    end: place,
    highest: '',
    redelivered: false,
    target,
  }
  let quick: string[] | undefined
  const walk = new SinkBatch(facts).rows(way.events, (first) => {
    const written = way.all(first)
    if (written === undefined) return -1
    quick = shown(written, way.events)
    return written.rows
  })
  const slow = caught(() => {
    const rows: string[] = []
    const out = new Out(64)
    for (const row of new SinkBatch(facts).rows(way.events)) {
      out.reset()
      const hash = way.one(row, out)
      rows.push(`${out.buf.toString('latin1', 0, out.at)} ${hash}`)
    }
    return rows
  })
  caught(() => {
    walk.next()
    return []
  })
  return { slow, quick }
}

function shown({ rows, memory, from, words, ends, ...of }: Written, hashed: boolean): string[] {
  return Array.from({ length: rows }, (_, i) => {
    const start = i === 0 ? from : words[ends + i - 1]!
    const hash = hashed ? words[of.hashes + i] : 0
    return `${memory.toString('latin1', start, words[ends + i])} ${hash}`
  })
}
function caught(work: () => string[]): Shown {
  try {
    return work()
  } catch (error) {
    if (!(error instanceof SluiceError)) throw error
    return `${error.code}: ${error.message}`
  }
}
