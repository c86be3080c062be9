/**
 * PostgreSQL for tests: the one installed on this machine, else Debian's packages of version 15. It refuses to run as
 * root, so that for root it runs as an unprivileged user, in a copy of the packages that this user can read.
 */
import { chownSync, existsSync, readdirSync } from 'node:fs'
import { cp, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { certificate } from './certificate.ts'
import { cached, needDebian, run, unpackDebian } from './fetch.ts'
import type { User } from './process.ts'
import { startLocal, type Definition } from './service.ts'

export interface PostgresOptions {
  /** It speaks TLS too, with a certificate for 127.0.0.1 that `ca` of the service vouches for. */
  readonly tls?: boolean
  /** More settings as postgresql.conf has them; they win. */
  readonly settings?: Readonly<Record<string, string>>
}

const account = { user: 'sluice', password: 'sluice' } as const
/** What Debian calls nobody: owns nothing, may do nothing. */
const nobody: User = { uid: 65_534, gid: 65_534 }
const asUser = process.getuid?.() === 0 ? nobody : undefined

export const postgres: Definition<PostgresOptions> = {
  name: 'postgres',
  scheme: 'postgres',
  defaultPort: 5432,
  fetch: async () => `programs in ${(await programs()).bin}`,
  start,
}

interface Programs {
  readonly bin: string
  /** The folder of unpacked packages, when they are not installed. */
  readonly fetched: string | undefined
}

async function programs(): Promise<Programs> {
  const root = '/usr/lib/postgresql'
  const versions = existsSync(root) ? readdirSync(root).map(Number) : []
  const newest = versions
    .filter((version) => existsSync(join(root, `${version}/bin/initdb`)))
    .toSorted((a, b) => b - a)[0]
  if (newest) return { bin: join(root, `${newest}/bin`), fetched: undefined }
  const fetched = await cached(
    'postgres-15',
    'fetching PostgreSQL 15 (Debian packages, about 50 MB)',
    async (to) => {
      needDebian('PostgreSQL')
      await unpackDebian('bookworm', ['postgresql-15'], to, wanted)
    },
  )
  return { bin: join(fetched, 'usr/lib/postgresql/15/bin'), fetched }
}

/** The server and its libraries, but not the C library, nor the compiler for queries, which is larger than the rest. */
const wanted = (name: string): boolean =>
  /^(postgresql-15|postgresql-client-15|lib.*)$/.test(name) &&
  !/^lib(c6|c-bin|llvm|gcc-s1|stdc|perl|json-perl)|perl/.test(name)

async function start({ settings = {}, tls = false }: PostgresOptions = {}) {
  const { bin, fetched } = await programs()
  return startLocal('postgres', async ({ dir, port }) => {
    if (asUser) chownSync(dir, asUser.uid, asUser.gid)
    let programsDir = bin
    let env: Record<string, string> = { LC_ALL: 'C.UTF-8', HOME: dir, PGTZ: 'UTC' }
    if (fetched) {
      // the cache is in a home folder that the other user cannot enter
      if (asUser) await cp(join(fetched, 'usr'), join(dir, 'usr'), { recursive: true, mode: 2 })
      const home = asUser ? dir : fetched
      programsDir = join(home, 'usr/lib/postgresql/15/bin')
      const libraries = join(home, 'usr/lib', libraryFolder())
      env = { ...env, LD_LIBRARY_PATH: libraries }
    }
    const data = join(dir, 'data')
    const secret = join(dir, 'password')
    await writeFile(secret, `${account.password}\n`)
    const how = ['-A', 'scram-sha-256', '--pwfile', secret, '-E', 'UTF8']
    const quick = ['--no-sync', '--no-instructions']
    await run(join(programsDir, 'initdb'), ['-D', data, '-U', account.user, ...how, ...quick], {
      env,
      cwd: dir,
      user: asUser,
    })
    const own = tls ? await certificate(dir) : undefined
    if (own && asUser) chownSync(own.key, asUser.uid, asUser.gid)
    const all: Record<string, string> = {
      port: `${port}`,
      listen_addresses: '127.0.0.1',
      unix_socket_directories: dir,
      // a killed process (not machine) loses nothing
      fsync: 'off',
      full_page_writes: 'off',
      max_connections: '50',
      shared_buffers: '32MB',
      timezone: 'UTC',
      ...(own && { ssl: 'on', ssl_cert_file: own.certificate, ssl_key_file: own.key }),
      ...settings,
    }
    const args = Object.entries(all).flatMap(([key, value]) => ['-c', `${key}=${value}`])
    return {
      from: `PostgreSQL of ${bin}`,
      command: [join(programsDir, 'postgres'), '-D', data, ...args],
      env,
      user: asUser,
      ready: /database system is ready to accept connections/,
      notYet: /pre-existing shared memory block/,
      // SIGTERM would wait for the clients to leave; SIGQUIT leaves no shared memory behind as SIGKILL does
      signals: { stop: 'SIGINT', end: 'SIGQUIT' },
      url: `postgres://${account.user}:${account.password}@127.0.0.1:${port}/postgres`,
      ca: own?.ca,
    }
  })
}

const libraryFolder = (): string =>
  process.arch === 'arm64' ? 'aarch64-linux-gnu' : 'x86_64-linux-gnu'
