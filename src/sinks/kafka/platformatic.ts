/**
 * The producer of @platformatic/kafka: idempotent always, so one request at a time per broker and acks=all.
 */
import { isIP } from 'node:net'
import type { BaseOptions, Producer as Client } from '@platformatic/kafka'
import { RETRIES, retryMs, type Producer, type ProducerOptions, type Sendable } from './producer.ts'

type Transaction = Awaited<ReturnType<Client['beginTransaction']>>

/** A producer id of "none" makes the broker give out the next epoch, whoever had the transactional id before. */
const NEW_EPOCH = { producerId: -1n, producerEpoch: -1 }

/** What all of its clients need. */
export function baseOptions(options: ProducerOptions): BaseOptions {
  const { brokers, clientId, timeoutMs, sasl, tls } = options
  return {
    clientId,
    bootstrapBrokers: [...brokers],
    timeout: timeoutMs,
    connectTimeout: Math.min(timeoutMs, 10_000),
    retries: RETRIES,
    retryDelay: (_client, _operation, attempt) => retryMs(attempt),
    ...(sasl && {
      sasl: {
        mechanism: sasl.mechanism.toUpperCase() as 'PLAIN' | 'SCRAM-SHA-256' | 'SCRAM-SHA-512',
        username: sasl.username,
        password: sasl.password,
      },
    }),
    // a server is not asked for by an address, only by a name
    ...(tls && { tls, tlsServerName: !brokers.some((broker) => isIP(hostOf(broker))) }),
  }
}

const hostOf = (broker: string): string => broker.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')

export async function platformaticProducer(options: ProducerOptions): Promise<Producer> {
  const { Producer: Client } = await import('@platformatic/kafka')
  const { transactionalId, compression } = options
  const client = new Client({
    ...baseOptions(options),
    idempotent: true,
    compression,
    ...(transactionalId !== undefined && { transactionalId }),
  })
  return new PlatformaticProducer(client, transactionalId !== undefined)
}

class PlatformaticProducer implements Producer {
  readonly #client: Client
  readonly #transactional: boolean
  #transaction: Transaction | undefined
  constructor(client: Client, transactional: boolean) {
    this.#client = client
    this.#transactional = transactional
  }
  async connect(): Promise<void> {
    if (this.#transactional) {
      const first = await this.#client.beginTransaction(NEW_EPOCH)
      await first.cancel()
    } else await this.#client.initIdempotentProducer(NEW_EPOCH)
  }
  async begin(): Promise<void> {
    this.#transaction = await this.#client.beginTransaction()
  }
  async send(messages: readonly Sendable[]): Promise<void> {
    const records = messages.map(({ place, key, value, headers }) => ({
      topic: place.topic,
      partition: place.partition,
      // an empty key is a key
      ...(key !== null && { key }),
      value: value as Buffer, // null is written as null, which the type leaves out
      ...(headers.length > 0 && { headers: new Map(headers) }),
    }))
    await (this.#transaction ?? this.#client).send({ messages: records })
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
    await this.#client.close(true).catch(() => {})
  }
}
