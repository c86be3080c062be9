/** Event readers against real servers: everything they write is read, and read as SHOW BINLOG EVENTS reads it. */
import fc from 'fast-check'
import mysql from 'mysql2/promise'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  readExecuteLoadQuery,
  readGtid,
  readHeartbeat,
  readLoadBlock,
  readPreviousGtids,
  readQuery,
  readRotate,
  readRowsQuery,
  readTransactionPayload,
  readXaPrepare,
  readXid,
  statementText,
} from '../../src/binlog/event.ts'
import {
  FLAG_ARTIFICIAL,
  checksumMatches,
  eventFlags,
  eventName,
  eventNextPosition,
  eventType,
  eventTypes as t,
  readFormat,
} from '../../src/binlog/reader.ts'
import type { Format } from '../../src/binlog/reader.ts'
import { readMetadata, readTableMap } from '../../src/binlog/table-map.ts'
import { readRowsHeader } from '../../src/binlog/rows-header.ts'
import { GtidSet, formatGtid } from '../../src/gtid.ts'
import { privateMysql, sharedMysql, uniqueDatabase, versions } from '../support/mysql.ts'
import type { MysqlServer } from '../support/mysql.ts'
import type { Address } from './dump.ts'
import { dump, dumpGtid, dumpToHeartbeat } from './dump.ts'
import { bodyEnd, readers } from './readers.ts'
import { writeAnonymous, writeEveryEvent } from './statements.ts'

interface Shown {
  readonly Event_type: string
  readonly End_log_pos: number
  readonly Info: string
}

/** SHOW BINLOG EVENTS' names where they are not ours in other letters. */
const shownNames: Record<string, number> = {
  FORMAT_DESC: t.FORMAT_DESCRIPTION,
  UPDATE_ROWS_PARTIAL: t.PARTIAL_UPDATE_ROWS,
  GTID_TAGGED_LOG_EVENT: t.GTID_TAGGED,
}
const shownType = (name: string): number => {
  const ours = name.toUpperCase().replace(' ', '_')
  return shownNames[ours] ?? t[ours as keyof typeof t]
}

/** What SHOW BINLOG EVENTS would have to say of the event, or a part of it. */
function info(event: Buffer, format: Format): string {
  const end = bodyEnd(event)
  const type = eventType(event, 0)
  switch (type) {
    case t.FORMAT_DESCRIPTION:
      return `Server ver: ${format.serverVersion}, Binlog ver: 4`
    case t.PREVIOUS_GTIDS:
      return readPreviousGtids(event, 0, end).toString()
    case t.GTID:
    case t.GTID_TAGGED:
    case t.ANONYMOUS_GTID: {
      const { gtid } = readGtid(event, 0, end)
      return `SET @@SESSION.GTID_NEXT= '${gtid ? formatGtid(gtid) : 'ANONYMOUS'}'`
    }
    case t.QUERY:
      return statementText(event, readQuery(event, 0, end))
    case t.EXECUTE_LOAD_QUERY: {
      const load = readExecuteLoadQuery(event, 0, end)
      return `${statementText(event, load)} ;file_id=${load.fileId}`
    }
    case t.BEGIN_LOAD_QUERY:
    case t.APPEND_BLOCK: {
      const block = readLoadBlock(event, 0, end)
      return `;file_id=${block.fileId};block_len=${block.end - block.start}`
    }
    case t.TABLE_MAP: {
      const map = readTableMap(event, 0, end, format)
      return `table_id: ${map.tableId} (${map.database}.${map.table})`
    }
    case t.XID:
      return `COMMIT /* xid=${readXid(event, 0, end)} */`
    case t.XA_PREPARE: {
      const { onePhase, xid } = readXaPrepare(event, 0, end)
      return onePhase ? `XA COMMIT ${xid} ONE PHASE` : `XA PREPARE ${xid}`
    }
    case t.ROWS_QUERY:
      return `# ${readRowsQuery(event, 0, end)}`
    case t.TRANSACTION_PAYLOAD:
      return `compression='ZSTD', decompressed_size=${readTransactionPayload(event, 0, end).uncompressedBytes} bytes`
    case t.ROTATE: {
      const { file, position } = readRotate(event, 0, end)
      return `${file};pos=${position}`
    }
    case t.INTVAR:
    case t.RAND:
    case t.USER_VAR: {
      const sql = readers.get(type)!(event, 0, end, format) as string
      if (sql.endsWith(`'`)) return ''
      return sql
        .replace('SET ', '')
        .replace('SESSION ', '')
        .replace(/^@(\w+) :?= /, '@`$1`=')
        .replace('1.5E10', '15000000000')
        .replaceAll(' ', '')
    }
    default: {
      if (!eventName(type).includes('ROWS')) return ''
      const header = readRowsHeader(event, 0, end, format)
      return `table_id: ${header.tableId}${header.lastOfStatement ? ' flags: STMT_END_F' : ''}`
    }
  }
}

const KINDS =
  'ROTATE FORMAT_DESCRIPTION PREVIOUS_GTIDS GTID ANONYMOUS_GTID QUERY TABLE_MAP XID XA_PREPARE WRITE_ROWS UPDATE_ROWS DELETE_ROWS PARTIAL_UPDATE_ROWS ROWS_QUERY TRANSACTION_PAYLOAD INTVAR RAND USER_VAR BEGIN_LOAD_QUERY APPEND_BLOCK EXECUTE_LOAD_QUERY'
const KINDS_9 = 'GTID_TAGGED'
const KINDS_8 = 'WRITE_ROWS_V1 UPDATE_ROWS_V1 DELETE_ROWS_V1'

describe.each(versions)('MySQL %s', (version) => {
  const major = version.startsWith('8') ? 8 : 9
  let server: MysqlServer
  let address: Address
  const database = uniqueDatabase('event')
  let file = ''
  beforeAll(async () => {
    server = await privateMysql(version)
    await server.query('SET GLOBAL gtid_mode = ON')
    const { host, port, user, password } = server
    address = { host, port, user, password }
    file = await writeEveryEvent(address, major, database)
  })
  afterAll(() => server[Symbol.asyncDispose]())

  it('a dump by GTIDs begins after exactly the set that was sent', async () => {
    const all = new GtidSet()
    const found = (events: Buffer[]): string[] =>
      events
        .filter((e) => eventType(e, 0) === t.GTID || eventType(e, 0) === t.GTID_TAGGED)
        .map((e) => {
          const { gtid } = readGtid(e, 0, bodyEnd(e))
          all.add(gtid!)
          return formatGtid(gtid!)
        })
    const everything = found(await dumpGtid(server, new GtidSet()))
    const [row] = await server.query<{ executed: string }>(
      'SELECT @@GLOBAL.gtid_executed AS executed',
    )
    expect(all.toString()).toBe(row!.executed.replaceAll('\n', ''))
    const half = GtidSet.parse(everything.filter((_, i) => i % 2 === 0).join(','))
    expect(found(await dumpGtid(server, half))).toEqual(everything.filter((_, i) => i % 2 === 1))
  })

  it('every event is read as SHOW BINLOG EVENTS reads it', async () => {
    await writeAnonymous(address, database)
    const events = await dump(server, file)
    expect(new Set(events.map((e) => eventName(eventType(e, 0))))).toEqual(
      new Set([...KINDS.split(' '), ...(major === 9 ? KINDS_9 : KINDS_8).split(' ')]),
    )
    let shown: Shown[] = []
    let format: Format | undefined
    let index = 0
    for (const event of events) {
      const type = eventType(event, 0)
      expect(checksumMatches(event, 0, event.length)).toBe(true)
      if (type === t.ROTATE && eventFlags(event, 0) & FLAG_ARTIFICIAL) {
        const { file: next } = readRotate(event, 0, bodyEnd(event))
        if (format && index === shown.length) {
          shown = []
          index = 0
        }
        if (shown.length === 0) shown = await server.query<Shown>('SHOW BINLOG EVENTS IN ?', [next])
        continue
      }
      if (type === t.FORMAT_DESCRIPTION) format = readFormat(event, 0, event.length)
      const expected = shown[index++]!
      expect(eventName(type)).toBe(eventName(shownType(expected.Event_type)))
      expect(eventNextPosition(event, 0)).toBe(expected.End_log_pos)
      // What a payload holds is shown as well, at the payload's own position.
      while (shown[index]?.End_log_pos === expected.End_log_pos) index++
      readers.get(type)!(event, 0, bodyEnd(event), format!)
      // SHOW breaks lines in GTID sets, and does not convert statements.
      const said = expected.Info.replace('\ufffd\ufffd', '中')
      expect(type === t.PREVIOUS_GTIDS ? said.replaceAll('\n', '') : said).toContain(
        info(event, format!),
      )
    }
    expect(index).toBe(shown.length)
  })

  it('a server that was stopped ends its log with STOP', async () => {
    const [last] = (await server.query<{ Log_name: string }>('SHOW BINARY LOGS')).slice(-1)
    await server.stop()
    await server.start()
    const events = await dump(server, last!.Log_name)
    const types = events.map((e) => eventName(eventType(e, 0)))
    expect(types.filter((type) => type === 'STOP' || type === 'FORMAT_DESCRIPTION')).toEqual([
      'FORMAT_DESCRIPTION',
      'STOP',
      'FORMAT_DESCRIPTION',
    ])
  })

  it('heartbeats', async () => {
    const [last] = (
      await server.query<{ Log_name: string; File_size: number }>('SHOW BINARY LOGS')
    ).slice(-1)
    const events = await dumpToHeartbeat(server, last!.Log_name)
    const event = events.at(-1)!
    expect(eventType(event, 0)).toBe(t.HEARTBEAT_V2)
    expect(readHeartbeat(event, 0, bodyEnd(event))).toEqual({
      file: last!.Log_name,
      position: last!.File_size,
    })
  })
})

describe('optional metadata says what information_schema says', () => {
  const collation = fc.constantFrom(
    'utf8mb4_0900_ai_ci',
    'latin1_bin',
    'gbk_chinese_ci',
    'utf8mb3_general_ci',
    'utf32_bin',
  )
  const plain = fc.constantFrom(
    ...'tinyint,smallint unsigned,mediumint,int unsigned,bigint,decimal(5;2) unsigned,float,double unsigned,year,bit(9),date,time(3),datetime(6),timestamp NULL,json,binary(4),varbinary(9),blob,longblob,geometry,point,linestring,polygon,multipoint,multilinestring,multipolygon,geometrycollection,bigint unsigned INVISIBLE'
      .split(',')
      .map((type) => type.replace(';', ',')),
  )
  const text = fc
    .tuple(
      fc.constantFrom(
        'char(3)',
        'varchar(300)',
        'text',
        'longtext',
        `enum('a','é')`,
        `set('x','é','z')`,
      ),
      collation,
    )
    .map(([type, name]) => `${type} COLLATE ${name}`)
  const tables = fc.record({
    columns: fc.array(fc.oneof(plain, text), { minLength: 1, maxLength: 40 }),
    key: fc.boolean(),
  })

  it.each(versions)('on MySQL %s', async (version) => {
    const server = await sharedMysql(version)
    const database = uniqueDatabase('metadata')
    const { host, port, user, password } = server
    const connection = await mysql.createConnection({ host, port, user, password })
    await connection.query(`CREATE DATABASE ${database}`)
    await connection.query(`USE ${database}`)
    const made: string[] = []
    await fc.assert(
      fc.asyncProperty(tables, async ({ columns, key }) => {
        const table = `t${made.length}`
        const list = columns.map((type, i) => `c${i} ${type}`)
        await connection.query(
          `CREATE TABLE ${table} (id int, p varchar(40) NOT NULL, ${list.join(', ')}${key ? ', PRIMARY KEY (p(7), id)' : ''})`,
        )
        await connection.query(`INSERT INTO ${table} (id, p) VALUES (1, 'a')`)
        made.push(table)
      }),
      { numRuns: 30 },
    )
    const [logs] = await connection.query<mysql.RowDataPacket[]>('SHOW BINARY LOGS')
    const events = await dump(server, String(logs.at(-1)!['Log_name']))
    const begin = events.find((event) => eventType(event, 0) === t.FORMAT_DESCRIPTION)!
    const format = readFormat(begin, 0, begin.length)
    const maps = events
      .filter((event) => eventType(event, 0) === t.TABLE_MAP)
      .map((event) => readTableMap(event, 0, bodyEnd(event), format))
      .filter((map) => map.database === database)
    expect(maps.map((map) => map.table)).toEqual(made)
    for (const map of maps)
      expect(described(map)).toEqual(await defined(connection, database, map.table))
    await connection.query(`DROP DATABASE ${database}`)
    await connection.end()
    await server[Symbol.asyncDispose]()
  })
})

const GEOMETRY =
  'geometry point linestring polygon multipoint multilinestring multipolygon geomcollection'.split(
    ' ',
  )

function described(map: ReturnType<typeof readTableMap>): unknown[] {
  return readMetadata(map).columns.map((column, i) => ({
    name: column.name,
    nullable: (map.nullable[i >> 3]! & (1 << (i & 7))) !== 0,
    unsigned: column.unsigned ?? false,
    collation: column.collation,
    members: (column.members ?? []).map((member) => member.toString('hex')),
    geometry: GEOMETRY[column.geometry] ?? '',
    key: column.key,
    keyPrefix: column.keyPrefix,
    invisible: column.invisible,
  }))
}

async function defined(
  connection: mysql.Connection,
  database: string,
  table: string,
): Promise<unknown[]> {
  const [rows] = await connection.query<mysql.RowDataPacket[]>(
    `SELECT c.COLUMN_NAME AS name, c.IS_NULLABLE = 'YES' AS nullable, c.COLUMN_TYPE AS type, c.DATA_TYPE AS data,
            c.EXTRA AS extra, l.ID AS collation, l.CHARACTER_SET_NAME AS charset, s.SUB_PART AS prefix, s.INDEX_NAME AS pk
       FROM information_schema.COLUMNS c
       LEFT JOIN information_schema.COLLATIONS l ON l.COLLATION_NAME = c.COLLATION_NAME
       LEFT JOIN information_schema.STATISTICS s ON s.TABLE_SCHEMA = c.TABLE_SCHEMA AND s.TABLE_NAME = c.TABLE_NAME
            AND s.COLUMN_NAME = c.COLUMN_NAME AND s.INDEX_NAME = 'PRIMARY'
      WHERE c.TABLE_SCHEMA = ? AND c.TABLE_NAME = ? ORDER BY c.ORDINAL_POSITION`,
    [database, table],
  )
  return Promise.all(
    rows.map(async (row) => {
      const type = String(row['type'])
      const data = String(row['data'])
      const members: string[] = []
      if (data === 'enum' || data === 'set')
        for (const [, label] of type.matchAll(/'([^']*)'/g)) {
          const [[hex]] = await connection.query<mysql.RowDataPacket[]>(
            `SELECT LOWER(HEX(CONVERT(? USING ${row['charset']}))) AS hex`,
            [label],
          )
          members.push(String(hex!['hex']))
        }
      return {
        name: row['name'],
        nullable: row['nullable'] === 1,
        unsigned: type.includes('unsigned') || data === 'year',
        collation: row['collation'] ?? (/binary|blob/.test(data) ? 63 : 0),
        members,
        geometry: GEOMETRY.includes(data) ? data : '',
        key: row['pk'] !== null,
        keyPrefix: Number(row['prefix'] ?? 0),
        invisible: String(row['extra']).includes('INVISIBLE'),
      }
    }),
  )
}
