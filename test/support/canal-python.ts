/**
 * A foreign Canal client for tests: canal-python from PyPI, in a virtual environment in the cache. Debian's Python comes
 * without pip; then pip comes from a Debian package, unpacked and not installed.
 */
import { existsSync, readdirSync } from 'node:fs'
import { chmod, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { cached, debianProblem, findCommand, run, unpackDebian } from './services/fetch.ts'

// the client's generated code is refused by any later protobuf
const packages = ['canal-python==0.4', 'protobuf<=3.20.3']

/** The path of a Python that can `import canal.client`. Throws when there is no Python, or the client cannot be had. */
export async function canalPython(): Promise<string> {
  const system = findCommand('python3')
  if (!system)
    throw new Error('the foreign client needs Python: there is no python3 on this machine')
  const version = (
    await run(system, ['-c', 'import sys; print("%d.%d" % sys.version_info[:2])'])
  ).trim()
  const folder = await cached(
    `canal-python-0.4-py${version}`,
    'fetching canal-python',
    async (to) => {
      const libraries = join(to, 'lib')
      const { python, env } = await pip(system, to)
      const install = ['-m', 'pip', 'install', '-q', '--no-input', '--target', libraries]
      await run(python, [...install, ...packages], { env })
      await run(system, ['-c', 'import canal.client'], { env: { PYTHONPATH: libraries } })
      const script = '#!/bin/sh\nhere=$(dirname "$0")\nPYTHONPATH="$here/lib" exec python3 "$@"\n'
      await writeFile(join(to, 'python'), script)
      await chmod(join(to, 'python'), 0o755)
    },
  )
  return join(folder, 'python')
}

/** How to run a pip that belongs to us: the machine's, or the one that Debian packages as a wheel. */
async function pip(
  system: string,
  folder: string,
): Promise<{ python: string; env: NodeJS.ProcessEnv }> {
  const there = await run(system, ['-m', 'pip', '--version']).then(
    () => true,
    () => false,
  )
  if (there) return { python: system, env: {} }
  const problem = debianProblem()
  if (problem) throw new Error(`Python has no pip here, and ${problem}`)
  const wheels = join(folder, 'usr/share/python-wheels')
  if (!existsSync(wheels))
    await unpackDebian('sid', ['python3-pip-whl'], folder, (name) => name === 'python3-pip-whl')
  const wheel = readdirSync(wheels).find((name) => name.startsWith('pip-'))
  if (!wheel) throw new Error(`no pip in ${wheels}`)
  return { python: system, env: { PYTHONPATH: join(wheels, wheel) } }
}
