/**
 * `sluice serve`: configuration → instances → Canal port → wait for a signal → stop in reverse order. Everything that
 * outlives a function is closed here.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { flushCompileCache } from 'node:module'
import type { TlsOptions } from 'node:tls'
import { version, type Arguments } from '../cli.ts'
import { DEFAULT_CONFIG, loadServer, orThrow } from '../config/config.ts'
import type { ServerConfig } from '../config/config.ts'
import type { Filter } from '../change.ts'
import { SluiceError } from '../errors.ts'
import { Fleet } from '../fleet.ts'
import { LogBook } from '../logger.ts'
import type { Logger } from '../logger.ts'
import { CanalServer } from '../server/server.ts'
import { ReaderThread } from '../sources/index.ts'
import { openAdmin } from '../web/admin.ts'
import { dieOfBugs, firstSignal, requireWritable } from './common.ts'
import { collectGarbage, keepHeapSmall, letHeapGrow } from './heap.ts'

const CONNECT_MS = 5000 // how long the port waits for the first connections to the sources

/**
 * Runs until SIGTERM or SIGINT. Returns 0 after a graceful stop, 1 when that took longer than `shutdownMs`. Throws CONFIG_INVALID,
 * STATE_UNWRITABLE, LISTEN_FAILED.
 */
export async function serve(args: Arguments): Promise<number> {
  keepHeapSmall()
  const config = orThrow(loadServer(args.text('config') ?? DEFAULT_CONFIG))
  const book = new LogBook(config.log.level, config.log.stream === 'stderr' ? 2 : 1)
  const { log } = book
  const stopped = firstSignal(log)
  levelBySignal(book)
  dieOfBugs(log)
  const thread = new ReaderThread(collectGarbage)
  const { instancesDir: folder, dataDir, memoryBytesMax } = config
  requireWritable(dataDir)
  const onSinks = letHeapGrow
  const fleet = new Fleet({ folder, dataDir, log, thread, memoryBytesMax, onSinks })
  const admin = await openAdmin(config, fleet, { book, version: version() })
  await fleet.open()
  // A client that comes as soon as the port answers should find its destination.
  await Promise.race([fleet.settled(CONNECT_MS), stopped])
  let server: CanalServer
  try {
    server = await listen(config, fleet, log)
  } catch (error) {
    await fleet.close()
    await admin?.close()
    throw error
  }
  admin?.serving(server)
  log.info(
    { host: config.canal.host, port: server.port },
    `serving Canal clients on ${config.canal.host}:${server.port}`,
  )
  warnIfOpen(config, log)
  collectGarbage()
  flushCompileCache() // now, as a process that is killed has no time for it
  const signal = await stopped
  log.info({ signal }, `${signal}: stopping`)
  const ended = await within(config.shutdownMs, async () => {
    admin?.serving(undefined)
    await server.close()
    await fleet.close()
    await admin?.close()
    await thread.close()
  })
  if (!ended) log.warn({ shutdownMs: config.shutdownMs }, 'stopping took too long: cut off')
  else log.info('stopped')
  return ended ? 0 : 1
}

/** SIGUSR2: everything is logged; again: what the configuration says. */
function levelBySignal(book: LogBook): void {
  const configured = book.level
  process.on('SIGUSR2', () => {
    const level = book.level === configured ? 'debug' : configured
    book.setLevel(level)
    book.log.info({ level }, `SIGUSR2: the level of the log is ${level} now`)
  })
}

async function listen(config: ServerConfig, fleet: Fleet, log: Logger): Promise<CanalServer> {
  const { host, port, user, password, passwordHash, tls, ...limits } = config.canal
  const hash =
    password === undefined ? passwordHash?.replace('*', '').toLowerCase() : doubleSha1(password)
  try {
    return await CanalServer.listen({
      host,
      port,
      ...limits,
      ...(user !== undefined && { user }),
      ...(hash !== undefined && { passwordHash: hash }),
      ...(tls && { tls: readTls(tls) }),
      log,
      resolve: (destination) => {
        const instance = fleet.find(destination)
        if (typeof instance === 'string') return instance
        const { store } = instance
        if (store) {
          const { gtid, filter } = instance.config
          const load = (client: string, wanted: Filter): void =>
            instance.snapshots.once(client, wanted)
          const { transactionEntries } = filter
          return { name: destination, store, gtid, transactionEntries, load }
        }
        const { status } = instance
        const why =
          'error' in status ? status.error.message : 'it connects to its source for the first time'
        return `destination ${destination} is not ready: ${why}`
      },
    })
  } catch (error) {
    if (error instanceof SluiceError) throw error
    const { message } = error as Error
    throw new SluiceError('LISTEN_FAILED', `cannot listen on ${host}:${port}: ${message}`, {
      cause: error,
    })
  }
}

/** As Canal stores it: hex SHA1(SHA1(password)). */
export function doubleSha1(password: string): string {
  const once = createHash('sha1').update(password, 'utf8').digest()
  return createHash('sha1').update(once).digest('hex')
}
function readTls({ cert, key, ca }: NonNullable<ServerConfig['canal']['tls']>): TlsOptions {
  const read = (file: string): string => readFileSync(file, 'utf8')
  const pair = { cert: read(cert), key: read(key) }
  return ca === undefined
    ? pair
    : { ...pair, ca: read(ca), requestCert: true, rejectUnauthorized: true }
}
function warnIfOpen({ canal }: ServerConfig, log: Logger): void {
  if (/^(localhost|127\.\d+\.\d+\.\d+|::1)$/.test(canal.host)) return
  const missing = [
    canal.user === undefined && 'canal.user',
    canal.tls === undefined && 'canal.tls',
  ].filter(Boolean)
  if (missing.length === 0) return
  const text = `the Canal port is open beyond this machine (${canal.host}) without ${missing.join(' and ')}`
  log.warn({ host: canal.host, missing }, text)
}

/** Whether `work` was done in time. */
async function within(ms: number, work: () => Promise<void>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), ms)
  })
  try {
    return await Promise.race([work().then(() => true), late])
  } finally {
    clearTimeout(timer)
  }
}
