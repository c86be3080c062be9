/**
 * What is larger than the process may be: a transaction of hundreds of MiB (1 GiB in the long form), plain and
 * compressed, a row of 64 MiB, and rows of 1,000 columns. Each passes through whole and in order, within the process's memory, and the stream
 * goes on behind it.
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
})
afterAll(() => mysql[Symbol.asyncDispose]())

/** Half of it cannot be compressed. */
const PAD = `CONCAT(${Array.from({ length: 4 }, () => 'RANDOM_BYTES(1024)').join()}, REPEAT(RANDOM_BYTES(1024), 4))`
const PAD_BYTES = 8 * 1024

interface Big {
  readonly name: string
  readonly rows: number
  readonly pad: string
  readonly padBytes: number
  readonly compressed: boolean
  readonly memoryMb: number
}
const plain = { pad: PAD, padBytes: PAD_BYTES, compressed: false, memoryMb: 300 }
const cases: Big[] = [
  { ...plain, name: 'a plain transaction', rows: (scaled(256, 1024) * MIB) / PAD_BYTES },
  {
    ...plain,
    name: 'a compressed transaction',
    rows: (128 * MIB) / PAD_BYTES,
    compressed: true,
  },
  {
    name: 'a row of 64 MiB',
    rows: 1,
    pad: 'REPEAT(RANDOM_BYTES(1024), 65536)',
    padBytes: 64 * MIB,
    compressed: false,
    // The insert as the source wrote it and as text for the client, whole, 64 + 96 MiB, while the update is read, 64 MiB.
    memoryMb: 450,
  },
]

test.each(cases)(
  '$name passes through',
  async ({ name, rows, pad, padBytes, compressed, memoryMb }) => {
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
      expect(memoryOf(s.pid).peak).toBeLessThan(memoryMb)
    })
    fact(
      `big, ${name}, ${(rows * padBytes) / MIB} MiB: peak ${s.peaks.at(-1)} MB, ${base} MB before`,
    )
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
      expect(memoryOf(s.pid).peak).toBeLessThan(300)
    })
    fact(`big, ${rows} rows of 1,000 columns: peak ${s.peaks.at(-1)} MB`)
  },
  TEST_MS,
)

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
