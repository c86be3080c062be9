/**
 * What the sink asks and tells a cluster beside writing: whether a topic is there and how many partitions it has, a new
 * topic, and the last committed record of the position's topic. Uses @platformatic/kafka whatever client writes.
 */
import type { Admin as Client, Consumer } from '@platformatic/kafka'
import { SluiceError } from '../../errors.ts'
import { baseOptions } from './platformatic.ts'
import { isNamed, isUnknownTopic, sinkError, type ProducerOptions } from './producer.ts'

export interface NewTopic {
  readonly partitions: number | undefined
  readonly replication: number | undefined
  readonly configs?: Readonly<Record<string, string>>
}

/** Records asked for at once, from the end: the last one of a transaction is followed by the transaction's end. */
const TAIL = 64n
const IS_CONTROL = 0x20
const IS_TRANSACTIONAL = 0x10
const COMMIT = 1

/** What is read of a partition. */
export interface Range {
  readonly topic: string
  readonly partition: number
  readonly from: bigint
  readonly end: bigint
}
/** The kind of a resource whose settings are asked for. */
const TOPIC = 2

export class Admin {
  readonly #client: Client
  readonly #consumer: Consumer
  private constructor(client: Client, consumer: Consumer) {
    this.#client = client
    this.#consumer = consumer
  }
  static async open(options: ProducerOptions): Promise<Admin> {
    const kafka = await import('@platformatic/kafka')
    const base = baseOptions(options)
    // it joins no group: the name is only for its requests
    const consumer = new kafka.Consumer({ ...base, groupId: options.clientId })
    return new Admin(new kafka.Admin(base), consumer)
  }
  /** Partitions of a topic; undefined where there is none. */
  async partitions(topic: string): Promise<number | undefined> {
    try {
      const { topics } = await this.#client.metadata({
        topics: [topic],
        forceUpdate: true,
        retries: 0,
      })
      return topics.get(topic)?.partitionsCount
    } catch (error) {
      if (isUnknownTopic(error)) return undefined
      throw sinkError(error, `looking for topic ${topic}`)
    }
  }
  /** The partitions of a topic, created unless it is there. Throws SINK_UNSUITABLE when it may not be created. */
  async ensure(topic: string, create: NewTopic | undefined, signal: AbortSignal): Promise<number> {
    const there = await this.partitions(topic)
    if (there !== undefined && there > 0) return there
    if (create === undefined) {
      throw new SluiceError(
        'SINK_UNSUITABLE',
        `Kafka: topic ${topic} is not there, and createTopics is false; create it`,
      )
    }
    await this.#create(topic, create)
    for (let tries = 0; tries < 100 && !signal.aborted; tries++) {
      const count = await this.partitions(topic)
      if (count !== undefined && count > 0) return count
      await new Promise((resolve) => setTimeout(resolve, 50)) // the brokers tell each other
    }
    throw new SluiceError(
      'SINK_UNAVAILABLE',
      `Kafka: topic ${topic} was created but is not there yet`,
    )
  }
  async #create(topic: string, { partitions, replication, configs = {} }: NewTopic): Promise<void> {
    try {
      await this.#client.createTopics({
        topics: [topic],
        partitions: partitions ?? -1,
        replicas: replication ?? -1,
        configs: Object.entries(configs).map(([name, value]) => ({ name, value })),
      })
    } catch (error) {
      if (!isNamed(error, 'TOPIC_ALREADY_EXISTS')) throw sinkError(error, `creating topic ${topic}`)
    }
  }
  /** The value of the last committed record with `key` in partition 0 of a topic. */
  async lastRecord(topic: string, key: string): Promise<Buffer | undefined> {
    try {
      return await this.#last(topic, key)
    } catch (error) {
      throw sinkError(error, `reading the position from topic ${topic}`)
    }
  }
  async #last(topic: string, key: string): Promise<Buffer | undefined> {
    const [first, end] = await this.bounds(topic, 0)
    for (let tail = TAIL; ; tail *= 16n) {
      const from = end - tail > first ? end - tail : first
      const found = await this.#scan(topic, key, from, end)
      if (found !== undefined || from === first) return found
    }
  }
  /** The first offset of a partition, and the one behind its last. */
  async bounds(topic: string, partition: number): Promise<[bigint, bigint]> {
    const ask = async (timestamp: bigint): Promise<bigint> => {
      const listed = await this.#client.listOffsets({
        topics: [{ name: topic, partitions: [{ partitionIndex: partition, timestamp }] }],
      })
      return listed[0]!.partitions[0]!.offset
    }
    return [await ask(-2n), await ask(-1n)]
  }
  /** What is committed is told by the control records: a value counts when its producer's commit follows. */
  async #scan(topic: string, key: string, from: bigint, end: bigint): Promise<Buffer | undefined> {
    const pending = new Map<bigint, Buffer>()
    let found: Buffer | undefined
    for (let at = from; at < end;) {
      const batches = await this.#fetch(topic, at)
      if (batches.length === 0) break
      for (const batch of batches) {
        const { producerId, attributes, records } = batch
        at = batch.firstOffset + BigInt(batch.lastOffsetDelta) + 1n
        if (attributes & IS_CONTROL) {
          if (records[0]?.key?.readInt16BE(2) === COMMIT) found = pending.get(producerId) ?? found
          pending.delete(producerId)
          continue
        }
        for (const record of records) {
          if (record.key?.toString() !== key || record.value === null) continue
          if (attributes & IS_TRANSACTIONAL) pending.set(producerId, Buffer.from(record.value))
          else found = Buffer.from(record.value)
        }
      }
    }
    return found
  }
  /** A setting of a topic, as the broker has it. */
  async setting(topic: string, name: string): Promise<string | undefined> {
    try {
      const [described] = await this.#client.describeConfigs({
        resources: [{ resourceType: TOPIC, resourceName: topic, configurationKeys: [name] }],
      })
      return described?.configs.find((c) => c.name === name)?.value ?? undefined
    } catch (error) {
      throw sinkError(error, `asking for ${name} of topic ${topic}`)
    }
  }
  /**
   * Committed records of a partition from an offset up to `end`; each call of `take` with the offset to go on from. A record's
   * bytes are valid until it returns.
   */
  async read(
    { topic, partition, from, end }: Range,
    take: (key: Buffer | null, value: Buffer | null) => void,
  ): Promise<bigint> {
    const pending = new Map<bigint, (readonly [Buffer | null, Buffer | null])[]>()
    let at = from
    try {
      while (at < end) {
        const batches = await this.#fetch(topic, at, partition)
        if (batches.length === 0) break
        for (const { producerId, attributes, records, firstOffset, lastOffsetDelta } of batches) {
          const next = firstOffset + BigInt(lastOffsetDelta) + 1n
          const seen = at
          at = next
          if (attributes & IS_CONTROL) {
            const held = pending.get(producerId) ?? []
            pending.delete(producerId)
            if (records[0]?.key?.readInt16BE(2) === COMMIT)
              for (const [key, value] of held) take(key, value)
            continue
          }
          for (const { offsetDelta, key, value } of records) {
            // a batch is given whole, also where it begins before the offset that was asked for
            if (firstOffset + BigInt(offsetDelta) < seen) continue
            if ((attributes & IS_TRANSACTIONAL) === 0) take(key, value)
            else {
              const held = pending.get(producerId) ?? []
              held.push([key && Buffer.from(key), value && Buffer.from(value)])
              pending.set(producerId, held)
            }
          }
        }
      }
    } catch (error) {
      throw sinkError(error, `reading topic ${topic}, partition ${partition}`)
    }
    return at
  }
  async #fetch(topic: string, offset: bigint, partition = 0) {
    const { topics } = await this.#consumer.metadata({ topics: [topic], forceUpdate: true })
    const about = topics.get(topic)
    if (about === undefined) throw new Error(`no topic ${topic}`)
    const answer = await this.#consumer.fetch({
      node: about.partitions[partition]!.leader,
      maxWaitTime: 100,
      minBytes: 0,
      maxBytes: 4 * 1024 * 1024,
      isolationLevel: 0,
      topics: [
        {
          topicId: about.id,
          partitions: [
            {
              partition,
              currentLeaderEpoch: -1,
              fetchOffset: offset,
              lastFetchedEpoch: -1,
              partitionMaxBytes: 4 * 1024 * 1024,
            },
          ],
        },
      ],
    })
    return answer.responses[0]?.partitions[0]?.records ?? []
  }
  async close(): Promise<void> {
    await Promise.allSettled([this.#client.close(), this.#consumer.close(true)])
  }
}
