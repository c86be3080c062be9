/**
 * Changes as JSON lines in a file, or on standard output. Append: every change is written at least once, in the order of
 * the log, and a write is confirmed when the file is on disk (standard output: when the kernel has it). A line is whole or
 * not there: what a crash or a full disk cut off is taken back before the next write.
 *
 * Two kinds of Lines, the same few calls: a file that rotates (file/rotating.ts), standard output (file/standard.ts).
 */
import { isAbsolute } from 'node:path'
import type * as z from 'zod'
import { SluiceError } from '../errors.ts'
import { Ahead, WRITES_MAX } from './file/ahead.ts'
import { FormattedLines } from './file/formatted.ts'
import type { Lines } from './file/lines.ts'
import { RotatingFile } from './file/rotating.ts'
import { StandardOutput } from './file/standard.ts'
import { bytes, duration, flag, integer, oneOf, section, text } from '../config/leaves.ts'
import { formatOptions } from './formats/format.ts'
import { formats } from './formats/index.ts'
import type { Written } from './lines/lines.ts'
import type { Out } from '../out.ts'
import { PlainWriter } from './shape/plain.ts'
import type { SinkBatch } from './shape/batch.ts'
import type { SinkRow } from './shape/row.ts'
import { defineSink, type RowFailure, type Sink, type SinkStatement } from './sink.ts'

const NEWLINE = 0x0a

/** Those whose messages are texts of one line. */
const lineFormats = ['canal-json', 'debezium', 'debezium-schema', 'cloudevents', 'maxwell'] as const

const options = section({
  path: text('an absolute path of a file, or "-" for standard output').describe(
    'The file to append to, an absolute path; "-": standard output',
  ),
  format: oneOf(['plain', ...lineFormats])
    .default('plain')
    .describe(
      'What one line holds; plain: everything Sluice knows of a change, as JSON; else a message as in Kafka topics',
    ),
  formatOptions: formatOptions
    .prefault({})
    .describe('Settings that some of the message formats know'),
  decimal: oneOf(['string', 'number'])
    .default('string')
    .describe('plain: DECIMAL as a string, or as a number with all its digits'),
  binary: oneOf(['base64', 'hex']).default('base64').describe('plain: how bytes are written'),
  statements: flag()
    .default(true)
    .describe('Also a line for each DDL statement and TRUNCATE, in its place'),
  lineBytesMax: bytes('1KiB', '1GiB')
    .optional()
    .describe('A row whose line is longer is refused (see onError); none: no limit'),
  rotate: section({
    bytes: bytes('0B', '1024GiB')
      .prefault('100MiB')
      .describe('A file that would grow beyond this is put aside; 0: never because of its size'),
    everyMs: duration('0s', '8784h')
      .prefault('0s')
      .describe(
        'A new file for each such span of time, counted from midnight UTC; 0: never because of time',
      ),
    gzip: flag().default(false).describe('Compress files that were put aside'),
    keep: integer('a number of files, 0 or more', 0, 1_000_000)
      .default(0)
      .describe('How many files put aside are kept, the oldest are removed; 0: all'),
  })
    .prefault({})
    .describe('When the file is put aside as path.000001, path.000002 and so on'),
})
type FileOptions = Readonly<z.output<typeof options>>

export const file = defineSink({
  type: 'file',
  summary: 'Appends changes as JSON lines to a file that it rotates, or to standard output',
  options,
  problems({ path, rotate }) {
    if (path === '-') return []
    const found: string[] = []
    if (!isAbsolute(path))
      found.push(`path: expected an absolute path, or "-" for standard output, found "${path}"`)
    if (path.endsWith('/')) found.push(`path: expected a file, found the folder "${path}"`)
    if (rotate.everyMs > 0 && rotate.everyMs < 1000)
      found.push(`rotate.everyMs: expected 0, or at least 1s, found ${rotate.everyMs} ms`)
    return found
  },
  async open(chosen, { log, instance, server }) {
    const lines =
      chosen.path === '-'
        ? StandardOutput.open()
        : await RotatingFile.open({ path: chosen.path, ...chosen.rotate, log })
    const { format, lineBytesMax } = chosen
    const context = { instance, server, options: chosen.formatOptions }
    const sink =
      format === 'plain'
        ? new FileSink(lines, chosen)
        : new FormattedLines(lines, formats[format], context, lineBytesMax)
    return chosen.statements ? sink : withoutStatements(sink)
  },
})

/** The runner asks whether there is a `statement`. */
function withoutStatements(sink: FileSink | FormattedLines): Sink {
  return {
    promise: sink.promise,
    splitsKeys: sink.splitsKeys,
    inFlight: sink.inFlight,
    write: (batch, signal) => sink.write(batch, signal),
    close: () => sink.close(),
  }
}

class FileSink implements Sink {
  readonly promise = 'append'
  /** A line says what happened: an update of the key stays one line, with both images. */
  readonly splitsKeys = false
  /** A line tells of the TRUNCATE. */
  readonly clears = true
  readonly inFlight = WRITES_MAX
  readonly #lines: Lines
  readonly #ahead: Ahead
  readonly #plain: PlainWriter
  readonly #lineBytesMax: number

  constructor(lines: Lines, { decimal, binary, lineBytesMax }: FileOptions) {
    this.#lines = lines
    this.#ahead = new Ahead(lines)
    this.#plain = new PlainWriter({ decimal, binary })
    this.#lineBytesMax = lineBytesMax ?? Infinity
  }

  async write(batch: SinkBatch, signal: AbortSignal): Promise<readonly RowFailure[]> {
    const failures: RowFailure[] = []
    await this.#ahead.run(signal, async (write) => {
      for (const row of batch.rows(false, (first) => this.#whole(first, write.out))) {
        if (row !== undefined) this.#line(row, write.out, failures)
        if (write.isFull) await write.full()
      }
    })
    return failures
  }
  /** All rows of a change at once. */
  #whole(first: SinkRow, out: Out): number {
    const written = this.#plain.lines(first)
    if (written === undefined) return -1
    if (this.#lineBytesMax < Infinity && longest(written) > this.#lineBytesMax) return -1
    out.bytes(written.memory, written.from, written.to)
    return written.rows
  }
  #line(row: SinkRow, out: Out, failures: RowFailure[]): void {
    const from = out.at
    this.#plain.row(row, out)
    out.ensure(1)
    out.u8(NEWLINE)
    const length = out.at - from
    if (length <= this.#lineBytesMax) return
    failures.push({ index: row.index, error: this.#tooLong(row, length), retryable: false })
    out.at = from
  }
  async statement(statement: SinkStatement, signal: AbortSignal): Promise<void> {
    await this.#ahead.run(signal, ({ out }) => {
      this.#plain.statement(statement, out)
      out.ascii('\n')
      return Promise.resolve()
    })
  }
  async close(): Promise<void> {
    await this.#lines.close()
  }

  #tooLong({ table, id }: SinkRow, length: number): SluiceError {
    const expected = `expected a line of at most ${this.#lineBytesMax} bytes (lineBytesMax)`
    return new SluiceError(
      'SINK_DATA',
      `${table.database}.${table.name} at ${id}: ${expected}, got ${length}`,
    )
  }
}

function longest({ rows, from, words, ends }: Written): number {
  let most = 0
  for (let i = 0, at = from; i < rows; i++) {
    const end = words[ends + i]!
    most = Math.max(most, end - at)
    at = end
  }
  return most
}
