/** The state file: what survives, who may write, and what is said about files that cannot be used. */
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { DatabaseSync } from 'node:sqlite'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import type { Position } from '../../src/change.ts'
import type { ErrorCode, SluiceError } from '../../src/errors.ts'
import { GtidSet } from '../../src/gtid.ts'
import { positionFromJson, positionToJson, State } from '../../src/store/state.ts'
import { SERVER } from './log.ts'

let directory = ''
let path = ''
let files = 0
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'sluice-state-'))
})
afterAll(() => rmSync(directory, { recursive: true }))
beforeEach(() => {
  path = join(directory, `${files++}.db`)
})

const at = (offset: number, gtids?: string): Position => ({
  epoch: 3,
  server: SERVER,
  file: 'binlog.000007',
  offset,
  skip: 2,
  gtids: gtids === undefined ? undefined : GtidSet.parse(gtids),
  timestamp: 1_700_000_000_123,
})
function failure(act: () => unknown): { code: ErrorCode; message: string } {
  try {
    act()
  } catch (error) {
    const { code, message } = error as SluiceError
    return { code, message }
  }
  throw new Error('it did not fail')
}

test('definitions come back in the log’s order, and go when they are dropped', () => {
  const version = (offset: number, table: string, definition: string) => ({
    epoch: 1,
    file: 'binlog.000002',
    offset,
    database: 'd',
    table,
    origin: 'ddl' as const,
    definition,
  })
  const first = State.open(path)
  first.saveDefinitions([version(20, 't', '{"b":1}'), version(10, 't', '{}'), version(10, 'u', '')])
  first.saveDefinitions([version(10, 't', '{"a":1}')])
  first.close()
  const second = State.open(path)
  const read = () => [...second.definitions()].map((v) => `${v.table} ${v.offset} ${v.definition}`)
  expect(read()).toEqual(['t 10 {"a":1}', 'u 10 ', 't 20 {"b":1}'])
  second.dropDefinitions([version(10, 't', ''), version(10, 'u', '')])
  expect(read()).toEqual(['t 20 {"b":1}'])
  second.forgetDefinitions()
  expect(read()).toEqual([])
  second.close()
})

test('a file of the first schema keeps what it has, and gets what it lacks', () => {
  const first = State.open(path)
  first.subscribe('1001', at(10), '')
  first.close()
  const older = new DatabaseSync(path)
  older.exec('DROP TABLE definitions; UPDATE sluice SET schema = 1')
  older.close()
  const second = State.open(path)
  expect(second.cursors().map((c) => c.client)).toEqual(['1001'])
  expect([...second.definitions()]).toEqual([])
  second.close()
  expect(State.read(path).cursors).toHaveLength(1)
})

test('everything comes back: cursors, subscriptions, reserved ids, facts', async () => {
  const deep = join(directory, 'a', 'b', 'x.db')
  const first = State.open(deep)
  expect(first.cursors()).toEqual([])
  first.subscribe('1001', at(10, `${SERVER}:1-5`), 'd\\..*')
  first.subscribe('1002', at(20), '')
  first.reserve('1001', 9_007_199_254_741_993n) // beyond 2^53
  first.setValue('epoch', '1')
  first.setValue('epoch', '3')
  await first.ack('1001', at(30, `${SERVER}:1-7`))
  first.unsubscribe('1002')
  first.close()
  first.close()

  const second = State.open(deep)
  expect(second.fence).toBe(first.fence + 1)
  const [one, two] = second.cursors()
  expect(one).toMatchObject({
    client: '1001',
    reserved: 9_007_199_254_741_993n,
    filterText: 'd\\..*',
  })
  expect(positionToJson(one!.acked)).toBe(positionToJson(at(30, `${SERVER}:1-7`)))
  expect(two).toMatchObject({ client: '1002', reserved: 1n, filterText: undefined, acked: at(20) })
  expect(second.value('epoch')).toBe('3')
  expect(second.value('nothing')).toBeUndefined()
  second.remove('1001')
  expect(second.cursors().map(({ client }) => client)).toEqual(['1002'])
  second.close()
})

test('positions and JSON', () => {
  const gtids = fc.option(fc.constantFrom('', `${SERVER}:1-5:7`, `${SERVER}:1-5:a_tag:3`))
  const number = fc.nat({ max: Number.MAX_SAFE_INTEGER })
  fc.assert(
    fc.property(
      number,
      number,
      number,
      number,
      fc.string(),
      gtids,
      (epoch, offset, skip, timestamp, file, set) => {
        const parsed = set === null ? undefined : GtidSet.parse(set)
        const position = { epoch, server: SERVER, file, offset, skip, timestamp, gtids: parsed }
        const back = positionFromJson(positionToJson(position))
        expect({ ...back, gtids: back.gtids?.toString() }).toEqual({
          ...position,
          gtids: set ?? undefined,
        })
      },
    ),
  )
  for (const text of [
    '',
    '[]',
    '{}',
    'null',
    positionToJson(at(1)).replace(':3', ':-3'),
    positionToJson(at(1, '')).replace('""', '"x"'),
  ]) {
    expect(failure(() => positionFromJson(text, 'here'))).toMatchObject({
      code: 'STATE_UNREADABLE',
      message: expect.stringContaining('here: expected {"epoch"'),
    })
  }
})

test('acks of one turn share one commit, and are durable when their promise resolves', async () => {
  const state = State.open(path)
  for (const client of ['a', 'b']) state.subscribe(client, at(1), '')
  const watcher = new DatabaseSync(path, { readOnly: true })
  const version = (): unknown => watcher.prepare('PRAGMA data_version').get()?.['data_version']
  const before = version()
  const acks = [state.ack('a', at(2)), state.ack('b', at(3)), state.ack('a', at(4))]
  expect(version()).toBe(before)
  await Promise.all(acks)
  const after = version()
  expect(after).not.toBe(before)
  expect(new Set(acks).size).toBe(1)
  expect(State.read(path).cursors.map(({ acked }) => acked.offset)).toEqual([4, 3])
  await turn()
  expect(version()).toBe(after)
  await state.ack('a', at(5))
  expect(version()).not.toBe(after)
  watcher.close()
  state.close()
})

test('a lazy ack goes with the next commit, or with flush and close, and asks for the position only then', async () => {
  const state = State.open(path)
  for (const client of ['a', 'b']) state.subscribe(client, at(1), '')
  const offsets = (): number[] => State.read(path).cursors.map(({ acked }) => acked.offset)
  let place = 2
  state.ackLater('a', () => at(place))
  place = 7
  await state.ack('b', at(3))
  expect(offsets()).toEqual([7, 3])
  state.ackLater('a', () => at(8))
  state.flush()
  expect(offsets()).toEqual([8, 3])
  state.ackLater('a', () => at(9))
  state.ackLater('b', () => at(10))
  state.remove('b')
  state.close()
  expect(offsets()).toEqual([9])
})

test('two at once: the second is told who holds the file, readers are welcome', () => {
  const state = State.open(path)
  state.setValue('k', 'v')
  const { code, message } = failure(() => State.open(path))
  expect(code).toBe('STATE_LOCKED')
  expect(message).toContain(`process ${process.pid}`)
  const { values, holder } = State.read(path)
  expect(values.get('k')).toBe('v')
  expect(holder).toMatchObject({ pid: process.pid, fence: state.fence })
  state.close()
  State.open(path).close()
})

test('where the lock does not hold, the older one is fenced off', async () => {
  const old = State.open(path)
  old.subscribe('a', at(1), '')
  rmSync(`${path}-lock`) // as on a file system without locks
  const young = State.open(path)
  young.setValue('who', 'young')
  expect(failure(() => old.setValue('who', 'old')).code).toBe('STATE_FENCED')
  await expect(old.ack('a', at(2))).rejects.toMatchObject({ code: 'STATE_FENCED' })
  await young.ack('a', at(3))
  old.close()
  expect(young.value('who')).toBe('young')
  expect(young.cursors()[0]!.acked.offset).toBe(3)
  young.close()
})

test('a write that fails says so, and goes with the next commit', async () => {
  const state = State.open(path)
  state.subscribe('a', at(1), '')
  const other = new DatabaseSync(path)
  other.exec('BEGIN IMMEDIATE')
  await expect(state.ack('a', at(2))).rejects.toMatchObject({
    code: 'STATE_UNWRITABLE',
    retryable: true,
  })
  other.exec('ROLLBACK')
  other.close()
  state.flush()
  expect(State.read(path).cursors[0]!.acked.offset).toBe(2)
  state.close()
})

test('files that are not usable are refused with the reason', () => {
  const refused = (reason: RegExp): void => {
    const act = failure(() => State.open(path))
    expect(act).toMatchObject({ code: 'STATE_UNREADABLE', message: expect.stringMatching(reason) })
    expect(act.message).toContain(path)
    expect(failure(() => State.read(path)).code).toBe('STATE_UNREADABLE')
  }
  expect(failure(() => State.read(path)).code).toBe('STATE_UNREADABLE') // there is none

  writeFileSync(
    path,
    'this is no database, it only looks like a file of some length, really'.repeat(20),
  )
  refused(/not a database/)
  expect(readFileSync(path, 'utf8')).toMatch(/^this is no database/)
  rmSync(path)

  const foreign = new DatabaseSync(path)
  foreign.exec('CREATE TABLE t (a)')
  foreign.close()
  refused(/not a state file of Sluice/)
  rmSync(path)

  State.open(path).close()
  const newer = new DatabaseSync(path)
  newer.exec('UPDATE sluice SET schema = 99')
  newer.close()
  refused(/newer Sluice: its schema version is 99/)

  rmSync(path)
  const state = State.open(path)
  for (let i = 0; i < 200; i++) state.subscribe(`client ${i}`, at(i), 'x'.repeat(500))
  state.close()
  truncateSync(path, 20 * 1024)
  refused(/damaged|malformed/)

  rmSync(path)
  mkdirSync(path)
  expect(failure(() => State.open(path))).toMatchObject({
    code: 'STATE_UNWRITABLE',
    message: expect.stringMatching(/-wal, -shm\): unable to open/) as string,
  })
})

test('a damaged position is named', () => {
  const state = State.open(path)
  state.subscribe('1001', at(1), '')
  state.close()
  const db = new DatabaseSync(path)
  db.exec(`UPDATE cursors SET acked = '{"epoch":'`)
  db.close()
  expect(failure(() => State.read(path)).message).toContain('cursor "1001"')
})

/** Starts the worker, kills it with SIGKILL after so many durable acks; its lines, and its pid. */
async function runAndKill(
  lines: number,
  meanwhile: (pid: number) => void,
): Promise<{ id: bigint; done: number }[]> {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'worker.ts'), path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const acks: { id: bigint; done: number }[] = []
  const exited = new Promise((resolve) => child.once('exit', (_, signal) => resolve(signal)))
  for await (const line of createInterface({ input: child.stdout })) {
    if (line === 'ready') {
      meanwhile(child.pid!)
      continue
    }
    const [id, done] = line.split(' ')
    acks.push({ id: BigInt(id!), done: Number(done) })
    if (acks.length === lines) child.kill('SIGKILL') // lines that are in the pipe still come
  }
  expect(await exited).toBe('SIGKILL')
  return acks
}

test('kill -9: the lock is free at once, every durable ack is there, no batch id comes twice', async () => {
  let lastId = 0n
  let lastDone = 0
  for (const lines of [3, 1200, 500]) {
    const acks = await runAndKill(lines, (pid) => {
      const { code, message } = failure(() => State.open(path))
      expect({ code, message }).toEqual({
        code: 'STATE_LOCKED',
        message: expect.stringContaining(`process ${pid},`),
      })
      expect(State.read(path).holder.pid).toBe(pid)
    })
    for (const { id, done } of acks) {
      expect(id > lastId).toBe(true)
      expect(done).toBeGreaterThanOrEqual(lastDone)
      lastId = id
      lastDone = done
    }
    expect((acks[0]!.id - 1n) % 1000n).toBe(0n)
    const state = State.open(path)
    const { acked, reserved } = state.cursors()[0]!
    state.close()
    expect(Number(acked.gtids!.toString().split('-').at(-1))).toBeGreaterThanOrEqual(lastDone)
    expect(reserved > lastId).toBe(true)
  }
}, 60_000)
