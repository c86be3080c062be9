/**
 * The servers that one run shares, one of each version. Their addresses go into the environment, where worker processes
 * and child processes find them. A server that the environment names already is used as it is. What cannot be had is an
 * error in CI, and elsewhere a notice that nobody can overlook.
 */
import { existsSync, readdirSync } from 'node:fs'
import { createConnection } from 'mysql2/promise'
import { privateMysql, sharedUrl, urlVariable } from '../mysql.ts'
import { cacheFolder, findCommand } from '../services/fetch.ts'
import { announced, inCi, shout } from '../services/notice.ts'
import { allVersions, findInstallation, roleOf, titleOf } from './install.ts'
import type { MysqlVersion } from './install.ts'

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

/** Starts what is missing of the suite. Disposing stops what was started here. Throws when the run cannot go on. */
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

/** Starts the shared server of one version, and files its address. */
export async function startOne(version: MysqlVersion, stack: AsyncDisposableStack): Promise<void> {
  const { from } = await findInstallation(version)
  const server = await announced(`starting ${titleOf(version)} (${from})`, () =>
    privateMysql(version),
  )
  stack.use(server)
  const key = urlVariable(version)
  process.env[key] = server.url
  stack.defer(async () => void delete process.env[key])
}

/** Files the server of `SLUICE_TEST_MYSQL` under the version it can stand in for. */
async function useGiven(url: string): Promise<void> {
  await using connection = await createConnection(url).catch((error: Error) => {
    throw new Error(`the server of SLUICE_TEST_MYSQL refuses: ${error.message}`, { cause: error })
  })
  const [rows] = await connection.query('SELECT VERSION() AS version')
  const { version } = (rows as { version: string }[])[0]!
  process.env[urlVariable(roleOf(version) ?? '9.7')] = url
}
