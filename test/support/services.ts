/**
 * The real servers that tests of sinks need, beside MySQL (mysql.ts). `sharedService` is the one that the whole run
 * shares (vitest's global set-up of the project `sinks` started it): use names of your own on it. `privateService` starts
 * another one on a free port with its own data, which may be killed and restarted. Nothing is installed, and nothing
 * stays behind.
 */
import { elasticsearch, opensearch } from './services/elastic.ts'
import type { ElasticOptions, OpensearchOptions } from './services/elastic.ts'
import { kafka, type KafkaOptions, type KafkaService } from './services/kafka.ts'
import { mariadb, type MariadbOptions } from './services/mariadb.ts'
import { postgres, type PostgresOptions } from './services/postgres.ts'
import { redis, type RedisOptions } from './services/redis.ts'
import { given, parseAddress, type Definition, type Service } from './services/service.ts'

export type { KafkaService } from './services/kafka.ts'
export { redisCluster, redisSentinel } from './services/redis.ts'
export type { RedisCluster, RedisSentinel } from './services/redis.ts'
export type { Service } from './services/service.ts'

/** What each takes, and what comes back. */
interface Kinds {
  readonly redis: { options: RedisOptions; service: Service }
  readonly kafka: { options: KafkaOptions; service: KafkaService }
  readonly elasticsearch: { options: ElasticOptions; service: Service }
  readonly opensearch: { options: OpensearchOptions; service: Service }
  readonly postgres: { options: PostgresOptions; service: Service }
  readonly mariadb: { options: MariadbOptions; service: Service }
}
export type ServiceName = keyof Kinds

const definitions: {
  readonly [N in ServiceName]: Definition<Kinds[N]['options'], Kinds[N]['service']>
} = { redis, kafka, elasticsearch, opensearch, postgres, mariadb }

export const serviceNames = Object.keys(definitions) as readonly ServiceName[]

/** The environment's variable with the address of a server to use, e.g. `SLUICE_TEST_REDIS`. */
export const serviceVariable = (name: ServiceName): string => `SLUICE_TEST_${name.toUpperCase()}`

/** Whether this run shares such a server: `describe.skipIf(!hasService('kafka'))`. In CI it always does. */
export const hasService = (name: ServiceName): boolean =>
  Boolean(process.env[serviceVariable(name)])

/** The server that this run shares. */
export function sharedService(name: ServiceName): Service {
  const address = process.env[serviceVariable(name)]
  if (!address) throw new Error(`this run has no shared ${name}: see what the set-up said`)
  return given(parseAddress(address, definitions[name]))
}

/** A server of your own. Disposing it, or the end of the process, removes it. */
export function privateService<N extends ServiceName>(
  name: N,
  options?: Kinds[N]['options'],
): Promise<Kinds[N]['service']> {
  return definitions[name].start(options)
}

/** Makes sure that the program is there; says where it comes from. Throws when it cannot be had. */
export const fetchService = (name: ServiceName): Promise<string> => definitions[name].fetch()
