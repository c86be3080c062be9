/**
 * What a CI run comes to, from the JSON reports of vitest in a folder.
 *   node .ci/summary.ts files FOLDER                                   the files with failures, one a line; none when too many
 *   node .ci/summary.ts FOLDER BROKEN_STEPS BROKEN_TEST_STEPS          names what failed, prints "N passed, N failed"
 * again.json is the report of those files run once more with nothing beside them: what passed there counts as passed, and
 * is listed as FLAKY, to be repaired. Exits with 1 when anything failed.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'

interface Report {
  readonly success: boolean
  readonly numPassedTests: number
  readonly numFailedTests: number
  readonly testResults: readonly {
    readonly name: string // the file
    readonly status: string
    readonly message: string // of a file that did not load
    readonly assertionResults: readonly {
      readonly fullName: string
      readonly status: string
      readonly failureMessages?: readonly string[]
    }[]
  }[]
}
interface Failure {
  readonly file: string
  readonly test: string // '': the file itself
  readonly message: string
}
const SHOWN = 600 // characters of a message
const AGAIN_MAX = 3 // more than these are no accident of a busy machine

const [folder, ...counts] = process.argv.slice(process.argv[2] === 'files' ? 3 : 2)
const reports = ['test.json', 'all.json'].map((name) => read(name))
const failures = reports.flatMap((report) => failuresOf(report))
if (process.argv[2] === 'files') {
  const files = [...new Set(failures.map(({ file }) => file))]
  if (reports.every((report) => report !== undefined) && files.length <= AGAIN_MAX)
    for (const file of files) console.log(file)
} else summarise()

function summarise(): void {
  const again = read('again.json')
  const left = again ? failuresOf(again) : failures
  const [broken = 0, brokenTestSteps = 0] = counts.map(Number)
  for (const { file, test, message } of failures) {
    const still = left.some((other) => other.file === file && other.test === test)
    console.log(`${still ? 'FAILED' : 'FLAKY'}  ${file}: ${test}\n${message.slice(0, SHOWN)}`)
  }
  for (const report of reports) if (!report) console.log('FAILED  a run wrote no report')
  let failed = broken - brokenTestSteps + left.length
  failed += reports.filter((report) => report === undefined).length
  if (failed === 0 && brokenTestSteps > 0) failed = 1
  const passed = reports.reduce((sum, report) => sum + (report?.numPassedTests ?? 0), 0)
  console.log(`${passed + Math.max(0, failures.length - left.length)} passed, ${failed} failed`)
  process.exitCode = failed === 0 ? 0 : 1
}

/** undefined: the run ended before its first test. */
function read(name: string): Report | undefined {
  const file = join(folder!, name)
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Report) : undefined
}
function failuresOf(report: Report | undefined): Failure[] {
  if (report === undefined) return []
  const found = report.testResults.flatMap(({ name, status, message, assertionResults }) => {
    const file = relative(process.cwd(), name)
    const tests = assertionResults.filter((test) => test.status === 'failed')
    if (status === 'failed' && tests.length === 0) return [{ file, test: '', message }]
    return tests.map(({ fullName, failureMessages = [] }) => {
      return { file, test: fullName, message: failureMessages.join('\n') }
    })
  })
  if (found.length === 0 && !report.success)
    return [{ file: '.', test: 'the run', message: 'failed' }]
  return found
}
