import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { Position } from '../../src/change.ts'
import { positionToJson, State } from '../../src/store/state.ts'
import { privateMysql, versions } from '../support/mysql.ts'
import { checkout, inProcess, run } from './run.ts'

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

function prepared(
  instances: Record<string, object> = { orders: { source: { port: 1 } } },
  server = A,
) {
  const c = checkout(instances)
  const file = join(c.dir, 'data', 'orders.sqlite')
  mkdirSync(join(c.dir, 'data'))
  {
    const state = State.open(file)
    state.setValue('epoch', '3')
    state.setValue('server', server)
    state.setValue('origin', positionToJson(at('binlog.000002', 4)))
    state.subscribe('1001', at('binlog.000007', 100), 'shop\\..*')
    state.subscribe('1002', at('binlog.000008', 200), '')
    state.close()
  }
  const call = (...args: string[]) => inProcess(['position', 'orders', ...args, '-c', c.config])
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
test('on a source that answers every form is looked up there, and what it does not have is refused', async () => {
  await using mysql = await privateMysql(versions[0]!)
  const { host, port, user, password } = mysql
  const source = { host, port, user, password }
  await mysql.query('CREATE DATABASE p8; CREATE TABLE p8.t (id INT); FLUSH BINARY LOGS')
  await mysql.query('INSERT INTO p8.t VALUES (1)')
  const [uuid] = await mysql.query<{ id: string }>('SELECT @@server_uuid AS id')
  const files = await mysql.query<{ Log_name: string; File_size: number }>('SHOW BINARY LOGS')
  const last = files.at(-1)!
  using c = prepared({ orders: { source } }, uuid!.id)
  const acked = () => State.read(c.statePath).cursors[0]!.acked
  expect(await c.call('set', 'latest')).toMatchObject({ code: 0, stderr: '' })
  const end = acked()
  expect(end).toMatchObject({ epoch: 3, file: last.Log_name, offset: Number(last.File_size) })
  expect(await c.call('set', 'earliest')).toMatchObject({ code: 0, stderr: '' })
  expect(acked()).toMatchObject({ file: files[0]!.Log_name, offset: 4 })
  expect(await c.call('set', `${last.Log_name}:4`)).toMatchObject({ code: 0, stderr: '' })
  expect(acked().gtids?.toString()).toBe(
    `${uuid!.id}:1-${Number(end.gtids!.toString().split('-').at(-1)) - 1}`,
  )
  await definitionsStayOnlyOnTheWayBack(c, uuid!.id, end)
  const soon = new Date(Date.now() + 3_600_000).toISOString()
  expect((await c.call('set', soon)).stderr).toContain('expected a time that has come')
  expect(await c.call('set', '2026-01-31T12:00:00Z', '--client', '1001')).toMatchObject({ code: 0 })
  const inside = await c.call('set', `${last.Log_name}:${Number(last.File_size) - 31}`)
  expect(inside.stderr).toContain('lies within one; the nearest are')
  expect((await c.call('set', `${A}:1-5`)).stderr).toContain(`it does not know ${A}:1-5`)
  using other = prepared({ orders: { source } })
  expect((await other.call('set', 'latest')).stderr).toContain(
    `expected the server ${A}, whose log the saved positions are in, found ${uuid!.id}`,
  )
})
/** Of a GTID set the place in the log is not known: the sets are compared. */
async function definitionsStayOnlyOnTheWayBack(
  { call, statePath }: ReturnType<typeof prepared>,
  uuid: string,
  end: Position,
): Promise<void> {
  const definition = { ...end, database: 'p8', table: 't', origin: 'ddl', definition: '' } as const
  const last = Number(end.gtids!.toString().split('-').at(-1))
  const kept = async (to: string): Promise<number> => {
    expect(await call('set', to)).toMatchObject({ code: 0, stderr: '' })
    using state = closing(State.open(statePath))
    return [...state.it.definitions()].length
  }
  await call('set', 'latest')
  {
    using state = closing(State.open(statePath))
    state.it.saveDefinitions([definition])
  }
  expect(await kept(`${uuid}:1-${last - 1}`)).toBe(1)
  expect(await kept(`${uuid}:1-${last}`)).toBe(0)
}
const closing = (it: State) => ({ it, [Symbol.dispose]: () => it.close() })

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
  [
    ['set', 'nonsense'],
    2,
    'expected earliest, latest, file:offset like binlog.000123:4567, a GTID set like uuid:1-99 or a time with its zone',
  ],
  [['set', '2026-01-31 12:00:00'], 2, 'or a time with its zone'],
  [['set', 'binlog.000009:3'], 2, 'expected an offset of 4 or more, found 3'],
  [['set', 'earliest'], 1, 'orders: the source cannot be asked (connecting to 127.0.0.1:1:'],
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
