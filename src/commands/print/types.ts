/**
 * `sluice types`: TypeScript types of the rows of a source's tables, as they are defined now: for handlers inside a program
 * (embed.ts), or for the SDK. Asks the source; touches no state.
 */
import { writeFileSync } from 'node:fs'
import type { Arguments } from '../../cli.ts'
import { captureDialect, captureTables } from '../../catalog/capture.ts'
import type { CapturedColumn, Definition } from '../../catalog/definition.ts'
import { SluiceError } from '../../errors.ts'
import { compileFilter, intersect } from '../../filter.ts'
import { commandLogger, instanceConfig, openSource, serverConfig } from '../common.ts'

/** Writes to --out or standard output. */
export async function types(args: Arguments): Promise<number> {
  const destination = args.words[0]!
  const form = args.text('for') ?? 'embed'
  if (form !== 'embed' && form !== 'client')
    throw new SluiceError('USAGE', `--for: expected embed or client, found "${form}"`)
  const config = instanceConfig(serverConfig(args), destination)
  const wants = intersect(
    compileFilter(config.filter),
    compileFilter({ include: args.text('filter') }),
  )
  using source = await openSource(config, commandLogger())
  const query = <T>(sql: string, params?: readonly string[]): Promise<T[]> =>
    source.lookup.query<T>(sql, params)
  const [image] = await query<{ image: string }>('SELECT @@global.binlog_row_image AS image')
  const effects = await captureTables(query, await captureDialect(query), undefined)
  const tables = effects.flatMap((effect): TypedTable[] => {
    if (effect.kind !== 'table' || typeof effect.now !== 'object') return []
    const { database, table } = effect.name
    return wants(database, table) ? [{ database, table, now: effect.now }] : []
  })
  if (tables.length === 0) {
    const text = `${destination}: expected tables that the filter wants, found none`
    throw new SluiceError('USAGE', text)
  }
  const text = typesText(tables, {
    destination,
    form,
    whole: image?.image.toUpperCase() === 'FULL',
  })
  const out = args.text('out')
  if (out === undefined) process.stdout.write(text)
  else {
    writeFileSync(out, text)
    console.log(`${out}: ${tables.length} ${tables.length === 1 ? 'table' : 'tables'}`)
  }
  return 0
}

export interface TypedTable {
  readonly database: string
  readonly table: string
  readonly now: Definition
}
export interface TypesOptions {
  readonly destination: string
  /** Whose values: change.ts's (embed), or the SDK's without options (client/values.ts). */
  readonly form: 'embed' | 'client'
  /** Every image of a row has all columns (binlog_row_image FULL). */
  readonly whole: boolean
}

/** A module with one interface for each table, and `Tables`, which has them all by name. Pure. */
export function typesText(tables: readonly TypedTable[], options: TypesOptions): string {
  const names = new Set<string>()
  const typed = tables.map((table) => ({ ...table, name: freeName(table, names) }))
  const blocks = typed.map(({ name, database, table, now }) => {
    const lines = now.columns.map((column) => {
      const absent = options.whole || column.key ? '' : '?'
      const nullable = column.nullable && !column.key ? ' | null' : ''
      return `  ${propertyOf(column.name)}${absent}: ${typeOf(column, options.form)}${nullable} // ${comment(column.mysqlType)}`
    })
    return `/** ${comment(`${database}.${table}`)} */\nexport interface ${name} {\n${lines.join('\n')}\n}`
  })
  const all = typed.map(
    ({ name, database, table }) => `  ${propertyOf(`${database}.${table}`)}: ${name}`,
  )
  const made = `// Made by: sluice types ${options.destination}${options.form === 'client' ? ' --for client' : ''}`
  return [made, ...blocks, `export interface Tables {\n${all.join('\n')}\n}`].join('\n\n') + '\n'
}

/** "shop.order_items" → "ShopOrderItems", with a number where that is taken. */
function freeName({ database, table }: TypedTable, taken: Set<string>): string {
  const words = `${database}_${table}`.split(/[^\p{L}\p{N}]+/u).filter((word) => word !== '')
  const joined = words.map((word) => word[0]!.toUpperCase() + word.slice(1)).join('')
  const base = /^\p{L}/u.test(joined) ? joined : `Table${joined}`
  let name = base
  for (let n = 2; taken.has(name) || name === 'Tables'; n++) name = `${base}${n}`
  taken.add(name)
  return name
}
const propertyOf = (name: string): string =>
  /^[A-Za-z_$][\w$]*$/.test(name) ? name : JSON.stringify(name)
/** Names and ENUM members may hold anything; a comment must not end with them. */
const comment = (text: string): string =>
  text.replace(/[\r\n\u2028\u2029]/g, ' ').replaceAll('*/', '* /')

const bytes = { embed: 'Uint8Array', client: 'Buffer' } as const
/** Types that differ between the two, and those that are alike; everything else is text. */
const byBase: Readonly<
  Record<string, (column: CapturedColumn, form: 'embed' | 'client') => string>
> = {
  ...same('number', 'tinyint smallint mediumint int year float double'),
  ...same('bigint', 'bigint bit'),
  ...Object.fromEntries(
    'binary varbinary tinyblob blob mediumblob longblob vector geometry point linestring polygon multipoint multilinestring multipolygon geometrycollection geomcollection'
      .split(' ')
      .map((base) => [base, (_column: CapturedColumn, form: 'embed' | 'client') => bytes[form]]),
  ),
  enum: ({ members }, form) => (form === 'client' ? 'number' : labels(members)),
  set: (_column, form) => (form === 'client' ? 'bigint' : 'string'),
}
function same(type: string, bases: string): Record<string, () => string> {
  return Object.fromEntries(bases.split(' ').map((base) => [base, () => type]))
}
const typeOf = (column: CapturedColumn, form: 'embed' | 'client'): string =>
  byBase[column.base]?.(column, form) ?? 'string'
/** "" is what MySQL stores for a value that is none of them. */
function labels(members: readonly string[] | undefined): string {
  if (!members || members.length === 0) return 'string'
  return [...new Set([...members, ''])].map((member) => JSON.stringify(member)).join(' | ')
}
