/**
 * What becomes of files that were put aside: compressed one at a time, behind the writer's back, and the oldest removed
 * where only some are kept. What a crash interrupted is begun again: the plain file goes when the packed one is on disk.
 */
import { createReadStream, createWriteStream } from 'node:fs'
import { readdir, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'
import type { Logger } from '../../logger.ts'

export interface PackerOptions {
  readonly path: string
  readonly gzip: boolean
  readonly keep: number // 0: all
  readonly log: Logger
}
export interface PutAside {
  readonly file: string
  readonly number: number
  readonly packed: boolean
}

const PACKED = '.gz'
const PART = '.part'

/** path.000007 */
export const numbered = (path: string, n: number): string => `${path}.${String(n).padStart(6, '0')}`

/** The files that were put aside, oldest first. */
export async function putAside(path: string): Promise<PutAside[]> {
  const prefix = `${basename(path)}.`
  const found = (await readdir(dirname(path))).flatMap((name): PutAside[] => {
    const match = name.startsWith(prefix) && /^(\d{6,15})(\.gz)?$/.exec(name.slice(prefix.length))
    if (!match) return []
    const packed = match[2] !== undefined
    return [{ file: join(dirname(path), name), number: Number(match[1]), packed }]
  })
  return found.sort((a, b) => a.number - b.number)
}

export class Packer {
  readonly #options: PackerOptions
  readonly #stop = new AbortController()
  #running: Promise<void> | undefined
  #again = false

  constructor(options: PackerOptions) {
    this.#options = options
  }
  /** Looks after the files that are there now. Never throws: what goes wrong is logged, and tried at the next call. */
  wake(): void {
    const { gzip, keep } = this.#options
    if ((!gzip && keep === 0) || this.#stop.signal.aborted) return
    this.#again = true
    this.#running ??= this.#run()
  }
  /** Gives up what is under way. */
  async close(): Promise<void> {
    this.#stop.abort()
    await this.#running
  }

  async #run(): Promise<void> {
    const { path, log } = this.#options
    try {
      while (this.#again) {
        this.#again = false
        await this.#round()
      }
    } catch (error) {
      if (!this.#stop.signal.aborted)
        log.warn({ path }, `${path}: files put aside: ${(error as Error).message}`)
    } finally {
      this.#running = undefined
    }
  }
  async #round(): Promise<void> {
    const { path, gzip, keep } = this.#options
    const files = await putAside(path)
    const numbers = [...new Set(files.map(({ number }) => number))]
    const kept = new Set(keep === 0 ? numbers : numbers.slice(-keep))
    for (const { file, number, packed } of files) {
      this.#stop.signal.throwIfAborted()
      if (!kept.has(number)) await rm(file, { force: true })
      else if (gzip && !packed) await this.#pack(file)
    }
  }
  async #pack(file: string): Promise<void> {
    const part = `${file}${PACKED}${PART}`
    try {
      await pipeline(
        createReadStream(file),
        createGzip(),
        createWriteStream(part, { flush: true, mode: 0o640 }),
        { signal: this.#stop.signal },
      )
      await rename(part, `${file}${PACKED}`)
      await rm(file)
    } catch (error) {
      await rm(part, { force: true })
      throw error
    }
  }
}
