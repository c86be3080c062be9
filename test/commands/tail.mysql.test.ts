import { beforeAll, describe, expect, test } from 'vitest'
import { sharedMysql, uniqueDatabase, versions } from '../support/mysql.ts'
import type { MysqlServer } from '../support/mysql.ts'
import { checkout, run, start } from './run.ts'

interface Line {
  kind: string
  database: string
  table: string
  position: string
  before?: Record<string, unknown>
  after?: Record<string, unknown>
  sql?: string
}

describe.each(versions)('tail of MySQL %s', (version) => {
  let mysql: MysqlServer
  const database = uniqueDatabase('p8tail')
  let from = ''
  const instance = () => {
    const { host, port, user, password } = mysql
    return {
      orders: { source: { host, port, user, password }, filter: { include: `${database}\\..*` } },
    }
  }
  beforeAll(async () => {
    mysql = await sharedMysql(version)
    const statement = version === '8.0' ? 'SHOW MASTER STATUS' : 'SHOW BINARY LOG STATUS'
    const [row] = await mysql.query<{ File: string; Position: number }>(statement)
    from = `${row!.File}:${row!.Position}`
    await mysql.query(`CREATE DATABASE ${database}`)
    await mysql.query(
      `CREATE TABLE ${database}.t (id BIGINT UNSIGNED PRIMARY KEY, name VARCHAR(20), raw BLOB)`,
    )
    await mysql.query(
      `INSERT INTO ${database}.t VALUES (18446744073709551615, 'é', x'00ff'), (2, NULL, NULL)`,
    )
    await mysql.query(`UPDATE ${database}.t SET name = 'b' WHERE id = 2`)
    await mysql.query(`DELETE FROM ${database}.t WHERE id = 2`)
    return async () => void (await mysql.query(`DROP DATABASE ${database}`))
  })

  test('JSON lines carry every row with exact values, and --limit ends it', async () => {
    using c = checkout(instance())
    const { code, stdout } = await run(
      'tail',
      'orders',
      '-c',
      c.config,
      '--from',
      from,
      '--json',
      '--limit',
      '6',
    )
    expect(code).toBe(0)
    const lines = stdout
      .trim()
      .split('\n')
      .map((l) => JSON.parse(l) as Line)
    expect(lines.map((l) => l.kind)).toEqual(['ddl', 'ddl', 'insert', 'insert', 'update', 'delete'])
    expect(lines[1]?.sql).toContain('CREATE TABLE')
    expect(lines[2]).toMatchObject({
      database,
      table: 't',
      after: { id: '18446744073709551615', name: 'é', raw: { base64: 'AP8=' } },
    })
    expect(lines[2]).not.toHaveProperty('before')
    expect(lines[4]).toMatchObject({
      before: { id: '2', name: null },
      after: { id: '2', name: 'b' },
    })
    expect(lines[5]).toMatchObject({ before: { id: '2', name: 'b', raw: null } })
    expect(lines[5]?.position).toMatch(/^\S+\.\d+:\d+$/)
  })
  test('lines for people show what changed, without colours in a pipe', async () => {
    using c = checkout(instance())
    const { stdout } = await run('tail', 'orders', '-c', c.config, '--from', from, '--limit', '6')
    const lines = stdout.trim().split('\n')
    expect(lines[2]).toMatch(
      new RegExp(` INSERT ${database}\\.t id=18446744073709551615 name="é" raw=0x00ff$`),
    )
    expect(lines[4]).toMatch(new RegExp(` UPDATE ${database}\\.t id=2 name=NULL → "b"$`))
    expect(lines[5]).toMatch(new RegExp(` DELETE ${database}\\.t id=2 name="b" raw=NULL$`))
    expect(stdout).not.toContain('\u001b[')
  })
  test('--filter narrows the instance filter', async () => {
    using c = checkout(instance())
    const args = [
      'tail',
      'orders',
      '-c',
      c.config,
      '--from',
      from,
      '--json',
      '--limit',
      '1',
      '--filter',
      '.*\\.none',
    ]
    const tail = start(args)
    await mysql.query(`CREATE TABLE ${database}.none (id INT)`)
    const line = JSON.parse((await tail.result).stdout) as Line
    expect(line).toMatchObject({ table: 'none', kind: 'ddl' })
  })
  test('it follows what happens now, and SIGINT ends it cleanly', async () => {
    using c = checkout(instance())
    const tail = start(['tail', 'orders', '-c', c.config, '--from', from])
    await tail.printed('DELETE')
    await mysql.query(`INSERT INTO ${database}.t VALUES (77, 'now', NULL)`)
    await tail.printed('id=77')
    tail.child.kill('SIGINT')
    expect((await tail.result).code).toBe(0)
  })
  test('a place that is not there is an error, and says where it looked', async () => {
    using c = checkout(instance())
    const { code, stderr } = await run(
      'tail',
      'orders',
      '-c',
      c.config,
      '--from',
      'binlog.999999:4',
    )
    expect(code).toBe(1)
    expect(stderr).toContain('binlog.999999:4')
    expect(stderr).not.toContain('    at ')
  })
})
