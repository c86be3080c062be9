/**
 * An answer that goes on: server-sent events. What a slow reader does not take in time is dropped and counted, so that nobody
 * waits for him and no buffer grows. Knows nothing of what is sent.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'

const WAITING_BYTES_MAX = 1024 * 1024
const BEAT_MS = 5000 // proxies close what is silent

/** Sends one event; false: it was dropped. */
export type Emit = (event: string, data: object) => boolean

export class Stream {
  readonly #start: (emit: Emit) => () => void
  /** `start` begins to emit and returns what ends it. */
  constructor(start: (emit: Emit) => () => void) {
    this.#start = start
  }
  /** Until the other side goes, or the server closes the connection. */
  async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'x-accel-buffering': 'no' })
    response.write(': hello\n\n')
    let dropped = 0
    const emit: Emit = (event, data) => {
      if (response.writableLength > WAITING_BYTES_MAX) {
        dropped++
        return false
      }
      if (dropped > 0) {
        response.write(`event: dropped\ndata: ${JSON.stringify({ events: dropped })}\n\n`)
        dropped = 0
      }
      response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`)
      return true
    }
    const beat = setInterval(() => {
      if (response.writableLength < WAITING_BYTES_MAX) response.write(': beat\n\n')
    }, BEAT_MS).unref()
    const stop = this.#start(emit)
    try {
      await new Promise<void>((resolve) => {
        request.once('close', resolve)
        response.once('close', resolve)
      })
    } finally {
      clearInterval(beat)
      stop()
    }
  }
}
