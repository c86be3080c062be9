/** Entries against the bytes of Canal's Java classes, and against protobufjs for whatever fast-check thinks of. */
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Change, Column, QueryChange, Transaction } from '../../src/change.ts'
import { GtidSet } from '../../src/gtid.ts'
import { Out } from '../../src/out.ts'
import { sqlTypeOf } from '../../src/server/columns.ts'
import { readEntry, readRowChange, readTransactionMark } from '../../src/server/entries.ts'
import { EntryEncoder } from '../../src/server/entry.ts'
import { MessagesReader } from '../../src/server/wire.ts'
import * as make from './changes.ts'
import { UUID, begin, column, commit, orders, rowsOf, tableOf, transactionOf } from './changes.ts'
import { decodeEntry, decodeRowChange, type ColumnMessage } from './oracle.ts'

const golden = new Map(
  readFileSync(new URL('../fixtures/canal/golden.txt', import.meta.url), 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.split(' ') as [string, string]),
)

/** What an encoder writes for these changes, entry by entry. */
function encode(
  changes: readonly Change[],
  options: { gtid?: boolean; before?: string; tx?: Partial<Transaction> } = {},
): Buffer[] {
  const encoder = new EntryEncoder({ gtid: options.gtid ?? false })
  const out = new Out(64)
  encoder.start(options.before === undefined ? undefined : GtidSet.parse(options.before))
  const tx = transactionOf(0, changes, options.tx)
  encoder.part(tx)
  for (const change of changes) encoder.encode(change, out)
  tx.slab?.release()
  const reader = new MessagesReader(out.buf.subarray(0, out.at))
  const entries: Buffer[] = []
  while (reader.next()) entries.push(Buffer.from(reader.bytes.subarray(reader.start, reader.end)))
  return entries
}
const one = (change: Change, options = {}): Buffer => encode([change], options)[0]!

function query(kind: QueryChange['kind'], more: Partial<QueryChange>): QueryChange {
  return {
    kind,
    ordinal: 1,
    event: make.rawEvent(1000, 140),
    type: 'QUERY',
    database: '',
    table: '',
    tables: [],
    defaultDatabase: '',
    sql: '',
    ...more,
  }
}
const gtid = {
  gtid: true,
  before: `${UUID}:1-22`,
  tx: { gtid: { sid: UUID, gno: 23n }, sequenceNumber: 7, lastCommitted: 6 },
}
const xid = "X'7831',X'',1"

describe('entries are what Java writes', () => {
  const cases: [string, Change, object?][] = [
    ['begin', begin()],
    ['begin-xa', begin(12, xid)],
    ['begin-thread-0', begin(0)],
    ['begin-gtid', begin(), gtid],
    ['end', commit()],
    ['end-xa', commit(xid, true)],
    [
      'insert',
      rowsOf('insert', [
        { after: ['1', 'Grüße', '127', '{"a": 1}', '3'] },
        { after: ['18446744073709551615', '', '128', null, null] },
      ]),
    ],
    ['insert-gtid', rowsOf('insert', [{ after: ['9223372036854775807', null] }]), gtid],
    [
      'update',
      rowsOf('update', [
        { before: ['1', 'x'.repeat(100)], after: ['1', 'y'.repeat(1000)] },
        {
          before: ['9223372036854775808', null],
          after: ['9223372036854775808', 'z'.repeat(20_000)],
        },
        { before: ['2'], after: [undefined, undefined, '255'] },
      ]),
    ],
    ['delete', rowsOf('delete', [{ before: ['7', '', null, '[]', null] }])],
    [
      'ddl',
      query('ddl', {
        type: 'ALTER',
        database: 'shop',
        table: 'orders',
        defaultDatabase: 'shop',
        sql: 'ALTER TABLE orders ADD x int',
      }),
    ],
    [
      'ddl-no-default',
      query('ddl', {
        type: 'CREATE',
        database: 'shop',
        table: 't',
        sql: 'CREATE TABLE shop.t (a int)',
      }),
    ],
    ['query-unparsed', query('ddl', { defaultDatabase: 'shop', sql: 'CREATE TRIGGER x' })],
    [
      'statement',
      query('statement', {
        type: 'INSERT',
        database: 'shop',
        table: 'orders',
        defaultDatabase: 'shop',
        sql: 'INSERT INTO orders VALUES (1)',
      }),
    ],
    ['annotation', query('annotation', { defaultDatabase: 'shop', sql: 'SET INSERT_ID = 4' })],
    ['xa-commit', query('xaCommit', { type: 'XACOMMIT', sql: `XA COMMIT ${xid}` })],
    ['xa-rollback', query('xaRollback', { type: 'XAROLLBACK', sql: `XA ROLLBACK ${xid}` })],
  ]
  test.each(cases)('%s', (name, change, options) => {
    expect(one(change, options).toString('hex')).toBe(golden.get(name))
  })
  test('an XA transaction in one phase gets an XACOMMIT behind its end', () => {
    const end = cases.find(([, change]) => change.kind === 'commit' && change.xa)![1]
    const [, commit] = encode([end])
    const entry = decodeEntry(commit!)
    expect(decodeRowChange(entry.storeValue)).toMatchObject({
      eventType: 13,
      sql: `XA COMMIT ${xid} ONE PHASE`,
      props: [{ value: 'XA COMMIT' }, { value: ` ${xid}` }],
    })
    expect(encode([end], { tx: { state: 'prepared' } })).toHaveLength(1)
  })
  test('every golden entry is rebuilt here', () => {
    const entries = [...golden.keys()].filter((n) => !/^packet-|^scramble|^password/.test(n))
    expect(cases.map(([name]) => name).toSorted()).toEqual(entries.toSorted())
  })
  test('also in a second transaction, with every guess learned from the first', () => {
    const changes = cases.filter((c) => c[2] === undefined).map((c) => c[1])
    const names = cases.filter((c) => c[2] === undefined).map((c) => c[0])
    const twice = encode([...changes, ...changes.toReversed()], { tx: { state: 'prepared' } })
    const expected = [...names, ...names.toReversed()].map((n) => golden.get(n))
    expect(twice.map((b) => b.toString('hex'))).toEqual(expected)
  })
})

describe('sqlType', () => {
  const types: [string, Column, number, number][] = [
    ['tinyint', column(0, 'c', 1, 'tinyint(1)'), -6, -6],
    ['smallint', column(0, 'c', 2, 'smallint'), 5, 5],
    ['mediumint unsigned', column(0, 'c', 9, 'mediumint unsigned'), 4, 4],
    ['int', column(0, 'c', 3, 'int'), 4, 4],
    ['bigint', column(0, 'c', 8, 'bigint'), -5, -5],
    ['float', column(0, 'c', 4, 'float'), 7, 7],
    ['double', column(0, 'c', 5, 'double'), 8, 8],
    ['decimal', column(0, 'c', 246, 'decimal(10,2)'), 3, 3],
    ['bit', column(0, 'c', 16, 'bit(8)'), -7, -7],
    ['year', column(0, 'c', 13, 'year'), 12, 12],
    ['date', column(0, 'c', 10, 'date'), 91, 91],
    ['time', column(0, 'c', 19, 'time(3)'), 92, 92],
    ['datetime', column(0, 'c', 18, 'datetime(6)'), 93, 93],
    ['old datetime', column(0, 'c', 12, 'datetime'), 93, 93],
    ['timestamp', column(0, 'c', 17, 'timestamp'), 93, 93],
    ['char', column(0, 'c', 254, 'char(10)'), 1, 1],
    ['varchar', column(0, 'c', 15, 'varchar(255)'), 12, 12],
    ['binary', column(0, 'c', 254, 'binary(16)', { collation: 63 }), 2004, 2004],
    ['varbinary', column(0, 'c', 15, 'varbinary(32)', { collation: 63 }), 2004, 2004],
    ['varchar called binary', column(0, 'binary', 15, 'varchar(32)'), 12, 12],
    ['blob', column(0, 'c', 252, 'longblob', { collation: 63 }), 2004, 2004],
    ['text', column(0, 'c', 252, 'mediumtext'), 2005, 2005],
    ['enum', column(0, 'c', 247, "enum('binary','text')"), 4, 4],
    ['set', column(0, 'c', 248, "set('a')"), -7, 2004],
    ['json', column(0, 'c', 245, 'json'), 12, 1111],
    ['geometry', column(0, 'c', 255, 'point'), 2004, 2004],
    ['vector', column(0, 'c', 242, 'vector(3)'), 2004, 2004],
  ]
  test.each(types)('%s', (_name, c, value, ofNull) => {
    const table = tableOf('d', 't', [c])
    const entry = decodeEntry(
      one(rowsOf('insert', [{ after: ['1'] }, { after: [null] }], { table })),
    )
    const rows = decodeRowChange(entry.storeValue).rowDatas!
    expect(rows.map((r) => r.afterColumns![0]!.sqlType)).toEqual([value, ofNull])
  })
  test.each([
    [1, 'tinyint unsigned', '127', -6, '128', 5],
    [1, 'tinyint unsigned', '9', -6, '255', 5],
    [2, 'smallint unsigned', '32767', 5, '32768', 4],
    [3, 'int unsigned', '2147483647', 4, '2147483648', -5],
    [3, 'int unsigned', '999999999', 4, '4294967295', -5],
    [8, 'bigint unsigned', '9223372036854775807', -5, '9223372036854775808', 3],
    [8, 'bigint unsigned', '999999999999999999', -5, '10000000000000000000', 3],
    [9, 'mediumint unsigned', '1', 4, '16777215', 4],
    [8, 'bigint', '1', -5, '-9223372036854775808', -5],
  ])('of type %d %s: %s → %d, %s → %d', (type, text, small, smallType, big, bigType) => {
    const table = tableOf('d', 't', [column(0, 'c', type, text), column(1, 's', 15, 'varchar(9)')])
    const rows = [{ after: [small, 'x'] }, { after: [big, 'y'] }, { after: [small, ''] }]
    const { rowDatas } = decodeRowChange(
      decodeEntry(one(rowsOf('insert', rows, { table }))).storeValue,
    )
    expect(rowDatas!.map((r) => [r.afterColumns![0]!.value, r.afterColumns![0]!.sqlType])).toEqual([
      [small, smallType],
      [big, bigType],
      [small, smallType],
    ])
  })
})

describe('GTIDs', () => {
  test('the set grows over a batch and counts what was filtered', () => {
    const encoder = new EntryEncoder({ gtid: true })
    const start = GtidSet.parse(`${UUID}:1-4`)
    encoder.start(start)
    const out = new Out()
    const gtids: unknown[] = []
    for (const [gno, skipped] of [
      [5n, undefined],
      [8n, `${UUID}:6`],
      [9n, undefined],
    ] as const) {
      const tx = transactionOf(0, [], {
        gtid: { sid: UUID, gno },
        skipped: skipped === undefined ? undefined : GtidSet.parse(skipped),
      })
      encoder.part(tx)
      out.reset()
      encoder.encode(begin(), out)
      encoder.encode(commit(), out)
      const reader = new MessagesReader(out.buf.subarray(0, out.at))
      while (reader.next())
        gtids.push(readEntry(reader.bytes, reader.start, reader.end).header.gtid)
    }
    expect(gtids).toEqual([
      `${UUID}:1-5`,
      `${UUID}:1-5`,
      `${UUID}:1-6:8`,
      `${UUID}:1-6:8`,
      `${UUID}:1-6:8-9`,
      `${UUID}:1-6:8-9`,
    ])
    expect(start.toString()).toBe(`${UUID}:1-4`)
  })
  test('nothing of them without GTID mode', () => {
    const { header } = decodeEntry(one(begin(), { ...gtid, gtid: false }))
    expect([header.gtid, header.props]).toEqual([undefined, undefined])
  })
})

test('only selected columns are written, with their own index', () => {
  const all = orders.columns
  const table = tableOf('shop', 'orders', all, [all[1]!, all[3]!])
  const rows = [{ before: ['1', 'a', '1', '[]', '1'], after: ['1', 'b', '2', '[]', '1'] }]
  const { rowDatas } = decodeRowChange(
    decodeEntry(one(rowsOf('update', rows, { table }))).storeValue,
  )
  const short = (c: ColumnMessage): unknown[] => [c.index, c.name, c.value, c.updated]
  expect(rowDatas![0]!.beforeColumns!.map(short)).toEqual([
    [1, 'name', 'a', false],
    [3, 'doc', '[]', false],
  ])
  expect(rowDatas![0]!.afterColumns!.map(short)).toEqual([
    [1, 'name', 'b', true],
    [3, 'doc', '[]', false],
  ])
})

test('whatever the rows, protobufjs reads the same and would write the same; so does the SDK reader', () => {
  const cell = fc.oneof(
    fc.constant(undefined),
    fc.constant(null),
    fc.string({ unit: 'grapheme', maxLength: 200 }),
    fc.integer({ min: 0, max: 40_000 }).map((n) => 'v'.repeat(n)),
  )
  const columns = fc.array(fc.string({ minLength: 1, maxLength: 64 }), {
    minLength: 1,
    maxLength: 6,
  })
  const row = fc.record({
    before: fc.array(cell, { maxLength: 6 }),
    after: fc.array(cell, { maxLength: 6 }),
  })
  fc.assert(
    fc.property(
      columns,
      fc.array(row, { maxLength: 12 }),
      fc.constantFrom('insert' as const, 'update' as const, 'delete' as const),
      (names, rows, kind) => {
        const table = tableOf(
          'd',
          't',
          names.map((n, i) =>
            column(i, n, i % 2 ? 15 : 252, i % 2 ? 'varchar(9)' : 'text', { key: i === 0 }),
          ),
        )
        const width = names.length
        const given = rows.map((r) => ({
          ...(kind === 'insert' ? {} : { before: r.before.slice(0, width) }),
          ...(kind === 'delete' ? {} : { after: r.after.slice(0, width) }),
        }))
        const bytes = encode([rowsOf(kind, given, { table }), rowsOf(kind, given, { table })])
        expect(bytes[0]!.equals(bytes[1]!)).toBe(true)
        const entry = decodeEntry(bytes[0]!)
        const got = decodeRowChange(entry.storeValue).rowDatas ?? []
        const expected = given.map((r) => ({ before: present(r.before), after: present(r.after) }))
        const values = (cs: ColumnMessage[] = []): unknown[] =>
          cs.map((c) => [c.name, c.isNull ? null : c.value])
        expect(
          got.map((r) => ({ before: values(r.beforeColumns), after: values(r.afterColumns) })),
        ).toEqual(expected)
        expect(walk(bytes[0]!)).toEqual(expected)
        if (rows.length > 0) {
          expect(entry.header.props).toEqual([{ key: 'rowsCount', value: String(rows.length) }])
        }

        function present(cells: make.Texts = []): unknown[] {
          return cells.flatMap((c, i) => (c === undefined ? [] : [[names[i], c]]))
        }
      },
    ),
    { numRuns: 300 },
  )
})

/** The same through the SDK's readers. */
function walk(bytes: Buffer): unknown[] {
  const rows = readRowChange(readEntry(bytes).storeValue).rows()
  const got: unknown[] = []
  while (rows.next()) {
    const row = { before: [] as unknown[], after: [] as unknown[] }
    while (rows.nextColumn()) {
      const { column: c, side } = rows
      row[side].push([c.name(), c.isNull ? null : c.value()])
    }
    got.push(row)
  }
  return got
}

test("the SDK's readers understand Java's bytes", () => {
  const read = (name: string): ReturnType<typeof readEntry> =>
    readEntry(Buffer.from(golden.get(name)!, 'hex'))
  expect(read('begin').header).toEqual({
    version: 1,
    logfileName: 'binlog.000042',
    logfileOffset: 200,
    serverId: 33_097,
    serverenCode: 'UTF-8',
    executeTime: 1_700_000_001_000,
    sourceType: 2,
    schemaName: '',
    tableName: '',
    eventLength: 79,
    eventType: undefined,
    props: [],
    gtid: '',
  })
  expect(readTransactionMark(read('begin').storeValue).threadId).toBe(12)
  expect(readTransactionMark(read('end').storeValue).transactionId).toBe('4711')
  expect(readTransactionMark(read('end-xa').storeValue).props).toEqual([
    { key: 'XA_TYPE', value: 'XA END' },
    { key: 'XA_XID', value: ` ${xid}` },
  ])
  expect(readRowChange(read('ddl').storeValue)).toMatchObject({
    isDdl: true,
    eventType: 5,
    sql: 'ALTER TABLE orders ADD x int',
    ddlSchemaName: 'shop',
  })
  expect(walk(Buffer.from(golden.get('insert')!, 'hex'))).toEqual([
    {
      before: [],
      after: [
        ['id', '1'],
        ['name', 'Grüße'],
        ['tiny', '127'],
        ['doc', '{"a": 1}'],
        ['flags', '3'],
      ],
    },
    {
      before: [],
      after: [
        ['id', '18446744073709551615'],
        ['name', ''],
        ['tiny', '128'],
        ['doc', null],
        ['flags', null],
      ],
    },
  ])
})
test('sqlTypeOf without a type text goes by the collation', () => {
  expect(sqlTypeOf(column(0, 'c', 252, '', { collation: 63 })).value).toBe(2004)
  expect(sqlTypeOf(column(0, 'c', 252, '', { collation: 255 })).value).toBe(2005)
  expect(sqlTypeOf(column(0, 'c', 15, '', { collation: 63 })).value).toBe(2004)
})
