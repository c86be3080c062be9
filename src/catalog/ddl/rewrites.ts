/**
 * Statements that change rows of a table without logging the rows: TRUNCATE, partitions that are dropped or exchanged,
 * ALTERs after which SELECT shows other values, and rows changed by a statement that is logged as text. Reads the text
 * alone, as classify.ts does: where it cannot tell (MODIFY to the same type) it says yes. Never throws.
 */
import type { QueryChange } from '../../change.ts'
import { keywords, Tokens } from './tokens.ts'

/**
 * truncate: all rows go. alter: existing rows get other values. other: rows come or go, or change in a way that only the
 * source can tell.
 */
export interface Rewrite {
  readonly kind: 'truncate' | 'alter' | 'other'
  readonly what: string // "ALTER TABLE … DROP PARTITION"
}

/** What a statement does to rows that the log does not show; undefined: nothing. */
export function rewriteOf(change: Pick<QueryChange, 'kind' | 'type' | 'sql'>): Rewrite | undefined {
  if (change.kind === 'statement') {
    return { kind: 'other', what: `a row change logged as a statement (${change.type})` }
  }
  if (change.kind !== 'ddl') return undefined
  if (change.type === 'TRUNCATE') return { kind: 'truncate', what: 'TRUNCATE TABLE' }
  return /\balter\b/i.test(change.sql) ? alterOf(new Tokens(change.sql)) : undefined
}

const NOISE = keywords('ONLINE OFFLINE IGNORE')

function alterOf(tokens: Tokens): Rewrite | undefined {
  if (!tokens.take('ALTER')) return undefined
  while (tokens.isOneOf(NOISE)) tokens.next()
  if (!tokens.take('TABLE')) return undefined
  if (tokens.take('IF')) tokens.take('EXISTS')
  tokens.takeIdentifier()
  if (tokens.takePunctuation('.')) tokens.takeIdentifier()
  while (tokens.kind !== 'end' && !tokens.isPunctuation(';')) {
    const found = clauseOf(tokens)
    if (found !== undefined) return found
    skipClause(tokens)
  }
  return undefined
}

const alter = (what: string): Rewrite => ({ kind: 'alter', what: `ALTER TABLE … ${what}` })
const other = (what: string): Rewrite => ({ kind: 'other', what: `ALTER TABLE … ${what}` })
const NO_COLUMN = keywords(
  'INDEX KEY UNIQUE FULLTEXT SPATIAL PRIMARY CONSTRAINT FOREIGN CHECK PARTITION',
)

/** One clause of an ALTER TABLE. */
function clauseOf(tokens: Tokens): Rewrite | undefined {
  if (tokens.take('MODIFY')) return alter('MODIFY COLUMN')
  if (tokens.take('CHANGE')) return alter('CHANGE COLUMN')
  if (tokens.take('EXCHANGE')) return other('EXCHANGE PARTITION')
  if (tokens.take('TRUNCATE')) return other('TRUNCATE PARTITION')
  if (tokens.take('IMPORT')) return other('IMPORT TABLESPACE')
  if (tokens.take('DISCARD')) return other('DISCARD TABLESPACE')
  if (tokens.take('DROP')) return tokens.is('PARTITION') ? other('DROP PARTITION') : undefined
  if (!tokens.take('ADD') || tokens.isOneOf(NO_COLUMN)) return undefined
  return givesValue(tokens) ? alter('ADD COLUMN with a value for existing rows') : undefined
}

/** Whether a column that is added is anything but NULL in the rows that are there. `inList`: it stands in parentheses. */
function givesValue(tokens: Tokens, inList = false): boolean {
  for (let before = ''; !endsColumn(tokens, inList);) {
    if (tokens.isPunctuation('(')) {
      if (before === 'AS' || before === 'DEFAULT') return true
      if (!inList && (before === '' || before === 'COLUMN')) return listGivesValue(tokens)
      tokens.skipParentheses()
      before = ')'
      continue
    }
    const word = tokens.kind === 'word' ? tokens.text.toUpperCase() : tokens.kind
    if (word === 'NULL' && before === 'NOT') return true
    if (before === 'DEFAULT' && word !== 'NULL') return true
    if (word === 'AUTO_INCREMENT') return true
    before = word
    tokens.next()
  }
  return false
}
const endsColumn = (tokens: Tokens, inList: boolean): boolean =>
  tokens.kind === 'end' ||
  tokens.isPunctuation(';') ||
  tokens.isPunctuation(',') ||
  (inList && tokens.isPunctuation(')'))
/** ADD [COLUMN] (a INT, b INT NOT NULL, …) */
function listGivesValue(tokens: Tokens): boolean {
  tokens.next()
  do if (givesValue(tokens, true)) return true
  while (tokens.takePunctuation(','))
  return false
}

function skipClause(tokens: Tokens): void {
  while (tokens.kind !== 'end' && !tokens.isPunctuation(';')) {
    if (tokens.takePunctuation(',')) return
    if (tokens.isPunctuation('(')) tokens.skipParentheses()
    else tokens.next()
  }
}
