/**
 * `sluice position`: shows and changes what a state file has saved: the instance's origin and each client's acked
 * position. Showing works while the server runs; changing takes the file's lock, which a running server holds.
 */
import { existsSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Arguments } from '../../cli.ts'
import { comparePositions, formatPosition } from '../../change.ts'
import type { Position } from '../../change.ts'
import type { InstanceConfig } from '../../config/config.ts'
import { parseTime } from '../../config/source.ts'
import { forgetOrigin, readKnown } from '../../epoch.ts'
import type { Known } from '../../epoch.ts'
import { SluiceError } from '../../errors.ts'
import { GtidSet } from '../../gtid.ts'
import { stateFile } from '../../instance.ts'
import { locate } from '../../retained/locate.ts'
import { logDir, Segments } from '../../retained/log.ts'
import type { ConnectOptions } from '../../mysql/connection.ts'
import type { SourceFacts } from '../../sources/index.ts'
import { positionToJson, State } from '../../store/state.ts'
import type { StateSnapshot } from '../../store/state.ts'
import { factsOf } from '../../upstream/connect.ts'
import { Sources } from '../../upstream/sources.ts'
import { startPosition } from '../../upstream/start.ts'
import { askServer, isAway } from './ask.ts'
import { instanceConfig, serverConfig } from '../common.ts'

/** show, set or reset. */
export async function position(args: Arguments): Promise<number> {
  const [destination, verb, where] = args.words
  const verbs = ['show', 'set', 'reset']
  if (!verbs.includes(verb!) || (verb === 'set') !== (where !== undefined)) {
    throw new SluiceError(
      'USAGE',
      `expected show, set POSITION or reset, found ${args.words.slice(1).join(' ')}`,
    )
  }
  const file = stateFile(serverConfig(args).dataDir, destination!)
  if (!existsSync(file)) {
    throw new SluiceError(
      'STATE_UNREADABLE',
      `${destination} has no saved positions yet: expected the state file ${file}`,
    )
  }
  const client = args.text('client')
  if (verb === 'show') return show(args, destination!, State.read(file), client)
  const to = where ?? null
  if (to !== null) parseStart(to) // what is wrong with it needs nobody else
  if (State.held(file)) return await throughServer(args, file, { to, client })
  let goal: Goal | undefined
  if (to !== null) {
    const config = instanceConfig(serverConfig(args), destination!)
    const saved = State.read(file)
    if (client !== undefined && !saved.cursors.some((c) => c.client === client))
      throw noClient(client, saved)
    const warn = (text: string): void => console.error(`warning: ${text}`)
    goal = await goalOf(to, { destination: destination!, config, saved, file, warn })
  }
  const state = State.open(file)
  try {
    if (goal) moveTo(state, goal, client, console.log)
    else resetPosition(state, client, console.log)
  } finally {
    state.close()
  }
  return 0
}

/** The instance runs: the server stops it for a moment. */
async function throughServer(
  args: Arguments,
  file: string,
  wish: { readonly to: string | null; readonly client: string | undefined },
): Promise<number> {
  const destination = args.words[0]!
  const path = `/instances/${encodeURIComponent(destination)}/position`
  const ask = { method: 'POST', path, body: wish } as const
  const answer = await askServer<{ readonly changes: readonly string[] }>(serverConfig(args), ask)
  if (isAway(answer)) {
    const { pid } = State.read(file).holder
    const text =
      `${file} is in use by another Sluice (process ${pid}), and ${answer.away}. ` +
      'Stop the server, or move the instance file away, then try again'
    throw new SluiceError('STATE_LOCKED', text)
  }
  for (const line of answer.changes) console.log(line)
  return 0
}

/** Who has values saved: a state file that is open, or what was read of one. */
type Saved = Parameters<typeof readKnown>[0]
function known(state: Saved): Known {
  const found = readKnown(state)
  if (found) return found
  const text = `${state.path}: the instance never reached its source; let it start once, or use the start key of its file`
  throw new SluiceError('STATE_UNREADABLE', text)
}

function show(
  args: Arguments,
  destination: string,
  snapshot: StateSnapshot,
  client: string | undefined,
): number {
  const value = (key: string): string | undefined => snapshot.values.get(key)
  const origin = readKnown({ path: destination, value })?.origin
  const cursors = snapshot.cursors.filter((c) => client === undefined || c.client === client)
  if (client !== undefined && cursors.length === 0) throw noClient(client, snapshot)
  if (args.flag('json')) {
    const plain = (p: Position | undefined): unknown => p && JSON.parse(positionToJson(p))
    const list = cursors.map((c) => ({
      client: c.client,
      acked: plain(c.acked),
      filter: c.filterText ?? null,
    }))
    const [epoch, server] = [Number(value('epoch') ?? 0), value('server') ?? null]
    console.log(
      JSON.stringify({ destination, epoch, server, origin: plain(origin) ?? null, clients: list }),
    )
    return 0
  }
  console.log(`destination  ${destination}`)
  console.log(`server       ${value('server') ?? 'never reached'} (epoch ${value('epoch') ?? 0})`)
  console.log(
    `origin       ${origin ? describe(origin) : 'none: the next start begins where the start key says'}`,
  )
  for (const c of cursors) {
    const filter =
      c.filterText === undefined ? 'not subscribed' : c.filterText && `filter ${c.filterText}`
    console.log(`client ${c.client.padEnd(5)} ${describe(c.acked)}${filter ? `, ${filter}` : ''}`)
  }
  if (cursors.length === 0) console.log('clients      none')
  return 0
}
function describe(p: Position): string {
  const time = p.timestamp > 0 ? ` at ${new Date(p.timestamp).toISOString()}` : ''
  return `${formatPosition(p)}${time}${p.gtids ? `, GTIDs ${p.gtids.toString()}` : ''}`
}
function noClient(client: string, { cursors }: Pick<StateSnapshot, 'cursors'>): SluiceError {
  const names = cursors.map((c) => c.client).join(', ') || 'none'
  return new SluiceError('USAGE', `no client "${client}" in the state file; found ${names}`)
}

/** What `set` takes, in the form of the start key. */
export function parseStart(text: string): InstanceConfig['start'] {
  if (text === 'earliest' || text === 'latest') return text
  const place = /^([^:]+\.\d+):(\d+)$/.exec(text)
  if (place) {
    const offset = Number(place[2])
    if (offset >= 4 && Number.isSafeInteger(offset)) return { file: place[1]!, offset }
    throw new SluiceError(
      'USAGE',
      `expected an offset of 4 or more, found ${place[2]} in "${text}"`,
    )
  }
  const timestamp = parseTime(text)
  if (timestamp !== undefined) return { timestamp }
  try {
    GtidSet.parse(text)
    return { gtids: text }
  } catch (cause) {
    const message =
      'expected earliest, latest, file:offset like binlog.000123:4567, a GTID set like uuid:1-99 or a time with its ' +
      `zone like 2026-01-31T12:00:00Z, found "${text}"`
    throw new SluiceError('USAGE', message, { cause })
  }
}

export interface GoalOptions {
  readonly destination: string
  readonly config: InstanceConfig
  readonly saved: StateSnapshot
  readonly file: string // that it was read from
  readonly warn: (text: string) => void
}
/**
 * The position on the instance's source that is meant by earliest, latest, file:offset, a GTID set or a time; where the
 * source cannot be asked, what is written there. Throws USAGE, SOURCE_CHANGED, POSITION_LOST, STATE_UNREADABLE, and what asking throws
 * when only the source knows.
 */
export async function goalOf(where: string, options: GoalOptions): Promise<Goal> {
  const { destination, config, warn } = options
  const { values } = options.saved
  const start = parseStart(where)
  const bySet = typeof start === 'object' && 'gtids' in start
  const kept = bySet ? await keptAt(start, options) : undefined
  if (kept) return { to: kept, bySet }
  const found = known({ path: options.file, value: (key) => values.get(key) })
  const { epoch, server } = found
  let connect: ConnectOptions
  let facts: SourceFacts
  try {
    connect = new Sources(config, values.get('source')).connect
    facts = await factsOf(connect)
  } catch (error) {
    if (!(error instanceof SluiceError)) throw error
    const text = `the source cannot be asked (${error.message})`
    const here = await keptAt(start, options)
    if (here) return { to: here, bySet }
    if (typeof start === 'string' || 'timestamp' in start) {
      const message = `${destination}: ${text}, and only it knows where that is`
      throw new SluiceError(error.code, message, { cause: error })
    }
    warn(`not checked: ${text}`)
    return { to: unchecked(start, found), bySet }
  }
  if (facts.serverUuid !== server && !bySet) {
    throw new SluiceError(
      'SOURCE_CHANGED',
      `${destination}: expected the server ${server}, whose log the saved positions are in, found ${facts.serverUuid}; ` +
        'a GTID set means the same on both; or reset, and use the start key of the instance file',
    )
  }
  let at: Position
  try {
    at = await startPosition(connect, facts, start, { warn: (_, text) => warn(text) })
  } catch (error) {
    const lost = error instanceof SluiceError && error.code === 'POSITION_LOST'
    const here = lost ? await keptAt(start, options) : undefined
    if (here === undefined) throw error
    return { to: here, bySet }
  }
  return { to: { ...at, epoch, server }, bySet }
}
/** Where that is in the change log, which has more than the source. */
async function keptAt(
  start: InstanceConfig['start'],
  { config, file, destination }: GoalOptions,
): Promise<Position | undefined> {
  if (!config.changeLog.enabled || typeof start === 'string') return undefined
  return await locate(Segments.look(logDir(dirname(file), destination)), start)
}
type Say = (line: string) => void
/** A start that needs no source to be understood, as it is written. */
function unchecked(
  start: Exclude<InstanceConfig['start'], string | { timestamp: unknown }>,
  { epoch, server }: Known,
): Position {
  const common = { epoch, server, skip: 0, timestamp: 0 }
  if ('file' in start) return { ...common, ...start, gtids: undefined }
  return { ...common, file: '', offset: 4, gtids: GtidSet.parse(start.gtids) }
}
/** Where to go to. */
export interface Goal {
  readonly to: Position
  readonly bySet: boolean // given as a GTID set
}
/** Sets the acked position of one client, or of all of them and the origin. Throws USAGE, STATE_UNREADABLE. */
export function moveTo(state: State, goal: Goal, client: string | undefined, say: Say): void {
  const { to } = goal
  const before = state.cursors()
  const chosen = before.filter((c) => client === undefined || c.client === client)
  if (client !== undefined && chosen.length === 0) throw noClient(client, { cursors: before })
  // forward, statements between the two places may never be read; what was read on the way here stays true
  if (chosen.some((c) => !isBefore(goal, c.acked))) state.forgetDefinitions()
  for (const c of chosen) void state.ack(c.client, to).catch(() => {})
  state.flush()
  for (const c of chosen) say(`client ${c.client}: ${formatPosition(c.acked)} → ${describe(to)}`)
  if (client !== undefined) return
  const was = known(state).origin
  state.setValue('origin', positionToJson(to))
  say(`origin (where new clients begin): ${formatPosition(was)} → ${describe(to)}`)
}
/** Whether it is certain that everything before `to` was read when `acked` was. */
function isBefore({ to, bySet }: Goal, acked: Position): boolean {
  if (to.epoch !== acked.epoch) return false
  if (to.gtids && acked.gtids) return acked.gtids.includes(to.gtids)
  // with a GTID set the place is only where the server's log begins
  if (bySet || to.file === '' || acked.file === '') return false
  return comparePositions(to, acked) <= 0
}
/** Forgets one client, or all of them and the origin. Throws USAGE, STATE_UNREADABLE. */
export function resetPosition(state: State, client: string | undefined, say: Say): void {
  const cursors = state.cursors()
  if (client !== undefined) {
    if (!cursors.some((c) => c.client === client)) throw noClient(client, { cursors })
    state.remove(client)
    say(`client ${client}: forgotten; it begins at the origin ${describe(known(state).origin)}`)
    return
  }
  for (const c of cursors) state.remove(c.client)
  forgetOrigin(state)
  say(
    `forgotten: the origin and ${cursors.length} clients; the next start begins where the start key says`,
  )
}
