/** A real foreign client, canal-python from PyPI, against a real Sluice process and a real MySQL. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { canalPython } from '../support/canal-python.ts'
import { Driver } from '../support/driver.ts'
import { sharedMysql, uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import { startSluice, type SluiceProcess } from '../support/sluice.ts'

let mysql: MysqlServer
let sluice: SluiceProcess
let dir: string
const database = uniqueDatabase('python')

beforeAll(async () => {
  mysql = await sharedMysql('9.7')
  dir = mkdtempSync(join(tmpdir(), 'sluice-python-'))
  await mysql.query(`CREATE DATABASE ${database}`)
  await mysql.query(
    `CREATE TABLE ${database}.t (id INT PRIMARY KEY, name VARCHAR(20) CHARACTER SET gbk, n BIGINT UNSIGNED)`,
  )
})
afterAll(async () => {
  await sluice.stop()
  rmSync(dir, { recursive: true, force: true })
})

const instance = () => ({
  source: { host: mysql.host, port: mysql.port, user: mysql.user, password: mysql.password },
  filter: { include: `${database}\\..*` },
})

/** A Python process that speaks through canal-python. */
async function python(): Promise<Driver> {
  const script = join(import.meta.dirname, '../support/canal_client.py')
  return new Driver(await canalPython(), [script])
}
async function subscribe(client: Driver) {
  await client.ok({ op: 'connect', port: sluice.port })
  await client.ok({ op: 'subscribe', clientId: '1001', destination: 'shop', filter: '.*\\..*' })
}

test('canal-python subscribes, gets, acks, rolls back, and resumes after a restart of the server', async () => {
  sluice = await startSluice({ dir, instances: { shop: instance() } })
  using client = await python()
  await subscribe(client)

  await mysql.query(`INSERT INTO ${database}.t VALUES (1, '中文', 18446744073709551615)`)
  const first = await client.rows()
  expect(first.id).toBe(1)
  expect(first.kinds).toEqual(['TRANSACTIONBEGIN', 'ROWDATA', 'TRANSACTIONEND'])
  expect(first.found[0]!.rows![0]!.after).toEqual({
    id: '1',
    name: '中文',
    n: '18446744073709551615',
  })

  await client.ok({ op: 'rollback', id: 0 })
  const again = await client.rows()
  expect(again.id).toBe(2)
  expect(again.found).toEqual(first.found)
  await client.ok({ op: 'ack', id: 2 })

  await mysql.query(`UPDATE ${database}.t SET name = 'b' WHERE id = 1`)
  const update = await client.rows()
  expect(update.found[0]!.rows![0]!.before['name']).toBe('中文')
  expect(update.found[0]!.rows![0]!.after['name']).toBe('b')
  // not acked: the restarted server has to bring it again, and nothing before it
  client[Symbol.dispose]()
  expect(await sluice.stop()).toBe(0)
  await mysql.query(`DELETE FROM ${database}.t WHERE id = 1`)

  sluice = await startSluice({ dir, instances: { shop: instance() } })
  using next = await python()
  await subscribe(next)
  const seen: string[] = []
  while (seen.length < 2) {
    const batch = await next.rows()
    seen.push(...batch.found.map((c) => c.type!))
    await next.ok({ op: 'ack', id: batch.id })
  }
  expect(seen).toEqual(['UPDATE', 'DELETE'])
})
