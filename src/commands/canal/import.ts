/**
 * `sluice import-canal`: a Canal installation becomes a folder that `sluice serve` runs on: conf/server.yaml,
 * instances/<destination>.yaml and, where Canal had cursors, data/<destination>.sqlite. All or nothing: whatever is refused,
 * nothing is written; and no file is ever overwritten. Secrets are written, never printed.
 */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import type { Arguments } from '../../cli.ts'
import { loadInstance, loadServer } from '../../config/config.ts'
import type { InstanceConfig } from '../../config/config.ts'
import { formatProblem } from '../../config/yaml.ts'
import { SluiceError } from '../../errors.ts'
import { stateFile } from '../../instance.ts'
import { cursorName } from '../../sinks/runner/runner.ts'
import { positionToJson } from '../../store/state.ts'
import { commandLogger, painter } from '../common.ts'
import { describePlace, findPlaces, writeState } from './cursors.ts'
import type { Places, Wanted } from './cursors.ts'
import type { Draft, Note, NoteKind } from './draft.ts'
import { readInstallation } from './installation.ts'
import type { Destination } from './installation.ts'
import { SINK } from './kafka.ts'
import {
  clientFilter,
  cursorsIn,
  mapInstance,
  mapServer,
  modeOf,
  noteServerRest,
} from './mapping.ts'

interface Planned {
  readonly destination: Destination
  readonly draft: Draft
  readonly config: InstanceConfig | undefined
  places: Places | undefined
}
interface Options {
  readonly dryRun: boolean
  readonly cursors: boolean
}

/** Exit code 1 when something was refused; then nothing was written. */
export async function importCanal(args: Arguments): Promise<number> {
  const out = args.text('out') ?? '.'
  const options = { dryRun: args.flag('dry-run'), cursors: !args.flag('without-cursors') }
  const installation = readInstallation(args.words[0]!, {
    cursors: options.cursors,
    env: process.env,
  })
  const mapping = { envSecrets: args.flag('env-secrets') }
  const server = mapServer(installation, mapping)
  const planned = installation.destinations.map((destination): Planned => {
    const draft = mapInstance(destination, mapping)
    return { destination, draft, config: validate(draft), places: undefined }
  })
  noteServerRest(server, installation)
  validate(server)
  if (planned.length === 0)
    server.note(
      'refused',
      'canal.destinations',
      'expected at least one destination with an instance.properties',
    )
  for (const one of planned) await findCursors(one, options)
  const files = filesOf(out, server, planned)
  if (!options.dryRun) {
    for (const path of files.keys()) {
      if (existsSync(path))
        server.note(
          'refused',
          '',
          `${path} exists already`,
          'choose another --out, or move it away',
        )
    }
  }
  const drafts = [server, ...planned.map((p) => p.draft)]
  const refused = drafts.some((draft) => draft.refused)
  if (!refused && !options.dryRun) writeAll(files)
  report(args, { out, files: [...files.keys()], drafts, planned, refused })
  return refused ? 1 : 0
}

/** The file as it will be read; its problems are refusals. */
function validate(draft: Draft): InstanceConfig | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-import-'))
  try {
    const file = join(folder, `${draft.where || 'server'}.yaml`)
    if (draft.where.includes('/')) return undefined // refused for its name
    writeFileSync(file, draft.toString(), { mode: 0o600 })
    const known = [...draft.secrets].filter(([, value]) => value !== undefined)
    const env = { ...process.env, ...Object.fromEntries(known) }
    const loaded = draft.where === '' ? loadServer(file, env) : loadInstance(file, env)
    for (const problem of loaded.problems)
      draft.note('refused', '', formatProblem({ ...problem, file: basename(file) }))
    return draft.where === '' ? undefined : (loaded.config as InstanceConfig | undefined)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

// ── cursors ──────────────────────────────────────────────────────────────────

async function findCursors(one: Planned, { dryRun, cursors }: Options): Promise<void> {
  const { destination, draft, config } = one
  const wanted = cursors ? wantedCursors(destination, draft) : []
  const start = config?.start
  const placed = cursors && typeof start === 'object' && 'file' in start
  if (!config || (wanted.length === 0 && !placed)) return
  try {
    one.places = await findPlaces(config, wanted, commandLogger())
    for (const found of one.places.cursors) draft.note('carried', 'meta.dat', describePlace(found))
    if (wanted.length === 0)
      draft.note(
        'carried',
        'start',
        `begins at ${one.places.origin.file}:${one.places.origin.offset}`,
      )
  } catch (error) {
    if (!(error instanceof SluiceError)) throw error
    const unreachable = ['CONNECT_FAILED', 'ACCESS_DENIED', 'TLS_FAILED'].includes(error.code)
    const what = wanted.length > 0 ? 'the cursors' : 'the start position'
    draft.note(
      dryRun && unreachable ? 'open' : 'refused',
      wanted.length > 0 ? 'meta.dat' : 'start',
      `${error.code}: ${error.message}`,
      unreachable
        ? `the source must be reached to find the transactions in which ${what} of Canal lie; run this where it can be, or take --without-cursors and write where to begin into \`start\``
        : undefined,
    )
  }
}

function wantedCursors(destination: Destination, draft: Draft): Wanted[] {
  const { name, keys, meta, dataDir, parsed } = destination
  const kept = cursorsIn(keys, name)
  const file = join(dataDir, 'meta.dat')
  if (meta === undefined && kept === 'zookeeper') {
    draft.note(
      'refused',
      'canal.zkServers',
      `the cursors are in ZooKeeper, at /otter/canal/destinations/${name}/<client id>/cursor, which is not read`,
      `with Canal stopped, get them by zkCli.sh and write them as {"clientDatas":[{"clientIdentity":{"clientId":1001,"filter":""},"cursor":<what you got>}]} into ${file}; or take --without-cursors`,
    )
  } else if (meta === undefined && kept === 'memory') {
    draft.note(
      'unneeded',
      'canal.instance.global.spring.xml',
      'memory-instance.xml: Canal kept no cursors',
    )
  } else if (meta === undefined && parsed === undefined) {
    draft.note(
      'lost',
      'meta.dat',
      `there is no ${file}: Canal knew of no client, and began where it was told to, or at the end`,
      'if that is not so, find the file; else what happens between the stop of Canal and the start of Sluice is missed, unless `start` says where to begin',
    )
  } else if (meta !== undefined && kept === 'zookeeper') {
    draft.note(
      'carried',
      'meta.dat',
      `taken although Canal keeps cursors in ZooKeeper: make sure that ${file} is new`,
    )
  }
  return (meta?.clients ?? []).flatMap(({ id, filter, position }): Wanted[] => {
    if (position === undefined) {
      draft.note(
        'unneeded',
        'meta.dat',
        `client ${id} has no cursor: it begins where the instance begins`,
      )
      return []
    }
    if (modeOf(keys) === 'kafka' && id === '1001')
      return [{ client: cursorName(SINK), filterText: '', position }]
    return [{ client: id, filterText: clientFilter(destination, filter), position }]
  })
}

// ── files ────────────────────────────────────────────────────────────────────

/** Path → what writes it; the server's file last, for it makes the rest count. */
function filesOf(
  out: string,
  server: Draft,
  planned: readonly Planned[],
): Map<string, (path: string) => void> {
  const text =
    (draft: Draft) =>
    (path: string): void => {
      writeFileSync(path, draft.toString(), { mode: 0o600, flag: 'wx' })
    }
  const files = new Map<string, (path: string) => void>()
  for (const { destination, places } of planned) {
    if (places === undefined) continue
    const state = stateFile(join(out, 'data'), destination.name)
    files.set(state, (path) => writeState(path, places, commandLogger()))
  }
  for (const { destination, draft } of planned)
    files.set(join(out, 'instances', `${destination.name}.yaml`), text(draft))
  files.set(join(out, 'conf', 'server.yaml'), text(server))
  return files
}
function writeAll(files: ReadonlyMap<string, (path: string) => void>): void {
  const begun: string[] = []
  try {
    for (const [path, write] of files) {
      mkdirSync(dirname(path), { recursive: true })
      if (existsSync(path)) throw new SluiceError('USAGE', `${path} exists since a moment ago`)
      begun.push(path)
      write(path)
    }
  } catch (error) {
    for (const path of begun)
      for (const more of ['', '-lock', '-wal', '-shm']) rmSync(path + more, { force: true })
    throw error
  }
}

// ── the report ───────────────────────────────────────────────────────────────

interface Outcome {
  readonly out: string
  readonly files: readonly string[]
  readonly drafts: readonly Draft[]
  readonly planned: readonly Planned[]
  readonly refused: boolean
}
const titles: Readonly<Record<NoteKind, string>> = {
  carried: 'Carried over',
  unneeded: 'Not needed any more',
  lost: 'NOT carried over',
  open: 'Not known in a dry run',
  refused: 'REFUSED, so nothing was written',
}

function report(args: Arguments, outcome: Outcome): void {
  const { out, files, drafts, planned, refused } = outcome
  const dryRun = args.flag('dry-run')
  const notes = drafts.flatMap((draft) => draft.notes)
  if (args.flag('json')) {
    const cursors = planned.flatMap(({ destination, places }) =>
      (places?.cursors ?? []).map(({ client, filterText, position }) => ({
        destination: destination.name,
        client,
        filter: filterText,
        position: JSON.parse(positionToJson(position)) as unknown,
      })),
    )
    const written = !refused && !dryRun
    console.log(JSON.stringify({ out, written, files, cursors, notes }, null, 2))
    return
  }
  const paint = painter(process.stdout)
  const colours = {
    carried: paint.green,
    unneeded: paint.dim,
    lost: paint.yellow,
    open: paint.yellow,
    refused: paint.red,
  }
  for (const kind of Object.keys(titles) as NoteKind[]) {
    const lines = together(notes.filter((n) => n.kind === kind))
    if (lines.length === 0) continue
    console.log(colours[kind](titles[kind]))
    for (const { where, key, text, fix } of lines) {
      const arrow =
        key && kind === 'carried' ? `${key} → ${text}` : [key, text].filter(Boolean).join(': ')
      console.log(`  ${where ? `[${where}] ` : ''}${arrow}`)
      if (fix !== undefined) console.log(`      ${paint.dim('instead:')} ${fix}`)
    }
  }
  if (refused) return
  const config = join(out, 'conf', 'server.yaml')
  console.log(`${dryRun ? 'Would write' : 'Written'}: ${files.join(', ')}`)
  if (!dryRun)
    console.log(
      `Next, with Canal stopped: sluice check -c ${config}, then sluice serve -c ${config}`,
    )
}
/** What is the same for several destinations once. */
function together(notes: readonly Note[]): Note[] {
  const same = new Map<string, Note>()
  for (const note of notes) {
    const id = JSON.stringify([note.key, note.text])
    const known = same.get(id)
    const where = [known?.where, note.where].filter(Boolean).join(', ')
    same.set(id, { ...note, where })
  }
  return [...same.values()]
}
