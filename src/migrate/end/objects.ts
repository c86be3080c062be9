/**
 * What stands beside tables, from MySQL to MySQL or MariaDB: routines, views, triggers, events, as SHOW CREATE has them. Made
 * last, so that no trigger meets a row that was written for the source's. What is there already stays.
 */
import { keywords } from '../../catalog/ddl/tokens.ts'
import { SluiceError } from '../../errors.ts'
import type { Parts } from '../parts.ts'
import { fullName, nameOf, quoted, type SourceObject } from '../schema/inventory.ts'

const COLUMNS: Readonly<Record<SourceObject['kind'], string>> = {
  view: 'Create View',
  trigger: 'SQL Original Statement',
  procedure: 'Create Procedure',
  function: 'Create Function',
  event: 'Create Event',
}
/** "exists already", for each kind. */
const THERE = new Set([1050, 1304, 1359, 1537])
/** The account that defines it is not there, or may not be named. */
const DEFINER = new Set([1227, 1449])

export async function carryObjects(parts: Parts, objects: readonly SourceObject[]): Promise<void> {
  let waiting = [...objects]
  // A view can need another one: as long as some can be made, the others are tried again.
  for (;;) {
    const failed: [SourceObject, Error][] = []
    for (const object of waiting) {
      const error = await carry(parts, object)
      if (error !== undefined) failed.push([object, error])
    }
    if (failed.length === 0) return
    if (failed.length === waiting.length) {
      for (const [object, { message }] of failed)
        parts.host.report({
          event: 'note',
          on: nameOf(object),
          text: `${object.kind}: cannot be made: ${message}`,
        })
      return
    }
    waiting = failed.map(([object]) => object)
  }
}

/** Modes that MySQL after 5.7 knows no more, and MariaDB's own; and what MariaDB does not know. */
const MODES_GONE = {
  mysql: keywords(
    'NO_AUTO_CREATE_USER DB2 MAXDB MSSQL MYSQL323 MYSQL40 ORACLE POSTGRESQL NO_FIELD_OPTIONS NO_KEY_OPTIONS NO_TABLE_OPTIONS IGNORE_BAD_TABLE_OPTIONS EMPTY_STRING_IS_NULL SIMULTANEOUS_ASSIGNMENT TIME_ROUND_FRACTIONAL',
  ),
  mariadb: keywords('TIME_TRUNCATE_FRACTIONAL'),
}

/** Why it cannot be made; undefined: it is there. Throws what may pass. */
async function carry(parts: Parts, object: SourceObject): Promise<Error | undefined> {
  const { source, target } = parts
  const { kind, database } = object
  try {
    const [shown] = await source.query<Record<string, string | null>>(
      `SHOW CREATE ${kind.toUpperCase()} ${fullName(object)}`,
    )
    const sql = shown?.[COLUMNS[kind]]
    if (!sql) return new Error('the account of --from may not see its text')
    const gone = MODES_GONE[target.mariadb ? 'mariadb' : 'mysql']
    const modes = (shown['sql_mode'] ?? '').split(',').filter((mode) => !gone.has(mode))
    await target.run(
      `USE ${quoted(database)}; SET @sluice_mode=@@sql_mode, SESSION sql_mode='${modes.join()}'`,
    )
    try {
      await make(parts, object, sql)
    } finally {
      await target.run('SET SESSION sql_mode=@sluice_mode')
    }
    return undefined
  } catch (error) {
    if (!(error instanceof SluiceError) || error.code === 'SINK_UNAVAILABLE') throw error
    return numberOf(error) !== undefined && THERE.has(numberOf(error)!) ? undefined : error
  }
}
const numberOf = (error: SluiceError): number | undefined =>
  (error.cause as { errno?: number } | undefined)?.errno

async function make({ target, host }: Parts, object: SourceObject, sql: string): Promise<void> {
  try {
    await target.run(sql)
  } catch (error) {
    const plain = sql.replace(/ DEFINER=(`(?:[^`]|``)*`)@(`(?:[^`]|``)*`)/, '')
    const definer = error instanceof SluiceError && DEFINER.has(numberOf(error) ?? 0)
    if (!definer || plain === sql) throw error
    await target.run(plain)
    host.report({
      event: 'note',
      on: nameOf(object),
      text: `${object.kind}: made with the account of --to as its definer, for that of the source is not there`,
    })
  }
}
