/**
 * Column definitions as DDL writes them: "name VARCHAR(20) CHARACTER SET latin1 NOT NULL AFTER b" becomes what
 * information_schema would say of that column. Reads what decides about types, character sets, nullability, keys and
 * visibility, and steps over the rest. Pure. What it does not understand throws NotUnderstood: the table is then asked
 * for at the server.
 *
 * Source: sql/sql_yacc.yy (field_def, column_attribute).
 */
import { keptIn } from '../../binlog/charset.ts'
import { readColumnType, type CapturedColumn } from '../definition.ts'
import { charsetOfId, NotUnderstood, type Defaults, type Dialect } from './dialect.ts'
import type { Tokens } from './tokens.ts'
import {
  collationOf,
  octetsOf,
  readType,
  readTypeAttribute,
  shrinkOrGrow,
  typeText,
  type TypeDraft,
} from './types.ts'

/** A column in the making; attributes that are keys of the table are for the caller. */
export interface ColumnDraft {
  readonly column: CapturedColumn
  readonly primary: boolean
  readonly unique: boolean
  /** The word BINARY after a character type: the _bin collation of whatever set the column ends in. */
  readonly bin: boolean
  /** undefined: at the end, or where it was; "": first; else after this column. */
  readonly after: string | undefined
}

/** Reads what follows a column's name, up to the comma or the end of the list. Throws NotUnderstood. */
export function readColumn(tokens: Tokens, name: string, defaults: Defaults): ColumnDraft {
  const type = readType(tokens, defaults)
  let primary = false
  let unique = type.serial
  let invisible = false
  let after: string | undefined
  while (!atEnd(tokens)) {
    if (readTypeAttribute(tokens, type)) continue
    if (tokens.take('NOT')) {
      if (tokens.take('NULL')) type.nullable = false
      else tokens.next() // NOT ENFORCED, NOT SECONDARY
    } else if (tokens.take('NULL')) type.nullable = true
    else if (tokens.take('PRIMARY')) {
      tokens.take('KEY')
      primary = true
    } else if (tokens.take('KEY')) primary = true
    else if (tokens.take('UNIQUE')) {
      tokens.take('KEY')
      unique = true
    } else if (tokens.take('AUTO_INCREMENT')) type.nullable = false
    else if (tokens.take('SERIAL')) {
      // SERIAL DEFAULT VALUE: NOT NULL AUTO_INCREMENT UNIQUE
      tokens.take('DEFAULT')
      tokens.take('VALUE')
      type.nullable = false
      unique = true
    } else if (tokens.take('INVISIBLE')) invisible = true
    else if (tokens.take('VISIBLE')) invisible = false
    else if (tokens.take('FIRST')) after = ''
    else if (tokens.take('AFTER')) after = nameOf(tokens)
    else skipAttribute(tokens)
  }
  const draft = { type, name, invisible, primary, unique }
  return { column: finish(draft, defaults), primary, unique, bin: type.bin, after }
}

const atEnd = (tokens: Tokens): boolean =>
  tokens.kind === 'end' ||
  tokens.isPunctuation(',') ||
  tokens.isPunctuation(')') ||
  tokens.isPunctuation(';')

/** An identifier. Throws NotUnderstood. */
export function nameOf(tokens: Tokens): string {
  const name = tokens.takeIdentifier()
  if (name === undefined) throw new NotUnderstood(`a name expected at ${tokens.start}`)
  return name
}

/** Any other attribute with its value: DEFAULT (expression), COMMENT 'x', GENERATED ALWAYS AS (…), REFERENCES t (c)…. */
function skipAttribute(tokens: Tokens): void {
  if (tokens.isPunctuation('(')) tokens.skipParentheses()
  else tokens.next()
}

interface Draft {
  readonly type: TypeDraft
  readonly name: string
  readonly invisible: boolean
  readonly primary: boolean
}

function finish({ type, name, invisible, primary }: Draft, defaults: Defaults): CapturedColumn {
  const { dialect } = defaults
  const collation = collationOf(type, defaults)
  shrinkOrGrow(type, collation, dialect)
  const said = type.members
  type.members &&= membersIn(type.members, charsetOfId(collation, dialect))
  const mysqlType = typeText(type, dialect)
  const nullable = primary ? false : (type.nullable ?? defaultNullable(type, dialect))
  const column = columnOf({ name, mysqlType, collation, nullable, invisible }, dialect)
  if (said?.some((member, i) => member !== type.members![i])) lossy.add(column)
  return column
}

const lossy = new WeakSet<CapturedColumn>()
/** Whether the statement says members that the column's character set lacks: CONVERT in the same one keeps them. */
export const lostMembers = (column: CapturedColumn): boolean => lossy.has(column)

/** What the column's character set lacks becomes "?" in it. */
function membersIn(members: readonly string[], charset: string): string[] {
  return members.map((member) => {
    const kept = keptIn(member, charset)
    if (kept === undefined) throw new NotUnderstood(`member ${member} in ${charset}`)
    return kept
  })
}

function defaultNullable({ base }: TypeDraft, { explicitTimestamps }: Dialect): boolean {
  return base !== 'timestamp' || explicitTimestamps
}

/** The parts that follow from the rest. */
export function columnOf(
  facts: Pick<CapturedColumn, 'name' | 'mysqlType' | 'collation' | 'nullable' | 'invisible'>,
  dialect: Dialect,
): CapturedColumn {
  const { base, sizes, members } = readColumnType(facts.mysqlType)
  const enumerated = base === 'enum' || base === 'set'
  return {
    ...facts,
    base,
    sizes,
    members: enumerated ? members : undefined,
    unsigned: !enumerated && /\bunsigned\b/.test(facts.mysqlType),
    octets: octetsOf(base, sizes, facts.collation, dialect),
    key: false,
    promoted: false,
  }
}
