import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { Position } from '../../src/change.ts'
import { positionToJson, State } from '../../src/store/state.ts'
import { checkout, run } from './run.ts'

const A = '3e11fa47-71ca-11e1-9e33-c80aa9429562'
const at = (file: string, offset: number): Position => ({
  epoch: 3,
  server: A,
  file,
  offset,
  skip: 0,
  gtids: undefined,
  timestamp: 0,
})

function prepared() {
  const c = checkout({ orders: {} })
  const file = join(c.dir, 'data', 'orders.sqlite')
  mkdirSync(join(c.dir, 'data'))
  {
    const state = State.open(file)
    state.setValue('epoch', '3')
    state.setValue('server', A)
    state.setValue('origin', positionToJson(at('binlog.000002', 4)))
    state.subscribe('1001', at('binlog.000007', 100), 'shop\\..*')
    state.subscribe('1002', at('binlog.000008', 200), '')
    state.close()
  }
  const call = (...args: string[]) => run('position', 'orders', ...args, '-c', c.config)
  const cursors = () =>
    State.read(file).cursors.map((x) => [x.client, x.acked.file, x.acked.offset])
  return { ...c, call, cursors, statePath: file }
}

test('show prints every saved position, also while another process holds the file', async () => {
  using c = prepared()
  const state = State.open(c.statePath)
  try {
    const { code, stdout } = await c.call('show')
    expect(code).toBe(0)
    expect(stdout).toContain(`server       ${A} (epoch 3)`)
    expect(stdout).toContain('origin       binlog.000002:4')
    expect(stdout).toContain('client 1001  binlog.000007:100, filter shop\\..*')
    const one = await c.call('show', '--client', '1002', '--json')
    expect(JSON.parse(one.stdout)).toMatchObject({
      destination: 'orders',
      epoch: 3,
      clients: [{ client: '1002', acked: { file: 'binlog.000008', offset: 200 } }],
    })
  } finally {
    state.close()
  }
})
test('set moves one client, or all of them and the origin', async () => {
  using c = prepared()
  expect(await c.call('set', 'binlog.000009:44', '--client', '1001')).toMatchObject({ code: 0 })
  expect(c.cursors()).toEqual([
    ['1001', 'binlog.000009', 44],
    ['1002', 'binlog.000008', 200],
  ])
  expect(State.read(c.statePath).values.get('origin')).toContain('binlog.000002')
  const { code, stdout } = await c.call('set', `${A}:1-5`)
  expect(code).toBe(0)
  expect(stdout).toContain(`GTIDs ${A}:1-5`)
  expect(State.read(c.statePath).cursors.map((x) => x.acked.gtids?.toString())).toEqual([
    `${A}:1-5`,
    `${A}:1-5`,
  ])
  expect(State.read(c.statePath).values.get('origin')).toContain(`${A}:1-5`)
})
test('reset forgets one client, or everything', async () => {
  using c = prepared()
  expect((await c.call('reset', '--client', '1001')).stdout).toContain(
    'it begins at the origin binlog.000002:4',
  )
  expect(c.cursors()).toEqual([['1002', 'binlog.000008', 200]])
  expect((await c.call('reset')).code).toBe(0)
  expect(c.cursors()).toEqual([])
  expect((await c.call('show')).stdout).toContain(
    'none: the next start begins where the start key says',
  )
  expect(State.read(c.statePath).values.get('epoch')).toBe('3')
})
test('set and reset are refused while the server runs, and say so', async () => {
  using c = prepared()
  const state = State.open(c.statePath)
  try {
    for (const args of [['set', 'binlog.000009:44'], ['reset']]) {
      const { code, stderr } = await c.call(...args)
      expect(code).toBe(1)
      expect(stderr).toContain(`is in use by another Sluice (process ${process.pid}`)
      expect(stderr).toContain('Stop the server')
    }
  } finally {
    state.close()
  }
  expect(c.cursors()).toHaveLength(2)
})
test.each([
  [['set', 'nonsense'], 2, 'expected file:offset like binlog.000123:4567 or a GTID set'],
  [
    ['set', 'binlog.000009:4', '--client', '7'],
    2,
    'no client "7" in the state file; found 1001, 1002',
  ],
  [['reset', '--client', '7'], 2, 'no client "7"'],
  [['show', '--client', '7'], 2, 'no client "7"'],
])('%j is refused', async (args, code, message) => {
  using c = prepared()
  const result = await c.call(...args)
  expect([result.code, result.stdout]).toEqual([code, ''])
  expect(result.stderr).toContain(message)
})
test('a destination without saved positions', async () => {
  using c = checkout({ orders: {} })
  const { code, stderr } = await run('position', 'orders', 'show', '-c', c.config)
  expect(code).toBe(1)
  expect(stderr).toContain('orders has no saved positions yet')
})
