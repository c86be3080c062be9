/** The file sink in the conformance suite: all of its files are read as one log of changes. */
import { execFileSync, spawnSync } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { putAside } from '../../../src/sinks/file/packer.ts'
import { conformance, type Destination, type Place } from '../conformance.ts'
import { seenOf, type Seen } from './seen.ts'

/** Reads what was added to a file since the last time. */
class Tail {
  #at = 0
  #rest = Buffer.alloc(0)
  lines(file: string): string[] {
    const fd = openSync(file, 'r')
    const parts = [this.#rest]
    for (;;) {
      const chunk = Buffer.alloc(1 << 20)
      const length = readSync(fd, chunk, 0, chunk.length, this.#at)
      if (length === 0) break
      this.#at += length
      parts.push(chunk.subarray(0, length))
    }
    closeSync(fd)
    const all = Buffer.concat(parts)
    const end = all.lastIndexOf(0x0a) + 1
    this.#rest = all.subarray(end)
    return all.subarray(0, end).toString().split('\n').filter(Boolean)
  }
}

class Files implements Destination {
  readonly promise = 'append'
  readonly refused = 'x'.repeat(1_500_000)
  readonly #seen: Seen[] = []
  readonly #tails = new Map<number, Tail>()
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
  /** A file keeps its number when it is put aside: the one that is written to has the next. */
  async changes(place: Place): Promise<readonly Seen[]> {
    const path = this.#path(place)
    const aside = await putAside(path)
    const files = [...aside.map(({ file }) => file), path]
    for (const [i, file] of files.entries()) {
      const number = i + 1
      let tail = this.#tails.get(number)
      if (!tail) this.#tails.set(number, (tail = new Tail()))
      for (const line of tail.lines(file)) {
        const seen = seenOf(line, place.tables)
        if (seen) this.#seen.push(seen)
      }
    }
    return this.#seen
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
