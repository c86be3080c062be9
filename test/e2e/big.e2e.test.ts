/**
 * What is larger than the process may be: a transaction of hundreds of MiB (1 GiB in the long form), plain and
 * compressed, rows of 64 MiB, and rows of 1,000 columns. Each passes through whole and in order, under 300 MB of resident memory at
 * the highest, and the stream goes on behind it.
 */
import { crc32 } from 'node:zlib'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { connect } from '../../src/client.ts'
import type { RowsChange } from '../../src/client.ts'
import { privateMysql, versions, type MysqlServer } from '../support/mysql.ts'
import { Scenario } from './follow.ts'
import { fact, memoryOf, MIB, scaled, seed, TEST_MS } from './load.ts'

let mysql: MysqlServer
beforeAll(async () => {
  mysql = await privateMysql(versions[0]!, { args: ['--max-allowed-packet=1G'] })
  // The first start in a checkout also has the compiler of TypeScript in memory, which an installation never has.
  await using first = await Scenario.start({ mysql, seed, writers: 0 })
  await first.sluice.stop()
})
afterAll(() => mysql[Symbol.asyncDispose]())

/** What Sluice may take at the highest. */
const MEMORY_MB = 300

/** Half of it cannot be compressed. */
const PAD = `CONCAT(${Array.from({ length: 4 }, () => 'RANDOM_BYTES(1024)').join()}, REPEAT(RANDOM_BYTES(1024), 4))`
const PAD_BYTES = 8 * 1024

interface Big {
  readonly name: string
  readonly rows: number
  readonly pad: string
  readonly padBytes: number
  readonly compressed: boolean
}
const plain = { pad: PAD, padBytes: PAD_BYTES, compressed: false }
const cases: Big[] = [
  { ...plain, name: 'a plain transaction', rows: (scaled(256, 1024) * MIB) / PAD_BYTES },
  {
    ...plain,
    name: 'a compressed transaction',
    rows: (128 * MIB) / PAD_BYTES,
    compressed: true,
  },
]

test.each(cases)(
  '$name passes through',
  async ({ name, rows, pad, padBytes, compressed }) => {
    await using s = await Scenario.start({ mysql, seed, writers: 0 })
    const base = memoryOf(s.pid).rss
    await mysql.query(
      `CREATE TABLE ${s.database}.big (id INT PRIMARY KEY, pad LONGBLOB, crc INT UNSIGNED AS (CRC32(pad)) STORED)`,
    )
    await using writer = await mysql.connect({ database: s.database })
    await writer.query(
      `SET SESSION cte_max_recursion_depth = ${rows + 1}, binlog_transaction_compression = ${compressed ? 'ON' : 'OFF'}`,
    )
    const writing = writer.query(
      `INSERT INTO big (id, pad) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${rows})
       SELECT i, ${pad} FROM n;
       SET SESSION binlog_transaction_compression = OFF;
       UPDATE big SET pad = '' WHERE id = 1`,
    )
    await s.run(async () => {
      await using client = await connect({ destination: 'load', port: s.port, silenceMs: 120_000 })
      const seen: string[] = []
      let next = 1
      for await (const batch of client.batches()) {
        for (const change of batch.changes) {
          if (change.kind === 'rows') {
            if (change.type === 'insert') next = checked(change, next, padBytes)
            if (seen.at(-1) !== change.type) seen.push(change.type)
          } else if (change.kind !== 'ddl') seen.push(change.kind)
        }
        await batch.ack()
        if (seen.filter((kind) => kind === 'commit').length === 2) break
      }
      await writing
      expect(next).toBe(rows + 1)
      expect(seen).toEqual(['begin', 'insert', 'commit', 'begin', 'update', 'commit'])
      expect(memoryOf(s.pid).peak).toBeLessThan(MEMORY_MB)
    })
    fact(
      `big, ${name}, ${(rows * padBytes) / MIB} MiB: peak ${s.peaks.at(-1)} MB, ${base} MB before`,
    )
  },
  TEST_MS,
)

const REVERSE = 'UPDATE big SET pad = REVERSE(pad) WHERE id = 1'
const DELETE = 'DELETE FROM big WHERE id = 1'

/** Half of a BLOB's bytes take two as Canal's text. A JSON document is made text whole, so there is one of it in a change. */
const LARGE = [
  { type: 'LONGBLOB', value: 'REPEAT(RANDOM_BYTES(1024), 65536)', change: REVERSE },
  { type: 'LONGTEXT', value: 'REPEAT(HEX(RANDOM_BYTES(512)), 65536)', change: REVERSE },
  { type: 'JSON', value: 'JSON_QUOTE(REPEAT(HEX(RANDOM_BYTES(512)), 65536))', change: DELETE },
]

test.each(LARGE)(
  'rows of 64 MiB pass through: $type',
  async ({ type, value, change: statement }) => {
    await using s = await Scenario.start({ mysql, seed, writers: 0 })
    const base = memoryOf(s.pid).rss
    await using writer = await mysql.connect({ database: s.database })
    await writer.query(`CREATE TABLE big (id INT PRIMARY KEY, pad ${type})`)
    const sums = `SELECT CONCAT(LENGTH(CAST(pad AS CHAR CHARACTER SET binary)), ' ', CRC32(pad)) AS pad FROM big`
    const writing = writer.query(
      [
        `INSERT INTO big VALUES (1, ${value})`,
        sums,
        statement,
        sums,
        `INSERT INTO big VALUES (2, '[]')`,
      ].join('; '),
    )
    await s.run(async () => {
      await using client = await connect({ destination: 'load', port: s.port, silenceMs: 120_000 })
      const seen: string[] = []
      for await (const batch of client.batches()) {
        for (const change of batch.changes) {
          if (change.kind !== 'rows') continue
          for (const { before, after } of change.rows)
            seen.push(`${sumOf(before)} → ${sumOf(after)}`)
        }
        await batch.ack()
        if (seen.length === 3) break
      }
      const [results] = (await writing) as unknown as [{ pad: string }[][]]
      const [first, second] = [results[1]![0]!.pad, results[3]![0]?.pad ?? '']
      const size = Number(first.split(' ')[0])
      expect(size).toBeGreaterThanOrEqual(64 * MIB)
      expect(seen).toEqual([` → ${first}`, `${first} → ${second}`, ` → 2 ${crc32('[]')}`])
      expect(memoryOf(s.pid).peak).toBeLessThan(MEMORY_MB)
    })
    fact(`big, rows of 64 MiB, ${type}: peak ${s.peaks.at(-1)} MB, ${base} MB before`)
  },
  TEST_MS,
)

test(
  'rows of 1,000 columns pass through',
  async () => {
    const rows = scaled(2_000, 20_000)
    const columns = Array.from({ length: 999 }, (_, i) => `c${i}`)
    await using s = await Scenario.start({ mysql, seed, writers: 0 })
    const types = columns.map(
      (name, i) => `${name} ${i % 2 ? 'INT UNSIGNED' : 'VARCHAR(8) CHARACTER SET ascii'}`,
    )
    await mysql.query(`CREATE TABLE ${s.database}.wide (id INT PRIMARY KEY, ${types.join(', ')})`)
    await using writer = await mysql.connect({ database: s.database })
    await writer.query(`SET SESSION cte_max_recursion_depth = ${rows + 1}`)
    // column k of row i: a number from both, as text in every other column, NULL in every seventh
    const valueOf = (k: number): string => (k % 7 === 0 ? 'NULL' : `i * 31 + ${k}`)
    await writer.query(
      `INSERT INTO wide WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${rows})
       SELECT i, ${columns.map((_, k) => valueOf(k)).join(', ')} FROM n`,
    )
    await s.run(async () => {
      await using client = await connect({ destination: 'load', port: s.port, silenceMs: 120_000 })
      let seen = 0
      for await (const batch of client.batches()) {
        for (const change of batch.changes) {
          if (change.kind !== 'rows') continue
          for (const { after } of change.rows) {
            seen++
            const found = columns.map((name) => after?.[name] ?? null)
            const expected = columns.map((_, k) => {
              if (k % 7 === 0) return null
              return k % 2 ? seen * 31 + k : String(seen * 31 + k)
            })
            if (JSON.stringify(found) !== JSON.stringify(expected)) expect(found).toEqual(expected)
          }
        }
        await batch.ack()
        if (seen === rows) break
      }
      expect(memoryOf(s.pid).peak).toBeLessThan(MEMORY_MB)
    })
    fact(`big, ${rows} rows of 1,000 columns: peak ${s.peaks.at(-1)} MB`)
  },
  TEST_MS,
)

/** A value as the server sums it up. */
function sumOf(image: Readonly<Record<string, unknown>> | undefined): string {
  const pad = image?.['pad']
  return typeof pad === 'string' || Buffer.isBuffer(pad) ? `${pad.length} ${crc32(pad)}` : ''
}
function checked(change: RowsChange, from: number, padBytes: number): number {
  let next = from
  for (const { after } of change.rows) {
    const pad = after?.['pad']
    if (after?.['id'] !== next)
      throw new Error(`expected row ${next}, got ${Number(after?.['id'])}`)
    if (!Buffer.isBuffer(pad) || pad.length !== padBytes || crc32(pad) !== after['crc'])
      throw new Error(`row ${next}: its bytes do not match their checksum`)
    next++
  }
  return next
}
