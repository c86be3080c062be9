/**
 * The load of a table without a key into SQL targets with `keyless: match`, where rows that the stream has written already cannot be
 * told from those that were read: each row is there as often as in the source. What would not be right is refused.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { stringify } from 'yaml'
import { compileFilter } from '../../src/filter.ts'
import type { Instance } from '../../src/instance.ts'
import { openTarget, textOf } from '../sinks/sql/targets.ts'
import { startInstance } from '../support/instance.ts'
import { sharedMysql, uniqueDatabase } from '../support/mysql.ts'
import { hasService } from '../support/services.ts'

const kinds = hasService('postgres') ? (['postgres', 'mysql'] as const) : (['mysql'] as const)

it.each(kinds)('loads a table without a key into %s once, beside its stream', async (kind) => {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-keyless-'))
  await using stack = new AsyncDisposableStack()
  stack.defer(() => rmSync(dir, { recursive: true, force: true }))
  const mysql = stack.use(await sharedMysql('9.7'))
  const db = uniqueDatabase('keyless')
  await mysql.query(`CREATE DATABASE ${db}`)
  stack.defer(async () => void (await mysql.query(`DROP DATABASE ${db}`)))
  const target = stack.use(await openTarget(kind))
  const { host, port, user, password } = mysql
  const sink = { type: 'sql', url: target.url, table: '{table}', createTables: true }
  const file = join(dir, 'shop.yaml')
  const config = (more: object): void =>
    writeFileSync(
      file,
      stringify({
        source: { host, port, user, password, tls: { mode: 'disabled' } },
        start: 'latest',
        filter: { include: `${db}\\..*` },
        retry: { minMs: 20, maxMs: 200 },
        sinks: { mirror: { ...sink, keyless: 'match', ...more } },
      }),
    )
  // small batches: a piece goes out in parts, with the stream between them
  config({ initialLoad: 'ifEmpty', batch: { changes: 1 } })
  await mysql.query(`CREATE TABLE ${db}.plain (a INT, b VARCHAR(40))`)
  const rows = Array.from({ length: 1500 }, (_, i) => `(${i % 700}, 'row')`).join(',')
  await mysql.query(`INSERT INTO ${db}.plain VALUES ${rows}`)
  const open = (): Instance => startInstance('shop', file, dir)
  const instance = open()
  stack.defer(() => instance.stop())
  const state = (): string => {
    const [found] = instance.status.sinks
    return found === undefined ? '' : 'error' in found ? found.error.message : found.state
  }
  while (instance.snapshots.of('sink:mirror') === undefined) await sleep(5)
  for (let i = 0; i < 12; i++) {
    await mysql.query(
      `INSERT INTO ${db}.plain VALUES (1, 'row'), (${i}, 'new'); DELETE FROM ${db}.plain WHERE a = ${i + 20} LIMIT 1`,
    )
    await sleep(10 * i)
  }
  const select = (from: string): string =>
    `SELECT a, b, COUNT(*) AS n FROM ${from} GROUP BY a, b ORDER BY a, b`
  const text = (all: readonly object[]): string[] =>
    all.map((row) => Object.values(row).map(textOf).join(' '))
  const equal = async (): Promise<void> => {
    const expected = text(await mysql.query(select(`${db}.plain`)))
    await expect
      .poll(async () => text(await target.query(select('plain')).catch(() => [])), {
        message: state(),
      })
      .toEqual(expected)
  }
  await equal()
  while (instance.snapshots.of('sink:mirror')?.state !== 'done') await sleep(20)
  expect(instance.snapshots.of('sink:mirror')?.skipped).toEqual([])
  // once more: nothing is there twice
  const filter = compileFilter({ include: `${db}\\.plain` })
  await instance.snapshots.start('sink:mirror', { filter })
  while (instance.snapshots.of('sink:mirror')?.state !== 'done') await sleep(20)
  await equal()

  // a part of it cannot be right
  await instance.snapshots.start('sink:mirror', { filter, where: 'a = 1' })
  await expect
    .poll(state)
    .toMatch(
      /plain.*: expected a snapshot of the whole table in one piece.*\(keyless: match\), got a part/,
    )
})
