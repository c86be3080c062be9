/**
 * Prints "N passed, N failed" over the JSON reports of vitest in a folder, and exits with 1 when anything failed.
 * Usage: node .ci/summary.ts FOLDER BROKEN_STEPS BROKEN_TEST_STEPS
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

interface Report {
  readonly success: boolean
  readonly numPassedTests: number
  readonly numFailedTests: number
}

const [folder, ...counts] = process.argv.slice(2)
const [broken = 0, brokenTestSteps = 0] = counts.map(Number)
let passed = 0
let failed = broken - brokenTestSteps
for (const name of ['test.json', 'all.json']) {
  const file = join(folder!, name)
  // no report: the run ended before its first test
  const report = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Report) : undefined
  passed += report?.numPassedTests ?? 0
  failed += report?.success ? 0 : Math.max(1, report?.numFailedTests ?? 1)
}
if (failed === 0 && brokenTestSteps > 0) failed = 1
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
