/**
 * Standard output as a place for lines. What it has taken is with the kernel, not on a disk; whoever reads it too slowly
 * slows the sink down, and nothing else.
 */
import { SluiceError } from '../../errors.ts'
import { logsToStdout } from '../../logger.ts'
import type { Lines } from './lines.ts'

let taken = false

export class StandardOutput implements Lines {
  #broken: Error | undefined
  readonly #onError = (error: Error): void => {
    this.#broken ??= error
  }

  /** Throws SINK_UNSUITABLE when another sink of this process, or its log, writes there. */
  static open(): StandardOutput {
    if (taken) {
      throw new SluiceError(
        'SINK_UNSUITABLE',
        'standard output: another sink of this process writes there; expected one at most',
      )
    }
    if (logsToStdout()) {
      throw new SluiceError(
        'SINK_UNSUITABLE',
        'standard output carries the log; expected log.stream: stderr in conf/server.yaml',
      )
    }
    taken = true
    return new StandardOutput()
  }
  private constructor() {
    process.stdout.on('error', this.#onError)
  }

  begin(): Promise<void> {
    return Promise.resolve()
  }
  async put(lines: readonly Buffer[], signal: AbortSignal): Promise<void> {
    // The stream may hold on to what it was given after the signal: it gets a copy.
    const copy = Buffer.concat(lines)
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const aborted = (): void => reject(signal.reason as Error)
    signal.addEventListener('abort', aborted)
    process.stdout.write(copy, (error) => {
      if (error) reject(gone(error))
      else resolve()
    })
    try {
      await promise
    } finally {
      signal.removeEventListener('abort', aborted)
    }
  }
  commit(): Promise<void> {
    return this.#broken ? Promise.reject(gone(this.#broken)) : Promise.resolve()
  }
  close(): Promise<void> {
    process.stdout.off('error', this.#onError)
    taken = false
    return Promise.resolve()
  }
}

function gone(cause: Error): SluiceError {
  const text = `standard output cannot be written to: ${cause.message}; its reader has ended`
  return new SluiceError('SINK_UNSUITABLE', text, { cause })
}
