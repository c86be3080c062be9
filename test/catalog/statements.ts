/**
 * Random DDL over tables of every column type: statements as people and tools write them, in all the spellings that
 * change what a table is. Most of them run; those that a server refuses are for the caller to pass over. Pure: knows
 * the tables only by what it is told of them.
 */
import type { Random } from '../e2e/load.ts'

export interface Shape {
  readonly database: string
  readonly table: string
  readonly columns: readonly {
    readonly name: string
    readonly type: string
    readonly key: boolean
  }[]
  readonly keys: readonly string[] // names, PRIMARY left out
  readonly primary: boolean
}
export interface ServerKind {
  readonly version: number
  readonly mariadb: boolean
}

const charsets = [
  'latin1',
  'utf8mb4',
  'utf8mb3',
  'gbk',
  'sjis',
  'ucs2',
  'utf16',
  'utf32',
  'ascii',
  'big5',
  'koi8r',
]
const collations = [
  'latin1_bin',
  'utf8mb4_general_ci',
  'utf8mb4_bin',
  'utf8mb4_unicode_ci',
  'gbk_bin',
  'latin1_german2_ci',
  'ucs2_bin',
]

export class Statements {
  readonly #r: Random
  readonly #kind: ServerKind
  readonly #databases: readonly string[]
  #serial = 0
  constructor(random: Random, kind: ServerKind, databases: readonly string[]) {
    this.#r = random
    this.#kind = kind
    this.#databases = databases
  }

  /** One statement, for a session whose database is `current`. */
  next(current: string, tables: readonly Shape[]): string {
    const r = this.#r
    const shape = tables.length > 0 ? r.pick(tables) : undefined
    if (shape === undefined || (tables.length < 6 && r.chance(30)))
      return this.#create(current, tables)
    if (tables.length > 10 && r.chance(50)) return `DROP TABLE ${this.#ref(current, shape)}`
    const dice = r.int(1, 100)
    if (dice <= 66) return this.#alter(current, shape)
    if (dice <= 72) return this.#rename(current, shape, tables)
    if (dice <= 76) return this.#index(current, shape)
    if (dice <= 80)
      return `DROP TABLE ${r.chance(50) ? 'IF EXISTS ' : ''}${this.#ref(current, shape)}`
    if (dice <= 84) return `TRUNCATE ${r.chance(50) ? 'TABLE ' : ''}${this.#ref(current, shape)}`
    if (dice <= 90) return this.#create(current, tables)
    if (dice <= 94) {
      const name = `\`${r.pick(this.#databases)}\``
      return `ALTER ${r.pick(['DATABASE', 'SCHEMA'])} ${name} ${this.#charset()}`
    }
    if (dice <= 97 && shape.keys.length > 0)
      return `DROP INDEX ${this.#quoted(r.pick(shape.keys))} ON ${this.#ref(current, shape)}`
    return `/* ${r.pick(['a comment', 'ALTER TABLE x', "it's"])} */ ${this.#alter(current, shape)} -- end`
  }

  // ── names ──────────────────────────────────────────────────────────────────

  #fresh(prefix: string): string {
    const n = ++this.#serial
    return this.#r.pick([
      `${prefix}${n}`,
      `${prefix}${n}`,
      `${prefix.toUpperCase()}_${n}`,
      `${prefix} ${n}`,
      `${prefix}\`${n}`,
      `${prefix}表${n}`,
    ])
  }
  #quoted(name: string): string {
    const plain = /^[A-Za-z_]+[0-9_]*$/.test(name) && this.#r.chance(60)
    return plain ? name : `\`${name.replaceAll('`', '``')}\``
  }
  #ref(current: string, { database, table }: Pick<Shape, 'database' | 'table'>): string {
    const name = this.#quoted(table)
    return database === current && this.#r.chance(70) ? name : `${this.#quoted(database)}.${name}`
  }
  /** A column by name; case does not matter. */
  #column(shape: Shape): string {
    const { name } = this.#r.pick(shape.columns)
    return this.#quoted(this.#r.chance(15) ? name.toUpperCase() : name)
  }

  // ── CREATE ─────────────────────────────────────────────────────────────────

  #create(current: string, tables: readonly Shape[]): string {
    const r = this.#r
    const database = r.pick(this.#databases)
    const table = this.#fresh('t')
    const head = `CREATE TABLE ${r.chance(20) ? 'IF NOT EXISTS ' : ''}${this.#ref(current, { database, table })}`
    if (tables.length > 0 && r.chance(10)) {
      const other = this.#ref(current, r.pick(tables))
      return r.chance(50) ? `${head} LIKE ${other}` : `${head} (LIKE ${other})`
    }
    const names = Array.from({ length: r.int(1, 8) }, () => this.#fresh('c'))
    const elements = names.map(
      (name, i) => `${this.#quoted(name)} ${this.#definition(i === 0 && r.chance(40))}`,
    )
    if (r.chance(30)) elements.push(this.#key(names))
    if (r.chance(20)) elements.push(`CHECK (1 > 0)`)
    const options = r.chance(50)
      ? ` ${r.pick(['', 'ENGINE=InnoDB '])}${r.pick(['DEFAULT ', ''])}${this.#charset()} COMMENT='x, (y'`
      : ''
    return `${head} (${elements.join(r.pick([', ', ',\n  ']))})${options}`
  }
  #charset(): string {
    const r = this.#r
    const set = r.pick(charsets)
    return r.pick([
      `CHARACTER SET ${set}`,
      `CHARSET=${set}`,
      `CHARACTER SET = '${set}'`,
      `COLLATE ${r.pick(collations)}`,
      `CHARACTER SET utf8mb4 COLLATE utf8mb4_bin`,
    ])
  }
  #key(columns: readonly string[]): string {
    const r = this.#r
    const parts = [r.pick(columns), ...(r.chance(30) ? [r.pick(columns)] : [])]
    const list = [...new Set(parts)].map((name) => this.#quoted(name)).join(', ')
    return r.pick([
      `PRIMARY KEY (${list})`,
      `CONSTRAINT pk PRIMARY KEY USING BTREE (${list})`,
      `UNIQUE KEY (${list})`,
      `UNIQUE ${this.#quoted(this.#fresh('u'))} (${list})`,
      `CONSTRAINT ${this.#quoted(this.#fresh('u'))} UNIQUE (${list}) COMMENT 'k'`,
      `INDEX ${this.#quoted(this.#fresh('i'))} (${list})`,
      `KEY (${list})`,
    ])
  }

  // ── columns ────────────────────────────────────────────────────────────────

  #definition(keyed: boolean): string {
    const r = this.#r
    if (keyed)
      return r.pick([
        'INT PRIMARY KEY',
        'BIGINT AUTO_INCREMENT PRIMARY KEY',
        'BIGINT UNSIGNED NOT NULL KEY',
        'SERIAL',
        'VARCHAR(20) PRIMARY KEY',
        'INT UNIQUE',
        'INT NOT NULL UNIQUE KEY',
      ])
    const type = this.#type()
    const more: string[] = []
    if (r.chance(35)) more.push(r.pick(['NOT NULL', 'NULL', 'NULL DEFAULT NULL']))
    if (r.chance(15)) more.push(`COMMENT ${r.pick(["'a, b'", "'it''s (x'", '"q"'])}`)
    if (this.#kind.version >= 80_023 && r.chance(6)) more.push(r.pick(['INVISIBLE', 'VISIBLE']))
    if (r.chance(4))
      return `${type.startsWith('TIMESTAMP') ? 'INT' : 'INT'} ${r.pick(['GENERATED ALWAYS ', ''])}AS (1 + ${r.int(1, 9)}) ${r.pick(['VIRTUAL', 'STORED', ''])}`
    return [type, ...more].join(' ')
  }
  #type(): string {
    const r = this.#r
    const n = (least: number, most: number) => r.int(least, most)
    const sign = () => r.pick(['', '', ' UNSIGNED', ' ZEROFILL', ' UNSIGNED ZEROFILL', ' SIGNED'])
    const text = () =>
      r.pick([
        '',
        '',
        '',
        ` CHARACTER SET ${r.pick(charsets)}`,
        ` CHARSET ${r.pick(charsets)}`,
        ` COLLATE ${r.pick(collations)}`,
        ' CHARACTER SET binary',
        ' CHARACTER SET latin1 COLLATE latin1_bin',
        ' BINARY',
        ' ASCII',
        ' CHARACTER SET latin1 BINARY',
      ])
    const makers: (() => string)[] = [
      () =>
        `${r.pick(['TINYINT', 'SMALLINT', 'MEDIUMINT', 'INT', 'INTEGER', 'BIGINT', 'INT1', 'INT2', 'INT3', 'INT4', 'INT8', 'MIDDLEINT'])}${r.pick(['', '', `(${n(1, 20)})`])}${sign()}`,
      () => r.pick(['BOOL', 'BOOLEAN', 'TINYINT(1)', 'tinyint(1) unsigned']),
      () =>
        `${r.pick(['DECIMAL', 'DEC', 'NUMERIC', 'FIXED'])}${r.pick(['', `(${n(1, 65)})`, `(${n(30, 65)},${n(0, 30)})`])}${r.pick(['', ' UNSIGNED', ' ZEROFILL'])}`,
      () =>
        `${r.pick(['FLOAT', 'DOUBLE', 'DOUBLE PRECISION', 'REAL', 'FLOAT(10)', 'FLOAT(30)', 'FLOAT(7,2)', 'DOUBLE(10,3)', 'REAL(9,1)', 'FLOAT4', 'FLOAT8'])}${r.pick(['', ' UNSIGNED'])}`,
      () => r.pick(['BIT', `BIT(${n(1, 64)})`]),
      () => r.pick(['YEAR', 'YEAR(4)', 'DATE']),
      () => r.pick(['TIME', 'DATETIME']) + r.pick(['', `(${n(0, 6)})`]),
      () => `TIMESTAMP${r.pick(['', `(${n(0, 6)})`])} NULL`,
      () =>
        `${r.pick(['CHAR', 'CHARACTER', 'NCHAR', 'NATIONAL CHAR', 'NATIONAL CHARACTER'])}${r.pick(['', `(${n(1, 60)})`])}`,
      () => `CHAR${r.pick(['', `(${n(1, 255)})`])}${text()}`,
      () =>
        `${r.pick(['VARCHAR', 'CHARACTER VARYING', 'CHAR VARYING', 'VARCHARACTER'])}(${n(1, 500)})${text()}`,
      () =>
        `${r.pick(['NVARCHAR', 'NATIONAL VARCHAR', 'NCHAR VARCHAR', 'NCHAR VARYING', 'NATIONAL CHAR VARYING'])}(${n(1, 100)})`,
      () =>
        `${r.pick(['TINYTEXT', 'TEXT', 'MEDIUMTEXT', 'LONGTEXT', 'LONG', 'LONG VARCHAR', 'LONG CHAR VARYING'])}${text()}`,
      () => `TEXT(${r.pick([1, 63, 64, 255, 256, 20_000, 65_535, 100_000, 9_000_000])})${text()}`,
      () =>
        r.pick([
          'BINARY',
          `BINARY(${n(1, 255)})`,
          `VARBINARY(${n(1, 900)})`,
          'CHAR BYTE',
          `CHAR(${n(1, 20)}) BYTE`,
        ]),
      () =>
        r.pick([
          'TINYBLOB',
          'BLOB',
          'MEDIUMBLOB',
          'LONGBLOB',
          'LONG VARBINARY',
          'BLOB(100)',
          'BLOB(300)',
          'BLOB(70000)',
        ]),
      () =>
        `${r.pick(['ENUM', 'SET'])}(${r.pick(["'a'", "'a','b','c d'", "'it''s','comma,paren)'", '"x","y"', "'a  ','b'", "'ü','ß'", "'中','→x','é'", "'back\\\\slash','q\\'q'"])})${r.pick(['', '', ' CHARACTER SET latin1', ' CHARACTER SET gbk', ' CHARACTER SET ascii', ' COLLATE utf8mb4_bin'])}`,
      () => `ENUM(${Array.from({ length: 300 }, (_, i) => `'m${i}'`).join(',')})`,
      () => `SET(${Array.from({ length: n(1, 64) }, (_, i) => `'s${i}'`).join(',')})`,
      () =>
        r.pick([
          'GEOMETRY',
          'POINT',
          'LINESTRING',
          'POLYGON',
          'MULTIPOINT',
          'MULTILINESTRING',
          'MULTIPOLYGON',
          'GEOMETRYCOLLECTION',
        ]),
      () => 'JSON',
    ]
    if (this.#kind.version >= 90_000 && !this.#kind.mariadb)
      makers.push(() => r.pick(['VECTOR', `VECTOR(${n(1, 100)})`]))
    return r.pick(makers)()
  }

  // ── ALTER ──────────────────────────────────────────────────────────────────

  #alter(current: string, shape: Shape): string {
    const r = this.#r
    const clauses = Array.from({ length: r.pick([1, 1, 1, 2, 3]) }, () => this.#clause(shape))
    if (r.chance(8))
      clauses.push(
        r.pick([
          'ALGORITHM=COPY',
          'LOCK=SHARED',
          'ENGINE=InnoDB',
          "COMMENT='c'",
          'FORCE',
          'ROW_FORMAT=DYNAMIC',
        ]),
      )
    return `ALTER TABLE ${this.#ref(current, shape)} ${clauses.join(', ')}`
  }
  #place(shape: Shape): string {
    return this.#r.pick(['', '', ' FIRST', ` AFTER ${this.#column(shape)}`])
  }
  #clause(shape: Shape): string {
    const r = this.#r
    const column = this.#column(shape)
    const fresh = this.#quoted(this.#fresh('c'))
    const modern = this.#kind.version >= 80_003
    const makers: (() => string)[] = [
      () =>
        `ADD ${r.pick(['COLUMN ', ''])}${fresh} ${this.#definition(false)}${this.#place(shape)}`,
      () =>
        `ADD COLUMN (${fresh} ${this.#definition(false)}, ${this.#quoted(this.#fresh('c'))} ${this.#definition(false)})`,
      () => `DROP ${r.pick(['COLUMN ', ''])}${column}`,
      () =>
        `MODIFY ${r.pick(['COLUMN ', ''])}${column} ${this.#definition(false)}${this.#place(shape)}`,
      () =>
        `CHANGE ${r.pick(['COLUMN ', ''])}${column} ${fresh} ${this.#definition(false)}${this.#place(shape)}`,
      () => `CHANGE ${column} ${column} ${this.#definition(false)}`,
      () => `ADD ${this.#key(shape.columns.map(({ name }) => name))}`,
      () => (shape.primary ? 'DROP PRIMARY KEY' : `ADD PRIMARY KEY (${column})`),
      () =>
        shape.keys.length > 0
          ? `DROP ${r.pick(['INDEX', 'KEY'])} ${this.#quoted(r.pick(shape.keys))}`
          : `ADD INDEX (${column})`,
      () => `CONVERT TO ${r.pick(['CHARACTER SET', 'CHARSET'])} ${r.pick(charsets)}`,
      () => `CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin`,
      () => `${r.pick(['DEFAULT ', ''])}${this.#charset()}`,
      () =>
        `ALTER ${r.pick(['COLUMN ', ''])}${column} ${r.pick(['DROP DEFAULT', "SET DEFAULT '1'"])}`,
    ]
    if (modern) {
      makers.push(() => `RENAME COLUMN ${column} TO ${fresh}`)
      if (shape.keys.length > 0)
        makers.push(
          () =>
            `RENAME ${r.pick(['INDEX', 'KEY'])} ${this.#quoted(r.pick(shape.keys))} TO ${this.#quoted(this.#fresh('i'))}`,
        )
      const [a, b] = shape.columns
      if (a && b)
        makers.push(
          () =>
            `RENAME COLUMN ${this.#quoted(a.name)} TO ${this.#quoted(b.name)}, RENAME COLUMN ${this.#quoted(b.name)} TO ${this.#quoted(a.name)}`,
        )
    }
    if (this.#kind.version >= 80_023 && !this.#kind.mariadb)
      makers.push(() => `ALTER COLUMN ${column} SET ${r.pick(['INVISIBLE', 'VISIBLE'])}`)
    return r.pick(makers)()
  }

  #rename(current: string, shape: Shape, tables: readonly Shape[]): string {
    const r = this.#r
    const from = this.#ref(current, shape)
    const to = this.#ref(current, { database: r.pick(this.#databases), table: this.#fresh('t') })
    const other = r.pick(tables)
    if (other.table !== shape.table && r.chance(40)) {
      const [a, b] = [from, this.#ref(current, other)]
      return `RENAME TABLE ${a} TO ${to}, ${b} TO ${a}, ${to} TO ${b}`
    }
    return r.pick([
      `RENAME TABLE ${from} TO ${to}`,
      `ALTER TABLE ${from} RENAME TO ${to}`,
      `ALTER TABLE ${from} RENAME ${to}`,
      `ALTER TABLE ${from} RENAME AS ${to}, ADD ${this.#quoted(this.#fresh('c'))} INT`,
    ])
  }
  #index(current: string, shape: Shape): string {
    const r = this.#r
    const name = this.#quoted(this.#fresh('i'))
    return `CREATE ${r.pick(['', 'UNIQUE '])}INDEX ${name}${r.pick(['', ' USING BTREE'])} ON ${this.#ref(current, shape)} (${this.#column(shape)}${r.pick(['', ' DESC'])})`
  }
}
