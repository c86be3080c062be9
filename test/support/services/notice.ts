/** What the test support tells a person: what takes long, and what must not be overlooked. */

/** Where nothing may be left out. */
export const inCi = (): boolean => !['', '0', 'false'].includes(process.env['CI'] ?? '')

/** Prints what must not be overlooked. */
export function shout(...lines: readonly string[]): void {
  const rule = '!'.repeat(100)
  process.stderr.write(`\n${rule}\n${lines.map((line) => `!!! ${line}\n`).join('')}${rule}\n\n`)
}

/** Does `work`; says on stderr what it is when it takes longer than two seconds, and again when it is done. */
export async function announced<T>(what: string, work: () => Promise<T>): Promise<T> {
  const begin = performance.now()
  const seconds = () => `${((performance.now() - begin) / 1000).toFixed(1)} s`
  let ticks = 0
  const timer = setInterval(() => {
    if (ticks++ === 0) process.stderr.write(`${what} …\n`)
    else if (ticks % 5 === 0) process.stderr.write(`  ${what}: ${seconds()} so far\n`)
  }, 2000)
  try {
    const result = await work()
    if (ticks > 0) process.stderr.write(`  ${what}: done after ${seconds()}\n`)
    return result
  } finally {
    clearInterval(timer)
  }
}
