/** Definitions of MySQL as other servers take them: what SHOW CREATE TABLE says, taken apart and made elsewhere. */
import { beforeAll, expect, test } from 'vitest'
import { mysqlTable, targetCollation, together } from '../../src/migrate/schema/mysql.ts'
import { postgresTable } from '../../src/migrate/schema/postgres.ts'
import { takeInventory, type SourceTable } from '../../src/migrate/schema/inventory.ts'
import { sharedMysql, uniqueDatabase } from '../support/mysql.ts'

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

/** What only the newest has, and what is said in comments of versions. */
const MORE = `
CREATE TABLE parted (id INT NOT NULL, at DATE NOT NULL DEFAULT (CURRENT_DATE), secret INT INVISIBLE, PRIMARY KEY (id, at), KEY hidden (secret) INVISIBLE)
  PARTITION BY RANGE (YEAR(at)) (PARTITION p0 VALUES LESS THAN (2020), PARTITION p1 VALUES LESS THAN MAXVALUE);
CREATE TABLE odd (\`a\`\`b\` INT PRIMARY KEY, \`c,(d\` VARCHAR(9) CHARACTER SET latin1 COLLATE latin1_bin DEFAULT '\\'),\\n', e VARBINARY(4) DEFAULT (UNHEX('00')),
  f VARCHAR(9) COLLATE utf8mb4_bin GENERATED ALWAYS AS (CONCAT(\`c,(d\`, ',)')) STORED COMMENT 'x) y', KEY (\`c,(d\`(3)), CONSTRAINT \`c 1\` CHECK (\`a\`\`b\` > 0) NOT ENFORCED,
  v VECTOR(3), g DOUBLE(9,2) ZEROFILL, UNIQUE KEY fold ((UPPER(f)))) COMMENT 'PARTITION BY nobody' STATS_PERSISTENT=1`

const CREATE = `CREATE TABLE parents (id INT PRIMARY KEY);
CREATE TABLE things (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT COMMENT 'a, (b) \\'c\\'',
  name VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci NOT NULL DEFAULT 'x, y',
  parent INT, price DECIMAL(10,2) NOT NULL DEFAULT 1.50, n INT UNSIGNED,
  total DECIMAL(20,2) GENERATED ALWAYS AS (price * n + 1) STORED,
  label VARCHAR(60) GENERATED ALWAYS AS (CONCAT(name, '-')) VIRTUAL,
  hash VARCHAR(64) GENERATED ALWAYS AS (SHA2(name, 256)) VIRTUAL,
  bits BIT(4) NOT NULL DEFAULT b'101', raw BINARY(2) DEFAULT x'00ff', at TIMESTAMP(3) NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
  day DATE NOT NULL, place POINT NOT NULL SRID 4326, doc JSON, kind ENUM('a','b,c') NOT NULL DEFAULT 'a',
  PRIMARY KEY (id), UNIQUE KEY by_name (name), KEY by_prefix (name(3), n DESC), KEY expr ((n + 1)),
  FULLTEXT KEY words (name), SPATIAL KEY places (place), CHECK (n < 1000),
  CONSTRAINT p FOREIGN KEY (parent) REFERENCES parents (id) ON DELETE CASCADE
) COMMENT='all of them' ROW_FORMAT=COMPRESSED;
CREATE TABLE counters (a INT NOT NULL, c INT NOT NULL AUTO_INCREMENT, b INT NOT NULL, UNIQUE KEY (a, b), KEY counts (c), KEY rest (b)) CHARSET=latin1;
${MORE}`

let found: Awaited<ReturnType<typeof take>>
beforeAll(async () => {
  found = await take()
})
async function take(): Promise<{
  things: SourceTable
  counters: SourceTable
  database: string
}> {
  await using server = await sharedMysql('9.7')
  const database = uniqueDatabase('inventory')
  const db = await server.connect()
  try {
    await db.query(`CREATE DATABASE ${database}; USE ${database}; ${CREATE}`)
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
