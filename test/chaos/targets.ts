/**
 * The four destinations of the chaos run: how each is started behind a proxy, how its sink is configured, and what is in
 * it. `read` goes around the proxy. A row that is gone is not in the map.
 */
import { Client } from '@elastic/elasticsearch'
import { Redis } from 'ioredis'
import { Kafka, logLevel } from 'kafkajs'
import { Client as Postgres } from 'pg'
import { Proxy } from '../support/proxy.ts'
import { privateService, type Service } from '../support/services.ts'
import type { Account } from './bank.ts'

/** What one destination holds: its rows, and for an append-only one how often each change came. */
export interface Contents {
  readonly rows: ReadonlyMap<number, Account>
  /** "account/counter" → times seen; undefined where only the last state is kept. */
  readonly seen: ReadonlyMap<string, number> | undefined
}
export interface Target extends AsyncDisposable {
  readonly name: string
  readonly service: Service
  readonly proxy: Proxy
  readonly sink: object
  read(): Promise<Contents>
}

const TABLE = 'accounts'

/** A service with a proxy in front of it. */
async function behind(service: Service): Promise<Proxy> {
  return Proxy.start({ host: service.host, port: service.port })
}
/** `url` with the proxy's port. */
function through(service: Service, proxy: Proxy): string {
  const url = new URL(service.url)
  url.port = String(proxy.port)
  return url.toString()
}
function target(
  name: string,
  [service, proxy]: readonly [Service, Proxy],
  sink: object,
  read: () => Promise<Contents>,
): Target {
  return {
    name,
    service,
    proxy,
    sink,
    read,
    async [Symbol.asyncDispose]() {
      await proxy[Symbol.asyncDispose]()
      await service[Symbol.asyncDispose]()
    },
  }
}
const account = (row: { balance: unknown; counter: unknown }): Account => ({
  balance: Number(row.balance),
  counter: Number(row.counter),
})

async function redisTarget(): Promise<Target> {
  const service = await privateService('redis')
  const proxy = await behind(service)
  const sink = {
    type: 'redis',
    port: proxy.port,
    rules: [{ kind: 'hash', key: `${TABLE}:{id}` }],
  }
  return target('redis', [service, proxy], sink, async () => {
    const client = new Redis(service.url)
    try {
      const rows = new Map<number, Account>()
      for (const key of await client.keys(`${TABLE}:*`)) {
        const row = await client.hgetall(key)
        if (row['balance'] !== undefined)
          rows.set(
            Number(key.slice(TABLE.length + 1)),
            account(row as { balance: string; counter: string }),
          )
      }
      return { rows, seen: undefined }
    } finally {
      client.disconnect()
    }
  })
}

async function elasticTarget(): Promise<Target> {
  const service = await privateService('elasticsearch')
  const proxy = await behind(service)
  const sink = { type: 'elasticsearch', nodes: [through(service, proxy)], index: TABLE }
  return target('elasticsearch', [service, proxy], sink, async () => {
    const client = new Client({ node: service.url })
    try {
      await client.indices.refresh({ index: TABLE })
      const found = await client.search<{ id: number; balance: number; counter: number }>({
        index: TABLE,
        size: 10_000,
      })
      const rows = new Map<number, Account>()
      for (const { _source: row } of found.hits.hits)
        if (row?.balance !== undefined) rows.set(row.id, account(row))
      return { rows, seen: undefined }
    } finally {
      await client.close()
    }
  })
}

async function postgresTarget(): Promise<Target> {
  const service = await privateService('postgres')
  const proxy = await behind(service)
  const sink = { type: 'sql', url: through(service, proxy), table: TABLE, createTables: true }
  return target('postgres', [service, proxy], sink, async () => {
    const client = new Postgres({ connectionString: service.url })
    await client.connect()
    try {
      const { rows } = await client.query<{ id: number; balance: number; counter: number }>(
        `SELECT id, balance, counter FROM ${TABLE}`,
      )
      return { rows: new Map(rows.map((row) => [row.id, account(row)])), seen: undefined }
    } finally {
      await client.end()
    }
  })
}

async function kafkaTarget(): Promise<Target> {
  // the broker tells clients where to come back to: the proxy, whose port must be known before the broker starts
  const proxy = await Proxy.start()
  const service = await privateService('kafka', { advertised: proxy.port })
  proxy.target = { host: service.host, port: service.port }
  const sink = {
    type: 'kafka',
    brokers: [`127.0.0.1:${proxy.port}`],
    topic: TABLE,
    format: 'canal-json',
    exactlyOnce: true,
  }
  return target('kafka', [service, proxy], sink, () => consume(service.direct))
}

/** Everything a read_committed consumer sees in the topic, from its beginning to its end. */
async function consume(broker: string): Promise<Contents> {
  const client = new Kafka({ brokers: [broker], logLevel: logLevel.NOTHING })
  const admin = client.admin()
  await admin.connect()
  const ends = new Map(
    (await admin.fetchTopicOffsets(TABLE)).map(({ partition, high }) => [partition, Number(high)]),
  )
  await admin.disconnect()
  const seen = new Map<string, number>()
  const rows = new Map<number, Account>()
  const consumer = client.consumer({
    groupId: `chaos-${Date.now()}`,
    readUncommitted: false,
    minBytes: 1,
    maxWaitTimeInMs: 100,
  })
  await consumer.connect()
  await consumer.subscribe({ topic: TABLE, fromBeginning: true })
  const left = new Set([...ends].filter(([, high]) => high > 0).map(([partition]) => partition))
  if (left.size > 0) {
    const done = Promise.withResolvers<void>()
    await consumer.run({
      eachBatch: (payload) => {
        const { batch } = payload
        for (const { value, offset } of batch.messages) {
          count(value, seen, rows)
          payload.resolveOffset(offset)
        }
        // control records have offsets too and are not messages: ask where the batch ends
        if (Number(batch.lastOffset()) >= ends.get(batch.partition)! - 2)
          left.delete(batch.partition)
        if (left.size === 0) done.resolve()
        return Promise.resolve()
      },
    })
    const timer = setTimeout(() => done.resolve(), 30_000)
    await done.promise
    clearTimeout(timer)
  }
  await consumer.disconnect()
  return { rows, seen }
}

interface FlatRow {
  readonly id: string
  readonly balance: string
  readonly counter: string
}
function count(value: Buffer | null, seen: Map<string, number>, rows: Map<number, Account>): void {
  if (value === null) return
  const message = JSON.parse(value.toString()) as { isDdl: boolean; data: FlatRow[] | null }
  if (message.isDdl || message.data === null) return
  for (const row of message.data) {
    const name = `${row.id}/${row.counter}`
    seen.set(name, (seen.get(name) ?? 0) + 1)
    rows.set(Number(row.id), account(row))
  }
}

export const targets: Readonly<Record<string, () => Promise<Target>>> = {
  redis: redisTarget,
  elasticsearch: elasticTarget,
  postgres: postgresTarget,
  kafka: kafkaTarget,
}
