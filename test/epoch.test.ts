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

const origin = (executed?: string): Position => at('binlog.000005', 900, executed)
const start = (executed?: string) => begin(state, origin(executed), A, log)
const seen = (gtids: string) => GtidSet.parse(gtids)

test('a first start records where it begins, durably and once', () => {
  const known = start(`${A}:1-9`)
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
test('the same source goes on in the same epoch', () => {
  const known = start(`${A}:1-9`)
  const progress = { resume: origin(`${A}:1-9`), seen: seen(`${A}:1-9`) }
  expect(recognise(state, known, facts(`${A}:1-12`, ''), progress, log)).toBe(known)
})
test('another source with GTIDs goes on in the next epoch, durably', () => {
  const known = start(`${A}:1-9`)
  const progress = { resume: origin(`${A}:1-9`), seen: seen(`${A}:1-9`) }
  const next = recognise(state, known, facts(`${A}:1-12`, '', B), progress, log)
  expect(next).toMatchObject({ epoch: 2, server: B })
  expect(readKnown(state)).toMatchObject({ epoch: 2, server: B })
  expect(warnings).toEqual(['another source: going on in a new epoch'])
})
test.each([
  [
    'another source without GTIDs',
    facts(undefined, undefined, B),
    { resume: at('binlog.000005', 900), seen: undefined },
    'SOURCE_CHANGED',
    /expected the server .* without GTIDs/,
  ],
  [
    'another source that lacks transactions',
    facts(`${A}:1-8`, '', B),
    { resume: origin(`${A}:1-9`), seen: seen(`${A}:1-9`) },
    'SOURCE_DIVERGED',
    /it lacks 3e11.*:9\. .*never reached it/,
  ],
  [
    'a reset source with GTIDs',
    facts(`${A}:1-2`, ''),
    { resume: origin(`${A}:1-9`), seen: seen(`${A}:1-9`) },
    'SOURCE_DIVERGED',
    /it lacks 3e11.*:3-9.*reset/,
  ],
  [
    'what a client was given and the main reader has not read again yet',
    facts(`${A}:1-9`, ''),
    { resume: origin(`${A}:1-9`), seen: seen(`${A}:1-11`) },
    'SOURCE_DIVERGED',
    /it lacks 3e11.*:10-11\./,
  ],
  [
    'a reset source without GTIDs',
    facts(),
    { resume: at('binlog.000006', 4), seen: undefined },
    'SOURCE_CHANGED',
    /its end is binlog.000005:900, we are at binlog.000006:4/,
  ],
  [
    'a reset source that has as many GTIDs again',
    facts(`${A}:1-12`, ''),
    {
      resume: origin(`${A}:1-9`),
      seen: seen(`${A}:1-9`),
      replaced: 'binlog.000005 was begun later',
    },
    'SOURCE_CHANGED',
    /another log.*binlog.000005 was begun later/,
  ],
])('%s is refused and says what to do', (_, now, progress, code, message) => {
  const known = start()
  const again = () => recognise(state, known, now, progress, log)
  expect(again).toThrow(message)
  expect(again).toThrow(expect.objectContaining({ code }) as Error)
  expect(again).toThrow(/sluice position <destination> reset/)
  expect(readKnown(state)?.epoch).toBe(1)
})
test('after a reset the next start is a first start in a new epoch', () => {
  start()
  forgetOrigin(state)
  expect(readKnown(state)).toBeUndefined()
  expect(begin(state, at('binlog.000002', 4), A, log)).toMatchObject({
    epoch: 2,
    origin: { epoch: 2, offset: 4 },
  })
})
