/**
 * All sinks of one instance: made from its configuration, started when the source is known, stopped before the store.
 */
import { SluiceError } from '../../errors.ts'
import type { SinkType } from '../sink.ts'
import type { SinkConfig } from './options.ts'
import { SinkRunner, type SinkHost, type SinkStatus } from './runner.ts'

export class Sinks {
  readonly #runners: readonly SinkRunner[]
  /** Throws CONFIG_INVALID for a type that is not in `types`. */
  constructor(
    configs: Readonly<Record<string, SinkConfig>>,
    types: readonly SinkType[],
    host: SinkHost,
  ) {
    this.#runners = Object.entries(configs).flatMap(([name, config]) => {
      const type = types.find((t) => t.type === config.type)
      if (type === undefined) {
        throw new SluiceError('CONFIG_INVALID', `sink ${name}: no type "${config.type}"`)
      }
      return config.enabled ? [new SinkRunner(name, config, type, host)] : []
    })
  }
  start(): void {
    for (const runner of this.#runners) runner.start()
  }
  status(): SinkStatus[] {
    return this.#runners.map((runner) => runner.status)
  }
  async stop(): Promise<void> {
    await Promise.all(this.#runners.map((runner) => runner.stop()))
  }
}
