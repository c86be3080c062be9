/**
 * Column types as DDL writes them, in all their spellings, and as information_schema prints them; table options. Pure.
 * What it does not know throws NotUnderstood.
 *
 * Sources: sql/sql_yacc.yy (type), Field_*::sql_type (the text of COLUMN_TYPE).
 */
import { BINARY } from '../../binlog/charset.ts'
import {
  binOf,
  maxBytes,
  NO_BACKSLASH_ESCAPES,
  NotUnderstood,
  pickCollation,
  REAL_AS_FLOAT,
  unknown,
  type Defaults,
  type Dialect,
} from './dialect.ts'
import { keywords, type Tokens } from './tokens.ts'

export interface TypeDraft {
  base: string
  /** Numbers between parentheses, or none. */
  sizes: number[]
  members: string[] | undefined
  unsigned: boolean
  zerofill: boolean
  charset: string | undefined
  collate: string | undefined
  /** The word BINARY after a character type: the _bin collation. */
  bin: boolean
  nullable: boolean | undefined
  serial: boolean
  display: number // width of an integer as written; 0: none
}

const words = (list: string): ReadonlySet<string> => keywords(list.toUpperCase())

const CHARACTER = words('char varchar tinytext text mediumtext longtext enum set')

const INTEGERS: Readonly<Record<string, readonly [signed: number, unsigned: number]>> = {
  tinyint: [4, 3],
  smallint: [6, 5],
  mediumint: [9, 8],
  int: [11, 10],
  bigint: [20, 20],
}

/** Words that stand for a type, lower case, when nothing else is to be read. */
const ALIASES: Readonly<Record<string, string>> = {
  INT: 'int',
  INTEGER: 'int',
  INT1: 'tinyint',
  INT2: 'smallint',
  INT3: 'mediumint',
  INT4: 'int',
  INT8: 'bigint',
  MIDDLEINT: 'mediumint',
  TINYINT: 'tinyint',
  SMALLINT: 'smallint',
  MEDIUMINT: 'mediumint',
  BIGINT: 'bigint',
  DECIMAL: 'decimal',
  DEC: 'decimal',
  NUMERIC: 'decimal',
  FIXED: 'decimal',
  NUMBER: 'decimal',
  FLOAT: 'float',
  FLOAT4: 'float',
  FLOAT8: 'double',
  DOUBLE: 'double',
  REAL: 'double',
  BIT: 'bit',
  YEAR: 'year',
  DATE: 'date',
  TIME: 'time',
  DATETIME: 'datetime',
  TIMESTAMP: 'timestamp',
  CHAR: 'char',
  CHARACTER: 'char',
  NCHAR: 'char',
  VARCHAR: 'varchar',
  VARCHARACTER: 'varchar',
  NVARCHAR: 'varchar',
  VARCHAR2: 'varchar',
  BINARY: 'binary',
  VARBINARY: 'varbinary',
  RAW: 'varbinary',
  TINYBLOB: 'tinyblob',
  BLOB: 'blob',
  MEDIUMBLOB: 'mediumblob',
  LONGBLOB: 'longblob',
  TINYTEXT: 'tinytext',
  TEXT: 'text',
  CLOB: 'longtext',
  MEDIUMTEXT: 'mediumtext',
  LONGTEXT: 'longtext',
  ENUM: 'enum',
  SET: 'set',
  JSON: 'json',
  GEOMETRY: 'geometry',
  POINT: 'point',
  LINESTRING: 'linestring',
  POLYGON: 'polygon',
  MULTIPOINT: 'multipoint',
  MULTILINESTRING: 'multilinestring',
  MULTIPOLYGON: 'multipolygon',
  GEOMETRYCOLLECTION: 'geometrycollection',
  GEOMCOLLECTION: 'geometrycollection',
  VECTOR: 'vector',
  UUID: 'uuid',
  INET4: 'inet4',
  INET6: 'inet6',
}

export function readType(tokens: Tokens, { dialect, sqlMode }: Defaults): TypeDraft {
  if (tokens.kind !== 'word') throw new NotUnderstood(`a type expected at ${tokens.start}`)
  const word = tokens.text.toUpperCase()
  tokens.next()
  const type: TypeDraft = {
    base: ALIASES[word] ?? '',
    sizes: [],
    members: undefined,
    unsigned: false,
    zerofill: false,
    charset: undefined,
    collate: undefined,
    bin: false,
    nullable: undefined,
    serial: false,
    display: 0,
  }
  readWords(tokens, word, type)
  if (type.base === '') throw new NotUnderstood(`type ${word}`)
  if (word === 'REAL' && (sqlMode & REAL_AS_FLOAT) !== 0) type.base = 'float'
  if (type.base === 'json' && dialect.mariadb) {
    type.base = 'longtext'
    type.charset = 'utf8mb4'
    type.bin = true
  }
  if (!tokens.isPunctuation('(')) return type
  if (type.base === 'enum' || type.base === 'set') type.members = readMembers(tokens, sqlMode)
  else type.sizes = readSizes(tokens)
  return type
}

/** Types of several words, and those whose word says more than the type. */
function readWords(tokens: Tokens, word: string, type: TypeDraft): void {
  switch (word) {
    case 'BOOL':
    case 'BOOLEAN':
      type.base = 'tinyint'
      type.sizes = [1]
      return
    case 'SERIAL':
      type.base = 'bigint'
      type.unsigned = true
      type.nullable = false
      type.serial = true
      return
    case 'DOUBLE':
      tokens.take('PRECISION')
      return
    case 'NATIONAL':
      type.base = tokens.take('VARCHAR') || tokens.take('VARCHARACTER') ? 'varchar' : 'char'
      if (
        type.base === 'char' &&
        (tokens.take('CHAR') || tokens.take('CHARACTER')) &&
        tokens.take('VARYING')
      )
        type.base = 'varchar'
      type.charset = 'utf8mb3'
      return
    case 'NCHAR':
      type.charset = 'utf8mb3'
      if (tokens.take('VARYING') || tokens.take('VARCHAR') || tokens.take('VARCHARACTER'))
        type.base = 'varchar'
      return
    case 'NVARCHAR':
      type.charset = 'utf8mb3'
      return
    case 'CHAR':
    case 'CHARACTER':
      if (tokens.take('VARYING')) type.base = 'varchar'
      if (tokens.take('BYTE')) type.base = 'binary'
      return
    case 'LONG':
      if (tokens.take('VARBINARY')) type.base = 'mediumblob'
      else {
        if (!tokens.take('VARCHAR') && !tokens.take('VARCHARACTER') && tokens.take('CHAR'))
          tokens.take('VARYING')
        type.base = 'mediumtext'
      }
      return
    default:
  }
}

/** ( n [, n] ) */
function readSizes(tokens: Tokens): number[] {
  tokens.next()
  const sizes: number[] = []
  do {
    const size = tokens.kind === 'word' ? Number(tokens.text) : Number.NaN
    if (!Number.isSafeInteger(size)) throw new NotUnderstood(`a size expected at ${tokens.start}`)
    sizes.push(size)
    tokens.next()
  } while (tokens.takePunctuation(','))
  if (!tokens.takePunctuation(')')) throw new NotUnderstood(`")" expected at ${tokens.start}`)
  return sizes
}

/** ( 'a', "b", … ) */
function readMembers(tokens: Tokens, sqlMode: number): string[] {
  tokens.next()
  const members: string[] = []
  do {
    if (tokens.kind !== 'string' && tokens.kind !== 'quoted')
      throw new NotUnderstood(`a member expected at ${tokens.start}`)
    // trailing spaces of members are not kept
    members.push(unescape(tokens.text, sqlMode).replace(/ +$/, ''))
    tokens.next()
  } while (tokens.takePunctuation(','))
  if (!tokens.takePunctuation(')')) throw new NotUnderstood(`")" expected at ${tokens.start}`)
  return members
}

const escapes: Readonly<Record<string, string>> = {
  '0': '\0',
  b: '\b',
  n: '\n',
  r: '\r',
  t: '\t',
  Z: '\u001a',
}

/** The value of a string literal's body. */
export function unescape(body: string, sqlMode: number): string {
  if ((sqlMode & NO_BACKSLASH_ESCAPES) !== 0 || !body.includes('\\')) return body
  return body.replaceAll(/\\(.)/gs, (_, c: string) => escapes[c] ?? c)
}

/** UNSIGNED, character sets and their like; false where none stands. */
export function readTypeAttribute(tokens: Tokens, type: TypeDraft): boolean {
  if (tokens.take('UNSIGNED')) type.unsigned = true
  else if (tokens.take('SIGNED')) return true
  else if (tokens.take('ZEROFILL')) {
    type.zerofill = true
    type.unsigned = true
  } else if (tokens.take('ASCII')) type.charset = 'latin1'
  else if (tokens.take('UNICODE')) type.charset = 'ucs2'
  else if (tokens.take('BYTE')) type.charset = 'binary'
  else if (tokens.take('BINARY')) type.bin = true
  else if (tokens.is('CHARACTER') || tokens.is('CHARSET') || tokens.is('CHAR')) {
    if (!tokens.take('CHARSET')) {
      tokens.next()
      if (!tokens.take('SET')) throw new NotUnderstood(`SET expected at ${tokens.start}`)
    }
    type.charset = charsetName(tokens)
  } else if (tokens.take('COLLATE')) type.collate = charsetName(tokens)
  else return false
  return true
}

/** A name of a character set or collation, which may be quoted; "=" before it is stepped over. */
export function charsetName(tokens: Tokens): string {
  tokens.takePunctuation('=')
  if (tokens.kind !== 'word' && tokens.kind !== 'string' && tokens.kind !== 'quoted')
    throw new NotUnderstood(`a character set expected at ${tokens.start}`)
  const name = tokens.text.toLowerCase()
  tokens.next()
  return name
}

/** Clauses of ALTER TABLE that touch no column, and table options. */
const OTHER_CLAUSES = keywords(
  'ALGORITHM LOCK FORCE ENABLE DISABLE ORDER WITH WITHOUT DISCARD IMPORT TRUNCATE COALESCE REORGANIZE EXCHANGE ANALYZE ' +
    'CHECK OPTIMIZE REBUILD REPAIR REMOVE UPGRADE PARTITION SECONDARY_LOAD SECONDARY_UNLOAD WAIT NOWAIT DEFAULT CHARACTER ' +
    'CHARSET CHAR COLLATE ENGINE TYPE AUTO_INCREMENT AVG_ROW_LENGTH CHECKSUM TABLE_CHECKSUM COMMENT COMPRESSION CONNECTION ' +
    'DATA INDEX DELAY_KEY_WRITE ENCRYPTION ENGINE_ATTRIBUTE INSERT_METHOD KEY_BLOCK_SIZE MAX_ROWS MIN_ROWS PACK_KEYS ' +
    'PASSWORD ROW_FORMAT SECONDARY_ENGINE SECONDARY_ENGINE_ATTRIBUTE STATS_AUTO_RECALC STATS_PERSISTENT STATS_SAMPLE_PAGES ' +
    'TABLESPACE STORAGE UNION AUTOEXTEND_SIZE PAGE_CHECKSUM TRANSACTIONAL SEQUENCE PAGE_COMPRESSED PAGE_COMPRESSION_LEVEL ' +
    'ENCRYPTED ENCRYPTION_KEY_ID',
)
/** Whether a clause of ALTER TABLE begins here that changes no column but by the default character set. */
export const touchesNoColumn = ({ kind, text }: Tokens): boolean =>
  kind === 'word' && OTHER_CLAUSES.has(text.toUpperCase())

/**
 * The default collation among table or database options. `one`: stops before a comma, as between the clauses of
 * ALTER TABLE, and remembers whether there was a COLLATE.
 */
export function readTableOptions(
  tokens: Tokens,
  dialect: Dialect,
  before: number,
  one?: { collated: boolean },
): number {
  let charset: string | undefined
  let collate: string | undefined
  const said = (name: string): void => {
    // since MySQL 8.0 a COLLATE stays, whatever comes behind it; before, the last one counts
    if (dialect.mariadb || dialect.version >= 80_000) {
      if (one?.collated !== true) charset = name
    } else {
      charset = name
      collate = undefined
    }
  }
  while (tokens.kind !== 'end' && !tokens.isPunctuation(';')) {
    if (one && tokens.isPunctuation(',')) break
    if (tokens.take('CHARSET')) said(charsetName(tokens))
    else if (tokens.take('CHARACTER') || tokens.take('CHAR')) {
      if (tokens.take('SET')) said(charsetName(tokens))
    } else if (tokens.take('COLLATE')) {
      collate = charsetName(tokens)
      if (one) one.collated = true
    } else if (tokens.is('PARTITION') || tokens.is('AS') || tokens.is('SELECT')) break
    else if (tokens.isPunctuation('(')) tokens.skipParentheses()
    else tokens.next()
  }
  return pickCollation(dialect, before, charset, collate)
}

const TEXTS = ['tinytext', 'text', 'mediumtext', 'longtext']

const BLOBS = ['tinyblob', 'blob', 'mediumblob', 'longblob']

const CAPACITY = [255, 65_535, 16_777_215, 4_294_967_295]

/** The collation a text column gets; binary types have BINARY, others 0. Throws NotUnderstood. */
export function collationOf(type: TypeDraft, { dialect, collation: ofTable }: Defaults): number {
  const { base } = type
  if (base === 'binary' || base === 'varbinary' || BLOBS.includes(base)) return BINARY
  if (!CHARACTER.has(base.toUpperCase())) return 0
  const found = pickCollation(dialect, ofTable, type.charset, type.collate)
  return type.bin && type.collate === undefined ? binOf(found, dialect) : found
}

/** TEXT(n) and BLOB(n) are the smallest that hold n characters; CHAR of the binary set is BINARY. */
export function shrinkOrGrow(type: TypeDraft, collation: number, dialect: Dialect): void {
  const [size] = type.sizes
  if (size !== undefined && (type.base === 'text' || type.base === 'blob')) {
    const list = type.base === 'text' ? TEXTS : BLOBS
    const bytes = type.base === 'text' ? size * maxBytes(collation, dialect) : size
    const fits = CAPACITY.findIndex((capacity) => bytes <= capacity)
    type.base = list[fits] ?? unknown(`${type.base}(${size})`)
    type.sizes = []
  }
  if (collation === BINARY && CHARACTER.has(type.base.toUpperCase())) {
    if (type.base === 'char') type.base = 'binary'
    else if (type.base === 'varchar') type.base = 'varbinary'
    else if (TEXTS.includes(type.base)) type.base = BLOBS[TEXTS.indexOf(type.base)]!
  }
}

/** A text type of at least so many bytes: what CONVERT TO CHARACTER SET makes of one that grows. */
export function textFor(bytes: number): string {
  return TEXTS[CAPACITY.findIndex((capacity) => bytes <= capacity)] ?? 'longtext'
}

export const capacityOf = (base: string): number => CAPACITY[TEXTS.indexOf(base)] ?? 0

export function octetsOf(
  base: string,
  [size = 0]: number[],
  collation: number,
  dialect: Dialect,
): number {
  if (base === 'char' || base === 'varchar') return size * maxBytes(collation, dialect)
  if (base === 'binary' || base === 'varbinary') return size
  const text = Math.max(TEXTS.indexOf(base), BLOBS.indexOf(base))
  return text >= 0 ? CAPACITY[text]! : 0
}

/** COLUMN_TYPE. */
export function typeText(type: TypeDraft, dialect: Dialect): string {
  const { base, members, unsigned, zerofill } = type
  const [size, scale] = type.sizes
  const signs = `${unsigned ? ' unsigned' : ''}${zerofill ? ' zerofill' : ''}`
  const width = INTEGERS[base]
  if (width) return `${base}${integerWidth(type, width, dialect)}${signs}`
  switch (base) {
    case 'decimal':
      return `decimal(${size ?? 10},${scale ?? 0})${signs}`
    case 'float':
    case 'double':
      if (scale !== undefined) return `${base}(${size},${scale})${signs}`
      return `${base === 'float' && (size ?? 0) > 24 ? 'double' : base}${signs}`
    case 'bit':
    case 'char':
    case 'binary':
      return `${base}(${size ?? 1})`
    case 'varchar':
    case 'varbinary':
      if (size === undefined) throw new NotUnderstood(`${base} without a length`)
      return `${base}(${size})`
    case 'year':
      return modern(dialect, 80_019) ? 'year' : 'year(4)'
    case 'time':
    case 'datetime':
    case 'timestamp':
      return size === undefined || size === 0 ? base : `${base}(${size})`
    case 'enum':
    case 'set':
      return `${base}(${(members ?? []).map(quoteMember).join(',')})`
    case 'geometrycollection':
      return modern(dialect, 80_011) ? 'geomcollection' : base
    case 'vector':
      return `vector(${size ?? 2048})`
    default:
      return base
  }
}

const modern = ({ version, mariadb }: Dialect, since: number): boolean =>
  !mariadb && version >= since

/** Since 8.0.19 only TINYINT(1) and ZEROFILL still show a width. */
function integerWidth(
  { base, sizes, unsigned, zerofill }: TypeDraft,
  [signed, positive]: readonly [number, number],
  dialect: Dialect,
): string {
  const [size] = sizes
  if (modern(dialect, 80_019) && !zerofill) {
    return base === 'tinyint' && size === 1 && !unsigned ? '(1)' : ''
  }
  return `(${size ?? (unsigned ? positive : signed)})`
}

const PRINTED: Readonly<Record<string, string>> = {
  "'": "''",
  '\\': '\\\\',
  '\0': '\\0',
  '\n': '\\n',
  '\r': '\\r',
}

/** As servers print a member (append_unescaped in sql/sql_show.cc). */
const quoteMember = (member: string): string =>
  `'${member.replaceAll(/['\\\0\n\r]/g, (c) => PRINTED[c]!)}'`
