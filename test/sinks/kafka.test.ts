/** Canal's rules, the hashes, the position's record and the options: everything of the Kafka sink that needs no broker. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { GtidSet } from '../../src/gtid.ts'
import { options, problems } from '../../src/sinks/kafka/options.ts'
import { laterPosition, readRecord, writeRecord } from '../../src/sinks/kafka/position.ts'
import { isFenced, sinkError } from '../../src/sinks/kafka/producer.ts'
import {
  canalPartition,
  javaHash,
  keyHash,
  parseHashRules,
  parseTopicRules,
} from '../../src/sinks/kafka/rules.ts'

describe('hashes', () => {
  it('is String.hashCode of Java', () => {
    const known: [string, number][] = [
      ['', 0],
      ['a', 97],
      ['hello', 99162322],
      ['polygenelubricants', -2147483648],
      ['Hello, world!', -1880044555],
      ['😀', 1772899],
      ['中文', 646394],
    ]
    for (const [text, hash] of known) expect(javaHash(text), text).toBe(hash)
  })
  it('takes the least int as Java does', () => {
    expect(canalPartition(-2147483648, 3)).toBe(2)
    expect(canalPartition(-2147483648, 4)).toBe(0)
    expect(canalPartition(-7, 4)).toBe(3)
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 1, max: 1000 }), (hash, n) => {
        const p = canalPartition(hash, n)
        expect(Number.isInteger(p) && p >= 0 && p < n).toBe(true)
      }),
    )
  })
  it("is murmur2 as in Kafka's own tests of its clients", () => {
    const known: [string, number][] = [
      ['21', -973932308],
      ['foobar', -790332482],
      ['a-little-bit-long-string', -985981536],
      ['a-little-bit-longer-string', -1486304829],
      ['lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8', -58897971],
    ]
    for (const [text, hash] of known) {
      const bytes = Buffer.from(`..${text}..`)
      expect(keyHash(bytes, 2, bytes.length - 2), text).toBe(hash & 0x7fffffff)
    }
  })
})

describe("Canal's rules", () => {
  it('names topics: tables before databases, first match wins, dots become underscores', () => {
    const topic = parseTopicRules(
      String.raw`a.b:app.Orders,special:app\.log_.*,archive;app\.user.*`,
    )
    expect(topic('APP', 'orders')).toBe('a_b')
    expect(topic('app', 'log_2026')).toBe('special')
    expect(topic('archive', 'anything')).toBe('archive')
    expect(topic('app', 'UserNames')).toBe('app_usernames')
    expect(topic('app', 'others')).toBeUndefined()
    expect(topic('', 'orders')).toBeUndefined()
  })
  it('chooses what is hashed', () => {
    const rule = parseHashRules(String.raw`app.orders:id^customer,app\..*:$pk$;logs.l`)
    expect(rule('app', 'orders')).toEqual(['id', 'customer'])
    expect(rule('app', 'users')).toBe('key')
    expect(rule('logs', 'L')).toBe('table')
    expect(rule('logs', 'm')).toBeUndefined()
  })
  it('refuses what is no pattern', () => {
    expect(() => parseTopicRules('a:b(')).toThrow('expected a pattern, got "b("')
  })
})

describe('the position', () => {
  const position = {
    epoch: 2,
    server: 'u',
    file: 'binlog.000007',
    offset: 4096,
    skip: 0,
    gtids: GtidSet.parse('00112233-4455-6677-8899-aabbccddeeff:1-5'),
    timestamp: 9,
  }
  const record = { owner: 'o', fence: 3, version: '0'.repeat(40), position }
  it('comes back as it was written', () => {
    const back = readRecord(writeRecord(record), 'p')
    expect({ ...back, position: { ...back.position, gtids: undefined } }).toEqual({
      ...record,
      position: { ...position, gtids: undefined },
    })
    expect(back.position.gtids!.toString()).toBe(position.gtids.toString())
  })
  it('is refused when no Sluice wrote it', () => {
    for (const text of ['', '{}', '{"v":2}', '{"v":1,"version":"x","position":{"gtids":null}}'])
      expect(() => readRecord(Buffer.from(text), 'p')).toThrow('topic p is no position of Sluice')
  })
  it('outranks the local one unless that is further on', () => {
    expect(laterPosition(record, { ...position, offset: 4000 })).toBe(position)
    expect(laterPosition(record, { ...position, offset: 5000 })).toBeUndefined()
    expect(laterPosition(record, { ...position, epoch: 1, offset: 5000 })).toBe(position)
  })
})

describe('errors of the clients', () => {
  const nested = (inner: object): Error =>
    new AggregateError([Object.assign(new Error('inner'), inner)], 'outer')
  it('say what the runner is to do', () => {
    const code = (inner: object): string => sinkError(nested(inner), 'writing').code
    expect(code({ apiId: 'MESSAGE_TOO_LARGE' })).toBe('SINK_DATA')
    expect(code({ type: 'RECORD_LIST_TOO_LARGE' })).toBe('SINK_DATA')
    expect(code({ type: 'TOPIC_AUTHORIZATION_FAILED' })).toBe('SINK_UNSUITABLE')
    expect(code({ code: 'PLT_KFK_AUTHENTICATION' })).toBe('SINK_UNSUITABLE')
    expect(code({ code: 'ECONNREFUSED' })).toBe('SINK_UNAVAILABLE')
    expect(sinkError(nested({}), 'writing').message).toBe('Kafka: writing: inner')
    expect(isFenced(nested({ type: 'INVALID_PRODUCER_EPOCH' }))).toBe(true)
  })
})

describe('options', () => {
  const given = (more: object): string[] =>
    problems(options.parse({ brokers: ['a:9092'], ...more }))
  it('are complete with brokers alone', () => {
    expect(given({})).toEqual([])
  })
  it('tells what does not go together', () => {
    expect(given({ client: 'kafkajs', compression: 'lz4' })).toEqual([
      'compression: expected none, gzip or zstd with client kafkajs, got lz4',
    ])
    expect(given({ tombstones: true })).toEqual([
      'tombstones: expected a key, but format canal-json has none; set key',
    ])
    expect(() => given({ topic: 'a{b' })).toThrow('a topic, in which')
    expect(given({ dynamicTopic: 'x:(' })[0]).toMatch(/^dynamicTopic: expected a pattern/)
    expect(given({ tls: { cert: 'a' } })).toEqual(['tls: expected cert and key together'])
  })
})
