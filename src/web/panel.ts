/**
 * What the routes of the API and the metrics see of the process, in one place: instances, the watchdog, rates, the log and the
 * audit log. Belongs to the admin port and lives as long.
 */
import type { AdminConfig } from '../config/admin.ts'
import type { Fleet, FleetMember } from '../fleet.ts'
import type { Instance } from '../instance.ts'
import type { LogBook } from '../logger.ts'
import type { CanalServer } from '../server/server.ts'
import { showInstance, type InstanceView } from './api/views.ts'
import type { Audit } from './audit.ts'
import { Watchdog } from './health.ts'
import type { InstanceFacts } from './facts.ts'
import { InstanceFiles } from './files/files.ts'
import { Past } from './live/past.ts'
import { notFound, notNow } from './refused.ts'

export interface PanelOptions {
  readonly fleet: Fleet
  readonly dataDir: string
  readonly instancesDir: string
  readonly book: LogBook
  readonly audit: Audit
  readonly version: string
  readonly health: AdminConfig['health']
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
  readonly past = new Past()

  constructor(options: PanelOptions) {
    const { fleet, dataDir, instancesDir, book, audit, version, health } = options
    this.fleet = fleet
    this.dataDir = dataDir
    this.files = new InstanceFiles(instancesDir)
    this.book = book
    this.audit = audit
    this.version = version
    this.watchdog = new Watchdog(fleet, health, (facts) => this.past.take(facts, performance.now()))
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
    return showInstance(facts, { stages, rates: this.past.rates(facts.member.name) })
  }
}
