import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Position } from '../src/change.ts'
import { begin, forgetOrigin, readKnown, recognise } from '../src/epoch.ts'
import type { Facts } from '../src/epoch.ts'
import { GtidSet } from '../src/gtid.ts'
import { State } from '../src/store/state.ts'

const A = '3e11fa47-71ca-11e1-9e33-c80aa9429562'
const B = '4e11fa47-71ca-11e1-9e33-c80aa9429562'
const log = { info: () => {}, warn: (_: object, message: string) => void warnings.push(message) }
let warnings: string[] = []
let folder: string
let state: State
beforeEach(() => {
  warnings = []
  folder = mkdtempSync(join(tmpdir(), 'sluice-epoch-'))
  state = State.open(join(folder, 'orders.sqlite'))
})
afterEach(() => {
  state.close()
  rmSync(folder, { recursive: true })
})

const at = (file: string, offset: number, gtids?: string, server = A, epoch = 1): Position => ({
  epoch,
  server,
  file,
  offset,
  skip: 0,
  gtids: gtids === undefined ? undefined : GtidSet.parse(gtids),
  timestamp: 0,
})
function facts(executed?: string, purged?: string, server = A): Facts {
  return {
    serverUuid: server,
    latest: at('binlog.000005', 900, executed, server),
    earliest: at('binlog.000002', 4, purged, server),
  }
}
const set = (p: Position): string | undefined => p.gtids?.toString()

test('a first start records the position that start means, durably and once', () => {
  const known = begin(state, 'latest', facts(`${A}:1-9`, ''), log)
  expect(known).toMatchObject({
    epoch: 1,
    server: A,
    origin: { file: 'binlog.000005', offset: 900 },
  })
  expect(readKnown(state)).toEqual(known)
  state.close()
  state = State.open(join(folder, 'orders.sqlite'))
  expect(readKnown(state)).toEqual(known)
})
test('earliest, a place and a GTID set', () => {
  expect(begin(state, 'earliest', facts(), log).origin).toMatchObject({
    file: 'binlog.000002',
    offset: 4,
  })
  expect(begin(state, { file: 'binlog.000003', offset: 77 }, facts(), log).origin).toMatchObject({
    file: 'binlog.000003',
    offset: 77,
  })
  const { origin } = begin(state, { gtids: `${A}:1-5` }, facts(`${A}:1-9`, `${A}:1-3`), log)
  expect(set(origin)).toBe(`${A}:1-5`)
  expect(warnings).toEqual([])
})
test('a GTID set that lacks what is purged gains it, with a warning', () => {
  const { origin } = begin(state, { gtids: `${B}:1-2` }, facts(`${A}:1-9`, `${A}:1-3`), log)
  expect(set(origin)).toBe(`${A}:1-3,${B}:1-2`)
  expect(warnings[0]).toContain('they are skipped')
})
test('a place the source has not is refused, and nothing is recorded', () => {
  for (const file of ['binlog.000001', 'binlog.000006']) {
    expect(() => begin(state, { file, offset: 4 }, facts(), log)).toThrow(
      /expected a position from binlog.000002:4 to binlog.000005:900/,
    )
  }
  expect(() => begin(state, { gtids: `${A}:1` }, facts(), log)).toThrow(/gtid_mode OFF/)
  expect(readKnown(state)).toBeUndefined()
})
test('the same source goes on in the same epoch', () => {
  const known = begin(state, 'latest', facts(`${A}:1-9`, ''), log)
  expect(
    recognise(state, known, facts(`${A}:1-12`, ''), at('binlog.000005', 900, `${A}:1-9`), log),
  ).toBe(known)
})
test('another source with GTIDs goes on in the next epoch, durably', () => {
  const known = begin(state, 'latest', facts(`${A}:1-9`, ''), log)
  const next = recognise(
    state,
    known,
    facts(`${A}:1-12`, '', B),
    at('binlog.000005', 900, `${A}:1-9`),
    log,
  )
  expect(next).toMatchObject({ epoch: 2, server: B })
  expect(readKnown(state)).toMatchObject({ epoch: 2, server: B })
  expect(warnings).toEqual(['another source: going on by GTID in a new epoch'])
})
test('another source that lacks transactions is taken with a warning', () => {
  const known = begin(state, 'latest', facts(`${A}:1-9`, ''), log)
  recognise(state, known, facts(`${A}:1-8`, '', B), at('binlog.000005', 900, `${A}:1-9`), log)
  expect(warnings[0]).toContain('lacks transactions')
})
test.each([
  [
    'another source without GTIDs',
    facts(undefined, undefined, B),
    at('binlog.000005', 900),
    /expected the server .* without GTIDs/,
  ],
  [
    'a reset source with GTIDs',
    facts(`${A}:1-2`, ''),
    at('binlog.000005', 900, `${A}:1-9`),
    /it lacks 3e11.*:3-9.*reset/,
  ],
  [
    'a reset source without GTIDs',
    facts(),
    at('binlog.000006', 4),
    /its end is binlog.000005:900, we are at binlog.000006:4/,
  ],
])('%s is refused and says what to do', (_, now, resume, message) => {
  const known = begin(state, 'latest', facts(), log)
  expect(() => recognise(state, known, now, resume, log)).toThrow(message)
  expect(() => recognise(state, known, now, resume, log)).toThrow(
    /sluice position <destination> reset/,
  )
  expect(readKnown(state)?.epoch).toBe(1)
})
test('after a reset the next start is a first start in a new epoch', () => {
  begin(state, 'latest', facts(), log)
  forgetOrigin(state)
  expect(readKnown(state)).toBeUndefined()
  expect(begin(state, 'earliest', facts(), log)).toMatchObject({
    epoch: 2,
    origin: { epoch: 2, offset: 4 },
  })
})
