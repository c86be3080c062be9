/**
 * Rows that are read from a table equal those that the log has of them, for every type and character set: state, text, text
 * in UTC and value; and pieces by keys of every kind hold every row once, in any order the server has.
 */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parseTimeZone } from '../../src/binlog/time.ts'
import { Catalog } from '../../src/catalog/catalog.ts'
import { AFTER, PRESENT, type RowsChange } from '../../src/change.ts'
import { compileColumns } from '../../src/filter.ts'
import { BinaryConnection } from '../../src/mysql/binary.ts'
import { Out } from '../../src/out.ts'
import {
  changesOf,
  readChunk,
  SNAPSHOT_SESSION,
  type Chunk,
} from '../../src/sources/snapshot/chunk.ts'
import { planTable, type KeyPlace } from '../../src/sources/snapshot/plan.ts'
import { capture } from '../binlog/capture.ts'
import { writeRandom } from '../binlog/round-trip.ts'
import * as types from '../binlog/types.ts'
import type { TypeSpec } from '../binlog/types.ts'
import { type MysqlServer, sharedMysql, uniqueDatabase, versions } from '../support/mysql.ts'

const connectTo = ({ host, port, user, password }: MysqlServer) => ({
  host,
  port,
  user,
  password,
  connectTimeoutMs: 10_000,
  tls: { mode: 'disabled' as const },
})
const catalogOf = (server: MysqlServer, zone: string): Catalog =>
  new Catalog({
    query: (sql, params) => server.query(sql, params),
    timeZone: parseTimeZone(zone),
    columns: compileColumns({ include: '', exclude: '' }),
    log: { warn: () => {} },
  })

interface Size {
  readonly rows: number
  readonly bytes: number
}
/** Every piece of a table, one after the other. */
async function readTable(
  server: MysqlServer,
  name: readonly [database: string, table: string],
  { zone, size }: { readonly zone: string; readonly size: Size },
): Promise<Chunk[]> {
  const found = await catalogOf(server, zone).current(...name)
  const plan = planTable(found!)
  const connection = await BinaryConnection.open(connectTo(server), SNAPSHOT_SESSION)
  const chunks: Chunk[] = []
  try {
    let after: KeyPlace
    for (;;) {
      const chunk = await readChunk(connection, { plan, after, ...size, lock: true, serverId: 7 })
      chunks.push(chunk)
      after = chunk.after
      if (chunk.last) return chunks
    }
  } finally {
    connection.close()
  }
}

/** Everything a reader says of each row, in order. */
function shown(changes: readonly RowsChange[]): unknown[][] {
  const out = new Out(256)
  const text = (write: () => void): string => {
    out.reset()
    write()
    return out.buf.toString('latin1', 0, out.at)
  }
  const rows: unknown[][] = []
  for (const change of changes)
    for (const reader = change.reader(); reader.next();)
      rows.push(
        change.table.columns.map(({ index }) => {
          const state = reader.state(AFTER, index)
          if (state !== PRESENT) return state
          const value = reader.value(AFTER, index)
          return {
            value: value instanceof Uint8Array ? Buffer.from(value).toString('hex') : value,
            text: text(() => reader.text(AFTER, index, out)),
            utc: text(() => reader.utc(AFTER, index, out)),
          }
        }),
      )
  return rows
}
const rowsOf = (chunks: readonly Chunk[]): RowsChange[] =>
  chunks.flatMap((chunk) => changesOf(chunk, { offset: 4, firstRow: 0 }, undefined))

describe.each(versions)('a snapshot of MySQL %s', (version) => {
  let server: MysqlServer
  const database = uniqueDatabase('snapshot')
  let tables = 0
  beforeAll(async () => {
    server = await sharedMysql(version)
    await server.query(`CREATE DATABASE ${database}`)
  })
  afterAll(async () => {
    await server.query(`DROP DATABASE IF EXISTS ${database}`)
    await server[Symbol.asyncDispose]()
  })

  async function roundTrip(
    specs: readonly TypeSpec[],
    count: number,
    { zone = '+00:00', ignoreText = false } = {},
  ): Promise<void> {
    const what = { capture, server, database, specs, count, zone }
    const { table, seed, rows, changes } = await writeRandom(what)
    const size = { rows: 70, bytes: 1 << 20 }
    const chunks = await readTable(server, [database, table], { zone, size })
    const read = rowsOf(chunks)
    const streamed = changes.filter((c) => c.table.name === table)
    const [ours, theirs] = [shown(read), shown(streamed)]
    expect(ours.length, `seed ${seed}`).toBe(count)
    const named = (rowsChanges: readonly RowsChange[]) =>
      rowsChanges[0]!.table.columns.map((c) => [c.name, c.type, c.meta, c.key, c.nullable])
    expect(named(read)).toEqual(named(streamed))
    for (const [r, row] of theirs.entries())
      for (const [c, cell] of row.entries()) {
        const where = `seed ${seed}, ${specs[c - 1]?.sql ?? 'id'}, row ${r}: ${rows[r]![c - 1] ?? r}`
        const mine = ours[r]![c]
        if (ignoreText && typeof cell === 'object')
          expect((mine as { value: unknown }).value, where).toEqual(
            (cell as { value: unknown }).value,
          )
        else expect(mine, where).toEqual(cell)
      }
  }

  it('numbers', () => roundTrip(types.numbers, 200))
  it('dates and times', () => roundTrip(types.temporals, 200))
  it('dates and times in another zone', () => roundTrip(types.temporals, 60, { zone: '-03:30' }))
  it('strings, enums and sets', () => roundTrip(types.strings, 150))
  it('geometry', () => roundTrip(types.documents.slice(1), 60))
  it('JSON as MySQL shows it', () =>
    roundTrip(types.documents.slice(0, 1), 200, { ignoreText: true }))
  it("JSON in Canal's form, where it came as text", () => {
    const values = fc
      .jsonValue({ stringUnit: 'binary', maxDepth: 4 })
      .map((v) => `CAST(_utf8mb4 X'${Buffer.from(JSON.stringify(v)).toString('hex')}' AS JSON)`)
    return roundTrip([{ ...types.documents[0]!, values }], 200)
  })
  if (version === '9.7') it('vectors', () => roundTrip([types.vector], 30))
  it('pieces by any key hold every row once', async () => {
    if (version !== versions[0]) return
    const all = [...types.numbers, ...types.temporals, ...types.strings]
    const specs = all.filter((s) => !/TEXT|BLOB/.test(s.sql) && !s.sql.includes("'m63'"))
    const seed = Date.now()
    for (const spec of [...specs, ...types.charsetColumns(['gbk', 'sjis', 'utf16', 'latin7'])]) {
      if (spec.sql.startsWith('TEXT')) continue
      const table = `k${tables++}`
      const values = fc.sample(spec.values, { numRuns: 14, seed })
      const type = spec.sql.replace(/ NULL$/, '')
      const db = await server.connect()
      try {
        await db.query(
          `USE ${database}; SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'`,
        )
        const collation = type.includes('utf8mb4') ? ' COLLATE utf8mb4_unicode_ci' : ''
        await db.query(
          `CREATE TABLE ${table} (n INT NOT NULL, v ${type}${collation} NOT NULL, PRIMARY KEY (v, n))`,
        )
        const tuples = values.map((v, n) => `(${n}, ${v})`)
        await db.query(`INSERT INTO ${table} VALUES ${tuples.join(', ')}`)
      } finally {
        await db.end()
      }
      const size = { rows: 3, bytes: 1 << 20 }
      const chunks = await readTable(server, [database, table], { zone: '+00:00', size })
      const read = rowsOf(chunks).flatMap((c) => [...c.rows()].map((row) => row.after![0]))
      const where = `seed ${seed}, ${type}: ${values.join(' | ')}`
      expect(chunks.length, where).toBe(5)
      expect(
        read.toSorted((a, b) => Number(a) - Number(b)),
        where,
      ).toEqual(values.map((_, n) => n))
    }
  })
  it('every character set', async () => {
    const sets = await server.query<{ name: string }>(
      `SELECT CHARACTER_SET_NAME AS name FROM information_schema.CHARACTER_SETS WHERE CHARACTER_SET_NAME <> 'binary'`,
    )
    for (let i = 0; i < sets.length; i += 14)
      await roundTrip(types.charsetColumns(sets.slice(i, i + 14).map((s) => s.name)), 40)
  })
})
