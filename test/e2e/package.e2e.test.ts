/** The package as it would be published: built and packed from a copy, installed into a project of its own, and used. */
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { findCommand, run } from '../support/services/fetch.ts'

const root = join(import.meta.dirname, '../..')
const dir = mkdtempSync(join(tmpdir(), 'sluice-package-'))
const project = join(dir, 'project')
afterAll(() => rmSync(dir, { recursive: true, force: true }))

/** The Node that runs this test comes first: the machine's may be too old for us. */
const env = { PATH: `${dirname(process.execPath)}${delimiter}${process.env['PATH'] ?? ''}` }
const npm = (cwd: string, ...args: string[]): Promise<string> =>
  run(findCommand('npm')!, args, { cwd, env })
const { files } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  files: readonly string[]
}
let contents: readonly string[]

beforeAll(async () => {
  const copy = join(dir, 'copy')
  mkdirSync(project)
  const sources = ['src', 'tsconfig.json', 'tsconfig.build.json']
  for (const name of ['package.json', 'LICENSE', 'README.md', ...sources, ...files])
    if (name !== 'dist') cpSync(join(root, name), join(copy, name), { recursive: true })
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  const said = await npm(copy, 'pack', '--json') // builds first, and says so
  const [packed] = JSON.parse(said.slice(said.indexOf('[\n'))) as [
    { filename: string; files: { path: string }[] },
  ]
  contents = packed.files.map(({ path }) => path)
  writeFileSync(join(project, 'package.json'), '{"type": "module", "private": true}')
  const quiet = ['--no-audit', '--no-fund', '--prefer-offline', '--no-save']
  await npm(project, 'install', ...quiet, join(copy, packed.filename))
})

test('holds what a user needs and nothing else', () => {
  const places = [...new Set(contents.map((path) => path.split('/')[0]!))].sort()
  expect(places).toEqual([
    'LICENSE',
    'README.md',
    'bin',
    'conf',
    'dist',
    'docs',
    'instances',
    'package.json',
  ])
  expect(contents.filter((path) => path.startsWith('docs/') || path.startsWith('conf/'))).toEqual(
    expect.arrayContaining(['docs/errors.md', 'docs/config.md', 'conf/server.yaml']),
  )
})

test('`npx sluice` runs', async () => {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    version: string
  }
  const npx = findCommand('npx')!
  const answer = await run(npx, ['--no-install', 'sluice', 'version'], { cwd: project, env })
  expect(answer.trim()).toBe(version)
})

test("'sluice' and 'sluice/client' can be imported, with types, and nothing else can", async () => {
  writeFileSync(
    join(project, 'use.ts'),
    `import { embed } from 'sluice'
import { connect, type ConnectOptions } from 'sluice/client'
const options: ConnectOptions = { destination: '', port: 1 }
const failed: unknown = await connect(options).catch((error: unknown) => error)
console.log((failed as { code: string }).code)
const wrong: string = options.port
console.log(typeof wrong)
const shop = embed<{ 'a.b': { id: number } }>({ name: 'a', dataDir: 'data' })
shop.subscribe('x').on('a.b', { insert: (row) => void row.id.toFixed() })
shop.subscribe('y').on('a.c', {})
console.log(shop.name)
`,
  )
  const check = [
    join(root, 'node_modules/typescript/bin/tsc'),
    '--noEmit',
    '--strict',
    ...'--module nodenext --target es2024 --types node --typeRoots'.split(' '),
    join(root, 'node_modules/@types'),
    'use.ts',
  ]
  const complaints = await run(process.execPath, check, { cwd: project }).catch(
    (error: Error) => error.message,
  )
  // those on purpose show that types were found
  const found = complaints.split('\n').filter((line) => line.includes('error TS'))
  expect(found).toEqual([
    expect.stringMatching(/^use\.ts\(6,7\): error TS2322/),
    expect.stringMatching(/^use\.ts\(10,\d+\): error TS2769/),
  ])
  expect(await run(process.execPath, ['use.ts'], { cwd: project })).toBe('USAGE\nnumber\na\n')
  const inside = "import('sluice/dist/store/store.js').catch((e) => console.log(e.code))"
  expect(await run(process.execPath, ['-e', inside], { cwd: project })).toBe(
    'ERR_PACKAGE_PATH_NOT_EXPORTED\n',
  )
})
