/**
 * What became of the keys of Canal that stand in no file of ours: for each whether Sluice does without it (nothing is
 * lost), or what it did in Canal and what to do instead. docs/coming-from-canal.md has the same table for people.
 */
import type { NoteKind } from './draft.ts'
import type { Found } from './properties.ts'

interface Fate {
  readonly keys: readonly string[] // "x.*": every key that begins with "x."
  readonly off?: readonly string[] // with one of these values it does nothing, in Canal neither
  readonly lost?: true
  readonly text: string
  readonly fix?: string
}

const off = ['false', '0', '-1']

/** Sluice does without these; nothing is lost. */
const unneeded: readonly Fate[] = [
  {
    keys: ['canal.id', 'canal.register.ip', 'canal.zookeeper.flush.period', 'canal.admin.*'],
    text: 'Sluice registers nowhere; its configuration is files',
  },
  {
    keys: ['canal.file.flush.period'],
    text: 'an ack is durable before the next reply, not once a period',
  },
  {
    keys: ['canal.auto.scan', 'canal.auto.scan.interval'],
    text: 'the folder of the instance files is always watched',
  },
  { keys: ['canal.socketChannel'], text: 'there is one way to connect to MySQL' },
  {
    keys: ['canal.instance.global.*'],
    text: 'instances are files; there is no Spring, no manager and no lazy start',
  },
  {
    keys: ['canal.instance.tsdb.*'],
    text: 'table definitions come with the events or from the server; there is no database of them',
  },
  {
    keys: ['canal.instance.memory.*'],
    text: 'the window is counted in bytes (windowBytes) and keeps raw events',
  },
  {
    keys: [
      'canal.instance.detecting.enable',
      'canal.instance.detecting.sql',
      'canal.instance.detecting.interval.time',
      'canal.instance.detecting.retry.threshold',
    ],
    text: 'MySQL itself sends heartbeats on the dump (source.heartbeatMs); a dead connection is noticed by them',
  },
  {
    keys: ['canal.instance.transaction.size'],
    text: 'transactions are kept whole up to partBytes, then delivered in parts, in order',
  },
  {
    keys: ['canal.instance.fallbackIntervalInSeconds'],
    text: 'positions are never searched by time',
  },
  {
    keys: ['canal.instance.network.*', 'canal.instance.connectionCharset'],
    text: 'chosen by Sluice',
  },
  {
    keys: ['canal.instance.defaultDatabaseName'],
    text: 'no connection needs a default database',
  },
  {
    keys: ['canal.instance.filter.druid.ddl'],
    text: 'DDL is not parsed by Druid',
  },
  {
    keys: ['canal.instance.binlog.format', 'canal.instance.binlog.image'],
    text: '`sluice check` tests the format and the row image of the source',
  },
  {
    keys: ['canal.instance.parser.*'],
    text: 'there is one reader per instance, with nothing to tune',
  },
  {
    keys: ['canal.instance.pwdPublicKey'],
    text: 'the key of an encrypted password; see canal.instance.enableDruid',
  },
  {
    keys: [
      'canal.mq.canalBatchSize',
      'canal.mq.canalGetTimeout',
      'canal.mq.build.thread.size',
      'canal.mq.send.thread.size',
    ],
    text: 'a sink takes batches as large as `batch` says, and needs no threads',
  },
  {
    keys: [
      'kafka.batch.size',
      'kafka.linger.ms',
      'kafka.buffer.memory',
      'kafka.max.in.flight.requests.per.connection',
      'kafka.retries',
      'kafka.key.serializer',
      'kafka.value.serializer',
      'kafka.client.id',
      'canal.mq.retries',
      'canal.mq.batchSize',
      'canal.mq.lingerMs',
      'canal.mq.bufferMemory',
    ],
    text: "of Canal's producer; the Kafka sink is idempotent, retries without end and keeps the order",
  },
]

/** These did something in Canal. */
const lost: readonly Fate[] = [
  {
    keys: ['canal.metrics.pull.port'],
    off,
    text: "Canal's metrics, under its names, are not served",
    fix: 'dashboards and alerts have to be written anew',
  },
  {
    keys: ['canal.zkServers'],
    text: 'ZooKeeper: clients found servers through it, and standby servers waited for theirs',
    fix: 'give clients the address of Sluice; run one Sluice per set of destinations',
  },
  {
    keys: ['canal.auto.reset.latest.pos.mode'],
    off,
    text: 'a lost position stops the instance instead of jumping to the end: a jump loses changes',
    fix: '`sluice position <destination> reset` after a look at what is missing',
  },
  {
    keys: ['canal.aliyun.*', 'canal.instance.rds.*'],
    text: 'binlog files are not fetched from OSS',
    fix: 'keep binlogs on the source longer than any stop may last',
  },
  {
    keys: ['canal.withoutNetty'],
    off,
    text: 'the port for clients cannot be left out; it listens on 127.0.0.1',
  },
  {
    keys: ['canal.instance.multi.stream.on'],
    off,
    text: 'PolarDB-X streams are not supported',
    fix: 'one instance per MySQL server',
  },
  {
    keys: ['canal.instance.detecting.heartbeatHaEnable', 'canal.instance.standby.*'],
    off,
    text: 'fail-over to a standby has keys of its own here',
    fix: 'standbys: [{host, port}] in the instance file; what they do not say is as of source',
  },
  {
    keys: [
      'canal.instance.master1.*',
      'canal.instance.master2.*',
      'canal.instance.standby1.*',
      'canal.instance.standby2.*',
    ],
    text: 'group mode (several servers in one destination) is not supported',
    fix: 'one instance per server',
  },
  {
    keys: ['canal.instance.get.ddl.isolation'],
    off,
    text: 'DDL does not come in a batch of its own',
    fix: 'look at the entries of a batch one by one',
  },
  {
    keys: [
      'canal.instance.master.tlsVersions',
      'canal.instance.master.trustCertificateKeyStoreType',
      'canal.instance.master.trustCertificateKeyStoreUrl',
      'canal.instance.master.trustCertificateKeyStorePassword',
      'canal.instance.master.clientCertificateKeyStoreType',
      'canal.instance.master.clientCertificateKeyStoreUrl',
      'canal.instance.master.clientCertificateKeyStorePassword',
    ],
    text: 'Java key stores cannot be read',
    fix: 'keytool -importkeystore … -deststoretype PKCS12, then openssl pkcs12 … to PEM files; name them in source.tls',
  },
  {
    keys: ['canal.mq.dynamicTopicPartitionNum'],
    text: 'numbers of partitions per topic',
    fix: 'one Kafka sink per number, each with its filter and partitionsNum',
  },
  {
    keys: ['canal.mq.accessChannel'],
    off: ['local'],
    text: 'the cloud channel of RocketMQ',
  },
  { keys: ['canal.mq.enableDynamicQueuePartition'], off, text: 'of RocketMQ only' },
  {
    keys: ['kafka.kerberos.enable', 'canal.mq.kafka.kerberos.enable'],
    off,
    text: 'the Kafka sink cannot authenticate by Kerberos',
    fix: 'a listener with SASL PLAIN or SCRAM; then set sinks.kafka.sasl',
  },
  {
    keys: ['kafka.kerberos.*', 'canal.mq.kafka.kerberos.*'],
    text: 'of Kerberos, which the Kafka sink does not have',
  },
  {
    keys: ['kafka.ssl.*'],
    text: 'Java key stores cannot be read, nor can the checks of TLS be changed',
    fix: 'PEM files in sinks.kafka.tls (ca, cert, key)',
  },
  {
    keys: [
      'rocketmq.*',
      'rabbitmq.*',
      'pulsarmq.*',
      'canal.mq.producerGroup',
      'canal.mq.namespace',
    ],
    text: 'there is no sink for RocketMQ, RabbitMQ or Pulsar',
    fix: 'a Kafka sink, an HTTP sink, or a client of the Canal port that forwards',
  },
]

/** Keys of other modes of Canal than the one that is set: Canal itself does not look at them. */
const ofMessageQueues = /^(canal\.mq\.|kafka\.|rocketmq\.|rabbitmq\.|pulsarmq\.)/

const matches = (pattern: string, key: string): boolean =>
  pattern.endsWith('.*') ? key.startsWith(pattern.slice(0, -1)) : pattern === key

/** What to say of a key that nothing was made of. undefined: it does nothing here, and did nothing in Canal. */
export function fateOf(
  { key, value }: Found,
  mode: string,
): { kind: NoteKind; text: string; fix?: string | undefined } | undefined {
  if (ofMessageQueues.test(key) && mode === 'tcp') return undefined
  if (
    /^(kafka|rocketmq|rabbitmq|pulsarmq)\./.test(key) &&
    !key.startsWith(`${mode.toLowerCase()}.`)
  )
    return undefined
  const of = (list: readonly Fate[]): Fate | undefined =>
    list.find((fate) => fate.keys.some((pattern) => matches(pattern, key)))
  const gone = of(lost)
  const done = of(unneeded)
  if (gone?.off?.includes(value.toLowerCase())) return undefined
  if (gone) return { kind: 'lost', text: gone.text, fix: gone.fix }
  if (done) return { kind: 'unneeded', text: done.text }
  return { kind: 'lost', text: 'no key of Canal that is known here' }
}

/** Every key and pattern of the two tables, for the manual's test. */
export const fateKeys: readonly string[] = [...unneeded, ...lost].flatMap((fate) => fate.keys)
