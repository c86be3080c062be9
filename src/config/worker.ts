/**
 * The configuration of a worker (`sluice work`), conf/worker.yaml: which topics it reads, as a member of which group, and the
 * one sink it writes to. Loaded and checked as the other files are (config.ts).
 */
import { dirname, join, resolve } from 'node:path'
import * as z from 'zod'
import { sinkTypes } from '../sinks/index.ts'
import { connection } from '../sinks/kafka/options.ts'
import { sinkSchema } from '../sinks/runner/options.ts'
import { checkSink, logLevel } from './config.ts'
import { bytes, duration, oneOf, path, section, text } from './leaves.ts'
import { load, readText } from './load.ts'
import type { Loaded } from './load.ts'
import type { Environment, YamlFile } from './yaml.ts'

/** Kafka to Kafka needs no worker, and the files of several workers no fence. */
export const workerTypes = sinkTypes.filter(({ type }) => type !== 'kafka' && type !== 'file')

const name = (what: string) => {
  const error = `${what} of up to 100 letters, digits, "-", "_" and "."`
  return z.string({ error }).regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$/, { error })
}

export const workerSchema = section({
  instance: name("an instance's name").describe(
    'The instance that wrote the topics: its name stands beside the versions in the target',
  ),
  kafka: section({
    ...connection,
    clientId: text('a name').default('sluice-worker').describe('client.id'),
    timeoutMs: duration('1s', '5m')
      .prefault('30s')
      .describe('How long the broker may take for a request'),
    sessionMs: duration('6s', '30m')
      .prefault('30s')
      .describe('A worker that is silent for so long has lost its partitions to the others'),
    fetchBytes: bytes('16KiB', '64MiB')
      .prefault('1MiB')
      .describe('Most bytes of one partition in memory; one larger message still comes'),
  }).describe('The brokers'),
  topics: z
    .array(text('a topic'), { error: 'a list of topics' })
    .min(1, { error: 'a list of at least one topic' })
    .describe('Topics that a kafka sink with format: sluice writes'),
  group: name("a consumer group's name").describe(
    'The consumer group: workers with the same name share the partitions; a new one begins at the start of the topics',
  ),
  sink: sinkSchema(workerTypes).describe(
    'Where rows are written to: as an entry under sinks: of an instance, docs/sinks.md',
  ),
  dataDir: path('a folder')
    .default('../data')
    .describe('Folder of the file of dead letters, GROUP.deadletters.sqlite'),
  log: section({
    level: logLevel,
    stream: oneOf(['stdout', 'stderr']).default('stdout').describe('stdout | stderr'),
  })
    .prefault({})
    .describe('The log: JSON lines'),
})
export type WorkerConfig = Readonly<z.output<typeof workerSchema>>

export const DEFAULT_WORKER_CONFIG = join('conf', 'worker.yaml')

/** Loads a worker's file. Relative paths in it count from the file's own folder. Never throws. */
export function loadWorker(file: string, env: Environment = process.env): Loaded<WorkerConfig> {
  return load(file, readText(file), env, workerSchema, (yaml, config) => {
    check(yaml, config)
    return { ...config, dataDir: resolve(dirname(file), config.dataDir) }
  })
}

function check(yaml: YamlFile, { kafka, sink }: WorkerConfig): void {
  if ((kafka.tls.cert === undefined) !== (kafka.tls.key === undefined))
    yaml.problem(['kafka', 'tls'], 'expected cert and key together, found only one of them')
  checkSink(yaml, ['sink'], sink)
  if (!sink.enabled)
    yaml.problem(['sink', 'enabled'], 'expected true: a worker is there for its sink; found false')
  if (sink.type === 'sql' && sink['fence'] !== 'version') {
    yaml.problem(
      ['sink', 'fence'],
      `expected version, for several workers write at once, found ${String(sink['fence'])}`,
    )
  }
  if (sink.type !== 'redis') return
  const rules = sink['rules'] as readonly { readonly kind: string }[]
  for (const [i, { kind }] of rules.entries()) {
    if (kind !== 'invalidate') continue
    yaml.problem(
      ['sink', 'rules', i, 'kind'],
      'expected another kind: a worker cannot ask the source whether a change is visible yet; found invalidate',
    )
  }
}
