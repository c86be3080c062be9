/**
 * Every column type with random values: what the target returns equals what the source returns, in tables that the sink
 * made. On MySQL and MariaDB the same expressions are asked of both; PostgreSQL's texts are compared by the table of
 * types in docs/sinks/sql.md.
 */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { sharedMysql, uniqueDatabase, type MysqlServer } from '../../support/mysql.ts'
import * as types from '../../binlog/types.ts'
import type { TypeSpec } from '../../binlog/types.ts'
import { contextOf, drive, Log } from './log.ts'
import { kinds, openTarget, postgresForm, type Kind, type Target } from './targets.ts'

let server: MysqlServer
const database = uniqueDatabase('sqltypes')
beforeAll(async () => {
  server = await sharedMysql('9.7')
  await server.query(`CREATE DATABASE ${database}`)
})
afterAll(async () => {
  await server.query(`DROP DATABASE IF EXISTS ${database}`)
  await server[Symbol.asyncDispose]()
})

describe.each(kinds)('%s gets exact values:', (kind) => {
  let target: Target
  beforeAll(async () => {
    target = await openTarget(kind)
  })
  afterAll(() => target[Symbol.asyncDispose]())

  it('numbers', () => roundTrip(target, types.numbers))
  it('dates and times', () => roundTrip(target, types.temporals))
  it('dates and times, the instance in a zone with summer time', () =>
    roundTrip(target, types.temporals, 'Europe/Berlin'))
  it('strings, enums and sets', () => roundTrip(target, types.strings))
  it('JSON and geometry', () => roundTrip(target, [...documents(kind)]))
  it('vectors', () => roundTrip(target, [types.vector]))
})

/** MySQL's own JSON has types that JSON text has not: DECIMAL, dates, bits. They become what their text says. */
function* documents(kind: Kind): Iterable<TypeSpec> {
  const [json, ...geometries] = types.documents
  const plain = fc
    .jsonValue({ stringUnit: 'grapheme-ascii', maxDepth: 3 })
    .map((v) => `CAST(_utf8mb4 X'${Buffer.from(JSON.stringify(v)).toString('hex')}' AS JSON)`)
  yield kind === 'mysql' ? { ...json!, values: plain } : json!
  yield* geometries
}

let tables = 0

async function roundTrip(target: Target, all: readonly TypeSpec[], zone = 'UTC'): Promise<void> {
  const table = `t${tables++}`
  const seed = Date.now()
  const specs = all.map((spec) => (target.kind === 'postgres' ? withoutZero(spec) : spec))
  const rows = fc.sample(
    fc.tuple(...specs.map((s) => fc.option(s.values, { nil: 'NULL', freq: 8 }))),
    { numRuns: 150, seed },
  )
  const log = await Log.start(server, database, { timeZone: zone, rowsMax: 60 })
  const source = await server.connect({ database })
  await source.query("SET sql_mode='ALLOW_INVALID_DATES', time_zone='+00:00', NAMES utf8mb4")
  const columns = specs.map((s, i) => `c${i} ${s.sql}`)
  await source.query(`CREATE TABLE ${table} (id INT PRIMARY KEY, ${columns.join(', ')})`)
  for (let i = 0; i < rows.length; i += 50) {
    const tuples = rows.slice(i, i + 50).map((row, k) => `(${[i + k, ...row].join(', ')})`)
    await source.query(`INSERT INTO ${table} VALUES ${tuples.join(', ')}`)
  }
  const shown = (spec: TypeSpec, i: number): string => `${spec.select(`c${i}`)} AS c${i}`
  const select = `SELECT id, ${specs.map(shown).join(', ')} FROM ${table} ORDER BY id`
  const [expected] = (await source.query(select)) as unknown as [Record<string, string | null>[]]
  await source.end()

  const sink = await target.open(contextOf(log.position, table), { ddl: 'ignore' })
  await drive(sink, await log.read())
  await sink.close()
  const theirs = await read(target, table, specs, select)
  expect(theirs.length).toBe(rows.length)
  for (const [n, row] of expected.entries())
    for (const [i, spec] of specs.entries()) {
      const where = `seed ${seed}, ${spec.sql}, row ${n}: ${rows[n]![i]}`
      const value = row[`c${i}`]!
      const wanted = value === null ? null : (spec.read?.(value) ?? value)
      const found = theirs[n]![`c${i}`] as string | null
      if (target.kind !== 'postgres') {
        // MariaDB's JSON, with which doubles are printed, has no -0
        const plain = target.kind === 'mariadb' && wanted === '-0' ? '0' : wanted
        expect(found === null ? null : (spec.read?.(found) ?? found), where).toBe(plain)
      } else expect(postgresText(spec, found), where).toBe(postgresWanted(spec, wanted))
    }
}

function read(target: Target, table: string, specs: readonly TypeSpec[], select: string) {
  if (target.kind === 'mysql') return target.query(select)
  if (target.kind === 'postgres') {
    const texts = specs.map((_, i) => `c${i}::text AS c${i}`)
    return target.query(`SELECT id, ${texts.join(', ')} FROM ${table} ORDER BY id`)
  }
  return target.query(select)
}

// ── PostgreSQL's texts ───────────────────────────────────────────────────────

const isText = (sql: string): boolean => /^(CHAR|VARCHAR|\w*TEXT)/.test(sql)
const withoutZero = (spec: TypeSpec): TypeSpec =>
  isText(spec.sql)
    ? { ...spec, values: spec.values.map((v) => `REPLACE(${v}, _utf8mb4 X'00', '')`) }
    : spec

function postgresText({ sql }: TypeSpec, text: string | null): string | null {
  if (text === null) return null
  return isText(sql) ? Buffer.from(text).toString('hex').toUpperCase() : postgresForm(sql, text)
}
/** Dates that do not exist are NULL. */
function postgresWanted({ sql }: TypeSpec, text: string | null): string | null {
  if (text !== null && /^(DATE|TIMESTAMP)/.test(sql) && /-00/.test(text.slice(0, 10))) return null
  return text
}
