/**
 * Statements of a version that does not exist yet: some of those that a server runs reach the reader as text that no version has,
 * naming the same table. What such a statement did, only the server can tell. Which ones is decided by their text and a seed, so that
 * all readers of a log see the same.
 */
import { crc32 } from 'node:zlib'
import { classify } from '../../src/catalog/ddl/classify.ts'

/** A statement's text as a reader is to see it. */
export type Newer = (sql: string, database: string) => string

/** Of statements about one table that stays, `percent` become such. */
export function newer(seed: number, percent: number): Newer {
  return (sql, database) => {
    const sum = crc32(sql, seed >>> 0)
    if (sum % 100 >= percent) return sql
    const { tables, type, kind } = classify(sql, database)
    const [table] = tables
    if (kind !== 'ddl' || tables.length !== 1 || !table?.table) return sql
    if (type === 'ERASE' || type === 'RENAME' || type === 'TRUNCATE') return sql
    const name = [table.database, table.table]
      .map((n) => `\`${n.replaceAll('`', '``')}\``)
      .join('.')
    const clause = clauses[(sum >>> 8) % clauses.length]!
    return type === 'CREATE' ? `CREATE TABLE ${name} ${clause}` : `ALTER TABLE ${name} ${clause}`
  }
}

const clauses = [
  'TRANSMOGRIFY (COLUMNS BY SHAPE), ADD COLUMN never INT',
  "EVOLVE FROM 'https://schemas/v2' KEEPING ALL",
  'ADD COLUMN later QUATERNION(4) ENTANGLED WITH id',
  'MODIFY COLUMNS WHERE type = BLOB SET COMPACT',
]
