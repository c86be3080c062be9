/**
 * `npm run long`: the whole-process tests with the numbers of their long form (hours, not minutes), each file after the
 * other, then the chaos and the bench of sinks. What they measured and how they ended goes to test/long/<date>.md.
 * Arguments choose: `npm run long crash`.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'

/** Other commands of the project that have a long form; the rest are names of test files. */
const scripts: Readonly<Record<string, readonly string[]>> = {
  'chaos-sinks': ['node', 'test/chaos/sinks.ts', '--faults', '60', '--seconds', '180'],
  'chaos-core': ['node', 'test/chaos/core.ts', '--kills', '60'],
  'oracle-ddl': ['node', 'test/catalog/oracle.ts', '--statements', '2000'],
  'oracle-ddl-8.0': ['node', 'test/catalog/oracle.ts', '--statements', '2000', '--server', '8.0'],
  'change-log': ['vitest', 'run', '--project', 'unit', 'test/retained/crash.test.ts'],
  mutants: ['node', 'test/mutants.ts'],
  'chaos-snapshot': ['node', 'test/chaos/snapshot.ts', '--kills', '20'],
  // 50 million rows under 300 MB: loading them takes longer than reading, and some 4 GB of disk
  'bench-snapshot': [
    'node',
    'bench/snapshot.ts',
    '--rows',
    '50000000',
    '--shape',
    'slim',
    '--rounds',
    '1',
  ],
  'bench-sinks': ['node', 'bench/sinks.ts'],
}
const everything = ['crash', 'slow', 'big', 'malformed', ...Object.keys(scripts)]
const files = process.argv.length > 2 ? process.argv.slice(2) : everything
const root = join(import.meta.dirname, '..')
const folder = join(import.meta.dirname, 'long')
const record = join(folder, `${new Date().toISOString().slice(0, 10)}.md`)
const scratch = mkdtempSync(join(tmpdir(), 'sluice-long-'))
mkdirSync(folder, { recursive: true })

const say = (text: string): void => appendFileSync(record, `${text}\n`)
const [cpu] = cpus()
say(
  `# ${new Date().toISOString()}, ${cpus().length} × ${cpu?.model ?? 'unknown'}, Node ${process.version}\n`,
)

for (const name of files) {
  const facts = join(scratch, name)
  const begin = Date.now()
  const env = { ...process.env, SLUICE_LONG: '1', SLUICE_LONG_FACTS: facts, NO_COLOR: '1' }
  const test = ['vitest', 'run', '--project', 'e2e', `test/e2e/${name}.e2e.test.ts`]
  const command = scripts[name] ?? test
  const child = spawn('npx', command, { cwd: root, env, stdio: ['inherit', 'pipe', 'inherit'] })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text
    process.stdout.write(text)
  })
  const [code] = (await once(child, 'close')) as [number | null]
  const seconds = Math.round((Date.now() - begin) / 1000)
  say(`## ${name}: ${code === 0 ? 'passed' : 'FAILED'}, ${seconds} s\n`)
  if (existsSync(facts)) say(readFileSync(facts, 'utf8').replaceAll(/^/gm, '- ').replace(/- $/, ''))
  if (code !== 0) process.exitCode = 1
  if (code !== 0 || scripts[name]) say(`\`\`\`\n${output.slice(-20_000)}\n\`\`\`\n`)
}
rmSync(scratch, { recursive: true, force: true })
