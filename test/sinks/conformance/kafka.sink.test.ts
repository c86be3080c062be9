/**
 * The Kafka sink in the conformance suite, with both clients: exactly once with one, at least once with the other. A
 * read_committed consumer keeps what it sees, over a listener of the broker that no proxy stands before.
 */
import { randomUUID } from 'node:crypto'
import { Admin, Consumer } from '@platformatic/kafka'
import { long } from '../../e2e/load.ts'
import { Proxy } from '../../support/proxy.ts'
import { hasService, privateService, type KafkaService } from '../../support/services.ts'
import { conformance, type Destination, type Place } from '../conformance.ts'
import type { Address } from './scene.ts'
import { seenOfValue, type Seen } from './seen.ts'
import { parseExact, type Exact } from './tables.ts'

interface Mode {
  readonly client: 'platformatic' | 'kafkajs'
  readonly exactlyOnce: boolean
}

class Topics implements Destination {
  readonly promise
  readonly refused = 'x'.repeat(1_200_000) // more than a message may have
  readonly proxy: Proxy
  readonly #server: KafkaService
  readonly #mode: Mode
  readonly #seen: Seen[] = []
  #consumer: Consumer | undefined

  private constructor(server: KafkaService, proxy: Proxy, mode: Mode) {
    this.#server = server
    this.proxy = proxy
    this.#mode = mode
    this.promise = mode.exactlyOnce ? ('transactional' as const) : ('append' as const)
  }
  static async open(mode: Mode): Promise<Topics> {
    const proxy = await Proxy.start()
    const server = await privateService('kafka', { advertised: proxy.port })
    proxy.target = server
    return new Topics(server, proxy, mode)
  }
  async prepare({ database, tables }: Place): Promise<void> {
    const base = { clientId: 'conformance', bootstrapBrokers: [this.#server.direct], retries: 10 }
    const topics = tables.map(({ name }) => `${database}.${name}`)
    const admin = new Admin(base)
    await admin.createTopics({ topics, partitions: 3, replicas: 1 })
    await admin.close()
    this.#consumer = new Consumer({ ...base, groupId: `g-${randomUUID()}` })
    const stream = await this.#consumer.consume({
      topics,
      mode: 'earliest',
      isolationLevel: 1,
      maxWaitTime: 100,
      maxBytes: 8 << 20,
    })
    stream.on('data', ({ value }) => {
      if (value) this.#keep(value.toString(), tables)
    })
  }
  sink(_: Place, { host, port }: Address): object {
    return {
      type: 'kafka',
      brokers: [`${host}:${port}`],
      format: 'cloudevents',
      statements: false,
      ...this.#mode,
    }
  }
  async changes(): Promise<readonly Seen[]> {
    return this.#seen
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#consumer?.close(true)
    await this.#server[Symbol.asyncDispose]()
  }

  #keep(text: string, tables: Place['tables']): void {
    const event = parseExact(text) as { [key: string]: Exact }
    // the halves of an update of the key are one change
    const id = (event['id'] as string).replace(/-old$/, '')
    const data = event['data'] as object
    const value = { ...data, kind: 'row', id, version: event['sluiceversion']! }
    const seen = seenOfValue(value, tables)
    if (seen) this.#seen.push(seen)
  }
}

/** In the short form each client and each promise once, in the long one every pair. */
const modes: readonly Mode[] = [
  { client: 'platformatic', exactlyOnce: true },
  { client: 'kafkajs', exactlyOnce: false },
  ...(long
    ? [
        { client: 'platformatic', exactlyOnce: false } as const,
        { client: 'kafkajs', exactlyOnce: true } as const,
      ]
    : []),
]
if (hasService('kafka')) {
  for (const mode of modes)
    conformance(`kafka, ${mode.client}, ${mode.exactlyOnce ? 'exactly' : 'at least'} once`, () =>
      Topics.open(mode),
    )
}
