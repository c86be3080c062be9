/** The Java Development Kits of this machine, and what the tests compile with them. Installs none. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { findCommand, run } from './fetch.ts'

const installed = '/usr/lib/jvm'

/** The home of the oldest kit of at least version `least`. Throws when there is none. */
export function findJdk(least: number): string {
  const javac = findCommand('javac')
  const homes = [
    process.env['JAVA_HOME'] ?? '',
    ...(existsSync(installed)
      ? readdirSync(installed)
          .toSorted()
          .map((name) => join(installed, name))
      : []),
    javac ? dirname(dirname(javac)) : '',
  ]
  const kits = homes
    .filter((home) => home && existsSync(join(home, 'bin/javac')))
    .map((home) => ({ home, version: versionOf(home) }))
    .filter(({ version }) => version >= least)
  const best = kits.toSorted((a, b) => a.version - b.version)[0]
  if (!best) throw new Error(`no JDK of version ${least} or newer on this machine`)
  return best.home
}

/** Every kit says its version in a file, so that nothing has to be run. */
function versionOf(home: string): number {
  const file = join(home, 'release')
  if (!existsSync(file)) return 0
  return Number(/^JAVA_VERSION="(\d+)/m.exec(readFileSync(file, 'utf8'))?.[1] ?? 0)
}

/** Compiles `sources` against every jar in `jars`; the classes come to `folder`. */
export async function compileJava(
  home: string,
  sources: readonly string[],
  jars: string,
  folder: string,
): Promise<void> {
  const args = ['-nowarn', '-proc:none', '-d', folder, '-cp', join(jars, '*')]
  await run(join(home, 'bin/javac'), [...args, ...sources])
}

export interface JvmOptions {
  /** Compile for a long life: twice the processor time to start, faster in the long run. For benches. */
  readonly optimised?: boolean
}

/** How to run a server that shares few cores and little memory with others. */
export const frugal = (
  heap: { readonly leastMb: number; readonly mostMb: number },
  { optimised = false }: JvmOptions,
): string[] => [
  `-Xms${heap.leastMb}m`,
  `-Xmx${heap.mostMb}m`,
  '-XX:+UseSerialGC',
  '-Xshare:auto',
  `-XX:TieredStopAtLevel=${optimised ? 4 : 1}`,
]
