/**
 * docker-compose.yml without Docker: its settings given to a MySQL of the same version and to a Sluice with the same
 * configuration and environment. That the images build and start is not tested here.
 */
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { parseDocument } from 'yaml'
import { loadServer } from '../src/config/config.ts'
import { start } from './commands/run.ts'
import { privateMysql, versions } from './support/mysql.ts'
import { run } from './support/services/fetch.ts'
import { freePort } from './support/sluice.ts'

interface Service {
  readonly image?: string
  readonly command?: string
  readonly environment: Readonly<Record<string, string>>
  readonly volumes: readonly string[]
  readonly configs: readonly { readonly source: string; readonly target: string }[]
  readonly healthcheck: { readonly test: string }
}
interface Compose {
  readonly services: Readonly<Record<'mysql' | 'sluice', Service>>
  readonly configs: Readonly<Record<string, { readonly content: string }>>
  readonly volumes: Readonly<Record<string, null>>
}
const root = join(import.meta.dirname, '..')
const read = (file: string): string => readFileSync(join(root, file), 'utf8')
/** Substituted as Compose does, with nothing in the environment. */
const text = read('docker-compose.yml').replace(/\$\{\w+:-([^}]*)\}/g, '$1')
const document = parseDocument(text, { uniqueKeys: true })
const compose = document.toJS() as Compose
const { mysql, sluice } = compose.services

test('is YAML in which every name leads somewhere', () => {
  expect([document.errors, document.warnings]).toEqual([[], []])
  expect(text).not.toContain('$')
  for (const { configs, volumes } of [mysql, sluice]) {
    for (const { source } of configs) expect(Object.keys(compose.configs)).toContain(source)
    for (const volume of volumes) {
      const from = volume.split(':')[0]!
      if (from.startsWith('./')) expect(existsSync(join(root, from))).toBe(true)
      else expect(Object.keys(compose.volumes)).toContain(from)
    }
  }
})

test('the environment of sluice is what the instance files use', () => {
  const used = readdirSync(join(root, 'instances')).flatMap((file) =>
    [...read(`instances/${file}`).matchAll(/\$\{([A-Z]\w*)(:-)?/g)].map(([, name]) => name!),
  )
  for (const name of Object.keys(sluice.environment)) expect(used).toContain(name)
})

test('the Dockerfile copies what is there, runs as a plain user, and reads the mounted configuration', () => {
  const lines = read('Dockerfile').split('\n')
  const copied = lines
    .filter((line) => line.startsWith('COPY '))
    .flatMap((line) => line.split(' ').slice(1, -1))
  const sent = read('.dockerignore').trim().split('\n')
  expect(copied.map((name) => `!${name}`)).toEqual(sent.slice(1))
  expect(copied.filter((name) => !existsSync(join(root, name)))).toEqual([])
  expect(lines).toContain('USER node')
  const command = JSON.parse(lines.find((line) => line.startsWith('CMD '))!.slice(4)) as string[]
  expect(sluice.configs.map(({ target }) => target)).toContain(command.at(-1))
})

test('its settings work: MySQL takes them, check finds nothing wrong, serve becomes healthy', async () => {
  const version = mysql.image!.split(':')[1]!
  expect(versions.length === 1 || (versions as readonly string[]).includes(version)).toBe(true)
  await using server = await privateMysql(versions[0]!, { args: mysql.command!.split(' ') })
  await server.query(compose.configs['account']!.content)
  const dir = mkdtempSync(join(tmpdir(), 'sluice-compose-'))
  try {
    const config = join(dir, 'server.yaml')
    const port = await freePort()
    const content = compose.configs['server']!.content
    writeFileSync(config, content)
    expect(loadServer(config, {}).problems).toEqual([])
    expect(loadServer(config, {}).config).toMatchObject({
      canal: { host: '0.0.0.0', port: 11111 },
      dataDir: '/data',
      instancesDir: join(dir, 'instances'),
    })
    mkdirSync(join(dir, 'data'))
    const here = content
      .replace('host: 0.0.0.0', `host: 0.0.0.0, port: ${port}`)
      .replace('/data', join(dir, 'data'))
    writeFileSync(config, here)
    cpSync(join(root, 'instances'), join(dir, 'instances'), { recursive: true })
    const env = {
      ...sluice.environment,
      SLUICE_MYSQL_HOST: server.host,
      SLUICE_MYSQL_PORT: String(server.port),
    }
    const running = start(['serve', '-c', config], env)
    try {
      await running.printed('instance example running')
      const health = sluice.healthcheck.test.replace('11111', String(port))
      expect(health).toContain(String(port))
      await run('sh', ['-c', health])
    } finally {
      running.child.kill('SIGTERM')
    }
    expect((await running.result).code).toBe(0)
    await expect(run('sh', ['-c', sluice.healthcheck.test.replace('11111', '1')])).rejects.toThrow()
    const checked = await start(['check', '-c', config, '--json'], env).result
    expect([checked.code, checked.stdout]).toEqual([0, expect.not.stringContaining('"fail"')])
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
})
