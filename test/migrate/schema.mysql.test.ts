/** Definitions of MySQL as other servers take them: what SHOW CREATE TABLE says, taken apart and made elsewhere. */
import { beforeAll, expect, test } from 'vitest'
import { mysqlTable, targetCollation, together } from '../../src/migrate/schema/mysql.ts'
import { postgresTable } from '../../src/migrate/schema/postgres.ts'
import { takeInventory, type SourceTable } from '../../src/migrate/schema/inventory.ts'
import { sharedMysql, uniqueDatabase } from '../support/mysql.ts'
import { ODD } from './rig.ts'

const collations = new Map([
  ['utf8mb4_0900_ai_ci', 'utf8mb4'],
  ['utf8mb4_general_ci', 'utf8mb4'],
  ['utf8mb3_general_ci', 'utf8mb3'],
  ['latin1_swedish_ci', 'latin1'],
])
const mysql97 = { version: 90_700, mariadb: false, collations }
const mariadb = {
  version: 101_100,
  mariadb: true,
  collations: new Map(
    [...collations]
      .filter(([name]) => !name.includes('0900'))
      .concat([['utf8mb4_unicode_520_ci', 'utf8mb4']]),
  ),
}

let found: Awaited<ReturnType<typeof take>>
beforeAll(async () => {
  found = await take()
})
async function take(): Promise<{
  things: SourceTable
  counters: SourceTable
  all: readonly SourceTable[]
  database: string
}> {
  await using server = await sharedMysql('9.7')
  const database = uniqueDatabase('inventory')
  const db = await server.connect()
  try {
    await db.query(`CREATE DATABASE ${database}; USE ${database}; ${ODD}`)
    const found = await takeInventory(
      async (sql, params) => (await db.query(sql, [...(params ?? [])]))[0] as never[],
      (name) => name === database,
    )
    const named = (name: string): SourceTable => found.tables.find((table) => table.name === name)!
    return { things: named('things'), counters: named('counters'), all: found.tables, database }
  } finally {
    await db.query(`DROP DATABASE ${database}`)
    await db.end()
  }
}

test('MySQL: keys and foreign keys come later, character sets are explicit', async () => {
  const { things, counters, database } = found
  const draft = mysqlTable(things, mysql97)
  expect(draft.create[0]).toContain("COMMENT 'a, (b) ''c'''")
  expect(draft.create[0]).toContain(
    "`name` varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci NOT NULL DEFAULT 'x, y'",
  )
  expect(draft.create[0]).toContain('`place` point NOT NULL /*!80003 SRID 4326 */')
  expect(draft.create[0]).toContain("`kind` enum('a','b,c') NOT NULL DEFAULT 'a'")
  expect(draft.create[0]).toMatch(
    /PRIMARY KEY \(`id`\),\n\s*CONSTRAINT `things_chk_1` CHECK \(.*\)\n\)/,
  )
  expect(draft.create[0]).toMatch(
    /ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci ROW_FORMAT=COMPRESSED COMMENT='all of them'$/,
  )
  expect(draft.create[0]).not.toMatch(/AUTO_INCREMENT=|by_name|FOREIGN/)
  const names = draft.indexes.map(({ name }) => name)
  expect(names.toSorted()).toEqual(['by_name', 'by_prefix', 'expr', 'p', 'places', 'words'])
  const statements = together(draft.indexes).map(({ name }) => name.split(', ').toSorted())
  expect(statements).toEqual([['by_name', 'by_prefix', 'expr', 'p'], ['places'], ['words']])
  expect(draft.foreignKeys).toEqual([
    {
      name: 'p',
      sql: `ALTER TABLE \`${database}\`.\`things\` ADD CONSTRAINT \`p\` FOREIGN KEY (\`parent\`) REFERENCES \`parents\` (\`id\`) ON DELETE CASCADE`,
    },
  ])
  expect(draft.notes).toEqual([])
  // The key by which rows are found, and the one that AUTO_INCREMENT needs, are there from the beginning.
  expect(counters.key?.columns).toEqual(['a', 'b'])
  const early = mysqlTable(counters, mysql97)
  expect(early.create[0]).toMatch(/UNIQUE KEY `a`.*KEY `counts`/s)
  expect(early.create[0]).toContain('DEFAULT CHARACTER SET latin1 COLLATE latin1_swedish_ci')
  expect(early.indexes.map(({ name }) => name)).toEqual(['rest'])
})
test('MySQL: what is made is what SHOW CREATE TABLE says of the source', async () => {
  const { all, database } = found
  await using server = await sharedMysql('9.7')
  const db = await server.connect()
  const rows = await server.query<{ name: string; charset: string }>(
    'SELECT COLLATION_NAME AS name, CHARACTER_SET_NAME AS charset FROM information_schema.COLLATIONS',
  )
  const facts = { ...mysql97, collations: new Map(rows.map((row) => [row.name, row.charset])) }
  try {
    await db.query(`CREATE DATABASE ${database} CHARACTER SET ascii; USE ${database}`)
    const drafts = all.map((table) => mysqlTable(table, facts))
    for (const { create } of drafts) for (const sql of create) await db.query(sql)
    for (const { indexes } of drafts) for (const { sql } of together(indexes)) await db.query(sql)
    for (const { foreignKeys } of drafts) for (const { sql } of foreignKeys) await db.query(sql)
    expect(drafts.flatMap(({ notes }) => notes)).toEqual([])
    for (const { name, create } of all) {
      const [made] = (await db.query(`SHOW CREATE TABLE ${name}`))[0] as Record<string, string>[]
      expect(made!['Create Table']!.split(/,?\n/).toSorted()).toEqual(
        create.split(/,?\n/).toSorted(),
      )
    }
  } finally {
    await db.query(`DROP DATABASE ${database}`)
    await db.end()
  }
})
test('MariaDB: what it lacks is said', async () => {
  const { things } = found
  const draft = mysqlTable(things, mariadb)
  expect(draft.create[0]).toContain('CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_520_ci')
  expect(draft.notes).toEqual([
    'collation utf8mb4_0900_ai_ci is not there; utf8mb4_unicode_520_ci is taken, which compares differently',
    'index expr is over an expression, which the target does not know: not made',
  ])
  expect(targetCollation('utf8_general_ci', mysql97)).toBe('utf8mb3_general_ci')
})
test('PostgreSQL: types, defaults, counters, generated columns, indexes; the rest is said', async () => {
  const { things, database } = found
  const { create, indexes, foreignKeys, notes, notNull, counter } = postgresTable(things)
  const text = create.join('\n')
  expect(text).toContain(`"id" numeric(20) NOT NULL DEFAULT nextval('"${database}"."things_seq"')`)
  expect(text).toContain(`"name" varchar(20) NOT NULL DEFAULT 'x, y'`)
  expect(text).toContain('"price" numeric(10,2) NOT NULL DEFAULT 1.50')
  expect(text).toMatch(
    /"total" numeric\(20,2\) GENERATED ALWAYS AS \(.*"price"::numeric \* "n"::numeric.* \+ 1\)+ STORED/,
  )
  expect(text).toContain(`"label" varchar(60) GENERATED ALWAYS AS ("name" || '-') STORED`)
  expect(text).toContain(`"hash" varchar(64),`)
  expect(text).toContain(`"bits" bit(4) NOT NULL DEFAULT B'0101'`)
  expect(text).toContain(`"at" timestamptz(3) DEFAULT CURRENT_TIMESTAMP(3)`)
  expect(text).toContain(`"day" date,`)
  expect(text).toContain(`COMMENT ON COLUMN "${database}"."things"."id" IS 'a, (b) ''c'''`)
  expect(notNull).toEqual(['day'])
  expect(counter).toContain('setval(')
  expect(indexes.map(({ sql }) => sql.replaceAll(database, 'd'))).toEqual([
    'CREATE UNIQUE INDEX "things_by_name" ON "d"."things" ("name")',
    'CREATE INDEX "things_by_prefix" ON "d"."things" ((left("name", 3)), "n" DESC)',
    'CREATE INDEX "things_p" ON "d"."things" ("parent")',
  ])
  expect(foreignKeys[0]!.sql).toContain(
    `REFERENCES "${database}"."parents" ("id") ON DELETE CASCADE ON UPDATE`,
  )
  for (const word of [
    'hash',
    'ON UPDATE',
    'bytea',
    'expr',
    'FULLTEXT',
    'SPATIAL',
    'CHECK',
    'by_name',
    'kind',
  ])
    expect(
      notes.some((note) => note.includes(word)),
      word,
    ).toBe(true)
})
