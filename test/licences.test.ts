/**
 * docs/licences.md: what an installation brings, and under which licence. `SLUICE_WRITE=1` writes it anew.
 * docs/dependencies.md: the lock file holds nothing older than what it calls safe.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'

const root = join(import.meta.dirname, '..')
const file = join(root, 'docs/licences.md')
const allowed = new Set([
  'MIT',
  'ISC',
  'Apache-2.0',
  'BSD-2-Clause',
  'BSD-3-Clause',
  '0BSD',
  'BlueOak-1.0.0',
])

interface Lock {
  readonly packages: Readonly<
    Record<
      string,
      {
        readonly version?: string
        readonly license?: string
        readonly dev?: boolean
        readonly devOptional?: boolean
      }
    >
  >
}
const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as Lock
const parts = Object.entries(lock.packages)
  .filter(([path, { dev, devOptional }]) => path !== '' && !dev && !devOptional)
  .map(([path, { version, license }]) => {
    const name = path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length)
    return { path, name, version: version!, licence: license ?? licenceOf(path) }
  })
  .sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))

/** Not every package says it in the lock file. */
function licenceOf(path: string): string {
  const manifest = join(root, path, 'package.json')
  if (!existsSync(manifest)) return 'unknown'
  const { license, licenses } = JSON.parse(readFileSync(manifest, 'utf8')) as {
    license?: string | { type: string }
    licenses?: { type: string }[]
  }
  const one = license ?? licenses?.[0]
  return typeof one === 'string' ? one : (one?.type ?? 'unknown')
}

test('every package of an installation has a licence that permits its use, and is listed', () => {
  const fits = ({ licence }: { licence: string }): boolean =>
    licence
      .replace(/[()]/g, '')
      .split(' OR ')
      .some((one) => allowed.has(one))
  expect(parts.length).toBeGreaterThan(10)
  expect(parts.filter((part) => !fits(part))).toEqual([])
  const lines = [...new Set(parts.map((p) => `| ${p.name} | ${p.version} | ${p.licence} |`))]
  const text = `# Licences\n\nSluice is Apache-2.0. An installation without development tools has these packages; \`npm run sbom\` writes the same as CycloneDX.\n\n| package | version | licence |\n|---|---|---|\n${lines.join('\n')}\n`
  if (process.env['SLUICE_WRITE']) writeFileSync(file, text)
  expect(readFileSync(file, 'utf8')).toBe(text)
})

test('no package of the lock file is older than what docs/dependencies.md calls safe', () => {
  const text = readFileSync(join(root, 'docs/dependencies.md'), 'utf8')
  const rows = [...text.matchAll(/^\| (\S+)(?: \(tests\))? \| (\d+\.\d+\.\d+) \|/gm)]
  expect(rows.length).toBeGreaterThan(10)
  for (const [, name, safe] of rows) {
    const installed = Object.entries(lock.packages).flatMap(([path, { version }]) =>
      path.endsWith(`node_modules/${name}`) ? [version!] : [],
    )
    expect(installed, name).not.toEqual([])
    expect(
      installed.filter((version) => older(version, safe!)),
      name,
    ).toEqual([])
  }
})

function older(version: string, than: string): boolean {
  const [a, b] = [version, than].map((text) => text.split('.').map(Number))
  const at = a!.findIndex((part, i) => part !== b![i])
  return at >= 0 && a![at]! < b![at]!
}
