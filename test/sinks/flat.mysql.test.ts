/**
 * FlatMessage byte for byte: every column type with random values, as a real MySQL logged them, against what Canal's own
 * classes and fastjson2 write of the packets of the Canal wire; and against literal messages.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { formats, type FormatName } from '../../src/sinks/formats/index.ts'
import { formatOptions } from '../../src/sinks/formats/format.ts'
import { MessageWriter, type HashRoute, type Message } from '../../src/sinks/formats/messages.ts'
import type { SinkBatch } from '../../src/sinks/shape/batch.ts'
import type { SinkRow } from '../../src/sinks/shape/row.ts'
import * as types from '../binlog/types.ts'
import type { TypeSpec } from '../binlog/types.ts'
import { canalJava, javaProblem } from '../support/canal-java.ts'
import { sharedMysql, uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import { feed } from './logged.ts'

let mysql: MysqlServer
const database = uniqueDatabase('flat')
beforeAll(async () => {
  mysql = await sharedMysql('9.7')
  await mysql.query(`CREATE DATABASE ${database}`)
  if (javaProblem() === '') await canalJava()
})
afterAll(async () => {
  await mysql.query(`DROP DATABASE ${database}`)
  await mysql[Symbol.asyncDispose]()
})

const NOW = 1_800_000_000_123
const here = { name: 'here' }
type Here = typeof here
function messages(
  format: FormatName,
  batch: SinkBatch,
  route: (row: SinkRow) => Here = () => here,
  hashRoute?: HashRoute<Here>,
): Message<Here>[] {
  const writer = new MessageWriter({
    format: formats[format],
    context: { instance: 'orders', server: '', options: formatOptions.parse({}) },
    route,
    hashRoute,
    headers: false,
    tombstones: false,
    chunkBytes: 1 << 16,
  })
  return [...writer.chunks(batch, NOW)].flatMap((chunk) => chunk.messages)
}

/** Ours and Canal's, message by message. */
async function throughCanal(batch: SinkBatch): Promise<void> {
  const ours = messages('canal-json', batch).map((m) => m.value!)
  let events = 0
  const byHash = (): (() => Here) => {
    events++
    return () => here
  }
  const quick = messages('canal-json', batch, undefined, { hashed: () => [], byHash })
  expect(quick.map((m) => m.value!)).toEqual(ours)
  expect(events).toBe(ours.length)
  const packets = messages('canal-protobuf', batch).map((m) => m.value!)
  expect(packets).toHaveLength(ours.length)
  const { command, args } = await canalJava('CanalFlat.java')
  const java = spawn(command, [...args, String(NOW), '1'], { stdio: ['pipe', 'pipe', 'inherit'] })
  const frame = (bytes: Buffer): Buffer => {
    const length = Buffer.alloc(4)
    length.writeInt32BE(bytes.length)
    return Buffer.concat([length, bytes])
  }
  const out: Buffer[] = []
  java.stdout.on('data', (chunk: Buffer) => out.push(chunk))
  java.stdin.end(Buffer.concat(ours.flatMap((json, i) => [frame(packets[i]!), frame(json)])))
  const [code] = (await once(java, 'close')) as [number]
  expect(code).toBe(0)
  const answer = Buffer.concat(out)
  let at = 0
  const next = (): string => {
    const end = at + 4 + answer.readInt32BE(at)
    const text = answer.toString('utf8', at + 4, end)
    at = end
    return text
  }
  for (const json of ours) {
    expect(json.toString()).toBe(next())
    expect(next()).toBe('same')
  }
  expect(at).toBe(answer.length)
  expect(ours.length).toBeGreaterThan(0)
}

/** A table with a column per type, `count` rows of random values, then updates and deletes. */
async function everyType(specs: readonly TypeSpec[], count: number): Promise<SinkBatch> {
  const columns = specs.map((spec, i) => `c${i} ${spec.sql}`).join(', ')
  const value = (spec: TypeSpec): fc.Arbitrary<string> =>
    fc.oneof({ weight: 8, arbitrary: spec.values }, { weight: 1, arbitrary: fc.constant('NULL') })
  const rows = fc.sample(fc.tuple(...specs.map(value)), count)
  const values = rows.map((row, i) => `(${i}, ${row.join(', ')})`)
  const other = fc.sample(fc.tuple(...specs.map(value)), 1)[0]!
  const set = other.map((v, i) => `c${i} = ${v}`)
  await mysql.query(`DROP TABLE IF EXISTS ${database}.t`)
  await mysql.query(`CREATE TABLE ${database}.t (id INT PRIMARY KEY, ${columns})`)
  const { batch } = await feed(
    mysql,
    database,
    `SET sql_mode = ''; INSERT INTO t VALUES ${values.join(',')};
     UPDATE t SET ${set.slice(0, 3).join(',')} WHERE id < 3; UPDATE t SET ${set.join(',')} WHERE id < 5;
     DELETE FROM t WHERE id < 9`,
  )
  return batch
}

describe.skipIf(javaProblem() !== '')("FlatMessage is what Canal's classes write", () => {
  it('numbers', async () => throughCanal(await everyType(types.numbers, 60)))
  it('dates and times', async () => throughCanal(await everyType(types.temporals, 60)))
  it('strings, enums and sets', async () => throughCanal(await everyType(types.strings, 40)))
  it('JSON, geometry and vectors', async () =>
    throughCanal(await everyType([...types.documents, types.vector], 40)))
})

describe('FlatMessage to the letter', () => {
  it('insert, update and delete', async () => {
    await mysql.query(
      `CREATE TABLE ${database}.l (id INT PRIMARY KEY, n TINYINT UNSIGNED, v VARCHAR(20), b VARBINARY(4))`,
    )
    const { batch } = await feed(
      mysql,
      database,
      String.raw`INSERT INTO l VALUES (1, 200, 'a"\\\n/é', X'00FF'), (2, NULL, NULL, NULL);
      UPDATE l SET n = 1 WHERE id = 1; DELETE FROM l WHERE id = 2`,
    )
    const es = (m: Message<unknown>): string => /"es":(\d+)/.exec(m.value!.toString())![1]!
    const all = messages('canal-json', batch)
    const head = (m: Message<unknown>): string =>
      `"database":"${database}","es":${es(m)},"gtid":"","id":1,"isDdl":false,"mysqlType":{"id":"int","n":"tinyint unsigned","v":"varchar(20)","b":"varbinary(4)"}`
    const tail = (n: number, type: string): string =>
      `"pkNames":["id"],"sql":"","sqlType":{"id":4,"n":${n},"v":12,"b":2004},"table":"l","ts":${NOW},"type":"${type}"}`
    const one = String.raw`"v":"a\"\\\n/é","b":"\u0000ÿ"`
    expect(all.map((m) => m.value!.toString())).toEqual([
      `{"data":[{"id":"1","n":"200",${one}},{"id":"2","n":null,"v":null,"b":null}],${head(all[0]!)},"old":null,${tail(-6, 'INSERT')}`,
      `{"data":[{"id":"1","n":"1",${one}}],${head(all[1]!)},"old":[{"n":"200"}],${tail(-6, 'UPDATE')}`,
      `{"data":[{"id":"2","n":null,"v":null,"b":null}],${head(all[2]!)},"old":null,${tail(-6, 'DELETE')}`,
    ])
  })
  it('split by partition, old accumulates over the whole event', async () => {
    await mysql.query(`CREATE TABLE ${database}.s (id INT PRIMARY KEY, a INT, b INT)`)
    const { batch } = await feed(
      mysql,
      database,
      `INSERT INTO s VALUES (1,1,1),(2,2,2),(3,3,3);
       UPDATE s SET a = IF(id = 1, 10, a), b = IF(id > 1, 20, b)`,
    )
    const places = [{ name: 'even' }, { name: 'odd' }]
    const all = messages('canal-json', batch, (row) => {
      const id = Number(row.value(1, row.table.columns[0]!))
      return places[id % 2]!
    })
    const byHash = messages('canal-json', batch, undefined, {
      hashed: ({ keys }) => keys,
      byHash: () => (hash) => places[(hash - 0x30) % 2]!,
    })
    expect(byHash).toEqual(all)
    const brief = all.map((m) => {
      const { data, old, type } = JSON.parse(m.value!.toString()) as Record<string, unknown>
      return [m.place.name, type, data, old]
    })
    expect(brief).toEqual([
      [
        'odd',
        'INSERT',
        [
          { id: '1', a: '1', b: '1' },
          { id: '3', a: '3', b: '3' },
        ],
        null,
      ],
      ['even', 'INSERT', [{ id: '2', a: '2', b: '2' }], null],
      [
        'odd',
        'UPDATE',
        [
          { id: '1', a: '10', b: '1' },
          { id: '3', a: '3', b: '20' },
        ],
        [{ a: '1' }, { a: '3', b: '3' }],
      ],
      ['even', 'UPDATE', [{ id: '2', a: '2', b: '20' }], [{ a: '2', b: '2' }]],
    ])
  })
  it('a document that is stored differently has not changed', async () => {
    await mysql.query(`CREATE TABLE ${database}.j (id INT PRIMARY KEY, a INT, d JSON)`)
    const { batch } = await feed(
      mysql,
      database,
      `INSERT INTO j VALUES (1, 1, '{"k": "longer than before"}');
       UPDATE j SET d = JSON_SET(d, '$.k', 'x');
       UPDATE j SET a = 2, d = '{"k": "x"}'`,
    )
    const slow = messages('canal-json', batch)
    const quick = messages('canal-json', batch, undefined, {
      hashed: () => [],
      byHash: () => () => here,
    })
    expect(quick).toEqual(slow)
    const old = slow.map((m) => (JSON.parse(m.value!.toString()) as { old: unknown }).old)
    expect(old).toEqual([null, [{ d: '{"k": "longer than before"}' }], [{ a: '1' }]])
  })
  it('statements', async () => {
    const { statements } = await feed(mysql, database, 'CREATE TABLE ddl (a INT)')
    const encoder = formats['canal-json'].open({
      instance: 'orders',
      server: '',
      options: formatOptions.parse({}),
    })
    const { Out } = await import('../../src/out.ts')
    const out = new Out(16)
    expect(encoder.statement(statements[0]!, NOW, out)).toBe(true)
    const text = out.buf.toString('utf8', 0, out.at)
    const es = /"es":(\d+)/.exec(text)![1]!
    expect(text).toBe(
      `{"data":null,"database":"${database}","es":${es},"gtid":"","id":1,"isDdl":true,"mysqlType":null,"old":null,"pkNames":null,"sql":"CREATE TABLE ddl (a INT)","sqlType":null,"table":"ddl","ts":${NOW},"type":"CREATE"}`,
    )
  })
})
