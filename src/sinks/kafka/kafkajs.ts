/**
 * The producer of kafkajs: idempotent, acks=all, one request at a time per broker. Beyond gzip it compresses with zstd, by
 * node:zlib.
 */
import { zstdCompress, zstdDecompress } from 'node:zlib'
import { promisify } from 'node:util'
import type { Kafka, Message, Producer as Client, TopicMessages, Transaction } from 'kafkajs'
import type { Logger } from '../../logger.ts'
import { RETRIES, retryMs, type Producer, type ProducerOptions, type Sendable } from './producer.ts'

const codes = { none: 0, gzip: 1, snappy: 2, lz4: 3, zstd: 4 } as const

/** How a client of kafkajs reaches the brokers; of the producer here and of workers (sinks/work/). */
export async function kafkajsClient(
  options: Pick<ProducerOptions, 'brokers' | 'clientId' | 'timeoutMs' | 'sasl' | 'tls'>,
  log: Logger,
): Promise<Kafka> {
  const { default: kafkajs } = await import('kafkajs')
  const { brokers, clientId, timeoutMs, sasl, tls } = options
  kafkajs.CompressionCodecs[kafkajs.CompressionTypes.ZSTD] = () => ({
    compress: ({ buffer }: { buffer: Buffer }) => promisify(zstdCompress)(buffer),
    decompress: promisify(zstdDecompress),
  })
  const { username, password } = sasl ?? {}
  return new kafkajs.Kafka({
    brokers: [...brokers],
    clientId,
    requestTimeout: timeoutMs,
    connectionTimeout: Math.min(timeoutMs, 10_000),
    retry,
    ...(sasl && {
      sasl: { mechanism: sasl.mechanism as 'plain', username: username!, password: password! },
    }),
    ...(tls && { ssl: tls }),
    logLevel: kafkajs.logLevel.WARN,
    logCreator: () => (entry) => log.debug({ kafkajs: entry.log.message }, 'kafkajs'),
  })
}
export const retry = { retries: RETRIES, initialRetryTime: retryMs(0), maxRetryTime: 1000 }

export async function kafkajsProducer(options: ProducerOptions, log: Logger): Promise<Producer> {
  const { timeoutMs, transactionalId, compression } = options
  const kafka = await kafkajsClient(options, log)
  const client = kafka.producer({
    idempotent: true,
    maxInFlightRequests: 1,
    allowAutoTopicCreation: false,
    transactionTimeout: timeoutMs,
    retry,
    ...(transactionalId !== undefined && { transactionalId }),
  })
  return new KafkajsProducer(client, transactionalId !== undefined, codes[compression])
}

class KafkajsProducer implements Producer {
  readonly #client: Client
  readonly #transactional: boolean
  readonly #compression: number
  #transaction: Transaction | undefined
  constructor(client: Client, transactional: boolean, compression: number) {
    this.#client = client
    this.#transactional = transactional
    this.#compression = compression
  }
  async connect(): Promise<void> {
    await this.#client.connect()
    if (!this.#transactional) return
    const first = await this.#client.transaction() // asks for the producer id
    await first.abort()
  }
  async begin(): Promise<void> {
    this.#transaction = await this.#client.transaction()
  }
  async send(messages: readonly Sendable[]): Promise<void> {
    const topics = new Map<string, Message[]>()
    for (const { place, key, value, headers } of messages) {
      let list = topics.get(place.topic)
      if (list === undefined) topics.set(place.topic, (list = []))
      const named: Record<string, Buffer> = {}
      for (const [name, text] of headers) named[nameOf(name)] = text
      list.push({ partition: place.partition, key, value, headers: named })
    }
    const topicMessages = [...topics].map(([topic, list]): TopicMessages => ({
      topic,
      messages: list,
    }))
    const target = this.#transaction ?? this.#client
    await target.sendBatch({ acks: -1, compression: this.#compression, topicMessages })
  }
  async commit(): Promise<void> {
    await this.#transaction!.commit()
    this.#transaction = undefined
  }
  async abort(): Promise<void> {
    const transaction = this.#transaction
    this.#transaction = undefined
    await transaction?.abort()
  }
  async close(): Promise<void> {
    await this.#client.disconnect().catch(() => {})
  }
}

/** Names of headers are few and constant: their bytes are always the same objects. */
const names = new WeakMap<Buffer, string>()
function nameOf(bytes: Buffer): string {
  let name = names.get(bytes)
  if (name === undefined) names.set(bytes, (name = bytes.toString()))
  return name
}
