/**
 * canal.mq.* and kafka.* of a destination → a Kafka sink that sends the same messages to the same topics and partitions.
 * Pure.
 */
import type { Draft } from './draft.ts'
import type { Found, Keys } from './properties.ts'

/** The name of the sink in the instance file. */
export const SINK = 'kafka'
const at = (key: string): string => `sinks.${SINK}.${key}`

/** `prefix`: of environment variables for secrets; undefined: they stand in the file. */
export function kafkaSink(draft: Draft, keys: Keys, prefix: string | undefined): void {
  draft.set(at('type'), 'kafka', 'canal.serverMode')
  const brokers = keys.find('kafka.bootstrap.servers', 'canal.mq.servers')
  if (brokers) draft.carry(at('brokers'), list(brokers.value), brokers)
  else draft.note('refused', 'kafka.bootstrap.servers', 'expected host:port,…, found nothing')
  const flat = keys.find('canal.mq.flatMessage')
  const format = keys.flag('canal.mq.flatMessage', true) ? 'canal-json' : 'canal-protobuf'
  if (flat) draft.carry(at('format'), format, flat)
  else draft.set(at('format'), format, "Canal's default of canal.mq.flatMessage")
  if (keys.flag('canal.instance.gtidon'))
    draft.set(at('formatOptions.gtid'), true, 'canal.instance.gtidon')
  draft.set(at('headers'), false, 'Canal sends none')
  topics(draft, keys)
  partitions(draft, keys)
  producer(draft, keys)
  security(draft, keys, prefix)
  const ddl = keys.find('canal.instance.filter.query.ddl')
  if (ddl && keys.flag(ddl.key)) draft.carry(at('statements'), false, ddl)
}
const list = (text: string): string[] =>
  text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '')

function topics(draft: Draft, keys: Keys): void {
  const topic = keys.find('canal.mq.topic')
  const rules = keys.find('canal.mq.dynamicTopic')
  if (topic) draft.carry(at('topic'), topic.value, topic)
  else if (rules) {
    draft.note(
      'lost',
      'canal.mq.topic',
      'empty: Canal had no topic for tables that no rule of canal.mq.dynamicTopic matches; here it is {database}.{table}',
      'set sinks.kafka.topic, or leave these tables out by sinks.kafka.filter',
    )
  } else draft.note('refused', 'canal.mq.topic', 'expected a topic, found nothing')
  if (rules) draft.carry(at('dynamicTopic'), rules.value, rules)
}

function partitions(draft: Draft, keys: Keys): void {
  const hash = keys.find('canal.mq.partitionHash')
  const fixed = keys.find('canal.mq.partition')
  const base = keys.find('canal.mq.database.hash')
  if (!hash) {
    const n = keys.number('canal.mq.partition') ?? 0
    if (fixed) draft.carry(at('partition'), n, fixed)
    else draft.set(at('partition'), n, "Canal's default of canal.mq.partition")
    keys.find('canal.mq.partitionsNum')
    return
  }
  draft.carry(at('partitionHash'), hash.value, hash)
  const count = keys.find('canal.mq.partitionsNum')
  const n = keys.number('canal.mq.partitionsNum')
  if (count && n !== undefined && n > 0) draft.carry(at('partitionsNum'), n, count)
  else draft.set(at('partitionsNum'), 1, 'canal.mq.partitionsNum was not set: all in partition 0')
  if (base) draft.carry(at('databaseHash'), keys.flag(base.key, true), base)
}

const KAFKA_BYTES = 1_048_576 // what both take for granted, more or less
function producer(draft: Draft, keys: Keys): void {
  const compression = keys.find('kafka.compression.type', 'canal.mq.compressionType')
  if (compression) draft.carry(at('compression'), compression.value.toLowerCase(), compression)
  const size = keys.find('kafka.max.request.size', 'canal.mq.maxRequestSize')
  const bytes = size && keys.number(size.key)
  if (size && bytes !== undefined && bytes !== KAFKA_BYTES) {
    const most = 64 * 1024 ** 2
    draft.carry(at('messageBytesMax'), Math.min(most, Math.max(1024, bytes)), size)
  }
  const acks = keys.find('kafka.acks', 'canal.mq.acks')
  if (acks && !/^(all|-1)$/i.test(acks.value))
    draft.note(
      'unneeded',
      acks.key,
      'the Kafka sink always waits for all replicas: nothing acked is lost',
    )
}

const mechanisms: Readonly<Record<string, string>> = {
  PLAIN: 'plain',
  'SCRAM-SHA-256': 'scram-sha-256',
  'SCRAM-SHA-512': 'scram-sha-512',
}
function security(draft: Draft, keys: Keys, prefix: string | undefined): void {
  const kerberos = ['kafka.kerberos', 'canal.mq.kafka.kerberos']
  if (!kerberos.some((k) => keys.flag(`${k}.enable`))) {
    for (const k of kerberos)
      keys.find(`${k}.krb5.file`, `${k}.jaas.file`, `${k}.krb5FilePath`, `${k}.jaasFilePath`)
  } else
    draft.note(
      'lost',
      'kafka.kerberos.enable',
      'the Kafka sink cannot authenticate by Kerberos',
      'a listener with SASL PLAIN or SCRAM; then set sinks.kafka.sasl',
    )
  const protocol = keys.find('kafka.security.protocol')
  const [tls, sasl] = [/SSL$/i.test(protocol?.value ?? ''), /^SASL/i.test(protocol?.value ?? '')]
  if (protocol && tls) draft.carry(at('tls.enabled'), true, protocol)
  const named = keys.find('kafka.sasl.mechanism')
  const jaas = keys.find('kafka.sasl.jaas.config')
  if (!sasl) return
  const mechanism = named && mechanisms[named.value.toUpperCase()]
  const account = jaas && accountOf(jaas)
  if (!named || !mechanism || !account) {
    draft.note(
      'refused',
      named && !mechanism ? named.key : 'kafka.sasl.jaas.config',
      `expected a mechanism of ${Object.keys(mechanisms).join(', ')} and username="…" password="…"`,
    )
    return
  }
  draft.carry(at('sasl.mechanism'), mechanism, named)
  draft.carry(at('sasl.username'), account.username, jaas)
  const variable = prefix && `${prefix}_KAFKA_PASSWORD`
  draft.carrySecret(at('sasl.password'), account.password, jaas.key, variable)
}
/** …LoginModule required username="x" password="y"; */
function accountOf({ value }: Found): { username: string; password: string } | undefined {
  const of = (key: string): string | undefined => {
    const match = new RegExp(
      `\\b${key}\\s*=\\s*(?:"((?:[^"\\\\]|\\\\.)*)"|'((?:[^'\\\\]|\\\\.)*)'|([^\\s;]+))`,
    ).exec(value)
    return (match?.[1] ?? match?.[2] ?? match?.[3])?.replace(/\\(.)/g, '$1')
  }
  const [username, password] = [of('username'), of('password')]
  return username === undefined || password === undefined ? undefined : { username, password }
}
