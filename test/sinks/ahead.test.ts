/**
 * Writes of the file sink that overlap: on a real file, which is moved away and put aside meanwhile; and, for a sync cannot be made
 * to fail at will, on a place that does.
 */
import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { pino } from 'pino'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Ahead } from '../../src/sinks/file/ahead.ts'
import type { Lines } from '../../src/sinks/file/lines.ts'
import { RotatingFile } from '../../src/sinks/file/rotating.ts'

const { signal } = new AbortController()
/** Line `i`, of some hundred bytes to some thousand. */
const line = (i: number): string => `{"n":${i},"x":"${'x'.repeat((i * 7919) % 3000)}"}\n`

/** Begins the writes of `lines[k]` at once; what became of each. */
async function writeAll(ahead: Ahead, lines: readonly (readonly number[])[]): Promise<boolean[]> {
  const all = lines.map((some) =>
    ahead.run(signal, async (write) => {
      for (const i of some) {
        write.out.ascii(line(i))
        if (write.isFull) await write.full()
      }
    }),
  )
  return (await Promise.allSettled(all)).map(({ status }) => status === 'fulfilled')
}
const writes = (count: number, each: number, from = 0): number[][] =>
  Array.from({ length: count }, (_, k) =>
    Array.from({ length: each }, (_unused, i) => from + k * each + i),
  )

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'sluice-ahead-'))
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

const open = (bytes: number): Promise<RotatingFile> =>
  RotatingFile.open({
    path: join(dir, 'out'),
    bytes,
    everyMs: 0,
    gzip: false,
    keep: 0,
    log: pino({ level: 'silent' }),
  })
/** The lines of all files, in the order in which they were written. */
function written(...names: string[]): string {
  const aside = readdirSync(dir).filter((name) => /^out\.\d+$/.test(name))
  return [...names, ...aside.sort(), 'out'].map((n) => readFileSync(join(dir, n), 'utf8')).join('')
}

test.each([0, 100_000, 2_000_000])(
  'every line once and in order, rotated at %d bytes',
  async (bytes) => {
    const file = await open(bytes)
    const ahead = new Ahead(file)
    const all = writes(12, 700)
    for (let k = 0; k < 12; k += 3)
      expect(await writeAll(ahead, all.slice(k, k + 3))).toEqual([true, true, true])
    await file.close()
    expect(written()).toBe(all.flat().map(line).join(''))
    if (bytes > 0) expect(readdirSync(dir).length).toBeGreaterThan(2)
  },
)

test('a file that is moved away while writes overlap is gone on with in a new one', async () => {
  const file = await open(0)
  const ahead = new Ahead(file)
  const all = writes(60, 300)
  const done = writeAll(ahead, all)
  await sleep(30)
  renameSync(join(dir, 'out'), join(dir, 'moved'))
  expect(await done).toEqual(all.map(() => true))
  // The last ones may have been under way too soon after it.
  const last = writes(1, 3, 100_000)
  expect(await writeAll(ahead, last)).toEqual([true])
  await file.close()
  expect(written('moved')).toBe([...all, ...last].flat().map(line).join(''))
  expect(readFileSync(join(dir, 'out'), 'utf8')).toContain(line(100_002))
})

/** Holds what was put; its commits take a moment, and fail when they are told to. */
class Failing implements Lines {
  durable = ''
  #put = ''
  #dirty = false
  #broken = false
  #last = Promise.resolve()
  overlapped = 0
  #committing = 0
  readonly #fails: Set<number>
  #commits = 0
  constructor(fails: readonly number[]) {
    this.#fails = new Set(fails)
  }
  async begin(fresh: boolean): Promise<void> {
    if (this.#committing > 0) this.overlapped++
    await sleep(0)
    if (!fresh && this.#broken) throw new Error('the one before failed')
    if (fresh) {
      if (this.#dirty || this.#broken) this.#put = this.durable
      this.#broken = false
      this.#last = Promise.resolve()
    }
    this.#dirty = true
  }
  put(lines: readonly Buffer[]): Promise<void> {
    this.#put += Buffer.concat(lines).toString()
    return Promise.resolve()
  }
  async commit(): Promise<void> {
    this.#dirty = false
    const all = this.#put
    const fails = this.#fails.has(this.#commits++)
    const before = this.#last
    this.#committing++
    this.#last = (async () => {
      try {
        await before
        await sleep(1)
        if (fails) throw new Error('EIO')
        this.durable = all
      } catch (error) {
        this.#broken = true
        throw error
      } finally {
        this.#committing--
      }
    })()
    await this.#last
  }
  close(): Promise<void> {
    return Promise.resolve()
  }
}

test('what is behind a sync that failed is not confirmed, and written again in order', async () => {
  let overlapped = 0
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(fc.nat(30), { maxLength: 8 }),
      fc.integer({ min: 1, max: 5 }),
      async (fails, atOnce) => {
        const place = new Failing(fails)
        const ahead = new Ahead(place)
        const all = writes(12, 3)
        // As the runner: the next ones are begun beside, and after a failure everything from there on comes again.
        for (let k = 0; k < all.length;) {
          const done = await writeAll(ahead, all.slice(k, k + atOnce))
          const confirmed = done.indexOf(false) < 0 ? done.length : done.indexOf(false)
          expect(done.slice(confirmed)).not.toContain(true)
          k += confirmed
          expect(place.durable).toBe(all.slice(0, k).flat().map(line).join(''))
        }
        overlapped += place.overlapped
      },
    ),
    { numRuns: 60 },
  )
  expect(overlapped).toBeGreaterThan(0)
})
