/**
 * `npm run mutants -- [redis postgres …]`: takes the fence out of a sink, one after the other, and expects the conformance
 * suite's case of two writers to find stale values in the destination: a suite that passes without the fence proves
 * nothing about it. The source on disk is not touched (support/mutate.js). Prints one line for each; exits with 1 unless
 * every mutant was found.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

interface Edit {
  readonly file: string
  readonly from: string
  readonly to: string
}
interface Mutant {
  /** Of the conformance suite: its file, and the beginning of its name. */
  readonly suite: string
  readonly name: string
  readonly edits: readonly Edit[]
}
/** The SQL sink takes its write back where it meets a version that it has not issued: more fences, which go as well. */
const pastAhead: readonly Edit[] = [
  {
    file: 'src/sinks/sql/fenced.ts',
    from: 'if (String(version) > batch.highest) throw',
    to: `if (batch.highest === '') throw`,
  },
  {
    file: 'src/sinks/sql/fenced.ts',
    from: 'if (rows.length > 0) throw',
    to: `if (batch.highest === '') throw`,
  },
]
const mutants: Readonly<Record<string, Mutant>> = {
  redis: {
    suite: 'redis',
    name: 'redis',
    edits: [
      {
        file: 'src/sinks/redis/script.ts',
        from: 'if v < sub(mark, 1, 40) then return true end',
        to: 'if v then return true end',
      },
    ],
  },
  elasticsearch: {
    suite: 'elastic',
    name: 'elasticsearch',
    edits: [
      {
        file: 'src/sinks/elasticsearch/documents.ts',
        from: 'out.ascii(batch.versions.text(row.tx))',
        to: `out.ascii('1')`,
      },
    ],
  },
  postgres: {
    suite: 'sql',
    name: 'sql to PostgreSQL, fence: version',
    edits: [
      {
        file: 'src/sinks/sql/dialects/postgres-rows.ts',
        from: '` WHERE t.${quote(fence)}<=EXCLUDED.${quote(fence)}`',
        to: `''`,
      },
      ...pastAhead,
    ],
  },
  mariadb: {
    suite: 'sql',
    name: 'sql to MariaDB, fence: version',
    edits: [
      {
        file: 'src/sinks/sql/dialects/mysql-rows.ts',
        from: '`VALUES(${quote(fence)})>=${quote(fence)}`',
        to: `'1=1'`,
      },
      ...pastAhead,
    ],
  },
}
const FOUND = 'the destination differs from the source'
const root = join(import.meta.dirname, '..')

async function run({ suite, name, edits }: Mutant): Promise<string> {
  const old = edits.filter(
    ({ file, from }) => readFileSync(join(root, file), 'utf8').split(from).length !== 2,
  )
  if (old.length > 0) return `out of date: ${old[0]!.file} does not have the text once`
  const hook = pathToFileURL(join(root, 'test/support/mutate.js')).href
  const env = {
    ...process.env,
    NO_COLOR: '1',
    NODE_OPTIONS: `${process.env['NODE_OPTIONS'] ?? ''} --import ${hook}`,
    SLUICE_MUTANT: JSON.stringify(edits),
  }
  const test = `test/sinks/conformance/${suite}.sink.test.ts`
  const only = `${name}.* two writers`
  const vitest = join(root, 'node_modules/vitest/vitest.mjs')
  const args = [vitest, 'run', '--project', 'sinks', test, '-t', only]
  const child = spawn(process.execPath, args, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (piece: string) => (output += piece))
  const [code] = (await once(child, 'close')) as [number | null]
  if (code !== 0 && output.includes(FOUND)) return 'found'
  if (code === 0) return 'NOT FOUND: the suite passed without the fence'
  return `NOT FOUND: the suite failed otherwise:\n${output.slice(-4000)}`
}

const chosen = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(mutants)
for (const name of chosen) {
  const mutant = mutants[name]
  const outcome = mutant
    ? await run(mutant)
    : `no such mutant; there are ${Object.keys(mutants).join(', ')}`
  console.log(`${name} without its fence: ${outcome}`)
  if (outcome !== 'found') process.exitCode = 1
}
