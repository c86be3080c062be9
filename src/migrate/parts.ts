/**
 * What the parts of a migration share: its two sides and its folder, what it tells whoever looks, and how it can end.
 */
import type { LogPlace } from '../catalog/history.ts'
import type { Logger } from '../logger.ts'
import type { SinkConfig } from '../sinks/runner/options.ts'
import type { Folder, MigrateOptions, Phase, Place } from './options.ts'
import type { Note, Plan } from './plan.ts'
import type { Source } from './source.ts'
import type { Target } from './target.ts'

export interface Progress {
  readonly phase: Phase
  readonly table: string | null // that is being loaded
  readonly tables: number
  readonly tablesDone: number
  readonly rows: number // loaded
  readonly rowsExpected: number // by the server's estimate
  readonly rowsPerSecond: number // loaded and streamed, since the last time
  readonly secondsLeft: number | null
  readonly streamed: number // rows written since the start of this process, those of the load too
  readonly lagMs: number
  readonly lagBytes: number
}
export type Event =
  | { readonly event: 'plan'; readonly plan: Plan; readonly phase: Phase }
  | { readonly event: 'phase'; readonly phase: Phase; readonly text: string }
  | ({ readonly event: 'progress' } & Progress)
  | { readonly event: 'trouble'; readonly code: string; readonly text: string }
  | ({ readonly event: 'note' } & Note)
  | { readonly event: 'inStep' | 'waiting'; readonly text: string }
  | ({ readonly event: 'verified' } & Verified)
  | {
      readonly event: 'cutOver'
      readonly source: Place
      readonly target: Place | null
      readonly hints: readonly string[]
    }
/** What a comparison of both sides has found. */
export interface Verified {
  readonly tables: number
  readonly rows: number
  readonly different: readonly { readonly table: string; readonly text: string }[]
}
export interface Host {
  readonly report: (event: Event) => void
  readonly log: Logger
  /** Stops, so that the same command goes on later. */
  readonly signal: AbortSignal
}
/** planned: a dry run. unfit: the plan has failures. different: the comparison has. stopped: before the cut-over. */
export type Outcome = 'planned' | 'unfit' | 'stopped' | 'different' | 'done'

export interface Parts {
  readonly options: MigrateOptions
  readonly host: Host
  readonly source: Source
  readonly target: Target
  readonly folder: Folder
}
/** The load and the stream, as the cut-over sees them. */
export interface Stream {
  /** Rows written since it began. */
  readonly written: number
  /** Waits until the target has what the source has now; false: stopped before. */
  caughtUp(): Promise<boolean>
  /** The same for one place of the source's log. Rejects when it is stopped before. */
  passed(place: Pick<LogPlace, 'file' | 'offset'>): Promise<void>
  /** The sink, as it is configured. */
  readonly sink: SinkConfig
  /** Stops reading and writing. */
  rest(): Promise<void>
}
