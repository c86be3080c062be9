/**
 * `sluice verify`: compares what a sink has made of its instance's tables with the source, once or again and again, says what
 * differs, and has it put right. Needs no server, but rows in motion settle only while one runs.
 */
import { renameSync, writeFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import type { Arguments } from '../cli.ts'
import type { InstanceConfig, ServerConfig } from '../config/config.ts'
import { SluiceError, withoutPasswords } from '../errors.ts'
import { compileColumns, compileFilter } from '../filter.ts'
import { stateFile } from '../instance.ts'
import { Control, controlFile } from '../sinks/letters/control.ts'
import { cursorName } from '../sinks/runner/runner.ts'
import { State } from '../store/state.ts'
import { Sources } from '../upstream/sources.ts'
import { waitPassed } from '../verify/fence.ts'
import { metricsText } from '../verify/metrics.ts'
import { repairOf } from '../verify/repair.ts'
import {
  remaining,
  type Difference,
  type TableReport,
  type VerifyReport,
} from '../verify/report.ts'
import type { Values } from '../verify/target.ts'
import { verify as compare, type Progress, type VerifyOptions } from '../verify/verify.ts'
import { commandLogger, instanceConfig, painter, serverConfig } from './common.ts'

const SIGNALS = ['SIGINT', 'SIGTERM'] as const
const EXIT: Readonly<Record<VerifyReport['result'], number>> = {
  equal: 0,
  different: 1,
  incomplete: 2,
}

/** 0 equal, 1 different, 2 not (all) compared. */
export async function verify(args: Arguments): Promise<number> {
  const [instance, name] = args.words
  const server = serverConfig(args)
  const config = instanceConfig(server, instance!)
  const sink = config.sinks[name!]
  if (sink === undefined) {
    const names = Object.keys(config.sinks).join(', ') || 'none'
    throw new SluiceError('USAGE', `no sink "${name}" in ${instance}; found ${names}`)
  }
  const every = args.number('every')
  if (every !== undefined && args.flag('once'))
    throw new SluiceError('USAGE', 'expected one of --once and --every, found both')
  const stop = new AbortController()
  const abort = (): void => stop.abort()
  for (const signal of SIGNALS) process.once(signal, abort)
  using _signals = {
    [Symbol.dispose]: () => SIGNALS.forEach((signal) => process.off(signal, abort)),
  }
  using place = openPlace(server, { instance: instance!, name: name! })
  for (;;) {
    const code = await once(args, { config, sink, place, signal: stop.signal })
    if (every === undefined || stop.signal.aborted) return code
    await delay(every * 1000, undefined, { signal: stop.signal }).catch(() => {})
    if (stop.signal.aborted) return code
  }
}

interface Place {
  readonly instance: string
  readonly name: string
  readonly stateFile: string
  readonly dataDir: string
  readonly control: Control
  [Symbol.dispose](): void
}
function openPlace(
  { dataDir }: ServerConfig,
  about: { readonly instance: string; readonly name: string },
): Place {
  const control = Control.open(controlFile(dataDir, about.instance))
  const file = stateFile(dataDir, about.instance)
  return { ...about, stateFile: file, dataDir, control, [Symbol.dispose]: () => control.close() }
}
interface Run {
  readonly config: InstanceConfig
  readonly sink: VerifyOptions['sink']
  readonly place: Place
  readonly signal: AbortSignal
}

async function once(args: Arguments, run: Run): Promise<number> {
  const line = progressLine()
  const began = Date.now()
  try {
    const report = await compare(optionsOf(args, run, line.show))
    line.clear()
    write(args.text('report'), () => `${JSON.stringify(report, null, 2)}\n`)
    write(args.text('metrics-file'), () => metricsText(run.place, report, Date.now() - began))
    if (args.flag('json')) console.log(JSON.stringify(report))
    else print(report)
    return EXIT[report.result]
  } catch (error) {
    line.clear()
    if (run.signal.aborted) return 2
    if (!(error instanceof SluiceError)) throw error
    console.error(`sluice: ${error.code}: ${withoutPasswords(error.message)}`)
    return 2
  }
}
function optionsOf(
  args: Arguments,
  { config, sink, place, signal }: Run,
  onProgress: (progress: Progress) => void,
): VerifyOptions {
  const { values } = State.read(place.stateFile)
  const client = cursorName(place.name)
  const stopped = (): string => whyStopped(place)
  const source = {
    connect: new Sources(config, values.get('source')).connect,
    filter: compileFilter(config.filter),
    columns: compileColumns(config.filter.columns),
    timeZone: config.timezone,
  }
  return {
    source,
    instance: place.instance,
    name: place.name,
    sink,
    tables: compileFilter({ include: args.text('tables') }),
    passed: (position, until) =>
      waitPassed({ stateFile: place.stateFile, client, stopped }, position, until),
    rowsPerSecond: args.number('rows-per-second', 0),
    shownMax: args.number('show', 0),
    onProgress,
    repair: args.flag('repair')
      ? repairOf({ ...place, client, sink, source, stopped, log: commandLogger(), signal })
      : undefined,
    signal,
  }
}
/** What the running server said of a sink that does not move; "" of one that does. */
function whyStopped({ control, name }: Place): string {
  if (control.paused().has(name)) return 'the sink is paused'
  const said = control.said().find(({ sink }) => sink === name)
  const status =
    said && (JSON.parse(said.status) as { readonly state?: string; readonly error?: string })
  return status?.state === 'failed' ? `the sink has failed: ${status.error ?? ''}` : ''
}
/** Whole or not at all. */
function write(path: string | undefined, text: () => string): void {
  if (path === undefined) return
  try {
    writeFileSync(`${path}.new`, text())
    renameSync(`${path}.new`, path)
  } catch (cause) {
    throw new SluiceError('USAGE', `${path}: cannot write: ${(cause as Error).message}`, { cause })
  }
}

// ── for people ───────────────────────────────────────────────────────────────

function print(report: VerifyReport): void {
  const paint = painter(process.stdout)
  const { tables, differences } = report
  for (const t of tables) {
    const differs = t.missing + t.extra + t.different > 0
    const what = t.why === '' ? counts(t) : paint.yellow(`not compared: ${t.why}`)
    const of = `${t.rows} rows, ${t.keys} keys`
    console.log(
      `${paint.bold(t.table)}  ${of}  ${differs && t.why === '' ? paint.red(what) : what}`,
    )
  }
  for (const one of differences) console.log(lineOf(one))
  const all = tables.reduce((sum, t) => sum + t.missing + t.extra + t.different, 0)
  if (all > differences.length) console.log(`  … and ${all - differences.length} more`)
  const left = tables.reduce((sum, t) => sum + remaining(t), 0)
  const end = report.interrupted ? ' (interrupted)' : ''
  const results = {
    equal: paint.green(all > 0 ? `equal, ${all} repaired` : 'equal'),
    different: paint.red(`different: ${left} rows`),
    incomplete: paint.yellow('incomplete: not everything could be compared'),
  }
  console.log(`${results[report.result]}${end}`)
}
function counts(t: TableReport): string {
  const parts = [
    [t.missing, 'missing'],
    [t.extra, 'extra'],
    [t.different, 'different'],
    [t.repaired, 'repaired'],
    [t.unsettled, 'in motion'],
    [t.refused, 'that the target cannot hold'],
  ] as const
  const said = parts.flatMap(([n, what]) => (n > 0 ? [`${n} ${what}`] : []))
  return said.length === 0 ? 'equal' : said.join(', ')
}
function lineOf({ table, kind, key, expected, found, repaired }: Difference): string {
  const names = Object.keys({ ...expected, ...found })
  const value = (values: Values | undefined, n: string): string => shown(values?.[n])
  const what =
    kind === 'different'
      ? names.map((n) => `${n}: expected ${value(expected, n)}, found ${value(found, n)}`)
      : names.map((n) => `${n}=${value(expected ?? found, n)}`)
  const where = Object.entries(key).map(([n, v]) => `${n}=${shown(v)}`)
  return `  ${kind.padEnd(9)}  ${table} ${where.join(' ')}  ${what.join(', ')}${repaired ? '  (repaired)' : ''}`
}
const TEXT_MAX = 120
function shown(value: string | null | undefined): string {
  if (value === null || value === undefined) return 'NULL'
  return JSON.stringify(value.length > TEXT_MAX ? `${value.slice(0, TEXT_MAX)}…` : value)
}

const EVERY_MS = 200
/** One line on a terminal that is written again and again. */
function progressLine(): {
  readonly show: (progress: Progress) => void
  readonly clear: () => void
} {
  const { stderr } = process
  if (!stderr.isTTY) return { show: () => {}, clear: () => {} }
  let said = 0
  let of = ''
  let since = 0
  return {
    show: ({ table, tables, done, phase, rows, about, differences }) => {
      const now = Date.now()
      if (of !== table + phase) since = now
      of = table + phase
      if (now - said < EVERY_MS) return
      said = now
      const rate = now > since ? Math.round((rows * 1000) / (now - since)) : 0
      const left = rate > 0 ? `, ${Math.max(0, Math.ceil((about - rows) / rate))} s left` : ''
      const what = phase === 'rows' ? 'rows of the source' : 'keys of the target'
      stderr.write(
        `\r\u001b[K${done + 1}/${tables} ${table}: ${rows} of about ${about} ${what}, ${rate}/s${left}, ${differences} differences\r`,
      )
    },
    clear: () => void stderr.write('\r\u001b[K'),
  }
}
