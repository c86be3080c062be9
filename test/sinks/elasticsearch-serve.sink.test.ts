/** A whole Sluice that feeds an Elasticsearch and an OpenSearch: killed while it writes, its state lost, and in the end all is equal. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { hasService, sharedService } from '../support/services.ts'
import { startSluice } from '../support/sluice.ts'
import { factsOf } from '../sources/reading.ts'
import { Feed, shown } from './elastic.ts'

const names = (['elasticsearch', 'opensearch'] as const).filter(hasService)

describe.each(names)('%s', (name) => {
  it('equals SELECT after kill -9 while writing, and after the loss of the local state', async () => {
    const service = sharedService(name)
    await using feed = await Feed.open()
    const { mysql, database } = feed
    const dir = mkdtempSync(join(tmpdir(), 'sluice-elastic-'))
    const { latest } = await factsOf(mysql)
    const { host, port, user, password } = mysql
    const orders = `${database}-orders`
    const instance = {
      source: { host, port, user, password, tls: { mode: 'disabled' } },
      start: { file: latest.file, offset: latest.offset },
      filter: { include: `${database}\\..*` },
      retry: { minMs: 20, maxMs: 200 },
      sinks: {
        search: {
          type: 'elasticsearch',
          nodes: service.url,
          cursorIndex: `cursors-${database}`,
          settings: { number_of_replicas: 0 },
          batch: { changes: 50 },
          bulkActions: 20,
          documents: [
            { table: `${database}.o`, index: orders },
            { table: `${database}.i`, nest: { index: orders, field: 'items', document: '{o}' } },
          ],
        },
      },
    }
    const start = () => startSluice({ dir, instances: { shop: instance } })
    try {
      await feed.run(
        `CREATE TABLE plain (id INT PRIMARY KEY, v INT); CREATE TABLE o (id INT PRIMARY KEY, v INT); CREATE TABLE i (id INT PRIMARY KEY, o INT, v INT);
         INSERT INTO o VALUES (1,0),(2,0),(3,0); INSERT INTO i VALUES (1,1,0),(2,2,0),(3,3,0),(4,1,0); INSERT INTO plain VALUES (1,0),(2,0),(3,0),(4,0),(5,0)`,
      )
      for (let round = 0; round < 4; round++) {
        const sluice = await start()
        const changes = Array.from({ length: 150 }, (_, k) => {
          const [a, b] = [1 + (k % 5), 1 + (k % 3)]
          return [
            `UPDATE plain SET v = v + 1 WHERE id = ${a}`,
            `UPDATE o SET v = v + 1 WHERE id = ${b}`,
            `UPDATE i SET v = v + 1, o = 1 + (o % 3) WHERE id = ${1 + (k % 4)}`,
            `DELETE FROM plain WHERE id = ${a + 2}; INSERT IGNORE INTO plain VALUES (${a + 2}, ${round * 1000 + k})`,
          ][k % 4]
        })
        const connection = await mysql.connect({ database })
        await connection.query(changes.slice(0, 100).join(';'))
        await sleep(100 * round)
        await sluice.kill()
        await connection.query(changes.slice(100).join(';'))
        await connection.end()
        if (round === 2) rmSync(join(dir, 'data'), { recursive: true, force: true })
      }
      const sluice = await start()
      const expected = {
        plain: await feed.select('SELECT id, v FROM plain ORDER BY id'),
        orders: await feed.select('SELECT id, v FROM o ORDER BY id'),
        items: await feed.select('SELECT id, o, v FROM i ORDER BY id'),
      }
      const found = async (): Promise<unknown> => {
        const byId = (a: unknown, b: unknown): number =>
          (a as { id: number }).id - (b as { id: number }).id
        const all = Object.values(await shown(service, orders))
        return {
          plain: Object.values(await shown(service, `${database}-plain`)).toSorted(byId),
          orders: all.map(({ id, v }) => ({ id, v })).toSorted(byId),
          items: all.flatMap((source) => source['items'] as object[]).toSorted(byId),
        }
      }
      await expect
        .poll(found, { timeout: 120_000, interval: 500, message: sluice.log.slice(-5).join('\n') })
        .toEqual(expected)
      expect(await sluice.stop()).toBe(0)
    } finally {
      rmSync(dir, { recursive: true, force: true })
    }
  }, 400_000)
})
