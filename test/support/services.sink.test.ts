/** The test support itself: what the tests of sinks rely on, with the real client of each server. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Client as ElasticClient } from '@elastic/elasticsearch'
import { Cluster, Redis } from 'ioredis'
import { Kafka, logLevel } from 'kafkajs'
import { createConnection } from 'mysql2/promise'
import { Client as PostgresClient } from 'pg'
import { describe, expect, test } from 'vitest'
import { uniqueDatabase } from './mysql.ts'
import { Proxy } from './proxy.ts'
import {
  hasService,
  privateService,
  redisCluster,
  redisSentinel,
  serviceNames,
  sharedService,
} from './services.ts'
import type { Service, ServiceName } from './services.ts'

/** Writes `value` under `name`, and reads what is there, each time with new connections. */
interface RoundTrip {
  readonly write: (service: Service, name: string, value: string) => Promise<void>
  readonly read: (service: Service, name: string) => Promise<unknown>
}

const kafkaOf = (broker: string): Kafka =>
  new Kafka({ brokers: [broker], logLevel: logLevel.NOTHING, retry: { retries: 20 } })

async function produce(broker: string, topic: string, value: string): Promise<void> {
  const producer = kafkaOf(broker).producer({ idempotent: true })
  await producer.connect()
  await producer.send({ topic, acks: -1, messages: [{ key: 'k', value }] })
  await producer.disconnect()
}

async function consume(broker: string, topic: string): Promise<string | undefined> {
  const consumer = kafkaOf(broker).consumer({ groupId: uniqueDatabase('group') })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  const first = new Promise<string | undefined>((resolve) => {
    void consumer.run({
      eachMessage: async ({ message }) => resolve(message.value?.toString()),
    })
  })
  const value = await first
  await consumer.disconnect()
  return value
}

const overHttp: RoundTrip = {
  async write({ url }, index, value) {
    const headers = { 'content-type': 'application/json' }
    const body = JSON.stringify({ value })
    const response = await fetch(`${url}/${index}/_doc/1`, { method: 'PUT', headers, body })
    expect(await response.json()).toMatchObject({ result: 'created' })
  },
  async read({ url }, index) {
    const response = await fetch(`${url}/${index}/_doc/1`)
    return ((await response.json()) as { _source: { value: string } })._source.value
  },
}

const roundTrips: Readonly<Record<ServiceName, RoundTrip>> = {
  redis: {
    async write({ url }, name, value) {
      const client = new Redis(url)
      await client.set(name, value)
      client.disconnect()
    },
    async read({ url }, name) {
      const client = new Redis(url)
      const value = await client.get(name)
      client.disconnect()
      return value
    },
  },
  kafka: {
    write: ({ host, port }, name, value) => produce(`${host}:${port}`, name, value),
    read: ({ host, port }, name) => consume(`${host}:${port}`, name),
  },
  elasticsearch: {
    async write({ url }, index, value) {
      const client = new ElasticClient({ node: url })
      await client.index({ index, id: '1', document: { value } })
      await client.close()
    },
    async read({ url }, index) {
      const client = new ElasticClient({ node: url, maxRetries: 10 })
      const { _source } = await client.get<{ value: string }>({ index, id: '1' })
      await client.close()
      return _source?.value
    },
  },
  opensearch: overHttp,
  postgres: {
    async write({ url }, name, value) {
      const client = new PostgresClient(url)
      await client.connect()
      await client.query(`CREATE TABLE ${name} (v TEXT)`)
      await client.query(`INSERT INTO ${name} VALUES ($1)`, [value])
      await client.end()
    },
    async read({ url }, name) {
      const client = new PostgresClient(url)
      await client.connect()
      const { rows } = await client.query<{ v: string }>(`SELECT v FROM ${name}`)
      await client.end()
      return rows[0]?.v
    },
  },
  mariadb: {
    async write({ url }, name, value) {
      await using client = await createConnection(url)
      await client.query(`CREATE DATABASE ${name}`)
      await client.query(`CREATE TABLE ${name}.t (v TEXT)`)
      await client.query(`INSERT INTO ${name}.t VALUES (?)`, [value])
    },
    async read({ url }, name) {
      await using client = await createConnection(url)
      const [rows] = await client.query(`SELECT v FROM ${name}.t`)
      return (rows as { v: string }[])[0]?.v
    },
  },
}

describe.each(serviceNames.filter(hasService))('%s', (name) => {
  const { write, read } = roundTrips[name]

  test('the shared one takes what a client writes, and is not ours to stop', async () => {
    const service = sharedService(name)
    const unique = uniqueDatabase('shared')
    await write(service, unique, 'a value')
    expect(await read(service, unique)).toBe('a value')
    await expect(service.kill()).rejects.toThrow('shared')
  })

  test(
    'a private one keeps what was written when it is killed, and goes without trace',
    { timeout: 300_000 },
    async () => {
      const service = await privateService(name)
      const { dir, port, host } = service
      try {
        await write(service, 'kept', 'a value')
        await service.kill()
        expect(await answers(host, port)).toBe(false)
        await service.start()
        expect(await read(service, 'kept')).toBe('a value')
        expect(await answers(host, port)).toBe(true)
        await service.stop()
        expect(await answers(host, port)).toBe(false)
      } finally {
        await service[Symbol.asyncDispose]()
      }
      expect(await answers(host, port)).toBe(false)
      expect(existsSync(dir!)).toBe(false)
    },
  )
})

// what ends them is one mechanism; PostgreSQL is ended by another signal
const quick = (['redis', 'postgres'] as const).filter(hasService)
describe.each(quick)('%s', (name) => {
  test('nothing is left of one whose process was killed', async () => {
    const script = `
      import { privateService } from ${JSON.stringify(join(import.meta.dirname, 'services.ts'))}
      const { port, dir } = await privateService('${name}')
      console.log(JSON.stringify({ port, dir }))
      setInterval(() => undefined, 1000)`
    const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const line = await createInterface({ input: child.stdout })[Symbol.asyncIterator]().next()
    const { port, dir } = JSON.parse(line.value as string) as { port: number; dir: string }
    const left = async () => (await answers('127.0.0.1', port)) || existsSync(dir)
    expect(await left()).toBe(true)
    child.kill('SIGKILL')
    await once(child, 'exit')
    await expect.poll(left, { timeout: 20_000 }).toBe(false)
  })
})

describe.skipIf(!hasService('kafka'))('Kafka behind a proxy', () => {
  test('clients stay on the proxy, and an answer lost there is asked for again', async () => {
    await using proxy = await Proxy.start()
    await using kafka = await privateService('kafka', { advertised: proxy.port })
    proxy.target = kafka
    const behind = `127.0.0.1:${proxy.port}`
    await produce(behind, 'proxied', 'first')
    let cuts = 0
    let asked = 0
    proxy.requestRule = (chunk) => {
      // a produce request: length, then key 0
      if (chunk.length > 6 && chunk.readInt16BE(4) === 0) asked++
      return chunk
    }
    proxy.rule = (chunk) => (asked === 1 && cuts++ === 0 ? { cutAfter: 0 } : chunk)
    await produce(behind, 'again', 'second')
    expect(cuts).toBeGreaterThan(0)
    expect(asked).toBeGreaterThan(1)
    proxy.target = undefined
    proxy.cut()
    expect(await consume(kafka.direct, 'again')).toBe('second')
    expect(await consume(kafka.direct, 'proxied')).toBe('first')
  })
})

describe.skipIf(!hasService('kafka'))('Kafka with TLS and an account', () => {
  test('refuses everybody else', async () => {
    const user = { name: 'sink', password: 'secret' }
    await using kafka = await privateService('kafka', { tls: true, user })
    const common = {
      brokers: [`${kafka.host}:${kafka.port}`],
      ssl: { ca: readFileSync(kafka.ca!) },
      logLevel: logLevel.NOTHING,
      retry: { retries: 0 },
    }
    // an object for each client: kafkajs keeps the first one's account in it
    const sasl = (password: string) =>
      ({ mechanism: 'plain', username: user.name, password }) as const
    const known = { ...common, sasl: sasl(user.password), retry: { retries: 20 } }
    const producer = new Kafka(known).producer()
    await producer.connect()
    await producer.send({ topic: 'safe', messages: [{ value: 'a value' }] })
    await producer.disconnect()
    const stranger = new Kafka({ ...common, sasl: sasl('wrong') }).admin()
    await expect(stranger.connect().then(() => stranger.listTopics())).rejects.toThrow(
      'Invalid username or password',
    )
    await stranger.disconnect()
    expect(await consume(kafka.direct, 'safe')).toBe('a value')
  })
})

test.skipIf(!hasService('postgres'))('PostgreSQL speaks TLS', async () => {
  await using service = await privateService('postgres', { tls: true })
  const ssl = { ca: readFileSync(service.ca!, 'utf8') }
  const client = new PostgresClient({ connectionString: service.url, ssl })
  await client.connect()
  const { rows } = await client.query('SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()')
  expect(rows).toEqual([{ ssl: true }])
  await client.end()
})

describe.skipIf(!hasService('redis'))('Redis', () => {
  test('with TLS and an account refuses everybody else', async () => {
    const user = { name: 'cache', password: 'secret', rules: '~a:* +@all' }
    await using service = await privateService('redis', { tls: true, user })
    const client = new Redis(service.url, { tls: { ca: readFileSync(service.ca!) } })
    await client.set('a:1', 'x')
    expect(await client.get('a:1')).toBe('x')
    await expect(client.set('b:1', 'x')).rejects.toThrow('NOPERM')
    client.disconnect()
    const { host, port } = service
    const stranger = new Redis({ host, port, tls: { ca: readFileSync(service.ca!) } })
    await expect(stranger.get('a:1')).rejects.toThrow('NOAUTH')
    stranger.disconnect()
  })

  test('settings of a test win', async () => {
    await using service = await privateService('redis', { settings: { maxmemory: '3mb' } })
    const client = new Redis(service.url)
    expect(await client.config('GET', 'maxmemory')).toEqual(['maxmemory', '3145728'])
    client.disconnect()
  })

  test('a cluster spreads keys over three nodes, each of which may go and come back', async () => {
    await using cluster = await redisCluster()
    const keys = Array.from({ length: 30 }, (_, i) => `key:${i}`)
    const open = () => new Cluster(cluster.nodes.map(({ host, port }) => ({ host, port })))
    const client = open()
    for (const key of keys) await client.set(key, key)
    client.disconnect()
    const sizes = await Promise.all(
      cluster.nodes.map(async ({ url }) => {
        const node = new Redis(url)
        const size = await node.dbsize()
        node.disconnect()
        return size
      }),
    )
    expect(sizes.every((size) => size > 0)).toBe(true)
    expect(sizes.reduce((sum, size) => sum + size)).toBe(keys.length)
    await cluster.nodes[1]!.kill()
    await cluster.nodes[1]!.start()
    const again = open()
    for (const key of keys) expect(await again.get(key)).toBe(key)
    again.disconnect()
  })

  test('a sentinel promotes the replica when the primary is gone', async () => {
    await using set = await redisSentinel()
    const client = new Redis({
      sentinels: [{ host: set.sentinel.host, port: set.sentinel.port }],
      name: set.name,
      maxRetriesPerRequest: null,
    })
    // while there is no primary
    client.on('error', () => undefined)
    await client.set('before', '1')
    expect(await client.wait(1, 5000)).toBe(1)
    await set.primary.kill()
    await client.set('after', '2')
    const replica = new Redis(set.replica.url)
    expect(await replica.mget('before', 'after')).toEqual(['1', '2'])
    expect(await replica.info('replication')).toContain('role:master')
    replica.disconnect()
    client.disconnect()
  })
})

async function answers(host: string, port: number): Promise<boolean> {
  const socket = connect(port, host)
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
