/**
 * The audit log: one JSON line for every action before it is done and one for how it went, in audit.log of dataDir, which only
 * this user can read. An action whose line cannot be written is not done. Two files of bounded size; no secrets, for bodies
 * are not written as they came.
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync, renameSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { SluiceError } from '../errors.ts'

const FILE_BYTES_MAX = 8 * 1024 * 1024

export interface AuditLine {
  readonly time: string // ISO 8601
  readonly id: number // the same in the lines of one action
  readonly phase: 'asked' | 'done' | 'failed' | 'refused'
  readonly account: string // "" where nobody said who he is
  readonly address: string
  readonly action: string // "POST /instances/orders/stop"
  readonly details: string // of what was asked, or what went wrong
}

export class Audit {
  readonly file: string
  #bytes: number
  #nextId = Date.now() // rises over restarts too

  constructor(file: string) {
    this.file = file
    mkdirSync(dirname(file), { recursive: true })
    this.#bytes = statSync(file, { throwIfNoEntry: false })?.size ?? 0
  }
  /** Written when it returns. Throws STATE_UNWRITABLE. */
  write(line: Omit<AuditLine, 'time' | 'id'>, id = this.#nextId++): number {
    const { phase, account, address, action, details } = line
    const whole: AuditLine = {
      time: new Date().toISOString(),
      id,
      phase,
      account,
      address,
      action,
      details,
    }
    const text = `${JSON.stringify(whole)}\n`
    try {
      if (this.#bytes > FILE_BYTES_MAX) {
        renameSync(this.file, `${this.file}.1`)
        this.#bytes = 0
      }
      appendFileSync(this.file, text, { mode: 0o600 })
      this.#bytes += Buffer.byteLength(text)
      return id
    } catch (cause) {
      const message = `${this.file}: the audit log cannot be written: ${(cause as Error).message}`
      throw new SluiceError('STATE_UNWRITABLE', message, { cause })
    }
  }
  /** The newest first. */
  read(limit: number): AuditLine[] {
    const lines: AuditLine[] = []
    for (const file of [this.file, `${this.file}.1`]) {
      if (lines.length >= limit || !existsSync(file)) continue
      const texts = readFileSync(file, 'utf8').split('\n').reverse()
      for (const text of texts) {
        if (lines.length >= limit) break
        const line = parse(text)
        if (line) lines.push(line)
      }
    }
    return lines
  }
}
/** undefined: a line that a crash cut off. */
function parse(text: string): AuditLine | undefined {
  try {
    return text === '' ? undefined : (JSON.parse(text) as AuditLine)
  } catch {
    return undefined
  }
}
