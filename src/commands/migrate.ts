/**
 * `sluice migrate`: reads what is asked for, runs the migration (src/migrate/), and shows what it tells: lines for people, a
 * line that moves on a terminal, or one JSON object per event. Exit codes: 0 cut over, or a plan without failures; 1 failed;
 * 2 wrong usage; 3 stopped before the cut-over; 4 source and target differ.
 */
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Arguments } from '../cli.ts'
import { SluiceError, withoutPasswords } from '../errors.ts'
import { compileFilter } from '../filter.ts'
import {
  endpointOf,
  held,
  orderCutOver,
  remembered,
  tablesOf,
  type MigrateOptions,
  type Wanted,
} from '../migrate/options.ts'
import type { Event, Outcome, Progress } from '../migrate/parts.ts'
import { planText, timeText, sizeText } from '../migrate/plan.ts'
import { migrate as run } from '../migrate/run.ts'
import { commandLogger, firstSignal, painter } from './common.ts'

const EXIT: Readonly<Record<Outcome, number>> = {
  planned: 0,
  done: 0,
  unfit: 1,
  stopped: 3,
  different: 4,
}
const LOOK_MS = 200
const LINE_MS = 10_000 // between lines of progress where nobody sees one that moves

export async function migrate(args: Arguments): Promise<number> {
  const options = optionsOf(args)
  if (options.cutOver && held(options.dir)) return await order(options.dir)
  const log = commandLogger()
  const stop = new AbortController()
  void firstSignal(log).then(() => stop.abort())
  const shown = args.flag('json') ? asJson() : forPeople()
  let outcome: Outcome
  try {
    outcome = await run(options, {
      report: (event) => shown.report(event),
      log,
      signal: stop.signal,
    })
  } catch (error) {
    const code = error instanceof SluiceError ? error.code : ''
    const text = withoutPasswords(error instanceof Error ? error.message : String(error))
    shown.end()
    if (args.flag('json')) console.log(JSON.stringify({ event: 'error', code, text }))
    throw error
  }
  shown.end()
  if (args.flag('json')) console.log(JSON.stringify({ event: 'end', outcome }))
  else if (outcome === 'stopped') console.log(`stopped; the same command goes on (${options.dir})`)
  else if (outcome === 'unfit') console.log('not begun: put right what failed above')
  return EXIT[outcome]
}

// ── what is asked for ────────────────────────────────────────────────────────

function optionsOf(args: Arguments): MigrateOptions {
  const dirText = args.text('dir')
  const before = dirText === undefined ? undefined : remembered(dirText)
  const url = (which: 'from' | 'to'): string => {
    const text = args.text(which) ?? before?.[which]
    if (text !== undefined) return text
    throw new SluiceError(
      'USAGE',
      `expected --${which} URL, or --dir of a migration that was begun`,
    )
  }
  const from = endpointOf('from', url('from'), password(args, 'from'))
  const to = endpointOf('to', url('to'), password(args, 'to'))
  const ddl = args.text('ddl') ?? 'apply'
  if (ddl !== 'apply' && ddl !== 'ignore')
    throw new SluiceError('USAGE', `--ddl: expected apply or ignore, found "${ddl}"`)
  const said = ['databases', 'tables', 'exclude'].some((name) => args.text(name) !== undefined)
  const wanted = said || before === undefined ? wantedOf(args, from.database) : before.wanted
  const name = args.text('databases')?.split(',')[0] ?? (from.database || from.host)
  return {
    from,
    to,
    dir: resolve(dirText ?? `migrate-${name.replaceAll(/[^\w.-]/g, '_')}`),
    wanted,
    dryRun: args.flag('dry-run'),
    cutOver: args.flag('cut-over'),
    lockSource: args.flag('lock-source'),
    reverse: args.flag('reverse'),
    ddl,
    removeNul: args.flag('remove-nul'),
  }
}
function wantedOf(args: Arguments, database: string): Wanted {
  const databases = args.text('databases')
  const tables = args.text('tables')
  if (databases !== undefined && tables !== undefined)
    throw new SluiceError('USAGE', 'expected --databases or --tables, found both')
  const names = databases?.split(',') ?? (tables === undefined && database !== '' ? [database] : [])
  const include = tables ?? (names.length === 0 ? '' : tablesOf(names))
  const exclude = args.text('exclude') ?? ''
  compileFilter({ include, exclude })
  return { tables: include, exclude }
}
function password(args: Arguments, which: 'from' | 'to'): string | undefined {
  const file = args.text(`${which}-password-file`)
  if (file === undefined) return process.env[`SLUICE_${which.toUpperCase()}_PASSWORD`]
  try {
    return readFileSync(file, 'utf8').replace(/\r?\n$/, '')
  } catch (cause) {
    const text = `--${which}-password-file: expected a readable file: ${(cause as Error).message}`
    throw new SluiceError('USAGE', text, { cause })
  }
}

/** Another process is at it: it cuts over, and this one waits for that. */
async function order(dir: string): Promise<number> {
  orderCutOver(dir)
  console.log(
    `asked the migration that runs in ${dir} to cut over; its own output says how it goes`,
  )
  while (remembered(dir)?.phase !== 'done') {
    if (!held(dir))
      throw new SluiceError(
        'STATE_FENCED',
        `${dir}: the migration ended before the cut-over; see its output`,
      )
    await sleep(LOOK_MS)
  }
  console.log('cut over')
  return 0
}

// ── what is shown ────────────────────────────────────────────────────────────

interface Shown {
  report(event: Event): void
  end(): void
}
const asJson = (): Shown => ({
  report: (event) => console.log(withoutPasswords(JSON.stringify(event))),
  end: () => undefined,
})
function forPeople(): Shown {
  const paint = painter(process.stdout)
  const moving = process.stderr.isTTY
  let line = ''
  let at = Date.now()
  const clear = (): void => {
    if (line !== '') process.stderr.write('\r\u001b[K')
    line = ''
  }
  const say = (text: string): void => {
    clear()
    console.log(withoutPasswords(text))
  }
  const report = (event: Event): void => {
    if (event.event === 'plan')
      say(planText(event.plan, event.phase === 'schema' ? undefined : event.phase))
    else if (event.event === 'phase') say(`${paint.bold(event.phase)}: ${event.text}`)
    else if (event.event === 'note') say(`${paint.yellow('note')} ${event.on}: ${event.text}`)
    else if (event.event === 'trouble') say(`${paint.yellow('tries again')}: ${event.text}`)
    else if (event.event === 'verified') {
      for (const { table, text } of event.different)
        say(`${paint.red('different')} ${table}: ${text}`)
      if (event.different.length === 0)
        say(`verified: ${event.tables} tables, ${event.rows} rows, no difference`)
    } else if (event.event === 'cutOver') for (const hint of event.hints) say(hint)
    else if (event.event !== 'progress') say(event.text)
    else if (moving) {
      line = progressText(event)
      process.stderr.write(`\r\u001b[K${line}`)
    } else if (Date.now() - at >= LINE_MS) {
      at = Date.now()
      say(progressText(event))
    }
  }
  return { report, end: clear }
}
function progressText(p: Progress): string {
  if (p.phase !== 'load')
    return `streaming: ${p.rowsPerSecond} rows/s, ${(p.lagMs / 1000).toFixed(1)} s behind, ${sizeText(p.lagBytes)} of log`
  const left = p.secondsLeft === null ? '' : `, ${timeText(p.secondsLeft)} left`
  const table = p.table === null ? '' : `${p.table}: `
  return `${table}${p.rows} of about ${p.rowsExpected} rows, ${p.tablesDone} of ${p.tables} tables, ${p.rowsPerSecond} rows/s${left}, stream ${(p.lagMs / 1000).toFixed(1)} s behind`
}
