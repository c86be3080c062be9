/** The file sink in the conformance suite: all of its files are read as one log of changes. */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { putAside } from '../../../src/sinks/file/packer.ts'
import { conformance, type Destination, type Place } from '../conformance.ts'
import { seenOf, type Seen } from './seen.ts'

/** What is in one file; parsed again when it has changed (a failed write is taken back: it may also shrink). */
class Content {
  #stamp = ''
  #seen: readonly Seen[] = []
  read(file: string, tables: Place['tables']): readonly Seen[] {
    const found = statSync(file, { throwIfNoEntry: false })
    if (!found) return [] // just put aside
    const { size, mtimeMs, ino } = found
    const stamp = `${ino} ${size} ${mtimeMs}`
    if (stamp === this.#stamp) return this.#seen
    const text = readFileSync(file, 'utf8')
    // a line without its end is not there
    const lines = text.slice(0, text.lastIndexOf('\n') + 1).split('\n')
    this.#stamp = stamp
    return (this.#seen = lines.flatMap((line) => (line && seenOf(line, tables)) || []))
  }
}

class Files implements Destination {
  readonly promise = 'append'
  readonly refused = 'x'.repeat(1_500_000)
  readonly #contents: Content[] = []
  #mounted = ''

  #path({ dir }: Place): string {
    return join(dir, 'out', 'changes.ndjson')
  }
  async prepare({ dir }: Place): Promise<void> {
    const folder = join(dir, 'out')
    mkdirSync(folder)
    if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=300m', 'none', folder]).status === 0)
      this.#mounted = folder
  }
  sink(place: Place): object {
    return {
      type: 'file',
      path: this.#path(place),
      lineBytesMax: '1MiB',
      rotate: { bytes: '5MiB' },
    }
  }
  /** The one that is written to has the next number. */
  async changes(place: Place): Promise<readonly Seen[]> {
    const path = this.#path(place)
    const aside = await putAside(path)
    return [...aside.map(({ file }) => file), path].flatMap((file, i) => {
      const content = (this.#contents[i] ??= new Content())
      return content.read(file, place.tables)
    })
  }
  async fill({ dir }: Place): Promise<AsyncDisposable> {
    const filler = join(dir, 'out', 'filler')
    try {
      writeFileSync(filler, Buffer.alloc(300 << 20))
    } catch {
      // as much as there is room for
    }
    return { [Symbol.asyncDispose]: async () => rmSync(filler) }
  }
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#mounted) execFileSync('umount', ['-l', this.#mounted])
  }
}

conformance('file', async () => new Files())
