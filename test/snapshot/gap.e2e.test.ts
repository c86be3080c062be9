/**
 * A Canal client that asked for a snapshot, and whose position the source has purged: the rows that are there come again, marked, beside
 * the stream; Sluice is killed on the way, and what was acked of them does not come once more. A client that did not ask gets the rest of the log.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { connect, type SluiceClient } from '../../src/client.ts'
import { Orders } from '../../src/snapshot/orders.ts'
import type { LoadStatus } from '../../src/snapshot/load.ts'
import { privateMysql } from '../support/mysql.ts'
import { startSluice, type SluiceProcess } from '../support/sluice.ts'

interface Seen {
  readonly op: string
  readonly id: number
  readonly v: string
  readonly snapshot: boolean
}
const ROWS = 3000

it('a client that asked for it gets the tables again, marked, over a kill', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-gap-'))
  await using stack = new AsyncDisposableStack()
  stack.defer(() => rmSync(dir, { recursive: true, force: true }))
  const mysql = stack.use(await privateMysql('9.7'))
  await mysql.query('CREATE DATABASE gap; CREATE TABLE gap.t (id INT PRIMARY KEY, v VARCHAR(40))')
  const { host, port, user, password } = mysql
  let sluice: SluiceProcess | undefined
  stack.defer(() => sluice?.kill())
  const start = async (more: object = {}): Promise<void> => {
    const source = { host, port, user, password, tls: { mode: 'disabled' } }
    const orders = { source, filter: { include: 'gap\\..*' }, retry: { minMs: 20, maxMs: 200 } }
    const instances = { orders: { ...orders, start: 'latest', ...more } }
    sluice = await startSluice({ dir, instances, ...(sluice && { port: sluice.port }) })
    await sluice.logged('instance orders running')
  }
  const subscribe = (clientId: number, snapshot: boolean): Promise<SluiceClient> =>
    connect({ port: sluice!.port, destination: 'orders', clientId, filter: 'gap\\.t', snapshot })
  /** Rows until `enough`, each batch acked once its rows are noted. */
  const read = async (client: SluiceClient, enough: (all: Seen[]) => boolean): Promise<Seen[]> => {
    const all: Seen[] = []
    while (!enough(all)) {
      const batch = await client.get({ size: 4, waitMs: 200 })
      for (const change of batch?.changes ?? [])
        if (change.kind === 'rows')
          for (const { before, after } of change.rows) {
            const { id, v } = (after ?? before) as { id: number; v: string }
            all.push({ op: change.type, id, v, snapshot: change.snapshot })
          }
      await batch?.ack()
    }
    return all
  }
  const last = (v: string) => (all: Seen[]) => all.some((row) => row.v === v)
  const load = (): LoadStatus | undefined =>
    (JSON.parse(Orders.said(join(dir, 'data'), 'orders') ?? '[]') as LoadStatus[]).find(
      ({ client }) => client === '1001',
    )

  await start()
  let asked = await subscribe(1001, true)
  let plain = await subscribe(1002, false)
  const values = Array.from({ length: ROWS }, (_, i) => `(${i + 1}, 'before')`).join(',')
  await mysql.query(`INSERT INTO gap.t VALUES ${values}`)
  await mysql.query("INSERT INTO gap.t VALUES (9000, 'mark')")
  for (const client of [asked, plain]) {
    await read(client, last('mark'))
    await client.close()
  }
  await sluice!.stop()
  await mysql.query(
    "DELETE FROM gap.t WHERE id = 5; UPDATE gap.t SET v = 'gap' WHERE id = 1600; FLUSH BINARY LOGS",
  )
  const [log] = (await mysql.query<{ Log_name: string }>('SHOW BINARY LOGS')).slice(-1)
  await mysql.query(`PURGE BINARY LOGS TO '${log!.Log_name}'`)
  await mysql.query("UPDATE gap.t SET v = 'left' WHERE id = 7")

  await start({ onPositionLost: 'snapshot' })
  asked = await subscribe(1001, true)
  plain = await subscribe(1002, false)
  expect(await read(plain, last('left'))).toEqual([
    { op: 'update', id: 7, v: 'left', snapshot: false },
  ])
  // a part of the table, then the end without a word
  const first = await read(asked, (all) => all.filter((row) => row.snapshot).length >= 700)
  expect(first.filter((row) => row.op !== 'insert' || !row.snapshot)).toEqual([
    { op: 'update', id: 7, v: 'left', snapshot: false },
  ])
  while ((load()?.rows ?? 0) < 500) await sleep(50)
  await sluice!.kill()
  await mysql.query("UPDATE gap.t SET v = 'later' WHERE id = 2500")
  await start({ onPositionLost: 'snapshot' })
  const rest = await read(asked, (all) => all.some((row) => row.id === 9000))
  const rows = new Map<number, string>()
  for (const { id, v } of [...first, ...rest]) rows.set(id, v)
  const source = await mysql.query<{ id: number; v: string }>('SELECT id, v FROM gap.t')
  expect([...rows].toSorted(([a], [b]) => a - b)).toEqual(source.map(({ id, v }) => [id, v]))
  // the first piece was acked
  expect(rest.filter((row) => row.snapshot && row.id <= 500)).toEqual([])
  // that nothing is left is found out by the next get
  const none = await read(asked, () => load()?.state === 'done')
  expect(none).toEqual([])
  // once is enough
  await asked.subscribe()
  await mysql.query("INSERT INTO gap.t VALUES (9001, 'end')")
  expect((await read(asked, last('end'))).filter((row) => row.snapshot)).toEqual([])
  for (const client of [asked, plain]) await client.close()
})
