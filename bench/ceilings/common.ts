/** What every ceiling shares: its task comes as JSON in argv, the time it took goes as one JSON line to stdout. */
import { createHash } from 'node:crypto'

const task = JSON.parse(process.argv[2] ?? '{}') as { url: string; rows: number; warm: number }
export const { url } = task
/** Of all rows, those that are written before the time is taken and those after. */
export const all = task.warm + task.rows

/** A row of the bench's narrow table. */
export interface Narrow {
  readonly id: number
  readonly n: number
  readonly a: string
  readonly b: string
}
export function narrow(id: number): Narrow {
  const digest = createHash('sha256').update(String(id)).digest('hex')
  const a = digest.slice(0, 32).padEnd(120, 'x')
  const b = digest.slice(0, 40).padEnd(60, 'y')
  return { id, n: (id * 7919) % 1000003, a, b }
}
/** So many prepared payloads are made, and sent again and again. */
export const PREPARED = Math.min(all, 50_000)
export const version = (id: number): string =>
  `0001${'00000002'}${id.toString(16).padStart(12, '0')}${'0'.repeat(16)}`

/** Times `work`, which writes the rows with numbers in [from, to), once it has run for a while; ends the process. */
export async function timed(work: (from: number, to: number) => Promise<void>): Promise<never> {
  await work(0, task.warm)
  const begin = performance.now()
  await work(task.warm, all)
  process.stdout.write(`${JSON.stringify({ seconds: (performance.now() - begin) / 1000 })}\n`)
  process.exit(0)
}
