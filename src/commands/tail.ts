/**
 * `sluice tail`: prints the changes of a source, from a source of its own. Touches no state and no cursor, needs no
 * running server. One line per row or statement, for eyes or as JSON.
 */
import type { Arguments } from '../cli.ts'
import type { Change, Column, Position, Row, RowsChange, Transaction, Value } from '../change.ts'
import { SluiceError } from '../errors.ts'
import { compileFilter } from '../filter.ts'
import { isoTime, isRows, jsonRow, jsonStatement } from '../shown.ts'
import type { SourceFacts } from '../sources/mysql.ts'
import { commandLogger, instanceConfig, openSource, painter, serverConfig } from './common.ts'
import type { Paint } from './common.ts'

/** Runs until SIGINT, SIGTERM or --limit. */
export async function tail(args: Arguments): Promise<number> {
  const destination = args.words[0]!
  const limit = args.number('limit') ?? Infinity
  const filter = compileFilter({ include: args.text('filter') })
  const config = instanceConfig(serverConfig(args), destination)
  using source = await openSource(config, commandLogger())
  const from = startOf(args.text('from') ?? 'latest', source.facts)
  const stop = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => stop.abort())
  const printer = args.flag('json') ? printJson : linePrinter(painter(process.stdout))
  let printed = 0
  for await (const tx of source.read(from, filter, stop.signal)) {
    try {
      for (const line of linesOf(tx, printer)) {
        process.stdout.write(`${line}\n`)
        if (++printed >= limit) return 0
      }
    } finally {
      tx.slab?.release()
    }
  }
  return 0
}

/** latest, earliest or file:offset. */
function startOf(text: string, facts: SourceFacts): Position {
  if (text === 'latest') return facts.latest
  if (text === 'earliest') return facts.earliest
  const match = /^(.+):(\d+)$/.exec(text)
  if (!match) {
    throw new SluiceError(
      'USAGE',
      `--from: expected latest, earliest or file:offset, found "${text}"`,
    )
  }
  return {
    ...facts.latest,
    file: match[1]!,
    offset: Number(match[2]),
    skip: 0,
    gtids: undefined,
    timestamp: 0,
  }
}

interface Printer {
  row(tx: Transaction, change: RowsChange, row: Row): string
  statement(tx: Transaction, change: Exclude<Change, RowsChange>): string | undefined
}
function* linesOf(tx: Transaction, printer: Printer): Generator<string> {
  for (const change of tx.changes) {
    if (isRows(change)) {
      for (const row of change.rows()) yield printer.row(tx, change, row)
    } else {
      const line = printer.statement(tx, change)
      if (line !== undefined) yield line
    }
  }
}

// ── JSON lines ───────────────────────────────────────────────────────────────

const printJson: Printer = {
  row: (tx, change, row) => JSON.stringify(jsonRow(tx, change, row)),
  statement: (tx, change) => {
    const shown = jsonStatement(tx, change)
    return shown && JSON.stringify(shown)
  },
}

// ── lines for people ─────────────────────────────────────────────────────────

const TEXT_MAX = 120
const TEXT_KEPT = 100

function shown(value: Value | undefined): string {
  if (value === null) return 'NULL'
  if (value === undefined) return '(absent)'
  if (typeof value === 'string') return JSON.stringify(shortened(value))
  if (value instanceof Uint8Array) return shortened(`0x${Buffer.from(value).toString('hex')}`)
  return typeof value === 'object' ? shortened(value.text) : String(value)
}
const shortened = (text: string): string =>
  text.length > TEXT_MAX ? `${text.slice(0, TEXT_KEPT)}… (${text.length})` : text

function linePrinter(paint: Paint): Printer {
  const kinds = {
    insert: paint.green('INSERT'),
    update: paint.yellow('UPDATE'),
    delete: paint.red('DELETE'),
  }
  const head = (tx: Transaction, change: Change): string =>
    paint.dim(`${isoTime(change).slice(0, 19)}Z ${tx.file}:${change.event.offset}`)
  const pair = (c: Column, v: Value | undefined): string => `${paint.blue(c.name)}=${shown(v)}`
  return {
    row: (tx, change, { before, after }) => {
      const { selected, database, name } = change.table
      const image = after ?? before ?? []
      const texts = selected.flatMap((c) => {
        const value = image[c.index]
        const was = before?.[c.index]
        if (change.kind !== 'update') return value === undefined ? [] : [pair(c, value)]
        if (value !== undefined && !same(was, value))
          return [`${paint.blue(c.name)}=${shown(was)} → ${shown(value)}`]
        return c.key ? [pair(c, was ?? value)] : []
      })
      return `${head(tx, change)} ${kinds[change.kind]} ${paint.bold(`${database}.${name}`)} ${texts.join(' ')}`
    },
    statement: (tx, change) => {
      if (!('sql' in change) || change.kind === 'annotation') return undefined
      return `${head(tx, change)} ${paint.magenta(change.type)} ${change.defaultDatabase}: ${change.sql.replace(/\s+/g, ' ')}`
    },
  }
}
function same(a: Value | undefined, b: Value | undefined): boolean {
  if (a instanceof Uint8Array && b instanceof Uint8Array) return Buffer.compare(a, b) === 0
  return a === b
}
