/**
 * `sluice backup` and `sluice restore`: the state of instances (positions, cursors, definitions, dead letters, orders of
 * snapshots) into a folder while the server runs, and back where it does not. Each file is copied as it is at one moment, by
 * SQLite's own backup; what was acked after that comes again when the copy is restored.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { backup as copyOf, DatabaseSync } from 'node:sqlite'
import type { Arguments } from '../../cli.ts'
import { SluiceError } from '../../errors.ts'
import { stateFile } from '../../instance.ts'
import { controlFile } from '../../sinks/letters/control.ts'
import { ordersFile } from '../../snapshot/orders.ts'
import { State } from '../../store/state.ts'
import { serverConfig } from '../common.ts'

/** FOLDER [destination…] */
export async function backup(args: Arguments): Promise<number> {
  const { dataDir } = serverConfig(args)
  const [folder, ...wanted] = args.words
  const to = resolve(folder!)
  const copies = filesIn(dataDir, wanted)
  mkdirSync(to, { recursive: true })
  for (const { name } of copies) await copy(join(dataDir, name), join(to, name))
  return done(args, copies, `saved in ${to}`)
}

/** FOLDER [destination…] */
export async function restore(args: Arguments): Promise<number> {
  const { dataDir } = serverConfig(args)
  const [folder, ...wanted] = args.words
  const from = resolve(folder!)
  const copies = filesIn(from, wanted)
  for (const { destination } of copies) {
    State.read(stateFile(from, destination)) // whole, and not of a newer Sluice
    const state = stateFile(dataDir, destination)
    if (!State.held(state)) continue
    const text = `${state} is in use by another Sluice: stop the server, or move the instance file away, then try again`
    throw new SluiceError('STATE_LOCKED', text)
  }
  mkdirSync(dataDir, { recursive: true })
  const stamp = `before-${new Date().toISOString().replaceAll(':', '-')}`
  for (const { name } of copies) {
    const file = join(dataDir, name)
    for (const part of ['', '-wal', '-shm'])
      if (existsSync(file + part)) renameSync(file + part, `${file}.${stamp}${part}`)
    await copy(join(from, name), file)
  }
  return done(args, copies, `restored into ${dataDir}; what was there is beside it, as *.${stamp}`)
}

interface Copy {
  readonly destination: string
  readonly name: string
}
/**
 * The files of a folder, for each destination the state first: a position in it never says more than the dead letters beside
 * it hold. Throws USAGE for a destination that is not there.
 */
function filesIn(folder: string, wanted: readonly string[]): Copy[] {
  const names = new Set(existsSync(folder) ? readdirSync(folder) : [])
  const all = [...names].flatMap((name) => /^([\w-][\w.-]*)\.sqlite$/.exec(name)?.[1] ?? [])
  const destinations = all.filter(
    (name) => !/\.(deadletters|snapshots)$/.test(name) || !all.includes(name.replace(/\.\w+$/, '')),
  )
  const missing = wanted.filter((name) => !destinations.includes(name))
  if (missing.length > 0 || destinations.length === 0) {
    const expected = missing.length > 0 ? `the state of ${missing.join(', ')}` : 'state files'
    const found = destinations.join(', ') || 'nothing'
    throw new SluiceError('USAGE', `${folder}: expected ${expected}, found ${found}`)
  }
  return destinations
    .filter((name) => wanted.length === 0 || wanted.includes(name))
    .sort()
    .flatMap((destination) =>
      [stateFile, controlFile, ordersFile]
        .map((file) => file('', destination))
        .filter((name) => names.has(name))
        .map((name) => ({ destination, name })),
    )
}

/** Whole or not there: the copy gets its name when it is complete and was looked over. */
async function copy(from: string, to: string): Promise<void> {
  const partial = `${to}.partial`
  rmSync(partial, { force: true })
  try {
    using source = new DatabaseSync(from, { readOnly: true })
    await copyOf(source, partial)
    using result = new DatabaseSync(partial)
    const [row] = result.prepare('PRAGMA integrity_check').all()
    const said = String(row?.['integrity_check'])
    if (said !== 'ok') throw new Error(said)
  } catch (cause) {
    rmSync(partial, { force: true })
    const text = `${from}: expected a state file that can be copied: ${(cause as Error).message}`
    throw new SluiceError('STATE_UNREADABLE', text, { cause })
  }
  renameSync(partial, to)
}

function done(args: Arguments, copies: readonly Copy[], what: string): number {
  const destinations = [...new Set(copies.map(({ destination }) => destination))]
  if (args.flag('json'))
    console.log(JSON.stringify({ destinations, files: copies.map((c) => c.name) }))
  else console.log(`${destinations.join(', ')}: ${what}`)
  return 0
}
