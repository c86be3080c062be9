/** What the SDK says of rows of a snapshot and of the stream between them when they come again, on a real MySQL. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { expect, it } from 'vitest'
import { connect } from '../../src/client.ts'
import { instanceSchema } from '../../src/config/config.ts'
import type { InstanceConfig } from '../../src/config/config.ts'
import { Instance } from '../../src/instance.ts'
import { CanalServer } from '../../src/server/server.ts'
import { privateMysql } from '../support/mysql.ts'
import { openWorld } from './world.ts'

it('no row that comes for the first time is marked, and no change of the stream that comes again is not', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-snapshot-'))
  await using stack = new AsyncDisposableStack()
  stack.defer(() => rmSync(dir, { recursive: true, force: true }))
  const mysql = stack.use(await privateMysql('9.7'))
  await openWorld(mysql, 'world.items', 3000)
  const { host, port, user, password } = mysql
  const source = { host, port, user, password }
  const config = instanceSchema.parse({ source, filter: { include: 'world\\..*' } })
  const log = pino({ level: 'silent' })
  const instance = Instance.open({
    name: 'orders',
    config: config as InstanceConfig,
    dataDir: dir,
    log,
  })
  stack.defer(() => instance.stop())
  instance.start()
  while (instance.status.state !== 'running') await sleep(20)
  const server = await CanalServer.listen({
    host: '127.0.0.1',
    packetBytesMax: 1 << 20,
    connectionsMax: 10,
    idleMs: 60_000,
    port: 0,
    log,
    resolve: () => ({
      name: 'orders',
      store: instance.store!,
      gtid: true,
      load: (client, filter) => instance.snapshots.once(client, filter),
    }),
  })
  stack.defer(() => server.close())
  const client = await connect({ port: server.port, destination: 'orders', snapshot: true })
  stack.defer(() => client.close())

  const seen = new Set<string>()
  const wrong: string[] = []
  let [loaded, streamed, n] = [0, 0, 0]
  /** Reads until there were so many of each kind, nothing acked. */
  const read = async (enough: () => boolean): Promise<void> => {
    while (!enough()) {
      const batch = await client.get({ size: 16, waitMs: 100 })
      for (const change of batch?.changes ?? []) {
        const { kind, position, redelivered } = change
        const snapshot = kind === 'rows' && change.snapshot
        if (kind === 'rows' && snapshot) loaded++
        else if (kind === 'rows') streamed++
        const row = kind === 'rows' ? JSON.stringify(change.rows[0]!.after!['k']) : ''
        const name = `${kind} ${snapshot ? 'snapshot' : position.offset} ${row}`
        // a row that is read again is another reading of it, wherever it stands
        if (redelivered !== (snapshot ? false : seen.has(name))) wrong.push(name)
        seen.add(name)
      }
    }
  }
  const change = (): Promise<unknown> =>
    mysql.query(`INSERT INTO world.items (k, part, n, pad) VALUES ('new${n++}', 1, 1, '')`)
  await read(() => loaded >= 2)
  for (let round = 0; round < 3; round++) {
    for (let i = 0; i < 5; i++) await change()
    const [rows, stream] = [loaded, streamed]
    await read(() => streamed >= stream + 5 && loaded >= rows + 2)
    client.rollback()
    await read(() => streamed >= stream + 10 && loaded >= rows + 4)
  }
  expect(wrong).toEqual([])
})
