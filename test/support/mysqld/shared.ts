/**
 * The servers that one run shares, one of each version. Their addresses go into the environment, where worker processes
 * and child processes find them. A server that the environment names already is used as it is. What cannot be had is an
 * error in CI, and elsewhere a notice that nobody can overlook.
 */
import { existsSync, readdirSync } from 'node:fs'
import { createConnection } from 'mysql2/promise'
import { privateMysql, sharedUrl } from '../mysql.ts'
import { announced, cacheFolder, findCommand } from './fetch.ts'
import { allVersions, findInstallation, roleOf, variable } from './install.ts'
import type { MysqlVersion } from './install.ts'

/** Where nothing may be left out. */
export const inCi = (): boolean => !['', '0', 'false'].includes(process.env['CI'] ?? '')

/** Whether there is any way at all to a MySQL on this machine; asks nobody, fetches nothing. */
export function mysqlPossible(): boolean {
  if (inCi() || process.env['SLUICE_TEST_MYSQL']) return true
  if (allVersions.some(sharedUrl)) return true
  if (['mysqld', 'docker', 'apt-get', 'mvn'].some(findCommand)) return true
  return (
    existsSync(cacheFolder()) &&
    readdirSync(cacheFolder()).some((name) => name.startsWith('mysql-'))
  )
}

/** Prints what must not be overlooked. */
export function shout(...lines: readonly string[]): void {
  const rule = '!'.repeat(100)
  process.stderr.write(`\n${rule}\n${lines.map((line) => `!!! ${line}\n`).join('')}${rule}\n\n`)
}

/** Starts what is missing. Disposing stops what was started here. Throws when the run cannot go on. */
export async function startShared(): Promise<AsyncDisposable> {
  const stack = new AsyncDisposableStack()
  try {
    const given = process.env['SLUICE_TEST_MYSQL']
    if (given) await useGiven(given)
    const missing = allVersions.filter((version) => !sharedUrl(version))
    const wanted = given && !inCi() ? [] : missing
    const results = await Promise.allSettled(wanted.map((version) => startOne(version, stack)))
    const reasons = results.flatMap((r) => (r.status === 'rejected' ? [String(r.reason)] : []))
    const absent = allVersions.filter((version) => !sharedUrl(version))
    if (absent.length === allVersions.length) throw new Error(reasons.join('\n'))
    if (absent.length > 0 && inCi())
      throw new Error(`CI needs every version.\n${reasons.join('\n')}`)
    if (absent.length > 0)
      shout(
        `MySQL ${absent.join(' and ')} is not here: everything that is tested on it is SKIPPED.`,
        ...(given
          ? ['Only the server of SLUICE_TEST_MYSQL is used.']
          : reasons.join('\n').split('\n')),
      )
    return stack
  } catch (error) {
    await stack.disposeAsync()
    throw error
  }
}

async function startOne(version: MysqlVersion, stack: AsyncDisposableStack): Promise<void> {
  const { from } = await findInstallation(version)
  const server = await announced(`starting MySQL ${version} (${from})`, () => privateMysql(version))
  stack.use(server)
  const { user, password, host, port } = server
  const key = variable('SLUICE_TEST_MYSQL', version)
  process.env[key] = `mysql://${user}:${password}@${host}:${port}`
  stack.defer(async () => void delete process.env[key])
}

/** Files the server of `SLUICE_TEST_MYSQL` under the version it can stand in for. */
async function useGiven(url: string): Promise<void> {
  await using connection = await createConnection(url).catch((error: Error) => {
    throw new Error(`the server of SLUICE_TEST_MYSQL refuses: ${error.message}`, { cause: error })
  })
  const [rows] = await connection.query('SELECT VERSION() AS version')
  const { version } = (rows as { version: string }[])[0]!
  process.env[variable('SLUICE_TEST_MYSQL', roleOf(version) ?? '9.7')] = url
}
