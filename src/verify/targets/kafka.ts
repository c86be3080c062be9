/**
 * Compacted topics of Kafka: the last message of every key stands for the row. A table's topic is read to its end into an
 * SQLite file in the system's folder for temporary files, key by key, so that memory stays bounded whatever its size; before
 * every look what has come since is read too. The row in a message is compared, not what surrounds it (times, positions).
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync, type StatementSync } from 'node:sqlite'
import type { Column } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { formats } from '../../sinks/formats/index.ts'
import { MessageWriter } from '../../sinks/formats/messages.ts'
import { producerOptions } from '../../sinks/kafka.ts'
import { Admin } from '../../sinks/kafka/admin.ts'
import type { KafkaOptions } from '../../sinks/kafka/options.ts'
import { Router } from '../../sinks/kafka/route.ts'
import type { SinkBatch } from '../../sinks/shape/batch.ts'
import { familyOf, type Family } from '../../sinks/sql/dialects/dialect.ts'
import type { TargetTable } from '../../sinks/shape/row.ts'
import { keyText } from '../source.ts'
import type { Bound, Destination, Extra, TargetKey, Unlike } from '../target.ts'
import { parseJson, plainText, sameJson, shownMembers } from './json.ts'
import { sourceLiteral } from './sql-forms.ts'

const PAGE = 1000
const COMMIT_EVERY = 10_000

type Json = Readonly<Record<string, unknown>>
/** The row in a message; undefined: it says that the row is gone. */
const ROW_IN: Partial<Readonly<Record<KafkaOptions['format'], (message: Json) => unknown>>> = {
  'canal-json': ({ type, data }) => (type === 'DELETE' ? undefined : (data as unknown[])[0]),
  debezium: (message) => debezium(message),
  'debezium-schema': ({ payload }) => debezium(payload as Json),
  cloudevents: ({ data }) => (data as Json)['after'] ?? undefined,
  'cloudevents-binary': ({ after }) => after ?? undefined,
  maxwell: ({ type, data }) => (type === 'delete' ? undefined : data),
}
const debezium = ({ op, after }: Json): unknown => (op === 'd' ? undefined : (after ?? undefined))

const READABLE = new Set<Family>(['integer', 'text', 'year'])

interface Compared {
  readonly table: TargetTable
  readonly topic: string
  readonly offsets: bigint[] // to go on from, by partition
  /** The source's key, and its columns' names in a message. */
  readonly key: readonly (readonly [Column, string])[]
}

export class KafkaDestination implements Destination {
  readonly where: string
  readonly #options: KafkaOptions
  readonly #admin: Admin
  readonly #router: Router
  readonly #writer: MessageWriter<object>
  readonly #rowIn: (message: Json) => unknown
  readonly #folder: string
  readonly #db: DatabaseSync
  readonly #put: StatementSync
  readonly #drop: StatementSync
  readonly #get: StatementSync
  readonly #isRow: StatementSync // the key is one of the source's rows, whatever the message says
  readonly #topics = new Map<string, string>() // topic → the table that it was compared with
  #now: Compared | undefined

  private constructor(
    o: KafkaOptions,
    admin: Admin,
    instance: string,
    rowIn: (message: Json) => unknown,
  ) {
    this.where = `kafka://${o.brokers.join(',')}`
    this.#options = o
    this.#admin = admin
    this.#rowIn = rowIn
    this.#router = new Router(o, true)
    const place = {}
    this.#writer = new MessageWriter<object>({
      format: formats[o.format],
      context: { instance, server: '', options: o.formatOptions },
      route: () => place,
      headers: false,
      key: o.key,
      tombstones: false,
      chunkBytes: 1024 * 1024,
    })
    this.#folder = mkdtempSync(join(tmpdir(), 'sluice-verify-'))
    this.#db = new DatabaseSync(join(this.#folder, 'topic.sqlite'))
    this.#db.exec(
      'PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; CREATE TABLE m (key BLOB PRIMARY KEY, value BLOB NOT NULL, row INTEGER NOT NULL)',
    )
    this.#put = this.#db.prepare(
      'INSERT INTO m VALUES (?, ?, 0) ON CONFLICT (key) DO UPDATE SET value = excluded.value, row = 0',
    )
    this.#drop = this.#db.prepare('DELETE FROM m WHERE key = ?')
    this.#get = this.#db.prepare('SELECT value FROM m WHERE key = ?')
    this.#isRow = this.#db.prepare('UPDATE m SET row = 1 WHERE key = ?')
  }
  /** Throws SINK_UNAVAILABLE, SINK_UNSUITABLE. */
  static async open(
    o: KafkaOptions,
    who: { readonly instance: string; readonly sink: string },
  ): Promise<KafkaDestination> {
    const rowIn = ROW_IN[o.format]
    const keyed = o.key !== undefined || !o.format.startsWith('canal')
    if (rowIn === undefined || !keyed) {
      const why = rowIn === undefined ? `format ${o.format}` : 'messages without keys (set key)'
      const text = `topics with ${why} cannot be verified; expected keyed messages of ${Object.keys(ROW_IN).join(', ')}`
      throw new SluiceError('SINK_UNSUITABLE', text)
    }
    return new KafkaDestination(o, await Admin.open(producerOptions(o, who)), who.instance, rowIn)
  }

  async bind(table: TargetTable, key: readonly Column[]): Promise<Bound> {
    const name = `${table.database}.${table.name}`
    const topic = this.#router.topicOf(table)
    if (topic === undefined)
      return { why: `its topic depends on the row (${this.#options.topic.text})` }
    const other = this.#topics.get(topic)
    if (other !== undefined && other !== name)
      return { why: `topic ${topic} has ${other} too: which of its keys are whose cannot be told` }
    this.#topics.set(topic, name)
    const names = key.map((c) =>
      table.columns.find(
        ({ column, derived }) => column?.index === c.index && derived === undefined,
      ),
    )
    const lost = key.find((_, i) => names[i] === undefined)
    if (lost !== undefined)
      return { why: `key column ${lost.name} of the source is not in the messages as it is` }
    const odd = names.find((c) => !READABLE.has(familyOf(c!)))
    if (odd !== undefined) {
      const type = odd.column!.mysqlType
      return {
        why: `key column ${odd.name} is of type ${type}: expected integers and texts, which stand in messages as they are`,
      }
    }
    const partitions = await this.#admin.partitions(topic)
    if (partitions !== undefined) {
      const policy = (await this.#admin.setting(topic, 'cleanup.policy')) ?? ''
      if (!policy.includes('compact'))
        return {
          why: `topic ${topic} is not compacted (cleanup.policy=${policy}): messages of rows go with time`,
        }
    }
    this.#db.exec('DELETE FROM m')
    const offsets: bigint[] = []
    for (let i = 0; i < (partitions ?? 0); i++)
      offsets.push((await this.#admin.bounds(topic, i))[0])
    this.#now = { table, topic, offsets, key: key.map((c, i) => [c, names[i]!.name] as const) }
    return { why: '', columns: key }
  }
  #bound(table: TargetTable): Compared {
    if (this.#now?.table !== table) throw new Error('bug in Sluice: a table that is not bound')
    return this.#now
  }
  /** Reads what has come since the last time. */
  async #refresh({ topic, offsets }: Compared): Promise<void> {
    for (const [partition, from] of offsets.entries()) {
      const [, end] = await this.#admin.bounds(topic, partition)
      if (from >= end) continue
      let count = 0
      this.#db.exec('BEGIN')
      try {
        offsets[partition] = await this.#admin.read(
          { topic, partition, from, end },
          (key, value) => {
            if (key === null) return
            if (++count % COMMIT_EVERY === 0) this.#db.exec('COMMIT; BEGIN')
            if (value === null || this.#rowOf(value) === undefined) this.#drop.run(key)
            else this.#put.run(key, value)
          },
        )
      } finally {
        this.#db.exec('COMMIT')
      }
    }
  }
  #rowOf(value: Uint8Array): unknown {
    const message = parseJson(Buffer.from(value).toString('utf8'))
    // what is no message of ours stands for itself
    if (typeof message !== 'object' || message === null) return message ?? ''
    return this.#rowIn(message as Json)
  }
  #there(key: Uint8Array): unknown {
    const found = this.#get.get(key)
    return found === undefined ? undefined : this.#rowOf(found['value'] as Uint8Array)
  }

  async compare(batch: SinkBatch): Promise<readonly Unlike[]> {
    const [first] = batch.rows(false)
    if (first === undefined) return []
    await this.#refresh(this.#bound(first.table))
    const unlike: Unlike[] = []
    for (const { index, key, value } of this.#messages(batch)) {
      const wanted = this.#rowOf(value)
      const there = this.#there(key)
      if (there !== undefined) this.#isRow.run(key)
      if (there !== undefined && sameJson(wanted, there)) continue
      const expected = shownMembers(wanted)
      unlike.push(
        there === undefined
          ? { index, kind: 'missing', expected }
          : { index, kind: 'different', expected, found: shownMembers(there) },
      )
    }
    return unlike
  }
  *#messages(batch: SinkBatch): Generator<{ index: number; key: Buffer; value: Buffer }> {
    for (const chunk of this.#writer.chunks(batch)) {
      for (const { first, key, value } of chunk.messages)
        if (key !== null && value !== null) yield { index: first, key, value }
      this.#writer.free(chunk)
    }
  }

  async *keys(table: TargetTable): AsyncGenerator<readonly TargetKey[]> {
    const now = this.#bound(table)
    await this.#refresh(now)
    const page = this.#db.prepare(
      'SELECT key, value FROM m WHERE key > ? AND row = 0 ORDER BY key LIMIT ?',
    )
    for (let after: Uint8Array = Buffer.alloc(0); ;) {
      const rows = page.all(after, PAGE)
      if (rows.length === 0) return
      after = rows.at(-1)!['key'] as Uint8Array
      yield rows.map((row) =>
        keyOf(now, Buffer.from(row['key'] as Uint8Array), this.#rowOf(row['value'] as Uint8Array)),
      )
    }
  }
  async extras(
    table: TargetTable,
    keys: readonly TargetKey[],
    rows: readonly SinkBatch[],
  ): Promise<readonly Extra[]> {
    await this.#refresh(this.#bound(table))
    const wanted = new Set<string>()
    for (const batch of rows)
      for (const { key } of this.#messages(batch)) wanted.add(key.toString('base64'))
    return keys.flatMap((key): Extra[] => {
      if (wanted.has(key.id)) return []
      const there = this.#there(Buffer.from(key.id, 'base64'))
      return there === undefined ? [] : [{ key, found: shownMembers(there) }]
    })
  }
  async close(): Promise<void> {
    this.#db.close()
    rmSync(this.#folder, { recursive: true, force: true })
    await this.#admin.close()
  }
}

/** The source's key, from the row in the message. */
function keyOf({ key: columns }: Compared, key: Buffer, row: unknown): TargetKey {
  const members = (typeof row === 'object' && row !== null ? row : {}) as Json
  const values = columns.map(([, name]) => plainText(members[name]) ?? '')
  const literals = columns.flatMap(([column], i) => sourceLiteral(column, values[i]!) ?? [])
  const whole = columns.every(([, name]) => plainText(members[name]) !== undefined)
  return {
    text: keyText(values),
    literals: whole && literals.length === values.length ? literals : undefined,
    shown: { key: key.toString('utf8') },
    values,
    id: key.toString('base64'),
  }
}
