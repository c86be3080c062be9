/**
 * Which kind of target a sink's type has: one line for each. Says of all others why they cannot be compared.
 */
import { SluiceError } from '../../errors.ts'
import { sinkTypes } from '../../sinks/index.ts'
import type { ElasticOptions } from '../../sinks/elasticsearch/options.ts'
import type { KafkaOptions } from '../../sinks/kafka/options.ts'
import type { RedisOptions } from '../../sinks/redis/options.ts'
import { ownOptions, type SinkConfig } from '../../sinks/runner/options.ts'
import type { SqlOptions } from '../../sinks/sql.ts'
import type { Destination } from '../target.ts'
import { ElasticDestination } from './elasticsearch.ts'
import { KafkaDestination } from './kafka.ts'
import { RedisDestination } from './redis.ts'
import { SqlDestination } from './sql.ts'

export interface OpenOptions {
  readonly instance: string
  readonly name: string
  readonly sink: SinkConfig
}
export type Names = Iterable<readonly [database: string, table: string]>

const NOT: Readonly<Record<string, string>> = {
  file: 'a file keeps every change and no rows',
  http: 'what a receiver makes of the events is not known',
}

/** `written`: all tables of the sink. Throws SINK_UNSUITABLE for one that cannot be compared, SINK_UNAVAILABLE. */
export async function openDestination(
  { instance, name, sink }: OpenOptions,
  written: Names,
): Promise<Destination> {
  const type = sinkTypes.find((t) => t.type === sink.type)
  const own = type && ownOptions(type, sink)
  switch (sink.type) {
    case 'sql':
      return await SqlDestination.open(own as SqlOptions, written)
    case 'redis':
      return await RedisDestination.open(own as RedisOptions, instance)
    case 'elasticsearch':
      return await ElasticDestination.open(own as ElasticOptions)
    case 'kafka':
      return await KafkaDestination.open(own as KafkaOptions, { instance, sink: name })
    default: {
      const why = NOT[sink.type] ?? 'its type has no rows to compare'
      throw new SluiceError(
        'SINK_UNSUITABLE',
        `sink ${name} (${sink.type}) cannot be verified: ${why}`,
      )
    }
  }
}
