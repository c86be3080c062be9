/**
 * Puts keys right that verification found wrong: they are read from the source again and written by the sink itself, what is
 * gone as a delete. A running server does it, beside its stream, as a snapshot of these keys (snapshot/): what changes
 * meanwhile comes with the stream, newer, and nothing goes back. Without one it is done here, while nobody else can have the
 * state file: the sink stands at its place, so that place is the version, above all that was written before.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { fileNumber, formatPosition, type Position } from '../change.ts'
import { SluiceError } from '../errors.ts'
import type { Logger } from '../logger.ts'
import { sinkTypes } from '../sinks/index.ts'
import { issuedBefore, issuedKey } from '../sinks/runner/life.ts'
import { ownOptions, type SinkConfig } from '../sinks/runner/options.ts'
import { compileMapping } from '../sinks/shape/mapping.ts'
import { versionHead, versionTail } from '../sinks/shape/version.ts'
import { laterRows, type LoadStatus } from '../snapshot/load.ts'
import { Orders } from '../snapshot/orders.ts'
import { KEYS_AT_ONCE } from '../sources/snapshot/keys.ts'
import { State } from '../store/state.ts'
import { batchOf, RowSource, type VerifySource } from './source.ts'
import type { RepairWork } from './table.ts'
import type { Repair } from './verify.ts'

const LOOK_MS = 50
const ROW_MAX = 0xffff_ffff

export interface RepairOptions {
  readonly instance: string
  readonly name: string // of the sink
  readonly client: string // its cursor
  readonly sink: SinkConfig
  readonly source: VerifySource
  readonly dataDir: string
  readonly stateFile: string
  /** What stands in the running sink's way; "" while nothing does. */
  readonly stopped: () => string
  readonly log: Logger
  readonly signal: AbortSignal
}

/** By the server that runs, or here where none does. */
export function repairOf(options: RepairOptions): Repair {
  return {
    fix: async (work) => {
      if (State.held(options.stateFile)) await byServer(options, work)
      else await here(options, work)
    },
  }
}

// ── the server ───────────────────────────────────────────────────────────────

async function byServer(options: RepairOptions, { plan, keys }: RepairWork): Promise<void> {
  const { dataDir, instance, client, stateFile, stopped, signal } = options
  const { database, name } = plan.table
  const exact = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  const orders = Orders.open(dataDir, instance)
  try {
    const since = rereadOf(dataDir, options)?.started
    const id = orders.give({
      verb: 'start',
      client,
      tables: `${exact(database)}\\.${exact(name)}`,
      rowsPerSecond: undefined,
      keys,
    })
    let answer: string | undefined
    for (;;) {
      await delay(LOOK_MS, undefined, { signal })
      answer ??= orders.answer(id)
      if (answer !== undefined && answer !== '') throw new SluiceError('SINK_UNAVAILABLE', answer)
      if (!State.held(stateFile)) {
        const text = 'the server was stopped before it had repaired what it was told to'
        throw new SluiceError('SINK_UNAVAILABLE', text)
      }
      const load = rereadOf(dataDir, options)
      if (answer === undefined || load === undefined || load.started === since) continue
      const [skipped] = load.skipped
      if (skipped !== undefined)
        throw new SluiceError('SINK_UNAVAILABLE', `${skipped.table}: ${skipped.why}`)
      if (load.state === 'done') return
      if (load.state === 'cancelled')
        throw new SluiceError('SINK_UNAVAILABLE', `the repair of ${client} was cancelled`)
      const why = stopped()
      if (why !== '') throw new SluiceError('SINK_UNAVAILABLE', `${client}: ${why}`)
    }
  } finally {
    orders.close()
  }
}
function rereadOf(dataDir: string, { instance, client }: RepairOptions): LoadStatus | undefined {
  const loads = JSON.parse(Orders.said(dataDir, instance) ?? '[]') as LoadStatus[]
  return loads.find((load) => load.client === client && load.keys !== null)
}

// ── without one ──────────────────────────────────────────────────────────────

async function here(options: RepairOptions, { plan, keys }: RepairWork): Promise<void> {
  const { instance, name, client, sink: config, source, log, signal } = options
  const type = sinkTypes.find((t) => t.type === config.type)!
  const rows = await RowSource.open(source)
  const state = State.open(options.stateFile)
  try {
    const position = state.cursors().find((c) => c.client === client)?.acked
    if (position === undefined) {
      const text = `${client} has no place in the log yet: let the server run once`
      throw new SluiceError('SINK_UNAVAILABLE', text)
    }
    const { server, epoch } = position
    const sink = await type.open(ownOptions(type, config), {
      instance,
      sink: name,
      log,
      signal,
      fence: state.fence,
      server,
      epoch,
      position,
      query: (sql, params) => rows.query(sql, params),
    })
    try {
      const at = sink.resume ?? position
      const highest = issue(state, client, at)
      const target = compileMapping(config.tables, `sinks.${name}`)
      let firstRow = laterRows(new Date())
      for (let i = 0; i < keys.length; i += KEYS_AT_ONCE) {
        const chunk = await rows.again(plan, keys.slice(i, i + KEYS_AT_ONCE))
        const batch = batchOf(chunk, target, { at, firstRow, highest })
        const [failure] = await sink.write(batch, signal)
        if (failure !== undefined) throw failure.error
        firstRow += chunk.rows
      }
    } finally {
      await sink.close()
    }
  } finally {
    state.close()
    rows.close()
  }
}
/** The highest version that may be in the target from now on, durable. */
function issue(state: State, client: string, at: Position): string {
  if (at.skip !== 0) {
    const text = `${client} stands inside a transaction, at ${formatPosition(at)}: let the server run on`
    throw new SluiceError('SINK_UNAVAILABLE', text)
  }
  const before = issuedBefore(state, client)
  const own = versionHead(at.epoch, fileNumber(at.file), at.offset) + versionTail(0, ROW_MAX)
  if (own > before) state.setValue(issuedKey(client), own)
  return own > before ? own : before
}
