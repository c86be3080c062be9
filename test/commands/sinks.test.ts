import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test, vi } from 'vitest'
import { stringify } from 'yaml'
import { Rig } from '../sinks/rig.ts'
import { run as runCommand } from '../../src/cli.ts'

/** One command line in this process, with what it prints. */
async function run(...argv: string[]) {
  const printed: string[] = []
  const complained: string[] = []
  const log = vi.spyOn(console, 'log').mockImplementation((text) => void printed.push(`${text}\n`))
  const error = vi.spyOn(console, 'error').mockImplementation((text) => void complained.push(text))
  try {
    const code = await runCommand(argv)
    return { code, stdout: printed.join(''), stderr: complained.join('\n') }
  } finally {
    log.mockRestore()
    error.mockRestore()
  }
}

test('deadletters lists, shows, replays through the running server and drops', async () => {
  await using rig = new Rig({ onError: 'deadLetter' })
  const config = join(rig.dir, 'server.yaml')
  writeFileSync(config, stringify({ dataDir: rig.dir, instancesDir: rig.dir }))
  const call = (...args: string[]) => run('deadletters', 'orders', ...args, '-c', config)
  expect((await call('list')).stdout).toBe('no dead letters\n')
  let refusing = true
  rig.memory.refuse = (row) =>
    refusing ? { error: new Error(`no ${row.key}`), retryable: false } : undefined
  rig.sinks.start()
  await rig.reached(
    rig.ops(...[1, 2, 3].map((id) => ({ kind: 'insert' as const, id, v: `v${id}` }))),
  )
  const list = await call('list')
  expect(list.stdout.trim().split('\n')).toHaveLength(3)
  expect(list.stdout).toMatch(/^1 {2}.* {2}mem {2}insert shop\.items 1 {2}Error: no 1$/m)
  const json = JSON.parse((await call('list', '--json', '--sink', 'mem')).stdout) as object[]
  expect(json[1]).toMatchObject({ id: 2, sink: 'mem', key: '2', op: 'insert' })
  expect(JSON.parse((await call('list', '--json', '--sink', 'other')).stdout)).toEqual([])
  const shown = JSON.parse((await call('show', '2', '--json')).stdout) as object
  expect(shown).toMatchObject({ id: 2, before: {}, after: { id: '2', v: 'v2' } })
  const again = await call('replay', '1', '--json')
  expect([again.code, JSON.parse(again.stdout)]).toMatchObject([
    1,
    { replayed: 0, refused: [{ id: 1 }] },
  ])
  refusing = false
  expect(await call('replay', '1')).toMatchObject({ code: 0, stdout: 'replayed 1\n' })
  expect(rig.memory.rows.map((r) => r.key)).toEqual(['1'])
  expect(await call('drop', '3')).toMatchObject({ code: 0, stdout: 'dropped 1\n' })
  await rig.sinks.stop()
  rig.state.close()
  const down = await call('replay', '--all')
  expect(down.code).toBe(1)
  expect(down.stderr).toContain('the server does not run orders')
  for (const wrong of [['show'], ['drop'], ['drop', '2', '--all'], ['eat'], ['show', '99']])
    expect((await call(...wrong)).code).toBe(2)
  expect(await call('drop', '--all')).toMatchObject({ code: 0, stdout: 'dropped 1\n' })
})
test('sinks says that there are none, and which there are not', async () => {
  await using rig = new Rig()
  const config = join(rig.dir, 'server.yaml')
  writeFileSync(config, stringify({ dataDir: rig.dir, instancesDir: rig.dir }))
  writeFileSync(join(rig.dir, 'orders.yaml'), '')
  const call = (...args: string[]) => run('sinks', 'orders', ...args, '-c', config)
  expect(await call('list')).toMatchObject({ code: 0, stdout: 'orders has no sinks\n' })
  expect((await call('list', '--json')).stdout).toBe('[]\n')
  const wrong = await call('pause', 'cache')
  expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringContaining('no sink "cache"')])
  expect((await call('pause')).code).toBe(2)
})
test('sinks lists what each said last, and pauses and resumes for the server to see', async () => {
  await using rig = new Rig()
  const config = join(rig.dir, 'server.yaml')
  writeFileSync(config, stringify({ dataDir: rig.dir, instancesDir: rig.dir }))
  // Under the name of the rig's sink, so that the running one is the one that is told.
  const sinks = {
    mem: { type: 'file', path: join(rig.dir, 'out') },
    off: { type: 'file', path: join(rig.dir, 'off'), enabled: false },
  }
  writeFileSync(join(rig.dir, 'orders.yaml'), stringify({ sinks }))
  const call = (...args: string[]) => run('sinks', 'orders', ...args, '-c', config)
  const list = async () => JSON.parse((await call('list', '--json')).stdout) as object[]
  rig.memory.refuse = () => ({ error: new Error('no'), retryable: false })
  rig.ops({ kind: 'insert', id: 1, v: 'a' })
  rig.sinks.start()
  await rig.until(() => rig.status.state === 'failed')
  expect(await list()).toMatchObject([
    { sink: 'mem', type: 'file', state: 'failed', paused: false, deadLetters: 0 },
    { sink: 'off', state: 'disabled' },
  ])
  expect((await call('list')).stdout).toMatch(
    /^mem {2}file {2}failed\n {2}position .*\n.*\n {2}error .*shop\.items id=1/,
  )
  rig.memory.refuse = () => undefined
  expect(await call('resume', 'mem')).toMatchObject({ code: 0, stdout: 'mem: goes on\n' })
  await rig.until(() => rig.memory.rows.length === 1)
  expect(await call('pause', 'mem')).toMatchObject({ code: 0, stdout: 'mem: pauses\n' })
  await rig.until(() => rig.status.state === 'paused')
  await rig.sinks.stop()
  rig.state.close()
  expect(await list()).toMatchObject([{ sink: 'mem', state: 'stopped', paused: true }, {}])
  expect((await call('resume', 'mem')).stdout).toContain(
    'at the next start: the server does not run',
  )
  expect(await list()).toMatchObject([{ paused: false }, {}])
})
