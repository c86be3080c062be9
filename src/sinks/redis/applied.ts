/**
 * What Redis knows of the sink's progress: one hash, `sluice:{instance}:applied:sink`, moved by the script in the step that
 * writes the rows it stands for. It is the sink's own position, and the token by which an application asks whether its
 * transaction is in the cache yet (read your writes).
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Position } from '../../change.ts'
import { comparePositions } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { GtidSet } from '../../gtid.ts'
import { versionBefore } from '../shape/version.ts'

export const appliedKey = (prefix: string, instance: string, sink: string): string =>
  `${prefix}sluice:{${instance}}:applied:${sink}`

/** The fields of the hash for a position. `at` orders positions as versions are ordered. */
export function appliedFields(position: Position, instance: string): string[] {
  const { server, epoch, file, offset, skip, gtids, timestamp } = position
  const fields = { instance, server, epoch, file, offset, skip, gtids: gtids ?? '', timestamp }
  return Object.entries(fields).flatMap(([name, value]) => [name, String(value)])
}
export const appliedAt = (position: Position): string => versionBefore(position)

export interface Applied {
  readonly position: Position
  readonly instance: string
  readonly fence: number
  readonly at: string
}
/** HGETALL's reply, as a list or as an object. Throws SINK_UNSUITABLE for a hash that is not ours. */
export function parseApplied(key: string, reply: unknown): Applied | undefined {
  const fields = fieldsOf(reply)
  if (fields['server'] === undefined && fields['fence'] === undefined) return undefined
  const { instance, server, epoch, file, offset, skip, gtids, timestamp, fence, at } = fields
  if (instance === undefined || server === undefined || file === undefined || at === undefined) {
    throw new SluiceError(
      'SINK_UNSUITABLE',
      `Redis key ${key}: expected the fields instance, server, file and at of a position, found ${Object.keys(fields).join(', ')}`,
    )
  }
  const position: Position = {
    epoch: Number(epoch),
    server,
    file,
    offset: Number(offset),
    skip: Number(skip),
    gtids: gtids === undefined || gtids === '' ? undefined : GtidSet.parse(gtids),
    timestamp: Number(timestamp),
  }
  return { position, instance, fence: Number(fence ?? 0), at }
}
function fieldsOf(reply: unknown): Record<string, string | undefined> {
  if (!Array.isArray(reply)) return { ...(reply as Record<string, string> | null) }
  const fields: Record<string, string> = {}
  for (let i = 0; i + 1 < reply.length; i += 2) fields[String(reply[i])] = String(reply[i + 1])
  return fields
}

/** What an application waits for: its transaction's GTID (or a set), or a place in the source's log. */
export type Token =
  | { readonly gtids: string }
  | { readonly file: string; readonly offset: number; readonly skip?: number }

/** Whether everything up to `token` is in Redis. */
export function isApplied(applied: Applied | undefined, token: Token): boolean {
  if (applied === undefined) return false
  const { position } = applied
  if ('gtids' in token) return position.gtids?.includes(GtidSet.parse(token.gtids)) ?? false
  return comparePositions(position, { skip: 0, ...token }) >= 0
}

/** What of a client this needs: ioredis and node-redis (as `hGetAll`) have it. */
export interface HashReader {
  hgetall(key: string): Promise<unknown>
}
export interface WaitOptions {
  readonly instance: string
  readonly sink: string
  readonly keyPrefix?: string
  readonly timeoutMs?: number // default 5 s
  readonly pollMs?: number // default 5 ms, doubling to 100 ms
}
/** Waits until `token` is in Redis; false when that took longer than `timeoutMs`. */
export async function waitApplied(
  client: HashReader,
  token: Token,
  options: WaitOptions,
): Promise<boolean> {
  const key = appliedKey(options.keyPrefix ?? '', options.instance, options.sink)
  const deadline = Date.now() + (options.timeoutMs ?? 5000)
  for (let pollMs = options.pollMs ?? 5; ; pollMs = Math.min(100, pollMs * 2)) {
    if (isApplied(parseApplied(key, await client.hgetall(key)), token)) return true
    if (Date.now() >= deadline) return false
    await delay(pollMs)
  }
}

/**
 * The same question for any client, as one EVAL: KEYS[1] the applied key, ARGV[1] a GTID ("uuid:17" or "uuid:tag:17");
 * 1 or 0. Numbers are compared as text, because a Lua number has 53 bits.
 */
export const GTID_APPLIED = `
local set = redis.call('HGET', KEYS[1], 'gtids')
local sid, gno = string.match(string.lower(ARGV[1]), '^(.+):(%d+)$')
if not set or not sid then return 0 end
local function below(a, b) return #a < #b or (#a == #b and a <= b) end
for part in string.gmatch(set, '[^,]+') do
  local uuid = string.sub(part, 1, 36)
  local at = uuid
  for item in string.gmatch(string.sub(part, 38), '[^:]+') do
    local first, last = string.match(item, '^(%d+)%-?(%d*)$')
    if not first then at = uuid .. ':' .. item
    elseif at == sid and below(first, gno) and below(gno, last == '' and first or last) then return 1 end
  end
end
return 0
`
