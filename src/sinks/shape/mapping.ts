/**
 * What becomes of the columns of a table on their way to a target: left out, renamed, hidden, added. The rules of a sink are
 * compiled once per version of a table; a row then costs nothing more than its columns. Throws CONFIG_INVALID, which
 * names the rule and the column, the first time a table is seen that a rule does not fit.
 */
import { createHash, createHmac } from 'node:crypto'
import {
  ABSENT,
  AFTER,
  BEFORE,
  PRESENT,
  type Column,
  type Filter,
  type ImageSide,
  type Table,
  type ValueState,
} from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { compileFilter, type FilterText } from '../../filter.ts'
import {
  plainTarget,
  type Derived,
  type SinkRow,
  type TargetColumn,
  type TargetTable,
} from './row.ts'
import type { Template } from './template.ts'

/** How a value is hidden. hash: SHA-256 in hex, with a secret HMAC-SHA-256; truncate: its first characters. */
export type Mask =
  | 'hash'
  | 'redact'
  | { readonly hash: { readonly secret: string } }
  | { readonly truncate: number }
/** One entry of `tables:`. Names of columns are the source's, but in `key` the target's. */
export interface TableRule {
  readonly match: FilterText
  readonly columns: {
    readonly include?: readonly string[] | undefined
    readonly exclude: readonly string[]
  }
  readonly rename: Readonly<Record<string, string>>
  readonly constants: Readonly<Record<string, string>>
  readonly computed: Readonly<Record<string, Template>>
  readonly mask: Readonly<Record<string, Mask>>
  readonly key?: readonly string[] | undefined
}

export const REDACTED = '***'

/** `where` names the sink in messages: "sinks.cache". Throws CONFIG_INVALID for a pattern that is none. */
export function compileMapping(
  rules: readonly TableRule[],
  where: string,
): (table: Table) => TargetTable {
  const compiled = rules.map((rule, i): readonly [Filter, TableRule, string] => [
    compileFilter({ include: rule.match }),
    rule,
    `${where}.tables[${i}]`,
  ])
  const known = new WeakMap<Table, TargetTable>()
  return (table) => {
    let target = known.get(table)
    if (target === undefined) {
      const found = compiled.find(([filter]) => filter(table.database, table.name))
      target = found ? targetOf(table, found[1], found[2]) : plainTarget(table)
      known.set(table, target)
    }
    return target
  }
}

function targetOf(source: Table, rule: TableRule, where: string): TargetTable {
  const name = `${source.database}.${source.name}`
  const find = sourceColumns(source, where)
  const include = rule.columns.include?.map((c) => find(c, 'columns.include'))
  const exclude = rule.columns.exclude.map((c) => find(c, 'columns.exclude'))
  const rename = lookUp(rule.rename, (c) => find(c, 'rename'))
  const masks = lookUp(rule.mask, (c) => find(c, 'mask'))
  const kept = source.selected.filter(
    (c) => (include === undefined || include.includes(c)) && !exclude.includes(c),
  )
  const plain = plainTarget(source)
  const drafts: Draft[] = [
    ...kept.map((column): Draft => {
      const mask = masks.get(column)
      const derived = mask === undefined ? undefined : masked(column, mask)
      return { name: rename.get(column) ?? column.name, key: column.key, column, derived }
    }),
    ...Object.entries(rule.constants).map(([c, text]) => made(c, constant(text))),
    ...Object.entries(rule.computed).map(([c, text]) => made(c, computed(plain, text))),
  ]
  checkNames(drafts, `${where}: ${name}`)
  const lost = source.selected.filter((c) => c.key && !kept.includes(c)).map((c) => c.name)
  if (rule.key === undefined && lost.length > 0) {
    throw invalid(
      `${where}: ${name} loses ${lost.join(', ')} of its primary key, without which rows cannot be told apart; expected \`key\` to name the columns that do`,
    )
  }
  const keys = rule.key?.map((c) => {
    const found = drafts.find((d) => d.name === c)
    if (found !== undefined) return found
    throw invalid(
      `${where}.key: no column ${c} in what the target gets of ${name}; it gets ${drafts.map((d) => d.name).join(', ')}`,
    )
  })
  const columns = drafts.map((draft, index): TargetColumn => {
    const key = keys === undefined ? draft.key : keys.includes(draft)
    return { ...draft, index, key }
  })
  const inOrder = keys?.map((draft) => columns[drafts.indexOf(draft)]!)
  return {
    source,
    database: source.database,
    name: source.name,
    columns,
    keys: inOrder ?? columns.filter((c) => c.key),
  }
}

type Draft = Omit<TargetColumn, 'index'>
const made = (name: string, derived: Derived): Draft => ({
  name,
  key: false,
  column: undefined,
  derived,
})
const invalid = (text: string): SluiceError => new SluiceError('CONFIG_INVALID', text)

function sourceColumns(source: Table, where: string): (name: string, key: string) => Column {
  return (name, key) => {
    const lower = name.toLowerCase()
    const found = source.selected.find((c) => c.name.toLowerCase() === lower)
    if (found !== undefined) return found
    throw invalid(
      `${where}.${key}: no column ${name} in ${source.database}.${source.name}; it has ${source.selected.map((c) => c.name).join(', ')}`,
    )
  }
}
function lookUp<T>(
  entries: Readonly<Record<string, T>>,
  find: (name: string) => Column,
): Map<Column, T> {
  return new Map(Object.entries(entries).map(([name, value]) => [find(name), value]))
}
function checkNames(drafts: readonly Draft[], where: string): void {
  if (drafts.length === 0) throw invalid(`${where}: no column is left`)
  const seen = new Set<string>()
  for (const { name } of drafts) {
    if (seen.has(name)) throw invalid(`${where} would have two columns ${name} in the target`)
    seen.add(name)
  }
}

// ── values that the mapping makes ────────────────────────────────────────────

function masked(column: Column, mask: Mask): Derived {
  const own: TargetColumn = { name: column.name, index: 0, key: false, column, derived: undefined }
  const hide = hider(mask)
  return {
    state: (row, side) => row.reader.state(side, column.index),
    text: (row, side) => hide(row.string(side, own) ?? ''),
    changed: (row) => row.reader.changed(column.index),
  }
}
function hider(mask: Mask): (text: string) => string {
  if (mask === 'redact') return () => REDACTED
  if (mask === 'hash') return (text) => createHash('sha256').update(text, 'utf8').digest('hex')
  if ('hash' in mask) {
    const { secret } = mask.hash
    return (text) => createHmac('sha256', secret).update(text, 'utf8').digest('hex')
  }
  const { truncate } = mask
  return (text) => {
    if (text.length <= truncate) return text
    return Array.from(text.slice(0, truncate * 2))
      .slice(0, truncate)
      .join('') // no half characters
  }
}

const constant = (text: string): Derived => ({
  state: (row, side) => (hasSide(row, side) ? PRESENT : ABSENT),
  text: () => text,
  changed: () => false,
})

/** Absent where a column it is made of is absent; NULL columns are "" in it. */
function computed(plain: TargetTable, template: Template): Derived {
  const bound = template.bind(plain)
  const needed = template.columns.flatMap((name) =>
    name === 'key' ? plain.keys : plain.columns.filter((c) => c.name === name),
  )
  const state = (row: SinkRow, side: ImageSide): ValueState =>
    needed.some((c) => row.state(side, c) === ABSENT) || !hasSide(row, side) ? ABSENT : PRESENT
  return {
    state,
    text: (row, side) => bound(row, side),
    changed: (row) =>
      state(row, BEFORE) === ABSENT ||
      state(row, AFTER) === ABSENT ||
      bound(row, BEFORE) !== bound(row, AFTER),
  }
}
const hasSide = ({ change }: SinkRow, side: ImageSide): boolean =>
  change.kind === 'update' || (change.kind === 'insert') === (side === AFTER)
