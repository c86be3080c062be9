/**
 * SQL targets: tables of every type that the sink has written are equal; a seeded difference of each kind is found, in the
 * first and the last row, under keys of several columns, of texts in any case, bytes and dates, and is shown with both values.
 */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import * as types from '../binlog/types.ts'
import type { TypeSpec } from '../binlog/types.ts'
import { SluiceError } from '../../src/errors.ts'
import { kinds, openTarget, type Kind, type Target } from '../sinks/sql/targets.ts'
import { sharedMysql, uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import { configOf, Pair } from './rig.ts'

let server: MysqlServer
const database = uniqueDatabase('verify')
beforeAll(async () => {
  server = await sharedMysql('9.7')
  await server.query(`CREATE DATABASE ${database}`)
})
afterAll(async () => {
  await server.query(`DROP DATABASE IF EXISTS ${database}`)
  await server[Symbol.asyncDispose]()
})

describe.each(kinds)('%s', (kind) => {
  let target: Target
  beforeAll(async () => {
    target = await openTarget(kind)
  })
  afterAll(() => target[Symbol.asyncDispose]())
  const options = (more: object = {}): object => ({
    type: 'sql',
    url: target.url,
    table: '{table}',
    createTables: true,
    ddl: 'ignore',
    ...more,
  })

  it('finds every type equal', async () => {
    const pair = await Pair.start(
      server,
      database,
      options({ filter: { include: `${database}\\.all_${kind}.*` } }),
    )
    await fill(kind)
    await pair.write()
    const report = await pair.verify()
    expect(report.tables.map((t) => t.why)).toEqual(report.tables.map(() => ''))
    expect(report).toMatchObject({ result: 'equal', differences: [] })
    expect(report.tables.map((t) => [t.rows, t.keys])).toEqual(report.tables.map(() => [60, 60]))
    expect(report.tables.length).toBe(4)
    await pair.close()
  })

  it('finds what is missing, extra and different, in the first and the last row', async () => {
    const name = `people_${kind}`
    const pair = await Pair.start(
      server,
      database,
      options({
        filter: { include: `${database}\\.${name}` },
        tables: [
          { match: `${database}\\.${name}`, rename: { note: 'remark' }, mask: { secret: 'hash' } },
        ],
      }),
    )
    await server.query(
      `CREATE TABLE ${database}.${name} (id BIGINT UNSIGNED PRIMARY KEY, note VARCHAR(40), n DECIMAL(10,2), secret VARCHAR(20))`,
    )
    const rows = Array.from(
      { length: 300 },
      (_, i) => `(${i + 1}, 'note ${i + 1}', ${i}.5, 's${i}')`,
    )
    await server.query(`INSERT INTO ${database}.${name} VALUES ${rows.join(', ')}`)
    await pair.write()
    expect((await pair.verify()).result).toBe('equal')
    for (const sql of [
      `DELETE FROM ${name} WHERE id IN (1, 150)`,
      `UPDATE ${name} SET remark = NULL WHERE id = 300`,
      `UPDATE ${name} SET secret = 'in clear' WHERE id = 7`,
      `UPDATE ${name} SET remark = 'Note 9' WHERE id = 9`,
      `INSERT INTO ${name} (id, remark, n) VALUES (0, 'before', 1), (18446744073709551615, NULL, NULL)`,
    ])
      await target.query(sql)
    const report = await pair.verify()
    expect(report.result).toBe('different')
    expect(report.tables).toMatchObject([{ rows: 300, missing: 2, extra: 2, different: 3 }])
    const told = report.differences.map(({ kind: what, key, expected, found }) => ({
      what,
      ...key,
      expected,
      found,
    }))
    expect(told).toEqual(
      expect.arrayContaining([
        {
          what: 'missing',
          id: '1',
          expected: expect.objectContaining({ remark: 'note 1', n: '0.50' }),
          found: undefined,
        },
        { what: 'different', id: '300', expected: { remark: 'note 300' }, found: { remark: null } },
        { what: 'different', id: '9', expected: { remark: 'note 9' }, found: { remark: 'Note 9' } },
        {
          what: 'different',
          id: '7',
          expected: { secret: expect.stringMatching(/^[0-9a-f]{64}$/) },
          found: { secret: '(masked)' },
        },
        {
          what: 'extra',
          id: '0',
          expected: undefined,
          found: expect.objectContaining({ remark: 'before' }),
        },
        {
          what: 'extra',
          id: '18446744073709551615',
          expected: undefined,
          found: expect.objectContaining({ remark: null }),
        },
      ]),
    )
    const few = await pair.verify({ shownMax: 2 })
    expect([few.differences.length, few.tables[0]!.missing]).toEqual([2, 2])
    await pair.close()
  })

  it('reports what it has when it is interrupted, within its rate', async () => {
    const name = `slow_${kind}`
    const pair = await Pair.start(
      server,
      database,
      options({ filter: { include: `${database}\\.${name}` } }),
    )
    await server.query(`CREATE TABLE ${database}.${name} (id INT PRIMARY KEY)`)
    const rows = Array.from({ length: 1000 }, (_, i) => `(${i})`)
    await server.query(`INSERT INTO ${database}.${name} VALUES ${rows.join(', ')}`)
    await pair.write()
    const stop = new AbortController()
    // a second has fifty rows: the next ones would come a second later
    const report = await pair.verify({
      rowsPerSecond: 50,
      signal: stop.signal,
      onProgress: () => stop.abort(),
    })
    expect(report).toMatchObject({ result: 'incomplete', interrupted: true })
    expect(report.tables).toMatchObject([{ rows: 50, keys: 0, why: 'interrupted' }])
    await pair.close()
  })

  it('raises no alarm behind a sink that stands still, and says what it cannot reach', async () => {
    const name = `held_${kind}`
    const pair = await Pair.start(
      server,
      database,
      options({ filter: { include: `${database}\\.${name}` } }),
    )
    await server.query(`CREATE TABLE ${database}.${name} (id INT PRIMARY KEY, v INT)`)
    await server.query(`INSERT INTO ${database}.${name} VALUES (1, 1), (2, 2)`)
    await pair.write()
    await target.query(`UPDATE ${name} SET v = 7 WHERE id = 2`)
    const behind = await pair.verify({
      passed: () => Promise.reject(new SluiceError('SINK_UNAVAILABLE', 'it stands still')),
    })
    expect(behind).toMatchObject({ result: 'incomplete', tables: [{ different: 0, unsettled: 1 }] })
    await target.query(`DROP TABLE ${name}`)
    expect((await pair.verify()).tables).toMatchObject([{ why: '', rows: 2, missing: 2 }])
    await pair.close()
    const away = configOf(options({ url: target.url.replace(/:\d+\//, ':1/') }))
    await expect(pair.verify({ sink: away })).rejects.toThrow(/ECONNREFUSED|connect/)
  })

  it('tells values apart that the target calls equal: case, spaces, NULL, -0', async () => {
    const name = `alike_${kind}`
    const pair = await Pair.start(
      server,
      database,
      options({ filter: { include: `${database}\\.${name}` } }),
    )
    await server.query(
      `CREATE TABLE ${database}.${name} (id INT PRIMARY KEY, v VARCHAR(9) COLLATE utf8mb4_general_ci, d DOUBLE)`,
    )
    const rows = Array.from({ length: 6 }, (_, i) => `(${i}, 'abc', 0)`)
    await server.query(`INSERT INTO ${database}.${name} VALUES ${rows.join(', ')}, (6, '', 0)`)
    await pair.write()
    expect(await pair.verify()).toMatchObject({ result: 'equal' })
    const zero = kind === 'postgres' ? "'-0'" : '-0.0e0'
    for (const [id, set] of [`v = 'ABC'`, `v = 'abc '`, `v = NULL`, `d = ${zero}`].entries())
      await target.query(`UPDATE ${name} SET ${set} WHERE id = ${id}`)
    await target.query(`UPDATE ${name} SET v = NULL WHERE id = 6`)
    const { differences } = await pair.verify()
    expect(differences.map(({ kind: what, key }) => `${what} ${key['id']}`)).toEqual(
      // MariaDB makes 0 of the literal
      [0, 1, 2, ...(kind === 'mariadb' ? [] : [3]), 6].map((id) => `different ${id}`),
    )
    await pair.close()
  })

  it('tells keys apart: several columns, texts in any case, bytes, dates', async () => {
    const keyed = (n: number): string => `keyed${n}_${kind}`
    const specs = [
      ['a INT, b VARCHAR(20) COLLATE utf8mb4_0900_ai_ci', ["1, 'x:1'", "1, 'X:2'", "2, ''''"]],
      ['a VARCHAR(30) COLLATE utf8mb4_0900_ai_ci', ["'straße'", "'Äpfel'", "'b\\\\'", "'日本'"]],
      ['a VARBINARY(8)', ["x'00ff'", "x'27'", "x'5c'"]],
      [
        "a DATETIME(3), b ENUM('b', 'a')",
        ["'2024-02-29 12:00:00.120', 'a'", "'2024-02-29 12:00:00.120', 'b'"],
      ],
      ['a TIMESTAMP(2), b YEAR', ["'2024-02-29 12:00:00.10', 2024", "'2024-02-29 12:00:01', 2024"]],
      ['a DECIMAL(30,10), b DATE', ["'123456789.0000000001', '2024-01-01'", "'-1', '2024-01-02'"]],
    ] as const
    const pair = await Pair.start(
      server,
      database,
      options({ filter: { include: `${database}\\.keyed._${kind}` } }),
    )
    for (const [i, [columns, keys]] of specs.entries()) {
      const names = [...columns.matchAll(/(?:^|, )([ab]) /g)].map(([, name]) => name).join(', ')
      await server.query(
        `CREATE TABLE ${database}.${keyed(i)} (${columns}, v INT, PRIMARY KEY (${names}))`,
      )
      await server.query(
        `INSERT INTO ${database}.${keyed(i)} VALUES ${keys.map((key, v) => `(${key}, ${v})`).join(', ')}`,
      )
    }
    await pair.write()
    expect(await pair.verify()).toMatchObject({ result: 'equal', differences: [] })
    for (const i of specs.keys()) await target.query(`DELETE FROM ${keyed(i)} WHERE v = 0`)
    // the same row for the source, another one here
    await target.query(`INSERT INTO ${keyed(1)} (a, v) VALUES ('ÄPFEL', 1)`)
    await target.query(`UPDATE ${keyed(0)} SET b = 'x:2' WHERE v = 1`)
    const report = await pair.verify()
    const counts = report.tables.map(({ missing, extra, different }) => [missing, extra, different])
    expect(counts.slice(1)).toEqual([
      [1, 1, 0],
      [1, 0, 0],
      [1, 0, 0],
      [1, 0, 0],
      [1, 0, 0],
    ])
    // where the target takes both for one key, it is the key that differs
    expect(counts[0]).toEqual([2, 1, 0])
    await pair.close()
  })
})

it('counts a row that the target cannot hold apart, and finds the others beside it', async () => {
  await using target = await openTarget('postgres')
  const pair = await Pair.start(server, database, {
    type: 'sql',
    url: target.url,
    table: '{table}',
    filter: { include: `${database}\\.nul` },
  })
  await server.query(`CREATE TABLE ${database}.nul (id INT PRIMARY KEY, v VARCHAR(9))`)
  await server.query(`INSERT INTO ${database}.nul VALUES (1, 'a'), (2, x'610062'), (3, 'c')`)
  await target.query(
    `CREATE TABLE nul (id integer PRIMARY KEY, v varchar(9)); INSERT INTO nul VALUES (1, 'a')`,
  )
  const report = await pair.verify()
  expect(report).toMatchObject({ result: 'different', tables: [{ missing: 1, refused: 1 }] })
  expect(report.differences).toMatchObject([{ kind: 'missing', key: { id: '3' } }])
  await pair.close()
})

/** Tables of all types, 60 rows each. */
async function fill(kind: Kind): Promise<void> {
  const [json, ...geometries] = types.documents
  const plain = fc
    .jsonValue({ stringUnit: 'grapheme-ascii', maxDepth: 3 })
    .map((v) => `CAST(_utf8mb4 X'${Buffer.from(JSON.stringify(v)).toString('hex')}' AS JSON)`)
  const groups: (readonly TypeSpec[])[] = [
    types.numbers,
    types.temporals,
    types.strings,
    [kind === 'mysql' ? { ...json!, values: plain } : json!, ...geometries, types.vector],
  ]
  const source = await server.connect({ database })
  await source.query("SET sql_mode='ALLOW_INVALID_DATES', time_zone='+00:00', NAMES utf8mb4")
  for (const [n, specs] of groups.entries()) {
    const table = `all_${kind}_${n}`
    const columns = specs.map((s, i) => `c${i} ${s.sql}`)
    await source.query(`CREATE TABLE ${table} (id INT PRIMARY KEY, ${columns.join(', ')})`)
    const values = specs.map((s) =>
      kind === 'postgres' && /^(CHAR|VARCHAR|\w*TEXT)/.test(s.sql)
        ? s.values.map((v) => `REPLACE(${v}, _utf8mb4 X'00', '')`)
        : s.values,
    )
    const rows = fc.sample(fc.tuple(...values.map((v) => fc.option(v, { nil: 'NULL', freq: 8 }))), {
      numRuns: 60,
    })
    await source.query(
      `INSERT INTO ${table} VALUES ${rows.map((row, i) => `(${[i, ...row].join(', ')})`).join(', ')}`,
    )
  }
  await source.end()
}
