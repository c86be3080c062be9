/**
 * kill -9 of a process that writes the log, at random instants: what is there afterwards is whole and ends at a frame, and the
 * next process goes on right there. SLUICE_LONG=1: 100 kills.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { Segments } from '../../src/retained/log.ts'
import { fact, Random, scaled, seed, TEST_MS } from '../e2e/load.ts'
import { Folder, make } from './made.ts'

const COUNT = 300
const kills = scaled(5, 100)

test(
  `a writer killed ${kills} times`,
  async () => {
    const made = await make(COUNT, true)
    const random = new Random(seed)
    let folder = new Folder()
    let [torn, segments, before] = [0, 0, 0]
    try {
      for (let i = 0; i < kills; i++) {
        const done = await killed(folder.dir, random.int(1, 900))
        const warned = folder.warnings.length
        const found = Segments.repair(folder.dir, { warn: (_, text) => folder.warnings.push(text) })
        torn += folder.warnings.length - warned
        segments += found.list.length
        const end = found.last?.end ?? made.start
        const k = made.places.findIndex(
          (p) => p.offset === end.offset && p.file === end.file && p.skip === end.skip,
        )
        expect(k).toBeGreaterThanOrEqual(before)
        expect(found.list.slice(1).every(({ gap }) => gap === '')).toBe(true)
        expect(await folder.read(made.start)).toEqual(made.described.slice(0, k))
        before = k
        if (!done) continue
        expect(k).toBe(made.all.length)
        folder[Symbol.dispose]()
        folder = new Folder()
        before = 0
      }
    } finally {
      folder[Symbol.dispose]()
    }
    expect(segments).toBeGreaterThan(0)
    fact(
      `change log, its writer killed ${kills} times (seed ${seed}): ${torn} torn tails, nothing lost`,
    )
  },
  TEST_MS,
)

/** Whether it was done before it was killed. */
async function killed(dir: string, afterMs: number): Promise<boolean> {
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, 'process.ts'), dir, `${COUNT}`],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  let said = ''
  const ready = new Promise<void>((resolve) => {
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      said += text
      resolve()
    })
  })
  const closed = once(child, 'close')
  await Promise.race([ready, closed])
  await Promise.race([sleep(afterMs), closed])
  child.kill('SIGKILL')
  await closed
  return said.includes('done')
}
