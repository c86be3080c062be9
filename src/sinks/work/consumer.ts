/**
 * A member of a consumer group: takes messages of its partitions, one piece at a time, and commits their offsets when the
 * piece is written. Heartbeats go on while a write lasts; when the group takes partitions away, no new write is begun and
 * what is not written is not committed, so that the next owner does it again. Knows no rows. kafkajs, because its group
 * protocol lets one see all of that: heartbeats within a batch, and commits by hand.
 */
import type { EachBatchPayload, IMemberAssignment, KafkaMessage } from 'kafkajs'
import type { Logger } from '../../logger.ts'
import { kafkajsClient, retry } from '../kafka/kafkajs.ts'
import { sinkError, tlsOf } from '../kafka/producer.ts'
import type { KafkaOptions } from '../kafka/options.ts'

/** As under `kafka:` of a worker's file. */
export interface BrokerOptions extends Pick<KafkaOptions, 'brokers' | 'sasl' | 'tls'> {
  readonly clientId: string
  readonly timeoutMs: number
  readonly sessionMs: number
  readonly fetchBytes: number
}
export interface Piece {
  readonly topic: string
  readonly partition: number
  readonly messages: readonly KafkaMessage[]
}
export interface ConsumeOptions {
  readonly kafka: BrokerOptions
  readonly topics: readonly string[]
  readonly group: string
  readonly limit: { readonly messages: number; readonly bytes: number }
  readonly log: Logger
  /** The group has given us these partitions, by topic. */
  readonly joined: (partitions: IMemberAssignment) => void
  /** False when `halt` came before all of it was written. Throws what ends the worker's session. */
  readonly write: (piece: Piece, halt: AbortSignal) => Promise<boolean>
}

/** Until `signal`. Throws what `write` throws, SINK_UNAVAILABLE and SINK_UNSUITABLE for what is wrong with Kafka. */
export async function consume(options: ConsumeOptions, signal: AbortSignal): Promise<void> {
  const { kafka, topics, group, log } = options
  const tls = tlsOf(kafka.tls)
  const client = await kafkajsClient({ ...kafka, sasl: kafka.sasl, tls }, log)
  const heartbeatMs = Math.min(3000, Math.floor(kafka.sessionMs / 3))
  const consumer = client.consumer({
    groupId: group,
    sessionTimeout: kafka.sessionMs,
    rebalanceTimeout: Math.max(60_000, kafka.sessionMs),
    heartbeatInterval: heartbeatMs,
    maxBytesPerPartition: kafka.fetchBytes,
    maxWaitTimeInMs: 500,
    allowAutoTopicCreation: false,
    retry: { ...retry, restartOnFailure: () => Promise.resolve(false) },
  })
  const end = Promise.withResolvers<void>()
  end.promise.catch(() => {}) // it is awaited below
  const ended = new AbortController() // no new writes
  const stop = (): void => {
    ended.abort()
    end.resolve()
  }
  const fail = (error: unknown): void => {
    ended.abort()
    end.reject(error)
  }
  signal.addEventListener('abort', stop)
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => options.joined(payload.memberAssignment))
  consumer.on(consumer.events.CRASH, ({ payload }) => fail(payload.error))
  try {
    if (signal.aborted) return
    await consumer.connect()
    await consumer.subscribe({ topics: [...topics], fromBeginning: true })
    const member = new Member(options, { ended: ended.signal, heartbeatMs, fail })
    await consumer.run({
      autoCommit: false,
      eachBatchAutoResolve: false,
      eachBatch: (payload) => member.take(payload),
    })
    await end.promise
  } catch (error) {
    throw sinkError(error, `reading ${topics.join(', ')} as ${group}`)
  } finally {
    signal.removeEventListener('abort', stop)
    ended.abort()
    await consumer.disconnect().catch(() => {})
  }
}

interface MemberLife {
  readonly ended: AbortSignal
  readonly heartbeatMs: number
  readonly fail: (error: unknown) => void
}

class Member {
  readonly #options: ConsumeOptions
  readonly #life: MemberLife
  constructor(options: ConsumeOptions, life: MemberLife) {
    this.#options = options
    this.#life = life
  }

  /** What it throws comes from Kafka, which decides what follows: mostly another round of the group. */
  async take(payload: EachBatchPayload): Promise<void> {
    const { ended, heartbeatMs } = this.#life
    const halt = new AbortController()
    const stop = (): void => halt.abort()
    if (ended.aborted) return
    ended.addEventListener('abort', stop)
    let lost: Error | undefined
    const beat = setInterval(() => {
      payload.heartbeat().catch((error: unknown) => {
        lost ??= error as Error
        halt.abort()
      })
    }, heartbeatMs)
    try {
      await this.#pieces(payload, halt.signal)
    } finally {
      clearInterval(beat)
      ended.removeEventListener('abort', stop)
    }
    if (lost !== undefined) throw lost
  }
  async #pieces(payload: EachBatchPayload, halt: AbortSignal): Promise<void> {
    const { topic, partition, messages: all } = payload.batch
    for (const messages of cut(all, this.#options.limit)) {
      if (halt.aborted || !payload.isRunning() || payload.isStale()) return
      let done = false
      try {
        done = await this.#options.write({ topic, partition, messages }, halt)
      } catch (error) {
        this.#life.fail(error)
      }
      if (!done) return
      payload.resolveOffset(messages.at(-1)!.offset)
      await payload.commitOffsetsIfNecessary(payload.uncommittedOffsets())
    }
  }
}

/** Pieces within the limits, of at least one message. */
function* cut(
  messages: readonly KafkaMessage[],
  limit: ConsumeOptions['limit'],
): Generator<KafkaMessage[]> {
  let piece: KafkaMessage[] = []
  let bytes = 0
  for (const message of messages) {
    const size = message.value?.length ?? 0
    if (piece.length > 0 && (piece.length >= limit.messages || bytes + size > limit.bytes)) {
      yield piece
      piece = []
      bytes = 0
    }
    piece.push(message)
    bytes += size
  }
  if (piece.length > 0) yield piece
}
