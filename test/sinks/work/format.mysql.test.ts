/** Rows as messages of the format `sluice` and back: every column type, both images, versions, ids and keys are the same. */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { AFTER, BEFORE, type ImageSide, type RowsChange } from '../../../src/change.ts'
import { Out } from '../../../src/out.ts'
import { formatOptions } from '../../../src/sinks/formats/format.ts'
import { MessageWriter, type Message } from '../../../src/sinks/formats/messages.ts'
import { RowReading, sluice } from '../../../src/sinks/formats/sluice.ts'
import { SinkBatch } from '../../../src/sinks/shape/batch.ts'
import { compileMapping } from '../../../src/sinks/shape/mapping.ts'
import { plainTarget, type SinkRow } from '../../../src/sinks/shape/row.ts'
import { ruleSchema } from '../../../src/sinks/runner/options.ts'
import { NOWHERE } from '../../../src/sinks/work/writer.ts'
import { type MysqlServer, sharedMysql, uniqueDatabase, versions } from '../../support/mysql.ts'
import * as types from '../../binlog/types.ts'
import type { TypeSpec } from '../../binlog/types.ts'
import { feed } from '../logged.ts'

const ROWS = 30

function messages(batch: SinkBatch): Message<object>[] {
  const place = {}
  const writer = new MessageWriter({
    format: sluice,
    context: { instance: 'shop', server: '', options: formatOptions.parse({}) },
    route: () => place,
    headers: false,
    tombstones: false,
    chunkBytes: 1 << 16,
  })
  return [...writer.chunks(batch)].flatMap((chunk) => chunk.messages)
}
const out = new Out(64)
/** Everything that a sink can ask of a row. */
function told(row: SinkRow): object {
  const text = (side: ImageSide, index: number, kind: 'text' | 'utc'): string | undefined => {
    if (row.reader.state(side, index) !== 2) return undefined
    out.reset()
    row.reader[kind](side, index, out)
    return out.buf.toString('hex', 0, out.at)
  }
  const cells = (side: ImageSide): unknown[] =>
    row.table.columns.map(({ column }) => [
      row.reader.state(side, column!.index),
      row.reader.value(side, column!.index),
      text(side, column!.index, 'text'),
      text(side, column!.index, 'utc'),
    ])
  const { version, id, op, table, tx } = row
  const { text: _t, value: _v, utc: _u, ...plain } = table.columns[1]!.column!
  return {
    version,
    id,
    op,
    table: `${table.database}.${table.name}`,
    column: plain,
    gtid: tx.gtid,
    timestamp: tx.timestamp,
    before: op === 'insert' ? 'none' : cells(BEFORE),
    after: op === 'delete' ? 'none' : cells(AFTER),
    changed:
      op === 'update' && table.columns.map(({ column }) => row.reader.changed(column!.index)),
  }
}
function tell(batch: SinkBatch, split: boolean): object[] {
  const all: object[] = []
  for (const row of batch.rows(split)) all.push(told(row))
  return all
}
function comeBack(sent: readonly Message<object>[], split: boolean): object[] {
  const reading = new RowReading()
  const known = new Map<object, ReturnType<typeof plainTarget>>()
  const slices = sent.map(({ value }) => {
    const { tx, change, instance } = reading.read(value!.toString())
    expect(instance).toBe('shop')
    return { tx, changes: [change] as RowsChange[] }
  })
  const target: SinkBatch['facts']['target'] = (table) => {
    const found = known.get(table) ?? plainTarget(table)
    known.set(table, found)
    return found
  }
  const facts = { slices, start: NOWHERE, end: NOWHERE, highest: '', redelivered: true, target }
  const all = tell(new SinkBatch(facts), split)
  expect(known.size).toBe(1) // the table is one object
  return all
}

describe.each(versions)('MySQL %s', (version) => {
  let mysql: MysqlServer
  const database = uniqueDatabase('workformat')
  beforeAll(async () => {
    mysql = await sharedMysql(version)
    await mysql.query(`CREATE DATABASE ${database}`)
  })
  afterAll(async () => {
    await mysql.query(`DROP DATABASE ${database}`)
    await mysql[Symbol.asyncDispose]()
  })

  async function roundTrip(name: string, specs: readonly TypeSpec[]): Promise<void> {
    const seed = Date.now()
    const nullable = specs.map((s) => fc.option(s.values, { nil: 'NULL', freq: 8 }))
    const rows = fc.sample(fc.tuple(...nullable), { numRuns: ROWS, seed })
    const columns = specs.map((s, i) => `c${i} ${s.sql} NULL`)
    const session = `SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00', NAMES utf8mb4`
    const create = `CREATE TABLE ${name} (id INT PRIMARY KEY, ${columns.join(', ')})`
    const inserts = rows.map((row, id) => `INSERT INTO ${name} VALUES (${[id, ...row].join(', ')})`)
    const list = specs.map((_, i) => `c${i} = NULL`).join(', ')
    const rest = [`UPDATE ${name} SET id = id + 1000`, `UPDATE ${name} SET ${list}`]
    const all = [session, create, ...inserts, ...rest, `DELETE FROM ${name}`]
    const { batch } = await feed(mysql, database, all.join('; '))
    const sent = messages(batch)
    const moved = `seed ${seed}`
    expect(comeBack(sent, true), moved).toEqual(tell(batch, true))
    const halves = sent.filter(({ value }) => value!.includes('"half":"delete"'))
    const updates = tell(batch, false).slice(ROWS, 2 * ROWS)
    expect(comeBack(halves, false), moved).toEqual(updates)
    const others = sent.filter(({ value }) => value!.includes('"half":"insert"'))
    expect(comeBack(others, false), moved).toEqual(updates)
    const key = (id: number): string => JSON.stringify([`${database}.${name}`, String(id)])
    expect(sent.slice(ROWS, ROWS + 2).map((m) => m.key!.toString())).toEqual([key(0), key(1000)])
  }

  it('numbers', () => roundTrip('numbers', types.numbers))
  it('dates and times', () => roundTrip('temporals', types.temporals))
  it('strings, enums and sets', () => roundTrip('strings', types.strings))
  it('JSON and geometry', () => roundTrip('documents', types.documents))
  it('character sets', () =>
    roundTrip('sets', types.charsetColumns(['latin1', 'gbk', 'sjis', 'utf8mb3', 'utf16'])))
  if (version === '9.7') it('vectors', () => roundTrip('vectors', [types.vector]))

  it('partial images stay partial', async () => {
    const sql = `CREATE TABLE p (id INT PRIMARY KEY, a INT, b TEXT); SET binlog_row_image = MINIMAL;
      INSERT INTO p VALUES (1, 1, 'x'); UPDATE p SET a = 2; DELETE FROM p`
    const { batch } = await feed(mysql, database, sql)
    const sent = messages(batch)
    expect(comeBack(sent, true)).toEqual(tell(batch, true))
    const keys = sent.map(({ key }) => key!.toString())
    expect(keys).toEqual(Array(3).fill(`["${database}.p","1"]`))
  })
  it('refuses a mapping that it would lose, and what it has not written', async () => {
    const { batch } = await feed(
      mysql,
      database,
      'CREATE TABLE m (id INT PRIMARY KEY, a INT); INSERT INTO m VALUES (1, 1)',
    )
    const mapped = (rule: object): SinkBatch =>
      new SinkBatch({
        ...batch.facts,
        target: compileMapping([ruleSchema.parse({ match: '.*\\..*', ...rule })], 'sinks.k'),
      })
    expect(() => messages(mapped({ mask: { a: 'redact' } }))).toThrow(
      /expected no rule of the sink's tables/,
    )
    expect(() => messages(mapped({ columns: { exclude: ['a'] } }))).toThrow(/as it is in the log/)
    expect(messages(mapped({ key: ['a'] }))[0]!.key!.toString()).toBe(`["${database}.m","1"]`)
    const reading = new RowReading()
    expect(() => reading.read('{"data":[]}')).toThrow(
      'expected a message of format sluice, got "{\\"data\\":[]}"',
    )
    const text = messages(batch)[0]!.value!.toString()
    expect(() => reading.read(text.replace('"v":1', '"v":2'))).toThrow(
      'expected version 1 of format sluice, got 2',
    )
    expect(() => reading.read(text.replace('"after":[', '"after":[0,'))).toThrow(
      /as many cells as columns/,
    )
  })
})
