/**
 * The stage watchdog. Looks once a second at what every stage has to do and how far it is; a stage that has work and has not
 * moved within its limit stands still, and one that has failed does so at once. It is well again as soon as it moves, or has
 * nothing left to do. It only looks: no stage knows of it.
 */
import { formatPosition } from '../change.ts'
import type { AdminConfig } from '../config/admin.ts'
import type { Fleet } from '../fleet.ts'
import { gather, type ClientFacts, type InstanceFacts, type Sighted } from './facts.ts'

const LOOK_MS = 1000
const ASK_END_MS = 2000 // how often a source is asked where its log ends

export type StageKind = 'read' | 'store' | 'client' | 'sink'
/** One stage at one moment. */
export interface Stage {
  readonly destination: string
  readonly stage: StageKind
  readonly name: string // of the client or sink; else ""
  readonly ok: boolean
  readonly idleMs: number // it has work and has not moved for so long; 0: it moves, or has none
  readonly limitMs: number
  readonly reason: string // what it stands still at; "" when all is well
}
type Limits = AdminConfig['health']

/** What a stage has to do. */
interface Duty {
  readonly stage: StageKind
  readonly name: string
  readonly work: boolean
  readonly mark: string // changes whenever it moves
  readonly limitMs: number
  readonly reason: string // why it may stand still
  readonly broken: boolean // it does not go on by itself
}
interface Watched {
  mark: string
  since: number
  seen: number
}

export class Watchdog {
  readonly #fleet: Fleet
  readonly #limits: Limits
  readonly #onLook: (facts: readonly InstanceFacts[]) => void
  readonly #sighted = new Map<string, Sighted>()
  readonly #asking = new Set<string>()
  readonly #watched = new Map<string, Watched>()
  #stages: readonly Stage[] = []
  #timer: NodeJS.Timeout | undefined
  #askedAt = 0
  #looks = 0

  /** `onLook` is shown what every look has seen. */
  constructor(
    fleet: Fleet,
    limits: Limits,
    onLook: (facts: readonly InstanceFacts[]) => void = () => {},
  ) {
    this.#fleet = fleet
    this.#limits = limits
    this.#onLook = onLook
  }
  start(): void {
    this.#timer ??= setInterval(() => this.look(), LOOK_MS).unref()
    this.look()
  }
  stop(): void {
    clearInterval(this.#timer)
  }
  /** As of the last look. */
  get stages(): readonly Stage[] {
    return this.#stages
  }
  /** Everything that is known now. */
  facts(): InstanceFacts[] {
    return gather(this.#fleet, this.#sighted)
  }

  /** Looks at every stage once. */
  look(): void {
    const now = performance.now()
    if (now - this.#askedAt >= ASK_END_MS) {
      this.#askedAt = now
      this.#askEnds()
    }
    this.#looks++
    const all = this.facts()
    for (const facts of all) this.#sight(facts)
    this.#stages = all.flatMap((facts) =>
      dutiesOf(facts, this.#limits).map((duty) => this.#judge(facts.member.name, duty, now)),
    )
    this.#onLook(all)
    for (const [key, { seen }] of this.#watched) if (seen !== this.#looks) this.#watched.delete(key)
  }
  #judge(destination: string, duty: Duty, now: number): Stage {
    const { stage, name, work, mark, limitMs, reason, broken } = duty
    const key = `${destination}\n${stage}\n${name}`
    let watched = this.#watched.get(key)
    if (!watched || !work || watched.mark !== mark) {
      watched = { mark, since: now, seen: 0 }
      this.#watched.set(key, watched)
    }
    watched.seen = this.#looks
    const idleMs = Math.round(now - watched.since)
    const ok = !broken && idleMs <= limitMs
    return { destination, stage, name, ok, idleMs, limitMs, reason: ok ? '' : reason }
  }
  /** All there is was read, or the source is out of sight. */
  #sight({ member: { name }, state, end, behind }: InstanceFacts): void {
    const syncedAt = this.#sighted.get(name)?.syncedAt
    if (state !== 'running') this.#sighted.set(name, { end: undefined, syncedAt })
    else if (end && !behind) this.#sighted.set(name, { end, syncedAt: Date.now() })
  }
  #askEnds(): void {
    const members = this.#fleet.members()
    for (const name of this.#sighted.keys())
      if (!members.some((m) => m.name === name)) this.#sighted.delete(name)
    for (const { name, instance } of members) {
      if (instance?.status.state !== 'running' || this.#asking.has(name)) continue
      const seen = (end: Sighted['end']): void => {
        this.#sighted.set(name, { end, syncedAt: this.#sighted.get(name)?.syncedAt })
      }
      this.#asking.add(name)
      instance
        .sourceEnd()
        .then(
          (end) => seen(end),
          () => seen(undefined), // not known; that it does not answer shows where it is read
        )
        .finally(() => this.#asking.delete(name))
        .catch(() => {})
    }
  }
}

/** What every stage of an instance has to do. */
function dutiesOf(facts: InstanceFacts, limits: Limits): Duty[] {
  const { state, member } = facts
  if (state === 'disabled' || state === 'held' || state === 'standby') return []
  const read = readDuty(facts, limits)
  const store = facts.status?.store
  if (!store) return [read]
  const oldest = formatPosition(store.first)
  const full: Duty = {
    stage: 'store',
    name: '',
    work: store.braking,
    mark: `${oldest} ${formatPosition(store.last)} ${facts.clients.map(progressOf).join(' ')}`,
    limitMs: limits.storeMs,
    reason: `the window is full (${store.windowBytes} bytes) and nobody reads on from ${oldest}`,
    broken: false,
  }
  const clients = facts.clients
    .filter((c) => c.sink === undefined && c.status.subscribed)
    .map((c) => clientDuty(c, limits))
  const sinks = Object.entries(member.config?.sinks ?? {})
    .filter(([, { enabled }]) => enabled)
    .map(([name]) => sinkDuty(name, facts, limits))
  return [read, full, ...clients, ...sinks]
}
function readDuty({ state, status, member, end, behind }: InstanceFacts, limits: Limits): Duty {
  const about = { stage: 'read' as const, name: '', limitMs: limits.readMs }
  const position = status?.position
  const at = position ? formatPosition(position) : 'the beginning'
  if (!status || state === 'failed' || state === 'stopped') {
    const error = status && 'error' in status ? status.error.message : member.trouble
    return { ...about, work: true, mark: '', broken: true, reason: error ?? 'it does not run' }
  }
  if (status.state !== 'running') {
    const error = 'error' in status ? `: ${status.error.message}` : ''
    const reason = `${state} at ${at}${error}`
    return { ...about, work: true, mark: 'away', broken: false, reason }
  }
  return {
    ...about,
    work: behind && status.store?.braking !== true,
    mark: `${at} ${status.counts.transactions}`,
    broken: false,
    reason: end ? `stands at ${at}; the source's log ends at ${end.file}:${end.offset}` : '',
  }
}
const progressOf = ({ status: { acked, read } }: ClientFacts): string =>
  `${formatPosition(acked)}/${formatPosition(read)}`
function clientDuty({ status, behind }: ClientFacts, limits: Limits): Duty {
  const { client, state, acked, outstanding, tally } = status
  const away = state === 'away'
  const what = outstanding > 0 ? `${outstanding} batches are not acked` : 'it takes no changes'
  return {
    stage: 'client',
    name: client,
    work: behind,
    mark: `${formatPosition(acked)} ${tally.ackedBatches}`,
    limitMs: away ? limits.awayMs : limits.clientMs,
    broken: false,
    reason: `acked up to ${formatPosition(acked)}; ${away ? 'it is not connected' : what}`,
  }
}
function sinkDuty(name: string, { sinks, clients }: InstanceFacts, limits: Limits): Duty {
  const sink = sinks.find((s) => s.name === name)
  const cursor = clients.find((c) => c.sink === name)
  const at = sink?.acked ? `, done up to ${formatPosition(sink.acked)}` : ''
  const error = sink && 'error' in sink ? `: ${sink.error.message}` : ''
  const trouble = sink?.state === 'retrying' || sink?.state === 'connecting'
  return {
    stage: 'sink',
    name,
    work: trouble || cursor?.behind === true,
    mark: `${at} ${sink?.rows ?? 0} ${sink?.writes ?? 0}`,
    limitMs: limits.sinkMs,
    broken: sink?.state === 'failed',
    reason: `${sink?.state ?? 'it does not run'}${at}${error}`,
  }
}
