/**
 * Part of the matrix: every type the server has, with random values; what is decoded equals what SELECT returns.
 */
import { expect, it } from 'vitest'
import { charsetOf } from '../../src/binlog/charset.ts'
import { captureDialect } from '../../src/catalog/capture.ts'
import { roundTrip } from '../binlog/round-trip.ts'
import { charsetColumns, flavourOf, typesOf, type Flavour } from '../binlog/types.ts'
import type { MysqlServer } from '../support/mysql.ts'
import { readThroughSource } from './source.ts'

const ROWS = 100
const group = ['numbers', 'temporals', 'strings', 'documents', 'mariadb', 'vectors'] as const

/** Before 5.7 a row of InnoDB has to leave 768 bytes of each long column in its page. */
const tableOptions = ({ mariadb, version }: Flavour): string =>
  !mariadb && version < 50_700 ? 'ENGINE=MyISAM' : ''

export function typeTests(server: () => MysqlServer, database: string): void {
  const check = async (specs: Parameters<typeof roundTrip>[0]['specs'], zone = '+00:00') => {
    const flavour = flavourOf(server().version)
    await roundTrip({
      capture: readThroughSource,
      server: server(),
      database,
      specs,
      count: ROWS,
      zone,
      tableOptions: tableOptions(flavour),
    })
  }
  for (const name of group)
    it(`decodes ${name} as SELECT shows them`, async () => {
      const specs = typesOf(flavourOf(server().version))[name]
      if (specs && specs.length > 0) await check(specs)
    })
  it('decodes dates and times in another zone', () =>
    check(typesOf(flavourOf(server().version))['temporals']!, '-03:30'))
  it('decodes every character set', async () => {
    const sets = await server().query<{ name: string }>(
      `SELECT CHARACTER_SET_NAME AS name FROM information_schema.CHARACTER_SETS WHERE CHARACTER_SET_NAME <> 'binary'`,
    )
    for (let i = 0; i < sets.length; i += 14)
      await check(charsetColumns(sets.slice(i, i + 14).map((s) => s.name)))
  })
  it('knows the character set of every collation', async () => {
    const dialect = await captureDialect((sql) => server().query(sql))
    const wrong = [...dialect.collations].filter(
      ([, { id, charset }]) => charsetOf(id).name !== (charset === 'utf8' ? 'utf8mb3' : charset),
    )
    expect(wrong).toEqual([])
    expect(dialect.collations.size).toBeGreaterThan(200)
  })
}
