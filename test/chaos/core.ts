/**
 * `npm run chaos:core -- --kills N [--seed N] [--server 8.0]`: random DML and DDL on a real MySQL while Sluice is killed,
 * the connections before and behind it are cut, MySQL is killed, and the reader goes back to earlier places in every way
 * there is. A second server is rebuilt from the delivered changes alone, under each binlog_row_metadata and each
 * binlog_row_image in turns; after each turn its tables must be what SELECT says of the source's. At the end a client that
 * never acked reads everything from the beginning, and must get the same bytes. With fewer than six kills the metadata
 * changes within three turns, one for each image: the short form. Prints
 *
 *   kills 6 changes 4711 lost 0 disordered 0
 *
 * and exits 1 when anything is wrong. changes: rows events and statements in the log, by SHOW BINLOG EVENTS. lost: of
 * those, never delivered. disordered: whatever came at the wrong moment, twice without saying so, or otherwise than before.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { crc32 } from 'node:zlib'
import { connect } from '../../src/client.ts'
import { Random, until } from '../e2e/load.ts'
import { privateMysql, type MysqlServer, type MysqlVersion } from '../support/mysql.ts'
import { Proxy } from '../support/proxy.ts'
import { freePort, startSluice, type SluiceProcess } from '../support/sluice.ts'
import { differences, logged, Mirror, Reader, type RowImage } from './rebuild.ts'
import { databases, finishPrepared, Names, quote, SQL_MODE, Writer } from './workload.ts'

const { values: args } = parseArgs({
  options: {
    kills: { type: 'string', default: '6' },
    seed: { type: 'string' },
    server: { type: 'string', default: '9.7' },
  },
})
const kills = Number(args.kills)
const seed = Number(args.seed ?? Math.trunc(Math.random() * 2 ** 31))
const random = new Random(seed)
const NAME = 'core'
const WRITERS = 3
const CATCH_UP_MS = 60_000
const BACK_MAX = 300 // transactions
const ANCHOR = 7 // a client id that acks nothing

type Metadata = 'FULL' | 'MINIMAL'
interface Turn {
  readonly metadata: readonly [first: Metadata, then?: Metadata] // the second from the middle of the turn on
  readonly image: RowImage
}
const images: readonly RowImage[] = ['FULL', 'MINIMAL', 'NOBLOB']
const turns: readonly Turn[] = images.flatMap((image) => [
  { metadata: ['MINIMAL'], image },
  { metadata: ['FULL'], image },
])
const both: readonly Turn[] = images.map((image) => ({
  metadata: random.chance(50) ? ['MINIMAL', 'FULL'] : ['FULL', 'MINIMAL'],
  image,
}))
/** Few kills: each turn has both kinds of metadata, and two of the other faults. */
const short = kills < turns.length

const begin = Date.now()
const say = (text: string): void =>
  console.log(`${((Date.now() - begin) / 1000).toFixed(1)} s  ${text}`)

class World {
  readonly mysql: MysqlServer
  readonly source: Proxy // between Sluice and MySQL
  readonly front: Proxy // between the reader and Sluice
  readonly dir: string
  readonly port: number
  readonly reader: Reader
  sluice: SluiceProcess | undefined

  constructor(parts: Pick<World, 'mysql' | 'source' | 'front' | 'dir' | 'port' | 'reader'>) {
    this.mysql = parts.mysql
    this.source = parts.source
    this.front = parts.front
    this.dir = parts.dir
    this.port = parts.port
    this.reader = parts.reader
  }
  async startSluice(): Promise<void> {
    const { user, password } = this.mysql
    this.sluice = await startSluice({
      dir: this.dir,
      port: this.port,
      instances: {
        [NAME]: {
          source: {
            host: '127.0.0.1',
            port: this.source.port,
            user,
            password,
            heartbeatMs: '200ms',
          },
          start: 'earliest',
          filter: { include: 'core.*\\..*' },
          partBytes: '64KiB',
          windowBytes: '1MiB',
          retry: { minMs: 20, maxMs: 300 },
        },
      },
    })
  }

  // ── what is done to it ─────────────────────────────────────────────────────

  async kill(): Promise<void> {
    await this.sluice?.kill()
    await sleep(random.int(0, 300))
    await this.startSluice()
  }
  async killMysql(): Promise<void> {
    await this.mysql.kill()
    await sleep(random.int(0, 300))
    await this.mysql.start()
    const db = await this.mysql.connect()
    await finishPrepared(db, random)
    await db.end()
  }
  /** Somewhere in the next bytes, so in the middle of an event or of a packet. */
  async cut(proxy: Proxy): Promise<void> {
    let left = random.int(0, random.chance(50) ? 2_000 : 60_000)
    const { promise: done, resolve } = Promise.withResolvers<void>()
    proxy.rule = (chunk) => {
      left -= chunk.length
      if (left > 0) return chunk
      proxy.rule = (next) => next
      resolve()
      return { cutAfter: Math.max(0, chunk.length + left) }
    }
    await Promise.race([done, sleep(2000)])
    proxy.rule = (chunk) => chunk
  }
  /** The saved position of the reader is set to an earlier transaction, by file and offset or by GTIDs. */
  async setBack(): Promise<void> {
    await this.reader.stop({ mayGoBack: true })
    await (random.chance(50) ? this.sluice?.kill() : this.sluice?.stop())
    const shown = JSON.parse(await this.#position('show', '--json')) as {
      clients: { acked: { file: string; offset: number } }[]
    }
    const { file, offset } = shown.clients[0]!.acked
    const byFile = random.chance(60)
    const places = file === '' ? [] : await gtidEvents(this.mysql, `${file}:${offset}`)
    const place = places.at(-random.int(1, Math.min(BACK_MAX, Math.max(1, places.length))))
    if (place) await this.#position('set', byFile || place.before === '' ? place.at : place.before)
    await this.startSluice()
    await this.reader.start()
  }
  async #position(...more: string[]): Promise<string> {
    const config = join(this.dir, 'conf/server.yaml')
    const words = ['position', NAME, ...more, '--client', '1001', '-c', config]
    const bin = join(import.meta.dirname, '../../bin/sluice.js')
    const child = spawn(process.execPath, [bin, ...words])
    let said = ''
    let wrong = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (wrong += text))
    const [code] = (await once(child, 'close')) as [number | null]
    if (code !== 0) throw new Error(`sluice ${words.join(' ')} ended with ${code}: ${wrong}`)
    return said
  }
}

/** Where transactions begin, and the GTIDs before each, of those that begin before `last`. */
async function gtidEvents(
  mysql: MysqlServer,
  last: string,
): Promise<{ at: string; before: string }[]> {
  const found: { at: string; before: string }[] = []
  const [lastFile = '', lastOffset = ''] = last.split(':')
  for (const { Log_name: file } of await mysql.query<{ Log_name: string }>('SHOW BINARY LOGS')) {
    const events = await mysql.query<{ Pos: number; Event_type: string; Info: string }>(
      `SHOW BINLOG EVENTS IN '${file}'`,
    )
    for (const { Pos, Event_type: type, Info } of events) {
      const gtid = /'([0-9a-f-]{36}):(\d+)'/.exec(Info)
      if (type !== 'Gtid' || !gtid) continue
      if (file > lastFile || (file === lastFile && Pos >= Number(lastOffset))) return found
      const before = Number(gtid[2]) - 1
      found.push({ at: `${file}:${Pos}`, before: before > 0 ? `${gtid[1]}:1-${before}` : '' })
    }
  }
  return found
}

// ── one turn ─────────────────────────────────────────────────────────────────

const shuffled = <T>(list: readonly T[]): T[] =>
  list
    .map((item) => ({ item, at: random.int(0, 1e9) }))
    .toSorted((a, b) => a.at - b.at)
    .map(({ item }) => item)

type Fault = readonly [name: string, run: () => Promise<void>]
let spare: Fault[] = [] // of the short form: what was not done in the last turn comes in the next

function faultsOf(world: World, count: number): Fault[] {
  const { reader } = world
  const list: Fault[] = []
  for (let n = 0; n < count; n++) list.push(['kill -9 sluice', () => world.kill()])
  const cuts = short ? 1 : 3
  const others = (): Fault[] => [
    ...Array.from({ length: cuts }, (): Fault => ['cut mysql', () => world.cut(world.source)]),
    ['cut client', () => world.cut(world.front)],
    ['roll back', () => Promise.resolve(reader.rollback())],
    ['subscribe', () => reader.subscribe()],
    ['set position', () => world.setBack()],
  ]
  const killed: Fault = ['kill -9 mysql', () => world.killMysql()]
  if (!short) return shuffled([...list, ...others(), ...(random.chance(35) ? [killed] : [])])
  if (spare.length === 0) spare = shuffled([...others(), killed])
  return shuffled([...list, ...spare.splice(0, 2)])
}

/** Load and faults under one setting of the log, then a look at what came out of it. */
async function turn(
  world: World,
  { metadata, image }: Turn,
  count: number,
  names: Names,
): Promise<void> {
  const { mysql, reader } = world
  await mysql.query(`SET PERSIST binlog_row_metadata = ${metadata[0]}`)
  reader.image = image
  const vectors = Number.parseInt(mysql.version, 10) >= 9
  const common = { mysql, names, image, vectors, partialJson: image === 'FULL' }
  const writers = Array.from(
    { length: WRITERS },
    () => new Writer({ ...common, random: new Random(random.int(0, 2 ** 31 - 1)) }),
  )
  const faults = faultsOf(world, count)
  const some = reader.length + 30
  await until(
    () => reader.length > some || reader.error !== undefined,
    () => 'for the first changes',
  )
  const list = faults.map(([name]) => name).join(', ')
  say(`metadata ${metadata.join(' then ')}, image ${image}: ${list}`)
  for (const [n, [, fault]] of faults.entries()) {
    if (n === faults.length >> 1 && metadata[1])
      await mysql.query(`SET PERSIST binlog_row_metadata = ${metadata[1]}`)
    await sleep(random.int(100, 900))
    await fault()
    if (reader.error) break
  }
  await sleep(random.int(100, 900))
  await Promise.all(writers.map((w) => w.stop()))
  const db = await mysql.connect()
  await finishPrepared(db, random)
  await db.end()
}

interface Verdict {
  readonly changes: number
  readonly lost: number
  readonly wrong: readonly string[]
}
async function verdict(
  world: World,
  mirror: { server: MysqlServer; writer: Mirror },
): Promise<Verdict> {
  const { reader, mysql } = world
  const wanted = await logged(mysql)
  await reader.caughtUp(wanted, CATCH_UP_MS)
  let changes = 0
  let lost = 0
  const wrong = [...reader.wrong, ...mirror.writer.wrong]
  if (reader.error) wrong.unshift(`the reader ended: ${reader.error.message}`)
  for (const [place, count] of wanted) {
    changes += count
    const mine = reader.places.get(place) ?? 0
    if (mine < count) lost += count - mine
    if (mine > count) wrong.push(`${place}: ${count} changes in the log, ${mine} delivered`)
  }
  for (const place of reader.places.keys())
    if (!wanted.has(place)) wrong.push(`${place}: delivered, but not in the log`)
  const { tables, different } = await differences(mysql, mirror.server)
  wrong.push(...different)
  say(
    `${changes} changes, ${reader.rows} rows, ${reader.redelivered} entries came again, ${tables} tables, lost ${lost}, wrong ${wrong.length}`,
  )
  return { changes, lost, wrong }
}

/** Everything once more, from the beginning. */
async function readAgain({ reader, port }: World): Promise<string[]> {
  await using client = await connect({ port, destination: NAME, clientId: ANCHOR })
  const wrong: string[] = []
  let at = 0
  for await (const batch of client.batches({
    waitMs: 1000,
    signal: AbortSignal.timeout(10 * CATCH_UP_MS),
  })) {
    const { raw, changes } = batch
    for (const [i, change] of changes.entries()) {
      const place = `${change.position.file}:${change.position.offset}`
      if (!reader.matches(at++, place, crc32(raw[i]!)) && wrong.length < 20)
        wrong.push(`read from the beginning, entry ${at} at ${place}: not what was delivered first`)
    }
    await batch.ack()
    if (at >= reader.length) break
  }
  if (at !== reader.length) wrong.push(`read from the beginning: ${at} entries of ${reader.length}`)
  say(`read from the beginning: ${at} entries`)
  return wrong
}

async function main(): Promise<number> {
  console.log(`chaos:core with seed ${seed}`)
  await using stack = new AsyncDisposableStack()
  const version = args.server as MysqlVersion
  const common = [
    '--default-time-zone=+00:00',
    `--sql-mode=${SQL_MODE}`,
    '--max-allowed-packet=64M',
  ]
  const mysql = stack.use(await privateMysql(version, { args: common }))
  const second = stack.use(await privateMysql(version, { args: [...common, '--skip-log-bin'] }))
  const source = stack.use(await Proxy.start(mysql))
  const dir = mkdtempSync(join(tmpdir(), 'sluice-core-'))
  stack.defer(() => rmSync(dir, { recursive: true, force: true }))
  const port = await freePort()
  const front = stack.use(await Proxy.start({ host: '127.0.0.1', port }))
  const mirror = await Mirror.open(second)
  stack.defer(() => mirror.close())
  const reader = new Reader({ port: front.port, destination: NAME, mirror, random })
  const world = new World({ mysql, source, front, dir, port, reader })
  for (const name of databases) await mysql.query(`CREATE DATABASE ${quote(name)}`)
  await world.startSluice()
  stack.defer(() => world.sluice!.kill())
  await using anchor = await connect({ port, destination: NAME, clientId: ANCHOR })
  await anchor.close()
  await reader.start()
  stack.defer(() => reader.stop())

  const names = new Names()
  const order = shuffled(short ? both : turns)
  const rounds = Math.max(order.length, Math.ceil(kills / 10))
  let result: Verdict = { changes: 0, lost: 0, wrong: [] }
  for (let n = 0; n < rounds; n++) {
    const count = Math.floor(((n + 1) * kills) / rounds) - Math.floor((n * kills) / rounds)
    await turn(world, order[n % order.length]!, count, names)
    result = await verdict(world, { server: second, writer: mirror })
    if (result.lost > 0 || result.wrong.length > 0) break
  }
  const { changes, lost } = result
  const wrong = [...result.wrong]
  if (lost === 0 && wrong.length === 0) wrong.push(...(await readAgain(world)))
  for (const text of wrong.slice(0, 20)) console.log(text.slice(0, 2000))
  if (lost > 0 || wrong.length > 0)
    console.log(reader.where(), '\n', world.sluice!.log.slice(-15).join('\n'))
  console.log(`kills ${kills} changes ${changes} lost ${lost} disordered ${wrong.length}`)
  return lost > 0 || wrong.length > 0 ? 1 : 0
}

process.exitCode = await main()
