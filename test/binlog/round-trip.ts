/**
 * Random rows of given column types, written to a real server, read by whoever captures them, and compared with what
 * SELECT returns: value by value, and Canal's text where SQL can print that form.
 */
import fc from 'fast-check'
import { expect } from 'vitest'
import { parseTimeZone } from '../../src/binlog/time.ts'
import { AFTER, PRESENT, type RowsChange } from '../../src/change.ts'
import { Out } from '../../src/out.ts'
import { transactionOf } from '../server/changes.ts'
import { bothWays } from '../server/quick.ts'
import { flatMessages, plainLines } from '../sinks/lines.ts'
import type { MysqlServer } from '../support/mysql.ts'
import type { CaptureOptions, Captured } from './capture.ts'
import type { TypeSpec } from './types.ts'

export interface RoundTrip {
  readonly capture: (options: CaptureOptions) => Promise<Pick<Captured, 'changes'>>
  readonly server: MysqlServer
  readonly database: string
  readonly specs: readonly TypeSpec[]
  readonly count: number
  readonly zone?: string
  /** The table's, behind its columns: "ENGINE=MyISAM". */
  readonly tableOptions?: string
}

let tables = 0
const tx = transactionOf(123_456, [])

/** Writes `count` random rows of `specs`' types into a new table; returns them as SQL and as they were captured. */
export async function writeRandom({
  capture,
  server,
  database,
  specs,
  count,
  zone = '+00:00',
  tableOptions = '',
}: RoundTrip) {
  const table = `t${tables++}`
  const seed = Date.now()
  const nullable = specs.map((s) => fc.option(s.values, { nil: 'NULL', freq: 8 }))
  const rows = fc.sample(fc.tuple(...nullable), { numRuns: count, seed })
  const columns = specs.map((s, i) => `c${i} ${s.sql}`)
  const { changes } = await capture({
    server,
    database,
    zone: parseTimeZone(zone),
    write: async (db) => {
      await db.query(`SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '${zone}', NAMES utf8mb4`)
      await db.query(
        `CREATE TABLE ${table} (id INT PRIMARY KEY, ${columns.join(', ')}) ${tableOptions}`,
      )
      for (let i = 0; i < rows.length; i += 50) {
        const tuples = rows.slice(i, i + 50).map((row, k) => `(${[i + k, ...row].join(', ')})`)
        await db.query(`INSERT INTO ${table} VALUES ${tuples.join(', ')}`)
      }
    },
  })
  return { table, seed, rows, changes, zone }
}

/** Writes random rows and compares every decoded value with what SELECT returns. */
export async function roundTrip(what: RoundTrip): Promise<void> {
  const { server, database, specs, count } = what
  const { table, seed, rows, changes, zone } = await writeRandom(what)
  for (const change of changes) {
    const { usual, slow, quick } = bothWays(change)
    expect(usual === slow, `both ways, seed ${seed}`).toBe(true)
    expect(quick, `seed ${seed}`).toBe(change.event.length < 64 * 1024)
    const lines = plainLines(change, { tx })
    const flat = flatMessages(change, { tx })
    if (quick) expect(flat.quick, `FlatMessages, seed ${seed}`).toEqual(flat.slow)
    if (quick) expect(lines.quick, `lines, seed ${seed}`).toEqual(lines.slow)
  }
  const expected = await selected(server, `${database}.${table}`, specs, zone)
  const decoded = decodedRows(changes, specs)
  expect(decoded.size, `seed ${seed}`).toBe(count)
  for (const row of expected) {
    const ours = decoded.get(row.id)!
    for (const [i, spec] of specs.entries()) {
      const where = `seed ${seed}, ${spec.sql}, row ${row.id}: ${rows[row.id]![i]}`
      expect(ours.values[i], where).toBe(row.values[i])
      if (spec.text) expect(ours.texts[i], `text, ${where}`).toBe(row.texts[i])
    }
  }
}

interface Shown {
  readonly id: number
  readonly values: (string | null)[]
  readonly texts: (string | null)[]
}

async function selected(
  server: MysqlServer,
  table: string,
  specs: readonly TypeSpec[],
  zone: string,
) {
  const lists = specs.map(
    (s, i) => `${s.select(`c${i}`)} AS v${i}, ${s.text?.(`c${i}`) ?? 'NULL'} AS t${i}`,
  )
  const db = await server.connect()
  try {
    await db.query(`SET time_zone = '${zone}', NAMES utf8mb4`)
    const [rows] = await db.query(`SELECT id, ${lists.join(', ')} FROM ${table} ORDER BY id`)
    return (rows as Record<string, string | number | null>[]).map((row): Shown => {
      const pick = (kind: string): (string | null)[] =>
        specs.map((_, i) => row[`${kind}${i}`] as string | null)
      const values = pick('v').map((v, i) => (v === null ? null : (specs[i]!.read?.(v) ?? v)))
      return { id: Number(row['id']), values, texts: pick('t') }
    })
  } finally {
    await db.end()
  }
}

function decodedRows(
  changes: readonly RowsChange[],
  specs: readonly TypeSpec[],
): Map<number, Shown> {
  const out = new Out()
  const rows = new Map<number, Shown>()
  for (const change of changes) {
    const reader = change.reader()
    while (reader.next()) {
      const id = Number(reader.value(AFTER, 0))
      const values = specs.map((spec, i) => {
        const value = reader.value(AFTER, i + 1)
        return value === null ? null : spec.show(value!)
      })
      const texts = specs.map((_, i) => {
        if (reader.state(AFTER, i + 1) !== PRESENT) return null
        out.reset()
        reader.text(AFTER, i + 1, out)
        return out.buf.toString('utf8', 0, out.at)
      })
      rows.set(id, { id, values, texts })
    }
  }
  return rows
}
