/**
 * The stock Java client for tests: com.alibaba.otter:canal.client and canal.protocol with what they depend on, fetched
 * by mvn into the cache. The machine brings java and mvn.
 */
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { cached, cacheFolder, findCommand, run } from './mysqld/fetch.ts'

const VERSION = '1.1.8'
const artefact = (name: string): string =>
  `<dependency><groupId>com.alibaba.otter</groupId><artifactId>${name}</artifactId><version>${VERSION}</version></dependency>`
const project = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>sluice.test</groupId><artifactId>canal</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>${artefact('canal.client')}${artefact('canal.protocol')}</dependencies>
</project>
`

/** Why the Java client cannot run on this machine; "" when it can. Fetches nothing. */
export function javaProblem(): string {
  const missing = ['java', 'mvn'].filter((command) => !findCommand(command))
  return missing.length > 0 ? `there is no ${missing.join(' and no ')} on this machine` : ''
}

/** How to run test/support/CanalClient.java. Throws when the client cannot be fetched. */
export async function canalJava(): Promise<{ readonly command: string; readonly args: string[] }> {
  const folder = await cached(
    `canal-java-${VERSION}`,
    'fetching the Java client of Canal (Maven, about 25 MB)',
    async (to) => {
      await writeFile(join(to, 'pom.xml'), project)
      const repository = `-Dmaven.repo.local=${join(cacheFolder(), 'maven')}`
      const copy = ['dependency:copy-dependencies', `-DoutputDirectory=${join(to, 'lib')}`]
      await run('mvn', ['-q', '-B', repository, ...copy], { cwd: to })
      await rm(join(to, 'pom.xml'))
    },
  )
  return {
    command: 'java',
    args: ['-cp', join(folder, 'lib', '*'), join(import.meta.dirname, 'CanalClient.java')],
  }
}
