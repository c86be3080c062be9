/** The HTTP sink against a real receiver: events, signatures, what answers mean. */
import { createHmac } from 'node:crypto'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { http } from '../../src/sinks/http.ts'
import type { SinkBatch } from '../../src/sinks/shape/batch.ts'
import type { Sink } from '../../src/sinks/sink.ts'
import { freePort } from '../support/sluice.ts'
import { sharedMysql, uniqueDatabase, versions, type MysqlServer } from '../support/mysql.ts'
import { context, feed, type Fed } from './logged.ts'
import { Receiver, type Received, type Reply } from './receiver.ts'

interface Event {
  readonly id: string
  readonly type: string
  readonly subject: string
  readonly partitionkey: string
  readonly sluiceversion: string
  readonly data: { readonly op: string; readonly key: { readonly id: number } }
}
let mysql: MysqlServer
let database: string
let fed: Fed
beforeAll(async () => {
  mysql = await sharedMysql(versions[0]!)
  database = uniqueDatabase('http')
  await mysql.query(`CREATE DATABASE ${database}`)
  await mysql.query(`CREATE TABLE ${database}.t (id INT PRIMARY KEY, name VARCHAR(2000))`)
  fed = await feed(
    mysql,
    database,
    `INSERT INTO t VALUES (1, 'one'), (2, NULL); UPDATE t SET id = 3, name = 'ünï "x" 100%' WHERE id = 1;
     DELETE FROM t WHERE id = 2; CREATE TABLE other (n INT)`,
  )
})
afterAll(async () => {
  await mysql?.query(`DROP DATABASE ${database}`)
  await mysql?.[Symbol.asyncDispose]()
})

let receiver: Receiver
let sinks: Sink[]
beforeEach(async () => {
  receiver = await Receiver.start()
  sinks = []
})
afterEach(async () => {
  for (const sink of sinks) await sink.close()
  await receiver[Symbol.asyncDispose]()
})
const { signal } = new AbortController()
/** One request at a time, where a test does not say otherwise: then all events come in the order of the log. */
async function open(more: object = {}): Promise<Sink> {
  const options = http.options.parse({ url: receiver.url, concurrency: 1, ...more })
  expect(http.problems!(options)).toEqual([])
  const sink = await http.open(options, context())
  sinks.push(sink)
  return sink
}
const events = (requests: readonly Received[] = receiver.requests): Event[] =>
  requests.flatMap(({ body }) => {
    const value = JSON.parse(body) as Event | Event[]
    return Array.isArray(value) ? value : [value]
  })
const ids = (requests?: readonly Received[]) => events(requests).map(({ data }) => data.key.id)
/** Answers `first` until it has been given so many times. */
const times = (count: number, first: Reply): ((r: Received) => Reply) => {
  let given = 0
  return () => (given++ < count ? first : { status: 200 })
}
let serial = 0
/** Rows that were never like this before: MySQL logs nothing for a REPLACE that changes nothing. */
const inserts = (from: number, count: number, pad = 1) => {
  serial++
  const rows = Array.from({ length: count }, (_, i) => {
    return `(${from + i}, CONCAT(${serial}, REPEAT('x', ${pad})))`
  })
  return feed(mysql, database, `REPLACE INTO t VALUES ${rows.join(',')}`)
}

describe('an event', () => {
  test('structured: everything in the body, an update of the key as two events in order', async () => {
    const sink = await open()
    expect(await sink.write(fed.batch, signal)).toEqual([])
    expect(receiver.requests[0]!.headers).toMatchObject({
      'content-type': 'application/cloudevents+json',
      'idempotency-key': events()[0]!.id,
    })
    const all = events()
    const subject = (id: number) => `${database}.t/${id}`
    expect(all).toMatchObject([
      {
        type: `sluice.${database}.t.insert`,
        subject: subject(1),
        data: { op: 'insert', key: { id: 1 } },
      },
      { type: `sluice.${database}.t.insert`, subject: subject(2), data: { key: { id: 2 } } },
      {
        type: `sluice.${database}.t.delete`,
        subject: subject(1),
        data: { key: { id: 1 }, after: null },
      },
      {
        type: `sluice.${database}.t.insert`,
        subject: subject(3),
        data: { key: { id: 3 }, before: null },
      },
      { type: `sluice.${database}.t.delete`, subject: subject(2), data: { key: { id: 2 } } },
    ])
    for (const event of all) {
      expect(event).toMatchObject({
        specversion: '1.0',
        source: '/sluice/orders',
        datacontenttype: 'application/json',
        partitionkey: event.subject,
        time: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/) as string,
        sluiceversion: expect.stringMatching(/^[0-9a-f]{40}$/) as string,
      })
    }
    expect(new Set(all.map(({ id }) => id)).size).toBe(5)
    expect(all.map((e) => e.sluiceversion)).toEqual(all.map((e) => e.sluiceversion).sort())
    expect(receiver.connections).toBe(1)
  })
  test('binary: attributes in headers, percent-encoded where a header cannot hold them', async () => {
    const sink = await open({ mode: 'binary' })
    await mysql.query(`CREATE TABLE ${database}.names (name VARCHAR(20) PRIMARY KEY)`)
    const { batch } = await feed(mysql, database, `INSERT INTO names VALUES ('ü "50%"')`)
    await sink.write(batch, signal)
    const { headers, body } = receiver.requests[0]!
    expect(headers).toMatchObject({
      'content-type': 'application/json',
      'ce-specversion': '1.0',
      'ce-type': `sluice.${database}.names.insert`,
      'ce-source': '/sluice/orders',
      'ce-subject': `${database}.names/%C3%BC%20%2250%25%22`,
    })
    expect(JSON.parse(body)).toMatchObject({ op: 'insert', after: { name: 'ü "50%"' } })
  })
  test('batch: lists of at most so many events and bytes', async () => {
    const sink = await open({ mode: 'batch', batchEvents: 3 })
    await sink.write((await inserts(100, 8)).batch, signal)
    expect(receiver.requests.map((r) => events([r]).length)).toEqual([3, 3, 2])
    expect(ids()).toEqual([100, 101, 102, 103, 104, 105, 106, 107])
    const { headers } = receiver.requests[0]!
    expect(headers['content-type']).toBe('application/cloudevents-batch+json')
    expect(headers['idempotency-key']).toBe(`${events()[0]!.id}..${events()[2]!.id}`)
    receiver.requests.length = 0
    const small = await open({ mode: 'batch', batchBytes: '2KiB' })
    await small.write((await inserts(100, 8, 900)).batch, signal)
    expect(receiver.requests.length).toBeGreaterThan(2)
    expect(ids()).toHaveLength(8)
  })
  test('statements where they are wanted', async () => {
    expect((await open()).statement === undefined).toBe(true)
    const sink = await open({ statements: true })
    await sink.statement!(fed.statements.at(-1)!, signal)
    expect(JSON.parse(receiver.requests[0]!.body)).toMatchObject({
      type: `sluice.${database}.other.ddl`,
      data: { kind: 'statement', type: 'CREATE', sql: 'CREATE TABLE other (n INT)' },
    })
  })
})

describe('a signature', () => {
  const old = 'the old secret, long enough'
  const encoded = `whsec_${Buffer.from('the new secret, long enough').toString('base64')}`
  const expected = (secret: string, { headers, body }: Received) => {
    const text = `${headers['webhook-id']}.${headers['webhook-timestamp']}.${body}`
    return `v1,${createHmac('sha256', secret).update(text).digest('base64')}`
  }
  test.each(['structured', 'binary', 'batch'])('in mode %s, by both secrets', async (mode) => {
    const sink = await open({ mode, secret: encoded, previousSecret: old })
    await sink.write(fed.batch, signal)
    for (const request of receiver.requests) {
      const { headers } = request
      expect(headers['webhook-id']).toBe(headers['idempotency-key'])
      expect(Math.abs(Number(headers['webhook-timestamp']) * 1000 - Date.now())).toBeLessThan(
        60_000,
      )
      expect(headers['webhook-signature']!.split(' ')).toEqual([
        expected('the new secret, long enough', request),
        expected(old, request),
      ])
    }
  })
  test('none without a secret', async () => {
    await (
      await open({ headers: { 'x-mine': 'yes' }, bearerToken: 'abc' })
    ).write(fed.batch, signal)
    const { headers } = receiver.requests[0]!
    expect(headers['webhook-signature']).toBeUndefined()
    expect(headers).toMatchObject({ 'x-mine': 'yes', authorization: 'Bearer abc' })
  })
})

describe('an answer', () => {
  test.each([400, 409, 413, 422])('%i refuses a row; the others are delivered', async (status) => {
    receiver.reply = (r) => ({
      status: ids([r]).includes(202) ? status : 200,
      body: 'no such thing',
    })
    const sink = await open()
    const failures = await sink.write((await inserts(200, 4)).batch, signal)
    expect(failures).toMatchObject([{ index: 2, retryable: false, error: { code: 'SINK_DATA' } }])
    expect(failures[0]!.error.message).toContain(`${database}.t/202 at `)
    expect(failures[0]!.error.message).toContain(`got ${status}: no such thing`)
    expect(ids()).toEqual([200, 201, 202, 203])
  })
  test('that refuses a batch is asked again with halves of it, in order', async () => {
    receiver.reply = (r) => ({
      status: ids([r]).some((id) => id === 213 || id === 214) ? 422 : 200,
    })
    const sink = await open({ mode: 'batch' })
    const failures = await sink.write((await inserts(210, 8)).batch, signal)
    expect(failures.map(({ index }) => index)).toEqual([3, 4])
    const taken = receiver.requests.filter((r) => receiver.reply(r).status === 200)
    expect(ids(taken)).toEqual([210, 211, 212, 215, 216, 217])
  })
  test.each([401, 403, 404, 408, 425, 429, 500, 502, 503])(
    '%i is tried again, and what was taken is not sent again',
    async (status) => {
      const sink = await open()
      const { batch } = await inserts(220, 4)
      receiver.reply = (r) => ({ status: ids([r]).includes(222) ? status : 200 })
      await expect(sink.write(batch, signal)).rejects.toMatchObject({ code: 'SINK_UNAVAILABLE' })
      receiver.reply = () => ({ status: 200 })
      expect(await sink.write(batch, signal)).toEqual([])
      expect(ids()).toEqual([220, 221, 222, 222, 223])
    },
  )
  test('with Retry-After is not asked before', async () => {
    const sink = await open()
    receiver.reply = times(1, { status: 429, headers: { 'retry-after': '1' } })
    await expect(sink.write(fed.batch, signal)).rejects.toMatchObject({ code: 'SINK_UNAVAILABLE' })
    const at = performance.now()
    const write = sink.write(fed.batch, signal)
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(receiver.requests).toHaveLength(1)
    await write
    // the timer's own precision is one millisecond
    expect(performance.now() - at).toBeGreaterThan(800)
    receiver.reply = times(1, { status: 503, headers: { 'retry-after': 'whenever' } })
    await expect(sink.write((await inserts(1, 1)).batch, signal)).rejects.toThrow('got 503')
  })
  test('with Retry-After can be given up', async () => {
    const sink = await open()
    receiver.reply = times(1, { status: 503, headers: { 'retry-after': '3600' } })
    await expect(sink.write(fed.batch, signal)).rejects.toMatchObject({ code: 'SINK_UNAVAILABLE' })
    const abort = new AbortController()
    const write = sink.write(fed.batch, abort.signal)
    abort.abort()
    await expect(write).rejects.toThrow()
    expect(receiver.requests).toHaveLength(1)
  })
  test('that leads elsewhere stops the sink', async () => {
    await using other = await Receiver.start()
    receiver.reply = () => ({ status: 307, headers: { location: other.url } })
    const sink = await open({ secret: 'a secret of length 22', bearerToken: 'abc' })
    await expect(sink.write(fed.batch, signal)).rejects.toMatchObject({ code: 'SINK_UNSUITABLE' })
    expect(other.requests).toEqual([])
  })
  test('is shown by its beginning only, on one line', async () => {
    receiver.reply = () => ({
      status: 500,
      body: `first\r\nsecond\u0007 ${'long '.repeat(100_000)}`,
    })
    const sink = await open({ url: `${receiver.url}?key=hidden` })
    const error = await sink.write(fed.batch, signal).catch((e: unknown) => e as Error)
    expect((error as Error).message).toMatch(/hook: .* got 500: first second long/)
    expect((error as Error).message.length).toBeLessThan(300)
    expect((error as Error).message).not.toContain('hidden')
  })
})

describe('a receiver that', () => {
  test('does not answer in time', async () => {
    const { promise, resolve } = Promise.withResolvers<void>()
    receiver.reply = () => ({ status: 200, after: promise })
    const sink = await open({ timeoutMs: 50 })
    await expect(sink.write(fed.batch, signal)).rejects.toThrow('no answer within 50 ms')
    resolve()
  })
  test('is not there', async () => {
    const sink = await open({ url: `http://127.0.0.1:${await freePort()}/` })
    await expect(sink.write(fed.batch, signal)).rejects.toMatchObject({ code: 'SINK_UNAVAILABLE' })
  })
  test('cuts the connection', async () => {
    receiver.reply = () => ({ status: 0, reset: true })
    await expect((await open()).write(fed.batch, signal)).rejects.toMatchObject({
      code: 'SINK_UNAVAILABLE',
    })
  })
  test('closed a kept connection meanwhile', async () => {
    const sink = await open()
    await sink.write((await inserts(230, 1)).batch, signal)
    receiver.closeConnections()
    expect(await sink.write((await inserts(231, 1)).batch, signal)).toEqual([])
    expect(ids()).toEqual([230, 231])
    expect(receiver.connections).toBe(2)
  })
  test('is asked by as many at once as allowed, each connection used again', async () => {
    receiver.reply = () => ({ status: 200, after: new Promise((r) => setTimeout(r, 5)) })
    const sink = await open({ concurrency: 3 })
    const batches = await Promise.all(
      [300, 310, 320, 330, 340, 350].map((from) => inserts(from, 5)),
    )
    await Promise.all(batches.map(({ batch }) => sink.write(batch, signal)))
    expect(receiver.runningMost).toBe(3)
    expect(receiver.connections).toBe(3)
    expect(new Set(ids()).size).toBe(30)
  })
  describe.each(['structured', 'batch'])('in mode %s, of two writes beside each other', (mode) => {
    const two = async (): Promise<readonly [SinkBatch, SinkBatch]> => {
      const first = await inserts(500, 6)
      const second = await inserts(500, 6)
      return [first.batch, second.batch]
    }
    test('gets the second while the first is under way, but of a key one after the other', async () => {
      const [one, other] = await two()
      const sink = await open({ mode, concurrency: 12, batchEvents: 2 })
      const { promise, resolve } = Promise.withResolvers<void>()
      receiver.reply = () => ({ status: 200, after: promise })
      const writes = [sink.write(one, signal), sink.write(other, signal)]
      await expect.poll(() => receiver.requests.length).toBe(mode === 'batch' ? 3 : 6)
      await new Promise((done) => setTimeout(done, 50))
      expect(ids()).toEqual([500, 501, 502, 503, 504, 505])
      resolve()
      expect(await Promise.all(writes)).toEqual([[], []])
      expect(ids()).toEqual([...Array(2)].flatMap(() => [500, 501, 502, 503, 504, 505]))
    })
    test('gets nothing more once a request of the first has failed, and all when both are repeated', async () => {
      const [one, other] = await two()
      const sink = await open({ mode, concurrency: 1, batchEvents: 2 })
      receiver.reply = times(1, { status: 503 })
      const writes = [sink.write(one, signal), sink.write(other, signal)]
      const outcomes = await Promise.allSettled(writes)
      expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
      expect(receiver.requests).toHaveLength(1)
      expect([await sink.write(one, signal), await sink.write(other, signal)]).toEqual([[], []])
      const taken = ids(receiver.requests.slice(1))
      expect(taken).toEqual([...Array(2)].flatMap(() => [500, 501, 502, 503, 504, 505]))
    })
  })
  test.each(['structured', 'batch'])(
    'gets several %s requests of one write at once, but of a key one after the other',
    async (mode) => {
      const waiting: (() => void)[] = []
      receiver.reply = () => ({ status: 200, after: new Promise((r) => waiting.push(() => r(0))) })
      const sink = await open({ mode, concurrency: 8, batchEvents: 2 })
      const values = (from: number) => `(${from}, 'a'), (${from + 1}, 'b')`
      const again = (from: number) =>
        `UPDATE t SET name = UUID() WHERE id IN (${from}, ${from + 1})`
      const { batch } = await feed(
        mysql,
        database,
        `REPLACE INTO t VALUES ${[400, 402, 404].map(values).join(',')};
         ${[404, 402, 400].map(again).join(';')}`,
      )
      const write = sink.write(batch, signal)
      let ended = false
      void write.finally(() => (ended = true))
      const first = mode === 'batch' ? 3 : 6
      await expect.poll(() => waiting.length).toBe(first)
      await new Promise((resolve) => setTimeout(resolve, 50))
      expect(receiver.requests).toHaveLength(first) // the second of each key waits for the first
      while (!ended) {
        waiting.pop()?.() // the youngest first
        await new Promise((resolve) => setTimeout(resolve, 1))
      }
      await write
      const taken = Map.groupBy(events(), ({ partitionkey }) => partitionkey)
      expect(taken.size).toBe(6)
      for (const [, two] of taken) {
        const versions = two.map(({ sluiceversion }) => sluiceversion)
        expect(versions).toHaveLength(2)
        expect(versions).toEqual(versions.toSorted())
      }
    },
  )
  test('is left alone when the sink is told to end', async () => {
    receiver.reply = () => ({ status: 200, after: new Promise(() => {}) })
    const abort = new AbortController()
    const write = (await open()).write(fed.batch, abort.signal)
    await expect.poll(() => receiver.requests.length).toBe(1)
    abort.abort()
    await expect(write).rejects.toThrow()
  })
})

test('options that do not go together', () => {
  const problems = (options: object) => http.problems!(http.options.parse(options))
  expect(problems({ url: 'ftp://x/' })).toEqual(['url: expected an http or https URL'])
  expect(problems({ url: 'http://me:secret@x/' })[0]).toContain('no user and password')
  expect(problems({ url: 'nonsense' })[0]).toContain('http or https URL')
  const url = 'http://x/'
  expect(problems({ url, previousSecret: 'a secret of length 22' })).toHaveLength(1)
  expect(problems({ url, tls: { cert: '/x' } })).toHaveLength(1)
  expect(problems({ url, headers: { 'Content-Type': 'x' } })).toHaveLength(1)
  expect(problems({ url, headers: { Authorization: 'x' }, bearerToken: 'y' })).toHaveLength(1)
  expect(() => http.options.parse({ url, headers: { x: 'a\r\nb: c' } })).toThrow('printable')
})
