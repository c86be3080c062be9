/**
 * The oracle of the DDL reader: random statements run on a real server with minimal metadata, and after each one every
 * table must be, by what effectsOf made of it, what information_schema says. In between rows are written, and a reader
 * that keeps up must name their columns as they were then; so must one that goes back to the beginning with the history
 * of the first, and one that begins there with none, unless it says that it had to guess. Some statements reach the readers as
 * text of a version that does not exist yet (newer.ts): they must say that they do not know, and find out by themselves.
 * `npm run oracle:ddl -- --statements N --seed N`.
 */
import { parseArgs } from 'node:util'
import type { Position } from '../../src/change.ts'
import { effectsOf, type Effect, type Schema } from '../../src/catalog/ddl/apply.ts'
import { classify } from '../../src/catalog/ddl/classify.ts'
import type { Definition, Knowledge } from '../../src/catalog/definition.ts'
import { captureTables, captureDialect } from '../../src/catalog/capture.ts'
import type { Dialect } from '../../src/catalog/ddl/dialect.ts'
import { Random } from '../e2e/load.ts'
import { factsOf } from '../sources/reading.ts'
import { privateMysql, type MysqlServer } from '../support/mysql.ts'
import { newer, type Newer } from './newer.ts'
import { LogReader, MemoryHistory, type ReadRow } from './reader.ts'
import { Statements, type Shape } from './statements.ts'

/** A schema in memory, moved along by effects. */
export class MemorySchema implements Schema {
  readonly databases = new Map<
    string,
    { collation: number | undefined; tables: Map<string, Knowledge> }
  >()
  table(database: string, table: string): Knowledge {
    return this.databases.get(database)?.tables.get(table)
  }
  tables(database: string): string[] {
    return [...(this.databases.get(database)?.tables.keys() ?? [])]
  }
  collation(database: string): number | undefined {
    return this.databases.get(database)?.collation
  }
  apply(effects: readonly Effect[]): void {
    for (const effect of effects) {
      const database = effect.kind === 'table' ? effect.name.database : effect.database
      let known = this.databases.get(database)
      if (!known)
        this.databases.set(database, (known = { collation: undefined, tables: new Map() }))
      if (effect.kind === 'database') known.collation = effect.collation
      else if (effect.now === undefined) known.tables.delete(effect.name.table)
      else known.tables.set(effect.name.table, effect.now)
    }
  }
}

/** What of two definitions differs, in words; "" when nothing does. */
export function difference(now: Definition, ours: Knowledge): string {
  if (ours === undefined) return 'not there'
  if (ours === 'unknown') return 'unknown'
  const text = (d: Definition): string[] => d.columns.map((c) => sorted(c))
  const [a, b] = [text(now), text(ours)]
  const clip = (t: string | undefined): string =>
    (t ?? '').replaceAll(/"(members|mysqlType)":("[^"]{200}|\[[^\]]{200})[^"\]]*/g, '"$1":$2…')
  const wrong = a.flatMap((column, i) =>
    column === b[i] ? [] : [`\n  server ${clip(column)}\n  ours   ${clip(b[i])}`],
  )
  if (a.length !== b.length) wrong.push(`${a.length} columns at the server, ${b.length} here`)
  if (now.collation !== ours.collation)
    wrong.push(`collation ${now.collation} at the server, ${ours.collation} here`)
  const keys = (d: Definition): string =>
    JSON.stringify(
      d.keys
        .map((k) =>
          sorted({
            ...k,
            whole: true, // it decides about `promoted`, which is compared
            invisible: undefined, // only who asks the server knows
            columns: k.columns.map((c) => c.toLowerCase()),
          }),
        )
        .toSorted(),
    )
  if (keys(now) !== keys(ours)) wrong.push(`keys\n  server ${keys(now)}\n  ours   ${keys(ours)}`)
  return wrong.join('; ')
}

const sorted = (o: object): string =>
  JSON.stringify(Object.fromEntries(Object.entries(o).toSorted(([a], [b]) => (a < b ? -1 : 1))))

export interface OracleResult {
  readonly statements: number
  readonly mismatches: readonly string[]
  readonly recovered: number
  readonly refused: number
  /** Of the statements, those that the readers saw as text they cannot know. */
  readonly madeUp: number
  /** Rows that were written, and how many of them were read with names that were guessed, and said to be. */
  readonly rows: number
  readonly guessed: number
}

/** Writes rows while definitions change, and compares what readers make of them. */
class Witness {
  readonly wrong: string[] = []
  guessed = 0
  readonly #mysql: MysqlServer
  readonly #history: MemoryHistory
  readonly #expected: { readonly name: string; readonly columns: string[] }[] = []
  readonly #reader: LogReader
  readonly #newer: Newer
  #read = 0

  private constructor(
    mysql: MysqlServer,
    reader: LogReader,
    history: MemoryHistory,
    unknown: Newer,
  ) {
    this.#mysql = mysql
    this.#newer = unknown
    this.#reader = reader
    this.#history = history
  }
  static async open(mysql: MysqlServer, unknown: Newer): Promise<Witness> {
    await mysql.query('SET GLOBAL binlog_row_metadata = MINIMAL')
    const history = new MemoryHistory()
    const reader = await LogReader.open(mysql, { history, newer: unknown })
    return new Witness(mysql, reader, history, unknown)
  }
  get rows(): number {
    return this.#expected.length
  }

  /** Writes a row to a table that is `now`, and reads it. */
  async write(database: string, table: string, now: Definition): Promise<void> {
    const quoted = [database, table].map((n) => `\`${n.replaceAll('`', '``')}\``).join('.')
    try {
      await this.#mysql.query(
        `SET SESSION sql_mode = ''; BEGIN; INSERT INTO ${quoted} () VALUES (); DELETE FROM ${quoted}; COMMIT`,
      )
    } catch {
      await this.#mysql.query('ROLLBACK')
      return // a column that must be given
    }
    const columns = now.columns.map((c) => `${c.name} ${c.mysqlType}${c.key ? ' key' : ''}`)
    this.#expected.push({ name: `${database}.${table}`, columns })
    this.#compare('read at once', await this.#reader.read(), this.#read, false)
    this.#read = this.#expected.length
  }
  /** Reads everything again, with the history and without one. */
  async reread(from: Position): Promise<void> {
    const seen = { newer: this.#newer }
    const history = this.#history
    await using again = await LogReader.open(this.#mysql, { history, ...seen }, from)
    this.#compare('read again', await again.read(), 0, false)
    const lax = { ambiguous: 'positional', ...seen } as const
    await using anew = await LogReader.open(this.#mysql, lax, from)
    this.#compare('read without a history', await anew.read(), 0, true)
    await this.#reader[Symbol.asyncDispose]()
  }
  #compare(when: string, rows: readonly ReadRow[], from: number, mayGuess: boolean): void {
    const expected = this.#expected.slice(from)
    if (rows.length !== expected.length)
      this.wrong.push(`${when}: ${rows.length} rows, expected ${expected.length}`)
    for (const [i, { name, columns }] of expected.entries()) {
      const row = rows[i]
      if (mayGuess && row?.origin === 'assumed') this.guessed++
      else if (row?.name !== name || row.columns.join() !== columns.join())
        this.wrong.push(
          `${when}, row ${from + i}:\n  server ${name}: ${columns.join()}\n  ours   ${row?.name}: ${row?.columns.join()}`,
        )
    }
  }
}

const MADE_UP_PERCENT = 10

/** Runs `count` statements that the server accepts. */
export async function runOracle(
  mysql: MysqlServer,
  count: number,
  seed: number,
): Promise<OracleResult> {
  const random = new Random(seed)
  const databases = ['oracle_a', 'oracle_b', 'oracle c']
  const db = await mysql.connect({ multipleStatements: false })
  const query = async <T>(sql: string, params: readonly unknown[] = []): Promise<T[]> =>
    (await db.query(sql, [...params]))[0] as T[]
  const modes = [
    '',
    'NO_BACKSLASH_ESCAPES',
    'ANSI_QUOTES',
    'REAL_AS_FLOAT',
    'STRICT_ALL_TABLES',
  ].map((m) => m)
  const bits: Record<string, number> = {
    '': 0,
    NO_BACKSLASH_ESCAPES: 2 ** 20,
    ANSI_QUOTES: 4,
    REAL_AS_FLOAT: 1,
    STRICT_ALL_TABLES: 0,
  }
  const dialect: Dialect = await captureDialect(query)
  const { latest: from } = await factsOf(mysql)
  const unknown = newer(seed, MADE_UP_PERCENT)
  const witness = await Witness.open(mysql, unknown)
  for (const name of databases) await db.query(`CREATE DATABASE \`${name}\``)
  const schema = new MemorySchema()
  schema.apply(await captureTables(query, dialect, databases))
  const statements = new Statements(random, dialect, databases)
  const mismatches: string[] = []
  let recovered = 0
  let refused = 0
  let madeUp = 0
  let current = databases[0]!
  let mode = ''
  for (let done = 0; done < count;) {
    if (random.chance(5)) await db.query(`USE \`${(current = random.pick(databases))}\``)
    else if (done === 0) await db.query(`USE \`${current}\``)
    if (random.chance(5)) await db.query('SET sql_mode = ?', [(mode = random.pick(modes))])
    const sql = statements.next(current, shapes(schema))
    try {
      await db.query(sql)
    } catch {
      refused++
      continue
    }
    done++
    const seen = unknown(sql, current)
    const hidden = seen === sql ? undefined : classify(seen, current).tables[0]
    if (hidden) madeUp++
    const facts = { sql: seen, database: current, sqlMode: bits[mode]!, dialect }
    schema.apply(effectsOf(facts, schema))
    if (hidden && schema.table(hidden.database, hidden.table) !== 'unknown')
      mismatches.push(`${seen}: was taken for something known`)
    const truth = new MemorySchema()
    truth.apply(await captureTables(query, dialect, databases))
    for (const name of databases) {
      for (const table of new Set([...truth.tables(name), ...schema.tables(name)])) {
        const now = truth.table(name, table)
        const ours = schema.table(name, table)
        if (ours === 'unknown') recovered++
        const wrong =
          now === undefined || now === 'unknown'
            ? 'still here, gone at the server'
            : difference(now, ours)
        if (wrong === '') continue
        if (ours !== 'unknown')
          mismatches.push(`${sql}\n(sql_mode ${mode}) ${name}.${table}: ${wrong}`)
        schema.apply([{ kind: 'table', name: { database: name, table }, now }])
      }
      if (truth.collation(name) !== schema.collation(name)) {
        mismatches.push(
          `${sql}: collation of ${name}: ${truth.collation(name)} at the server, ${schema.collation(name)} here`,
        )
        schema.apply([{ kind: 'database', database: name, collation: truth.collation(name) }])
      }
    }
    // What was left unknown must be found out: its next row comes at once.
    const shape = hidden ?? (random.chance(60) ? pickShape(shapes(schema), random) : undefined)
    const now = shape && truth.table(shape.database, shape.table)
    if (shape && now !== undefined && now !== 'unknown')
      await witness.write(shape.database, shape.table, now)
  }
  await witness.reread(from)
  for (const name of databases) await db.query(`DROP DATABASE \`${name}\``)
  await db.end()
  mismatches.push(...witness.wrong)
  const { rows, guessed } = witness
  return { statements: count, mismatches, recovered, refused, madeUp, rows, guessed }
}

const pickShape = (list: readonly Shape[], random: Random): Shape | undefined =>
  list.length > 0 ? random.pick(list) : undefined

function shapes(schema: MemorySchema): Shape[] {
  return [...schema.databases].flatMap(([database, { tables }]) =>
    [...tables].flatMap(([table, now]): Shape[] =>
      now === undefined || now === 'unknown'
        ? []
        : [
            {
              database,
              table,
              columns: now.columns.map(({ name, mysqlType, key }) => ({
                name,
                type: mysqlType,
                key,
              })),
              keys: now.keys.filter((key) => !key.primary).map((key) => key.name),
              primary: now.keys.some((key) => key.primary),
            },
          ],
    ),
  )
}

if (process.argv[1] === import.meta.filename) {
  const { values } = parseArgs({
    options: {
      statements: { type: 'string', default: '2000' },
      seed: { type: 'string', default: String(Math.trunc(Math.random() * 2 ** 31)) },
      server: { type: 'string', default: '9.7' },
    },
  })
  await using mysql = await privateMysql(values.server as '9.7')
  const { statements, mismatches, recovered, refused, madeUp, rows, guessed } = await runOracle(
    mysql,
    Number(values.statements),
    Number(values.seed),
  )
  for (const text of mismatches.slice(0, 20)) console.log(text.slice(0, 1500))
  console.log(
    `seed ${values.seed}, MySQL ${mysql.version}, ${madeUp} statements were shown as of an unknown version, ${refused} more were refused by the server`,
  )
  console.log(
    `${rows} rows were read three times; without a history ${guessed} of them were matched by position, and said to be`,
  )
  console.log(`statements ${statements} mismatches ${mismatches.length} recovered ${recovered}`)
  process.exitCode = mismatches.length > 0 ? 1 : 0
}
