/** The state saved while a server runs under load, and brought back after everything else is gone. */
import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { connect } from '../../src/client.ts'
import { sharedMysql } from '../support/mysql.ts'
import { startSluice } from '../support/sluice.ts'
import { AdminRig } from '../web/rig.ts'
import { checkout, run } from './run.ts'

test('a copy made while it runs goes on where it was made, and loses nothing', async () => {
  await using rig = await AdminRig.start(await sharedMysql('9.7'))
  const config = join(rig.dir, 'conf', 'server.yaml')
  const folder = join(rig.dir, 'backup')
  const read = async (port: number, until: number): Promise<number[]> => {
    await using client = await connect({ destination: 'orders', port })
    const ids: number[] = []
    for await (const batch of client.batches()) {
      for (const change of batch.changes)
        if (change.kind === 'rows') ids.push(...change.rows.map((row) => Number(row.after!['id'])))
      await batch.ack()
      if (ids.at(-1)! >= until) break
    }
    return ids
  }
  const first = await connect({ destination: 'orders', port: rig.sluice.port })
  await first.close() // the client is known from here on
  await rig.insert(1)
  expect(await read(rig.sluice.port, 1)).toEqual([1])
  const saved = await run('backup', folder, '-c', config)
  expect(saved).toMatchObject({ code: 0, stderr: '' })
  expect(readdirSync(folder)).toContain('orders.sqlite')
  await rig.insert(2)
  expect(await read(rig.sluice.port, 2)).toEqual([2])

  const refused = await run('restore', folder, '-c', config)
  expect(refused.code).toBe(1)
  expect(refused.stderr).toContain('is in use by another Sluice')
  await rig.sluice.kill()
  rmSync(join(rig.dir, 'data'), { recursive: true })
  expect(await run('restore', folder, 'orders', '-c', config)).toMatchObject({ code: 0 })
  expect(existsSync(join(rig.dir, 'data', 'orders.sqlite'))).toBe(true)
  await rig.insert(3)
  const { host, port, user, password } = rig.mysql
  const again = await startSluice({
    dir: rig.dir,
    instances: {
      orders: {
        source: { host, port, user, password },
        filter: { include: `${rig.database}\\..*` },
      },
    },
  })
  expect(await read(again.port, 3)).toEqual([2, 3])
  await again.stop()
})

test('what is no copy is refused, and nothing is touched', async () => {
  using files = checkout({ orders: {} })
  const folder = join(files.dir, 'copy')
  const none = await run('restore', folder, '-c', files.config)
  expect(none.code).toBe(2)
  expect(none.stderr).toContain('expected state files, found nothing')
  writeFileSync(join(files.dir, 'orders.sqlite'), 'not a database')
  const broken = await run('restore', files.dir, '-c', files.config)
  expect(broken.code).toBe(1)
  expect(broken.stderr).toContain(join(files.dir, 'orders.sqlite'))
  expect(existsSync(join(files.dir, 'data'))).toBe(false)
})
