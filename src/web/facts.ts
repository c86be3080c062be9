/**
 * What is known of every instance at one moment, gathered from the parts' own numbers: the one view that metrics, health
 * and API share. Lags are counted hop by hop: commit to read, read to delivered, delivered to acked. Asks nobody, changes
 * nothing.
 */
import type { LogPlace } from '../catalog/history.ts'
import type { Position } from '../change.ts'
import type { Fleet, FleetMember } from '../fleet.ts'
import type { InstanceStatus } from '../instance.ts'
import type { SinkStatus } from '../sinks/runner/runner.ts'
import type { CursorStatus } from '../store/store.ts'
import { comparePlaces } from '../store/window.ts'

/** undefined: not known. */
export interface Lag {
  readonly ms: number | undefined
  readonly bytes: number | undefined // of log; at least, where whole files lie between
}
export interface ClientFacts {
  readonly status: CursorStatus
  readonly sink: string | undefined // the name of the sink whose cursor this is
  readonly deliver: Lag // read to delivered
  readonly ack: Lag // delivered to acked
  readonly behind: boolean // something was read that it has not acked
}
/** An instance's own states, and those of a file without one. */
export const shownStates = [
  'connecting',
  'running',
  'retrying',
  'failed',
  'stopped',
  'disabled',
  'held',
  'standby',
  'invalid',
] as const satisfies readonly (
  | InstanceStatus['state']
  | 'disabled'
  | 'held'
  | 'standby'
  | 'invalid'
)[]
export type ShownState = (typeof shownStates)[number]
export interface InstanceFacts {
  readonly member: FleetMember
  readonly state: ShownState
  readonly status: InstanceStatus | undefined // undefined: there is no instance
  readonly end: LogPlace | undefined // of the source's log, as last asked
  readonly read: Lag // commit to read
  readonly behind: boolean // the source is known to have more than was read
  readonly clients: readonly ClientFacts[]
  readonly sinks: readonly SinkStatus[]
}

/** What was found out about a source, by whoever asks it. */
export interface Sighted {
  readonly end: LogPlace | undefined // where its log ended when it was asked last; undefined: not known
  readonly syncedAt: number | undefined // ms, when all there was had been read
}

const SINK = 'sink:'
const RECENT_MS = 5000

export function gather(fleet: Fleet, sighted: ReadonlyMap<string, Sighted>): InstanceFacts[] {
  return fleet.members().map((member) => factsOfMember(member, sighted.get(member.name)))
}

function factsOfMember(member: FleetMember, sighted: Sighted | undefined): InstanceFacts {
  const end = sighted?.end
  const status = member.instance?.status
  const position = status?.position
  const known = position && end && end.epoch === position.epoch
  const behind = known ? comparePlaces(position, { ...end, skip: 0 }) < 0 : false
  return {
    member,
    state: status?.state ?? stateWithout(member),
    status,
    end,
    read: {
      ms: readMs(status, behind, sighted),
      bytes: known ? bytesBetween(position, end) : undefined,
    },
    behind,
    clients: status?.store?.cursors.map((c) => clientFacts(c, status.store!.last)) ?? [],
    sinks: status?.sinks ?? [],
  }
}
/**
 * From commit to read. While all is read: what the newest transaction took, and 0 when that was a while ago. Else there may be
 * commits as old as the last moment at which all was read, but none older than what was read last.
 */
function readMs(
  status: InstanceStatus | undefined,
  behind: boolean,
  sighted: Sighted | undefined,
): number | undefined {
  if (!status) return undefined
  const now = Date.now()
  const { delayMs, readAt } = status.counts
  if (status.state === 'running' && sighted?.end && !behind)
    return now - readAt < RECENT_MS ? delayMs : 0
  const latest = Math.max(sighted?.syncedAt ?? 0, status.position?.timestamp ?? 0)
  return latest === 0 ? undefined : Math.max(0, now - latest)
}
function stateWithout({ held, config, code }: FleetMember): ShownState {
  if (held) return 'held'
  if (code === 'STATE_LOCKED') return 'standby'
  if (config?.enabled === false) return 'disabled'
  return config === undefined ? 'invalid' : 'failed'
}
function clientFacts(status: CursorStatus, last: Position): ClientFacts {
  const { client, acked, read } = status
  return {
    status,
    sink: client.startsWith(SINK) ? client.slice(SINK.length) : undefined,
    deliver: lagBetween(read, last),
    ack: lagBetween(acked, read),
    behind: comparePlaces(acked, last) < 0,
  }
}
/** By the source's clock. */
function lagBetween(from: Position, to: Position): Lag {
  if (comparePlaces(from, to) >= 0) return { ms: 0, bytes: 0 }
  return { ms: Math.max(0, to.timestamp - from.timestamp), bytes: bytesBetween(from, to) }
}
function bytesBetween(from: LogPlace, to: LogPlace): number {
  if (from.epoch !== to.epoch || from.file !== to.file) return to.offset
  return Math.max(0, to.offset - from.offset)
}
