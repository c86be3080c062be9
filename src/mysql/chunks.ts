/**
 * A socket's bytes by pull, a chunk at a time, once who connected it has let go: a plain one reads into one buffer that is
 * used again and again, TLS reads for itself.
 */
import type { Socket } from 'node:net'
import { crcMemory } from '../crc.ts'

const READ_BYTES = 256 * 1024

/** Who takes what a plain socket has read, and where it reads into; false stops reading until `resume`. */
export interface Taker {
  take: (chunk: Buffer) => boolean
  buffer: Buffer
}
export const takers = new WeakMap<Socket, Taker>()

export type Chunks = Pick<AsyncIterator<Buffer, unknown>, 'next'>

/** What a socket reads from now on, a chunk at a time; each is overwritten by the next. */
export function chunksOf(socket: Socket): Chunks {
  const taker = takers.get(socket)
  return taker ? plainChunks(socket, taker) : socket.iterator({ destroyOnReturn: false })
}

/** What a plain socket reads, a chunk at a time, where its sums are quick; each is overwritten by the next. */
function plainChunks(socket: Socket, taker: Taker): Chunks {
  let ready: Buffer | undefined
  let failure: Error | undefined
  let ended = false
  let wake: (() => void) | undefined
  taker.buffer = crcMemory(READ_BYTES)
  taker.take = (chunk) => {
    ready = chunk
    wake?.()
    return false
  }
  const end = (error?: Error): void => {
    failure ??= error
    ended = true
    wake?.()
  }
  socket.on('error', end)
  socket.on('end', () => end())
  socket.on('close', () => end())
  return {
    async next() {
      if (ready === undefined && !ended) {
        const read = new Promise<void>((resolve) => (wake = resolve))
        socket.resume()
        await read
        wake = undefined
      }
      const value = ready
      ready = undefined
      if (value !== undefined) return { done: false, value }
      if (failure) throw failure
      return { done: true, value }
    },
  }
}
