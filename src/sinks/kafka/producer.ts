/**
 * The few calls the sink needs of a client that writes, and what a client's errors mean. Two clients implement them
 * (platformatic.ts, kafkajs.ts). Knows no rows.
 */
import { readFileSync } from 'node:fs'
import type { Header } from '../formats/format.ts'
import { SluiceError } from '../../errors.ts'
import type { KafkaOptions } from './options.ts'

export interface Place {
  readonly topic: string
  readonly partition: number
}
/** What the sink sends: a Message of formats/messages.ts, or the position. */
export interface Sendable {
  readonly place: Place
  readonly key: Buffer | null
  readonly value: Buffer | null
  readonly headers: readonly Header[]
}
/**
 * One client with one producer id: after an error it is closed and another one is opened, for nobody can say which of its
 * requests still arrive. Errors come as the client throws them.
 */
export interface Producer {
  /** Takes the producer id, with a transactional id also fences off whoever had it, and ends what that one left open. */
  connect(): Promise<void>
  /** Resolves when all replicas in sync have them, in order within a partition. One call at a time. */
  send(messages: readonly Sendable[]): Promise<void>
  /** Only with a transactional id: what is sent from here on is in one transaction. */
  begin(): Promise<void>
  commit(): Promise<void>
  abort(): Promise<void>
  /** Never throws. */
  close(): Promise<void>
}

export interface ProducerOptions {
  readonly brokers: readonly string[]
  readonly clientId: string
  readonly timeoutMs: number
  readonly compression: 'none' | 'gzip' | 'snappy' | 'lz4' | 'zstd'
  readonly transactionalId: string | undefined
  readonly sasl:
    | {
        readonly mechanism: 'plain' | 'scram-sha-256' | 'scram-sha-512'
        readonly username: string
        readonly password: string
      }
    | undefined
  readonly tls: { readonly ca?: Buffer; readonly cert?: Buffer; readonly key?: Buffer } | undefined
}

/** The files of `tls:`. Throws SINK_UNSUITABLE for one that cannot be read. */
export function tlsOf(tls: KafkaOptions['tls']): ProducerOptions['tls'] {
  if (!tls.enabled) return undefined
  const read = (path: string): Buffer => {
    try {
      return readFileSync(path)
    } catch (cause) {
      throw new SluiceError('SINK_UNSUITABLE', `Kafka: tls: ${(cause as Error).message}`, { cause })
    }
  }
  return {
    ...(tls.ca !== undefined && { ca: read(tls.ca) }),
    ...(tls.cert !== undefined && { cert: read(tls.cert) }),
    ...(tls.key !== undefined && { key: read(tls.key) }),
  }
}

/** How often a client itself tries again, with the same sequence numbers, before the runner hears of it. */
export const RETRIES = 6
/** ms before the nth time. Short at first: after a commit the broker refuses the next transaction for a moment. */
export const retryMs = (attempt: number): number => Math.min(20 * 2 ** attempt, 1000)

const REFUSED = new Set([
  'CLUSTER_AUTHORIZATION_FAILED',
  'ILLEGAL_SASL_STATE',
  'INVALID_CONFIG',
  'INVALID_PARTITIONS',
  'INVALID_REPLICATION_FACTOR',
  'INVALID_REQUIRED_ACKS',
  'INVALID_TOPIC_EXCEPTION',
  'INVALID_TRANSACTION_TIMEOUT',
  'POLICY_VIOLATION',
  'SASL_AUTHENTICATION_FAILED',
  'TOPIC_AUTHORIZATION_FAILED',
  'TRANSACTIONAL_ID_AUTHORIZATION_FAILED',
  'UNSUPPORTED_COMPRESSION_TYPE',
  'UNSUPPORTED_SASL_MECHANISM',
  'UNSUPPORTED_VERSION',
  'PLT_KFK_AUTHENTICATION',
  'PLT_KFK_UNSUPPORTED_API',
  'PLT_KFK_USER',
  'KafkaJSSASLAuthenticationError',
])
const DATA = new Set(['MESSAGE_TOO_LARGE', 'RECORD_LIST_TOO_LARGE', 'INVALID_RECORD'])
const FENCED = new Set(['PRODUCER_FENCED', 'INVALID_PRODUCER_EPOCH'])

/** Every name that an error and its causes go by. */
function namesOf(error: unknown, found = new Set<string>(), depth = 0): Set<string> {
  if (typeof error !== 'object' || error === null || depth > 8) return found
  const { apiId, type, code, name, cause, errors, originalError } = error as Record<string, unknown>
  for (const id of [apiId, type, code, name]) if (typeof id === 'string') found.add(id)
  for (const inner of [cause, originalError, ...(Array.isArray(errors) ? errors : [])])
    namesOf(inner, found, depth + 1)
  return found
}
const anyOf = (names: Set<string>, set: ReadonlySet<string>): string | undefined =>
  [...names].find((name) => set.has(name))

/** Whether another producer has taken the transactional id, or the broker has ended our transaction. */
export const isFenced = (error: unknown): boolean => anyOf(namesOf(error), FENCED) !== undefined
/** Whether Kafka's name for an error is among those of this one. */
export const isNamed = (error: unknown, name: string): boolean => namesOf(error).has(name)

/** Whether the cluster has no such topic; @platformatic/kafka says so in words of its own. */
export function isUnknownTopic(error: unknown): boolean {
  return (
    isNamed(error, 'UNKNOWN_TOPIC_OR_PARTITION') || innermost(error).startsWith('Unknown topic ')
  )
}

/** What a client's error means to the runner. */
export function sinkError(error: unknown, doing: string): SluiceError {
  if (error instanceof SluiceError) return error
  const names = namesOf(error)
  const message = innermost(error)
  const text = `Kafka: ${doing}: ${message}`
  const data = anyOf(names, DATA)
  if (data !== undefined) {
    return new SluiceError('SINK_DATA', `${text} (${data}; see max.message.bytes of the topic)`, {
      cause: error,
    })
  }
  const refused = isUnknownTopic(error) ? undefined : anyOf(names, REFUSED) // it may have been deleted just now
  if (refused !== undefined)
    return new SluiceError('SINK_UNSUITABLE', `${text} (${refused})`, { cause: error })
  return new SluiceError('SINK_UNAVAILABLE', text, { cause: error })
}
/** The message at the bottom says what happened; those above, what was being done. */
function innermost(error: unknown, depth = 0): string {
  if (!(error instanceof Error)) return String(error)
  const { errors } = error as { errors?: unknown }
  const inner: unknown = Array.isArray(errors) ? errors.at(-1) : error.cause
  return inner instanceof Error && depth < 8 ? innermost(inner, depth + 1) : error.message
}
