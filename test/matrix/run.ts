/**
 * `npm run test:matrix`: the tests of the matrix, and at the end one line for each server:
 * "MariaDB 10.11: 18 passed, 0 failed, 31 s". Exits 1 when anything failed or a server was not tested.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { titleOf } from '../support/mysqld/install.ts'
import { wantedServers } from './servers.ts'

interface Report {
  readonly testResults: readonly {
    readonly assertionResults: readonly {
      readonly ancestorTitles: readonly string[]
      readonly status: string
      readonly duration?: number | null
    }[]
  }[]
}

const dir = mkdtempSync(join(tmpdir(), 'sluice-matrix-'))
const file = join(dir, 'results.json')
const { status } = spawnSync(
  'vitest',
  [
    'run',
    '--project',
    'matrix',
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${file}`,
    ...process.argv.slice(2),
  ],
  { stdio: 'inherit' },
)
let report: Report = { testResults: [] }
try {
  report = JSON.parse(readFileSync(file, 'utf8')) as Report
} catch {
  console.log('the tests of the matrix left no results')
}
rmSync(dir, { recursive: true, force: true })

const tests = report.testResults.flatMap((r) => r.assertionResults)
let wrong = status !== 0
for (const version of wantedServers()) {
  const own = tests.filter((t) => t.ancestorTitles[0] === version)
  const count = (wanted: string): number => own.filter((t) => t.status === wanted).length
  const seconds = Math.round(own.reduce((sum, t) => sum + (t.duration ?? 0), 0) / 1000)
  const counts = `${count('passed')} passed, ${count('failed')} failed, ${seconds} s`
  console.log(`${titleOf(version)}: ${own.length === 0 ? 'not tested' : counts}`)
  if (own.length === 0) wrong ||= process.env['CI'] !== undefined
}
process.exit(wrong ? 1 : 0)
