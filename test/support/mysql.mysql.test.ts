/** The test support itself: what the other tests on MySQL rely on. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { connect } from 'node:net'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { describe, expect, test } from 'vitest'
import { privateMysql, sharedMysql, uniqueDatabase, versions } from './mysql.ts'

describe.each(versions)('MySQL %s', (version) => {
  test('the shared server writes a binary log that Sluice can read, and speaks TLS', async () => {
    await using server = await sharedMysql(version)
    const [settings] = await server.query(
      'SELECT @@binlog_format AS format, @@binlog_row_image AS image, @@gtid_mode AS gtid, @@binlog_checksum AS sum',
    )
    expect(settings).toEqual({ format: 'ROW', image: 'FULL', gtid: 'ON', sum: 'CRC32' })
    const connection = await server.connect({ ssl: { rejectUnauthorized: false } })
    const [rows] = await connection.query(`SHOW STATUS LIKE 'Ssl_cipher'`)
    expect((rows as { Value: string }[])[0]!.Value).not.toBe('')
    await connection.end()
    await expect(server.kill()).rejects.toThrow('shared')
  })

  test('a private server takes arguments, and keeps what was committed when it is killed', async () => {
    await using server = await privateMysql(version, { args: ['--binlog-row-metadata=MINIMAL'] })
    const database = uniqueDatabase('support')
    await server.query(`CREATE DATABASE ${database}`)
    await server.query(`CREATE TABLE ${database}.t (n BIGINT PRIMARY KEY, d DATETIME(6))`)
    await server.query(`INSERT INTO ${database}.t VALUES (?, ?)`, [
      2n ** 62n,
      '2026-11-23 01:02:03.4',
    ])
    const { port } = server
    await server.kill()
    await expect(server.query('SELECT 1')).rejects.toThrow('ECONNREFUSED')
    await server.start()
    await server.stop()
    await server.start()
    expect(server.port).toBe(port)
    const [row] = await server.query(
      `SELECT *, @@binlog_row_metadata AS metadata FROM ${database}.t`,
    )
    expect(row).toEqual({ n: `${2n ** 62n}`, d: '2026-11-23 01:02:03.400000', metadata: 'MINIMAL' })
  })

  test('nothing is left of a server whose process was killed', async () => {
    const script = `
      import { privateMysql } from ${JSON.stringify(join(import.meta.dirname, 'mysql.ts'))}
      const { port, dataDir } = await privateMysql('${version}')
      console.log(JSON.stringify({ port, dataDir }))
      setInterval(() => undefined, 1000)`
    const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const line = await createInterface({ input: child.stdout })[Symbol.asyncIterator]().next()
    const { port, dataDir } = JSON.parse(line.value as string) as { port: number; dataDir?: string }
    const left = async () =>
      (await answers(port)) || (dataDir !== undefined && existsSync(dirname(dataDir)))
    expect(await left()).toBe(true)
    child.kill('SIGKILL')
    await once(child, 'exit')
    await expect.poll(left, { timeout: 20_000 }).toBe(false)
  })
})

async function answers(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
