/**
 * `sluice log`: what an instance's retained log has, from its files, whether a server runs or not; with --verify every byte of
 * it is read.
 */
import type { Arguments } from '../../cli.ts'
import { formatPosition } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { isDamage, logDir, Segments } from '../../retained/log.ts'
import { scanSegment, type Scan, type Segment } from '../../retained/segment.ts'
import { instanceConfig, serverConfig } from '../common.ts'

/** Exit code 1 when something is damaged. */
export function log(args: Arguments): Promise<number> {
  const [instance = ''] = args.words
  const server = serverConfig(args)
  const { changeLog } = instanceConfig(server, instance)
  const segments = Segments.look(logDir(server.dataDir, instance))
  const { list, unreadable } = segments
  if (args.flag('verify')) for (const segment of list) verify(segment)
  const damaged = unreadable.length + list.filter(({ damagedAt }) => damagedAt !== undefined).length
  if (args.flag('json')) {
    const { enabled } = changeLog
    console.log(
      JSON.stringify({
        instance,
        enabled,
        bytes: segments.bytes,
        damaged,
        segments: list.map(plain),
        unreadable: unreadable.map(({ message }) => message),
      }),
    )
    return Promise.resolve(damaged > 0 ? 1 : 0)
  }
  for (const { message } of unreadable) console.log(`  DAMAGED ${message}`)
  if (list.length === 0) {
    const why = changeLog.enabled ? 'nothing was written yet' : 'changeLog.enabled is false'
    console.log(`${instance} has no change log: ${why}`)
  } else {
    const [first, last] = [list[0]!, list.at(-1)!]
    console.log(`${list.length} segments, ${segments.bytes} bytes`)
    console.log(`oldest  ${formatPosition(first.from)}${at(first.firstMs)}`)
    console.log(`newest  ${formatPosition(last.end)}${at(last.lastMs)}`)
    for (const segment of list) print(segment)
  }
  return Promise.resolve(damaged > 0 ? 1 : 0)
}
const at = (ms: number): string => (ms > 0 ? ` at ${new Date(ms).toISOString()}` : '')

/** Looks at what its index says by what is in the file. */
function verify(segment: Segment): void {
  let scan: Scan | undefined
  try {
    scan = scanSegment(segment.number, segment.path, { repair: false })
  } catch (error) {
    if (!isDamage(error)) throw error
  }
  if (scan === undefined) segment.damagedAt = 0
  else if (scan.flaw !== undefined && scan.flaw.at < segment.bytes) segment.damagedAt = scan.flaw.at
  if (scan !== undefined && scan.segment.bytes > segment.bytes)
    throw new SluiceError('LOG_DAMAGED', `${segment.path}: longer than its index says`)
}
function print({
  path,
  from,
  end,
  bytes,
  transactions,
  changes,
  tables,
  gap,
  damagedAt,
}: Segment): void {
  if (gap !== '') console.log(`  gap: ${gap}`)
  const text = `${formatPosition(from)} to ${formatPosition(end)}, ${transactions} transactions, ${changes} row events of ${tables.size} tables`
  console.log(`  ${path}  ${bytes} bytes, ${text}`)
  if (damagedAt !== undefined) console.log(`  DAMAGED from byte ${damagedAt} on`)
}
function plain({ number, path, from, end, firstMs, lastMs, ...rest }: Segment): object {
  const { bytes, transactions, changes, gap, damagedAt, tables, created } = rest
  const time = (ms: number): string | null => (ms > 0 ? new Date(ms).toISOString() : null)
  return {
    number,
    path,
    bytes,
    created,
    from: { ...from, gtids: from.gtids?.toString() ?? null },
    end: { ...end, gtids: end.gtids?.toString() ?? null },
    first: time(firstMs),
    last: time(lastMs),
    transactions,
    changes,
    tables: Object.fromEntries(tables),
    gap,
    damagedAt: damagedAt ?? null,
  }
}
