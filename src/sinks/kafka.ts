/**
 * Kafka: rows as messages of a format. Append: every change at least once, in order within a partition. Exactly once
 * (`exactlyOnce`): rows and position in one Kafka transaction.
 *
 * A producer is idempotent, and one request is on its way at a time while the next is encoded, so that nothing overtakes.
 * After an error nobody can say what of a request still arrives: the producer is closed, and the next write begins with
 * another one. With transactions that fences off what is left of the old one, and the position is read back before
 * anything is written: a commit whose answer was lost is not written twice.
 */
import { randomUUID } from 'node:crypto'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Position } from '../change.ts'
import { SluiceError } from '../errors.ts'
import { Out } from '../out.ts'
import type { Format } from './formats/format.ts'
import { formats } from './formats/index.ts'
import { MessageWriter, type Chunk, type Message } from './formats/messages.ts'
import { Admin } from './kafka/admin.ts'
import { kafkajsProducer } from './kafka/kafkajs.ts'
import { options, problems, type KafkaOptions } from './kafka/options.ts'
import { platformaticProducer } from './kafka/platformatic.ts'
import { laterPosition, readRecord, writeRecord, type PositionRecord } from './kafka/position.ts'
import {
  isFenced,
  sinkError,
  tlsOf,
  type Place,
  type Producer,
  type ProducerOptions,
  type Sendable,
} from './kafka/producer.ts'
import { Router } from './kafka/route.ts'
import type { SinkBatch } from './shape/batch.ts'
import { NO_VERSION } from './shape/version.ts'
import {
  defineSink,
  type RowFailure,
  type Sink,
  type SinkContext,
  type SinkStatement,
} from './sink.ts'

export const kafka = defineSink({
  type: 'kafka',
  summary:
    'Kafka topics, in the formats of Canal, Debezium, CloudEvents and Maxwell; exactly once if wanted',
  options,
  problems,
  open: (o, context) => KafkaSink.open(o, context),
})

/** Who we are: a sink that is opened again after an error is the same owner of its position. */
const process = randomUUID()
/** Positions that this process has made its own, by key and owner. */
const claimed = new Set<string>()

class KafkaSink implements Sink {
  readonly promise
  readonly splitsKeys
  readonly wholeTransactions
  /** Topics are a log, they do not equal tables; but what workers make of them does. */
  readonly mirrors: boolean
  resume: Position | undefined
  seen: Sink['seen']
  readonly #options: KafkaOptions
  readonly #context: SinkContext
  readonly #producerOptions: ProducerOptions
  readonly #router: Router
  readonly #writer: MessageWriter<Place>
  readonly #owner: string
  readonly #position: Place // where the position is
  readonly #positionKey: Buffer
  #admin: Admin | undefined
  #producer: Producer | undefined
  #record: PositionRecord | undefined // as it is in Kafka; undefined until it is ours
  #after = '' // rows up to here may be given again, and are in Kafka; "" once later ones have come

  private constructor(o: KafkaOptions, context: SinkContext) {
    const { instance, sink, server } = context
    const format: Format = formats[o.format]
    this.mirrors = format.mirrors ?? false
    this.#owner = `${process}/${context.fence}`
    this.#options = o
    this.#context = context
    this.#producerOptions = producerOptions(o, context)
    this.promise = o.exactlyOnce ? ('transactional' as const) : ('append' as const)
    this.wholeTransactions = o.exactlyOnce
    this.splitsKeys = format.splitsKeys
    this.#router = new Router(o, o.key !== undefined || !o.format.startsWith('canal'))
    this.#writer = new MessageWriter<Place>({
      format,
      context: { instance, server, options: o.formatOptions },
      route: this.#router.route,
      hashRoute: this.#router,
      headers: o.headers,
      key: o.key,
      tombstones: o.tombstones,
      chunkBytes: Math.min(o.requestBytes, o.messageBytesMax),
    })
    const topic = o.positionTopic ?? `sluice-position-${instance}-${sink}`
    this.#position = { topic, partition: 0 }
    this.#positionKey = Buffer.from(`${instance}/${sink}`)
  }
  static async open(o: KafkaOptions, context: SinkContext): Promise<Sink> {
    const sink = new KafkaSink(o, context)
    try {
      await sink.#connected(context.signal)
    } catch (error) {
      await sink.close()
      throw error
    }
    return sink
  }

  async write(batch: SinkBatch, signal: AbortSignal): Promise<readonly RowFailure[]> {
    const producer = await this.#connected(signal)
    await this.#learn(this.#router.unknown(batch), signal)
    return this.#guarded(producer, 'writing', () =>
      this.#options.exactlyOnce
        ? this.#transact(producer, batch, signal)
        : this.#append(producer, batch, signal),
    )
  }
  async statement(statement: SinkStatement, signal: AbortSignal): Promise<void> {
    const out = new Out(1024)
    const { change, version, end } = statement
    if (!this.#options.statements || version <= this.#after) return
    const topic = this.#statementTopic(change.database, change.table)
    if (topic === undefined || !this.#writer.encoder.statement(statement, Date.now(), out)) return
    const producer = await this.#connected(signal)
    await this.#learn(this.#router.known(topic) ? [] : [topic], signal)
    const { statementPartition: partition } = this.#router
    const value = out.buf.subarray(0, out.at)
    const message = {
      place: { topic, partition },
      key: null,
      value,
      headers: this.#options.headers ? this.#writer.statementHeaders(statement) : [],
    }
    await this.#guarded(producer, `writing a statement to ${topic}`, async () => {
      if (!this.#options.exactlyOnce) return producer.send([message])
      await producer.begin()
      await producer.send([message])
      await this.#commit(producer, version, end)
    })
  }
  async close(): Promise<void> {
    const [producer, admin] = [this.#producer, this.#admin]
    this.#producer = undefined
    this.#admin = undefined
    await Promise.all([producer?.close(), admin?.close()])
  }

  // ── writing ────────────────────────────────────────────────────────────────

  /** Encodes a request while the one before it is on its way. */
  async #append(
    producer: Producer,
    batch: SinkBatch,
    signal: AbortSignal,
  ): Promise<readonly RowFailure[]> {
    const failures: RowFailure[] = []
    await this.#pipe(batch, '', async (chunk) => {
      signal.throwIfAborted()
      await this.#send(producer, this.#fitting(chunk.messages, failures))
    })
    return failures
  }
  /** All in one Kafka transaction; the position goes with the rows. */
  async #transact(
    producer: Producer,
    batch: SinkBatch,
    signal: AbortSignal,
  ): Promise<readonly RowFailure[]> {
    let version = '' // the highest
    await this.#pipe(batch, this.#after, async (chunk) => {
      signal.throwIfAborted()
      if (version === '') await producer.begin()
      for (const message of this.#fitting(chunk.messages, undefined)) {
        if (message.version > version) version = message.version
      }
      await this.#send(producer, chunk.messages)
    })
    if (version !== '') await this.#commit(producer, version, batch.whole ? batch.end : batch.start)
    return []
  }
  async #pipe(
    batch: SinkBatch,
    after: string,
    send: (chunk: Chunk<Place>) => Promise<void>,
  ): Promise<void> {
    let sending: Promise<void> | undefined
    let last: Chunk<Place> | undefined
    try {
      for (const chunk of this.#writer.chunks(batch, Date.now(), after)) {
        if (sending !== undefined) await sending
        if (last !== undefined) this.#writer.free(last)
        last = chunk
        sending = send(chunk)
        sending.catch(() => {}) // it is awaited below
        await nextTurn() // so that it leaves before the next is encoded
      }
    } catch (error) {
      await sending?.catch(() => {}) // nothing of this write may be on its way when it has failed
      throw error
    }
    if (sending !== undefined) await sending
    if (last !== undefined) this.#writer.free(last)
  }
  /** A request has no more for a partition than a batch may have: that is the whole request's limit here. */
  async #send(producer: Producer, messages: readonly Message<Place>[]): Promise<void> {
    const most = this.#options.messageBytesMax
    let from = 0
    let bytes = 0
    for (let i = 0; i < messages.length; i++) {
      bytes += messages[i]!.bytes
      if (bytes <= most || i === from) continue
      await producer.send(messages.slice(from, i))
      from = i
      bytes = messages[i]!.bytes
    }
    if (messages.length > from) await producer.send(from === 0 ? messages : messages.slice(from))
  }
  /**
   * Messages that are not too large. One row that is goes to `failures`; without such a list, and for a message of several
   * rows, SINK_DATA is thrown, and the runner halves the batch until it has found the row.
   */
  #fitting(
    messages: readonly Message<Place>[],
    failures: RowFailure[] | undefined,
  ): readonly Message<Place>[] {
    const most = this.#options.messageBytesMax
    if (messages.every(({ bytes }) => bytes <= most)) return messages
    return messages.filter(({ bytes, place, first, last, version }) => {
      if (bytes <= most) return true
      const error = new SluiceError(
        'SINK_DATA',
        `Kafka: topic ${place.topic}: expected a message of at most ${most} bytes (messageBytesMax), got ${bytes} with the row of version ${version}`,
      )
      if (failures === undefined || first !== last) throw error
      failures.push({ index: first, error, retryable: false })
      return false
    })
  }
  async #commit(producer: Producer, version: string, position: Position): Promise<void> {
    const last = this.#record
    // a row that is written late (a dead letter) does not move the position back
    const place = last && last.version >= version ? last : { version, position }
    const { version: to, position: at } = place
    const record = { owner: this.#owner, fence: this.#context.fence, version: to, position: at }
    await producer.send([this.#recordMessage(record)])
    await producer.commit()
    this.#record = record
    this.#after = ''
  }
  #recordMessage(record: PositionRecord): Sendable {
    return {
      place: this.#position,
      key: this.#positionKey,
      value: writeRecord(record),
      headers: [],
    }
  }
  /** Runs what writes; afterwards, if it failed, the producer is not used again unless it can be. */
  async #guarded<T>(producer: Producer, doing: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      const usable = error instanceof SluiceError && (await aborted(producer))
      if (!usable) {
        this.#producer = undefined
        this.#router.forget()
        await producer.close()
      }
      // Kafka says the same when it has ended a transaction that took too long: the position's owner tells
      if (this.#options.exactlyOnce && isFenced(error)) await this.#readRecord()
      throw sinkError(error, doing)
    }
  }

  // ── connecting ─────────────────────────────────────────────────────────────

  /** The producer, a new one if the last has failed. */
  async #connected(signal: AbortSignal): Promise<Producer> {
    if (this.#producer !== undefined) return this.#producer
    this.#admin ??= await Admin.open(this.#producerOptions)
    if (this.#options.exactlyOnce) {
      await this.#positionTopic(signal)
      await this.#readRecord() // throws when we were replaced
    }
    const { client } = this.#options
    const producer = await (client === 'kafkajs'
      ? kafkajsProducer(this.#producerOptions, this.#context.log)
      : platformaticProducer(this.#producerOptions))
    try {
      await producer.connect()
      if (this.#options.exactlyOnce) await this.#claim(producer)
    } catch (error) {
      await producer.close()
      throw sinkError(error, `connecting to ${this.#options.brokers.join(', ')}`)
    }
    return (this.#producer = producer)
  }
  /** Reads the position back, now that nobody else can write it; the first time makes it ours. */
  async #claim(producer: Producer): Promise<void> {
    const found = await this.#readRecord()
    const { position, fence } = this.#context
    this.#after = found?.version ?? ''
    if (found !== undefined) {
      const { epoch, server } = found.position
      this.seen = { epoch, server }
      this.resume ??= laterPosition(found, position)
    }
    if (found?.owner !== this.#owner) {
      const version = found?.version ?? NO_VERSION
      const record = { owner: this.#owner, fence, version, position: found?.position ?? position }
      await producer.begin()
      await producer.send([this.#recordMessage(record)])
      await producer.commit()
      this.#record = record
      claimed.add(this.#claimKey)
    } else this.#record = found
  }
  get #claimKey(): string {
    return `${this.#position.topic} ${this.#positionKey.toString()} ${this.#owner}`
  }
  /** Throws STATE_FENCED when another Sluice has made the position its own after us. */
  async #readRecord(): Promise<PositionRecord | undefined> {
    const { topic } = this.#position
    const bytes = await this.#admin!.lastRecord(topic, this.#positionKey.toString())
    const record = bytes && readRecord(bytes, topic)
    if (claimed.has(this.#claimKey) && record !== undefined && record.owner !== this.#owner) {
      throw new SluiceError(
        'STATE_FENCED',
        `Kafka: another Sluice has taken over ${this.#positionKey.toString()} in topic ${topic} (its start ${record.fence}; this is start ${this.#context.fence}); this one writes nothing any more`,
      )
    }
    return record
  }
  async #positionTopic(signal: AbortSignal): Promise<void> {
    const configs = {
      'cleanup.policy': 'compact',
      'segment.bytes': '16777216',
      'min.cleanable.dirty.ratio': '0.1',
    }
    const { createTopics, replication } = this.#options
    const create = createTopics ? { partitions: 1, replication, configs } : undefined
    await this.#admin!.ensure(this.#position.topic, create, signal)
  }
  async #learn(topics: Iterable<string>, signal: AbortSignal): Promise<void> {
    const { createTopics, partitions, replication } = this.#options
    const create = createTopics ? { partitions, replication } : undefined
    for (const topic of topics) {
      this.#router.know(topic, await this.#admin!.ensure(topic, create, signal))
    }
  }
  #statementTopic(database: string, table: string): string | undefined {
    const { format: name, formatOptions } = this.#options
    const format: Format = formats[name]
    return format.statementsApart
      ? (formatOptions.source ?? this.#context.instance)
      : this.#router.statementTopic(database, table)
  }
}

/** Whether the producer is as it was before: its transaction is undone, if it had one. */
async function aborted(producer: Producer): Promise<boolean> {
  try {
    await producer.abort()
    return true
  } catch {
    return false
  }
}

/** How to reach the brokers, as who. */
export function producerOptions(
  o: KafkaOptions,
  { instance, sink }: Pick<SinkContext, 'instance' | 'sink'>,
): ProducerOptions {
  const { brokers, timeoutMs, compression, sasl, tls, exactlyOnce } = o
  return {
    brokers,
    clientId: o.clientId ?? `sluice-${instance}-${sink}`,
    timeoutMs,
    compression,
    transactionalId: exactlyOnce ? `${instance}/${sink}` : undefined,
    sasl,
    tls: tlsOf(tls),
  }
}
