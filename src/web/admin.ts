/**
 * Opens the admin port of a server as its configuration says, and closes it: accounts or the token file, the audit log, the
 * watchdog, the port. Without `admin.port` there is none of it.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TlsOptions } from 'node:tls'
import type { ServerConfig } from '../config/config.ts'
import type { Fleet } from '../fleet.ts'
import type { LogBook, Logger } from '../logger.ts'
import type { CanalServer } from '../server/server.ts'
import { Audit } from './audit.ts'
import { Auth, tokenFrom } from './auth.ts'
import { Panel } from './panel.ts'
import { AdminServer, isLoopback } from './server.ts'

export interface Admin {
  readonly port: number
  /** The Canal port is open; undefined: it closes. */
  serving(canal: CanalServer | undefined): void
  close(): Promise<void>
}

/** Throws LISTEN_FAILED, CONFIG_INVALID. */
export async function openAdmin(
  { admin, dataDir, instancesDir }: ServerConfig,
  fleet: Fleet,
  { book, version }: { readonly book: LogBook; readonly version: string },
): Promise<Admin | undefined> {
  const { port, host, tls, accounts, health } = admin
  if (port === undefined) return undefined
  const { log } = book
  const auth = new Auth(Object.keys(accounts).length > 0 ? accounts : accountOf(dataDir, log))
  const audit = new Audit(join(dataDir, 'audit.log'))
  const panel = new Panel({ fleet, dataDir, instancesDir, book, audit, version, health })
  const config = { ...admin, port }
  const server = await AdminServer.listen({ config, tls: tls && readTls(tls), auth, panel, log })
  panel.watchdog.start()
  log.info(
    { host, port: server.port },
    `serving metrics, health and the API on ${host}:${server.port}`,
  )
  if (!isLoopback(host) && tls === undefined)
    log.warn({ host }, `the admin port is open beyond this machine (${host}) without admin.tls`)
  return {
    port: server.port,
    serving: (canal) => (panel.canal = canal),
    close: async () => {
      panel.watchdog.stop()
      await server.close()
    },
  }
}
function accountOf(dataDir: string, log: Logger): ConstructorParameters<typeof Auth>[0] {
  const file = join(dataDir, 'admin.token')
  const token = tokenFrom(file)
  log.info({ file }, `no admin.accounts: the token of the API is in ${file}`)
  return { admin: { role: 'operator', token } }
}
function readTls({ cert, key, ca }: NonNullable<ServerConfig['admin']['tls']>): TlsOptions {
  const read = (file: string): string => readFileSync(file, 'utf8')
  const pair = { cert: read(cert), key: read(key) }
  return ca === undefined
    ? pair
    : { ...pair, ca: read(ca), requestCert: true, rejectUnauthorized: true }
}
