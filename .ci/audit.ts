/**
 * Asks the package registry for known weaknesses of what an installation brings (`npm audit --omit=dev`). Exits with 1 at
 * any finding, and where the answer is none. A registry that offers no audits (404, 405) is no failure of ours and no pass
 * either: it says NOT AUDITED. docs/dependencies.md is what was looked up by hand.
 */
import { spawnSync } from 'node:child_process'

interface Answer {
  readonly statusCode?: number // of the registry, when it gave no report
  readonly message?: string
  readonly metadata?: { readonly vulnerabilities: Readonly<Record<string, number>> }
  readonly vulnerabilities?: Readonly<
    Record<string, { readonly severity: string; readonly range: string }>
  >
}

const { stdout } = spawnSync('npm', ['audit', '--omit=dev', '--json'], { encoding: 'utf8' })
const answer = parse(stdout)
const total = answer?.metadata?.vulnerabilities['total']
if (total !== undefined) {
  for (const [name, { severity, range }] of Object.entries(answer?.vulnerabilities ?? {}))
    console.log(`${severity}  ${name} ${range}`)
  console.log(`npm audit: ${total} findings`)
  process.exitCode = total === 0 ? 0 : 1
} else if (answer?.statusCode === 404 || answer?.statusCode === 405) {
  console.log(
    `NOT AUDITED: the registry offers no audits (it answered ${answer.statusCode}). This is not a pass; see docs/dependencies.md`,
  )
} else {
  // without the registry's address, which is nobody's business in a log
  const text = (answer?.message ?? stdout).replace(/https?:\S+/g, 'the registry').slice(0, 500)
  console.log(`npm audit gave no report: ${text || 'no output'}`)
  process.exitCode = 1
}

function parse(text: string): Answer | undefined {
  try {
    return JSON.parse(text) as Answer
  } catch {
    return undefined
  }
}
