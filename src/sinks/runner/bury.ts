/**
 * A row that a target refuses becomes a dead letter: durable when this returns, so that what comes behind it may be acked.
 */
import { beginningOf, formatPosition } from '../../change.ts'
import { SluiceError, withoutPasswords } from '../../errors.ts'
import type { Logger } from '../../logger.ts'
import type { Control } from '../letters/control.ts'
import type { SinkRow } from '../shape/row.ts'
import { rowToText } from '../shape/stored.ts'
import { GivenUp } from './delivery.ts'

export interface BuryOptions {
  readonly sink: string // its name
  readonly deadLettersMax: number
  readonly log: Logger
}

/** Throws GivenUp when there are too many, STATE_UNWRITABLE. */
export function bury(
  control: Control,
  { sink, deadLettersMax, log }: BuryOptions,
  row: SinkRow,
  cause: Error,
): void {
  const { table, tx, version, id, change } = row
  const error = withoutPasswords(cause.message)
  if (control.count(sink) >= deadLettersMax && !control.has(sink, id)) {
    throw new GivenUp(
      `there are ${deadLettersMax} dead letters already, deadLettersMax; the next one: ${error}`,
      { cause },
    )
  }
  const key = table.keys.map((c) => row.string(row.side, c) ?? 'NULL').join(':')
  const name = `${table.database}.${table.name}`
  control.bury({
    sink,
    table: name,
    key,
    version,
    changeId: id,
    op: change.kind,
    position: formatPosition(beginningOf(tx, change.ordinal)),
    code: cause instanceof SluiceError ? cause.code : cause.name,
    error,
    row: rowToText(row),
  })
  const fields = { table: name, key, id, error }
  log.warn(fields, `sink ${sink}: a row was refused and is a dead letter now`)
}
