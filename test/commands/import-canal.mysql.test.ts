/** A Canal made by hand on a real MySQL: after the import, its clients go on at the right transaction, and nothing is lost. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { connect } from '../../src/client.ts'
import { State } from '../../src/store/state.ts'
import { privateMysql, versions } from '../support/mysql.ts'
import type { MysqlServer } from '../support/mysql.ts'
import { freePort } from '../support/sluice.ts'
import { inProcess, start } from './run.ts'

const TIME = 1_700_000_000 // of the first transaction; one second more for each further one
interface EventRow {
  readonly Pos: number
  readonly Event_type: string
  readonly Server_id: number
  readonly Info: string
}
/** Events of transaction n of shop.t (from 1): where its parts begin. */
interface Logged {
  readonly file: string
  readonly begin: number
  readonly rows: number
  readonly end: number
  readonly gtids: string // executed after it
}
const statusOf = (version: string): string =>
  version === '8.0' ? 'SHOW MASTER STATUS' : 'SHOW BINARY LOG STATUS'

/** Transactions of two rows each, in two files: 1-3, then 4-6. */
async function filled(mysql: MysqlServer, version: string): Promise<Logged[]> {
  await mysql.query('CREATE DATABASE shop')
  await mysql.query('CREATE TABLE shop.t (id INT PRIMARY KEY, text VARCHAR(20))')
  const logged: Logged[] = []
  await using connection = await mysql.connect()
  for (let n = 1; n <= 6; n++) {
    if (n === 4) await connection.query('FLUSH BINARY LOGS')
    await connection.query(`SET timestamp = ${TIME + n}`)
    await connection.query(`INSERT INTO shop.t VALUES (${2 * n - 1}, 'a'), (${2 * n}, 'b')`)
    const [status] = await mysql.query<{ File: string; Executed_Gtid_Set: string }>(
      statusOf(version),
    )
    const file = status!.File
    const events = await mysql.query<EventRow>(`SHOW BINLOG EVENTS IN '${file}' LIMIT 10000`)
    const last = (type: RegExp): number => events.findLast((e) => type.test(e.Event_type))!.Pos
    logged.push({
      file,
      begin: events.findLast((e) => e.Info === 'BEGIN')!.Pos,
      rows: last(/^Write_rows/),
      end: last(/^Xid/),
      gtids: status!.Executed_Gtid_Set.replaceAll('\n', ''),
    })
  }
  return logged
}

interface Client {
  readonly id: number
  readonly filter?: string
  readonly postion: object
}
/** A Canal's folder with one destination, orders, and its meta.dat as Canal 1.1 writes it. */
async function canal(mysql: MysqlServer, clients: readonly Client[], more = '') {
  const canalPort = await freePort()
  const dir = mkdtempSync(join(tmpdir(), 'sluice-canal-'))
  mkdirSync(join(dir, 'conf', 'orders'), { recursive: true })
  const write = (name: string, text: string): void => writeFileSync(join(dir, 'conf', name), text)
  write(
    'canal.properties',
    `canal.ip = 127.0.0.1\ncanal.port = ${canalPort}\ncanal.destinations = orders\n` +
      'canal.conf.dir = ../conf\ncanal.file.data.dir = ${canal.conf.dir}\n',
  )
  const { host, port, user, password } = mysql
  write(
    'orders/instance.properties',
    `canal.instance.master.address=${host}:${port}\ncanal.instance.dbUsername=${user}\n` +
      `canal.instance.dbPassword=${password}\ncanal.instance.filter.regex=shop\\\\..*\n${more}`,
  )
  const clientDatas = clients.map(({ id, filter = '', postion }) => ({
    clientIdentity: { clientId: id, destination: 'orders', filter },
    cursor: {
      '@type': 'com.alibaba.otter.canal.protocol.position.LogPosition',
      identity: { slaveId: -1, sourceAddress: { address: host, port } },
      postion: { gtid: '', included: false, serverId: 1, ...postion },
    },
  }))
  write('orders/meta.dat', JSON.stringify({ clientDatas, destination: 'orders' }))
  const out = join(dir, 'out')
  return {
    config: join(out, 'conf', 'server.yaml'),
    port: canalPort,
    state: join(out, 'data', 'orders.sqlite'),
    import: (env: Record<string, string> = {}) =>
      inProcess(['import-canal', join(dir, 'conf'), '--out', out], env),
    [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }),
  }
}
/** Ids that clients get from the imported Sluice, until each has the last one; acked. */
async function served(
  { config, port }: { config: string; port: number },
  clients: readonly number[],
  last: number,
): Promise<number[][]> {
  const server = start(['serve', '-c', config])
  try {
    await server.printed('serving Canal clients')
    const all: number[][] = []
    for (const clientId of clients) {
      await using client = await connect({ port, destination: 'orders', clientId })
      const ids: number[] = []
      while (ids.at(-1) !== last) {
        const batch = await client.get()
        if (!batch) continue
        for (const change of batch.changes)
          if (change.kind === 'rows') ids.push(...change.rows.map((r) => Number(r.after!['id'])))
        await client.ack(batch.id)
      }
      all.push(ids)
    }
    return all
  } finally {
    server.child.kill('SIGTERM')
    await server.result
  }
}
const from = (n: number, to = 6): number[] =>
  Array.from({ length: 2 * (to - n + 1) }, (_, i) => 2 * n - 1 + i)

describe.each(versions)('import-canal on MySQL %s', (version) => {
  test.each([['ON'], ['OFF']])(
    'clients resume at their transactions, gtid_mode %s',
    async (mode) => {
      const args = mode === 'ON' ? [] : ['--gtid-mode=OFF', '--enforce-gtid-consistency=OFF']
      await using mysql = await privateMysql(version, { args })
      const log = await filled(mysql, version)
      const [id] = await mysql.query<{ id: number }>('SELECT @@server_id AS id')
      const at = (n: number, part: 'begin' | 'rows' | 'end') => ({
        journalName: log[n - 1]!.file,
        position: log[n - 1]![part],
        serverId: id!.id,
        timestamp: (TIME + n) * 1000,
      })
      using c = await canal(mysql, [
        { id: 1001, postion: at(5, 'end') },
        { id: 1002, postion: at(2, 'begin') },
        { id: 1003, filter: 'shop\\..*', postion: at(4, 'rows') },
      ])
      const { code, stdout, stderr } = await c.import()
      expect([code, stderr]).toEqual([0, ''])
      expect(stdout).toContain('client 1002: begins at')
      const { cursors, values } = State.read(c.state)
      expect(cursors.map((x) => x.acked.gtids?.toString())).toEqual(
        [4, 1, 3].map((n) => (mode === 'ON' ? log[n - 1]!.gtids : undefined)),
      )
      expect((JSON.parse(values.get('origin')!) as { file: string }).file).toBe(log[0]!.file)
      // what happens while neither runs
      await mysql.query("INSERT INTO shop.t VALUES (13, 'a'), (14, 'b')")
      expect(await served(c, [1001, 1002, 1003], 14)).toEqual([from(5, 7), from(2, 7), from(4, 7)])
      await mysql.query("INSERT INTO shop.t VALUES (15, 'a'), (16, 'b')")
      expect(await served(c, [1001], 16)).toEqual([from(8, 8)])
    },
  )

  test('a log that is not the one Canal read: by GTID where that loses nothing, else refused', async () => {
    await using mysql = await privateMysql(version)
    const log = await filled(mysql, version)
    const [id] = await mysql.query<{ id: number }>('SELECT @@server_id AS id')
    const good = {
      journalName: log[4]!.file,
      position: log[4]!.end,
      serverId: id!.id,
      timestamp: (TIME + 5) * 1000,
    }
    const refused = async (postion: object): Promise<string> => {
      using c = await canal(mysql, [{ id: 1001, postion: { ...good, ...postion } }])
      const { code, stdout } = await c.import()
      expect(code).toBe(1)
      expect(() => State.read(c.state)).toThrow()
      return stdout
    }
    expect(await refused({ position: good.position + 1 })).toContain('no event begins there')
    expect(await refused({ serverId: 77 })).toContain(`of server id ${id!.id}, not 77`)
    expect(await refused({ timestamp: TIME * 1000 })).toContain('the log was reset')
    expect(await refused({ journalName: 'other.000001' })).toContain('the source has no such file')
    const stranger = '3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5'
    expect(await refused({ serverId: 77, gtid: stranger })).toContain(`never executed ${stranger}`)

    await mysql.query(`PURGE BINARY LOGS TO '${log[4]!.file}'`)
    const early = { journalName: log[1]!.file, position: log[1]!.end }
    expect(await refused(early)).toContain('the source has purged the file')
    expect(await refused({ ...early, gtid: log[1]!.gtids })).toContain('which were not delivered')
    const gtids = { journalName: 'elsewhere.000009', gtid: log[3]!.gtids }
    using c = await canal(
      mysql,
      [{ id: 1001, postion: { ...good, ...gtids } }],
      'canal.instance.gtidon=true\n',
    )
    const { code, stdout } = await c.import()
    expect([code, stdout]).toEqual([0, expect.stringContaining('by its GTID set')])
    expect(await served(c, [1001], 12)).toEqual([from(5)])
  })

  test('DDL, compressed and XA transactions begin where the server says they do', async () => {
    await using mysql = await privateMysql(version)
    const log = await filled(mysql, version)
    const { file, end } = log[5]!
    await using connection = await mysql.connect()
    await connection.query('ALTER TABLE shop.t ADD more INT')
    await connection.query('SET binlog_transaction_compression = ON')
    await connection.query(
      "INSERT INTO shop.t VALUES (13, REPEAT('a', 20), 1), (14, REPEAT('a', 20), 1)",
    )
    await connection.query('SET binlog_transaction_compression = OFF')
    await connection.query(
      "XA START 'x'; INSERT INTO shop.t VALUES (15, 'a', 1); XA END 'x'; XA PREPARE 'x'",
    )
    await connection.query("XA COMMIT 'x'")
    const events = await mysql.query<EventRow>(`SHOW BINLOG EVENTS IN '${file}' LIMIT 10000`)
    const ours = events.filter((e) => e.Pos > end)
    const starts = ours.filter((e) => e.Event_type === 'Gtid').map((e) => e.Pos)
    const inside = [/ALTER TABLE/, /compression='ZSTD'/, /^XA END/, /^XA COMMIT/].map(
      (text) => ours.find((e) => text.test(e.Info))!.Pos,
    )
    const clients = inside.map((position, i) => ({
      id: i + 1,
      postion: { journalName: file, position, serverId: 0 },
    }))
    using c = await canal(mysql, clients)
    expect(await c.import()).toMatchObject({ code: 0 })
    expect(starts).toHaveLength(4)
    expect(State.read(c.state).cursors.map((x) => x.acked.offset)).toEqual(starts)
  })

  test("Canal's own cursor in Kafka mode becomes the sink's", async () => {
    await using mysql = await privateMysql(version)
    const { file, end, begin } = (await filled(mysql, version))[4]!
    const postion = { journalName: file, position: end, serverId: 0 }
    using c = await canal(mysql, [{ id: 1001, postion }], 'canal.mq.topic=orders\n')
    const env = { 'canal.serverMode': 'kafka', 'kafka.bootstrap.servers': '127.0.0.1:9' }
    expect(await c.import(env)).toMatchObject({ code: 0 })
    const { cursors } = State.read(c.state)
    expect(cursors.map((x) => x.client)).toEqual(['sink:kafka'])
    expect(cursors[0]!.acked.offset).toBeLessThan(begin)
  })

  test('without a cursor, a start inside a transaction is moved to its beginning', async () => {
    await using mysql = await privateMysql(version)
    const log = await filled(mysql, version)
    const { file, rows } = log[4]!
    using c = await canal(
      mysql,
      [],
      `canal.instance.master.journal.name=${file}\ncanal.instance.master.position=${rows}\n`,
    )
    expect((await c.import()).code).toBe(0)
    expect(await served(c, [1001], 12)).toEqual([from(5)])
  })
})
