/**
 * The catalog against real servers, with full and with minimal metadata in the binlog: names, type texts, keys, character
 * sets; and what it says when the definition at the server is not the one the rows were written with.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parseTimeZone } from '../../src/binlog/time.ts'
import type { TableMap } from '../../src/binlog/table-map.ts'
import { Catalog } from '../../src/catalog/catalog.ts'
import type { CatalogOptions, LoggedStatement } from '../../src/catalog/catalog.ts'
import type { LogPlace } from '../../src/catalog/history.ts'
import type { Column, Table } from '../../src/change.ts'
import { SluiceError } from '../../src/errors.ts'
import { compileColumns, everyColumn } from '../../src/filter.ts'
import { privateMysql, versions } from '../support/mysql.ts'
import type { MysqlServer } from '../support/mysql.ts'
import { MemoryHistory } from './reader.ts'
import { createWide, insertWide, readTableMaps } from './wide.ts'

const HERE: LogPlace = { epoch: 1, file: 'binlog.000001', offset: 4 }
const LATER: LogPlace = { ...HERE, offset: 1000 }
const LAST: LogPlace = { ...HERE, offset: 2000 }

const statement = (sql: string): LoggedStatement => ({
  sql,
  database: 'd',
  sqlMode: 0,
  serverCollation: 0,
  utf8mb4Collation: 0,
  explicitTimestamps: undefined,
  failed: false,
})

const catalogOf = (query: CatalogOptions['query'], more: Partial<CatalogOptions> = {}): Catalog =>
  new Catalog({
    query,
    timeZone: parseTimeZone('UTC'),
    columns: everyColumn,
    log: { warn: () => undefined },
    end: () => Promise.resolve(LAST),
    ...more,
  })

/** What a test compares; the compiled functions are made anew for each column. */
const facts = ({ text: _text, value: _value, utc: _utc, ...rest }: Column): Partial<Column> => rest

async function failure(run: () => unknown): Promise<SluiceError> {
  try {
    await run()
  } catch (error) {
    if (error instanceof SluiceError) return error
    throw error
  }
  throw new Error('it did not throw')
}

describe.each(versions)('catalog on MySQL %s', (version) => {
  let server: MysqlServer
  const query: NonNullable<CatalogOptions['query']> = (sql, params) => server.query(sql, params)

  beforeAll(async () => {
    server = await privateMysql(version)
    await server.query('CREATE DATABASE d')
  })
  afterAll(async () => {
    await server[Symbol.asyncDispose]()
  })

  /** The table maps of what `statements` write with this metadata; with `more` run afterwards. */
  async function tableMaps(
    metadata: 'FULL' | 'MINIMAL',
    ...statements: string[]
  ): Promise<TableMap[]> {
    await server.query(`SET GLOBAL binlog_row_metadata = ${metadata}`)
    await server.query('FLUSH BINARY LOGS')
    for (const statement of statements) await server.query(statement)
    const logs = await server.query<{ Log_name: string }>('SHOW BINARY LOGS')
    return readTableMaps(server, logs.at(-1)!.Log_name)
  }

  /** Name → the text behind it, by the lines of SHOW CREATE TABLE. */
  async function shown(table: string): Promise<[name: string, text: string][]> {
    const [row] = await server.query<{ 'Create Table': string }>(`SHOW CREATE TABLE ${table}`)
    return [...row!['Create Table'].matchAll(/^ {2}`((?:[^`]|``)+)` (.+?),?$/gm)].map(
      ([, name, text]) => [name!.replaceAll('``', '`'), text!],
    )
  }

  describe('a wide table', () => {
    let full: Table
    let minimal: Table
    let alone: Table
    let lines: [name: string, text: string][]
    beforeAll(async () => {
      const [fullMap] = await tableMaps(
        'FULL',
        createWide('d.wide', version === '8.0' ? 8 : 9),
        insertWide('d.wide'),
      )
      const [minimalMap] = await tableMaps(
        'MINIMAL',
        insertWide('d.wide').replace('(1, 2', '(2, 3'),
      )
      full = await catalogOf(query).resolve(fullMap!, HERE)
      minimal = await catalogOf(query).resolve(minimalMap!, HERE)
      alone = await catalogOf(undefined).resolve(fullMap!, HERE)
      lines = await shown('d.wide')
    })
    it('has the names and type texts of SHOW CREATE TABLE, whatever the metadata', () => {
      for (const table of [full, minimal]) {
        expect(table.columns.map((c) => c.name)).toEqual(lines.map(([name]) => name))
        for (const [index, column] of table.columns.entries()) {
          const line = lines[index]![1]
          expect(line.slice(0, column.mysqlType.length)).toBe(column.mysqlType)
          expect(line.charAt(column.mysqlType.length), line).toMatch(/^ ?$/)
        }
      }
    })
    it('is the same with full and with minimal metadata', () => {
      expect([full.origin, minimal.origin]).toEqual(['event', 'captured'])
      expect(minimal.columns.map(facts)).toEqual(full.columns.map(facts))
    })
    it('without a server differs only where the binlog does not tell', () => {
      const differing = full.columns.filter((c, i) => c.mysqlType !== alone.columns[i]!.mysqlType)
      expect(differing.map((c) => c.mysqlType)).toEqual([
        'tinyint(1)',
        'tinyint(1)',
        'tinyint(3) unsigned zerofill',
        'int(5) unsigned zerofill',
        'float(7,2)',
        'double(8,3)',
        'decimal(5,0) unsigned zerofill',
      ])
      const rest = (table: Table) => table.columns.map((c) => ({ ...facts(c), mysqlType: '' }))
      expect(rest(alone)).toEqual(rest(full))
    })
    it('knows keys, visibility and members', () => {
      const names = (wanted: (column: Column) => boolean) =>
        full.columns.filter(wanted).map((c) => c.name)
      expect(names((c) => c.key)).toEqual(['id', 'c'])
      expect(names((c) => c.invisible)).toEqual(['inv'])
      const e = full.columns.find((c) => c.name === 'e')!
      expect(e.members).toEqual(['a', 'b,c', "it's", 'say "no"', '(1)', '', 'ümlaut'])
    })
  })

  it('reads members that must be escaped as the event has them', async () => {
    const odd = String.raw`CREATE TABLE d.odd (e ENUM('back\\slash', 'new\nline', '\r', 'both''\\'''))`
    const [map] = await tableMaps('FULL', odd, 'INSERT INTO d.odd VALUES (1)')
    const [less] = await tableMaps('MINIMAL', 'INSERT INTO d.odd VALUES (1)')
    const expected = ['back\\slash', 'new\nline', '\r', "both'\\'"]
    const full = await catalogOf(query).resolve(map!, HERE)
    const minimal = await catalogOf(query).resolve(less!, HERE)
    expect([full.columns[0]!.members, minimal.columns[0]!.members]).toEqual([expected, expected])
    expect(full.columns[0]!.mysqlType).toBe(minimal.columns[0]!.mysqlType)
  })

  it('takes no unique key for the primary key', async () => {
    const create = 'CREATE TABLE d.uniq (a INT NOT NULL UNIQUE, b INT)'
    for (const metadata of ['FULL', 'MINIMAL'] as const) {
      const statements = ['DROP TABLE IF EXISTS d.uniq', create, 'INSERT INTO d.uniq VALUES (1, 1)']
      const [map] = await tableMaps(metadata, ...statements)
      const table = await catalogOf(query).resolve(map!, HERE)
      expect(table.columns.map((c) => c.key)).toEqual([false, false])
    }
  })

  it('keeps tables apart that differ in case only', async () => {
    const statements = ['CREATE TABLE d.Twin (a INT)', 'CREATE TABLE d.twin (b CHAR(3))']
    const [upper, lower] = await tableMaps(
      'MINIMAL',
      ...statements,
      'INSERT INTO d.Twin VALUES (1)',
      "INSERT INTO d.twin VALUES ('x')",
    )
    const catalog = catalogOf(query)
    expect((await catalog.resolve(upper!, HERE)).columns[0]!.name).toBe('a')
    expect((await catalog.resolve(lower!, HERE)).columns[0]!.name).toBe('b')
  })

  describe('what was altered later', () => {
    const create = `CREATE TABLE d.t (id INT PRIMARY KEY, name VARCHAR(20) CHARACTER SET utf8mb4,
      n INT, e ENUM('a', 'b'), p POINT, x CHAR(3) NOT NULL)`
    const insert = "INSERT INTO d.t VALUES (1, 'x', 1, 'a', POINT(1, 1), 'y')"
    const setup = ['DROP TABLE IF EXISTS d.t', create, insert]

    it.each([
      ['ADD COLUMN z INT', 'expected 7 columns, found 6 in the binlog'],
      ['DROP COLUMN x', 'expected 5 columns, found 6 in the binlog'],
      [
        'MODIFY n BIGINT',
        'column 3 of 6, "n": expected bigint, found int in the binlog; the type differs',
      ],
      [
        'MODIFY n INT UNSIGNED',
        'column 3 of 6, "n": expected int unsigned, found int in the binlog; the signedness differs',
      ],
      [
        'MODIFY n INT NOT NULL',
        'column 3 of 6, "n": expected int not null, found int in the binlog; the nullability differs',
      ],
      [
        'MODIFY name VARCHAR(30) CHARACTER SET utf8mb4',
        '"name": expected varchar(30), found varchar(20) in',
      ],
      [
        'MODIFY name VARCHAR(80) CHARACTER SET latin1',
        '"name": expected varchar(80) with collation id 8, found varchar(20) with collation id 255',
      ],
      ['MODIFY name TEXT', '"name": expected text, found varchar(20) in'],
      ['MODIFY p POLYGON', '"p": expected polygon, found point in'],
      [
        'MODIFY x CHAR(3) NOT NULL AFTER id',
        'column 2 of 6, "x": expected char(3) not null, found varchar(20) in',
      ],
      ['MODIFY e SET("a", "b")', "\"e\": expected set('a','b'), found enum("],
    ])('minimal metadata: %s', async (clause, message) => {
      const [map] = await tableMaps(
        'MINIMAL',
        ...setup,
        'DELETE FROM d.t',
        `ALTER TABLE d.t ${clause}`,
      )
      const error = await failure(() => catalogOf(query).resolve(map!, HERE))
      expect(error.code).toBe('SCHEMA_MISMATCH')
      expect(error.message).toContain(
        'table d.t at binlog.000001:4: its definition at the source is not the one',
      )
      expect(error.message).toContain(message)
      expect(error.message).toContain('binlog_row_metadata=FULL')
    })

    it('full metadata: the event wins, texts come from the server where both agree', async () => {
      const narrow = [
        'DROP TABLE IF EXISTS d.t',
        "CREATE TABLE d.t (a TINYINT(1), b TINYINT(1), e ENUM('x', 'y'))",
      ]
      const [map] = await tableMaps(
        'FULL',
        ...narrow,
        "INSERT INTO d.t VALUES (1, 2, 'y')",
        "ALTER TABLE d.t RENAME COLUMN b TO c, MODIFY e ENUM('x', 'y', 'z')",
      )
      const table = await catalogOf(query).resolve(map!, HERE)
      expect(table.columns.map((c) => [c.name, c.mysqlType])).toEqual([
        ['a', 'tinyint(1)'],
        ['b', 'tinyint'],
        ['e', "enum('x','y')"],
      ])
      await server.query('ALTER TABLE d.t ADD COLUMN more INT FIRST')
      const later = await catalogOf(query).resolve(map!, HERE)
      expect(later.columns.map((c) => c.name)).toEqual(['a', 'b', 'e'])
      await server.query('DROP TABLE d.t')
      const gone = await catalogOf(query).resolve(map!, HERE)
      expect(gone.columns.map((c) => c.mysqlType)).toEqual(['tinyint', 'tinyint', "enum('x','y')"])
    })

    it('minimal metadata: a table that is gone', async () => {
      const [map] = await tableMaps('MINIMAL', ...setup, 'DROP TABLE d.t')
      const error = await failure(() => catalogOf(query).resolve(map!, HERE))
      expect([error.code, error.retryable]).toEqual(['SCHEMA_MISMATCH', false])
      expect(error.message).toMatch(
        /table d\.t at binlog\.000001:4: the source has no such table any more.*binlog_row_metadata=FULL/,
      )
      const fileOnly = await failure(() => catalogOf(undefined).resolve(map!, HERE))
      expect(fileOnly.message).toContain('there is no server to ask')
    })
  })

  describe('asking the server', () => {
    let map: TableMap
    let wider: TableMap
    beforeAll(async () => {
      const maps = await tableMaps(
        'MINIMAL',
        'CREATE TABLE d.q (a INT)',
        'INSERT INTO d.q VALUES (1)',
        'ALTER TABLE d.q ADD COLUMN b INT',
        'INSERT INTO d.q VALUES (1, 2)',
        'ALTER TABLE d.q DROP COLUMN b',
      )
      map = maps[0]!
      wider = maps[1]!
    })
    /** Counts queries, fails while `broken`. */
    function counted() {
      const state = { count: 0, broken: false }
      const counting: NonNullable<CatalogOptions['query']> = (sql, params) => {
        state.count++
        return state.broken ? Promise.reject(new Error('gone away')) : query(sql, params)
      }
      return { state, catalog: catalogOf(counting) }
    }
    it('happens once for concurrent callers, then not until a statement is not understood', async () => {
      const { state, catalog } = counted()
      const [a, b] = await Promise.all([catalog.resolve(map, HERE), catalog.resolve(map, HERE)])
      expect(a.columns.map(facts)).toEqual(b.columns.map(facts))
      const first = state.count
      expect(catalog.resolve(map, HERE)).toBe(a)
      catalog.statement(statement('ALTER TABLE other ADD COLUMN x NOVELTY'), LATER)
      expect(catalog.resolve(map, LATER)).toBe(a)
      catalog.statement(statement('ALTER TABLE q ALTER a NOVELTY, ADD x NOVELTY'), LATER)
      expect(catalog.resolve(map, HERE)).toBe(a)
      expect(await catalog.resolve(map, LATER)).not.toBe(a)
      expect(state.count).toBe(first + 4)
      await catalog.resolve(map, LAST)
      expect(state.count).toBe(first + 4)
    })
    it('happens again when what is known does not fit', async () => {
      const { catalog } = counted()
      await catalog.resolve(map, HERE)
      expect((await failure(() => catalog.resolve(wider, LATER))).code).toBe('SCHEMA_MISMATCH')
      await server.query('ALTER TABLE d.q ADD COLUMN b INT')
      const names = async (wanted: TableMap, at: LogPlace) =>
        (await catalog.resolve(wanted, at)).columns.map((c) => c.name)
      expect(await names(wider, LATER)).toEqual(['a', 'b'])
      expect(await names(map, HERE)).toEqual(['a'])
      await server.query('ALTER TABLE d.q DROP COLUMN b')
    })
    it('helps a reader that lags, as long as nothing later touched the columns; under its new name too', async () => {
      const AT: LogPlace = { ...HERE, offset: 100 }
      const log = (...list: string[]) =>
        list.map((sql, i) => ({ at: { ...HERE, offset: 200 + i }, sql, database: 'd' }))
      const behind = async (...list: string[]): Promise<string[]> => {
        const catalog = catalogOf(query, { scan: () => Promise.resolve(log(...list)) })
        await catalog.prepare()
        catalog.statement(statement('ALTER TABLE q NOVELTY'), AT)
        return (await catalog.resolve(map, AT)).columns.map((c) => c.name)
      }
      const plain = ['ALTER TABLE q ADD INDEX (a)', 'ALTER DATABASE d CHARACTER SET latin1']
      expect(await behind(...plain)).toEqual(['a'])
      const columns = failure(() => behind(...plain, 'ALTER TABLE q RENAME COLUMN z TO a'))
      expect((await columns).message).toContain('1 statements changed it since')
      await server.query('RENAME TABLE d.q TO d.q2')
      await server.query('CREATE TABLE d.q (other INT)')
      try {
        const moved = ['RENAME TABLE q TO q2', 'CREATE TABLE q (other INT)', ...plain]
        expect(await behind(...moved)).toEqual(['a'])
      } finally {
        await server.query('DROP TABLE d.q')
        await server.query('RENAME TABLE d.q2 TO d.q')
      }
    })
    it('is remembered for events that describe themselves too: they get the same types when they come again', async () => {
      const AT: LogPlace = { ...HERE, offset: 100 }
      const [described] = await tableMaps(
        'FULL',
        'CREATE TABLE d.lent (a TINYINT(1))',
        'INSERT INTO d.lent VALUES (1)',
      )
      const history = new MemoryHistory()
      const types = async (...list: string[]): Promise<string[]> => {
        const scanned = list.map((sql) => ({ at: LATER, sql, database: 'd' }))
        const catalog = catalogOf(query, { history, scan: () => Promise.resolve(scanned) })
        await catalog.prepare()
        catalog.statement(statement('ALTER TABLE lent NOVELTY'), AT)
        return (await catalog.resolve(described!, AT)).columns.map((c) => c.mysqlType)
      }
      expect(await types()).toEqual(['tinyint(1)'])
      await server.query('ALTER TABLE d.lent CHANGE a b INT')
      expect(await types('ALTER TABLE lent CHANGE a b INT')).toEqual(['tinyint(1)'])
      await server.query('DROP TABLE d.lent')
    })
    it('may fail, and be tried again', async () => {
      const { state, catalog } = counted()
      state.broken = true
      const error = await failure(() => catalog.resolve(map, HERE))
      expect([error.code, error.retryable]).toEqual(['QUERY_FAILED', true])
      expect(error.message).toBe('the server could not be read from information_schema: gone away')
      state.broken = false
      await catalog.prepare()
      catalog.statement(statement('ALTER TABLE q ADD x NOVELTY'), LAST)
      state.broken = true
      expect((await failure(() => catalog.resolve(map, LAST))).message).toBe(
        'columns of d.q could not be read from information_schema: gone away',
      )
      state.broken = false
      expect((await catalog.resolve(map, LAST)).columns).toHaveLength(1)
    })
  })

  it('selects columns and warns once of a lost key', async () => {
    const statements = [
      'CREATE TABLE d.sel (id INT PRIMARY KEY, a INT, b INT)',
      'INSERT INTO d.sel VALUES (1, 1, 1)',
    ]
    const [map] = await tableMaps('FULL', ...statements)
    const warnings: string[] = []
    const log = { warn: (_details: object, message: string) => void warnings.push(message) }
    const catalog = catalogOf(query, { columns: compileColumns({ exclude: 'D.SEL:ID' }), log })
    const table = await catalog.resolve(map!, HERE)
    expect(table.selected.map((c) => c.name)).toEqual(['a', 'b'])
    expect(table.columns).toHaveLength(3)
    catalog.statement(statement('ALTER TABLE sel ADD x NOVELTY'), LATER)
    await catalog.resolve(map!, LATER)
    expect(warnings).toHaveLength(1)
    const wrong = catalogOf(query, { columns: compileColumns({ include: 'd.sel:nope' }) })
    expect((await failure(() => wrong.resolve(map!, HERE))).message).toContain('no column nope')
  })
})
