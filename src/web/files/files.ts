/**
 * The instance files, read and written for the API. A file is written whole or not at all: beside it first, synced, then renamed.
 * Only in the instances folder, under a destination's name, and never through a link. Who writes names the content that he has
 * seen (its tag); if the file has another one by now, nothing is written. Secrets do not leave here. Starts nothing: the fleet
 * follows the folder.
 */
import { createHash, randomBytes } from 'node:crypto'
import {
  accessSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fsyncSync,
  linkSync,
  lstatSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
  type Stats,
} from 'node:fs'
import { basename, join } from 'node:path'
import {
  instanceFiles,
  isDestination,
  parseInstance,
  type InstanceConfig,
} from '../../config/config.ts'
import { SluiceError } from '../../errors.ts'
import { notFound, notNow, Refused, type Fault } from '../refused.ts'
import { hide, isSecret, misplaced, reveal } from './hidden.ts'

/** What was seen of a file. "absent": that there is none; "any": whatever it holds. */
export type Seen = { readonly tag: string } | 'absent' | 'any'
export interface InstanceFile {
  readonly file: string // its name in the folder
  readonly yaml: string // without secrets
  readonly hidden: number // so many secrets
  readonly tag: string // of the content, with its secrets
  readonly writable: boolean
}
export interface Written {
  readonly before: string | null // tag; null: there was none
  readonly after: string | null // null: there is none any more
}
/** A text that was looked through. */
export interface Checked {
  readonly text: string // with its secrets
  readonly config: InstanceConfig | undefined // undefined: there are faults
  readonly faults: readonly Fault[]
}
interface Found {
  readonly path: string
  readonly bytes: Buffer
  readonly stat: Stats
}
const NEW_MODE = 0o600

export class InstanceFiles {
  readonly #folder: string
  readonly #key = randomBytes(32)

  constructor(folder: string) {
    this.#folder = folder
  }
  /** Throws Refused, CONFIG_UNREADABLE. */
  read(destination: string): InstanceFile {
    const found = this.#find(destination)
    if (!found) throw notFound(`there is no instance file ${destination}`)
    const { text, secrets } = hide(found.bytes.toString('utf8'), this.#key)
    return {
      file: basename(found.path),
      yaml: text,
      hidden: secrets.size,
      tag: tagOf(found.bytes),
      writable: this.#writable() && !found.stat.isSymbolicLink(),
    }
  }
  /** The text with the secrets of the file that its marks stand for, and everything that is wrong with it. */
  check(destination: string, yaml: string): Checked {
    const now = this.#find(destination)
    const { secrets } = hide(now?.bytes.toString('utf8') ?? '', this.#key)
    const { text, unknown } = reveal(yaml, secrets)
    const whole = hide(text, this.#key)
    const faults: Fault[] = [
      ...unknown.map(({ mark, offset }) =>
        faultAt(
          yaml,
          offset,
          `expected the value itself: the file has no secret any more that ${mark} stands for (marks hold until the server ends)`,
        ),
      ),
      ...misplaced(yaml, secrets, whole).map((offset) =>
        faultAt(yaml, offset, 'expected a mark only where a secret stands, and nothing beside it'),
      ),
      ...(secrets.size > 0 ? whole.exposed : []).map((offset) =>
        faultAt(text, offset, 'expected no alias of a secret where it would be shown'),
      ),
    ]
    if (text.trim() === '')
      faults.push(
        faultAt('', 0, 'expected at least one key: an empty file is one that is being written'),
      )
    const path = join(this.#folder, `${destination}.yaml`)
    // What is wrong with a text may repeat it: only one in which every secret stands in its place is looked at with them.
    const safe = faults.length === 0 && !whole.broken
    const { config, problems } = parseInstance(path, safe ? text : yaml)
    for (const { line, column, key, message } of problems) {
      const shown = isSecret(key)
        ? message.replace(/, found .*/s, ', found something else')
        : message
      faults.push({ line, column, key, message: shown })
    }
    faults.sort((x, y) => x.line - y.line || x.column - y.column)
    return { text, config: faults.length > 0 ? undefined : config, faults }
  }
  /** Throws Refused: 412 when the file is not as `seen`, 422 with all that is wrong, 409 when it cannot be written. */
  write(destination: string, yaml: string, seen: Seen): Written {
    const now = this.#find(destination)
    const before = expected(destination, now, seen)
    const { text, faults } = this.check(destination, yaml)
    if (faults.length > 0) {
      const many = faults.length === 1 ? 'one problem' : `${faults.length} problems`
      const list = faults.map((f) => `line ${f.line}: ${f.key ? `${f.key}: ` : ''}${f.message}`)
      const message = `nothing was written: ${destination} has ${many}: ${list.join('; ')}`
      throw new Refused(422, 'CONFIG_INVALID', message, faults)
    }
    this.#replace(now, now?.path ?? join(this.#folder, `${destination}.yaml`), Buffer.from(text))
    return { before, after: tagOf(Buffer.from(text)) }
  }
  /** Throws Refused, as write does. */
  remove(destination: string, seen: Seen): Written {
    const now = this.#find(destination)
    if (!now) throw notFound(`there is no instance file ${destination}`)
    const before = expected(destination, now, seen)
    try {
      rmSync(now.path)
      syncFolder(this.#folder)
    } catch (error) {
      throw unwritable(this.#folder, error)
    }
    return { before, after: null }
  }

  #find(destination: string): Found | undefined {
    if (!isDestination(destination)) {
      const form = 'up to 100 letters, digits, "_", "-" and ".", the first none of the last two'
      throw new Refused(400, 'REQUEST_INVALID', `expected the name of an instance: ${form}`)
    }
    const path = instanceFiles(this.#folder).get(destination)
    if (path === undefined) return undefined
    try {
      return { path, bytes: readFileSync(path), stat: lstatSync(path) }
    } catch (cause) {
      const text = `${path} cannot be read: ${(cause as Error).message}`
      throw new SluiceError('CONFIG_UNREADABLE', text, { cause })
    }
  }
  #writable(): boolean {
    try {
      accessSync(this.#folder, constants.W_OK)
      return true
    } catch {
      return false
    }
  }
  #replace(now: Found | undefined, path: string, bytes: Buffer): void {
    if (now?.stat.isSymbolicLink()) {
      throw notNow(
        `${basename(path)} is a link to a file elsewhere; edit that one, where it is kept`,
      )
    }
    const draft = join(this.#folder, `.${basename(path)}.${randomBytes(6).toString('hex')}`)
    try {
      writeSynced(draft, bytes, now?.stat)
      if (now) renameSync(draft, path)
      else linkSync(draft, path) // fails where there is one by now
      syncFolder(this.#folder)
    } catch (error) {
      throw unwritable(this.#folder, error)
    } finally {
      rmSync(draft, { force: true })
    }
  }
}

function faultAt(text: string, offset: number, message: string): Fault {
  const before = text.slice(0, offset).split('\n')
  return { line: before.length, column: before.at(-1)!.length + 1, key: '', message }
}
const tagOf = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')
/** The tag of what is there. Throws Refused when that is not what was seen. */
function expected(destination: string, now: Found | undefined, seen: Seen): string | null {
  const tag = now ? tagOf(now.bytes) : null
  const fits = seen === 'any' ? now !== undefined : tag === (seen === 'absent' ? null : seen.tag)
  if (fits) return tag
  const what =
    now === undefined
      ? 'is gone'
      : seen === 'absent'
        ? 'is there already'
        : 'was changed since it was read'
  throw new Refused(412, 'NOT_NOW', `nothing was done: the file of ${destination} ${what}`)
}
function writeSynced(file: string, bytes: Buffer, like: Stats | undefined): void {
  const fd = openSync(file, 'wx', NEW_MODE)
  try {
    if (like) {
      fchmodSync(fd, like.mode & 0o7777)
      if (process.getuid?.() === 0) fchownSync(fd, like.uid, like.gid)
    }
    for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at)
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
function syncFolder(folder: string): void {
  const fd = openSync(folder, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
function unwritable(folder: string, error: unknown): Refused {
  const { code, message } = error as NodeJS.ErrnoException
  if (code === 'EEXIST')
    return new Refused(412, 'NOT_NOW', 'nothing was done: the file is there already')
  const closed = code === 'EACCES' || code === 'EPERM' || code === 'EROFS'
  const text = closed
    ? `the instances folder ${folder} is read-only for the server: edit the files where they are kept`
    : `the instances folder ${folder} cannot be written`
  return notNow(`${text} (${message})`)
}
