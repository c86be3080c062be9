/**
 * One Kafka node for tests: broker and controller in one process (KRaft), from Maven. Its brokers-only listener is apart
 * from the clients' one, so that a proxy before the clients' disturbs nothing inside.
 */
import { mkdirSync } from 'node:fs'
import { cp, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { certificate } from './certificate.ts'
import { cached, fetchJars, mavenProblem, run } from './fetch.ts'
import { findJdk, frugal, type JvmOptions } from './jdk.ts'
import { freePort } from './process.ts'
import { startLocal, type Definition, type Service } from './service.ts'

export interface KafkaOptions extends JvmOptions {
  /** Where clients are sent after their first contact, when that is not the broker itself: the port of a proxy. */
  readonly advertised?: number
  /** Clients speak TLS, with a certificate for 127.0.0.1 that `ca` of the service vouches for. `direct` stays plain. */
  readonly tls?: boolean
  /** Clients must name this account (SASL, mechanism PLAIN). `direct` stays open. */
  readonly user?: { readonly name: string; readonly password: string }
  /** More lines of server.properties; they win. */
  readonly properties?: Readonly<Record<string, string>>
}

export interface KafkaService extends Service {
  /** Another `host:port` of the same broker, that no proxy stands before: for looking at what arrived. */
  readonly direct: string
}

const VERSION = '4.4.0'
const CLUSTER = 'c2x1aWNlLXRlc3RzLWthZg'
const artefacts = [
  `org.apache.kafka:kafka_2.13:${VERSION}`,
  'org.apache.logging.log4j:log4j-slf4j-impl:2.25.5',
]

export const kafka: Definition<KafkaOptions, KafkaService> = {
  name: 'kafka',
  scheme: 'kafka',
  defaultPort: 9092,
  fetch: async () => `Maven artefacts in ${await folder()}`,
  start,
}

async function folder(): Promise<string> {
  const problem = mavenProblem()
  if (problem) throw new Error(`cannot fetch Kafka: ${problem}`)
  const java = join(findJdk(17), 'bin/java')
  return cached(`kafka-${VERSION}`, 'fetching Kafka (Maven, about 45 MB)', async (to) => {
    await fetchJars(artefacts, join(to, 'libs'))
    await writeFile(join(to, 'log4j2.properties'), LOGGING)
    // a formatted log folder, made once: it depends on nothing but the ids
    const properties = join(to, 'format.properties')
    await writeFile(
      properties,
      propertiesText({
        ...common(1),
        'log.dirs': join(to, 'formatted'),
        ...listeners(1, 2, 3),
        ...(await security(to, {})).secure,
      }),
    )
    const jvm = ['-Xmx128m', '-XX:TieredStopAtLevel=1', '-cp', join(to, 'libs/*')]
    const format = ['kafka.tools.StorageTool', 'format', '-t', CLUSTER, '-c', properties]
    await run(java, [...jvm, ...format])
    await rm(properties)
  })
}

async function start(options: KafkaOptions = {}): Promise<KafkaService> {
  const home = await folder()
  const java = join(findJdk(17), 'bin/java')
  let direct = 0
  const service = await startLocal('kafka', async ({ dir, port }) => {
    const logs = join(dir, 'logs')
    await cp(join(home, 'formatted'), logs, { recursive: true })
    const controller = await freePort()
    direct = await freePort()
    const { secure, ca } = await security(dir, options)
    const properties = {
      ...common(controller),
      ...listeners(port, direct, controller, options.advertised),
      ...secure,
      'log.dirs': logs,
      ...options.properties,
    }
    const file = join(dir, 'server.properties')
    await writeFile(file, propertiesText(properties))
    mkdirSync(join(dir, 'tmp'))
    return {
      from: `Kafka of ${home}`,
      command: [
        java,
        ...frugal({ leastMb: 128, mostMb: 384 }, options),
        `-Djava.io.tmpdir=${join(dir, 'tmp')}`,
        `-Dlog4j2.configurationFile=${join(home, 'log4j2.properties')}`,
        '-Djava.net.preferIPv4Stack=true',
        '-cp',
        join(home, 'libs/*'),
        'kafka.Kafka',
        file,
      ],
      ready: /Kafka Server started/,
      url: `kafka://127.0.0.1:${port}`,
      ca,
    }
  })
  return { ...service, direct: `127.0.0.1:${direct}` }
}

/** What the clients' listener asks for. */
async function security(
  dir: string,
  { tls = false, user }: KafkaOptions,
): Promise<{ readonly secure: Record<string, string>; readonly ca: string | undefined }> {
  const protocol = `${user ? 'SASL_' : ''}${tls ? 'SSL' : 'PLAINTEXT'}`
  const secure: Record<string, string> = {
    'listener.security.protocol.map': `CLIENT:${protocol},DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT`,
  }
  const prefix = 'listener.name.client'
  if (user) {
    const login = 'org.apache.kafka.common.security.plain.PlainLoginModule required'
    secure[`${prefix}.sasl.enabled.mechanisms`] = 'PLAIN'
    secure[`${prefix}.plain.sasl.jaas.config`] = `${login} user_${user.name}="${user.password}";`
  }
  if (!tls) return { secure, ca: undefined }
  const own = await certificate(dir)
  const chain = join(dir, 'keystore.pem')
  const parts = [own.key, own.certificate].map((file) => readFile(file, 'utf8'))
  await writeFile(chain, (await Promise.all(parts)).join(''))
  secure[`${prefix}.ssl.keystore.type`] = 'PEM'
  secure[`${prefix}.ssl.keystore.location`] = chain
  return { secure, ca: own.ca }
}

const listeners = (
  clients: number,
  direct: number,
  controller: number,
  advertised = clients,
): Record<string, string> => ({
  listeners: `CLIENT://127.0.0.1:${clients},DIRECT://127.0.0.1:${direct},CONTROLLER://127.0.0.1:${controller}`,
  'advertised.listeners': `CLIENT://127.0.0.1:${advertised},DIRECT://127.0.0.1:${direct}`,
  'controller.listener.names': 'CONTROLLER',
  'inter.broker.listener.name': 'DIRECT',
})

/** One node: every internal topic has one replica, or groups and transactions would wait for more for ever. */
const common = (controller: number): Record<string, string> => ({
  'process.roles': 'broker,controller',
  // after a kill the broker is let in again when its old session has run out
  'broker.session.timeout.ms': '2000',
  'broker.heartbeat.interval.ms': '500',
  'node.id': '1',
  'controller.quorum.voters': `1@127.0.0.1:${controller}`,
  'num.partitions': '1',
  'offsets.topic.replication.factor': '1',
  'offsets.topic.num.partitions': '4',
  'transaction.state.log.replication.factor': '1',
  'transaction.state.log.min.isr': '1',
  'transaction.state.log.num.partitions': '4',
  'share.coordinator.state.topic.replication.factor': '1',
  'share.coordinator.state.topic.min.isr': '1',
  'share.coordinator.state.topic.num.partitions': '1',
  'group.initial.rebalance.delay.ms': '0',
  'auto.create.topics.enable': 'true',
  'log.cleaner.dedupe.buffer.size': '16777216',
  'num.network.threads': '2',
  'num.io.threads': '2',
})

const propertiesText = (properties: Readonly<Record<string, string>>): string =>
  Object.entries(properties)
    .map(([key, value]) => `${key}=${value}\n`)
    .join('')

const LOGGING = `status=WARN
rootLogger.level=WARN
rootLogger.appenderRefs=out
rootLogger.appenderRef.out.ref=OUT
appenders=out
appender.out.type=Console
appender.out.name=OUT
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=[%d] %p %m (%c)%n
loggers=started
logger.started.name=kafka.server.KafkaRaftServer
logger.started.level=INFO
`
