/**
 * Whatever fails, whenever: every change reaches the target, rows of one target in the order of the log, an update of a key
 * as delete and insert with nothing of either key between or out of place, and what is acked is in the target.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { SluiceError } from '../../src/errors.ts'
import { slabs } from '../server/changes.ts'
import type { Written } from './memory.ts'
import { Rig, type Op } from './rig.ts'

const KEYS = 7
const op = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('put' as const), id: fc.nat(KEYS - 1) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('drop' as const), id: fc.nat(KEYS - 1) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('move' as const),
      id: fc.nat(KEYS - 1),
      to: fc.nat(KEYS - 1),
    }),
  },
)
/** Turns wishes into operations that a table could have had. */
function possible(
  wishes: readonly { kind: 'put' | 'drop' | 'move'; id: number; to?: number }[],
  table: Map<number, string>,
  n: { value: number },
): Op[] {
  const ops: Op[] = []
  for (const { kind, id, to } of wishes) {
    const v = `v${n.value++}`
    const had = table.has(id)
    if (kind === 'put') {
      ops.push({ kind: had ? 'update' : 'insert', id, v })
      table.set(id, v)
    } else if (had && kind === 'drop') {
      ops.push({ kind: 'delete', id, v: table.get(id)! })
      table.delete(id)
    } else if (had && to !== undefined && !table.has(to)) {
      ops.push({ kind: 'move', id, to, v })
      table.delete(id)
      table.set(to, v)
    }
  }
  return ops
}

const settings = fc.record({
  transactions: fc.array(fc.array(op, { minLength: 1, maxLength: 12 }), {
    minLength: 1,
    maxLength: 25,
  }),
  parallel: fc.integer({ min: 1, max: 4 }),
  inFlight: fc.integer({ min: 1, max: 4 }),
  changes: fc.integer({ min: 1, max: 12 }),
  targets: fc.integer({ min: 1, max: KEYS }), // several keys may meet in one target
  whole: fc.boolean(),
  seed: fc.integer(),
  restarts: fc.nat(2),
  transactional: fc.boolean(),
})

/** Numbers in [0, 1), the same for the same seed. */
function random(seed: number): () => number {
  let state = seed | 1
  return () => {
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9
    state ^= state >>> 13
    return (state >>> 0) / 2 ** 32
  }
}
const targetOf = (key: string, targets: number): string => String(Number(key) % targets)

/** What a fenced target holds after these writes, in the order in which they were made. */
function replay(rows: readonly Written[]): Map<number, string> {
  const table = new Map<number, string>()
  const newest = new Map<string, string>()
  for (const { op: kind, key, values, version } of rows) {
    if (version < (newest.get(key) ?? '')) continue
    newest.set(key, version)
    if (kind === 'delete') table.delete(Number(key))
    else table.set(Number(key), values['v'] ?? '')
  }
  return table
}
/**
 * Rows of one target come in the order of the log. What was written already may come again behind what followed it: after a
 * restart, and where the other half of a key's change was refused. Fences are for that.
 */
function outOfOrder(rows: readonly Written[], targets: number): string[] {
  const last = new Map<string, string>()
  const written = new Set<string>()
  const faults: string[] = []
  for (const { op: kind, key, version } of rows) {
    const name = `${kind} ${key} ${version}`
    if (written.has(name)) continue
    written.add(name)
    const target = targetOf(key, targets)
    const before = last.get(target)
    if (before !== undefined && version < before) faults.push(`${name} after ${before}`)
    last.set(target, version)
  }
  return faults
}

test('changes arrive, in order, whatever fails', { timeout: 120_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(settings, async (s) => {
      const chance = random(s.seed)
      const { parallel, transactional } = s
      await using rig = new Rig({ parallel, batch: { changes: s.changes } })
      const { memory } = rig
      const table = new Map<number, string>()
      const n = { value: 0 }
      let lifeFrom = 0
      memory.shape = {
        promise: transactional ? 'transactional' : 'fenced',
        target: (row) => targetOf(row.string(row.side, row.table.keys[0]!) ?? '', s.targets),
        inFlight: s.inFlight,
        wholeTransactions: s.whole,
      }
      memory.before = async () => {
        for (let turns = Math.floor(chance() * 4); turns > 0; turns--)
          await new Promise((resolve) => setImmediate(resolve))
        if (chance() < 0.15) throw new SluiceError('SINK_UNAVAILABLE', 'away')
      }
      // A target that refuses a row for now refuses what follows of it in the same write as well.
      let refused: Set<string>
      let write = 0
      memory.refuse = (row) => {
        if (transactional) return undefined
        if (row.write !== write) refused = new Set()
        write = row.write
        const target = targetOf(row.key, s.targets)
        if (!refused.has(target) && chance() > 0.05) return undefined
        refused.add(target)
        return { error: new SluiceError('SINK_UNAVAILABLE', 'busy'), retryable: true }
      }
      const versions = new Set<string>()
      rig.sinks.start()
      let end = rig.store.resume
      const restartAt = Math.ceil(s.transactions.length / (s.restarts + 1))
      for (const [i, wishes] of s.transactions.entries()) {
        const ops = possible(wishes, table, n)
        if (ops.length > 0) end = rig.ops(...ops)
        n.value++
        if (s.restarts > 0 && i % restartAt === restartAt - 1) {
          expect(outOfOrder(memory.rows.slice(lifeFrom), s.targets)).toEqual([])
          await rig.restart()
          lifeFrom = memory.rows.length
        }
      }
      await rig.reached(end)
      expect(outOfOrder(memory.rows.slice(lifeFrom), s.targets)).toEqual([])
      expect(replay(memory.rows)).toEqual(table)
      for (const row of memory.rows) versions.add(`${row.version} ${row.op}`)
      if (transactional) expect(memory.rows.length).toBe(versions.size)
      expect(memory.runningMost).toBeLessThanOrEqual(transactional ? 1 : parallel)
    }),
    { numRuns: 40 },
  )
  expect(slabs.bytesInUse).toBe(0)
})
