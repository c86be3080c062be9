/**
 * The Kafka sink in the conformance suite, with both clients, without and with transactions: CloudEvents in one partition,
 * read by a read_committed consumer. The two events of an update of the key are one change.
 */
import { Admin, Consumer } from '@platformatic/kafka'
import { clients } from '../../../src/sinks/kafka/options.ts'
import type { Delivery } from '../../../src/sinks/sink.ts'
import { Proxy } from '../../support/proxy.ts'
import { hasService, privateService, type KafkaService } from '../../support/services.ts'
import { conformance, type Destination, type Place } from '../conformance.ts'
import { seenOfValue, type Seen } from './seen.ts'
import { parseExact, type Exact } from './tables.ts'

type Stream = Awaited<ReturnType<Consumer['consume']>>

class Topic implements Destination {
  readonly promise: Delivery
  readonly refused = 'x'.repeat(1_500_000)
  readonly proxy: Proxy
  readonly #kafka: KafkaService
  readonly #client: string
  readonly #topic: string
  readonly #events: Record<string, Exact>[] = []
  #consumer: Consumer | undefined
  #stream: Stream | undefined
  constructor(kafka: KafkaService, proxy: Proxy, client: string, promise: Delivery) {
    this.#kafka = kafka
    this.proxy = proxy
    this.#client = client
    this.promise = promise
    this.#topic = `changes-${client}-${promise}`
  }
  async prepare(): Promise<void> {
    const base = { clientId: 'conformance', bootstrapBrokers: [this.#kafka.direct] }
    const admin = new Admin(base)
    await admin.createTopics({ topics: [this.#topic], partitions: 1, replicas: 1 })
    await admin.close()
    this.#consumer = new Consumer({ ...base, groupId: this.#topic })
    this.#stream = await this.#consumer.consume({
      topics: [this.#topic],
      mode: 'earliest',
      isolationLevel: 1,
      sessionTimeout: 30_000,
      maxWaitTime: 50,
    })
    this.#stream.on('data', ({ value }) => {
      this.#events.push(parseExact((value as Buffer).toString()) as Record<string, Exact>)
    })
  }
  sink(_place: Place, { host, port }: { host: string; port: number }): object {
    return {
      type: 'kafka',
      brokers: [`${host}:${port}`],
      client: this.#client,
      topic: this.#topic,
      format: 'cloudevents',
      partition: 0,
      timeoutMs: '5s',
      exactlyOnce: this.promise === 'transactional',
      positionTopic: `${this.#topic}-position`,
    }
  }
  async changes({ tables }: Place): Promise<readonly Seen[]> {
    const seen: Seen[] = []
    let old: Record<string, Exact> | undefined
    for (const event of this.#events) {
      const id = event['id'] as string
      const data = event['data'] as Record<string, Exact>
      if (id.endsWith('-old')) {
        old = data
        continue
      }
      const change = { ...data, kind: 'row', id, version: event['sluiceversion']! }
      const whole = old === undefined ? change : { ...change, op: 'update', before: old['before']! }
      old = undefined
      const found = seenOfValue(whole, tables)
      if (found !== undefined) seen.push(found)
    }
    return seen
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stream?.close()
    await this.#consumer?.close(true)
    await this.#kafka[Symbol.asyncDispose]()
  }
}

/** A broker of its own for each: its proxy ends with the scene. */
async function start(client: string, promise: Delivery): Promise<Topic> {
  const proxy = await Proxy.start()
  const kafka = await privateService('kafka', { advertised: proxy.port })
  proxy.target = { host: kafka.host, port: kafka.port }
  return new Topic(kafka, proxy, client, promise)
}

if (hasService('kafka')) {
  for (const client of clients) {
    for (const promise of ['append', 'transactional'] as const)
      conformance(`kafka, ${client}, ${promise}`, () => start(client, promise))
  }
}
