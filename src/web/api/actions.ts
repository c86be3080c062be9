/**
 * What an operator may do. Every entry that changes something stands in the audit log before it does. Actions on an instance
 * take their turn with the watching of its file.
 */
import { existsSync } from 'node:fs'
import * as z from 'zod'
import { goalOf, moveTo, resetPosition } from '../../commands/steer/position.ts'
import { logLevels } from '../../config/config.ts'
import { compileFilter } from '../../filter.ts'
import { stateFile } from '../../instance.ts'
import type { Control } from '../../sinks/letters/control.ts'
import { cursorName } from '../../sinks/runner/runner.ts'
import { State } from '../../store/state.ts'
import type { Store } from '../../store/store.ts'
import { tail } from '../live/tail.ts'
import type { Panel } from '../panel.ts'
import { notFound, notNow } from '../refused.ts'
import { configActions } from './config.ts'
import { withLetters } from './reads.ts'
import { route, type Route } from './route.ts'
import { dryRun, dryRunReply } from './dry-run.ts'

const done = z.strictObject({ done: z.literal(true) })
const DONE = { done: true } as const

const server: readonly Route[] = [
  route({
    method: 'PUT',
    path: '/log',
    summary: 'Change the level of the log, until the server ends',
    role: 'operator',
    body: z.strictObject({ level: z.enum(logLevels) }),
    reply: done,
    run: ({ book }, { body }) => {
      book.setLevel(body.level)
      return DONE
    },
  }),
  route({
    method: 'POST',
    path: '/dry-run',
    summary:
      'Check the text of an instance file; with connect, also which tables it wants and how changes would look',
    role: 'operator',
    body: z.strictObject({
      destination: z.string().describe('the name its file would have'),
      yaml: z.string(),
      connect: z.boolean().default(false).describe('ask the source too'),
    }),
    reply: dryRunReply,
    noted: ({ destination, connect }) => JSON.stringify({ destination, connect }),
    run: dryRun,
  }),
]

const instances: readonly Route[] = [
  route({
    method: 'POST',
    path: '/instances/{destination}/stop',
    summary:
      'Stop an instance, until it is started or the server is; enabled: false in its file is for good',
    role: 'operator',
    reply: done,
    run: async ({ fleet }, { params }) => {
      await fleet.hold(params['destination']!)
      return DONE
    },
  }),
  route({
    method: 'POST',
    path: '/instances/{destination}/start',
    summary: 'Start an instance that was stopped or has failed',
    role: 'operator',
    reply: done,
    run: async (panel, { params }) => {
      if (panel.member(params['destination']!).config?.enabled === false)
        throw notNow('it is disabled in its file (enabled: false)')
      await panel.fleet.release(params['destination']!)
      return DONE
    },
  }),
  route({
    method: 'POST',
    path: '/instances/{destination}/restart',
    summary: 'Stop an instance and start it again',
    role: 'operator',
    reply: done,
    run: async (panel, { params }) => {
      panel.running(params['destination']!)
      await panel.fleet.whileStopped(params['destination']!, () => undefined)
      return DONE
    },
  }),
  route({
    method: 'POST',
    path: '/instances/{destination}/position',
    summary:
      'Set the position of one client, or of all of them and the origin, or forget it; the instance stops for a moment',
    role: 'operator',
    body: z.strictObject({
      to: z
        .string()
        .min(1)
        .nullable()
        .describe(
          'earliest, latest, file:offset, a GTID set or a time; null: forget, to begin where the start key says',
        ),
      client: z.string().optional().describe('only this client'),
    }),
    reply: z.strictObject({ changes: z.array(z.string()) }),
    run: async (panel, { params, body: { to, client } }) => {
      const { name, config } = panel.member(params['destination']!)
      const file = stateFile(panel.dataDir, name)
      if (!existsSync(file)) throw notNow(`${name} has no saved positions yet`)
      if (!config) throw notNow(`the file of ${name} has problems`)
      const changes: string[] = []
      const say = (line: string): void => void changes.push(line)
      const about = { destination: name, config, saved: State.read(file), file, warn: say }
      const goal = to === null ? undefined : await goalOf(to, about)
      await panel.fleet.whileStopped(name, () => {
        const state = State.open(file)
        try {
          if (goal) moveTo(state, goal, client, say)
          else resetPosition(state, client, say)
        } finally {
          state.close()
        }
      })
      return { changes }
    },
  }),
  route({
    method: 'POST',
    path: '/instances/{destination}/tables/{database}/{table}/reload',
    summary:
      "Forget a table's definition, so that its next row asks the source; the log is read on by a new connection",
    role: 'operator',
    reply: done,
    run: async (panel, { params }) => {
      await panel.running(params['destination']!).reloadTable(params['database']!, params['table']!)
      return DONE
    },
  }),
  route({
    method: 'GET',
    path: '/instances/{destination}/tail',
    summary:
      'A sample of the changes as they are read: server-sent events "change", "skipped" and "dropped"',
    role: 'operator',
    query: z.strictObject({
      filter: z.string().optional().describe("tables to show, Canal's syntax"),
    }),
    reply: z.void(),
    run: (panel, { params, query }) => {
      const { name } = panel.member(params['destination']!)
      const find = () => panel.fleet.members().find((m) => m.name === name)?.instance
      return tail(find, compileFilter({ include: query.filter })) as unknown as undefined
    },
  }),
]

const clients: readonly Route[] = [
  route({
    method: 'POST',
    path: '/instances/{destination}/clients/{client}/rollback',
    summary: 'Let a connected client read again from what it has acked',
    role: 'operator',
    reply: done,
    run: (panel, { params }) => {
      const store = storeOf(panel, params)
      if (!store.rollBack(params['client']!)) throw notNow('the client is not connected')
      return DONE
    },
  }),
  route({
    method: 'DELETE',
    path: '/instances/{destination}/clients/{client}',
    summary:
      'Forget a client and its position; it loses what it has not acked, and begins at the origin when it comes again',
    role: 'operator',
    reply: done,
    run: (panel, { params }) => {
      storeOf(panel, params).forget(params['client']!)
      return DONE
    },
  }),
]

const sinkAction = (verb: 'pause' | 'resume', summary: string): Route =>
  route({
    method: 'POST',
    path: `/instances/{destination}/sinks/{sink}/${verb}`,
    summary,
    role: 'operator',
    reply: done,
    run: (panel, { params }) => {
      const { destination, sink } = params
      const configured = panel.member(destination!).config?.sinks ?? {}
      if (!Object.hasOwn(configured, sink!)) throw notFound(`${destination} has no sink ${sink}`)
      letters(panel, destination!, (control) => {
        control.pause(sink!, verb === 'pause')
        if (verb === 'resume') control.wish('resume', sink!, null)
      })
      return DONE
    },
  })
const chosen = z.strictObject({
  ids: z.array(z.int().min(0)).min(1).max(1000),
})
const sinks: readonly Route[] = [
  sinkAction('pause', 'Pause a sink; it holds over restarts. The sink follows within a second'),
  sinkAction('resume', 'Let a sink go on that is paused or has failed'),
  route({
    method: 'POST',
    path: '/instances/{destination}/deadletters/replay',
    summary:
      'Let sinks write dead letters again, as soon as they run; those that are written disappear',
    role: 'operator',
    body: chosen,
    reply: z.strictObject({ asked: z.int() }),
    run: (panel, { params, body: { ids } }) =>
      letters(panel, params['destination']!, (control) => {
        const found = ids.map((id) => letterOf(control, id))
        for (const { id, sink } of found) control.wish('replay', sink, id)
        return { asked: found.length }
      }),
  }),
  route({
    method: 'POST',
    path: '/instances/{destination}/deadletters/drop',
    summary: 'Drop dead letters: their rows will not be in the target',
    role: 'operator',
    body: chosen,
    reply: z.strictObject({ dropped: z.int() }),
    run: (panel, { params, body: { ids } }) =>
      letters(panel, params['destination']!, (control) => {
        const found = ids.map((id) => letterOf(control, id))
        for (const { id } of found) control.drop(id)
        return { dropped: found.length }
      }),
  }),
]

export const actions: readonly Route[] = [
  ...server,
  ...instances,
  ...configActions,
  ...clients,
  ...sinks,
]

function letters<T>(panel: Panel, destination: string, work: (control: Control) => T): T {
  return withLetters(panel, destination, (control) => {
    if (control) return work(control)
    throw notNow(`the sinks of ${destination} have never run`)
  })
}
function letterOf(control: Control, id: number): { readonly id: number; readonly sink: string } {
  const letter = control.letter(id)
  if (letter) return letter
  throw notFound(`there is no dead letter ${id}`)
}
/** The store of an instance that runs and knows this client, which is no sink in use. */
function storeOf(panel: Panel, params: Readonly<Record<string, string>>): Store {
  const { destination, client } = params
  const { store } = panel.running(destination!)
  if (!store?.status().cursors.some((c) => c.client === client))
    throw notFound(`${destination} has no client ${client}`)
  const sinksNow = Object.keys(panel.member(destination!).config?.sinks ?? {})
  if (sinksNow.some((sink) => cursorName(sink) === client))
    throw notNow(
      `${client} is the cursor of a sink in use; pause the sink, or take it out of the file`,
    )
  return store
}
