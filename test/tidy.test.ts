/**
 * House style that no linter checks: sizes, opening comments, leftovers, and no registry's host name in any tracked file.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, expect, it } from 'vitest'

const root = new URL('../', import.meta.url).pathname
const git = (...args: string[]): string[] =>
  execFileSync('git', args, { cwd: root, encoding: 'utf8' }).split('\0').filter(Boolean)
/** Tracked, or about to be. */
const all = git('ls-files', '-z', '--cached', '--others', '--exclude-standard').filter((file) =>
  existsSync(join(root, file)),
)
const read = (file: string): string => readFileSync(join(root, file), 'utf8')
const sources = all.filter((file) => file.startsWith('src/') && file.endsWith('.ts'))
const typescript = all.filter((file) => /^(src|test|bench|demo|bin)\/.*\.(ts|js)$/.test(file))

const HEAD =
  /^( *)(?:export )?(?:(?:async )?function\*? (\w+)|(?:(?:private|static|override|get|set|async) |\*)*(#?\w+)(?:<.*>)?\(|const (\w+) = (?:async )?\()/
const NO_FUNCTION = /^ *(if|for|while|switch|catch|return|it|describe)\b/

/** Lengths of functions and methods, by indentation: the formatter puts a closing brace right below what it closes. */
function* functions(text: string): Iterable<{ name: string; lines: number }> {
  const lines = text.split('\n')
  for (const [at, line] of lines.entries()) {
    const match = NO_FUNCTION.test(line) ? null : HEAD.exec(line)
    if (!match) continue
    const close = (mark: string): number =>
      lines.findIndex((other, i) => i > at && other.startsWith(`${match[1]}${mark}`))
    // Parameters on lines of their own: a call has no brace behind them.
    const opening = line.endsWith('(') ? (lines[close(')')] ?? '') : line
    if (opening.endsWith('{'))
      yield { name: match[2] ?? match[3] ?? match[4]!, lines: close('}') - at + 1 }
  }
}

const findings = (files: readonly string[], pattern: RegExp): string[] =>
  files.flatMap((file) =>
    read(file)
      .split('\n')
      .flatMap((line, i) => (pattern.test(line) ? [`${file}:${i + 1} ${line.trim()}`] : [])),
  )

describe('tidy', () => {
  it('finds its files', () => {
    expect(sources.length).toBeGreaterThan(30)
  })
  it('has files of at most 500 lines, or a reason at their top', () => {
    const reason = /Over 500 lines because/
    const long = typescript.filter((file) => {
      const lines = read(file).trimEnd().split('\n')
      return lines.length > 500 && !reason.test(lines.slice(0, 20).join('\n'))
    })
    expect(long).toEqual([])
  })
  it('has functions of at most 70 lines', () => {
    const long = sources.flatMap((file) =>
      [...functions(read(file))]
        .filter(({ lines }) => lines > 70)
        .map(({ name, lines }) => `${file} ${name} ${lines}`),
    )
    expect(long).toEqual([])
    const counted = sources.flatMap((file) => [...functions(read(file))])
    expect(counted.length).toBeGreaterThan(200)
  })
  it('has folders of at most 8 files', () => {
    const folders = new Map<string, number>()
    for (const file of sources) folders.set(dirname(file), (folders.get(dirname(file)) ?? 0) + 1)
    folders.delete('src') // single-file modules
    expect([...folders].filter(([, count]) => count > 8)).toEqual([])
  })
  it('opens every file with what it is for', () => {
    expect(sources.filter((file) => !/^\/\*\*\n \* \S/.test(read(file)))).toEqual([])
  })
  it('leaves nothing undone, untyped or exported by default', () => {
    expect(findings(typescript, /\b(TO[D]O|FIX[M]E|X[X]X)\b/)).toEqual([])
    expect(findings(typescript, /^(?! *[/*]).*(:|<|\bas) any\b(\[\])* *([,;)>=|&}]|$)/)).toEqual([])
    expect(findings(sources, /^export default\b/)).toEqual([])
    expect(findings(typescript, /\b(it|describe|test)\.(skip|only|todo)\b/)).toEqual([])
  })
  it('names no package registry', () => {
    const hosts = [
      'registry.npmjs' + '.org',
      'registry.yarnpkg' + '.com',
      'npmmirror' + '.com',
      'pypi' + '.org',
    ]
    const maven = ['repo1.maven' + '.org', 'repo.maven' + '.apache.org', 'deb.debian' + '.org']
    const binary = /\.(bin|png|gz|zst)$/
    const named = all
      .filter((file) => !binary.test(file))
      .filter((file) => [...hosts, ...maven].some((host) => read(file).includes(host)))
    expect(named).toEqual([])
  })
})
