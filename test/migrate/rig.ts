/**
 * A database with every type that its server has, tables that belong together, and writers that do not rest; and whether
 * another database equals it, asked of both by SELECT alone.
 */
import fc from 'fast-check'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { createLogger } from '../../src/logger.ts'
import {
  endpointOf,
  remembered,
  tablesOf,
  type MigrateOptions,
  type Phase,
} from '../../src/migrate/options.ts'
import type { Event, Outcome } from '../../src/migrate/parts.ts'
import { migrate } from '../../src/migrate/run.ts'
import { flavourOf, typesOf, type TypeSpec } from '../binlog/types.ts'
import { start } from '../commands/run.ts'
import { Random } from '../e2e/load.ts'
import { postgresForm } from '../sinks/sql/targets.ts'
import type { MysqlServer } from '../support/mysql.ts'

const ROWS = 60
const isText = ({ select }: TypeSpec): boolean => select('c').startsWith('HEX(CONVERT(')

/** What one table of every type has. */
interface Group {
  readonly table: string
  readonly specs: readonly TypeSpec[]
}

interface Contents {
  readonly orders: number
  /** Whether texts have zero bytes, which PostgreSQL does not take. */
  readonly zeros: boolean
  /** Further statements. */
  readonly more?: string
  /** Without the tables of every type. */
  readonly bare?: boolean
}

export class Shop {
  readonly database: string
  readonly mysql: MysqlServer
  readonly groups: readonly Group[]
  writes = 0
  #stopped = false
  #writing: Promise<void> | undefined

  private constructor(mysql: MysqlServer, database: string, groups: readonly Group[]) {
    this.mysql = mysql
    this.database = database
    this.groups = groups
  }
  static async open(
    mysql: MysqlServer,
    database: string,
    { orders, zeros, more = '', bare = false }: Contents,
  ): Promise<Shop> {
    const types = bare ? {} : typesOf(flavourOf(mysql.version))
    const groups = Object.entries(types).map(([name, specs]) => ({
      table: `every_${name}`,
      specs: specs.map((spec) => plain(spec, zeros)),
    }))
    const shop = new Shop(mysql, database, groups)
    const db = await mysql.connect()
    try {
      await db.query(
        `CREATE DATABASE ${database} CHARACTER SET utf8mb4; USE ${database};
         SET sql_mode='ALLOW_INVALID_DATES', time_zone='+00:00', NAMES utf8mb4`,
      )
      for (const group of groups) await fill(db, group)
      await db.query(SCHEMA)
      if (more !== '') await db.query(`SET sql_mode=DEFAULT; ${more}`)
      for (let i = 0; i < orders; i += 1000) {
        const list = Array.from({ length: Math.min(1000, orders - i) }, (_, k) =>
          orderText(i + k + 1),
        )
        await db.query(
          `INSERT INTO orders (id, customer, price, n, code) VALUES ${list.join(', ')}`,
        )
      }
    } finally {
      await db.end()
    }
    return shop
  }
  start(): void {
    this.#writing = this.#write()
  }
  /** Ends the writers. */
  async stop(): Promise<void> {
    this.#stopped = true
    await this.#writing
  }
  async #write(): Promise<void> {
    const random = new Random(17)
    const db = await this.mysql.connect({ database: this.database })
    await db.query("SET sql_mode='ALLOW_INVALID_DATES', time_zone='+00:00'")
    while (!this.#stopped) {
      const id = random.int(1, 3000)
      const [table] = [this.groups[random.int(0, this.groups.length - 1)]!.table]
      await db.query('BEGIN')
      await db.query(
        `UPDATE orders SET price = price + 1, code = CONCAT('u', ${++this.writes}) WHERE id = ${id}`,
      )
      if (random.chance(30)) await db.query(`DELETE FROM orders WHERE id = ${random.int(1, 3000)}`)
      if (random.chance(50))
        await db.query(
          `INSERT INTO orders (customer, price, n, code) VALUES (2, 1, 1, 'i${this.writes}')`,
        )
      if (random.chance(30))
        await db.query(`UPDATE ${table} SET id = id + 1000 ORDER BY id DESC LIMIT 1`)
      await db.query('COMMIT')
      // its members go with it, which servers before 9.6 do not log
      if (this.writes === 30) await db.query('DELETE FROM teams WHERE id = 2')
      await sleep(random.int(3, 12))
    }
    await db.end()
  }
  /** A SELECT of each table, whose answer says all. */
  selects(): Map<string, string> {
    const every = this.groups.map(({ table, specs }): [string, string] => {
      const shown = specs.map((spec, i) => `${spec.select(`c${i}`)} AS c${i}`)
      return [table, `SELECT id, ${shown.join(', ')} FROM ${this.database}.${table} ORDER BY id`]
    })
    const list = 'id, customer, price, n, total, code'
    const orders = `SELECT ${list} FROM ${this.database}.orders ORDER BY id`
    const customers = `SELECT id, name FROM ${this.database}.customers ORDER BY id`
    const plain = ['teams', 'members'].map((table): [string, string] => [
      table,
      `SELECT * FROM ${this.database}.${table} ORDER BY id`,
    ])
    return new Map([...every, ...plain, ['orders', orders], ['customers', customers]])
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
    await this.mysql.query(`DROP DATABASE IF EXISTS ${this.database}`)
  }
}

const SCHEMA = `
CREATE TABLE customers (id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, name VARCHAR(40) NOT NULL DEFAULT 'none', UNIQUE KEY by_name (name));
CREATE TABLE orders (
  id INT NOT NULL AUTO_INCREMENT, customer INT UNSIGNED NOT NULL, price DECIMAL(10,2) NOT NULL DEFAULT 1.00 COMMENT 'in EUR',
  n INT NOT NULL DEFAULT 1, total DECIMAL(20,2) GENERATED ALWAYS AS (price * n) STORED, code VARCHAR(20) NOT NULL,
  at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (id), KEY by_price (price), UNIQUE KEY by_code (code), KEY by_n (n, customer),
  CONSTRAINT of_customer FOREIGN KEY (customer) REFERENCES customers (id)) COMMENT 'what was ordered';
CREATE VIEW dear AS SELECT id, total FROM orders WHERE total > 100;
CREATE TABLE teams (id INT PRIMARY KEY, name VARCHAR(20));
CREATE TABLE members (id INT PRIMARY KEY, team INT, CONSTRAINT of_team FOREIGN KEY (team) REFERENCES teams (id) ON DELETE CASCADE);
INSERT INTO teams VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd');
INSERT INTO members VALUES (1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (6, 1);
INSERT INTO customers VALUES (1, 'ä'), (2, 'b'), (3, 'c')`
const orderText = (id: number): string =>
  `(${id}, ${(id % 3) + 1}, ${id % 90}.25, ${id % 7}, 'o${id}')`

/** Rows for these. */
export const ODD_ROWS = `
INSERT INTO parents VALUES (1), (2);
INSERT INTO things (name, parent, n, day, place) VALUES ('a', 1, 5, '2024-01-01', ST_GeomFromText('POINT(1 2)', 4326)),
  ('ß', 2, NULL, '2020-02-02', ST_GeomFromText('POINT(3 4)', 4326)), ('b,', NULL, 7, '2021-01-01', ST_GeomFromText('POINT(0 0)', 4326));
INSERT INTO parted (id, at, secret) VALUES (1, '2019-01-01', 3), (2, '2024-01-01', NULL);
INSERT INTO odd (\`a\`\`b\`, \`c,(d\`, v, g) VALUES (1, 'x', STRING_TO_VECTOR('[1,2,3]'), 1.5), (2, DEFAULT, NULL, 0);
INSERT INTO counters (a, b) VALUES (1, 1), (1, 2), (2, 1)`

/** What only the newest has, and what is said in comments of versions. */
const MORE = `
CREATE TABLE parted (id INT NOT NULL, at DATE NOT NULL DEFAULT (CURRENT_DATE), secret INT INVISIBLE, PRIMARY KEY (id, at), KEY hidden (secret) INVISIBLE)
  PARTITION BY RANGE (YEAR(at)) (PARTITION p0 VALUES LESS THAN (2020), PARTITION p1 VALUES LESS THAN MAXVALUE);
CREATE TABLE odd (\`a\`\`b\` INT PRIMARY KEY, \`c,(d\` VARCHAR(9) CHARACTER SET latin1 COLLATE latin1_bin DEFAULT '\\'),\\n', e VARBINARY(4) DEFAULT (UNHEX('00')),
  f VARCHAR(9) COLLATE utf8mb4_bin GENERATED ALWAYS AS (CONCAT(\`c,(d\`, ',)')) STORED COMMENT 'x) y', KEY (\`c,(d\`(3)), CONSTRAINT \`c 1\` CHECK (\`a\`\`b\` > 0) NOT ENFORCED,
  v VECTOR(3), g DOUBLE(9,2) ZEROFILL, UNIQUE KEY fold ((UPPER(f)))) COMMENT 'PARTITION BY nobody' STATS_PERSISTENT=1`

/** Tables whose definitions are not plain, of 9.7. */
export const ODD = `CREATE TABLE parents (id INT PRIMARY KEY);
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

/** MySQL's own JSON has types that JSON text has not. */
function plain(spec: TypeSpec, zeros: boolean): TypeSpec {
  if (spec.sql === 'JSON' && !isText(spec)) {
    const values = fc
      .jsonValue({ stringUnit: 'grapheme-ascii', maxDepth: 3 })
      .map((v) => `CAST(_utf8mb4 X'${Buffer.from(JSON.stringify(v)).toString('hex')}' AS JSON)`)
    return { ...spec, values }
  }
  if (zeros || !isText(spec)) return spec
  return { ...spec, values: spec.values.map((v) => `REPLACE(${v}, _utf8mb4 X'00', '')`) }
}
async function fill(
  db: { query(sql: string): Promise<unknown> },
  { table, specs }: Group,
): Promise<void> {
  const columns = specs.map((spec, i) => `c${i} ${spec.sql}`)
  await db.query(`CREATE TABLE ${table} (id INT PRIMARY KEY, ${columns.join(', ')})`)
  const values = fc.tuple(...specs.map((s) => fc.option(s.values, { nil: 'NULL', freq: 8 })))
  for (const [id, row] of fc.sample(values, { numRuns: ROWS, seed: 5 }).entries())
    await db.query(`INSERT INTO ${table} VALUES (${[id, ...row].join(', ')})`)
}

type Rows = readonly Readonly<Record<string, unknown>>[]
/** Both sides asked the same. */
export async function expectEqual(shop: Shop, target: Pick<MysqlServer, 'query'>): Promise<void> {
  for (const [table, sql] of shop.selects()) {
    const specs = shop.groups.find((group) => group.table === table)?.specs
    const read = (rows: Rows): Rows => rows.map((row) => readRow(row, specs))
    const wanted = read(await asked(shop.mysql, sql))
    expect(wanted.length, table).toBeGreaterThan(0)
    expect(read(await asked(target, sql)), table).toEqual(wanted)
  }
}
const asked = async (server: Pick<MysqlServer, 'query'>, sql: string): Promise<Rows> =>
  await server.query<Record<string, unknown>>(sql)
function readRow(row: Rows[number], specs: readonly TypeSpec[] | undefined): Rows[number] {
  if (specs === undefined) return row
  const shown = specs.map((spec, i) => {
    const value = row[`c${i}`] as string | null
    return [`c${i}`, value === null ? null : (spec.read?.(value) ?? value)]
  })
  return { id: row['id'], ...Object.fromEntries(shown) }
}
/** PostgreSQL's texts, in the form of MySQL's. */
export async function expectEqualPostgres(
  shop: Shop,
  query: (sql: string) => Promise<Rows>,
): Promise<void> {
  for (const [table, sql] of shop.selects()) {
    const specs = shop.groups.find((group) => group.table === table)?.specs
    const source = await asked(shop.mysql, sql)
    const names =
      specs?.map((_, i) => `c${i}`) ?? Object.keys(source[0]!).filter((name) => name !== 'id')
    const list = names.map((name) => `${name}::text AS ${name}`).join(', ')
    const rows = await query(`SELECT id, ${list} FROM ${shop.database}.${table} ORDER BY id`)
    expect(
      rows.map(({ id }) => Number(id)),
      table,
    ).toEqual(source.map(({ id }) => Number(id)))
    for (const [n, row] of source.entries())
      for (const [i, name] of names.entries()) {
        const found = rows[n]![name] as string | null
        const where = `${table}, row ${String(row['id'])}, ${specs?.[i]?.sql ?? name}`
        const spec = specs?.[i]
        if (spec === undefined) expect(found, where).toBe(String(row[name]))
        else
          expect(postgresText(spec, found), where).toBe(
            wantedText(spec, row[name] as string | null),
          )
      }
  }
}
function postgresText(spec: TypeSpec, text: string | null): string | null {
  const form = text === null ? null : postgresForm(spec.sql, text)
  return form !== null && isText(spec) ? Buffer.from(form).toString('hex').toUpperCase() : form
}
/** Dates that do not exist are NULL. */
function wantedText(spec: TypeSpec, value: string | null): string | null {
  const text = value === null ? null : (spec.read?.(value) ?? value)
  return text !== null && /^(DATE|TIMESTAMP)/.test(spec.sql) && /-00/.test(text.slice(0, 10))
    ? null
    : text
}

// ── one migration ────────────────────────────────────────────────────────────

export interface Run {
  readonly events: Event[]
  readonly outcome: Promise<Outcome>
  stop(): void
}
export function run(
  shop: Shop,
  to: string,
  more: Partial<MigrateOptions> & { readonly dir: string },
): Run {
  const events: Event[] = []
  const halt = new AbortController()
  const options: MigrateOptions = {
    from: endpointOf('from', shop.mysql.url, undefined),
    to: endpointOf('to', to, undefined),
    wanted: { tables: tablesOf([shop.database]), exclude: '' },
    dryRun: false,
    cutOver: false,
    lockSource: false,
    reverse: false,
    ddl: 'apply',
    removeNul: false,
    ...more,
  }
  const outcome = migrate(options, {
    report: (event) => void events.push(event),
    log: createLogger('silent', 2),
    signal: halt.signal,
  })
  outcome.catch(() => undefined) // told where it is awaited
  return { events, outcome, stop: () => halt.abort() }
}

/** Waits until the target is in step, or the migration ends. */
export async function inStep({ events, outcome }: Run): Promise<void> {
  const said = (): boolean => events.some(({ event }) => event === 'inStep')
  await Promise.race([expect.poll(said, { timeout: 60_000 }).toBe(true), outcome])
}

const PHASES: readonly Phase[] = ['schema', 'load', 'indexes', 'stream', 'finish']
/**
 * The real command, killed with SIGKILL soon after it has said that a phase begins, in each of them `rounds` times, and begun
 * again; writers end before the last. Returns the phases in which it was killed, as the folder remembers them.
 */
export async function killedInEveryPhase(
  shop: Shop,
  to: string,
  { dir, random, rounds }: { dir: string; random: Random; rounds: number },
): Promise<string[]> {
  const from = `${shop.mysql.url}/${shop.database}`
  const args = ['migrate', '--from', from, '--to', to, '--dir', dir, '--json', '--cut-over']
  const killed: string[] = []
  for (const phase of PHASES) {
    if (phase === 'finish') await shop.stop()
    for (let round = 0; round < rounds; round++) {
      if (PHASES.indexOf(remembered(dir)?.phase ?? 'schema') > PHASES.indexOf(phase)) break
      const one = start(args)
      await one.printed(`{"event":"phase","phase":"${phase}"`)
      await sleep(random.int(0, phase === 'load' ? 400 : 60))
      one.child.kill('SIGKILL')
      await one.result
      killed.push(remembered(dir)!.phase)
    }
  }
  const { code, stdout, stderr } = await start(args).result
  expect(code, stdout + stderr).toBe(0)
  expect(remembered(dir)!.phase).toBe('done')
  return killed
}
