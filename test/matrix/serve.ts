/**
 * Part of the matrix: `sluice check`, and the whole process between the server and a client of the SDK.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { connect, type ClientChange, type Image, type SluiceClient } from '../../src/client.ts'
import type { Finding } from '../../src/commands/check/probes.ts'
import { checkout, inProcess } from '../commands/run.ts'
import type { MysqlServer } from '../support/mysql.ts'
import { startSluice } from '../support/sluice.ts'

const text = (image: Image | undefined): string =>
  JSON.stringify(image ?? null, (_key, v: unknown) => (typeof v === 'bigint' ? String(v) : v))

/** What a change is, in one line. */
function line(change: ClientChange): string[] {
  if (change.kind === 'rows')
    return change.rows.map(
      ({ before, after }) => `${change.type} ${change.table} ${text(before)} ${text(after)}`,
    )
  if (change.kind === 'ddl') return [`${change.type} ${change.table}`]
  return []
}

/** Lines of acked batches, up to and with the one that is `last`. */
async function read(
  client: SluiceClient,
  last: string,
): Promise<{ lines: string[]; gtids: string[] }> {
  const lines: string[] = []
  const gtids = new Set<string>()
  for await (const batch of client.batches()) {
    for (const change of batch.changes) {
      lines.push(...line(change))
      if (change.executed !== '') gtids.add(change.executed)
    }
    await client.ack(batch.id)
    if (lines.includes(last)) break
  }
  return { lines, gtids: [...gtids] }
}

export function serveTests(server: () => MysqlServer, database: string): void {
  const source = () => {
    const { host, port, user, password } = server()
    return { host, port, user, password, heartbeatMs: 500 }
  }

  it('passes sluice check', async () => {
    await server().query(`CREATE DATABASE IF NOT EXISTS ${database}`)
    await server().query(`CREATE TABLE ${database}.checked (id INT PRIMARY KEY)`)
    using c = checkout({ orders: { source: source(), filter: { include: `${database}\\..*` } } })
    const more = /mariadb/i.test(server().version) ? ['--second-opinion'] : []
    const { code, stdout, stderr } = await inProcess(['check', '-c', c.config, '--json', ...more])
    expect(stderr).toBe('')
    const reports = JSON.parse(stdout) as { findings: Finding[] }[]
    const findings = reports.flatMap((r) => r.findings)
    const of = (name: string): Finding => findings.find((f) => f.check === name)!
    expect(findings.filter((f) => f.level === 'fail')).toEqual([])
    expect(of('version').message).toContain(server().version)
    for (const name of [
      'version',
      'binlog',
      'binlog format',
      'row image',
      'checksum',
      'rights',
      'server id',
      'GTID',
    ])
      expect(of(name), name).toMatchObject({ level: 'ok' })
    expect(of('filter').message).toContain(`${database}.checked`)
    expect(findings.filter((f) => f.message.includes('could not be checked'))).toEqual([])
    if (more.length > 0)
      expect(of('second opinion')).toMatchObject({
        level: 'warn',
        message: expect.stringContaining('made for MySQL') as string,
      })
    expect(code).toBe(0)
  })

  it('serves changes and DDL to a client, and goes on after a restart', async () => {
    const mysql = server()
    const dir = mkdtempSync(join(tmpdir(), 'sluice-matrix-'))
    const instances = {
      shop: { source: source(), filter: { include: `${database}\\..*` }, gtid: true },
    }
    const run = async (sql: string): Promise<void> =>
      void (await mysql.query(`USE ${database}; ${sql}`))
    let sluice = await startSluice({ dir, instances })
    try {
      await sluice.logged('instance shop running')
      let client = await connect({ port: sluice.port, destination: 'shop' })
      await run(
        `CREATE TABLE served (id INT PRIMARY KEY, name VARCHAR(20) CHARACTER SET latin1, at DATETIME(3))`,
      )
      await run(`INSERT INTO served VALUES (1, 'Zoë', '2026-11-26 01:02:03.456'), (2, NULL, NULL)`)
      await run(`UPDATE served SET name = 'Ünal' WHERE id = 1`)
      await run(`ALTER TABLE served ADD COLUMN n BIGINT UNSIGNED FIRST, DROP COLUMN at`)
      await run(`INSERT INTO served VALUES (18446744073709551615, 3, 'x')`)
      const first = await read(
        client,
        'insert served null {"n":"18446744073709551615","id":3,"name":"x"}',
      )
      expect(first.lines).toEqual([
        'CREATE served',
        'insert served null {"id":1,"name":"Zoë","at":"2026-11-26 01:02:03.456"}',
        'insert served null {"id":2,"name":null,"at":null}',
        'update served {"id":1,"name":"Zoë","at":"2026-11-26 01:02:03.456"} {"id":1,"name":"Ünal","at":"2026-11-26 01:02:03.456"}',
        'ALTER served',
        'insert served null {"n":"18446744073709551615","id":3,"name":"x"}',
      ])
      expect(first.gtids.length).toBeGreaterThanOrEqual(5)
      await client.close()
      expect(await sluice.stop()).toBe(0)
      await run(`DELETE FROM served WHERE id = 2`)
      await run(`RENAME TABLE served TO kept`)
      sluice = await startSluice({ dir, instances })
      client = await connect({ port: sluice.port, destination: 'shop' })
      await run(`INSERT INTO kept VALUES (1, 4, 'y')`)
      const second = await read(client, 'insert kept null {"n":"1","id":4,"name":"y"}')
      expect(second.lines).toEqual([
        'delete served {"n":null,"id":2,"name":null} null',
        'RENAME kept',
        'insert kept null {"n":"1","id":4,"name":"y"}',
      ])
      await client.close()
      expect(await sluice.stop()).toBe(0)
    } finally {
      await sluice.kill()
      rmSync(dir, { recursive: true, force: true })
    }
  })
}
