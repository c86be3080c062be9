/**
 * docker-compose.yml without Docker: its settings given to a MySQL of the same version and to a Sluice with the same
 * configuration and environment. That the images build and start is not tested here. Also what else conf/deploy/ has.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { parseAllDocuments, parseDocument } from 'yaml'
import { loadInstance, loadServer } from '../src/config/config.ts'
import { start } from './commands/run.ts'
import { privateMysql, versions } from './support/mysql.ts'
import { findCommand, run } from './support/services/fetch.ts'
import { freePort } from './support/sluice.ts'

interface Service {
  readonly image?: string
  readonly command?: string
  readonly environment?: Readonly<Record<string, string>>
  readonly volumes?: readonly string[]
  readonly configs?: readonly { readonly source: string; readonly target: string }[]
}
const names = ['mysql', 'kafka', 'redis', 'elasticsearch', 'sluice'] as const
interface Compose {
  readonly services: Readonly<Record<(typeof names)[number], Service>>
  readonly configs: Readonly<Record<string, { readonly content: string }>>
  readonly volumes: Readonly<Record<string, null>>
}
const root = join(import.meta.dirname, '..')
const read = (file: string): string => readFileSync(join(root, file), 'utf8')
/** Substituted as Compose does, with nothing in the environment; $$ is a $. */
const text = read('docker-compose.yml')
  .replace(/(?<!\$)\$\{\w+:-([^}]*)\}/g, '$1')
  .replaceAll('$$', '$')
const document = parseDocument(text, { uniqueKeys: true })
const compose = document.toJS() as Compose
const { mysql, sluice, kafka } = compose.services

test('is YAML in which every name leads somewhere', () => {
  expect([document.errors, document.warnings]).toEqual([[], []])
  expect(Object.keys(compose.services)).toEqual(names)
  for (const { configs = [], volumes = [] } of Object.values(compose.services)) {
    for (const { source } of configs) expect(Object.keys(compose.configs)).toContain(source)
    for (const volume of volumes)
      expect(Object.keys(compose.volumes)).toContain(volume.split(':')[0])
  }
})

test('Kafka, Redis and Elasticsearch are configured, and asked, where they listen', () => {
  const { KAFKA_ADVERTISED_LISTENERS: advertised } = kafka.environment!
  expect(compose.configs['shop']!.content).toContain(
    `brokers: [${advertised!.replace('PLAINTEXT://', '')}]`,
  )
  const settings = read('test/support/services/kafka.ts')
  const keys = Object.keys(kafka.environment!).map((name) =>
    name.replace('KAFKA_', '').toLowerCase().replaceAll('_', '.'),
  )
  const unknown = keys.filter(
    (key) => !new RegExp(`^ *'?${key.replaceAll('.', '\\.')}'?:`, 'm').test(settings),
  )
  expect(unknown).toEqual([])
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
  expect(sluice.configs!.map(({ target }) => target)).toContain(command.at(-1))
})

test('its settings work: MySQL takes them, check finds nothing wrong, serve becomes healthy', async () => {
  const version = mysql.image!.split(':')[1]!
  expect(versions.length === 1 || (versions as readonly string[]).includes(version)).toBe(true)
  await using server = await privateMysql(versions[0]!, { args: mysql.command!.split(' ') })
  await server.query(compose.configs['account']!.content)
  await server.query(`CREATE DATABASE ${mysql.environment!['MYSQL_DATABASE']}`)
  const dir = mkdtempSync(join(tmpdir(), 'sluice-compose-'))
  try {
    const config = join(dir, 'server.yaml')
    const [port, adminPort] = [await freePort(), await freePort()]
    const content = compose.configs['server']!.content
    writeFileSync(config, content)
    expect(loadServer(config, {}).problems).toEqual([])
    expect(loadServer(config, {}).config).toMatchObject({
      canal: { host: '0.0.0.0', port: 11111 },
      admin: { host: '0.0.0.0', port: 11112 },
      dataDir: '/data',
      instancesDir: join(dir, 'instances'),
    })
    mkdirSync(join(dir, 'data'))
    const here = content
      .replace('canal: { host: 0.0.0.0', `canal: { host: 0.0.0.0, port: ${port}`)
      .replace('11112', String(adminPort))
      .replace('/data', join(dir, 'data'))
    writeFileSync(config, here)
    mkdirSync(join(dir, 'instances'))
    writeFileSync(join(dir, 'instances', 'shop.yaml'), compose.configs['shop']!.content)
    const env = {
      ...sluice.environment,
      SLUICE_MYSQL_HOST: server.host,
      SLUICE_MYSQL_PORT: String(server.port),
    }
    const running = start(['serve', '-c', config], env)
    try {
      await running.printed('instance shop running')
      const line = read('Dockerfile')
        .split('\n')
        .find((one) => one.includes('/livez'))!
      const [command, ...args] = JSON.parse(line.slice(line.indexOf('['))) as [string, ...string[]]
      const look = (at: number): Promise<string> =>
        run(
          command,
          args.map((arg) => arg.replace('11112', String(at))),
          {},
        )
      await look(adminPort)
      await expect(look(1)).rejects.toThrow()
    } finally {
      running.child.kill('SIGTERM')
    }
    expect((await running.result).code).toBe(0)
    const checked = await start(['check', '-c', config, '--json'], env).result
    expect([checked.code, checked.stdout]).toEqual([0, expect.not.stringContaining('"fail"')])
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
})

interface Manifest {
  readonly kind: string
  readonly metadata: { readonly name: string }
  readonly data?: Readonly<Record<string, string>>
  readonly spec?: {
    readonly template?: {
      readonly spec: {
        readonly containers: readonly [
          {
            readonly ports: readonly { readonly name: string; readonly containerPort: number }[]
            readonly volumeMounts: readonly { readonly name: string; readonly mountPath: string }[]
          },
        ]
        readonly volumes: readonly {
          readonly name: string
          readonly configMap?: { readonly name: string }
        }[]
      }
    }
    readonly volumeClaimTemplates?: readonly { readonly metadata: { readonly name: string } }[]
  }
}

test('the Kubernetes manifests hold a configuration that Sluice takes, mounted where it looks', () => {
  const documents = parseAllDocuments(read('conf/deploy/kubernetes.yaml'), { uniqueKeys: true })
  const manifests = documents.map((one) => one.toJS() as Manifest)
  const maps = manifests.filter(({ kind }) => kind === 'ConfigMap')
  const pod = manifests.find(({ kind }) => kind === 'StatefulSet')!.spec!
  const { containers, volumes } = pod.template!.spec
  const claims = pod.volumeClaimTemplates!.map(({ metadata }) => metadata.name)
  const mounted = containers[0].volumeMounts.map(({ name }) => name)
  expect(mounted.toSorted()).toEqual([...volumes.map(({ name }) => name), ...claims].toSorted())
  expect(volumes.flatMap(({ configMap }) => configMap?.name ?? [])).toEqual(
    maps.map(({ metadata }) => metadata.name),
  )
  const env = { SLUICE_ADMIN_TOKEN: 'x'.repeat(20), SLUICE_MYSQL_PASSWORD: 'p' }
  const dir = mkdtempSync(join(tmpdir(), 'sluice-kubernetes-'))
  try {
    for (const { data } of maps)
      for (const [name, content] of Object.entries(data!)) writeFileSync(join(dir, name), content)
    const { config, problems } = loadServer(join(dir, 'server.yaml'), env)
    expect(problems).toEqual([])
    const ports = [config!.canal.port, config!.admin.port]
    expect(containers[0].ports.map(({ containerPort }) => containerPort)).toEqual(ports)
    const places = containers[0].volumeMounts.map(({ mountPath }) => mountPath)
    expect(places).toEqual(expect.arrayContaining([config!.dataDir, config!.instancesDir]))
    expect(loadInstance(join(dir, 'shop.yaml'), env).problems).toEqual([])
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
})

test('the systemd unit is one, and starts what there is', async () => {
  const unit = join(root, 'conf/deploy/sluice.service')
  expect(read('conf/deploy/sluice.service')).toMatch(/^ExecStart=\S+ sluice serve --config \S+$/m)
  const analyze = findCommand('systemd-analyze') // knows every key; not every machine has it
  if (analyze !== undefined) await run(analyze, ['verify', unit], {})
})
