/** What every subject shares: its task comes as JSON in argv, its result goes as one JSON line to stdout. */
export interface Task {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
  readonly database: string
  /** The measured stretch of the binlog. */
  readonly file: string
  readonly from: number
  readonly to: number
  readonly rows: number
  readonly canalPort?: number
}
export interface Measured {
  readonly rows: number
  readonly seconds: number
  readonly cpuSeconds: number
  readonly peakRssMb: number
  readonly endedAtMs?: number // since 1970; of the client of the end-to-end subject
}

export const task = JSON.parse(process.argv[2] ?? '{}') as Task

const startedAt = performance.now()
const cpuAt = process.cpuUsage()

/** Prints the measurement of this process and ends it. */
export function finish(rows: number, extra: object = {}): never {
  const cpu = process.cpuUsage(cpuAt)
  const result = {
    rows,
    seconds: (performance.now() - startedAt) / 1000,
    cpuSeconds: (cpu.user + cpu.system) / 1e6,
    peakRssMb: process.resourceUsage().maxRSS / 1024,
    ...extra,
  }
  process.stdout.write(JSON.stringify(result) + '\n')
  process.exit(0)
}
