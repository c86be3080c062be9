/**
 * `sluice position`: shows and changes what a state file has saved: the instance's origin and each client's acked
 * position. Showing works while the server runs; changing takes the file's lock, which a running server holds.
 */
import { existsSync } from 'node:fs'
import type { Arguments } from '../cli.ts'
import { comparePositions, formatPosition } from '../change.ts'
import type { Position } from '../change.ts'
import type { InstanceConfig } from '../config/config.ts'
import { parseTime } from '../config/source.ts'
import { forgetOrigin, readKnown } from '../epoch.ts'
import type { Known } from '../epoch.ts'
import { SluiceError } from '../errors.ts'
import { GtidSet } from '../gtid.ts'
import { stateFile } from '../instance.ts'
import type { ConnectOptions } from '../mysql/connection.ts'
import type { SourceFacts } from '../sources/index.ts'
import { positionToJson, State } from '../store/state.ts'
import type { StateSnapshot } from '../store/state.ts'
import { factsOf } from '../upstream/connect.ts'
import { Sources } from '../upstream/sources.ts'
import { startPosition } from '../upstream/start.ts'
import { instanceConfig, serverConfig } from './common.ts'

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
  const start = verb === 'set' ? parseStart(where!) : undefined
  using held = open(file)
  const { state } = held
  if (start === undefined) {
    resetPosition(state, client, console.log)
    return 0
  }
  const cursors = state.cursors()
  if (client !== undefined && !cursors.some((c) => c.client === client))
    throw noClient(client, { cursors })
  const to = await place(args, destination!, state, start)
  moveTo(state, { to, bySet: isSet(start) }, client, console.log)
  return 0
}

function open(file: string): { readonly state: State; [Symbol.dispose](): void } {
  try {
    const state = State.open(file)
    return { state, [Symbol.dispose]: () => state.close() }
  } catch (error) {
    if (!(error instanceof SluiceError) || error.code !== 'STATE_LOCKED') throw error
    const text = `${error.message}. Stop the server, or move the instance file away, then try again`
    throw new SluiceError('STATE_LOCKED', text, { cause: error })
  }
}
function known(state: State): Known {
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
function parseStart(text: string): InstanceConfig['start'] {
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

const isSet = (start: InstanceConfig['start']): boolean =>
  typeof start === 'object' && 'gtids' in start

/** The position that `start` means on the instance's source; where that cannot be asked, what is written there. */
async function place(
  args: Arguments,
  destination: string,
  state: State,
  start: InstanceConfig['start'],
) {
  const { epoch, server } = known(state)
  let connect: ConnectOptions
  let facts: SourceFacts
  try {
    const config = instanceConfig(serverConfig(args), destination)
    connect = new Sources(config, state.value('source')).connect
    facts = await factsOf(connect)
  } catch (error) {
    if (!(error instanceof SluiceError)) throw error
    const text = `the source cannot be asked (${error.message})`
    if (typeof start === 'string' || 'timestamp' in start) {
      throw new SluiceError(
        error.code,
        `${destination}: ${text}, and only it knows where that is`,
        {
          cause: error,
        },
      )
    }
    console.error(`not checked: ${text}`)
    return unchecked(start, known(state))
  }
  if (facts.serverUuid !== server && !isSet(start)) {
    throw new SluiceError(
      'SOURCE_CHANGED',
      `${destination}: expected the server ${server}, whose log the saved positions are in, found ${facts.serverUuid}; ` +
        'a GTID set means the same on both; or reset, and use the start key of the instance file',
    )
  }
  const warn = (_: object, text: string): void => console.error(`warning: ${text}`)
  const found = await startPosition(connect, facts, start, { warn })
  return { ...found, epoch, server }
}
type Say = (line: string) => void
/** Sets the acked position of one client, or of all of them and the origin, unchecked. Throws USAGE, STATE_UNREADABLE. */
export function setPosition(
  state: State,
  where: string,
  client: string | undefined,
  say: Say,
): void {
  const start = parseStart(where)
  if (typeof start === 'string' || 'timestamp' in start) {
    throw new SluiceError(
      'USAGE',
      `expected file:offset or a GTID set, found "${where}", which only the source knows: sluice position … set`,
    )
  }
  const to = unchecked(start, known(state))
  moveTo(state, { to, bySet: isSet(start) }, client, say)
}
/** A start that needs no source to be understood, as it is written. */
function unchecked(
  start: Exclude<InstanceConfig['start'], string | { timestamp: unknown }>,
  { epoch, server }: Known,
): Position {
  const common = { epoch, server, skip: 0, timestamp: 0 }
  if ('file' in start) return { ...common, ...start, gtids: undefined }
  return { ...common, file: '', offset: 4, gtids: GtidSet.parse(start.gtids) }
}
interface Goal {
  readonly to: Position
  readonly bySet: boolean // given as a GTID set
}
function moveTo(state: State, goal: Goal, client: string | undefined, say: Say): void {
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
