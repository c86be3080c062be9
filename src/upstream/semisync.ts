/**
 * Semi-synchronous replication, our side of it: the source's commits wait until every client that has subscribed has acked,
 * durably, everything up to there. Follows what the state file has written, and acknowledges the slowest one's place on
 * the main reader's connection; a catch-up reader never does. Without a client nothing is acknowledged.
 */
import { comparePositions, type Position } from '../change.ts'
import type { Acknowledge } from '../sources/index.ts'

export interface Stored {
  readonly client: string
  readonly acked: Position
}

export class SemiSync {
  readonly #stored: () => readonly Stored[]
  readonly #subscribers: () => readonly string[]
  readonly #durable = new Map<string, Position>()
  #ack: Acknowledge | undefined
  #epoch = 0
  #told: Position | undefined
  /** Acknowledgements sent. */
  acks = 0

  /** `stored`: what the state file holds; `subscribers`: who has subscribed. */
  constructor(stored: () => readonly Stored[], subscribers: () => readonly string[]) {
    this.#stored = stored
    this.#subscribers = subscribers
  }
  /** Whether the main reader runs. */
  get active(): boolean {
    return this.#ack !== undefined
  }
  /** The main reader's connection, which reads in `epoch`; false: there is none. */
  connection(ack: Acknowledge | false, epoch: number): void {
    this.#ack = ack || undefined
    this.#epoch = epoch
    this.#told = undefined
    this.#tell()
  }
  /** These positions are in the state file now. */
  wrote(acks: ReadonlyMap<string, Position>): void {
    for (const [client, acked] of acks) this.#durable.set(client, acked)
    this.#tell()
  }

  /** One that has not acked since we follow. */
  #learn(client: string): Position | undefined {
    for (const { client: name, acked } of this.#stored())
      if (!this.#durable.has(name)) this.#durable.set(name, acked)
    return this.#durable.get(client)
  }
  #tell(): void {
    if (!this.#ack) return
    let least: Position | undefined
    const subscribers = this.#subscribers()
    for (const name of this.#durable.keys())
      if (!subscribers.includes(name)) this.#durable.delete(name)
    for (const client of subscribers) {
      const place = this.#durable.get(client) ?? this.#learn(client)
      if (!place || place.epoch !== this.#epoch || place.file === '') return // not known to be anywhere in this log
      if (!least || comparePositions(place, least) < 0) least = place
    }
    if (!least || (this.#told && comparePositions(least, this.#told) <= 0)) return
    this.#told = least
    this.acks++
    this.#ack(least.file, least.offset)
  }
}

/** Why commits of a source would not wait for us; undefined: they do. */
export async function withoutSemiSync(
  query: <T>(sql: string) => Promise<T[]>,
): Promise<string | undefined> {
  const rows = await query<{ Variable_name: string; Value: string }>(
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('rpl_semi_sync_source_enabled', 'rpl_semi_sync_master_enabled')",
  )
  if (rows.length === 0) return 'the plugin semisync_source (semisync_master) is not installed'
  return rows.some((r) => r.Value === 'ON') ? undefined : `${rows[0]!.Variable_name} is OFF`
}
