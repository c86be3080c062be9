/**
 * `sluice instances`: what each instance is doing, and start, stop and restart of one, through the admin port of the running
 * server. Without it `list` says what the files say.
 */
import { existsSync } from 'node:fs'
import { formatPosition } from '../../change.ts'
import type { Arguments } from '../../cli.ts'
import { instanceFiles, loadInstance, type ServerConfig } from '../../config/config.ts'
import { readKnown } from '../../epoch.ts'
import { SluiceError } from '../../errors.ts'
import { stateFile } from '../../instance.ts'
import { State } from '../../store/state.ts'
import { askServer, isAway } from './ask.ts'
import { instanceFile, serverConfig } from '../common.ts'

const actions = ['start', 'stop', 'restart'] as const

/** list, show, start, stop or restart. */
export async function instances(args: Arguments): Promise<number> {
  const [verb, destination] = args.words
  const config = serverConfig(args)
  if (verb === 'list' && destination === undefined) return await list(args, config)
  const action = actions.find((a) => a === verb)
  if (destination === undefined || (verb !== 'show' && action === undefined)) {
    const expected = 'list, show DESTINATION, start, stop or restart DESTINATION'
    throw new SluiceError('USAGE', `expected ${expected}, found ${args.words.join(' ')}`)
  }
  instanceFile(config, destination)
  const path = `/instances/${encodeURIComponent(destination)}`
  const answer = await askServer<object>(
    config,
    action === undefined ? { method: 'GET', path } : { method: 'POST', path: `${path}/${action}` },
  )
  if (isAway(answer)) {
    const text = `${verb} needs the running server, and ${answer.away}`
    throw new SluiceError('SERVER_REFUSED', text)
  }
  if (action === undefined) console.log(JSON.stringify(answer, null, args.flag('json') ? 0 : 2))
  else
    console.log(
      args.flag('json')
        ? JSON.stringify({ destination, done: action })
        : `${destination}: ${action} is done`,
    )
  return 0
}

/** A line of the list, whoever knows it. */
interface Line {
  readonly destination: string
  readonly state: string
  readonly position: string | null
  readonly lagMs: number | null
  readonly clients: number
  readonly sinks: number
  readonly error: string | null
}
/** As the API shows an instance, as far as it is listed (web/api/views.ts). */
interface Seen {
  readonly destination: string
  readonly state: string
  readonly position: { readonly text: string } | null
  readonly lag: { readonly read: { readonly ms: number | null } }
  readonly clients: readonly unknown[]
  readonly sinks: readonly unknown[]
  readonly error: { readonly message: string } | null
}

async function list(args: Arguments, config: ServerConfig): Promise<number> {
  const answer = await askServer<readonly Seen[]>(config, { method: 'GET', path: '/instances' })
  const lines = isAway(answer) ? fromFiles(config) : answer.map(lineOf)
  if (args.flag('json')) {
    console.log(JSON.stringify({ server: isAway(answer) ? null : 'running', instances: lines }))
    return 0
  }
  if (isAway(answer)) console.log(`from the files, for ${answer.away}`)
  if (lines.length === 0) console.log(`no instance files in ${config.instancesDir}`)
  const width = Math.max(0, ...lines.map((line) => line.destination.length))
  for (const { destination, state, position, lagMs, clients, sinks, error } of lines) {
    const lag = lagMs === null ? '' : `, ${lagMs} ms behind`
    const served = `${clients} clients, ${sinks} sinks`
    console.log(
      `${destination.padEnd(width)}  ${state.padEnd(10)}  ${position ?? 'no position yet'}${lag}, ${served}`,
    )
    if (error !== null) console.log(`${' '.repeat(width)}  ${error}`)
  }
  return 0
}
function lineOf({ destination, state, position, lag, clients, sinks, error }: Seen): Line {
  const counts = { clients: clients.length, sinks: sinks.length }
  const lagMs = lag.read.ms
  return {
    destination,
    state,
    position: position?.text ?? null,
    lagMs,
    ...counts,
    error: error?.message ?? null,
  }
}
/** Whether a server has an instance's state is told by the lock of its file. */
function fromFiles({ instancesDir, dataDir }: ServerConfig): Line[] {
  return [...instanceFiles(instancesDir)].map(([destination, file]): Line => {
    const { config, problems } = loadInstance(file)
    const state = stateFile(dataDir, destination)
    const held = existsSync(state) && State.held(state)
    const saved = existsSync(state) ? State.read(state) : undefined
    const cursors = saved?.cursors.filter((c) => !c.client.startsWith('sink:')) ?? []
    const origin =
      saved && readKnown({ path: state, value: (key) => saved.values.get(key) })?.origin
    return {
      destination,
      state: !config ? 'invalid' : !config.enabled ? 'disabled' : held ? 'running' : 'stopped',
      position: origin ? formatPosition(saved.cursors.at(0)?.acked ?? origin) : null,
      lagMs: null,
      clients: cursors.length,
      sinks: Object.keys(config?.sinks ?? {}).length,
      error: problems[0]?.message ?? null,
    }
  })
}
