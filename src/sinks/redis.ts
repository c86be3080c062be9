/**
 * The Redis sink: rows as strings, hashes, members of sets and sorted sets, stream entries, messages, JSON documents, or
 * as keys to delete. Every write carries its version and an older one never wins; the sink's position moves in the same
 * step as the rows it stands for. What Redis gets is decided by rules (redis/rules.ts), written by one script
 * (redis/script.ts), many rows in a call (redis/calls.ts).
 */
import type { Position } from '../change.ts'
import { SluiceError } from '../errors.ts'
import { GtidSet } from '../gtid.ts'
import { appliedAt, appliedFields, appliedKey, parseApplied } from './redis/applied.ts'
import { Calls, Names, type Exception } from './redis/calls.ts'
import { clearTable } from './redis/clear.ts'
import { Connection, failureOf } from './redis/connection.ts'
import { redisOptions, redisProblems, type RedisOptions } from './redis/options.ts'
import { rulesOf, writersOf, type Rule, type RuleContext } from './redis/rules.ts'
import { waitVisible } from './redis/visible.ts'
import type { SinkBatch } from './shape/batch.ts'
import { NO_VERSION, VERSION_MAX } from './shape/version.ts'
import { defineSink, perTable } from './sink.ts'
import type { Delivery, RowFailure, Sink, SinkContext, SinkStatement } from './sink.ts'

export const redis = defineSink({
  type: 'redis',
  summary: 'Rows as keys of a Redis (or Valkey), fenced by version, or deletion of cache keys',
  options: redisOptions,
  problems: redisProblems,
  async open(given, context): Promise<Sink> {
    const options = context.shared ? { ...given, cursor: false } : given
    const name = `sluice:${context.instance}/${context.sink}`
    const connection = await Connection.open(options, name, context.log, context.signal)
    try {
      return await RedisSink.begin(options, context, connection)
    } catch (error) {
      connection.close()
      throw error
    }
  },
})

const APPEND = new Set<Rule['kind']>(['stream', 'pubsub', 'invalidate'])
const WHOLE = new Set<Rule['kind']>(['string', 'json'])

class RedisSink implements Sink {
  readonly promise: Delivery
  readonly resume: Position | undefined
  readonly splitsKeys = false
  readonly clears: boolean
  readonly mirrors: boolean
  readonly #options: RedisOptions
  readonly #context: SinkContext
  readonly #connection: Connection
  readonly #rules: readonly Rule[]
  readonly #ruleContext: RuleContext
  readonly #writers
  readonly #appliedKey: string
  readonly #fence: number
  #at: string // of the cursor that Redis confirmed last; "" where there is none

  private constructor(
    options: RedisOptions,
    context: SinkContext,
    connection: Connection,
    begun: { readonly resume: Position | undefined; readonly at: string; readonly fence: number },
  ) {
    this.#options = options
    this.#context = context
    this.#connection = connection
    this.#rules = rulesOf(options)
    this.#ruleContext = {
      names: new Names(options.keyPrefix),
      cluster: connection.cluster,
      instance: context.instance,
      options,
    }
    this.#writers = perTable((table) => writersOf(this.#rules, table, this.#ruleContext))
    this.#appliedKey = appliedKey(options.keyPrefix, context.instance, context.sink)
    this.#fence = begun.fence
    this.#at = begun.at
    this.resume = begun.resume
    this.promise = this.#rules.some(({ kind }) => APPEND.has(kind)) ? 'append' : 'fenced'
    this.mirrors = this.#rules.some(({ kind }) => kind !== 'stream' && kind !== 'pubsub')
    this.clears = this.#rules.every(
      ({ kind, keys }) =>
        kind !== 'invalidate' && (!APPEND.has(kind) || keys[0]!.columns.length === 0),
    )
  }

  /** Checks what Redis and the source must have, and takes the position over. */
  static async begin(
    options: RedisOptions,
    context: SinkContext,
    connection: Connection,
  ): Promise<RedisSink> {
    await requireModule(options, connection)
    await requireImages(options, context)
    const key = appliedKey(options.keyPrefix, context.instance, context.sink)
    const stored = options.cursor
      ? parseApplied(key, await connection.call('HGETALL', key))
      : undefined
    // local state that was lost begins to count anew: then the stored number goes on
    const fence =
      stored !== undefined && stored.fence > context.fence ? stored.fence + 1 : context.fence
    if (stored !== undefined) await connection.call('HSET', key, 'fence', fence)
    return new RedisSink(options, context, connection, {
      resume: stored?.position,
      at: stored?.at ?? '',
      fence,
    })
  }

  async write(batch: SinkBatch, signal: AbortSignal): Promise<readonly RowFailure[]> {
    signal.throwIfAborted()
    const stop = (): void => this.#connection.interrupt()
    signal.addEventListener('abort', stop, { once: true })
    try {
      return await this.#write(batch, signal)
    } finally {
      signal.removeEventListener('abort', stop)
    }
  }
  async #write(batch: SinkBatch, signal: AbortSignal): Promise<readonly RowFailure[]> {
    const calls = this.#calls(batch.highest)
    const failures = new Map<number, RowFailure>()
    for (const row of batch.rows(false)) {
      try {
        for (const write of this.#writers(row.table)) write(row, calls)
      } catch (error) {
        if (!(error instanceof SluiceError) || error.code !== 'SINK_DATA') throw error
        failures.set(row.index, { index: row.index, error, retryable: false })
      }
      if (calls.due) await calls.flush()
    }
    const moves = this.#options.cursor && batch.whole && failures.size === 0
    await this.#finish(calls, moves ? batch.end : undefined, () =>
      this.#invalidate(calls, batch, signal),
    )
    if (calls.exceptions.length > 0) this.#judge(calls.exceptions, batch, failures)
    return [...failures.values()]
  }
  #calls(highest: string): Calls {
    const { tombstoneTtlMs } = this.#options
    return new Calls(this.#connection, [`${this.#context.instance}/`, `${tombstoneTtlMs}`, highest])
  }
  /** Everything that is still to be sent, then the cursor, then the replicas. */
  async #finish(
    calls: Calls,
    end: Position | undefined,
    before: () => Promise<void>,
  ): Promise<void> {
    const at = end === undefined ? '' : appliedAt(end)
    const cursor =
      end === undefined
        ? undefined
        : [
            this.#appliedKey,
            `${this.#fence}`,
            at,
            this.#at,
            ...appliedFields(end, this.#context.instance),
          ]
    await calls.finish(cursor, before)
    if (cursor !== undefined && calls.exceptions.length === 0 && at > this.#at) this.#at = at
    await this.#replicate()
  }
  async #replicate(): Promise<void> {
    const { replicas, timeoutMs } = this.#options
    if (replicas === 0) return
    for (const primary of this.#connection.primaries()) {
      const have = await primary
        .wait(replicas, Math.ceil(timeoutMs / 2))
        .catch((error: unknown) => {
          throw failureOf(error, 'WAIT')
        })
      if (have >= replicas) continue
      throw new SluiceError(
        'SINK_UNAVAILABLE',
        `Redis: expected ${replicas} replicas to have the write in ${timeoutMs / 2} ms, ${have} have it`,
      )
    }
  }

  async #invalidate(calls: Calls, batch: SinkBatch, signal: AbortSignal): Promise<void> {
    if (calls.invalid.size === 0) return
    const gtids = new GtidSet()
    for (const { tx } of batch.facts.slices) if (tx.gtid !== undefined) gtids.add(tx.gtid)
    await waitVisible(this.#context, gtids, this.#options.visibleMs, signal)
    await this.#connection.unlink([...calls.invalid])
  }

  /** Turns what the script passed over into failures of rows, or into an error of the whole. */
  #judge(
    exceptions: readonly Exception[],
    batch: SinkBatch,
    failures: Map<number, RowFailure>,
  ): void {
    const byRow = new Map<number, Exception>()
    for (const exception of exceptions) {
      if (exception.index < 0) throw this.#cursorError(exception)
      byRow.set(exception.index, exception)
    }
    let ahead: SluiceError | undefined
    for (const row of batch.rows(false)) {
      const exception = byRow.get(row.index)
      if (exception === undefined) continue
      const { database, name } = row.table
      const error = this.#rowError(exception, `${database}.${name} at ${row.id}`, batch.highest)
      if (error.code === 'TARGET_AHEAD') ahead ??= error
      else failures.set(row.index, { index: row.index, error, retryable: false })
    }
    if (ahead !== undefined) throw ahead
  }
  #rowError({ kind, text }: Exception, where: string, highest: string): SluiceError {
    switch (kind) {
      case 'ahead':
        return new SluiceError(
          'TARGET_AHEAD',
          `${where}: Redis holds version ${text}, and the highest this sink has written is ${highest}: another Sluice writes here, or the position was set back`,
        )
      case 'owner':
        return new SluiceError(
          'SINK_DATA',
          `${where}: the key belongs to ${text.slice(40)}, expected ${this.#context.instance}: versions of different instances do not compare; give each its own keys`,
        )
      case 'partial':
        return new SluiceError(
          'SINK_DATA',
          `${where}: the row image is partial, and Redis has no hash to add it to; expected binlog_row_image=FULL`,
        )
      default:
        return new SluiceError('SINK_DATA', `${where}: Redis refuses the row: ${text}`)
    }
  }
  #cursorError({ kind, text }: Exception): SluiceError {
    const { instance, sink } = this.#context
    if (kind === 'fenced') {
      return new SluiceError(
        'TARGET_AHEAD',
        `Redis: a younger Sluice (start ${text}, this is start ${this.#fence}) writes sink ${sink} of instance ${instance}; this one writes nothing any more`,
      )
    }
    return new SluiceError(
      'SINK_UNSUITABLE',
      `Redis has lost what it confirmed (a fail-over, a restore, FLUSHALL?): key ${this.#appliedKey} stands at ${text === '' ? 'nothing' : text}, expected ${this.#at}. Start the sink again: it goes on where Redis is`,
    )
  }

  async statement(statement: SinkStatement, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    // keys written since are newer when it comes again: they stay, and that is right
    const calls = this.#calls(VERSION_MAX)
    if (statement.change.type === 'TRUNCATE')
      await clearTable(statement, this.#rules, this.#ruleContext, calls, this.#connection, signal)
    const end = this.#options.cursor ? statement.end : undefined
    await this.#finish(calls, end, () => Promise.resolve())
    for (const exception of calls.exceptions) {
      if (exception.index < 0) throw this.#cursorError(exception)
      throw this.#rowError(exception, `TRUNCATE at ${statement.id}`, statement.version)
    }
  }

  /** What is done without rows for this sink moves the position too, so that nobody waits for it in vain. */
  async reached(position: Position): Promise<void> {
    if (!this.#options.cursor || appliedAt(position) <= this.#at) return
    const calls = this.#calls(NO_VERSION)
    await this.#finish(calls, position, () => Promise.resolve())
    for (const exception of calls.exceptions) throw this.#cursorError(exception)
  }

  close(): Promise<void> {
    this.#connection.close()
    return Promise.resolve()
  }
}

async function requireModule(options: RedisOptions, connection: Connection): Promise<void> {
  if (!options.rules.some(({ kind }) => kind === 'json')) return
  const [known] = (await connection.call('COMMAND', 'INFO', 'JSON.SET')) as unknown[]
  if (known !== null && known !== undefined) return
  throw new SluiceError(
    'SINK_UNSUITABLE',
    'rules of kind json need the command JSON.SET (RedisJSON, Redis 8, valkey-json), which this server does not have; kind string writes the same document as text',
  )
}
/** Documents need whole rows: better said before the first update than at it. */
async function requireImages(options: RedisOptions, context: SinkContext): Promise<void> {
  const kinds = options.rules.filter(({ kind }) => WHOLE.has(kind)).map(({ kind }) => kind)
  if (kinds.length === 0) return
  const [row] = await context.query<{ image: string }>('SELECT @@GLOBAL.binlog_row_image AS image')
  const image = row?.image.toUpperCase() ?? 'FULL'
  if (image === 'FULL') return
  throw new SluiceError(
    'SINK_UNSUITABLE',
    `rules of kind ${[...new Set(kinds)].join(' and ')} need whole rows: expected binlog_row_image=FULL on the source, found ${image}; kind hash takes changed columns alone`,
  )
}
