/**
 * `sluice snapshot`: what an instance is loading beside its streams, and orders to the running server (snapshot/orders.ts):
 * start one for a client or a sink, pause it, let it go on, throttle it, cancel it.
 */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Arguments } from '../../cli.ts'
import { SluiceError } from '../../errors.ts'
import { compileFilter } from '../../filter.ts'
import { stateFile } from '../../instance.ts'
import type { LoadStatus, Part, Rate } from '../../snapshot/load.ts'
import { Orders, type Order } from '../../snapshot/orders.ts'
import type { KeyValues } from '../../sources/snapshot/keys.ts'
import { State } from '../../store/state.ts'
import { instanceConfig, serverConfig } from '../common.ts'

const WAIT_MS = 10_000 // for the server to do what it was asked
const verbs: readonly string[] = ['start', 'pause', 'resume', 'cancel', 'throttle']

/** list, start, pause, resume, cancel or throttle. */
export async function snapshot(args: Arguments): Promise<number> {
  const [destination = '', verb = '', client] = args.words
  const known = verb === 'list' || verbs.includes(verb)
  if (!known || (verb === 'list') !== (client === undefined)) {
    throw new SluiceError(
      'USAGE',
      `expected list, or ${verbs.join(', ')} with a client such as 1001 or sink:NAME, found ${args.words.slice(1).join(' ')}`,
    )
  }
  const config = serverConfig(args)
  instanceConfig(config, destination)
  if (verb === 'list') return list(args, config.dataDir, destination)
  const order: Order = {
    verb: verb as Order['verb'],
    client: client!,
    tables: args.text('tables') ?? '',
    rowsPerSecond: rateOf(args),
    ...partOf(args, verb),
  }
  compileFilter({ include: order.tables })
  if (verb === 'throttle' && order.rowsPerSecond === undefined) {
    const text = 'throttle: expected --rows-per-second N or auto; 0: as fast as it goes'
    throw new SluiceError('USAGE', text)
  }
  if (!State.held(stateFile(config.dataDir, destination))) {
    throw new SluiceError(
      'USAGE',
      `the server does not run ${destination}: a snapshot is read by it. Start the server, then order`,
    )
  }
  const orders = Orders.open(config.dataDir, destination)
  try {
    return await give(orders, order)
  } finally {
    orders.close()
  }
}

function rateOf(args: Arguments): Rate | undefined {
  if (args.text('rows-per-second') === 'auto') return 'auto'
  return args.number('rows-per-second', 0)
}
/** What of the tables: --where, --keys or --keys-file. */
function partOf(args: Arguments, verb: string): Part {
  const where = args.text('where')
  const file = args.text('keys-file')
  const given = args.text('keys')
  const count = [where, file, given].filter((one) => one !== undefined).length
  if (count > 0 && verb !== 'start')
    throw new SluiceError('USAGE', `${verb}: --where and --keys go with start`)
  if (count > 1)
    throw new SluiceError('USAGE', 'expected one of --where, --keys and --keys-file, found several')
  if (where !== undefined) return { where }
  let text = given
  if (file !== undefined) {
    try {
      text = readFileSync(file, 'utf8')
    } catch (error) {
      throw new SluiceError('USAGE', `--keys-file ${file}: ${(error as Error).message}`)
    }
  }
  return text === undefined ? {} : { keys: keysOf(text) }
}
function keysOf(text: string): readonly KeyValues[] {
  const expected =
    'keys: expected a JSON list of keys, each a list of texts and numbers, like [[1],[2]] or [["eu","a1"]]'
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new SluiceError('USAGE', `${expected}: ${(error as Error).message}`)
  }
  if (!Array.isArray(value)) throw new SluiceError('USAGE', expected)
  for (const [i, key] of value.entries())
    if (!isKey(key))
      throw new SluiceError('USAGE', `${expected}; at ${i}, found ${JSON.stringify(key)}`)
  return value as readonly KeyValues[]
}
const isKey = (key: unknown): boolean =>
  Array.isArray(key) &&
  key.length > 0 &&
  key.every((part) => typeof part === 'string' || typeof part === 'number')

async function give(orders: Orders, order: Order): Promise<number> {
  const id = orders.give(order)
  for (const until = Date.now() + WAIT_MS; Date.now() < until; await sleep(50)) {
    const answer = orders.answer(id)
    if (answer === undefined) continue
    if (answer !== '') throw new SluiceError('USAGE', answer)
    console.log(`${order.client}: ${done[order.verb]}`)
    return 0
  }
  console.log(`${order.client}: the server has not answered yet; it will, as soon as it can`)
  return 1
}
const done: Readonly<Record<Order['verb'], string>> = {
  start: 'loads',
  pause: 'pauses',
  resume: 'goes on',
  cancel: 'cancelled',
  throttle: 'throttled',
}

function list(args: Arguments, dataDir: string, destination: string): number {
  const loads = JSON.parse(Orders.said(dataDir, destination) ?? '[]') as LoadStatus[]
  if (args.flag('json')) console.log(JSON.stringify(loads))
  else if (loads.length === 0) console.log(`${destination} has loaded nothing`)
  for (const load of args.flag('json') ? [] : loads) {
    const { client, state, tables, done: finished, table, rows, rowsPerSecond, skipped } = load
    const { pace, where, keys } = load
    const most = rowsPerSecond === 'auto' ? pace : rowsPerSecond
    const auto = rowsPerSecond === 'auto' ? ' (auto)' : ''
    const rate = most > 0 ? `, at most ${most} rows/s${auto}` : ''
    const part = where === null ? (keys === null ? '' : `, ${keys} keys`) : `, where ${where}`
    console.log(`${client}  ${state}  ${finished} of ${tables} tables${part}, ${rows} rows${rate}`)
    if (table !== null)
      console.log(`  reads ${table}${load.after ? ` behind (${load.after.join(', ')})` : ''}`)
    console.log(`  since ${load.started}${load.ended === null ? '' : `, until ${load.ended}`}`)
    for (const { table: name, why } of skipped) console.log(`  left out: ${name}: ${why}`)
  }
  return 0
}
