/**
 * `sluice replay`: writes a stretch of an instance's retained log to one of its sinks once more, or, dry, shows what a changed
 * configuration of the sink would make of it. Reads the log's files, whether a server runs or not; the source is not asked.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Arguments } from '../../cli.ts'
import { comparePositions, formatPosition, type Position, type Transaction } from '../../change.ts'
import { loadInstance, orThrow, type InstanceConfig } from '../../config/config.ts'
import { SluiceError } from '../../errors.ts'
import { compileFilter, intersect } from '../../filter.ts'
import { GtidSet } from '../../gtid.ts'
import { locate, type Where } from '../../retained/locate.ts'
import { logDir, Segments } from '../../retained/log.ts'
import { viewOf } from '../../retained/retained.ts'
import { sinkTypes } from '../../sinks/index.ts'
import { Control, controlFile } from '../../sinks/letters/control.ts'
import type { SinkConfig } from '../../sinks/runner/options.ts'
import { Comparison, type Shown } from '../../sinks/work/compare.ts'
import { Replay, unfit } from '../../sinks/work/replay.ts'
import { State } from '../../store/state.ts'
import { comparePlaces, Track } from '../../store/window.ts'
import { commandLogger, instanceConfig, serverConfig } from '../common.ts'
import { parseStart } from '../steer/position.ts'

const PROGRESS_MS = 1000
const DIFFERENCES = 5

/** Exit code 0: done; 1: ended before the end of the stretch, or rows became dead letters; with --dry-run, something differs. */
export async function replay(args: Arguments): Promise<number> {
  const [instance = '', name = ''] = args.words
  const server = serverConfig(args)
  const config = instanceConfig(server, instance)
  const sink = sinkOf(config, name, instance)
  const dry = args.flag('dry-run')
  const why = dry ? undefined : unfit(sink)
  if (why !== undefined) throw new SluiceError('USAGE', `sinks.${name}: ${why}`)
  const dir = logDir(server.dataDir, instance)
  if (!existsSync(dir))
    throw new SluiceError('USAGE', `${instance} has no change log: expected the folder ${dir}`)
  const stretch = await Stretch.of(Segments.look(dir), config, args)
  if (dry) return await compare(args, { instance, name, sink, stretch })
  return await write(args, { instance, name, sink, stretch, dataDir: server.dataDir })
}
function sinkOf(config: InstanceConfig, name: string, file: string): SinkConfig {
  const sink = config.sinks[name]
  if (sink !== undefined) return sink
  const names = Object.keys(config.sinks).join(', ') || 'none'
  throw new SluiceError('USAGE', `${file} has no sink "${name}"; found ${names}`)
}

// ── which stretch ────────────────────────────────────────────────────────────

interface End {
  readonly place: Position | undefined
  readonly ms: number | undefined
  readonly gtids: GtidSet | undefined
}

/** Part of the log, from a position to an end. */
class Stretch {
  readonly from: Position
  readonly filter
  /** Where reading has come to, once it is over. */
  at: Position
  readonly #segments: Segments
  readonly #end: End
  readonly #config: InstanceConfig

  private constructor(
    segments: Segments,
    config: InstanceConfig,
    from: Position,
    end: End,
    tables: string,
  ) {
    this.#segments = segments
    this.#config = config
    this.#end = end
    this.from = from
    this.at = from
    this.filter = intersect(compileFilter(config.filter), compileFilter({ include: tables }))
  }
  static async of(segments: Segments, config: InstanceConfig, args: Arguments): Promise<Stretch> {
    const text = args.text('from')
    if (text === undefined) throw new SluiceError('USAGE', 'expected --from POSITION')
    const tables = args.text('tables') ?? ''
    const to = args.text('to')
    const from = await placed(segments, parseStart(text), '--from')
    const end = to === undefined ? undefined : await endOf(segments, parseStart(to))
    const none = { place: segments.last?.end, ms: undefined, gtids: undefined }
    return new Stretch(segments, config, from, end ?? none, tables)
  }

  /** From any place of the log on, as far as segments join. */
  readonly read = (from: Position, signal: AbortSignal): AsyncIterable<Transaction> =>
    this.#segments.read(from, viewOf(this.#config), signal)

  /** Throws POSITION_LOST where the log has a gap before the end. */
  async *transactions(signal: AbortSignal): AsyncGenerator<Transaction, void, undefined> {
    const track = new Track(this.from)
    for await (const tx of this.read(this.from, signal)) {
      if (track.skip === 0 && this.#over(tx)) {
        tx.slab?.release()
        this.at = track.position()
        return
      }
      track.pass(tx)
      yield tx
    }
    this.at = track.position()
    const { place } = this.#end
    if (signal.aborted || this.#end.ms !== undefined || this.#end.gtids !== undefined) return
    if (place === undefined || comparePlaces(this.at, place) >= 0) return
    throw new SluiceError(
      'POSITION_LOST',
      `the change log has a gap behind ${formatPosition(this.at)}; expected everything up to ${formatPosition(place)}. ` +
        'What comes before the gap was written; go on with --from at a place behind it',
    )
  }
  #over(tx: Transaction): boolean {
    const { place, ms, gtids } = this.#end
    if (ms !== undefined) return tx.timestamp >= ms
    if (gtids !== undefined) return tx.gtid !== undefined && !gtids.contains(tx.gtid)
    return (
      place !== undefined &&
      (tx.epoch > place.epoch ||
        (tx.epoch === place.epoch &&
          comparePositions({ file: tx.file, offset: tx.offset, skip: 0 }, place) >= 0))
    )
  }
}
async function placed(segments: Segments, where: Where, option: string): Promise<Position> {
  const found = await locate(segments, where)
  if (found !== undefined) return found
  const { list } = segments
  const has = list.map(({ from, end, firstMs, lastMs }) => {
    const time = (ms: number): string => (ms > 0 ? ` (${new Date(ms).toISOString()})` : '')
    return `${formatPosition(from)}${time(firstMs)} to ${formatPosition(end)}${time(lastMs)}`
  })
  const shown = has.length > 6 ? [...has.slice(0, 3), '…', ...has.slice(-3)] : has
  throw new SluiceError(
    'POSITION_LOST',
    `${option}: expected the beginning of a transaction in the change log; it has ${shown.join(', ') || 'nothing'}`,
  )
}
async function endOf(segments: Segments, where: Where): Promise<End> {
  const none = { place: undefined, ms: undefined, gtids: undefined }
  if (typeof where === 'string') return { ...none, place: await placed(segments, where, '--to') }
  if ('timestamp' in where) return { ...none, ms: where.timestamp }
  if ('gtids' in where) return { ...none, gtids: GtidSet.parse(where.gtids) }
  const last = segments.last?.end
  const at = last && last.file === where.file && last.offset === where.offset
  return { ...none, place: at ? last : await placed(segments, where, '--to') }
}

// ── writing ──────────────────────────────────────────────────────────────────

interface Job {
  readonly instance: string
  readonly name: string
  readonly sink: SinkConfig
  readonly stretch: Stretch
}

async function write(args: Arguments, job: Job & { readonly dataDir: string }): Promise<number> {
  const { instance, name, sink, stretch, dataDir } = job
  const folder = mkdtempSync(join(tmpdir(), 'sluice-replay-'))
  const state = State.open(join(folder, 'replay.sqlite'))
  const control = Control.open(controlFile(dataDir, instance))
  const stop = new AbortController()
  const stopped = (): void => stop.abort()
  process.on('SIGINT', stopped).on('SIGTERM', stopped)
  const run = new Replay({
    instance,
    name,
    config: sink,
    type: sinkTypes.find(({ type }) => type === sink.type)!,
    control,
    state,
    from: stretch.from,
    transactions: stretch.transactions(stop.signal),
    read: stretch.read,
    filter: stretch.filter,
    log: commandLogger(),
  })
  const shown = setInterval(() => progress(run), PROGRESS_MS)
  try {
    await run.run(stop.signal)
    const { position, ...counts } = run.progress
    const said = { ...counts, from: formatPosition(stretch.from), to: formatPosition(position) }
    const code = stop.signal.aborted || counts.deadLetters > 0 ? 1 : 0
    if (args.flag('json'))
      console.log(JSON.stringify({ instance, sink: name, ...said, done: code === 0 }))
    else
      console.log(
        `${name}: ${counts.rows} rows of ${counts.transactions} transactions, ${said.from} to ${said.to}`,
      )
    if (counts.deadLetters > 0)
      console.error(
        `${counts.deadLetters} rows were refused: sluice deadletters ${instance} list --sink ${name}`,
      )
    return code
  } finally {
    clearInterval(shown)
    process.off('SIGINT', stopped).off('SIGTERM', stopped)
    control.close()
    state.close()
    rmSync(folder, { recursive: true, force: true })
  }
}
/** A line for who watches; nothing where nobody does. */
function progress(run: Replay): void {
  if (process.stderr.isTTY !== true) return
  const { rows, position } = run.progress
  const time = position.timestamp > 0 ? ` ${new Date(position.timestamp).toISOString()}` : ''
  process.stderr.write(`${rows} rows, at ${formatPosition(position)}${time}\n`)
}

// ── a changed configuration ──────────────────────────────────────────────────

async function compare(args: Arguments, { instance, name, sink, stretch }: Job): Promise<number> {
  const file = args.text('with')
  if (file === undefined)
    throw new SluiceError('USAGE', '--dry-run: expected --with FILE, the changed instance file')
  const changed = sinkOf(orThrow(loadInstance(file)), name, file)
  const comparison = new Comparison(sink, changed, args.number('differences', 0) ?? DIFFERENCES)
  let transactions = 0
  for await (const tx of stretch.transactions(new AbortController().signal)) {
    try {
      transactions++
      comparison.take(tx, stretch.filter)
    } finally {
      tx.slab?.release()
    }
  }
  const tables = [...comparison.tables.values()]
  const [from, to] = [formatPosition(stretch.from), formatPosition(stretch.at)]
  if (args.flag('json'))
    console.log(JSON.stringify({ instance, sink: name, from, to, transactions, tables }))
  else {
    console.log(`${transactions} transactions, ${from} to ${to}; nothing is written`)
    for (const { table, was, now, different, first } of tables) {
      console.log(`${table}: ${was} writes, ${now} with the change; ${different} differ`)
      for (const { id, was: a, now: b } of first) {
        console.log(`  ${id}`)
        console.log(`  - ${a ? lineOf(a) : 'not written'}`)
        console.log(`  + ${b ? lineOf(b) : 'not written'}`)
      }
    }
  }
  return tables.some(({ different }) => different > 0) ? 1 : 0
}
const lineOf = ({ op, table, key, row }: Shown): string =>
  `${op} ${table} ${key}${op === 'delete' ? '' : ` ${row}`}`
