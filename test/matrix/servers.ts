/**
 * The servers of the matrix. `SLUICE_MATRIX=5.6,mariadb-10.11` picks some; in CI the short list, each of which must be
 * there; else all that can be had, and those that cannot are named.
 */
import { fetchMysql, matrixVersions, type MysqlVersion } from '../support/mysql.ts'
import { shout } from '../support/services/notice.ts'

const CI: readonly MysqlVersion[] = ['9.7', '8.0', '5.7', '5.6', 'mariadb-10.11', 'mariadb-11.8']

export function wantedServers(): readonly MysqlVersion[] {
  const given = process.env['SLUICE_MATRIX']
  if (given) {
    const names = given.split(',').map((name) => name.trim())
    const unknown = names.filter((name) => !(matrixVersions as readonly string[]).includes(name))
    if (unknown.length > 0)
      throw new Error(
        `SLUICE_MATRIX: no ${unknown.join(', ')}; there are ${matrixVersions.join(', ')}`,
      )
    return names as MysqlVersion[]
  }
  return process.env['CI'] ? CI : matrixVersions
}

/** Those of them that can be had here. Throws in CI, and where one was asked for, when one cannot. */
export async function matrixServers(): Promise<readonly MysqlVersion[]> {
  const there: MysqlVersion[] = []
  const absent: string[] = []
  for (const version of wantedServers()) {
    try {
      await fetchMysql(version)
      there.push(version)
    } catch (error) {
      absent.push((error as Error).message)
    }
  }
  if (absent.length === 0) return there
  if (process.env['CI'] || process.env['SLUICE_MATRIX']) throw new Error(absent.join('\n'))
  shout('Some servers of the matrix are not here: what is tested on them is SKIPPED.', ...absent)
  return there
}
