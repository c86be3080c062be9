/**
 * Part of the matrix: what only MariaDB writes, as it writes it, read by Sluice.
 */
import { expect, it } from 'vitest'
import type { Change } from '../../src/change.ts'
import { formatGtid } from '../../src/gtid.ts'
import { parseTimeZone } from '../../src/binlog/time.ts'
import { roundTrip } from '../binlog/round-trip.ts'
import { flavourOf, temporals, typesOf } from '../binlog/types.ts'
import type { MysqlServer } from '../support/mysql.ts'
import { readThroughSource, type Read, type ReadOptions } from './source.ts'

const shown = (image: readonly unknown[] | undefined): string => (image ?? []).map(String).join(',')

/** A change in one line: what it is and, for rows, the values of each. */
function line(change: Change): string {
  switch (change.kind) {
    case 'insert':
    case 'update':
    case 'delete': {
      const rows = [...change.rows()].map(({ before, after }) => `${shown(before)}>${shown(after)}`)
      return `${change.kind} ${change.table.name} ${rows.join(' ')}`
    }
    case 'begin':
      return change.xid === '' ? 'begin' : `begin ${change.xid}`
    case 'commit':
      return change.xa ? `commit ${change.xid}` : 'commit'
    case 'ddl':
    case 'statement':
    case 'annotation':
    case 'xaCommit':
    case 'xaRollback':
      return `${change.kind} ${change.sql.slice(0, 60)}`
  }
}
const lines = ({ all }: Read): string[] => all.map(line)

export function mariadbTests(server: () => MysqlServer, database: string): void {
  const read = (statements: readonly string[], more: Partial<ReadOptions> = {}): Promise<Read> =>
    readThroughSource({
      server: server(),
      database,
      write: async (db) => {
        for (const sql of statements) await db.query(sql)
      },
      ...more,
    })
  /** Runs `body` with a global variable set. */
  async function having(setting: string, value: string, body: () => Promise<void>): Promise<void> {
    const [row] = await server().query<{ was: string }>(`SELECT @@GLOBAL.${setting} AS was`)
    await server().query(`SET GLOBAL ${setting} = ${value}`)
    try {
      await body()
    } finally {
      await server().query(`SET GLOBAL ${setting} = ?`, [row!.was])
    }
  }

  it('compressed rows and statements, annotations', () =>
    having('log_bin_compress', '1', () =>
      having('log_bin_compress_min_len', '10', async () => {
        const got = await read([
          `CREATE TABLE packed (id INT PRIMARY KEY, t TEXT) COMMENT '${'c'.repeat(200)}'`,
          `INSERT INTO packed VALUES (1, REPEAT('x', 500)), (2, REPEAT('y', 300))`,
          `UPDATE packed SET t = REPEAT('z', 400) WHERE id = 1`,
          `DELETE FROM packed WHERE id = 2`,
        ])
        expect(lines(got)).toEqual([
          "ddl CREATE TABLE packed (id INT PRIMARY KEY, t TEXT) COMMENT 'cc",
          'begin',
          `annotation INSERT INTO packed VALUES (1, REPEAT('x', 500)), (2, REPEAT(`,
          `insert packed >1,${'x'.repeat(500)} >2,${'y'.repeat(300)}`,
          'commit',
          'begin',
          `annotation UPDATE packed SET t = REPEAT('z', 400) WHERE id = 1`,
          `update packed 1,${'x'.repeat(500)}>1,${'z'.repeat(400)}`,
          'commit',
          'begin',
          'annotation DELETE FROM packed WHERE id = 2',
          `delete packed 2,${'y'.repeat(300)}>`,
          'commit',
        ])
      }),
    ))

  it('XA transactions, tables that cannot roll back, savepoints, domains', async () => {
    const got = await read([
      'SET binlog_annotate_row_events = 0',
      'CREATE TABLE trx (id INT PRIMARY KEY)',
      'CREATE TABLE plain (id INT) ENGINE=MyISAM',
      `XA START 'a','b',7; INSERT INTO trx VALUES (1); XA END 'a','b',7; XA PREPARE 'a','b',7; XA COMMIT 'a','b',7`,
      `XA START 'c'; INSERT INTO trx VALUES (2); XA END 'c'; XA PREPARE 'c'; XA ROLLBACK 'c'`,
      `XA START 'd'; INSERT INTO trx VALUES (3); XA END 'd'; XA COMMIT 'd' ONE PHASE`,
      'BEGIN; INSERT INTO trx VALUES (4); SAVEPOINT s; INSERT INTO trx VALUES (5); ROLLBACK TO s; INSERT INTO trx VALUES (6); COMMIT',
      'BEGIN; INSERT INTO trx VALUES (7); INSERT INTO plain VALUES (8); ROLLBACK',
      'SET gtid_domain_id = 5; INSERT INTO trx VALUES (9); SET gtid_domain_id = 0',
      'CREATE TABLE copied AS SELECT id FROM trx WHERE id < 4',
    ])
    expect(lines(got).slice(2)).toEqual([
      `begin X'61',X'62',7`,
      'insert trx >1',
      `commit X'61',X'62',7`,
      `xaCommit XA COMMIT X'61',X'62',7`,
      `begin X'63',X'',1`,
      'insert trx >2',
      `commit X'63',X'',1`,
      `xaRollback XA ROLLBACK X'63',X'',1`,
      'begin',
      'insert trx >3',
      'commit',
      'begin',
      'insert trx >4',
      'insert trx >6',
      'commit',
      'begin',
      'insert plain >8',
      'commit',
      'begin',
      'insert trx >9',
      'commit',
      'begin',
      'ddl CREATE TABLE `copied` (\n  `id` int(11) NOT NULL\n)',
      'insert copied >1 >3',
      'commit',
    ])
    const states = got.transactions.filter((tx) => tx.changes.length > 0).map((tx) => tx.state)
    expect(states.filter((s) => s === 'prepared')).toHaveLength(2)
    const id = (await server().query<{ id: number }>('SELECT @@server_id AS id'))[0]!.id
    const gtids = got.transactions.flatMap((tx) => (tx.gtid ? [formatGtid(tx.gtid)] : []))
    expect(gtids).toContain(`5-${id}-1`)
    expect(got.to.gtids!.toString()).toMatch(new RegExp(`^0-${id}-\\d+,5-${id}-1$`))
  })

  it('sequences, tables with a history, two-phase ALTER', async () => {
    const got = await read([
      'SET binlog_annotate_row_events = 0',
      'CREATE SEQUENCE seq',
      'SELECT NEXTVAL(seq)',
      'CREATE TABLE versioned (id INT PRIMARY KEY, x INT) WITH SYSTEM VERSIONING',
      'INSERT INTO versioned VALUES (1, 1)',
      'UPDATE versioned SET x = 2',
      'CREATE TABLE altered (id INT PRIMARY KEY)',
      'SET binlog_alter_two_phase = 1',
      'ALTER TABLE altered ADD COLUMN n INT DEFAULT 5',
      'INSERT INTO altered (id) VALUES (1)',
    ])
    const seen = lines(got).map((l) => l.replaceAll(/2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}/g, 'T'))
    expect(seen).toEqual([
      'ddl CREATE SEQUENCE seq',
      'begin',
      'insert seq >1001,1,9223372036854775806,1,1,1000,0,0',
      'commit',
      'ddl CREATE TABLE versioned (id INT PRIMARY KEY, x INT) WITH SYST',
      'begin',
      'insert versioned >1,1,T,T',
      'commit',
      'begin',
      'update versioned 1,1,T,T>1,2,T,T',
      'insert versioned >1,1,T,T',
      'commit',
      'ddl CREATE TABLE altered (id INT PRIMARY KEY)',
      'ddl ALTER TABLE altered ADD COLUMN n INT DEFAULT 5',
      'begin',
      'insert altered >1,5',
      'commit',
    ])
    const versioned = got.changes.find((c) => c.table.name === 'versioned')!
    expect(versioned.table.columns.map((c) => c.name)).toEqual(['id', 'x', 'row_start', 'row_end'])
  })

  it('goes on by GTID, as on another server, at the transaction that follows', async () => {
    let middle = ''
    const got = await readThroughSource({
      server: server(),
      database,
      write: async (db) => {
        await db.query('CREATE TABLE resumed (id INT PRIMARY KEY)')
        await db.query('INSERT INTO resumed VALUES (1)')
        await db.query(
          'SET gtid_domain_id = 9; INSERT INTO resumed VALUES (2); SET gtid_domain_id = 0',
        )
        await db.query('FLUSH BINARY LOGS')
        await db.query('INSERT INTO resumed VALUES (3)')
        const [rows] = await db.query('SELECT @@gtid_binlog_pos AS at')
        middle = (rows as { at: string }[])[0]!.at
      },
    })
    expect(got.to.gtids!.toString()).toBe(middle)
    for (const elsewhere of [true, false]) {
      const again = await readThroughSource({
        server: server(),
        database,
        write: (db) => db.query('INSERT INTO resumed SELECT MAX(id) + 1 FROM resumed'),
        start: () => (elsewhere ? { ...got.from, server: 'mariadb-0' } : got.from),
      })
      expect(again.changes.flatMap((c) => [...c.rows()].map((r) => r.after![0]))).toEqual(
        elsewhere ? [1, 2, 3, 4] : [1, 2, 3, 4, 5],
      )
    }
  })

  it('the least metadata and the most are the same', async () => {
    for (const level of ['NO_LOG', 'MINIMAL'])
      await having('binlog_row_metadata', `'${level}'`, async () => {
        const types = typesOf(flavourOf(server().version))
        for (const specs of [types['numbers']!, types['strings']!, types['mariadb']!])
          await roundTrip({
            capture: readThroughSource,
            server: server(),
            database,
            specs,
            count: 30,
          })
      })
  })

  it('dates and times in the form before MySQL 5.6', () =>
    having('mysql56_temporal_format', '0', async () => {
      for (const zone of ['+00:00', '+05:30'])
        await roundTrip({
          capture: (options) => readThroughSource({ ...options, zone: parseTimeZone(zone) }),
          server: server(),
          database,
          specs: temporals,
          count: 60,
          zone,
        })
    }))

  it('columns that did not change are absent, with FULL_NODUP as well', async () => {
    const nodup = flavourOf(server().version).version >= 110_500
    for (const image of nodup ? ['MINIMAL', 'FULL_NODUP'] : ['MINIMAL']) {
      const table = `image_${image.toLowerCase()}`
      const { changes } = await read([
        `SET binlog_row_image = '${image}'`,
        `CREATE TABLE ${table} (id INT PRIMARY KEY, a INT, b VARCHAR(10) COMPRESSED)`,
        `INSERT INTO ${table} VALUES (1, 2, 'x')`,
        `UPDATE ${table} SET a = 3`,
      ])
      expect([...changes.at(-1)!.rows()]).toEqual([
        {
          before: image === 'MINIMAL' ? [1, undefined, undefined] : [1, 2, 'x'],
          after: [undefined, 3, undefined],
        },
      ])
    }
  })
}
