/**
 * Which MySQL or MariaDB server program serves each version the tests want, in this order: a `mysqld` on the machine,
 * Docker where an engine answers (both for the versions of the suite only), packages fetched into the cache. The answer
 * is kept in the environment, so that worker processes do not search again.
 */
import { findCommand, run } from '../services/fetch.ts'
import { announced } from '../services/notice.ts'
import { fetchPackages, stampOf } from './packages.ts'

/** The versions the suite runs against: 9.7 stands for "the newest", 8.0 for "the oldest that is common". */
export const allVersions = ['9.7', '8.0'] as const
/** Everything that can be started here: the suite's versions, and what only the matrix runs against. */
export const matrixVersions = [
  ...allVersions,
  '8.0.15',
  '5.7',
  '5.6',
  'mariadb-10.11',
  'mariadb-11.8',
] as const
export type SuiteVersion = (typeof allVersions)[number]
export type MysqlVersion = (typeof matrixVersions)[number]

/** Servers that want the same arguments and are set up in the same way; "mysql" is 8 and later. */
export type Family = 'mysql' | 'mysql-5.7' | 'mysql-5.6' | 'mariadb'

export type Installation =
  | {
      readonly kind: 'program'
      readonly family: Family
      readonly from: string
      /** What to run: the program, or the loader that runs it, with its arguments. */
      readonly command: readonly string[]
      readonly env: Readonly<Record<string, string>>
      /** Where its data of help, languages and SQL scripts are. */
      readonly share: string | undefined
      /** Changes when the program does: the key of its template data directory. */
      readonly stamp: string
    }
  | { readonly kind: 'docker'; readonly from: string; readonly image: string }

/** `SLUICE_TEST_MYSQL` becomes `SLUICE_TEST_MYSQL_9_7` and so on. */
export const variable = (name: string, version: MysqlVersion): string =>
  `${name}_${version.toUpperCase().replaceAll(/[.-]/g, '_')}`

/** Which of our versions a server with this version text can stand in for. */
export function roleOf(text: string): SuiteVersion | undefined {
  if (/mariadb/i.test(text)) return undefined
  const [major = 0] = text.split('.', 1).map(Number)
  if (text.startsWith('8.0.')) return '8.0'
  return major >= 9 ? '9.7' : undefined
}

/** For people: "MySQL 9.7", "MariaDB 10.11". */
export const titleOf = (version: MysqlVersion): string =>
  version.startsWith('mariadb-') ? version.replace('mariadb-', 'MariaDB ') : `MySQL ${version}`

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
  const suite = (allVersions as readonly string[]).includes(version)
  const ways = suite ? [onMachine, inDocker, fetchPackages] : [fetchPackages]
  for (const way of ways) {
    try {
      return await way(version)
    } catch (error) {
      tried.push((error as Error).message)
    }
  }
  throw new Error(
    `no ${titleOf(version)} can be had here:\n${tried.map((line) => `- ${line}`).join('\n')}`,
  )
}

async function onMachine(version: MysqlVersion): Promise<Installation> {
  const program = findCommand('mysqld')
  if (!program) throw new Error('no mysqld on this machine')
  const text = /Ver (\S+)/.exec(await run(program, ['--no-defaults', '--version']))?.[1] ?? '?'
  if (roleOf(text) !== version) throw new Error(`${program} is version ${text}`)
  return {
    kind: 'program',
    family: 'mysql',
    from: program,
    command: [program],
    env: {},
    share: undefined,
    stamp: stampOf(program),
  }
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
