/**
 * The Kafka sink on a real broker, with both clients: what arrives where, what is promised when the producer, the broker or
 * the other Sluice goes away, and what a row that is too large does.
 */
import { randomUUID } from 'node:crypto'
import { Admin, Consumer } from '@platformatic/kafka'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { z } from 'zod'
import { kafka } from '../../src/sinks/kafka.ts'
import { clients, options } from '../../src/sinks/kafka/options.ts'
import { kafkajsProducer } from '../../src/sinks/kafka/kafkajs.ts'
import { platformaticProducer } from '../../src/sinks/kafka/platformatic.ts'
import { canalPartition, javaHash } from '../../src/sinks/kafka/rules.ts'
import { SinkBatch } from '../../src/sinks/shape/batch.ts'
import { versionBefore } from '../../src/sinks/shape/version.ts'
import type { Sink, SinkContext } from '../../src/sinks/sink.ts'
import { sharedMysql, uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import { hasService, privateService, sharedService } from '../support/services.ts'
import { context, feed } from './logged.ts'

const never = new AbortController().signal
type Given = Partial<z.input<typeof options>>

interface Arrived {
  readonly partition: number
  readonly key: string | null
  readonly value: string | null
  readonly headers: Record<string, string>
}
/** Everything a read_committed consumer sees in a topic, in the order of partitions and offsets. */
async function arrived(broker: string, topic: string): Promise<Arrived[]> {
  const base = { clientId: 'test', bootstrapBrokers: [broker], retries: 5 }
  const admin = new Admin(base)
  const { topics } = await admin.metadata({ topics: [topic] })
  const count = topics.get(topic)!.partitionsCount
  // up to what is stable: a transaction that is still open is not waited for
  const listed = await admin.listOffsets({
    topics: [
      {
        name: topic,
        partitions: Array.from({ length: count }, (_, partitionIndex) => ({
          partitionIndex,
          timestamp: -1n,
        })),
      },
    ],
    isolationLevel: 1,
  })
  await admin.close()
  const ends = new Map(listed[0]!.partitions.map((p) => [p.partitionIndex, p.offset]))
  const consumer = new Consumer({ ...base, groupId: `g-${randomUUID()}`, isolationLevel: 1 })
  const found: { at: bigint; message: Arrived }[] = []
  const stream = await consumer.consume({
    topics: [topic],
    mode: 'earliest',
    sessionTimeout: 10_000,
    heartbeatInterval: 1000,
    maxWaitTime: 200,
    isolationLevel: 1,
  })
  // a marker behind everything, so that the end is seen whatever the last records are
  const marker = await platformaticProducer({
    brokers: [broker],
    clientId: 'marker',
    timeoutMs: 10_000,
    compression: 'none',
    transactionalId: undefined,
    sasl: undefined,
    tls: undefined,
  })
  await marker.connect()
  const end = Buffer.from(`end-${randomUUID()}`)
  await marker.send(
    [...ends.keys()].map((partition) => ({
      place: { topic, partition },
      key: end,
      value: end,
      headers: [],
    })),
  )
  await marker.close()
  let left = ends.size
  for await (const { partition, offset, key, value, headers } of stream) {
    const text = key?.toString() ?? null
    if (text === end.toString() && --left === 0) break
    if (text?.startsWith('end-')) continue
    found.push({
      at: BigInt(partition) * 1_000_000_000n + offset,
      message: {
        partition,
        key: text,
        value: (value as Buffer | null)?.toString() ?? null,
        headers: Object.fromEntries([...headers].map(([k, v]) => [k.toString(), v.toString()])),
      },
    })
  }
  await stream.close()
  await consumer.close(true)
  return found.sort((a, b) => (a.at < b.at ? -1 : 1)).map(({ message }) => message)
}

describe.skipIf(!hasService('kafka'))('the Kafka sink', () => {
  let mysql: MysqlServer
  let broker: string
  const database = uniqueDatabase('kafka')
  beforeAll(async () => {
    mysql = await sharedMysql('9.7')
    await mysql.query(`CREATE DATABASE ${database}`)
    const { host, port } = sharedService('kafka')
    broker = `${host}:${port}`
  })
  afterAll(async () => {
    await mysql.query(`DROP DATABASE ${database}`)
    await mysql[Symbol.asyncDispose]()
  })
  const open = (given: Given, more: Partial<SinkContext> = {}): Promise<Sink> =>
    kafka.open(options.parse({ brokers: [broker], ...given }), { ...context(), ...more })
  const topicName = (): string => `t-${randomUUID()}`
  let tables = 0
  async function table(columns: string): Promise<string> {
    const name = `t${tables++}`
    await mysql.query(`CREATE TABLE ${database}.${name} (${columns})`)
    return name
  }

  describe.each(clients)('%s', (client) => {
    it('hashes rows to partitions as Canal does, in order, with their headers', async () => {
      const topic = topicName()
      const t = await table('id INT PRIMARY KEY, v VARCHAR(20)')
      const sink = await open({
        client,
        topic,
        partitions: 3,
        partitionHash: String.raw`.*\..*:$pk$`,
      })
      const ids = [1, 2, 3, 4, 5, 6]
      const { batch } = await feed(
        mysql,
        database,
        `INSERT INTO ${t} VALUES ${ids.map((id) => `(${id}, 'a')`).join(',')}; UPDATE ${t} SET v = 'b'; UPDATE ${t} SET v = 'c'`,
      )
      expect(await sink.write(batch, never)).toEqual([])
      await sink.close()
      const all = await arrived(broker, topic)
      const seen = all.flatMap((m) => {
        const { data } = JSON.parse(m.value!) as { data: { id: string; v: string }[] }
        return data.map((row) => ({ ...row, partition: m.partition }))
      })
      for (const id of ids) {
        const of = seen.filter((row) => row.id === String(id))
        expect(of.map((row) => row.v)).toEqual(['a', 'b', 'c'])
        const expected = canalPartition(javaHash(database) ^ javaHash(String(id)), 3)
        expect(new Set(of.map((row) => row.partition))).toEqual(new Set([expected]))
      }
      const versions = all.map((m) => m.headers['x-sluice-version']!)
      expect(versions.every((v) => /^[0-9a-f]{40}$/.test(v))).toBe(true)
      expect(all[0]!.headers).toMatchObject({
        'x-sluice-instance': 'orders',
        'x-sluice-op': 'insert',
      })
      expect(all[0]!.headers['x-sluice-id']).toMatch(/^[0-9a-f-]{36}:\d+\/\d+\.\d+$/)
    })

    it('writes keys, tombstones, and a moved key as delete and insert', async () => {
      const topic = topicName()
      const t = await table('id INT PRIMARY KEY, v VARCHAR(20)')
      const sink = await open({
        client,
        topic,
        format: 'debezium',
        tombstones: true,
        partitions: 1,
      })
      const { batch } = await feed(
        mysql,
        database,
        `INSERT INTO ${t} VALUES (1, 'a'); UPDATE ${t} SET id = 2; DELETE FROM ${t}`,
      )
      await sink.write(batch, never)
      await sink.close()
      const brief = (await arrived(broker, topic)).map((m) => [
        m.key,
        m.value === null ? null : (JSON.parse(m.value) as { op: string }).op,
      ])
      expect(brief).toEqual([
        ['{"id":1}', 'c'],
        ['{"id":1}', 'd'],
        ['{"id":1}', null],
        ['{"id":2}', 'c'],
        ['{"id":2}', 'd'],
        ['{"id":2}', null],
      ])
    })

    it('names topics by template and by rules, and sends statements', async () => {
      const t = await table('id INT PRIMARY KEY, region VARCHAR(20)')
      const byColumn = await open({ client, topic: '{database}-{region}-{table}' })
      const byRule = await open({
        client,
        dynamicTopic: String.raw`ruled.${database}.${t}:${database}\.t.*`,
      })
      const { batch } = await feed(
        mysql,
        database,
        `INSERT INTO ${t} VALUES (1, 'north'), (2, 'süd')`,
      )
      await byColumn.write(batch, never)
      await byRule.write(batch, never)
      const { statements } = await feed(mysql, database, `ALTER TABLE ${t} ADD COLUMN more INT`)
      await byRule.statement!(statements[0]!, never)
      await byColumn.close()
      await byRule.close()
      expect(await arrived(broker, `${database}-north-${t}`)).toHaveLength(1)
      expect(await arrived(broker, `${database}-s_d-${t}`)).toHaveLength(1)
      const ruled = await arrived(broker, `ruled_${database}_${t}`)
      expect(ruled.map((m) => (JSON.parse(m.value!) as { type: string }).type)).toEqual([
        'INSERT',
        'ALTER',
      ])
    })

    it.each(client === 'kafkajs' ? ['gzip', 'zstd'] : ['gzip', 'snappy', 'lz4', 'zstd'])(
      'compresses with %s',
      async (compression) => {
        const topic = topicName()
        const t = await table('id INT PRIMARY KEY, v VARCHAR(200)')
        const sink = await open({ client, topic, compression: compression as 'gzip' })
        const { batch } = await feed(
          mysql,
          database,
          `INSERT INTO ${t} VALUES (1, REPEAT('x', 200))`,
        )
        await sink.write(batch, never)
        await sink.close()
        expect((await arrived(broker, topic))[0]!.value).toContain('x'.repeat(200))
      },
    )

    it('refuses a row that is too large, and writes the others', async () => {
      const topic = topicName()
      const t = await table('id INT PRIMARY KEY, v LONGTEXT')
      const sink = await open({ client, topic, messageBytesMax: 200_000 })
      const { batch } = await feed(
        mysql,
        database,
        `INSERT INTO ${t} VALUES (1, 'a'); INSERT INTO ${t} VALUES (2, REPEAT('x', 300000)); INSERT INTO ${t} VALUES (3, 'b')`,
      )
      const failures = await sink.write(batch, never)
      expect(failures.map(({ index, retryable }) => [index, retryable])).toEqual([[1, false]])
      expect(failures[0]!.error).toMatchObject({ code: 'SINK_DATA' })
      await sink.close()
      expect(await arrived(broker, topic)).toHaveLength(2)
    })

    it('says what the broker refuses', async () => {
      const topic = topicName()
      const admin = new Admin({ clientId: 'test', bootstrapBrokers: [broker] })
      const configs = [{ name: 'max.message.bytes', value: '1000' }]
      await admin.createTopics({ topics: [topic], partitions: 1, replicas: 1, configs })
      await admin.close()
      const t = await table('id INT PRIMARY KEY, v LONGTEXT')
      const { batch } = await feed(
        mysql,
        database,
        `INSERT INTO ${t} VALUES (1, REPEAT('x', 5000))`,
      )
      const sink = await open({ client, topic })
      await expect(sink.write(batch, never)).rejects.toMatchObject({ code: 'SINK_DATA' })
      const absent = await open({ client, topic: topicName(), createTopics: false })
      await expect(absent.write(batch, never)).rejects.toMatchObject({ code: 'SINK_UNSUITABLE' })
      await sink.close()
      await absent.close()
      await expect(open({ client, brokers: ['127.0.0.1:1'] })).rejects.toMatchObject({
        code: 'SINK_UNAVAILABLE',
      })
    })

    describe('exactly once', () => {
      const once = (topic: string): Given => ({
        client,
        topic,
        partitions: 2,
        exactlyOnce: true,
        positionTopic: `${topic}-position`,
      })
      async function rows(count: number): Promise<{ t: string; batches: SinkBatch[] }> {
        const t = await table('id INT PRIMARY KEY, v INT')
        const inserts = Array.from(
          { length: count },
          (_, i) => `INSERT INTO ${t} VALUES (${i}, ${i});`,
        )
        const { batch } = await feed(mysql, database, inserts.join(''))
        const { facts } = batch
        const batches = facts.slices
          .filter(({ changes }) => changes.length > 0)
          .map(({ tx, changes }) => {
            const place = { ...facts.start, file: tx.file, gtids: undefined }
            const start = { ...place, offset: tx.offset }
            const end = { ...place, offset: tx.endOffset }
            const highest = versionBefore(end)
            return new SinkBatch({ ...facts, slices: [{ tx, changes }], start, end, highest })
          })
        return { t, batches }
      }
      const idsOf = (all: readonly Arrived[]): number[] =>
        all
          .flatMap((m) => (JSON.parse(m.value!) as { data: { id: string }[] }).data)
          .map((row) => Number(row.id))
          .sort((a, b) => a - b)

      it('continues behind what is committed, also when everything is given again', async () => {
        const topic = topicName()
        const { batches } = await rows(6)
        const first = await open(once(topic))
        expect(first).toMatchObject({ promise: 'transactional', wholeTransactions: true })
        for (const batch of batches.slice(0, 3)) await first.write(batch, never)
        // it is not closed: it dies
        const second = await open(once(topic))
        expect(second.resume).toMatchObject({ offset: batches[2]!.end.offset })
        for (const batch of batches) await second.write(batch, never)
        await second.close()
        await first.close()
        expect(idsOf(await arrived(broker, topic))).toEqual([0, 1, 2, 3, 4, 5])
      })

      it('undoes what a dead producer left open, and is not seen by read_committed', async () => {
        const topic = topicName()
        const { batches } = await rows(2)
        const sink = await open(once(topic))
        await sink.write(batches[0]!, never)
        await sink.close()
        // as the sink's process would be in the middle of a transaction
        const dead = await (client === 'kafkajs' ? kafkajsProducer : platformaticProducer)(
          {
            brokers: [broker],
            clientId: 'dead',
            timeoutMs: 30_000,
            compression: 'none',
            transactionalId: 'orders/out',
            sasl: undefined,
            tls: undefined,
          },
          context().log,
        )
        await dead.connect()
        await dead.begin()
        const value = Buffer.from('{"data":[{"id":"1"}]}')
        await dead.send([{ place: { topic, partition: 0 }, key: null, value, headers: [] }])
        const next = await open(once(topic))
        for (const batch of batches) await next.write(batch, never)
        await next.close()
        await dead.close()
        expect(idsOf(await arrived(broker, topic))).toEqual([0, 1])
      })

      it('stops the older of two, which writes nothing any more', async () => {
        const topic = topicName()
        const { batches } = await rows(4)
        const older = await open(once(topic))
        await older.write(batches[0]!, never)
        const younger = await open(once(topic), { fence: 2 })
        await younger.write(batches[1]!, never)
        // the runner would try again what may pass
        let error: unknown
        for (let i = 0; i < 5; i++) {
          error = await older.write(batches[1]!, never).catch((e: unknown) => e)
          if ((error as { code?: string }).code !== 'SINK_UNAVAILABLE') break
        }
        expect(error).toMatchObject({ code: 'STATE_FENCED' })
        for (const batch of batches.slice(2)) await younger.write(batch, never)
        await older.close()
        await younger.close()
        expect(idsOf(await arrived(broker, topic))).toEqual([0, 1, 2, 3])
      })

      it('leaves a row that is too large out of the transaction', async () => {
        const topic = topicName()
        const t = await table('id INT PRIMARY KEY, v LONGTEXT')
        const { batch } = await feed(
          mysql,
          database,
          `INSERT INTO ${t} VALUES (1, 'a'); INSERT INTO ${t} VALUES (2, REPEAT('x', 300000)); INSERT INTO ${t} VALUES (3, 'b')`,
        )
        const sink = await open({ ...once(topic), messageBytesMax: 200_000 })
        await expect(sink.write(batch, never)).rejects.toMatchObject({ code: 'SINK_DATA' })
        expect(await arrived(broker, topic)).toEqual([])
        // what the runner's halving comes to
        await sink.write(batch.slice(0, 1), never)
        await expect(sink.write(batch.slice(1, 2), never)).rejects.toMatchObject({
          code: 'SINK_DATA',
        })
        await sink.write(batch.slice(2, 3), never)
        await sink.close()
        expect(idsOf(await arrived(broker, topic))).toEqual([1, 3])
      })

      it('sees all of a write or nothing of it, also when it is called off in the middle', async () => {
        const topic = topicName()
        const t = await table('id INT PRIMARY KEY, v VARCHAR(1000)')
        const values = Array.from({ length: 400 }, (_, i) => `(${i}, REPEAT('y', 900))`)
        const { batch } = await feed(mysql, database, `INSERT INTO ${t} VALUES ${values.join(',')}`)
        const small = { ...once(topic), requestBytes: 16_384 }
        const sink = await open(small)
        const abort = new AbortController()
        const writing = sink.write(batch, abort.signal).catch((e: unknown) => e)
        setTimeout(() => abort.abort(), 60)
        await writing
        await sink.close()
        const next = await open(small)
        await next.write(batch, never)
        await next.close()
        expect(idsOf(await arrived(broker, topic))).toEqual(values.map((_, i) => i))
      })
    })
  })

  describe.each(clients)('%s, when the broker is killed', (client) => {
    it.each([false, true])('loses nothing; exactlyOnce %s', async (exactlyOnce) => {
      await using own = await privateService('kafka')
      const address = `${own.host}:${own.port}`
      const topic = topicName()
      const t = await table('id INT PRIMARY KEY, v VARCHAR(200)')
      const { batch } = await feed(
        mysql,
        database,
        Array.from(
          { length: 40 },
          (_, i) =>
            `INSERT INTO ${t} VALUES ${Array.from({ length: 25 }, (__, j) => `(${i * 25 + j}, REPEAT('z', 150))`).join(',')};`,
        ).join(''),
      )
      const sink = await open({
        client,
        brokers: [address],
        topic,
        exactlyOnce,
        partitions: 1,
        requestBytes: 16_384,
        timeoutMs: 5000,
      })
      const first = sink.write(batch, never).catch((e: unknown) => e)
      await new Promise((resolve) => setTimeout(resolve, 20))
      await own.kill()
      const outcome = await first
      const failed = outcome instanceof Error // else all of it was written before the kill: nobody writes it again
      if (failed) expect(outcome).toMatchObject({ code: 'SINK_UNAVAILABLE' })
      await own.start()
      for (let tries = 0; failed; tries++) {
        const again = await sink.write(batch, never).catch((e: unknown) => e)
        if (!(again instanceof Error)) break
        expect(again).toMatchObject({ code: 'SINK_UNAVAILABLE' })
        expect(tries).toBeLessThan(30)
      }
      await sink.close()
      const ids = (await arrived(address, topic)).flatMap((m) =>
        (JSON.parse(m.value!) as { data: { id: string }[] }).data.map((row) => Number(row.id)),
      )
      const wanted = Array.from({ length: 1000 }, (_, i) => i)
      if (exactlyOnce) expect(ids).toEqual(wanted)
      else expect([...new Set(ids)].sort((a, b) => a - b)).toEqual(wanted)
    })
  })
})
