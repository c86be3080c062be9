/** The documents say what is there: error codes, links, commands, and the files of src/. Configuration keys: config.test.ts. */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, expect, it, vi } from 'vitest'
import { run } from '../src/cli.ts'
import { errorCodes, SluiceError } from '../src/errors.ts'

const root = join(import.meta.dirname, '..')
const read = (file: string): string => readFileSync(join(root, file), 'utf8')
const documents = execFileSync(
  'git',
  ['ls-files', '-z', '--cached', '--others', '--exclude-standard', '*.md'],
  { cwd: root, encoding: 'utf8' },
)
  .split('\0')
  .filter((file) => file !== '' && existsSync(join(root, file)))

interface Block {
  readonly language: string
  readonly lines: readonly string[]
}
function blocks(text: string): Block[] {
  return [...text.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)].map(([, language, body]) => ({
    language: language!,
    lines: body!.trimEnd().split('\n'),
  }))
}
const SHELL = ['bash', 'sh', 'shell', 'console']
/** Code: spans and the lines of fenced shell blocks, each with the document it stands in. */
const code = documents.flatMap((file) => {
  const text = read(file)
  const fenced = blocks(text).filter(({ language }) => SHELL.includes(language))
  const spans = text.replace(/^```[\s\S]*?^```$/gm, '').matchAll(/`([^`]+)`/g)
  const all = [...fenced.flatMap(({ lines }) => lines), ...[...spans].map((match) => match[1]!)]
  return all.map((line) => ({ file, line: line.replace(/\s+/g, ' ') }))
})
/** The words that follow `prefix` in the documents' code, each with its document. */
const named = (prefix: RegExp): string[] =>
  code.flatMap(({ file, line }) =>
    [...line.matchAll(prefix)].map((match) => `${file}: ${match[1]!}`),
  )
const nameOf = (found: string): string => found.slice(found.indexOf(': ') + 2)

describe('the error manual', () => {
  const rows = [...read('docs/errors.md').matchAll(/^\| `([A-Z_]+)` \| (yes|no) \| (.*) \|$/gm)]

  it('has every code once, in the order of the table, with whether it is retried', () => {
    const manual = rows.map(([, name, retried]) => `${name} ${retried}`)
    const table = errorCodes.map((c) => `${c} ${new SluiceError(c, '').retryable ? 'yes' : 'no'}`)
    expect(manual).toEqual(table)
  })
  it('says of every code what one sees, why, and what to do', () => {
    const heads = read('docs/errors.md').match(/^\| code .+$/gm)!
    expect(new Set(heads)).toEqual(new Set(['| code | retried | symptom | cause | what to do |']))
    const wanting = rows.filter(([, , , rest]) => {
      const cells = rest!.split(' | ')
      const words = cells.every((text) => /[A-Za-z]{3}/.test(text))
      return cells.length !== 3 || new Set(cells).size !== 3 || !words
    })
    expect(wanting).toEqual([])
  })
  it('names no code that does not exist, in any document', () => {
    const families = new Set(errorCodes.map((c) => c.split('_').at(-1)))
    const unknown = code.filter(
      ({ line }) =>
        /^[A-Z]+(_[A-Z]+)+$/.test(line) &&
        families.has(line.split('_').at(-1)!) &&
        !(errorCodes as readonly string[]).includes(line),
    )
    expect(unknown).toEqual([])
  })
  it('has no code that nothing raises', () => {
    const sources = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts') && file !== 'errors.ts')
      .map((file) => read(join('src', file)))
      .join('\n')
    // as an argument or in a table of codes; not where it is only compared with
    const raised = (c: string): boolean => new RegExp(`(?<![!=]== )'${c}'`).test(sources)
    expect(errorCodes.filter((c) => !raised(c))).toEqual([])
  })
})

describe('the documents', () => {
  it('are found', () => {
    expect(documents.length).toBeGreaterThan(7)
    expect(code.length).toBeGreaterThan(200)
  })
  it('link to files and headings that exist', () => {
    const anchor = (heading: string): string =>
      heading
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, '')
        .replaceAll(' ', '-')
    const broken = documents.flatMap((file) =>
      [...read(file).matchAll(/\]\(([^)\s]+)\)/g)]
        .map((match) => match[1]!)
        .filter((link) => !/^[a-z]+:/.test(link))
        .filter((link) => {
          const [path = '', fragment] = link.split('#')
          const target = path === '' ? file : join(dirname(file), path)
          if (!existsSync(join(root, target))) return true
          if (fragment === undefined || !target.endsWith('.md')) return false
          const headings = [...read(target).matchAll(/^#+ (.+)$/gm)].map((match) => match[1]!)
          return !headings.map(anchor).includes(fragment)
        })
        .map((link) => `${file}: ${link}`),
    )
    expect(broken).toEqual([])
  })
  it('name files that exist', () => {
    const ours = /^(?:src|test|docs|conf|bench|demo|bin|\.ci|instances)\/[\w./-]*$|^[A-Z]+\.md$/
    const missing = code
      .filter(({ line }) => ours.test(line) && !existsSync(join(root, line)))
      .map(({ file, line }) => `${file}: ${line}`)
    expect(missing).toEqual([])
  })
  it('name npm scripts that exist', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
    const used = [...named(/\bnpm run ([\w:-]+)/g), ...named(/\bnpm (test|start)\b/g)]
    expect(used.length).toBeGreaterThan(5)
    expect(used.filter((found) => !Object.hasOwn(scripts, nameOf(found)))).toEqual([])
    const files = Object.values(scripts).flatMap(
      (script) => script.match(/[\w/.-]+\.[jt]s\b/g) ?? [],
    )
    expect(files.filter((file) => !existsSync(join(root, file)))).toEqual([])
  })
  it('name commands and options of sluice that exist', async () => {
    const text = async (...args: string[]): Promise<string> => {
      const said = vi.spyOn(console, 'log').mockImplementation(() => {})
      try {
        expect(await run(args)).toBe(0)
        return said.mock.calls.join('\n')
      } finally {
        said.mockRestore()
      }
    }
    const commands = [...(await text('help')).matchAll(/^ {2}([\w-]+) {2,}/gm)].map((m) => m[1]!)
    expect(commands).toContain('serve')
    const used = named(/(?<![\w/.-])sluice ((?!help\b)[a-z]\w*[^`]*)/g)
    expect(used.length).toBeGreaterThan(10)
    const helps = new Map<string, string>()
    for (const command of commands) helps.set(command, await text('help', command))
    const wrong = used.filter((found) => {
      const [command = '', ...words] = nameOf(found).split(/[\s,]+/)
      const help = helps.get(command)
      return !help || words.some((word) => /^--\w/.test(word) && !help.includes(word))
    })
    expect(wrong).toEqual([])
  })
  it('have shell blocks in which every line begins with a program', () => {
    const programs =
      /^(?:[A-Z_]+=\S+ )*(?:npm|npx|node|git|docker|mysql|cd|cp|curl|bash|echo|export|sluice)\b/
    const nonsense = documents.flatMap((file) =>
      blocks(read(file))
        .filter(({ language }) => SHELL.includes(language))
        .flatMap(({ lines }) => lines.join('\n').replace(/\\\n/g, ' ').split('\n'))
        .filter((line) => line.trim() !== '' && !/^ *#/.test(line) && !programs.test(line))
        .map((line) => `${file}: ${line}`),
    )
    expect(nonsense).toEqual([])
  })
})

describe('src/README.md', () => {
  const listed = [...read('src/README.md').matchAll(/^\| (`.+?) \|/gm)].flatMap((row) =>
    [...row[1]!.matchAll(/`([^`]+)`/g)].map((match) => match[1]!),
  )
  const there = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' }).filter(
    (file) => file.endsWith('.ts'),
  )
  it('lists every folder and every file that lies in none', () => {
    const places = new Set(there.map((f) => (f.includes('/') ? `${dirname(f)}/` : f)))
    expect([...listed].sort()).toEqual([...places].sort())
    expect(listed.filter((place) => !existsSync(join(root, 'src', place)))).toEqual([])
    expect(statSync(join(root, 'src', listed[0]!)).isFile()).toBe(true)
  })
})
