/**
 * A file of lines that is put aside when it is large or old enough: `path` is written to, `path.000001` and so on are what
 * it was before, each renamed once and never again. The number rises for ever, so their order is the order of writing.
 *
 * Owns the file: a last line without an end is cut off at open, what a failed write left is taken back before the next,
 * and a file that grew by somebody else's hand stops the sink. A file that somebody moved away (logrotate) is begun anew.
 */
import { constants, type Stats } from 'node:fs'
import { mkdir, open, rename, stat, type FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import { SluiceError } from '../../errors.ts'
import type { Logger } from '../../logger.ts'
import { fileError, type Lines } from './lines.ts'
import { numbered, Packer, putAside } from './packer.ts'

export interface RotatingOptions {
  readonly path: string
  readonly bytes: number // 0: never because of size
  readonly everyMs: number // 0: never because of time
  readonly gzip: boolean
  readonly keep: number // 0: all
  readonly log: Logger
}

const NEWLINE = 0x0a
const BRACE = 0x7b
const LOOK_BYTES = 64 * 1024
/** While one write follows the other, whether the file is still ours is not asked more often: each costs a turn of a thread. */
const LOOK_MS = 50

/** Two sinks of this process must not share a file. */
const taken = new Set<string>()

export class RotatingFile implements Lines {
  readonly #options: RotatingOptions
  readonly #packer: Packer
  #handle: FileHandle | undefined
  #inode = 0
  #size = 0 // that was committed, or found at open
  #end = 0 // that was put
  #window = 0 // the span of time that the lines in the file belong to
  #lookedAt = -Infinity // performance.now()
  #dirty = false // a write did not get to its commit, or that failed
  #synced = Promise.resolve() // the last commit
  #failed: { readonly error: unknown } | undefined // a commit, since the last fresh begin
  #number = 0 // of the last file that was put aside

  private constructor(options: RotatingOptions) {
    this.#options = options
    this.#packer = new Packer(options)
  }
  /** Throws SINK_UNSUITABLE for a file that is not ours to write, SINK_UNAVAILABLE for what may pass. */
  static async open(options: RotatingOptions): Promise<RotatingFile> {
    const { path } = options
    if (taken.has(path))
      throw unsuitable(path, 'another sink of this process writes to it; expected one at most')
    taken.add(path)
    const file = new RotatingFile(options)
    try {
      await mkdir(dirname(path), { recursive: true })
      file.#number = await lastNumber(path)
      await file.#open()
    } catch (error) {
      taken.delete(path)
      await file.#handle?.close()
      throw fileError(error, `cannot open ${path}`)
    }
    file.#packer.wake()
    return file
  }

  async begin(fresh: boolean): Promise<void> {
    try {
      if (fresh) {
        this.#failed = undefined
        this.#synced = Promise.resolve()
      } else if (this.#failed) throw this.#failed.error
      if (fresh || performance.now() - this.#lookedAt >= LOOK_MS) await this.#settle()
      await this.#rotateIfOld()
      this.#dirty = true
    } catch (error) {
      throw fileError(error, `cannot write to ${this.#options.path}`)
    }
  }
  async put(lines: readonly Buffer[]): Promise<void> {
    const { bytes } = this.#options
    const sum = lines.reduce((total, { length }) => total + length, 0)
    try {
      if (bytes === 0 || this.#end + sum <= bytes) await this.#write(lines)
      else for (const some of lines) await this.#put(some)
    } catch (error) {
      throw fileError(error, `cannot write to ${this.#options.path}`)
    }
  }
  async commit(): Promise<void> {
    this.#dirty = false
    this.#synced = this.#sync(this.#synced, this.#end)
    await this.#synced
  }
  /** After the commit before, which fails this one when it fails: the system tells of a lost write once. */
  async #sync(before: Promise<void>, end: number): Promise<void> {
    try {
      await before
      if (end > this.#size) await this.#handle!.datasync()
      this.#size = end
    } catch (error) {
      this.#dirty = true
      this.#failed ??= { error: fileError(error, `cannot bring ${this.#options.path} to disk`) }
      throw this.#failed.error
    }
  }
  async close(): Promise<void> {
    await this.#packer.close()
    await this.#handle?.close()
    this.#handle = undefined
    taken.delete(this.#options.path)
  }

  async #open(): Promise<void> {
    const { path, log } = this.#options
    const found = await stat(path).catch(() => undefined)
    if (found && !found.isFile()) throw unsuitable(path, 'expected a plain file')
    const { O_RDWR, O_CREAT, O_APPEND } = constants
    const handle = await open(path, O_RDWR | O_CREAT | O_APPEND, 0o640)
    this.#handle = handle
    const { size, ino, mtimeMs } = await handle.stat()
    const whole = await wholeLines(handle, size, path)
    if (whole < size) {
      const what = `the last line has no end, as a crash leaves it`
      // With no whole line before it nothing says that the file was ours: it is not destroyed.
      if (whole === 0) {
        await handle.close()
        await rename(path, `${path}.torn`)
        log.warn({ path }, `${path}: ${what}; moved to ${path}.torn`)
        return this.#open()
      }
      log.warn({ path, bytes: size - whole }, `${path}: ${what}: ${size - whole} bytes cut off`)
      await handle.truncate(whole)
      await handle.sync()
    }
    await syncFolder(path)
    this.#inode = ino
    this.#size = whole
    this.#end = whole
    this.#dirty = false
    this.#window = this.#windowOf(whole > 0 ? mtimeMs : Date.now())
  }
  /** The file under our name is ours, and as long as we left it. */
  async #settle(): Promise<void> {
    const { path, log } = this.#options
    const now = await this.#look()
    if (now?.ino !== this.#inode) {
      await this.#synced
      if (this.#inode !== 0) log.info({ path }, `${path} was moved away: beginning it anew`)
      await this.#handle?.close()
      this.#handle = undefined
      await mkdir(dirname(path), { recursive: true })
      this.#number = Math.max(this.#number, await lastNumber(path))
      return this.#open()
    }
    if (now.size > this.#end && !this.#dirty) {
      const text = `expected ${this.#end} bytes, found ${now.size}: another process writes to it`
      throw unsuitable(path, text)
    }
    const whole = this.#dirty ? Math.min(this.#size, now.size) : now.size
    if (now.size > whole) await this.#handle!.truncate(whole)
    if (whole < this.#end) {
      await this.#synced
      this.#size = whole
      this.#end = whole
    }
    this.#dirty = false
  }
  /** At the file under our name. */
  async #look(): Promise<Stats | undefined> {
    this.#lookedAt = performance.now()
    return await stat(this.#options.path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error
      return undefined
    })
  }
  async #put(lines: Buffer): Promise<void> {
    const { bytes } = this.#options
    for (let at = 0; at < lines.length;) {
      const room = bytes === 0 ? Infinity : bytes - this.#end
      const end = linesWithin(lines, at, room)
      if (end === at && this.#end > 0) {
        await this.#rotate()
        continue
      }
      const to = end === at ? lines.indexOf(NEWLINE, at) + 1 : end // a line longer than a file may be
      await this.#write([lines.subarray(at, to)])
      at = to
    }
  }
  async #write(lines: readonly Buffer[]): Promise<void> {
    for (let rest = lines; rest.length > 0;) {
      const { bytesWritten } = await this.#handle!.writev(rest)
      this.#end += bytesWritten
      rest = behind(rest, bytesWritten)
    }
  }
  async #rotateIfOld(): Promise<void> {
    const window = this.#windowOf(Date.now())
    if (window === this.#window) return
    if (this.#end > 0) await this.#rotate()
    this.#window = window
  }
  /** On disk first: what bears a number is whole. */
  async #rotate(): Promise<void> {
    const { path } = this.#options
    await this.#synced
    await this.#handle!.datasync()
    await this.#handle!.close()
    this.#handle = undefined
    this.#inode = 0
    await rename(path, numbered(path, ++this.#number))
    await this.#open()
    this.#dirty = true
    this.#packer.wake()
  }
  #windowOf(ms: number): number {
    const { everyMs } = this.#options
    return everyMs === 0 ? 0 : Math.floor(ms / everyMs)
  }
}

const unsuitable = (path: string, text: string): SluiceError =>
  new SluiceError('SINK_UNSUITABLE', `${path}: ${text}`)

async function lastNumber(path: string): Promise<number> {
  return (await putAside(path)).at(-1)?.number ?? 0
}

/** What of `buffers` comes behind their first `bytes`. */
function behind(buffers: readonly Buffer[], bytes: number): readonly Buffer[] {
  let left = bytes
  for (const [i, buffer] of buffers.entries()) {
    if (left < buffer.length) return [buffer.subarray(left), ...buffers.slice(i + 1)]
    left -= buffer.length
  }
  return []
}

/** Where the last whole line in lines[at, at + room) ends; `at` when not one fits. */
function linesWithin(lines: Buffer, at: number, room: number): number {
  if (lines.length - at <= room) return lines.length
  if (room <= 0) return at
  const end = lines.lastIndexOf(NEWLINE, at + room - 1) + 1
  return Math.max(end, at)
}

/** How much of a file is whole lines. Throws SINK_UNSUITABLE when it does not look like ours: nothing is cut off there. */
async function wholeLines(handle: FileHandle, size: number, path: string): Promise<number> {
  if (size === 0) return 0
  const buf = Buffer.alloc(Math.min(size, LOOK_BYTES))
  await handle.read(buf, 0, 1, 0)
  if (buf[0] !== BRACE)
    throw unsuitable(path, 'expected JSON lines, found a file that begins otherwise')
  for (let end = size; end > 0;) {
    const from = Math.max(0, end - LOOK_BYTES)
    const { bytesRead } = await handle.read(buf, 0, end - from, from)
    const found = buf.subarray(0, bytesRead).lastIndexOf(NEWLINE)
    if (found >= 0) return from + found + 1
    end = from
  }
  return 0
}

/** So that a new name survives a power loss. */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(dirname(path), 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
