/**
 * Definitions at the position of the event, on real servers with minimal metadata: histories that are read while they
 * happen, after a restart, again from an older place, and without having been seen.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Filter } from '../../src/change.ts'
import { SluiceError } from '../../src/errors.ts'
import { seed } from '../e2e/load.ts'
import { privateMysql, versions } from '../support/mysql.ts'
import type { MysqlServer } from '../support/mysql.ts'
import { factsOf } from '../sources/reading.ts'
import { runOracle } from './oracle.ts'
import { LogReader, MemoryHistory, type ReadRow } from './reader.ts'

const shown = ({ name, columns }: ReadRow): string => `${name}: ${columns.join(', ')}`

async function failure(work: Promise<unknown>): Promise<SluiceError> {
  const error = await work.then(
    () => undefined,
    (cause: unknown) => cause,
  )
  if (!(error instanceof SluiceError)) throw error ?? new Error('it did not throw')
  return error
}

describe.each(versions)('definitions through time on MySQL %s', (version) => {
  let mysql: MysqlServer
  const run = async (...statements: string[]): Promise<void> => {
    for (const sql of statements) await mysql.query(sql)
  }
  const now = async () => (await factsOf(mysql)).latest
  beforeAll(async () => {
    mysql = await privateMysql(version, { args: ['--binlog-row-metadata=MINIMAL'] })
    await run('CREATE DATABASE d', 'CREATE DATABASE d2')
  })
  afterAll(async () => {
    await mysql[Symbol.asyncDispose]()
  })

  describe('a history that is read as it happens', () => {
    const first = ['d.live: a int key, b varchar(20)', 'd.live: a int key, c varchar(20)']
    const second = ['d.live: z bigint unsigned, a int key, c varchar(20)', 'd.moved: a int']
    const history = new MemoryHistory()
    it('has every row’s own columns, also in a transaction before an ALTER that is read after it', async () => {
      await run('CREATE TABLE d.live (a INT PRIMARY KEY, b VARCHAR(20))')
      const from = await now()
      await using reader = await LogReader.open(mysql, { history })
      await run(
        "INSERT INTO d.live VALUES (1, 'x')",
        'ALTER TABLE d.live RENAME COLUMN b TO c',
        "INSERT INTO d.live VALUES (2, 'x')",
      )
      expect((await reader.read()).map(shown)).toEqual(first)
      expect(reader.queries).toBe(0)
      // stopped; started again later, and only then is read what happened meanwhile
      const stopped = reader.position
      await run(
        'ALTER TABLE d.live ADD COLUMN z BIGINT UNSIGNED FIRST',
        "INSERT INTO d.live VALUES (3, 3, 'x')",
        'CREATE TABLE d.moving (a INT)',
        'RENAME TABLE d.moving TO d.moved',
        'INSERT INTO d.moved VALUES (1)',
        'DROP TABLE d.moved',
        'ALTER TABLE d.live DROP COLUMN c',
      )
      await using restarted = await LogReader.open(mysql, { history }, stopped)
      expect((await restarted.read()).map(shown)).toEqual(second)
      await using rewound = await LogReader.open(mysql, { history }, from)
      const rows = await rewound.read()
      expect(rows.map(shown)).toEqual([...first, ...second])
      expect(rows.map((row) => row.origin)).toEqual(['captured', 'ddl', 'ddl', 'ddl'])
      expect([restarted.queries, rewound.queries]).toEqual([0, 0])
    })
    it('may be trimmed to what readers from some place on need', async () => {
      const history = new MemoryHistory()
      await run('CREATE TABLE d.trim (a INT)')
      await using reader = await LogReader.open(mysql, { history })
      for (const name of ['b', 'c', 'e', 'f'])
        await run(`ALTER TABLE d.trim ADD ${name} INT`, 'INSERT INTO d.trim (a) VALUES (1)')
      await reader.read()
      const at = await now()
      await run('ALTER TABLE d.trim ADD g INT', 'INSERT INTO d.trim (a) VALUES (1)')
      const last = await reader.read()
      const kept = () => [...history.stored.values()].filter(({ table }) => table === 'trim').length
      expect(kept()).toBe(6)
      reader.catalog.history.trim({ ...at, epoch: 1 })
      expect(kept()).toBe(2)
      await using again = await LogReader.open(mysql, { history }, at)
      expect(await again.read()).toEqual(last)
      expect(again.queries).toBe(0)
    })
  })

  it('asks the server after a statement that it does not know, and keeps the answer', async () => {
    await run('CREATE TABLE d.odd (a INT, b INT)')
    const history = new MemoryHistory()
    const from = await now()
    await using reader = await LogReader.open(mysql, { history })
    await run(
      'ALTER TABLE d.odd RENAME COLUMN b TO c /*!99999 , FROBNICATE ALL */',
      'INSERT INTO d.odd VALUES (1, 2)',
    )
    expect((await reader.read()).map(shown)).toEqual(['d.odd: a int, c int'])
    expect(reader.queries).toBe(0)
    // CREATE … SELECT is known by its rows' table map only
    await run(
      'CREATE TABLE d.made SELECT 1 AS one, "x" AS two',
      'INSERT INTO d.made SELECT * FROM d.made',
    )
    const made = (await reader.read()).map((row) => row.name)
    const session = { database: 'd', sqlMode: 0, serverCollation: 0, utf8mb4Collation: 0 }
    reader.catalog.statement(
      {
        sql: 'ALTER TABLE odd FROBNICATE c INTO d WITH (SPARKS)',
        ...session,
        explicitTimestamps: undefined,
        failed: false,
      },
      reader.position,
    )
    expect(reader.catalog.history.at('d', 'odd', reader.position)?.now).toBe('unknown')
    await run('INSERT INTO d.odd VALUES (3, 4)')
    const queries = reader.queries
    expect((await reader.read()).map(shown)).toEqual(['d.odd: a int, c int'])
    expect(reader.queries).toBeGreaterThan(queries)
    await run('ALTER TABLE d.odd RENAME COLUMN c TO e')
    await using again = await LogReader.open(mysql, { history }, from)
    const rows = await again.read()
    expect(rows.map(shown)).toContain('d.odd: a int, c int')
    expect(rows.map((row) => row.name)).toEqual(['d.odd', ...made, 'd.odd'])
    expect(again.queries).toBe(0)
  })

  describe('a history that was not seen', () => {
    it('is taken from the server where no statement changed the table since', async () => {
      await run('CREATE TABLE d.quiet (a INT, b TINYINT(1))')
      const from = await now()
      await run('INSERT INTO d.quiet VALUES (1, 1)', 'CREATE TABLE d.another (a INT)')
      await using reader = await LogReader.open(mysql, {}, from)
      const [row] = await reader.read()
      expect([shown(row!), row!.origin]).toEqual(['d.quiet: a int, b tinyint(1)', 'captured'])
    })
    it('stops where one may have, or matches by position and says so', async () => {
      await run('CREATE TABLE d.lost (a INT, b INT)')
      const from = await now()
      await run(
        'INSERT INTO d.lost VALUES (1, 2)',
        'ALTER TABLE d.lost CHANGE a x INT',
        'INSERT INTO d.lost VALUES (3, 4)',
      )
      await using strict = await LogReader.open(mysql, {}, from)
      const error = await failure(strict.read())
      expect(error.code).toBe('SCHEMA_MISMATCH')
      expect(error.message).toMatch(
        /table d\.lost at binlog\.\d+:\d+: .*nothing says that it is the one.* 1 statements? changed it since, the first at binlog/,
      )
      await using lax = await LogReader.open(mysql, { ambiguous: 'positional' }, from)
      const rows = await lax.read()
      expect(rows.map((row) => row.origin)).toEqual(['assumed', 'captured'])
      expect(rows[1]!.columns).toEqual(['x int', 'b int'])
      expect(rows[0]!.columns).toHaveLength(2)
      expect(lax.warnings).toHaveLength(1)
      expect(lax.warnings[0]).toContain('table d.lost: columns are matched by position')
      expect([...lax.catalog.guessed]).toEqual(['d.lost'])
    })
    it('is known from where its table, or its whole database, was made', async () => {
      const from = await now()
      await run(
        'CREATE DATABASE later',
        'CREATE TABLE IF NOT EXISTS later.t (a INT, b INT)',
        'INSERT INTO later.t VALUES (1, 2)',
        'ALTER TABLE later.t RENAME COLUMN a TO x, ADD c INT',
        'INSERT INTO later.t VALUES (1, 2, 3)',
      )
      await using reader = await LogReader.open(mysql, {}, from)
      expect((await reader.read()).map(shown)).toEqual([
        'later.t: a int, b int',
        'later.t: x int, b int, c int',
      ])
      await run('DROP DATABASE later')
    })
  })

  describe('tables that take another’s place', () => {
    const only: Filter = (database, table) => database === 'd' && table === 'big'
    const old = 'd.big: id int key, a int'
    const fresh = 'd.big: z int, id int key, a int'
    it.each([
      [
        'as gh-ost does',
        [
          'CREATE TABLE d._big_gho LIKE d.big',
          'ALTER TABLE d._big_gho ADD COLUMN z INT FIRST',
          'INSERT INTO d._big_gho (id, a) VALUES (1, 1)',
          'INSERT INTO d.big VALUES (2, 2)',
          'CREATE TABLE d._big_del (id INT PRIMARY KEY) COMMENT="ghost-cut-over-sentry"',
          'DROP TABLE IF EXISTS d._big_del',
          'RENAME TABLE d.big TO d._big_del, d._big_gho TO d.big',
        ],
        'DROP TABLE IF EXISTS d._big_del',
      ],
      [
        'as pt-online-schema-change does',
        [
          'CREATE TABLE `d`.`_big_new` (`id` int NOT NULL, `a` int DEFAULT NULL, PRIMARY KEY (`id`))',
          'ALTER TABLE `d`.`_big_new` ADD COLUMN z INT FIRST',
          'INSERT LOW_PRIORITY IGNORE INTO `d`.`_big_new` (id, a) VALUES (1, 1)',
          'INSERT INTO d.big VALUES (2, 2)',
          'RENAME TABLE `d`.`big` TO `d`.`_big_old`, `d`.`_big_new` TO `d`.`big`',
        ],
        'DROP TABLE IF EXISTS d._big_old',
      ],
    ])('%s, while the filter leaves the other ones out', async (_tool, change, end) => {
      await run('CREATE TABLE d.big (id INT PRIMARY KEY, a INT)')
      const history = new MemoryHistory()
      const from = await now()
      await using reader = await LogReader.open(mysql, { history, filter: only })
      await run(...change, 'INSERT INTO d.big VALUES (3, 3, 3)', end)
      expect((await reader.read()).map(shown)).toEqual([old, fresh])
      await run('DROP TABLE d.big')
      await using again = await LogReader.open(mysql, { history, filter: only }, from)
      expect((await again.read()).map(shown)).toEqual([old, fresh])
      expect([reader.queries, again.queries]).toEqual([0, 0])
    })
    it('in a swap, across databases, and one that is seen under its new name first', async () => {
      await run('CREATE TABLE d.left_ (l INT)', 'CREATE TABLE d2.right_ (r INT)')
      await using reader = await LogReader.open(mysql)
      await run(
        'RENAME TABLE d.left_ TO d.tmp, d2.right_ TO d.left_, d.tmp TO d2.right_',
        'INSERT INTO d.left_ VALUES (1)',
        'INSERT INTO d2.right_ VALUES (1)',
        'ALTER TABLE d.left_ RENAME TO d2.away, ADD COLUMN s INT',
        'INSERT INTO d2.away VALUES (1, 2)',
      )
      expect((await reader.read()).map(shown)).toEqual([
        'd.left_: r int',
        'd2.right_: l int',
        'd2.away: r int, s int',
      ])
      expect(reader.queries).toBe(0)
    })
  })

  it('knows which character set stays when a table is given two, and members that CONVERT keeps', async () => {
    await run(
      'CREATE DATABASE cs',
      'CREATE TABLE cs.a (a INT) CHARSET utf8mb4',
      'CREATE TABLE cs.b (a INT) CHARSET latin1',
    )
    const history = new MemoryHistory()
    await using reader = await LogReader.open(mysql, { history })
    await run(
      'ALTER TABLE cs.a COLLATE latin1_german2_ci, CHARSET = latin1',
      'INSERT INTO cs.a VALUES (1)',
      "ALTER TABLE cs.b CHANGE a a SET('中', 'é') CHARACTER SET ascii, CONVERT TO CHARACTER SET utf8mb4",
      'INSERT INTO cs.b VALUES (1)',
    )
    expect((await reader.read()).map(shown)).toEqual(['cs.a: a int', "cs.b: a set('中','é')"])
    const stored = [...history.definitions()].filter(({ table }) => table === 'a')
    const [id] = await mysql.query<{ id: number }>(
      "SELECT ID id FROM information_schema.COLLATIONS WHERE COLLATION_NAME = 'latin1_german2_ci'",
    )
    const now = JSON.parse(stored.at(-1)!.definition) as { collation: number }
    expect(now.collation).toBe(version.startsWith('5') ? 8 : id!.id)
  })

  it('learns hundreds of tables with a few queries', async () => {
    const tables = Array.from(
      { length: 300 },
      (_, i) => `CREATE TABLE many.t${i} (id INT, n${i} INT)`,
    )
    await run('CREATE DATABASE many', tables.join(';'))
    const history = new MemoryHistory()
    await using reader = await LogReader.open(mysql, { history })
    expect(reader.prepared).toBeLessThan(12)
    await run('INSERT INTO many.t299 VALUES (1, 2)', 'DROP DATABASE many')
    expect((await reader.read()).map(shown)).toEqual(['many.t299: id int, n299 int'])
    expect(reader.queries).toBe(0)
  })
})

// The long form of this is npm run oracle:ddl.
it('random statements: every definition and every row as the server had it', async () => {
  await using mysql = await privateMysql(versions[0]!)
  const { statements, mismatches, madeUp, rows } = await runOracle(mysql, 150, seed)
  expect(mismatches, `SLUICE_SEED=${seed}`).toEqual([])
  expect(statements).toBe(150)
  expect(madeUp).toBeGreaterThan(0)
  expect(rows).toBeGreaterThan(30)
}, 300_000)
