/**
 * Which topic and partition a row goes to. Topics by template or Canal's rules; partitions by the key (as Kafka's own
 * producers hash it), by Canal's partitionHash, by table, or a fixed one. Compiled per table; how many partitions a topic
 * has must be known (`know`) before a row for it is routed. Connects to nothing.
 */
import { AFTER, BEFORE, type Table } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import type { Out } from '../../out.ts'
import type { SinkBatch } from '../shape/batch.ts'
import type { SinkRow, TargetColumn, TargetTable } from '../shape/row.ts'
import type { BoundTemplate, Template } from '../shape/template.ts'
import { perTable } from '../sink.ts'
import type { KafkaOptions } from './options.ts'
import type { Place } from './producer.ts'
import {
  canalPartition,
  javaHash,
  keyHash,
  parseHashRules,
  parseTopicRules,
  type HashRules,
  type TopicRules,
} from './rules.ts'

/** The partitions of one topic: one object each, compared by identity. */
interface Topic {
  readonly name: string
  readonly places: readonly Place[]
}
interface Compiled {
  /** Where it is the same for all rows. */
  readonly topic: string | undefined
  readonly topicOf: BoundTemplate | undefined
  readonly hash: readonly TargetColumn[] | 'table' | 'first' | 'bytes' | number
  readonly start: number // of a hash over columns; of the table's name
}

export class Router {
  readonly #options: KafkaOptions
  readonly #template: Template
  readonly #topicRules: TopicRules | undefined
  readonly #hashRules: HashRules | undefined
  readonly #topics = new Map<string, Topic>()
  readonly #compiled: (table: TargetTable) => Compiled
  /** Whether messages have keys, of the format or a template. */
  readonly #keyed: boolean
  constructor(options: KafkaOptions, keyed: boolean) {
    this.#options = options
    this.#keyed = keyed
    this.#template = options.topic
    this.#topicRules = options.dynamicTopic ? parseTopicRules(options.dynamicTopic) : undefined
    this.#hashRules = options.partitionHash ? parseHashRules(options.partitionHash) : undefined
    this.#compiled = perTable((table) => this.#compile(table))
  }

  /** The topics of a batch whose partitions are not known. Walks rows only where topics depend on columns. */
  unknown(batch: SinkBatch): Set<string> {
    const found = new Set<string>()
    let last: Table | undefined
    for (const { changes } of batch.facts.slices) {
      for (const { table } of changes) {
        if (table === last) continue
        last = table
        const { topic } = this.#compiled(batch.facts.target(table))
        if (topic === undefined) return this.#unknownRows(batch)
        if (!this.#topics.has(topic)) found.add(topic)
      }
    }
    return found
  }
  #unknownRows(batch: SinkBatch): Set<string> {
    const found = new Set<string>()
    for (const row of batch.rows(true)) {
      const topic = this.#topicOf(this.#compiled(row.table), row)
      if (!this.#topics.has(topic)) found.add(topic)
    }
    return found
  }
  know(name: string, partitions: number): void {
    const most = this.#options.partitionsNum ?? partitions
    const { partition } = this.#options
    const least = Math.max(most, typeof partition === 'number' ? partition + 1 : 1)
    if (least > partitions) {
      throw new SluiceError(
        'SINK_UNSUITABLE',
        `Kafka: topic ${name} has ${partitions} partitions; partition and partitionsNum need ${least}`,
      )
    }
    const places = Array.from({ length: least }, (_, i) => ({ topic: name, partition: i }))
    this.#topics.set(name, { name, places })
  }
  /** Topics may have been deleted or changed: asks again. */
  forget(): void {
    this.#topics.clear()
  }
  known(topic: string): boolean {
    return this.#topics.has(topic)
  }

  /** The topic of all rows of a table; undefined where it depends on the row. */
  topicOf(table: TargetTable): string | undefined {
    return this.#compiled(table).topic
  }
  /** The key stands in out.buf[from, to). */
  readonly route = (row: SinkRow, out: Out, from: number, to: number): Place => {
    const compiled = this.#compiled(row.table)
    const { places } = this.#topics.get(compiled.topic ?? this.#topicOf(compiled, row))!
    const count = this.#options.partitionsNum ?? places.length
    const { hash, start } = compiled
    if (typeof hash === 'number') return places[hash]!
    if (hash === 'first') return places[0]!
    if (hash === 'table') return places[canalPartition(start, count)]!
    if (hash === 'bytes') return places[keyHash(out.buf, from, to) % count]!
    return places[canalPartition(hashOf(row, hash, start), count)]!
  }
  /** For all rows of a table whose topic is the same. */
  hashed(table: TargetTable): readonly TargetColumn[] | undefined {
    const { topic, hash } = this.#compiled(table)
    if (topic === undefined || hash === 'bytes') return undefined
    return typeof hash === 'object' ? hash : []
  }
  /** What `route` says, of a row of which these columns have this hash. */
  byHash(table: TargetTable): (hash: number) => Place {
    const { topic, hash, start } = this.#compiled(table)
    const { places } = this.#topics.get(topic!)!
    const count = this.#options.partitionsNum ?? places.length
    if (typeof hash === 'object') return (of) => places[canalPartition(start ^ of, count)]!
    const fixed =
      places[typeof hash === 'number' ? hash : hash === 'first' ? 0 : canalPartition(start, count)]!
    return () => fixed
  }
  /** The topic of a statement; undefined where it names neither database nor table. */
  statementTopic(database: string, table: string): string | undefined {
    const byRule = this.#topicRules?.(database, table)
    if (byRule !== undefined) return topicName(byRule)
    if (table !== '' || this.#template.name('a', 'b') === this.#template.text)
      return topicName(this.#template.name(database, table))
    return database === '' ? undefined : topicName(database)
  }
  /** Statements go to partition 0, as in Canal, or to the fixed one. */
  get statementPartition(): number {
    const { partition } = this.#options
    return typeof partition === 'number' ? partition : 0
  }

  #topicOf({ topicOf }: Compiled, row: SinkRow): string {
    return topicName(topicOf!(row, row.side))
  }
  #compile(table: TargetTable): Compiled {
    const { database, name } = table
    const byRule = this.#topicRules?.(database, name)
    const bound = this.#template.bind(table)
    const constant = this.#template.columns.length === 0
    return {
      topic: byRule ?? (constant ? topicName(this.#template.name(database, name)) : undefined),
      topicOf: bound,
      ...this.#hash(table),
    }
  }
  #hash(table: TargetTable): Pick<Compiled, 'hash' | 'start'> {
    const { database, name, keys, columns } = table
    const { partition, databaseHash } = this.#options
    const start = databaseHash ? javaHash(database) : 0
    if (this.#hashRules !== undefined) {
      const rule = this.#hashRules(database, name)
      if (rule === undefined) return { hash: 'first', start: 0 }
      if (rule === 'table') return { hash: 'table', start: javaHash(name) }
      if (rule === 'key') return { hash: columns.filter((c) => c.key), start }
      const found = rule.flatMap((of) => columns.find((c) => c.name === of) ?? [])
      return { hash: found, start }
    }
    if (typeof partition === 'number') return { hash: partition, start: 0 }
    if (partition === 'table') return { hash: 'table', start: javaHash(name) }
    // tables whose rows have no identity stay in order as a whole
    if (this.#keyed && (this.#options.key !== undefined || keys.length > 0))
      return { hash: 'bytes', start }
    return keys.length > 0 ? { hash: keys, start } : { hash: 'table', start: javaHash(name) }
  }
}

/** XOR of the hashes of the values' text; NULL and an absent column are "". */
function hashOf(row: SinkRow, columns: readonly TargetColumn[], start: number): number {
  const side = row.op === 'delete' ? BEFORE : AFTER
  let hash = start
  for (const column of columns) hash ^= javaHash(row.string(side, column) ?? '')
  return hash
}

/** Kafka knows letters, digits, dot, underscore and hyphen in 249 characters. */
function topicName(text: string): string {
  const name = text.replace(/[^\w.-]/g, '_').slice(0, 249)
  return name === '' || name === '.' || name === '..' ? '_' : name
}
