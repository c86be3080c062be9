/**
 * The suite that every sink passes against its real server, by what it promises. A sink's file is an adapter
 * (conformance/NAME.sink.test.ts): how it is configured, how its destination is read back, filled, and made to refuse a row.
 * The cases share one database, one Sluice and one destination, in this order; each ends with the destination equal to
 * SELECT on the source. A destination that keeps changes instead of rows is applied, one change after the other, and must
 * have every change once at least, in order per key.
 */
import { cpSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, onTestFailed, test } from 'vitest'
import { seed } from '../e2e/load.ts'
import { sharedMysql, versions, type MysqlServer } from '../support/mysql.ts'
import type { SluiceProcess } from '../support/sluice.ts'
import { Scene, SINK, type Destination } from './conformance/scene.ts'
import { disorder, distinct } from './conformance/seen.ts'
import { randomTuples, typeTables } from './conformance/tables.ts'

export type { Destination, Place } from './conformance/scene.ts'

const REFUSED = 'picky/13'
/** Seconds are enough; a machine that many share may need longer. */
const CASE_MS = 240_000

export function conformance(name: string, open: () => Promise<Destination>): void {
  describe(`conformance of ${name}`, () => {
    let mysql: MysqlServer
    let destination: Destination
    let scene: Scene
    let without: string[] = []
    const inStep = (): Promise<void> => scene.inStep(without)
    beforeAll(async () => {
      mysql = await sharedMysql(versions[0]!)
      destination = await open()
      scene = await Scene.open(mysql, destination, seed)
    })
    afterAll(async () => {
      await scene?.[Symbol.asyncDispose]()
      await mysql?.[Symbol.asyncDispose]()
    })
    const state = (): boolean => destination.rows !== undefined
    let broken = false
    const step = (title: string, body: () => Promise<void>): void => {
      test(
        title,
        async () => {
          if (broken) throw new Error('not tried: a case before this one failed')
          onTestFailed(() => {
            if (!broken) console.error(`SLUICE_SEED=${seed}\n${scene?.log.slice(-12).join('\n')}`)
            broken = true
          })
          await body()
          await inStep()
        },
        CASE_MS,
      )
    }

    step('every column type has its exact value', () => everyType(scene))
    step('order per key, updates of the key', () => order(scene))
    step('a row that is refused is put aside, the others arrive', async () => {
      if (destination.refused === undefined) return
      await refuse(scene, destination.refused)
      without = [REFUSED]
    })
    step('down: everything arrives when it is back', () => down(scene))
    step('slow: everything arrives, and memory stays flat', () => slow(scene))
    step('full: everything arrives when there is room', () => full(scene))
    step('shutdown in the middle of a batch', () => shutdown(scene))
    step('kill -9 between write and ack', () => killed(scene))
    step('a range that was written already is written again', () => replay(scene, inStep))
    step('two writers, one of them stale', async () => {
      if (state()) await twoWriters(scene)
    })
    test('in the end: nothing lost, nothing out of order', async () => {
      if (!destination.changes) return
      const changes = await destination.changes(scene.place)
      expect(disorder(changes).slice(0, 10)).toEqual([])
      expect(distinct(changes)).toBe(scene.written - without.length)
      if (destination.promise === 'transactional') {
        // of a change with two halves (an update of the key), each once
        const once = new Set(changes.map(({ id, op }) => `${id} ${op}`))
        expect(changes).toHaveLength(once.size)
      }
    })
  })
}

async function everyType(scene: Scene): Promise<void> {
  const count = 12
  for (const table of typeTables) {
    const tuples = randomTuples(table, count * 2, seed)
    const names = table.columns.slice(1).map((c) => c.name)
    const rows = tuples.slice(0, count).map((tuple, i) => `(${[i, ...tuple].join(', ')})`)
    await scene.run(`INSERT INTO ${table.name} VALUES ${rows.join(', ')}`)
    for (let i = 0; i < count; i += 2) {
      const sets = names.map((column, k) => `${column} = ${tuples[count + i]![k]}`)
      await scene.run(`UPDATE ${table.name} SET ${sets.join(', ')} WHERE id = ${i}`)
    }
    await scene.run(`DELETE FROM ${table.name} WHERE id = 3`)
  }
}

async function order(scene: Scene): Promise<void> {
  await scene.work(150)
  // many changes of one key in one transaction, the key taken by another row in between
  await scene.transaction([
    `INSERT INTO items VALUES (-1, 0, 'a')`,
    ...Array.from({ length: 20 }, () => `UPDATE items SET n = n + 1 WHERE id = -1`),
    `DELETE FROM items WHERE id = -1`,
    `INSERT INTO items VALUES (-2, 0, 'b')`,
    `UPDATE items SET id = -1 WHERE id = -2`,
    `INSERT INTO items VALUES (-2, 0, 'c')`,
  ])
}

async function refuse(scene: Scene, value: string): Promise<void> {
  const rows = Array.from({ length: 25 }, (_, i) => {
    return `(${i}, '${i === 13 ? value : i}')`
  })
  await scene.run(`INSERT INTO picky VALUES ${rows.join(', ')}`)
  await scene.inStep([REFUSED])
  const list = await scene.command('deadletters', 'conf', 'list')
  expect(list).toContain(`${scene.place.database}.picky`)
}

async function down(scene: Scene): Promise<void> {
  const { proxy } = scene
  if (!proxy) return
  const { target } = proxy
  proxy.target = undefined
  proxy.cut(true)
  const told = scene.sluice.log.length
  await scene.work(40)
  // the proxy refuses: that must be seen before it is there again
  await until(scene, () =>
    scene.sluice.log.slice(told).some((line) => line.includes(`sink ${SINK} tries again`)),
  )
  await scene.work(10)
  proxy.target = target
  await scene.inStep([REFUSED])
  // and cut at random while it writes
  for (let i = 0; i < 8; i++) {
    await scene.work(10)
    proxy.cut(scene.random.chance(50))
    await sleep(scene.random.int(5, 60))
  }
}

/** More than all buffers together, while the destination does not answer. */
async function slow(scene: Scene): Promise<void> {
  const { proxy } = scene
  await scene.run(`INSERT INTO large VALUES (0, REPEAT('w', 200000))`)
  await scene.inStep([REFUSED])
  const before = scene.memory().rss
  proxy?.stall(true)
  let most = 0
  let stalled = 0
  const watch = setInterval(() => (most = Math.max(most, scene.memory().rss)), 20)
  try {
    const rows = 8
    for (let i = 0; i < 10; i++) {
      const values = Array.from({ length: rows }, (_, k) => {
        return `(${1 + i * rows + k}, CONCAT(RANDOM_BYTES(1000), REPEAT('x', 250000)))`
      })
      await scene.run(`INSERT INTO large VALUES ${values.join(', ')}`)
    }
    await scene.work(20)
    await sleep(500)
    stalled = most
    proxy?.stall(false)
    await scene.inStep([REFUSED])
  } finally {
    proxy?.stall(false)
    clearInterval(watch)
  }
  if (!proxy) stalled = most
  // 20 MB wait; a window of 4 MiB and a batch of half a MiB are in memory, in a few forms
  expect(stalled - before, `${before} MB before, ${stalled} MB while it waits`).toBeLessThan(36)
  // What a client has sent is garbage outside of V8's heap, which is collected when there are 64 MiB of it.
  expect(most - before, `${before} MB before, ${most} MB at most`).toBeLessThan(36 + 64)
  await scene.run('DELETE FROM large WHERE id > 3')
}

async function full(scene: Scene): Promise<void> {
  const { destination, place } = scene
  if (!destination.fill) return
  const told = scene.sluice.log.length
  const filled = await destination.fill(place)
  try {
    await scene.run(`INSERT INTO large VALUES (1000, REPEAT('f', 400000))`)
    await scene.work(10)
    await until(scene, () =>
      scene.sluice.log.slice(told).some((line) => line.includes(`sink ${SINK} tries again`)),
    )
  } finally {
    await filled[Symbol.asyncDispose]()
  }
}

async function shutdown(scene: Scene): Promise<void> {
  const working = scene.work(60)
  await sleep(scene.random.int(20, 150))
  expect(await scene.stop()).toBe(0)
  await working
  await scene.start()
}

async function killed(scene: Scene): Promise<void> {
  const { proxy } = scene
  for (let i = 0; i < 2; i++) {
    const before = await scene.count()
    // what the destination answers does not come through: it has the rows, and Sluice does not know
    if (proxy) proxy.rule = () => 'hold'
    const working = scene.work(30)
    const deadline = Date.now() + scene.random.int(500, 1500)
    while ((await scene.count()) <= before && Date.now() < deadline) await sleep(10)
    await scene.kill()
    await working
    if (proxy) proxy.rule = (chunk) => chunk
    proxy?.cut()
    await scene.start()
    await scene.inStep([REFUSED])
  }
}

async function replay(scene: Scene, inStep: () => Promise<void>): Promise<void> {
  await scene.stop()
  const place = scene.cursor()
  await scene.start()
  await scene.work(60)
  await scene.run('DELETE FROM items WHERE id % 3 = 0')
  await inStep()
  await scene.stop()
  expect(scene.cursor()).not.toBe(place)
  scene.setCursor(place)
  await scene.destination.forget?.(scene.place)
  await scene.start()
  // what comes after shows that the replay is over
  await scene.work(5)
  await inStep()
}

/**
 * A copy of the state becomes a second Sluice while the first sleeps in the middle of its work. The second goes on and
 * is far ahead when the first wakes up with what it had in hand.
 */
async function twoWriters(scene: Scene): Promise<void> {
  await scene.stop()
  const copy = join(scene.place.dir, 'second')
  mkdirSync(copy)
  cpSync(scene.dataDir, join(copy, 'data'), { recursive: true })
  using db = new DatabaseSync(join(copy, 'data/conf.sqlite'))
  db.exec(`DELETE FROM facts WHERE key = 'replicaUuid'`)
  db.close()
  const first = await scene.start()
  const before = await scene.count()
  const working = scene.work(120)
  const deadline = Date.now() + 2000
  while ((await scene.count()) === before && Date.now() < deadline) await sleep(5)
  first.process.kill('SIGSTOP')
  await working
  const second = await scene.start(copy)
  await scene.work(60)
  await scene.run('DELETE FROM items WHERE id % 4 = 0')
  scene.sluice = second
  await scene.inStep([REFUSED])
  // The stale one wakes up for a moment: what it has in hand must not be seen, for nobody would write over it again.
  for (let i = 0; i < 4; i++) {
    first.process.kill('SIGCONT')
    await busy(first, scene.random.int(5, 20))
    first.process.kill('SIGSTOP')
    await scene.inStep([REFUSED])
  }
  first.process.kill('SIGCONT')
  // both write now; the stale one may give up, the other must not
  await scene.work(30)
  await scene.inStep([REFUSED])
  await sleep(500)
  await scene.inStep([REFUSED])
  expect(second.log.filter((line) => line.includes(`sink ${SINK} failed`))).toEqual([])
  await first.kill()
  await second.stop()
  // The state that goes on is the newer one: with the other a fenced target is rightly ahead of all that was issued.
  rmSync(scene.dataDir, { recursive: true })
  cpSync(join(copy, 'data'), scene.dataDir, { recursive: true })
  rmSync(copy, { recursive: true })
  await scene.start()
  await scene.work(5)
}

/** Until a process has had so many hundredths of a second, whatever else the machine does; an idle one has two seconds. */
async function busy({ process, log }: SluiceProcess, ticks: number): Promise<void> {
  const used = (): number => {
    const stat = readFileSync(`/proc/${process.pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return Number(fields[11]) + Number(fields[12])
  }
  const from = used()
  const deadline = Date.now() + 2000
  const over = (): boolean => log.some((line) => line.includes(`sink ${SINK} failed`))
  while (used() < from + ticks && Date.now() < deadline && !over()) await sleep(5)
}

async function until(scene: Scene, done: () => boolean, limitMs = 30_000): Promise<void> {
  const deadline = Date.now() + limitMs
  while (!done()) {
    if (Date.now() > deadline)
      throw new Error(`waited too long; the log:\n${scene.log.slice(-10).join('\n')}`)
    await sleep(20)
  }
}
