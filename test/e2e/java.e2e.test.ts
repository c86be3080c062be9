/** The stock Java client of Canal against a real Sluice process and a real MySQL. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { canalJava, javaProblem } from '../support/canal-java.ts'
import { Driver } from '../support/driver.ts'
import { sharedMysql, uniqueDatabase, versions, type MysqlServer } from '../support/mysql.ts'
import { inCi, shout } from '../support/services/notice.ts'
import { startSluice, type SluiceOptions, type SluiceProcess } from '../support/sluice.ts'

const problem = javaProblem()
if (problem !== '') {
  if (inCi()) throw new Error(`CI needs the Java client, and ${problem}`)
  shout(`The Java client of Canal is NOT TESTED here: ${problem}.`)
}

describe.skipIf(problem !== '')('the Java client', () => {
  let mysql: MysqlServer
  let java: Driver
  let sluice: SluiceProcess
  let dir: string
  let database: string

  beforeAll(async () => {
    mysql = await sharedMysql(versions[0]!)
    const { command, args } = await canalJava()
    java = new Driver(command, args)
  })
  afterAll(() => java[Symbol.dispose]())
  beforeEach(async () => {
    dir = mkdtempSync(join(tmpdir(), 'sluice-java-'))
    database = uniqueDatabase('java')
    await mysql.query(`CREATE DATABASE ${database}`)
    await mysql.query(`CREATE TABLE ${database}.t (id INT PRIMARY KEY, name VARCHAR(20))`)
  })
  afterEach(async () => {
    await sluice.kill()
    rmSync(dir, { recursive: true, force: true })
    await mysql.query(`DROP DATABASE ${database}`)
  })

  const start = async (more: Partial<SluiceOptions> = {}): Promise<void> => {
    const { host, port, user, password } = mysql
    const filter = { include: `${database}\\..*` }
    const shop = { source: { host, port, user, password }, filter }
    sluice = await startSluice({ dir, instances: { shop }, ...more })
    await sluice.logged('instance shop running')
  }
  /** Connects under a client id, which also names the connection. */
  const connect = async (clientId = 1001, more: object = {}): Promise<{ on: number }> => {
    const on = { on: clientId }
    await java.ok({
      ...on,
      op: 'connect',
      port: sluice.port,
      destination: 'shop',
      clientId,
      ...more,
    })
    await java.ok({ ...on, op: 'subscribe', filter: '.*\\..*' })
    return on
  }
  const insert = (...ids: number[]): Promise<unknown> =>
    mysql.query(
      `INSERT INTO ${database}.t VALUES ${ids.map((id) => `(${id}, 'ä${id}')`).join(',')}`,
    )
  /** Gets and acks until `count` rows have come; their ids. */
  const take = async (on: object, count: number): Promise<(string | null | undefined)[]> => {
    const ids: (string | null | undefined)[] = []
    while (ids.length < count) {
      const { id, found } = await java.rows(on)
      ids.push(...found.flatMap((c) => c.rows!.map((row) => row.after['id'])))
      await java.ok({ ...on, op: 'ack', id })
    }
    return ids
  }

  test('gets, acks and rolls back', async () => {
    await start()
    const on = await connect()
    await insert(1)
    const first = await java.rows(on)
    expect(first.kinds).toEqual(['TRANSACTIONBEGIN', 'ROWDATA', 'TRANSACTIONEND'])
    expect(first.found).toMatchObject([
      { table: 't', type: 'INSERT', rows: [{ before: {}, after: { id: '1', name: 'ä1' } }] },
    ])
    await java.ok({ ...on, op: 'rollback', id: 0 })
    const again = await java.rows(on)
    expect(again.id).toBeGreaterThan(first.id)
    expect(again.found).toEqual(first.found)
    await java.ok({ ...on, op: 'rollback', id: again.id })
    const third = await java.rows(on)
    expect(third.found).toEqual(first.found)
    await java.ok({ ...on, op: 'ack', id: third.id })

    await mysql.query(`UPDATE ${database}.t SET name = NULL WHERE id = 1`)
    await mysql.query(`DELETE FROM ${database}.t WHERE id = 1`)
    await mysql.query(`ALTER TABLE ${database}.t ADD n INT`)
    await insertWide()
    const seen: unknown[] = []
    while (seen.length < 4) {
      const { id = -1, changes = [] } = await java.ok({ ...on, op: 'get', size: 100 })
      for (const c of changes.filter(({ kind }) => kind === 'ROWDATA'))
        seen.push([c.type, c.sql === '' ? c.rows : c.sql])
      if (id !== -1) await java.ok({ ...on, op: 'ack', id })
    }
    expect(seen).toEqual([
      ['UPDATE', [{ before: { id: '1', name: 'ä1' }, after: { id: '1', name: null } }]],
      ['DELETE', [{ before: { id: '1', name: null }, after: {} }]],
      ['ALTER', `ALTER TABLE ${database}.t ADD n INT`],
      ['INSERT', [{ before: {}, after: { id: '2', name: 'b', n: '-7' } }]],
    ])
  })
  const insertWide = (): Promise<unknown> =>
    mysql.query(`INSERT INTO ${database}.t VALUES (2, 'b', -7)`)

  test('gets what it has not acked again after a reconnect and after a restart of the server', async () => {
    await start()
    let on = await connect()
    await insert(1)
    expect(await take(on, 1)).toEqual(['1'])
    await insert(2)
    const lost = await java.rows(on)
    await java.ok({ ...on, op: 'disconnect' })
    on = await connect()
    const again = await java.rows(on)
    expect(again.found).toEqual(lost.found)
    expect(again.id).toBeGreaterThan(lost.id)

    expect(await sluice.stop()).toBe(0)
    await insert(3)
    expect((await java.ask({ ...on, op: 'get', size: 100 })).error).toBeDefined()
    await start({ port: sluice.port })
    on = await connect()
    expect(await take(on, 2)).toEqual(['2', '3'])
    await java.ok({ ...on, op: 'disconnect' })
  })

  test('two client ids have their own places', async () => {
    await start()
    const a = await connect(1001)
    const b = await connect(1002)
    await insert(1)
    await insert(2)
    expect(await take(a, 2)).toEqual(['1', '2'])
    await java.ok({ ...b, op: 'rollback', id: 0 })
    expect(await take(b, 2)).toEqual(['1', '2'])
    await java.ok({ ...a, op: 'unsubscribe' })
    await insert(3)
    expect(await take(b, 1)).toEqual(['3'])
  })

  test('authenticates with user and password, and is refused with another or none', async () => {
    await start({ server: { canal: { user: 'canal', password: 'geheim ä' } } })
    const account = { op: 'connect', port: sluice.port, destination: 'shop', clientId: 1001 }
    for (const more of [
      { user: 'canal', password: 'wrong' },
      { user: 'x', password: 'geheim ä' },
      {},
    ])
      expect((await java.ask({ ...account, on: 1001, ...more })).error).toMatch(/auth/i)
    await insert(1)
    const on = await connect(1001, { user: 'canal', password: 'geheim ä' })
    expect(await take(on, 1)).toEqual(['1'])
  })
})
