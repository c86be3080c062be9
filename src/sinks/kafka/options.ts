/**
 * Options of the Kafka sink, all described: checks, JSON Schema and manual follow from here. Connects to nothing.
 */
import * as z from 'zod'
import {
  bytes,
  duration,
  flag,
  integer,
  oneOf,
  path,
  secret,
  section,
  template,
  text,
} from '../../config/leaves.ts'
import { formatNames } from '../formats/index.ts'
import { formatOptions } from '../formats/format.ts'
import { parseHashRules, parseTopicRules } from './rules.ts'

export const clients = ['platformatic', 'kafkajs'] as const
export const compressions = ['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const

/** How to reach the brokers; of workers, too. */
export const connection = {
  brokers: z
    .array(text('host:port'), { error: 'a list of host:port' })
    .min(1, { error: 'a list of at least one host:port' })
    .describe('Brokers to begin with, as host:port'),
  sasl: section({
    mechanism: oneOf(['plain', 'scram-sha-256', 'scram-sha-512']).describe('How to authenticate'),
    username: text('a name').describe('User'),
    password: secret('a password').min(1, { error: 'a password' }).describe('Password'),
  })
    .optional()
    .describe('Authentication'),
  tls: section({
    enabled: flag().default(false).describe('Whether to use TLS'),
    ca: path('a PEM file')
      .optional()
      .describe('Authorities to trust, PEM file; none: those Node brings'),
    cert: path('a PEM file').optional().describe('Client certificate, PEM file'),
    key: path('a PEM file').optional().describe('Its private key, PEM file'),
  })
    .prefault({})
    .describe('TLS to the brokers'),
}

export const options = section({
  brokers: connection.brokers,
  client: oneOf(clients)
    .default('platformatic')
    .describe('Which library writes: @platformatic/kafka (fastest) or kafkajs'),
  clientId: text('a name').optional().describe('client.id; default sluice-INSTANCE-SINK'),
  format: oneOf(formatNames).default('canal-json').describe('What messages look like'),
  formatOptions: formatOptions.prefault({}).describe('Settings that some formats know'),
  topic: template('a topic')
    .prefault('{database}.{table}')
    .describe('Topic: a template of {database}, {table} and columns'),
  dynamicTopic: text("rules as in Canal's canal.mq.dynamicTopic")
    .optional()
    .describe("Canal's rules, first match wins, before `topic`: topic:rule,rule,…"),
  partition: z
    .union([oneOf(['key', 'table']), integer('a partition, 0 to 99999', 0, 99_999)], {
      error: 'key, table, or the number of a partition',
    })
    .default('key')
    .describe(
      'key: by the key, so that the messages of a row stay in order; table: all of a table in one; or a number',
    ),
  partitionHash: text("rules as in Canal's canal.mq.partitionHash")
    .optional()
    .describe("Canal's rules, instead of `partition`: table:column^column, table:$pk$, table"),
  partitionsNum: integer('a number of partitions, 1 to 100000', 1, 100_000)
    .optional()
    .describe('Partitions that are hashed to; default all that the topic has'),
  databaseHash: flag()
    .default(true)
    .describe("Whether Canal's hash of a row begins with its database's"),
  key: template('a key')
    .optional()
    .describe(
      'Key of messages: a template of {database}, {table}, {key} and columns; default the one of the format',
    ),
  tombstones: flag()
    .default(false)
    .describe('Whether a delete is followed by a message with its key and no value'),
  headers: flag()
    .default(true)
    .describe('Whether messages carry version, id, operation, position and instance as headers'),
  statements: flag()
    .default(true)
    .describe('Whether DDL is sent, where the format has a message for it'),
  createTopics: flag().default(true).describe('Whether a topic that is not there is created'),
  partitions: integer('a number of partitions, 1 to 100000', 1, 100_000)
    .optional()
    .describe('Partitions of a created topic; default what the broker says'),
  replication: integer('a number of replicas, 1 to 100', 1, 100)
    .optional()
    .describe('Replicas of a created topic; default what the broker says'),
  compression: oneOf(compressions)
    .default('none')
    .describe('Compression of what is sent; kafkajs: none, gzip and zstd only'),
  messageBytesMax: bytes('1KiB', '64MiB')
    .prefault(1_000_000)
    .describe("Largest message, and largest batch; not above the broker's message.max.bytes"),
  requestBytes: bytes('16KiB', '64MiB')
    .prefault('512KiB')
    .describe('A request is sent when it is as large as this; two are in memory'),
  timeoutMs: duration('1s', '5m')
    .prefault('30s')
    .describe('How long the broker may take for a request; Kafka ends a transaction after it, too'),
  exactlyOnce: flag()
    .default(false)
    .describe('Rows and position in one Kafka transaction: read_committed readers see each once'),
  positionTopic: text('a topic')
    .optional()
    .describe('With exactlyOnce: where the position is; default sluice-position-INSTANCE-SINK'),
  sasl: connection.sasl,
  tls: connection.tls,
})
export type KafkaOptions = Readonly<z.output<typeof options>>

/** What is wrong beyond the schema. */
export function problems(o: KafkaOptions): string[] {
  const found: string[] = []
  const attempt = (key: string, parse: () => unknown): void => {
    try {
      parse()
    } catch (error) {
      found.push(`${key}: ${(error as Error).message}`)
    }
  }
  if (o.dynamicTopic !== undefined) attempt('dynamicTopic', () => parseTopicRules(o.dynamicTopic!))
  if (o.partitionHash !== undefined)
    attempt('partitionHash', () => parseHashRules(o.partitionHash!))
  if (o.client === 'kafkajs' && (o.compression === 'snappy' || o.compression === 'lz4'))
    found.push(`compression: expected none, gzip or zstd with client kafkajs, got ${o.compression}`)
  if (o.tombstones && o.key === undefined && o.format.startsWith('canal'))
    found.push(`tombstones: expected a key, but format ${o.format} has none; set key`)
  if ((o.tls.cert === undefined) !== (o.tls.key === undefined))
    found.push('tls: expected cert and key together')
  return found
}
