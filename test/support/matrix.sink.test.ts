/** Every version of MySQL and MariaDB that the matrix runs against can be had, started, killed and read from. */
import { describe, expect, test } from 'vitest'
import { matrixVersions, privateMysql } from './mysql.ts'

describe.each(matrixVersions)('%s', (version) => {
  test('writes a binary log in row format, and keeps what was committed when it is killed', async () => {
    await using server = await privateMysql(version, { args: ['--max-connections=17'] })
    const maria = version.startsWith('mariadb-')
    expect(server.version.startsWith(version.replace('mariadb-', ''))).toBe(true)
    expect(/mariadb/i.test(server.version)).toBe(maria)
    await server.query('CREATE DATABASE d; CREATE TABLE d.t (n INT PRIMARY KEY)')
    await server.query('INSERT INTO d.t VALUES (1)')
    await server.kill()
    await server.start()
    await server.stop()
    await server.start()
    const [row] = await server.query('SELECT *, @@max_connections AS most FROM d.t')
    expect(row).toEqual({ n: 1, most: 17 })
    const gtid = maria ? '@@gtid_strict_mode' : '@@gtid_mode'
    const [settings] = await server.query(
      `SELECT @@binlog_format AS format, @@binlog_row_image AS image, @@binlog_checksum AS sum, ${gtid} AS gtid`,
    )
    expect(settings).toEqual({ format: 'ROW', image: 'FULL', sum: 'CRC32', gtid: maria ? 1 : 'ON' })
  })
})
