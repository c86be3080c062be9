/** The retained log on disk: what was written is read, from any place; what is torn is mended, what is damaged is named. */
import {
  copyFileSync,
  cpSync,
  existsSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { SluiceError } from '../../src/errors.ts'
import { GtidSet } from '../../src/gtid.ts'
import { Segments } from '../../src/retained/log.ts'
import { collect, describeTransaction, SERVER, type Described } from '../sources/fixture.ts'
import { Folder, make, never, view, type Made } from './made.ts'

let plain: Made
let gtids: Made
beforeAll(async () => {
  plain = await make(60, false)
  gtids = await make(60, true)
})

/** Changes with their transactions: what does not depend on how a transaction was cut into parts. */
const flat = (all: readonly Described[]): string[] =>
  all.flatMap(({ gtid, place, changes }) => changes.map((change) => `${gtid} ${place} ${change}`))

describe.each([
  ['by place', () => plain],
  ['by GTID', () => gtids],
] as const)('%s', (_, made) => {
  test('what was written is read, byte for byte, from every place, over segments', async () => {
    using folder = new Folder()
    await folder.fill(made(), { segmentBytes: 5_000 }, 6)
    const { described, places } = made()
    expect(folder.look().list.length).toBeGreaterThan(3)
    expect(folder.look().list.every(({ gap }, i) => (gap === '') === i > 0)).toBe(true)
    for (let i = 0; i < described.length; i++) {
      const rest = await folder.read(places[i]!)
      expect(rest).toEqual(described.slice(i))
    }
    expect(await folder.read(places.at(-1)!)).toEqual([])
    expect(folder.look().covers(places.at(-1)!)).toBe(false)
  })
  test('a place within a part is found', async () => {
    using folder = new Folder()
    await folder.fill(made(), { segmentBytes: 5_000 }, 6)
    const { described, places } = made()
    const i = described.findIndex(({ first, state }) => first > 0 && state === 'open')
    const whole = flat(described.slice(i))
    const ordinal = Number(described[i]!.changes[3]!.split(' ')[0])
    const rest = await folder.read({ ...places[i]!, skip: ordinal })
    expect(rest[0]!.first).toBe(ordinal)
    expect(flat(rest)).toEqual(whole.slice(3))
  })
  test('what is given again is not kept twice, and the log goes on after a restart', async () => {
    using folder = new Folder()
    await folder.fill({ ...made(), all: made().all.slice(0, 40) })
    const writer = folder.open()
    expect(writer.end).toEqual(made().places[40])
    await writer.begin(made().places[30]!, 'UTC')
    for (const tx of made().all.slice(30)) await writer.append(tx)
    await writer.close()
    expect(await folder.read(made().start)).toEqual(made().described)
    expect(folder.look().list.map(({ gap }) => gap)).toEqual(['the log begins here', ''])
  })
})

test('a GTID set of any place is enough', async () => {
  using folder = new Folder()
  await folder.fill(gtids, { segmentBytes: 5_000 }, 6)
  const from = { ...gtids.start, file: '', gtids: GtidSet.parse(`${SERVER}:1-20:30`) }
  const rest = await folder.read(from)
  const wanted = gtids.described.filter(({ gtid }) => {
    const number = Number(gtid.split(':')[1] ?? 0)
    return number > 20 && number !== 30
  })
  expect(flat(rest)).toEqual(flat(wanted))
})

test('another filter than the one it was written under leaves out what is not wanted now', async () => {
  using folder = new Folder()
  await folder.fill(plain)
  const filter = (database: string, table: string): boolean => database === 'app' && table === 't1'
  const read = folder.look().read(plain.start, { ...view, filter, filterText: 'less' }, never)
  const rows = flat(await collect(read)).filter((change) => / insert /.test(change))
  expect(rows).toEqual(flat(plain.described).filter((change) => / insert app\.t1 /.test(change)))
})

/** A log of several frames, and where its last frame begins. */
async function framed(
  folder: Folder,
  count = plain.all.length,
): Promise<{ path: string; last: number; frames: number[] }> {
  await folder.fill({ ...plain, all: plain.all.slice(0, count) }, {}, 12)
  const { path, frames, tableFrames } = folder.look().list[0]!
  const at = frames.map((frame) => frame.at)
  expect(at.length).toBeGreaterThan(3)
  expect(tableFrames.length).toBeGreaterThan(0)
  return { path, last: at.at(-1)!, frames: [...at, ...tableFrames].sort((a, b) => a - b) }
}

test('a tail that is torn at any byte is cut off, and what is missing is written again', async () => {
  using folder = new Folder()
  const { path, last } = await framed(folder, 49)
  const whole = readFileSync(path)
  expect(whole.length - last).toBeLessThan(2000)
  const copy = join(folder.dir, 'copy')
  copyFileSync(path, copy)
  unlinkSync(path.replace('.seg', '.idx'))
  const end = folder.look().list[0]!.frames.at(-1)!
  const before = plain.places.findIndex(
    (p) => p.offset === end.offset && p.file === end.file && p.skip === end.skip,
  )
  let warnings = 0
  const log = { warn: () => warnings++ }
  for (let size = last; size < whole.length; size++) {
    copyFileSync(copy, path)
    truncateSync(path, size)
    rmSync(path.replace('.seg', '.idx'), { force: true })
    const segments = Segments.repair(folder.dir, log)
    expect(segments.last!.end).toEqual(plain.places[before])
    expect(readFileSync(path).length).toBe(last)
    if (size === whole.length - 1) {
      const writer = folder.open()
      await writer.begin(writer.end!, 'UTC')
      for (const tx of plain.all.slice(before)) await writer.append(tx)
      await writer.close()
      expect(await folder.read(plain.start)).toEqual(plain.described)
    }
  }
  expect(warnings).toBe(whole.length - last - 1)
})

test('after a crash only what came since the last note is looked through', async () => {
  using folder = new Folder()
  using copy = new Folder()
  const writer = folder.open({ segmentBytes: 2 ** 17 })
  await writer.begin(plain.start, 'UTC')
  const index = join(folder.dir, '00000001.idx')
  let taken = 0
  while (!existsSync(index)) {
    if (taken < plain.all.length - 5) await writer.append(plain.all[taken++]!)
    await writer.flush()
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  for (const tx of plain.all.slice(taken)) {
    await writer.append(tx)
    await writer.flush()
  }
  expect(writer.segments.list.length).toBe(1)
  cpSync(folder.dir, copy.dir, { recursive: true })
  const end = writer.end
  await writer.close()
  expect(copy.look().last!.end).toEqual(end)
  expect(await copy.read(plain.start)).toEqual(plain.described)
  // what the note has is believed, as that of a segment that is whole: a reader finds what is wrong in it
  const path = join(copy.dir, '00000001.seg')
  const bytes = readFileSync(path)
  const [, second] = copy.look().list[0]!.frames
  bytes[second!.at + 30]! ^= 1
  bytes[bytes.length - 1]! ^= 1 // the last frame
  writeFileSync(path, bytes)
  const mended = Segments.repair(copy.dir, { warn: (_, text) => copy.warnings.push(text) })
  expect(copy.warnings).toHaveLength(1)
  expect(mended.last!.frames.length).toBe(writer.segments.list[0]!.frames.length - 1)
  await expect(copy.read(plain.start)).rejects.toThrow(`byte ${second!.at}: expected the CRC32`)
})

test('a flipped bit is found and named, and nothing behind it is given out', async () => {
  using folder = new Folder()
  const { path, frames } = await framed(folder)
  const whole = readFileSync(path)
  let seed = 12_345
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0
    return Math.floor((seed / 2 ** 32) * below)
  }
  const first = frames[0]! // what is before, the head, the index has too
  for (let i = 0; i < 120; i++) {
    const at = first + random(whole.length - first)
    const frame = frames.findLast((start) => start <= at)!
    const bytes = Buffer.from(whole)
    bytes[at]! ^= 1 << random(8)
    writeFileSync(path, bytes)
    const seen: Described[] = []
    const error = await read(folder, seen).catch((e: unknown) => e)
    expect(error).toBeInstanceOf(SluiceError)
    expect(error).toMatchObject({ code: 'LOG_DAMAGED' })
    expect((error as Error).message).toContain(`${path}, byte ${frame}: `)
    expect(seen).toEqual(plain.described.slice(0, seen.length))
    expect(seen.length).toBeLessThan(plain.described.length)
  }
})
async function read(folder: Folder, seen: Described[]): Promise<void> {
  for await (const tx of folder.look().read(plain.start, view, never)) {
    seen.push(describeTransaction(tx))
    tx.slab?.release()
  }
}

test('damage in a segment without its index ends the log there; the next one says that there is a gap', async () => {
  using folder = new Folder()
  const { path, frames } = await framed(folder)
  unlinkSync(path.replace('.seg', '.idx'))
  const bytes = readFileSync(path)
  const at = frames[2]! + 30
  bytes[at]! ^= 4
  writeFileSync(path, bytes)
  const writer = folder.open()
  expect(folder.warnings[0]).toContain(`${path}, byte ${frames[2]}: `)
  const end = writer.end!
  const i = plain.places.findIndex((p) => p.file === end.file && p.offset === end.offset)
  // read again from there, the log is whole, though not across the damage
  await writer.begin(end, 'UTC')
  for (const tx of plain.all.slice(i)) await writer.append(tx)
  await writer.close()
  const seen: Described[] = []
  await expect(read(folder, seen)).rejects.toMatchObject({ code: 'LOG_DAMAGED' })
  expect(seen).toEqual(plain.described.slice(0, i))
  expect(await folder.read(end)).toEqual(plain.described.slice(i))
})

test('a segment whose head is damaged is named and kept aside, not taken for one that was cut short', async () => {
  using folder = new Folder()
  const { path, frames } = await framed(folder)
  const index = path.replace('.seg', '.idx')
  const whole = readFileSync(path)
  for (const at of [0, 4, 5, 6, 8, 12, 16, 20, 24, frames[0]! - 1]) {
    rmSync(index, { force: true })
    const bytes = Buffer.from(whole)
    bytes[at]! ^= 1
    writeFileSync(path, bytes)
    const looked = folder.look()
    expect(looked.list.map((segment) => segment.path)).not.toContain(path)
    expect(looked.unreadable.map(({ code, message }) => `${code} ${message}`)).toEqual([
      expect.stringContaining(`LOG_DAMAGED ${path}, byte 0: the segment's head`),
    ])
    folder.warnings.length = 0
    Segments.repair(folder.dir, { warn: (_, text) => folder.warnings.push(text) })
    expect(folder.warnings).toEqual([expect.stringContaining(`moved to ${path}.damaged`)])
    expect(readFileSync(`${path}.damaged`).equals(bytes)).toBe(true)
  }
  // cut short within the head: nothing was in it
  writeFileSync(path, whole.subarray(0, frames[0]! - 1))
  Segments.repair(folder.dir, { warn: () => {} })
  expect(existsSync(path)).toBe(false)
})

test('the oldest segments go when there is too much, and what they had is not covered any more', async () => {
  using folder = new Folder()
  await folder.fill(plain, { segmentBytes: 3_000, maxBytes: 9_000 }, 6)
  const segments = folder.look()
  expect(segments.bytes).toBeLessThan(20_000)
  expect(segments.list[0]!.number).toBeGreaterThan(1)
  expect(segments.covers(plain.start)).toBe(false)
  const { from } = segments.list[0]!
  const i = plain.places.findIndex(
    (p) => p.file === from.file && p.offset === from.offset && p.skip === from.skip,
  )
  expect(await folder.read(from)).toEqual(plain.described.slice(i))
  // by age all but the one at hand go
  const writer = folder.open({ maxAgeMs: 1000 })
  expect(writer.segments.list).toEqual([])
  await writer.close()
})

test('what waits to be written is cut into segments, neither one for all nor one for each', async () => {
  using folder = new Folder()
  const writer = folder.open({ segmentBytes: 20_000 })
  const { start, all, described } = plain
  await writer.begin(start, 'UTC')
  for (const tx of all) void writer.append(tx)
  await writer.close()
  expect(await folder.read(start)).toEqual(described)
  const { length } = folder.look().list
  expect(length).toBeGreaterThan(3)
  expect(length).toBeLessThan(all.length / 5)
})

test('where reading went on elsewhere, the log says so and takes nobody across', async () => {
  using folder = new Folder()
  await folder.fill({ ...plain, all: plain.all.slice(0, 20) })
  const writer = folder.open()
  await writer.begin(plain.places[25]!, 'UTC')
  for (const tx of plain.all.slice(25)) await writer.append(tx)
  await writer.close()
  expect(folder.look().list[1]!.gap).toBe('reading went on elsewhere than the log ends')
  expect(await folder.read(plain.start)).toEqual(plain.described.slice(0, 20))
  expect(folder.look().covers(plain.places[20]!)).toBe(false)
  expect(await folder.read(plain.places[25]!)).toEqual(plain.described.slice(25))
})

test('a disk that takes nothing stops the log, loudly, and nothing is left out once it does', async () => {
  using folder = new Folder()
  const path = join(folder.dir, '00000001.seg')
  const writer = folder.open()
  symlinkSync('/dev/full', path)
  await writer.begin(plain.start, 'UTC')
  let taken = 0
  for (const tx of plain.all.slice(0, 10)) {
    await writer.append(tx)
    taken++
  }
  await expect.poll(() => writer.error?.code).toBe('LOG_WRITE_FAILED')
  expect(folder.failures).toBe(1)
  expect(writer.error!.message).toMatch(/the change log cannot be written: ENOSPC/)
  expect(() => writer.append(plain.all[taken]!)).toThrow(/ENOSPC/)
  await expect(writer.begin(plain.places[taken]!, 'UTC')).rejects.toMatchObject({
    code: 'LOG_WRITE_FAILED',
  })
  rmSync(path)
  await writer.begin(plain.places[taken]!, 'UTC')
  for (const tx of plain.all.slice(taken)) await writer.append(tx)
  await writer.close()
  expect(await folder.read(plain.start)).toEqual(plain.described)
})

test('a reader at the end gets what is written next, and ends with the writer', async () => {
  using folder = new Folder()
  const writer = folder.open({ segmentBytes: 20_000 })
  await writer.begin(gtids.start, 'UTC')
  const half = gtids.all.length >> 1
  for (const tx of gtids.all.slice(0, half)) await writer.append(tx)
  await expect.poll(() => writer.segments.active?.frames.length).toBe(1)
  const seen: Described[] = []
  const reading = (async () => {
    for await (const tx of writer.segments.read(gtids.start, view, never)) {
      seen.push(describeTransaction(tx))
      tx.slab?.release()
    }
  })()
  await expect.poll(() => seen.length).toBe(half)
  for (const tx of gtids.all.slice(half)) await writer.append(tx)
  await expect.poll(() => seen.length).toBe(gtids.all.length)
  await writer.close()
  await reading
  expect(seen).toEqual(gtids.described)
})
