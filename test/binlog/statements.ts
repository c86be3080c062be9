/**
 * SQL that makes MySQL write every kind of event it can be made to write, on a server that belongs to the test alone
 * (globals are set, logs are flushed). Shared by the test on a real server and by the recording of the fixtures that
 * the pure test reads: `npx node test/binlog/record.ts HOST:PORT VERSION`.
 */
import { Readable } from 'node:stream'
import mysql from 'mysql2/promise'
import type { Address } from './dump.ts'

const TABLES = [
  `CREATE TABLE wide (
    id bigint unsigned NOT NULL, a tinyint, y year, b varchar(20) CHARACTER SET gbk NOT NULL, c char(200),
    d enum('x','ÿ') CHARACTER SET latin1, e set('p','q'), f json, g point, h varbinary(10), i text, k blob,
    l decimal(10,2), m bit(10), n time(3), o datetime(6), p timestamp(2) NULL, q float unsigned, r double,
    s int AS (a + 1) STORED, t int AS (a + 2) VIRTUAL, u mediumint unsigned, v smallint, w date, x geometry,
    z char(3) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, PRIMARY KEY (b(3), id))`,
  'CREATE TABLE parted (id int PRIMARY KEY, v int) PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN MAXVALUE)',
  'CREATE TABLE doc (id int PRIMARY KEY, d json, e json)',
  'CREATE TABLE plain (id int AUTO_INCREMENT PRIMARY KEY, v double, w varchar(100)) ENGINE=MyISAM',
]
const ROWS = [
  `INSERT INTO wide (id,a,y,b,c,d,e,f,g,h) VALUES (1,2,2026,'中','c','ÿ','p,q','{"x":[1,2]}',point(1,2),x'00ff')`,
  'UPDATE wide SET a = 3',
  'DELETE FROM wide',
  'INSERT INTO parted VALUES (1,1),(20,2)',
  'UPDATE parted SET id = 30 WHERE id = 1',
  `INSERT INTO doc VALUES (1,'{"a":1,"b":[1,2,3]}','{}')`,
  'SET binlog_row_value_options = PARTIAL_JSON',
  `UPDATE doc SET d = json_set(d, '$.a', 5)`,
  `SET binlog_row_value_options = ''`,
  'SET binlog_row_image = MINIMAL',
  `INSERT INTO wide (id,b,a) VALUES (5,'q',1)`,
  'UPDATE wide SET a = 9 WHERE id = 5',
  'DELETE FROM wide',
  'SET binlog_row_image = NOBLOB',
  `INSERT INTO wide (id,b,a,i) VALUES (5,'q',1,'text')`,
  'UPDATE wide SET a = 2',
  'SET binlog_row_image = FULL',
  'SET binlog_rows_query_log_events = 1',
  `INSERT INTO parted VALUES (3,3) /* ${'long '.repeat(60)}中文 */`,
  'SET binlog_rows_query_log_events = 0',
  'SET binlog_transaction_compression = ON',
  'INSERT INTO parted VALUES (4,4),(5,5)',
  'SET binlog_transaction_compression = OFF',
]
const XA = [
  `XA START 'ab','c',7`,
  'INSERT INTO parted VALUES (6,6)',
  `XA END 'ab','c',7`,
  `XA PREPARE 'ab','c',7`,
  `XA COMMIT 'ab','c',7`,
  `XA START 'x'`,
  'INSERT INTO parted VALUES (7,7)',
  `XA END 'x'`,
  `XA COMMIT 'x' ONE PHASE`,
  `XA START 'y'`,
  'INSERT INTO parted VALUES (8,8)',
  `XA END 'y'`,
  `XA PREPARE 'y'`,
  `XA ROLLBACK 'y'`,
]
const STATEMENT_FORMAT = [
  'SET binlog_format = STATEMENT',
  'INSERT INTO plain (v) VALUES (rand())',
  `SET @s = 'it''s \\\\ 中', @i = -5, @u = 18446744073709551615, @d = -1.50, @r = 1.5e10, @n = NULL, @g = _gbk x'd6d0'`,
  'INSERT INTO plain (w) VALUES (concat(@s,@i,@u,@d,@r,@n))',
  'INSERT INTO plain (w) VALUES (@g)',
  'INSERT INTO plain (w) SELECT last_insert_id()',
  `LOAD DATA LOCAL INFILE 'short' INTO TABLE plain (w)`,
  `LOAD DATA LOCAL INFILE 'long' INTO TABLE plain (w)`,
  'SET binlog_format = ROW',
]
const ONLY_8 = [
  'SET GLOBAL log_bin_use_v1_row_events = 1',
  'INSERT INTO parted VALUES (40,1)',
  'UPDATE parted SET v = 2 WHERE id = 40',
  'DELETE FROM parted WHERE id = 40',
  'SET GLOBAL log_bin_use_v1_row_events = 0',
]
const ONLY_9 = [
  `SET gtid_next = 'AUTOMATIC:later'`,
  'INSERT INTO parted VALUES (50,1)',
  'INSERT INTO parted VALUES (51,1)',
  `SET gtid_next = 'AUTOMATIC:a_tag'`,
  'INSERT INTO parted VALUES (52,1)',
  'SET gtid_next = AUTOMATIC',
  'CREATE TABLE vec (id int, v vector(3), w vector(2000))',
  `INSERT INTO vec VALUES (1, string_to_vector('[1,2,3]'), NULL)`,
]
const LAST = [
  `SET gtid_next = 'AAAAAAAA-0000-0000-0000-00000000000A:9223372036854775806'`,
  'INSERT INTO parted VALUES (60,1)',
  'SET gtid_next = AUTOMATIC',
  'FLUSH BINARY LOGS',
  'INSERT INTO parted VALUES (61,1)',
]

const LINES = Buffer.from(`first\n${'x'.repeat(90)}\n`.repeat(20))
/** More than fits into one block (128 KiB), by little. */
const LONG_LINES = Buffer.from(`${'y'.repeat(99)}\n`.repeat(1320))

/** A statement in another character set than UTF-8. */
async function writeGbk(server: Address, database: string): Promise<void> {
  const connection = await mysql.createConnection({
    ...server,
    database,
    charset: 'GBK_CHINESE_CI',
  })
  await connection.query('SET binlog_format = STATEMENT')
  await connection.query(`INSERT INTO plain (w) VALUES ('中')`)
  await connection.end()
}

/** Runs everything in a new database; returns the file that was being written when it began. */
export async function writeEveryEvent(
  server: Address,
  major: 8 | 9,
  database: string,
): Promise<string> {
  const connection = await mysql.createConnection({
    ...server,
    infileStreamFactory: (path) => Readable.from(path === 'short' ? [LINES] : [LONG_LINES, LINES]),
  })
  try {
    await connection.query('SET GLOBAL local_infile = 1')
    await connection.query(`CREATE DATABASE ${database}`)
    await connection.changeUser({ database })
    const [logs] = await connection.query<mysql.RowDataPacket[]>('SHOW BINARY LOGS')
    const more = major === 8 ? ONLY_8 : ONLY_9
    for (const sql of [...TABLES, ...ROWS, ...XA, ...STATEMENT_FORMAT, ...more])
      await connection.query(sql)
    await writeGbk(server, database)
    for (const sql of LAST) await connection.query(sql)
    return String(logs.at(-1)!['Log_name'])
  } finally {
    await connection.end()
  }
}

/** One transaction without a GTID; leaves gtid_mode at ON_PERMISSIVE, as ON would refuse to send it. */
export async function writeAnonymous(server: Address, database: string): Promise<void> {
  const connection = await mysql.createConnection({ ...server, database })
  await connection.query('SET GLOBAL gtid_mode = ON_PERMISSIVE')
  await connection.query('SET GLOBAL gtid_mode = OFF_PERMISSIVE')
  await connection.query('INSERT INTO parted VALUES (62,1)')
  await connection.query('SET GLOBAL gtid_mode = ON_PERMISSIVE')
  await connection.end()
}
