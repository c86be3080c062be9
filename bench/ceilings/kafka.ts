/**
 * The ceiling of the Kafka sink: @platformatic/kafka sends messages that were made beforehand, idempotent, acks=all, over 4
 * partitions, one request after the other. As the sink with its defaults: a FlatMessage holds the rows of one event of the
 * log that go to one partition (an event of 8 KiB has 40 rows of this table, each partition gets 10), it carries the five
 * headers, and a request is sent when it has 512 KiB. (A message for each row and small requests, as it was here before, paid
 * for each row what the sink pays once for ten: the sink passed it.)
 */
import { platformaticProducer } from '../../src/sinks/kafka/platformatic.ts'
import { narrow, PREPARED, timed, url, version } from './common.ts'

const REQUEST_BYTES = 512 * 1024
const ROWS = 10
const PARTITIONS = 4
const producer = await platformaticProducer({
  brokers: [new URL(url).host],
  clientId: 'ceiling',
  timeoutMs: 30_000,
  compression: 'none',
  transactionalId: undefined,
  sasl: undefined,
  tls: undefined,
})
await producer.connect()

function value(from: number): Buffer {
  const data = Array.from({ length: ROWS }, (_, i) => {
    const { id, n, a, b } = narrow(from + i)
    return { id: String(id), n: String(n), a, b }
  })
  const about = { database: 'bench', es: 1767225600000, gtid: '', id: 1, isDdl: false }
  const mysqlType = { id: 'bigint', n: 'int', a: 'char(120)', b: 'char(60)' }
  const sqlType = { id: -5, n: 4, a: 1, b: 1 }
  const end = { table: 'narrow', ts: 1767225600123, type: 'INSERT' }
  const types = { mysqlType, old: null, pkNames: ['id'], sql: '', sqlType }
  return Buffer.from(JSON.stringify({ data, ...about, ...types, ...end }))
}
const header = (name: string, text: string): readonly [Buffer, Buffer] => [
  Buffer.from(`x-sluice-${name}`),
  Buffer.from(text),
]
const messages = Array.from({ length: PREPARED / ROWS }, (_, i) => ({
  place: { topic: 'ceiling', partition: i % PARTITIONS },
  key: null,
  value: value(i * ROWS),
  headers: [
    header('version', version(i)),
    header('id', `3e11fa47-71ca-11e1-9e33-c80aa9429562:17/${i}.0`),
    header('op', 'insert'),
    header('position', 'binlog.000002:1234567'),
    header('instance', 'bench'),
  ],
}))
const each = Math.floor(REQUEST_BYTES / messages[0]!.value.length)

await timed(async (first, last) => {
  const end = Math.ceil(last / ROWS)
  for (let from = Math.ceil(first / ROWS); from < end; from += each) {
    const some = Array.from(
      { length: Math.min(each, end - from) },
      (_, i) => messages[(from + i) % messages.length]!,
    )
    await producer.send(some)
  }
})
