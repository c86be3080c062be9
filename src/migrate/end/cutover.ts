/**
 * The end of a migration: the source stops being written to, the target has all of it, both are compared, and the target
 * gets what it had to be without while rows were written: counters, foreign keys, triggers. Then the exact places in both
 * logs are said, and from the target's on changes can go back (reverse.ts).
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Outcome, Parts, Stream, Verified } from '../parts.ts'
import { carryObjects } from './objects.ts'
import { prepareReverse, reverse } from './reverse.ts'
import { connectOptions } from '../../upstream/connect.ts'
import { remaining } from '../../verify/report.ts'
import { verify, type Difference, type TableReport } from '../../verify/verify.ts'
import { nameOf, type SourceTable } from '../schema/inventory.ts'
import type { Place } from '../options.ts'

/** So long must no row have come for the source to count as not written to. */
const QUIET_MS = 1000
const SHOWN = 5 // keys of a table that differ

export async function cutOver(stream: Stream, parts: Parts): Promise<Outcome> {
  const { folder, options, host, source } = parts
  if (folder.now.phase === 'stream') {
    if (options.reverse) await prepareReverse(parts)
    if (options.lockSource) await source.lock(!options.reverse)
    else
      host.report({
        event: 'waiting',
        text: 'stop the writers of the source now; the cut-over waits until no more rows come',
      })
    for (;;) {
      const end = await quiet(stream, parts)
      if (end === undefined) return 'stopped'
      await complete(parts)
      const written = stream.written
      const verified = await compare(stream, parts)
      if (verified === undefined || !(await stream.caughtUp())) return 'stopped'
      if (stream.written !== written) {
        host.report({
          event: 'waiting',
          text: 'rows came while both sides were compared: once more',
        })
        continue
      }
      host.report({ event: 'verified', ...verified })
      if (verified.different.length > 0) {
        if (options.lockSource) {
          const text = `the source is still read-only; to go on with it: ${await source.unlockText()}`
          host.report({ event: 'waiting', text })
        }
        return 'different'
      }
      folder.update({ phase: 'finish', cutOver: { source: end, target: undefined } })
      break
    }
  } else await sayIfWritten(parts)
  await stream.rest()
  await finish(parts)
  const place = await parts.target.logEnd()
  folder.update({ phase: 'done', cutOver: { source: folder.now.cutOver!.source, target: place } })
  return await hints(parts)
}

async function complete({ source, target }: Parts): Promise<void> {
  const { databases, tables } = await source.inventory()
  if (target.kind === 'mysql') return
  await target.makeDatabases(databases)
  for (const table of tables) await target.complete(table)
}
/** Waits until the target has everything and nothing more comes; undefined: stopped before. */
async function quiet(stream: Stream, { source, host }: Parts): Promise<Place | undefined> {
  for (;;) {
    if (!(await stream.caughtUp())) return undefined
    const { written } = stream
    await sleep(QUIET_MS, undefined, { signal: host.signal }).catch(() => undefined)
    const end = await source.logEnd()
    if (!(await stream.caughtUp())) return undefined
    if (stream.written === written) return end
  }
}
/** A process that went on after a crash in the middle of the last steps. */
async function sayIfWritten({ folder, source, host }: Parts): Promise<void> {
  const { file, offset } = folder.now.cutOver!.source
  const now = await source.logEnd()
  if (now.file === file && now.offset === offset) return
  host.report({
    event: 'waiting',
    text: `the source's log has gone on since the cut-over at ${file}:${offset}, to ${now.file}:${now.offset}; writes to moved tables behind it are not in the target`,
  })
}

/** Both sides, row by row; undefined: stopped before. */
async function compare(
  stream: Stream,
  { source, folder, host }: Parts,
): Promise<Verified | undefined> {
  const report = await verify({
    source: { connect: connectOptions(source.config.source), filter: source.filter },
    instance: folder.now.id,
    name: 'target',
    sink: stream.sink,
    passed: (place) => stream.passed(place),
    signal: host.signal,
  })
  if (report.interrupted) return undefined
  const different = report.tables
    .filter((one) => one.why !== '' || remaining(one) + one.unsettled + one.refused > 0)
    .map((one) => ({ table: one.table, text: differenceText(one, report.differences) }))
  const rows = report.tables.reduce((sum, one) => sum + one.rows, 0)
  return { tables: report.tables.length, rows, different }
}
function differenceText(one: TableReport, all: readonly Difference[]): string {
  if (one.why !== '') return `cannot be compared: ${one.why}`
  const counts = (['missing', 'extra', 'different', 'unsettled', 'refused'] as const)
    .filter((name) => one[name] > 0)
    .map((name) => `${one[name]} ${name}`)
  const keys = all.filter(({ table }) => table === one.table).slice(0, SHOWN)
  const shown = keys.map(({ kind, key }) => `${kind} ${Object.values(key).join('/')}`)
  return `${counts.join(', ')} of ${one.rows} rows: ${shown.join(', ')}`
}

/** Each step passes over what is there already. */
async function finish(parts: Parts): Promise<void> {
  const { source, target, host } = parts
  host.report({
    event: 'phase',
    phase: 'finish',
    text: 'counters, foreign keys, and what stands beside tables',
  })
  const inventory = await source.inventory()
  for (const table of inventory.tables) await target.makeIndexes(table, noter(parts, table))
  for (const table of inventory.tables) {
    const note = noter(parts, table)
    await target.makeForeignKeys(table, note)
    for (const text of await target.settle(table)) note(text)
  }
  if (target.kind === 'mysql') await carryObjects(parts, inventory.objects)
}

/** What to do now; with --reverse, streams back until it is told to stop. */
export async function hints(parts: Parts): Promise<Outcome> {
  const { folder, options, host, target } = parts
  const { source, target: place } = folder.now.cutOver!
  const at = ({ file, offset, gtids }: Place): string =>
    `${file}:${offset}${gtids === '' ? '' : `, GTIDs ${gtids}`}`
  const lines = [
    `the target has everything that the source has executed up to ${at(source)}`,
    `point applications to ${target.where} now`,
    ...(place === undefined
      ? []
      : [`the target's own log ends at ${at(place)}: a stream back begins there`]),
    ...(options.lockSource
      ? [`the source is read-only; to go back to it: ${await parts.source.unlockText()}`]
      : []),
    `when all is well: drop the table sluice_cursors of ${target.bookkeeping} in the target, and remove ${folder.dir}`,
  ]
  host.report({ event: 'cutOver', source, target: place ?? null, hints: lines })
  if (options.reverse) await reverse(parts)
  return 'done'
}

/** Tells what of a table is not as it was. */
export const noter =
  ({ host }: Pick<Parts, 'host'>, table: SourceTable) =>
  (text: string): void =>
    host.report({ event: 'note', on: nameOf(table), text })
