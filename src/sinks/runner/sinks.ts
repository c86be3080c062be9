/**
 * All sinks of one instance: made from its configuration, started when the source is known, stopped before the store. Looks
 * twice a second at what commands have written into the control file (letters/control.ts) and passes it on.
 */
import { SluiceError } from '../../errors.ts'
import { Control, controlFile } from '../letters/control.ts'
import type { SinkType } from '../sink.ts'
import type { SinkConfig } from './options.ts'
import { SinkRunner, type SinkHost, type SinkStatus } from './runner.ts'

const LOOK_MS = 500

export class Sinks {
  readonly #runners: readonly SinkRunner[]
  readonly #control: Control
  #timer: NodeJS.Timeout | undefined
  #last: SinkStatus[] | undefined // once they are stopped

  private constructor(runners: readonly SinkRunner[], control: Control) {
    this.#runners = runners
    this.#control = control
  }
  /** Throws CONFIG_INVALID for a type that is not in `types`, STATE_UNREADABLE when the control file is something else. */
  static open(
    configs: Readonly<Record<string, SinkConfig>>,
    { dataDir, types }: { readonly dataDir: string; readonly types: readonly SinkType[] },
    host: Omit<SinkHost, 'control'>,
  ): Sinks {
    const control = Control.open(controlFile(dataDir, host.instance))
    const runners = Object.entries(configs).flatMap(([name, config]) => {
      const type = types.find((t) => t.type === config.type)
      if (type === undefined) {
        throw new SluiceError('CONFIG_INVALID', `sink ${name}: no type "${config.type}"`)
      }
      return config.enabled ? [new SinkRunner(name, config, type, { ...host, control })] : []
    })
    return new Sinks(runners, control)
  }
  start(): void {
    for (const runner of this.#runners) runner.start()
    this.#timer = setInterval(() => this.#look(), LOOK_MS).unref()
  }
  status(): SinkStatus[] {
    return this.#last ?? this.#runners.map((runner) => runner.status)
  }
  /** Lets sinks that have failed try again. */
  retry(): void {
    for (const runner of this.#runners) if (runner.status.state === 'failed') runner.resume()
  }
  /** Idempotent; never rejects. */
  async stop(): Promise<void> {
    if (this.#timer === undefined) return
    clearInterval(this.#timer)
    this.#timer = undefined
    await Promise.all(this.#runners.map((runner) => runner.stop()))
    this.#last = this.status()
    this.#control.close()
  }

  #look(): void {
    const control = this.#control
    if (!control.changed()) return
    const paused = control.paused()
    for (const runner of this.#runners) runner.pause(paused.has(runner.name))
    for (const { id, kind, sink, letter } of control.wishes()) {
      control.fulfilled(id)
      const runner = this.#runners.find((r) => r.name === sink)
      if (kind === 'resume') runner?.resume()
      const wanted = letter === null ? undefined : control.letter(letter)
      if (kind === 'replay' && wanted !== undefined) runner?.replay(wanted)
    }
  }
}
