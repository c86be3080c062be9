/**
 * Notices that an answer to a query will never be whole: it does not begin, it stops in the middle, or what comes is no
 * part of it. Without this a query whose answer was damaged on its way would wait, for mysql2 reads whatever has the shape
 * of a packet, and says of a wrong sequence number only that it is wrong, on the console. Knows nothing of what is asked.
 */
import type { Socket } from 'node:net'
import type { Connection as Driver } from 'mysql2'
import { SluiceError } from '../errors.ts'

/** A server may think long about a question (SHOW BINARY LOGS opens every file), but not in the middle of its answer. */
const ANSWER_BEGINS_MS = 60_000
const ANSWER_PAUSES_MS = 5_000
const LOOK_MS = 500

// mysql2 does not declare the socket it keeps in `stream`; after TLS it is the TLS socket.
export const socketOf = (driver: Driver): Socket => (driver as unknown as { stream: Socket }).stream

/** Calls `fail` once when the answer that `socket` is to bring does not come; the returned function ends the watch. */
export function watchAnswer(
  socket: Socket,
  what: string,
  fail: (error: SluiceError) => void,
): () => void {
  const begin = socket.bytesRead
  let seen = begin
  let since = performance.now()
  const look = (): void => {
    if (socket.bytesRead !== seen) {
      seen = socket.bytesRead
      since = performance.now()
      return
    }
    const limit = seen === begin ? ANSWER_BEGINS_MS : ANSWER_PAUSES_MS
    if (performance.now() - since < limit || stopped) return
    const text =
      seen === begin
        ? `no answer for ${limit} ms`
        : `the answer stopped after ${seen - begin} bytes: nothing more for ${limit} ms`
    stop()
    fail(new SluiceError('QUERY_FAILED', `${what}: ${text}`))
  }
  // Sockets are read between a timer and an immediate: what came while this thread was busy counts.
  const timer = setInterval(() => setImmediate(look), LOOK_MS)
  let stopped = false
  const stop = (): void => {
    stopped = true
    clearInterval(timer)
  }
  return stop
}

/**
 * A packet with a wrong sequence number ends the connection: the stream is damaged, and what follows would be taken for an
 * answer. On a plain socket it throws PACKET_MALFORMED out of mysql2, which whoever feeds it (`feed`) has to expect; TLS,
 * under which bytes are not damaged unnoticed, has no such place.
 */
export function guardSequence(driver: Driver, where: string): void {
  driver.on('warn', (warning: Error) => {
    const text = warning.message.replace(/^Warning: /, '')
    const error = new SluiceError('PACKET_MALFORMED', `${where}: ${text}`)
    const socket = socketOf(driver)
    socket.destroy(error)
    if (!('encrypted' in socket)) throw error
  })
}

/** Gives mysql2 what its socket has read; false when that ended the connection. */
export function feed(socket: Socket, chunk: Buffer): boolean {
  try {
    return socket.emit('data', chunk)
  } catch (error) {
    if (error instanceof SluiceError && socket.destroyed) return false
    throw error
  }
}
