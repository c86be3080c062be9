/**
 * The ceiling of the Kafka sink: @platformatic/kafka sends messages that were made beforehand (a key and a flat message
 * of one row, as large as the sink's), idempotent, acks=all, 2,000 a request over 4 partitions.
 */
import { platformaticProducer } from '../../src/sinks/kafka/platformatic.ts'
import { narrow, PREPARED, rows, timed, url } from './common.ts'

const SEND = 2000
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
const messages = Array.from({ length: PREPARED }, (_, id) => ({
  place: { topic: 'ceiling', partition: id % PARTITIONS },
  key: Buffer.from(JSON.stringify({ id })),
  value: Buffer.from(
    JSON.stringify({ database: 'bench', table: 'narrow', type: 'insert', data: narrow(id) }),
  ),
  headers: [],
}))

await timed(async () => {
  for (let from = 0; from < rows; from += SEND) {
    const at = from % PREPARED
    await producer.send(messages.slice(at, at + Math.min(SEND, rows - from)))
  }
})
