/** The destinations of the bench of sinks: how each is started and made empty again, and how its sink is configured. */
import { rmSync, mkdtempSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Redis } from 'ioredis'
import { Kafka, logLevel } from 'kafkajs'
import { createConnection } from 'mysql2/promise'
import { Client as Postgres } from 'pg'
import { privateMysql } from '../test/support/mysql.ts'
import { privateService } from '../test/support/services.ts'

export interface Destination extends AsyncDisposable {
  readonly name: string
  readonly url: string // for its ceiling
  readonly sink: object
  /** Takes away what the ceiling wrote. */
  empty(): Promise<void>
}

const nothing = (): Promise<void> => Promise.resolve()

async function redis(): Promise<Destination> {
  const service = await privateService('redis', { settings: { appendonly: 'no' } })
  const { url, port } = service
  return {
    name: 'redis',
    url,
    sink: { type: 'redis', port, rules: [{ kind: 'string', key: 'narrow:{id}' }] },
    async empty() {
      const client = new Redis(url)
      await client.flushall()
      client.disconnect()
    },
    [Symbol.asyncDispose]: () => service[Symbol.asyncDispose](),
  }
}

async function kafka(): Promise<Destination> {
  const service = await privateService('kafka', { optimised: true })
  const broker = `${service.host}:${service.port}`
  const admin = new Kafka({ brokers: [broker], logLevel: logLevel.NOTHING }).admin()
  await admin.connect()
  const topics = ['ceiling', 'narrow'].map((topic) => ({ topic, numPartitions: 4 }))
  await admin.createTopics({ topics, waitForLeaders: false })
  await admin.disconnect()
  return {
    name: 'kafka',
    url: service.url,
    sink: { type: 'kafka', brokers: [broker], topic: 'narrow', format: 'canal-json' },
    empty: nothing,
    [Symbol.asyncDispose]: () => service[Symbol.asyncDispose](),
  }
}

async function elasticsearch(): Promise<Destination> {
  const service = await privateService('elasticsearch', { optimised: true })
  const { url } = service
  return {
    name: 'elasticsearch',
    url,
    sink: { type: 'elasticsearch', nodes: [url], index: 'narrow' },
    empty: nothing,
    [Symbol.asyncDispose]: () => service[Symbol.asyncDispose](),
  }
}

async function postgres(): Promise<Destination> {
  const service = await privateService('postgres')
  const { url } = service
  return {
    name: 'postgres',
    url,
    sink: { type: 'sql', url, table: 'narrow', createTables: true },
    async empty() {
      const client = new Postgres({ connectionString: url })
      await client.connect()
      await client.query('DROP TABLE IF EXISTS narrow')
      await client.end()
    },
    [Symbol.asyncDispose]: () => service[Symbol.asyncDispose](),
  }
}

async function mysqlLike(name: string, version: '9.7' | 'mariadb-10.11'): Promise<Destination> {
  const service = await privateMysql(version)
  const { host, port, user, password } = service
  const url = `mysql://${user}:${password}@${host}:${port}/target`
  await service.query('CREATE DATABASE target')
  return {
    name,
    url,
    sink: { type: 'sql', url, table: 'narrow', createTables: true },
    async empty() {
      const client = await createConnection(url)
      await client.query('DROP TABLE IF EXISTS narrow')
      await client.end()
    },
    [Symbol.asyncDispose]: () => service[Symbol.asyncDispose](),
  }
}

/** Answers 204 to everything. The sink as it is by default, an event a request, or with so many. */
async function http(events?: number): Promise<Destination> {
  const server = createServer((request, response) => {
    request.resume().on('end', () => response.writeHead(204).end())
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const batch = events !== undefined && { mode: 'batch', batchEvents: events }
  return {
    name: 'http',
    url: `${url}?events=${events ?? 1}`,
    sink: { type: 'http', url, ...batch },
    empty: nothing,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

async function file(): Promise<Destination> {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-bench-file-'))
  return Promise.resolve({
    name: 'file',
    url: pathToFileURL(join(dir, 'ceiling.ndjson')).href,
    sink: { type: 'file', path: join(dir, 'changes.ndjson') },
    empty: nothing,
    [Symbol.asyncDispose]: () => Promise.resolve(rmSync(dir, { recursive: true, force: true })),
  })
}

export const destinations: Readonly<Record<string, () => Promise<Destination>>> = {
  redis,
  kafka,
  elasticsearch,
  postgres,
  mysql: () => mysqlLike('mysql', '9.7'),
  mariadb: () => mysqlLike('mariadb', 'mariadb-10.11'),
  http: () => http(),
  'http-batch': () => http(100),
  file,
}
