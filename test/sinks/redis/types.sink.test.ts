/** Every column type of MySQL in Redis, as JSON and as a hash: what stands there equals what SELECT returns. */
import fc from 'fast-check'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Value } from '../../../src/change.ts'
import { type MysqlServer, sharedMysql, uniqueDatabase, versions } from '../../support/mysql.ts'
import { sharedService } from '../../support/services.ts'
import * as types from '../../binlog/types.ts'
import type { TypeSpec } from '../../binlog/types.ts'
import { contextOf, Log, never, openSink } from './log.ts'

const ROWS = 60
const isBytes = ({ sql }: TypeSpec): boolean =>
  /BINARY|BLOB|GEOM|POINT|STRING|POLY|VECTOR/.test(sql)
const isHex = ({ select }: TypeSpec): boolean => select('c').startsWith('HEX')

/** A FLOAT is written with the digits that tell it from every other FLOAT. */
const float = (digits: string): number => Math.fround(Number(digits))
/** What stands in the hash, as the type shows it. */
function fromHash(spec: TypeSpec, bytes: Buffer | undefined): string | null {
  if (bytes === undefined) return null
  if (spec.sql === 'FLOAT') return spec.show(float(bytes.toString()))
  return spec.show(isHex(spec) ? bytes : bytes.toString('utf8'))
}
/** A member of a JSON document: numbers as their digits, since 53 bits do not hold them all. */
interface Digits {
  readonly digits: string
}
function fromJson(spec: TypeSpec, member: unknown): string | null {
  if (member === null) return null
  if (spec.sql === 'JSON') return JSON.stringify(member)
  const value = Array.isArray(member)
    ? member.join(',')
    : typeof member === 'string'
      ? isBytes(spec)
        ? Buffer.from(member, 'base64')
        : member
      : spec.sql === 'FLOAT'
        ? float((member as Digits).digits)
        : (member as Digits).digits
  return spec.show(value as Value)
}
type Reviver = (key: string, value: unknown, context: { source?: string }) => unknown
const parseExact = JSON.parse as (text: string, reviver: Reviver) => Record<string, unknown>

describe.each(versions)('MySQL %s', (version) => {
  let mysql: MysqlServer
  let client: Redis
  let log: Log
  const database = uniqueDatabase('types')
  beforeAll(async () => {
    mysql = await sharedMysql(version)
    log = await Log.open(mysql, database)
    const { host, port } = sharedService('redis')
    client = new Redis({ host, port })
  })
  afterAll(async () => {
    await mysql.query(`DROP DATABASE IF EXISTS ${database}`)
    await mysql[Symbol.asyncDispose]()
    client.disconnect()
  })

  async function roundTrip(name: string, specs: readonly TypeSpec[]): Promise<void> {
    const seed = Date.now()
    const nullable = specs.map((s) => fc.option(s.values, { nil: 'NULL', freq: 8 }))
    const rows = fc.sample(fc.tuple(...nullable), { numRuns: ROWS, seed })
    const columns = specs.map((s, i) => `c${i} ${s.sql}`)
    const session = `SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00', NAMES utf8mb4`
    const inserts = rows.map((row, id) => `INSERT INTO ${name} VALUES (${[id, ...row].join(', ')})`)
    const create = `CREATE TABLE ${name} (id INT PRIMARY KEY, ${columns.join(', ')})`
    const { batch } = await log.run([session, create, ...inserts].join('; '))
    const { host, port } = sharedService('redis')
    const rules = [
      { kind: 'string', key: `${database}:j:{table}:{id}` },
      { kind: 'hash', key: `${database}:h:{table}:{id}` },
    ]
    await using sink = await openSink({ host, port, rules, cursor: false }, contextOf(mysql))
    expect(await sink.write(batch, never)).toEqual([])

    const connection = await mysql.connect({ database })
    await connection.query(`SET time_zone = '+00:00'`)
    const list = specs.map((s, i) => `${s.select(`c${i}`)} AS c${i}`)
    const [selected] = await connection.query(
      `SELECT id, ${list.join(', ')} FROM ${name} ORDER BY id`,
    )
    await connection.end()
    for (const row of selected as Record<string, string | null>[]) {
      const hash = await client.hgetallBuffer(`${database}:h:${name}:${row['id']}`)
      const text = await client.get(`${database}:j:${name}:${row['id']}`)
      const plain = JSON.parse(text!) as Record<string, unknown>
      const exact = parseExact(text!, (_, value, { source }) =>
        typeof value === 'number' ? { digits: source } : value,
      )
      for (const [i, spec] of specs.entries()) {
        const where = `seed ${seed}, ${spec.sql}, row ${row['id']}`
        const raw = row[`c${i}`]!
        const expected = raw === null ? null : (spec.read?.(raw) ?? raw)
        expect(fromHash(spec, hash[`c${i}`]), `hash, ${where}`).toBe(expected)
        const json = spec.sql === 'JSON'
        const document = fromJson(spec, (json ? plain : exact)[`c${i}`])
        const same = json && expected !== null ? JSON.stringify(JSON.parse(expected)) : expected
        expect(document, `JSON, ${where}`).toBe(same === 'null' && document === null ? null : same)
      }
    }
  }

  it('numbers', () => roundTrip('numbers', types.numbers))
  it('dates and times', () => roundTrip('temporals', types.temporals))
  it('strings, enums and sets', () => roundTrip('strings', types.strings))
  it('JSON and geometry', () => roundTrip('documents', types.documents))
  it('character sets', () =>
    roundTrip(
      'sets',
      types.charsetColumns(['latin1', 'gbk', 'sjis', 'utf8mb3', 'utf16', 'cp1251']),
    ))
  if (version === '9.7') it('vectors', () => roundTrip('vectors', [types.vector]))
})
