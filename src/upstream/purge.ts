/**
 * How long a source keeps what somebody still needs: from its retention, the age of the file that the slowest cursor stands
 * in, and the rate at which its log grows. Asks only; what to do about it is the caller's. A server removes a file when its
 * last change is older than the retention and the log moves on to a new one, so all of this is "about". Watch looks now and
 * then, and warns once per halving of the time that is left.
 */
import { fileNumber, type Position } from '../change.ts'
import type { Connection, ConnectOptions } from '../mysql/connection.ts'
import { fileSeconds, logFiles } from '../sources/index.ts'

/** Who needs the log from where on. */
export interface Needed {
  readonly client: string
  readonly position: Position
}
export interface Outlook {
  readonly client: string // the slowest
  readonly file: string // the one it needs
  readonly behindFiles: number // files begun after that one
  readonly inMs: number // until it may be removed; negative: any moment
  readonly retentionMs: number
  readonly bytesPerHour: number // at which the log grew since
}

type Ask = Pick<Connection, 'query'>
const variables = [
  'binlog_expire_logs_seconds',
  'expire_logs_days',
  'binlog_expire_logs_auto_purge',
  'max_binlog_size',
]

/**
 * undefined when nothing is removed by age, or nobody's place in this log is known. `began` keeps what was learned about
 * files from one call to the next.
 */
export async function purgeOutlook(
  ask: Ask,
  connect: ConnectOptions,
  needed: readonly Needed[],
  began: Map<string, number> = new Map(),
): Promise<Outlook | undefined> {
  const list = variables.map((name) => `'${name}'`).join(', ')
  const rows = await ask.query<{ Variable_name: string; Value: string }>(
    `SHOW GLOBAL VARIABLES WHERE Variable_name IN (${list})`,
  )
  const value = new Map(rows.map((r) => [r.Variable_name.toLowerCase(), r.Value]))
  const retention =
    Number(value.get('binlog_expire_logs_seconds') ?? 0) ||
    Number(value.get('expire_logs_days') ?? 0) * 86_400
  if (retention === 0 || value.get('binlog_expire_logs_auto_purge') === 'OFF') return undefined
  const files = await logFiles(ask)
  const indexOf = ({ position }: Needed): number => files.findIndex((f) => f.name === position.file)
  const placed = needed
    .filter((n) => indexOf(n) >= 0)
    .sort((a, b) => fileNumber(a.position.file) - fileNumber(b.position.file))
  const slowest = placed[0]
  if (!slowest) return undefined
  const [clock] = await ask.query<{ now: number | string }>('SELECT UNIX_TIMESTAMP() AS now')
  const now = Number(clock?.now)
  const beginning = async (index: number): Promise<number> => {
    const { name } = files[index]!
    let seconds = began.get(name)
    if (seconds === undefined) began.set(name, (seconds = await fileSeconds(connect, name)))
    return seconds
  }
  for (const name of began.keys()) if (!files.some((f) => f.name === name)) began.delete(name)
  const index = indexOf(slowest)
  const isLast = index === files.length - 1
  const since = await beginning(isLast ? index : index + 1)
  const grown = files.slice(isLast ? index : index + 1).reduce((sum, f) => sum + f.bytes, 0)
  const bytesPerSecond = grown / Math.max(1, now - since)
  // the file that is written must be full before its time begins to run
  const left = Number(value.get('max_binlog_size') ?? 2 ** 30) - files[index]!.bytes
  const closed = isLast ? now + Math.max(0, left) / Math.max(1, bytesPerSecond) : since
  return {
    client: slowest.client,
    file: files[index]!.name,
    behindFiles: files.length - 1 - index,
    inMs: Math.round((closed + retention - now) * 1000),
    retentionMs: retention * 1000,
    bytesPerHour: Math.round(bytesPerSecond * 3600),
  }
}

/** Whether half of the retention or more is used up. */
export const isUrgent = ({ inMs, retentionMs, behindFiles }: Outlook): boolean =>
  behindFiles > 0 && inMs < retentionMs / 2

/** "client 1001 needs binlog.000012, which the source removes in about 3 h (7 files behind; the log grows 120 MiB/h)" */
export function describeOutlook({
  client,
  file,
  behindFiles,
  inMs,
  bytesPerHour,
}: Outlook): string {
  const when = inMs <= 0 ? 'at any moment' : `in about ${about(inMs)}`
  const rate = `${(bytesPerHour / 1024 ** 2).toFixed(1)} MiB/h`
  return `${client} needs ${file}, which is purged ${when} (${behindFiles} files behind the end; the log grows ${rate})`
}
/** A time in the unit that fits. */
function about(ms: number): string {
  const minutes = ms / 60_000
  if (minutes < 1) return `${Math.max(1, Math.round(ms / 1000))} s`
  if (minutes < 90) return `${Math.round(minutes)} min`
  const hours = minutes / 60
  return hours < 48 ? `${Math.round(hours)} h` : `${Math.round(hours / 24)} days`
}

// ── while it is read ─────────────────────────────────────────────────────────

const LOOK_MS = 60_000

export interface WatchOptions {
  readonly query: Connection['query']
  readonly connect: () => ConnectOptions
  readonly needed: () => readonly Needed[]
  readonly log: {
    info(fields: object, message: string): void
    warn(fields: object, message: string): void
    debug(fields: object, message: string): void
  }
}

export class Watch {
  /** What the slowest client needs, when last looked at. */
  purge: Outlook | undefined
  readonly #options: WatchOptions
  readonly #began = new Map<string, number>()
  #timer: NodeJS.Timeout | undefined
  #stopped = false
  #looking = false
  #warnBelowMs = Infinity

  constructor(options: WatchOptions) {
    this.#options = options
  }
  /** Looks at once, and from now on. */
  start(): void {
    if (this.#stopped) return
    this.#timer ??= setInterval(() => void this.#look(), LOOK_MS).unref()
    void this.#look()
  }
  stop(): void {
    this.#stopped = true
    clearInterval(this.#timer)
  }

  async #look(): Promise<void> {
    if (this.#looking || this.#stopped) return
    this.#looking = true
    const { query, connect, needed, log } = this.#options
    try {
      this.purge = await purgeOutlook({ query }, connect(), needed(), this.#began)
      if (!this.#stopped) this.#say(this.purge)
    } catch (error) {
      log.debug({ error: String(error) }, 'the source could not be asked what it keeps')
    } finally {
      this.#looking = false
    }
  }
  #say(purge: Outlook | undefined): void {
    const { log } = this.#options
    if (purge && isUrgent(purge)) {
      if (purge.inMs >= this.#warnBelowMs) return
      this.#warnBelowMs = Math.max(0, purge.inMs / 2)
      const { client, file, inMs } = purge
      log.warn({ client, file, purgedInMs: inMs }, `client ${describeOutlook(purge)}`)
    } else if (this.#warnBelowMs < Infinity) {
      this.#warnBelowMs = Infinity
      log.info(
        { client: purge?.client, file: purge?.file },
        'the source keeps what is needed again',
      )
    }
  }
}
