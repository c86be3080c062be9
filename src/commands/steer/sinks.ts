/**
 * `sluice sinks` and `sluice deadletters`: what the sinks of an instance are doing, and the rows that their targets refused.
 * Talks to the running server through the file of dead letters (sinks/letters/control.ts), which it looks at twice a second;
 * what needs no server works without one.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Arguments } from '../../cli.ts'
import { formatPosition } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { stateFile } from '../../instance.ts'
import { Control, controlFile, type Letter } from '../../sinks/letters/control.ts'
import { cursorName } from '../../sinks/runner/runner.ts'
import { State } from '../../store/state.ts'
import { instanceConfig, serverConfig } from '../common.ts'

const WAIT_MS = 10_000 // for the server to do what it was asked

interface Place {
  readonly destination: string
  readonly control: Control
  readonly dataDir: string
  [Symbol.dispose](): void
}
function open(args: Arguments): Place {
  const [destination] = args.words
  const { dataDir } = serverConfig(args)
  const control = Control.open(controlFile(dataDir, destination!))
  return { destination: destination!, control, dataDir, [Symbol.dispose]: () => control.close() }
}
const runs = ({ dataDir, destination }: Place): boolean =>
  State.held(stateFile(dataDir, destination))

// ── sinks ────────────────────────────────────────────────────────────────────

/** list, pause or resume. */
export async function sinks(args: Arguments): Promise<number> {
  const [destination, verb, name] = args.words
  if (!['list', 'pause', 'resume'].includes(verb!) || (verb === 'list') !== (name === undefined)) {
    throw new SluiceError(
      'USAGE',
      `expected list, pause NAME or resume NAME, found ${args.words.slice(1).join(' ')}`,
    )
  }
  const configured = instanceConfig(serverConfig(args), destination!).sinks
  if (name !== undefined && configured[name] === undefined) {
    const names = Object.keys(configured).join(', ') || 'none'
    throw new SluiceError('USAGE', `no sink "${name}" in ${destination}; found ${names}`)
  }
  using place = open(args)
  const { control } = place
  if (verb === 'list') return list(args, place, configured)
  control.pause(name!, verb === 'pause')
  if (verb === 'resume') control.wish('resume', name!, null)
  const now = runs(place) ? '' : ' at the next start: the server does not run'
  console.log(`${name}: ${verb === 'pause' ? 'pauses' : 'goes on'}${now}`)
  return 0
}

function list(
  args: Arguments,
  place: Place,
  configured: Readonly<Record<string, { readonly type: string; readonly enabled: boolean }>>,
): number {
  const { control, dataDir, destination } = place
  const running = runs(place)
  const paused = control.paused()
  const said = new Map(control.said().map((s) => [s.sink, s]))
  const cursors = new Map(readCursors(stateFile(dataDir, destination)))
  const rows = Object.entries(configured).map(([name, { type, enabled }]) => {
    const last = said.get(name)
    const status = last === undefined ? {} : (JSON.parse(last.status) as Record<string, string>)
    const state = enabled && running ? (status['state'] ?? 'connecting') : 'stopped'
    return {
      sink: name,
      type,
      state: enabled ? state : 'disabled',
      since: last?.time ?? null,
      paused: paused.has(name),
      error: state === 'failed' || state === 'retrying' ? (status['error'] ?? null) : null,
      position: cursors.get(cursorName(name)) ?? null,
      deadLetters: control.count(name),
    }
  })
  if (args.flag('json')) console.log(JSON.stringify(rows))
  else {
    if (rows.length === 0) console.log(`${destination} has no sinks`)
    for (const r of rows) {
      const pause = r.paused && r.state !== 'paused' ? ', to be paused' : ''
      console.log(`${r.sink}  ${r.type}  ${r.state}${pause}`)
      console.log(`  position      ${r.position ?? 'none yet'}`)
      console.log(`  dead letters  ${r.deadLetters}`)
      if (r.error !== null) console.log(`  error         ${r.error}`)
    }
  }
  return 0
}
function readCursors(file: string): [string, string][] {
  try {
    return State.read(file).cursors.map((c) => [c.client, formatPosition(c.acked)])
  } catch (error) {
    if (error instanceof SluiceError && error.code === 'STATE_UNREADABLE') return []
    throw error
  }
}

// ── dead letters ─────────────────────────────────────────────────────────────

/** list, show, replay or drop. */
export async function deadletters(args: Arguments): Promise<number> {
  const [, verb, ...ids] = args.words
  const all = args.flag('all')
  const some = verb === 'replay' || verb === 'drop'
  const fits = verb === 'list' ? ids.length === 0 : verb === 'show' ? ids.length === 1 : some
  if (!fits || (some && all !== (ids.length === 0))) {
    throw new SluiceError(
      'USAGE',
      `expected list, show ID, replay ID… or drop ID… (or --all), found ${args.words.slice(1).join(' ')}`,
    )
  }
  using place = open(args)
  const { control } = place
  const letters =
    ids.length > 0 ? ids.map((id) => find(control, id)) : control.letters(args.text('sink'))
  if (verb === 'list') return listLetters(args, letters)
  if (verb === 'show') return show(args, letters[0]!)
  if (verb === 'replay') return await replay(args, place, letters)
  for (const { id } of letters) control.drop(id)
  console.log(
    args.flag('json') ? JSON.stringify({ dropped: letters.length }) : `dropped ${letters.length}`,
  )
  return 0
}
function find(control: Control, text: string): Letter {
  const letter = /^\d{1,15}$/.test(text) ? control.letter(Number(text)) : undefined
  if (letter !== undefined) return letter
  throw new SluiceError('USAGE', `no dead letter ${text}; "sluice deadletters … list" shows them`)
}

/** Without the row itself, which may be large and is shown by `show`. */
const plain = ({ row: _row, ...rest }: Letter): object => rest

function listLetters(args: Arguments, letters: readonly Letter[]): number {
  if (args.flag('json')) console.log(JSON.stringify(letters.map(plain)))
  else if (letters.length === 0) console.log('no dead letters')
  else {
    for (const l of letters)
      console.log(
        `${l.id}  ${l.time}  ${l.sink}  ${l.op} ${l.table} ${l.key}  ${l.code}: ${l.error}`,
      )
  }
  return 0
}
function show(args: Arguments, letter: Letter): number {
  const row = JSON.parse(letter.row) as {
    readonly table: { readonly columns: readonly { readonly name: string }[] }
    readonly before?: readonly unknown[]
    readonly after?: readonly unknown[]
  }
  const image = (cells: readonly unknown[] = []): Record<string, unknown> =>
    Object.fromEntries(
      row.table.columns.flatMap(({ name }, i) =>
        cells[i] === undefined || cells[i] === 0 ? [] : [[name, shown(cells[i])]],
      ),
    )
  const whole = { ...plain(letter), before: image(row.before), after: image(row.after) }
  if (args.flag('json')) console.log(JSON.stringify(whole))
  else {
    for (const [key, value] of Object.entries(whole)) {
      if (typeof value !== 'object') console.log(`${key.padEnd(9)} ${String(value)}`)
      else
        for (const [column, v] of Object.entries(value as object))
          console.log(`${key.padEnd(9)} ${column} = ${JSON.stringify(v)}`)
    }
  }
  return 0
}
function shown(cell: unknown): unknown {
  return cell === null ? null : (cell as { readonly t: unknown }).t
}

async function replay(args: Arguments, place: Place, letters: readonly Letter[]): Promise<number> {
  if (!runs(place)) {
    throw new SluiceError(
      'SINK_UNAVAILABLE',
      `the server does not run ${place.destination}: a dead letter is written by the sink it belongs to. Start the server, then replay`,
    )
  }
  const { control } = place
  for (const { id, sink } of letters) control.wish('replay', sink, id)
  const until = Date.now() + WAIT_MS
  let left = letters
  const refused: Letter[] = []
  while (left.length > 0 && Date.now() < until) {
    await sleep(100)
    left = left.filter(({ id, attempts }) => {
      const now = control.letter(id)
      if (now !== undefined && now.attempts > attempts) refused.push(now)
      return now?.attempts === attempts
    })
  }
  const done = letters.length - left.length - refused.length
  if (args.flag('json')) {
    const waiting = left.map((l) => l.id)
    console.log(JSON.stringify({ replayed: done, refused: refused.map(plain), waiting }))
  } else {
    console.log(`replayed ${done}`)
    for (const l of refused) console.log(`refused again: ${l.id} ${l.code}: ${l.error}`)
    if (left.length > 0) {
      console.log(
        `still waiting: ${left.length}; they are written when their sink runs (sluice sinks … list)`,
      )
    }
  }
  return done === letters.length ? 0 : 1
}
