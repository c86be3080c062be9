/**
 * What the routes of the API and the metrics see of the process, in one place: instances, the watchdog, rates, the log and the
 * audit log. Belongs to the admin port and lives as long.
 */
import type { AdminConfig } from '../config/admin.ts'
import type { Fleet, FleetMember } from '../fleet.ts'
import type { Instance } from '../instance.ts'
import type { LogBook } from '../logger.ts'
import type { CanalServer } from '../server/server.ts'
import { showInstance, type InstanceView, type Rates } from './api/views.ts'
import type { Audit } from './audit.ts'
import { Watchdog } from './health.ts'
import type { InstanceFacts } from './facts.ts'
import { InstanceFiles } from './files/files.ts'
import { notFound, notNow } from './refused.ts'

const RATE_LOOKS = 10 // a rate is over so many looks of the watchdog

export interface PanelOptions {
  readonly fleet: Fleet
  readonly dataDir: string
  readonly instancesDir: string
  readonly book: LogBook
  readonly audit: Audit
  readonly version: string
  readonly health: AdminConfig['health']
}
interface Sample extends Rates {
  readonly at: number // performance.now()
}

export class Panel {
  readonly fleet: Fleet
  readonly dataDir: string
  readonly files: InstanceFiles
  readonly book: LogBook
  readonly audit: Audit
  readonly version: string
  readonly startedAt = new Date().toISOString()
  readonly watchdog: Watchdog
  /** The Canal port, once it is open. */
  canal: CanalServer | undefined
  readonly #samples = new Map<string, Sample[]>()

  constructor(options: PanelOptions) {
    const { fleet, dataDir, instancesDir, book, audit, version, health } = options
    this.fleet = fleet
    this.dataDir = dataDir
    this.files = new InstanceFiles(instancesDir)
    this.book = book
    this.audit = audit
    this.version = version
    this.watchdog = new Watchdog(fleet, health, (facts) => this.#sample(facts))
  }

  /** Whether every instance that should run has reached its source, and clients are served. */
  get ready(): boolean {
    if (!this.canal) return false
    return this.fleet
      .members()
      .every((m) => m.held || m.config?.enabled === false || m.instance?.store !== undefined)
  }
  /** Throws Refused. */
  member(destination: string): FleetMember {
    const member = this.fleet.members().find((m) => m.name === destination)
    if (member) return member
    throw notFound(`there is no instance ${destination}`)
  }
  /** Throws Refused where it does not run. */
  running(destination: string): Instance {
    const { instance, trouble } = this.member(destination)
    if (instance) return instance
    throw notNow(`instance ${destination} does not run: ${trouble ?? 'it is starting'}`)
  }
  instances(): InstanceView[] {
    return this.watchdog.facts().map((facts) => this.#show(facts))
  }
  /** Throws Refused. */
  instance(destination: string): InstanceView {
    const facts = this.watchdog.facts().find((f) => f.member.name === destination)
    if (facts) return this.#show(facts)
    throw notFound(`there is no instance ${destination}`)
  }
  #show(facts: InstanceFacts): InstanceView {
    const { stages } = this.watchdog
    return showInstance(facts, { stages, rates: this.#rates(facts.member.name) })
  }

  #sample(facts: readonly InstanceFacts[]): void {
    const at = performance.now()
    for (const { member, status } of facts) {
      const samples = this.#samples.get(member.name) ?? []
      const { transactions = 0, changes = 0, logBytes = 0 } = status?.counts ?? {}
      if (transactions < (samples.at(-1)?.transactions ?? 0)) samples.length = 0 // it began anew
      samples.push({ at, transactions, changes, bytes: logBytes })
      if (samples.length > RATE_LOOKS + 1) samples.shift()
      this.#samples.set(member.name, samples)
    }
    for (const name of this.#samples.keys())
      if (!facts.some((f) => f.member.name === name)) this.#samples.delete(name)
  }
  #rates(destination: string): Rates {
    const samples = this.#samples.get(destination) ?? []
    const [first, last] = [samples[0], samples.at(-1)]
    if (!first || !last || first === last) return { transactions: 0, changes: 0, bytes: 0 }
    const per = (key: keyof Rates): number =>
      Math.round(((last[key] - first[key]) * 1e5) / (last.at - first.at)) / 100
    return { transactions: per('transactions'), changes: per('changes'), bytes: per('bytes') }
  }
}
