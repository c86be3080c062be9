/**
 * TRUNCATE in Redis: finds the keys of a table by the versions that lie beside them, whose marks name their table, and
 * deletes them with the truncation's version. So nothing of another table goes, whatever the key templates are, and an
 * older write that comes late stays out.
 */
import type { Redis } from 'ioredis'
import { SluiceError } from '../../errors.ts'
import { Out } from '../../out.ts'
import type { SinkStatement } from '../sink.ts'
import { markOf, type Calls } from './calls.ts'
import { failureOf, type Connection } from './connection.ts'
import { eventOf, ownerOf, type Rule, type RuleContext } from './rules.ts'

const SCAN_COUNT = 1000
const NONE = new Out(1)

/** Writes the deletions of all rules that match the statement's table. Scans the versions of that database. */
export async function clearTable(
  statement: SinkStatement,
  rules: readonly Rule[],
  context: RuleContext,
  calls: Calls,
  connection: Connection,
  signal: AbortSignal,
): Promise<void> {
  const { database, table } = statement.change
  const matching = rules.filter((rule) => rule.matches(database, table))
  const owner = ownerOf(context.instance, database, table)
  const job: Job = {
    row: { index: 0, version: statement.version, id: statement.id },
    owner,
    names: context.names,
    calls,
  }
  for (const rule of matching) {
    const template = rule.keys[0]!
    if (rule.kind === 'invalidate') continue
    if (rule.kind === 'stream' || rule.kind === 'pubsub') {
      if (template.columns.length > 0) continue
      const event = eventOf(rule, database, table, context)
      event(calls, job.row, template.name(database, table), 'truncate', NONE, NONE)
      continue
    }
    for (const pattern of context.names.patterns(template.start(database, table))) {
      for (const primary of connection.primaries())
        await clearServer(primary, pattern, rule, job, signal)
    }
  }
}
interface Job {
  readonly row: { readonly index: number; readonly version: string; readonly id: string }
  readonly owner: string
  readonly names: RuleContext['names']
  readonly calls: Calls
}

async function clearServer(
  server: Redis,
  pattern: string,
  rule: Rule,
  job: Job,
  signal: AbortSignal,
): Promise<void> {
  const ofMembers = rule.kind === 'set' || rule.kind === 'zset'
  const type = ofMembers ? 'hash' : 'string'
  let cursor = '0'
  do {
    if (signal.aborted) throw new SluiceError('SINK_UNAVAILABLE', 'Redis: TRUNCATE was interrupted')
    const found = await asked(
      server.scan(cursor, 'MATCH', pattern, 'COUNT', SCAN_COUNT, 'TYPE', type),
    )
    cursor = found[0]
    if (ofMembers) for (const key of found[1]) await clearMembers(server, key, rule, job, signal)
    else await clearKeys(server, found[1], job)
  } while (cursor !== '0')
}
async function clearKeys(server: Redis, versions: readonly string[], job: Job): Promise<void> {
  const marks = await asked(Promise.all(versions.map((key) => server.get(key))))
  const remove = markOf('d', job.owner)
  for (const [i, mark] of marks.entries()) {
    if (mark?.slice(40) !== job.owner) continue
    const key = job.names.key(versions[i]!)
    const call = job.calls.of(key)
    call.begin(remove, job.row)
    call.pair(job.names, key)
  }
  if (job.calls.due) await job.calls.flush()
}
async function clearMembers(
  server: Redis,
  version: string,
  rule: Rule,
  job: Job,
  signal: AbortSignal,
): Promise<void> {
  const key = job.names.key(version)
  const remove = markOf(rule.kind === 'set' ? 'r' : 'y', job.owner, '')
  let cursor = '0'
  do {
    if (signal.aborted) throw new SluiceError('SINK_UNAVAILABLE', 'Redis: TRUNCATE was interrupted')
    const found = await asked(server.hscan(version, cursor, 'COUNT', SCAN_COUNT))
    cursor = found[0]
    for (let i = 0; i + 1 < found[1].length; i += 2) {
      if (found[1][i + 1]!.slice(40) !== job.owner) continue
      const call = job.calls.of(key)
      call.begin(remove, job.row)
      call.pair(job.names, key)
      call.key(job.names.tombstones(key))
      call.arg(found[1][i]!)
    }
    if (job.calls.due) await job.calls.flush()
  } while (cursor !== '0')
}
async function asked<T>(reply: Promise<T>): Promise<T> {
  try {
    return await reply
  } catch (error) {
    throw failureOf(error, 'TRUNCATE')
  }
}
