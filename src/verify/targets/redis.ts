/**
 * Redis: strings, hashes and JSON documents. The sink's own rules say what a row would become, into a recorder instead of
 * calls; keys of the target are read backwards to rows.
 */
import type { Column } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { createLogger } from '../../logger.ts'
import type { Out } from '../../out.ts'
import {
  Names,
  type CallWriter,
  type Mark,
  type Stamped,
  type Writes,
} from '../../sinks/redis/calls.ts'
import { Connection } from '../../sinks/redis/connection.ts'
import type { RedisOptions } from '../../sinks/redis/options.ts'
import {
  ownerOf,
  rulesOf,
  writersOf,
  type Rule,
  type RowWriter,
  type RuleContext,
} from '../../sinks/redis/rules.ts'
import type { SinkBatch } from '../../sinks/shape/batch.ts'
import type { TargetTable } from '../../sinks/shape/row.ts'
import { Backwards } from './backwards.ts'
import type { Bound, Destination, Extra, TargetKey, Unlike, Values } from '../target.ts'
import { parseJson, sameJson, shownJson } from './json.ts'

const SCAN_COUNT = 1000
const COMPARABLE = new Set<Rule['kind']>(['string', 'hash', 'json'])
const OURS = /sluice:[vd]:/

/** What a row would become under one rule. */
interface Wanted {
  readonly key: string
  readonly fields: ReadonlyMap<string, Buffer | null> // of a hash; null: is not to be there
  readonly body: Buffer | undefined // of the others
}
interface RuleOf {
  readonly rule: Rule
  readonly write: RowWriter
  readonly backwards: Backwards
}
interface Compared {
  readonly table: TargetTable
  readonly owner: string
  readonly rules: readonly RuleOf[]
}

export class RedisDestination implements Destination {
  readonly where: string
  readonly #connection: Connection
  readonly #rules: readonly Rule[]
  readonly #context: RuleContext
  #now: Compared | undefined

  private constructor(options: RedisOptions, instance: string, connection: Connection) {
    this.where = `redis://${options.host}:${options.port}/${options.db}`
    this.#connection = connection
    this.#rules = rulesOf(options)
    this.#context = {
      names: new Names(options.keyPrefix),
      cluster: connection.cluster,
      instance,
      options,
    }
  }
  /** Throws SINK_UNAVAILABLE, SINK_UNSUITABLE. */
  static async open(options: RedisOptions, instance: string): Promise<RedisDestination> {
    const log = createLogger('fatal', 2)
    const { signal } = new AbortController()
    const connection = await Connection.open(options, `sluice:${instance}/verify`, log, signal)
    return new RedisDestination(options, instance, connection)
  }

  async bind(table: TargetTable, key: readonly Column[]): Promise<Bound | undefined> {
    const matching = this.#rules.filter((rule) => rule.matches(table.database, table.name))
    if (matching.length === 0) return undefined
    const odd = matching.find(({ kind }) => !COMPARABLE.has(kind))
    if (odd !== undefined)
      return {
        why: `a rule of kind ${odd.kind}: only string, hash and json keep a key for each row`,
      }
    const rules: RuleOf[] = []
    try {
      for (const rule of matching) {
        const backwards = Backwards.of(rule.keys[0]!, table, key)
        if (typeof backwards === 'string') return { why: backwards }
        rules.push({ rule, backwards, write: writersOf([rule], table, this.#context)[0]! })
      }
    } catch (error) {
      if (!(error instanceof SluiceError) || error.code !== 'SINK_UNSUITABLE') throw error
      return { why: error.message }
    }
    const owner = ownerOf(this.#context.instance, table.database, table.name)
    this.#now = { table, owner, rules }
    return { why: '', columns: key }
  }
  #bound(table: TargetTable): Compared {
    if (this.#now?.table !== table) throw new Error('bug in Sluice: a table that is not bound')
    return this.#now
  }

  async compare(batch: SinkBatch, signal: AbortSignal): Promise<readonly Unlike[]> {
    const unlike = new Map<number, Unlike>()
    const [first] = batch.rows(false)
    if (first === undefined) return []
    for (const { rule, write } of this.#bound(first.table).rules) {
      signal.throwIfAborted()
      const wanted: (readonly [number, Wanted])[] = []
      for (const row of batch.rows(false)) {
        const recorder = new Recorder()
        try {
          write(row, recorder)
        } catch (error) {
          if (!(error instanceof SluiceError) || error.code !== 'SINK_DATA') throw error
          unlike.set(row.index, {
            index: row.index,
            kind: 'refused',
            expected: {},
            why: error.message,
          })
          continue
        }
        if (recorder.found !== undefined) wanted.push([row.index, recorder.found])
      }
      const found = await Promise.all(wanted.map(([, { key }]) => this.#read(rule, key)))
      for (const [i, [index, one]] of wanted.entries()) {
        const there = found[i]
        // A key that expires is a cache's: that it is gone is no difference.
        if (there === undefined && rule.options.ttlMs !== undefined) continue
        if (there !== undefined && isAlike(one, there)) continue
        const expected = one.body === undefined ? shownFields(one.fields) : shownJson(one.body)
        const about = { index, expected: { ...expected, '(key)': one.key } }
        unlike.set(
          index,
          there === undefined
            ? { ...about, kind: 'missing' }
            : {
                ...about,
                kind: 'different',
                found: { ...shownFound(there, one), '(key)': one.key },
              },
        )
      }
    }
    return [...unlike.values()]
  }
  /** undefined: there is no such key, or it is of another type. */
  async #read({ kind }: Rule, key: string): Promise<Found | undefined> {
    try {
      if (kind === 'hash') {
        const reply = (await this.#connection.bytes('HGETALL', key)) as Buffer[]
        const fields = new Map<string, Buffer>()
        for (let i = 0; i + 1 < reply.length; i += 2) fields.set(String(reply[i]), reply[i + 1]!)
        return fields.size === 0 ? undefined : { fields }
      }
      const body = await this.#connection.bytes(kind === 'json' ? 'JSON.GET' : 'GET', key)
      return body === null ? undefined : { body: body as Buffer }
    } catch (error) {
      if (error instanceof SluiceError && error.message.includes('WRONGTYPE')) return undefined
      throw error
    }
  }

  async *keys(table: TargetTable, signal: AbortSignal): AsyncGenerator<readonly TargetKey[]> {
    for (const { rule, backwards } of this.#bound(table).rules) {
      const pattern = `${backwards.start.replace(/[*?[\]\\^]/g, String.raw`\$&`)}*`
      for (const server of this.#connection.primaries()) {
        let cursor = '0'
        do {
          signal.throwIfAborted()
          const reply = await server.scan(
            cursor,
            'MATCH',
            pattern,
            'COUNT',
            SCAN_COUNT,
            'TYPE',
            TYPES[rule.kind]!,
          )
          cursor = reply[0]
          const page = reply[1].flatMap((name) =>
            OURS.test(name) ? [] : (backwards.read(name) ?? []),
          )
          if (page.length > 0) yield page
        } while (cursor !== '0')
      }
    }
  }

  async extras(
    table: TargetTable,
    keys: readonly TargetKey[],
    rows: readonly SinkBatch[],
  ): Promise<readonly Extra[]> {
    const { rules, owner } = this.#bound(table)
    const wanted = new Set<string>()
    for (const batch of rows) {
      for (const row of batch.rows(false)) {
        for (const { write } of rules) {
          const recorder = new Recorder()
          write(row, recorder)
          if (recorder.found !== undefined) wanted.add(recorder.found.key)
        }
      }
    }
    const extras: Extra[] = []
    for (const key of keys.filter(({ id }) => !wanted.has(id))) {
      const mark = (await this.#connection.call('GET', this.#context.names.version(key.id))) as
        | string
        | null
      const mine =
        mark === null
          ? rules.some(({ backwards }) => backwards.start !== '')
          : mark.slice(40) === owner
      if (!mine) continue
      const found = await this.#there(rules, key.id)
      if (found !== undefined) extras.push({ key, found })
    }
    return extras
  }
  async #there(rules: readonly RuleOf[], key: string): Promise<Values | undefined> {
    for (const { rule, backwards } of rules) {
      if (backwards.read(key) === undefined) continue
      const found = await this.#read(rule, key)
      if (found !== undefined) return shownFound(found, undefined)
    }
    return undefined
  }
  close(): Promise<void> {
    this.#connection.close()
    return Promise.resolve()
  }
}
const TYPES: Partial<Readonly<Record<Rule['kind'], string>>> = {
  string: 'string',
  hash: 'hash',
  json: 'ReJSON-RL',
}

type Found = { readonly fields: ReadonlyMap<string, Buffer> } | { readonly body: Buffer }

function isAlike(wanted: Wanted, found: Found): boolean {
  if ('body' in found) {
    if (wanted.body?.equals(found.body) === true) return true
    const there = parseJson(String(found.body))
    return there !== undefined && sameJson(parseJson(String(wanted.body)), there)
  }
  for (const [name, value] of wanted.fields) {
    const there = found.fields.get(name)
    if (value === null ? there !== undefined : there?.equals(value) !== true) return false
  }
  return true
}
function shownFields(fields: ReadonlyMap<string, Buffer | null>): Values {
  return Object.fromEntries(
    [...fields].map(([name, value]) => [name, value === null ? null : shownBytes(value)]),
  )
}
function shownBytes(bytes: Buffer): string {
  const text = bytes.toString('utf8')
  return Buffer.from(text, 'utf8').equals(bytes) ? text : `0x${bytes.toString('hex')}`
}
function shownFound(found: Found, wanted: Wanted | undefined): Values {
  if ('body' in found) return shownJson(found.body)
  const absent = [...(wanted?.fields ?? [])].filter(([name]) => !found.fields.has(name))
  return {
    ...shownFields(found.fields),
    ...Object.fromEntries(absent.map(([name]) => [name, null])),
  }
}

/** Takes what a rule writes of one row. */
class Recorder implements Writes {
  readonly invalid = new Set<string>()
  #key = ''
  #letter = ''
  #args: Buffer[] = []
  of(key: string): CallWriter {
    return {
      ordered: false,
      begin: (mark: Mark, _row: Stamped) => {
        this.#letter = String.fromCharCode(mark.head[4]!)
        this.#key = key
        this.#args = []
      },
      key: () => {},
      pair: () => {},
      arg: (text: string) => void this.#args.push(Buffer.from(text)),
      out: (value: Out) => void this.#args.push(Buffer.from(value.buf.subarray(0, value.at))),
      ready: (value: Buffer) => void this.#args.push(value.subarray(value.indexOf('\n') + 1, -2)),
    }
  }
  after(): string {
    return ''
  }
  /** undefined: nothing is written. */
  get found(): Wanted | undefined {
    const { [0]: first, [1]: second } = this.#args
    if (this.#letter === '' || first === undefined) return undefined
    if (this.#letter !== 'h') return { key: this.#key, fields: new Map(), body: first }
    const fields = new Map<string, Buffer | null>()
    const pairs = Number(first)
    const gone = Number(second)
    for (let i = 0; i < pairs; i++)
      fields.set(String(this.#args[2 + 2 * i]), this.#args[3 + 2 * i]!)
    for (let i = 0; i < gone; i++) fields.set(String(this.#args[2 + 2 * pairs + i]), null)
    return { key: this.#key, fields, body: undefined }
  }
}
