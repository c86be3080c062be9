import { execFileSync, fork } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { checkout, run, start } from './run.ts'

describe('the command line', () => {
  test('help lists every command, and explains each with an example', async () => {
    const { code, stdout } = await run('help')
    expect(code).toBe(0)
    const names = ['serve', 'check', 'tail', 'position', 'schema', 'version', 'help']
    for (const name of names) {
      expect(stdout).toMatch(new RegExp(`^  ${name} `, 'm'))
      const one = await run(name, '--help')
      expect(one.code).toBe(0)
      expect(one.stdout).toContain(`Usage: sluice ${name}`)
      expect(one.stdout).toContain(`Examples:\n  sluice ${name}`)
      expect((await run('help', name)).stdout).toBe(one.stdout)
    }
  })
  test('nothing at all is a usage error', async () => {
    const { code, stderr, stdout } = await run()
    expect([code, stdout]).toEqual([2, ''])
    expect(stderr).toContain('Usage: sluice <command>')
  })
  test.each([
    [['srve'], 'unknown command "srve"; did you mean "serve"?'],
    [['frobnicate'], 'unknown command "frobnicate"; expected one of serve, work, check'],
    [['constructor'], 'unknown command "constructor"'],
    [['tail', 'a', '--jsn'], 'unknown option --jsn of sluice tail; did you mean --json?'],
    [['serve', '--config'], "Option '-c, --config <value>' argument missing"],
    [['serve', 'extra'], 'expected sluice serve [options], found extra'],
    [['tail'], 'expected sluice tail <destination> [options], found nothing'],
    [['tail', 'a', '--limit', '0'], '--limit: expected a whole number of at least 1, found "0"'],
    [['position', 'a', 'move'], 'expected show, set POSITION or reset, found move'],
    [['position', 'a', 'set'], 'expected show, set POSITION or reset, found set'],
  ])('%j is refused with exit code 2', async (args, message) => {
    const { code, stderr, stdout } = await run(...args)
    expect([code, stdout]).toEqual([2, ''])
    expect(stderr).toContain(message)
    expect(stderr).not.toContain('    at ')
  })
  test('a wrong configuration is exit code 2 with every problem', async () => {
    using c = checkout({}, { canal: { prot: 1, port: 'x' } })
    const { code, stderr } = await run('serve', '--config', c.config)
    expect(code).toBe(2)
    expect(stderr).toContain('the configuration has 2 problems:')
    expect(stderr).toContain('canal.prot: unknown key; did you mean "port"?')
  })
  test('an unknown destination names those there are', async () => {
    using c = checkout({ orders: {} })
    const { code, stderr } = await run('tail', 'ordes', '-c', c.config)
    expect(code).toBe(2)
    expect(stderr).toContain('did you mean "orders"?')
  })
  test('version', async () => {
    const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }
    expect((await run('version')).stdout).toBe(`${version}\n`)
    expect((await run('--version')).stdout).toBe(`${version}\n`)
    expect(JSON.parse((await run('version', '--json')).stdout)).toMatchObject({ sluice: version })
  })
  test('schema writes where it is told', async () => {
    using c = checkout({})
    const { code } = await run('schema', '--out', join(c.dir, 'out'))
    expect(code).toBe(0)
    expect(readFileSync(join(c.dir, 'out', 'server.schema.json'), 'utf8')).toBe(
      readFileSync('conf/server.schema.json', 'utf8'),
    )
  })
})

describe('the launcher', () => {
  // An older Node where the machine has one; else ours, in which the launcher runs the command itself.
  const nodes = ['/usr/bin/node', '/usr/local/bin/node'].filter((path) => existsSync(path))
  test.each([process.execPath, ...nodes])(
    '%s: passes arguments, signals and the exit code on',
    async (node) => {
      expect(await start(['nonsense'], {}, node).result).toMatchObject({ code: 2 })
      const shown = await start(['version', '--json'], {}, node).result
      expect(
        Number((JSON.parse(shown.stdout) as { node: string }).node.split('.')[0]),
      ).toBeGreaterThanOrEqual(24)
      using c = checkout({})
      const server = start(['serve', '-c', c.config], {}, node)
      await server.printed('serving Canal clients')
      server.child.kill('SIGTERM')
      expect((await server.result).code).toBe(0)
    },
  )
  test('what runs for long has a small heap unless told otherwise, in the process that was started', async () => {
    using c = checkout({}, { log: { level: '${LEVEL}' } })
    const env = { LEVEL: 'debug', MALLOC_ARENA_MAX: '3', NODE_OPTIONS: '--max-semi-space-size=5' }
    const server = start(['serve', '-c', c.config], env, process.execPath)
    await server.printed('serving Canal clients')
    const words = (file: string): string[] =>
      readFileSync(`/proc/${server.child.pid}/${file}`, 'utf8').split('\0')
    const line = words('cmdline')
    const environment = words('environ').filter((word) => /^(MALLOC|LEVEL)/.test(word))
    server.child.kill('SIGTERM')
    const { code, stdout, stderr } = await server.result
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toContain(`"pid":${server.child.pid},`)
    expect(line).toEqual(
      expect.arrayContaining(['--no-parallel-scavenge', '--heap-growing-percent=30']),
    )
    expect(line).not.toContain('--max-semi-space-size=4') // NODE_OPTIONS has another
    expect(line.filter((word) => word === 'serve')).toHaveLength(1)
    expect(environment.toSorted()).toEqual([
      'LEVEL=debug',
      'MALLOC_ARENA_MAX=3',
      'MALLOC_MMAP_THRESHOLD_=262144',
      'MALLOC_TRIM_THRESHOLD_=1048576',
    ])
  })
  test('a parent with a channel to it keeps it', async () => {
    using c = checkout({})
    const server = fork(
      join(import.meta.dirname, '../../bin/sluice.js'),
      ['serve', '-c', c.config],
      {
        silent: true,
      },
    )
    await once(server.stdout!, 'data')
    server.disconnect() // "the launcher is gone": main.ts stops
    expect(await once(server, 'exit')).toEqual([0, null])
  })
  test('npx sluice works in the checkout', () => {
    // The test runner's own npm settings must not leak in: a user has none.
    const env = Object.fromEntries(Object.entries(process.env).filter(([k]) => !/^npm_/i.test(k)))
    const output = execFileSync('npx', ['sluice', 'version'], {
      encoding: 'utf8',
      env: { ...env, npm_config_offline: 'true' },
    })
    expect(output).toMatch(/^\d+\.\d+\.\d+\n$/m)
  })
})
