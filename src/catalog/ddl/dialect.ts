/**
 * What of a server decides how it reads DDL: version, character sets, collations; and how it chooses among them. Pure.
 */

/** A statement, or a part of one, that this reader does not know. Never leaves the catalog. */
export class NotUnderstood extends Error {
  override readonly name = 'NotUnderstood'
}

export interface Collation {
  readonly id: number
  readonly charset: string
}

/** What of a server decides how it reads DDL. */
export interface Dialect {
  readonly version: number // 80031 for 8.0.31
  readonly mariadb: boolean
  readonly collations: ReadonlyMap<string, Collation> // by name, lower case
  /** Character set → its default collation's id and the bytes of its longest character. */
  readonly charsets: ReadonlyMap<string, { readonly collation: number; readonly maxBytes: number }>
  readonly foldsCase: boolean // lower_case_table_names other than 0
  /** Off: the first TIMESTAMPs get defaults, and all are NOT NULL unless they say NULL. */
  readonly explicitTimestamps: boolean
}

export interface Defaults {
  readonly dialect: Dialect
  readonly sqlMode: number
  readonly collation: number // the table's
}

/** REAL is FLOAT with this bit of the session's sql_mode. */
export const REAL_AS_FLOAT = 1

export const NO_BACKSLASH_ESCAPES = 2 ** 20

/** Bytes of the longest character of a collation's set. */
export function maxBytes(collation: number, { collations, charsets }: Dialect): number {
  for (const { id, charset } of collations.values()) {
    if (id === collation) return charsets.get(charset)?.maxBytes ?? 1
  }
  return 1
}

/** The name of a collation's character set. */
export function charsetOfId(collation: number, { collations }: Dialect): string {
  for (const { id, charset } of collations.values()) if (id === collation) return charset
  throw new NotUnderstood(`collation ${collation}`)
}

/** The _bin collation of a collation's character set. Throws NotUnderstood. */
export function binOf(collation: number, dialect: Dialect): number {
  const name = `${charsetOfId(collation, dialect)}_bin`
  return (dialect.collations.get(name) ?? unknown(name)).id
}

export const unknown = (what: string): never => {
  throw new NotUnderstood(`character set or collation ${what}`)
}

/** As servers choose: COLLATE wins, else the character set's default, else `fallback`. Throws NotUnderstood. */
export function pickCollation(
  dialect: Dialect,
  fallback: number,
  charset: string | undefined,
  collate: string | undefined,
): number {
  if (collate !== undefined && collate !== 'default') {
    const known = dialect.collations.get(collate)
    if (known) return known.id
    // MariaDB's collations of no character set: uca1400_ai_ci with utf8mb4 is utf8mb4_uca1400_ai_ci
    const set = charset ?? charsetOfId(fallback, dialect)
    return (dialect.collations.get(`${set}_${collate}`) ?? unknown(collate)).id
  }
  if (charset === undefined || charset === 'default') return fallback
  return (charsetNamed(charset, dialect) ?? unknown(charset)).collation
}

/** utf8 and utf8mb3 are one set, which servers call by either name. */
function charsetNamed(name: string, { charsets }: Dialect): { collation: number } | undefined {
  const other = name === 'utf8' ? 'utf8mb3' : name === 'utf8mb3' ? 'utf8' : name
  return charsets.get(name) ?? charsets.get(other)
}
