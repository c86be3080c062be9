import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { describe, expect, test } from 'vitest'
import type { Finding } from '../../src/commands/check/probes.ts'
import { privateMysql, sharedMysql, uniqueDatabase, versions } from '../support/mysql.ts'
import type { MysqlServer } from '../support/mysql.ts'
import { checkout, run } from './run.ts'

type Reports = { subject: string; findings: Finding[] }[]
const sourceOf = ({ host, port, user, password }: MysqlServer) => ({ host, port, user, password })

async function check(instance: object, ...args: string[]) {
  using c = checkout({ orders: instance })
  const { code, stdout, stderr } = await run('check', '-c', c.config, '--json', ...args)
  expect(stderr).toBe('')
  const findings = (JSON.parse(stdout) as Reports).flatMap((r) => r.findings)
  const of = (name: string): Finding | undefined => findings.find((f) => f.check === name)
  return { code, findings, of, levels: new Set(findings.map((f) => f.level)) }
}

describe.each(versions)('check against MySQL %s', (version) => {
  test('a suitable source passes; the tables that the filter matches are listed', async () => {
    const mysql = await sharedMysql(version)
    const database = uniqueDatabase('p8check')
    await mysql.query(`CREATE DATABASE ${database}`)
    await mysql.query(`CREATE TABLE ${database}.users (id INT PRIMARY KEY)`)
    await mysql.query(`CREATE TABLE ${database}.log (text VARCHAR(10))`)
    const { code, of } = await check({
      source: sourceOf(mysql),
      filter: { include: `${database}\\..*` },
    })
    expect(code).toBe(0)
    for (const name of [
      'version',
      'binlog',
      'binlog format',
      'row image',
      'row metadata',
      'checksum',
      'rights',
      'server id',
      'GTID',
      'retention',
      'time zone',
    ]) {
      expect(of(name), name).toMatchObject({ level: 'ok' })
    }
    expect(of('version')?.message).toContain(version)
    expect(of('filter')?.message).toContain(`${database}.log, ${database}.users`)
    expect(of('primary keys')).toMatchObject({
      level: 'warn',
      message: expect.stringContaining(`${database}.log`) as string,
    })
    await mysql.query(`DROP DATABASE ${database}`)
  })
  test('a user without rights fails, with the statements that give them', async () => {
    const mysql = await sharedMysql(version)
    const user = uniqueDatabase('p8').slice(0, 30)
    await mysql.query(`CREATE USER '${user}'@'%' IDENTIFIED BY 'secret'`)
    const source = { ...sourceOf(mysql), user, password: 'secret' }
    const bare = await check({ source })
    expect(bare.code).toBe(1)
    expect(bare.of('right to see positions')).toMatchObject({
      level: 'fail',
      fix: `GRANT REPLICATION CLIENT ON *.* TO '${user}'@'%';`,
    })
    expect(bare.of('right to read the binlog')).toMatchObject({
      level: 'fail',
      fix: `GRANT REPLICATION SLAVE ON *.* TO '${user}'@'%';`,
    })
    expect(bare.of('right to see tables')).toMatchObject({
      level: 'warn',
      fix: `GRANT SELECT ON *.* TO '${user}'@'%';`,
    })
    for (const finding of bare.findings)
      if (finding.fix?.startsWith('GRANT')) await mysql.query(finding.fix)
    const { code, findings } = await check({ source })
    expect(findings.filter((f) => f.check.startsWith('right'))).toEqual([
      { check: 'rights', level: 'ok', message: 'REPLICATION CLIENT, REPLICATION SLAVE' },
    ])
    expect(code).toBe(0)
    const wrong = await check({ source: { ...source, password: 'hunter2' } })
    expect(wrong.code).toBe(1)
    expect(wrong.of('connection')).toMatchObject({
      level: 'fail',
      fix: expect.stringContaining('CREATE USER') as string,
    })
    expect(JSON.stringify(wrong.findings)).not.toContain('hunter2')
    await mysql.query(`DROP USER '${user}'@'%'`)
  })
  test('a second opinion on every common type finds no difference', async () => {
    // A log of its own: what others write at the same time may be more than what is looked at, or more than zongji knows.
    await using mysql = await privateMysql(version)
    const database = 'opinion'
    await mysql.query(`CREATE DATABASE ${database} CHARACTER SET utf8mb4`)
    await mysql.query(`CREATE TABLE ${database}.t (
      id BIGINT UNSIGNED PRIMARY KEY, a TINYINT, b INT UNSIGNED, c DECIMAL(30,10), d DOUBLE, e FLOAT, f BIT(12), g YEAR,
      h DATE, i DATETIME(6), j TIMESTAMP(3) NULL, k TIME(2), l CHAR(10), m VARCHAR(300) CHARACTER SET latin1, n TEXT,
      o VARBINARY(20), p BLOB, q ENUM('x','y'), r SET('a','b','c'), s JSON)`)
    await mysql.query(`INSERT INTO ${database}.t VALUES
      (18446744073709551615, -128, 4294967295, '-123.4500000000', 1.5e300, 0.1, b'101000000001', 2026, '2026-11-23',
       '2026-11-23 01:02:03.000004', '2026-11-23 01:02:03.456', '123:04:05.60', 'añ🙂', 'é', 'text', x'00ff', x'0001', 'y', 'a,c',
       '{"a": [1, 2.5, null, true, "x"], "b": {"c": 12345678901}}'),
      (1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)`)
    await mysql.query(`UPDATE ${database}.t SET a = 5, m = 'ü' WHERE id = 1`)
    await mysql.query(`DELETE FROM ${database}.t WHERE id > 1`)
    const { code, findings } = await check(
      { source: sourceOf(mysql), filter: { include: `${database}\\..*` } },
      '--second-opinion',
      '--events',
      '100000',
    )
    const opinions = findings.filter((f) => f.check === 'second opinion')
    expect(opinions).toEqual([
      {
        check: 'second opinion',
        level: 'ok',
        message: expect.stringMatching(
          /^Sluice and zongji agree on 100 values in 4 rows/,
        ) as string,
      },
    ])
    expect(code).toBe(0)
  })
})

test('a source that is set up wrongly: each finding with the statement that puts it right', async () => {
  await using mysql = await privateMysql('8.0', {
    args: [
      '--server-id=7',
      '--binlog-format=STATEMENT',
      '--binlog-row-image=MINIMAL',
      '--binlog-row-metadata=MINIMAL',
      '--binlog-checksum=NONE',
      '--gtid-mode=OFF',
      '--enforce-gtid-consistency=OFF',
      '--binlog-expire-logs-seconds=3600',
      '--binlog-row-value-options=PARTIAL_JSON',
    ],
  })
  const instance = { source: { ...sourceOf(mysql), serverId: 7 } }
  const { code, of, findings } = await check(instance)
  expect(code).toBe(1)
  expect(of('binlog format')).toMatchObject({
    level: 'fail',
    fix: expect.stringContaining("SET PERSIST binlog_format = 'ROW';") as string,
  })
  expect(of('row image')).toMatchObject({
    level: 'warn',
    fix: "SET PERSIST binlog_row_image = 'FULL';",
  })
  expect(of('row metadata')).toMatchObject({
    level: 'warn',
    fix: "SET PERSIST binlog_row_metadata = 'FULL';",
  })
  expect(of('checksum')).toMatchObject({
    level: 'warn',
    fix: "SET PERSIST binlog_checksum = 'CRC32';",
  })
  expect(of('partial JSON')).toMatchObject({ level: 'warn' })
  expect(of('GTID')).toMatchObject({
    level: 'warn',
    message: expect.stringContaining('gtid_mode is OFF') as string,
  })
  expect(of('retention')).toMatchObject({
    level: 'warn',
    message: expect.stringContaining('1.0 hours') as string,
  })
  expect(of('server id')).toMatchObject({ level: 'fail' })
  expect((await check({ ...instance, gtid: true })).of('GTID')).toMatchObject({ level: 'fail' })
  // What it says helps: run every single-statement fix that it gives, and look again.
  for (const { fix } of findings) {
    const statement = /^SET PERSIST \w+ = '\w+';/.exec(fix ?? '')?.[0]
    if (statement) await mysql.query(statement)
  }
  const again = await check({ source: sourceOf(mysql) })
  for (const name of ['row image', 'row metadata', 'checksum', 'retention']) {
    if (name !== 'retention') expect(again.of(name), name).toMatchObject({ level: 'ok' })
  }
  expect(again.of('binlog format')).toMatchObject({ level: 'ok' })
})

test('nobody there, and a server that is none', async () => {
  const closed = await check({ source: { port: 1 } })
  expect(closed.code).toBe(1)
  expect(closed.of('connection')).toMatchObject({
    level: 'fail',
    fix: expect.stringContaining('127.0.0.1:1') as string,
  })
  const silent = createServer(() => {})
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  const { port } = silent.address() as AddressInfo
  const { code, of } = await check({ source: { port, connectTimeoutMs: '200ms' } })
  silent.close()
  expect(code).toBe(1)
  expect(of('connection')).toMatchObject({ level: 'fail' })
})
test('problems of every file are findings; other instances are checked all the same', async () => {
  using c = checkout({ a: 'source: {prot: 1}', b: { source: { port: 1 } } })
  const { code, stdout } = await run('check', '-c', c.config)
  expect(code).toBe(1)
  expect(stdout).toContain('a.yaml:1:10: source.prot: unknown key; did you mean "port"?')
  expect(stdout).toContain('b: canal@127.0.0.1:1')
  expect(stdout).toMatch(/\d+ ok, \d+ warnings, 2 failures/)
})
