/**
 * Differential test: the binlog of tables with every column type and character set, decoded by Sluice and by
 * @vlasky/zongji. Every difference must be one of those explained below, and each of those must occur. That our side is
 * the right one is what values.mysql.test.ts shows: there every value equals what SELECT returns.
 */
import ZongJi from '@vlasky/zongji'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import type { RowsChange, Value } from '../../src/change.ts'
import { type MysqlServer, sharedMysql, uniqueDatabase, versions } from '../support/mysql.ts'
import { capture } from './capture.ts'
import * as types from './types.ts'
import type { TypeSpec } from './types.ts'

interface Difference {
  readonly why: string
  readonly here: (sql: string, ours: Value, theirs: unknown) => boolean
}

/** Character sets for which zongji has no decoder: it hands the bytes over. */
const undecoded = ['dec8', 'geostd8', 'hp8', 'keybcs2', 'swe7']
/** Characters that iconv-lite takes for others than MySQL does: [set, MySQL's, iconv-lite's]. */
const disputed: readonly (readonly [set: string, ours: string, theirs: string])[] = [
  ['big5', '\u00a5', '\uffe5'], // A244: yen sign, or its full-width form
  ['big5', 'ж', 'ビ'], // rows C6 to C8: two layouts of kana and Cyrillic are in use
  ['big5', 'Я', 'ニ'],
  ['big5', 'ソ', 'の'],
  ['macroman', '\u03a9', '\u2126'], // BD: the Greek letter, or the ohm sign
  ['macroman', '€', '¤'], // DB: the currency sign of the set before 1998
  ['sjis', '\\', '＼'], // 815F: backslash, or its full-width form
]
function disputedOnly(set: string, ours: string, theirs: string): boolean {
  const mine = Array.from(ours)
  const other = Array.from(theirs)
  const known = (a: string, b: string | undefined): boolean =>
    a === b || disputed.some((d) => d[0] === set && d[1] === a && d[2] === b)
  return mine.length === other.length && mine.every((a, i) => known(a, other[i]))
}
const setOf = (sql: string): string => /CHARACTER SET (\w+)/.exec(sql)?.[1] ?? ''

const differences: readonly Difference[] = [
  {
    why: 'the zero year: 0000 in MySQL, 1900 in zongji',
    here: (sql, ours, theirs) => sql === 'YEAR' && ours === 0 && theirs === 1900,
  },
  {
    why: 'negative TIME without a fraction at second 0: zongji borrows a minute and shows second 64',
    here: (sql, ours, theirs) =>
      sql.startsWith('TIME') &&
      typeof ours === 'string' &&
      /^-.*:00(\.0+)?$/.test(ours) &&
      /:64(\.0+)?$/.test(String(theirs)),
  },
  {
    why: 'an invalid ENUM value: an empty string in MySQL, undefined in zongji',
    here: (sql, ours, theirs) => sql.startsWith('ENUM') && ours === '' && theirs === undefined,
  },
  {
    why: 'zongji has no decoder for the character set and hands the bytes over',
    here: (sql, ours, theirs) =>
      undecoded.includes(setOf(sql)) && typeof ours === 'string' && Buffer.isBuffer(theirs),
  },
  {
    why: 'iconv-lite maps some codes of the character set to other characters than MySQL does',
    here: (sql, ours, theirs) =>
      typeof ours === 'string' &&
      typeof theirs === 'string' &&
      disputedOnly(setOf(sql), ours, theirs),
  },
  {
    why: 'geometry: SELECT gives bytes, zongji coordinates',
    here: (_sql, ours, theirs) =>
      ours instanceof Uint8Array && typeof theirs === 'object' && !Buffer.isBuffer(theirs),
  },
  {
    why: 'JSON text: zongji prints doubles as JavaScript does, quotes decimals, sorts keys like "7" first, and leaves out the key "__proto__" and the line breaks MySQL puts into long base64',
    here: (sql, ours, theirs) =>
      sql === 'JSON' &&
      typeof ours === 'string' &&
      typeof theirs === 'string' &&
      sameJson(ours, theirs),
  },
]

/** Equal but for the order of keys, and for numbers that are quoted or written differently. */
function sameJson(a: string, b: string): boolean {
  const plain = (text: string): unknown =>
    JSON.parse(text, (key, v: unknown) => {
      if (key === '__proto__') return undefined
      if (typeof v === 'string' && v.startsWith('base64:')) return v.replaceAll('\n', '')
      return typeof v === 'string' && /^-?\d+(\.\d+)?$/.test(v) ? Number(v) : v
    })
  expect(plain(a)).toEqual(plain(b))
  return true
}

describe.each(versions)('MySQL %s', (version) => {
  let server: MysqlServer
  const database = uniqueDatabase('zongji')
  const seen = new Set<Difference>()
  beforeAll(async () => {
    server = await sharedMysql(version)
    vi.spyOn(console, 'warn').mockReturnValue(undefined) // zongji warns at every value it cannot decode
  })
  afterAll(async () => {
    vi.restoreAllMocks()
    await server.query(`DROP DATABASE IF EXISTS ${database}`)
    await server[Symbol.asyncDispose]()
  })

  const compareAll = async (specs: readonly TypeSpec[], count: number): Promise<void> => {
    for (const difference of await compare(server, database, specs, count)) seen.add(difference)
  }
  it('numbers', () => compareAll(types.numbers, 200))
  it('dates and times', () => compareAll(types.temporals, 200))
  it('strings, enums and sets', () => compareAll(types.strings, 100))
  it('JSON and geometry', () => compareAll(types.documents, 150))
  it('every character set', async () => {
    const sets = await server.query<{ name: string }>(
      `SELECT CHARACTER_SET_NAME AS name FROM information_schema.CHARACTER_SETS WHERE CHARACTER_SET_NAME <> 'binary'`,
    )
    for (let i = 0; i < sets.length; i += 14)
      await compareAll(types.charsetColumns(sets.slice(i, i + 14).map((s) => s.name)), 80)
  })
  it('every explained difference occurs', () => {
    expect(differences.filter((d) => !seen.has(d)).map((d) => d.why)).toEqual([])
  })
})

let tables = 0

/** Compares both decodings of `count` random rows; returns the explained differences, throws at the first other one. */
async function compare(
  server: MysqlServer,
  database: string,
  specs: readonly TypeSpec[],
  count: number,
): Promise<Set<Difference>> {
  const table = `t${tables++}`
  const seed = Date.now()
  const nullable = specs.map((s) => fc.option(s.values, { nil: 'NULL', freq: 8 }))
  const rows = fc.sample(fc.tuple(...nullable), { numRuns: count, seed })
  const captured = await capture({
    server,
    database,
    write: async (db) => {
      await db.query(`SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00', NAMES utf8mb4`)
      const columns = specs.map((s, i) => `c${i} ${s.sql}`)
      await db.query(`CREATE TABLE ${table} (id INT PRIMARY KEY, ${columns.join(', ')})`)
      for (let i = 0; i < rows.length; i += 50) {
        const tuples = rows.slice(i, i + 50).map((row, k) => `(${[i + k, ...row].join(', ')})`)
        await db.query(`INSERT INTO ${table} VALUES ${tuples.join(', ')}`)
      }
    },
  })
  const theirs = await readWithZongji(server, { database, table, before: captured.before, count })
  const seen = new Set<Difference>()
  for (const { after } of captured.of(table).flatMap((change: RowsChange) => [...change.rows()]))
    for (const [i, { sql }] of specs.entries()) {
      const our = after![i + 1] as Value
      const their = theirs.get(Number(after![0]))![`c${i}`]
      if (plain(our) === plain(their, our)) continue
      const where = `seed ${seed}, ${sql}, row ${Number(after![0])}: ours ${show(our)}, zongji's ${show(their)}`
      const explained = differences.find((d) => d.here(sql, our, their))
      expect(explained, where).toBeDefined()
      seen.add(explained!)
    }
  return seen
}

const show = (v: unknown): string =>
  v instanceof Uint8Array ? `0x${Buffer.from(v).toString('hex')}` : String(v)

/** A value in a form both decoders can be brought to: zongji has BIGINT as number or string, BIT as bytes. */
function plain(v: unknown, like?: Value): unknown {
  if (typeof like === 'bigint' && v instanceof Uint8Array)
    return BigInt(`0x${Buffer.from(v).toString('hex')}`).toString()
  if (v instanceof Uint8Array) return show(v)
  return typeof v === 'number' || typeof v === 'bigint' ? String(v) : v
}

interface Stretch {
  readonly database: string
  readonly table: string
  readonly before: string
  readonly count: number
}

/** The inserted rows of a table by id, as zongji decodes them. */
async function readWithZongji(
  server: MysqlServer,
  { database, table, before, count }: Stretch,
): Promise<Map<number, Record<string, unknown>>> {
  const { host, port, user, password } = server
  const rows = new Map<number, Record<string, unknown>>()
  const options = { dateStrings: true, timezone: 'Z', jsonStrings: true, charset: 'utf8mb4' }
  const zongji = new ZongJi({ host, port, user, password, ...options })
  await new Promise<void>((resolve, reject) => {
    zongji.on('error', reject)
    zongji.on('binlog', (event) => {
      if (event.getEventName() !== 'writerows') return
      const { rows: inserted } = event as unknown as { rows: Record<string, unknown>[] }
      for (const row of inserted) rows.set(Number(row['id']), row)
      if (rows.size >= count) resolve()
    })
    zongji.start({
      serverId: 88_000 + tables,
      gtidSet: before,
      includeEvents: ['tablemap', 'writerows'],
      includeSchema: { [database]: [table] },
    })
  }).finally(() => zongji.stop())
  return rows
}
