/**
 * Getting software into a cache folder of our own without installing it: Debian packages through apt-get with a private
 * configuration (no root needed), Maven artefacts through mvn, npm packages through npm. What is in the cache is whole:
 * everything is made under a temporary name and renamed, under a lock that the kernel frees when its holder dies, so
 * that an interrupted fetch is simply done again and two processes never fetch the same thing at once. Knows nothing
 * about any particular server.
 */
import { execFile, execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync } from 'node:fs'
import { rename, rm, writeFile } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { announced } from './notice.ts'

/** `$XDG_CACHE_HOME/sluice`, by default `~/.cache/sluice`; created when it is not there. */
export function cacheFolder(): string {
  const folder = join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'sluice')
  mkdirSync(folder, { recursive: true })
  return folder
}

/** Where `command` is on this machine, also in the sbin folders that a user's PATH leaves out. */
export function findCommand(command: string): string | undefined {
  const folders = [...(process.env['PATH'] ?? '').split(':'), '/usr/local/sbin', '/usr/sbin']
  return folders.map((folder) => join(folder, command)).find((path) => existsSync(path))
}

/** Runs a program to its end; returns what it wrote to stdout. Throws with the end of what it said when it fails. */
export async function run(
  command: string,
  args: readonly string[],
  options: {
    readonly cwd?: string
    readonly env?: NodeJS.ProcessEnv
    readonly timeoutMs?: number
    /** What it reads from stdin. */
    readonly input?: string
    /** As whom it runs; we must be root. */
    readonly user?: { readonly uid: number; readonly gid: number } | undefined
  } = {},
): Promise<string> {
  const { cwd, env = {}, timeoutMs = 600_000, input = '', user = {} } = options
  return new Promise((resolve, reject) => {
    const child = execFile(
      command,
      [...args],
      { cwd, env: { ...process.env, ...env }, timeout: timeoutMs, maxBuffer: 64 << 20, ...user },
      (error, stdout, stderr) => {
        if (!error) return resolve(stdout)
        const said = `${stdout}\n${stderr}`.trim().split('\n').slice(-15).join('\n')
        reject(
          new Error(`${basename(command)} ${args.join(' ')} failed:\n${said}`, { cause: error }),
        )
      },
    )
    // a program that fails early does not read to the end; its exit code says enough
    child.stdin?.on('error', () => undefined)
    child.stdin?.end(input)
  })
}

/**
 * The folder `name` of the cache. When it is not there, `make` fills a temporary folder, which then becomes it; other
 * processes that want it wait meanwhile.
 */
export async function cached(
  name: string,
  what: string,
  make: (folder: string) => Promise<void>,
): Promise<string> {
  const cache = cacheFolder()
  const folder = join(cache, name)
  if (existsSync(folder)) return folder
  return announced(what, async () => {
    using _lock = await lock(join(cache, `${name}.lock`))
    if (existsSync(folder)) return folder
    for (const left of readdirSync(cache).filter((entry) => entry.startsWith(`${name}.partial`)))
      await rm(join(cache, left), { recursive: true, force: true })
    const partial = mkdtempSync(join(cache, `${name}.partial`))
    try {
      await make(partial)
      await rename(partial, folder)
    } catch (error) {
      await rm(partial, { recursive: true, force: true })
      throw error
    }
    return folder
  })
}

/** SQLite's file lock is the kernel's: it cannot be left behind by a killed process. */
async function lock(file: string): Promise<Disposable> {
  const database = new DatabaseSync(file)
  for (;;) {
    try {
      database.exec('BEGIN EXCLUSIVE')
      return { [Symbol.dispose]: () => database.close() }
    } catch (error) {
      if (!(error instanceof Error) || !error.message.includes('locked')) throw error
    }
    await sleep(100)
  }
}

/** Whether this machine can fetch Debian packages, and what is missing when not. Asks apt: a second of processor time. */
export function debianProblem(): string | undefined {
  for (const command of ['apt-get', 'dpkg-deb'])
    if (!findCommand(command)) return `no ${command} on this machine`
  return debianMirror() ? undefined : 'no Debian mirror in the configuration of apt'
}

/** Throws when this machine cannot fetch Debian packages. For what fills a folder of the cache: what is there needs none. */
export function needDebian(what: string): void {
  const problem = debianProblem()
  if (problem) throw new Error(`cannot fetch ${what}: ${problem}`)
}

/** The mirror that this machine gets its own Debian release from. */
function debianMirror(): string | undefined {
  const system = readFileSync('/etc/os-release', 'utf8')
  if (!/^ID=debian$/m.test(system)) return undefined
  const release = /^VERSION_CODENAME=(\S+)/m.exec(system)?.[1]
  const targets = execFileSync(
    'apt-get',
    ['indextargets', '--format', '$(REPO_URI) $(RELEASE) $(COMPONENT)', 'Created-By: Packages'],
    { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] },
  )
  const rows = targets.split('\n').map((line) => line.split(' '))
  const own = rows.filter(([, suite, component]) => component === 'main' && suite !== undefined)
  const found =
    own.find(([, suite]) => suite === release) ?? own.find(([, suite]) => suite === 'sid')
  return found?.[0]
}

/**
 * Unpacks packages of a Debian suite into `folder`. `choose` gets everything that installing `packages` on an empty
 * system would install and says what is wanted. Nothing is installed, no root is needed.
 */
export async function unpackDebian(
  suite: string,
  packages: readonly string[],
  folder: string,
  choose: (name: string) => boolean,
): Promise<void> {
  const apt = join(folder, 'apt')
  const mirror = debianMirror()
  if (!mirror) throw new Error('the configuration of apt names no Debian mirror')
  mkdirSync(join(apt, 'lists/partial'), { recursive: true })
  mkdirSync(join(apt, 'cache/archives/partial'), { recursive: true })
  const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg'
  const signed = existsSync(keyring) ? `[signed-by=${keyring}] ` : ''
  await writeFile(join(apt, 'sources.list'), `deb ${signed}${mirror} ${suite} main\n`)
  await writeFile(join(apt, 'status'), '')
  const settings = {
    'Dir::Etc::sourcelist': join(apt, 'sources.list'),
    'Dir::Etc::sourceparts': '/dev/null',
    'Dir::State::Lists': join(apt, 'lists'),
    'Dir::State::status': join(apt, 'status'),
    'Dir::Cache': join(apt, 'cache'),
    'APT::Sandbox::User': 'root',
    'Acquire::Languages': 'none',
    'Acquire::Retries': '3',
    'Debug::NoLocking': '1',
  }
  const lines = Object.entries(settings).map(([key, value]) => `${key} "${value}";\n`)
  await writeFile(join(apt, 'apt.conf'), lines.join(''))
  const env = { APT_CONFIG: join(apt, 'apt.conf'), LC_ALL: 'C' }
  await run('apt-get', ['-q', 'update'], { env })
  const plan = await run(
    'apt-get',
    ['-s', '-q', '--no-install-recommends', 'install', ...packages],
    { env },
  )
  const names = [...plan.matchAll(/^Inst (\S+)/gm)].map((match) => match[1]!).filter(choose)
  await run('apt-get', ['-q', 'download', ...names], { env, cwd: apt })
  for (const file of readdirSync(apt).filter((entry) => entry.endsWith('.deb')))
    await run('dpkg-deb', ['-x', join(apt, file), folder])
  await rm(apt, { recursive: true })
}

/**
 * How to start programs that `unpackDebian` put into `folder` together with their C library: through their own loader,
 * so that it does not matter which release this machine has. The program and its arguments come behind.
 */
export function debianLoader(folder: string): string[] {
  const usr = join(folder, 'usr')
  const libraries = findFile(join(usr, 'lib'), /-linux-gnu$/)
  // until Debian 13, /lib is a folder of its own in the packages
  const old = join(folder, 'lib', basename(libraries))
  const base = existsSync(old) ? [old] : []
  const path = [
    libraries,
    ...base,
    join(libraries, 'mysql/private'),
    join(usr, 'lib/mysql/private'),
  ]
  const loader = findFile(base[0] ?? libraries, /^ld-linux.*\.so/)
  return [loader, '--library-path', path.join(':')]
}

/** The entry of a folder whose name matches. */
export function findFile(folder: string, pattern: RegExp): string {
  const found = readdirSync(folder).find((entry) => pattern.test(entry))
  if (!found) throw new Error(`nothing like ${pattern} in ${folder}`)
  return join(folder, found)
}

/** Why Maven artefacts cannot be fetched on this machine. */
export const mavenProblem = (): string | undefined =>
  findCommand('mvn') ? undefined : 'no mvn on this machine'

/** Unpacks one Maven artefact (`group:name:version`), without what it depends on, into `folder`. */
export async function unpackMaven(artefact: string, folder: string): Promise<void> {
  const args = [`-Dartifact=${artefact}`, `-DoutputDirectory=${folder}`]
  await maven(['dependency:unpack', ...args], folder)
}

/** Puts the jars of Maven artefacts (`group:name:version`) and of all they need at run time into `folder`. */
export async function fetchJars(artefacts: readonly string[], folder: string): Promise<void> {
  const dependencies = artefacts.map((artefact) => {
    const [group, name, version] = artefact.split(':')
    return `<dependency><groupId>${group}</groupId><artifactId>${name}</artifactId><version>${version}</version></dependency>`
  })
  const project = `<project xmlns="http://maven.apache.org/POM/4.0.0">
    <modelVersion>4.0.0</modelVersion>
    <groupId>sluice.test</groupId><artifactId>jars</artifactId><version>1</version><packaging>pom</packaging>
    <dependencies>${dependencies.join('')}</dependencies>
  </project>`
  const dir = mkdtempSync(join(tmpdir(), 'sluice-maven-'))
  try {
    await writeFile(join(dir, 'pom.xml'), project)
    const args = ['-DincludeScope=runtime', `-DoutputDirectory=${folder}`]
    await maven(['dependency:copy-dependencies', ...args], dir)
  } finally {
    await rm(dir, { recursive: true })
  }
}

/** One at a time: two processes do not share a local repository safely. */
async function maven(args: readonly string[], cwd: string): Promise<void> {
  const repository = join(cacheFolder(), 'maven')
  using _lock = await lock(join(cacheFolder(), 'maven.lock'))
  await run('mvn', ['-q', '-B', `-Dmaven.repo.local=${repository}`, ...args], { cwd })
}

/** Unpacks one npm package (`name@version`) into `folder`; runs none of its scripts. */
export async function unpackNpm(spec: string, folder: string): Promise<void> {
  await run('npm', ['pack', '--silent', '--pack-destination', folder, spec], { cwd: folder })
  const archive = findFile(folder, /\.tgz$/)
  await run('tar', ['xzf', archive, '--strip-components=1'], { cwd: folder })
  await rm(archive)
}
