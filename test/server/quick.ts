/** The ways of writing rows: the quick one (src/server/rows/) and the one that knows everything (src/server/entry.ts). */
import type { RowsChange } from '../../src/change.ts'
import { SluiceError } from '../../src/errors.ts'
import { Out } from '../../src/out.ts'
import { EntryEncoder } from '../../src/server/entry.ts'
import { quickRows } from '../../src/server/rows/rowdata.ts'
import type { Span } from '../../src/server/rows/large.ts'

export interface BothWays {
  /** The entry in hexadecimal, or the error, when the quick way may be taken, and when it may not. */
  readonly usual: string
  readonly slow: string
  /** Whether the quick way took these rows. */
  readonly quick: boolean
}

export function bothWays(change: RowsChange): BothWays {
  const { kind, ordinal, event, table, tableId, snapshot } = change
  const slow: RowsChange = {
    kind,
    ordinal,
    event,
    table,
    tableId,
    snapshot,
    reader: () => change.reader(),
    rows: () => change.rows(),
  }
  return {
    usual: entryOf(change),
    slow: entryOf(slow),
    quick: quickRows(change, new Out(64)) >= 0,
  }
}

function entryOf(change: RowsChange): string {
  const out = new Out(64)
  try {
    new EntryEncoder({ gtid: false }).encode(change, out)
    return out.buf.toString('hex', 0, out.at)
  } catch (error) {
    if (!(error instanceof SluiceError)) throw error
    return `${error.code}: ${error.message}`
  }
}

/** The entry with huge values put where they belong, and how many of them there were. */
export function withSpans(change: RowsChange): { readonly entry: Buffer; readonly spans: number } {
  const out = new Out(64)
  const spans: Span[] = []
  new EntryEncoder({ gtid: false }).encode(change, out, spans)
  const parts: Buffer[] = []
  let from = 0
  for (const { at, bytes, form, length } of spans) {
    const text = form === 'utf8' ? bytes : Buffer.from(bytes.toString('latin1'))
    if (text.length !== length) throw new Error(`a span of ${length} bytes has ${text.length}`)
    parts.push(out.buf.subarray(from, at), text)
    from = at
  }
  return { entry: Buffer.concat([...parts, out.buf.subarray(from, out.at)]), spans: spans.length }
}
/** The entry in one piece. */
export function inOnePiece(change: RowsChange): Buffer {
  const out = new Out(64)
  new EntryEncoder({ gtid: false }).encode(change, out)
  return out.buf.subarray(0, out.at)
}
