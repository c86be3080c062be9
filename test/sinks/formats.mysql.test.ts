/**
 * Debezium, CloudEvents and Maxwell to the letter: one row of every column type as a real MySQL logged it, against literal
 * messages made by hand from the manuals of the formats.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { formatOptions, type FormatOptions } from '../../src/sinks/formats/format.ts'
import { formats, type FormatName } from '../../src/sinks/formats/index.ts'
import { MessageWriter, type Message } from '../../src/sinks/formats/messages.ts'
import { unscaled } from '../../src/sinks/formats/debezium/types.ts'
import type { SinkBatch } from '../../src/sinks/shape/batch.ts'
import { Template } from '../../src/sinks/shape/template.ts'
import { sharedMysql, uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import { feed } from './logged.ts'

const NOW = 1_800_000_000_123
let mysql: MysqlServer
const database = uniqueDatabase('formats')
const columns: [name: string, type: string, value: string, debezium: string, plain: string][] = [
  ['ti', 'TINYINT', '-128', '-128', '-128'],
  ['tu', 'TINYINT UNSIGNED', '255', '255', '255'],
  ['si', 'SMALLINT', '-5', '-5', '-5'],
  ['mu', 'MEDIUMINT UNSIGNED', '16777215', '16777215', '16777215'],
  ['iu', 'INT UNSIGNED', '4294967295', '4294967295', '4294967295'],
  ['bi', 'BIGINT', '-9223372036854775808', '-9223372036854775808', '-9223372036854775808'],
  ['de', 'DECIMAL(10,2)', '-1.50', '"/2o="', '"-1.50"'],
  ['fl', 'FLOAT', '1.5', '1.5', '1.5'],
  ['dd', 'DOUBLE', '1e10', '1.0E10', '1.0E10'],
  ['b1', 'BIT(1)', '1', 'true', '1'],
  ['b9', 'BIT(9)', '257', '"AQE="', '257'],
  ['ye', 'YEAR', '2024', '2024', '2024'],
  ['da', 'DATE', "'1969-12-31'", '-1', '"1969-12-31"'],
  ['ze', 'DATE', "'0000-00-00'", 'null', '"0000-00-00"'],
  ['tm', 'TIME(3)', "'-01:00:00.250'", '-3600250000', '"-01:00:00.250"'],
  ['d3', 'DATETIME(3)', "'2024-02-03 04:05:06.789'", '1706933106789', '"2024-02-03 04:05:06.789"'],
  [
    'd6',
    'DATETIME(6)',
    "'9999-12-31 23:59:59.999999'",
    '253402300799999999',
    '"9999-12-31 23:59:59.999999"',
  ],
  [
    'ts',
    'TIMESTAMP(3) NULL',
    "'2024-02-03 04:05:06.789'",
    '"2024-02-03T04:05:06.789Z"',
    '"2024-02-03 04:05:06.789"',
  ],
  ['va', 'VARCHAR(20)', String.raw`'a"\\é'`, String.raw`"a\"\\é"`, String.raw`"a\"\\é"`],
  ['vb', 'VARBINARY(4)', "X'00FF10'", '"AP8Q"', '"AP8Q"'],
  ['en', "ENUM('a','b')", "'b'", '"b"', '"b"'],
  ['se', "SET('x','y','z')", "'x,z'", '"x,z"', '["x","z"]'],
  ['js', 'JSON', `'{"k":[1,null]}'`, String.raw`"{\"k\": [1, null]}"`, '{"k": [1, null]}'],
  [
    'po',
    'POINT',
    'POINT(1,2)',
    '{"x":1,"y":2,"wkb":"AQEAAAAAAAAAAADwPwAAAAAAAABA","srid":0}',
    '"AAAAAAEBAAAAAAAAAAAA8D8AAAAAAAAAQA=="',
  ],
  ['nu', 'INT', 'NULL', 'null', 'null'],
]
const image = (which: 3 | 4): string =>
  `{"id":1,${columns.map((c) => `"${c[0]}":${c[which]}`).join(',')}}`

beforeAll(async () => {
  mysql = await sharedMysql('9.7')
  await mysql.query(`CREATE DATABASE ${database}`)
  await mysql.query(
    `CREATE TABLE ${database}.t (id INT PRIMARY KEY, ${columns.map(([name, type]) => `${name} ${type}`).join(', ')})`,
  )
  await mysql.query(`CREATE TABLE ${database}.k (id INT PRIMARY KEY, v VARCHAR(9))`)
})
afterAll(async () => {
  await mysql.query(`DROP DATABASE ${database}`)
  await mysql[Symbol.asyncDispose]()
})

interface Wanted {
  readonly options?: Partial<FormatOptions>
  readonly tombstones?: boolean
  readonly key?: string
}
function messages(format: FormatName, batch: SinkBatch, wanted: Wanted = {}): Message<object>[] {
  const { options, tombstones = false, key } = wanted
  const place = {}
  const writer = new MessageWriter({
    format: formats[format],
    context: { instance: 'shop', server: '', options: formatOptions.parse({ ...options }) },
    route: () => place,
    headers: false,
    tombstones,
    chunkBytes: 1 << 16,
    key: key === undefined ? undefined : new Template(key),
  })
  return [...writer.chunks(batch, NOW)].flatMap((chunk) => chunk.messages)
}
const text = (bytes: Buffer | null): string | null => bytes && bytes.toString()
const everything = (): Promise<{ batch: SinkBatch }> =>
  feed(
    mysql,
    database,
    `SET sql_mode = '', time_zone = '+00:00'; REPLACE INTO t VALUES (1, ${columns.map((c) => c[2]).join(', ')}); DELETE FROM t`,
  )
/** A small life of a row. */
const life = (): Promise<{ batch: SinkBatch }> =>
  feed(
    mysql,
    database,
    "INSERT INTO k VALUES (1, 'a'); UPDATE k SET v = 'b'; UPDATE k SET id = 2; DELETE FROM k",
  )

describe('Debezium', () => {
  it('has every type as the connector maps it by default', async () => {
    const { batch } = await everything()
    const [insert, remove] = messages('debezium', batch)
    const value = text(insert!.value)!
    expect(value.slice(0, value.indexOf(',"source"'))).toBe(`{"before":null,"after":${image(3)}`)
    expect(text(remove!.value)).toContain(`{"before":${image(3)},"after":null,"source":`)
    expect(text(insert!.key)).toBe('{"id":1}')
    const { tx, changes } = batch.facts.slices.find((slice) => slice.changes.length > 0)!
    const seconds = changes[0]!.event.bytes.readUInt32LE(changes[0]!.event.start)
    const { sid, gno } = tx.gtid!
    const rest = JSON.parse(value) as Record<string, unknown>
    expect(rest['source']).toEqual({
      version: 'sluice',
      connector: 'mysql',
      name: 'shop',
      ts_ms: seconds * 1000,
      snapshot: 'false',
      db: database,
      sequence: null,
      ts_us: seconds * 1_000_000,
      ts_ns: seconds * 1_000_000_000,
      table: 't',
      server_id: changes[0]!.event.bytes.readUInt32LE(changes[0]!.event.start + 5),
      gtid: `${sid}:${gno}`,
      file: tx.file,
      pos: changes[0]!.event.offset,
      row: 0,
      thread: expect.any(Number),
      query: null,
    })
    expect(value.slice(value.indexOf(',"transaction"'))).toBe(
      `,"transaction":null,"op":"c","ts_ms":${NOW},"ts_us":${NOW}000,"ts_ns":${NOW}000000}`,
    )
  })
  it('has a schema for every column, with the key too', async () => {
    const { batch } = await everything()
    const [insert] = messages('debezium-schema', batch)
    interface Field {
      field: string
      type: string
      name?: string
      optional: boolean
      fields?: Field[]
      parameters?: object
    }
    const { schema, payload } = JSON.parse(text(insert!.value)!) as {
      schema: Field
      payload: object
    }
    expect(Object.keys(payload)).toEqual(schema.fields!.map((f) => f.field))
    expect(schema.name).toBe(`shop.${database}.t.Envelope`)
    const after = schema.fields!.find((f) => f.field === 'after')!
    const brief = after.fields!.map((f) =>
      [f.field, f.type, f.name?.replace(/^.*\./, '')].join(' ').trim(),
    )
    expect(brief).toEqual([
      'id int32',
      'ti int16',
      'tu int16',
      'si int16',
      'mu int32',
      'iu int64',
      'bi int64',
      'de bytes Decimal',
      'fl float',
      'dd double',
      'b1 boolean',
      'b9 bytes Bits',
      'ye int32 Year',
      'da int32 Date',
      'ze int32 Date',
      'tm int64 MicroTime',
      'd3 int64 Timestamp',
      'd6 int64 MicroTimestamp',
      'ts string ZonedTimestamp',
      'va string',
      'vb bytes',
      'en string Enum',
      'se string EnumSet',
      'js string Json',
      'po struct Point',
      'nu int32',
    ])
    expect(after.fields!.map((f) => f.optional)).toEqual([false, ...columns.map(() => true)])
    expect(text(insert!.key)).toBe(
      `{"schema":{"type":"struct","fields":[{"type":"int32","optional":false,"field":"id"}],"optional":false,"name":"shop.${database}.t.Key"},"payload":{"id":1}}`,
    )
  })
  it('splits a moved key, with tombstones behind deletes', async () => {
    const { batch } = await life()
    const brief = messages('debezium', batch, { tombstones: true }).map((m) => {
      const value =
        m.value && (JSON.parse(text(m.value)!) as { op: string; before: unknown; after: unknown })
      return [text(m.key), value && [value.op, value.before, value.after]]
    })
    expect(brief).toEqual([
      ['{"id":1}', ['c', null, { id: 1, v: 'a' }]],
      ['{"id":1}', ['u', { id: 1, v: 'a' }, { id: 1, v: 'b' }]],
      ['{"id":1}', ['d', { id: 1, v: 'b' }, null]],
      ['{"id":1}', null],
      ['{"id":2}', ['c', null, { id: 2, v: 'b' }]],
      ['{"id":2}', ['d', { id: 2, v: 'b' }, null]],
      ['{"id":2}', null],
    ])
  })
  it('writes decimals as the shortest two’s complement', () => {
    const of = (n: string): string => unscaled(n).toString('hex')
    expect(['0', '127', '128', '-128', '-129', '255', '-1', '1234567.89'].map(of)).toEqual([
      '00',
      '7f',
      '0080',
      '80',
      'ff7f',
      '00ff',
      'ff',
      '075bcd15',
    ])
  })
})

describe('CloudEvents', () => {
  it('is one document in structured mode', async () => {
    const { batch } = await everything()
    const [insert] = messages('cloudevents', batch)
    const event = JSON.parse(text(insert!.value)!) as Record<string, unknown>
    expect(Object.keys(event)).toEqual([
      'specversion',
      'id',
      'source',
      'type',
      'datacontenttype',
      'time',
      'sluiceversion',
      'data',
    ])
    expect(event).toMatchObject({
      specversion: '1.0',
      source: '/sluice/shop',
      type: `sluice.${database}.t.insert`,
      datacontenttype: 'application/json',
      sluiceversion: insert!.version,
    })
    expect(event['time']).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z$/)
    expect(text(insert!.value)).toContain(
      `,"data":{"database":"${database}","table":"t","op":"insert","before":null,"after":${image(4)}}}`,
    )
  })
  it('has its attributes in headers in binary mode', async () => {
    const { batch } = await life()
    const all = messages('cloudevents-binary', batch)
    const headers = all.map((m) =>
      Object.fromEntries(m.headers.map(([k, v]) => [text(k), text(v)])),
    )
    expect(Object.keys(headers[0]!)).toEqual([
      'ce_specversion',
      'ce_id',
      'ce_source',
      'ce_type',
      'ce_time',
      'ce_sluiceversion',
      'content-type',
    ])
    expect(headers.map((h) => h['ce_type']!.split('.').at(-1))).toEqual([
      'insert',
      'update',
      'delete',
      'insert',
      'delete',
    ])
    expect(new Set(headers.map((h) => h['ce_id'])).size).toBe(5)
    expect(text(all[1]!.value)).toBe(
      `{"database":"${database}","table":"k","op":"update","before":{"id":1,"v":"a"},"after":{"id":1,"v":"b"}}`,
    )
  })
})

describe('Maxwell', () => {
  it('has numbers, lists and text as Maxwell writes them', async () => {
    const { batch } = await everything()
    const [insert] = messages('maxwell', batch)
    const data = image(4).replace('"de":"-1.50"', '"de":-1.50')
    expect(text(insert!.value)).toContain(`,"commit":true,"data":${data}}`)
    expect(text(insert!.key)).toBe(`{"database":"${database}","table":"t","pk.id":1}`)
  })
  it('says where in its transaction a row stands, and what an update changed', async () => {
    const { batch } = await feed(
      mysql,
      database,
      "BEGIN; INSERT INTO k VALUES (1, 'a'), (2, 'b'); UPDATE k SET v = 'c' WHERE id = 1; COMMIT; DELETE FROM k",
    )
    const all = messages('maxwell', batch).map((m) => {
      const { type, xid, xoffset, commit, old } = JSON.parse(text(m.value)!) as Record<
        string,
        unknown
      >
      return [type, typeof xid, xoffset, commit, old]
    })
    expect(all).toEqual([
      ['insert', 'number', 0, undefined, undefined],
      ['insert', 'number', 1, undefined, undefined],
      ['update', 'number', undefined, true, { v: 'a' }],
      ['delete', 'number', 0, undefined, undefined],
      ['delete', 'number', undefined, true, undefined],
    ])
  })
})

describe('keys and headers of messages', () => {
  it('a key makes every row a message, with a tombstone for the key that is left', async () => {
    const { batch } = await life()
    const all = messages('canal-json', batch, { key: '{table}:{key}', tombstones: true })
    const brief = all.map((m) => [
      text(m.key),
      m.value && /"type":"(\w+)"/.exec(text(m.value)!)![1],
    ])
    expect(brief).toEqual([
      ['k:1', 'INSERT'],
      ['k:1', 'UPDATE'],
      ['k:2', 'UPDATE'],
      ['k:1', null],
      ['k:2', 'DELETE'],
      ['k:2', null],
    ])
  })
  it('chunks keep the order, and rows that are known are passed over', async () => {
    const values = Array.from({ length: 300 }, (_, i) => `(${i}, '${i}')`)
    const { batch } = await feed(
      mysql,
      database,
      `INSERT INTO k VALUES ${values.join(',')}; DELETE FROM k`,
    )
    const writer = new MessageWriter({
      format: formats.maxwell,
      context: { instance: 'shop', server: '', options: formatOptions.parse({}) },
      route: () => here,
      headers: true,
      tombstones: false,
      chunkBytes: 2000,
    })
    const here = {}
    const versions: string[] = []
    let chunks = 0
    for (const chunk of writer.chunks(batch)) {
      chunks++
      versions.push(...chunk.messages.map((m) => m.version))
      writer.free(chunk)
    }
    expect(chunks).toBeGreaterThan(10)
    expect(versions).toHaveLength(600)
    expect([...versions].sort((a, b) => (a < b ? -1 : 1))).toEqual(versions)
    const rest = [...writer.chunks(batch, NOW, versions[399])].flatMap((chunk) => chunk.messages)
    expect(rest.map((m) => m.version)).toEqual(versions.slice(400))
  })
})
