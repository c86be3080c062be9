/** Character sets against the server's own CONVERT(x USING utf8mb4): every sequence of one and two bytes, samples of longer ones. */
import { describe, expect, it } from 'vitest'
import { charsetNamed, charsetOf, keptIn } from '../../src/binlog/charset.ts'
import { type MysqlServer, sharedMysql, versions } from '../support/mysql.ts'

interface Set {
  readonly name: string
  readonly maxBytes: number
}

/** `count` sequences given as a SQL expression of n = 0, 1, …; each with what the server makes of it, null where invalid. */
async function converted(server: MysqlServer, set: string, hex: string, count: number) {
  const [row] = await server
    .query<{ list: string }>(
      `SET SESSION cte_max_recursion_depth = 10000000, group_concat_max_len = 1000000000;
     WITH RECURSIVE s AS (SELECT 0 n UNION ALL SELECT n + 1 FROM s WHERE n < ${count - 1}),
       b AS (SELECT n, UNHEX(${hex}) x FROM s)
     SELECT GROUP_CONCAT(CONCAT(HEX(x), '=', COALESCE(HEX(CONVERT(CONVERT(x USING ${set}) USING utf8mb4)), '-')) ORDER BY n) list
     FROM b`,
    )
    .then((results) => (results as unknown as { list: string }[][])[1]!)
  return row!.list.split(',').map((item) => {
    const [input = '', output = ''] = item.split('=')
    return { input, output: output === '-' ? undefined : output }
  })
}

/** The sequences to try in a set: SQL for the n-th one in hexadecimal, and how many. */
function sequences({ name, maxBytes }: Set): [hex: string, count: number][] {
  const one: [string, number] = [`LPAD(HEX(n), 2, '0')`, 256]
  const two: [string, number] = [`LPAD(HEX(n), 4, '0')`, 65_536]
  switch (name) {
    case 'ucs2':
      return [two]
    case 'utf16':
      return [
        two,
        [`CONCAT('D8', LPAD(HEX(n * 37 % 256), 2, '0'), 'DC', LPAD(HEX(n % 256), 2, '0'))`, 3000],
      ]
    case 'utf16le':
      return [
        two,
        [`CONCAT(LPAD(HEX(n * 37 % 256), 2, '0'), 'D8', LPAD(HEX(n % 256), 2, '0'), 'DF')`, 3000],
      ]
    case 'utf32':
      return [[`LPAD(HEX(n * 17), 8, '0')`, 65_536]]
    case 'ujis':
    case 'eucjpms':
      return [one, two, [`CONCAT('8F', HEX(161 + n DIV 94), HEX(161 + n % 94))`, 94 * 94]]
    case 'gb18030': {
      const digits = (n: string): string =>
        `HEX(129 + ${n} DIV 12600), HEX(48 + ${n} DIV 1260 % 10), HEX(129 + ${n} DIV 10 % 126), HEX(48 + ${n} % 10)`
      return [
        one,
        two,
        [`CONCAT(${digits('n')})`, 39_420],
        [`CONCAT(${digits('(189000 + n * 101)')})`, 10_000],
      ]
    }
    case 'utf8mb3':
    case 'utf8mb4':
      return [
        one,
        two,
        [`CONCAT('E', HEX(n % 16), HEX(128 + n * 7 % 64), HEX(128 + n * 13 % 64))`, 4096],
      ]
    default:
      return maxBytes === 1 ? [one] : [one, two]
  }
}

describe.each(versions)('MySQL %s', (version) => {
  it('every collation id belongs to the set the server says', async () => {
    await using server = await sharedMysql(version)
    const rows = await server.query<{ id: number; name: string }>(
      'SELECT ID AS id, CHARACTER_SET_NAME AS name FROM information_schema.COLLATIONS',
    )
    expect(rows.length).toBeGreaterThan(200)
    for (const { id, name } of rows) expect(charsetOf(id).name, `collation ${id}`).toBe(name)
  })

  it('every sequence becomes what the server makes of it', async () => {
    await using server = await sharedMysql(version)
    const sets = await server.query<Set>(
      'SELECT CHARACTER_SET_NAME AS name, MAXLEN AS maxBytes FROM information_schema.CHARACTER_SETS',
    )
    expect(sets).toHaveLength(41)
    for (const set of sets) {
      if (set.name === 'binary') continue
      const charset = charsetNamed(set.name)
      expect(charset.maxBytes, set.name).toBe(set.maxBytes)
      const wrong: string[] = []
      let compared = 0
      for (const [hex, count] of sequences(set))
        for (const { input, output } of await converted(server, set.name, hex, count)) {
          if (output === undefined || (set.name === 'eucjpms' && eucjpmsHalf(input))) continue
          const bytes = Buffer.from(input, 'hex')
          const ours = Buffer.from(charset.decode(bytes, 0, bytes.length)).toString('hex')
          compared++
          if (ours.toUpperCase() !== output) wrong.push(`${input}: ${ours}, expected ${output}`)
        }
      expect(wrong, set.name).toEqual([])
      expect(compared, set.name).toBeGreaterThanOrEqual(128)
    }
  })

  it('of every character, as much is kept in a set as the server keeps', async () => {
    await using server = await sharedMysql(version)
    const sets = await server.query<Set>(
      "SELECT CHARACTER_SET_NAME AS name FROM information_schema.CHARACTER_SETS WHERE CHARACTER_SET_NAME <> 'binary'",
    )
    const codes = Array.from({ length: 0x10000 - 32 }, (_, i) => i + 32)
    const every = [...codes.filter((c) => c < 0xd800 || c > 0xdfff), 0x1f600, 0x10ffff]
    for (const { name } of sets) {
      const wrong: string[] = []
      let untold = 0
      for (let from = 0; from < every.length; from += 8192) {
        const part = every.slice(from, from + 8192).map((c) => String.fromCodePoint(c))
        const hex = Buffer.from(part.join('')).toString('hex')
        const [row] = await server.query<{ text: string }>(
          `SELECT CONVERT(CONVERT(_utf8mb4 X'${hex}' USING ${name}) USING utf8mb4) AS text`,
        )
        for (const [i, theirs] of Array.from(row!.text).entries()) {
          const ours = keptIn(part[i]!, name)
          if (ours === undefined) untold++
          else if (ours !== theirs) wrong.push(`${part[i]}: ${ours}, expected ${theirs}`)
        }
      }
      expect(wrong, name).toEqual([])
      expect(untold, name).toBeLessThanOrEqual(3)
    }
  })
})

/**
 * The server's eucjpms accepts lone lead bytes here and makes U+0000 or control characters of them, although it refuses
 * to store them in a column.
 */
function eucjpmsHalf(hex: string): boolean {
  const bytes = Buffer.from(hex, 'hex')
  for (let i = 0; i < bytes.length; i++) {
    const lead = bytes[i]!
    if (lead < 0x80) continue
    const size = lead === 0x8f ? 3 : 2
    if ((lead < 0xa1 && lead !== 0x8e && lead !== 0x8f) || lead === 0xff) return true
    for (let k = 1; k < size; k++)
      if (!(bytes[i + k]! >= 0xa1 && bytes[i + k]! <= 0xfe)) return true
    i += size - 1
  }
  return false
}
