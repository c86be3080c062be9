/**
 * The stock Java client for tests: com.alibaba.otter:canal.client and canal.protocol with what they depend on, fetched
 * by mvn into the cache. The machine brings java and mvn.
 */
import { join } from 'node:path'
import { cached, fetchJars, findCommand } from './services/fetch.ts'

const VERSION = '1.1.8'
const artefacts = ['canal.client', 'canal.protocol'].map(
  (name) => `com.alibaba.otter:${name}:${VERSION}`,
)

/** Why the Java client cannot run on this machine; "" when it can. Fetches nothing. */
export function javaProblem(): string {
  const missing = ['java', 'mvn'].filter((command) => !findCommand(command))
  return missing.length > 0 ? `there is no ${missing.join(' and no ')} on this machine` : ''
}

/** How to run a program of test/support that uses Canal's classes. Throws when the client cannot be fetched. */
export async function canalJava(
  program = 'CanalClient.java',
): Promise<{ readonly command: string; readonly args: string[] }> {
  const folder = await cached(
    `canal-java-${VERSION}`,
    'fetching the Java client of Canal (Maven, about 25 MB)',
    (to) => fetchJars(artefacts, join(to, 'lib')),
  )
  return {
    command: 'java',
    args: ['-cp', join(folder, 'lib', '*'), join(import.meta.dirname, program)],
  }
}
